"""Section 4 of the runbook: what the notebooks 41 to 48 share, from the symptom to the resolution and the same probe again.

What 44, 46, 47 and 48 share besides: the target compared with what was staged, and mended by id (`target`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RunbookError, Terminal, one_line
from helpers.formatting import flatten
from helpers.migration.checkpoint import FILE, Checkpoint
from helpers.migration.importing import plan_targets
from helpers.migration.reembedding import REEMBEDDED, as_written
from helpers.migration.source_changes import Ledger, current_snapshot
from helpers.migration.staging import Quarantine, Staged
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import python_environment
from helpers.run.folders import RunPath
from helpers.run.record import NotebookStep, RunRecord
from helpers.schema import Context, load_schema
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.stores.opening import quick_names
from helpers.troubleshooting import target as target_side
from helpers.troubleshooting.target import Mend

# -- step: symptom → probe → precondition → resolution → the same probe again ------------------------------------------
#
# A probe that finds its trouble is a warning: to find it is what the notebook is for. It is a failure only where a
# resolution was applied and the trouble is still there. With `dry_run`, the default here, nothing is changed.

BEFORE, AFTER = "probe before", "probe after"
SYMPTOMS = ["step", "check", "verdict", "measured", "reason", "detail"]
CONDITIONS = ["condition", "holds", "detail"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must be so before a resolution is applied."""

    what: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe found: a table to look at, how many things are wrong, and that in a sentence."""

    table: pd.DataFrame
    wrong: int
    sentence: str = ""
    unit: str = "findings"


class Troubleshooter(NotebookStep, ABC):
    """One issue of Section 4. `code` is the reason that its probe gives where it finds the trouble."""

    code: ClassVar[ReasonCode]

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.applied = False
        self._resolved = False

    # -- what every notebook asks ---------------------------------------------------------------------------------------

    def symptom(self) -> pd.DataFrame:
        """What this run's checks and errors say that belongs to this notebook."""
        known = [(row, ReasonCode.known(row["reason"])) for row in symptoms(self.run)]
        rows = [row for row, code in known if code and code.step == self.run.step]
        return pd.DataFrame(rows, columns=SYMPTOMS)

    def probe(self) -> pd.DataFrame:
        """Look for the trouble; the same look before and after the resolution."""
        name = AFTER if self._resolved else BEFORE
        with self.run.phase(name):
            found = self.look()
        checks = self.run.result.checks
        checks[:] = [c for c in checks if c.name != name]
        self.run.judge(
            name, Verdict.FAIL if self.applied else Verdict.WARNING, measured=found.wrong, threshold=0, unit=found.unit,
            reason=self.code, detail=found.sentence, offenders=found.wrong,
        )  # fmt: skip
        self.run.fact(name.replace(" ", "_"), {"wrong": found.wrong, "sentence": found.sentence})
        return found.table

    def precondition(self) -> pd.DataFrame:
        """What must be so before the resolution; it is refused where one of these does not hold."""
        return pd.DataFrame([(c.what, c.holds, c.detail) for c in self.conditions()], columns=CONDITIONS)

    def resolve(self, **options: Any) -> pd.DataFrame:
        """What would be done (dry run), or what was done. Raises `Terminal` where a precondition does not hold."""
        self._resolved = True
        if self.run.dry_run:
            return self.plan(**options)
        broken = [c for c in self.conditions(**options) if not c.holds]
        if broken:
            raise Terminal(
                ReasonCode.PRECONDITION_FAILED, f"{broken[0].what}: {broken[0].detail or 'no'}", where=f"step {self.run.step}",
                next_step="Nothing was changed. Correct this first.",
            )  # fmt: skip
        done = self.apply(**options)
        self.applied = True
        return done

    @abstractmethod
    def look(self) -> Found:
        """The probe."""

    @abstractmethod
    def conditions(self, **options: Any) -> list[Condition]:
        """The preconditions of a resolution with these options, asked anew."""

    @abstractmethod
    def plan(self, **options: Any) -> pd.DataFrame:
        """What the resolution would do; changes nothing."""

    @abstractmethod
    def apply(self, **options: Any) -> pd.DataFrame:
        """The resolution."""

    # -- what they work with ---------------------------------------------------------------------------------------------

    @cached_property
    def snapshot(self) -> Snapshot:
        """The snapshot that the target is held to, a catch-up's where there was one; UsageError before step 21."""
        return current_snapshot(self.run)

    @property
    def staged(self) -> Staged | None:
        """What is to stand in the target, as step 22 staged it; None where it never got so far."""
        return Staged.load(self.run.workspace / RunPath.STAGED)

    @property
    def aside(self) -> Quarantine:
        return Quarantine(self.run.workspace / RunPath.QUARANTINE)

    def ledger(self) -> Checkpoint | None:
        """The checkpoint as it is now; None where there is none. Raises `Terminal` where it cannot be read."""
        path = self.run.workspace / FILE
        return Checkpoint.read(path) if path.exists() else None

    @contextlib.contextmanager
    def target(self) -> Iterator[tuple[ClientStore | None, set[str]]]:
        """The target and its collections; None where there is none yet. A directory that is being written is not opened."""
        endpoint = self.run.parameters.target
        if endpoint.path and self.run.watches_only:
            raise Terminal(
                ReasonCode.RUN_LOCKED, "the run is at work in this very directory; two processes in one destroy it",
                where=f"target {endpoint.label}", next_step="Stop the run first (Ctrl-C, or SIGTERM), then look again.",
            )  # fmt: skip
        there = set(quick_names(endpoint, "target"))
        if not there:
            yield None, there
            return
        with open_target(endpoint) as store:
            yield store, there

    def places(self, keys: Collection[tuple[str, str]]) -> dict[str, dict[str, tuple[str, str]]]:
        """Where these chunks of the source, (collection, id), are to stand: target collection → id there → chunk. By the rules
        of the schema, as `runbook schema --explain` shows them."""
        schema, names = load_schema(self.run.parameters.schema_name), self.snapshot.names()
        context = Context.of(names, self.run.date, self.run.parameters.migration)
        found: dict[str, dict[str, tuple[str, str]]] = {}
        for name in sorted({collection for collection, _ in keys} & set(names)):
            for batch in self.snapshot.batches(name):
                some = batch.take([i for i, chunk in enumerate(batch.ids) if (name, chunk) in keys])
                done = schema.transform(some, name, context)
                for target, chunk, source_id in zip(done.targets, done.batch.ids, done.source_ids, strict=True):
                    found.setdefault(target, {})[chunk] = (name, source_id)
        return found

    def note(self, action: str, **facts: Any) -> None:
        """One entry in the run's audit log, one line in run.log."""
        audit.append(self.run.folder / audit.NAME, action, step=self.run.step, **facts)
        self.run.log(f"{action}: {one_line(str(facts))}")

    # -- going on with the run -------------------------------------------------------------------------------------------

    def resume_command(self, **settings: Any) -> list[str]:
        """`runbook resume RUN --set …`, as a list of words."""
        sets = [word for key, value in sorted(settings.items()) for word in ("--set", f"{key}={value}")]
        return ["runbook", "resume", self.run.id, *sets]

    def resume(self, **settings: Any) -> pd.DataFrame:
        """Go on with the run in a process of its own, which needs the run's lock; how that ended, line by line."""
        command = self.resume_command(**settings)
        self.note("run resumed by troubleshooting", command=shlex.join(command))
        with self.run.apart():
            done = child([sys.executable, "-m", "helpers", *command[1:]])
        self.run.home = self.run.home.read()
        self.run.parameters = self.run.home.parameters  # as the resume left them: the probe afterwards asks by these
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-12:]
        self.run.fact("resume", {"command": shlex.join(command), "exit_code": done.returncode})
        rows = [("command", shlex.join(command)), ("exit code", str(done.returncode)), *(("said", s) for s in said)]
        return pd.DataFrame(rows, columns=["what", "value"])

    def resume_plan(self, **settings: Any) -> pd.DataFrame:
        """The command, and each parameter that it would change: now and then."""
        now = flatten(self.run.parameters.document())
        rows = [("command", "", shlex.join(self.resume_command(**settings)))]
        rows += [(key, str(now.get(key)), str(value)) for key, value in sorted(settings.items())]
        return pd.DataFrame(rows, columns=["what", "now", "then"])

    def whole_checkpoint(self) -> Condition:
        """Whether the checkpoint can be read and there is something left to do."""
        try:
            ledger = self.ledger()
        except RunbookError as error:
            return Condition("the checkpoint can be read", False, error.line())
        phase = ledger.phase if ledger else "never begun"
        return Condition("the migration is not complete", phase != "complete", f"phase {phase}")

    def settled(self) -> list[Condition]:
        """Whether what is staged is what the target is held to: no catch-up is open, and no client writes there yet."""
        ledger, cutover = Ledger.read(self.run), CutoverState.load(self.run.workspace)
        in_use = cutover is not None and cutover.may_be_applied
        return [
            Condition(
                "no catch-up is half applied", ledger.open_round is None,
                f"finish it: {self.run.home.command('resume')}" if ledger.open_round is not None else "",
            ),
            Condition(
                "clients do not use the target yet", not in_use,
                f"what they wrote would go: {self.run.home.command('rollback')}" if in_use else "",
            ),
        ]  # fmt: skip

    def nobody_at_work(self) -> Condition:
        """Whether this notebook has the run to itself."""
        detail = "stop it first (Ctrl-C, or SIGTERM)" if self.run.watches_only else ""
        return Condition("no other process works on the run", not self.run.watches_only, detail)


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


