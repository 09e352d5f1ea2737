"""The rehearsal source: a generated Chroma database with known numbers of defects."""

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
