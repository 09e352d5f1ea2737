"""What people read afterwards: the notice, and the post-mortem page with the figures that the rollback measured; and how the
changes of a drill are undone and proven."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.cutover import CutoverState
from helpers.cutover.application import Evidence, gather, restart, try_write, wait_until_healthy
from helpers.errors import RUNBOOK, EnvironmentFailure, one_line
from helpers.fence import FenceControl, FenceState
from helpers.formatting import count, duration, moment
from helpers.migration.restore import prove
from helpers.migration.source_changes import SourceChanges, open_sealed, source_changes
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.report import numbers
from helpers.report.pages import rollback_page
from helpers.report.record import SUCCESS
from helpers.results import Verdict, file_digest, utc_now, worst
from helpers.rollback import DRILL, FILES, STAGES, TITLES, RollbackState, replay
from helpers.rollback.replay import counts_text
from helpers.run import plan
from helpers.run.advice import HISTORIES, triggers
from helpers.run.folders import RunFolder, RunPath, RunState, set_aside
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots.comparison import compared
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores import Reader, open_source, open_target, sharded
from helpers.stores.layout import DATABASE

PAGE, NOTICE = "rollback.html", "rollback-notice.txt"
DRILLING = "DRILL: ordered by the rehearsal to be measured; nothing had gone wrong."
SHOWN = 20  # lines of a list


def write(run: RunRecord, state: RollbackState, cutover: CutoverState | None) -> list[Path]:
    """Write both beside the run's other pages; their paths."""
    facts = _facts(run, state, cutover)
    run.fact("postmortem", facts)
    _write(run.home, facts, DRILLING if facts["drill"] else "")
    return [run.folder / PAGE, run.folder / NOTICE]


def put_back(run: RunState, when: str) -> None:
    """Say on both that the drill was put back at this time and the cutover remains in effect; nothing where there are none."""
    result = run.result(Step.ROLLBACK)
    if facts := result.facts.get("postmortem") if result is not None else None:
        _write(run, facts, f"DRILL, put back at {moment(when)}: the cutover remains in effect, and the run goes on.")


def _write(folder: RunFolder, facts: dict[str, Any], drill: str) -> None:
    facts = {**facts, "drill": drill, "over": drill not in ("", DRILLING)}
    folder.rewrite(PAGE, rollback_page(**facts))
    folder.rewrite(NOTICE, _notice(facts))


def set_earlier_aside(run: RunRecord) -> None:
    """What an earlier attempt at the rollback wrote may be sealed by now: it stays, as history. So does the record of a
    success that is none any more."""
    names = (PAGE, NOTICE, SUCCESS)
    set_aside(run.home, [path for name in names if (path := run.folder / name).exists()])


def _facts(run: RunRecord, state: RollbackState, cutover: CutoverState | None) -> dict[str, Any]:
    stages = [{"title": TITLES[s], "when": "", "seconds": 0.0, "state": "not begun", "said": "", **state.stages.get(s, {})}
              for s in STAGES]  # fmt: skip
    restart = state.stages.get(FILES, {}).get("seconds", 0.0)
    restarts = len(cutover.cutover.restart) if cutover is not None else 0
    causes, contacts, drill = _causes(run), run.parameters.contacts.named, run.rehearsal and state.orders.why == DRILL
    return {
        "run": run.id,
        "name": run.parameters.name,
        "drill": drill,
        "contacts": [c for c in (contacts.operations_lead, contacts.channel) if c],
        "rehearsal": run.rehearsal,
        "why": state.orders.why or (causes[0] if causes else "an operator asked for it"),
        "begun": state.since,
        "by": state.by,
        "state": state.sentence(),
        "took": numbers.rollback_words(times) if (times := _times(run)) is not None else "the target is not clean yet",
        "outage": f"{duration(restart)} of it for files, restart and health" if restarts else "without a restart",
        "source": run.parameters.source_label,
        "target": run.parameters.target.label,
        "stages": stages,
        "data": _data(state),
        "causes": [DRILLING] if drill else causes,
        "next": _next(run, state),
    }


def _times(run: RunRecord) -> numbers.RollbackTimes | None:
    """As the run's page has them, with this step as it is now."""
    now = dataclasses.replace(run.result, finished=utc_now(), verdict=worst(c.verdict for c in run.result.checks))
    return numbers.rollback(now)


