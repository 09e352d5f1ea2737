"""Step 53: the migration is closed out. (Runbook, Section 5, Documentation Update and Cleanup.)

Figures first, all of them measured; then what changes something, each part repeatable after a kill: temporary files go, the
fence is lifted, a marker left in the target is given back. The summary is always written; the success record only where
it is one. What a rollback needs stays until the retention of the snapshots ends, so the way back stays open until then.
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from functools import cached_property
from typing import Any

import pandas as pd

from helpers import audit, plots
from helpers.aftermath import durations, leftovers
from helpers.aftermath.fence_end import FenceEnd
from helpers.aftermath.lessons import Lessons
from helpers.errors import RUNBOOK
from helpers.fence import who_has_open
from helpers.parameters import resolve_path
from helpers.report import markdown, record
from helpers.report.facts import RunView, StepRow, read_run
from helpers.report.outcome import outcome
from helpers.results import Verdict, read_state, utc_now, worst, write_json, write_text
from helpers.run import plan
from helpers.run.record import NotebookStep, RunRecord
from helpers.stores import open_target
from helpers.words import count, duration, moment, size

BEFORE = ("25", "50", "51", "52")
_STATE = "closeout.json"


class Closeout(NotebookStep):
    """The notebook's view, one method a cell. Nothing is touched where a step before it has not passed, or in a dry run."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.parameters = run, run.parameters
        self.fenced = FenceEnd(run)
        self.lesson_file = Lessons(run)
        self._ready = False

    # -- what there is to close ----------------------------------------------------------------------------------------

    def standing(self) -> pd.DataFrame:
        """The cutover and the steps after it; all must have passed."""
        rows, open_ones = [], []
        for number in BEFORE:
            step, result = plan.find(number), self.run.home.result(number)
            verdict = str(result.verdict) if result is not None else "not run"
            rows.append((f"{number} {step.title}", verdict, duration(result.seconds) if result is not None else ""))
            if result is None or result.error is not None or result.verdict is Verdict.FAIL:
                open_ones.append(f"{number} {step.title}")
        done = self.run.home.result("25")
        if done is not None and not done.facts.get("cut_over") and not open_ones:
            open_ones.append("25: no cutover is recorded")
        self.run.check("cut over, watched, measured and tested", Verdict.FAIL if open_ones else Verdict.PASS,
                       measured=len(BEFORE) - len(open_ones), threshold=len(BEFORE), unit="steps",
                       reason="not_ready_to_close" if open_ones else "", detail=", ".join(open_ones))  # fmt: skip
        self._ready = not open_ones and not self.run.dry_run
        return pd.DataFrame(rows, columns=["step", "verdict", "took"])

    def durations(self) -> pd.DataFrame:
        """Each step: what the runbook gives it, what the dry run estimated, what it took."""
        rows = self._durations
        seconds, how = durations.downtime(self.run.home)
        if seconds:
            self.run.fact("downtime_seconds", round(seconds, 1))
        self.run.fact("downtime", how)
        self.run.fact("durations", rows)
        dry = self.run.earlier("13")
        estimate = dry.facts.get("estimate_seconds") if dry is not None else None
        took = sum(r["actual"] for r in rows if r["estimate"] is not None)
        late = estimate is not None and took > 2 * float(estimate) and took - float(estimate) > 60
        self.run.check("the dry run's estimate", Verdict.WARNING if late else Verdict.PASS, measured=round(took, 1),
                       threshold=estimate, unit="s", reason="too_slow" if late else "",
                       detail="more than twice as long as estimated" if late else "of the steps that it estimated")  # fmt: skip
        columns = ["step", "the runbook", "estimated", "took"]
        return pd.DataFrame([[r["step"], *map(str, _words(r))] for r in rows], columns=columns)

    @cached_property
    def _durations(self) -> list[dict[str, Any]]:
        return durations.rows(self.run.home)

    def timeline(self) -> None:
        """The figure of it."""
        drawn = plots.durations(self._durations)
        self.run.figure(
            "durations", drawn, "How long each step took, beside the dry run's estimate and the runbook's own figure."
        )

    def lessons(self) -> pd.DataFrame:
        """Deviations and findings of the run, and what people wrote into the file of lessons."""
        view = self._view()
        rows = [("deviation", line) for line in record.deviations(view)]
        rows += [("finding", line) for line in record.findings(view)]
        rows += [("written", line) for line in self.lesson_file.written()]
        if self._ready:
            self.lesson_file.begin()
        return pd.DataFrame(rows, columns=["kind", "lesson"])

    # -- what goes and what stays --------------------------------------------------------------------------------------

    def retention(self) -> pd.DataFrame:
        """What stays, where, until when, and how it is removed then."""
        kept = leftovers.retention(self.run.home, self.parameters)
        self.run.fact("retention", [asdict(row) for row in kept])
        self.run.fact("rollback_possible_until", leftovers.retained_until(self.run.home))
        rows = [(k.what, k.where, size(k.bytes) if k.bytes else "", leftovers.when(k.until), k.how) for k in kept]
        return pd.DataFrame(rows, columns=["what", "where", "size", "kept until", "how it goes"])

    def clean(self) -> pd.DataFrame:
        """Temporary files, listed before any of them goes."""
        found = leftovers.temporary(self.run.home, self.parameters)
        rows = [(str(path), leftovers.size(path)) for path in found]
        state = self._state()
        if self._ready and found:
            state["removed"] = {**state.get("removed", {}), **dict(rows)}
            write_json(self.run.workspace / _STATE, state)  # the list is on disk before the first of them goes
            log = self.run.folder / audit.NAME
            audit.append(log, "temporary files removed", outcome="begun", files=dict(rows))
            for path in found:
                leftovers.remove(path)
            audit.append(log, "temporary files removed", bytes=sum(b for _, b in rows))
        removed: dict[str, int] = state.get("removed", {}) if self._ready else {}
        self.run.fact("removed", removed)
        left = leftovers.temporary(self.run.home, self.parameters) if self._ready else []
        if self._ready:
            told = ", ".join(map(str, left)) or size(sum(removed.values()))
            self.run.check("temporary files removed", Verdict.WARNING if left else Verdict.PASS, measured=len(removed),
                           unit="files", reason="not_cleaned" if left else "", detail=told)  # fmt: skip
        said = "removed" if self._ready else "would be removed"
        shown = list(removed.items()) if self._ready else rows
        return pd.DataFrame([(p, size(b), said) for p, b in shown], columns=["file", "size", "what became of it"])

    def _state(self) -> dict[str, Any]:
        hint = f"Set this file aside and repeat: {RUNBOOK} resume; it only says what was removed."
        found = read_state(self.run.workspace / _STATE, dict, "closeout_state_damaged", hint)
        return found or {"run": self.run.id, "since": utc_now(), "by": audit.operator()}

    # -- fence and marker ----------------------------------------------------------------------------------------------

    def fence(self) -> pd.DataFrame:
        """Where the fence stands, who is seen at it, and what lifting it means. Nothing is changed here."""
        return self.fenced.look()

    def lift_fence(self) -> str:
        """Let writes to the old source through again, where nobody is seen there; proven by a write probe."""
        if self.run.dry_run:
            self.run.check("closeout", Verdict.WARNING, measured="dry run", threshold="done", reason="dry_run",
                           detail="a dry run shows what it would do and touches nothing")  # fmt: skip
        return self.fenced.end(act=self._ready)

    def give_back(self) -> str:
        """The marker by which this run claimed the target, where it still stands there."""
        target = self.parameters.target
        if not self._ready:
            return f"Not looked at: {target.label} is opened only where it may be given back."
        if target.path is not None and (found := who_has_open(resolve_path(target.path))).processes:
            return f"Not looked at: {found.sentence()} has the target open; step 22 gave the marker back."
        with open_target(target) as store:
            holder = store.lock_holder() or {}
            ours = holder.get("run_id") == self.run.id
            if ours:
                store.release_lock(self.run.id)
                audit.append(self.run.folder / audit.NAME, "target given back", target=target.label)
        if not ours:
            return f"No marker of this run is in {target.label}."
        return f"The marker of this run in {target.label} was given back."

    # -- the record ----------------------------------------------------------------------------------------------------

    def contacts(self) -> pd.DataFrame:
        """Whom to call, also after the night."""
        return pd.DataFrame(self._contacts(), columns=["who", "contact"])

    def _contacts(self) -> list[tuple[str, str]]:
        said = self.parameters.contacts.named
        names = {"on_call": "On-call engineer (level 4)", "dba": "Database administrator (level 2)",
                 "operations_lead": "Operations lead (level 3)", "channel": "Channel", "war_room": "War room"}  # fmt: skip
        return [(words, getattr(said, key) or f"not named (contacts.{key})") for key, words in names.items()]

    def record(self) -> pd.DataFrame:
        """The lines of the success record, as the run's page has them."""
        rows = [(i.label, i.measured, i.verdict) for i in record.record(self._view())]
        return pd.DataFrame(rows, columns=["item", "this run", "verdict"])

    def write(self) -> str:
        """CHROMADB_MIGRATION_SUMMARY.md, and CHROMADB_MIGRATION_SUCCESS.md where it is a success."""
        view = self._view()
        facts = self._facts(view)
        text, good = markdown.summary(facts), record.closed(view)
        if self.run.dry_run:
            return f"DRY RUN: nothing was written. The summary would be:\n\n{text}"
        write_text(self.run.folder / markdown.SUMMARY, text)
        said = [str(self.run.folder / markdown.SUMMARY)]
        if good:
            write_text(self.run.folder / markdown.SUCCESS, markdown.success(facts))
            said.append(str(self.run.folder / markdown.SUCCESS))
        self.run.fact("success", good)
        state, why = record.status(view)
        audit.append(
            self.run.folder / audit.NAME, "closeout", outcome=state.lower(), files=[p.rpartition("/")[2] for p in said]
        )
        if not good:
            said.append(f"No success record: {state}. {why}")
        return "\n".join([*said, f"To take it along, sealed: {self.run.home.command('archive')}"])

    def _view(self) -> RunView:
        """The run as its page has it, with this step as it stands now."""
        view = read_run(self.run.folder)
        mine = dataclasses.replace(
            self.run.result, finished=utc_now(), verdict=worst(c.verdict for c in self.run.result.checks)
        )
        row = StepRow(self.run.step, mine.title, mine.verdict.value, result=mine)
        view.steps = [row if s.number == self.run.step else s for s in view.steps]
        view.outcome = outcome(view)
        return view

    def _facts(self, view: RunView) -> dict[str, Any]:
        status, why = record.status(view)
        items = {i.label.partition(" (")[0]: i.measured for i in record.record(view)}
        rate = view.fact("queries_per_second")
        began = {r.number: r.result.started for r in view.steps if r.result is not None}
        rows = [dict(zip(("step", "runbook", "estimate", "actual"), (r["step"], *_words(r)), strict=True),
                     began=moment(began.get(r["number"], ""))) for r in self._durations]  # fmt: skip
        expected = self.parameters.expected.total
        written = self.lesson_file.written()
        until = leftovers.when(leftovers.retained_until(self.run.home))
        dry = self.run.earlier("13")
        machine = dry.facts.get("estimate_seconds") if dry is not None else None
        estimate = f"{durations.RUNBOOK_TOTAL} (the runbook)" + (
            f"; {duration(machine)} of work (dry run)" if machine else ""
        )
        return {
            "run": self.run.id, "rehearsal": self.run.rehearsal, "date": view.date, "status": status, "why": why, "items": items,
            "execution": items["Execution time"], "estimated": estimate,
            "expected_chunks": count(expected, "chunk") if expected else "as found in the source",
            "limit_ms": self.parameters.monitoring.maximum_latency_ms, "durations": rows, "tools": record.tools(view),
            "collections": [(i.label.removeprefix("Collection "), i.measured) for i in record.record(view)
                            if i.label.startswith("Collection ")],
            "deviations": record.deviations(view), "findings": record.findings(view),
            "retention": [{"what": k.what, "until": leftovers.when(k.until), "how": k.how}
                          for k in leftovers.retention(self.run.home, self.parameters)],
            "way_back": f"It stays open until {until}, when the snapshots may go:",
            "rollback": self.run.home.command("rollback", "--dry-run"), "contacts": self._contacts(),
            "rate": f"{rate:,.0f}" if isinstance(rate, int | float) else "not recorded",
            "after": record.after(view), "lessons": [*written, *record.deviations(view), *record.findings(view)][:40],
            "written": bool(written), "lessons_file": str(self.lesson_file.path),
            "again": self.lesson_file.again,
            "signoffs": record.signed(view),
        }  # fmt: skip


def _words(row: dict[str, Any]) -> tuple[str, str, str]:
    """(the runbook's, estimated, took) of one row, for people."""
    low, high = row["runbook_low"], row["runbook_high"]
    said = "–" if high is None else f"{high / 60:.0f} min" if low == high else f"{low / 60:.0f} to {high / 60:.0f} min"
    return said, "–" if row["estimate"] is None else duration(row["estimate"]), duration(row["actual"])
