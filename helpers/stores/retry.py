"""One place where foreign errors become ours, and the policy of trying again.

Reads are tried again as they are. A write is not: after an error nobody knows whether it was done (chroma-facts 12), so
the store re-reads first: `written_once`.
"""

from __future__ import annotations

import email.utils
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import httpx
import tenacity

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, Transient

T = TypeVar("T")
ATTEMPTS = 5
PATIENCE = 900.0  # seconds that a server which answers 429 is waited for, in all, before one request is given up
LONGEST_PAUSE = 120.0  # between two tries; a Retry-After beyond it is taken for this long

_QUOTA = re.compile(r"quota\W+(limit\W+)?exceeded|exceed\w*\W.{0,60}\bquota\b", re.IGNORECASE)
_GATEWAY = {408, 425, 502, 503, 504}


class Throttled(Transient):
    """The server asks for patience (429): nothing is wrong but the pace. `after` is its Retry-After in seconds, if any."""

    after: float | None = None


class QuotaExceeded(Terminal):
    """The request asks for more than the server gives in one (422, "Quota exceeded: …"): a smaller one may pass."""


class Narrower(Exception):
    """Not an error of the world: the request was over a quota, which is known now; compose it anew (see `requests`)."""


def refuse_gateway_answers(response: httpx.Response) -> None:
    """An httpx response hook: answers of proxies and busy servers, which the client would turn into bare Exceptions."""
    if response.status_code == 429:
        error = Throttled(
            "server_busy", "answered 429: too many requests", where=str(response.request.url.copy_with(query=None)),
            next_step="Wait until other clients of the database ask less, then resume.",
        )  # fmt: skip
        error.after = _seconds(response.headers.get("retry-after", ""))
        raise error
    if response.status_code in _GATEWAY:
        raise Transient(
            "server_busy", f"answered {response.status_code}", where=str(response.request.url.copy_with(query=None)),
            next_step="See whether the server and its proxy are well, then resume.",
        )  # fmt: skip


def _seconds(value: str) -> float | None:
    """A Retry-After header in seconds; it may be a date."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def translate(error: Exception, where: str) -> RunbookError | Narrower:
    """The error of a client, of httpx or of the engine as one of ours, with its own words in it."""
    if isinstance(error, RunbookError | Narrower):
        return error
    text = str(error).strip() or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return Transient("timeout", f"no answer in time ({type(error).__name__})", where=where,
                         next_step="Raise timeout_seconds, or look at the server's load.")  # fmt: skip
    if isinstance(error, httpx.TransportError):
        return Transient("unreachable", f"connection failed: {text}", where=where,
                         next_step="Check that the server runs and that the network lets you through.")  # fmt: skip
    client = sys.modules.get(
        "chromadb.errors"
    )  # not imported here: it takes seconds, and without it no error is the client's
    if client is not None and isinstance(error, client.NotFoundError):
        return Terminal("not_found", text, where=where, next_step="Check tenant, database and collection names.")
    if (client is not None and isinstance(error, client.AuthorizationError)) or "AuthorizationError" in text:
        return Terminal("forbidden", text, where=where, next_step="Check headers, or whether a write fence is up.")
    if _QUOTA.search(text):
        return QuotaExceeded("quota_exceeded", text, where=where,
                             next_step="Ask the vendor to raise the quota, or make smaller what is over it.")  # fmt: skip
    if isinstance(error, MemoryError):  # no fault of the chunks: a batch that is refused would be halved and set aside
        return Terminal("out_of_memory", "not enough memory for this batch", where=where,
                        next_step="Resume with smaller batches: --set migration.batch_size=50.")  # fmt: skip
    if "readonly database" in text:
        return Terminal("read_only", text, where=where, next_step="Check the folder's permissions.")
    if "disk is full" in text or "No space left" in text:
        return Terminal("disk_full", text, where=where, next_step="Free disk space, then resume.")
    return Terminal("refused", f"{type(error).__name__}: {text}", where=where)


def attempt(call: Callable[[], T], where: str) -> T:
    """Call once, errors translated."""
    try:
        return call()
    except Exception as error:
        raise translate(error, where) from error


def retried(call: Callable[[], T], where: str, waits: Callable[[float], None] = lambda seconds: None) -> T:
    """Call, again after 0.2, 0.4, 0.8 and 1.6 seconds where the error is transient; for reads. See `patiently` for `waits`."""

    def tried() -> T:
        for again in tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Transient) and not isinstance(e, Throttled)),
            wait=tenacity.wait_exponential(multiplier=0.2, max=10),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            reraise=True,
        ):
            with again:
                return attempt(call, where)
        raise AssertionError("tenacity reraises")

    return patiently(tried, waits)


def patiently(call: Callable[[], T], waits: Callable[[float], None] = lambda seconds: None) -> T:
    """Call; a server that answers 429 is given the time that it asks for, `PATIENCE` in all. `waits` is told of each pause.

    Right for writes too: what is refused with 429 was not done.
    """
    for again in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Throttled),
        wait=_pause,
        stop=tenacity.stop_before_delay(PATIENCE),
        before_sleep=lambda state: waits(state.upcoming_sleep),
        reraise=True,
    ):
        with again:
            return call()
    raise AssertionError("tenacity reraises")


def _pause(state: tenacity.RetryCallState) -> float:
    """What the server asked for and a little more, so that readers who were refused together do not return together."""
    error = state.outcome.exception() if state.outcome else None
    told = error.after if isinstance(error, Throttled) else None
    pause = told if told is not None else min(30.0, 0.5 * 2.0 ** min(state.attempt_number - 1, 6))
    pause = min(pause, LONGEST_PAUSE)
    return pause + 0.01 + tenacity.wait_random(0, pause / 5)(state)


def written_once(
    piece: ChunkBatch,
    *,
    write: Callable[[ChunkBatch], object],
    present: Callable[[ChunkBatch], Iterable[str]],
    where: str,
    waits: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Write a piece; after a transient error, ask which of its ids are `present` and write only what is absent."""
    for turn in range(ATTEMPTS):
        try:
            patiently(lambda piece=piece: attempt(lambda: write(piece), where), waits)  # type: ignore[misc]
            return
        except Transient:
            if turn == ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**turn)
            there = set(retried(lambda piece=piece: present(piece), where))  # type: ignore[misc]
            piece = piece.take([i for i, chunk in enumerate(piece.ids) if chunk not in there])
            if not len(piece):
                return
