"""Numbers and foreign text as people read them, the same in figures, pages and notebooks."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from helpers.errors import one_line, redacted, secrets_assigned, secrets_of, secrets_within, without_tokens

_KEY = r"(?i)((?:token|key|secret|password|passwd|pwd|auth|sig)[\w.-]*"
_SHORT = re.compile(_KEY + r"""(?:=|\\*["']\s*[:=]\s*\\*["']))[^&\s'"\\]+""")  # what is too short for the finders
_SCHEME = re.compile(r"\b((?i:bearer|basic|digest|token|apikey)\s+)(?=\S*(?:[\d=]|[a-z][A-Z]))[\w.~+/=-]{8,}")
_WORD, _ESCAPED_QUOTE = re.compile(r"""[^\s'"`,;()\[\]{}<>\\]+"""), re.compile(r"""\\+(?=["'])""")
_LOOKED_AT = 4000  # characters of a line: more than is shown, and no more than a finder takes for one value
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def masked(text: str, limit: int = 300) -> str:
    """A line that others wrote (a log, a program, a file) as one safe line of at most `limit` characters, without secrets.

    Hidden is what the finders of `helpers.errors` find: assignments and JSON under the key of a secret, headers, what URLs carry,
    tokens by their look. Of a value without quotes that is all to the end of the line.
    """
    if len(text) > _LOOKED_AT:  # a word that is cut may be a secret whose end tells that
        text = re.sub(r"\S+\Z", "…", text[:_LOOKED_AT])
    text = redacted(text)
    found = {part for word in _WORD.findall(text) for part in secrets_of("", word.strip(".:"))}
    for read in {text, _ESCAPED_QUOTE.sub("", text)}:
        found |= {secret for *_, secret in secrets_assigned(read)} | {*secrets_within(read)}
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, "…")
    return one_line(_SCHEME.sub(r"\1…", _SHORT.sub(r"\1…", without_tokens(text))), limit)


def count(n: float, noun: str = "") -> str:
    """9832, "chunk" → "9,832 chunks"; 2, "query of a client" → "2 queries of a client"."""
    return f"{int(n):,} {noun if int(n) == 1 else plural(noun)}".rstrip()


def unit_of(value: Any, unit: str) -> str:
    """1, "queries" → "query"; other values, and units of several words or of two letters ("ms"), keep theirs."""
    one = isinstance(value, int | float) and value == 1 and " " not in unit
    return re.sub(r"(?<=[a-z]{2})s$", "", re.sub("ies$", "y", unit)) if one else unit


def plural(noun: str) -> str:
    """The plural of an English noun: query, queries; batch, batches; "chunk of others", "chunks of others"."""
    noun, rest = noun.partition(" of ")[0], "".join(noun.partition(" of ")[1:])
    if noun[-1:] == "y" and noun[-2:-1] not in (*"aeiou", ""):
        return f"{noun[:-1]}ies{rest}"
    return (f"{noun}es" if noun.endswith(("ch", "s", "x", "sh")) else f"{noun}s" if noun else "") + rest


def small(value: float) -> str:
    """A measured quantity for people: three digits, powers of ten written out (3.1×10⁻⁷)."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa}×{power}"


def percent(share: float) -> str:
    """A share for people, never rounded up to 100 % nor down to 0 %."""
    if not math.isfinite(share):
        return "–"
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def interval(low: float, high: float) -> str:
    """The bounds of a share for people, each rounded outwards."""
    return f"{percent(math.floor(low * 1000) / 1000)} to {percent(math.ceil(high * 1000) / 1000)}"


def own_chunk(recall: Mapping[str, Any]) -> str:
    """What became of the query's own chunk in the shares of the fact `recall`; runs of an older toolkit counted it."""
    return "own chunk left out" if recall.get("others") else "own chunk counted"


def judged_queries(row: Mapping[str, Any], *, why: bool = True) -> str:
    """Of how many queries, and of how many of their neighbours, a share of the fact `recall` is; and `why` not of the others."""
    asked, every = int(row.get("asked") or row["queries"]), int(row.get("neighbours") or 0)
    said = f"{row['queries']:,} of {count(asked, 'query')}" if asked > row["queries"] else count(asked, "query")
    if every > (judged := int(row.get("judged") or 0)):
        others = "the others are no nearer than the last answer: chunks of other collections take the places before it"
        return f"{said}, {judged:,} of {count(every, 'neighbour')}" + f" ({others})" * why
    return f"{said} (the others had no neighbour to judge)" if asked > row["queries"] else said


