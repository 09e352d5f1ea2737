"""An export that was interrupted goes on after its last whole part, and says what moment it shows."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli
from helpers.chunks import ChunkBatch
from helpers.errors import Interrupted
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, utc_now
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.snapshots import export_journal, retention, snapshot
from helpers.snapshots.export_journal import ExportJournal
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.snapshot import SnapshotStep
from helpers.stores import open_source
from helpers.stores.client import ClientStore
from tests.cloud_standin import CloudStandIn
from tests.signers import vouch
from tests.storage import assert_same, chunks, contents, embedded, fill, in_order, plan

COUNTS = {"alpha": 450, "beta": 120, "gamma": 230}
READERS = 2


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStore]:
    """Three collections in parts of 100 chunks: 5, 2 and 3 of them."""
    monkeypatch.setattr(snapshot, "PART_BYTES", 1)
    with embedded(tmp_path / "source") as store:
        for number, (name, count) in enumerate(COUNTS.items()):
            fill(store, name, chunks(count, 4, seed=number, prefix=name[0]), "cosine" if name == "beta" else "l2")
        yield store


class Reads:
    """What is read of a store from now on: chunks with their vectors, by collection, and lists of ids."""

    def __init__(self, store: ClientStore, patch: pytest.MonkeyPatch) -> None:
        self.chunks: list[str] = []
        self.lists: list[str] = []
        read, ids = store.read, store.ids

        def reading(name: str, wanted: Sequence[str], *, embeddings: bool = True) -> ChunkBatch:
            self.chunks += wanted if len(wanted) > 20 else []  # what proves the distance space reads 20
            return read(name, wanted, embeddings=embeddings)

        def listing(name: str) -> list[str]:
            self.lists.append(name)
            return ids(name)

        patch.setattr(store, "read", reading)
        patch.setattr(store, "ids", listing)

    def anew(self) -> None:
        self.chunks, self.lists = [], []


class Stop:
    """Progress that ends an export after some parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def advance(self, n: int = 1) -> None:
        self.parts -= 1
        if self.parts <= 0:
            raise Interrupted(ReasonCode.INTERRUPTED, "stopped on request")


