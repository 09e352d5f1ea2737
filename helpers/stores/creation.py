"""Creating a collection exactly like another one.

The public `create_collection(configuration=…)` loses num_threads and batch_size, and an embedding function that is not
installed here. The server's own schema, sent back as it came, keeps all of it (chroma-facts, 1.5.9 writing).
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import chromadb.api
from chromadb.api.fastapi import FastAPI
from chromadb.api.models.Collection import Collection

from ..errors import Terminal
from .base import CollectionInfo
from .space import declared, legacy_parameters


def raw_schema(collection: Collection) -> dict[str, Any] | None:
    """The schema as the server keeps it, or None where it keeps none (servers before 1.2 or so)."""
    schema = collection.get_model().serialized_schema
    return json.loads(json.dumps(schema)) if schema else None


def with_count(info: CollectionInfo, count: int) -> CollectionInfo:
    return dataclasses.replace(info, count=count)


def effective_configuration(info: CollectionInfo) -> dict[str, Any]:
    """The configuration whose space is the effective one; `hnsw:*` metadata of 0.x turned into parameters."""
    hnsw = {
        **(info.configuration.get("hnsw") or {}),
        **legacy_parameters(info.metadata),
        "space": info.space,
    }
    if info.configuration.get("spann"):
        return {**info.configuration, "spann": {**info.configuration["spann"], "space": info.space}}
    return {"hnsw": hnsw, "spann": None, "embedding_function": info.configuration.get("embedding_function")}


def effective_schema(info: CollectionInfo) -> dict[str, Any] | None:
    """The source's schema with the effective space and the parameters of `hnsw:*` metadata in both places that hold them."""
    if info.schema is None:
        return None
    parameters = legacy_parameters(info.metadata)
    if declared(info.configuration) == info.space and not parameters:
        return info.schema
    schema = copy.deepcopy(info.schema)
    places = (
        schema.get("defaults", {}).get("float_list", {}).get("vector_index"),
        schema.get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index"),
    )
    for place in places:
        if isinstance(place, dict) and isinstance(place.get("config"), dict):
            place["config"]["space"] = info.space
            if isinstance(place["config"].get("hnsw"), dict):
                place["config"]["hnsw"].update(parameters)
    return schema


def create(client: chromadb.api.ClientAPI, info: CollectionInfo) -> None:
    """Raises `Terminal` ("exists") where the name is taken; never changes what is there."""
    schema = effective_schema(info)
    configuration = None if schema else effective_configuration(info)
    metadata = info.metadata or None
    server: Any = client._server  # type: ignore[attr-defined]
    try:
        if isinstance(server, FastAPI):
            server._make_request(
                "post",
                f"/tenants/{client.tenant}/databases/{client.database}/collections",
                json={  # type: ignore[arg-type]
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
        raise
