"""Step 27, stage by stage: the notebook's view of a rollback. (Runbook, Section 2, Step 7b, and Appendix E.)

The order loses nothing. The source is proven before clients return to it. What clients wrote to the target is on disk and at
the source before the fence is lifted. Only then is anything removed. Each stage is in rollback.json before it begins; the
command, repeated after a kill, reads the present state again and does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import plots
from helpers import rollback as outline
from helpers.cutover import CutoverState, put_back
from helpers.cutover.application import NOT_TAKEN, try_write
from helpers.errors import RUNBOOK, EnvironmentFailure, Terminal
from helpers.fence import LIFTING, UNTRIED, FenceControl, FenceState, lift
from helpers.formatting import count
from helpers.migration import shipping
from helpers.migration.source_changes import WrittenData
from helpers.migration.target_lock import remove_made_database
from helpers.monitoring import measure
from helpers.monitoring.watcher import Watcher
from helpers.parameters.sections import Fence, Rollback
from helpers.reason_codes import ReasonCode
from helpers.report.outcome import FENCE_END
from helpers.results import Progress, Verdict, silent, utc_now
from helpers.rollback import others_at_work, postmortem
from helpers.rollback.proof import SourceProof, StageContext
from helpers.rollback.replay import Exported, Written, as_added, as_known, exported
from helpers.rollback.return_writes import ReturnWrites
from helpers.run.command import used_by
from helpers.run.record import NotebookStep, RunRecord, open_chosen
from helpers.stores import Store, listed_ids, open_target
from helpers.stores.layout import is_new
from helpers.stores.opening import missing_levels, quick_identities, quick_names

# -- removal -----------------------------------------------------------------------------------------------------------

# Remove from the target exactly what this run made: its records, then its collections, then its lock. Nothing of others.
#
# Records first (chroma-facts 18: a collection dropped with its records in it leaks list-valued metadata into later ones).
# A collection with a chunk that this run did not write is not dropped.


BATCH = 500
PROBES = 3  # stored vectors searched for in each collection of the source, in each sample
LONGEST_INTERVAL = 60.0  # seconds between two samples


@dataclass(slots=True)
class Removed:
    """What was removed. `chunks` and `of_clients` (those that clients wrote, exported before): chunks by collection. `dropped`:
    collections. `foreign`: chunks of others by collection, which is not dropped. `others`: collections that others made under
    the name of one of this run."""

    chunks: dict[str, int] = field(default_factory=dict)
    of_clients: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    foreign: dict[str, int] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def remove(
    store: Store, written: WrittenData, known: dict[str, Exported], keep: Callable[[list[Written]], Path] | None = None, *,
    progress: Progress = silent,
) -> Removed:  # fmt: skip
    """Remove what the run of `written` wrote. `known`: by collection, clients' writes that are exported. `keep` exports further
    ones, None where the target was never in use.

    A chunk of a target in use is compared directly before it is deleted. What came or changed since it was read stays, is
    exported, and raises `Terminal` ("target_in_use"). A write between the comparison of a batch and its deletion is lost.
    """
    run_id, done = written.folder.id, Removed(others=written.replaced(store))
    existing = set(store.names()) - set(done.others)
    owned = [name for name in written.collections if name in existing]
    if not owned and (store.lock_holder() or {}).get("run_id") != run_id:
        return done
    store.acquire_lock(run_id)
    extra: dict[str, set[str]] = {}
    present = {name: listed_ids(store, name) for name in owned}
    for name in owned:
        extra[name] = set(present[name]) - written.ids(name)
        if keep is not None and (held := known.get(name)):
            extra[name] -= {*held.chunks.ids, *held.unreadable}
    if keep is not None:
        _require_as_read(store, written, known, extra, keep)
    late: dict[str, set[str]] = {}
    for name in owned:
        ids = [chunk for chunk in present[name] if chunk not in extra[name]]
        batches: Iterable[list[str]] = (ids[at : at + BATCH] for at in range(0, len(ids), BATCH))
        if keep is not None:
            batches = as_known(store, written, name, known.get(name, Exported()), BATCH)
        done.chunks[name], done.of_clients[name], own = 0, 0, written.ids(name)
        for batch in filter(None, batches):
            store.delete(name, batch)
            progress.advance(len(batch))
            done.chunks[name] += len(batch)
            done.of_clients[name] += sum(chunk not in own for chunk in batch)
        if keep is not None and (remaining := set(listed_ids(store, name))):
            late[name] = remaining
        elif extra[name]:
            done.foreign[name] = len(extra[name])
        else:
            store.drop(name)
            done.dropped.append(name)
    if keep is not None and late:
        raise _in_use(store, written, late, keep)
    store.release_lock(run_id)
    return done


def _require_as_read(
    store: Store,
    written: WrittenData,
    known: dict[str, Exported],
    extra: dict[str, set[str]],
    keep: Callable[[list[Written]], Path],
) -> None:
    """Raise as `remove` where a collection has settings, or chunks (`extra`), that were not read before."""
    for name, ids in extra.items():
        others, read = written.other_settings(store.info(name)), known.get(name, Exported()).settings
        if any(read.get(setting) != value for setting, value in others.items()):
            raise _in_use(store, written, {name: ids}, keep, f"its {', '.join(others)}")
    if any(extra.values()):
        raise _in_use(store, written, extra, keep)


def _in_use(
    store: Store,
    written: WrittenData,
    late: dict[str, set[str]],
    keep: Callable[[list[Written]], Path],
    settings: str = "",
) -> Terminal:
    """Export `late`, ids by collection, and return the error. `settings` names those of the one collection that changed."""
    affected = {name: ids for name, ids in late.items() if ids or settings}
    folder = keep([as_added(store, written, name, ids) for name, ids in affected.items()])
    name, number, run_id = min(affected), sum(map(len, affected.values())), written.folder.id
    problem = (
        f"{number:,} chunks came or changed since it was read, such as {min(affected[name])}" if number else settings
    )
    return Terminal(
        ReasonCode.TARGET_IN_USE,
        f"{problem}{'' if number else ' changed since it was read'}. They are still there, and exported to {folder}",
        where=f"collection {name} of {store.label}",
        next_step="Find out who still writes there and stop it; put into the source what is wanted of them. Then repeat, which "
        f"removes them: {RUNBOOK} rollback {run_id}",
    )  # fmt: skip


# -- rollback ----------------------------------------------------------------------------------------------------------


class RollbackStep(NotebookStep):
    """The notebook's view: one method for each stage; each can be repeated."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.context = run, StageContext(run)
        self.source = SourceProof(self.context)
        self.clients = ReturnWrites(self.context, self.source)
        if not run.dry_run:
            postmortem.set_earlier_aside(run)

    @cached_property
    def control(self) -> FenceControl:
        fence = FenceState.load(self.run.workspace)
        rules = Fence.model_validate(fence.rules) if fence else None
        return FenceControl(self.run.home, self.run.parameters, rules)

    # -- the stages ----------------------------------------------------------------------------------------------------

    def plan(self) -> pd.DataFrame:
        """The stages in order, and who ordered the rollback."""
        rows = outline.outline(self.run.home)
        self.run.fact("plan", rows)
        if self.run.rehearsal and self.context.state.orders.why == outline.DRILL:
            rows = [("DRILL", postmortem.DRILLING), *rows]
        if self.run.dry_run:
            self.run.check("rollback", Verdict.NOT_EXERCISED, measured="dry run", threshold="done",
                           detail="a dry run compares source and target, and changes nothing")  # fmt: skip
        return pd.DataFrame(rows, columns=["stage", "what"])

    def stop(self) -> str:
        """Check that no other process works on the run. (`runbook rollback` stops it before this notebook begins.)"""
        with self.context.stage(outline.STOP) as row:
            others = others_at_work(self.run.home)
            if others:
                pid, host = min(others.items())
                raise EnvironmentFailure(ReasonCode.MIGRATION_RUNS, f"process {pid} on {host} works on run {self.run.id}",
                                 next_step=f"Use the command, which stops it: {self.run.home.command('rollback')}")  # fmt: skip
            if self.context.cutover is not None and self.context.cutover.may_be_applied:
                self.context.cutover.refuse_changed()  # before anything is touched
            stopped = self.context.state.facts.get("stopped", [])
            row["said"] = f"stopped process {', '.join(map(str, stopped))}" if stopped else "no migration was at work"
        verdict = Verdict.PASS if stopped else Verdict.NOT_EXERCISED
        self.run.check("work on the migration", verdict, measured="nobody at work", threshold="nobody at work",
                       detail=row["said"])  # fmt: skip
        return str(row["said"])

    def prove_source(self) -> pd.DataFrame:
        """Compare every chunk of the source with the snapshot; repair the source from it where that was ordered."""
        return self.source.prove()

    def client_writes(self) -> pd.DataFrame:
        """Export what clients wrote to the target since the cutover; stop where nobody has decided about it."""
        return self.clients.look(outline.WRITES)

    def replay(self) -> pd.DataFrame:
        """Write these changes to the source, compared chunk by chunk."""
        return self.clients.replay(outline.REPLAY)

    def put_back(self) -> list[str]:
        """Restore the configuration files byte for byte, restart, check health; then read the source as clients do."""
        if self.run.dry_run:
            files = self.context.cutover.files if self.context.cutover else []
            lines = [f"would put back {file.path} ({file.now})" for file in files]
            return lines or ["no configuration file was changed by this run"]
        with self.context.stage(outline.FILES) as row:
            lines = put_back(self.run.home, f"rollback: {self.context.state.orders.why or 'ordered'}", self.run.step)
            self.context.cutover = CutoverState.load(self.run.workspace)
            changed = [f.path for f in self.context.cutover.files if f.now != "before"] if self.context.cutover else []
            self.run.check("configuration files that differ", Verdict.FAIL if changed else Verdict.PASS, measured=len(changed),
                           threshold=0, unit="files", reason=ReasonCode.CONFIG_CHANGED if changed else "",
                           detail=", ".join(changed))  # fmt: skip
            lines.append(self._reads())
            row["said"] = "; ".join(lines)
        return lines

    def _reads(self) -> str:
        if not self.control.clients_url:
            return "a directory is read by whatever uses it"
        with self.control.probe(self.control.clients_url, "clients' URL") as probe:
            failed = [answer for answer in probe.reads() if not answer.answered]
        if failed:
            raise EnvironmentFailure(
                ReasonCode.READS_REFUSED,
                f"{failed[0].action}: {failed[0].outcome} {failed[0].message}",
                where=self.control.clients_url,
                next_step=f"Bring the source up, then repeat: {self.run.home.command('rollback')}",
            )
        self.run.check("reads of the source", Verdict.PASS, measured="answered", threshold="answered",
                       detail=self.control.clients_url)  # fmt: skip
        return f"reads through {self.control.clients_url} are answered"

    def settle(self) -> pd.DataFrame:
        """Read the target once more, now that clients use the source, and replay what was written in between."""
        if self.run.dry_run:
            return self.clients.table([])
        with self.context.stage(outline.SETTLE) as row:
            table = self.clients.replay_new()
            row["said"] = self.clients.sentence
            return table

    def lift(self) -> str:
        """Let writes to the source through again, and prove it by one: ours at a server, the application's where the parameters
        name a probe."""
        state = FenceState.load(self.run.workspace)
        if self.run.dry_run:
            return (state.sentence() if state else "") or "there is no fence to lift"
        rules = self.context.cutover.cutover if self.context.cutover is not None else self.run.parameters.cutover
        with self.context.stage(outline.LIFT) as row:
            outcome = lift(self.run.home)
            row["said"] = (
                outcome.replace(UNTRIED, "the application tries a write next") if rules.write_probe else outcome
            )
            taken = utc_now() if state is not None and self.control.clients_url else ""
        with self.context.stage(outline.TRY) as row:
            attempt = try_write(rules, self.run.home, self.run.step)
            row["said"] = attempt.detail
            if attempt.outcome == NOT_TAKEN:
                raise EnvironmentFailure(
                    ReasonCode.WRITES_REFUSED, f"a write of the application is not taken yet: {attempt.detail}",
                    where=self.run.parameters.source.label,
                    next_step=f"Let the application write, then repeat: {self.run.home.command('rollback')}",
                )  # fmt: skip
            taken = attempt.taken_at or taken
            if attempt.taken:
                outcome = outcome.replace(UNTRIED, "a write of the application was taken")
        state = FenceState.load(self.run.workspace)
        lifted = [e["when"] for e in state.events if e["state"] == LIFTING] if state is not None else []
        self.run.fact("fence", {"writes_again": lifted[-1] if lifted else "", "write_taken": taken})
        open_ = state is None or not state.may_be_active
        verdict = Verdict.NOT_APPLICABLE if state is None else Verdict.PASS if taken else Verdict.NOT_EXERCISED
        self.run.check(FENCE_END, verdict if open_ else Verdict.FAIL, measured="lifted" if lifted else "none",
                       threshold="lifted" if lifted else None, reason="" if open_ else ReasonCode.FENCE_NOT_LIFTED,
                       detail=outcome)  # fmt: skip
        return outcome

    def remove(self) -> pd.DataFrame:
        """Remove from the target what this run made, and nothing else; one row for each collection."""
        shares = ("chunks removed", "of them clients'", "collection dropped", "chunks of others in the target")
        columns = ["collection", *shares]
        target = self.run.parameters.target
        if self.run.dry_run:
            present = set(self.clients.names())
            present -= set(self.context.data.replaced(quick_identities(target)) if present else ())
            names = [name for name in self.context.data.collections if name in present]
            planned = [(name, f"{len(self.context.data.ids(name)):,} at most", "", "", "") for name in names]
            return pd.DataFrame(planned, columns=columns)
        with self.context.stage(outline.REMOVE) as row:
            before, files = self._target_names(), self.source.files()
            rows: list[tuple[str, int, int, bool, int]] = []
            others: list[str] = []
            if before is not None:
                self._refuse_open_target()
                facts = self.context.state.facts
                known = exported([*facts.get("exports", []), *facts.get("late", [])])
                total = sum(len(self.context.data.ids(n)) for n in self.context.data.collections)
                with open_target(target) as store, self.run.progress("Remove", total) as bar:
                    keep = self.clients.keep_late if self.context.in_use else None
                    done = remove(store, self.context.data, known, keep, progress=bar)
                    rows = [(n, c, done.of_clients[n], n in done.dropped, done.foreign.get(n, 0))
                            for n, c in sorted(done.chunks.items())]  # fmt: skip
                    others = done.others
                    remaining = sorted(
                        set(store.names()) & set(self.context.data.collections) - set(done.foreign) - set(others)
                    )
                    marker = store.lock_holder()
                self._judge_removal(remaining, marker, done.foreign, others)
                if late := facts.get("late"):
                    self.run.check("clients' late writes", Verdict.WARNING, measured=len(late), threshold=0, unit="exports",
                                   reason=ReasonCode.CLIENT_WRITES, detail=f"not replayed: {', '.join(late)}")  # fmt: skip
            shipping.clear(self.run.workspace, target)
            database = remove_made_database(self.run.home)
            chunks, of_clients = (sum(int(r[at]) for r in rows) for at in (1, 2))
            theirs = f", {of_clients:,} of them written by clients and exported before," if of_clients else ""
            row["said"] = (
                f"{count(chunks, 'chunk')} of {count(len(rows), 'collection')}{theirs} removed"
                if rows
                else "there was nothing to remove"
            ) + (f"; {database}" if database else "")
            row["said"] += self.source.prove_after(files)
            row["said"] += f"; not of this run, so left alone: {', '.join(others)}" if others else ""
            facts = self.context.state.facts
            facts["removed_of_clients"] = of_clients or facts.get("removed_of_clients", 0)
            facts["removed"] = {str(r[0]): int(r[1]) for r in rows} or facts.get("removed", {})
        return pd.DataFrame(rows, columns=columns)

    def _target_names(self) -> list[str] | None:
        """The target's collections; None where there is no target: no directory is made for a removal."""
        target = self.run.parameters.target
        if target.path and is_new(Path(target.path)):
            return None
        return None if missing_levels(target) else quick_names(target, "target")

    def _refuse_open_target(self) -> None:
        if used := used_by(self.run.parameters.target):
            raise EnvironmentFailure(
                ReasonCode.TARGET_IN_USE, f"{used} has it open; two writers destroy a directory",
                where=str(self.run.parameters.target.path),
                next_step=f"Stop that process, then repeat: {self.run.home.command('rollback')}",
            )  # fmt: skip

    def _judge_removal(
        self, remaining: list[str], marker: dict[str, Any] | None, foreign: dict[str, int], others: list[str]
    ) -> None:
        ours = [*remaining, *(["its lock"] if marker and marker.get("run_id") == self.run.id else [])]
        self.run.check(
            "collections of this run in the target", Verdict.FAIL if ours else Verdict.PASS, measured=len(ours), threshold=0,
            unit="collections", reason=ReasonCode.TARGET_NOT_CLEAN if ours else "", detail=", ".join(ours),
        )  # fmt: skip
        if others:
            self.run.check("collections of others in the target", Verdict.WARNING, measured=len(others), threshold=0,
                           unit="collections", reason=ReasonCode.FOREIGN_CHUNKS,
                           detail=f"made anew by somebody since this run did, so they stay: {', '.join(others)}")  # fmt: skip
        if foreign:
            detail = ", ".join(f"{name}: {count(n, 'chunk')}" for name, n in foreign.items())
            self.run.check(
                "chunks of others in the target",
                Verdict.WARNING,
                measured=sum(foreign.values()),
                threshold=0,
                unit="chunks",
                reason=ReasonCode.FOREIGN_CHUNKS,
                detail=f"not written by this run, so they stay: {detail}",
            )

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def timeline(self) -> None:
        """Draw the duration of each stage."""
        drill = self.run.rehearsal and self.context.state.orders.why == outline.DRILL
        figure = plots.phase_timeline(
            self.run.result.phases, f"{'DRILL: the' if drill else 'The'} stages until the target is clean"
        )
        self.run.figure(
            "timeline", figure, "Stages of step 27; the order and the notebook's start lie before the first."
        )

    def report(self) -> str:
        """Write the notice to send and the post-mortem page, with measured figures; return their paths."""
        if self.run.dry_run:
            return "DRY RUN: nothing was changed, so there is nothing to tell."
        paths = postmortem.write(self.run, self.context.state, self.context.cutover)
        return "\n".join(str(path) for path in paths)

    def watch(self) -> pd.DataFrame:
        """Watch health and queries of the source for `rollback.monitor_minutes`; one row for each sample."""
        columns = ["when", "second", "healthy", "queries", "mean ms", "slowest ms", "problems"]
        if self.run.dry_run:
            return pd.DataFrame(columns=columns)
        seconds = 60 * self.run.parameters.rollback.monitor_minutes
        health = self.context.cutover.cutover.health if self.context.cutover else []
        interval = min(LONGEST_INTERVAL, self.run.parameters.monitoring.interval_seconds, max(seconds / 2, 0.1))
        with self.context.stage(outline.WATCH) as row:
            unproven = self.context.state.facts.get("unproven")  # no snapshot says what the source holds
            chosen = [] if unproven else measure.choose_probes(self.run, measure.SOURCE, PROBES)
            watcher = Watcher(lambda: open_chosen(self.run), chosen, self.run.parameters.source, health=health)
            with self.run.progress("Watch the source", int(seconds), "seconds") as bar:
                rounds = list(watcher.samples(seconds, interval, bar))
            ill = [r for r in rounds if r.trouble]
            row["said"] = f"{count(len(rounds), 'round')}, {len(ill)} with a problem"
            self.context.state.facts["watch"] = {"rounds": len(rounds), "problems": ["; ".join(r.trouble) for r in ill][:20],
                                         "slowest_ms": max((r.slowest or 0.0 for r in rounds), default=0.0)}  # fmt: skip
            last = bool(ill) and ill[-1] is rounds[-1]
            whole = self.run.lasted(
                "time watched", rounds[-1].second, 60 * Rollback().monitor_minutes, "rollback.monitor_minutes"
            )
            self.run.check(
                "health of the source", Verdict.FAIL if last else Verdict.WARNING if ill else whole.verdict,
                measured=len(ill), threshold=0, unit="rounds with a problem", reason=ReasonCode.SOURCE_ILL if ill else "",
                detail="; ".join(filter(None, [row["said"], "; ".join(ill[-1].trouble) if ill else whole.detail])),
            )  # fmt: skip
        if not last:
            self.context.state.finished = self.context.state.finished or utc_now()
            self.context.state.save(self.run.workspace)
        postmortem.write(self.run, self.context.state, self.context.cutover)
        return pd.DataFrame([r.row() for r in rounds], columns=columns)
