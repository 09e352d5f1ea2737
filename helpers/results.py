"""What a step found: checks with measured value and threshold, a verdict, and the file that records them."""

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
from helpers.errors import RunbookError, Terminal, WorldError, redacted
from helpers.reason_codes import Reason, ReasonCode

Kind = TypeVar("Kind")

# -- progress ----------------------------------------------------------------------------------------------------------

# Progress of long work, as the code that does it sees it. Who shows it (a bar, a notebook line, nobody): see `record`.


class Progress(Protocol):
    """`advance` may raise `errors.Interrupted`: the operator asked to stop, and the work in hand is consistent."""

    def advance(self, n: int = 1) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""


silent = Silent()


# -- results -----------------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """How a check or a step came out. Those before MARGINAL are shown to those who sign and stop nothing by themselves.

    NOT_APPLICABLE: the question has no meaning here. NOT_EXERCISED: it has one, and nothing was run that could answer it,
    or only a part of it; the detail says what.
    """

    PASS = "pass"
    NOT_APPLICABLE = "not applicable"
    NOT_EXERCISED = "not exercised"
    WARNING = "warning"
    MARGINAL = "marginal"
    FAIL = "fail"


_ORDER = [Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED, Verdict.PASS, Verdict.WARNING, Verdict.MARGINAL, Verdict.FAIL]
UNREMARKABLE = (Verdict.PASS, Verdict.NOT_APPLICABLE)  # all others are named to those who sign


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them. Where nothing was checked, or nothing could be, that is no pass: NOT_EXERCISED, NOT_APPLICABLE."""
    return max(verdicts, key=_ORDER.index, default=Verdict.NOT_EXERCISED)


_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {"=": operator.eq, "≤": operator.le, "≥": operator.ge, "<": operator.lt,
                                                    ">": operator.gt}  # fmt: skip


def meets(measured: Any, relation: str, threshold: Any) -> bool:
    """Whether `measured` is what was expected: = ≤ ≥ < > `threshold`. What was not measured meets nothing."""
    if measured is None:
        return False
    try:
        return bool(_RELATIONS[relation](measured, threshold))
    except (TypeError, KeyError):  # a word where a number is expected; no relation, as in older runs
        return False


REPAIR_KINDS = {"missing": "default", "derived": "derived", "renamed": "derived", "computed": "derived", "set": "set"}


def kind_of(rule: str) -> str:
    """What a schema's repair did, by its rule (`schema.REPAIRS`): default, derived and set fill a missing field, else changed."""
    return REPAIR_KINDS.get(rule, "changed")


_CHANGED = {"default": "overwritten by a default", "coerce": "converted", "clamp": "moved to the nearer bound",
            "replaced": "replaced by what the document tells", "fixed": "set by the schema",
            "recomputed": "computed anew", "rewritten": "rewritten by a pattern", "redacted": "redacted"}  # fmt: skip


def changes_told(by_rule: Mapping[str, int]) -> str:
    """`13 overwritten by a default, 8 converted`: values that were there, by what became of them; most first."""
    sums = Counter[str]()
    for rule, n in by_rule.items():
        if kind_of(rule) == "changed":
            sums[_CHANGED.get(rule, "changed otherwise")] += n
    return ", ".join(f"{n:,} {words}" for words, n in sums.most_common() if n)


