"""Reading schema files: what a good one says, and the one line that a bad one gets."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import UsageError
from helpers.run.advice import notebook_for
from helpers.schema import Context, Schema, load_schema

TWELVE = [
    "source", "source_file", "source_line", "author", "collection_type", "category", "language", "authenticity_score",
    "confidence_level", "disputed", "if_citation_uri", "source_collection",
]  # fmt: skip


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def own(folder: Path, text: str) -> Schema:
    return load_schema(str(written(folder, "name: mine\n" + text)))


def test_if_ttt_is_the_runbooks_schema() -> None:
    schema = load_schema("if_ttt")
    assert [rule.name for rule in schema.fields] == TWELVE
    assert schema.requires_document
    assert not schema.is_identity
    assert schema.targets(["whatever"]) == {
        f"sergio_{kind}": kind for kind in ("personality", "rhetorical", "humor", "corpus")
    }
    assert len(schema.rules("corpus")) == 16
    assert re.fullmatch("[0-9a-f]{64}", schema.digest)


def test_the_digest_is_of_the_content_not_of_the_spelling(tmp_path: Path) -> None:
    plain = own(tmp_path, "fields:\n  - {name: a, type: float, minimum: 0, maximum: 1, default: 1}\n").digest
    other = own(tmp_path, "# why\nfields: [{type: float, default: 1.0, maximum: 1.0, minimum: 0.0, name: a}]").digest
    changed = own(tmp_path, "fields: [{name: a, type: float, minimum: 0, maximum: 2, default: 1}]").digest
    assert plain == other != changed
    assert load_schema("identity").digest == load_schema("identity").digest


FIELD = "fields:\n  - {name: a, type: string, %s}\n"
BAD: list[tuple[str, str]] = [
    ("feilds: []", "fields"),
    ("routing: {target: {}}", "targets"),
    (FIELD % "defualt: x", "'default'"),
    ("routing: {targets: {x: abc}, otherwise: x}\nextensions: {x: [{name: a, type: string, allow: [b]}]}", "'allowed'"),
    ("name: twice", "duplicate key"),
    ("fields:\n  - {name: a, type: string}\n  - {name: a, type: float}", "defined twice"),
    ("fields: [{name: a, type: text}]", "string"),
    ("fields: [{name: $a, type: string}]", r"begins with \$"),
    ("fields: [{name: 'chroma:x', type: string}]", "chroma:"),
    (FIELD % "pattern: '('", "regular expression"),
    (FIELD % "minimum: 1", "integer and float"),
    (FIELD % "repair: default", "needs a default"),
    (FIELD % "repair: clamp", "minimum or a maximum"),
    (FIELD % "allowed: [b, c], default: d", "not a legal value"),
    (FIELD % "default: '{datum}'", "did you mean {date}"),
    (FIELD % "default: '{routing}'", "needs a routing section"),
    (FIELD % "default: '{date'", "is not a template"),
    (FIELD % "default: '{date.year}'", "not a placeholder"),
    (FIELD % "default: x, optional: true", "no effect"),
    ("fields: [{name: a, type: integer, default: '{date}'}]", "does not make"),
    ("fields: [{name: a, type: integer, default: true}]", "not a legal value"),
    ("fields: [{name: a, type: integer, default: 0.5}]", "not a legal value"),
    ("fields: [{name: a, type: float, minimum: 2, maximum: 1}]", "above"),
    ("fields: [{name: a, type: float, minimum: .nan}]", "fields"),
    ("routing: {targets: {x: abc}, otherwise: y}", "'y' has no target"),
    ("routing: {targets: {x: a b}, otherwise: x}", "name of a collection"),
    ("routing: {targets: {x: abc, y: abc}, otherwise: x}", "share"),
    ("extensions: {x: []}", "'x'"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        own(tmp_path, text + "\n")
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "name: [", "just text", "name: x\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_schema(str(written(tmp_path, text)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["if_tt", "", "../../x", "nothing/here.yaml"])
def test_an_unknown_schema(name: str) -> None:
    with pytest.raises(UsageError, match="if_ttt") as caught:
        load_schema(name)
    assert caught.value.exit_code == 2


def test_the_example_in_the_documentation_works(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "schemas.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example
    schema = load_schema(str(written(tmp_path, example[1])))
    given = ChunkBatch(["1", "2"], ["d", "e"], np.ones((2, 2), np.float32), [{"isbn": "1" * 13, "kind": "news"}, None])
    done = schema.transform(given, "Daily News", Context(frozenset({"Daily News"}), dt.date(2025, 12, 1), "fail"))
    assert done.targets == ["articles_news"] * 2
    assert done.batch.metadatas[0] == {
        "isbn": "1" * 13, "kind": "news", "author": "Unknown", "score": 0.5, "published": "2025-12-01", "language": "en",
    }  # fmt: skip
    assert done.failures.to_numpy().tolist() == [["Daily News", "2", "missing_isbn", "the field is missing"]]


def test_dropping_unknown_keys_is_counted(tmp_path: Path) -> None:
    schema = own(tmp_path, "unknown: drop\nfields: [{name: a, type: integer, default: 1}]")
    given = ChunkBatch(["1"], [None], np.ones((1, 2), np.float32), [{"a": 5, "b": "x", "$c": 1}])
    done = schema.transform(given, "c", Context(frozenset({"c"}), dt.date(2025, 12, 1), "fail"))
    assert done.batch.metadatas == [{"a": 5}]
    assert done.repairs[["field", "rule", "before"]].to_numpy().tolist() == [["b", "drop", "'x'"], ["$c", "drop", "1"]]
    assert done.failures.empty


@pytest.mark.parametrize(
    ("rule", "value", "reason"),
    [
        ("{name: s, type: float, minimum: 0, maximum: 1, default: 0.5}", 2.0, "invalid_s"),
        ("{name: s, type: float, minimum: 0, repair: clamp}", float("nan"), "invalid_s"),
        ("{name: s, type: float}", None, "missing_s"),
        ("{name: s, type: strings}", [], "missing_s"),
        ("{name: s, type: string, allowed: [a]}", "b", "invalid_s"),
    ],
)
def test_rejected_chunks(tmp_path: Path, rule: str, value: object, reason: str) -> None:
    schema = own(tmp_path, f"fields: [{rule}]")
    given = ChunkBatch(["1"], [None], np.ones((1, 2), np.float32), [{"s": value}])
    done = schema.transform(given, "c", Context(frozenset({"c"}), dt.date(2025, 12, 1), "fail"))
    assert done.failures["reason"][0] == reason
    assert notebook_for(reason) is not None
