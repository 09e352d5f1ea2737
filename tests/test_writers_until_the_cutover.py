"""`fence.when: cutover`: clients write until step 25; whatever was acknowledged is in the target, or nobody was moved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

from helpers.cutover import CutoverState, readiness
from helpers.errors import EnvironmentFailure, NoGo, UsageError
from helpers.fence import FenceControl as FenceControl
from helpers.fence import FenceState, lift
from helpers.fence.nginx import Nginx, Touched, configuration
from helpers.migration.catch_up import CAUGHT_UP, UNCHANGED
from helpers.parameters import parameters_from
from helpers.parameters.sections import NginxFence
from helpers.report import numbers
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import LINE
from helpers.run.record import RunRecord
from helpers.runner.outcome import with_fence
from helpers.steps.fence_writes import FenceWritesStep
from helpers.steps.monitor import MonitorStep
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from tests.commands import Runbook, only_line
from tests.cutovers import cells, decided, keep, signers, step
from tests.fences import Fenced, client, fenced_server, rows
from tests.plain_client import held
from tests.servers import ChromaServer, client_of
from tests.signers import Signers, sign
from tests.source_writer import Application, at_work
from tests.storage import chunks, embedded
from tests.test_catch_up import migrate

pytestmark = pytest.mark.servers


@contextmanager
def two_collections(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    """A fenced server with two collections beside `docs`, in the folder that a run works in."""
    patch.chdir(folder)
    patch.setenv("RUNBOOK_REPORTS", str(folder / "reports"))
    patch.setenv("RUNBOOK_WORKSPACE", str(folder / "workspace"))
    with fenced_server(folder) as made:
        with client(made.server.url) as chroma:
            random = np.random.default_rng(1)
            for name in ("alpha", "beta"):
                chroma.create_collection(name, embedding_function=None).add(
                    ids=[f"c{n}" for n in range(80)],
                    embeddings=random.standard_normal((80, 16)).astype(np.float32),
                    documents=[f"text {n}" for n in range(80)],
                    metadatas=[{"note": f"first {n}", "revision": 0} for n in range(80)],
                )
        yield made


@pytest.fixture
def fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    with two_collections(tmp_path, monkeypatch) as made:
        yield made


def run(fenced: Fenced, env: Path | None = None, **migration: Any) -> RunFolder:
    """A run whose clients reach the source through an nginx that lets everything pass, and follow `env`."""
    files = [{"path": str(env), "keys": {"CHROMADB_URL": "{target_path}"}}] if env else []
    sections: dict[str, Any] = {
        "name": "night", "schema": "identity", "source": {"url": fenced.server.url},
        "target": {"path": str(fenced.folder / "target")}, "snapshot": {"directory": "kept"},
        "fence": fenced.section(when="cutover"), "migration": migration,
        "cutover": {"monitor_minutes": 0.0, "timeout_seconds": 3.0, "env_files": files},
        "signoff": {"allowed_signers": str(Signers(fenced.folder / "keys").allowed)},
    }  # fmt: skip
    opened(fenced)
    return runs.create(parameters_from(sections), "one")


def opened(fenced: Fenced) -> None:
    """An nginx before the source that lets everything pass, as clients use it."""
    nginx = Nginx(NginxFence.model_validate(fenced.section()["nginx"]), 20.0)
    nginx.write(configuration(nginx.rules, "before", closed=False))
    nginx.enforce()


def dies(place: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 25 ends there as by Ctrl-C."""

    def there(*_: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(place, there)
        with pytest.raises(KeyboardInterrupt):
            step(folder)


def ready(folder: RunFolder) -> None:
    """Steps 20 to 23, and a signed decision."""
    record = RunRecord(folder.read(), "20")
    fence = FenceWritesStep(record)
    fence.urls()
    fence.before()
    fence.put_up()
    fence.prove()
    keep(folder, record)
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.refuses
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    record = migrate(folder)
    odd = [c for c in record.result.checks if c.verdict is not Verdict.PASS]
    assert [(c.name, c.verdict) for c in odd] == [(CAUGHT_UP, Verdict.NOT_EXERCISED)]
    changed = check(record.result, UNCHANGED).measured
    assert odd[0].detail.startswith("nothing changed") == (not changed)
    record = RunRecord(folder.read(), "23")
    ValidateStep(record).counts()
    keep(folder, record)
    decided(folder)


def writing(url: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A client that writes 20 times a second, until a write is refused."""
    return at_work("tests.source_writer", url, 1, 20, "alpha", "beta", stderr=subprocess.PIPE)


def check(result: StepResult, name: str) -> Any:
    return next(c for c in result.checks if c.name == name)


def agree(fenced: Fenced, *more: str) -> None:
    with client_of(fenced.server.url) as source:
        was = held(source)
    target = chromadb.PersistentClient(str(fenced.folder / "target"))
    now = held(target)
    for name in ("alpha", "beta", "docs", *more):
        assert was[name].documents == now[name].documents
        assert was[name].metadatas == now[name].metadatas
        for chunk, vector in was[name].vectors.items():
            np.testing.assert_array_equal(vector, now[name].vectors[chunk])


def test_what_a_client_writes_until_it_is_refused_is_in_the_target(fenced: Fenced) -> None:
    folder = run(fenced, delta_limit={"chunks": 5_000, "share": 1.0})
    with writing(fenced.url) as writer:
        ready(folder)
        time.sleep(1)
        assert writer.poll() is None, "the writer was refused before step 25"
        result = step(folder)
        said = writer.communicate(timeout=20)[1]
    assert "Writes are stopped while this database is migrated" in said, said[-500:]
    assert check(result, "cutover").verdict is Verdict.PASS
    brought = check(result, "changes brought over at the cutover")
    assert (brought.verdict, brought.measured > 0) == (Verdict.PASS, True)
    assert result.facts["last_changes"]["unread"] == ["docs"], brought.detail
    assert check(result, "write fence").verdict is Verdict.PASS
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert state.active
    agree(fenced)
    print(brought.detail, flush=True)
    seconds, _ = numbers.downtime({"20": StepResult.read(folder.reports / "results" / "20.json"), "25": result})
    assert seconds is not None
    assert 0 < seconds < 60


@pytest.mark.more
def test_more_than_was_signed_moves_nobody_and_writers_go_on(fenced: Fenced) -> None:
    folder = run(fenced, delta_limit={"chunks": 3})
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c1", "c2", "c3", "c4"])
    with pytest.raises(
        NoGo, match=r"4 changes since the validation, migration.delta_limit allows 3.*--from 22"
    ) as stopped:
        step(folder)
    assert (stopped.value.code, stopped.value.exit_code) == ("delta_over_limit", 3)
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.refuses
    with client(fenced.url) as chroma:  # nobody is kept out
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c5"])
    with client_of(fenced.server.url) as source:
        assert len(held(source)["alpha"].vectors) == 75


@pytest.mark.more
def test_a_cutover_that_fails_lets_writers_go_on_and_the_next_one_brings_all_over(fenced: Fenced) -> None:
    folder = run(fenced, delta_limit={"chunks": 5, "share": 1.0})
    ready(folder)

    def write(*ids: str) -> None:
        with client(fenced.url) as chroma:
            chroma.get_collection("beta", embedding_function=None).delete(ids=list(ids))

    write("c1", "c2")
    with cells(folder) as switch:
        with pytest.raises(Exception, match="Writes are stopped"):
            write("c3")
        switch._take_back("the application is not well")
        result = switch.run.result
    failed = check(result, "cutover")
    assert failed.verdict is Verdict.FAIL
    assert "a write probe got through" in failed.detail
    write("c3", "c4")  # behind the first attempt
    result = step(folder)
    assert check(result, "cutover").verdict is Verdict.PASS
    assert check(result, "changes brought over at the cutover").measured == 4  # both attempts count
    agree(fenced)


@pytest.mark.more
def test_an_attempt_that_dies_with_the_fence_up_is_finished_by_the_next(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(fenced)
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).update(ids=["c7"], metadatas=[{"note": "new"}])
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c8"])

    for place in (
        "helpers.snapshots.snapshot.write_part",
        "helpers.migration.catch_up.make_delta",
        "helpers.migration.catch_up.Round.prove",
        "helpers.migration.catch_up.switch",
        "helpers.migration.importing.Job.arrivals",
        "helpers.steps.cutover.CutoverControl.begin",
    ):
        dies(place, folder, monkeypatch)
        state = FenceState.load(folder.workspace)
        assert state is not None
        assert state.active, place
    result = step(folder)
    assert check(result, "cutover").verdict is Verdict.PASS
    assert check(result, "changes brought over at the cutover").measured == 2
    assert {"beta", "docs"} <= set(result.facts["last_changes"]["unread"])
    agree(fenced)


@pytest.mark.more
def test_a_target_that_somebody_changed_behind_a_killed_catch_up_is_not_cut_over(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is between two states then, so it is compared once the catch-up is finished, and before clients come."""
    folder = run(fenced)
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).update(ids=["c7"], metadatas=[{"note": "new"}])
    dies("helpers.migration.catch_up.switch", folder, monkeypatch)
    with embedded(fenced.folder / "target") as store:
        store.client.get_collection("alpha", embedding_function=None).update(
            ids=["c20"], metadatas=[{"note": "somebody's"}]
        )
    with pytest.raises(EnvironmentFailure, match="1 changed since the validation") as refused:
        step(folder)
    assert refused.value.code == "target_changed"
    assert CutoverState.load(folder.workspace) is None


@pytest.mark.more
def test_a_log_whose_end_a_killed_process_did_not_see_is_not_trusted(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(fenced)
    ready(folder)

    dies("helpers.fence.FenceControl.settle", folder, monkeypatch)
    last = step(folder).facts["last_changes"]
    assert (last["unread"], last["read"]) == (
        [],
        "every collection was read: a process ended while it set the fence",
    )
    agree(fenced)


@pytest.mark.more
def test_a_source_that_changed_behind_a_cutover_under_way_is_not_written_over_what_clients_wrote_at_the_target(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = fenced.folder / "app.env"
    env.write_text(f"CHROMADB_URL={fenced.url}\n")
    folder = run(fenced, env)
    ready(folder)

    dies("helpers.steps.cutover.wait_until_healthy", folder, monkeypatch)
    assert fenced.url not in env.read_text()  # clients may be at the target
    people = signers(folder)
    sign(folder.read(), "security", "S. Moreno", "no-go", reason="no", key=people.key("security"))
    with pytest.raises(NoGo):
        step(folder)
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert state.active  # nobody writes to the source meanwhile
    people.approve(folder.reports, ("security",))
    assert "is lifted" in lift(folder.read())  # by hand, and a client that was not moved writes
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c1"])
    with embedded(fenced.folder / "target") as store:
        store.add("alpha", chunks(1, 16, prefix="client"))
    with pytest.raises(EnvironmentFailure, match=r"changed since the cutover was begun: .*1 deleted"):
        step(folder)
    assert env.read_text() == f"CHROMADB_URL={fenced.url}\n"
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.refuses
    with embedded(fenced.folder / "target") as store:
        assert {"c1", "client0"} <= set(store.ids("alpha"))


@pytest.mark.more
def test_a_no_go_that_comes_while_writers_are_out_lets_them_go_on(fenced: Fenced) -> None:
    folder = run(fenced)
    ready(folder)
    with cells(folder) as switch:
        people = signers(folder)
        sign(folder.read(), "security", "S. Moreno", "no-go", reason="no", key=people.key("security"))
        with pytest.raises(NoGo):
            switch.switch()
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.refuses


@pytest.mark.parametrize("when", ["before the last changes", "before the switch", "never"])
def test_a_chunk_that_somebody_adds_to_the_target_behind_its_comparison_stops_the_switch(
    fenced: Fenced, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number of chunks is asked for once more; clients are sent nowhere, and writers go on at the source."""
    folder, ahead = run(fenced), readiness.bring_ahead

    def planted() -> None:
        with embedded(fenced.folder / "target") as store:
            store.add("alpha", chunks(1, 16, prefix="planted"))

    def meanwhile(record: RunRecord) -> None:
        ahead(record)
        if when == "before the last changes":
            planted()

    monkeypatch.setattr(readiness, "bring_ahead", meanwhile)
    ready(folder)
    if when == "before the last changes":
        with pytest.raises(EnvironmentFailure, match="somebody writes to the target: alpha") as refused, cells(folder):
            pass
    elif when == "before the switch":
        with cells(folder) as switch:
            planted()
            with pytest.raises(EnvironmentFailure, match="somebody writes to the target: alpha") as refused:
                switch.switch()
    else:
        assert check(step(folder), "cutover").verdict is Verdict.PASS
        return
    state = FenceState.load(folder.workspace)
    assert (refused.value.code, state is not None and state.refuses) == ("target_changed", False)


@pytest.mark.more
@pytest.mark.parametrize("ahead", [False, True])
def test_collections_made_dropped_and_cleared_by_filter_are_brought_over_and_others_are_not_read(
    fenced: Fenced, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that has to be read in full is read before the fence, where nothing speaks against the log."""
    if not ahead:
        monkeypatch.setattr("helpers.cutover.readiness.bring_ahead", lambda run: None)
    folder = run(fenced, delta_limit={"share": 1.0})
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.create_collection("new", embedding_function=None).add(**rows(5))
        chroma.delete_collection("docs")
        chroma.create_collection("docs", embedding_function=None).add(**rows(20))  # as it was, as far as a count shows
        chroma.get_collection("beta", embedding_function=None).delete(where={"note": "first 3"})
    result = step(folder)
    last = result.facts["last_changes"]
    assert last["unread"] == (["alpha", "beta", "docs", "new"] if ahead else ["alpha"])
    some = "2 of 3 collections read again (1 by the ids of 1 chunk); nginx logged no write to the others"
    assert ("0 of 4 collections read again; nginx logged no write to the others" if ahead else some) in last["read"]
    agree(fenced, "new")
    record = RunRecord(folder.read(), "50")
    MonitorStep(record).source()
    assert check(record.result, "source as it was cut over").verdict is Verdict.PASS
    counted = numbers.counts({n: r for n in ("22", "25") if (r := folder.read().result(n)) is not None})
    assert (counted.source, counted.migrated, counted.quarantined) == (184, 184, 0)


@pytest.mark.more
def test_a_write_that_the_log_does_not_show_is_found_after_the_cutover(fenced: Fenced) -> None:
    folder = run(fenced)
    ready(folder)
    with client(fenced.server.url) as past:  # past nginx, and gone when it is asked who is connected
        past.get_collection("docs", embedding_function=None).update(ids=["c3"], metadatas=[{"note": "past nginx"}])
    result = step(folder)
    assert check(result, "cutover").verdict is Verdict.PASS
    record = RunRecord(folder.read(), "50")
    MonitorStep(record).source()
    found = check(record.result, "source as it was cut over")
    assert (found.verdict, found.reason) == (Verdict.FAIL, "changes_missed")
    assert [(i["collection"], i["id"]) for i in found.ids] == [("docs", "c3")]


@pytest.mark.more
def test_a_log_of_writes_that_may_lack_one_is_not_trusted_and_says_why(fenced: Fenced) -> None:
    folder = run(fenced)
    log, control = Path(f"{fenced.config}.writes"), FenceControl(folder, folder.read().parameters)
    names = ["alpha", "beta", "docs"]

    def asked(cause: Callable[[], object] = lambda: None) -> tuple[set[str], str]:
        control.record()
        control.read_since("snapshot", control.position())
        with client(fenced.url) as chroma:
            chroma.get_collection("beta", embedding_function=None).delete(ids=["c1"])
        cause()
        try:
            control.put_up()
            written, doubt = control.logged_changes("snapshot", names)
            return {name for name, one in written.items() if one == Touched()}, doubt
        finally:
            lift(folder.read())

    def restart() -> None:
        fenced.stop()
        subprocess.run([fenced.program, "-c", str(fenced.config)], check=True)

    def rotate() -> None:
        log.rename(f"{log}.1")
        os.kill(int(Path(f"{fenced.config}.pid").read_text()), signal.SIGUSR1)

    def crash() -> None:
        assert control.nginx is not None
        os.kill(control.nginx.processes()[-1][0], signal.SIGKILL)

    assert asked() == ({"alpha", "docs"}, "")
    for cause, said in (
        (restart, "nginx was restarted"),
        (rotate, "is not the file that was begun"),
        (lambda: log.write_bytes(b""), "no longer begins as it did"),
        (crash, "nginx was restarted"),
    ):
        unwritten, doubt = asked(cause)
        assert (unwritten, said in doubt) == (set(), True), doubt
    with client_of(fenced.server.url) as here:
        here.heartbeat()
        assert asked()[1] == ""  # our own connection
    command = "import socket,sys,time; s=socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(flush=True); "
    command += "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", command, str(fenced.server.port)], stdout=subprocess.PIPE) as past:
        assert past.stdout is not None
        past.stdout.readline()
        assert "1 connection to 127.0.0.1" in asked()[1]
        past.kill()
    assert control.logged_changes("snapshot", names) == ({}, "no log of writes was kept")  # it was lifted


@pytest.mark.more
def test_a_dry_run_stops_nobody(fenced: Fenced) -> None:
    folder = run(fenced)
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c1"])
    result = step(folder, dry_run=True)
    found = check(result, "changes in the source since it was migrated")
    assert (found.verdict, found.measured) == (Verdict.NOT_EXERCISED, 1)
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert not state.refuses


def test_step_20_is_not_put_before_a_step_that_stops_writes_itself(fenced: Fenced) -> None:
    line = [s for s in LINE if "21" <= s <= "25"]
    assert with_fence(run(fenced).read(), line) == line


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"fence": {"when": "cutover"}}, "step 25 can only put up nginx on this machine, or run a command"),
        ({"source": {"path": "source"}, "fence": "command"}, "is copied while nobody writes to it"),
        ({"fence": "command", "migration": {"catch_up": "block"}}, "which brings nothing over"),
        ({"fence": "command", "migration": {"delta_limit": {"share": 1.5}}}, "delta_limit.share"),
    ],
)
def test_what_cannot_be_done_is_refused(sections: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "n", "source": {"url": "http://127.0.0.1:1"}, "target": {"path": "t"}, **sections}
    if given["fence"] == "command":
        given["fence"] = {"kind": "command", "when": "cutover", "command": {"lock": ["true"], "unlock": ["true"]}}
    with pytest.raises(UsageError, match=said):
        parameters_from(given)


