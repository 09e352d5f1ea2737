"""Read the index folder of a collection from its bytes alone: its damage, and every vector that it holds.

Nothing here writes, opens an engine or runs a pickle. The layout is that of Chroma's hnswlib, the same from 0.4 to 1.5
(`tests/test_rescue_reads_index_files.py` proves it on sound indexes of each)::

    header.bin            100 bytes: sizes, counts and offsets
    data_level0.bin       a row for each label ever assigned: flags and links of level 0, float32 vector, label
    length.bin            a float32 for each row: on cosine, where rows are normalised, the original norm
    link_lists.bin        the links of the upper levels; no vector is in it
    index_metadata.pickle the label of each id

A row is used only if all of it is valid: its label is known and occurs once, it is not marked as deleted, its links stay inside
the index and its vector is finite (on cosine, of length 1 or 0).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from helpers.chunks import Mask, Vectors
from helpers.errors import one_line
from helpers.stores import MOST_DIMENSION

PICKLE = "index_metadata.pickle"
_MOST_BYTES = 2 * 2**30
_MOST_DICTIONARIES = 16  # Chroma's file has four
_MOST_MARKS = 8  # nested containers; Chroma's file has two
_CLASS = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")


class IndexDamage(Exception):
    """Damage of a file of an index folder: `code` for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextmanager
def _opened(file: Path, kind: str) -> Iterator[BinaryIO]:
    """Open the file to read. Raises `IndexDamage`: "<kind>_missing", "<kind>_unreadable"."""
    if file.exists() and not file.is_file():  # reading a pipe would never end
        raise IndexDamage(f"{kind}_unreadable", f"{file.name} is no plain file")
    try:
        with file.open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise IndexDamage(f"{kind}_missing", f"{file.name} is not there") from error
    except OSError as error:
        raise IndexDamage(f"{kind}_unreadable", f"{file.name} cannot be read: {error.strerror}") from error


# -- the label map -----------------------------------------------------------------------------------------------------
#
# A pickle is a program. Python's own unpickler runs it; this one knows only the instructions for integers, text, None,
# booleans, dictionaries and the one object that Chroma 0.x saves (`PersistentData`, whose state is a dictionary).
# It imports and calls nothing. Any other instruction or name raises `IndexDamage`.


@dataclass(frozen=True, slots=True)
class IdMap:
    """The content of the pickle: the label of each id, the number of labels ever assigned (`added`), and the log record up to
    which the index was saved (None where SQLite has it, as from 0.5.6 on). `dimension` is None where 1.x did not write it."""

    labels: dict[str, int]
    added: int
    dimension: int | None
    max_seq_id: int | None


def read_pickle(file: Path) -> IdMap:
    """Return the map of an index folder's pickle. Raises `IndexDamage`.

    Codes: "pickle_missing", "pickle_unreadable", "pickle_truncated", "pickle_foreign" (it asks for something that Chroma never
    writes, such as an import; nothing of it was run), "pickle_inconsistent".
    """
    try:
        with _opened(file, "pickle") as stream:
            size = file.stat().st_size
            if size == 0:
                raise IndexDamage("pickle_truncated", f"{PICKLE} is empty")
            if size > _MOST_BYTES:
                raise IndexDamage("pickle_foreign", f"{PICKLE} is {size:,} bytes long, more than any label map")
            value = _Machine(stream.read(size)).run()
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise IndexDamage("pickle_truncated", f"{PICKLE} is cut short or damaged") from error
    return _id_map(value)


def _id_map(value: Any) -> IdMap:
    labels = value.get("id_to_label") if isinstance(value, dict) else None
    if not isinstance(labels, dict):
        raise IndexDamage("pickle_inconsistent", f"{PICKLE} holds no label map")
    if not all(type(i) is str and type(label) is int and 0 <= label < 2**63 for i, label in labels.items()):
        raise IndexDamage("pickle_inconsistent", f"{PICKLE} has labels that are not numbers")
    numbers = {key: value.get(key) for key in ("total_elements_added", "dimensionality", "max_seq_id")}
    if any(n is not None and (type(n) is not int or not 0 <= n < 2**63) for n in numbers.values()):
        raise IndexDamage("pickle_inconsistent", f"{PICKLE} has counts that are not numbers")
    added = numbers["total_elements_added"] or 0
    return IdMap(labels, added, numbers["dimensionality"] or None, numbers["max_seq_id"])


