"""What a current Chroma can hold of a chunk, and the reasons why a chunk goes to quarantine.

Measured with chromadb 1.5.9, embedded and over HTTP (tests/test_schema_hazards.py repeats it):

- refused with the whole batch: keys that are empty or begin with `#` or `$`; None; `{}`; dicts, tuples, numpy scalars;
  empty, mixed or nested lists; a lone surrogate in any text; an empty id; NaN or infinity in a vector
- accepted and then dropped or changed: keys `chroma:*` (gone), integers beyond 64 bits (become floats), a NaN or
  infinite float (the embedded client loses the key, a server refuses the batch)
- accepted and then fatal: a list with NaN. The embedded collection cannot even be counted any more
- cosine: squares are summed in float32, so a norm above 1.8e19 reads back as NaN, and a small one as zero: 1e-23
  always, 1e-22 where it is spread over 384 components. Near it distances are wrong (1e-21: -0.06 instead of 0; good
  to 1e-4 from 1e-20 on), and such a chunk ranks first everywhere. A zero vector stays zero.
- a SparseVector is valid metadata, yet a local server and the embedded client refuse it ("not supported for local
  chroma"): this depends on the target, so the write decides
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
import math
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch, Mask, Metadata, is_sparse
from helpers.errors import short
from helpers.formatting import count
from helpers.reason_codes import ReasonCode

if TYPE_CHECKING:
    import pandera.pandas as pa

FAILURE_COLUMNS = ("collection", "id", "reason", "detail")
Fault = tuple[int, ReasonCode, str]  # position in the batch, reason, detail
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TINIEST_COSINE_NORM, LARGEST_COSINE_NORM = 1e-20, 1e19


def failure_table(rows: list[tuple[str, str, ReasonCode, str]]) -> pd.DataFrame:
    """Rows of (collection, id, reason, detail) as a table with these columns of text, also where there are none."""
    texts = [(collection, chunk, str(reason), detail) for collection, chunk, reason, detail in rows]
    return pd.DataFrame(texts, columns=list(FAILURE_COLUMNS), dtype=object)


def show(value: object) -> str:
    """A value as short printable text: `'high'`, `1.5`, `[1, 2]`."""
    return short(value, 80)


LONGEST_IN_FULL = 4_000  # characters of a value in the list of changed values, which thus stays small


def in_full(value: object) -> str:
    """As `show`, but whole; beyond `LONGEST_IN_FULL` characters only the beginning, with length and SHA-256 of the whole."""
    shown = short(value, LONGEST_IN_FULL)
    if not shown.endswith("…"):
        return shown
    text = value if isinstance(value, str) else repr(value)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown} ({count(len(text), 'character')}, SHA-256 of their UTF-8 {digest})"


def unicode_problem(text: str) -> str:
    """Why a text cannot be sent to Chroma, or ""."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "holds a lone surrogate"
    return ""


@lru_cache(maxsize=4096)
def _text_key_problem(key: str) -> str:
    if not key:
        return "the key is empty"
    if key[0] in "#$":
        return f"the key begins with {key[0]}"
    if key.startswith("chroma:"):
        return "the key begins with chroma: and would be dropped"
    problem = unicode_problem(key)
    return f"the key {problem}" if problem else ""


def key_problem(key: object) -> str:
    """Why Chroma would refuse or drop a metadata key, or ""."""
    return _text_key_problem(key) if isinstance(key, str) else f"the key is {type(key).__name__}, not text"


def value_problem(value: object) -> str:
    """Why Chroma would refuse, drop or change a metadata value, or "". Numpy scalars are a problem: see `plain`."""
    if type(value) is list:
        return _list_problem(value)
    if is_sparse(value):
        return _sparse_problem(value)
    return _scalar_problem(value)


def _scalar_problem(value: object) -> str:
    kind = type(value)
    if kind is str:
        problem = unicode_problem(str(value))
        return f"the text {problem}" if problem else ""
    if kind is bool:
        return ""
    if isinstance(value, int) and kind is int:
        return "" if INT64_MIN <= value <= INT64_MAX else "the integer needs more than 64 bits and would become a float"
    if isinstance(value, float) and kind is float:
        return "" if math.isfinite(value) else f"the float is {value}"
    return "the value is None" if value is None else f"the value is a {kind.__name__}"


