"""Appendix C as data: which escalation level holds, what it asks for, and whom it calls. The one place that says so."""

from __future__ import annotations

import pandas as pd

from helpers.parameters.sections import Contacts

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


def levels(contacts: Contacts | None, now: int = 0) -> pd.DataFrame:
    """Appendix C: each level, when it holds, whom to call; `now` is marked. Without parameters the keys to fill in."""
    rows = [(number, f"from {minutes} min", what, key) for minutes, number, what, key in LEVELS]
    rows.append((CRITICAL[0], "on a rollback trigger", CRITICAL[1], CRITICAL[2]))
    table = [[f"{number}", when, what, (getattr(contacts, key) if contacts else "") or f"(contacts.{key} is not named)",
              "now" if number == now else ""] for number, when, what, key in rows]  # fmt: skip
    return pd.DataFrame(table, columns=["level", "when", "what", "call", ""])
