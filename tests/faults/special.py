"""Scenarios that need a world of their own: benches, commands that meet something on their way, and what must be true then."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import papermill
from chromadb.errors import NotFoundError
from nbclient.exceptions import DeadKernelError

from helpers import audit, cli
from helpers.chunks import ChunkBatch
from helpers.cli import evidence
from helpers.errors import Terminal
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.rehearsal import setup
from helpers.results import file_digest
from helpers.rollback.replay import exported
from helpers.snapshots.export_journal import read_parquet
from helpers.snapshots.snapshot import from_table
from helpers.steps.rollback import RollbackStep
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import RehearsalEmbedding
from helpers.stores.opening import create_levels, missing_levels
from tests.faults.bench import ALTERED, CONTENT, DOUBLED, LOST, STUCK, Bench, Contents, Fault, differences, held_by
from tests.faults.command import Child, Order
from tests.faults.scenario import FENCED, rolled_back
from tests.faults.shared import Shared
from tests.plain_client import opened
from tests.servers import ChromaServer, client_of
from tests.storage import chunks, embedded, exact, fill

# -- a target whose database has to be made ------------------------------------------------------------------------------

DATABASE = ("wing", "books")  # tenant and database


class NewDatabase(Bench):
    """The target is a server that lacks the tenant and the database that the run is to write to."""

    STATES = ("new",)

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        server = stack.enter_context(ChromaServer(folder / "target-server"))
        tenant, database = DATABASE
        target = f"{{url: '{server.url}', tenant: {tenant}, database: {database}}}"
        super().__init__(folder, target=target, target_url=server.url)

    def contents(self, place: str) -> Contents:
        return self.read_by(_dump_database, place) if place.startswith("http") else super().contents(place)

    def emptied(self, url: str) -> None:
        assert Child(Order(self.scratch, (), does=partial(_drop_database, url))).wait(120) == 0


@contextmanager
def _its_database(url: str) -> Iterator[tuple[Any, bool]]:
    """Chroma's own client of the server, and whether the database is there."""
    tenant, database = DATABASE
    with client_of(url) as opened_:
        client: Any = opened_
        try:
            client._admin_client.get_database(database, tenant)
            yield client, True
        except NotFoundError:
            yield client, False


def _dump_database(url: str, out: Path) -> int:
    found: Contents = {}
    with _its_database(url) as (client, there):
        if there:
            client.set_tenant(*DATABASE)
            found = held_by(client)
    out.write_bytes(pickle.dumps(found))
    return 0


def _drop_database(url: str) -> int:
    with _its_database(url) as (client, there):
        if there:
            client._admin_client.delete_database(DATABASE[1], DATABASE[0])
    return 0


def _database_is_there(url: str) -> int:
    with _its_database(url) as (_, there):
        return int(there)


def migrate_all(bench: Bench) -> None:
    bench.must("run", "trial.yaml", "--run-id", "one", "--until", "22")


def database_gone(bench: Bench) -> None:
    """Rolled back, or stopped before anything was written: the database that the run made is gone, the source as it was."""
    differences(bench.wanted, bench.contents("source"), "the source")
    if Child(Order(bench.scratch, (), does=partial(_database_is_there, bench.target_place))).wait(120) != 0:
        raise Fault(DOUBLED, "the database that this run had made is still at the target")


# -- a target that refuses a chunk, a schema that repairs, a notebook that dies ---------------------------------------------

MIGRATE = ("resume", "one", "--until", "22")
REFUSED_CHUNK = "a7"


def migrate_with_a_refusal() -> int:
    """The command, to a target that takes every chunk but one, as Chroma refuses it: by an error of the request."""
    plain = ClientStore.add

    def add(self: ClientStore, name: str, batch: ChunkBatch) -> None:
        if REFUSED_CHUNK in batch.ids:
            raise Terminal(ReasonCode.REFUSED, "Invalid metadata", where=name)
        plain(self, name, batch)

    ClientStore.add = add  # type: ignore[method-assign]  # this process ends with the command
    return cli.main(MIGRATE)


