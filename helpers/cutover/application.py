"""The application: its restart, its health, its logs through rotation and truncation, and whether it uses the target."""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from helpers import audit
from helpers.audit import operator
from helpers.cutover.files import beside, digest_of, put_in_place, stage
from helpers.errors import EnvironmentFailure, RunbookError, Terminal, one_line
from helpers.formatting import count, masked
from helpers.parameters import Endpoint, resolve_path
from helpers.parameters.sections import Cutover
from helpers.reason_codes import ReasonCode
from helpers.results import StateFile, section, utc_now
from helpers.run.command import connections, run_or_fail, run_program, used_by
from helpers.run.folders import RunFolder, RunPath
from helpers.run.plan import Step

_MARK = 256  # bytes before the position by which a file is known again
_AT_ONCE = 8 * 2**20  # bytes read in one look
ONE_REQUEST = 5.0  # seconds for one answer; an application that needs longer is not well


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What a health URL said. `body` is its beginning; `problem` is "" where it answered 2xx."""

    url: str
    status: int
    milliseconds: float
    body: str = ""
    problem: str = ""

    @property
    def well(self) -> bool:
        return not self.problem


def restart(rules: Cutover, folder: RunFolder, step: str = Step.CUTOVER) -> list[str]:
    """Run the restart commands in their order; a sentence each. Output goes to run.log; `Terminal` at the first that fails."""
    folder.read().parameters.hide_secrets()  # the files hold others now than when this process began
    said = []
    for command in rules.restart:
        shown = shlex.join(command)
        begun = time.monotonic()
        folder.log(f"restart: {shown}", step)
        done = run_or_fail(command, rules.timeout_seconds, "the restart command", "cutover.timeout_seconds")
        folder.log_block(f"restart ended with 0 after {time.monotonic() - begun:.1f} s: {shown}", done.tail, step)
        said.append(f"{shown} ended with 0 after {time.monotonic() - begun:.1f} s")
    return said


TAKEN, NOT_TAKEN, NOT_TRIED = "taken", "not taken", "not tried"
_CANNOT_RUN = (126, 127)  # exit codes of a shell that could not start the program


@dataclass(frozen=True, slots=True)
class WriteTried:
    """What became of a write that the application was asked for (taken, not taken, not tried), when that was known, and why."""

    outcome: str
    when: str = ""
    said: str = "cutover.write_probe names no program by which the application tries one"

    @property
    def taken(self) -> bool:
        return self.outcome == TAKEN

    @property
    def taken_at(self) -> str:
        return self.when if self.taken else ""


def try_write(rules: Cutover, folder: RunFolder, step: str) -> WriteTried:
    """Have the application write one chunk and remove it (`cutover.write_probe`). A program that does not run proves nothing."""
    if rules.write_probe is None:
        return WriteTried(NOT_TRIED)
    try:
        done = run_program(rules.write_probe, rules.timeout_seconds, "the write probe", "cutover.timeout_seconds")
    except Terminal as error:
        tried = WriteTried(NOT_TRIED, utc_now(), error.what)
    else:
        broken = done.code < 0 or done.code in _CANNOT_RUN
        outcome = NOT_TRIED if broken else NOT_TAKEN if done.code else TAKEN
        tried = WriteTried(outcome, utc_now(), f"exit code {done.code}: {done.last_line}")
    folder.log(f"write probe, {tried.outcome}: {tried.said}", step)
    audit.append(folder.reports / audit.NAME, "write probe of the application", outcome=tried.outcome, step=step)
    return tried


def ask(url: str) -> HealthAnswer:
    """One request to a health URL; never raises. Redirects are followed."""
    import httpx  # which the state of a cutover does not need

    from helpers.stores.wire import Session

    begun = time.monotonic()
    try:
        with Session(timeout=ONE_REQUEST, follow_redirects=True) as session:
            answer = session.get(url)
    except (httpx.HTTPError, RunbookError) as error:
        said = one_line(str(error) or type(error).__name__, 200)
        return HealthAnswer(url, 0, (time.monotonic() - begun) * 1000, problem=f"no answer: {said}")
    problem = "" if answer.is_success else f"answered {answer.status_code}"
    return HealthAnswer(url, answer.status_code, (time.monotonic() - begun) * 1000, answer.text[:4000], problem)


def ask_all(urls: Sequence[str]) -> list[HealthAnswer]:
    return [ask(url) for url in urls]


def wait_until_well(urls: Sequence[str], seconds: float) -> list[HealthAnswer]:
    """The answers once every URL answers 2xx. `EnvironmentFailure` (`not_healthy`) where one does not within so many seconds."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

    trial = Retrying(
        retry=retry_if_result(lambda answers: any(not a.well for a in answers)), stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.2, max=2.0), retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
    )  # fmt: skip
    answers: list[HealthAnswer] = trial(ask_all, urls)
    ill = [a for a in answers if not a.well]
    if ill:
        raise EnvironmentFailure(ReasonCode.NOT_HEALTHY, f"{ill[0].problem} for {seconds:g} seconds", where=ill[0].url,
                         next_step="See the application's own log.")  # fmt: skip
    return answers


