"""Every edit of a cutover, made in memory: what each file would hold, and the diff; nothing is touched.

In a `.env` file one value is changed and every other byte kept (comments, quotes, `export`, order, CRLF, byte order mark).
python-dotenv says what a file means, before and after; the text between is edited by position, never written anew. A key
that occurs more than once is changed at each place, because programs differ in which of them takes effect.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from helpers.cutover.files import (
    Change,
    ConfigFile,
    decoded,
    edit_compose,
    read_config,
    refusal,
    require_plain,
    sha256,
    unified,
)
from helpers.parameters import Parameters
from helpers.parameters.sections import ComposeFile, EnvFile

_ASSIGNMENT = re.compile(
    r"""(?P<head>\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*=[^\S\r\n]*)
        (?P<value>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\r\n]*)
        (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"(?:^|\s+)\#.*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=?&~\[\]-]+")  # what means the same without quotes to every reader
LOOPBACK = ("localhost", "::1")


def edit_env(content: bytes, keys: Mapping[str, str], path: Path) -> tuple[bytes, list[Change]]:
    """The file with the new values, and what changes. `Terminal` (`config_file`) where that cannot be done safely."""
    require_plain(keys, path)
    mark, text = decoded(content, path)
    bindings = _parsed(text)
    if "".join(b.original.string for b in bindings) != text:
        raise refusal(path, "cannot be taken apart and put together again unchanged")
    _refuse_unclear(bindings, keys, path)
    changes: list[Change] = []
    parts = []
    for binding in bindings:
        if binding.key is None or binding.key not in keys:
            parts.append(binding.original.string)
            continue
        part = _with_value(binding, keys[binding.key], path)
        parts.append(part)
        if part != binding.original.string:
            old, new = binding.original.string, part
            changes.append(Change(binding.original.line + _leading(old), binding.key, old.strip(), new.strip()))
    new_text = "".join(parts)
    _prove(text, new_text, keys, path)
    return (mark + new_text).encode("utf-8"), changes


def _parsed(text: str) -> list[Binding]:
    return list(parse_stream(io.StringIO(text, newline="")))


def _newlines(text: str) -> int:
    return len(re.findall(r"\r\n|\n|\r", text))


def _refuse_unclear(bindings: list[Binding], keys: Mapping[str, str], path: Path) -> None:
    for binding in bindings:
        text = binding.original.string
        line = binding.original.line + _leading(text)
        if binding.error and any(part in text for part in ("'", '"', *keys)):
            raise refusal(path, f"line {line} is not KEY=value, or has a quote that nothing closes")
        if binding.key not in keys:
            continue
        if binding.value is None:
            raise refusal(path, f"line {line} names {binding.key} without a value, which then comes from elsewhere")
        if _newlines(text.strip()) or "\n" in binding.value or "\r" in binding.value:
            raise refusal(path, f"{binding.key} on line {line} has a value of several lines")
    missing = [key for key in keys if not any(b.key == key for b in bindings)]
    if missing:
        raise refusal(
            path, f"does not set {missing[0]}", f"Add the line {missing[0]}=… as it is today, or correct the key."
        )


def _leading(text: str) -> int:
    return _newlines(text[: len(text) - len(text.lstrip())])


def _with_value(binding: Binding, value: str, path: Path) -> str:
    """The binding's own text with another value; quotes stay as they are, and come where the value needs them."""
    original = binding.original.string
    match = _ASSIGNMENT.fullmatch(original)
    assert match is not None  # the parser has found the same
    head, old, tail = match["head"], match["value"], match["tail"]
    quote = old[0] if old[:1] in ("'", '"') else ""
    if not quote:
        kept = _COMMENT.sub("", old).rstrip()
        if old.startswith("#") and binding.value:
            raise refusal(path, f"{binding.key} begins with '#': programs read it as a value or as a comment")
        tail = (" " if old and not kept else "") + old[len(kept) :] + tail
        old = kept
        quote = "" if _BARE.fullmatch(value) else '"'
    if binding.value == value:
        return original
    return f"{head}{quote}{value}{quote}{tail}"


def _prove(old: str, new: str, keys: Mapping[str, str], path: Path) -> None:
    """python-dotenv reads the new text as the old one, but for the keys that are meant; and no other byte differs."""
    before, after = _parsed(old), _parsed(new)
    same = len(before) == len(after) and all(_as_meant(a, b, keys) for a, b in zip(after, before, strict=False))
    if not same:
        raise refusal(path, f"would not mean what it should after the change of {', '.join(keys)}")


def _as_meant(new: Binding, old: Binding, keys: Mapping[str, str]) -> bool:
    if new.key is not None and new.key in keys:
        return old.key == new.key and new.value == keys[new.key]
    return new == old


@dataclass(frozen=True, slots=True)
class Edit:
    """One file with its new content; `changes` is empty where it points to the target already."""

    file: ConfigFile
    new: bytes
    changes: list[Change]

    @property
    def after(self) -> str:
        """SHA-256 of the new content."""
        return sha256(self.new)

    def diff(self) -> str:
        return unified(self.file.path, self.changes)


def edit(named: EnvFile | ComposeFile, values: Mapping[str, str], original: bytes | None = None) -> Edit:
    """The edit of one file with these placeholders; `original` is its content before, where it was changed already."""
    file = read_config(named.path)
    content = file.content if original is None else original
    keys = {key: template.format(**values) for key, template in named.keys.items()}
    if isinstance(named, EnvFile):
        new, changes = edit_env(content, keys, file.path)
    else:
        new, changes = edit_compose(content, keys, file.path, named.services)
    return Edit(file, new, changes)


def all_edits(parameters: Parameters, originals: Mapping[str, bytes] | None = None) -> list[Edit]:
    """The edits of every file, in the order of the parameters. `Terminal` (`config_file`) at the first that cannot be made.

    `originals` are contents before the cutover by real path, for files that it has changed already.
    """
    values, before = parameters.target.template_values(), originals or {}
    found: list[Edit] = []
    for named in parameters.cutover.config_files():
        real = str(read_config(named.path).real)
        twice = next((e.file.path for e in found if str(e.file.real) == real), None)
        if twice is not None:
            raise refusal(Path(named.path), f"is the same file as {twice}", "Put its keys together.")
        found.append(edit(named, values, before.get(real)))
    return found


def diff(edits: Sequence[Edit]) -> str:
    """The unified diff of all files, with the changed lines only."""
    shown = "\n".join(filter(None, (e.diff() for e in edits)))
    same = [str(e.file.path) for e in edits if not e.changes]
    return "\n".join(filter(None, [shown, *(f"{path}: no change, it points to the target already" for path in same)]))


def loopback_in_container(parameters: Parameters) -> str:
    """Why a loopback target in a compose file may be wrong; "" where it is none."""
    host = parameters.target.host
    if not parameters.cutover.compose_files or not (host in LOOPBACK or host.startswith("127.")):
        return ""
    return f"{host} inside a container is the container itself: see that the services reach {parameters.target.address} by it"
