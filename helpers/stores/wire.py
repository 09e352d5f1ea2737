"""HTTP to a server: the only session of the package, and the first contact: protocol, tenant and database.

Nothing else constructs an httpx client (tests/test_one_door_to_chroma.py):

- `timeout_seconds` limits the whole answer. httpx limits only each read, so a byte a second would hold us for ever.
- A hostile server gains nothing by its answer: `CEILINGS` limit it after decompression (a larger page of chunks is requested
  again in halves), only requested codings are accepted, JSON has at most `MOST_CONTAINERS` lists and objects and `DEEPEST`
  levels, and a slow request has a time limit, too.
- JSON is read as UTF-8, whatever the header is: a proxy that adds `charset=iso-8859-1` would corrupt every text, and every
  comparison through the same session would agree.
- Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY). Loopback never uses one, and an error
  names the proxy of its request.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx
import orjson

from helpers.errors import RunbookError, Terminal, Transient, one_line
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_CONTAINERS, is_crowded, is_deep
from helpers.stores.limits import QuotaExceeded, Usage, refuse_gateway_answers, retried

MOST_BYTES = 256 * 2**20  # of chunks, decompressed: the largest that a server accepts, with every character escaped
CEILINGS = (  # bytes of an answer, decompressed, by the end of the request's path; the first match counts
    (("/get", "/query", "/search"), MOST_BYTES),
    (("/collections",), 64 * 2**20),  # thousands of them, each with its schema
    (("",), 8 * 2**20),  # a heartbeat, a count, the answer to a write, an application's health
)
_CODINGS = (
    "gzip",
    "deflate",
)  # their decoders give at most about 1,000 bytes for one, and 64 KiB are decoded at a time
_SLICE = 2**16  # bytes of a request's body after which the time-out begins again
_AT_ONCE = 2**20  # bytes of one read: each read waits for computing threads, so few large ones
_WHOLE = 20  # times the time-out: the time limit of a request, however steadily it continues


class Session(httpx.Client):
    """An httpx client whose answers are complete within `timeout` seconds, and freed after use.

    In httpx a response and its stream form a cycle, so a 16 MB answer waits for the garbage collector, which counts objects and
    not bytes: a snapshot over HTTP held 130 MB of them.
    """

    def __init__(self, *, timeout: float, verify: bool = True, usage: Usage | None = None, **options: Any) -> None:
        """`usage` counts the bytes of its answers; other options are those of `httpx.Client`."""
        self._wire, self._usage = _Wire(verify), usage
        super().__init__(transport=self._wire, trust_env=False, timeout=timeout, **options)
        self.headers["Accept-Encoding"] = ", ".join(_CODINGS)

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request. Raises the errors of httpx, and `Transient` of a hook; each names the proxy of the request."""
        self._wire.deadline.start(request.extensions.get("timeout", {}).get("read"))
        try:
            response = super().send(request, **options)
        except (httpx.TransportError, Transient) as error:
            _name_the_proxy(error, request)
        if response.is_closed:
            if self._usage is not None:
                self._usage.add(bytes=response.num_bytes_downloaded)
            if is_crowded(response.content):  # before any reader, such as Chroma's client, parses it
                raise _too_large(request, f"has more than {MOST_CONTAINERS:,} lists and objects; it was not read")
            response.stream = httpx.ByteStream(b"")
        response.encoding = "utf-8"
        return response


def most_bytes(path: str) -> int:
    """Return the ceiling on the answer to a request for this path, in bytes."""
    return next(most for ends, most in CEILINGS if path.endswith(ends))


def _too_large(request: httpx.Request, problem: str) -> Exception:
    return QuotaExceeded(
        ReasonCode.QUOTA_EXCEEDED, f"the answer {problem}", where=str(request.url.copy_with(query=None)),
        next_step="Check that this is the server that you mean, and what is in front of it.",
    )  # fmt: skip


