"""What two documents share that read the same."""

from __future__ import annotations

import unicodedata


def plain_text(document: str) -> str:
    """The text but for case, spaces and the ways to write a letter (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", document).casefold().split())
