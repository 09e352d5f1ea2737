"""Step 10: is the source there, whole, and what it claims to be? (Runbook, Sections 1.1 and 1.2.)

The source is opened once for all methods. The stores raise a `RunbookError` where it cannot be opened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.errors import EnvironmentFailure, one_line
from helpers.formatting import count, duration, size
from helpers.migration.importing import judge_indexes
from helpers.notify import UNNAMED, levels, must_be_named, unnamed
from helpers.parameters import Parameters
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import Verdict
from helpers.run import kernel
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord, check_connection, check_spaces, open_chosen
from helpers.schema import load_schema
from helpers.snapshots.snapshot import part_rows
from helpers.stores import CollectionInfo, Reader
from helpers.stores.copying import IN_USE
from helpers.stores.creation import refused_name, unsupported
from helpers.stores.diagnosis import Diagnosis, examine, of_1_x, other_databases, source_layout, source_version
from helpers.stores.layout import DATABASE, USUAL, VOLUMES, is_duckdb_layout
from helpers.stores.repair import migrations
from helpers.stores.rescue import ARRIVED

REASON = ReasonCode.COUNT_MISMATCH
FILTERS = (
    "Chroma before 1.0 answers some filters otherwise, which is not an error of the migration: `$contains` took _ and % for "
    "any text (all of 0.x); `$ne` and `$nin` left out chunks without the key, and 3 was not 3.0 (up to 0.5.5 or so). "
    "Try the application's own filters against the target before the cutover."
)  # measured with 0.4.24, 0.5.0, 0.5.23, 0.6.3 against 1.5.9: tests/compat/test_filters_change.py
_Row = tuple[str, int | None, int | None, int | None, str]  # collection, expected, found, difference, state


@dataclass(frozen=True, slots=True)
class _Observed:
    """What was read from the source. `infos`: the collections that the filter selects. `left_out`: chunks of each other
    collection (None where they cannot be counted). `text_queries`: "" or the reason why a collection takes no text query.
    """

    label: str
    version: str
    protocol: str
    infos: list[CollectionInfo]
    left_out: dict[str, int | None]
    text_queries: dict[str, str]
    findings: tuple[str, ...]
    repairs: tuple[str, ...]  # the kind of each
    place: str  # tenant and database, as the key resolves them
    cost: ReadingEstimate | None  # of reading the whole source; None for a directory
    limits: dict[str, int]
    limit_changes: tuple[str, ...]  # a sentence for each limit that a refusal changed
    diagnosis: Diagnosis


def _count(store: Reader, name: str) -> int | None:
    try:
        return store.count(name)
    except EnvironmentFailure:
        return None


def is_of_0_x(endpoint: Endpoint, reported: str) -> bool:
    """Whether a Chroma before 1.0 answered the application's filters so far."""
    if not endpoint.path:
        return reported.startswith("0.")
    if is_duckdb_layout(Path(endpoint.path)):
        return True
    parts = dict(migrations(Path(endpoint.path) / DATABASE))
    return bool(parts) and not of_1_x(parts)