class _Object:
    """The only object that may be in the file; BUILD replaces it by its state."""


_MARK = object()


class _Machine:
    """The stack and the memo of the pickle protocol. `run` returns the final dictionary, or the object's state."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks, self.dictionaries = 0, 0

    def run(self) -> Any:
        data, stack, memo = self.data, self.stack, self.memo
        while (op := data[self.at]) != _STOP:
            self.at += 1
            if op == _MEMOIZE:  # these two are three quarters of the instructions of a large map
                memo[len(memo)] = stack[-1]
            elif op == _SHORT_TEXT:
                start = self.at + 1
                self.at = start + data[start - 1]
                stack.append(data[start : self.at].decode("utf-8", "surrogatepass"))
            elif (step := _STEPS.get(op)) is not None:
                step(self)
            else:
                raise _foreign(f"holds instruction 0x{op:02x}")
        value = stack.pop()
        if stack:
            raise IndexDamage("pickle_foreign", f"{PICKLE} leaves something beside its map")
        return value

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def take(self, size: int) -> bytes:
        raw = self.data[self.at : self.at + size]
        if len(raw) != size:
            raise ValueError("cut short")
        self.at += size
        return raw

    def text(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)).decode("utf-8", "surrogatepass"))

    def memorise(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def line(self) -> str:
        raw = self.take(self.data.index(b"\n", self.at) + 1 - self.at)
        return raw.decode("utf-8", "replace").rstrip("\n")

    def mark(self) -> None:
        self.marks += 1
        self._bounded()
        self.stack.append(_MARK)

    def dictionary(self) -> None:
        self.dictionaries += 1
        self._bounded()
        self.stack.append({})

    def _bounded(self) -> None:
        if self.marks > _MOST_MARKS or self.dictionaries > _MOST_DICTIONARIES:
            raise IndexDamage("pickle_foreign", f"{PICKLE} holds more containers than any label map")

    def items(self) -> None:
        """Move the items above the last mark into the dictionary below it."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 1:
                raise ValueError("no mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        self.marks -= 1
        _dictionary(self.stack[-1]).update(zip(items[::2], items[1::2], strict=True))

    def item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _dictionary(self.stack[-1])[key] = value

    def named(self, module: Any, name: Any) -> None:
        if (module, name) != _CLASS:
            raise _foreign(f"asks for {one_line(f'{module}.{name}', 100)}")
        self.stack.append(_Object)

    def stack_named(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is not _Object or arguments != ():
            raise _foreign("holds instruction 0x81")
        self.stack.append(_Object())

    def build(self) -> None:
        """Replace the object by its state."""
        state, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, _Object):
            raise _foreign("holds instruction 0x62")
        self.stack.append(_dictionary(state))


_STOP, _MEMOIZE, _SHORT_TEXT = 0x2E, 0x94, 0x8C
_STEPS: dict[int, Callable[[_Machine], object]] = {
    0x58: lambda m: m.text(4),  # BINUNICODE
    0x4B: lambda m: m.stack.append(m.number(1)),  # BININT1
    0x4D: lambda m: m.stack.append(m.number(2)),  # BININT2
    0x4A: lambda m: m.stack.append(m.number(4, signed=True)),  # BININT
    0x8A: lambda m: m.stack.append(m.number(m.number(1), signed=True)),  # LONG1
    0x68: lambda m: m.stack.append(m.memo[m.number(1)]),  # BINGET
    0x6A: lambda m: m.stack.append(m.memo[m.number(4)]),  # LONG_BINGET
    0x71: lambda m: m.memorise(m.number(1)),  # BINPUT
    0x72: lambda m: m.memorise(m.number(4)),  # LONG_BINPUT
    0x28: _Machine.mark,
    0x75: _Machine.items,
    0x73: _Machine.item,
    0x7D: _Machine.dictionary,
    0x4E: lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    0x29: lambda m: m.stack.append(()),  # EMPTY_TUPLE
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    0x93: _Machine.stack_named,  # STACK_GLOBAL
    0x63: lambda m: m.named(m.line(), m.line()),  # GLOBAL
    0x81: _Machine.new,  # NEWOBJ
    0x62: _Machine.build,
}


def _dictionary(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise ValueError("no dictionary")
    return value


def _foreign(problem: str) -> IndexDamage:
    return IndexDamage("pickle_foreign", f"{PICKLE} {problem}, which Chroma never writes; nothing of it was run")


# -- the folder --------------------------------------------------------------------------------------------------------

HEADER, ROWS, LENGTHS, LINKS = "header.bin", "data_level0.bin", "length.bin", "link_lists.bin"
FILES = (ROWS, HEADER, LENGTHS, LINKS)
DEFAULT_M = 16
_LAYOUT = struct.Struct("<iQQQQQQiIQQQdQ")
_DELETED = 0x10000
_STEP_BYTES = 16 * 2**20  # of rows that are checked at a time
_SLACK = 2**20  # bytes that a file may have in excess before it counts as bloated


@dataclass(frozen=True, slots=True)
class FileSize:
    """The apparent bytes of a file, and those that it occupies on disk; a sparse file has more apparent ones."""

    apparent: int
    stored: int


def bloat(path: Path) -> FileSize:
    """Return the sizes of one file by `stat`; equal, in whole blocks, on a platform without block counts. Raises `OSError`."""
    status = path.stat()
    return FileSize(status.st_size, getattr(status, "st_blocks", -(-status.st_size // 512)) * 512)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The layout of the rows in `data_level0.bin`. Sizes in bytes; `elements`: rows in use, deleted ones included."""

    elements: int
    capacity: int
    row: int
    data_at: int
    label_at: int
    max_level: int
    max_m: int
    max_m0: int

    @property
    def dimension(self) -> int:
        return (self.label_at - self.data_at) // 4

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype({
            "names": ["flags", "links", "vector", "label"],
            "formats": ["<u4", ("<u4", (self.max_m0,)), ("<f4", (self.dimension,)), "<u8"],
            "offsets": [0, 4, self.data_at, self.label_at],
            "itemsize": self.row,
        })  # fmt: skip

    @property
    def most_links(self) -> int:
        """The most bytes of a sound `link_lists.bin`: a list for each level of each row."""
        return self.elements * (4 + max(0, self.max_level) * (4 + 4 * self.max_m))


def read_header(file: Path) -> Geometry:
    """Return the geometry of a consistent header. Raises `IndexDamage` ("header_missing", "header_truncated", …)."""
    with _opened(file, "header") as stream:
        raw = stream.read(_LAYOUT.size)
    if len(raw) < _LAYOUT.size:
        raise IndexDamage("header_truncated", f"{HEADER} has {len(raw)} bytes of {_LAYOUT.size}")
    version, first, capacity, elements, row, label, data, level, entry, max_m, max_m0, m, _, _ = _LAYOUT.unpack(raw)
    width = label - data
    if (
        version != 1 or first != 0 or elements > capacity or not 0 < m <= 10_000 or max_m != m or max_m0 != 2 * m
        or data != 4 + 4 * max_m0 or width <= 0 or width % 4 or width > 4 * MOST_DIMENSION or row != label + 8
        or (elements and (entry >= elements or not 0 <= level < 1000))
    ):  # fmt: skip
        raise IndexDamage("header_inconsistent", f"{HEADER} contradicts itself")
    return Geometry(elements, capacity, row, data, label, level, max_m, max_m0)


def derive_geometry(size: int, ids: IdMap, dimension: int, m: int) -> Geometry:
    """Return the geometry of a row file of `size` bytes without its header. Raises `IndexDamage` ("geometry_unknown").

    It is only a proposal: `IndexFolder` checks every label against it.
    """
    data = 4 + 8 * m
    label = data + 4 * dimension
    row = label + 8
    if not 1 <= dimension <= MOST_DIMENSION or m < 1 or size % row:
        raise IndexDamage("geometry_unknown", f"{HEADER} cannot be derived: {ROWS} is not a whole number of rows")
    if size // row < ids.added:
        raise IndexDamage("geometry_unknown", f"{HEADER} cannot be derived: {ROWS} holds fewer rows than were added")
    return Geometry(ids.added, size // row, row, data, label, 0, m, 2 * m)


def links_bloated(folder: Path) -> bool:
    """Return whether an index folder's `link_lists.bin` is larger than any sound one. Raises `OSError`."""
    try:
        geometry = read_header(folder / HEADER)
    except IndexDamage:
        geometry = None
    return bool(_bloated(bloat(folder / LINKS), geometry))


def _bloated(size: FileSize, geometry: Geometry | None) -> str:
    """Return why a `link_lists.bin` of this size is torn; "" where the size is possible."""
    if size.apparent > size.stored + _SLACK:
        return f"{LINKS} claims {size.apparent:,} bytes, most of them a hole: it is torn"
    if geometry is not None and size.apparent > geometry.most_links + _SLACK:
        return f"{LINKS} has {size.apparent:,} bytes, {geometry.most_links:,} at most make sense"
    return ""


@dataclass(frozen=True, slots=True)
class IndexHealth:
    """The state of an index folder.

    `state`: "sound"; "empty" (created, but nothing was ever saved to it); "damaged" (an engine may fail or lose vectors; see
    `problems`). `ids`: the number of ids with a label, None where no map can be read; `readable`: those with a valid row.
    `norms`: whether a cosine index has its norms. `max_seq_id`: that of the pickle of 0.4 to 0.5.5. `problems`: pairs of code
    and sentence. `files`: the sizes of existing files.
    """

    folder: Path
    state: str
    problems: tuple[tuple[str, str], ...]
    files: dict[str, FileSize]
    dimension: int | None = None
    elements: int = 0
    deleted: int = 0
    ids: int | None = None
    readable: int = 0
    norms: bool = True
    max_seq_id: int | None = None


@dataclass
class IndexFolder:
    """An index folder to read vectors from. Never raises for damage; `health` reports it.

    `dimension`, `m` and `cosine`: the collection's settings in SQLite; without them the header is needed, and the length of
    vectors is not checked."""

    folder: Path
    dimension: int | None = None
    m: int | None = None
    cosine: bool | None = None
    _problems: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def health(self) -> IndexHealth:
        files = {name: bloat(self.folder / name) for name in (*FILES, PICKLE) if (self.folder / name).is_file()}
        rows = self.rows  # collects problems of header, pickle and rows
        problems = list(self._problems)
        geometry = self._geometry
        problems += [("file_missing", f"{name} is not there") for name in (ROWS, LENGTHS, LINKS) if name not in files]
        if geometry is not None and LENGTHS in files and files[LENGTHS].apparent < 4 * geometry.elements:
            problems.append(("lengths_truncated", f"{LENGTHS} is cut short"))
        if LINKS in files:
            problems += self._links(files[LINKS], geometry)
        seen = dict(problems)
        empty = (
            geometry is not None and geometry.elements == 0 and self.ids is None and seen.keys() <= {"pickle_missing"}
        )
        return IndexHealth(
            folder=self.folder,
            state="empty" if empty else "damaged" if problems else "sound",
            problems=() if empty else tuple(seen.items()),
            files=files,
            dimension=geometry.dimension if geometry else self.ids.dimension if self.ids else None,
            elements=geometry.elements if geometry else 0,
            deleted=self._deleted,
            ids=len(self.ids.labels) if self.ids else None,
            readable=len(rows),
            norms=not self.cosine or not any(code.startswith("norm") for code in seen),
            max_seq_id=self.ids.max_seq_id if self.ids else None,
        )

    def _links(self, size: FileSize, geometry: Geometry | None) -> Iterator[tuple[str, str]]:
        """Yield the problems of `link_lists.bin`. It holds no vector, but an engine that reads a torn one hangs or crashes."""
        if bloated := _bloated(size, None if self._derived else geometry):
            yield "links_bloated", bloated
        elif geometry is not None and not self._derived and (torn := self._torn_links(geometry)):
            yield "links_torn", torn

    def _torn_links(self, geometry: Geometry) -> str:
        """Follow the lists by their lengths; return the first problem, "" without one."""
        step = 4 + 4 * geometry.max_m
        data, position = memoryview((self.folder / LINKS).read_bytes()), 0
        for row in range(geometry.elements):
            if position + 4 > len(data):
                return f"{LINKS} ends in row {row:,} of {geometry.elements:,}"
            size = int.from_bytes(data[position : position + 4], "little")
            position += 4
            if size % step or size // step > max(0, geometry.max_level) or position + size > len(data):
                return f"{LINKS} is torn in row {row:,} of {geometry.elements:,}"
            for start in range(position, position + size, step):
                count = int.from_bytes(data[start : start + 4], "little")
                links = np.frombuffer(data, "<u4", min(count, geometry.max_m), start + 4)
                if count > geometry.max_m or (links >= geometry.elements).any():
                    return f"{LINKS} is torn in row {row:,} of {geometry.elements:,}"
            position += size
        return ""

    @cached_property
    def ids(self) -> IdMap | None:
        """The label map; None where it cannot be read, with the reason in the problems."""
        try:
            id_map = read_pickle(self.folder / PICKLE)
        except IndexDamage as damage:
            self._problems.append((damage.code, str(damage)))
            return None
        if len(set(id_map.labels.values())) < len(id_map.labels):
            self._problems.append(("labels_twice", f"{PICKLE} gives one label to several ids"))
        return id_map

    @cached_property
    def _derived(self) -> bool:
        return not (self.folder / HEADER).is_file()

    @cached_property
    def _geometry(self) -> Geometry | None:
        try:
            geometry = read_header(self.folder / HEADER)
        except IndexDamage as damage:
            self._problems.append((damage.code, str(damage)))
            dimension = self.dimension or (self.ids.dimension if self.ids else None)
            file = self.folder / ROWS
            if self.ids is None or dimension is None or not file.is_file():
                return None
            try:
                return derive_geometry(file.stat().st_size, self.ids, dimension, self.m or DEFAULT_M)
            except IndexDamage as unknown:
                self._problems.append((unknown.code, str(unknown)))
                return None
        if self.dimension and geometry.dimension != self.dimension:
            problem = f"{HEADER} says {geometry.dimension} dimensions, the collection has {self.dimension}"
            self._problems.append(("dimension_mismatch", problem))
            return None
        return geometry

    @cached_property
    def _file(self) -> npt.NDArray[Any] | None:
        """The complete rows of the file, as a memory map; at most those of the geometry."""
        file, geometry = self.folder / ROWS, self._geometry
        if geometry is None or not file.is_file():
            return None
        whole = min(geometry.elements, file.stat().st_size // geometry.row)
        if whole < geometry.elements:
            self._problems.append(("rows_truncated", f"{ROWS} is cut short: {whole:,} of {geometry.elements:,} rows"))
        if whole == 0:
            return None
        mapped: npt.NDArray[Any] = np.memmap(file, geometry.dtype, "r", shape=(whole,))
        return mapped

    @cached_property
    def _lengths(self) -> Vectors:
        """The norm of each row; NaN where it is missing."""
        file, rows = self.folder / LENGTHS, self._file
        norms = np.full(0 if rows is None else len(rows), np.nan, np.float32)
        if file.is_file():
            stored = np.fromfile(file, "<f4", len(norms))
            norms[: len(stored)] = stored
        return norms

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row number of each id with a valid row."""
        rows, geometry = self._file, self._geometry
        if self.ids is None or rows is None or geometry is None:
            return {}
        labels = np.zeros(len(rows), np.uint64)
        deleted, fit = np.zeros((2, len(rows)), dtype=bool)
        step = max(1, _STEP_BYTES // geometry.row)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            labels[start : start + step] = piece["label"]
            deleted[start : start + step] = (piece["flags"] & _DELETED) != 0
            fit[start : start + step] = self._fit(piece, start)
        self._deleted = int(deleted.sum())
        if self._derived and not self._labels_fit(labels):
            return {}
        values, counts = np.unique(labels, return_counts=True)
        doubled = set(values[counts > 1].tolist())
        row_of = {label: row for row, label in enumerate(labels.tolist()) if label not in doubled}
        shared = {label for label, ids in Counter(self.ids.labels.values()).items() if ids > 1}
        rows_of = {
            chunk: row for chunk, label in self.ids.labels.items()
            if (row := row_of.get(label)) is not None and not deleted[row] and fit[row] and label not in shared
        }  # fmt: skip
        if missing := len(self.ids.labels) - len(rows_of):
            problem = f"{ROWS} has no sound row for {missing:,} of {len(self.ids.labels):,} ids"
            self._problems.append(("rows_damaged", problem))
        unmapped = int((~deleted).sum()) - len(rows_of) - missing
        if unmapped > 0 and not missing:
            self._problems.append(("rows_unmapped", f"{ROWS} has {unmapped:,} rows that {PICKLE} does not know"))
        return rows_of

    _deleted: int = 0

    def _fit(self, piece: npt.NDArray[Any], start: int) -> Mask:
        geometry = self._geometry
        assert geometry is not None
        degree = piece["flags"] & 0xFFFF
        linked = np.arange(geometry.max_m0) < degree[:, None]
        inside = ((piece["links"] < max(1, geometry.elements)) | ~linked).all(axis=1)
        vectors = np.asarray(piece["vector"], np.float32)
        fit: Mask = (degree <= geometry.max_m0) & inside & np.isfinite(vectors).all(axis=1)
        if self.cosine:
            length = np.linalg.norm(vectors.astype(np.float64), axis=1)
            is_unit = np.abs(length - 1) < 1e-3
            fit &= is_unit | (length < 1e-3)
            norms = self._lengths[start : start + len(piece)]
            if not (np.isfinite(norms) & ((norms > 0) | ~is_unit))[fit].all():
                self._problems.append(("norms_missing", f"{LENGTHS} lacks norms: their vectors are directions only"))
        return fit

    def _labels_fit(self, labels: npt.NDArray[np.uint64]) -> bool:
        """Return whether a derived geometry gives valid labels: each from 1 to `added`, none twice."""
        assert self.ids is not None
        fit = bool(len(labels) and labels.min() >= 1 and labels.max() <= self.ids.added)
        if fit and len(np.unique(labels)) == len(labels):
            return True
        self._problems.append(("geometry_unknown", f"{HEADER} cannot be derived: rows do not begin where they should"))
        return False

    def vectors(self, ids: Sequence[str]) -> tuple[Vectors, Mask, Mask]:
        """Return the vectors of these ids as the engine would give them, (n, d) float32, NaN where there is no valid row; which
        ids have one; which vectors are normalised only, because their norm is lost.
        """
        geometry, rows = self._geometry, self._file
        width = geometry.dimension if geometry else self.dimension or 0
        valid = np.array([i in self.rows for i in ids], dtype=bool)
        matrix = np.full((len(ids), width), np.nan, np.float32)
        normalised = np.zeros(len(ids), dtype=bool)
        if rows is None or not valid.any():
            return matrix, valid, normalised
        row_numbers = np.array([self.rows[i] for i in ids if i in self.rows], dtype=np.intp)
        values = np.asarray(rows["vector"][row_numbers], np.float32)
        if self.cosine:
            norms = self._lengths[row_numbers]
            zero = ~values.any(axis=1)
            lost = ~np.isfinite(norms) | ((norms == 0) & ~zero)
            values = values * np.where(lost | zero, np.float32(1), norms)[:, None]
            normalised[valid] = lost
        matrix[valid] = values
        return matrix, valid, normalised
