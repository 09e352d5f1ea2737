"""The kinds of faults of the campaign: each does one round and says how it came out, or raises `Fault`."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.faults.bench import (
    CONTENT,
    HELD,
    LOST,
    MISSED,
    REFUSED,
    STUCK,
    Bench,
    Ended,
    Fault,
    differences,
)
from tests.faults.command import Crash, Order, lose_power
from tests.faults.network import ALL
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.shared import Served, Shared, Written
from tests.heavy.commands import Trial, descendants, kernel_of, kill_all

FENCED = "fence: {kind: command, command: {lock: [touch, locked], unlock: [rm, -f, locked]}}\n"
_OVER = "has passed every step up to"  # the command had ended its work when it was killed
TO_22 = ("resume", "one", "--until", "22")


@dataclass
class Round:
    """One round: its number, the chance that decides everything in it, and what is shared by all rounds."""

    number: int
    chance: random.Random
    shared: Shared
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)


def resumed(bench: Bench, *command: str, codes: tuple[int, ...] = (0,), strict: bool = True) -> str:
    """The fault is over: the command must end well (`strict`), or refuse in one line; then nothing may be half done."""
    done = bench.run(*(command or TO_22))
    if done.code in codes or _OVER in done.line:
        return HELD
    if strict:
        raise Fault(STUCK, f"runbook {' '.join(command or TO_22)}: exit {done.code}: {done.line}")
    return REFUSED


# -- crash points --------------------------------------------------------------------------------------------------------


def crash_point(turn: Round) -> str:
    """kill -9 at a named write of a scenario, up to three times, each with a loss of what was never flushed."""
    scenario = _next_scenario(turn)
    bench = turn.shared.bench(scenario.bench, more=FENCED if scenario.bench == "fenced" else "")
    counts = _counted(turn.shared, bench, scenario)
    bench.at(scenario.state)
    scenario.prepare(bench)
    points = [
        (w, m, n) for w, c in counts.items() if w in scenario.writes for m, n in zip(_MOMENTS, c, strict=True) if n
    ]
    command, killed = scenario.command(bench), 0
    for _ in range(turn.chance.choice([1, 1, 2, 3])):
        write, moment, most = turn.chance.choice(points)
        crash = Crash(write, moment, turn.chance.randint(1, most))
        child = bench.start(*command, crash=crash, pages=scenario.pages, clock=scenario.clock)
        done = bench.ended(child)
        if done.code == -signal.SIGKILL:
            killed += 1
            turn.say(f"{scenario.name}: killed at {write}, {moment}, time {crash.nth}")
            for taken in lose_power(child, turn.chance, _ours(bench)):
                turn.say(f"power lost: {taken}")
        elif done.code not in scenario.codes and _OVER not in done.line:
            raise Fault(STUCK, f"after {killed} kills: exit {done.code}: {done.line}")
        command = scenario.again(bench)
    outcome = _finish(bench, scenario)
    scenario.check(bench)
    return outcome


_MOMENTS = ("before", "written, not renamed", "after")


def _next_scenario(turn: Round) -> Scenario:
    """Any, but that each number of rounds as large as there are scenarios has every one."""
    order = list(SCENARIOS)
    random.Random(turn.shared.seed).shuffle(order)
    return order[turn.number % len(order)]


def _counted(shared: Shared, bench: Bench, scenario: Scenario) -> dict[str, list[int]]:
    """How often an undisturbed execution comes to each moment of each named write; all that are promised are there."""

    def count(folder: Path) -> dict[str, list[int]]:
        bench.at(scenario.state)
        scenario.prepare(bench)
        file = folder / "counts.json"
        done = bench.run(*scenario.command(bench), count=file, pages=scenario.pages, clock=scenario.clock)
        if done.code not in scenario.codes:
            raise Fault(STUCK, f"{scenario.name}, undisturbed: exit {done.code}: {done.line}")
        scenario.check(bench)
        found: dict[str, list[int]] = json.loads(file.read_text())
        if missing := sorted(set(scenario.writes) - found.keys()):
            raise Fault(MISSED, f"{scenario.name} does not come to {missing}")
        return found

    counted: dict[str, list[int]] = shared.once(f"counts-{scenario.name}", count)
    return counted


def _finish(bench: Bench, scenario: Scenario) -> str:
    done = bench.run(*scenario.again(bench), clock=scenario.clock)
    for _ in range(2):
        if done.code in scenario.codes:
            return HELD
        if scenario.over(done) or _OVER in done.line:
            return HELD
        done = bench.run(*scenario.again(bench), clock=scenario.clock)
    raise Fault(STUCK, f"{scenario.name}: {' '.join(scenario.again(bench))}: exit {done.code}: {done.line}")


def _ours(bench: Bench) -> list[Path]:
    """The folders whose files the toolkit writes; Chroma's own are Chroma's to flush."""
    return [f for f in (bench.home / "reports", bench.home / "workspace", bench.home / "kept") if f.is_dir()]


def random_kill(turn: Round) -> str:
    """kill -9 at any moment of the command, again and again; what was not flushed is gone."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "ready", "snapshot", "changed"]))
    command = TO_22 if not (bench.home / "workspace/one/checkpoint.json").exists() else _AGAIN_22
    for _ in range(turn.chance.choice([1, 2, 3])):
        child = bench.start(*command)
        time.sleep(turn.chance.random() * 5)
        over = child.ended
        child.kill()
        if not over:
            turn.say(f"killed {time.time() - child.began:.1f} s after its start")
            for taken in lose_power(child, turn.chance, _ours(bench)):
                turn.say(f"power lost: {taken}")
    return _at_22(bench)