class SourceHealthStep(NotebookStep):
    """The notebook's view: each method returns a table, and adds its checks to the step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.expected = run.parameters.expected

    @cached_property
    def _observed(self) -> _Observed:
        with self.run.phase("look") as phase, open_chosen(self.run) as store:
            selects = self.run.parameters.collections.selects
            infos = [store.info(name) for name in store.names() if selects(name)]
            left_out = {name: _count(store, name) for name in store.names() if not selects(name)}
            phase.chunks = sum(info.count for info in infos)
            reasons = {info.name: store.why_no_text_queries(info.name) for info in infos}
            source = self.run.parameters.source
            client = getattr(store, "client", source)  # has the tenant and database that the key opens
            cost = None if source.is_embedded else estimate(store, infos, self.run.parameters.migration.workers)
            with self.run.progress("Read the source", phase.chunks) as bar:
                diagnosis = examine(store, source, [info.name for info in infos], progress=bar)
            return _Observed(
                store.label, store.version, store.protocol, infos, left_out, reasons,
                tuple(getattr(store, "findings", ())),
                tuple(r["repair"] for r in getattr(store, "repairs", ()) if r["repair"] not in ARRIVED),
                f"{client.tenant} / {client.database}", cost, store.limits().known(), store.limit_changes, diagnosis,
            )  # fmt: skip

    def reach(self) -> pd.DataFrame:
        """The source's address, layout, protocol, version, collections and chunks. One row a fact."""
        observed, endpoint = self._observed, self.run.parameters.source
        self.run.check("version of the source", Verdict.PASS, measured="readable", threshold="readable",
                       detail=f"{observed.version}; {observed.label}")  # fmt: skip
        check_connection(self.run, "source", endpoint)
        self.run.check(
            "collections to migrate",
            Verdict.PASS if self._observed.infos else Verdict.FAIL,
            measured=len(self._observed.infos),
            threshold=1,
            relation="≥",
            unit="collections",
            reason="" if self._observed.infos else REASON,
            detail=""
            if self._observed.infos
            else "Nothing to migrate. Check tenant, database, path and the collections filter"
            + (f", and the server's volume: {VOLUMES}." if self.run.parameters.source.url else "."),
        )
        self._other_databases()
        self.run.fact("source", observed.label)
        self.run.fact("source_version", observed.version)
        hint = " (every 1.x server says 1.0.0)" if observed.version == "1.0.0" else ""
        facts = {
            "source": observed.label,
            "layout": source_layout(endpoint),
            "protocol": observed.protocol,
            f"version {'that reads it here' if endpoint.path else 'it reports'}": observed.version + hint,
            "tenant / database": observed.place,
            "collections": len(observed.infos) + len(observed.left_out),
            "chunks": sum(info.count for info in observed.infos) + sum(n or 0 for n in observed.left_out.values()),
        }
        return pd.DataFrame({"value": pd.Series(facts, dtype=object)})

    def _other_databases(self) -> None:
        """A warning where others hold collections and the parameters chose none: neither by name nor by `*` or a table."""
        source = self.run.parameters.source
        tenant, _, database = self._observed.place.partition(" / ")
        others = other_databases(source, (tenant, database))
        chosen = (source.tenant, source.database) != USUAL or self.run.home.facts.get("group")
        verdict = Verdict.WARNING if others and not chosen else Verdict.PASS
        detail = ""
        if others is None:
            verdict, detail = Verdict.NOT_EXERCISED, "the source does not list its databases"
        elif others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            detail = f"not read by this run: {', '.join(others[:5])}{more}. Name source.tenant and source.database, or * for all"
        self.run.check(
            "other databases with collections", verdict, measured=None if others is None else len(others),
            threshold=None if chosen and others else 0, unit="databases",
            reason=ReasonCode.SOURCE_FINDINGS if verdict is Verdict.WARNING else "", detail=detail,
        )  # fmt: skip

    def identity(self) -> pd.DataFrame:
        """The source's layout, protocol, version as far as it can be known, findings, and the risks that follow."""
        observed, endpoint = self._observed, self.run.parameters.source
        odd = [*observed.findings, *(f"{i.name}: {finding}" for i in observed.infos for finding in i.findings)]
        version = source_version(endpoint, observed.version)
        rows = [("layout", source_layout(endpoint)), ("protocol", observed.protocol), ("version", version)]
        self.run.fact("source_written_by", version.partition(" (")[0])
        rows += [("found", finding) for finding in odd] or [("found", "nothing odd")]
        rows += [("risk", risk) for risk in self._risks()] or [("risk", "none that the directory or server shows")]
        repaired = f"{len(observed.repairs)} repaired on the copy, listed in the snapshot's manifest"
        mended = repaired if observed.repairs else ""
        whole = bool(observed.findings)
        self.run.check(
            "findings on the source as a whole", Verdict.WARNING if whole else Verdict.PASS, measured=len(observed.findings),
            threshold=0, unit="findings", reason=ReasonCode.SOURCE_FINDINGS if whole else "",
            detail="; ".join([*observed.findings[:5], *filter(None, [mended])]),
        )  # fmt: skip
        other = is_of_0_x(endpoint, observed.version)
        self.run.check(
            "meaning of the application's filters", Verdict.WARNING if other else Verdict.PASS,
            measured="another" if other else "the same", threshold="the same", reason=ReasonCode.FILTERS_CHANGE if other else "",
            detail=FILTERS if other else f"version {observed.version}",
        )  # fmt: skip
        self.run.fact("source_identity", [{"what": what, "value": value} for what, value in rows])
        return pd.DataFrame(rows, columns=["what", "value"])

    def contacts(self) -> pd.DataFrame:
        """Whom each level of escalation calls. A run that people sign does not continue without names; a rehearsal warns."""
        named = self.run.parameters.contacts.named
        missing = unnamed(named, people=not self.run.rehearsal)
        if missing or must_be_named(self.run.parameters):
            verdict, reason, remark = self._without_names() if missing else (Verdict.PASS, "", "")
            detail = f"nobody is named: {', '.join(missing)}{remark}" if missing else ""
            self.run.check(
                UNNAMED, verdict, measured=len(missing), threshold=0, unit="keys", reason=reason, detail=detail
            )
        return levels(named)

    def _without_names(self) -> tuple[Verdict, Reason, str]:
        """(verdict, reason, remark) for contacts without names: by how far this run is to go, and whether people sign it."""
        until = str(self.run.home.facts["until"] or Step.CLOSEOUT)
        if self.run.rehearsal:
            return Verdict.WARNING, ReasonCode.NOBODY_NAMED, ""
        if not must_be_named(self.run.parameters):
            return Verdict.NOT_APPLICABLE, "", "; nobody signs this run, or it stops no writes and switches no clients"
        if kernel.under_runner() and until >= Step.SCHEDULE_AND_NOTIFY:
            return Verdict.FAIL, ReasonCode.NOBODY_TO_CALL, ""
        remark = f"; a run that goes on to step {Step.SCHEDULE_AND_NOTIFY} is refused without them"
        return Verdict.NOT_EXERCISED, "", remark

    def diagnosis(self) -> pd.DataFrame:
        """The source's problems, the worst first, as `runbook doctor` reports them. Vectors are read, not only counted."""
        diagnosis = self._observed.diagnosis
        read, lost = sum(c.read for c in diagnosis.collections), sum(c.lost for c in diagnosis.collections)
        least = self.run.parameters.migration.minimum_valid
        share = (read - lost) / read if read else 1.0
        unread = [c.name for c in diagnosis.collections if c.unreadable]
        too_many = share < least and not self.run.parameters.migration.reembed
        verdict = Verdict.FAIL if too_many or unread else Verdict.WARNING if lost else Verdict.PASS
        sampled = (
            f" Read for a sample only: {', '.join(one_line(n, 40) for n in diagnosis.sampled[:5])}."
            if diagnosis.sampled
            else ""
        )
        detail = (
            f"{lost:,} of {count(read, 'chunk')} read have no vector; step 22 asks for a share of {least:g} with one."
            if lost
            else ""
        )
        self.run.check(
            "chunks with a vector",
            verdict,
            measured=None if unread else share,
            parameter="migration.minimum_valid",
            threshold=1.0,
            unit="of those read",
            reason=ReasonCode.VECTORS_LOST if verdict is not Verdict.PASS else "",
            offenders=lost,
            detail=(detail + sampled).strip(),
            ids=[
                {"collection": c.name, "lost": c.lost or "all: it cannot be read"}
                for c in diagnosis.collections
                if c.lost or c.unreadable
            ],
        )
        absent = {c.name: (c.reported, c.listed, c.read) for c in diagnosis.collections
                  if not c.unreadable and c.whole and not c.reported == c.listed == c.read}  # fmt: skip
        self.run.check(
            "collections that give less than they count", Verdict.FAIL if absent else Verdict.PASS, measured=len(absent),
            threshold=0, unit="collections", reason=REASON if absent else "",
            detail="; ".join(f"{one_line(n, 60)}: counts {a}, lists {b}, gives {c}" for n, (a, b, c) in absent.items()),
            ids=[{"collection": name} for name in absent],
        )  # fmt: skip
        swapped = [c for c in diagnosis.collections if c.swapped]
        missed = [c for c in diagnosis.collections if c.unfound]
        self.run.check(
            "stored vectors not found by a search",
            Verdict.FAIL if swapped else Verdict.WARNING if missed else Verdict.PASS,
            measured=sum(c.unfound for c in diagnosis.collections), threshold=0, unit="probes",
            reason=ReasonCode.VECTORS_NOT_FOUND if missed else "",
            detail="; ".join(f"{one_line(c.name, 60)}: {c.unfound} of {c.probed} not found" for c in missed),
            ids=[{"collection": c.name, "not found": c.unfound, "of": c.probed} for c in missed],
        )  # fmt: skip
        whole = sum(c.reported or 0 for c in diagnosis.collections)
        self.run.sampled("stored vectors searched for", sum(c.probed for c in diagnosis.collections), whole)
        broken = [problem for problem in diagnosis.grouped() if not problem.severity.sound]
        self.run.check(
            "damage in the source", Verdict.WARNING if broken else Verdict.PASS, measured=len(broken),
            threshold=0, unit="problems", reason=ReasonCode.SOURCE_FINDINGS if broken else "",
            detail="; ".join(f"{p.where}: {p.what}" if p.where else p.what for p in broken[:5]),
            ids=[{"severity": str(p.severity), "where": p.where, "what": p.what} for p in broken],
        )  # fmt: skip
        self.run.fact("diagnosis", {"headline": diagnosis.headline, "sampled": diagnosis.sampled})
        return diagnosis.problem_table()

    def savable(self) -> pd.DataFrame:
        """One row for each collection: the chunks listed, and those that can be saved."""
        return self._observed.diagnosis.table()

    def _risks(self) -> list[str]:
        observed = self._observed
        risks = []
        if observed.repairs:
            risks.append(
                f"{len(observed.repairs)} records or folders had to be repaired on the copy; the snapshot lists each"
            )
        if "norm_lost" in observed.repairs:
            risks.append("vectors whose norm is lost go to quarantine, unless migration.normalised is migrate")
        if {"no_vector", "index_folder"} & set(observed.repairs):
            risks.append("chunks whose vectors are lost go to quarantine, unless migration.reembed orders new ones")
        if any(finding.startswith(IN_USE) for finding in observed.findings):
            risks.append(
                "what is written after a copy is not migrated: stop the writers or put up a fence for the migration"
            )
        if observed.protocol == "API v1":
            risks.append("an old server keeps no embedding function: text queries cannot be compared")
        trapped = [i.name for i in observed.infos if i.space != i.declared_space]
        if trapped:
            risks.append(f"a copied configuration would search {', '.join(trapped[:5])} by another distance")
        old = [i.name for i in observed.infos if any(k.startswith("hnsw:") for k in i.metadata or {})]
        if old:
            risks.append(f"index settings kept as metadata become configuration: {', '.join(old[:5])}")
        return risks

    def counts(self) -> pd.DataFrame:
        """One row for each collection, in chunks: expected, found, difference, state. The last row is the total to migrate."""
        listed = dict(self.expected.collections)
        actual = {info.name: info.count for info in self._observed.infos}
        rows = [self._count_row(name, listed.get(name), actual.get(name)) for name in sorted({*listed, *actual})]
        rows += [
            (name, None, count, None, "left out by the filter" if count is not None else "left out, cannot be read")
            for name, count in self._observed.left_out.items()
        ]
        total, expected = sum(actual.values()), self.expected.total
        rows.append(self._count_row("total", expected, total))
        self._check_listed(listed, actual)
        self._check_unlisted(listed, actual)
        self._check_total(total, expected)
        self.run.fact("counts", actual)
        self.run.fact("total", total)
        table = pd.DataFrame(rows, columns=["collection", "expected", "found", "difference", "state"])
        return table.astype({"expected": "Int64", "found": "Int64", "difference": "Int64"})

    def shapes(self) -> pd.DataFrame:
        """One row for each collection: dimension, effective and declared distance space, embedding function, settings that a
        local target cannot hold, and findings."""
        infos = self._observed.infos
        check_spaces(self.run, infos)
        judge_indexes(self.run, infos, refuse=False)
        self._check_names([info.name for info in infos])
        self._check_dimensions(infos)
        self.run.fact("dimensions", {info.name: info.dimension for info in infos})
        self.run.fact("spaces", {info.name: info.space for info in infos})
        columns = {
            "collection": [info.name for info in infos],
            "chunks": [info.count for info in infos],
            "dimension": pd.array([info.dimension for info in infos], dtype="Int64"),
            "space": [info.space for info in infos],
            "declared": [info.declared_space for info in infos],
            "embedding_function": [info.embedding_function or "none" for info in infos],
            "text_queries": [self._observed.text_queries[info.name] or "available" for info in infos],
            "not_on_a_local_target": [", ".join(f"{i.kind} on {i.key}" for i in unsupported(info)) for info in infos],
            "findings": ["; ".join(info.findings) for info in infos],
        }
        return pd.DataFrame(columns)

    def reading(self) -> pd.DataFrame:
        """The cost of reading a whole server once: requests, time, bytes, limits and, for Cloud, the price. One row a fact."""
        observed = self._observed
        if observed.cost is None:
            return pd.DataFrame({"value": {"requests": "none: a directory is copied and the copy read"}})
        self.run.fact(READING, observed.cost.fact())
        self.run.log(f"reading the source whole: {observed.cost.sentence()}")
        return reading_table(observed.cost, observed.limits, observed.limit_changes, self.run.parameters)

    def _count_row(self, name: str, expected: int | None, actual: int | None) -> _Row:
        difference = None if expected is None or actual is None else actual - expected
        if actual is None:
            state = "MISSING"
        elif difference is None:
            state = "not listed" if self.expected.collections and name != "total" else "no expectation"
        else:
            state = "as expected" if abs(difference) <= self.expected.tolerance else "MISMATCH"
        return name, expected, actual, difference, state

    def _check_listed(self, listed: dict[str, int], actual: dict[str, int]) -> None:
        missing = sorted(set(listed) - set(actual))
        tolerance = self.expected.tolerance
        differing = sorted(n for n in listed if n in actual and abs(actual[n] - listed[n]) > tolerance)
        otherwise = Verdict.PASS if listed else Verdict.NOT_EXERCISED
        no_list = "" if listed else "expected.collections names none."
        self.run.check(
            "listed collections",
            Verdict.FAIL if missing else otherwise,
            measured=len(listed) - len(missing),
            parameter="expected.collections",
            threshold=len(listed),
            unit="collections",
            reason=REASON if missing else "",
            detail=f"Missing: {', '.join(missing)}." if missing else no_list,
            ids=[{"collection": name} for name in missing],
        )
        self.run.check(
            "listed collections with another count",
            Verdict.WARNING if differing else otherwise,
            measured=len(differing),
            parameter="expected.collections",
            threshold=0,
            unit="collections",
            reason=REASON if differing else "",
            detail="; ".join(f"{n}: {actual[n]}, expected {listed[n]}" for n in differing[:20]) or no_list,
            ids=[{"collection": name} for name in differing],
        )

    def _check_unlisted(self, listed: dict[str, int], actual: dict[str, int]) -> None:
        outside = {name: n for name, n in sorted(actual.items()) if listed and name not in listed}
        verdict, detail = Verdict.PASS, ""
        if not listed:
            verdict, detail = Verdict.NOT_EXERCISED, "expected.collections names none, so nothing is outside."
        elif outside or self.expected.unlisted:
            names = ", ".join(f"{name} ({n})" for name, n in list(outside.items())[:20]) or "none was found"
            verdict, detail = Verdict.WARNING, f"Name them in expected.collections before the migration: {names}."
        self.run.check(
            "chunks outside the list",
            verdict,
            measured=len(outside) if outside else 0,
            parameter="expected.collections" if outside else "expected.unlisted",
            threshold=0 if outside else self.expected.unlisted,
            unit="collections" if outside else "chunks",
            reason=REASON if verdict is Verdict.WARNING else "",
            detail=detail,
            ids=[{"collection": name} for name in outside],
        )

    def _check_total(self, total: int, expected: int | None) -> None:
        if expected is None:
            self.run.check(
                "chunks in all",
                Verdict.NOT_EXERCISED,
                measured=total,
                threshold="not given",
                unit="chunks",
                parameter="expected.total",
                detail="expected.total is not given. " + self._ask_for_counts(total),
            )
            return
        within = abs(total - expected) <= self.expected.tolerance
        self.run.check(
            "chunks in all",
            Verdict.PASS if within else Verdict.FAIL,
            measured=abs(total - expected),
            parameter="expected.total",
            threshold=self.expected.tolerance,
            relation="≤",
            unit="too many or too few",
            reason="" if within else REASON,
            detail=f"{total:,} of {expected:,} expected (expected.total).",
        )

    def _check_names(self, names: list[str]) -> None:
        """Check that a current Chroma accepts the names of the target collections that the schema gives."""
        wanted = sorted(load_schema(self.run.parameters.schema_name).targets(names))
        refused = {name: reason for name in wanted if (reason := refused_name(name))}
        first = [f"{one_line(name, 80)!r}: {reason}" for name, reason in islice(refused.items(), 2)]
        shown = "; ".join([*first, *([f"and {len(refused) - 2} more"] if len(refused) > 2 else [])])
        self.run.check(
            "names that a current Chroma refuses", Verdict.FAIL if refused else Verdict.PASS,
            measured=len(refused), threshold=0, unit="collections", reason=ReasonCode.COLLECTION_NAME if refused else "",
            detail=f"{shown}. Route them to other names with a schema, or leave them out: collections.exclude." * bool(refused),
            ids=[{"collection": name, "why": reason} for name, reason in refused.items()],
        )  # fmt: skip

    def _ask_for_counts(self, total: int) -> str:
        """A question to the operator, "" for a directory: a server on a wrong folder looks sound, but is empty or old."""
        if self.run.parameters.source.is_embedded:
            return ""
        return f"Are {count(total, 'chunk')} what you expect there? If not, look at the server's volume: {VOLUMES}."

    def _check_dimensions(self, infos: list[CollectionInfo]) -> None:
        allowed = self.expected.dimensions
        odd = [info for info in infos if allowed and info.dimension not in (None, *allowed)]
        self.run.check(
            "collections of an unexpected dimension",
            Verdict.FAIL if odd else Verdict.PASS if allowed else Verdict.NOT_EXERCISED,
            measured=len(odd),
            parameter="expected.dimensions",
            threshold=0,
            unit="collections",
            reason=ReasonCode.WRONG_DIMENSION if odd else "",
            detail=(
                f"Expected: {', '.join(map(str, sorted(allowed)))}." if allowed else "expected.dimensions names none."
            )
            + (" No chunk of these would pass validation." if odd else ""),
            ids=[{"collection": i.name, "dimension": i.dimension} for i in odd],
        )


