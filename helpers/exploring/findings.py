"""The names of all findings of a profile: what each means, which reason code it has, which chunks are behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from helpers.exploring.places import Place, Places

# A name, or its beginning before `_<field>` or ` <field> <rule>`: what it means, and the reason code of checks on it.
MEANINGS: dict[str, tuple[str, str]] = {
    "none_documents": ("no document (None)", "missing_document"),
    "empty_documents": ("an empty document", "missing_document"),
    "blank_documents": ("a document of nothing but spaces", "missing_document"),
    "long_documents": ("a document of 100,000 characters or more", ""),
    "none_metadata": ("no metadata at all", "missing_metadata"),
    "lost_vectors": ("the store lists the chunk and cannot give its vector", "missing_embedding"),
    "nonfinite_vectors": ("NaN or infinity in the vector", "nan_embedding"),
    "zero_vectors": ("a vector of zeros: on cosine equally far from everything, never found", "zero_vector"),
    "unnormalised_vectors": ("a norm other than 1, in a collection where others have 1", ""),
    "duplicate_documents": ("the same document, to the last letter, more than once", "duplicates"),
    "respaced_documents": ("the same document but for case, spaces or forms of letters", "duplicates"),
    "near_documents": ("nearly the same document (sample)", "duplicates"),
    "duplicate_vectors": ("the same vector, to the last bit, more than once", "duplicates"),
    "near_vectors": ("nearly the same vector (sample)", "duplicates"),
    "colliding_ids": ("an id that several collections use", "id_collision"),
    "outliers": ("far from the others of its collection (sample)", ""),
    "cosine_trap": ("declared as another space than queries answer in: a copied configuration would search wrongly",
                    "distance_space"),
    "space_trap": ("as cosine_trap, and the space that queries answer in is not cosine", "distance_space"),
    "quarantined": ("set aside by the schema or the checks, for any reason", "quarantined"),
    "missing": ("the field is missing", "missing_metadata"),
    "wrong_type": ("a value of another type than the schema's", "invalid_values"),
    "out_of_range": ("a number outside of the schema's range", "invalid_scores"),
    "unknown_value": ("a value that the schema does not list", "invalid_values"),
    "repair": ("the schema would change the value", ""),
    "quarantine": ("would be set aside", "quarantined"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """`chunks` counts them, `every` goes through their `places`: more than chunks where a group is shown with its first."""

    name: str
    chunks: int
    collections: int
    places: int
    every: Callable[[], Iterator[Place]]

    def first(self, most: int) -> list[Place]:
        return list(islice(self.every(), most))

    @property
    def meaning(self) -> str:
        return _known(self.name)[0]

    @property
    def reason(self) -> str:
        return _known(self.name)[1]

    @staticmethod
    def of(name: str, chunks: int, places: Iterable[Place]) -> Finding:
        known = tuple(places)
        return Finding(name, chunks, len({place.collection for place in known}), len(known), lambda: iter(known))


def of_places(places: Places) -> list[Finding]:
    """What the pass noted chunk by chunk."""
    return [
        Finding(name, places.total(name), len(counts), places.total(name), partial(places.every, name))
        for name, counts in places.counts.items()
    ]


def of_groups(name: str, groups: Iterable[list[tuple[str, ...]]]) -> Finding:
    """Chunks that repeat each other: all but the first of each group count, and every one of them is a place.

    A place is (collection, id, …); its detail names the first of its group.
    """
    known = list(groups)

    def every() -> Iterator[Place]:
        for group in known:
            first = f"group of {len(group)}: {group[0][0]}: {group[0][1]}"
            yield from (Place(place[0], place[1], first) for place in group)

    chunks = sum(map(len, known))
    return Finding(name, chunks - len(known), len({place[0] for group in known for place in group}), chunks, every)


def is_known(name: str) -> bool:
    """Whether a finding can have this name, be it here or not."""
    return _known(name)[0] != name


def _known(name: str) -> tuple[str, str]:
    if name in MEANINGS:
        return MEANINGS[name]
    start = next((key for key in MEANINGS if name.startswith((f"{key}_", f"{key} "))), "")
    return MEANINGS.get(start, (name, ""))
