"""`runbook rollback`: says what it will do, stops the run's own migration, then executes notebook 27."""

from __future__ import annotations

import argparse

from helpers import audit
from helpers.errors import Interrupted, UsageError
from helpers.reason_codes import ReasonCode
from helpers.results import utc_now
from helpers.rollback import Orders, RollbackState
from helpers.rollback.outline import at_work, outline, stop
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.plan import Step
from helpers.runner.pipeline import run_line
from helpers.status.console import Console


def roll_back(chosen: argparse.Namespace) -> int:
    """The command; 0 where the run was rolled back."""
    folder = runs.find(chosen.run_id)
    orders = orders_of(chosen)
    folder.enter()
    return execute(folder, orders, Console(), dry_run=chosen.dry_run)


def orders_of(chosen: argparse.Namespace) -> Orders:
    """What the options order; naming a collection orders its restore."""
    for option, value in (("--accept-source", chosen.accept_source), ("--discard-with-reason", chosen.discard)):
        if value is not None and not value.strip():
            raise UsageError(ReasonCode.USAGE, f"{option} needs a reason")
    return Orders(
        restore=chosen.restore_source or bool(chosen.collection),
        collections=sorted(set(chosen.collection)),
        accept_source=chosen.accept_source or "",
        replay=chosen.replay or bool(chosen.replay_to),
        replay_to=chosen.replay_to,
        discard=chosen.discard or "",
        why=chosen.why,
    )


def execute(
    folder: RunFolder, orders: Orders, terminal: Console, *, dry_run: bool = False, locked: bool = False
) -> int:
    """Roll this run back. `locked`: the caller is the run's own runner, whose line has ended, and no longer works on it."""
    state = RollbackState.load(folder.workspace)
    if state is not None and state.finished and not dry_run:
        terminal.say(f"Run {folder.id}: {state.sentence()} See {folder.reports / 'rollback.html'}")
        return 0
    if dry_run and at_work(folder) and not locked:
        terminal.say(_said(folder, "would do, while the run is at work; source and target were not compared"))
        return 0
    if not dry_run:
        state = RollbackState.begin(folder.workspace, folder.id, orders)
    terminal.say(_said(folder, "would do" if dry_run else "does now"))
    if not dry_run and not locked:
        _stop(folder, state)
    try:
        run_line(folder, [Step.ROLLBACK], terminal, dry_run=dry_run)
    except Interrupted as error:
        raise Interrupted(
            ReasonCode.INTERRUPTED, "stopped on request", next_step=f"Go on with: {folder.command('rollback')}"
        ) from error
    return 0


def _stop(folder: RunFolder, state: RollbackState | None) -> None:
    working = at_work(folder)
    if not working or state is None:
        return
    log = folder.reports / audit.NAME
    audit.append(log, "migration stopped", outcome="begun", processes=sorted(working))
    stopped = stop(folder)
    audit.append(log, "migration stopped", processes=stopped)
    state.facts["stopped"] = sorted({*state.facts.get("stopped", []), *stopped})
    state.facts["stopped_at"] = utc_now()
    state.save(folder.workspace)


def _said(folder: RunFolder, what: str) -> str:
    rows = [f"  {title}: {text}" for title, text in outline(folder)]
    return "\n".join([f"What the rollback of run {folder.id} {what}:", *rows])
