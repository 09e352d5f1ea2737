"""A directory of Chroma 0.3 (duckdb and parquet), read directly: two Parquet files hold all of it.

`chroma-collections.parquet` has a row per collection (uuid, name, metadata as JSON text), `chroma-embeddings.parquet` a
row per chunk (collection_uuid, id, document, embedding as doubles, metadata as JSON text). The `index` folder beside
them is pickled Python and is never opened: it is made from the vectors. Queries are answered by brute force, exactly.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch, Metadata, align
from helpers.errors import Terminal
from helpers.reason_codes import ReasonCode
from helpers.stores.base import Closing, CollectionInfo, Neighbours, damage, distance, from_metadata
from helpers.stores.layout import COLLECTIONS, EMBEDDINGS, contents, leftovers
from helpers.stores.limits import NO_LIMIT, Limits, Usage

_COLUMNS = {
    COLLECTIONS: ("uuid", "name", "metadata"),
    EMBEDDINGS: ("collection_uuid", "embedding", "document", "id", "metadata"),
}


def is_duckdb_layout(path: Path) -> bool:
    """Whether the Parquet files of 0.3 hold the directory's chunks, and no database beside them does (`layout.contents`)."""
    return contents(path) == "parquet"


def duckdb_names(path: Path, rename: Mapping[str, str]) -> list[str]:
    """The collections of a directory of 0.3, as `rename` has them. Reads chunks only to tell collections of one name apart."""
    return sorted(_named(path, _read(path / COLLECTIONS).to_pylist(), rename, None))


