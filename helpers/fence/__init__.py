"""The write fence before the source: set, proven and lifted by the step, by `runbook fence`, by `--until`. Repeatable.

What is about to happen is on disk (`FenceState`) before it happens: after a kill at any moment the next process, or the
operator's `runbook fence RUN_ID --lift`, knows what was there before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import stat
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from helpers.audit import operator
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError, Terminal, UsageError
from helpers.fence.nginx import (
    LOG_PROBE,
    Nginx,
    Touched,
    config_path,
    configuration,
    key_of,
    reached_at,
    touched,
)
from helpers.formatting import count, moment
from helpers.parameters import Parameters
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import Fence
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, StepResult, contents, section, utc_now
from helpers.run.command import other_clients_at, own_addresses, run_or_fail
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.run.plan import Step

if TYPE_CHECKING:
    from helpers.fence.probe import ProbeAnswer, ServerProbe  # with httpx, which the state of a fence does not need

NO_WRITES = "source_takes_no_writes"  # in step 20's fact "fence": requests and answers, where that is proven
BEFORE, THROUGH = "writes before the fence", "writes through the fence"  # checks of the step that sets it
RECORDING, SETTING, UP, LIFTING, LIFTED = "recording", "setting", "up", "lifting", "lifted"
UNTRIED = "at a directory only the application can try a write; see that it does"
SETTLE_SECONDS = 1.0  # counts that stay the same for so long have settled


@dataclass(slots=True)
class WriteLog:
    """nginx's log of requests that may write. `place` is its device and inode, `processes` are nginx's (id, start).

    `marks` are, by snapshot, the bytes in the log when its reading began, and their SHA-256. `doubt` is, once the fence is
    up, why the log may lack a write, "" where nothing indicates it.
    """

    place: list[int]
    marks: dict[str, tuple[int, str]] = field(default_factory=dict)
    processes: list[tuple[int, float]] = field(default_factory=list)
    doubt: str = ""


@dataclass(slots=True)
class FenceState(StateFile):
    """One run's fence. A killed process leaves `setting` or `lifting`: then either may be half done.

    With `fence.when: cutover` it is `recording` first: nginx lets everything pass, and logs each request that may write.

    `before` describes the earlier configuration file: `existed`, and `backup`, the copy in the workspace. `rules` are the
    parameters that it was set with: it is lifted with these, even if they were changed since.
    """

    file = RunPath.FENCE
    damaged = ReasonCode.FENCE_STATE_DAMAGED
    remedy = "See whether the fence is up, lift it by hand, and set this file aside."

    kind: str
    state: str
    lift: str
    since: str = ""
    by: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    rules: Annotated[dict[str, Any], section(Fence)] = field(default_factory=dict)
    events: list[dict[str, str]] = field(default_factory=list)
    source: Annotated[dict[str, Any], section(Endpoint)] = field(default_factory=dict)  # whose writes it stops
    directory: str = ""  # in which the run began
    log: WriteLog | None = None

    def enter(self, workspace: Path, state: str, **facts: Any) -> None:
        """Put the fence into this state, on disk before anything else happens."""
        for name, value in facts.items():
            setattr(self, name, value)
        self.state = state
        self.events.append({"when": utc_now(), "by": operator(), "state": state})
        self.save(workspace)

    @property
    def active(self) -> bool:
        """Whether it is set and proven, and was not lifted since."""
        return self.state == UP

    @property
    def up_at(self) -> str:
        """When it was set after it last let writes pass; "" where it does not refuse them. The only source of this time."""
        up = ""
        for event in self.events:
            up = "" if event["state"] in (RECORDING, LIFTING, LIFTED) else up or event["when"] * (event["state"] == UP)
        return up

    @property
    def may_be_active(self) -> bool:
        """Whether any part of it may be in place."""
        return self.state != LIFTED

    @property
    def refuses(self) -> bool:
        """Whether it may refuse writes now."""
        return self.state not in (RECORDING, LIFTED)

    def sentence(self) -> str:
        """One sentence: `The write fence (nginx) is up since …; lift it with: …`; "" where it is lifted."""
        if not self.may_be_active:
            return ""
        if not self.refuses:
            return f"nginx lets writes pass and logs them since {moment(self.since)}. End that with: {self.lift}"
        state = "is up" if self.active else f"may be in place (a process ended while {self.state} it)"
        return (
            f"The write fence ({self.kind}) {state} since {moment(self.up_at or self.since)}. Lift it with: {self.lift}"
        )


def takes_no_writes(step: StepResult | None) -> bool:
    """Whether this result of step 20 proves that nobody can write to the source, so that it needs no fence."""
    return step is not None and step.error is None and bool((step.facts.get("fence") or {}).get(NO_WRITES))


@dataclass(frozen=True, slots=True)
class _AsSet:
    """The settings of a fence when it was set, used in place of the run's parameters."""

    source: Endpoint
    fence: Fence


