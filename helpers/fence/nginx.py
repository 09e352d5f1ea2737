"""nginx before the source: its configuration, and enforcing it until no worker of the old one remains.

Deny by default on the raw request URI: only known reads pass, so that path tricks and routes of later versions are refused,
too. `nginx -s reload` returns at once, requests in flight continue in the old workers (chroma-facts), and a failed reload is
reported in nginx's log only; so both are waited for here.
"""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import psutil

from helpers.errors import Terminal, one_line
from helpers.parameters import resolve_path
from helpers.parameters.sections import NginxFence
from helpers.reason_codes import ReasonCode
from helpers.results import contents, json_in, write_bytes, write_text
from helpers.run.command import Done, alive, children, name_of, run_or_fail, run_program

MARK = "# Chroma migration runbook, write fence of run "
REFUSAL = "Writes are stopped while this database is migrated; reads go on."
LOG_PROBE = "/runbook-write-log"  # answered by nginx alone: its line proves that the log of writes is still written

# A segment of a path as clients send it: no slash, no backslash, no encoded dot, not "." and not "..".
_SEGMENT = r"(?!\.{1,2}/)(?:[^/?#%\\\\]|%(?!2[eEfF]|5[cC]))+"
_UUID = r"[0-9a-fA-F-]{36}"
_READS = [
    "^(GET|HEAD|OPTIONS) ",
    rf"^POST /api/v2/tenants/{_SEGMENT}/databases/{_SEGMENT}/collections/{_UUID}/(get|query|search|count)(\?|$)",
    rf"^POST /api/v1/collections/{_UUID}/(get|query)(\?|$)",
]


def configuration(rules: NginxFence, run_id: str, *, closed: bool, log: Path | None = None) -> str:
    """The configuration file: a fence (`closed`), or the same proxy that passes everything.

    `log` gets a line for each request that may write, once it is answered.
    """
    server = _server(rules, closed=closed, log=log)
    head = f"{MARK}{run_id}: {'CLOSED, writes are refused' if closed else 'open, everything passes'}\n"
    if not is_whole(rules):
        return head + server
    path = config_path(rules)
    inner = "".join(f"    {line}\n" if line else "\n" for line in server.splitlines())
    # nginx creates these folders at its start even if nothing is buffered, by default where only root may write
    kinds = () if os.getuid() == 0 else ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"    {kind}_temp_path {path}.{kind};\n" for kind in kinds)
    return (
        f"{head}pid {path}.pid;\nerror_log {path}.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n{folders}{inner}}}\n"
    )


def _server(rules: NginxFence, *, closed: bool, log: Path | None) -> str:
    rows = "".join(f'    "~{pattern}" 0;\n' for pattern in _READS)
    if log:
        rows = f'    "~^GET {LOG_PROBE}" 1;\n{rows}'
    line = (
        '{"at":"$time_iso8601","method":"$request_method","uri":"$request_uri","status":"$status","to":"$upstream_addr",'
        '"ids":"$runbook_ids"}'
    )
    errors = f"{config_path(rules)}.log" if is_whole(rules) else f"{log}.errors"
    log_settings = (
        f"    access_log {log} runbook_writes if=$runbook_refused;\n    location = {LOG_PROBE} {{ return 204; }}\n"
        f"    error_log {log}.alerts alert;\n    error_log {errors};\n"
    )
    gate = (
        "    if ($runbook_refused) {\n"
        f'        return 403 \'{{"error":"AuthorizationError","message":"{REFUSAL}"}}\';\n'
        "    }\n"
    )
    return (
        (f'map "$request_method $request_uri" $runbook_refused {{\n    default 1;\n{rows}}}\n' if closed or log else "")
        + (f"{_LISTED}log_format runbook_writes escape=json '{line}';\n" if log else "")
        + f"server {{\n    listen {rules.listen};\n    default_type application/json;\n"
        "    client_max_body_size 0;\n"
        + (gate if closed else "")
        + (log_settings if log else "")
        + (f"    location / {{\n{_BUFFERED}{_passed(rules, 'on')}    }}\n" if log else "")
        + f"    location {'@runbook_direct' if log else '/'} {{\n{_passed(rules, 'off')}    }}\n}}\n"
    )


