"""The first opening of a copied directory, in a process of its own: an engine that crashes there takes nothing with it.

`probe(copy)` starts `engine_page.py`, which lists the collections and reads a page of each. What it prints last says
where it was when it died.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from helpers.errors import Terminal, one_line

_SECONDS = 600


def probe(copy: Path, tenant: str, database: str, where: str, left_out: Collection[str] = ()) -> None:
    """Nothing where the engine opens the copy and reads from each collection but those left out; else one `Terminal`."""
    # -P: the script's own folder, whose modules have common names, stays off the path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("engine_page.py")), str(copy), tenant, database]
    try:
        done = subprocess.run(
            command, input=json.dumps(sorted(left_out)), capture_output=True, text=True, timeout=_SECONDS, check=False,
            env={**os.environ, "RUST_BACKTRACE": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _unreadable(f"Chroma's engine did not finish a first page in {_SECONDS} s", where) from error
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    last: dict[str, Any] = lines[-1] if lines else {}
    if done.returncode == 0:
        return
    name = str(last.get("collection", ""))
    at = f"collection {name}" if name else "the directory"
    if "error" in last:
        raise _unreadable(f"Chroma's engine cannot read {at}: {last['error']}", where, name)
    died = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    said = next((line for line in done.stderr.splitlines() if line.strip()), "")
    raise _unreadable(f"Chroma's engine crashed ({died}) on {at}{f': {said}' if said else ''}", where, name)


def _unreadable(what: str, where: str, collection: str = "") -> Terminal:
    ways = ["Restore the folder from a backup", "migrate from the server that wrote it"]
    if collection:
        ways.append(f"leave this collection out (--set 'collections.exclude={json.dumps([collection])}')")
    return Terminal(
        "source_engine_failed", one_line(what)[:500], where=where,
        next_step=f"{', '.join(ways[:-1])}, or {ways[-1]}.",
    )  # fmt: skip
