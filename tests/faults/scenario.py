"""What scenarios are made of: the commands of a DBA, what is done to a bench before one, what must be true in the end."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helpers.errors import RunbookError
from helpers.run import plan
from tests.faults.bench import CONTENT, DOUBLED, LOST, STUCK, Bench, Contents, Ended, Fault, differences
from tests.faults.command import Crash
from tests.faults.services import Fronted
from tests.faults.shared import Shared
from tests.signers import Signers
from tests.storage import embedded
from tests.test_reembedding import damaged

FENCED = "fence: {kind: command, command: {lock: [touch, locked], unlock: [rm, -f, locked]}}\n"
Command = Callable[[Bench], tuple[str, ...]]


def _same(bench: Bench) -> None:
    bench.compare()


def nothing(bench: Bench) -> None:
    """The scenario begins with its state as it is."""


@dataclass(frozen=True)
class Scenario:
    """`over` says of a refusal that the work was done already, by the command that was killed."""

    name: str
    state: str
    command: Command
    again: Command
    writes: frozenset[str]
    codes: tuple[int, ...] = (0,)
    check: Callable[[Bench], None] = _same
    prepare: Callable[[Bench], None] = nothing
    over: Callable[[Ended], bool] = lambda done: False
    pages: bool = False
    clock: tuple[float, ...] = ()
    bench: Callable[[Shared], Bench] = lambda shared: shared.bench()
    does: Callable[[], int] | None = None  # in place of the command, such as a notebook of Section 4


def always(*words: str) -> Command:
    return lambda bench: words


def export_statement(bench: Bench) -> tuple[str, ...]:
    """The statement for a role whose key is on another machine."""
    return (*sign(bench)[:-2], "--export", "statement.json")


def exported(bench: Bench) -> None:
    """What is to be signed elsewhere is whole."""
    json.loads((bench.home / "statement.json").read_text(encoding="utf-8"))


def interrupt_export(bench: Bench) -> None:
    """A snapshot of which a part was written."""
    child = bench.start("resume", "one", "--until", "21", crash=Crash("snapshots.snapshot:write_part", "after", 1))
    if (done := bench.ended(child)).code != -signal.SIGKILL:
        raise Fault(STUCK, f"the export was not killed: exit {done.code}: {done.line}")


def begin_or_resume(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("resume", "one", "--until", "22")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "22")


def step_22(bench: Bench) -> tuple[str, ...]:
    """Step 22 once more: the source is read again, and what changed is brought over."""
    return ("run", "--run-id", "one", "--from", "22", "--until", "22")


def sign(bench: Bench) -> tuple[str, ...]:
    keys = Signers.of(bench.home / "keys")
    return ("sign", "one", *keys.command(keys.roles[0]))


def restore(bench: Bench) -> tuple[str, ...]:
    return ("snapshots", "restore", snapshot(bench).name, "--into", "restored")


def snapshot(bench: Bench) -> Path:
    return next(p for p in sorted((bench.home / "kept").iterdir()) if (p / "manifest.json").is_file())


def restored(bench: Bench) -> None:
    bench.compare("restored")


def signed(bench: Bench) -> None:
    """The first role has signed: the run waits for the others only."""
    done = bench.run("resume", "one")
    if done.code != 4 or f"approval of {Signers.of(bench.home / 'keys').roles[0]}" in done.line:
        raise Fault(STUCK, f"the signature does not count: exit {done.code}: {done.line}")


def rolled_back(bench: Bench) -> None:
    """The source as it was, or with what clients wrote since; nothing of ours in the target; the file as it was."""
    wanted = {n: dict(c) for n, c in bench.wanted.items()}
    source = bench.contents("source")
    wanted["alpha"] |= {i: row for i, row in source["alpha"].items() if i.startswith("client")}
    if len(wanted["alpha"]) != CONTENT["alpha"][0] + 5:
        raise Fault("LOST", "what a client wrote to the target is not in the source")
    differences(wanted, source, "the source")
    if left := [n for n in bench.contents("target") if n in CONTENT]:
        raise Fault(DOUBLED, f"rolled back, and the target still holds {left}")
    if b"CHROMA_URL=before" not in (bench.home / "app.env").read_bytes():
        raise Fault("ALTERED", "app.env was not put back")


def cut_over(bench: Bench) -> None:
    """The target has what the source has, and the application's file names it."""
    bench.compare()
    text = (bench.home / "app.env").read_text(encoding="utf-8")
    if text != "# the application\nOTHER=1\nCHROMA_URL=after  # where Chroma is\n":
        raise Fault("ALTERED", f"app.env: {text!r}")


