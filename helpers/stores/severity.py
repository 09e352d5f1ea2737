"""How bad what was found in a database is, and sentences that say so."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Severity(StrEnum):
    """How bad a problem is, the worst first."""

    ATTACK = "attack"  # a file that may run foreign code in those who open it
    LOST = "lost"  # something that no migration can bring back
    DAMAGED = "damaged"  # something is broken; a migration repairs it, or needs a decision
    WARNING = "warning"  # nothing is broken, but a migration needs a decision
    NOTE = "note"  # nothing is broken; worth knowing before the migration

    @property
    def sound(self) -> bool:
        """Whether a database with nothing worse is sound."""
        return self in (Severity.WARNING, Severity.NOTE)


class Finding(str):
    """A sentence about a source, with its severity; a sentence that is only a text is a note.

    `meaning` says what it means for those who migrate. `counted`: the counts of a diagnosis say it already.
    """

    __slots__ = ("counted", "meaning", "severity")
    severity: Severity
    meaning: str
    counted: bool

    def __new__(
        cls, text: str, severity: Severity = Severity.NOTE, meaning: str = "", *, counted: bool = False
    ) -> Self:
        self = super().__new__(cls, text)
        self.severity, self.meaning, self.counted = severity, meaning, counted
        return self

    @classmethod
    def of(cls, sentence: str) -> Finding:
        """This sentence as a finding."""
        return sentence if isinstance(sentence, Finding) else cls(sentence)


def damage(text: str, meaning: str = "", *, counted: bool = False) -> Finding:
    """A finding that says that something is broken."""
    return Finding(text, Severity.DAMAGED, meaning, counted=counted)
