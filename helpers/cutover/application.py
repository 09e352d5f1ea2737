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

_MARK = 256  # bytes before the position, by which a file is recognised
_CHUNK_BYTES = 8 * 2**20  # read at a time
ONE_REQUEST = 5.0  # seconds for one answer; an application that needs longer is not healthy


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """The answer of a health URL. `body`: its first 4,000 characters; `problem`: "" if it answered 2xx."""

    url: str
    status: int
    milliseconds: float
    body: str = ""
    problem: str = ""

    @property
    def is_healthy(self) -> bool:
        return not self.problem


def restart(rules: Cutover, folder: RunFolder, step: str = Step.CUTOVER) -> list[str]:
    """Run the restart commands in order; return a sentence for each. Output goes to run.log. `Terminal` at the first failure."""
    folder.read().parameters.hide_secrets()  # the files may hold other secrets than when this process began
    results = []
    for command in rules.restart:
        shown = shlex.join(command)
        started = time.monotonic()
        folder.log(f"restart: {shown}", step)
        result = run_or_fail(command, rules.timeout_seconds, "the restart command", "cutover.timeout_seconds")
        folder.log_block(f"restart ended with 0 after {time.monotonic() - started:.1f} s: {shown}", result.tail, step)
        results.append(f"{shown} ended with 0 after {time.monotonic() - started:.1f} s")
    return results


TAKEN, NOT_TAKEN, NOT_TRIED = "taken", "not taken", "not tried"
_CANNOT_RUN = (126, 127)  # exit codes of a shell that could not start the program


@dataclass(frozen=True, slots=True)
class WriteAttempt:
    """The outcome of a write by the application (taken, not taken, not tried), when it was known, and its detail."""

    outcome: str
    when: str = ""
    detail: str = "cutover.write_probe names no program by which the application tries one"

    @property
    def taken(self) -> bool:
        return self.outcome == TAKEN

    @property
    def taken_at(self) -> str:
        return self.when if self.taken else ""


def try_write(rules: Cutover, folder: RunFolder, step: str) -> WriteAttempt:
    """Have the application write one chunk and remove it (`cutover.write_probe`). A program that cannot run proves nothing."""
    if rules.write_probe is None:
        return WriteAttempt(NOT_TRIED)
    try:
        result = run_program(rules.write_probe, rules.timeout_seconds, "the write probe", "cutover.timeout_seconds")
    except Terminal as error:
        attempt = WriteAttempt(NOT_TRIED, utc_now(), error.what)
    else:
        failed_to_run = result.code < 0 or result.code in _CANNOT_RUN
        outcome = NOT_TRIED if failed_to_run else NOT_TAKEN if result.code else TAKEN
        attempt = WriteAttempt(outcome, utc_now(), f"exit code {result.code}: {result.last_line}")
    folder.log(f"write probe, {attempt.outcome}: {attempt.detail}", step)
    audit.append(folder.reports / audit.NAME, "write probe of the application", outcome=attempt.outcome, step=step)
    return attempt


def check_health(url: str) -> HealthAnswer:
    """Send one request to a health URL, and follow redirects. Never raises; `problem` says what failed."""
    import httpx  # which the state of a cutover does not need

    from helpers.stores.wire import Session

    started = time.monotonic()
    try:
        with Session(timeout=ONE_REQUEST, follow_redirects=True) as session:
            answer = session.get(url)
    except (httpx.HTTPError, RunbookError) as error:
        message = one_line(str(error) or type(error).__name__, 200)
        return HealthAnswer(url, 0, (time.monotonic() - started) * 1000, problem=f"no answer: {message}")
    problem = "" if answer.is_success else f"answered {answer.status_code}"
    return HealthAnswer(url, answer.status_code, (time.monotonic() - started) * 1000, answer.text[:4000], problem)


def check_all_health(urls: Sequence[str]) -> list[HealthAnswer]:
    return [check_health(url) for url in urls]


def wait_until_healthy(urls: Sequence[str], seconds: float) -> list[HealthAnswer]:
    """Return the answers once every URL answers 2xx. `EnvironmentFailure` (`not_healthy`) if one does not within `seconds`."""
    from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

    trial = Retrying(
        retry=retry_if_result(lambda answers: any(not a.is_healthy for a in answers)), stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.2, max=2.0), retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
    )  # fmt: skip
    answers: list[HealthAnswer] = trial(check_all_health, urls)
    unhealthy = [a for a in answers if not a.is_healthy]
    if unhealthy:
        raise EnvironmentFailure(ReasonCode.NOT_HEALTHY, f"{unhealthy[0].problem} for {seconds:g} seconds",
                         where=unhealthy[0].url, next_step="See the application's own log.")  # fmt: skip
    return answers


