"""The limits of a store's requests, and how a refusal narrows them.

A self-hosted server accepts almost anything. Chroma Cloud refuses requests over a quota with 422 and a sentence that names the
quota and its value; a quota may be raised for one customer, and lowered during a run. So limits begin with the known values, and
each refusal narrows them.
"""

from __future__ import annotations

import dataclasses
import email.utils
import queue
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar, Unpack, cast

import httpx
import tenacity

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, Terminal, Transient, one_line
from helpers.parameters.endpoint import Endpoint, TargetLimits
from helpers.reason_codes import ReasonCode

T = TypeVar("T")


class Carried(TypedDict, total=False):
    """What one request asks for, by the names of the limits that it uses."""

    write_rows: int
    read_rows: int
    page_rows: int
    query_results: int
    query_vectors: int


ATTEMPTS = 5
PATIENCE = 900.0  # seconds of waiting after answers with 429, in all, before one request fails
STALL = 3_600.0  # seconds of waiting, over all requests, after which a server with so few answers counts as stalled:
LEAST_ANSWERS = 10
LONGEST_PAUSE = 120.0  # seconds between two tries; a longer Retry-After is cut to this

_QUOTA = re.compile(r"quota\W{1,9}(limit\W{1,9})?exceeded|exceed\w{0,9}\W.{0,60}\bquota\b", re.IGNORECASE)
_MOST_TEXT = 20_000  # characters of an error that are read: a server may send megabytes
_GATEWAY = {408, 425, 502, 503, 504}
_OF_COLLECTIONS = "/api/v2/tenants/"  # servers that speak API v1 answer 500 to everything that they refuse
_ANSWERS_WITH_500 = ("Error finding id",)  # the answer itself, and the same a second time: `client` isolates the chunk
_ABOUT_DATA = (
    "InvalidArgumentError", "InvalidDimensionException", "IDAlreadyExistsError", "DuplicateIDError", "BatchSizeExceededError",
)  # fmt: skip
_REFUSES_DATA = re.compile(r"^Unimplemented: |too large|deserialize", re.IGNORECASE)
READ_BYTES = 2**20  # of float32 vectors in one answer; JSON and Python floats take about twenty times that
NO_LIMIT = 2**31 - 1  # n_results and limit are 32 bits wide


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request, and the number of concurrent requests of a collection.

    `write_bytes`: the request's body. `page_rows`: for ids alone and for lists of collections; `read_rows`: for chunks by id. The
    quotas of single fields concern a target. `NO_LIMIT` where none is known.
    """

    write_rows: int
    write_bytes: int
    read_rows: int = 2_000  # chroma-facts 9: about 16,000 ids a call is the ceiling
    page_rows: int = 100_000
    query_results: int = NO_LIMIT
    query_vectors: int = 50
    predicates: int = NO_LIMIT
    concurrent_reads: int = NO_LIMIT
    concurrent_writes: int = NO_LIMIT
    document_bytes: int = NO_LIMIT
    uri_bytes: int = NO_LIMIT
    id_bytes: int = NO_LIMIT
    name_bytes: int = NO_LIMIT
    key_bytes: int = NO_LIMIT
    value_bytes: int = NO_LIMIT
    keys: int = NO_LIMIT
    dimension: int = NO_LIMIT
    collection_rows: int = NO_LIMIT
    metadata_bytes: int = NO_LIMIT

    def read_step(self, dimension: int) -> int:
        """Return the number of chunks with vectors of this dimension in one request."""
        return min(self.read_rows, max(10, READ_BYTES // max(1, 4 * dimension)))

    def readers(self, usual: int) -> int:
        """Return how many threads should read at a time: `usual`, or half of the quota of concurrent reads, since the
        application needs the other half.
        """
        return usual if self.concurrent_reads == NO_LIMIT else max(1, self.concurrent_reads // 2)

    def within(self, other: Limits) -> Limits:
        """Return the narrower of both, field by field."""
        names = [f.name for f in dataclasses.fields(self)]
        return Limits(**{name: min(getattr(self, name), getattr(other, name)) for name in names})

    def narrowed(self, refusal: str, carried: Mapping[str, int]) -> Limits:
        """Return the limits after a refused request. `carried`: the limits that the request used, with what it asked for.

        The refusal's own value is used where it is below what was asked; else what was asked is halved. The limits are unchanged
        where the refusal concerns nothing that can be made smaller.
        """
        match = _REFUSAL.search(refusal)
        affected = _QUOTAS.get(match["quota"]) if match else None
        most = int(match["most"].replace(",", "")) if match and match["most"] else None
        related = {limit for kind in _KINDS if set(kind) & set(carried) for limit in kind}
        changes: dict[str, int] = {}
        for limit in affected if affected is not None else tuple(carried):
            if limit in _SHARED and limit not in related:
                continue  # one quota of Cloud covers several of our limits; this request was of another kind
            current = getattr(self, limit)
            asked = carried.get(limit)
            lowered = most if most is not None and most < (current if asked is None else asked) else None
            if lowered is None and asked is not None:
                lowered = asked // 2
            if lowered is not None and 1 <= lowered < current:
                changes[limit] = lowered
        return dataclasses.replace(self, **changes)

    def known(self) -> dict[str, int]:
        """Return the known limits by name."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != NO_LIMIT}


