"""`make docs`: write the pages and the JSON Schema that are generated from the code.

docs/cli.md comes from argparse; docs/parameters.md and parameters/parameters.schema.json come from the pydantic model of
the parameters, parameters/schemas/schema.schema.json from that of a schema file. `GENERATED` gives the text of each file;
tests/test_docs.py compares them, so a file that no longer fits the code fails `make test`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from helpers import cli
from helpers.parameters import RESUMABLE, Parameters, json_schema
from helpers.schema.file import schema_document

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = ("--reports", "--verbose", "--help")
_UNITS = {
    "seconds": "s", "minutes": "min", "days": "days", "gb": "GB", "ms": "ms", "per_second": "1/s", "chunks": "chunks",
    "batch_size": "chunks", "tolerance": "chunks", "unlisted": "chunks", "total": "chunks", "rounds": "rounds",
    "minimum_imported": "chunks", "k": "hits", "overquery": "hits", "maximum_distance": "cosine distance",
    "batch": "documents",
}  # fmt: skip
"""Unit by the end of a key's name; the whole words of the longest match decide."""

_CLI_HEAD = """\
# Command reference

<!-- Generated from the command line by `make docs`. Edit helpers/cli/, not this page. -->

`.venv/bin/runbook` is the command; `python -m helpers` is the same. STEP is the number of a step (`23`), its name
(`validate`) or both (`23_validate`); [steps.md](steps.md) lists them. `[…]` marks what may be left out, `…` what may be
repeated.

Every command takes `--reports DIR` (the folder of the runs; default: the variable `RUNBOOK_REPORTS`, else `reports/` beside
the package), `--verbose` (show tracebacks on standard error) and `--help`. The variable `RUNBOOK_WORKSPACE` moves `workspace/`.
"""

_CLI_CODES = """\
## Exit codes

| exit code | meaning |
|---|---|
| 0 | done; GO if a decision was due |
| 1 | failed: source, target or disk cannot be used; another run holds the lock, or a backup is incomplete |
| 2 | the command or its parameters are wrong; nothing was started |
| 3 | NO-GO, also if the run was rolled back automatically |
| 4 | waiting for signatures |
| 130 | interrupted; the current batch was finished, and the command to continue was printed |

An error is one line on standard error: what happened, where, and what to do next. The traceback is in
`reports/<run id>/run.log`; its path is printed at the start of a run.
"""

_PARAMETERS_HEAD = """\
# Parameters reference

<!-- Generated from the model of the parameters by `make docs`. Edit helpers/parameters/, not this page. -->

A parameters file is YAML. Every section but `source` and `target` may be left out, and every key has a default unless the
table says *required*. An unknown key is refused with the nearest known name. `runbook schema PARAMETERS.yaml` checks a file
and shows it with every default; nothing runs.

- `parameters/production.yaml` holds every section, each value with a comment. Copy it.
- `parameters/rehearsal.yaml` is what `make rehearse` uses.
- `parameters/parameters.schema.json` describes every key to editors.
- `--set migration.batch_size=200` changes a value on the command line.
- A secret is never written into a file. Name a variable (`env:NAME`) or a file (`file:PATH`) that holds it.
- Relative paths start at the folder in which the command runs.
- *Resume* marks the keys that `runbook resume RUN_ID --set …` may change. Any other change needs a new run.

"""


# -- the command line --------------------------------------------------------------------------------------------------


