"""Snapshots: the exact content of a source as Parquet files, and a manifest that proves them.

Layout of a snapshot folder::

    manifest.json               source, times, counts, configuration, SHA-256 and size of every part, status
    <nnn>-<collection>/<nnnnn>.parquet   one part per slice of the collection's frozen id list

A part has the columns id, document (null is None, "" is empty), metadata (JSON with exact types, null is None), uri and
embedding (fixed-size list of float32; null where the store lost the vector). A snapshot that was made from an earlier one
(`follow_snapshot`) shares its files, and names the rows of them that it does not hold. The folder is written as `<id>.partial`
and renamed when it is whole. An interrupted export continues after its last whole part (see `export_journal`): each chunk is
then as it was when its part was read; `sessions` in the manifest holds the times.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from helpers.chunks import ChunkBatch, Metadata, is_sparse
from helpers.errors import Terminal, one_line, redacted
from helpers.formatting import count, numbered
from helpers.reason_codes import ReasonCode
from helpers.results import (
    Progress,
    contents,
    file_digest,
    flush_folder,
    is_leftover,
    silent,
    utc_now,
    write_json,
    writing,
)
from helpers.snapshots import remote
from helpers.snapshots.export_journal import (
    EXPORT,
    MANIFEST,
    ExportJournal,
    SnapshotPart,
    ahead,
    manifest_in,
    own_digest,
    place_of,
    read_parquet,
    signed,
    write_parquet,
)
from helpers.stores import RETRY_AFTER, CollectionInfo, Reader, counted_ids

Changed = Mapping[str, tuple[Collection[str], Collection[str]]]
"""By collection: the ids that changed, and those of them that are to be read now."""
WritePart = Callable[[Path, str, str, Sequence[str], int], "SnapshotPart"]  # root, file, collection, ids, dimension
PART_BYTES = 8 * 2**20  # of vectors in one part: small enough to hold several in memory, large enough to compress


class Snapshot:
    """A whole snapshot on disk. `Snapshot.open(folder)` reads the manifest only."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.id = str(manifest["id"])

    @classmethod
    def open(cls, folder: Path) -> Snapshot:
        """Read the manifest in `folder`. Raises `Terminal` where there is none that can be read."""
        try:
            manifest = manifest_in(contents(folder / "manifest.json"))
            if folder.name.endswith(".partial"):
                raise ValueError("the export was interrupted before it was whole")
            snapshot = cls(folder, manifest)
            for part in (part for name in snapshot.names() for part in snapshot.parts(name)):
                if (folder / part.file).is_symlink() or (folder / part.file).parent.is_symlink():
                    raise ValueError(f"{part.file} is a link")
            return snapshot
        except (OSError, ValueError) as error:
            raise Terminal(
                ReasonCode.SNAPSHOT_UNREADABLE, f"no readable manifest ({error})", where=f"snapshot {folder}",
                next_step="Take the snapshot again (step 21).",
            ) from error  # fmt: skip

    @property
    def total(self) -> int:
        """Chunks in all collections, lost vectors included."""
        return sum(c["count"] for c in self.manifest["collections"])

    @property
    def digest(self) -> str:
        """SHA-256 over the content of the snapshot; `verify` does not change it."""
        content = json.dumps(self.manifest["collections"], sort_keys=True, ensure_ascii=True).encode()
        return hashlib.sha256(content).hexdigest()

    @property
    def manifest_digest(self) -> str:
        """SHA-256 over the entries of the manifest that never change: times, source and retention as well as the content."""
        lasting = {k: v for k, v in self.manifest.items() if k != "status" and not k.endswith("_at")}
        return own_digest(lasting)

    def missing(self) -> list[str]:
        """Return a sentence for each collection that lacks vectors or chunks of the source; [] where the snapshot is complete.

        A server may have writers: a chunk that was deleted while the server was read is not missing.
        """
        sentences = []
        for entry in self.manifest["collections"]:
            name, rows = one_line(entry["name"], 80), entry["count"]
            counted = entry.get("reported_count", rows)
            if lost := sum(part.lost for part in self.parts(entry["name"])):
                sentences.append(f"{name}: {lost:,} of {count(rows, 'chunk')} lost their vector")
            if counted != rows and "://" not in self.manifest["source"]:
                sentences.append(f"{name}: the source counts {count(counted, 'chunk')}, {rows:,} are here")
        return sentences

    @property
    def place(self) -> str:
        """Its source, as `place_of` has it."""
        return place_of(self.manifest["source"], self.manifest.get("directory", ""))

    @property
    def failed(self) -> bool:
        """Whether `verify` found it damaged, and not whole since."""
        return bool(self.manifest.get("failed_at", "") >= self.manifest.get("verified_at", "0"))

    def names(self) -> list[str]:
        return [c["name"] for c in self.manifest["collections"]]

    def collections(self) -> list[CollectionInfo]:
        """Return the collections by name. `count` is that of the frozen ids, `space` the effective one."""
        fields = {f.name for f in dataclasses.fields(CollectionInfo)}
        infos = []
        for entry in self.manifest["collections"]:
            known = {k: v for k, v in entry.items() if k in fields}
            infos.append(CollectionInfo(**{**known, "findings": tuple(known.get("findings", ()))}))
        return infos

    def parts(self, name: str) -> list[SnapshotPart]:
        entry = next(c for c in self.manifest["collections"] if c["name"] == name)
        return [SnapshotPart(**p) for p in entry["parts"]]

    def read(self, part: SnapshotPart) -> ChunkBatch:
        """Return the chunks of a part, in the order of the frozen ids."""
        return from_table(self._table(part))

    def ids(self, part: SnapshotPart) -> list[str]:
        """Return the ids of a part, without reading vectors."""
        return cast(list[str], self._table(part, ["id"]).column("id").to_pylist())

    def some(self, part: SnapshotPart, ids: Collection[str]) -> ChunkBatch:
        """Return the chunks of a part that have one of these ids."""
        table = self._table(part)
        return from_table(table.filter(_among(table, ids)))

    def file(self, part: SnapshotPart) -> Path:
        """Return the path of the file of a part; bring it first where only the storage has it."""
        return remote.at_hand(self.folder / part.file, part.sha256, part.bytes)

    def batches(self, name: str) -> Iterator[ChunkBatch]:
        for part in self.parts(name):
            yield self.read(part)

    def less(self, other: Snapshot) -> Snapshot:
        """Return what this has and the other lacks, file by file: a chunk that was read again counts as different."""
        other_rows = {(name, part.sha256): set(part.without) for name in other.names() for part in other.parts(name)}
        entries = []
        for entry in self.manifest["collections"]:
            parts = []
            for part in self.parts(entry["name"]):
                own_rows = set(range(part.rows + len(part.without))) - set(part.without)
                rows_of_other = other_rows.get((entry["name"], part.sha256))
                if rows := own_rows if rows_of_other is None else own_rows & rows_of_other:
                    parts.append(part.only(rows))
            content = {"count": sum(part.rows for part in parts), "parts": [part.entry() for part in parts]}
            entries.append(entry | content)
        return Snapshot(self.folder, {**self.manifest, "collections": entries})

    def without(self, name: str, ids: Collection[str]) -> Iterator[SnapshotPart]:
        """Yield the parts of a collection without the chunks of these ids; no part for a file of which no row remains."""
        for part in self.parts(name):
            whole = self._table(dataclasses.replace(part, without=()), ["id"])
            removed = set(np.flatnonzero(_among(whole, ids)).tolist()) - set(part.without)
            if not removed:
                yield part
            elif len(removed) < part.rows:
                left_out = tuple(sorted({*part.without, *removed}))
                rest = dataclasses.replace(part, rows=part.rows - len(removed), without=left_out)
                yield rest if not part.lost else dataclasses.replace(rest, lost=int(self.read(rest).lost.sum()))

    def _table(self, part: SnapshotPart, columns: list[str] | None = None) -> pa.Table:
        """Read a part, or these columns of it. Raises `Terminal` where its bytes are not those of the manifest."""
        path = self.file(part)
        try:
            return read_parquet(path, columns, part.sha256, part.without)
        except Terminal as error:
            raise self._damaged(part, error.what) from error

    def verify(self, progress: Progress = silent, since: Snapshot | None = None) -> dict[str, int]:
        """Re-read every byte, also in the storage, compare digests, row counts and ids, and mark the manifest as verified.

        Files that it shares with `since`, which was verified when it was taken, are not read again.
        Returns chunks per collection. Raises `Terminal` ("snapshot_damaged", "snapshot_unreadable" for the manifest)
        that names the first bad file.
        """
        if Snapshot.open(self.folder).digest != self.digest:
            raise Terminal(ReasonCode.SNAPSHOT_ALTERED, "its manifest was exchanged while it was in use",
                           where=str(self.folder), next_step="Find out who writes there; nothing is taken from it.")  # fmt: skip
        counted, prove = dict[str, int](), remote.prover(self.folder, self.manifest)
        verified = {(n, p.sha256) for n in since.names() for p in since.parts(n)} if since is not None else set()
        for name in self.names():
            seen: set[str] = set()
            shared = 0
            for part in self.parts(name):
                if (name, part.sha256) in verified:
                    shared += part.rows
                    progress.advance(part.rows)
                    continue
                prove(part.file, part.sha256, part.bytes)
                ids = self.read(part).ids
                if len(ids) != part.rows or len(set(ids)) != len(ids) or not seen.isdisjoint(ids):
                    raise self._damaged(part, f"{len(ids)} rows where {part.rows} unique ones were written")
                seen.update(ids)
                progress.advance(part.rows)
            counted[name] = len(seen) + shared
        unknown = self._files() - {p.file for n in self.names() for p in self.parts(n)}
        if unknown:
            raise Terminal(ReasonCode.SNAPSHOT_DAMAGED, f"files that nobody wrote: {', '.join(sorted(unknown)[:3])}",
                           where=str(self.folder), next_step="Remove them, or take the snapshot again.")  # fmt: skip
        self.mark("verified")
        return counted

    def mark(self, status: str) -> None:
        """Record a status (created, verified, restored, failed) with its time in the manifest."""
        self.manifest = signed({**self.manifest, "status": status, f"{status}_at": utc_now()})
        write_json(self.folder / "manifest.json", self.manifest)

    def size(self) -> int:
        """Return the bytes of all parts on disk."""
        return sum(p["bytes"] for c in self.manifest["collections"] for p in c["parts"])

    def _files(self) -> set[str]:
        names = (str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file())
        return {name for name in names if name != "manifest.json" and not is_leftover(name, "manifest.json")}

    def _damaged(self, part: SnapshotPart, what: str) -> Terminal:
        remedy = remote.REMEDY if remote.at(self.folder.parent) else "Take the snapshot again (step 21)."
        return Terminal(ReasonCode.SNAPSHOT_DAMAGED, what, where=str(self.folder / part.file), next_step=remedy)


