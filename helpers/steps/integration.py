"""Step 52: the application's own queries and tests against the live target, by pytest. (Runbook, Section 5.)

pytest runs in its own process, with a time limit. The generated cases only read; the operator's own tests may do more.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import defaultdict
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.errors import RunbookError, UsageError, one_line, redacted
from helpers.formatting import count
from helpers.migration.source_changes import WrittenData
from helpers.monitoring import integration_cases, measure
from helpers.monitoring.integration_cases import Case, read_cases, standard_cases
from helpers.monitoring.measure import run_child
from helpers.parameters import resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, contents, json_in, write_json, write_text
from helpers.run.command import used_by, withheld_variables
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord

_OWN_TEST = re.compile(r"^integration_cases\.py::test_case\[(\d+)\]$")
_CANDIDATES = 20  # chunks of a collection, to search for one: clients may have deleted some since the cutover
_WORDS = {"passed": "pass", "failed": "fail", "skipped": "not applicable"}
_AS_VALIDATED = "as validated"  # a named query that failed in step 23, too


class IntegrationStep(NotebookStep):
    """The notebook's view: the queries, the tests, and the outcome of each."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.rules = run, run.parameters.monitoring
        self.folder = run.workspace / "integration"
        self.rows: list[dict[str, Any]] = []

    @cached_property
    def from_file(self) -> list[Case]:
        return read_cases(self.rules.queries) if self.rules.queries else []

    @cached_property
    def cases(self) -> list[Case]:
        names = WrittenData(self.run).collections
        stored = defaultdict[str, list[str]](list)
        for probe in measure.choose_probes(self.run, measure.TARGET, _CANDIDATES):
            stored[probe.collection].append(probe.id)
        return [*self.from_file, *standard_cases(self.run.parameters, names, stored)]

    @cached_property
    def _without_answer(self) -> set[str]:
        """The named queries without a useful answer in step 23: the decision weighed them, so none fails here."""
        validated = self.run.home.result(Step.VALIDATE)
        asked = validated.facts.get("queries", []) if validated is not None else []
        return {f"named query: {q['text']}" for q in asked if q["applicable"] and not q["ok"]}

    @cached_property
    def tests(self) -> list[Path]:
        paths = [resolve_path(path).absolute() for path in self.rules.tests]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise UsageError(ReasonCode.TESTS_MISSING, "no such file or folder of tests", where=str(missing[0]),
                             next_step="Correct it: --set monitoring.tests=[PATH]")  # fmt: skip
        return paths

    def plan(self) -> pd.DataFrame:
        """One row for each query, and for each of the operator's own tests."""
        rows = [
            (c.name, c.collection, c.text or (f"like {c.like}" if c.like else f"a vector of {len(c.embedding or [])} numbers"),
             _expectation(c), "the application's" if c in self.from_file else "every migration's") for c in self.cases
        ]  # fmt: skip
        rows += [(path.name, "", "pytest", "", "the operator's own") for path in self.tests]
        return pd.DataFrame(rows, columns=["name", "collection", "asks", "expects", "whose"])

    def test(self) -> pd.DataFrame:
        """Run the queries and tests; one row for each test."""
        target = self.run.parameters.target
        if used := used_by(target):
            detail = f"{used} has the target open, which must stay its only user"
            self.run.check(
                "integration tests",
                Verdict.NOT_EXERCISED,
                measured="not run",
                threshold="run",
                reason=ReasonCode.NOT_QUERIED,
                detail=detail,
            )
            return self._table()
        for reference in self.run.parameters.secrets():
            with suppress(RunbookError):
                reference.resolve()  # from now on the values are redacted, whatever a test prints
        with self.run.phase("pytest"):
            code = self._pytest()
        self._judge(code)
        return self._table()

    def _pytest(self) -> int | None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        target = self.run.parameters.target
        write_json(self.folder / "cases.json", [c.model_dump(mode="json", exclude_none=True) for c in self.cases])
        write_text(self.folder / "pytest.ini", "[pytest]\n")
        arguments = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", integration_cases.__name__,
            "--import-mode=importlib", "--rootdir", str(self.folder), "-c", str(self.folder / "pytest.ini"),
            str(Path(integration_cases.__file__)), *map(str, self.tests),
        ]  # fmt: skip
        environment = {
            **withheld_variables(), integration_cases.RUN: self.run.id,
            integration_cases.OUTCOMES: str(self.folder / "outcomes.jsonl"),
            integration_cases.CASES: str(self.folder / "cases.json"), "PYTEST_ADDOPTS": "",
            "RUNBOOK_TARGET_URL": target.url or "", "RUNBOOK_TARGET_PATH": str(resolve_path(target.path)) if target.path else "",
            "RUNBOOK_TARGET_TENANT": target.tenant, "RUNBOOK_TARGET_DATABASE": target.database,
        }  # fmt: skip
        return run_child(self.run, arguments, self.folder / "output.txt", label="Integration tests", about=10.0,
                         most=60 * self.rules.test_minutes, environment=environment)  # fmt: skip

    def _judge(self, code: int | None) -> None:
        run, lines = self.run, self._outcomes()
        self.rows = [self._row(line) for line in lines if "test" in line]
        finished = any("finished" in line for line in lines)
        failed = [r for r in self.rows if r["outcome"] == "fail"]
        passed = sum(r["outcome"] == "pass" for r in self.rows)
        weighed = [r for r in self.rows if r["outcome"] == _AS_VALIDATED]
        skipped = len(self.rows) - passed - len(failed) - len(weighed)
        run.fact("integration", {"tests": len(self.rows), "passed": passed, "failed": len(failed), "skipped": skipped,
                                 "rows": self.rows[:500]})  # fmt: skip
        if code is None or not finished or (code not in (0, 1) and not failed):
            output = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
            run.home.log_block(f"pytest ended with {code}", redacted(output)[-4000:], run.step)
            reason = (
                f"took longer than {self.rules.test_minutes:g} min (monitoring.test_minutes)"
                if code is None
                else f"ended with {code}"
            )
            run.check(
                "integration tests",
                Verdict.FAIL,
                measured="not known",
                threshold=max(1, len(self.rows)),
                unit="tests passed",
                reason=ReasonCode.TESTS_BROKEN,
                detail=f"pytest {reason}; see run.log",
            )
            return
        good = passed > 0 and not failed
        run.check(
            "integration tests", Verdict.PASS if good else Verdict.FAIL, measured=passed, threshold=max(1, passed + len(failed)),
            unit="tests passed", reason="" if good else ReasonCode.INTEGRATION_FAILED, offenders=len(failed),
            detail="; ".join(f"{r['test']}: {r['why']}" for r in failed[:3]) or (f"{skipped} not applicable" if skipped else ""),
            ids=[{"collection": r["collection"], "id": r["test"], "detail": r["why"]} for r in failed],
        )  # fmt: skip
        if weighed:
            run.check(
                "named queries without an answer, as at the validation", Verdict.WARNING, measured=len(weighed), threshold=0,
                unit="queries", reason=ReasonCode.QUERY_WITHOUT_ANSWER, parameter="validation.queries",
                detail="; ".join(f"{r['collection']}: {r['test']}: {r['why']}" for r in weighed[:3]),
            )  # fmt: skip
        own = len(self.from_file) + len(self.tests)
        none = "monitoring.queries and monitoring.tests name none: only what every migration must answer was asked"
        run.check(
            "the application's own queries",
            Verdict.PASS if own else Verdict.NOT_EXERCISED,
            measured=own,
            threshold=1,
            relation="≥",
            unit="named",
            reason="" if own else ReasonCode.NO_APPLICATION_QUERIES,
            detail="" if own else none,
        )

    def _outcomes(self) -> list[dict[str, Any]]:
        path = self.folder / "outcomes.jsonl"
        if not path.exists():
            return []
        outcomes = []
        for line in contents(path, 2**31).decode("utf-8", "replace").splitlines():
            with suppress(ValueError):  # the last line may be cut where pytest was killed
                outcomes.append(json_in(line))
        return outcomes

    def _row(self, line: dict[str, Any]) -> dict[str, Any]:
        """One row of the table, with the case's own name instead of pytest's."""
        test, collection, outcome = str(line["test"]), "", _WORDS[line["outcome"]]
        if number := _OWN_TEST.search(test):
            case = self.cases[int(number[1]) - 1]
            test, collection = case.name, case.collection
            if outcome == "fail" and test in self._without_answer and case not in self.from_file:
                outcome = _AS_VALIDATED
        else:
            test = test.rpartition("/")[2]
        return {"test": one_line(test, 200), "collection": collection, "outcome": outcome,
                "seconds": line["seconds"], "why": one_line(str(line["why"]), 400)}  # fmt: skip

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["test", "collection", "outcome", "seconds", "why"])

    def summary(self) -> str:
        """One sentence with the counts; after a failure also the command of a rollback."""
        failed = [r for r in self.rows if r["outcome"] == "fail"]
        passed = sum(r["outcome"] == "pass" for r in self.rows)
        weighed = sum(r["outcome"] == _AS_VALIDATED for r in self.rows)
        counts = f"{count(passed, 'test')} passed, {len(failed)} failed, "
        counts += f"{weighed} without an answer as in step {Step.VALIDATE}, " if weighed else ""
        counts += f"{len(self.rows) - passed - len(failed) - weighed} not applicable."
        command = self.run.home.command("rollback", "--dry-run")
        return counts + (f" Clients still use the target; to roll back: {command}" if failed else "")


def _expectation(case: Case) -> str:
    parts = (
        [f"{case.expect.at_least} hits at least"]
        if case.expect.at_least > 1 or not (case.expect.id or case.expect.word)
        else []
    )
    parts += [f"chunk {case.expect.id}"] if case.expect.id else []
    parts += [f"the word {case.expect.word!r}"] if case.expect.word else []
    return ", ".join(parts)
