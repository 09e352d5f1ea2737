"""The audit log: who did what, when and with what outcome, as JSON Lines that only grow.

Every line holds the SHA-256 of the bytes of the line before it, so a line that was changed, taken out or moved breaks the
chain at that place. What a chain alone cannot show is that its last lines were cut off; whoever keeps the digest of the
last line elsewhere (a seal) can.

A line is signed, too, by the key in the workspace, which needs nobody: whoever can write to the log and has not that key adds
no line that proves anything (`Trust`). The signature is over the name of the folder (of a run: its id) and the line without it.

A crash can leave a last line without its end, and anybody can add one. It stays as it is, and proves nothing: before the next
entry comes a line that says so, with its length and digest (`CLOSED`), and whoever verifies names it.
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

from helpers.errors import UsageError, WorldError, one_line, redacted
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, contents, flush_file, json_in, private, reading, utc_now

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "audit.jsonl"
NAMESPACE = "runbook-log"  # in which lines are signed
ALLOWED, REVOKED = "allowed_signers", ".revoked"  # who may sign; the end of the name of the list of revoked keys
LOG_KEY = "log_key"  # the part of a seal that names the key of the log's lines; seals of an older toolkit have none
FILES = "files"  # the part of a seal that says that the log names every file; the first seal of an older toolkit's run has none
FIRST_LINE = "first-line"  # in a run's workspace: the digest of the line with which its log begins
FIRST = "0" * 64  # what the first line has in place of a digest
of_the_order: ContextVar[Path | None] = ContextVar("order", default=None)  # in a worker's thread: the run's workspace
# Actions of lines that name files with their digests:
BEGUN, STEP_ENDS, NOTEBOOK_KEPT = "run begun", "step ends", "notebook kept"
PAGE_KEPT, DRILL, SIGNED, SET_ASIDE = "page kept", "drill", "signed", "set aside"  # the last moved one below earlier/
WRITTEN, TAKEN = "file written", "allowed signers taken"  # these come before the file
STEP_BEGINS, NOTEBOOK_BEGINS = "step begins", "notebook begins"
CLOSED = "torn line closed"  # of what is before it and no entry
_OLD = re.compile(r"results/[^/]*\.json|as-signed-.*|final-.*|drills/.*|allowed_signers.*")  # older toolkits name these
_TAIL = 2**16
_CLOSES = f'{{"action": "{CLOSED}", '.encode()
_SIGNED = re.compile(rb'(.*), "signature": "([A-Za-z0-9+/]{80,800}=*)"(, "user": "[^"]*", "when": "[^"]*"\})')
_GOOD = re.compile(rb'Good "[^"]*" signature (?:for .* )?with \S+ key (SHA256:\S+)')
MOST_FORGED = 20  # each check is a process; the toolkit itself writes no such line


@dataclass(frozen=True, slots=True)
class Trust:
    """Which lines of a run's log prove something: those signed by one of `keys` (fingerprints), and those before byte `since`,
    which an older toolkit wrote and its seals hold."""

    keys: frozenset[str]
    since: int = 0
    forged: int = MOST_FORGED  # signatures that are checked in vain before all lines behind are taken for forged, too


@dataclass(frozen=True, slots=True)
class Broken:
    """The first line (from 1) at which a log is not what was written, and why."""

    line: int
    why: str


def append(path: Path, action: str, *, outcome: str = "done", **facts: Any) -> str:
    """Add one entry and flush it to disk; the SHA-256 of its line. Processes that append at once take turns.

    Raises `WorldError` where it cannot be written, or is no plain file: what is not recorded is not done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0, opener=private) as file:  # a path's own open takes no opener
            fcntl.flock(file, fcntl.LOCK_EX)
            before, torn = _last(file)
            if before is not None and not is_entry(before):
                before, torn = _added(file, path, before, torn, CLOSED, "done", _torn(path)), False
            line = _added(file, path, before, torn, action, outcome, facts)
            os.fsync(file.fileno())
    except OSError as error:
        raise WorldError(
            ReasonCode.AUDIT_UNWRITABLE, f"the audit log cannot be written ({error.strerror})", where=str(path),
            next_step="Make room, give write permission or allow more open files (ulimit -n 4096); what cannot be recorded "
            "is not done.",
        ) from error  # fmt: skip
    return _digest(line)


