"""Metadata in reports: what the source held, what was filled, what a document tells, and what contradicts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import UsageError, hide
from helpers.formatting import unpacked_rows
from helpers.migration.importing import routing_table
from helpers.migration.staging import CHANGES, Quarantine, stage
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict, kind_of
from helpers.schema import load_schema
from helpers.schema.expressions import contradicts, languages
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, open_target
from helpers.validation.properties import FieldValues
from tests.test_own_schemas_are_validated import chunks, judged
from tests.test_schema_transform import context

ENGLISH = "The gateway checks every call before it is read. Each of them has a key that was made for one service."
SPANISH = (
    "El manejo de errores es más fácil cuando los mensajes son claros. También hay que escribir una y usarla siempre."
)
BOTH = f"{ENGLISH} {SPANISH}"
OLD_DIGEST = "fbbdb20411f36d82f3019022822f481ec5c44eddf38f9445ed79ac9515e1098e"
MINE = """
name: mine
fields:
  - { name: lang, type: string, derive: language, default: unknown, repair: default }
  - { name: spanish, type: boolean, derive: includes_spanish, default: false, repair: default }
  - { name: words, type: integer, derive: word_count, default: 0, repair: default }
  - { name: author, type: string, default: Unknown, repair: default }
  - { name: origin, type: string, fixed: "{source_collection}" }
