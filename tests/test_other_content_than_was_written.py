"""Each kind of breakage that generated inputs found: content of another kind than was written is one line, at once."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import audit, fence, status
from helpers.cutover.application import CutoverState
from helpers.cutover.files import edit_compose
from helpers.errors import RunbookError, Terminal, UsageError, secrets_assigned, secrets_of
from helpers.fence import FenceState
from helpers.fence.nginx import servers
from helpers.migration.delta import Delta
from helpers.migration.staging import Quarantine, Staged
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.model import parse_yaml
from helpers.parameters.sections import Cutover
from helpers.results import write_json
from helpers.rollback import replay
from helpers.rollback.replay import exported
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.kernel import is_whole
from helpers.runner import group
from helpers.schema.file import read_schema_file
from helpers.snapshots.export_journal import MANIFEST, ExportJournal, read_parquet, signed
from helpers.snapshots.snapshot import Snapshot, from_table, to_table
from helpers.stores import CollectionInfo, open_source, opening
from helpers.stores.creation import refused_name
from helpers.stores.index_files import _LAYOUT, HEADER, PICKLE, IndexDamage, IndexFolder, read_pickle
from helpers.stores.layout import DATABASE, EMBEDDINGS
from helpers.stores.rescue import Stored, _from_log
from helpers.troubleshooting import manifest_of
from tests.damaged import sound
from tests.fuzz.files import Bench, old_answers
from tests.fuzz.parsers import old_server_read
from tests.storage import chunks, embedded, fill, index_folder, journal_text, writable_copy
from tests.test_source_layout_0_3 import GOOD, write_old

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("count", "many"), ("count", None), ("collections", ["notes"]), ("collections", [{"name": "notes"}]), ("notes", 5),
        ("get", {"ids": [1, 2], "documents": [None, None], "metadatas": [None, None]}),
        ("get", {"ids": ["a"], "documents": [5], "metadatas": [None]}),
        ("get", {"ids": ["a", "b"], "documents": ["x"], "metadatas": [None, None]}),
        ("query", {"ids": [["a", "b"]], "distances": [[0.0]]}),
        ("query", {"ids": [["a"]], "distances": [["near"]]}),
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_one_line(own_folders: None, tmp_path: Path, name: str, answer: Any) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for variable in ("HOME", "TMPDIR"):
            patched.setenv(variable, str(tmp_path))
        patched.setattr("tempfile.tempdir", None)
        bench = Bench(tmp_path / "bench")
        path = {path.stem: path for path in old_answers(bench)}[name]
        old_server_read(bench, path)
        write_json(path, answer)
        with pytest.raises(RunbookError) as caught:
            old_server_read(bench, path)
    assert caught.value.line().isprintable()


@pytest.mark.parametrize("column", [pa.array([1, 2]), pa.array([None, "b"], pa.large_string()), pa.array([b"a", b"b"])])
def test_a_file_of_chunks_with_another_column_is_one_line(tmp_path: Path, column: pa.Array) -> None:
    table = to_table(chunks(2))
    pq.write_table(table.set_column(0, "id", column), tmp_path / "part.parquet")
    with pytest.raises(Terminal, match=r"part\.parquet: cannot be read"):
        read_parquet(tmp_path / "part.parquet")
    pq.write_table(table.append_column("id", table.column("id")), tmp_path / "part.parquet")
    with pytest.raises(Terminal, match=r"part\.parquet: cannot be read"):
        read_parquet(tmp_path / "part.parquet")


def test_a_text_that_is_none_is_found_where_the_file_is_read(tmp_path: Path) -> None:
    table = to_table(chunks(1))
    texts = pa.LargeStringArray.from_buffers(1, pa.py_buffer(b"\0" * 8 + b"\2" + b"\0" * 7), pa.py_buffer(b"a\xc7"))
    pq.write_table(table.set_column(1, "document", texts), tmp_path / "part.parquet")
    with pytest.raises(Terminal, match=r"part\.parquet: cannot be read.*[Ii]nvalid UTF8"):
        read_parquet(tmp_path / "part.parquet")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 200_000, 'A="a\n' + "x" * 70_000 + '"', "a-" * 50_000, "a b " * 40_000, "A=" + " " * 70_000 + "b", "a=" * 5_000,
        "a='" * 5_000, "x=y;" * 5_000,
    ],
)  # fmt: skip
def test_a_long_line_of_a_configuration_file_takes_no_time(text: str) -> None:
    text += "\nPASSWORD='x-12345678' # y\n"
    began = time.process_time()
    assert list(secrets_assigned(text)) == [("PASSWORD", 1, "x-12345678")]
    assert secrets_of("A", text.partition("\n")[0]) == []
    assert time.process_time() - began < 4


@pytest.mark.parametrize("text", ["[1]", "{", DEEP, '{"a": {"#sparse_vector": 5}}'])
def test_metadata_that_are_none_are_one_line(text: str) -> None:
    table = to_table(chunks(1)).set_column(2, "metadata", pa.array([text], pa.large_string()))
    with pytest.raises(Terminal, match="has metadata that this toolkit does not write"):
        from_table(table)


def test_a_directory_of_0_3_with_other_columns_is_one_line(tmp_path: Path) -> None:
    for number, metadata in enumerate(['{"a": ', DEEP]):
        folder = write_old(tmp_path / f"json-{number}", [{**GOOD, "metadata": metadata}])
        with (
            pytest.raises(Terminal, match="metadata that is no JSON"),
            open_source(Endpoint(path=str(folder)), tmp_path),
        ):
            pass
    folder = write_old(tmp_path / "columns", [GOOD])
    table = pq.read_table(folder / EMBEDDINGS)
    for other in (table.append_column("id", table.column("id")), table.set_column(4, "id", pa.array([5]))):
        pq.write_table(other, folder / EMBEDDINGS)
        with (
            pytest.raises(Terminal, match=r"not as Chroma 0\.3 wrote"),
            open_source(Endpoint(path=str(folder)), tmp_path),
        ):
            pass


def test_a_database_that_lacks_a_table_is_one_line(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute("drop table segment_metadata")
    with (
        pytest.raises(Terminal, match="SQLite says"),
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "s"),
    ):
        pass


def test_deep_nesting_is_one_line(own_folders: None, tmp_path: Path) -> None:
    compose = b"services: " + b"{a: " * 3_000 + b"}" * 3_000
    with pytest.raises(Terminal, match="not a readable compose file"):
        edit_compose(compose, {"A": "http://x"}, tmp_path / "compose.yaml")
    folder = tmp_path / "reports" / "many"
    folder.mkdir(parents=True)
    (folder / "group.json").write_text(f'{{"id": {DEEP}}}')
    with pytest.raises(Terminal, match="nested too deeply"):
        group.read("many")


def test_what_an_application_writes_holds_nothing_up(tmp_path: Path) -> None:
    assert secrets_of("url", "http://[") == []
    (tmp_path / "app.env").write_text("CHROMA_URL=http://x\n# " + "x" * 100_000 + "\nPASSWORD=hunter2hunter2\n")
    rules = Cutover.model_validate(
        {"env_files": [{"path": str(tmp_path / "app.env"), "keys": {"CHROMA_URL": "after"}}]}
    )
    began = time.process_time()
    assert list(rules.secret_values().values()) == ["hunter2hunter2"]
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "change",
    [
        {"put": {"notes": 5}}, {"put": {"notes": "../002.parquet"}}, {"put": {"notes": "002.parquet"}}, {"put": {"other": "x"}},
        {"delete": ["notes"]}, {"delete": {"notes": 5}}, {"create": {"a": {"name": "a"}}}, {"create": {"a": 5}},
    ],
)  # fmt: skip
def test_a_plan_of_a_replay_of_another_shape_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tmp_path / "rollback" / "replay-1"
    info = CollectionInfo("b", 0, None, "l2", "l2", findings=("x",))
    replay.save(replay.Plan(put={"notes": chunks(2)}, delete={"notes": ["x"]}, create={"b": info}), folder)
    (plan,) = replay.saved(tmp_path)
    assert (plan.put["notes"].ids, plan.delete, plan.create) == (chunks(2).ids, {"notes": ["x"]}, {"b": info})
    write_json(folder / "plan.json", json.loads((folder / "plan.json").read_bytes()) | change)
    with pytest.raises(Terminal, match=r"plan\.json: cannot be read"):
        replay.saved(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"notes": "x"}}, {"files": {"notes": [5]}}, {"files": {}}, {"files": {"notes": ["../x.parquet"]}},
        {"files": {"notes": ["/x.parquet"]}}, {"ids": {"notes": 5}}, {"ids": ["notes"]}, {"state": None}, {"when": 5},
    ],
)  # fmt: skip
def test_an_export_before_a_repair_of_another_shape_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {"state": "done", "when": "x", "ids": {"notes": ["a"]}, "files": {"notes": ["x.parquet"]}}
    write_json(tmp_path / "undo.json", whole)
    assert manifest_of(tmp_path) == whole
    write_json(tmp_path / "undo.json", whole | change)
    with pytest.raises(Terminal, match=r"undo\.json: cannot be read"):
        manifest_of(tmp_path)


@pytest.mark.parametrize(
    "change", [{"drop": "notes"}, {"create": {"a": 1}}, {"remove": {"notes": 5}}, {"remove": ["a"]}]
)
def test_a_difference_of_two_stagings_of_another_shape_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    delta = Delta(Staged(tmp_path, {"notes": [("notes/1.parquet", "notes", 2)]}), drop=["a"], remove={"notes": ["b"]})
    delta.save()
    found = Delta.load(tmp_path)
    assert (found.drop, found.create, found.remove, found.add.files) == (["a"], [], {"notes": ["b"]}, delta.add.files)
    write_json(tmp_path / "delta.json", change)
    with pytest.raises(Terminal, match=r"delta\.json: cannot be read"):
        Delta.load(tmp_path)


@pytest.mark.parametrize("file", ["../../../outside.parquet", "/etc/passwd"])
def test_a_staging_names_no_file_elsewhere(tmp_path: Path, file: str) -> None:
    Staged(tmp_path, {"notes": [(file, "notes", 2)]}).save(tmp_path)
    with pytest.raises(Terminal, match="is a file elsewhere"):
        Staged.load(tmp_path)


@pytest.mark.parametrize("line", ["%YAML 9.9", "%YAML 1.3"])
def test_a_directive_in_a_file_of_yaml_is_one_line(tmp_path: Path, line: str) -> None:
    for text in (f"{line}\n---\nname: a\n", f"name:\n{line}\n  a: b\n"):
        with pytest.raises(UsageError, match="not valid YAML") as caught:
            parse_yaml(text)
        assert caught.value.line().isprintable()
        with pytest.raises(Terminal, match="not a readable compose file"):
            edit_compose(text.encode(), {"A": "http://x"}, tmp_path / "compose.yaml")


@pytest.mark.parametrize("file", ["../../../outside.parquet", "/etc/passwd"])
def test_a_journal_names_no_file_elsewhere(tmp_path: Path, file: str) -> None:
    def changed(change: Callable[[dict[str, Any]], object]) -> ExportJournal | None:
        folder = tmp_path / "one.partial"
        ExportJournal.open(folder, {"source": "s"}, 1).freeze("notes", "001-notes", {"name": "notes"}, ["a"], [0])
        path = folder / ".export" / "journal.jsonl"
        entries = [json.loads(line) for line in path.read_bytes().splitlines()]
        change(entries[-1])
        path.write_text(journal_text(entries, audit.secret()))
        return ExportJournal.read(folder)

    for change in (
        lambda e: e["ids"].update(file=file),
        lambda e: e["ids"].update(count="5"),
        lambda e: e.update(at=5),
    ):
        journal = changed(change)
        assert journal is not None
        assert (journal.collections, len(journal.notes)) == ({}, 1)


def test_a_fence_whose_rules_are_none_is_one_line(tmp_path: Path) -> None:
    state = FenceState("command", "up", "lift it", rules={"kind": 5}, source={"url": "http://127.0.0.1:1"})
    state.save(tmp_path)
    with (
        patch.object(fence, "FenceControl"),
        pytest.raises(Terminal, match=r"fence\.json: cannot be read: .*kind") as caught,
    ):
        fence.lift(RunFolder("one", tmp_path, tmp_path).read())
    assert "\\n" not in caught.value.line()


def test_the_rules_of_a_fence_and_of_a_cutover_are_read_with_their_file(tmp_path: Path) -> None:
    """Whoever loads the state has rules that are some, or one line: notebooks 27 and 53 and a replay ask for no more."""
    for damaged in (
        {"rules": {"kind": 5}},
        {"rules": {"kind": "nginx"}},
        {"source": {"url": 5}},
        {"source": {"other": 1}},
    ):
        FenceState("command", "up", "lift it", **damaged).save(tmp_path)
        with pytest.raises(Terminal, match=rf"fence\.json: cannot be read: {next(iter(damaged))}") as caught:
            FenceState.load(tmp_path)
        assert caught.value.line().isprintable()
    CutoverState(rules={"env_files": 5}).save(tmp_path)
    with pytest.raises(Terminal, match=r"cutover\.json: cannot be read: rules\.env_files"):
        CutoverState.load(tmp_path)


def test_a_notebook_whose_output_has_no_type_is_not_whole(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": ["x"], "outputs": [{"x": 1}]}
    write_json(tmp_path / "n.ipynb", {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    assert not is_whole(tmp_path / "n.ipynb")


def test_a_public_key_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="public key of the runner cannot be read"):
        audit.public_key(tmp_path / "key.pub")


def test_a_label_map_takes_the_memory_of_its_own_size(tmp_path: Path) -> None:
    (tmp_path / PICKLE).write_bytes(b"\x80\x02}.")
    tracemalloc.start()
    try:
        with pytest.raises(IndexDamage, match="holds no label map"):
            read_pickle(tmp_path / PICKLE)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_name_with_two_dots_in_a_row_is_refused_before_the_window(tmp_path: Path) -> None:
    assert refused_name("a..b") == "it has two dots in a row"
    path = tmp_path / "schema.yaml"
    path.write_text("name: made\nrouting: {targets: {a: a..b}, otherwise: a}\n")
    with pytest.raises(UsageError, match="cannot be the name of a collection"):
        read_schema_file(path)


@pytest.mark.parametrize("collections", [["x"], [{"name": "notes", "count": 1, "parts": []}], ".."])
def test_a_manifest_of_another_shape_is_one_line(tmp_path: Path, collections: object) -> None:
    write_json(tmp_path / "manifest.json", signed({"format": MANIFEST, "id": "s", "collections": collections}))
    with pytest.raises(Terminal, match="no readable manifest"):
        Snapshot.open(tmp_path)


@pytest.mark.parametrize("lacks", ["", "count", "sha256", "file", "starts"])
def test_an_entry_of_a_journal_that_lacks_a_part_is_read_again(tmp_path: Path, lacks: str) -> None:
    folder = tmp_path / "one.partial"
    ExportJournal.open(folder, {"source": "s"}, 10).freeze("notes", "001-notes", {"name": "notes"}, ["a"], [0])
    path = folder / ".export" / "journal.jsonl"
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    if lacks == "starts":
        entries[-1]["starts"] = ["0"]
    elif lacks:
        del entries[-1]["ids"][lacks]
    else:
        del entries[-1]["ids"]
    path.write_text(journal_text(entries, audit.secret()))
    journal = ExportJournal.read(folder)
    assert journal is not None
    assert (journal.listed, len(journal.notes)) == (0, 1)


def manifest() -> dict[str, Any]:
    """The manifest of a snapshot of one collection, in one file."""
    at = "2025-12-01T02:00:00+00:00"
    part = {"file": "001-notes/00001.parquet", "rows": 2, "bytes": 900, "sha256": "0" * 64, "lost": 0, "without": [1]}
    notes = {
        "name": "notes",
        "count": 2,
        "dimension": 3,
        "space": "l2",
        "declared_space": "l2",
        "metadata": {"a": "\ud800"},
    }
    notes |= {
        "configuration": {"hnsw": {"space": "l2"}, "spann": None},
        "findings": [],
        "reported_count": 2,
        "parts": [part],
    }
    return {
        "format": MANIFEST, "id": "s", "status": "created", "created": at, "retain_until": at, "source": "directory source",
        "notes": [], "chroma_version": {"source": "1.5.9", "client": "1.5.9"}, "collections": [notes],
        "sessions": [{"started": at, "ended": at, "chunks": 2}],
    }  # fmt: skip


def values(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a manifest a value is that a type is asked of."""
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        if key not in ("format", "metadata", "reported_count", "hnsw"):
            yield (*path, key)
            if isinstance(value, dict | list):
                yield from values(value, (*path, key))


