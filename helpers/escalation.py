"""Appendix C as data: which escalation level holds, what it asks for, and whom it calls. The one place that says so."""

from __future__ import annotations

# Minutes from which a level holds. Level 4 is not a matter of time: a rollback trigger makes it.
LEVELS = (
    (0, 1, "consult the troubleshooting section", "channel"),
    (30, 2, "contact the DBA, review the logs with the team", "dba"),
    (60, 3, "escalate to engineering, consider the rollback", "operations_lead"),
)
CRITICAL = (4, "page the on-call engineer, begin the rollback", "on_call")


def level(minutes: float, *, critical: bool) -> tuple[int, str, str]:
    """(level, what Appendix C says, the contact's key) after so many minutes."""
    if critical:
        return CRITICAL
    _, number, what, contact = [row for row in LEVELS if minutes >= row[0]][-1]
    return number, what, contact
