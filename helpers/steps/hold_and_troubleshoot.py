"""Step 26: the run is held. What failed, where, and the three options. (Runbook, Section 2, Step 6b, and Appendix C.)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import pandas as pd

from helpers import audit
from helpers.cutover.application import CutoverState
from helpers.errors import one_line
from helpers.formatting import duration
from helpers.notify import level, levels
from helpers.reason_codes import ReasonCode
from helpers.results import Check, StepResult, Verdict
from helpers.run import plan
from helpers.run.advice import triggers
from helpers.run.folders import NOTEBOOKS
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord

# Reason code → (notebook of Section 4, heading in the runbook). The notebook is named where it exists.
REMEDIES: dict[str, tuple[str, str]] = {
    ReasonCode.KERNEL_DIED: (Step.OUT_OF_MEMORY, "Out of Memory Error"),
    ReasonCode.OUT_OF_MEMORY: (Step.OUT_OF_MEMORY, "Out of Memory Error"),
    ReasonCode.TIMEOUT: (Step.NETWORK, "Network Connectivity Problems"),
    ReasonCode.UNREACHABLE: (Step.NETWORK, "Network Connectivity Problems"),
    ReasonCode.TOO_MANY_REFUSED: (Step.STUCK_BATCH, "Migration Stuck on Batch X"),
    ReasonCode.TIME_LIMIT: (Step.STUCK_BATCH, "Migration Stuck on Batch X"),
    ReasonCode.PAUSED_FOR_DISK: (Step.STUCK_BATCH, "Migration Stuck on Batch X"),
    ReasonCode.INVALID_FIELD: (Step.INVALID_SCORES, 'Validation Fails - "invalid_authenticity_score"'),
    ReasonCode.METADATA_DIFFERS: (Step.INVALID_SCORES, 'Validation Fails - "invalid_authenticity_score"'),
    ReasonCode.TYPE_DIFFERS: (Step.INVALID_SCORES, 'Validation Fails - "invalid_authenticity_score"'),
    ReasonCode.VALIDATION_BELOW_MINIMUM: (Step.INVALID_SCORES, 'Validation Fails - "invalid_authenticity_score"'),
    ReasonCode.INVALID_CITATION_URI: (Step.INVALID_SCORES, 'Validation Fails - "invalid_authenticity_score"'),
    ReasonCode.SEARCH_NOT_EQUIVALENT: (Step.SEARCH_NOT_WORKING, "Semantic Search Not Working Post-Migration"),
    ReasonCode.QUERY_WITHOUT_ANSWER: (Step.SEARCH_NOT_WORKING, "Semantic Search Not Working Post-Migration"),
    ReasonCode.VECTOR_DIFFERS: (Step.SEARCH_NOT_WORKING, "Semantic Search Not Working Post-Migration"),
    ReasonCode.SPACE_DIFFERS: (Step.SEARCH_NOT_WORKING, "Semantic Search Not Working Post-Migration"),
    ReasonCode.MISSING_METADATA: (Step.MISSING_METADATA, "Troubleshooting Decision Tree"),
    ReasonCode.FIELD_MISSING: (Step.MISSING_METADATA, "Troubleshooting Decision Tree"),
    ReasonCode.FIELD_EXTRA: (Step.MISSING_METADATA, "Troubleshooting Decision Tree"),
    ReasonCode.NAN_EMBEDDING: (Step.NAN_EMBEDDINGS, "Troubleshooting Decision Tree"),
    ReasonCode.COUNT_MISMATCH: (Step.COUNT_MISMATCH, "Troubleshooting Decision Tree"),
    ReasonCode.CHUNK_MISSING: (Step.COUNT_MISMATCH, "Troubleshooting Decision Tree"),
    ReasonCode.CHUNK_EXTRA: (Step.COUNT_MISMATCH, "Troubleshooting Decision Tree"),
    ReasonCode.CHUNK_DOUBLED: (Step.COUNT_MISMATCH, "Troubleshooting Decision Tree"),
    ReasonCode.COLLECTION_MISSING: (Step.COUNT_MISMATCH, "Troubleshooting Decision Tree"),
}
_UNMIGRATED = (Step.INDEX, Step.HOLD_AND_TROUBLESHOOT, Step.ROLLBACK, Step.CHECKPOINT_RECOVERY)


def remedy(reason: str) -> str:
    """Where the remedy of a reason code is: its notebook, else the section of the runbook."""
    number, heading = REMEDIES.get(reason, (Step.TROUBLESHOOTING, "Section 4: Troubleshooting Guide"))
    notebooks = sorted(NOTEBOOKS.glob(f"{number}_*.ipynb"))
    if notebooks:
        return f"notebooks/{notebooks[0].name}"
    return heading if heading.startswith("Section") else f'runbook, "{heading}"'


class HoldAndTroubleshootStep(NotebookStep):
    """The notebook's view of the other steps' results. It changes nothing but the audit log."""

    def __init__(self, run: RunRecord, now: datetime | None = None) -> None:
        self.run = run
        self.now = now or datetime.now(UTC)
        results = {step.number: run.home.result(step.number) for step in plan.Step if step.number not in _UNMIGRATED}
        self.results = {number: result for number, result in results.items() if result is not None}

    def failed(self) -> pd.DataFrame:
        """One row for each check that failed or was marginal, and one for each step that stopped without such a check."""
        rows = []
        for result, check in self._failed_checks():
            rows.append([result.step, check.name, str(check.verdict), check.measured, check.threshold, check.reason,
                         check.offenders, remedy(check.reason)])  # fmt: skip
        for result in self._stopped():
            assert result.error is not None
            code = result.error["code"]
            rows.append([result.step, one_line(result.error["line"], 200), "stopped", "", "", code, 0, remedy(code)])
        verdict = Verdict.WARNING if rows else Verdict.PASS
        self.run.check("checks that failed or were marginal", verdict, measured=len(rows), threshold=0,
                       reason=ReasonCode.HELD if rows else "", detail="; ".join(f"{r[0]} {r[1]}" for r in rows[:5]))  # fmt: skip
        columns = ["step", "check", "verdict", "measured", "threshold", "reason", "chunks", "remedy"]
        return pd.DataFrame(rows, columns=columns)

    def by_collection(self) -> pd.DataFrame:
        """Count the named offenders by step, collection and reason, with an example id."""
        counted: Counter[tuple[str, str, str]] = Counter()
        example: dict[tuple[str, str, str], str] = {}
        for result, check in self._failed_checks():
            for row in check.ids:
                where = str(row.get("source_collection") or row.get("collection") or row.get("target") or "")
                key = (result.step, where, str(row.get("difference") or check.reason))
                counted[key] += 1
                example.setdefault(key, one_line(str(row.get("id", "")), 80))
        rows = [[*key, n, example[key]] for key, n in sorted(counted.items())]
        return pd.DataFrame(rows, columns=["step", "collection", "reason", "named", "such as"])

    def sides(self) -> pd.DataFrame:
        """Chunks in source and target by source collection, from step 23, else from 22."""
        for step in (Step.VALIDATE, Step.MIGRATE):
            result = self.results.get(step)
            rows = (result.facts.get("counts") or result.facts.get("arrivals") or []) if result else []
            if rows:
                out = [[r["collection"], r["source"], r["target"], r["quarantined"],
                        r["source"] - r["target"] - r["quarantined"] - (r.get("left_out") or 0), step] for r in rows]  # fmt: skip
                return pd.DataFrame(
                    out, columns=["collection", "source", "target", "quarantined", "missing", "seen by step"]
                )
        return pd.DataFrame(columns=["collection", "source", "target", "quarantined", "missing", "seen by step"])

    def triggers(self) -> pd.DataFrame:
        """The runbook's rollback triggers that these results meet."""
        hits = triggers(self.results)
        self.run.fact("triggers", [t.code for t in hits])
        return pd.DataFrame([[t.code, t.step, t.sentence] for t in hits], columns=["trigger", "step", "why"])

    def options(self) -> pd.DataFrame:
        """Options A, B and C, each with its command. After a cutover clients use the target, so the migration is not repeated."""
        step = next((r.step for r, _ in self._failed_checks()), next((r.step for r in self._stopped()), ""))
        later = bool(step) and plan.find(step).follows_cutover  # such a step only reads: no retry
        retry = ["--retry", step] if step and not later else []
        repair, command, rollback = "fix the cause and try again", self.run.home.command("resume", *retry), "roll back"
        cutover = CutoverState.load(self.run.workspace)
        if cutover is not None and cutover.may_be_applied:
            if not later:
                repair = "repair the target with the notebook of the reason, while clients keep using it; then validate it again"
                command = self.run.home.command("run", "--from", Step.VALIDATE, "--until", Step.REVIEW)
            rollback = (
                "roll back: what clients wrote to the target is exported first, and clients go back to the source"
            )
            self.run.check(
                "application of a held run",
                Verdict.WARNING,
                measured=cutover.state,
                threshold="at the source",
                reason=ReasonCode.CUT_OVER_AND_HELD,
                detail=f"{cutover.sentence()} They get answers from what failed above.",
            )
        undo = self.run.home.command("rollback")
        rows = [
            ["A", repair, command],
            ["B", rollback, f"{undo} --dry-run, then without --dry-run"],
            ["C", "escalate", self._call()],
        ]
        return pd.DataFrame(rows, columns=["way", "what", "how"])

    def escalate(self) -> pd.DataFrame:
        """Record the escalation level of now, and whom to call; return all levels."""
        number, title, _ = self._level()
        minutes = self.minutes
        audit.append(
            self.run.folder / audit.NAME, "escalation level", level=number, minutes=round(minutes, 1), call=self._call()
        )
        self.run.fact("escalation", {"level": number, "minutes": round(minutes, 1), "call": self._call()})
        self.run.check("escalation", Verdict.PASS, measured="recorded", threshold="recorded",
                       detail=f"level {number}: {title}; {duration(60 * minutes)} since it failed")  # fmt: skip
        return levels(self.run.parameters.contacts, number)

    @property
    def minutes(self) -> float:
        """Minutes since the first step that failed ended; 0 where nothing failed."""
        ended = [r.finished for r in self.results.values() if r.finished and (r.error or r.verdict is Verdict.FAIL)]
        if not ended:
            return 0.0
        return max(0.0, (self.now - datetime.fromisoformat(min(ended))).total_seconds() / 60)

    def _level(self) -> tuple[int, str, str]:
        return level(self.minutes, critical=bool(triggers(self.results)))

    def _call(self) -> str:
        number, title, key = self._level()
        who = getattr(self.run.parameters.contacts, key) or f"(contacts.{key} is not named)"
        return f"level {number}: {title}: {who}"

    def _failed_checks(self) -> Iterator[tuple[StepResult, Check]]:
        """The failed and marginal checks. Those of step 24 come last: it repeats the findings of others."""
        for result in sorted(self.results.values(), key=lambda r: (r.step == Step.REVIEW, r.step)):
            for check in result.checks:
                if check.verdict in (Verdict.FAIL, Verdict.MARGINAL):
                    yield result, check

    def _stopped(self) -> Iterator[StepResult]:
        for _, result in sorted(self.results.items()):
            if result.error is not None and not any(c.verdict is Verdict.FAIL for c in result.checks):
                yield result
