"""Every code that a check or a failure at run time can give, found in the source of the package by `ast`.

A code is what stands as `reason=` of a check, as the sixth thing said to `Check`, as "reason" in a dictionary, as the
first thing said to an error, or as a key of a table named REASONS. Where that is no text but a name, what the name can
be is followed: constants, assignments, loops, defaults and call sites. A `*` stands for what is known only at run time.
Wrong parameters (`UsageError`) and human gates are left out: they explain themselves.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ERRORS = {"WorldError", "Transient", "Throttled", "Terminal", "QuotaExceeded", "NoGo"}
CODE = re.compile(r"[a-z][a-z0-9_*]*")
_DEPTH = 8
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class _Source:
    """The package read once: constants by module and name, modules by what a file calls them, calls by name."""

    constants: dict[Path, dict[str, list[ast.expr]]] = field(default_factory=lambda: defaultdict(dict))
    modules: dict[Path, dict[str, Path]] = field(default_factory=lambda: defaultdict(dict))
    calls: dict[str, list[tuple[ast.Call, Function | None, Path]]] = field(default_factory=lambda: defaultdict(list))
    within: dict[ast.AST, Function | None] = field(default_factory=dict)


def codes(package: Path) -> dict[str, str]:
    """code → the first place that gives it, `module.py:line`. Raises AssertionError where a code cannot be followed."""
    source = _Source()
    modules: dict[Path, ast.Module] = {}
    for path in sorted(package.rglob("*.py")):
        modules[path] = tree = ast.parse(path.read_text(encoding="utf-8"), path.name)
        _take_in(source, tree, None, path)
        source.modules[path] = dict(_imported(tree, package))
        for statement in tree.body:
            for name, value in _assigned(statement):
                source.constants[path].setdefault(name, []).append(value)
    found: dict[str, str] = {}
    for path, tree in modules.items():
        for node in ast.walk(tree):
            for expression in _given(node):
                place = f"{path.relative_to(package.parent)}:{expression.lineno}"
                for code in _values(source, expression, source.within.get(node), path, 0, place):
                    code = code.replace("<field>", "*")
                    if CODE.fullmatch(code):
                        found.setdefault(code, place)
    return found


def _given(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in a node that say a code."""
    if isinstance(node, ast.Call):
        name = _called(node)
        if name in ERRORS and node.args:
            yield node.args[0]
        if name == "Check" and len(node.args) > 5:
            yield node.args[5]
        if name in {"_error", "failure_table"} and node.args:
            yield node.args[0]
        yield from (k.value for k in node.keywords if k.arg == "reason")
    elif isinstance(node, ast.Dict):
        pairs = [(k.value, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
        yield from (value for key, value in pairs if key in {"reason", "code"})
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for name, value in _assigned(node):
            if name == "REASONS" and isinstance(value, ast.Dict):
                yield from (key for key in value.keys if key is not None)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from _put_into_reason(target, node.value)


def _put_into_reason(target: ast.expr, value: ast.expr | None) -> Iterator[ast.expr]:
    """`check.reason = …`, alone or in a tuple."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, its in zip(target.elts, value.elts, strict=True):
            yield from _put_into_reason(one, its)
    elif isinstance(target, ast.Attribute) and target.attr == "reason" and value is not None:
        yield value


def _values(
    source: _Source, node: ast.expr | None, inside: Function | None, path: Path, depth: int, place: str
) -> Iterator[str]:
    """Every text that the expression can be."""

    def follow(expression: ast.expr | None) -> Iterator[str]:
        return _values(source, expression, inside, path, depth + 1, place)

    assert depth < 4 * _DEPTH, f"{place}: this code cannot be followed"
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.IfExp() | ast.BoolOp() | ast.Tuple() | ast.List() | ast.Dict():
            yield from itertools.chain.from_iterable(map(follow, _parts(node)))
        case ast.JoinedStr():
            parts = [follow(v.value if isinstance(v, ast.FormattedValue) else v) for v in node.values]
            yield from map("".join, itertools.product(*(list(p) or ["*"] for p in parts)))
        case ast.BinOp():
            yield from follow(ast.JoinedStr([node.left, node.right]))
        case ast.Call() if _called(node) == "next":
            yield from itertools.chain.from_iterable(map(follow, node.args))
        case ast.GeneratorExp():
            yield from follow(node.generators[0].iter if isinstance(node.elt, ast.Name) else node.elt)
        case ast.Attribute(value=ast.Name(id=module)) if module in source.modules[path]:
            other = source.modules[path][module]
            for value in source.constants[other].get(node.attr, ()):
                yield from _values(source, value, None, other, depth + 1, place)
        case ast.Name():
            yield from _named(source, node.id, inside, path, depth, place)


def _parts(node: ast.expr) -> list[ast.expr | None]:
    """The expressions of which this one is one; the keys of a dictionary."""
    match node:
        case ast.IfExp():
            return [node.body, node.orelse]
        case ast.BoolOp():
            return [*node.values]
        case ast.Dict():
            return [*node.keys]
        case ast.Tuple() | ast.List():
            return [*node.elts]
    return []


def _named(source: _Source, name: str, inside: Function | None, path: Path, depth: int, place: str) -> Iterator[str]:
    """What a name can be: set in the function, looped over, given by those who call it, or a constant of a module."""
    found = False
    for node in ast.walk(inside) if inside is not None else ():
        for target, value in _bound(node):
            if target == name:
                found = True
                yield from _values(source, value, inside, path, depth + 1, place)
    if found:
        return
    if inside is not None and name in (arguments := [a.arg for a in inside.args.posonlyargs + inside.args.args]):
        position = arguments.index(name) - (arguments[0] in {"self", "cls"})
        yield from _from_callers(source, inside.name, name, position, path, depth, place)
    elif inside is not None and name in {a.arg for a in inside.args.kwonlyargs}:
        yield from _from_callers(source, inside.name, name, None, path, depth, place)
    else:
        for value in source.constants[path].get(name, ()):
            yield from _values(source, value, None, path, depth + 1, place)


def _from_callers(
    source: _Source, function: str, name: str, position: int | None, path: Path, depth: int, place: str
) -> Iterator[str]:
    private = function.startswith("_")
    for call, caller, where in source.calls[function]:
        if private and where.parent != path.parent:  # another module's helper of the same name
            continue
        if position is not None and position < len(call.args):
            yield from _values(source, call.args[position], caller, where, depth + 4, place)
        for keyword in call.keywords:
            if keyword.arg == name:
                yield from _values(source, keyword.value, caller, where, depth + 4, place)


def _bound(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(name, what it is set to or loops over) of one node; the right column where a loop takes rows apart."""
    yield from _assigned(node)
    if isinstance(node, ast.For | ast.comprehension):
        yield from _looped(node.target, node.iter)


def _looped(target: ast.expr, rows: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, rows
    if isinstance(target, ast.Tuple) and isinstance(rows, ast.Tuple | ast.List):
        for row in rows.elts:
            if isinstance(row, ast.Tuple):
                for one, value in zip(target.elts, row.elts, strict=False):
                    if isinstance(one, ast.Name):
                        yield one.id, value
    elif isinstance(target, ast.Tuple) and isinstance(rows, ast.Call) and isinstance(rows.func, ast.Attribute):
        first = target.elts[0]
        if rows.func.attr == "items" and isinstance(rows.func.value, ast.Name) and isinstance(first, ast.Name):
            yield first.id, rows.func.value


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            for row in (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,):
                if isinstance(target, ast.Tuple) and isinstance(row, ast.Tuple):
                    names = zip(target.elts, row.elts, strict=False)
                    yield from ((one.id, value) for one, value in names if isinstance(one, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


def _imported(tree: ast.Module, package: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of every module of the package that a file imports as a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                file = package.parent.joinpath(*node.module.split("."), f"{alias.name}.py")
                if file.is_file():
                    yield alias.asname or alias.name, file


def _take_in(source: _Source, node: ast.AST, inside: Function | None, path: Path) -> None:
    source.within[node] = inside
    if isinstance(node, ast.Call):
        source.calls[_called(node)].append((node, inside, path))
    here = node if isinstance(node, Function) else inside
    for child in ast.iter_child_nodes(node):
        _take_in(source, child, here, path)


def _called(node: ast.Call) -> str:
    function = node.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