def write_snapshot(
    store: Reader, directory: Path, snapshot_id: str, names: Sequence[str], *, retention_days: int, readers: int = 2,
    progress: Progress = silent, same: Snapshot | None = None, write: WritePart | None = None,
) -> Snapshot:  # fmt: skip
    """Read these collections of a store into `directory/snapshot_id`: freeze the ids, then read slices in parallel.

    An interrupted export of this id continues: its whole parts are verified and not read again. Collections are cut into parts
    as in the snapshot `same`, and a part equal to one of its parts shares its file. `write`: replaces `write_part`, for example
    on a worker. Raises `Terminal` where a listed chunk can be read neither with nor without its vector, or the id exists.
    """
    folder, partial = directory / snapshot_id, directory / f"{snapshot_id}.partial"
    if folder.exists():
        raise Terminal(ReasonCode.SNAPSHOT_EXISTS, "a snapshot of this id exists", where=str(folder))
    if ExportJournal.is_whole(partial, store.label, sorted(names)):
        return complete(partial, folder, progress)  # the last session ended between manifest and renaming
    listed = store.names()
    journal = ExportJournal.open(partial, {"id": snapshot_id, "source": store.label}, retention_days)
    entries = [_write_collection(store, journal, name, readers, progress, same, write) for name in sorted(names)]
    chosen = {EXPORT, *(journal.collections[name]["folder"] for name in names)}
    for other in [path for path in partial.iterdir() if path.is_dir() and path.name not in chosen]:
        # The folder of a collection that is no longer chosen; a folder with a manifest is a snapshot that somebody moved there.
        if not (other / "manifest.json").exists():
            shutil.rmtree(other)
    journal.sessions[-1]["ended"] = utc_now()
    sessions = [{key: s[key] for key in ("started", "ended", "chunks")} for s in journal.sessions]
    content = {"sessions": sessions, "notes": journal.notes, "listed": listed, "collections": entries}
    return _whole(store, partial, retention_days, progress, **content)


