"""`runbook sign | verify | audit | archive`: their arguments and output."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.cutover import CutoverState
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError, UsageError, one_line
from helpers.evidence import signing, signoffs, verification
from helpers.evidence.seals import LAST, custody, not_pushed, seals
from helpers.evidence.signing import statement_in, statement_of
from helpers.evidence.statement import LARGEST, SEALED, digest_of, prefix_digest, trusted
from helpers.evidence.verification import Verified
from helpers.formatting import count, size
from helpers.reason_codes import ReasonCode
from helpers.results import contents, write_bytes, writing
from helpers.run import folders as runs
from helpers.run.folders import RunPath, RunState


def verify(
    folder: Path, expect: Sequence[str] = (), signers: Path | None = None, authority: Path | None = None
) -> Verified:
    """As `helpers.evidence.verification.verify`, with the page of the run as this toolkit makes it."""
    from helpers.report.pages import run_page  # half a second, which no other command waits for

    return verification.verify(folder, run_page, expect, signers, authority)


# -- archive -----------------------------------------------------------------------------------------------------------

# A run as one zip: the same folder gives the same bytes, so two people can compare digests instead of files.


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold; real times are in the files


def archive(folder: Path, path: Path) -> str:
    """Write every file below the folder into a zip under the run's id; a sentence with its digest.

    Raises `UsageError` where `path` exists or lies inside the folder.
    """
    _refuse_output(folder, path)
    names = _names(folder)
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
        raise EnvironmentFailure(
            ReasonCode.NOT_ARCHIVED, f"cannot be written ({error.strerror})", where=one_line(str(path))
        ) from error
    what = f"{path}: {count(len(names), 'file')}, {size(path.stat().st_size)}, SHA-256 {digest}"
    return f"{what}\nUnpack it anywhere; in its folder: bash VERIFY.txt"


def _refuse_output(folder: Path, path: Path) -> None:
    if path.exists() or path.absolute().is_relative_to(folder.absolute()):
        why = "exists already" if path.exists() else "lies in the folder of the run"
        raise UsageError(
            ReasonCode.BAD_OUTPUT, why, where=one_line(str(path)), next_step="Name another file: --output FILE.zip."
        )


def _names(folder: Path) -> list[str]:
    """The files below the folder; `EnvironmentFailure` where one is a link."""
    if links := sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink()):
        raise EnvironmentFailure(
            ReasonCode.NOT_ARCHIVED, f"{one_line(links[0], 200)} is a link, and what it points to is no evidence of this run",
            where=str(folder), next_step="Take links out of the folder; nothing was written.",
        )  # fmt: skip
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# -- evidence ----------------------------------------------------------------------------------------------------------


Declare = Callable[..., argparse.ArgumentParser]


def declare(declared: Declare) -> None:
    """Declare the commands. `declared(name, action, text, details)` gives each its parser."""
    sign = declared(
        "sign", _sign, "sign the approval or refusal of one person",
        "Give --role, --name, --decision and either --key or --export; or give --import alone. See docs/evidence.md.",
    )  # fmt: skip
    sign.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    sign_options(sign)
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
        "verify", verify_run, "check every file, seal and signature of a run",
        "Each problem is one line that names the file; the exit code is then 1.",
    )  # fmt: skip
    audit = declared(
        "audit",
        _audit,
        "show who did what and when",
        "The exit code is 1 if the log was changed, is incomplete or has a line that nobody trusted signed.",
    )
    archive = declared(
        "archive", _archive, "write a run as one zip file, and print its SHA-256",
        "The same run gives the same bytes each time.",
    )  # fmt: skip
    for command in (verify, audit, archive):
        command.set_defaults(judges=True)
        command.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    authority_option(verify)
    for command in (verify, archive):
        expect_option(command)
    for command in (verify, audit):
        signers_option(command)
    archive.add_argument(
        "--output", type=Path, metavar="FILE.zip", help="file to write; default: RUN_ID.zip in the current folder"
    )


def sign_options(command: argparse.ArgumentParser) -> None:
    """The options of a signature: for one run, and for all runs of a fleet."""
    command.add_argument("--role", default="", metavar="ROLE", help="role that signs, one of signoff.required")
    command.add_argument("--name", default="", metavar="NAME", help="name of the person who signs")
    command.add_argument("--decision", default="", choices=["go", "no-go"], help="approve or refuse")
    command.add_argument(
        "--gate", default="cutover", choices=["dry-run", "cutover", "closeout"], help="what is approved"
    )
    command.add_argument("--reason", default="", metavar="TEXT", help="one line, shown with the decision")
    command.add_argument(
        "--accept", action="append", default=[], metavar="CRITERION", help="accept this marginal criterion; repeatable"
    )
    command.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="private key to sign with; the public key if an agent holds the private one",
    )


def expect_option(command: argparse.ArgumentParser, meaning: str = "") -> None:
    """`--expect SHA256`: a list of seals; or with `meaning` one digest of something else, None where none is given."""
    kind: dict[str, Any] = {} if meaning else {"action": "append", "default": []}
    seals = "digest of a seal that was noted elsewhere, which must be among the seals; repeatable"
    command.add_argument("--expect", type=_sha256, metavar="SHA256", help=meaning or seals, **kind)


def _sha256(text: str) -> str:
    """A digest in lower case. An empty one, such as from an unset variable, is refused: nothing would be compared."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest := text.strip().lower()):
        raise argparse.ArgumentTypeError(f"takes a SHA-256 of 64 hexadecimal digits, not {one_line(text, 80)!r}")
    return digest


