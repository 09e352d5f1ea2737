"""`runbook fleet`: arguments and output of its commands. A row is signed, verified and rolled back as any run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.cli import doctor, evidence, run
from helpers.errors import RUNBOOK, RunbookError, UsageError, one_line
from helpers.formatting import count
from helpers.reason_codes import ReasonCode
from helpers.run import folders as runs
from helpers.run import plan

if TYPE_CHECKING:
    from helpers.runner.fleet import Fleet, FleetRow

Declare = Callable[..., argparse.ArgumentParser]
FIRST = "run"  # what `runbook fleet TABLE PARAMETERS` means


def declare(declared: Declare) -> None:
    """Declare the commands. `declared(name, action, text, details)` gives each its parser."""
    start = declared(
        FIRST, _run, "begin a run for each row of a table, so many at a time",
        "`fleet TABLE PARAMETERS.yaml` is the same. All rows are checked first: where one cannot go, a line says why, "
        "nothing is started, and the exit code is 2. A failed row stops no other; the exit code is that of the worst row. See "
        "docs/scale.md.",
    )  # fmt: skip
    start.add_argument("table", type=Path, metavar="TABLE", help="a .csv or .yaml file with a row for each migration")
    start.add_argument("parameters", type=Path, metavar="PARAMETERS.yaml", help="the parameters that all rows have")
    start.add_argument("--name", default="", metavar="NAME", help="name of the fleet; its runs are NAME-ROW")
    start.add_argument("--until", default="", metavar="STEP", help="stop each row after this step")
    start.add_argument(
        "--dry-run",
        action="store_true",
        help="stop each row after step 14; nothing is written to the targets and no notice is sent",
    )
    run.settings_option(start)
    resume = declared(
        "resume", _resume, "go on with the rows of a fleet that are not done",
        "Rows that are done, wait for signatures, are NO-GO or were rolled back are not touched.",
    )  # fmt: skip
    resume.add_argument("fleet", metavar="NAME", help="name of the fleet")
    resume.add_argument("--until", default="", metavar="STEP", help="from now on stop each row after this step")
    for command in (start, resume):
        command.add_argument(
            "--parallel", type=run.positive, default=1, metavar="N", help="rows at work at the same time"
        )
        run.outside_window_option(command)
    status = declared(
        "status", _status, "show where each row of a fleet is, and whom it waits for", "The page is written anew."
    )
    status.add_argument("fleet", metavar="NAME", help="name of the fleet")

    sign = declared(
        "sign", _sign, "sign for one role on every row of a fleet that waits for it",
        "Each run gets an ordinary signature of its own, over its own seal; what is signed is shown row by row.",
    )  # fmt: skip
    sign.add_argument("fleet", metavar="NAME", help="name of the fleet")
    evidence.sign_options(sign)
    rollback = declared(
        "rollback",
        _rollback,
        "roll back rows of a fleet",
        "Each as the command rollback does. Name the rows, or all of them.",
    )
    rollback.add_argument("fleet", metavar="NAME", help="name of the fleet")
    rollback.add_argument("--rows", action="append", default=[], metavar="ROW", help="roll this row back; repeatable")
    rollback.add_argument("--all-rows", action="store_true", help="roll back every row that has begun")
    run.rollback_options(rollback)
    verify = declared(
        "verify", _verify, "check every file, seal and signature of each row's run",
        "As the command verify does, with the digests of the seals that the fleet noted. A row that was begun must be there, and "
        "the table must be the order that this workspace knows; where it knows none, that is said.",
    )  # fmt: skip
    verify.set_defaults(judges=True)
    verify.add_argument("fleet", metavar="NAME", help="name of the fleet")
    evidence.expect_option(verify)
    evidence.authority_option(verify)
    evidence.signers_option(verify)

    discover = declared(
        "discover", _discover, "write the table of a fleet from what a server or a directory lists",
        "A server lists the databases of a tenant that you name, and no tenants; a directory lists both. Databases without a "
        "collection are left out. An existing file is never overwritten. `fleet --discover URL` is the same.",
    )  # fmt: skip
    discover.add_argument("source", metavar="PATH|URL", help="a Chroma directory, or a server")
    discover.add_argument("--to", type=Path, required=True, metavar="TABLE", help="the .csv or .yaml file to write")
    discover.add_argument(
        "--tenant", action="append", default=[], metavar="NAME", help="list the databases of this tenant; repeatable"
    )
    discover.add_argument(
        "--header", action="append", default=[], metavar="NAME=env:VAR", help="an HTTP header by reference; repeatable"
    )


def expand(arguments: list[str], known: Iterable[str]) -> list[str]:
    """The full form of `fleet TABLE …` and `fleet --discover …`; other arguments unchanged."""
    first = arguments[0] if arguments else "--help"
    if first == "--discover":
        return ["discover", *arguments[1:]]
    return arguments if first in {"-h", "--help", *known} else [FIRST, *arguments]


def _run(chosen: argparse.Namespace) -> int:
    from helpers.run.window import require_reason
    from helpers.runner import fleet, fleet_table

    until = plan.on_line(chosen.until) if chosen.until else plan.LINE[-1]
    if chosen.dry_run:
        until = min(until, plan.find(plan.LAST_OF_DRY_RUN), key=plan.LINE.index)
    require_reason(chosen.outside_window)
    name = chosen.name or runs.new_run_id(chosen.table.stem)
    if fleet.folder_of(name).reports.exists():
        raise fleet.name_taken(name)
    table = fleet_table.read_table(chosen.table)
    fleet_table.check(table, chosen.parameters, chosen.settings, name)
    if refused := [row for row in table.rows if row.problems]:
        for row in refused:
            print(f"runbook: {row.line()}", file=sys.stderr, flush=True)
        raise UsageError(
            ReasonCode.PARAMETERS_INVALID, f"{count(len(refused), 'row')} of {len(table.rows)} cannot go; nothing was started",
            where=str(chosen.table), next_step="Correct these rows, or take them out, then give the same command again.",
        )  # fmt: skip
    started = fleet.begin(name, table, until=until, dry_run=chosen.dry_run, outside_window=chosen.outside_window)
    return _work(started, chosen.parallel)


def _resume(chosen: argparse.Namespace) -> int:
    from helpers.run.window import require_reason
    from helpers.runner import fleet

    until = plan.on_line(chosen.until) if chosen.until else None
    require_reason(chosen.outside_window)
    state = fleet.read(chosen.fleet)
    if until is not None and state.dry_run and until.number > plan.LAST_OF_DRY_RUN:
        raise UsageError(ReasonCode.DRY_RUN_DONE, f"fleet {state.id} is a dry run, which ends after step {plan.LAST_OF_DRY_RUN}",
                         next_step="Begin a fleet of another name without --dry-run.")  # fmt: skip
    if until is not None or chosen.outside_window:
        with fleet.changing_order(state.id) as changed:
            changed.until = until or changed.until
            changed.outside_window = chosen.outside_window or changed.outside_window
        state = fleet.read(chosen.fleet)
    return _work(state, chosen.parallel)


def _work(state: Fleet, parallel: int) -> int:
    from helpers.runner import fleet

    code = fleet.work(state, parallel, lambda text: print(text, flush=True))
    if code == 130:
        print(f"runbook: stopped on request. Go on with: {state.command('resume')}", file=sys.stderr, flush=True)
    return code


def _status(chosen: argparse.Namespace) -> int:
    from helpers.runner import fleet

    state = fleet.read(chosen.fleet)
    fleet.render(state)
    print(fleet.overview(state, fleet.states(state)))
    return 0


def _sign(chosen: argparse.Namespace) -> int:
    from helpers.runner import fleet, group

    state = fleet.require_own(fleet.read(chosen.fleet))
    if chosen.key is None:
        raise UsageError(ReasonCode.HOW_TO_SIGN, "the rows of a fleet are signed together with --key only", where=state.id,
                         next_step=f"To sign elsewhere, sign each run by itself: {RUNBOOK} fleet status {state.id}")  # fmt: skip
    options = argparse.Namespace(**{**vars(chosen), "export": None, "signature": None})
    rows = {row.run: row for row in state.rows}
    waiting = list(group.due_for(state.order, rows, chosen.gate, evidence.role_of(chosen)))
    for folder in waiting:
        fleet.require_ordered(state, rows[folder.id])
    try:
        return evidence.sign_each(options, state.order, waiting)
    finally:
        for row in state.rows:
            if row.begun:
                fleet.record_row(state.id, row.name)
        fleet.render(fleet.read(state.id))


def _rollback(chosen: argparse.Namespace) -> int:
    from helpers.runner import fleet
    from helpers.runner.outcome import roll_back

    state = fleet.require_own(fleet.read(chosen.fleet))
    if chosen.all_rows == bool(chosen.rows):
        raise UsageError(ReasonCode.USAGE, "rollback of a fleet needs --rows ROW or --all-rows, and not both", where=state.id,
                         next_step=f"See: {RUNBOOK} fleet rollback --help")  # fmt: skip
    names = {row.name for row in state.rows}
    if unknown := [name for name in chosen.rows if name not in names]:
        raise UsageError(ReasonCode.NO_SUCH_RUN, f"no row is named {one_line(unknown[0], 80)}", where=f"fleet {state.id}",
                         next_step=f"See: {state.command('status')}")  # fmt: skip
    selected = [row for row in state.rows if chosen.all_rows or row.name in chosen.rows]

    def back(row: FleetRow) -> int:
        fleet.require_ordered(state, row)
        return roll_back(argparse.Namespace(**{**vars(chosen), "run_id": row.run}))

    code = _for_each_row(selected, back)
    for row in selected:
        if row.begun:
            fleet.record_row(state.id, row.name)
    fleet.render(fleet.read(state.id))
    return code


def _verify(chosen: argparse.Namespace) -> int:
    from helpers.evidence.seals import seals
    from helpers.runner import fleet, group

    state = fleet.read(chosen.fleet)
    digests: set[str] = set()

    def verify(row: FleetRow) -> int:
        options = {"run_id": row.run, "expect": row.seals}
        code = evidence.verify_run(argparse.Namespace(**{**vars(chosen), **options}))
        if chosen.expect:
            with suppress(RunbookError):  # seals that cannot be read are named already
                digests.update(seal.digest for seal in seals(runs.RunFolder.of(row.run).reports))
        return code

    code = _for_each_row(state.rows, verify)
    problems = list(fleet.inconsistencies(state))
    problems += [
        f"no seal of a row has the expected SHA-256 {digest}" for digest in chosen.expect if digest not in digests
    ]
    print(f"Fleet {state.id}:")
    for line in problems:
        print(one_line(line, 2000))
    if group.recorded_orders(fleet.folder_of(state.id)) is None:
        print(f"Nothing vouches for {fleet.Fleet.file} here, for its rows and the seals that it expects: this workspace knows no "
              "such order. Give digests that were noted elsewhere: --expect.")  # fmt: skip
    elif not problems:
        print(f"{fleet.Fleet.file} has the {count(len(state.rows), 'row')} of the order that this workspace knows.")
    if problems:
        print(
            f"{count(len(problems), 'thing')} of fleet {state.id} itself {'does' if len(problems) == 1 else 'do'} not fit."
        )
    return max(code, 1 if problems else 0, key=group.WORST.index)


def _for_each_row(rows: list[FleetRow], action: Callable[[FleetRow], int]) -> int:
    """Call `action` for every row that has a run; the worst exit code. An error of one is printed, and stops no other."""
    from helpers.runner.fleet import missing_run
    from helpers.runner.group import WORST

    codes = [0]
    for row in rows:
        name = one_line(row.name)
        if not runs.RunFolder.of(row.run).exists:
            reason = f"it made no run: {one_line(row.line)}" if row.line else "not begun; nothing was done."
            print(f"Row {name}: {missing_run(row) or reason}", flush=True)
            codes.append(1 if missing_run(row) else 0)
            continue
        print(f"Row {name}, run {one_line(row.run)}:", flush=True)
        try:
            codes.append(action(row))
        except RunbookError as error:
            codes.append(error.exit_code)
            print(f"runbook: {row.run}: {error.line()}", file=sys.stderr, flush=True)
            if error.exit_code == 130:
                break
    return max(codes, key=WORST.index)


def _discover(chosen: argparse.Namespace) -> int:
    from helpers.runner.fleet_table import discover

    place = argparse.Namespace(place=chosen.source, header=chosen.header, tenant="", database="")
    print(discover(doctor.endpoint_of(place), chosen.tenant, chosen.to))
    return 0