def _data(state: RollbackState) -> list[str]:
    facts = state.facts
    lines = []
    if facts.get("compared"):
        lines.append(facts["compared"])
    if late := facts.get("late"):
        lines.append(
            f"Clients wrote to the target after it was last read. Exported to {', '.join(late)}; not replayed."
        )
    if facts.get("restored"):
        parts = ", ".join(f"{name} {n:,}" for name, n in sorted(facts["restored"].items()))
        lines.append(f"Chunks restored to the source from the snapshot, as ordered: {parts}.")
    lines += [f"Look {n} at the target, {moment(look['when'])}: {look['said']}."
              for n, look in enumerate(facts.get("looks", []), start=1)]  # fmt: skip
    if facts.get("client_writes"):
        lines.append(
            f"Clients had written to the target: {counts_text(facts['client_writes'])}. Exported: {facts['exports'][-1]}"
        )
        replayed = facts.get("replayed")
        lines.append(f"Replayed to the source and compared there: {count(replayed, 'chunk')}." if replayed
                     else f"They were not replayed: {state.orders.discard or 'not decided yet'}.")  # fmt: skip
        given_up = [f"Given up ({state.orders.discard}): {row['id'] or 'the whole'} of {row['collection']}, {row['why']}."
                    for row in facts.get("given_up", [])]  # fmt: skip
        lines += _first(given_up, "chunks given up; all are in results/27.json")
    else:
        lines.append("No client had written to the target.")
    removed = facts.get("removed", {})
    parts = ", ".join(f"{name} {n:,}" for name, n in sorted(removed.items()))
    client_chunks = facts.get("removed_of_clients", 0)
    parts += f"; {client_chunks:,} of them written by clients, and exported before" if client_chunks else ""
    lines.append(f"Chunks removed from the target: {parts}." if removed else "Nothing was removed from the target.")
    if facts.get("watch"):
        watch = facts["watch"]
        lines.append(f"The source was watched in {watch['rounds']} rounds, slowest query {watch['slowest_ms']:.0f} ms; "
                     + ("; ".join(watch["problems"]) or "no problem."))  # fmt: skip
    return lines


def _causes(run: RunRecord) -> list[str]:
    """What had failed in the run's other steps, triggers of the runbook first."""
    results = {step.number: r for step in plan.Step if step.number != run.step
               and (r := run.home.result(step.number)) is not None}  # fmt: skip
    causes = [f"Rollback trigger in step {t.step}: {t.sentence}." for t in triggers(results)]
    for number, result in sorted(results.items()):
        causes += [
            f"Step {number}, {c.name}: {c.detail or c.measured}." for c in result.checks if c.verdict is Verdict.FAIL
        ]
        if result.error is not None and not any(c.verdict is Verdict.FAIL for c in result.checks):
            causes.append(f"Step {number}: {result.error['line']}")
    return _first(causes, "causes; all are on the run's page")


def _first(lines: list[str], noun: str) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"And {more} more {noun}."] if more > 0 else [])]


def _next(run: RunRecord, state: RollbackState) -> list[str]:
    if run.rehearsal and state.orders.why == DRILL:
        after = f"after a real one, send {NOTICE}, find the cause, and begin a new run."
        return [f"Nothing: this rollback was a drill; {after}", HISTORIES]
    steps = [] if state.removed else [f"Finish the rollback: {RUNBOOK} rollback {run.id}"]
    steps.append(f"Send the notice in {NOTICE} to those whom the announcement reached.")
    if run.parameters.notify.stakeholders:
        steps[-1] += f" They are: {', '.join(run.parameters.notify.stakeholders)}."
    steps.append(f"Find the cause before the next attempt; this run is over, and a new one begins with: {RUNBOOK} run")
    return steps


