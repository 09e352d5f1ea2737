"""Sign-offs: approvals and refusals, each a signed statement that names the seal of what the signer saw.

`signoffs/<gate>-<role>-<when>.json` is the statement; the same name with `.sig` is its signature by ssh-keygen. The
statement of a role that was logged last counts. A NO-GO blocks until a GO of that role was given and logged after it. A
later change of a sealed file voids the signatures; `gate_state` names the file. A production run refuses signatures of a
rehearsal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, NoGo, RunbookError, UsageError, WaitingForSignoffs, one_line
from helpers.evidence import signing
from helpers.evidence.seals import after, chain, required, voided_files
from helpers.evidence.signing import ALLOWED, Refused, statement_in, statement_of
from helpers.evidence.statement import (
    KIND,
    SIGNATURE,
    Seal,
    allowed_signers,
    canonical,
    digest_of,
    kept_copies,
    reviewed,
    stamp,
    time_of,
    trusted,
)
from helpers.parameters import Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import contents, json_in, passed, utc_now, write_bytes
from helpers.run.folders import RunLock, RunPath, RunState
from helpers.run.plan import Step

CUTOVER, DRY_RUN, CLOSEOUT = "cutover", "dry-run", "closeout"
GATES = {
    DRY_RUN: Step.SCHEDULE_AND_NOTIFY,
    CUTOVER: Step.REVIEW,
    CLOSEOUT: Step.CLOSEOUT,
}  # in order of time, each with the step whose seal is approved
BEFORE = {CUTOVER: Step.CUTOVER, DRY_RUN: Step.FENCE_WRITES}  # the step that needs the approvals of each gate
GO, NO_GO = "go", "no-go"

_NAME_LENGTH = 200
CLOCKS_DIFFER = timedelta(minutes=5)
Judged = tuple[str, signing.Signer | None]  # (the reason why a statement does not count, None), or ("", its signer)


@dataclass(frozen=True, slots=True)
class GateState:
    """The state of a gate: `missing` roles in the required order; the other fields by role.

    `refused`: a sentence (a NO-GO with its reason, a signature that does not count); `stale`: the files that changed since
    the signature; `accepted`: the marginal criteria that the role accepted explicitly; `keys`: "principal SHA256:…" of each
    valid signature.
    """

    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stale: dict[str, list[str]] = field(default_factory=dict)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)  # the NO-GOs among the refused
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether every required role has a valid approval."""
        return not self.missing and not self.blocked


def statement(
    run: RunState,
    role: str,
    name: str,
    decision: str,
    gate: str = CUTOVER,
    reason: str = "",
    accept: Sequence[str] = (),
) -> bytes:
    """The statement that a role signs for this run: one line of canonical JSON that names the newest seal.

    `accept`: marginal criteria of the matrix. UsageError for a role that the run does not require, a name that is empty or
    more than one line, a decision other than go or no-go, a criterion that is not marginal, a gate that the run has not
    reached, and a run that is not sealed or whose sealed files changed.
    """
    role, verdict = role.strip().lower().replace("-", "_"), decision.strip().lower().replace("_", "-")
    roles = required_at(run.parameters, gate)
    if role not in roles:
        known = ", ".join(roles) or "none"
        raise UsageError(
            ReasonCode.UNKNOWN_ROLE,
            f"{role!r} does not sign at this gate",
            next_step=f"Roles that do: {known}. {_other_gate_hint(run, gate)}".strip(),
        )
    for label, text in (("name", name), ("reason", reason)):
        if not _is_readable(label, text):
            raise UsageError(ReasonCode.BAD_SIGNATURE, f"the {label} must be one line of readable characters")
    if not name.strip():
        raise UsageError(
            ReasonCode.BAD_SIGNATURE, "the name of the person who signs is missing", next_step="Give it as --name."
        )
    if verdict not in (GO, NO_GO):
        raise UsageError(ReasonCode.BAD_DECISION, f"{decision!r} is not a decision", next_step="It is go or no-go.")
    facts = _reached(run, gate)
    marginal = [str(m) for m in facts.get("accept", [])]
    if verdict == GO and gate == CUTOVER and facts.get("decision") != "GO":
        raise UsageError(ReasonCode.DECISION_NO_GO, "the decision of this run is NO-GO and cannot be signed off as go")
    unknown = [a for a in accept if a not in marginal]
    if unknown:
        hint = f"Marginal are: {', '.join(marginal) or 'none'}."
        raise UsageError(ReasonCode.NOT_MARGINAL, f"{one_line(unknown[0])!r} is not marginal", next_step=hint)
    seal = _to_be_signed(run, gate)
    return canonical(
        {
            "type": KIND,
            "run": run.id,
            "gate": gate,
            "role": role,
            "name": name.strip(),
            "decision": verdict,
            "reason": reason.strip(),
            "accept": sorted(set(accept)),
            "rehearsal": bool(run.facts.get("rehearsal")),
            "when": utc_now(),
            "seal": {"name": seal.name, "sha256": seal.digest},
            **_limit(facts, gate),
        }
    )


