"""Restore: what the snapshot holds comes back exactly, and nothing that is there already is touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.errors import Terminal, UsageError
from helpers.migration.restore import RestoreLedger, in_use, look, restore
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.snapshots.export_journal import proof_of, signed
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import open_source, open_target
from helpers.stores.client import ClientStore
from tests.conftest import ROOT
from tests.servers import ChromaServer
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, lose_vectors, plan, tree


def rich() -> ChunkBatch:
    batch = chunks(700, 6, prefix="a")
    batch.documents[3], batch.documents[4] = None, ""
    batch.metadatas[5] = None
    batch.metadatas[7] = {"tags": ["x", "é"], "marks": [1, 2], "parts": [0.5], "flags": [True]}
    batch.uris[8] = "file:///eight"
    batch.ids[9] = "é/b?c=d&e"
    return batch


HELD = {"alpha": rich(), "beta": chunks(61, 4, seed=1, prefix="b")}


def fill_source(store: ClientStore) -> None:
    fill(store, "alpha", HELD["alpha"])
    fill(store, "beta", HELD["beta"], "ip")
    store.create(plan("empty", "cosine", metadata={"why": "nothing yet", "n": 3}))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("source")
    with embedded(folder / "db") as store:
        fill_source(store)
        return write_snapshot(store, folder / "snapshots", "snap", store.names(), retention_days=7)


@pytest.fixture
def snapshot(original: Snapshot, tmp_path: Path) -> Snapshot:
    """A copy of its own: a restore marks it and keeps its ledger beside it."""
    copy = tmp_path / "snapshots" / original.id
    for part in original.folder.rglob("*"):
        if part.is_file():
            there = copy / part.relative_to(original.folder)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(part.read_bytes())
    return Snapshot.open(copy)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("served") / "db") as running:
        yield running


@pytest.fixture(params=["embedded", pytest.param("served", marks=pytest.mark.servers)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Endpoint]:
    """An empty destination, a directory and a server in turn."""
    if request.param == "embedded":
        yield Endpoint(path=str(tmp_path / "into"))
        return
    endpoint = Endpoint(url=request.getfixturevalue("server").url)
    yield endpoint
    with open_target(endpoint) as store:
        for name in store.names():
            store.drop(name)


def judge(endpoint: Endpoint, snapshot: Snapshot, names: tuple[str, ...] = ("alpha", "beta", "empty")) -> None:
    """The destination holds these collections exactly, and nobody's lock."""
    with open_target(endpoint) as store:
        assert set(names) <= set(store.names())
        assert store.lock_holder() is None
        for wanted in snapshot.collections():
            if wanted.name not in names:
                continue
            found = store.info(wanted.name)
            assert (found.space, found.metadata, found.configuration, found.schema, found.count) == (
                wanted.space, wanted.metadata, wanted.configuration, wanted.schema, wanted.count,
            )  # fmt: skip
            if wanted.name in HELD:
                assert store.ids(wanted.name) == HELD[wanted.name].ids
                assert_same(store.read(wanted.name, HELD[wanted.name].ids), HELD[wanted.name])


def test_everything_comes_back_exactly(snapshot: Snapshot, place: Endpoint) -> None:
    done = restore(snapshot, place)
    assert done.written == done.proven == {"alpha": 700, "beta": 61, "empty": 0}
    judge(place, snapshot)
    again = Snapshot.open(snapshot.folder)
    assert (again.manifest["status"], again.digest) == ("restored", snapshot.digest)
    log = snapshot.folder.parent / audit.NAME
    assert [e["action"] for e in audit.entries(log)] == ["restore begins", "restore ends"]
    assert audit.check(log) is None


def test_a_setting_that_no_index_has_is_not_restored_and_said(tmp_path: Path) -> None:
    """A target whose memory it would fill; the chunks come back, and `restore` proves them."""
    hnsw = {"space": "l2", "max_neighbors": 3000, "ef_search": 60}
    info = replace(plan("alpha"), configuration={"hnsw": hnsw, "spann": None, "embedding_function": None})
    with embedded(tmp_path / "source") as store:
        store.create(info)
        store.add("alpha", chunks(3, 4))
        snapshot = write_snapshot(store, tmp_path, "night", ["alpha"], retention_days=7)
    done = restore(snapshot, Endpoint(path=str(tmp_path / "into")))
    assert done.proven == {"alpha": 3}
    [index] = done.dropped
    assert (str(index), index.becomes, index.ordered) == (
        "alpha: max_neighbors 3000 on #embedding", "Chroma's default", False,
    )  # fmt: skip
    with embedded(tmp_path / "into") as store:
        made = store.info("alpha").configuration["hnsw"]
    assert (made["max_neighbors"], made["ef_search"]) == (16, 60)


