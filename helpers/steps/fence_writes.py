"""Step 20: stop all writes to the source, and prove it. (Runbook, Section 2, Step 1.)"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from helpers.cutover.application import NOT_TAKEN, NOT_TRIED, WriteAttempt, try_write
from helpers.errors import EnvironmentFailure, RunbookError
from helpers.evidence.signoffs import open_gate
from helpers.fence import BEFORE, NO_WRITES, THROUGH, FenceControl, FenceState
from helpers.fence.probe import ProbeAnswer, ServerProbe, answer_text, closed_by_itself, refused_to_us
from helpers.migration.target_lock import claim_target, give_back_target
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.command import who_has_open
from helpers.run.plan import Step
from helpers.run.record import NotebookStep, RunRecord

PROBE_COLUMNS = ["url", "request", "outcome", "status", "answer"]
NONE = "nothing keeps clients from writing to the source after the snapshot (fence.kind is none)"


class FenceWritesStep(NotebookStep):
    """The notebook's view: URLs, plan, state before, fence up, proof, and how to undo it.

    With `fence.when: cutover` step 25 does the same, and step 20 stops no writes.
    """

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.control = FenceControl(run.home, run.parameters)
        self.kind = run.parameters.fence.kind
        self._first = run.step == Step.FENCE_WRITES
        self._later = self._first and run.parameters.fence.late
        self._acts = self.kind != "none" and not run.dry_run and not self._later
        self._attempt: WriteAttempt | None = None

    def urls(self) -> pd.DataFrame:
        """One row for each URL and its role. Raises where the dry run needs an approval that it does not have, also where the
        notebook is run by hand."""
        if self._first and not self.run.dry_run and self.run.parameters.signoff.dry_run:
            self.run.require(Step.SCHEDULE_AND_NOTIFY)
            if (shut := open_gate(self.run.home.read(), [Step.SCHEDULE_AND_NOTIFY])) is not None:
                raise shut
        urls = self.control.urls()
        self.run.fact("fence", {"kind": self.kind, "urls": urls, "dry_run": self.run.dry_run, "late": self._later})
        return pd.DataFrame(list(urls.items()), columns=["what", "url"])

    def plan(self) -> str:
        """The exact configuration or commands, also for an operator who runs nginx on another machine."""
        return self.control.plan()

    def before(self) -> pd.DataFrame:
        """Probe reads at the URL of the migration and, where a fence will be put up, writes at the clients' URL."""
        if self.run.parameters.source.is_embedded:
            return pd.DataFrame(self._application_before(), columns=PROBE_COLUMNS)
        with self.control.probe(self.run.parameters.source.address, "source") as probe:
            reads = probe.reads()
        rows = _rows(probe, reads)
        self._check_reads("reads before the fence", reads)
        # what cannot be read cannot be migrated: change nothing
        self._acts = self._acts and all(a.answered for a in reads)
        state = FenceState.load(self.run.workspace)
        # the fence of an earlier attempt may be up: no write must get through now
        if not self._acts or (state is not None and state.may_be_active):
            return pd.DataFrame(rows, columns=PROBE_COLUMNS)
        with self.control.probe(self.control.clients_url, "clients' URL") as probe:
            writes = probe.writes()
            rows += _rows(probe, writes)
            if writes[0].answered:
                probe.sweep()
            self._check_left(probe)
        open_now = writes[0].answered
        self.run.check(BEFORE, Verdict.PASS if open_now else Verdict.NOT_EXERCISED, threshold="get through",
                       measured="get through" if open_now else writes[0].outcome, detail=self.control.clients_url)  # fmt: skip
        return pd.DataFrame(rows, columns=PROBE_COLUMNS)

    def _application_before(self) -> list[dict[str, object]]:
        """The toolkit never writes to a directory: the application tries a write, where the parameters say how."""
        state = FenceState.load(self.run.workspace)
        if not self._acts or (state is not None and state.may_be_active):
            return []
        attempt = self._attempt = try_write(self.run.parameters.cutover, self.run.home, self.run.step)
        self.run.check(BEFORE, Verdict.PASS if attempt.taken else Verdict.NOT_EXERCISED,
                       measured=attempt.outcome, threshold="taken", parameter="cutover.write_probe",
                       detail=attempt.detail)  # fmt: skip
        return [_row(attempt)] if attempt.when else []

    def put_up(self) -> str:
        """Claim the target, stop writes, wait for those in flight; return what was done."""
        if not self.run.dry_run and self._first and (self._acts or self._later or self.kind == "none"):
            self._claim()
        if self.kind == "none":
            return self._without()
        if self._later:
            self.run.check(
                "write fence", Verdict.NOT_EXERCISED, measured="in step 25", threshold="up", parameter="fence.when",
                detail="writers go on; step 25 puts the fence up, proves it, and brings over what changed",
            )  # fmt: skip
            logged = "" if self.run.dry_run else f" {self.control.record()}"
            return f"Not put up: step 25 does it (fence.when is cutover). Writers go on.{logged}"
        if self.run.dry_run:
            self.run.check("write fence", Verdict.NOT_EXERCISED, measured="dry run", threshold="up", reason=ReasonCode.NO_FENCE,
                           detail="a dry run shows what it would do and puts up no fence")  # fmt: skip
            return "DRY RUN: nothing was changed."
        if not self._acts:
            return "Not put up: the source cannot be read."
        try:
            with self.run.phase("put the fence up"):
                return self.control.put_up()
        except RunbookError:
            self._give_back()
            raise

    def _without(self) -> str:
        """No fence is configured: probe whether the source takes writes at all."""
        if self.run.parameters.source.is_embedded or self.run.dry_run:
            asked = " A dry run does not ask with a write whether the source takes any." if self.run.dry_run else ""
            return self._no_fence(NONE + asked)
        with self.control.probe(self.run.parameters.source.address, "source") as probe:
            answers = probe.no_writes()
        self._check_left(probe)
        summary = "; ".join(answer_text(a) for a in answers)
        if closed_by_itself(answers):
            self.run.fact("fence", self.run.result.facts["fence"] | {NO_WRITES: summary})
            self.run.check("write fence", Verdict.PASS, measured="writes through the fence", threshold="writes through the fence",
                           detail=f"the source itself takes no writes, whoever asks: {summary}")  # fmt: skip
            return f"No fence is needed: the source itself takes no writes. {summary}."
        if refused_to_us(answers):
            return self._no_fence(f"with this key writes are refused, others may write with theirs: {summary}")
        removed = "; what the probe wrote was removed again" if answers[0].answered and not probe.left_behind else ""
        return self._no_fence(f"{NONE}: {summary}{removed}")

    def _no_fence(self, detail: str) -> str:
        self.run.check("write fence", Verdict.NOT_EXERCISED, measured="none", threshold="nginx or command",
                       reason=ReasonCode.NO_FENCE, detail=detail)  # fmt: skip
        return f"No fence: {detail}."

    def prove(self) -> pd.DataFrame:
        """Prove that writes are refused, reads answered, and no way round the fence exists; else take the fence down again."""
        rows: list[dict[str, object]] = []
        try:
            if self.run.parameters.source.is_embedded:
                self._nobody_else()
                rows = self._prove_by_application() if self._acts else []
            elif self._acts:
                rows = self._prove_server()
        except EnvironmentFailure:
            self._give_up()
            raise
        if any(c.verdict is Verdict.FAIL for c in self.run.result.checks):
            self._give_up()
        elif self._acts:
            proven = any(c.name == THROUGH and c.verdict is Verdict.PASS for c in self.run.result.checks)
            seen = "up and proven" if proven else "set; whether it refuses writes was not seen"
            self.run.check("write fence", Verdict.PASS if proven else Verdict.NOT_EXERCISED, threshold="up and proven",
                           measured="up and proven" if proven else "set, not proven",
                           detail=f"{self.kind}: {seen}; it stays until it is lifted")  # fmt: skip
            state = FenceState.load(self.run.workspace)
            up = state.up_at if state is not None else ""
            self.run.fact("fence", self.run.result.facts["fence"] | {"up": up, "proven": proven})
        return pd.DataFrame(rows, columns=PROBE_COLUMNS)

    def undo(self) -> str:
        """How to lift the fence."""
        state = FenceState.load(self.run.workspace)
        return (state.sentence() if state is not None else "") or "There is no fence to lift."

    # -- proof ---------------------------------------------------------------------------------------------------------

    def _prove_server(self) -> list[dict[str, object]]:
        with self.run.phase("prove the fence"), self.control.probe(self.control.clients_url, "clients' URL") as probe:
            writes, reads = probe.writes(), probe.reads()
            against = self.control.against(writes)
            self._remove_what_got_through(probe)
            rows = [*_rows(probe, writes), *_rows(probe, reads)]
        passed = [a.action for a in writes if a.answered]
        detail = "; ".join(against)
        if passed:
            detail += "; what the probe wrote was removed again" if not probe.left_behind else ""
        self.run.check(
            THROUGH, Verdict.FAIL if against else Verdict.PASS,
            measured=len(against), threshold=0, unit=f"of {len(writes)} kinds",
            reason=ReasonCode.FENCE_OPEN if against else "", detail=detail or ", ".join(a.action for a in writes),
        )  # fmt: skip
        self._check_left(probe)
        self._check_reads("reads through the fence", reads)
        if all(a.answered for a in reads):
            self._check_places()
        return rows

    def _prove_by_application(self) -> list[dict[str, object]]:
        """Check that the application's write is refused. It proves nothing where no write was taken before the fence, either."""
        attempt = try_write(self.run.parameters.cutover, self.run.home, self.run.step)
        before = self._attempt
        if attempt.outcome == NOT_TRIED or (before is not None and not before.taken):
            reason = attempt.detail + "; none was taken before the fence either" * (attempt.outcome != NOT_TRIED)
            self.run.check(THROUGH, Verdict.NOT_EXERCISED, parameter="cutover.write_probe", measured="not tried", threshold=0,
                           unit="of 1 write of the application",
                           detail=f"no write was tried: {reason}")  # fmt: skip
        else:
            open_ = attempt.outcome != NOT_TAKEN
            self.run.check(THROUGH, Verdict.FAIL if open_ else Verdict.PASS, measured=int(open_), threshold=0,
                           unit="of 1 write of the application", reason=ReasonCode.FENCE_OPEN if open_ else "",
                           detail=attempt.detail)  # fmt: skip
        return [_row(attempt)] if attempt.when else []

    def _remove_what_got_through(self, probe: ServerProbe) -> None:
        """Remove what the probe wrote and the fence keeps us from removing: through the port behind the fence."""
        if probe.left_behind and self.control.behind_url:
            with self.control.probe(self.control.behind_url, "behind the fence") as behind:
                for name in list(probe.left_behind):
                    behind.remove(name)
                probe.left_behind = behind.left_behind

    def _check_left(self, probe: ServerProbe) -> None:
        if probe.left_behind:
            self.run.check(
                "write probes left behind",
                Verdict.FAIL,
                measured=len(probe.left_behind),
                threshold=0,
                reason=ReasonCode.PROBE_LEFT_BEHIND,
                detail=f"delete by hand: {', '.join(probe.left_behind)}",
            )

    def _check_reads(self, name: str, reads: list[ProbeAnswer]) -> None:
        bad = [f"{a.action}: {a.outcome} {a.status or ''} {a.message}".strip() for a in reads if not a.answered]
        self.run.check(name, Verdict.FAIL if bad else Verdict.PASS, measured=len(reads) - len(bad), unit="kinds",
                       threshold=len(reads), reason=ReasonCode.READS_REFUSED if bad else "",
                       detail="; ".join(bad) or ", ".join(a.action for a in reads))  # fmt: skip

    def _check_places(self) -> None:
        if not self.control.behind_url:
            return
        same = self.control.same_database()
        self.run.check(
            "collections behind the fence",
            Verdict.PASS if same else Verdict.FAIL,
            measured="those of the source" if same else "others",
            threshold="those of the source",
            reason="" if same else ReasonCode.FENCE_ELSEWHERE,
            detail=f"{self.control.clients_url} against {self.run.parameters.source.label}",
        )
        round_it, unknown = self.control.bypasses()
        verdict = Verdict.FAIL if round_it else Verdict.WARNING if unknown else Verdict.PASS
        past = "clients reach Chroma past the fence; let it listen on loopback only, or close the port to them"
        here = "answers this machine; whether clients reach it can be checked only from their machines"
        self.run.check("ways round the fence", verdict, measured=", ".join(round_it or unknown) or "none",
                       threshold="none", reason="" if verdict is Verdict.PASS else ReasonCode.FENCE_BYPASS,
                       detail=past if round_it else here if unknown else f"behind it: {self.control.behind_url}")  # fmt: skip

    def _nobody_else(self) -> None:
        path = Path(str(self.run.parameters.source.path)).absolute()
        users = who_has_open(path)
        name, detail = "processes that use the source", users.sentence()
        if users.processes:
            # in a dry run the application may still run
            verdict = Verdict.WARNING if self.run.dry_run else Verdict.FAIL
            self.run.check(name, verdict, measured=len(users.processes), threshold=0, unit="processes",
                           reason=ReasonCode.SOURCE_IN_USE, detail=f"{detail}: stop what uses {path}")  # fmt: skip
        else:
            who = "One process of another user" if users.unseen == 1 else f"{users.unseen} processes of other users"
            unseen = f"{who} could not be inspected; only file locks were checked"
            self.run.check(name, Verdict.WARNING if users.unseen else Verdict.PASS,
                           measured="none seen" if users.unseen else 0, threshold=0,
                           unit="processes", reason=ReasonCode.SOURCE_USE_UNKNOWN if users.unseen else "",
                           detail=unseen if users.unseen else "files and locks of every process")  # fmt: skip

    def _give_up(self) -> None:
        """Take down a fence that is not proven, and release the target: it would shut clients out for nothing."""
        state = FenceState.load(self.run.workspace)
        if self._acts and state is not None and state.may_be_active:
            self.control.put_back(state)
        if not self.run.dry_run:
            self._give_back()

    def _claim(self) -> None:
        """Claim the target first: no clients are shut out where another run holds the target."""
        self.run.fact("target_claimed", claim_target(self.run.home))

    def _give_back(self) -> None:
        try:
            give_back_target(self.run.home)
        except RunbookError as error:  # the error that stopped the step matters more
            self.run.log(f"the target's lock was not released: {error}")


def _row(attempt: WriteAttempt) -> dict[str, object]:
    outcome, answer = attempt.outcome, attempt.detail
    return {"url": "the application", "request": "write", "outcome": outcome, "status": 0, "answer": answer}


def _rows(probe: ServerProbe, answers: list[ProbeAnswer]) -> list[dict[str, object]]:
    return [
        {"url": probe.url, "request": a.action, "outcome": a.outcome, "status": a.status, "answer": a.message}
        for a in answers
    ]
