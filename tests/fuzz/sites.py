"""Where the package takes foreign bytes apart, found in its source, and which of these places were reached."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

HELPERS = Path(__file__).resolve().parents[2] / "helpers"
DECODERS = (  # the ends of the names that are called; what reads through one of our own readers is behind its guard
    "json.loads", "json.load", "json_in", "orjson.loads", "YAML", "nbformat.read", "pq.ParquetFile",
    "sqlite3.connect", "np.frombuffer", "np.fromfile", "np.memmap", "np.load", "unpack", "parse_stream", "dotenv_values",
    "urlsplit", "b64decode", "strptime", "ast.parse", "ElementTree.fromstring", "gzip.open", "validate_python", "model_validate",
    "csv.reader",
)  # fmt: skip
entered: set[str] = set()


def decoding(tree: ast.AST, module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a module that call a decoder, as `module:Class.function`; a nested one counts as its outermost."""
    found: dict[str, ast.FunctionDef] = {}

    def walk(node: ast.AST, inside: tuple[str, ...], function: ast.FunctionDef | None) -> None:
        for child in ast.iter_child_nodes(node):
            within, names = function, inside
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and function is None:
                names = (*inside, child.name)
                within = child if isinstance(child, ast.FunctionDef) else None
            if isinstance(child, ast.Call) and function is not None and _decodes(ast.unparse(child.func)):
                found[f"{module}:{'.'.join(inside)}"] = function
            walk(child, names, within)

    walk(tree, (), None)
    return found


def _decodes(called: str) -> bool:
    return any(called == name or called.endswith(f".{name}") for name in DECODERS)


def all_of_them() -> set[str]:
    """Every such function of the package."""
    return {name for path in HELPERS.rglob("*.py") for name in decoding(ast.parse(path.read_bytes()), _module(path))}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(HELPERS).with_suffix("").parts)


class _Noting(SourceFileLoader):
    """Loads a module of the package so that each of these functions notes that it was entered."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(Path(self.path).read_bytes(), self.path)
        for name, function in decoding(tree, _module(Path(self.path))).items():
            note = ast.parse(f"__import__('sys').modules['tests.fuzz.sites'].entered.add({name!r})").body
            function.body[0:0] = note  # a docstring is then none, which nothing here reads
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Finder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("helpers.") or path is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Noting(spec.loader.name, spec.loader.path)
        return spec


def watch() -> None:
    """From now on modules of the package note what is entered. Raises where one is loaded already."""
    assert not [name for name in sys.modules if name.startswith("helpers.")], "too late"
    sys.meta_path.insert(0, _Finder())
