"""The kinds of faults of the campaign: each does one round and says how it came out, or raises `Fault`."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.bench import (
    CONTENT,
    DOUBLED,
    HELD,
    HUNG,
    LOST,
    MISSED,
    REFUSED,
    STUCK,
    Bench,
    Ended,
    Fault,
    differences,
)  # fmt: skip
from tests.faults.command import Child, Order, lose_power
from tests.faults.crashes import crash_point
from tests.faults.disks import disk_full, read_only
from tests.faults.network import ALL
from tests.faults.rounds import (
    AGAIN_22,
    OVER,
    TO_22,
    Round,
    at_22,
    interrupted,
    ours,
    resumed,
    until_it_bites,
    while_at_work,
)
from tests.faults.scenario import snapshot
from tests.faults.services import nginx, notices, scheduler, wrong_clock
from tests.faults.shared import Served, Written
from tests.heavy.commands import Trial, descendants, kernel_of, kill_all
from tests.servers import ChromaServer


def random_kill(turn: Round) -> str:
    """kill -9 at any moment of the command, again and again; what was not flushed is gone."""
    bench = turn.shared.bench()
    state = turn.chance.choice(["ready", "ready", "snapshot", "changed"])
    for kills in range(turn.chance.choice([1, 2, 3])):

        def start(afresh: bool = kills == 0) -> Child:
            if afresh:
                bench.at(state)
            return bench.start(*(TO_22 if not (bench.home / "workspace/one/checkpoint.json").exists() else AGAIN_22))

        child = interrupted(turn, start, lambda c: c.ended, lambda c: c.kill())
        turn.say(f"killed {time.time() - child.began:.1f} s after its start")
        for taken in lose_power(child, turn.chance, ours(bench)):
            turn.say(f"power lost: {taken}")
    return at_22(bench)


def real_kernel(turn: Round) -> str:
    """The command with papermill and a kernel of its own: its kernel, its runner or its whole tree is killed."""
    bench = turn.shared.bench()
    bench.at("snapshot")
    trial = Trial(bench.home)
    what = turn.turn(["kernel", "runner", "tree"])
    process = trial.start(*TO_22)
    deadline = time.monotonic() + 120
    while (kernel := kernel_of(process.pid)) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if kernel is None:
        raise Fault(MISSED, f"no kernel came: {trial.output[-300:]}")
    time.sleep(turn.chance.random() * 3)
    kernel = kernel_of(process.pid)  # of another step, perhaps
    below = descendants(process.pid)
    kill_all([kernel] if what == "kernel" and kernel else [process.pid, *(below if what == "tree" else [])])
    with suppress(subprocess.TimeoutExpired):
        process.wait(120)
    if process.poll() is None:
        kill_all([process.pid, *descendants(process.pid)])
        raise Fault(HUNG, f"the runner did not end after its {what} was killed")
    if process.returncode == 0:
        raise Fault(MISSED, f"the command had ended before its {what} was killed")
    turn.say(f"{what} killed: exit {process.returncode}")
    bench.judge_words(Ended(0, trial.output, Order(bench.home, TO_22), time.time()))
    time.sleep(0.5)  # an orphan of a kernel ends within 0.3 s of its runner; one that does not is left behind
    return at_22(bench)


def _kill(servers: list[ChromaServer]) -> None:
    for server in servers:
        server.kill()


def server_kill(turn: Round) -> str:
    """The source's or the target's server is killed at any moment, and started again; the command meets that."""
    served = turn.shared.served
    bench, state = served.bench, turn.chance.choice(["ready", "snapshot"])
    _calm(served)
    which = turn.turn(["source", "target", "both"])
    servers = [s for s, n in ((served.source, "source"), (served.target, "target")) if which in (n, "both")]

    def start() -> Child:
        bench.at(state)
        return bench.start(*TO_22)

    child = interrupted(turn, start, lambda c: c.ended, lambda c: _kill(servers))
    time.sleep(turn.chance.choice([0.0, 0.5, 3.0]))
    for server in servers:
        server.start()
    turn.say(f"killed: {which}")
    bench.ended(child)
    outcome = resumed(bench)
    bench.compare()
    return outcome


# -- network -------------------------------------------------------------------------------------------------------------


def _calm(served: Served) -> None:
    for server in (served.source, served.target):
        server.start()
    for proxy in (served.source_proxy, served.target_proxy):
        proxy.calm()
        proxy.forget()


def proxy(turn: Round) -> str:
    """Requests of the source, then of the target, meet a fault; then the network is sound again.

    Which fault is each side's turn: so many rounds as there are faults have each of them on both sides.
    """
    served = turn.shared.served
    bench = served.bench
    _calm(served)
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    order = list(ALL)
    for side, between, ahead in (("source", served.source_proxy, 0), ("target", served.target_proxy, len(ALL) // 2)):
        main = order[(order.index(turn.turn(ALL)) + ahead) % len(ALL)]
        faults = [main, *ALL] if turn.chance.random() < 0.3 else [main]
        share = turn.chance.choice([0.03, 0.1, 0.3, 1.0])
        if main.startswith("429") and faults == [
            main
        ]:  # where all are refused so, each is waited for 15 minutes: PATIENCE
            share = min(share, 0.3)
        between.upset(faults, share, random.Random(turn.chance.random()), first=turn.chance.randint(1, 8))
        done = bench.run(*(AGAIN_22 if bench.passed("22") else TO_22))
        between.calm()
        turn.say(f"{side}: {share:.0%} of the requests meet {main}{' and others' if len(faults) > 1 else ''}: "
                 f"{len(between.met)} met, exit {done.code} {done.line}; {'; '.join(between.met[-3:])}")  # fmt: skip
        if not any(met.startswith(main) for met in between.met):
            raise Fault(MISSED, f"no request of the {side} met {main}")
        if done.code == 0:
            bench.compare()
    outcome = resumed(bench, *(AGAIN_22 if bench.passed("22") else TO_22))
    bench.compare()
    return outcome


def writer(turn: Round) -> str:
    """A client writes to the source throughout, and no fence is claimed; when it has stopped, step 22 brings the rest."""
    served = turn.shared.once("written", lambda folder: Written(folder, turn.shared.stack))
    bench = served.bench
    served.refill(turn.number)
    bench.at("ready")
    command = [sys.executable, "-m", "tests.source_writer", served.source.url, str(turn.number), "12", "alpha", "beta"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "begun"
        done = bench.run(*TO_22)
        turn.say(f"with the writer: exit {done.code}: {done.line}")
    finally:
        process.terminate()
        kinds = (process.communicate(timeout=60)[0] or "").strip()
    turn.say(f"writes: {kinds}")
    if not kinds:
        raise Fault(MISSED, "the client wrote nothing")
    bench.wanted = bench.contents(bench.source_place)
    outcome = resumed(bench)
    if bench.run(*AGAIN_22).code != 0:
        raise Fault(STUCK, f"step 22 once more, after the writer: {bench.log[-1]}")
    bench.compare()
    return outcome


# -- resources -----------------------------------------------------------------------------------------------------------


def file_size(turn: Round) -> str:
    """No file of the process may grow beyond a limit: a full disk, for those who may not mount one."""
    return _limited(turn, resource.RLIMIT_FSIZE, turn.chance.choice([1, 4, 16, 64]) * 1024, "bytes a file", 0.25)


def memory(turn: Round) -> str:
    """Less address space than the work wants."""
    return _limited(turn, resource.RLIMIT_AS, turn.chance.randint(900, 2000) * 2**20, "bytes of memory", 0.7)


def handles(turn: Round) -> str:
    """Few open files."""
    return _limited(turn, resource.RLIMIT_NOFILE, turn.chance.randint(12, 60), "open files", 0.6)


def _limited(turn: Round, what: int, most: int, unit: str, less: float) -> str:
    """The command below a limit, which is `less` of itself where the command did not meet it."""
    bench, state = turn.shared.bench(), turn.chance.choice(["ready", "snapshot"])
    bench.at(state)

    def order(attempt: int) -> Ended:
        limit = int(most * less**attempt)
        turn.say(f"{limit:,} {unit}")
        return bench.run(*TO_22, limits={what: limit})

    until_it_bites(turn, bench, state, order)
    outcome = resumed(bench)
    bench.compare()
    return outcome


def no_permission(turn: Round) -> str:
    """As a user who may not write to, or not read, one of the folders or files; then the permission is given."""
    bench, state = turn.shared.bench(), turn.chance.choice(["ready", "snapshot"])
    bench.at(state)

    def order(_: int) -> Ended:
        candidates = [p for p in bench.home.rglob("*") if p.is_dir() or "source" not in p.parts]
        place = turn.chance.choice(sorted(candidates))
        mode, less = place.stat().st_mode, turn.chance.choice([0o222, 0o444, 0o777])
        place.chmod(mode & ~less & 0o7777)
        turn.say(f"{place.relative_to(bench.home)}: mode {mode & ~less & 0o777:o}")
        try:
            return bench.run(*TO_22, rootless=True)
        finally:
            place.chmod(mode & 0o7777)

    until_it_bites(turn, bench, state, order, 10)
    again = bench.run(*TO_22, rootless=True)
    if again.code and OVER not in again.line:
        raise Fault(STUCK, f"exit {again.code}: {again.line}")
    bench.compare()
    return HELD


def surroundings(turn: Round) -> str:
    """Clock jumps, locale, time zone and umask, alone or together."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot", "changed"]))
    chance = turn.chance
    clock = (
        tuple(chance.choice([0.0, 3600.0, -3600.0, 86400.0, -120.0]) for _ in range(12))
        if chance.random() < 0.5
        else ()
    )
    environment = {
        "TZ": chance.choice(["UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati", "nonsense"]),
        "LC_ALL": chance.choice(["C", "C.UTF-8", "tr_TR.UTF-8", "xx_XX"]),
        "PYTHONIOENCODING": chance.choice(["ascii", "latin-1", "utf-8"]),
    }
    umask = chance.choice([0o022, 0o000, 0o077, 0o177, 0o277])
    turn.say(f"{environment}, umask {umask:03o}, clock {clock[:4]}")
    done = bench.run(*TO_22, clock=clock, environment=environment, umask=umask)
    turn.say(f"exit {done.code}: {done.line}")
    return at_22(bench)


