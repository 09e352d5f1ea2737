"""What clients wrote to collections that the schema renamed, split or merged goes back as the source has it, or is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.errors import Terminal
from helpers.schema import load_schema
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
    given = {"author": "Ada", "language": "en"}
    assert content.as_in_source("a", {"writer": "x"}, given) == {"writer": "Ada", "language": "en"}
    assert content.as_in_source("b", {"creator": "x"}, given) == {"creator": "Ada", "lang": "en"}
    assert content.as_in_source("a", {"author": "x"}, given) == given
    assert content.as_in_source("a", {}, given) == {"writer": "Ada", "language": "en"}
