"""The first screen of a run's page, from results and sign-offs alone: its state, what to do next, its figures and warnings."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.cutover import clients_switched, source_takes_writes
from helpers.errors import RUNBOOK
from helpers.evidence.signoffs import CLOSEOUT as CLOSED
from helpers.formatting import count, moment, text
from helpers.reason_codes import ReasonCode
from helpers.report import Outcome, RunView, StepRow, instant, numbers, void
from helpers.results import Check, Verdict, worst
from helpers.run import plan
from helpers.run.advice import BEFORE_USE, asks, page_remedy, role_of
from helpers.run.folders import RunPath
from helpers.run.plan import Step

# -- decision tree -----------------------------------------------------------------------------------------------------

# The runbook's GO/NO-GO tree (Appendix B) as this run took it: each question with its answer and what it rests on.
#
# Branches that were not taken are on the page too, marked so: who signs sees where the other answer would have led.


# The questions of the runbook's tree, and the tests of step 23 that answer each.
_CHECKS = {
    "Metadata": ("metadata", "metadata completeness", "field types", "citation URIs", "configuration"),
    "Embeddings": ("embeddings",),
    "Queries": ("search equivalence", "neighbours judged for recall", "searches as announced", "named queries"),
    "Collections": ("counts", "distribution", "duplicates"),
}
_OPEN, _TAKEN_NOT = "not reached", "not taken"
FENCE_END = "end of the write fence"  # the check of steps 27 and 53


@dataclass(slots=True)
class Node:
    """A question or an end, and in `why` what it rests on.

    `verdict` is one of a check, or waiting, void, open, "not reached", "not taken".
    """

    question: str
    answer: str = ""
    verdict: str = _OPEN
    why: str = ""
    children: list[Node] = field(default_factory=list)


def decision_tree(view: RunView) -> list[Node]:
    """The path in order; it ends at the first question that nobody has answered yet."""
    nodes = [_validated(view), _rate(view), _all_checks(view)]
    decision = _tree_decision(view)
    against = decision == "NO-GO"
    nodes.append(_marginal(view, against=against))
    nodes.append(_signed(view, against=against))
    nodes.append(_end(view, "GO: cutover (Step 6a)", Step.CUTOVER, taken=view.outcome.kind == "go"))
    stopped = view.outcome.kind == "no-go"
    nodes.append(_end(view, "NO-GO: hold and troubleshoot (Step 6b)", Step.HOLD_AND_TROUBLESHOOT, taken=stopped))
    nodes.append(_end(view, "Rollback (Step 7b)", Step.ROLLBACK, taken=view.ran(Step.ROLLBACK)))
    return nodes


def _tree_decision(view: RunView) -> str:
    review = view.step(Step.REVIEW)
    return str(review.result.facts.get("decision", "")) if review and review.result else ""


def _validated(view: RunView) -> Node:
    found = view.step(Step.VALIDATE)
    if found is None or found.result is None or not view.tests:
        broken = next((s for s in view.steps if s.verdict in ("failed", "unreadable", "interrupted", "fail")), None)
        why = f"Stopped at step {broken.number} ({broken.title}): {broken.verdict}." if broken else ""
        return Node("Is the validation complete?", "NO" if broken else "not yet", "fail" if broken else _OPEN, why)
    whole = all(check.verdict is not Verdict.NOT_EXERCISED for check in view.tests)
    return Node(
        "Is the validation complete?",
        "YES" if whole else "YES, as far as it went",
        "pass",
        f"{_of_all(view)}; what each compared is in its row.",
    )


def _rate(view: RunView) -> Node:
    row = next((r for r in view.rows("matrix") if str(r.get("criterion", "")).lower() == "validation pass rate"), None)
    if row is None:
        return Node("Do at least 95 % pass validation?")
    verdict = str(row.get("verdict"))
    return Node(
        "Do at least 95 % pass validation?", "NO" if verdict == "fail" else "YES", verdict, text(row["measured"])
    )


def _all_checks(view: RunView) -> Node:
    node = Node("Do all checks pass or warn?")
    if not view.tests:
        return node
    known = {name for names in _CHECKS.values() for name in names}
    groups = {**_CHECKS, "Other": tuple(c.name for c in view.tests if c.name not in known)}
    for title, names in groups.items():
        if found := [c for c in view.tests if c.name in names]:
            node.children.append(_group(title, found))
    whole = worst(check.verdict for check in view.tests)
    warned = sum(check.verdict in (Verdict.WARNING, Verdict.MARGINAL) for check in view.tests)
    node.answer, node.verdict = (
        ("NO", "fail") if whole is Verdict.FAIL else ("YES", (whole if warned else Verdict.PASS).value)
    )
    if warned:
        gate = view.gate
        roles = [role.replace("_", " ") for role in sorted(gate.keys.keys() - set(gate.missing))] if gate else []
        shown = f"{', '.join(roles)}, who signed GO" if roles else "those who sign"
        before = [f for f in view.findings if f.at_decision]
        new = sum(f.steps[0] >= Step.VALIDATE for f in before)
        node.why = (
            f"{warned} warned: {_of_all(view)}. Of {count(len(before), 'warning')} known at the decision, "
            f"{new or 'none'} {'is' if new == 1 else 'are'} new here; all are shown to {shown}."
        )
    return node


_UNASKED = (Verdict.NOT_APPLICABLE, Verdict.NOT_EXERCISED)


def _asked(view: RunView) -> int:
    """How many tests of step 23 were asked; what does not apply is none of them."""
    return sum(c.verdict not in _UNASKED for c in view.tests)


def _of_all(view: RunView) -> str:
    """`11 of 12 tests were asked, 1 not exercised`: every test is in the tree, with its verdict."""
    left = Counter(c.verdict for c in view.tests if c.verdict in _UNASKED)
    said = "".join(f", {n} {verdict}" for verdict, n in left.items())
    return f"{_asked(view)} of {count(len(view.tests), 'test')} {'was' if len(view.tests) == 1 else 'were'} asked{said}"


def _group(title: str, checks: Sequence[Check]) -> Node:
    verdict = worst(c.verdict for c in checks)
    bad = [c for c in checks if c.verdict in (Verdict.WARNING, Verdict.MARGINAL, Verdict.FAIL)]
    why = [f"{text(c.name, 60)} ({c.verdict}): {text(c.detail or c.measured, 160)}" for c in bad]
    rest = [f"{text(c.name, 60)} ({c.verdict})" for c in checks if c not in bad]
    return Node(title, verdict=verdict.value, why="; ".join([*why, ", ".join(rest)]).strip("; "))


def _marginal(view: RunView, *, against: bool) -> Node:
    names = view.names("accept")
    node = Node("Is everything marginal accepted explicitly?")
    if against or not _tree_decision(view):
        node.verdict = _TAKEN_NOT if against else _OPEN
        return node
    if not names:
        node.answer, node.verdict = "nothing to accept", Verdict.NOT_APPLICABLE.value
        node.why = "No criterion was marginal."
        return node
    accepted = list(view.gate.accepted.values()) if view.gate else []
    left = [n for n in names if not accepted or any(n not in given for given in accepted)]
    node.answer, node.verdict = ("not yet", "waiting") if left or (view.gate and view.gate.missing) else ("YES", "pass")
    node.why = f"Marginal: {', '.join(text(n, 80) for n in names)}."
    return node


def _signed(view: RunView, *, against: bool) -> Node:
    node = Node("Have all who must sign said GO?")
    if against or not _tree_decision(view):
        node.verdict = _TAKEN_NOT if against else _OPEN
        return node
    gate = view.gate
    if gate is None:
        node.answer, node.verdict, node.why = "unknown", "waiting", "parameters.yaml cannot be read."
        return node
    if gate.blocked:
        node.answer, node.verdict = "NO", "fail"
    elif gate.missing:
        node.answer, node.verdict = "not yet", "waiting"
        node.why = f"Missing: {', '.join(text(r.replace('_', ' '), 60) for r in gate.missing)}."
    else:
        node.answer, node.verdict = "YES", "pass"
    node.children = list(_signatures(view))
    return node


def _signatures(view: RunView) -> Iterator[Node]:
    """Each role's answer, and what makes one void."""
    gate = view.gate
    for sign in view.signoffs:
        if sign.gate != "cutover" or sign.superseded:
            continue
        said = sign.decision.upper()
        void = gate is not None and sign.role in gate.missing
        verdict = "fail" if said == "NO-GO" else "void" if void else "pass"
        why = f"{text(sign.name, 80)}{'; does not count' if void else ''}"
        yield Node(text(sign.role.replace("_", " "), 60), text(said, 20), verdict, why)