# -- corrupt files -------------------------------------------------------------------------------------------------------


DAMAGES = 2  # in a round


def corrupt(turn: Round) -> str:
    """Files that are read back are flipped, cut, emptied, gone, or those of another run; all that reads them is asked."""
    outcomes = [_corrupt(turn, nth) for nth in range(DAMAGES)]
    return REFUSED if REFUSED in outcomes else HELD


def _corrupt(turn: Round, nth: int) -> str:
    bench = turn.shared.bench()
    state = turn.turn(["ready", "snapshot", "half", "migrated", "decided", "cutover"], DAMAGES, nth)
    if state == "half":
        _half_done(turn, bench)
    else:
        bench.at(state)
    files = sorted(
        p for folder in (*ours(bench), bench.home / "keys") for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink()
    )  # fmt: skip
    files += [bench.home / "app.env"]
    file = turn.turn(files, DAMAGES, nth)
    how = damage(file, turn.turn(["flipped", "cut", "emptied", "gone", "another run's"], DAMAGES, nth), turn, bench)
    turn.say(f"{state}: {file.relative_to(bench.home)} {how}")
    bench.run("status")
    bench.run("status", "one")
    bench.run("snapshots", "list")
    if state == "cutover":
        done = bench.run("rollback", "one", "--why", "trial", "--discard-with-reason", "trial")
        differences(bench.wanted, bench.contents("source"), "the source")
        if done.code:
            turn.say(done.line)
        return HELD if done.code == 0 else REFUSED
    done = bench.run("resume", "one", "--until", "24")
    if done.code not in (0, 4):
        turn.say(done.line)
        return REFUSED
    bench.compare()  # decided: GO
    return HELD


