"""Step 24: the decision matrix, the verdict, and the approvals that a GO needs. (Runbook, Step 5.)

Any failed test of step 23 means NO-GO, whatever the matrix says: fidelity has no degrees. The matrix weighs explained
differences. A GO with marginal criteria is valid only if all who sign accept them explicitly (`sign(accept=…)`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from helpers.errors import RUNBOOK, UsageError
from helpers.fence import FenceState, takes_no_writes
from helpers.formatting import completeness, count
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import UNREMARKABLE, Check, StepResult, Verdict, file_digest, worst
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.validation import COMPLETENESS, REQUIRED

Figures = tuple[Any, str, Any, str]  # measured, = ≤ ≥, what passes, unit
COLUMNS = ["criterion", "measured", "pass", "marginal", "fail", "verdict"]


def decision_matrix(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The five rows of the runbook's matrix from `matrix_inputs` of step 23; boundary values get the better rating."""
    chunks, checked = int(inputs["chunks"]), int(inputs["checked"])
    valid = share(int(inputs["valid"]), chunks)
    rate = (int(valid * 1e6) / 1e4, "≥", 99, "%")
    rows = [
        _row("validation pass rate", valid, ">= 99 %", "95-99 %", "< 95 %", at_least(valid, 0.99, 0.95), rate, chunks)
    ]
    complete = inputs["complete"]
    if complete is None:
        rows.append(_none("metadata completeness", "the schema asks for no field"))
    else:
        value = share(int(complete), checked)
        verdict = Verdict.PASS if int(complete) == checked else at_least(value, 1.0, 0.99)
        whole = (int(complete), "=", checked, "chunks")
        shown = completeness(inputs)
        rows.append(_row("metadata completeness", value, "100 %", ">= 99 %", "< 99 %", verdict, whole, checked, shown))
    rows.append(_nan(int(inputs["nan"]), chunks))
    rows.append(_queries(inputs))
    rows.append(_collections(int(inputs["collections_matching"]), int(inputs["collections"])))
    return rows


def share(part: int, whole: int) -> float:
    """part / whole; 1.0 where `whole` is 0."""
    return part / whole if whole else 1.0


def at_least(value: float, good: float, fair: float) -> Verdict:
    """PASS from `good` on, MARGINAL from `fair` on, FAIL below."""
    return Verdict.PASS if value >= good else Verdict.MARGINAL if value >= fair else Verdict.FAIL


def _nan(nan: int, chunks: int) -> dict[str, Any]:
    value = nan / chunks if chunks else 0.0
    verdict = Verdict.PASS if nan == 0 else Verdict.MARGINAL if value <= 0.001 else Verdict.FAIL
    figures = (nan, "=", 0, "chunks")
    shown = f"{nan:,} of {chunks:,}"
    return _row("NaN embeddings in the source", value, "0", "<= 0.1 %", "> 0.1 %", verdict, figures, chunks, shown)


