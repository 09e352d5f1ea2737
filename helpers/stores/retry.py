"""One place where foreign errors become ours, and the policy of trying again.

Reads are tried again as they are. A write is not: after an error nobody knows whether it was done (chroma-facts 12), so
the store re-reads first: `written_once`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import chromadb.errors
import httpx
import tenacity

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, Transient

T = TypeVar("T")
ATTEMPTS = 5

_GATEWAY = {408, 425, 429, 502, 503, 504}


def refuse_gateway_answers(response: httpx.Response) -> None:
    """An httpx response hook: answers of proxies and busy servers, which the client would turn into bare Exceptions."""
    if response.status_code in _GATEWAY:
        raise Transient(
            "server_busy", f"answered {response.status_code}", where=str(response.request.url.copy_with(query=None)),
            next_step="See whether the server and its proxy are well, then resume.",
        )  # fmt: skip


def translate(error: Exception, where: str) -> RunbookError:
    """The error of a client, of httpx or of the engine as one of ours, with its own words in it."""
    if isinstance(error, RunbookError):
        return error
    text = str(error).strip() or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return Transient("timeout", f"no answer in time ({type(error).__name__})", where=where,
                         next_step="Raise timeout_seconds, or look at the server's load.")  # fmt: skip
    if isinstance(error, httpx.TransportError):
        return Transient("unreachable", f"connection failed: {text}", where=where,
                         next_step="Check that the server runs and that the network lets you through.")  # fmt: skip
    if isinstance(error, chromadb.errors.NotFoundError):
        return Terminal("not_found", text, where=where, next_step="Check tenant, database and collection names.")
    if isinstance(error, chromadb.errors.AuthorizationError) or "AuthorizationError" in text:
        return Terminal("forbidden", text, where=where, next_step="Check headers, or whether a write fence is up.")
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


def retried(call: Callable[[], T], where: str) -> T:
    """Call, again after 0.2, 0.4, 0.8 and 1.6 seconds where the error is transient; for reads."""
    for attempt_ in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        wait=tenacity.wait_exponential(multiplier=0.2, max=10),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    ):
        with attempt_:
            return attempt(call, where)
    raise AssertionError("tenacity reraises")


def written_once(
    piece: ChunkBatch,
    *,
    write: Callable[[ChunkBatch], object],
    present: Callable[[ChunkBatch], Iterable[str]],
    where: str,
) -> None:
    """Write a piece; after a transient error, ask which of its ids are `present` and write only what is absent."""
    for turn in range(ATTEMPTS):
        try:
            attempt(lambda piece=piece: write(piece), where)  # type: ignore[misc]
            return
        except Transient:
            if turn == ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**turn)
            there = set(retried(lambda piece=piece: present(piece), where))  # type: ignore[misc]
            piece = piece.take([i for i, chunk in enumerate(piece.ids) if chunk not in there])
            if not len(piece):
                return