@dataclass(slots=True)
class Check:
    """One question with its measured answer. `name` names what was looked at and does not say how it came out.

    `measured` is judged by `threshold`: it must be = ≤ ≥ < > (`relation`) it; "" in runs of older versions, which kept none.
    `ids` names at most 20 offenders as `{"collection": …, "id": …, …}`; `offenders` is how many there are. `reason` is a
    code that leads to a troubleshooting notebook; it is given with every WARNING, MARGINAL and FAIL. `parameter` is the
    key of the parameters that sets the threshold; "" where a rule of the runbook or the run's own data sets it.
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
        """The threshold with direction and unit, such as `≤ 100 ms`; "" where there is none."""
        if self.threshold is None or isinstance(self.threshold, str):
            return self.threshold or ""
        return f"{self.relation} {self._with_unit(self.threshold)}".strip()

    @property
    def found(self) -> str:
        """What was measured, with its unit and three digits, or as many as keep it on its side of the limit; "" for nothing."""
        value = self.measured
        if isinstance(value, float) and abs(value) < 1000:
            near = (f"{value:.{digits}g}" for digits in range(3, 6))
            judged = meets(value, self.relation, self.threshold)
            value = next((float(n) for n in near if meets(float(n), self.relation, self.threshold) is judged), value)
        return "" if value is None else self._with_unit(value)

    def _with_unit(self, value: Any) -> str:
        """A number with up to six digits; a word without the unit."""
        if isinstance(value, float):
            shown = f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"
        else:
            shown = formatting.text(value, 200)
        return shown if isinstance(value, str) else f"{shown} {formatting.unit_of(value, self.unit)}".strip()

    @property
    def unsaid(self) -> str:
        """What a reader cannot judge it by, in words; "" where it says what was expected and what was measured."""
        pairs = (("expected", self.threshold), ("measured", self.measured))
        lacking = [word for word, value in pairs if value is None or value == ""]
        if self.verdict is Verdict.NOT_APPLICABLE or not lacking:  # then there is nothing to expect
            return ""
        return f"{self.name}: {self.verdict}, and not what was {' and '.join(lacking)}"

    @property
    def contradiction(self) -> str:
        """Where verdict and figures disagree, in words; "" where they agree, or there is nothing to judge by."""
        judged = self.verdict not in (Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)
        fits = meets(self.measured, self.relation, self.threshold) is (self.verdict is Verdict.PASS)
        if self.threshold is None or not self.relation or not judged or fits:
            return ""
        return f"{self.name}: {self.verdict} at {self.measured!r} where {self.expected} is expected"


@dataclass(slots=True)
class Phase:
    """A stretch of work inside a step, for timelines. Times are UTC, ISO 8601; `chunks` is 0 where it does not count any."""

    name: str
    started: str
    seconds: float
    chunks: int = 0


@dataclass(slots=True)
class StepResult:
    """The record of one step, `results/<step>.json`. `facts` are figures that later steps and pages read by name."""

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
        """Written whole or not at all; without the values of secrets that a server repeated in an answer. Its SHA-256."""
        return write_text(path, redacted(json_text(asdict(self))))

    @staticmethod
    def read(path: Path, run_id: str = "") -> StepResult:
        """Raises `Terminal` ("run_damaged") where the file is no result, or not that of its step in this run, if one is given."""
        with reading(path):
            raw = json_in(contents(path))
            raw["verdict"] = Verdict(raw["verdict"])
            raw["checks"] = [Check(**{"relation": "", **c, "verdict": Verdict(c["verdict"])}) for c in raw["checks"]]
            raw["phases"] = [Phase(**p) for p in raw["phases"]]
            found = StepResult(**raw)
            # Of the types that all rely on, or it is damaged.
            _ = found.seconds, {**found.facts}, [{**figure} for figure in found.figures]
            _ = found.error and {key: found.error[key].strip() for key in ("code", "type", "line")}
            if run_id and (found.step, found.run_id) != (path.stem, run_id):
                raise ValueError(f"it is the result of step {found.step} of run {found.run_id}")
            return found


def passed(result: StepResult | None) -> bool:
    """Whether the run may continue after this step."""
    return result is not None and bool(result.finished) and result.error is None and result.verdict is not Verdict.FAIL


MOST_READ = 64 * 2**20  # bytes of a file that is read as a whole; the largest of a run's own have a few
MOST_CONTAINERS = 2**22  # lists and objects in one JSON; a server's largest answer has one for each vector
_TEXT_IN_JSON = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.S)
DEEPEST = 64  # levels of lists and objects in JSON; Chroma's answers and a run's files have fewer than 12


def contents(path: Path, most: int = MOST_READ) -> bytes:
    """The bytes of a plain file that others may have written or named. OSError for a link, pipe or device, which is not even
    opened; ValueError beyond `most` bytes."""
    with io.open(path, "rb", opener=_plainly) as file:  # noqa: UP020  (a test counts what is read by it)
        if (length := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"it is larger than {formatting.size(most)}")
        return file.read(length)  # room for `most` would be made at once; a pipe that came in its place has no length


def _plainly(path: str, flags: int) -> int:
    if not (stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EINVAL, "not a plain file", path)
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def json_in(data: bytes | str, **hooks: Any) -> Any:
    """What this JSON holds, by `hooks` of `json.loads`; ValueError for none, more than `DEEPEST` levels, or `is_crowded`."""
    if is_crowded(data):
        raise ValueError(f"more than {MOST_CONTAINERS:,} lists and objects")
    with suppress(RecursionError):
        if not is_deep(value := json.loads(data, **hooks)):
            return value
    raise ValueError("nested too deeply")


def is_crowded(data: bytes | str) -> bool:
    """Whether this JSON has more than `MOST_CONTAINERS` lists and objects: three bytes each become more than sixty when read."""
    if isinstance(data, str):
        return data.count("[") + data.count("{") > MOST_CONTAINERS and is_crowded(data.encode("utf-8", "surrogatepass"))
    if data.count(b"[") + data.count(b"{") <= MOST_CONTAINERS:
        return False
    bare = _TEXT_IN_JSON.sub(b"", data)  # documents may hold any number of them
    return bare.count(b"[") + bare.count(b"{") > MOST_CONTAINERS


_NESTED = frozenset({dict, list})


def is_deep(value: Any) -> bool:
    """Whether it is nested more than `DEEPEST` levels."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += (v for v in each.values() if isinstance(v, dict | list))
            elif isinstance(each, list) and not _NESTED.isdisjoint(map(type, each)):
                inner += (v for v in each if isinstance(v, dict | list))
        if not inner:
            return False
        level = inner
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def utc_now() -> str:
    """Now, UTC, ISO 8601 to the millisecond, such as 2025-12-01T02:15:00.123+00:00."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: Any) -> None:
    """Written whole or not at all: to a temporary name in the same folder, flushed to disk, renamed."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes.

    Letters of every script stay readable. What a terminal or an editor would obey (bidirectional overrides, C1 controls)
    is escaped, as JSON already does with the other controls: the file reads back the same.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=_plain, allow_nan=True)
    return formatting.visible(text) + "\n"


