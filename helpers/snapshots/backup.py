"""Snapshots without a migration: taken on a schedule, exported as plain files for other tools, and imported from such files.

A folder of files, as `export` writes it and `from_files` reads it::

    export.json              the collections: name, file, rows, SHA-256, space, dimension, metadata, configuration
    <nnn>-<collection>.parquet or .jsonl   all chunks of a collection, in the order of the snapshot

A chunk has id (text), document (text, or null), uri (text, or null), metadata (an object, in Parquet as JSON text, or null)
and embedding (a list of float32; null where the source had lost the vector). JSON holds each float32 as the same number in
double precision, so both formats return every bit. Memory holds a part of one collection, and its ids.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.chunks import ChunkBatch, Vectors, is_sparse, parquet_batches
from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.formatting import numbered
from helpers.parameters import Parameters
from helpers.parameters.sections import Collections
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, contents, file_digest, json_in, silent, utc_now, whole, write_json, writing
from helpers.snapshots import remote
from helpers.snapshots.export_journal import (
    CHUNK,
    EXPORT,
    PLAIN,
    ExportJournal,
    SnapshotPart,
    holds_another,
    place_of,
    write_parquet,
)
from helpers.snapshots.retention import Recorded, begin, differences, digests, record
from helpers.snapshots.snapshot import (
    Snapshot,
    complete,
    decode_metadata,
    encode_metadata,
    part_rows,
    to_table,
    write_manifest,
    write_snapshot,
)
from helpers.stores import CollectionInfo, Reader, Space

FORMAT = 1
ABOUT = "export.json"
FORMATS = ("parquet", "jsonl")
_LINE = 64 * 2**20  # bytes of one chunk as JSON: a document and a vector of any size that a server accepts
_WIDEST = 65_536  # dimensions
_PENDING = 64 * 2**20  # bytes of lines that wait for their part
_KINDS: dict[str, Any] = {
    "name": str, "count": int, "dimension": int | None, "space": str, "declared_space": str, "metadata": dict | None,
    "configuration": dict, "schema": dict | None, "embedding_function": str | None,
}  # fmt: skip
_GROUP = 1_000  # rows of a foreign file that are read at a time


# -- taken on a schedule -----------------------------------------------------------------------------------------------


def newest(directory: Path, source: str, holds: Callable[[Snapshot], bool]) -> Snapshot | None:
    """The newest snapshot of this source that `_taken` gives, that has all its files, `holds` what is asked for and was not found
    damaged; None where there is none. In a storage it counts only as long as it is whole there."""
    is_stored = partial(storage.has, storage.mirror()) if (storage := remote.at(directory)) is not None else None
    sound = (snapshot for snapshot in _taken(directory, source) if holds(snapshot) and not snapshot.failed)
    return next((snapshot for snapshot in sound if _is_complete(snapshot, is_stored)), None)


def base_of(directory: Path, source: str, names: Sequence[str]) -> Snapshot | None:
    """The newest snapshot of this source with one of these collections, whose files the next one may share."""
    return newest(directory, source, lambda snapshot: not {*names}.isdisjoint(snapshot.names()))


def _taken(directory: Path, source: str) -> list[Snapshot]:
    """The snapshots of this source that were taken there, as signed lines of the log have them, the newest first.

    A relative path as `source` is one in this folder."""
    place = place_of(source, str(Path.cwd()))
    opened = (_opened(directory / name, line) for name, line in digests(directory).items() if PLAIN.fullmatch(name))
    ours = [snapshot for snapshot in opened if snapshot is not None and snapshot.place == place]
    return sorted(ours, key=lambda snapshot: (str(snapshot.manifest["created"]), snapshot.id), reverse=True)


def lacking(rules: Collections, snapshot: Snapshot) -> list[str]:
    """The collections that the rules select, of those that the source had when it was taken, and that it does not hold.

    What `include` names without a wildcard counts whether the source had it or not. Older toolkits did not note what the source
    had: there a pattern cannot be resolved, and is in the answer itself."""
    named = {name for name in rules.include if not re.search(r"[*?[]", name)}
    listed: list[str] | None = snapshot.manifest.get("listed")
    wanted = {name for name in named.union(listed or ()) if rules.selects(name)}
    unknown = {*rules.include} - named if listed is None else set()
    return sorted((wanted | unknown).difference(snapshot.names()))


def why_none(directory: Path, source: str, rules: Collections, where: str) -> str:
    """Why the newest snapshot of this source does not count for what the rules select; `where` is what they are kept in."""
    if not (taken := _taken(directory, source)):
        return f"there is none in {where}"
    lacks = ", ".join(lacking(rules, taken[0]))
    why = (
        "was found damaged"
        if taken[0].failed
        else f"lacks {one_line(lacks)}"
        if lacks
        else f"has not all its files in {where}"
    )
    return f"the newest, {taken[0].id}, {why}"


def _opened(folder: Path, recorded: Recorded) -> Snapshot | None:
    """Return the snapshot in the folder if it can be read and is the one that was taken, else None."""
    if folder.is_symlink():
        return None
    try:
        snapshot = Snapshot.open(folder)
    except RunbookError:
        return None
    return None if any(differences(snapshot, [recorded])) else snapshot


def _is_complete(snapshot: Snapshot, is_stored: Callable[[str, Mapping[str, Any]], bool] | None) -> bool:
    if is_stored is not None:
        return is_stored(snapshot.id, snapshot.manifest)
    files = [(snapshot.folder / part.file, part.bytes) for name in snapshot.names() for part in snapshot.parts(name)]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def chosen(parameters: Parameters, store: Reader) -> list[str]:
    """Return the names of the collections that the parameters select. Raises `UsageError` where none is left."""
    names = sorted(name for name in store.names() if parameters.collections.selects(name))
    if not names:
        _refuse(
            "no collection of the source is left", store.label, "Look at collections.include and collections.exclude."
        )
    return names


def take(
    parameters: Parameters, store: Reader, names: Sequence[str], snapshot_id: str, base: Snapshot | None,
    progress: Progress = silent, *, without_lost: bool = False,
) -> Snapshot:  # fmt: skip
    """Take a snapshot of these collections of an open source; parts equal to those of `base` share its files.

    Every chunk is read: Chroma does not report changes. `without_lost` accepts missing vectors and chunks, which the signed line
    then records. Raises `Terminal` ("snapshot_exists") for an id that exists.
    """
    rules = parameters.snapshot
    directory = remote.prepared(rules)
    directory.mkdir(parents=True, exist_ok=True)
    if (storage := remote.of(rules)) is not None:
        storage.mirror()  # an id that another machine used exists
    origin = {"source": store.label, "base": base.id if base is not None else ""}
    begin(directory, snapshot_id, **origin)
    taken = write_snapshot(
        store, directory, snapshot_id, names, retention_days=rules.retention_days,
        readers=store.limits().readers(min(2, parameters.migration.workers)), progress=progress, same=base,
    )  # fmt: skip
    accepted: dict[str, Any] = {"without_lost": True} if without_lost and taken.missing() else {}
    record(directory, taken=taken, source=store.label, base=origin["base"], **accepted)
    return taken


def is_accepted(snapshot: Snapshot) -> bool:
    """Return whether nothing is missing in it, or the signed line beside it records that this was accepted."""
    recorded = digests(snapshot.folder.parent).get(snapshot.folder.name)
    return not snapshot.missing() or (recorded is not None and recorded.without_lost)


def remarks(taken: Snapshot) -> Iterator[str]:
    """Yield a line for each note, finding, kind of repair on the copy, and missing item of a snapshot."""
    manifest = taken.manifest
    yield from manifest["notes"]
    yield from (f"Found: {finding}" for finding in manifest.get("findings", ()))
    for entry in manifest["collections"]:
        yield from (f"Found in {one_line(entry['name'], 80)}: {finding}" for finding in entry["findings"])
    kinds = Counter[str]()
    for repair in manifest.get("repairs", ()):
        kinds[repair["repair"]] += repair.get("count", 1)
    yield from (f"On the copy, as the manifest lists under repairs: {n:,} {kind}" for kind, n in kinds.items())
    yield from (f"Missing: {sentence}" for sentence in taken.missing())


def own_bytes(snapshot: Snapshot) -> int:
    """Return the bytes of the parts that no other snapshot shares, which its removal would free."""
    files = (snapshot.folder / part.file for name in snapshot.names() for part in snapshot.parts(name))
    return sum(status.st_size for status in (file.stat() for file in files) if status.st_nlink == 1)


# -- export ------------------------------------------------------------------------------------------------------------


def export(
    snapshot: Snapshot, into: Path, form: str, names: Sequence[str], progress: Progress = silent
) -> dict[str, int]:
    """Write these collections as files that need no Chroma, whole or not at all; return the number of chunks by collection.

    Raises `UsageError` where `into` exists, or JSON cannot hold a value of a chunk; `Terminal` where a part is damaged.
    """
    if into.exists():
        _refuse("it exists", str(into), "Give a folder that is not there yet.")
    infos = [info for info in snapshot.collections() if info.name in names]
    written: dict[str, int] = {}
    entries = []
    with whole(into) as folder:
        for number, info in enumerate(infos, 1):
            file = f"{numbered(number, info.name)}.{form}"
            with writing(folder / file) as path:
                (_to_parquet if form == "parquet" else _to_jsonl)(snapshot, info, path, progress)
            rows = sum(part.rows for part in snapshot.parts(info.name))
            entry = {key: value for key, value in dataclasses.asdict(info).items() if key != "count"}
            entries.append(entry | {"file": file, "rows": rows, "sha256": file_digest(folder / file)})
            written[info.name] = rows
        write_json(
            folder / ABOUT,
            {
                "format": FORMAT, "written": utc_now(), "snapshot": snapshot.id, "digest": snapshot.digest,
                "source": snapshot.manifest["source"], "chroma_version": snapshot.manifest["chroma_version"]["source"],
                "collections": entries,
            },
        )  # fmt: skip
    return written


def unfinished(folder: Path) -> list[Path]:
    """Return the folders beside this one of killed or running exports into it: a name does not prove whose it is."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{16}}\.partial")
    return sorted(path for path in folder.parent.glob(".*.partial") if name.fullmatch(path.name))


