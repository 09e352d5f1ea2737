"""Words that nothing shown to a user contains: images, and words for which the field has a standard term."""

from __future__ import annotations

import re

QUAINT = (
    r"(the )?ways? back", r"off the line", r"desks?", r"twins?", r"rungs?", r"strangers?", r"nights?", r"tonight", r"told",
    r"stands", r"stood", r"ladders?", r"last words", r"on the line", r"steps of the line", r"looks in a row",
    r"accepted by name", r"could not be looked at", r"as wanted", r"makes collections of its own", r"nobody was moved",
    r"owns its edges", r"cosine distance from all", r"of their type and list", r"stay where they are", r"no id twice",
    r"not chosen", r"row for each look", r"given? (it |the target )?back", r"is over; the", r"end(s|ed) well", r"climb(s|ed)?",
    r"memory is what it is",
)  # fmt: skip

# A check's name names what was looked at; what says how it came out is its verdict.
CLAIMS = re.compile(
    r"\b(is|are|has|have|can|must|answers?$|holds?|keeps?|finds|fits|goes|stands|each|every|nothing|nobody|never|no one|"
    r"verified|proven|healthy|unchanged|unique|as expected|sound|lifted|removed|sent|found$)\b"
)
