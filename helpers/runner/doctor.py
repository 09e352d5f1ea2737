"""`runbook doctor PATH|URL`: a database of unknown health, looked at without changing a byte of it."""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import UsageError, WorldError, one_line
from helpers.words import count

if TYPE_CHECKING:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores.diagnosis import Diagnosis

WIDTH = 100
MOST_PROBLEMS, MOST_COLLECTIONS = 8, 12  # what one screen holds
_MARK = {"lost": "LOST", "damaged": "DAMAGED", "note": "note"}


def declare(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    command.add_argument("place", metavar="PATH|URL", help="a Chroma directory, or a server")
    command.add_argument("--tenant", default="", metavar="NAME", help="tenant to examine")
    command.add_argument("--database", default="", metavar="NAME", help="database of the tenant to examine")
    command.add_argument(
        "--header", action="append", default=[], metavar="NAME=env:VAR", help="an HTTP header by reference; repeatable"
    )
    command.add_argument("--full", action="store_true", help="read every chunk, however long it takes")
    command.add_argument("--json", action="store_true", help="print all findings as JSON")


def doctor(chosen: argparse.Namespace) -> int:
    """0 where the database is sound, 1 where it is damaged or cannot be used. A directory is copied into TMPDIR, and the
    copy is looked at.
    """
    endpoint = _endpoint(chosen)
    try:
        found = _examine(endpoint, chosen.full)
    except WorldError as error:
        print(json.dumps(_unusable(error), indent=2) if chosen.json else _failure(endpoint, error))
        return 1
    print(json.dumps(found.document(), indent=2, ensure_ascii=False) if chosen.json else screen(endpoint, found))
    return 0 if found.verdict == "sound" else 1


def _endpoint(chosen: argparse.Namespace) -> Endpoint:
    from helpers.parameters import parameters_from

    given: dict[str, Any] = {name: getattr(chosen, name) for name in ("tenant", "database") if getattr(chosen, name)}
    given["url" if "://" in chosen.place else "path"] = chosen.place
    headers = dict(header.partition("=")[::2] for header in chosen.header)
    if not all(headers.values()):
        raise UsageError(
            "usage", "--header wants NAME=env:VARIABLE or NAME=file:PATH", next_step="See: runbook doctor --help"
        )
    if headers:
        given["headers"] = headers
    # The target is not used; it only completes the parameters, which check the source as they do for a run.
    return parameters_from({"source": given, "target": {"path": "doctor-needs-no-target"}}).source


def _examine(endpoint: Endpoint, full: bool) -> Diagnosis:
    from tqdm import tqdm

    from helpers.stores import open_source
    from helpers.stores.diagnosis import examine

    with (
        tempfile.TemporaryDirectory(prefix="runbook-doctor-") as scratch,
        open_source(endpoint, Path(scratch)) as store,
    ):
        names = store.names()
        with tqdm(desc="Reading", unit=" chunks", leave=False, disable=None, delay=1) as bar:
            return examine(store, endpoint, names, full=full, progress=_Bar(bar.update))


class _Bar:
    """Progress on a bar."""

    def __init__(self, update: Callable[[int], object]) -> None:
        self._update = update

    def advance(self, n: int = 1) -> None:
        self._update(n)


def screen(endpoint: Endpoint, found: Diagnosis) -> str:
    """What it is, what is wrong, what can be saved, what to do next: one screen."""
    lines = [found.headline, "", "What it is"]
    lines += [_labelled(name, text) for name, text in found.facts.items()]
    lines += ["", "What is wrong", *_problems(found), "", "What can be saved", *_collections(found)]
    if found.sampled:
        names = ", ".join(one_line(name, 40) for name in found.sampled[:3]) + (
            " and others" if len(found.sampled) > 3 else ""
        )
        lines += [f"  Not every chunk was read (a sample of {names}); --full reads all."]
    return "\n".join([*lines, "", "Next", *_next(endpoint, found)])


def _labelled(name: str, text: str) -> str:
    return textwrap.fill(one_line(text, 300), WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12)


def _problems(found: Diagnosis) -> list[str]:
    if not found.problems:
        return ["  Nothing was found."]
    lines = []
    grouped = found.grouped()
    for problem in grouped[:MOST_PROBLEMS]:
        where = f"{one_line(problem.where, 160)}: " if problem.where else ""
        end = "" if problem.what.endswith(".") or not problem.meaning else "."
        text = f"{where}{one_line(problem.what, 300)}{end} {problem.meaning}".rstrip()
        lines.append(
            textwrap.fill(text, WIDTH, initial_indent=f"  {_MARK[problem.severity]:<9}", subsequent_indent=" " * 11)
        )
    more = len(grouped) - MOST_PROBLEMS
    return lines + ([f"  and {more} more: --json lists all"] if more > 0 else [])


def _collections(found: Diagnosis) -> list[str]:
    from helpers.runner.terminal import table

    rows = found.table().drop(columns=[] if found.sampled else ["read"])
    if rows.empty:
        return ["  There is no collection in it."]
    shown = rows.head(MOST_COLLECTIONS).astype(object).where(rows.head(MOST_COLLECTIONS).notna(), "?")
    cells = [
        {str(k): f"{v:,}" if isinstance(v, int) else v for k, v in row.items()} for row in shown.to_dict("records")
    ]
    lines = [f"  {line}" for line in table(cells).splitlines()]
    more = len(rows) - MOST_COLLECTIONS
    return lines + ([f"  and {count(more, 'collection')} more: --json lists all"] if more > 0 else [])


def _next(endpoint: Endpoint, found: Diagnosis) -> list[str]:
    """The parameters file and the command, literally."""
    from helpers.stores.creation import refused_name

    unreadable = [c.name for c in found.collections if c.unreadable]
    refused = [c.name for c in found.collections if refused_name(c.name)]
    if found.collections and len(unreadable) == len(found.collections):
        return ["  Nothing can be read. Take the last backup and run this command on it."]
    source: dict[str, Any] = {"url": endpoint.url} if endpoint.url else {"path": endpoint.path}
    usual = type(endpoint)(path="any")
    source |= {
        key: getattr(endpoint, key) for key in ("tenant", "database") if getattr(endpoint, key) != getattr(usual, key)
    }
    if endpoint.headers:
        source["headers"] = {name: str(reference) for name, reference in endpoint.headers.items()}
    lines = ["  Sound. To migrate it, write parameters.yaml:" if found.verdict == "sound"
             else "  Save what can be saved: migrate it into a new database. Write parameters.yaml:",
             "    name: migration", f"    source: {_yaml(source)}", "    target: {path: chroma-new}",
             "    schema: identity"]  # fmt: skip
    if unreadable or refused:
        hint = "   # or keep them: a schema file gives them other names" if refused else ""
        lines.append(f"    collections: {_yaml({'exclude': sorted({*unreadable, *refused})})}{hint}")
    if rules := _rules(found):
        lines.append(f"    migration: {_yaml(rules)}")
    if any(c.lost for c in found.collections):
        lines.append("  (Is there a backup from before the damage? Run this command on it first: it may hold more.)")
    lines += ["  then look at what would arrive, with nothing written to the target:",
              "    runbook run parameters.yaml --until 13"]  # fmt: skip
    return lines


def _rules(found: Diagnosis) -> dict[str, Any]:
    """What the migration has to be told, so that the command below does not stop at what is known already."""
    rules: dict[str, Any] = {}
    if any(c.normalised for c in found.collections):
        rules["normalised"] = "migrate"
    if found.minimum_valid < _USUAL_MINIMUM:
        rules["minimum_valid"] = found.minimum_valid
    return rules


_USUAL_MINIMUM = 0.95  # of migration.minimum_valid, below which step 13 stops


def _yaml(value: Any) -> str:
    """A flow mapping, its texts quoted as JSON, which YAML reads too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _failure(endpoint: Endpoint, error: WorldError) -> str:
    head = ["What it is", _labelled("place", endpoint.label), "", "What is wrong"]
    wrong = textwrap.fill(one_line(f"{error.where}: {error.what}" if error.where else error.what), WIDTH,
                          initial_indent="  UNUSABLE ", subsequent_indent=" " * 11)  # fmt: skip
    following = error.next_step or "Take the last backup and run this command on it."
    return "\n".join([*head, wrong, "", "Next", textwrap.fill(one_line(following), WIDTH, initial_indent="  ",
                                                             subsequent_indent="  ")])  # fmt: skip


def _unusable(error: WorldError) -> dict[str, Any]:
    return {
        "verdict": "unusable",
        "code": error.code,
        "where": error.where,
        "what": error.what,
        "next": error.next_step,
    }
