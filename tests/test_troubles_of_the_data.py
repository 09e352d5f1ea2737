"""42 and 47: scores out of range and NaN vectors, in real sources: found, resolved, and the same probe passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import Terminal
from helpers.results import Verdict
from helpers.run.folders import RunFolder
from helpers.schema import load_schema
from tests.storage import chunks, embedded, fill, lose_vectors
from tests.test_reembedding import damaged
from tests.test_source_layout_0_3 import write_old
from tests.troubles import at, begun, migrated, probe

SCHEMA = """
name: strict
fields:
  - {name: authenticity_score, type: float, minimum: 0.0, maximum: 1.0, default: 0.75, repair: reject}
  - {name: confidence_level, type: string, allowed: [high, low], default: low, repair: reject}
  - {name: author, type: string, not_empty: true}
"""


pytestmark = pytest.mark.usefixtures("own_folders")


def scored() -> dict[str, Any]:
    """40 chunks of which 8 have a score beyond [0, 1], 2 one that is no number, 1 a level that is not allowed."""
    batch = chunks(40, 4, prefix="s")
    for i, metadata in enumerate(batch.metadatas):
        assert metadata is not None
        metadata |= {"authenticity_score": 0.5, "confidence_level": "high", "author": "A"}
        if i < 8:
            metadata["authenticity_score"] = -0.2 if i % 2 else 1.5
        elif i < 10:
            metadata["authenticity_score"] = "high"
    (batch.metadatas[10] or {})["confidence_level"] = "so-so"
    with embedded(Path("source")) as store:
        fill(store, "notes", batch)
    Path("strict.yaml").write_text(SCHEMA, encoding="utf-8")
    return {"schema": "strict.yaml"}


def test_scores_out_of_range_stop_the_migration_and_a_repaired_schema_lets_it_through() -> None:
    folder = begun(**scored())
    with pytest.raises(Terminal) as stopped:
        migrated(folder)
    assert stopped.value.code == "validation_below_minimum"
    look = at(folder, "42", dry_run=True)
    assert set(look.symptom()["reason"]) == {"validation_below_minimum"}
    verdict, wrong, table = probe(look)
    assert (verdict, wrong) == (Verdict.WARNING, 11)
    assert table[["what", "chunks"]].to_numpy().tolist() == [
        ["invalid_authenticity_score", 10], ["invalid_confidence_level", 1],
    ]  # fmt: skip
    scores = look.scores()
    assert set(scores["before"]) == {"1.5", "-0.2", "'high'"}
    assert set(scores["outcome"]) == {"set aside"}
    assert look.rules()[["field", "repair", "proposed"]].to_numpy().tolist() == [
        ["authenticity_score", "reject", "clamp"], ["confidence_level", "reject", "default"],
    ]  # fmt: skip
    planned = dict(look.resolve().to_numpy().tolist())
    assert planned["chunks set aside under it"] == "0"
    assert not Path(planned["schema file"]).exists()

    desk = at(folder, "42")
    probe(desk)
    assert desk.precondition()["holds"].all()
    file = dict(desk.resolve().to_numpy().tolist())["schema file"]
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    assert load_schema(file).name == "strict-repaired"
    again = begun("night-repaired", schema=file, target={"path": "second"})
    migrated(again)
    with embedded(Path("second")) as store:
        kept = store.read("notes", ["s0", "s1", "s8", "s10", "s20"])
    assert [m["authenticity_score"] for m in kept.metadatas if m] == [1.0, 0.0, 0.75, 0.5, 0.5]
    assert [m["confidence_level"] for m in kept.metadatas if m] == ["high", "high", "high", "low", "high"]
    assert probe(at(again, "42"))[:2] == (Verdict.PASS, 0)
    assert "removed" in desk.undo()
    assert not Path(file).exists()


def test_a_field_that_the_source_lacks_is_filled_by_a_default() -> None:
    """46's other remedy: what never stood in the source gets a default in the schema, by 42."""
    given = scored()
    Path("strict.yaml").write_text(SCHEMA + "  - {name: category, type: string, not_empty: true}\n", encoding="utf-8")
    folder = begun(**given)
    with pytest.raises(Terminal):
        migrated(folder)
    # of the other eleven the first reason is another one
    assert at(folder, "46").missing_before()["reason"].tolist().count("missing_category") == 29
    desk = at(folder, "42")
    probe(desk)
    refused = desk.precondition().set_index("condition")
    assert refused.loc["every rejected value can be repaired by a rule"].tolist() == [False, "missing_category 40"]
    with pytest.raises(Terminal, match="missing_category 40"):
        desk.resolve()
    desk.resolve(defaults={"category": "migrated"})
    assert probe(desk)[:2] == (Verdict.PASS, 0)


