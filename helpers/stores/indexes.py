"""What a collection of Chroma Cloud has that a local Chroma cannot hold, and the collection without it.

Measured on 1.5.9 (tests/test_indexes_that_no_local_chroma_holds.py repeats it): a sparse index is refused with 400; a SPANN
index, quantised or not, silently becomes an HNSW index with defaults; a record with a sparse vector is refused ("not
supported for local chroma"). The space, the embedding function, the full-text index and the switches of every other key
are kept where the schema is sent without these.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from helpers.errors import Terminal, one_line
from helpers.stores.base import CollectionInfo

SPARSE, SPARSE_VALUES, SPANN, QUANTISED = "sparse index", "sparse vectors", "SPANN index", "quantisation"
VECTORS = "#embedding"  # the key under which a schema keeps the index of the embeddings
_BECOMES = {
    SPARSE: "no index; its vectors are kept as text of JSON",
    SPARSE_VALUES: "kept as text of JSON",
    SPANN: "an HNSW index with Chroma's defaults, by the same distance",
    QUANTISED: "vectors in full precision",
}


@dataclass(frozen=True, slots=True)
class Index:
    """One thing of a collection that a local Chroma cannot hold: what it is, and on which metadata key (or `#embedding`)."""

    collection: str
    kind: str
    key: str

    def __str__(self) -> str:
        return f"{one_line(self.collection, 80)}: {self.kind} on {one_line(self.key, 80)}"

    @property
    def becomes(self) -> str:
        """What is there in its place where it is dropped."""
        return _BECOMES[self.kind]


def unsupported(info: CollectionInfo) -> list[Index]:
    """Every such thing, by key. [] where a local Chroma holds the collection as it is."""
    return sorted(set(_found(info)), key=lambda i: (i.key, i.kind))


def _found(info: CollectionInfo) -> Iterator[Index]:
    schema = info.schema or {}
    for key, types in schema.get("keys", {}).items():
        sparse = types.get("sparse_vector")
        if sparse is not None:
            on = (sparse.get("sparse_vector_index") or {}).get("enabled")
            yield Index(info.name, SPARSE if on else SPARSE_VALUES, key)
    configurations = [info.configuration.get("spann"), _vector_config(schema.get("keys", {}).get(VECTORS)).get("spann")]
    for spann in filter(None, configurations):
        yield Index(info.name, SPANN, VECTORS)
        if str(spann.get("quantize") or "none").lower() != "none":
            yield Index(info.name, QUANTISED, VECTORS)


def reduced(info: CollectionInfo) -> CollectionInfo:
    """The collection without them: what a local Chroma can hold of it, its effective space among that."""
    if not unsupported(info):
        return info
    configuration = {
        **info.configuration,
        "hnsw": info.configuration.get("hnsw") or {"space": info.space},
        "spann": None,
    }
    return dataclasses.replace(info, configuration=configuration, schema=_without(info.schema))


def allowed(info: CollectionInfo, patterns: Iterable[str]) -> bool:
    """Whether `migration.drop_indexes` names the collection."""
    return any(fnmatchcase(info.name, pattern) for pattern in patterns)


def as_created(info: CollectionInfo, patterns: Collection[str]) -> CollectionInfo:
    """The collection as it is to be created. Raises `Terminal` ("index_unsupported") where something would be lost that
    `patterns` (`migration.drop_indexes`) do not give up.
    """
    lost = unsupported(info)
    if lost and not allowed(info, patterns):
        raise refusal(lost)
    return reduced(info)


def refusal(lost: Collection[Index]) -> Terminal:
    """The one line that names each index, and what to do."""
    names = list(dict.fromkeys(index.collection for index in lost))
    shown = ", ".join(one_line(name, 80) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return Terminal(
        "index_unsupported", f"a local Chroma cannot hold {listed(lost)}", where="target",
        next_step=f"To migrate without: start a new run with migration.drop_indexes: [{shown}]; those who sign see it.",
    )  # fmt: skip


def listed(lost: Collection[Index]) -> str:
    """`docs: sparse index on sparse_key; docs: SPANN index on #embedding`, the first eight."""
    return "; ".join(str(index) for index in list(lost)[:8]) + (f"; and {len(lost) - 8} more" if len(lost) > 8 else "")


def _vector_config(types: Any) -> dict[str, Any]:
    config: dict[str, Any] = ((types or {}).get("float_list") or {}).get("vector_index", {}).get("config") or {}
    return config


def _without(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    made = copy.deepcopy(schema)
    for types in (made.get("defaults"), made.get("keys", {}).get(VECTORS)):
        _vector_config(types).pop("spann", None)
    for types in made.get("keys", {}).values():
        types.pop("sparse_vector", None)
    made["keys"] = {key: types for key, types in made.get("keys", {}).items() if types}
    return made