_TYPES = {
    "type": str, "run": str, "gate": str, "role": str, "name": str, "decision": str, "reason": str, "accept": list,
    "rehearsal": bool, "when": str, "seal": dict,
}  # fmt: skip


def _is_readable(label: str, text: str) -> bool:
    """Whether a name or reason is one line of readable characters, and not too long."""
    return len(text) <= _NAME_LENGTH * (10 if label == "reason" else 1) and text.isprintable()


def _limit(facts: Mapping[str, Any], gate: str) -> dict[str, Any]:
    """The statement's field for the limit of later changes, from the facts of step 24; {} if there is none."""
    limit = facts.get("delta_limit")
    return {"delta_limit": limit} if limit and gate == CUTOVER else {}


def _parse(data: bytes) -> tuple[dict[str, Any], str]:
    """(the statement, ""), or ({}, the reason why the bytes are not as `statement` writes them: keys, types and form)."""
    try:
        signed = json_in(data)
        if not isinstance(signed, dict) or canonical(signed) != data:
            return {}, "it is not one line of JSON as the toolkit writes it"
        if unknown := (signed.keys() - {"delta_limit"}) ^ _TYPES.keys():
            return {}, f"{one_line(min(unknown), 80)!r} is {'missing' if min(unknown) in _TYPES else 'no part of one'}"
        bad_keys = [key for key, kind in _TYPES.items() if type(signed[key]) is not kind]
        bad_keys += [key for key in ("name", "reason") if key not in bad_keys and not _is_readable(key, signed[key])]
        if bad_keys:
            return {}, f"its {bad_keys[0]} is not as the toolkit writes it"
        limit = signed.get("delta_limit", {"changes": 0, "chunks": 0})
        accept, when = signed["accept"], signed["when"]
        valid = {
            "accept": all(type(a) is str and a.isprintable() for a in accept) and accept == sorted(set(accept)),
            "name": signed["name"].strip() != "", "type": signed["type"] == KIND,
            "gate": signed["gate"] in GATES, "decision": signed["decision"] in (GO, NO_GO),
            "delta_limit": type(limit) is dict
            and {key: type(value) for key, value in limit.items()} == {"changes": int, "chunks": int},
            "when": datetime.fromisoformat(when).astimezone(UTC).isoformat(timespec="milliseconds") == when,
        }  # fmt: skip
    except (ValueError, TypeError, OverflowError):
        return {}, "it is not one line of JSON as the toolkit writes it, or its time is none"
    bad_keys = [key for key, is_valid in valid.items() if not is_valid]
    return ({}, f"its {bad_keys[0]} is not as the toolkit writes it") if bad_keys else (signed, "")


def sign(run: RunState, data: bytes, key: Path) -> Path:
    """Sign a statement of this run with this key, record it, and return its file. Raises as `record`."""
    return record(run, data, signing.sign(data, str(json.loads(data)["role"]), key))


def record(run: RunState, data: bytes, signature: bytes) -> Path:
    """Record a statement and its signature, and return the file. UsageError if the gate would refuse it.

    Waits while step 25 checks the decision for the last time and begins: the statement counts before that, or comes after it.
    """
    with RunLock(run, RunLock.GATE).acquire(60):
        return _record(run, data, signature)


