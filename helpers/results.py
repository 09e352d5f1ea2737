"""Results of a step (checks, verdict, result file), and the one way to read and write files of a run."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import operator
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from helpers import formatting
from helpers.errors import EnvironmentFailure, RunbookError, Terminal, redacted
from helpers.reason_codes import Reason, ReasonCode

Kind = TypeVar("Kind")

# -- progress ----------------------------------------------------------------------------------------------------------

# Progress of long work, as the working code sees it. `run.record` displays it.


class Progress(Protocol):
    """Counts finished work. `advance` may raise `errors.Interrupted`: the operator asked to stop; finished work is consistent."""

    def advance(self, n: int = 1) -> None: ...


class Silent:
    """Progress that is not displayed."""

    def advance(self, n: int = 1) -> None:
        """Do nothing."""


silent = Silent()


# -- results -----------------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """The outcome of a check or step. Those before MARGINAL are shown to signers and do not stop a run.

    NOT_APPLICABLE: the check has no meaning here. NOT_EXERCISED: nothing was run that could answer it, or only a part was;
    the detail says what.
    """

    PASS = "pass"
    NOT_APPLICABLE = "not applicable"
    NOT_EXERCISED = "not exercised"
    WARNING = "warning"
    MARGINAL = "marginal"
    FAIL = "fail"


_ORDER = [Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED, Verdict.PASS, Verdict.WARNING, Verdict.MARGINAL, Verdict.FAIL]
UNREMARKABLE = (Verdict.PASS, Verdict.NOT_APPLICABLE)  # all others are listed for signers


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst verdict. Without a checked one it is no pass: NOT_EXERCISED for none, else NOT_EXERCISED or NOT_APPLICABLE."""
    return max(verdicts, key=_ORDER.index, default=Verdict.NOT_EXERCISED)


_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {"=": operator.eq, "≤": operator.le, "≥": operator.ge, "<": operator.lt,
                                                    ">": operator.gt}  # fmt: skip


def meets(measured: Any, relation: str, threshold: Any) -> bool:
    """Whether `measured` is = ≤ ≥ < > (`relation`) `threshold`. False for None, unknown relations and incomparable types."""
    if measured is None:
        return False
    try:
        return bool(_RELATIONS[relation](measured, threshold))
    except (TypeError, KeyError):  # a text instead of a number; no relation, as in older runs
        return False


REPAIR_KINDS = {"missing": "default", "derived": "derived", "renamed": "derived", "computed": "derived", "set": "set"}


def kind_of(rule: str) -> str:
    """The kind of a repair rule (`schema.REPAIRS`): "default", "derived", "set" (these fill a missing field) or "changed"."""
    return REPAIR_KINDS.get(rule, "changed")


_CHANGED = {"default": "overwritten by a default", "coerce": "converted", "clamp": "moved to the nearer bound",
            "replaced": "replaced by what the document tells", "fixed": "set by the schema",
            "recomputed": "computed anew", "rewritten": "rewritten by a pattern", "redacted": "redacted"}  # fmt: skip


def changes_in_words(by_rule: Mapping[str, int]) -> str:
    """Counts of changed values by kind of change, most frequent first: `13 overwritten by a default, 8 converted`."""
    sums = Counter[str]()
    for rule, n in by_rule.items():
        if kind_of(rule) == "changed":
            sums[_CHANGED.get(rule, "changed otherwise")] += n
    return ", ".join(f"{n:,} {words}" for words, n in sums.most_common() if n)


