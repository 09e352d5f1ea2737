"""The source of a run, opened to read what its filter lets through."""

from __future__ import annotations

from contextlib import AbstractContextManager

from helpers.run.record import RunRecord
from helpers.stores import Reader, open_source


def open_chosen(run: RunRecord) -> AbstractContextManager[Reader]:
    """A collection that is left out may be beyond reading: it is listed and let alone."""
    return open_source(run.parameters.source, run.workspace, run.parameters.collections.selects)
