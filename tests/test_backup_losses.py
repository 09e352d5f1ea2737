"""A backup of a source that has lost something says so, fails until somebody accepts it, and replaces no whole one."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import cli
from helpers.audit import entries
from helpers.parameters.sections import Collections
from helpers.snapshots import backup, retention, snapshot
from helpers.snapshots.export_journal import signed
from helpers.snapshots.snapshot import Snapshot
from helpers.stores.door import embedded_client
from helpers.stores.layout import DATABASE
from tests.storage import chunks, embedded, fill, index_folder, lose_vectors, tree

Said = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("own_folders")

LOST = "alpha: 2 of 42 chunks lost their vector"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(40, 8))
        fill(store, "beta", chunks(5, 3, prefix="b"), "cosine")
    text = f"source: {{path: {tmp_path / 'source'}}}\nsnapshot: {{directory: kept}}\nname: nightly\n"
    Path("backup.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "source"


def run(*arguments: str, code: int = 0) -> None:
    assert cli.main(["snapshots", *arguments]) == code


def create(name: str, *more: str, code: int = 0) -> Snapshot:
    run("create", "backup.yaml", "--id", name, *more, code=code)
    return Snapshot.open(Path("kept").absolute() / name)


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retention of every snapshot is over."""
    monkeypatch.setattr(
        retention.SnapshotFolder, "retain_until", property(lambda self: datetime.now(UTC) - timedelta(days=1))
    )


def lines_of(said: str, word: str) -> list[str]:
    return [line for line in said.splitlines() if word in line]


def test_a_backup_that_lacks_vectors_is_kept_named_and_fails(source: Path, capsys: Said) -> None:
    run("create", "backup.yaml", "--id", "whole")
    said = capsys.readouterr().out
    assert not lines_of(said, "Missing")
    run("check", "backup.yaml")
    assert "recent enough" in capsys.readouterr().out
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    taken = create("less", code=1)
    given = capsys.readouterr()
    assert f"Missing: {LOST}" in given.out.splitlines()
    assert "Snapshot less: 47 chunks" in given.out
    [line] = given.err.strip().splitlines()
    assert f"it is kept, but incomplete: {LOST}" in line
    assert "--without-lost" in line
    assert taken.missing() == [LOST]
    run("check", "backup.yaml", code=1)
    assert f"is incomplete: {LOST}" in capsys.readouterr().err
    run("list", "--directory", "kept")
    rows = capsys.readouterr().out
    assert [LOST in line for line in lines_of(rows, "created")[1:]] == [False, True]
    for name, words in (("whole", "is whole"), ("less", "is incomplete, and as it was taken")):
        run("verify", name, "--directory", "kept")
        said = capsys.readouterr().out
        assert words in said
        assert (f"Missing: {LOST}" in said) == (name == "less")
    run("restore", "less", "--directory", "kept", "--into", "back", code=1)
    assert "no vector" in capsys.readouterr().err


def test_what_is_missing_can_be_accepted_and_stays_named(source: Path, capsys: Said) -> None:
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    create("accepted", "--without-lost")
    run("check", "backup.yaml")
    said = capsys.readouterr()
    assert (said.out.count(f"Missing: {LOST}"), said.err) == (2, "")
    facts = [e["facts"] for e in entries(Path("kept/audit.jsonl")) if "digest" in e["facts"]]
    assert [f.get("without_lost") for f in facts] == [True]


def test_an_acceptance_of_nothing_accepts_nothing_later(source: Path, capsys: Said) -> None:
    create("whole", "--without-lost")
    assert all("without_lost" not in e["facts"] for e in entries(Path("kept/audit.jsonl")))
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    create("less", code=1)
    run("check", "backup.yaml", code=1)
    assert "is incomplete" in capsys.readouterr().err


def test_a_torn_index_is_not_backed_up_without_a_word(tmp_path: Path, capsys: Said, source: Path) -> None:
    """The vectors are in the index alone: the log was purged."""
    torn = tmp_path / "torn"
    torn.mkdir()
    with embedded_client(torn, "default_tenant", "default_database") as client:
        small: Any = {"hnsw": {"sync_threshold": 10, "batch_size": 5}}
        notes = client.create_collection("notes", configuration=small, embedding_function=None)
        for start in range(0, 60, 10):
            vectors = np.arange(start, start + 10, dtype=np.float32)[:, None].repeat(8, axis=1)
            notes.add([f"n{i}" for i in range(start, start + 10)], vectors)
    with (index_folder(torn, "notes") / "data_level0.bin").open("r+b") as file:
        file.truncate(2_000)
    run("create", "backup.yaml", "--id", "torn", "--set", f"source.path={torn}", code=1)
    said = capsys.readouterr()
    assert "data_level0.bin is cut short" in said.out
    assert "Found in notes: vectors that are in no file any more" in said.out
    assert "chunks lost their vector" in said.err