def follow_snapshot(
    store: Reader, directory: Path, snapshot_id: str, names: Sequence[str], previous: Snapshot, changed: Changed, *,
    retention_days: int, progress: Progress = silent,
) -> Snapshot:  # fmt: skip
    """Take a snapshot like `previous`, and read only the chunks that changed. The files of the others are shared; a collection
    that `previous` lacks must be in `changed`.

    After a kill it begins again. Raises `Terminal` like `write_snapshot`.
    """
    folder, partial, started, read = directory / snapshot_id, directory / f"{snapshot_id}.partial", utc_now(), 0
    if folder.exists():
        raise Terminal(ReasonCode.SNAPSHOT_EXISTS, "a snapshot of this id exists", where=str(folder))
    set_aside, listed = ExportJournal.clear(partial), store.names()
    partial.mkdir(parents=True)
    earlier = {entry["name"]: entry for entry in previous.manifest["collections"]}
    folders = {name: parts[0].file.partition("/")[0] for name in previous.names() if (parts := previous.parts(name))}
    entries = []
    for name in sorted(names):
        entry = earlier.get(name)
        if entry is None or name in changed:
            removed, to_read = changed[name]
            info, subfolder = store.info(name), folders.setdefault(name, _folder(folders.values(), name))
            parts = list(previous.without(name, removed)) if entry is not None else []
            numbers = [int(Path(part.file).stem) for part in previous.parts(name)] if entry is not None else []
            ids, rows = sorted(to_read), part_rows(info.dimension or 0, store.limits().read_rows)
            (partial / subfolder).mkdir()
            for number, start in enumerate(range(0, len(ids), rows), start=max(numbers, default=0) + 1):
                file, slice_ids = f"{subfolder}/{number:05d}.parquet", ids[start : start + rows]
                part = write_part(store, partial, file, name, slice_ids, info.dimension or 0)
                if part.rows:
                    parts.append(part)
                else:  # deleted meanwhile
                    (partial / file).unlink()
                read += part.rows
            lost = sum(part.lost for part in parts)
            entry = dataclasses.asdict(info) | {
                "count": sum(part.rows for part in parts), "reported_count": info.count,
                "findings": [*info.findings, *_lost(lost)], "parts": [part.entry() for part in parts],
            }  # fmt: skip
        entries.append(entry)
        for part in (SnapshotPart(**part) for part in entry["parts"]):
            path = partial / part.file
            path.parent.mkdir(exist_ok=True)
            if not path.exists() and not _linked(existing := previous.file(part), path):
                shutil.copyfile(existing, path)
        progress.advance(entry["count"])
    note = f"{read:,} chunks were read; the others are as snapshot {previous.id} has them, whose files it shares{set_aside}"
    about = {"sessions": [{"started": started, "ended": utc_now(), "chunks": read}], "notes": [note], "listed": listed}
    return _whole(store, partial, retention_days, progress, collections=entries, **about)