@dataclass(slots=True)
class Evidence:
    """What shows that the application uses the target: what it says itself, and connections and open files seen here.

    `says_target` and `says_source` are health URLs whose answer names that side.
    """

    says_target: set[str] = field(default_factory=set)
    says_source: set[str] = field(default_factory=set)
    connections: int = 0
    before: int = 0  # connections that were there before the application was switched
    processes: set[str] = field(default_factory=set)

    @classmethod
    def before_the_switch(cls, target: Endpoint) -> Self:
        """Nothing is seen yet; connections that are there already will show nothing."""
        return cls(before=connections(target.host, target.port) if target.url else 0)

    @property
    def seen(self) -> bool:
        return bool(self.says_target or self.connections or self.processes)

    def sentence(self) -> str:
        said = [f"{url} names the target" for url in sorted(self.says_target)]
        said += [f"{self.connections} connections of other processes to the target"] if self.connections else []
        said += [f"{name} has it open" for name in sorted(self.processes)]
        return "; ".join(said)


def gather(into: Evidence, source: Endpoint, target: Endpoint, answers: Sequence[HealthAnswer]) -> None:
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
    if used := used_by(target):
        into.processes |= set(used.split(", "))
    elif target.url and (target.host, target.port) != (source.host, source.port):  # else old connections would count
        into.connections = max(into.connections, connections(target.host, target.port) - into.before)


def _names(body: str, endpoint: Endpoint) -> bool:
    """Whether a text names this place: its URL, its host with port, or its path as a whole word."""
    if endpoint.path is not None:
        places = [str(resolve_path(endpoint.path))]
    else:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        places = [f"{host}:{endpoint.port}"]
    return any(stands_alone(body.replace("\\/", "/"), place) for place in places)


def stands_alone(body: str, place: str) -> bool:
    """`host:800` does not stand in `host:8000`, nor `/data/new` in `/data/newer`."""
    at = body.find(place)
    while at >= 0:
        before, after = body[at - 1 : at], body[at + len(place) : at + len(place) + 1]
        if not (before.isalnum() or before in ("-", ".", "_")) and not (after.isalnum() or after in ("-", "_")):
            return True
        at = body.find(place, at + 1)
    return False


def positions(named: Sequence[str]) -> dict[str, dict[str, int]]:
    """Where each log ends now: `{path: {inode, size}}`; inode 0 where there is none yet."""
    found = {}
    for name in named:
        path = resolve_path(name)
        try:
            facts = path.stat()
        except OSError:
            found[str(path)] = {"inode": 0, "size": 0}
        else:
            found[str(path)] = {"inode": facts.st_ino, "size": facts.st_size}
    return found


@dataclass(slots=True)
class _Log:
    """One file that is followed. `fd` stays open, so what was written just before a rotation is still read."""

    path: Path
    inode: int
    position: int
    fd: int = -1
    mark: bytes = b""
    torn: bytes = b""
    lines: list[bytes] = field(default_factory=list)

    def look(self) -> None:
        """Read what is new."""
        now = self._inode()
        if self.fd >= 0 and now != os.fstat(self.fd).st_ino:  # rotated: the rest of the old file first
            self._drain()
            os.close(self.fd)
            self.lines += [self.torn] if self.torn else []
            self.fd, self.position, self.mark, self.torn = -1, 0, b"", b""
        if self.fd < 0:
            if not now:
                return
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            if now != self.inode:
                self.position = 0
            self.inode = now
        size = os.fstat(self.fd).st_size
        if size < self.position or self._other_text():
            self.position, self.torn, self.mark = 0, b"", b""
        self._drain()

    def _inode(self) -> int:
        try:
            facts = self.path.stat()
        except OSError:
            return 0
        if not stat.S_ISREG(facts.st_mode):  # a pipe would hold us
            raise OSError(errno.EINVAL, "it is no plain file")
        return facts.st_ino

    def _other_text(self) -> bool:
        """Whether the bytes before the position are not those that were read: truncated, and grown again."""
        return bool(self.mark) and os.pread(self.fd, len(self.mark), self.position - len(self.mark)) != self.mark

    def _drain(self) -> None:
        while part := os.pread(self.fd, _AT_ONCE, self.position):
            self.position += len(part)
            *whole, self.torn = (self.torn + part).split(b"\n")
            self.lines += whole
            self.mark = (self.mark + part)[-_MARK:]
        if not self.mark and self.position:
            start = max(0, self.position - _MARK)
            self.mark = os.pread(self.fd, self.position - start, start)