def _notice(facts: dict[str, Any]) -> str:
    stages = [f"- {row['title']}: {row['said']}" for row in facts["stages"] if row["state"] == "done" and row["said"]]
    drill = facts["drill"]
    subject = f"Migration {facts['name']} was rolled back ({facts['run']})"
    if drill:
        outcome = (
            "drilled, and put back: the cutover remains in effect"
            if facts["over"]
            else "drilled: nothing had gone wrong"
        )
        subject = f"DRILL: the rollback of migration {facts['name']} was {outcome} ({facts['run']})"
    in_use = f"Use {facts['source']} as before; {facts['target']} is not in use."
    return "\n".join(
        [
            f"{'REHEARSAL: ' if facts['rehearsal'] else ''}{subject}",
            "",
            *([drill, ""] if drill else []),
            f"Why: {facts['why']}",
            f"Begun: {moment(facts['begun'])}. {facts['state']}",
            f"{facts['target']} is in use again; {facts['source']} is not." if facts["over"] else in_use,
            "",
            *stages,
            "",
            *facts["data"],
            "",
            f"Contacts: {', '.join(facts['contacts']) or '(none are named)'}",
            "",
        ]
    )


# -- a drill is put back ------------------------------------------------------------------------------------------------


def proven_snapshot(folder: RunFolder) -> Snapshot:
    """The snapshot of step 21, which has passed."""
    result = folder.read().result(Step.SNAPSHOT)
    assert result is not None  # every step has passed
    return open_sealed(folder.read(), Path(result.facts["snapshot"]["folder"]))


@contextmanager
def undo_after_drill(folder: RunFolder, proof: dict[str, Any]) -> Iterator[None]:
    """Put source, target, fence, application and the workspace's own files back to what they are now, if what is done meanwhile
    succeeds; each act has its line in the audit log.

    `proof` then says what was compared. The source goes back only once its fence is set again and every difference from step
    21's snapshot is one that the rollback replayed: `EnvironmentFailure` names the first other one, and nothing is put back.
    Raises `Terminal` at the first chunk of the target that differs from what was there before, `EnvironmentFailure` where the
    source does from the snapshot, or a file from its copy, or the application does not use the target.
    """
    copies_folder, run = folder.workspace / "drill-rollback", folder.read()
    snapshot = proven_snapshot(folder)
    source, target = run.parameters.source, run.parameters.target
    shutil.rmtree(copies_folder, ignore_errors=True)  # of a drill that was killed
    copies_folder.mkdir()
    with open_target(target) as store:
        before = write_snapshot(store, copies_folder, "before", store.names(), retention_days=1)
    files = [Path(file.path) for file in run.parameters.cutover.config_files()]
    databases = [Path(target.path or ""), Path(source.path or "")]
    digests = {str(path): file_digest(path) for path in [*files, databases[1] / DATABASE]}
    was_fenced = (fence := FenceState.load(folder.workspace)) is not None and fence.active
    state = sorted(
        path for path in folder.workspace.glob("*.json") if path.name != RunPath.FENCE
    )  # a copy has another's times
    copies = {place: copies_folder / str(number) for number, place in enumerate([*databases, *files, *state])}
    digests_before = {place: _digests(place) for place in copies}
    for place, copy in copies.items():
        _copy(place, copy)

    def restore(places: list[Path]) -> None:
        for place in places:
            _remove(place)
            _copy(copies[place], place)
            if (digests_now := _digests(place)) != digests_before[place]:
                raise _not_as_before(f"{place} is not byte for byte as it was before the drill")
            proof.setdefault("files", {}).update(digests_now)

    yield
    log, proof["began"] = folder.reports / audit.NAME, utc_now()
    audit.append(log, "drill put back", outcome="begun", target=target.label, source=source.label)
    rules = run.parameters
    if was_fenced:  # while the application still uses the source
        FenceControl(run, rules).put_up()
        proof["write_behind_the_fence"] = outcome = try_write(rules.cutover, folder, Step.ROLLBACK).outcome
        audit.append(log, "drill put back: write fence set again", write_of_the_application=outcome)
    plans = replay.saved(folder.workspace)
    proof["source_before"] = _source(folder, snapshot, plans)
    for path in [folder.workspace / RunPath.ROLLBACK, folder.workspace / "rollback"]:
        _remove(path)
    restore([*databases, *files, *state])
    audit.append(log, "drill put back: source and target as before the drill", databases=[str(p) for p in databases])
    audit.append(log, "drill put back: configuration files cut over again", files=[str(p) for p in files])
    commands = restart(rules.cutover, folder, Step.ROLLBACK)  # the application reads its configuration when it starts
    audit.append(log, "drill put back: application restarted", commands=commands)
    proof |= _put_back(rules, before, digests)
    proof["source"] = _source(folder, snapshot, [])
    write = try_write(rules.cutover, folder, Step.ROLLBACK)
    proof |= {"write_at_the_target": write.outcome, "write_taken": write.taken_at}
    audit.append(log, "drill put back", compared=sum(proof["compared"].values()), differences=0)
    shutil.rmtree(copies_folder)