@dataclass(slots=True)
class Evidence:
    """What shows that the application uses the target: its health answers, and connections and open files on this machine.

    `says_target`, `says_source`: the health URLs whose answer names that side. `processes`: those that have the target open.
    """

    says_target: set[str] = field(default_factory=set)
    says_source: set[str] = field(default_factory=set)
    connections: int = 0
    before: int = 0  # connections that were there before the application was switched
    processes: set[str] = field(default_factory=set)

    @classmethod
    def before_the_switch(cls, target: Endpoint) -> Self:
        """Empty evidence; the connections that exist already are not counted later."""
        return cls(before=connections(target.host, target.port) if target.url else 0)

    @property
    def is_present(self) -> bool:
        return bool(self.says_target or self.connections or self.processes)

    def sentence(self) -> str:
        parts = [f"{url} names the target" for url in sorted(self.says_target)]
        parts += [f"{self.connections} connections of other processes to the target"] if self.connections else []
        parts += [f"{name} has it open" for name in sorted(self.processes)]
        return "; ".join(parts)


def gather(into: Evidence, source: Endpoint, target: Endpoint, answers: Sequence[HealthAnswer]) -> None:
    """Add to `into` what health answers, connections and open files show now."""
    for answer in answers:
        if not answer.is_healthy:
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
    """Whether a text names this place: its host with port, or its path, as a whole word."""
    if endpoint.path is not None:
        places = [str(resolve_path(endpoint.path))]
    else:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        places = [f"{host}:{endpoint.port}"]
    return any(stands_alone(body.replace("\\/", "/"), place) for place in places)


def stands_alone(body: str, place: str) -> bool:
    """Whether the text has the place as a whole word: `host:800` is not in `host:8000`, nor `/data/new` in `/data/newer`."""
    at = body.find(place)
    while at >= 0:
        before, after = body[at - 1 : at], body[at + len(place) : at + len(place) + 1]
        if not (before.isalnum() or before in ("-", ".", "_")) and not (after.isalnum() or after in ("-", "_")):
            return True
        at = body.find(place, at + 1)
    return False