class LogWatch:
    """Follows the logs from the positions that were noted before the restart."""

    def __init__(self, since: Mapping[str, Mapping[str, int]], pattern: str) -> None:
        self._logs = [_Log(Path(path), at["inode"], at["size"]) for path, at in since.items()]
        self._pattern = re.compile(pattern)
        self.unreadable: dict[str, str] = {}
        self.seen = 0
        self.matches: list[tuple[str, str]] = []

    def look(self, *, last: bool = False) -> list[tuple[str, str]]:
        """(path, line) of the new lines that match; with `last` an unfinished line counts too."""
        found = []
        for log in self._logs:
            try:
                log.look()
            except OSError as error:
                self.unreadable[str(log.path)] = error.strerror or str(error)
                continue
            lines, log.lines = log.lines, []
            if last and log.torn:
                lines, log.torn = [*lines, log.torn], b""
            self.seen += len(lines)
            for raw in lines:
                text = raw.decode("utf-8", "replace").rstrip("\r")
                if self._pattern.search(text):
                    found.append((str(log.path), masked(text)))
        self.matches += found
        return found

    def close(self) -> None:
        for log in self._logs:
            if log.fd >= 0:
                os.close(log.fd)
                log.fd = -1


# -- state -------------------------------------------------------------------------------------------------------------
#
# workspace/<run id>/cutover.json: which files the cutover changes and how far it came. On disk before anything is touched.
#
# The states in order: planned → backed up → applying → applied → restarted → watching → done; from any of them, when it goes
# wrong or is taken back, reverting → reverted. What a killed process leaves is finished by the next one, or undone.


PLANNED, BACKED_UP, APPLYING, APPLIED = "planned", "backed up", "applying", "applied"
RESTARTED, WATCHING, DONE = "restarted", "watching", "done"
REVERTING, REVERTED = "reverting", "reverted"


@dataclass(slots=True)
class ChangedFile:
    """One configuration file: its place, its backup, and the SHA-256 that it had before and has after."""

    path: str
    real: str
    backup: str
    before: str
    after: str
    mode: int
    uid: int
    gid: int

    @property
    def now(self) -> str:
        """`before`, `after`, or `changed` where somebody else has been at the file (or at the link that led to it)."""
        try:
            moved = str(Path(self.path).resolve(strict=True)) != self.real
        except (OSError, RuntimeError):
            moved = True
        found = "" if moved else digest_of(Path(self.real))
        return "before" if found == self.before else "after" if found == self.after else "changed"


@dataclass(slots=True)
class CutoverState(StateFile):
    """The cutover of one run. `rules` are the parameters that it was begun with: it is taken back with these."""

    file = RunPath.CUTOVER
    damaged = ReasonCode.CUTOVER_STATE_DAMAGED
    remedy = f"The files as they were lie in {{folder}}/{RunPath.CONFIGURATION}; set this file aside."

    state: str = PLANNED
    target: str = ""
    since: str = ""
    by: str = ""
    files: list[ChangedFile] = field(default_factory=list)
    rules: Annotated[dict[str, Any], section(Cutover)] = field(default_factory=dict)
    logs: dict[str, dict[str, int]] = field(default_factory=dict)
    why_reverted: str = ""
    collections: list[str] | None = None
    """The target's, just before clients were sent there: what is there beside them later, clients made."""
    events: list[dict[str, str]] = field(default_factory=list)

    def enter(self, workspace: Path, state: str) -> None:
        """Go over to this state, on disk before anything else happens."""
        self.state = state
        self.events.append({"when": utc_now(), "by": operator(), "state": state})
        self.save(workspace)

    @property
    def cutover(self) -> Cutover:
        """The section of the parameters that it was begun with."""
        return Cutover.model_validate(self.rules)

    @property
    def may_be_applied(self) -> bool:
        """Whether a file may differ from what it was, or the application may have been restarted on the new ones."""
        return self.state not in (PLANNED, BACKED_UP, REVERTED)

    @property
    def is_done(self) -> bool:
        return self.state == DONE

    @property
    def switches(self) -> bool:
        """Whether it sends clients to the target: it changes a file or runs a command."""
        return bool(self.files or self.cutover.restart)

    def clients(self, *, rehearsal: bool) -> str:
        """Who was sent to the target, in a sentence."""
        return clients_switched(self.target, len(self.files), len(self.cutover.restart), rehearsal=rehearsal)

    def told(self, *, rehearsal: bool) -> str:
        """For status: the state, and once it is done who was switched."""
        return f"{self.sentence()} {self.clients(rehearsal=rehearsal) if self.is_done else ''}".strip()

    def refuse_changed(self) -> None:
        """`Terminal` (`config_changed`) where a file is neither as it was nor as the cutover made it."""
        changed = [file for file in self.files if file.now == "changed"]
        if changed:
            file = changed[0]
            raise Terminal(
                ReasonCode.CONFIG_CHANGED, "was changed by somebody else since the cutover began and is not overwritten",
                where=file.path,
                next_step=f"Compare it with {file.backup}, make it as it was, and repeat; nothing was put back yet.",
            )  # fmt: skip

    def sentence(self) -> str:
        """For status: `The cutover to … is done since …`."""
        said = {
            DONE: "is done",
            REVERTED: "was undone: every configuration file is as before",
            REVERTING: "is being undone, or a process ended while it did so",
        }
        words = said.get(self.state, f"is under way, or a process ended in it ({self.state})")
        return f"The cutover to {self.target} {words} since {self.events[-1]['when'][:19]} UTC."


