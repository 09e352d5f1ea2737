"""The source of a run, opened to read what its filter lets through; what was asked of it is the step's fact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from helpers.errors import Terminal
from helpers.run.record import RunRecord
from helpers.stores import Reader, open_source

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
    began = run.home.facts().get(PLACE, "")
    if began and began != label:
        raise Terminal(
            "other_source", f"the key opens {label} now; the run began with {began}", where=f"run {run.id}",
            next_step="Use the key that the run began with, or begin a new run.",
        )  # fmt: skip
    if not began and label != run.parameters.source.label and not run.watches_only:
        run.home.note(**{PLACE: label})
        run.log(f"the key of the source opens {label}")
