"""A store behind API v1, over plain HTTP: servers of 0.4.0 to 0.5.15, which the current client does not support.

It reads all that a migration needs. It writes only for a write probe and an ordered restore; an old server is never a target.
Like the store of the current client it freezes ids first and reads by id, aligned by id.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.reason_codes import ReasonCode
from helpers.stores import (
    Closing,
    CollectionInfo,
    Neighbours,
    checked_dimension,
    every_id,
    fitting,
    from_metadata,
    is_marker,
    resolve,
    texts,
)
from helpers.stores.client import VectorLost, batch_of, pieces, proven_spaces
from helpers.stores.limits import Limits, Requests, Usage, done_once, written_once
from helpers.stores.wire import json_of

LIST_PAGE = 1_000
_CONTENT = ["documents", "metadatas"]
_LIMITS = Limits(5_000, 32 * 2**20, page_rows=50_000)  # these servers accept 41,666 rows; a proxy may not
_NO_FUNCTION = "servers of API v1 keep no embedding function"
_Collection = dict[str, Any]  # as the server describes it: id, name, metadata, and a dimension on some versions


class ApiV1Store(Closing):
    """One tenant and database of an old server. `http` has the address, headers, TLS setting and time-out."""

    protocol = "API v1"

    def __init__(
        self, http: httpx.Client, label: str, *, tenant: str, database: str, usage: Usage | None = None
    ) -> None:
        self._http, self.label = http, label
        self._place = {"tenant": tenant, "database": database}
        self.requests = Requests(_LIMITS, usage)  # servers of these versions have no quotas
        self.usage = self.requests.usage
        self._infos: dict[str, CollectionInfo] = {}
        self._known: dict[str, _Collection] = {}
        self._uris = True  # until the server refuses them (before 0.4.15)
        self.version = str(self._ask("GET", "version"))

    # -- what there is -------------------------------------------------------------------------------------------------

    @fitting
    def names(self) -> list[str]:
        """Return the names of the collections. Some versions ignore limit and offset: a page with nothing new is the last."""
        known: dict[str, _Collection] = {}
        while True:
            page = self._ask("GET", "collections", {"limit": LIST_PAGE, "offset": len(known)})
            new = {c["name"]: c for c in page if c["name"] not in known}
            known.update(new)
            if len(page) < LIST_PAGE or not new:
                return sorted(name for name, c in known.items() if not is_marker(self, name, c["metadata"]))

    def collections(self) -> list[CollectionInfo]:
        return [self.info(name) for name in self.names()]

    @fitting
    def info(self, name: str) -> CollectionInfo:
        """Return the collection, its effective space proven by a probe. All but the count is cached.

        The configuration of these servers is left out: it is l2 whatever the index does (chroma-facts 2). The metadata
        `hnsw:*` hold the index's parameters.
        """
        collection = self._collection(name)
        count = self.count(name)
        known = self._infos.get(name)
        if known is None:
            metadata = collection.get("metadata")
            declared = from_metadata(metadata)
            proven = proven_spaces(self, name, self.some_ids(name, 20))
            space, finding = resolve([declared], proven)
            if proven and space != (declared or "l2") and not finding:
                finding = f"nothing declares a space, which means l2, but queries answer {space}"
            known = self._infos[name] = CollectionInfo(
                name, count, self._dimension(name), space, declared or "l2", metadata=metadata or None,
                findings=(finding,) if finding else (),
            )  # fmt: skip
        return CollectionInfo(
            name, count, known.dimension, known.space, known.declared_space, known.metadata, findings=known.findings
        )

    def _collection(self, name: str) -> _Collection:
        if name not in self._known:
            self._known[name] = self._ask("GET", f"collections/{quote(name, safe='')}", where=self._at(name))
        return self._known[name]

    def identity(self, name: str) -> str:
        """Return the uuid that this collection has now."""
        return str(self._ask("GET", f"collections/{quote(name, safe='')}", where=self._at(name))["id"])

    def _path(self, name: str, what: str) -> str:
        return f"collections/{self._collection(name)['id']}/{what}"

    def _dimension(self, name: str) -> int | None:
        """Return the dimension of the vectors; for 0.4, which does not give it, that of the first readable vector."""
        collection = self._collection(name)
        if not collection.get("dimension"):
            ids = self.some_ids(name, 20)
            collection["dimension"] = self._read_piece(name, ids, True).dimension if ids else None
        return checked_dimension(collection["dimension"], self._at(name)) or None

    def _at(self, name: str) -> str:
        return f"collection {name} of {self.label}"

    # -- reading -------------------------------------------------------------------------------------------------------

    @fitting
    def count(self, name: str) -> int:
        return int(self._ask("GET", self._path(name, "count"), where=self._at(name)))

    @fitting
    def ids(self, name: str) -> list[str]:
        """Return every id once, in the store's order. If they are fewer than the count, ask again without pages."""
        ids: dict[str, None] = {}
        every_id(
            lambda at: self._get(name, {"limit": _LIMITS.page_rows, "offset": at}, [])["ids"],
            lambda: self.count(name), self._at(name), ids,
        )  # fmt: skip
        if len(ids) < self.count(name):
            ids.update(dict.fromkeys(self._get(name, {}, [])["ids"]))
        return list(ids)

    @fitting
    def some_ids(self, name: str, most: int) -> list[str]:
        """Return the first ids, at most `most`, in one request."""
        return [str(i) for i in self._get(name, {"limit": most, "offset": 0}, [])["ids"][:most]]

    @fitting
    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        """Return these chunks, in this order; ids that the store does not hold are absent."""
        dimension = (self._dimension(name) or 0) if embeddings else 0
        step = _LIMITS.read_step(dimension)
        parts = [
            self._read_piece(name, ids[start : start + step], embeddings, dimension)
            for start in range(0, len(ids), step)
        ]
        return ChunkBatch.concatenate(parts) if parts else ChunkBatch.empty(dimension)

    def _read_piece(self, name: str, ids: Sequence[str], embeddings: bool, dimension: int = 0) -> ChunkBatch:
        """Return the chunks of one answer. Halve the piece where a vector is missing, until its id is alone.

        An old server that misses a vector leaves it out of the answer, or fails with 500.
        """
        request = {"ids": list(dict.fromkeys(ids))}
        if not embeddings:
            return batch_of(ids, self._get(name, request, _CONTENT), 0, False)
        try:
            return batch_of(ids, self._get(name, request, [*_CONTENT, "embeddings"]), dimension, True)
        except (VectorLost, _ServerFailed):
            if len(ids) > 1:
                middle = len(ids) // 2
                halves = (ids[:middle], ids[middle:])
                return ChunkBatch.concatenate([self._read_piece(name, h, True, dimension) for h in halves])
            batch = batch_of(
                ids, self._get(name, request, _CONTENT), dimension, False
            )  # raises where nothing can be read
            with suppress(VectorLost, _ServerFailed):  # a server that was only busy gives the vector now
                return batch_of(ids, self._get(name, request, [*_CONTENT, "embeddings"]), dimension, True)
            batch.lost[:] = True
            return batch

    def _get(self, name: str, parameters: Mapping[str, Any], include: Sequence[str]) -> dict[str, Any]:
        """Return an answer of `get`. An empty `where` is left out: 0.5.23 refuses it."""
        path, at = self._path(name, "get"), self._at(name)
        if not include or not self._uris:
            return self._counted(self._ask("POST", path, body={**parameters, "include": list(include)}, where=at))
        try:
            return self._counted(self._ask("POST", path, body={**parameters, "include": [*include, "uris"]}, where=at))
        except Terminal as error:
            if error.code == ReasonCode.FORBIDDEN:
                raise
            answer = self._counted(self._ask("POST", path, body={**parameters, "include": list(include)}, where=at))
            self._uris = False  # the same request without uris succeeded
            return answer

    def _counted(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.usage.add(rows=len(texts(answer["ids"])))
        return dict(answer)

    @fitting
    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """Return the k nearest of each row of `vectors` (n, d): (id, distance), best first. Some versions answer k + 1."""
        rows = np.asarray(vectors, np.float32)
        hits: Neighbours = []
        for start in range(0, len(rows), _LIMITS.query_vectors):
            body: dict[str, Any] = {
                "query_embeddings": rows[start : start + _LIMITS.query_vectors].tolist(),
                "n_results": k,
                "include": ["distances"],
            }
            answer = self._ask("POST", self._path(name, "query"), body=body, where=self._at(name))
            self.usage.add(rows=sum(map(len, answer["ids"])))
            for ids, distances in zip(answer["ids"], answer["distances"], strict=True):
                hits.append([(i, float(d)) for i, d in zip(ids[:k], distances[:k], strict=True)])
        return hits

    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]:
        raise Terminal(ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, _NO_FUNCTION, where=self._at(name))

    def why_no_text_queries(self, name: str) -> str:
        """Return why text queries are not available: never on these servers."""
        return _NO_FUNCTION

    def unindexed(self, name: str) -> int:
        """Return the writes that the index does not hold yet: none, these servers index at once."""
        return 0

    # -- writing: for a write probe, and to restore what the source lost -----------------------------------------------

    def limits(self) -> Limits:
        return self.requests.limits

    @property
    def limit_changes(self) -> tuple[str, ...]:
        return ()

    def create(self, info: CollectionInfo) -> None:
        """Create a collection with this metadata and space. Raises `Terminal` ("exists") where the name is used."""
        body = {"name": info.name, "metadata": {**(info.metadata or {}), "hnsw:space": info.space}}
        try:
            done_once(
                lambda: self._ask("POST", "collections", body={**body, "get_or_create": False}, retry=False),
                done=lambda: info.name in self.names() and not self.count(info.name), where=self._at(info.name),
            )  # fmt: skip
        except Terminal as error:
            if "already exists" in error.what:
                problem, hint = f"collection {info.name} already exists", "Nothing was changed there."
                raise Terminal(ReasonCode.EXISTS, problem, where=self.label, next_step=hint) from error
            raise
        self._forget(info.name)

    def add(self, name: str, batch: ChunkBatch) -> None:
        """Add new chunks, in pieces. Chunks with and without a document never share one: such a batch makes the log of these
        versions unreadable after a later upgrade (chroma-facts 3).
        """

        def shape(row: int) -> tuple[bool, ...]:
            return tuple(column[row] is not None for column in (batch.documents, batch.metadatas, batch.uris))

        path, at = self._path(name, "add"), self._at(name)
        for _, rows in itertools.groupby(sorted(range(len(batch)), key=shape), key=shape):
            for piece in pieces(batch.take(rows), _LIMITS):
                written_once(
                    piece,
                    write=lambda left: self._ask("POST", path, body=_body(left), where=at, retry=False),
                    present=lambda left: self._get(name, {"ids": left.ids}, [])["ids"],
                    where=at,
                )
        self._forget(name)

    def delete(self, name: str, ids: Sequence[str]) -> None:
        """Delete by explicit ids."""
        for start in range(0, len(ids), 500):
            body = {"ids": list(ids[start : start + 500])}
            self._ask("POST", self._path(name, "delete"), body=body, where=self._at(name))

    def drop(self, name: str) -> None:
        done_once(
            lambda: self._ask("DELETE", f"collections/{quote(name, safe='')}", where=self._at(name), retry=False),
            done=lambda: name not in self.names(), where=self._at(name),
        )  # fmt: skip
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._infos.pop(name, None)
        self._known.pop(name, None)

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        body: Any = None,
        where: str = "",
        retry: bool = True,
    ) -> Any:
        """Return the JSON of an answer. Errors are translated; with `retry` transient ones are retried."""

        def call() -> Any:
            content = None if body is None else json.dumps(body).encode()
            answer = self._http.request(
                method, f"api/v1/{path}", params={**self._place, **(parameters or {})}, content=content
            )
            if not answer.is_success:
                raise _refusal(answer, where or self.label)
            return json_of(answer, where=where or self.label)

        return self.requests.send(call, where or self.label, retry=retry)

    def close(self) -> None:
        self._http.close()