"""


@pytest.mark.parametrize(
    ("document", "language", "spanish"),
    [
        (ENGLISH, "en", False),
        (SPANISH, "es", True),
        (BOTH, "es_en", True),
        (SPANISH + " The gateway.", "es", True),
        ("", None, None),
        ("4711; 0815; IBAN", None, None),
        ("Los Angeles, Las Vegas, El Paso, Del Mar, Los Alamos, Las Cruces", None, None),
        ("The offices of the company are in Los Angeles and in Las Vegas, and each of them is at work by nine.", "en", False),
        (f"{ENGLISH} La respuesta llega con la cena.", None, None),  # a few words of Spanish: not certain of either
        ("O código não é uma causa dos erros, mas também não os explica. As respostas são mais claras.", None, None),
        ("Els errors són més fàcils quan els missatges són clars. També cal escriure una prova amb això i usar-la.", None, None),
        ("Gli errori sono più facili quando il messaggio è chiaro. Questo non è una prova della sua causa.", None, None),
        ("Les erreurs sont plus faciles quand les messages sont clairs. Il faut écrire une preuve avec soin.", None, None),
        ("Der Fehler ist nicht in dem Dienst, und die Ursache ist auch nicht in der Datenbank.", None, None),
        ("数据库迁移不丢失任何一行。データは一行も失わない。", None, None),
    ],
)  # fmt: skip
def test_a_document_tells_its_language_only_where_there_is_no_doubt(document: str, language: Any, spanish: Any) -> None:
    assert languages(document) == (language, spanish)


def test_a_schema_derives_what_is_certain_and_fills_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    documents = [ENGLISH, SPANISH, "Ref 17.", SPANISH]
    metadatas: list[Any] = [None, {"spanish": "perhaps"}, {}, {"lang": "es-CL", "words": "3", "author": "A"}]
    batch = ChunkBatch(list("abcd"), list(documents), chunks("x", 4, 1).embeddings, metadatas)
    done = load_schema(str(path)).transform(batch, "docs", context())
    found = [{key: (m or {})[key] for key in ("lang", "spanish", "words")} for m in done.batch.metadatas]
    assert found == [
        {"lang": "en", "spanish": False, "words": 21},
        {"lang": "es", "spanish": True, "words": 20},
        {"lang": "unknown", "spanish": False, "words": 2},
        {"lang": "es-CL", "spanish": True, "words": 3},
    ]
    rules = {(r.id, r.field): r.rule for r in done.repairs.itertuples()}
    assert [rules["a", f] for f in ("lang", "spanish", "words", "author", "origin")] == [
        "derived", "derived", "derived", "missing", "set"
    ]  # fmt: skip
    assert rules["b", "spanish"] == "replaced"
    assert (rules["c", "lang"], rules["c", "spanish"], rules["c", "words"]) == ("missing", "missing", "derived")
    assert (rules["d", "words"], rules["d", "spanish"]) == ("coerce", "derived")
    assert {kind_of(str(rules[key])) for key in (("b", "spanish"), ("d", "words"))} == {"changed"}
    values = FieldValues(load_schema(str(path)))
    values.add_source(done, batch, range(4))
    assert values.summary()["altered"] == {"id": 0, "metadata": 4, "document": 0}
    given = set(done.repairs[done.repairs["rule"].isin(["missing", "default"])]["id"])
    assert values.summary()["defaulted_chunks"] == len(given) == 3, "d has an author of its own, and no default"


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("{ name: words, type: string, derive: word_count, default: x }", "makes a value of type integer, not string"),
        ("{ name: lang, type: string, derive: language, fixed: en }", "derive has no effect beside fixed"),
        ("{ name: lang, type: string, derive: language, allowed: [es, en], default: en }", "gives 'es_en'"),
        ("{ name: lang, type: string, derive: dialect, default: en }", "derive"),
    ],
)
def test_a_schema_that_derives_wrongly_is_refused_when_it_is_read(tmp_path: Path, field: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nfields: [{field}]\n", encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load_schema(str(path))
    assert told in refused.value.what


def test_a_schema_without_derive_keeps_the_digest_that_a_run_began_with(tmp_path: Path) -> None:
    """As computed by the version before `derive`: a run that waits for signatures goes on after an upgrade."""
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nfields: [{name: lang, type: string, default: en}]\n", encoding="utf-8")
    assert load_schema(str(path)).digest == OLD_DIGEST
    plain = load_schema(str(path)).digest
    path.write_text(
        "name: mine\nfields: [{name: lang, type: string, derive: language, default: en}]\n", encoding="utf-8"
    )
    assert load_schema(str(path)).digest != plain


@pytest.mark.parametrize(
    ("rule", "value", "told", "wrong"),
    [
        ("language", "en", "es", True), ("language", "en-GB", "en", False), ("language", "spa", "es", False),
        ("language", "es", "es_en", False), ("language", "es_en", "en", False), ("language", "fr", "es", True),
        ("language", "Spanish", "en", False), ("includes_spanish", False, True, True),
        ("includes_spanish", True, True, False), ("word_count", 100, 108, False), ("word_count", 0, 90, True),
        ("word_count", 2, 4, False),
    ],
)  # fmt: skip
def test_a_contradiction_leaves_no_other_reading(rule: str, value: Any, told: Any, wrong: bool) -> None:
    assert contradicts(rule, value, told) is wrong


def test_values_are_counted_on_each_side_and_contradictions_are_named(tmp_path: Path) -> None:
    """Six chunks: what was there, what was filled and what was changed are three numbers, recomputed here by hand."""
    batch = chunks("docs", 6, 1)
    batch.documents = [ENGLISH, SPANISH, SPANISH, "Ref 17.", "Ref 18.", BOTH]
    batch.metadatas = [
        {"author": "A", "lang": "en", "spanish": False, "words": 21},  # complete
        {"author": "B", "lang": "en", "spanish": False},  # a Spanish text: both contradict it
        {"lang": "es"},
        None,
        {"words": "2", "author": ""},  # text for a number
        {"lang": "en", "spanish": True, "origin": "elsewhere"},  # `origin` is the schema's own
    ]
    found = judged(tmp_path, MINE, {"docs": batch})
    assert found.findings.values is not None
    told = found.findings.values.summary()
    fields = {row["field"]: row for row in told["fields"]}
    assert {name: row["before"] for name, row in fields.items()} == {
        "lang": 4, "spanish": 3, "words": 2, "author": 3, "origin": 1
    }  # fmt: skip
    assert {row["after"] for row in fields.values()} == {6}
    assert {name: row["kept"] for name, row in fields.items()} == {
        "lang": 4, "spanish": 3, "words": 1, "author": 3, "origin": 0
    }  # fmt: skip
    # lang of two, spanish of two short ones; words are always told; spanish of the third is told; author of three
    assert (told["defaults"], told["derived"], told["set"], told["changed"]) == (2 + 2 + 3, 1 + 4, 5, 2)
    assert (told["before"]["chunks"], told["after"]["chunks"], told["chunks"]) == (0, 6, 6)
    assert told["values_before"] == pytest.approx(13 / 30)
    assert told["values_after"] == 1.0
    assert {(c["field"], c["rule"]): c["chunks"] for c in told["changes"] if c["kind"] == "changed"} == {
        ("words", "coerce"): 1, ("origin", "fixed"): 1
    }  # fmt: skip
    assert told["ids_rewritten"] is None
    check = found.contradictions()
    assert (check.verdict, check.reason, check.measured) == (Verdict.WARNING, "metadata_contradicts", 2)
    assert [(row["id"], row["field"], row["detail"]) for row in check.ids] == [
        ("docs-1", "lang", "'en', the document tells 'es'"), ("docs-1", "spanish", "False, the document tells True")
    ]  # fmt: skip
    said = found.completeness().detail
    assert "every field was there in 0 of 6 chunks in the source, 43.3% of the values" in said
    assert "7 filled with a default" in said
    assert "2 changed" in said


def test_if_ttt_tells_spanish_from_a_default_and_says_how_it_knows(tmp_path: Path) -> None:
    """Staged as step 22 does it: counts by rule and value, routing as a table, ids that the prefix rewrites."""
    batch = chunks("openwebui_core", 4, 1)
    batch.documents = [SPANISH, ENGLISH, "Ref 17.", SPANISH]
    batch.metadatas = [None, None, None, {"collection_type": "humor"}]
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        store.create(CollectionInfo("openwebui_core", 0, None, "cosine", "cosine"))
        store.add("openwebui_core", batch)
        snapshot = write_snapshot(store, tmp_path, "snap", ["openwebui_core"], retention_days=7)
    quarantine = Quarantine(tmp_path / "quarantine")
    staged = stage(snapshot, load_schema("if_ttt"), context(id_policy="prefix"), tmp_path / "staged", quarantine)
    told = {(row["field"], row["value"]): row["chunks"] for row in staged.derived}
    assert told == {
        ("includes_spanish", "False"): 1, ("includes_spanish", "True"): 1, ("language", "en"): 1, ("language", "es"): 2,
        ("word_count", ""): 3,
    }  # fmt: skip
    assert all(row["meaning"] for row in staged.derived)
    assert sum(row["chunks"] for row in staged.filled) == sum(
        r["chunks"] for r in staged.repairs if r["rule"] == "missing"
    )
    filled = {(row["field"], row["value"]): row["chunks"] for row in staged.filled}
    assert filled["includes_spanish", "False"] == filled["language", "'en'"] == 1
    defaults = {(r["field"], r["rule"]): r["chunks"] for r in staged.repairs}
    assert defaults["includes_spanish", "missing"] == defaults["language", "missing"] == 1
    routed = [{"collection": c, "target": t, "chunks": n} for t, files in staged.files.items() for _, c, n in files]
    table = routing_table([*routed, {"collection": "openwebui_core", "target": "", "chunks": 2}])
    assert list(table.itertuples(index=False, name=None)) == [
        ("openwebui_core", "sergio_corpus", 3), ("openwebui_core", "sergio_humor", 1),
        ("openwebui_core", "(quarantine or left out)", 2)
    ]  # fmt: skip


def test_the_values_of_a_template_are_counted_together_beyond_the_first_few(tmp_path: Path) -> None:
    """As many rows for a million chunks: nothing grows with them."""
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        store.create(CollectionInfo("openwebui_core", 0, None, "cosine", "cosine"))
        store.add("openwebui_core", chunks("openwebui_core", 30, 1))
        snapshot = write_snapshot(store, tmp_path, "snap", ["openwebui_core"], retention_days=7)
    quarantine = Quarantine(tmp_path / "quarantine")
    staged = stage(snapshot, load_schema("if_ttt"), context(), tmp_path / "staged", quarantine)
    rows = [row for row in staged.filled if row["field"] == "if_citation_uri"]
    assert len({row["value"] for row in rows}) == len(rows) == 6
    assert (rows[-1]["value"], sum(row["chunks"] for row in rows)) == (
        None,
        staged.total - sum(staged.quarantined.values()),
    )


def test_every_contradicting_chunk_is_named_up_to_twenty_and_more_are_said_to_be_elsewhere(tmp_path: Path) -> None:
    batch = chunks("docs", 26, 1)
    batch.documents = [SPANISH] * 26
    batch.metadatas = [{"author": "A", "lang": "en" if n else "es", "spanish": True, "words": 20} for n in range(26)]
    check = judged(tmp_path, MINE, {"docs": batch}).contradictions()
    assert check.measured == check.offenders == 25
    assert [row["id"] for row in check.ids] == [f"docs-{n}" for n in range(1, 21)]
    assert "the first 25 are in results/23.json" in check.detail


def test_every_changed_value_is_listed_old_and_new_and_chunks_are_counted_once(tmp_path: Path) -> None:
    batch = chunks("openwebui_core", 4, 1)
    batch.metadatas = [
        {"authenticity_score": 1.4, "source_line": -5}, {"authenticity_score": "0.5"}, {"authenticity_score": 0.5},
        {"authenticity_score": 0.5, "disputed": "yes, token-4711"},
    ]  # fmt: skip
    hide("token-4711", "env:SECRET")
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        store.create(CollectionInfo("openwebui_core", 0, None, "cosine", "cosine"))
        store.add("openwebui_core", batch)
        snapshot = write_snapshot(store, tmp_path / "snapshots", "one", ["openwebui_core"], retention_days=7)
    staged = stage(snapshot, load_schema("if_ttt"), context(), tmp_path / "staged", Quarantine(tmp_path / "quarantine"))
    listed = list(unpacked_rows(tmp_path / "staged" / CHANGES, ()))
    changed = [row for row in staged.repairs if kind_of(row["rule"]) == "changed"]
    assert sum(row["chunks"] for row in changed) == len(listed) > 3
    assert staged.chunks_changed == len({row["id"] for row in listed}) < len(listed)
    row = next(r for r in listed if (r["id"], r["field"]) == ("openwebui_core-0", "authenticity_score"))
    assert (row["collection"], row["old"], row["new"], row["rule"]) == ("openwebui_core", "1.4", "1.0", "clamp")
    assert "token-4711" not in str(listed), "secrets are kept from it as from every file of the evidence"


def test_a_value_that_was_replaced_is_changed_and_not_counted_as_derived_too(tmp_path: Path) -> None:
    batch = chunks("openwebui_core", 2, 1)
    batch.documents = [SPANISH, ENGLISH]
    batch.metadatas = [{"language": "no language!"}, None]
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        store.create(CollectionInfo("openwebui_core", 0, None, "cosine", "cosine"))
        store.add("openwebui_core", batch)
        snapshot = write_snapshot(store, tmp_path, "snap", ["openwebui_core"], retention_days=7)
    quarantine = Quarantine(tmp_path / "quarantine")
    staged = stage(snapshot, load_schema("if_ttt"), context(id_policy="prefix"), tmp_path / "staged", quarantine)
    rules = {rule: sum(r["chunks"] for r in staged.repairs if r["rule"] == rule) for rule in ("derived", "replaced")}
    assert rules["replaced"] == 1
    assert sum(row["chunks"] for row in staged.derived) == rules["derived"]
