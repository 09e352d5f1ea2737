"""The rehearsal source: a Chroma database made on the spot, with defects in known numbers."""

from helpers.rehearsal.sample_source import (
    COLLECTIONS,
    FULL,
    collection_counts,
    expected_findings,
    sample_batches,
    write_sample,
)

__all__ = [
    "COLLECTIONS",
    "FULL",
    "collection_counts",
    "expected_findings",
    "sample_batches",
    "write_sample",
]