def _whole(store: Reader, partial: Path, retention_days: int, progress: Progress, **content: Any) -> Snapshot:
    """Write the manifest of what was read from this store, and give the folder its final name."""
    folder = partial.with_name(partial.name.removesuffix(".partial"))
    write_manifest(
        partial, id=folder.name, retention_days=retention_days, created=content["sessions"][0]["started"], source=store.label,
        chroma_version={"source": redacted(store.version), "client": importlib.metadata.version("chromadb")},
        findings=list(getattr(store, "findings", ())), repairs=list(getattr(store, "repairs", ())), **content,
    )  # fmt: skip
    return complete(partial, folder, progress)


def write_manifest(folder: Path, *, retention_days: int, **content: Any) -> None:
    """Write the manifest of the snapshot in `folder`, whose parts are written; `content`: its entries.

    Its `directory` is the folder to which a relative path of the source refers.
    """
    until = datetime.now(UTC) + timedelta(days=retention_days)
    manifest = {"format": MANIFEST, "status": "created", "retain_until": until.isoformat(timespec="seconds"),
                "directory": str(Path.cwd())} | content  # fmt: skip
    write_json(folder / "manifest.json", signed(manifest, proven=True))


def complete(partial: Path, folder: Path, progress: Progress = silent) -> Snapshot:
    """Give a finished snapshot its final name, after it was put into its storage, if it has one."""
    remote.put_whole(partial, progress)
    shutil.rmtree(partial / EXPORT, ignore_errors=True)
    flush_folder(partial)
    partial.rename(folder)
    flush_folder(folder.parent)
    return Snapshot.open(folder)