def commands(
    parser: argparse.ArgumentParser | None = None, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, such as `resume` and `snapshots list`, with its parser."""
    parser = parser or cli.parser()
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in groups:
        for word, below in group.choices.items():
            yield from commands(below, f"{name} {word}".strip())
    if not groups:
        yield name, parser


def cli_page() -> str:
    """docs/cli.md."""
    found = list(commands())
    rows = [f"| [`{name}`](#{anchor(f'runbook {name}')}) | {_first_sentence(p.description)} |" for name, p in found]
    overview = "\n".join(["| command | what it does |", "|---|---|", *rows])
    parts = [_CLI_HEAD, overview + "\n", *(_command(name, parser) for name, parser in found), _CLI_CODES]
    return "\n".join(parts)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = "".join(c for c in heading.strip().lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _first_sentence(text: str | None) -> str:
    return (text or "").split(". ")[0].rstrip(".")


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    own = [a for a in parser._actions if not set(a.option_strings) & set(EVERYWHERE)]
    usage = " ".join([f"runbook {name}", *(_usage(a) for a in sorted(own, key=lambda a: bool(a.option_strings)))])
    lines = [f"## runbook {name}", "", "```text", usage, "```", "", _cell(parser.description or "")]
    if own:
        lines += ["", "| argument | meaning | default |", "|---|---|---|"]
        lines += [f"| `{_cell(_written(a))}` | {_help(parser, a)} | {_cell(_default(a))} |" for a in own]
    return "\n".join(lines) + "\n"


def _written(action: argparse.Action) -> str:
    """`--run-id ID`, `--decision go|no-go`, `RUN_ID`."""
    value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return value
    option = max(action.option_strings, key=len)
    return option if action.nargs == 0 else f"{option} {value}"


def _usage(action: argparse.Action) -> str:
    repeated = " …" if isinstance(action, argparse._AppendAction) else ""
    needed = action.required if action.option_strings else action.nargs != "?"
    return f"{_written(action)}{repeated}" if needed else f"[{_written(action)}{repeated}]"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return _cell(parser._get_formatter()._expand_help(action)) if action.help else ""


def _default(action: argparse.Action) -> str:
    needed = action.required if action.option_strings else action.nargs != "?"
    if needed:
        return "required"
    return f"`{action.default}`" if action.default and action.nargs != 0 else ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


# -- the parameters ----------------------------------------------------------------------------------------------------


def parameters_page() -> str:
    """docs/parameters.md."""
    schema = json_schema()
    rows: list[str] = []
    parts: list[tuple[type[BaseModel], str]] = []
    for name, field in Parameters.model_fields.items():
        key = field.alias or name
        kind = _model(field.annotation)
        keys = ", ".join(f"`{k}`" for k in kind.model_fields) if kind else ""
        text = schema["properties"][key].get("description") or (kind.__doc__ if kind else "") or ""
        rows.append(f"| `{key}` | {keys} | {_cell(_first_sentence(text))} |")
        if kind and kind.__name__ not in {k.__name__ for k, _ in parts}:
            used = [f.alias or n for n, f in Parameters.model_fields.items() if _model(f.annotation) is kind]
            parts.append((kind, _section(kind, used, schema)))
    overview = "\n".join(["| section | keys | what it sets |", "|---|---|---|", *rows])
    plain = _table(
        Parameters, [n for n, f in Parameters.model_fields.items() if _model(f.annotation) is None], schema, ""
    )
    top = f"## Top level\n\n{plain}\n"
    return "\n".join([_PARAMETERS_HEAD + overview + "\n", top, *(text for _, text in parts)])


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, also `Section | None` and `list[Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model(part) for part in getattr(annotation, "__args__", ()))
    return next((kind for kind in found if kind is not None), None)


def _section(kind: type[BaseModel], names: list[str], schema: dict[str, Any], below: str = "") -> str:
    """The heading, sentence and table of a section, and after it those of the sections inside it."""
    mark = "###" if below else "##"
    title = ", ".join(f"`{below}{name}`" for name in names)
    text = " ".join((kind.__doc__ or "").split())
    prefixes = [f"{below}{name}." for name in names]
    parts = [f"{mark} {title}\n\n{text}\n\n{_table(kind, list(kind.model_fields), schema, *prefixes)}\n"]
    for name, field in kind.model_fields.items():
        inner = _model(field.annotation)
        if inner is not None:
            listed = "[]" if "list[" in str(field.annotation) else ".NAME" if "dict[" in str(field.annotation) else ""
            parts.append(_section(inner, [f"{name}{listed}"], schema, prefixes[0]))
    return "\n".join(parts)


def _table(kind: type[BaseModel], names: list[str], schema: dict[str, Any], *prefixes: str) -> str:
    properties = schema if kind is Parameters else schema["$defs"][kind.__name__]
    lines = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for name in names:
        field = kind.model_fields[name]
        key = field.alias or name
        resumable = all(f"{prefix}{key}" in RESUMABLE for prefix in prefixes)
        text = " ".join(properties["properties"][key].get("description", "").split()) + (
            " *Resume.*" if resumable else ""
        )
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        cells = [f"`{key}`", _type(properties["properties"][key], schema), default, unit(key), text]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def unit(key: str) -> str:
    """The unit of a key's value by its name; "" where it has none."""
    fitting = [end for end in _UNITS if key == end or key.endswith(f"_{end}")]
    return _UNITS[max(fitting, key=len)] if fitting else ""


def _value(value: Any) -> str:
    """A default as YAML writes it; a section's own defaults stand in its table."""
    if value is None or isinstance(value, BaseModel):
        return "–"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(found: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type of a key in words, from its JSON Schema."""
    if "$ref" in found:
        return "section"
    if "anyOf" in found:
        return " or ".join(_type(part, schema) for part in found["anyOf"] if part.get("type") != "null")
    if "enum" in found:
        return ", ".join(f"`{value}`" for value in found["enum"])
    if "const" in found:
        return f"`{found['const']}`"
    kind = found.get("type")
    if kind == "array":
        return f"list of {_plural(_type(found['items'], schema))}"
    if kind == "object":
        values = found.get("additionalProperties") or next(iter(found["patternProperties"].values()))
        if values is True:
            return "mapping of names to values"
        return f"mapping of names to {_plural(_type(values, schema)) if len(values) == 1 or 'type' in values else 'values'}"
    if kind in ("integer", "number"):
        return _number(found, "whole number" if kind == "integer" else "number")
    if found.get("format") == "date-time":
        return "time with zone"
    return {"boolean": "true or false", "string": "text"}.get(str(kind), str(kind))


def _plural(text: str) -> str:
    simple = {"text": "texts", "section": "sections", "list of texts": "commands (lists of texts)"}
    return simple.get(text, text.replace("number", "numbers", 1))


def _number(found: dict[str, Any], word: str) -> str:
    if "exclusiveMinimum" in found:
        return f"{word} above {found['exclusiveMinimum']:g}"
    if "maximum" in found:
        return f"{word} from {found['minimum']:g} to {found['maximum']:g}"
    return f"{word}, {found['minimum']:g} or more" if "minimum" in found else word


def schema_file() -> str:
    """parameters/parameters.schema.json, for editors."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def rules_file() -> str:
    """parameters/schemas/schema.schema.json, for editors."""
    return json.dumps(schema_document(), indent=2, ensure_ascii=False) + "\n"


GENERATED = {
    "docs/cli.md": cli_page,
    "docs/parameters.md": parameters_page,
    "parameters/parameters.schema.json": schema_file,
    "parameters/schemas/schema.schema.json": rules_file,
}


def main() -> None:
    """Write every generated file."""
    for name, text in GENERATED.items():
        (ROOT / name).write_text(text(), encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
