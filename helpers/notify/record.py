"""reports/<run id>/notices.jsonl: who was told what, when, by which channel (by name), with what result.

It is written as the audit log is: lines only grow, each names the digest of the one before, and a seal covers them. An
event with a key is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import audit
from helpers.notify.channels import Delivery

NAME = "notices.jsonl"
DONE_BY_HAND = "done by hand"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: the event, the key that tells one of its kind from the next, the channel's reference, its result."""

    when: str
    event: str
    key: str
    channel: str
    result: str
    said: str
    by: str


def read(reports: Path) -> list[Entry]:
    """The entries of a run's folder, oldest first; lines that are none are left out."""
    found = []
    for line in audit.entries(reports / NAME):
        facts = line.get("facts")
        if isinstance(facts, dict):
            key, channel, said = (str(facts.get(name, "")) for name in ("key", "channel", "said"))
            by = f"{line.get('user', '')}@{line.get('host', '')}"
            result = str(line.get("outcome", ""))
            found.append(Entry(str(line.get("when", "")), str(line["action"]), key, channel, result, said, by))
    return found


def keep(reports: Path, event: str, key: str, deliveries: Iterable[Delivery], to: Sequence[str]) -> None:
    """One line for each channel, and one in the audit log for the notice."""
    deliveries = list(deliveries)
    for d in deliveries:
        audit.append(reports / NAME, event, outcome=d.result, key=key, channel=d.channel, said=d.said,
                     seconds=d.seconds, to=list(to))  # fmt: skip
    well = sum(d.well for d in deliveries)
    audit.append(reports / audit.NAME, "notice", outcome=f"{well} of {len(deliveries)} channels", event=event, key=key)


def by_hand(reports: Path, item: str, who: str) -> None:
    """A person says that something of the checklist is done."""
    audit.append(reports / NAME, DONE_BY_HAND, outcome="done", key=item, channel="by hand", said=who)
