"""`runbook snapshots create | check | list | info | verify | prune | restore | export | import`: their arguments and output."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.cli.doctor import ProgressBar, destination_of
from helpers.cli.evidence import expect_option
from helpers.errors import RUNBOOK, Interrupted, RunbookError, Terminal, UsageError, one_line
from helpers.formatting import bare, count, moment, size
from helpers.reason_codes import ReasonCode

if TYPE_CHECKING:
    from helpers.parameters import Parameters
    from helpers.snapshots.objects import Inventory
    from helpers.snapshots.remote import Remote
    from helpers.snapshots.retention import SnapshotFolder
    from helpers.snapshots.snapshot import Snapshot

Declare = Callable[..., argparse.ArgumentParser]


def declare(declared: Declare) -> None:
    """Declare the sub-commands. `declared(name, action, text, details)` gives each its parser."""
    create = declared(
        "create", _create, "take a snapshot of a source now, without a migration",
        "The parameters file names source, collections, snapshot.directory and snapshot.retention_days; a target is not "
        "needed. Every chunk is read; parts that are as in the newest snapshot of this source share its files, so that it "
        "takes the room of what changed. With --id the same command continues after a kill. Where the source lost vectors, or "
        "counts more than it gives, the snapshot is kept and the exit code is 1, unless --without-lost accepts it.",
    )  # fmt: skip
    check = declared(
        "check", _check, "say whether the newest snapshot of a source is recent enough",
        "One counts that holds all that `collections` selects. Where none is, or it is incomplete and was not taken with "
        "--without-lost, the exit code is 1, and notify.urls get a notice. Schedule it by itself: it notices a missed create.",
    )  # fmt: skip
    for command in (create, check):
        command.add_argument("parameters", type=Path, metavar="PARAMETERS.yaml", help="the parameters file")
        command.add_argument("--set", action="append", default=[], dest="settings", metavar="a.b=VALUE",
                             help="change a parameter; repeatable")  # fmt: skip
    create.add_argument("--id", default="", metavar="ID", help="id of the snapshot; default: the name and the time")
    create.add_argument("--full", action="store_true", help="share no file with an earlier snapshot")
    create.add_argument(
        "--without-lost",
        action="store_true",
        help="accept that chunks are missing if the source lost them; each is named",
    )
    create.add_argument("--dry-run", action="store_true", help="show what would be read; nothing is written")
    check.add_argument("--within", type=float, default=25.0, metavar="HOURS", help="how old it may be")
    declared("list", _list, "list the snapshots: when, of what, how large, kept until when, and which run needs them")
    info = declared("info", _info, "show what a snapshot holds, by collection")
    verify = declared(
        "verify", _verify, "read every byte of a snapshot again",
        "The exit code is 1 if a file is damaged, or the digest is not the one that the evidence of the run holds. What the "
        "source had lost already is named.",
    )  # fmt: skip
    prune = declared(
        "prune", _prune, "show which snapshots can be removed; with --yes remove them",
        "A snapshot is kept until its retention ends, and while a run needs it: until closeout, or until the run is "
        "declared abandoned. A whole one is kept while only incomplete ones of its collections are newer.",
    )  # fmt: skip
    restore = declared(
        "restore", _restore, "restore a snapshot, or some of its collections, into a directory or a server",
        "The collections are restored exactly and every chunk is compared. An existing collection is never overwritten. "
        "Lost vectors stop the restore unless --without-lost accepts them. After a kill the same command continues.",
    )  # fmt: skip
    export = declared(
        "export", _export, "write a snapshot, or some of its collections, as plain files for other tools",
        "One file for each collection, and export.json: docs/snapshots.md has the layout.",
    )  # fmt: skip
    export.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the files")
    export.add_argument("--into", required=True, type=Path, metavar="DIR", help="folder to create")
    import_ = declared(
        "import", _import, "make a snapshot of plain files, for snapshots restore",
        "The folder of an export, or any folder of .parquet or .jsonl files as docs/snapshots.md has them.",
    )  # fmt: skip
    import_.add_argument("files", type=Path, metavar="DIR", help="folder of the files")
    import_.add_argument(
        "--id", default="", metavar="ID", help="id of the snapshot; default: the folder's name and the time"
    )
    import_.add_argument(
        "--space", choices=("l2", "cosine", "ip"), help="how vectors are compared, without an export.json"
    )
    import_.add_argument(
        "--retention-days", type=int, default=7, metavar="N", help="days until it may be pruned, 7 at least"
    )
    for command in (info, verify, restore, export):
        command.add_argument("snapshot", metavar="ID", help="its id, or its folder")
    for command in (verify, restore, export):
        expect_option(command, "digest that the snapshot must have, from outside its folder, such as step 21's page")
    prune.add_argument("--yes", action="store_true", help="remove them; without it nothing is changed")
    prune.add_argument(
        "--abandoned", action="append", default=[], metavar="RUN_ID",
        help="declare that this run will not continue and needs no snapshot; recorded with --yes only; repeatable",
    )  # fmt: skip
    restore.add_argument("--into", required=True, metavar="PATH|URL", help="the directory or server to write to")
    for command in (restore, export):
        command.add_argument(
            "--collection", action="append", default=[], metavar="NAME", help="this collection only; repeatable"
        )
    restore.add_argument(
        "--without-lost",
        action="store_true",
        help="restore the rest if the source had lost vectors, and list the chunks that are left out",
    )
    restore.add_argument(
        "--drop-indexes", action="append", default=[], metavar="PATTERN",
        help="restore these collections of Chroma Cloud without what a local Chroma cannot hold; repeatable",
    )  # fmt: skip
    restore.add_argument("--dry-run", action="store_true", help="show what would be done; nothing is written")
    restore.add_argument("--tenant", default="default_tenant", metavar="NAME", help="tenant of the server")
    restore.add_argument("--database", default="default_database", metavar="NAME", help="database of the tenant")
    restore.add_argument(
        "--header", action="append", default=[], metavar="NAME=env:VAR", help="an HTTP header by reference; repeatable"
    )


def _parameters(chosen: argparse.Namespace) -> Parameters:
    """The parameters of a snapshot without a migration: with any target, which is not used."""
    from helpers.parameters import load_parameters
    from helpers.parameters.model import read_yaml_mapping
    from helpers.parameters.snapshots import is_url

    settings = [*chosen.settings]
    if "target" not in read_yaml_mapping(chosen.parameters):
        settings.append("target.path=workspace/no-target")
    if chosen.directory is not None:
        directory = chosen.directory if is_url(chosen.directory) else Path(chosen.directory).absolute()
        settings.append(f"snapshot.directory={directory}")
    return load_parameters(chosen.parameters, [*settings, *(f"snapshot.storage.{each}" for each in chosen.storage)])


def _id(chosen: argparse.Namespace, name: str) -> str:
    """The id of `--id`, else one from this name and the time. UsageError for an invalid one."""
    from helpers.run.folders import new_run_id
    from helpers.snapshots.export_journal import PLAIN

    if chosen.id and not PLAIN.fullmatch(chosen.id):
        raise UsageError(ReasonCode.USAGE, "--id takes letters, digits, '.', '_' and '-'")
    return chosen.id or new_run_id(name)


def _create(chosen: argparse.Namespace) -> int:
    import tempfile

    from helpers.migration.restore import in_use
    from helpers.migration.target_lock import require_apart
    from helpers.run.folders import workspace_root
    from helpers.snapshots import backup, remote
    from helpers.status import table
    from helpers.stores import open_source, sharded

    parameters = _parameters(chosen)
    require_apart(parameters.source)
    name = _id(chosen, parameters.name)
    source, directory = parameters.source, remote.prepared(parameters.snapshot)
    if (storage := remote.of(parameters.snapshot)) is not None:
        storage.require(write=not chosen.dry_run)
    for _, warning in source.exposed():
        print(f"WARNING: {warning}")
    workspace_root().mkdir(parents=True, exist_ok=True)
    normalised = parameters.migration.normalised == "migrate"
    with (
        tempfile.TemporaryDirectory(dir=workspace_root(), prefix="backup-") as scratch,
        _stoppable(f"To go on: the same command with --id {name}."),
        open_source(source, Path(scratch), parameters.collections.selects, normalised=normalised) as source_store,
    ):
        store = sharded(source_store, parameters.collections.shard)
        names = backup.chosen(parameters, store)
        base = None if chosen.full else backup.base_of(directory, store.label, names)
        shares = f"sharing what is as in {base.id}" if base is not None else "sharing nothing"
        infos = [store.info(collection) for collection in names]
        if chosen.dry_run:
            rows = [{"collection": i.name, "chunks": count(i.count), "dimension": i.dimension or "–"} for i in infos]
            into = f"{directory / name}{_storage_suffix(storage)}"
            print(f"{store.label} would be read into {into}, {shares}. Nothing was written.\n\n{table(rows)}")
            return 0
        directory.mkdir(parents=True, exist_ok=True)
        with in_use(directory / name), _bar("Snapshot", sum(i.count for i in infos)) as bar:
            taken = backup.take(parameters, store, names, name, base, bar, without_lost=chosen.without_lost)
    _print_lines(backup.remarks(taken))
    holds = f"{count(taken.total, 'chunk')} in {count(len(taken.names()), 'collection')} of {taken.manifest['source']}"
    print(
        f"Snapshot {taken.id}: {holds}, {size(taken.size())}, of which {size(backup.own_bytes(taken))} of its own, {shares}."
    )
    print(f"Folder: {taken.folder}{_storage_suffix(storage)}\nDigest: {taken.digest}")
    if not backup.is_accepted(taken):
        raise Terminal(
            ReasonCode.VECTORS_LOST, f"it is kept, but incomplete: {'; '.join(taken.missing())}", where=f"snapshot {taken.id}",
            next_step=f"Look at the source: {RUNBOOK} doctor. To accept what is missing, take one with --without-lost.",
        )  # fmt: skip
    return 0


def _storage_suffix(storage: Remote | None) -> str:
    return "" if storage is None else f", put to {storage.url}"


def _check(chosen: argparse.Namespace) -> int:
    from helpers.notify import send, trusted_text
    from helpers.snapshots import backup, remote

    parameters = _parameters(chosen)
    directory = remote.prepared(parameters.snapshot)
    label = parameters.source_label  # as the label of what was read, with its shard
    snapshot = backup.newest(directory, label, lambda s: not backup.lacking(parameters.collections, s))
    if snapshot is not None and 0 <= (hours := backup.age_hours(snapshot)) <= chosen.within:
        _print_lines(f"Missing: {each}" for each in snapshot.missing())
        if backup.is_accepted(snapshot):
            print(
                f"Snapshot {snapshot.id} of {label} is {hours:.1f} h old, {chosen.within:g} h at most: recent enough."
            )
            return 0
        message = f"Snapshot {snapshot.id} of {label} is incomplete: {'; '.join(snapshot.missing())}. "
        message += f"Look at the source: {RUNBOOK} doctor. To accept what is missing: snapshots create --without-lost."
    else:
        where = directory if remote.of(parameters.snapshot) is None else parameters.snapshot.directory
        reason = backup.why_none(directory, label, parameters.collections, str(where))
        if snapshot is not None:
            reason = f"the newest that holds all that is selected, {snapshot.id}, is {hours:.1f} h old"
        message = f"No snapshot of {label} within {chosen.within:g} h: {reason}. "
        message += "Look why `snapshots create` did not run."
    print(message, file=sys.stderr)
    rules, title = parameters.notify, f"{parameters.name}: snapshot missed or incomplete"
    own = trusted_text(parameters)
    for delivery in send(rules.urls, title, message, "failure", rules.timeout_seconds, trusted=own):
        print(delivery.sentence(), file=sys.stderr)
    return 1


def _export(chosen: argparse.Namespace) -> int:
    from helpers.migration.restore import chosen as collections
    from helpers.migration.target_lock import require_outside
    from helpers.snapshots import backup

    snapshot, compared = _find_compared(chosen)
    require_outside(chosen.into, "--into", snapshot.manifest["source"], base=snapshot.manifest.get("directory", ""))
    print(compared, flush=True)
    _print_lines(f"Missing: {each}" for each in snapshot.missing())
    infos = collections(snapshot, chosen.collection)
    with _stoppable("Nothing was written."), _bar("Export", sum(i.count for i in infos)) as bar:
        written = backup.export(snapshot, chosen.into.absolute(), chosen.format, [i.name for i in infos], bar)
    for name, rows in written.items():
        print(f"{one_line(name)}: {count(rows, 'chunk')}")
    print(f"Written to {chosen.into.absolute()}")
    for left in backup.unfinished(chosen.into.absolute()):
        print(f"Beside it is {one_line(str(left))}, of an export that was killed or is at work: remove it yourself.")
    return 0


def _import(chosen: argparse.Namespace) -> int:
    from helpers.migration.restore import in_use
    from helpers.parameters.snapshots import default_snapshots
    from helpers.snapshots import backup, remote

    if not chosen.files.is_dir():
        raise UsageError(ReasonCode.NO_SUCH_DIRECTORY, f"there is no folder {one_line(str(chosen.files))}")
    if chosen.retention_days < 7:
        raise UsageError(ReasonCode.USAGE, "--retention-days takes 7 or more")
    folder = chosen.files.absolute()
    name = _id(chosen, folder.name)
    rules = remote.named(chosen.directory or default_snapshots(), chosen.storage)
    directory = remote.prepared(rules)
    directory.mkdir(parents=True, exist_ok=True)
    if (storage := remote.of(rules)) is not None:
        storage.require()
        storage.mirror()  # a name that another machine has given is taken
    with _stoppable("Nothing was made of it."), in_use(directory / name), _bar("Import", 0) as bar:
        snapshot, rounded = backup.from_files(folder, directory, name, chosen.retention_days, chosen.space, bar)
    _print_lines(backup.remarks(snapshot))
    for collection, numbers in rounded.items():
        print(f"{one_line(collection)}: {count(numbers, 'number')} rounded to float32, which is what Chroma holds")
    print(
        f"Snapshot {snapshot.id}: {count(snapshot.total, 'chunk')} in {count(len(snapshot.names()), 'collection')}.\n"
        f"Folder: {snapshot.folder}{_storage_suffix(storage)}\n"
        f"Digest: {snapshot.digest}\nBring it into a Chroma: {RUNBOOK} snapshots restore {snapshot.folder} --into PATH|URL"
    )
    return 0


def _directories(chosen: argparse.Namespace) -> list[Path]:
    from helpers.snapshots import remote
    from helpers.snapshots.retention import directories

    if chosen.directory is None:
        return directories()
    rules = remote.named(chosen.directory, chosen.storage)
    if remote.of(rules) is None and not rules.folder.is_dir():
        raise UsageError(ReasonCode.NO_SUCH_DIRECTORY, f"there is no folder {one_line(chosen.directory)}")
    return [remote.prepared(rules)]


def _list(chosen: argparse.Namespace) -> int:
    from helpers.snapshots import remote
    from helpers.snapshots.retention import snapshots_in
    from helpers.status import table

    code, any_needed, empty = 0, False, True
    for place in _directories(chosen):
        storage, inventory, warnings = remote.at(place), None, list[str]()
        try:
            if storage is not None:
                inventory = storage.mirror()
                warnings = storage.warnings(inventory)
        except RunbookError as error:  # what is here is listed all the same
            code, warnings = error.exit_code, [error.line()]
        items = snapshots_in(place)
        any_needed, empty = any_needed or any(item.needed_by for item in items), empty and not (items or warnings)
        if items or warnings:
            print(one_line(str(place) if storage is None else f"{storage.url}, read and made in {place}"))
            print("".join([*(f"{table([_row(item, inventory) for item in items])}\n" for _ in items[:1]),
                           *(f"{one_line(line)}\n" for line in warnings)]))  # fmt: skip
    if empty:
        print("There are no snapshots. Step 21 takes one; --directory says where else to look.")
    if any_needed:
        print(
            "A run needs its snapshots until it is closed out (step 53), or declared abandoned: snapshots prune --help"
        )
    return code


def _row(item: SnapshotFolder, inventory: Inventory | None) -> dict[str, Any]:
    row = {"id": item.id, "created": "", "source": "", "chunks": "", "size": "", "status": item.problem}
    row |= {"retain until": "", "needed by": ", ".join(item.needed_by)}
    if item.snapshot is not None:
        manifest = item.snapshot.manifest
        row |= {"created": moment(manifest["created"]), "source": manifest["source"]}
        row |= {"chunks": count(item.snapshot.total)}
        row |= {"status": "; ".join([manifest["status"], *item.snapshot.missing()])}
    elif item.export is not None:
        row |= {"created": moment(item.export.sessions[0]["started"]), "source": item.export.about["source"]}
        row |= {"chunks": count(item.export.chunks)}
    if item.retain_until is not None:
        row |= {"size": size(item.size), "retain until": moment(item.retain_until.isoformat())}
    return (
        row
        if inventory is None
        else row | {"where": inventory.where(item.folder, item.snapshot.manifest if item.snapshot else None)}
    )


def _find(chosen: argparse.Namespace) -> Snapshot:
    from helpers.snapshots import remote
    from helpers.snapshots.retention import find

    places = _directories(chosen)
    if not any((place / chosen.snapshot).is_dir() for place in places):
        for storage in filter(None, map(remote.at, places)):
            storage.mirror()
    return find(chosen.snapshot, places)


def _find_compared(chosen: argparse.Namespace) -> tuple[Snapshot, str]:
    """(The snapshot, a line that says what its digest was compared with): --expect, evidence of runs, the signed line beside it.

    Raises `Terminal` ("snapshot_altered") where a digest differs.
    """
    from helpers import audit
    from helpers.migration.source_changes import open_sealed, proven_by
    from helpers.run.folders import every_run
    from helpers.snapshots.retention import digests, recorded

    snapshot = _find(chosen)
    expected = chosen.expect or ""
    evidence, doubts, unproven = list[str](), "", False

    def compare(digest: str, why: str, what: str = "digest", actual: str = snapshot.digest) -> None:
        if digest not in ("", actual):
            raise Terminal(
                ReasonCode.SNAPSHOT_ALTERED, f"its {what} is {actual}, and {one_line(digest, 64)} {why}",
                where=str(snapshot.folder), next_step="Nothing was taken from it. Use another copy of the snapshot.",
            )  # fmt: skip

    compare(expected, "is expected")
    evidence += ["--expect"] if expected else []
    for run in every_run():
        try:
            named = any(line.name == snapshot.folder.name for line in recorded(run))
        except RunbookError:
            doubts += f"; run {run.id} cannot be read"
            continue
        if named:
            open_sealed(run, snapshot.folder)
            if key := proven_by(run, snapshot.folder.name):
                other = f" (signed with {key}, not with this workspace's key)" if key != audit.own_key() else ""
                evidence.append(f"the evidence of run {run.id}{other}")
            else:
                doubts += f"; run {run.id} names it, but in no seal or line of its log that was proven"
                unproven = True
    # After the runs: their evidence names the seal that an altered snapshot contradicts.
    folder, line = snapshot.folder, "the signed line beside it"
    if (signed := digests(folder.parent).get(folder.name)) is None:
        signed, line = digests(folder.parent, copied=True).get(folder.name), f"{line} (written in another folder)"
    proven = bool(audit.own_key())  # else nothing can be signed here, nor any line be proven
    if signed is not None:
        compare(signed.digest, "was its digest when it was taken")
        compare(signed.manifest, "was that when it was taken", "manifest's digest", snapshot.manifest_digest)
        evidence += [line] if proven else []
    if evidence:
        return snapshot, f"Its digest {snapshot.digest} is the one of {' and '.join(evidence)}."
    line = f", but for a line of {audit.NAME} beside it that nobody has proven" if signed else ""
    return snapshot, (
        f"Its digest {snapshot.digest} was not compared with anything outside its folder{line}: "
        f"no run here has{' provably' * unproven} taken it{doubts}. "
        "Take the digest from the run's evidence, and compare: --expect SHA256"
    )


def _info(chosen: argparse.Namespace) -> int:
    from helpers.status import table

    snapshot = _find(chosen)
    manifest = snapshot.manifest
    versions = manifest["chroma_version"]
    facts = {
        "snapshot": snapshot.id,
        "folder": snapshot.folder,
        "created": moment(manifest["created"]),
        "retain until": moment(manifest["retain_until"]),
        "source": f"{manifest['source']} (Chroma {versions['source']}, read by client {versions['client']})",
        "read": "; ".join(_session(s) for s in manifest.get("sessions", ())) or moment(manifest["created"]),
        "status": f"{manifest['status']} {moment(manifest.get(manifest['status'] + '_at', manifest['created']))}",
        "holds": f"{count(snapshot.total, 'chunk')} in {count(len(snapshot.names()), 'collection')}, {size(snapshot.size())}",
        "digest": snapshot.digest,
    }
    print("".join(f"{name + ':':<14}{one_line(str(value))}\n" for name, value in facts.items()))
    rows = []
    for info in snapshot.collections():
        parts = snapshot.parts(info.name)
        rows.append(
            {
                "collection": info.name,
                "chunks": count(info.count),
                "dimension": info.dimension or "–",
                "space": info.space,
                "parts": len(parts),
                "lost vectors": sum(p.lost for p in parts),
                "embedding function": info.embedding_function or "–",
                "findings": "; ".join(info.findings),
            }
        )
    print(table(rows))
    return 0


def _session(session: dict[str, Any]) -> str:
    return f"{moment(session['started'])} to {moment(session['ended'])}, {count(session['chunks'], 'chunk')}"


def _verify(chosen: argparse.Namespace) -> int:
    from helpers import audit

    snapshot, compared = _find_compared(chosen)
    log = snapshot.folder.parent / audit.NAME
    try:
        with _bar("Verify", snapshot.total) as bar:
            counted = snapshot.verify(bar)
    except RunbookError as error:
        audit.append(log, "verify", outcome="failed", snapshot=snapshot.id, why=error.line())
        if error.code == ReasonCode.SNAPSHOT_DAMAGED:
            snapshot.mark("failed")
        raise
    audit.append(log, "verify", snapshot=snapshot.id, digest=snapshot.digest, chunks=sum(counted.values()))
    missing = snapshot.missing()
    _print_lines(f"Missing: {each}" for each in missing)
    how = "incomplete, and as it was taken" if missing else "whole"
    print(
        f"Snapshot {snapshot.id} is {how}: {count(sum(counted.values()), 'chunk')} in "
        f"{count(len(counted), 'collection')}, {size(snapshot.size())}, every byte as its manifest says.\n{compared}"
    )
    return 0


def _prune(chosen: argparse.Namespace) -> int:
    from helpers.migration.restore import in_use
    from helpers.run.folders import find
    from helpers.snapshots import remote, retention

    for run_id in chosen.abandoned:
        find(run_id)
        if chosen.yes:
            retention.abandon(run_id)
        else:
            print(f"Run {run_id} would be declared abandoned.")
    removable, places = [], _directories(chosen)
    storages = list(filter(None, map(remote.at, places)))
    for storage in storages:
        storage.mirror()
    for place in places:
        items = retention.snapshots_in(place)
        if chosen.yes:
            _print_lines(retention.sweep(place))
        for item in items:
            reason = _keep_reason(item, chosen.abandoned)
            if not reason:
                removable.append(item)
            action = "stays" if reason else "goes " if chosen.yes else "would go"
            print(f"{action}  {one_line(item.id)}  {one_line(reason)}".rstrip())
    if chosen.yes:
        for item in removable:
            with in_use(item.folder):
                retention.remove([item])
        _print_lines(line for storage in storages for line in storage.sweep(remove=True))
        print(f"{count(len(removable), 'snapshot')} removed.")
        return 0
    _print_lines(line for storage in storages for line in storage.sweep(remove=False))
    what = f"{count(len(removable), 'snapshot')} would be removed ({size(sum(item.size for item in removable))})"
    print(f"{what}. Nothing was changed. To remove: --yes")
    print("A snapshot stays within its retention, and as long as a run needs it: until step 53 has closed the run out,")
    print("or --abandoned RUN_ID declares that it will not continue.")
    return 0


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(one_line(line))


def _keep_reason(item: SnapshotFolder, abandoned: list[str]) -> str:
    """Why the snapshot stays even if these runs were abandoned; "" where it can go."""
    from dataclasses import replace

    return replace(item, needed_by=tuple(run for run in item.needed_by if run not in abandoned)).keep_reason


def _restore(chosen: argparse.Namespace) -> int:
    from helpers.migration import restore
    from helpers.migration.target_lock import require_outside
    from helpers.status import table

    (snapshot, compared), endpoint = _find_compared(chosen), destination_of(chosen)
    if endpoint.path:
        require_outside(
            Path(endpoint.path), "--into", snapshot.manifest["source"], base=snapshot.manifest.get("directory", "")
        )
    print(compared, flush=True)
    _print_lines(f"Missing: {each}" for each in snapshot.missing())
    if chosen.dry_run:
        rows = [
            {
                "collection": i.name,
                "chunks": count(i.count),
                "dimension": i.dimension or "–",
                "space": i.space,
                "would": would,
            }
            for i, would in restore.look(snapshot, endpoint, chosen.collection, chosen.drop_indexes)
        ]
        print(f"Into {endpoint.label}. Nothing was written.\n\n{table(rows)}")
        return 0
    chunks = sum(i.count for i in restore.chosen(snapshot, chosen.collection))
    with _stoppable(), _bar("Restore and prove", 2 * chunks) as bar:
        restored = restore.restore(
            snapshot, endpoint, chosen.collection, without_lost=chosen.without_lost, drop_indexes=chosen.drop_indexes,
            progress=bar,
        )  # fmt: skip
    rows = [{"collection": n, "written": count(restored.written[n]), "proven": count(p), "lost": len(restored.lost.get(n, []))}
            for n, p in restored.proven.items()]  # fmt: skip
    print(f"{table(rows)}\n\nRestored into {restored.into}; every chunk was read back and compared with the snapshot.")
    for index in restored.dropped:
        print(f"{'dropped, as ordered' if index.ordered else 'not taken over'}: {index}: {index.becomes}")
    for name, ids in restored.lost.items():
        print("".join(f"lost, not restored: {one_line(name)}  {one_line(chunk, 4000)}\n" for chunk in ids), end="")
    return 0


@contextmanager
def _bar(label: str, total: int) -> Iterator[ProgressBar]:
    from tqdm import tqdm

    from helpers.run.command import be_frugal

    be_frugal()  # whoever has a bar moves chunks
    hidden = not sys.stdout.isatty()
    with tqdm(total=total, desc=label, unit=" chunks", leave=False, file=bare(sys.stdout), disable=hidden) as shown:
        yield ProgressBar(shown.update)


@contextmanager
def _stoppable(next_step: str = "The same command goes on.") -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C: locks are released, and the error line says how to continue."""

    def ask(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(ReasonCode.INTERRUPTED, "stopped on request", next_step=next_step) from None
    finally:
        signal.signal(signal.SIGTERM, before)
