"""Whether each step that needs approvals had them when it acted, independent of later signatures, moves and lines.

The log and the seals tell when a step acted. A role had approved if its newest line in the log by then names a statement of
that role over the seal of that time, signed by a key that the list in this seal allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import one_line
from helpers.evidence.seals import after, chain, entries_by_seal
from helpers.evidence.signing import statement_of
from helpers.evidence.signoffs import (
    BEFORE,
    CLOCKS_DIFFER,
    CUTOVER,
    GATES,
    GO,
    Judged,
    names_of,
    problem_of,
    required_at,
)
from helpers.evidence.statement import REFUSED, SIGNATURE, Seal, kept_copies, reviewed, signers_of, trust
from helpers.results import Verdict, contents
from helpers.run import plan
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step

_PASSED = frozenset(verdict for verdict in Verdict if verdict is not Verdict.FAIL)


_Signed = dict[tuple[str, str], list[dict[str, Any]]]  # the `signed` lines by (gate, role), newest last


@dataclass(frozen=True, slots=True)
class _Act:
    """An act of a step: `when`, by its line or seal; `seals`: the number of earlier seals; the `signed` lines by then;
    `parameters`: the digest of parameters.yaml then."""

    step: str
    when: str
    seals: int
    signed: _Signed
    parameters: str


class _Acts:
    """All `acts` of the steps that need approvals, by the log and the seals, wherever their results are now.

    Both steps act when they begin, and step 25 also when it changes files, unless they end at a closed gate. A result that
    appears for the first time in the log or a seal proves an act at the begin of the step, and, if it passed, at its end. A
    dry run, which changes nothing, only counts as one if its result says so, not by a line alone.
    """

    def __init__(self, run: RunState, sealed: Sequence[Seal]) -> None:
        self.acts: list[_Act] = []
        self.results = kept_copies(run.reports, RunPath.RESULTS)
        self._signed: _Signed = {}
        self._names, self._dry, self._judged = set[str](), set[str](), set[tuple[str, str]]()
        self._begun, self._when = dict[str, _Act](), ""
        for number, entries in enumerate(entries_by_seal(run.reports, sealed, trust(sealed))):
            self._seals, self._changing = number, False
            self._parameters = sealed[number - 1].subjects.get(RunPath.PARAMETERS, "") if number else ""
            for entry in entries:
                self._when = str(entry.get("when"))
                self._read_line(entry["action"], entry.get("outcome"), entry["facts"])
            self._when = sealed[number].created if number < len(sealed) else self._when
            for step in BEFORE.values() if number < len(sealed) else ():
                verdict = sealed[number].predicate["verdicts"].get(step, {})
                if (verdict and verdict.get("error") not in REFUSED) or sealed[number].after == step:
                    self._end_step(step, str(verdict.get("result")), not verdict.get("error"))
        self.acts += [begun for step, begun in self._begun.items() if step not in self._dry]

    def _act_now(self, step: str) -> _Act:
        return _Act(
            step, self._when, self._seals, {key: [*lines] for key, lines in self._signed.items()}, self._parameters
        )

    def _read_line(self, action: str, outcome: str | None, facts: Mapping[str, Any]) -> None:
        step, name = str(facts.get("step")), Path(str(facts.get("file"))).name
        if action == audit.SIGNED and (match := SIGNATURE.fullmatch(name)) and name not in self._names:
            self._names.add(name)  # further lines of a statement do not count
            self._signed.setdefault((match["gate"], match["role"]), []).append(dict(facts))
        elif action == audit.WRITTEN and facts.get("file") == RunPath.PARAMETERS:
            self._parameters = str(facts.get("sha256"))
        elif action == "cutover" and (outcome == "begun" or not self._changing):
            self._changing = True
            self.acts.append(self._act_now(Step.CUTOVER))
        elif action == audit.STEP_BEGINS and step in BEFORE.values():
            self._begun[step], self._changing = self._act_now(step), False
            (self._dry.add if facts.get("dry_run") is True else self._dry.discard)(step)
        elif action == audit.STEP_ENDS and step in BEFORE.values() and outcome in REFUSED:
            self._begun.pop(step, None)
        elif action == audit.STEP_ENDS and step in BEFORE.values():
            self._end_step(step, str(facts["result"]) if "result" in facts else None, outcome in _PASSED)

    def _end_step(self, step: str, result: str | None, passed: bool) -> None:
        """`result`: its digest; None for a line of an older toolkit or of a killed step."""
        begin = self._begun.pop(step, None)
        is_dry = step in self._dry and (result is None or _touched_nothing(self.results.get((f"{step}.json", result))))
        if not is_dry and (step, str(result)) not in self._judged:
            self.acts += [*([begin] if begin else []), *([self._act_now(step)] if passed or not begin else [])]
        if result is not None:
            self._judged.add((step, result))


def _touched_nothing(result: Path | None) -> bool:
    """Whether this result of step 20 or 25 says that it is of a dry run; False if it is missing."""
    facts = statement_of(result).get("facts") if result else None
    fence = facts.get("fence") if isinstance(facts, dict) else None
    is_dry = fence.get("dry_run") if isinstance(fence, dict) else True
    return is_dry is True and isinstance(facts, dict) and "cut_over" not in facts


def acted_steps(run: RunState) -> frozenset[str]:
    """The steps that need approvals and have acted at any time."""
    return frozenset(act.step for act in _Acts(run, chain(run)).acts)


def unapproved(run: RunState, allowed_now: Path | None = None) -> Iterator[str]:
    """Yield, in words, each approval that was missing when a step acted. Later signatures do not count."""
    sealed = chain(run)
    statements = kept_copies(run.reports, RunPath.SIGNOFFS)
    for entry in audit.entries(run.reports / audit.NAME, trust(sealed), (audit.SIGNED,)):
        facts = entry["facts"]
        match = SIGNATURE.fullmatch(str(facts.get("file")).removeprefix(f"{RunPath.SIGNOFFS}/"))
        if match is None or (match["gate"], match["role"]) != (facts.get("gate"), facts.get("role")):
            who, file = (one_line(str(facts.get(key)), 80) for key in ("role", "file"))
            yield f"{audit.NAME}: a line that {who} signed names {file}"
    history = _Acts(run, sealed)
    holders: dict[str, str] = {}  # the role of each key and principal that approved at any gate
    for act in history.acts:
        gate = next(gate for gate, step in BEFORE.items() if step == act.step)
        seal = after(sealed[: act.seals], GATES[gate])
        if gate == CUTOVER and seal is not None and (decision := seal.predicate["decision"]) != "GO":
            yield f"{seal.name}: step {act.step} acted, and the decision was {one_line(str(decision), 80) or 'open'}"
        if seal is not None and (difference := _difference(act, seal, sealed)):
            yield f"{seal.name}: step {act.step} acted, and {difference} was another than in this seal, which was to be approved"
        accept = (reviewed(run.reports, seal) or {}).get("accept") if seal else None
        marginal = accept if isinstance(accept, list) else []
        for role in required_at(run.parameters, gate):
            lines = act.signed.get((gate, role), [])
            problem, signer = _problem_then(run, lines, statements, seal, marginal, allowed_now, act.when)
            names = names_of(signer) if signer and not run.parameters.signoff.one_key_for_roles else []
            other_role = next((holders[name] for name in names if holders.get(name, role) != role), "")
            if other_role and not problem:
                problem = f"had given an approval that counts for nothing: its key had signed as {other_role}"
            holders = dict.fromkeys(names, role) | holders
            if problem:
                yield f"signoffs/{gate}-{role}: when step {act.step} acted, {role} {problem}"


def _problem_then(
    run: RunState, lines: Sequence[Mapping[str, Any]], statements: Mapping[tuple[str, str], Path], seal: Seal | None,
    marginal: Sequence[Any], allowed_now: Path | None, acted: str,
) -> Judged:  # fmt: skip
    """Judge a role's lines when the step acted: (why it had not approved what `seal` covers, None), or ("", the signer)."""
    if not lines:
        return "had not signed", None
    statement: dict[str, Any] = {}
    names = [Path(str(facts.get("file"))).name for facts in lines]
    paths = [statements.get((name, str(facts.get("statement")))) for name, facts in zip(names, lines, strict=True)]
    for name, facts, path in zip(names, lines, paths, strict=True):
        statement = statement_of(path) if path else {}
        # a NO-GO with a later time counts, even if another statement was recorded last
        if name >= names[-1] and (facts.get("decision") != GO or (statement and statement.get("decision") != GO)):
            return "had said NO-GO", None
    seal_digest = seal_field.get("sha256") if isinstance(seal_field := statement.get("seal"), dict) else ""
    if (path := paths[-1]) is None:
        return f"had signed {one_line(names[-1], 80)}, which is not here", None
    if seal is None or seal_digest != seal.digest:
        match = SIGNATURE.fullmatch(names[-1])
        return f"had signed another seal than that after step {GATES[match['gate']] if match else ''} by then", None
    if (later := _later(statement, acted)) is not None:  # by the signed statement, not by the log
        return f"had signed nothing: the statement says that it was given at {later:%Y-%m-%d %H:%M:%S} UTC, later", None
    if open_points := [one_line(str(m), 80) for m in marginal if m not in (statement.get("accept") or [])]:
        return f"had not accepted what was marginal: {', '.join(open_points)}", None
    if (allowed := signers_of(run.reports, seal)) is None:
        problem, signer = "the list of signers under which it was given is not here", None
    else:
        signature = path.with_name(f"{path.name}.sig")
        problem, signer = problem_of(run, path, contents(path), signature, allowed_now, allowed)
    return (f"had given an approval that counts for nothing: {problem}" if problem else ""), signer


