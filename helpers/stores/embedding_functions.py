"""Embedding functions: whether a collection's own may be used here, and one that the operator names.

The persisted function is no evidence of the model that made the vectors (chroma-facts): its dimension is compared too.
"""

from __future__ import annotations

import hashlib
import json
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
from helpers.parameters.endpoint import StoredFunction
from helpers.reason_codes import ReasonCode
from helpers.stores.door import (
    EMBEDDING_FUNCTIONS,
    LOCAL_FUNCTIONS,
    Documents,
    EmbeddingFunction,
    Embeddings,
    ONNXMiniLM_L6_V2,
    Space,
    known_embedding_functions,
    register_embedding_function,
)


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


def persisted_name(configuration: Mapping[str, Any]) -> str | None:
    """The name of the function in a collection's configuration, or None."""
    function = configuration.get("embedding_function")
    if not isinstance(function, Mapping) or function.get("type") == "legacy":
        return None
    return str(function["name"]) if "name" in function else None


class NotUsable(Exception):
    """Why an embedding function is not used here."""


@dataclass(frozen=True, slots=True)
class Function:
    """An embedding function ready for use: texts in, one vector each out; some embed queries otherwise than documents."""

    name: str
    call: Callable[[Sequence[str]], Sequence[Any]]
    query: Callable[[Sequence[str]], Sequence[Any]]


def unavailable(configuration: Mapping[str, Any], dimension: int | None, allowed: Sequence[StoredFunction] = ()) -> str:
    """Why the collection's own function cannot be used, or "" where it can."""
    try:
        stored_function(configuration, dimension, allowed)
    except NotUsable as error:
        return str(error)
    return ""


def stored_function(
    configuration: Mapping[str, Any], dimension: int | None, allowed: Sequence[StoredFunction] = ()
) -> Function:
    """The function that a collection's configuration names. Raises `NotUsable`.

    Whoever wrote the source chose it: a URL, a variable whose value goes there, a model with code in it. Only functions that
    work on this machine alone are built because of it; any other one where `allowed` has the same name and configuration.
    """
    name = persisted_name(configuration)
    if name is None:
        raise NotUsable("the collection names no embedding function")
    config = dict(configuration["embedding_function"].get("config") or {})
    made = 384 if name in LOCAL_FUNCTIONS else config.get("dimension")
    if isinstance(made, int) and dimension not in (None, made):
        who = "the default function" if name == "default" else f"embedding function {one_line(name, 80)}"
        raise NotUsable(f"{who} makes {made} dimensions, the collection has {dimension}")
    if name in LOCAL_FUNCTIONS:
        return _build(name, {})
    if name == RehearsalEmbedding.name():
        return _build(name, {"dimension": made or dimension or 1})
    if _kind(name) is None:
        raise NotUsable(f"embedding function {one_line(name, 80)} is not installed here")
    if not any(each.matches(name, config) for each in allowed):
        shown = one_line(json.dumps({"name": name, "config": config}, ensure_ascii=False), 300)
        raise NotUsable(
            f"embedding function {one_line(name, 80)} would leave this machine and is not allowed; to allow it, list "
            f"under embedding_functions of source and target: {shown}"
        )
    return _build(name, config)


def _kind(name: str) -> Any:
    return known_embedding_functions.get(name) or EMBEDDING_FUNCTIONS.get(name)


def _build(name: str, config: Mapping[str, Any]) -> Function:
    """Raises `NotUsable`. Without a configuration by the function's own defaults."""
    if name in LOCAL_FUNCTIONS and (why := _no_model()):
        raise NotUsable(why)
    try:
        built = _kind(name).build_from_config(dict(config)) if config else _kind(name)()
    except Exception as error:
        raise NotUsable(f"embedding function {name} cannot be built here: {one_line(str(error), 200)}") from error
    # Some look for a variable of the service's name first, whatever their configuration says.
    read = getattr(built, "api_key_env_var", None)
    if read is not None and read != config.get("api_key_env_var"):
        raise NotUsable(
            f"embedding function {name} would read the variable {one_line(str(read), 80)}, which its configuration does not name "
            "(api_key_env_var)"
        )
    return Function(
        name,
        lambda texts: cast("Sequence[Any]", built(list(texts))),
        lambda texts: cast("Sequence[Any]", built.embed_query(list(texts))),
    )


def register_allowed(allowed: Sequence[StoredFunction]) -> None:
    """Let Chroma's client build these itself in this process, with the allowed configuration only: for an application's tests."""
    for name in {each.name for each in allowed} - {*known_embedding_functions}:
        known_embedding_functions[name] = cast(Any, _Allowed(name, allowed))


class _Allowed:
    """In the place of a function in Chroma's registry."""

    def __init__(self, name: str, allowed: Sequence[StoredFunction]) -> None:
        self._name, self._allowed = name, allowed

    def build_from_config(self, config: dict[str, Any]) -> Any:
        if not any(each.matches(self._name, config) for each in self._allowed):
            raise ValueError("not with this configuration: embedding_functions allows another one")
        return EMBEDDING_FUNCTIONS[self._name].build_from_config(config)


OWN = "own"  # in place of a name: the function that each collection keeps


def require_function(wanted: str, config: Mapping[str, Any]) -> None:
    """Nothing where the function that `migration.reembed` names can be built here. What is a collection's own is not
    known before the source is read. Raises `UsageError` for an unknown name, else `Terminal`.
    """
    if wanted != OWN:
        own_function(wanted, config, {}, "migration.reembed")


def own_function(
    wanted: str, config: Mapping[str, Any], configuration: Mapping[str, Any], where: str,
    allowed: Sequence[StoredFunction] = (),
) -> Function:  # fmt: skip
    """The function of this name (or "own") for a collection with this configuration.

    Built from `config`; without one from what the collection keeps (see `stored_function`), where it keeps a function of that
    name; else from the function's own defaults. Raises `Terminal` ("embedding_function_unavailable") where it is not used.
    """
    kept = persisted_name(configuration)
    name = kept if wanted == OWN else wanted
    if name is None:
        raise _unavailable("the collection names no embedding function of its own", where)
    if wanted != OWN and _kind(name) is None:
        known = ", ".join(sorted({*EMBEDDING_FUNCTIONS, *known_embedding_functions}))
        raise UsageError(
            ReasonCode.EMBEDDING_FUNCTION_UNKNOWN, f"names no embedding function that is known here: {one_line(name, 80)}",
            where="migration.reembed", next_step=f"Known are {OWN} (each collection's own), {known}.",
        )  # fmt: skip
    try:
        if not config and name == kept:
            return stored_function(configuration, None, allowed)
        if _kind(name) is None:
            raise NotUsable(f"embedding function {one_line(name, 80)} is not installed here")
        return _build(name, config)
    except NotUsable as error:
        raise _unavailable(str(error), where) from error


def _unavailable(why: str, where: str) -> Terminal:
    return Terminal(
        ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, why, where=where,
        next_step="Nothing was written. Install or configure it (migration.reembed_config), or leave migration.reembed out.",
    )  # fmt: skip


_MODEL_FILES = (  # where one is missing, the function fetches the model
    "config.json", "model.onnx", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt",
)  # fmt: skip


def _no_model() -> str:
    folder = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME
    whole = all((folder / file).exists() for file in _MODEL_FILES)
    return "" if whole else "the default function's model is not on this machine"
