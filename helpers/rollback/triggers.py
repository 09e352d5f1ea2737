"""When a rollback is due: the triggers of the runbook, read from what the steps found. Pure: it looks, and starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helpers.results import Check, StepResult, Verdict
from helpers.run import plan
from helpers.run.folders import RunFolder

LEAST_VALID = 0.95
MOST_MISSING, MOST_MISSING_SHARE = 100, 0.05  # the runbook's figure and A27's: whichever is smaller
MOST_DIVERGENCE = 0.20
_SCHEMA_REASONS = ("field_missing", "missing_metadata")
_MISSING = ("chunk_missing", "collection_missing", "count_mismatch")


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to roll back: `code`, the step that shows it, and a sentence with the figures."""

    code: str
    step: str
    sentence: str


def triggers(results: Mapping[str, StepResult]) -> list[Trigger]:
    """The triggers in these results (by step number), in the order of the steps. A pause for disk is none."""
    found: list[Trigger] = []
    for step in ("22", "23"):
        result = results.get(step)
        if result is None:
            continue
        found += _time(result)
        found += _valid(result)
        found += _missing(result)
        found += _vectors(result)
        found += _search(result)
        found += _schema(result)
    return found


def due(folder: RunFolder) -> list[Trigger]:
    """The rollback triggers in what this run's steps found."""
    results = {step.number: folder.result(step.number) for step in plan.LINE}
    return triggers({number: result for number, result in results.items() if result is not None})


def _failed(result: StepResult) -> list[Check]:
    return [c for c in result.checks if c.verdict is Verdict.FAIL]


def _time(result: StepResult) -> list[Trigger]:
    if result.error is None or result.error["code"] != "time_limit":
        return []
    return [Trigger("time_limit", result.step, "the migration took longer than migration.max_minutes")]


def _valid(result: StepResult) -> list[Trigger]:
    share = result.facts.get("validation_pass_rate")
    if not isinstance(share, int | float) or share >= LEAST_VALID:
        return []
    return [Trigger("validation_below_95", result.step, f"{100 * share:.2f} % of the chunks are valid, below 95 %")]


def _missing(result: StepResult) -> list[Trigger]:
    """More than 100 chunks, or more than 5 % of them, whichever is smaller."""
    total, missing = _counts(result)
    limit = min(MOST_MISSING, MOST_MISSING_SHARE * total) if total else MOST_MISSING
    if missing <= limit:
        return []
    said = f"{missing:,} chunks are missing in the target, more than {limit:g}"
    return [Trigger("chunks_missing", result.step, said)]


def _counts(result: StepResult) -> tuple[int, int]:
    """(chunks in the source, chunks in neither target nor quarantine)."""
    rows = result.facts.get("arrivals") or result.facts.get("counts") or []
    total = sum(int(row["source"]) for row in rows)
    if result.facts.get("arrivals"):
        return total, sum(int(row["missing"]) for row in rows)
    if rows:
        return total, sum(max(0, int(r["source"]) - int(r["quarantined"]) - int(r["target"])) for r in rows)
    return 0, max((c.offenders for c in _failed(result) if c.reason in _MISSING), default=0)


def _vectors(result: StepResult) -> list[Trigger]:
    found = []
    for check in _failed(result):
        if check.reason == "nan_embedding":
            found.append(Trigger("nan_in_target", result.step, check.detail or "the target holds NaN"))
        elif any("dimensions instead of" in str(row.get("detail", "")) for row in check.ids):
            found.append(Trigger("wrong_dimension", result.step, f"{check.name}: {check.ids[0].get('detail', '')}"))
    return found


def _search(result: StepResult) -> list[Trigger]:
    """Exact overlap: ANN noise is out of it (over-query), so what is left is divergence."""
    found = []
    for row in result.facts.get("search") or []:
        k = row.get("k")
        overlap = row.get(f"overlap_exact@{k}")
        if str(row.get("verdict")) == "fail" and isinstance(overlap, int | float) and 1 - overlap > MOST_DIVERGENCE:
            said = f"searches in {row['collection']} differ by {100 * (1 - overlap):.0f} %, more than 20 %"
            found.append(Trigger("search_divergence", result.step, said))
    return found


def _schema(result: StepResult) -> list[Trigger]:
    return [
        Trigger("schema_fields_missing", result.step, f"{check.name}: {check.detail or check.measured}")
        for check in _failed(result)
        if check.reason in _SCHEMA_REASONS
    ]
