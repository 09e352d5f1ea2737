"""`migration.reembed`: chunks whose vectors the source lost take new ones where the operator says so, and nothing else does."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.migration.reembedding import REEMBEDDED_CHECK, as_written, reembed
from helpers.migration.staging import Quarantine, stage
from helpers.migration.target_lock import preflight
from helpers.parameters import Parameters, parameters_from
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import Snapshot, to_table, write_snapshot
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from helpers.stores import open_source, open_target
from helpers.stores.creation import RehearsalEmbedding
from helpers.stores.layout import DATABASE
from helpers.validation.fidelity import Examination, Expectation, Findings
from tests.commands import Runbook, only_line
from tests.storage import chunks, embedded, lose_vectors, plan
from tests.test_catch_up import keep, migrate, verdict

DIMENSION = 16
FUNCTION = "runbook_rehearsal"
DATE = dt.date(2025, 12, 1)


def own_function(dimension: int) -> dict[str, Any]:
    function = {"type": "known", "name": FUNCTION, "config": {"dimension": dimension}}
    return {"hnsw": {"space": "l2"}, "spann": None, "embedding_function": function}


def vectors_of(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RehearsalEmbedding(DIMENSION).vectors(texts)


def damaged(folder: Path, lost: int = 4) -> Path:
    """30 chunks of `notes` with its own function, some more whose vectors are lost, the last of these without a text."""
    with embedded(folder) as store:
        store.create(replace(plan("notes"), configuration=own_function(DIMENSION)))
        batch = chunks(30, DIMENSION)
        batch.embeddings = vectors_of([str(text) for text in batch.documents])
        store.add("notes", batch)
        store.create(plan("plain"))
        store.add("plain", chunks(5, 4, prefix="p"))
    lose_vectors(folder, "notes", [f"lost-{n}" for n in range(lost)])
    with closing(sqlite3.connect(folder / DATABASE)) as db, db:
        db.execute("delete from embedding_metadata where key = 'chroma:document' and string_value = ?",
                   (f"left of lost-{lost - 1}",))  # fmt: skip
    return folder


def ordered(tmp_path: Path, **migration: Any) -> Parameters:
    return parameters_from(
        {
            "name": "n",
            "source": {"path": str(tmp_path / "source")},
            "target": {"path": str(tmp_path / "target")},
            "migration": migration,
        }
    )


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Of the damaged directory; nothing writes to it."""
    folder = tmp_path_factory.mktemp("damaged")
    damaged(folder / "source")
    with open_source(ordered(folder).source, folder / "scratch") as store:
        return write_snapshot(store, folder / "snapshots", "s", ["notes", "plain"], retention_days=7)


def all_of(snapshot: Snapshot, name: str = "notes") -> ChunkBatch:
    whole = ChunkBatch.concatenate(list(snapshot.batches(name)))
    return whole.take(sorted(range(len(whole)), key=lambda i: whole.ids[i]))


@pytest.mark.parametrize("wanted", [{"reembed": "own"}, {"reembed": FUNCTION},
                                    {"reembed": FUNCTION, "reembed_config": {"dimension": DIMENSION}}])  # fmt: skip