class _Answer(httpx.Response):
    """A response with ceilings for every reader: this package, httpx when it follows a redirect, Chroma's client."""

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Yield the bytes. Raises `QuotaExceeded` beyond the ceiling: a store then asks for fewer chunks."""
        total, most = 0, most_bytes(self.request.url.path)
        for piece in super().iter_bytes(chunk_size):
            total += len(piece)
            if total > most:
                raise _too_large(self.request, f"is larger than {most // 2**20} MiB; it was not read to its end")
            yield piece

    def json(self, **options: Any) -> Any:
        """Return the JSON as orjson reads it. Raises `json.JSONDecodeError`, also where it is nested too deeply.

        The vectors of chunks are an array (n, d) of float32, if they are rows of numbers of one length.
        """
        chunks = _chunks(self.content) if self.request.url.path.endswith("/get") else None
        value = orjson.loads(self.content) if chunks is None else chunks
        if is_deep(value):
            raise orjson.JSONDecodeError("nested too deeply", "", 0)
        return value


def _chunks(content: bytes) -> dict[str, Any] | None:
    """Return chunks with vectors, without a Python object for each number, which would take most of the time and memory.

    None for any other content, also for malformed chunks: orjson reads it, and raises its errors.
    """
    import numpy as np
    import simdjson

    from helpers.chunks import singles

    def plain(value: Any) -> Any:
        if isinstance(value, simdjson.Array):
            return value.as_list()
        return value.as_dict() if isinstance(value, simdjson.Object) else value

    try:
        document: Any = simdjson.Parser().parse(content)
        vectors = document["embeddings"]
        widths = {len(row) for row in vectors}
        numbers = np.frombuffer(vectors.as_buffer(of_type="d"))
        keys = list(document.keys())  # its items would make a Python object of each number
        if len(widths) != 1 or len(numbers) != len(vectors) * widths.pop() or len(set(keys)) < len(keys):
            return None
        rows = singles(numbers).reshape(len(vectors), -1)
        return {key: rows if key == "embeddings" else plain(document[key]) for key in keys}
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return None


def json_of(response: httpx.Response, kind: type = object, key: str = "", *, where: str = "") -> Any:
    """Return the JSON of an answer, read as UTF-8. Raises `Transient` ("not_json") for no JSON, no `kind`, or without the `key`.

    Transient, because a proxy's page proves nothing about the request, nor whether it was done.
    """
    try:
        value = response.json()
    except orjson.JSONDecodeError:
        _not_json(response, "an answer that is not JSON in UTF-8", where)
    if (
        not isinstance(value, kind)
        or (kind is int and isinstance(value, bool))
        or (key and (not isinstance(value, dict) or key not in value))
    ):
        _not_json(response, "JSON that does not answer this request", where)
    return value


def _not_json(response: httpx.Response, problem: str, where: str) -> NoReturn:
    kind = response.headers.get("content-type") or "no content type"
    raise Transient(
        ReasonCode.NOT_JSON, f"{problem} (status {response.status_code}, {kind}): {one_line(response.text.strip(), 80)}",
        where=where or str(response.request.url.copy_with(query=None)),
        next_step="Check what is in front of the server: a proxy, a sign-in page, another service on this port.",
    ) from None  # fmt: skip


def proxy_for(url: httpx.URL) -> tuple[str, str] | None:
    """Return the proxy for this URL and the variable that names it, or None. Loopback never has one."""
    if _is_loopback(url.host):
        return None
    host = f"[{url.host}]" if ":" in url.host else url.host
    if proxy_bypass(host if url.port is None else f"{host}:{url.port}") or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    for key in (url.scheme, "all"):
        if proxy := proxies.get(key):
            return (proxy if "://" in proxy else f"http://{proxy}"), f"{key.upper()}_PROXY"
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host))).is_loopback
    except (OSError, ValueError):
        return False


def _shown(proxy: str) -> str:
    """Return a proxy without its user and password."""
    scheme, _, rest = proxy.partition("://")
    return one_line(f"{scheme}://{rest.rpartition('@')[2].split('/')[0]}", 100)


def _name_the_proxy(error: httpx.TransportError | Transient, request: httpx.Request) -> NoReturn:
    """Raise the error again, with the name of the proxy that the request used."""
    proxy = proxy_for(request.url)
    if proxy is None:
        raise error
    through = f"through the proxy {_shown(proxy[0])} of {proxy[1]}"
    hint = f"without a proxy: NO_PROXY={request.url.host}"
    if isinstance(error, Transient):
        next_step = f"{error.next_step} To ask {hint}.".strip()
        raise Transient(error.code, f"{error.what}, {through}", where=error.where, next_step=next_step) from error
    text = str(error).strip() or type(error).__name__
    raise type(error)(f"{text} ({through}; {hint})", request=request) from error


class _Wire(httpx.BaseTransport):
    """Connections, one direct pool and one for each proxy, with one deadline for each thread."""

    def __init__(self, verify: bool) -> None:
        self.deadline = _Deadline()
        self._verify = verify
        self._pools: dict[str, httpx.HTTPTransport] = {}
        self._guard = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raw = self._pool(request.url).handle_request(request)
        coding = raw.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity", *_CODINGS):
            raw.close()
            raise Transient(
                ReasonCode.NOT_JSON, f"an answer in the coding {one_line(coding, 40)!r}, which was not asked for",
                where=str(request.url.copy_with(query=None)), next_step="Check what is in front of the server.",
            )  # fmt: skip
        return _Answer(raw.status_code, headers=raw.headers, stream=raw.stream, extensions=raw.extensions)

    def _pool(self, url: httpx.URL) -> httpx.HTTPTransport:
        proxy, variable = proxy_for(url) or ("", "")
        with self._guard:
            if proxy not in self._pools:
                try:
                    transport = httpx.HTTPTransport(verify=self._verify, proxy=proxy or None)
                except (ImportError, ValueError) as error:
                    raise Terminal(
                        ReasonCode.PROXY_UNUSABLE, f"the proxy {_shown(proxy)} of {variable} cannot be used: {_reason(error)}",
                        where=f"{url.scheme}://{url.netloc.decode()}",
                        next_step=f"Name an HTTP proxy; or none for this host: NO_PROXY={url.host}.",
                    ) from error  # fmt: skip
                pool: Any = transport._pool
                pool._network_backend = _Network(pool._network_backend, self.deadline)
                self._pools[proxy] = transport
            return self._pools[proxy]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "SOCKS needs the package socksio, which is not installed (pip install 'httpx[socks]')"
    return "only http, https and socks5 are known"


class _Deadline:
    """The time at which the answer that a thread waits for must be complete."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def start(self, seconds: float | None) -> None:
        self._thread.seconds = seconds
        self._thread.last = None if seconds is None else time.monotonic() + seconds * _WHOLE
        self.restart()

    def restart(self) -> None:
        seconds = getattr(self._thread, "seconds", None)
        self._thread.end = None if seconds is None else min(time.monotonic() + seconds, self._thread.last)

    def remaining(self, timeout: float | None) -> float | None:
        """Return the seconds for a step of at most `timeout` seconds. Raises `httpcore.ReadTimeout` after the deadline."""
        end: float | None = getattr(self._thread, "end", None)
        if end is None:
            return timeout
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout("the answer was not whole in time")
        return seconds if timeout is None else min(timeout, seconds)


