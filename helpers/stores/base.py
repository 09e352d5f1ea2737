"""What every store offers, whatever speaks to it: an embedded directory, a server, an old layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.stores.limits import Limits
from helpers.stores.requests import Usage
from helpers.stores.space import Space

LOCK_COLLECTION = "runbook-lock"  # the marker that keeps a second run out of a target; never listed as data

Neighbours = list[list[tuple[str, float]]]  # per query vector: (id, distance), best first


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as it really is.

    `space` is the effective distance space, proven by a probe query where one was possible; `declared_space` is what the
    configuration says, which may be wrong (chroma-facts 2). `configuration` is Chroma's configuration as JSON, `schema`
    the server's own schema as JSON where it has one. `findings` are sentences for the DBA.
    """

    name: str
    count: int
    dimension: int | None
    space: Space
    declared_space: Space
    metadata: dict[str, Any] | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    schema: dict[str, Any] | None = None
    embedding_function: str | None = None
    findings: tuple[str, ...] = ()


class Closing:
    """`with` for whatever has a `close`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reader(Protocol):
    """What a source offers. Nothing here writes.

    The store keeps within its own limits: `ids` and `read` split as they must, `query` gives at most
    `limits().query_results` for each vector. Who depends on k asks for these first; they may be narrower afterwards.
    """

    label: str
    version: str
    protocol: str  # how it is read, for people: "API v1", "API v2", "in this process"
    usage: Usage

    @property
    def learnt(self) -> tuple[str, ...]: ...  # sentences on limits that refusals taught

    def limits(self) -> Limits: ...
    def collections(self) -> list[CollectionInfo]: ...
    def names(self) -> list[str]: ...
    def info(self, name: str) -> CollectionInfo: ...
    def count(self, name: str) -> int: ...
    def ids(self, name: str) -> list[str]: ...
    def some_ids(self, name: str, most: int) -> list[str]: ...
    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch: ...
    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours: ...
    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]: ...
    def text_queries_available(self, name: str) -> str: ...
    def unindexed(self, name: str) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Reader, Protocol):
    """What a target offers besides: creating, adding, deleting."""

    def create(self, info: CollectionInfo) -> None: ...
    def add(self, name: str, batch: ChunkBatch) -> None: ...
    def delete(self, name: str, ids: Sequence[str]) -> None: ...
    def drop(self, name: str) -> None: ...
    def acquire_lock(self, run_id: str) -> None: ...
    def release_lock(self, run_id: str) -> None: ...
    def lock_holder(self) -> dict[str, Any] | None: ...
