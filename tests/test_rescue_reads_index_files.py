"""The reader of index folders: its layout is proven on sound indexes, and it sees every damage; a pickle never runs.

The old versions' own indexes are in compat/test_index_files_of_old_versions.py.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.stores.index_files import HEADER, LINKS, PICKLE, ROWS, IndexDamage, IndexFolder, bloat, read_pickle
from helpers.stores.layout import DATABASE
from tests.damaged import DAMAGES, TERABYTE, make, sound
from tests.plain_client import opened
from tests.storage import index_folder, tree, writable_copy


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def test_every_row_of_a_real_index_of_1_x_is_what_the_engine_reads(
    real_databases: Path, bases: Path, tmp_path: Path
) -> None:
    folder = sound("purged", real_databases, bases)
    reader = IndexFolder(index_folder(folder, "items_128d"), dimension=128, m=16, cosine=False)
    assert (reader.health.state, reader.health.problems, reader.health.readable) == ("sound", (), 1000)
    with opened(writable_copy(folder, tmp_path / "copy")) as client:
        answer = client.get_collection("items_128d", embedding_function=None).get(include=["embeddings"])
    vectors, found, normalised = reader.vectors(answer["ids"])
    assert found.all()
    assert not normalised.any()
    assert vectors.tobytes() == np.asarray(answer["embeddings"], np.float32).tobytes()


def test_every_row_of_a_cosine_index_of_1_5_is_what_the_engine_reads(
    real_databases: Path, bases: Path, tmp_path: Path
) -> None:
    """Rows are normalised; the norm that was taken away is kept in `length.bin`."""
    folder = sound("cosine", real_databases, bases)
    reader = IndexFolder(index_folder(folder, "notes"), dimension=24, cosine=True)
    assert (reader.health.state, reader.health.ids, reader.health.norms) == ("sound", 150, True)
    with opened(writable_copy(folder, tmp_path / "copy")) as client:
        answer = client.get_collection("notes", embedding_function=None).get(list(reader.rows), include=["embeddings"])
    vectors, found, normalised = reader.vectors(answer["ids"])
    assert found.all()
    assert not normalised.any()
    assert vectors.tobytes() == np.asarray(answer["embeddings"], np.float32).tobytes()
    assert np.linalg.norm(vectors, axis=1).max() > 50, "norms are there, not only directions"


def test_an_index_that_was_made_and_never_saved_is_empty_and_not_damaged(real_databases: Path) -> None:
    folder = real_databases / "turkish-768-0.5"
    health = IndexFolder(index_folder(folder, "yok_student_rights"), dimension=768).health
    assert (health.state, health.problems, health.elements) == ("empty", (), 0)


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_of_an_index_is_named_and_the_rest_can_be_read(
    name: str, real_databases: Path, bases: Path, tmp_path: Path
) -> None:
    made = make(name, real_databases, bases, tmp_path / "damaged")
    index, base = index_folder(made.folder, made.collection), DAMAGES[name][0]
    before = {} if "sparse" in name else tree(index)
    health = IndexFolder(
        index, dimension={"purged": 128, "logged": 768, "cosine": 24}[base], cosine=base == "cosine"
    ).health
    assert health.state == ("damaged" if made.codes else "sound" if base == "cosine" else "empty")
    assert made.codes <= dict(health.problems).keys()
    assert made.marker is None or not made.marker.exists(), "a malicious pickle ran"
    if before:
        assert tree(index) == before
    if base == "purged" and "pickle" not in name:
        original = IndexFolder(index_folder(made.original, made.collection))
        reader = IndexFolder(index, dimension=128, m=16)
        ids = [chunk for chunk in original.rows if chunk not in made.lost]
        assert set(reader.rows) == set(ids)
        assert reader.vectors(ids)[0].tobytes() == original.vectors(ids)[0].tobytes()


def test_lost_norms_leave_directions_and_are_marked(real_databases: Path, bases: Path, tmp_path: Path) -> None:
    made = make("lost norms", real_databases, bases, tmp_path / "damaged")
    reader = IndexFolder(index_folder(made.folder, made.collection), cosine=True)
    ids = list(reader.rows)
    vectors, found, normalised = reader.vectors(ids)
    assert found.all()
    with closing(sqlite3.connect(made.folder / DATABASE)) as db:  # what the log still holds is exact there
        logged = {row[0] for row in db.execute("select id from embeddings_queue where vector is not null")}
    assert {i for i, marked in zip(ids, normalised, strict=True) if marked} - logged == made.normalised
    np.testing.assert_allclose(np.linalg.norm(vectors[normalised], axis=1), 1, rtol=1e-6)
    assert not reader.health.norms


def test_the_sizes_of_a_sparse_file_are_told_apart(real_databases: Path, bases: Path, tmp_path: Path) -> None:
    made = make("sparse 1 TB link_lists.bin", real_databases, bases, tmp_path / "damaged")
    size = bloat(index_folder(made.folder, made.collection) / LINKS)
    assert size.apparent == TERABYTE
    assert size.stored < 2**20


def test_without_a_header_rows_that_do_not_come_out_even_are_not_guessed_at(
    real_databases: Path, bases: Path, tmp_path: Path
) -> None:
    made = make("missing header.bin", real_databases, bases, tmp_path / "damaged")
    index = index_folder(made.folder, made.collection)
    for dimension, m in ((None, 16), (128, 15), (126, 16), (127, 16)):
        health = IndexFolder(index, dimension=dimension, m=m).health
        assert (health.readable, health.state) == (0, "damaged"), (dimension, m)
    assert IndexFolder(index, dimension=128, m=16).health.readable == 1000
    rows = np.fromfile(index / ROWS, np.uint8)
    np.roll(rows, 4).tofile(index / ROWS)  # every row begins four bytes later than it should
    assert "geometry_unknown" in dict(IndexFolder(index, dimension=128, m=16).health.problems)


def test_a_header_that_contradicts_itself_is_not_used(real_databases: Path, bases: Path, tmp_path: Path) -> None:
    index = index_folder(writable_copy(sound("purged", real_databases, bases), tmp_path / "copy"), "items_128d")
    whole = (index / HEADER).read_bytes()
    for at in (0, 20, 28, 36, 44, 64, 72):
        broken = bytearray(whole)
        broken[at] ^= 0x81
        (index / HEADER).write_bytes(bytes(broken))
        assert IndexFolder(index).health.state == "damaged", at
    (index / HEADER).write_bytes(whole[:50])
    assert "header_truncated" in dict(IndexFolder(index, dimension=128, m=16).health.problems)
    (index / HEADER).write_bytes(whole)
    assert "dimension_mismatch" in dict(IndexFolder(index, dimension=100).health.problems)


# -- the pickle --------------------------------------------------------------------------------------------------------


class Running:
    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    """Alone, inside a value of the map, beside the map, by class or by function."""
    marker, file = tmp_path / "owned", tmp_path / PICKLE
    bomb = Running(os.mkdir, str(marker))
    state = {"id_to_label": {"a": 1}, "label_to_id": {1: "a"}, "total_elements_added": 1, "id_to_seq_id": {}}
    for content in (bomb, {**state, "id_to_seq_id": bomb}, (state, bomb), [bomb], {**state, "x": Running(eval, "1")}):
        file.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(IndexDamage) as caught:
            read_pickle(file)
        assert caught.value.code == "pickle_foreign"
        assert not marker.exists()
    pickle.loads(pickle.dumps(bomb))
    assert marker.is_dir()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_map_of_any_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    labels = {"é 🧪": 1, "x" * 300: 2**31, "x": 2**40, "": 255, "y": 65_535, "z": 70_000}
    content = {"id_to_label": labels, "label_to_id": {n: i for i, n in labels.items()}, "total_elements_added": 2**40,
               "dimensionality": None, "max_seq_id": 9, "id_to_seq_id": {}}  # fmt: skip
    (tmp_path / PICKLE).write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / PICKLE)
    assert (found.labels, found.added, found.dimension, found.max_seq_id) == (labels, 2**40, None, 9)


def test_a_pickle_that_is_cut_anywhere_is_one_finding(tmp_path: Path) -> None:
    whole = pickle.dumps({"id_to_label": {f"i{n}": n for n in range(60)}, "total_elements_added": 60})
    for length in range(len(whole)):
        (tmp_path / PICKLE).write_bytes(whole[:length])
        with pytest.raises(IndexDamage):
            read_pickle(tmp_path / PICKLE)


@pytest.mark.parametrize("seed", range(3))
def test_a_pickle_with_any_byte_changed_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    whole = bytearray(pickle.dumps({"id_to_label": {f"i{n}": n for n in range(40)}, "total_elements_added": 40}))
    random = np.random.default_rng(seed)
    for _ in range(400):
        broken = bytearray(whole)
        broken[int(random.integers(len(whole)))] = int(random.integers(256))
        (tmp_path / PICKLE).write_bytes(bytes(broken))
        try:
            read_pickle(tmp_path / PICKLE)
        except IndexDamage:
            continue


def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / PICKLE
    for content in (
        b"\x80\x04" + b"}" * 10**6 + b".",
        b"\x80\x04" + b"(" * 10**6 + b".",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
    ):
        file.write_bytes(content)
        with pytest.raises(IndexDamage):
            read_pickle(file)
    with file.open("wb") as opened_file:
        opened_file.truncate(TERABYTE)
    with pytest.raises(IndexDamage, match="more than any label map"):
        read_pickle(file)


def test_the_instructions_of_a_map_that_an_engine_wrote_are_all_known(real_databases: Path, bases: Path) -> None:
    file = index_folder(sound("purged", real_databases, bases), "items_128d") / PICKLE
    names = {op.name for op, _, _ in pickletools.genops(file.read_bytes())}
    assert "BINUNICODE" in names
    assert len(read_pickle(file).labels) == 1000


def test_one_label_for_two_ids_is_nobodys_vector(tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    labels = {"a": 1, "b": 1, "c": 2}
    (index / PICKLE).write_bytes(pickle.dumps({"id_to_label": labels, "total_elements_added": 3}))
    assert "labels_twice" in dict(IndexFolder(index).health.problems)
