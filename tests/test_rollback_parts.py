"""The parts of a rollback that need no run: triggers, the way back of a write, removal without a leak, stopping."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.cutover import CutoverState
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.migration.source_changes import WrittenData
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.results import Check, StepResult, Verdict, write_json
from helpers.rollback import (
    FILES,
    LIFT,
    REMOVE,
    STAGES,
    TITLES,
    TRY,
    at_work,
    outline,
    postmortem,
    proof,
    replay,
    return_writes,
    stop,
)
from helpers.rollback.replay import Plan, Written, _metadata, _origin
from helpers.run import folders as runs
from helpers.run import plan as plan_of_a_run
from helpers.run.advice import triggers
from helpers.run.folders import RunLock, RunPath
from helpers.run.kernel import RUNNER_PID
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.runner.notebook import undo_from
from helpers.schema import Schema, load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.steps import rollback
from helpers.steps.count_mismatch import CountMismatchStep
from helpers.steps.cutover import CutoverControl
from helpers.steps.migrate import MigrateStep
from helpers.steps.rollback import remove
from tests.conftest import ROOT
from tests.rollbacks import Night, everything, others, snapshotted, usual_source
from tests.storage import chunks, embedded, exact, fill, plan


def result(step: str, *checks: Check, error: str = "", **facts: Any) -> dict[str, StepResult]:
    found = StepResult(step, "", "r", "2026-01-01T00:00:00+00:00", checks=list(checks), facts=facts)
    found.error = {"code": error, "type": "Terminal", "line": ""} if error else None
    return {step: found}


def failed(reason: ReasonCode, **more: Any) -> Check:
    return Check("a check", Verdict.FAIL, reason=reason, **more)


def row(source: int, target: int, quarantined: int = 0) -> dict[str, Any]:
    return {"collection": "a", "source": source, "target": target, "quarantined": quarantined}


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        ({}, []),
        (result("22", validation_pass_rate=0.95), []),
        (result("22", validation_pass_rate=0.9499), ["validation_below_95"]),
        (result("22", error="time_limit"), ["time_limit"]),
        (result("22", error="paused_for_disk"), []),
        (result("23", counts=[row(9832, 9732)]), []),
        (result("23", counts=[row(9832, 9731)]), ["chunks_missing"]),
        (result("23", counts=[row(9832, 9731, 1)]), []),
        (result("23", counts=[row(100, 95)]), []),
        (result("23", counts=[row(100, 94)]), ["chunks_missing"]),
        (result("22", arrivals=[{"source": 100, "missing": 6}]), ["chunks_missing"]),
        (result("23", failed(ReasonCode.NAN_EMBEDDING)), ["nan_in_target"]),
        (
            result("23", failed(ReasonCode.VECTOR_DIFFERS, ids=[{"detail": "3 dimensions instead of 4"}])),
            ["wrong_dimension"],
        ),
        (result("23", failed(ReasonCode.VECTOR_DIFFERS)), []),
        (result("23", failed(ReasonCode.MISSING_METADATA)), ["schema_fields_missing"]),
        (result("23", search=[{"collection": "a", "k": 10, "overlap_exact@10": 0.79, "verdict": "fail"}]), ["search_divergence"]),
        (result("23", search=[{"collection": "a", "k": 10, "overlap_exact@10": 0.80, "verdict": "fail"}]), []),
        (result("23", search=[{"collection": "a", "k": 10, "overlap_exact@10": 0.79, "verdict": "pass"}]), []),
    ],
)  # fmt: skip
def test_the_triggers_of_the_runbook_and_their_edges(found: dict[str, StepResult], codes: list[str]) -> None:
    assert [t.code for t in triggers(found)] == codes


@pytest.mark.parametrize(
    ("base", "was", "now", "back"),
    [
        ({"a": 1}, {"a": 1, "new": "x"}, {"a": 1, "new": "x"}, {"a": 1}),  # untouched: the original, to the letter
        ({"a": 1}, {"a": 1.0, "new": "x"}, {"a": 1.0, "new": "y"}, {"a": 1, "new": "y"}),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1}, {"a": 1}),  # a key that the client took away
        ({"a": 1}, {"a": 1}, {"a": True}, {"a": True}),  # 1 and true are two values
        ({"a": 1}, {"a": 1}, None, None),
        (None, {"new": "x"}, {"new": "x"}, None),
    ],
)
def test_only_what_the_client_changed_goes_over_the_original_metadata(
    base: dict[str, Any] | None, was: dict[str, Any] | None, now: dict[str, Any] | None, back: dict[str, Any] | None
) -> None:
    merged, why = _metadata(base or {}, was or {}, now or {}, load_schema("identity"), "any")
    assert (exact(merged), why) == (exact(back), "")


def made_of(target: str, ids: list[str], staged: ChunkBatch | None = None) -> WrittenData:
    pieces = [SimpleNamespace(rows=staged)] if staged is not None else []
    return cast(WrittenData, SimpleNamespace(
        collections=[target], ids=lambda name: set(ids), folder=SimpleNamespace(id="r"), pieces=lambda name: iter(pieces),
        replaced=lambda store: [], other_settings=lambda info: {},
    ))  # fmt: skip


def test_a_removal_leaks_no_lists(tmp_path: Path) -> None:
    """A collection dropped with its records in it gives their lists to later records (chroma-facts 18)."""
    batch = chunks(20, 4)
    batch.metadatas = [{"tags": ["x", "y"]} for _ in batch.ids]
    with embedded(tmp_path / "db") as store:
        fill(store, "made", batch)
        done = remove(store, made_of("made", batch.ids), {})
        assert (done.chunks, done.dropped, done.foreign) == ({"made": 20}, ["made"], {})
        store.create(plan("later"))
        plain = dataclasses.replace(batch, metadatas=[{"n": i} for i in range(20)])
        store.add("later", plain)
        assert store.read("later", batch.ids).metadatas == plain.metadatas


@pytest.mark.parametrize(
    "late", ["came before", "changed before", "changed while it is removed", "came while it is removed"]
)
def test_what_clients_write_until_a_chunk_is_removed_is_exported_and_stays(
    tmp_path: Path, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known ids, too: a chunk that a client updates after the last look is not what was exported."""
    batch, other = chunks(6, 4), chunks(6, 4, seed=9)
    other.documents = [f"by a client {i}" for i in range(6)]
    kept: list[Path] = []

    def keep(found: list[Written]) -> Path:
        kept.append(tmp_path / f"export-{len(kept)}")
        replay.export(found, kept[-1])
        return kept[-1]

    with embedded(tmp_path / "db") as store:
        fill(store, "made", batch.take(range(5)))
        made = made_of("made", batch.ids[:5], batch.take(range(5)))

        def write() -> None:
            if "changed" in late:
                store.delete("made", ["c4"])
                store.add("made", other.take([4]))
            else:
                store.add("made", other.take([5]))

        if "before" in late:
            write()
        else:
            monkeypatch.setattr(rollback, "BATCH", 2)
            delete, deleted = store.delete, []

            def meanwhile(name: str, ids: list[str]) -> None:
                delete(name, ids)
                deleted.extend(ids)
                if len(deleted) == 2:
                    monkeypatch.setattr(store, "delete", delete)
                    write()

            monkeypatch.setattr(store, "delete", meanwhile)
        chunk = "c4" if "changed" in late else "c5"
        with pytest.raises(Terminal, match=rf"1 chunks came or changed since.*{chunk}.*exported to"):
            remove(store, made, {}, keep)
        assert store.read("made", [chunk]).documents == [f"by a client {chunk[1]}"]
        known = replay.exported([str(folder) for folder in kept])
        assert (known["made"].chunks.ids, known["made"].chunks.documents) == ([chunk], [f"by a client {chunk[1]}"])
        assert remove(store, made, known, keep).dropped == ["made"]
        assert store.lock_holder() is None


