"""`runbook sign | verify | audit | archive`: what they take and what they say."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, RunbookError, UsageError, WorldError, one_line
from helpers.evidence import signing, signoffs, statement
from helpers.evidence.seals import BESIDE, CHANGING, RUNNER, after, announced, chain
from helpers.evidence.statement import FIRST, SEALS, Seal, changed, digest_of, files, read_seal
from helpers.formatting import size
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, passed, write_bytes, writing
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunPath, RunState
from helpers.run.plan import Step

# -- archive -----------------------------------------------------------------------------------------------------------

# A run as one zip: the same folder gives the same bytes, so two people can compare digests and not files.


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold; real times are in the files


def archive(folder: Path, path: Path) -> str:
    """Write every file below the folder into a zip under the run's id; a sentence with its digest.

    Raises `UsageError` where `path` exists or lies inside the folder.
    """
    if path.exists() or path.absolute().is_relative_to(folder.absolute()):
        why = "exists already" if path.exists() else "lies in the folder of the run"
        raise UsageError(
            ReasonCode.BAD_OUTPUT, why, where=one_line(str(path)), next_step="Name another file: --output FILE.zip."
        )
    if links := sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink()):
        raise WorldError(
            ReasonCode.NOT_ARCHIVED, f"{one_line(links[0], 200)} is a link, and what it points to is no evidence of this run",
            where=str(folder), next_step="Take links out of the folder; nothing was written.",
        )  # fmt: skip
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    try:
        with (
            writing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as zipped,
        ):
            for name in names:
                entry = zipfile.ZipInfo(f"{folder.name}/{name}", _EPOCH)
                entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
                zipped.writestr(entry, (folder / name).read_bytes())
        digest = digest_of(path)
    except OSError as error:
        raise WorldError(
            ReasonCode.NOT_ARCHIVED, f"cannot be written ({error.strerror})", where=one_line(str(path))
        ) from error
    what = f"{path}: {len(names)} files, {size(path.stat().st_size)}, SHA-256 {digest}"
    return f"{what}\nUnpack it anywhere; in its folder: bash VERIFY.txt"


# -- verify ------------------------------------------------------------------------------------------------------------

# `runbook verify`: whether a run's folder is what was sealed and signed, to the byte.
#
# Nothing outside the folder is read, so a folder that was archived years ago is judged as it was on the day.


_SIGNED_BEFORE = {
    signoffs.CUTOVER: Step.CUTOVER,
    signoffs.DRY_RUN: Step.FENCE_WRITES,
}  # the step that does not begin without the approvals


@dataclass(slots=True)
class Verified:
    """What was found: `problems` and `notes` are lines that begin with the file, `newest` the newest seal's digest."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    newest: str = ""
    summary: str = ""


def verify(
    folder: Path, expect: Sequence[str] = (), signers: Path | None = None, authority: Path | None = None
) -> Verified:
    """Check every file, the chain of seals, every signature, and that results agree with the notebooks that claim them.

    `expect` are digests of seals that were noted elsewhere, each of which must be in the chain. `signers` is a list of
    allowed signers from outside the folder that must allow each signature, too, those of the seals by `runbook-seal`.
    `authority` is the CA certificate of the time-stamping authority.
    """
    found = Verified()
    chain = _chain(folder, found)
    found.problems += _expected(chain, expect, found)
    if chain:
        newest = chain[-1]
        found.newest = newest.digest
        found.problems += _files(folder, newest)
        found.problems += _audit_log(folder)
        found.problems += _history(folder, chain)
        found.problems += _custody(chain, signers, found)
        found.problems += _times(chain, authority, found)
        found.problems += _notebooks(folder, found)
        found.problems += _signatures(folder, found, signers)
        found.problems += _derived(folder, newest)
        statements = len(list((folder / RunPath.SIGNOFFS).glob("*.json")))
        found.summary = f"{len(newest.subjects)} files, {len(chain)} seals, {statements} signatures"
    return found


