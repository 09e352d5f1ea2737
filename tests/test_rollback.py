"""Rollback: nothing lost, nothing of others touched, at every point that a run can have reached."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import EnvironmentFailure, Interrupted, Terminal, UsageError
from helpers.results import Verdict, file_digest
from helpers.rollback import DRILL, STAGES, RollbackState, postmortem
from helpers.rollback.proof import AFTERWARDS
from helpers.run.record import RunRecord
from helpers.steps import rollback
from helpers.steps.rollback import RollbackStep
from helpers.stores import CollectionInfo
from helpers.stores.layout import DATABASE
from tests.rollbacks import ENV, Night, everything, others, snapshotted, usual_source
from tests.storage import chunks, contents, embedded, exact, fill, tree

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return snapshotted(tmp_path)


def reach(night: Night, point: str) -> None:
    if point == "22 at half":
        night.migrate_half()
    elif point != "21":
        night.migrate()
    if point == "25":
        night.cut_over()
        assert b"after" in night.env


@pytest.mark.parametrize("point", ["22 at half", "25", pytest.param("21", marks=pytest.mark.slow),
                                   pytest.param("23", marks=pytest.mark.slow)])  # fmt: skip
def test_everything_is_as_it_was_before(night: Night, point: str) -> None:
    before, source = everything(night.target), everything(night.source)
    reach(night, point)
    verdicts = night.rollback()
    assert everything(night.target) == before
    assert everything(night.source) == source
    assert night.env == ENV.encode()
    assert Verdict.FAIL not in verdicts.values()
    assert verdicts["source against the snapshot"] is verdicts[AFTERWARDS] is Verdict.PASS
    assert [night.state.did(stage) for stage in ("stop", "files", "lift", "remove", "watch")] == [True] * 5
    assert night.state.finished
    assert (night.folder.reports / "rollback.html").read_text().count("UTC") > 5


def test_a_source_that_the_removal_reached_is_named(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as through a link that came into the target since it was last looked at."""
    night.migrate()
    clean = rollback.remove

    def reaches(*given: Any, **named: Any) -> Any:
        with embedded(night.home / "source") as store:
            store.drop("alpha")
        return clean(*given, **named)

    monkeypatch.setattr(rollback, "remove", reaches)
    verdicts = night.rollback()
    assert (verdicts["source against the snapshot"], verdicts[AFTERWARDS]) == (Verdict.PASS, Verdict.FAIL)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_source_whose_files_change_during_the_removal_is_compared_again(
    night: Night, monkeypatch: pytest.MonkeyPatch, *, damaged: bool
) -> None:
    night.migrate()
    clean = rollback.remove

    def writes(*given: Any, **named: Any) -> Any:
        with embedded(night.home / "source") as store:
            store.add("alpha", chunks(2, 4, seed=9, prefix="new"))
        if damaged:
            (night.home / "source" / DATABASE).write_bytes(b"SQLite")
        return clean(*given, **named)

    monkeypatch.setattr(rollback, "remove", writes)
    assert night.rollback()[AFTERWARDS] is (Verdict.FAIL if damaged else Verdict.WARNING)


@pytest.mark.parametrize("stopped", [False, True], ids=["before it began", "while it took it"])
def test_after_step_20_there_is_no_snapshot_to_compare_with_and_nothing_to_remove(
    tmp_path: Path, *, stopped: bool
) -> None:
    usual_source(tmp_path / "source")
    others(tmp_path / "target")
    night = Night(tmp_path)
    before, source = everything(night.target), everything(night.source)
    if stopped:
        record = RunRecord(night.folder.read(), "21")
        record.result.error = {"code": "interrupted", "type": "Interrupted", "line": "stopped on request"}
        night.keep(record)
    verdicts = night.rollback()
    assert (everything(night.target), everything(night.source), night.env) == (before, source, ENV.encode())
    assert verdicts["source against the snapshot"] is Verdict.NOT_EXERCISED
    assert Verdict.FAIL not in verdicts.values()
    assert night.state.finished


