"""Steps 50 to 53 on directories: what clients may do, what is a breach, and a closeout that can be repeated and undone."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import audit
from helpers.cutover.application import LogWatch
from helpers.errors import Interrupted
from helpers.formatting import duration
from helpers.monitoring import measure
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.report import record
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.record import RunRecord
from helpers.snapshots.retention import settled
from helpers.steps.integration import IntegrationStep
from helpers.steps.monitor import MonitorStep
from helpers.steps.performance import PerformanceStep
from tests.aftermaths import closeout, integration, monitor, night_after, passed
from tests.conftest import at_home
from tests.cutovers import details, verdicts
from tests.rollbacks import ENV, Night, everything
from tests.signers import vouch
from tests.storage import chunks, contents, embedded, tree
from tests.test_fence_command import commands

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut over, once for all tests: each gets a copy."""
    home = tmp_path_factory.mktemp("night")
    with at_home(home):
        night_after(home, contacts={"dba": "Ada 555"})
    return home


@pytest.fixture
def night(template: Path, tmp_path: Path) -> Night:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*.json"):
        if file.name == "manifest.json":  # its digest is over its folder, too
            continue
        file.write_text(file.read_text().replace(str(template), str(tmp_path)))
    found = Night.__new__(Night)
    found.home, found.source, found.target = tmp_path, {"path": "source"}, {"path": "target"}
    (run_json := tmp_path / "reports" / "night" / "run.json").write_text(
        json.dumps(
            {**json.loads((tmp_path / "reports" / "night" / "run.json").read_text()), "directory": str(tmp_path)}
        )
    )
    assert run_json.is_file()
    found.folder = runs.find("night")
    vouch(found.folder.reports)
    return found


@pytest.mark.more
def test_growth_and_changes_by_clients_are_fine(night: Night) -> None:
    source = tree(night.home / "source")
    with embedded(night.home / "target") as store:
        store.add("alpha", chunks(7, 4, seed=9, prefix="new"))
        changed = contents(store, "alpha").take([3])
        changed.embeddings[0] = [1, 2, 3, 4]
        store.delete("alpha", changed.ids)
        store.add("alpha", changed)
    result = monitor(night)
    assert set(verdicts(result).values()) == {Verdict.PASS, Verdict.NOT_EXERCISED}, details(result)
    growth = {row["collection"]: row["growth"] for row in result.facts["monitoring"]["counts"]}
    assert growth == {"alpha": 7, "beta": 0}
    assert result.facts["said"] == "Nothing is due: go on with 51."
    assert result.facts["monitoring"]["looks"] >= 3
    assert tree(night.home / "source") == source


@pytest.mark.more
def test_a_collection_that_shrinks_ends_the_watch_and_says_the_way_back(night: Night) -> None:
    with embedded(night.home / "target") as store:
        store.delete("beta", ["b3", "b4"])
    night.folder.reports.joinpath("results", "50.json").unlink(missing_ok=True)
    result = monitor(night)
    found = {c.name: c for c in result.checks}
    assert found["collections below their validated count"].verdict is Verdict.FAIL
    assert found["answers of the target"].reason == "count_shrinks"
    assert "beta holds 23 chunks, 25 were validated: 2 fewer, monitoring.shrink_limit allows 1" in details(result)
    assert "runbook rollback night --dry-run" in result.facts["said"]
    assert "runbook resume night --set monitoring.shrink_limit=SHARE" in result.facts["said"]
    assert result.facts["monitoring"]["looks"] == 1, "it ends early"


@pytest.mark.more
def test_what_clients_may_delete_is_a_warning_that_names_the_counts(night: Night) -> None:
    with embedded(night.home / "target") as store:
        store.delete("beta", ["b3", "b4"])
    runs.change_parameters(night.folder, night.folder.read().parameters.for_resume(["monitoring.shrink_limit=0.1"]))
    result = monitor(night)
    found = {c.name: c for c in result.checks}["collections below their validated count"]
    assert (found.verdict, found.measured, found.reason) == (Verdict.WARNING, 1, "count_shrinks")
    assert found.detail == "beta holds 23 chunks, 25 were validated: 2 fewer, monitoring.shrink_limit allows 2"
    assert result.facts["said"] == "Nothing is due: go on with 51."