class _Network(httpcore.NetworkBackend):
    """A network whose connections keep the deadline."""

    def __init__(self, network: httpcore.NetworkBackend, deadline: _Deadline) -> None:
        self._network, self._deadline = network, deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        stream = self._network.connect_tcp(host, port, self._deadline.remaining(timeout), local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, _AT_ONCE), self._deadline.remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send a body; the time-out begins again with each slice, up to `_WHOLE`, so that a slow line is no time-out."""
        for start in range(0, len(buffer), _SLICE):
            self._stream.write(buffer[start : start + _SLICE], self._deadline.remaining(timeout))
            if len(buffer) > _SLICE:
                self._deadline.restart()

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining(timeout))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# -- first contact -----------------------------------------------------------------------------------------------------
#
# The protocol is asked for, never guessed: `version` is 1.0.0 on every server of 1.x, and 0.5.16 to 0.6.3 answer both
# (chroma-facts, Versions). A wrong tenant or database looks like an empty source on API v1 (8), so both are asked for by name.

EVERY = "*"
_NAMED = 10  # databases in a message
Protocol = Literal["v1", "v2"]
Get = Callable[[str], httpx.Response]  # a path below /api → the answer, with retries after network failures
NAMES = ("localhost", "host.docker.internal", "chromadb-service")  # runbook, Section 1.3
_SECONDS = 3.0  # for one answer: a user waits for all of them


@dataclass(frozen=True, slots=True)
class Identity:
    """The tenant of a key and the databases that it opens, sorted; `("*",)` means all of the tenant.

    A server without authentication returns the default tenant, old ones `*`, others do not have the route: then the parameters
    are used unchanged.
    """

    tenant: str
    databases: tuple[str, ...]


def _object(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the JSON object of an answer with this status; {} for any other answer."""
    try:
        body = answer.json() if answer.status_code == status else None
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def identity_of(answer: httpx.Response) -> Identity | None:
    """Return the identity in an answer of `/api/v2/auth/identity`, None where there is no usable one."""
    body = _object(answer, 200)
    tenant = body.get("tenant")
    if not isinstance(tenant, str) or tenant in ("", EVERY, DEFAULT_TENANT):
        return None
    databases = body.get("databases")
    return Identity(tenant, tuple(sorted(map(str, databases if isinstance(databases, list) else [EVERY]))))