def scope(name: str) -> str:
    """Which searches the rows of this scope are about (fact `recall`)."""
    return {"restricted": "each collection", "unrestricted": "merged collections"}.get(name, text(name, 40))


def core_missing(filled: int, derived: int) -> str:
    """The missing values of core fields, which alone step 11 counts, and what they get: the same words there and on the page."""
    return f"{filled + derived:,} missing in core fields: {filled:,} get a default, {derived:,} what the document tells"


def completeness(inputs: Mapping[str, Any]) -> str:
    """Chunks that hold every field (`matrix_inputs`): in the source, in the target without defaults, and with them.

    A default makes complete, and tells nothing: its share is never shown alone.
    """
    checked = int(inputs["checked"])

    def of(key: str) -> str:
        n = inputs.get(key)
        return "not recorded" if n is None else f"{n:,} ({percent(n / checked if checked else 1.0)})"

    return (
        f"every field held, of {count(checked, 'chunk')}: in the source {of('complete_before')}; in the target without defaults "
        f"{of('complete_known')}, with defaults {of('complete')}"
    )


def merged_answers(row: dict[str, Any], k: int) -> str:
    """What a client's k nearest are where collections were merged. `row`: of the fact `recall`; shares 0–1.

    Without a filter (the parts add up to 100 %), and where the client filters by the source collection.
    """
    same, others, filtered = float(row["shared_expected"]), row.get("from_others"), row.get("shared_filtered")
    said = f"of the {k} nearest without a filter, {percent(same)} are as before"
    if others is not None:
        rest = round(1 - round(same, 3) - round(float(others), 3), 3)
        said += f", {percent(others)} of other source collections"
        said += f", {percent(rest)} of the same one, further away" if rest >= 0.0005 else ""
    if filtered is not None:
        said += f"; with a filter by source collection, calculated: {percent(filtered)} are as before"
        said += ", the rest is in other collections"
    return said


def announced_said(announced: Mapping[str, Any]) -> str:
    """The searches sent as the announcement says (fact `recall`, announced): how many, what came back, what could at most."""
    row = announced["pooled"]
    most = "" if row["possible"] == 1 else f"; the target holds {percent(row['possible'])} of them"
    said = f"{percent(row['same'])} of the nearest of before were answered, 95 % interval {percent(row['low'])} to "
    sample = f"a sample: {count(row['queries'], 'query')}, {count(row['sent'], 'search')} sent"
    return f"{said}{percent(row['high'])} (Wilson){most}; {sample}"


def share_range(rows: list[dict[str, Any]]) -> str:
    """`10 % to 95 % by source collection`: the lowest and the highest share of the same results, over all queries of a source
    collection, whatever targets they were asked of; `rows` of `answers`."""
    asked: dict[str, list[float]] = {}
    for row in rows:
        asked.setdefault(row["collection"], []).extend([float(row["shared_expected"])] * row["queries"])
    shares = [percent(sum(each) / len(each)) for each in sorted(asked.values(), key=lambda each: sum(each) / len(each))]
    return f"{shares[0]} to {shares[-1]} by source collection" if shares else "by collection not recorded"


def duration(seconds: float) -> str:
    """Seconds as 0.4 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if not math.isfinite(seconds):
        return "–"
    if 0 < seconds < 0.1:
        return "under 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(n: int) -> str:
    """Bytes as 812 B, 3.4 kB, 1.2 MB, 1.1 TB."""
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def moment(when: Any) -> str:
    """An ISO 8601 time as 2025-12-01 02:15:00 UTC; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(str(when))
    except ValueError:
        return text(when)
    return f"{parsed.astimezone(UTC) if parsed.tzinfo else parsed:%Y-%m-%d %H:%M:%S} UTC"