@pytest.fixture
def reads(source: ClientStore, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(source, monkeypatch)


@pytest.fixture
def folder(source: ClientStore, reads: Reads, tmp_path: Path) -> Path:
    """Snapshots, one of them interrupted: seven of ten parts of `snap` are there."""
    with pytest.raises(Interrupted):
        write(source, tmp_path / "snapshots", progress=Stop(7))
    reads.anew()
    return tmp_path / "snapshots"


def write(store: ClientStore, folder: Path, **more: Any) -> Snapshot:
    return write_snapshot(store, folder, "snap", store.names(), retention_days=7, readers=1, **more)


def proven(found: Snapshot, store: ClientStore) -> None:
    """The snapshot is whole and holds what the store holds."""
    assert found.verify() == {name: store.count(name) for name in store.names()}
    for name in store.names():
        assert_same(in_order(ChunkBatch.concatenate(list(found.batches(name)))), contents(store, name))


def test_what_was_read_is_not_read_again(source: ClientStore, reads: Reads, folder: Path) -> None:
    assert len(ExportJournal.read(folder / "snap.partial").parts) >= 7  # type: ignore[union-attr]
    found = write(source, folder)
    assert len(reads.chunks) <= 300  # three parts of ten
    assert reads.lists == ["alpha", "beta", "gamma"], "ids alone, to see what came and went meanwhile"
    assert [p.name for p in folder.iterdir()] == ["snap"]
    assert len(found.manifest["sessions"]) == 2
    assert sum(s["chunks"] for s in found.manifest["sessions"]) == 800
    assert found.manifest["created"] == found.manifest["sessions"][0]["started"]
    assert found.manifest["notes"] == []
    proven(found, source)
    assert found.digest == write_snapshot(source, folder, "once", source.names(), retention_days=7).digest


def test_every_chunk_is_in_it_wherever_it_was_interrupted(source: ClientStore, reads: Reads, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    for turn in range(12):
        try:
            found = write(source, folder, progress=Stop(2 + turn))
        except Interrupted:
            continue
        break
    assert turn > 3
    proven(found, source)
    assert len(reads.chunks) <= 800 + turn * 200 + 800  # the parts in hand; and what `proven` read


def test_a_part_that_a_killed_process_had_begun_to_write_is_not_in_it(source: ClientStore, folder: Path) -> None:
    partial = folder / "snap.partial"
    (partial / "001-alpha" / ".00001.parquet.6734-9921a6dbe5b0508b.tmp").write_bytes(b"PAR1")
    proven(write(source, folder), source)


def test_a_damaged_part_is_read_again_and_named(source: ClientStore, reads: Reads, folder: Path) -> None:
    partial = folder / "snap.partial"
    flipped, gone = partial / "001-alpha" / "00002.parquet", partial / "001-alpha" / "00004.parquet"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    gone.unlink()
    found = write(source, folder)
    assert found.manifest["notes"] == [
        "001-alpha/00002.parquet is damaged or gone: its 100 chunks are read again",
        "001-alpha/00004.parquet is damaged or gone: its 100 chunks are read again",
    ]
    assert len(reads.chunks) <= 500
    proven(found, source)


def damaged(journal: Path, how: str) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    if how == "torn":
        lines[-1] = lines[-1][:-9]
    elif how == "changed":
        lines[middle] = lines[middle].replace(b'"rows": 1', b'"rows": 9', 1)
    elif how == "garbage":
        lines[middle:] = [os.urandom(4000)]
    elif how == "first":
        lines[0] = b"{}\n"
    else:
        lines = []
    journal.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("how", "note", "most"),
    [
        ("torn", "damaged from line", 400),
        ("changed", "damaged from line", 800),
        ("garbage", "damaged from line", 800),
        ("first", "its journal cannot be read; everything is read again", 800),
        ("empty", "its journal cannot be read; everything is read again", 800),
    ],
)
def test_a_damaged_journal_proves_what_its_true_lines_prove(
    source: ClientStore, reads: Reads, folder: Path, how: str, note: str, most: int
) -> None:
    damaged(folder / "snap.partial" / export_journal.EXPORT / "journal.jsonl", how)
    found = write(source, folder)
    assert len(found.manifest["notes"]) == 1
    assert note in found.manifest["notes"][0]
    assert 100 <= len(reads.chunks) <= most
    proven(found, source)


def test_lost_ids_are_listed_again(source: ClientStore, reads: Reads, folder: Path) -> None:
    (folder / "snap.partial" / export_journal.EXPORT / "001.ids.parquet").write_bytes(b"PAR1")
    found = write(source, folder)
    assert reads.lists == ["alpha", "beta", "gamma"]
    assert found.manifest["notes"] == ["the list of ids of collection alpha is damaged or gone: it is read again"]
    proven(found, source)


def test_a_source_that_changed_is_said_and_another_source_begins_anew(
    source: ClientStore, reads: Reads, folder: Path, tmp_path: Path
) -> None:
    with embedded(tmp_path / "other") as other:
        shutil.copytree(folder, tmp_path / "theirs")
        fill(other, "alpha", chunks(30, 4))
        theirs = write(other, tmp_path / "theirs")
        assert "it was of another source or version; everything is read again" in theirs.manifest["notes"][0]
        proven(theirs, other)
    source.add("alpha", chunks(3, 4, seed=9, prefix="new"))
    source.delete("alpha", contents(source, "alpha").ids[:3])  # the count is as before
    source.drop("beta")
    source.create(plan("beta", "ip"))
    source.add("beta", chunks(20, 4, seed=8, prefix="b"))
    fill(source, "delta", chunks(5, 4))
    found = write(source, folder)
    alpha = next(info for info in found.collections() if info.name == "alpha")
    change = "3 chunks came and 3 went before the export went on; step 22 finds what differs"
    assert change in alpha.findings[0]
    assert found.manifest["notes"] == ["collection beta is not the one that the export began with: it is read again"]
    assert found.verify() == {"alpha": 450, "beta": 20, "delta": 5, "gamma": 230}
    assert_same(in_order(next(found.batches("beta"))), contents(source, "beta"))


def test_an_export_that_lacked_its_name_alone_gets_it(source: ClientStore, reads: Reads, folder: Path) -> None:
    found = write(source, folder)
    found.folder.rename(folder / "snap.partial")
    reads.anew()
    assert write(source, folder).digest == found.digest
    assert (reads.chunks, reads.lists) == ([], [])
    found.folder.rename(folder / "snap.partial")
    (folder / "snap.partial" / found.parts("gamma")[0].file).unlink()
    proven(write(source, folder), source)


def test_a_collection_that_is_no_more_chosen_is_not_in_it(source: ClientStore, folder: Path) -> None:
    found = write_snapshot(source, folder, "snap", ["beta", "gamma"], retention_days=7)
    assert found.verify() == {"beta": 120, "gamma": 230}


def step_21(run_id: str) -> Snapshot:
    record = RunRecord(runs.find(run_id), "21")
    step = SnapshotStep(record)
    step.verify()
    assert step.snapshot is not None
    [proof] = [check for check in record.result.checks if check.name == "chunks read back from the snapshot"]
    assert proof.detail.startswith("read in 2 sessions, 20")
    return step.snapshot


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["snapshots", *arguments]) == 0
    return capsys.readouterr().out


