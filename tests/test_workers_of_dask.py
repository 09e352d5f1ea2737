"""`migration.executor: dask`: what cannot be used is one line before anything starts; what workers make is what threads make."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import helpers.snapshots.snapshot as snapshots
from helpers.errors import Terminal, UsageError
from helpers.migration.staging import Quarantine, schema_of, stage
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.rehearsal import write_sample
from helpers.run import executor
from helpers.run.executor import Order, Workers, _probe, require_workers
from helpers.schema import Context, load_schema
from helpers.stores import open_target
from helpers.stores.limits import within
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.heavy.commands import descendants
from tests.servers import client_of, free_port
from tests.storage import tree
from tests.workers import STEPS, Dask, bench, outcome, steps, until

ENDS: dict[str, Any] = {"source": {"path": "source"}, "target": {"path": "target"}}


def parameters(scheduler: str | None = None, **more: Any) -> Any:
    rules = {"executor": "dask", **({"scheduler": scheduler} if scheduler else {})}
    return parameters_from({**ENDS, "migration": rules, **more})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("executor: dusk", "'migration.executor' must be 'threads' or 'dask', got the text 'dusk'; did you mean 'dask'?"),
        ("scheduler: local", "'migration.scheduler' is given, but 'migration.executor' is threads, which has none; dask"),
        ("executor: dask, scheduler: here", "'migration.scheduler' must be tcp://HOST:PORT, tls://HOST:PORT or local"),
        ("executor: dask, scheduler: 'http://h:1'", "'migration.scheduler' must be tcp://HOST:PORT, tls://HOST:PORT or local"),
    ],
)  # fmt: skip
def test_a_wrong_order_is_one_line(given: str, said: str, tmp_path: Path) -> None:
    ends = f"name: trial\nsource: {{path: source}}\ntarget: {{path: target}}\nmigration: {{{given}}}\n"
    (tmp_path / "trial.yaml").write_text(ends, encoding="utf-8")
    refused(Runbook(tmp_path), said)


def refused(runbook: Runbook, said: str) -> str:
    done = runbook("run", "trial.yaml", "--run-id", "one")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (runbook.reports / "one").exists()
    return done.stderr


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_sample(tmp_path / "source", chunks=50, dimension=8)
    return tmp_path


def order(home: Path, scheduler: str) -> Runbook:
    more = f"migration: {{executor: dask, scheduler: '{scheduler}'}}\n"
    ends = f"name: trial\nsource: {{path: source}}\ntarget: {{path: target}}\nschema: identity\n{more}"
    (home / "trial.yaml").write_text(ends, encoding="utf-8")
    return Runbook(home)


@pytest.fixture
def silent() -> Iterator[str]:
    """What takes a connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.more