def test_a_rollback_that_is_stopped_names_the_command_that_goes_on(night: Night) -> None:
    night.migrate()
    night.folder.stop_file.touch()
    with pytest.raises(Interrupted) as stopped:
        night.rollback()
    assert night.folder.command("rollback") in str(stopped.value)


@pytest.mark.more
def test_a_dry_run_touches_nothing(night: Night) -> None:
    night.migrate()
    night.cut_over()
    kept = {k: tree(night.home / k) for k in ("source", "target", "workspace", "kept")}
    verdicts = night.rollback(dry_run=True)
    assert {k: tree(night.home / k) for k in kept} == kept | {"workspace": kept["workspace"] | _progress(night)}
    assert b"after" in night.env
    assert RollbackState.load(night.folder.workspace) is None
    assert verdicts["source against the snapshot"] is Verdict.PASS


def _progress(night: Night) -> dict[str, str]:
    """progress.json tells the terminal how far a step is; it is no part of the run."""
    return {k: v for k, v in tree(night.home / "workspace").items() if k.endswith("progress.json")}


def write_as_clients(night: Night) -> None:
    """Added, changed (document, vector, metadata; a key removed) and deleted at the target."""
    with embedded(night.home / "target") as store:
        store.add("alpha", chunks(2, 4, seed=9, prefix="new"))
        changed = contents(store, "alpha").take([3, 4])
        changed.documents[0], changed.metadatas[0] = "rewritten", {"n": 1, "by": "client"}
        changed.embeddings[1] = [1, 2, 3, 4]
        store.delete("alpha", changed.ids)
        store.add("alpha", changed)
        store.delete("beta", ["b3", "b4"])


@pytest.mark.more
def test_what_clients_wrote_to_the_target_is_exported_and_replayed(night: Night) -> None:
    night.migrate()
    night.cut_over()
    write_as_clients(night)
    wanted = everything(night.target)
    source, config = everything(night.source), night.env
    with pytest.raises(Terminal, match=r"2 added, 2 changed, 2 deleted.*--replay"):
        night.rollback()
    assert (everything(night.target), everything(night.source), night.env) == (wanted, source, config)
    assert Path(night.state.facts["exports"][0], "index.json").is_file()
    verdicts = night.rollback(replay=True)
    assert [look["said"] for look in night.state.facts["looks"]][-1] == "nothing since the look before"
    stages = night.state.stages
    assert stages["replay"]["said"].startswith("6 chunks written to the source; 6 chunks compared there")
    assert stages["settle"]["said"] == "nothing since the look before; nothing more to replay"
    page = (night.folder.reports / "rollback.html").read_text()
    assert "nothing since the look before" in page
    assert "Ordered by" in page, "nothing had failed: it says who ordered it"
    assert verdicts["replayed chunks"] is Verdict.PASS
    assert verdicts["chunks not found after the replay"] is Verdict.PASS
    found = everything(night.source)
    assert found["alpha"][3] == wanted["alpha"][3]
    assert sorted(found["beta"][3]) == sorted(wanted["beta"][3])
    assert everything(night.target).keys() == {"other-people"}
    assert night.env == ENV.encode()


def as_a_client(night: Night, **changes: Any) -> None:
    with embedded(night.home / "target") as store:
        store.client.get_collection("alpha", embedding_function=None).modify(**changes)