_SCHEMA = pa.schema([(name, pa.list_(pa.float32()) if name == "embedding" else pa.string()) for name in CHUNK])


def _to_parquet(snapshot: Snapshot, info: CollectionInfo, path: Path, progress: Progress) -> None:
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd", use_dictionary=False) as file:
        for batch in snapshot.batches(info.name):
            table = to_table(batch, info.dimension or batch.dimension)
            vectors = [None if lost else row for row, lost in zip(batch.embeddings, batch.lost, strict=True)]
            columns = [table.column(name).cast(pa.string()) for name in CHUNK[:-1]]
            file.write_table(pa.table([*columns, pa.array(vectors, pa.list_(pa.float32()))], schema=_SCHEMA))
            progress.advance(len(batch))


def _to_jsonl(snapshot: Snapshot, info: CollectionInfo, path: Path, progress: Progress) -> None:
    with path.open("r+b") as file:
        for batch in snapshot.batches(info.name):
            vectors = batch.embeddings.astype(np.float64)
            for row, chunk in enumerate(batch.ids):
                lost = bool(batch.lost[row])
                text = encode_metadata(batch.metadatas[row])
                if not (lost or np.isfinite(vectors[row]).all()) or not _is_json(text):
                    where = f"chunk {one_line(chunk, 80)} of collection {one_line(info.name, 80)}"
                    _refuse("a number that is not finite: JSON has none", where, "Use --format parquet.")
                line: dict[str, Any] = {"id": chunk, "document": batch.documents[row], "uri": batch.uris[row]}
                line |= {"metadata": None if text is None else orjson.Fragment(text)}
                line |= {"embedding": None if lost else vectors[row]}
                file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
            progress.advance(len(batch))


