"""The audit log: who did what, when and with what outcome, as JSON Lines that only grow.

Each line holds the SHA-256 of the previous line. A line that was changed, removed or moved breaks this chain at its place.
The chain alone cannot show that its last lines were cut off: a seal, which holds the digest of the last line, can.

The workspace's key signs each line without a person. Without that key, nobody adds a line that proves anything (`Trust`). The
signature covers the name of the log's folder (for a run: its id) and the line without its signature.

A crash can leave an incomplete last line, and anybody can add one. It stays in place and proves nothing. Before the next
entry, the toolkit writes a line with its length and digest (`CLOSED`); verification names it.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from helpers.errors import EnvironmentFailure, UsageError, one_line, redacted
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, contents, flush_file, json_in, private, reading, utc_now

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "audit.jsonl"
NAMESPACE = "runbook-log"  # in which lines are signed
ALLOWED, REVOKED = "allowed_signers", ".revoked"  # who may sign; the end of the name of the list of revoked keys
LOG_KEY = "log_key"  # a seal's field: the key that signs the log's lines; absent from seals of older toolkits
FILES = "files"  # a seal's field: the log names every file; absent from the first seal of a run of an older toolkit
FIRST_LINE = "first-line"  # in a run's workspace: the digest of the line with which its log begins
FIRST = "0" * 64  # the first line's `previous`
worker_workspace: ContextVar[Path | None] = ContextVar("order", default=None)  # set in a worker's thread
# Actions of lines that name files with their digests:
BEGUN, STEP_ENDS, NOTEBOOK_KEPT = "run begun", "step ends", "notebook kept"
PAGE_KEPT, DRILL, SIGNED, SET_ASIDE = "page kept", "drill", "signed", "set aside"  # set aside: moved below earlier/
WRITTEN, TAKEN = "file written", "allowed signers taken"  # logged before the file is written
STEP_BEGINS, NOTEBOOK_BEGINS = "step begins", "notebook begins"
CLOSED = "torn line closed"  # describes the torn lines before it
_OLD = re.compile(
    r"results/[^/]*\.json|as-signed-.*|final-.*|drills/.*|allowed_signers.*"
)  # the files that older toolkits log
_TAIL = 2**16
_CLOSES = f'{{"action": "{CLOSED}", '.encode()
_SIGNED = re.compile(rb'(.*), "signature": "([A-Za-z0-9+/]{80,800}=*)"(, "user": "[^"]*", "when": "[^"]*"\})')
_GOOD = re.compile(rb'Good "[^"]*" signature (?:for .* )?with \S+ key (SHA256:\S+)')
MOST_FORGED = 20  # limits the processes that check signatures; the toolkit itself writes no forged line


@dataclass(frozen=True, slots=True)
class Trust:
    """Which lines are proven: those signed by one of `keys` (fingerprints), and, of older toolkits, those before byte `since`."""

    keys: frozenset[str]
    since: int = 0
    forged: int = MOST_FORGED  # after so many invalid signatures, all later lines are taken for forged


@dataclass(frozen=True, slots=True)
class Broken:
    """The first line (counted from 1) that breaks a log's chain, and the reason."""

    line: int
    why: str