def authority_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timestamp-authority", type=Path, metavar="FILE.pem",
        help="CA certificate that the time-stamp of every seal must lead to",
    )  # fmt: skip


def signers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allowed-signers", type=Path, metavar="FILE",
        help="list from outside the run that must allow each signature, those of the seals in the namespace runbook-seal",
    )  # fmt: skip


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
    data = signoffs.statement(
        folder, chosen.role, chosen.name, chosen.decision, chosen.gate, chosen.reason, chosen.accept
    )
    _show(folder, data)
    if chosen.key is not None:
        return _finish_signing(folder, signoffs.sign(folder, data, chosen.key.expanduser()))
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
    """Sign for one role on every run of a group that waits for it; each run gets its own signature."""
    from helpers.runner import group

    group.require_own(chosen.run_id)
    runs_group = group.read(chosen.run_id)
    assert runs_group is not None
    if chosen.key is None or chosen.export is not None or chosen.signature is not None:
        raise UsageError(ReasonCode.HOW_TO_SIGN, "the runs of a group are signed together with --key only", where=chosen.run_id,
                         next_step=f"To sign elsewhere, sign each by itself: {RUNBOOK} status {chosen.run_id}")  # fmt: skip
    run_ids = [row.run for row in runs_group.rows]
    return sign_each(chosen, runs_group.id, group.due_for(runs_group.id, run_ids, chosen.gate, role_of(chosen)))


def role_of(chosen: argparse.Namespace) -> str:
    """The role that signs, as the parameters spell it."""
    return str(chosen.role).strip().lower().replace("-", "_")


def sign_each(chosen: argparse.Namespace, order: str, waiting: Iterable[RunState]) -> int:
    """Sign for one role on each of these runs of an order; the worst exit code. UsageError where none waits."""
    due = list(waiting)
    if not due:
        raise UsageError(ReasonCode.NOTHING_TO_SIGN, f"no run of {order} waits for {chosen.role or 'this role'} now",
                         next_step=f"See: {RUNBOOK} {order_command('status', order)}")  # fmt: skip
    codes = [0]
    for folder in due:
        try:
            codes.append(_sign(argparse.Namespace(**{**vars(chosen), "run_id": folder.id})))
        except RunbookError as error:
            codes.append(error.exit_code)
            print(f"runbook: {folder.id}: {error.line()}", file=sys.stderr, flush=True)
    return max(codes)


def order_command(name: str, order: str) -> str:
    """The command for a group of runs, or for a fleet, which is named `fleets/NAME`."""
    fleet = order.removeprefix(f"{runs.FLEETS}/")
    return f"{name} {order}" if fleet == order else f"fleet {name} {fleet}"


def _import(folder: RunState, signature: Path) -> int:
    statement = signature.with_suffix("")
    try:
        data, signed = contents(statement.resolve()), contents(signature.resolve())
    except OSError as error:
        raise UsageError(
            ReasonCode.NO_SIGNATURE, f"cannot be read ({error.strerror})", where=one_line(str(error.filename)),
            next_step="Give FILE.sig; FILE, as --export wrote it, must be beside it.",
        ) from error  # fmt: skip
    _show(folder, data)
    return _finish_signing(folder, signoffs.record(folder, data, signed))