def resolved(endpoint: Endpoint, role: str, get: Get, where: str) -> Endpoint:
    """Return the endpoint with the tenant and database that its key opens, if the parameters do not name them.

    Raises `Terminal` (forbidden, unknown_tenant, unknown_database) where key and parameters contradict each other.
    """
    answer = get("v2/auth/identity")
    if endpoint.is_cloud and answer.status_code in (401, 403):
        raise Terminal(
            ReasonCode.FORBIDDEN, f"Chroma Cloud does not accept the key ({answer.status_code})", where=where,
            next_step=f"Check {role}.headers: x-chroma-token must refer to a valid API key.",
        )  # fmt: skip
    if (identity := identity_of(answer)) is None:
        return endpoint
    if endpoint.tenant not in (DEFAULT_TENANT, identity.tenant):
        raise Terminal(
            ReasonCode.UNKNOWN_TENANT, f"the key belongs to tenant {identity.tenant}, not to {endpoint.tenant}", where=where,
            next_step=f"Leave {role}.tenant out: the key decides.",
        )  # fmt: skip
    database = _database(endpoint, role, identity, where)
    return endpoint.model_copy(update={"tenant": identity.tenant, "database": database})


def _database(endpoint: Endpoint, role: str, identity: Identity, where: str) -> str:
    if EVERY in identity.databases or endpoint.database in identity.databases:
        return endpoint.database
    if endpoint.database == DEFAULT_DATABASE and len(identity.databases) == 1:
        return identity.databases[0]
    shown = ", ".join(one_line(name, 80) for name in identity.databases[:_NAMED])
    more = f" and {len(identity.databases) - _NAMED} more" if len(identity.databases) > _NAMED else ""
    if not identity.databases:
        problem, next_step = "the key opens no database", "Use another key."
    elif endpoint.database == DEFAULT_DATABASE:
        problem, next_step = f"the key opens several databases: {shown}{more}", f"Name one of them in {role}.database."
    else:
        problem = f"the key does not open database {endpoint.database}; it opens {shown}{more}"
        next_step = f"Name one of them in {role}.database."
    raise Terminal(ReasonCode.UNKNOWN_DATABASE, problem, where=where, next_step=next_step)


def request_headers(endpoint: Endpoint, role: str) -> dict[str, str]:
    """Return the headers with their secrets. Raises `Terminal` for an illegal value, which httpx would repeat in its message."""
    headers = {name: ref.resolve().reveal() for name, ref in endpoint.headers.items()}
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise Terminal(
                ReasonCode.HEADER_ILLEGAL, f"the value of header {name} has blanks at an end, or characters beyond ASCII",
                where=f"{role} {endpoint.label}", next_step=f"Correct the secret that {role}.headers refers to.",
            )  # fmt: skip
    return headers