@dataclass(slots=True)
class Check:
    """One question with its measured answer. `name` states the subject, not the outcome.

    `measured` passes if it is = ≤ ≥ < > (`relation`) `threshold`; `relation` is "" in runs of older versions.
    `ids` lists at most 20 offenders as `{"collection": …, "id": …, …}`; `offenders` is their number. `reason` is a code
    that leads to a troubleshooting notebook; every WARNING, MARGINAL and FAIL has one. `parameter` is the key of the
    parameter that sets the threshold; "" if a rule of the runbook or the run's data sets it.
    """

    name: str
    verdict: Verdict
    measured: Any = None
    threshold: Any = None
    unit: str = ""
    reason: Reason = ""
    detail: str = ""
    offenders: int = 0
    ids: list[dict[str, Any]] = field(default_factory=list)
    parameter: str = ""
    relation: str = "="

    @property
    def expected(self) -> str:
        """The threshold with relation and unit, such as `≤ 100 ms`; "" if there is none."""
        if self.threshold is None or isinstance(self.threshold, str):
            return self.threshold or ""
        return f"{self.relation} {self._with_unit(self.threshold)}".strip()

    @property
    def measured_text(self) -> str:
        """The measured value and its unit, rounded to three digits, or to more if rounding would cross the limit; "" for None."""
        value = self.measured
        if isinstance(value, float) and abs(value) < 1000:
            rounded = (f"{value:.{digits}g}" for digits in range(3, 6))
            fits = meets(value, self.relation, self.threshold)
            value = next((float(n) for n in rounded if meets(float(n), self.relation, self.threshold) is fits), value)
        return "" if value is None else self._with_unit(value)

    def _with_unit(self, value: Any) -> str:
        """A number with up to six digits and its unit; a text as it is."""
        if isinstance(value, float):
            shown = f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"
        else:
            shown = formatting.text(value, 200)
        return shown if isinstance(value, str) else f"{shown} {formatting.unit_of(value, self.unit)}".strip()

    @property
    def missing_figures(self) -> str:
        """Which of the expected and measured values is missing, in words; "" if neither is."""
        pairs = (("expected", self.threshold), ("measured", self.measured))
        missing = [word for word, value in pairs if value is None or value == ""]
        if self.verdict is Verdict.NOT_APPLICABLE or not missing:
            return ""
        return f"{self.name}: {self.verdict}, and not what was {' and '.join(missing)}"

    @property
    def contradiction(self) -> str:
        """How verdict and figures disagree, in words; "" if they agree or there is no threshold."""
        is_judged = self.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)
        fits = meets(self.measured, self.relation, self.threshold) is (self.verdict is Verdict.PASS)
        if self.threshold is None or not self.relation or not is_judged or fits:
            return ""
        return f"{self.name}: {self.verdict} at {self.measured!r} where {self.expected} is expected"


@dataclass(slots=True)
class Phase:
    """A part of a step's work, for timelines. Times are UTC, ISO 8601; `chunks` is 0 if it handles none."""

    name: str
    started: str
    seconds: float
    chunks: int = 0


@dataclass(slots=True)
class StepResult:
    """The record of one step, `results/<step>.json`. Later steps and pages read `facts` by name."""

    step: str
    title: str
    run_id: str
    started: str
    finished: str = ""
    verdict: Verdict = Verdict.PASS
    checks: list[Check] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: list[dict[str, str]] = field(default_factory=list)
    error: dict[str, str] | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the step, in seconds."""
        if not self.finished:
            return 0.0
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()

    def write(self, path: Path) -> str:
        """Write the file atomically, without values of secrets that a server's answer repeated; return its SHA-256."""
        return write_text(path, redacted(json_text(asdict(self))))

    @staticmethod
    def read(path: Path, run_id: str = "") -> StepResult:
        """Read a result. Raises `Terminal` ("run_damaged") if it is none, or not of the file's step and `run_id` (if given)."""
        with reading(path):
            raw = json_in(contents(path))
            raw["verdict"] = Verdict(raw["verdict"])
            raw["checks"] = [Check(**{"relation": "", **c, "verdict": Verdict(c["verdict"])}) for c in raw["checks"]]
            raw["phases"] = [Phase(**p) for p in raw["phases"]]
            result = StepResult(**raw)
            # Fails if these fields have other types than their users rely on.
            _ = result.seconds, {**result.facts}, [{**figure} for figure in result.figures]
            _ = result.error and {key: result.error[key].strip() for key in ("code", "type", "line")}
            if run_id and (result.step, result.run_id) != (path.stem, run_id):
                raise ValueError(f"it is the result of step {result.step} of run {result.run_id}")
            return result