def test_a_scheduler_that_is_not_there_is_one_line(home: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ANSWERS", 1.0)
    for place in (f"tcp://127.0.0.1:{free_port()}", silent):
        line = refused(order(home, place), f"migration.scheduler {place}: no scheduler of Dask answers within 1 s (")
        without = "--set migration.executor=threads --set migration.scheduler=null"
        assert line.strip().endswith(f"Start it: dask scheduler. Or go without: {without}.")


@pytest.mark.more
def test_workers_that_do_not_fit_are_one_line(home: Path) -> None:
    """No worker; one whose code is another; then one that fits."""
    other = home / "other"
    shutil.copytree(ROOT / "helpers", other / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "helpers" / "chunks.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    with Dask(home / "dask", workers=0) as dask:
        refused(order(home, dask.url), "the scheduler has no worker. Start some: dask worker tcp://127.0.0.1:")
    with Dask(home / "dask", workers=1, code=other) as dask:
        line = refused(order(home, dask.url), " has the toolkit ")
        assert "the run has 0.1.0, code " in line
        assert line.strip().endswith("Start the workers from the installation that the run has.")
        dask.kill(0)
        dask.code = ROOT
        dask.start()
        until(lambda: fits(dask.url))
        with Workers.open(parameters(dask.url), [home]) as found:
            assert found.call(sum, [1, 2]) == 3
            dask.kill()
            with pytest.raises(Terminal, match="the scheduler of Dask was lost"):
                found.call(sum, [1, 2])
    assert not [path for path in home.rglob("*") if path.name.startswith(".workers")], (
        "what was written to try is removed"
    )


def fits(url: str) -> bool:
    try:
        require_workers(parameters(url))
    except UsageError:
        return False
    return True


@pytest.mark.more
def test_a_worker_says_what_it_does_not_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    there = tmp_path / "token"
    there.write_text("as it is here", encoding="utf-8")
    given = Order.of(parameters())
    assert _probe(given, {str(there): "as it is here"}) == ""
    assert _probe(given, {str(there): "another"}).startswith(f"does not see {tmp_path} as the run does.")
    assert _probe(given, {str(tmp_path / "absent"): "x"}).startswith(f"does not see {tmp_path} as the run does.")
    source = {"url": f"http://127.0.0.1:{free_port()}", "timeout_seconds": 1}
    assert "connection failed" in _probe(Order.of(parameters(source=source)), {})
    secret = {"url": f"http://127.0.0.1:{free_port()}", "headers": {"x-chroma-token": "env:NOWHERE"}}
    assert "'NOWHERE'" in _probe(Order.of(parameters(source=secret)), {})


def test_an_order_holds_references_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"url": "http://127.0.0.1:1", "headers": {"x-chroma-token": "file:secret"}}
    (tmp_path / "secret").write_text("hush-hush\n", encoding="utf-8")
    found = Order.of(parameters(source=source))
    assert str(found.source.headers["x-chroma-token"]) == f"file:{tmp_path}/secret"
    assert b"hush-hush" not in pickle.dumps(found)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two processes of a local cluster."""
    with Workers.open(parameters(schema="if_ttt"), [tmp_path_factory.mktemp("seen")]) as found:
        yield found


@pytest.mark.more
def test_nobody_else_gives_orders_to_a_local_cluster(local: Workers) -> None:
    """Another client of this machine, which knows the address, without the key and with one of its own."""
    import distributed

    other: Any = distributed
    address = local._address
    assert address.startswith("tls://127.0.0.1:")
    assert "dashboard http://127.0.0.1:" in local.sentence
    for place, key in (
        (address.replace("tls:", "tcp:"), None),
        (address, None),
        (address, other.Security.temporary()),
    ):
        with pytest.raises((OSError, TypeError, RuntimeError, ValueError, AssertionError)):  # as it comes, and when
            within(20.0, partial(other.Client, place, security=key, timeout=2), TimeoutError("silent"))
    assert local.call(sum, [3, 4]) == 7


def test_a_local_cluster_takes_nothing_from_a_folder_that_others_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has made the folder below /tmp that Dask takes by itself, with a module and links in place of locks."""
    import distributed

    shared, home, precious = tmp_path / "tmp" / "dask-scratch-space", tmp_path / "home", tmp_path / "precious"
    shared.mkdir(parents=True)
    home.mkdir()
    (shared / "planted.py").write_text("", encoding="utf-8")
    (shared / "global.lock").symlink_to(precious)
    precious.write_text("kept", encoding="utf-8")
    left = home / ".dask-killed"
    left.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(shared.parent))
    with Workers.open(parameters("local"), [home]) as found:
        assert found.call(importlib.util.find_spec, "planted") is None
        assert importlib.util.find_spec("planted") is None
        (own,) = home.glob(".dask-*")
        assert own != left, "what a kill left is removed"
        assert own.stat().st_mode & 0o777 == 0o700
        assert any(place.startswith(str(own)) for place in found.call(_path)), "there Dask looks for modules"
    assert list(home.iterdir()) == []
    assert precious.read_text(encoding="utf-8") == "kept"

    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0"):  # type: ignore[no-untyped-call]
        pass
    assert precious.read_text(encoding="utf-8") == "", "by itself Dask empties what the link names"


def _path() -> list[str]:
    return sys.path


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below the one that all users share; a test's own folders are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_worker_that_imports_from_a_folder_of_others_is_refused(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import distributed

    folder, given = open_folder / "dask-scratch-space", Order.of(parameters())
    folder.mkdir()
    at_work = SimpleNamespace(local_directory=str(folder / "worker-1"))
    monkeypatch.setattr(distributed, "get_worker", lambda: at_work)
    monkeypatch.setattr(executor, "_exposed", executor._exposed.__wrapped__)
    line = f"imports modules from {folder}, where others can put them. Start it with --local-directory and a folder"
    for mode, above, refused in ((0o755, 0o755, False), (0o777, 0o700, False), (0o777, 0o755, True)):
        folder.chmod(mode)
        open_folder.chmod(above)
        said = _probe(given, {})
        assert said.startswith(line) if refused else said == "", (oct(mode), oct(above), said)
    with pytest.raises(Terminal, match="where others can put them"):  # one that joined later
        executor._slice(given, sum, [1, 2])


