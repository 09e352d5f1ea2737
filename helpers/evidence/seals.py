"""The seals of a run: when one is due, its contents, and the verification of their chain.

A seal is set after the steps 14 (dry run and announcement), 24 (review), 25 (cutover) and 53 (closeout), and whenever a
command that changed the run ends: between commands, every byte of the folder is sealed. Sealed files never change: a step
that runs again moves its earlier files to `earlier/`. No seal is set after a sealed file was changed or removed, so that
nobody can hide a change with a new seal.
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
    own_files,
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
    added_lines,
    allowed_signers,
    changed,
    copy_allowed,
    digest_of,
    envelope,
    files,
    log_prefixes,
    logged_changes,
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
BOUND = "bound"  # a seal's field: a digest for each parameter that binds the run
BESIDE = (".sig", signing.TOKEN, ENVELOPE)  # suffixes of the files beside a seal
LAST = "last-seal"  # in the workspace: the digest of the newest seal that was set from here
WORK = "work"  # a seal's field: the audit log names each passed result, kept page and drill
MOVES = "moves"  # a seal's field: the audit log names moved files; absent from older seals
_IDENTITY = ("id", "name", "group", "created", "rehearsal", "host", "user")
_LINE = frozenset(step.number for step in plan.LINE)


def seals(folder: Path, known: Sequence[Seal] = ()) -> tuple[Seal, ...]:
    """Read the chain of a run's seals, oldest first. `known`: its first seals, if they were verified before.

    Raises `Terminal` for the first file that is not a seal, or does not follow the seal before it.
    """
    seals_read, paths = list(known), _files(folder)
    for seal, path in zip_longest(known, paths[: len(known)]):
        if seal.path != path:
            raise _broken(folder, seal.name, "it was there when this command began, and is missing now")
    for number, path in enumerate(paths[len(known) :], start=len(known) + 1):
        try:
            seal = read_once(path)
        except (OSError, ValueError) as error:
            raise _broken(folder, f"{SEALS}/{path.name}", f"{error}") from error
        if seal.number != number or seal.previous != (seals_read[-1].digest if seals_read else FIRST):
            raise _broken(folder, seal.name, "it does not follow the seal before it")
        seals_read.append(seal)
    return tuple(seals_read)


def chain(run: RunState) -> tuple[Seal, ...]:
    """The run's seals, oldest first; the chain is verified once for this state."""
    return run.once(_read_chain)


def _read_chain(run: RunState) -> tuple[Seal, ...]:
    """Read the seals. `Terminal` for one that its runner did not sign, or if the last one that this workspace set is missing."""
    seals_read, last_seal = seals(run.reports), run.workspace / LAST
    if run.judged:  # `verify` reports all problems itself
        return seals_read
    for seal, _, problem in signing.custody(seals_read, lambda: _runner(run)[1].get("fingerprint", "")):
        if problem:
            raise _broken(run.reports, seal.name, problem.removeprefix(f"{seal.name}: "))
    if last_seal.is_file() and last_seal.read_bytes().strip() not in {seal.digest.encode() for seal in seals_read}:
        raise _broken(run.reports, SEALS, f"the seal that {last_seal} names is missing")
    return seals_read


def with_chain(run: RunState, chain: Sequence[Seal]) -> RunState:
    """The run with these seals, which were read before, as its chain."""
    return run.with_value(_read_chain, tuple(chain))


def after(chain: Sequence[Seal], step: str) -> Seal | None:
    """The newest seal that was set after this step; None if there is none."""
    return next((seal for seal in reversed(chain) if seal.after == step), None)


def keep_sealed(run: RunState) -> RunState:
    """Set the seals that are due (see `due`), and return the run with them.

    Raises `Terminal` if the parameters differ from those that the first seal bound, even if no seal is due.
    """
    _refuse_other_binding(run, chain(run))
    for step in due(run):
        run = seal(run, step)
    return run


def due(run: RunState) -> list[str]:
    """The passed steps that are not sealed in their present state."""
    return [step for step in SEALED_AFTER if passed(run.result(step)) and _is_due(run, step)]