_AGAIN_22 = ("run", "--run-id", "one", "--from", "22", "--until", "22")


def _at_22(bench: Bench) -> str:
    """The run ends with step 22 for the source as it is now, and the target holds that."""
    outcome = resumed(bench)
    done = bench.run(*_AGAIN_22)  # where the kill came before the first word, the resume had nothing to do
    if done.code != 0:
        raise Fault(STUCK, f"step 22 once more: exit {done.code}: {done.line}")
    bench.compare()
    return outcome


def real_kernel(turn: Round) -> str:
    """The command with papermill and a kernel of its own: its kernel, its runner or its whole tree is killed."""
    bench = turn.shared.bench()
    bench.at("snapshot")
    trial = Trial(bench.home)
    what = turn.chance.choice(["kernel", "runner", "tree"])
    process = trial.start(*TO_22)
    deadline = time.monotonic() + 120
    while kernel_of(process.pid) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(turn.chance.random() * 6)
    kernel = kernel_of(process.pid)
    below = descendants(process.pid)
    kill_all([kernel] if what == "kernel" and kernel else [process.pid, *(below if what == "tree" else [])])
    with suppress(subprocess.TimeoutExpired):
        process.wait(120)
    if process.poll() is None:
        kill_all([process.pid, *descendants(process.pid)])
        raise Fault("HUNG", f"the runner did not end after its {what} was killed")
    turn.say(f"{what} killed")
    bench.judge_words(Ended(0, trial.output, Order(bench.home, TO_22), time.time()))
    time.sleep(0.5)  # an orphan of a kernel ends within 0.3 s of its runner
    return _at_22(bench)


def server_kill(turn: Round) -> str:
    """The source's or the target's server is killed at any moment, and started again; the command meets that."""
    served = turn.shared.served
    bench = served.bench
    _calm(served)
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    which = turn.chance.choice(["source", "target", "both"])
    servers = [s for s, n in ((served.source, "source"), (served.target, "target")) if which in (n, "both")]
    child = bench.start(*TO_22)
    time.sleep(turn.chance.random() * 5)
    for server in servers:
        server.kill()
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
    """A share of the requests, of one side or both, meets one kind of fault or any; then the network is sound again."""
    served = turn.shared.served
    bench = served.bench
    _calm(served)
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    side = turn.chance.choice(["source", "target", "both"])
    faults = ALL if turn.chance.random() < 0.4 else [turn.chance.choice(ALL)]
    share = turn.chance.choice([0.03, 0.1, 0.3, 1.0])
    for name, between in (("source", served.source_proxy), ("target", served.target_proxy)):
        if side in (name, "both"):
            between.upset(faults, share, random.Random(turn.chance.random()))
    turn.say(f"{side}: {share:.0%} of the requests meet {faults[0] if len(faults) == 1 else 'any fault'}")
    done = bench.run(*TO_22)
    met = [*served.source_proxy.met, *served.target_proxy.met]
    turn.say(f"{len(met)} met, exit {done.code}; " + "; ".join(met[-3:]))
    if done.code == 0:
        bench.compare()
    for between in (served.source_proxy, served.target_proxy):
        between.calm()
    outcome = resumed(bench, *(_AGAIN_22 if done.code == 0 else TO_22))
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
    bench.wanted = bench.contents(bench.source_place)
    outcome = resumed(bench)
    if bench.run(*_AGAIN_22).code != 0:
        raise Fault(STUCK, f"step 22 once more, after the writer: {bench.log[-1]}")
    bench.compare()
    return outcome