def _queries(inputs: Mapping[str, Any]) -> dict[str, Any]:
    good, number = inputs["queries_ok"], int(inputs["queries"])
    if good is None or not number:
        reason = str(inputs.get("queries_why") or "no query could be asked")
        return _none("named queries", reason, Verdict.NOT_EXERCISED)
    # The runbook allows four of five; of fewer than five none may fail.
    verdict = Verdict.PASS if good == number else Verdict.MARGINAL if good * 5 >= number * 4 else Verdict.FAIL
    least = -(-number * 4 // 5)
    middle = "-" if least == number else f"{least} of {number}"
    return _row(
        "named queries",
        good / number,
        f"{number} of {number}",
        middle,
        f"< {least}",
        verdict,
        (good, "=", number, "queries"),
        number,
        f"{good} of {number}",
    )


def _collections(matching: int, number: int) -> dict[str, Any]:
    one_off = matching == number - 1 and number > 1
    verdict = Verdict.PASS if matching == number else Verdict.MARGINAL if one_off else Verdict.FAIL
    shown = f"{matching} of {number}"
    figures = (matching, "=", number, "collections")
    value = share(matching, number)
    return _row("collection counts", value, "all", "all but one", "fewer", verdict, figures, number, shown)


def _row(
    criterion: str,
    value: float,
    good: str,
    fair: str,
    bad: str,
    verdict: Verdict,
    figures: Figures,
    of: int,
    shown: str = "",
) -> dict[str, Any]:
    values = (criterion, shown or f"{_percent(value)} of {of:,}", good, fair, bad, verdict)
    return {**dict(zip(COLUMNS, values, strict=True)), "value": value, "figures": figures}


def _percent(value: float) -> str:
    """Format a share, truncated and never rounded up: 98.9999 % is not 99 %."""
    return f"{int(value * 1e6) / 1e4:.4f}".rstrip("0").rstrip(".") + " %"


def _none(criterion: str, reason: str, verdict: Verdict = Verdict.NOT_APPLICABLE) -> dict[str, Any]:
    values = (criterion, reason, "-", "-", "-", verdict)
    figures: Figures = (None, "=", None, "") if verdict is Verdict.NOT_APPLICABLE else (0, "≥", 1, "asked")
    return {**dict(zip(COLUMNS, values, strict=True)), "value": None, "figures": figures}


def decide(tests: Mapping[str, Check], matrix: list[dict[str, Any]]) -> tuple[str, list[str], list[str]]:
    """("GO" or "NO-GO", the reasons against, the criteria to accept). A test that was not recorded counts as failed."""
    against = [f"{name} was not tested" for name in REQUIRED if name not in tests]
    against += [f"{c.name}: {c.detail or c.measured} ({c.reason})" for c in tests.values() if c.verdict is Verdict.FAIL]
    against += [f"{row['criterion']}: {row['measured']}" for row in matrix if row["verdict"] is Verdict.FAIL]
    marginal = [row["criterion"] for row in matrix if row["verdict"] is Verdict.MARGINAL]
    marginal += [c.name for c in tests.values() if c.verdict is Verdict.MARGINAL]
    return ("NO-GO" if against else "GO"), against, marginal


class ReviewStep(NotebookStep):
    """The notebook's view: `tests`, `matrix`, `warnings`, `decision`, `approvals`. Raises UsageError before step 23."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        validated = run.earlier(Step.VALIDATE)
        if validated is None or "matrix_inputs" not in validated.facts:
            raise UsageError(
                ReasonCode.STEP_MISSING,
                f"step 24 needs step 23 (Validate), which run {run.id} has not finished",
                next_step=f"Run it first: {RUNBOOK} run --run-id {run.id} --from 23.",
            )
        self.validated: StepResult = validated
        self._matrix = decision_matrix(validated.facts["matrix_inputs"])

    @property
    def _tests(self) -> dict[str, Check]:
        return {check.name: check for check in self.validated.checks}

    def tests(self) -> pd.DataFrame:
        """The tests of step 23: verdict, measured, expected, reason, detail."""
        rows = [(c.name, c.verdict, c.measured_text, c.expected, c.reason, c.detail) for c in self.validated.checks]
        columns = ["test", "verdict", "measured", "expected", "reason", "detail"]
        return pd.DataFrame(rows, columns=columns).set_index("test")

    def matrix(self) -> pd.DataFrame:
        """The decision matrix: measured against pass, marginal and fail."""
        self.run.fact("matrix", self._matrix)
        for row in self._matrix:
            verdict = row["verdict"]
            reason: Reason = (
                ""
                if verdict in (*UNREMARKABLE, Verdict.NOT_EXERCISED)
                else ReasonCode(f"matrix_{row['criterion'].replace(' ', '_')}")
            )
            measured, relation, threshold, unit = row["figures"]
            # the number alone does not tell how much of the completeness comes from defaults
            unclear = isinstance(measured, float) or row["criterion"] == COMPLETENESS
            detail = row["measured"] if unclear or measured is None or verdict is Verdict.NOT_EXERCISED else ""
            self._put(Check(row["criterion"], verdict, measured, threshold, unit, reason, detail, relation=relation))
        return pd.DataFrame(self._matrix, columns=COLUMNS).set_index("criterion")

    def warnings(self) -> pd.DataFrame:
        """What those who sign should know, but what does not change the decision: all warnings, and the state of the fence."""
        rows = [
            {"step": result.step, "warning": c.name, "detail": c.detail or str(c.measured), "reason": c.reason}
            for result in self._earlier() for c in result.checks
            if c.verdict is Verdict.WARNING or (c.verdict is Verdict.MARGINAL and result.step != Step.VALIDATE)
        ]  # fmt: skip
        rules = self.run.parameters
        if rules.fence.late:
            total = int(self.validated.facts["matrix_inputs"]["chunks"])
            most = rules.migration.delta_limit.of(total)
            self.run.fact("delta_limit", {"changes": most, "chunks": total})
            self._put(Check(
                "writes until the cutover", Verdict.NOT_EXERCISED, "go on", most, "changes at most", relation="≤",
                parameter="migration.delta_limit",
                detail="the target was validated as the source was then; step 25 stops writes and brings over up to "
                f"{count(most, 'change')}, each compared; more, and nobody is moved",
            ))  # fmt: skip
        missing = "" if rules.fence.late else self._fence_missing()
        if missing:
            self._put(Check("write fence", Verdict.WARNING, "none", "up", reason=ReasonCode.NO_FENCE, detail=missing))
        if missing and not any(row["reason"] == ReasonCode.NO_FENCE for row in rows):
            rows.append(
                {"step": Step.REVIEW, "warning": "write fence", "detail": missing, "reason": ReasonCode.NO_FENCE}
            )
        self.run.fact("warnings", rows)
        return pd.DataFrame(rows, columns=["step", "warning", "detail", "reason"])

    def not_exercised(self) -> pd.DataFrame:
        """The checks that this run did not exercise, or only in part: nothing is known about them."""
        rows = [
            (result.step, c.name, c.measured_text, c.expected, c.detail)
            for result in self._earlier() for c in result.checks if c.verdict is Verdict.NOT_EXERCISED
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["step", "check", "measured", "expected", "detail"])

    def _earlier(self) -> list[StepResult]:
        """The results of the steps before this one."""
        numbers = sorted(path.stem for path in (self.run.folder / RunPath.RESULTS).glob("*.json"))
        return [result for n in numbers if n < self.run.step and (result := self.run.earlier(n)) is not None]

    def _fence_missing(self) -> str:
        """Why clients can write to the source now, by step 20 or the state of its fence; "" where the fence is up."""
        fence = self.run.earlier(Step.FENCE_WRITES)
        if fence is None:
            return "step 20 was not run: nothing kept clients from writing to the source after the snapshot"
        if takes_no_writes(fence):
            return ""
        detail = next((c.detail for c in fence.checks if c.reason == ReasonCode.NO_FENCE), "")
        state = FenceState.load(self.run.workspace)
        return detail or ("" if state is not None and state.active else "the fence was lifted before the decision")

    def decision(self) -> str:
        """GO or NO-GO, with the reasons; recorded with the digest of every result that it is based on."""
        self.matrix()
        decision, against, marginal = decide(self._tests, self._matrix)
        results = sorted((self.run.folder / RunPath.RESULTS).glob("*.json"))
        digests = {path.name: file_digest(path) for path in results if path.stem < self.run.step}
        self.run.fact("decision", decision)
        self.run.fact("against", against)
        self.run.fact("accept", marginal)
        self.run.fact("digest", digests)
        verdict = Verdict.FAIL if against else Verdict.MARGINAL if marginal else Verdict.PASS
        detail = "; ".join(against) or (f"to be accepted explicitly: {', '.join(marginal)}" if marginal else "")
        reason: Reason = ReasonCode.NO_GO if against else ReasonCode.MARGINAL if marginal else ""
        measured = f"{decision}, borderline" if marginal and not against else decision
        self._put(Check("decision", verdict, measured, "GO", reason=reason, detail=detail))
        self.run.result.verdict = worst(c.verdict for c in self.run.result.checks)
        return decision if not detail else f"{decision}: {detail}"

    def approvals(self) -> pd.DataFrame:
        """One row for each role that has to sign, with the command."""
        rows = [
            {
                "role": role,
                "sign with": f"{RUNBOOK} sign {self.run.id} --role {role} --name NAME --decision go --key FILE",
            }
            for role in self.run.parameters.signoff.required
        ]
        return pd.DataFrame(rows, columns=["role", "sign with"])

    def _put(self, check: Check) -> None:
        self.run.result.checks[:] = [c for c in self.run.result.checks if c.name != check.name] + [check]
