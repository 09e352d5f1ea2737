"""The first screen of a run's page, from results and sign-offs only: its state, what to do next, its figures and warnings."""

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
from helpers.run.advice import BEFORE_USE, needs_action, page_remedy, role_of
from helpers.run.folders import RunPath
from helpers.run.plan import Step

# -- decision tree -----------------------------------------------------------------------------------------------------

# The runbook's GO/NO-GO tree (Appendix B) of this run: each question with its answer and the reason.
#
# Branches that were not taken are shown and marked, so that those who sign see what the other answer means.


# The questions of the runbook's tree, and the tests of step 23 that answer each.
_CHECKS = {
    "Metadata": ("metadata", "metadata completeness", "field types", "citation URIs", "configuration"),
    "Embeddings": ("embeddings",),
    "Queries": ("search equivalence", "neighbours judged for recall", "searches as announced", "named queries"),
    "Collections": ("counts", "distribution", "duplicates"),
}
_OPEN, _NOT_TAKEN = "not reached", "not taken"
FENCE_END = "end of the write fence"  # the check of steps 27 and 53


@dataclass(slots=True)
class DecisionNode:
    """A question or an end, and in `why` the reason.

    `verdict` is one of a check, or waiting, void, open, "not reached", "not taken".
    """

    question: str
    answer: str = ""
    verdict: str = _OPEN
    why: str = ""
    children: list[DecisionNode] = field(default_factory=list)


def decision_tree(view: RunView) -> list[DecisionNode]:
    """Return the path in order; it ends at the first question without an answer."""
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


def _validated(view: RunView) -> DecisionNode:
    step = view.step(Step.VALIDATE)
    if step is None or step.result is None or not view.tests:
        stopped = next((s for s in view.steps if s.verdict in ("failed", "unreadable", "interrupted", "fail")), None)
        reason = f"Stopped at step {stopped.number} ({stopped.title}): {stopped.verdict}." if stopped else ""
        return DecisionNode(
            "Is the validation complete?", "NO" if stopped else "not yet", "fail" if stopped else _OPEN, reason
        )
    complete = all(check.verdict is not Verdict.NOT_EXERCISED for check in view.tests)
    return DecisionNode(
        "Is the validation complete?",
        "YES" if complete else "YES, as far as it went",
        "pass",
        f"{_of_all(view)}; what each compared is in its row.",
    )


def _rate(view: RunView) -> DecisionNode:
    row = next((r for r in view.rows("matrix") if str(r.get("criterion", "")).lower() == "validation pass rate"), None)
    if row is None:
        return DecisionNode("Do at least 95 % pass validation?")
    verdict = str(row.get("verdict"))
    return DecisionNode(
        "Do at least 95 % pass validation?", "NO" if verdict == "fail" else "YES", verdict, text(row["measured"])
    )


def _all_checks(view: RunView) -> DecisionNode:
    node = DecisionNode("Do all checks pass or warn?")
    if not view.tests:
        return node
    known = {name for names in _CHECKS.values() for name in names}
    groups = {**_CHECKS, "Other": tuple(c.name for c in view.tests if c.name not in known)}
    for title, names in groups.items():
        if checks := [c for c in view.tests if c.name in names]:
            node.children.append(_group(title, checks))
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
    """Return the number of tests of step 23 that were asked, without those that do not apply."""
    return sum(c.verdict not in _UNASKED for c in view.tests)


def _of_all(view: RunView) -> str:
    """Return `11 of 12 tests were asked, 1 not exercised`: every test is in the tree, with its verdict."""
    not_asked = Counter(c.verdict for c in view.tests if c.verdict in _UNASKED)
    suffix = "".join(f", {n} {verdict}" for verdict, n in not_asked.items())
    return (
        f"{_asked(view)} of {count(len(view.tests), 'test')} {'was' if len(view.tests) == 1 else 'were'} asked{suffix}"
    )


def _group(title: str, checks: Sequence[Check]) -> DecisionNode:
    verdict = worst(c.verdict for c in checks)
    bad = [c for c in checks if c.verdict in (Verdict.WARNING, Verdict.MARGINAL, Verdict.FAIL)]
    lines = [f"{text(c.name, 60)} ({c.verdict}): {text(c.detail or c.measured, 160)}" for c in bad]
    rest = [f"{text(c.name, 60)} ({c.verdict})" for c in checks if c not in bad]
    return DecisionNode(title, verdict=verdict.value, why="; ".join([*lines, ", ".join(rest)]).strip("; "))


