"""From the target exactly what this run made: its records, then its collections, then its marker. Nothing of others.

Records first (chroma-facts 18: a collection dropped with its records in it leaks list-valued metadata into later ones).
A chunk that this run did not write keeps its collection alive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from helpers.errors import RUNBOOK, Terminal
from helpers.progress import Progress, silent
from helpers.rollback.made import Made
from helpers.stores import Store

BATCH = 500


@dataclass(slots=True)
class Removed:
    """Chunks removed by collection, collections dropped, and those that stay because others wrote into them."""

    chunks: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)


def remove(
    store: Store, made: Made, exported: dict[str, set[str]], *, clients: bool, progress: Progress = silent
) -> Removed:
    """`exported` are ids by collection that clients wrote and that are on disk; `clients`: the target was in use.

    Raises `Terminal` ("target_in_use") where a chunk turns up that nobody has exported: somebody still writes there.
    """
    run_id, done = made.folder.id, Removed()
    there = set(store.names())
    owned = [name for name in made.collections if name in there]
    if not owned and store.lock_holder() is None:
        return done
    store.acquire_lock(run_id)
    strangers: dict[str, set[str]] = {}
    present = {name: store.ids(name) for name in owned}
    for name in owned:
        strangers[name] = set(present[name]) - made.ids(name) - (exported.get(name, set()) if clients else set())
        if strangers[name] and clients:
            raise Terminal(
                "target_in_use", f"{len(strangers[name])} chunks came since it was last read, such as {min(strangers[name])}",
                where=f"collection {name} of {store.label}",
                next_step=f"Find out who still writes there, stop it, then repeat: {RUNBOOK} rollback {run_id}",
            )  # fmt: skip
    for name in owned:
        ids = [chunk for chunk in present[name] if chunk not in strangers[name]]
        for at in range(0, len(ids), BATCH):
            store.delete(name, ids[at : at + BATCH])
            progress.advance(len(ids[at : at + BATCH]))
        done.chunks[name] = len(ids)
        if strangers[name]:
            done.kept[name] = len(strangers[name])
        else:
            store.drop(name)
            done.dropped.append(name)
    store.release_lock(run_id)
    return done
