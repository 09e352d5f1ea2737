"""Read one page of each collection of a copied directory with Chroma's engine; a program, started by `opening.try_opening`.

It uses the client's bindings as `chromadb/api/rust.py` does, without the client, which takes seconds to import. Standard input is
a JSON object: "left_out": collections not to read, since one of them may crash the engine; "without_vectors": those whose vectors
the engine does not give; "touched": ids, by collection, that the rest of the log changes. Their vectors must all be readable:
counts and a first page look healthy while a replay is stuck.
Exit codes: 0 all was read, or the engine refused to open, which the caller meets again; 3 a collection failed.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import chromadb_rust_bindings as engine  # type: ignore[import-untyped]

PAGE, IDS = 50, 500
CACHED_INDEXES = 10  # requested size of the engine's cache; it keeps 64 in any case (measured)
FILES_OF_AN_INDEX = 4


def main(path: str, tenant: str, database: str, parent: str) -> int:
    if sys.platform == "linux":  # an engine that hangs on a damaged file ends with its parent process
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; this program imports nothing of `helpers`
        if str(os.getppid()) != parent:
            return 0
    config = engine.SqliteDBConfig(
        hash_type=engine.MigrationHash.MD5,
        migration_mode=engine.MigrationMode.Apply,
        url=str(Path(path) / "chroma.sqlite3"),
    )

    def opened() -> Any:
        return engine.Bindings(
            allow_reset=False, sqlite_db_config=config, persist_path=path, hnsw_cache_size=CACHED_INDEXES
        )

    try:
        # Opened twice. The first opening upgrades an old database, and a connection of that engine that knows the former tables
        # fails in one of eight cases ("ColumnNotFound", "Failed to receive response").
        opened()
        bindings = opened()
        collections = bindings.list_collections(None, None, tenant, database)
    except Exception:
        return 0
    request = json.load(sys.stdin)
    portion = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 40) // (2 * FILES_OF_AN_INDEX))
    for number, collection in enumerate(collections, 1):
        if collection.name in request["left_out"]:
            continue
        if number % portion == 0:  # reopening closes the files of the indexes that were read
            bindings = None
            bindings = opened()
        print(json.dumps({"collection": collection.name}), flush=True)
        with_vectors = collection.name not in request["without_vectors"]
        touched = request["touched"].get(collection.name, []) if with_vectors else []
        try:
            for include in (["documents", "metadatas"], ["embeddings"])[: 1 + with_vectors]:
                read(bindings, collection, None, PAGE, include, tenant, database)
            for start in range(0, len(touched), IDS):
                ids = touched[start : start + IDS]
                if not read(bindings, collection, ids, None, ["embeddings"], tenant, database):
                    raise RuntimeError("vectors that its log gives cannot be found")
        except Exception as error:
            print(json.dumps({"collection": collection.name, "error": f"{type(error).__name__}: {error}"}))
            return 3
    return 0


def read(bindings: Any, collection: Any, ids: Any, limit: Any, include: list[str], tenant: str, database: str) -> bool:
    """Return whether all could be read; lost vectors are isolated later (chroma-facts 10)."""
    try:
        bindings.get(str(collection.id), ids, None, limit, 0, None, include, tenant, database)
    except Exception as error:
        if "Error finding id" in str(error):
            return False
        raise
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