def _added(
    file: IO[bytes], path: Path, before: bytes | None, torn: bool, action: str, outcome: str, facts: Any
) -> bytes:
    """Write one entry behind the line `before`, whose end may be missing; its line."""
    entry = {
        "when": utc_now(), "user": user(), "host": socket.gethostname(), "process": os.getpid(), "action": action,
        "outcome": outcome, "facts": facts, "previous": _digest(before) if before is not None else FIRST,
    }  # fmt: skip
    line = redacted(json.dumps(entry, sort_keys=True, ensure_ascii=True, default=str)).encode("ascii", "replace")
    if path.name == NAME:  # notices are logged so, too
        line = _signed(line, path.parent.name)
    _write(file, (b"\n" if torn else b"") + line + b"\n")
    return line


def _torn(path: Path) -> dict[str, Any]:
    """What is at the end of a log and no entry: a kill while it was closed may have left more than one line."""
    lines = lines_of(path)
    end = len(lines) - (not lines[-1])
    begin = next((at for at in range(end, 0, -1) if is_entry(lines[at - 1])), 0)
    gap = b"\n".join(lines[begin:end])
    return {"bytes": len(gap), "sha256": _digest(gap)}


def closed(lines: Sequence[bytes]) -> dict[int, int]:
    """The numbers (from 1) of lines that are no entries, and prove nothing, each with that of the line which closes it."""
    found, gap = dict[int, int](), list[bytes]()
    asked = any(line.startswith(_CLOSES) for line in lines)
    for number, line in enumerate(lines if asked else (), start=1):
        if not is_entry(line):
            gap.append(line)
            continue
        if gap and line.startswith(_CLOSES) and _entry(line)["facts"].get("sha256") == _digest(b"\n".join(gap)):
            found |= dict.fromkeys(range(number - len(gap), number), number)
        gap = []
    return found


def check(path: Path, *, torn: bool = False) -> Broken | None:
    """The first line that breaks the chain or was cut short by a crash; None where all is whole (or nothing is there).

    One that a later line closes breaks nothing. `torn`: nor does another that the next line names, or that is the last one.
    """
    previous, lines = FIRST, lines_of(path)
    past = closed(lines)
    for number, line in enumerate(lines, start=1):
        ended = number < len(lines)
        if not line and not ended:
            return None  # what follows the last newline
        try:
            said = _entry(line)["previous"]
        except (ValueError, KeyError):
            if torn or number in past:
                previous = _digest(line)
                continue
            return Broken(number, "it is not an entry: cut short by a crash, or written by something else")
        if said != previous:
            return Broken(number, "it does not follow the line before it: a line was changed, taken out or moved")
        if not ended and not torn:
            return Broken(number, "its end is missing: cut short by a crash")
        previous = _digest(line)
    return None


def entries(path: Path, trust: Trust | None = None, actions: Collection[str] = ()) -> list[dict[str, Any]]:
    """As `placed`, without the places."""
    return [entry for _, entry in placed(path, trust, actions)]