@pytest.mark.more
def test_lines_in_the_applications_log_that_mean_trouble_are_seen(night: Night) -> None:
    log = night.home / "app.log"
    log.write_text("an old error\n")
    document = night.folder.read().parameters.document()
    document["cutover"]["log_files"] = ["app.log"]
    runs.change_parameters(night.folder, parameters_from(document))
    health = verdicts(monitor(night))["health of the application"]
    assert health is Verdict.NOT_EXERCISED, "old lines are nobody's trouble now; it was watched for a moment only"

    original = LogWatch.new_matches

    def grows(self: LogWatch, *, last: bool = False) -> list[tuple[str, str]]:
        with log.open("a") as file:
            file.write("ERROR cannot reach the vectors\n")
        return original(self, last=last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogWatch, "new_matches", grows)
        result = monitor(night)
    found = {c.name: c for c in result.checks}
    assert (found["health of the application"].verdict, found["health of the application"].reason) == (
        Verdict.FAIL,
        "not_healthy",
    )
    assert "ERROR cannot reach the vectors" in found["health of the application"].detail
    assert found["answers of the target"].verdict is Verdict.PASS
    assert result.facts["monitoring"]["looks"] == 2


@pytest.mark.more
def test_an_interrupted_watch_goes_on_with_the_rest(night: Night) -> None:
    night.folder.stop_file.touch()
    with pytest.raises(Interrupted):
        monitor(night)
    night.folder.stop_file.unlink()
    journal = next(iter((night.folder.workspace / "monitoring").glob("*.jsonl")))
    first = len(journal.read_text().splitlines())
    assert verdicts(monitor(night))["answers of the target"] is Verdict.PASS
    assert len(journal.read_text().splitlines()) > first
    assert json.loads(journal.read_text().splitlines()[-1]) == {"ended": "done"}


