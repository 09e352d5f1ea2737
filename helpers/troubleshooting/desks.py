"""Which desk belongs to which notebook."""

from __future__ import annotations

from helpers.run.record import RunRecord
from helpers.troubleshooting.counts import Counts
from helpers.troubleshooting.desk import Desk
from helpers.troubleshooting.fields import Fields
from helpers.troubleshooting.memory import Memory
from helpers.troubleshooting.network import Network
from helpers.troubleshooting.search import Search
from helpers.troubleshooting.stuck import Stuck
from helpers.troubleshooting.values import Values
from helpers.troubleshooting.vectors import Vectors

DESKS: dict[str, type[Desk]] = {
    "41": Stuck,
    "42": Values,
    "43": Memory,
    "44": Search,
    "45": Network,
    "46": Fields,
    "47": Vectors,
    "48": Counts,
}


def desk_of(run: RunRecord) -> Desk:
    """The desk of the step that this run stands at; KeyError for a step that is none of them."""
    return DESKS[run.step](run)
