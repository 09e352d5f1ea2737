"""Whether each step that needs approvals had them when it acted, whatever was signed, moved or said afterwards.

A step acts when the log or a seal says so. A role had approved by then where the log's newest line of it names a statement of
that role, over the seal of that time, signed by a key that the list of this seal allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import one_line
from helpers.evidence.seals import after, chain, logged
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
from helpers.evidence.statement import REFUSED, SIGNATURE, Seal, kept, reviewed, signers_of, trust
from helpers.results import Verdict, contents
from helpers.run import plan
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step

_PASSED = frozenset(verdict for verdict in Verdict if verdict is not Verdict.FAIL)


_Signed = dict[tuple[str, str], list[dict[str, Any]]]  # the `signed` lines by gate and role, the newest last


@dataclass(frozen=True, slots=True)
class _Act:
    """A step acted behind so many seals, when these were the `signed` lines. `parameters`: the digest of parameters.yaml then;
    `when`: the time, as the line or the seal says that has it."""

    step: str
    when: str
    seals: int
    signed: _Signed
    parameters: str


class _Acts:
    """Each time that a step acted which needs approvals, as the log and the seals say, wherever its result is now.

    Both steps act when they begin, and step 25 when it changes files, too, unless a shut gate was the end. A result that the log
    or a seal has for the first time is of an act: as it was when the step began, and where it passed as it was then. A dry run,
    which touches nothing, is one whose result says so: a line alone excuses nothing.
    """

    def __init__(self, run: RunState, sealed: Sequence[Seal]) -> None:
        self.found: list[_Act] = []
        self.results = kept(run.reports, RunPath.RESULTS)
        self._signed: _Signed = {}
        self._names, self._dry, self._judged = set[str](), set[str](), set[tuple[str, str]]()
        self._begun, self._when = dict[str, _Act](), ""
        for number, entries in enumerate(logged(run.reports, sealed, trust(sealed))):
            self._seals, self._changing = number, False
            self._parameters = sealed[number - 1].subjects.get(RunPath.PARAMETERS, "") if number else ""
            for entry in entries:
                self._when = str(entry.get("when"))
                self._line(entry["action"], entry.get("outcome"), entry["facts"])
            self._when = sealed[number].created if number < len(sealed) else self._when
            for step in BEFORE.values() if number < len(sealed) else ():
                verdict = sealed[number].predicate["verdicts"].get(step, {})
                if (verdict and verdict.get("error") not in REFUSED) or sealed[number].after == step:
                    self._ended(step, str(verdict.get("result")), not verdict.get("error"))
        self.found += [begun for step, begun in self._begun.items() if step not in self._dry]

    def _now(self, step: str) -> _Act:
        return _Act(
            step, self._when, self._seals, {key: [*lines] for key, lines in self._signed.items()}, self._parameters
        )

    def _line(self, action: str, outcome: str | None, facts: Mapping[str, Any]) -> None:
        step, name = str(facts.get("step")), Path(str(facts.get("file"))).name
        if action == audit.SIGNED and (match := SIGNATURE.fullmatch(name)) and name not in self._names:
            self._names.add(name)  # a second line of one statement counts for nothing
            self._signed.setdefault((match["gate"], match["role"]), []).append(dict(facts))
        elif action == audit.WRITTEN and facts.get("file") == RunPath.PARAMETERS:
            self._parameters = str(facts.get("sha256"))
        elif action == "cutover" and (outcome == "begun" or not self._changing):
            self._changing = True
            self.found.append(self._now(Step.CUTOVER))
        elif action == audit.STEP_BEGINS and step in BEFORE.values():
            self._begun[step], self._changing = self._now(step), False
            (self._dry.add if facts.get("dry_run") is True else self._dry.discard)(step)
        elif action == audit.STEP_ENDS and step in BEFORE.values() and outcome in REFUSED:
            self._begun.pop(step, None)
        elif action == audit.STEP_ENDS and step in BEFORE.values():
            self._ended(step, str(facts["result"]) if "result" in facts else None, outcome in _PASSED)

    def _ended(self, step: str, result: str | None, passed: bool) -> None:
        """`result`: its digest; None where the line of an older toolkit, or of a step that was killed, names none."""
        begun = self._begun.pop(step, None)
        dry = step in self._dry and (result is None or _touched_nothing(self.results.get((f"{step}.json", result))))
        if not dry and (step, str(result)) not in self._judged:
            self.found += [*([begun] if begun else []), *([self._now(step)] if passed or not begun else [])]
        if result is not None:
            self._judged.add((step, result))


def _touched_nothing(result: Path | None) -> bool:
    """Whether a dry run wrote this result of step 20 or 25, as it says; False where it is not here."""
    facts = statement_of(result).get("facts") if result else None
    fence = facts.get("fence") if isinstance(facts, dict) else None
    dry = fence.get("dry_run") if isinstance(fence, dict) else True
    return dry is True and isinstance(facts, dict) and "cut_over" not in facts


def acted(run: RunState) -> frozenset[str]:
    """The steps that need approvals and have acted, at any time, by all that says so."""
    return frozenset(act.step for act in _Acts(run, chain(run)).found)


def unapproved(run: RunState, allowed_now: Path | None = None) -> Iterator[str]:
    """What was not approved when a step acted that needs it: by whom, in words. What was signed later does not count."""
    sealed = chain(run)
    statements = kept(run.reports, RunPath.SIGNOFFS)
    for entry in audit.entries(run.reports / audit.NAME, trust(sealed), (audit.SIGNED,)):
        facts = entry["facts"]
        match = SIGNATURE.fullmatch(str(facts.get("file")).removeprefix(f"{RunPath.SIGNOFFS}/"))
        if match is None or (match["gate"], match["role"]) != (facts.get("gate"), facts.get("role")):
            who, what = (one_line(str(facts.get(key)), 80) for key in ("role", "file"))
            yield f"{audit.NAME}: a line that {who} signed names {what}"
    acts = _Acts(run, sealed)
    holders: dict[str, str] = {}  # the role by each key and principal that approved, at whichever gate
    for act in acts.found:
        gate = next(gate for gate, step in BEFORE.items() if step == act.step)
        seen = after(sealed[: act.seals], GATES[gate])
        if gate == CUTOVER and seen is not None and (decision := seen.predicate["decision"]) != "GO":
            yield f"{seen.name}: step {act.step} acted, and the decision was {one_line(str(decision), 80) or 'open'}"
        if seen is not None and (other := _other(act, seen, sealed)):
            yield f"{seen.name}: step {act.step} acted, and {other} was another than in this seal, which was to be approved"
        accept = (reviewed(run.reports, seen) or {}).get("accept") if seen else None
        marginal = accept if isinstance(accept, list) else []
        for role in required_at(run.parameters, gate):
            lines = act.signed.get((gate, role), [])
            why, signer = _why_not(run, lines, statements, seen, marginal, allowed_now, act.when)
            by = names_of(signer) if signer and not run.parameters.signoff.one_key_for_roles else []
            if not why and (other := next((holders[each] for each in by if holders.get(each, role) != role), "")):
                why = f"had given an approval that counts for nothing: its key had signed as {other}"
            holders = dict.fromkeys(by, role) | holders
            if why:
                yield f"signoffs/{gate}-{role}: when step {act.step} acted, {role} {why}"


def _why_not(
    run: RunState, lines: Sequence[Mapping[str, Any]], statements: Mapping[tuple[str, str], Path], seen: Seal | None,
    marginal: Sequence[Any], allowed_now: Path | None, acted: str,
) -> Judged:  # fmt: skip
    """Why a role with these lines had not approved what `seen` sealed when the step acted, or ("", who signed)."""
    if not lines:
        return "had not signed", None
    said: dict[str, Any] = {}
    names = [Path(str(facts.get("file"))).name for facts in lines]
    paths = [statements.get((name, str(facts.get("statement")))) for name, facts in zip(names, lines, strict=True)]
    for name, facts, path in zip(names, lines, paths, strict=True):
        said = statement_of(path) if path else {}
        # one that was given later counts, though another was recorded last
        if name >= names[-1] and (facts.get("decision") != GO or (said and said.get("decision") != GO)):
            return "had said NO-GO", None
    over = about.get("sha256") if isinstance(about := said.get("seal"), dict) else ""
    if (path := paths[-1]) is None:
        return f"had signed {one_line(names[-1], 80)}, which is not here", None
    if seen is None or over != seen.digest:
        match = SIGNATURE.fullmatch(names[-1])
        return f"had signed another seal than that after step {GATES[match['gate']] if match else ''} by then", None
    if (later := _later(said, acted)) is not None:  # the signer's own word, against that of who wrote the log
        return f"had signed nothing: the statement says that it was given at {later:%Y-%m-%d %H:%M:%S} UTC, later", None
    if open_points := [one_line(str(m), 80) for m in marginal if m not in (said.get("accept") or [])]:
        return f"had not accepted what was marginal: {', '.join(open_points)}", None
    if (listed := signers_of(run.reports, seen)) is None:
        wrong, signer = "the list of signers under which it was given is not here", None
    else:
        wrong, signer = problem_of(run, path, contents(path), path.with_name(f"{path.name}.sig"), allowed_now, listed)
    return (f"had given an approval that counts for nothing: {wrong}" if wrong else ""), signer


def _later(said: Mapping[str, Any], acted: str) -> datetime | None:
    """When a statement says that it was given, where the step had acted by then; clocks may differ."""
    try:
        given, done = (datetime.fromisoformat(text) for text in (str(said.get("when")), acted))
        return given if given - CLOCKS_DIFFER > done else None
    except (ValueError, TypeError, OverflowError):  # no time: named elsewhere
        return None


def _other(act: _Act, seen: Seal, sealed: Sequence[Seal]) -> str:
    """What was another when the step acted than in the seal that was to be approved: a file, or what binds the run; else "".

    Every seal since then has it, and of step 25 the seal after it, too: it has the parameters and results with which it acted.
    """
    behind = next((seal for seal in sealed[act.seals :] if seal.after in (*BEFORE.values(), *GATES.values())), None)
    since = [*sealed[seen.number : act.seals], *([behind] if behind and behind.after == act.step else [])]
    steps = (step.number for step in plan.LINE if step.number <= GATES[CUTOVER])
    judged = {RunPath.PARAMETERS, *(f"results/{number}.json" for number in steps)} & seen.subjects.keys()
    for seal in since:
        apart = [part for part in ("source", "target") if seal.predicate[part] != seen.predicate[part]]
        if act.step == Step.CUTOVER:
            apart += [name for name in sorted(judged) if seen.subjects[name] != seal.subjects.get(name)]
        if apart:
            return ", ".join(apart)
    other = act.step == Step.CUTOVER and act.parameters not in ("", seen.subjects.get(RunPath.PARAMETERS))
    return RunPath.PARAMETERS if other else ""
