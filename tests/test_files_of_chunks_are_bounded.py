"""A file of chunks that becomes too large is refused before it is decoded, whatever its pages and its footer say."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.chunks import read_table
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import to_table
from helpers.stores import layout, open_source
from helpers.stores.layout import COLLECTIONS, EMBEDDINGS
from tests.storage import chunks, embedded, fill
from tests.test_source_layout_0_3 import write_old

HUGE, ROWS = "x" * 2**20, 8_192
ONE = pa.array([[0.5] * 2**21])


def repeated(value: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def old(folder: Path, rows: int, **columns: pa.Array) -> Path:
    """A directory of 0.3 of a few kB with these columns in its file of chunks."""
    write_old(folder, [{"id": "a", "document": "d", "embedding": [1.0]}])
    table = pa.table({
        "collection_uuid": repeated("u", rows), "uuid": repeated("v", rows), "embedding": pa.nulls(rows, pa.list_(pa.float64())),
        "document": repeated("d", rows), "id": pa.array(map(str, range(rows))), "metadata": repeated("null", rows), **columns,
    })  # fmt: skip
    pq.write_table(table, folder / EMBEDDINGS, compression="zstd", store_schema=False)
    return folder


def refusal(folder: Path, tmp_path: Path) -> str:
    before = pa.total_allocated_bytes()
    with pytest.raises(Terminal) as caught, open_source(Endpoint(path=str(folder)), tmp_path / "scratch"):
        pass
    assert pa.total_allocated_bytes() - before < 2**28
    line = caught.value.line()
    assert line.isprintable()
    assert "Copy the folder again" in line
    return line


@pytest.mark.parametrize("column", ["document", "metadata", "id", "collection_uuid"])
def test_one_text_millions_of_times_is_refused_in_one_line(tmp_path: Path, column: str) -> None:
    folder = old(tmp_path / "old", ROWS, **{column: repeated(HUGE, ROWS)})
    assert (folder / EMBEDDINGS).stat().st_size < 2**17
    assert "decoded it would have 8,59" in refusal(folder, tmp_path)


@pytest.mark.more
def test_lists_of_one_number_without_end_are_refused(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", 40, embedding=pa.concat_arrays([ONE] * 40))
    assert (folder / EMBEDDINGS).stat().st_size < 2**17
    assert "decoded it would have" in refusal(folder, tmp_path)


def test_texts_by_their_beginnings_are_refused(tmp_path: Path) -> None:
    """Another encoding in which a text is said again in a few bytes."""
    folder = old(tmp_path / "old", 10)
    table = pq.read_table(folder / EMBEDDINGS).set_column(3, "document", pa.array([HUGE] * 10))
    pq.write_table(table, folder / EMBEDDINGS, use_dictionary=False, column_encoding={"document": "DELTA_BYTE_ARRAY"})
    assert "encoded as neither Chroma nor this toolkit writes it" in refusal(folder, tmp_path)


def test_the_file_of_collections_is_no_way_round(tmp_path: Path) -> None:
    folder = old(tmp_path / "old", 1)
    table = pa.table(
        {
            "uuid": repeated("u", ROWS),
            "name": pa.array(map(str, range(ROWS))),
            "metadata": repeated(HUGE, ROWS),
        }
    )
    pq.write_table(table, folder / COLLECTIONS, compression="zstd")
    assert "decoded it would have" in refusal(folder, tmp_path)


def test_what_an_upgrade_left_beside_a_database_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids are compared with those of the database."""
    refused: list[str] = []

    def watched(path: Path, columns: list[str] | None = None) -> pa.Table:
        try:
            return read_table(path, columns)
        except ValueError as error:
            refused.append(f"{columns}: {error}")
            raise

    monkeypatch.setattr(layout, "read_table", watched)
    folder = old(tmp_path / "old", ROWS, id=repeated(HUGE, ROWS))
    (folder / "chroma.sqlite3").write_bytes(b"SQLite format 3\x00")
    with pytest.raises(Terminal), open_source(Endpoint(path=str(folder)), tmp_path / "scratch"):
        pass
    assert refused
    assert all(line.startswith("['id']: decoded it would have") for line in refused)


def test_a_page_that_holds_more_than_the_footer_says_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lies.parquet"
    pq.write_table(
        pa.table({"id": ["a"] * 1_000}), file, compression="none", use_dictionary=False, write_statistics=False
    )
    data = file.read_bytes()
    assert data.count(b"\x15\xd0\x0f\x15") == 1  # the page's 1,000 values
    file.write_bytes(data.replace(b"\x15\xd0\x0f\x15", b"\x15\xfe\x7f\x15"))
    with pytest.raises(ValueError, match=r"its pages hold 8,191 values of id, its footer says 1,000"):
        read_table(file)


def test_vectors_that_are_not_there_take_no_place(tmp_path: Path) -> None:
    """A type of fixed size gives each absent vector the room of one."""
    file = tmp_path / "wide.parquet"
    kind = pa.list_(pa.float32(), 2**20)
    pq.write_table(pa.table({"embedding": pa.nulls(1, kind)}), file)
    assert read_table(file).num_rows == 1
    with pytest.raises(ValueError, match="decoded it would have"):
        read_table(file, most=2**20)


def test_a_part_of_a_snapshot_is_bounded_too(tmp_path: Path) -> None:
    good = to_table(chunks(3))
    file = tmp_path / "part.parquet"
    pq.write_table(good, file)
    assert read_parquet(file).num_rows == 3
    texts = repeated(HUGE, 3 * ROWS).cast(pa.dictionary(pa.int32(), pa.large_string()))
    pq.write_table(pa.table({"id": texts}), file, compression="zstd", store_schema=False)
    with pytest.raises(Terminal, match="decoded it would have 25,7"):
        read_parquet(file, ["id"])


def test_what_is_often_the_same_is_read(tmp_path: Path) -> None:
    """Duplicates are no attack: what they become is counted, not the worst that they could be."""
    rows = 20_000
    texts = pa.DictionaryArray.from_arrays(
        pa.array([*[1] * 10, *[0] * (rows - 10)], pa.int32()), pa.array(["short", HUGE])
    )
    folder = old(tmp_path / "old", rows, document=texts)
    with open_source(Endpoint(path=str(folder)), tmp_path / "scratch") as store:
        assert store.count("notes") == rows


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("collections", "UPDATE collections SET config_json_str = cast(zeroblob(3000000) AS text)"),
        ("embeddings", "UPDATE embeddings SET embedding_id = cast(zeroblob(3000000) AS text) WHERE id = 1"),
        ("embedding_metadata", "UPDATE embedding_metadata SET string_value = cast(zeroblob(3000000) AS text)"),
        ('a "b"', 'CREATE TABLE "a ""b""" ("c ""d""" TEXT); INSERT INTO "a ""b""" VALUES (zeroblob(3000000))'),
    ],
)
def test_a_value_that_no_request_can_bring_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, change: str
) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(20))
    monkeypatch.setattr(layout, "MOST_VALUE", 2**21)
    with open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "before") as store:
        assert store.count("notes") == 20
    with closing(sqlite3.connect(tmp_path / "source/chroma.sqlite3")) as db:
        db.executescript(change)
        db.commit()
    with (
        pytest.raises(Terminal, match=f"more than 2 MB in table {re.escape(table)}") as caught,
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch"),
    ):
        pass
    assert caught.value.code == "source_foreign_file"