def _marginal(view: RunView, *, against: bool) -> DecisionNode:
    names = view.names("accept")
    node = DecisionNode("Is everything marginal accepted explicitly?")
    if against or not _tree_decision(view):
        node.verdict = _NOT_TAKEN if against else _OPEN
        return node
    if not names:
        node.answer, node.verdict = "nothing to accept", Verdict.NOT_APPLICABLE.value
        node.why = "No criterion was marginal."
        return node
    accepted = list(view.gate.accepted.values()) if view.gate else []
    unaccepted = [n for n in names if not accepted or any(n not in given for given in accepted)]
    node.answer, node.verdict = (
        ("not yet", "waiting") if unaccepted or (view.gate and view.gate.missing) else ("YES", "pass")
    )
    node.why = f"Marginal: {', '.join(text(n, 80) for n in names)}."
    return node


def _signed(view: RunView, *, against: bool) -> DecisionNode:
    node = DecisionNode("Have all who must sign said GO?")
    if against or not _tree_decision(view):
        node.verdict = _NOT_TAKEN if against else _OPEN
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


def _signatures(view: RunView) -> Iterator[DecisionNode]:
    """Yield each role's answer, void ones marked."""
    gate = view.gate
    for sign in view.signoffs:
        if sign.gate != "cutover" or sign.superseded:
            continue
        decision = sign.decision.upper()
        is_void = gate is not None and sign.role in gate.missing
        verdict = "fail" if decision == "NO-GO" else "void" if is_void else "pass"
        reason = f"{text(sign.name, 80)}{'; does not count' if is_void else ''}"
        yield DecisionNode(text(sign.role.replace("_", " "), 60), text(decision, 20), verdict, reason)


def _end(view: RunView, title: str, step: str, *, taken: bool) -> DecisionNode:
    row = view.step(step)
    if row is not None and row.result is not None:
        drill = drilled(view) if step == Step.ROLLBACK else ""
        return DecisionNode(title, verdict=row.verdict, why=drill or f"Step {step} ran.")
    if not taken:
        return DecisionNode(
            title, verdict=_OPEN if view.outcome.kind not in ("go", "no-go", "rolled-back") else _NOT_TAKEN
        )
    if view.rehearsal and step == Step.CUTOVER:
        return DecisionNode(title, verdict="open", why="Allowed; this rehearsal ends here.")
    return DecisionNode(title, verdict="open", why="Due next.")


# -- source and target ---------------------------------------------------------------------------------------------------


def ends(view: RunView) -> list[tuple[str, str, str]]:
    """Return ("Source", address, kind and version), and the same of the target. A directory has no version: its row names what
    wrote it, by its layout, and what reads it here."""
    versions = {"source": view.fact("source_version"), "target": view.fact("target_version")}
    installed = (view.run.get("versions") or {}).get("chromadb")
    rows = []
    for side in ("source", "target"):
        section = view.parameters.get(side)
        section = section if isinstance(section, dict) else {}
        embedded = bool(section.get("path"))
        known = versions[side] or (installed if embedded and side == "target" else None) or ""
        version = text(known, 20)
        kind = "directory" if embedded else "Chroma Cloud" if "trychroma" in str(section.get("url")) else "server"
        note = f"Chroma {version}" if version else "version not recorded"
        if embedded and version and side == "source" and not version.startswith("0."):
            writer = text(view.fact("source_written_by") or "what wrote it is not recorded", 60)
            note = f"{'written by Chroma ' * writer[:1].isdigit()}{writer}; read here by {note}"
        elif embedded and version and side == "target":
            note = f"written and read here by {note}" + ", which reads the source too" * (versions["source"] == known)
        shard = (view.parameters.get("collections") or {}).get("shard") if side == "source" else None
        note += f"; only shard {text(shard, 20)} of its chunks is migrated by this run" if shard else ""
        rows.append(
            (side.capitalize(), text(section.get("path") or section.get("url") or "not named", 120), f"{kind}, {note}")
        )
    return rows


# -- outcome -----------------------------------------------------------------------------------------------------------


CLASSES = {"go": "pass", "no-go": "fail", "waiting": "marginal", "failed": "fail", "stopped": "warning", "open": "open",
           "rolled-back": "warning"}  # fmt: skip


