"""The two folders of a run, reports/<id> and workspace/<id>: ids, creation, state, locks, files of earlier executions."""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import io
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self, TypeVar, TypeVarTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from helpers import audit
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError, UsageError, one_line
from helpers.formatting import flatten
from helpers.parameters import NOT_YAML, RESUMABLE, Parameters, parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import (
    MOST_READ,
    StepResult,
    append,
    contents,
    file_digest,
    flush_folder,
    json_in,
    json_text,
    naming,
    private,
    reading,
    utc_now,
    write_text,
)  # fmt: skip
from helpers.run.plan import Step

workspace_root, REPOSITORY = audit.workspace_root, audit.REPOSITORY
NOTEBOOKS = REPOSITORY / "notebooks"
LONGEST_ID = 64
PRIVATE_FOLDER = 0o700  # the folders hold data of the source; the operator may give others access
GROUP, FLEETS = "group.json", "fleets"  # a group has group.json in place of run.json; a folder for each fleet
_OURS = rf"snapshots|sample|{FLEETS}|runner_key.*|(index|readme)\..*"
_ID = re.compile(rf"(?a)(?!(?i:{_OURS})\Z)[^\W_][\w.-]{{0,{LONGEST_ID - 1}}}")
_MOST_PARAMETERS = 2**20  # bytes
_DEEP = re.compile(r"(?:[\[{][^\[\]{}]{0,40}){65}")  # the YAML reader's time grows with the square of the levels
FINDINGS, SEARCHES, CHANGED = "11_findings.csv.gz", "23_searches.csv.gz", "22_changes.csv.gz"
QUARANTINED, QUARANTINED_LAST = "22_quarantine.jsonl.gz", "25_quarantine.jsonl.gz"  # 25: all, if step 25 changed any
_DOCUMENTS = {
    Step.EXPLORE_SOURCE: (FINDINGS,), Step.VALIDATE: (SEARCHES,), Step.MIGRATE: (QUARANTINED, CHANGED),
    Step.CUTOVER: (QUARANTINED_LAST,), Step.CLOSEOUT: ("CHROMADB_MIGRATION_*.md",),
}  # fmt: skip  # further files of a step, invalid once the step runs again
_secrets_hidden: set[tuple[Path, Path]] = set()  # (reports, current folder) of runs whose secrets this process hides
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_NEVER_CHANGES = "a run goes on only with the source, target, schema, collections and id policy that it began with"


def reports_root() -> Path:
    """The folder of all runs' reports: RUNBOOK_REPORTS, or reports/ beside the package."""
    return Path(os.environ.get("RUNBOOK_REPORTS") or REPOSITORY / "reports").absolute()


def check_run_id(run_id: str) -> str:
    """Return the id; UsageError if it is not a safe name of a folder."""
    if _ID.fullmatch(run_id) and ".." not in run_id and not run_id.endswith("."):
        return run_id
    raise UsageError(
        ReasonCode.BAD_RUN_ID, f"{run_id!r} cannot be the id of a run",
        next_step="Use 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first, no '..', no name of ours (snapshots).",
    )  # fmt: skip