@pytest.mark.more
def test_a_collection_deleted_after_the_snapshot_is_brought_back_into_the_source(
    place: Endpoint, tmp_path: Path
) -> None:
    with open_target(place) as store:
        fill_source(store)
        snapshot = write_snapshot(store, tmp_path / "night", "night", store.names(), retention_days=7)
        store.drop("alpha")
        later = chunks(3, 4, seed=9, prefix="later")
        store.add("beta", later)
    with pytest.raises(Terminal, match="already holds beta, empty"):
        restore(snapshot, place)
    assert restore(snapshot, place, ["alpha"]).written == {"alpha": 700}
    judge(place, snapshot, ("alpha",))
    with open_target(place) as store:  # what was not ordered is as it was
        assert store.names() == ["alpha", "beta", "empty"]
        assert_same(contents(store, "beta"), in_order(ChunkBatch.concatenate([HELD["beta"], later])))


@pytest.mark.more
def test_repeating_a_finished_restore_writes_nothing_and_proves_it_again(snapshot: Snapshot, place: Endpoint) -> None:
    restore(snapshot, place)
    done = restore(snapshot, place)
    assert (done.written, done.proven["alpha"]) == ({"alpha": 0, "beta": 0, "empty": 0}, 700)
    judge(place, snapshot)


@pytest.mark.more
def test_what_changed_after_a_restore_is_said_and_left_alone(snapshot: Snapshot, place: Endpoint) -> None:
    restore(snapshot, place)
    with open_target(place) as store:
        store.delete("beta", ["b7"])
    with pytest.raises(Terminal, match="b7: chunk_missing") as caught:
        restore(snapshot, place)
    assert caught.value.code == "restore_differs"
    with open_target(place) as store:
        assert store.count("beta") == 60
        store.add("beta", chunks(1, 4, prefix="theirs"))
    with pytest.raises(Terminal, match="1 chunks that are not of this snapshot"):
        restore(snapshot, place)
    with open_target(place) as store:
        store.drop("beta")
    restore(snapshot, place, ["beta"])
    judge(place, snapshot)


def test_a_collection_of_that_name_is_refused_and_nothing_is_written(snapshot: Snapshot, tmp_path: Path) -> None:
    theirs = chunks(4, 3, seed=8, prefix="theirs")
    with embedded(tmp_path / "into") as store:
        fill(store, "beta", theirs)
    place, before = Endpoint(path=str(tmp_path / "into")), tree(tmp_path / "into")
    for _ in range(2):  # trying again changes nothing
        with pytest.raises(Terminal, match="already holds beta") as caught:
            restore(snapshot, place)
        assert caught.value.code == "target_not_empty"
    assert tree(tmp_path / "into") == before
    assert [would for _, would in look(snapshot, place)] == ["create", "refuse: it exists there", "create"]
    restore(snapshot, place, ["alpha"])
    with embedded(tmp_path / "into") as store:
        assert_same(contents(store, "beta"), theirs)


def test_a_look_makes_no_directory_and_a_wrong_name_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    place = Endpoint(path=str(tmp_path / "into"))
    assert [(i.name, would) for i, would in look(snapshot, place, ["beta"])] == [("beta", "create")]
    with pytest.raises(UsageError, match="holds no collection gamma"):
        restore(snapshot, place, ["gamma"])
    assert not (tmp_path / "into").exists()


def test_a_damaged_snapshot_is_not_restored(snapshot: Snapshot, tmp_path: Path) -> None:
    part = snapshot.folder / snapshot.parts("beta")[0].file
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(Terminal, match="not those that were written"):
        restore(snapshot, Endpoint(path=str(tmp_path / "into")))
    assert not (tmp_path / "into").exists()
    assert audit.entries(snapshot.folder.parent / audit.NAME)[-1]["outcome"] == "failed"


