"""After a cutover or a rollback: does the source answer, is it right, and is the application well? Measured, not assumed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.cutover.application import Answer, LogWatch, ask, ask_all
from helpers.errors import RunbookError, one_line
from helpers.fence import who_has_open
from helpers.parameters import Endpoint, Parameters, resolve_path
from helpers.results import Progress, utc_now
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import Reader, Store, open_source, open_target

# -- evidence ----------------------------------------------------------------------------------------------------------

# Whether the application itself uses the target: what it says of itself, and connections that are seen there.
#
# Its own health answer is the best witness. Else the machine is asked: connections to the target that are not ours, and for
# a directory the processes that have it open. Where neither side runs on this machine nothing can be seen, and that is said.


_TCP = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"


@dataclass(slots=True)
class Evidence:
    """What was seen. `says_target` and `says_source` are health URLs whose answer names that side."""

    says_target: set[str] = field(default_factory=set)
    says_source: set[str] = field(default_factory=set)
    connections: int = 0
    processes: set[str] = field(default_factory=set)

    @property
    def seen(self) -> bool:
        return bool(self.says_target or self.connections or self.processes)

    def sentence(self) -> str:
        said = [f"{url} names the target" for url in sorted(self.says_target)]
        said += [f"{self.connections} connections of other processes to the target"] if self.connections else []
        said += [f"{name} has it open" for name in sorted(self.processes)]
        return "; ".join(said)


def gather(into: Evidence, source: Endpoint, target: Endpoint, answers: Sequence[Answer]) -> None:
    """Look once more, and add what is seen."""
    for answer in answers:
        if not answer.well:
            continue
        at_target, at_source = _names(answer.body, target), _names(answer.body, source)
        if at_target and not at_source:
            into.says_target.add(answer.url)
            into.says_source.discard(answer.url)
        elif at_source and not at_target:
            into.says_source.add(answer.url)
    if target.path is not None:
        found = who_has_open(resolve_path(target.path))
        into.processes |= {f"process {pid} ({name or 'unknown'})" for pid, name in found.processes.items()}
    elif (target.host, target.port) != (
        source.host,
        source.port,
    ):  # else the old connections would be taken for new ones
        into.connections = max(into.connections, connections(target.host, target.port))


def _names(body: str, endpoint: Endpoint) -> bool:
    """Whether a text names this place: its URL, its host with port, or its path as a whole word."""
    if endpoint.path is not None:
        places = [str(resolve_path(endpoint.path))]
    else:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        places = [f"{host}:{endpoint.port}"]
    return any(_stands_alone(body.replace("\\/", "/"), place) for place in places)


def _stands_alone(body: str, place: str) -> bool:
    """`host:800` does not stand in `host:8000`, nor `/data/new` in `/data/newer`."""
    at = body.find(place)
    while at >= 0:
        before, after = body[at - 1 : at], body[at + len(place) : at + len(place) + 1]
        if not (before.isalnum() or before in ("-", ".", "_")) and not (after.isalnum() or after in ("-", "_")):
            return True
        at = body.find(place, at + 1)
    return False


def connections(host: str, port: int) -> int:
    """Established TCP connections to this address that this process has no end of; 0 too where none can be seen."""
    with suppress(OSError):
        places = {str(row[4][0]).partition("%")[0] for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        ours = _own_sockets()
        rows = [row for file in _TCP if file.exists() for row in _rows(file)]
        own_ends = {(local, number) for local, number, _, _, inode in rows if inode in ours}
        found = set()
        for local, local_port, remote, remote_port, inode in rows:
            if (remote, remote_port) in {(p, port) for p in places} and inode not in ours:
                found.add((local, local_port))
            elif (local, local_port) in {(p, port) for p in places} and (remote, remote_port) not in own_ends:
                found.add((remote, remote_port))
        return len(found)
    return 0


def _rows(file: Path) -> list[tuple[str, int, str, int, str]]:
    """(local, port, remote, port, inode) of the established connections."""
    found = []
    for line in file.read_text(encoding="ascii", errors="replace").splitlines()[1:]:
        parts = line.split()
        if len(parts) > 9 and parts[3] == _ESTABLISHED:
            found.append((*_address(parts[1]), *_address(parts[2]), parts[9]))
    return found


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F40` as ("127.0.0.1", 8000); words of four bytes in the machine's order."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    address = ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)


def _own_sockets() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            name = str(link.readlink())
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found


# -- watch -------------------------------------------------------------------------------------------------------------

# The watch after the switch: health, queries of stored vectors at the target, and new lines in the application's logs.


PER_COLLECTION = 5  # stored vectors that are searched for, in each collection
LONGEST_PAUSE = 10.0  # seconds between two rounds
ENOUGH = 2  # rounds in a row that must fail before it counts: one request can be lost on the way


@dataclass(slots=True)
class Round:
    """One look at everything. `problems` are sentences; `milliseconds` is the mean of its queries, None where none ran."""

    when: str
    second: float
    healthy: int
    queries: int
    milliseconds: float | None
    log_lines: int
    problems: list[str] = field(default_factory=list)
    fatal: bool = False

    def row(self) -> dict[str, Any]:
        return {
            "second": round(self.second, 1), "healthy": self.healthy, "queries": self.queries,
            "mean ms": None if self.milliseconds is None else round(self.milliseconds, 1),
            "new log lines": self.log_lines, "problems": "; ".join(self.problems),
        }  # fmt: skip


class Queries:
    """The same stored vectors searched for again and again, in every collection that the run filled.

    A target that is a directory is opened for each round only, and not at all once another process has it open: two
    processes on one directory destroy it (chroma-facts 15).
    """

    def __init__(self, target: Endpoint, collections: Sequence[str]) -> None:
        self.target, self.collections = target, list(collections)
        self.skipped = ""
        self._vectors: dict[str, npt.NDArray[np.float32]] = {}
        self._stack = ExitStack()
        self._store: Store | None = None

    def look(self) -> tuple[int, float | None, list[str]]:
        """(queries, mean milliseconds, problems) of one round."""
        if self.target.path is not None:
            holders = who_has_open(resolve_path(self.target.path))
            if holders.processes:
                self.skipped = f"{holders.sentence()} has the target open, which must stay its only user"
                return 0, None, []
        try:
            if self.target.path is not None:
                with open_target(self.target) as store:
                    return self._ask(store)
            if self._store is None:
                self._store = self._stack.enter_context(open_target(self.target))
            return self._ask(self._store)
        except RunbookError as error:
            self.close()
            return 0, None, [f"target: {error.what}"]

    def _ask(self, store: Store) -> tuple[int, float | None, list[str]]:
        seconds, problems = [], []
        for name in self.collections:
            if name not in self._vectors:
                self._vectors[name] = _stored(store, name)
            for vector in self._vectors[name]:
                begun = time.monotonic()
                hits = store.query(name, vector[None, :], 1)[0]
                seconds.append(time.monotonic() - begun)
                if not hits or not np.isfinite(hits[0][1]):
                    problems.append(f"target: a query of {name} found nothing")
        return len(seconds), 1000 * float(np.mean(seconds)) if seconds else None, problems[:3]

    def close(self) -> None:
        self._stack.close()
        self._store = None


def _stored(store: Store, name: str) -> npt.NDArray[np.float32]:
    """Some stored vectors of a collection, the same ones each time: spread over its sorted ids."""
    ids = sorted(store.ids(name))
    chosen = ids[:: max(1, len(ids) // PER_COLLECTION)][:PER_COLLECTION]
    return store.read(name, chosen).embeddings if chosen else np.zeros((0, 1), np.float32)


class Watch:
    """Rounds until the time is over, or until something failed for good."""

    def __init__(self, parameters: Parameters, collections: Sequence[str], logs: LogWatch) -> None:
        self.parameters, self.rules, self.logs = parameters, parameters.cutover, logs
        self.queries = Queries(parameters.target, collections)
        self.evidence = Evidence()
        self.rounds: list[Round] = []

    @property
    def failure(self) -> str:
        """Why the cutover must be taken back; "" while it need not."""
        return "; ".join(self.rounds[-1].problems) if self.rounds and self.rounds[-1].fatal else ""

    def run(self, minutes: float) -> Iterator[Round]:
        """Look, at least once, until so many minutes have gone by or something failed."""
        begun = time.monotonic()
        end = begun + 60 * minutes
        pause = min(LONGEST_PAUSE, max(0.5, 60 * minutes / 30))
        try:
            while True:
                last = time.monotonic() >= end
                yield self._look(time.monotonic() - begun, last=last)
                if self.failure or last:
                    return
                time.sleep(max(0.0, min(pause, end - time.monotonic())))
        finally:
            self.queries.close()
            self.logs.close()

    def _look(self, second: float, *, last: bool) -> Round:
        answers: list[Answer] = ask_all(self.rules.health)
        count, mean, problems = self.queries.look()
        gather(self.evidence, self.parameters.source, self.parameters.target, answers)
        before = self.logs.seen
        matches = self.logs.look(last=last)
        problems += [f"{a.url} {a.problem}" for a in answers if not a.well]
        shaky = bool(problems)
        problems += [f"{path}: {line}" for path, line in matches[:3]]
        found = Round(utc_now(), second, sum(a.well for a in answers), count, mean, self.logs.seen - before, problems)
        earlier = [r.problems for r in self.rounds[-(ENOUGH - 1) :]]
        # a line in the log stays; a request that failed once is asked again
        found.fatal = bool(matches) or (shaky and (last or (all(earlier) and len(earlier) == ENOUGH - 1)))
        self.rounds.append(found)
        return found


# -- cutover watch -----------------------------------------------------------------------------------------------------


PROBES = 3  # stored vectors asked for in each collection, in each round
MOST_SECONDS = 60.0  # between two rounds


@dataclass(frozen=True, slots=True)
class SourceRound:
    """One look: queries asked and answered, the slowest (ms), and what was wrong ("" where nothing)."""

    when: str
    queries: int
    answered: int
    slowest_ms: float
    problem: str = ""


def probes_of(snapshot: Snapshot) -> dict[str, Any]:
    """A few stored vectors by collection, the first of its snapshot, as (n, d) float32."""
    found = {}
    for info in snapshot.collections():
        parts = snapshot.parts(info.name)
        if parts:
            batch = snapshot.read(parts[0])
            vectors = batch.embeddings[~batch.lost][:PROBES]
            if len(vectors):
                found[info.name] = vectors
    return found


def look(parameters: Parameters, probes: dict[str, Any], health: list[str], scratch: Path) -> SourceRound:
    """One round; it never raises for what it finds. A source that is a directory is copied and the copy asked."""
    when, problems = utc_now(), []
    problems = [f"{a.url} {a.problem}" for a in map(ask, health) if not a.well]
    asked = answered = 0
    slowest = 0.0
    try:
        with open_source(
            parameters.source,
            scratch,
            parameters.collections.selects,
            normalised=parameters.migration.normalised == "migrate",
        ) as store:
            for name, vectors in probes.items():
                asked += len(vectors)
                begun = time.monotonic()
                answered += _answered(store, name, vectors)
                slowest = max(slowest, 1000 * (time.monotonic() - begun) / len(vectors))
    except RunbookError as error:
        problems.append(error.line())
    if asked > answered and not problems:
        problems.append(f"{asked - answered} of {asked} queries found nothing")
    return SourceRound(when, asked, answered, round(slowest, 1), one_line("; ".join(problems)))


def _answered(store: Reader, name: str, vectors: Any) -> int:
    return sum(bool(hits) for hits in store.query(name, vectors, 1))


def watch(
    parameters: Parameters, probes: dict[str, Any], health: list[str], scratch: Path, seconds: float, bar: Progress
) -> list[SourceRound]:
    """Look at once, at the end, and in between every `monitoring.interval_seconds` (60 at most)."""
    begun, rounds = time.monotonic(), []
    pause = min(MOST_SECONDS, parameters.monitoring.interval_seconds, max(seconds / 2, 0.1))
    shown = 0
    while True:
        rounds.append(look(parameters, probes, health, scratch))
        until = min(begun + seconds, time.monotonic() + pause)
        while True:
            passed = min(int(time.monotonic() - begun), int(seconds))
            bar.advance(passed - shown)  # where a run that was asked to stop stops
            shown = passed
            left = until - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.5))
        if time.monotonic() >= begun + seconds:
            if seconds:
                rounds.append(look(parameters, probes, health, scratch))
            return rounds