def session_of(endpoint: Endpoint, headers: Mapping[str, str], usage: Usage | None = None) -> Session:
    """Return a session with the endpoint's address, TLS setting and time-out, and these headers; `usage` counts its bytes."""
    return Session(
        base_url=endpoint.address, headers=dict(headers), verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds,
        event_hooks={"response": [refuse_gateway_answers]}, usage=usage,
    )  # fmt: skip


def greet(endpoint: Endpoint, role: str, headers: dict[str, str]) -> tuple[Protocol, Endpoint]:
    """Return the protocol of a server, and the endpoint with the tenant and database that its key opens (see `Identity`).

    Raises one clear `Terminal` where server, tenant or database cannot be used in this role.
    """
    where = f"{role} {endpoint.label}"
    with session_of(endpoint, headers) as session:

        def get(path: str) -> httpx.Response:
            return retried(lambda: session.get(f"api/{path}"), where)

        protocol = _protocol(endpoint, role, get, where)
        if role == "target":
            _require_current_server(protocol, get, where)
        if protocol == "v2":
            endpoint = resolved(endpoint, role, get, where)
        _require_tenant_and_database(endpoint, role, protocol, get, f"{role} {endpoint.label}")
        return protocol, endpoint


def heartbeat(get: Get, protocols: Sequence[Protocol] = ("v2", "v1")) -> tuple[Protocol | None, list[httpx.Response]]:
    """Return the first of these protocols in which a Chroma answers, None where none does, and the answers."""
    answers: list[httpx.Response] = []
    for protocol in protocols:
        answers.append(answer := get(f"{protocol}/heartbeat"))
        if answer.status_code == 200 and "nanosecond heartbeat" in answer.text:
            return protocol, answers
        if answer.status_code not in (404, 410):  # another service answers
            break
    return None, answers


def _protocol(endpoint: Endpoint, role: str, get: Get, where: str) -> Protocol:
    """Return v2 if the server answers to it, else v1; only the one that `api` names, if it names one. Raises `Terminal`."""
    protocol, answers = heartbeat(get, ("v2", "v1") if endpoint.api == "auto" else (endpoint.api,))
    if protocol is not None:
        return protocol
    answer = answers[-1]
    if answer.status_code in (401, 403):
        raise Terminal(
            ReasonCode.FORBIDDEN, f"answered {answer.status_code} to the heartbeat", where=where,
            next_step=f"Check {role}.headers.",
        )  # fmt: skip
    if endpoint.api != "auto" and answer.status_code in (404, 410):
        raise Terminal(
            ReasonCode(f"{role}_other_api"), f"does not speak API {endpoint.api} (answered {answer.status_code})", where=where,
            next_step=f"Leave {role}.api at auto: then the server is asked which API it speaks.",
        )  # fmt: skip
    raise Terminal(
        ReasonCode(f"{role}_not_chroma"),
        f"answered {', '.join(str(a.status_code) for a in answers)}, and not as a Chroma server does",
        where=where, next_step="Check the URL and what proxies are in between.",
    )  # fmt: skip


def _require_current_server(protocol: Protocol, get: Get, where: str) -> None:
    """Require a server of 1.x as a target. Those of 0.5.16 to 0.6.3 also speak API v2, and give their version."""
    answer = get(f"{protocol}/version")
    version = answer.text.strip().strip('"') if answer.status_code == 200 else "unknown"
    if protocol == "v1" or version.startswith("0."):
        raise Terminal(
            ReasonCode.TARGET_TOO_OLD, f"an old server (version {version}), which can be a source but not a target", where=where,
            next_step="Name a server of Chroma 1.x as the target.",
        )  # fmt: skip