def passed(result: StepResult | None) -> bool:
    """Whether the run may continue after this step."""
    return result is not None and bool(result.finished) and result.error is None and result.verdict is not Verdict.FAIL


MOST_READ = 64 * 2**20  # bytes of a file that is read as a whole; the largest of a run have a few MiB
MOST_CONTAINERS = 2**22  # lists and objects in one JSON text; a server's largest answer has one for each vector
_TEXT_IN_JSON = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.S)
DEEPEST = 64  # levels of lists and objects in JSON; Chroma's answers and a run's files have fewer than 12


def contents(path: Path, most: int = MOST_READ) -> bytes:
    """Read a regular file that others may have written or named. OSError for a link, pipe or device, which is not opened;
    ValueError beyond `most` bytes."""
    with io.open(path, "rb", opener=_plainly) as file:  # noqa: UP020  (a test counts what is read by it)
        if (length := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"it is larger than {formatting.size(most)}")
        return file.read(length)  # read(most) would allocate that many bytes; a pipe put in its place has length 0


def _plainly(path: str, flags: int) -> int:
    if not (stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "not a plain file", path)
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def json_in(data: bytes | str, **hooks: Any) -> Any:
    """Parse JSON with `hooks` of `json.loads`. ValueError for invalid JSON, more than `DEEPEST` levels, or `is_crowded`."""
    if is_crowded(data):
        raise ValueError(f"more than {MOST_CONTAINERS:,} lists and objects")
    with suppress(RecursionError):
        if not is_deep(value := json.loads(data, **hooks)):
            return value
    raise ValueError("nested too deeply")


def is_crowded(data: bytes | str) -> bool:
    """Whether this JSON has more than `MOST_CONTAINERS` lists and objects: each takes 3 bytes here and over 60 when parsed."""
    if isinstance(data, str):
        return data.count("[") + data.count("{") > MOST_CONTAINERS and is_crowded(data.encode("utf-8", "surrogatepass"))
    if data.count(b"[") + data.count(b"{") <= MOST_CONTAINERS:
        return False
    bare = _TEXT_IN_JSON.sub(b"", data)  # documents may hold any number of them
    return bare.count(b"[") + bare.count(b"{") > MOST_CONTAINERS


_NESTED = frozenset({dict, list})


def is_deep(value: Any) -> bool:
    """Whether lists and dicts are nested more than `DEEPEST` levels."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                inner += (v for v in container.values() if isinstance(v, dict | list))
            elif isinstance(container, list) and not _NESTED.isdisjoint(map(type, container)):
                inner += (v for v in container if isinstance(v, dict | list))
        if not inner:
            return False
        level = inner
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def utc_now() -> str:
    """The current time, UTC, ISO 8601 to the millisecond, such as 2025-12-01T02:15:00.123+00:00."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: to a temporary name in the same folder, flushed to disk, then renamed."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes.

    Letters of every script stay readable. Controls that terminals and editors obey (bidirectional overrides, C1) are
    escaped, as JSON escapes the others: parsing gives the same value.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=_plain, allow_nan=True)
    return formatting.visible(text) + "\n"


PRIVATE = 0o600