def at_rest(run: RunState) -> RunState:
    """At the end of a command that changed the run: seal new files, and write VERIFY.txt. Returns the run with the seal."""
    known = chain(run)
    if not known or not _covers(known[-1], run.reports):
        return seal(run)
    name_seals(run, known)
    _write_recipe(run, known[-1])
    _push_outside(run, known)
    return run


def _covers(newest: Seal, folder: Path) -> bool:
    known = {*newest.subjects, *newest.prefixes} == {*files(folder)}
    return known and not added_lines(folder, newest) and not changed(folder, newest)


def seal(run: RunState, step: str = "") -> RunState:
    """Set the next seal after `step`, or ("") at the end of a command, and return the run with it.

    Raises `EnvironmentFailure` if a secret is found in the folder, or a sealed file changed.
    """
    with RunLock(run, "seal").acquire():
        sealed = seals(run.reports, chain(run))  # another command may have set one in the meantime
        measured = measure(run.reports)
        refuse_changes(run.reports, sealed, measured.subjects)
        refuse_other_log(run, sealed)
        for leftover in (run.reports / SEALS).glob("*"):  # of a process that was killed
            seal_path = leftover.with_suffix("") if leftover.suffix in BESIDE else leftover
            if leftover.name.startswith(".") or not seal_path.is_file():
                leftover.unlink()
        parameters = run.parameters
        _refuse_other_binding(run, sealed)
        if step:
            refuse_foreign_bytecode(run.reports)
            copy_allowed(run, sealed, step)
        list_packages(run)
        measured = measure(run.reports, {n: d for n, d in measured.subjects.items() if not n.startswith(ALLOWED)})
        secrets = secret_scan.search(run.reports, parameters.secrets(), parameters.secrets_of_files())
        # A signer need not have the secrets of the steps: the files of the steps were sealed by processes that had them.
        headers = {str(ref) for side in (parameters.source, parameters.target) for ref in side.headers.values()}
        searched = {name for earlier in sealed for name in earlier.predicate["secrets"]["searched"]}
        needed = headers | {name for name in searched if name.startswith("env:")}
        secret_scan.refuse(secrets, run.reports, sorted(needed) if step else ())
        logged = audit.logged_files(run.reports, trust(sealed, audit.own_key()))
        measured = own_files(run, sealed, measured, logged)
        number, now = len(sealed) + 1, utc_now()
        key, runner = _runner(run)
        # After this, only the seal itself is written to the folder, so that it covers every byte.
        audit.append(run.reports / audit.NAME, "seal", number=number, after=step)
        predicate = {
            "number": number,
            "after": step,
            "created": now,
            "previous": sealed[-1].digest if sealed else FIRST,
            "previous_name": sealed[-1].name if sealed else FIRST,
            "secrets": {"searched": secrets.searched, "unknown": secrets.unknown},
            RUNNER: runner,
            audit.LOG_KEY: audit.own_key() or None,
            MOVES: "named",
            **({SEALED: "named"} if audit.own_key() else {}),
            WORK: "named",
            **({audit.FILES: "named"} if logged.complete else {}),
            LISTS: "kept",
            **_run_facts(run),
        }
        final = Measured(measured.subjects, log_prefixes(run.reports, measured.prefixes))
        for name in (*final.subjects, *final.prefixes):  # sealed bytes must survive a power failure
            flush_file(run.reports / name)
        path = run.reports / SEALS / f"{number:04d}-{stamp(now)}.json"
        data = statement(final, predicate)
        new_seal = read_seal(path, data)
        if key is not None:  # first, so that no seal ever exists without its signature
            write_bytes(path.with_name(f"{path.name}.sig"), signing.sign(data, signing.SEAL, key))
            if "envelope" in runner:
                payload = attestation(new_seal)
                signature = signing.raw(pre_authentication(payload), key)
                write_bytes(path.with_name(path.name + ENVELOPE), envelope(payload, signature, runner["fingerprint"]))
        write_bytes(path, data)
        if run.workspace.is_dir() and run.workspace != run.reports:  # not for a folder without a workspace
            write_text(run.workspace / LAST, f"{new_seal.digest}\n")
        name_seals(run, (*sealed, new_seal))
        _write_recipe(run, new_seal)
        _push_outside(run, (*sealed, new_seal))
        return with_chain(run, (*sealed, new_seal))


