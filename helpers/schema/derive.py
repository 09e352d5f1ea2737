"""What a document tells about itself, for fields with `derive`: its language, whether it has Spanish, how many words.

Only what is certain: a rule answers None where it is not, and the field keeps its default. The rules are deterministic, need
no model and no network, and know Spanish and English only. Sentence by sentence they count function words that one
of the two languages has and the other, and the neighbours of Spanish, have not. docs/schemas.md gives the limits, and how
often the rules were wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

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
)  # or: fewer, but so many with hints, of so many words, and no other language near
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
    found: dict[str, Any] = {}
    if document is None:
        return found
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