def outcome(view: RunView) -> Outcome:
    """Return the state of the run: that of a rollback first, then of its steps, then of the sign-offs."""
    before = _of_the_line(view)
    return _back(view, before) or before


def _back(view: RunView, before: Outcome) -> Outcome | None:
    """Return the banner of a run with a rollback, finished or not; None without one, or where a rehearsal drilled it."""
    step = view.step(Step.ROLLBACK)
    if step is None or step.result is None or not view.ran(Step.ROLLBACK) or view.rehearsal:
        return None
    previous = f"Before that: {before.headline}."
    if not view.passed(Step.ROLLBACK):
        line = (step.result.error or {}).get("line") or "It has not finished; see run.log."
        return Outcome(
            "failed", "ROLLBACK NOT FINISHED", [line, previous], [f"Go on with: {RUNBOOK} rollback {view.id}"]
        )
    return Outcome("rolled-back", "ROLLED BACK: the source is in service", [previous, *before.reasons],
                   ["Read rollback.html of this folder: why, what was restored, what became of clients' writes.",
                    "Remove the cause, then begin a new run; this one does not go on."])  # fmt: skip


def _of_the_line(view: RunView) -> Outcome:
    """Return the state by the first step that failed or judged against the data; without one, by the sign-offs."""
    for step in (s for s in view.steps if s.number != Step.ROLLBACK):
        if step.verdict == "unreadable":
            problem = f"results/{step.number}.json cannot be read"
            command = f"Run the step again: {RUNBOOK} resume {view.id} --retry {step.number}"
            return Outcome("failed", f"FAILED: step {step.number} left no usable result", [problem], [command])
        if step.result and step.result.error and step.result.error.get("code") != ReasonCode.NO_GO:
            return _broken(view, step, step.result.error)
    judged = [s for s in view.steps if s.result and s.result.verdict is Verdict.FAIL and s.number != Step.ROLLBACK]
    if _decision(view) == "NO-GO" or judged:
        return _no_go(view, judged)
    if _decision(view) == "GO":
        return _gate(view)
    not_run = [s for s in view.steps if s.verdict == "not run"]
    done = [s for s in view.steps if s.result]
    if not done:
        return Outcome("open", "NOT STARTED", [], [f"Start it: {RUNBOOK} resume {view.id}"])
    until = str(view.run.get("until") or (plan.LAST_OF_DRY_RUN if view.run.get("dry_run") else ""))
    if done[-1].number.startswith(until[:2]) and until:
        return Outcome(
            "open", f"PREPARED up to step {done[-1].number}{_titled(done[-1])}, as asked", [], _go_on(view, not_run)
        )
    if done[-1].number == Step.SCHEDULE_AND_NOTIFY:
        return Outcome("open", "PREPARED", [], _go_on(view, not_run))
    return Outcome("open", f"NOT FINISHED: {len(done)} of {len(view.steps)} steps done", [], _go_on(view, not_run))


def _titled(step: StepRow) -> str:
    return f" ({step.title})" if step.title else ""


def _decision(view: RunView) -> str:
    review = view.step(Step.REVIEW)
    if review is None or review.result is None:
        return ""
    decision = str(review.result.facts.get("decision", "")).upper().replace("_", "-").replace(" ", "-")
    if decision in ("GO", "NO-GO"):
        return decision
    return "NO-GO" if review.result.verdict is Verdict.FAIL else "GO"


