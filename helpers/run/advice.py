"""Advice for people: from the reason codes of a run to remedies, commands, notebooks and rollback triggers."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from helpers.errors import RUNBOOK
from helpers.reason_codes import LATE, ReasonCode
from helpers.results import Check, StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunState
from helpers.run.plan import Step
from helpers.run.record import RunRecord

LEAST_VALID = 0.95
MOST_MISSING, MOST_MISSING_SHARE = 100, 0.05  # the runbook's figure and A27's: whichever is smaller
MOST_DIVERGENCE = 0.20
CONDITIONS = (  # what `triggers` looks for
    "a migration longer than migration.max_minutes",
    f"fewer than {100 * LEAST_VALID:.0f} % of the chunks valid",
    f"more than {MOST_MISSING} chunks missing in the target, or more than {100 * MOST_MISSING_SHARE:.0f} % where that is fewer",
    "a vector with NaN, or of another dimension, in the target",
    f"answers to searches of a source collection, among its own chunks, of which more than {100 * MOST_DIVERGENCE:.0f} % differ",
    "a field that the schema requires missing in the target",
)
_SCHEMA_REASONS = ("field_missing", "missing_metadata")
_MISSING = ("chunk_missing", "collection_missing", "count_mismatch")
TREE = Step.TROUBLESHOOTING  # the notebook that reads a run and names the notebook to open first


class HasId(Protocol):
    """Anything that has the id of a run: a run, a run's folder."""

    @property
    def id(self) -> str: ...


def notebook_for(code: str) -> plan.Step | None:
    """The step whose notebook resolves this trouble; None if the code has none."""
    known = ReasonCode.known(code)
    return plan.find(known.step) if known is not None and known.step else None


def advice(code: str, run: HasId | str) -> str:
    """One line with the remedy for this code and run; "" if the code needs none.

    `interrupted` → `Next: go on with: .venv/bin/runbook resume night-1`;
    `count_mismatch` → `Troubleshoot: papermill notebooks/48_count_mismatch.ipynb OUT.ipynb -p run_id night-1`.
    """
    return next(iter(advice_lines([code], run, 1)), "")


def advice_lines(codes: Iterable[str], run: HasId | str, most: int) -> list[str]:
    """The remedies for many codes, without duplicates, at most `most`: sentences first, then notebooks as in `steps_for`."""
    listed = list(codes)
    remedies = {code: remedy(code, run) for code in listed}
    sentences = [f"Next: {sentence}" for sentence in remedies.values() if sentence]
    steps = [openable(step, run) for step in steps_for(listed)]
    notebooks = [f"Troubleshoot: {command(step, run)}" for step in steps]
    return list(dict.fromkeys([*sentences, *notebooks]))[:most]


def openable(step: plan.Step, run: HasId | str) -> plan.Step:
    """This step; step 40 if the run has not finished the steps that this one needs."""
    if not isinstance(run, runs.RunState):
        run = runs.RunFolder.of(run if isinstance(run, str) else run.id).read()
    ready = not run.exists or all(run.result(number) is not None for number in step.needs)
    return step if ready else plan.find(TREE)


def remedy(code: str, run: HasId | str) -> str:
    """The remedy in a sentence with this run's commands; "" if a notebook is the remedy, or none is needed."""
    known = ReasonCode.known(code)
    if known is None or not known.remedy:
        return ""
    folder = runs.RunFolder.of(run if isinstance(run, str) else run.id)
    names = ("resume", "status", "fence", "verify", "rollback")
    commands = {name: folder.command(name) for name in names}
    return known.remedy.format(**commands, recovery=command(Step.CHECKPOINT_RECOVERY, folder), runbook=RUNBOOK)


def command(step: plan.Step, run: HasId | str, output: str = "OUT.ipynb") -> str:
    """The papermill command that runs a step's notebook on this run, with the environment for its folders."""
    run_id = run if isinstance(run, str) else run.id
    is_elsewhere = runs.reports_root() != runs.REPOSITORY / "reports"
    environment = f"RUNBOOK_REPORTS={shlex.quote(str(runs.reports_root()))} " if is_elsewhere else ""
    if os.environ.get("RUNBOOK_WORKSPACE") and runs.workspace_root() != runs.REPOSITORY / "workspace":
        environment += f"RUNBOOK_WORKSPACE={shlex.quote(str(runs.workspace_root()))} "
    return f"{environment}papermill notebooks/{step.notebook} {output} -p run_id {shlex.quote(run_id)}"


