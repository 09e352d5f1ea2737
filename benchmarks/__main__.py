"""`python -m benchmarks`: take every measure in turns, and keep what was found as JSON, Markdown and a figure."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks import peers, ways
from benchmarks.comparing import differences
from benchmarks.ground import Ground, fill, naive
from benchmarks.plot import picture
from benchmarks.results import Findings, Row, compared, ratios, tables
from benchmarks.ways import Failed, Taken, Toolkit
from helpers.audit import commit
from helpers.plots.style import save
from helpers.results import utc_now, write_text
from tests.servers import client_of

SIZES, QUICK_SIZES = "9832x1536", "1000x64"
TURNS, QUICK_TURNS = 3, 1
OUTAGE, REHEARSAL, FLEET, SETTINGS, PEERS = "outage", "rehearsal", "fleet", "settings", "peers"
PARTS = ("migration", OUTAGE, REHEARSAL, FLEET, SETTINGS, PEERS)
Way = Callable[[], Taken]


class Bench:
    """All turns of all ways; each finding is added to `found` as soon as it is there."""

    def __init__(self, found: Findings, folder: Path, turns: int, parts: Sequence[str]) -> None:
        self.found, self.folder, self.turns, self.parts = found, folder, turns, parts

    def whole(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.row("M9", "", [ways.imports() for _ in range(max(3, self.turns))])
        for number, (chunks, dimension) in enumerate(sizes):
            folder = self.folder / f"{chunks}x{dimension}"
            folder.mkdir()
            self.say(f"{chunks:,} × {dimension}: filling a source")
            with Ground(folder, chunks, dimension) as ground:
                self.size(ground, f"{chunks}x{dimension}", first=number == 0)
            shutil.rmtree(folder)
        if REHEARSAL in self.parts:
            self.rehearsals(*sizes[0])
        if FLEET in self.parts:
            self.fleets()

    def size(self, ground: Ground, size: str, *, first: bool) -> None:
        baseline: list[float] = []
        if "migration" in self.parts:
            baseline = self.migrations(ground, size)
        if OUTAGE in self.parts:
            self.outages(ground, size)
        if first and SETTINGS in self.parts:
            self.settings(ground, size)
        if first and PEERS in self.parts:
            self.peers(ground, size, baseline or [_naive(ground).seconds])

    def migrations(self, ground: Ground, size: str) -> list[float]:
        """M1, M2, M6, M7, M8; the seconds of the naive script."""
        toolkit = Toolkit(ground)
        self.say(f"{size}: steps 10 to 13")
        before = toolkit.prepare()
        taken = self.in_turn(
            size,
            {
                "naive": partial(_naive, ground), "floor": partial(_floor, ground),
                "notebooks": partial(toolkit.night, "notebooks"), "work": partial(toolkit.night, "work"),
                "restore": partial(ways.restore, ground),
            },
        )  # fmt: skip
        seconds = {name: [t.seconds for t in turns] for name, turns in taken.items()}
        for measure, ours, base in (("M1", "notebooks", "naive"), ("M2", "work", "naive"),
                                    ("M7", "work", "floor"), ("M8", "restore", "floor")):  # fmt: skip
            if seconds.get(ours) and len(seconds[ours]) == len(seconds.get(base, [])):
                self.row(measure, size, ratios(seconds[ours], seconds[base]))
        self.memory(size, {"notebooks 10 to 13": [before], "notebooks 21 to 23": taken["notebooks"],
                           "restore": taken["restore"]})  # fmt: skip
        for name, values in seconds.items():
            self.row("seconds", size, values, what=name, unit="s")
        self.row("seconds", size, [before.seconds], what="notebooks 10 to 13", unit="s")
        for phase in taken["work"][0].phases if taken["work"] else ():
            self.row("phase", size, [t.phases.get(phase, 0.0) for t in taken["work"]], what=phase, unit="s")
        return seconds.get("naive", [])

    def outages(self, ground: Ground, size: str) -> None:
        """M3 and M4, both orders of the fence; --quick does without `start`, which grows with the data."""
        if shutil.which("nginx") is None:
            self.found.not_exercised[f"M3, M4 at {size}"] = "nginx is not installed"
            return
        orders = ("cutover",) if self.found.options["quick"] else ("cutover", "start")
        taken = self.in_turn(size, {f"fence.when: {when}": partial(ways.outage, ground, when) for when in orders})
        for when, measure in zip(orders, ("M3", "M3 start"), strict=False):
            if not (turns := taken[f"fence.when: {when}"]):
                continue
            seen = [t.client for t in turns]
            named = {"what": f"fence.when: {when}"}
            self.row(measure, size, [t.seconds for t in turns])
            self.row("M3 differing", size, [float(s["differences"]) for s in seen], **named)
            self.row("M4", size, [s["longest_pause"] for s in seen], **named)
            self.row("M4 failed", size, [float(sum(s["failed_reads"].values())) for s in seen], **named)
            for part, what in (
                ("pause_before", "longest pause of reads before it moves"),
                ("made_client", "its own new client"),
            ):
                self.row("client", size, [s[part] for s in seen], what=f"{what}, fence.when: {when}", unit="s")
            writes = [float(sum(n for url, n in s["writes"].items() if url != "refused")) for s in seen]
            self.row("client", size, writes, what=f"writes accepted, fence.when: {when}", unit="writes")
            failed = [float(sum(s["errors"].values())) for s in seen]
            self.row("client", size, failed, what=f"writes that failed unrefused, fence.when: {when}", unit="writes")
            for error in sorted({error for s in seen for error in (*s["errors"], *s["failed_reads"])}):
                self.say(f"{size}: fence.when: {when}: {error}")
            self.memory(size, {f"migration with fence.when: {when}": turns})

    def rehearsals(self, chunks: int, dimension: int) -> None:
        """M5. Its size is that of the first that was measured."""
        size = f"{chunks}x{dimension}"

        def once() -> Taken:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            try:
                return ways.rehearsal(folder, chunks, dimension)
            finally:
                shutil.rmtree(folder)

        if turns := self.in_turn(size, {"rehearsal": once})["rehearsal"]:
            self.row("M5", size, [t.seconds for t in turns])
            self.memory(size, {"rehearsal": turns})

    def fleets(self) -> None:
        """What a second row at work at the same time gains: seconds of one at a time over those of two."""
        size = f"{ways.ROWS} rows"
        each: dict[str, Way] = {f"{n} at a time": partial(ways.fleet, self.folder, parallel=n) for n in (1, 2)}
        taken = self.in_turn(size, each)
        one, two = ([t.seconds for t in turns] for turns in taken.values())
        if len(one) == len(two) == self.turns:
            self.row("setting", size, ratios(one, two), what="rows 1 at a time over 2", unit="×")

    def settings(self, ground: Ground, size: str) -> None:
        """Two ways of ours to do the same, as the first over the second: above 1 the second is faster."""
        pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
            "1 reader over 2 readers": (partial(ways.reading, ground, 1), partial(ways.reading, ground, 2)),
            "batches of 100 over 500": (partial(ways.writing, ground, 100, 1), partial(ways.writing, ground, 500, 1)),
            "1 writer over 4 writers": (partial(ways.writing, ground, 500, 1), partial(ways.writing, ground, 500, 4)),
            "schema if_ttt over identity": (
                partial(ways.transforming, ground, "if_ttt"), partial(ways.transforming, ground, "identity"),
            ),
        }  # fmt: skip
        for what, (one, other) in pairs.items():
            taken = self.in_turn(size, {f"{what}, A": partial(_timed, one), f"{what}, B": partial(_timed, other)})
            a, b = ([t.seconds for t in turns] for turns in taken.values())
            if len(a) == len(b) == self.turns:
                self.row("setting", size, ratios(a, b), what=what, unit="×")

    def peers(self, ground: Ground, size: str, naive_seconds: Sequence[float]) -> None:
        """Each peer once: what it loses does not vary, and its time is far from ours."""
        base = sorted(naive_seconds)[len(naive_seconds) // 2]
        for peer in peers.PEERS:
            self.say(f"{size}: {peer.name}")
            try:
                self.found.peers.append(peers.exercise(peer, ground, base) | {"size": size})
            except peers.NoPeer as error:
                self.found.not_exercised[f"peer {peer.name}"] = str(error)
        lost = {"name": "naive script", "pins": [], "says": "", "seconds": base, "ratio": 1.0, "exit_codes": [0],
                "said": "", "size": size, "lost": _naive_loss(ground)}  # fmt: skip
        self.found.peers.append(lost)

    def in_turn(self, size: str, each: dict[str, Way]) -> dict[str, list[Taken]]:
        """Every way once a turn; each turn begins with another, so that none always finds the caches warm.

        One that fails is NOT EXERCISED with its reason, and is not tried again.
        """
        taken: dict[str, list[Taken]] = {name: [] for name in each}
        names, failed = list(each), set[str]()
        for turn in range(self.turns):
            at = turn % len(names)
            for name in names[at:] + names[:at]:
                if name in failed:
                    continue
                self.found.machine["load"].append(round(os.getloadavg()[0], 2))
                try:
                    taken[name].append(each[name]())
                except Failed as error:
                    failed.add(name)
                    taken[name].clear()
                    self.found.not_exercised[f"{name} at {size}"] = str(error)
                    self.say(f"{size}: turn {turn + 1}: {name}: NOT EXERCISED: {error}")
                else:
                    self.say(f"{size}: turn {turn + 1}: {name}: {taken[name][-1].seconds:.1f} s")
        return taken

    def memory(self, size: str, each: dict[str, list[Taken]]) -> None:
        for what, turns in each.items():
            if turns:
                self.row("M6", size, [round(t.memory.rss, 1) for t in turns], what=what)
                self.row("M6 PSS", size, [round(t.memory.pss, 1) for t in turns], what=what)
                for step in turns[0].peaks:
                    values = [round(t.peaks.get(step, 0.0), 1) for t in turns]
                    self.row("memory", size, values, what=f"notebook {step}, {what}", unit="MB")

    def row(self, measure: str, size: str, values: list[float], what: str = "", unit: str = "") -> None:
        if values:
            self.found.rows.append(Row(measure, size, [round(value, 4) for value in values], what, unit))

    @staticmethod
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _naive(ground: Ground) -> Taken:
    with ground.target() as (url, _), client_of(ground.server.url) as source, client_of(url) as target:
        return Taken(naive(source, target))


def _naive_loss(ground: Ground) -> dict[str, int]:
    with ground.target() as (url, _):
        with client_of(ground.server.url) as source, client_of(url) as target:
            naive(source, target)
        return dict(differences(ground.batches, url))


def _floor(ground: Ground) -> Taken:
    with ground.target() as (url, _):
        return Taken(fill(url, ground.batches))


def _timed(way: Callable[[], float]) -> Taken:
    return Taken(way())


def size_of(text: str) -> tuple[int, int]:
    """`9832x1536` → (9832, 1536)."""
    chunks, _, dimension = text.partition("x")
    with suppress(ValueError):
        if int(chunks) >= 200 and int(dimension) >= 1:
            return int(chunks), int(dimension)
    raise argparse.ArgumentTypeError(f"{text}: give CHUNKSxDIMENSION, 200 chunks at least, such as {SIZES}")


def arguments() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--sizes", type=size_of, nargs="+", metavar="CxD",
                         help=f"the first is also that of rehearsal, settings and peers ({SIZES})")  # fmt: skip
    options.add_argument("--turns", type=int, metavar="N", help=f"of each way ({TURNS})")
    options.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SIZES}, one turn; no rehearsal, fleet, peers or fence.when: start"
    )
    options.add_argument("--only", choices=PARTS, action="append", help="a part; repeatable")
    options.add_argument("--to", type=Path, default=Path("reports/bench"), metavar="FOLDER",
                         help="where TIME.json, TIME.md and TIME.svg are written (%(default)s)")  # fmt: skip
    options.add_argument("--compare", type=Path, nargs=2, metavar=("A.json", "B.json"), help="print B over A, and end")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments()
    chosen = options.parse_args(given)
    if chosen.compare:
        try:
            print(compared(*map(Findings.read, chosen.compare)), end="")
        except (OSError, ValueError) as error:
            options.error(str(error))
        return 0
    turns = chosen.turns or (QUICK_TURNS if chosen.quick else TURNS)
    if turns < 1:
        options.error("--turns: one at least")
    sizes = chosen.sizes or [size_of(QUICK_SIZES if chosen.quick else SIZES)]
    parts = chosen.only or [part for part in PARTS if not (chosen.quick and part in (REHEARSAL, FLEET, PEERS))]
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin"  # where Debian keeps nginx
    begun = time.perf_counter()
    found = Findings(
        utc_now(), commit(),
        {"sizes": [f"{c}x{d}" for c, d in sizes], "turns": turns, "quick": chosen.quick, "parts": list(parts)},
        {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform(),
         "chromadb": importlib.metadata.version("chromadb"), "load": [round(os.getloadavg()[0], 2)]},
    )  # fmt: skip
    found.not_exercised |= {part: "not asked for" for part in PARTS if part not in parts}
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as folder:
        Bench(found, Path(folder), turns, parts).whole(sizes)
    found.seconds = round(time.perf_counter() - begun, 1)
    name = found.when[:19].replace(":", "")
    found.write(chosen.to / f"{name}.json")
    write_text(chosen.to / f"{name}.md", tables(found))
    if (figure := picture(found)) is not None:
        save(figure, chosen.to / f"{name}.svg")
    print(tables(found))
    print(f"Kept: {chosen.to / name}.json, .md and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
