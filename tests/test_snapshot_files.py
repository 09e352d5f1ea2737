"""Snapshots: what is read back is what was written, bit for bit, and every changed byte is found."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from chromadb.base_types import SparseVector

from helpers.chunks import ChunkBatch
from helpers.errors import Interrupted, Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import write_json
from helpers.snapshots import snapshot as module
from helpers.snapshots.export_journal import signed
from helpers.snapshots.snapshot import (
    Snapshot,
    decode_metadata,
    encode_metadata,
    from_table,
    to_table,
    write_snapshot,
)
from helpers.stores import Reader, open_source
from helpers.stores.client import ClientStore
from tests.storage import assert_same, chunks, contents, embedded, exact, fill, in_order, lose_vectors, plan, tree


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ClientStore]:
    """Three collections, one of them empty."""
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(250, 6, prefix="a"))
        fill(store, "beta", chunks(40, 4, prefix="b"), "cosine")
        store.create(plan("empty", "ip", metadata={"why": "nothing yet"}))
        yield store


@pytest.fixture
def taken(source: ClientStore, tmp_path: Path) -> Snapshot:
    return take(source, tmp_path)


def take(store: Reader, folder: Path, name: str = "snap") -> Snapshot:
    return write_snapshot(store, folder / "snapshots", name, store.names(), retention_days=7)


def test_a_snapshot_holds_what_the_store_holds(source: ClientStore, taken: Snapshot) -> None:
    assert taken.names() == ["alpha", "beta", "empty"]
    assert taken.total == 290
    assert taken.verify() == {"alpha": 250, "beta": 40, "empty": 0}
    for name in taken.names():
        whole = ChunkBatch.concatenate(list(taken.batches(name)) or [ChunkBatch.empty()])
        assert whole.ids == source.ids(name)
        if name != "empty":
            assert_same(in_order(whole), contents(source, name))
    for held, live in zip(taken.collections(), source.collections(), strict=True):
        assert dataclasses.replace(held, findings=()) == dataclasses.replace(live, findings=())


def strange() -> ChunkBatch:
    nan = float("nan")
    batch = ChunkBatch(
        ids=["a", "", "é\0", "lost", "\u2028", "z" * 3000, "nan"],
        documents=[None, "", "text\0", "left", "中\n", "🧪", None],
        embeddings=np.array(
            [[1e-45, -0.0], [0.0, 3e38], [1.5, -2.5], [nan, nan], [np.inf, -np.inf], [1e-38, 1], [nan, 1]], np.float32
        ),
        metadatas=[
            None, {}, {"i": 1, "f": 1.0, "b": True, "t": "1"}, {"n": nan, "inf": math.inf, "z": -0.0},
            {"tiny": 5e-324, "big": 2**63 - 1, "low": -(2**63), "third": 1 / 3}, {"l": [1], "m": [1.0], "k": [True]},
            {"s": SparseVector([3, 9], [0.5, -1.0]), "": "x", "#sparse_vector": "a key of old data"},
        ],
        uris=[None, "", "u", None, None, None, None],
    )  # fmt: skip
    batch.lost[3] = True
    return batch


def test_a_part_keeps_every_bit_and_every_type(tmp_path: Path) -> None:
    batch = strange()
    batch.embeddings[6, 0] = np.frombuffer(b"\x01\x00\xc0\x7f", np.float32)[0]  # a NaN with a payload
    pq.write_table(to_table(batch), tmp_path / "part.parquet", compression="zstd")
    assert_same(from_table(pq.read_table(tmp_path / "part.parquet")), batch)
    assert_same(from_table(to_table(batch).slice(2, 4)), batch.slice(2, 6))


@pytest.mark.parametrize("kept", [[], [3], [0, 3]])
def test_parts_without_rows_or_without_vectors(kept: Sequence[int]) -> None:
    batch = strange().take(kept)
    found = from_table(to_table(batch, 2))
    assert (found.ids, found.lost.tolist(), found.dimension) == (batch.ids, batch.lost.tolist(), 2)


def test_vectors_of_another_dimension_are_an_error_and_never_written_as_lost() -> None:
    with pytest.raises(Terminal, match="vectors of 6 components where 8 are expected"):
        to_table(chunks(3, 6), 8)


def test_metadata_that_looks_like_our_own_mark_survives() -> None:
    for metadata in ({"#sparse_vector": "text"}, {"#sparse_vector": 1}, {"s": SparseVector([1], [2.0])}, {}, None):
        assert exact(decode_metadata(encode_metadata(metadata))) == exact(metadata)
    assert exact(decode_metadata(encode_metadata({"x": np.float64(0.1), "n": np.int64(3)}))) == exact(
        {"n": 3, "x": 0.1}
    )
    with pytest.raises(Terminal, match="type bytes"):
        encode_metadata({"x": b"1"})


def test_parts_are_small_whatever_the_dimension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 400 * 8)
    with embedded(tmp_path / "source") as store:
        fill(store, "wide", chunks(330, 8))
        snapshot = take(store, tmp_path)
    parts = snapshot.parts("wide")
    assert [p.rows for p in parts] == [100, 100, 100, 30]  # never below a hundred rows
    assert [p.file for p in parts] == [f"001-wide/{i:05d}.parquet" for i in range(1, 5)]
    assert all(p.bytes == (snapshot.folder / p.file).stat().st_size for p in parts)
    assert snapshot.size() == sum(p.bytes for p in parts)
    assert snapshot.verify() == {"wide": 330}


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_one_flipped_bit_is_found_in_every_file_wherever_it_is(taken: Snapshot, tmp_path: Path) -> None:
    files = [p for p in sorted(taken.folder.rglob("*")) if p.is_file()]
    assert len(files) == 3
    random = np.random.default_rng(0)
    for file in files:
        size = file.stat().st_size
        for at in {0, size // 2, size - 1, *random.integers(0, size, 12).tolist()}:
            if file.name == "manifest.json" and file.read_bytes()[at : at + 1].isspace():
                continue  # blanks between the values of the manifest mean nothing
            flip(file, at)
            with pytest.raises(Terminal) as caught:
                Snapshot.open(taken.folder).verify()
            assert caught.value.code in {"snapshot_damaged", "snapshot_unreadable"}
            assert file.name in str(caught.value) or "manifest" in str(caught.value)
            flip(file, at)
    Snapshot.open(taken.folder).verify()


def test_a_manifest_damaged_after_it_was_opened_is_found_too(taken: Snapshot) -> None:
    manifest = taken.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"space": "cosine"', '"space": "l2"'))
    with pytest.raises(Terminal, match="not what was written"):
        taken.verify()


def test_a_missing_file_is_found(taken: Snapshot) -> None:
    (taken.folder / taken.parts("beta")[0].file).unlink()
    with pytest.raises(Terminal, match="beta") as caught:
        taken.verify()
    assert caught.value.code == "snapshot_damaged"
    with pytest.raises(Terminal, match="cannot be read"):
        taken.read(taken.parts("beta")[0])


def test_an_extra_file_is_found(taken: Snapshot) -> None:
    (taken.folder / "001-alpha" / "00099.parquet").write_bytes(b"x")
    with pytest.raises(Terminal, match=r"nobody wrote: 001-alpha/00099\.parquet"):
        taken.verify()


def test_a_manifest_that_a_kill_left_unnamed_is_no_foreign_file(taken: Snapshot) -> None:
    (taken.folder / ".manifest.json.4711.tmp").write_bytes(b"{")
    assert sum(taken.verify().values()) == 290


def test_swapped_parts_are_found(taken: Snapshot) -> None:
    first, second = (taken.folder / taken.parts(n)[0].file for n in ("alpha", "beta"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(Terminal, match="not those that were written"):
        taken.verify()


@pytest.mark.parametrize("way", ["absolute", "above", "link"])
def test_a_manifest_names_files_of_its_own_folder_only(taken: Snapshot, tmp_path: Path, way: str) -> None:
    """A folder that somebody hands over could otherwise make a restore read another tenant's chunks."""
    part = taken.manifest["collections"][0]["parts"][0]
    file = taken.folder / part["file"]
    elsewhere = file.rename(tmp_path / "elsewhere.parquet")
    if way == "link":
        file.symlink_to(elsewhere)
    else:
        part["file"] = str(elsewhere) if way == "absolute" else os.path.relpath(elsewhere, taken.folder)
    content = {key: value for key, value in taken.manifest.items() if key != "sha256"}
    write_json(taken.folder / "manifest.json", signed(content))
    with pytest.raises(Terminal, match="is a link" if way == "link" else "is no file of a snapshot") as caught:
        Snapshot.open(taken.folder)
    assert caught.value.code == "snapshot_unreadable"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 99}', "null", "{"])