def _chain(folder: Path, found: Verified) -> list[Seal]:
    """The seals; whatever is wrong with their chain is a problem, and the newest is compared with VERIFY.txt."""
    paths = sorted(path for path in (folder / SEALS).glob("*") if path.suffix not in BESIDE)
    chain: list[Seal] = []
    for path in (folder / SEALS).glob("*"):
        if path.suffix in BESIDE and not path.with_suffix("").is_file():
            found.problems.append(f"seals/{path.name}: it belongs to a seal that is not here")
    for path in paths:
        try:
            seal = read_seal(path)
        except (OSError, ValueError) as error:
            found.problems.append(f"seals/{path.name}: {error}")
            continue
        if seal.number != len(chain) + 1 or seal.previous != (chain[-1].digest if chain else FIRST):
            found.problems.append(f"{seal.name}: it does not follow the seal before it")
            if seal.previous_name != FIRST:
                found.problems.append(f"{seal.previous_name}: missing, or not the one that {seal.name} names")
        chain.append(seal)
    if not paths:
        found.problems.append("seals/: there is no seal; the run was not sealed")
    elif chain:
        path = folder / statement.NAME
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        said = statement.NEWEST.search(text)
        if said is None:
            found.problems.append(f"{statement.NAME}: it names no newest seal")
        elif (said["digest"], said["name"]) != (chain[-1].digest, chain[-1].name):
            found.problems.append(
                f"{one_line(said['name'], 100)}: missing, or not the newest seal as {statement.NAME} names it"
            )
    return chain


def _files(folder: Path, newest: Seal) -> Iterator[str]:
    sealed = {*newest.subjects, *newest.prefixes}
    for name in changed(folder, newest):
        yield f"{name}: {'changed' if (folder / name).exists() else 'missing'} since seal {newest.number}"
    try:
        present = files(folder)
    except RunbookError as error:
        yield f"{error.what}"
        return
    for name in sorted(set(present) - sealed):
        yield f"{name}: not sealed; it was added after seal {newest.number}"


def _audit_log(folder: Path) -> Iterator[str]:
    broken = audit.check(folder / audit.NAME)
    if broken is not None:
        yield f"{audit.NAME}: line {broken.line}: {broken.why}"


def _history(folder: Path, chain: list[Seal]) -> Iterator[str]:
    """Between two seals a file may move into `earlier/`, or be one that the toolkit itself writes again, as the log says."""
    log = announced(folder, max(seal.number for seal in chain))
    for one, two in pairwise(chain):
        moved = {digest for name, digest in two.subjects.items() if name.startswith("earlier/")}
        for name, digest in one.subjects.items():
            now = two.subjects.get(name, "")
            if now == digest or digest in moved:
                continue
            if name not in CHANGING:
                yield f"{name}: changed between seal {one.number} and seal {two.number}"
            elif RUNNER in one.predicate and (name, now) not in log[one.number]:
                yield f"{name}: changed between seal {one.number} and seal {two.number}, and {audit.NAME} names no such change"
        if datetime.fromisoformat(two.created) < datetime.fromisoformat(one.created):
            yield f"{two.name}: its time, {two.created}, is before that of seal {one.number}, {one.created}"


def _expected(chain: list[Seal], expect: Sequence[str], found: Verified) -> Iterator[str]:
    """The digests that were noted elsewhere are those of seals in the chain; what was sealed later is a note."""
    digests = [seal.digest for seal in chain]
    for digest in expect:
        if digest not in digests:
            yield f"seals/: no seal has the expected SHA-256 {one_line(digest, 64)}: these are not the seals that were made then"
        elif later := chain[digests.index(digest) + 1 :]:
            after_what = ", ".join(f"{seal.number} ({_occasion(seal)})" for seal in later)
            found.notes.append(
                f"{chain[digests.index(digest)].name}: is the expected one; seals made later: {after_what}"
            )


def _occasion(seal: Seal) -> str:
    return f"after step {seal.after}" if seal.after else "when a command ended"


