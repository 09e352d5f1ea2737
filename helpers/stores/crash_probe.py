"""The first opening of a copied directory, in a process of its own: an engine that crashes there takes nothing with it.

`try_opening(copy)` starts `engine_page.py`, which lists the collections and reads a page of each, and every vector that
the rest of the log touches. What it prints last says where it was when it died, or hung.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import Terminal, one_line
from helpers.reason_codes import ReasonCode

_SECONDS = 300.0  # for a first page of everything
_RECORDS_A_SECOND = 100  # that an engine may take in while it opens, at the least


@dataclass(frozen=True, slots=True)
class Failure:
    """What the engine did, and on which collection; "" where it was the directory as a whole."""

    what: str
    collection: str

    def error(self, where: str) -> Terminal:
        ways = ["Restore the folder from a backup", "migrate from the server that wrote it"]
        if self.collection:
            ways.append(f"leave this collection out (--set 'collections.exclude={json.dumps([self.collection])}')")
        return Terminal(
            ReasonCode.SOURCE_ENGINE_FAILED, one_line(self.what)[:500], where=where,
            next_step=f"{', '.join(ways[:-1])}, or {ways[-1]}.",
        )  # fmt: skip


def try_opening(
    copy: Path,
    tenant: str,
    database: str,
    left_out: Collection[str] = (),
    without_vectors: Collection[str] = (),
    touched: Mapping[str, Collection[str]] | None = None,
) -> Failure | None:
    """None where the engine opens the copy and reads from each collection but those left out.

    Of those `without_vectors` it reads texts only. `touched` are ids, by collection, whose vectors must all be there.
    """
    asked = {"left_out": sorted(left_out), "without_vectors": sorted(without_vectors)}
    touched = {name: sorted(ids) for name, ids in (touched or {}).items()}
    seconds = _SECONDS + sum(map(len, touched.values())) / _RECORDS_A_SECOND
    # -P: the script's own folder, whose modules have common names, stays off the path.
    command = [sys.executable, "-P", str(Path(__file__).with_name("engine_page.py")), str(copy), tenant, database]
    try:
        done = subprocess.run(
            command, input=json.dumps({**asked, "touched": touched}), capture_output=True, text=True, timeout=seconds,
            check=False, env={**_environment(), "RUST_BACKTRACE": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        told = error.stdout.decode("utf-8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        name = str(_last(told).get("collection", ""))
        return Failure(f"Chroma's engine did not finish on {_at(name)} in {seconds:,.0f} s", name)
    if done.returncode == 0:
        return None
    last = _last(done.stdout)
    name = str(last.get("collection", ""))
    if "error" in last:
        return Failure(f"Chroma's engine cannot read {_at(name)}: {last['error']}", name)
    died = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    said = next((line for line in done.stderr.splitlines() if line.strip()), "")
    return Failure(f"Chroma's engine crashed ({died}) on {_at(name)}{f': {said}' if said else ''}", name)


def _environment() -> dict[str, str]:
    """What an interpreter needs to start; the process reads files that others made, and no other variable is its business."""
    needed = ("PATH", "HOME", "TMPDIR", "LANG", "TZ")
    return {k: v for k, v in os.environ.items() if k in needed or k.startswith(("LC_", "PYTHON", "LD_", "DYLD_"))}


def _last(told: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in told.splitlines():
        if line.startswith("{") and line.endswith("}"):
            found = json.loads(line)
    return found


def _at(name: str) -> str:
    return f"collection {name}" if name else "the directory"
