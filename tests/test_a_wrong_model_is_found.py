"""`validation.retrieval`: queries with known answers, and neighbours that stay, tell a right model from a wrong one.

Each vector of the target is the one that was made: only what the vectors are good for tells these apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import UsageError
from helpers.migration.importing import plan_targets
from helpers.migration.reembedding import as_written, reembed
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import Parameters
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.validate import record_known
from helpers.stores import open_source, open_target
from helpers.stores.creation import RehearsalEmbedding
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import AGREEMENT, KNOWN, answers_of_source, known_answers
from helpers.validation.search import baseline
from tests.storage import chunks, embedded
from tests.storage import plan as collection
from tests.test_reembedding import DATE, own_function
from tests.test_reembedding_of_collections import WORDS, order, ordered

WAS, IS, NUMBER = 96, 64, 30
TEXTS = [
    f"{WORDS[n % 10]} {WORDS[(n * 7 + 3) % 10]} number{n} {WORDS[n // 3]} beside part{n % 5}" for n in range(NUMBER)
]
QUERIES = {f"number{n} {WORDS[n % 10]}": [f"n{n}", "of no collection"] for n in (1, 4, 12, 25)}
ASKED = {"queries": QUERIES, "k": 3, "at_least": 0.75, "neighbours": 0.4}


def parameters(folder: Path, retrieval: Any = None) -> Parameters:
    anew = order(config={"dimension": IS}, collections=["notes"], cache=str(folder / "cache"), batch=50)
    return ordered(folder, anew, validation={"k": 3, "retrieval": ASKED if retrieval is None else retrieval})


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, dict[str, Any]]:
    """`notes`, embedded by one model, and what step 13 asks of the source."""
    folder = tmp_path_factory.mktemp("notes")
    with embedded(folder / "source") as store:
        store.create(replace(collection("notes", "cosine"), configuration=own_function(WAS)))
        batch = chunks(NUMBER, WAS, prefix="n")
        batch.documents = list(TEXTS)
        batch.embeddings = RehearsalEmbedding(WAS).vectors(TEXTS)
        store.add("notes", batch)
    rules = parameters(folder)
    with open_source(rules.source, folder / "scratch") as store:
        snapshot = write_snapshot(store, folder / "snapshots", "s", ["notes"], retention_days=7)
        known = answers_of_source(store, snapshot.names(), rules.validation.retrieval)
        return snapshot, {**baseline(store, snapshot, rules), "retrieval": known}


def moved(taken: tuple[Snapshot, dict[str, Any]], folder: Path, retrieval: Any = None) -> Judgement:
    """As steps 21 to 23 do it."""
    snapshot, before = taken
    rules, schema, aside = parameters(folder, retrieval), load_schema("identity"), Quarantine(folder / "quarantine")
    reembed(snapshot, rules, folder / "made")
    written = as_written(snapshot, folder / "made")
    context = Expectation(snapshot, schema, rules, DATE, {}).context()
    staged = stage(written, schema, context, folder / "staged", aside)
    of = Expectation(snapshot, schema, rules, DATE, aside.reasons(), before, folder / "made")
    with open_target(rules.target) as store:
        for info in plan_targets(written.collections(), staged, rules.migration, load_schema("identity")):
            store.create(info)
            for batch in staged.stream(info.name, 0, 100):
                store.add(info.name, batch)
        return Judgement(Examination(store, of).run(), of)


def named(judged: Judgement) -> dict[str, Check]:
    return {check.name: check for check in judged.all()}


def test_the_right_model_answers_what_is_known(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken[1]["retrieval"] == {"queries": 4, "found": 4}
    judged = moved(taken, tmp_path)
    checks = named(judged)
    assert {c.name: c.reason for c in checks.values() if c.verdict is Verdict.FAIL} == {}
    known, stays = checks[KNOWN], checks[AGREEMENT]
    assert (known.verdict, known.measured, known.threshold, known.relation) == (Verdict.PASS, 1.0, 0.75, "≥")
    assert known.detail == "4 of 4 find an expected id among the first 3; the source answered 4 of 4"
    assert stays.verdict is Verdict.PASS
    assert 0.4 <= stays.measured < 1
    assert stays.detail == f"notes: {stays.measured:.3f} of the 3 nearest"
    assert {row["query"]: row["rank"] for row in judged.findings.known_answers}.keys() == QUERIES.keys()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    run = RunRecord(runs.create(parameters(tmp_path), "night").read(), "23")
    record_known(run, judged)
    record_known(run, judged)  # a cell may run twice
    assert [check.name for check in run.result.checks] == [KNOWN, AGREEMENT]
    told = run.result.facts["retrieval"]
    assert (told["queries"], told["found"], told["source"]) == (4, 4, {"queries": 4, "found": 4})


def shuffled(self: RehearsalEmbedding, texts: list[str]) -> Any:
    return RIGHT(self, texts)[np.random.default_rng(3).permutation(len(texts))]


def another_model(self: RehearsalEmbedding, texts: list[str]) -> Any:
    return RIGHT(self, [" ".join(word[::-1] for word in text.split()) for text in texts])


def one_for_all(self: RehearsalEmbedding, texts: list[str]) -> Any:
    return np.repeat(RIGHT(self, texts[:1]), len(texts), axis=0) + np.float32(0.001) * RIGHT(self, texts)[::-1]


RIGHT = RehearsalEmbedding.vectors


@pytest.mark.parametrize("wrong", [shuffled, another_model, one_for_all])
def test_a_wrong_model_fails_where_each_vector_is_what_was_made(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path, wrong: Callable[..., Any]
) -> None:
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(RehearsalEmbedding, "vectors", wrong)
        reembed(taken[0], parameters(tmp_path), tmp_path / "made")
    checks = named(moved(taken, tmp_path))
    failed = {name for name, check in checks.items() if check.verdict is Verdict.FAIL}
    assert KNOWN in failed, checks[KNOWN]
    assert failed <= {KNOWN, AGREEMENT}, "no other test can tell"
    known = checks[KNOWN]
    assert (known.reason, known.measured < 0.75) == ("query_without_answer", True)
    assert "not among the first 3" in known.detail
    assert known.ids[0]["query"] in QUERIES
    if wrong is shuffled:
        assert AGREEMENT in failed
        assert checks[AGREEMENT].reason == "search_not_equivalent"


def test_without_a_threshold_nothing_is_judged_and_what_cannot_be_asked_is_not_exercised(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(RehearsalEmbedding, "vectors", shuffled)
        reembed(taken[0], parameters(tmp_path), tmp_path / "made")
    judged = moved(taken, tmp_path, {"queries": {"number1": ["n1"]}, "k": 1, "at_least": 0.0})
    checks = named(judged)
    assert AGREEMENT not in checks
    assert checks[KNOWN].verdict is Verdict.PASS, "0 is enough"
    assert "for information: 0." in next(row["detail"] for row in judged.findings.search)
    for row in judged.findings.known_answers:
        row["asked"], row["why"] = False, "embedding function x is not installed here"
    [check] = judged.retrieval()
    assert (check.verdict, check.detail) == (Verdict.NOT_EXERCISED, "embedding function x is not installed here")


def test_an_id_that_is_nowhere_counts_as_not_found(taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path) -> None:
    judged = moved(taken, tmp_path, {"queries": {"number1 stone": ["n1"], "number2": ["gone"]}, "k": 3})
    [check] = judged.retrieval()
    assert (check.verdict, check.measured) == (Verdict.FAIL, 0.5)
    assert check.detail.endswith("number2: no collection holds an expected id")


def test_queries_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "queries.yaml"
    found = parameters(tmp_path, {"queries": str(file)}).validation.retrieval

    def said() -> str:
        with pytest.raises(UsageError) as caught:
            known_answers(found)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file of queries" in said()
    file.write_text("one: n1\nhow are you: [n2, 'n3']\n")
    assert known_answers(found) == {"one": ["n1"], "how are you": ["n2", "n3"]}
    file.write_text('{"one": ["n1"]}')
    assert known_answers(found) == {"one": ["n1"]}
    for wrong in ("one: []\n", "one: [17]\n", "one: {a: b}\n"):
        file.write_text(wrong)
        assert "the query 'one' has no list of ids as texts" in said()