class FenceControl:
    """The fence of one run, by its parameters."""

    def __init__(self, folder: RunFolder, parameters: Parameters | _AsSet, rules: Fence | None = None) -> None:
        self.folder, self.source = folder, parameters.source
        self.rules = rules or parameters.fence
        managed = self.rules.nginx if self.rules.kind == "nginx" else None
        self.nginx = Nginx(managed, self.rules.timeout_seconds) if managed else None

    # -- which URL is which --------------------------------------------------------------------------------------------

    @property
    def clients_url(self) -> str:
        """The URL that clients use, "" where the source is a directory."""
        if self.nginx is None:
            return self.source.address if self.source.url else ""
        host, _, port = self.nginx.rules.listen.rpartition(":")
        return f"http://{reached_at(host)}:{port}"

    @property
    def behind_url(self) -> str:
        """Chroma itself behind the proxy, "" where there is none."""
        return f"http://{self.nginx.rules.upstream}" if self.nginx else ""

    def urls(self) -> dict[str, str]:
        """The URLs by their purpose: clients, behind the fence, migration."""
        urls = {
            "clients use": self.clients_url,
            "behind the fence": self.behind_url,
            "this migration reads": self.source.label,
        }
        return {k: v for k, v in urls.items() if v}

    def probe(self, url: str, role: str) -> ServerProbe:
        from helpers.fence.probe import ServerProbe

        return ServerProbe(url, self.source, role)

    # -- up ------------------------------------------------------------------------------------------------------------

    def plan(self) -> str:
        """What setting it would write and run; changes nothing."""
        if self.nginx is not None:
            header = f"# {config_path(self.nginx.rules)}, then: {shlex.join(self.nginx.rules.command)} -t, -s reload"
            return f"{header}\n{configuration(self.nginx.rules, self.folder.id, closed=True)}"
        if self.rules.kind == "command" and self.rules.command:
            return f"lock:   {shlex.join(self.rules.command.lock)}\nunlock: {shlex.join(self.rules.command.unlock)}"
        return "No fence: clients go on writing to the source."

    def put_up(self) -> str:
        """Stop writes. Gives what was done. On failure everything is restored before the error is raised."""
        state = self._state()
        if state.log is not None and state.state != UP:  # while it is up nobody writes
            killed = "a process ended while it set the fence"
            state.log.doubt = self._doubt(state.log) if state.state == RECORDING else killed
        state.enter(self.folder.workspace, SETTING, urls=self.urls())
        try:
            done = self._close()
            state.enter(self.folder.workspace, UP)
        except RunbookError:
            self.put_back(state)
            raise
        self.folder.log(f"fence up ({self.rules.kind}): {done}", Step.FENCE_WRITES)
        return done

    def _state(self) -> FenceState:
        """The state of the fence in place, or a new one. `UsageError` where other parameters set it."""
        state = FenceState.load(self.folder.workspace)
        if state is None or not state.may_be_active:
            return self._new_state()
        if state.rules != self._document():
            raise UsageError(ReasonCode.FENCE_CHANGED, "the active fence was set with other parameters",
                             next_step=f"Lift that one first: {state.lift}")  # fmt: skip
        return state

    def _new_state(self) -> FenceState:
        before: dict[str, object] = {}
        if self.nginx is not None:
            other = self.nginx.written_by()
            if other and other != self.folder.id and b"CLOSED" in contents(self.nginx.path):
                raise Terminal(
                    ReasonCode.FENCE_OF_OTHER_RUN, f"holds the fence of run {other}", where=str(self.nginx.path),
                    next_step=f"Lift it first: {RUNBOOK} fence {other} --lift",
                )  # fmt: skip
            before = self.nginx.keep(self.folder.workspace / "fence-before.conf")
        command, rules = self._lift_command, self._document()
        return FenceState(
            self.rules.kind, SETTING, command, utc_now(), operator(), before=before, rules=rules,
            source=self.source.model_dump(mode="json", exclude_defaults=True), directory=str(Path.cwd()),
        )  # fmt: skip

    def _document(self) -> dict[str, Any]:
        return self.rules.model_dump(mode="json", exclude={"timeout_seconds"})

    def _close(self) -> str:
        if self.nginx is not None:
            self.nginx.write(configuration(self.nginx.rules, self.folder.id, closed=True))
            done = (
                "written for the operator"
                if self.nginx.rules.elsewhere
                else f"nginx {self.nginx.enforce()}{self.nginx.unseen_text}"
            )
        else:
            assert self.rules.command is not None
            run_or_fail(self.rules.command.lock, self.rules.timeout_seconds, "the lock command")
            done = "lock command ended with 0"
        if self.source.url and not (self.nginx and self.nginx.rules.elsewhere):
            done += f"; counts settled after {self.settle():.1f} s"
        return done

    def settle(self) -> float:
        """Wait until counts stay the same, as Chroma may still work on a write let in before. Gives the seconds it took."""
        begun = unchanged_since = time.monotonic()
        with self.probe(self.source.address, "source") as probe:
            last = probe.counts()
            while time.monotonic() - unchanged_since < SETTLE_SECONDS:
                if time.monotonic() - begun > self.rules.timeout_seconds:
                    raise Terminal(
                        ReasonCode.COUNTS_MOVE, f"counts still change {self.rules.timeout_seconds:g} seconds after the fence",
                        where=f"source {self.source.label}", next_step="Somebody writes past the fence: find out who.",
                    )  # fmt: skip
                time.sleep(0.25)
                now = probe.counts()
                if now != last:
                    last, unchanged_since = now, time.monotonic()
        return time.monotonic() - begun

    # -- the log of writes ---------------------------------------------------------------------------------------------
    #
    # nginx writes a line once it has answered, so whatever is in the log was applied. The log is evidence, not proof: where
    # it may lack a write, step 25 reads every collection, as it does without a log.

    def record(self) -> str:
        """Let nginx pass everything and log what may write, also after a fence that is up. Gives a sentence."""
        if self.nginx is None:
            return "Writes are not logged (fence.kind is command): step 25 reads every collection once more."
        state, file = self._state(), self._log_file
        log = state.log if state.state == UP else None  # a log that the fence ended without a doubt is continued
        if log is None or log.doubt or self._damage(log):
            begun = json.dumps({"run": self.folder.id, "log": uuid.uuid4().hex}) + "\n"
            self.nginx.write(begun, self._alerts)
            self.nginx.write(begun, file)
            log = state.log = WriteLog(_place(file))
        state.enter(self.folder.workspace, RECORDING, urls=self.urls())
        try:
            self.nginx.write(configuration(self.nginx.rules, self.folder.id, closed=False, log=file))
            done = self.nginx.enforce()
        except RunbookError:
            self.put_back(state)
            raise
        log.processes = self.nginx.processes()
        state.save(self.folder.workspace)
        return f"nginx {done}: it lets everything pass, and logs what may write to {file}."

    def reopen(self) -> str:
        """Lift the fence, prove it by a write, and let nginx log writes again. Gives a sentence."""
        done = self.record() if self.nginx is not None else lift(self.folder.read())
        return f"The write fence is taken away. {done} {self._prove_open()}." if self.nginx is not None else done

    def position(self) -> tuple[int, str] | None:
        """The end of the log of writes now: bytes and their digest; None where there is no log. For `read_since`."""
        state = FenceState.load(self.folder.workspace)
        if state is None or state.log is None:
            return None
        try:
            return _head(self._log_file)
        except OSError:  # `_doubt` reports it
            return None

    def read_since(self, snapshot: str, position: tuple[int, str] | None) -> None:
        """Note that the reading of this snapshot began at that position of the log."""
        state = FenceState.load(self.folder.workspace)
        if state is not None and state.log is not None and position is not None:
            state.log.marks[snapshot] = position
            state.save(self.folder.workspace)

    @property
    def _log_file(self) -> Path:
        return Path(f"{self.nginx.path}.writes") if self.nginx is not None else Path()

    @property
    def _alerts(self) -> Path:
        """nginx's failures to write the log. It begins with the log's first line, so that its first block is on the disk: there
        is room for nginx's first message even when the disk is full."""
        return Path(f"{self._log_file}.alerts")

    def _damage(self, log: WriteLog) -> str:
        """Why the log may lack a write, by its files; "" where they do not show it."""
        file = self._log_file
        try:
            if _place(file) != log.place:
                return f"{file} is not the file that was begun (rotated, or removed)"
            if any(_head(file, mark[0]) != mark for mark in log.marks.values()):
                return f"{file} no longer begins as it did"
            with _opened(file) as lines, _opened(self._alerts) as alerts:
                if lines.readline() != alerts.read(2**16):
                    return (
                        f"nginx failed at something while it wrote {file} (a full disk?): {self._alerts} says at what"
                    )
        except OSError as error:
            return f"{file}: {error}"
        return ""

    def _doubt(self, log: WriteLog) -> str:
        """Why the log may lack a write; "" where nothing shows it. Ask while nginx still writes the log."""
        import httpx

        from helpers.stores.wire import Session

        assert self.nginx is not None
        file, nonce = self._log_file, uuid.uuid4().hex
        if damage := self._damage(log):
            return damage
        try:
            now = self.nginx.processes()
            if not now or not _same_processes(now, log.processes):
                return "nginx was restarted or reloaded since the log was begun"
            past = other_clients_at(self.nginx.rules.upstream, [os.getpid(), *(int(pid) for pid, _ in now)])
            if past:
                return f"{count(past, 'connection')} to {self.nginx.rules.upstream} did not come by nginx"
            with Session(timeout=self.rules.timeout_seconds) as session:
                session.get(f"{self.clients_url}{LOG_PROBE}?{nonce}")
            deadline = time.monotonic() + SETTLE_SECONDS
            while nonce.encode() not in _end(file):
                if time.monotonic() > deadline:
                    return f"nginx does not write {file} any more"
                time.sleep(0.05)
        except (OSError, httpx.HTTPError) as error:
            return f"{file}: {error}"
        return ""

    def logged_changes(self, snapshot: str, names: Collection[str]) -> tuple[dict[str, Touched], str]:
        """By collection, what answered requests may have changed since the reading of this snapshot began; and why that is not
        fully known, "" where it is. Without full knowledge there is no entry for any collection."""
        state = FenceState.load(self.folder.workspace)
        if state is None or state.log is None:
            return {}, "no log of writes was kept"
        mark = state.log.marks.get(snapshot)
        doubt = self._doubt(state.log) if state.state == RECORDING else state.log.doubt or self._damage(state.log)
        if doubt or mark is None:
            unmarked = f"snapshot {snapshot} was begun before the log of writes, or read in several sessions"
            return {}, doubt or unmarked
        with self.probe(self.source.address, "source") as probe:
            ids = {name: key_of(collection_id) for name, collection_id in probe.ids().items()}
        try:
            with _opened(self._log_file) as lines:
                changes, doubt = touched(lines, mark[0], {*names, *ids, *ids.values()})
        except (OSError, ValueError, KeyError, TypeError) as error:
            return {}, f"{self._log_file} cannot be read ({error})"
        unchanged = Touched()
        by_name = {name: changes.get(name, unchanged) | changes.get(ids.get(name, name), unchanged) for name in names}
        return ({}, doubt) if doubt else (by_name, "")

    # -- proof ---------------------------------------------------------------------------------------------------------

    def against(self, answers: list[ProbeAnswer]) -> list[str]:
        """Why these answers to writes do not prove a fence; [] where they do."""
        from helpers.fence.probe import FAILED, REFUSED, SILENT, WRITTEN, answer_text

        created = answers[0]
        if created.outcome == FAILED and self.nginx is None:  # Chroma's storage cannot be written
            return [answer_text(a) for a in answers if a.outcome in (WRITTEN, SILENT)]
        return [answer_text(a) for a in answers if a.outcome != REFUSED]

    def bypasses(self) -> tuple[list[str], list[str]]:
        """(URLs by which others reach Chroma past the fence, URLs that only their machine can test)."""
        if self.nginx is None:
            return [], []
        through = [f"{url}{f' ({host})' if host else ''}" for url, host in self.nginx.to_ask if self._passes(url, host)]
        if through:
            return through, []
        host, _, port = self.nginx.rules.upstream.rpartition(":")
        hosts = {self.source.host} if self.source.host else set()
        if _is_loopback(host):
            hosts |= own_addresses()
        elif self._answers(self.behind_url):
            return [], [self.behind_url]
        outside = sorted(h for h in hosts if not _is_loopback(h))
        urls = [f"http://{f'[{h}]' if ':' in h else h}:{port}" for h in outside]
        return [url for url in urls if url != self.clients_url and self._answers(url)], []

    def _passes(self, url: str, host: str) -> bool:
        """Whether this listener leads to the source and does not refuse every write. One that leads elsewhere is only read."""
        import httpx

        from helpers.fence.probe import REFUSED, ServerProbe

        try:
            with (
                ServerProbe(url, self.source, "nginx", host=host) as probe,
                self.probe(self.source.address, "source") as source,
            ):
                if not probe.answers_at_all() or not set(probe.counts()) & set(source.counts()):
                    return False
                return any(answer.outcome != REFUSED for answer in probe.writes())
        except (RunbookError, httpx.HTTPError):  # it does not answer as Chroma does
            return False

    def _answers(self, url: str) -> bool:
        with self.probe(url, "source") as probe:
            return probe.answers_at_all()

    def same_database(self) -> bool:
        """Whether clients reach, through the fence, the database that is migrated."""
        with self.probe(self.clients_url, "fence") as front, self.probe(self.source.address, "source") as source:
            return set(front.counts()) == set(source.counts())

    # -- down ----------------------------------------------------------------------------------------------------------

    def put_back(self, state: FenceState) -> None:
        """Restore everything as far as possible, and log what is not. Never raises."""
        try:
            state.enter(self.folder.workspace, LIFTING)
            self._open(state, start=False)
            state.enter(self.folder.workspace, LIFTED)
            self.folder.log("fence taken away again", Step.FENCE_WRITES)
        except (RunbookError, OSError) as error:
            self.folder.log(f"the fence could not be taken away: {error}; {state.lift}", Step.FENCE_WRITES)

    def lift(self) -> str:
        """Let writes through again and prove it by one. Gives a sentence. If it is lifted already, only prove it again."""
        state = FenceState.load(self.folder.workspace)
        if state is None:
            return f"Run {self.folder.id} has set no fence; there is nothing to lift."
        already = not state.may_be_active
        if not already:
            state.enter(self.folder.workspace, LIFTING)
            self._open(state, start=True)
        proof = self._prove_open()
        if not already:
            state.enter(self.folder.workspace, LIFTED)
            self.folder.log("fence lifted; " + proof)
        return f"The write fence of run {self.folder.id} {'was lifted already' if already else 'is lifted'}; {proof}."

    def _open(self, state: FenceState, *, start: bool) -> None:
        """Let writes through. `start`: also start an nginx that is not running, because clients have come to use it."""
        if state.log is not None:
            for end in ("", ".alerts", ".errors"):
                Path(f"{self._log_file}{end}").unlink(missing_ok=True)
            state.log = None
        if self.nginx is None:
            if self.rules.command is not None:
                run_or_fail(self.rules.command.unlock, self.rules.timeout_seconds, "the unlock command")
            return
        rules = self.nginx.rules
        if self.nginx.written_by() not in (self.folder.id, "") or (
            self.nginx.path.exists() and not self.nginx.written_by()
        ):
            return  # somebody put another file there meanwhile; the probe shows whether it lets writes through
        start = start or rules.elsewhere or self.nginx.runs()
        if state.before.get("existed"):
            self.nginx.put_back(Path(str(state.before["backup"])))
        elif start:  # clients have come to use this port, so it continues as a plain proxy
            self.nginx.write(configuration(rules, self.folder.id, closed=False))
        else:
            self.nginx.remove()
        if start and not rules.elsewhere:
            self.nginx.enforce()

    def _prove_open(self) -> str:
        from helpers.fence.probe import answer_text

        if not self.clients_url:
            return UNTRIED
        with self.probe(self.clients_url, "source") as probe:
            shut = [answer_text(a) for a in probe.writes() if not a.answered]
            if shut:
                raise EnvironmentFailure(
                    ReasonCode.FENCE_NOT_LIFTED, f"writes do not get through yet: {'; '.join(shut[:3])}", where=self.clients_url,
                    next_step=self._by_hand(),
                )  # fmt: skip
            swept = probe.sweep()
            if probe.left_behind:
                raise EnvironmentFailure(ReasonCode.PROBE_LEFT_BEHIND, f"the write probe was not removed: {probe.left_behind}",
                                 where=self.clients_url, next_step="Delete that collection by hand.")  # fmt: skip
        swept_text = f", and {len(swept)} that an earlier probe had left" if swept else ""
        return f"a write probe got through {self.clients_url} and was removed again{swept_text}"

    @property
    def _lift_command(self) -> str:
        return self.folder.command("fence", "--lift")

    def _by_hand(self) -> str:
        if self.nginx is not None and self.nginx.rules.elsewhere:
            return f"Put {self.nginx.path} up on nginx's machine, reload it, and repeat: {self._lift_command}"
        return f"Check that Chroma and the proxy in front of it run, then repeat: {self._lift_command}"


