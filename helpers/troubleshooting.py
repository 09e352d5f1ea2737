"""Section 4 of the runbook: what the notebooks 41 to 48 share, from the symptom to the resolution and the same probe again.

44, 46, 47 and 48 also share the comparison of the target with the staged chunks, and repairs of chunks by delete-and-add,
never by upsert, which merges metadata and makes current servers lose other records (chroma-facts 7, 17). Deletes can do that
too, more rarely, so a collection from which anything was deleted is probed id by id, and written afresh where a search does not
find one. What the target holds is exported first: a repair can be undone, and the next one completes a killed one.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.cutover import clients_came
from helpers.errors import RUNBOOK, RunbookError, Terminal, one_line
from helpers.formatting import flatten
from helpers.migration.checkpoint import FILE, Checkpoint
from helpers.migration.importing import plan_targets
from helpers.migration.reembedding import REEMBEDDED, as_written
from helpers.migration.source_changes import CatchUpLedger, current_snapshot, schema_of_run
from helpers.migration.staging import Quarantine, Staged
from helpers.migration.target_lock import target_not_empty
from helpers.reason_codes import ReasonCode
from helpers.results import Progress, Verdict, as_kind, contents, json_in, reading, silent, utc_now, write_json
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.advice import SYMPTOMS, symptoms
from helpers.run.command import child
from helpers.run.folders import RunPath
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord
from helpers.schema import Context
from helpers.snapshots import comparison as compare
from helpers.snapshots.export_journal import OwnFile, read_parquet, write_parquet
from helpers.snapshots.snapshot import Snapshot, from_table, to_table
from helpers.stores import CollectionInfo, open_target
from helpers.stores.client import ClientStore
from helpers.stores.opening import quick_names
from helpers.validation.search import noise

# -- the target against what was staged --------------------------------------------------------------------------------

SLICE = 200  # chunks in hand at a time
NEAR, FAR = 10, 1_000  # results of a probe; of the second one, where the first does not find its own id


def unreachable_ids(store: ClientStore, name: str, ids: list[str]) -> list[str]:
    """The ids that a search by their own stored vector does not find among 1,000 results.

    Finding another id at the same distance will do: many chunks may share a vector. On ip a vector need not be its own
    nearest, so there only an index smaller than the query can be judged. Zero vectors have no direction.
    """
    space, count = store.info(name).space, store.count(name)
    unreachable: list[str] = []
    for start in range(0, len(ids), SLICE):
        batch = store.read(name, ids[start : start + SLICE])
        searchable = np.isfinite(batch.embeddings).all(axis=1) & ~batch.lost & batch.embeddings.any(axis=1)
        unreachable += [batch.ids[i] for i in np.flatnonzero(batch.lost)]
        remaining = batch.take(np.flatnonzero(searchable))
        for k in (NEAR, FAR):
            if len(remaining):
                answers = store.query(name, remaining.embeddings, min(k, count))
                missed = [i for i in range(len(remaining)) if not _is_found(remaining, i, answers[i], space)]
                remaining = remaining.take(missed)
        if space != "ip" or count <= min(FAR, store.limits().query_results):
            unreachable += remaining.ids
    return sorted(unreachable)


def _is_found(batch: ChunkBatch, row: int, answer: list[tuple[str, float]], space: str) -> bool:
    if any(chunk == batch.ids[row] for chunk, _ in answer):
        return True
    if not answer or space == "ip":
        return False
    scale = float(np.square(batch.embeddings[row].astype(np.float64)).sum())
    return answer[0][1] <= noise("cosine" if space == "cosine" else "l2", 0.0, scale)


COLUMNS = ["target", "id", "difference", "field", "detail"]
_DETAILED = 1000  # rows of a kind and target that say more than which id


def refused_rows(quarantine: Quarantine, staged: Staged, target: str) -> set[int]:
    """The numbers of the staged rows that this target refused when they were written; they are in quarantine."""
    keys = {key for key, reason in quarantine.reasons().items() if reason == ReasonCode.REFUSED_BY_TARGET}
    if not keys:
        return set()
    return {i for i, origin in enumerate(staged.origins(target, 0, staged.rows(target))) if origin in keys}


def staged_chunks(staged: Staged, quarantine: Quarantine, target: str) -> Iterator[ChunkBatch]:
    """The staged chunks that belong in a target, without those that it refused, in the staged order."""
    omitted, position = refused_rows(quarantine, staged, target), 0
    for batch in staged.stream(target, 0, SLICE):
        kept = [i for i in range(len(batch)) if position + i not in omitted]
        position += len(batch)
        yield batch if len(kept) == len(batch) else batch.take(kept)


def differences(
    store: ClientStore | None, existing: set[str], staged: Staged, quarantine: Quarantine, progress: Progress = silent
) -> pd.DataFrame:
    """One row for each difference between target and staged chunks: target, id, difference (a reason code), field, detail."""
    rows: list[tuple[str, str, str, str, str]] = []
    for target in sorted(staged.files):
        present = store if store is not None and target in existing else None
        space = present.info(target).space if present is not None else "l2"
        remaining = set(present.ids(target)) if present is not None else set()
        for pair in compare.compared(present, target, staged_chunks(staged, quarantine, target), space):
            remaining.difference_update(pair.expected.ids)
            rows += [(target, *row) for row in pair.differences.itertuples(index=False, name=None)]
            progress.advance(len(pair.expected))
        extra = "in the target, but staged by nobody"
        rows += [(target, chunk, ReasonCode.CHUNK_EXTRA, "", extra) for chunk in sorted(remaining)]
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    brief = table.groupby(["target", "difference"]).cumcount() >= _DETAILED
    return table.assign(detail=table["detail"].mask(brief, ""))


@dataclass(slots=True)
class Repair:
    """A repair of chunks: `ids[target]` are deleted, and those of them that were staged are added again.

    `plans[target]` is the collection as it is created where it has to be written afresh.
    """

    run: RunRecord
    plans: Mapping[str, CollectionInfo]
    store: ClientStore
    staged: Staged
    quarantine: Quarantine

    @property
    def folder(self) -> Path:
        return self.run.workspace / RunPath.UNDO

    @property
    def ledger(self) -> Checkpoint:
        return Checkpoint.read(self.run.workspace / RunPath.CHECKPOINT)

    def _refuse_others(self, names: Iterable[str]) -> None:
        """Raises `Terminal` ("target_not_empty") where one of these collections is not the one that this run made."""
        if replaced := sorted(set(names).intersection(self.ledger.replaced(self.store.identities()))):
            message = "Made anew by somebody since the run began; nothing was changed there. "
            raise target_not_empty(replaced, self.run.parameters.target, self.store.label, None, self.run.id, message)

    def apply(self, ids: dict[str, list[str]]) -> pd.DataFrame:
        """Repair these ids. One row a target: chunks deleted, chunks added, whether the collection was created again."""
        with self._changing_target():
            self._refuse_others(ids)
            exported = self._export(ids)
            self._audit("target mended", "begun", ids, export=exported.name)
            rows = [(name, *self._repair_target(name, wanted)) for name, wanted in sorted(ids.items()) if wanted]
            _set_state(exported, "done")
            self._audit("target mended", "done", ids, export=exported.name)
        return pd.DataFrame(rows, columns=["target", "there before", "added", "afresh"])

    def undo(self) -> pd.DataFrame:
        """Undo every repair of this run, the newest first. One row for each repair and target."""
        rows = []
        with self._changing_target():
            for folder in reversed(exports(self.folder)):
                manifest = manifest_of(folder)
                self._refuse_others(manifest["ids"])
                self._audit("repairs undone", "begun", manifest["ids"], export=folder.name)
                for name, wanted in sorted(manifest["ids"].items()):
                    rows.append((folder.name, name, *self._put_back(folder, name, wanted, manifest["files"][name])))
                _set_state(folder, "undone")
                self._audit("repairs undone", "done", manifest["ids"], export=folder.name)
        return pd.DataFrame(rows, columns=["mend", "target", "deleted", "put back", "without a vector"])

    def _repair_target(self, name: str, wanted: Sequence[str]) -> tuple[int, int, bool]:
        if name not in self.store.names():  # a mend that was killed while it wrote the collection afresh
            return 0, self._recreate(name), True
        present = set(self.store.ids(name)).intersection(wanted)
        self.store.delete(name, sorted(present))
        added = self._add(name, set(wanted))
        if present and (unreachable := unreachable_ids(self.store, name, self.store.ids(name))):
            self.run.log(f"{name}: {len(unreachable)} ids beyond reach after deleting {len(present)}; written afresh")
            self.store.drop(name)
            self._recreate(name)
            return len(present), added, True
        return len(present), added, False

    def _recreate(self, name: str) -> int:
        """Create the collection and add all of its staged chunks; the number added. Only adds keep an index intact."""
        ledger = self.ledger
        ledger.intend(name)  # it gets another uuid
        self.store.create(self.plans[name])
        ledger.confirm(name, self.store.identity(name))
        return self._add(name, None)

    def _add(self, name: str, selected: set[str] | None) -> int:
        """Add the staged chunks with these ids, or all of them; the number added."""
        added = 0
        for batch in staged_chunks(self.staged, self.quarantine, name):
            rows = [i for i, chunk in enumerate(batch.ids) if selected is None or chunk in selected]
            if rows:
                self.store.add(name, batch.take(rows))
                added += len(rows)
        return added

    def _put_back(self, folder: Path, name: str, wanted: Sequence[str], files: Sequence[str]) -> tuple[int, int, int]:
        present = sorted(set(self.store.ids(name)).intersection(wanted))
        self.store.delete(name, present)
        restored = without_vector = 0
        for file in files:
            batch = from_table(read_parquet(folder / file))
            whole = [i for i in range(len(batch)) if not batch.lost[i]]
            if whole:
                self.store.add(name, batch.take(whole))
            restored, without_vector = restored + len(whole), without_vector + len(batch) - len(whole)
        return len(present), restored, without_vector

    def _export(self, ids: dict[str, list[str]]) -> Path:
        """Export the chunks with these ids before anything is changed; the folder of the export."""
        number = len(list(self.folder.glob("*/undo.json"))) + 1
        folder = self.folder / f"{number:04d}-{self.run.step}"
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, list[str]] = {}
        present = set(self.store.names())
        for position, (name, wanted) in enumerate(sorted(ids.items()), 1):
            files[name] = []
            for start in range(0, len(wanted) if name in present else 0, SLICE):
                batch = self.store.read(name, wanted[start : start + SLICE])
                if len(batch):
                    file = f"{position:03d}-{start // SLICE + 1:05d}.parquet"
                    write_parquet(folder / file, to_table(batch))
                    files[name].append(file)
        manifest = {"run_id": self.run.id, "step": self.run.step, "when": utc_now(), "ids": ids, "files": files}
        write_json(folder / "undo.json", {**manifest, "state": "intended"})
        return folder

    @contextlib.contextmanager
    def _changing_target(self) -> Iterator[None]:
        """Hold the target's lock, after the results of 23 and later, and the approvals that rest on them, are set aside.

        The lock of an unfinished migration is kept.
        """
        runs.supersede(self.run.home, [plan.find(number) for number in Step.MIGRATE.outdates])
        locked = (self.store.lock_holder() or {}).get("run_id") == self.run.id
        self.store.acquire_lock(self.run.id)
        try:
            yield
        finally:
            if not locked:
                self.store.release_lock(self.run.id)

    def _audit(self, action: str, outcome: str, ids: dict[str, list[str]], **facts: Any) -> None:
        counts = {name: len(chunks) for name, chunks in sorted(ids.items()) if chunks}
        audit.append(self.run.folder / audit.NAME, action, outcome=outcome, step=self.run.step, chunks=counts, **facts)


def exports(folder: Path) -> list[Path]:
    """The exports of repairs that are not undone, the oldest first; `intended` ones were killed and may be incomplete."""
    folders = [file.parent for file in sorted(folder.glob("*/undo.json"))]
    return [export for export in folders if manifest_of(export)["state"] != "undone"]


def manifest_of(export: Path) -> dict[str, Any]:
    """The manifest of an export: state, when, ids and files by target."""
    with reading(path := export / "undo.json"):
        data = dict(json_in(contents(path, 2**31)))
        ids, files = as_kind(dict[str, list[str]], data["ids"]), as_kind(dict[str, list[OwnFile]], data["files"])
        if not {*ids} <= {*files} or not isinstance(data["state"], str) or not isinstance(data["when"], str):
            raise ValueError("it lacks the files of a target, or its state or time is no text")
        return data


def unfinished_targets(export: Path) -> list[str]:
    """The targets of a repair that was started and not finished; [] where it was finished."""
    manifest = manifest_of(export)
    return sorted(manifest["ids"]) if manifest["state"] == "intended" else []


def _set_state(folder: Path, state: str) -> None:
    write_json(folder / "undo.json", {**manifest_of(folder), "state": state})


# -- step: symptom → probe → precondition → resolution → the same probe again ------------------------------------------
#
# A probe that finds its fault is a warning, as the notebook is there to find it. It is a failure only where a
# resolution was applied and the fault is still there. With `dry_run`, the default here, nothing is changed.

BEFORE, AFTER = "probe before", "probe after"
CONDITIONS = ["condition", "holds", "detail"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A precondition of a resolution, and whether it holds."""

    what: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe: a table, the number of faults, and a sentence about them."""

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
        """The checks and errors of this run whose reason code leads to this notebook."""
        symptom_rows = [(row, ReasonCode.known(row["reason"])) for row in symptoms(self.run)]
        rows = [row for row, code in symptom_rows if code and code.step == self.run.step]
        return pd.DataFrame(rows, columns=SYMPTOMS)

    def probe(self) -> pd.DataFrame:
        """Look for the fault and record a check; the same probe runs before and after the resolution."""
        name = AFTER if self._resolved else BEFORE
        with self.run.phase(name):
            result = self.look()
        checks = self.run.result.checks
        checks[:] = [c for c in checks if c.name != name]
        self.run.judge(
            name, Verdict.FAIL if self.applied else Verdict.WARNING, measured=result.wrong, threshold=0, unit=result.unit,
            reason=self.code, detail=result.sentence, offenders=result.wrong,
        )  # fmt: skip
        self.run.fact(name.replace(" ", "_"), {"wrong": result.wrong, "sentence": result.sentence})
        return result.table

    def precondition(self) -> pd.DataFrame:
        """The preconditions of the resolution, which is refused where one does not hold."""
        return pd.DataFrame([(c.what, c.holds, c.detail) for c in self.conditions()], columns=CONDITIONS)

    def resolve(self, **options: Any) -> pd.DataFrame:
        """Apply the resolution; what was done, or in a dry run would be. Raises `Terminal` where a precondition does not hold."""
        self._resolved = True
        if self.run.dry_run:
            return self.plan(**options)
        self._require(**options)
        table = self.apply(**options)
        self.applied = True
        return table

    def _require(self, **options: Any) -> None:
        for condition in (c for c in self.conditions(**options) if not c.holds):
            raise Terminal(
                ReasonCode.PRECONDITION_FAILED, f"{condition.what}: {condition.detail or 'no'}",
                where=f"step {self.run.step}", next_step="Nothing was changed. Correct this first.",
            )  # fmt: skip

    @abstractmethod
    def look(self) -> ProbeResult:
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
        """The snapshot that the target must match, that of a catch-up where there was one; UsageError before step 21."""
        return current_snapshot(self.run)

    @property
    def staged(self) -> Staged | None:
        """What step 22 staged for the target; None where nothing was staged yet."""
        return Staged.load(self.run.workspace / RunPath.STAGED)

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.run.workspace / RunPath.QUARANTINE)

    def ledger(self) -> Checkpoint | None:
        """The checkpoint as it is now; None where there is none. Raises `Terminal` where it cannot be read."""
        path = self.run.workspace / FILE
        return Checkpoint.read(path) if path.exists() else None

    @contextlib.contextmanager
    def target(self) -> Iterator[tuple[ClientStore | None, set[str]]]:
        """The open target and its collections; (None, empty) where it has none. `Terminal` where a run writes to it."""
        endpoint = self.run.parameters.target
        if endpoint.path and self.run.watches_only:
            raise Terminal(
                ReasonCode.RUN_LOCKED, "the run is at work in this very directory; two processes in one destroy it",
                where=f"target {endpoint.label}", next_step="Stop the run first (Ctrl-C, or SIGTERM), then look again.",
            )  # fmt: skip
        names = set(quick_names(endpoint, "target"))
        if not names:
            yield None, names
            return
        with open_target(endpoint) as store:
            yield store, names

    def places(self, keys: Collection[tuple[str, str]]) -> dict[str, dict[str, tuple[str, str]]]:
        """Where these chunks of the source, (collection, id), are to stand: target collection → id there → chunk. By the rules
        of the schema, as `runbook schema --explain` shows them."""
        schema, names = schema_of_run(self.run), self.snapshot.names()
        context = Context.of(names, self.run.date, self.run.parameters.migration)
        chunks_by_target: dict[str, dict[str, tuple[str, str]]] = {}
        for name in sorted({collection for collection, _ in keys} & set(names)):
            for batch in self.snapshot.batches(name):
                selected = batch.take([i for i, chunk in enumerate(batch.ids) if (name, chunk) in keys])
                done = schema.transform(selected, name, context)
                for target, chunk, source_id in zip(done.targets, done.batch.ids, done.source_ids, strict=True):
                    chunks_by_target.setdefault(target, {})[chunk] = (name, source_id)
        return chunks_by_target

    def note(self, action: str, **facts: Any) -> None:
        """One entry in the run's audit log, one line in run.log."""
        audit.append(self.run.folder / audit.NAME, action, step=self.run.step, **facts)
        self.run.log(f"{action}: {one_line(str(facts))}")

    # -- going on with the run -------------------------------------------------------------------------------------------

    def resume_command(self, **settings: Any) -> list[str]:
        """The command `runbook resume RUN --set …`, as a list of words."""
        sets = [word for key, value in sorted(settings.items()) for word in ("--set", f"{key}={value}")]
        return [RUNBOOK, "resume", self.run.id, *sets]

    def resume(self, **settings: Any) -> pd.DataFrame:
        """Resume the run in a child process, which needs the run's lock; its command, exit code and last lines."""
        command = self.resume_command(**settings)
        self.note("run resumed by troubleshooting", command=shlex.join(command))
        with self.run.unlocked():
            process = child([sys.executable, "-m", "helpers", *command[1:]])
        self.run.home = self.run.home.read()
        self.run.parameters = self.run.home.parameters  # as the resume left them: the probe afterwards asks by these
        lines = [line for line in (process.stdout + process.stderr).splitlines() if line.strip()][-12:]
        self.run.fact("resume", {"command": shlex.join(command), "exit_code": process.returncode})
        rows = [("command", shlex.join(command)), ("exit code", str(process.returncode)), *(("said", s) for s in lines)]
        return pd.DataFrame(rows, columns=["what", "value"])

    def resume_plan(self, **settings: Any) -> pd.DataFrame:
        """The command, and each parameter that it would change: now and then."""
        now = flatten(self.run.parameters.document())
        rows = [("command", "", shlex.join(self.resume_command(**settings)))]
        rows += [(key, str(now.get(key)), str(value)) for key, value in sorted(settings.items())]
        return pd.DataFrame(rows, columns=["what", "now", "then"])

    def checkpoint_condition(self) -> Condition:
        """Condition that the checkpoint can be read and the migration is not complete."""
        try:
            ledger = self.ledger()
        except RunbookError as error:
            return Condition("the checkpoint can be read", False, error.line())
        phase = ledger.phase if ledger else "never begun"
        return Condition("the migration is not complete", phase != "complete", f"phase {phase}")

    def stable_conditions(self) -> list[Condition]:
        """Conditions under which the target must match the staged chunks: no open catch-up, no client ever wrote there."""
        ledger, in_use = CatchUpLedger.read(self.run), clients_came(self.run.workspace)
        finish = f"finish it: {self.run.home.command('resume')}" if ledger.open_round is not None else ""
        lost = f"what they wrote would go: {self.run.home.command('rollback')}" if in_use else ""
        return [Condition("no catch-up is half applied", not finish, finish),
                Condition("no cutover sent clients to the target", not in_use, lost)]  # fmt: skip

    def idle_condition(self) -> Condition:
        """Condition that no other process works on the run."""
        detail = "stop it first (Ctrl-C, or SIGTERM)" if self.run.watches_only else ""
        return Condition("no other process works on the run", not self.run.watches_only, detail)


