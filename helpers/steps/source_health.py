"""Step 10: is the source there, whole, and what it claims to be? (Runbook, Sections 1.1 and 1.2.)

The source is opened once, whatever is asked afterwards. What cannot be opened at all is a `RunbookError` of the stores.
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

from helpers.errors import WorldError, one_line
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
class _Look:
    """What one visit to the source saw. `infos` are the collections that the filter lets through, `left_out` the chunks of
    the others (None where those cannot be counted), `text_queries` "" or why a collection cannot be asked in words.
    """

    label: str
    version: str
    protocol: str
    infos: list[CollectionInfo]
    left_out: dict[str, int | None]
    text_queries: dict[str, str]
    findings: tuple[str, ...]
    repairs: tuple[str, ...]  # the kind of each
    place: str  # tenant and database, as the key resolved them
    cost: Estimate | None  # of reading it whole; None for a directory
    limits: dict[str, int]
    learnt: tuple[str, ...]  # of the limits, from refusals
    diagnosis: Diagnosis


def _count(store: Reader, name: str) -> int | None:
    try:
        return store.count(name)
    except WorldError:
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
    """Three tables to look at, each of which adds its checks to the step: `reach`, `counts`, `shapes`."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.expected = run.parameters.expected

    @cached_property
    def _look(self) -> _Look:
        with self.run.phase("look") as phase, open_chosen(self.run) as store:
            selects = self.run.parameters.collections.selects
            infos = [store.info(name) for name in store.names() if selects(name)]
            left_out = {name: _count(store, name) for name in store.names() if not selects(name)}
            phase.chunks = sum(info.count for info in infos)
            reasons = {info.name: store.text_queries_available(info.name) for info in infos}
            source = self.run.parameters.source
            client = getattr(store, "client", source)  # its tenant and database are those that the key opens
            cost = None if source.is_embedded else estimate(store, infos, self.run.parameters.migration.workers)
            with self.run.progress("Read the source", phase.chunks) as bar:
                found = examine(store, source, [info.name for info in infos], progress=bar)
            return _Look(
                store.label, store.version, store.protocol, infos, left_out, reasons,
                tuple(getattr(store, "findings", ())),
                tuple(r["repair"] for r in getattr(store, "repairs", ()) if r["repair"] not in ARRIVED),
                f"{client.tenant} / {client.database}", cost, store.limits().known(), store.learnt, found,
            )  # fmt: skip

    def reach(self) -> pd.DataFrame:
        """Where the source is, what speaks there, how much it holds. One row a fact."""
        look, endpoint = self._look, self.run.parameters.source
        self.run.check("version of the source", Verdict.PASS, measured="readable", threshold="readable",
                       detail=f"{look.version}; {look.label}")  # fmt: skip
        check_connection(self.run, "source", endpoint)
        self.run.check(
            "collections to migrate",
            Verdict.PASS if self._look.infos else Verdict.FAIL,
            measured=len(self._look.infos),
            threshold=1,
            relation="≥",
            unit="collections",
            reason="" if self._look.infos else REASON,
            detail=""
            if self._look.infos
            else "Nothing to migrate. Check tenant, database, path and the collections filter"
            + (f", and the server's volume: {VOLUMES}." if self.run.parameters.source.url else "."),
        )
        self._other_databases()
        self.run.fact("source", look.label)
        self.run.fact("source_version", look.version)
        hint = " (every 1.x server says 1.0.0)" if look.version == "1.0.0" else ""
        facts = {
            "source": look.label,
            "layout": source_layout(endpoint),
            "protocol": look.protocol,
            f"version {'that reads it here' if endpoint.path else 'it reports'}": look.version + hint,
            "tenant / database": look.place,
            "collections": len(look.infos) + len(look.left_out),
            "chunks": sum(info.count for info in look.infos) + sum(n or 0 for n in look.left_out.values()),
        }
        return pd.DataFrame({"value": pd.Series(facts, dtype=object)})

    def _other_databases(self) -> None:
        """A warning where others hold collections and the parameters chose none: neither by name nor by `*` or a table."""
        source = self.run.parameters.source
        tenant, _, database = self._look.place.partition(" / ")
        others = other_databases(source, (tenant, database))
        chosen = (source.tenant, source.database) != USUAL or self.run.home.facts.get("group")
        verdict = (
            Verdict.NOT_EXERCISED if others is None else Verdict.WARNING if others and not chosen else Verdict.PASS
        )
        said = "the source does not list its databases" if others is None else ""
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            said = f"not read by this run: {', '.join(others[:5])}{more}. Name source.tenant and source.database, or * for all"
        self.run.check(
            "other databases with collections", verdict, measured=None if others is None else len(others),
            threshold=None if chosen and others else 0, unit="databases",
            reason=ReasonCode.SOURCE_FINDINGS if verdict is Verdict.WARNING else "", detail=said,
        )  # fmt: skip

    def identity(self) -> pd.DataFrame:
        """What the source is: layout, version as far as it can be known, what was found odd, what that risks."""
        look, endpoint = self._look, self.run.parameters.source
        odd = [*look.findings, *(f"{i.name}: {finding}" for i in look.infos for finding in i.findings)]
        rows = [("layout", source_layout(endpoint)), ("protocol", look.protocol)]
        rows.append(("version", made := source_version(endpoint, look.version)))
        self.run.fact("source_written_by", made.partition(" (")[0])
        rows += [("found", finding) for finding in odd] or [("found", "nothing odd")]
        rows += [("risk", risk) for risk in self._risks()] or [("risk", "none that the directory or server shows")]
        mended = f"{len(look.repairs)} repaired on the copy, listed in the snapshot's manifest" if look.repairs else ""
        whole = bool(look.findings)
        self.run.check(
            "findings on the source as a whole", Verdict.WARNING if whole else Verdict.PASS, measured=len(look.findings),
            threshold=0, unit="findings", reason=ReasonCode.SOURCE_FINDINGS if whole else "",
            detail="; ".join([*look.findings[:5], *filter(None, [mended])]),
        )  # fmt: skip
        other = is_of_0_x(endpoint, look.version)
        self.run.check(
            "meaning of the application's filters", Verdict.WARNING if other else Verdict.PASS,
            measured="another" if other else "the same", threshold="the same", reason=ReasonCode.FILTERS_CHANGE if other else "",
            detail=FILTERS if other else f"version {look.version}",
        )  # fmt: skip
        self.run.fact("source_identity", [{"what": what, "value": value} for what, value in rows])
        return pd.DataFrame(rows, columns=["what", "value"])

    def contacts(self) -> pd.DataFrame:
        """Whom each level of escalation calls. A run that people sign goes no further without them; a rehearsal warns."""
        named = self.run.parameters.contacts.named
        if (left := unnamed(named, people=not self.run.rehearsal)) or must_be_named(self.run.parameters):
            verdict, reason, why = self._without_names() if left else (Verdict.PASS, "", "")
            said = f"nobody is named: {', '.join(left)}{why}" if left else ""
            self.run.check(UNNAMED, verdict, measured=len(left), threshold=0, unit="keys", reason=reason, detail=said)
        return levels(named)

    def _without_names(self) -> tuple[Verdict, Reason, str]:
        """How contacts that nobody named are judged: it depends on how far this run is to go, and whether people sign it."""
        until = str(self.run.home.facts["until"] or Step.CLOSEOUT)
        if self.run.rehearsal:
            return Verdict.WARNING, ReasonCode.NOBODY_NAMED, ""
        if not must_be_named(self.run.parameters):
            return Verdict.NOT_APPLICABLE, "", "; nobody signs this run, or it stops no writes and switches no clients"
        if kernel.under_runner() and until >= Step.SCHEDULE_AND_NOTIFY:
            return Verdict.FAIL, ReasonCode.NOBODY_TO_CALL, ""
        return (
            Verdict.NOT_EXERCISED,
            "",
            f"; a run that goes on to step {Step.SCHEDULE_AND_NOTIFY} is refused without them",
        )

    def diagnosis(self) -> pd.DataFrame:
        """What is wrong with the source, the worst first, as `runbook doctor` says it. Vectors are read, not only counted."""
        found = self._look.diagnosis
        read, lost = sum(c.read for c in found.collections), sum(c.lost for c in found.collections)
        least = self.run.parameters.migration.minimum_valid
        share = (read - lost) / read if read else 1.0
        unread = [c.name for c in found.collections if c.unreadable]
        too_many = share < least and not self.run.parameters.migration.reembed
        verdict = Verdict.FAIL if too_many or unread else Verdict.WARNING if lost else Verdict.PASS
        sampled = (
            f" Read for a sample only: {', '.join(one_line(n, 40) for n in found.sampled[:5])}."
            if found.sampled
            else ""
        )
        told = (
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
            detail=(told + sampled).strip(),
            ids=[
                {"collection": c.name, "lost": c.lost or "all: it cannot be read"}
                for c in found.collections
                if c.lost or c.unreadable
            ],
        )
        absent = {c.name: (c.reported, c.listed, c.read) for c in found.collections
                  if not c.unreadable and c.whole and not c.reported == c.listed == c.read}  # fmt: skip
        self.run.check(
            "collections that give less than they count", Verdict.FAIL if absent else Verdict.PASS, measured=len(absent),
            threshold=0, unit="collections", reason=REASON if absent else "",
            detail="; ".join(f"{one_line(n, 60)}: counts {a}, lists {b}, gives {c}" for n, (a, b, c) in absent.items()),
            ids=[{"collection": name} for name in absent],
        )  # fmt: skip
        swapped, missed = [c for c in found.collections if c.swapped], [c for c in found.collections if c.unfound]
        self.run.check(
            "stored vectors not found by a search",
            Verdict.FAIL if swapped else Verdict.WARNING if missed else Verdict.PASS,
            measured=sum(c.unfound for c in found.collections), threshold=0, unit="probes",
            reason=ReasonCode.VECTORS_NOT_FOUND if missed else "",
            detail="; ".join(f"{one_line(c.name, 60)}: {c.unfound} of {c.probed} not found" for c in missed),
            ids=[{"collection": c.name, "not found": c.unfound, "of": c.probed} for c in missed],
        )  # fmt: skip
        whole = sum(c.reported or 0 for c in found.collections)
        self.run.sampled("stored vectors searched for", sum(c.probed for c in found.collections), whole)
        broken = [problem for problem in found.grouped() if not problem.severity.sound]
        self.run.check(
            "damage in the source", Verdict.WARNING if broken else Verdict.PASS, measured=len(broken),
            threshold=0, unit="problems", reason=ReasonCode.SOURCE_FINDINGS if broken else "",
            detail="; ".join(f"{p.where}: {p.what}" if p.where else p.what for p in broken[:5]),
            ids=[{"severity": str(p.severity), "where": p.where, "what": p.what} for p in broken],
        )  # fmt: skip
        self.run.fact("diagnosis", {"headline": found.headline, "sampled": found.sampled})
        return found.problem_table()

    def savable(self) -> pd.DataFrame:
        """Per collection: the chunks listed, and what of them can be saved."""
        return self._look.diagnosis.table()

    def _risks(self) -> list[str]:
        look = self._look
        risks = []
        if look.repairs:
            risks.append(
                f"{len(look.repairs)} records or folders had to be repaired on the copy; the snapshot lists each"
            )
        if "norm_lost" in look.repairs:
            risks.append("vectors whose norm is lost go to quarantine, unless migration.normalised is migrate")
        if {"no_vector", "index_folder"} & set(look.repairs):
            risks.append("chunks whose vectors are lost go to quarantine, unless migration.reembed orders new ones")
        if any(finding.startswith(IN_USE) for finding in look.findings):
            risks.append(
                "what is written after a copy is not migrated: stop the writers or put up a fence for the migration"
            )
        if look.protocol == "API v1":
            risks.append("an old server keeps no embedding function: text queries cannot be compared")
        if trapped := [i.name for i in look.infos if i.space != i.declared_space]:
            risks.append(f"a copied configuration would search {', '.join(trapped[:5])} by another distance")
        if old := [i.name for i in look.infos if any(k.startswith("hnsw:") for k in i.metadata or {})]:
            risks.append(f"index settings kept as metadata become configuration: {', '.join(old[:5])}")
        return risks

    def counts(self) -> pd.DataFrame:
        """Per collection: expected, found, difference, state. The last row is the total of what will be migrated."""
        listed = dict(self.expected.collections)
        found = {info.name: info.count for info in self._look.infos}
        rows = [self._count_row(name, listed.get(name), found.get(name)) for name in sorted({*listed, *found})]
        rows += [
            (name, None, count, None, "left out by the filter" if count is not None else "left out, cannot be read")
            for name, count in self._look.left_out.items()
        ]
        total, expected = sum(found.values()), self.expected.total
        rows.append(self._count_row("total", expected, total))
        self._check_listed(listed, found)
        self._check_unlisted(listed, found)
        self._check_total(total, expected)
        self.run.fact("counts", found)
        self.run.fact("total", total)
        table = pd.DataFrame(rows, columns=["collection", "expected", "found", "difference", "state"])
        return table.astype({"expected": "Int64", "found": "Int64", "difference": "Int64"})

    def shapes(self) -> pd.DataFrame:
        """Per collection: dimension, effective and declared distance space, embedding function, what a local
        target cannot hold, and what is odd."""
        infos = self._look.infos
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
            "text_queries": [self._look.text_queries[info.name] or "available" for info in infos],
            "not_on_a_local_target": [", ".join(f"{i.kind} on {i.key}" for i in unsupported(info)) for info in infos],
            "findings": ["; ".join(info.findings) for info in infos],
        }
        return pd.DataFrame(columns)

    def reading(self) -> pd.DataFrame:
        """What it takes to read a server whole, once: requests, time, bytes, limits and, of Cloud, money. One row a fact."""
        look = self._look
        if look.cost is None:
            return pd.DataFrame({"value": {"requests": "none: a directory is copied and the copy read"}})
        self.run.fact(READING, look.cost.fact())
        self.run.log(f"reading the source whole: {look.cost.sentence()}")
        return reading_table(look.cost, look.limits, look.learnt, self.run.parameters)

    def _count_row(self, name: str, expected: int | None, found: int | None) -> _Row:
        difference = None if expected is None or found is None else found - expected
        if found is None:
            state = "MISSING"
        elif difference is None:
            state = "not listed" if self.expected.collections and name != "total" else "no expectation"
        else:
            state = "as expected" if abs(difference) <= self.expected.tolerance else "MISMATCH"
        return name, expected, found, difference, state

    def _check_listed(self, listed: dict[str, int], found: dict[str, int]) -> None:
        missing = sorted(set(listed) - set(found))
        tolerance = self.expected.tolerance
        off = sorted(n for n in listed if n in found and abs(found[n] - listed[n]) > tolerance)
        nothing_wrong = Verdict.PASS if listed else Verdict.NOT_EXERCISED
        no_list = "" if listed else "expected.collections names none."
        self.run.check(
            "listed collections",
            Verdict.FAIL if missing else nothing_wrong,
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
            Verdict.WARNING if off else nothing_wrong,
            measured=len(off),
            parameter="expected.collections",
            threshold=0,
            unit="collections",
            reason=REASON if off else "",
            detail="; ".join(f"{n}: {found[n]}, expected {listed[n]}" for n in off[:20]) or no_list,
            ids=[{"collection": name} for name in off],
        )

    def _check_unlisted(self, listed: dict[str, int], found: dict[str, int]) -> None:
        outside = {name: n for name, n in sorted(found.items()) if listed and name not in listed}
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
        """The collections that the schema makes of these: a current Chroma has to take every name."""
        wanted = sorted(load_schema(self.run.parameters.schema_name).targets(names))
        refused = {name: why for name in wanted if (why := refused_name(name))}
        shown = [f"{one_line(name, 80)!r}: {why}" for name, why in islice(refused.items(), 2)]
        told = "; ".join([*shown, *([f"and {len(refused) - 2} more"] if len(refused) > 2 else [])])
        self.run.check(
            "names that a current Chroma refuses", Verdict.FAIL if refused else Verdict.PASS,
            measured=len(refused), threshold=0, unit="collections", reason=ReasonCode.COLLECTION_NAME if refused else "",
            detail=f"{told}. Route them to other names with a schema, or leave them out: collections.exclude." if refused else "",
            ids=[{"collection": name, "why": why} for name, why in refused.items()],
        )  # fmt: skip

    def _ask_for_counts(self, total: int) -> str:
        """A server on the wrong folder is sound, and empty or old: only a person knows how much it should hold."""
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
# What it takes to read a whole server: requests, minutes, bytes and, of Chroma Cloud, money; measured on a sample first.
#
# The sample is one request's worth of the largest collections. The figures are for one reading; 11, 13, 21, the catch-up of
# 22 and the proof of 25 each read the source.