@pytest.mark.parametrize("changes", [
    pytest.param({"metadata": {"retention": "do not delete before 2031"}}, id="metadata"),
    pytest.param({"configuration": {"hnsw": {"ef_search": 777}}}, id="configuration"),
])  # fmt: skip
def test_what_clients_did_to_a_collection_itself_is_exported_and_waits_for_a_person(
    night: Night, changes: dict[str, Any]
) -> None:
    (what,) = changes
    night.migrate()
    night.cut_over()
    as_a_client(night, **changes)
    wanted = everything(night.target)
    with pytest.raises(Terminal, match=r"[12] changed settings since the cutover, exported to.*--replay") as caught:
        night.rollback()
    assert (caught.value.code, everything(night.target)) == ("client_writes", wanted)
    (row,) = json.loads(Path(night.state.facts["exports"][0], "index.json").read_text())["collections"]
    also = {"indexes"} if what == "configuration" else set()  # the server's schema says it, too
    assert (set(row["settings"]), row["collection"]) == ({what} | also, "alpha")
    told = row["now"]["metadata"] if what == "metadata" else row["now"]["configuration"]["hnsw"]["ef_search"]
    assert told == (changes["metadata"] if what == "metadata" else 777)
    with pytest.raises(Terminal, match=f"clients changed its {what}.*: set it at the source by hand") as caught:
        night.rollback(replay=True)
    assert (caught.value.code, everything(night.target)) == ("replay_open", wanted)
    night.rollback(replay=True, discard="set at the source by hand")
    assert everything(night.target).keys() == {"other-people"}
    assert night.state.facts["given_up"][0]["why"].startswith(f"clients changed its {what}")


