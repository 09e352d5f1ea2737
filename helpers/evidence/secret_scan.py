"""The search for secrets before a seal: no byte of a run's folder may hold the value of one, in any usual writing."""

from __future__ import annotations

import base64
import bz2
import lzma
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from helpers import errors
from helpers.errors import SHORTEST_SECRET, RunbookError, UsageError, WorldError, one_line, secret_parts
from helpers.parameters import SecretRef
from helpers.reason_codes import ReasonCode

_UNSET = "has no value here"


@dataclass(slots=True)
class Searched:
    """What was searched for: references by what became of them; `found` are (file, reference, writing)."""

    searched: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    found: list[tuple[str, str, str]] = field(default_factory=list)


def search(folder: Path, secrets: Iterable[SecretRef], values: Mapping[str, str] | None = None) -> Searched:
    """Look for the values of these secrets in every byte of every file below the folder, and in the names of the files.

    `values` are others by what they are called: those of the files that the cutover changes. Compressed parts are unpacked, and
    a value that is wrapped over lines, or cut by quotes and commas, is found too.

    A secret whose value is not here now (another shell, another machine) cannot be searched for: it is in `unknown`.
    """
    report = Searched()
    known: dict[str, str] = {}
    needles: dict[bytes, tuple[str, str]] = {}
    for reference in secrets:
        try:
            value = reference.resolve().reveal()
        except RunbookError:
            report.unknown[str(reference)] = _UNSET
            continue
        known[str(reference)] = value
    for name, value in {**known, **(values or {})}.items():
        parts = [part for part in secret_parts(value) if len(part) >= SHORTEST_SECRET]
        if not parts:
            report.unknown[name] = f"is shorter than {SHORTEST_SECRET} characters"
            continue
        report.searched.append(name)
        for part in parts:
            for writing, needle in writings(part):
                needles.setdefault(needle, (name, writing))
    if needles:
        report.found = list(_find(folder, needles))
    return report


def refuse(report: Searched, folder: Path, needed: Collection[str] = ()) -> None:
    """Raises `WorldError` where a secret was found, naming files and references, never a value; and `UsageError` where one of
    the `needed` references has no value here, so that the folder cannot be searched for it.
    """
    if unset := [name for name in needed if report.unknown.get(name) == _UNSET]:
        raise UsageError(
            ReasonCode.SECRET_MISSING, f"{', '.join(unset)} has no value here, so the folder cannot be searched for it",
            where=str(folder), next_step="Give it as the steps had it, and resume.",
        )  # fmt: skip
    if not report.found:
        return
    places = [f"{one_line(name, 200)} holds the value of {ref} ({writing})" for name, ref, writing in report.found[:5]]
    more = f"; {len(report.found) - 5} more" if len(report.found) > 5 else ""
    raise WorldError(
        ReasonCode.SECRET_FOUND, f"{'; '.join(places)}{more}, so the run is not sealed", where=str(folder),
        next_step="Change that secret, take the file out of the folder, and run its step again.",
    )  # fmt: skip


def writings(value: str) -> Iterator[tuple[str, bytes]]:
    """The value as it may stand in a file: (name of the writing, bytes)."""
    for name, text in errors.writings(value):
        yield name, text.encode("utf-8", "surrogatepass")
    yield "UTF-16", value.encode("utf-16-le", "surrogatepass")
    yield "UTF-16", value.encode("utf-16-be", "surrogatepass")


# What may be inside a value that is wrapped or cut; and \\n, \\r, \\t, tags, colours of a terminal, blanks of no width.
_BETWEEN = b" \t\n\r\f\v\"',\\:|>-"
_MARKS = re.compile(rb"<[^<>]{1,200}>|(?:\x1b|\\u001b|\\x1b)\[[0-9;]*m")
_SHORTEST_CUT = 10  # bytes of a value without these: fewer occur by chance
_UNPACKED = 64 * 2**20  # bytes of one compressed part that are looked at


def _find(folder: Path, needles: dict[bytes, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    cut: dict[bytes, tuple[str, str]] = {}
    for needle, (name, writing) in needles.items():
        if len(joined := _joined(needle)) >= _SHORTEST_CUT and writing != "UTF-16":
            cut.setdefault(joined, (name, f"{writing}, in pieces"))
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        texts = [("name of a file", name.encode("utf-8", "surrogateescape"), "")]
        if path.is_file():
            texts += ((name, data, how) for data, how in _readings(path.read_bytes()))
        seen = set()
        for where, data, how in texts:
            found = [what for needle, what in needles.items() if needle in data]  # faster than one expression for all
            if not found and cut:
                joined = _joined(data)
                found = [what for needle, what in cut.items() if needle in joined]
            for reference, writing in found:
                hit = (where, reference, f"{writing}{how}")
                if hit not in seen:
                    seen.add(hit)
                    yield hit


def _joined(data: bytes) -> bytes:
    """Without what may come to stand between pieces. Each seal reads every file of the run: what is rare is asked for first."""
    if b"<" in data or b"[" in data:
        data = _MARKS.sub(b"", data)
    for mark in (b"\\n", b"\\r", b"\\t", b"\xe2\x80\x8b", b"\\u200b", b"&#8203;"):
        data = data.replace(mark, b"  ")
    return data.translate(None, _BETWEEN)


def _readings(data: bytes) -> Iterator[tuple[bytes, str]]:
    """A file's bytes, and what each compressed part of them holds: gzip (also in base64), bzip2, xz, zlib (as in PDF and PNG),
    members of a zip."""
    yield data, ""
    for match in re.finditer(rb"BZh[1-9]1AY&SY|\xfd7zXZ\x00", data):
        opened = bz2.BZ2Decompressor() if match[0].startswith(b"BZh") else lzma.LZMADecompressor()
        with suppress(OSError, lzma.LZMAError, EOFError):
            yield opened.decompress(data[match.start() :], _UNPACKED), ", compressed"
    for match in re.finditer(rb"H4sI(?:[\w+/-]|\\n|\s){20,}={0,2}", data):
        letters = re.sub(rb"\\n|[\s=]", b"", match[0]).translate(bytes.maketrans(b"-_", b"+/"))
        with suppress(zlib.error, ValueError):
            packed = base64.b64decode(letters[: len(letters) // 4 * 4])
            yield zlib.decompressobj(31).decompress(packed, _UNPACKED), ", compressed, base64"
    for match in re.finditer(rb"\x1f\x8b\x08|stream\r?\n(?=[\x08\x58\x68\x78])|zTXt|iTXt|PK\x03\x04", data):
        start, bits = match.start(), 31
        if match[0].startswith(b"stream"):
            start, bits = match.end(), 15
        elif match[0] in (b"zTXt", b"iTXt"):
            start, bits = data.find(b"\x00", match.end()) + 2, 15
        elif match[0].startswith(b"PK"):
            names = int.from_bytes(data[start + 26 : start + 28], "little")
            start, bits = start + 30 + names + int.from_bytes(data[start + 28 : start + 30], "little"), -15
        with suppress(zlib.error):
            yield zlib.decompressobj(bits).decompress(data[start:], _UNPACKED), ", compressed"
