"""The real files that the parsers read, made in a home of their own when first wanted."""

# ruff: noqa: E501  tables of inputs are read by column

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.results import write_json
from helpers.run.folders import RunFolder
from tests.storage import chunks, embedded, index_folder, plan
from tests.test_source_layout_0_3 import write_old

ROOT = Path(__file__).resolve().parents[2]
RUN = "old-run"


@dataclass
class Bench:
    """A home with real files of every kind, made when first wanted; `outside` lies beside it and is nobody's business."""

    folder: Path
    _made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home, self.outside = self.folder / "home", self.folder / "outside"
        for path in (self.home / "tmp", self.outside):
            path.mkdir(parents=True)
        (self.outside / "secret").write_text('{"secret": "outside"}')
        os.environ |= {"RUNBOOK_REPORTS": str(self.home / "reports"), "RUNBOOK_WORKSPACE": str(self.home / "workspace"),
                       "TMPDIR": str(self.home / "tmp"), "HOME": str(self.home), "RUNBOOK_BROWSER": "none"}  # fmt: skip
        tempfile.tempdir = str(self.home / "tmp")
        os.chdir(self.home)

    def once(self, make: Callable[[Bench], Any]) -> Any:
        if make.__qualname__ not in self._made:
            self._made[make.__qualname__] = make(self)
        return self._made[make.__qualname__]

    def put(self, name: str, content: Any) -> Path:
        """A file in the home: bytes, text, or a value as JSON."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path


def a_run(bench: Bench) -> RunFolder:
    """A finished rehearsal, with what the archive of it lacks: notices, a notebook, a figure, a list of changes, an envelope."""
    from helpers import notify

    with tarfile.open(ROOT / "tests/data/run-of-2026-11.tar.xz") as packed:
        packed.extractall(bench.home, filter="data")
    run = RunFolder(RUN, bench.home / "reports" / RUN, bench.home / "workspace" / RUN)
    notify.by_hand(run.reports, "backup", "me")
    bench.put(f"reports/{RUN}/22_migrate.ipynb", _notebook("<p>SHA-256 <code>0</code></p>"))
    bench.put(
        f"reports/{RUN}/figures/23_counts.svg",
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><g><path d="M0 0"/></g></svg>',
    )
    bench.put(f"reports/{RUN}/22_changes.csv.gz", gzip.compress(b"collection,id,field,old,new,rule\na,1,f,x,y,set\n"))
    bench.put(f"reports/{RUN}/drills/rollback.json", {"ended": "2026-11-28T01:00:00+00:00", "put_back": True})
    seal = sorted((run.reports / "seals").glob("*.json"))[-1]
    bench.put(
        f"reports/{RUN}/seals/{seal.name}.dsse",
        {"payload": "", "payloadType": "x", "signatures": [{"keyid": "k", "sig": "AAAA"}]},
    )
    many = {"id": "many", "created": "2026-11-28T00:00:00+00:00", "directory": str(bench.home), "dry_run": False, "until": "", "parameters": {},
            "rows": [{"name": "a", "run": RUN, "source": {"database": "a"}, "target": {"database": "a"}}]}  # fmt: skip
    bench.put("reports/many/group.json", many)
    return run


def _notebook(html: str) -> dict[str, Any]:
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [html], "image/png": "aGVsbG8="}}
    printed = {"output_type": "stream", "name": "stdout", "text": ["a\r", "b\n"]}
    code = {
        "cell_type": "code",
        "metadata": {},
        "execution_count": 1,
        "source": ["run.finish()"],
        "outputs": [shown, printed],
    }
    title = {"cell_type": "markdown", "metadata": {}, "source": ["# Migrate\n![x](figures/23_counts.svg)"]}
    return {"cells": [title, code], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}


def reports(*patterns: str) -> Callable[[Bench], list[Path]]:
    """The files of the finished run by their patterns."""

    def found(bench: Bench) -> list[Path]:
        run = bench.once(a_run)
        return [path for pattern in patterns for path in sorted(run.reports.glob(pattern))]

    return found


def one(name: str, content: Any) -> Callable[[Bench], list[Path]]:
    return lambda bench: [bench.put(name, content)]


def shipped(pattern: str) -> Callable[[Bench], list[Path]]:
    """Copies of the files that come with the toolkit."""
    return lambda bench: [
        bench.put(f"{path.parent.name}/{path.name}", path.read_bytes()) for path in sorted(ROOT.glob(pattern))
    ]


def a_database(bench: Bench) -> Path:
    """A directory of the current Chroma: two collections, one with rows in its index and rows in its log."""
    folder = bench.home / "database"
    with embedded(folder) as store:
        written = {"hnsw": {"space": "cosine", "batch_size": 10, "sync_threshold": 30}}
        store.create(replace(plan("notes", "cosine"), configuration=written))
        store.create(plan("lists"))
        store.add("notes", chunks(30, 6, seed=5))
        store.add("notes", chunks(10, 6, seed=6, prefix="late"))
        store.add(
            "lists", ChunkBatch(["a", "b"], ["x", None], np.ones((2, 3), np.float32), [{"l": [1, 2], "t": True}, None])
        )
    return folder


def a_snapshot(bench: Bench) -> Path:
    from helpers.parameters.endpoint import Endpoint
    from helpers.snapshots.snapshot import write_snapshot
    from helpers.stores import open_source

    folder = bench.home / "kept"
    with open_source(Endpoint(path=str(bench.once(a_database))), bench.home / "tmp" / "scratch") as store:
        return write_snapshot(store, folder, "one", store.names(), retention_days=1).folder


def a_staging(bench: Bench) -> Path:
    from helpers.snapshots.snapshot import Snapshot
    from tests.storage import staging

    folder = bench.home / "staging"
    staging(Snapshot.open(bench.once(a_snapshot)), folder)
    entry = {"target": "notes", "collection": "notes", "id": "c1", "reason": "refused", "detail": "x"}
    from helpers.migration.staging import Quarantine

    aside = Quarantine(folder / "quarantine")
    aside.add(entry, chunks(1, 6, prefix="x"))
    write_json(folder / "staged" / "delta.json", {"drop": ["a"], "create": []})
    return folder


def a_journal(bench: Bench) -> list[Path]:
    from helpers.snapshots.export_journal import ExportJournal

    folder = bench.home / "kept" / "two.partial"
    journal = ExportJournal.open(folder, {"source": "s"}, 1)
    journal.freeze("notes", "001-notes", {"name": "notes"}, ["a", "b"], [0])
    (folder / "001-notes").mkdir()
    journal.finish("notes", 0, {"file": "001-notes/00001.parquet", "rows": 2, "bytes": 5, "sha256": "0"})
    manifest = json.loads((bench.once(a_snapshot) / "manifest.json").read_text())
    write_json(folder / "manifest.json", {**manifest, "id": "two"})
    return [folder / ".export" / "journal.jsonl", folder / "manifest.json"]


def files_to_import(bench: Bench) -> list[Path]:
    from helpers.snapshots.backup import export
    from helpers.snapshots.snapshot import Snapshot

    taken, folder = Snapshot.open(bench.once(a_snapshot)), bench.home / "exported"
    export(taken, folder, "jsonl", taken.names())
    lines = [bench.put(f"lines/{path.name}", path.read_text()) for path in sorted(folder.glob("*.jsonl"))]
    return [*lines, folder / "export.json"]


def parquet_to_import(bench: Bench) -> list[Path]:
    from helpers.snapshots.backup import export
    from helpers.snapshots.snapshot import Snapshot

    taken, folder = Snapshot.open(bench.once(a_snapshot)), bench.home / "columns"
    export(taken, folder, "parquet", taken.names())
    (folder / "export.json").unlink()
    return sorted(folder.glob("*.parquet"))


def files_read(bench: Bench, path: Path) -> object:
    from helpers.snapshots.backup import from_files

    made = bench.home / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    return from_files(path.parent, made, "one", 7, "l2")


def _storage(bench: Bench) -> Any:
    from helpers.parameters.snapshots import SnapshotSection
    from helpers.snapshots.remote import Remote

    return Remote(SnapshotSection(directory=f"file://{bench.home}/storage"), bench.home / "of-storage")


def in_storage(bench: Bench) -> list[Path]:
    """A snapshot in a storage, one that was begun there, and what says what the storage is."""
    storage = _storage(bench)
    storage.require()
    storage.put(bench.once(a_snapshot))
    folder = bench.home / "storage"
    bench.put("storage/begun/two.json", (folder / "snapshots" / "one.json").read_text())
    return [folder / "snapshots" / "one.json", folder / "begun" / "two.json", folder / "chroma-snapshots.json"]


def storage_read(bench: Bench, path: Path) -> object:
    from helpers.snapshots.snapshot import Snapshot

    storage = _storage(bench)
    shutil.rmtree(storage.folder, ignore_errors=True)
    look = storage.mirror()
    said = [*storage.warnings(look), *storage.sweep(remove=False)]
    return said, [
        look.where(storage.folder / name, Snapshot.open(storage.folder / name).manifest) for name in look.snapshots
    ]


def manifest_again(value: Any) -> Any:
    """The manifest with its own digest, as whoever changed it on purpose would leave it."""
    from helpers.snapshots.export_journal import signed

    return signed(value)


STATES: dict[str, Any] = {}


def states(bench: Bench) -> list[Path]:
    """One file for each kind of state file, with the content that its own test writes."""
    from tests.test_state_files import STATES as KNOWN

    made = []
    for state in KNOWN:
        kind = type(state)
        path = bench.home / "states" / kind.__name__ / (state.file or "restore.json")
        write_json(path, {key: value for key, value in asdict(state).items() if key != "folder"})
        STATES[kind.__name__] = kind
        made.append(path)
    log = path_of("Kept", made)
    bench.put(str(log.with_suffix(".jsonl").relative_to(bench.home)), json.dumps({"id": "x", "targets": {}}) + "\n")
    return [*made, log.with_suffix(".jsonl")]


def path_of(name: str, paths: list[Path]) -> Path:
    return next(path for path in paths if path.parent.name == name)


def a_fence(bench: Bench) -> list[Path]:
    from helpers.fence import FenceState

    rules = {"kind": "command", "command": {"lock": ["true"], "unlock": ["true"]}}
    source = {"url": "http://127.0.0.1:1", "headers": {"A": "env:X"}}
    state = FenceState("command", "up", "lift it", rules=rules, source=source, events=[{"when": "now", "state": "up"}])
    return [bench.put("fenced/fence.json", {k: v for k, v in asdict(state).items() if k != "folder"})]


NGINX = """pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    upstream chroma { server 127.0.0.1:8000 weight=2; server unix:/run/c.sock; }
    include /etc/nginx/conf.d/*.conf;
    server { listen 80 default_server; server_name a.example; location / { proxy_pass http://chroma; } }
    server { listen [::]:443-445 ssl; location /x { if ($a) { proxy_pass https://127.0.0.1:8000/x; } } }
    access_by_lua_block { local x = "}" }
}
# configuration file /etc/nginx/conf.d/a.conf:
server { listen 127.0.0.1:81; location ~ "^/a{2}" { grpc_pass 'grpc://127.0.0.1:8000'; } }
"""
COMPOSE = """services:
  app: &app
    image: app
    environment: {CHROMA_URL: "http://127.0.0.1:8000", OTHER: x}
  worker:
    <<: *app
    environment:
      - CHROMA_URL=http://127.0.0.1:8000
      - B=2
"""
ENV = '# app\nexport CHROMA_URL="http://127.0.0.1:8000"  # was\nSECRET_KEY=\'x y\'\nPORT=80\n\nMULTI="a\nb"\n'


def signatures(bench: Bench) -> list[Path]:
    """A key, its public half, a signature by it, and a time-stamp token, which is none."""
    from helpers import audit
    from helpers.evidence import signing

    folder = bench.home / "keys"
    folder.mkdir(exist_ok=True)
    key = audit.runner_key(None, folder)
    data = bench.put("keys/data", b"text")
    bench.put("keys/data.sig", signing.sign(data.read_bytes(), signing.SEAL, key))
    bench.put("keys/data.tsr", b"\x30\x03\x02\x01\x00")
    listed = f'x namespaces="runbook-seal" {audit.public_key(key)[0]}\n'
    bench.put("keys/allowed_signers", listed)
    return [
        folder / "data.sig",
        folder / "runner_key",
        folder / "runner_key.pub",
        folder / "allowed_signers",
        folder / "data.tsr",
    ]


def directory(bench: Bench) -> list[Path]:
    return [bench.once(a_database) / "chroma.sqlite3"]


def index_files(bench: Bench) -> list[Path]:
    folder = index_folder(bench.once(a_database), "notes")
    return sorted(path for path in folder.iterdir() if path.is_file())


def old_directory(bench: Bench) -> list[Path]:
    folder = write_old(bench.home / "old-database", [
        {"id": "a", "document": "x", "embedding": [1.0, 2.0], "metadata": '{"i": 1, "f": 1.5, "b": true}'},
        {"id": "b", "document": None, "embedding": [3.0, -4.0], "metadata": None},
    ], '{"hnsw:space": "cosine"}')  # fmt: skip
    return sorted(folder.glob("*.parquet"))


def staged_files(bench: Bench) -> list[Path]:
    folder = bench.once(a_staging)
    return [
        folder / "staged" / "index.json",
        folder / "staged" / "delta.json",
        *sorted((folder / "quarantine").glob("*.jsonl")),
    ]


def staged_parts(bench: Bench) -> list[Path]:
    folder = bench.once(a_staging)
    return sorted([*folder.glob("staged/**/*.parquet"), *folder.glob("quarantine/*.parquet")])


def small_files(bench: Bench) -> list[Path]:
    """What steps keep beside their state, each with a content that is read."""
    from helpers.snapshots.export_journal import write_parquet
    from helpers.snapshots.snapshot import to_table

    put = bench.put
    for file in ("undo/1/f.parquet", "rollback/replay-1/001.parquet"):
        write_parquet(put(file, ""), to_table(chunks(2)))
    sample = {"when": "2026-11-28T00:00:00+00:00", "second": 1.0, "queries": 3, "p50": 1.0}
    return [
        put("undo/1/undo.json", {"state": "done", "when": "x", "ids": {"a": ["1"]}, "files": {"a": ["f.parquet"]}}),
        put("rollback/export-1/index.json", {"collections": [{"collection": "a", "number": 1, "unreadable_ids": ["1"], "added": 0, "changed": 0}],
                                                 "files": {}}),
        put("rollback/replay-1/plan.json", {"put": {"a": "001.parquet"}, "delete": {"a": ["1"]}, "create": {"b": _info()}}),
        put("vectors/made.json", {"snapshot": "x", "function": "f"}),
        put("monitoring/samples.jsonl", json.dumps(sample) + "\n" + json.dumps({**sample, "second": 2.0}) + "\n"),
        put("performance/01.json", {"a": 1}),
        put("integration/outcomes.jsonl", '{"name": "a", "outcome": "passed"}\n'),
        put("places/x.jsonl", '["c", "id", "detail"]\n'),
        put("bench/progress.json", {"step": "22", "label": "x", "done": 1, "total": 2, "unit": "chunks", "phase": "import"}),
        put("RECORDS/child.json", {"a": 1}),
    ]  # fmt: skip


def _info() -> dict[str, Any]:
    info = asdict(plan("b"))
    return {**info, "findings": []}


def old_answers(bench: Bench) -> list[Path]:
    """What a server of API v1 answers, by path: a collection of three chunks."""
    collection = {"id": "6f9619ff-8b86-d011-b42d-00c04fc964ff", "name": "notes", "metadata": {"hnsw:space": "l2"}, "dimension": None,
                  "tenant": "default_tenant", "database": "default_database"}  # fmt: skip
    got = {"ids": ["a", "b", "c"], "embeddings": [[1.0, 2.0], [3.0, 4.0], [0.5, 0.0]], "documents": ["x", None, "z"],
           "metadatas": [{"n": 1}, None, {"t": "u"}], "uris": [None, None, None], "data": None, "included": []}  # fmt: skip
    known = {
        "heartbeat": {"nanosecond heartbeat": 1}, "version": '"0.5.0"', "tenants": {"name": "default_tenant"},
        "databases": {"id": "x", "name": "default_database", "tenant": "default_tenant"}, "collections": [collection], "notes": collection,
        "count": 3, "get": got, "query": {"ids": [["a", "b", "c"]], "distances": [[0.0, 8.0, 9.0]]},
    }  # fmt: skip
    return [bench.put(f"old-answers/{name}.json", value) for name, value in known.items()]


TABLE = "name,source,target,migration.batch_size\nshop,http://old:8000,http://new:8000,100\nwiki,old,new,\n"


def searched(bench: Bench, path: Path) -> object:
    """A folder that holds the file, searched for a secret."""
    from helpers.evidence.secret_scan import search

    return search(path.parent, [], {"env:X": "a-secret-value"}).hits


def table(bench: Bench, path: Path) -> object:
    from helpers.runner.fleet_table import read_table

    return read_table(path).rows