def _end(view: RunView, title: str, step: str, *, taken: bool) -> Node:
    found = view.step(step)
    if found is not None and found.result is not None:
        drill = drilled(view) if step == Step.ROLLBACK else ""
        return Node(title, verdict=found.verdict, why=drill or f"Step {step} ran.")
    if not taken:
        return Node(title, verdict=_OPEN if view.outcome.kind not in ("go", "no-go", "rolled-back") else _TAKEN_NOT)
    if view.rehearsal and step == Step.CUTOVER:
        return Node(title, verdict="open", why="Allowed; this rehearsal ends here.")
    return Node(title, verdict="open", why="Due next.")


# -- source and target ---------------------------------------------------------------------------------------------------


def ends(view: RunView) -> list[tuple[str, str, str]]:
    """("Source", address, kind and version), and the same of the target. A directory has no version of its own: what is known is
    what wrote it, by its layout, and what reads it here."""
    seen = {"source": view.fact("source_version"), "target": view.fact("target_version")}
    own = (view.run.get("versions") or {}).get("chromadb")
    rows = []
    for side in ("source", "target"):
        section = view.parameters.get(side)
        section = section if isinstance(section, dict) else {}
        embedded = bool(section.get("path"))
        known = seen[side] or (own if embedded and side == "target" else None) or ""
        version = text(known, 20)
        kind = "directory" if embedded else "Chroma Cloud" if "trychroma" in str(section.get("url")) else "server"
        told = f"Chroma {version}" if version else "version not recorded"
        if embedded and version and side == "source" and not version.startswith("0."):
            made = text(view.fact("source_written_by") or "what wrote it is not recorded", 60)
            told = f"{'written by Chroma ' * made[:1].isdigit()}{made}; read here by {told}"
        elif embedded and version and side == "target":
            told = f"written and read here by {told}" + ", which reads the source too" * (seen["source"] == known)
        shard = (view.parameters.get("collections") or {}).get("shard") if side == "source" else None
        told += f"; only shard {text(shard, 20)} of its chunks is migrated by this run" if shard else ""
        rows.append(
            (side.capitalize(), text(section.get("path") or section.get("url") or "not named", 120), f"{kind}, {told}")
        )
    return rows


