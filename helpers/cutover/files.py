"""Configuration files as they lie on disk: read without surprises, replaced whole, with mode, owner and link kept.

A new content is written beside the file, flushed to disk, and renamed over it, so a reader sees the old file or the new
one. A link is followed: its target is replaced, the link stays.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import Terminal
from helpers.parameters import resolve_path

LARGEST = 4 * 2**20  # bytes; a configuration file is smaller


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that the cutover may change: `path` as it is named, `real` where it lies when links are followed."""

    path: Path
    real: Path
    content: bytes
    mode: int
    uid: int
    gid: int

    @property
    def digest(self) -> str:
        return sha256(self.content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_config(named: str | Path) -> ConfigFile:
    """The file, when it can be replaced as it must be; else `Terminal` in one line, code `config_file`."""
    path = resolve_path(named).absolute()
    try:
        real = path.resolve(strict=True)
        facts = real.stat()
    except FileNotFoundError:
        raise refusal(path, "is not there", "Correct the path in the parameters, or take the file out.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise refusal(path, f"cannot be looked at ({_why(error)})") from error
    problem = _problem(real, facts)
    if problem:
        raise refusal(path, problem, "Nothing was changed; put that right, or change the file yourself.")
    try:
        content = real.read_bytes()
    except OSError as error:
        raise refusal(path, f"cannot be read ({_why(error)})") from error
    return ConfigFile(path, real, content, stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid)


def _problem(real: Path, facts: os.stat_result) -> str:
    """Why the file cannot be replaced so that nothing but its content changes; "" where it can."""
    if not stat.S_ISREG(facts.st_mode):
        return "is no regular file"
    if facts.st_size > LARGEST:
        return f"has {facts.st_size:,} bytes, too many for a configuration file"
    if facts.st_nlink > 1:
        return f"has {facts.st_nlink} hard links, of which only one would be changed"
    if not facts.st_mode & 0o222 or not os.access(real, os.W_OK):
        return f"has no write permission (mode {stat.S_IMODE(facts.st_mode):04o})"
    if not os.access(real.parent, os.W_OK | os.X_OK):
        return f"lies in a folder that cannot be written ({real.parent})"
    if os.path.ismount(real):
        return "is a mount of its own, which cannot be replaced"
    if facts.st_uid != os.geteuid() and os.geteuid() != 0:
        return f"belongs to user {facts.st_uid}, whose file it could not stay"
    return ""


def refusal(path: Path, problem: str, next_step: str = "") -> Terminal:
    """One line for a configuration file that is left alone."""
    return Terminal("config_file", problem, where=str(path), next_step=next_step or "Nothing was changed.")


def digest_of(path: Path) -> str:
    """SHA-256 of what lies there now; "" where nothing does."""
    try:
        return sha256(path.read_bytes())
    except FileNotFoundError:
        return ""


def beside(real: Path, run_id: str) -> Path:
    """The temporary name of a new content; the same one after a kill, so that nothing piles up."""
    return real.with_name(f".{real.name}.runbook-{run_id}.tmp")


def stage(real: Path, content: bytes, run_id: str, *, mode: int, uid: int, gid: int) -> Path:
    """Write a content beside its file, flushed to disk, with the mode, owner and attributes that the file shall have."""
    temporary = beside(real, run_id)
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        _keep_attributes(real, temporary)
        if (facts := os.fstat(file.fileno())) and (facts.st_uid, facts.st_gid) != (uid, gid):
            os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode)  # after the owner, whose change takes the set-id bits away
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _keep_attributes(old: Path, new: Path) -> None:
    """Extended attributes (access lists, labels), where the system has them."""
    if not hasattr(os, "listxattr"):
        return
    with suppress(OSError):
        for name in os.listxattr(old):
            with suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))


def put_in_place(temporary: Path, real: Path) -> None:
    """The staged content under the file's name, at once for every reader, and on disk."""
    temporary.replace(real)
    sync_folder(real.parent)


def keep(path: Path, content: bytes) -> None:
    """A backup that only its owner can read, on disk before anything else happens."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
