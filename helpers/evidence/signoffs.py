"""Sign-offs: who approved or refused what, by a signature over a statement that names the seal of what they saw.

`signoffs/<gate>-<role>-<when>.json` is the statement, the file of the same name with `.sig` behind it the signature that
ssh-keygen made of it. Of a role's statements the one counts that the audit log recorded last. One NO-GO blocks until a GO
of that role was both given and recorded after it. A sealed file that changes afterwards voids what was signed, and
`gate_state` names the file. What a rehearsal signed is refused by a production run.
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
from helpers.evidence.seals import after, chain, required, void
from helpers.evidence.signing import ALLOWED, Refused, statement_in, statement_of
from helpers.evidence.statement import (
    KIND,
    SIGNATURE,
    Seal,
    allowed_signers,
    canonical,
    digest_of,
    kept,
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
}  # in their order in time, with the step whose seal each gate's approvals are given over
BEFORE = {CUTOVER: Step.CUTOVER, DRY_RUN: Step.FENCE_WRITES}  # the step that does not begin without the approvals
GO, NO_GO = "go", "no-go"

_NAME_LENGTH = 200
CLOCKS_DIFFER = timedelta(minutes=5)
Judged = tuple[str, signing.Signer | None]  # why a statement counts for nothing, or ("", who signed it)


@dataclass(frozen=True, slots=True)
class GateState:
    """The state of a gate. `missing` roles, in the order required; `refused`, `stale` and `accepted` by role.

    `refused` are sentences (a NO-GO with its reason, a signature that does not count); `stale` the files that changed
    since the signature; `accepted` the marginal criteria that the role accepted explicitly; `keys` whose key signed, as
    "principal SHA256:…", where a signature counts.
    """

    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stale: dict[str, list[str]] = field(default_factory=dict)
    accepted: dict[str, list[str]] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)  # the NO-GOs among the refused
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether every required role has approved, validly."""
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
    """What a role signs for this run: one line of canonical JSON, given over the newest seal.

    `accept` names marginal criteria of the matrix. UsageError for a role that the run does not require, a name that is
    empty or more than one line, a decision other than go or no-go, a criterion that is not marginal, a gate that the
    run has not reached, a run that is not sealed, or whose sealed files changed.
    """
    role, said = role.strip().lower().replace("-", "_"), decision.strip().lower().replace("_", "-")
    roles = required_at(run.parameters, gate)
    if role not in roles:
        known = ", ".join(roles) or "none"
        raise UsageError(
            ReasonCode.UNKNOWN_ROLE,
            f"{role!r} does not sign at this gate",
            next_step=f"Roles that do: {known}. {_other(run, gate)}".strip(),
        )
    for what, text in (("name", name), ("reason", reason)):
        if not _is_readable(what, text):
            raise UsageError(ReasonCode.BAD_SIGNATURE, f"the {what} must be one line of readable characters")
    if not name.strip():
        raise UsageError(
            ReasonCode.BAD_SIGNATURE, "the name of the person who signs is missing", next_step="Give it as --name."
        )
    if said not in (GO, NO_GO):
        raise UsageError(ReasonCode.BAD_DECISION, f"{decision!r} is not a decision", next_step="It is go or no-go.")
    facts = _reached(run, gate)
    marginal = [str(m) for m in facts.get("accept", [])]
    if said == GO and gate == CUTOVER and facts.get("decision") != "GO":
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
            "decision": said,
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


def _is_readable(what: str, text: str) -> bool:
    """Whether a name or reason is one line of readable characters, and not too long."""
    return len(text) <= _NAME_LENGTH * (10 if what == "reason" else 1) and text.isprintable()


def _limit(facts: Mapping[str, Any], gate: str) -> dict[str, Any]:
    """What a statement says of the changes that may still be brought over, of the facts of step 24; {} where it says nothing."""
    limit = facts.get("delta_limit")
    return {"delta_limit": limit} if limit and gate == CUTOVER else {}