# -- resources -----------------------------------------------------------------------------------------------------------


def disk_full(turn: Round) -> str:
    """The disk under one of the folders (a small tmpfs) is full at any write; then there is room again."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    place = bench.home / turn.chance.choice(["workspace", "reports", "kept", "target"])
    with small_disk(place) as resize:
        if resize is None:
            return file_size(turn)
        used = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
        room = turn.chance.choice([0, 4, 20, 60, 120, 300, 600]) * 1024
        resize(used // 4096 * 4096 + 64 * 1024 + room)
        turn.say(f"{place.name}: {room // 1024} kB of room")
        done = bench.run(*TO_22)
        turn.say(f"exit {done.code}: {done.line}")
        resize(200 * 2**20)
        outcome = resumed(bench)
        bench.compare()
    return outcome


@contextmanager
def small_disk(place: Path) -> Iterator[Callable[[int], None] | None]:
    """A tmpfs at `place` with what is there; `resize(bytes)`. None where this user may not mount."""
    place.mkdir(exist_ok=True)
    kept = place.with_name(f"{place.name}.kept")
    shutil.copytree(place, kept, symlinks=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(place)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            yield None
            return
        shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True)

        def resize(size: int) -> None:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True, capture_output=True)

        yield resize
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(kept)


def file_size(turn: Round) -> str:
    """No file of the process may grow beyond a limit: a full disk, for those who may not mount one."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    return _limited(turn, bench, resource.RLIMIT_FSIZE, turn.chance.choice([1, 4, 16, 64, 200]) * 1024, "bytes a file")


def memory(turn: Round) -> str:
    """Less address space than the work wants."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    return _limited(turn, bench, resource.RLIMIT_AS, turn.chance.randint(700, 3000) * 2**20, "bytes of memory")


def handles(turn: Round) -> str:
    """Few open files."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    return _limited(turn, bench, resource.RLIMIT_NOFILE, turn.chance.randint(12, 90), "open files")


def _limited(turn: Round, bench: Bench, what: int, most: int, unit: str) -> str:
    done = bench.run(*TO_22, limits={what: most})
    turn.say(f"{most:,} {unit}: exit {done.code}: {done.line}")
    outcome = resumed(bench)
    bench.compare()
    return outcome


