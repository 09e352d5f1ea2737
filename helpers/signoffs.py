"""Sign-offs: who approved what, bound to the very results that they saw.

`signoffs/<gate>-<role>.json` holds one role's answer with the SHA-256 digest over the run's results up to the gate.
When a result changes afterwards the approval is void, and `gate_state` names the file. One NO-GO blocks. Approvals of a
rehearsal are refused by a production run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import UsageError, one_line
from helpers.parameters import Parameters
from helpers.results import utc_now, write_json

CUTOVER, DRY_RUN = "cutover", "dry-run"
GATES = {CUTOVER: "24", DRY_RUN: "13"}  # the last step that each gate's approvals vouch for
GO, NO_GO = "go", "no-go"

_NAME_LENGTH = 200


@dataclass(frozen=True, slots=True)
class GateState:
    """Where a gate stands. `missing` roles, in the order required; `refused`, `stale` and `accepted` by role.

    `refused` are sentences (a NO-GO with its reason, a rehearsal's approval, a file that is none); `stale` the results
    that changed since the signature; `accepted` the marginal criteria that the role accepted by name.
    """

    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stale: dict[str, list[str]] = field(default_factory=dict)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)  # the NO-GOs among the refused

    @property
    def is_open(self) -> bool:
        """Whether every required role has approved, validly."""
        return not self.missing and not self.blocked


def file_digests(folder: Path, gate: str) -> dict[str, str]:
    """SHA-256 of each result file up to the gate's step, by name. A dry run's gate sees its steps only."""
    last = GATES[_gate(gate)]
    files = sorted((folder / "results").glob("*.json"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.stem <= last}


def results_digest(folder: Path, gate: str) -> str:
    """One SHA-256 over the names and digests of those files: what an approval is bound to."""
    return _digest(file_digests(folder, gate))


def _digest(digests: dict[str, str]) -> str:
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sign(
    folder: Path,
    role: str,
    name: str,
    decision: str,
    gate: str = CUTOVER,
    reason: str = "",
    accept: Sequence[str] = (),
    rehearsal: bool = False,
) -> Path:
    """Record one role's answer for the run in `folder` (reports/<id>); the file, written whole or not at all.

    `accept` names marginal criteria of the matrix. UsageError for a role that the run does not require, a name that is
    empty or more than one line, a decision other than go or no-go, a criterion that is not marginal,
    or a gate that the run has not reached.
    """
    role, said = role.strip().lower().replace("-", "_"), decision.strip().lower().replace("_", "-")
    digests = file_digests(folder, gate)
    required = _required(_parameters(folder), gate)
    if role not in required:
        known = ", ".join(required) or "none"
        raise UsageError("unknown_role", f"{role!r} does not sign at this gate", next_step=f"Roles that do: {known}.")
    for what, text in (("name", name), ("reason", reason)):
        if len(text) > _NAME_LENGTH * (1 if what == "name" else 10) or any(not c.isprintable() for c in text):
            raise UsageError("bad_signature", f"the {what} must be one line of readable characters")
    if not name.strip():
        raise UsageError("bad_signature", "the name of the person who signs is missing", next_step="Give it as --name.")
    if said not in (GO, NO_GO):
        raise UsageError("bad_decision", f"{decision!r} is no decision", next_step="It is go or no-go.")
    facts = _reached(folder, gate)
    marginal = [str(m) for m in facts.get("accept", [])]
    if said == GO and gate == CUTOVER and facts.get("decision") != "GO":
        raise UsageError("decision_no_go", "the decision of this run is NO-GO and cannot be signed off as go")
    strangers = [a for a in accept if a not in marginal]
    if strangers:
        hint = f"Marginal are: {', '.join(marginal) or 'none'}."
        raise UsageError("not_marginal", f"{one_line(strangers[0])!r} is not marginal", next_step=hint)
    path = folder / "signoffs" / f"{gate}-{role}.json"
    answer = {
        "gate": gate,
        "role": role,
        "name": name.strip(),
        "decision": said,
        "reason": reason.strip(),
        "accept": sorted(set(accept)),
        "rehearsal": rehearsal,
        "when": utc_now(),
        "digest": _digest(digests),
        "results": digests,
    }
    write_json(path, answer)
    return path


def gate_state(folder: Path, parameters: Parameters, gate: str = CUTOVER) -> GateState:
    """Who still has to sign at this gate, who refused, whose approval no longer fits the results."""
    state = GateState()
    digests = file_digests(folder, gate)
    marginal = _facts(folder, gate).get("accept", [])
    rehearsal = bool(_json(folder / "run.json").get("rehearsal"))
    for role in _required(parameters, gate):
        path = folder / "signoffs" / f"{gate}-{role}.json"
        if not path.exists():
            state.missing.append(role)
            continue
        answer = _json(path)
        state.accepted[role] = [str(a) for a in answer.get("accept", []) if isinstance(answer.get("accept"), list)]
        problem = _problem(answer, role, gate, rehearsal=rehearsal)
        if problem:
            state.refused[role] = problem
            state.missing.append(role)
        elif answer["decision"] == NO_GO:
            state.refused[role] = (
                f"{role} ({one_line(str(answer['name']))}) says NO-GO: {one_line(str(answer.get('reason') or 'no reason given'))}"
            )
            state.blocked.append(state.refused[role])
        elif answer.get("digest") != _digest(digests):
            signed = answer.get("results")
            before = signed if isinstance(signed, dict) else {}
            state.stale[role] = sorted(n for n in {*before, *digests} if before.get(n) != digests.get(n))
            state.missing.append(role)
        elif open_points := [str(m) for m in marginal if m not in state.accepted[role]]:
            state.refused[role] = f"{role} has not accepted what is marginal: {', '.join(open_points)}"
            state.missing.append(role)
    return state


def _problem(answer: dict[str, Any], role: str, gate: str, *, rehearsal: bool) -> str:
    if answer.get("role") != role or answer.get("gate") != gate or answer.get("decision") not in (GO, NO_GO):
        return f"signoffs/{gate}-{role}.json is no sign-off of {role} for this gate"
    if answer.get("rehearsal") is not False and not rehearsal:
        return f"the approval of {role} is a rehearsal's"
    if not str(answer.get("name", "")).strip():
        return f"the approval of {role} names nobody"
    return ""


def _required(parameters: Parameters, gate: str) -> list[str]:
    return list(parameters.signoff.required if _gate(gate) == CUTOVER else parameters.signoff.dry_run)


def _gate(gate: str) -> str:
    if gate not in GATES:
        raise UsageError("unknown_gate", f"{gate!r} is no gate", next_step=f"Gates: {', '.join(sorted(GATES))}.")
    return gate


def _reached(folder: Path, gate: str) -> dict[str, Any]:
    """The facts of the step that the gate stands behind; UsageError where it has not run."""
    facts = _facts(folder, gate)
    if gate == CUTOVER and "decision" not in facts:
        raise UsageError("nothing_to_sign", "step 24 has not come to a decision", where=f"run {folder.name}")
    if not (folder / "results" / f"{GATES[gate]}.json").is_file():
        raise UsageError("nothing_to_sign", f"step {GATES[gate]} has not run", where=f"run {folder.name}")
    return facts


def _facts(folder: Path, gate: str) -> dict[str, Any]:
    facts = _json(folder / "results" / f"{GATES[_gate(gate)]}.json").get("facts", {})
    return facts if isinstance(facts, dict) else {}


def _parameters(folder: Path) -> Parameters:
    from helpers.run.folders import RunFolder

    return RunFolder(folder.name, folder, folder).parameters()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
