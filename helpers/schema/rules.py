"""What a current Chroma can hold of a chunk, and the reasons for which a chunk is set aside.

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
  chroma"): that is a matter of the target, so the write decides
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from string import Formatter
from typing import Any, Literal

import numpy as np
import pandas as pd

from helpers.chunks import ChunkBatch, Mask, Metadata, is_sparse
from helpers.errors import short
from helpers.formatting import count
from helpers.reason_codes import ReasonCode

FAILURE_COLUMNS = ("collection", "id", "reason", "detail")
Fault = tuple[int, ReasonCode, str]  # position in the batch, reason, detail
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TINIEST_COSINE_NORM, LARGEST_COSINE_NORM = 1e-20, 1e19


def failure_table(rows: list[tuple[str, str, ReasonCode, str]]) -> pd.DataFrame:
    """Rows of (collection, id, reason, detail) as a table with these columns, of text, also when there is none."""
    texts = [(collection, chunk, str(reason), detail) for collection, chunk, reason, detail in rows]
    return pd.DataFrame(texts, columns=list(FAILURE_COLUMNS), dtype=object)


def show(value: object) -> str:
    """A value as short printable text: `'high'`, `1.5`, `[1, 2]`."""
    return short(value, 80)


LONGEST_IN_FULL = 4_000  # characters of a value that the list of changed values holds, so that it stays small


def in_full(value: object) -> str:
    """As `show`, whole; of more than `LONGEST_IN_FULL` characters the beginning, with the length and SHA-256 of all of them."""
    shown = short(value, LONGEST_IN_FULL)
    if not shown.endswith("…"):
        return shown
    written = value if isinstance(value, str) else repr(value)
    digest = hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown} ({count(len(written), 'character')}, SHA-256 of their UTF-8 {digest})"


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
    """Every reason why Chroma would refuse, drop or change something of this metadata; [] where it arrives as it is."""
    if metadata is None:
        return []
    if not metadata:
        return ["the metadata is empty"]
    problems = ((key, key_problem(key) or value_problem(value)) for key, value in metadata.items())
    return [f"{show(key)}: {problem}" for key, problem in problems if problem]


def plain(metadata: Metadata) -> Metadata:
    """The same metadata with numpy scalars, arrays and subclasses of text or numbers as what Python itself has.

    The dictionary itself is returned, not a copy, where there is nothing to do.
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
    """(position, reason, detail) for all that Chroma would refuse, drop or change in ids, texts and metadata.

    `ids` are the ids of the source: an empty one is reported also where a prefix has been put before it.
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
    """What is wrong with each chunk's id, vector and document: one row (collection, id, reason, detail) per reason.

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
    found = batch.dimension
    if dimension is not None and found != dimension:
        detail = f"{found} components, the collection has {dimension}"
    elif allowed and found not in allowed:
        detail = f"{found} components, allowed are {', '.join(map(str, sorted(allowed)))}"
    else:
        return []
    return [(i, ReasonCode.WRONG_DIMENSION, detail) for i in _positions(~_lost(batch))]