def _is_json(text: str | None) -> bool:
    try:
        return text is None or orjson.loads(text) is not None
    except orjson.JSONDecodeError:
        return False


# -- import ------------------------------------------------------------------------------------------------------------


def from_files(
    folder: Path,
    directory: Path,
    snapshot_id: str,
    retention_days: int,
    space: Space | None,
    progress: Progress = silent,
) -> tuple[Snapshot, dict[str, int]]:
    """Make a snapshot of the files in a folder, for `restore`; return it, and the count of rounded numbers by collection.

    Without an `export.json` each .parquet or .jsonl file is a collection of its name, in `space`. Raises `UsageError`, in
    one line that names file and row, for a row that is no chunk; no file is left then.
    """
    source = f"files in {folder.name}"
    infos, version = _described(folder, space)
    notes: list[str] = []
    final, partial = directory / snapshot_id, directory / f"{snapshot_id}.partial"
    if final.exists() or (partial / EXPORT).exists():
        raise Terminal(ReasonCode.SNAPSHOT_EXISTS, "a snapshot of this id exists", where=str(final))
    directory.mkdir(parents=True, exist_ok=True)
    begin(directory, snapshot_id, source=source, base="")
    if partial.exists():  # of an import that was killed
        is_own = not holds_another(partial, snapshot_id) and snapshot_id not in digests(directory)
        if set_aside := ExportJournal.clear(partial, ours=is_own):
            notes.append(f"this was not the first import of this id{set_aside}")
    started, rounded = utc_now(), dict[str, int]()
    partial.mkdir()
    try:
        entries = []
        for number, (file, info) in enumerate(infos, 1):
            entry, rounded[info.name] = _collection(partial, numbered(number, info.name), file, info, progress)
            entries.append(entry)
        write_manifest(
            partial, id=snapshot_id, retention_days=retention_days, created=started, source=source,
            chroma_version={"source": version, "client": importlib.metadata.version("chromadb")}, findings=[], repairs=[],
            sessions=[{"started": started, "ended": utc_now(), "chunks": sum(e["count"] for e in entries)}],
            notes=notes, collections=sorted(entries, key=lambda entry: entry["name"]),
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    snapshot = complete(partial, final, progress)
    record(directory, taken=snapshot, source=source, base="")
    return snapshot, {name: n for name, n in rounded.items() if n}


def _refuse(what: str, where: str, next_step: str = "Correct the file, and import again.") -> NoReturn:
    raise UsageError(ReasonCode.USAGE, what, where=where, next_step=next_step)


Files = list[tuple[Path, CollectionInfo]]


def _described(folder: Path, space: Space | None) -> tuple[Files, str]:
    """Return the files with their collections, and the version of the Chroma that they come from."""
    if not (folder / ABOUT).exists():
        return _plain_files(folder, space), "unknown"
    try:
        content = json_in(contents(folder / ABOUT), **_EXACT)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this toolkit reads {FORMAT}")
        files = [_exported(folder, entry) for entry in content["collections"]]
        if len({file for file, _ in files}) < len(files) or len({info.name for _, info in files}) < len(files):
            raise ValueError("a file, or a name of a collection, occurs twice")
        return files, str(content["chroma_version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else str(error)
        _refuse(one_line(problem, 200), str(folder / ABOUT), "Export again, or give the files without it and --space.")


def _plain_files(folder: Path, space: Space | None) -> Files:
    files = sorted(p for p in folder.iterdir() if p.suffix.removeprefix(".") in FORMATS)
    if not files:
        _refuse(f"no {ABOUT}, and no .parquet or .jsonl file", str(folder), "Give the folder of an export.")
    if links := [file.name for file in files if file.is_symlink() or not file.is_file()]:
        _refuse("a link, or no plain file", str(folder / links[0]))
    if len({file.stem for file in files}) < len(files):
        _refuse("two files of one name: each is a collection", str(folder), "Rename one of them.")
    if space is None:
        _refuse(f"no {ABOUT}, so nothing says how vectors are compared", str(folder), "Give --space.")
    return [(file, CollectionInfo(file.stem, 0, None, space, space)) for file in files]


def _exported(folder: Path, entry: dict[str, Any]) -> tuple[Path, CollectionInfo]:
    """Return file and collection of a row of export.json. Raises ValueError, KeyError or TypeError for a bad row."""
    fields = {f.name for f in dataclasses.fields(CollectionInfo)} - {"count", "findings"}
    values = {key: value for key, value in entry.items() if key in fields}
    info = CollectionInfo(count=entry["rows"], findings=tuple(map(str, entry["findings"])), **values)
    file = folder / Path(entry["file"]).name
    for name, kinds in _KINDS.items():
        if not isinstance(getattr(info, name), kinds) or isinstance(getattr(info, name), bool):
            raise TypeError(f"collection {one_line(str(info.name), 60)} has another kind of {name}")
    if {info.space, info.declared_space} - {"l2", "cosine", "ip"}:
        raise ValueError(f"collection {one_line(info.name, 60)} has space {one_line(info.space, 20)}")
    if not 0 < (1 if info.dimension is None else info.dimension) <= _WIDEST or info.count < 0:
        raise ValueError(f"collection {one_line(info.name, 60)} has {info.dimension} dimensions, {info.count} rows")
    if file.is_symlink() or not file.is_file() or file_digest(file) != entry["sha256"]:
        raise ValueError(f"{file.name} is not what was written")
    return file, info


def _collection(
    root: Path, folder: str, file: Path, info: CollectionInfo, progress: Progress
) -> tuple[dict[str, Any], int]:
    """Write the parts of a collection; return its entry of the manifest, and the count of rounded numbers."""
    (root / folder).mkdir()
    seen: set[str] = set()
    parts: list[SnapshotPart] = []
    rounded, dimension = 0, info.dimension
    read = _parquet_rows if file.suffix == ".parquet" else _jsonl_rows
    with closing(_batches(file, read(file), dimension, seen)) as batches:
        for batch, inexact in batches:
            rounded, dimension = rounded + inexact, dimension or batch.dimension or None
            name = f"{folder}/{len(parts) + 1:05d}.parquet"
            write_parquet(root / name, to_table(batch, dimension or 0), compression_level=1, use_dictionary=False)
            path = root / name
            parts.append(SnapshotPart(name, len(batch), path.stat().st_size, file_digest(path), int(batch.lost.sum())))
            progress.advance(len(batch))
    if info.count and info.count != len(seen):
        _refuse(f"{len(seen):,} chunks, and {ABOUT} says {info.count:,}", str(file), "Export again.")
    entry = dataclasses.asdict(dataclasses.replace(info, dimension=dimension, count=len(seen)))
    return entry | {"reported_count": len(seen), "parts": [dataclasses.asdict(part) for part in parts]}, rounded


Row = tuple[str, Mapping[str, Any], int]  # where it is, its fields, and its bytes


def _batches(
    file: Path, rows: Iterator[Row], dimension: int | None, seen: set[str]
) -> Generator[tuple[ChunkBatch, int]]:
    """Yield batches of a part's length, and the count of their rounded numbers. Refuses an id that occurs twice."""
    pending: list[Row] = []
    size = 0
    for where, row, weight in rows:
        pending.append((where, row, weight))
        size += weight
        vector = row.get("embedding")
        if dimension is None and isinstance(vector, list):
            dimension = len(vector)
        if (dimension or 0) > _WIDEST:
            _refuse(f"an embedding of {dimension:,} numbers; {_WIDEST:,} at most are read", f"{file}, {where}")
        if len(pending) >= part_rows(dimension or 0, _GROUP) or size > _PENDING:
            yield _batch(file, pending, dimension, seen)
            pending, size = [], 0
    if pending:
        yield _batch(file, pending, dimension, seen)


def _batch(file: Path, rows: Sequence[Row], dimension: int | None, seen: set[str]) -> tuple[ChunkBatch, int]:
    width = dimension or 0
    vectors, lost, rounded = np.full((len(rows), width), np.nan, np.float32), np.zeros(len(rows), bool), 0
    ids: list[str] = []
    documents: list[str | None] = []
    uris: list[str | None] = []
    metadatas: list[Any] = []
    finite = file.suffix != ".parquet"  # JSON has only finite numbers; Parquet holds all numbers of the source
    for number, (where, row, _) in enumerate(rows):

        def refuse(what: str, where: str = where) -> NoReturn:
            _refuse(what, f"{file}, {where}")

        if unknown := sorted(set(row) - set(CHUNK)):
            refuse(f"a field {one_line(str(unknown[0]), 60)!r}; a chunk has {', '.join(CHUNK)}")
        chunk = row.get("id")
        if not (isinstance(chunk, str) and chunk and _is_text(chunk)):
            refuse("an id that is no text")
        if chunk in seen:
            refuse(f"the id {one_line(chunk, 80)!r} for the second time")
        seen.add(chunk)
        ids.append(chunk)
        for name, column in (("document", documents), ("uri", uris)):
            if not isinstance(value := row.get(name), str | None) or not _is_text(value or ""):
                refuse(f"a {name} that is no text")
            column.append(value)
        metadatas.append(_metadata(row.get("metadata"), refuse, finite))
        vector = row.get("embedding")
        lost[number] = vector is None
        if vector is None:
            continue
        vectors[number], exact = _vector(vector, width, refuse, finite)
        rounded += int((vectors[number] != exact).sum() - np.isnan(exact).sum())
    return ChunkBatch(
        ids=ids, documents=documents, embeddings=vectors, metadatas=metadatas, uris=uris, lost=lost
    ), rounded


def _vector(
    vector: Any, width: int, refuse: Callable[[str], NoReturn], finite: bool
) -> tuple[Vectors, npt.NDArray[np.float64]]:
    """Return the vector as Chroma holds it (float32), and as it was given (float64)."""
    if not isinstance(vector, list) or not all(type(number) in (int, float) for number in vector):
        refuse("an embedding that is no list of numbers")
    if len(vector) != width or not width:
        refuse(f"an embedding of {len(vector):,} numbers, {width:,} before")
    try:
        exact = np.asarray(vector, np.float64)
    except OverflowError:
        refuse(_TOO_LARGE)
    with np.errstate(over="ignore"):
        stored = exact.astype(np.float32)
    if (finite and not np.isfinite(exact).all()) or not np.array_equal(np.isfinite(stored), np.isfinite(exact)):
        refuse(_TOO_LARGE)
    return stored, exact


_TOO_LARGE = "an embedding with a number that float32 does not have"


def _is_text(value: str) -> bool:
    """Return whether UTF-8 can encode the text: a lone surrogate cannot be kept."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _metadata(value: Any, refuse: Callable[[str], NoReturn], finite: bool) -> Any:
    if isinstance(value, str):
        try:
            value = json_in(value.encode(), **(_FINITE if finite else _EXACT))
        except ValueError as error:
            refuse(f"metadata that is no JSON ({one_line(str(error), 120)})")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        refuse("metadata that is no object")
    try:
        metadata = decode_metadata(json.dumps(value, allow_nan=not finite)) or {}
    except (TypeError, ValueError):
        refuse("metadata with a value that JSON does not have")
    if not _is_text(json.dumps(metadata, ensure_ascii=False)):
        refuse("metadata with half a character")
    for key, item in metadata.items():
        values = item if isinstance(item, list) else [item]
        if not is_sparse(item) and not (len(set(map(type, values))) == 1 and all(map(_is_plain, values))):
            refuse(f"a metadata value that Chroma cannot hold, under {one_line(key, 60)!r}")
    return metadata


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _parquet_rows(file: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in parquet_batches(file, _GROUP, _PENDING):
            row_bytes = batch.nbytes // max(1, len(batch))
            for row in cast(list[dict[str, Any]], batch.to_pylist()):
                number += 1
                yield f"row {number:,}", row, row_bytes
    except (OSError, ValueError, pa.ArrowException) as error:
        _refuse(f"not readable as Parquet ({one_line(str(error), 160)})", str(file))


def _jsonl_rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        number = 0
        while line := _line(file, lines, number := number + 1):
            try:
                row = json_in(line, object_pairs_hook=_each_once, parse_constant=_no_number)
            except ValueError as error:
                _refuse(f"no JSON ({one_line(str(error), 120)})", f"{file}, line {number:,}")
            if not isinstance(row, dict):
                _refuse("no object", f"{file}, line {number:,}")
            yield f"line {number:,}", row, len(line)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        key = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {one_line(key, 60)!r} twice")
    return fields


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text}, which JSON does not have")


def _finite(text: str) -> float:
    if np.isfinite(value := float(text)):
        return value
    raise ValueError(f"the number {one_line(text, 40)}, which no double has")


# Strict readers of JSON: of a key that occurs twice, another tool may take the other value.
_EXACT: dict[str, Any] = {"object_pairs_hook": _each_once, "parse_float": _finite}
_FINITE = {**_EXACT, "parse_constant": _no_number}


def _line(file: Path, lines: BinaryIO, number: int) -> bytes:
    line = lines.readline(_LINE + 1)
    if len(line) > _LINE:
        _refuse(f"more than {_LINE // 2**20} MiB in one line", f"{file}, line {number:,}")
    return line


def age_hours(snapshot: Snapshot) -> float:
    """Return the hours since its reading began: what was written afterwards it need not hold, also where a kill came between."""
    began = datetime.fromisoformat(snapshot.manifest["sessions"][0]["started"])
    return (datetime.now(UTC) - began).total_seconds() / 3600