def test_what_an_attempt_did_is_apart_from_what_was_there(
    tmp_path: Path, own_folders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    night, said = snapshotted(tmp_path), list[str]()
    night.migrate_half()
    monkeypatch.setattr(RunRecord, "show_progress", lambda self, line: said.append(line))
    night.migrate()
    assert next(line for line in said if "Transform" in line and " in " in line).startswith(
        "Transform and validate: 85 chunks, all before this attempt, in "
    )
    (ended,) = (re.fullmatch(r"Import: (\d+) chunks, (\d+) of them before this attempt and (\d+) in it, in .*", line)
                for line in said if line.startswith("Import: 85 chunks"))  # fmt: skip
    assert ended is not None
    whole, before, now = map(int, ended.groups())
    result = night.folder.read().result("22")
    assert result is not None
    assert (before + now, now) == (whole, next(p.chunks for p in result.phases if p.name == "4 import"))


_WORKER = """
import signal, sys, time
from helpers.run.folders import RunFolder, RunLock
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with RunLock(RunFolder.of("r"), "runner").acquire():
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("manner", ["polite", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_our_own_process_is_stopped_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    folder = runs.create(parameters_from({"source": {"path": "s"}, "target": {"path": "t"}, "name": "n"}), "r")
    program = [sys.executable, "-c", _WORKER, manner]
    with subprocess.Popen(program, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert at_work(folder).keys() == {worker.pid}
        assert outline(folder.read())[0][1].startswith(f"stop process {worker.pid} on ")
        monkeypatch.setenv(RUNNER_PID, str(worker.pid))  # as in the kernel of step 27, whose runner holds the lock
        assert outline(folder.read())[0][1] == "no other process works on the run; the rollback's own are left out"
        monkeypatch.delenv(RUNNER_PID)
        begun = time.monotonic()
        assert stop(folder, patience=1.0) == [worker.pid]
        assert time.monotonic() - begun < 10
        assert worker.wait(5) != 0
    assert at_work(folder) == {}
    assert stop(folder) == []
    with RunLock(folder, "runner").acquire(1):
        assert at_work(folder).keys() == {os.getpid()}


@pytest.mark.slow
def test_chunks_that_no_search_finds_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random vectors of many dimensions leave outliers out of every index of Chroma; here not one of them is allowed."""
    monkeypatch.setattr(replay, "UNFOUND", 0.0)
    monkeypatch.setattr(replay, "PROBED", 3000)
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(3000, 384))
        changed = store.read("alpha", ["c0"])
        changed.documents[0] = "rewritten"
        wrote, found = replay.apply(store, Plan({"alpha": changed}))
        assert store.read("alpha", ["c0"]).documents == ["rewritten"]
    assert wrote == 1
    assert len(found) > 1
    assert {row["collection"] for row in found} == {"alpha"}