OPTIONAL = {"sessions", "findings", "lost", "without", "configuration", "spann", 0}
ALLOWED: dict[Any, list[Any]] = {"dimension": [None], "configuration": [{"x": 0}], "spann": [None, {"x": 0}]}


@pytest.mark.parametrize("path", list(values(manifest())), ids=str)
def test_a_manifest_with_a_value_of_another_type_is_one_line(tmp_path: Path, path: tuple[Any, ...]) -> None:
    """Each value in turn is missing, or of each other type; what is right is read."""
    file, (*before, last) = tmp_path / "manifest.json", path
    write_json(file, signed(manifest()))
    assert Snapshot.open(tmp_path).total == 2
    others: list[Any] = [None, -1, 1e300, True, "\x1b[2J", [[]], {"x": 0}, KeyError]
    for other in others:
        held = manifest()
        within: Any = held
        for key in before:
            within = within[key]
        of_its_type = isinstance(other, str) and isinstance(within[last], str)
        if of_its_type or other in ALLOWED.get(last, []) or (other is KeyError and last in OPTIONAL):
            continue
        within[last] = other
        if other is KeyError:
            del within[last]
        write_json(file, signed(held))
        with pytest.raises(Terminal, match="no readable manifest") as refused:
            Snapshot.open(tmp_path)
        assert len(refused.value.line().splitlines()) == 1


