"""Step 11: what is in the source, chunk by chunk, and what the migration would make of it.

The pass (`profile_scan`) runs once, when the first table is asked for. This step looks and warns; 13 and 24 judge.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from helpers import plots
from helpers.errors import one_line
from helpers.exploring.lookup import Lookup
from helpers.results import Verdict
from helpers.run import tables
from helpers.run.record import NotebookStep, RunRecord
from helpers.schema import Context, load_schema
from helpers.steps.profile_scan import Scan
from helpers.steps.spaces import check_spaces

READ = 500  # chunks read at a time
SHOWN = 100  # groups of duplicates or collisions in a table
_WRONG = ("wrong_type", "out_of_range", "unknown_value")
_COUNTED = (
    "none_metadata",
    "none_documents",
    "empty_documents",
    "long_documents",
    "uris",
    "lost_vectors",
    "nonfinite_vectors",
    "zero_vectors",
)


class Profile(NotebookStep):
    """Tables to look at, change and look at again. Those on a defect also add a check to the step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.schema = load_schema(run.parameters.schema_name)
        self.lookup = Lookup(run)

    @cached_property
    def scan(self) -> Scan:
        """One pass over every chunk of the source."""
        p, run = self.run.parameters, self.run
        with run.phase("profile") as phase:
            store = self.lookup.reader
            infos = [store.info(name) for name in store.names() if p.collections.selects(name)]
            context = Context.of([i.name for i in infos], run.date, p.migration)
            scan = Scan(
                self.schema, context, p.expected.dimensions, infos, p.validation.seed, self.run.workspace / "findings"
            )
            with run.progress("profiling", sum(info.count for info in infos)) as progress:
                for info in infos:
                    scan.open(info)
                    ids = store.ids(info.name)
                    for start in range(0, len(ids), READ):
                        batch = store.read(info.name, ids[start : start + READ])
                        scan.add(info.name, batch)
                        progress.advance(len(batch))
                        phase.chunks += len(batch)
        run.fact("findings", self._findings(scan))
        return scan

    @property
    def chunks(self) -> int:
        return sum(seen.chunks for seen in self.scan.collections.values())

    def findings(self) -> dict[str, int]:
        """What was found, by name; the rehearsal's are known beforehand (`sample.expected_findings`)."""
        return self._findings(self.scan)

    def _findings(self, scan: Scan) -> dict[str, int]:
        chunks = sum(seen.chunks for seen in scan.collections.values())
        found = {key: sum(seen.counts[key] for seen in scan.collections.values()) for key in _COUNTED}
        found |= {f"missing_{rule.name}": chunks - _present(scan, rule.name) for rule in self.schema.fields}
        found |= {
            f"{kind}_{name}": n
            for name, field in sorted(scan.fields.items())
            for kind, n in field.wrong.items()
        }  # fmt: skip
        return found | {
            "chunks": chunks,
            "duplicate_documents": scan.documents.surplus,
            "duplicate_vectors": scan.vectors.surplus,
            "colliding_ids": len(scan.ids.groups),
            "quarantined": scan.quarantined,
            **{f"target_{name}": n for name, n in sorted(scan.targets.items())},
        }

    def overview(self) -> pd.DataFrame:
        """One row a collection: chunks, shape, documents, vectors, and how many chunks would be set aside."""
        rows = [
            {
                "collection": name,
                "chunks": seen.chunks,
                "dimension": seen.info.dimension,
                "space": seen.info.space,
                "declared": seen.info.declared_space,
                "no_document": seen.counts["none_documents"],
                "empty_document": seen.counts["empty_documents"],
                "no_metadata": seen.counts["none_metadata"],
                "mean_characters": round(seen.characters / max(1, seen.chunks)),
                "longest": seen.longest,
                "uris": seen.counts["uris"],
                "quarantined": seen.counts["quarantined"],
            }
            for name, seen in self.scan.collections.items()
        ]
        lacking = self.findings()["none_documents"]
        needed = self.schema.requires_document
        self._check(
            "every chunk has a document",
            lacking,
            "missing_document",
            "The schema requires one: these chunks would be set aside." if needed else "",
            applies=needed,
        )
        check_spaces(self.run, [seen.info for seen in self.scan.collections.values()], named=True)
        self.run.fact("chunks", self.chunks)
        return pd.DataFrame(rows)

    def completeness(self) -> pd.DataFrame:
        """Share of chunks that hold each field: one row a field, one column a collection.

        Draws the heat map, of the schema's core fields where it has any.
        """
        scan = self.scan
        names = [rule.name for rule in self.schema.fields]
        names += sorted(name for name in scan.fields if name not in names)
        table = pd.DataFrame(
            {
                collection: [_count(scan, name, collection) / max(1, seen.chunks) for name in names]
                for collection, seen in scan.collections.items()
            },
            index=pd.Index(names, name="field", dtype=object),
        )
        lacking = {r.name: self.chunks - _present(scan, r.name) for r in self.schema.fields if r.fixed is None}
        worst = sorted((name for name, n in lacking.items() if n), key=lambda name: -lacking[name])
        self._check(
            "the fields of the schema are there",
            sum(lacking.values()),
            "missing_metadata",
            "Filled in by the schema: " + ", ".join(f"{name} {lacking[name]}" for name in worst),
            applies=bool(lacking),
        )
        caption = "Share of the source's chunks that hold each metadata field, by collection."
        drawn = table if not self.schema.fields else table.loc[[rule.name for rule in self.schema.fields]]
        self.run.figure("completeness", plots.completeness_heatmap(drawn), caption)
        return table

    def values(self) -> pd.DataFrame:
        """One row a field: types, range, the commonest values, and what the schema finds wrong with them."""
        scan = self.scan
        expected = {rule.name: rule.type for kind in self._kinds() for rule in self.schema.rules(kind)}
        rows = [
            {
                "field": name,
                "wanted": expected.get(name, ""),
                "present": sum(seen.present.values()),
                "types": _ranked(seen.types.most_common()),
                "minimum": seen.minimum,
                "maximum": seen.maximum,
                **{kind: seen.wrong[kind] for kind in _WRONG},
                "values": seen.common(),
            }
            for name, seen in sorted(scan.fields.items(), key=lambda item: (item[0] not in expected, item[0]))
        ]
        judged = not self.schema.is_identity
        out = sum(seen.wrong["out_of_range"] for seen in scan.fields.values())
        other = sum(seen.wrong[kind] for seen in scan.fields.values() for kind in ("wrong_type", "unknown_value"))
        self._check(
            "scores are within their range", out, "invalid_scores", "The schema says what becomes of them.", judged
        )
        self._check("values are of their type and list", other, "invalid_values", "Converted or repaired.", judged)
        columns = ["field", "wanted", "present", "types", "minimum", "maximum", *_WRONG, "values"]
        return pd.DataFrame(rows, columns=columns)  # a source without any metadata has no rows

    def vectors(self) -> pd.DataFrame:
        """One row a collection: lost, not finite, zero and unit vectors, and the norms (L2). Draws their histogram."""
        rows = []
        for name, seen in self.scan.collections.items():
            norms = np.asarray(seen.norms)
            low, middle, high = np.quantile(norms, [0, 0.5, 1]) if norms.size else (np.nan, np.nan, np.nan)
            counts = {k: seen.counts[f"{k}_vectors"] for k in ("lost", "nonfinite", "zero", "unit")}
            rows.append(
                {"collection": name, "vectors": seen.chunks, "dimension": seen.info.dimension, **counts,
                 "norm_minimum": low, "norm_median": middle, "norm_maximum": high, "norms_kept": norms.size}
            )  # fmt: skip
        found = self.findings()
        self._check("every vector can be read", found["lost_vectors"], "missing_embedding", "Would be set aside.")
        self._check("vectors are finite", found["nonfinite_vectors"], "nan_embedding", "Would be set aside.")
        self._check("no vector is zero", found["zero_vectors"], "zero_vector", "At the same cosine distance from all.")
        caption = "Norms of the source's vectors, by collection."
        kept = {name: np.asarray(seen.norms) for name, seen in self.scan.collections.items()}
        self.run.figure("norms", plots.norms_histogram(kept), caption)
        return pd.DataFrame(rows)

    def duplicates(self) -> pd.DataFrame:
        """Documents, and vectors but for zero ones, that stand in the source more than once, to the last bit."""
        rows = [
            {"what": what, "chunks": len(group), "where": _places(group)}
            for what, twins in (("document", self.scan.documents), ("vector", self.scan.vectors))
            for group in sorted(twins.groups.values(), key=len, reverse=True)[:SHOWN]
        ]
        found = self.findings()
        for what in ("documents", "vectors"):
            self._check(
                f"no {what} are repeated",
                found[f"duplicate_{what}"],
                "duplicates",
                "Migrated as they are." + self._part,
            )
        groups = sum(len(twins.groups) for twins in (self.scan.documents, self.scan.vectors))
        whole = "All: desk.export('duplicate_documents'), desk.export('duplicate_vectors')."
        return tables.cut(pd.DataFrame(rows, columns=["what", "chunks", "where"]), groups, whole)

    def collisions(self) -> pd.DataFrame:
        """Ids that more than one collection uses, and whether they would meet in one target collection."""
        groups = sorted(self.scan.ids.groups.values())
        meeting = [group for group in groups if len({target for *_, target in group}) < len(group)]
        kept_apart = self.run.parameters.migration.id_policy == "prefix"
        bad = bool(meeting) and not kept_apart
        advice = (
            "The dry run would stop at them. Begin a new run with migration.id_policy: prefix, which writes every id as "
            "<source collection>:<id> (tell the clients), or rename them at the source."
        )
        self.run.check(
            "no ids meet in a target collection",
            Verdict.FAIL if bad else Verdict.PASS,
            measured=len(meeting),
            threshold=0,
            unit="ids",
            reason="id_collision" if bad else "",
            detail=(advice if bad else "Kept apart by migration.id_policy: prefix." if meeting else "") + self._part,
            offenders=len(meeting) if bad else 0,
        )
        rows = [
            {
                "id": one_line(group[0][1], 80),
                "collections": ", ".join(place[0] for place in group),
                "targets": ", ".join(sorted({place[2] for place in group})),
                "meet": len({target for *_, target in group}) < len(group),
            }
            for group in groups[:SHOWN]
        ]
        frame = pd.DataFrame(rows, columns=["id", "collections", "targets", "meet"])
        return tables.cut(frame, len(groups), "All: desk.export('colliding_ids').")

    def schema_preview(self) -> pd.DataFrame:
        """What the schema would do with these chunks: repair, set aside, send to which target collection."""
        scan, total = self.scan, max(1, self.chunks)
        rows: list[tuple[str, str, str, int, str]] = [
            ("repair", str(name), str(rule), n, scan.examples.get((name, rule), ""))
            for (name, rule), n in scan.repairs.most_common()
        ]
        rows += [("quarantine", "", reason, n, "") for reason, n in scan.failures.most_common()]
        rows += [("route", "", name, n, "") for name, n in sorted(scan.targets.items())]
        valid = (total - scan.quarantined) / total
        minimum = self.run.parameters.migration.minimum_valid
        self.run.check(
            "chunks would pass validation",
            Verdict.WARNING if scan.quarantined else Verdict.PASS,
            measured=valid,
            threshold=minimum,
            reason="quarantined" if scan.quarantined else "",
            detail=", ".join(f"{reason} {n}" for reason, n in scan.failures.most_common()),
            offenders=scan.quarantined,
            ids=scan.failed,
        )
        self.run.fact("repaired_chunks", scan.repaired)
        table = pd.DataFrame(rows, columns=["what", "field", "rule", "chunks", "example"])
        return table.assign(share=table["chunks"] / total)

    @property
    def _part(self) -> str:
        every = self.scan.every
        return "" if every == 1 else f" Sought among one content in {every}, chosen by its digest."

    def _kinds(self) -> list[str | None]:
        return list(dict.fromkeys(self.schema.targets(list(self.scan.collections)).values()))

    def _check(self, name: str, count: int, reason: str, detail: str, applies: bool = True) -> None:
        bad = applies and count > 0
        self.run.check(
            name,
            Verdict.WARNING if bad else Verdict.PASS if applies else Verdict.NOT_APPLICABLE,
            measured=count,
            threshold=0,
            reason=reason if bad else "",
            detail=detail if bad else "" if applies else f"Schema {self.schema.name} has no rule for it.",
            offenders=count if bad else 0,
        )


def _count(scan: Scan, name: str, collection: str) -> int:
    return scan.fields[name].present[collection] if name in scan.fields else 0


def _present(scan: Scan, name: str) -> int:
    return sum(scan.fields[name].present.values()) if name in scan.fields else 0


def _ranked(counts: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts)


def _places(group: list[tuple[str, ...]]) -> str:
    named = "; ".join(f"{place[0]}: {one_line(place[1], 60)}" for place in group[:4])
    return named if len(group) <= 4 else f"{named}; and {len(group) - 4} more"