def positions(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """The end of each log now, `{path: {inode, size}}`; inode and size 0 if there is no such file yet."""
    ends = {}
    for name in names:
        path = resolve_path(name)
        try:
            facts = path.stat()
        except OSError:
            ends[str(path)] = {"inode": 0, "size": 0}
        else:
            ends[str(path)] = {"inode": facts.st_ino, "size": facts.st_size}
    return ends


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

    def read_new(self) -> None:
        """Append the complete lines written since the last call to `lines`; the unfinished one stays in `torn`."""
        inode = self._inode()
        if self.fd >= 0 and inode != os.fstat(self.fd).st_ino:  # rotated: the rest of the old file first
            self._drain()
            os.close(self.fd)
            self.lines += [self.torn] if self.torn else []
            self.fd, self.position, self.mark, self.torn = -1, 0, b"", b""
        if self.fd < 0:
            if not inode:
                return
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            if inode != self.inode:
                self.position = 0
            self.inode = inode
        size = os.fstat(self.fd).st_size
        if size < self.position or self._is_rewritten():
            self.position, self.torn, self.mark = 0, b"", b""
        self._drain()

    def _inode(self) -> int:
        try:
            facts = self.path.stat()
        except OSError:
            return 0
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would block
            raise OSError(errno.EINVAL, "it is no plain file")
        return facts.st_ino

    def _is_rewritten(self) -> bool:
        """Whether the bytes before the position are not those that were read: the file was truncated and has grown again."""
        return bool(self.mark) and os.pread(self.fd, len(self.mark), self.position - len(self.mark)) != self.mark

    def _drain(self) -> None:
        while part := os.pread(self.fd, _CHUNK_BYTES, self.position):
            self.position += len(part)
            *whole, self.torn = (self.torn + part).split(b"\n")
            self.lines += whole
            self.mark = (self.mark + part)[-_MARK:]
        if not self.mark and self.position:
            start = max(0, self.position - _MARK)
            self.mark = os.pread(self.fd, self.position - start, start)


class LogWatch:
    """Follows logs from `since`, their `positions` at some moment. `line_count`: new lines; `matches`: those that match."""

    def __init__(self, since: Mapping[str, Mapping[str, int]], pattern: str) -> None:
        self._logs = [_Log(Path(path), at["inode"], at["size"]) for path, at in since.items()]
        self._pattern = re.compile(pattern)
        self.unreadable: dict[str, str] = {}
        self.line_count = 0
        self.matches: list[tuple[str, str]] = []

    def new_matches(self, *, last: bool = False) -> list[tuple[str, str]]:
        """Read what is new; return (path, line) of the lines that match. With `last`, an unfinished line counts too."""
        matches = []
        for log in self._logs:
            try:
                log.read_new()
            except OSError as error:
                self.unreadable[str(log.path)] = error.strerror or str(error)
                continue
            lines, log.lines = log.lines, []
            if last and log.torn:
                lines, log.torn = [*lines, log.torn], b""
            self.line_count += len(lines)
            for raw in lines:
                text = raw.decode("utf-8", "replace").rstrip("\r")
                if self._pattern.search(text):
                    matches.append((str(log.path), masked(text)))
        self.matches += matches
        return matches

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
    """A configuration file: `path` as named, `real` with links followed, its backup, and the SHA-256 before and after."""

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
        """Its content now: `before`, `after`, or `changed` if somebody else changed the file, or a link that leads to it."""
        try:
            moved = str(Path(self.path).resolve(strict=True)) != self.real
        except (OSError, RuntimeError):
            moved = True
        digest = "" if moved else digest_of(Path(self.real))
        return "before" if digest == self.before else "after" if digest == self.after else "changed"


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
    def clients_came(self) -> bool:
        """Whether clients may have used the target: it began to change files, even if it was undone since."""
        return any(event["state"] == APPLYING for event in self.events)

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

    def status(self, *, rehearsal: bool) -> str:
        """For status: the state, and who was switched once it is done."""
        return f"{self.sentence()} {self.clients(rehearsal=rehearsal) if self.is_done else ''}".strip()

    def refuse_changed(self) -> None:
        """`Terminal` (`config_changed`) if a file is neither as it was nor as the cutover changed it."""
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
        words = {
            DONE: "is done",
            REVERTED: "was undone: every configuration file is as before",
            REVERTING: "is being undone, or a process ended while it did so",
        }
        state = words.get(self.state, f"is under way, or a process ended in it ({self.state})")
        return f"The cutover to {self.target} {state} since {self.events[-1]['when'][:19]} UTC."


def clients_came(workspace: Path) -> bool:
    """Whether clients may have used the target: a cutover of this run began to change files, be it undone and set aside since."""
    state = CutoverState.load(workspace)
    return (state is not None and state.clients_came) or any(workspace.glob(f"{RunPath.EARLIER}/*/{RunPath.CUTOVER}"))


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
    """Undo the cutover of this run; return what was done, in sentences. A repeated call does the rest, also after a kill.

    Call it in the folder in which the run began (`RunFolder.enter`), with the run's lock held: the restart commands work there.
    Restores every file byte for byte with its mode and owner, runs the restart commands, and waits for health. Changes nothing if
    somebody else changed a file since (`Terminal`, `config_changed`). `EnvironmentFailure` if a restart or a health URL fails:
    the files are restored by then, and a repeated call goes on from there.
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
    results = []
    for file in state.files:
        changed = _file_back(file, folder.id)
        results.append(f"{file.path} {'is byte for byte as it was' if changed else 'was as before'}")
    rules = state.cutover
    results += restart(rules, folder, step)
    results += [f"{a.url} answers {a.status}" for a in wait_until_healthy(rules.health, rules.timeout_seconds)]
    _clear(state, folder)
    state.enter(folder.workspace, REVERTED)
    audit.append(log, "cutover taken back", files={f.path: f.before for f in state.files})
    folder.log("cutover taken back: " + "; ".join(results), step)
    return results or ["The cutover had changed no file and restarted nothing."]


def _file_back(file: ChangedFile, run_id: str) -> bool:
    """Restore one file from its backup; return whether it had changed."""
    real, backup = Path(file.real), Path(file.backup)
    if file.now == "before":
        return False
    if digest_of(backup) != file.before:
        raise Terminal(ReasonCode.BACKUP_DAMAGED, "is not the backup that the cutover made", where=str(backup),
                       next_step=f"Put {file.path} back by hand from a backup of your own.")  # fmt: skip
    content = backup.read_bytes()
    put_in_place(stage(real, content, run_id, mode=file.mode, uid=file.uid, gid=file.gid), real, file.after)
    return True


def _clear(state: CutoverState, folder: RunFolder) -> None:
    """Remove temporary files that a kill may have left beside the files."""
    for file in state.files:
        beside(Path(file.real), folder.id).unlink(missing_ok=True)