class StagedTroubleshooter(Troubleshooter):
    """A step whose resolution deletes chunks of the target and adds them again as they were staged.

    `kinds` are the differences that this notebook repairs."""

    kinds: ClassVar[Collection[str]]
    _differences: pd.DataFrame | None = None

    def differences(self) -> pd.DataFrame:
        """Every difference of this notebook's kinds, by chunk: target, id, difference, field, detail."""
        table = self.all_differences()
        return table[table["difference"].isin(self.kinds)].reset_index(drop=True)

    def all_differences(self, *, refresh: bool = False) -> pd.DataFrame:
        """The whole comparison, made once; `refresh` makes it again. Raises `Terminal` where nothing was staged."""
        if self._differences is None or refresh:
            staged = self.staged
            if staged is None:
                raise Terminal(
                    ReasonCode.NOTHING_STAGED, "this run has staged nothing yet", where=f"run {self.run.id}",
                    next_step=f"Run step 22 first: {self.run.home.command('resume')}",
                )  # fmt: skip
            total = sum(staged.rows(name) for name in staged.files)
            with self.target() as (store, names), self.run.progress("comparing with the target", total) as bar:
                self._differences = differences(store, names, staged, self.quarantine, bar)
        return self._differences

    def wrong_ids(self) -> dict[str, list[str]]:
        """target → the ids that the resolution deletes and, where they were staged, adds again."""
        rows = self.differences()
        return {str(name): sorted(set(part["id"])) for name, part in rows.groupby("target", sort=True)}

    def conditions(self, **options: Any) -> list[Condition]:
        staged = self.staged
        conditions = [
            self.idle_condition(),
            Condition("the staged chunks are there", staged is not None, "" if staged else "run step 22 first"),
        ]
        if staged is None or self.run.watches_only:
            return conditions
        ledger = self.ledger()
        complete = ledger is not None and all(t.completed == t.rows for t in ledger.targets.values())
        detail = "" if complete else f"{self.run.home.command('resume')} first"
        conditions += [*self.stable_conditions(), Condition("every batch was written", complete, detail)]
        with self.target() as (store, names):
            holder = (store.lock_holder() or {}).get("run_id", "") if store is not None else ""
        undo = exports(self.run.workspace / RunPath.UNDO)
        interrupted = {name for export in undo for name in unfinished_targets(export)}
        absent = sorted(name for name in staged.files if staged.rows(name) and name not in names | interrupted)
        detail = f"{', '.join(absent)}: written by the migration, not repaired here: {self.run.home.command('resume')} --retry 22"
        conditions.append(Condition("the target's collections are there", not absent, detail if absent else ""))
        conditions.append(Condition("no other run holds the target", holder in ("", self.run.id), str(holder)))
        return conditions

    def plan(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        rows = [(name, len(chunks), ", ".join(chunks[:3])) for name, chunks in ids.items()]
        return pd.DataFrame(rows, columns=["target", "would be deleted and added again", "such as"])

    def apply(self, **options: Any) -> pd.DataFrame:
        ids = self.wrong_ids()
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            repaired = self._repair(store, staged).apply(ids)
        self.note("chunks deleted and added again", chunks={k: len(v) for k, v in ids.items()})
        self.run.fact("mended", repaired.to_dict("records"))
        return repaired

    def _repair(self, store: ClientStore | None, staged: Staged) -> Repair:
        assert store is not None, "the preconditions hold"
        schema = schema_of_run(self.run)
        rules, written = self.run.parameters.migration, as_written(self.snapshot, self.run.workspace / REEMBEDDED)
        plans = plan_targets(written.collections(), staged, rules, schema)
        return Repair(self.run, {plan.name: plan for plan in plans}, store, staged, self.quarantine)

    def undoable(self) -> pd.DataFrame:
        """The repairs of this run that are not undone, the oldest first: name, time, chunks."""
        rows = []
        for folder in exports(self.run.workspace / RunPath.UNDO):
            manifest = manifest_of(folder)
            rows.append((folder.name, manifest["when"], sum(len(ids) for ids in manifest["ids"].values())))
        return pd.DataFrame(rows, columns=["mend", "when", "chunks"])

    def undo(self) -> pd.DataFrame:
        """Put back what the repairs of this run replaced, the newest first; in a dry run, list them. Raises as `resolve`."""
        repairs = self.undoable()
        if self.run.dry_run or repairs.empty:
            return repairs
        self._require()
        staged = self.staged
        assert staged is not None
        with self.target() as (store, _):
            undone = self._repair(store, staged).undo()
        self.run.check("repairs undone", Verdict.WARNING, measured=len(repairs), threshold=0, unit="mends", reason=self.code,
                       detail="the target is as it was before")  # fmt: skip
        return undone