def _record(run: RunState, data: bytes, signature: bytes) -> Path:
    signed, problem = _parse(data)
    if not problem and signed["role"] not in required_at(run.parameters, signed["gate"]):
        problem = "its role does not sign at its gate"
    if problem:
        raise UsageError(
            ReasonCode.NO_STATEMENT,
            f"this is not a statement that {RUNBOOK} sign --export wrote for this run: {problem}",
        )
    gate, role = signed["gate"], signed["role"]
    path = run.reports / RunPath.SIGNOFFS / f"{gate}-{role}-{stamp(signed['when'])}.json"
    if signed.get("decision") == GO and gate == CUTOVER and _facts(run, gate).get("decision") != "GO":
        raise UsageError(ReasonCode.DECISION_NO_GO, "the decision of this run is not GO and cannot be signed off as go")
    log = recorded(run.reports)
    if path.exists() and path.name in log:
        raise UsageError(ReasonCode.SIGNED_BEFORE, f"signoffs/{path.name} is recorded already")
    temporary = run.reports / RunPath.SIGNOFFS / f".{path.name}.sig"
    write_bytes(temporary, signature)  # before the statement's file, which never exists without its signature
    try:
        problem, signer = problem_of(run, path, data, temporary)
        if signer is not None:  # an expired key could sign with any earlier time
            signing.verify(data, temporary, role, run.reports / ALLOWED, datetime.now(UTC))
            problem = problem or _signed_before(run, role, signer) or _untimely(log, path, str(signed["decision"]))
    except Refused as error:
        problem = f"{error.what} (now, as it is recorded)"
    except RunbookError:
        temporary.unlink()
        raise
    if problem:
        temporary.unlink()
        if signed.get("decision") == NO_GO:
            problem += ". This NO-GO does not block the run: state and sign it anew, now"
        raise UsageError(ReasonCode.SIGNATURE_REFUSED, f"not recorded: {problem}", where=f"run {run.id}")
    assert signer is not None
    facts = {"gate": gate, "role": role, "signer": signer.principal, "decision": signed["decision"]}
    digest = hashlib.sha256(data).hexdigest()
    temporary.replace(path.with_name(f"{path.name}.sig"))
    write_bytes(path, data)
    entry = {
        "file": f"signoffs/{path.name}",
        "statement": digest,
        "sig": hashlib.sha256(signature).hexdigest(),
        **facts,
    }
    audit.append(run.reports / audit.NAME, audit.SIGNED, **entry)
    return path


def gate_state(run: RunState, gate: str = CUTOVER, allowed_now: Path | None = None) -> GateState:
    """Who still has to sign at this gate, who refused, and whose approval is stale.

    `allowed_now`: the list of signers outside of the run's folder: keys that were removed from it do not count.
    """
    state = GateState()
    chain(run)  # verifies the seals first: the sealed parameters name the required roles
    holders = _holders(run, list(GATES)[: list(GATES).index(gate)], allowed_now)
    marginal = _facts(run, gate).get("accept", [])
    for role in required_at(run.parameters, gate):
        path = newest(run.reports, gate, role)
        lost = _lost_statement(run.reports, gate, role)
        if path is None or lost:
            state.missing.append(role)
            if lost:
                state.refused[role] = f"{lost}, which {role} signed, is no longer what the audit log says"
            continue
        data = contents(path)
        statement = statement_in(data)
        accepts = statement.get("accept")
        state.accepted[role] = [str(a) for a in accepts] if isinstance(accepts, list) else []
        problem, signer = problem_of(run, path, data, path.with_name(f"{path.name}.sig"), allowed_now)
        if not problem and path.name not in recorded(run.reports):
            problem = f"it was never recorded ({RUNBOOK} sign {run.id} --import FILE.sig)"
        if problem or signer is None:
            state.refused[role] = f"the approval of {role} does not count: {problem}"
            state.missing.append(role)
            continue
        earlier = next((r for s in names_of(signer) if (r := holders.get(s))), "")
        if earlier not in ("", role) and not run.parameters.signoff.one_key_for_roles:
            state.refused[role] = (
                f"the approval of {role} does not count: {signer.principal} signed as {earlier} already"
            )
            state.missing.append(role)
            continue
        holders |= dict.fromkeys(names_of(signer), role)
        state.keys[role] = f"{signer.principal} {signer.fingerprint}"
        stale = _stale(run, gate, statement)
        if statement["decision"] == NO_GO:
            reason = one_line(str(statement.get("reason") or "no reason given"))
            state.refused[role] = f"{role} ({one_line(signer.principal)}) says NO-GO: {reason}"
            state.blocked.append(state.refused[role])
        elif stale:
            state.stale[role] = stale
            state.missing.append(role)
        elif open_points := [str(m) for m in marginal if m not in state.accepted[role]]:
            state.refused[role] = f"{role} has not accepted what is marginal: {', '.join(open_points)}"
            state.missing.append(role)
    return state


