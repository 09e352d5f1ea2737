"""Read one page of each collection of a copied directory with Chroma's engine alone; run as a program by `probe`.

Not the client, which takes seconds to import: its bindings, the way its own `chromadb/api/rust.py` calls them. Standard
input names the collections to let alone, a JSON list: reading one of those might be what kills the engine.
Exit codes: 0 all was read, or the engine refused to open, which the caller meets again; 3 a collection failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import chromadb_rust_bindings as engine  # type: ignore[import-untyped]

PAGE = 50
FILES = 10  # that the engine may hold open


def main(path: str, tenant: str, database: str) -> int:
    config = engine.SqliteDBConfig(
        hash_type=engine.MigrationHash.MD5,
        migration_mode=engine.MigrationMode.Apply,
        url=str(Path(path) / "chroma.sqlite3"),
    )

    def opened() -> Any:
        return engine.Bindings(allow_reset=False, sqlite_db_config=config, persist_path=path, hnsw_cache_size=FILES)

    try:
        # Opened twice. The first time upgrades an old database, and a connection of that engine that knew its tables from
        # before fails now and then, one time in eight ("ColumnNotFound", "Failed to receive response").
        opened()
        bindings = opened()
        collections = bindings.list_collections(None, None, tenant, database)
    except Exception:
        return 0
    left_out = set(json.load(sys.stdin))
    for collection in collections:
        if collection.name in left_out:
            continue
        print(json.dumps({"collection": collection.name}), flush=True)
        for include in (["documents", "metadatas"], ["embeddings"]):
            try:
                bindings.get(str(collection.id), None, None, PAGE, 0, None, include, tenant, database)
            except Exception as error:
                if "Error finding id" in str(error):  # vectors that are lost are isolated later (chroma-facts 10)
                    continue
                print(json.dumps({"collection": collection.name, "error": f"{type(error).__name__}: {error}"}))
                return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
