"""The rehearsal source's embedding function: words hashed into vectors, the same bits on any machine, no download."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.chunks import Vectors
from helpers.stores.door import Documents, EmbeddingFunction, Embeddings, Space, register_embedding_function


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
