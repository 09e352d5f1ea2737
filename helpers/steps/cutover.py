"""Step 25: the application is pointed to the target, watched there, and pointed back where anything fails. (Step 6a.)"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pandas as pd

from helpers import audit
from helpers.cutover import readiness
from helpers.cutover.application import (
    APPLIED,
    APPLYING,
    BACKED_UP,
    DONE,
    NOT_TAKEN,
    NOT_TRIED,
    PLANNED,
    RESTARTED,
    REVERTED,
    REVERTING,
    TAKEN,
    WATCHING,
    ChangedFile,
    CutoverState,
    Evidence,
    LogWatch,
    WriteAttempt,
    check_all_health,
    gather,
    positions,
    put_back,
    restart,
    try_write,
    wait_until_healthy,
)
from helpers.cutover.files import digest_of, keep, put_in_place, stage
from helpers.cutover.readiness import Edit, all_edits, check_open_door, diff, loopback_in_container
from helpers.errors import RUNBOOK, EnvironmentFailure, Interrupted, RunbookError, Terminal, UsageError
from helpers.evidence.signoffs import open_gate
from helpers.fence import FenceState
from helpers.formatting import count, duration
from helpers.migration.catch_up import bring_over
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.source_changes import prove_unchanged
from helpers.monitoring import measure
from helpers.monitoring.watcher import ERRORS_IN_A_ROW, Watcher, WatchSample
from helpers.parameters import Parameters
from helpers.parameters.sections import Cutover
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.results import Verdict, utc_now
from helpers.run.command import used_by
from helpers.run.folders import RunFolder, RunLock, RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.steps.fence_writes import FenceWritesStep
from helpers.stores import open_target
from helpers.stores.opening import quick_names

UNSEEN = (
    "no health answer names the target and no connection to it was seen from here: see in the application, or in the log "
    "of the target's server, that its requests arrive there"
)
PROBES = 5  # stored vectors searched for in each collection, in each sample
LONGEST_INTERVAL = 10.0  # seconds between two samples
ROUND_COLUMNS = ["second", "healthy", "queries", "mean ms", "new log lines", "problems"]


class CutoverStep(NotebookStep):
    """The notebook's view: may it begin, the diff, probes, is the source unchanged, the switch, the watch, evidence.

    With `fence.when: cutover` writers go on until `unchanged`, which stops them and brings over what they changed. `gate_error`:
    why the gate is shut (a NO-GO, missing sign-offs), or None. No configuration is touched before `switch`."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.gate_error = run, open_gate(run.home, [Step.REVIEW])
        self.control = CutoverControl(run.home, run.parameters)
        self.rules = run.parameters.cutover
        self._late = run.parameters.fence.late
        self._edits: list[Edit] | None = None
        self._watcher: Watcher | None = None
        self._samples: list[WatchSample] = []
        self._evidence = Evidence()
        self._state: CutoverState | None = None
        self._failure = ""
        self._attempt = WriteAttempt(NOT_TRIED)
        self._counts: dict[str, int] = {}  # of the target's chunks, by collection, since they were compared

    # -- before --------------------------------------------------------------------------------------------------------

    def gate(self) -> pd.DataFrame:
        """The decision and who signed it. Raises what stops the cutover: NO-GO, or missing sign-offs."""
        review = self.run.require(Step.REVIEW)
        decision = str(review.facts.get("decision", "none"))
        if not self.run.dry_run:
            if self.gate_error is not None:
                self._let_writers_go_on()
                raise self.gate_error
            if decision != "GO" or review.error is not None:
                raise EnvironmentFailure(ReasonCode.NO_DECISION, f"the decision of run {self.run.id} is {decision}, not GO",
                                 next_step="Step 24 decides; nothing was touched.")  # fmt: skip
        required = self.run.parameters.signoff.required
        signatures = ("signed" if required else "nobody had to sign") if self.gate_error is None else "not signed"
        signed = str(self.gate_error or signatures)
        rows = [("decision", decision), ("sign-offs", signed), ("required", ", ".join(required) or "nobody")]
        is_go = decision == "GO" and self.gate_error is None
        self.run.check(
            "decision and sign-offs", Verdict.PASS if is_go else Verdict.WARNING, measured=f"{decision}, {signatures}",
            threshold="GO, signed" if required else "GO, nobody had to sign",
            reason="" if is_go else ReasonCode.GATE_SHUT, detail="" if is_go else signed,
        )  # fmt: skip
        rows += [("an earlier rollback", line) for line in ([] if self.run.dry_run else self.control.finish_undoing())]
        return pd.DataFrame(rows, columns=["what", "found"])

    def unchanged(self) -> str:
        """Check that the source still is what was migrated; a sentence. `EnvironmentFailure` (`source_changed`) if it is not."""
        state = self.control.state
        if state is not None and state.is_done:
            return "The cutover is done already; the source is not what the application uses any more."
        if self._late and not self.run.dry_run:
            return self._last_changes()
        changes, name = prove_unchanged(self.run), "changes in the source since it was migrated"
        sentence = changes.sentence()
        if self._late:
            self.run.check(name, Verdict.NOT_EXERCISED, measured=changes.total,
                           threshold=self.run.parameters.migration.delta_limit.of(changes.chunks), relation="≤", unit="changes",
                           parameter="migration.delta_limit", detail=f"dry run: {sentence}; writers go on")  # fmt: skip
            return sentence
        if not changes.nothing:
            if not self.run.dry_run and self.control.under_way is not None:
                sentence += "; " + "; ".join(self.control.take_back("the source changed"))
            raise EnvironmentFailure(
                ReasonCode.SOURCE_CHANGED, f"the source changed since it was migrated: {sentence}",
                where=f"source {self.run.parameters.source.label}",
                next_step=f"Catch up, validate and sign again: {RUNBOOK} run --run-id {self.run.id} --from 22",
            )  # fmt: skip
        self.run.check(name, Verdict.PASS, measured=0, threshold=0, unit="changes", detail=sentence)
        target = self.run.parameters.target
        if self.control.under_way is None and not used_by(target):  # last: what came there meanwhile is seen
            with open_target(target) as store:
                readiness.check_as_validated(self.run, store, "")
            self._failure = self._failure or "the target is not what was validated" * bool(self._failed_checks())
        return sentence

    def _last_changes(self) -> str:
        """Stop writes, prove that, bring over what changed; return a sentence. Any failure lets writers go on at the source."""
        if self._failure:
            return f"Writers go on: {self._failure}."
        fence, is_new = FenceWritesStep(self.run), self.control.under_way is None
        fence.urls()
        try:
            if is_new:
                readiness.bring_ahead(self.run)
            fence.put_up()
            fence.prove()
            if self._failed_checks():
                raise EnvironmentFailure(ReasonCode.FENCE_OPEN, "the write fence does not hold, and was taken down again",
                                 next_step=f"See its checks; then: {self.run.home.command('resume')}")  # fmt: skip
            with self.run.phase("bring over the last changes"):
                changes = bring_over(self.run, apply=is_new)
            if failing := self._failed_checks():
                raise EnvironmentFailure(ReasonCode.CATCH_UP_NOT_PROVEN, f"what was brought over is not proven: {failing}",
                                 next_step=f"Repeat it: {self.run.home.command('resume')}")  # fmt: skip
            self._counts = readiness.count_again(self.run, {} if changes["total"] else self._counts) if is_new else {}
        except Interrupted:
            raise
        except Exception as error:
            if self.control.under_way is not None:
                self.control.take_back(str(error))
            self._let_writers_go_on()
            raise
        self.run.fact("last_changes", changes)
        self.run.check(
            "changes brought over at the cutover", Verdict.PASS, measured=changes["total"], threshold=changes["allowed"],
            relation="≤", unit="changes", parameter="migration.delta_limit",
            detail=f"{changes['added']:,} added, {changes['changed']:,} changed, {changes['deleted']:,} deleted since the "
            f"validation; each chunk that was written was compared; {changes['read']}; {duration(changes['seconds'])}",
        )  # fmt: skip
        return f"Writes are refused. {count(changes['total'], 'change')} brought over."

    def _failed_checks(self) -> str:
        return ", ".join(c.name for c in self.run.result.checks if c.verdict is Verdict.FAIL)

    def _let_writers_go_on(self) -> str:
        """Lift the fence that this step put up, if no client can be at the target; return a sentence, "" if it stays."""
        state = FenceState.load(self.run.workspace)
        if not self._late or state is None or not state.refuses or self.control.under_way is not None:
            return ""
        try:
            return FenceWritesStep(self.run).control.reopen()
        except RunbookError as error:
            self.run.log(f"the fence was not lifted: {error}")
            return state.sentence()

    def plan(self) -> str:
        """The diff of every file, changed lines only, and the commands to be run. Nothing has been touched so far."""
        self._edits = self.control.edits()
        text = diff(self._edits)
        commands = "\n".join(f"restart: {' '.join(command)}" for command in self.rules.restart)
        self.run.fact("diff", text)
        self.run.fact("files", [str(e.file.path) for e in self._edits])
        nothing = not self._edits and not self.rules.restart
        self.run.check(
            "configuration to change", Verdict.WARNING if nothing else Verdict.PASS, unit="files and commands",
            measured=len(self._edits) + len(self.rules.restart), threshold=1, relation="≥",
            reason=ReasonCode.NOTHING_TO_CUT_OVER if nothing else "",
            detail="the parameters name no file and no restart command: point the application to the target yourself"
            if nothing
            else f"{sum(len(e.changes) for e in self._edits)} lines",
        )  # fmt: skip
        if warning := loopback_in_container(self.run.parameters):
            self.run.check("address of the target in a container", Verdict.WARNING, reason=ReasonCode.LOOPBACK_IN_CONTAINER,
                           measured=self.run.parameters.target.address, threshold="not loopback", detail=warning)  # fmt: skip
        check_open_door(self.run)
        return "\n".join(filter(None, [text, commands])) or "No file and no command: nothing would be changed."

    def before(self) -> pd.DataFrame:
        """Probe the target, the restart commands and the application's health; one row each."""
        rows = [("target", *self._target_answers())]
        rows += (programs := [(c[0], shutil.which(c[0]) or "not found") for c in self.rules.restart])
        if programs:
            missing = [c for c, path in programs if path == "not found"]
            self.run.check("restart command", Verdict.FAIL if missing else Verdict.PASS, unit="programs found",
                           measured=len(programs) - len(missing), threshold=len(programs),
                           reason=ReasonCode.PROGRAM_MISSING if missing else "", detail=", ".join(missing))  # fmt: skip
        answers = check_all_health(self.rules.health)
        rows += [(a.url, a.problem or f"{a.status} after {a.milliseconds:.0f} ms") for a in answers]
        if self._failed_checks():
            self._failure = "a probe before the cutover failed"
        return pd.DataFrame(rows, columns=["what", "found"])

    def _target_answers(self) -> tuple[str]:
        target = self.run.parameters.target
        is_switched = self.control.under_way is not None
        if used := used_by(target):
            readiness.check_as_validated(
                self.run, None, why := f"not opened, because of {used}", in_use=not is_switched
            )
            return (why,)
        self._evidence = self._evidence if is_switched else Evidence.before_the_switch(target)
        checkpoint = Checkpoint.read(self.run.workspace / RunPath.CHECKPOINT)
        with open_target(target) as store:
            if self._late or is_switched:  # else `unchanged` does it; behind a new fence it takes too long
                readiness.check_as_validated(self.run, store, "clients may be there" * is_switched)
            counts = self._counts = {name: store.count(name) for name in sorted(checkpoint.owned())}
        written = checkpoint.targets
        emptied = [n for n, count in counts.items() if not count and written[n].completed > written[n].rejected]
        self.run.check(
            "answers of the target", Verdict.FAIL if emptied or not counts else Verdict.PASS, unit="collections",
            measured=len(counts) - len(emptied), threshold=max(1, len(counts)),
            reason=ReasonCode.TARGET_EMPTY if emptied or not counts else "",
            detail=", ".join(emptied) or f"{sum(counts.values()):,} chunks",
        )  # fmt: skip
        return (f"{len(counts)} collections, {sum(counts.values()):,} chunks",)

    # -- the switch ----------------------------------------------------------------------------------------------------

    def switch(self) -> pd.DataFrame:
        """Back up, change all files or none, restart, wait for health; undo all of it if one of them fails."""
        if self.run.dry_run:
            self.run.check("cutover", Verdict.NOT_EXERCISED, measured="dry run", threshold="done", reason=ReasonCode.DRY_RUN,
                           detail="a dry run shows what it would do and touches nothing")  # fmt: skip
            return _lines_table(["DRY RUN: nothing was changed."])
        if self._failure or self._edits is None:
            return _lines_table([f"Not begun: {self._failure or 'the plan was not made'}."])
        try:
            with RunLock(self.run.home, RunLock.GATE):  # no NO-GO is recorded between this check and the begin
                self._refuse_if_shut()
                state = self.control.state
                if state is None or taken_back(state):  # else clients may write there already
                    readiness.count_again(self.run, self._counts)
                self._state = state = self.control.begin(self._edits)
        except RunbookError:
            self._let_writers_go_on()
            raise
        if state.is_done:
            return _lines_table(["The cutover is done already; nothing was changed or restarted."])
        results: list[str] = []
        try:
            with self.run.phase("change configuration files"):
                results += self.control.apply(state, self._edits)
            logs = LogWatch(state.logs, self.rules.log_pattern)
            logs.new_matches()  # opens them: what is written just before a rotation is read all the same
            with self.run.phase(numbers.RESTART):
                if state.state == APPLIED:
                    self._refuse_if_shut()
                    results += self.control.restart(state)
                answers = wait_until_healthy(self.rules.health, self.rules.timeout_seconds)
                results += [f"{a.url} answers {a.status}" for a in answers]
            results += self._write()
            self._watcher = self._watching(logs)
        except Interrupted:
            raise
        except Exception as error:
            results += self._take_back(error.line() if isinstance(error, RunbookError) else str(error))
            if not isinstance(error, RunbookError | OSError):
                raise
        return _lines_table(results or ["Every file points to the target already; there is nothing to restart."])

    def _write(self) -> list[str]:
        """Check that the application can write at the target, if `cutover.write_probe` says how it tries; a sentence."""
        attempt = self._attempt = try_write(self.rules, self.run.home, self.run.step)
        verdict = {TAKEN: Verdict.PASS, NOT_TRIED: Verdict.NOT_EXERCISED}.get(attempt.outcome, Verdict.WARNING)
        self.run.check("writes of the application at the target", verdict, measured=attempt.outcome, threshold="taken",
                       reason=ReasonCode.WRITES_REFUSED if verdict is Verdict.WARNING else "",
                       parameter="cutover.write_probe", detail=attempt.detail)  # fmt: skip
        return [f"a write of the application was {attempt.outcome}"] if attempt.when else []

    def _refuse_if_shut(self) -> None:
        """Raises what shuts the gate now: a NO-GO may have been recorded since this step began to read the source."""
        state = self.control.state
        if (shut := open_gate(self.run.home.read(), [Step.REVIEW])) is not None and not (state and state.is_done):
            raise shut

    def _watching(self, logs: LogWatch) -> Watcher:
        chosen = measure.choose_probes(self.run, measure.TARGET, PROBES)
        return Watcher.of_target(self.run.parameters.target, chosen, health=self.rules.health, logs=logs)

    def watch(self) -> pd.DataFrame:
        """Watch health, queries and logs for `cutover.monitor_minutes`; one row a sample. A failure takes the cutover back."""
        state, watcher = self._state, self._watcher
        if state is not None and state.is_done:
            watcher = self._watcher = self._watching(LogWatch({}, self.rules.log_pattern))
        if state is None or watcher is None or self._failure:
            return pd.DataFrame([], columns=ROUND_COLUMNS)
        if state.state == RESTARTED:
            self.control.enter(state, WATCHING)
        seconds = 0.0 if state.is_done or not self._anything_to_watch else 60 * self.rules.monitor_minutes
        interval = min(LONGEST_INTERVAL, max(0.5, seconds / 30))
        try:
            with (
                closing(watcher),
                self.run.phase("watch"),
                self.run.progress("Watch", max(1, round(seconds)), "seconds") as bar,
            ):
                for sample in watcher.samples(seconds, interval, bar):
                    self._samples.append(sample)
                    gather(self._evidence, self.run.parameters.source, self.run.parameters.target, watcher.answers)
                    if self._watch_failure(watcher):
                        break
        except Interrupted:
            raise
        except Exception as error:
            self._take_back(f"the watch failed: {error}")
            raise
        self._judge_watch(watcher)
        return pd.DataFrame([sample.row() for sample in self._samples], columns=ROUND_COLUMNS)

    def _watch_failure(self, watcher: Watcher) -> str:
        """Why the cutover must be taken back, or "". A matching log line counts at once, a failed request if repeated."""
        recent = self._samples[-ERRORS_IN_A_ROW:]
        lasts = len(recent) == ERRORS_IN_A_ROW and all(sample.trouble for sample in recent)
        return "; ".join(recent[-1].trouble) if lasts or watcher.logs.matches else ""

    @property
    def _anything_to_watch(self) -> bool:
        return bool(self.rules.config_files() or self.rules.restart or self.rules.health or self.rules.log_files)

    def _judge_watch(self, watch: Watcher) -> None:
        samples = self._samples
        queries, slow = sum(r.queries for r in samples), self.run.parameters.monitoring.maximum_latency_ms
        means = [r.mean for r in samples if r.mean is not None]
        self.run.fact("watch", {"rounds": [r.row() for r in samples], "log_lines": watch.logs.line_count,
                                "log_matches": [f"{p}: {line}" for p, line in watch.logs.matches[:20]]})  # fmt: skip
        if failure := self._watch_failure(watch):
            self._take_back(f"the watch found: {failure}")
            return
        mean = sum(means) / len(means) if means else None
        verdict = Verdict.WARNING if mean is None or mean > slow else Verdict.PASS
        reason = ReasonCode.NOT_QUERIED if mean is None else ReasonCode.SLOW_QUERIES
        latency = f"mean of {count(queries, 'query')} in {len(samples)} rounds; latency is {measure.LATENCY}"
        self.run.check(
            "queries at the target", verdict, measured=mean, parameter="monitoring.maximum_latency_ms", threshold=slow,
            relation="≤", unit="ms", reason="" if verdict is Verdict.PASS else reason, detail=watch.skipped or latency,
        )  # fmt: skip
        watched = samples[-1].second if samples and self._anything_to_watch else 0.0
        whole = self.run.lasted("time watched", watched, 60 * Cutover().monitor_minutes, "cutover.monitor_minutes")
        if self.rules.health:
            ill = [r.ill[0] for r in samples if r.ill]  # one that failed once and was well again took nothing back
            self.run.check("health of the application", Verdict.WARNING if ill else whole.verdict, measured=len(samples)-len(ill),
                threshold=len(samples), unit="rounds", reason=ReasonCode.NOT_HEALTHY if ill else "",
                detail="; ".join([*ill[:1], *filter(None, [whole.detail])]))  # fmt: skip
        else:
            self.run.check("health of the application", Verdict.NOT_EXERCISED, measured="not asked", threshold="healthy",
                           parameter="cutover.health", detail="no health URL is named: not seen what it reads")  # fmt: skip
        if not self.rules.restart:
            self.run.check("restart", Verdict.NOT_EXERCISED, parameter="cutover.restart", measured="none", threshold="done",
                           detail="no restart command is named: the application still reads what it read before")  # fmt: skip
        if self.rules.log_files:
            problem = "; ".join(f"{p}: {why}" for p, why in watch.logs.unreadable.items())
            self.run.check(
                "new log lines that mean trouble", Verdict.WARNING if problem else Verdict.PASS,
                measured="not read" if problem else 0, threshold=0, unit="lines",
                reason=ReasonCode.LOG_UNREADABLE if problem else "",
                detail=problem or f"{watch.logs.line_count} new lines",
            )  # fmt: skip

    # -- after ---------------------------------------------------------------------------------------------------------

    def evidence(self) -> str:
        """What shows that the application uses the target; a warning if nothing does. Ends the cutover."""
        if self._failure or self._watcher is None or self._state is None:
            return "There is nothing to show: the application was not switched."
        evidence = self._evidence
        if evidence.says_source:
            self._take_back(f"{', '.join(sorted(evidence.says_source))} still names the source")
            return f"Taken back: {self._failure}."
        sentence = evidence.sentence()
        self.run.check("application at the target", Verdict.PASS if sentence else Verdict.WARNING,
                       measured="seen" if sentence else "not seen", threshold="seen",
                       reason="" if sentence else ReasonCode.APPLICATION_UNSEEN, detail=sentence or UNSEEN)  # fmt: skip
        if not self._state.is_done:
            self.control.enter(self._state, DONE)
        self.run.check("cutover", Verdict.PASS, measured="done", threshold="done", detail=self._state.target)
        self.run.fact("cut_over", {"when": self._state.events[-1]["when"], "target": self._state.target,
                                   "files": [f.path for f in self._state.files], "restarts": len(self.rules.restart),
                                   "writes_again": self._writes_again(), "write_taken": self._attempt.taken_at})  # fmt: skip
        return sentence or UNSEEN

    def _writes_again(self) -> str:
        """When the application last began to run on the target (UTC, ISO 8601); "" if the target did not take its write."""
        if self._attempt.outcome == NOT_TAKEN:
            return ""
        events = self._state.events if self._state is not None else []
        for state in (RESTARTED, WATCHING, DONE):
            if times := [str(e["when"]) for e in events if e["state"] == state]:
                return times[-1]
        return ""

    def undo(self) -> str:
        """The rollback command, and where the original files are kept."""
        state = self.control.state
        if state is None or not state.may_be_applied:
            return "No configuration file differs from what it was; there is nothing to undo."
        kept = ", ".join(f.backup for f in state.files) or "no file was changed"
        return f"{state.sentence()} Back: {self._rollback_command}. The files as they were: {kept}."

    @property
    def _rollback_command(self) -> str:
        return self.run.home.command("rollback")

    def _take_back(self, why: str) -> list[str]:
        """Take the cutover back and record it as the step's failure; return what was done."""
        self._failure = why
        if self._state is not None and self._state.is_done:
            detail = f"{why}; a finished cutover is undone by a person only: {self._rollback_command}"
            self.run.check("cutover", Verdict.FAIL, measured="done earlier, unhealthy now", threshold="done",
                           reason=ReasonCode.CUTOVER_UNWELL, detail=detail)  # fmt: skip
            return []
        with self.run.phase("take the cutover back"):
            results = self.control.take_back(why)
        fence = self._let_writers_go_on() or "the write fence stays up until it is lifted"
        self.run.check("cutover", Verdict.FAIL, measured="undone", threshold="done", reason=ReasonCode.CUTOVER_REVERTED,
                       detail=f"{why}; every configuration file is byte for byte as it was; {fence}; clients may have "
                       f"written to the target meanwhile: {self._rollback_command} exports it")  # fmt: skip
        return results


