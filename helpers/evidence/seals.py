"""The seals of a run: when one is due, what it says, and whether their chain is whole.

A seal is set after each of the steps 14 (the dry run and its announcement), 24 (review), 25 (cutover) and 53 (closeout)
has passed, and whenever a command that changed the run ends, so that at rest every byte of the folder is covered. What is
sealed never changes after that: a step that runs again moves what it left before into `earlier/`. A seal is refused where a
sealed file is neither as it was nor there, so nobody's change can be sealed over.
"""

from __future__ import annotations

import glob
import json
import platform
import socket
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, Terminal
from helpers.evidence import secret_scan, signing
from helpers.evidence.secret_scan import (
    OF_STEP,
    attestation,
    code,
    list_packages,
    name_seals,
    own,
    refuse_foreign_bytecode,
    refuse_other_log,
    tree,
)
from helpers.evidence.signing import ALLOWED, RUNNER
from helpers.evidence.statement import (
    CHANGING,
    ENVELOPE,
    FIRST,
    LISTS,
    PUSHED,
    SEALED,
    SEALS,
    Measured,
    Seal,
    added,
    allowed_signers,
    announced,
    changed,
    copy_allowed,
    digest_of,
    envelope,
    files,
    grown,
    measure,
    pre_authentication,
    read_once,
    read_seal,
    sha256,
    stamp,
    statement,
    trust,
    trusted,
)
from helpers.evidence.verify_script import recipe
from helpers.formatting import flatten
from helpers.parameters import RESUMABLE, Parameters, parameters_from
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, flush_file, passed, utc_now, write_bytes, write_text
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import run_program
from helpers.run.folders import RunLock, RunPath, RunState
from helpers.run.plan import Step

SEALED_AFTER = (Step.SCHEDULE_AND_NOTIFY, Step.REVIEW, Step.CUTOVER, Step.CLOSEOUT)
BOUND = "bound"  # the part of a seal that has a digest for each parameter which binds the run
BESIDE = (".sig", signing.TOKEN, ENVELOPE)  # what lies beside a seal
LAST = "last-seal"  # in the workspace: the digest of the newest seal that was set from here
WORK = "work"  # the part of a seal that says that the audit log names each passed result, kept page and drill
MOVES = "moves"  # the part of a seal that says that the audit log names what was moved since; older seals have none
_IDENTITY = ("id", "name", "group", "created", "rehearsal", "host", "user")
_LINE = frozenset(step.number for step in plan.LINE)


def seals(folder: Path, known: Sequence[Seal] = ()) -> tuple[Seal, ...]:
    """The chain of a run's seals, the oldest first; `known` are those of its beginning that were verified before.

    Raises `Terminal` at the first file that is no seal, or does not follow the one before it.
    """
    found, paths = list(known), _files(folder)
    for seal, there in zip_longest(known, paths[: len(known)]):
        if seal.path != there:
            raise _broken(folder, seal.name, "it was there when this command began, and is missing now")
    for number, path in enumerate(paths[len(known) :], start=len(known) + 1):
        try:
            seal = read_once(path)
        except (OSError, ValueError) as error:
            raise _broken(folder, f"{SEALS}/{path.name}", f"{error}") from error
        if seal.number != number or seal.previous != (found[-1].digest if found else FIRST):
            raise _broken(folder, seal.name, "it does not follow the seal before it")
        found.append(seal)
    return tuple(found)


def chain(run: RunState) -> tuple[Seal, ...]:
    """The run's seals, their chain verified as a whole once for this state."""
    return run.once(_read_chain)


def _read_chain(run: RunState) -> tuple[Seal, ...]:
    """Nothing is built on a seal that its runner did not sign, nor on a chain without the last seal that this workspace set."""
    found, last = seals(run.reports), run.workspace / LAST
    if run.judged:  # by `verify`, which names all that does not fit
        return found
    for seal, _, wrong in signing.custody(found, lambda: _runner(run)[1].get("fingerprint", "")):
        if wrong:
            raise _broken(run.reports, seal.name, wrong.removeprefix(f"{seal.name}: "))
    if last.is_file() and last.read_bytes().strip() not in {seal.digest.encode() for seal in found}:
        raise _broken(run.reports, SEALS, f"the seal that {last} names is missing")
    return found


