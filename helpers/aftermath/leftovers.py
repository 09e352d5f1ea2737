"""What a run leaves beside its reports: what is temporary and may go now, and what has to stay, until when, and why.

Temporary is only what is named here; everything else stays. Nothing that a resume, a rollback or an audit needs within the
retention of the snapshots is on that list.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import RUNBOOK
from helpers.parameters import Parameters, resolve_path
from helpers.results import utc_now
from helpers.run import snapshots
from helpers.run.folders import RunFolder
from helpers.words import moment

# In workspace/<run id>: copies of a source that a killed process left, half-written files, and output of finished children.
_TEMPORARY = (
    "source-copy-*", ".*.tmp", "*.tmp", ".*.partial", "*.partial", "drill-restore", "drill-rollback", "dry-run/target",
    "dry-run/staged", "integration", "performance", "rollback/.*.partial",
)  # fmt: skip
# What stays, in the order of the table: name in the workspace, what it is.
_KEPT = (
    ("checkpoint.json", "the ledger: what this run made in the target"),
    ("checkpoint.jsonl", "the ledger's last changes"),
    ("staged", "every chunk as it was written: how a rollback tells clients' writes from ours"),
    ("catch-up", "what was caught up with"),
    ("cutover.json", "which configuration files were changed"),
    ("cutover", "configuration files as they were"),
    ("fence.json", "the write fence: what stood before it"),
    ("fence-before.conf", "nginx's configuration as it was"),
    ("undo", "what notebooks 41 to 48 replaced in the target"),
    ("earlier", "ledgers and quarantine of attempts that were taken back"),
    ("quarantine", "chunks that were not migrated, each with its reason"),
    ("monitoring", "every look of the first hour"),
    ("batches.jsonl", "every batch of the import"),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One row of the retention table. `until` is ISO 8601, or words."""

    what: str
    where: str
    bytes: int
    until: str
    how: str


def temporary(folder: RunFolder, parameters: Parameters) -> list[Path]:
    """What may be removed now, sorted. A directory counts once."""
    found = {path for pattern in _TEMPORARY for path in folder.workspace.glob(pattern)}
    kept = resolve_path(parameters.snapshot.directory)
    steps = "|".join(snapshots.TAKEN_BY)
    exports = re.compile(
        rf"{re.escape(folder.id)}-({steps})(-.*)?\.partial"
    )  # not those of a run that begins with this id
    found |= {path for path in kept.glob("*.partial") if exports.fullmatch(path.name)}
    if parameters.target.path:
        target = resolve_path(parameters.target.path)
        found |= set(target.parent.glob(f".{target.name}.partial"))
    return sorted(path for path in found if not any(other in found for other in path.parents))


def remove(path: Path) -> int:
    """Take one away; its bytes. What is gone already is fine: a kill may have come between."""
    freed = size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=False)
    else:
        path.unlink(missing_ok=True)
    return freed


def size(path: Path) -> int:
    """Bytes of a file, or of everything below a folder."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size if path.exists() or path.is_symlink() else 0
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())


def retained_until(folder: RunFolder) -> str:
    """Until when a rollback must stay possible: the end of the longest retention among this run's snapshots."""
    return max((str(t["retain_until"]) for t in snapshots.taken_by(folder)), default=utc_now())


def retention(folder: RunFolder, parameters: Parameters) -> list[Kept]:
    """What stays, where, until when, and how it is removed then."""
    until = retained_until(folder)
    found = []
    for taken in {t["id"]: t for t in snapshots.taken_by(folder)}.values():
        place = Path(taken["folder"])
        how = f"{RUNBOOK} snapshots prune --yes" if place.is_dir() else "gone already"
        found.append(Kept(f"snapshot {taken['id']}", str(place), size(place), str(taken["retain_until"]), how))
    for name, what in _KEPT:
        path = folder.workspace / name
        if path.exists():
            found.append(Kept(what, str(path), size(path), until, f"rm -r {shlex.quote(str(path))}"))
    source = parameters.source.label
    found += [
        Kept("the source: the old database, for a rollback", source, 0, until, "its operator's decision"),
        Kept("reports: the evidence, logs included", str(folder.reports), size(folder.reports), "for good",
             folder.command("archive")),
    ]  # fmt: skip
    return found


def when(until: str) -> str:
    """An instant for people; words as they are."""
    return moment(until) if until[:1].isdigit() else until
