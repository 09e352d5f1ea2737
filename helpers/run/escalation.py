"""Whom to call, by the time that has passed. (Runbook, Appendix C, which wins over Step 6b.)"""

from __future__ import annotations

from dataclasses import dataclass

from helpers.parameters import Parameters

CRITICAL = 4


@dataclass(frozen=True, slots=True)
class Level:
    """A level of escalation: what it asks for, and the person it names ("" where it names none)."""

    number: int
    when: str
    what: str
    who: str

    def sentence(self) -> str:
        return f"level {self.number} ({self.when}): {self.what}" + (f": {self.who}" if self.who else "")


def levels(parameters: Parameters) -> list[Level]:
    """The four levels, with the people whom the parameters name."""
    said = parameters.contacts
    return [
        Level(1, "first 30 minutes", "see what failed in notebook 26 and in run.log", ""),
        Level(2, "30 to 60 minutes", "contact the DBA, read the logs together", _named(said.dba, "dba")),
        Level(3, "after 60 minutes", "escalate to the operations lead, consider the rollback",
              _named(said.operations_lead, "operations_lead")),
        Level(CRITICAL, "critical", "page the on-call engineer, begin the rollback", _named(said.on_call, "on_call")),
    ]  # fmt: skip


def level(parameters: Parameters, minutes: float, *, critical: bool = False) -> Level:
    """The level after so many minutes of trouble."""
    number = CRITICAL if critical else 1 if minutes < 30 else 2 if minutes < 60 else 3
    return levels(parameters)[number - 1]


def _named(contact: str, key: str) -> str:
    return contact or f"nobody is named (contacts.{key})"
