"""The stages that return clients' writes to the source: compare the target, export, decide, replay, and compare once more."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.cutover import CutoverState
from helpers.errors import EnvironmentFailure, Terminal, UsageError
from helpers.formatting import count, harmless
from helpers.migration.source_changes import WrittenData, schema_of_run
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict, utc_now, write_text
from helpers.rollback import FILES, REPLAY, replay
from helpers.rollback.proof import SourceProof, StageContext, open_for_writing, writing_endpoint
from helpers.rollback.replay import (
    BATCH,
    Plan,
    Written,
    client_writes,
    counts_text,
    export,
    exported,
    index_of,
    next_folder,
    originals_of,
    outcome_of,
    present,
    summary,
)
from helpers.run.command import used_by
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.schema import Schema
from helpers.snapshots.comparison import compare, compared
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import Reader, Space, Store, open_source, shard_of
from helpers.stores.opening import quick_names

COLUMNS = ["collection", "added", "changed", "deleted", "unreadable", "changed settings", "gone as a whole",
           "made by clients"]  # fmt: skip
NOBODY = "no client was ever sent to the target"


def open_text(rows: list[dict[str, str]]) -> str:
    """Writes that cannot be replayed: their number by collection and reason."""
    counted = Counter((row["collection"], row["why"]) for row in rows)
    return "; ".join(f"{n:,} in {name}: {reason}" for (name, reason), n in sorted(counted.items()))


def leave_other_shards(planned: Plan, shard: str) -> None:
    """Make writes to chunks of other shards open: no snapshot of this run holds what the source has under their ids."""
    number, shards = map(int, shard.split("/"))
    for name in planned.put.keys() - planned.create.keys():
        batch = planned.put.pop(name)
        own = [i for i, chunk in enumerate(batch.ids) if shard_of(chunk, shards) == number - 1]
        others = [chunk for chunk in batch.ids if shard_of(chunk, shards) != number - 1]
        reason = "its id is of another shard, so a client wrote it to the wrong target: bring it to the source by hand"
        planned.open += [{"collection": name, "id": chunk, "why": reason} for chunk in others]
        if own:
            planned.put[name] = batch.take(own)


def add_reverted(planned: Plan, earlier: Iterable[Plan], snapshot: Snapshot, unknown: Collection[str]) -> None:
    """Add to a plan what an earlier one wrote and clients reverted at the target since: as in the snapshot.

    `unknown`: collections of the source of which nobody can say what clients reverted. A chunk that a write of the look names is
    no reverted one, also where that write cannot be replayed.
    """
    for name, chunk in sorted({key for plan in earlier for key in plan.ids()} - planned.named):
        if name in unknown or ("", chunk) in planned.named:
            continue
        original = originals_of(snapshot, name, [chunk]).get(chunk)
        if original is None:
            planned.delete.setdefault(name, []).append(chunk)
        else:
            before = planned.put.get(name)
            planned.put[name] = ChunkBatch.concatenate([before, original]) if before is not None else original


def exclude(planned: Plan, contested: set[tuple[str, str]]) -> None:
    """Exclude what was changed at the source, too: which of the two is right, a person has to say."""
    for name, chunk in sorted(contested & planned.ids()):
        planned.open.append({"collection": name, "id": chunk, "why": "it was changed at the source too"})
    for name, batch in list(planned.put.items()):
        planned.put[name] = batch.take([i for i, chunk in enumerate(batch.ids) if (name, chunk) not in contested])
    for name, ids in list(planned.delete.items()):
        planned.delete[name] = [chunk for chunk in ids if (name, chunk) not in contested]
    _drop_empty(planned)


def _drop_empty(planned: Plan) -> None:
    planned.put = {name: batch for name, batch in planned.put.items() if len(batch)}
    planned.delete = {name: ids for name, ids in planned.delete.items() if ids}


def exclude_done(planned: Plan, earlier: Iterable[Plan]) -> None:
    """Exclude what earlier plans wrote and proved already: since then the source's clients may have changed it."""
    last = outcome_of(plan for plan in earlier if plan.done)
    for name in [name for plan in earlier if plan.done for name in plan.create]:
        planned.create.pop(name, None)
    for name, batch in list(planned.put.items()):
        written = [one for chunk in batch.ids if (one := last.get((name, chunk))) is not None]
        written_ids = {chunk for one in written for chunk in one.ids}
        rows = [row for row, chunk in enumerate(batch.ids) if chunk in written_ids]
        unchanged = set[str]()
        if written:
            unchanged = (
                written_ids - compare(ChunkBatch.concatenate(written), batch.take(rows), "l2").differing().keys()
            )
        planned.put[name] = batch.take([row for row, chunk in enumerate(batch.ids) if chunk not in unchanged])
    for name, ids in list(planned.delete.items()):
        planned.delete[name] = [chunk for chunk in ids if (name, chunk) not in last or last[name, chunk] is not None]
    _drop_empty(planned)