def _number_rows(batch: ChunkBatch, space: str) -> list[Fault]:
    vectors, there = batch.embeddings, ~_lost(batch)
    finite = np.isfinite(vectors).all(axis=1)
    rows: list[Fault] = []
    for i in _positions(there & ~finite):
        nans, infinite = int(np.isnan(vectors[i]).sum()), int(np.isinf(vectors[i]).sum())
        if nans:
            rows.append((i, ReasonCode.NAN_EMBEDDING, f"{nans} of {batch.dimension} components are NaN"))
        if infinite:
            rows.append((i, ReasonCode.INFINITE_EMBEDDING, f"{infinite} of {batch.dimension} components are infinite"))
    if space == "cosine":
        # Squares of float32 overflow float32, never float64; einsum does not copy the vectors as astype would.
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        odd = there & finite & (norms > 0) & ((norms < TINIEST_COSINE_NORM) | (norms > LARGEST_COSINE_NORM))
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
    """Whether the whole text matches; a group named `date` must hold a day of the calendar, YYYY-MM-DD."""
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
    """The value in the type of a field, or ABSENT where something would be lost.

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
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found else None


def placeholders(template: str) -> list[str]:
    """The placeholders of a template, or ValueError where it names one that does not exist."""
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


# -- derive ------------------------------------------------------------------------------------------------------------
#
# What a document tells about itself, for fields with `derive`: its language, whether it has Spanish, how many words.
# Only what is certain: a rule answers None where it is not, and the field keeps its default. Sentence by sentence they count
# function words that Spanish or English has and the other, and the neighbours of Spanish, have not. docs/schemas.md gives
# the limits, and how often the rules were wrong.

DERIVATIONS_VERSION = 1  # of the rules below; a part of a schema's digest, since a resumed run must derive the same

# Each rule of `derive`: the type of field that it is for, and what it says in reports.
DERIVED_TYPES = {"language": "string", "includes_spanish": "boolean", "word_count": "integer"}
DERIVED_MEANINGS = {
    "language": "es, en or es_en, where the function words of the document leave no doubt",
    "includes_spanish": "whether the document has sentences that are certainly Spanish, or is certainly English throughout",
    "word_count": "the number of words of the document, separated by spaces",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPANISH = _words(
    """el los las del y es una lo pero más muy están también esto estos cuando donde sus usted ustedes nosotros ellos tiene
    tienen puede pueden debe deben hace hacer fue fueron hasta según aunque mientras después ahora aquí así otra otro otros
    otras siempre sólo qué quién cuál cómo dónde aún ese esos eso uno unos unas nuestro nuestra nuestros nuestras mucho
    muchos hoy ayer año años quien sido había cualquier ningún ninguna desea hay sino nadie ellas algún alguna algunos algunas
    ambos ambas tampoco quizá quizás entonces allí cuyo cuya siendo estaba estaban tenía tener decir dice dijo hacia todavía
    además mejor mismo misma mismos mismas primero veces días"""
)
_ARTICLES = frozenset(("el", "los", "las", "del"))  # in names of places too: alone they prove nothing
_ENGLISH = _words(
    """the of and to is that was were with are this these those from which have has been not but they their what when where
    will would can could should your you it its an by be at as for if how who there than then into each every does must
    his her he she we our them because about only other between while"""
)
_OTHER = _words(  # Portuguese and Galician, Catalan, Italian, French, German and Dutch, Romanian, Welsh, Esperanto
    """não uma são também você seu sua seus suas mais muito foi pelo pela das ao aos às os em com é nem isso esse essa
    non unha tamén máis moi hai polo pola dun dunha deste desta
    els amb és aquest aquesta aquests aquestes són per dels això més molt també seva seu cal l qu
    il di che è gli della delle dei degli nel nella sono questo questa alla anche più ed
    des du et est dans pour pas vous cette aux avec sont ou être ne ce
    der die das und ist nicht ein eine mit für auf den von zu im sich dem het een van niet voor dat deze zijn
    și pentru nu cu din sau care să
    yn mae ac ar gan eich oes
    ki kaj estas ankaŭ"""
)
_LISTS = (_SPANISH, _ENGLISH, _OTHER)
# What Spanish shares with its neighbours: no proof of Spanish, and reason enough not to rule it out.
_HINTS = _words("de la que en con por para se al su como sobre sin cada un")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?;:…\n\r¡¿。！？]+")
_LEAST, _DISTINCT = 4, 3  # function words of a language, and different ones, before it is certain
_SHARE = 0.12  # of the words of the sentences in that language; in running text it is above a fifth
_FEW, _WITH_HINTS, _HINTED = (
    2,
    6,
    0.3,
)  # or: fewer, but so many with hints, this share of the words, no other language near
_TRACE = 0.1  # share of all function words that a second language may have and still not count
_PART = 0.2  # share from which it counts
_MOST = 0.5  # share of all words that stand in sentences of the document's language


@dataclass(slots=True)
class _Seen:
    """The sentences of a document that lean to one language."""

    words: int = 0
    hits: int = 0
    distinct: set[str] = field(default_factory=set)
    hints: int = 0  # words of `_HINTS`

    @property
    def certain(self) -> bool:
        enough = self.hits >= _LEAST and len(self.distinct) >= _DISTINCT and self.hits >= _SHARE * self.words
        return enough and bool(self.distinct - _ARTICLES)

    @property
    def supported(self) -> bool:
        """Fewer function words, made certain by those that Spanish shares; only where nothing is of another language."""
        every = self.hits + self.hints
        enough = len(self.distinct) >= _FEW and bool(self.distinct - _ARTICLES)
        return enough and every >= _WITH_HINTS and every >= _HINTED * self.words


def languages(document: str) -> tuple[str | None, bool | None]:
    """(language, includes Spanish) of a document: "es", "en" or "es_en"; each None where it is not certain."""
    spanish, english, other = seen = (_Seen(), _Seen(), _Seen())
    total, hints = 0, False
    for sentence in _SENTENCE.split(unicodedata.normalize("NFC", document).lower()):
        words = _WORD.findall(sentence)
        total += len(words)
        known = [[w for w in words if w in listed] for listed in _LISTS]
        most = max(known, key=len)
        if sum(len(hits) == len(most) for hits in known) == 1:
            leaning = seen[known.index(most)]
            leaning.words, leaning.hits = leaning.words + len(words), leaning.hits + len(most)
            leaning.distinct.update(most)
            weak = sum(w in _HINTS for w in words)
            leaning.hints += weak
            hints = hints or leaning is other or (leaning is english and weak >= 2)
        elif not hints:
            hints = bool(most) or not _HINTS.isdisjoint(words) or not all(map(str.isascii, words))
    every = spanish.hits + english.hits + other.hits
    if not every or other.hits > _TRACE * every:
        return None, None
    sure = spanish.certain or (spanish.supported and not other.hits)
    if sure and english.certain and min(spanish.hits, english.hits) >= _PART * every:
        return "es_en", True
    if sure:
        mostly = spanish.words >= _MOST * total and english.hits <= _TRACE * every
        return ("es" if mostly else None), True
    if english.certain and english.words >= _MOST * total and not (spanish.hits or hints):
        return "en", False
    return None, None


def certain(document: str | None, rules: Collection[str]) -> dict[str, Any]:
    """What a document tells by each of these rules (keys of `DERIVED_TYPES`); what is not certain is left out."""
    if document is None:
        return {}
    found: dict[str, Any] = {}
    if "word_count" in rules:
        found["word_count"] = len(document.split())
    if "language" in rules or "includes_spanish" in rules:
        found["language"], found["includes_spanish"] = languages(document)
    return {rule: found[rule] for rule in rules if found.get(rule) is not None}


def contradicts(rule: str, value: Any, told: Any) -> bool:
    """Whether a field's value cannot be right beside what the document tells by this rule.

    A language contradicts where it has nothing in common with the document's (`en-GB` fits "en", `es` fits "es_en"); a word
    count where it is off by more than a tenth and two words, since tools count words in other ways.
    """
    if rule == "includes_spanish":
        return type(value) is bool and value != told
    if rule == "word_count":
        return type(value) is int and abs(value - told) > max(2, told / 10)
    parts = set(re.split("[-_]", value.lower())) if isinstance(value, str) else set()
    parts = {{"spa": "es", "eng": "en"}.get(part, part) for part in parts}
    # A name of a language ("Spanish") is no tag, and another finding.
    named = isinstance(value, str) and re.match(r"[a-z]{2,3}([-_]|$)", value.lower()) is not None
    return named and parts.isdisjoint(told.split("_"))
