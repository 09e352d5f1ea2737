"""The most that a store takes and gives in one request, and how a refusal narrows it.

A server of one's own takes almost anything. Chroma Cloud refuses what is over a quota with 422 and a sentence that names
the quota and its value; a quota may have been raised for one customer and may be lowered while a run is at work. So limits
begin with what is known, and every refusal is learnt from.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

READ_BYTES = 2**20  # of float32 vectors in one answer; as JSON and Python floats it weighs about twenty times that
NO_LIMIT = 2**31 - 1  # n_results and limit are 32 bits wide


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may carry, and how many requests of a collection may be on their way at a time.

    `write_bytes` counts the request's body. `page_rows` is for ids alone and for lists of collections, `read_rows` for
    chunks by id. The quotas of single fields matter to a target; `NO_LIMIT` where none is known.
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

    def read_step(self, dimension: int) -> int:
        """Chunks with vectors of this dimension that one request asks for."""
        return min(self.read_rows, max(50, READ_BYTES // max(1, 4 * dimension)))

    def readers(self, usual: int) -> int:
        """How many threads should read at a time: as many as is usual for a server nearby; half of the places of one that
        counts them, which is far away and serves the application too.
        """
        return usual if self.concurrent_reads == NO_LIMIT else max(1, self.concurrent_reads // 2)

    def within(self, other: Limits) -> Limits:
        """The narrower of both, field by field."""
        names = [f.name for f in dataclasses.fields(self)]
        return Limits(**{name: min(getattr(self, name), getattr(other, name)) for name in names})

    def narrowed(self, refusal: str, carried: Mapping[str, int]) -> Limits:
        """What a refused request teaches. `carried` are the limits that it made use of, with what it asked for.

        The refusal's own figure is taken where it has one below what was asked; else what was asked is halved. The same
        limits come back where the refusal is about nothing that can be made smaller.
        """
        named = _REFUSAL.search(refusal)
        told = _QUOTAS.get(named["quota"]) if named else None
        most = int(named["most"].replace(",", "")) if named and named["most"] else None
        kin = {field for kind in _KINDS if set(kind) & set(carried) for field in kind}
        change: dict[str, int] = {}
        for field in told if told is not None else tuple(carried):
            if field in _SHARED and field not in kin:
                continue  # one quota of Cloud stands for several of ours; this request was of another kind
            now = getattr(self, field)
            asked = carried.get(field)
            new = most if most is not None and most < (now if asked is None else asked) else None
            if new is None and asked is not None:
                new = asked // 2
            if new is not None and 1 <= new < now:
                change[field] = new
        return dataclasses.replace(self, **change)

    def known(self) -> dict[str, int]:
        """The limits that there are, by name."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if value != NO_LIMIT}


# docs.trychroma.com/cloud/quotas-limits, as of August 2026. Vectors a query are in no document; 20 is the default in the
# server's source.
CLOUD = Limits(
    write_rows=300, write_bytes=32 * 2**20, read_rows=300, page_rows=300, query_results=300, query_vectors=20,
    predicates=8, concurrent_reads=10, concurrent_writes=10, document_bytes=16_384, uri_bytes=256, id_bytes=128,
    name_bytes=128, key_bytes=36, value_bytes=4_096, keys=32, dimension=4_096,
)  # fmt: skip

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
