"""A file of chunks that becomes too large is refused before it is decoded, whatever its pages and its footer say, and a damaged
one ends no process."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.chunks import _I64, _struct, read_table
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import to_table
from helpers.stores import layout, open_source
from helpers.stores.layout import COLLECTIONS, EMBEDDINGS
from tests.conftest import ROOT
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
    assert all(line.startswith("['collection_uuid', 'id']: decoded it would have") for line in refused)


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


DAMAGED = """
import random, sys
from pathlib import Path
import pyarrow as pa
from helpers.chunks import read_table
real, file = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
footer = len(real) - 8 - int.from_bytes(real[-8:-4], "little")
refused = 0
for number in range(2_000):
    chance, data = random.Random(number), bytearray(real)
    for _ in range(chance.choice([1, 1, 3])):
        data[chance.randrange(footer if number % 4 else 4, len(real))] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
    file.write_bytes(data)
    try:
        read_table(file).validate(full=True)
    except (OSError, ValueError, pa.ArrowException):
        refused += 1
print(refused)
"""


@pytest.mark.more
def test_a_damaged_file_is_an_error_and_ends_no_process(tmp_path: Path) -> None:
    """pyarrow's objects for the columns of a footer throw what nothing catches where its parts contradict each other."""
    write_old(tmp_path / "old", [{"id": "a", "document": "d", "embedding": [1.0]}])
    real = tmp_path / "real.parquet"
    pq.write_table(pq.read_table(tmp_path / "old" / COLLECTIONS), real)
    command = [sys.executable, "-c", DAMAGED, str(real), str(tmp_path / "damaged.parquet")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 1_000
    asking = re.compile(r"\.(row_group|statistics)\b")
    assert [path.name for path in (ROOT / "helpers").rglob("*.py") if asking.search(path.read_text())] == []


def test_a_page_that_does_not_say_its_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "page.parquet"
    pq.write_table(pa.table({"id": ["a"]}), file, compression="none", use_dictionary=False)
    data = bytearray(file.read_bytes())
    assert (data[4], data[6]) == (0x15, 0x15)  # the type of the page, and its size
    data[6] = 0x25  # another field
    file.write_bytes(data)
    with pytest.raises(ValueError, match="a page has no header"):
        read_table(file)


@pytest.mark.parametrize(
    ("footer", "problem"),
    [
        ("16 02 06 02 02 00", "a field twice"),  # field 1, and again by its number
        ("06 00 02 00", "there cannot be"),
        ("06 ff ff ff ff 0f 02 00", "there cannot be"),
        ("19" * 40, "another form"),  # lists of lists
        ("1c" * 40, "another form"),
        ("1d 00", "another form"),
        ("16 ff ff ff ff ff ff ff ff ff 7f 00", "more than 64 bits"),
        ("16 ff ff ff ff ff ff ff ff ff ff 01 00", "without an end"),
        ("19 f1 ff ff ff ff 07 00", None),  # a list of more than there is
        ("18 ff ff ff ff 07 00", None),
        ("16", None),
    ],
)
def test_a_footer_that_could_be_read_in_two_ways_is_refused(footer: str, problem: str | None) -> None:
    with pytest.raises(ValueError if problem else IndexError, match=problem):
        _struct(bytes.fromhex(footer), 0, {}, _I64)


def test_of_a_footer_only_numbers_of_the_right_kind_count() -> None:
    """As Thrift reads it: a number of 32 bits in the place of one of 64, or in a list that is none of structs, is not there."""
    found: dict[tuple[int, ...], int] = {}
    data = bytes.fromhex("16 04 15 06 19 2c 16 08 00 16 0a 00 19 16 0c 11 12 00")
    assert _struct(data, 0, found, _I64) == len(data)
    assert found == {(1,): 2, (3, 0, 1): 4, (3, 1, 1): 5}


def test_vectors_that_are_not_there_take_no_place(tmp_path: Path) -> None:
    """A type of fixed size gives each absent vector the room of one."""
    file = tmp_path / "wide.parquet"
    kind = pa.list_(pa.float32(), 2**20)
    pq.write_table(pa.table({"embedding": pa.nulls(1, kind)}), file)
    assert read_table(file).num_rows == 1
    with pytest.raises(ValueError, match="decoded it would have"):
        read_table(file, most=2**20)


WIDE = pa.list_(pa.float32(), 2**20)


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("v", WIDE)]),
        pa.struct([("deep", pa.struct([("v", WIDE)]))]),
        pa.list_(WIDE),
        pa.map_(pa.string(), WIDE),
        pa.list_(pa.list_(pa.float32(), 2**10), 2**10),
        pa.fixed_shape_tensor(pa.float32(), [2**10, 2**10]),
    ],
    ids=["struct", "deep", "list", "map", "twice", "tensor"],
)
def test_lists_of_a_fixed_size_inside_other_types_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    file = tmp_path / "nested.parquet"
    absent = pa.array([None], kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind)
    pq.write_table(pa.table({"id": ["a"], "x": absent.cast(kind)}), file)
    assert file.stat().st_size < 2**14
    assert read_table(file, ["id"]).num_rows == 1, "it is not decoded"
    for columns in (None, ["x"], ["id", "x"]):
        with pytest.raises(ValueError, match="its column x is of a type that neither Chroma nor this toolkit writes"):
            read_table(file, columns)


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
@pytest.mark.more
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
