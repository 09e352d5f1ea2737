"""Evidence: seals over the files of a run, signatures over seals, and the search for secrets before either."""

from helpers.evidence.seals import at_rest, due, enter, keep_sealed, not_pushed, seal, seals
from helpers.evidence.statement import trusted

__all__ = ["at_rest", "due", "enter", "keep_sealed", "not_pushed", "seal", "seals", "trusted"]