def refused_kept(bench: Bench) -> None:
    """The chunk is in the quarantine and in the evidence, once, as it was; all others arrived."""
    document, metadata, vector = bench.wanted["alpha"][REFUSED_CHUNK]
    wanted = {n: {i: row for i, row in c.items() if i != REFUSED_CHUNK} for n, c in bench.wanted.items()}
    bench.compare(wanted=wanted)
    listed = _lines(bench.home / "workspace/one/quarantine/refused.jsonl")
    kept = _lines(bench.home / "reports/one/22_quarantine.jsonl.gz")
    if {e["id"] for e in listed} != {REFUSED_CHUNK} or [e["id"] for e in kept] != [REFUSED_CHUNK]:
        raise Fault(LOST, f"of the chunk that was refused {len(listed)} entries and {len(kept)} lines are left")
    same = np.asarray(kept[0]["embedding"], np.float32).tobytes() == vector
    if not same or kept[0]["document"] != document or exact(kept[0]["metadata"]) != metadata:
        raise Fault(ALTERED, f"{REFUSED_CHUNK} is not in the evidence as it was")


def _lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes() if path.is_file() else b""
    text = gzip.decompress(raw) if path.suffix == ".gz" and raw else raw
    return [json.loads(line) for line in text.splitlines()]


MOST = 50  # of the field `n` in the schema of `Repaired`
SCHEMA = "name: short\nunknown: keep\nfields:\n  - {{name: n, type: integer, maximum: {most}, repair: {repair}}}\n"


class Repaired(Bench):
    """The run's schema changes values of the source: every one of them is listed in the evidence."""

    STATES: tuple[str, ...] = ("new",)
    REPAIR = "clamp"

    def _make_new(self) -> None:
        super()._make_new()
        (self.home / "short.yaml").write_text(SCHEMA.format(most=MOST, repair=self.REPAIR), encoding="utf-8")
        trial = self.home / "trial.yaml"
        trial.write_text(trial.read_text(encoding="utf-8").replace("schema: identity", "schema: short.yaml"))


RULES = """\
name: ruled
unknown: keep
leave_out: [{when: fields.n % 10 == 9, because: not wanted}]
collections: [{from: alpha, to: even, when: fields.even}]
id: collection + "/" + sha256(id)
rename: [{from: word, to: term}]
replace: [{fields: [term], pattern: "^w", with: "word "}]
fields: [{name: origin, type: string, value: id + " of " + string(size(document))}]
redact: [{name: numbers, pattern: "[0-9]+", with: "#", document: true}]
drop: [share]
"""


class Ruled(Repaired):
    """The run's schema leaves chunks out, moves, renames and rewrites the others, and gives new ids."""

    def _make_new(self) -> None:
        super()._make_new()
        (self.home / "short.yaml").write_text(RULES, encoding="utf-8")
        self.undisturbed: tuple[Contents, list[bytes]] | None = None


def ruled(bench: Bench) -> None:
    """Target and lists are those of the first, undisturbed run, in which every rule did something."""
    assert isinstance(bench, Ruled)
    lists = [bench.home / "reports/one" / name for name in ("22_changes.csv.gz", "22_quarantine.jsonl.gz")]
    found, listed = bench.contents("target"), [gzip.decompress(path.read_bytes()) for path in lists]
    if bench.undisturbed is None:
        bench.undisturbed = found, listed
        assert {name: len(held) for name, held in found.items() if held} == {"alpha": 36, "even": 45, "beta": 55}
        document, metadata, _ = found["even"]["alpha/" + hashlib.sha256(b"a12").hexdigest()]
        assert (document, dict(metadata)) == (
            "text # of a", exact({"n": 12, "even": True, "term": "word 2", "origin": "a12 of 12"})
        )  # fmt: skip
    differences(bench.undisturbed[0], found)
    if listed != bench.undisturbed[1]:
        raise Fault(ALTERED, "the lists of what changed and what was left out are not those of an undisturbed run")


NEW_MODEL = 8  # dimensions
ORDERED = ("alpha", "beta")  # of the collections
ANEW = "{{collections: [alpha, b*], function: runbook_rehearsal, config: {{dimension: {0}}}, batch: 16, parallel: 2}}"


class Anew(Bench):
    """Whole collections get vectors of another model and dimension, from their documents."""

    STATES = ("new", "ready", "snapshot", "migrated", "changed")

    def _make_new(self) -> None:
        super()._make_new()
        trial = self.home / "trial.yaml"
        order = f"{{batch_size: 15, minimum_valid: 0.5, reembed: {ANEW.format(NEW_MODEL)}}}"
        trial.write_text(trial.read_text(encoding="utf-8").replace("{batch_size: 15}", order))


