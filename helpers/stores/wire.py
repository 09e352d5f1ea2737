"""What goes to a server over HTTP: the one session of the package, and the first contact, which says who answers and to whom.

Nothing else constructs an httpx client (tests/test_one_door_to_chroma.py):

- `timeout_seconds` bounds the whole answer. httpx itself bounds each read, so a byte a second would hold us for ever.
- A hostile server gains nothing by its answer: at most `CEILINGS` after decompression (a larger page of chunks is asked for
  again in halves), only codings that were asked for, JSON with `MOST_CONTAINERS` lists and objects, nested `DEEPEST` levels, at
  most, and an end for a slow request too.
- JSON is UTF-8, whatever the header says: a proxy that adds `charset=iso-8859-1` would garble every text, and every
  comparison made through the same wire would agree.
- Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY). Loopback never goes through one,
  and an error names the one it went through.
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

MOST_BYTES = 256 * 2**20  # of chunks, decompressed: the largest that a server takes, with every character escaped
CEILINGS = (  # bytes of an answer, decompressed, by how the path of the request ends; the first that fits
    (("/get", "/query", "/search"), MOST_BYTES),
    (("/collections",), 64 * 2**20),  # thousands of them, each with its schema
    (("",), 8 * 2**20),  # a heartbeat, a count, what a write is answered with, an application's health
)
_CODINGS = (
    "gzip",
    "deflate",
)  # their decoders give at most about 1,000 bytes for one, and 64 KiB are decoded at a time
_SLICE = 2**16  # bytes: a request's body that goes on at this pace is no time-out
_AT_ONCE = 2**20  # bytes read at most: each read waits for the threads that compute, so few large ones
_WHOLE = 20  # times the time-out: the longest that a request may take, however steadily it goes on


class Session(httpx.Client):
    """An httpx client whose answers are whole within `timeout` seconds, and freed as soon as they are used.

    httpx ties a response and its stream into a cycle, so a 16 MB answer waits for the garbage collector, which counts
    objects and not bytes: a snapshot over HTTP held 130 MB of them.
    """

    def __init__(self, *, timeout: float, verify: bool = True, usage: Usage | None = None, **options: Any) -> None:
        """`usage` counts the bytes of its answers; other options are those of `httpx.Client`."""
        self._wire, self._usage = _Wire(verify), usage
        super().__init__(transport=self._wire, trust_env=False, timeout=timeout, **options)
        self.headers["Accept-Encoding"] = ", ".join(_CODINGS)

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Raises what httpx raises, and `Transient` where a hook does; each names the proxy that was in between."""
        self._wire.deadline.start(request.extensions.get("timeout", {}).get("read"))
        try:
            response = super().send(request, **options)
        except (httpx.TransportError, Transient) as error:
            _name_the_proxy(error, request)
        if response.is_closed:
            if self._usage is not None:
                self._usage.add(bytes=response.num_bytes_downloaded)
            if is_crowded(response.content):  # before anybody, also Chroma's client, reads it as JSON
                raise _too_large(request, f"has more than {MOST_CONTAINERS:,} lists and objects; it was not read")
            response.stream = httpx.ByteStream(b"")
        response.encoding = "utf-8"
        return response


def most_bytes(path: str) -> int:
    """The ceiling on the answer to a request for this path."""
    return next(most for ends, most in CEILINGS if path.endswith(ends))


def _too_large(request: httpx.Request, what: str) -> Exception:
    return QuotaExceeded(
        ReasonCode.QUOTA_EXCEEDED, f"the answer {what}", where=str(request.url.copy_with(query=None)),
        next_step="Check that this is the server that you mean, and what is in front of it.",
    )  # fmt: skip


class _Answer(httpx.Response):
    """A response with ceilings, for whoever reads it: this package, httpx when it follows a redirect, Chroma's client."""

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        """Raises `QuotaExceeded` beyond its ceiling: where it is about chunks, the store asks for fewer of them."""
        total, most = 0, most_bytes(self.request.url.path)
        for piece in super().iter_bytes(chunk_size):
            total += len(piece)
            if total > most:
                raise _too_large(self.request, f"is larger than {most // 2**20} MiB; it was not read to its end")
            yield piece

    def json(self, **options: Any) -> Any:
        """As orjson reads it. Raises `json.JSONDecodeError`, also where it is nested too deeply.

        The vectors of chunks are an array (n, d) of float32, wherever they are rows of numbers of one length.
        """
        chunks = _chunks(self.content) if self.request.url.path.endswith("/get") else None
        value = orjson.loads(self.content) if chunks is None else chunks
        if is_deep(value):
            raise orjson.JSONDecodeError("nested too deeply", "", 0)
        return value


