"""What clients wrote to collections that the schema renamed, split or merged goes back as the source has it, or is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.errors import Terminal
from helpers.rollback import Orders, RollbackState
from helpers.run.record import RunRecord
from helpers.schema import load_schema
from helpers.steps.rollback import RollbackStep
from tests.rollbacks import Night, everything
from tests.storage import chunks, contents, embedded, fill

SCHEMA = """\
name: own
id: collection + "/" + id
collections:
  - { from: notes, to: handbook }
  - { from: "logs-*", to: logs }
  - { from: articles, to: articles_de, when: has(fields.lang) && fields.lang == "de" }
  - { from: articles, to: articles_en }
rename:
  - { from: writer, to: author }
"""


@pytest.fixture
def night(tmp_path: Path, own_folders: Path) -> Night:
    (tmp_path / "own.yaml").write_text(SCHEMA, encoding="utf-8")
    with embedded(tmp_path / "source") as store:
        for name in ("notes", "logs-a", "logs-b", "articles"):
            batch = chunks(6, 4, prefix="c")
            batch.metadatas = [{"writer": f"w{i}", "lang": "de" if i % 2 else "en"} for i in range(6)]
            fill(store, name, batch)
    made = Night(tmp_path, schema="own.yaml", migration={"batch_size": 10, "workers": 1})
    made.snapshot()
    made.migrate()
    made.cut_over()
    return made


def wrote(night: Night, collection: str, chunk: str, *, new: str = "", **metadata: str) -> None:
    """A client changes a chunk of the target, or makes one like it."""
    with embedded(night.home / "target") as store:
        one = store.read(collection, [chunk])
        one.metadatas = [{**(one.metadatas[0] or {}), **metadata}]
        if new:
            one.ids = [new]
        else:
            store.delete(collection, one.ids)
        store.add(collection, one)


def test_writes_go_back_under_the_names_and_ids_of_the_source(night: Night) -> None:
    before = everything(night.source)
    wrote(night, "handbook", "notes/c0", author="Ada")
    wrote(night, "articles_de", "articles/c1", lang="fr")
    wrote(night, "articles_en", "articles/c2", new="fresh", author="Bo")
    with embedded(night.home / "target") as store:
        store.delete("logs", ["logs-b/c3"])
    night.rollback(replay=True)
    after = everything(night.source)
    with embedded(night.home / "source") as store:
        assert store.read("notes", ["c0"]).metadatas == [{"writer": "Ada", "lang": "en"}]
        assert store.read("articles", ["c1"]).metadatas == [{"writer": "w1", "lang": "fr"}]
        assert store.read("articles", ["fresh"]).metadatas == [{"writer": "Bo", "lang": "en"}]
        assert sorted(contents(store, "logs-b").ids) == ["c0", "c1", "c2", "c4", "c5"]
    changed = {(name, chunk) for name, held in after.items() for chunk in held[3].keys() | before[name][3].keys()
               if held[3].get(chunk) != before[name][3].get(chunk)}  # fmt: skip
    assert changed == {("notes", "c0"), ("articles", "c1"), ("articles", "fresh"), ("logs-b", "c3")}


@pytest.mark.more
def test_a_new_chunk_of_a_merged_collection_waits_for_somebody_who_says_where(night: Night) -> None:
    wrote(night, "logs", "logs-a/c0", new="fresh", author="Bo")
    with pytest.raises(
        Terminal, match="1 write cannot be replayed: 1 in logs: no source_collection of its names"
    ) as caught:
        night.rollback(replay=True)
    assert "--replay-to COLLECTION" in str(caught.value)
    night.rollback(replay=True, replay_to="logs-b")
    with embedded(night.home / "source") as store:
        assert store.read("logs-b", ["fresh"]).metadatas == [{"writer": "Bo", "lang": "en"}]


def test_a_field_is_named_back_only_where_it_was_renamed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nrename:\n  - {from: writer, to: author}\n  - {from: creator, to: author}\n"
        "  - {from: lang, to: language, only: [b]}\n",
        encoding="utf-8",
    )
    content = load_schema(str(tmp_path / "own.yaml")).content
    assert content.names_in_source("a", {"writer": "x"}, ["author", "language"]) == {
        "author": "writer",
        "language": "language",
    }
    assert content.names_in_source("b", {"creator": "x"}, ["author", "language"]) == {
        "author": "creator",
        "language": "lang",
    }
    assert content.names_in_source("a", {"author": "x"}, ["author", "language"]) == {
        "author": "author",
        "language": "language",
    }
    assert content.names_in_source("a", {}, ["author", "language"]) == {"author": "writer", "language": "language"}


def renamed(folder: Path, rules: str, metadata: list[dict[str, Any]]) -> Night:
    """A run that is cut over, of one collection `notes` with these chunks, by these rules of `rename`."""
    (folder / "own.yaml").write_text(f"name: own\nrename:\n{rules}", encoding="utf-8")
    with embedded(folder / "source") as store:
        batch = chunks(len(metadata), 4, prefix="c")
        batch.metadatas = list(metadata)
        fill(store, "notes", batch)
    made = Night(folder, schema="own.yaml", migration={"batch_size": 10, "workers": 1})
    made.snapshot()
    made.migrate()
    made.cut_over()
    return made


def at_source(night: Night, *ids: str) -> list[Any]:
    with embedded(night.home / "source") as store:
        return [store.read("notes", [chunk]).metadatas[0] for chunk in ids]


def rewritten(night: Night, chunk: str, metadata: dict[str, Any]) -> None:
    """A client gives a chunk of the target this metadata, and no other."""
    with embedded(night.home / "target") as store:
        one = store.read("notes", [chunk])
        one.metadatas = [metadata]
        store.delete("notes", one.ids)
        store.add("notes", one)


@pytest.mark.parametrize(
    ("rules", "original", "written", "back"),
    [
        ("  - {from: a, to: b}\n  - {from: b, to: c}\n", {"a": "A"}, {"c": "CLIENT"}, {"a": "CLIENT"}),
        (SHIFT := "  - {from: title, to: heading}\n  - {from: name, to: title}\n", {"title": "T", "name": "N"},
         {"heading": "CLIENT", "title": "N"}, {"title": "CLIENT", "name": "N"}),
        (SHIFT, {"title": "T", "name": "N"}, {"heading": "T", "title": "CLIENT"}, {"title": "T", "name": "CLIENT"}),
        (SHIFT, {"title": "T", "name": "N"}, {"heading": "T"}, {"title": "T"}),
    ],
)  # fmt: skip
def test_names_are_led_back_through_chains_and_shifts(
    tmp_path: Path,
    own_folders: Path,
    rules: str,
    original: dict[str, Any],
    written: dict[str, Any],
    back: dict[str, Any],
) -> None:
    night = renamed(tmp_path, rules, [dict(original) for _ in range(4)])
    rewritten(night, "c0", written)
    night.rollback(replay=True)
    assert at_source(night, "c0", "c1") == [back, original]


def test_two_fields_that_are_one_at_the_source_are_listed_and_nothing_of_them_is_replayed(
    tmp_path: Path, own_folders: Path
) -> None:
    """An old version of the application goes on to write the old name: Chroma then holds both."""
    night = renamed(tmp_path, "  - {from: writer, to: author}\n", [{"writer": f"W{i}", "n": i} for i in range(5)])
    rewritten(night, "c0", {"author": "W0", "writer": "CLIENT", "n": 0})
    rewritten(night, "c1", {"author": "CLIENT", "writer": "OLD CLIENT", "n": 1})
    rewritten(night, "c2", {"author": "CLIENT", "n": 2})
    with pytest.raises(
        Terminal, match="2 writes cannot be replayed: 2 in notes: a client changed one of the fields author"
    ):
        night.rollback(replay=True)
    assert at_source(night, "c0", "c1", "c2") == [{"writer": f"W{i}", "n": i} for i in range(3)]
    night.rollback(replay=True, discard="the old application was wrong")
    assert at_source(night, "c0", "c1", "c2") == [
        {"writer": "W0", "n": 0},
        {"writer": "W1", "n": 1},
        {"writer": "CLIENT", "n": 2},
    ]


@pytest.mark.parametrize("late", ["both names", "the collection is gone"])
def test_what_is_open_is_not_reverted(tmp_path: Path, own_folders: Path, late: str) -> None:
    """The first pass replays c1; what happens to it afterwards is listed, and the source keeps what was replayed."""
    night = renamed(tmp_path, "  - {from: writer, to: author}\n", [{"writer": f"W{i}", "n": i} for i in range(5)])
    rewritten(night, "c1", {"author": "CLIENT", "n": 1})
    orders = Orders(replay=True, discard="the old application was wrong")
    RollbackState.begin(night.folder.workspace, night.folder.id, orders)
    step = RollbackStep(RunRecord(night.folder.read(), "27"))
    for stage in (step.plan, step.stop, step.prove_source, step.client_writes, step.replay, step.put_back):
        stage()
    if late == "both names":
        rewritten(night, "c1", {"author": "CLIENT", "writer": "OLD CLIENT", "n": 1})
    else:
        with embedded(night.home / "target") as store:
            store.drop("notes")
    step.settle()
    assert at_source(night, "c0", "c1") == [{"writer": "W0", "n": 0}, {"writer": "CLIENT", "n": 1}]


def test_a_schema_that_was_edited_since_replays_nothing(tmp_path: Path, own_folders: Path) -> None:
    night = renamed(tmp_path, "  - {from: writer, to: author}\n", [{"writer": f"W{i}", "z": i} for i in range(4)])
    rewritten(night, "c1", {"author": "CLIENT", "z": 1})
    rules = (tmp_path / "own.yaml").read_text(encoding="utf-8")
    (tmp_path / "own.yaml").write_text("name: own\nrename:\n  - {from: z, to: author}\n", encoding="utf-8")
    with pytest.raises(Terminal, match="the schema is not the one with which the migration of this run began"):
        night.rollback(replay=True)
    assert at_source(night, "c0", "c1") == [{"writer": "W0", "z": 0}, {"writer": "W1", "z": 1}]
    (tmp_path / "own.yaml").write_text(rules, encoding="utf-8")
    night.rollback(replay=True)
    assert at_source(night, "c0", "c1") == [{"writer": "W0", "z": 0}, {"writer": "CLIENT", "z": 1}]


def test_a_rollback_without_a_replay_needs_no_schema(tmp_path: Path, own_folders: Path) -> None:
    """The schema's file may be that of the next attempt already."""
    night = renamed(tmp_path, "  - {from: writer, to: author}\n", [{"writer": f"W{i}", "z": i} for i in range(4)])
    rewritten(night, "c1", {"author": "CLIENT", "z": 1})
    (tmp_path / "own.yaml").write_text("name: own\nrename:\n  - {from: z, to: author}\n", encoding="utf-8")
    night.rollback(discard="a test")
    assert at_source(night, "c0", "c1") == [{"writer": "W0", "z": 0}, {"writer": "W1", "z": 1}]
    with embedded(tmp_path / "target") as store:
        assert "notes" not in store.names()