PRIVATE = 0o600


def private(path: str, flags: int) -> int:
    """An `opener` for `open`, of plain files only (else `Terminal`); what it creates can be read by its owner only."""
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
    """As `write_json`, for bytes; their SHA-256. A new file has this mode. Raises `Terminal` ("disk_full") where it does not fit.

    A file that is digested once it lies there may be another's by then.
    """
    with writing(path, mode, len(data)) as temporary:
        temporary.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(path: Path, mode: int = PRIVATE, needed: int = 0) -> Iterator[Path]:
    """For whoever writes a file by its path: gives a temporary one in the same folder, which is flushed and renamed at the end.

    Every file of ours that has to be whole is written here. Raises `Terminal` ("disk_full"); `needed` are its bytes, if known.
    """
    # A name that nobody can put a link at beforehand; as `is_leftover` knows it.
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
    """Whether a file of this name is the temporary one of `of` ("": of any) that a killed process left in `writing`."""
    return re.fullmatch(rf"\.{re.escape(of) or '.+'}\.\d+(-[0-9a-f]{{16}})?\.tmp", name) is not None


def append(path: Path, data: bytes, *, log: bool = False) -> None:
    """Add these bytes at the end of a file, all of them or none, and flush them to disk. Raises `Terminal` ("disk_full").

    `log`: several processes add to it, and it is worth no flushing.
    """
    try:
        with open(path, "ab", buffering=0, opener=private) as file:  # a path's own open takes no opener
            before, left = os.fstat(file.fileno()).st_size, memoryview(data)
            try:
                while left:
                    left = left[file.write(left) :]
                if not log:
                    os.fsync(file.fileno())
            except OSError:
                if not log:
                    os.ftruncate(file.fileno(), before)
                raise
    except OSError as error:
        if (full := disk_full(error, path.parent, len(data))) is not None:
            raise full from error
        raise


def publish(temporary: Path, path: Path) -> None:
    """Give a file (or folder) that is whole and flushed its name; the name is on disk, too, when this returns."""
    temporary.replace(path)
    flush_folder(path.parent)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to fill under another name; it is there with all that was written, or not at all. A kill leaves that name."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # where it has not got its name


def flush_folder(folder: Path) -> None:
    """Bring the names in this folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of a write, which names no file, names this one: a full disk is then looked for there."""
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