def anew(bench: Bench) -> None:
    """Each chunk that has a text is in the target with the new model's vector, all else as in the source."""
    found, source, model = bench.contents("target"), bench.contents("source"), RehearsalEmbedding(NEW_MODEL)
    was, now = ({n: held for n, held in side.items() if n not in ORDERED} for side in (source, found))
    differences(was, now)
    for name, held in source.items():
        if name not in ORDERED:
            continue
        wanted = {chunk: row for chunk, row in held.items() if (row[0] or "").strip()}
        if name not in found or found[name].keys() != wanted.keys():
            more = sorted(found.get(name, {}).keys() ^ wanted.keys())[:5]
            raise Fault(LOST, f"{name}: {more} are missing or too many")
        for chunk, (document, metadata, _) in wanted.items():
            got, [due] = found[name][chunk], model.vectors([document])
            vector = np.frombuffer(got[2], np.float32)
            if vector.shape != due.shape or not np.allclose(_unit(vector), _unit(due), atol=1e-6):
                raise Fault(ALTERED, f"{name}: the vector of {chunk} is not the new model's")
            if got[:2] != (document, metadata):
                raise Fault(ALTERED, f"{name}: {chunk} has another text or other metadata")


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


class Shipped(Bench):
    """The source's own index files become the target."""

    STATES = ("new", "ready", "snapshot", "migrated", "changed")

    def _make_new(self) -> None:
        super()._make_new()
        trial = self.home / "trial.yaml"
        order = "{batch_size: 15, method: files}"
        trial.write_text(trial.read_text(encoding="utf-8").replace("{batch_size: 15}", order))


class InStorage(Bench):
    """What is staged goes to the storage of the snapshots, which is a folder of the bench."""

    STATES = ("new", "ready", "snapshot", "migrated", "changed")

    def _make_new(self) -> None:
        super()._make_new()
        (self.home / "disk").mkdir()
        trial = self.home / "trial.yaml"
        text = trial.read_text(encoding="utf-8").replace("{batch_size: 15}", "{batch_size: 15, staging: storage}")
        trial.write_text(text.replace("{directory: kept}", f"{{directory: 'file://{self.home}/disk'}}"))


def in_storage(bench: Bench) -> None:
    """No staged file is left here, and the storage has each that the index names."""
    folder = bench.home / "workspace/one/staged"
    if left := list(folder.rglob("*.parquet")):
        raise Fault(DOUBLED, f"staged here, too: {left[:3]}")
    named = {sha256 for sha256, _ in json.loads((folder / "index.json").read_bytes())["stored"].values()}
    there = {path.stem for path in (bench.home / "disk/staged").rglob("*.parquet")}
    if not named or named - there:
        raise Fault(LOST, f"named and not in the storage: {sorted(named - there)[:3]}")


class Rejected(Repaired):
    """The run's schema quarantines chunks before and after the source changes."""

    STATES = ("new", "ready", "snapshot", "migrated", "changed")
    REPAIR = "reject"

    def _make_new(self) -> None:
        super()._make_new()
        trial = self.home / "trial.yaml"
        trial.write_text(
            trial.read_text(encoding="utf-8").replace("{batch_size: 15}", "{batch_size: 15, minimum_valid: 0.5}")
        )


def rejected(bench: Bench) -> None:
    """Each chunk of the source is in the target as it is, or once in quarantine and its evidence."""
    out = {
        (name, chunk)
        for name, held in bench.wanted.items()
        for chunk, (_, metadata, _) in held.items()
        if "n" not in dict(metadata) or int(dict(metadata)["n"][1]) > MOST
    }
    listed = [(e["collection"], e["id"]) for e in _lines(bench.home / "workspace/one/quarantine/checked.jsonl")]
    with gzip.open(bench.home / "reports/one/22_quarantine.jsonl.gz", "rt", encoding="utf-8") as file:
        kept = [(e["collection"], e["id"]) for e in map(json.loads, file)]
    for what, held in (("the list", listed), ("the evidence", kept)):
        if set(held) != out or len(held) != len(out):
            raise Fault(
                LOST, f"{what} has {len(held)} chunks of {len(out)} in quarantine, {sorted(out ^ set(held))[:3]} differ"
            )
    stay = {n: {c: row for c, row in held.items() if (n, c) not in out} for n, held in bench.wanted.items()}
    bench.compare(wanted=stay)