# docs.trychroma.com/cloud/quotas-limits, as of August 2026. Vectors a query are in no document; 20 is the default in the
# server's source.
CLOUD = Limits(
    write_rows=300, write_bytes=32 * 2**20, read_rows=300, page_rows=300, query_results=300, query_vectors=20,
    predicates=8, concurrent_reads=10, concurrent_writes=10, document_bytes=16_384, uri_bytes=256, id_bytes=128,
    name_bytes=128, key_bytes=36, value_bytes=4_096, keys=32, dimension=4_096,
    collection_rows=5_000_000,
)  # fmt: skip

MOST_BODY_BYTES = 40 * 2**20  # of a request that a server accepts (chroma-facts)
_OF_PARAMETER = {"batch": "write_rows", "request_bytes": "write_bytes"}  # other names in `target.limits`
_OF_REQUESTS = ("write_rows", "write_bytes")  # limits to which a store cuts its requests; the others concern chunks


def known_of(target: Endpoint) -> dict[str, tuple[int, str]]:
    """Return the limits of a target that are known before it is asked: name in `Limits` → (value, its source)."""
    known = {"write_bytes": (MOST_BODY_BYTES, "measured with Chroma's server")} if target.url else {}
    if target.is_cloud:
        quotas = {name: most for name, most in CLOUD.known().items() if name in TargetLimits.model_fields}
        known |= {name: (most, "Chroma Cloud's documentation") for name, most in quotas.items()}
    for name, most in (target.limits.model_dump(exclude_none=True) if target.limits else {}).items():
        known[_OF_PARAMETER.get(name, name)] = most, f"target.limits.{name}"
    return known


