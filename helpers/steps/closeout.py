"""Step 53: the migration is closed out. (Runbook, Section 5, Documentation Update and Cleanup.)

First the measured figures. Then the changes, each repeatable after a kill: remove temporary files, lift the fence, release the
target lock. The summary is always written, the success record only after a success. What a rollback needs is kept, so a
rollback stays possible until the retention of the snapshots ends.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from dataclasses import asdict, dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import audit, plots
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK, RunbookError, one_line
from helpers.fence import UNTRIED, FenceControl, FenceState, lift, takes_no_writes
from helpers.fence.probe import SILENT
from helpers.formatting import count, duration, moment, size
from helpers.parameters import Endpoint, Parameters
from helpers.parameters.sections import Fence
from helpers.reason_codes import ReasonCode
from helpers.report import RunView, StepRow, numbers, read_run, record
from helpers.report.clients import KILLED, beside_prediction, who_orders
from helpers.report.outcome import FENCE_END, outcome
from helpers.results import StateFile, StepResult, Verdict, utc_now, worst, write_text
from helpers.run import plan
from helpers.run.command import connections, used_by
from helpers.run.folders import RunFolder, RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.run.window import longest_part
from helpers.snapshots import remote, retention
from helpers.snapshots.export_journal import holds_another
from helpers.steps.dry_run import Prediction, predictions, rows
from helpers.stores import open_target

RUNBOOK_TOTAL = "90 to 120 min"
OVERRUN, OVERRUN_SECONDS = 1.5, 15.0  # limit of the work: this many times its estimate, or this many seconds more


# -- fence end ---------------------------------------------------------------------------------------------------------

MEANS = (
    "the old source takes writes again. A client that was forgotten then writes into a database that nobody reads, and a "
    "rollback finds two histories. Lifting it is right once every client uses the target, or when the source is to serve others"
)


class FenceEnd:
    """The write fence of one run at closeout. Lifting it lets the old source take writes again; the step says so first.

    The fence stays where connections of others are seen at the source, whatever the parameters say.
    """

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.state = FenceState.load(run.workspace)
        rules = Fence.model_validate(self.state.rules) if self.state is not None else None
        self.control = FenceControl(run.home, run.parameters, rules)
        self.keep = run.parameters.fence.at_closeout == "keep"
        self.seen = 0

    @property
    def active(self) -> bool:
        return self.state is not None and self.state.may_be_active

    def look(self) -> pd.DataFrame:
        """The fence's state, whether writes are refused, the connections of others at the source, and what will be done."""
        if not self.active:
            state = "was lifted already" if self.state is not None else "none was put up by this run"
            if self.state is None and takes_no_writes(self.run.earlier(Step.FENCE_WRITES)):
                state = "none was needed: the source itself takes no writes"
            return pd.DataFrame([("write fence", state)], columns=["what", "found"])
        assert self.state is not None
        rows = [("write fence", self.state.sentence()), ("lifting it means", MEANS)]
        url = self.control.clients_url
        if url:
            self.seen = connections_at(url)
            rows.append(("connections of others at it", f"{self.seen} seen from this machine"))
            rows.append(("writes before", "not asked in a dry run" if self.run.dry_run else self._writes(url)))
        rows.append(("what will be done", self._intention()))
        return pd.DataFrame(rows, columns=["what", "found"])

    def _writes(self, url: str) -> str:
        try:
            with self.control.probe(url, "clients' URL") as probe:
                writes = probe.writes()
                probe.sweep()
        except RunbookError as error:
            return f"not asked: {error.line()}"
        if any(a.answered for a in writes):
            return "get through"
        return "nobody answers" if all(a.outcome == SILENT for a in writes) else "refused"

    def _intention(self) -> str:
        if self.keep:
            return "kept: fence.at_closeout is keep"
        return "kept: somebody is seen at it" if self.seen else "lifted"

    def end(self, *, act: bool) -> str:
        """Lift the fence, or say why it stays; record a check. `act` is False in a dry run, or where a step before failed."""
        if self.state is None:
            self.run.check(FENCE_END, Verdict.NOT_APPLICABLE, detail="there is none to lift")
            return "There is no fence to lift."
        if not act:
            return f"Not touched. It would be {self._intention()}."
        if not self.active:
            return self._lifted(Verdict.NOT_EXERCISED, "It was lifted before this step; no write was tried now.")
        if self.keep or self.seen:
            reason = self._intention() + (f": {self.seen} connections" if self.seen and not self.keep else "")
            self.run.check(FENCE_END, Verdict.WARNING, measured="active", threshold="lifted",
                           reason=ReasonCode.FENCE_KEPT, detail=f"{reason}. Later: {self.state.lift}")  # fmt: skip
            audit.append(self.run.folder / audit.NAME, "fence kept at closeout", why=reason)
            return f"The fence stays ({reason}). Lift it later with: {self.state.lift}"
        log = self.run.folder / audit.NAME
        audit.append(log, "fence lifted at closeout", outcome="begun")
        try:
            outcome = lift(self.run.home).replace(UNTRIED, self._untried)
        except RunbookError as error:
            audit.append(log, "fence lifted at closeout", outcome="failed", why=error.line())
            self.run.check(FENCE_END, Verdict.FAIL, measured="not proven", threshold="lifted",
                           reason=ReasonCode.FENCE_NOT_LIFTED, detail=f"{error.line()} {self._instead()}")  # fmt: skip
            return f"{error.line()} {self._instead()}"
        audit.append(log, "fence lifted at closeout", said=outcome)
        return self._lifted(Verdict.PASS if self.control.clients_url else Verdict.NOT_EXERCISED, outcome)

    def _lifted(self, verdict: Verdict, outcome: str) -> str:
        self.run.check(FENCE_END, verdict, measured="lifted", threshold="lifted", detail=outcome)
        before = self.run.home.result(Step.ROLLBACK) is not None
        self.run.check(
            "rollback after the closeout", Verdict.NOT_EXERCISED, measured="none", threshold="tried",
            detail="the one of this run began before the write fence was lifted" if before else "this run tried none",
        )  # fmt: skip
        return outcome

    @property
    def _untried(self) -> str:
        """Why no write to a directory was tried. After a cutover: only the application could try, and it uses the target."""
        if (cutover := CutoverState.load(self.run.workspace)) is None or not cutover.switches:
            return UNTRIED
        return "no write to it was tried: only the application could, and since the cutover it uses the target"

    def _instead(self) -> str:
        command = f"{RUNBOOK} resume {self.run.id} --set fence.at_closeout=keep"
        return f"Where the source is out of service for good: {command}"


