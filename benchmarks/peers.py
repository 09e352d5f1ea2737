"""Other tools that take a Chroma server's chunks to another: each in an environment of its own, made by pip, versions pinned.

`.bench/` at the repository's root keeps the environments (ignored by git). One that cannot be made or started here is NOT
EXERCISED, with the reason; it is tried again the next time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparing import differences
from benchmarks.ground import Ground
from benchmarks.ways import ROOT

HOME = ROOT / ".bench"
INSTALL_SECONDS = 900
TIMES, LEAST_SECONDS = 30.0, 120.0  # a peer may take so many times what the naive script took, but not less than this
Commands = Callable[[Path, str, str, Path, Sequence[str]], list[list[str]]]


@dataclass(frozen=True)
class Peer:
    """`pins`: what is installed, in this order, each as pip's arguments. `commands`: of one migration, in their order."""

    name: str
    python: tuple[str, ...]  # the first of these that is here
    pins: tuple[tuple[str, ...], ...]
    starts: tuple[str, ...]  # arguments of its Python that must end with 0
    commands: Commands
    says: str = ""  # what of it is run, where that is not its whole command
    environment: dict[str, str] = field(default_factory=dict)


def _cdp(bin_: Path, source: str, target: str, folder: Path, names: Sequence[str]) -> list[list[str]]:
    """One file for each collection: out, then in."""
    found = []
    for name in names:
        file = str(folder / f"{name}.jsonl")
        found.append([str(bin_ / "cdp"), "export", source, "--collection", name, "--out", file])
        found.append(
            [str(bin_ / "cdp"), "import", target, "--collection", name, "--in", file, "--create", "--df", "l2"]
        )
    return found


# What its two commands call once their options are read. The commands themselves import the drivers of twenty databases first.
_VDF_OUT = """
import json, sys
from vdf_io.export_vdf.chroma_export import ExportChroma
ExportChroma.export_vdb(json.loads(sys.argv[1]))
"""
_VDF_IN = """
import glob, json, os, sys
from vdf_io.import_vdf.chroma_import import ImportChroma
ImportChroma.import_vdb({**json.loads(sys.argv[1]), "dir": glob.glob("vdf_*")[0], "cwd": os.getcwd()})
"""


def _vdf(bin_: Path, source: str, target: str, folder: Path, names: Sequence[str]) -> list[list[str]]:
    """All collections in one folder of Parquet files: out, then in."""
    python = str(bin_ / "python")
    common = {"library_version": "0.1.248", "batch_size": 1000, "model_name": "NOT_PROVIDED", "max_file_size": 1024}
    out = common | {"host_port": source.removeprefix("http://"), "collections": ",".join(names)}
    back = common | {"host_port": target.removeprefix("http://")}
    return [[python, "-c", _VDF_OUT, json.dumps(out)], [python, "-c", _VDF_IN, json.dumps(back)]]


def _chromie(bin_: Path, source: str, target: str, folder: Path, names: Sequence[str]) -> list[list[str]]:
    """One file for each collection: out, then in, vectors included. (Its `cp` leaves them out and embeds anew.)"""
    fields = ["--fields", "meta", "doc", "embedding"]
    found = []
    for name in names:
        old, new = (
            url.replace("http://127.0.0.1", "server://localhost") + f"/default_tenant/default_database/{name}"
            for url in (source, target)
        )
        file = str(folder / f"{name}.json")
        found.append([str(bin_ / "chromie"), "exp", old, file, *fields])
        found.append([str(bin_ / "chromie"), "imp", file, new, *fields])
    return found