# -- reading estimate --------------------------------------------------------------------------------------------------
#
# The cost of reading a whole server: requests, time, bytes and, for Chroma Cloud, the price; estimated from a sample.
#
# The sample is one request of each of the largest collections. The figures are for one reading; steps 11, 13, 21, the catch-up
# of 22 and the proof of 25 each read the source.


READING = "reading_estimate"
SAMPLED = 5  # collections
GIB, TIB = 2**30, 2**40
# docs.trychroma.com/cloud/pricing as of August 2026, in US dollars
PER_GIB_RETURNED, PER_TIB_QUERIED = 0.09, 0.0075
PRICES = "docs.trychroma.com/cloud/pricing, August 2026; check them, they may have changed"


@dataclass(frozen=True, slots=True)
class ReadingEstimate:
    """One reading of all collections: `bytes` as they come over the network, `seconds` at the sample's pace."""

    chunks: int
    requests: int
    seconds: float
    bytes: int
    sampled: int  # chunks
    readers: int

    def sentence(self) -> str:
        """The estimate in one sentence, to be shown before the reading."""
        return (
            f"{count(self.requests, 'request')}, about {duration(self.seconds)}, about {size(self.bytes)} read "
            f"at the pace of {count(self.sampled, 'chunk')} sampled"
        )

    def fact(self) -> dict[str, Any]:
        return asdict(self)