class Killing:
    """Progress that kills a worker at work after the second part."""

    def __init__(self, workers: Workers) -> None:
        self.workers, self.parts = workers, 0

    def advance(self, n: int = 1) -> None:
        self.parts += 1
        if self.parts == 2:
            os.kill(self.workers.call(os.getpid), signal.SIGKILL)


def test_a_worker_that_dies_loses_nothing(local: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PART_BYTES", 2**13)
    sample = write_sample(tmp_path / "sample", chunks=400, dimension=32)
    with open_target(Endpoint(path=str(sample))) as store:
        taken = snapshots.write_snapshot(store, tmp_path / "kept", "one", store.names(), retention_days=7)
    context = Context(frozenset(taken.names()), dt.date(2026, 1, 1), "prefix")

    def staged(name: str, **more: Any) -> dict[str, str]:
        folder = tmp_path / name
        stage(taken, load_schema("if_ttt"), context, folder / "staged", Quarantine(folder / "aside"), **more)
        return tree(folder)

    wanted, killing = staged("threads"), Killing(local)
    assert staged("workers", away=(local, None), progress=killing) == wanted
    assert killing.parts > 6
    with pytest.raises(Terminal, match="the schema is another one here than in the process of the run"):
        local.call(schema_of, local.order.schema, "0" * 64)


def test_workers_of_a_local_cluster_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from helpers.parameters import parameters_from\n"
        "from helpers.run.executor import Workers\n"
        "if __name__ == '__main__':\n"
        "    ends = {'source': {'path': 'a'}, 'target': {'path': 'b'}, 'migration': {'executor': 'dask'}}\n"
        "    found = Workers.open(parameters_from(ends), [Path('.')])\n"
        "    print(found.call(os.getpid), flush=True)\n"
        "    found.call(__import__('time').sleep, 600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        below = {worker, *descendants(process.pid)}
        process.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in below), 30)
    assert [pid for pid in below if psutil.pid_exists(pid)] == []


def test_a_resume_may_go_over_to_threads_and_back() -> None:
    begun = parameters("tcp://127.0.0.1:8786")
    threads = begun.for_resume(["migration.executor=threads", "migration.scheduler=null"])
    assert (threads.migration.executor, threads.migration.scheduler) == ("threads", None)
    assert threads.context() == begun.context()
    again = threads.for_resume(["migration.executor=dask", "migration.scheduler=local"])
    assert again.migration.scheduler == "local"


def test_threads_load_no_dask(tmp_path: Path) -> None:
    code = "import sys, helpers.steps.migrate, helpers.steps.validate; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


@pytest.mark.more
def test_a_slice_that_kills_each_worker_is_given_up(local: Workers) -> None:
    with pytest.raises(Terminal, match="Dask gave a slice up"):
        local.call(os._exit, 1)
    assert local.call(sum, [1, 2]) == 3, "its workers are started again"


@pytest.mark.slow
@pytest.mark.servers
def test_what_workers_make_is_what_threads_make(tmp_path: Path) -> None:
    """Two processes of a local cluster; then two workers of a scheduler, of which one is killed during the import."""
    source = write_sample(tmp_path / "sample", chunks=400, dimension=32)
    found = {}

    def made(name: str, more: str) -> dict[str, Any]:
        shutil.copytree(source, tmp_path / name / "source")
        with bench(tmp_path / name, tmp_path / name / "source", more) as (trial, target):
            steps(trial)
            found[name] = outcome(trial, target)
        assert len(found[name]["staged"]) > 15, "many slices"
        return found[name]

    wanted = made("threads", "")
    assert made("local", ", executor: dask, scheduler: local") == wanted
    with Dask(tmp_path / "dask") as dask:
        shutil.copytree(source, tmp_path / "killed" / "source")
        more = f", executor: dask, scheduler: '{dask.url}'"
        with bench(tmp_path / "killed", tmp_path / "killed" / "source", more) as (trial, target):
            process = trial.start(program=("-c", STEPS))
            until(lambda: "22 import_chunks" in trial.output)
            dask.kill(0)
            assert process.wait(300) == 0, trial.output
            assert outcome(trial, target) == wanted
            with client_of(target.url) as client:
                collection = client.list_collections()[0]
                collection.delete(ids=collection.get(limit=1, include=[])["ids"])
            assert outcome(trial, target) != wanted, "one chunk less is seen"
