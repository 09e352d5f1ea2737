"""Creating a collection exactly like another one.

The public `create_collection(configuration=…)` loses num_threads and batch_size, and an embedding function that is not
installed here. The server's own schema, sent back as it came, keeps all of it (chroma-facts, 1.5.9 writing).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from typing import Any

from helpers.errors import Terminal
from helpers.stores.base import CollectionInfo
from helpers.stores.door import Client, Collection, FastAPI
from helpers.stores.indexes import refusal, unsupported
from helpers.stores.space import declared, legacy_parameters


def raw_schema(collection: Collection) -> dict[str, Any] | None:
    """The schema as the server keeps it, or None where it keeps none (servers before 1.2 or so)."""
    schema = collection.get_model().serialized_schema
    return json.loads(json.dumps(schema)) if schema else None


def with_count(info: CollectionInfo, count: int) -> CollectionInfo:
    return dataclasses.replace(info, count=count)


def effective_configuration(info: CollectionInfo) -> dict[str, Any]:
    """The configuration whose space is the effective one; `hnsw:*` metadata of 0.x turned into parameters.

    The schema's num_threads and batch_size, which the configuration does not show, are put back in.
    """
    function = info.configuration.get("embedding_function")
    if info.configuration.get("spann"):
        return {
            "hnsw": None,
            "spann": {**info.configuration["spann"], "space": info.space},
            "embedding_function": function,
        }
    hnsw = {
        **(info.configuration.get("hnsw") or {}),
        **_hidden_parameters(info.schema),
        **legacy_parameters(info.metadata),
        "space": info.space,
    }
    return {"hnsw": hnsw, "spann": None, "embedding_function": function}


def effective_schema(info: CollectionInfo) -> dict[str, Any] | None:
    """The source's schema, the effective space in both places that hold it; None where it cannot be used.

    A schema beside `hnsw:*` metadata is refused ("cannot set both"): such collections go by configuration.
    """
    if info.schema is None or any(key.startswith("hnsw:") for key in info.metadata or {}):
        return None
    if declared(info.configuration) == info.space:
        return info.schema
    schema = copy.deepcopy(info.schema)
    for place in (schema.get("defaults", {}), schema.get("keys", {}).get("#embedding", {})):
        config = place.get("float_list", {}).get("vector_index", {}).get("config")
        if isinstance(config, dict):
            config["space"] = info.space
    return schema


def _hidden_parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    vectors = (schema or {}).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
    hnsw = vectors.get("config", {}).get("hnsw") or {}
    return {name: hnsw[name] for name in ("num_threads", "batch_size") if name in hnsw}


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*[a-zA-Z0-9]")


def refused_name(name: str) -> str:
    """Why a current Chroma takes no collection of this name, or "". Older ones took more: one letter, blanks, accents."""
    if not 3 <= len(name) <= 512:
        return f"it has {len(name)} characters, 3 to 512 are allowed"
    if not _NAME.fullmatch(name):
        return "only letters a to z, digits, '.', '_' and '-' are allowed, a letter or digit at both ends"
    return ""


def create(client: Client, info: CollectionInfo) -> None:
    """Raises `Terminal`: "exists" where the name is taken, "collection_name" where it is none, "unsupported_metadata"
    where a value of its metadata is a list, which panics Chroma's engine (chroma-facts), "index_unsupported" where it
    has an index that a local Chroma cannot hold; changes nothing there.
    """
    if lost := unsupported(info):
        raise refusal(lost)
    if lists := sorted(key for key, value in (info.metadata or {}).items() if isinstance(value, list | tuple)):
        raise Terminal(
            "unsupported_metadata", f"the metadata of collection {info.name} has a list under {lists[0]}, which no Chroma takes",
            next_step="Write it as a text at the source, or leave the collection out with collections.exclude.",
        )  # fmt: skip
    schema = effective_schema(info)
    configuration = None if schema else effective_configuration(info)
    metadata = info.metadata or None
    server: Any = client._server
    try:
        if isinstance(server, FastAPI):
            server._make_request(
                "post",
                f"/tenants/{client.tenant}/databases/{client.database}/collections",
                json={
                    "name": info.name,
                    "metadata": metadata,
                    "configuration": configuration,
                    "schema": schema,
                    "get_or_create": False,
                },
            )
        else:
            server.bindings.create_collection(
                info.name,
                json.dumps(configuration) if configuration else None,
                json.dumps(schema) if schema else None,
                metadata,
                False,
                client.tenant,
                client.database,
            )
    except Exception as error:
        if "already exists" in str(error):
            raise Terminal(
                "exists", f"collection {info.name} already exists", next_step="Nothing was changed there."
            ) from error
        if "Expected a name" in str(error):
            raise Terminal(
                "collection_name", "a current Chroma takes no collection of this name (letters, digits, . _ - only)",
                next_step="Leave it out with collections.exclude, or route its chunks elsewhere with a schema.",
            ) from error  # fmt: skip
        raise
