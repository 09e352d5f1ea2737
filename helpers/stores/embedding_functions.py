"""Whether a collection's own embedding function can be used here, without downloading anything.

The persisted function is no evidence of the model that made the vectors (chroma-facts): its dimension is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chromadb.utils.embedding_functions import known_embedding_functions
from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

from helpers.sample import embedding as sample_embedding  # noqa: F401  importing it registers the rehearsal's function with Chroma


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
        model = ONNXMiniLM_L6_V2.DOWNLOAD_PATH / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME / "model.onnx"
        return "" if model.exists() else "the default function's model is not on this machine"
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
