"""Whether the application itself uses the target: what it says of itself, and connections that are seen there.

Its own health answer is the best witness. Else the machine is asked: connections to the target that are not ours, and for
a directory the processes that have it open. Where neither side runs on this machine nothing can be seen, and that is said.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from helpers.cutover.application import Answer
from helpers.fence import who_has_open
from helpers.parameters import Endpoint, resolve_path

_TCP = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"


@dataclass(slots=True)
class Evidence:
    """What was seen. `says_target` and `says_source` are health URLs whose answer names that side."""

    says_target: set[str] = field(default_factory=set)
    says_source: set[str] = field(default_factory=set)
    connections: int = 0
    processes: set[str] = field(default_factory=set)

    @property
    def seen(self) -> bool:
        return bool(self.says_target or self.connections or self.processes)

    def sentence(self) -> str:
        said = [f"{url} names the target" for url in sorted(self.says_target)]
        said += [f"{self.connections} connections of other processes to the target"] if self.connections else []
        said += [f"{name} has it open" for name in sorted(self.processes)]
        return "; ".join(said)


def gather(into: Evidence, source: Endpoint, target: Endpoint, answers: Sequence[Answer]) -> None:
    """Look once more, and add what is seen."""
    for answer in answers:
        if not answer.well:
            continue
        at_target, at_source = _names(answer.body, target), _names(answer.body, source)
        if at_target and not at_source:
            into.says_target.add(answer.url)
            into.says_source.discard(answer.url)
        elif at_source and not at_target:
            into.says_source.add(answer.url)
    if target.path is not None:
        found = who_has_open(resolve_path(target.path))
        into.processes |= {f"process {pid} ({name or 'unknown'})" for pid, name in found.processes.items()}
    elif (target.host, target.port) != (
        source.host,
        source.port,
    ):  # else the old connections would be taken for new ones
        into.connections = max(into.connections, connections(target.host, target.port))


def _names(body: str, endpoint: Endpoint) -> bool:
    """Whether a text names this place: its URL, its host with port, or its path as a whole word."""
    if endpoint.path is not None:
        places = [str(resolve_path(endpoint.path))]
    else:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        places = [f"{host}:{endpoint.port}"]
    return any(_stands_alone(body.replace("\\/", "/"), place) for place in places)


def _stands_alone(body: str, place: str) -> bool:
    """`host:800` does not stand in `host:8000`, nor `/data/new` in `/data/newer`."""
    at = body.find(place)
    while at >= 0:
        before, after = body[at - 1 : at], body[at + len(place) : at + len(place) + 1]
        if not (before.isalnum() or before in ("-", ".", "_")) and not (after.isalnum() or after in ("-", "_")):
            return True
        at = body.find(place, at + 1)
    return False


def connections(host: str, port: int) -> int:
    """Established TCP connections to this address that this process has no end of; 0 too where none can be seen."""
    with suppress(OSError):
        places = {str(row[4][0]).partition("%")[0] for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        ours = _own_sockets()
        rows = [row for file in _TCP if file.exists() for row in _rows(file)]
        own_ends = {(local, number) for local, number, _, _, inode in rows if inode in ours}
        found = set()
        for local, local_port, remote, remote_port, inode in rows:
            if (remote, remote_port) in {(p, port) for p in places} and inode not in ours:
                found.add((local, local_port))
            elif (local, local_port) in {(p, port) for p in places} and (remote, remote_port) not in own_ends:
                found.add((remote, remote_port))
        return len(found)
    return 0


def _rows(file: Path) -> list[tuple[str, int, str, int, str]]:
    """(local, port, remote, port, inode) of the established connections."""
    found = []
    for line in file.read_text(encoding="ascii", errors="replace").splitlines()[1:]:
        parts = line.split()
        if len(parts) > 9 and parts[3] == _ESTABLISHED:
            found.append((*_address(parts[1]), *_address(parts[2]), parts[9]))
    return found


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F40` as ("127.0.0.1", 8000); words of four bytes in the machine's order."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    address = ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), int(port, 16)


def _own_sockets() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            name = str(link.readlink())
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found