def test_a_folder_without_a_manifest_is_no_snapshot(tmp_path: Path, content: str) -> None:
    if content:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(Terminal, match="no readable manifest") as caught:
        Snapshot.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_verifying_marks_the_snapshot_and_changes_nothing_else(taken: Snapshot) -> None:
    before, digest = tree(taken.folder), taken.digest
    assert taken.manifest["status"] == "created"
    taken.verify()
    again = Snapshot.open(taken.folder)
    assert again.manifest["status"] == "verified"
    assert again.manifest["verified_at"]
    assert again.digest == taken.digest == digest
    after = tree(taken.folder)
    assert {k for k in before if before[k] != after[k]} == {"manifest.json"}


def test_two_snapshots_of_the_same_data_have_the_same_digest(source: ClientStore, tmp_path: Path) -> None:
    first, second = take(source, tmp_path, "one"), take(source, tmp_path, "two")
    assert first.digest == second.digest
    source.delete("alpha", ["a7"])
    assert take(source, tmp_path, "three").digest != first.digest


class Stop:
    """Progress that ends the export after some parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def advance(self, n: int = 1) -> None:
        self.parts -= 1
        if self.parts <= 0:
            raise Interrupted(ReasonCode.INTERRUPTED, "stopped on request")


def test_an_interrupted_export_is_never_taken_for_a_whole_one(
    source: ClientStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1)
    folder = tmp_path / "snapshots"
    with pytest.raises(Interrupted):
        write_snapshot(source, folder, "snap", source.names(), retention_days=7, progress=Stop(3))
    assert [p.name for p in folder.iterdir()] == ["snap.partial"]
    for name in ("snap", "snap.partial"):
        with pytest.raises(Terminal, match="no readable manifest"):
            Snapshot.open(folder / name)
    whole = take(source, tmp_path)  # and the rest of it does not stand in the way
    assert whole.verify() == {"alpha": 250, "beta": 40, "empty": 0}
    shutil.copytree(whole.folder, folder / "other.partial")
    with pytest.raises(Terminal, match="interrupted before it was whole"):
        Snapshot.open(folder / "other.partial")


def test_a_snapshot_of_the_same_name_is_not_replaced(source: ClientStore, taken: Snapshot, tmp_path: Path) -> None:
    before = tree(taken.folder)
    with pytest.raises(Terminal, match="of this id exists"):
        take(source, tmp_path)
    assert tree(taken.folder) == before


def test_the_manifest_says_who_when_and_what(source: ClientStore, taken: Snapshot) -> None:
    manifest = json.loads((taken.folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["id"], manifest["source"]) == ("snap", source.label)
    assert manifest["chroma_version"]["client"].startswith("1.5.")
    assert manifest["created"] < manifest["retain_until"]
    entry = next(c for c in manifest["collections"] if c["name"] == "beta")
    assert (entry["count"], entry["reported_count"], entry["dimension"], entry["space"]) == (40, 40, 4, "cosine")
    assert entry["configuration"]["hnsw"]["space"] == "cosine"
    assert all(len(part["sha256"]) == 64 for part in entry["parts"])


def test_lost_vectors_are_counted_and_their_texts_kept(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(120, 4))
    lose_vectors(tmp_path / "source", "notes", ["gone-1", "gone-2"])
    with open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch") as store:
        snapshot = take(store, tmp_path)
    assert snapshot.verify() == {"notes": 122}
    assert sum(p.lost for p in snapshot.parts("notes")) == 2
    [info] = snapshot.collections()
    assert "2 chunks are listed but their vectors cannot be read" in info.findings
    whole = ChunkBatch.concatenate(list(snapshot.batches("notes")))
    left = {i: d for i, d, gone in zip(whole.ids, whole.documents, whole.lost, strict=True) if gone}
    assert left == {"gone-1": "left of gone-1", "gone-2": "left of gone-2"}


def test_names_that_are_no_file_names_are_kept_apart(tmp_path: Path) -> None:
    names = ["a" * 300 + "x", "a" * 300 + "y", "con.txt", "a.b-c_d"]
    with embedded(tmp_path / "source") as store:
        for number, name in enumerate(names):
            fill(store, name, chunks(3, 2, seed=number))
        snapshot = take(store, tmp_path)
        for name in names:
            assert_same(in_order(next(snapshot.batches(name))), contents(store, name))
    assert snapshot.verify() == dict.fromkeys(names, 3)


@pytest.mark.parametrize("name", ["chinese-zero-vector-1.5", "open-webui-cosine-0.5", "turkish-768-0.5"])
def test_snapshots_of_real_directories(real_databases: Path, tmp_path: Path, name: str) -> None:
    with open_source(Endpoint(path=str(real_databases / name)), tmp_path / "scratch") as store:
        snapshot = take(store, tmp_path)
        for info in snapshot.collections():
            whole: Any = ChunkBatch.concatenate(list(snapshot.batches(info.name)))
            assert_same(whole, store.read(info.name, store.ids(info.name)))
    snapshot.verify()