def _holders(run: RunState, gates: Iterable[str], allowed_now: Path | None = None) -> dict[str, str]:
    """The role of each key and principal that signed at these gates."""
    signers = (signer for gate in gates for signer in gate_state(run, gate, allowed_now).keys.items())
    return {name: role for role, who in signers for name in who.replace(",", " ").split(" ")}


def names_of(signer: signing.Signer) -> list[str]:
    """The signer's key and principals (a line may list several), which no other role may use."""
    return [signer.fingerprint, *signer.principal.split(",")]


def _signed_before(run: RunState, role: str, signer: signing.Signer) -> str:
    """Why this signer may not sign as this role, because the key or principal signed for another one; "" if it may."""
    if run.parameters.signoff.one_key_for_roles:
        return ""
    holders = _holders(run, GATES)
    other = next((holders[name] for name in names_of(signer) if holders.get(name, role) != role), "")
    return f"{signer.principal} signed as {other} already (signoff.one_key_for_roles is false)" if other else ""


def _untimely(log: Sequence[str], path: Path, decision: str) -> str:
    """Why a statement may not be recorded because of its time; "" if it may. An earlier NO-GO may be recorded, and blocks."""
    match = SIGNATURE.fullmatch(path.name)
    if match is None or decision == NO_GO:
        return ""
    when = time_of(match["when"])
    if when > datetime.now(UTC):
        return f"its time, {when:%Y-%m-%d %H:%M:%S} UTC, is in the future"
    others = [other for name in log if (other := SIGNATURE.fullmatch(name)) and other["role"] == match["role"]]
    later = max((other["when"] for other in others if other["gate"] == match["gate"]), default="")
    if match["when"] > later:
        return ""
    return f"{match['role']} signed at {time_of(later):%Y-%m-%d %H:%M:%S} UTC, and this is not later; sign anew"


def recorded(folder: Path) -> list[str]:
    """The names of the logged statements, in the order of their first lines."""
    return list(dict.fromkeys(Path(str(facts.get("file", ""))).name for facts in _signed_lines(folder)))


def _signed_lines(folder: Path) -> list[dict[str, Any]]:
    return [facts for action, facts in _log(folder) if action == audit.SIGNED]


def _log(folder: Path) -> tuple[tuple[str, dict[str, Any]], ...]:
    """(action, facts) of the audit log's lines about statements and files that were set aside."""
    path = folder / audit.NAME
    facts = path.stat() if path.is_file() else None
    return _read_log(path, (facts.st_size, facts.st_mtime_ns)) if facts is not None else ()


@lru_cache(maxsize=8)  # pages and gates read it for every role
def _read_log(path: Path, _state: tuple[int, int]) -> tuple[tuple[str, dict[str, Any]], ...]:
    lines = audit.entries(path, trusted(path.parent), (audit.SIGNED, audit.SET_ASIDE))
    return tuple((e["action"], facts) for e in lines if isinstance(facts := e.get("facts"), dict))