def changed_at_source(store: Store, planned: Plan, earlier: Sequence[Plan], snapshot: Snapshot) -> set[tuple[str, str]]:
    """(collection, id) of a plan's chunks whose state at the source neither the snapshot nor a plan explains.

    What a plan that is done wrote or deleted is the only explanation from then on: what the snapshot has is none any more. A
    plan that did not end explains what it writes, and that it is absent, since it deletes and adds.
    """
    changed = set[tuple[str, str]]()
    outcomes = [(plan.done, outcome_of([plan])) for plan in earlier]
    for name in sorted({*planned.put, *planned.delete} & {*store.names()}):
        put, delete = planned.put.get(name, ChunkBatch.empty()), planned.delete.get(name, [])
        ids, space = [*put.ids, *delete], store.info(name).space
        versions = {chunk: [batch] for chunk, batch in originals_of(snapshot, name, ids).items()}
        may_be_absent = {*ids} - versions.keys()
        for done, outcome in outcomes:
            for chunk in (chunk for chunk in ids if (name, chunk) in outcome):
                if done:
                    versions[chunk] = []
                    may_be_absent.discard(chunk)
                if (batch := outcome[name, chunk]) is not None:
                    versions.setdefault(chunk, []).append(batch)
                if batch is None or not done:
                    may_be_absent.add(chunk)
        for row, chunk in enumerate(put.ids):
            versions.setdefault(chunk, []).append(put.take([row]))
        existing = present(store, name, ids)
        unexplained = set(existing)
        while rows := [versions[chunk].pop() for chunk in sorted(unexplained) if versions.get(chunk)]:
            for at in range(0, len(rows), BATCH):
                piece = ChunkBatch.concatenate(rows[at : at + BATCH])
                pair = next(compared(store, name, [piece], space))
                unexplained -= {*piece.ids} - pair.differing().keys()
        changed |= {(name, chunk) for chunk in unexplained | ({*ids} - {*existing} - may_be_absent - {*delete})}
    return changed


def leave_undone_cutover(folder: RunState) -> None:
    """Before step 22 writes again: set aside a cutover that was taken back, if every chunk of the target is as this run left it.

    `UsageError` ("client_writes") where clients wrote to it before, or use it since a cutover that is in force.
    """
    cutover = CutoverState.load(folder.workspace)
    if cutover is None or not cutover.clients_came:
        return
    run = RunRecord(folder, Step.MIGRATE)
    why = "clients use it since the cutover, and step 22 would write over what they write"
    if not cutover.may_be_applied:
        with open_source(run.parameters.target, run.workspace) as store:
            writes = client_writes(store, WrittenData(run), cutover.collections)
        if not writes:
            aside = folder.workspace / RunPath.EARLIER / utc_now().replace(":", "").removesuffix("+0000")
            aside.mkdir(parents=True, exist_ok=True)
            (folder.workspace / RunPath.CUTOVER).rename(aside / RunPath.CUTOVER)
            return
        why = f"clients wrote to it before the cutover was taken back: {counts_text(summary(writes))}"
    raise UsageError(
        ReasonCode.CLIENT_WRITES, why, where=run.parameters.target.label,
        next_step=f"Export it, and say what becomes of it: {folder.command('rollback')}",
    )  # fmt: skip