def repaired(bench: Bench) -> None:
    """What the schema changed, and nothing else, differs from the source; each changed value is listed."""
    found, changed = bench.contents("target"), 0
    for name, held in bench.wanted.items():
        for chunk, (_, metadata, _) in held.items():
            there = dict(found.get(name, {}).get(chunk, ("", [], b""))[1])
            before = dict(metadata)
            if before.get("n", exact({"n": 0})) != there.get("n"):
                changed += 1
    with gzip.open(bench.home / "reports/one/22_changes.csv.gz", "rt", encoding="utf-8", newline="") as file:
        listed = len(list(csv.DictReader(file)))
    over = sum(max(0, count - MOST - 1) for count, _, _ in CONTENT.values())
    if listed != over or changed != over:
        raise Fault(LOST, f"{over} values were to be changed, {changed} are, and {listed} are listed")
    if missing := [n for n, held in bench.wanted.items() if held.keys() != found.get(n, {}).keys()]:
        raise Fault(LOST, f"{missing}: other ids than in the source")


def migrate_past_a_dead_kernel() -> int:
    """The kernel of step 22 dies, the command says so, and is given once more."""
    plain = papermill.execute_notebook

    def die(source: str, *arguments: Any, **more: Any) -> None:
        papermill.execute_notebook = plain
        raise DeadKernelError("Kernel died")

    papermill.execute_notebook = die
    first = cli.main(MIGRATE)
    papermill.execute_notebook = plain
    return cli.main(MIGRATE) if first == 1 else 100 + first


# -- many databases, an archive, a PDF -------------------------------------------------------------------------------------


class Many(Bench):
    """The source has two databases, and one order migrates both."""

    STATES = ("new",)

    def _make_new(self) -> None:
        super()._make_new()
        there = Endpoint(path=str(self.home / "source"), database="second")
        create_levels(there, missing_levels(there))
        with open_target(there) as store:
            fill(store, "delta", chunks(40, 4, seed=7, prefix="d"))
        trial = self.home / "trial.yaml"
        trial.write_text(trial.read_text(encoding="utf-8").replace("{path: source}", "{path: source, database: '*'}"))

    def contents(self, place: str) -> Contents:
        return self.read_by(_dump_both, place)


def _dump_both(place: Path, out: Path) -> int:
    found: Contents = {}
    with opened(place) as client:
        for name in sorted(d["name"] for d in client._admin_client.list_databases()):
            client.set_database(name)
            found |= {f"{name}/{collection}": held for collection, held in held_by(client).items()}
    out.write_bytes(pickle.dumps(found))
    return 0


def begin_or_resume_all(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/group.json").is_file():
        return ("resume", "one")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "22")


def archive_unverified() -> int:
    """The command, but for its look at the evidence: notebooks that no kernel executed do not verify."""
    evidence.verify = lambda *_: SimpleNamespace(problems=[])  # type: ignore[assignment]
    return cli.main(("archive", "one", "--output", "one.zip"))


def zipped(bench: Bench) -> None:
    """The archive holds every file of the run's evidence, whole."""
    with zipfile.ZipFile(bench.home / "one.zip") as archive:
        names = {name.removeprefix("one/") for name in archive.namelist()}
        if (bad := archive.testzip()) is not None:
            raise Fault(ALTERED, f"{bad} in the archive is damaged")
    folder = bench.home / "reports/one"
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    if names != there:
        raise Fault(LOST, f"the archive and the evidence differ: {sorted(names ^ there)[:3]}")


PRINTER = """\
#!/bin/sh
for word in "$@"; do case "$word" in --print-to-pdf=*) printf '%%PDF-1.4 a page' > "${word#*=}";; esac; done
"""


def printing(shared: Shared) -> Bench:
    """A bench with a browser that prints: a small one, since every kill wants another."""
    bench = shared.bench("printed")
    browser = shared.folder / "printed" / "browser"
    browser.write_text(PRINTER)
    browser.chmod(0o755)
    bench.environment = {"RUNBOOK_BROWSER": str(browser)}
    return bench


def printed(bench: Bench) -> None:
    """The page that signatures follow is kept with its PDF, and the log has the digests of both as they are."""
    bench.compare()
    log = map(json.loads, (bench.home / "reports/one/audit.jsonl").read_text(encoding="utf-8").splitlines())
    kept = [e["facts"]["digests"] for e in log if e["action"] == audit.PAGE_KEPT][-1:]
    if not kept or len(kept[0]) != 2:
        raise Fault(LOST, f"no page is kept with its PDF: {kept}")
    for name, digest in kept[0].items():
        if file_digest(bench.home / "reports/one" / name) != digest:
            raise Fault(ALTERED, f"{name} is not what the log says")


