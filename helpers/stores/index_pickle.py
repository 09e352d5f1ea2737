"""The label map of an index folder, `index_metadata.pickle`, read without running anything that a pickle may ask for.

A pickle is a program. Python's own unpickler runs it; this one knows only the instructions that build integers, text,
None, booleans, dictionaries and the one object that Chroma 0.x saves (`PersistentData`, whose state is a dictionary).
Nothing is imported and nothing is called. Any other instruction or name ends the reading with `IndexDamage`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import one_line

PICKLE = "index_metadata.pickle"
_MOST_BYTES = 2 * 2**30
_MOST_DICTIONARIES = 16  # Chroma's file has four
_MOST_MARKS = 8  # nested containers; Chroma's file has two
_CLASS = ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData")


class IndexDamage(Exception):
    """What is wrong with a file of an index folder: `code` for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class IdMap:
    """What the pickle says: the label of each id, how many labels were ever given, and up to which log record the index
    was saved (None where SQLite keeps that, as from 0.5.6 on). `dimension` is None where 1.x did not write it.
    """

    labels: dict[str, int]
    added: int
    dimension: int | None
    max_seq_id: int | None


def read_pickle(file: Path) -> IdMap:
    """The map of an index folder's pickle. Raises `IndexDamage`.

    Codes: "pickle_missing", "pickle_truncated", "pickle_foreign" (it asks for something that Chroma never writes, such as
    an import; nothing of it was run), "pickle_inconsistent".
    """
    if file.exists() and not file.is_file():  # a pipe would hold us for ever
        raise IndexDamage("pickle_unreadable", f"{PICKLE} is no plain file")
    try:
        with file.open("rb") as opened:
            size = file.stat().st_size
            if size == 0:
                raise IndexDamage("pickle_truncated", f"{PICKLE} is empty")
            if size > _MOST_BYTES:
                raise IndexDamage("pickle_foreign", f"{PICKLE} is {size:,} bytes long, more than any label map")
            value = _Machine(opened.read(size)).run()
    except FileNotFoundError as error:
        raise IndexDamage("pickle_missing", f"{PICKLE} is not there") from error
    except OSError as error:
        raise IndexDamage("pickle_unreadable", f"{PICKLE} cannot be read: {error.strerror}") from error
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
    """The place of the one object that may be in the file; its state is put in by BUILD."""


_MARK = object()


class _Machine:
    """A stack and a memo, as the pickle protocol has them. `run` gives the dictionary at the end, or the object's state."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks, self.dictionaries = 0, 0

    def run(self) -> Any:
        data, stack, memo = self.data, self.stack, self.memo
        while (op := data[self.at]) != _STOP:
            self.at += 1
            if op == _MEMOIZE:  # these two are three quarters of a map of millions
                memo[len(memo)] = stack[-1]
            elif op == _SHORT_TEXT:
                start = self.at + 1
                self.at = start + data[start - 1]
                stack.append(data[start : self.at].decode("utf-8", "surrogatepass"))
            elif (step := _STEPS.get(op)) is not None:
                step(self)
            else:
                raise _foreign(op)
        value = self.stack.pop()
        if self.stack:
            raise IndexDamage("pickle_foreign", f"{PICKLE} leaves something beside its map")
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def take(self, size: int) -> bytes:
        raw = self.data[self.at : self.at + size]
        if len(raw) != size:
            raise ValueError("cut short")
        self.at += size
        return raw

    def text(self, width: int) -> None:
        self.push(self.take(self.number(width)).decode("utf-8", "surrogatepass"))

    def memorise(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def line(self) -> str:
        raw = self.take(self.data.index(b"\n", self.at) + 1 - self.at)
        return raw.decode("utf-8", "replace").rstrip("\n")

    def mark(self) -> None:
        self.marks += 1
        self._bounded()
        self.push(_MARK)

    def dictionary(self) -> None:
        self.dictionaries += 1
        self._bounded()
        self.push({})

    def _bounded(self) -> None:
        if self.marks > _MOST_MARKS or self.dictionaries > _MOST_DICTIONARIES:
            raise IndexDamage("pickle_foreign", f"{PICKLE} holds more containers than any label map")

    def items(self) -> None:
        """What lies above the last mark goes into the dictionary below it."""
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
            shown = one_line(f"{module}.{name}", 100)
            raise IndexDamage(
                "pickle_foreign", f"{PICKLE} asks for {shown}, which Chroma never writes; nothing of it was run"
            )
        self.push(_Object)

    def stack_named(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is not _Object or arguments != ():
            raise _foreign(0x81)
        self.push(_Object())

    def build(self) -> None:
        """The object becomes its state, which is all there is to it."""
        state, built = self.stack.pop(), self.stack.pop()
        if not isinstance(built, _Object):
            raise _foreign(0x62)
        self.push(_dictionary(state))


_STOP, _MEMOIZE, _SHORT_TEXT = 0x2E, 0x94, 0x8C
_STEPS: dict[int, Callable[[_Machine], object]] = {
    0x58: lambda m: m.text(4),  # BINUNICODE
    0x4B: lambda m: m.push(m.number(1)),  # BININT1
    0x4D: lambda m: m.push(m.number(2)),  # BININT2
    0x4A: lambda m: m.push(m.number(4, signed=True)),  # BININT
    0x8A: lambda m: m.push(m.number(m.number(1), signed=True)),  # LONG1
    0x68: lambda m: m.push(m.memo[m.number(1)]),  # BINGET
    0x6A: lambda m: m.push(m.memo[m.number(4)]),  # LONG_BINGET
    0x71: lambda m: m.memorise(m.number(1)),  # BINPUT
    0x72: lambda m: m.memorise(m.number(4)),  # LONG_BINPUT
    0x28: _Machine.mark,
    0x75: _Machine.items,
    0x73: _Machine.item,
    0x7D: _Machine.dictionary,
    0x4E: lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x29: lambda m: m.push(()),  # EMPTY_TUPLE
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


def _foreign(op: int) -> IndexDamage:
    return IndexDamage(
        "pickle_foreign", f"{PICKLE} holds instruction 0x{op:02x}, which Chroma never writes; nothing of it was run"
    )
