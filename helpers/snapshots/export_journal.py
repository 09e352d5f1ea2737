"""The journal of an unfinished snapshot: it records what an interrupted export need not read again.

It lies in `.export/` inside `<id>.partial` until the snapshot is whole::

    journal.jsonl      one line for the export, each session, each collection (once its ids are frozen), each part
    <nnn>.ids.parquet  the frozen ids of a collection

Each line is flushed after the file that it records. It holds a proof over itself and the lines before it that needs this
workspace's key, since others may write there. So after a kill at any moment all lines are true, except perhaps a torn last one.
Work that no line proves counts as not done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from helpers import audit
from helpers.chunks import read_table
from helpers.errors import Interrupted, one_line
from helpers.formatting import Digested
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, append, contents, file_digest, is_leftover, json_in, reading, utc_now, writing
from helpers.stores import CollectionInfo

T = TypeVar("T")
R = TypeVar("R")
FORMAT = 3  # 1: all parts of a collection had one length; 2: anybody could make a line
EXPORT = ".export"
OF_COLLECTION = re.compile(
    r"\d{3,9}-[A-Za-z0-9._-]{1,60}"
)  # the folder of a collection in a snapshot: see `formatting.numbered`
_LINES = "journal.jsonl"
MOST_OWN = 2**32  # bytes: more than any part of a snapshot, since a reader holds less while it writes one
CHUNK = ("id", "document", "metadata", "uri", "embedding")  # the columns of a file of chunks
MANIFEST = 1  # the format of a snapshot's manifest
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")  # the id of a snapshot: a folder's name, no words of a shell


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its distance from UTC")
    return text


Time = Annotated[str, AfterValidator(_time)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """One Parquet file: `file` is relative to the snapshot's folder, `bytes` its size on disk.

    `without`: the rows of the file that the snapshot does not hold, because later parts have these chunks or they were deleted.
    `rows` and `lost` count the others.
    """

    file: str
    rows: Count
    bytes: Count
    sha256: Sha256
    lost: Count = 0
    without: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        """ValueError for a file that would lie outside of the snapshot's folder."""
        object.__setattr__(self, "without", tuple(self.without))
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or len(path.parts) != 2:
            raise ValueError(f"{one_line(self.file, 80)!r} is no file of a snapshot")

    def entry(self) -> dict[str, Any]:
        """Return the part as an entry of a manifest."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "without" or value}

    def only(self, rows: Collection[int]) -> SnapshotPart:
        """Return the part with only these rows of its file."""
        left_out = set(range(self.rows + len(self.without))) - set(rows)
        return dataclasses.replace(self, rows=len(rows), without=tuple(sorted(left_out)))


@dataclass(kw_only=True)
class _Session:
    started: Time
    ended: Time
    chunks: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collection(CollectionInfo):
    count: Count
    dimension: Count | None
    parts: tuple[SnapshotPart, ...]

    def __post_init__(self) -> None:
        if any(
            not isinstance(self.configuration.get(key) or {}, dict) for key in ("hnsw", "spann", "embedding_function")
        ):
            raise ValueError("a part of the configuration is no mapping")


@dataclass(kw_only=True)
class _Manifest:
    """The entries of a snapshot's manifest, with their types."""

    id: str
    status: Literal["created", "verified", "restored", "failed"]
    created: Time
    retain_until: Time
    source: str
    chroma_version: dict[Literal["source", "client"], str]
    notes: list[str]
    collections: list[_Collection]
    sha256: Sha256
    sessions: list[_Session] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    verified_at: Time | None = None
    restored_at: Time | None = None
    failed_at: Time | None = None

    def __post_init__(self) -> None:
        if not PLAIN.fullmatch(self.id):
            raise ValueError(f"its id is {one_line(self.id, 80)!r}")
        if len({each.name for each in self.collections}) < len(self.collections):
            raise ValueError("two collections have one name")
        if len(self.chroma_version) < 2:
            raise ValueError("a version of Chroma is missing")