NOWHERE = "neither its id nor its source_collection names a collection of the source"


@pytest.mark.parametrize(
    ("chunk", "field", "target", "to", "expected"),
    [
        ("notes:7", None, "", "", ("notes", "7")),
        ("notes:old:7", None, "", "", ("notes:old", "7")),  # the longest name that fits
        ("7", "notes", "", "", ("notes", "7")),
        ("notes:7", "notes", "", "", ("notes", "7")),
        ("notes:7", "papers", "", "papers", ("its id says notes, its source_collection says papers", "notes:7")),
        ("7", None, "", "", (NOWHERE, "7")),
        ("7", 7, "", "", (NOWHERE, "7")),
        ("7", None, "", "papers", ("papers", "7")),
        ("other:7", None, "", "papers", ("papers", "other:7")),
        ("7", None, "notes", "papers", ("notes", "7")),  # collections kept: nobody needs to say anything
    ],
)
def test_a_new_chunk_goes_where_its_id_its_field_or_the_operator_says(
    chunk: str, field: object, target: str, to: str, expected: tuple[str, str]
) -> None:
    metadata = {"x": 1} if field is None else {"source_collection": field}
    batch = ChunkBatch([chunk], ["text"], np.ones((1, 2), np.float32), [metadata])
    assert _origin(batch, target, {"notes", "notes:old", "papers"}, True, to) == expected


@pytest.mark.parametrize("to", ["T2", "T1"])
def test_a_chunk_that_clients_moved_to_another_collection_of_the_target_is_not_deleted_at_the_source(
    tmp_path: Path, to: str
) -> None:
    """Moved to T2 it is gone from T1 and new in T2: neither half is replayed alone. Under another id it is a new chunk."""
    none, moved = ChunkBatch.empty(), chunks(10, 4, prefix="a").take([3])
    moved.documents = ["the client's newer text"]
    if to == "T1":
        moved.ids = ["a99"]
    with embedded(tmp_path / "db") as store:
        fill(store, "corpus", chunks(10, 4, prefix="a"))
        snapshot = write_snapshot(store, tmp_path / "snapshots", "one", ["corpus"], retention_days=7)
    found = [
        Written("T1", "l2", none, none, [], none, deleted=[("a3", ("corpus", "a3")), ("a4", ("corpus", "a4"))]),
        Written(to, "l2", none, none, [], moved),
    ]
    schema = cast(Schema, SimpleNamespace(
        only_source=lambda target, names: "corpus",
        content=SimpleNamespace(names_in_source=lambda collection, held, keys: {key: key for key in keys}),
    ))  # fmt: skip
    planned = replay.plan(found, snapshot, set(), schema=schema, prefixed=False)
    if to == "T1":
        assert (planned.delete, planned.put["corpus"].ids, planned.open) == ({"corpus": ["a3", "a4"]}, ["a99"], [])
        return
    assert (planned.delete, planned.put) == ({"corpus": ["a4"]}, {})
    assert [(row["collection"], row["id"]) for row in planned.open] == [("T2", "a3")]
    assert "moved it here from another collection" in planned.open[0]["why"]