def new_run_id(name: str) -> str:
    """A new id: the name as a slug and the time (UTC). Neither folder of it exists yet."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "run"
    first = f"{slug}-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    candidates = [first, *(f"{first}-{n}" for n in range(2, 1000))]
    return next(c for c in candidates if not any((root / c).exists() for root in (reports_root(), workspace_root())))


class RunPath(StrEnum):
    """Names in the two folders of a run; docs/architecture.md and reports/README.md describe each."""

    # reports/<run id>
    RUN = "run.json"
    PARAMETERS = "parameters.yaml"
    LOG = "run.log"
    NOTICES = "notices.jsonl"
    PAGE = "index.html"
    VERIFY = "VERIFY.txt"
    RESULTS = "results"
    FIGURES = "figures"
    SIGNOFFS = "signoffs"
    DRILLS = "drills"
    EARLIER = "earlier"  # also in the workspace
    # workspace/<run id>
    CHECKPOINT = "checkpoint.json"
    CHECKPOINT_CHANGES = "checkpoint.jsonl"
    STAGED = "staged"
    QUARANTINE = "quarantine"
    BATCHES = "batches.jsonl"
    CATCH_UP = "catch-up"
    FENCE = "fence.json"
    CUTOVER = "cutover.json"
    CONFIGURATION = "cutover"  # files as they were before the cutover
    ROLLBACK = "rollback.json"
    RETRY = "retry.json"
    NOTIFY = "notify.json"
    CLOSEOUT = "closeout.json"
    MONITORING = "monitoring"
    UNDO = "undo"
    PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The two folders of one run: reports and working files."""

    id: str
    reports: Path
    workspace: Path

    @classmethod
    def of(cls, run_id: str) -> RunFolder:
        check_run_id(run_id)
        return cls(run_id, reports_root() / run_id, workspace_root() / run_id)

    @property
    def exists(self) -> bool:
        return (self.reports / RunPath.RUN).is_file()

    @property
    def log_path(self) -> Path:
        return self.reports / RunPath.LOG

    @property
    def stop_file(self) -> Path:
        """If this file exists, the running step finishes its batch and stops."""
        return self.workspace / "stop"

    def command(self, name: str, *options: str) -> str:
        """The command NAME for this run, with --reports unless its reports are in the default folder."""
        is_default = self.reports.parent == REPOSITORY / "reports"
        run = ["--run-id", self.id] if name == "run" else [self.id]
        reports = [] if is_default else ["--reports", str(self.reports.parent)]
        return shlex.join([RUNBOOK, name, *run, *options, *reports])

    def read(self) -> RunState:
        """A new state, to be read from the files as they are now."""
        return RunState(self.id, self.reports, self.workspace)

    def after(self, result: StepResult) -> RunState:
        """As `read`, with the known result of the step that has just ended."""
        return RunState(self.id, self.reports, self.workspace, {(_read_result, result.step): result})

    def note(self, **facts: Any) -> RunState:
        """Change these facts in run.json and return the new state."""
        content = self.require_own(RunPath.RUN)
        self._replace(RunPath.RUN, content, json_text({**json_in(content), **facts}))
        return self.read()

    def rewrite(self, name: str, text: str) -> None:
        """Replace a file of the reports that may change (`evidence.seals.CHANGING`), atomically.

        Its new digest is logged first: a change that the audit log does not name is never sealed.
        """
        self._replace(name, self.require_own(name), text)

    def require_own(self, name: str, data: bytes | None = None) -> bytes:
        """The bytes of this file of the reports (`data`, if known); b"" if it is missing. UsageError if its digest is not logged.

        Call it before each rewrite: otherwise a foreign change would become part of the toolkit's own file.
        """
        if data is None and not (self.reports / name).is_file():
            return b""
        data = raw(self, name) if data is None else data
        digest, logged = hashlib.sha256(data).hexdigest(), audit.logged_digests(self.reports, name, self.workspace)
        if digest not in logged and (logged or not audit.is_older(self.reports, self.workspace)):
            problem = f"{name} is not what {audit.NAME} last named: something else changed it"
            raise UsageError(
                ReasonCode.SEALED_FILE_CHANGED, problem, where=str(self.reports),
                next_step=f"Put it back as it was; {RUNBOOK} audit {self.id} shows what the toolkit changed.",
            )  # fmt: skip
        if logged and digest != logged[0]:  # the newest logged change was not written
            audit.append(self.reports / audit.NAME, audit.WRITTEN, file=name, sha256=digest)
        return data

    def _replace(self, name: str, content: bytes, text: str) -> None:
        data = text.encode("utf-8", errors="backslashreplace")
        if data != content:
            audit.append(self.reports / audit.NAME, audit.WRITTEN, file=name, sha256=hashlib.sha256(data).hexdigest())
            write_text(self.reports / name, text)

    def log(self, message: str, step: str = "") -> None:
        """One line of run.log: UTC time, step, message (control characters escaped)."""
        self._append(f"{utc_now()} {step or '-'} {one_line(message, 4000)}\n")

    def log_block(self, title: str, text: str, step: str = "") -> None:
        """A text of several lines, such as a traceback, indented under one dated line."""
        lines = "".join(f"    {one_line(line, 4000)}\n" for line in text.splitlines())
        self._append(f"{utc_now()} {step or '-'} {one_line(title, 4000)}\n{lines}")

    def _append(self, text: str) -> None:
        append(self.log_path, text.encode("utf-8", errors="backslashreplace"), log=True)