def clients_switched(target: str, files: int, restarts: int, *, rehearsal: bool) -> str:
    """Who was sent to the target: the one sentence of pages, records, notices and status."""
    done = [count(files, "configuration file") + " changed"] * bool(files)
    done += [count(restarts, "restart command") + " run"] * bool(restarts)
    if not done:
        return (
            f"No clients were switched to {target}: no configuration file was changed and no restart command was run."
        )
    who = "The sample application of this rehearsal" if rehearsal else "The application"
    return f"{who} was switched to {target}: {', '.join(done)}.{' No other client was touched.' if rehearsal else ''}"


def source_takes_writes(source: str, target: str) -> str:
    """Who may write where while the write fence is lifted and the application uses the target: words of pages and notices."""
    return (
        f"Who may write where: every client to {target}, none to {source}. The write fence is lifted: writes to the source are "
        "no longer refused; what is still written to it does not reach the target, and a rollback finds two histories."
    )


def put_back(folder: RunFolder, why: str = "", step: str = Step.CUTOVER) -> list[str]:
    """Take the cutover of this run back; what was done, in sentences. Repeating it, also after a kill, does the rest.

    To be called in the folder in which the run began (`RunFolder.enter`), with the run's lock held: the restart commands
    work there. Every file byte for byte with its mode and owner, then the restart commands, then health. Nothing is
    touched where a file was changed by somebody else since (`Terminal`, `config_changed`). `EnvironmentFailure` where a restart
    or a health URL fails: the files are back by then, and repeating goes on from there.
    """
    state = CutoverState.load(folder.workspace)
    if state is None:
        return [f"Run {folder.id} has cut nothing over; there is nothing to put back."]
    if state.state == REVERTED:
        return ["The configuration files were put back already."]
    if state.state in (PLANNED, BACKED_UP):
        _clear(state, folder)
        state.enter(folder.workspace, REVERTED)
        return ["No configuration file had been changed yet."]
    state.refuse_changed()
    log = folder.reports / audit.NAME
    audit.append(log, "cutover taken back", outcome="begun", why=why, files=[f.path for f in state.files])
    state.why_reverted = why or state.why_reverted
    state.enter(folder.workspace, REVERTING)
    said = []
    for file in state.files:
        changed = _file_back(file, folder.id)
        said.append(f"{file.path} {'is byte for byte as it was' if changed else 'was as before'}")
    rules = state.cutover
    said += restart(rules, folder, step)
    said += [f"{a.url} answers {a.status}" for a in wait_until_well(rules.health, rules.timeout_seconds)]
    _clear(state, folder)
    state.enter(folder.workspace, REVERTED)
    audit.append(log, "cutover taken back", files={f.path: f.before for f in state.files})
    folder.log("cutover taken back: " + "; ".join(said), step)
    return said or ["The cutover had changed no file and restarted nothing."]


def _file_back(file: ChangedFile, run_id: str) -> bool:
    """Put one file back from its backup; whether it had to be."""
    real, backup = Path(file.real), Path(file.backup)
    if file.now == "before":
        return False
    if digest_of(backup) != file.before:
        raise Terminal(ReasonCode.BACKUP_DAMAGED, "is not the file that was kept", where=str(backup),
                       next_step=f"Put {file.path} back by hand from a backup of your own.")  # fmt: skip
    content = backup.read_bytes()
    put_in_place(stage(real, content, run_id, mode=file.mode, uid=file.uid, gid=file.gid), real, file.after)
    return True


def _clear(state: CutoverState, folder: RunFolder) -> None:
    """Take away what a kill may have left beside the files."""
    for file in state.files:
        beside(Path(file.real), folder.id).unlink(missing_ok=True)
