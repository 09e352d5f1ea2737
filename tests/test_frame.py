"""What must hold for the repository as a whole: one lock, layers, small modules, no machine's paths, a true set-up page."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from importlinter.cli import lint_imports
from ruamel.yaml import YAML

from helpers.run import plan
from helpers.run.folders import RunPath
from tests.conftest import absent

MAXIMUM_LINES = 600  # of a module: fewer than this
MAXIMUM_MODULES = 160  # of helpers/
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]+\])?==(\S+)(?: ;.*?)?(?: \\)?$")


def tracked(root: Path) -> list[Path]:
    """The files that git keeps, and those that are about to be added."""
    # safe.directory: a checkout that belongs to another user is read all the same (containers)
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, cwd=root, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        absent("a git checkout", "it says which files belong to the repository")
    return [root / name for name in sorted(set(listed.split("\0"))) if name and (root / name).is_file()]


def nothing(found: Iterable[object]) -> None:
    """Fail with every finding on a line of its own."""
    if lines := [str(finding) for finding in found]:
        pytest.fail("\n".join(lines), pytrace=False)


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines: list[str]) -> dict[str, str]:
    """Direct dependencies: normalised name -> the line as written, extras and range included."""
    found = {}
    for line in lines:
        if match := re.match(r"[A-Za-z0-9._-]+", line.strip()):
            found[normal(match.group())] = line.strip()
    return found


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def direct(root: Path) -> dict[str, str]:
    return requirements((root / "requirements.in").read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, list[str]]:
    """The lock's entries: normalised name -> one block of lines for each pinned version."""
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in (root / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if match := LOCKED.match(line):
            name = normal(match.group(1))
            blocks.setdefault(name, []).append("")
        elif line and not line.startswith((" ", "#")):
            pytest.fail(f"requirements.lock has a line that pins nothing: {line}")
        if name:
            blocks[name][-1] += line + "\n"
    return blocks


# -- dependencies ------------------------------------------------------------------------------------------------------


def test_every_pin_of_the_lock_has_a_hash(locked: dict[str, list[str]]) -> None:
    assert len(locked) > 50
    nothing(name for name, blocks in locked.items() for block in blocks if "--hash=sha256:" not in block)


def test_a_name_with_extras_is_locked_without_them_too(root: Path) -> None:
    """pip before 24 takes the two for different projects, and finds no hash for the plain one (.ci/plain_names.py)."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(\[[^\]]+\])?==(\S+)", (root / "requirements.lock").read_text("utf-8"), re.M)
    plain = {(name, version) for name, extras, version in pins if not extras}
    nothing(sorted({(name, version) for name, extras, version in pins if extras} - plain))


def test_the_lock_holds_every_direct_dependency(direct: dict[str, str], locked: dict[str, list[str]]) -> None:
    nothing(sorted(set(direct) - set(locked)))


def test_package_and_lock_want_the_same_libraries(project: dict[str, Any], direct: dict[str, str]) -> None:
    wanted = requirements(project["project"]["dependencies"])
    nothing(sorted(set(wanted) - set(direct)))
    assert project["build-system"]["requires"] == [direct["setuptools"]]


def libraries(files: Iterable[Path]) -> dict[str, Path]:
    """Each foreign library that these files import, by its top-level name, with one file that does."""
    own = {"helpers", "tests", "benchmarks", "docs"} | sys.stdlib_module_names
    found: dict[str, Path] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_bytes(), path.name)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found[node.module.split(".")[0]] = path
    return {name: path for name, path in found.items() if name not in own}


def code(root: Path, *folders: str) -> list[Path]:
    """The Python files of these folders, or of the whole repository."""
    inside = [path for path in tracked(root) if path.suffix == ".py"]
    return [path for path in inside if not folders or path.relative_to(root).parts[0] in folders]


@cache
def owners() -> Mapping[str, list[str]]:
    """The distributions that bring each top-level name: the records of all that is installed are read for it."""
    return packages_distributions()


def undeclared(files: Iterable[Path], root: Path, declared: Iterable[str]) -> list[str]:
    """The imports of these files that no declared distribution brings."""
    wanted = set(declared)
    return [
        f"{path.relative_to(root)} imports {name}"
        for name, path in sorted(libraries(files).items())
        if not {normal(owner) for owner in owners().get(name, [name])} & wanted
    ]


def test_nothing_is_imported_that_is_not_a_direct_dependency(root: Path, direct: dict[str, str]) -> None:
    """What another library happens to bring along may be gone with its next version."""
    ours = [path for path in code(root) if path.relative_to(root).parts[0] != "deploy"]  # which runs inside its engine
    nothing(undeclared(ours, root, direct))


def test_the_package_declares_what_it_imports(root: Path, project: dict[str, Any]) -> None:
    nothing(undeclared(code(root, "helpers"), root, requirements(project["project"]["dependencies"])))


NOT_IMPORTED = {
    "bokeh": "draws the dashboard of Dask",
    "cryptography": "makes the certificate of a local cluster of Dask",
    "jupyterlab": "the place where notebooks are worked in",
    "s3fs": "the driver with which fsspec reaches S3",
}


def test_the_package_imports_what_it_declares(root: Path, project: dict[str, Any]) -> None:
    """A dependency that nothing imports is installed on every user's machine for nothing."""
    used = {normal(owner) for name in libraries(code(root, "helpers")) for owner in owners().get(name, [name])}
    declared = set(requirements(project["project"]["dependencies"]))
    nothing(sorted(declared - used - set(NOT_IMPORTED)))
    nothing(f"{name} is imported: no exception is needed" for name in sorted(set(NOT_IMPORTED) & used))


def test_conda_takes_python_and_pip_and_the_lock_the_rest(root: Path, project: dict[str, Any]) -> None:
    environment = YAML(typ="safe").load((root / "environment.yml").read_text(encoding="utf-8"))
    python = f"python{project['project']['requires-python']}"
    assert environment["name"] == project["project"]["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"] == [python, "pip", {"pip": ["-r requirements.lock"]}]


def test_the_lock_is_made_for_the_oldest_python_supported(root: Path, project: dict[str, Any]) -> None:
    oldest = re.search(r">=(\d+\.\d+)", project["project"]["requires-python"])
    assert oldest
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert f"--universal --generate-hashes --python-version {oldest.group(1)} " in makefile


def test_the_console_script_is_installed_and_declared(project: dict[str, Any]) -> None:
    assert project["project"]["scripts"] == {"runbook": "helpers.cli:main"}
    installed = [entry.value for entry in entry_points(group="console_scripts", name="runbook")]
    assert set(installed) == {"helpers.cli:main"}


# -- set-up -----------------------------------------------------------------------------------------------------------


def test_the_setup_page_says_what_each_direct_dependency_is_for(root: Path, direct: dict[str, str]) -> None:
    page = (root / "docs" / "setup.md").read_text(encoding="utf-8").split("\n| library |", 1)[1]
    rows = re.findall(r"^\| (`.+`) \| .+ \|$", page, re.M)
    explained = {normal(name) for names in rows for name in re.findall(r"`([^`]+)`", names)}
    nothing(sorted(set(direct) - explained))


def test_the_setup_page_names_every_make_target(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony
    page = (root / "docs" / "setup.md").read_text(encoding="utf-8")
    targets = [target for target in phony.group(1).split() if target != "help"]
    nothing(target for target in targets if f"`make {target}" not in page)


# -- files -------------------------------------------------------------------------------------------------------------


def traces(root: Path) -> re.Pattern[str]:
    """Text that only somebody's machine can have put into a file: a checkout, a home folder, a package index."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    configured = subprocess.run(pip, capture_output=True, check=False, text=True).stdout
    settings = "\n".join([configured, *(value for name, value in os.environ.items() if name.endswith("INDEX_URL"))])
    hosts = set(re.findall(r"://(?:[^/@\s]*@)?([^/\s'\"]+)/", settings)) - {"pypi.org"}
    hosts |= set(re.findall(r"file:///[^\s'\"]+", settings))
    here = {f"{root}/", f"{Path.home()}/."} | ({f"{root.parent}/"} if len(root.parts) > 2 else set())
    # what belongs to a user of the machine of the runbook itself is data: production.yaml names its files
    homes = [r"/home/(?!setup/)\w+/", r"/Users/\w+/", r"/private/(?:tmp|var)/"]
    options = [r"--(?:extra-)?index-url", r"--find-links", r"--trusted-host"]
    return re.compile("|".join([*map(re.escape, sorted(hosts | here - {"/tmp/"})), *homes, *options]))


def test_no_file_names_a_machine(root: Path) -> None:
    trace = traces(root)
    found = []
    for path in tracked(root):
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if trace.search(line.replace("--no-emit-index-url", "")):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()[:160]}")
    nothing(found)


def test_modules_are_short(root: Path) -> None:
    modules = [path for path in tracked(root) if path.suffix == ".py"]
    sizes = {path.relative_to(root): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    nothing(f"{name} has {lines} lines" for name, lines in sizes.items() if lines >= MAXIMUM_LINES)


def test_the_package_is_no_larger_than_a_person_can_walk(root: Path) -> None:
    modules = sorted((root / "helpers").rglob("*.py"))
    assert len(modules) <= MAXIMUM_MODULES, "send a small module home before adding another"


def test_a_class_name_means_one_thing(root: Path) -> None:
    """A reader who meets `Journal` in a message of mypy or a traceback knows which."""
    places = defaultdict[str, list[str]](list)
    for path in sorted((root / "helpers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(root)}:{node.lineno}")
    assert places["RunState"], "classes were looked for"
    nothing(f"{name}: {', '.join(lines)}" for name, lines in sorted(places.items()) if len(lines) > 1)


def test_every_module_says_what_it_is(root: Path) -> None:
    silent = [
        str(path.relative_to(root))
        for path in tracked(root)
        if path.suffix == ".py" and not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    nothing(silent)


# -- layers ------------------------------------------------------------------------------------------------------------


def test_imports_run_downwards_and_in_no_circle(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts are in pyproject.toml, and nowhere else."""
    if lint_imports(config_filename=str(root / "pyproject.toml"), no_cache=True, is_debug_mode=False) != 0:
        pytest.fail(capsys.readouterr().out, pytrace=False)


def test_every_notebook_has_a_module_of_its_name(root: Path) -> None:
    """`begin(globals(), "22")` in 22_migrate.ipynb gives `MigrateStep` of helpers/steps/migrate.py; nothing else is there."""
    modules = {path.stem for path in (root / "helpers" / "steps").glob("*.py")} - {"__init__"}
    notebooks = {path.stem.partition("_")[2] for path in (root / "notebooks").glob("*.ipynb")}
    assert modules == notebooks == {step.module for step in plan.Step}
    for step in plan.Step:
        tree = ast.parse((root / "helpers" / "steps" / f"{step.module}.py").read_bytes())
        assert step.class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_steps_and_files_of_a_run_are_named_in_one_place(root: Path) -> None:
    """`Step.MIGRATE`, never "22"; `RunPath.CHECKPOINT`, never its file's name: a typo in quotes is found by nothing."""
    names = {*plan.Step, *(path for path in RunPath if "." in path)}
    # plan.py and folders.py are that place; the table of reasons, below both, has the numbers of notebooks
    sources = {"plan.py", "folders.py", "reason_codes.py", "formatting.py"}
    nothing(
        f"{path.relative_to(root)}:{node.lineno}: {node.value!r}"
        for path in (root / "helpers").rglob("*.py") if path.name not in sources
        for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Constant) and node.value in names
    )  # fmt: skip


def test_the_architecture_page_lists_the_modules(root: Path) -> None:
    """Its tree of helpers/ names each package and each module, and nothing that is not there."""
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("```text\nhelpers/\n", 1)[1].split("```", 1)[0]
    listed = set(re.findall(r"^  (\w+(?:/|\.py)) ", tree, re.M))
    package = root / "helpers"
    there = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.name for path in package.glob("*.py")}
    nothing(sorted(listed ^ (there - {"__init__.py"})))


def test_what_runs_as_a_program_begins_behind_everything_that_it_needs(root: Path) -> None:
    guarded = {}
    for path in sorted((root / "helpers").rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        guards = [n for n, node in enumerate(body) if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
        if guards:
            guarded[path.name] = guards == [len(body) - 1]
    assert guarded["measure.py"], "definitions below the guard do not exist yet when it runs"
    assert all(guarded.values()), guarded