READING = "reading_estimate"
SAMPLED = 5  # collections
GIB, TIB = 2**30, 2**40
# docs.trychroma.com/cloud/pricing as of August 2026, in US dollars
PER_GIB_RETURNED, PER_TIB_QUERIED = 0.09, 0.0075
PRICES = "docs.trychroma.com/cloud/pricing, August 2026; check them, they may have changed"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One reading of all collections: `bytes` as they come over the network, `seconds` at the sample's pace."""

    chunks: int
    requests: int
    seconds: float
    bytes: int
    sampled: int  # chunks
    readers: int

    def sentence(self) -> str:
        """For a person, before it is read."""
        return (
            f"{count(self.requests, 'request')}, about {duration(self.seconds)}, about {size(self.bytes)} read "
            f"at the pace of {count(self.sampled, 'chunk')} sampled"
        )

    def fact(self) -> dict[str, Any]:
        return asdict(self)


def estimate(store: Reader, infos: Sequence[CollectionInfo], workers: int) -> Estimate:
    """Read a sample and reckon. Collections beyond the `SAMPLED` largest are taken to weigh, for their dimension, the same."""
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
    return Estimate(sum(i.count for i in infos), requests, round(seconds / readers, 1), int(fetched), sampled, readers)


def reading_estimate(run: RunRecord, store: Reader, names: Sequence[str]) -> Estimate:
    """What step 10 of this run measured; only where it did not, a sample is read (and paid for) again."""
    health = run.earlier(Step.SOURCE_HEALTH)
    known = health.facts.get(READING) if health else None
    found = (
        Estimate(**known) if known else estimate(store, list(map(store.info, names)), run.parameters.migration.workers)
    )
    run.fact(READING, found.fact())
    return found