def _show(folder: RunState, data: bytes) -> None:
    """Print what will be signed: the run, its source and target, the decision of this role, and the digest of the seal."""
    statement = statement_in(data)
    decision = {"go": "GO", "no-go": "NO-GO"}.get(str(statement.get("decision")), "no decision")
    seal = statement.get("seal")
    parameters = folder.parameters
    print(f"Run {folder.id}: {one_line(parameters.source.label, 200)} to {one_line(parameters.target.label, 200)}.")
    print(
        f"{decision} of {one_line(str(statement.get('role')), 80)}, gate {one_line(str(statement.get('gate')), 80)}.",
        end=" ",
    )
    if isinstance(seal, dict):
        print(
            f"Signed is {one_line(str(seal.get('name')), 100)}, SHA-256 {one_line(str(seal.get('sha256')), 64)}.",
            flush=True,
        )


def _finish_signing(folder: RunState, path: Path) -> int:
    """Log and seal the signature, and show it on the pages; 0."""
    from helpers.report.pages import leave
    from helpers.status import next_action

    folder.log(f"signed: {path.name}")
    run = leave(folder)
    print(f"Recorded in {path}. {next_action(folder)}")
    if evidence := custody(run):
        print(f"Keep outside this machine: {evidence}")
    state = CutoverState.load(folder.workspace)
    if state is not None and path.name.startswith("cutover-") and statement_of(path).get("decision") == signoffs.NO_GO:
        print(
            f"The cutover has begun: this NO-GO may come too late to stop it. To go back: {folder.command('rollback')}"
        )
    if warning := not_pushed(run):
        print(warning)
    return 0


def verify_run(chosen: argparse.Namespace) -> int:
    """Verify the run and print its problems; 0 where there are none, else 1."""
    folder = runs.find(chosen.run_id)
    if chosen.allowed_signers is not None:
        signing.read_allowed(chosen.allowed_signers)
    if chosen.timestamp_authority is not None and not chosen.timestamp_authority.is_file():
        raise UsageError(
            ReasonCode.FILE_UNREADABLE, "there is no such certificate", where=one_line(str(chosen.timestamp_authority))
        )
    verified = verify(folder.reports, chosen.expect, chosen.allowed_signers, chosen.timestamp_authority)
    verified.problems += [*_missing_seal(folder), *_altered_snapshots(folder)]
    for line in [*verified.problems, *verified.notes]:
        print(one_line(line, 2000))
    if verified.problems:
        print(f"{len(verified.problems)} things in run {folder.id} do not fit.")
        return 1
    print(f"Run {folder.id} fits: {verified.summary}. Newest seal: {verified.newest}")
    return 0


def _missing_seal(run: RunState) -> Iterator[str]:
    """One line if the last seal of this machine is missing: the folder is an older copy, or its end was removed."""
    last = run.workspace / LAST  # read before the seals: another command may set the next one meanwhile
    newest = last.read_bytes().strip().decode("ascii", "replace") if last.is_file() else ""
    with suppress(RunbookError):  # seals that cannot be read are named already
        if newest and newest not in {seal.digest for seal in seals(run.reports)}:
            yield f"{run.reports}: the seal that {last} names is missing: an older copy of the folder, or its end was taken away"


def _altered_snapshots(run: RunState) -> Iterator[str]:
    """One line for each snapshot of this workspace that differs from what the run sealed."""
    from helpers.snapshots.retention import places

    for folder in places(run) if run.workspace.is_dir() else ():
        if folder.is_symlink():
            yield f"{folder}: a link, which is not followed"
        if folder.is_symlink() or not folder.is_dir():  # the others may have been pruned
            continue
        from helpers.migration.source_changes import open_sealed  # with pyarrow, half a second

        try:
            open_sealed(run, folder)
        except RunbookError as error:
            if error.code in (ReasonCode.SNAPSHOT_ALTERED, ReasonCode.SNAPSHOT_UNREADABLE):  # the rest is named already
                yield f"{error.where}: {error.what}"