def _parsed(data: bytes) -> tuple[dict[str, Any], str]:
    """(what a statement says, ""), or ({}, why its bytes are none that `statement` writes): no key, type or form but its own."""
    try:
        said = json_in(data)
        if not isinstance(said, dict) or canonical(said) != data:
            return {}, "it is not one line of JSON as the toolkit writes it"
        if other := (said.keys() - {"delta_limit"}) ^ _TYPES.keys():
            return {}, f"{one_line(min(other), 80)!r} is {'missing' if min(other) in _TYPES else 'no part of one'}"
        wrong = [key for key, kind in _TYPES.items() if type(said[key]) is not kind]
        wrong += [what for what in ("name", "reason") if what not in wrong and not _is_readable(what, said[what])]
        if wrong:
            return {}, f"its {wrong[0]} is not as the toolkit writes it"
        accept, limit, when = said["accept"], said.get("delta_limit", {"changes": 0, "chunks": 0}), said["when"]
        right = {
            "accept": all(type(a) is str and a.isprintable() for a in accept) and accept == sorted(set(accept)),
            "name": said["name"].strip() != "", "type": said["type"] == KIND,
            "gate": said["gate"] in GATES, "decision": said["decision"] in (GO, NO_GO),
            "delta_limit": type(limit) is dict
            and {key: type(value) for key, value in limit.items()} == {"changes": int, "chunks": int},
            "when": datetime.fromisoformat(when).astimezone(UTC).isoformat(timespec="milliseconds") == when,
        }  # fmt: skip
    except (ValueError, TypeError, OverflowError):
        return {}, "it is not one line of JSON as the toolkit writes it, or its time is none"
    wrong = [key for key, fits in right.items() if not fits]
    return ({}, f"its {wrong[0]} is not as the toolkit writes it") if wrong else (said, "")


def sign(run: RunState, data: bytes, key: Path) -> Path:
    """Sign a statement of this run with this key and record it; the statement's file. Raises as `record`."""
    return record(run, data, signing.sign(data, str(json.loads(data)["role"]), key))


def record(run: RunState, data: bytes, signature: bytes) -> Path:
    """Keep a statement with its signature, made here or elsewhere; UsageError where the gate would refuse it.

    Not while step 25 looks at the decision for the last time and begins: it is recorded before, and counts, or after.
    """
    with RunLock(run, RunLock.GATE).acquire(60):
        return _record(run, data, signature)


def _record(run: RunState, data: bytes, signature: bytes) -> Path:
    said, why = _parsed(data)
    if not why and said["role"] not in required_at(run.parameters, said["gate"]):
        why = "its role does not sign at its gate"
    if why:
        raise UsageError(
            ReasonCode.NO_STATEMENT, f"this is not a statement that {RUNBOOK} sign --export wrote for this run: {why}"
        )
    gate, role = said["gate"], said["role"]
    path = run.reports / RunPath.SIGNOFFS / f"{gate}-{role}-{stamp(said['when'])}.json"
    if said.get("decision") == GO and gate == CUTOVER and _facts(run, gate).get("decision") != "GO":
        raise UsageError(ReasonCode.DECISION_NO_GO, "the decision of this run is not GO and cannot be signed off as go")
    log = recorded(run.reports)
    if path.exists() and path.name in log:
        raise UsageError(ReasonCode.SIGNED_BEFORE, f"signoffs/{path.name} is recorded already")
    temporary = run.reports / RunPath.SIGNOFFS / f".{path.name}.sig"
    write_bytes(temporary, signature)  # the statement's file comes last: it is never there without its signature
    try:
        problem, signer = problem_of(run, path, data, temporary)
        if signer is not None:  # a key that has expired since could have signed under any earlier time
            signing.verify(data, temporary, role, run.reports / ALLOWED, datetime.now(UTC))
            problem = problem or _signed_before(run, role, signer) or _untimely(log, path, str(said["decision"]))
    except Refused as error:
        problem = f"{error.what} (now, as it is recorded)"
    except RunbookError:
        temporary.unlink()
        raise
    if problem:
        temporary.unlink()
        if said.get("decision") == NO_GO:
            problem += ". This NO-GO does not block the run: state and sign it anew, now"
        raise UsageError(ReasonCode.SIGNATURE_REFUSED, f"not recorded: {problem}", where=f"run {run.id}")
    assert signer is not None
    facts = {"gate": gate, "role": role, "signer": signer.principal, "decision": said["decision"]}
    digest = hashlib.sha256(data).hexdigest()
    temporary.replace(path.with_name(f"{path.name}.sig"))
    write_bytes(path, data)
    about = {
        "file": f"signoffs/{path.name}",
        "statement": digest,
        "sig": hashlib.sha256(signature).hexdigest(),
        **facts,
    }
    audit.append(run.reports / audit.NAME, audit.SIGNED, **about)
    return path