def with_given(limits: Limits, target: Endpoint) -> Limits:
    """Return the limits of an open store, narrowed by `target.limits` for its requests; never wider than its own."""
    ordered = {name: most for name, (most, of) in known_of(target).items() if of.startswith("target.limits")}
    if "write_bytes" in ordered:  # the same headroom as between what a server takes and what we send it at once
        ordered["write_bytes"] = max(1, ordered["write_bytes"] * limits.write_bytes // MOST_BODY_BYTES)
    narrowed = {name: min(getattr(limits, name), most) for name, most in ordered.items() if name in _OF_REQUESTS}
    return dataclasses.replace(limits, **narrowed)


_REFUSAL = re.compile(
    r"'(?P<quota>[^']+)' exceeded quota limit for action '[^']+'(?:.*?exceeds limit of (?P<most>[\d,]*\d))?", re.DOTALL
)
# Cloud's name of a quota → the limits that it may stand for (rust/frontend/src/quota of chroma-core/chroma).
_QUOTAS = {
    "Limit value": ("page_rows", "read_rows", "query_results"),
    "Number of records": ("write_rows", "page_rows", "read_rows"),
    "Number of IDs to filter by in a query": ("read_rows",),
    "Number of results": ("query_results",),
    "Number of query embeddings": ("query_vectors",),
    "Number of where clause predicates": ("predicates",),
    "Number of where document predicates": ("predicates",),
    "Document size (bytes)": ("document_bytes",),
    "URI size (bytes)": ("uri_bytes",),
    "ID size (bytes)": ("id_bytes",),
    "Name size (bytes)": ("name_bytes",),
    "Size of metadata dictionary key (bytes)": ("key_bytes",),
    "Size of metadata dictionary value (bytes)": ("value_bytes",),
    "Number of metadata dictionary keys": ("keys",),
    "Embedding dimension": ("dimension",),
}
_KINDS = (("page_rows", "read_rows"), ("query_results", "query_vectors"), ("write_rows", "write_bytes"))
_SHARED = frozenset(field for kind in _KINDS for field in kind)


class Throttled(Transient):
    """The server answered 429: too many requests. `after`: its Retry-After in seconds, if any."""

    after: float | None = None


class QuotaExceeded(Terminal):
    """The request is over a quota of the server (422, "Quota exceeded: …"): a smaller one may succeed."""


class Narrower(Exception):
    """The request was over a quota, which is known now: compose it again within the narrower limits (see `Requests`)."""


def refuse_gateway_answers(response: httpx.Response) -> None:
    """Raise for answers of proxies and busy servers (an httpx response hook); the client would raise bare Exceptions."""
    if response.status_code == 429:
        error = Throttled(
            ReasonCode.SERVER_BUSY, "answered 429: too many requests", where=str(response.request.url.copy_with(query=None)),
            next_step="Wait until other clients of the database ask less, then resume.",
        )  # fmt: skip
        error.after = retry_after(response.headers.get("retry-after", ""))
        raise error
    if response.status_code in _GATEWAY:
        raise Transient(
            ReasonCode.SERVER_BUSY, f"answered {response.status_code}", where=str(response.request.url.copy_with(query=None)),
            next_step="See whether the server and its proxy are well, then resume.",
        )  # fmt: skip
    path = response.request.url.path
    if response.status_code == 500 and (_OF_COLLECTIONS in path or path.endswith("/version")):
        body = response.read().decode(errors="replace")  # not `text`: the session sets its encoding later
        if not any(words in body for words in _ANSWERS_WITH_500):
            raise Transient(
                ReasonCode.ENGINE_FAILED, f"answered 500: {one_line(body.strip(), 200) or 'without a reason'}",
                where=str(response.request.url.copy_with(query=None)),
                next_step="Look at the server's log, then resume.",
            )  # fmt: skip


def raise_on_refusal(function: T, seconds: float) -> T:
    """Make an embedding function that uses httpx raise for answers with 429 or 5xx, which its code takes for vectors; return it.

    `seconds`: its time-out. Its own is five seconds, too short for a model without an accelerator.
    """
    session = getattr(function, "_session", None)
    if isinstance(session, httpx.Client):
        session.timeout = httpx.Timeout(seconds)
        session.event_hooks["response"].append(_refuse_failures)
    return function


def _refuse_failures(response: httpx.Response) -> None:
    refuse_gateway_answers(response)
    if response.status_code >= 500:
        raise Transient(ReasonCode.SERVER_BUSY, f"answered {response.status_code}",
                        where=str(response.request.url.copy_with(query=None)))  # fmt: skip


# Names of the errors of client libraries for a connection that was lost, or never made.
_CONNECTION = re.compile(r"Connect|Timeout|Network|RemoteProtocol|ReadError|WriteError")


def transient_failure(error: BaseException | None, name: str, where: str) -> Transient | None:
    """Return a failure of an embedding service that may be temporary, from any library; else None.

    429, or a `Retry-After`, is `Throttled`: all calls wait so long. Other 5xx, and a lost connection, are retried after a growing
    pause.
    """
    while error is not None:
        answer = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(answer, "status_code", None)
        headers = getattr(answer, "headers", None) or getattr(error, "headers", None) or {}
        after = retry_after(str(headers.get("retry-after", ""))) if hasattr(headers, "get") else None
        if isinstance(error, Throttled):  # of `raise_on_refusal`
            status, after = 429, error.after
        if status == 429 or (status == 503 and after is not None):
            busy = Throttled(
                ReasonCode.REEMBED_FAILED, f"embedding function {name} is refused: too many requests ({status})",
                where=where, next_step="Lower migration.reembed.requests_per_minute and parallel, then resume.",
            )  # fmt: skip
            busy.after = after
            return busy
        is_lost = isinstance(error, (Transient, ConnectionError, TimeoutError)) or _CONNECTION.search(
            type(error).__name__
        )
        if is_lost or (isinstance(status, int) and 500 <= status < 600):
            return Transient(
                ReasonCode.REEMBED_FAILED, f"embedding function {name} is not answered: {one_line(str(error), 200)}",
                where=where, next_step="What was made is kept. See whether the service is well, then resume.",
            )  # fmt: skip
        error = error.__cause__ or error.__context__
    return None


def retry_after(value: str) -> float | None:
    """Return a Retry-After header, which may be a date, in seconds; None where it is neither."""
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
    """Return the error of a client, of httpx or of the engine as one of ours, with its own text.

    "refused": the error concerns the data, and its chunks are quarantined. "engine_failed": all other errors.
    """
    if isinstance(error, RunbookError | Narrower):
        return error
    text = str(error).strip()[:_MOST_TEXT] or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return Transient(ReasonCode.TIMEOUT, f"no answer in time ({type(error).__name__})", where=where,
                         next_step="Raise timeout_seconds, or look at the server's load.")  # fmt: skip
    if isinstance(error, httpx.TransportError):
        return Transient(ReasonCode.UNREACHABLE, f"connection failed: {text}", where=where,
                         next_step="Check that the server runs and that the network lets you through.")  # fmt: skip
    client = sys.modules.get(
        "chromadb.errors"
    )  # not imported here: it takes seconds, and without it no error is the client's
    if client is not None and isinstance(error, client.NotFoundError):
        return Terminal(
            ReasonCode.NOT_FOUND, text, where=where, next_step="Check tenant, database and collection names."
        )
    if (client is not None and isinstance(error, client.AuthorizationError)) or "AuthorizationError" in text:
        return Terminal(
            ReasonCode.FORBIDDEN, text, where=where, next_step="Check headers, or whether a write fence is up."
        )
    if _QUOTA.search(text):
        return QuotaExceeded(ReasonCode.QUOTA_EXCEEDED, text, where=where,
                             next_step="Ask the vendor to raise the quota, or make smaller what is over it.")  # fmt: skip
    if isinstance(error, MemoryError):  # no fault of the chunks: a batch that is refused would be halved and set aside
        return Terminal(ReasonCode.OUT_OF_MEMORY, "not enough memory for this batch", where=where,
                        next_step="Resume with smaller batches: --set migration.batch_size=50.")  # fmt: skip
    if "readonly database" in text:
        return Terminal(ReasonCode.READ_ONLY, text, where=where, next_step="Check the folder's permissions.")
    if "disk is full" in text or "No space left" in text:
        return Terminal(ReasonCode.DISK_FULL, text, where=where, next_step="Free disk space, then resume.")
    text_of_error = f"{type(error).__name__}: {one_line(text)}"
    if isinstance(error, ValueError | TypeError) or type(error).__name__ in _ABOUT_DATA or _REFUSES_DATA.search(text):
        return Terminal(ReasonCode.REFUSED, text_of_error, where=where)
    return Terminal(
        ReasonCode.ENGINE_FAILED, text_of_error, where=where, next_step="Look at Chroma's log, and what is in between."
    )


def attempt(call: Callable[[], T], where: str) -> T:
    """Call once; translate errors."""
    try:
        return call()
    except Exception as error:
        raise translate(error, where) from error


def retried(
    call: Callable[[], T], where: str, waits: Callable[[float], None] = lambda seconds: None, attempts: int = ATTEMPTS
) -> T:
    """Call, and retry after 0.2, 0.4, 0.8 and 1.6 seconds where the error is transient; for reads. See `patiently` for `waits`.

    A write is not retried so: after an error it may have been done (chroma-facts 12), so `done_once` reads first.
    """

    def call_once() -> T:
        for one_try in tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Transient) and not isinstance(e, Throttled)),
            wait=tenacity.wait_exponential(multiplier=0.2, max=10),
            stop=tenacity.stop_after_attempt(attempts),
            reraise=True,
        ):
            with one_try:
                return attempt(call, where)
        raise AssertionError("tenacity reraises")

    return patiently(call_once, waits)


