"""Embedding functions: whether a collection's own can be used here without a download, and one that the operator names.

The persisted function is no evidence of the model that made the vectors (chroma-facts): its dimension is compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from helpers.errors import Terminal, UsageError, one_line
from helpers.stores import sample_embedding  # noqa: F401  importing it registers the rehearsal's function with Chroma
from helpers.stores.door import ONNXMiniLM_L6_V2, known_embedding_functions


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
            "embedding_function_unknown", f"names no embedding function that is known here: {one_line(name, 80)}",
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
        "embedding_function_unavailable", why, where=where,
        next_step="Nothing was written. Install or configure it (migration.reembed_config), or leave migration.reembed out.",
    )  # fmt: skip


def _no_model() -> str:
    model = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME / "model.onnx"
    return "" if model.exists() else "the default function's model is not on this machine"
