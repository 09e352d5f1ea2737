"""The unit that flows through a migration: a batch of chunks, aligned by position."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the import takes half a second
    import pyarrow as pa
    import pyarrow.parquet as pq

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Metadata = dict[str, Any]  # str, int, float, bool, a homogeneous list of these, or a chromadb SparseVector


def is_sparse(value: object) -> bool:
    """Whether a value is Chroma's SparseVector. Does not import chromadb, which takes seconds: before that there is none."""
    types = sys.modules.get("chromadb.base_types")
    return types is not None and isinstance(value, types.SparseVector)


@dataclass(slots=True)
class ChunkBatch:
    """n chunks of one collection.

    `embeddings` is (n, d) float32; d is 0 if no vector of the batch could be read. `lost[i]` is True if the store lists
    the id but cannot give its vector (chroma-facts 10, 16); that row of `embeddings` is NaN. A document of None differs
    from an empty one, and metadata of None from `{}`.
    """

    ids: list[str]
    documents: list[str | None]
    embeddings: Vectors
    metadatas: list[Metadata | None]
    uris: list[str | None] = field(default_factory=list)
    lost: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not self.uris:
            self.uris = [None] * n
        if len(self.lost) == 0 and n:
            self.lost = np.zeros(n, dtype=bool)
        lengths = {
            "documents": len(self.documents),
            "embeddings": len(self.embeddings),
            "metadatas": len(self.metadatas),
            "uris": len(self.uris),
            "lost": len(self.lost),
        }
        mismatched = {name: length for name, length in lengths.items() if length != n}
        if mismatched:
            raise ValueError(f"a batch of {n} ids with columns of other lengths: {mismatched}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return int(self.embeddings.shape[1])

    def take(self, positions: Iterable[int] | npt.NDArray[np.intp]) -> ChunkBatch:
        """The chunks at these positions, in this order."""
        index = np.asarray(list(positions), dtype=np.intp)
        return ChunkBatch(
            ids=[self.ids[i] for i in index],
            documents=[self.documents[i] for i in index],
            embeddings=self.embeddings[index],
            metadatas=[self.metadatas[i] for i in index],
            uris=[self.uris[i] for i in index],
            lost=self.lost[index],
        )

    def slice(self, start: int, stop: int) -> ChunkBatch:
        return self.take(range(start, min(stop, len(self))))

    @staticmethod
    def empty(dimension: int = 0) -> ChunkBatch:
        return ChunkBatch([], [], np.zeros((0, dimension), np.float32), [])

    @staticmethod
    def concatenate(batches: Sequence[ChunkBatch]) -> ChunkBatch:
        """Join batches. One without any vector (d = 0) takes the dimension of the others; its rows are NaN."""
        full = [b for b in batches if len(b)]
        if not full:
            return batches[0] if batches else ChunkBatch.empty()
        dimension = max(b.dimension for b in full)
        return ChunkBatch(
            ids=[i for b in full for i in b.ids],
            documents=[d for b in full for d in b.documents],
            embeddings=np.concatenate([_widen(b.embeddings, dimension) for b in full]),
            metadatas=[m for b in full for m in b.metadatas],
            uris=[u for b in full for u in b.uris],
            lost=np.concatenate([b.lost for b in full]),
        )

    def nbytes(self) -> int:
        """Approximate size in memory, in bytes; as JSON, a batch is larger by a factor."""
        texts = sum(len(d.encode("utf-8", "surrogatepass")) for d in self.documents if d)
        return int(self.embeddings.nbytes) + texts + sum(len(str(m)) for m in self.metadatas if m)


# The only float32 whose shortest text, read as a double, rounds to another float32: the double is halfway between two. All
# others were tested.
_HALFWAY, _PRINTED = 7.038531e-26, np.uint32(0x15AE43FD).view(np.float32)


def singles(numbers: npt.ArrayLike) -> Vectors:
    """Doubles from JSON as the float32 values that the server printed. Values beyond float32 become infinite."""
    doubles = np.asarray(numbers)
    with np.errstate(over="ignore"):
        vectors = doubles.astype(np.float32, copy=False)
    if doubles.dtype == np.float64:
        for sign in (1, -1):
            vectors[doubles == sign * _HALFWAY] = sign * _PRINTED
    return vectors


def _widen(vectors: Vectors, dimension: int) -> Vectors:
    if vectors.shape[1] == dimension:
        return vectors
    if vectors.shape[1]:
        raise ValueError(f"vectors of {vectors.shape[1]} and {dimension} dimensions in one batch")
    return np.full((len(vectors), dimension), np.nan, np.float32)


def align(ids: Sequence[str], rows: Mapping[str, int]) -> tuple[list[int], list[str]]:
    """(positions of the requested ids in an answer, ids that the answer lacks). `rows`: id → position in the answer.

    Chroma's `get(ids=…)` neither keeps the order of ids nor names missing ones (chroma-facts 9).
    """
    positions = [rows[i] for i in ids if i in rows]
    return positions, [i for i in ids if i not in rows]


# -- Parquet files that others may have written ------------------------------------------------------------------------
#
# A page of a few bytes may stand for a text repeated a billion times, while the footer counts ten values. Therefore the footer
# and all page headers are read first, in the way of the reader, and the decoded size is calculated from them.

MOST_DECODED = 2**29  # bytes in memory; more for each byte of the file:
_FOR_EACH = 64
Numbers = dict[tuple[int, ...], int]
_DICTIONARY = {2, 8}  # encodings: PLAIN_DICTIONARY, RLE_DICTIONARY
_PREFIXES = 7  # DELTA_BYTE_ARRAY: amplifies without a dictionary; neither DuckDB nor this toolkit writes it
_HEADER = 2**16
_I32, _I64 = 5, 6  # Thrift's types of integers, in page headers and in the footer
_DEEPEST = 16  # levels of structs and lists


def read_table(path: Path, columns: list[str] | None = None, data: bytes = b"", most: int = MOST_DECODED) -> pa.Table:
    """Read a Parquet file, or these columns of it. `data`: its bytes, if they were read already.

    Raises ValueError, before decoding, if it would take more than `most` bytes plus 64 for each byte of the file, or if its
    pages differ from its footer. Otherwise as pyarrow.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def opened(**options: Any) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(data) if data else path, **options)

    with opened() as file, io.BytesIO(data) if data else path.open("rb") as raw:
        texts, needed = _needed(file, raw, columns)
        most += _FOR_EACH * raw.seek(0, io.SEEK_END)
        _require(needed, most)
        if needed + sum(texts.values()) > most:  # the upper bound is too high: measure
            with opened(read_dictionary=[*texts]) as coded:
                for name in texts:
                    for chunk in coded.read([name]).column(name).chunks:
                        needed += _decoded(chunk)
            _require(needed, most)
        return file.read(columns)


def parquet_batches(path: Path, rows: int, most: int) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file in batches of `rows` rows. Raises as `read_table`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file, path.open("rb") as raw:
        texts, needed = _needed(file, raw, None)
        _require(needed + sum(texts.values()), most + _FOR_EACH * raw.seek(0, io.SEEK_END))
        yield from file.iter_batches(rows)


def _require(needed: int, most: int) -> None:
    if needed > most:
        raise ValueError(
            f"decoded it would have {needed / 1e6:,.0f} MB, {most / 1e6:,.0f} MB at most are read of a file of its size"
        )


def _decoded(chunk: pa.Array) -> int:
    """Decoded bytes of a text column that was read as a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    return int(pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0)


def _needed(file: pq.ParquetFile, raw: BinaryIO, columns: list[str] | None) -> tuple[dict[str, int], int]:
    """(upper bound of the decoded bytes of each dictionary-encoded text column, decoded bytes of everything else)."""
    import pyarrow as pa

    texts: dict[str, int] = {}
    needed = 0
    for name, kind in ((f.name, f.type) for f in file.schema_arrow):
        if columns is not None and name not in columns:
            continue
        if pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type):
            needed += 8 * kind.list_size * file.metadata.num_rows  # a null vector takes as much space as any
        elif _has_fixed_size(kind):
            raise ValueError(f"its column {name} is of a type that neither Chroma nor this toolkit writes")
    footer = _footer(raw)
    for group in range(file.metadata.num_row_groups):
        for number in range(file.metadata.num_columns):
            schema = file.schema.column(number)
            if columns is not None and schema.path.split(".")[0] not in columns:
                continue
            values, size, largest, encodings = _pages(raw, schema.path, footer, (4, group, 1, number, 3))
            needed += size + values * (12 + max(0, schema.length))
            if schema.physical_type != "BYTE_ARRAY":
                continue
            if _PREFIXES in encodings:
                raise ValueError(f"its column {schema.path} is encoded as neither Chroma nor this toolkit writes it")
            if encodings & _DICTIONARY:
                if "." in schema.path:
                    needed += values * largest
                else:
                    texts[schema.path] = texts.get(schema.path, 0) + values * largest
    return texts, needed


