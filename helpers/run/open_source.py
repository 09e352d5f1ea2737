"""The cosine trap (chroma-facts 2): a copied configuration would search by a distance that the collection never used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from helpers.errors import Terminal, one_line
from helpers.parameters import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.stores import CollectionInfo, Reader, open_source

# -- source ------------------------------------------------------------------------------------------------------------

# The source of a run, opened to read what its filter lets through; what was asked of it is the step's fact.


PLACE = "source_place"  # in run.json: the source as its key resolved it, where the parameters leave that open
USAGE = "source_usage"  # the step's fact: requests, rows, bytes, refusals, seconds waited


@contextmanager
def open_chosen(run: RunRecord) -> Iterator[Reader]:
    """A collection that is left out may be beyond reading: it is listed and let alone.

    Raises `Terminal` ("other_source") where the key opens another tenant or database than when the run began.
    """
    parameters = run.parameters
    normalised = parameters.migration.normalised == "migrate"
    with open_source(parameters.source, run.workspace, parameters.collections.selects, normalised=normalised) as store:
        if parameters.source.is_embedded:
            yield store
            return
        _require_same_place(run, store.label)
        store.usage.tell = run.waiting
        try:
            yield store
        finally:
            before = run.result.facts.get(USAGE, {})
            run.fact(USAGE, {name: round(n + before.get(name, 0), 1) for name, n in store.usage.counts().items()})


def _require_same_place(run: RunRecord, label: str) -> None:
    began = run.home.facts.get(PLACE, "")
    if began and began != label:
        raise Terminal(
            ReasonCode.OTHER_SOURCE, f"the key opens {label} now; the run began with {began}", where=f"run {run.id}",
            next_step="Use the key that the run began with, or begin a new run.",
        )  # fmt: skip
    if not began and label != run.parameters.source.label and not run.watches_only:
        run.home = run.home.note(**{PLACE: label})
        run.log(f"the key of the source opens {label}")


# -- open source -------------------------------------------------------------------------------------------------------


def check_connection(run: RunRecord, role: str, endpoint: Endpoint) -> None:
    """Put on record what the connection gives away; nothing where it gives nothing away."""
    for reason, said in endpoint.exposed():
        what = "check of the certificate" if reason is ReasonCode.TLS_UNVERIFIED else "encryption of secrets on the way"
        run.check(f"{role}: {what}", Verdict.WARNING, measured="none", threshold="on", reason=reason, detail=said)


def check_spaces(run: RunRecord, infos: Iterable[CollectionInfo], *, named: bool = False) -> None:
    """Put on record whether every collection searches by the space that it declares; `named` tells the first five."""
    trapped = [info for info in infos if info.space != info.declared_space]
    names = "; ".join(f"{one_line(i.name, 60)}: declared {i.declared_space}, is {i.space}" for i in trapped[:5])
    said = f"The effective space is migrated, not the declared one{f' ({names})' if named else ''}."
    run.check(
        "collections in another space than declared",
        Verdict.WARNING if trapped else Verdict.PASS,
        measured=len(trapped),
        threshold=0,
        unit="collections",
        reason=ReasonCode.DISTANCE_SPACE if trapped else "",
        detail=said if trapped else "",
        ids=[{"collection": i.name, "effective": i.space, "declared": i.declared_space} for i in trapped],
    )