def _half_done(turn: Round, bench: Bench) -> None:
    """The state of a run that was killed while step 22 was at work."""

    def start() -> Child:
        bench.at("snapshot")
        child = bench.start(*TO_22)
        while_at_work(child, (bench.home / "workspace/one/checkpoint.json").exists, "the checkpoint of step 22")
        return child

    interrupted(turn, start, lambda c: c.ended, lambda c: c.kill())


def damage(file: Path, how: str, turn: Round, bench: Bench) -> str:
    """Do it; what was done (a file that no other run has is cut instead)."""
    whole = file.read_bytes()
    if how == "another run's":
        other = turn.shared.bench("other", seed=100)
        with suppress(StopIteration):
            other.at("migrated")
            pattern = file.relative_to(bench.home)
            found = other.home / pattern
            found = found if found.is_file() else next(other.home.glob(_alike(pattern)))
            file.write_bytes(found.read_bytes())
            return how
        how = "cut"
    if how == "gone":
        file.unlink()
    elif how == "emptied" or not whole:
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(whole[: turn.chance.randrange(len(whole))])
    else:
        at = turn.chance.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << turn.chance.randrange(8)]) + whole[at + 1 :])
        how = f"flipped at {at}"
    return how


def _alike(path: Path) -> str:
    """The pattern of the same file of another run: folders of snapshots are named after their moment."""
    return str(Path(*("*" if part[:1].isdigit() or "-2" in part else part for part in path.parts)))