def test_a_count_that_is_not_what_a_directory_gives_fails(source: Path) -> None:
    taken = create("whole")
    for entry in taken.manifest["collections"]:
        entry["reported_count"] += entry["name"] == "beta"
    assert taken.missing() == ["beta: the source counts 6 chunks, 5 are here"]
    taken.manifest["source"] = "http://one.example:8000"  # its clients may have deleted one
    assert taken.missing() == []


def test_a_prune_keeps_the_last_whole_backup_while_newer_ones_are_incomplete(
    source: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(monkeypatch)
    create("a-whole")
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    create("b-less", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    said = capsys.readouterr().out
    assert (
        "stays  a-whole  the newest whole one of its collections: b-less is incomplete, which nobody has accepted"
        in said
    )
    why = "as long as it is here, a-whole is known to be the newest whole one of its collections"
    assert f"stays  b-less  {why}" in said
    run("prune", "--directory", "kept", "--yes")
    assert Path("kept/a-whole").is_dir(), "a second prune finds what the first found"
    create("c-less", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    assert "goes   c-less" in capsys.readouterr().out
    create("d-accepted", "--without-lost")
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    said = capsys.readouterr().out
    assert "goes   a-whole" in said, "what was accepted replaces it"
    assert "stays" not in said


def test_a_prune_takes_no_whole_backup_for_another(source: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    expire(monkeypatch)
    create("a-whole")
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    create("b-less", code=1)
    create("c-beta", "--set", "collections.include=[beta]")
    create("d-less-alpha", "--set", "collections.include=[alpha]", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    said = capsys.readouterr().out
    assert "stays  a-whole  the newest whole one of its collections: b-less is incomplete" in said
    assert "goes   c-beta" in said, "nothing of beta is incomplete after it"
    create("e-alpha", "--set", "collections.include=[alpha]", "--without-lost")
    create("f-less", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    said = capsys.readouterr().out
    assert "stays  a-whole  the newest whole one of its collections: b-less is incomplete" in said, "it alone has beta"
    assert "stays  e-alpha  the newest whole one of its collections: f-less is incomplete" in said
    create("g-accepted", "--without-lost")
    create("h-less", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    said = capsys.readouterr().out
    assert "goes   a-whole" in said, "one that has all of its collections replaces it"
    assert "goes   e-alpha" in said
    assert "stays  g-accepted  the newest whole one of its collections: h-less is incomplete" in said


def test_a_backup_of_other_collections_satisfies_no_check(source: Path, capsys: Said) -> None:
    def check(include: str, code: int, words: str, *more: str) -> None:
        run("check", "backup.yaml", "--set", f"collections.include={include}", *more, code=code)
        said = capsys.readouterr()
        assert words in said.out + said.err

    create("only-beta", "--set", "collections.include=[beta]")
    capsys.readouterr()
    check("[beta]", 0, "Snapshot only-beta")
    check("['b*']", 0, "Snapshot only-beta")
    check("['*']", 0, "Snapshot only-beta", "--set", "collections.exclude=[alpha]")
    for include in ("[alpha]", "['*']", "['?????']", "[alpha, beta]"):
        check(include, 1, "the newest, only-beta, lacks alpha. ")
    check("[beta, typo]", 1, "the newest, only-beta, lacks typo. ")
    create("all")
    create("later-beta", "--set", "collections.include=[beta]")
    capsys.readouterr()
    check("['*']", 0, "Snapshot all ")
    check("[alpha]", 0, "Snapshot all ")
    check("[beta]", 0, "Snapshot later-beta ")


def test_a_damaged_backup_stands_for_none(source: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    create("a-whole")
    taken = create("b-damaged", "--full")
    run("check", "backup.yaml")
    file = taken.folder / taken.parts("alpha")[0].file
    sound = file.read_bytes()
    file.write_bytes(sound[:-9] + bytes(9))
    run("verify", "b-damaged", "--directory", "kept", code=1)
    capsys.readouterr()
    run("check", "backup.yaml")
    assert "Snapshot a-whole " in capsys.readouterr().out
    create("c-next")
    assert "sharing what is as in a-whole" in capsys.readouterr().out
    shutil.rmtree("kept/c-next")
    with monkeypatch.context() as over:
        expire(over)
        run("prune", "--directory", "kept")
        assert (
            "stays  a-whole  the newest whole one of its collections: b-damaged is damaged" in capsys.readouterr().out
        )
    shutil.rmtree("kept/a-whole")
    run("check", "backup.yaml", code=1)
    assert "the newest, b-damaged, was found damaged" in capsys.readouterr().err
    file.write_bytes(sound)
    time.sleep(1.1)  # times are of whole seconds
    run("verify", "b-damaged", "--directory", "kept")
    run("check", "backup.yaml")
    file.unlink()
    capsys.readouterr()
    run("check", "backup.yaml", code=1)
    assert "the newest, b-damaged, has not all its files" in capsys.readouterr().err


def test_of_a_backup_without_a_list_only_plain_names_are_known(source: Path) -> None:
    taken = create("one")
    every, plain = Collections(), Collections(include=["alpha", "beta"])
    assert backup.lacking(every, taken) == []
    del taken.manifest["listed"]
    assert backup.lacking(every, taken) == ["*"]
    assert backup.lacking(Collections(include=["[ab]*", "beta"]), taken) == ["[ab]*"]
    assert backup.lacking(plain, taken) == []


def test_an_old_backup_is_kept(source: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manifest does not say from where the relative path counts: it may be the same source."""
    expire(monkeypatch)
    monkeypatch.chdir(source.parent)
    text = f"source: {{path: {source.name}}}\nsnapshot: {{directory: kept}}\nname: n\n"
    Path("backup.yaml").write_text(text, encoding="utf-8")

    def of_old(content: dict[str, Any], *, proven: bool = False) -> dict[str, Any]:
        return signed({k: v for k, v in content.items() if k != "directory"}, proven=proven)

    with monkeypatch.context() as older:
        older.setattr(snapshot, "signed", of_old)
        assert "directory" not in create("a-whole").manifest
    lose_vectors(source, "alpha", ["gone1", "gone2"])
    create("b-less", code=1)
    capsys.readouterr()
    run("prune", "--directory", "kept", "--yes")
    assert "stays  a-whole  the newest whole one of its collections: b-less is incomplete" in capsys.readouterr().out
    assert Path("kept/a-whole").is_dir()


def test_a_backup_of_another_place_satisfies_no_check(
    source: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same relative path below another folder, and another database of the same directory."""
    other = tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    text = f"source: {{path: source}}\nsnapshot: {{directory: {tmp_path / 'kept'}}}\nname: n\n"
    Path("backup.yaml").write_text(text, encoding="utf-8")
    with embedded(other / "source") as store:
        fill(store, "alpha", chunks(40, 8))
    run("create", "backup.yaml", "--id", "here")
    run("check", "backup.yaml")
    run("check", "backup.yaml", "--set", f"source.path={source}")
    run("check", "backup.yaml", "--set", "source.database=second", code=1)
    monkeypatch.chdir(other)
    capsys.readouterr()
    run("check", "../backup.yaml", code=1)
    assert "there is none in" in capsys.readouterr().err
    run("check", "../backup.yaml", "--set", f"source.path={source}")


# -- a source of which nobody can say what counts ------------------------------------------------------------------------


def second_segment(db: sqlite3.Connection) -> None:
    db.execute(
        "insert into segments (id, type, scope, collection) select '00000000-1111-4111-8111-111111111111', type, scope, "
        "collection from segments where scope = 'METADATA' and collection = (select id from collections where name = 'alpha')"
    )


def second_topic(db: sqlite3.Connection) -> None:
    [own] = db.execute("select id from collections where name = 'alpha'").fetchone()
    db.execute(
        "insert into embeddings_queue (operation, topic, id, vector, encoding, metadata) select 0, ?, 'hidden', vector, "
        "encoding, metadata from embeddings_queue where topic like ? limit 1",
        (f"persistent://other/zzz/{own}", f"%{own}"),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [(second_segment, "has 2 segments METADATA"), (second_topic, "has 2 names in the log")],
    ids=["two segments", "two names in the log"],
)
def test_two_places_of_one_collection_are_refused_in_one_line(
    source: Path, capsys: Said, change: Callable[[sqlite3.Connection], None], words: str
) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        change(db)
    run("create", "backup.yaml", "--id", "one", code=1)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "collection 'alpha'" in line
    assert words in line
    assert not Path("kept/one").exists()


@pytest.mark.parametrize("change", [second_segment, second_topic], ids=["two segments", "two names in the log"])
def test_what_is_left_of_a_collection_that_is_gone_is_in_nobodys_way(
    source: Path, capsys: Said, change: Callable[[sqlite3.Connection], None]
) -> None:
    with closing(sqlite3.connect(source / DATABASE)) as db, db:
        db.execute("pragma foreign_keys = off")
        change(db)
        db.execute("delete from collections where name = 'alpha'")
    assert create("one").names() == ["beta"]


# -- digests and places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", " ", "abc", "g" * 64, "0" * 63, ".*"])
@pytest.mark.parametrize("command", [("snapshots", "verify", "whole"), ("snapshots", "restore", "whole", "--into", "back"),
                                     ("snapshots", "export", "whole", "--into", "back"), ("verify", "r"), ("archive", "r"),
                                     ("fleet", "verify", "f")], ids=" ".join)  # fmt: skip
def test_an_expectation_that_is_no_digest_is_refused(command: tuple[str, ...], given: str, capsys: Said) -> None:
    assert cli.main([*command, "--expect", given]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "--expect: takes a SHA-256 of 64 hexadecimal digits" in line


def test_an_expectation_is_compared_in_whatever_case_it_was_noted(source: Path, capsys: Said) -> None:
    digest = create("whole").digest
    run("verify", "whole", "--directory", "kept", "--expect", f" {digest.upper()}\n")
    assert "is the one of --expect" in capsys.readouterr().out
    run("verify", "whole", "--directory", "kept")
    assert "--expect" not in capsys.readouterr().out
    run("verify", "whole", "--directory", "kept", "--expect", "0" * 64, code=1)


def test_nothing_is_exported_or_restored_into_the_folder_of_the_source(source: Path, capsys: Said) -> None:
    create("whole")
    before = tree(source)
    (source.parent / "link").symlink_to(source)
    for place in (source / "exported", source.parent / "link" / "exported", source / "a" / "b"):
        for command in ("export", "restore"):
            run(command, "whole", "--directory", "kept", "--into", str(place), code=2)
            assert f"lies inside the database {source}" in capsys.readouterr().err
    assert tree(source) == before
    for command in ("export", "restore"):
        run(command, "whole", "--directory", "kept", "--into", str(source.parent / f"source-{command}"))
    assert tree(source) == before
    run("restore", "whole", "--directory", "kept", "--into", str(source), code=1)  # the source itself may be put right
    assert "already holds" in capsys.readouterr().err


def test_a_relative_source_of_a_snapshot_is_where_it_was_taken(
    source: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not below the folder in which the command is given, where another may have its name."""
    monkeypatch.chdir(tmp_path)
    Path("backup.yaml").write_text("source: {path: source}\nsnapshot: {directory: kept}\nname: n\n", encoding="utf-8")
    create("relative")
    before, kept = tree(source), str(tmp_path / "kept")
    (tmp_path / "elsewhere" / "source").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in ("export", "restore"):
        run(command, "relative", "--directory", kept, "--into", str(source / "exported"), code=2)
        assert "lies inside the database source" in capsys.readouterr().err
    assert tree(source) == before
    run("export", "relative", "--directory", kept, "--into", "source/exported")
    assert (tmp_path / "elsewhere" / "source" / "exported").is_dir()


def test_a_reading_that_went_wrong_says_so_in_the_remarks(source: Path) -> None:
    taken = create("whole")
    assert list(backup.remarks(taken)) == []
    taken.manifest["findings"] = ["odd"]
    repair: dict[str, Any] = {"repair": "no_utf8", "collection_id": "x", "id": "y", "removed": "z"}
    taken.manifest["repairs"] = [repair, repair, {**repair, "repair": "vector_from_log", "count": 7}]
    assert list(backup.remarks(taken)) == [
        "Found: odd", "On the copy, as the manifest lists under repairs: 2 no_utf8",
        "On the copy, as the manifest lists under repairs: 7 vector_from_log",
    ]  # fmt: skip