def child(command: Sequence[str], prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """A process of the toolkit, of this interpreter, with this process's folders; not one of a runner's kernels."""
    mine = ("RUNBOOK_RUNNER_PID", "RUNBOOK_EXECUTION", "RUNBOOK_LAUNCHED")
    environment = {k: v for k, v in os.environ.items() if k not in mine} | {
        **python_environment(),
        "RUNBOOK_REPORTS": str(runs.reports_root()),
        "RUNBOOK_WORKSPACE": str(runs.workspace_root()),
    }
    how: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "env": environment}
    return subprocess.run(list(command), preexec_fn=prepare, **how)


# -- troubleshooter ----------------------------------------------------------------------------------------------------


class StagedTroubleshooter(Troubleshooter):
    """A step whose resolution deletes chunks of the target and adds them again as they were staged.

    `kinds` are the differences that are this notebook's; others are left to theirs.
    """

    kinds: ClassVar[Collection[str]]
    _differences: pd.DataFrame | None = None

    def differences(self) -> pd.DataFrame:
        """Every difference of this notebook's kinds, by chunk: target, id, difference, field, detail."""
        found = self.all_differences()
        return found[found["difference"].isin(self.kinds)].reset_index(drop=True)

    def all_differences(self, *, anew: bool = False) -> pd.DataFrame:
        """The whole comparison, read once; a probe reads it anew."""
        if self._differences is None or anew:
            staged = self.staged
            if staged is None:
                raise Terminal(
                    ReasonCode.NOTHING_STAGED, "this run has staged nothing yet", where=f"run {self.run.id}",
                    next_step=f"Run step 22 first: {self.run.home.command('resume')}",
                )  # fmt: skip
            total = sum(staged.rows(name) for name in staged.files)
            with self.target() as (store, there), self.run.progress("comparing with the target", total) as bar:
                self._differences = target_side.differences(store, there, staged, self.aside, bar)
        return self._differences

    def wrong_ids(self) -> dict[str, list[str]]:
        """target → the ids that the resolution deletes and, where they were staged, adds again."""
        rows = self.differences()
        return {str(name): sorted(set(part["id"])) for name, part in rows.groupby("target", sort=True)}

    def conditions(self, **options: Any) -> list[Condition]:
        staged = self.staged
        found = [
            self.nobody_at_work(),
            Condition("the staged chunks are there", staged is not None, "" if staged else "run step 22 first"),
        ]
        if staged is None or self.run.watches_only:
            return found
        ledger = self.ledger()
        done = ledger is not None and all(t.completed == t.rows for t in ledger.targets.values())
        found += self.settled()
        why = "" if done else f"{self.run.home.command('resume')} first"
        found.append(Condition("every batch was written", done, why))
        with self.target() as (store, there):
            holder = (store.lock_holder() or {}).get("run_id", "") if store is not None else ""
        undo = target_side.exports(self.run.workspace / RunPath.UNDO)
        cut = {name for export in undo for name in target_side.unfinished(export)}
        absent = sorted(name for name in staged.files if staged.rows(name) and name not in there | cut)
        why = f"{', '.join(absent)}: written by the migration, not repaired here: {self.run.home.command('resume')} --retry 22"
        found.append(Condition("the target's collections are there", not absent, why if absent else ""))
        found.append(Condition("no other run holds the target", holder in ("", self.run.id), str(holder)))
        return found

    def plan(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        rows = [(name, len(chunks), ", ".join(chunks[:3])) for name, chunks in ids.items()]
        return pd.DataFrame(rows, columns=["target", "would be deleted and added again", "such as"])

    def apply(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            done = self._mend(store, staged).apply(ids)
        self.note("chunks deleted and added again", chunks={k: len(v) for k, v in ids.items()})
        self.run.fact("mended", done.to_dict("records"))
        return done

    def _mend(self, store: ClientStore | None, staged: Staged) -> Mend:
        assert store is not None, "the preconditions hold"
        schema = load_schema(self.run.parameters.schema_name)
        rules, written = self.run.parameters.migration, as_written(self.snapshot, self.run.workspace / REEMBEDDED)
        plans = plan_targets(written.collections(), staged, rules, schema)
        return Mend(self.run, {plan.name: plan for plan in plans}, store, staged, self.aside)

    def undoable(self) -> pd.DataFrame:
        """The mends of this run that are not undone, the oldest first: name, time, chunks."""
        rows = []
        for folder in target_side.exports(self.run.workspace / RunPath.UNDO):
            manifest = target_side.manifest_of(folder)
            rows.append((folder.name, manifest["when"], sum(len(ids) for ids in manifest["ids"].values())))
        return pd.DataFrame(rows, columns=["mend", "when", "chunks"])

    def undo(self) -> pd.DataFrame:
        """Put back what the mends of this run replaced, the newest first; in a dry run, what would be."""
        waiting = self.undoable()
        if self.run.dry_run or waiting.empty:
            return waiting
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            done = self._mend(store, staged).undo()
        self.run.check("repairs undone", Verdict.WARNING, measured=len(waiting), threshold=0, unit="mends", reason=self.code,
                       detail="the target is as it was before")  # fmt: skip
        return done