def _has_fixed_size(kind: pa.DataType) -> bool:
    """Whether a type contains lists of fixed size, of which null ones take space, or an extension type, which may hide one."""
    import pyarrow as pa

    inside = [kind]
    while inside:
        kind = inside.pop()
        if pa.types.is_fixed_size_list(kind) or isinstance(kind, pa.BaseExtensionType):
            return True
        if pa.types.is_dictionary(kind):
            inside.append(kind.value_type)
        inside += [kind.field(place).type for place in range(kind.num_fields)]
    return False


def _footer(raw: BinaryIO) -> Numbers:
    """The integers in the footer, by field path. pyarrow's `row_group(…)` would abort the process for a damaged column."""
    end = raw.seek(0, io.SEEK_END) - 8  # the footer's length and the four magic bytes
    raw.seek(end)
    length = int.from_bytes(raw.read(4), "little")
    raw.seek(end - length)
    footer: Numbers = {}
    try:
        _struct(raw.read(length), 0, footer, _I64)
    except IndexError as error:
        raise ValueError("its footer is cut short") from error
    return footer


def _pages(raw: BinaryIO, name: str, footer: Numbers, path: tuple[int, ...]) -> tuple[int, int, int, set[int]]:
    """For the pages of a column: (values, uncompressed bytes, bytes of the largest page, encodings of values).

    `path`: the column's field path in the footer. Raises ValueError for damaged headers.
    """
    try:
        expected, stored_size, offset = (footer[*path, field] for field in (5, 7, 9))
    except KeyError as error:
        raise ValueError(f"its footer does not say where {name} is") from error
    if 0 < (dictionary := footer.get((*path, 11), 0)) < offset:
        offset = dictionary
    end = offset + stored_size if expected else offset  # a column without values may have no pages
    values = size = largest = 0
    encodings: set[int] = set()
    while offset < end:
        raw.seek(offset)
        header: Numbers = {}
        try:
            offset += _struct(raw.read(_HEADER), 0, header, _I32)
            decoded, stored = header[2,], header[3,]
        except (IndexError, KeyError) as error:
            raise ValueError("a page has no header") from error
        counts = [header.get(key, 0) for key in ((5, 1), (8, 1), (7, 1))]
        if min(*counts, decoded, stored) < 0:
            raise ValueError("a page has a negative size")
        offset, values = offset + stored, values + counts[0] + counts[1]
        size, largest = size + decoded + 16 * counts[2], max(largest, decoded)
        encodings |= {header[key] for key in ((5, 2), (8, 4)) if key in header}
    if values != expected:
        raise ValueError(f"its pages hold {values:,} values of {name}, its footer says {expected:,}")
    return values, size, largest, encodings


