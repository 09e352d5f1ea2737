"""`runbook snapshots create | check | export | import`: backups on a schedule, and files that need no Chroma."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import audit, cli
from helpers.chunks import ChunkBatch
from helpers.results import file_digest, utc_now
from helpers.snapshots import backup, retention
from helpers.snapshots import snapshot as module
from helpers.snapshots.export_journal import ExportJournal, proof_of, signed, write_parquet
from helpers.snapshots.retention import record
from helpers.snapshots.snapshot import Snapshot
from tests.storage import (
    ODD_IDS,
    assert_same,
    chunks,
    contents,
    embedded,
    fill,
    in_order,
    journal_text,
    lose_vectors,
    plan,
    tree,
)

Said = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_folders")

PARAMETERS = "source: {path: source}\nsnapshot: {directory: kept}\nname: nightly\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of two collections, parts of a hundred rows."""
    monkeypatch.setattr(module, "PART_BYTES", 100 * 8 * 4)
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(1_200, 8))
        fill(store, "beta", chunks(5, 3, prefix="b"), "cosine")
    Path("backup.yaml").write_text(PARAMETERS, encoding="utf-8")
    return tmp_path / "source"


def run(*arguments: str, code: int = 0) -> None:
    assert cli.main(["snapshots", *arguments]) == code


def create(name: str, *more: str) -> Snapshot:
    run("create", "backup.yaml", "--id", name, *more)
    return Snapshot.open(Path("kept").absolute() / name)


def told(taken: Snapshot) -> None:
    """As if it had been taken so: its manifest, and the signed line beside it."""
    taken.mark("verified")
    retention.record(taken.folder.parent, taken=taken)


def held(snapshot: Snapshot, name: str) -> ChunkBatch:
    return in_order(ChunkBatch.concatenate(list(snapshot.batches(name))))


@pytest.mark.more
def test_ten_backups_of_a_changing_source_hold_each_moment_and_take_the_room_of_what_changed(source: Path) -> None:
    moments: list[tuple[Snapshot, ChunkBatch]] = []
    for turn in range(10):
        if turn:
            with embedded(source) as store:
                store.add("alpha", chunks(3, 8, seed=turn, prefix=f"new{turn}-"))
                store.delete("alpha", [f"c{turn * 100 + 1}"])
                store.delete("alpha", [f"c{turn * 100 + 2}"])
                store.add("alpha", chunks(turn * 100 + 3, 8, seed=turn).take([turn * 100 + 2]))
        taken = create(f"day{turn}")
        with embedded(source) as store:
            moments.append((taken, contents(store, "alpha")))
    for taken, wanted in moments:
        assert_same(held(taken, "alpha"), wanted)
        assert taken.verify() == {"alpha": len(wanted), "beta": 5}
    sizes = [backup.own_bytes(taken) / taken.size() for taken, _ in moments]
    assert sizes[-1] < 0.4  # two or three parts of thirteen
    assert create("whole", "--full").size() == backup.own_bytes(Snapshot.open(Path("kept").absolute() / "whole"))
    for number in (0, 6, 9):
        run("restore", f"day{number}", "--into", f"back{number}", "--directory", "kept")
        with embedded(Path(f"back{number}").absolute()) as store:
            assert_same(contents(store, "alpha"), moments[number][1])


def test_parts_that_shrink_join_and_a_damaged_file_is_shared_by_nobody(source: Path) -> None:
    first = create("first")
    damaged = first.folder / first.parts("alpha")[11].file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with embedded(source) as store:
        store.delete("alpha", [f"c{i}" for i in range(1_100) if i % 10])
    second = create("second")
    assert len(second.parts("alpha")) < 8
    assert second.verify() == {"alpha": 210, "beta": 5}
    with embedded(source) as store:
        assert_same(held(second, "alpha"), contents(store, "alpha"))


