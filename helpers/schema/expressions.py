"""Values that a schema computes: expressions (CEL), lookup tables, patterns (RE2), derivations from documents. Time and memory
are bounded.

Nothing is evaluated as Python. An expression has no loops of its own. Its length, the size of its input where it uses list
functions, and every text that it makes are limited; the library stops an expensive one. RE2 needs time in proportion to the
text, whatever the pattern. The same chunk gives the same value on every machine.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import math
import re
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.parameters.model import nearest
from helpers.schema.rules import ABSENT, INT64_MAX, INT64_MIN, show, unicode_problem

if TYPE_CHECKING:
    from cel_expr_python import cel

LONGEST = 2_000  # characters of an expression
LONGEST_LISTED = 20_000  # characters given to an expression with `map`, `filter`, `exists` or `all`
LONGEST_MADE = 50_000_000  # characters of a text that a function makes
MOST_ROWS = 1_000_000  # of a lookup table

VARIABLES = ("fields", "document", "id", "uri", "collection", "date")
FUNCTIONS = ("lower", "upper", "trim", "substring", "replace", "split", "join", "extract", "sha256", "uuid5")
_BUILT_IN = ("has", "size", "string", "int", "double", "bool", "contains", "startsWith", "endsWith", "matches")
_LISTED = re.compile(r"\.\s*(?:map|filter|exists|exists_one|all)\s*\(")
_PROBLEM = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")
_UNKNOWN = re.compile(r"undeclared reference to '([^']*)'")
_CODE = re.compile(r"^[A-Z_]+: ")
_NO_KEY = re.compile(r'^Key not found in map : "(.*)"$')


class ExpressionFailed(Exception):
    """An expression has no value for a chunk."""


# -- lookup tables -----------------------------------------------------------------------------------------------------


def read_table(path: Path, key: str, value: str) -> dict[str, str]:
    """Two columns of a CSV file with a header, in UTF-8. `ValueError`, with the line, where it is invalid or repeats a key."""
    table: dict[str, str] = {}
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait
            raise OSError(errno.EINVAL, "not a plain file")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            names = list(rows.fieldnames or ())
            for column in (key, value):
                if column not in names:
                    near = nearest(column, names)
                    hint = f"did you mean '{near}'?" if near else f"it has {', '.join(names) or 'no header'}"
                    raise ValueError(f"{path} has no column '{column}'; {hint}")
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(f"{path}, line {rows.line_num}: not as many values as the header has names")
                if row[key] in table:
                    raise ValueError(f"{path}, line {rows.line_num}: {show(row[key])} is there twice")
                table[row[key]] = row[value]
                if len(table) > MOST_ROWS:
                    raise ValueError(f"{path} has more than {MOST_ROWS:,} rows")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    return table


# -- patterns ----------------------------------------------------------------------------------------------------------


@cache
def pattern(text: str) -> Any:
    """A compiled RE2 pattern. `ValueError`, in one line, where it is invalid."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        problem = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"{show(text)} is not a regular expression of RE2, which has no look-around and no references back: {problem}"
        ) from error


# -- expressions -------------------------------------------------------------------------------------------------------


def _bounded(length: int) -> None:
    if length > LONGEST_MADE:
        raise ValueError(f"makes a text of {length:,} characters")


def _replace(text: str, old: str, new: str) -> str:
    _bounded(len(text) + text.count(old) * max(0, len(new) - len(old)))
    return text.replace(old, new)


def _join(parts: list[str], between: str) -> str:
    texts = [str(part) for part in parts]
    _bounded(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _substring(text: str, start: int, end: int | None = None) -> str:
    return text[max(0, start) : None if end is None else max(0, end)]


def _extract(text: str, regex: str) -> str:
    match = pattern(regex).search(text)
    return "" if match is None else str((match.group(1) if pattern(regex).groups else match.group(0)) or "")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _uuid5(namespace: str, name: str) -> str:
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, namespace), name))