# -- outcome -----------------------------------------------------------------------------------------------------------


CLASSES = {"go": "pass", "no-go": "fail", "waiting": "marginal", "failed": "fail", "stopped": "warning", "open": "open",
           "rolled-back": "warning"}  # fmt: skip


def outcome(view: RunView) -> Outcome:
    """The state of the run. A rollback comes before everything; else its own steps say, and then the sign-offs."""
    before = _of_the_line(view)
    return _back(view, before) or before


def _back(view: RunView, before: Outcome) -> Outcome | None:
    """The banner of a run that was rolled back, or is on the way; None where none began, or a rehearsal drilled it."""
    step = view.step(Step.ROLLBACK)
    if step is None or step.result is None or not view.ran(Step.ROLLBACK) or view.rehearsal:
        return None
    was = f"Before that: {before.headline}."
    if not view.passed(Step.ROLLBACK):
        line = (step.result.error or {}).get("line") or "It has not finished; see run.log."
        return Outcome("failed", "ROLLBACK NOT FINISHED", [line, was], [f"Go on with: {RUNBOOK} rollback {view.id}"])
    return Outcome("rolled-back", "ROLLED BACK: the source is in service", [was, *before.reasons],
                   ["Read rollback.html of this folder: why, what was restored, what became of clients' writes.",
                    "Remove the cause, then begin a new run; this one does not go on."])  # fmt: skip


def _of_the_line(view: RunView) -> Outcome:
    """The first step that failed or judged against the data decides; then the sign-offs do."""
    for step in (s for s in view.steps if s.number != Step.ROLLBACK):
        if step.verdict == "unreadable":
            what = f"results/{step.number}.json cannot be read"
            again = f"Run the step again: {RUNBOOK} resume {view.id} --retry {step.number}"
            return Outcome("failed", f"FAILED: step {step.number} left no usable result", [what], [again])
        if step.result and step.result.error and step.result.error.get("code") != ReasonCode.NO_GO:
            return _broken(view, step, step.result.error)
    judged = [s for s in view.steps if s.result and s.result.verdict is Verdict.FAIL and s.number != Step.ROLLBACK]
    if _decision(view) == "NO-GO" or judged:
        return _no_go(view, judged)
    if _decision(view) == "GO":
        return _gate(view)
    left = [s for s in view.steps if s.verdict == "not run"]
    done = [s for s in view.steps if s.result]
    if not done:
        return Outcome("open", "NOT STARTED", [], [f"Start it: {RUNBOOK} resume {view.id}"])
    until = str(view.run.get("until") or (plan.LAST_OF_DRY_RUN if view.run.get("dry_run") else ""))
    if done[-1].number.startswith(until[:2]) and until:
        return Outcome(
            "open", f"PREPARED up to step {done[-1].number}{_titled(done[-1])}, as asked", [], _go_on(view, left)
        )
    if done[-1].number == Step.SCHEDULE_AND_NOTIFY:
        return Outcome("open", "PREPARED", [], _go_on(view, left))
    return Outcome("open", f"NOT FINISHED: {len(done)} of {len(view.steps)} steps done", [], _go_on(view, left))


