"""Where else a server could be: the runbook's three names on the target's port. They are tried and told, never taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from helpers.errors import RunbookError, one_line
from helpers.parameters.endpoint import Endpoint
from helpers.stores.wire import Session

NAMES = ("localhost", "host.docker.internal", "chromadb-service")  # runbook, Section 1.3
_SECONDS = 3.0  # for one answer: somebody waits for all of them


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that was tried: whether a Chroma server answers there, and what was found."""

    url: str
    answers: bool
    said: str


def tried(endpoint: Endpoint, names: Sequence[str] = NAMES) -> list[Candidate]:
    """Each name on the port of this endpoint, in the order given, without the endpoint's own; no header is sent there."""
    parts = urlsplit(str(endpoint.url))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return [
        _ask(f"{parts.scheme}://{name}:{port}{endpoint.prefix}", endpoint.verify_tls)
        for name in names
        if name != parts.hostname
    ]


def _ask(url: str, verify: bool) -> Candidate:
    try:
        with Session(timeout=_SECONDS, verify=verify) as session:
            for api in ("v2", "v1"):
                answer = session.get(f"{url}/api/{api}/heartbeat")
                if answer.status_code == 200 and "nanosecond heartbeat" in answer.text:
                    version = session.get(f"{url}/api/{api}/version").text.strip().strip('"')
                    return Candidate(url, True, f"a Chroma server, API {api}, version {one_line(version, 40)}")
        return Candidate(url, False, f"answers {answer.status_code}, and not as Chroma does")
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
