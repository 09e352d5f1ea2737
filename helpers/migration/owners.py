"""Whose are the collections that stand in the way: the run that holds the target's lock, or one reported here.

A collection that another run made is never called free to remove: while that run imports, or waits for its signatures, it
is the run's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import RUNBOOK, RunbookError, Terminal
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters.endpoint import Endpoint, overlap
from helpers.parameters.typed_yaml import read_yaml_mapping
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.stores.lock import RESTORE

SHOWN = 5


def taken(
    names: Sequence[str],
    target: Endpoint | None,
    label: str,
    holder: Mapping[str, Any] | None,
    own_run: str = "",
    nothing: str = "",
) -> Terminal:
    """The error where a target holds collections that are not this run's: whose they are, since when, what to do.

    `holder` is what the target's lock says (None: nobody holds it). `nothing` is a sentence to begin the advice with. The
    code is "lock_held" where another run holds the target now, else "target_not_empty".
    """
    listed = f"{', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
    where = f"target {label}"
    if holder and holder.get("run_id") != own_run:
        who = str(holder.get("run_id", "?"))
        named = who if who.startswith(RESTORE) else f"run {who}"
        look = "" if who.startswith(RESTORE) else f" (there: {RUNBOOK} status {who})"
        return Terminal(
            "lock_held",
            f"already holds {listed}, and {named} on host {holder.get('host', '?')} has been writing there since "
            f"{holder.get('time', '?')}",
            where=where,
            next_step=f"{nothing}Remove nothing: these collections are being written. Wait until it has ended{look}, or "
            "name another target.",
        )
    for folder, made in _runs_that_made(names, target, own_run) if target else ():
        return Terminal(
            "target_not_empty",
            f"already holds {listed}; run {folder.id}, begun {folder.facts()['created']}, made "
            f"{'them' if set(made) >= set(names) else ', '.join(made[:SHOWN])}",
            where=where,
            next_step=f"{nothing}Remove nothing: they are the result of that run. Look at it with {folder.command('status')}; "
            f"if it is to be taken back: {folder.command('rollback', '--dry-run')}. Or name another target.",
        )
    return Terminal(
        "target_not_empty",
        f"already holds {listed}. No run holds the target's lock, and none reported in {runs.reports_root()} made them",
        where=where,
        next_step=f"{nothing}Name another target. Remove a collection there only if you know whose it was and that it may go.",
    )


def _runs_that_made(names: Sequence[str], target: Endpoint, own_run: str) -> list[tuple[RunFolder, list[str]]]:
    """Runs reported here whose ledger owns some of these collections of the target, the newest first."""
    found = []
    for folder in runs.every_run():
        ledger = folder.workspace / "checkpoint.json"
        if folder.id == own_run or not ledger.is_file():
            continue
        try:
            document = read_yaml_mapping(
                folder.reports / "parameters.yaml"
            )  # as it is: its schema may lie in another folder
            there = Endpoint.model_validate(document["target"])
            if there.path is not None:
                there = there.model_copy(update={"path": str(Path(folder.facts()["directory"]) / there.path)})
            made = sorted(set(names) & set(Checkpoint.read(ledger).owned())) if overlap(there, target) else []
        except (
            RunbookError,
            KeyError,
            ValueError,
        ):  # a run that cannot be read says nothing about anybody's collections
            continue
        if made:
            found.append((folder, made))
    return found
