"""After the cutover: the watch of the first hour, performance, integration tests, closeout. (Runbook, Section 5.)

Nothing here writes to source or target, but for the marker that a run leaves in a target, which step 53 gives back. Clients
use the target by now: what fails here says so, names the way back, and takes nobody back by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from helpers.run.record import RunRecord

if TYPE_CHECKING:
    from helpers.aftermath.closeout import Closeout
    from helpers.aftermath.integration import Integration
    from helpers.aftermath.monitoring import Monitor
    from helpers.aftermath.performance import Performance

    Aftermath: TypeAlias = Monitor | Performance | Integration | Closeout


def aftermath_of(run: RunRecord) -> Aftermath:
    """The desk of the step that is at work, 50 to 53."""
    if run.step == "50":
        from helpers.aftermath.monitoring import Monitor

        return Monitor(run)
    if run.step == "51":
        from helpers.aftermath.performance import Performance

        return Performance(run)
    if run.step == "52":
        from helpers.aftermath.integration import Integration

        return Integration(run)
    from helpers.aftermath.closeout import Closeout

    return Closeout(run)