@pytest.mark.parametrize("held", [b"{}", b"[]", b"null", b'{"format": 2}', b'{"format": "\x1b[2J"}', b"", b"\xff"])
def test_what_is_no_manifest_is_one_line(tmp_path: Path, held: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(held)
    with pytest.raises(Terminal, match="no readable manifest") as refused:
        Snapshot.open(tmp_path)
    assert refused.value.line().isprintable()


@pytest.mark.parametrize("detail", ["Infinity", "1e400", "5"])
def test_a_detail_of_the_quarantine_that_is_no_text_is_one_line(tmp_path: Path, detail: str) -> None:
    line = f'{{"collection": "notes", "id": "a", "reason": "dimension", "detail": {detail}}}\n'
    (tmp_path / "refused.jsonl").write_text(line)
    with pytest.raises(Terminal, match="cannot be read"):
        list(Quarantine(tmp_path)._lines())


def test_an_export_of_a_collection_without_a_name_is_one_line(tmp_path: Path) -> None:
    row = {"collection": {}, "number": 1, "unreadable_ids": ["a"], "added": 0, "changed": 0}
    write_json(tmp_path / "index.json", {"collections": [row]})
    with pytest.raises(Terminal, match="cannot be read"):
        exported([str(tmp_path)])


def test_a_run_whose_folder_is_no_path_is_one_line(own_folders: None) -> None:
    folder = runs.create(parameters_from({"name": "n", "source": {"path": "a"}, "target": {"path": "b"}}), "night")
    facts = json.loads((folder.reports / "run.json").read_text())
    write_json(folder.reports / "run.json", {**facts, "directory": "\0"})
    with pytest.raises(RunbookError, match="a text with a null"):
        _ = folder.read().facts


def test_a_vector_of_the_log_that_is_a_number_is_left_out(tmp_path: Path) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3, 4))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db:
        topic = db.execute("select topic from embeddings_queue").fetchone()[0]
        stored = Stored(**{**dict.fromkeys((f.name for f in dataclasses.fields(Stored)), ""), "topic": topic})
        db.execute("update embeddings_queue set vector = 1.5 where seq_id = 1")
        matrix, origin = np.full((3, 4), np.nan, np.float32), np.zeros(3, np.uint8)
        _from_log(db, stored, {"a": 1, "b": 2, "c": 3}, matrix, origin)
    assert np.isnan(matrix[0]).all()
    assert np.isfinite(matrix[1:]).all()


