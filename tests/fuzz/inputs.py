"""How an input is made of a real file: a change of its bytes, of its lines, or of a value inside it."""

# ruff: noqa: E501  tables of inputs are read by column

from __future__ import annotations

import codecs
import copy
import io
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LARGEST = 2**20  # bytes of an input
DEEP = 100_000  # levels
OUTSIDE = "outside"  # the folder beside the home, from which nothing may be read
_PATHS = (
    "../outside/secret",
    "../../outside/secret",
    "../" * 12 + "etc/passwd",
    "/etc/passwd",
    "{outside}/secret",
    "~root/x",
)
_TEXTS = (
    "", " ", "\0", "\x1b[2J\x1b]0;x\x07", "\u202e\u2028\x85", "\ud800", "\U0010ffff", "a" * 70_000, "\n", "%s{0.__class__}",
    "0", "-1", "1e999", "nan", "true", "null", "2026-13-45T99:99", "2026-11-28T00:00:00", "0001-01-01T00:00:00+23:59", "..", ".",
    "/", "CON", "identity", "http://[", "http://[::1%25]:99999999/", "env:", "file:", "=", "'\"", "{}", "[]", *_PATHS,
)  # fmt: skip
# JSON as text: what a value may be replaced with.
VALUES = (
    "null", "true", "0", "-1", "1.5", "1e400", "-1e400", "NaN", "Infinity", str(2**53 + 1), str(2**63), str(-(2**63) - 1),
    "9" * 300, "9" * 5_000, "[]", "{}", "[[]]", "[null]", "[{}]", '{"": ""}', '{"__class__": "x"}', '{"a": 1, "a": 2}', '[1, "x", null]',
    "[" * 200 + "]" * 200, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP,
    '"\\ud800"', '"\\u0000"', *(json.dumps(text) for text in _TEXTS),
)  # fmt: skip
_LINES = (
    "", "\0", "}", "{", "[", "---", "...", "? a", "- a", "a: *a", "a: &a [*a]", "a: !!python/object/apply:os.system [id]", "<<: *x",
    "a: !!binary x", "a: !!timestamp x", "a: 0x" + "f" * 5_000, "a: 1" + "0" * 5_000, "a: .inf", "a: 2026-13-45", "a: 1:2:3:4", "\ta: 1", "a: [", "a: |", "%YAML 9.9",
    "%TAG ! x", "a: " + "[" * 2_000, "a: " + "{a: " * 2_000, "{" * 2_000, "server {" * 2_000, "include *;", "include /etc/passwd;", "listen 99999999999999999999;",
    'x="', "export A='", "A=$(id)", "A=${B:-${C}}", "# comment", "x" * 70_000, "\x1b[2J", "é\u0301", '"', "\\",
    "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]",
)  # fmt: skip
Fix = Callable[[Any], Any]


def mutated(chance: random.Random, data: bytes, kind: str, outside: Path, fix: Fix | None = None) -> tuple[str, bytes]:
    """One input: (how it was made, its bytes). `kind` is json, lines of json (jsonl), text, or bytes.

    `fix` makes a changed JSON value agree with itself again (a digest that it holds), as whoever changes it on purpose would.
    """
    ways: list[Callable[..., tuple[str, bytes]]]
    ways = [_bytes] if kind == "bytes" else [_bytes, _lines] if kind == "text" else [_bytes, _value, _value, _value]
    way = chance.choice(ways)
    made = _value(chance, data, kind, outside, fix) if way is _value else way(chance, data)
    return made[0], made[1][:LARGEST]


def _bytes(chance: random.Random, data: bytes) -> tuple[str, bytes]:  # noqa: C901  a way each
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice([1, 2, 8, 64, 1_000]))
    match chance.randrange(13):
        case 0:
            changed = bytearray(data or b"\0")
            for _ in range(chance.choice([1, 1, 3, 20])):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            return "bits flipped", bytes(changed)
        case 1:
            return "cut", data[:at]
        case 2:
            return "a piece cut out", data[:at] + data[to:]
        case 3:
            return "bytes put in", data[:at] + chance.randbytes(to - at + 1) + data[at:]
        case 4:
            return "bytes replaced", data[:at] + chance.randbytes(to - at) + data[to:]
        case 5:
            return "halves swapped", data[at:] + data[:at]
        case 6:
            return "a piece repeated", data[:at] + data[at:to] * chance.choice([2, 3, 500]) + data[to:]
        case 7:
            return "emptied", b""
        case 8:
            return "zeros", data[:at] + bytes(to - at) + data[to:]
        case 9:
            return "a byte order mark", codecs.BOM_UTF8 + data
        case 10:
            return "line ends of Windows", data.replace(b"\n", b"\r\n")
        case 11:
            text = data.decode("utf-8", "replace")
            return "another encoding", text.encode(chance.choice(["utf-16", "utf-32", "utf-7", "cp037"]), "replace")
    return "noise", chance.randbytes(chance.choice([1, 10, 300, 5_000]))


