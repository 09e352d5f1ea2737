"""Embedding functions: whether a collection's own can be used here without a download, and one that the operator names.

The persisted function is no evidence of the model that made the vectors (chroma-facts): its dimension is compared too.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from helpers.chunks import Vectors
from helpers.errors import Terminal, UsageError, one_line
from helpers.reason_codes import ReasonCode
from helpers.stores.door import (
    Documents,
    EmbeddingFunction,
    Embeddings,
    ONNXMiniLM_L6_V2,
    Space,
    known_embedding_functions,
    register_embedding_function,
)

# -- sample embedding --------------------------------------------------------------------------------------------------

# The rehearsal source's embedding function: words hashed into vectors, the same bits on any machine, no download.


@register_embedding_function
class RehearsalEmbedding(EmbeddingFunction[Documents]):
    """Texts that share words, or parts of words, lie near each other. No model, no download.

    Each word is a pseudo-random integer vector (SHAKE-128 of the word, plus a fainter one for each of its trigrams); a
    text is the sum over its words, weighted by the root of their number, stop words by an eighth. Sums of integers
    below 2**53 are exact in any order, so the float32 result has the same bits everywhere. Not normalised. A text
    without a word is the zero vector.
    """

    def __init__(self, dimension: int = 1536) -> None:
        self.dimension = dimension
        self._words: dict[str, npt.NDArray[np.float64]] = {}

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002  # chromadb's name
        return list(self.vectors(list(input)))

    def vectors(self, texts: list[str]) -> Vectors:
        """(n, dimension) float32."""
        out = np.zeros((len(texts), self.dimension), np.float32)
        for row, document in enumerate(texts):
            words = Counter(re.findall(r"\w+", document.casefold()))
            if words:
                table = np.stack([self._word(word) for word in words])
                weights = np.array([math.isqrt(1024 * n) // (8 if w in _STOP else 1) for w, n in words.items()])
                out[row] = (weights.astype(np.float64) @ table) / 30_000_000.0
        return out

    def _word(self, word: str) -> npt.NDArray[np.float64]:
        if word in self._words:
            return self._words[word]
        vector = 64.0 * self._hashed(word)
        if word.isalpha() and len(word) > 2:
            marked = f"<{word}>"
            trigrams = [marked[i : i + 3] for i in range(len(marked) - 2)]
            faint = math.isqrt(64 * 64 // (3 * len(trigrams)))
            vector += faint * np.sum([self._hashed("#" + t) for t in trigrams], axis=0)
            if len(self._words) < 5000:  # numbers and references are met once; they are not worth the memory
                self._words[word] = vector
        return vector

    def _hashed(self, token: str) -> npt.NDArray[np.float64]:
        """Odd integers in −255…255, as float64."""
        digest = hashlib.shake_128(token.encode()).digest(self.dimension)
        return 2.0 * np.frombuffer(digest, np.int8).astype(np.float64) + 1.0

    @staticmethod
    def name() -> str:
        return "runbook_rehearsal"

    def get_config(self) -> dict[str, Any]:
        return {"dimension": self.dimension}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> RehearsalEmbedding:
        return RehearsalEmbedding(int(config["dimension"]))

    def default_space(self) -> Space:
        return "cosine"


_STOP_WORDS = (
    "a after all an and are as at be before behind by for from has he his in into is it its not of on one or so than"
    " that the their them to was we what when who with you al con de del el en es la las lo los más para por que se sin"
    " su un una y ref"
)
_STOP = frozenset(_STOP_WORDS.split())


# -- embedding functions -----------------------------------------------------------------------------------------------


def persisted_name(configuration: Mapping[str, Any]) -> str | None:
    """The name of the function in a collection's configuration, or None."""
    function = configuration.get("embedding_function")
    if not isinstance(function, Mapping) or function.get("type") == "legacy":
        return None
    return str(function["name"]) if "name" in function else None


def unavailable(configuration: Mapping[str, Any], dimension: int | None) -> str:
    """Why the function cannot be used, or "" where it can."""
    name = persisted_name(configuration)
    if name is None:
        return "the collection names no embedding function"
    if name == "default":
        if dimension not in (None, 384):
            return f"the default function makes 384 dimensions, the collection has {dimension}"
        return _no_model()
    if name not in known_embedding_functions:
        return f"embedding function {name} is not installed here"
    config = dict(configuration["embedding_function"].get("config") or {})
    try:
        known_embedding_functions[name].build_from_config(config)
    except Exception as error:
        return f"embedding function {name} cannot be built here: {error}"
    made = config.get("dimension")
    if isinstance(made, int) and dimension not in (None, made):
        return f"embedding function {name} makes {made} dimensions, the collection has {dimension}"
    return ""


OWN = "own"  # in place of a name: the function that each collection keeps


@dataclass(frozen=True, slots=True)
class Function:
    """An embedding function ready for use: texts in, one vector each out."""

    name: str
    call: Callable[[Sequence[str]], Sequence[Any]]


def require_function(wanted: str, config: Mapping[str, Any]) -> None:
    """Nothing where the function that `migration.reembed` names can be built here. What is a collection's own is not
    known before the source is read. Raises `UsageError` for an unknown name, else `Terminal`.
    """
    if wanted != OWN:
        own_function(wanted, config, {}, "migration.reembed")


def own_function(wanted: str, config: Mapping[str, Any], configuration: Mapping[str, Any], where: str) -> Function:
    """The function of this name (or "own") for a collection with this configuration.

    Built from `config`; without one from what the collection keeps, where it keeps a function of that name; else from the
    function's own defaults. Raises `Terminal` ("embedding_function_unavailable") where it cannot be built here.
    """
    kept = persisted_name(configuration)
    name = kept if wanted == OWN else wanted
    if name is None:
        raise _unavailable("the collection names no embedding function of its own", where)
    if name not in known_embedding_functions:
        if wanted == OWN:
            raise _unavailable(f"embedding function {name} is not installed here", where)
        known = ", ".join(sorted(known_embedding_functions))
        raise UsageError(
            ReasonCode.EMBEDDING_FUNCTION_UNKNOWN, f"names no embedding function that is known here: {one_line(name, 80)}",
            where="migration.reembed", next_step=f"Known are {OWN} (each collection's own), {known}.",
        )  # fmt: skip
    if name == "default" and (why := _no_model()):
        raise _unavailable(why, where)
    given = dict(config) or (dict(configuration["embedding_function"].get("config") or {}) if name == kept else {})
    kind = known_embedding_functions[name]
    try:
        built = kind.build_from_config(given) if given else kind()
    except Exception as error:
        raise _unavailable(
            f"embedding function {name} cannot be built here: {one_line(str(error), 200)}", where
        ) from error
    return Function(name, lambda texts: cast("Sequence[Any]", built(list(texts))))


def _unavailable(why: str, where: str) -> Terminal:
    return Terminal(
        ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, why, where=where,
        next_step="Nothing was written. Install or configure it (migration.reembed_config), or leave migration.reembed out.",
    )  # fmt: skip


def _no_model() -> str:
    model = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME / "model.onnx"
    return "" if model.exists() else "the default function's model is not on this machine"