def _list_problem(values: list[Any]) -> str:
    if not values:
        return "the list is empty"
    if len({type(v) for v in values}) > 1:
        return "the list mixes types"
    return next((f"in the list {problem}" for problem in map(_scalar_problem, values) if problem), "")


def _sparse_problem(vector: Any) -> str:
    if not all(math.isfinite(v) for v in vector.values):
        return "the sparse vector holds NaN or infinity"
    if any(not 0 <= i < 2**32 for i in vector.indices):
        return "the sparse vector has an index beyond 32 bits"
    return ""


def metadata_problems(metadata: Metadata | None) -> list[str]:
    """Every reason why Chroma would refuse, drop or change a part of this metadata; [] where it arrives unchanged."""
    if metadata is None:
        return []
    if not metadata:
        return ["the metadata is empty"]
    problems = ((key, key_problem(key) or value_problem(value)) for key, value in metadata.items())
    return [f"{show(key)}: {problem}" for key, problem in problems if problem]


def plain(metadata: Metadata) -> Metadata:
    """The same metadata with Python's own types instead of numpy scalars, arrays and subclasses of text or numbers.

    Gives the dictionary itself, not a copy, where nothing is to be changed.
    """
    values = [x for v in metadata.values() for x in ([v, *v] if type(v) is list else [v])]
    if all(type(k) is str for k in metadata) and all(type(v) in _PLAIN for v in values):
        return metadata
    return {str.__str__(k) if isinstance(k, str) else k: _plain(v) for k, v in metadata.items()}


_PLAIN = frozenset({str, int, float, bool, list, type(None)})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is list:
        return [_plain(v) for v in value]
    for kind in (str, int, float):  # an enumeration of text or numbers; bool cannot have subclasses
        if isinstance(value, kind) and type(value) not in _PLAIN:
            return str.__str__(value) if kind is str else kind(value)
    return value


def hazards(ids: list[str], batch: ChunkBatch) -> Iterator[Fault]:
    """(position, reason, detail) for everything that Chroma would refuse, drop or change in ids, texts and metadata.

    `ids` are the ids of the source: an empty one is reported even where it got a prefix.
    """
    for i, source_id in enumerate(ids):
        if not source_id:
            yield i, ReasonCode.EMPTY_ID, "the id is empty"
        for name, text in (("id", source_id), ("document", batch.documents[i]), ("uri", batch.uris[i])):
            problem = unicode_problem(text) if text else ""
            if problem:
                yield i, ReasonCode.UNSUPPORTED_TEXT, f"the {name} {problem}"
        for problem in metadata_problems(batch.metadatas[i]):
            yield i, ReasonCode.UNSUPPORTED_METADATA, problem


def vector_failures(
    batch: ChunkBatch, dimension: int | None, allowed_dimensions: Collection[int], space: str, requires_document: bool, *,
    collection: str = "",
) -> pd.DataFrame:  # fmt: skip
    """Faults of each chunk's id, vector and document: one row (collection, id, reason, detail) per reason.

    `dimension` is the collection's own (None: not known); `allowed_dimensions` are the parameters' (empty: any). Norms
    are judged for `space` "cosine" only. A document of "" is present; None is missing.
    """
    rows = [(i, ReasonCode.MISSING_EMBEDDING, "no vector could be read") for i in _positions(_lost(batch))]
    rows += _dimension_rows(batch, dimension, allowed_dimensions)
    rows += _number_rows(batch, space)
    rows += [(i, ReasonCode.EMPTY_ID, "the id is empty") for i, chunk_id in enumerate(batch.ids) if not chunk_id]
    if requires_document:
        without = [i for i, text in enumerate(batch.documents) if text is None]
        rows += [(i, ReasonCode.MISSING_DOCUMENT, "no document") for i in without]
    return failure_table([(collection, batch.ids[i], reason, detail) for i, reason, detail in sorted(rows)])


def _lost(batch: ChunkBatch) -> Mask:
    return np.ones(len(batch), dtype=bool) if batch.dimension == 0 else batch.lost


def _positions(mask: Mask) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask)]


def _dimension_rows(batch: ChunkBatch, dimension: int | None, allowed: Collection[int]) -> list[Fault]:
    actual = batch.dimension
    if dimension is not None and actual != dimension:
        detail = f"{actual} components, the collection has {dimension}"
    elif allowed and actual not in allowed:
        detail = f"{actual} components, allowed are {', '.join(map(str, sorted(allowed)))}"
    else:
        return []
    return [(i, ReasonCode.WRONG_DIMENSION, detail) for i in _positions(~_lost(batch))]


