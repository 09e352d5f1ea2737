"""`migration.reembed` with collections: every chunk of them has the new model's vector, and nothing else changes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.migration.importing import plan_targets
from helpers.migration.reembedding import REEMBEDDED_CHECK, as_written, completed_record, reembed, refuse_order
from helpers.migration.staging import Quarantine, stage
from helpers.migration.target_lock import preflight
from helpers.parameters import Parameters, load_parameters, parameters_from
from helpers.rehearsal.sample_source import write_sample
from helpers.results import Verdict
from helpers.rollback.replay import Written, plan
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.record import RunRecord
from helpers.schema import load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from helpers.stores import open_source, open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import RehearsalEmbedding
from helpers.validation import Judgement
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import AGREEMENT, KNOWN
from helpers.validation.search import baseline
from tests.conftest import ROOT
from tests.faults.command import AFTER, BEFORE, Child, Crash, Order
from tests.hostile import super_journal
from tests.servers import ChromaServer, client_of
from tests.storage import chunks, embedded
from tests.storage import plan as collection
from tests.test_catch_up import keep, migrate, verdict
from tests.test_reembedding import DATE, FUNCTION, own_function

WAS, IS, NUMBER = 32, 8, 20
WORDS = ["river", "stone", "cloud", "lamp", "tiger", "copper", "orchard", "signal", "window", "paper"]
QUERIES = [{"text": "copper and copper", "collection": "notes", "expect": "copper"}]


def texts(number: int, about: str) -> list[str | None]:
    return [
        f"{about} {n}: {WORDS[n % 10]} beside {WORDS[(3 * n + 1) % 10]} and {WORDS[(n // 3) % 10]}"
        for n in range(number)
    ]


def new_vectors(documents: list[str | None]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """As anybody else computes them: a function of its own, all texts in one call."""
    return RehearsalEmbedding(IS).vectors([str(text) for text in documents])


def fill_source(folder: Path) -> Path:
    """60 chunks: `notes` and `papers` with vectors of one model, `plain` of none; one chunk of `notes` has no document."""
    with embedded(folder) as store:
        for name in ("notes", "papers"):
            store.create(replace(collection(name, "cosine"), configuration=own_function(WAS)))
            batch = chunks(NUMBER, WAS, prefix=name[0])
            batch.documents = texts(NUMBER, name)
            batch.embeddings = RehearsalEmbedding(WAS).vectors([str(text) for text in batch.documents])
            if name == "notes":
                batch.documents[7] = None
            store.add(name, batch)
        store.create(collection("plain"))
        store.add("plain", chunks(NUMBER, 4, prefix="q"))
    return folder


def order(**more: Any) -> dict[str, Any]:
    return {
        "function": FUNCTION,
        "collections": ["not*"],
        "config": {"dimension": IS},
        "batch": 4,
        "cache": "cache",
        **more,
    }


def ordered(folder: Path, wanted: Any = None, **sections: Any) -> Parameters:
    anew = order(cache=str(folder / "cache")) if wanted is None else wanted
    return parameters_from(
        {
            "name": "n", "source": {"path": str(folder / "source")}, "target": {"path": str(folder / "target")},
            "migration": {"reembed": anew, "minimum_valid": 0.5}, "validation": {"queries": QUERIES}, **sections,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, dict[str, Any]]:
    """The snapshot, and what the dry run asks of the source; nothing writes to them."""
    folder = tmp_path_factory.mktemp("three collections")
    fill_source(folder / "source")
    with open_source(ordered(folder).source, folder / "scratch") as store:
        snapshot = write_snapshot(store, folder / "snapshots", "s", ["notes", "papers", "plain"], retention_days=7)
        return snapshot, baseline(store, snapshot, ordered(folder))


def all_of(snapshot: Snapshot, name: str) -> ChunkBatch:
    whole = ChunkBatch.concatenate(list(snapshot.batches(name)))
    return whole.take(sorted(range(len(whole)), key=lambda i: whole.ids[i]))


def spoil(store: ClientStore) -> None:
    """One new vector of the target becomes another."""
    one = store.read("notes", ["n3"])
    one.embeddings = one.embeddings[:, ::-1].copy()
    store.delete("notes", ["n3"])
    store.add("notes", one)


def as_the_source_had_it(store: ClientStore) -> None:
    """The collection is made again, with the vectors of the old model."""
    was = store.read("papers", store.ids("papers"))
    info = store.info("papers")
    store.drop("notes")
    store.create(replace(info, name="notes"))
    store.add("notes", was)


def moved(
    taken: tuple[Snapshot, dict[str, Any]],
    folder: Path,
    damage: Callable[[ClientStore], None] = lambda _: None,
    **sections: Any,
) -> tuple[Judgement, Quarantine]:
    """As steps 21 to 23 do it."""
    snapshot, before = taken
    parameters, schema, aside = ordered(folder, **sections), load_schema("identity"), Quarantine(folder / "quarantine")
    reembed(snapshot, parameters, folder / "made")
    written = as_written(snapshot, folder / "made")
    context = Expectation(snapshot, schema, parameters, DATE, {}).context()
    staged = stage(written, schema, context, folder / "staged", aside)
    of = Expectation(snapshot, schema, parameters, DATE, aside.reasons(), before, folder / "made")
    with open_target(parameters.target) as store:
        for info in plan_targets(written.collections(), staged, parameters.migration, load_schema("identity")):
            store.create(info)
            for batch in staged.stream(info.name, 0, 100):
                store.add(info.name, batch)
        damage(store)
        return Judgement(Examination(store, of).run(), of), aside


def test_each_chunk_of_an_ordered_collection_has_the_new_models_vector(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path
) -> None:
    snapshot, before = taken
    judged, aside = moved(taken, tmp_path)
    assert {c.name: c.reason for c in judged.all() if c.verdict is Verdict.FAIL} == {}
    assert [(e["collection"], e["id"], e["reason"]) for e in aside.entries()] == [("notes", "n7", "missing_embedding")]
    assert aside.entries()[0]["detail"].startswith("no new vector: it has no text")
    with embedded(tmp_path / "target") as store:
        found = {name: store.read(name, sorted(store.ids(name))) for name in store.names()}
        info, other = store.info("notes"), store.info("papers")
        assert store.why_no_text_queries("notes") == ""
    assert found["notes"].ids == sorted(f"n{n}" for n in range(NUMBER) if n != 7)
    assert found["notes"].dimension == info.dimension == IS
    wanted = new_vectors(found["notes"].documents)
    close = found["notes"].embeddings / np.linalg.norm(found["notes"].embeddings, axis=1, keepdims=True)
    assert np.allclose(close, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    stored = {"type": "known", "name": FUNCTION, "config": {"dimension": IS}}
    assert info.configuration["embedding_function"] == stored, "clients of the target embed by the new model"
    assert other.configuration["embedding_function"]["config"] == {"dimension": WAS}
    for name in ("papers", "plain"):
        was = all_of(snapshot, name)
        assert found[name].embeddings.shape == was.embeddings.shape
    detail = judged.embeddings().detail
    assert detail.endswith("19 vectors of notes made anew: compared with what was made, not with the source")
    assert detail.startswith("on cosine each number within 5e-07 of its own, relative; farthest vector: ")
    # The source's answers are shown, and are no measure.
    rows = {row["collection"]: row for row in judged.findings.search}
    assert rows["notes"]["verdict"] is Verdict.WARNING
    assert "the target finds 1.000 of the probes" in rows["notes"]["detail"]
    assert "made anew by order (migration.reembed); for information: 0." in rows["notes"]["detail"]
    assert 0 < rows["notes"]["overlap_plain@10"] < 1
    assert (rows["papers"]["verdict"], rows["plain"]["verdict"]) == (Verdict.PASS, Verdict.PASS)
    settings = {
        (r["collection"], r["setting"]): (r["source"], r["target"], r["state"]) for r in judged.findings.configuration
    }
    assert settings["notes", "embedding function"] == (FUNCTION, "another config", "explained")
    assert settings["papers", "embedding function"][2] == "kept"
    query = judged.findings.queries[0]
    assert (query["ok"], query["found_in"]) == (True, "notes"), query
    assert before["queries"][0]["ok"]


@pytest.mark.parametrize(("damage", "wrong"), [(spoil, 1), (as_the_source_had_it, NUMBER + NUMBER - 1)])
def test_a_vector_that_is_not_the_new_models_is_found(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path, damage: Callable[[ClientStore], None], wrong: int
) -> None:
    judged, _ = moved(taken, tmp_path, damage)
    assert judged.findings.counted.total() == wrong
    assert any(check.verdict is Verdict.FAIL for check in judged.all())
    if damage is spoil:
        assert [(r["id"], r["difference"]) for r in judged.findings.differences.to_dict("records")] == [
            ("n3", "vector_differs")
        ]


@pytest.mark.servers
def test_a_server_gets_the_new_vectors_of_a_directory(taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path) -> None:
    known = {"copper and copper": ["n5", "n2", "n8"]}
    retrieval = {"queries": known, "k": 5, "neighbours": 0.01}
    with ChromaServer(tmp_path / "server") as server:
        rules = {"queries": QUERIES, "retrieval": retrieval}
        judged, aside = moved(taken, tmp_path, target={"url": server.url}, validation=rules)
        with client_of(server.url) as client:  # as an application opens it
            notes = client.get_collection("notes")
            found = notes.get(include=["embeddings", "documents"])
            stored = notes.configuration_json["embedding_function"]
            old = client.get_collection("papers").get(limit=1, include=["embeddings"])["embeddings"]
    assert {c.name: c.detail for c in judged.all() if c.verdict is Verdict.FAIL} == {}
    checks = {check.name: check for check in judged.all()}
    assert (checks[KNOWN].verdict, checks[AGREEMENT].verdict) == (Verdict.PASS, Verdict.PASS)
    assert len(found["ids"]) == NUMBER - 1 == NUMBER - len(aside.entries())
    vectors = np.asarray(found["embeddings"])
    assert vectors.shape == (NUMBER - 1, IS)
    assert np.allclose(unit(vectors), unit(new_vectors([*(found["documents"] or [])])), atol=1e-6)
    assert (stored["name"], stored["config"]) == (FUNCTION, {"dimension": IS})
    assert np.asarray(old).shape == (1, WAS)


def attempt(snapshot: Snapshot, folder: Path, kill: Callable[[], None]) -> int:
    """One attempt in a process of its own; its signal, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child starts none of its own
        child = os.fork()
    if child == 0:
        try:
            kill()
            reembed(snapshot, ordered(folder), folder / "made")
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return status & 0x7F