def writes_since(writes: Iterable[Written], folder: Path | None) -> dict[str, dict[str, int]]:
    """What clients wrote after this export was made (None: since the cutover), by target collection: chunks by kind.

    A chunk that they added before and that is gone now counts as deleted, one that they restored as changed. `vanished` and
    `new collections` are 1 where the whole collection was deleted or created.
    """
    rows = {row["collection"]: row for row in index_of(folder)} if folder is not None else {}
    contents = exported([str(folder)] if folder is not None else [])
    by_target, none = {write.target: write for write in writes}, ChunkBatch.empty()
    nothing: dict[str, Any] = dict.fromkeys(("added_ids", "changed_ids", "deleted_ids", "unreadable_ids"), ())
    nothing |= {"vanished": False, "made": None, "settings": {}}
    new_writes = {}
    for name in sorted(rows.keys() | by_target.keys()):
        row, write = rows.get(name, nothing), by_target.get(name, Written(name, "l2", none, none, [], none))
        counts = {kind: _count_differing(batch, contents[name].chunks, write.space)
                  for kind, batch in (("added", write.added), ("changed", write.changed))}  # fmt: skip
        deleted_before, deleted = ({chunk for chunk, *_ in ids} for ids in (row["deleted_ids"], write.deleted))
        changed = {chunk for chunk, *_ in row["changed_ids"]}
        present = {*write.added.ids, *write.changed.ids, *write.unreadable}
        counts["changed"] += len((changed | deleted_before) - deleted - present)  # put back as they were
        counts["deleted"] = len(deleted - deleted_before | {*row["added_ids"]} - present)
        counts["unreadable"] = len({*write.unreadable} - {*row["unreadable_ids"]})
        settings = row["settings"]
        counts["changed settings"] = sum(settings.get(setting) != value for setting, value in write.settings.items())
        counts["changed settings"] += len(settings.keys() - write.settings.keys())  # put back as they were
        made, vanished = (write.created is not None, row["made"] is not None), (write.vanished, row["vanished"])
        counts["vanished"] = int(vanished > vanished[::-1] or made < made[::-1])
        counts["new collections"] = int(made > made[::-1] or vanished < vanished[::-1])
        new_writes[name] = counts
    return {name: counts for name, counts in new_writes.items() if any(counts.values())}


def _count_differing(batch: ChunkBatch, old: ChunkBatch, space: Space) -> int:
    """The number of these chunks that `old` lacks or holds with other content."""
    if not len(batch) or not len(old):
        return len(batch)
    ids = {*batch.ids}
    pair = compare(batch, old.take([i for i, chunk in enumerate(old.ids) if chunk in ids]), space)
    return len(pair.differing())