def steps_for(codes: Iterable[str]) -> list[plan.Step]:
    """The steps for many codes, without duplicates, the one with most codes first; step 40 only if there is no other.

    Codes whose remedy is a sentence have no step.
    """
    counts: dict[str, int] = {}
    for code in codes:
        known = ReasonCode.known(code)
        if (step := notebook_for(code)) is not None and not (known and known.remedy):
            counts[step.number] = counts.get(step.number, 0) + 1
    numbers = sorted((s for s in counts if s != TREE), key=lambda s: (-counts[s], s))
    return [plan.find(s) for s in numbers or counts]


# The impact of warnings on the migration, for signers; a code without a sentence here uses its `trouble`.
_IMPACTS: tuple[tuple[str, tuple[ReasonCode, ...]], ...] = (
    ("A client can write to the source after the snapshot; what step 25 does not see any more is missing in the target.",
     (ReasonCode.NO_FENCE, ReasonCode.FENCE_BYPASS, ReasonCode.SOURCE_USE_UNKNOWN)),
    ("A missing field gets what the document tells, else a default; searches by a default treat these chunks alike.",
     (ReasonCode.MISSING_METADATA,)),
    ("Nothing proves that the application uses the target; it may still read the source.", (ReasonCode.APPLICATION_UNSEEN,)),
    ("Every client that keeps ids of chunks must know the new ones.",
     (ReasonCode.ID_COLLISION, ReasonCode.IDS_REWRITTEN)),
    ("Searches that filter by these fields do not fit the text of these chunks.", (ReasonCode.METADATA_CONTRADICTS,)),
    ("These chunks are not in the target: no search finds them.",
     (ReasonCode.QUARANTINED, ReasonCode.VECTORS_LOST, ReasonCode.MISSING_EMBEDDING, ReasonCode.NAN_EMBEDDING,
      ReasonCode.MISSING_DOCUMENT)),
    ("These vectors are compared and found differently than the others.",
     (ReasonCode.ZERO_VECTOR, ReasonCode.TINY_NORM, ReasonCode.MIXED_SPACES)),
    ("These vectors are not the source's: they were made anew from documents, and searches find them otherwise than before.",
     (ReasonCode.REEMBEDDED,)),
    ("A search of the source does not find these vectors by themselves; the vectors are there, and are migrated.",
     (ReasonCode.VECTORS_NOT_FOUND,)),
    ("Something in the source is not as its engine leaves it; what was found says what.", (ReasonCode.SOURCE_FINDINGS,)),
    ("A part of the searches is answered differently than before.", (ReasonCode.SEARCH_UNSURE, ReasonCode.FILTERS_CHANGE)),
    ("Searches return these documents or vectors more than once; of merged collections, for the first time in one answer.",
     (ReasonCode.DUPLICATES,)),
    ("Searches of the application may be slow.", (ReasonCode.SLOW_QUERIES,)),
    ("People may not know of the window, or of a rollback.",
     (ReasonCode.NOBODY_NAMED, ReasonCode.NOBODY_TOLD, ReasonCode.NOTICE_FAILED, ReasonCode.LATE_NOTICE)),
    ("Old clients can still write to a database that nobody reads.", (ReasonCode.FENCE_KEPT,)),
    ("A migration like this one needs a longer window than its dry run says.", (ReasonCode.LONGER_THAN_ESTIMATED,)),
    ("The migration may not fit its window.", (ReasonCode.TOO_SLOW, ReasonCode.NIGHT_TOO_LONG)),
    ("These values are not what the schema wants: each is converted, moved to the nearer bound, or replaced.",
     (ReasonCode.INVALID_SCORES, ReasonCode.INVALID_VALUES)),
)  # fmt: skip
_IMPACT = {code: sentence for sentence, codes in _IMPACTS for code in codes}


def impact(code: str) -> str:
    """The impact of this code on the migration, in a sentence; "" if it has none."""
    known = ReasonCode.known(code)
    if known is None:
        return ""
    return _IMPACT.get(known) or (f"{known.trouble[:1].upper()}{known.trouble[1:]}." if known.trouble else "")