@pytest.mark.slow
def test_the_whole_line_with_a_client_that_follows_its_configuration(
    fenced: Fenced, chroma_server: Callable[..., ChromaServer]
) -> None:
    """Everything that was answered is in the target; how long the client was refused is measured by the client."""
    target, runbook, people = chroma_server(), Runbook(fenced.folder), Signers(fenced.folder / "keys")
    env = fenced.folder / "app.env"
    env.write_text(f"CHROMADB_URL={fenced.url}\n")
    cutover = {"env_files": [{"path": str(env), "keys": {"CHROMADB_URL": "{target_url}"}}], "monitor_minutes": 0.02}
    more = (
        f"fence: {json.dumps(fenced.section(when='cutover'))}\ncutover: {json.dumps(cutover)}\n"
        f"migration: {{delta_limit: {{share: 1.0}}}}\n{people.parameter()}"
    )
    file = runbook.write("night", f"url: '{fenced.server.url}'", f"url: '{target.url}'", more)
    opened(fenced)
    application = Application(env, "alpha", 16)
    application.start()
    assert "waits for the approval" in only_line(runbook("run", file, "--run-id", "one", "--until", "25"), 4)
    assert application.refused == []
    for role in ("operations_lead", "dba", "security"):
        assert runbook("sign", "one", *people.command(role)).returncode == 0
    done = runbook("resume", "one")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    time.sleep(1)
    application.asked.set()
    application.join(20)
    assert application.moved_to == target.url
    (first, last), *more_times = application.refused
    assert more_times == []
    found = StepResult.read(runbook.reports / "one" / "results" / "25.json")
    with client_of(target.url) as chroma:
        now = held(chroma)["alpha"]
    assert {i: now.documents[i] for i in application.kept} == application.kept
    assert not application.gone & set(now.documents)
    seconds, how = numbers.downtime(
        {"20": StepResult.read(runbook.reports / "one" / "results" / "20.json"), "25": found}
    )
    print(f"the client was refused for {last - first:.1f} s; the run says {seconds} s: {how}", flush=True)
    assert seconds is not None
    assert last - first <= seconds + 5
    signed = [json.loads(p.read_text()) for p in (runbook.reports / "one" / "signoffs").glob("cutover-*.json")]
    assert [s["delta_limit"]["changes"] > 0 for s in signed] == [True] * 3
    assert runbook("verify", "one").returncode == 0