def connections_at(url: str) -> int:
    """Count established connections of other processes to this address, as far as this machine sees them."""
    place = Endpoint(url=url)
    return connections(place.host, place.port)


# In workspace/<run id>: source copies of a killed process, half-written files, and output of finished child processes.
# Only what is named here may be removed: nothing that a resume, a rollback or an audit needs while the snapshots are kept.
_TEMPORARY = (
    "source-copy-*", ".*.tmp", "*.tmp", ".*.partial", "*.partial", "drill-restore", "drill-rollback", "dry-run/target",
    "dry-run/staged", "dry-run/target-of-files", "dry-run/shipping", "shipping/copy", "integration", "performance",
    "rollback/.*.partial",
)  # fmt: skip
# What is kept, in the order of the table: name in the workspace, what it is.
_RETAINED = (
    (RunPath.CHECKPOINT, "the checkpoint: what this run made in the target"),
    (RunPath.CHECKPOINT_CHANGES, "the checkpoint's last changes"),
    (
        RunPath.STAGED,
        "every chunk as it was written: lets a rollback tell apart clients' writes and those of the migration",
    ),
    (RunPath.CATCH_UP, "what was caught up with"),
    (RunPath.CUTOVER, "which configuration files were changed"),
    (RunPath.CONFIGURATION, "configuration files as they were"),
    (RunPath.FENCE, "the write fence: the configuration before it"),
    ("fence-before.conf", "nginx's configuration as it was"),
    (RunPath.UNDO, "what notebooks 41 to 48 replaced in the target"),
    (RunPath.EARLIER, "checkpoints and quarantine of attempts that were undone"),
    (RunPath.QUARANTINE, "chunks that were not migrated, each with its reason; the reports hold all of them, too"),
    (RunPath.MONITORING, "every sample of the watch after the cutover"),
    (RunPath.BATCHES, "every batch of the import"),
    ("shipping", "the list of the index files that were copied, with their digests"),
)