def _lines_table(lines: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"what was done": lines})


class CutoverControl:
    """The acts of step 25. `state` is saved to disk before each."""

    def __init__(self, folder: RunFolder, parameters: Parameters) -> None:
        self.folder, self.parameters = folder, parameters
        self.rules = parameters.cutover
        self.audit = folder.reports / audit.NAME

    @property
    def state(self) -> CutoverState | None:
        return CutoverState.load(self.folder.workspace)

    @property
    def under_way(self) -> CutoverState | None:
        """The state of a cutover that has changed something and was not taken back; else None."""
        state = self.state
        return state if state is not None and state.may_be_applied and state.state != REVERTING else None

    def edits(self) -> list[Edit]:
        """The edits of all files, in memory; those of files that this run has changed already start from their backups."""
        state, originals = self.under_way, {}
        for file in state.files if state else []:
            if file.now == "after":
                originals[file.real] = _backup_of(file)
        return all_edits(self.parameters, originals)

    def finish_undoing(self) -> list[str]:
        """Finish undoing a cutover if a killed process had begun to; return what was done."""
        state = self.state
        return put_back(self.folder) if state is not None and state.state == REVERTING else []

    def begin(self, edits: list[Edit]) -> CutoverState:
        """Save the plan and the backups; a cutover that is under way already goes on as it was begun."""
        state = self.under_way
        if state is not None:
            if state.rules != self._document():
                raise UsageError(ReasonCode.CUTOVER_CHANGED, "a cutover with other parameters is under way",
                                 next_step=f"Roll that one back first: {self.folder.command('rollback')}")  # fmt: skip
            state.refuse_changed()
            undone = [f.path for f in state.files if state.is_done and f.now != "after"]
            if undone:
                raise Terminal(ReasonCode.CONFIG_CHANGED, "was done, and the file points elsewhere now",
                               where=undone[0], next_step=f"Roll it back: {self.folder.command('rollback')}")  # fmt: skip
            return state
        folder = self.folder.workspace / RunPath.CONFIGURATION
        files = [
            ChangedFile(
                str(e.file.path), str(e.file.real), str(folder / f"{n:02d}-{e.file.real.name}"), e.file.digest, e.after,
                e.file.mode, e.file.uid, e.file.gid,
            )
            for n, e in enumerate(edits, start=1) if e.changes
        ]  # fmt: skip
        state = CutoverState(
            PLANNED, self.parameters.target.label, utc_now(), audit.operator(), files, self._document()
        )
        if (earlier := self.state) is not None:  # clients came then: what they made there stays theirs
            state.collections, state.events = earlier.collections, earlier.events
        state.enter(self.folder.workspace, PLANNED)
        for file, e in zip(files, (e for e in edits if e.changes), strict=True):
            keep(Path(file.backup), e.file.content)
        state.enter(self.folder.workspace, BACKED_UP)
        return state

    def apply(self, state: CutoverState, edits: list[Edit]) -> list[str]:
        """Replace all files or none; return a sentence for each."""
        if state.state not in (BACKED_UP, APPLYING):
            return [f"{file.path} points to the target" for file in state.files]
        new = {str(e.file.real): e for e in edits}
        for file in state.files:
            if new[file.real].after != file.after:
                raise Terminal(ReasonCode.CONFIG_CHANGED, "would become something else than what was planned", where=file.path,
                               next_step=f"Roll the cutover back first: {self.folder.command('rollback')}")  # fmt: skip
        state.refuse_changed()
        facts = {f.path: {"before": f.before, "after": f.after} for f in state.files}
        audit.append(self.audit, "cutover", outcome="begun", target=state.target, files=facts)
        unchanged = [f for f in state.files if f.now == "before"]
        staged = [(f, stage(Path(f.real), new[f.real].new, self.folder.id, mode=f.mode, uid=f.uid, gid=f.gid))
                  for f in unchanged]  # fmt: skip
        if state.collections is None:
            state.collections = quick_names(self.parameters.target, "target")
        state.enter(self.folder.workspace, APPLYING)
        for file, temporary in staged:
            state.refuse_changed()
            put_in_place(temporary, Path(file.real), file.before)
        wrong = [f.path for f in state.files if f.now != "after"]
        if wrong:
            raise EnvironmentFailure(ReasonCode.CONFIG_NOT_WRITTEN, "does not hold what was written", where=wrong[0])
        state.logs = positions(self.rules.log_files)
        state.enter(self.folder.workspace, APPLIED)
        audit.append(self.audit, "cutover", outcome="files changed", target=state.target)
        return [f"{file.path} now points to the target" for file in state.files]

    def restart(self, state: CutoverState) -> list[str]:
        """Run the restart commands, unless they succeeded before a kill; return a sentence for each."""
        if state.state != APPLIED:
            return []
        results = restart(self.rules, self.folder)
        audit.append(self.audit, "cutover", outcome="restarted", commands=self.rules.restart)
        state.enter(self.folder.workspace, RESTARTED)
        return results

    def enter(self, state: CutoverState, name: str) -> None:
        state.enter(self.folder.workspace, name)
        audit.append(self.audit, "cutover", outcome=name, target=state.target)

    def take_back(self, why: str) -> list[str]:
        """Undo the cutover; return what was done. `EnvironmentFailure` (`put_back_failed`) says what failed and what is left."""
        try:
            return put_back(self.folder, why)
        except (RunbookError, OSError) as error:
            problem = error.what if isinstance(error, RunbookError) else str(error)
            where = f"{error.where}: " if isinstance(error, RunbookError) and error.where else ""
            raise EnvironmentFailure(
                ReasonCode.PUT_BACK_FAILED, f"the cutover failed ({why}), and undoing it did not finish: {where}{problem}",
                next_step=f"Correct that, then: {self.folder.command('rollback')}",
            ) from error  # fmt: skip

    def _document(self) -> dict[str, object]:
        return self.rules.model_dump(mode="json", exclude_none=True)


def taken_back(state: CutoverState | None) -> bool:
    return state is not None and state.state == REVERTED


def _backup_of(file: ChangedFile) -> bytes:
    backup = Path(file.backup)
    if digest_of(backup) != file.before:
        raise Terminal(ReasonCode.BACKUP_DAMAGED, "is not the backup that the cutover made", where=str(backup),
                       next_step=f"Compare {file.path} with a backup of your own.")  # fmt: skip
    return backup.read_bytes()