def estimate(store: Reader, infos: Sequence[CollectionInfo], workers: int) -> ReadingEstimate:
    """Read a sample and extrapolate. A collection that is not `SAMPLED` counts as the sampled one of the nearest dimension."""
    limits, usage = store.limits(), store.usage
    readers = limits.readers(min(2, workers))
    weights: list[tuple[float, float, float]] = []  # (bytes, seconds, dimension) a chunk
    sampled, requests, fetched, seconds, page = 0, 0, 0.0, 0.0, 0.0
    for number, info in enumerate(sorted(infos, key=lambda i: -i.count)):
        if not info.count:
            continue
        width = info.dimension or 0
        step = limits.read_step(width)
        if number < SAMPLED:
            begun = time.monotonic()
            ids = store.some_ids(info.name, step)
            page = time.monotonic() - begun  # seconds for a page of ids
            before, begun = usage.bytes, time.monotonic()
            store.read(info.name, ids)
            if ids:
                sampled += len(ids)
                weights.append(((usage.bytes - before) / len(ids), (time.monotonic() - begun) / len(ids), width))
        if not weights:
            continue
        near = min(weights, key=lambda w: abs(w[2] - width)) if number >= SAMPLED else weights[-1]
        fetched += near[0] * info.count
        pages = math.ceil(info.count / limits.page_rows)
        seconds += near[1] * info.count + page * pages
        rows = part_rows(width, limits.read_rows)
        parts, last = divmod(info.count, rows)
        requests += parts * (1 + math.ceil(rows / step)) + (1 + math.ceil(last / step) if last else 0)
        requests += 2 + pages
    return ReadingEstimate(
        sum(i.count for i in infos), requests, round(seconds / readers, 1), int(fetched), sampled, readers
    )