@dataclass(frozen=True, slots=True)
class Retained:
    """One row of the retention table. `until` is ISO 8601, or words."""

    what: str
    where: str
    bytes: int
    until: str
    how: str


def temporary(folder: RunFolder, parameters: Parameters) -> list[Path]:
    """Sorted paths that may be removed now; of a directory only the directory itself."""
    paths = {path for pattern in _TEMPORARY for path in folder.workspace.glob(pattern)}
    snapshots = parameters.snapshot.folder
    ours = retention.begun(snapshots, folder)
    unfinished = ((path, path.name.removesuffix(".partial")) for path in snapshots.glob("*.partial"))
    paths |= {path for path, name in unfinished if name in ours and not holds_another(path, name)}
    return sorted(path for path in paths if not any(other in paths for other in path.parents))


def remove(path: Path) -> int:
    """Remove a file or directory and return its bytes. A path that does not exist is no error: a kill may have come between."""
    freed = tree_size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=False)
    else:
        path.unlink(missing_ok=True)
    return freed


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size if path.exists() or path.is_symlink() else 0
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())


def retained_until(folder: RunFolder) -> str:
    """Until when (ISO 8601) a rollback must stay possible: the latest end of retention among this run's snapshots."""
    return max((str(t["retain_until"]) for t in retention.taken_by(folder)), default=utc_now())


def what_stays(folder: RunFolder, parameters: Parameters) -> list[Retained]:
    """One entry for each thing that is kept: what, where, bytes, until when, and how it is removed then."""
    until = retained_until(folder)
    rows = []
    for taken in {t["id"]: t for t in retention.taken_by(folder)}.values():
        place, stored = Path(taken["folder"]), taken.get("stored", "")
        how = f"{RUNBOOK} snapshots prune --yes" if place.is_dir() or stored else "gone already"
        where = f"{stored}, and here {place}" if stored else str(place)
        rows.append(Retained(f"snapshot {taken['id']}", where, tree_size(place), str(taken["retain_until"]), how))
    for name, what in _RETAINED:
        path = folder.workspace / name
        if path.exists():
            where, how, extra = remote.staged_at_closeout(path, parameters.snapshot, folder.id)
            how = f"rm -r {shlex.quote(str(path))}{how}"
            rows.append(Retained(what, where, tree_size(path) + extra, until, how))
    source = parameters.source.label
    rows += [
        Retained("the source: the old database, for a rollback", source, 0, until, "its operator's decision"),
        Retained("reports: the evidence, logs included", str(folder.reports), tree_size(folder.reports), "for good",
             folder.command("archive")),
    ]  # fmt: skip
    return rows


def when(until: str) -> str:
    """Format an ISO 8601 instant for people; return other text as it is."""
    return moment(until) if until[:1].isdigit() else until


NAME = "lessons.md"
AFTERWARDS = "signs after this record, which the seal then covers; the run's page has the signature"
_HEAD = """\
# Lessons of run {run}, one to a line; lines that begin with # are left out.
# Then: {command}
"""