def _functions(tables: Mapping[str, Mapping[str, str]]) -> list[cel.FunctionDecl]:
    from cel_expr_python import cel

    text, number, texts, any_ = cel.Type.STRING, cel.Type.INT, cel.Type.List(cel.Type.STRING), cel.Type.DYN

    def function(
        name: str, gives: Any, member: bool, *overloads: tuple[list[Any], Callable[..., Any]]
    ) -> cel.FunctionDecl:
        return cel.FunctionDecl(name, [
            cel.Overload(id=f"{name}_{at}", return_type=gives, parameters=types, is_member=member, impl=does)
            for at, (types, does) in enumerate(overloads)
        ])  # fmt: skip

    return [
        function("lower", text, True, ([text], str.lower)),
        function("upper", text, True, ([text], str.upper)),
        function("trim", text, True, ([text], str.strip)),
        function("substring", text, True, ([text, number], _substring), ([text, number, number], _substring)),
        function("replace", text, True, ([text, text, text], _replace)),
        function("split", texts, True, ([text, text], lambda whole, at: whole.split(at) if at else list(whole))),
        function("join", text, True, ([cel.Type.List(any_), text], _join)),
        function("extract", text, True, ([text, text], _extract)),
        function("sha256", text, False, ([text], _sha256)),
        function("uuid5", text, False, ([text, text], _uuid5)),
        *(
            function(name, any_, False, ([text], rows.get), ([number], lambda key, rows=rows: rows.get(str(key))))
            for name, rows in tables.items()
        ),
    ]


class Language:
    """CEL with the variables of a chunk, our functions, and one function per lookup table (key → value or null)."""

    def __init__(self, tables: Mapping[str, Mapping[str, str]]) -> None:
        self._tables = tables
        self._env: cel.Env | None = None

    def compile(self, text: str, required: str = "") -> Expression:
        """Compile an expression. `required`: its type, "BOOL" or "STRING". `ValueError`, with line and column, where invalid."""
        from cel_expr_python import cel

        if len(text) > LONGEST:
            raise ValueError(f"the expression has {len(text):,} characters, {LONGEST:,} is the most")
        if self._env is None:
            types = dict.fromkeys(VARIABLES, cel.Type.STRING) | {"fields": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)}
            self._env = cel.NewEnv(variables=types, functions=_functions(self._tables))
        try:
            compiled = self._env.compile(text)
        except (RuntimeError, UnicodeEncodeError) as error:
            raise ValueError(f"the expression {show(text)} is wrong: {self._problem(str(error))}") from error
        result = str(compiled.return_type())
        if required and result not in (required, "DYN"):
            raise ValueError(f"the expression {show(text)} gives {_type(result)}, {_type(required)} is wanted")
        if result.split("<")[0] not in _HELD:
            raise ValueError(f"the expression {show(text)} gives {_type(result)}, which no field can hold")
        return Expression(text, compiled)

    def _problem(self, message: str) -> str:
        match = _PROBLEM.search(message)
        if not match:
            return _CODE.sub("", message.splitlines()[0])
        line, column, problem = match.groups()
        place = f"line {line}, " if line != "1" else ""
        if unknown := _UNKNOWN.search(problem):
            functions = [*FUNCTIONS, *_BUILT_IN, *self._tables]
            near = nearest(unknown[1], [*VARIABLES, *functions])
            hint = f"did you mean '{near}'?" if near else f"a chunk has {', '.join(VARIABLES)}"
            problem = f"'{unknown[1]}' is not known; {hint}"
            if unknown[1] in functions:
                problem = f"{unknown[1]} is not for these values; docs/schemas.md shows how it is written"
        return f"{place}character {int(column)}: {problem}"


_HELD = ("STRING", "INT", "UINT", "DOUBLE", "BOOL", "NULL", "LIST", "DYN")
_WORDS = {
    "BOOL": "true or false",
    "STRING": "a text",
    "DYN": "any value",
    "INT": "a whole number",
    "DOUBLE": "a number",
}


