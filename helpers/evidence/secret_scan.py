"""The search for secrets before a seal: no byte of a run's folder may hold the value of one, in any usual writing."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

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
    raw = value.encode("utf-8")
    yield "plain", raw
    yield "UTF-16", value.encode("utf-16-le")
    yield "UTF-16", value.encode("utf-16-be")
    yield "hexadecimal", raw.hex().encode("ascii")
    yield "hexadecimal", raw.hex().upper().encode("ascii")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for lead in range(3):  # what precedes it shifts the letters; the first and last depend on neighbours
            letters = encode(b"\0" * lead + raw)
            start, end = -(-lead * 8 // 6), (lead + len(raw)) * 8 // 6
            if len(inner := letters[start:end]) >= SHORTEST_SECRET:
                yield "base64", inner
    for text in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield "URL-encoded", text.encode("ascii")
        yield "URL-encoded", re.sub(r"%..", lambda m: m[0].lower(), text).encode("ascii")
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield "JSON-escaped", once.encode("utf-8")
        yield "JSON-escaped", json.dumps(once, ensure_ascii=ascii_only)[1:-1].encode("utf-8")  # in a notebook's output
    yield "HTML-escaped", html.escape(value).encode("utf-8")
    yield "HTML-escaped", json.dumps(html.escape(value), ensure_ascii=False)[1:-1].encode("utf-8")


_BETWEEN = b" \t\n\r\f\v\"',\\:|>-"  # and \\n, \\r, \\t: what may be inside a value that is wrapped or cut
_SHORTEST_CUT = 10  # bytes of a value without these: fewer occur by chance
_UNPACKED = 64 * 2**20  # bytes of one compressed part that are looked at


def _find(folder: Path, needles: dict[bytes, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    cut: dict[bytes, tuple[str, str]] = {}
    for needle, (name, writing) in needles.items():
        if len(joined := _joined(needle)) >= _SHORTEST_CUT and writing != "UTF-16":
            cut.setdefault(joined, (name, f"{writing}, in pieces"))
    whole, pieces = _pattern(needles), _pattern(cut)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        texts = [("name of a file", name.encode("utf-8", "surrogateescape"), "")]
        if path.is_file():
            texts += ((name, data, how) for data, how in _readings(path.read_bytes()))
        seen = set()
        for where, data, how in texts:
            found = [needles[match[0]] for match in whole.finditer(data)]
            if not found and cut:
                found = [cut[match[0]] for match in pieces.finditer(_joined(data))]
            for reference, writing in found:
                hit = (where, reference, f"{writing}{how}")
                if hit not in seen:
                    seen.add(hit)
                    yield hit


def _joined(data: bytes) -> bytes:
    """Without what may come to stand between pieces. Not by a regular expression: each seal reads every file of the run."""
    for two in (b"\\n", b"\\r", b"\\t"):
        data = data.replace(two, b"  ")
    return data.translate(None, _BETWEEN)


def _pattern(needles: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(re.escape(n) for n in sorted(needles, key=lambda n: (-len(n), n))))


def _readings(data: bytes) -> Iterator[tuple[bytes, str]]:
    """A file's bytes, and what each compressed part of them holds: gzip, zlib (as in PDF and PNG), members of a zip."""
    yield data, ""
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