def within(seconds: float, call: Callable[[], T], timeout: TimeoutError) -> T:
    """Return what the call gives; raise `timeout` after so many seconds, also where a slow server keeps sending.

    The call is then abandoned, in a thread that the process does not wait for.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # raised again below
            answers.put((None, error))

    threading.Thread(target=ask, name="call with a time limit", daemon=True).start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise timeout from None
    if error is not None:
        raise error
    return cast(T, answer)


def patiently(call: Callable[[], T], waits: Callable[[float], None] = lambda seconds: None) -> T:
    """Call; after an answer with 429 wait as long as the server asks, `PATIENCE` in all, and retry. `waits` gets each pause.

    Also for writes: a request that was refused with 429 was not done.
    """
    for one_try in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Throttled),
        wait=_pause,
        stop=tenacity.stop_before_delay(PATIENCE),
        before_sleep=lambda state: waits(state.upcoming_sleep),
        reraise=True,
    ):
        with one_try:
            return call()
    raise AssertionError("tenacity reraises")


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the pause that the server asked for and a random addition, so that refused readers do not return together."""
    error = state.outcome.exception() if state.outcome else None
    requested = error.after if isinstance(error, Throttled) else None
    pause = requested if requested is not None else min(30.0, 0.5 * 2.0 ** min(state.attempt_number - 1, 6))
    pause = min(pause, LONGEST_PAUSE)
    return pause + 0.01 + tenacity.wait_random(0, pause / 5)(state)