@dataclass(frozen=True, slots=True)
class RunState(RunFolder):
    """A snapshot of a run's files: each is read once, on first use, and does not change afterwards.

    A command, a notebook and each turn of the pipeline reads one and passes it on. After a write (by a step, a signature,
    changed parameters), take a new one: `read`, or what the writing function returns.
    """

    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    judged: bool = False  # by verification, perhaps elsewhere: open nothing outside of the run's folder

    def once(self, read: Callable[[RunState, *Ts], T], *arguments: *Ts) -> T:
        """`read(self, *arguments)`, computed once for this state. Higher packages use it, too, such as for the seals."""
        key = (read, *arguments)
        if key not in self._known:
            self._known[key] = read(self, *arguments)
        value: T = self._known[key]
        return value

    def with_value(self, read: Callable[[RunState], T], value: T) -> RunState:
        """A copy of this state in which `read` gives `value`: for what was just written."""
        return RunState(self.id, self.reports, self.workspace, {**self._known, (read,): value}, self.judged)

    @property
    def facts(self) -> dict[str, Any]:
        """run.json: id, name, created (UTC), date, rehearsal, dry_run, group (its id or ""), until, directory (base of relative
        paths), parameters_digest, parameters_sha256 (of the file), host, user, versions, commit, changes."""
        return self.once(_read_facts)

    @property
    def text(self) -> str:
        """The text of parameters.yaml."""
        return self.once(_read_text)

    @property
    def document(self) -> dict[str, Any]:
        """The mapping in parameters.yaml; EnvironmentFailure if it holds none."""
        return self.once(_read_document)

    @property
    def parameters(self) -> Parameters:
        """The parameters as resolved when the run began, with later changes by `resume --set`."""
        parameters = self.once(_read_parameters)
        place = self.reports, Path.cwd()  # relative paths depend on the current folder
        if not self.judged and place not in _secrets_hidden and self.workspace.is_dir():  # else it was received
            _secrets_hidden.add(place)
            parameters.hide_secrets()
        return parameters

    def result(self, step: str) -> StepResult | None:
        """The step's result; None if it has none."""
        return self.once(_read_result, step)

    def is_of(self, parameters: Parameters) -> bool:
        """Whether the run began in the current folder with the same source, target and schema."""
        if self.facts["directory"] != str(Path.cwd()):
            return False
        try:
            return self.parameters.context() == parameters.context()
        except RunbookError:  # written by another version of the toolkit
            return False

    def enter(self) -> None:
        """Change to the folder in which the run began: relative paths of its parameters start there."""
        directory = self.facts["directory"]
        try:
            os.chdir(directory)
        except OSError as error:
            problem = f"run {self.id} began in a folder that cannot be entered: {error.strerror}"
            raise EnvironmentFailure(ReasonCode.FOLDER_GONE, problem, where=directory) from error


def raw(run: RunFolder, name: str) -> bytes:
    """The bytes of a file of the reports that may change."""
    with reading(path := run.reports / name):
        return contents(path, _MOST_PARAMETERS if name == RunPath.PARAMETERS else MOST_READ)


def _read_facts(run: RunState) -> dict[str, Any]:
    with reading(run.reports / RunPath.RUN):
        facts = dict(json_in(run.once(raw, RunPath.RUN)))
        if "\0" in facts["date"] + facts["directory"] or not isinstance(facts["name"] + facts["until"], str):
            raise ValueError("a text with a null")
        _ = facts["rehearsal"], facts["dry_run"], dt.datetime.fromisoformat(facts["created"])
        return facts