def no_permission(turn: Round) -> str:
    """As a user who may not write to, or not read, one of the folders or files; then the permission is given."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    candidates = [p for p in bench.home.rglob("*") if p.is_dir() or "source" not in p.parts]
    place = turn.chance.choice(sorted(candidates))
    mode, less = place.stat().st_mode, turn.chance.choice([0o222, 0o444, 0o777])
    place.chmod(mode & ~less & 0o7777)
    turn.say(f"{place.relative_to(bench.home)}: mode {mode & ~less & 0o777:o}")
    done = bench.run(*TO_22, rootless=True)
    turn.say(f"exit {done.code}: {done.line}")
    place.chmod(mode & 0o7777)
    again = bench.run(*TO_22, rootless=True) if done.code else done
    if again.code:
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
    return _at_22(bench)


# -- corrupt files -------------------------------------------------------------------------------------------------------


def corrupt(turn: Round) -> str:
    """One file that is read back is flipped, cut, emptied, gone, or that of another run; all that reads it is asked."""
    bench = turn.shared.bench()
    state = turn.chance.choice(["ready", "snapshot", "half", "migrated", "decided", "cutover"])
    bench.at("snapshot" if state == "half" else state)
    if state == "half":
        child = bench.start(*TO_22)
        time.sleep(1.5 + turn.chance.random() * 3)
        child.kill()
    files = sorted(
        p for folder in (*_ours(bench), bench.home / "keys") for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink()
    )  # fmt: skip
    files += [bench.home / "app.env"]
    file = turn.chance.choice(files)
    how = turn.chance.choice(["flipped", "cut", "emptied", "gone", "another run's"])
    how = damage(file, how, turn, bench)
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
    first, second = (bench.start("run", "trial.yaml", "--run-id", n, "--until", "22") for n in ("one", "two"))
    ended = [bench.ended(c) for c in (first, second)]
    turn.say("; ".join(f"exit {d.code} {d.line}" for d in ended))
    winner = next((n for n, d in zip(("one", "two"), ended, strict=True) if d.code == 0), None)
    if winner is None:
        for name in ("one", "two"):
            if bench.run("resume", name).code in (0, 4):
                break
        else:
            raise Fault(STUCK, "neither run goes on: " + "; ".join(bench.log[-2:]))
    bench.compare()
    return HELD if all(d.code == 0 for d in ended) else REFUSED


def resume_beside(turn: Round) -> str:
    """A resume, or a rollback, beside the command at work: it is kept out, or stops it, and nothing is mixed."""
    bench = turn.shared.bench()
    bench.at(turn.chance.choice(["ready", "snapshot"]))
    child = bench.start(*TO_22)
    time.sleep(turn.chance.random() * 4)
    beside = turn.chance.choice(
        [("resume", "one"), TO_22, _AGAIN_22, ("rollback", "one", "--why", "trial"), ("status", "one")]
    )
    done = bench.run(*beside)
    turn.say(f"{' '.join(beside)}: exit {done.code}: {done.line}")
    first = bench.ended(child)
    turn.say(f"the command: exit {first.code}: {first.line}")
    if beside[0] == "rollback" and done.code == 0:
        if left := [n for n, c in bench.contents("target").items() if n in CONTENT]:
            raise Fault("DOUBLED", f"rolled back, and the target still holds {left}")
        return HELD
    if beside[0] == "rollback":
        again = bench.run("rollback", "one", "--why", "trial")
        if again.code:
            raise Fault(STUCK, f"rollback once more: exit {again.code}: {again.line}")
        if left := [n for n in bench.contents("target") if n in CONTENT]:
            raise Fault("DOUBLED", f"rolled back, and the target still holds {left}")
        return HELD
    bench.run(*TO_22)  # may have nothing to do
    return _at_22(bench)


def prune_beside_restore(turn: Round) -> str:
    """`snapshots prune` while a restore reads the snapshot: the restore is whole, or refused; the snapshot is, too."""
    bench = turn.shared.bench()
    bench.at("snapshot")
    snapshot = next(p for p in (bench.home / "kept").iterdir() if (p / "manifest.json").is_file())
    restore = ("snapshots", "restore", snapshot.name, "--into", "restored")
    child = bench.start(*restore)
    time.sleep(turn.chance.random() * 2.5)
    pruned = bench.run("snapshots", "prune", "--yes", "--abandoned", "one")
    done = bench.ended(child)
    turn.say(f"prune: exit {pruned.code} {pruned.line}; restore: exit {done.code} {done.line}")
    if done.code == 0:
        bench.compare("restored")
    if (snapshot / "manifest.json").is_file():
        if bench.run("snapshots", "verify", snapshot.name).code:
            raise Fault(LOST, f"the snapshot is there and not whole: {bench.log[-1]}")
        if done.code and bench.run(*restore).code:
            raise Fault(STUCK, f"the restore does not go on: {bench.log[-1]}")
        bench.compare("restored")
    return HELD if done.code == 0 else REFUSED


def stale_locks(turn: Round) -> str:
    """Locks of processes that are gone, whose numbers others have now, and the target's marker of a run that died."""
    bench = turn.shared.bench()
    bench.at("snapshot")
    child = bench.start(*TO_22)
    time.sleep(1 + turn.chance.random() * 4)
    child.kill()
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
    return _at_22(bench)


@dataclass(frozen=True)
class Kind:
    """`share`: how many of a hundred rounds."""

    name: str
    play: Callable[[Round], str]
    share: int


KINDS = [
    Kind("crash: named write", crash_point, 26),
    Kind("crash: any moment", random_kill, 8),
    Kind("crash: kernel, runner, tree", real_kernel, 3),
    Kind("crash: server of source, target", server_kill, 6),
    Kind("network: proxy", proxy, 20),
    Kind("resources: disk full", disk_full, 5),
    Kind("resources: file size", file_size, 2),
    Kind("resources: memory", memory, 2),
    Kind("resources: handles", handles, 2),
    Kind("resources: permission", no_permission, 3),
    Kind("surroundings: clock, locale, zone, umask", surroundings, 3),
    Kind("corrupt: a file", corrupt, 12),
    Kind("concurrency: two runs", two_runs, 2),
    Kind("concurrency: beside a run", resume_beside, 3),
    Kind("concurrency: prune, restore", prune_beside_restore, 1),
    Kind("concurrency: stale locks", stale_locks, 1),
    Kind("concurrency: a writer throughout", writer, 1),
]