def private(path: str, flags: int) -> int:
    """An `opener` for `open` that creates files with mode 0600. Raises `Terminal` for a link or a special file."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, PRIVATE)
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise
    raise Terminal(ReasonCode.FOLDER_UNWRITABLE, "it is a link or a special file, through which nothing is written",
                   where=str(path), next_step="Find out who put it there and remove it, then repeat.")  # fmt: skip


def write_text(path: Path, text: str, mode: int = PRIVATE) -> str:
    """As `write_bytes`, for text (UTF-8; lone surrogates are kept by escaping them)."""
    return write_bytes(path, text.encode("utf-8", errors="backslashreplace"), mode)


def write_bytes(path: Path, data: bytes, mode: int = PRIVATE) -> str:
    """Write bytes atomically, with this mode, and return their SHA-256. Raises `Terminal` ("disk_full").

    The digest is that of `data`: the file could be replaced before it is read back.
    """
    with writing(path, mode, len(data)) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(path: Path, mode: int = PRIVATE, needed: int = 0) -> Iterator[Path]:
    """Context manager: give a temporary path in the same folder; flush the file and rename it to `path` at the end.

    Every file that must be whole is written here. `needed`: its size in bytes, if known. Raises `Terminal` ("disk_full").
    """
    # Unpredictable, so that nobody can put a link there first; `is_leftover` knows its form.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb", opener=private) as file:  # a path's own open takes no opener
            os.fchmod(file.fileno(), mode)
        yield temporary
        flush_file(temporary)
        publish(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (full := disk_full(error, path.parent, needed)) is not None:
            raise full from error
        raise


def is_leftover(name: str, of: str = "") -> bool:
    """Whether `name` is the temporary file of `of` ("": of any file) that a process killed in `writing` leaves."""
    return re.fullmatch(rf"\.{re.escape(of) or '.+'}\.\d+(-[0-9a-f]{{16}})?\.tmp", name) is not None


def append(path: Path, data: bytes, *, log: bool = False) -> None:
    """Append these bytes to a file, all or none, and flush it to disk. Raises `Terminal` ("disk_full").

    `log`: several processes append to it: neither flush it nor cut it back after an error.
    """
    try:
        with open(path, "ab", buffering=0, opener=private) as file:  # a path's own open takes no opener
            size, rest = os.fstat(file.fileno()).st_size, memoryview(data)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                if not log:
                    os.fsync(file.fileno())
            except OSError:
                if not log:
                    os.ftruncate(file.fileno(), size)
                raise
    except OSError as error:
        if (full := disk_full(error, path.parent, len(data))) is not None:
            raise full from error
        raise


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete, flushed file (or folder) to `path`, and flush the name to disk."""
    temporary.replace(path)
    flush_folder(path.parent)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Context manager: give a temporary folder to fill; rename it to `folder` at the end. A kill leaves the temporary name."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # unless it was renamed


def flush_folder(folder: Path) -> None:
    """Flush the names in this folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context manager: add `path` to an OSError without a file name, so that `disk_full` looks at the right disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


_TOO_LITTLE = ("can't start new thread", "can't allocate lock", "Resource temporarily unavailable")  # the last: Chroma
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "files may not be so large",
    errno.EROFS: "cannot be written (Read-only file system)",
}


def shortage(error: BaseException, folder: Path) -> EnvironmentFailure | None:
    """The error to report for too little memory, threads or files, no permission, a full or read-only disk; else None."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _TOO_LITTLE):
        return EnvironmentFailure(ReasonCode.OUT_OF_MEMORY, "the process ran out of memory",
                          next_step="Let it have more (ulimit -v, the limit of its container), then repeat.")  # fmt: skip
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return EnvironmentFailure(ReasonCode.TOO_FEW_FILES, "the process may not open any more files",
                          next_step="Let it open more (ulimit -n 4096), then repeat.")  # fmt: skip
    if isinstance(error, PermissionError) and error.filename:
        return Terminal(ReasonCode.FOLDER_UNWRITABLE, "may not be read or written (Permission denied)",
                        where=str(error.filename), next_step="Correct its permissions, or run as a user who may.")  # fmt: skip
    return disk_full(error, folder)