# -- concurrency ---------------------------------------------------------------------------------------------------------


def two_runs(turn: Round) -> str:
    """Two runs with one target, begun at once: one may be refused; the target is never mixed."""
    bench = turn.shared.bench()
    bench.at("new")
    children = [
        bench.start("run", "trial.yaml", "--run-id", n, "--until", "22", output=f"{n}.txt") for n in ("one", "two")
    ]
    time.sleep(turn.moment() / 4)
    if any(child.ended for child in children):
        raise Fault(MISSED, f"one had ended before the other was at work: {children[0].said[-300:]}")
    ended = [bench.ended(c) for c in children]
    turn.say("; ".join(f"exit {d.code} {d.line}" for d in ended))
    if all(d.code for d in ended) and all(bench.run("resume", n, "--until", "22").code for n in ("one", "two")):
        raise Fault(STUCK, "neither run goes on: " + "; ".join(bench.log[-2:]))
    bench.compare()
    return HELD if all(d.code == 0 for d in ended) else REFUSED


def resume_beside(turn: Round) -> str:
    """A resume, or another command, beside the one at work: it is kept out, or waits, and nothing is mixed."""
    bench = turn.shared.bench()
    beside = turn.turn([("resume", "one"), TO_22, AGAIN_22, ("status", "one")])
    first, done = _beside(turn, bench, *beside)
    if first.code and done.code:
        turn.say("neither went on")
    bench.run(*TO_22)  # may have nothing to do
    return at_22(bench)


def rollback_beside(turn: Round) -> str:
    """A rollback beside the migration at work: it stops it, or is refused; then nothing of ours is in the target."""
    bench = turn.shared.bench()
    rollback = ("rollback", "one", "--why", "trial")
    _, done = _beside(turn, bench, *rollback)
    if done.code and (again := bench.run(*rollback)).code:
        raise Fault(STUCK, f"rollback once more: exit {again.code}: {again.line}")
    if left := [n for n in bench.contents("target") if n in CONTENT]:
        raise Fault(DOUBLED, f"rolled back, and the target still holds {left}")
    differences(bench.wanted, bench.contents("source"), "the source")
    return HELD


def _beside(turn: Round, bench: Bench, *command: str) -> tuple[Ended, Ended]:
    """A migration, and this command while it is at work: how both ended."""
    state, done = turn.chance.choice(["ready", "snapshot"]), list[Ended]()

    def start() -> Child:
        bench.at(state)
        return bench.start(*TO_22)

    child = interrupted(turn, start, lambda c: c.ended, lambda c: done.append(bench.run(*command, output="beside.txt")))
    first = bench.ended(child)
    turn.say(f"the migration: exit {first.code} {first.line}; {' '.join(command)}: exit {done[0].code} {done[0].line}")
    return first, done[0]