def append(path: Path, action: str, *, outcome: str = "done", **facts: Any) -> str:
    """Append one entry, flush it to disk and return the SHA-256 of its line. A lock makes concurrent processes take turns.

    Raises `EnvironmentFailure` if the log cannot be written or is not a regular file: the caller must not act without a record.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0, opener=private) as file:  # a path's own open takes no opener
            fcntl.flock(file, fcntl.LOCK_EX)
            before, torn = _last(file)
            if before is not None and not is_entry(before):
                before, torn = _append_line(file, path, before, torn, CLOSED, "done", _torn_facts(path)), False
            line = _append_line(file, path, before, torn, action, outcome, facts)
            os.fsync(file.fileno())
    except OSError as error:
        raise EnvironmentFailure(
            ReasonCode.AUDIT_UNWRITABLE, f"the audit log cannot be written ({error.strerror})", where=str(path),
            next_step="Make room, give write permission or allow more open files (ulimit -n 4096); what cannot be recorded "
            "is not done.",
        ) from error  # fmt: skip
    return _digest(line)


def _append_line(
    file: IO[bytes], path: Path, before: bytes | None, torn: bool, action: str, outcome: str, facts: Any
) -> bytes:
    """Write one entry after the line `before` and return its line. `torn`: `before` has no newline yet."""
    entry = {
        "when": utc_now(), "user": user(), "host": socket.gethostname(), "process": os.getpid(), "action": action,
        "outcome": outcome, "facts": facts, "previous": _digest(before) if before is not None else FIRST,
    }  # fmt: skip
    line = redacted(json.dumps(entry, sort_keys=True, ensure_ascii=True, default=str)).encode("ascii", "replace")
    if path.name == NAME:  # the log of notices is not signed
        line = _signed(line, path.parent.name)
    _write(file, (b"\n" if torn else b"") + line + b"\n")
    return line


def _torn_facts(path: Path) -> dict[str, Any]:
    """Length and digest of the torn lines at the end of a log. A kill during closing can leave more than one."""
    lines = lines_of(path)
    end = len(lines) - (not lines[-1])
    begin = next((at for at in range(end, 0, -1) if is_entry(lines[at - 1])), 0)
    gap = b"\n".join(lines[begin:end])
    return {"bytes": len(gap), "sha256": _digest(gap)}


def closed(lines: Sequence[bytes]) -> dict[int, int]:
    """Map the number (from 1) of each torn line to the number of the line that closes it."""
    closing, torn = dict[int, int](), list[bytes]()
    any_closes = any(line.startswith(_CLOSES) for line in lines)
    for number, line in enumerate(lines if any_closes else (), start=1):
        if not is_entry(line):
            torn.append(line)
            continue
        if torn and line.startswith(_CLOSES) and _entry(line)["facts"].get("sha256") == _digest(b"\n".join(torn)):
            closing |= dict.fromkeys(range(number - len(torn), number), number)
        torn = []
    return closing


def check(path: Path, *, torn: bool = False) -> Broken | None:
    """Return the first line that breaks the chain or was cut short by a crash; None for a whole or absent log.

    A torn line that a later line closes is accepted. `torn`: so is one that the next line names, or that is the last.
    """
    previous, lines = FIRST, lines_of(path)
    closing = closed(lines)
    for number, line in enumerate(lines, start=1):
        ended = number < len(lines)
        if not line and not ended:
            return None  # nothing follows the last newline
        try:
            recorded = _entry(line)["previous"]
        except (ValueError, KeyError):
            if torn or number in closing:
                previous = _digest(line)
                continue
            return Broken(number, "it is not an entry: cut short by a crash, or written by something else")
        if recorded != previous:
            return Broken(number, "it does not follow the line before it: a line was changed, taken out or moved")
        if not ended and not torn:
            return Broken(number, "its end is missing: cut short by a crash")
        previous = _digest(line)
    return None


def entries(path: Path, trust: Trust | None = None, actions: Collection[str] = ()) -> list[dict[str, Any]]:
    """As `entries_with_offsets`, without the offsets."""
    return [entry for _, entry in entries_with_offsets(path, trust, actions)]


def entries_with_offsets(
    path: Path, trust: Trust | None = None, actions: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (byte offset, entry) for each line, oldest first. Lines that are not entries are skipped (`check` finds them).

    `trust`: only proven entries. `actions`: only these actions; empty: all.
    """
    at, forged = 0, 0
    for line in lines_of(path):
        begins, at = at, at + len(line) + 1
        try:
            entry = _entry(line)
        except ValueError:
            continue
        if actions and entry["action"] not in actions:
            continue
        if trust is None or begins < trust.since or _is_proven(path, line, trust, forged):
            yield begins, entry
        else:
            forged += _SIGNED.fullmatch(line) is not None


def _is_proven(path: Path, line: bytes, trust: Trust, forged: int) -> bool:
    """Whether a trusted key signed the line. `forged`: the number of forged lines before it."""
    return forged < trust.forged and signer(path.parent.name, line) in trust.keys