def pruned(bench: Bench) -> None:
    """The snapshot is gone, or whole; the run's own evidence is."""
    folders = [p for p in (bench.home / "kept").iterdir() if (p / "manifest.json").is_file()]
    for folder in folders:
        if bench.run("snapshots", "verify", folder.name).code:
            raise Fault("LOST", f"half removed: {bench.log[-1]}")


def remedy(step: str, **parameters: object) -> Callable[[], int]:
    """A notebook of Section 4, applied: what stands in the place of the command."""
    return partial(_remedy, step, parameters)


def _remedy(step: str, parameters: dict[str, object]) -> int:
    from tests.test_troubles_notebooks import executed

    try:
        executed(plan.find(step), "one", **{"dry_run": False, **parameters})
    except RunbookError as error:
        print(f"runbook: {error.line()}")
        return 1
    return 0


def lose_chunks(bench: Bench) -> None:
    """Chunks of the target go, one of a collection, and come back under other metadata."""
    with embedded(bench.home / "target") as store:
        store.delete("beta", ["b7", "b8"])
        store.delete("alpha", ["a3"])


def lose_fields(bench: Bench) -> None:
    with embedded(bench.home / "target") as store:
        rows = store.read("alpha", [f"a{n}" for n in range(10)])
        for metadata in rows.metadatas:
            (metadata or {}).pop("word")
        store.delete("alpha", rows.ids)
        store.add("alpha", rows)


def no_go(bench: Bench) -> None:
    """The validation has failed, and says so; nothing was decided for it."""
    if bench.passed("23"):
        raise Fault(LOST, "chunks are missing in the target, and step 23 passed")


class Damaged(Bench):
    """A bench whose source lost vectors: some are made again by the collection's own function, one chunk is quarantined."""

    STATES = ("new", "migrated")

    def _make_new(self) -> None:
        super()._make_new()
        shutil.rmtree(self.home / "source")
        damaged(self.home / "source")

    def _make_migrated(self) -> None:
        self.must(*reembed(self))

    def contents(self, place: str) -> Contents:
        return {} if place == "source" else super().contents(place)  # Chroma's own client cannot read this source


def reembed(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("resume", "one", "--until", "22")
    return ("run", "trial.yaml", "--run-id", "one", "--set", "migration.reembed=own", "--until", "22")


def one_quarantined(bench: Bench) -> None:
    """33 chunks with vectors in the target; the one without a text is in quarantine, and in the evidence."""
    found = bench.contents("target")
    wanted = {f"c{n}" for n in range(30)} | {f"lost-{n}" for n in range(3)}
    if gone := sorted(wanted - found["notes"].keys()):
        raise Fault(LOST, f"notes: {gone} are missing")
    if more := sorted(found["notes"].keys() - wanted):
        raise Fault(DOUBLED, f"notes: {more} are too many")
    listed = (bench.home / "workspace/one/quarantine/checked.jsonl").read_text().splitlines()
    kept = gzip.decompress((bench.home / "reports/one/22_quarantine.jsonl.gz").read_bytes()).splitlines()
    if len(listed) != 1 or len(kept) != 1 or b"lost-3" not in kept[0]:
        raise Fault(
            LOST, f"of the chunk without a vector {len(listed)} entries and {len(kept)} lines of evidence are left"
        )


def lose_quarantine(bench: Bench) -> None:
    shutil.rmtree(bench.home / "workspace/one/quarantine")


def fence_again(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("run", "--run-id", "one", "--from", "20", "--until", "20")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "20")


def lifted(bench: Bench) -> None:
    """nginx has the file from before the fence, and lets a client's write through."""
    assert isinstance(bench, Fronted)
    if bench.config.read_text() != bench.before or not bench.writes(5):
        raise Fault(STUCK, "the fence is lifted, and nginx is not what it was")


def fronted(shared: Shared) -> Bench:
    found: Bench = shared.once("fronted", lambda folder: Fronted(folder, shared.stack))
    return found


def recorded(shared: Shared) -> Bench:
    """Writers go on until the cutover; nginx logs what they write from step 20 on."""
    found: Bench = shared.once("recorded", lambda folder: Fronted(folder, shared.stack, "cutover"))
    return found


def open_again(bench: Bench) -> None:
    """Source and target agree, and nginx lets a client's write through, then and before."""
    bench.compare()
    assert isinstance(bench, Fronted)
    if not bench.writes(5):
        raise Fault(STUCK, "writers were never stopped, and nginx refuses a write")


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())
