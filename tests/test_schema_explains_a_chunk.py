"""`runbook schema --explain` and notebook 11: one chunk before and after the schema, rule by rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import main
from helpers.parameters.endpoint import Endpoint
from helpers.stores import CollectionInfo, open_target
from tests.schema_lines import chunks

EXAMPLES = "parameters/schemas/examples"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    with open_target(Endpoint(path=str(folder / "source"))) as store:
        for name, batch in {
            "articles": chunks({
                "a 1": ("Write to ada@x.org.", {"writer": "Ada", "published": "2024-05-01", "code": "de", "notes": "ada@x.org"}),
                "b": ("x", {"code": "de"}),
                "draft": ("x", {"status": "draft", "published": "soon"}),
            }),
            "other": chunks({"a 1": ("B", None)}, 2),
        }.items():  # fmt: skip
            store.create(CollectionInfo(name, 0, None, "cosine", "cosine"))
            store.add(name, batch)
    return folder


def explained(source: Path, schema: str, *more: str) -> int:
    (source / "p.yaml").write_text(
        f"name: x\nsource: {{path: {source / 'source'}}}\ntarget: {{path: {source / 'target'}}}\nschema: {schema}\n",
        encoding="utf-8",
    )
    return main(["schema", str(source / "p.yaml"), "--explain", *more])


def test_a_chunk_is_explained_rule_by_rule(
    source: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert explained(source, f"{EXAMPLES}/computed_fields.yaml", "a 1", "--collection", "articles") == 0
    assert (
        capsys.readouterr().out.strip()
        == """\
Chunk a 1 of collection articles, by schema computed_fields
Would be migrated to collection articles, as a 1, 4 changes.

In the source
  document: 'Write to ada@x.org.'
  field code: 'de'
  field notes: 'ada@x.org'
  field published: '2024-05-01'
  field writer: 'Ada'

What the schema does
  1. field year: (absent)  becomes  2024
     The field was missing; the schema's expression gives its value: int(fields.published.substring(0, 4))
  2. field country: (absent)  becomes  'Germany'
     The field was missing; the schema's expression gives its value: country_of(fields.code)
  3. field characters: (absent)  becomes  19
     The field was missing; the schema's expression gives its value: size(document)
  4. field origin: (absent)  becomes  'articles/a 1'
     The field was missing; the schema's expression gives its value: collection + "/" + id

Rules that do nothing to this chunk
  replace, ^http://: the pattern finds nothing here

In the target
  collection: articles
  id: a 1
  document: 'Write to ada@x.org.'
  field characters: 19
  field code: 'de'
  field country: 'Germany'
  field notes: 'ada@x.org'
  field origin: 'articles/a 1'
  field published: '2024-05-01'
  field writer: 'Ada'
  field year: 2024
  vector: 8 numbers. It stays as it is."""
    )


@pytest.mark.parametrize(
    ("schema", "chunk", "said"),
    [
        ("new_ids", "a 1", ["id: a 1  becomes  articles/a-1", "Chunk a 1 of collection other"]),
        (
            "collections",
            "a 1",
            ["collection: articles  becomes  articles_en", "sends chunks of articles to articles_en"],
        ),
        (
            "leave_out",
            "draft",
            [
                "Would not be migrated: the schema leaves it out.",
                "the rule that leaves it out:\n    drafts are not published",
            ],
        ),
        (
            "computed_fields",
            "draft",
            [
                "Would not be migrated: it stays in the source, and a copy goes to the quarantine",
                "quarantine, field year (invalid_year):\n    int(fields.published",
                "none of it is done",
            ],
        ),
        (
            "computed_fields",
            "b",
            ["(invalid_year):\n    int(fields.published.substring(0, 4)): the chunk has no field published"],
        ),
        (
            "rename_and_drop",
            "a 1",
            ["field writer: 'Ada'  becomes  field author: 'Ada'", "does not come along (drop: "],
        ),
        (
            "redaction",
            "a 1",
            [
                "document: (not shown)  becomes  'Write to [e-mail].'",
                "made from the source's text",
                "(redact: e-mail addresses)",
                "(what is redacted is not shown; the source holds the text)",
            ],
        ),
    ],
)
def test_what_each_rule_does_is_said(
    source: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, schema: str, chunk: str,
    said: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(root)
    assert explained(source, f"{EXAMPLES}/{schema}.yaml", chunk) == 0
    text = capsys.readouterr().out
    assert [line for line in said if line not in text] == []
    assert ("ada@x.org" in text) is (schema not in ("redaction", "leave_out", "computed_fields"))


RULES = """\
name: rules
fields:
  - {name: year, type: integer, minimum: 2000, maximum: 2010, repair: clamp}
  - {name: code, type: string, allowed: [fr, it], default: fr, repair: default}
  - {name: notes, type: strings}
replace:
  - {fields: [published], pattern: "-.*", with: ""}
unknown: drop
"""


def test_each_rule_is_named_with_what_it_says(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_target(Endpoint(path=str(source / "source"))) as store:
        store.create(CollectionInfo("years", 0, None, "cosine", "cosine"))
        store.add("years", chunks({"y": ("x", {"year": 1999, "code": "de", "notes": "n", "published": "2024-05-01"})}))
    (source / "rules.yaml").write_text(RULES, encoding="utf-8")
    assert explained(source, str(source / "rules.yaml"), "y") == 0
    text = capsys.readouterr().out
    for words in (
        "The number must be at least 2000 and at most 2010; it gets the nearest number that is allowed (repair: clamp).",
        "was replaced by the default. Allowed: fr, it.",
        "The schema wants the type strings; the value had another type and was converted without loss.",
        "The schema's pattern was found and replaced: -.* by ",
        "The field does not come along (unknown: drop).",
    ):
        assert words in text


def test_a_vector_that_is_made_anew_is_not_said_to_stay(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--set", "migration.reembed={function: default, collections: [other]}", "--collection", "other")
    assert explained(source, "identity", "a 1", *more) == 0
    assert "It is replaced: migration.reembed makes a new one by default." in capsys.readouterr().out


def test_an_unknown_chunk_is_one_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(source, "identity", "nobody") == 2
    assert "the source holds no chunk with the id nobody" in capsys.readouterr().err


STRICT = """\
name: strict
collections: [{from: other, to: rest}, {from: articles, to: papers}, {from: "*", to: anything}]
fields:
  - {name: code, type: string, allowed: [fr, it]}
  - {name: published, type: integer, minimum: 1900}
"""


def test_what_a_quarantined_value_must_be_is_said_and_which_rules_come_too_late(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "strict.yaml").write_text(STRICT, encoding="utf-8")
    assert explained(source, str(source / "strict.yaml"), "a 1", "--collection", "articles") == 0
    text = capsys.readouterr().out
    for words in (
        "'de'. Allowed: fr, it.",
        "The schema wants the type integer, at least 1900.",
        "collections, to rest: only for collections other; this one is articles",
        "collections, to anything: an earlier rule moves the chunk",
    ):
        assert words in text, text