def _titled(step: StepRow) -> str:
    return f" ({step.title})" if step.title else ""


def _decision(view: RunView) -> str:
    review = view.step(Step.REVIEW)
    if review is None or review.result is None:
        return ""
    said = str(review.result.facts.get("decision", "")).upper().replace("_", "-").replace(" ", "-")
    if said in ("GO", "NO-GO"):
        return said
    return "NO-GO" if review.result.verdict is Verdict.FAIL else "GO"


def _broken(view: RunView, step: StepRow, error: dict[str, Any]) -> Outcome:
    line = " ".join(str(error[k]) for k in ("what", "line", "message", "next_step") if error.get(k))
    if error.get("code") == ReasonCode.INTERRUPTED:
        return Outcome("stopped", f"STOPPED on request in step {step.number}{_titled(step)}", [],
                       [f"Go on: {RUNBOOK} resume {view.id}"])  # fmt: skip
    read = [f"Read {step.notebook or RunPath.LOG} of this folder, remove the cause, then: {RUNBOOK} resume {view.id}"]
    if plan.find(step.number).follows_cutover:
        read.append(f"Clients still use the target. To roll back: {RUNBOOK} rollback {view.id} --dry-run")
    return Outcome(
        "failed", f"FAILED in step {step.number}{_titled(step)}", [line or "No reason was recorded; see run.log."], read
    )


def _no_go(view: RunView, judged: list[StepRow]) -> Outcome:
    review = view.step(Step.REVIEW)
    against = review.result.facts.get("against") if review and review.result else None
    reasons = [text(line, 400) for line in against] if isinstance(against, list) else []
    reasons = reasons or [
        f"Step {step.number}: {text(check.name, 80)}: {text(check.detail or check.measured, 200)}"
        for step in judged
        for check in (step.result.checks if step.result else [])
        if check.verdict is Verdict.FAIL
    ]
    more = [f"{len(reasons) - 6} further reasons are below."] if len(reasons) > 6 else []
    first = judged[0].number if judged else Step.REVIEW
    advice = [
        "Do not cut over; the source stays in service.",
        "Read the findings below: each names its reason and the chunks. Then hold and troubleshoot (runbook, Step 6b).",
        f"Once the cause is gone: {RUNBOOK} resume {view.id} --retry {first if first < Step.SNAPSHOT else Step.MIGRATE}",
    ]
    return Outcome("no-go", "NO-GO", reasons[:6] + more, advice)