def voided_files(run: RunState, sealed: Seal) -> list[str]:
    """The sealed files whose change voids signatures over this seal, sorted.

    Of run.json, only the identity counts. For the dry run, changes of parameters that a resume may make do not count. A
    notebook on demand that ran again has moved its old files to `earlier/`; these do not count, either.
    """
    facts = sealed.predicate["run"]
    changed_files = [name for name in changed(run.reports, sealed) if name != RunPath.RUN]
    if identity(signing.statement_of(run.reports / RunPath.RUN)) != {name: facts.get(name) for name in _IDENTITY}:
        changed_files.append(RunPath.RUN)
    if sealed.after == Step.SCHEDULE_AND_NOTIFY:
        same = RunPath.PARAMETERS in changed_files and facts["binding"] == _binding_of(run)
        may_change = CHANGING - {RunPath.RUN} if same else CHANGING - {RunPath.RUN, RunPath.PARAMETERS}
        changed_files = [name for name in changed_files if name not in may_change]
    reopened = [name for name in changed_files if (match := OF_STEP.match(name)) and match[1] not in _LINE]
    copies = {(path.relative_to(run.reports).as_posix().split("/", 2)[2], digest_of(path))
            for name in reopened for path in run.reports.glob(f"earlier/*/{glob.escape(name)}")}  # fmt: skip
    moved = {name for name in reopened if (name, sealed.subjects.get(name)) in copies}
    return sorted(name for name in changed_files if name not in moved)


def refuse_changes(folder: Path, chain: Sequence[Seal], now: Mapping[str, str]) -> None:
    """Raises `Terminal` with the names of sealed files that were changed or removed.

    Permitted are moves below `earlier/` by a step that ran again, and changes of `CHANGING` files, if the log names them.
    """
    if not chain:
        return
    sealed, changed_files = chain[-1], changed(folder, chain[-1], now=now)
    entries = entries_by_seal(folder, chain, trust(chain, audit.own_key()))[-1] if changed_files else []
    refused = [
        name for name in changed_files
        if not is_moved(sealed, name, now, entries)
        and (name not in CHANGING or (name, now.get(name, "")) not in logged_changes(entries))
    ]  # fmt: skip
    if refused:
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, f"{', '.join(refused[:5])} changed after seal {sealed.number}", where=str(folder),
            next_step=f"Put back what was sealed; {RUNBOOK} verify names every difference.",
        )  # fmt: skip