def _struct(data: bytes, at: int, numbers: Numbers, kind: int, path: tuple[int, ...] = ()) -> int:
    """Collect the integers of this kind in a struct of Thrift's compact protocol, by field path; return its end offset.

    Raises ValueError for input that readers could interpret differently, and IndexError if the struct is cut short.
    """
    field, fields = 0, set[int]()
    while head := data[at]:
        at += 1
        field += head >> 4
        if not head >> 4:
            field, at = _number(data, at)
        if field in fields or not 0 < field < 2**15:
            raise ValueError("a header has a field twice, or one that there cannot be")
        fields.add(field)
        if head & 15 > 2:  # a boolean's value is in the head itself
            at = _value(data, at, head & 15, numbers, kind, (*path, field))
    return at + 1


def _value(data: bytes, at: int, form: int, numbers: Numbers, kind: int, path: tuple[int, ...]) -> int:
    match form:
        case 1 | 2 | 3:
            return at + 1
        case 4 | 5 | 6:
            value, at = _number(data, at)
            if form == kind:  # Thrift skips a field of an unexpected type
                numbers[path] = value
            return at
        case 7:
            return at + 8
        case 8:
            length, at = _number(data, at, signed=False)
            return at + length
        case 9 | 10 if len(path) < _DEEPEST:
            length, form, at = data[at] >> 4, data[at] & 15, at + 1
            if length == 15:
                length, at = _number(data, at, signed=False)
            if length > len(data) - at:
                raise IndexError(length)
            nested = numbers if form == 12 else {}
            for place in range(length):
                at = _value(data, at, form, nested, kind, (*path, place))
            return at
        case 12 if len(path) < _DEEPEST:
            return _struct(data, at, numbers, kind, path)
    raise ValueError("a header has another form")


def _number(data: bytes, at: int, *, signed: bool = True) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError("a header has a number without an end")
    value |= data[at] << shift
    if value >> 64:
        raise ValueError("a header has a number of more than 64 bits")
    return ((value >> 1) ^ -(value & 1) if signed else value), at + 1
