"""Every request of a store: counted, no more at a time than the store allows, its refusals learnt from.

Stores compose each request within `limits`; where it is refused for a quota, `Narrower` says that the limits are others
now and the request must be composed anew.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from helpers.stores.limits import NO_LIMIT, Limits
from helpers.stores.retry import Narrower, QuotaExceeded, attempt, retried

T = TypeVar("T")


@dataclass(slots=True)
class Usage:
    """What was asked of a store since it was opened. `bytes` are of answers as they came over the network, 0 for a directory.

    `waited` are the seconds spent because the server asked for patience (429). `tell` gets a sentence at each such wait.
    """

    requests: int = 0
    rows: int = 0
    bytes: int = 0
    refusals: int = 0
    waited: float = 0.0
    tell: Callable[[str], None] = field(default=lambda sentence: None, repr=False, compare=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: float) -> None:
        """So many more of each; from any thread."""
        with self._guard:
            for name, n in counts.items():
                setattr(self, name, getattr(self, name) + n)

    def waits(self, seconds: float) -> None:
        """The server answered 429; the request is sent again after so many seconds."""
        self.add(waited=seconds)
        self.tell(f"asked to slow down (429): waiting {seconds:.0f} s, {self.waited:.0f} s in all")

    def counts(self) -> dict[str, Any]:
        """The figures, JSON-able."""
        return {"requests": self.requests, "rows": self.rows, "bytes": self.bytes, "refusals": self.refusals,
                "waited": round(self.waited, 1)}  # fmt: skip


class Requests:
    """The requests of one store. `limits` are those of this moment; `learnt` are sentences on how they changed."""

    def __init__(self, limits: Limits, usage: Usage | None = None) -> None:
        self.limits, self.usage = limits, usage or Usage()
        self.learnt: list[str] = []
        self._guard = threading.Lock()
        self._free = threading.Condition()
        self._inside: Counter[tuple[str, bool]] = Counter()

    def send(self, call: Callable[[], T], where: str, *, again: bool = True, write: bool = False, **carried: int) -> T:
        """The call's result, errors translated, transient ones tried again where `again` says so.

        `carried` names the limits that the request makes use of, with what it asks for. Raises `Narrower` where a refusal
        taught a narrower one of these, `QuotaExceeded` where the refusal is about something else.
        """

        def counted() -> T:
            with self._place(where, write):
                self.usage.add(requests=1)
                return call()

        try:
            return retried(counted, where, self.usage.waits) if again else attempt(counted, where)
        except QuotaExceeded as refusal:
            self.usage.add(refusals=1)
            if self._learn(refusal, carried):
                raise Narrower from refusal
            raise

    def _learn(self, refusal: QuotaExceeded, carried: dict[str, int]) -> bool:
        """Whether the limits are now narrower than what this request asked for."""
        with self._guard:
            if not self._below(carried):  # else another thread has learnt it meanwhile
                before = self.limits
                self.limits = before.narrowed(refusal.what, carried)
                for name, value in self.limits.known().items():
                    if value != getattr(before, name):
                        was = getattr(before, name)
                        self.learnt.append(
                            f"{name.replace('_', ' ')}: {value:,}" + (f", was {was:,}" if was != NO_LIMIT else "")
                        )
            return self._below(carried)

    def _below(self, carried: dict[str, int]) -> bool:
        return any(getattr(self.limits, name) < asked for name, asked in carried.items())

    @contextmanager
    def _place(self, where: str, write: bool) -> Iterator[None]:
        """One of the places that the store gives to requests of this collection at a time."""
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
