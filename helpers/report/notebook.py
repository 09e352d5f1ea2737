"""An executed notebook as one HTML file that needs nothing else: no network, no script, nothing active in it.

nbconvert turns Markdown and code into HTML. All of it is then reduced to a list of harmless elements, because outputs hold
documents and ids of the source. Other elements are removed, and their text is kept.
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
    """Return the first level-one heading; "Notebook" without one."""
    for cell in notebook.cells:
        heading = re.search(r"^# +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if heading:
            return lines(heading[1], 200).strip()
    return "Notebook"


def read_notebook(data: bytes) -> Any:
    """Return the notebook, format 4. Raises the errors of nbformat where it is none."""
    return nbformat.reads(data.decode(), as_version=4)  # type: ignore[no-untyped-call]


def cells(notebook: Any, figures: Path) -> Iterator[dict[str, Any]]:
    """Yield each cell for the template: kind, html (Markdown or highlighted code), number, outputs; empty cells are left out.

    `figures`: the folder of the run's figures. A figure saved there is shown from that file, not from the notebook.
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
    """Return one output for the template: kind (text, html, error), html."""
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
    """Return a stream as a terminal shows it: text that a progress bar overwrote is removed."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _text(text: str) -> Markup:
    """Return plain text without terminal colours; other control characters are shown as escapes."""
    return Markup("<pre>{}</pre>").format(lines(_COLOUR.sub("", text)))


def clean(html: str, *, outside: bool = True) -> Markup:
    """Return HTML of unknown origin with only harmless elements and attributes, and no request in it.

    `outside`: links may lead out of the run's folder. Allowed for text of a notebook, not for text of a source.
    """
    soup = BeautifulSoup(html, "html.parser")
    for element in soup.find_all(_ACTIVE):
        element.decompose()
    for anchor in soup.select("a.anchor-link"):  # of nbconvert: they lead to ids, which are removed
        anchor.decompose()
    for interactive in soup.select(
        "a.desk"
    ):  # leads to an interactive notebook, of which the run's folder holds no page
        interactive.unwrap()
    for link in soup.find_all("a", href=True):
        link["href"] = re.sub(r"^((?!https?:)[^?#]+)\.ipynb(?=$|#)", r"\1.html", str(link["href"]))
    for table in soup.find_all("table"):
        row = table.find("tr")
        if row is not None and len(row.find_all(["th", "td"])) <= _FEW_COLUMNS:  # room for whole words on paper
            table["class"] = " ".join([*filter(None, table.get_attribute_list("class")), "few"])
    for heading in soup.find_all("th", scope=False):
        row = heading.find_parent("thead")
        heading["scope"] = "col" if row else "row"
    cleaned = lines(soup.decode(formatter="minimal"), _LONGEST_HTML)
    cleaner = bleach.Cleaner(
        tags=_TAGS,
        attributes=_allowed if outside else _allowed_inside,
        protocols=["http", "https", "mailto", "data"],
        strip=True,
        strip_comments=True,
    )
    return Markup(cleaner.clean(cleaned))  # noqa: S704  # nosec B704  (this is what makes it safe)


def _allowed(tag: str, name: str, value: str) -> bool:
    if tag == "img" and name == "src":
        return bool(_PICTURE.fullmatch(value))
    if tag == "a" and name == "href":
        return bool(_LINK.match(value))
    return name in _ATTRIBUTES


def _allowed_inside(tag: str, name: str, value: str) -> bool:
    return _allowed(tag, name, value) and not (name == "href" and re.match(r"[a-z]+:|//", value, re.IGNORECASE))


__all__ = ["cells", "clean", "read_notebook", "title_of"]