def test_an_interrupted_watch_lets_the_directory_go(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert step.watcher._store is not None
        raise KeyboardInterrupt

    step = MonitorStep(RunRecord(night.folder.read(), "50"))
    monkeypatch.setattr("helpers.steps.monitor.breach", interrupt)
    with pytest.raises(KeyboardInterrupt):
        step.watch()
    assert step.watcher._store is None, "in JupyterLab the kernel lives on, and the application may start"


def test_a_dry_run_of_the_watch_looks_once(night: Night) -> None:
    assert verdicts(monitor(night, dry_run=True))["watch"] is Verdict.NOT_EXERCISED
    assert not (night.folder.workspace / "monitoring").exists()


def test_nothing_is_closed_where_a_step_before_has_not_passed(night: Night) -> None:
    passed(night, "50", "51")
    left = night.folder.workspace / "source-copy-dead"
    left.mkdir()
    result = closeout(night)
    assert verdicts(result)["steps before the closeout"] is Verdict.FAIL
    assert "52 Integration tests" in details(result)
    assert left.is_dir()
    assert not (night.folder.reports / record.SUCCESS).exists()
    assert "No success record" in result.facts["said"][-1]
    assert not settled(night.folder.read())


def test_a_dry_run_of_the_closeout_touches_nothing(night: Night) -> None:
    passed(night, "50", "51", "52")
    (night.folder.workspace / "source-copy-dead").mkdir()
    before = {k: tree(night.home / k) for k in ("workspace", "kept", "target")}
    result = closeout(night, dry_run=True)
    assert {k: tree(night.home / k) for k in before} == before
    assert (night.folder.workspace / "source-copy-dead").is_dir()
    assert "DRY RUN: nothing was written" in result.facts["said"][-1]
    assert not list(night.folder.reports.glob("CHROMADB_*"))


def test_a_closeout_writes_the_record_cleans_and_leaves_the_way_back_open(night: Night) -> None:
    passed(night, "50", "51", "52")
    for name in ("source-copy-dead", ".target.partial", "staged.tmp"):
        (night.folder.workspace / name).mkdir()
        (night.folder.workspace / name / "file").write_text("x" * 1000)
    (theirs := night.home / ".target.partial").mkdir()  # which no step makes
    with embedded(night.home / "target") as store:
        store.acquire_lock("night")
    dry = RunRecord(night.folder.read(), "13")
    dry.result.facts["imported"] = 84
    night.keep(dry)
    result = closeout(night)
    assert Verdict.FAIL not in verdicts(result).values(), details(result)
    assert not [
        p for p in night.folder.workspace.iterdir() if "dead" in p.name or "partial" in p.name or "tmp" in p.name
    ]
    assert sum(result.facts["removed"].values()) == 3000
    assert theirs.is_dir()
    assert "was released" in result.facts["said"][1]
    text = (night.folder.reports / record.SUCCESS).read_text()
    assert "- **Status:** ✓ SUCCESS" in text
    assert "Total chunks migrated: 85 of 85 chunks" in text
    assert "alpha: 60 chunks" in text
    summary = (night.folder.reports / record.SUMMARY).read_text()
    assert "Ada 555" in summary
    assert "| 22 Migrate | 45 to 60 min |" in summary
    assert "| Chunks migrated | 84 chunks | 85 of 85 chunks |" in summary
    assert {e["action"] for e in audit.entries(night.folder.reports / audit.NAME)} >= {
        "temporary files removed",
        "closeout",
    }
    assert settled(night.folder.read()), "its snapshots are needed no more once their retention has ended"

    # within the retention the rollback works, and takes the success with it
    source = everything(night.source)
    with embedded(night.home / "target") as store:
        store.add("alpha", chunks(2, 4, seed=9, prefix="late"))
    found = night.rollback(replay=True)
    assert found["replayed chunks"] is Verdict.PASS
    assert everything(night.target) == {}
    assert night.env == ENV.encode()
    assert set(everything(night.source)["alpha"][3]) == {*source["alpha"][3], "late0", "late1"}
    assert not (night.folder.reports / record.SUCCESS).exists()
    assert len(list(night.folder.reports.glob(f"earlier/*/{record.SUCCESS}"))) == 1


@pytest.mark.more
def test_the_fence_of_a_directory_is_lifted_with_the_true_reason_why_no_write_was_tried(tmp_path: Path) -> None:
    night = night_after(tmp_path, fenced=True, fence=commands(tmp_path))
    passed(night, "50", "51", "52")
    found = {c.name: c for c in closeout(night).checks}
    end = found["end of the write fence"]
    assert (end.verdict, end.measured) == (Verdict.NOT_EXERCISED, "lifted")
    assert "only the application could, and since the cutover it uses the target" in end.detail
    back = found["rollback after the closeout"]
    assert (back.verdict, back.detail) == (Verdict.NOT_EXERCISED, "this run tried none")

    # two histories: what clients wrote to the source since stays, what they wrote to the target comes back
    before = {*everything(night.source)["alpha"][3]}
    for place, prefix in (("source", "old"), ("target", "new")):
        with embedded(night.home / place) as store:
            store.add("alpha", chunks(1, 4, seed=9, prefix=prefix))
    assert night.rollback(replay=True)["source against the snapshot"] is Verdict.WARNING
    assert {*everything(night.source)["alpha"][3]} == before | {"old0", "new0"}
    page = (night.folder.reports / "rollback.html").read_text()
    assert "What clients wrote to it since stays there: alpha: 1 added" in page


def test_a_closeout_that_was_killed_is_repeated(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first temporary file went; the record of the second attempt lists both."""
    passed(night, "50", "51", "52")
    for name in ("a.tmp", "b.tmp"):
        (night.folder.workspace / name).write_text("x" * 10)
    from helpers.steps import closeout as closing

    class Killed(BaseException):
        pass

    original = closing.remove
    calls: list[Path] = []

    def mortal(path: Path) -> int:
        if calls:
            raise Killed
        calls.append(path)
        return original(path)

    monkeypatch.setattr(closing, "remove", mortal)
    with pytest.raises(Killed):
        closeout(night)
    monkeypatch.setattr(closing, "remove", original)
    result = closeout(night)
    assert sorted(Path(p).name for p in result.facts["removed"]) == ["a.tmp", "b.tmp"]
    assert (night.folder.reports / record.SUCCESS).is_file()


def test_lessons_are_taken_into_the_next_record_and_the_first_one_is_kept(night: Night) -> None:
    passed(night, "50", "51", "52")
    closeout(night)
    first = (night.folder.reports / record.SUCCESS).read_text()
    assert "lessons.md" in first
    lessons = night.folder.workspace / "lessons.md"
    lessons.write_text(lessons.read_text() + "- Tell the night shift | earlier <b>\n")
    runs.supersede(night.folder, plan.outdated_by(plan.find("53")))
    closeout(night)
    again = (night.folder.reports / record.SUCCESS).read_text()
    assert "- Tell the night shift \\| earlier \\<b\\>" in again
    [kept] = night.folder.reports.glob(f"earlier/*/{record.SUCCESS}")
    assert kept.read_text() == first


def test_what_comes_before_the_cutover_voids_what_came_after_it(night: Night) -> None:
    assert {s.number for s in plan.outdated_by(plan.find("23"))} >= {"24", "25", "50", "51", "52", "53"}
    assert [s.number for s in plan.outdated_by(plan.find("50"))] == ["50", "53"]


@pytest.mark.more
def test_the_applications_queries_and_tests_are_asked(night: Night) -> None:
    (night.home / "queries.json").write_text(json.dumps({"queries": [
        {"name": "the third", "collection": "alpha", "like": "a3", "expect": {"id": "a3"}},
        {"name": "by filter", "collection": "alpha", "like": "a3", "where": {"word": "w1"},
         "expect": {"word": "of a", "at_least": 5}},
        {"name": "never there", "collection": "beta", "embedding": [1, 2, 3], "expect": {"word": "unicorn"}},
    ]}))  # fmt: skip
    (night.home / "test_theirs.py").write_text(
        "def test_counts(target, target_collections):\n"
        "    assert [target.get_collection(n).count() for n in target_collections] == [60, 25]\n\n"
        "def test_broken():\n    assert 1 == 2, 'as it must'\n"
    )
    document = night.folder.read().parameters.document()
    document["monitoring"] |= {"queries": "queries.json", "tests": ["test_theirs.py"]}
    runs.change_parameters(night.folder, parameters_from(document))
    result = integration(night)
    rows = {row["test"]: row for row in result.facts["integration"]["rows"]}
    outcomes = {name: row["outcome"] for name, row in rows.items()}
    assert outcomes == {
        "the third": "pass", "by filter": "pass", "never there": "fail", "alpha finds a stored chunk": "pass",
        "beta finds a stored chunk": "pass", "test_theirs.py::test_counts": "pass", "test_theirs.py::test_broken": "fail",
    }  # fmt: skip
    assert "no document of 10 hits holds 'unicorn'" in rows["never there"]["why"]
    assert "as it must" in rows["test_theirs.py::test_broken"]["why"]
    check = result.checks[0]
    assert (check.verdict, check.reason, check.offenders) == (Verdict.FAIL, "integration_failed", 2)
    assert "runbook rollback night --dry-run" in result.facts["said"]


@pytest.mark.parametrize("known", [True, False])
def test_a_named_query_that_the_decision_weighed_does_not_fail_here(
    night: Night, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 23 judged it, and people signed: only another one that has no answer now is a failure."""
    document = night.folder.read().parameters.document()
    document["validation"] |= {"queries": [{"text": "rights", "collection": "alpha", "expect": "unicorn"}]}
    runs.change_parameters(night.folder, parameters_from(document))
    path = night.folder.reports / "results" / "23.json"
    held = json.loads(path.read_text())
    held["facts"]["queries"] = [{"text": "rights" if known else "other", "applicable": True, "ok": False, "why": "no"}]
    path.write_text(json.dumps(held))
    vouch(night.folder.reports)

    def asked(step: IntegrationStep) -> int:
        step.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {"test": f"integration_cases.py::test_case[{n:03d}]", "seconds": 0.1, "why": "no document holds 'unicorn'",
             "outcome": "failed" if case.text else "passed"} for n, case in enumerate(step.cases, 1)
        ]  # fmt: skip
        (step.folder / "outcomes.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"finished": 1}])))
        return 1

    monkeypatch.setattr(IntegrationStep, "_pytest", asked)
    step = IntegrationStep(RunRecord(night.folder.read(), "52"))
    outcomes = dict(zip(*(step.test()[column] for column in ("test", "outcome")), strict=True))
    assert outcomes["named query: rights"] == ("as validated" if known else "fail")
    checks = {check.name: check for check in step.run.result.checks}
    assert checks["integration tests"].verdict is (Verdict.PASS if known else Verdict.FAIL)
    weighed = checks.get("named queries without an answer, as at the validation")
    assert (weighed is not None and weighed.verdict is Verdict.WARNING and "alpha" in weighed.detail) is known
    assert ("1 without an answer as in step 23" in step.summary()) is known


@pytest.mark.more
def test_a_chunk_that_a_client_deleted_meanwhile_is_not_searched_for(night: Night) -> None:
    """As in a night of writers that go on: the first chunks of the draw are gone; then all of them."""
    drawn = [
        p.id
        for p in measure.choose_probes(RunRecord(night.folder.read(), "52"), measure.TARGET, 20)
        if p.collection == "beta"
    ]
    with embedded(night.home / "target") as store:
        store.delete("beta", drawn[:3])
    assert integration(night).checks[0].verdict is Verdict.PASS
    with embedded(night.home / "target") as store:
        store.delete("beta", drawn[3:])
    check = integration(night).checks[0]
    assert check.verdict is Verdict.FAIL
    assert (
        f"beta finds a stored chunk: Failed: collection beta has no chunk {drawn[0]}, and none of 19 others"
        in check.detail
    )


def test_the_step_that_fails_after_the_cutover_names_the_way_back(night: Night) -> None:
    from helpers.runner.notebook import Run, _verdict_error

    run = Run(night.folder.read(), "50")
    RunRecord.check(run, "answers of the target", Verdict.FAIL, reason=ReasonCode.TARGET_ERRORS, detail="it does not")
    error = _verdict_error(run)
    assert error.exit_code == 1
    assert "to roll back: .venv/bin/runbook rollback night --dry-run" in error.line()


def side(mean: float, protocol: str = "API v2") -> dict[str, Any]:
    """What the measurement of one side gives, with levels of 30 s."""
    levels = [
        {"clients": clients, "queries": 900, "seconds": 30.0, "errors": 0, "such_as": "", "rate": 1000 / mean, "mean_ms": mean,
         "p50_ms": mean, "p95_ms": 2 * mean, "p99_ms": 3 * mean, "quantiles_ms": [mean] * 101,
         "repetitions": [{"mean_ms": mean * by, "rate": 1000 / mean} for by in (0.9, 1.0, 1.1)]}
        for clients in (1, 4, 16)
    ]  # fmt: skip
    return {"label": "x", "protocol": protocol, "collections": 1, "chunks": 85, "asked": 20, "side": "x",
            "opened_ms": 9.0, "cold_ms": {"alpha": 30.0},
            "levels": levels}  # fmt: skip


@pytest.mark.parametrize(("after", "verdict"), [(1.4, Verdict.PASS), (2.2, Verdict.WARNING), (11.0, Verdict.WARNING)])
def test_a_target_is_slow_by_the_measure_of_its_source(night: Night, after: float, verdict: Verdict) -> None:
    run = RunRecord(night.folder.read(), "51")
    step = PerformanceStep(run)
    step.__dict__["sides"] = {"source": side(1.0), "target": side(after)}
    step.compare()
    found = {check.name: check for check in run.result.checks}
    assert found["query latency"].verdict is Verdict.PASS, "far below the absolute limit"
    assert found["latency relative to the source"].verdict is verdict
    assert found["latency relative to the source"].measured == after
    assert "4 clients: " in (told := found["latency relative to the source"].detail)
    assert told.startswith("mean of all queries, target divided by source. 1 client: ")
    assert found["seconds measured per level"].verdict is Verdict.NOT_EXERCISED  # the parameters' levels are 0.6 s
    assert "0.6 s of 30 s" in found["seconds measured per level"].detail


def test_a_ratio_is_that_of_the_means_beside_it_and_shows_the_spread_of_its_repetitions(night: Night) -> None:
    step = PerformanceStep(RunRecord(night.folder.read(), "51"))
    target = side(2.2)
    for level in target["levels"]:
        level["repetitions"][0]["mean_ms"] = 0.5
    step.__dict__["sides"] = {"source": side(1.0), "target": target}
    table = step.compare().set_index("what")["after: target"]
    assert table["warm, 4 clients: mean, times the source's"] == "2.20 × (repetitions 0.56 to 2.20)"
    told = next(c for c in step.run.result.checks if c.name == "latency relative to the source")
    assert told.measured == 2.2
    assert "4 clients: 2.20 × (repetitions 0.56 to 2.20)" in told.detail
    assert "repetitions lie on both sides of the limit" in told.detail


def test_the_measurement_says_before_how_long_it_takes_and_what_is_shortened(night: Night) -> None:
    step = PerformanceStep(RunRecord(night.folder.read(), "51"))
    planned = dict(step.plan().itertuples(index=False, name=None))
    assert "0.6 s of 30 s" in planned["warm"]
    assert planned["latency is"] == dict(MonitorStep(step.run).plan().itertuples(index=False, name=None))["latency is"]
    step.rules = step.rules.model_copy(update={"level_seconds": 30.0})
    planned = dict(step.plan().itertuples(index=False, name=None))
    assert planned["takes"].startswith(f"about {duration(195)};"), "15 s to begin; 30 s for each of 3 levels on 2 sides"
    assert "about 3 min 15 s" in night.folder.log_path.read_text(encoding="utf-8")


def test_latency_is_one_thing_in_25_50_and_51() -> None:
    asked: list[int] = []

    def ask(vector: Any, k: int) -> list[tuple[str, float]]:
        asked.append(k)
        time.sleep(0.02 if len(asked) == 1 else 0.0)  # the first query loads the index
        return [("a", 0.0)]

    class Store:
        def query(self, name: str, vectors: Any, k: int) -> list[Any]:
            return [ask(vectors[0], k)]

    found = [measure.QueryProbe("alpha", "a", np.ones(2, np.float32))] * 3
    asks = measure.warm(Store(), found)  # type: ignore[arg-type]
    times = [measure.timed(asks[p.collection], p.vector)[1] for p in found]
    assert asked == [measure.HITS] * 4, "once untimed, then each probe, all for as many neighbours"
    assert max(times) < 15, "opening and loading are no part of a latency"


@pytest.mark.parametrize(("took", "verdict"), [(44, Verdict.PASS), (58, Verdict.WARNING)])
def test_an_overrun_is_shown_with_its_ratio_and_warns_beyond_its_limit(
    night: Night, took: int, verdict: Verdict
) -> None:
    """30 s were estimated: 1.5 times that, or 15 s more, passes."""
    results = night.folder.reports / "results"
    dry = StepResult("13", "Dry run", "night", "2026-11-28T01:00:00+00:00", "2026-11-28T01:01:00+00:00")
    dry.facts["estimate"] = [{"part": "22 import", "seconds": 30.0, "basis": ""}]
    dry.facts["prediction"] = [{"what": "duration", "value": 30.0, "unit": "s", "basis": "measured"}]
    dry.write(results / "13.json")
    moved = StepResult.read(results / "22.json")
    moved.started, moved.finished = "2026-11-28T02:00:00+00:00", f"2026-11-28T02:00:{took}+00:00"
    moved.facts.pop("launched", None)
    moved.write(results / "22.json")
    passed(night, "50", "51", "52")
    check = next(c for c in closeout(night).checks if c.name == "time against the dry run's estimate")
    assert (check.verdict, check.measured, check.threshold) == (verdict, took, 45.0)
    assert (
        f"{took} s for an estimate of 30 s, {took / 30:.2g} times; up to 1.5 times the estimate, or 15 s more"
        in check.detail
    )
    assert ("Most over its estimate: step 22 (Migrate), by " in check.detail) is (verdict is Verdict.WARNING), (
        "the cause is named"
    )
    summary = (night.folder.reports / "CHROMADB_MIGRATION_SUMMARY.md").read_text(encoding="utf-8")
    assert f"| 30 s | {took} s, {took / 30:.2g} times |" in summary
    assert re.search(rf"\| duration \| 30 s \| {took} s \| [\d.]+ times \|", summary)