def knowing(run: RunState, chain: Sequence[Seal]) -> RunState:
    """The run with these seals as its chain: they were read already."""
    return run.with_value(_read_chain, tuple(chain))


def after(chain: Sequence[Seal], step: str) -> Seal | None:
    """The newest seal that was set because this step had passed."""
    return next((seal for seal in reversed(chain) if seal.after == step), None)


def keep_sealed(run: RunState) -> RunState:
    """Set the seals that are due, behind each step that has passed and is not sealed as it is now; the run with them.

    Raises `Terminal` where the parameters are no longer those that the first seal bound, whether or not a seal is due.
    """
    _refuse_other_binding(run, chain(run))
    for step in due(run):
        run = seal(run, step)
    return run


def due(run: RunState) -> list[str]:
    """The steps behind which a seal is to be set now."""
    return [step for step in SEALED_AFTER if passed(run.result(step)) and _is_due(run, step)]


def at_rest(run: RunState) -> RunState:
    """Cover what no seal covers yet, and write VERIFY.txt: called when a command that changed the run ends; the run so."""
    known = chain(run)
    if not known or not _covers(known[-1], run.reports):
        return seal(run)
    name_seals(run, known)
    _write_recipe(run, known[-1])
    _tell_outside(run, known)
    return run


def _covers(newest: Seal, folder: Path) -> bool:
    known = {*newest.subjects, *newest.prefixes} == {*files(folder)}
    return known and not added(folder, newest) and not changed(folder, newest)


def seal(run: RunState, step: str = "") -> RunState:
    """Set the next seal, because `step` has passed or ("") because a command ends; the run with it.

    Raises `WorldError` where a secret is found in the folder, or a sealed file changed.
    """
    with RunLock(run, "seal").acquire():
        known = seals(run.reports, chain(run))  # another command may have set one meanwhile
        there = measure(run.reports)
        refuse_changes(run.reports, known, there.subjects)
        refuse_other_log(run, known)
        for leftover in (run.reports / SEALS).glob("*"):  # of a process that was killed
            of_seal = leftover.with_suffix("") if leftover.suffix in BESIDE else leftover
            if leftover.name.startswith(".") or not of_seal.is_file():
                leftover.unlink()
        parameters = run.parameters
        _refuse_other_binding(run, known)
        if step:
            refuse_foreign_bytecode(run.reports)
            copy_allowed(run, known, step)
        list_packages(run)
        there = measure(run.reports, {n: d for n, d in there.subjects.items() if not n.startswith(ALLOWED)})
        searched = secret_scan.search(run.reports, parameters.secrets(), parameters.secrets_of_files())
        # A person who signs need not have the secrets of the steps; what the steps wrote is sealed by those who had them.
        headers = {str(ref) for side in (parameters.source, parameters.target) for ref in side.headers.values()}
        earlier = {name for each in known for name in each.predicate["secrets"]["searched"] if name.startswith("env:")}
        secret_scan.refuse(searched, run.reports, sorted(headers | earlier) if step else ())
        said = audit.logged_files(run.reports, trust(known, audit.own_key()))
        there = own(run, known, there, said)
        number, now = len(known) + 1, utc_now()
        key, runner = _runner(run)
        # Nothing is written to the folder behind this line but the seal itself, so that it covers every byte.
        audit.append(run.reports / audit.NAME, "seal", number=number, after=step)
        predicate = {
            "number": number,
            "after": step,
            "created": now,
            "previous": known[-1].digest if known else FIRST,
            "previous_name": known[-1].name if known else FIRST,
            "secrets": {"searched": searched.searched, "unknown": searched.unknown},
            RUNNER: runner,
            audit.LOG_KEY: audit.own_key() or None,
            MOVES: "named",
            **({SEALED: "named"} if audit.own_key() else {}),
            WORK: "named",
            **({audit.FILES: "named"} if said.complete else {}),
            LISTS: "kept",
            **_about(run),
        }
        now_there = Measured(there.subjects, grown(run.reports, there.prefixes))
        for name in (*now_there.subjects, *now_there.prefixes):  # no byte that a power failure may still take is sealed
            flush_file(run.reports / name)
        path = run.reports / SEALS / f"{number:04d}-{stamp(now)}.json"
        data = statement(now_there, predicate)
        found = read_seal(path, data)
        if key is not None:  # first, so that no seal is ever there without its signature
            write_bytes(path.with_name(f"{path.name}.sig"), signing.sign(data, signing.SEAL, key))
            if "envelope" in runner:
                payload = attestation(found)
                signature = signing.raw(pre_authentication(payload), key)
                write_bytes(path.with_name(path.name + ENVELOPE), envelope(payload, signature, runner["fingerprint"]))
        write_bytes(path, data)
        if run.workspace.is_dir() and run.workspace != run.reports:  # a folder that was put together has no other
            write_text(run.workspace / LAST, f"{found.digest}\n")
        name_seals(run, (*known, found))
        _write_recipe(run, found)
        _tell_outside(run, (*known, found))
        return knowing(run, (*known, found))


