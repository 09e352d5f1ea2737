"""The audit log: who did what, when and with what outcome, as JSON Lines that only grow.

Every line holds the SHA-256 of the bytes of the line before it, so a line that was changed, taken out or moved breaks the
chain at that place. What a chain alone cannot show is that its last lines were cut off; whoever keeps the digest of the
last line elsewhere (a seal) can.

A crash can leave a last line without its end. It stays as it is: the next entry begins on a line of its own and names the
torn bytes by their digest, and `check` goes on reporting the torn line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from helpers.errors import WorldError, redacted
from helpers.reason_codes import ReasonCode
from helpers.results import contents, file_digest, json_in, private, reading, utc_now

NAME = "audit.jsonl"
FIRST = "0" * 64  # what the first line has in place of a digest
STEP_ENDS, PAGE_KEPT, DRILL = "step ends", "page kept", "drill"  # actions that name files with their digests
_NAMED = ("results/*.json", "as-signed-*", "final-*", "drills/*")
_TAIL = 2**16


@dataclass(frozen=True, slots=True)
class Broken:
    """The first line (from 1) at which a log is not what was written, and why."""

    line: int
    why: str


def append(path: Path, action: str, *, outcome: str = "done", **facts: Any) -> str:
    """Add one entry and flush it to disk; the SHA-256 of its line. Processes that append at once take turns.

    Raises `WorldError` where it cannot be written: what is not recorded is not done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0, opener=private) as file:  # a path's own open takes no opener
            fcntl.flock(file, fcntl.LOCK_EX)
            before, torn = _last(file)
            entry = {
                "when": utc_now(),
                "user": user(),
                "host": socket.gethostname(),
                "process": os.getpid(),
                "action": action,
                "outcome": outcome,
                "facts": facts,
                "previous": _digest(before) if before is not None else FIRST,
            }
            text = json.dumps(entry, sort_keys=True, ensure_ascii=True, default=str)
            line = redacted(text).encode("ascii", "replace")
            _write(file, (b"\n" if torn else b"") + line + b"\n")
            os.fsync(file.fileno())
    except OSError as error:
        raise WorldError(
            ReasonCode.AUDIT_UNWRITABLE, f"the audit log cannot be written ({error.strerror})", where=str(path),
            next_step="Make room or give write permission; nothing is done that cannot be recorded.",
        ) from error  # fmt: skip
    return _digest(line)


def check(path: Path, *, torn: bool = False) -> Broken | None:
    """The first line that breaks the chain or was cut short by a crash; None where all is whole (or nothing is there).

    `torn`: a line that a crash cut short breaks nothing, where the line after it names its bytes, or none follows.
    """
    previous = FIRST
    lines = _lines(path)
    for number, line in enumerate(lines, start=1):
        ended = number < len(lines)
        if not line and not ended:
            return None  # what follows the last newline
        try:
            said = _entry(line)["previous"]
        except (ValueError, KeyError, TypeError):
            if torn:
                previous = _digest(line)
                continue
            return Broken(number, "it is not an entry: cut short by a crash, or written by something else")
        if said != previous:
            return Broken(number, "it does not follow the line before it: a line was changed, taken out or moved")
        if not ended and not torn:
            return Broken(number, "its end is missing: cut short by a crash")
        previous = _digest(line)
    return None


def entries(path: Path) -> list[dict[str, Any]]:
    """What the log holds, oldest first; lines that are no entries are left out (`check` names them)."""
    found = []
    for line in _lines(path):
        try:
            entry = _entry(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "action" in entry:
            found.append(entry)
    return found


def _entry(line: bytes) -> Any:
    """What a line holds; ValueError where it is none of ours: a repeated name would be read as either."""
    entry = json_in(line)
    if isinstance(entry, dict) and json.dumps(entry, sort_keys=True).encode() != line:
        raise ValueError("not as the toolkit writes it")
    return entry


def _lines(path: Path) -> list[bytes]:
    """The lines, the last of which is empty where its end is there; `Terminal` ("run_damaged") for what is no log."""
    with reading(path):
        return contents(path).split(b"\n") if os.path.lexists(path) else []


def unnamed(folder: Path) -> list[str]:
    """Results, kept pages and drills that no line of the audit log names with their digest: nobody's work.

    Lines of an older toolkit name a file without its digest; a folder whose log knows no step at all names nothing.
    """
    told, loose, steps = set(), set(), 0
    for entry in entries(folder / NAME):
        facts = entry.get("facts")
        if not isinstance(facts, dict):
            continue
        if entry["action"] == STEP_ENDS:
            steps += 1
            name = f"results/{facts.get('step')}.json"
            told.add((name, facts.get("result")))
            if "result" not in facts:
                loose.add(name)
        elif entry["action"] in (PAGE_KEPT, DRILL) and isinstance(facts.get("digests"), dict):
            told.update(facts["digests"].items())
        elif entry["action"] in (PAGE_KEPT, DRILL):
            name = str(facts.get("file", f"drills/{facts.get('what')}.json"))
            loose |= {name, name.removesuffix("html") + "pdf"}
    if not steps:
        return []
    found = {path.relative_to(folder).as_posix(): path for pattern in _NAMED for path in sorted(folder.glob(pattern))}
    return [name for name, path in found.items() if name not in loose and (name, file_digest(path)) not in told]


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


def _last(file: IO[bytes]) -> tuple[bytes | None, bool]:
    """The bytes of the last line (None where there is none), and whether its end is missing."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return None, False
    for back in (_TAIL, size):
        start = max(0, size - back)
        file.seek(start)
        tail = _read(file, size - start)
        torn = not tail.endswith(b"\n")
        whole = tail if torn else tail[:-1]
        cut = whole.rfind(b"\n")
        if cut >= 0 or start == 0:
            return whole[cut + 1 :], torn
    raise AssertionError("the second turn reads the whole file")


def _read(file: IO[bytes], length: int) -> bytes:
    """So many bytes: an unbuffered file may give fewer at once."""
    parts = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(file: IO[bytes], data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