def unsigned(path: Path, trust: Trust) -> Iterator[int]:
    """Yield the numbers (from 1) of lines that prove nothing. After `trust.forged` invalid signatures none is checked."""
    at = forged = 0
    closing = closed(lines := lines_of(path))
    for number, line in enumerate(lines, start=1):
        begins, at = at, at + len(line) + 1
        if line and number not in closing and begins >= trust.since and not _is_proven(path, line, trust, forged):
            forged += _SIGNED.fullmatch(line) is not None
            yield number


def is_entry(line: bytes) -> bool:
    """Whether a line has the toolkit's format. It may still be written by somebody else."""
    try:
        return bool(_entry(line))
    except ValueError:
        return False


def _entry(line: bytes) -> dict[str, Any]:
    """Parse a line; ValueError if it differs from the toolkit's format, in which no key occurs twice."""
    match json_in(line if line.startswith(b'{"action": "') else b"null"):  # the first of the sorted names
        case {"action": str(), "facts": dict()} as entry if json.dumps(entry, sort_keys=True).encode() == line:
            return dict(entry)  # callers rely on these two keys
    raise ValueError("not as the toolkit writes it")


def lines_of(path: Path) -> list[bytes]:
    """The lines; the last is empty if the log ends with a newline. `Terminal` ("run_damaged") if it is not a log."""
    with reading(path):
        return contents(path).split(b"\n") if os.path.lexists(path) else []


@dataclass(slots=True)
class LoggedFiles:
    """The files that the proven lines of a run's log name, by their paths in its folder."""

    newest: dict[str, str] = field(default_factory=dict)  # the digest in the newest line; "" for a removed file
    previous: dict[str, str] = field(default_factory=dict)  # also accepted: a kill can leave the older file
    unclaimed: list[str] = field(default_factory=list)  # set aside, though no line had named them
    running: set[str] = field(default_factory=set)  # steps that have begun and not ended
    open_notebooks: set[str] = field(default_factory=set)  # steps whose notebook began and was not kept yet
    without_digest: set[str] = field(default_factory=set)  # named by older toolkits
    knows_steps: bool = False  # the log names at least one step
    complete: bool = False  # the toolkit that began the run logs every file

    def unnamed(self, files: Mapping[str, str], *, every: bool = False) -> list[str]:
        """The paths, sorted, of `files` (digests by path) that no line names or whose digest differs from the newest line.

        `every`: judge all. Else, in a run of an older toolkit: results, kept pages, drills and lists of signers.
        """
        every = every or self.complete
        accepted = (self.newest, self.previous)
        judged = (n for n in files if every or n in self.previous or (self.knows_steps and _OLD.fullmatch(n)))
        rest = (n for n in judged if n not in self.without_digest)
        return sorted(n for n in rest if not any(digests.get(n) == files[n] != "" for digests in accepted))

    def missing(self, files: Collection[str]) -> list[str]:
        """The paths that the log names and that are not among these files, sorted."""
        return sorted(name for name, digest in self.newest.items() if self.complete and digest and name not in files)


def logged_files(folder: Path, trust: Trust | None) -> LoggedFiles:
    """Read which files the log of a run names."""
    logged, moves = LoggedFiles(), dict[tuple[str, str], str]()
    for entry in entries(folder / NAME, trust):
        facts, action = entry.get("facts"), entry["action"]
        if not isinstance(facts, dict):
            continue
        _note_step(logged, action, facts)
        if action == SET_ASIDE:
            move, to = (str(facts.get("file")), str(facts.get("digest"))), str(facts.get("to"))
            if move in moves and not logged.newest[move[0]] and not os.path.lexists(folder / moves[move]):
                logged.newest.pop(moves[move], None)  # killed between that line and its move
            elif logged.newest.get(move[0]) != move[1]:
                logged.unclaimed.append(to)
            moves[move] = to
        for name, digest in _names(action, facts).items():
            logged.previous.pop(name, None)
            if action in (WRITTEN, TAKEN):
                logged.previous[name] = logged.newest.get(name, "")
            logged.newest[name] = str(digest or "")
    return logged