def test_a_create_that_was_killed_goes_on_with_its_id(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, reads = module.write_part, []

    def part(*given: Any) -> Any:
        reads.append(given[2])
        if len(reads) == 6:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(module, "write_part", part)
    run("create", "backup.yaml", "--id", "night", code=130)
    assert [p.name for p in Path("kept").iterdir() if p.is_dir()] == ["night.partial"]
    taken = create("night")
    assert taken.verify() == {"alpha": 1_200, "beta": 5}
    assert len(reads) < 16  # of 13 parts, five were there
    run("create", "backup.yaml", "--id", "night", code=1)


def test_what_a_create_would_do_and_what_it_refuses(source: Path, capsys: Said, tmp_path: Path) -> None:
    before = tree(tmp_path)
    run("create", "backup.yaml", "--dry-run")
    assert "1,200" in (out := capsys.readouterr().out)
    assert "Nothing was written" in out
    run("create", "backup.yaml", "--set", "collections.include=[none]", code=2)
    assert "no collection of the source is left" in capsys.readouterr().err
    run("create", "backup.yaml", "--id", "a/b", code=2)
    assert tree(tmp_path) == before


def test_a_missed_backup_is_told(source: Path, capsys: Said) -> None:
    run("check", "backup.yaml", "--set", "notify.urls=[env:NOBODY]", code=1)
    said = capsys.readouterr().err
    assert "there is none in" in said
    assert "NOBODY" in said  # the channel that could not be told
    taken = create("today", "--without-lost")
    run("check", "backup.yaml")
    assert "recent enough" in capsys.readouterr().out
    long_ago = (datetime.now(UTC) - timedelta(hours=26)).isoformat(timespec="seconds")
    taken.manifest["sessions"][0]["started"] = long_ago
    told(taken)
    run("check", "backup.yaml", code=1)
    assert "26.0 h old" in capsys.readouterr().err


def test_a_backup_is_pruned_once_its_retention_has_ended(source: Path, capsys: Said) -> None:
    taken = create("old")
    run("prune", "--yes", "--directory", "kept")
    assert "kept until" in capsys.readouterr().out
    taken.manifest["retain_until"] = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    told(taken)
    young = create("young")
    run("prune", "--yes", "--directory", "kept")
    assert not taken.folder.exists()
    assert young.verify()  # what both shared is there


@pytest.mark.parametrize("manifest", ["as now", "of an older toolkit"])
def test_times_that_somebody_changed_in_a_manifest_count_for_nothing(source: Path, capsys: Said, manifest: str) -> None:
    taken = create("old")
    if manifest != "as now":  # a line that says nothing of it: then only what it holds is compared, as before
        retention.record(taken.folder.parent, snapshot="old", digest=taken.digest)
    now = datetime.now(UTC)
    taken.manifest["retain_until"] = (now - timedelta(days=1)).isoformat(timespec="seconds")
    taken.manifest["sessions"][0]["started"] = (now - timedelta(hours=1)).isoformat(timespec="seconds")
    taken.mark("verified")
    altered = manifest == "as now"
    capsys.readouterr()
    run("check", "backup.yaml", code=int(altered))
    run("verify", "old", "--directory", "kept", code=int(altered))
    assert ("its manifest's digest is" in capsys.readouterr().err) is altered
    run("prune", "--yes", "--directory", "kept")
    assert ("stays  old  the digest of its manifest is" in capsys.readouterr().out) is altered
    assert taken.folder.exists() is altered


def odd(source: Path) -> None:
    """A collection of strange ids, absent and empty values, lists, a vector that is lost."""
    batch = chunks(len(ODD_IDS), 8, seed=3)
    batch.ids[:] = ODD_IDS
    batch.documents[:4] = [None, "", "a\u2028b\n\t\"'", "🧪"]
    batch.metadatas[:4] = [None, {"list": [1, 2]}, {"x": 0.1 + 0.2, "y": 3.0, "n": 2**62}, {"ü": "\u0001"}]
    with embedded(source) as store:
        fill(store, "odd-ones", batch, "ip")
        store.create(plan("empty", metadata={"why": "nothing yet"}))


@pytest.mark.parametrize("form", backup.FORMATS)
def test_what_is_exported_and_imported_again_is_the_same(source: Path, tmp_path: Path, capsys: Said, form: str) -> None:
    odd(source)
    lose_vectors(source, "beta", ["gone"])
    taken = create("today", "--without-lost")
    killed, theirs = (tmp_path / name for name in (".files.0123456789abcdef.partial", ".files.partial"))
    for folder in (killed, theirs):
        folder.mkdir()
        (folder / "file").write_text("somebody's")
    capsys.readouterr()
    run("export", "today", "--directory", "kept", "--into", "files", "--format", form)
    assert (said := capsys.readouterr().out).count("remove it yourself") == 1
    assert f"{killed}, of an export that was killed or is at work" in said
    assert [p.read_text() for p in (killed / "file", theirs / "file")] == ["somebody's"] * 2
    run("export", "today", "--directory", "kept", "--into", "files", "--format", form, code=2)
    assert "it exists" in capsys.readouterr().err
    left = Path("kept/again.partial/001-alpha")
    left.mkdir(parents=True)  # somebody's
    run("import", "files", "--id", "again", "--directory", "kept", code=1)
    assert "was not begun from here" in capsys.readouterr().err
    assert left.is_dir()
    record(Path("kept").absolute(), outcome="begun", snapshot="again")  # of an import that was killed
    run("import", "files", "--id", "again", "--directory", "kept")
    again = Snapshot.open(Path("kept").absolute() / "again")
    for before, after in zip(taken.collections(), again.collections(), strict=True):
        assert before == after
        assert_same(held(again, after.name), held(taken, before.name))
    assert again.verify() == {"alpha": 1_200, "beta": 6, "empty": 0, "odd-ones": len(ODD_IDS)}
    run("restore", "again", "--directory", "kept", "--into", "back", "--collection", "odd-ones")
    with embedded(Path("back").absolute()) as store:
        assert_same(contents(store, "odd-ones"), held(taken, "odd-ones"))


def test_pandas_reads_an_export_without_this_toolkit(source: Path) -> None:
    taken = create("today", "--without-lost")
    wanted = next(taken.batches("alpha"))
    for form, read in (("parquet", pd.read_parquet), ("jsonl", lambda path: pd.read_json(path, lines=True))):
        run("export", "today", "--directory", "kept", "--into", form, "--format", form, "--collection", "alpha")
        about = json.loads(Path(form, "export.json").read_text(encoding="utf-8"))
        [entry] = about["collections"]
        frame = read(Path(form, entry["file"]))
        assert len(frame) == entry["rows"] == 1_200
        assert frame["id"].tolist()[:100] == wanted.ids
        found = np.stack(frame["embedding"].tolist()).astype(np.float32)
        assert found[:100].tobytes() == wanted.embeddings.tobytes()
        first = frame["metadata"][0]
        assert (json.loads(first) if form == "parquet" else first) == wanted.metadatas[0]


def test_json_refuses_what_it_cannot_say(source: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old servers held such numbers; a current one takes none."""
    batch = chunks(3, 8)
    batch.embeddings[1, 2] = np.nan
    monkeypatch.setattr(Snapshot, "batches", lambda *_: iter([batch]))
    create("today")
    run("export", "today", "--directory", "kept", "--into", "files", "--format", "jsonl", code=2)
    assert "chunk c1 of collection alpha" in (said := capsys.readouterr().err)
    assert "--format parquet" in said
    assert not Path("files").exists()
    assert not list(Path().glob(".files.*"))


def planted(folder: Path, journal: dict[str, Any]) -> None:
    """What somebody else who can write among the snapshots put there: an export to go on with, sound by its own digests."""
    lines = [
        {"kind": "export", "format": 2, "id": "night", "source": "source"},
        {"kind": "session", "retention_days": 7},
        {"kind": "collection", "name": "alpha", "info": {}, "starts": [0], **journal},
    ]
    (folder / ".export").mkdir(parents=True)
    text = "".join(json.dumps(signed({**line, "at": utc_now()})) + "\n" for line in lines)
    (folder / ".export" / "journal.jsonl").write_text(text)


@pytest.mark.parametrize("place", ["/victim", "../../victim", "001-alpha/../../../victim"])
def test_a_journal_removes_no_folder_elsewhere(source: Path, tmp_path: Path, capsys: Said, place: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    place = str(victim) if place == "/victim" else place
    ids = {"file": "001.ids.parquet", "count": 1, "sha256": "0"}
    planted(Path("kept/night.partial"), {"folder": place, "ids": ids})
    run("create", "backup.yaml", "--id", "night", code=1)
    assert "not begun from here" in capsys.readouterr().err
    begin = audit.append  # as if it had been begun, and killed
    begin(Path("kept/audit.jsonl"), "snapshot created", outcome="begun", snapshot="night")
    create("night")
    assert (victim / "precious").read_text() == "x"


def test_a_whole_export_that_somebody_planted_is_no_backup(source: Path, capsys: Said) -> None:
    shutil.copytree(create("first").folder, "kept/second.partial")
    run("create", "backup.yaml", "--id", "second", code=1)
    assert "not begun from here" in capsys.readouterr().err


def killed(name: str, after: int = 6) -> Path:
    """What a `create` leaves that is killed while it writes its parts; the folder."""
    whole, parts = module.write_part, []

    def part(*given: Any) -> Any:
        parts.append(given[2])
        if len(parts) == after:
            raise KeyboardInterrupt
        return whole(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_part", part)
        run("create", "backup.yaml", "--id", name, "--full", code=130)
    return Path("kept").absolute() / f"{name}.partial"


def forged(file: Path) -> dict[str, Any]:
    """Other documents in this part; what a manifest says of it then."""
    table = pq.read_table(file)
    documents = pa.array(["FORGED"] * len(table), pa.large_string())
    write_parquet(file, table.set_column(table.column_names.index("document"), "document", documents))
    return {"bytes": file.stat().st_size, "sha256": file_digest(file)}


def proven(taken: Snapshot) -> None:
    """It holds what the source holds."""
    assert taken.verify() == {"alpha": 1_200, "beta": 5}
    assert "FORGED" not in {text for name in taken.names() for text in held(taken, name).documents}


def test_an_interrupted_export_with_a_forged_manifest_is_not_called_whole(source: Path) -> None:
    """A manifest with parts, sound by digests that anybody can make, in the place of an export that was killed."""
    first, partial = create("first"), killed("night")
    shutil.copytree(first.folder, partial, dirs_exist_ok=True)
    manifest = json.loads((partial / "manifest.json").read_text(encoding="utf-8"))
    for part in (part for entry in manifest["collections"] for part in entry["parts"]):
        part |= forged(partial / part["file"])
    manifest["id"] = "night"
    (partial / "manifest.json").write_text(json.dumps(signed({**manifest, "proof": proof_of(manifest, b"")})))
    proven(create("night", "--full"))


@pytest.mark.parametrize("moved", [False, True])
def test_an_interrupted_export_with_a_forged_journal_is_not_gone_on_with(source: Path, moved: bool) -> None:
    """Lines that fit other parts, by somebody without the workspace's key; or true lines in another order."""
    journal = (partial := killed("night")) / ".export" / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    parts = [entry for entry in entries if entry["kind"] == "part"]
    if moved:
        parts[0]["start"], parts[1]["start"] = parts[1]["start"], parts[0]["start"]
    for entry in parts:
        entry["part"] |= {} if moved else forged(partial / entry["part"]["file"])
    text = "".join(json.dumps(signed(entry)) + "\n" for entry in entries)
    journal.write_text(text if moved else journal_text(entries, b""), encoding="utf-8")
    taken = create("night", "--full")
    proven(taken)
    (note,) = taken.manifest["notes"]
    assert "damaged from line" in note or "cannot be continued" in note


@pytest.mark.parametrize("what", [".export", "001-alpha", "001-alpha/00001.parquet"])
def test_an_interrupted_export_with_a_link_in_it_is_not_gone_on_with(source: Path, tmp_path: Path, what: str) -> None:
    """Its parts would be written where the link leads, under names that the journal has."""
    partial, elsewhere = killed("night", 3), tmp_path / "elsewhere"
    (partial / what).rename(elsewhere)
    (partial / what).symlink_to(elsewhere)
    before = tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    taken = create("night", "--full")
    proven(taken)
    (note,) = taken.manifest["notes"]
    assert "look at it in" in note
    assert (tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before
    assert not [path for path in taken.folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    "file", ["night", "001-alpha/../00001.parquet", "001-alpha/deep/00001.parquet", "manifest.json", "/etc/passwd"]
)
def test_a_journal_names_no_other_file_than_an_export_writes(source: Path, file: str) -> None:
    """Not even one with proofs."""
    journal = (partial := killed("night")) / ".export" / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    known = ExportJournal.read(partial)
    assert known is not None
    parts = len(known.parts)
    entries[-1]["part"]["file"] = file
    journal.write_text(journal_text(entries, audit.secret()), encoding="utf-8")
    known = ExportJournal.read(partial)
    assert known is not None
    assert len(known.parts) == parts - 1


@pytest.mark.more
@pytest.mark.parametrize("journal", [False, True])
def test_a_snapshot_that_was_renamed_as_an_export_is_not_deleted(source: Path, capsys: Said, journal: bool) -> None:
    """Nor is it gone on with by the journal of the export in whose place it is."""
    good = create("good")
    partial = killed("night")
    if journal:
        (partial / ".export").rename(good.folder / ".export")
    shutil.rmtree(partial)
    good.folder.rename("kept/night.partial")
    capsys.readouterr()
    taken = create("night", "--full")
    aside = Path("kept").absolute() / "night.set-aside-1"
    (note,) = taken.manifest["notes"]
    assert f"look at it in {aside}" in note
    assert note in capsys.readouterr().out
    proven(taken)
    if journal:
        shutil.rmtree(aside / ".export")
    proven(Snapshot.open(aside))
    run("prune", "--directory", "kept", "--yes")
    assert "stays  night.set-aside-1  " in capsys.readouterr().out
    proven(Snapshot.open(aside))
    again = aside.with_name("more.partial")
    aside.rename(again)
    assert "more.set-aside-1" in ExportJournal.clear(again), "nor where a catch-up makes room for its own"
    proven(Snapshot.open(again.with_name("more.set-aside-1")))
    run("export", "night", "--into", "files", "--directory", "kept")
    run("import", "files", "--id", "made", "--directory", "kept")
    Path("kept/made").rename("kept/made.partial")
    run("import", "files", "--id", "made", "--directory", "kept")
    assert "made.set-aside-1" in capsys.readouterr().out
    proven(Snapshot.open(Path("kept/made.set-aside-1")))


def test_a_part_that_is_replaced_as_soon_as_it_appears_is_not_recorded(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    def replaced(path: Path, table: pa.Table, **how: Any) -> str:
        digest = write_parquet(path, table, **how)
        forged(path)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_parquet", replaced)
        run("create", "backup.yaml", "--id", "night", code=1)
    assert "another file lies where this one was written" in capsys.readouterr().err
    proven(create("night"))


def test_a_backup_that_was_written_again_is_named_and_is_no_base(source: Path, capsys: Said) -> None:
    taken = create("first")
    taken.manifest["collections"][0]["metadata"] = {"poison": 1}
    taken.mark("verified")
    for command in (
        ("verify", "first"),
        ("restore", "first", "--into", "back"),
        ("export", "first", "--into", "files"),
    ):
        run(*command, "--directory", "kept", code=1)
        assert "when it was taken" in capsys.readouterr().err
    assert not Path("back").exists()
    run("check", "backup.yaml", code=1)
    assert backup.own_bytes(create("second")) > 0.9 * taken.size()


def test_a_backup_without_its_files_or_of_tomorrow_is_not_recent(source: Path, capsys: Said) -> None:
    taken = create("first")
    taken.manifest["sessions"][0]["started"] = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    told(taken)
    run("check", "backup.yaml", code=1)
    taken = create("second")
    run("check", "backup.yaml")
    (taken.folder / taken.parts("alpha")[0].file).unlink()
    taken = Snapshot.open(taken.folder)
    run("check", "backup.yaml", code=1)
    assert "No snapshot of source" in capsys.readouterr().err


ROW = {"id": "a", "embedding": [0.5, 1.0], "document": "text", "metadata": {"n": 1}}


def lines(*rows: dict[str, Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "notes.jsonl").write_text(text, encoding="utf-8")

    return write


def text(line: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "notes.jsonl").write_text(f"{line}\n", encoding="utf-8")

    return write


def table(**columns: Any) -> Callable[[Path], None]:
    return lambda folder: pq.write_table(pa.table(columns), folder / "notes.parquet")


def described(twice: bool = False, **changed: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        lines(ROW)(folder)
        digest = hashlib.sha256((folder / "notes.jsonl").read_bytes()).hexdigest()
        entry = {"name": "notes", "file": "notes.jsonl", "rows": 1, "sha256": digest, "findings": [], "dimension": 2}
        entry |= {"space": "l2", "declared_space": "l2", **changed}
        about = {"format": 1, "collections": [entry] * (1 + twice), "chroma_version": "1.5.9"}
        (folder / "export.json").write_text(json.dumps(about))

    return write


WRONG = {
    "no files": (lambda folder: None, "no .parquet or .jsonl file"),
    "no JSON": (lambda folder: (folder / "notes.jsonl").write_text("{"), "line 1"),
    "a key twice": (text('{"id": "a", "id": "b", "embedding": [1]}'), "notes.jsonl, line 1: no JSON (the key 'id' twice)"),
    "a key of metadata twice": (text('{"id": "a", "metadata": {"k": 1, "k": 2}}'), "line 1: no JSON (the key 'k' twice)"),
    "metadata of NaN": (text('{"id": "a", "metadata": {"k": NaN}}'), "line 1: no JSON (NaN, which JSON does not have)"),
    "a vector of Infinity": (text('{"id": "a", "embedding": [-Infinity]}'), "line 1: no JSON (-Infinity"),
    "a number beyond a double": (text('{"id": "a", "embedding": [1e400]}'), "line 1: an embedding with a number that"),
    "metadata beyond a double": (text('{"id": "a", "metadata": {"k": [1e400]}}'), "line 1: metadata with a value that JSON"),
    "metadata as text with NaN": (text('{"id": "a", "metadata": "{\\"k\\": NaN}"}'), "line 1: metadata that is no JSON (NaN"),
    "Parquet with a key twice": (table(id=["a"], embedding=[[1.0]], metadata=['{"k": 1, "k": 2}']), "row 1: metadata that"),
    "Parquet with 1e400": (table(id=["a"], embedding=[[1.0]], metadata=['{"k": 1e400}']), "row 1: metadata that"),
    "no object": (lambda folder: (folder / "notes.jsonl").write_text("[]"), "no object"),
    "no id": (lines({"embedding": [1.0]}), "an id that is no text"),
    "an id twice": (lines(ROW, ROW), "line 2"),
    "another dimension": (lines(ROW, {**ROW, "id": "b", "embedding": [1.0]}), "an embedding of 1 numbers, 2 before"),
    "a text as vector": (lines({**ROW, "embedding": "no"}), "no list of numbers"),
    "a list in a vector": (lines({**ROW, "embedding": [[1.0], [2.0, 3.0]]}), "no list of numbers"),
    "an unknown field": (lines({**ROW, "vector": 1}), "a field 'vector'"),
    "metadata of a list": (lines({**ROW, "metadata": [1]}), "no object"),
    "metadata with an object": (lines({**ROW, "metadata": {"a": {"b": 1}}}), "under 'a'"),
    "metadata with null": (lines({**ROW, "metadata": {"a": None}}), "under 'a'"),
    "a number of another size": (lines({**ROW, "metadata": {"a": 2**70}}), "under 'a'"),
    "a document of a number": (lines({**ROW, "document": 1}), "a document that is no text"),
    "no Parquet": (lambda folder: (folder / "notes.parquet").write_bytes(b"PAR1"), "not readable as Parquet"),
    "ids of numbers": (table(id=[1, 2]), "an id that is no text"),
    "metadata that is no JSON": (table(id=["a"], embedding=[[1.0]], metadata=["{"]), "no JSON"),
    "a date": (table(id=["a"], embedding=[[1.0]], metadata=[{"d": datetime(2026, 1, 1, tzinfo=UTC)}]), "JSON does not have"),
    "an export of another format": (lambda f: (f / "export.json").write_text('{"format": 9}'), "format 9"),
    "texts of numbers": (lines({**ROW, "embedding": ["1", "2"]}), "no list of numbers"),
    "a null in a vector": (lines({**ROW, "embedding": [None, 1]}), "no list of numbers"),
    "a number beyond float32": (lines({**ROW, "embedding": [1e300, 1]}), "float32 does not have"),
    "half a character": (lambda f: (f / "notes.jsonl").write_text('{"id": "\\ud800", "embedding": [1]}'), "an id that"),
    "a link": (lambda f: (f / "notes.jsonl").symlink_to("/etc/passwd"), "a link, or no plain file"),
    "a pipe": (lambda f: os.mkfifo(f / "notes.jsonl"), "a link, or no plain file"),
    "two files of one name": (lambda f: (lines(ROW)(f), table(id=["a"], embedding=[[1.0]])(f)), "two files of one name"),
    "vectors without an end": (lines({**ROW, "embedding": [0] * 70_000}), "65,536 at most"),
    "an export of a giant dimension": (described(dimension=600_000_000), "has 600000000 dimensions"),
    "an export with a text for a number": (described(dimension="x"), "another kind of dimension"),
    "an export with a text for an object": (described(configuration="x"), "another kind of configuration"),
    "an export that names a file twice": (described(twice=True), "occurs twice"),
    "an export without its file": (
        lambda f: (f / "export.json").write_text('{"format": 1, "collections": [{"name": "x", "rows": 1}]}'), "'findings'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_files_that_are_no_chunks_are_one_line_and_nothing_is_left(what: str, capsys: Said, tmp_path: Path) -> None:
    write, words = WRONG[what]
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder)  # type: ignore[no-untyped-call]
    run("import", "files", "--space", "l2", "--directory", "kept", "--id", "one", code=2)
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert [p.name for p in Path("kept").iterdir() if p.is_dir()] == []


def test_files_of_another_tool_need_a_space_and_say_what_was_rounded(capsys: Said, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    lines(ROW, {"id": "b", "embedding": [0.1, 2.0]})(tmp_path / "files")
    run("import", "files", "--directory", "kept", code=2)
    assert "Give --space" in capsys.readouterr().err
    run("import", "files", "--directory", "kept", "--id", "one", "--space", "cosine")
    assert "1 number rounded to float32" in capsys.readouterr().out
    [info] = (made := Snapshot.open(Path("kept").absolute() / "one")).collections()
    assert (info.name, info.count, info.dimension, info.space) == ("notes", 2, 2, "cosine")
    assert held(made, "notes").metadatas == [{"n": 1}, None]
    run("restore", "one", "--directory", "kept", "--into", "back")
