"""Format numbers and foreign text for people, the same in figures, pages and notebooks; read and write packed rows."""

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
_SHORT = re.compile(
    _KEY + r"""(?:=|\\*["']\s*[:=]\s*\\*["']))[^&\s'"\\]+"""
)  # values that are too short for the finders
_SCHEME = re.compile(r"\b((?i:bearer|basic|digest|token|apikey)\s+)(?=\S*(?:[\d=]|[a-z][A-Z]))[\w.~+/=-]{8,}")
_WORD, _ESCAPED_QUOTE = re.compile(r"""[^\s'"`,;()\[\]{}<>\\]+"""), re.compile(r"""\\+(?=["'])""")
_LOOKED_AT = (
    4000  # characters of a line that are searched: more than is shown, and at most what a finder takes for one value
)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def masked(text: str, limit: int = 300) -> str:
    """A foreign line (of a log, a program, a file) as one safe line of at most `limit` characters, without secrets.

    Hides what the finders of `helpers.errors` find: values under the key of a secret, headers, secrets in URLs, tokens by
    their form. A value without quotes is hidden up to the end of the line.
    """
    if len(text) > _LOOKED_AT:  # the last word is cut, and could no longer be recognised as a secret
        text = re.sub(r"\S+\Z", "…", text[:_LOOKED_AT])
    text = redacted(text)
    secrets = {part for word in _WORD.findall(text) for part in secrets_of("", word.strip(".:"))}
    for unquoted in {text, _ESCAPED_QUOTE.sub("", text)}:
        secrets |= {secret for *_, secret in secrets_assigned(unquoted)} | {*secrets_within(unquoted)}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return one_line(_SCHEME.sub(r"\1…", _SHORT.sub(r"\1…", without_tokens(text))), limit)


def count(n: float, noun: str = "") -> str:
    """9832, "chunk" → "9,832 chunks"; 2, "query of a client" → "2 queries of a client"."""
    return f"{int(n):,} {noun if int(n) == 1 else plural(noun)}".rstrip()


def unit_of(value: Any, unit: str) -> str:
    """1, "queries" → "query"; units of other values, of several words, or of two letters ("ms") stay as they are."""
    one = isinstance(value, int | float) and value == 1 and " " not in unit
    return re.sub(r"(?<=[a-z]{2})s$", "", re.sub("ies$", "y", unit)) if one else unit


def plural(noun: str) -> str:
    """The plural of an English noun: query, queries; batch, batches; "chunk of others", "chunks of others"."""
    noun, rest = noun.partition(" of ")[0], "".join(noun.partition(" of ")[1:])
    if noun[-1:] == "y" and noun[-2:-1] not in (*"aeiou", ""):
        return f"{noun[:-1]}ies{rest}"
    return (f"{noun}es" if noun.endswith(("ch", "s", "x", "sh")) else f"{noun}s" if noun else "") + rest


def small(value: float) -> str:
    """A number with three digits, as a power of ten if it is very small or large (3.1×10⁻⁷)."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa}×{power}"


def percent(share: float) -> str:
    """A share (0–1) in percent, never rounded up to 100 % nor down to 0 %."""
    if not math.isfinite(share):
        return "–"
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def interval(low: float, high: float) -> str:
    """The bounds of a share (0–1) in percent, each rounded outwards."""
    return f"{percent(math.floor(low * 1000) / 1000)} to {percent(math.ceil(high * 1000) / 1000)}"


def own_chunk(recall: Mapping[str, Any]) -> str:
    """Whether the shares of the fact `recall` count the query's own chunk; runs of older toolkits counted it."""
    return "own chunk left out" if recall.get("others") else "own chunk counted"


def judged_queries(row: Mapping[str, Any], *, with_reason: bool = True) -> str:
    """The numbers of queries and neighbours behind a share of the fact `recall`; `with_reason`: why others are left out."""
    sent, neighbours = int(row.get("asked") or row["queries"]), int(row.get("neighbours") or 0)
    queries = f"{row['queries']:,} of {count(sent, 'query')}" if sent > row["queries"] else count(sent, "query")
    if neighbours > (judged := int(row.get("judged") or 0)):
        others = "the others are no nearer than the last answer: chunks of other collections take the places before it"
        return f"{queries}, {judged:,} of {count(neighbours, 'neighbour')}" + f" ({others})" * with_reason
    return f"{queries} (the others had no neighbour to judge)" if sent > row["queries"] else queries


def scope(name: str) -> str:
    """The searches that a scope of the fact `recall` covers, in words."""
    return {"restricted": "each collection", "unrestricted": "merged collections"}.get(name, text(name, 40))


def core_missing(filled: int, derived: int) -> str:
    """How the missing values of core fields are filled, in words, for step 11 (which counts only these) and the page."""
    return f"{filled + derived:,} missing in core fields: {filled:,} get a default, {derived:,} what the document tells"