class DuckdbStore(Closing):
    """Reads one directory of 0.3. Nothing is written there, nor copied: the two files are read once, into memory.

    0.3 kept collections by uuid, so two may have one name: `rename` gives the collection of a uuid another one.
    """

    protocol = "Parquet files, read directly"

    def __init__(
        self,
        path: Path,
        label: str,
        wanted: Callable[[str], bool] = lambda name: True,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self.label, self.version = label, "0.3 (duckdb and parquet)"
        self.findings: tuple[str, ...] = (
            "a directory of Chroma 0.3, read from its Parquet files; its index folder is not opened",
            *leftovers(path),
        )
        self.repairs: list[dict[str, Any]] = []
        self.usage = Usage()
        self.learnt: tuple[str, ...] = ()
        chunks = _read(path / EMBEDDINGS)
        self._collections = _named(path, _read(path / COLLECTIONS).to_pylist(), rename or {}, chunks)
        self._chunks: dict[str, _Chunks] = {}
        self._tables: dict[str, pa.Table] = {}
        owners = _owners(chunks)
        for name, row in self._collections.items():
            self._tables[name] = chunks.filter(pc.equal(owners, _uuid(row)))
            if wanted(name):
                self._of(name)  # what is wrong with it is said at once
        strays = len(chunks) - sum(len(table) for table in self._tables.values())
        if strays:
            self.findings += (f"{strays} chunks belong to no collection and are not migrated",)

    def limits(self) -> Limits:
        return Limits(0, 0, read_rows=NO_LIMIT, page_rows=NO_LIMIT, query_vectors=NO_LIMIT)  # all of it is in memory

    def names(self) -> list[str]:
        return sorted(self._collections)

    def collections(self) -> list[CollectionInfo]:
        return [self.info(name) for name in self.names()]

    def info(self, name: str) -> CollectionInfo:
        chunks = self._of(name)
        metadata = _metadata(self._collections[name]["metadata"])
        space = from_metadata(metadata) or "l2"
        configuration = {"hnsw": {"space": space}, "spann": None, "embedding_function": None}
        return CollectionInfo(name, len(chunks.batch), chunks.dimension, space, space, metadata, configuration,
                              findings=chunks.findings)  # fmt: skip

    def count(self, name: str) -> int:
        return len(self._table(name))

    def ids(self, name: str) -> list[str]:
        return list(self._of(name).batch.ids)

    def some_ids(self, name: str, most: int) -> list[str]:
        return self._of(name).batch.ids[:most]

    def read(self, name: str, ids: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
        """These chunks, in this order; unknown ids are absent."""
        chunks = self._of(name)
        rows, _ = align(ids, chunks.rows)
        found = chunks.batch.take(rows)
        if not embeddings:
            found.embeddings = np.zeros((len(found), 0), np.float32)
            found.lost = np.zeros(len(found), dtype=bool)
        return found

    def query(self, name: str, vectors: npt.ArrayLike, k: int) -> Neighbours:
        """The k nearest of each row of `vectors`, by brute force over every chunk."""
        batch, space = self._of(name).batch, self.info(name).space
        usable = np.flatnonzero(~batch.lost)
        found: Neighbours = []
        for vector in np.asarray(vectors, np.float32):
            away = distance(space, batch.embeddings[usable], vector) if len(usable) else np.zeros(0)
            nearest = np.argsort(away, kind="stable")[:k]
            found.append([(batch.ids[usable[i]], float(away[i])) for i in nearest])
        return found

    def query_texts(self, name: str, texts: Sequence[str], k: int) -> list[list[tuple[str, float, str | None]]]:
        where = f"collection {name} of {self.label}"
        raise Terminal(ReasonCode.EMBEDDING_FUNCTION_UNAVAILABLE, self.text_queries_available(name), where=where)

    def text_queries_available(self, name: str) -> str:
        return "Chroma 0.3 keeps no embedding function"

    def unindexed(self, name: str) -> int:
        """Writes that the index does not hold yet: none, here it is written at once."""
        return 0

    def close(self) -> None:
        self._chunks.clear()
        self._tables.clear()

    def _of(self, name: str) -> _Chunks:
        if name not in self._chunks:
            self._chunks[name] = _Chunks(self._table(name), f"collection {name} of {self.label}")
        return self._chunks[name]

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            raise Terminal(ReasonCode.NOT_FOUND, f"no collection {name}", where=self.label)
        return self._tables[name]


def _uuid(row: Mapping[str, Any]) -> str:
    return str(row["uuid"]).lower()


def _owners(chunks: pa.Table) -> Any:
    """The uuid of each chunk's collection."""
    return pc.utf8_lower(pc.cast(chunks.column("collection_uuid"), pa.string()))


def _named(
    path: Path, rows: Sequence[dict[str, Any]], rename: Mapping[str, str], chunks: pa.Table | None
) -> dict[str, dict[str, Any]]:
    """The rows of the collections' file by name. Raises `Terminal` ("source_doubled_names") where two have one name.

    `chunks` are read only where they are needed to say how many each of the two has.
    """
    names = {uuid.lower(): name for uuid, name in rename.items()}
    if unknown := sorted(set(names) - {_uuid(row) for row in rows}):
        raise Terminal(
            ReasonCode.UNKNOWN_COLLECTION, f"no collection has the uuid {unknown[0]}, which source.rename names", where=str(path),
            next_step=f"The uuids are in {COLLECTIONS}.",
        )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(names.get(_uuid(row), str(row["name"])), []).append(row)
    doubled = {name: same for name, same in found.items() if len(same) > 1}
    if not doubled:
        return {name: same[0] for name, same in found.items()}
    counts = Counter(_owners(_read(path / EMBEDDINGS) if chunks is None else chunks).to_pylist())
    told = "; ".join(
        f"{len(same)} collections are named {name}: "
        + " and ".join(f"{_uuid(row)} with {counts[_uuid(row)]:,} chunks" for row in same)
        for name, same in sorted(doubled.items())
    )
    name, same = sorted(doubled.items())[0]
    raise Terminal(
        ReasonCode.SOURCE_DOUBLED_NAMES, told, where=str(path),
        next_step=f"Name them apart: --set 'source.rename={{{_uuid(same[-1])}: {name}-2}}'",
    )  # fmt: skip


class _Chunks:
    """The chunks of one collection; vectors of another size than most count as lost."""

    def __init__(self, table: pa.Table, where: str) -> None:
        ids = [str(i) for i in table.column("id").to_pylist()]
        self.rows = {chunk: row for row, chunk in enumerate(ids)}
        if len(self.rows) < len(ids):
            twice = next(i for i, n in Counter(ids).items() if n > 1)
            raise Terminal(
                ReasonCode.SOURCE_DOUBLED_IDS, f"{len(ids) - len(self.rows)} chunks have the id of another one, such as {twice}",
                where=where, next_step="Servers hold an id once: rename these, or leave the collection out, collections.exclude.",
            )  # fmt: skip
        vectors = [np.asarray(v, np.float32) if v is not None else None for v in table.column("embedding").to_pylist()]
        sizes = Counter(len(v) for v in vectors if v is not None and len(v))
        self.dimension = sizes.most_common(1)[0][0] if sizes else None
        lost = np.array([v is None or len(v) != self.dimension for v in vectors], dtype=bool)
        matrix = np.full((len(ids), self.dimension or 0), np.nan, np.float32)
        for row in np.flatnonzero(~lost):
            matrix[row] = vectors[row]
        said = f"{int(lost.sum())} chunks have no vector of {self.dimension} dimensions"
        self.findings = (damage(said, counted=True),) if lost.any() else ()
        self.batch = ChunkBatch(
            ids=ids,
            documents=table.column("document").to_pylist(),
            embeddings=matrix,
            metadatas=[_metadata(text) for text in table.column("metadata").to_pylist()],
            lost=lost,
        )


def _metadata(text: str | None) -> Metadata | None:
    """Metadata from its JSON text; `null`, nothing and `{}` are all none."""
    value = json.loads(text) if text else None
    return value if isinstance(value, dict) and value else None


def _read(file: Path) -> pa.Table:
    """One of the two files. Raises `Terminal` where it is absent, a pointer, cut short or something else."""
    where = str(file)
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(_LFS)) == _LFS
        if not pointer:
            table = pq.ParquetFile(file).read()
    except FileNotFoundError as error:
        raise Terminal(
            ReasonCode.SOURCE_INCOMPLETE, "a directory of Chroma 0.3 without this file", where=where,
            next_step="Copy the whole folder again.",
        ) from error  # fmt: skip
    except (OSError, pa.ArrowException) as error:
        raise Terminal(
            ReasonCode.SOURCE_DAMAGED,
            f"no readable Parquet file: {error}",
            where=where,
            next_step="Copy the folder again.",
        ) from error
    if pointer:
        raise Terminal(
            ReasonCode.SOURCE_LFS_POINTER, "a Git LFS pointer, not the file itself", where=where,
            next_step="Run `git lfs pull` where it came from and copy the folder again.",
        )  # fmt: skip
    missing = [name for name in _COLUMNS[file.name] if name not in table.column_names]
    if missing:
        raise Terminal(ReasonCode.SOURCE_FOREIGN_FILE, f"has no column {', '.join(missing)}", where=where)
    return table