@pytest.fixture
def old(tmp_path: Path) -> RunFolder:
    """A run from a source of Chroma 0.3 with NaN, infinity, a lost and a zero vector; nothing staged."""
    vectors: dict[str, Any] = {
        "nan": [1.0, float("nan")], "inf": [float("inf"), 1.0], "lost": None, "zero": [0.0, 0.0],
    }  # fmt: skip
    vectors |= {f"good{i:02d}": [float(i + 1), 1.0] for i in range(76)}
    rows = [{"id": i, "document": f"of {i}", "embedding": v, "metadata": "null"} for i, v in vectors.items()]
    write_old(tmp_path / "source", rows, json.dumps({"hnsw:space": "l2"}))
    return begun()


def test_nan_vectors_are_named_and_set_aside(old: RunFolder) -> None:
    look = at(old, "47", dry_run=True)
    verdict, wrong, table = probe(look)
    assert (verdict, wrong) == (Verdict.WARNING, 3)
    assert dict(table[["id", "reason"]].to_numpy().tolist()) == {
        "nan": "nan_embedding", "inf": "infinite_embedding", "lost": "missing_embedding",
    }  # fmt: skip
    assert look.zeros()["id"].tolist() == ["zero"]
    assert set(look.documents()["document"]) == {"of nan", "of inf", "of lost"}
    assert look.ways()["possible"].iloc[0]
    assert look.resolve()["chunks"].tolist() == [3]
    assert not (old.workspace / "quarantine").exists()

    desk = at(old, "47")
    probe(desk)
    assert set(desk.resolve()["id"]) == {"nan", "inf", "lost"}
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    migrated(old)
    assert probe(at(old, "48"))[1] == 0
    with embedded(Path("target")) as store:
        assert store.count("notes") == 77


def test_a_chunk_with_a_new_id_and_another_collection_is_found_where_the_schema_puts_it(old: RunFolder) -> None:
    assert not (old.workspace / "staged").exists()  # of it only the source is of use here
    Path("moved.yaml").write_text(
        "name: moved\nid: '\"n/\" + id'\ncollections: [{from: notes, to: papers}]\n", encoding="utf-8"
    )
    folder = migrated(begun("moved", schema="moved.yaml"))
    assert not at(folder, "47").unusable()["in target"].any()
    with embedded(Path("target")) as store:
        store.add("papers", ChunkBatch(["n/nan"], ["of nan"], np.ones((1, 2), np.float32), [None]))
    table = at(folder, "47").unusable()
    assert table[table["in target"]]["id"].tolist() == ["nan"]


def test_a_quarantine_that_was_lost_is_made_again(old: RunFolder) -> None:
    migrated(old)
    for file in (old.workspace / "quarantine").iterdir():
        file.unlink()
    desk = at(old, "47")
    assert probe(desk)[1] == 3
    assert desk.precondition()["holds"].all()
    desk.resolve()
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    assert desk.quarantine.counts() == {"infinite_embedding": 1, "missing_embedding": 1, "nan_embedding": 1}
    assert probe(at(old, "48"))[1] == 0


def test_the_quarantine_of_a_run_that_made_vectors_anew_is_made_again() -> None:
    """What is staged again takes the same new vectors, or nothing would come out as it was."""
    damaged(Path("source"))
    folder = migrated(begun(migration={"batch_size": 10, "workers": 1, "reembed": "own"}))
    assert probe(at(folder, "47"))[:2] == (Verdict.PASS, 0), "what was made anew can be used"
    for file in (folder.workspace / "quarantine").iterdir():
        file.unlink()
    desk = at(folder, "47")
    assert probe(desk)[:2] == (Verdict.WARNING, 1)
    desk.resolve()
    assert desk.quarantine.counts() == {"missing_embedding": 1}
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    assert not (folder.workspace / "restaged").exists()


def test_a_vector_that_the_target_lost_is_added_again() -> None:
    """Chroma lists the id and cannot give its vector (chroma-facts 10)."""
    with embedded(Path("source")) as store:
        fill(store, "notes", chunks(20, 4, prefix="n"))
    folder = migrated(begun())
    with embedded(Path("target")) as store:
        store.delete("notes", ["n3"])
    lose_vectors(Path("target"), "notes", ["n3"])
    desk = at(folder, "47")
    verdict, wrong, table = probe(desk)
    assert (verdict, wrong) == (Verdict.WARNING, 1)
    assert table[["collection", "id", "reason"]].to_numpy().tolist() == [["notes", "n3", "missing_embedding"]]
    desk.resolve()
    assert probe(desk)[:2] == (Verdict.PASS, 0)
    assert probe(at(folder, "44"))[1] == 0