def completeness(inputs: Mapping[str, Any]) -> str:
    """Shares of chunks that hold every field (`matrix_inputs`): in the source, in the target without and with defaults.

    A default adds no information, so its share is never shown alone.
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
    """The origin of a client's k nearest chunks after collections were merged. `row`: of the fact `recall`; shares 0–1.

    Gives the shares without a filter (they add up to 100 %), and with a filter by the source collection.
    """
    same, others, filtered = float(row["shared_expected"]), row.get("from_others"), row.get("shared_filtered")
    text = f"of the {k} nearest without a filter, {percent(same)} are as before"
    if others is not None:
        rest = round(1 - round(same, 3) - round(float(others), 3), 3)
        text += f", {percent(others)} of other source collections"
        text += f", {percent(rest)} of the same one, further away" if rest >= 0.0005 else ""
    if filtered is not None:
        text += f"; with a filter by source collection, calculated: {percent(filtered)} are as before"
        text += ", the rest is in other collections"
    return text


def announced_in_words(announced: Mapping[str, Any]) -> str:
    """The outcome of the searches that were sent as announced (fact `recall`, announced): share, interval, maximum, sample."""
    row = announced["pooled"]
    most = "" if row["possible"] == 1 else f"; the target holds {percent(row['possible'])} of them"
    share = f"{percent(row['same'])} of the nearest of before were answered, 95 % interval {percent(row['low'])} to "
    sample = f"a sample: {count(row['queries'], 'query')}, {count(row['sent'], 'search')} sent"
    return f"{share}{percent(row['high'])} (Wilson){most}; {sample}"


def share_range(rows: list[dict[str, Any]]) -> str:
    """`10 % to 95 % by source collection`: the lowest and highest share of same results over all queries of a source
    collection, in all of its targets. `rows`: of `answers`."""
    shares_of: dict[str, list[float]] = {}
    for row in rows:
        shares_of.setdefault(row["collection"], []).extend([float(row["shared_expected"])] * row["queries"])
    means = sorted(sum(shares) / len(shares) for shares in shares_of.values())
    bounds = f"{percent(means[0])} to {percent(means[-1])}" if means else ""
    return f"{bounds} by source collection" if bounds else "by collection not recorded"


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
    """Any value of a result as one line; control characters and bidirectional overrides are escaped.

    A longer text is cut and followed by its full length. Numbers get thousands separators; None is a dash.
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
    value = redacted(value)  # before the text is cut: the beginning of a secret must not be shown either
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
    """Escape control and invisible characters as JSON does; keep tabs and line ends."""
    return _UNSEEN.sub(lambda match: json.dumps(match[0], ensure_ascii=True)[1:-1], text)


def bare(stream: Any) -> Any:
    """The stream without escaping, for a progress bar, which moves the cursor. Write no foreign text to it."""
    return getattr(stream, "bare", stream)


def harmless(value: Any) -> str:
    """A cell that a spreadsheet reads as text: `visible`, with an apostrophe before what would begin a formula."""
    text = "" if value is None else visible(str(value).replace("\x00", ""))
    return f"'{text}" if text.lstrip(" \u00a0").startswith(_FORMULA) or text.startswith("'") else text


class Digested:
    """A binary file that computes the SHA-256 of the bytes written. Reading the file afterwards could give another's bytes."""

    closed = False  # pyarrow needs it

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


Wrote = Callable[[Path, str], object]  # called with a complete file and the digest of the bytes written


def no_record(_path: Path, _digest: str) -> None:
    """A `Wrote` that does nothing."""


def packed(raw: Digested) -> gzip.GzipFile:
    """A gzip file to write to. The same bytes give the same file: it holds no name and no time."""
    return gzip.GzipFile("", "wb", mtime=0, fileobj=raw)


@contextmanager
def packed_rows(raw: Digested) -> Iterator[Callable[[Iterable[Any]], Any]]:
    """Context manager: give a function that writes one row to a gzipped CSV file. The same rows give the same bytes."""
    with (
        packed(raw) as file_of_bytes,
        io.TextIOWrapper(cast(IO[bytes], file_of_bytes), "utf-8", "backslashreplace", newline="") as file,
    ):
        yield csv.writer(file, lineterminator="\n").writerow


csv.field_size_limit(2**31 - 1)  # documents may be longer than 128 kB; `packed_lines` limits what is read


def packed_lines(path: Path, most: int = 2**31) -> Iterator[bytes]:
    """Yield the lines of a gzip file. ValueError if one has more than `most` bytes; for a damaged file, the errors of gzip."""
    with gzip.open(path) as file:
        while line := file.readline(most + 1):
            if len(line) > most:
                raise ValueError(f"a line is longer than {size(most)}")
            yield line


def unpacked_rows(path: Path, columns: Collection[str], most: int = 2**31) -> Iterator[dict[str, str]]:
    """Yield the rows that `packed_rows` wrote, without the apostrophes of `harmless`.

    ValueError if a row has more than `most` bytes or other columns than the header, or if the header lacks one of
    `columns`; for a damaged file, the errors of gzip and csv.
    """
    read = 0

    def text_lines() -> Iterator[str]:
        nonlocal read
        for line in packed_lines(path, most):
            read += len(line)
            if read > most:
                raise ValueError(f"a row is longer than {size(most)}")
            yield line.decode("utf-8")

    rows = csv.reader(text_lines())
    names = next(rows, [])
    if missing := sorted({*columns} - {*names}):
        raise ValueError(f"it has no column {missing[0]}")
    for row in rows:
        read = 0
        yield {name: value.removeprefix("'") for name, value in zip(names, row, strict=True)}


def numbered(number: int, name: str) -> str:
    """A safe name for the folder or file of a collection with any name."""
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}"