def reading_table(
    found: Estimate, store_limits: dict[str, int], learnt: Sequence[str], parameters: Parameters
) -> pd.DataFrame:
    """One row a fact: what one reading takes, within which limits, and what Cloud charges for it."""
    rows = [
        ("requests", f"{found.requests:,}"),
        ("time", f"about {duration(found.seconds)} with {count(found.readers, 'reader')}, if nobody else asks"),
        ("read over the network", f"about {size(found.bytes)}"),
        ("measured on", count(found.sampled, "chunk")),
    ]
    rows += [(f"limit: {name.replace('_', ' ')}", f"{value:,}") for name, value in store_limits.items()
             if name in ("read_rows", "page_rows", "query_results", "query_vectors", "concurrent_reads")]  # fmt: skip
    rows += [("learnt from a refusal", sentence) for sentence in learnt]
    if parameters.source.is_cloud:
        rules = parameters.validation
        searched = 2 * rules.probes * found.bytes
        read, asked = found.bytes / GIB * PER_GIB_RETURNED, searched / TIB * PER_TIB_QUERIED
        rows += [
            (
                "price of one reading",
                f"about ${read:,.2f}: {found.bytes / GIB:,.3f} GiB × ${PER_GIB_RETURNED} per GiB returned",
            ),
            (
                "price of the probes",
                f"about ${asked:,.2f}: {2 * rules.probes} queries a collection × ${PER_TIB_QUERIED} per TiB",
            ),
            ("prices from", PRICES),
        ]
    return pd.DataFrame({"value": pd.Series(dict(rows), dtype=object)})