def _passed(rules: NginxFence, whole_first: str) -> str:
    """proxy_pass without a path: the URI is passed on unchanged, as it was judged. Nothing is buffered on disk."""
    return (
        f"        proxy_pass http://{rules.upstream};\n        proxy_http_version 1.1;\n"
        '        proxy_set_header Connection "";\n        proxy_set_header Host $http_host;\n'
        f"        proxy_request_buffering {whole_first};\n        proxy_buffering off;\n        proxy_read_timeout 1h;\n"
        "        proxy_send_timeout 1h;\n"
    )


# The ids of a write are logged where its body begins with them, as Chroma's clients send it, and has less than 10 MB: nginx
# takes such a body whole into memory before it passes it on. Longer ones, and those of unknown length, are passed directly.
# Where a later key is "ids" again, in whatever encoding, none is logged: servers differ in which one they use.
_IDS = r"^\s*\{\s*\"ids\"\s*:\s*(?<runbook_list>\[(?:\s*\"(?:[^\"\\\\]++|\\\\.)*+\"\s*,?)*+\s*\])\s*[,}]"
_REPEATED = r",\s*+\"(?:i|\\\\u0069)(?:d|\\\\u0064)(?:s|\\\\u0073)\"\s*+:"
_LISTED = f"""map $request_body $runbook_ids {{
    default "";
    "~{_REPEATED}" "";
    "~{_IDS}" $runbook_list;
}}
map $http_content_length $runbook_long {{
    default 1;
    "~^[0-9]{{1,7}}$" 0;
}}
"""
_BUFFERED = """        error_page 418 = @runbook_direct;
        if ($runbook_long) {
            return 418;
        }
        client_body_buffer_size 10m;
        client_body_in_single_buffer on;
"""


def config_path(rules: NginxFence) -> Path:
    """The path of the file, links followed: the file itself is replaced, never the link."""
    return resolve_path(rules.config).resolve()


def is_whole(rules: NginxFence) -> bool:
    """Whether the file is nginx's whole configuration (its command names it with -c), not one that another includes."""
    return any(resolve_path(name).resolve() == config_path(rules) for name in _option_values(rules, "-c"))


def _option_values(rules: NginxFence, option: str) -> list[str]:
    """The values of an option of the command."""
    return [after for name, after in zip(rules.command, rules.command[1:], strict=False) if name == option]


