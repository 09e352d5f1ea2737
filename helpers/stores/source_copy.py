"""A copy of an embedded source that the engine can be trusted with: copied, mended, its damaged indexes rescued, tried.

The engine opens the copy in a process of its own first. Where it dies, hangs or loses vectors on a collection although the
files looked sound, the copy is made anew, for the engine may have written to it, and that collection is rescued too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from helpers.parameters.endpoint import Endpoint
from helpers.stores import layout, repair
from helpers.stores.copying import copy_directory
from helpers.stores.first_opening import try_opening
from helpers.stores.repair import Found
from helpers.stores.rescue import Rescued, rescue


def prepare(
    endpoint: Endpoint, copy: Path, wanted: Callable[[str], bool], *, normalised: bool = False
) -> tuple[Found, dict[str, Rescued]]:
    """Make `copy`; what was found and mended, and the vectors, by collection name, that the engine is not to be asked for.

    Only the collections that are `wanted` by name have to be readable. `normalised`: use vectors whose norm is lost. Raises
    `Terminal` where no copy can be had that the engine reads.
    """
    source, where = Path(endpoint.path or ""), f"source {endpoint.label}"
    suspects: dict[str, str] = {}
    while True:
        shutil.rmtree(copy, ignore_errors=True)
        said = copy_directory(source, copy)
        found = repair.mend(copy, source)
        found.source += said
        rescued, touched = rescue(
            copy, endpoint.tenant, endpoint.database, wanted, suspects, found, normalised=normalised
        )
        left_out = [n for n in layout.stored_names(copy, endpoint.tenant, endpoint.database) if not wanted(n)]
        failure = try_opening(copy, endpoint.tenant, endpoint.database, left_out, rescued, touched)
        if failure is None:
            return found, rescued
        if not failure.collection or failure.collection in rescued:
            raise failure.error(where)
        suspects[failure.collection] = failure.what