def test_lost_vectors_stop_a_restore_unless_they_are_accepted(tmp_path: Path) -> None:
    with embedded(tmp_path / "db") as store:
        fill(store, "alpha", chunks(30, 4, prefix="a"))
    lose_vectors(tmp_path / "db", "alpha", ["gone", "too"])
    with open_source(Endpoint(path=str(tmp_path / "db")), tmp_path) as source:
        snapshot = write_snapshot(source, tmp_path / "snapshots", "lossy", ["alpha"], retention_days=7)
    place = Endpoint(path=str(tmp_path / "into"))
    with pytest.raises(Terminal, match=r"2 chunks have no vector in it, such as .* --without-lost"):
        restore(snapshot, place)
    assert not (tmp_path / "into").exists()
    done = restore(snapshot, place, without_lost=True)
    assert (done.proven, {n: sorted(i) for n, i in done.lost.items()}) == ({"alpha": 30}, {"alpha": ["gone", "too"]})


def test_two_restores_of_one_snapshot_do_not_run_at_once(snapshot: Snapshot, tmp_path: Path) -> None:
    with in_use(snapshot.folder), pytest.raises(Terminal, match="another process"):
        restore(snapshot, Endpoint(path=str(tmp_path / "into")))


@pytest.mark.parametrize("how", ["a link", "a pipe"])
def test_a_lock_that_is_no_plain_file_is_refused_and_nothing_is_created(tmp_path: Path, how: str) -> None:
    lock, other = tmp_path / "s.lock", tmp_path / "other"
    if how == "a pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(other)
    with pytest.raises(Terminal, match="is a link or a special file"), in_use(tmp_path / "s"):
        raise AssertionError("it was entered")
    assert not other.exists()


def test_a_target_that_a_run_holds_is_left_alone(snapshot: Snapshot, tmp_path: Path) -> None:
    with embedded(tmp_path / "into") as store:
        store.acquire_lock("night-1")
    with pytest.raises(Terminal, match="run night-1"):
        restore(snapshot, Endpoint(path=str(tmp_path / "into")))
    with embedded(tmp_path / "into") as store:
        assert (store.names(), (store.lock_holder() or {})["run_id"]) == ([], "night-1")


def test_a_restore_that_was_stopped_is_named_by_the_lock_that_it_left(snapshot: Snapshot, tmp_path: Path) -> None:
    with embedded(tmp_path / "into") as store:
        store.acquire_lock("restore-ofanother")
    with pytest.raises(Terminal, match=r"restore-ofanother from host .* the same \.venv/bin/runbook snapshots restore"):
        restore(snapshot, Endpoint(path=str(tmp_path / "into")))


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def command(snapshot: Snapshot, into: str) -> list[str]:
    return [sys.executable, "-m", "helpers", "snapshots", "restore", str(snapshot.folder), "--into", into]


def killed_then_repeated(snapshot: Snapshot, into: str, seconds: float) -> bool:
    """Whether the kill fell before the restore had ended; the same command again ends well either way."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = command(snapshot, into)
    first = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    begun, deadline = snapshot.folder.parent / audit.NAME, time.monotonic() + 60
    while not begun.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(seconds)
    early = first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    again = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "every chunk was read back" in again.stdout
    return early


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_goes_on(snapshot: Snapshot, tmp_path: Path) -> None:
    assert killed_then_repeated(snapshot, str(tmp_path / "into"), 0.4)
    judge(Endpoint(path=str(tmp_path / "into")), snapshot)


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("moment", range(10))
def test_killed_at_random_moments(snapshot: Snapshot, server: ChromaServer, tmp_path: Path, moment: int) -> None:
    chance = random.Random(moment)
    if moment % 2:
        killed_then_repeated(snapshot, str(tmp_path / "into"), chance.uniform(0, 1.5))
        judge(Endpoint(path=str(tmp_path / "into")), snapshot)
        return
    place = Endpoint(url=server.url)
    killed_then_repeated(snapshot, server.url, chance.uniform(0, 1.5))
    judge(place, snapshot)
    with open_target(place) as store:
        for name in store.names():
            store.drop(name)


@pytest.mark.parametrize("how", ["without a proof", "by no key", "of another destination"])
def test_a_ledger_that_others_wrote_opens_no_collection_to_a_restore(
    snapshot: Snapshot, tmp_path: Path, how: str
) -> None:
    """Who can write beside the snapshot could have it filled up what is another's."""
    audit.append(tmp_path / "any" / audit.NAME, "makes the key of the workspace")
    assert audit.secret()
    place, other = Endpoint(path=str(tmp_path / "into")), Endpoint(path=str(tmp_path / "other"))
    with embedded(tmp_path / "into") as store:
        store.create(plan("empty", "cosine", metadata={"why": "nothing yet", "n": 3}))
        store.create(plan("beta", "ip"))
    ledger = RestoreLedger(snapshot, other if how == "of another destination" else place)
    ledger.put("beta", "intended")
    ledger.put("empty", "complete")
    assert RestoreLedger(snapshot, place).states == ({} if how == "of another destination" else ledger.states)
    path = RestoreLedger(snapshot, place).path
    said = json.loads(ledger.path.read_text(encoding="utf-8"))
    if how == "without a proof":
        said = {key: value for key, value in said.items() if key not in ("proof", "sha256")}
    elif how == "by no key":
        said["proof"] = proof_of(said, b"")
    path.write_text(json.dumps(said if how != "by no key" else signed(said)), encoding="utf-8")
    assert [would for _, would in look(snapshot, place, ["beta", "empty"])] == ["refuse: it exists there"] * 2
    with pytest.raises(Terminal, match=rf"already holds beta, empty.*{path.name} is not of this workspace") as caught:
        restore(snapshot, place, ["beta", "empty"])
    assert caught.value.code == "target_not_empty"
    with embedded(tmp_path / "into") as store:
        assert store.count("beta") == 0