def page_remedy(code: str, run_id: str, reached: str = "", detail: str = "") -> str:
    """As `remedy`, for a page that may be read on another machine: commands without folders, or the notebook to open.

    `reached`: the last step of the sequence that this run has reached; it decides whether a step can still be repeated, and
    what that would undo. `detail`: the check's detail; the parameter keys in it are put into the command.
    """
    known = ReasonCode.known(code)
    if known is None or not known.remedy:
        step = notebook_for(code)
        return f"Notebook {step.number}." if step is not None else ""
    sentence, retry = known.remedy, _RETRY.search(known.remedy)
    if retry and retry[1] <= Step.CUTOVER:
        if reached >= Step.CUTOVER or retry[1] < Step.FENCE_WRITES <= reached:
            sentence = LATE[sentence]
        elif reached >= Step.MIGRATE:
            sentence = f"{_UNDOES[retry[1] > Step.MIGRATE].format(step=retry[1], reached=reached)} {sentence}"
    keys = " ".join(f"--set {key}=TEXT" for key in dict.fromkeys(_KEY.findall(detail)))
    commands = {name: f"{RUNBOOK} {name} {run_id}" for name in ("resume", "status", "fence", "verify", "rollback")}
    sentence = sentence.format(**commands, recovery="notebook 30", runbook=RUNBOOK)
    return sentence.replace("--set KEY=TEXT", keys) if keys else sentence


# Codes that clients must know before they use the target, and others about people, are for the operations lead; the rest is
# for the DBA (runbook: Decision Authority, Appendix C).
BEFORE_USE = (
    ReasonCode.ID_COLLISION,
    ReasonCode.IDS_REWRITTEN,
    ReasonCode.FILTERS_CHANGE,
    ReasonCode.METADATA_CONTRADICTS,
)
_PEOPLE = (
    *BEFORE_USE, ReasonCode.NOBODY_NAMED, ReasonCode.NOBODY_TOLD, ReasonCode.NOTICE_FAILED, ReasonCode.LATE_NOTICE,
    ReasonCode.TOO_SLOW, ReasonCode.NIGHT_TOO_LONG, ReasonCode.LONGER_THAN_ESTIMATED, ReasonCode.OUTSIDE_WINDOW,
    ReasonCode.APPLICATION_UNSEEN,
)  # fmt: skip


def role_of(code: str) -> str:
    """The role that acts on the remedy of this code."""
    return "operations lead" if code in _PEOPLE else "database administrator"


def needs_action(remedy: str) -> bool:
    """Whether a remedy of `page_remedy` needs an action in this run; others are for information, or concern the source."""
    return bool(remedy) and not remedy.startswith(_NO_ACT)


_RETRY = re.compile(r"--retry (\d\d)")
_KEY = re.compile(r"\b(?:contacts|notify|window)(?:\.[a-z_]+|\[\d+\])+")
_NO_ACT = ("Nothing is due", "They are migrated as they are", "The source says so", "Notebook ")
_UNDOES = (
    "Takes back steps {step} to {reached}, and what step 22 wrote; signatures become void.",
    "Takes back steps {step} to {reached}; signatures become void.",
)


# -- rapid rollback ----------------------------------------------------------------------------------------------------

# For the run's page and notebook 00; `tests/test_rapid_rollback.py` reads them out of the executed notebook and runs them.