class Nginx:
    """The nginx of this machine; `seconds` is how long each wait may take."""

    def __init__(self, rules: NginxFence, seconds: float) -> None:
        self.rules, self.seconds = rules, seconds
        self.path = config_path(rules)
        self.unseen: list[str] = []  # servers whose destination is decided by the request
        self.to_ask: list[tuple[str, str]] = []  # (URL, Host) of listeners that may lead to the upstream

    @property
    def unseen_text(self) -> str:
        return f" (where these lead only a request decides: {'; '.join(self.unseen[:5])})" if self.unseen else ""

    def written_by(self) -> str:
        """The run whose fence, closed or open, is in the file; "" for somebody else's file, or none."""
        try:
            first = contents(self.path).decode("utf-8", "replace").split("\n", 1)[0]
        except (OSError, ValueError):
            return ""
        return first[len(MARK) :].split(":")[0] if first.startswith(MARK) else ""

    def keep(self, backup: Path) -> dict[str, object]:
        """Back the current file up, unless it is our own, which is not the earlier one."""
        if not self.path.exists() or self.written_by():
            return {"existed": False}
        self._guarded(lambda: write_bytes(backup, contents(self.path), self.path.stat().st_mode & 0o777))
        return {"existed": True, "backup": str(backup)}

    def write(self, text: str, path: Path | None = None) -> None:
        path = path or self.path
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        self._guarded(lambda: write_text(path, text, mode))  # nginx may run as another user

    def put_back(self, backup: Path) -> None:
        """Restore the file byte for byte, atomically."""
        self._guarded(lambda: write_bytes(self.path, contents(backup), backup.stat().st_mode & 0o777))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            raise Terminal(
                ReasonCode.CONFIG_UNWRITABLE, f"cannot be read or written ({error.strerror})",
                where=f"fence.nginx.config {self.path}", next_step="Run as a user who may, or name another file.",
            ) from error  # fmt: skip

    # -- nginx itself --------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """`nginx/1.22.1`. Raises `Terminal` where there is no nginx."""
        return run_or_fail([*self.rules.command, "-v"], self.seconds, "nginx").last_line.rpartition(" ")[2]

    def check(self) -> str:
        """Run `nginx -t`, check that nginx reads our file and nothing bypasses it. Gives the dump of `nginx -T`."""
        self._or_fail(self._nginx("-t"), "nginx -t refuses the configuration")
        dump = self._nginx("-T").output
        parts = re.split(r"^# configuration file (.+):$", dump, flags=re.MULTILINE)
        files = {Path(name).resolve(): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        if self.path not in files:
            raise Terminal(
                ReasonCode.NGINX_READS_OTHER_FILES, "nginx does not read this file", where=f"fence.nginx.config {self.path}",
                next_step="Name a file that nginx.conf includes in its http block (conf.d/*.conf), or give "
                "fence.nginx.command its -c.",
            )  # fmt: skip
        self._refuse_bypasses(files)
        return dump

    def _refuse_bypasses(self, files: dict[Path, str]) -> None:
        """Raise `Terminal` where another server of this nginx listens on the fence's port, or leads to its upstream."""
        port = int(self.rules.listen.rpartition(":")[2])
        foreign = [server for server in servers(files) if server.file != self.path]
        for server in foreign:
            if server.takes(port):
                problem = f"listens on port {port} too: clients that it answers"
            elif any(_same_place(place, self.rules.upstream) for place in server.leads):
                listens = ", ".join(server.listens)
                problem = f"(listen {listens}) leads to {self.rules.upstream} too: clients that use it"
            else:
                continue
            raise Terminal(
                ReasonCode.NGINX_TWO_SERVERS, f"another server of this nginx {problem} would go round the fence",
                where=str(server.file),
                next_step="Keep that server in the file fence.nginx.config: it is put back when the fence is lifted.",
            )  # fmt: skip
        self.unseen = [f"{', '.join(e.listens)} in {e.file}" for e in foreign if any("$" in place for place in e.leads)]
        # By a variable, or by another proxy on this machine: each is tested when the fence is proven.
        uncertain = [server for server in foreign if any("$" in place or _leads_here(place) for place in server.leads)]
        self.to_ask = [(url, name) for server in uncertain for url in server.urls() for name in server.names or [""]]
        self.unseen += [f"{at} in {e.file}" for e in uncertain for at in e.listens if at.startswith("unix:")]

    def processes(self) -> list[tuple[int, float]]:
        """(process, when it began in seconds) of master and workers; [] where none serves. Each reload makes other workers."""
        master = self._master(self._pid_file(self._nginx("-T").output))
        try:
            processes = []
            # it may have been started just now
            if master is not None and self._wait(lambda: bool(children(master)), 5.0):
                processes = sorted({master, *children(master)})
            return [(pid, psutil.Process(pid).create_time()) for pid in processes]
        except psutil.Error:  # one ended meanwhile
            return []

    def runs(self) -> bool:
        """Whether it serves now; False, too, where nginx is not installed or its files were never valid."""
        try:
            return self._master(self._pid_file(self._nginx("-T").output)) is not None
        except Terminal:
            return False

    def enforce(self) -> str:
        """Check, then start or reload, until only workers of this configuration remain. Gives "started" or "reloaded"."""
        dump = self.check()
        master, old = self._master(self._pid_file(dump)), set[int]()
        if master is not None:
            old = children(master)
            self._or_fail(self._nginx("-s", "reload"), "nginx cannot be reloaded")
            self._wait(lambda: bool(children(master) - old) or not alive(master), min(self.seconds, 15.0))
        if master is None or not alive(master):  # or it died meanwhile
            self._or_fail(self._nginx(), "nginx does not start")
            return "started"
        if not children(master) - old:
            raise Terminal(
                ReasonCode.NGINX_RELOAD_REFUSED, f"nginx went on with its old configuration: {self._log_line(dump, master)}",
                where=f"nginx, process {master}", next_step="Its error log says why; a busy port is the usual reason.",
            )  # fmt: skip
        if not self._wait(lambda: not children(master) & old, self.seconds):
            remaining = len(children(master) & old)
            raise Terminal(
                ReasonCode.OLD_WORKERS, f"{remaining} worker processes of the old configuration still serve requests after "
                f"{self.seconds:g} seconds", where=f"nginx, process {master}",
                next_step="See which client writes for so long; raise fence.timeout_seconds.",
            )  # fmt: skip
        return "reloaded"

    def _nginx(self, *arguments: str) -> Done:
        return run_program([*self.rules.command, *arguments], self.seconds, "nginx")

    def _or_fail(self, done: Done, problem: str) -> None:
        if done.code:
            causes = [line for line in done.output.splitlines() if "[emerg]" in line] or [done.last_line]
            raise Terminal(
                ReasonCode.NGINX_REFUSES, f"{problem}: {causes[0].strip()}", where=f"fence.nginx.config {self.path}",
                next_step="Correct that; what was there before is put back.",
            )  # fmt: skip

    def _pid_file(self, dump: str) -> Path:
        build_options = self._nginx("-V").output
        main = Path(
            [_built_in(build_options, "conf-path"), *_option_values(self.rules, "-c")][-1]
        )  # a broken configuration has no dump
        texts = [
            main.read_text(encoding="utf-8", errors="replace") if main.is_file() else "",
            dump,
            *self.rules.command,
        ]
        pid_paths = re.findall(r"^\s*pid\s+([^;]+);", "\n".join(texts), re.MULTILINE)
        path = pid_paths[-1].strip() if pid_paths else _built_in(build_options, "pid-path")
        return Path([_built_in(build_options, "prefix"), *_option_values(self.rules, "-p")][-1]) / path

    def _master(self, pid_file: Path) -> int | None:
        """The process that serves now; None where the file is missing or of a process that is gone."""
        try:
            pid = int(contents(pid_file.resolve(), 2**10))
        except (OSError, ValueError):
            return None
        return pid if alive(pid) and name_of(pid) in ("nginx", "") else None

    def _log_line(self, dump: str, master: int) -> str:
        """The last error of this process that stopped it; others' messages, or earlier ones, are no reason."""
        log_paths = re.findall(r"^\s*error_log\s+([^;\s]+)", dump, re.MULTILINE)
        for name in reversed(log_paths):
            try:
                lines = contents(Path(name).resolve(), 2**31).decode("utf-8", "replace").splitlines()
            except (OSError, ValueError):
                continue
            causes = [x for x in lines if f"[emerg] {master}#" in x and "still could not bind" not in x]
            if causes:
                return causes[-1]
        return "see its error log"

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return met


def _built_in(build_options: str, name: str) -> str:
    match = re.search(rf"--{name}=(\S+)", build_options)
    return match[1] if match else "/run/nginx.pid" if name == "pid-path" else "/"


# -- what an nginx serves ----------------------------------------------------------------------------------------------

# The dump of `nginx -T` as directives: (name, arguments, block or None), files included where they are named.


_WORD = re.compile(
    r"""\s+|\#[^\n]*|(?P<end>[{};])|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:\\.|\$\{[^}]*\}|[^\s{};\\])+)""",
    re.DOTALL,
)
_Directive = tuple[str, list[str], "list[_Directive] | None"]
_PASSES = ("proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass")


@dataclass(slots=True)
class Server:
    """A `server` of http or stream: its file, its listeners, and the HOST:PORT that it leads to."""

    file: Path
    listens: list[str]
    leads: list[str]
    names: list[str] = field(default_factory=list)
    tls: bool = False

    def urls(self) -> list[str]:
        """Its URLs from this machine: the first port of each listener, none for a Unix socket."""
        urls = []
        for listen in self.listens:
            host, _, port = listen.rpartition(":")
            if not re.fullmatch(r"\d+(-\d+)?", port):  # an address alone
                host, port = listen, "80"
            if not host.startswith("unix"):
                urls.append(f"{'https' if self.tls else 'http'}://{reached_at(host)}:{port.partition('-')[0]}")
        return urls

    def takes(self, port: int) -> bool:
        for listen in self.listens:
            first, _, last = listen.rpartition(":")[2].partition("-")
            first = first if first.isdigit() else "80"  # an address alone
            if int(first) <= port <= int(last or first):
                return True
        return False


def servers(files: Mapping[Path, str]) -> list[Server]:
    """Every server of a dump, whose first file is the main one. `Terminal` where blocks are nested too deeply."""
    try:
        parsed = {path: _directives(text, 0)[0] for path, text in files.items()}
    except RecursionError as error:
        raise Terminal(
            ReasonCode.NGINX_READS_OTHER_FILES, "nginx reads blocks that are nested too deeply", where=str(next(iter(files))),
            next_step="See the configuration that nginx -T shows.",
        ) from error  # fmt: skip
    blocks: list[tuple[Path, list[_Directive]]] = []
    names: dict[str, list[str]] = {}
    walked: list[tuple[Path, list[_Directive]]] = list(parsed.items())
    for path, block in walked:  # it grows: nested blocks are appended
        for name, arguments, inner in block:
            if inner is None:
                continue
            if name == "upstream" and arguments:
                addresses = [a[0] for n, a, _ in _inlined(inner, parsed) if n == "server" and a]
                names.setdefault(arguments[0].lower(), []).extend(addresses)
            elif name == "server":
                blocks.append((path, inner))
            else:
                walked.append((path, inner))
    result = []
    for path, inner in blocks:
        own = list(_every(inner, parsed))
        passes = [_place(arguments[0]) for name, arguments in own if name in _PASSES and arguments]
        leads = [_with_port(to) for p in passes for to in names.get(re.sub(r":(80|443)$", "", p), [p])]
        listens = [a for n, a in own if n == "listen" and a]
        hosts = [a for n, each in own if n == "server_name" for a in each if re.fullmatch(r"[\w.-]+", a) and a != "_"]
        tls = any("ssl" in a for a in listens)
        result.append(Server(path, [a[0] for a in listens] or ["80"], leads, hosts, tls))
    return result


def _directives(text: str, at: int) -> tuple[list[_Directive], int]:
    """The directives of a block from position `at`, and where it ends."""
    directives: list[_Directive] = []
    words: list[str] = []
    while at < len(text):
        match = _WORD.match(text, at)
        at = match.end() if match else at + 1
        if match is None or not (match["end"] or match["text"]):
            continue
        if match["text"]:
            quoted = match["text"][0] in "\"'"
            words.append(match["text"][1:-1] if quoted else match["text"])
        elif match["end"] == "}":
            break
        else:
            inner: list[_Directive] | None = None
            if match["end"] == "{":
                if words and words[0].endswith("_by_lua_block"):
                    inner, at = [], _after_braces(text, at)
                else:
                    inner, at = _directives(text, at)
            if words:
                directives.append((words[0], words[1:], inner))
            words = []
    return directives, at


def _after_braces(text: str, at: int) -> int:
    open_now = 1
    while open_now and at < len(text):
        open_now += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at


def _inlined(block: list[_Directive], parsed: Mapping[Path, list[_Directive]]) -> Iterator[_Directive]:
    main = next(iter(parsed)).parent
    for name, arguments, inner in block:
        if name == "include" and arguments:
            pattern = str(main / arguments[0])
            for path, included in parsed.items():
                if fnmatchcase(str(path), pattern):
                    yield from _inlined(included, parsed)
        else:
            yield name, arguments, inner


def _every(block: list[_Directive], parsed: Mapping[Path, list[_Directive]]) -> Iterator[tuple[str, list[str]]]:
    """Names and arguments at any depth."""
    for name, arguments, inner in _inlined(block, parsed):
        yield name, arguments
        if inner is not None:
            yield from _every(inner, parsed)


def _place(target: str) -> str:
    """HOST:PORT of a pass directive's target; for the name of an upstream, with the scheme's port."""
    scheme, separator, address = target.partition("://")
    place = target if target.startswith("unix:") else re.split(r"[/?#]", address if separator else target)[0].lower()
    return place if not separator or re.search(r":\d+$", place) else f"{place}:{443 if scheme == 'https' else 80}"


def _with_port(place: str) -> str:
    return place if re.search(r":\d+$", place) or place.startswith("unix:") else f"{place}:80"


_EVERY_ADDRESS = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # nosec B104


def reached_at(host: str) -> str:
    """The host by which this machine reaches a listener on `host`: loopback, where that means every address."""
    return _EVERY_ADDRESS.get(host, host)


def _leads_here(place: str) -> bool:
    """Whether a HOST:PORT, or a Unix socket, is on this machine."""
    return place.startswith("unix:") or _is_here(_addresses(place.rpartition(":")[0]))


def _same_place(one: str, other: str) -> bool:
    """Whether two HOST:PORT are one socket: equal names, equal addresses, or a loopback and an address of this machine."""
    (a, _, port), (b, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if port != other_port:
        return False
    if a.lower() == b.lower():
        return True
    first, second = _addresses(a), _addresses(b)
    return bool(first & second) or (_is_here(first) and _is_here(second))


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), None)}
    except (OSError, UnicodeError):
        return set()


