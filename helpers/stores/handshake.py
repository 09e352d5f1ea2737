"""First contact with a server: its protocol, whose the key is, whether tenant and database exist, and if it asks for a key.

A server of 1.x that is started with the authentication variables of 0.x answers everybody (chroma-facts, 1.5.9): whoever
moves from an old server that did ask would open the data to the network and see nothing of it.

The protocol is asked for, never guessed: `version` says 1.0.0 on every server of 1.x, and on 0.5.16 to 0.6.3 both protocols
answer (chroma-facts, Versions). A wrong tenant or database lists as an empty source on API v1 (8), so both are asked for by
name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx

from helpers.errors import RunbookError, Terminal, one_line
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.reason_codes import ReasonCode
from helpers.stores.limits import Usage, refuse_gateway_answers, retried
from helpers.stores.wire import Session

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


def identity_of(answer: httpx.Response) -> Identity | None:
    """What an answer of `/api/v2/auth/identity` says, None where it says nothing that can be used."""
    try:
        body: Any = answer.json() if answer.status_code == 200 else None
    except ValueError:
        return None
    tenant = body.get("tenant") if isinstance(body, dict) else None
    if not isinstance(tenant, str) or tenant in ("", EVERY, DEFAULT_TENANT):
        return None
    databases = body.get("databases")
    return Identity(tenant, tuple(sorted(map(str, databases if isinstance(databases, list) else [EVERY]))))


def resolved(endpoint: Endpoint, role: str, get: Callable[[str], httpx.Response], where: str) -> Endpoint:
    """The endpoint with the tenant and database that its key opens, where the parameters leave them open.

    Raises `Terminal` (forbidden, unknown_tenant, unknown_database) where the key and the parameters contradict each other.
    """
    answer = get("v2/auth/identity")
    if endpoint.is_cloud and answer.status_code in (401, 403):
        raise Terminal(
            ReasonCode.FORBIDDEN, f"Chroma Cloud does not accept the key ({answer.status_code})", where=where,
            next_step=f"Check {role}.headers: x-chroma-token must refer to a valid API key.",
        )  # fmt: skip
    identity = identity_of(answer)
    if identity is None:
        return endpoint
    if endpoint.tenant not in (DEFAULT_TENANT, identity.tenant):
        raise Terminal(
            ReasonCode.UNKNOWN_TENANT, f"the key belongs to tenant {identity.tenant}, not to {endpoint.tenant}", where=where,
            next_step=f"Leave {role}.tenant out: the key decides.",
        )  # fmt: skip
    return endpoint.model_copy(
        update={"tenant": identity.tenant, "database": _database(endpoint, role, identity, where)}
    )


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
    if answer.status_code != 404:
        return False
    try:
        body: Any = answer.json()
    except json.JSONDecodeError:
        return False
    return isinstance(body, dict) and body.get("detail") == "Not Found"


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
    if well:
        told = f"If {' or '.join(well)} is the target, put it into target.url. Tried: {tries}"
    else:
        told = f"{error.next_step} Nor does any of these answer: {tries}"
    return type(error)(error.code, error.what, where=error.where, next_step=told.strip())


def answers_anybody(endpoint: Endpoint) -> bool:
    """Whether the server lists its collections to a request without any header. False where it cannot be asked."""
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