def _lines(chance: random.Random, data: bytes) -> tuple[str, bytes]:
    lines = data.decode("utf-8", "replace").split("\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(7):
        case 0:
            lines.insert(at, chance.choice(_LINES))
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            del lines[at]
        case 4:
            lines[at] = chance.choice([" ", "  ", "\t", "- ", "#"]) + lines[at]
        case 5:
            head, colon, _ = lines[at].partition(chance.choice([":", "=", " "]))
            lines[at] = head + colon + " " + chance.choice((*_LINES, *VALUES, *_TEXTS))
        case 6:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
    return "lines changed", "\n".join(lines).encode("utf-8", "surrogatepass")


def _value(chance: random.Random, data: bytes, kind: str, outside: Path, fix: Fix | None) -> tuple[str, bytes]:
    try:
        if kind == "jsonl":
            lines = data.splitlines()
            at = chance.randrange(len(lines))
            how, lines[at] = _value(chance, lines[at], "json", outside, fix)
            return how, b"\n".join(lines) + b"\n"
        value = json.loads(data)
    except (ValueError, IndexError, RecursionError):
        return _bytes(chance, data)
    value = {"": copy.deepcopy(value)}
    parent, key = chance.choice(list(_places(value)))
    text = chance.choice(VALUES).replace("{outside}", str(outside))
    how = f"{key!r} becomes {text[:40]}"
    match chance.randrange(6):
        case 0 if isinstance(parent, dict) and parent is not value:
            del parent[key]
            how, text = f"{key!r} is left out", ""
        case 1 if isinstance(parent, dict) and parent is not value:
            parent[chance.choice(_TEXTS)] = parent.pop(key)
            how, text = f"{key!r} has another name", ""
        case 2 if isinstance(parent[key], dict):
            parent[key][chance.choice(_TEXTS)] = "\x00here"
        case 3 if isinstance(parent[key], list):
            parent[key] = [*parent[key], *parent[key], "\x00here"]
        case _:
            parent[key] = "\x00here"
    whole, value = value, value[""]
    if fix is not None and text:
        with suppress(ValueError, RecursionError):
            parent[key] = json.loads(text)
            value, text = parent[key] if parent is whole else value, ""
    if fix is not None and not text:
        with suppress(KeyError, TypeError, ValueError, AttributeError, RecursionError):
            value = fix(value)
    raw = json.dumps(value)
    return how, raw.replace('"\\u0000here"', text).encode("utf-8")


def _places(value: Any) -> Any:
    """Each (container, key or index) at any depth."""
    todo = [value]
    while todo:
        each = todo.pop()
        items = list(each.items()) if isinstance(each, dict) else list(enumerate(each))
        for key, inner in items:
            yield each, key
            if isinstance(inner, dict | list):
                todo.append(inner)


def parquet(chance: random.Random, data: bytes) -> tuple[str, bytes]:
    """The table with a column that is absent, of another type, with nothing in it, or twice; or its bytes changed."""
    if chance.random() < 0.4:
        return _bytes(chance, data)
    table = pq.read_table(io.BytesIO(data))
    at = chance.randrange(table.num_columns)
    name, rows = table.column_names[at], table.num_rows
    others: list[Callable[[], Any]] = [
        lambda: pa.array([None] * rows),
        lambda: pa.array([chance.choice(["", "x", "{}", "[1]", "[" * DEEP, '{"a": NaN}', '{"#sparse_vector": 5}']) for _ in range(rows)]),
        lambda: pa.array([b"\xff\xfe"] * rows),
        lambda: pa.array([chance.choice([0, -1, 2**62])] * rows),
        lambda: pa.array([[1.0, 2.0]] * rows),
        lambda: pa.array([[None, float("nan")]] * rows, pa.list_(pa.float32())),
        lambda: pa.array([{"a": [1]}] * rows),
        lambda: pa.array([*table.column(at).to_pylist()[:-1], None], table.schema.field(at).type),
    ]  # fmt: skip
    how = chance.choice(["absent", "twice", "other", "other", "other", "no rows"])
    if how == "absent":
        table = table.remove_column(at)
    elif how == "twice":
        table = table.append_column(name, table.column(at))
    elif how == "no rows":
        table = table.slice(0, 0)
    else:
        table = table.set_column(at, name, chance.choice(others)())
    out = io.BytesIO()
    pq.write_table(table, out)
    return f"column {name}: {how}", out.getvalue()


def sqlite(chance: random.Random, path: Path, outside: Path) -> str:
    """Change a value, a row, a table of a database in place; how, in words. A name in it may lead to `outside`."""
    with closing(sqlite3.connect(path)) as db, db:
        tables = [
            row[0]
            for row in db.execute("select name from sqlite_master where type = 'table' and sql not like '%VIRTUAL%'")
        ]
        tables = [t for t in tables if "fulltext" not in t and not t.startswith("sqlite_")]
        table = chance.choice(
            [*tables, *(t for t in tables if t in ("collections", "segments"))]
        )  # their ids are folders
        columns = [row[1] for row in db.execute(f'pragma table_info("{table}")')]
        column = chance.choice(columns)
        texts = (*_TEXTS, *VALUES)
        value: Any = chance.choice(
            [
                None,
                0,
                -1,
                2**62,
                1.5,
                float("inf"),
                b"\xff\xfe",
                b"",
                *chance.choices(texts, k=2),
                *chance.choices(_PATHS, k=2),
            ]
        )
        if isinstance(value, str):
            value = value.replace("{outside}", str(outside)).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        values: tuple[Any, ...]
        match chance.randrange(8):
            case 0:
                statement, values = f'delete from "{table}" where rowid in (select rowid from "{table}" limit 3)', ()
            case 1:
                statement, values = f'drop table "{table}"', ()
            case 2:
                statement, values = f'alter table "{table}" rename column "{column}" to "{column}_"', ()
            case 3:
                statement, values = f'insert into "{table}" select * from "{table}" limit 1', ()
            case 4:
                statement, values = f'update "{table}" set "{column}" = cast(x\'fffe61\' as text)', ()
            case _:
                statement = f'update "{table}" set "{column}" = ? where rowid in (select rowid from "{table}" limit {chance.choice([1, 5, 1000])})'
                values = (value,)
        with suppress(sqlite3.Error):
            db.execute("pragma foreign_keys = off")
            db.execute("pragma ignore_check_constraints = on")
            db.execute(statement, values)
        return f"{statement[:100]} {str(values)[:40]}"