def test_a_list_of_the_post_mortem_that_is_cut_says_how_many_more_there_are() -> None:
    lines = [f"line {n}" for n in range(postmortem.SHOWN + 3)]
    assert postmortem._first(lines[:2], "lines") == lines[:2]
    assert postmortem._first(lines, "lines") == [*lines[: postmortem.SHOWN], "And 3 more lines."]


def test_the_times_of_a_rollback_are_those_of_its_stages() -> None:
    """The numbers of a run look for stages by their title: a renamed one would be measured no more."""
    assert TITLES[LIFT] == numbers.SERVICE_BACK
    assert TITLES[TRY] == numbers.WRITE_ASKED
    assert TITLES[FILES] == numbers.FILES_BACK
    assert TITLES[REMOVE] == numbers.CLEAN
    assert list(TITLES) == list(STAGES)


def test_what_clients_write_to_the_source_after_the_restart_stays(tmp_path: Path, own_folders: Path) -> None:
    """The application is back at the source before the second look: what its clients write there is not written over."""
    usual_source(tmp_path / "source")
    others(tmp_path / "target")
    application = tmp_path / "application.py"
    application.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.storage import embedded\nhome = Path(sys.argv[1])\n"
        "if b'before' in (home / 'app.env').read_bytes():\n"
        "    with embedded(home / 'source') as store:\n"
        "        held = store._collection('alpha')\n"
        "        held.update(ids=['a3', 'a5'], metadatas=[{'status': 'source, after the restart'}] * 2)\n"
        "        held.add(ids=['a7'], embeddings=[[1, 2, 3, 4]], metadatas=[{'n': 1}], documents=['made again'])\n",
        encoding="utf-8",
    )
    night = Night(tmp_path, cutover={
        "env_files": [{"path": "app.env", "keys": {"CHROMA_URL": "after"}}], "monitor_minutes": 0,
        "restart": [["env", f"PYTHONPATH={ROOT}", sys.executable, str(application), str(tmp_path)]],
    })  # fmt: skip
    night.snapshot()
    night.migrate()
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        store._collection("alpha").update(ids=["a3"], metadatas=[{"by": "client at the target"}])
        store._collection("alpha").delete(ids=["a7"])
    verdicts = night.rollback(replay=True)
    assert verdicts["replayed chunks"] is Verdict.PASS
    with embedded(tmp_path / "source") as store:
        held = store.read("alpha", ["a3", "a5", "a7"])
    assert [metadata and metadata.get("status") for metadata in held.metadatas][:2] == ["source, after the restart"] * 2
    assert (held.metadatas[0] or {})["by"] == "client at the target"
    assert held.documents[2] == "made again"