def _put_back(rules: Parameters, before: Snapshot, digests: dict[str, str]) -> dict[str, Any]:
    """The target against the snapshot of what was there before, chunk by chunk; the application's files; whom it uses."""
    with open_target(rules.target) as store:
        names = store.names()
        compared = {info.name: prove(store, before, info) for info in before.collections()}
    answers = wait_until_healthy(rules.cutover.health, rules.cutover.timeout_seconds)
    gather(evidence := Evidence(), rules.source, rules.target, answers)
    differences = [
        *(f"collection {name} was not there before" for name in sorted({*names} - {*compared})),
        *(f"{path} is not as it was" for path, digest in digests.items() if file_digest(Path(path)) != digest),
        *(f"{url} does not name the target" for url in rules.cutover.health if url not in evidence.says_target),
    ]
    if differences:
        raise _not_as_before("; ".join(differences), "the target")
    says = evidence.sentence()
    return {"compared": compared, "differences": 0, "application": says, "files_as_before": sorted(digests)}


def _source(folder: RunFolder, snapshot: Snapshot, plans: list[replay.Plan]) -> dict[str, Any]:
    """The source compared with the snapshot, chunk by chunk; `EnvironmentFailure` where no replay explains a difference."""
    parameters = folder.read().parameters
    selects = parameters.collections.selects
    with open_source(parameters.source, folder.workspace, selects) as whole:
        store = sharded(whole, parameters.collections.shard)
        names = [name for name in store.names() if selects(name)]
        changes, differences = unexplained(store, snapshot, plans, names)
    if differences:
        number = count(len(differences), "difference")
        difference = f"{number} that neither snapshot nor replay explains, such as {differences[0]}"
        raise _not_as_before(difference, "the source")
    return {"snapshot": snapshot.id, "compared": changes.chunks, "differing": changes.total, "unexplained": 0,
            "replayed": len(set[tuple[str, str]]().union(*(planned.ids() for planned in plans)))}  # fmt: skip


def unexplained(
    store: Reader, snapshot: Snapshot, plans: Iterable[replay.Plan], names: Sequence[str]
) -> tuple[SourceChanges, list[str]]:
    """Compare the source with the snapshot. Gives the changes, and a sentence for each difference that these plans, applied in
    order, do not explain. `names`: the source's collections to compare."""
    changes = source_changes(store, snapshot, names=names)
    plans = list(plans)
    last, created = replay.outcome_of(plans), {name for plan in plans for name in plan.create}
    differences = [
        f"{row['collection']} {row['id']}: {row['change']}"
        for row in changes.examples(sys.maxsize)
        if (row["collection"], row["id"]) not in last and not (row["change"] == "new" and row["collection"] in created)
    ]
    for name in sorted({name for name, _ in last}.intersection(names)):
        batches = {chunk: batch for (n, chunk), batch in last.items() if n == name}
        written = [batch for batch in batches.values() if batch is not None]
        if written:
            pair = next(compared(store, name, [ChunkBatch.concatenate(written)], store.info(name).space))
            differences += [f"{name} {chunk}: not as it was replayed" for chunk in pair.differing()]
        deleted = [chunk for chunk, batch in batches.items() if batch is None]
        differences += [f"{name} {chunk}: there again" for chunk in replay.present(store, name, deleted)]
    return changes, differences


def _not_as_before(difference: str, place: str = "the drill's copies") -> EnvironmentFailure:
    return EnvironmentFailure(
        ReasonCode.REHEARSAL_FAILED, one_line(difference, 400), where=f"{place}, after the drill of the rollback"
    )


def _digests(place: Path) -> dict[str, str]:
    """Of a file, or of every file below a directory: path, digest."""
    return {str(path): file_digest(path) for path in sorted([place, *place.rglob("*")]) if path.is_file()}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