def _opened(file: Path) -> IO[bytes]:
    """Open a plain file. Raises `OSError` where it is none."""
    if not file.is_file():
        raise OSError(errno.EINVAL, "not a plain file", str(file))
    return file.open("rb")


def _place(file: Path) -> list[int]:
    """Device and inode of a plain file, [] for anything else."""
    with suppress(OSError):
        facts = file.lstat()
        if stat.S_ISREG(facts.st_mode):
            return [facts.st_dev, facts.st_ino]
    return []


def _same_processes(now: list[tuple[int, float]], before: list[tuple[int, float]]) -> bool:
    """Whether these are the same processes; the clock that gives their start may have been set by a second."""
    return [pid for pid, _ in now] == [pid for pid, _ in before] and all(
        abs(a - b) < 2 for (_, a), (_, b) in zip(now, before, strict=True)
    )


def _head(file: Path, size: int = -1) -> tuple[int, str]:
    """The length of a file's beginning (at most `size` bytes), and its SHA-256."""
    digest, remaining = hashlib.sha256(), file.stat().st_size if size < 0 else size
    with _opened(file) as opened:
        while remaining and (piece := opened.read(min(remaining, 2**20))):
            digest.update(piece)
            remaining -= len(piece)
        return opened.tell(), digest.hexdigest()


def _end(file: Path) -> bytes:
    with _opened(file) as opened:
        opened.seek(max(0, file.stat().st_size - 2**16))
        return opened.read()


def lift(folder: RunState) -> str:
    """Lift the fence of this run, whatever its state. Gives a sentence."""
    state = FenceState.load(folder.workspace)
    if state is None:
        return f"Run {folder.id} has set no fence; there is nothing to lift."
    source = Endpoint.model_validate(state.source) if state.source else folder.parameters.source
    with suppress(OSError, ValueError):  # its commands and secrets may have paths relative to it
        os.chdir(state.directory or ".")
    return FenceControl(folder, _AsSet(source, Fence.model_validate(state.rules))).lift()


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")
