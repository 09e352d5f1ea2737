"""The target's tenant and database, where the run had to make them: written down before, taken away by a rollback.

`target-database.json` in the workspace names what was about to be made. A database that this run made and that holds no
collection any more is deleted again; a tenant stays, since Chroma deletes none.
"""

from __future__ import annotations

from typing import Any

from helpers import audit
from helpers.results import read_state, utc_now, write_json
from helpers.run.folders import RunFolder
from helpers.stores.databases import lacking, make, remove_database

FILE = "target-database.json"


def ensure_database(folder: RunFolder) -> tuple[str, ...]:
    """Make what the target lacks of its tenant and database; what that was."""
    target = folder.parameters().target
    what = lacking(target)
    if what:
        write_json(folder.workspace / FILE, {"made": sorted({*_made(folder), *what}), "when": utc_now()})
        make(target, what)
        audit.append(folder.reports / audit.NAME, "target database made", made=list(what), target=target.label)
        folder.log(f"made at the target: {' and '.join(what)} of {target.label}")
    return what


def remove_made_database(folder: RunFolder) -> str:
    """Delete the database that this run made, where it is empty; a sentence, "" where it made none. Can be repeated."""
    made = _made(folder)
    if "database" not in made:
        return ""
    target = folder.parameters().target
    if not remove_database(target):
        return f"database {target.database} stays: it is gone already, or not empty"
    write_json(folder.workspace / FILE, {"made": [name for name in made if name != "database"], "when": utc_now()})
    stays = f"; tenant {target.tenant} stays, since Chroma deletes none" if "tenant" in made else ""
    audit.append(folder.reports / audit.NAME, "target database removed", target=target.label)
    return f"database {target.database}, which this run had made, removed{stays}"


def _made(folder: RunFolder) -> list[str]:
    def read(raw: Any) -> list[str]:
        return [str(name) for name in raw["made"]]

    hint = "Set this file aside; then the target's database is left as it is."
    return read_state(folder.workspace / FILE, read, "target_database_state_damaged", hint) or []