HISTORIES = (
    "Once the write fence is lifted there are two histories. What clients then write to the source stays there; what they wrote "
    "to the target is exported, and written to the source only with --replay. A chunk changed on both sides stops that until "
    "somebody decides; the source keeps its own. --restore-source then only makes collections anew that are gone."
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the rapid rollback: when it is due, its effect, the command."""

    when: str
    what: str
    command: str


def rapid_rollback(command: Callable[..., str]) -> list[Line]:
    """The commands of a rollback, in order of use. `command("rollback", "--dry-run")` gives a command for this run."""
    return [
        Line("1. First", "shows what would be done, and changes nothing", command("rollback", "--dry-run")),
        Line("2. Then",
             "stops the migration, proves the source, puts the configuration back, restarts, lifts the fence, removes from "
             "the target what this run wrote there, watches", command("rollback")),
        Line("if it is killed", "repeat it: it does the rest", command("rollback")),
        Line("if it stops: clients wrote to the target",
             "writes those changes to the source and compares them; in place of 2. where clients are known to have written",
             command("rollback", "--replay")),
        Line("", "or discards them; they stay exported, the reason is recorded",
             command("rollback", "--discard-with-reason", "REASON")),
        Line("if it stops: the source is damaged", "restores from the snapshot what differs",
             command("rollback", "--restore-source")),
        Line("", "or accepts it as it is; the reason is recorded", command("rollback", "--accept-source", "REASON")),
        Line("if only the fence is in the way", "allows writes to the source again, and does nothing else",
             command("fence", "--lift")),
        Line("3. Afterwards", "says that the run is rolled back", command("status")),
        Line("", "checks every file, seal and signature", command("verify")),
    ]  # fmt: skip


# -- rollback triggers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to roll back: `code`, the step that shows it, and a sentence with the figures."""

    code: str
    step: str
    sentence: str


def triggers(results: Mapping[str, StepResult]) -> list[Trigger]:
    """The triggers in these results (by step number), in the order of the steps. A pause for disk space is no trigger."""
    steps = [results[step] for step in (Step.MIGRATE, Step.VALIDATE) if step in results]
    return [
        Trigger(code, result.step, sentence)
        for result in steps
        for code, sentence in (*_overall_triggers(result), *_detailed_triggers(result))
    ]


def triggers_of(folder: RunState) -> list[Trigger]:
    """The rollback triggers in the results of this run's steps."""
    results = {step.number: folder.result(step.number) for step in plan.LINE}
    return triggers({number: result for number, result in results.items() if result is not None})


def _failed(result: StepResult) -> list[Check]:
    return [c for c in result.checks if c.verdict is Verdict.FAIL]


def _overall_triggers(result: StepResult) -> Iterator[tuple[str, str]]:
    """Time limit exceeded; too few chunks valid; more than 100 chunks or 5 % missing, whichever is smaller."""
    if result.error is not None and result.error["code"] == ReasonCode.TIME_LIMIT:
        yield ReasonCode.TIME_LIMIT, "the migration took longer than migration.max_minutes"
    share = result.facts.get("validation_pass_rate")
    if isinstance(share, int | float) and share < LEAST_VALID:
        yield "validation_below_95", f"{100 * share:.2f} % of the chunks are valid, below 95 %"
    total, missing = _counts(result)
    limit = min(MOST_MISSING, MOST_MISSING_SHARE * total) if total else MOST_MISSING
    if missing > limit:
        yield "chunks_missing", f"{missing:,} chunks are missing in the target, more than {limit:g}"


def _counts(result: StepResult) -> tuple[int, int]:
    """(chunks in the source, chunks in neither target nor quarantine)."""
    rows = result.facts.get("arrivals") or result.facts.get("counts") or []
    total = sum(int(row["source"]) for row in rows)
    if result.facts.get("arrivals"):
        return total, sum(int(row["missing"]) for row in rows)
    if rows:
        return total, sum(
            max(0, int(r["source"]) - int(r["quarantined"]) - int(r.get("left_out") or 0) - int(r["target"]))
            for r in rows
        )
    return 0, max((c.offenders for c in _failed(result) if c.reason in _MISSING), default=0)


def _detailed_triggers(result: StepResult) -> Iterator[tuple[str, str]]:
    """Bad vectors, diverging searches, missing fields. Exact overlap excludes ANN noise, so its deviation is divergence."""
    for check in _failed(result):
        if check.reason == ReasonCode.NAN_EMBEDDING:
            yield "nan_in_target", check.detail or "the target holds NaN"
        elif any("dimensions instead of" in str(row.get("detail", "")) for row in check.ids):
            yield ReasonCode.WRONG_DIMENSION, f"{check.name}: {check.ids[0].get('detail', '')}"
    for row in result.facts.get("search") or []:
        overlap = row.get(f"overlap_exact@{row.get('k')}")
        if str(row.get("verdict")) == "fail" and isinstance(overlap, int | float) and 1 - overlap > MOST_DIVERGENCE:
            sentence = f"searches in {row['collection']} differ by {100 * (1 - overlap):.0f} %, more than 20 %"
            yield "search_divergence", sentence
    for check in _failed(result):
        if check.reason in _SCHEMA_REASONS:
            yield "schema_fields_missing", f"{check.name}: {check.detail or check.measured}"


# -- symptoms ----------------------------------------------------------------------------------------------------------

SYMPTOMS = ["step", "check", "verdict", "measured", "reason", "detail"]


def symptoms(run: RunRecord) -> list[dict[str, Any]]:
    """Every failed, marginal or warned check of the steps of the standard sequence, and the error that each ended with."""
    results = [result for step in plan.LINE if (result := run.earlier(step.number)) is not None]
    return [row for result in results for row in symptoms_of(result)]


def symptoms_of(result: StepResult) -> list[dict[str, Any]]:
    bad = (Verdict.FAIL, Verdict.MARGINAL, Verdict.WARNING)
    checks = sorted((c for c in result.checks if c.verdict in bad), key=lambda c: -bad.index(c.verdict), reverse=True)
    rows: list[tuple[Any, ...]] = [
        (result.step, c.name, str(c.verdict), c.measured, c.reason, c.detail) for c in checks
    ]
    if result.error is not None:
        rows.insert(0, (result.step, "the step ended with", "error", "", result.error["code"], result.error["line"]))
    return [dict(zip(SYMPTOMS, row, strict=True)) for row in rows]
