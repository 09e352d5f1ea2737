"""Step 50: watch the target for an hour while clients use it. It never writes. (Runbook, Section 5, Monitoring.)

An interrupted watch is continued: the time watched before counts, the gap is shown. A watch that ended, also by a breach,
starts again from the beginning.
"""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from helpers import plots
from helpers.cutover.application import LogWatch, positions
from helpers.formatting import count, duration
from helpers.migration.source_changes import prove_unchanged
from helpers.monitoring import measure
from helpers.monitoring.watcher import (
    ERRORS_IN_A_ROW,
    SLOW_IN_A_ROW,
    Breach,
    LiveFigure,
    SampleJournal,
    Watcher,
    WatchSample,
    breach,
)
from helpers.parameters.sections import Monitoring
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Verdict
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUERIES = 40  # least number of a sample, over all collections; percentiles of fewer say little
COLUMNS = ["when", "second", "queries", "p50 ms", "p95 ms", "p99 ms", "cold start ms", "chunks", "problems"]


class MonitorStep(NotebookStep):
    """The notebook's view: the rules, the watch, counts, and what to do."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.rules = run, run.parameters.monitoring
        self.breach: Breach | None = None
        self.journal: SampleJournal | None = None
        self.first: WatchSample | None = None

    @cached_property
    def validated(self) -> dict[str, int]:
        """Chunks by target collection as step 23 counted them, or step 25 after the last changes."""
        cut = self.run.earlier(Step.CUTOVER)
        if cut is not None and (last := cut.facts.get("targets")):
            return {str(name): int(n) for name, n in last.items()}
        rows = self.run.require(Step.VALIDATE).facts.get("targets") or []
        return {str(r["collection"]): int(r["target"]) for r in rows if r.get("target") is not None}

    @cached_property
    def watcher(self) -> Watcher:
        names = max(1, len(self.validated))
        chosen = measure.choose_probes(self.run, measure.TARGET, max(2, -(-QUERIES // names)))
        rules = self.run.parameters.cutover
        logs = LogWatch(positions(rules.log_files), rules.log_pattern)  # lines from now on
        return Watcher.of_target(
            self.run.parameters.target, chosen, counts=self.validated, shrink_limit=self.rules.shrink_limit,
            health=rules.health, logs=logs,
        )  # fmt: skip

    @property
    def samples(self) -> list[WatchSample]:
        return self.journal.samples if self.journal is not None else [self.first] if self.first is not None else []

    def source(self) -> str:
        """Read the source in full, while it is fenced, where step 25 relied on nginx's log to know what was not written."""
        cut = self.run.earlier(Step.CUTOVER)
        last = (cut.facts.get("last_changes") or {}) if cut is not None else {}
        unread = [*last.get("unread", ()), *last.get("by_id", ())]
        if not unread or self.run.dry_run:
            return "Step 25 read every collection of the source in full; there is nothing to compare again."
        changes = prove_unchanged(self.run)
        self.run.check(
            "source as it was cut over", Verdict.PASS if changes.nothing else Verdict.FAIL, threshold=0, unit="changes",
            measured=changes.total, reason="" if changes.nothing else ReasonCode.CHANGES_MISSED, offenders=changes.total,
            ids=changes.examples(), detail=f"{changes.sentence()}; step 25 did not read {', '.join(unread[:5])} in full",
        )  # fmt: skip
        return changes.sentence()

    def plan(self) -> pd.DataFrame:
        """The rules of the watch: how long, how often, the queries, and what ends it early."""
        rules, chosen = self.rules, self.watcher.probes
        seed = self.run.parameters.validation.seed
        rows = [
            ("watched", duration(60 * rules.minutes)),
            ("a look every", duration(rules.interval_seconds)),
            ("queries a look", f"{len(chosen)} stored vectors of {count(len(self.validated), 'collection')}, seed {seed}"),
            ("latency is", measure.LATENCY),
            ("health URLs", ", ".join(self.watcher.health) or "none are named (cutover.health)"),
            ("ends early", f"errors in {ERRORS_IN_A_ROW} samples in a row"),
            ("ends early", f"p95 above {rules.maximum_latency_ms:g} ms in {SLOW_IN_A_ROW} samples in a row"),
            ("ends early", f"a collection that stays more than {self.rules.shrink_limit:g} of its validated count below it"),
            ("logs", ", ".join(self.run.parameters.cutover.log_files) or "none are named (cutover.log_files)"),
            ("ends early", f"application unhealthy, or new log lines that mean trouble, in {ERRORS_IN_A_ROW} samples in a row"),
            ("after an interruption", "the rest is watched; the gap is shown"),
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["what", "rule"])

    def before(self) -> pd.DataFrame:
        """Take one sample: each collection compared with its validated count. Growth is normal: clients write."""
        self.first = self.watcher.sample(0.0)
        return self.counts()

    def counts(self) -> pd.DataFrame:
        """Chunks by collection: validated, in the first and the last sample, and the growth."""
        first, last = (self.samples[0].counts, self.samples[-1].counts) if self.samples else ({}, {})
        rows = [
            (n, v, first.get(n), last.get(n), last[n] - v if n in last else None) for n, v in self.validated.items()
        ]
        return pd.DataFrame(rows, columns=["collection", "validated", "first look", "last look", "growth"])

    def watch(self) -> pd.DataFrame:
        """Take samples until the time is over or a rule is broken; one row for each."""
        if self.run.dry_run:
            self.watcher.close()
            self.run.check("watch", Verdict.NOT_EXERCISED, measured="one sample", threshold=duration(60 * self.rules.minutes),
                           reason=ReasonCode.DRY_RUN,
                           detail="a dry run takes one sample and does not watch")  # fmt: skip
            return self._table()
        self.journal = SampleJournal(self.run.workspace)
        if self.journal.resumed:
            self.run.log(f"goes on with the watch in {self.journal.path.name}, {len(self.journal.samples)} looks")
        seconds, journal, live = 60 * self.rules.minutes, self.journal, LiveFigure()
        watched = journal.samples[-1].second if journal.samples else None
        with (
            closing(self.watcher),  # also after an interrupt: an idle kernel must not hold a directory open
            self.run.phase("watch"),
            self.run.progress("Watch", max(1, round(seconds)), "seconds") as bar,
        ):
            bar.already(min(round(watched or 0.0), bar.total))
            for sample in self.watcher.samples(seconds, self.rules.interval_seconds, bar, watched):
                journal.add(sample)
                live.show(self.figure)
                self.breach = breach(journal.samples, self.rules.maximum_latency_ms)
                if self.breach is not None or (self.watcher.skipped and not self._asks_application):
                    break
        journal.end(self.breach.code if self.breach is not None else "done")
        self._judge(self.journal)
        return self._table()

    @property
    def _asks_application(self) -> bool:
        rules = self.run.parameters.cutover
        return bool(rules.health or rules.log_files)

    def _judge(self, journal: SampleJournal) -> None:
        run, samples = self.run, journal.samples
        values = [sample.p95 for sample in samples if sample.p95 is not None]
        breached = self.breach
        run.fact("monitoring", {
            "looks": len(samples), "failed_looks": sum(bool(s.problems or s.ill or s.shrunk) for s in samples),
            "seconds": round(samples[-1].second, 1) if samples else 0.0, "worst_p95_ms": max(values, default=None),
            "cold_ms": [round(sample.cold, 1) for sample in samples if sample.cold is not None],
            "breach": breached.code if breached else "", "journal": journal.path.name,
            "counts": self.counts().to_dict("records"), "rows": [sample.row() for sample in samples[-500:]],
        })  # fmt: skip
        if self.watcher.skipped:
            run.check("answers of the target", Verdict.NOT_EXERCISED, measured="not queried", threshold="answered",
                      reason=ReasonCode.NOT_QUERIED, detail=self.watcher.skipped)  # fmt: skip
        else:
            self._judge_target(samples, values)
        watched = samples[-1].second if samples else 0.0
        whole = run.lasted("time watched", watched, 60 * Monitoring().minutes, "monitoring.minutes")
        if self._asks_application:
            ill = [sample for sample in samples if sample.ill]
            ended = breached is not None and breached.code == ReasonCode.NOT_HEALTHY
            lines = "; ".join(filter(None, [whole.detail, f"{self.watcher.logs.line_count} new log lines"]))
            detail = self._ended() if ended else ill[0].ill[0] if ill else lines
            run.check("health of the application", Verdict.FAIL if ended else Verdict.WARNING if ill else whole.verdict,
                      measured=len(samples) - len(ill), threshold=len(samples), unit="looks",
                      reason=ReasonCode.NOT_HEALTHY if ill else "", detail=detail)  # fmt: skip
        else:
            run.check("health of the application", Verdict.NOT_EXERCISED, measured="not asked", threshold="healthy",
                      detail="cutover.health and cutover.log_files name nothing to watch")  # fmt: skip
        gaps = journal.gaps(self.rules.interval_seconds)
        if gaps:
            unseen = duration(sum(seconds for _, seconds in gaps))
            run.check(
                "gaps in the watch",
                Verdict.WARNING,
                measured=len(gaps),
                threshold=0,
                unit="gaps",
                reason=ReasonCode.WATCH_INTERRUPTED,
                detail=f"the watch was interrupted; {unseen} were not watched",
            )

    def _judge_target(self, samples: list[WatchSample], values: list[float]) -> None:
        run, failed = self.run, [sample for sample in samples if sample.problems or sample.shrunk]
        ended = self.breach is not None and self.breach.code != ReasonCode.NOT_HEALTHY
        code: Reason = (
            self.breach.code if ended and self.breach is not None else ReasonCode.TARGET_ERRORS if failed else ""
        )
        run.check("answers of the target", Verdict.FAIL if ended else Verdict.WARNING if failed else Verdict.PASS,
                  measured=len(samples) - len(failed), threshold=len(samples), unit="looks", reason=code,
                  detail=self._ended() if ended else self._detail(failed))  # fmt: skip
        last = samples[-1]
        shrunk, fewer = last.shrunk, last.fewer
        run.check(
            "collections below their validated count",
            Verdict.FAIL if shrunk else Verdict.WARNING if fewer else Verdict.PASS,
            measured=len(shrunk) + len(fewer),
            threshold=0,
            unit="collections",
            parameter="monitoring.shrink_limit",
            reason=ReasonCode.COUNT_SHRINKS if shrunk or fewer else "",
            detail="; ".join(shrunk + fewer)
            or f"{count(sum(last.counts.values()), 'chunk')}; {sum(self.validated.values()):,} were validated",
        )
        slow = [v for v in values if v > self.rules.maximum_latency_ms]
        cold = [sample.cold for sample in samples if sample.cold is not None]
        opened = (
            f"; opened {count(len(cold), 'time')}, cold start up to {max(cold):,.0f} ms, apart from it" if cold else ""
        )
        verdict = Verdict.WARNING if slow else Verdict.PASS if values else Verdict.NOT_EXERCISED
        run.check("p95 of the queries", verdict, measured=max(values, default=None),
                  parameter="monitoring.maximum_latency_ms", threshold=self.rules.maximum_latency_ms, relation="≤", unit="ms",
                  reason=ReasonCode.SLOW_QUERIES if slow else "",
                  detail=(f"{count(len(slow), 'sample')} above it, warm{opened}" if slow else f"the slowest sample, warm{opened}"
                          if values else "no query was answered"))  # fmt: skip

    def _ended(self) -> str:
        return f"ended early: {self.breach.sentence}. {self._way_out()}" if self.breach is not None else ""

    def _detail(self, failed: list[WatchSample]) -> str:
        if failed:
            return f"{count(len(failed), 'look')} failed, never {ERRORS_IN_A_ROW} in a row: {self._problem(failed[0])}"
        unjudged = f"; {len(self.watcher.blind)} not judged: the index did not find them in the first sample either"
        return f"{len(self.watcher.probes)} stored vectors per sample" + (unjudged if self.watcher.blind else "")

    def _problem(self, sample: WatchSample) -> str:
        return next(iter([*sample.problems, *sample.ill, *sample.shrunk]), "")

    def _way_out(self) -> str:
        return f"Clients still use the target. To roll back: {self.run.home.command('rollback', '--dry-run')}"

    def what_to_do(self) -> str:
        """The next action after this watch."""
        if self.breach is None:
            return "Nothing is due: go on with 51."
        advice = f"Once the cause is gone, start the watch again: {self.run.home.command('resume')}"
        if self.breach.code == ReasonCode.COUNT_SHRINKS:
            more = self.run.home.command("resume", "--set", "monitoring.shrink_limit=SHARE")
            advice += f"\nIf clients deleted these chunks, allow so many: {more}"
        return f"{self.breach.sentence}.\n{self._way_out()}\n{advice}"

    def timeline(self) -> None:
        """Draw the latency of each sample with its limit, and the chunks."""
        self.run.figure(
            "latency",
            self.figure(),
            "Latency of stored vectors searched for at the target, sample by sample, and its chunks.",
        )

    def figure(self) -> Figure:
        gaps = self.journal.gaps(self.rules.interval_seconds) if self.journal is not None else []
        rows = [
            {"second": s.second, "p50": s.p50, "p95": s.p95, "p99": s.p99, "chunks": sum(s.counts.values()) if s.counts else None,
             "failed": bool(s.problems or s.ill or s.shrunk)} for s in self.samples
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["second", "p50", "p95", "p99", "chunks", "failed"])
        ended = self.breach.sentence if self.breach is not None else ""
        return plots.watch_timeline(frame, limit_ms=self.rules.maximum_latency_ms, validated=sum(self.validated.values()),
                                    planned=60 * self.rules.minutes, gaps=gaps, ended=ended)  # fmt: skip

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame([sample.row() for sample in self.samples], columns=COLUMNS)
