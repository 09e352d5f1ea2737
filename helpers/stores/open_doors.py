"""Does a server that is given credentials ask for any? Chroma 1.x has no authentication of its own.

A server of 1.x that is started with the authentication variables of 0.x answers everybody (chroma-facts, 1.5.9): whoever
moves from an old server that did ask would open the data to the network and see nothing of it.
"""

from __future__ import annotations

from urllib.parse import quote

import httpx

from helpers.errors import RunbookError
from helpers.parameters.endpoint import Endpoint
from helpers.stores.wire import Session


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
