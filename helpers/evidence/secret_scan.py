"""The search for secrets before a seal: no byte of a run's folder may hold the value of one, in any usual writing."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from helpers.errors import SHORTEST_SECRET, RunbookError, WorldError, one_line, secret_parts
from helpers.parameters import SecretRef
from helpers.reason_codes import ReasonCode


@dataclass(slots=True)
class Searched:
    """What was searched for: references by what became of them; `found` are (file, reference, writing)."""

    searched: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    found: list[tuple[str, str, str]] = field(default_factory=list)


def search(folder: Path, secrets: Iterable[SecretRef]) -> Searched:
    """Look for the values of these secrets in every byte of every file below the folder, and in the names of the files.

    A secret whose value is not here now (another shell, another machine) cannot be searched for: it is in `unknown`.
    """
    report = Searched()
    needles: dict[bytes, tuple[str, str]] = {}
    for reference in secrets:
        try:
            value = reference.resolve().reveal()
        except RunbookError:
            report.unknown[str(reference)] = "has no value here"
            continue
        parts = [part for part in secret_parts(value) if len(part) >= SHORTEST_SECRET]
        if not parts:
            report.unknown[str(reference)] = f"is shorter than {SHORTEST_SECRET} characters"
            continue
        report.searched.append(str(reference))
        for part in parts:
            for writing, needle in writings(part):
                needles.setdefault(needle, (str(reference), writing))
    if needles:
        report.found = list(_find(folder, needles))
    return report


def refuse(report: Searched, folder: Path) -> None:
    """Raises `WorldError` where a secret was found: it names files and references, never a value."""
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
    yield "hexadecimal", raw.hex().encode("ascii")
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


def _find(folder: Path, needles: dict[bytes, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    pattern = re.compile(b"|".join(re.escape(n) for n in sorted(needles, key=lambda n: (-len(n), n))))
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        texts = [("name of a file", name.encode("utf-8", "surrogateescape"))]
        if path.is_file():
            texts.append((name, path.read_bytes()))
        seen = set()
        for where, data in texts:
            for match in pattern.finditer(data):
                hit = (where, *needles[match[0]])
                if hit not in seen:
                    seen.add(hit)
                    yield hit