def _audit(chosen: argparse.Namespace) -> int:
    from helpers.status import table

    folder = runs.find(chosen.run_id)
    if chosen.allowed_signers is not None:
        signing.read_allowed(chosen.allowed_signers)
    path = folder.reports / audit.NAME
    rows = [_audit_row(entry) for entry in audit.entries(path)]
    print(table(rows) if rows else "Nothing is recorded.")
    trust = trusted(folder.reports, chosen.allowed_signers)
    unsigned = list(audit.unsigned(path, trust)) if trust is not None else []
    if unsigned:
        numbers = ", ".join(map(str, unsigned[:20])) + (
            f" and {len(unsigned) - 20:,} more" if len(unsigned) > 20 else ""
        )
        print(f"{path}: no trusted key signed line {numbers}: what they say proves nothing")
    damage = audit.check(path)
    if damage is not None:
        print(f"{path}: line {damage.line}: {damage.why}")
    problems = list(_log_problems(folder, proven=trust is not None))
    for line in problems:
        print(one_line(line, 2000))
    return int(bool(unsigned or problems) or damage is not None)


def _log_problems(run: RunState, *, proven: bool) -> Iterator[str]:
    """One line for each way in which log and seals disagree or prove nothing. `proven`: a key or a list vouches for the lines."""
    path, missing = run.reports / audit.NAME, list(_missing_seal(run))
    try:
        chain = seals(run.reports)
    except RunbookError as error:
        yield error.line()
        return
    for seal in reversed(chain):
        length, digest = seal.prefixes.get(audit.NAME, (0, ""))
        if digest and prefix_digest(path, length) != digest:
            yield f"{path}: gone, cut short or changed since {seal.name}: it held {length:,} bytes then"
            break
    yield from missing
    if not missing and not chain and _was_sealed(run):
        yield f"{run.reports}: the run was sealed, and its seals are gone"
    if not chain and not proven:
        yield f"{path}: nothing proves what it says: there is no seal, and no key or list of signers (--allowed-signers)"


def _was_sealed(run: RunState) -> bool:
    """Whether files or log lines of a seal exist, whether or not the seal itself does."""
    traces = (run.reports / RunPath.VERIFY).exists() or any((run.reports / RunPath.SIGNOFFS).glob("*.json"))
    return traces or bool(audit.entries(run.reports / audit.NAME, None, (SEALED,)))


def _audit_row(entry: dict[str, Any]) -> dict[str, str]:
    facts = entry.get("facts")
    text = ", ".join(f"{k}={v}" for k, v in sorted(facts.items())) if isinstance(facts, dict) else ""
    who = f"{entry.get('user')}@{entry.get('host')}"
    columns = {
        "when": str(entry.get("when"))[:19],
        "who": who,
        "action": entry.get("action"),
        "outcome": entry.get("outcome"),
    }
    return {name: one_line(str(value), 60) for name, value in columns.items()} | {"facts": one_line(text, 120)}


def _archive(chosen: argparse.Namespace) -> int:
    from helpers.migration.target_lock import require_outside

    folder = runs.find(chosen.run_id)
    path = chosen.output if chosen.output is not None else Path(f"{folder.id}.zip")
    verified = verify(folder.reports, chosen.expect)
    verified.problems += _missing_seal(folder)
    _refuse_problems(folder, verified)
    _refuse_output(folder.reports, path)
    if (folder.reports / RunPath.PARAMETERS).is_file():
        ends = (folder.parameters.source, folder.parameters.target)
        require_outside(path, "--output", *(str(Path(folder.facts["directory"], e.path)) for e in ends if e.path))
    with _private_copy(folder) as copy:  # what somebody changes from here on is not archived
        _refuse_problems(folder, verify(copy, chosen.expect))
        print(archive(copy, path))
    return 0


def _refuse_problems(folder: RunState, verified: Verified) -> None:
    if problems := verified.problems:
        raise UsageError(
            ReasonCode.NOT_ARCHIVED, f"{problems[0]} ({count(len(problems), 'problem')})", where=f"run {folder.id}",
            next_step=f"See all: {RUNBOOK} verify {folder.id}. What does not verify is not archived.",
        )  # fmt: skip


@contextmanager
def _private_copy(folder: RunState) -> Iterator[Path]:
    """A private copy of the run's files, under its id: what is archived is what was verified."""
    where = folder.workspace if folder.workspace.is_dir() else Path(tempfile.gettempdir())
    with ExitStack() as stack:
        try:
            private = stack.enter_context(tempfile.TemporaryDirectory(prefix="archive-", dir=where))
            copy = Path(private, folder.id)
            for name in _names(folder.reports):
                where = folder.reports / name
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(contents(where, LARGEST))
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise EnvironmentFailure(ReasonCode.NOT_ARCHIVED, f"cannot be copied ({why})", where=str(where)) from error
        yield copy