def disk_full(error: BaseException, folder: Path, needed: int = 0) -> Terminal | None:
    """The error to report if `error` or one of its causes is a full or read-only disk; else None.

    `folder`: where the work was done, used if the error names no file. `needed`: bytes, if known.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno in _FULL):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, OSError):
        return None
    problem = _FULL[cause.errno or 0]
    if cause.errno == errno.EROFS:
        return Terminal(ReasonCode.FOLDER_UNWRITABLE, problem, where=str(cause.filename or folder),
                        next_step="Mount it to be written, then repeat.")  # fmt: skip
    name = cause.filename2 or cause.filename  # of a copy, filename is the source
    place = Path(os.fsdecode(name)).parent if isinstance(name, str | bytes) else folder
    with suppress(OSError):
        free = shutil.disk_usage(place).free
        need = f", the next file alone needs {formatting.size(needed)}" if needed else ""
        return Terminal(
            ReasonCode.DISK_FULL, f"{problem}: {formatting.size(free)} free{need}", where=str(place),
            next_step="Free space there (step 12 says how much a run needs), then repeat the command or resume.",
        )  # fmt: skip
    return Terminal(ReasonCode.DISK_FULL, problem, where=str(place), next_step="Free space there, then resume.")


@contextmanager
def reading(path: Path, next_step: str = "Put the file back from the run's archive or a backup.") -> Iterator[None]:
    """Context manager around the reading of a run's file: report any damage in one line that names the file.

    Raises `Terminal` ("run_damaged"); `RunbookError` and MemoryError pass unchanged.
    """
    try:
        yield
    except (RunbookError, MemoryError):  # not caused by the file
        raise
    except Exception as error:  # libraries raise many types for damaged input
        problem = _first(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        problem = error.strerror or str(error) if isinstance(error, OSError) else problem
        raise Terminal(
            ReasonCode.RUN_DAMAGED, f"cannot be read: {problem}", where=str(path), next_step=next_step
        ) from error


def flush_file(path: Path) -> None:
    """Flush a file that a library wrote to disk, before anything records that it is complete."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, paths and other values of a result as JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


# -- state files -------------------------------------------------------------------------------------------------------


class StateFile:
    """Base of a dataclass that is saved in a file, atomically and before the action that it announces.

    A missing key takes the field's default; unknown keys are ignored. A field `folder` is not written: it is set to the
    file's folder.
    """

    file: ClassVar[str]  # the file's name
    damaged: ClassVar[ReasonCode]
    remedy: ClassVar[str]  # the next step for a damaged file; {folder} is replaced by its folder

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the state file of this folder (see `read_file`)."""
        return cls.read_file(folder / cls.file)

    @classmethod
    def read_file(cls, path: Path) -> Self | None:
        """Read the state; None if there is no file. Raises `Terminal` (`damaged`) if the file holds no such state."""
        try:
            state: Self = _adapter(cls).validate_python(  # type: ignore[arg-type]  # a class is hashable
                {**cls.content(path), "folder": path.parent}
            )
            return state
        except FileNotFoundError:
            return None
        except ValidationError as error:
            problem = _first(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = str(error)
        remedy = cls.remedy.format(folder=path.parent)
        raise Terminal(cls.damaged, f"cannot be read: {problem}", where=str(path), next_step=remedy)

    @classmethod
    def content(cls, path: Path) -> dict[str, Any]:
        """The file's JSON object."""
        return dict(json_in(contents(path, 2**31)))

    def save(self, folder: Path) -> None:
        state = asdict(self)  # type: ignore[call-overload]  # every state is a dataclass
        write_json(folder / self.file, {name: value for name, value in state.items() if name != "folder"})


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_kind(kind: type[Kind], raw: Any) -> Kind:
    """Build a dataclass from its JSON; unknown keys are ignored. ValueError if a value has another type."""
    value: Kind = _adapter(kind).validate_python(raw)  # type: ignore[arg-type]  # a class is hashable
    return value


def section(kind: type[BaseModel]) -> AfterValidator:
    """Validator of a state's field: an empty dict or a valid section of the parameters; else the state file is refused."""

    def checked(value: dict[str, Any]) -> dict[str, Any]:
        if value:
            kind.model_validate(value)
        return value

    return AfterValidator(checked)