class Lessons:
    """The file of lessons in the workspace. The next closeout takes it into the record, which is sealed."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.path: Path = run.workspace / NAME

    def begin(self) -> None:
        """Write an empty file to fill in, where there is none."""
        if not self.path.exists():
            write_text(self.path, _HEAD.format(run=self.run.id, command=self.command))

    @property
    def command(self) -> str:
        """The command that takes the lessons into the record."""
        elsewhere = self.run.home.command("status").partition(" --reports ")[2]
        return f"{RUNBOOK} run --run-id {self.run.id} --from 53" + (f" --reports {elsewhere}" if elsewhere else "")

    def written(self) -> list[str]:
        """The lessons in the file, one line each; [] where there is no file."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        lessons = [
            one_line(line.strip().removeprefix("- ").strip()) for line in lines if not line.lstrip().startswith("#")
        ]
        return [line for line in lessons if line]


BEFORE = (Step.CUTOVER, Step.MONITOR, Step.PERFORMANCE, Step.INTEGRATION)


@dataclass(slots=True)
class Closeout(StateFile):
    """What the closeout of a run removed: bytes by file."""

    file = RunPath.CLOSEOUT
    damaged = ReasonCode.CLOSEOUT_STATE_DAMAGED
    remedy = f"Set this file aside and repeat: {RUNBOOK} resume; it only says what was removed."

    run: str
    since: str
    by: str
    removed: dict[str, int] = field(default_factory=dict)


