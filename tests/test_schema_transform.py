"""What the if_ttt schema makes of metadata, field by field, and where each chunk goes."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.results import kind_of
from helpers.schema import REPAIRS, Context, Schema, Transformed, load_schema

SOURCES = frozenset({"openwebui_core", "sergio_personality_notes", "old_Humor", "rhetorical-personality"})
CORE = {
    "source": "migrated_openwebui_core",
    "source_file": "",
    "source_line": 0,
    "author": "Unknown",
    "collection_type": "corpus",
    "category": "migrated",
    "language": "en",
    "authenticity_score": 0.75,
    "confidence_level": "medium",
    "disputed": False,
    "if_citation_uri": "if://citation/a%2Fb%20%C3%A9-2025-12-01",
    "source_collection": "openwebui_core",
}
EXTENSIONS: dict[str, dict[str, Any]] = {
    "personality": {"big_five_trait": "", "trait_score": 0.0, "behavioral_examples_count": 0},
    "rhetorical": {"device_type": "", "frequency": "sometimes", "linguistic_marker": "", "usage_context": ""},
    "humor": {"humor_type": "", "emotional_context": "", "target_audience": "", "effectiveness_rating": 0.0},
    "corpus": {"document_type": "transcript", "word_count": 3, "includes_spanish": False, "emotional_intensity": 0.5},
}


@pytest.fixture(scope="module")
def schema() -> Schema:
    return load_schema("if_ttt")


def context(id_policy: Any = "fail", lists: bool = True) -> Context:
    return Context(SOURCES, dt.date(2025, 12, 1), id_policy, lists)


def batch(*metadatas: Any, ids: list[str] | None = None, document: str | None = "one two  three") -> ChunkBatch:
    n = len(metadatas)
    names = ids or [f"id{i}" for i in range(n)]
    return ChunkBatch(names, [document] * n, np.ones((n, 3), np.float32), list(metadatas))


def moved(schema: Schema, metadata: Any, collection: str = "openwebui_core", **options: Any) -> Transformed:
    return schema.transform(batch(metadata), collection, context(**options))


def rules(done: Transformed, field: str) -> list[str]:
    return list(done.repairs.loc[done.repairs["field"] == field, "rule"])


@pytest.mark.parametrize("metadata", [None, {}, dict.fromkeys(CORE)])
def test_a_bare_chunk_gets_every_field_in_order(schema: Schema, metadata: Any) -> None:
    done = schema.transform(batch(metadata, ids=["a/b é"]), "openwebui_core", context())
    assert done.batch.metadatas == [CORE | EXTENSIONS["corpus"]]
    kinds = done.repairs["rule"].map(kind_of)
    assert list(done.repairs[kinds != "changed"]["field"]) == [*CORE, *EXTENSIONS["corpus"]]
    by_kind = {kind: set(done.repairs[kinds == kind]["field"]) for kind in ("set", "derived")}
    assert by_kind == {"set": {"collection_type", "source_collection"}, "derived": {"word_count"}}
    assert done.failures.empty


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_extension_fields_follow_the_type(schema: Schema, kind: str) -> None:
    done = moved(schema, {"collection_type": kind})
    found = done.batch.metadatas[0]
    assert found is not None
    assert {k: v for k, v in found.items() if k not in CORE} == EXTENSIONS[kind]
    assert (done.targets, done.types) == ([f"sergio_{kind}"], [kind])


KEPT, NEW, BAD = "", "coerce", "default"
VALUES: list[tuple[str, Any, str, Any]] = [
    # field, value, rule, value afterwards
    ("source", "x", KEPT, "x"),
    ("source", "", BAD, "migrated_openwebui_core"),
    ("source", "  ", BAD, "migrated_openwebui_core"),
    ("source", 5, NEW, "5"),
    ("source", 2.5, NEW, "2.5"),
    ("source", True, BAD, "migrated_openwebui_core"),
    ("source", math.nan, BAD, "migrated_openwebui_core"),
    ("source_file", "", KEPT, ""),
    ("source_file", ["x"], BAD, ""),
    ("source_line", 0, KEPT, 0),
    ("source_line", 2**63 - 1, KEPT, 2**63 - 1),
    ("source_line", 2**63, BAD, 0),
    ("source_line", -1, "clamp", 0),
    ("source_line", -(2**70), "clamp", 0),
    ("source_line", "3", NEW, 3),
    ("source_line", "3.0", NEW, 3),
    ("source_line", 3.0, NEW, 3),
    ("source_line", -0.0, NEW, 0),
    ("source_line", 3.5, BAD, 0),
    ("source_line", "three", BAD, 0),
    ("source_line", "٣", BAD, 0),
    ("source_line", "9" * 5000, BAD, 0),
    ("source_line", True, BAD, 0),
    ("source_line", math.inf, BAD, 0),
    ("author", "Sergio", KEPT, "Sergio"),
    ("author", "", BAD, "Unknown"),
    ("category", "", BAD, "migrated"),
    *[("language", tag, KEPT, tag) for tag in
      ("es", "en", "es_en", "pt-BR", "zh-Hant-TW", "es-419", "sl-rozaj-biske", "de-1996", "zh-cmn", "en-a-bbb-x-y")],
    *[("language", tag, BAD, "en") for tag in
      ("", "english", "es_EN", "pt_BR", "e", "Spanish (Chile)", "en-", "en\n", "-en", "e5", "en-Latn-Latn")],
    ("authenticity_score", 0.0, KEPT, 0.0),
    ("authenticity_score", -0.0, KEPT, 0.0),
    ("authenticity_score", 1.0, KEPT, 1.0),
    ("authenticity_score", 5e-324, KEPT, 5e-324),
    ("authenticity_score", 0, NEW, 0.0),
    ("authenticity_score", 1, NEW, 1.0),
    ("authenticity_score", "0.8", NEW, 0.8),
    ("authenticity_score", ".5", NEW, 0.5),
    ("authenticity_score", "1e-3", NEW, 0.001),
    ("authenticity_score", 1.0000001, "clamp", 1.0),
    ("authenticity_score", -1e-9, "clamp", 0.0),
    ("authenticity_score", 7, "clamp", 1.0),
    ("authenticity_score", 10**400, "clamp", 1.0),
    ("authenticity_score", "1.2", "clamp", 1.0),
    ("authenticity_score", math.nan, BAD, 0.75),
    ("authenticity_score", math.inf, BAD, 0.75),
    ("authenticity_score", -math.inf, BAD, 0.75),
    ("authenticity_score", "nan", BAD, 0.75),
    ("authenticity_score", "1e999", BAD, 0.75),
    ("authenticity_score", "high", BAD, 0.75),
    ("authenticity_score", True, BAD, 0.75),
    ("authenticity_score", [0.5], BAD, 0.75),
    ("confidence_level", "low", KEPT, "low"),
    ("confidence_level", "certain", BAD, "medium"),
    ("disputed", True, KEPT, True),
    ("disputed", "true", NEW, True),
    ("disputed", "False", NEW, False),
    ("disputed", 1, NEW, True),
    ("disputed", 0, NEW, False),
    ("disputed", 2, BAD, False),
    ("disputed", 1.0, BAD, False),
    ("disputed", "yes", BAD, False),
    ("if_citation_uri", "", KEPT, ""),
    ("if_citation_uri", "if://citation/x-2024-02-29", KEPT, "if://citation/x-2024-02-29"),
    ("if_citation_uri", "if://citation/x-2025-02-29", BAD, "if://citation/id0-2025-12-01"),
    ("if_citation_uri", "if://citation/x-2025-13-01", BAD, "if://citation/id0-2025-12-01"),
    ("if_citation_uri", "if://citation/x", BAD, "if://citation/id0-2025-12-01"),
    ("if_citation_uri", "if://citation/-2025-01-01", BAD, "if://citation/id0-2025-12-01"),
    ("if_citation_uri", "if://citation/x-2025-01-01 ", BAD, "if://citation/id0-2025-12-01"),
    ("if_citation_uri", "http://x-2025-01-01", BAD, "if://citation/id0-2025-12-01"),
    ("source_collection", "openwebui_core", KEPT, "openwebui_core"),
    ("source_collection", "openwebui_docs", "fixed", "openwebui_core"),
    ("source_collection", 3, "fixed", "openwebui_core"),
    ("collection_type", "corpus", KEPT, "corpus"),
    ("collection_type", "essay", "fixed", "corpus"),
    ("collection_type", ["corpus"], "fixed", "corpus"),
    ("word_count", 17, KEPT, 17),
    ("emotional_intensity", 2.0, "clamp", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "rule", "after"), VALUES)
def test_one_value_of_one_field(schema: Schema, field: str, value: Any, rule: str, after: Any) -> None:
    done = moved(schema, {field: value})
    found = (done.batch.metadatas[0] or {})[field]
    assert (type(found), found) == (type(after), after)
    assert rules(done, field) == ([rule] if rule else [])
    assert done.failures.empty
    assert schema.check(done.batch, "corpus").empty


FRAMEWORKS: list[tuple[Any, str, Any]] = [
    (["a", "b"], "", ["a", "b"]),
    ([], "empty", None),
    ("", "empty", None),
    ("[]", "empty", None),
    (None, "empty", None),
    ('["a", "b"]', "coerce", ["a", "b"]),
    ("a", "coerce", ["a"]),
    (["a", 5], "coerce", ["a", "5"]),
    ([1, 2], "coerce", ["1", "2"]),
    (["a", None], "default", None),
    ([["a"]], "default", None),
    (True, "default", None),
]


@pytest.mark.parametrize(("value", "rule", "after"), FRAMEWORKS)
def test_related_frameworks(schema: Schema, value: Any, rule: str, after: Any) -> None:
    done = moved(schema, {"collection_type": "personality", "related_frameworks": value})
    assert (done.batch.metadatas[0] or {}).get("related_frameworks") == after
    assert rules(done, "related_frameworks") == ([rule] if rule else [])
    assert done.failures.empty
    assert schema.check(done.batch, "personality").empty


def test_lists_become_json_where_the_target_has_none(schema: Schema) -> None:
    given = {"collection_type": "personality", "related_frameworks": ["ñ", "b"], "tags": [1, 2]}
    done = moved(schema, given, lists=False)
    found = done.batch.metadatas[0] or {}
    assert (found["related_frameworks"], found["tags"]) == ('["ñ", "b"]', "[1, 2]")
    assert rules(done, "related_frameworks") == rules(done, "tags") == ["json"]
    assert schema.check(done.batch, "personality").empty
    again = schema.transform(done.batch, "openwebui_core", context(lists=False))
    assert again.batch.metadatas == done.batch.metadatas
    assert again.repairs.empty
    identity = load_schema("identity").transform(batch(given), "c", context(lists=False))
    assert (identity.batch.metadatas[0] or {})["tags"] == "[1, 2]"
    assert given["tags"] == [1, 2]


@pytest.mark.parametrize(
    ("collection", "own", "target"),
    [
        ("openwebui_core", None, "sergio_corpus"),
        ("openwebui_core", "humor", "sergio_humor"),
        ("openwebui_core", "Humor", "sergio_corpus"),
        ("sergio_personality_notes", None, "sergio_personality"),
        ("sergio_personality_notes", "corpus", "sergio_corpus"),
        ("sergio_personality_notes", "essay", "sergio_personality"),
        ("sergio_personality_notes", 7, "sergio_personality"),
        ("old_Humor", None, "sergio_humor"),
        ("rhetorical-personality", None, "sergio_personality"),
    ],
)
def test_routing(schema: Schema, collection: str, own: Any, target: str) -> None:
    metadata = {} if own is None else {"collection_type": own}
    done = moved(schema, metadata, collection)
    assert done.targets == [target]
    assert (done.batch.metadatas[0] or {})["collection_type"] == target.removeprefix("sergio_") == done.types[0]
    assert target in schema.targets([collection])


def test_prefixed_ids_keep_their_origin(schema: Schema) -> None:
    done = schema.transform(batch({}, None, ids=["x", "openwebui_core:x"]), "openwebui_core", context("prefix"))
    assert done.batch.ids == ["openwebui_core:x", "openwebui_core:openwebui_core:x"]
    assert done.source_ids == ["x", "openwebui_core:x"]
    assert (done.batch.metadatas[0] or {})["if_citation_uri"] == "if://citation/openwebui_core%3Ax-2025-12-01"
    assert set(done.repairs["id"]) == {"x", "openwebui_core:x"}


def test_a_prefix_does_not_hide_an_empty_id(schema: Schema) -> None:
    done = schema.transform(batch({}, ids=[""]), "openwebui_core", context("prefix"))
    assert list(done.failures["reason"]) == ["empty_id"]


def test_keys_that_the_schema_does_not_name_are_kept_in_place(schema: Schema) -> None:
    extra = {"z": 2**53 + 1, "примечание": "✓", "weights": [0.1, -0.5], "flags": [True, False], "humor_type": "dry"}
    done = moved(schema, extra)
    found = done.batch.metadatas[0] or {}
    assert {k: found[k] for k in extra} == extra
    assert list(found)[: len(extra)] == list(extra)


def test_what_came_in_is_not_changed(schema: Schema) -> None:
    given = batch({"author": "", "tags": ["a"]}, None, {})
    before = json.dumps(given.metadatas)
    done = schema.transform(given, "openwebui_core", context())
    assert json.dumps(given.metadatas) == before
    assert done.batch.embeddings is given.embeddings
    assert done.batch.documents == given.documents


def test_a_changed_value_is_listed_whole_and_a_huge_one_with_its_length_and_digest(schema: Schema) -> None:
    done = moved(schema, {"author": "", "confidence_level": "\x1b[31m" + "x" * 5000, "authenticity_score": 1.2})
    columns = (done.repairs[name] for name in ("field", "before", "after"))
    shown = {field: (before, after) for field, before, after in zip(*columns, strict=True)}
    assert shown["author"] == ("''", "'Unknown'")
    assert shown["authenticity_score"] == ("1.2", "1.0")
    assert shown["source"] == ("(absent)", "'migrated_openwebui_core'")
    longest = shown["confidence_level"][0]
    digest = hashlib.sha256(("\x1b[31m" + "x" * 5000).encode()).hexdigest()
    assert longest.endswith(f"xxx… (5,005 characters, SHA-256 of their UTF-8 {digest})")
    assert len(longest) < 4200
    assert longest.isprintable()
    assert set(done.repairs["rule"]) <= set(REPAIRS)
    whole = "é" * 300
    (listed,) = moved(schema, {"confidence_level": whole}).repairs.query("field == 'confidence_level'")["before"]
    assert listed == repr(whole)


def test_every_chunk_stays_at_its_position(schema: Schema) -> None:
    done = schema.transform(batch(None, {"$bad": 1}, {"collection_type": "humor"}), "openwebui_core", context())
    assert len(done.batch) == len(done.targets) == len(done.types) == len(done.source_ids) == 3
    assert list(done.failures["id"]) == ["id1"]
    empty = schema.transform(ChunkBatch.empty(3), "openwebui_core", context())
    assert (len(empty.batch), empty.targets) == (0, [])
    assert list(empty.failures.columns) == ["collection", "id", "reason", "detail"]
    assert list(empty.repairs.columns) == ["collection", "id", "field", "rule", "before", "after"]


def test_the_documents_words_are_counted_only_where_no_count_stands(schema: Schema) -> None:
    for document, words in ((None, 0), ("", 0), ("uno\ndos\u00a0tres", 3)):
        done = schema.transform(batch({}, document=document), "openwebui_core", context())
        assert (done.batch.metadatas[0] or {})["word_count"] == words


def test_identity_changes_nothing() -> None:
    identity = load_schema("identity")
    given = batch({"a": 1, "l": ["x"]}, None, {}, {"f": -0.0})
    done = identity.transform(given, "c", context())
    assert (done.batch.ids, done.targets, done.types) == (given.ids, ["c"] * 4, [None] * 4)
    assert done.batch.metadatas == [{"a": 1, "l": ["x"]}, None, None, {"f": -0.0}]
    assert done.batch.metadatas[0] is given.metadatas[0]
    assert done.repairs[["id", "rule", "before", "after"]].to_numpy().tolist() == [["id2", "empty", "{}", "None"]]
    assert done.failures.empty
    assert identity.transform(given, "c", context("prefix")).batch.ids == [f"c:{i}" for i in given.ids]
    assert identity.targets(["b", "a"]) == {"b": None, "a": None}
    assert identity.is_identity
    assert not identity.requires_document
    assert identity.fields == ()