def reading_estimate(run: RunRecord, store: Reader, names: Sequence[str]) -> ReadingEstimate:
    """The estimate of step 10 of this run; where there is none, a sample is read (and paid for) again."""
    health = run.earlier(Step.SOURCE_HEALTH)
    known = health.facts.get(READING) if health else None
    result = (
        ReadingEstimate(**known)
        if known
        else estimate(store, list(map(store.info, names)), run.parameters.migration.workers)
    )
    run.fact(READING, result.fact())
    return result


def reading_table(
    cost: ReadingEstimate, store_limits: dict[str, int], limit_changes: Sequence[str], parameters: Parameters
) -> pd.DataFrame:
    """One row a fact: the cost of one reading, the limits, and the price that Cloud charges."""
    rows = [
        ("requests", f"{cost.requests:,}"),
        ("time", f"about {duration(cost.seconds)} with {count(cost.readers, 'reader')}, if nobody else asks"),
        ("read over the network", f"about {size(cost.bytes)}"),
        ("measured on", count(cost.sampled, "chunk")),
    ]
    rows += [(f"limit: {name.replace('_', ' ')}", f"{value:,}") for name, value in store_limits.items()
             if name in ("read_rows", "page_rows", "query_results", "query_vectors", "concurrent_reads")]  # fmt: skip
    rows += [("learnt from a refusal", sentence) for sentence in limit_changes]
    if parameters.source.is_cloud:
        rules = parameters.validation
        searched = 2 * rules.probes * cost.bytes
        read, asked = cost.bytes / GIB * PER_GIB_RETURNED, searched / TIB * PER_TIB_QUERIED
        rows += [
            (
                "price of one reading",
                f"about ${read:,.2f}: {cost.bytes / GIB:,.3f} GiB × ${PER_GIB_RETURNED} per GiB returned",
            ),
            (
                "price of the probes",
                f"about ${asked:,.2f}: {2 * rules.probes} queries a collection × ${PER_TIB_QUERIED} per TiB",
            ),
            ("prices from", PRICES),
        ]
    return pd.DataFrame({"value": pd.Series(dict(rows), dtype=object)})