def _number_rows(batch: ChunkBatch, space: str) -> list[Fault]:
    vectors, present = batch.embeddings, ~_lost(batch)
    finite = np.isfinite(vectors).all(axis=1)
    rows: list[Fault] = []
    for i in _positions(present & ~finite):
        nans, infinite = int(np.isnan(vectors[i]).sum()), int(np.isinf(vectors[i]).sum())
        if nans:
            rows.append((i, ReasonCode.NAN_EMBEDDING, f"{nans} of {batch.dimension} components are NaN"))
        if infinite:
            rows.append((i, ReasonCode.INFINITE_EMBEDDING, f"{infinite} of {batch.dimension} components are infinite"))
    if space == "cosine":
        # Squares of float32 overflow float32, never float64; einsum does not copy the vectors as astype would.
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        odd = present & finite & (norms > 0) & ((norms < TINIEST_COSINE_NORM) | (norms > LARGEST_COSINE_NORM))
        rows += [(i, ReasonCode.TINY_NORM, f"norm {norms[i]:.3g}") for i in _positions(odd)]
    return rows


# -- values of metadata fields: types, what can be converted without loss, templates of defaults -----------------------

FieldType = Literal["string", "integer", "float", "boolean", "strings"]
PLACEHOLDERS = ("source_collection", "routing", "id", "uri_id", "date", "word_count")

PYTHON_TYPES: dict[str, type] = {"string": str, "integer": int, "float": float, "boolean": bool, "strings": list}

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


class Absent:
    """No value: marks a missing key (None would be a value)."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


def real_match(regex: re.Pattern[str], text: str) -> bool:
    """Whether the whole text matches; a group named `date` must hold a valid date, YYYY-MM-DD."""
    match = regex.fullmatch(text)
    day = match.groupdict().get("date") if match else None
    try:
        return match is not None and (day is None or dt.date.fromisoformat(day).isoformat() == day)
    except ValueError:
        return False


def as_number(value: Any) -> int | float | None:
    """A finite number that the value is or spells ("3", "0.5"), or None. A boolean is no number."""
    if type(value) is str and len(value) <= 90:
        if _WHOLE.fullmatch(value):
            return int(value)
        return as_number(float(value)) if _DECIMAL.fullmatch(value) else None
    if type(value) is int:
        return value
    return value if type(value) is float and math.isfinite(value) else None


def coerce(value: Any, kind: FieldType) -> Any:
    """The value in the type of a field, or ABSENT where information would be lost.

    "3" and 3.0 are the integer 3; 1 is the float 1.0 and the string "1"; "true" and 1 are True, but True is no number;
    a text is a list of one text, or the list that it spells as JSON.
    """
    if kind == "boolean":
        return _as_boolean(value)
    if kind == "string":
        return _as_string(value)
    if kind == "strings":
        return _as_strings(value)
    number = as_number(value)
    if number is None:
        return ABSENT
    if kind == "integer":
        whole = int(number)
        return whole if whole == number and INT64_MIN <= whole <= INT64_MAX else ABSENT
    if isinstance(number, int) and abs(number) > 2**53:
        return ABSENT
    return float(number)


def _as_boolean(value: Any) -> Any:
    if type(value) is bool:
        return value
    if type(value) is int and value in (0, 1):
        return bool(value)
    return {"true": True, "false": False}.get(value.lower(), ABSENT) if type(value) is str else ABSENT


def _as_string(value: Any) -> Any:
    if type(value) is str:
        return value
    return repr(value) if type(value) in (int, float) and as_number(value) is not None else ABSENT


def _as_strings(value: Any) -> Any:
    if type(value) is str:
        spelled = listed(value)
        value = [value] if spelled is None else spelled
    if type(value) is not list or not value:
        return ABSENT
    texts = [_as_string(v) for v in value]
    return ABSENT if ABSENT in texts else texts


def listed(text: str) -> list[Any] | None:
    """The list that a text spells as JSON, or None."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and value else None