def _type(name: str) -> str:
    return _WORDS.get(name, f"a value of type {name.lower()}")


class Expression:
    """A compiled expression: `of(chunk)` is its value, ABSENT for null. `names` are the variables that it uses."""

    def __init__(self, text: str, compiled: cel.Expression) -> None:
        self.text, self._compiled = text, compiled
        self.names = tuple(name for name in VARIABLES if re.search(rf"\b{name}\b", text))
        self._listed = _LISTED.search(text) is not None

    def of(self, chunk: Mapping[str, Any], shown: Callable[[str], Any] = str) -> Any:
        """The value for a chunk. `ExpressionFailed` where it has none; `shown` redacts the reason."""
        inputs = {name: chunk[name] for name in self.names}
        length = 0
        for text in _texts(inputs):
            if "\0" in text:
                raise ExpressionFailed("a text holds the character NUL, which expressions cannot read")
            if problem := unicode_problem(text):
                raise ExpressionFailed(f"a text {problem}")
            length += len(text)
        if self._listed and length > LONGEST_LISTED:
            limit = f"{LONGEST_LISTED:,} is the most for map, filter, exists and all"
            raise ExpressionFailed(f"the chunk gives it {length:,} characters, {limit}")
        try:
            value = self._compiled.eval(data=inputs)
        except RuntimeError as error:
            raise ExpressionFailed(_in_words(_hidden(str(error), shown))) from error
        kind = str(value.type())
        if kind == "ERROR":
            raise ExpressionFailed(_in_words(_hidden(str(value.value()), shown)))
        if kind.split("<")[0] not in _HELD:
            raise ExpressionFailed(f"gives {_type(kind)}, which no field can hold")
        plain = value.plain_value()
        return ABSENT if plain is None else plain


_ESCAPED = re.compile(r"\\(?:u\{?([0-9a-fA-F]{1,6})\}?|(.))")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def _hidden(reason: str, shown: Callable[[str], Any]) -> str:
    """The reason, redacted. The library escapes texts in it, so the rules are applied to the plain text, too."""
    plain = _ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES.get(m[2], m[2]), reason)
    return str(shown(reason) if shown(plain) == plain else shown(plain))


def _in_words(message: str) -> str:
    """The first line of the library's message, without its code; a missing key is called a field."""
    return _NO_KEY.sub(
        r"the chunk has no field \1 (has() asks whether it is there)", _CODE.sub("", message.splitlines()[0])
    )


def _texts(inputs: Mapping[str, Any]) -> Iterator[str]:
    for value in inputs.values():
        if isinstance(value, dict):
            yield from value
            yield from _texts(value)
        elif isinstance(value, list):
            yield from (part for part in value if isinstance(part, str))
        elif isinstance(value, str):
            yield value


def readable(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """The metadata that an expression can see: all that a current Chroma holds, except sparse vectors."""
    return {key: value for key, value in metadata.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: object) -> bool:
    if type(value) is list:
        return all(map(_is_plain, value))
    if isinstance(value, int) and type(value) is int:
        return INT64_MIN <= value <= INT64_MAX
    return value is None or type(value) in (str, bool) or (isinstance(value, float) and not math.isinf(value))


# -- derive ------------------------------------------------------------------------------------------------------------
#
# Derivations from a document, for fields with `derive`: its language, whether it has Spanish, its number of words.
# Only what is certain: a rule gives None where it is not, and the field keeps its default. Sentence by sentence they count
# function words that Spanish or English has and the other, and the neighbours of Spanish, have not. docs/schemas.md gives
# the limits, and how often the rules were wrong.

DERIVATIONS_VERSION = 1  # of the rules below; part of a schema's digest, since a resumed run must derive the same

# Each rule of `derive`: the type of its field, and its description in reports.
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
_ARTICLES = frozenset(("el", "los", "las", "del"))  # in names of places, too: alone they prove nothing
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
# Words that Spanish shares with its neighbours: no proof of Spanish, but reason enough not to rule it out.
_HINTS = _words("de la que en con por para se al su como sobre sin cada un")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?;:…\n\r¡¿。！？]+")
_LEAST, _DISTINCT = 4, 3  # function words of a language, and different ones, to be certain
_SHARE = 0.12  # of the words of the sentences in that language; in running text it is above a fifth
# Or fewer function words, with so many hints, this share of the words, and no words of another language:
_FEW, _WITH_HINTS, _HINTED = 2, 6, 0.3
_TRACE = 0.1  # share of all function words that a second language may have and still not count
_PART = 0.2  # share from which it counts
_MOST = 0.5  # share of all words that are in sentences of the document's language


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
        """Certain with fewer function words by those that Spanish shares; valid only without words of another language."""
        every = self.hits + self.hints
        enough = len(self.distinct) >= _FEW and bool(self.distinct - _ARTICLES)
        return enough and every >= _WITH_HINTS and every >= _HINTED * self.words