def gate_state(run: RunState, gate: str = CUTOVER, allowed_now: Path | None = None) -> GateState:
    """Who still has to sign at this gate, who refused, whose approval no longer fits what was sealed.

    `allowed_now` is the list of signers outside the run's folder: a key that was taken from it since counts no longer.
    """
    state = GateState()
    chain(run)  # who has to sign is what sealed parameters say, so the seals come first
    holders = _holders(run, list(GATES)[: list(GATES).index(gate)], allowed_now)
    marginal = _facts(run, gate).get("accept", [])
    for role in required_at(run.parameters, gate):
        path = newest(run.reports, gate, role)
        gone = _gone(run.reports, gate, role)
        if path is None or gone:
            state.missing.append(role)
            if gone:
                state.refused[role] = f"{gone}, which {role} signed, is no longer what the audit log says"
            continue
        data = contents(path)
        answer = statement_in(data)
        accepts = answer.get("accept")
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
        stale = _stale(run, gate, answer)
        if answer["decision"] == NO_GO:
            said = one_line(str(answer.get("reason") or "no reason given"))
            state.refused[role] = f"{role} ({one_line(signer.principal)}) says NO-GO: {said}"
            state.blocked.append(state.refused[role])
        elif stale:
            state.stale[role] = stale
            state.missing.append(role)
        elif open_points := [str(m) for m in marginal if m not in state.accepted[role]]:
            state.refused[role] = f"{role} has not accepted what is marginal: {', '.join(open_points)}"
            state.missing.append(role)
    return state


def _holders(run: RunState, gates: Iterable[str], allowed_now: Path | None = None) -> dict[str, str]:
    """The role by each key and principal that signed for it at these gates."""
    signed = (at for gate in gates for at in gate_state(run, gate, allowed_now).keys.items())
    return {name: role for role, who in signed for name in who.replace(",", " ").split(" ")}


def names_of(signer: signing.Signer) -> list[str]:
    """What no other role may sign with: the key, and each principal, of which one line may list many."""
    return [signer.fingerprint, *signer.principal.split(",")]


def _signed_before(run: RunState, role: str, signer: signing.Signer) -> str:
    """Why this signer may not sign as this role: the key or the principal counts for another one; "" where it may."""
    if run.parameters.signoff.one_key_for_roles:
        return ""
    holders = _holders(run, GATES)
    other = next((holders[name] for name in names_of(signer) if holders.get(name, role) != role), "")
    return f"{signer.principal} signed as {other} already (signoff.one_key_for_roles is false)" if other else ""


def _untimely(log: Sequence[str], path: Path, decision: str) -> str:
    """Why the time of a statement forbids to record it, or "". A NO-GO that was given earlier is recorded, and blocks."""
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
    """The names of the statements in the order in which the audit log recorded them; a second line of one counts for nothing."""
    return list(dict.fromkeys(Path(str(facts.get("file", ""))).name for facts in _signed_lines(folder)))


def _signed_lines(folder: Path) -> list[dict[str, Any]]:
    return [facts for action, facts in _log(folder) if action == audit.SIGNED]


def _log(folder: Path) -> tuple[tuple[str, dict[str, Any]], ...]:
    """(action, facts) of what the audit log says of statements and of files that were set aside."""
    path = folder / audit.NAME
    about = path.stat() if path.is_file() else None
    return _read_log(path, (about.st_size, about.st_mtime_ns)) if about is not None else ()


@lru_cache(maxsize=8)  # a page and a gate ask for every role
def _read_log(path: Path, _state: tuple[int, int]) -> tuple[tuple[str, dict[str, Any]], ...]:
    lines = audit.entries(path, trusted(path.parent), (audit.SIGNED, audit.SET_ASIDE))
    return tuple((e["action"], facts) for e in lines if isinstance(facts := e.get("facts"), dict))


def newest(folder: Path, gate: str, role: str) -> Path | None:
    """The statement of a role that counts: the one recorded last; a NO-GO that no GO follows in time as well counts before it."""
    log = {name: number for number, name in enumerate(recorded(folder))}
    found = [(log.get(path.name, -1), match["when"], path) for path in (folder / RunPath.SIGNOFFS).glob("*.json")
             if (match := SIGNATURE.fullmatch(path.name)) and (match["gate"], match["role"]) == (gate, role)]  # fmt: skip
    if not found:
        return None
    last = max(found)
    open_still = [each for each in found if each[1] >= last[1] and statement_of(each[2]).get("decision") == NO_GO]
    return max(open_still)[2] if open_still else last[2]