def test_lost_vectors_are_made_from_their_documents_and_all_else_is_as_the_snapshot_says(
    snapshot: Snapshot, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    reembed(snapshot, ordered(tmp_path, **wanted), tmp_path / "made")
    was, now = all_of(snapshot), all_of(as_written(snapshot, tmp_path / "made"))
    new = [i for i, chunk in enumerate(was.ids) if chunk in ("lost-0", "lost-1", "lost-2")]
    assert [chunk for chunk, lost in zip(now.ids, now.lost, strict=True) if lost] == ["lost-3"]  # it has no text
    wanted_vectors = vectors_of([f"left of lost-{n}" for n in range(3)])
    assert now.embeddings[new].tobytes() == wanted_vectors.tobytes()
    others = ~was.lost
    assert now.embeddings[others].tobytes() == was.embeddings[others].tobytes()
    assert (now.ids, now.documents, now.metadatas) == (was.ids, was.documents, was.metadatas)
    made = json.loads((tmp_path / "made" / "made.json").read_text(encoding="utf-8"))
    assert [entry["id"] for entry in made["chunks"]] == ["lost-0", "lost-1", "lost-2"]
    assert made["functions"] == {"notes": FUNCTION}


def test_only_a_chunk_that_lost_its_vector_can_take_a_new_one(snapshot: Snapshot, tmp_path: Path) -> None:
    reembed(snapshot, ordered(tmp_path, reembed="own"), tmp_path / "made")
    [file] = (tmp_path / "made").rglob("*.parquet")
    forged = ChunkBatch(["c3", "lost-0"], [None] * 2, np.ones((2, DIMENSION), np.float32), [None] * 2)
    pq.write_table(to_table(forged), file)
    was, now = all_of(snapshot), all_of(as_written(snapshot, tmp_path / "made"))
    kept = ~was.lost
    assert now.embeddings[kept].tobytes() == was.embeddings[kept].tobytes()


BAD: dict[str, tuple[dict[str, Any], type[RunbookError], str]] = {
    "another dimension": (
        {"reembed": FUNCTION, "reembed_config": {"dimension": 8}}, Terminal, "makes 8 dimensions, the collection has 16",
    ),
    "an unknown name": ({"reembed": "no_such_function"}, UsageError, "names no embedding function that is known here"),
    "one that cannot be built": (
        {"reembed": FUNCTION, "reembed_config": {"dimension": "x"}}, Terminal, "cannot be built here",
    ),
    "one that fails": ({"reembed": FUNCTION, "reembed_config": {"dimension": -1}}, Terminal, "failed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_function_that_will_not_do_is_one_line_before_anything_is_written(
    snapshot: Snapshot, tmp_path: Path, kind: str
) -> None:
    wanted, error, said = BAD[kind]
    with pytest.raises(error, match=said) as caught:
        reembed(snapshot, ordered(tmp_path, **wanted), tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert as_written(snapshot, tmp_path / "made") is snapshot
    if kind in ("an unknown name", "one that cannot be built"):  # known before the source is opened
        with pytest.raises(error, match=said):
            preflight(ordered(tmp_path, **wanted))


def test_a_collection_without_a_function_has_none_of_its_own(tmp_path: Path) -> None:
    damaged(tmp_path / "source")
    lose_vectors(tmp_path / "source", "plain", ["lost-9"])
    with open_source(ordered(tmp_path).source, tmp_path / "scratch") as store:
        snapshot = write_snapshot(store, tmp_path / "snapshots", "s", ["notes", "plain"], retention_days=7)
    with pytest.raises(Terminal, match="collection plain: the collection names no embedding function") as caught:
        reembed(snapshot, ordered(tmp_path, reembed="own"), tmp_path / "made")
    assert caught.value.code == "embedding_function_unavailable"
    # What was made for `notes` is kept for a second attempt, and thrown away by another order.
    [file] = (tmp_path / "made").rglob("*.parquet")
    before = file.stat().st_mtime_ns
    with pytest.raises(Terminal, match="collection plain"):
        reembed(snapshot, ordered(tmp_path, reembed="own"), tmp_path / "made")
    assert file.stat().st_mtime_ns == before
    with pytest.raises(Terminal, match="makes 16 dimensions, the collection has 4"):
        reembed(snapshot, ordered(tmp_path, reembed=FUNCTION, reembed_config={"dimension": 16}), tmp_path / "made")
    assert file.stat().st_mtime_ns != before
    reembed(snapshot, ordered(tmp_path), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def examined(snapshot: Snapshot, tmp_path: Path, spoil: bool) -> Findings:
    """Staged, written and examined, after one of the new vectors was replaced where `spoil` says so."""
    parameters, schema = ordered(tmp_path, reembed="own"), load_schema("identity")
    reembed(snapshot, parameters, tmp_path / "made")
    aside = Quarantine(tmp_path / "quarantine")
    context = Context(frozenset(snapshot.names()), DATE, "fail")
    staged = stage(as_written(snapshot, tmp_path / "made"), schema, context, tmp_path / "staged", aside)
    with open_target(parameters.target) as store:
        for info in snapshot.collections():
            store.create(info)
            for batch in staged.stream(info.name, 0, 100):
                store.add(info.name, batch)
        if spoil:
            one = store.read("notes", ["lost-1"])
            one.embeddings = one.embeddings + np.float32(1)
            store.delete("notes", ["lost-1"])
            store.add("notes", one)
        of = Expectation(snapshot, schema, parameters, DATE, aside.reasons(), None, tmp_path / "made")
        return Examination(store, of).run()


@pytest.mark.parametrize("spoil", [False, True])
def test_new_vectors_are_held_to_what_was_made_and_the_rest_stays_in_quarantine(
    snapshot: Snapshot, tmp_path: Path, spoil: bool
) -> None:
    found = examined(snapshot, tmp_path, spoil)
    counts = {s.collection: (s.source, s.quarantined, s.target, s.lost) for s in found.sources}
    assert counts == {"notes": (34, 1, 33, 4), "plain": (5, 0, 5, 0)}
    assert dict(found.reasons) == {"missing_embedding": 1}
    assert [(row["id"], row["difference"]) for row in found.differences.to_dict("records")] == (
        [("lost-1", "vector_differs")] if spoil else []
    )


@pytest.mark.slow
def test_a_catch_up_round_keeps_what_was_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    folder = runs.create(ordered(tmp_path, reembed="own"), "night")
    damaged(tmp_path / "source")
    taken = RunRecord(folder.read(), "21")
    SnapshotStep(taken).verify()
    keep(folder, taken)
    fresh = chunks(6, DIMENSION, seed=5, prefix="fresh")
    with embedded(tmp_path / "source") as store:
        store.add("notes", fresh)
        store.delete("notes", ["c1"])
    record = migrate(folder)
    assert verdict(record) == (Verdict.PASS, "")
    assert len(record.result.facts["catch_up"]["rounds"]) == 1
    assert [(c.measured, c.reason) for c in record.result.checks if c.name == REEMBEDDED_CHECK] == [(3, "reembedded")]
    suite = ValidateStep(RunRecord(folder.read(), "23"))
    suite.read_target()
    assert suite.findings.differing == 0, suite.differences()
    assert suite.expectation.quarantined == {("notes", "lost-3"): "missing_embedding"}
    with embedded(tmp_path / "target") as store:
        assert store.count("notes") == 30 + 3 + 6 - 1
        found = store.read("notes", ["lost-0", "lost-1", "lost-2", *fresh.ids])
    wanted = np.concatenate([vectors_of([f"left of lost-{n}" for n in range(3)]), fresh.embeddings])
    assert found.embeddings.tobytes() == wanted.tobytes()


def test_secrets_have_no_place_in_the_configuration_of_a_function(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="secrets go by environment") as caught:
        ordered(tmp_path, reembed="openai", reembed_config={"api_key": "sk-123"})
    assert "sk-123" not in str(caught.value)
    ordered(tmp_path, reembed="openai", reembed_config={"api_key_env_var": "OPENAI_API_KEY", "dimensions": 1536})
    with pytest.raises(UsageError, match="reembed_config but no reembed"):
        ordered(tmp_path, reembed_config={"model_name": "m"})


@pytest.mark.slow
def test_the_command_makes_lost_vectors_anew_and_marks_them(tmp_path: Path) -> None:
    runbook = Runbook(tmp_path)
    damaged(tmp_path / "source")
    file = runbook.write("night", "path: source", "path: target")
    said = only_line(runbook("run", file, "--run-id", "bad", "--set", "migration.reembed=no_such", "--until", "23"), 2)
    assert "names no embedding function that is known here" in said
    assert not (tmp_path / "target").exists()

    done = runbook("run", file, "--run-id", "one", "--set", "migration.reembed=own", "--until", "24")
    assert "Verdict: NO-GO" not in done.stdout, done.stdout + done.stderr
    assert done.returncode == 4, done.stdout + done.stderr
    for step in ("13", "22", "23"):
        result = json.loads((runbook.reports / "one" / "results" / f"{step}.json").read_text(encoding="utf-8"))
        [check] = [c for c in result["checks"] if c["name"] == "vectors recreated"]
        assert (check["verdict"], check["measured"], check["reason"]) == ("warning", 3, "reembedded")
        assert [row["id"] for row in check["ids"]] == ["lost-0", "lost-1", "lost-2"]
        assert FUNCTION in check["detail"]
        assert result["facts"]["reembedded"]["functions"] == {"notes": FUNCTION}
    with embedded(tmp_path / "target") as store:
        assert store.count("notes") == 33
        found = store.read("notes", ["lost-0", "lost-1", "lost-2", "lost-3"])
    assert found.ids == ["lost-0", "lost-1", "lost-2"]
    assert found.embeddings.tobytes() == vectors_of([f"left of {chunk}" for chunk in found.ids]).tobytes()
    assert found.documents == [f"left of {chunk}" for chunk in found.ids]
    assert Quarantine(runbook.workspace / "one" / "quarantine").reasons() == {("notes", "lost-3"): "missing_embedding"}
    warned = json.loads((runbook.reports / "one" / "results" / "24.json").read_text(encoding="utf-8"))["facts"][
        "warnings"
    ]
    assert "reembedded" in {row["reason"] for row in warned}, "those who sign see it"