def test_norms_take_the_memory_of_the_rows_that_are_there(real_databases: Path, tmp_path: Path) -> None:
    """A header may promise a trillion rows."""
    folder = index_folder(writable_copy(sound("purged", real_databases, tmp_path), tmp_path / "copy"), "items_128d")
    raw = bytearray((folder / HEADER).read_bytes())
    version, first, _, _, *rest = _LAYOUT.unpack(raw[: _LAYOUT.size])
    raw[: _LAYOUT.size] = _LAYOUT.pack(version, first, 2**39, 2**39, *rest)
    (folder / HEADER).write_bytes(raw)
    reader = IndexFolder(folder, dimension=128, m=16, cosine=True)
    assert "rows_truncated" in dict(reader.health.problems)


def test_a_retention_beyond_the_calendar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="retention_days"):
        parameters_from({"snapshot": {"retention_days": 10**10}})


def test_the_progress_of_a_step_that_is_none_is_left_out(tmp_path: Path) -> None:
    good = {"step": "22", "label": "x", "done": 1, "total": 2, "unit": "chunks"}
    for number, state in enumerate([good, {**good, "step": []}, {**good, "total": None}, "text", [], {}]):
        write_json(tmp_path / "progress.json", state)
        assert (status._progress(tmp_path / "progress.json") is None) == (number > 0)