def test_a_chunk_that_changed_at_both_sides_since_the_proof_is_listed_and_left_alone(
    tmp_path: Path, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = snapshotted(tmp_path)
    night.migrate()
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        store._collection("alpha").update(ids=["a3", "a4"], metadatas=[{"by": "target"}] * 2)
    whole = proof.open_for_writing

    def late(endpoint: Endpoint) -> Any:  # a client of the source comes between its proof and the replay
        with embedded(tmp_path / "source") as store:
            store._collection("alpha").update(ids=["a3"], metadatas=[{"by": "source"}])
        return whole(endpoint)

    monkeypatch.setattr(return_writes, "open_for_writing", late)
    with pytest.raises(Terminal, match="1 write cannot be replayed: 1 in alpha: it was changed at the source too"):
        night.rollback(replay=True)
    with embedded(tmp_path / "source") as store:
        assert [m and m.get("by") for m in store.read("alpha", ["a3", "a4"]).metadatas] == ["source", None]
    night.rollback(replay=True, discard="the source's is right")
    with embedded(tmp_path / "source") as store:
        assert [m and m.get("by") for m in store.read("alpha", ["a3", "a4"]).metadatas] == ["source", "target"]


@pytest.mark.parametrize("lost", ["files from a backup", "a collection"])
def test_a_lost_replay_is_repeated(tmp_path: Path, own_folders: Path, lost: str) -> None:
    """The first attempt replays, and ends at a restart that fails; before the second one the source loses what it wrote."""
    usual_source(tmp_path / "source")
    others(tmp_path / "target")
    night = Night(tmp_path, cutover={
        "env_files": [{"path": "app.env", "keys": {"CHROMA_URL": "after"}}], "monitor_minutes": 0, "timeout_seconds": 5.0,
        "restart": [["test", "!", "-e", str(tmp_path / "broken")]],
    })  # fmt: skip
    night.snapshot()
    night.migrate()
    shutil.copytree(tmp_path / "source", tmp_path / "backup")
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        held = store._collection("alpha")
        held.update(ids=["a3"], metadatas=[{"status": "paid"}])
        held.delete(ids=["a9"])
        held.add(ids=["new"], embeddings=np.ones((1, 4), np.float32), documents=["an order"])
    (tmp_path / "broken").touch()
    with pytest.raises(RunbookError, match="restart"):
        night.rollback(replay=True)
    (tmp_path / "broken").unlink()
    replayed = everything(night.source)
    if lost == "a collection":
        with embedded(tmp_path / "source") as store:
            store.drop("alpha")
    else:
        shutil.rmtree(tmp_path / "source")
        shutil.copytree(tmp_path / "backup", tmp_path / "source")
    verdicts = night.rollback(replay=True, restore=lost == "a collection")
    assert verdicts["replayed chunks"] is Verdict.PASS
    assert everything(night.source) == replayed


@pytest.mark.parametrize("at_source", ["deleted", "as in the snapshot"])
def test_a_second_replay_brings_nothing_back(tmp_path: Path, own_folders: Path, at_source: str) -> None:
    """After the first replay only what it wrote explains the source's state; the snapshot's does not any more."""
    usual_source(tmp_path / "source")
    others(tmp_path / "target")
    chunk, act = ("new", "delete(ids=['new'])") if at_source == "deleted" else (
        "a3", "upsert(ids=original.ids, embeddings=original.embeddings, documents=original.documents, metadatas=[{}])"
    )  # fmt: skip
    application = tmp_path / "application.py"
    application.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.storage import embedded\nhome = Path(sys.argv[1])\n"
        "if b'before' in (home / 'app.env').read_bytes():\n"
        "    with embedded(home / 'source') as store:\n"
        f"        original = store.read('alpha', [{chunk!r}])\n"
        "        held = store._collection('alpha')\n"
        f"        held.{act.replace('metadatas=[{}]', 'metadatas=[dict(original.metadatas[0], by=None)]')}\n"
        "    with embedded(home / 'target') as store:\n"
        f"        store._collection('alpha').update(ids=[{chunk!r}], metadatas=[{{'by': 'late client'}}])\n",
        encoding="utf-8",
    )
    night = Night(tmp_path, cutover={
        "env_files": [{"path": "app.env", "keys": {"CHROMA_URL": "after"}}], "monitor_minutes": 0,
        "restart": [["env", f"PYTHONPATH={ROOT}", sys.executable, str(application), str(tmp_path)]],
    })  # fmt: skip
    night.snapshot()
    night.migrate()
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        held = store._collection("alpha")
        held.add(
            ids=["new"], embeddings=np.ones((1, 4), np.float32), metadatas=[{"by": "client"}], documents=["an order"]
        )
        held.update(ids=["a3"], metadatas=[{"by": "client"}])
    with pytest.raises(Terminal, match="1 write cannot be replayed: 1 in alpha: it was changed at the source too"):
        night.rollback(replay=True)
    with embedded(tmp_path / "source") as store:
        state = store.read("alpha", [chunk])
    assert [m and m.get("by") for m in state.metadatas] == ([] if at_source == "deleted" else [None])


