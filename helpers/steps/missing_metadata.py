"""Notebook 46: fields and documents that are missing or different in the target, and where their values come from."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from helpers.migration.source_changes import schema_of_run
from helpers.reason_codes import ReasonCode
from helpers.snapshots.comparison import CONTENT
from helpers.troubleshooting import ProbeResult, StagedTroubleshooter

ORIGINS = ["target", "field", "in target", "in source", "filled by the schema", "absent by design"]


class MissingMetadataStep(StagedTroubleshooter):
    """Every field of every chunk of the target, compared with the staged one. The repair writes whole chunks again."""

    code = ReasonCode.MISSING_METADATA
    kinds = (*CONTENT, ReasonCode.TYPE_DIFFERS)

    def look(self) -> ProbeResult:
        self.all_differences(refresh=True)
        rows = self.differences()
        counted = rows.groupby(["target", "difference", "field"])["id"].nunique().rename("chunks").reset_index()
        chunks = int(rows[["target", "id"]].drop_duplicates().shape[0])
        sentence = ", ".join(f"{str(d).replace('_', ' ')}: {n:,}" for d, n in rows["difference"].value_counts().items())
        return ProbeResult(counted, chunks, sentence, "chunks")

    def origins(self) -> pd.DataFrame:
        """One row for each target collection and field, in chunks: values in the target, from the source, filled by the schema.

        Counted over the staged chunks and the repairs that step 22 recorded; `in target` does not count what is missing
        there now.
        """
        staged = self.staged
        schema = schema_of_run(self.run)
        if staged is None:
            return pd.DataFrame(columns=ORIGINS)
        differences = self.differences()
        lost = (
            differences[differences["difference"] == ReasonCode.FIELD_MISSING]
            .groupby(["target", "field"])["id"]
            .nunique()
        )
        kinds = schema.targets(self.snapshot.names())
        rows = []
        for target in sorted(staged.files):
            names = [rule.name for rule in schema.rules(kinds[target])] if not schema.is_identity else []
            held, total = self._held(target)
            names = names or sorted(held)
            filled = self._filled(target)
            for name in names:
                missing = int(lost.get((target, name), 0))
                own = max(0, held[name] - filled[name])
                rows.append((target, name, held[name] - missing, own, held[name] - own, total - held[name]))
        return pd.DataFrame(rows, columns=ORIGINS)

    def _held(self, target: str) -> tuple[Counter[str], int]:
        """(field → staged chunks of a target that have it, all staged chunks of the target)."""
        staged = self.staged
        assert staged is not None
        held: Counter[str] = Counter()
        for batch in staged.stream(target, 0, 500):
            for metadata in batch.metadatas:
                held.update((metadata or {}).keys())
        return held, staged.rows(target)

    def _filled(self, target: str) -> Counter[str]:
        """Field → chunks in which the schema filled it, over all chunks of the source collections of a target."""
        staged = self.staged
        assert staged is not None
        mine = set(staged.contributors(target))
        filled: Counter[str] = Counter()
        for row in staged.repairs:
            if row["collection"] in mine and row["rule"] in ("missing", "default", "fixed"):
                filled[row["field"]] += row["chunks"]
        return filled

    def missing_before(self) -> pd.DataFrame:
        """One row for each chunk that is in quarantine for a missing field or document."""
        rows = [e for e in self.quarantine.entries() if e["reason"].startswith("missing_")]
        rows = [e for e in rows if e["reason"] != ReasonCode.MISSING_EMBEDDING]
        return pd.DataFrame(rows, columns=["collection", "id", "reason", "detail"])