def _read_text(run: RunState) -> str:
    with reading(run.reports / RunPath.PARAMETERS):
        return run.once(raw, RunPath.PARAMETERS).decode()


def _read_document(run: RunState) -> dict[str, Any]:
    path = str(run.reports / RunPath.PARAMETERS)
    try:
        return deepcopy(_mapping(run.text))
    except NOT_YAML as error:
        raise EnvironmentFailure(ReasonCode.PARAMETERS_UNREADABLE, "holds no parameters of ours", where=path) from error


@lru_cache(8)  # parsing takes a tenth of a second
def _mapping(text: str) -> dict[str, Any]:
    if _DEEP.search(text):
        raise YAMLError
    # `parameters_text` writes no aliases, which could expand to any number of values
    aliases = "*" in text and any(isinstance(event, AliasEvent) for event in YAML(typ="safe").parse(text))
    if aliases or not isinstance(document := YAML(typ="safe").load(text), dict):
        raise YAMLError
    return document


def _read_parameters(run: RunState) -> Parameters:
    return parameters_from(run.document, elsewhere=run.judged)


def _read_result(run: RunFolder, step: str) -> StepResult | None:
    path = run.reports / RunPath.RESULTS / f"{step}.json"
    return StepResult.read(path, run.id) if path.is_file() else None


def find(run_id: str) -> RunState:
    """The run of this id; UsageError with the newest runs if it does not exist."""
    folder = RunFolder.of(run_id)
    if folder.exists:
        return folder.read()
    if (folder.reports / GROUP).is_file():
        with reading(folder.reports / GROUP):
            rows = json_in(contents(folder.reports / GROUP))["rows"]
            examples = ", ".join(row["run"] for row in rows[:3])
        raise UsageError(ReasonCode.GROUP_OF_RUNS, f"{run_id} is a group of {len(rows)} runs, and this wants one of them",
                         next_step=f"Name one, such as {examples}; status, resume and sign take the group.")  # fmt: skip
    newest = ", ".join(f.id for f in every_run()[:5])
    raise UsageError(
        ReasonCode.NO_SUCH_RUN, f"there is no run {run_id}", where=str(reports_root()),
        next_step=f"The newest runs are: {newest}." if newest else "No run has been started there yet.",
    )  # fmt: skip


def every_run() -> list[RunState]:
    """Every run in the reports folder with a readable run.json, newest first; `damaged_runs` has the others."""
    readable = [folder for folder, error in _folders() if error is None]
    return sorted(readable, key=lambda f: str(f.facts["created"]), reverse=True)


def damaged_runs() -> dict[RunState, RunbookError]:
    """The runs in the reports folder whose run.json cannot be read, each with its error."""
    return {folder: error for folder, error in _folders() if error is not None}


def _folders() -> Iterator[tuple[RunState, RunbookError | None]]:
    for name in sorted(p.parent.name for p in reports_root().glob("*/run.json") if _ID.fullmatch(p.parent.name)):
        folder, damage = RunFolder.of(name).read(), None
        try:
            _ = folder.facts
        except RunbookError as error:
            damage = error
        yield folder, damage