def part_rows(dimension: int, read_rows: int) -> int:
    """Return the chunks in one part for vectors of this dimension; at most those of one request."""
    return max(1, min(read_rows, max(100, min(5_000, PART_BYTES // max(1, 4 * dimension)))))


def _frozen(
    store: Reader, journal: ExportJournal, name: str, same: Snapshot | None
) -> tuple[CollectionInfo, list[str], list[int], list[str]]:
    """Return the collection as it was when its ids were frozen, these ids, the first row of each part, and new findings."""
    identity, info, known = store.identity(name), store.info(name), journal.collections.get(name)
    if known is not None:
        before = CollectionInfo(**{**known["info"], "findings": tuple(known["info"]["findings"])})
        ids = journal.ids(name)
        if ids is None:
            journal.note(f"the list of ids of collection {name} is damaged or gone: it is read again")
        elif _settings(before) != _settings(info) or known.get("uuid", identity) != identity:
            journal.note(f"collection {name} is not the one that the export began with: it is read again")
        elif info.count == before.count:
            return before, ids, known["starts"], []
        else:
            change = f"{before.count:,} chunks at {known['at']}, when its ids were frozen, and {info.count:,} "
            change += "when the export went on"
            return before, ids, known["starts"], [f"the source changed: {change}; step 22 finds what differs"]
    counted, ids = counted_ids(store, name)
    info = dataclasses.replace(info, count=counted)
    rows = part_rows(info.dimension or 0, store.limits().read_rows)
    ids, starts = _as_before(ids, rows, same, name)
    folder = known["folder"] if known else _folder((c["folder"] for c in journal.collections.values()), name)
    shutil.rmtree(journal.folder / folder, ignore_errors=True)  # parts that belong to other ids
    journal.freeze(name, folder, dataclasses.asdict(info), ids, starts, identity)
    return info, ids, starts, []


def _as_before(ids: list[str], rows: int, same: Snapshot | None, name: str) -> tuple[list[str], list[int]]:
    """Return the ids in the order of that snapshot, new ones last, and the first row of each part of about `rows`, as in it.

    So only parts in which a chunk was added, deleted or changed become new files. A part with a fourth left joins its neighbour.
    """
    order: dict[str, None] = {}
    starts = [0]
    if same is not None and name in same.names():
        present = set(ids)
        for part in same.parts(name):
            if len(order) - starts[-1] > rows // 4:
                starts.append(len(order))
            with suppress(Terminal):  # a damaged part is ignored
                order |= dict.fromkeys(chunk for chunk in same.ids(part) if chunk in present)
    order |= dict.fromkeys(ids)
    starts += range(starts[-1] + rows, len(order), rows)
    return list(order), [start for start in starts if start < len(order)]


def _linked(file: Path, path: Path) -> bool:
    """Make `path` a hard link to the file; return False on a disk without links."""
    with suppress(OSError), writing(path) as temporary:
        temporary.unlink()
        os.link(file, temporary)
        return True
    return False


def _folder(folders: Iterable[str], name: str) -> str:
    return numbered(max((int(folder.partition("-")[0]) for folder in folders), default=0) + 1, name)


def _settings(info: CollectionInfo) -> str:
    """Return the settings by which a collection counts as the same one."""
    settings = {key: value for key, value in dataclasses.asdict(info).items() if key not in ("count", "findings")}
    return json.dumps(settings, sort_keys=True, default=str)


def _write_collection(
    store: Reader, journal: ExportJournal, name: str, readers: int, progress: Progress, same: Snapshot | None,
    write: WritePart | None,
) -> dict[str, Any]:  # fmt: skip
    info, ids, starts, extra = _frozen(store, journal, name, same)
    folder = journal.collections[name]["folder"]
    (journal.folder / folder).mkdir(exist_ok=True)
    writer = write or partial(write_part, store)
    file_of = {part.sha256: part.file for part in same.parts(name)} if same is not None and name in same.names() else {}

    def write_one(item: tuple[int, tuple[int, int]]) -> SnapshotPart:
        number, (start, end) = item
        known = journal.intact(name, start)
        if known is None:
            file = f"{folder}/{number:05d}.parquet"
            part = writer(journal.folder, file, name, ids[start:end], info.dimension or 0)
            if same is not None and part.sha256 in file_of:
                existing = same.folder / file_of[part.sha256]
                if existing.is_file() and file_digest(existing) == part.sha256:  # else it was damaged or exchanged
                    _linked(existing, journal.folder / file)
            journal.finish(name, start, part.entry())
        else:
            part = SnapshotPart(**known)
        progress.advance(end - start)
        return part

    parts = list(ahead(write_one, enumerate(pairwise([*starts, len(ids)]), 1), readers))
    if (uuid := store.identity(name)) != journal.collections[name].get("uuid", uuid):
        raise Terminal(ReasonCode.SOURCE_CHANGED, "was dropped and made anew while it was read",
                       where=f"collection {name} of {store.label}", next_step="Repeat when that has ended.")  # fmt: skip
    findings = [*info.findings, *extra]
    findings += _lost(sum(p.lost for p in parts))
    if len(ids) != info.count:
        findings.append(f"the store counts {info.count} chunks and lists {len(ids)} ids")
    findings = list(dict.fromkeys(findings))
    counts = {"count": sum(p.rows for p in parts), "reported_count": info.count}
    return dataclasses.asdict(info) | counts | {"findings": findings, "parts": [p.entry() for p in parts]}


def _lost(chunks: int) -> list[str]:
    return [f"{chunks} chunks are listed but their vectors cannot be read"] if chunks else []


def _among(table: pa.Table, ids: Collection[str]) -> pa.ChunkedArray:
    """Return which rows have one of these ids."""
    return pc.is_in(table.column("id"), pa.array(list(ids), pa.large_string()))


def write_part(store: Reader, root: Path, file: str, name: str, ids: Sequence[str], dimension: int) -> SnapshotPart:
    """Read these chunks of a collection into a file below `root`. Raises `Terminal` like `write_snapshot`."""
    batch = store.read(name, ids)
    for seconds in (*RETRY_AFTER, None):
        absent = set(ids) - set(batch.ids)
        unread = absent & set(store.ids(name)) if absent else set()
        if not unread:
            break
        if seconds is None:
            raise Terminal(
                ReasonCode.SOURCE_UNREADABLE_IDS, f"{len(unread)} listed ids cannot be read, such as {min(unread)}",
                where=f"collection {name} of {store.label}", next_step="See notebook 48.",
            )  # fmt: skip
        time.sleep(seconds)
        batch = store.read(name, ids)
    path, options = root / file, {"compression_level": 1, "use_dictionary": False, "write_statistics": False}
    digest = write_parquet(path, to_table(batch, dimension), **options)
    if file_digest(path) != digest:
        raise Terminal(ReasonCode.SNAPSHOT_ALTERED, "another file lies where this one was written", where=str(path),
                       next_step="Find out who writes there, and begin again.")  # fmt: skip
    return SnapshotPart(file, len(batch), path.stat().st_size, digest, int(batch.lost.sum()))


def to_table(batch: ChunkBatch, dimension: int | None = None) -> pa.Table:
    """Return a batch as an Arrow table; `dimension` sets the vectors' type where the batch may hold none."""
    width = dimension if dimension is not None else batch.dimension
    lost = pa.array(batch.lost)
    if width and batch.dimension == width:
        values = pa.array(np.ascontiguousarray(batch.embeddings).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(values, width, mask=lost)
    elif batch.dimension and not batch.lost.all():
        problem = f"vectors of {batch.dimension} components where {width} are expected"
        raise Terminal(ReasonCode.MIXED_DIMENSIONS, problem)
    else:
        vectors = pa.nulls(len(batch), pa.list_(pa.float32(), max(1, width)))
    return pa.table(
        {
            "id": pa.array(batch.ids, pa.large_string()),
            "document": pa.array(batch.documents, pa.large_string()),
            "metadata": pa.array([encode_metadata(m) for m in batch.metadatas], pa.large_string()),
            "uri": pa.array(batch.uris, pa.large_string()),
            "embedding": vectors,
        }
    )


def from_table(table: pa.Table) -> ChunkBatch:
    """Return the batch of `to_table`, bit for bit."""
    column = table.column("embedding").combine_chunks()
    vectors = column if isinstance(column, pa.FixedSizeListArray) else pa.concat_arrays(column.chunks)
    lost = pc.is_null(vectors).to_numpy(zero_copy_only=False)
    width = vectors.type.list_size
    if lost.all():
        embeddings = np.full((len(vectors), width), np.nan, np.float32)
    else:
        first = vectors.offset
        flat = vectors.values.to_numpy(zero_copy_only=False)[first * width : (first + len(vectors)) * width]
        embeddings = flat.reshape(-1, width).astype(np.float32, copy=True)
        embeddings[lost] = np.nan
    return ChunkBatch(
        ids=table.column("id").to_pylist(),
        documents=table.column("document").to_pylist(),
        embeddings=embeddings,
        metadatas=[decode_metadata(m) for m in table.column("metadata").to_pylist()],
        uris=table.column("uri").to_pylist(),
        lost=np.asarray(lost, dtype=bool),
    )


_SPARSE = "#sparse_vector"  # no metadata value of Chroma is a mapping, so the key cannot collide


def encode_metadata(metadata: Metadata | None) -> str | None:
    """Return metadata as JSON that distinguishes int, float, bool, text, lists, NaN and sparse vectors."""
    if metadata is None:
        return None
    return json.dumps(metadata, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=_encode_other)


def _encode_other(value: Any) -> Any:
    if is_sparse(value):
        return {_SPARSE: {"indices": list(value.indices), "values": list(value.values), "labels": value.labels}}
    if isinstance(value, np.generic):
        return value.item()
    problem = f"a metadata value of type {type(value).__name__} cannot be kept exactly"
    raise Terminal(ReasonCode.UNSUPPORTED_METADATA, problem)


def decode_metadata(text: str | None) -> Metadata | None:
    """Return the inverse of `encode_metadata`. Raises `Terminal` ("run_damaged")."""
    try:
        return None if text is None else {key: _decode_value(value) for key, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = f"a file of chunks has metadata that this toolkit does not write: {one_line(text or '', 60)}"
        raise Terminal(ReasonCode.RUN_DAMAGED, problem) from error


def _decode_value(value: Any) -> Any:
    if not (isinstance(value, dict) and set(value) == {_SPARSE}):
        return value
    from helpers.stores.door import SparseVector

    return SparseVector(**value[_SPARSE])