def _chunks(content: bytes) -> dict[str, Any] | None:
    """Chunks with vectors, without a Python object for each number: those are most of the time and memory of reading.

    None for what is something else, or is not quite so: orjson reads that, and says what is wrong.
    """
    import numpy as np
    import simdjson

    from helpers.chunks import singles

    def plain(value: Any) -> Any:
        if isinstance(value, simdjson.Array):
            return value.as_list()
        return value.as_dict() if isinstance(value, simdjson.Object) else value

    try:
        found: Any = simdjson.Parser().parse(content)
        vectors = found["embeddings"]
        widths = {len(row) for row in vectors}
        numbers = np.frombuffer(vectors.as_buffer(of_type="d"))
        keys = list(found.keys())  # its items would make a Python object of each number
        if len(widths) != 1 or len(numbers) != len(vectors) * widths.pop() or len(set(keys)) < len(keys):
            return None
        rows = singles(numbers).reshape(len(vectors), -1)
        return {key: rows if key == "embeddings" else plain(found[key]) for key in keys}
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
        return None


def json_of(response: httpx.Response, kind: type = object, key: str = "", *, where: str = "") -> Any:
    """The JSON of an answer, read as UTF-8. `Transient` ("not_json") where it is none, no `kind`, or lacks the `key`.

    Transient, because a proxy's page says nothing about the request, nor whether it was done.
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


def _not_json(response: httpx.Response, what: str, where: str) -> NoReturn:
    kind = response.headers.get("content-type") or "no content type"
    raise Transient(
        ReasonCode.NOT_JSON, f"{what} (status {response.status_code}, {kind}): {one_line(response.text.strip(), 80)}",
        where=where or str(response.request.url.copy_with(query=None)),
        next_step="Check what is in front of the server: a proxy, a sign-in page, another service on this port.",
    ) from None  # fmt: skip


def proxy_for(url: httpx.URL) -> tuple[str, str] | None:
    """The proxy for this URL and the variable that names it, or None. Loopback never has one."""
    if _is_loopback(url.host):
        return None
    host = f"[{url.host}]" if ":" in url.host else url.host
    if proxy_bypass(host if url.port is None else f"{host}:{url.port}") or proxy_bypass(url.host):
        return None
    named = getproxies()
    for key in (url.scheme, "all"):
        if proxy := named.get(key):
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
    """A proxy without its user and password."""
    scheme, _, rest = proxy.partition("://")
    return one_line(f"{scheme}://{rest.rpartition('@')[2].split('/')[0]}", 100)


def _name_the_proxy(error: httpx.TransportError | Transient, request: httpx.Request) -> NoReturn:
    """Raise the error again, saying which proxy the request went through."""
    found = proxy_for(request.url)
    if found is None:
        raise error
    through = f"through the proxy {_shown(found[0])} of {found[1]}"
    hint = f"without a proxy: NO_PROXY={request.url.host}"
    if isinstance(error, Transient):
        next_step = f"{error.next_step} To ask {hint}.".strip()
        raise Transient(error.code, f"{error.what}, {through}", where=error.where, next_step=next_step) from error
    said = str(error).strip() or type(error).__name__
    raise type(error)(f"{said} ({through}; {hint})", request=request) from error


class _Wire(httpx.BaseTransport):
    """Connections, one pool directly and one for each proxy, all under one deadline a thread."""

    def __init__(self, verify: bool) -> None:
        self.deadline = _Deadline()
        self._verify = verify
        self._pools: dict[str, httpx.HTTPTransport] = {}
        self._guard = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        made = self._pool(request.url).handle_request(request)
        coding = made.headers.get("content-encoding", "").strip().lower()
        if coding not in ("", "identity", *_CODINGS):
            made.close()
            raise Transient(
                ReasonCode.NOT_JSON, f"an answer in the coding {one_line(coding, 40)!r}, which was not asked for",
                where=str(request.url.copy_with(query=None)), next_step="Check what is in front of the server.",
            )  # fmt: skip
        return _Answer(made.status_code, headers=made.headers, stream=made.stream, extensions=made.extensions)

    def _pool(self, url: httpx.URL) -> httpx.HTTPTransport:
        proxy, variable = proxy_for(url) or ("", "")
        with self._guard:
            if proxy not in self._pools:
                try:
                    made = httpx.HTTPTransport(verify=self._verify, proxy=proxy or None)
                except (ImportError, ValueError) as error:
                    raise Terminal(
                        ReasonCode.PROXY_UNUSABLE, f"the proxy {_shown(proxy)} of {variable} cannot be used: {_why(error)}",
                        where=f"{url.scheme}://{url.netloc.decode()}",
                        next_step=f"Name an HTTP proxy; or none for this host: NO_PROXY={url.host}.",
                    ) from error  # fmt: skip
                pool: Any = made._pool
                pool._network_backend = _Network(pool._network_backend, self.deadline)
                self._pools[proxy] = made
            return self._pools[proxy]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def _why(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "SOCKS needs the package socksio, which is not installed (pip install 'httpx[socks]')"
    return "only http, https and socks5 are known"


class _Deadline:
    """When the answer that a thread waits for has to be whole."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def start(self, seconds: float | None) -> None:
        self._thread.seconds = seconds
        self._thread.last = None if seconds is None else time.monotonic() + seconds * _WHOLE
        self.restart()

    def restart(self) -> None:
        seconds = getattr(self._thread, "seconds", None)
        self._thread.end = None if seconds is None else min(time.monotonic() + seconds, self._thread.last)

    def left(self, timeout: float | None) -> float | None:
        """What a step of at most `timeout` seconds may take. Raises `httpcore.ReadTimeout` where nothing is left."""
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
        stream = self._network.connect_tcp(host, port, self._deadline.left(timeout), local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max(max_bytes, _AT_ONCE), self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """A large body on a slow line is no silence: the time for the answer begins anew with each slice sent, up to `_WHOLE`."""
        for start in range(0, len(buffer), _SLICE):
            self._stream.write(buffer[start : start + _SLICE], self._deadline.left(timeout))
            if len(buffer) > _SLICE:
                self._deadline.restart()

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


# -- first contact -----------------------------------------------------------------------------------------------------
#
# The protocol is asked for, never guessed: `version` says 1.0.0 on every server of 1.x, and on 0.5.16 to 0.6.3 both answer
# (chroma-facts, Versions). A wrong tenant or database lists as an empty source on API v1 (8), so both are asked for by name.

EVERY = "*"
_NAMED = 10  # databases in a message
Protocol = Literal["v1", "v2"]
Get = Callable[[str], httpx.Response]  # a path below /api → the answer, tried again where the network failed
NAMES = ("localhost", "host.docker.internal", "chromadb-service")  # runbook, Section 1.3
_SECONDS = 3.0  # for one answer: somebody waits for all of them


@dataclass(frozen=True, slots=True)
class Identity:
    """The tenant of a key and the databases that it opens, sorted; `("*",)` means all that the tenant has.

    A server without authentication names the default tenant for everybody, old ones `*`, others do not have the route: then
    the parameters stand as they are.
    """

    tenant: str
    databases: tuple[str, ...]


def _object(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The JSON object of an answer with this status; {} of any other answer."""
    try:
        body = answer.json() if answer.status_code == status else None
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def identity_of(answer: httpx.Response) -> Identity | None:
    """What an answer of `/api/v2/auth/identity` says, None where it says nothing that can be used."""
    body = _object(answer, 200)
    tenant = body.get("tenant")
    if not isinstance(tenant, str) or tenant in ("", EVERY, DEFAULT_TENANT):
        return None
    databases = body.get("databases")
    return Identity(tenant, tuple(sorted(map(str, databases if isinstance(databases, list) else [EVERY]))))


def resolved(endpoint: Endpoint, role: str, get: Get, where: str) -> Endpoint:
    """The endpoint with the tenant and database that its key opens, where the parameters leave them open.

    Raises `Terminal` (forbidden, unknown_tenant, unknown_database) where the key and the parameters contradict each other.
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
        what, then = "the key opens no database", "Use another key."
    elif endpoint.database == DEFAULT_DATABASE:
        what, then = f"the key opens several databases: {shown}{more}", f"Name one of them in {role}.database."
    else:
        what = f"the key does not open database {endpoint.database}; it opens {shown}{more}"
        then = f"Name one of them in {role}.database."
    raise Terminal(ReasonCode.UNKNOWN_DATABASE, what, where=where, next_step=then)


def request_headers(endpoint: Endpoint, role: str) -> dict[str, str]:
    """The headers with their secrets. What HTTP would refuse is found here: httpx repeats it in its message."""
    headers = {name: ref.resolve().reveal() for name, ref in endpoint.headers.items()}
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise Terminal(
                ReasonCode.HEADER_ILLEGAL, f"the value of header {name} has blanks at an end, or characters beyond ASCII",
                where=f"{role} {endpoint.label}", next_step=f"Correct the secret that {role}.headers refers to.",
            )  # fmt: skip
    return headers


def session_of(endpoint: Endpoint, headers: Mapping[str, str], usage: Usage | None = None) -> Session:
    """A session with the endpoint's address, TLS setting and time-out, and these headers; its bytes are counted."""
    return Session(
        base_url=endpoint.address, headers=dict(headers), verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds,
        event_hooks={"response": [refuse_gateway_answers]}, usage=usage,
    )  # fmt: skip


def greet(endpoint: Endpoint, role: str, headers: dict[str, str]) -> tuple[Protocol, Endpoint]:
    """The protocol to speak, and the endpoint with the tenant and database that its key opens (see `identity`).

    One clear `Terminal` where server, tenant or database cannot be used in this role.
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


def heartbeat(get: Get, wanted: Sequence[Protocol] = ("v2", "v1")) -> tuple[Protocol | None, list[httpx.Response]]:
    """The first of these protocols in which a Chroma answers, None where none does, and the answers."""
    answers: list[httpx.Response] = []
    for protocol in wanted:
        answers.append(answer := get(f"{protocol}/heartbeat"))
        if answer.status_code == 200 and "nanosecond heartbeat" in answer.text:
            return protocol, answers
        if answer.status_code not in (404, 410):  # something is there, and it does not speak as Chroma does
            break
    return None, answers


def _protocol(endpoint: Endpoint, role: str, get: Get, where: str) -> Protocol:
    """v2 where the server answers to it, else v1; only the one that `api` names where it names one."""
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
    """A target is a server of 1.x. Those of 0.5.16 to 0.6.3 speak API v2 too, and say which version they are."""
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
    for what, path in paths.items():
        answer = get(path)
        name = endpoint.tenant if what == "tenant" else endpoint.database
        if answer.status_code in (401, 403):
            raise Terminal(
                ReasonCode.FORBIDDEN, f"answered {answer.status_code} when asked for {what} {name}", where=where,
                next_step=f"Check {role}.headers.",
            )  # fmt: skip
        if protocol == "v1" and _knows_no_tenants(answer) and name in (DEFAULT_TENANT, DEFAULT_DATABASE):
            continue
        if answer.status_code != 200:
            raise Terminal(
                ReasonCode(f"unknown_{what}"), f"no {what} {name} ({answer.status_code})", where=where,
                next_step=f"Check {role}.{what}.",
            )  # fmt: skip


def _knows_no_tenants(answer: httpx.Response) -> bool:
    """A server before 0.4.15 has no such route at all, and everything is in the one database that there is."""
    return _object(answer, 404).get("detail") == "Not Found"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that was tried: whether a Chroma server answers there, and what was found."""

    url: str
    answers: bool
    said: str


def tried(endpoint: Endpoint, names: Sequence[str] = NAMES) -> list[Candidate]:
    """Each name on the port of this endpoint, in the order given, without the endpoint's own; no header is sent there.

    These places are tried and reported, never used.
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


def with_candidates(error: RunbookError, found: Sequence[Candidate]) -> RunbookError:
    """The same error, its next step naming what was tried and what answers."""
    well = [c.url for c in found if c.answers]
    tries = "; ".join(f"{c.url}: {c.said}" for c in found)
    told = f"{error.next_step} Nor does any of these answer: {tries}"
    if well:
        told = f"If {' or '.join(well)} is the target, put it into target.url. Tried: {tries}"
    return type(error)(error.code, error.what, where=error.where, next_step=told.strip())


def answers_anybody(endpoint: Endpoint) -> bool:
    """Whether the server lists its collections to a request without any header. False where it cannot be asked.

    One of 1.x that is started with the authentication variables of 0.x does (chroma-facts, 1.5.9): whoever moves from an old
    server that did ask would open the data to the network and see nothing of it.
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
    """Why the target should not go live as it is; "" where neither side uses credentials, or the target asks for them."""
    if not (source.headers or target.headers) or not answers_anybody(target):
        return ""
    whose = "the target is given credentials" if target.headers else "the source is given credentials"
    return (
        f"{whose}, and {target.label} answers without any: Chroma 1.x has no authentication (variables of 0.x do nothing). "
        "Put a proxy that asks for them in front of it, and let nobody past."
    )