def create(
    parameters: Parameters, run_id: str = "", *, rehearsal: bool = False, dry_run: bool = False, until: str = "", group: str = ""
) -> RunState:  # fmt: skip
    """Create the folders of a new run, atomically. `group`: the id of its group, if any. UsageError if the id is taken."""
    folder = RunFolder.of(run_id or new_run_id(parameters.name))
    if parameters.signoff.required:
        audit.program()  # needed for seals and for the log's signatures
    created, text = utc_now(), parameters_text(parameters.refuse_open_secrets())
    facts = {
        "id": folder.id,
        "name": parameters.name,
        "created": created,
        "date": created[:10],
        "rehearsal": rehearsal,
        "dry_run": dry_run,
        "group": group,
        "until": until,
        "directory": str(Path.cwd()),
        "parameters_digest": parameters.digest(),
        "parameters_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "host": socket.gethostname(),
        "user": audit.user(),
        "versions": audit.versions(),
        "commit": audit.commit(),
        "changes": [],
    }
    for name, folder_path in (
        ("the reports folder", folder.reports.parent),
        ("the workspace", folder.workspace.parent),
        ("snapshot.directory", parameters.snapshot.folder),
    ):
        _require_writable(name, folder_path)
    try:
        folder.reports.parent.mkdir(parents=True, exist_ok=True)
        folder.workspace.parent.mkdir(parents=True, exist_ok=True)
        folder.workspace.mkdir(exist_ok=True, mode=PRIVATE_FOLDER)
        # the last part is the run's id, which the signatures of its log cover
        temporary = folder.reports.with_name(f".{folder.id}.{uuid.uuid4().hex[:8]}.tmp") / folder.id
        for part in (temporary.parent, temporary, temporary / RunPath.RESULTS, temporary / RunPath.FIGURES):
            part.mkdir(mode=PRIVATE_FOLDER)
        write_text(temporary / RunPath.PARAMETERS, text)
        write_text(temporary / RunPath.RUN, json_text(facts))
        digests = {name: file_digest(temporary / name) for name in (RunPath.RUN, RunPath.PARAMETERS)}
        first = audit.append(temporary / audit.NAME, audit.BEGUN, digests=digests)
        _claim(temporary, folder)
        write_text(folder.workspace / audit.FIRST_LINE, f"{first}\n")
        flush_folder(folder.reports.parent)
    except OSError as error:
        problem = f"the folders of run {folder.id} cannot be made: {error}"
        raise EnvironmentFailure(ReasonCode.FOLDER_UNWRITABLE, problem, where=str(folder.reports)) from error
    return folder.read()


def _require_writable(name: str, folder: Path) -> None:
    """EnvironmentFailure unless files can be created in this folder, or in its nearest existing parent. Leaves nothing there."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".runbook-", dir=existing)).rmdir()
    except OSError as error:
        raise EnvironmentFailure(
            ReasonCode.FOLDER_UNWRITABLE, f"{name} cannot be made or written to: {existing}: {error.strerror}", where=str(folder),
            next_step="Name another folder (RUNBOOK_REPORTS, RUNBOOK_WORKSPACE, snapshot.directory), or correct its permissions.",
        ) from error  # fmt: skip


def _claim(temporary: Path, folder: RunFolder) -> None:
    try:
        if folder.reports.exists():
            raise FileExistsError
        temporary.rename(folder.reports)
        temporary.parent.rmdir()
    except OSError as error:
        shutil.rmtree(temporary.parent)
        if not folder.reports.exists():
            raise
        raise id_taken(folder) from error


def id_taken(folder: RunFolder) -> UsageError:
    """The error for a run id that is already in use."""
    return UsageError(
        ReasonCode.RUN_EXISTS, f"run {folder.id} exists already", where=str(folder.reports),
        next_step=f"Go on with it: {folder.command('resume')}; or run a part again: --run-id {folder.id} --from STEP.",
    )  # fmt: skip


def parameters_text(parameters: Parameters) -> str:
    """The text of parameters.yaml: all values, defaults included; secrets as references."""
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style, yaml.width = False, 120
    yaml.dump(parameters.document(), text)
    return text.getvalue()


def change_parameters(folder: RunFolder, new: Parameters) -> list[str]:
    """Change a run's parameters, record it, and return the changed keys. UsageError if the context differs."""
    folder.require_own(RunPath.PARAMETERS)
    run = folder.read()
    if not Path.cwd().samefile(directory := run.facts["directory"]):
        problem = f"run {folder.id} was begun in the folder {directory}"
        raise UsageError(ReasonCode.OTHER_FOLDER, problem, next_step="Work from there.")
    new.refuse_open_secrets(old := run.parameters)
    before, after = flatten(old.context()), flatten(new.context())
    if different := sorted(k for k in {*before, *after} if before.get(k) != after.get(k)):
        raise UsageError(
            ReasonCode.OTHER_CONTEXT, f"run {folder.id} was begun with another {', '.join(different)}",
            next_step=f"Use a new run id; {_NEVER_CHANGES}.",
        )  # fmt: skip
    before, after = flatten(old.document()), flatten(new.document())
    changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
    fixed = [k for k in changed if k.startswith("signoff.") and k not in RESUMABLE]
    if fixed and (folder.reports / "seals").is_dir():
        problem = f"run {folder.id} is sealed, and who has to sign never changes in a run: {', '.join(fixed)}"
        raise UsageError(ReasonCode.OTHER_CONTEXT, problem, next_step="Begin a new run.")
    if changed:
        order: dict[str, Any] = {"names": changed, "digest": new.digest()}
        if "signoff.allowed_signers" in changed and (signers := new.signoff.allowed_signers):
            order["signers"] = audit.digest_of_lists(audit.signer_lists(Path(signers)))
        record = {"when": utc_now(), "user": audit.user(), "from": {k: before.get(k) for k in changed}}
        text = parameters_text(new)
        digests = {"parameters_digest": new.digest(), "parameters_sha256": hashlib.sha256(text.encode()).hexdigest()}
        folder.note(changes=[*run.facts["changes"], record], **digests)
        folder.rewrite(RunPath.PARAMETERS, text)
        audit.append(folder.reports / audit.NAME, "parameters changed", **order)
        folder.log(f"parameters changed: {', '.join(f'{k}={after.get(k)}' for k in changed)}")
    return changed