def _gate(view: RunView) -> Outcome:
    """The data say GO: now those who sign decide."""
    gate = view.gate
    if gate is None:
        why = "parameters.yaml cannot be read, so nobody can say whose approval is due."
        return Outcome("waiting", "GO by the figures; the signatures cannot be judged", [why])
    if gate.blocked:
        return Outcome("no-go", "NO-GO by signature", list(gate.blocked),
                       ["Do not cut over; clear the objection with who signed it."])  # fmt: skip
    if gate.missing:
        roles = ", ".join(role.replace("_", " ") for role in gate.missing)
        given = gate.keys.keys() - set(gate.missing)
        said = [f"Missing: {roles}.", *gate.refused.values(), *void(gate).values()]
        marginal = view.names("accept")
        if marginal:
            said.append(f"Everyone who signs must accept explicitly: {', '.join(marginal)}.")
        accept = "".join(f" --accept {shlex.quote(criterion)}" for criterion in marginal)
        sign = [
            f"{RUNBOOK} sign {view.id} --role {role} --name NAME --decision go{accept} --key FILE"
            for role in gate.missing
        ]
        return Outcome(
            "waiting",
            f"GO, waiting for signatures: {len(given)} of {len(given) + len(gate.missing)}",
            said,
            [*sign, f"{RUNBOOK} resume {view.id}"],
        )
    if view.drills:
        stands = [f"{clients(view)} {drilled(view)} {writers(view)}".strip()]
        back = " and rolled back" if view.passed(Step.ROLLBACK) and not view.put_back else ""
        headline = f"REHEARSED: {_switched(view).lower()}{back}; drilled: {', '.join(drilled_parts(view)) or 'nothing'}"
        return Outcome("go", text(headline, 160), stands, _complete(view))
    if _cut_over(view):
        moved = [f"{clients(view)} {writers(view)}".strip()]
        if view.passed(Step.CLOSEOUT):
            until = f" until {known}" if (known := possible_until(view)) else ""
            last = [f"Operations lead{_by(view)}: take the evidence along: {RUNBOOK} archive {view.id}",
                    f"Rollback is possible{until}: {RUNBOOK} rollback {view.id}"]  # fmt: skip
            unsigned = view.gates[CLOSED].missing if CLOSED in view.gates else []
            sign = [
                f"{RUNBOOK} sign {view.id} --role {role} --name NAME --decision go --gate {CLOSED} --key FILE"
                for role in unsigned
            ]
            if unsigned:
                roles = ", ".join(role.replace("_", " ") for role in unsigned)
                moved.append(f"The closeout is not signed yet by: {roles}{_by(view)}.")
            return Outcome("go", f"{_switched(view)} and closed out", moved, [*sign, *last, *due_by_warnings(view)])
        next_one = next((s for s in view.steps if s.number > Step.CUTOVER and s.verdict == "not run"), None)
        due = [f"Next: step {next_one.number} ({next_one.title}): {RUNBOOK} resume {view.id}"] if next_one else []
        back = f"Watch the application. To roll back: {RUNBOOK} rollback {view.id}"
        return Outcome("go", _switched(view), moved, [*due, back])
    signed = "GO, signed" if gate.keys else "GO; nobody has to sign"
    if view.rehearsal:
        return Outcome("go", signed, [], _complete(view))
    return Outcome("go", signed, [], ["Cut over inside the maintenance window (runbook, Step 6a)."])


def _complete(view: RunView) -> list[str]:
    """What is left to do after a rehearsal: the acts of people, which no file of the run can show."""
    asked = due_by_warnings(view)
    return [
        "The rehearsal is complete." + " People have to do the rest; no step records whether they did." * bool(asked),
        *asked,
    ]


def _cut_over(view: RunView) -> dict[str, Any]:
    step = view.step(Step.CUTOVER)
    done = step.result.facts.get("cut_over") if step is not None and step.result is not None else None
    return done if isinstance(done, dict) else {}


def clients(view: RunView) -> str:
    """Who was sent to the target: the sentence of the page, the records, notices and status."""
    if not (done := _cut_over(view)):
        return "No clients were switched: there was no cutover."
    section = view.parameters.get("cutover")
    restarts = done.get("restarts", len(section.get("restart") or []) if isinstance(section, dict) else 0)
    files = done.get("files")
    return clients_switched(text(done.get("target"), 120), len(files) if isinstance(files, list) else 0, restarts,
                            rehearsal=view.rehearsal)  # fmt: skip


def writers(view: RunView) -> str:
    """Who may write to the source since the closeout; "" where this run had no fence then, or no closeout yet."""
    found = next((c for c in view.checks(Step.CLOSEOUT) if c.name == FENCE_END), None)
    if found is None or found.verdict in (Verdict.NOT_APPLICABLE, Verdict.FAIL):
        return ""
    if found.measured != "lifted":
        return "Writes to the source are still refused: the closeout kept the write fence."
    source, target = (_place(view, side) for side in ("source", "target"))
    tried = (
        ""
        if found.verdict is Verdict.PASS
        else " Since then no write to the source was tried: the application uses the target."
    )
    return source_takes_writes(source, target) + tried


def possible_until(view: RunView) -> str:
    until = view.fact("rollback_possible_until") or view.table("snapshot").get("retain_until")
    return moment(until) if until else ""


def _by(view: RunView) -> str:
    """Until when what is due after the cutover should be done: a rollback is possible until then."""
    until = possible_until(view)
    return f", by {until}" if until else ""


def _place(view: RunView, side: str) -> str:
    section = view.parameters.get(side)
    return text((section.get("url") or section.get("path")) if isinstance(section, dict) else f"the {side}", 120)