def _custody(chain: list[Seal], signers: Path | None, found: Verified) -> Iterator[str]:
    """Each seal is signed by the runner that it names; a change of the runner's key or of the code is named."""
    before: Seal | None = None
    unsigned: list[int] = []
    for seal in chain:
        runner = seal.predicate.get(RUNNER)
        if runner is None or "unsigned" in runner:
            unsigned.append(seal.number)
            if before is not None:
                yield f"{seal.name}: not signed, but seal {before.number} is"
            continue
        signature = seal.path.with_name(f"{seal.path.name}.sig")
        try:
            key = signing.signed_by(seal.path.read_bytes(), signature, signing.SEAL)
            if signers is not None:
                when = datetime.fromisoformat(seal.created)
                signing.verify(seal.path.read_bytes(), signature, signing.SEAL, signers, when)
        except RunbookError as error:
            yield f"{seal.name}.sig: {error.what}"
            continue
        if key != runner["fingerprint"]:
            yield f"{seal.name}: signed with {key}, but names {runner['fingerprint']}"
        if before is None or before.predicate[RUNNER]["fingerprint"] != key:
            changed_hands = "" if before is None else f", not with the key of seal {before.number}"
            line = (
                f"{seal.name}: signed with the runner's key {key} of {one_line(runner['principal'], 80)}{changed_hands}"
            )
            (found.notes if before is None or signers is not None else found.problems).append(line)
        found.notes += _other_code(before, seal)
        before = seal
    if unsigned:
        found.notes.append(f"seals/: not signed: {', '.join(map(str, unsigned))}")
        if signers is not None:
            yield f"seals/: not signed, so that nobody can vouch for them: {', '.join(map(str, unsigned))}"


def _times(chain: list[Seal], authority: Path | None, found: Verified) -> Iterator[str]:
    """Each token of a time-stamping authority is for its seal, and its time is not before that of the seal."""
    without = [seal.number for seal in chain if not signing.token(seal.path).is_file()]
    for seal in chain:
        path = signing.token(seal.path)
        if seal.number in without:
            continue
        try:
            when = signing.stamped(seal.path, path, authority)
        except RunbookError as error:
            yield f"seals/{path.name}: {error.what}"
            continue
        if when < datetime.fromisoformat(seal.created) - signoffs.CLOCKS_DIFFER:
            yield f"seals/{path.name}: its time, {when:%Y-%m-%d %H:%M:%S} UTC, is before that of the seal"
        checked = "" if authority else ", by an authority that was not checked (--timestamp-authority)"
        found.notes.append(f"{seal.name}: existed at {when:%Y-%m-%d %H:%M:%S} UTC{checked}")
    if authority is not None and without:
        yield f"seals/: without a time-stamp: {', '.join(map(str, without))}"
    elif without and len(without) < len(chain):
        found.notes.append(f"seals/: without a time-stamp: {', '.join(map(str, without))}")


def _other_code(before: Seal | None, seal: Seal) -> Iterator[str]:
    """What of the code is not as it was at the seal before."""
    if before is not None:
        parts = ("helpers", "notebooks", "requirements_lock", "versions", "code")
        moved = [part for part in parts if before.predicate.get(part) != seal.predicate.get(part)]
        if moved:
            yield f"{seal.name}: the code is not that of seal {before.number}: {', '.join(moved)}"


def _notebooks(folder: Path, found: Verified) -> Iterator[str]:
    """The digest of each result is what the last cell of its notebook showed when the step ended."""
    for path in sorted(folder.glob("results/*.json")):
        name = f"results/{path.name}"
        try:
            result = StepResult.read(path)
            step = plan.find(result.step)
        except (OSError, ValueError, KeyError, TypeError, RunbookError):
            yield f"{name}: it is not a result"
            continue
        if result.step != path.stem or result.run_id != folder.name:
            yield f"{name}: it is the result of step {result.step} of run {result.run_id}"
        notebook = folder / step.notebook
        if not notebook.is_file():
            if result.facts.get("execution"):
                yield f"{name}: {step.notebook}, which claims it, is missing"
            else:
                found.notes.append(f"{name}: the step was run by hand; its notebook is with who ran it")
        elif passed(result) and digest_of(path) not in _shown(notebook):
            yield f"{name}: it is not the result that {step.notebook} shows"