def supersede(folder: RunFolder, steps: Iterable[Step]) -> None:
    """Move the files of earlier executions of these steps to earlier/<time>."""
    reports = folder.reports
    paths: list[Path] = []
    for step in steps:
        files = (f"results/{step}.json", f"figures/{step}_*", step.notebook, f"{step.stem}.html")
        paths += (path for name in (*files, *_DOCUMENTS.get(step, ())) for path in sorted(reports.glob(name)))
    set_aside(folder, paths)


def set_aside(folder: RunFolder, paths: Iterable[Path]) -> dict[str, str]:
    """Move files of the reports to earlier/<time> as history; return the new path of each by its old one.

    Each move is logged first: a file below `earlier/` that the log does not name does not belong to the run.
    """
    moved: dict[str, str] = {}
    destination = Path(RunPath.EARLIER) / utc_now().replace(":", "").removesuffix("+0000")
    for path in paths:
        name = path.relative_to(folder.reports)
        new_path = folder.reports / destination / name
        new_path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"file": name.as_posix(), "digest": file_digest(path), "to": (destination / name).as_posix()}
        audit.append(folder.reports / audit.NAME, audit.SET_ASIDE, **facts)
        path.replace(new_path)
        moved[facts["file"]] = facts["to"]
    return moved


class RunLock:
    """A lock for one process at a time. The operating system releases it when its holder dies."""

    GATE = "gate"  # held while a statement is recorded, and while step 25 checks the decision and begins

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.path = folder.workspace / f"{name}.lock"
        self.run_id = folder.id
        self._file: IO[str] | None = None

    def acquire(self, wait: float = 10.0) -> Self:
        """Acquire the lock, waiting up to `wait` seconds for its holder; `EnvironmentFailure` ("run_locked") after that."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        file = open(self.path, "a+", encoding="utf-8", opener=private)  # noqa: SIM115  (a path's own takes no opener)
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise self._held(file) from None
                time.sleep(0.1)
        with naming(self.path), ExitStack() as failing:
            failing.callback(file.close)
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), audit.process().encode())
            failing.pop_all()
        self._file = file
        return self

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether another process holds it now."""
        try:
            if self.path.exists():
                self.acquire(0).release()
        except EnvironmentFailure as error:
            if error.code == ReasonCode.RUN_LOCKED:
                return not error.what.endswith(f" {audit.process()}")
            raise
        return False

    def _held(self, file: IO[str]) -> RunbookError:
        file.seek(0)
        holder = file.read(200) or "another process"
        file.close()
        return EnvironmentFailure(
            ReasonCode.RUN_LOCKED,
            f"run {self.run_id} is being worked on by {holder}",
            next_step="Wait until it ends, or stop it (in JupyterLab: shut the kernel down).",
        )

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self if self._file is not None else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
