"""Damaged Chroma directories, made from sound ones: one function a damage, for the tests of rescue and of the doctor.

`make(name, bases, folder)` copies the base of a damage, damages the copy and says what there is to know of it. `bases` is a
folder for sound directories that several damages share; they are made there once. Real ones come from real-databases.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.stores.index_files import HEADER, LENGTHS, LINKS, PICKLE, ROWS, read_header, read_pickle
from helpers.stores.layout import DATABASE
from tests.storage import chunks, embedded, index_folder, plan, writable_copy

TERABYTE = 2**40
_BASES = {  # base → (folder of real-databases or "", collection)
    "logged": ("turkish-768-0.5", "yok_student_rights"),  # 0.5, 51 chunks, all vectors in the log, none in the index
    "purged": ("no-documents-128-1.x", "items_128d"),  # 1.x, 1000 chunks, all vectors in the index, the log emptied
    "cosine": ("", "notes"),  # 1.5.9, 200 chunks with texts: 150 vectors in the index only, 50 in the log only
}


@dataclass(frozen=True)
class Damaged:
    """A directory and its `original`, which is sound. Ids of `collection`: `lost` are in no file any more; `normalised` have
    lost their norm. `codes` are among the problems that `IndexFolder.health` names (none where the index is not what is broken).
    """

    name: str
    folder: Path
    original: Path
    collection: str
    lost: frozenset[str] = frozenset()
    normalised: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    rewritten: dict[str, Any] = field(
        default_factory=dict
    )  # id → its newest vector, float32, where the log has another
    marker: Path | None = None  # what a malicious pickle would have made, had it run


@dataclass
class _Bench:
    """What a damage has to work with: the copy, its collection, the index folder."""

    folder: Path
    collection: str
    lost: set[str] = field(default_factory=set)
    normalised: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    rewritten: dict[str, Any] = field(default_factory=dict)
    marker: Path | None = None

    @property
    def index(self) -> Path:
        return index_folder(self.folder, self.collection)

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / DATABASE)) as db, db:
            return db.execute(statement, values).fetchall()

    def rows(self, wanted: Callable[[int], bool]) -> list[str]:
        """The ids whose row number in `data_level0.bin` is wanted."""
        geometry = read_header(self.index / HEADER)
        rows = np.memmap(self.index / ROWS, geometry.dtype, "r", shape=(geometry.elements,))
        ids = {label: chunk for chunk, label in read_pickle(self.index / PICKLE).labels.items()}
        return [ids[label] for row, label in enumerate(rows["label"].tolist()) if wanted(row) and label in ids]


def torn_rows(bench: _Bench) -> None:
    """A crash while rows were written: fifty of them are zeros."""
    geometry = read_header(bench.index / HEADER)
    bench.lost |= set(bench.rows(lambda row: 400 <= row < 450))
    with (bench.index / ROWS).open("r+b") as file:
        file.seek(400 * geometry.row)
        file.write(bytes(50 * geometry.row))
    bench.codes.add("rows_damaged")


def truncated_rows(bench: _Bench) -> None:
    """A copy that stopped in the middle of row 600."""
    row = read_header(bench.index / HEADER).row
    bench.lost |= set(bench.rows(lambda number: number >= 600))
    os.truncate(bench.index / ROWS, 600 * row + 17)
    bench.codes |= {"rows_truncated", "rows_damaged"}


def sparse_links(bench: _Bench) -> None:
    """Upstream #7510: a torn record sent the writer 1 TB away; the file occupies a few kB."""
    with (bench.index / LINKS).open("r+b") as file:
        file.truncate(TERABYTE)
        file.seek(TERABYTE - 4)
        file.write(b"\x01\x00\x00\x00")
    bench.codes.add("links_bloated")


def missing_header(bench: _Bench) -> None:
    """`header.bin` was left behind by a copy."""
    (bench.index / HEADER).unlink()
    bench.codes.add("header_missing")