def _shown(notebook: Path) -> str:
    """What the outputs of an executed notebook say, as HTML."""
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
        return "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _signatures(folder: Path, found: Verified, signers: Path | None) -> Iterator[str]:
    """Every statement; and that no step ran which needed approvals that are not there."""
    run = RunState(folder.name, folder, folder)
    try:
        refused = signoffs.refused_statements(run, signers)
        yield from (f"{name}: {why}" for name, why in refused.items())
        for gate, step in _SIGNED_BEFORE.items():
            yield from _gate(run, gate, run.result(step) is not None, found, signers)
    except (RunbookError, OSError, ValueError, KeyError, TypeError) as error:
        yield f"signoffs/: the approvals cannot be judged: {error}"


def _gate(run: RunState, gate: str, needed: bool, found: Verified, signers: Path | None) -> Iterator[str]:
    state = signoffs.gate_state(run, gate, signers)
    found.notes += [f"signoffs/: {gate}: {role} signed with {who}" for role, who in state.keys.items()]
    for role in state.missing:
        stale = f"given before {', '.join(state.stale[role])} changed" if state.stale.get(role) else ""
        why = state.refused.get(role) or stale or "nobody has signed"
        path = signoffs.newest(run.reports, gate, role)
        name = f"signoffs/{path.name}" if path else f"signoffs/{gate}-{role}"
        if needed or path is not None or role in state.refused:
            yield f"{name}: {role}: {why}"
        elif after(chain(run), signoffs.GATES[gate]) is not None:
            found.notes.append(f"{name}: {role} has not signed yet")
    if needed:
        yield from (f"signoffs/: step {_SIGNED_BEFORE[gate]} ran although {line}" for line in state.blocked)


def _derived(folder: Path, newest: Seal) -> Iterator[str]:
    """What is made from the other files is made again and compared."""
    from helpers.report.pages import run_page  # half a second, which no other command waits for

    made: dict[str, Callable[[], str]] = {
        statement.NAME: lambda: statement.recipe(folder, newest),
        RunPath.PAGE: lambda: run_page(folder),
    }
    for name, make in made.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
            continue
        try:
            same = path.read_bytes() == make().encode("utf-8", errors="backslashreplace")
        except Exception as error:  # whatever a damaged file does to a page, the other problems are still listed
            yield f"{name}: it cannot be made again from the files of the run ({type(error).__name__})"
            continue
        if not same:
            yield f"{name}: it is not what the files of the run give"


# -- evidence ----------------------------------------------------------------------------------------------------------


Declare = Callable[..., argparse.ArgumentParser]