def prune_beside_restore(turn: Round) -> str:
    """`snapshots prune` while a restore reads the snapshot: the restore is whole, or refused; the snapshot is, too."""
    bench, pruned = turn.shared.bench(), list[Ended]()
    prune = ("snapshots", "prune", "--yes", "--abandoned", "one")
    later = (400 * 86400.0,)  # when nothing has to be retained any more

    def start() -> Child:
        bench.at("snapshot")
        child = bench.start("snapshots", "restore", snapshot(bench).name, "--into", "restored")
        while_at_work(child, (bench.home / "restored").exists, "the restore")
        return child

    child = interrupted(
        turn,
        start,
        lambda c: c.ended,
        lambda c: pruned.append(bench.run(*prune, clock=later, output="beside.txt")),
        0.1,
    )
    done = bench.ended(child)
    turn.say(f"prune: exit {pruned[0].code} {pruned[0].said[-200:]!r}; restore: exit {done.code} {done.line}")
    there = [p for p in (bench.home / "kept").iterdir() if (p / "manifest.json").is_file()]
    if done.code == 0:
        bench.compare("restored")
    for folder in there:
        afresh = f"afresh-{folder.name}"
        if bench.run("snapshots", "verify", folder.name).code:
            raise Fault(LOST, f"the snapshot is there and not whole: {bench.log[-1]}")
        if bench.run("snapshots", "restore", folder.name, "--into", afresh).code:
            raise Fault(STUCK, f"it cannot be restored any more: {bench.log[-1]}")
        bench.compare(afresh)
    if not there and done.code:
        turn.say("the snapshot was removed, and the restore said so")
    bench.at("snapshot")
    if bench.run(*prune, clock=later).code or any(
        (p / "manifest.json").is_file() for p in (bench.home / "kept").iterdir()
    ):
        raise Fault(MISSED, f"prune removes nothing here, with or without a restore: {bench.log[-1]}")
    return HELD if done.code == 0 else REFUSED


def stale_locks(turn: Round) -> str:
    """Locks of processes that are gone, whose numbers others have now, and the target's marker of a run that died."""
    bench = turn.shared.bench()
    _half_done(turn, bench)
    for name in ("runner", "step", "seal"):
        (bench.home / f"workspace/one/{name}.lock").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    progress = bench.home / "workspace/one/progress.json"
    progress.write_text(json.dumps({"pid": os.getpid(), "process": os.getpid()}))
    bench.run("status", "one")
    other = bench.run("run", "trial.yaml", "--run-id", "two", "--until", "22")
    turn.say(f"another run: exit {other.code}: {other.line}")
    if other.code == 0:
        bench.compare()  # the first had written nothing yet
        return HELD
    return at_22(bench)


@dataclass(frozen=True)
class Kind:
    """`share`: how many of forty rounds, one at least."""

    name: str
    play: Callable[[Round], str]
    share: int


KINDS = [
    Kind("crash: named write", crash_point, 8),
    Kind("crash: any moment", random_kill, 1),
    Kind("crash: kernel, runner, tree", real_kernel, 1),
    Kind("crash: scheduler", scheduler, 1),
    Kind("crash: server of source, target", server_kill, 2),
    Kind("crash: nginx", nginx, 2),
    Kind("network: proxy", proxy, 7),
    Kind("notices: dead, slow, rejecting", notices, 1),
    Kind("resources: disk full", disk_full, 1),
    Kind("resources: read-only", read_only, 1),
    Kind("resources: file size", file_size, 1),
    Kind("resources: memory", memory, 1),
    Kind("resources: handles", handles, 1),
    Kind("resources: permission", no_permission, 1),
    Kind("surroundings: jumps, locale, zone, umask", surroundings, 1),
    Kind("surroundings: a wrong clock", wrong_clock, 1),
    Kind("corrupt: a file", corrupt, 3),
    Kind("concurrency: two runs", two_runs, 1),
    Kind("concurrency: beside a run", resume_beside, 1),
    Kind("concurrency: rollback, migration", rollback_beside, 1),
    Kind("concurrency: prune, restore", prune_beside_restore, 1),
    Kind("concurrency: stale locks", stale_locks, 1),
    Kind("concurrency: a writer throughout", writer, 1),
]