def text(value: Any, limit: int = 300) -> str:
    """Any value of a result as one line: control characters and bidirectional overrides as escapes, long ones cut.

    What was cut is said with the full length. Numbers get thousands separators, None is a dash.
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e16 else small(value)  # ids of up to 53 bits
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    if len(shown) <= limit:
        return one_line(shown, limit)
    return f"{one_line(shown, limit).removesuffix('…')}… ({count(len(shown), 'character')} in all)"


def lines(value: str, limit: int = 100_000) -> str:
    """As `text` for a text of several lines: line breaks and tabs stay."""
    value = redacted(value)  # before it is cut: the beginning of a secret is one, too
    shown = "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in value[:limit]
    )
    return shown if len(value) <= limit else f"{shown}… ({count(len(value), 'character')} in all)"


def flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists are values."""
    if not isinstance(document, dict):
        return {prefix: document}
    rows: dict[str, Any] = {}
    for key, value in document.items():
        rows |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return rows


def dotted(parts: Sequence[str | int]) -> str:
    """`("queries", 0, "text")` as `queries[0].text`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(Key with dots, value) of everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield key, value
    for name, below in inner or ():
        yield from leaves(below, dotted([key, name] if key else [name]))


_FORMULA = tuple("=+-@＝＋－＠|%\t\n")
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """With escapes as JSON has them for what a terminal obeys or nobody sees; tabs and ends of lines stay."""
    return _UNSEEN.sub(lambda found: json.dumps(found[0], ensure_ascii=True)[1:-1], text)


def bare(stream: Any) -> Any:
    """The stream as a progress bar needs it: what moves the cursor is not escaped, so no foreign text may go there."""
    return getattr(stream, "bare", stream)


def harmless(value: Any) -> str:
    """A cell that is text and nothing else, as `visible`: what would begin a formula begins with an apostrophe, as spreadsheets
    write it."""
    text = "" if value is None else visible(str(value).replace("\x00", ""))
    return f"'{text}" if text.lstrip(" \u00a0").startswith(_FORMULA) or text.startswith("'") else text


class Digested:
    """A file that is written to, and the SHA-256 of what was given to it: what lies there afterwards may be another's."""

    closed = False  # as pyarrow asks

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._sha256 = raw, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


Wrote = Callable[[Path, str], object]  # takes a file that is there as a whole, and the digest of what was written


def untold(_path: Path, _digest: str) -> None:
    """For whoever names no file."""


def packed(raw: Digested) -> gzip.GzipFile:
    """What is written is packed; the same bytes give the same file, whatever the name of a temporary one."""
    return gzip.GzipFile("", "wb", mtime=0, fileobj=raw)


@contextmanager
def packed_rows(raw: Digested) -> Iterator[Callable[[Iterable[Any]], Any]]:
    """Takes rows of a CSV file, one at a time, and packs them; the same rows give the same bytes, wherever they are written."""
    with (
        packed(raw) as file_of_bytes,
        io.TextIOWrapper(cast(IO[bytes], file_of_bytes), "utf-8", "backslashreplace", newline="") as file,
    ):
        yield csv.writer(file, lineterminator="\n").writerow


csv.field_size_limit(2**31 - 1)  # documents are longer than 128 kB; what is read is bounded by `packed_lines`


def packed_lines(path: Path, most: int = 2**31) -> Iterator[bytes]:
    """The lines of a gzip file. ValueError where one has more than `most` bytes; else what gzip raises of a damaged one."""
    with gzip.open(path) as file:
        while line := file.readline(most + 1):
            if len(line) > most:
                raise ValueError(f"a line is longer than {size(most)}")
            yield line


def unpacked_rows(path: Path, columns: Collection[str], most: int = 2**31) -> Iterator[dict[str, str]]:
    """The rows that `packed_rows` wrote, without the apostrophe that keeps a spreadsheet from reading a formula.

    ValueError where a row has more than `most` bytes, other columns than its head, or the head lacks one of `columns`; else
    what gzip and csv raise of a damaged file.
    """
    taken = 0

    def given() -> Iterator[str]:
        nonlocal taken
        for line in packed_lines(path, most):
            taken += len(line)
            if taken > most:
                raise ValueError(f"a row is longer than {size(most)}")
            yield line.decode("utf-8")

    rows = csv.reader(given())
    names = next(rows, [])
    if missing := sorted({*columns} - {*names}):
        raise ValueError(f"it has no column {missing[0]}")
    for row in rows:
        taken = 0
        yield {name: value.removeprefix("'") for name, value in zip(names, row, strict=True)}


def numbered(number: int, name: str) -> str:
    """A name for the folder or the file of a collection, whatever the collection is called."""
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}"