def _note_step(logged: LoggedFiles, action: str, facts: Mapping[str, Any]) -> None:
    """Record the steps, and the toolkit that began the run, that an entry names."""
    step, digests = str(facts.get("step")), facts.get("digests")
    logged.complete |= action == BEGUN
    logged.knows_steps |= action == STEP_ENDS
    if action in (STEP_BEGINS, NOTEBOOK_BEGINS):
        (logged.running if action == STEP_BEGINS else logged.open_notebooks).add(step)
    elif action == NOTEBOOK_KEPT:
        logged.open_notebooks.discard(step)
    elif action == STEP_ENDS and "died" not in facts:
        logged.running.discard(step)
    if action == STEP_ENDS and "result" not in facts:
        logged.without_digest.add(f"results/{step}.json")
    elif action in (PAGE_KEPT, DRILL) and not isinstance(digests, dict):
        name = str(facts.get("file", f"drills/{facts.get('what')}.json"))
        logged.without_digest |= {name, name.removesuffix("html") + "pdf"}


def _names(action: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The files that an entry names, each with its digest; "" or None for a removed file."""
    name = str(facts.get("file"))
    if action in (WRITTEN, TAKEN):
        return {name: facts.get("sha256")}
    if action == SIGNED:
        return {name: facts.get("statement"), f"{name}.sig": facts.get("sig")}
    if action == SET_ASIDE:
        return {name: "", str(facts.get("to")): facts.get("digest")}
    digests = facts.get("digests")
    named = dict(digests) if isinstance(digests, dict) else {}
    return {f"results/{facts.get('step')}.json": facts.get("result"), **named} if action == STEP_ENDS else named


def logged_digests(folder: Path, name: str, workspace: Path, *, own_only: bool = False) -> list[str]:
    """The digests that this file may have by its newest trusted lines. `own_only`: by lines that this workspace signed."""
    digests: list[str] = []
    lines = lines_of(folder / NAME) if first_line_matches(folder, workspace) else []
    at = sum(len(line) + 1 for line in lines)
    for line in reversed(lines):
        at -= len(line) + 1
        if json.dumps(name).encode() not in line:
            continue
        try:
            entry = _entry(line)
            named = _names(entry["action"], entry["facts"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if name in named and _is_trusted(folder, line, at, only=own_only):
            digests.append(str(named[name] or ""))
            if entry["action"] not in (WRITTEN, TAKEN) or len(digests) == 2:
                break
    return digests


def first_line_matches(folder: Path, workspace: Path) -> bool:
    """Whether a run's log begins with the line that its workspace recorded; True if it recorded none."""
    first = workspace / FIRST_LINE
    noted = first.read_bytes().strip().decode("ascii", "replace") if first.is_file() else ""
    return not noted or _digest((lines_of(folder / NAME) or [b""])[0]) == noted


def begun_here(folder: Path) -> bool:
    """Whether this workspace's key signed the log's first line. Older toolkits, which do not sign, then wrote none of it."""
    return (own := own_key()) != "" and signer(folder.name, (lines_of(folder / NAME) or [b""])[0]) == own


def _is_trusted(folder: Path, line: bytes, at: int, *, only: bool) -> bool:
    """Whether the line at this byte is signed by this workspace's key, by a key that a seal names, or older than any key.

    `only`: by this workspace's key. `evidence.seals.chain` checks separately that the seals are genuine.
    """
    by, own = signer(folder.name, line), own_key()
    if only or (by and by == own):
        return by == own != ""
    keys, since = {own} - {""}, 0
    for path in sorted((folder / "seals").glob("[!.]*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            predicate = json_in(contents(path))["predicate"]
            if key := predicate.get(LOG_KEY):
                keys.add(str(key))
            else:
                since = max([since, *(p["bytes"] for p in predicate["prefixes"] if p["name"] == NAME)])
    return not keys or by in keys or (at < since and not begun_here(folder))


def is_older(folder: Path, workspace: Path | None = None) -> bool:
    """Whether an older toolkit, which recorded no first line, began this run. Its first seal decides: a log can be deleted."""
    if workspace is not None and (workspace / FIRST_LINE).exists():
        return False
    first = min((folder / "seals").glob("[!.]*.json"), default=None)
    with suppress(OSError, ValueError, KeyError, TypeError):
        return first is not None and FILES not in json_in(contents(first))["predicate"]
    return False


def user() -> str:
    """The name of the operating system's user, or the user id if it has no name (containers).

    Not from LOGNAME or USER, which a user can set to any name.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def operator() -> str:
    """user@host, for the record."""
    return f"{user()}@{socket.gethostname()}"


def process() -> str:
    """This process, as a lock names its holder."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@cache
def checkout() -> tuple[str, str]:
    """(the toolkit's commit, git's status lines for changed files of its code); ("", "") outside of a git checkout."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        return "", ""
    asked = (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "helpers", "notebooks", "requirements.lock"))
    git = ["git", "-C", str(REPOSITORY)]
    head, changed = (subprocess.run([*git, *a], capture_output=True, text=True, check=False).stdout for a in asked)
    return head.strip(), changed.strip()


def commit() -> str:
    """The toolkit's commit and the number of changed files, in words; "" outside of a git checkout."""
    head, lines = checkout()
    changed = len(lines.splitlines())
    return f"{head[:12]}, {f'{changed} of its files changed' if changed else 'its files unchanged'}" if head else ""


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that do the work."""
    names = ("chromadb", "numpy", "pandas", "papermill")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _last(file: IO[bytes]) -> tuple[bytes | None, bool]:
    """(the last line, None for an empty file; whether its newline is missing)."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return None, False
    for back in (_TAIL, size):
        if back > MOST_READ:
            raise OSError(errno.EFBIG, "its last line is too long")
        start = max(0, size - back)
        tail = os.pread(file.fileno(), size - start, start)
        torn = not tail.endswith(b"\n")
        whole = tail if torn else tail[:-1]
        cut = whole.rfind(b"\n")
        if cut >= 0 or start == 0:
            return whole[cut + 1 :], torn
    raise AssertionError("the second turn reads the whole file")


def _write(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


# -- signatures: of keys that sign by themselves, by `ssh-keygen -Y`, as people sign (helpers/evidence/signing.py) ------


def workspace_root() -> Path:
    """The folder of the runs and of the toolkit's signing key: RUNBOOK_WORKSPACE, or workspace/ beside the package."""
    return worker_workspace.get() or Path(os.environ.get("RUNBOOK_WORKSPACE") or REPOSITORY / "workspace").absolute()


def own_key() -> str:
    """The fingerprint of this workspace's key; "" if there is none yet."""
    key = workspace_root() / "runner_key.pub"
    return public_key(key)[1] if key.is_file() else ""


def secret() -> bytes:
    """A secret of this workspace, derived from its key, for keyed digests; b"" if it has no key."""
    key = workspace_root() / "runner_key"
    return hashlib.sha256(b"digests " + key.read_bytes()).digest() if key.is_file() else b""


@cache  # unbounded: gates, pages and seals check the same lines repeatedly
def signer(name: str, line: bytes) -> str:
    """The fingerprint of the key that signed this line of the log of run `name`; "" for no valid signature."""
    if not (match := _SIGNED.fullmatch(line)) or (keygen := shutil.which("ssh-keygen")) is None:
        return ""
    armored = b"-----BEGIN SSH SIGNATURE-----\n" + match[2] + b"\n-----END SSH SIGNATURE-----\n"
    out, into = os.pipe()
    try:
        os.write(into, armored)
        os.close(into)
        command = [keygen, "-Y", "check-novalidate", "-n", NAMESPACE, "-s", f"/dev/fd/{out}"]
        text = _text_of(name, match[1] + match[3])
        verified = subprocess.run(command, input=text, capture_output=True, check=False, pass_fds=[out])
    finally:
        os.close(out)
    good = _GOOD.search(verified.stdout) if verified.returncode == 0 else None
    return good[1].decode("ascii") if good else ""


def _signed(line: bytes, name: str) -> bytes:
    """The line with its signature; unsigned, so that it proves nothing, if ssh-keygen or the key is missing.

    OSError if signing fails although both exist: a change that no signed line names would stop the next command.
    """
    try:
        command = [program(), "-Y", "sign", "-q", "-f", str(runner_key(None, workspace_root())), "-n", NAMESPACE]
    except EnvironmentFailure:
        return line
    signed = subprocess.run(command, input=_text_of(name, line), capture_output=True, check=False)
    if signed.returncode:
        raise OSError(errno.EIO, f"its line cannot be signed: {one_line(signed.stderr.decode(errors='replace'), 200)}")
    head, user, rest = line.rpartition(b', "user": ')
    return head + b', "signature": "' + b"".join(signed.stdout.split(b"\n")[1:-2]) + b'"' + user + rest


def _text_of(name: str, line: bytes) -> bytes:
    return name.encode() + b" " + line


def program() -> str:
    """The path of ssh-keygen; `EnvironmentFailure` with the package to install if it is missing."""
    if path := shutil.which("ssh-keygen"):
        return path
    raise EnvironmentFailure(
        ReasonCode.SSH_KEYGEN_MISSING, "ssh-keygen, which makes and checks signatures, is not installed",
        next_step="Install OpenSSH's client: apt-get install openssh-client (Debian, Ubuntu), dnf install openssh-clients.",
    )  # fmt: skip


def runner_key(given: Path | None, workspace: Path) -> Path:
    """The path of the key that signs seals: `given`, else `<workspace>/runner_key`, which is created if it is missing.

    `EnvironmentFailure` if ssh-keygen is missing or the key cannot be created; UsageError if `given` does not exist.
    """
    program()
    key = workspace / "runner_key" if given is None else given
    if not key.is_file() and given is not None:
        raise UsageError(
            ReasonCode.NO_KEY, "there is no such key for seals", where=one_line(str(key)),
            next_step="Correct signoff.runner_key, or leave it out: a key is then made in the workspace.",
        )  # fmt: skip
    if not key.is_file():
        workspace.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".runner-key-", dir=workspace) as folder:
            new_key = Path(folder) / key.name
            make_key(new_key, "runner of chroma migrations")
            flush_file(new_key)  # before a seal that it signed
            flush_file(new_key.with_suffix(".pub"))
            with suppress(FileExistsError):  # another command created the key first: keep both of its files
                os.link(new_key, key)
                new_key.with_suffix(".pub").replace(key.with_suffix(".pub"))
    return key


def public_key(key: Path) -> tuple[str, str]:
    """(the public key as one line, its fingerprint) of a private key file, or of a .pub file whose key an agent holds."""
    if key.suffix == ".pub":
        text = _text(key)
    else:
        command = [program(), "-y", "-P", "", "-f", str(key)]
        derived = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        beside = key.with_name(f"{key.name}.pub")
        text = derived.stdout.decode("utf-8", "replace") if derived.returncode == 0 else _text(beside)
    try:
        kind, blob = text.split()[:2]
        return f"{kind} {blob}", fingerprint(base64.b64decode(blob, validate=True))
    except (ValueError, binascii.Error) as error:
        problem = "the public key of the runner cannot be read"
        hint = "Put KEY.pub beside the key."
        raise UsageError(ReasonCode.NO_KEY, problem, where=one_line(str(key)), next_step=hint) from error


def signer_lists(given: Path | None) -> dict[str, bytes | None]:
    """The lists of allowed signers and revoked keys, by name (None: no file). `EnvironmentFailure` where one is unreadable."""
    lists: dict[str, bytes | None] = {}
    for name in (ALLOWED, ALLOWED + REVOKED):
        path = given and given.with_name(given.name + name.removeprefix(ALLOWED))
        try:
            lists[name] = contents(path.resolve()) if path is not None and path.is_file() else None
        except (OSError, ValueError) as error:
            problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            raise EnvironmentFailure(ReasonCode.ALLOWED_SIGNERS_BAD, problem, where=str(path)) from error
    return lists


def digest_of_lists(lists: Mapping[str, bytes | None]) -> str:
    """One SHA-256 over the contents that `signer_lists` gives."""
    parts = [hashlib.sha256(text).hexdigest() if text is not None else "" for text in lists.values()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def make_key(key: Path, who: str) -> None:
    """Create a key without a passphrase and its .pub file; `EnvironmentFailure` if ssh-keygen is missing or fails."""
    command = [program(), "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", str(key)]
    if (done := subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)).returncode != 0:
        problem = one_line(done.stderr.decode("utf-8", "replace"), 200)
        raise EnvironmentFailure(ReasonCode.NOT_SIGNED, f"ssh-keygen made no key for {who}: {problem}", where=str(key))


def fingerprint(blob: bytes) -> str:
    """OpenSSH's SHA256 fingerprint of a public key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
