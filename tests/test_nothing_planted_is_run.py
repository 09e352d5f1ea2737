"""Modules, settings and bytecode that somebody else put in a folder of the run, or beside the libraries, are not run."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import notify
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.storage import chunks, embedded, fill

# What Python, Jupyter, matplotlib, pytest and Chroma would read, import or run from the current folder.
PLANTED = """
    sitecustomize.py usercustomize.py pandas.py numpy.py matplotlib.py chromadb.py papermill.py iniconfig.py conftest.py setup.py
    ipython_config.py ipython_kernel_config.py jupyter_config.py jupyter_server_config.py jupyter_nbconvert_config.py
    .pdbrc .pythonrc .ipython/profile_default/startup/00.py profile_default/startup/00.py
"""


@pytest.mark.slow
def test_nothing_of_the_folder_in_which_a_run_works_is_read_or_run(tmp_path: Path) -> None:
    """The run is one of notebooks in kernels, forked and not, which draw; settings found there would break it or show."""
    night, marks = tmp_path / "night", tmp_path / "EXECUTED"
    with embedded(night / "a") as store:
        fill(store, "good", chunks(30))
    for name in PLANTED.split():
        (night / name).parent.mkdir(parents=True, exist_ok=True)
        (night / name).write_text(f"open({str(marks)!r}, 'a').write({name!r} + chr(10))\n", encoding="utf-8")
    (night / "matplotlibrc").write_bytes(b"savefig.dpi: 7\ntext.usetex: True\n# \xff\xfe no text\n")
    for name in (
        ".env",
        "pytest.ini",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
        ".coveragerc",
        ".numba_config.yaml",
        "pip.conf",
    ):
        (night / name).write_text("[pytest]\naddopts = --no-such-option\nCHROMA_SERVER_HOST=evil\n", encoding="utf-8")
    (night / "p.yaml").write_text("source: {path: a}\ntarget: {path: b}\nsignoff: {required: []}\n", encoding="utf-8")
    as_installed = {"PYTHONSAFEPATH": "1"}  # the command `runbook` has not the current folder on its path
    done = Runbook(night)("run", "p.yaml", "--run-id", "r", "--until", "11", process=True, environment=as_installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not marks.exists(), marks.read_text(encoding="utf-8")
    figures = list((night / "reports/r/figures").glob("11_*.svg"))
    assert len(figures) >= 4, "with the settings that lie there no figure can be drawn"
    assert all("<text" in path.read_text(encoding="utf-8") for path in figures), "words are words, as the style has it"


def test_a_library_in_the_working_folder_is_not_taken_by_python_m(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    for name in ("chromadb", "yaml", "argparse"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marks)!r}, 'a').write({name!r})\n", encoding="utf-8")
    given = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "helpers", "status"],
        cwd=tmp_path,
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not marks.exists(), marks.read_text()
    assert "Traceback" not in done.stderr


def foreign(package: Path) -> None:
    """A module, and beside it bytecode of another one that Python takes for its own."""
    package.mkdir()
    source = package / "planted.py"
    source.write_text("WHO = 'source'\n", encoding="utf-8")
    other = package / "other.py"
    other.write_text("WHO = 'stolen'\n", encoding="utf-8")
    os.utime(other, (source.stat().st_mtime,) * 2)
    py_compile.compile(str(other), importlib.util.cache_from_source(str(source)), doraise=True)


def test_bytecode_beside_the_sources_and_libraries_is_never_loaded(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "pycache_prefix", None)
        foreign(tmp_path / "library")
    given = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    given |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'library'}", "PYTHONDONTWRITEBYTECODE": "1"}
    child = "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', 'import planted; print(planted.WHO)']))"

    def runs(code: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
        ).stdout

    assert runs("import planted; print(planted.WHO)") == "stolen\n", "this is what Python does by itself"
    assert runs("import helpers, planted; print(planted.WHO)") == "source\n"
    assert "source" in runs(f"import helpers; {child}"), "a child, too"
    (cache,) = (tmp_path / "cache" / "chroma-migration").iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("planted*.pyc")}
    assert kept, "so that the next start compiles nothing, also where the environment forbids to write bytecode"
    runs(f"import helpers; {child}")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("planted*.pyc")} == kept
    cache.chmod(0o777)
    elsewhere = runs("import helpers, sys; print(sys.pycache_prefix)").strip()
    assert elsewhere != str(cache), "a folder in which others can write is none of ours"
    assert not Path(elsewhere).exists(), "and its replacement is gone with the process"


PREFIX = "import helpers, sys; print(sys.pycache_prefix)"


@pytest.mark.parametrize("open_", ["the home", "a folder above a link", "what the environment names", "every place"])
def test_no_bytecode_is_kept_below_a_folder_that_others_can_exchange(tmp_path: Path, open_: str) -> None:
    """Who can write to a folder above the cache can put another one in its place, whoever the cache belongs to."""
    world, home, temporary = tmp_path / "world", tmp_path / "home", tmp_path / "tmp"
    for folder in (world, home, temporary):
        folder.mkdir(mode=0o700)
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    if open_ == "a folder above a link":
        (world / "cache").mkdir(mode=0o700)
        (home / ".cache").symlink_to(world / "cache")
    elif open_ == "what the environment names":
        (world / "prefix").mkdir(mode=0o700)
        given["PYTHONPYCACHEPREFIX"] = str(world / "prefix")
    else:
        given["HOME"] = str(world)
    if open_ == "every place":
        given["TMPDIR"] = str(world)

    def prefix() -> Path:
        asked = [sys.executable, "-c", PREFIX]
        return Path(subprocess.run(asked, env=given, capture_output=True, text=True, check=True).stdout.strip())

    assert prefix().is_relative_to(world) or open_ == "a folder above a link", "while nobody else can write there"
    world.chmod(0o777)
    expected = home if open_ == "what the environment names" else temporary
    found = prefix()
    assert found == Path(os.devnull) if open_ == "every place" else found.is_relative_to(expected)
    world.chmod(0o1777)
    assert prefix() != found, "in a folder such as /tmp, each keeps what is theirs"


def test_the_process_that_sends_notices_has_the_same_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is isolated from the environment, so the cache is named to it."""
    asked: list[list[str]] = []

    def start(command: list[str], **_: Any) -> None:
        asked.append(command)
        raise OSError("not here")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="not here"):
        notify._answers("{}", 1)
    assert sys.pycache_prefix
    assert f"pycache_prefix={sys.pycache_prefix}" in asked[0]
