"""What a migration's phases are judged by, and what they show of it; the same for the dry run and the real one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from helpers import plots
from helpers.errors import Terminal
from helpers.migration.staging import Staged
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import Check, Verdict, kind_of
from helpers.run.plan import Step
from helpers.run.record import RunRecord
from helpers.snapshots.snapshot import Snapshot
from helpers.stores import CollectionInfo
from helpers.stores.creation import allowed, listed, refusal, unsupported


def show_transform(run: RunRecord, staged: Staged, aside: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Repairs (field, rule, kind, chunks) summed over the collections; drawn, with the routes, unless the dry run did.

    `aside`: the chunks in quarantine, each with its `collection`. Records the facts `repairs` and `routing`, whose target is
    "" for the quarantine.
    """
    routed: Counter[tuple[str, str]] = Counter()
    for target, files in staged.files.items():
        for _, collection, rows in files:
            routed[collection, target] += rows
    routed.update((str(row["collection"]), "") for row in aside)
    ways = [{"collection": c, "target": t, "chunks": n} for (c, t), n in sorted(routed.items())]
    table = pd.DataFrame(staged.repairs, columns=["collection", "field", "rule", "chunks"])
    run.fact("derived", staged.derived)
    figures = {
        "repairs": (staged.repairs, "Values that the schema fills in or changes, by field."),
        "routing": (ways, "Where the chunks of each source collection go."),
    }
    dry = run.earlier(Step.DRY_RUN) if run.step != Step.DRY_RUN else None
    for name, (found, caption) in figures.items():
        run.fact(name, found)
        known = dry.facts.get(name) if dry is not None else None
        if found and json.loads(json.dumps(found)) != known:
            frame = pd.DataFrame(ways).rename(columns={"collection": "source"})
            run.figure(name, plots.repairs_bar(table) if name == "repairs" else plots.routing(frame), caption)
    summed = pd.DataFrame(table.groupby(["field", "rule"], as_index=False)["chunks"].sum())
    summed.insert(2, "kind", [kind_of(str(rule)) for rule in summed["rule"]])
    return summed