def placed(
    path: Path, trust: Trust | None = None, actions: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each line of the log begins, and what it holds, oldest first; those that are no entries are left out (`check`).

    With `trust` only what proves something, of these `actions` (none: of all).
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
        if trust is None or begins < trust.since or _proven(path, line, trust, forged):
            yield begins, entry
        else:
            forged += _SIGNED.fullmatch(line) is not None


def _proven(path: Path, line: bytes, trust: Trust, forged: int) -> bool:
    """Whether a trusted key signed the line of a log in which so many lines before it were `forged`."""
    return forged < trust.forged and signer(path.parent.name, line) in trust.keys


def unsigned(path: Path, trust: Trust) -> Iterator[int]:
    """The numbers (from 1) of the lines that prove nothing; behind `trust.forged` signatures that do not fit, none is checked."""
    at = forged = 0
    past = closed(lines := lines_of(path))
    for number, line in enumerate(lines, start=1):
        begins, at = at, at + len(line) + 1
        if line and number not in past and begins >= trust.since and not _proven(path, line, trust, forged):
            forged += _SIGNED.fullmatch(line) is not None
            yield number


def is_entry(line: bytes) -> bool:
    """Whether a line is as the toolkit writes them; who wrote it is another question."""
    try:
        return bool(_entry(line))
    except ValueError:
        return False


def _entry(line: bytes) -> dict[str, Any]:
    """What a line holds; ValueError where it is none of ours: a repeated name would be read as either."""
    match json_in(line if line.startswith(b'{"action": "') else b"null"):  # the first of the sorted names
        case {"action": str(), "facts": dict()} as entry if json.dumps(entry, sort_keys=True).encode() == line:
            return dict(entry)  # whoever asks for entries relies on these two
    raise ValueError("not as the toolkit writes it")


def lines_of(path: Path) -> list[bytes]:
    """The lines, the last of which is empty where its end is there; `Terminal` ("run_damaged") for what is no log."""
    with reading(path):
        return contents(path).split(b"\n") if os.path.lexists(path) else []


@dataclass(slots=True)
class Said:
    """What the counting lines of a run's log say of files, by their paths in its folder."""

    newest: dict[str, str] = field(default_factory=dict)  # the digest by the newest line; "" for a file that went
    before: dict[str, str] = field(default_factory=dict)  # of a line before its file: a kill may leave the older one
    left: list[str] = field(default_factory=list)  # set aside, and no line had named it: nobody's, or of a killed step
    working: set[str] = field(default_factory=set)  # steps that have begun and not ended
    shown: set[str] = field(default_factory=set)  # steps whose notebook began and was not kept
    loose: set[str] = field(default_factory=set)  # named without a digest, by an older toolkit
    steps: bool = False  # whether it knows any step
    every: bool = False  # the run was begun by a toolkit that names every file

    def unnamed(self, files: Mapping[str, str], *, every: bool = False) -> list[str]:
        """Those of these files (digests by path) that are nobody's work, or not what the newest line says, sorted.

        Of a run that an older toolkit began, only results, kept pages, drills and lists of signers are judged.
        """
        every = every or self.every
        judged = (name for name in files if every or name in self.before or (self.steps and _OLD.fullmatch(name)))
        good = (self.newest, self.before)
        return sorted(n for n in judged if n not in self.loose and not any(g.get(n) == files[n] != "" for g in good))

    def missing(self, files: Collection[str]) -> list[str]:
        """What was named when it was there, and is not among these files."""
        return sorted(name for name, digest in self.newest.items() if self.every and digest and name not in files)


def said(folder: Path, trust: Trust | None) -> Said:
    """What the log of a run says of its files."""
    found, moves = Said(), dict[tuple[str, str], str]()
    for entry in entries(folder / NAME, trust):
        facts, action = entry.get("facts"), entry["action"]
        if not isinstance(facts, dict):
            continue
        _note_step(found, action, facts)
        if action == SET_ASIDE:
            move, to = (str(facts.get("file")), str(facts.get("digest"))), str(facts.get("to"))
            if move in moves and not found.newest[move[0]] and not os.path.lexists(folder / moves[move]):
                found.newest.pop(moves[move], None)  # a kill came between that line and its move
            elif found.newest.get(move[0]) != move[1]:
                found.left.append(to)
            moves[move] = to
        for name, digest in _names(action, facts).items():
            found.before.pop(name, None)
            if action in (WRITTEN, TAKEN):
                found.before[name] = found.newest.get(name, "")
            found.newest[name] = str(digest or "")
    return found


def _note_step(found: Said, action: str, facts: Mapping[str, Any]) -> None:
    """What a line says of the steps and the toolkit that wrote the files."""
    step, digests = str(facts.get("step")), facts.get("digests")
    found.every |= action == BEGUN
    found.steps |= action == STEP_ENDS
    if action in (STEP_BEGINS, NOTEBOOK_BEGINS):
        (found.working if action == STEP_BEGINS else found.shown).add(step)
    elif action == NOTEBOOK_KEPT:
        found.shown.discard(step)
    elif action == STEP_ENDS and "died" not in facts:
        found.working.discard(step)
    if action == STEP_ENDS and "result" not in facts:
        found.loose.add(f"results/{step}.json")
    elif action in (PAGE_KEPT, DRILL) and not isinstance(digests, dict):
        name = str(facts.get("file", f"drills/{facts.get('what')}.json"))
        found.loose |= {name, name.removesuffix("html") + "pdf"}


def _names(action: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The files that a line names, each with its digest; without one where it went."""
    name = str(facts.get("file"))
    if action in (WRITTEN, TAKEN):
        return {name: facts.get("sha256")}
    if action == SIGNED:
        return {name: facts.get("statement"), f"{name}.sig": facts.get("sig")}
    if action == SET_ASIDE:
        return {name: "", str(facts.get("to")): facts.get("digest")}
    digests = facts.get("digests")
    found = dict(digests) if isinstance(digests, dict) else {}
    return {f"results/{facts.get('step')}.json": facts.get("result"), **found} if action == STEP_ENDS else found


def named(folder: Path, name: str, workspace: Path, *, own: bool = False) -> list[str]:
    """The digests that this file may have, by the newest line that counts (`own`: was signed here), or the one before that."""
    found: list[str] = []
    lines = lines_of(folder / NAME) if begins_so(folder, workspace) else []
    at = sum(len(line) + 1 for line in lines)
    for line in reversed(lines):
        at -= len(line) + 1
        if json.dumps(name).encode() not in line:
            continue
        try:
            entry = _entry(line)
            about = _names(entry["action"], entry["facts"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if name in about and _counts(folder, line, at, only=own):
            found.append(str(about[name] or ""))
            if entry["action"] not in (WRITTEN, TAKEN) or len(found) == 2:
                break
    return found


def begins_so(folder: Path, workspace: Path) -> bool:
    """Whether a run's log begins with the line that its workspace noted, where it noted one."""
    first = workspace / FIRST_LINE
    noted = first.read_bytes().strip().decode("ascii", "replace") if first.is_file() else ""
    return not noted or _digest((lines_of(folder / NAME) or [b""])[0]) == noted


def begun_here(folder: Path) -> bool:
    """Whether this workspace's key signed the first line of a log: then no older toolkit, which signs none, wrote any."""
    return (own := own_key()) != "" and signer(folder.name, (lines_of(folder / NAME) or [b""])[0]) == own


def _counts(folder: Path, line: bytes, at: int, *, only: bool) -> bool:
    """Whether the line at this byte is signed by this workspace's key or by one that a seal names, or is older than any key.

    Whether the seals are genuine is judged before anything is built on them (`evidence.seals.chain`).
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
    """Whether an older toolkit, which noted no first line, began this run, as its first seal says: no log that is gone does."""
    if workspace is not None and (workspace / FIRST_LINE).exists():
        return False
    first = min((folder / "seals").glob("[!.]*.json"), default=None)
    with suppress(OSError, ValueError, KeyError, TypeError):
        return first is not None and FILES not in json_in(contents(first))["predicate"]
    return False


def user() -> str:
    """The name of the operating system's user, or its number where it has no name (containers).

    Never LOGNAME or USER, which anybody sets to the name of another.
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
    """(The toolkit's commit, git's lines on files of the code that differ from it); ("", "") where it is no git checkout."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        return "", ""
    asked = (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "helpers", "notebooks", "requirements.lock"))
    git = ["git", "-C", str(REPOSITORY)]
    at, changed = (subprocess.run([*git, *a], capture_output=True, text=True, check=False).stdout for a in asked)
    return at.strip(), changed.strip()


def commit() -> str:
    """The toolkit's commit, and how many of its files differ from it, in words; "" where it is no git checkout."""
    at, lines = checkout()
    changed = len(lines.splitlines())
    return f"{at[:12]}, {f'{changed} of its files changed' if changed else 'its files unchanged'}" if at else ""


def versions() -> dict[str, str]:
    """Versions of what does the work."""
    names = ("chromadb", "numpy", "pandas", "papermill")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def _last(file: IO[bytes]) -> tuple[bytes | None, bool]:
    """The bytes of the last line (None where there is none), and whether its end is missing."""
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
    """Where runs work, and where the key is that signs for the toolkit: RUNBOOK_WORKSPACE, or workspace/ beside the package."""
    return of_the_order.get() or Path(os.environ.get("RUNBOOK_WORKSPACE") or REPOSITORY / "workspace").absolute()


def own_key() -> str:
    """The fingerprint of the key that signs lines here; "" where none was made yet."""
    key = workspace_root() / "runner_key.pub"
    return public_key(key)[1] if key.is_file() else ""


def secret() -> bytes:
    """What nobody outside of this workspace knows, for digests of what many small steps write; b"" where it has no key."""
    key = workspace_root() / "runner_key"
    return hashlib.sha256(b"digests " + key.read_bytes()).digest() if key.is_file() else b""


@cache  # gates, pages and seals ask again and again; one that forgot lines of a long log would check it anew each time
def signer(name: str, line: bytes) -> str:
    """The fingerprint of the key that signed this line of the log of run `name`; "" where none did."""
    if not (match := _SIGNED.fullmatch(line)) or (keygen := shutil.which("ssh-keygen")) is None:
        return ""
    armored = b"-----BEGIN SSH SIGNATURE-----\n" + match[2] + b"\n-----END SSH SIGNATURE-----\n"
    out, into = os.pipe()
    try:
        os.write(into, armored)
        os.close(into)
        asked = [keygen, "-Y", "check-novalidate", "-n", NAMESPACE, "-s", f"/dev/fd/{out}"]
        given = _text_of(name, match[1] + match[3])
        done = subprocess.run(asked, input=given, capture_output=True, check=False, pass_fds=[out])
    finally:
        os.close(out)
    good = _GOOD.search(done.stdout) if done.returncode == 0 else None
    return good[1].decode("ascii") if good else ""


def _signed(line: bytes, name: str) -> bytes:
    """The line with its signature; without one, so that it proves nothing, where there is no program or key, as seals are then.

    OSError where these are there and it cannot be signed now: a change that no signed line names would stop the next command.
    """
    try:
        asked = [program(), "-Y", "sign", "-q", "-f", str(runner_key(None, workspace_root())), "-n", NAMESPACE]
    except WorldError:
        return line
    done = subprocess.run(asked, input=_text_of(name, line), capture_output=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, f"its line cannot be signed: {one_line(done.stderr.decode(errors='replace'), 200)}")
    head, user, rest = line.rpartition(b', "user": ')
    return head + b', "signature": "' + b"".join(done.stdout.split(b"\n")[1:-2]) + b'"' + user + rest


def _text_of(name: str, line: bytes) -> bytes:
    return name.encode() + b" " + line


def program() -> str:
    """ssh-keygen's path; `WorldError` with the package that brings it where it is missing."""
    found = shutil.which("ssh-keygen")
    if found:
        return found
    raise WorldError(
        ReasonCode.SSH_KEYGEN_MISSING, "ssh-keygen, which makes and checks signatures, is not installed",
        next_step="Install OpenSSH's client: apt-get install openssh-client (Debian, Ubuntu), dnf install openssh-clients.",
    )  # fmt: skip


def runner_key(given: Path | None, workspace: Path) -> Path:
    """The key that signs seals: the one given, else `<workspace>/runner_key`, which is made where it is missing.

    `WorldError` where ssh-keygen is missing or the key cannot be made; UsageError where the key given is not there.
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
            made = Path(folder) / key.name
            make_key(made, "runner of chroma migrations")
            flush_file(made)  # before a seal that it signed
            flush_file(made.with_suffix(".pub"))
            with suppress(FileExistsError):  # another command was first: its key is the one, and so is its public half
                os.link(made, key)
                made.with_suffix(".pub").replace(key.with_suffix(".pub"))
    return key


def public_key(key: Path) -> tuple[str, str]:
    """(the public key as one line, its fingerprint) of a private key, or of a public one that an agent signs for."""
    if key.suffix == ".pub":
        text = _text(key)
    else:
        asked = [program(), "-y", "-P", "", "-f", str(key)]
        done = subprocess.run(asked, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        beside = key.with_name(f"{key.name}.pub")
        text = done.stdout.decode("utf-8", "replace") if done.returncode == 0 else _text(beside)
    try:
        kind, blob = text.split()[:2]
        return f"{kind} {blob}", fingerprint(base64.b64decode(blob, validate=True))
    except (ValueError, binascii.Error) as error:
        what = "the public key of the runner cannot be read"
        hint = "Put KEY.pub beside the key."
        raise UsageError(ReasonCode.NO_KEY, what, where=one_line(str(key)), next_step=hint) from error


def lists(given: Path | None) -> dict[str, bytes | None]:
    """What a list of allowed signers and that of revoked keys beside it hold, by their names in a run; `WorldError` if unread."""
    found: dict[str, bytes | None] = {}
    for name in (ALLOWED, ALLOWED + REVOKED):
        path = given and given.with_name(given.name + name.removeprefix(ALLOWED))
        try:
            found[name] = contents(path.resolve()) if path is not None and path.is_file() else None
        except (OSError, ValueError) as error:
            why = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            raise WorldError(ReasonCode.ALLOWED_SIGNERS_BAD, why, where=str(path)) from error
    return found


def digest_of_lists(found: Mapping[str, bytes | None]) -> str:
    """One SHA-256 over what `lists` gives."""
    parts = [hashlib.sha256(text).hexdigest() if text is not None else "" for text in found.values()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def make_key(key: Path, who: str) -> None:
    """A key without a passphrase, its public half beside it; `WorldError` where ssh-keygen is missing or makes none."""
    make = [program(), "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", str(key)]
    if (done := subprocess.run(make, check=False, capture_output=True, stdin=subprocess.DEVNULL)).returncode != 0:
        said = one_line(done.stderr.decode("utf-8", "replace"), 200)
        raise WorldError(ReasonCode.NOT_SIGNED, f"ssh-keygen made no key for {who}: {said}", where=str(key))


def fingerprint(blob: bytes) -> str:
    """OpenSSH's name for a public key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