def no_gos(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every NO-GO on file, at any gate, as (path in the folder, what it says), also those that were set aside."""
    paths = sorted(kept(folder, RunPath.SIGNOFFS).values())
    said = ((path.relative_to(folder).as_posix(), statement_of(path)) for path in paths)
    return [(name, what) for name, what in said if what.get("decision") == NO_GO]


def set_aside(folder: Path, names: Sequence[str]) -> bool:
    """Whether the audit log says of each of these files that it was set aside, and none came in its place."""
    told = {facts.get("file") for action, facts in _log(folder) if action == audit.SET_ASIDE}
    return {*names} <= told and not any((folder / name).exists() for name in names)


def lost(folder: Path) -> list[str]:
    """The statements that the audit log records and that are neither in signoffs/ nor set aside, as it says."""
    aside = {(f.get("file"), f.get("digest"), str(f.get("to"))) for act, f in _log(folder) if act == audit.SET_ASIDE}
    found = []
    for facts in _signed_lines(folder):
        name, digest = f"signoffs/{Path(str(facts.get('file', ''))).name}", str(facts.get("statement"))
        moved = (to for file, was, to in aside if (file, was) == (name, digest) and to.split("/", 2)[2:] == [name])
        if not digest or digest not in {digest_of(folder / path) for path in (name, *moved)}:
            found.append(name)
    return found


def statements(run: RunState, signers: Path | None = None) -> dict[str, Judged]:
    """Every statement of a run, old ones too, by file: why it is not what its name and signature say, or ("", who signed it).

    `signers` is a list of allowed signers from outside the folder that must allow each, too.
    """
    found: dict[str, Judged] = {}
    for path in sorted((run.reports / RunPath.SIGNOFFS).glob("*.json")):
        if SIGNATURE.fullmatch(path.name):
            found[path.name] = problem_of(run, path, contents(path), path.with_name(f"{path.name}.sig"), signers)
        else:
            found[path.name] = "its name is not that of a statement", None
    return found


def problem_of(
    run: RunState, path: Path, data: bytes, signature: Path, allowed_now: Path | None = None, listed: Path | None = None
) -> Judged:
    """Why a statement counts for nothing, or ("", who signed it). `listed`: who may sign; None: the run's list as it is now."""
    match = SIGNATURE.fullmatch(path.name)
    said, why = _parsed(data)
    if match is None or why or (match["gate"], match["role"], match["when"]) != (
        said["gate"], said["role"], stamp(said["when"])
    ):  # fmt: skip
        why = f": {why}" if why else ""
        return f"signoffs/{path.name} is not a sign-off of this role for this gate{why}", None
    role, when, rehearsal = match["role"], time_of(match["when"]), said["rehearsal"]
    sealed = next((seal for seal in chain(run) if said["seal"] == {"name": seal.name, "sha256": seal.digest}), None)
    if said["run"] != run.id:
        return f"it is of run {one_line(said['run'], 80)}", None
    if sealed is None or sealed.after != GATES[match["gate"]]:
        return f"it names no seal of this run after step {GATES[match['gate']]}", None
    rehearses = bool(sealed.predicate["run"].get("rehearsal"))
    if rehearsal is not rehearses:
        return "it is a rehearsal's" if rehearsal else "it is not a rehearsal's, but the run is a rehearsal", None
    facts = reviewed(run.reports, sealed) if match["gate"] == CUTOVER else {}
    if facts is not None and said.get("delta_limit") != _limit(facts, match["gate"]).get("delta_limit"):
        return f"its limit of changes (delta_limit) is not that of step {GATES[CUTOVER]}, which {sealed.name} has", None
    if when < datetime.fromisoformat(sealed.created) or when > datetime.now(UTC) + CLOCKS_DIFFER:
        return f"its time, {when:%Y-%m-%d %H:%M:%S} UTC, is before that of the seal or in the future", None
    lists = [listed or run.reports / ALLOWED, *([allowed_now] if allowed_now is not None else [])]
    name = f"{RunPath.SIGNOFFS}/{path.name}"
    covers = next((seal.created for seal in chain(run) if any(n.endswith(name) for n in seal.subjects)), None)
    try:
        signers = [signing.verify(data, signature, role, each, when) for each in lists]
        if covers:  # a key that has expired could have signed under any earlier time
            signing.verify(data, signature, role, lists[0], datetime.fromisoformat(covers))
    except Refused as error:
        return error.what, None
    if signers[0].principal.startswith(signing.REHEARSAL) and not rehearses:
        return "it was signed with a throw-away key of a rehearsal", None
    ours, theirs = (one_line(signers[at].principal, 80) for at in (0, -1))
    if ours != theirs:
        return f"its key is that of {ours} in the run's list of signers, and of {theirs} in the list outside", None
    return "", signers[-1]


def _stale(run: RunState, gate: str, said: dict[str, Any]) -> list[str]:
    """The files that are no longer what was signed: since the seal, or between it and the one that replaced it."""
    signed = next(seal for seal in chain(run) if seal.digest == said["seal"]["sha256"])
    now = after(chain(run), GATES[gate])
    found = void(run, signed)
    if now is None or now.digest == signed.digest:
        return found
    names = {*signed.subjects, *now.subjects} - {RunPath.RUN}
    moved = {n for n in names if signed.subjects.get(n) != now.subjects.get(n)}
    return sorted({*found, *(n for n in moved if not n.startswith(("earlier/", "signoffs/")))}) or [now.name]


def _gone(folder: Path, gate: str, role: str) -> str:
    """A statement of a role that the audit log records and the folder no longer holds as it was; else "".

    What was set aside with all that was recorded before it is no loss.
    """
    mine = [
        name for name in recorded(folder) if (m := SIGNATURE.fullmatch(name)) and (m["gate"], m["role"]) == (gate, role)
    ]
    for name in lost(folder):
        if Path(name).name in mine:
            return name
    present = [name for name in mine if (folder / RunPath.SIGNOFFS / name).is_file()]
    if mine and present and present[-1] != mine[-1]:
        return f"signoffs/{mine[-1]}"
    return ""


def _to_be_signed(run: RunState, gate: str) -> Seal:
    """The seal that a statement is given over now; UsageError where there is none, or a file is not as it was sealed."""
    seal = after(chain(run), GATES[gate])
    again = f"Let the runner seal it: {RUNBOOK} resume {run.id}"
    if seal is None:
        raise UsageError(
            ReasonCode.NOT_SEALED, f"step {GATES[gate]} is not sealed yet", where=f"run {run.id}", next_step=again
        )
    changed = void(run, seal)
    if changed:
        what = f"{', '.join(changed[:5])} changed since {seal.name}, so there is nothing to sign"
        raise UsageError(
            ReasonCode.SEALED_FILE_CHANGED,
            what,
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
    """The facts of the step that the gate follows; UsageError where it has not run."""
    facts = _facts(run, gate)
    if gate == CUTOVER and "decision" not in facts:
        raise UsageError(
            ReasonCode.NOTHING_TO_SIGN,
            "step 24 has not come to a decision",
            where=f"run {run.id}",
            next_step=_other(run, gate),
        )
    if not (run.reports / RunPath.RESULTS / f"{GATES[gate]}.json").is_file():
        raise UsageError(ReasonCode.NOTHING_TO_SIGN, f"step {GATES[gate]} has not run", where=f"run {run.id}")
    return facts


def _other(run: RunState, gate: str) -> str:
    """The gate that the run waits at, where another one was named; "" where this is the one."""
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
        found = run.result(GATES[_gate(gate)])
    except (OSError, ValueError, KeyError, TypeError):  # damaged: it decides nothing
        return {}
    return found.facts if found is not None else {}


# -- gates -------------------------------------------------------------------------------------------------------------

# The gates that people open: whether the run may go on behind a step.


def open_gate(run: RunState, steps: Iterable[Step]) -> RunbookError | None:
    """What stops the run behind the first passed step whose gate is shut: a NO-GO, or missing approvals; else None."""
    passed_gates = (step for step in steps if step.gate and passed(run.result(step.number)))
    return next((error for step in passed_gates if (error := _behind(run, step)) is not None), None)


def _behind(run: RunState, step: Step) -> RunbookError | None:
    # After the cutover a signature stays what it was when it counted: keys may go from the list then, and a resume may
    # change what concerns the steps after it.
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
    """The role, and why an approval that it gave does not count."""
    if state.stale.get(role):
        return f"{role} (given before {', '.join(state.stale[role])} changed)"
    return f"{role} ({state.refused[role]})" if role in state.refused else role