def declare(declared: Declare) -> None:
    """Declare the commands. `declared(name, action, text, details)` gives each its parser."""
    sign = declared(
        "sign", _sign, "sign the approval or refusal of one person",
        "Give --role, --name, --decision and either --key or --export; or give --import alone. See docs/evidence.md.",
    )  # fmt: skip
    sign.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    sign.add_argument("--role", default="", metavar="ROLE", help="role that signs, one of signoff.required")
    sign.add_argument("--name", default="", metavar="NAME", help="name of the person who signs")
    sign.add_argument("--decision", default="", choices=["go", "no-go"], help="approve or refuse")
    sign.add_argument("--gate", default="cutover", choices=["dry-run", "cutover", "closeout"], help="what is approved")
    sign.add_argument("--reason", default="", metavar="TEXT", help="one line, shown with the decision")
    sign.add_argument(
        "--accept", action="append", default=[], metavar="CRITERION", help="accept this marginal criterion; repeatable"
    )
    sign.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key to sign with; the public key if an agent holds the private one",
    )
    sign.add_argument(
        "--export", type=Path, metavar="FILE", help="write the statement to this file, to sign it on another machine"
    )
    sign.add_argument(
        "--import",
        dest="signature",
        type=Path,
        metavar="FILE.sig",
        help="record a signature made on another machine; FILE must be beside it",
    )
    verify = declared(
        "verify", _verify, "check every file, seal and signature of a run",
        "Each problem is one line that names the file; the exit code is then 1.",
    )  # fmt: skip
    audit = declared(
        "audit", _audit, "show who did what and when", "The exit code is 1 if the log was changed or is incomplete."
    )
    archive = declared(
        "archive", _archive, "write a run as one zip file, and print its SHA-256",
        "The same run gives the same bytes each time.",
    )  # fmt: skip
    for command in (verify, audit, archive):
        command.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    verify.add_argument(
        "--timestamp-authority", type=Path, metavar="FILE.pem",
        help="CA certificate that the time-stamp of every seal must lead to",
    )  # fmt: skip
    for command in (verify, archive):
        command.add_argument(
            "--expect", action="append", default=[], metavar="SHA256",
            help="digest of a seal that was noted elsewhere, which must be among the seals; repeatable",
        )  # fmt: skip
    verify.add_argument(
        "--allowed-signers", type=Path, metavar="FILE",
        help="list from outside the run that must allow each signature, those of the seals in the namespace runbook-seal",
    )  # fmt: skip
    archive.add_argument(
        "--output", type=Path, metavar="FILE.zip", help="file to write; default: RUN_ID.zip in the current folder"
    )


def _sign(chosen: argparse.Namespace) -> int:
    if (runs.reports_root() / chosen.run_id / runs.GROUP).is_file():
        return _sign_group(chosen)
    folder = runs.find(chosen.run_id)
    ways = [way for way in (chosen.key, chosen.export, chosen.signature) if way is not None]
    if len(ways) != 1:
        raise UsageError(
            ReasonCode.HOW_TO_SIGN, "sign needs one of --key, --export and --import",
            next_step="With your own key: --key ~/.ssh/id_ed25519; to sign elsewhere: --export FILE, then --import FILE.sig.",
        )  # fmt: skip
    if chosen.signature is not None:
        return _import(folder, chosen.signature)
    if not (chosen.role and chosen.name and chosen.decision):
        raise UsageError(
            ReasonCode.USAGE, "sign needs --role, --name and --decision", next_step=f"See: {RUNBOOK} sign --help"
        )
    words = (chosen.role, chosen.name, chosen.decision, chosen.gate, chosen.reason, chosen.accept)
    if chosen.key is not None:
        return _recorded(folder, signoffs.sign(folder, *words, key=chosen.key.expanduser()))
    data = signoffs.statement(folder, *words)
    if chosen.export.exists():
        raise UsageError(ReasonCode.FILE_EXISTS, "something is there already", where=one_line(str(chosen.export)))
    write_bytes(chosen.export, data)
    role = chosen.role.strip().lower().replace("-", "_")
    print(
        f"Written to {chosen.export}. Read it, sign it where the key is, and bring {chosen.export}.sig back beside it:"
    )
    print(f"    {shlex.join(signing.command('KEY', role, str(chosen.export)))}")
    print(f"    {RUNBOOK} sign {folder.id} --import {shlex.quote(f'{chosen.export}.sig')}")
    return 0


def _sign_group(chosen: argparse.Namespace) -> int:
    """One role's word on every run of a group that waits for it; each gets a signature of its own."""
    from helpers.runner import group

    many = group.read(chosen.run_id)
    assert many is not None
    if chosen.key is None or chosen.export is not None or chosen.signature is not None:
        raise UsageError(ReasonCode.HOW_TO_SIGN, "the runs of a group are signed together with --key only", where=chosen.run_id,
                         next_step=f"To sign elsewhere, sign each by itself: {RUNBOOK} status {chosen.run_id}")  # fmt: skip
    due = list(group.due_for(many, chosen.gate, chosen.role.strip().lower().replace("-", "_")))
    if not due:
        raise UsageError(ReasonCode.NOTHING_TO_SIGN, f"no run of {many.id} waits for {chosen.role or 'this role'} now",
                         next_step=f"See: {RUNBOOK} status {many.id}")  # fmt: skip
    codes = [0]
    for folder in due:
        try:
            codes.append(_sign(argparse.Namespace(**{**vars(chosen), "run_id": folder.id})))
        except RunbookError as error:
            codes.append(error.exit_code)
            print(f"runbook: {folder.id}: {error.line()}", file=sys.stderr, flush=True)
    return max(codes)