def shortage(error: BaseException, folder: Path) -> WorldError | None:
    """The one line where an error is too little memory, threads or files, no permission, a read-only or full disk; else None."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _TOO_LITTLE):
        return WorldError(ReasonCode.OUT_OF_MEMORY, "the process ran out of memory",
                          next_step="Let it have more (ulimit -v, the limit of its container), then repeat.")  # fmt: skip
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return WorldError(ReasonCode.TOO_FEW_FILES, "the process may not open any more files",
                          next_step="Let it open more (ulimit -n 4096), then repeat.")  # fmt: skip
    if isinstance(error, PermissionError) and error.filename:
        return Terminal(ReasonCode.FOLDER_UNWRITABLE, "may not be read or written (Permission denied)",
                        where=str(error.filename), next_step="Correct its permissions, or run as a user who may.")  # fmt: skip
    return disk_full(error, folder)


def disk_full(error: BaseException, folder: Path, needed: int = 0) -> Terminal | None:
    """The one line where an error, or one that led to it, is a full or read-only disk; else None. `needed` is in bytes, if known.

    `folder` is where the work was done; the error's own file says it better.
    """
    at: BaseException | None = error
    while at is not None and not (isinstance(at, OSError) and at.errno in _FULL):
        at = at.__cause__ or at.__context__
    if not isinstance(at, OSError):
        return None
    what = _FULL[at.errno or 0]
    if at.errno == errno.EROFS:
        return Terminal(ReasonCode.FOLDER_UNWRITABLE, what, where=str(at.filename or folder),
                        next_step="Mount it to be written, then repeat.")  # fmt: skip
    name = at.filename2 or at.filename  # of a copy the first is what was read
    named = Path(os.fsdecode(name)).parent if isinstance(name, str | bytes) else folder
    with suppress(OSError):
        free = shutil.disk_usage(named).free
        needs = f", the next file alone needs {formatting.size(needed)}" if needed else ""
        return Terminal(
            ReasonCode.DISK_FULL, f"{what}: {formatting.size(free)} free{needs}", where=str(named),
            next_step="Free space there (step 12 says how much a run needs), then repeat the command or resume.",
        )  # fmt: skip
    return Terminal(ReasonCode.DISK_FULL, what, where=str(named), next_step="Free space there, then resume.")


@contextmanager
def reading(path: Path, next_step: str = "Put the file back from the run's archive or a backup.") -> Iterator[None]:
    """Around what reads a file of ours: whatever is wrong with it is one line that names it.

    Raises `Terminal` ("run_damaged"); our own errors pass.
    """
    try:
        yield
    except (RunbookError, MemoryError):  # of which the file is not to blame
        raise
    except Exception as error:  # what a library makes of damage has many names
        why = _first(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        why = error.strerror or str(error) if isinstance(error, OSError) else why
        raise Terminal(
            ReasonCode.RUN_DAMAGED, f"cannot be read: {why}", where=str(path), next_step=next_step
        ) from error


def flush_file(path: Path) -> None:
    """To disk: what a library wrote is whole after a power failure only if it was flushed before something says so."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, paths, and other guests of a result as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


# -- state files -------------------------------------------------------------------------------------------------------


class StateFile:
    """Base of a dataclass that is kept on disk, written whole or not at all before the act that it announces.

    A key that an older file lacks takes the field's default, one that is not known here is left out. A field `folder` is
    not written: it is where the file lies.
    """

    file: ClassVar[str]  # its name
    damaged: ClassVar[ReasonCode]
    remedy: ClassVar[str]  # the next step where it is damaged; {folder} is where it lies

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """As `read_file`, of the file in this folder."""
        return cls.read_file(folder / cls.file)

    @classmethod
    def read_file(cls, path: Path) -> Self | None:
        """What this file keeps, None where there is none; `Terminal` (`damaged`) where it holds no such state."""
        try:
            found: Self = _adapter(cls).validate_python(  # type: ignore[arg-type]  # a class is hashable
                {**cls.content(path), "folder": path.parent}
            )
            return found
        except FileNotFoundError:
            return None
        except ValidationError as error:
            why = _first(error)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error)
        remedy = cls.remedy.format(folder=path.parent)
        raise Terminal(cls.damaged, f"cannot be read: {why}", where=str(path), next_step=remedy)

    @classmethod
    def content(cls, path: Path) -> dict[str, Any]:
        """What the file holds."""
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
    """A dataclass from what its file holds; unknown keys are left out. ValueError where a value is of another type."""
    found: Kind = _adapter(kind).validate_python(raw)  # type: ignore[arg-type]  # a class is hashable
    return found


def section(kind: type[BaseModel]) -> AfterValidator:
    """Of a field of a state: it holds a section of the parameters, or nothing, and is refused with the file where it does not."""

    def checked(value: dict[str, Any]) -> dict[str, Any]:
        if value:
            kind.model_validate(value)
        return value

    return AfterValidator(checked)
