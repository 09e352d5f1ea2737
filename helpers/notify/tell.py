"""Tell people of one event of a run: fill in the text, hand it to every channel, write down what became of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import one_line
from helpers.notify import record
from helpers.notify.channels import DELIVERED, FAILED, Delivery, send
from helpers.notify.texts import Event, render
from helpers.run.folders import RunFolder

Say = Callable[[str], None]
DRY_RUN = "dry run"
BEFORE = "told before"


@dataclass(frozen=True, slots=True)
class Told:
    """A notice and what became of it, a row for each channel in the order of `notify.urls`."""

    subject: str = ""
    body: str = ""
    deliveries: list[Delivery] = field(default_factory=list)

    @property
    def failed(self) -> list[Delivery]:
        return [d for d in self.deliveries if not d.well and d.result != DRY_RUN]


def tell(
    folder: RunFolder, event: Event, *, key: str = "", dry_run: bool = False, again: bool = False, say: Say | None = None,
    attach: Path | None = None, **about: Any,
) -> Told:  # fmt: skip
    """Send the notice of this event to every channel; never raises, never waits long. A dry run prints it.

    `key` tells one event of its kind from the next: the same event with the same key is told once. `again` tries those
    channels once more that did not take it.
    """
    try:
        return _tell(folder, event, key, dry_run, again, say or (lambda _: None), attach, about)
    except Exception as error:  # nobody's migration ends because of a notice
        folder.log_block(f"the notice '{event}' was not sent", traceback.format_exc())
        if say is not None:
            say(f"Notice '{event}' was not sent: {one_line(str(error) or type(error).__name__, 300)}")
        return Told()


def _tell(
    folder: RunFolder, event: Event, key: str, dry_run: bool, again: bool, say: Say, attach: Path | None, about: dict[str, Any]
) -> Told:  # fmt: skip
    rules = folder.parameters().notify
    if not rules.urls:
        return Told()
    subject, body = render(folder, event, **about)
    if dry_run:
        say(f"DRY RUN: this would be sent to {', '.join(map(str, rules.urls))}:\n\n{subject}\n\n{body}")
        return Told(subject, body, [Delivery(str(url), DRY_RUN, "printed, not sent") for url in rules.urls])
    earlier = {e.channel: e for e in record.read(folder.reports) if (e.event, e.key) == (event, key)}
    left = [u for u in rules.urls if not earlier or (again and getattr(earlier.get(str(u)), "result", "") != DELIVERED)]
    sent = send(left, subject, body, event.kind, rules.timeout_seconds, attach) if left else []
    if sent:
        record.keep(folder.reports, event, key, sent, rules.stakeholders)
        bad = [d for d in sent if not d.well]
        line = f"Notice '{event}': {len(sent) - len(bad)} of {len(sent)} channels took it"
        said = line + (f"; {'; '.join(d.sentence() for d in bad)}" if bad else "")
        folder.log(said)
        say(said)
    known = {name: Delivery(name, e.result, e.said or BEFORE) for name, e in earlier.items()} | {
        d.channel: d for d in sent
    }
    return Told(subject, body, [known.get(str(url), Delivery(str(url), FAILED, "not told")) for url in rules.urls])