# Their own requirements do not resolve any more, or bring the libraries of a GPU: pinned is what their way through Chroma needs.
PEERS = (
    Peer(
        "chromadb-data-pipes", ("python3.11",),
        (("chromadb-data-pipes==0.0.12", "datasets==2.21.0", "pyarrow==20.0.0", "numpy==1.26.4", "click==8.1.8", "jinja2==3.1.6",
          "langchain==0.2.17", "langchain-community==0.2.19"),),
        ("-c", "from chroma_dp.main import app"), _cdp,
    ),
    Peer(
        "vdf-io", ("python3.11",),
        (("--no-deps", "vdf-io==0.1.248"),
         ("chromadb==1.5.9", "pandas==2.2.3", "pyarrow==20.0.0", "qdrant-client==1.15.1", "halo==0.0.31", "pillow==12.0.0")),
        ("-c", "import vdf_io.export_vdf.chroma_export, vdf_io.import_vdf.chroma_import"), _vdf,
        says="its exporter and importer of Chroma, called by their classes", environment={"DISABLE_TELEMETRY_VECTORIO": "1"},
    ),
    Peer(
        "chromie-tool", ("python3.12", "python3.13"),
        (("--no-deps", "chromie-tool==0.7.0"),
         ("chromadb==1.5.9", "aiofiles==24.1.0", "antlr4-python3-runtime==4.13.2", "httpx==0.28.1", "jsonschema==4.25.1",
          "python-dotenv==1.1.1")),
        ("-c", "import chromie.app, chromie.cmds.cp"), _chromie,
    ),
)  # fmt: skip


class NoPeer(Exception):
    """A peer cannot be had here; the text says why, in one line."""


def environment(peer: Peer) -> Path:
    """The folder of its programs; made where it is not there yet, or has other pins. Raises `NoPeer`."""
    home = HOME / peer.name
    python, ready = home / "bin" / "python", home / "ready"
    wanted = "\n".join(" ".join(pin) for pin in peer.pins)
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return home / "bin"
    shutil.rmtree(home, ignore_errors=True)
    HOME.mkdir(exist_ok=True)
    log = HOME / f"{peer.name}.install.log"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    commands = [[_python(peer), "-m", "venv", str(home)], *([*pip, *pin] for pin in peer.pins)]
    commands.append([str(python), *peer.starts])
    with log.open("wb") as said:
        for command in commands:
            try:
                subprocess.run(
                    command, check=True, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=INSTALL_SECONDS,
                    env={**os.environ, **peer.environment},
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                lines = [line for line in log.read_text(errors="replace").splitlines() if "error" in line.lower()]
                what = "was not installed" if "pip" in command else "does not start"
                raise NoPeer(f"{what}: {(lines or [type(error).__name__])[-1].strip()[:200]}") from error
    ready.write_text(wanted, encoding="utf-8")
    return home / "bin"


def _python(peer: Peer) -> str:
    """The first of the wanted Pythons that starts, this one included. Raises `NoPeer`."""
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for name in peer.python:
        kept = [str(path) for path in sorted(pyenv.glob(f"{name.removeprefix('python')}.*/bin/python"))]
        for candidate in ([sys.executable] if name == ours else []) + [shutil.which(name) or "", *kept]:
            if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
                return candidate
    raise NoPeer(f"it needs {' or '.join(peer.python)}, and none is here")


def exercise(peer: Peer, ground: Ground, naive_seconds: float) -> dict[str, Any]:
    """One migration by this peer into an empty server: its exit codes, seconds, and what it lost, chunk by chunk."""
    programs = environment(peer)
    limit = max(LEAST_SECONDS, TIMES * naive_seconds)
    codes: list[int | str] = []
    said = ""
    with ground.target() as (url, folder):
        begun = time.perf_counter()
        with (folder / "output.txt").open("wb") as output:
            for command in peer.commands(programs, ground.server.url, url, folder, list(ground.batches)):
                left = limit - (time.perf_counter() - begun)
                try:
                    done = subprocess.run(
                        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                        timeout=max(1.0, left), env={**os.environ, **peer.environment},
                    )  # fmt: skip
                except subprocess.TimeoutExpired:
                    codes.append("stopped")
                    said = f"stopped after {limit:.0f} s"
                    break
                codes.append(done.returncode)
        seconds = time.perf_counter() - begun
        lines = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        if any(codes) and not said:
            ends = [line.strip()[:160] for line in reversed(lines) if line.strip()]
            said = next((line for line in ends if "Error" in line), "".join(ends[:1]))
        lost = dict(differences(ground.batches, url))
    return {
        "name": peer.name, "pins": [" ".join(pin) for pin in peer.pins], "says": peer.says, "seconds": seconds,
        "ratio": seconds / naive_seconds, "exit_codes": sorted(set(codes), key=str), "lost": lost, "said": said,
    }  # fmt: skip
