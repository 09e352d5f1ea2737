"""Whether each step that needs approvals had them when it acted, whatever was signed, moved or said afterwards.

A step acts when the log or a seal says so. A role had approved by then where the log's newest line of it names a statement of
that role, over the seal of that time, signed by a key that the list of this seal allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import one_line
from helpers.evidence.seals import after, chain, logged
from helpers.evidence.signing import statement_of
from helpers.evidence.signoffs import BEFORE, CUTOVER, DRY_RUN, GATES, GO, Judged, names_of, problem_of, required_at
from helpers.evidence.statement import Seal, kept, signers_of, trust
from helpers.results import Verdict, contents
from helpers.run import plan
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step

_PASSED = frozenset(verdict for verdict in Verdict if verdict is not Verdict.FAIL)


@dataclass(frozen=True, slots=True)
class _Act:
    """A step acted behind so many seals, when these lines by gate and role were the newest `signed` ones.

    `parameters`: the digest of parameters.yaml that the log had named last by then, since the newest seal; "" for none.
    """

    step: str
    seals: int
    signed: dict[tuple[str, str], dict[str, Any]]
    parameters: str


def _acts(run: RunState, sealed: Sequence[Seal]) -> list[_Act]:
    """Each time that a step acted which needs approvals, as the log and the seals say, wherever its result is now.

    Step 25 acts when it begins to change files, else any step when it begins. A dry run, which touches nothing, is one whose
    result says so, too: a line alone excuses nothing.
    """
    found: list[_Act] = []
    signed: dict[tuple[str, str], dict[str, Any]] = {}
    begun: dict[str, _Act | None] = {}  # None where nothing more is to be judged
    dry, names = set[str](), set[str]()
    results = kept(run.reports, RunPath.RESULTS)

    def acted(step: str, result: str | None, act: _Act) -> None:  # None where an older toolkit's line names none
        at = begun.get(step, act)
        touched = result is not None and not _touched_nothing(results.get((f"{step}.json", result)))
        if at and (step not in dry or touched):
            found.append(at)
            begun[step] = None

    for number, entries in enumerate(logged(run.reports, len(sealed), trust(sealed))):
        written = ""
        for entry in entries:
            action, outcome, facts = entry["action"], entry.get("outcome"), entry["facts"]
            step, now = str(facts.get("step")), _Act(str(facts.get("step")), number, dict(signed), written)
            if (
                action == audit.SIGNED and str(facts.get("file")) not in names
            ):  # a second line of one counts for nothing
                names.add(str(facts.get("file")))
                signed[str(facts.get("gate")), str(facts.get("role"))] = facts
            elif action == audit.WRITTEN and facts.get("file") == RunPath.PARAMETERS:
                written = str(facts.get("sha256"))
            elif action == "cutover" and outcome == "begun":
                found.append(replace(now, step=Step.CUTOVER))
                begun[Step.CUTOVER] = None
            elif action == audit.STEP_BEGINS and step in BEFORE.values():
                begun[step] = now
                (dry.add if facts.get("dry_run") is True else dry.discard)(step)
            elif action == audit.STEP_ENDS and step in BEFORE.values() and outcome in _PASSED:
                acted(step, str(facts["result"]) if "result" in facts else None, now)
        for step in BEFORE.values() if number < len(sealed) else ():
            verdict = sealed[number].predicate["verdicts"].get(step, {})
            if (verdict.get("verdict") in _PASSED and not verdict.get("error")) or sealed[number].after == step:
                acted(step, str(verdict.get("result")), _Act(step, number, dict(signed), written))
    return found


def _touched_nothing(result: Path | None) -> bool:
    """Whether a dry run wrote this result of step 20 or 25, as it says; False where it is not here."""
    facts = statement_of(result).get("facts") if result else None
    fence = facts.get("fence") if isinstance(facts, dict) else None
    dry = fence.get("dry_run") if isinstance(fence, dict) else True
    return dry is True and isinstance(facts, dict) and "cut_over" not in facts


def unapproved(run: RunState, allowed_now: Path | None = None) -> Iterator[str]:
    """What was not approved when a step acted that needs it: by whom, in words. What was signed later does not count."""
    sealed = chain(run)
    statements = kept(run.reports, RunPath.SIGNOFFS)
    for act in _acts(run, sealed):
        gate = next(gate for gate, step in BEFORE.items() if step == act.step)
        seen = after(sealed[: act.seals], GATES[gate])
        if gate == CUTOVER and seen is not None and (decision := seen.predicate["decision"]) != "GO":
            yield f"{seen.name}: step {act.step} acted, and the decision was {one_line(str(decision), 80) or 'open'}"
        if seen is not None and (other := _other(act, seen, sealed)):
            yield f"{seen.name}: step {act.step} acted, and {other} was another than in this seal, which was to be approved"
        holders: dict[str, str] = {}
        marginal = _marginal(run, seen) if seen else []
        for role in required_at(run.parameters, gate):
            facts = act.signed.get((gate, role), {})
            name = Path(str(facts.get("file"))).name
            path = statements.get((name, str(facts.get("statement"))))
            said = statement_of(path) if path else {}
            over = about.get("sha256") if isinstance(about := said.get("seal"), dict) else ""
            if not facts:
                why = "had not signed"
            elif facts.get("decision") != GO or (said and said.get("decision") != GO):
                why = "had said NO-GO"
            elif not name.startswith(f"{gate}-{role}-2"):  # the year
                why = f"had signed nothing: {audit.NAME} names {one_line(name, 80)}"
            elif path is None:
                continue  # `lost` names it
            elif open_points := [one_line(str(m), 80) for m in marginal if m not in (said.get("accept") or [])]:
                why = f"had not accepted what was marginal: {', '.join(open_points)}"
            elif seen is None or over != seen.digest:
                why = f"had signed another seal than that after step {GATES[gate]} by then"
            else:
                wrong, signer = _judged(run, path, seen, allowed_now)
                by = names_of(signer) if signer and not run.parameters.signoff.one_key_for_roles else []
                other = next((holders[each] for each in by if each in holders), "")
                holders |= dict.fromkeys(by, role)
                if not (wrong := wrong or (other and f"its key had signed as {other}")):
                    continue
                why = f"had given an approval that counts for nothing: {wrong}"
            yield f"signoffs/{gate}-{role}: when step {act.step} acted, {role} {why}"


def _other(act: _Act, seen: Seal, sealed: Sequence[Seal]) -> str:
    """What was another when the step acted than in the seal that was to be approved: a file, or what binds the run; else "".

    Of step 25 the seal after it has the parameters and results with which it acted.
    """
    until = (GATES[DRY_RUN], GATES[CUTOVER], act.step)
    behind = next((seal for seal in sealed[act.seals :] if seal.after in until), None)
    if behind and (apart := [part for part in ("source", "target") if behind.predicate[part] != seen.predicate[part]]):
        return ", ".join(apart)
    if act.step == Step.CUTOVER and act.parameters not in ("", seen.subjects.get(RunPath.PARAMETERS)):
        return RunPath.PARAMETERS
    if behind is None or (act.step, behind.after) != (Step.CUTOVER, Step.CUTOVER):
        return ""
    steps = (step.number for step in plan.LINE if step.number <= GATES[CUTOVER])
    judged = {RunPath.PARAMETERS, *(f"results/{number}.json" for number in steps)} & seen.subjects.keys()
    return ", ".join(name for name in sorted(judged) if seen.subjects[name] != behind.subjects.get(name))


def _marginal(run: RunState, seen: Seal) -> list[Any]:
    """What must be accepted explicitly, as the result of step 24 says that this seal covers."""
    name = f"{GATES[CUTOVER]}.json"
    path = kept(run.reports, RunPath.RESULTS).get((name, seen.subjects.get(f"results/{name}", "")))
    facts = statement_of(path).get("facts") if path else None
    found = facts.get("accept") if isinstance(facts, dict) else None
    return found if isinstance(found, list) else []


def _judged(run: RunState, path: Path, sealed: Seal, allowed_now: Path | None) -> Judged:
    """As `problem_of`, wherever the statement is now: by the list of signers of its seal, and by the one outside."""
    if (listed := signers_of(run.reports, sealed)) is None:
        return "the list of signers under which it was given is not here", None
    return problem_of(run, path, contents(path), path.with_name(f"{path.name}.sig"), allowed_now, listed)