def test_what_clients_do_to_a_collection_after_the_last_look_keeps_it(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.migrate()
    night.cut_over()
    real = RollbackStep.remove

    def late(self: RollbackStep) -> Any:
        as_a_client(night, metadata={"retention": "do not delete before 2031"})
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(RollbackStep, "remove", late)
        with pytest.raises(Terminal, match=r"its metadata changed since it was read.*exported to") as caught:
            night.rollback()
    assert caught.value.code == "target_in_use"
    with embedded(night.home / "target") as store:
        assert (store.count("alpha"), store.count("beta")) == (60, 25), "nothing was removed"
    night.rollback()
    assert everything(night.target).keys() == {"other-people"}, "it is exported by now"


def test_a_collection_that_clients_made_anew_is_exported_waits_for_a_person_and_stays(night: Night) -> None:
    night.migrate()
    night.cut_over()
    with embedded(night.home / "target") as store:
        store.drop("alpha")
        fill(store, "alpha", chunks(5, 4, seed=3, prefix="new"))
    source = everything(night.source)
    with pytest.raises(Terminal, match=r"5 added, 1 vanished, 1 new collections"):
        night.rollback()
    with pytest.raises(Terminal, match=r"the source holds another collection of this name.*is gone from the target"):
        night.rollback(replay=True)
    night.rollback(discard="a test of the clients")
    assert everything(night.source) == source
    assert everything(night.target).keys() == {"alpha", "other-people"}


@pytest.mark.more
def test_a_collection_that_clients_made_in_the_target_comes_back_whole(night: Night) -> None:
    night.migrate()
    night.cut_over()
    with embedded(night.home / "target") as store:
        fill(store, "of-clients", chunks(7, 6, prefix="n"), "ip")
        store.create(CollectionInfo("empty", 0, None, "l2", "l2"))
    made = everything(night.target)["of-clients"]
    with pytest.raises(Terminal, match=r"7 added, 2 new collections.*--replay"):
        night.rollback()
    night.rollback(replay=True)
    source = everything(night.source)
    assert source["of-clients"] == made
    assert source["empty"][3] == {}
    assert everything(night.target)["of-clients"] == made, "what others made is never removed"


@pytest.mark.more
def test_a_collection_that_both_sides_made_stops_the_replay(night: Night) -> None:
    night.migrate()
    night.cut_over()
    for place, prefix in (("target", "t"), ("source", "s")):
        with embedded(night.home / place) as store:
            fill(store, "of-clients", chunks(3, 4, prefix=prefix))
    with pytest.raises(Terminal, match=r"clients made it, and the source holds another collection of this name"):
        night.rollback(replay=True)
    night.rollback(replay=True, discard="a test collection")
    assert sorted(everything(night.source)["of-clients"][3]) == ["s0", "s1", "s2"]
    assert sorted(everything(night.target)["of-clients"][3]) == ["t0", "t1", "t2"]


@pytest.mark.slow
def test_clients_writes_can_be_given_up_with_a_reason(night: Night) -> None:
    night.migrate()
    night.cut_over()
    write_as_clients(night)
    source = everything(night.source)
    night.rollback(discard="test data only")
    assert everything(night.source) == source
    assert everything(night.target).keys() == {"other-people"}
    assert len(night.state.facts["exports"]) == 1
    log = (night.folder.reports / "audit.jsonl").read_text()
    assert "test data only" in log
    assert "exported" in log


@pytest.mark.slow
@pytest.mark.parametrize("placed", [True, False], ids=["replay-to", "given up"])
def test_a_chunk_that_lost_its_collection_stops_the_replay(tmp_path: Path, placed: bool) -> None:
    """Under if_ttt six become four: a new chunk says by its id or source_collection where it belongs, or somebody decides."""
    with embedded(tmp_path / "source") as store:
        for name in ("sergio_humor", "sergio_corpus"):
            batch = chunks(20, 4, prefix="c")
            batch.metadatas = [{"source_file": f"{i}.txt", "authenticity_score": 0.5, "mine": i} for i in range(20)]
            fill(store, name, batch)
    night = Night(tmp_path, schema="if_ttt")
    night.snapshot()
    night.migrate()
    night.cut_over()
    before = everything(night.source)
    with embedded(tmp_path / "target") as store:
        batch = contents(store, "sergio_humor")
        one = batch.take([0])
        assert one.ids == ["sergio_humor:c0"]
        assert one.metadatas[0]
        one.metadatas[0]["authenticity_score"] = 0.9
        one.metadatas[0].pop("mine")
        store.delete("sergio_humor", one.ids)
        store.add("sergio_humor", one)
        new = batch.take([1])
        new.ids, new.metadatas[0] = ["sergio_corpus:n1"], {"source_collection": "sergio_corpus", "x": 1}
        plain = batch.take([3])  # an application that knows nothing of our field
        plain.ids, plain.metadatas[0] = ["sergio_corpus:n2"], {"x": 2}
        lost = batch.take([2, 4])
        lost.ids, lost.metadatas = ["lost-1", "lost-2"], [{"x": 1}, {"x": 2}]
        for some in (new, plain, lost):
            store.add("sergio_humor", some)
    why = r"2 writes cannot be replayed: 2 in sergio_humor: neither its id nor its source_collection names"
    with pytest.raises(Terminal, match=why) as caught:
        night.rollback(replay=True)
    assert "--replay-to COLLECTION" in str(caught.value)
    listed = night.folder.workspace / "rollback" / "not-placed.csv"
    assert str(listed) in str(caught.value)
    assert [line.split(",")[1] for line in listed.read_text().splitlines()] == ["id", "lost-1", "lost-2"]
    with pytest.raises(UsageError, match="the source has no such collection"):
        night.rollback(replay=True, replay_to="nowhere")
    if placed:
        night.rollback(replay=True, replay_to="sergio_corpus")
    else:
        night.rollback(replay=True, discard="test chunks")
    with embedded(tmp_path / "source") as store:
        found = store.read("sergio_humor", ["c0"]).metadatas[0]
        assert exact(found) == exact({"source_file": "0.txt", "authenticity_score": 0.9})
        assert store.read("sergio_corpus", ["n1"]).metadatas[0] == {"source_collection": "sergio_corpus", "x": 1}
        assert store.read("sergio_corpus", ["n2"]).metadatas[0] == {"x": 2}
        assert set(store.ids("sergio_corpus")) - {f"c{i}" for i in range(20)} == {
            "n1", "n2", *(("lost-1", "lost-2") if placed else ())
        }  # fmt: skip
    after = everything(night.source)
    assert {i: v for i, v in after["sergio_humor"][3].items() if i != "c0"} == {
        i: v for i, v in before["sergio_humor"][3].items() if i != "c0"
    }
    assert [row["id"] for row in night.state.facts["given_up"]] == ([] if placed else ["lost-1", "lost-2"])


@pytest.mark.more
def test_a_source_collection_that_was_deleted_is_restored_exactly_when_ordered(night: Night) -> None:
    source = everything(night.source)
    night.migrate()
    with embedded(night.home / "source") as store:
        store.drop("alpha")
    with pytest.raises(Terminal, match=r"alpha is gone.*--restore-source"):
        night.rollback()
    assert "alpha" in everything(night.target)
    verdicts = night.rollback(restore=True, collections=["alpha"])
    assert verdicts["source against the snapshot"] is Verdict.PASS
    assert everything(night.source) == source
    assert everything(night.target).keys() == {"other-people"}


@pytest.mark.slow
def test_damage_under_a_fence_is_mended_chunk_by_chunk(night: Night) -> None:
    source = everything(night.source)
    night.migrate()
    from helpers.fence import UP, FenceState

    state = FenceState("command", UP, "runbook fence night --lift", since="2020-01-01T00:00:00.000+00:00")
    state.rules = {"kind": "none"}
    state.enter(night.folder.workspace, UP)
    state.events[0]["when"] = "2020-01-01T00:00:00.000+00:00"
    from dataclasses import asdict

    from helpers.results import write_json

    write_json(night.folder.workspace / FenceState.file, asdict(state))
    with embedded(night.home / "source") as store:
        store.delete("alpha", ["a1", "a2"])
        store.add("alpha", chunks(1, 4, prefix="stray"))
        batch = store.read("beta", ["b5"])
        batch.documents[0] = "scribbled"
        store.delete("beta", ["b5"])
        store.add("beta", batch)
    with pytest.raises(Terminal, match="alpha: 1 added, 2 deleted; beta: 1 changed"):
        night.rollback()
    night.rollback(restore=True)
    found = everything(night.source)
    assert found["alpha"] == source["alpha"]
    assert found["beta"][3].keys() == source["beta"][3].keys()
    assert found["beta"][3]["b5"][0] == source["beta"][3]["b5"][0]
    assert list((night.folder.workspace / "rollback").glob("source-before-*/*.parquet"))


@pytest.mark.slow
def test_a_source_that_moves_on_without_a_fence_is_no_damage(night: Night) -> None:
    night.migrate()
    with embedded(night.home / "source") as store:
        store.delete("alpha", ["a1"])
    verdicts = night.rollback()
    assert verdicts["source against the snapshot"] is Verdict.WARNING
    with embedded(night.home / "source") as store:
        assert store.count("alpha") == 59


@pytest.mark.slow
def test_chunks_that_others_put_into_a_collection_of_the_run_stay(night: Night) -> None:
    night.migrate()
    with embedded(night.home / "target") as store:
        store.add("alpha", chunks(3, 4, prefix="theirs"))
    verdicts = night.rollback()
    assert verdicts["chunks of others in the target"] is Verdict.WARNING
    assert sorted(everything(night.target)["alpha"][3]) == ["theirs0", "theirs1", "theirs2"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_rollback_that_dies_at_a_stage_is_repeated(night: Night, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies at the end of each stage's work, before that is recorded."""
    night.migrate()
    night.cut_over()
    write_as_clients(night)
    wanted = everything(night.target)

    class Killed(BaseException):
        pass

    from helpers.rollback.proof import StageContext

    original = StageContext.stage

    def mortal(self: Any, name: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def context() -> Any:
            with original(self, name) as row:
                yield row
                if name == stage:
                    raise Killed

        return context()

    monkeypatch.setattr(StageContext, "stage", mortal)
    with pytest.raises(Killed):
        night.rollback(replay=True)
    monkeypatch.setattr(StageContext, "stage", original)
    night.rollback()
    found = everything(night.source)
    assert found["alpha"][3] == wanted["alpha"][3]
    assert sorted(found["beta"][3]) == sorted(wanted["beta"][3])
    assert everything(night.target).keys() == {"other-people"}
    assert night.env == ENV.encode()


@pytest.mark.slow
def test_a_change_that_the_client_took_back_is_taken_back_at_the_source_too(night: Night) -> None:
    night.migrate()
    night.cut_over()
    source = everything(night.source)
    with embedded(night.home / "target") as store:
        original = store.read("alpha", ["a7"])
        store.delete("alpha", ["a7"])
        store.add("alpha", chunks(1, 4, seed=5, prefix="n"))
    from helpers.rollback import Orders
    from helpers.steps.rollback import RollbackStep

    RollbackState.begin(night.folder.workspace, "night", Orders(replay=True))
    rollback = RollbackStep(RunRecord(night.folder.read(), "27"))
    rollback.stop()
    rollback.prove_source()
    rollback.client_writes()
    rollback.replay()
    assert sorted(everything(night.source)["alpha"][3]) == sorted({*source["alpha"][3], "n0"} - {"a7"})
    with embedded(night.home / "target") as store:
        store.add("alpha", original)
        store.delete("alpha", ["n0"])
    night.rollback()
    assert everything(night.source)["alpha"][3] == source["alpha"][3]


_HOLDER = """
import sys, chromadb
client = chromadb.PersistentClient("target")
client.get_collection("alpha", embedding_function=None).add(ids=["held"], embeddings=[[1, 2, 3, 4]], documents=["x"])
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_target_that_its_application_has_open_is_read_after_the_restart(night: Night, tmp_path: Path) -> None:
    """The restart command is what ends the application here."""
    night.migrate()
    night.cut_over()
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as application:
        assert application.stdout is not None
        application.stdout.readline()
        with pytest.raises(Terminal, match=r"has it open, and may have written.*--replay"):
            night.rollback()
        with pytest.raises(EnvironmentFailure, match=r"has it open, so what clients wrote cannot be read"):
            night.rollback(replay=True)
        assert night.env == ENV.encode()
        application.communicate(b"\n")
    night.rollback()
    night.rollback()  # what the first wrote may be sealed: it is history now
    assert len(list((night.folder.reports / "earlier").glob("*/rollback.html"))) == 1
    with embedded(tmp_path / "source") as store:
        assert store.read("alpha", ["held"]).documents == ["x"]
    assert everything(night.target).keys() == {"other-people"}


@pytest.mark.more
def test_a_drill_says_that_it_was_one_and_once_put_back_that_the_cutover_stands(night: Night) -> None:
    night.folder.note(rehearsal=True)
    reach(night, "25")
    night.rollback(why=DRILL)
    page, notice = (night.folder.reports / name for name in ("rollback.html", "rollback-notice.txt"))
    texts = [page.read_text(), notice.read_text()]
    assert ["DRILL: ordered by the rehearsal" in said for said in texts] == [True, True]
    assert ["this run is over" in said for said in texts] == [False, False]
    assert texts[1].startswith(
        "REHEARSAL: DRILL: the rollback of migration night was drilled: nothing had gone wrong (night)\n"
    )
    assert "no trigger of the runbook" not in texts[0], "a drill is the cause that the page names"
    postmortem.put_back(night.folder.read(), "2026-11-28T18:28:10.241+00:00")
    texts = [page.read_text(), notice.read_text()]
    over = "DRILL, put back at 2026-11-28 18:28:10 UTC: the cutover remains in effect"
    assert [over in said for said in texts] == [True, True]
    assert ["is not in use" in said for said in texts] == [False, False]
    assert notice.read_text().startswith(
        "REHEARSAL: DRILL: the rollback of migration night was drilled, and put back: the cutover remains in effect (night)\n"
    )
    digests = [json.loads(line) for line in (night.folder.reports / "audit.jsonl").read_text().splitlines()]
    assert digests[-1]["facts"]["sha256"] == file_digest(notice), (
        "the change is named in the audit log, or no seal takes it"
    )
