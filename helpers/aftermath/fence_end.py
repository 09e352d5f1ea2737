"""The end of the write fence. What lifting it means is said before it is done: the old source then takes writes again.

Whoever still writes there writes into a database that nobody reads any more. So nobody must be seen at it: where connections
of others are, the fence stays, whatever the parameters say, and the step says whose turn it is.
"""

from __future__ import annotations

import pandas as pd

from helpers import audit
from helpers.cutover.evidence import connections
from helpers.errors import RUNBOOK, RunbookError
from helpers.fence import Control, FenceState, lift, takes_no_writes
from helpers.fence.probe import SILENT
from helpers.parameters import Endpoint
from helpers.parameters.sections import Fence
from helpers.results import Verdict
from helpers.run.record import RunRecord

MEANS = (
    "the old source takes writes again. A client that was forgotten then writes into a database that nobody reads, and a "
    "rollback finds two histories. Lifting it is right once every client uses the target, or when the source is to serve others"
)


class FenceEnd:
    """The fence of one run, at closeout."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.state = FenceState.read(run.workspace)
        rules = Fence.model_validate(self.state.rules) if self.state is not None else None
        self.control = Control(run.home, run.parameters, rules)
        self.keep = run.parameters.fence.at_closeout == "keep"
        self.seen = 0

    @property
    def stands(self) -> bool:
        return self.state is not None and self.state.may_stand

    def look(self) -> pd.DataFrame:
        """Where it stands, whether writes are refused, and how many connections of others are seen at it."""
        if not self.stands:
            none = (
                "none was needed: the source itself takes no writes" if takes_no_writes(self.run.earlier("20")) else ""
            )
            said = "was lifted already" if self.state is not None else none or "none was put up by this run"
            return pd.DataFrame([("write fence", said)], columns=["what", "found"])
        assert self.state is not None
        rows = [("write fence", self.state.sentence()), ("lifting it means", MEANS)]
        url = self.control.clients_url
        if url:
            self.seen = connections_at(url)
            rows.append(("connections of others at it", f"{self.seen} seen from this machine"))
            rows.append(("writes before", "not asked in a dry run" if self.run.dry_run else self._writes(url)))
        rows.append(("what will be done", self._what()))
        return pd.DataFrame(rows, columns=["what", "found"])

    def _writes(self, url: str) -> str:
        try:
            with self.control.probe(url, "clients' URL") as probe:
                writes = probe.writes()
                probe.sweep()
        except RunbookError as error:
            return f"not asked: {error.line()}"
        if any(a.answered for a in writes):
            return "get through"
        return "nobody answers" if all(a.outcome == SILENT for a in writes) else "refused"

    def _what(self) -> str:
        if self.keep:
            return "kept: fence.at_closeout is keep"
        return "kept: somebody is seen at it" if self.seen else "lifted"

    def end(self, *, act: bool) -> str:
        """Lift it, or say why it stays; a check either way. `act` is False in a dry run, or where the closeout may not begin."""
        if not self.stands:
            self.run.check("write fence lifted", Verdict.NOT_APPLICABLE, detail="there is none to lift")
            return "There is no fence to lift."
        assert self.state is not None
        if not act:
            return f"Not touched. It would be {self._what()}."
        if self.keep or self.seen:
            why = self._what() + (f": {self.seen} connections" if self.seen and not self.keep else "")
            self.run.check("write fence lifted", Verdict.WARNING, measured="stands", threshold="lifted", reason="fence_kept",
                           detail=f"{why}. Later: {self.state.lift}")  # fmt: skip
            audit.append(self.run.folder / audit.NAME, "fence kept at closeout", why=why)
            return f"The fence stays ({why}). Lift it later with: {self.state.lift}"
        log = self.run.folder / audit.NAME
        audit.append(log, "fence lifted at closeout", outcome="begun")
        try:
            said = lift(self.run.home)
        except RunbookError as error:
            audit.append(log, "fence lifted at closeout", outcome="failed", why=error.line())
            self.run.check("write fence lifted", Verdict.FAIL, measured="not proven", threshold="lifted",
                           reason="fence_not_lifted", detail=f"{error.line()} {self._instead()}")  # fmt: skip
            return f"{error.line()} {self._instead()}"
        audit.append(log, "fence lifted at closeout", said=said)
        self.run.check("write fence lifted", Verdict.PASS, measured="lifted", detail=said)
        return said

    def _instead(self) -> str:
        again = f"{RUNBOOK} resume {self.run.id} --set fence.at_closeout=keep"
        return f"Where the source is out of service for good: {again}"


def connections_at(url: str) -> int:
    """Established connections of other processes to this address, as far as this machine sees them."""
    place = Endpoint(url=url)
    return connections(place.host, place.port)