def malicious_pickle(bench: _Bench) -> None:
    """A pickle that makes a file when it is loaded, in place of the label map. All vectors are in the log."""
    bench.marker = bench.folder.with_name(f"{bench.folder.name}.owned")
    (bench.index / PICKLE).write_bytes(pickle.dumps(_Bomb(bench.marker)))
    bench.codes.add("pickle_foreign")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def malicious_pickle_alone(bench: _Bench) -> None:
    """The same where the log was emptied: without the map nobody knows which row is whose."""
    bench.lost |= set(read_pickle(bench.index / PICKLE).labels)
    malicious_pickle(bench)


def wedged_replay(bench: _Bench) -> None:
    """Upstream #7678: the index was saved in the middle of a replay, so rows are marked as deleted whose new vectors are
    still in the log. Counts look healthy; an engine cannot apply the log, and vectors cannot be read.
    """
    labels = read_pickle(bench.index / PICKLE).labels
    again = list(labels)[:20]
    topic, last = bench.sql("select topic, max(seq_id) from embeddings_queue")[0]
    width = bench.sql("select length(vector) from embeddings_queue where vector is not null limit 1")[0][0]
    vectors = np.random.default_rng(7).standard_normal((len(again), width // 4)).astype("<f4")
    for number, (chunk, vector) in enumerate(zip(again, vectors, strict=True), start=1):
        bench.sql(
            "insert into embeddings_queue (seq_id, operation, topic, id, vector, encoding, metadata) "
            "values (?, 2, ?, ?, ?, 'FLOAT32', '{}')",
            last + number, topic, chunk, vector.tobytes(),
        )  # fmt: skip
    bench.rewritten |= dict(zip(again, vectors, strict=True))
    geometry = read_header(bench.index / HEADER)
    rows = np.memmap(bench.index / ROWS, geometry.dtype, "r+", shape=(geometry.elements,))
    marked = np.isin(rows["label"], [labels[chunk] for chunk in again])
    rows["flags"][marked] |= 0x10000
    rows.flush()
    bench.codes.add("rows_damaged")


def pickle_ahead(bench: _Bench) -> None:
    """The pickle says that the index was saved far beyond the end of SQLite's log, as after a restored database."""
    _rewrite_pickle(bench, 10**6)


def pickle_alone(bench: _Bench) -> None:
    """Upstream #7104: only the pickle says up to where the index was saved, as 0.4 to 0.5.5 left it."""
    [(saved,)] = bench.sql("select seq_id from max_seq_id where segment_id = ?", bench.index.name)
    _rewrite_pickle(bench, int(saved))


def _rewrite_pickle(bench: _Bench, saved: int) -> None:
    found = read_pickle(bench.index / PICKLE)
    labels = {label: chunk for chunk, label in found.labels.items()}
    state = {"dimensionality": found.dimension, "total_elements_added": found.added, "max_seq_id": saved,
             "id_to_label": found.labels, "label_to_id": labels, "id_to_seq_id": {}}  # fmt: skip
    (bench.index / PICKLE).write_bytes(pickle.dumps(state, 3))
    bench.sql("delete from max_seq_id where segment_id = ?", bench.index.name)


def dropped_fulltext(bench: _Bench) -> None:
    """The table of the full-text index is gone, as after a `.recover` that left virtual tables out."""
    bench.sql("drop table embedding_fulltext_search")


def malformed_fulltext(bench: _Bench) -> None:
    """A block of the full-text index is damaged: everything can still be read, but SQLite's own check refuses it."""
    bench.sql("update embedding_fulltext_search_data set block = zeroblob(length(block)) where id > 100")


def nan_in_log(bench: _Bench) -> None:
    """Metadata as Python's json writes them and nobody else reads: NaN and infinities, in log and order of 0.5.7."""
    for number, token in ((3, "NaN"), (13, "Infinity"), (23, "-Infinity")):
        [(text,)] = bench.sql("select metadata from embeddings_queue where seq_id = ?", number)
        bench.sql(
            "update embeddings_queue set metadata = ? where seq_id = ?", text[:-1] + f', "score": {token}}}', number
        )
        bench.sql(  # what the metadata segment makes of it: SQLite has no NaN
            "insert into embedding_metadata (id, key, float_value) select id, 'score', ? from embeddings "
            "where embedding_id = (select id from embeddings_queue where seq_id = ?)",
            float(token),
            number,
        )


def bookmark_beyond_log(bench: _Bench) -> None:
    """A11: the metadata segment claims to have taken in the whole log, but the last 25 records are not there."""
    [(segment,)] = bench.sql("select id from segments where scope = 'METADATA'")
    ids = [
        row[0] for row in bench.sql("select id from embeddings where segment_id = ? order by id desc limit 25", segment)
    ]
    for row in ids:
        for table in ("embedding_metadata", "embeddings"):
            bench.sql(f"delete from {table} where id = ?", row)
        bench.sql("delete from embedding_fulltext_search where rowid = ?", row)
    bench.sql("update max_seq_id set seq_id = ? where segment_id = ?", (2**40).to_bytes(8, "big"), segment)


def lost_norms(bench: _Bench) -> None:
    """`length.bin` of a cosine index is cut: of those rows only the direction is known."""
    bench.normalised |= set(bench.rows(lambda row: row >= 40))
    os.truncate(bench.index / LENGTHS, 4 * 40)
    bench.codes |= {"lengths_truncated", "norms_missing"}


def linked_database(bench: _Bench) -> None:
    """A4: `chroma.sqlite3` is a link to another volume, where its write-ahead log lies too."""
    elsewhere = bench.folder.with_name(f"{bench.folder.name}.volume")
    elsewhere.mkdir()
    shutil.move(bench.folder / DATABASE, elsewhere / "real.sqlite3")
    (bench.folder / DATABASE).symlink_to(elsewhere / "real.sqlite3")


DAMAGES: dict[str, tuple[str, Callable[[_Bench], None]]] = {
    "torn rows": ("purged", torn_rows),
    "truncated rows": ("purged", truncated_rows),
    "sparse 1 TB link_lists.bin": ("purged", sparse_links),
    "missing header.bin": ("purged", missing_header),
    "malicious pickle": ("logged", malicious_pickle),
    "malicious pickle, empty log": ("purged", malicious_pickle_alone),
    "wedged replay": ("cosine", wedged_replay),
    "pickle ahead of SQLite": ("cosine", pickle_ahead),
    "bookmark in the pickle alone": ("cosine", pickle_alone),
    "dropped full-text table": ("logged", dropped_fulltext),
    "malformed full-text index": ("logged", malformed_fulltext),
    "NaN in the log": ("logged", nan_in_log),
    "bookmark beyond the log": ("logged", bookmark_beyond_log),
    "lost norms": ("cosine", lost_norms),
    "database behind a link": ("logged", linked_database),
}


def make(name: str, real_databases: Path, bases: Path, folder: Path) -> Damaged:
    """The directory `folder` with the damage of this name; its sound original is in `bases`."""
    base, damage = DAMAGES[name]
    original = sound(base, real_databases, bases)
    bench = _Bench(writable_copy(original, folder), _BASES[base][1])
    damage(bench)
    logged = {row[0] for row in bench.sql("select id from embeddings_queue where vector is not null")}
    return Damaged(
        name, folder, original, bench.collection, frozenset(bench.lost - logged), frozenset(bench.normalised - logged),
        frozenset(bench.codes), bench.rewritten, bench.marker,
    )  # fmt: skip


def sound(base: str, real_databases: Path, bases: Path) -> Path:
    """A sound directory of this kind, made or copied once."""
    original = bases / base
    if original.is_dir():
        return original
    real, collection = _BASES[base]
    if real:
        return writable_copy(real_databases / real, original)
    with embedded(original) as store:
        written = {"hnsw": {"space": "cosine", "batch_size": 50, "sync_threshold": 150}}  # 150 rows are saved, 50 wait
        store.create(replace(plan(collection, "cosine"), configuration=written))
        batch: ChunkBatch = chunks(200, 24, seed=5)
        batch.embeddings *= np.linspace(0.1, 30, 200, dtype=np.float32)[:, None]
        for start in range(0, 200, 50):
            store.add(collection, batch.slice(start, start + 50))
    return original
