"""44, 46, 47 and 48: chunks deleted, strange, stripped of fields, with vectors of another model or none: found and mended."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.results import StepResult, Verdict, utc_now
from helpers.run.folders import RunFolder
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, tree
from tests.troubles import at, begun, check_of, migrated, probe

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def night() -> RunFolder:
    """A run that has migrated 60 and 25 chunks, and was judged."""
    with embedded(Path("source")) as store:
        fill(store, "alpha", chunks(60, 4, prefix="a"))
        fill(store, "beta", chunks(25, 3, prefix="b"))
    folder = migrated(begun())
    for number in ("23", "24"):
        StepResult(number, "judged", folder.id, utc_now(), utc_now()).write(folder.reports / f"results/{number}.json")
    return folder


def replaced(collection: str, batch: ChunkBatch) -> None:
    """These chunks in place of those of the same ids, by delete-and-add."""
    with embedded(Path("target")) as store:
        store.delete(collection, batch.ids)
        store.add(collection, batch)


def whole() -> None:
    """The target holds what the source holds."""
    with embedded(Path("target")) as store:
        assert store.names() == ["alpha", "beta"]
        assert_same(contents(store, "alpha"), in_order(chunks(60, 4, prefix="a")))
        assert_same(contents(store, "beta"), in_order(chunks(25, 3, prefix="b")))
        assert store.lock_holder() is None


@pytest.mark.more
@pytest.mark.parametrize("step", ["44", "46", "47", "48"])
def test_a_sound_target_passes(night: RunFolder, step: str) -> None:
    desk = at(night, step)
    verdict, wrong, _ = probe(desk)
    assert (verdict, wrong) == (Verdict.PASS, 0)
    assert desk.precondition()["holds"].all()
    assert not len(desk.symptom())
    assert not len(desk.plan())


def test_deleted_and_strange_chunks_are_named_and_mended(night: RunFolder) -> None:
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a3", "a41"])
        store.add("beta", chunks(2, 3, prefix="theirs"))
    look = at(night, "48", dry_run=True)
    verdict, wrong, table = probe(look)
    assert (verdict, wrong) == (Verdict.WARNING, 4)
    rows = table.set_index("collection")
    counted = rows[["source now", "snapshot", "staged", "target", "missing"]].to_numpy().tolist()
    assert counted == [[60, 60, 60, 58, 2], [25, 25, 25, 25, 0]]
    assert rows["matches"].to_dict() == {"alpha": False, "beta": True}
    found = look.differences()
    assert set(zip(found["id"], found["difference"], strict=True)) == {
        ("a3", "chunk_missing"), ("a41", "chunk_missing"), ("theirs0", "chunk_extra"), ("theirs1", "chunk_extra"),
    }  # fmt: skip
    assert look.extra_ids()["id"].tolist() == ["theirs0", "theirs1"]
    assert look.by_id("a3")["where"].tolist() == ["snapshot", "staged"]
    assert look.by_id("a4")["where"].tolist() == ["snapshot", "staged", "target"]
    before = tree(Path("target"))
    planned = look.resolve()
    assert planned["would be deleted and added again"].tolist() == [2, 2]
    assert tree(Path("target")) == before
    assert probe(look)[0] is Verdict.WARNING
    assert (night.reports / "results" / "23.json").is_file()

    desk = at(night, "48")
    assert probe(desk)[1] == 4
    assert desk.precondition()["holds"].all()
    done = desk.resolve().set_index("target")
    assert done.loc["alpha"].tolist() == [0, 2, False]
    assert done.loc["beta"].tolist()[:2] == [2, 0]
    verdict, wrong, table = probe(desk)
    assert (verdict, wrong, table["matches"].tolist()) == (Verdict.PASS, 0, [True, True])
    whole()
    assert not (night.reports / "results" / "23.json").exists()
    assert not (night.reports / "results" / "24.json").exists()
    log = [json.loads(line) for line in (night.reports / audit.NAME).read_text().splitlines()]
    mends = [(e["action"], e["outcome"]) for e in log if e["action"] == "target mended"]
    assert mends == [("target mended", "begun"), ("target mended", "done")]

    assert desk.undo()["put back"].sum() == 2
    with embedded(Path("target")) as store:
        assert set(store.ids("beta")) >= {"theirs0", "theirs1"}
        assert "a3" not in store.ids("alpha")
    assert len(desk.undo()) == 0


def test_missing_fields_are_found_and_brought_back(night: RunFolder) -> None:
    batch = chunks(60, 4, prefix="a").slice(10, 20)
    for metadata in batch.metadatas:
        assert metadata is not None
        metadata.pop("word")
    batch.metadatas[0] = {**(batch.metadatas[0] or {}), "n": "ten", "new": True}
    batch.documents[1] = None
    replaced("alpha", batch)
    desk = at(night, "46")
    verdict, wrong, table = probe(desk)
    assert (verdict, wrong) == (Verdict.WARNING, 10)
    assert dict(zip(table["difference"] + " " + table["field"], table["chunks"], strict=True)) == {
        "field_missing word": 10, "field_extra new": 1, "type_differs n": 1, "document_differs document": 1,
    }  # fmt: skip
    origins = desk.origins().set_index(["target", "field"])
    assert origins.loc[("alpha", "word"), "in target"] == 50
    assert origins.loc[("alpha", "word"), "in source"] == 60
    desk.resolve()
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    whole()


def test_vectors_of_another_model_are_known_and_replaced(night: RunFolder) -> None:
    """The same ids, documents and dimension; every vector is one that another model could have made."""
    other = chunks(60, 4, prefix="a")
    random = np.random.default_rng(7)
    other.embeddings[:] = random.standard_normal(other.embeddings.shape).astype(np.float32)
    replaced("alpha", other)
    desk = at(night, "44")
    verdict, wrong, table = probe(desk)
    alpha = table.set_index("target").loc["alpha"]
    assert (verdict, wrong) == (Verdict.WARNING, 60)
    assert alpha["says"] == "the vectors are of another model"
    assert alpha["median change"] > 0.5
    assert (alpha["dimension"], alpha["other vectors"]) == (4, 60)
    assert desk.ask("alpha", "a5", 3)["id"][0] == "a5"
    done = desk.resolve().set_index("target")
    assert done.loc["alpha", ["there before", "added", "beyond reach"]].tolist() == [60, 60, 0]
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    whole()


def test_a_mend_that_was_killed_is_done_by_the_next(night: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between delete and add: the target has lost the chunks, the export holds what stood there."""
    from helpers.stores.client import ClientStore

    spoiled = chunks(60, 4, prefix="a").slice(0, 3)
    spoiled.documents[:] = ["spoiled"] * 3
    replaced("alpha", spoiled)
    desk = at(night, "46")
    assert probe(desk)[1] == 3

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.resolve()
    again = at(night, "48")
    assert probe(again)[1] == 3
    again.resolve()
    assert probe(again)[:2] == (Verdict.PASS, 0)
    whole()
    assert again.undo()["mend"].tolist() == ["0002-48", "0001-46"]
    with embedded(Path("target")) as store:
        assert store.read("alpha", spoiled.ids).documents == ["spoiled"] * 3