def _require_tenant_and_database(endpoint: Endpoint, role: str, protocol: Protocol, get: Get, where: str) -> None:
    tenant, database = quote(endpoint.tenant, safe=""), quote(endpoint.database, safe="")
    if protocol == "v2":
        paths = {"tenant": f"v2/tenants/{tenant}", "database": f"v2/tenants/{tenant}/databases/{database}"}
    else:
        paths = {"tenant": f"v1/tenants/{tenant}", "database": f"v1/databases/{database}?tenant={tenant}"}
    for level, path in paths.items():
        answer = get(path)
        name = endpoint.tenant if level == "tenant" else endpoint.database
        if answer.status_code in (401, 403):
            raise Terminal(
                ReasonCode.FORBIDDEN, f"answered {answer.status_code} when asked for {level} {name}", where=where,
                next_step=f"Check {role}.headers.",
            )  # fmt: skip
        if protocol == "v1" and _knows_no_tenants(answer) and name in (DEFAULT_TENANT, DEFAULT_DATABASE):
            continue
        if answer.status_code != 200:
            raise Terminal(
                ReasonCode(f"unknown_{level}"), f"no {level} {name} ({answer.status_code})", where=where,
                next_step=f"Check {role}.{level}.",
            )  # fmt: skip


def _knows_no_tenants(answer: httpx.Response) -> bool:
    """Return whether a server has no route for tenants: before 0.4.15 there is only one database."""
    return _object(answer, 404).get("detail") == "Not Found"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address that was tried, whether a Chroma server answers there, and the result in words."""

    url: str
    answers: bool
    result: str


def tried(endpoint: Endpoint, names: Sequence[str] = NAMES) -> list[Candidate]:
    """Try each name on the port of this endpoint, in the given order, without the endpoint's own; no header is sent.

    These addresses are only tried and reported, never used.
    """
    scheme = "https" if endpoint.tls else "http"
    urls = [f"{scheme}://{name}:{endpoint.port}{endpoint.prefix}" for name in names if name != endpoint.host]
    return [_ask(url, endpoint.verify_tls) for url in urls]


def _ask(url: str, verify: bool) -> Candidate:
    try:
        with Session(timeout=_SECONDS, verify=verify) as session:
            api, answers = heartbeat(lambda path: session.get(f"{url}/api/{path}"))
            if api is None:
                return Candidate(url, False, f"answers {answers[-1].status_code}, and not as Chroma does")
            version = session.get(f"{url}/api/{api}/version").text.strip().strip('"')
            return Candidate(url, True, f"a Chroma server, API {api}, version {one_line(version, 40)}")
    except (httpx.HTTPError, RunbookError) as error:
        return Candidate(url, False, f"no answer ({one_line(str(error) or type(error).__name__, 100)})")


def with_candidates(error: RunbookError, candidates: Sequence[Candidate]) -> RunbookError:
    """Return the same error with a next step that names what was tried and what answers."""
    answering = [c.url for c in candidates if c.answers]
    attempts = "; ".join(f"{c.url}: {c.result}" for c in candidates)
    next_step = f"{error.next_step} Nor does any of these answer: {attempts}"
    if answering:
        next_step = f"If {' or '.join(answering)} is the target, put it into target.url. Tried: {attempts}"
    return type(error)(error.code, error.what, where=error.where, next_step=next_step.strip())


def answers_anybody(endpoint: Endpoint) -> bool:
    """Return whether the server lists its collections to a request without any header. False where it cannot be asked.

    A server of 1.x that is started with the authentication variables of 0.x does (chroma-facts, 1.5.9): a migration from an old
    server with authentication would silently open the data to the network.
    """
    if not endpoint.url:
        return False
    tenant, database = quote(endpoint.tenant, safe=""), quote(endpoint.database, safe="")
    base = f"{endpoint.address}/api/v2/tenants/{tenant}/databases/{database}"
    try:
        with Session(verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds) as session:
            return session.get(f"{base}/collections", params={"limit": 1}).status_code == 200
    except (httpx.HTTPError, RunbookError):
        return False


def open_door(source: Endpoint, target: Endpoint) -> str:
    """Return why the target should not go live as it is; "" where neither side uses credentials, or the target requires them."""
    if not (source.headers or target.headers) or not answers_anybody(target):
        return ""
    subject = "the target is given credentials" if target.headers else "the source is given credentials"
    return (
        f"{subject}, and {target.label} answers without any: Chroma 1.x has no authentication (variables of 0.x do nothing). "
        "Put a proxy that asks for them in front of it, and let nobody past."
    )