_manifest = cache(partial(TypeAdapter, _Manifest))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")  # only Python's reader accepts a lone one


def manifest_in(data: bytes) -> dict[str, Any]:
    """Return the manifest of a snapshot. Raises ValueError, in one line, where a value is missing or has another type or format,
    and where its digest is not that of the other entries."""
    manifest = json_in(data)
    if not isinstance(manifest, dict) or (version := manifest.get("format")) != MANIFEST:
        what = f"format {one_line(str(version), 40)}" if isinstance(manifest, dict) else "no mapping"
        raise ValueError(f"{what}, this toolkit reads format {MANIFEST}")
    try:
        _manifest().validate_json(_SURROGATE.sub(rb"\\u003f", data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(one_line(f"{place}: {first['msg']}", 200)) from None
    if manifest["sha256"] != own_digest(manifest):
        raise ValueError("its content is not what was written")
    return manifest


class ExportJournal:
    """The journal of one export. `Journal.read` only reads it; `Journal.open` begins an export, or continues one.

    `collections` and `parts`: entries of the journal, by the collection's name and by (name, first row). `notes`: sentences
    about what could not be continued. Every method may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = {}
        self.sessions: list[dict[str, Any]] = []
        self.collections: dict[str, dict[str, Any]] = {}
        self.parts: dict[tuple[str, int], dict[str, Any]] = {}
        self.notes: list[str] = []
        self._proof, self._secret = "", audit.secret()  # of the last line; what makes one
        self._good = 0  # bytes of the file up to the last line that is true
        self._guard = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> ExportJournal | None:
        """Return the journal in a folder as it is now; None where its first line is not proven, or the folder holds another
        snapshot or a link, through which files would be written elsewhere."""
        journal = cls(folder)
        if holds_another(folder, folder.name.removesuffix(".partial")) or _has_links(folder):
            return None
        try:
            raw = contents(folder / EXPORT / _LINES, MOST_OWN)
        except (OSError, ValueError):
            return None
        for number, line in enumerate(raw.splitlines(keepends=True), start=1):
            try:
                entry = json_in(line)
                proof = proof_of(entry, journal._secret, journal._proof)
                if not line.endswith(b"\n") or not hmac.compare_digest(str(entry["proof"]).encode(), proof.encode()):
                    raise ValueError("not as it was written")
                _require_sound(entry)
                journal._take(entry)
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
                problem = f"the export's journal is damaged from line {number} on"
                journal.notes.append(f"{problem}: what it does not prove is read again")
                break
            journal._good, journal._proof = journal._good + len(line), proof
        return journal if journal.about else None

    @classmethod
    def open(cls, folder: Path, about: dict[str, Any], retention_days: int) -> ExportJournal:
        """Continue the export in `folder` if `about` describes it, else begin a new one; begin a session.

        `about`: JSON values that must be equal for the parts to be of use. A former export is removed otherwise, or moved aside
        where nothing proves that it is ours (`clear`).
        """
        about = {"format": FORMAT, "folder": str(folder.resolve()), **about}
        journal = cls.read(folder)
        notes = []
        if journal is None or {k: journal.about.get(k) for k in about} != about:
            if folder.exists():
                reason = "its journal cannot be read" if journal is None else "it was of another source or version"
                set_aside = cls.clear(folder, ours=journal is not None)
                notes.append(
                    f"an interrupted export cannot be continued: {reason}; everything is read again{set_aside}"
                )
            (folder / EXPORT).mkdir(parents=True)
            journal = cls(folder)
            journal._append({"kind": "export", **about})
        else:
            with (folder / EXPORT / _LINES).open("r+b") as file:
                file.truncate(journal._good)
            for leftover in folder.rglob(".*.tmp"):  # parts that a killed process was writing
                if is_leftover(leftover.name):
                    leftover.unlink()
        journal.notes += notes
        journal._append({"kind": "session", "retention_days": retention_days})
        return journal

    @staticmethod
    def is_whole(partial: Path, source: str, names: list[str]) -> bool:
        """Return whether this is a snapshot of these collections of the source, written here, that lacks only its final name."""
        try:
            manifest = json_in(contents(partial / "manifest.json"))
            actual = (f"{manifest['id']}.partial", manifest["source"], [c["name"] for c in manifest["collections"]])
            is_same = actual == (partial.name, source, names) and manifest == signed(manifest, proven=True)
            parts = [(partial / part["file"], part["sha256"]) for c in manifest["collections"] for part in c["parts"]]
            return (
                is_same
                and not _has_links(partial)
                and all(file.is_file() and file_digest(file) == sha256 for file, sha256 in parts)
            )
        except (OSError, ValueError, LookupError, TypeError):
            return False

    @staticmethod
    def clear(folder: Path, *, ours: bool | None = None) -> str:
        """Make room for an export: remove the folder if it is ours, else move it aside and return the end of a sentence on it.

        `ours`: None where the caller does not know; then a folder without a snapshot of another id counts as ours.
        """
        name = folder.name.removesuffix(".partial")
        if ours is None:
            ours = not holds_another(folder, name)
        if ours or (folder.is_dir() and not {p.name for p in folder.iterdir()} - {EXPORT}):
            if folder.exists():
                shutil.rmtree(folder)
            return ""
        places = (folder.with_name(f"{name}.set-aside-{n}") for n in range(1, 10_000))
        target = next(path for path in places if not os.path.lexists(path))
        folder.rename(target)
        return f". Nothing proves that what lay there is of this export: look at it in {target}, and remove it yourself"

    @property
    def chunks(self) -> int:
        """Chunks in finished parts."""
        return sum(entry["part"]["rows"] for entry in self.parts.values())

    @property
    def listed(self) -> int:
        """Ids frozen so far, without those of collections that were not begun yet."""
        return sum(entry["ids"]["count"] for entry in self.collections.values())

    @property
    def size(self) -> int:
        """Bytes of the finished parts."""
        return sum(int(entry["part"]["bytes"]) for entry in self.parts.values())

    @property
    def retain_until(self) -> datetime:
        """End of the retention, which counts from the last part that was written."""
        last = self.sessions[-1]
        return datetime.fromisoformat(last["ended"]) + timedelta(days=last["retention_days"])

    def note(self, text: str) -> None:
        with self._guard:
            self.notes.append(text)

    def freeze(
        self,
        name: str,
        folder: str,
        info: dict[str, Any],
        ids: Sequence[str],
        starts: Sequence[int],
        identity: str = "",
    ) -> None:
        """Record the ids of a collection in `folder`, and the first row of each part; forget its earlier parts."""
        file = f"{folder.partition('-')[0]}.ids.parquet"
        path = self.folder / EXPORT / file
        digest = write_parquet(path, pa.table({"id": pa.array(ids, pa.large_string())}))
        self._append({"kind": "collection", "name": name, "folder": folder, "info": info, "starts": [*starts], "uuid": identity,
                      "ids": {"file": file, "count": len(ids), "sha256": digest}})  # fmt: skip

    def ids(self, name: str) -> list[str] | None:
        """Return the frozen ids of a collection; None where their file is not the one that was written."""
        entry = self.collections[name]["ids"]
        path = self.folder / EXPORT / entry["file"]
        if not path.is_file() or file_digest(path) != entry["sha256"]:
            return None
        ids: list[str] = read_parquet(path, ["id"]).column("id").to_pylist()
        return ids

    def finish(self, name: str, start: int, part: dict[str, Any]) -> None:
        """Record that a part is on disk: the rows of the collection from `start` on."""
        self._append({"kind": "part", "name": name, "start": start, "part": part})

    def intact(self, name: str, start: int) -> dict[str, Any] | None:
        """Return the part that begins there, after its file was compared with its digest; None where it must be read again."""
        entry = self.parts.get((name, start))
        if entry is None:
            return None
        part: dict[str, Any] = entry["part"]
        path = self.folder / part["file"]
        if path.is_file() and path.stat().st_size == part["bytes"] and file_digest(path) == part["sha256"]:
            return part
        self.note(f"{part['file']} is damaged or gone: its {part['rows']} chunks are read again")
        return None

    def _take(self, entry: dict[str, Any]) -> None:
        match entry["kind"]:
            case "export":
                self.about = {k: v for k, v in entry.items() if k not in ("kind", "at", "proof")}
            case "session":
                session = {"started": entry["at"], "chunks": 0, "retention_days": int(entry["retention_days"])}
                self.sessions.append(session)
            case "collection":
                name = str(entry["name"])
                self.collections[name] = entry
                self.parts = {at: part for at, part in self.parts.items() if at[0] != name}
            case "part":
                self.parts[str(entry["name"]), int(entry["start"])] = entry
                self.sessions[-1]["chunks"] += int(entry["part"]["rows"])
            case other:
                raise ValueError(f"{other!r} is no kind of entry")
        if self.sessions:
            self.sessions[-1]["ended"] = entry["at"]

    def _append(self, entry: dict[str, Any]) -> None:
        with self._guard:
            entry = {**entry, "at": utc_now()}
            self._proof = proof_of(entry, self._secret, self._proof)
            line = json.dumps({**entry, "proof": self._proof}, ensure_ascii=True)
            append(self.folder / EXPORT / _LINES, line.encode() + b"\n")
            self._take(entry)


_COUNTS = {"collection": ("ids", ("count",)), "part": ("part", ("rows", "bytes"))}


_FILES = {
    "collection": re.compile(r"\d{3,9}\.ids\.parquet"),
    "part": re.compile(rf"{OF_COLLECTION.pattern}/\d{{5,9}}\.parquet"),
}


def _require_sound(entry: dict[str, Any]) -> None:
    """Require the types and file names of an entry. Raises ValueError, LookupError, TypeError or ArithmeticError."""
    at = datetime.fromisoformat(entry["at"]).astimezone(UTC)
    if entry["kind"] == "session":
        at + timedelta(days=entry["retention_days"])
    if entry["kind"] not in _COUNTS:
        return
    field_name, counts = _COUNTS[entry["kind"]]
    values = entry[field_name]
    if entry["kind"] == "collection" and not OF_COLLECTION.fullmatch(entry["folder"]):
        raise ValueError("a folder is none of a snapshot")
    if entry["kind"] == "collection" and not all(type(start) is int and start >= 0 for start in entry["starts"]):
        raise ValueError("a start is none")
    are_counts = all(type(values[key]) is int and values[key] >= 0 for key in counts)
    if not are_counts or not isinstance(values["sha256"], str):
        raise ValueError("a count is none")
    if not _FILES[entry["kind"]].fullmatch(values["file"]):
        raise ValueError("a file is none of a snapshot")


def _has_links(folder: Path) -> bool:
    return folder.is_symlink() or any(path.is_symlink() for path in folder.rglob("*"))


def _below(file: str) -> str:
    if file.startswith("/") or ".." in file.split("/"):
        raise ValueError(f"{one_line(file, 80)!r} is a file elsewhere")
    return file


OwnFile = Annotated[
    str, AfterValidator(_below)
]  # of a state: the name of a file in the folder of the state, or below it


def proof_of(content: dict[str, Any], secret: bytes, before: str = "") -> str:
    """Return an HMAC, by `audit.secret`, over the content without its proof and digest, and over the proof `before` it."""
    rest = {key: value for key, value in content.items() if key not in ("proof", "sha256")}
    text = before + json.dumps(rest, sort_keys=True, ensure_ascii=True)
    return hmac.new(secret, text.encode(), "sha256").hexdigest()


def holds_another(folder: Path, snapshot_id: str) -> bool:
    """Return whether the folder holds the manifest of another snapshot, perhaps renamed by somebody, which must not be lost."""
    try:
        return bool(json_in(contents(folder / "manifest.json"))["id"] != snapshot_id)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError):
        return True


def place_of(source: str, directory: str) -> str:
    """The source of a manifest, to be compared: a relative path is one in the `directory` where it was given."""
    return source if "://" in source else str(Path(directory, source))


def signed(content: dict[str, Any], *, proven: bool = False) -> dict[str, Any]:
    """Return the content with the digest of `own_digest`; `proven`: also with a proof that only this workspace can make."""
    if proven:
        content = {**content, "proof": proof_of(content, audit.secret())}
    return {**content, "sha256": own_digest(content)}


def own_digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 over everything but this digest itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_parquet(path: Path, table: pa.Table, **options: Any) -> str:
    """Write a Parquet file, whole and flushed or not at all; `options` are for pyarrow. Raises `Terminal` ("disk_full").

    Returns the SHA-256 of the written bytes: the file may be exchanged as soon as it has its name.
    """
    with writing(path) as temporary, temporary.open("wb") as raw:
        pq.write_table(table, output := Digested(raw), compression="zstd", **options)
    return output.digest


def read_parquet(
    path: Path, columns: list[str] | None = None, sha256: str = "", without: Sequence[int] = (), data: bytes = b""
) -> pa.Table:
    """Read a Parquet file of ours, or these columns of it, in a third of the time of a data set of one file.

    `sha256`: the expected digest of its bytes. `data`: these bytes, where they are known. `without`: rows to leave out. Raises
    `Terminal` ("run_damaged") where the digest differs, a row is missing, or the columns are not those of `to_table`.
    """
    with reading(path):
        table = read_table(path, columns, _proven(path, sha256) if sha256 else data, MOST_OWN)
        table.validate(full=True)  # else invalid texts are found only where they are read
        for name in columns or {*CHUNK, *table.column_names}:
            column = table.column(name)
            fits = pa.types.is_fixed_size_list if name == "embedding" else pa.types.is_large_string
            if not fits(column.type) or (name.endswith("id") and column.null_count):
                raise ValueError(f"its column {name} is not as this toolkit writes it")
        if not without:
            return table
        if max(without) >= len(table):
            raise ValueError(f"it has {len(table):,} rows, and row {max(without):,} of it is to be left out")
        mask = np.ones(len(table), bool)
        mask[np.asarray(without)] = False
        return table.filter(pa.array(mask))


def _proven(path: Path, sha256: str) -> bytes:
    data = contents(path, MOST_OWN)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("its bytes are not those that were written")
    return data


def ahead(call: Callable[[T], R], items: Iterable[T], most: int = 1) -> Iterator[R]:
    """Yield what `call` gives for each item, in order; at most `most` calls run in other threads while one result is in use."""
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max(1, most), thread_name_prefix="ahead") as pool:
        for item in items:
            pending.append(pool.submit(call, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Stopping:
    """A progress that raises `Interrupted` once an event is set."""

    def __init__(self, progress: Progress, stop: threading.Event) -> None:
        self._progress, self._stop = progress, stop

    def advance(self, n: int = 1) -> None:
        if self._stop.is_set():
            raise Interrupted(ReasonCode.INTERRUPTED, "stopped, since other work beside it failed or was stopped")
        self._progress.advance(n)


def together(call: Callable[[T, threading.Event], object], items: Iterable[T], most: int) -> None:
    """Call it with each item, at most `most` at a time, in threads.

    The first error, or Ctrl-C, sets the event that each call gets, so that it ends soon. Then the error is raised.
    """
    stop = threading.Event()

    def call_one(item: T) -> None:
        try:
            if not stop.is_set():
                call(item, stop)
        except BaseException:  # set it at once: this thread must not begin another item
            stop.set()
            raise

    with ThreadPoolExecutor(max(1, most), thread_name_prefix="together") as pool:
        futures = [pool.submit(call_one, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    errors = [e for f in futures if (e := f.exception())]
    if errors:
        raise next((e for e in errors if not isinstance(e, Interrupted)), errors[0])