@pytest.mark.more
def test_a_collection_that_lost_ids_by_the_mend_is_written_afresh(
    night: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What deletes can do to an index (by chance, so it is said here): also where the mend is killed in the middle."""
    from helpers.stores.client import ClientStore

    monkeypatch.setattr("helpers.troubleshooting.unreachable_ids", lambda store, name, ids: ["a7"])
    with embedded(Path("target")) as store:
        store.add("alpha", chunks(2, 4, prefix="theirs"))
    desk = at(night, "48")
    probe(desk)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            desk.resolve()
    with embedded(Path("target")) as store:
        assert store.names() == ["beta"]
    again = at(night, "48")
    assert probe(again)[1] == 60
    assert again.precondition()["holds"].all()
    assert again.resolve()["afresh"].tolist() == [True]
    assert probe(again)[:2] == (Verdict.PASS, 0)
    whole()


def test_a_collection_that_is_gone_is_not_mended(night: RunFolder) -> None:
    with embedded(Path("target")) as store:
        store.drop("alpha")
    desk = at(night, "48")
    assert probe(desk)[1] == 60
    with pytest.raises(Terminal, match=r"runbook resume night .*--retry 22"):
        desk.resolve()


def test_nothing_is_mended_that_another_run_holds(night: RunFolder) -> None:
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a3"])
        store.acquire_lock("another-night")
    desk = at(night, "48")
    probe(desk)
    conditions = desk.precondition().set_index("condition")
    assert conditions.loc["no other run holds the target"].tolist() == [False, "another-night"]
    with pytest.raises(Terminal, match="no other run holds the target: another-night"):
        desk.resolve()
    assert probe(desk)[0] is Verdict.WARNING


def test_a_resolution_that_does_not_help_fails_the_notebook(night: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a3"])
    desk = at(night, "48")
    probe(desk)
    desk.resolve()
    with embedded(Path("target")) as store:
        store.delete("alpha", ["a7"])
    assert probe(desk)[:2] == (Verdict.FAIL, 1)
    assert check_of(desk, "probe after").reason == "count_mismatch"