def placeholders(template: str) -> list[str]:
    """The placeholders of a template. `ValueError` where it names one that does not exist."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is not a template: {error}; write {{{{ for a brace") from error
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, spec, conversion in parts:
        if name is not None and (name not in PLACEHOLDERS or spec or conversion):
            near = difflib.get_close_matches(name, PLACEHOLDERS, 1)
            hint = f"; did you mean {{{near[0]}}}?" if near else f"; known: {', '.join(PLACEHOLDERS)}"
            raise ValueError(f"{{{name}}} is not a placeholder{hint}")
    return names


# -- check: metadata against a schema, as columns of values under a pandera DataFrameSchema ----------------------------
#
# The transformation settles values one by one in Python. This code checks whole columns with pandas and shares none of that
# code, so it can detect its mistakes.

Column = pd.Series
_lock = threading.Lock()  # pandera sets the name and state of its schema objects while it validates


class _Rule(Protocol):
    """What is used here of `file.FieldRule`."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> FieldType: ...
    @property
    def fixed(self) -> str | None: ...
    @property
    def optional(self) -> bool: ...
    @property
    def not_empty(self) -> bool: ...
    @property
    def allowed(self) -> Sequence[str]: ...
    @property
    def pattern(self) -> str | None: ...
    @property
    def minimum(self) -> float | None: ...
    @property
    def maximum(self) -> float | None: ...


class FieldChecks:
    """The checks of the fields of one collection type (None: a schema without types), compiled once."""

    def __init__(self, rules: Sequence[_Rule], kind: str | None) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._origins = [rule.name for rule in rules if rule.fixed == "{source_collection}"]
        columns = {rule.name: _column(rule, kind) for rule in rules}
        self._schema: pa.DataFrameSchema | None = None
        if columns:
            import pandera.pandas as pa

            self._schema = pa.DataFrameSchema(columns)

    def faults(self, metadatas: Sequence[Metadata | None], source_collections: Collection[str] | None) -> list[Fault]:
        """(position, reason, detail) of every fault, in order of position."""
        if self._schema is None or not metadatas:
            return []
        columns = {name: [(m or {}).get(name) for m in metadatas] for name in self._rules}
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
        failures = self._failure_cases(frame)
        if source_collections is not None:
            for name in self._origins:
                foreign = frame[name].notna() & ~frame[name].isin(list(source_collections))
                failures |= {(int(i), ReasonCode.INVALID.of(name)) for i in frame.index[foreign]}
        ordered = [(i, reason, *reason.partition("_")[::2]) for i, reason in sorted(failures)]
        return [
            (i, reason, "the field is missing" if kind == "missing" else show(columns[name][i]))
            for i, reason, kind, name in ordered
        ]

    def _failure_cases(self, frame: pd.DataFrame) -> set[tuple[int, ReasonCode]]:
        import pandera.pandas as pa

        assert self._schema is not None
        try:
            with _lock:
                self._schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as errors:
            cases = errors.failure_cases
            return {(int(i), ReasonCode(reason)) for i, reason in zip(cases["index"], cases["check"], strict=True)}
        return set()


def _column(rule: _Rule, kind: str | None) -> pa.Column:
    """Nullable for pandera, whose null includes NaN: a missing value is a check of our own."""
    import pandera.pandas as pa

    checks = [pa.Check(partial(_valid, rule, kind), error=ReasonCode.INVALID.of(rule.name), ignore_na=False)]
    if not rule.optional:
        checks.append(pa.Check(_present, error=ReasonCode.MISSING.of(rule.name), ignore_na=False))
    return pa.Column(object, checks, nullable=True)


def _present(column: Column) -> Column:
    return column.map(lambda value: value is not None).astype(bool)


def _valid(rule: _Rule, kind: str | None, column: Column) -> Column:
    """Per value: absent (a matter of another check), or of the field's type and within its rules."""
    absent = ~_present(column)
    typed = column.map(_IS_TYPE[rule.type]).astype(bool)
    values = column[typed]
    valid = pd.Series(True, index=values.index)
    if rule.not_empty:
        valid &= values.str.strip().str.len() > 0
    if rule.allowed:
        valid &= values.isin(rule.allowed)
    if rule.pattern is not None:
        valid &= _matches(values, rule.pattern)
    if rule.fixed == "{routing}":
        valid &= values == kind
    if rule.minimum is not None:
        valid &= values >= rule.minimum
    if rule.maximum is not None:
        valid &= values <= rule.maximum
    return absent | valid.astype(bool).reindex(column.index, fill_value=False)


def _matches(values: Column, pattern: str) -> Column:
    """Whole matches; a group named `date` must hold a valid date, YYYY-MM-DD."""
    regex = re.compile(pattern)
    matches = values.map(regex.fullmatch)
    valid = matches.notna()
    if "date" in regex.groupindex:
        days = matches[valid].map(lambda match: match["date"]).dropna().astype(object)
        real = pd.to_datetime(days, format="%Y-%m-%d", errors="coerce").notna() & (days.str.len() == 10)
        valid[days.index] = real
    return valid