class _ServerFailed(Terminal):
    """The server answered 500, as it does for vectors that it lost."""


def _refusal(answer: httpx.Response, where: str) -> Terminal:
    """Return an unsuccessful answer as an error with the server's text. Old servers answer 500 to anything."""
    try:
        body = answer.json()
        parts = [body.get(key) for key in ("error", "message", "detail")] if isinstance(body, dict) else [body]
        text = ": ".join(str(part) for part in parts if part)  # 0.5.16 puts the name in error, the words in message
    except ValueError:
        text = answer.text.strip()
    text = f"{text or 'no reason given'} ({answer.status_code})"
    if answer.status_code in (401, 403):
        return Terminal(
            ReasonCode.FORBIDDEN, text, where=where, next_step="Check headers, or whether a write fence is up."
        )
    if answer.status_code == 404 or "does not exist" in text:
        return Terminal(
            ReasonCode.NOT_FOUND, text, where=where, next_step="Check tenant, database and collection names."
        )
    return (_ServerFailed if answer.status_code == 500 else Terminal)(ReasonCode.REFUSED, text, where=where)


def _body(piece: ChunkBatch) -> dict[str, Any]:
    body: dict[str, Any] = {"ids": piece.ids, "embeddings": piece.embeddings.tolist()}
    columns: tuple[tuple[str, Sequence[Any]], ...] = (
        ("documents", piece.documents), ("metadatas", piece.metadatas), ("uris", piece.uris),
    )  # fmt: skip
    return body | {key: column for key, column in columns if any(v is not None for v in column)}
