"""Configuration files on disk: checked before they are read, replaced whole, with mode, owner and link kept.

A new content is written beside the file, flushed to disk, and renamed over it, so a reader sees the old file or the new
one. A link is followed: its target is replaced, the link stays.

In a compose file one environment value of the services is changed and every other character kept: ruamel.yaml says where
each value is and what the file means; the text is edited by position, never written anew, so comments, anchors, order,
quotes and indentation stay. What the file means is compared before and after: whatever else would change with it (a value
shared through an anchor or a merge) refuses the edit.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import itertools
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from helpers.errors import Terminal, one_line
from helpers.formatting import masked
from helpers.parameters import NOT_YAML, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import contents, flush_folder

_AMBIGUOUS = re.compile(r"""['"\\$`\x00-\x1f\x7f\x85\u2028\u2029]""")
_COMMENT = re.compile(r"\s+\#.*", re.DOTALL)
_MERGE = "tag:yaml.org,2002:merge"
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_PLAIN = re.compile(r"[A-Za-z/][\w./-]*|https?://[\w./:-]*[\w/]|[1-9]\d*|\d{1,3}(?:\.\d{1,3}){3}", re.ASCII)
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")  # an anchor, a tag
_HEAD, _TAIL = re.compile(r"\s*(?:-\s+)?(?:[\w'\"]+\s*:\s+)?(?:[&!]\S*\s+)*"), re.compile(r"\s*(?:#.*)?")
_PLAIN_PAIR = re.compile(r"[\w./:@%+=~-]*[\w./=-]", re.ASCII)  # behind KEY= in a list
LARGEST = 4 * 2**20  # bytes; a configuration file is smaller


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that the cutover may change: `path` as named, `real` with links followed."""

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
    """Read a file. `Terminal` (`config_file`) if it cannot be replaced so that nothing but its content changes."""
    path = resolve_path(named).absolute()
    try:
        real = path.resolve(strict=True)
        facts = real.stat()
    except FileNotFoundError:
        raise refusal(path, "is not there", "Correct the path in the parameters, or take the file out.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise refusal(path, f"cannot be inspected ({_why(error)})") from error
    problem = _problem(real, facts)
    if problem:
        raise refusal(path, problem, "Nothing was changed; correct that, or change the file yourself.")
    try:
        content = real.read_bytes()
    except OSError as error:
        raise refusal(path, f"cannot be read ({_why(error)})") from error
    return ConfigFile(path, real, content, stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid)


def _problem(real: Path, facts: os.stat_result) -> str:
    """Why the file cannot be replaced so that nothing but its content changes; "" if it can."""
    if not stat.S_ISREG(facts.st_mode):
        return "is not a regular file"
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
    """The error for a configuration file that is not changed."""
    return Terminal(ReasonCode.CONFIG_FILE, problem, where=str(path), next_step=next_step or "Nothing was changed.")


def digest_of(path: Path) -> str:
    """SHA-256 of the file's content now; "" if there is no file."""
    try:
        return sha256(contents(path.resolve()))
    except FileNotFoundError:
        return ""


def beside(real: Path, run_id: str) -> Path:
    """The temporary file for a new content; the same after a kill, so that no leftovers add up."""
    return real.with_name(f".{real.name}.runbook-{run_id}.tmp")


def stage(real: Path, content: bytes, run_id: str, *, mode: int, uid: int, gid: int) -> Path:
    """Write a new content beside its file, flushed to disk, with this mode and owner and the file's extended attributes."""
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
    """Copy extended attributes (access lists, labels), if the system has them."""
    if not hasattr(os, "listxattr"):
        return
    with suppress(OSError):
        for name in os.listxattr(old):
            with suppress(OSError):
                os.setxattr(new, name, os.getxattr(old, name))


def put_in_place(temporary: Path, real: Path, before: str = "") -> None:
    """Rename the staged content to the file's name, at once for every reader, and flush the folder.

    `before` is the digest of the content to be replaced. If somebody else writes the file at this moment, it is put back with
    what they wrote: `Terminal` (`config_changed`). What they wrote into the other of the two contents is kept beside the file.
    Some file systems cannot exchange two files; there nothing is compared after the change.
    """
    after = digest_of(temporary)
    if not before or not _exchange(temporary, real):
        temporary.replace(real)
    elif not (change := _change(temporary, before)):
        temporary.unlink()
    else:
        result = "and is as they left it"
        if digest_of(real) != after:
            kept = temporary.replace(_free_name(real, "before"))
            result = f"before and after the change; what they wrote before is in {kept}"
        elif _exchange(temporary, real) and not _change(temporary, after):
            temporary.unlink()
        else:
            kept = temporary.replace(_free_name(real, "meanwhile"))
            result += f"; what they wrote into the new content is in {kept}"
        flush_folder(real.parent)
        raise Terminal(ReasonCode.CONFIG_CHANGED, f"{change} by somebody else at this very moment, {result}",
                       where=str(real), next_step="See who writes it, then repeat.")  # fmt: skip
    flush_folder(real.parent)


def _change(path: Path, digest: str) -> str:
    """What shows that a file just renamed does not keep the content of this digest; "" if nothing does.

    Waits until no writer that opened it under its former name has it open, `_PATIENCE` seconds at most.
    """
    end = time.monotonic() + _PATIENCE
    while digest_of(path) == digest:
        time.sleep(_SETTLE)  # for a writer that is just opening it, and for every writer if the system cannot tell
        if not _open_for_writing(path):
            return "" if digest_of(path) == digest else "was changed"
        if time.monotonic() > end:
            return "is open for writing"
    return "was changed"


def _open_for_writing(path: Path) -> bool:
    """Whether any process has the file open for writing; False if the system cannot tell (on Linux the owner can)."""
    if sys.platform != "linux":
        return False
    with path.open("rb") as file:
        try:  # a read lease is refused while a writer has the file open
            # A writer that opens it now sends SIGURG, which is ignored; the default, SIGIO, would end this process.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
    return False


def _free_name(real: Path, word: str) -> Path:
    """A name beside the file that is not taken: `<name>.<word>-<number>`."""
    return next(p for n in itertools.count(1) if not (p := real.with_name(f"{real.name}.{word}-{n}")).exists())


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files in one system call; return whether that was possible."""
    a, b = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(a, b, _SWAP) == 0)
        return bool(libc.renameat2(_HERE, a, _HERE, b, _SWAP) == 0)
    except (AttributeError, OSError):  # an older C library
        return False


_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD
_SETTLE = 0.05  # seconds between two looks at a file that was exchanged
_PATIENCE = 2.0  # seconds for a writer to close it


def keep(path: Path, content: bytes) -> None:
    """Write a backup that only its owner can read, flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


@dataclass(frozen=True, slots=True)
class Change:
    """One line that changes: its number from 1, what it was and what it is; `where` names the key, with its service."""

    line: int
    where: str
    before: str
    after: str


def decoded(content: bytes, path: Path) -> tuple[str, str]:
    """(byte order mark or "", text). `Terminal` (`config_file`) if the content is not UTF-8 text."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(path, f"is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise refusal(path, "holds a NUL character: it is not a text file")
    return ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)


def require_plain(values: Mapping[str, str], path: Path) -> None:
    """`Terminal` (`config_file`) for a value that programs would read differently: quotes, backslashes, dollars, blanks."""
    for key, value in values.items():
        ambiguous = _AMBIGUOUS.search(value)
        if ambiguous:
            raise refusal(
                path, f"cannot take the value of {key}: programs read the character {ambiguous[0]!r} differently"
            )
        if value != value.strip() or not value:
            raise refusal(path, f"cannot take the value of {key}: it is empty, or begins or ends with a blank")


def unified(path: Path, changes: Sequence[Change]) -> str:
    """The unified diff of a file without context lines and comments: these may be secret."""
    if not changes:
        return ""
    lines = [f"--- {one_line(str(path))}", f"+++ {one_line(str(path))}"]
    for change in changes:
        lines += [
            f"@@ -{change.line} +{change.line} @@ {change.where}",
            f"-{masked(_COMMENT.sub(' #…', change.before))}",
            f"+{masked(_COMMENT.sub(' #…', change.after))}",
        ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _EnvironmentValue:
    """An environment value of a service: its key and its scalar. `in_list`: the scalar is an item `KEY=value` of a list."""

    service: str
    key: str
    node: ScalarNode
    in_list: bool

    @property
    def text(self) -> str:
        scalar = str(self.node.value)
        return scalar.partition("=")[2] if self.in_list else scalar


def edit_compose(
    content: bytes, keys: Mapping[str, str], path: Path, services: Sequence[str] = ()
) -> tuple[bytes, list[Change]]:
    """The file with the new values, and its changes. `services`: those to change; empty: all that have the key.

    `Terminal` (`config_file`) if something else would change with it.
    """
    require_plain(keys, path)
    mark, text = decoded(content, path)
    before = _loaded(text, path)
    root = _composed(text, path)
    try:
        values = [value for value in _environment(root, path) if value.key in keys]
    except RecursionError as error:
        raise refusal(path, "merges a mapping into itself") from error
    selected = _selected(values, keys, services, path)
    spots = {(spot.start, spot.end): spot for v in selected if v.text != keys[v.key] and (spot := _Spot.of(v, text))}
    new = text
    changes: list[Change] = []
    for spot in sorted(spots.values(), key=lambda spot: spot.start, reverse=True):
        scalar = spot.scalar(keys[spot.value.key])
        new = new[: spot.start] + scalar + new[spot.end :]
        changes.insert(0, spot.change(scalar))
    _prove(before, _loaded(new, path), selected, keys, path)
    _prove_lines(text, new, changes, path)
    return (mark + new).encode("utf-8"), changes


def _loaded(text: str, path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(io.StringIO(text, newline=""))
    except NOT_YAML as error:
        raise refusal(path, f"is not a readable compose file ({_yaml_problem(error)})") from error


def _composed(text: str, path: Path) -> Node:
    try:
        root = YAML(pure=True).compose(text)
    except NOT_YAML as error:
        raise refusal(path, f"is not a readable compose file ({_yaml_problem(error)})") from error
    if not isinstance(root, MappingNode):
        raise refusal(path, "is not a compose file: it holds no mapping")
    return root


def _yaml_problem(error: Exception) -> str:
    line = getattr(getattr(error, "problem_mark", None), "line", None)
    what = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return one_line(f"{what}, line {line + 1}" if line is not None else str(what), 200)


def _members(node: Node) -> Iterator[tuple[str, Node]]:
    """The keys and values of a mapping; its own follow those that it merges in, so that the last of equal keys wins."""
    if not isinstance(node, MappingNode):
        return
    own = []
    for key, value in node.value:
        if key.tag == _MERGE or str(key.tag) == _MERGE:
            merged = value.value if isinstance(value, SequenceNode) else [value]
            for one in reversed(merged):  # of several the first wins
                yield from _members(one)
        else:
            own.append((str(key.value), value))
    yield from own


def _environment(root: Node, path: Path) -> list[_EnvironmentValue]:
    """The effective environment values of all services."""
    services = dict(_members(root)).get("services")
    if not isinstance(services, MappingNode):
        raise refusal(path, "has no services")
    values = []
    for service, body in _members(services):
        environment = dict(_members(body)).get("environment")
        if isinstance(environment, MappingNode):
            values += [
                _EnvironmentValue(service, key, _scalar_node(node, service, key, path), False)
                for key, node in dict(_members(environment)).items()
            ]
        elif isinstance(environment, SequenceNode):
            for node in environment.value:
                key = str(node.value).partition("=")[0] if isinstance(node, ScalarNode) else ""
                values.append(_EnvironmentValue(service, key, node, True))
    return values


def _scalar_node(node: Node, service: str, key: str, path: Path) -> ScalarNode:
    if isinstance(node, ScalarNode):
        return node
    raise refusal(path, f"gives {key} of service {service} no plain value (line {node.start_mark.line + 1})")


def _selected(
    values: list[_EnvironmentValue], keys: Mapping[str, str], services: Sequence[str], path: Path
) -> list[_EnvironmentValue]:
    """The values to change. `Terminal` (`config_file`) if a key is missing, differs between services, or has no plain value."""
    selected = [value for value in values if not services or value.service in services]
    for key in keys:
        here = [value for value in selected if value.key == key]
        lacking = [s for s in services if s not in {v.service for v in here}]
        if not here or lacking:
            who = f"service {lacking[0]}" if lacking else "no service"
            does = "does not set" if lacking else "sets"
            raise refusal(path, f"{who} {does} {key} in its environment", "Correct the key or the services.")
        if not services and len({value.text for value in here}) > 1:
            names = ", ".join(sorted({value.service for value in here}))
            raise refusal(path, f"the services {names} give {key} different values",
                          f"Say which are meant: services: [{here[0].service}]")  # fmt: skip
    for value in selected:
        line = value.node.start_mark.line + 1
        if value.node.style in ("|", ">") or "\n" in value.node.value:
            raise refusal(path, f"gives {value.key} of service {value.service} several lines (line {line})")
        empty = (
            "=" not in value.node.value
            if value.in_list
            else value.node.value in ("", "~", "null") and not value.node.style
        )
        if empty:
            raise refusal(path, f"names {value.key} of service {value.service} without a value, "
                          "which then comes from elsewhere")  # fmt: skip
    return selected


@dataclass(frozen=True, slots=True)
class _Spot:
    """The position of a scalar in the text, without its anchor and tag. `head`, `tail`: the rest of its line."""

    value: _EnvironmentValue
    start: int
    end: int
    head: str
    old: str
    tail: str

    @classmethod
    def of(cls, value: _EnvironmentValue, text: str) -> _Spot:
        start, end = value.node.start_mark.index, value.node.end_mark.index
        properties = _PROPERTIES.match(text, start, end)
        start = properties.end() if properties else start
        first = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
        rest = re.search(r"\r|\n|$", text[end:])
        assert rest is not None
        return cls(value, start, end, text[first:start], text[start:end], text[end : end + rest.start()])

    @property
    def is_alone(self) -> bool:
        """Whether the line holds nothing else than this key (and a comment); else it is a flow collection."""
        return bool(_HEAD.fullmatch(self.head) and _TAIL.fullmatch(self.tail))

    def scalar(self, new: str) -> str:
        """The scalar with the new value: in its own quotes, or in double quotes if a bare value could be misread."""
        value = self.value
        text = f"{value.key}={new}" if value.in_list else new
        if value.node.style in ("'", '"'):
            return f"{value.node.style}{text}{value.node.style}"
        form = _PLAIN_PAIR if value.in_list else _PLAIN
        bare = form.fullmatch(new) and (value.in_list or new.lower() not in _WORDS)
        return text if bare and (self.is_alone or ":" not in new) else f'"{text}"'

    def change(self, scalar: str) -> Change:
        """The line before and after; without its neighbours in a flow collection, which may be secret."""
        value = self.value
        line, where = value.node.start_mark.line + 1, f"{value.service}.environment.{value.key}"
        head, tail = (self.head, self.tail) if self.is_alone else ("… " if value.in_list else f"… {value.key}: ", " …")
        return Change(line, where, head + self.old + tail, head + scalar + tail)


def _leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with its path; the path of an item `KEY=value` of an environment list ends with its key."""
    if isinstance(value, dict):
        yield at, "{}"
        for key, inner in value.items():
            yield from _leaves(inner, (*at, str(key)))
    elif isinstance(value, list):
        yield at, f"[{len(value)}]"
        for number, inner in enumerate(value):
            named = at[-1:] == ("environment",) and isinstance(inner, str) and "=" in inner
            yield from _leaves(inner, (*at, f"{number}:{inner.partition('=')[0]}" if named else str(number)))
    else:
        yield at, (type(value).__name__, value)


def _prove(before: Any, after: Any, selected: list[_EnvironmentValue], keys: Mapping[str, str], path: Path) -> None:
    """`Terminal` (`config_file`) unless the selected values, and only they, have changed, each to its new value."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    places = {("services", v.service, "environment", v.key) for v in selected}
    for place in {*old, *new}:
        if old.get(place) == new.get(place) and place in old and place in new:
            continue
        key = place[-1].rpartition(":")[2]
        named = (*place[:-1], key)
        if key in keys and (named in places or (place[0].startswith("x-") and place in old and place in new)):
            continue
        raise refusal(path, f"shares the value of {', '.join(keys)} with {one_line('.'.join(place), 120)}, which must not change",
                      "Give that place a value of its own, or change the file yourself.")  # fmt: skip
    for place, value in new.items():
        named = (*place[:-1], place[-1].rpartition(":")[2]) if place else place
        if named in places:
            text = str(value[1]).partition("=")[2] if ":" in place[-1] else str(value[1])
            if text != keys[named[-1]]:
                raise refusal(path, f"would not give {'.'.join(named)} the value that is meant")


def _prove_lines(old: str, new: str, changes: Sequence[Change], path: Path) -> None:
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    lines = {change.line for change in changes}
    moved = len(before) != len(after) or any(
        a != b and number not in lines for number, (a, b) in enumerate(zip(before, after, strict=False), start=1)
    )
    if moved:
        raise refusal(path, "would differ in other lines than the ones that are meant")