@pytest.mark.parametrize("undone", [False, True], ids=["in force", "taken back"])
def test_step_22_writes_over_nothing_that_clients_wrote_to_the_target(
    tmp_path: Path, own_folders: Path, *, undone: bool
) -> None:
    night = snapshotted(tmp_path)
    night.migrate()
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        store._collection("alpha").update(ids=["a3"], metadatas=[{"status": "paid"}])
    if undone:
        CutoverControl(night.folder, night.folder.read().parameters).take_back("it was unwell")
    with embedded(tmp_path / "source") as store:
        store._collection("alpha").update(ids=["a4"], metadatas=[{"job": "old"}])
    before = everything(night.target)
    for write in (MigrateStep.import_chunks, MigrateStep.catch_up):
        with pytest.raises(Terminal, match="step 22 would write over what they wrote"):
            write(MigrateStep(RunRecord(night.folder.read(), Step.MIGRATE)))
    with pytest.raises(UsageError, match="1 changed" if undone else "clients use it since the cutover"):
        return_writes.leave_undone_cutover(night.folder.read())
    for begun in ("", "23"):  # a retry of 23 that was killed has looked at nothing
        if begun:
            write_json(night.folder.workspace / RunPath.RETRY, {"step": begun, "begun": "then"})
        with pytest.raises(UsageError, match="rollback"):
            undo_from(night.folder.read(), plan_of_a_run.find("22"), print)
    assert everything(night.target) == before
    assert CutoverState.load(night.folder.workspace) is not None


@pytest.mark.parametrize("undone", [False, True], ids=["in force", "taken back"])
def test_no_repair_touches_what_clients_wrote(tmp_path: Path, own_folders: Path, *, undone: bool) -> None:
    """A chunk of a client is a difference from what was staged: the notebooks of troubleshooting neither delete nor revert it."""
    night = snapshotted(tmp_path)
    night.migrate()
    with embedded(tmp_path / "target") as store:
        store.delete("alpha", ["a3"])
    repair = CountMismatchStep(RunRecord(night.folder.read(), "48"))
    assert list(repair.resolve()["added"]) == [1]
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        store._collection("alpha").update(ids=["a3"], metadatas=[{"status": "paid"}])
        store._collection("alpha").add(ids=["new"], embeddings=np.ones((1, 4), np.float32), documents=["an order"])
    if undone:
        CutoverControl(night.folder, night.folder.read().parameters).take_back("it was unwell")
    before = everything(night.target)
    repair = CountMismatchStep(RunRecord(night.folder.read(), "48"))
    for act in (repair.resolve, repair.undo):
        with pytest.raises(Terminal, match="no cutover sent clients to the target: what they wrote would go"):
            act()
    assert len(repair.undoable()) == 1
    assert everything(night.target) == before


def test_a_cutover_that_was_taken_back_before_anybody_wrote_is_set_aside(tmp_path: Path, own_folders: Path) -> None:
    night = snapshotted(tmp_path)
    night.migrate()
    night.cut_over()
    CutoverControl(night.folder, night.folder.read().parameters).take_back("it was unwell")
    with embedded(tmp_path / "source") as store:
        store._collection("alpha").update(ids=["a4"], metadatas=[{"job": "late"}])
    return_writes.leave_undone_cutover(night.folder.read())
    assert CutoverState.load(night.folder.workspace) is None
    assert list((night.folder.workspace / RunPath.EARLIER).rglob(str(RunPath.CUTOVER.value))), "what happened is kept"
    night.migrate()
    with embedded(tmp_path / "target") as store:
        assert (store.read("alpha", ["a4"]).metadatas[0] or {})["job"] == "late"
        store._collection("alpha").update(
            ids=["a3"], metadatas=[{"status": "paid"}]
        )  # by a client that was never sent back
    with pytest.raises(Terminal, match="clients wrote to the target: 1 changed"):
        night.rollback()


def test_what_clients_made_before_a_cutover_was_taken_back_is_theirs_after_the_next_one(
    tmp_path: Path, own_folders: Path
) -> None:
    night = snapshotted(tmp_path)
    night.migrate()
    night.cut_over()
    with embedded(tmp_path / "target") as store:
        fill(store, "orders", chunks(3, 4, prefix="o"))
    control = CutoverControl(night.folder, night.folder.read().parameters)
    control.take_back("it was unwell")
    night.cut_over()
    with pytest.raises(Terminal, match="1 new collections"):
        night.rollback()