@pytest.mark.parametrize("number", ["-1e400", "%s", float("inf")])
def test_a_number_of_the_log_that_is_none_is_one_line(tmp_path: Path, number: object) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute("update max_seq_id set seq_id = ?", (number,))
    with (
        pytest.raises(Terminal, match="a number of the log is"),
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "s"),
    ):
        pass


def test_blocks_of_nginx_nested_beyond_reading_are_one_line() -> None:
    with pytest.raises(Terminal, match="nested too deeply"):
        servers({Path("/etc/nginx/nginx.conf"): "a {" * 5_000})


def test_a_compose_file_that_merges_a_mapping_into_itself_is_one_line(tmp_path: Path) -> None:
    text = b"services:\n  app: &app\n    <<: *app\n    environment: {A: b}\n"
    with pytest.raises(RunbookError) as caught:
        edit_compose(text, {"A": "c"}, tmp_path / "compose.yaml")
    assert caught.value.line().isprintable()


def test_an_address_is_no_name_of_a_collection() -> None:
    assert refused_name("1.2.3.4") == "it is the address 1.2.3.4"
    assert not refused_name("1.2.3.400")


@pytest.mark.more
def test_a_directory_without_its_segments_is_one_line_and_no_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine fails on a collection of which there is nothing to rescue."""
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(tmp_path / "source" / DATABASE)) as db, db:
        db.execute("delete from segments")
    tried: list[object] = []
    real = opening.try_opening

    def once_more(*arguments: Any) -> Any:
        tried.append(arguments)
        assert len(tried) < 4, "again and again"
        return real(*arguments)

    monkeypatch.setattr(opening, "try_opening", once_more)
    with (
        pytest.raises(Terminal, match="Chroma's engine cannot read collection notes") as caught,
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "s"),
    ):
        pass
    assert caught.value.line().isprintable()
