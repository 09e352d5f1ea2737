"""A store behind the current Chroma client: an embedded directory or a server of 1.x.

Ids are frozen first and everything is read by id, aligned by id: paging by offset costs O(offset), and a `get` neither
keeps the order of ids nor reports missing ones (chroma-facts 9, Speed). Only public client calls are used, except to create
a collection from its own schema: the public call would lose the embedding function.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch, align, singles
from helpers.errors import EnvironmentFailure, Terminal, one_line
from helpers.parameters.endpoint import StoredFunction
from helpers.reason_codes import ReasonCode
from helpers.stores import (
    LOCK_COLLECTION,
    WHAT_ANSWERS,
    Closing,
    CollectionInfo,
    Neighbours,
    Reader,
    Space,
    checked_dimension,
    consistent_spaces,
    creation,
    declared,
    every_id,
    fitting,
    from_metadata,
    is_marker,
    resolve,
    texts,
)
from helpers.stores.creation import TargetLock
from helpers.stores.door import Client, Collection
from helpers.stores.limits import NO_LIMIT, Limits, Narrower, Requests, Usage, done_once, written_once

T = TypeVar("T")
LIST_PAGE = 1_000  # collections in one answer
_CONTENT = ["documents", "metadatas", "uris"]


def proven_spaces(store: Reader, name: str, sample: Sequence[str]) -> list[Space] | None:
    """Return the spaces that fit the distances of a probe query, or None where the collection cannot be probed.

    `sample`: some ids of the collection; the probe is made from the first usable vector of these. The declared space of a
    collection may be wrong (chroma-facts 2).
    """
    chunks = store.read(name, sample)
    usable = ~chunks.lost & np.isfinite(chunks.embeddings).all(axis=1) & chunks.embeddings.any(axis=1)
    if not usable.any():
        return None
    # A vector of no special length: on unit vectors cosine, ip, and l2 up to a factor cannot be distinguished.
    vectors = chunks.embeddings[usable]
    tilt = np.linspace(0.5, 1.5, vectors.shape[1], dtype=np.float32)
    query = (vectors[0] * 3.0 * tilt).astype(np.float32)
    try:
        answer = store.query(name, query[None, :], 10)[0]
    except Terminal:
        return None
    neighbours = store.read(name, [i for i, _ in answer])
    distances = dict(answer)
    fit = ~neighbours.lost & np.isfinite(neighbours.embeddings).all(axis=1) & neighbours.embeddings.any(axis=1)
    if not fit.any():
        return None
    answered = [distances[i] for i, ok in zip(neighbours.ids, fit, strict=True) if ok]
    return consistent_spaces(query, neighbours.embeddings[fit], answered)


class ClientStore(TargetLock, Closing):
    """Reads and writes one tenant and database. `spaces`: the proven spaces of a 0.x directory, by collection id.

    `usage`: the counters of the session below, where there is one. `functions`: the embedding functions that may send data to
    other machines.
    """

    def __init__(
        self,
        client: Client,
        label: str,
        *,
        limits: Limits,
        spaces: Mapping[str, str] | None = None,
        protocol: str = "in this process",
        usage: Usage | None = None,
        functions: Sequence[StoredFunction] = (),
    ) -> None:
        self._functions = functions
        self.client, self.label, self.protocol = client, label, protocol
        self.requests = Requests(limits, usage)
        self.usage = self.requests.usage
        self._spaces = dict(spaces or {})
        self._infos: dict[str, CollectionInfo] = {}
        self._handles: dict[str, Collection] = {}  # of collections under inspection
        self._notes: dict[str, list[str]] = {}
        self.findings: tuple[str, ...] = ()
        self.repairs: list[dict[str, Any]] = []
        self.version = self.requests.send(client.get_version, label)

    def note(self, source: list[str], by_id: Mapping[str, list[str]], repairs: list[dict[str, Any]]) -> None:
        """Set the findings on the directory from before it was opened: on the whole, and by collection id; and the repairs."""
        self.findings, self._notes, self.repairs = tuple(source), dict(by_id), repairs

    # -- what there is -------------------------------------------------------------------------------------------------

    @fitting
    def names(self) -> list[str]:
        """Return the names of the collections, without the lock's marker."""
        return sorted(c.name for c in self._listed() if not is_marker(self, c.name, c.metadata))

    def collections(self) -> list[CollectionInfo]:
        return [self.info(name) for name in self.names()]

    def _listed(self) -> list[Collection]:
        """Return all collections. A short page may have been cut by a quota; only a page with nothing new is the last."""
        collections: dict[str, Collection] = {}
        while True:
            rows = min(LIST_PAGE, self.limits().page_rows)
            try:
                page = self.requests.send(
                    lambda rows=rows: self.client.list_collections(limit=rows, offset=len(collections)),  # type: ignore[misc]
                    self.label,
                    page_rows=rows,
                )
            except Narrower:
                continue
            before = len(collections)
            for collection in page:
                if collections.setdefault(collection.name, collection).id != collection.id:
                    raise Terminal(
                        ReasonCode.ENGINE_FAILED, f"two collections are named {one_line(collection.name, 80)}", where=self.label,
                        next_step="Chroma allows one of a name: rename one of them, or look at what is in front of the server.",
                    )  # fmt: skip
            if len(collections) == before:
                return list(collections.values())

    @fitting
    def identities(self) -> dict[str, str]:
        """Return the uuid of each collection, by name: it survives renames and restarts, but not deletion and creation."""
        return {collection.name: str(collection.id) for collection in self._listed()}

    @fitting
    def identity(self, name: str) -> str:
        """Return the uuid that this collection has now."""
        now = self.requests.send(lambda: self.client.get_collection(name, embedding_function=None), self._at(name))
        return str(now.id)

    @fitting
    def info(self, name: str) -> CollectionInfo:
        """Return the collection, its effective space proven by a probe. All but the count is cached."""
        known = self._infos.get(name)
        if known is not None:
            return dataclasses.replace(known, count=self.count(name))
        self._handles[name] = self._collection(name)  # one request, not one for each of the probe
        try:
            self._infos[name] = self._inspect(name)
        finally:
            self._handles.pop(name, None)
        return self._infos[name]

    def _inspect(self, name: str) -> CollectionInfo:
        collection = self._collection(name)
        configuration = dict(collection.configuration_json)
        declared_space = declared(configuration)
        candidates = [
            cast("Space | None", self._spaces.get(str(collection.id))),
            from_metadata(collection.metadata),
            declared_space,
        ]
        space, finding = resolve(candidates, self._proven_spaces(name))
        return CollectionInfo(
            name=name,
            count=self.count(name),
            dimension=checked_dimension(collection.get_model().dimension, name),
            space=space,
            declared_space=declared_space or "l2",
            metadata=dict(collection.metadata) if collection.metadata else None,
            configuration=configuration,
            schema=creation.raw_schema(collection),
            embedding_function=creation.persisted_name(configuration),
            findings=(*([finding] if finding else []), *self._notes.get(str(collection.id), [])),
        )

    def _proven_spaces(self, name: str) -> list[Space] | None:
        """Return `proven_spaces` of the first ids."""
        return proven_spaces(self, name, self.some_ids(name, 20))

    def _collection(self, name: str) -> Collection:
        if (handle := self._handles.get(name)) is not None:
            return handle
        return self.requests.send(lambda: self.client.get_collection(name, embedding_function=None), self._at(name))

    def _at(self, name: str) -> str:
        return f"collection {name} of {self.label}"

    # -- reading -------------------------------------------------------------------------------------------------------

    @fitting
    def count(self, name: str) -> int:
        return self.requests.send(self._collection(name).count, self._at(name))

    @fitting
    def ids(self, name: str) -> list[str]:
        """Return every id once, in the store's order, as `every_id`.

        Where pages are small and latency is high (Cloud), several are requested at a time.
        """
        collection, ids = self._collection(name), dict[str, None]()
        readers, rows = self.limits().readers(1), self.limits().page_rows
        if readers > 1:
            with ThreadPoolExecutor(readers, thread_name_prefix="ids") as pool:
                step = max(1, rows - 1)  # a page begins with the last id of the one before
                for first in range(0, self.count(name), readers * step):  # the count is only the server's word
                    starts, before = range(first, first + readers * step, step), len(ids)
                    for page in pool.map(lambda at: self._pages(collection, at, at + rows), starts):
                        if page and (not ids or page[0] in ids):
                            ids.update(dict.fromkeys(page))
                    if len(ids) == before:
                        break
        known, where = max(0, len(ids) - 1), self._at(name)
        return every_id(lambda at: self._page(collection, NO_LIMIT, at), lambda: self.count(name), where, ids, known)

    def _pages(self, collection: Collection, start: int, end: int) -> list[str]:
        """Return the ids at these positions, in as many pages as needed; fewer where there are fewer."""
        ids: list[str] = []
        while start + len(ids) < end:
            page = self._page(collection, end - start - len(ids), start + len(ids))
            if not page:
                break
            ids += page
        return ids

    @fitting
    def some_ids(self, name: str, most: int) -> list[str]:
        """Return the first ids, at most `most`, in one request."""
        return self._page(self._collection(name), most, 0)

    def _page(self, collection: Collection, most: int, offset: int) -> list[str]:
        """Return at most `most` ids from `offset` on, as many as the store gives in one answer."""
        while True:
            rows = min(most, self.limits().page_rows)
            try:
                answer = self.requests.send(
                    lambda rows=rows: collection.get(limit=rows, offset=offset, include=[])["ids"],  # type: ignore[misc]
                    self._at(collection.name),
                    page_rows=rows,
                )
            except Narrower:
                continue
            self.usage.add(rows=len(answer))
            return texts(answer)

    @fitting
    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        """Return these chunks, in this order; ids that the store does not hold are absent."""
        collection = self._collection(name)
        dimension = checked_dimension(collection.get_model().dimension, name) or 0
        parts = [*self._in_pieces(
            ids, lambda limits: limits.read_step(dimension),
            lambda piece: self._read_piece(collection, piece, dimension if embeddings else 0, embeddings),
        )]  # fmt: skip
        return ChunkBatch.concatenate(parts) if parts else ChunkBatch.empty(dimension if embeddings else 0)

    def _read_piece(self, collection: Collection, ids: Sequence[str], dimension: int, embeddings: bool) -> ChunkBatch:
        """Return the chunks of one answer. Halve the piece where a vector is missing, until the lost id is alone."""
        include = [*_CONTENT, "embeddings"] if embeddings else _CONTENT
        try:
            answer = self._get(collection, ids, include)
            return batch_of(ids, answer, dimension, embeddings)
        except VectorLost:
            if len(ids) > 1:
                middle = len(ids) // 2
                halves = (ids[:middle], ids[middle:])
                return ChunkBatch.concatenate([self._read_piece(collection, h, dimension, True) for h in halves])
            batch = batch_of(ids, self._get(collection, ids, _CONTENT), dimension, False)
            batch.lost[:] = True
            return batch

    def _get(self, collection: Collection, ids: Sequence[str], include: Sequence[str]) -> dict[str, Any]:
        """Return an answer of `get` by ids. Raises `Narrower` for too many ids, `VectorLost` where one has no vector."""
        distinct = list(dict.fromkeys(ids))  # an id twice would be refused
        try:
            answer = self._get_once(collection, distinct, include)
        except VectorLost:  # another client's delete-and-add gives the same answer for a moment (chroma-facts 19)
            answer = self._get_once(collection, distinct, include)
        while 0 < len(answer["ids"]) < len(distinct):  # absent, or cut off by a quota that nobody mentions
            present = set(answer["ids"])
            missing = self._get_once(collection, [i for i in distinct if i not in present], include)
            if not missing["ids"]:
                break
            answer = {
                k: [*v, *missing[k]] if isinstance(v, list | np.ndarray) and k != "included" else v
                for k, v in answer.items()
            }
        self.usage.add(rows=len(answer["ids"]))
        return answer

    def _get_once(self, collection: Collection, ids: list[str], include: Sequence[str]) -> dict[str, Any]:
        # The limit is explicit: without one, a server with a quota cuts the answer silently.
        def call() -> dict[str, Any]:
            return cast(dict[str, Any], collection.get(ids=ids, limit=len(ids), include=cast(Any, list(include))))

        try:
            return self.requests.send(call, self._at(collection.name), read_rows=len(ids))
        except Terminal as error:
            if "Error finding id" in error.what:
                raise VectorLost from error
            raise

    def _present(self, collection: Collection, ids: Sequence[str]) -> list[str]:
        """Return the ids that the store holds."""
        answers = self._in_pieces(ids, lambda limits: limits.read_rows, lambda piece: self._get(collection, piece, []))
        return [chunk for answer in answers for chunk in answer["ids"]]

    def _in_pieces(self, items: Any, most: Callable[[Limits], int], send: Callable[[Any], T]) -> Iterator[T]:
        """Yield what `send` gives for each piece of the items; a piece over a quota is sent again, smaller."""
        start = 0
        while start < len(items):
            piece = items[start : start + most(self.limits())]
            with suppress(Narrower):
                yield send(piece)
                start += len(piece)

    @fitting
    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """Return the k nearest of each row of `vectors` (n, d): (id, distance), best first; fewer where the index gives fewer,
        and no more than `limits().query_results`.
        """
        return self._nearest(name, vectors, k)

    @fitting
    def query_filtered(
        self, name: str, vectors: npt.ArrayLike, k: int, where: Mapping[str, str | int | float | bool]
    ) -> Neighbours:
        """Do `query` among the chunks whose metadata has these values."""
        return self._nearest(name, vectors, k, where=dict(where))

    def _nearest(self, name: str, vectors: npt.ArrayLike, k: int, **options: Any) -> Neighbours:
        rows = np.asarray(vectors, np.float32)
        answers = self._queried(self._collection(name), "query_embeddings", rows, k, ["distances"], **options)
        return [
            [(i, float(d)) for i, d in zip(ids[:most], distances[:most], strict=True)]
            for most, answer in answers for ids, distances in zip(answer["ids"], answer["distances"] or [], strict=True)
        ]  # fmt: skip

    def _queried(
        self, collection: Collection, by: str, vectors: Any, k: int, include: list[str], **options: Any
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (requested hits, answer) of each piece of a query."""

        def send(piece: Any) -> tuple[int, dict[str, Any]]:
            most = min(k, self.limits().query_results)
            query: dict[str, Any] = {by: piece, "n_results": most, "include": include, **options}
            answer = self.requests.send(
                lambda: collection.query(**query),
                self._at(collection.name),
                query_results=most,
                query_vectors=len(piece),
            )
            self.usage.add(rows=sum(map(len, answer["ids"])))
            return most, cast(dict[str, Any], answer)

        return self._in_pieces(vectors, lambda limits: limits.query_vectors, send)

    @fitting
    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]:
        """Return the nearest chunks by text, with the collection's own embedding function: (id, distance, document)."""
        collection = self._collection(name)
        vectors = self.text_vectors(name, texts)
        hits: list[list[tuple[str, float, str | None]]] = []
        for _, answer in self._queried(collection, "query_embeddings", vectors, k, ["distances", "documents"]):
            rows = zip(answer["ids"], answer["distances"] or [], answer["documents"] or [], strict=True)
            hits += [[(i, float(d), t) for i, d, t in zip(ids, ds, ts, strict=True)] for ids, ds, ts in rows]
        return hits

    def text_vectors(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the query vectors (n, d) of texts, by the collection's own function. Raises `Terminal` if it cannot be used."""
        if reason := self.why_no_text_queries(name):
            raise Terminal(ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, reason, where=self._at(name))
        info = self._infos[name]
        function = creation.stored_function(info.configuration, info.dimension, self._functions)
        try:
            return np.asarray(function.query(texts), np.float32).reshape(len(texts), -1)
        except Exception as error:  # a foreign model, or the service behind it
            raise Terminal(
                ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE,
                f"embedding function {function.name} failed: {one_line(str(error), 200)}",
                where=self._at(name),
            ) from error  # fmt: skip

    def document_contains(self, name: str, chunk: str, text: str) -> bool:
        """Return whether the full-text index finds this text in the document of an existing chunk."""
        collection = self._collection(name)
        answer = self.requests.send(
            lambda: collection.get(ids=[chunk], where_document=cast(Any, {"$contains": text}), include=[]),
            self._at(name),
        )
        return chunk in answer["ids"]

    def why_no_text_queries(self, name: str) -> str:
        """Return why text queries are not available for this collection, or "" where they are."""
        info = self._infos.get(name) or self.info(name)
        return creation.unavailable(info.configuration, info.dimension, self._functions)

    def unindexed(self, name: str) -> int:
        """Return the writes that the index does not hold yet; 0 if the server does not report them. Only Cloud indexes later."""
        collection = self._collection(name)
        try:
            status = self.requests.send(collection.get_indexing_status, self._at(name), retry=False)
        except (EnvironmentFailure, Narrower):
            return 0
        return int(status.num_unindexed_ops)

    # -- writing -------------------------------------------------------------------------------------------------------

    def limits(self) -> Limits:
        return self.requests.limits

    @property
    def limit_changes(self) -> tuple[str, ...]:
        return tuple(self.requests.limit_changes)

    def create(self, info: CollectionInfo) -> None:
        """Create a collection with the configuration, schema and metadata of `info`, and its effective space.

        Raises `Terminal` ("exists") where the name is used, except after a lost answer if the collection is `as_created`.
        """
        if info.schema is not None and not self._keeps_schemas():
            configuration = creation.effective_configuration(info)
            info = dataclasses.replace(info, schema=None, configuration=configuration, declared_space=info.space)
        done_once(
            lambda: creation.create(self.client, info),
            done=lambda: self.as_created(info), where=self._at(info.name), waits=self.usage.waits,
        )  # fmt: skip
        self._infos.pop(info.name, None)

    def _keeps_schemas(self) -> bool:
        """Return whether the lock's marker here has a schema: older servers accept one in a request, and drop it."""
        marker = self._existing(LOCK_COLLECTION)
        return marker is None or marker.get_model().serialized_schema is not None

    def as_created(self, info: CollectionInfo) -> bool:
        """Return whether the collection exists as `create` makes it: empty, with this space and these metadata keys."""
        self._infos.pop(info.name, None)
        if info.name not in self.names():
            return False
        existing = self.info(info.name)
        same_keys = set(existing.metadata or ()) == set(info.metadata or ())
        return existing.count == 0 and existing.space == info.space and same_keys

    def add(self, name: str, batch: ChunkBatch) -> None:
        """Add new chunks, in pieces that the server accepts. A piece is written whole or not at all.

        After a transient error the piece is read again by id and only absent chunks are sent again: an error does not mean
        "not written" (chroma-facts 12).
        """
        collection = self._collection(name)
        # Otherwise the client builds the collection's embedding functions for every batch, warns where it cannot, and adds
        # its own sparse vectors to the metadata.
        collection.get_model().serialized_schema = None
        rest = batch
        while len(rest):
            piece = next(pieces(rest, self.limits()))
            with suppress(Narrower):
                self._add_piece(collection, piece)
                rest = rest.slice(len(piece), len(rest))

    def _add_piece(self, collection: Collection, piece: ChunkBatch) -> None:
        where = self._at(collection.name)
        written_once(
            piece,
            write=lambda left: self.requests.send(
                lambda: _add(collection, left), where, retry=False, write=True, write_rows=len(left)
            ),
            present=lambda left: self._present(collection, left.ids),
            where=where,
            waits=self.usage.waits,
        )

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """Delete by explicit ids only: other calls ignore limits on some versions (chroma-facts)."""
        collection, where = self._collection(name), self._at(name)

        def send(piece: list[str]) -> None:
            self.requests.send(lambda: collection.delete(ids=piece), where, write=True, write_rows=len(piece))

        for _ in self._in_pieces(list(ids), lambda limits: min(500, limits.write_rows), send):
            pass

    def drop(self, name: str) -> None:
        """Delete the records, then the collection: deleting only the collection leaks list-valued metadata (chroma-facts 18)."""
        self.delete(name, self.ids(name))
        self.delete_empty(name)
        self._infos.pop(name, None)

    def close(self) -> None:
        self.client.close()


class VectorLost(Exception):
    """The store lists an id of this piece but cannot give its vector."""


def batch_of(ids: Sequence[str], answer: Mapping[str, Any], dimension: int, embeddings: bool) -> ChunkBatch:
    """Return an answer as a batch in the requested order. Raises `Terminal` for columns shorter than the ids (fact 16)."""
    listed = texts(answer["ids"])
    if len({*listed} & {*ids}) != len(listed) or {len(answer[c] or ()) for c in ("documents", "metadatas")} != {
        len(listed)
    }:
        raise Terminal(
            ReasonCode.NOT_JSON, f"an answer of {len(listed)} chunks that does not answer this request for {len(ids)}",
            next_step=WHAT_ANSWERS,
        )  # fmt: skip
    vectors: Any = answer.get("embeddings")
    if embeddings and (vectors is None or len(vectors) != len(listed)):
        raise VectorLost
    order, _ = align(ids, {chunk: row for row, chunk in enumerate(listed)})
    matrix = np.full((len(listed), dimension), np.nan, np.float32)
    if embeddings and len(listed):
        try:
            matrix = singles(vectors).reshape(len(listed), -1)
        except (TypeError, ValueError):
            raise VectorLost from None
    batch = ChunkBatch(
        ids=listed,
        documents=texts(answer["documents"], optional=True),
        embeddings=matrix,
        metadatas=[dict(m) if m else None for m in answer["metadatas"]],  # Chroma cannot hold {}; it is None
        uris=texts(answer.get("uris") or [None] * len(listed), optional=True),
    )
    return batch.take(order)


def _add(collection: Collection, piece: ChunkBatch) -> None:
    def column_or_none(column: Sequence[Any]) -> Any:
        return list(column) if any(v is not None for v in column) else None

    collection.add(
        ids=piece.ids,
        embeddings=piece.embeddings,
        documents=column_or_none(piece.documents),
        metadatas=column_or_none(piece.metadatas),
        uris=column_or_none(piece.uris),
    )


def pieces(batch: ChunkBatch, limits: Limits) -> Iterator[ChunkBatch]:
    """Yield the batch in pieces within the limits of rows and bytes; a single chunk over the limit is one piece."""
    start, weight = 0, 0
    for row in range(len(batch)):
        chunk = _body_bytes(batch, row)
        if row > start and (row - start >= limits.write_rows or weight + chunk > limits.write_bytes):
            yield batch.slice(start, row)
            start, weight = row, 0
        weight += chunk
    if start < len(batch):
        yield batch.slice(start, len(batch))


def _body_bytes(batch: ChunkBatch, row: int) -> int:
    """Return the bytes that a chunk adds to a request body: the vector in base64, texts as JSON with escapes."""
    texts = (batch.ids[row], batch.documents[row] or "", batch.uris[row] or "")
    metadata = json.dumps(batch.metadatas[row], default=str) if batch.metadatas[row] else ""
    return batch.dimension * 6 + sum(len(json.dumps(t)) for t in texts) + len(metadata) + 64