# -- rollbacks ---------------------------------------------------------------------------------------------------------


class FencedUp(Bench):
    """A fence of the operator's commands that is up: the run waits for its signatures."""

    STATES = ("new", "up")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, more=FENCED)

    def _make_up(self) -> None:
        self.must("run", "trial.yaml", "--run-id", "one", "--until", "24", code=4)


DAMAGED = ("b3", "b4", "stray")  # of beta: changed, changed, and nobody's


def damage_source(bench: Bench) -> None:
    """Behind the fence: chunks of the source go, change and come, and a collection is gone."""
    with embedded(bench.home / "source") as store:
        store.delete("alpha", ["a3", "a4"])
        rows = store.read("beta", ["b3", "b4"])
        rows.documents = ["altered"] * 2
        store.delete("beta", rows.ids)
        store.add("beta", rows)
        stray = chunks(1, 6, seed=5)
        stray.ids = ["stray"]
        store.add("beta", stray)
        store.drop("empty")


def restored_source(bench: Bench) -> None:
    """The source is what the snapshot says; what was there instead is kept; nothing of ours is in the target."""
    differences(bench.wanted, bench.contents("source"), "the source")
    if left := [n for n in bench.contents("target") if n in CONTENT]:
        raise Fault(DOUBLED, f"rolled back, and the target still holds {left}")
    files = (bench.home / "workspace/one/rollback").glob("source-before-*/*.parquet")
    kept = {i for file in files for i in from_table(read_parquet(file)).ids}
    if kept != set(DAMAGED):
        raise Fault(LOST, f"of what was overwritten in the source only {sorted(kept)} is kept")


def drop_in_target(bench: Bench) -> None:
    """A client drops a collection of the target: nobody can replay that."""
    with embedded(bench.home / "target") as store:
        store.drop("empty")


def listed_as_open(bench: Bench) -> None:
    rolled_back(bench)
    text = (bench.home / "workspace/one/rollback/not-placed.csv").read_text(encoding="utf-8")
    if "empty" not in text or not text.endswith("\n"):
        raise Fault(LOST, f"what cannot be replayed is not listed: {text!r}")


ROLLBACK = ("rollback", "one", "--why", "trial", "--replay")
LATE = "late0"


def roll_back_past_a_late_write() -> int:
    """The command, with a client that writes once more between the last look and the removal; then the command again."""
    plain, done = RollbackStep.remove, Path("late-write")

    def remove(self: RollbackStep) -> Any:
        if not done.exists():
            with embedded(Path("target")) as store:
                store.add("alpha", chunks(1, 4, seed=11, prefix="late"))
            done.touch()
        return plain(self)

    RollbackStep.remove = remove  # type: ignore[method-assign]  # this process ends with the command
    first = cli.main(ROLLBACK)
    return cli.main(ROLLBACK) if first == 1 else first


def late_kept(bench: Bench) -> None:
    """What came late is removed only after it was exported, and the state says where it is."""
    rolled_back(bench)
    state = json.loads((bench.home / "workspace/one/rollback.json").read_bytes())
    if not any(LATE in held.chunks.ids for held in exported(state["facts"].get("late", [])).values()):
        raise Fault(LOST, f"{LATE} was removed, and no export that is named holds it")


# -- a rehearsal ---------------------------------------------------------------------------------------------------------


def rehearse_at_once() -> int:
    """A small rehearsal whose window does not wait for a slow machine; kernels of a campaign are in its process."""
    setup._LEAD_SECONDS = 2.0
    return cli.main(("rehearse", "--chunks", "60", "--dimension", "24"))


def rehearsed(bench: Bench) -> None:
    """The newest rehearsal went through the whole runbook and its drills: it was begun anew after a kill."""
    runs = sorted((bench.home / "reports").glob("rehearsal*/run.json"), key=lambda p: p.stat().st_mtime)
    facts = json.loads(runs[-1].read_bytes())
    drills = {p.stem: json.loads(p.read_bytes())["verdict"] for p in runs[-1].parent.glob("drills/*.json")}
    if len(facts.get("drills", [])) != 3 or set(drills) != {"kill", "restore", "rollback", "put-back"}:
        raise Fault(STUCK, f"{runs[-1].parent.name}: {facts.get('drills')}, {drills}")


GIVEN_UP = (*ROLLBACK, "--discard-with-reason", "trial")


def new_database(shared: Shared) -> Bench:
    found: Bench = shared.once("new database", lambda folder: NewDatabase(folder, shared.stack))
    return found