def reached(view: RunView) -> str:
    """The last step of the sequence that this run has come to; 25 only once it is cut over. "" before the first."""
    done = [s.number for s in plan.LINE if view.ran(s.number) and (s.number != Step.CUTOVER or view.passed(s.number))]
    return max(done, default="")


_RENAMED = (
    "Collections of the source with another name in the target: {} (see “What clients ask instead”). Tell the owners of every "
    "client which to ask, and with which filter."
)


def due_by_warnings(view: RunView) -> list[str]:
    """What the run asks people for, with role and time: other names of collections, each act of a warning once; then how many
    ask for none."""
    due: dict[tuple[str, str, str], list[str]] = {}
    others = len({source for source, target in numbers.routes(view.results) if target and source != target})
    if others:
        due[*_due(view, ReasonCode.IDS_REWRITTEN), _RENAMED.format(others)] = []
    left = 0
    for found in view.findings:
        if asks(remedy := _remedy(view, found.check)):
            due.setdefault((*_due(view, found.check.reason, found.at_decision), remedy), []).append(
                f"“{text(found.check.name, 80)}”"
            )
        else:
            left += 1
    said, told = list[str](), set[str]()
    for (who, window, remedy), named in due.items():
        said.append(
            f"{who}{window if window not in told else ''}: {''.join([', '.join(named), ': '] if named else [])}{remedy}"
        )
        told.add(window)  # once is enough
    if left:
        act = f"{count(left, 'other warning' if said else 'warning')} {'asks' if left == 1 else 'ask'} for no act in this run"
        said.append(
            f"{act}: the page shows them to whoever signs; to change what one is about, correct the source and begin a new run."
        )
    return said or ["There was no warning; nothing is due."]


def _remedy(view: RunView, check: Check) -> str:
    return page_remedy(check.reason, view.id, reached(view), check.detail)


def owed(view: RunView, check: Check, *, at_decision: bool) -> str:
    """The remedy of a finding; where it asks for an act, after who does it and by when."""
    remedy = _remedy(view, check)
    return f"{''.join(_due(view, check.reason, at_decision))}: {remedy}" if asks(remedy) else remedy


def _due(view: RunView, code: str, at_decision: bool = True) -> tuple[str, str]:
    """Who does what a warning asks for, and by when: what clients must know before the cutover, all else while a rollback is
    possible. Then the window of a cutover to come."""
    role, cut = role_of(code).capitalize(), view.step(Step.CUTOVER)
    until, window = possible_until(view), numbers.window_of(view)
    if view.table("cut_over") and cut is not None and cut.result is not None:
        if code in BEFORE_USE:
            return f"{role}, was due at the cutover ({moment(cut.result.started)}), else now", ""
        late = ", was due before the cutover, else" if at_decision else ","
        if code == ReasonCode.NOBODY_NAMED:
            return f"{role}{late} now", ""
        return f"{role}{late} by {until}" if until else f"{role}{late} before the next run", ""
    when = f", in the window {window[0]:%Y-%m-%d %H:%M} to {window[1]:%Y-%m-%d %H:%M} UTC" if window else ""
    return f"{role}, before the cutover", when


def _switched(view: RunView) -> str:
    """The headline of what `clients` says."""
    if clients(view).startswith("No "):
        return "MIGRATED, no clients switched" if _cut_over(view) else "NOT CUT OVER"
    return "SAMPLE APPLICATION CUT OVER" if view.rehearsal else "CUT OVER"


def drilled_parts(view: RunView) -> list[str]:
    """What a rehearsal drilled: kill, restore, rollback; what it did not come to is not among them."""
    return [line.split()[0].removesuffix(":") for line in view.drills if "NOT EXERCISED" not in line]


def drilled(view: RunView) -> str:
    """What became of the rollback that a rehearsal drilled; "" where none went through."""
    if not view.rehearsal or not view.passed(Step.ROLLBACK):
        return ""
    if not (when := view.put_back):
        return "The rollback was a drill that was not put back: the sample application uses the source again."
    at = f" at {moment(when)}" if instant(when) else ""
    return f"The rollback was a drill and was put back{at}: the cutover remains in effect."


def _go_on(view: RunView, left: list[StepRow]) -> list[str]:
    return [f"Next: step {left[0].number} ({left[0].title}): {RUNBOOK} resume {view.id}"] if left else []