def newest(folder: Path, gate: str, role: str) -> Path | None:
    """The statement of a role that counts: the one logged last, or a NO-GO with the same or a later time."""
    log = {name: number for number, name in enumerate(recorded(folder))}
    candidates = [(log.get(path.name, -1), match["when"], path) for path in (folder / RunPath.SIGNOFFS).glob("*.json")
             if (match := SIGNATURE.fullmatch(path.name)) and (match["gate"], match["role"]) == (gate, role)]  # fmt: skip
    if not candidates:
        return None
    latest = max(candidates)
    later = [candidate for candidate in candidates if candidate[1] >= latest[1]]
    blocking = [candidate for candidate in later if statement_of(candidate[2]).get("decision") == NO_GO]
    return max(blocking)[2] if blocking else latest[2]


def no_gos(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every NO-GO at any gate as (path in the folder, statement), including those that were set aside."""
    paths = sorted(kept_copies(folder, RunPath.SIGNOFFS).values())
    statements = ((path.relative_to(folder).as_posix(), statement_of(path)) for path in paths)
    return [(name, signed) for name, signed in statements if signed.get("decision") == NO_GO]


def all_set_aside(folder: Path, names: Sequence[str]) -> bool:
    """Whether the audit log says that each of these files was set aside, and none was written again."""
    logged = {facts.get("file") for action, facts in _log(folder) if action == audit.SET_ASIDE}
    return {*names} <= logged and not any((folder / name).exists() for name in names)


def lost_statements(folder: Path) -> list[str]:
    """The logged statements that are neither in signoffs/ nor where the log says that they were set aside."""
    moves = {(f.get("file"), f.get("digest"), str(f.get("to"))) for act, f in _log(folder) if act == audit.SET_ASIDE}
    names = []
    for facts in _signed_lines(folder):
        name, digest = f"signoffs/{Path(str(facts.get('file', ''))).name}", str(facts.get("statement"))
        moved = (to for file, old, to in moves if (file, old) == (name, digest) and to.split("/", 2)[2:] == [name])
        if not digest or digest not in {digest_of(folder / path) for path in (name, *moved)}:
            names.append(name)
    return names


def statements(run: RunState, signers: Path | None = None) -> dict[str, Judged]:
    """Judge every statement of a run, by file's name: (problem, None), or ("", its signer).

    `signers`: a list of allowed signers from outside of the folder, which must also allow each.
    """
    judged: dict[str, Judged] = {}
    for path in sorted((run.reports / RunPath.SIGNOFFS).glob("*.json")):
        if SIGNATURE.fullmatch(path.name):
            judged[path.name] = problem_of(run, path, contents(path), path.with_name(f"{path.name}.sig"), signers)
        else:
            judged[path.name] = "its name is not that of a statement", None
    return judged


def problem_of(
    run: RunState, path: Path, data: bytes, signature: Path, allowed_now: Path | None = None, listed: Path | None = None
) -> Judged:
    """Judge a statement: (problem, None), or ("", its signer). `listed`: the list of signers; None: the run's present list."""
    match = SIGNATURE.fullmatch(path.name)
    signed, problem = _parse(data)
    if match is None or problem or (match["gate"], match["role"], match["when"]) != (
        signed["gate"], signed["role"], stamp(signed["when"])
    ):  # fmt: skip
        problem = f": {problem}" if problem else ""
        return f"signoffs/{path.name} is not a sign-off of this role for this gate{problem}", None
    role, when, rehearsal = match["role"], time_of(match["when"]), signed["rehearsal"]
    sealed = next((seal for seal in chain(run) if signed["seal"] == {"name": seal.name, "sha256": seal.digest}), None)
    if signed["run"] != run.id:
        return f"it is of run {one_line(signed['run'], 80)}", None
    if sealed is None or sealed.after != GATES[match["gate"]]:
        return f"it names no seal of this run after step {GATES[match['gate']]}", None
    rehearses = bool(sealed.predicate["run"].get("rehearsal"))
    if rehearsal is not rehearses:
        return "it is a rehearsal's" if rehearsal else "it is not a rehearsal's, but the run is a rehearsal", None
    facts = reviewed(run.reports, sealed) if match["gate"] == CUTOVER else {}
    if facts is not None and signed.get("delta_limit") != _limit(facts, match["gate"]).get("delta_limit"):
        return f"its limit of changes (delta_limit) is not that of step {GATES[CUTOVER]}, which {sealed.name} has", None
    if when < datetime.fromisoformat(sealed.created) or when > datetime.now(UTC) + CLOCKS_DIFFER:
        return f"its time, {when:%Y-%m-%d %H:%M:%S} UTC, is before that of the seal or in the future", None
    lists = [listed or run.reports / ALLOWED, *([allowed_now] if allowed_now is not None else [])]
    name = f"{RunPath.SIGNOFFS}/{path.name}"
    sealed_at = next((seal.created for seal in chain(run) if any(n.endswith(name) for n in seal.subjects)), None)
    try:
        signers = [signing.verify(data, signature, role, allowed, when) for allowed in lists]
        if sealed_at:  # a key that has expired could have signed under any earlier time
            signing.verify(data, signature, role, lists[0], datetime.fromisoformat(sealed_at))
    except Refused as error:
        return error.what, None
    if signers[0].principal.startswith(signing.REHEARSAL) and not rehearses:
        return "it was signed with a throw-away key of a rehearsal", None
    ours, theirs = (one_line(signers[at].principal, 80) for at in (0, -1))
    if ours != theirs:
        return f"its key is that of {ours} in the run's list of signers, and of {theirs} in the list outside", None
    return "", signers[-1]


def _stale(run: RunState, gate: str, signed: dict[str, Any]) -> list[str]:
    """The files that changed since the seal that was signed, or between it and the seal that replaced it."""
    seal_signed = next(seal for seal in chain(run) if seal.digest == signed["seal"]["sha256"])
    now = after(chain(run), GATES[gate])
    changed = voided_files(run, seal_signed)
    if now is None or now.digest == seal_signed.digest:
        return changed
    names = {*seal_signed.subjects, *now.subjects} - {RunPath.RUN}
    different = {n for n in names if seal_signed.subjects.get(n) != now.subjects.get(n)}
    return sorted({*changed, *(n for n in different if not n.startswith(("earlier/", "signoffs/")))}) or [now.name]


def _lost_statement(folder: Path, gate: str, role: str) -> str:
    """The path of a logged statement of a role that the folder no longer holds unchanged; "" if there is none.

    Statements that were set aside together with all earlier ones are not lost.
    """
    own_names = [
        name for name in recorded(folder) if (m := SIGNATURE.fullmatch(name)) and (m["gate"], m["role"]) == (gate, role)
    ]
    for name in lost_statements(folder):
        if Path(name).name in own_names:
            return name
    present = [name for name in own_names if (folder / RunPath.SIGNOFFS / name).is_file()]
    if own_names and present and present[-1] != own_names[-1]:
        return f"signoffs/{own_names[-1]}"
    return ""


def _to_be_signed(run: RunState, gate: str) -> Seal:
    """The seal that a new statement names; UsageError if there is none, or a sealed file changed."""
    seal = after(chain(run), GATES[gate])
    hint = f"Let the runner seal it: {RUNBOOK} resume {run.id}"
    if seal is None:
        raise UsageError(
            ReasonCode.NOT_SEALED, f"step {GATES[gate]} is not sealed yet", where=f"run {run.id}", next_step=hint
        )
    changed = voided_files(run, seal)
    if changed:
        problem = f"{', '.join(changed[:5])} changed since {seal.name}, so there is nothing to sign"
        raise UsageError(
            ReasonCode.SEALED_FILE_CHANGED,
            problem,
            where=f"run {run.id}",
            next_step=f"See: {RUNBOOK} verify {run.id}",
        )
    if not (run.reports / ALLOWED).is_file():
        raise UsageError(
            ReasonCode.NO_ALLOWED_SIGNERS, f"run {run.id} has no list of who may sign, so no signature could be checked",
            next_step=f"Name it: {RUNBOOK} resume {run.id} --set signoff.allowed_signers=FILE "
            "(parameters/allowed_signers.example shows one), then sign.",
        )  # fmt: skip
    return seal


def required_at(parameters: Parameters, gate: str) -> list[str]:
    return required(parameters)[_gate(gate)]


def _gate(gate: str) -> str:
    if gate not in GATES:
        raise UsageError(
            ReasonCode.UNKNOWN_GATE, f"{gate!r} is not a gate", next_step=f"Gates: {', '.join(sorted(GATES))}."
        )
    return gate


def _reached(run: RunState, gate: str) -> dict[str, Any]:
    """The facts of the step before the gate; UsageError if it has not run."""
    facts = _facts(run, gate)
    if gate == CUTOVER and "decision" not in facts:
        raise UsageError(
            ReasonCode.NOTHING_TO_SIGN,
            "step 24 has not come to a decision",
            where=f"run {run.id}",
            next_step=_other_gate_hint(run, gate),
        )
    if not (run.reports / RunPath.RESULTS / f"{GATES[gate]}.json").is_file():
        raise UsageError(ReasonCode.NOTHING_TO_SIGN, f"step {GATES[gate]} has not run", where=f"run {run.id}")
    return facts


def _other_gate_hint(run: RunState, gate: str) -> str:
    """A hint to the gate at which the run waits, if it is another one; else ""."""
    decided = "decision" in _facts(run, CUTOVER)
    scheduled = (run.reports / RunPath.RESULTS / f"{GATES[DRY_RUN]}.json").is_file() and bool(
        required_at(run.parameters, DRY_RUN)
    )
    if gate == CUTOVER and scheduled and not decided:
        return f"The gate that waits is that of the dry run: sign with --gate {DRY_RUN}."
    if gate == DRY_RUN and decided:
        return "The gate that waits is that of the cutover: sign without --gate."
    return ""


def _facts(run: RunState, gate: str) -> dict[str, Any]:
    try:
        result = run.result(GATES[_gate(gate)])
    except (OSError, ValueError, KeyError, TypeError):  # a damaged result decides nothing
        return {}
    return result.facts if result is not None else {}


# -- gates -------------------------------------------------------------------------------------------------------------

# The human gates: whether the run may continue after a step.


def open_gate(run: RunState, steps: Iterable[Step]) -> RunbookError | None:
    """The error at the first closed gate of the passed steps (a NO-GO, or missing approvals); None if all are open."""
    passed_gates = (step for step in steps if step.gate and passed(run.result(step.number)))
    return next((error for step in passed_gates if (error := _gate_error(run, step)) is not None), None)


def _gate_error(run: RunState, step: Step) -> RunbookError | None:
    # After the cutover, signatures stay valid: keys may then be removed from the list, and a resume may change parameters of
    # later steps.
    done = passed(run.result(Step.CUTOVER))
    state = gate_state(run, step.gate, None if done else allowed_signers(run))
    if state.blocked:
        return NoGo(
            ReasonCode.SIGNED_NO_GO, f"run {run.id}: {'; '.join(state.blocked)}", next_step="It may not be cut over."
        )
    changed = {name for role in state.missing for name in state.stale.get(role, [""])}
    if not state.missing or (done and changed <= {RunPath.PARAMETERS}):
        return None
    first = f"First name who may sign: {run.command('resume')} --set signoff.allowed_signers=FILE. "
    example = f"{run.command('sign')} --role {state.missing[0]} --name NAME --decision go --gate {step.gate} --key FILE"
    return WaitingForSignoffs(
        ReasonCode.SIGNOFFS_MISSING,
        f"run {run.id} waits for the approval of {', '.join(_with_reason(state, role) for role in state.missing)}",
        next_step=f"{'' if (run.reports / ALLOWED).is_file() else first}Each signs with: {example}",
    )


def _with_reason(state: GateState, role: str) -> str:
    """The role, with the reason if its approval does not count."""
    if state.stale.get(role):
        return f"{role} (given before {', '.join(state.stale[role])} changed)"
    return f"{role} ({state.refused[role]})" if role in state.refused else role