def _broken(view: RunView, step: StepRow, error: dict[str, Any]) -> Outcome:
    line = " ".join(str(error[k]) for k in ("what", "line", "message", "next_step") if error.get(k))
    if error.get("code") == ReasonCode.INTERRUPTED:
        return Outcome("stopped", f"STOPPED on request in step {step.number}{_titled(step)}", [],
                       [f"Go on: {RUNBOOK} resume {view.id}"])  # fmt: skip
    advice = [f"Read {step.notebook or RunPath.LOG} of this folder, remove the cause, then: {RUNBOOK} resume {view.id}"]
    if plan.find(step.number).follows_cutover:
        advice.append(f"Clients still use the target. To roll back: {RUNBOOK} rollback {view.id} --dry-run")
    return Outcome(
        "failed",
        f"FAILED in step {step.number}{_titled(step)}",
        [line or "No reason was recorded; see run.log."],
        advice,
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
    """Return the state by the sign-offs, once the figures mean GO."""
    gate = view.gate
    if gate is None:
        reason = "parameters.yaml cannot be read, so nobody can say whose approval is due."
        return Outcome("waiting", "GO by the figures; the signatures cannot be judged", [reason])
    if gate.blocked:
        return Outcome("no-go", "NO-GO by signature", list(gate.blocked),
                       ["Do not cut over; clear the objection with who signed it."])  # fmt: skip
    if gate.missing:
        roles = ", ".join(role.replace("_", " ") for role in gate.missing)
        signers = gate.keys.keys() - set(gate.missing)
        lines = [f"Missing: {roles}.", *gate.refused.values(), *void(gate).values()]
        marginal = view.names("accept")
        if marginal:
            lines.append(f"Everyone who signs must accept explicitly: {', '.join(marginal)}.")
        accept = "".join(f" --accept {shlex.quote(criterion)}" for criterion in marginal)
        sign = [
            f"{RUNBOOK} sign {view.id} --role {role} --name NAME --decision go{accept} --key FILE"
            for role in gate.missing
        ]
        return Outcome(
            "waiting",
            f"GO, waiting for signatures: {len(signers)} of {len(signers) + len(gate.missing)}",
            lines,
            [*sign, f"{RUNBOOK} resume {view.id}"],
        )
    if view.drills:
        lines = [f"{clients(view)} {drilled(view)} {writers(view)}".strip()]
        rollback_note = " and rolled back" if view.passed(Step.ROLLBACK) and not view.put_back else ""
        headline = f"REHEARSED: {_switched(view).lower()}{rollback_note}; drilled: {', '.join(drilled_parts(view)) or 'nothing'}"
        return Outcome("go", text(headline, 160), lines, _complete(view))
    if _cut_over(view):
        lines = [f"{clients(view)} {writers(view)}".strip()]
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
                lines.append(f"The closeout is not signed yet by: {roles}{_by(view)}.")
            return Outcome("go", f"{_switched(view)} and closed out", lines, [*sign, *last, *due_by_warnings(view)])
        next_one = next((s for s in view.steps if s.number > Step.CUTOVER and s.verdict == "not run"), None)
        due = [f"Next: step {next_one.number} ({next_one.title}): {RUNBOOK} resume {view.id}"] if next_one else []
        rollback_note = f"Watch the application. To roll back: {RUNBOOK} rollback {view.id}"
        return Outcome("go", _switched(view), lines, [*due, rollback_note])
    signed = "GO, signed" if gate.keys else "GO; nobody has to sign"
    if view.rehearsal:
        return Outcome("go", signed, [], _complete(view))
    return Outcome("go", signed, [], ["Cut over inside the maintenance window (runbook, Step 6a)."])


def _complete(view: RunView) -> list[str]:
    """Return what people have to do after a rehearsal; no file of the run can show it."""
    tasks = due_by_warnings(view)
    return [
        "The rehearsal is complete." + " People have to do the rest; no step records whether they did." * bool(tasks),
        *tasks,
    ]


def _cut_over(view: RunView) -> dict[str, Any]:
    step = view.step(Step.CUTOVER)
    facts = step.result.facts.get("cut_over") if step is not None and step.result is not None else None
    return facts if isinstance(facts, dict) else {}


def clients(view: RunView) -> str:
    """Return which clients were switched to the target: the sentence of the page, the records, notices and status."""
    if not (cut_over := _cut_over(view)):
        return "No clients were switched: there was no cutover."
    section = view.parameters.get("cutover")
    restarts = cut_over.get("restarts", len(section.get("restart") or []) if isinstance(section, dict) else 0)
    files = cut_over.get("files")
    return clients_switched(text(cut_over.get("target"), 120), len(files) if isinstance(files, list) else 0, restarts,
                            rehearsal=view.rehearsal)  # fmt: skip


def writers(view: RunView) -> str:
    """Return who may write to the source since the closeout; "" where this run had no fence then, or no closeout yet."""
    check = next((c for c in view.checks(Step.CLOSEOUT) if c.name == FENCE_END), None)
    if check is None or check.verdict in (Verdict.NOT_APPLICABLE, Verdict.FAIL):
        return ""
    if check.measured != "lifted":
        return "Writes to the source are still refused: the closeout kept the write fence."
    source, target = (_place(view, side) for side in ("source", "target"))
    untried = (
        ""
        if check.verdict is Verdict.PASS
        else " Since then no write to the source was tried: the application uses the target."
    )
    return source_takes_writes(source, target) + untried


def possible_until(view: RunView) -> str:
    until = view.fact("rollback_possible_until") or view.table("snapshot").get("retain_until")
    return moment(until) if until else ""


def _by(view: RunView) -> str:
    """Return `, by <time>`: tasks after the cutover are due while a rollback is possible. "" where the time is unknown."""
    until = possible_until(view)
    return f", by {until}" if until else ""


def _place(view: RunView, side: str) -> str:
    section = view.parameters.get(side)
    return text((section.get("url") or section.get("path")) if isinstance(section, dict) else f"the {side}", 120)


def reached(view: RunView) -> str:
    """Return the last step that has run; 25 only once it is cut over. "" before the first."""
    done = [s.number for s in plan.LINE if view.ran(s.number) and (s.number != Step.CUTOVER or view.passed(s.number))]
    return max(done, default="")


_RENAMED = (
    "Collections of the source with another name in the target: {} (see “What clients ask instead”). Tell the owners of every "
    "client which to ask, and with which filter."
)


def due_by_warnings(view: RunView) -> list[str]:
    """Return the tasks of people, with role and time: renamed collections, each task of a warning once; then the number of
    warnings without a task."""
    due: dict[tuple[str, str, str], list[str]] = {}
    others = len({source for source, target in numbers.routes(view.results) if target and source != target})
    if others:
        due[*_due(view, ReasonCode.IDS_REWRITTEN), _RENAMED.format(others)] = []
    rest = 0
    for found in view.findings:
        if needs_action(remedy := _remedy(view, found.check)):
            due.setdefault((*_due(view, found.check.reason, found.at_decision), remedy), []).append(
                f"“{text(found.check.name, 80)}”"
            )
        else:
            rest += 1
    lines, windows = list[str](), set[str]()
    for (who, window, remedy), names in due.items():
        lines.append(
            f"{who}{window if window not in windows else ''}: {''.join([', '.join(names), ': '] if names else [])}{remedy}"
        )
        windows.add(window)
    if rest:
        kind = "other warning" if lines else "warning"
        lines.append(
            f"{count(rest, kind)} {'asks' if rest == 1 else 'ask'} for no act in this run: the page shows them to whoever signs; "
            "to change what one is about, correct the source and begin a new run."
        )
    return lines or ["There was no warning; nothing is due."]


def _remedy(view: RunView, check: Check) -> str:
    return page_remedy(check.reason, view.id, reached(view), check.detail)


def owed(view: RunView, check: Check, *, at_decision: bool) -> str:
    """Return the remedy of a finding; where it asks for an act, preceded by the role and the time."""
    remedy = _remedy(view, check)
    return f"{''.join(_due(view, check.reason, at_decision))}: {remedy}" if needs_action(remedy) else remedy


def _due(view: RunView, code: str, at_decision: bool = True) -> tuple[str, str]:
    """Return (role and time of a warning's act, window of the coming cutover or ""). What clients must know is due before the
    cutover, all else while a rollback is possible."""
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
    """Return the headline of `clients`."""
    if clients(view).startswith("No "):
        return "MIGRATED, no clients switched" if _cut_over(view) else "NOT CUT OVER"
    return "SAMPLE APPLICATION CUT OVER" if view.rehearsal else "CUT OVER"


def drilled_parts(view: RunView) -> list[str]:
    """Return what a rehearsal drilled: kill, restore, rollback; without what was not exercised."""
    return [line.split()[0].removesuffix(":") for line in view.drills if "NOT EXERCISED" not in line]


def drilled(view: RunView) -> str:
    """Return the result of the rollback that a rehearsal drilled; "" where none succeeded."""
    if not view.rehearsal or not view.passed(Step.ROLLBACK):
        return ""
    if not (when := view.put_back):
        return "The rollback was a drill that was not put back: the sample application uses the source again."
    at = f" at {moment(when)}" if instant(when) else ""
    return f"The rollback was a drill and was put back{at}: the cutover remains in effect."


def _go_on(view: RunView, not_run: list[StepRow]) -> list[str]:
    return [f"Next: step {not_run[0].number} ({not_run[0].title}): {RUNBOOK} resume {view.id}"] if not_run else []