def _is_here(addresses: set[str]) -> bool:
    for address in addresses:
        with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            return True
    return False


# -- the log of writes -------------------------------------------------------------------------------------------------

REFUSED = (400, 404, 405, 422)  # a server's status for an unknown collection, route or body
_ONE = re.compile(
    r"/api/v[12](?:/tenants/[^/?#]+/databases/[^/?#]+)?/collections/([^/?#]+)(?:/([\w/-]*))?(?:\?|$)", re.ASCII
)
_MAKES = re.compile(
    r"POST /api/v[12](?:/tenants/[^/?#]+(?:/databases/[^/?#]+)?)?/(?:tenants|databases|collections)(?:\?|$)"
)
_PLAIN = re.compile(r"DELETE [\w.-]+", re.ASCII)  # a collection's name in its only spelling


@dataclass(slots=True)
class Touched:
    """What may have changed in one collection: the chunks of `ids`; deleted others (`filtered`); any chunk (`whole`)."""

    ids: set[str] = field(default_factory=set)
    filtered: bool = False
    whole: bool = False

    def __or__(self, other: Touched) -> Touched:
        return Touched(self.ids | other.ids, self.filtered or other.filtered, self.whole or other.whole)


def key_of(spelled: str) -> str:
    """The key of a collection in a path: its id in the usual form, however it is spelled, or its name."""
    plain = unquote(spelled)
    return _id_of(plain) or plain


