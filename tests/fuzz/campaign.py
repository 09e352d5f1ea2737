"""`make test-fuzz INPUTS=n SEED=s`: `python -m tests.fuzz.campaign --inputs n --seed s [--only PARSER/NUMBER]`.

Each input is a real file with one change, drawn from the seed, the parser's name and its number alone. The parser gives a value
or refuses it by one of the toolkit's errors in one line. Bad is everything else: another exception, a second line, a file
outside of the home that is opened or written, a program started, more memory or time than a limit. The exit code is then 1.
"""

# ruff: noqa: E501  tables of inputs are read by column

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz import sites

if any(argument.startswith("--entered") for argument in sys.argv):
    sites.watch()  # before anything of the package is loaded

from helpers.errors import RunbookError
from helpers.stores import opening
from tests.fuzz import inputs
from tests.fuzz.files import ROOT, Bench
from tests.fuzz.parsers import PARSERS, Parser

SECONDS = 10.0  # of processor time that an input may take
HANGS = 300  # seconds after which the process is given up; a machine at work may take long for little
MEMORY = 2**31  # bytes of address space beyond what the process has when it begins
ENDED = "null"  # the last line of a tally
ACCEPTED, REFUSED, BAD = "accepted", "refused", "BAD"
Table = dict[str, Counter[str]]  # by parser: how many had each outcome, and "seconds"
PROGRAMS = ("ssh-keygen", "openssl", "git", Path(sys.executable).name)
_CACHE = os.path.realpath(sys.pycache_prefix or ROOT)  # bytecode of what an input imports first
_ROOTS = (ROOT, _CACHE, sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/proc", "/sys", "/dev", "/bin")
_READ = tuple(os.path.realpath(str(root)) for root in _ROOTS)
_FILES = ("/tmp/oldrun/",  # where the recorded run began: its parameters name files there
          "/etc/ssl", "/etc/localtime", "/etc/mime.types", "/etc/apache2/mime.types", "/etc/ld.so", "/etc/hosts", "/etc/nsswitch.conf",
          "/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/fonts", "/etc/services", "/etc/machine-id", "/etc/os-release")  # fmt: skip


class Watch:
    """Notes what is opened, written, removed or started outside of the home, while it is `on`."""

    def __init__(self, bench: Bench) -> None:
        self.home, self.on, self.follows = os.path.realpath(bench.home), False, False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
            self._path("write" if writes else "read", path)
        elif event in (
            "os.remove",
            "os.rename",
            "os.rmdir",
            "os.mkdir",
            "os.link",
            "os.symlink",
            "os.truncate",
            "os.chmod",
            "shutil.rmtree",
            "sqlite3.connect",
        ):
            self._path("write", arguments[0])
        elif event == "subprocess.Popen":
            program = Path(os.fsdecode(arguments[0] or arguments[1][0])).name
            if program not in PROGRAMS:
                self.seen.append(f"program {program}")
        elif event in ("os.system", "os.exec", "import") and event != "import":
            self.seen.append(event)

    def _path(self, how: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or os.fsdecode(path) in ("", ":memory:"):
            return
        text = os.fsdecode(path)
        text = text.removeprefix("file:").split("?")[0] if text.startswith("file:") else text
        try:
            real = os.path.realpath(text)
        except (OSError, ValueError):
            return
        if real == self.home or real.startswith(self.home + "/") or real == "/dev/null":
            return
        if real.startswith(_CACHE + "/") and (".pyc" in Path(real).name or Path(real).suffix == ""):
            return
        if how == "read" and (
            self.follows or real.startswith((*(f"{root}/" for root in _READ), *_FILES)) or real in _READ
        ):
            return
        self.seen.append(f"{how} {real}")


def judged(bench: Bench, watch: Watch, parser: Parser, path: Path) -> tuple[str, str]:
    """Read this input: (accepted, refused or BAD; the line, or what is bad)."""
    watch.seen.clear()
    began = time.process_time()
    faulthandler.dump_traceback_later(HANGS, exit=True)
    watch.follows, watch.on = parser.follows, True
    try:
        outcome, said = ACCEPTED, ""
        parser.read(bench, path)
    except RunbookError as error:
        outcome, said = REFUSED, error.line()
        if not said.isprintable() or not said.strip() or len(said) > 2_500:
            outcome, said = BAD, f"not one clear line: {said[:300]!r}"
    except BaseException as error:  # whatever it is, it is bad
        outcome, said = BAD, "".join(traceback.format_exception(error, limit=-6))[-1_500:]
    finally:
        watch.on = False
        faulthandler.cancel_dump_traceback_later()
    if watch.seen:
        return BAD, f"outside: {'; '.join(dict.fromkeys(watch.seen))}"
    if (took := time.process_time() - began) > SECONDS:
        return BAD, f"{took:.1f} s"
    return outcome, said


class Player:
    """Parsers with their real files, each put back after an input."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.bench, self.seed = Bench(folder), seed
        self.watch = Watch(self.bench)
        self.real: dict[str, list[tuple[Path, bytes]]] = {}
        self.kept = ROOT / ".fuzz"

    def files(self, parser: Parser) -> list[tuple[Path, bytes]]:
        if parser.name not in self.real:
            self.real[parser.name] = [(path, path.read_bytes()) for path in parser.files(self.bench)]
        return self.real[parser.name]

    def calm(self) -> None:
        """As if nothing had been read before: the folder, secrets that are hidden."""
        from helpers import errors

        os.chdir(self.bench.home)
        errors._HIDDEN.clear()

    def play(self, parser: Parser, number: int) -> tuple[str, str, str, bytes]:
        """One input: how it was made, its outcome, what was said, its bytes."""
        chance = random.Random(f"{self.seed}/{parser.name}/{number}")
        path, real = chance.choice(self.files(parser))
        self.calm()
        if parser.kind == "sqlite":
            how = inputs.sqlite(chance, path, self.bench.outside)
            data = path.read_bytes()
        else:
            if parser.kind == "parquet":
                how, data = inputs.parquet(chance, real)
            else:
                how, data = inputs.mutated(chance, real, parser.kind, self.bench.outside, parser.fix)
            path.write_bytes(data)
        try:
            outcome, said = judged(self.bench, self.watch, parser, path)
        finally:
            self.calm()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(real)
        return f"{path.relative_to(self.bench.home)}: {how}", outcome, said, data


def shares(total: int) -> dict[str, int]:
    """How many inputs each parser gets; one at least."""
    whole = sum(parser.share for parser in PARSERS)
    return {parser.name: max(1, round(total * parser.share / whole)) for parser in PARSERS}


def calmly() -> None:
    """No pause is waited for, no limit of memory is passed."""
    time.sleep = lambda seconds: None
    opening._SECONDS = 20.0  # an engine that does not end is given up sooner than the input
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))


def real_files(player: Player) -> None:
    """Each real file is accepted as it is, but for those that are named; else SystemExit."""
    for parser in PARSERS:
        for path, real in player.files(parser):
            player.calm()
            outcome, said = judged(player.bench, player.watch, parser, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(real)
            if outcome != ACCEPTED and path.name not in parser.refused:
                raise SystemExit(f"{parser.name}: the real file {path.name} is not accepted: {said}")


def planned(chosen: argparse.Namespace, part: int, of: int) -> list[tuple[Parser, int]]:
    """Every `of`th input, all parsers side by side: whenever it ends, each has had the same part of its share."""
    name, _, only = chosen.only.partition("/")
    parsers = [parser for parser in PARSERS if name in ("", parser.name)]
    if only:
        return [(parser, int(only)) for parser in parsers]
    wanted = shares(chosen.inputs)
    every = [(parser, number) for parser in parsers for number in range(part, wanted[parser.name], of)]
    return sorted(every, key=lambda each: (each[1] + 0.5) / wanted[each[0].name])


def play_all(chosen: argparse.Namespace, part: int, of: int, tally: Path | None, skip: int) -> Table:
    """The inputs of this part but for the first `skip`; what came of them, and a line for each that came out badly.

    `tally` gets a line for each that is done, so that a process that dies loses the one at work alone.
    """
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    player = Player(folder, chosen.seed)
    table: Table = {}
    todo = planned(chosen, part, of)
    for parser in PARSERS:
        if any(parser is each for each, _ in todo):
            player.files(parser)
    calmly()
    if chosen.entered:
        real_files(player)
    begun = time.monotonic()
    for parser, number in todo[skip:]:
        if chosen.minutes and time.monotonic() - begun > 60 * chosen.minutes:
            break
        since = time.monotonic()
        how, outcome, said, data = player.play(parser, number)
        noted(table, parser.name, outcome, seconds := time.monotonic() - since)
        if outcome == BAD or "/" in chosen.only:
            player.kept.mkdir(exist_ok=True)
            kept = player.kept / f"{parser.name.replace('/', ' ').replace(' ', '-')}-{chosen.seed}-{number}"
            kept.write_bytes(data)
            print(
                f"{outcome} {parser.name}/{number}: {how}\n{said}\n  input: {kept}\n{again(chosen, parser, number)}",
                flush=True,
            )
        if tally:
            with tally.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps([parser.name, outcome, seconds]) + "\n")
    if tally:
        with tally.open("a", encoding="utf-8") as lines:
            lines.write(f"{ENDED}\n")
    if chosen.entered:
        chosen.entered.write_text(json.dumps(sorted(sites.entered)))
    shutil.rmtree(folder, ignore_errors=True)
    return table


def noted(table: Table, name: str, outcome: str, seconds: float) -> None:
    table.setdefault(name, Counter()).update({outcome: 1, "seconds": seconds})


def again(chosen: argparse.Namespace, parser: Parser, number: int) -> str:
    return f"  again: make test-fuzz SEED={chosen.seed} ONLY='{parser.name}/{number}'"


def spread(chosen: argparse.Namespace) -> Table:
    """The same in processes, each with a part of the inputs. An input on which one dies is bad, and another goes on after it."""
    table: Table = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        tallies = [Path(folder) / str(n) for n in range(chosen.jobs)]

        def start(part: int) -> subprocess.Popen[bytes]:
            place = f"{part}/{chosen.jobs}/{len(done(part))}/{tallies[part]}"
            return subprocess.Popen([sys.executable, "-m", "tests.fuzz.campaign", *sys.argv[1:], f"--part={place}"])

        def done(part: int) -> list[tuple[str, str, float]]:
            return [tuple(json.loads(line)) for line in lines(part) if line != ENDED]

        def lines(part: int) -> list[str]:
            return tallies[part].read_text(encoding="utf-8").splitlines() if tallies[part].exists() else []

        begun = dict.fromkeys(range(chosen.jobs), 0)
        parts = {part: start(part) for part in begun}
        while parts:
            for part, process in list(parts.items()):
                if (code := process.poll()) is None:
                    continue
                del parts[part]
                if ENDED in lines(part):
                    continue
                before = len(done(part))
                if before == begun[part]:
                    raise SystemExit(f"a process of the campaign ended with {code} twice, or before its first input")
                parser, number = planned(chosen, part, chosen.jobs)[before]
                print(f"{BAD} {parser.name}/{number}: its process ended with {code}: a hang, or a crash of a library\n"
                      f"{again(chosen, parser, number)}", flush=True)  # fmt: skip
                with tallies[part].open("a", encoding="utf-8") as tally:
                    tally.write(json.dumps([parser.name, BAD, float(HANGS)]) + "\n")
                begun[part] = before + 1
                parts[part] = start(part)
            time.sleep(0.5)
        for part in range(chosen.jobs):
            for name, outcome, seconds in done(part):
                noted(table, name, outcome, seconds)
    return {parser.name: table[parser.name] for parser in PARSERS if parser.name in table}


def report(table: Table, seed: str, seconds: float) -> str:
    """The table parser × inputs × outcome, as Markdown."""
    lines = ["", f"| parser | inputs | {ACCEPTED} | {REFUSED} | {BAD} |", "|---|---:|---:|---:|---:|"]
    rows = {name: [int(row.get(o, 0)) for o in (ACCEPTED, REFUSED, BAD)] for name, row in table.items()}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines += [f"| {name} | {sum(row):,} | {' | '.join(f'{n:,}' for n in row)} |" for name, row in rows.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"Seed {seed}, {sum(rows['all']):,} inputs in {seconds / 60:.1f} min; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-fuzz")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", default="20261128")
    parser.add_argument("--only", default="", metavar="PARSER[/NUMBER]", help="this parser, or this input, again")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--entered", type=Path, help="write here which functions of the package the real files led into"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no input after so many")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    began = time.monotonic()
    if chosen.part or chosen.jobs == 1 or "/" in chosen.only:
        part, of, skip, tally = (chosen.part or "0/1/0/").split("/", 3)
        table = play_all(chosen, int(part), int(of), Path(tally) if tally else None, int(skip))
    else:
        table = spread(chosen)
    if not chosen.part:
        print(report(table, chosen.seed, time.monotonic() - began))
        print("seconds:", {name: round(row["seconds"], 1) for name, row in table.items()})
    return 1 if any(row.get(BAD) for row in table.values()) or not table else 0


if __name__ == "__main__":
    sys.exit(main())