def test_a_ledger_that_is_a_pipe_is_one_line(snapshot: Snapshot, tmp_path: Path) -> None:
    place = Endpoint(path=str(tmp_path / "into"))
    os.mkfifo(RestoreLedger(snapshot, place).path)
    with pytest.raises(Terminal, match="not a plain file") as caught:
        restore(snapshot, place)
    assert caught.value.code == "restore_ledger_unreadable"
    assert not (tmp_path / "into").exists()


GUARD = threading.Lock()


class Killed(BaseException):
    """What kill -9 would be inside one process: nothing may catch it and go on."""


@pytest.mark.parametrize("moment", range(1, 9))
@pytest.mark.parametrize(
    "when", ["before", pytest.param("after", marks=pytest.mark.slow)]
)  # before the next one, nearly
def test_killed_around_each_write(
    snapshot: Snapshot, tmp_path: Path, moment: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [moment]
    for name in ("create", "add"):
        monkeypatch.setattr(ClientStore, name, mortal(getattr(ClientStore, name), left, when))
    put = RestoreLedger.put
    monkeypatch.setattr(RestoreLedger, "put", mortal(put, left, when))
    place = Endpoint(path=str(tmp_path / "into"))
    with pytest.raises(Killed):
        restore(snapshot, place)
    monkeypatch.undo()
    restore(snapshot, place)
    judge(place, snapshot)
    state = json.loads(RestoreLedger(snapshot, place).path.read_text(encoding="utf-8"))
    assert {text.partition(" ")[0] for text in state["collections"].values()} == {"complete"}


def mortal(real: object, left: list[int], when: str) -> object:
    """A real method that dies at the moment given, before or after it did its work; other threads die with it."""
    assert callable(real)
    call = real

    def method(*arguments: object) -> object:
        with GUARD:
            left[0] -= 1
            mine = left[0]
        if mine < 0 or (mine == 0 and when == "before"):
            raise Killed
        answer = call(*arguments)
        if mine == 0:
            raise Killed
        return answer

    return method


def test_an_error_of_one_collection_stops_the_others_before_they_are_complete(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Endpoint(path=str(tmp_path / "into"))
    refused, add = threading.Event(), ClientStore.add

    def refuse(self: ClientStore, name: str, batch: ChunkBatch) -> None:
        if name == "beta":
            refused.set()
            raise Terminal(ReasonCode.REFUSED_BY_TARGET, "no room", where="the target")
        assert refused.wait(30)  # so it is still at work when the other one fails
        add(self, name, batch)

    monkeypatch.setattr(ClientStore, "add", refuse)
    with pytest.raises(Terminal, match="no room") as caught:
        restore(snapshot, place)
    assert caught.value.code == "refused_by_target"
    states = RestoreLedger(snapshot, place).states
    assert states["beta"] == "intended"
    assert all(states.get(info.name) != "complete" for info in snapshot.collections() if snapshot.parts(info.name))
    monkeypatch.undo()
    restored = restore(snapshot, place)
    assert list(restored.proven) == list(restored.written) == [info.name for info in snapshot.collections()]
    judge(place, snapshot)


def test_a_command_that_moves_chunks_gives_memory_back_as_kernels_do() -> None:
    code = (
        "import pyarrow as pa; from helpers.cli.snapshots import _bar\n"
        "before = pa.default_memory_pool().backend_name\n"
        "with _bar('Restore', 1): print(before, pa.default_memory_pool().backend_name)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ARROW_")}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    before, after = said.stdout.split()
    assert after == "system" != before