def void(run: RunState, sealed: Seal) -> list[str]:
    """The sealed files whose change voids what was signed over this seal, sorted.

    run.json is identified by what of it never changes. For the dry run the parameters may change as a resume may change them.
    A notebook on demand that was opened again has moved its old files into `earlier/`, and decides nothing.
    """
    facts = sealed.predicate["run"]
    found = [name for name in changed(run.reports, sealed) if name != RunPath.RUN]
    if identity(signing.statement_of(run.reports / RunPath.RUN)) != {name: facts.get(name) for name in _IDENTITY}:
        found.append(RunPath.RUN)
    if sealed.after == Step.SCHEDULE_AND_NOTIFY:
        same = RunPath.PARAMETERS in found and facts["binding"] == _binding_of(run)
        found = [n for n in found if n not in CHANGING or n == RunPath.RUN or (n == RunPath.PARAMETERS and not same)]
    aside = [name for name in found if (match := OF_STEP.match(name)) and match[1] not in _LINE]
    kept = {(path.relative_to(run.reports).as_posix().split("/", 2)[2], digest_of(path))
            for name in aside for path in run.reports.glob(f"earlier/*/{glob.escape(name)}")}  # fmt: skip
    return sorted(name for name in found if name not in aside or (name, sealed.subjects.get(name)) not in kept)


def refuse_changes(folder: Path, chain: Sequence[Seal], now: Mapping[str, str]) -> None:
    """Raises `Terminal` where a sealed file was changed or taken away, naming it.

    A step that ran again has moved its files below `earlier/`, as the audit log names since the seal. Of a file that may
    change, the log names the new digest.
    """
    if not chain:
        return
    sealed, gone = chain[-1], changed(folder, chain[-1], now=now)
    since = logged(folder, chain, trust(chain, audit.own_key()))[-1] if gone else []
    against = [
        name for name in gone
        if not moved(sealed, name, now, since)
        and (name not in CHANGING or (name, now.get(name, "")) not in announced(since))
    ]  # fmt: skip
    if against:
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, f"{', '.join(against[:5])} changed after seal {sealed.number}", where=str(folder),
            next_step=f"Put back what was sealed; {RUNBOOK} verify names every difference.",
        )  # fmt: skip


