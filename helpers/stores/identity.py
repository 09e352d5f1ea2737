"""Whose is the key? Chroma Cloud answers with the tenant and the databases that it opens; people rarely know the tenant.

A server without authentication names the default tenant for everybody, old ones `*`, others do not have the route: then
the parameters stand as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from helpers.errors import Terminal, one_line
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT, Endpoint

EVERY = "*"
_NAMED = 10  # databases in a message


@dataclass(frozen=True, slots=True)
class Identity:
    """The tenant of a key and the databases that it opens, sorted; `("*",)` stands for all that the tenant has."""

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
            "forbidden", f"Chroma Cloud does not accept the key ({answer.status_code})", where=where,
            next_step=f"Check {role}.headers: x-chroma-token must refer to a valid API key.",
        )  # fmt: skip
    identity = identity_of(answer)
    if identity is None:
        return endpoint
    if endpoint.tenant not in (DEFAULT_TENANT, identity.tenant):
        raise Terminal(
            "unknown_tenant", f"the key belongs to tenant {identity.tenant}, not to {endpoint.tenant}", where=where,
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
    raise Terminal("unknown_database", what, where=where, next_step=then)
