"""DuckDB and polars read an export without this toolkit, each in an environment that lacks it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from helpers.snapshots.backup import export
from helpers.snapshots.snapshot import write_snapshot
from tests.compat.environments import NoEnvironment, environment
from tests.conftest import absent
from tests.storage import chunks, embedded, fill

pytestmark = pytest.mark.slow

# Each prints: rows, ids, documents, one field of the metadata, and the float32 numbers of all vectors as hexadecimal text.
DUCKDB = """
import sys, json, struct, duckdb
parquet, lines = sys.argv[1:]
for table in (f"'{parquet}'", f"read_json('{lines}')"):
    rows = duckdb.sql(f"select id, document, metadata->>'$.lang', embedding from {table}").fetchall()
    numbers = [n for row in rows for n in row[3]]
    print(json.dumps([len(rows), *map(list, list(zip(*rows))[:3]), struct.pack(f"<{len(numbers)}f", *numbers).hex()]))
"""
POLARS = """
import sys, json, struct, polars
parquet, lines = sys.argv[1:]
for frame, whole in ((polars.read_parquet(parquet), False), (polars.read_ndjson(lines), True)):
    said = frame["metadata"].to_list()
    langs = [(row or {}).get("lang") for row in (said if whole else [json.loads(row) if row else None for row in said])]
    numbers = [n for row in frame["embedding"].to_list() for n in row]
    held = struct.pack(f"<{len(numbers)}f", *numbers).hex()
    print(json.dumps([frame.height, frame["id"].to_list(), frame["document"].to_list(), langs, held]))
"""


@pytest.mark.parametrize("program", [DUCKDB, POLARS], ids=["duckdb", "polars"])
def test_an_export_is_read_by(program: str, tmp_path: Path) -> None:
    try:
        python = environment("readers")
    except NoEnvironment as error:
        absent("an environment with DuckDB and polars", str(error))
    batch = chunks(300, 16)
    batch.metadatas = [{"lang": ("de", "tr", "日本")[n % 3]} if n % 7 else None for n in range(300)]
    batch.documents[5], batch.documents[6] = None, ""
    files = {}
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", batch)
        snapshot = write_snapshot(store, tmp_path / "snapshots", "s", ["notes"], retention_days=7)
    [wanted] = snapshot.batches("notes")
    for form in ("parquet", "jsonl"):
        export(snapshot, tmp_path / form, form, ["notes"])
        [entry] = json.loads((tmp_path / form / "export.json").read_text(encoding="utf-8"))["collections"]
        files[form] = tmp_path / form / entry["file"]
    done = subprocess.run([python, "-c", program, *files.values()], capture_output=True, text=True, check=True)
    langs = [(metadata or {}).get("lang") for metadata in wanted.metadatas]
    held = wanted.embeddings.astype("<f4").tobytes().hex()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[300, wanted.ids, wanted.documents, langs, held]] * 2
