"""The named writes: every function of the toolkit that puts something on disk, by the name of its module and itself.

`named_writes` reads them off the code, `name_of` off the stack of a process that is about to write. The name of a write is
the innermost function that is no primitive (those of `helpers/results.py`, every `save`, `write_parquet`), such as
`fence.__init__:FenceState.enter`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from types import FrameType

from tests.conftest import ROOT

HELPERS = ROOT / "helpers"
_PRIMITIVES = "helpers/results.py"
_CALLS = {"write_text", "write_bytes", "write_json", "writing", "publish"}  # a function, or a method of Path
_MOVES = {"rename", "replace"}  # of Path and os: one argument, or two of `os`
_PASSED_ON = {
    "save",
    "write_result",
    "write_parquet",
}  # of StateFile, Checkpoint, a figure, a result: who calls them writes
_RESULTS = {"said", "result"}  # whose `write` is StepResult's


def named_writes() -> set[str]:
    """The names of all, sorted out of the code."""
    found: set[str] = set()
    for file in sorted(HELPERS.rglob("*.py")):
        if not str(file).endswith(_PRIMITIVES):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            module = ".".join(file.relative_to(HELPERS).with_suffix("").parts)
            functions = [(name, node) for name, node in _functions(tree, "") if name.split(".")[-1] not in _PASSED_ON]
            found |= {f"{module}:{name}" for name, node in functions if any(map(_writes, ast.walk(node)))}
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Functions and methods by qualified name; what is nested in one belongs to it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.With | ast.Try):
            yield from _functions(child, prefix)


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        return function.id in {*_CALLS, *_PASSED_ON, "append"} or (function.id == "open" and _opens_to_write(node, 1))
    if not isinstance(function, ast.Attribute):
        return False
    name, of = function.attr, function.value
    of_os = isinstance(of, ast.Name) and of.id == "os"
    if name == "open":
        return _opens_to_write(node, 1 if of_os else 0)
    if name == "fdopen":
        return True
    if name in _MOVES:
        return len(node.args) == (2 if of_os else 1) and not node.keywords
    if name == "write":
        return isinstance(of, ast.Name) and of.id in _RESULTS
    return name in _CALLS | _PASSED_ON


def _opens_to_write(node: ast.Call, at: int) -> bool:
    given = [*node.args[at : at + 1], *(k.value for k in node.keywords if k.arg == "mode")]
    if any(isinstance(g, ast.Constant) and isinstance(g.value, str) and set(g.value) & set("wax+") for g in given):
        return True
    return any(isinstance(n, ast.Attribute) and n.attr in ("O_WRONLY", "O_RDWR") for g in given for n in ast.walk(g))


@cache
def _module(filename: str) -> str | None:
    if not filename.startswith(f"{HELPERS}/") or filename.endswith(_PRIMITIVES):
        return None
    return filename.removeprefix(f"{HELPERS}/").removesuffix(".py").replace("/", ".")


def name_of(frame: FrameType | None) -> str | None:
    """The name of the write that this frame does; None where none of ours is on the stack."""
    while frame is not None:
        name = frame.f_code.co_name
        if name not in _PASSED_ON and (module := _module(frame.f_code.co_filename)) is not None:
            return f"{module}:{frame.f_code.co_qualname.split('.<locals>')[0]}"
        frame = frame.f_back
    return None