class CloseoutStep(NotebookStep):
    """The notebook's view, one method for each cell. It changes nothing in a dry run, or where a step before has not passed."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.parameters = run, run.parameters
        self.fenced = FenceEnd(run)
        self.lesson_file = Lessons(run)
        self._ready = False

    # -- what there is to close ----------------------------------------------------------------------------------------

    def completed(self) -> pd.DataFrame:
        """One row for each of the cutover and the steps after it; all must have passed."""
        rows, open_ones = [], []
        for number in BEFORE:
            step, result = plan.find(number), self.run.home.result(number)
            verdict = str(result.verdict) if result is not None else "not run"
            rows.append((f"{number} {step.title}", verdict, duration(result.seconds) if result is not None else ""))
            if result is None or result.error is not None or result.verdict is Verdict.FAIL:
                open_ones.append(f"{number} {step.title}")
        done = self.run.home.result(Step.CUTOVER)
        if done is not None and not done.facts.get("cut_over") and not open_ones:
            open_ones.append("25: no cutover is recorded")
        self.run.check("steps before the closeout", Verdict.FAIL if open_ones else Verdict.PASS,
                       measured=len(BEFORE) - len(open_ones), threshold=len(BEFORE), unit="steps",
                       reason=ReasonCode.NOT_READY_TO_CLOSE if open_ones else "", detail=", ".join(open_ones))  # fmt: skip
        self._ready = not open_ones and not self.run.dry_run
        return pd.DataFrame(rows, columns=["step", "verdict", "took"])

    def durations(self) -> pd.DataFrame:
        """One row for each step: the runbook's time, the dry run's estimate, the time that it took."""
        rows = self._durations
        seconds, how = numbers.downtime(self._results, self._attempts, self._seen.drill)
        if seconds:
            self.run.fact("downtime_seconds", round(seconds, 1))
        self.run.fact("downtime", how)
        self.run.fact("durations", rows)
        known = [r for r in rows if r["estimate"] is not None]
        took = sum(r["actual"] + r["carried"] for r in known)
        estimate = sum(r["estimate"] for r in known) if known else None
        most = None if estimate is None else max(OVERRUN * estimate, estimate + OVERRUN_SECONDS)
        late = most is not None and took > most
        starts = any(map(numbers.start_seconds, self._results.values()))
        killed = KILLED * any(r["carried"] for r in known)
        which = f"steps {', '.join(r['number'] for r in known)}{', with notebook starts' * starts}{killed}"
        passes = f"up to {OVERRUN:g} times the estimate, or {OVERRUN_SECONDS:g} s more, passes"
        detail = ""
        if estimate:
            detail = (
                f"{which}: {duration(took)} for an estimate of {duration(estimate)}{_ratio(took, estimate)}; {passes}"
            )
        detail += f". Most over its estimate: {self._most_over(known)}" if late else ""
        self.run.check("time against the dry run's estimate", Verdict.WARNING if late else Verdict.PASS,
                       measured=round(took, 1), threshold=most and round(most, 1), relation="≤", unit="s",
                       reason=ReasonCode.LONGER_THAN_ESTIMATED if late else "", detail=detail)  # fmt: skip
        columns = ["step", "the runbook", "estimated", "took"]
        return pd.DataFrame([[r["step"], *map(str, _words(r))] for r in rows], columns=columns)

    def _most_over(self, known: list[dict[str, Any]]) -> str:
        """The step that exceeded its estimate most, and its longest part; `known` are the rows with an estimate."""
        over, worst = max(((r["actual"] + r["carried"] - r["estimate"], r) for r in known), key=itemgetter(0))
        step = self._results[worst["number"]]
        part = longest_part(step)
        inside = f"; its longest part: {part.name}, {duration(part.seconds)}" if part is not None else ""
        return f"step {step.step} ({step.title}){KILLED * bool(worst['carried'])}, by {duration(over)}{inside}"

    def predictions(self) -> pd.DataFrame:
        """One row for each prediction of the dry run: predicted, measured, and the ratio of the two."""
        compared = predictions(self._results, self._attempts)
        self.run.fact("predictions", [{**asdict(p), "error": p.error} for p in compared])

        def words(value: float | None, unit: str) -> str:
            return "not measured" if value is None else duration(value) if unit == "s" else size(int(value))

        def ratio(p: Prediction) -> str:
            return "–" if p.error is None else _ratio(p.measured or 0.0, p.predicted).removeprefix(", ") or "–"

        table = [(p.what, words(p.predicted, p.unit), words(p.measured, p.unit), ratio(p), p.basis, p.contains)
                 for p in compared]  # fmt: skip
        return pd.DataFrame(
            table, columns=["what", "predicted", "measured", "measured over predicted", "predicted is", "measured is"]
        )

    @cached_property
    def _seen(self) -> RunView:
        return read_run(self.run.folder)

    @property
    def _attempts(self) -> list[StepRow]:
        return self._seen.attempts

    @cached_property
    def _durations(self) -> list[dict[str, Any]]:
        return rows(self._results, self._attempts)

    @property
    def _results(self) -> dict[str, StepResult]:
        """The result of every other step that has one, by step number."""
        results = {step.number: self.run.home.result(step.number) for step in Step if step != self.run.step}
        return {number: result for number, result in results.items() if result is not None}

    def timeline(self) -> None:
        """Draw the durations of the steps."""
        drawn = plots.durations(self._durations)
        self.run.figure(
            "durations", drawn,
            "How long each step took, with the start of its notebook, beside the dry run's estimate and the runbook's figure; "
            f"without step {Step.CLOSEOUT}, which draws this while it runs.",
        )  # fmt: skip

    def lessons(self) -> pd.DataFrame:
        """Deviations and findings of the run, and the lines of the file of lessons."""
        view = self._view()
        rows = [("finding", line) for line in record.lessons(view)]
        rows += [("written", line) for line in self.lesson_file.written()]
        if self._ready:
            self.lesson_file.begin()
        return pd.DataFrame(rows, columns=["kind", "lesson"])

    # -- what goes and what stays --------------------------------------------------------------------------------------

    def retention(self) -> pd.DataFrame:
        """What is kept, where, until when, and how it is removed then."""
        entries = what_stays(self.run.home, self.parameters)
        self.run.fact("retention", [asdict(row) for row in entries])
        self.run.fact("rollback_possible_until", retained_until(self.run.home))
        rows = [(e.what, e.where, size(e.bytes) if e.bytes else "", when(e.until), e.how) for e in entries]
        return pd.DataFrame(rows, columns=["what", "where", "size", "kept until", "how it goes"])

    def clean(self) -> pd.DataFrame:
        """Remove the temporary files, after they are listed on disk; one row for each: file, size, what became of it."""
        paths = temporary(self.run.home, self.parameters)
        rows = [(str(path), tree_size(path)) for path in paths]
        state = Closeout.load(self.run.workspace) or Closeout(self.run.id, utc_now(), audit.operator())
        if self._ready and paths:
            state.removed |= dict(rows)
            state.save(self.run.workspace)  # before the first removal
            log = self.run.folder / audit.NAME
            audit.append(log, "temporary files removed", outcome="begun", files=dict(rows))
            for path in paths:
                remove(path)
            audit.append(log, "temporary files removed", bytes=sum(b for _, b in rows))
        removed: dict[str, int] = state.removed if self._ready else {}
        self.run.fact("removed", removed)
        rest = temporary(self.run.home, self.parameters) if self._ready else []
        if self._ready:
            done = f"{count(len(removed), 'file')} removed, {size(sum(removed.values()))}"
            self.run.check("temporary files left", Verdict.WARNING if rest else Verdict.PASS, measured=len(rest), threshold=0,
                           unit="files", reason=ReasonCode.NOT_CLEANED if rest else "",
                           detail=", ".join(map(str, rest)) or done)  # fmt: skip
        action = "removed" if self._ready else "would be removed"
        shown = list(removed.items()) if self._ready else rows
        return pd.DataFrame([(p, size(b), action) for p, b in shown], columns=["file", "size", "what became of it"])

    # -- fence and marker ----------------------------------------------------------------------------------------------

    def fence(self) -> pd.DataFrame:
        """The state of the fence, the connections at it, and what lifting it means. Change nothing."""
        return self.fenced.look()

    def lift_fence(self) -> str:
        """Lift the fence, where nobody is connected to the old source; a write probe proves it."""
        if self.run.dry_run:
            self.run.check("closeout", Verdict.NOT_EXERCISED, measured="dry run", threshold="done", reason=ReasonCode.DRY_RUN,
                           detail="a dry run shows what it would do and touches nothing")  # fmt: skip
        return self.fenced.end(act=self._ready)

    def release_target(self) -> str:
        """Release this run's lock in the target, where there is one; return what was done."""
        target = self.parameters.target
        if not self._ready:
            return f"Not checked: {target.label} is opened only where its lock may be released."
        if used := used_by(target):
            return f"Not checked: {used} has the target open; step 22 released the lock."
        with open_target(target) as store:
            holder = store.lock_holder() or {}
            ours = holder.get("run_id") == self.run.id
            if ours:
                store.release_lock(self.run.id)
                audit.append(self.run.folder / audit.NAME, "target released", target=target.label)
        if not ours:
            return f"No lock of this run is in {target.label}."
        return f"The lock of this run in {target.label} was released."

    # -- the record ----------------------------------------------------------------------------------------------------

    def contacts(self) -> pd.DataFrame:
        """Whom to call after the cutover."""
        return pd.DataFrame(self._contacts(), columns=["who", "contact"])

    def _contacts(self) -> list[tuple[str, str]]:
        return record.contacts(dict(self.parameters.contacts.named))

    def record(self) -> pd.DataFrame:
        """The lines of the success record, as the run's page has them."""
        rows = [(i.label, i.measured, i.verdict) for i in record.record(self._view())]
        return pd.DataFrame(rows, columns=["item", "this run", "verdict"])

    def write(self) -> str:
        """Write CHROMADB_MIGRATION_SUMMARY.md, and after a success CHROMADB_MIGRATION_SUCCESS.md; return their paths."""
        view = self._view()
        facts = self._facts(view)
        text, good = record.summary(facts), record.closed(view)
        if self.run.dry_run:
            return f"DRY RUN: nothing was written. The summary would be:\n\n{text}"
        self.run.home.rewrite(record.SUMMARY, text)
        lines = [str(self.run.folder / record.SUMMARY)]
        if good:
            self.run.home.rewrite(record.SUCCESS, record.success(facts))
            lines.append(str(self.run.folder / record.SUCCESS))
        self.run.fact("success", good)
        state, explanation = record.status(view)
        audit.append(
            self.run.folder / audit.NAME, "closeout", outcome=state.lower(), files=[p.rpartition("/")[2] for p in lines]
        )
        if not good:
            lines.append(f"No success record: {state}. {explanation}")
        return "\n".join([*lines, f"To take it along, sealed: {self.run.home.command('archive')}"])

    def _view(self) -> RunView:
        """The run as its page shows it, with this step's result so far."""
        view = read_run(self.run.folder)
        mine = dataclasses.replace(
            self.run.result, finished=utc_now(), verdict=worst(c.verdict for c in self.run.result.checks)
        )
        row = StepRow(self.run.step, mine.title, mine.verdict.value, result=mine)
        view.steps = [row if s.number == self.run.step else s for s in view.steps]
        view.outcome = outcome(view)
        return view

    def _facts(self, view: RunView) -> dict[str, Any]:
        status, reason = record.status(view)
        items = {i.label.partition(" (")[0]: i.measured for i in record.record(view)}
        rate = view.fact("queries_per_second")
        rows = [dict(zip(("step", "runbook", "estimate", "actual"), (r["step"], *_words(r)), strict=True),
                     began=moment(r["began"])) for r in self._durations]  # fmt: skip
        imported = dry.facts.get("imported") if (dry := self._results.get(Step.DRY_RUN)) is not None else None
        written = self.lesson_file.written()
        until, predicted = when(retained_until(self.run.home)), self.predictions().to_dict("records")
        return {
            "run": self.run.id, "rehearsal": self.run.rehearsal, "date": view.date, "status": status, "why": reason,
            "items": items, "execution": items["Execution time"], "estimated": f"{RUNBOOK_TOTAL} (the runbook)",
            "predictions": predicted,
            "expected_chunks": "not predicted" if imported is None else count(int(imported), "chunk"),
            "downtime_estimated": beside_prediction(self._results, self._attempts),
            "limit_ms": self.parameters.monitoring.maximum_latency_ms, "durations": rows, "tools": record.tools(view),
            "collections": [(i.label.removeprefix("Collection "), i.measured) for i in record.record(view)
                            if i.label.startswith("Collection ")],
            "deviations": record.deviations(view), "findings": record.findings(view),
            "known": record.known_at_decision(view),
            "retention": [{"what": k.what, "until": when(k.until), "how": k.how}
                          for k in what_stays(self.run.home, self.parameters)],
            "way_back": f"Open until {until}, when the snapshots may go. This shows what it would do, and changes nothing:",
            "rollback": self.run.home.command("rollback", "--dry-run"), "contacts": self._contacts(),
            "orders": who_orders(view),
            "rate": f"{rate:,.0f}" if isinstance(rate, int | float) else "not recorded",
            "after": record.after(view), "lessons": [*written, *record.lessons(view)][:40],
            "written": bool(written), "lessons_file": str(self.lesson_file.path),
            "again": self.lesson_file.command,
            "signoffs": [*record.signed(view), *((f"closeout, {role.replace('_', ' ')}", AFTERWARDS) for role in
                                                 self.parameters.signoff.closeout)],
        }  # fmt: skip


def _words(row: dict[str, Any]) -> tuple[str, str, str]:
    """(the runbook's time, the estimate, the time taken) of one row, formatted for people."""
    low, high = row["runbook_low"], row["runbook_high"]
    least = "" if low == high else f"{low / 60:.0f} to "
    runbook = "–" if high is None else f"{least}{high / 60:.0f} min"
    return runbook, "–" if row["estimate"] is None else duration(row["estimate"]), _took(row)


def _took(row: dict[str, Any]) -> str:
    """`30 s, 1.2 times`; of a step that was killed and resumed `14 s; 18 s, 1.6 times, with …`: the whole work and its ratio."""
    whole = row["actual"] + row["carried"]
    total = duration(whole) + _ratio(whole, row["estimate"])
    return f"{duration(row['actual'])}; {total}{KILLED}" if row["carried"] else total


def _ratio(took: float, estimate: float | None) -> str:
    """The ratio of a time to its estimate: `, 1.9 times`; "" without an estimate."""
    return f", {took / estimate:.2g} times" if estimate else ""