def _import(folder: RunState, signature: Path) -> int:
    statement = signature.with_suffix("")
    try:
        data, signed = statement.read_bytes(), signature.read_bytes()
    except OSError as error:
        raise UsageError(
            ReasonCode.NO_SIGNATURE, f"cannot be read ({error.strerror})", where=one_line(str(error.filename)),
            next_step="Give FILE.sig; FILE, as --export wrote it, must be beside it.",
        ) from error  # fmt: skip
    return _recorded(folder, signoffs.record(folder, data, signed))


def _recorded(folder: RunState, path: Path) -> int:
    """Log and seal what was signed, and show it on the pages."""
    from helpers.report.pages import leave
    from helpers.status.overview import next_action

    folder.log(f"signed: {path.name}")
    leave(folder)
    print(f"Recorded in {path}. {next_action(folder)}")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    folder = runs.find(chosen.run_id)
    if chosen.allowed_signers is not None:
        signing.read_allowed(chosen.allowed_signers)
    if chosen.timestamp_authority is not None and not chosen.timestamp_authority.is_file():
        raise UsageError(
            ReasonCode.FILE_UNREADABLE, "there is no such certificate", where=one_line(str(chosen.timestamp_authority))
        )
    found = verify(
        folder.reports, [digest.lower() for digest in chosen.expect], chosen.allowed_signers, chosen.timestamp_authority
    )
    for line in [*found.problems, *found.notes]:
        print(one_line(line, 2000))
    if found.problems:
        print(f"{len(found.problems)} things in run {folder.id} do not fit.")
        return 1
    print(f"Run {folder.id} fits: {found.summary}. Newest seal: {found.newest}")
    return 0


def _audit(chosen: argparse.Namespace) -> int:
    from helpers import audit
    from helpers.status.overview import table

    folder = runs.find(chosen.run_id)
    path = folder.reports / audit.NAME
    rows = [_audit_row(entry) for entry in audit.entries(path)]
    print(table(rows) if rows else "Nothing is recorded.")
    broken = audit.check(path)
    if broken is not None:
        print(f"{path}: line {broken.line}: {broken.why}")
        return 1
    return 0


def _audit_row(entry: dict[str, Any]) -> dict[str, str]:
    facts = entry.get("facts")
    said = ", ".join(f"{k}={v}" for k, v in sorted(facts.items())) if isinstance(facts, dict) else ""
    who = f"{entry.get('user')}@{entry.get('host')}"
    columns = {
        "when": str(entry.get("when"))[:19],
        "who": who,
        "action": entry.get("action"),
        "outcome": entry.get("outcome"),
    }
    return {name: one_line(str(value), 60) for name, value in columns.items()} | {"facts": one_line(said, 120)}


def _archive(chosen: argparse.Namespace) -> int:
    folder = runs.find(chosen.run_id)
    found = verify(folder.reports, [digest.lower() for digest in chosen.expect])
    if found.problems:
        raise UsageError(
            ReasonCode.NOT_ARCHIVED, f"{found.problems[0]} ({len(found.problems)} problems)", where=f"run {folder.id}",
            next_step=f"See all: {RUNBOOK} verify {folder.id}. What does not verify is not archived.",
        )  # fmt: skip
    path = chosen.output if chosen.output is not None else Path(f"{folder.id}.zip")
    print(archive(folder.reports, path))
    return 0