def test_what_a_killed_attempt_has_made_is_not_made_again(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path
) -> None:
    snapshot, log = taken[0], tmp_path / "texts.log"
    made = RehearsalEmbedding.vectors

    def dying_in_call(number: int) -> Callable[[], None]:
        def prepare() -> None:
            calls = [0]

            def vectors(self: RehearsalEmbedding, some: list[str]) -> Any:
                calls[0] += 1
                if calls[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                with log.open("a") as file:
                    file.writelines(f"{text}\n" for text in some)
                return made(self, some)

            pytest.MonkeyPatch().setattr(RehearsalEmbedding, "vectors", vectors)  # of the child alone

        return prepare

    def dying_before_the_part_is_written() -> None:
        dying_in_call(99)()
        dead = "helpers.migration.reembedding.write_parquet"
        pytest.MonkeyPatch().setattr(dead, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

    for die in (dying_in_call(1), dying_in_call(2), dying_in_call(3), dying_before_the_part_is_written):
        assert attempt(snapshot, tmp_path, die) == signal.SIGKILL
        assert as_written(snapshot, tmp_path / "made") is snapshot, "half of it is nothing"
    assert attempt(snapshot, tmp_path, dying_in_call(99)) == 0
    once = log.read_text().splitlines()
    was = all_of(snapshot, "notes")
    assert sorted(once) == sorted(text for text in was.documents if text), "each text was embedded once"
    now = all_of(as_written(snapshot, tmp_path / "made"), "notes")
    assert [chunk for chunk, lost in zip(now.ids, now.lost, strict=True) if lost] == ["n7"]
    assert now.embeddings[~now.lost].tobytes() == new_vectors([d for d in now.documents if d]).tobytes()
    made_json = completed_record(tmp_path / "made", snapshot)
    assert made_json is not None
    assert (made_json["anew"]["notes"]["made"], made_json["embedded"], made_json["kept"]) == (NUMBER - 1, 0, NUMBER - 1)


def test_another_run_takes_vectors_from_the_cache_unless_somebody_changed_them(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path
) -> None:
    snapshot = taken[0]

    def told(name: str) -> tuple[int, int]:
        reembed(snapshot, ordered(tmp_path), tmp_path / name)
        made = completed_record(tmp_path / name, snapshot)
        assert made is not None
        now = all_of(as_written(snapshot, tmp_path / name), "notes")
        assert now.embeddings[~now.lost].tobytes() == new_vectors([d for d in now.documents if d]).tobytes()
        return made["embedded"], made["kept"]

    assert told("one") == (NUMBER - 1, 0)
    assert told("two") == (0, NUMBER - 1)
    [file] = (tmp_path / "cache").iterdir()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert b"river" not in file.read_bytes(), "texts are not kept"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("update vectors set vector = zeroblob(32) where rowid in (1, 2)")
    assert told("three") == (2, NUMBER - 3)
    file.write_bytes(b"x" * 5000)
    with pytest.raises(Terminal, match="cache of new vectors cannot be used: file is not a database") as caught:
        reembed(snapshot, ordered(tmp_path), tmp_path / "four")
    assert str(file) in str(caught.value)
    assert "remove this file" in str(caught.value)


@pytest.mark.parametrize("what", ["journal", "trigger", "link", "file of others", "folder of others"])
def test_a_cache_that_others_may_have_planted_is_refused(
    taken: tuple[Snapshot, dict[str, Any]], tmp_path: Path, what: str
) -> None:
    reembed(taken[0], ordered(tmp_path), tmp_path / "one")
    [file] = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    (victim := tmp_path / "victim").write_text("precious")
    if what == "journal":
        super_journal(file, victim)
    elif what == "trigger":
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("create trigger t after insert on vectors begin delete from vectors; end")
    elif what == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        (file if what == "file of others" else file.parent).chmod(0o777)
    before = file.read_bytes()
    with pytest.raises(Terminal, match="the cache of new vectors cannot be used: ") as caught:
        reembed(taken[0], ordered(tmp_path), tmp_path / "two")
    said = {"journal": "names another file", "trigger": "more than its table", "link": "is a link"}
    assert said.get(what, "others may write it (chmod go-w)") in str(caught.value)
    assert (victim.read_text(), file.read_bytes()) == ("precious", before)


REFUSED: dict[str, tuple[dict[str, Any], type[RunbookError], str]] = {
    "a dimension that the function does not give": (order(dimension=9), Terminal, "makes 8 dimensions, 9 are due"),
    "an unknown function": (order(function="no_such"), UsageError, "names no embedding function that is known here"),
    "one that cannot be built": (order(config={"dimension": "x"}), Terminal, "cannot be built here"),
    "a pattern that fits nothing": (order(collections=["no*", "nothing"]), UsageError, "'nothing' fits no collection"),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_an_order_that_cannot_be_is_one_line_in_step_12(tmp_path: Path, kind: str) -> None:
    wanted, error, said = REFUSED[kind]
    found = ordered(tmp_path, wanted).migration.embedding
    assert found is not None
    with pytest.raises(error, match=said) as caught:
        refuse_order(found, ["notes", "plain"])
    assert "\n" not in str(caught.value)
    if "function" in kind and "dimension" not in kind:  # known before the source is opened
        with pytest.raises(error, match=said):
            preflight(ordered(tmp_path, wanted))


@pytest.mark.parametrize(("wanted", "said"), [
    (order(function="own"), "'own', which a source names"),
    ({"function": FUNCTION}, "names no collections"),
    (order(config={"api_key": "sk-1"}), "secrets go by environment"),
    (order(bath=3), "did you mean 'migration.reembed.batch'"),
    (order(batch=0), "'migration.reembed.batch' must be at least 1"),
])  # fmt: skip
def test_an_order_that_says_too_little_or_too_much_is_refused(
    tmp_path: Path, wanted: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        ordered(tmp_path, wanted)
    assert "sk-1" not in str(caught.value)


def test_what_changes_no_vector_may_change_in_a_resume(tmp_path: Path) -> None:
    def context(**more: Any) -> dict[str, Any]:
        return ordered(tmp_path, order(**more)).context()

    assert context() == context(batch=9, cache="elsewhere", parallel=8, requests_per_minute=60)
    assert context() == context(cost_per_million_tokens=0.02, maximum_cost=5)
    assert context() != context(config={"dimension": 9})
    assert context() != context(collections=["papers"])
    again = parameters_from(ordered(tmp_path).document())
    assert again == ordered(tmp_path)


def test_a_vector_of_the_new_model_is_never_replayed_into_the_source(taken: tuple[Snapshot, dict[str, Any]]) -> None:
    snapshot = taken[0]
    staged = all_of(snapshot, "notes").take([0, 1])
    staged.embeddings = new_vectors(staged.documents)
    changed = staged.take([0, 1])
    changed.metadatas = [{"n": 1}, {"n": 2}]
    changed.embeddings = np.stack([staged.embeddings[0], staged.embeddings[1] + 1])
    added = replace(changed.take([0]), ids=["fresh"])
    origins = [("notes", chunk) for chunk in staged.ids]
    one = Written("notes", "cosine", staged, changed, origins, added, [], [])
    planned = plan(
        [one], snapshot, set(), schema=load_schema("identity"), prefixed=False, anew=lambda name: name == "notes"
    )
    assert planned.put["notes"].ids == staged.ids[:1]
    assert planned.put["notes"].embeddings.tobytes() == all_of(snapshot, "notes").embeddings[:1].tobytes()
    assert [(row["id"], "of the model" in row["why"]) for row in planned.open] == [
        (staged.ids[1], True),
        ("fresh", True),
    ]


def test_the_shipped_example_is_an_order() -> None:
    found = load_parameters(ROOT / "parameters" / "reembedding.yaml")
    order = found.migration.embedding
    assert order is not None
    assert (order.selects("docs-a"), order.selects("notes"), order.selects("others")) == (True, True, False)
    assert found.target.embedding_functions[0].matches(order.function, order.config)


def at_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose snapshot (step 21) is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    fill_source(tmp_path / "source")
    folder = runs.create(ordered(tmp_path), "night")
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    return folder


@pytest.mark.slow
def test_a_round_of_catch_up_makes_new_vectors_for_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = at_night(tmp_path, monkeypatch)
    with embedded(tmp_path / "source") as store:
        fresh = chunks(3, WAS, seed=5, prefix="fresh")
        fresh.documents = texts(3, "fresh")
        store.add("notes", fresh)
        store.delete("notes", ["n1"])
        changed = store.read("notes", ["n2", "n7"])
        changed.documents = ["the lamp was changed", "a document at last"]
        store.delete("notes", changed.ids)
        store.add("notes", changed)
    record = migrate(folder)
    assert verdict(record) == (Verdict.PASS, "")
    assert len(record.result.facts["catch_up"]["rounds"]) == 1
    told = record.result.facts["reembedded"]
    assert (told["anew"]["notes"]["made"], told["embedded"], told["kept"]) == (22, 5, 17), "only five texts are new"
    [check] = [c for c in record.result.checks if c.name == REEMBEDDED_CHECK]
    assert (check.verdict, check.measured, check.reason) == (Verdict.WARNING, 22, "reembedded")
    assert "notes: 22 of 22 chunks, 32 to 8 dimensions. 5 texts embedded in " in check.detail
    suite = ValidateStep(RunRecord(folder.read(), "23"))
    suite.read_target()
    assert suite.findings.differing == 0, suite.differences()
    assert suite.expectation.quarantined == {}, "n7 has a document now"
    with embedded(tmp_path / "target") as store:
        found = store.read("notes", sorted(store.ids("notes")))
        assert store.count("papers") == store.count("plain") == NUMBER
    assert len(found) == NUMBER + 3 - 1
    wanted = new_vectors(found.documents)
    assert np.allclose(unit(found.embeddings), unit(wanted), atol=1e-6)


def unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


KILLS = (
    Crash("migration.reembedding:reembed", BEFORE, 1), Crash("migration.reembedding:_part", BEFORE, 2),
    Crash("migration.reembedding:_part", AFTER, 5), Crash("migration.reembedding:_part", AFTER, 9),
    Crash("migration.checkpoint:Checkpoint._changed", AFTER, 6),
)  # fmt: skip
BY_COMMAND = """\
name: trial
source: {path: source}
target: {path: target}
schema: identity
migration:
  minimum_valid: 0.5
  reembed: {collections: ["*"], function: runbook_rehearsal, config: {dimension: 384}, dimension: 384, batch: 16}
snapshot: {directory: kept}
rollback: {monitor_minutes: 0}
validation:
  queries:
    - {text: API authentication, collection: openwebui_core, expect: API}
    - {text: error handling, collection: openwebui_docs, expect: error}
    - {text: database schema, collection: openwebui_functions, expect: schema}
"""


@pytest.mark.slow
def test_the_rehearsals_source_is_embedded_anew_through_five_kills_and_rolled_back(tmp_path: Path) -> None:
    write_sample(tmp_path / "source", 300)
    (tmp_path / "trial.yaml").write_text(BY_COMMAND)
    environment = {"RUNBOOK_REPORTS": str(tmp_path / "reports"), "RUNBOOK_WORKSPACE": str(tmp_path / "workspace")}
    arguments: tuple[str, ...] = ("run", "trial.yaml", "--run-id", "one", "--until", "24")
    for number, crash in enumerate((*KILLS, None)):
        child = Child(Order(tmp_path, arguments, environment=environment, crash=crash))
        code = child.wait(600)
        assert code == (-signal.SIGKILL if crash else 4), (number, child.said)
        arguments = ("resume", "one", "--until", "24")

    def result(step: str) -> dict[str, Any]:
        return dict(json.loads((tmp_path / f"reports/one/results/{step}.json").read_text(encoding="utf-8")))

    told = result("22")["facts"]["reembedded"]
    assert told["embedded"] == 0, "the dry run has made them"
    checks = {check["name"]: check for step in ("12", "13", "22", "23") for check in result(step)["checks"]}
    assert checks["embedding function of new vectors"]["measured"] == 384
    assert checks[REEMBEDDED_CHECK]["measured"] == sum(row["made"] for row in told["anew"].values())
    assert checks["named queries"]["verdict"] == "pass", checks["named queries"]
    assert checks["embeddings"]["verdict"] == "pass"
    aside = Quarantine(tmp_path / "workspace/one/quarantine").reasons()
    model, seen = RehearsalEmbedding(384), 0
    with embedded(tmp_path / "source") as source, embedded(tmp_path / "target") as target:
        for name in source.names():
            was = source.read(name, sorted(source.ids(name)))
            now = target.read(name, sorted(target.ids(name)))
            assert now.ids == [chunk for chunk in was.ids if (name, chunk) not in aside]
            documents = dict(zip(was.ids, was.documents, strict=True))
            wanted = model.vectors([str(documents[chunk]) for chunk in now.ids])
            assert np.allclose(unit(now.embeddings), unit(wanted), atol=1e-6)
            seen += len(now)
    assert seen > 250
    assert set(aside.values()) <= {"missing_embedding"}

    child = Child(Order(tmp_path, ("rollback", "one", "--why", "trial"), environment=environment))
    assert child.wait(600) in (0, 3), child.said
    with embedded(tmp_path / "target") as target:
        assert target.names() == []
