"""Notebook 48: counts of source, snapshot, staging, target and quarantine that do not match, by collection and by id."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from helpers.errors import RunbookError
from helpers.formatting import count
from helpers.reason_codes import ReasonCode
from helpers.stores import open_source, sharded
from helpers.troubleshooting import ProbeResult, StagedTroubleshooter

COLUMNS = ["collection", "source now", "snapshot", "staged", "target", "quarantine", "missing", "matches"]


class CountMismatchStep(StagedTroubleshooter):
    """Chunks that the target lacks, holds twice, or holds unexpectedly. The repair adds and removes only those."""

    code = ReasonCode.COUNT_MISMATCH
    kinds = (ReasonCode.CHUNK_MISSING, ReasonCode.CHUNK_EXTRA, ReasonCode.CHUNK_DOUBLED)

    def look(self) -> ProbeResult:
        self.all_differences(refresh=True)
        rows = self.differences()
        by_kind = rows["difference"].value_counts().to_dict()
        table = self.reconciliation()
        unequal = int((~table["matches"]).sum())
        sentence = ", ".join(f"{str(kind).replace('_', ' ')}: {n:,}" for kind, n in sorted(by_kind.items()))
        if not len(rows) and unequal:
            sentence = f"{count(unequal, 'collection')} whose target and quarantine do not make the snapshot"
        return ProbeResult(table, len(rows) or unequal, sentence, "chunks" if len(rows) else "collections")

    def reconciliation(self) -> pd.DataFrame:
        """One row for each source collection, in chunks; it matches when target + quarantine = snapshot and nothing is missing.

        `source now` is the source's own count ("–" where it cannot be read): a difference from the snapshot was written or
        removed since. A target collection's chunks count for the source collection that they were staged from.
        """
        staged = self.staged
        assert staged is not None
        quarantined = Counter(e["collection"] for e in self.quarantine.entries())
        differences = self.differences()
        absent = {
            (r.target, r.id) for r in differences[differences["difference"] == ReasonCode.CHUNK_MISSING].itertuples()
        }
        refused = Counter(
            c for (c, _), reason in self.quarantine.reasons().items() if reason == ReasonCode.REFUSED_BY_TARGET
        )
        planned: Counter[str] = Counter()
        missing: Counter[str] = Counter()
        for target in staged.files:
            for collection, ids in staged.ids(target):
                planned[collection] += len(ids)
                missing[collection] += sum((target, chunk) in absent for chunk in ids)
        now = self.source_now()
        rows = []
        for info in self.snapshot.collections():
            name = info.name
            present = planned[name] - refused[name] - missing[name]
            matches = present + quarantined[name] == info.count and not missing[name]
            rows.append(
                (
                    name,
                    now.get(name, "–"),
                    info.count,
                    planned[name],
                    present,
                    quarantined[name],
                    missing[name],
                    matches,
                )
            )
        return pd.DataFrame(rows, columns=COLUMNS)

    def source_now(self) -> dict[str, int | str]:
        """Collection → chunks that the source counts now; {} where it cannot be read."""
        try:
            with open_source(self.run.parameters.source, self.run.workspace) as whole:
                source = sharded(whole, self.run.parameters.collections.shard)
                return {name: source.count(name) for name in self.snapshot.names() if name in source.names()}
        except RunbookError as error:
            self.run.log(f"the source cannot be counted now: {error}")
            return {}

    def extra_ids(self) -> pd.DataFrame:
        """The ids in the target that were not staged, to be inspected before they are removed."""
        rows = self.differences()
        return rows[rows["difference"] == ReasonCode.CHUNK_EXTRA][["target", "id"]].reset_index(drop=True)

    def by_id(self, chunk: str) -> pd.DataFrame:
        """Where one chunk is: snapshot, staging, target, quarantine. `chunk` is its id in the source."""
        rows: list[tuple[str, str, str]] = []
        for name in self.snapshot.names():
            if any(chunk in self.snapshot.ids(part) for part in self.snapshot.parts(name)):
                rows.append(("snapshot", name, chunk))
        rows += [
            ("quarantine", e["collection"], f"{e['reason']}: {e['detail']}")
            for e in self.quarantine.entries()
            if e["id"] == chunk
        ]
        staged = self.staged
        wanted: dict[str, set[str]] = {}
        for target in staged.files if staged is not None else ():
            assert staged is not None
            ids = [i for _, some in staged.ids(target) for i in some]
            origins = staged.origins(target, 0, len(ids))
            wanted[target] = {i for i, (_, source_id) in zip(ids, origins, strict=True) if source_id == chunk}
            rows += [("staged", target, i) for i in sorted(wanted[target])]
        with self.target() as (store, names):
            for target in sorted(names & set(wanted)) if store is not None else ():
                assert store is not None
                stored = store.read(target, sorted(wanted[target] | {chunk}), embeddings=False)
                rows += [("target", target, i) for i in stored.ids]
        return pd.DataFrame(rows, columns=["where", "collection", "as"])
