"""Channels: Apprise URLs by reference. A notice goes to all of them at once, and takes no longer than it may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RunbookError
from helpers.notify import sender
from helpers.parameters import SecretRef
from helpers.run.folders import RunPath

DELIVERED, FAILED = "delivered", "failed"
_START_UP = (
    15.0  # seconds that the sending process may need for itself on a loaded machine, beside the time of the notice
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a notice at one channel: its reference, `delivered` or `failed`, why not, seconds until it answered.

    Delivered means that the service took it; who reads it no service says.
    """

    channel: str
    result: str
    said: str = ""
    seconds: float = 0.0

    @property
    def well(self) -> bool:
        return self.result == DELIVERED

    def sentence(self) -> str:
        return f"{self.channel} {self.result}" + (f" ({self.said})" if self.said else "")


def send(
    channels: Sequence[SecretRef], title: str, body: str, kind: str, seconds: float, attach: Path | None = None
) -> list[Delivery]:
    """Hand the notice to every channel, in the order given. Never raises for a channel, and never waits for a dead one.

    `kind` is info, success, warning or failure; `attach` goes with e-mail only.
    """
    found: dict[int, Delivery] = {}
    urls: dict[int, str] = {}
    for number, reference in enumerate(channels):
        try:
            urls[number] = reference.resolve().reveal()
        except RunbookError as error:
            found[number] = Delivery(str(reference), FAILED, error.what)
    if urls:
        order = {"urls": list(urls.values()), "title": title, "body": body, "kind": kind, "seconds": seconds,
                 "attach": str(attach) if attach is not None else ""}  # fmt: skip
        said = _answers(json.dumps(order), seconds)
        for position, number in enumerate(urls):
            name = str(channels[number])
            answer = said.get(position)
            if answer is None:
                found[number] = Delivery(name, FAILED, f"no answer within {seconds:g} seconds", seconds)
            else:
                why = str(answer["said"])
                found[number] = Delivery(name, FAILED if why else DELIVERED, why, float(answer["seconds"]))
    return [found[number] for number in range(len(channels))]


def _answers(order: str, seconds: float) -> dict[int, dict[str, Any]]:
    """What the sending process said, by the position of the URL; whatever it did not say in time is missing."""
    command = [sys.executable, "-I", str(Path(sender.__file__).resolve())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True, encoding="utf-8", start_new_session=True)  # fmt: skip
    try:
        lines, _ = process.communicate(order, timeout=seconds + _START_UP)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        lines, _ = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    found: dict[int, dict[str, Any]] = {}
    for line in lines.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            answer = json.loads(line)
            found[int(answer["number"])] = answer
    return found


# -- record ------------------------------------------------------------------------------------------------------------

# reports/<run id>/notices.jsonl: who was notified of what, when, by which channel (by name), with what result.
#
# It is written as the audit log is: lines only grow, each names the digest of the one before, and a seal covers them. An
# event with a key is sent once.


NAME = RunPath.NOTICES
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
