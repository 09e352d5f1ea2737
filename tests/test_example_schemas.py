"""Each shipped example of a schema through the real line, with a damage to the target that validation must name."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.stores import Store
from tests.schema_lines import changed, chunks, migrated


@pytest.fixture(scope="module")
def examples(root: Path) -> Path:
    return root / "parameters" / "schemas" / "examples"


def test_every_example_is_run_here(examples: Path) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in examples.glob("*.yaml") if f'"{path.name}"' not in text] == []


RENAMED = {
    "articles-1": chunks({"a": ("A", {"writer": "Ada", "lang": "en", "notes": "x", "tmp_1": 1, "kept": 2.5})}),
    "letters": chunks({"b": ("B", {"lang": "de"}), "c": ("C", {"writer": "Bo", "author": "Cy"}), "d": ("D", None)}, 2),
}


def test_fields_are_renamed_and_dropped(tmp_path: Path, examples: Path) -> None:
    done = migrated(tmp_path, examples / "rename_and_drop.yaml", RENAMED)
    assert done.target == {
        "articles-1": {"a": ("A", {"author": "Ada", "language": "en", "kept": 2.5})},
        "letters": {"b": ("B", {"lang": "de"}), "d": ("D", None)},
    }
    assert done.aside == {
        "c": ("invalid_author", "the field is there, and so is 'writer', which would be renamed to it")
    }
    assert done.wrong == {}


def test_a_field_that_was_not_renamed_is_named(tmp_path: Path, examples: Path) -> None:
    damage = changed("articles-1", "a", metadata={"writer": "Ada", "language": "en", "kept": 2.5})
    assert "metadata" in migrated(tmp_path, examples / "rename_and_drop.yaml", RENAMED, damage).wrong


COMPUTED = {"books": chunks({
    "1": ("four", {"published": "2024-05-01", "code": "de", "url": "http://a.example/x"}),
    "2": ("", {"published": "2023-01-01", "code": "zz", "year": 1900, "url": "https://b.example"}),
    "3": ("x", {"published": "soon"}),
    "4": ("x", {"published": 2024}),
    "5": ("x", None),
})}  # fmt: skip


def test_fields_are_computed_looked_up_and_rewritten(tmp_path: Path, examples: Path) -> None:
    done = migrated(tmp_path, examples / "computed_fields.yaml", COMPUTED)
    assert done.target == {
        "books": {
            "1": ("four", {"published": "2024-05-01", "code": "de", "url": "https://a.example/x", "year": 2024,
                           "country": "Germany", "host": "a.example", "characters": 4, "origin": "books/1"}),
            "2": ("", {"published": "2023-01-01", "code": "zz", "year": 2023, "url": "https://b.example",
                       "country": "Unknown", "host": "b.example", "characters": 0, "origin": "books/2"}),
        }
    }  # fmt: skip
    assert {chunk: reason for chunk, (reason, _) in done.aside.items()} == dict.fromkeys("345", "invalid_year")
    assert "cannot convert string to int" in done.aside["3"][1]
    assert done.wrong == {}
    rules = {(r["field"], r["rule"]): r["chunks"] for r in done.staged.repairs}
    assert rules == {("url", "rewritten"): 1, ("year", "computed"): 1, ("year", "recomputed"): 1, ("country", "computed"): 1,
                     ("country", "missing"): 1, ("host", "computed"): 2, ("characters", "computed"): 2,
                     ("origin", "computed"): 2}  # fmt: skip


def test_a_computed_field_that_is_wrong_in_the_target_is_named(tmp_path: Path, examples: Path) -> None:
    metadata = {"published": "2024-05-01", "code": "de", "url": "https://a.example/x", "year": 2024,
                "country": "Spain", "host": "a.example", "characters": 4, "origin": "books/1"}  # fmt: skip
    done = migrated(tmp_path, examples / "computed_fields.yaml", COMPUTED, changed("books", "1", metadata=metadata))
    assert "metadata" in done.wrong


PRIVATE = {"mails": chunks({
    "1": ("Write to ada@mail.example.org or +49 30 1234567.", {"from": "ada@mail.example.org", "to": ["bo@x.org", "c"], "n": 1}),
    "2": ("Nothing here.", {"from": "nobody"}),
    "3": (None, None),
})}  # fmt: skip


def test_documents_and_metadata_are_redacted_and_reports_do_not_show_what_was_there(
    tmp_path: Path, examples: Path
) -> None:
    done = migrated(tmp_path, examples / "redaction.yaml", PRIVATE)
    assert done.target == {
        "mails": {
            "1": ("Write to [e-mail] or [telephone].", {"from": "[e-mail]", "to": ["[e-mail]", "c"], "n": 1}),
            "2": ("Nothing here.", {"from": "nobody"}),
            "3": (None, None),
        }
    }
    assert (done.wrong, done.aside) == ({}, {})
    rules = {(r["field"], r["rule"]): r["chunks"] for r in done.staged.repairs}
    assert rules == {("(document)", "redacted"): 2, ("from", "redacted"): 1, ("to", "redacted"): 1}
    listed = {str(f): f.read_bytes() for f in (tmp_path / "staged").rglob("*") if f.suffix in (".gz", ".json")}
    import gzip

    for name, raw in listed.items():
        text = gzip.decompress(raw) if name.endswith(".gz") else raw
        assert b"example.org" not in text, name


def test_a_document_that_was_not_redacted_is_named(tmp_path: Path, examples: Path) -> None:
    damage = changed("mails", "1", document="Write to ada@mail.example.org or [telephone].")
    wrong = migrated(tmp_path, examples / "redaction.yaml", PRIVATE, damage).wrong
    assert wrong["metadata"] == "document_differs"
    assert wrong["field types"] == "invalid_field"  # the second opinion: what is redacted is found in the target


DRAFTS = {
    "articles": chunks(
        {"a": ("A", {"status": "draft"}), "b": ("B", {"status": "done"}), "c": (" ", {"n": 1}), "d": ("D", None)}
    ),
    "letters": chunks({"e": (" ", {"status": "done"}), "f": (None, {"status": "draft"})}, 2),
}


def test_chunks_are_left_out_with_the_condition_and_the_counts_agree(tmp_path: Path, examples: Path) -> None:
    done = migrated(tmp_path, examples / "leave_out.yaml", DRAFTS)
    assert {name: sorted(held) for name, held in done.target.items()} == {"articles": ["b", "d"], "letters": ["e"]}
    draft = 'drafts are not published: has(fields.status) && fields.status == "draft"'
    assert done.aside == {
        "a": ("left_out", draft),
        "c": ("left_out", 'nothing to search for: document.trim() == ""'),
        "f": ("left_out", draft),
    }
    assert (done.staged.quarantined, done.staged.left_out) == ({}, 3)
    assert done.wrong == {}
    assert done.judgement.matrix_inputs()["valid"] == done.judgement.matrix_inputs()["chunks"] == 3
    assert done.judgement.counts().detail == "3 left out by the schema"


def test_a_chunk_that_should_be_left_out_and_one_that_should_not_are_named(tmp_path: Path, examples: Path) -> None:
    def damage(store: Store) -> None:
        store.add("articles", DRAFTS["articles"].take([0]))
        store.delete("articles", ["b"])

    done = migrated(tmp_path, examples / "leave_out.yaml", DRAFTS, damage)
    assert done.judgement.findings.counted == {"chunk_extra": 1, "chunk_missing": 1}
    assert "counts" in done.wrong


def test_a_chunk_in_the_list_of_those_left_out_that_the_condition_does_not_name_is_named(
    tmp_path: Path, examples: Path
) -> None:
    done = migrated(tmp_path, examples / "leave_out.yaml", DRAFTS, lambda store: store.delete("articles", ["b"]),
                    listed={("articles", "b"): "left_out"})  # fmt: skip
    assert done.judgement.findings.counted == {"quarantine_unexplained": 1}


ALIKE = {
    "My-Notes": chunks({"Old One": ("A", {"n": 1}), " two": ("B", {"n": 2})}),
    "other": chunks({"Old One": ("C", {"n": 3})}, 2),
}


def test_ids_are_rewritten_by_the_schema(tmp_path: Path, examples: Path) -> None:
    done = migrated(tmp_path, examples / "new_ids.yaml", ALIKE)
    assert {name: sorted(held) for name, held in done.target.items()} == {
        "My-Notes": ["my-notes/old-one", "my-notes/two"], "other": ["other/old-one"]
    }  # fmt: skip
    assert (done.wrong, done.aside, done.staged.rewritten) == ({}, {}, 3)
    assert done.judgement.findings.values.summary()["ids_rewritten"]["chunks"] == 3


def test_an_id_that_was_not_rewritten_is_named(tmp_path: Path, examples: Path) -> None:
    def damage(store: Store) -> None:
        store.add("other", ALIKE["other"])
        store.delete("other", ["other/old-one"])

    done = migrated(tmp_path, examples / "new_ids.yaml", ALIKE, damage)
    assert done.judgement.findings.counted == {"chunk_extra": 1, "chunk_missing": 1}


def test_two_chunks_that_would_get_one_id_are_an_error_before_anything_is_written(
    tmp_path: Path, examples: Path
) -> None:
    done = migrated(tmp_path, examples / "new_ids.yaml", {"docs": chunks({"A b": ("A", None), "a-b": ("B", None)})})
    (clash,) = done.staged.collisions
    assert clash == {"target": "docs", "id": "docs/a-b", "first": "docs A b", "second": "docs a-b"}
    assert done.target == {}


SEVERAL = {
    "notes": chunks({"n": ("N", {"n": 1})}),
    "logs-1": chunks({"l1": ("L", {"n": 1}), "l2": ("L", {"n": 1})}, 2),
    "logs-2": chunks({"l3": ("L", {"n": 1})}, 3),
    "articles": chunks({"a": ("A", {"lang": "de"}), "b": ("B", {"lang": "en"}), "c": ("C", None)}, 4),
    "rest": chunks({"r": ("R", None)}, 5),
}


def test_collections_are_renamed_merged_and_split(tmp_path: Path, examples: Path) -> None:
    done = migrated(tmp_path, examples / "collections.yaml", SEVERAL)
    assert {name: sorted(held) for name, held in done.target.items()} == {
        "handbook": ["n"], "logs": ["l1", "l2", "l3"], "articles_de": ["a"], "articles_en": ["b", "c"], "rest": ["r"]
    }  # fmt: skip
    assert done.target["articles_de"]["a"][1] == {"lang": "de", "reviewed": False}
    assert (done.wrong, done.aside) == ({}, {})


def test_a_chunk_in_the_wrong_collection_is_named(tmp_path: Path, examples: Path) -> None:
    def damage(store: Store) -> None:
        store.add("articles_en", SEVERAL["articles"].take([0]))
        store.delete("articles_de", ["a"])

    done = migrated(tmp_path, examples / "collections.yaml", SEVERAL, damage)
    assert done.judgement.findings.counted == {"chunk_extra": 1, "chunk_missing": 1}
