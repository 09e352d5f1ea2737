"""A few hundred generated inputs through every parser; and whatever decodes foreign bytes in the package is reached by them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HELPERS = ROOT / "helpers"
INPUTS = int(os.environ.get("RUNBOOK_FUZZ_INPUTS", "220"))
# What takes foreign bytes apart, by the end of the name that is called.
DECODERS = (
    "json.loads", "json.load", "json_in", "orjson.loads", "YAML", "read_yaml_mapping", "nbformat.read", "pq.ParquetFile", "read_parquet",
    "sqlite3.connect", "read_pickle", "np.frombuffer", "np.fromfile", "np.memmap", "np.load", "unpack", "parse_stream", "dotenv_values",
    "urlsplit", "b64decode", "strptime", "ast.parse", "ElementTree.fromstring", "gzip.open", "validate_python", "model_validate",
    "Snapshot.open", "csv.DictReader",
)  # fmt: skip
EXCUSED: dict[str, str] = {}


def calls(path: Path) -> dict[str, set[str]]:
    """The functions of a module that call a decoder, as `module:Class.function`, with what they call."""
    found: dict[str, set[str]] = {}
    module = ".".join(path.relative_to(HELPERS).with_suffix("").parts)

    def walk(node: ast.AST, inside: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            deeper = (*inside, child.name) if named else inside
            if isinstance(child, ast.Call) and (called := dotted(child.func)):
                ends = [name for name in DECODERS if called == name or called.endswith(f".{name}")]
                if ends:
                    found.setdefault(f"{module}:{'.'.join(inside)}", set()).update(ends)
            walk(child, deeper)

    walk(ast.parse(path.read_bytes()), ())
    return found


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def decoding() -> dict[str, set[str]]:
    return {name: called for path in sorted(HELPERS.rglob("*.py")) for name, called in calls(path).items()}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, set[str]]:
    """The campaign in a process of its own, which watches all that it opens: its code, what it printed, the functions entered."""
    entered = tmp_path_factory.mktemp("fuzz") / "entered.json"
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--jobs=1", f"--inputs={INPUTS}", f"--entered={entered}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    return (
        done.returncode,
        done.stdout + done.stderr,
        set(json.loads(entered.read_text())) if entered.exists() else set(),
    )


def test_each_input_is_accepted_or_refused_in_one_line(played: tuple[int, str, set[str]]) -> None:
    code, said, _ = played
    assert code == 0, said


def test_every_parser_of_the_package_is_fuzzed(played: tuple[int, str, set[str]]) -> None:
    entered = played[2]
    assert entered, played[1]
    missing = {name: called for name, called in decoding().items() if name not in entered and name not in EXCUSED}
    assert missing == {}, "give each a file and a reader in tests/fuzz/parsers.py, or a reason in EXCUSED"


def test_what_is_excused_is_there_and_is_not_fuzzed(played: tuple[int, str, set[str]]) -> None:
    there = decoding()
    assert [name for name in EXCUSED if name not in there] == []
    assert [name for name in EXCUSED if name in played[2]] == []