def _later(statement: Mapping[str, Any], acted: str) -> datetime | None:
    """The time in a statement if it is later than the act (with a tolerance for clocks); else None."""
    try:
        given, acted_at = (datetime.fromisoformat(text) for text in (str(statement.get("when")), acted))
        return given if given - CLOCKS_DIFFER > acted_at else None
    except (ValueError, TypeError, OverflowError):  # an invalid time is reported elsewhere
        return None


def _difference(act: _Act, approved: Seal, sealed: Sequence[Seal]) -> str:
    """What differed at the act from the seal to be approved: names of files, "source", "target"; "" for nothing.

    Compares all seals between the two, and for step 25 also the next one, which has the parameters and results of the act.
    """
    next_seal = next((seal for seal in sealed[act.seals :] if seal.after in (*BEFORE.values(), *GATES.values())), None)
    seals = [*sealed[approved.number : act.seals], *([next_seal] if next_seal and next_seal.after == act.step else [])]
    steps = (step.number for step in plan.LINE if step.number <= GATES[CUTOVER])
    names = {RunPath.PARAMETERS, *(f"results/{number}.json" for number in steps)} & approved.subjects.keys()
    for seal in seals:
        different = [part for part in ("source", "target") if seal.predicate[part] != approved.predicate[part]]
        if act.step == Step.CUTOVER:
            different += [name for name in sorted(names) if approved.subjects[name] != seal.subjects.get(name)]
        if different:
            return ", ".join(different)
    same = act.parameters in ("", approved.subjects.get(RunPath.PARAMETERS))
    return "" if same or act.step != Step.CUTOVER else RunPath.PARAMETERS
