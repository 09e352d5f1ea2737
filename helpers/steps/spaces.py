"""The cosine trap (chroma-facts 2): a copied configuration would search by a distance that the collection never used."""

from __future__ import annotations

from collections.abc import Iterable

from helpers.errors import one_line
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.stores import CollectionInfo


def check_spaces(run: RunRecord, infos: Iterable[CollectionInfo], *, named: bool = False) -> None:
    """Put on record whether every collection searches by the space that it declares; `named` tells the first five."""
    trapped = [info for info in infos if info.space != info.declared_space]
    names = "; ".join(f"{one_line(i.name, 60)}: declared {i.declared_space}, is {i.space}" for i in trapped[:5])
    said = f"The effective space is migrated, not the declared one{f' ({names})' if named else ''}."
    run.check(
        "the distance space is the one declared",
        Verdict.WARNING if trapped else Verdict.PASS,
        measured=len(trapped),
        threshold=0,
        unit="collections",
        reason="distance_space" if trapped else "",
        detail=said if trapped else "",
        ids=[{"collection": i.name, "effective": i.space, "declared": i.declared_space} for i in trapped],
    )