def languages(document: str) -> tuple[str | None, bool | None]:
    """(language, includes Spanish) of a document: "es", "en" or "es_en"; each None where it is uncertain."""
    spanish, english, other = tallies = (_Seen(), _Seen(), _Seen())
    total, hints = 0, False
    for sentence in _SENTENCE.split(unicodedata.normalize("NFC", document).lower()):
        words = _WORD.findall(sentence)
        total += len(words)
        matches = [[w for w in words if w in listed] for listed in _LISTS]
        best = max(matches, key=len)
        if sum(len(hits) == len(best) for hits in matches) == 1:
            leaning = tallies[matches.index(best)]
            leaning.words, leaning.hits = leaning.words + len(words), leaning.hits + len(best)
            leaning.distinct.update(best)
            weak = sum(w in _HINTS for w in words)
            leaning.hints += weak
            hints = hints or leaning is other or (leaning is english and weak >= 2)
        elif not hints:
            hints = bool(best) or not _HINTS.isdisjoint(words) or not all(map(str.isascii, words))
    total_hits = spanish.hits + english.hits + other.hits
    if not total_hits or other.hits > _TRACE * total_hits:
        return None, None
    sure = spanish.certain or (spanish.supported and not other.hits)
    if sure and english.certain and min(spanish.hits, english.hits) >= _PART * total_hits:
        return "es_en", True
    if sure:
        mostly = spanish.words >= _MOST * total and english.hits <= _TRACE * total_hits
        return ("es" if mostly else None), True
    if english.certain and english.words >= _MOST * total and not (spanish.hits or hints):
        return "en", False
    return None, None


def certain(document: str | None, rules: Collection[str]) -> dict[str, Any]:
    """The values that a document gives by these rules (keys of `DERIVED_TYPES`), without the uncertain ones."""
    if document is None:
        return {}
    derived: dict[str, Any] = {}
    if "word_count" in rules:
        derived["word_count"] = len(document.split())
    if "language" in rules or "includes_spanish" in rules:
        derived["language"], derived["includes_spanish"] = languages(document)
    return {rule: derived[rule] for rule in rules if derived.get(rule) is not None}


def contradicts(rule: str, value: Any, derived: Any) -> bool:
    """Whether a field's value is incompatible with what the document gives by this rule.

    A language is where it has nothing in common with the document's (`en-GB` fits "en", `es` fits "es_en"); a word count
    where it is off by more than a tenth and two words, since tools count words in different ways.
    """
    if rule == "includes_spanish":
        return type(value) is bool and value != derived
    if rule == "word_count":
        return type(value) is int and abs(value - derived) > max(2, derived / 10)
    parts = set(re.split("[-_]", value.lower())) if isinstance(value, str) else set()
    parts = {{"spa": "es", "eng": "en"}.get(part, part) for part in parts}
    # The name of a language ("Spanish") is no tag, and a finding of another check.
    is_tag = isinstance(value, str) and re.match(r"[a-z]{2,3}([-_]|$)", value.lower()) is not None
    return is_tag and parts.isdisjoint(derived.split("_"))
