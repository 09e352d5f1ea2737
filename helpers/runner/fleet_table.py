"""The table of a fleet: a row for each migration, all rows checked before the first one starts; and a table that is made from
what a source lists.

A row has a `name`, a `source` and a `target` (a URL or a directory), and parameters by their dotted keys in place of those of
the parameters file, such as `target.database` or `migration.batch_size`. An empty cell changes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import EnvironmentFailure, RunbookError, UsageError, one_line
from helpers.formatting import count, visible
from helpers.parameters import NOT_YAML, Parameters, parameters_from
from helpers.parameters.endpoint import ALL, Endpoint, host_key, resolve_path
from helpers.parameters.model import parse_yaml, read_yaml_mapping, split_key
from helpers.reason_codes import ReasonCode
from helpers.results import contents, write_text
from helpers.run import folders as runs

NAME, SOURCE, TARGET = "name", "source", "target"
_ENDS = (SOURCE, TARGET)
_AS_TEXT = {NAME, *_ENDS, *(f"{end}.{key}" for end in _ENDS for key in ("tenant", "database"))}
_MOST_BYTES, MOST_ROWS = 2**24, 10_000
_AT_ONCE = 8  # endpoints that are asked at a time: of one that does not answer nobody should wait for the others
_PLACE = ("url", "path", "cloud")
_EXAMPLE = "docs/scale.md has an example."


@dataclass(slots=True)
class TableRow:
    """A row by its number; `parameters` are those of its run once they are valid, `problems` are the reasons to refuse it."""

    number: int
    cells: dict[str, Any]
    parameters: Parameters | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.cells.get(NAME) or "")

    @property
    def label(self) -> str:
        return f"row {self.number} ({one_line(self.name, 64)})" if self.name else f"row {self.number}"

    def line(self) -> str:
        """What is wrong with it, in one line."""
        return one_line(f"{self.label}: {'; '.join(self.problems)}", 1200)


@dataclass(frozen=True, slots=True)
class FleetTable:
    """A table: its file, the SHA-256 of that, and its rows."""

    path: Path
    sha256: str
    rows: list[TableRow]


# -- read --------------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> FleetTable:
    """The rows of a .csv, .yaml or .yml file. Raises UsageError where it is not readable or a column is not a parameter."""
    if path.suffix.lower() not in (".csv", ".yaml", ".yml"):
        raise _table_error(path, "a table is a .csv or a .yaml file")
    try:
        data = contents(path.resolve(), _MOST_BYTES)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _table_error(path, "not UTF-8 text", "Save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise _table_error(
            path, f"cannot be read ({getattr(error, 'strerror', None) or error})", "Check the path."
        ) from error
    rows = list(_csv_rows(path, text) if path.suffix.lower() == ".csv" else _yaml_rows(path, text))
    if not rows:
        raise _table_error(path, "it has no rows")
    if len(rows) > MOST_ROWS:
        raise _table_error(
            path, f"it has {len(rows):,} rows, and a fleet may have {MOST_ROWS:,}", "Make several tables of it."
        )
    for column in dict.fromkeys(key for row in rows for key in row.cells):
        _require_column(path, column)
    return FleetTable(path, hashlib.sha256(data).hexdigest(), rows)


def _table_error(path: Path, what: str, next_step: str = _EXAMPLE) -> UsageError:
    return UsageError(ReasonCode.PARAMETERS_INVALID, what, where=str(path), next_step=next_step)


def _csv_rows(path: Path, text: str) -> Iterator[TableRow]:
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","  # spreadsheets of some countries
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        if duplicate := next((c for c in columns if columns.count(c) > 1), None):
            raise _table_error(
                path, f"the column {one_line(duplicate, 60)!r} is there twice", "Take one of the two out."
            )
        number = 0
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            filled = {key: cell.strip() for key, cell in zip(columns, cells, strict=False) if cell.strip()}
            row = TableRow(number, {key: _value(key, cell) for key, cell in filled.items()})
            if len(cells) != len(columns):
                what = f"it has {count(len(cells), 'cell')}, and the head of the table {len(columns)}"
                row.problems.append(f"{what}; put quotes around a cell with a {delimiter}")
            yield row
    except csv.Error as error:
        raise _table_error(path, f"not a CSV file: line {reader.line_num}: {error}", "Correct it.") from error


def _value(key: str, cell: str) -> Any:
    """A cell as the value of `--set` is read; names and places are text, also where they look like a number."""
    if key in _AS_TEXT:
        return cell
    try:
        return parse_yaml(cell)
    except UsageError:
        return cell


def _yaml_rows(path: Path, text: str) -> Iterator[TableRow]:
    try:
        items = parse_yaml(text, where=str(path))
    except NOT_YAML as error:
        raise _table_error(path, f"not valid YAML ({type(error).__name__})", "Correct it.") from error
    if not isinstance(items, list):
        raise _table_error(path, "it is not a list of rows: each begins with '- name: …'")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
            raise _table_error(path, f"row {number} is not a mapping of columns to values")
        filled = {key: value for key, value in item.items() if value not in (None, "")}
        row = TableRow(
            number, {k: str(v) if k in _AS_TEXT and type(v) in (int, float) else v for k, v in filled.items()}
        )
        row.problems += [
            f"column {key} must be text" for key in _AS_TEXT & filled.keys() if not isinstance(row.cells[key], str)
        ]
        yield row


def _require_column(path: Path, column: str) -> None:
    if column in (NAME, *_ENDS):
        return
    if not column:
        raise _table_error(path, "a column has cells and no name", "Name it in the first line, or take it out.")
    try:
        split_key(column, Parameters)
    except UsageError as error:
        raise _table_error(
            path, f"column {one_line(column, 60)!r}: {error.what}", "Correct the head of the column."
        ) from error


# -- check -------------------------------------------------------------------------------------------------------------


def check(table: FleetTable, base: Path, settings: Sequence[str], fleet: str) -> None:
    """Set the parameters or the problems of each row: first from the table, then from what source and target answer.

    Nothing is written. A row whose run exists already is refused; ids of runs begin with `fleet`.
    """
    document = read_yaml_mapping(base)
    seen: dict[str, TableRow] = {}
    for row in table.rows:
        row.problems += _name_problems(row, fleet, seen)
        if not row.problems:
            try:
                row.parameters = _parameters(row, document, settings)
            except UsageError as error:
                row.problems.append(error.what)
    _check_locations(table.rows)
    _check_shards(table.rows)
    sound = [row for row in table.rows if not row.problems]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for row, problem in zip(sound, pool.map(_preflight_problem, sound), strict=True):
            row.problems += [problem] if problem else []


def run_id(fleet: str, name: str) -> str:
    return f"{fleet}-{name}"


def _name_problems(row: TableRow, fleet: str, seen: dict[str, TableRow]) -> Iterator[str]:
    if not row.name:
        yield "column name is empty; give each row a name of its own"
        return
    try:
        folder = runs.RunFolder.of(run_id(fleet, row.name))
        runs.check_run_id(row.name)
    except UsageError:
        length = runs.LONGEST_ID - len(fleet) - 1
        rule = f"use up to {length} letters, digits, '.', '_' or '-'"
        yield f"column name: {one_line(row.name, 80)!r} cannot be part of a run's id; {rule}"
        return
    if (other := seen.setdefault(row.name.lower(), row)) is not row:
        yield f"column name: row {other.number} has this name, too; give each row a name of its own"
    elif folder.exists:
        yield f"run {folder.id} exists already; name the fleet otherwise with --name"


def _parameters(row: TableRow, document: Mapping[str, Any], settings: Sequence[str]) -> Parameters:
    """The parameters of the file, overridden by those of the row."""
    merged = {**document, NAME: row.name}
    for end in _ENDS:
        default = document.get(end)
        place = _place(str(row.cells[end])) if end in row.cells else None
        if place is not None:
            merged[end] = {
                **{k: v for k, v in (default if isinstance(default, dict) else {}).items() if k not in _PLACE},
                **place,
            }
        elif not isinstance(default, dict) or not any(default.get(key) for key in _PLACE):
            raise _table_error(
                Path(), f"column {end} is empty, and the parameters file names no {end}; write a URL or a directory"
            )
    overrides = [f"{key}={json.dumps(value)}" for key, value in row.cells.items() if key not in (NAME, *_ENDS)]
    parameters = parameters_from(merged, [*settings, *overrides])
    for end in _ENDS:
        if ALL in (getattr(parameters, end).tenant, getattr(parameters, end).database):
            raise _table_error(Path(), f"{end}: * means many databases; give each a row: fleet discover writes them")
    return parameters.refuse_open_secrets()


def _place(cell: str) -> dict[str, Any]:
    if cell.lower() == "cloud":
        return {"cloud": True}
    return {"url": cell} if "://" in cell else {"path": cell}


def _location_keys(endpoint: Endpoint) -> tuple[list[Hashable], list[Hashable]]:
    """(Keys of this location, keys of the folders above it). Two endpoints are the same location where they share one of the
    first keys; spellings, links and mounts make no difference, as in `overlap`."""
    if endpoint.path is None:
        host = host_key(endpoint.host)
        return [("server", host, endpoint.port, endpoint.prefix, endpoint.tenant, endpoint.database)], []
    folder = _resolved(endpoint.path)
    keys: list[Hashable] = [("folder", str(folder))]
    for path in (folder, folder / "chroma.sqlite3"):
        with suppress(OSError):
            facts = path.stat()
            keys.append(("file", facts.st_dev, facts.st_ino))
    return keys, [("folder", str(above)) for above in folder.parents]


def _resolved(path: str) -> Path:
    try:
        return resolve_path(path).resolve()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return resolve_path(path)


def _check_locations(rows: Sequence[TableRow]) -> None:
    """Refuse a row whose target is the target or the source of another row, or overlaps with it."""
    checked = [row for row in rows if row.parameters is not None]
    targets: dict[Hashable, TableRow] = {}
    sources: dict[Hashable, TableRow] = {}
    for row in checked:
        assert row.parameters is not None
        keys, _ = _location_keys(row.parameters.target)
        if (other := _first_other(keys, targets, row)) is not None:
            row.problems.append(f"column target is the target of {other.label}, too; each row needs a target of its own"
                                + _directory_hint(row, other))  # fmt: skip
        for key in keys:
            targets.setdefault(key, row)
        for key in _location_keys(row.parameters.source)[0]:
            sources.setdefault(key, row)
    for row in checked:
        assert row.parameters is not None
        keys, parents = _location_keys(row.parameters.target)
        if (other := _first_other(keys, sources, row)) is not None:
            row.problems.append(f"column target is the source of {other.label}; name another target")
        for others, role in ((targets, "target"), (sources, "source")):
            if (other := _first_other(parents, others, row)) is not None:
                row.problems.append(f"column target lies inside the {role} of {other.label}; name another folder")
        if (other := _first_other(_location_keys(row.parameters.source)[1], targets, row)) is not None:
            row.problems.append(f"column source lies inside the target of {other.label}; name another target there")


def _check_shards(rows: Sequence[TableRow]) -> None:
    """Refuse rows that read shards of the same collections unless every shard is read exactly once."""
    groups: dict[Hashable, dict[str, TableRow]] = {}
    for row in rows:
        if row.parameters is None or row.parameters.collections.shard is None:
            continue
        rules = row.parameters.collections
        source = row.parameters.source
        key = (_location_keys(source)[0][0], source.tenant, source.database, tuple(rules.include), tuple(rules.exclude))
        other = groups.setdefault(key, {}).setdefault(str(rules.shard), row)
        if other is not row:
            row.problems.append(
                f"column collections.shard: {other.label} reads shard {rules.shard} of this source, too"
            )
    for group in groups.values():
        first, shards = next(iter(group.values())), {text.split("/")[1] for text in group}
        missing = [f"{n}/{total}" for total in shards for n in range(1, int(total) + 1) if f"{n}/{total}" not in group]
        some, totals = ", ".join(missing[:5]), " and ".join(sorted(shards))
        if len(shards) > 1:
            first.problems.append(f"column collections.shard: the rows of this source count {totals} shards")
        elif missing:
            first.problems.append(f"column collections.shard: no row reads {some}; chunks would be left behind")


def _directory_hint(row: TableRow, other: TableRow) -> str:
    a, b = (r.parameters.target.database if r.parameters else "" for r in (row, other))
    return "" if a == b else ", for two processes on one directory destroy it"


def _first_other(keys: Collection[Hashable], owners: Mapping[Hashable, TableRow], row: TableRow) -> TableRow | None:
    return next((other for key in keys if (other := owners.get(key)) is not None and other is not row), None)


def _preflight_problem(row: TableRow) -> str:
    """Why the preflight of source and target refuses this row; "" where it passes. Nothing is written there."""
    from helpers.migration.target_lock import preflight  # with Chroma's client

    assert row.parameters is not None
    try:
        preflight(row.parameters)
    except RunbookError as error:
        return error.line()
    return ""


# -- discover ----------------------------------------------------------------------------------------------------------


def discover(source: Endpoint, tenants: Sequence[str], to: Path) -> str:
    """Write a table of the source's databases that hold a collection; a summary of it. Nothing is overwritten.

    A server lists the databases of the `tenants` that are named; a directory all of its own where none is.
    """
    from helpers.stores.opening import databases_of, holds_nothing

    if to.suffix.lower() not in (".csv", ".yaml", ".yml"):
        raise _table_error(to, "a table is a .csv or a .yaml file", "Name one: --to TABLE.yaml.")
    if to.exists():
        raise UsageError(ReasonCode.FILE_EXISTS, "something is there already", where=one_line(str(to)),
                         next_step="Name another file with --to; nothing was written.")  # fmt: skip
    listed = list(tenants) or ([ALL] if source.path else [source.tenant])
    databases = [
        pair
        for tenant in listed
        for pair in databases_of(source.model_copy(update={"tenant": tenant, "database": ALL}))
    ]
    rows: list[dict[str, str]] = []
    empty: list[str] = []
    for tenant, database in dict.fromkeys(databases):
        endpoint = source.model_copy(update={"tenant": tenant, "database": database})
        if holds_nothing(endpoint):
            empty.append(f"{one_line(tenant)}/{one_line(database)}")
            continue
        ends = {f"{end}.{key}": value for end in _ENDS for key, value in (("tenant", tenant), ("database", database))}
        rows.append({NAME: _free_name(tenant, database, rows), SOURCE: source.path or source.address, **ends})
    if to.suffix.lower() == ".csv" and (
        unsafe := [v for row in rows for v in row.values() if v[0] in "=+-@" or not v.isprintable()]
    ):
        raise _table_error(
            to,
            f"{one_line(unsafe[0], 60)!r} is what a spreadsheet runs or hides",
            "Write a .yaml file: --to TABLE.yaml.",
        )
    if not rows:
        raise UsageError(ReasonCode.NO_DATABASE, "no database there holds a collection", where=f"source {source.address}",
                         next_step="Check the address and --tenant.")  # fmt: skip
    try:
        write_text(to, _text(rows, to.suffix.lower() == ".csv"), 0o644)
    except OSError as error:
        raise EnvironmentFailure(
            ReasonCode.FOLDER_UNWRITABLE, f"cannot be written ({error.strerror})", where=str(to)
        ) from error
    omitted = f" Left out, for they hold no collection: {', '.join(empty)}." if empty else ""
    return (f"{to}: {count(len(rows), 'row')}.{omitted} Each row's target gets the same tenant and database: name the server in "
            "the parameters file, or add a column target.")  # fmt: skip


def _free_name(tenant: str, database: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A row name from the database, with the tenant or a number where that is taken; only characters valid in an id."""
    taken = {row[NAME].lower() for row in rows}
    candidates = ["".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in n).strip("-_")[:30].strip("-_")
             for n in (database, f"{tenant}-{database}")]  # fmt: skip
    candidates = [name for name in candidates if name] or ["database"]
    numbered = (f"{candidates[0]}-{n}" for n in range(2, MOST_ROWS + 2))
    return next(name for name in (*candidates, *numbered) if name.lower() not in taken)


def _text(rows: Sequence[Mapping[str, str]], as_csv: bool) -> str:
    if not as_csv:
        return "".join("- " + "\n  ".join(f"{k}: {_quoted(v)}" for k, v in row.items()) + "\n" for row in rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _quoted(value: str) -> str:
    """A YAML string, with control characters escaped."""
    return visible(json.dumps(value, ensure_ascii=False))