def is_moved(sealed: Seal, name: str, digests: Mapping[str, str], entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an unchanged sealed file is now at `earlier/<time>/<name>`, and the `entries` of the log name the move.

    Logs of older toolkits name no moves: if the seal has no field `MOVES`, only the place counts.
    """
    digest = sealed.subjects.get(name, "")
    places = [path for path, now in digests.items() if now == digest and path.startswith("earlier/")
              and path.split("/", 2)[2:] == [name] and not name.startswith("earlier/")]  # fmt: skip
    if MOVES not in sealed.predicate:
        return bool(places)
    moves = [entry["facts"] for entry in entries if entry["action"] == audit.SET_ASIDE]
    return any({"file": name, "digest": digest, "to": place} in moves for place in places)


def entries_by_seal(folder: Path, sealed: Sequence[Seal], trust: audit.Trust | None) -> list[list[dict[str, Any]]]:
    """The proven entries of the audit log in len(sealed) + 1 lists: by the number of seals that were set before them."""
    ends = [seal.prefixes.get(audit.NAME, (0, ""))[0] for seal in sealed]
    by_seal: list[list[dict[str, Any]]] = [[] for _ in range(len(sealed) + 1)]
    for at, entry in audit.entries_with_offsets(folder / audit.NAME, trust):
        by_seal[bisect_right(ends, at)].append(entry)
    return by_seal


def unbound_parameters(
    first: Seal, bound: Mapping[str, str], entries: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """(parameters that differ from the first seal without permission, parameters that differ as logged).

    Who has to sign never changes. `run --from` may change other parameters, which is logged and voids approvals. A parameter
    that is missing in the first seal was unset then, or was added by a newer toolkit and has its default.
    """
    if (sealed := first.predicate.get(BOUND)) is None:  # seals of older toolkits bind nothing
        return [], []
    different = {key for key, value in sealed.items() if bound.get(key) != value}
    if unset := bound.keys() - sealed.keys():
        defaults = bound_by(parameters_from({"name": "any", "source": {"path": "from"}, "target": {"path": "to"}}))
        different |= {key for key in unset if bound[key] != defaults.get(key)}
    changes = (e.get("facts") for e in entries if e["action"] == "parameters changed")
    named = {str(n) for facts in changes if isinstance(facts, dict) for n in facts.get("names", [])}
    unlogged = [key for key in sorted(different) if key.startswith("signoff.") or key not in named]
    return unlogged, sorted(different.difference(unlogged))


def bound_by(parameters: Parameters) -> dict[str, str]:
    """A digest for each parameter that a resume cannot change."""
    return {
        key: sha256(json.dumps(value, sort_keys=True, default=str).encode())[:32]
        for key, value in flatten(parameters.document()).items()
        if key not in RESUMABLE
    }


def required(parameters: Parameters) -> dict[str, list[str]]:
    """The roles that must sign, by gate."""
    rules = parameters.signoff
    return {"dry-run": list(rules.dry_run), "cutover": list(rules.required), "closeout": list(rules.closeout)}


def dropped_approvals(first: Seal, now: Mapping[str, Sequence[str]]) -> str:
    """The approvals that were required at the first seal and are not required now, in words."""
    required_before = first.predicate.get("approvals", {})
    return "; ".join(
        f"{gate}: {', '.join(dropped)}"
        for gate, roles in required_before.items()
        if (dropped := [r for r in roles if r not in now.get(gate, ())])
    )


def _refuse_other_binding(run: RunState, chain: Sequence[Seal]) -> None:
    """`Terminal` if the parameters differ from those that the first seal bound, with the approvals that were dropped."""
    if not chain:
        return
    refuse_other_identity(run, chain[0])
    log = audit.entries(run.reports / audit.NAME, trust(chain, audit.own_key()), ("parameters changed",))
    unbound, _ = unbound_parameters(chain[0], bound_by(run.parameters), log)
    if unbound:
        dropped = dropped_approvals(chain[0], required(run.parameters))
        fell = f" (approvals that fell: {dropped})" if dropped else ""
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, f"{', '.join(unbound[:5])} changed in parameters.yaml after seal 1{fell}",
            where=str(run.reports), next_step="Put back what was sealed; who has to sign never changes in a run.",
        )  # fmt: skip


def enter(run: RunState) -> None:
    """Change to the folder in which the run began. Checks before that it is the folder in the first seal, if there is one, and
    that run.json and the parameters have their logged digests."""
    if not audit.first_line_matches(run.reports, run.workspace):
        raise _broken(run.reports, audit.NAME, "its first line is not the one with which the run began")
    if sealed := chain(run):  # before trusting keys that seals name
        refuse_other_identity(run, sealed[0])
    for name in (RunPath.RUN, RunPath.PARAMETERS):
        run.require_own(name, run.once(runs.raw, name))
    run.enter()


def refuse_other_identity(run: RunState, first: Seal) -> None:
    """`Terminal` if the identity in run.json differs from that in the first seal."""
    if names := other_identity(first, {**identity(run.facts), "directory": run.facts["directory"]}):
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, f"{', '.join(names)} changed in run.json after seal 1", where=str(run.reports),
            next_step="Put back what was sealed; what a run is never changes.",
        )  # fmt: skip


def other_identity(first: Seal, now: Mapping[str, Any]) -> list[str]:
    """The names of the identity's values, and "directory", that differ from the first seal."""
    first_values = {**first.predicate["run"], "directory": first.predicate.get("directory", now.get("directory"))}
    return [name for name in (*_IDENTITY, "directory") if name in first_values and first_values[name] != now.get(name)]


def binding(parameters: Parameters) -> str:
    """SHA-256 of the parameters that a resume cannot change."""
    values = flatten(parameters.document())
    fixed = {key: value for key, value in values.items() if key not in RESUMABLE}
    return sha256(json.dumps(fixed, sort_keys=True, default=str).encode())


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The values in run.json that never change."""
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
    # Signers at step 24 see the parameters and the list of signers: a change by `resume --set` is sealed again, which voids
    # earlier signatures. Other changes are not sealed.
    if step == Step.REVIEW:
        is_open = not passed(run.result(Step.CUTOVER))
    else:  # changes that a resume may make do not void approvals of the dry run
        unsigned = not list(run.reports.glob("signoffs/dry-run-*"))
        is_open = step == Step.SCHEDULE_AND_NOTIFY and run.result(Step.FENCE_WRITES) is None and unsigned
    if not is_open:
        return False
    changed_names = set(voided_files(run, newest))
    if audit.signer_lists(allowed_signers(run)) != audit.signer_lists(run.reports / ALLOWED):
        changed_names.add(ALLOWED)
    return bool(changed_names) and changed_names <= CHANGING


def _runner(run: RunState) -> tuple[Path | None, dict[str, str]]:
    """(path of the key that signs seals, the seal's field about it); without ssh-keygen (None, a field that says unsigned)."""
    rules, directory = run.parameters.signoff, run.facts["directory"]
    key = Path(directory, rules.runner_key) if rules.runner_key else None
    return signing.runner(key, run.workspace.parent, bool(rules.required), ENVELOPE)


def custody(run: RunState) -> str:
    """A text to keep outside of this machine: the key that signs the seals, and the newest digest; "" for unsigned seals."""
    path = max(_files(run.reports), default=None)
    try:
        newest = read_once(path) if path is not None else None
    except ValueError:  # the next seal and `verify` report it
        return ""
    runner = newest.predicate.get(RUNNER, {}) if newest is not None else _runner(run)[1]
    if "fingerprint" not in runner:
        return ""
    digest = f" The newest seal before this: {newest.path.name}, SHA-256 {newest.digest}." if newest is not None else ""
    return f"Seals of run {run.id} are signed with the key {runner['fingerprint']}.{digest}"


def _push_outside(run: RunState, chain: Sequence[Seal]) -> None:
    """Push digests that were not pushed yet, oldest first, and fetch missing time-stamps, newest first.

    After a failure the run goes on, and the next seal tries again. `runbook verify` names the seals that lack either.
    """
    if not (run.workspace / audit.FIRST_LINE).is_file():  # do not start programs that a received run names
        return
    rules = run.parameters.signoff
    outcomes = pushed(run.reports) if rules.push_digest else {}
    for sealed in chain if rules.push_digest else ():
        if outcomes.get(sealed.digest) == "":
            continue
        facts = {"run": run.id, "seal": sealed.path.name, "digest": sealed.digest}
        words = [word.format(**facts) for word in rules.push_digest or ()]
        try:
            program = run_program(
                words, run.parameters.notify.timeout_seconds, "signoff.push_digest", "notify.timeout_seconds"
            )
            # Its output may hold a secret, so it is not logged.
            problem = f"signoff.push_digest ended with exit code {program.code}" if program.code else ""
        except Terminal as error:
            problem = error.what
        outcome = {"outcome": "failed", "why": problem, "reason": ReasonCode.DIGEST_NOT_PUSHED} if problem else {}
        audit.append(run.reports / audit.NAME, PUSHED, number=sealed.number, digest=sealed.digest, **outcome)
        if problem:
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
    """The outcome of each push, by the seal's digest: "" for success, else the reason of the failure."""
    outcomes = {}
    for entry in audit.entries(folder / audit.NAME, trusted(folder), (PUSHED,)):
        if isinstance(facts := entry.get("facts"), dict):
            outcomes[str(facts.get("digest"))] = str(facts.get("why", ""))
    return outcomes


def not_pushed(run: RunState) -> str:
    """A warning about a digest that could not be pushed; "" if there is none."""
    missing = {digest: reason for digest, reason in pushed(run.reports).items() if reason}
    names = [sealed.path.name for sealed in chain(run) if sealed.digest in missing]
    if not names:
        return ""
    return f"Warning: the digest of {names[0]} was not pushed: {missing.popitem()[1]}. The next seal tries again."


def _run_facts(run: RunState) -> dict[str, Any]:
    """The rest of a seal's predicate: the run, its verdicts, the snapshots, and digests of the code."""
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


def _broken(folder: Path, name: str, reason: str) -> Terminal:
    hint = f"Put back what was sealed; {RUNBOOK} verify names every difference."
    return Terminal(ReasonCode.SEAL_BROKEN, f"{name}: {reason}", where=str(folder), next_step=hint)
