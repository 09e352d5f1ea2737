"""An executed notebook as one HTML file that needs nothing else: no network, no script, nothing active in it.

nbconvert turns Markdown and code into HTML; everything that came from a notebook is then cleaned against a list of
harmless elements, because outputs hold documents and ids of the source. What is not on the list is dropped, what it
said is kept as text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bleach
import nbformat
from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.filters import Highlight2HTML, markdown2html

from helpers.formatting import count, lines
from helpers.report import inline_svg, picture

_TAGS = frozenset(
    {
        "a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "details", "div", "dl",
        "dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "mark",
        "ol", "p", "pre", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td",
        "tfoot", "th", "thead", "tr", "ul",
    }
)  # fmt: skip
_ACTIVE = ("script", "style", "template", "iframe", "object", "embed", "noscript", "link", "meta", "base", "svg")
_ATTRIBUTES = frozenset({"class", "colspan", "rowspan", "scope", "title", "alt", "open", "start", "width", "height"})
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+")
_LINK = re.compile(r"(https?://|mailto:|#|\./|\.\./|[A-Za-z0-9_-]+[A-Za-z0-9_./-]*($|[?#]))")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_HTML = 2_000_000
_FEW_COLUMNS = 9


def title_of(notebook: Any) -> str:
    """The first level-one heading, or the plain word."""
    for cell in notebook.cells:
        found = re.search(r"^# +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if found:
            return lines(found[1], 200).strip()
    return "Notebook"


def read_notebook(data: bytes) -> Any:
    """The notebook, format 4."""
    return nbformat.reads(data.decode(), as_version=4)  # type: ignore[no-untyped-call]


def cells(notebook: Any, figures: Path) -> Iterator[dict[str, Any]]:
    """Each cell for the template: kind, html (Markdown or highlighted code), number, outputs; empty cells left out.

    `figures` is the folder of the run's figures: a figure that the run saved there is shown as that file, not as the
    notebook's own picture.
    """
    highlight = Highlight2HTML(pygments_lexer="ipython3")  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if not cell.source.strip() and not cell.get("outputs"):
            continue
        if cell.cell_type == "markdown":
            yield {"kind": "markdown", "html": clean(_markdown(cell))}
        elif cell.cell_type == "code":
            code = clean(highlight(lines(cell.source)))
            outputs = [_output(o, figures) for o in cell.get("outputs", [])]
            tags = cell.metadata.get("tags", [])
            yield {"kind": "code", "html": code, "number": cell.execution_count, "outputs": outputs, "tags": tags}
        else:
            yield {"kind": "raw", "html": _text(cell.source)}


def _markdown(cell: Any) -> str:
    html = str(markdown2html(lines(cell.source)))
    for name, content in cell.get("attachments", {}).items():
        for mime, data in content.items():
            html = html.replace(f"attachment:{name}", f"data:{mime};base64,{data}")
    return html


def _output(output: Any, figures: Path) -> dict[str, Any]:
    """One output for the template: kind (text, html, error), html."""
    if output.output_type == "stream":
        return {"kind": output.name, "html": _text(_overwritten(output.text))}
    if output.output_type == "error":
        trace = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
        return {"kind": "error", "html": _text(trace)}
    data = output.data
    if "image/svg+xml" in data:
        alt = str(output.metadata.get("image/svg+xml", {}).get("alt"))
        if drawn := inline_svg(data["image/svg+xml"].encode(), alt, f"svg{len(data['image/svg+xml'])}"):
            return {"kind": "picture", "html": drawn}
    for mime in ("image/png", "image/jpeg", "text/html", "text/markdown"):
        if mime not in data:
            continue
        if mime.startswith("image/"):
            return {"kind": "picture", "html": _picture(mime, data[mime], output.metadata.get(mime, {}), figures)}
        if len(data[mime]) > _LONGEST_HTML:
            note = f"An output of {count(len(data[mime]), 'character')} is not shown here; the notebook file holds it."
            return {"kind": "text", "html": _text(note)}
        html = data[mime] if mime == "text/html" else str(markdown2html(data[mime]))
        return {"kind": "html", "html": clean(html, outside=False)}
    return {"kind": "text", "html": _text(str(data.get("text/plain", f"[{', '.join(sorted(data))}: not shown here]")))}


def _picture(mime: str, data: str, metadata: dict[str, Any], figures: Path) -> Markup:
    saved = figures / Path(str(metadata.get("figure") or "none")).name
    if shown := picture(saved, str(metadata.get("alt"))):
        return shown
    try:
        encoded = base64.b64encode(base64.b64decode(data, validate=False)).decode("ascii")
    except binascii.Error:
        return _text("[a picture that cannot be read]")
    alt = lines(str(metadata.get("alt") or "Figure; its message is its title and the text around it."), 1000)
    return Markup('<img src="data:{};base64,{}" alt="{}">').format(mime, encoded, alt)


def _overwritten(text: str) -> str:
    """A stream as a terminal leaves it: what a progress bar wrote over is gone."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _text(text: str) -> Markup:
    """Plain text, colours of a terminal left out, other control characters shown as escapes."""
    return Markup("<pre>{}</pre>").format(lines(_COLOUR.sub("", text)))


def clean(html: str, *, outside: bool = True) -> Markup:
    """HTML of unknown origin with only harmless elements and attributes left, and no request in it.

    `outside`: links may lead out of the run's folder. What a notebook says may; what a source says may not.
    """
    soup = BeautifulSoup(html, "html.parser")
    for element in soup.find_all(_ACTIVE):
        element.decompose()
    for anchor in soup.select("a.anchor-link"):  # nbconvert's; they lead to ids, which are not kept
        anchor.decompose()
    for desk in soup.select("a.desk"):  # leads to a notebook to work in, of which the run's folder holds no page
        desk.unwrap()
    for link in soup.find_all("a", href=True):
        link["href"] = re.sub(r"^((?!https?:)[^?#]+)\.ipynb(?=$|#)", r"\1.html", str(link["href"]))
    for table in soup.find_all("table"):
        row = table.find("tr")
        if row is not None and len(row.find_all(["th", "td"])) <= _FEW_COLUMNS:  # room for whole words on paper
            table["class"] = " ".join([*filter(None, table.get_attribute_list("class")), "few"])
    for heading in soup.find_all("th", scope=False):
        row = heading.find_parent("thead")
        heading["scope"] = "col" if row else "row"
    shown = lines(soup.decode(formatter="minimal"), _LONGEST_HTML)
    cleaner = bleach.Cleaner(
        tags=_TAGS,
        attributes=_allowed if outside else _allowed_inside,
        protocols=["http", "https", "mailto", "data"],
        strip=True,
        strip_comments=True,
    )
    return Markup(cleaner.clean(shown))  # noqa: S704  # nosec B704  (this is what makes it safe)


def _allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img" and name == "src":
        return bool(_PICTURE.fullmatch(value))
    if tag == "a" and name == "href":
        return bool(_LINK.match(value))
    return name in _ATTRIBUTES


def _allowed_inside(tag: str, name: str, value: str) -> bool:
    return _allowed(tag, name, value) and not (name == "href" and re.match(r"[a-z]+:|//", value, re.IGNORECASE))


__all__ = ["cells", "clean", "read_notebook", "title_of"]