def _is_texts(value: object) -> bool:
    """Whether it is a list of at least one text, or its JSON text (for a target without lists)."""
    texts = listed(value) if isinstance(value, str) else value
    return type(texts) is list and bool(texts) and all(type(text) is str for text in texts)


_IS_TYPE: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int and INT64_MIN <= value <= INT64_MAX,
    "float": lambda value: type(value) is float and math.isfinite(value),
    "boolean": lambda value: type(value) is bool,
    "strings": _is_texts,
}


# -- limits of a target ------------------------------------------------------------------------------------------------

_AT_THE_SOURCE = "split or shorten it at the source, or leave the chunk out by the schema (leave_out)"
# By limit (`stores.limits.Limits`): what is measured, its unit, and the advice.
_OVER = {
    "write_bytes": ("the chunk in one request", "bytes", _AT_THE_SOURCE),
    "document_bytes": ("the document", "bytes", _AT_THE_SOURCE),
    "id_bytes": ("the id", "bytes", "give shorter ids by the schema (id)"),
    "uri_bytes": ("the URI", "bytes", "shorten it at the source"),
    "metadata_bytes": ("the metadata", "bytes", "leave fields behind by the schema (drop)"),
    "keys": ("the metadata", "keys", "leave fields behind by the schema (drop)"),
    "key_bytes": ("a key", "bytes", "give the field a shorter name by the schema (rename), or leave it behind (drop)"),
    "value_bytes": ("a value", "bytes", "shorten the value by the schema (replace), or leave the field behind (drop)"),
    "dimension": ("the vector", "dimensions", "make new vectors by a smaller model (migration.reembed)"),
}


def over_limits(
    batch: ChunkBatch, ids: Sequence[str], collection: str, limits: Mapping[str, tuple[int, str]]
) -> pd.DataFrame:
    """Failures of the chunks over a limit of the target, by source id; `limits`: name → (limit, origin)."""
    rows = []
    checked = [(name, most, origin) for name, (most, origin) in limits.items() if name in _OVER]
    for row, chunk in enumerate(ids):
        for name, most, origin in checked:
            size, key = _size_of(batch, row, name, most)
            if size > most:
                part, unit, helps = _OVER[name]
                label = f"{part} {show(key)}" if key else part
                detail = f"{label} has {size:,} {unit}, the target takes {most:,} ({origin}): {helps}"
                rows.append((collection, chunk, ReasonCode.TOO_LARGE, detail))
    return failure_table(rows)


def _size_of(batch: ChunkBatch, row: int, name: str, most: int) -> tuple[int, str]:
    """How much of this limit a chunk takes, and the key concerned, if any."""
    document, metadata = batch.documents[row], batch.metadatas[row] or {}
    if name == "keys":
        return len(metadata), ""
    if name == "dimension":
        return batch.dimension, ""
    if name == "key_bytes":
        return max(((_bytes(key), key) for key in metadata), default=(0, ""))
    if name == "value_bytes":
        return max(((_value_bytes(value), key) for key, value in metadata.items()), default=(0, ""))
    if name == "metadata_bytes":
        return len(_as_json(metadata)) if metadata else 0, ""
    if name == "write_bytes":
        if _ROUGHLY * (len(document or "") + len(str(metadata))) + 6 * batch.dimension < most:
            return 0, ""  # far below: not worth the exact figure
        texts = (batch.ids[row], document, batch.uris[row], batch.metadatas[row])
        return sum(len(_as_json(part)) for part in texts) + 6 * batch.dimension, ""  # a vector is sent as base64
    return _bytes({"document_bytes": document, "id_bytes": batch.ids[row], "uri_bytes": batch.uris[row]}[name]), ""


_ROUGHLY = 8  # bytes a character, more than UTF-8 and JSON's escapes make of any but control characters


def _bytes(text: str | None) -> int:
    return len((text or "").encode("utf-8", "replace"))


def _value_bytes(value: Any) -> int:
    """The bytes of texts; a number is never over a limit."""
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return _bytes(value) if isinstance(value, str) else 0


def _as_json(part: Any) -> bytes:
    return json.dumps(part, ensure_ascii=False, default=str).encode("utf-8", "replace")