def done_once(
    change: Callable[[], object],
    *,
    done: Callable[[], bool],
    where: str,
    waits: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Change something at a store. After a transient error ask whether it is `done`, and retry only where it is not.

    An error does not prove that nothing was done: the answer may have been lost (chroma-facts 12).
    """
    for one_try in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        wait=tenacity.wait_exponential(multiplier=0.2, max=10),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    ):
        if one_try.retry_state.attempt_number > 1 and retried(done, where, waits):
            return
        with one_try:
            patiently(lambda: attempt(change, where), waits)


def written_once(
    piece: ChunkBatch,
    *,
    write: Callable[[ChunkBatch], object],
    present: Callable[[ChunkBatch], Iterable[str]],
    where: str,
    waits: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Write a piece; after a transient error, ask which of its ids are `present` and write only the absent chunks."""
    rest = piece

    def arrived() -> bool:
        nonlocal rest
        arrived_ids = set(present(rest))
        rest = rest.take([i for i, chunk in enumerate(rest.ids) if chunk not in arrived_ids])
        return not len(rest)

    done_once(lambda: write(rest), done=arrived, where=where, waits=waits)


@dataclass(slots=True)
class Usage:
    """The requests to a store since it was opened. `bytes`: of answers as received from the network, 0 for a directory.

    `waited`: seconds of pauses after answers with 429. `tell` gets a sentence at each such pause.
    """

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    refusals: int = 0
    waited: float = 0.0
    answered: int = 0  # requests, without those that were answered with 429
    _stall: tuple[float, int] = field(default=(0.0, 0), repr=False, compare=False)  # waited, answered: when it began
    tell: Callable[[str], None] = field(default=lambda sentence: None, repr=False, compare=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: float) -> None:
        """Add to these counters; from any thread."""
        with self._guard:
            for name, n in counts.items():
                setattr(self, name, getattr(self, name) + n)

    def waits(self, seconds: float) -> None:
        """Count a pause after an answer with 429, in seconds. Raises `Terminal` ("server_busy") where the server stalls."""
        self.add(waited=seconds)
        waited, answered = self.waited - self._stall[0], self.answered - self._stall[1]
        if answered > LEAST_ANSWERS:
            self._stall = self.waited, self.answered
        elif waited > STALL:
            raise Terminal(
                ReasonCode.SERVER_BUSY, f"asked to slow down (429) for {waited:.0f} s, {answered} requests answered meanwhile",
                next_step="Wait until other clients of the database ask less, then resume.",
            )  # fmt: skip
        self.tell(f"asked to slow down (429): waiting {seconds:.0f} s, {self.waited:.0f} s in all")

    def counts(self) -> dict[str, Any]:
        """Return the counters for JSON."""
        return {"requests": self.requests, "rows": self.rows, "bytes": self.bytes, "refusals": self.refusals,
                "waited": round(self.waited, 1)}  # fmt: skip


class Requests:
    """The requests of one store. `limits`: the current limits; `limit_changes`: a sentence for each change of them.

    Stores compose each request within `limits`. A request that is refused for a quota raises `Narrower`: the limits have changed,
    and the request must be composed again.
    """

    def __init__(self, limits: Limits, usage: Usage | None = None) -> None:
        self.limits, self.usage = limits, usage or Usage()
        self.limit_changes: list[str] = []
        self._guard = threading.Lock()
        self._free = threading.Condition()
        self._inside: Counter[tuple[str, bool]] = Counter()

    def send(
        self, call: Callable[[], T], where: str, *, retry: bool = True, write: bool = False, **carried: Unpack[Carried]
    ) -> T:
        """Return the call's result; translate errors, and with `retry` retry transient ones.

        `carried`: the limits that the request uses, with what it asks for. Raises `Narrower` where a refusal narrowed one of
        these, `QuotaExceeded` where the refusal concerns something else.
        """

        def counted() -> T:
            with self._place(where, write):
                self.usage.add(requests=1)
                return call()

        try:
            answer = retried(counted, where, self.usage.waits) if retry else attempt(counted, where)
            self.usage.add(answered=1)
            return answer
        except QuotaExceeded as refusal:
            self.usage.add(refusals=1)
            if self._learn(refusal, cast("Mapping[str, int]", carried)):
                raise Narrower from refusal
            raise

    def _learn(self, refusal: QuotaExceeded, carried: Mapping[str, int]) -> bool:
        """Narrow the limits by a refusal; return whether they are now narrower than what this request asked for."""
        with self._guard:
            if not self._below(carried):  # else another thread has narrowed them meanwhile
                before = self.limits
                self.limits = before.narrowed(refusal.what, carried)
                for name, value in self.limits.known().items():
                    if value != getattr(before, name):
                        former = getattr(before, name)
                        self.limit_changes.append(
                            f"{name.replace('_', ' ')}: {value:,}" + (f", was {former:,}" if former != NO_LIMIT else "")
                        )
            return self._below(carried)

    def _below(self, carried: Mapping[str, int]) -> bool:
        return any(getattr(self.limits, name) < asked for name, asked in carried.items())

    @contextmanager
    def _place(self, where: str, write: bool) -> Iterator[None]:
        """Hold one of the concurrent requests that the store allows for this collection."""
        key = (where, write)

        def full() -> bool:
            most = self.limits.concurrent_writes if write else self.limits.concurrent_reads
            return self._inside[key] >= most

        with self._free:
            while full():
                self._free.wait()
            self._inside[key] += 1
        try:
            yield
        finally:
            with self._free:
                self._inside[key] -= 1
                self._free.notify_all()