def test_step_21_goes_on_and_the_commands_know_what_is_unfinished(
    own_folders: None, source: ClientStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"source": {"path": "source"}, "target": {"path": "target"}, "snapshot": {"directory": "kept"}}
    for run_id in ("night", "night-21"):
        runs.create(parameters_from({"name": "night", **places, "schema": "identity"}), run_id, dry_run=False)
    write_part, written = snapshot.write_part, 0

    def dies(*arguments: Any) -> Any:
        nonlocal written
        written += 1
        if written > 4:
            raise Interrupted(ReasonCode.INTERRUPTED, "stopped on request")
        return write_part(*arguments)

    source.close()
    for run_id in ("night", "night-21"):
        written = 0
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "write_part", dies)
            with pytest.raises(Interrupted):
                step_21(run_id)
    row = next(line for line in said(capsys, "list").splitlines() if line.startswith("night-21.partial"))
    assert "unfinished: 400 of 450 chunks" in row
    assert "kept until" in said(capsys, "prune") or "needed by run night" in said(capsys, "prune")

    found = step_21("night")
    assert found.id == "night-21"
    assert len(found.manifest["sessions"]) == 2
    assert "400 chunks; 2" in said(capsys, "info", "night-21")
    begun = [e for e in audit.entries(Path("kept") / audit.NAME) if e["outcome"] == "begun"]
    assert [(e["facts"]["snapshot"], e["facts"]["gone_on"]) for e in begun] == [
        ("night-21", False), ("night-21-21", False), ("night-21", True),
    ]  # fmt: skip

    later = datetime.now(UTC) + timedelta(days=900)
    monkeypatch.setattr(retention, "datetime", type("Later", (datetime,), {"now": classmethod(lambda cls, tz: later)}))
    assert "stays  night-21-21.partial  needed by run night-21, not closed out" in said(capsys, "prune", "--yes")
    StepResult("53", "Closeout", "night-21", utc_now(), utc_now()).write(
        runs.find("night-21").reports / "results" / "53.json"
    )
    vouch(runs.find("night-21").reports)
    assert "goes   night-21-21.partial" in said(capsys, "prune", "--yes")
    assert not Path("kept/night-21-21.partial").exists()
    assert Path("kept/night-21").is_dir()


def export(url: str, tenant: str, key: str, folder: str) -> None:
    """What the process does that is killed."""
    os.environ["KEY"] = key
    snapshot.PART_BYTES = 1
    place = {"url": url, "tenant": tenant, "database": "production", "headers": {"x-chroma-token": "env:KEY"}}
    endpoint = Endpoint.model_validate(place)
    with open_source(endpoint, Path(folder)) as store:
        write_snapshot(store, Path(folder), "snap", store.names(), retention_days=7, readers=READERS)


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_reads_nothing_twice_but_what_it_had_in_hand(
    cloud_standin: Callable[..., CloudStandIn], tmp_path: Path
) -> None:
    cloud = cloud_standin()
    batches = {name: chunks(2 * count, 4, seed=n, prefix=name[0]) for n, (name, count) in enumerate(COUNTS.items())}
    with cloud.client(behind=True) as client:
        for name, batch in batches.items():
            client.create_collection(name, embedding_function=None).add(
                ids=batch.ids, embeddings=batch.embeddings, documents=batch.documents, metadatas=batch.metadatas
            )
    quotas = dict.fromkeys(("limit_value", "num_records", "num_results", "num_query_embeddings"), 100_000)
    cloud.set(quotas=quotas, delay=0.1, reset=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_snapshot_resumes"])
    dice, kills = random.Random(11), 0
    while True:
        process = context.Process(target=export, args=(cloud.url, cloud.tenant, cloud.key, str(tmp_path / "kept")))
        process.start()
        process.join(dice.uniform(0.5, 1.5) if kills < 8 else 120)
        if process.exitcode is not None:
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        kills += 1
    assert process.exitcode == 0
    counts = cloud.counts()
    found = Snapshot.open(tmp_path / "kept" / "snap")
    assert found.verify() == {name: 2 * count for name, count in COUNTS.items()}
    for name, batch in batches.items():
        whole = ChunkBatch.concatenate(list(found.batches(name)))
        assert in_order(whole).ids == in_order(batch).ids
        assert in_order(whole).embeddings.tobytes() == in_order(batch).embeddings.tobytes()
    print(f"{kills} kills, {len(found.manifest['sessions'])} sessions, read again {counts['vectors_again']}")
    assert kills >= 3
    assert len(found.manifest["sessions"]) > 2
    # The parts in hand, and the 20 of each collection whose vectors prove the distance space in every session.
    assert sum(counts["vectors_again"].values()) <= kills * READERS * 100 + (kills + 1) * len(COUNTS) * 20