def routing_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The fact `routing` as a table: source, target, chunks; one row a pair, and one a source with chunks in quarantine."""
    table = [(r["collection"], r["target"] or "(quarantine)", r["chunks"]) for r in rows]
    return pd.DataFrame(table, columns=["source", "target", "chunks"])


def judge_indexes(run: RunRecord, infos: Iterable[CollectionInfo], *, refuse: bool) -> None:
    """What a local Chroma cannot hold of these collections: a warning that names each index, where there is any.

    `refuse`: raises `Terminal` ("index_unsupported") for what `migration.drop_indexes` does not give up.
    """
    patterns = run.parameters.migration.drop_indexes
    lost = [(index, allowed(info, patterns)) for info in infos for index in unsupported(info)]
    if not lost:
        return
    open_ = [index for index, signed in lost if not signed]
    told = open_ or [index for index, _ in lost]
    more = "not named in migration.drop_indexes" if open_ else "migration.drop_indexes gives it up"
    run.check(
        "indexes of Chroma Cloud alone", Verdict.FAIL if open_ and refuse else Verdict.WARNING, measured=len(lost),
        threshold=0, unit="indexes", reason=ReasonCode.INDEX_UNSUPPORTED if open_ else ReasonCode.INDEX_DROPPED,
        detail=f"{listed(told)}: {more}",
        ids=[{"collection": i.collection, "index": i.kind, "key": i.key, "becomes": i.becomes if signed else "undecided"}
             for i, signed in lost],
    )  # fmt: skip
    if open_ and refuse:
        raise refusal(open_)


def judge_staging(run: RunRecord, staged: Staged, parameters: Parameters) -> None:
    """The checks of phase 3: enough chunks valid, no two chunks with one id in one target."""
    aside = sum(staged.quarantined.values())
    share = (staged.total - aside) / staged.total if staged.total else 1.0  # 0.001, not 0.0010000000000000009
    least = parameters.migration.minimum_valid
    run.check(
        "chunks that pass validation", Verdict.PASS if share >= least else Verdict.FAIL, measured=share,
        parameter="migration.minimum_valid", threshold=least, relation="≥",
        unit="share", reason="" if share >= least else ReasonCode.VALIDATION_BELOW_MINIMUM, offenders=aside,
        detail=", ".join(f"{reason} {n}" for reason, n in staged.quarantined.items()),
    )  # fmt: skip
    clashes = staged.collided
    run.check(
        "ids in common", Verdict.FAIL if clashes else Verdict.PASS, measured=clashes, threshold=0,
        unit="ids", reason=ReasonCode.ID_COLLISION if clashes else "", offenders=clashes, ids=staged.collisions,
        detail="Set migration.id_policy: prefix, or route these collections apart." if clashes else "",
    )  # fmt: skip
    run.fact("validation_pass_rate", share)


def judge_arrivals(run: RunRecord, table: pd.DataFrame, minimum: int) -> None:
    """The checks of phase 5: nothing missing, nothing extra, the floor of imported chunks."""
    for column, reason in (("missing", ReasonCode.CHUNK_MISSING), ("extra", ReasonCode.CHUNK_EXTRA)):
        off = table[table[column] > 0]
        count = int(off[column].sum())
        run.check(
            f"chunks {column}", Verdict.FAIL if count else Verdict.PASS, measured=count, threshold=0, unit="chunks",
            reason=reason if count else "", offenders=count,
            ids=[{"collection": c, column: int(n)} for c, n in zip(off["collection"], off[column], strict=True)],
        )  # fmt: skip
    imported = int(table["target"].sum())
    if minimum:
        run.check("chunks imported", Verdict.PASS if imported >= minimum else Verdict.FAIL, measured=imported,
                  parameter="expected.minimum_imported", threshold=minimum, relation="≥", unit="chunks",
                  reason="" if imported >= minimum else ReasonCode.COUNT_MISMATCH)  # fmt: skip
    run.fact("imported", imported)


def refuse_failed(run: RunRecord) -> None:
    """Raises `Terminal` where a check of this step failed: nothing is written on a bad basis."""
    failed: list[Check] = [c for c in run.result.checks if c.verdict is Verdict.FAIL]
    if failed:
        raise Terminal(
            failed[0].reason or ReasonCode.CHECK_FAILED,
            f"{failed[0].name}: {failed[0].found} where {failed[0].expected} is expected",
            where=f"step {run.step}",
            next_step=failed[0].detail or "Nothing was written.",
        )


RESCUED = "vectors rescued from damaged indexes"
_SAVED = ("vector_from_log", "vector_from_index", "vector_normalised")
_RESCUED = {
    "vector_from_log": "from the log, exact",
    "vector_from_index": "from rows of a damaged index, as an engine would read them",
    "vector_normalised": "by direction only, their norm is lost: not exact",
    "norm_lost": "not rescued but set aside, their norm is lost",
    "vector_lost": "not rescued, in no file any more",
}


def judge_rescue(run: RunRecord, snapshot: Snapshot) -> None:
    """The mark of what was rescued from a damaged index: a warning with counts and ids; nothing where nothing was."""
    fates: dict[str, list[dict[str, str]]] = {}
    for repair in snapshot.manifest.get("repairs", ()):
        if repair["repair"] in _RESCUED:
            named = [{"collection": repair["collection"], "id": chunk} for chunk in repair["ids"]]
            fates.setdefault(repair["repair"], []).extend(named)
    run.forget(RESCUED)  # a cell may run twice
    if not fates:
        return
    worst_first = [chunk for kind in reversed(_RESCUED) for chunk in fates.get(kind, ())]
    arrived = sum(len(fates.get(kind, ())) for kind in _SAVED)
    run.check(
        RESCUED, Verdict.WARNING, measured=arrived, threshold=0, unit="vectors", reason=ReasonCode.VECTORS_RESCUED,
        detail="; ".join(f"{len(fates[kind]):,} {text}" for kind, text in _RESCUED.items() if kind in fates)
        + ". The snapshot's manifest lists each under repairs.",
        offenders=len(worst_first), ids=worst_first[:20],
    )  # fmt: skip
    run.fact("rescued", {kind: len(chunks) for kind, chunks in fates.items()})