def _id_of(text: str) -> str:
    """This UUID as Chroma prints it; "" for no UUID. Servers accept capitals, braces, URNs, and none of the dashes."""
    with suppress(ValueError):
        return str(uuid.UUID(text))
    return ""


def touched(lines: Iterator[bytes], mark: int, known: Collection[str]) -> tuple[dict[str, Touched], str]:
    """By id or name of a collection, what logged requests may have changed; and why one may have changed anything, or "".

    `known` are ids and names of collections. Requests before byte `mark` count where they had no answer: they may have been
    applied later. Raises as `json_in`, or `KeyError`, for a line that is not ours.
    """
    changes: dict[str, Touched] = {}
    at = len(next(lines, b""))
    for line in lines:
        entry = json_in(line)
        status, method = int(entry["status"]), entry["method"]
        answered = 200 <= status < 499  # 499: its client went away; 0: it was cut off
        if entry["to"] and (at >= mark or not answered):
            request = f"{method} {one_line(entry['uri'].partition('?')[0], 200)}"
            if (match := _ONE.match(entry["uri"])) is not None:
                key = key_of(match[1])
                if method == "DELETE" and _id_of(key):  # a current collection may have its name now
                    return {}, f"a request may have changed more than one collection: {request}"
                if key in known or _id_of(key) or _PLAIN.fullmatch(f"{method} {key}"):
                    change = _change_by(f"{method} {match[2] or ''}", entry.get("ids"))
                    changes[key] = changes.get(key, Touched()) | change
                elif status not in REFUSED:
                    return {}, f"a request names a collection in a way that is not known: {request}"
            elif not _MAKES.match(f"{method} {entry['uri']}"):  # creating a collection changes none
                return {}, f"a request may have changed more than one collection: {request}"
        at += len(line)
    return changes, ""


def _change_by(request: str, listed: str | None) -> Touched:
    ids: list[str] = []
    with suppress(ValueError):
        if isinstance(values := json_in(listed or "[]"), list) and all(isinstance(chunk, str) for chunk in values):
            ids = values
    if request in ("POST add", "POST update", "POST upsert", "POST delete") and ids:
        return Touched(set(ids))
    return Touched(filtered=True) if request == "POST delete" else Touched(whole=True)
