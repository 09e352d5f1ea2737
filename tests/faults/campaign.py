"""`make test-faults ROUNDS=n SEED=s`: `python -m tests.faults.campaign --rounds n --seed s [--only ROUND …] [--kind TEXT]`.

Each round draws a kind, a state of a run and an instance of the fault from the seed and its number alone, does a small
migration under it, goes on as a DBA would, and compares every chunk of source and target. The exit code is 1 where a
chunk was lost, doubled or altered, a command hung or showed a traceback, or no resume went on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from tests.faults.bench import GOOD, HUNG, OUTCOMES, Fault
from tests.faults.kinds import KINDS, Kind
from tests.faults.rounds import Round
from tests.faults.shared import Shared

ORPHAN_SECONDS = 10.0  # that a process of a round may live on; 0.3 is usual


def drawn(seed: str, number: int, kinds: list[Kind]) -> tuple[Kind, int]:
    """The kind of this round, and how many rounds of it came before.

    Each deck (forty rounds, if no kind was chosen) holds every kind as often as its share says, in an order that the seed
    decides. Kinds go through their faults in turn by that count, so that none depends on luck.
    """
    deck = [kind for kind in kinds for _ in range(kind.share)]
    before, at = divmod(number, len(deck))
    random.Random(f"{seed}-deck-{before}").shuffle(deck)
    return deck[at], before * deck[at].share + deck[:at].count(deck[at])


def play(seed: str, number: int, kinds: list[Kind], shared: Shared) -> tuple[Kind, str, list[str]]:
    """One round: its kind, its outcome, and what is worth reading of it."""
    kind, before = drawn(seed, number, kinds)
    turn = Round(number, before, random.Random(f"{seed}-{number}"), shared)
    before_it = at_work_in(shared.folder)
    try:
        outcome, why = kind.play(turn), ""
    except Fault as fault:
        outcome, why = fault.outcome, fault.why
    except Exception as error:  # the campaign's own fault is shown, and fails it
        outcome, why = "TRACEBACK", f"of the campaign: {error!r}\n{traceback.format_exc()}"
    if left := left_behind(shared.folder, before_it):
        turn.say(f"left behind: {'; '.join(left)}")
        outcome = HUNG if outcome in GOOD else outcome
    return kind, outcome, [*turn.said, why] if why else turn.said


def at_work_in(folder: Path) -> dict[psutil.Process, str]:
    """Processes in this folder, or of runs below it, that are not the campaign's own children (servers), and what they are."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            places = (process.cwd(), process.environ().get("RUNBOOK_REPORTS", ""))
            there = any(Path(place).is_relative_to(folder) for place in places if place)
            ours = process.ppid() == os.getpid() or process.name() == "nginx"  # which daemonizes
            if there and not ours and process.status() != psutil.STATUS_ZOMBIE:
                found[process] = f"{process.pid} {' '.join(process.cmdline())[-200:]}"
    return found


def left_behind(folder: Path, before: dict[psutil.Process, str]) -> list[str]:
    """What works in the folder ten seconds after a round and did not before it; it is ended."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while new := {process: what for process, what in at_work_in(folder).items() if process not in before}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for process in new:
        with suppress(psutil.Error):
            process.kill()
    return list(new.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-faults")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", default="20261128")
    parser.add_argument("--only", type=int, action="append", default=[], metavar="ROUND")
    parser.add_argument("--kind", default="", help="only the kinds whose name holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with databases of its own")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # of these processes, which one, and its tally
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no round after so many")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and small disks end with it
    kinds = [kind for kind in KINDS if chosen.kind in kind.name]
    numbers = chosen.only or list(range(chosen.rounds))
    begun = time.monotonic()
    if not chosen.part and chosen.jobs > 1 and len(numbers) > 1:
        table = spread(chosen.jobs)
    else:
        part, of, tally = (chosen.part or "0/1/").split("/", 2)
        table = play_all(chosen, numbers[int(part) :: int(of)], kinds)
        if tally:
            Path(tally).write_text(json.dumps([[*key, n] for key, n in table.items()]), encoding="utf-8")
    if not chosen.part:
        print(report(table, chosen.seed, time.monotonic() - begun))
    return 1 if any(outcome not in GOOD for _, outcome in table) or not table else 0


def spread(jobs: int) -> Counter[tuple[str, str]]:
    """The same command in processes, each with a part of the rounds; their outcomes together."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        tallies = [Path(folder) / str(n) for n in range(jobs)]
        command = [sys.executable, "-m", "tests.faults.campaign", *sys.argv[1:]]
        parts = [subprocess.Popen([*command, f"--part={n}/{jobs}/{tally}"]) for n, tally in enumerate(tallies)]
        codes = [part.wait() for part in parts]
        table: Counter[tuple[str, str]] = Counter()
        for number, tally in enumerate(tallies):
            if not tally.is_file():
                raise SystemExit(f"part {number} of the campaign ended with {codes[number]} and without its outcomes")
            for kind, outcome, count in json.loads(tally.read_text(encoding="utf-8")):
                table[kind, outcome] += count
    return table


def play_all(chosen: argparse.Namespace, numbers: list[int], kinds: list[Kind]) -> Counter[tuple[str, str]]:
    """These rounds, one after another, a line for each, and more where one came out badly."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)
    table: Counter[tuple[str, str]] = Counter()
    begun = time.monotonic()
    with ExitStack() as stack:
        shared = Shared(folder, stack, chosen.seed)
        for number in numbers:
            if chosen.minutes and time.monotonic() - begun > 60 * chosen.minutes:
                print(
                    f"{chosen.minutes:g} minutes are over: round {number} and those after it are left out", flush=True
                )
                break
            since = time.monotonic()
            kind, outcome, said = play(chosen.seed, number, kinds, shared)
            table[kind.name, outcome] += 1
            lines = [f"{number:4} {time.monotonic() - since:5.1f} s  {kind.name:42} {outcome}"]
            if outcome not in GOOD or chosen.only:
                lines += [f"       {line}" for line in said]
            if outcome not in GOOD:
                more = f" ARGS='--kind \"{chosen.kind}\"'" if chosen.kind else ""
                lines.append(f"       again: make test-faults SEED={chosen.seed} ONLY={number}{more}")
            print("\n".join(lines), flush=True)
    if any(outcome not in GOOD for _, outcome in table):
        print(f"What the rounds left is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return table


def report(table: Counter[tuple[str, str]], seed: str, seconds: float) -> str:
    """The table kind × rounds × outcome, as Markdown; outcomes that never came are left out but for the bad ones."""
    names = [k.name for k in KINDS if any((k.name, o) in table for o in OUTCOMES)]
    head = f"| kind | rounds | {' | '.join(OUTCOMES)} |"
    lines = [head, "|---|" + "---:|" * (len(OUTCOMES) + 1)]
    for name in [*names, "all"]:
        row = [sum(n for (k, o), n in table.items() if o == outcome and name in (k, "all")) for outcome in OUTCOMES]
        lines.append(f"| {name} | {sum(row)} | {' | '.join(map(str, row))} |")
    load, cores = os.getloadavg()[0], os.cpu_count()
    said = f"Seed {seed}, {sum(table.values())} rounds in {seconds / 60:.1f} min; load {load:.1f} on {cores} cores."
    return "\n".join(["", *lines, "", said])


if __name__ == "__main__":
    sys.exit(main())
