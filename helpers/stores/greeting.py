"""The first words with a server: is it well, which protocol does it speak, are the tenant and the database there?

The protocol is asked for, never guessed: `version` says 1.0.0 on every server of 1.x, and on 0.5.16 to 0.6.3 both
protocols answer (chroma-facts, Versions). A wrong tenant or database lists as an empty source on API v1 (8), so both are
asked for by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

import httpx

from helpers.errors import Terminal
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint
from helpers.stores.identity import resolved
from helpers.stores.requests import Usage
from helpers.stores.retry import refuse_gateway_answers, retried
from helpers.stores.wire import Session

Protocol = Literal["v1", "v2"]
Get = Callable[[str], httpx.Response]  # a path below /api → the answer, tried again where the network failed


def request_headers(endpoint: Endpoint, role: str) -> dict[str, str]:
    """The headers with their secrets. What HTTP would refuse is found here: httpx repeats it in its message."""
    headers = {name: ref.resolve().reveal() for name, ref in endpoint.headers.items()}
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise Terminal(
                "header_illegal", f"the value of header {name} has blanks at an end, or characters beyond ASCII",
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


def _protocol(endpoint: Endpoint, role: str, get: Get, where: str) -> Protocol:
    """v2 where the server answers to it, else v1; only the one that `api` names where it names one."""
    wanted: list[Protocol] = ["v2", "v1"] if endpoint.api == "auto" else [endpoint.api]
    answers: dict[str, httpx.Response] = {}
    for protocol in wanted:
        answer = answers[protocol] = get(f"{protocol}/heartbeat")
        if answer.status_code in (401, 403):
            raise Terminal(
                "forbidden", f"answered {answer.status_code} to the heartbeat", where=where,
                next_step=f"Check {role}.headers.",
            )  # fmt: skip
        if answer.status_code == 200 and "nanosecond heartbeat" in answer.text:
            return protocol
        if answer.status_code not in (404, 410):  # something is there, and it does not speak as Chroma does
            break
    if endpoint.api != "auto" and answer.status_code in (404, 410):
        raise Terminal(
            f"{role}_other_api", f"does not speak API {endpoint.api} (answered {answer.status_code})", where=where,
            next_step=f"Leave {role}.api at auto: then the server is asked which API it speaks.",
        )  # fmt: skip
    raise Terminal(
        f"{role}_not_chroma",
        f"answered {', '.join(str(a.status_code) for a in answers.values())}, and not as a Chroma server does",
        where=where, next_step="Check the URL and what proxies are in between.",
    )  # fmt: skip


def _require_current_server(protocol: Protocol, get: Get, where: str) -> None:
    """A target is a server of 1.x. Those of 0.5.16 to 0.6.3 speak API v2 too, and say which version they are."""
    answer = get(f"{protocol}/version")
    version = answer.text.strip().strip('"') if answer.status_code == 200 else "unknown"
    if protocol == "v1" or version.startswith("0."):
        raise Terminal(
            "target_too_old", f"an old server (version {version}), which can be a source but not a target", where=where,
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
                "forbidden", f"answered {answer.status_code} when asked for {what} {name}", where=where,
                next_step=f"Check {role}.headers.",
            )  # fmt: skip
        if protocol == "v1" and _knows_no_tenants(answer) and name in (DEFAULT_TENANT, DEFAULT_DATABASE):
            continue
        if answer.status_code != 200:
            raise Terminal(
                f"unknown_{what}", f"no {what} {name} ({answer.status_code})", where=where,
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