class ReturnWrites:
    """`writes` are those that the last look found; `new_writes`, by target collection, what came after the look before."""

    def __init__(self, context: StageContext, source: SourceProof) -> None:
        self.context, self.run, self.source = context, context.run, source
        self.writes: list[Written] = []
        self.new_writes: dict[str, dict[str, int]] = {}
        self.looks: list[str] = []  # a sentence for each look of this process
        self.replays: list[str] = []  # and for each replay
        self.sentence = ""
        self.postponed = False
        self.prefixed = self.run.parameters.migration.id_policy == "prefix"

    @cached_property
    def schema(self) -> Schema:
        """The schema that the migration began with. Raises `Terminal` ("context_changed") where its file is another one now."""
        return schema_of_run(self.run)

    @contextmanager
    def target(self) -> Iterator[Reader]:
        """Open the target to read only: a directory is copied, and the copy opened."""
        with open_source(self.run.parameters.target, self.run.workspace) as store:
            yield store

    def names(self) -> list[str]:
        """The target's collections; writes nothing."""
        return quick_names(self.run.parameters.target, "target")

    def look(self, stage: str) -> pd.DataFrame:
        """Compare, export the differences, and stop where a person must decide on them first."""
        if not self.context.in_use or self.context.settled:
            self.run.check("clients' writes", Verdict.NOT_APPLICABLE,
                           detail=NOBODY if not self.context.in_use else "brought back already")  # fmt: skip
            return self.table([])
        with self.context.stage(stage) as row:
            if holders := used_by(self.run.parameters.target):  # a copy of it could be torn
                self._postpone(holders)
            else:
                self._look()
            row["said"] = self.sentence
            self._require_decision()
        return self.table(self.writes)

    def replay(self, stage: str) -> pd.DataFrame:
        """Write it to the source. Gives a table by source collection."""
        columns = ["source collection", "written", "deleted"]
        if not self.context.in_use or self.context.settled or self.postponed:
            return pd.DataFrame(columns=columns)
        if self.run.dry_run:
            planned = self._plan()
            self._list_open(planned)
        else:
            with self.context.stage(stage) as row:
                planned = self._replay()
                row["said"] = self._replayed(planned)
        names = sorted({*planned.create, *planned.put, *planned.delete})
        rows = [(n, len(planned.put.get(n, [])), len(planned.delete.get(n, []))) for n in names]
        return pd.DataFrame(rows, columns=columns)

    def replay_new(self) -> pd.DataFrame:
        """Look again, and replay what is new. Gives a table of what came after the first look."""
        if not self.context.in_use or self.context.settled:
            self.sentence = NOBODY if not self.context.in_use else "done already"
            return self.table([])
        if holders := used_by(self.run.parameters.target):
            raise EnvironmentFailure(
                ReasonCode.TARGET_IN_USE, f"{holders} has it open, so what clients wrote cannot be read",
                where=self.run.parameters.target.label,
                next_step=f"Stop that process, then repeat: {self.run.home.command('rollback')}",
            )  # fmt: skip
        self._look()
        self._require_decision()
        if self._orders_replay or self.context.state.began(REPLAY):
            planned = self._replay()
            self.sentence = f"{self.sentence}; {self._replayed(planned)}"
        rows = [[name, *news.values()] for name, news in self.new_writes.items()]
        return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COLUMNS[-2:], bool))

    def table(self, writes: list[Written]) -> pd.DataFrame:
        rows = [[write.target, *write.counts.values(), write.vanished, write.created is not None] for write in writes]
        return pd.DataFrame(rows, columns=COLUMNS)

    # -- the work ------------------------------------------------------------------------------------------------------

    def _postpone(self, holders: str) -> None:
        self.postponed = True
        self.sentence = f"{holders} has the target open; it is read once the application is back at the source"
        if not (self._decided or self.run.dry_run):
            raise self._undecided(
                f"{holders} has it open, and may have written to it", "Decide what becomes of such writes"
            )

    @property
    def _decided(self) -> bool:
        return self._orders_replay or bool(self.context.state.orders.discard)

    def _look(self) -> None:
        total = sum(len(self.context.data.ids(name)) for name in self.context.data.collections)
        with self.run.progress("Compare the target", total) as bar, self.target() as store:
            before = self.context.cutover.collections if self.context.cutover is not None else None
            self.writes = client_writes(store, self.context.data, before, bar)
        counts = summary(self.writes)
        self.run.fact("client_writes", counts)
        self.sentence = self._compare_looks(counts)
        if self.writes and self.new_writes and not self.run.dry_run:
            self.sentence += f", exported to {self._export()}"
        self._note_look()
        verdict, remark, open_writes = Verdict.WARNING, "", sum(counts.values())
        if not self.writes:
            verdict, remark = Verdict.NOT_EXERCISED, "; there was nothing to export or replay"
        elif self._orders_replay:  # the decision is taken: nothing is left to a person
            verdict, remark, open_writes = Verdict.PASS, "; to be replayed, as ordered", 0
        if self.context.data.noted is None:
            remark += "; settings of collections were not compared: step 23 did not note them"
        self.run.forget("clients' writes")
        self.run.check("clients' writes", verdict, measured=open_writes, threshold=0, unit="writes not to be replayed",
                       detail="; ".join(self.looks) + remark,
                       reason=ReasonCode.CLIENT_WRITES if verdict is Verdict.WARNING else "")  # fmt: skip

    def _compare_looks(self, counts: dict[str, int]) -> str:
        """A sentence on what this look found: since the cutover, and what of it is new since the look before."""
        exports = [folder for folder in self.context.state.facts.get("exports", []) if Path(folder).is_dir()]
        self.new_writes = writes_since(self.writes, Path(exports[-1]) if exports else None)
        if not exports:
            return f"{counts_text(counts)} since the cutover"
        new = Counter[str]()
        for counts_of_collection in self.new_writes.values():
            new.update(counts_of_collection)
        total = f", in all {counts_text(counts)} since the cutover" if new else ""
        return f"{counts_text(new)} since the look before{total}"

    def _note_look(self) -> None:
        """Record the result of each look for the rollback; the stage saves it when it ends."""
        self.looks.append(f"look {len(self.looks) + 1}: {self.sentence}")
        if not self.run.dry_run:
            facts = self.context.state.facts
            facts["looks"] = [*facts.get("looks", []), {"when": utc_now(), "said": self.sentence}]

    def _export(self) -> Path:
        state = self.context.state
        folder = next_folder(self.run.workspace, "export")
        digests = export(self.writes, folder)
        exports = state.facts.setdefault("exports", [])
        if exports and state.facts.get("export_digests") == digests and Path(exports[-1]).is_dir():
            shutil.rmtree(folder)  # the same as the last one
            return Path(exports[-1])
        exports.append(str(folder))
        state.facts["export_digests"] = digests
        state.facts["client_writes"] = summary(self.writes)
        state.save(self.run.workspace)
        audit.append(self.run.folder / audit.NAME, "clients' writes exported", folder=str(folder), files=digests)
        return folder

    def keep_late(self, writes: list[Written]) -> Path:
        """Export what came after the last look; it is not replayed, since the source is in use again."""
        folder = next_folder(self.run.workspace, "export")
        digests = export(writes, folder)
        self.context.state.facts["late"] = [*self.context.state.facts.get("late", []), str(folder)]
        self.context.state.save(self.run.workspace)
        audit.append(self.run.folder / audit.NAME, "clients' late writes exported", folder=str(folder), files=digests)
        return folder

    @property
    def _orders_replay(self) -> bool:
        return self.context.state.orders.replay or self.run.parameters.rollback.replay

    def _require_decision(self) -> None:
        """Stop until a person decides: what clients wrote is either replayed or given up."""
        if not self.writes or self._decided or self.run.dry_run:
            return
        raise self._undecided(f"clients wrote to the target: {self.sentence}", "Nothing of it was removed. Go on with")

    def _undecided(self, problem: str, advice: str) -> Terminal:
        next_step = f"{advice}: {self.run.home.command('rollback')} --replay, or --discard-with-reason TEXT"
        return Terminal(ReasonCode.CLIENT_WRITES, problem, where=self.run.parameters.target.label, next_step=next_step)

    def _plan(self) -> Plan:
        snapshot = self.context.data.snapshot
        assert snapshot is not None
        created = {name for earlier in replay.saved(self.run.workspace) for name in earlier.create}
        names = quick_names(self._writable(), "source") if any(w.created for w in self.writes) else []
        occupied = set(names) - created
        to = self.context.state.orders.replay_to
        if to and to not in snapshot.names():
            raise UsageError(
                ReasonCode.NO_SUCH_COLLECTION, f"--replay-to {to}: the source has no such collection",
                next_step=f"It has {', '.join(snapshot.names())}.",
            )  # fmt: skip
        order = self.run.parameters.migration.reembed
        planned = replay.plan(self.writes, snapshot, occupied, schema=self.schema, prefixed=self.prefixed, to=to,
                              anew=order.selects if order else lambda _: False)  # fmt: skip
        exclude(planned, self.source.moved)
        if shard := self.run.parameters.collections.shard:
            leave_other_shards(planned, shard)
        return planned

    def _replay(self) -> Plan:
        state = self.context.state
        if not self._orders_replay:
            if self.writes:
                audit.append(self.run.folder / audit.NAME, "clients' writes discarded", reason=state.orders.discard,
                             writes=summary(self.writes))  # fmt: skip
            return Plan()
        planned, earlier, snapshot = self._plan(), replay.saved(self.run.workspace), self.context.data.snapshot
        assert snapshot is not None
        if not state.did(
            FILES
        ):  # clients write to the target alone: what is not at the source was lost there, and is written again
            earlier = [replace(plan, done=False) for plan in earlier]
        unread = {write.target for write in self.writes if write.vanished or write.unreadable}
        add_reverted(
            planned, earlier, snapshot, [n for n in snapshot.names() if unread & self.schema.targets([n]).keys()]
        )
        exclude_done(planned, earlier)
        self._require_places(planned)
        if not planned.nothing:
            with open_for_writing(self._endpoint()) as store:
                exclude(planned, changed_at_source(store, planned, earlier, snapshot))
                self._require_places(planned)
                if not planned.nothing:
                    self._write(store, planned)
        if planned.nothing:
            self.replays.append("")
        state.facts["given_up"] = planned.open
        state.facts["replayed"] = self._replayed_chunks()
        state.save(self.run.workspace)
        return planned

    def _require_places(self, planned: Plan) -> None:
        """Raise `Terminal` ("replay_open") where a write cannot be replayed, and nobody gave it up."""
        path = self._list_open(planned)
        if planned.open and not self.context.state.orders.discard:
            command = self.run.home.command("rollback")
            raise Terminal(
                ReasonCode.REPLAY_OPEN,
                f"{count(len(planned.open), 'write')} cannot be replayed: {open_text(planned.open)}. All are listed in {path}",
                where=self.run.parameters.target.label,
                next_step=f"Say where new chunks go: {command} --replay-to COLLECTION; or put it right at the target; or give "
                f"these up: {command} --replay --discard-with-reason TEXT",
            )  # fmt: skip

    def _write(self, store: Store, planned: Plan) -> None:
        """Save a plan, write it to the source, and note it as done once every chunk was compared."""
        folder = next_folder(self.run.workspace, "replay")
        replay.save(planned, folder)
        log = self.run.folder / audit.NAME
        fields: dict[str, Any] = {"plan": str(folder), "chunks": planned.chunks}
        audit.append(log, "clients' writes replayed", outcome="begun", **fields, open=planned.open)
        wrote, unfound = replay.apply(store, planned)
        replay.note_done(folder)
        self._judge_index(unfound)
        existing = planned.chunks - wrote
        sentence = f"{count(wrote, 'chunk')} written to the source" if wrote else "nothing written to the source"
        self.replays.append(sentence + f", {existing:,} there already" * bool(existing))
        audit.append(log, "clients' writes replayed", **fields, written=wrote, there_already=existing)

    def _replayed_chunks(self) -> int:
        """The number of chunks that the plans of this rollback wrote to the source, or deleted there."""
        return len(set[tuple[str, str]]().union(*(plan.ids() for plan in replay.saved(self.run.workspace))))

    def _list_open(self, planned: Plan) -> Path | None:
        """Record every write that cannot be assigned, and (unless in a dry run) list it in a file. Gives its path."""
        self.run.fact("replay_open", planned.open)
        self.run.forget("writes without a place")
        number = len(planned.open)
        verdict = Verdict.WARNING if number else Verdict.PASS if self.writes else Verdict.NOT_EXERCISED
        self.run.check("writes without a place", verdict, measured=number, threshold=0, unit="writes", offenders=number,
                       reason=ReasonCode.REPLAY_OPEN if planned.open else "", detail=open_text(planned.open),
                       ids=planned.open)  # fmt: skip
        if not planned.open or self.run.dry_run:
            return None
        path = self.run.workspace / "rollback" / "not-placed.csv"
        write_text(path, pd.DataFrame(planned.open).map(harmless).to_csv(index=False))  # ids are texts of clients
        return path

    def _judge_index(self, unfound: list[dict[str, str]]) -> None:
        advice = (
            "Deletes can leave holes in an index; notebook 44 shows them, and a restore of the collection mends them."
        )
        self.run.forget("chunks not found after the replay")
        self.run.check("chunks not found after the replay", Verdict.WARNING if unfound else Verdict.PASS,
                       measured=len(unfound), threshold=0, unit="chunks", reason=ReasonCode.REPLAY_UNFOUND if unfound else "",
                       detail=advice if unfound else "", ids=unfound)  # fmt: skip

    def _endpoint(self) -> Endpoint:
        """Where the source is written. Raises `EnvironmentFailure` for a directory that another process has open."""
        endpoint = self._writable()
        if used := used_by(endpoint):
            raise EnvironmentFailure(
                ReasonCode.SOURCE_IN_USE, f"{used} has the source open, and clients' writes have still to be replayed to it",
                where=str(endpoint.path), next_step=f"Stop that process, then repeat: {self.run.home.command('rollback')}",
            )  # fmt: skip
        return endpoint

    def _writable(self) -> Endpoint:
        return writing_endpoint(self.run.home, self.run.parameters)

    def _replayed(self, planned: Plan) -> str:
        if not self._orders_replay:
            reason = self.context.state.orders.discard
            return f"not replayed: {reason}" if self.writes else "nothing to replay"
        self.run.forget("replayed chunks")
        sentences = [f"after look {n}: {wrote}" for n, wrote in enumerate(self.replays, 1) if wrote]
        detail = "; ".join([*sentences, "every chunk compared at the source"])
        detail += (
            f"; {count(len(planned.open), 'write')} given up: {self.context.state.orders.discard}"
            if planned.open
            else ""
        )
        total = self._replayed_chunks()
        exercised = total or not planned.nothing
        verdict = Verdict.WARNING if planned.open else Verdict.PASS if exercised else Verdict.NOT_EXERCISED
        self.run.check("replayed chunks", verdict, measured=total, threshold=total + len(planned.open),
                       unit="chunks", ids=planned.open, reason=ReasonCode.REPLAY_OPEN if planned.open else "",
                       detail="nothing to replay" if verdict is Verdict.NOT_EXERCISED else detail)  # fmt: skip
        if planned.nothing:
            return "nothing more to replay" if exercised else "nothing to replay"
        creations = f", {count(len(planned.create), 'collection')} of clients made" if planned.create else ""
        return f"{self.replays[-1]}; {count(planned.chunks, 'chunk')} compared there{creations}"