def moved(sealed: Seal, name: str, later: Mapping[str, str], since: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sealed file is, as it was, at `earlier/<time>/<name>` among the later files, and the log since names the move.

    The log of an older toolkit, whose seal says nothing of moves, names none: there the place alone is looked at.
    """
    digest = sealed.subjects.get(name, "")
    places = [path for path, now in later.items() if now == digest and path.startswith("earlier/")
              and path.split("/", 2)[2:] == [name] and not name.startswith("earlier/")]  # fmt: skip
    if MOVES not in sealed.predicate:
        return bool(places)
    told = [entry["facts"] for entry in since if entry["action"] == audit.SET_ASIDE]
    return any({"file": name, "digest": digest, "to": place} in told for place in places)


def logged(folder: Path, sealed: Sequence[Seal], trust: audit.Trust | None) -> list[list[dict[str, Any]]]:
    """The entries of the audit log that count, by how many of these seals were set before: a seal holds what came before it."""
    ends = [seal.prefixes.get(audit.NAME, (0, ""))[0] for seal in sealed]
    found: list[list[dict[str, Any]]] = [[] for _ in range(len(sealed) + 1)]
    for at, entry in audit.entries_with_offsets(folder / audit.NAME, trust):
        found[bisect_right(ends, at)].append(entry)
    return found


def unbound(first: Seal, bound: Mapping[str, str], entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """(parameters that may not differ from those of the first seal and do, parameters that were changed as the log says).

    Who has to sign never changes. Anything else may be changed by `run --from`, which the log names; it voids approvals.
    One that the first seal has not was unset then, unless a newer toolkit added it: that has its default.
    """
    if (sealed := first.predicate.get(BOUND)) is None:  # of an older toolkit: it binds nothing
        return [], []
    differ = {key for key, value in sealed.items() if bound.get(key) != value}
    if unset := bound.keys() - sealed.keys():
        usual = bound_by(parameters_from({"name": "any", "source": {"path": "from"}, "target": {"path": "to"}}))
        differ |= {key for key in unset if bound[key] != usual.get(key)}
    told = (e.get("facts") for e in entries if e["action"] == "parameters changed")
    named = {str(n) for facts in told if isinstance(facts, dict) for n in facts.get("names", [])}
    against = [key for key in sorted(differ) if key.startswith("signoff.") or key not in named]
    return against, sorted(differ.difference(against))


def bound_by(parameters: Parameters) -> dict[str, str]:
    """A digest for each parameter that a resume cannot change."""
    return {
        key: sha256(json.dumps(value, sort_keys=True, default=str).encode())[:32]
        for key, value in flatten(parameters.document()).items()
        if key not in RESUMABLE
    }


def required(parameters: Parameters) -> dict[str, list[str]]:
    """The roles that sign, by gate."""
    rules = parameters.signoff
    return {"dry-run": list(rules.dry_run), "cutover": list(rules.required), "closeout": list(rules.closeout)}


def fallen(first: Seal, now: Mapping[str, Sequence[str]]) -> str:
    """The approvals that the parameters asked for at the first seal, and ask for no more, in words."""
    asked = first.predicate.get("approvals", {})
    return "; ".join(
        f"{gate}: {', '.join(gone)}"
        for gate, roles in asked.items()
        if (gone := [r for r in roles if r not in now.get(gate, ())])
    )


def _refuse_other_binding(run: RunState, chain: Sequence[Seal]) -> None:
    """`Terminal` where the parameters are not those that the first seal bound, naming approvals that fell."""
    if not chain:
        return
    refuse_other_identity(run, chain[0])
    log = audit.entries(run.reports / audit.NAME, trust(chain, audit.own_key()), ("parameters changed",))
    against, _ = unbound(chain[0], bound_by(run.parameters), log)
    if against:
        gone = fallen(chain[0], required(run.parameters))
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED,
            f"{', '.join(against[:5])} changed in parameters.yaml after seal 1{f' (approvals that fell: {gone})' * bool(gone)}",
            where=str(run.reports), next_step="Put back what was sealed; who has to sign never changes in a run.",
        )  # fmt: skip


def enter(run: RunState) -> None:
    """Work in the folder in which the run began, once its first seal, if there is one, says that it is this one, and run.json
    and the parameters are what the audit log last named."""
    if not audit.first_line_matches(run.reports, run.workspace):
        raise _broken(run.reports, audit.NAME, "its first line is not the one with which the run began")
    if sealed := chain(run):  # before a key that a seal names proves anything
        refuse_other_identity(run, sealed[0])
    for name in (RunPath.RUN, RunPath.PARAMETERS):
        run.require_own(name, run.once(runs.raw, name))
    run.enter()


def refuse_other_identity(run: RunState, first: Seal) -> None:
    """`Terminal` where run.json says of what never changes something else than the first seal."""
    if names := other_identity(first, {**identity(run.facts), "directory": run.facts["directory"]}):
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, f"{', '.join(names)} changed in run.json after seal 1", where=str(run.reports),
            next_step="Put back what was sealed; what a run is never changes.",
        )  # fmt: skip


def other_identity(first: Seal, now: Mapping[str, Any]) -> list[str]:
    """What of a run's identity, and the folder in which it works, is not as the first seal says."""
    was = {**first.predicate["run"], "directory": first.predicate.get("directory", now.get("directory"))}
    return [name for name in (*_IDENTITY, "directory") if name in was and was[name] != now.get(name)]


def binding(parameters: Parameters) -> str:
    """SHA-256 of the parameters without what a resume may change."""
    flat = flatten(parameters.document())
    kept = {key: value for key, value in flat.items() if key not in RESUMABLE}
    return sha256(json.dumps(kept, sort_keys=True, default=str).encode())


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of run.json never changes."""
    return {name: facts.get(name) for name in _IDENTITY}


def _binding_of(run: RunState) -> str:
    try:
        return binding(run.parameters)
    except (RunbookError, OSError, ValueError):
        return ""


def _is_due(run: RunState, step: str) -> bool:
    newest = after(chain(run), step)
    name = f"results/{step}.json"
    if newest is None or newest.subjects.get(name) != digest_of(run.reports / name):
        return True
    # What those who sign at 24 see includes the parameters and who may sign: `resume --set` is sealed anew, which voids
    # what was signed before. Other changes are nobody's to seal.
    if step == Step.REVIEW:
        open_still = not passed(run.result(Step.CUTOVER))
    else:  # approvals of the dry run stand while only what a resume may change has changed (`void`)
        unsigned = not list(run.reports.glob("signoffs/dry-run-*"))
        open_still = step == Step.SCHEDULE_AND_NOTIFY and run.result(Step.FENCE_WRITES) is None and unsigned
    if not open_still:
        return False
    moved = set(void(run, newest))
    if audit.signer_lists(allowed_signers(run)) != audit.signer_lists(run.reports / ALLOWED):
        moved.add(ALLOWED)
    return bool(moved) and moved <= CHANGING


def _runner(run: RunState) -> tuple[Path | None, dict[str, str]]:
    """The key that signs this seal and what the seal says of it; without ssh-keygen the seal says that it is not signed."""
    rules, directory = run.parameters.signoff, run.facts["directory"]
    given = Path(directory, rules.runner_key) if rules.runner_key else None
    return signing.runner(given, run.workspace.parent, bool(rules.required), ENVELOPE)


def custody(run: RunState) -> str:
    """What to keep outside this machine: whose key signs the seals, and the digest of the newest; "" where none signs."""
    path = max(_files(run.reports), default=None)
    try:
        newest = read_once(path) if path is not None else None
    except ValueError:  # the next seal and `verify` name it
        return ""
    runner = newest.predicate.get(RUNNER, {}) if newest is not None else _runner(run)[1]
    if "fingerprint" not in runner:
        return ""
    digest = f" The newest seal before this: {newest.path.name}, SHA-256 {newest.digest}." if newest is not None else ""
    return f"Seals of run {run.id} are signed with the key {runner['fingerprint']}.{digest}"


def _tell_outside(run: RunState, chain: Sequence[Seal]) -> None:
    """Push the digests that are not outside yet, the oldest first, and fetch the tokens that seals have not, the newest first.

    Where somebody does not answer, the next seal asks again; the run goes on. `runbook verify` names the seals that lack either.
    """
    if not (run.workspace / audit.FIRST_LINE).is_file():  # whoever sent the run here named these programs
        return
    rules = run.parameters.signoff
    before = pushed(run.reports) if rules.push_digest else {}
    for sealed in chain if rules.push_digest else ():
        if before.get(sealed.digest) == "":
            continue
        about = {"run": run.id, "seal": sealed.path.name, "digest": sealed.digest}
        words = [word.format(**about) for word in rules.push_digest or ()]
        try:
            done = run_program(
                words, run.parameters.notify.timeout_seconds, "signoff.push_digest", "notify.timeout_seconds"
            )
            # What it printed may hold a secret: the log has none of it.
            why = f"signoff.push_digest ended with exit code {done.code}" if done.code else ""
        except Terminal as error:
            why = error.what
        outcome = {"outcome": "failed", "why": why, "reason": ReasonCode.DIGEST_NOT_PUSHED} if why else {}
        audit.append(run.reports / audit.NAME, PUSHED, number=sealed.number, digest=sealed.digest, **outcome)
        if why:
            break
    url = rules.timestamp_url
    for sealed in reversed(chain):
        if url is None or signing.token(sealed.path).is_file():
            return
        try:
            write_bytes(signing.token(sealed.path), signing.request_timestamp(sealed.data, url))
        except signing.Refused:
            return


def pushed(folder: Path) -> dict[str, str]:
    """By the digests of seals that were to be pushed: "" where the place outside took it, else why it did not."""
    found = {}
    for entry in audit.entries(folder / audit.NAME, trusted(folder), (PUSHED,)):
        if isinstance(facts := entry.get("facts"), dict):
            found[str(facts.get("digest"))] = str(facts.get("why", ""))
    return found


def not_pushed(run: RunState) -> str:
    """A warning that a digest is not outside this machine, and why; "" where all are, or none is to be pushed."""
    missing = {digest: why for digest, why in pushed(run.reports).items() if why}
    names = [sealed.path.name for sealed in chain(run) if sealed.digest in missing]
    if not names:
        return ""
    return f"Warning: the digest of {names[0]} was not pushed: {missing.popitem()[1]}. The next seal tries again."


def _about(run: RunState) -> dict[str, Any]:
    """The rest of a seal's predicate: the run, its verdicts, and by digest the code and the snapshots that made them."""
    results = [r for path in sorted(run.reports.glob("results/*.json")) if (r := _result(run, path.stem)) is not None]
    notebooks = {path.name: digest_of(path) for path in sorted(runs.NOTEBOOKS.glob("*.ipynb"))}
    facts, parameters = run.facts, run.parameters
    return {
        "run": {**identity(facts), "binding": binding(parameters)},
        BOUND: bound_by(parameters),
        "approvals": required(parameters),
        "directory": facts["directory"],  # that relative paths of source and target are taken from
        "verdicts": {r.step: _verdict(run.reports, r) for r in results},
        "decision": next(
            (str(r.facts["decision"]) for r in results if r.step == Step.REVIEW and "decision" in r.facts), ""
        ),
        "snapshots": {r.step: r.facts["snapshot"] for r in results if isinstance(r.facts.get("snapshot"), dict)},
        "source": parameters.source.model_dump(mode="json", exclude_none=True),
        "target": parameters.target.model_dump(mode="json", exclude_none=True),
        "notebooks": notebooks,
        "helpers": tree(runs.REPOSITORY / "helpers"),
        "requirements_lock": digest_of(runs.REPOSITORY / "requirements.lock"),
        "versions": audit.versions(),
        "code": code(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "user": audit.user(),
    }


def _verdict(folder: Path, result: StepResult) -> dict[str, str]:
    error = result.error["code"] if result.error else ""
    digest = digest_of(folder / RunPath.RESULTS / f"{result.step}.json")
    return {"verdict": str(result.verdict), "error": error, "finished": result.finished, "result": digest}


def _result(run: RunState, step: str) -> StepResult | None:
    try:
        return run.result(step)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_recipe(run: RunState, newest: Seal) -> None:
    text = recipe(run, newest)
    path = run.reports / RunPath.VERIFY
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / SEALS).glob("*") if not p.name.startswith(".") and p.suffix not in BESIDE)


def _broken(folder: Path, name: str, why: str) -> Terminal:
    hint = f"Put back what was sealed; {RUNBOOK} verify names every difference."
    return Terminal(ReasonCode.SEAL_BROKEN, f"{name}: {why}", where=str(folder), next_step=hint)
