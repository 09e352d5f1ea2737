"""`runbook doctor PATH|URL`: examine a database of unknown health without changing it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import RUNBOOK, EnvironmentFailure, UsageError, one_line
from helpers.formatting import bare, count
from helpers.reason_codes import ReasonCode

if TYPE_CHECKING:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores.diagnosis import Diagnosis

WIDTH = 100
MOST_PROBLEMS, MOST_COLLECTIONS = 8, 12  # what one screen holds
_MARK = {"attack": "ATTACK", "lost": "LOST", "damaged": "DAMAGED", "warning": "WARNING", "note": "note"}


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
    """0 where the database is sound, 1 where it is damaged or cannot be used. Of a directory, a copy in TMPDIR is examined."""
    endpoint = endpoint_of(chosen)
    try:
        diagnosis = _examine(endpoint, chosen.full)
    except EnvironmentFailure as error:
        print(json.dumps(_unusable(endpoint, error), indent=2) if chosen.json else _failure(endpoint, error))
        return 1
    print(json.dumps(diagnosis.document(), indent=2) if chosen.json else screen(endpoint, diagnosis))
    return 0 if diagnosis.verdict == "sound" else 1


def endpoint_of(chosen: argparse.Namespace) -> Endpoint:
    """The endpoint that a command line names, with its headers, tenant and database, checked as a source."""
    from helpers.parameters import parameters_from

    given: dict[str, Any] = {name: getattr(chosen, name) for name in ("tenant", "database") if getattr(chosen, name)}
    # Absolute, so that what is printed holds in any folder. A path that is no path is refused with the other parameters.
    given["url" if "://" in chosen.place else "path"] = (
        chosen.place
        if "://" in chosen.place or not chosen.place.strip()
        else os.path.abspath(os.path.expanduser(chosen.place))  # noqa: PTH100, PTH111 - links are kept
    )
    headers = dict(header.partition("=")[::2] for header in chosen.header)
    if not all(headers.values()):
        raise UsageError(
            ReasonCode.USAGE,
            "--header wants NAME=env:VARIABLE or NAME=file:PATH",
            next_step="Name where the value is, never the value itself.",
        )
    if headers:
        given["headers"] = headers
    # The target is not used; it only completes the parameters, which check the source as they do for a run.
    return parameters_from({"source": given, "target": {"path": "doctor-needs-no-target"}}).source


def destination_of(chosen: argparse.Namespace) -> Endpoint:
    """The destination of a restore (`--into`) as an endpoint of the parameters, with all their rules."""
    from pydantic import ValidationError

    from helpers.parameters.endpoint import Endpoint

    headers = {}
    for header in chosen.header:
        name, separator, reference = header.partition("=")
        if not separator or name in headers:
            raise UsageError(ReasonCode.USAGE, "--header takes NAME=env:VAR or NAME=file:PATH, each NAME once")
        headers[name] = reference
    place = {"url" if "://" in chosen.into else "path": chosen.into}
    try:
        return Endpoint.model_validate(
            {**place, "tenant": chosen.tenant, "database": chosen.database, "headers": headers}
        )
    except ValidationError as error:  # its own text can repeat what was given; the messages are ours and do not
        problem = error.errors(include_input=False, include_url=False)[0]
        option = {"headers": "--header", "tenant": "--tenant", "database": "--database"}
        where = option.get(str(problem["loc"][0]) if problem["loc"] else "", "--into")
        raise UsageError(ReasonCode.USAGE, f"{where} {problem['msg'].removeprefix('Value error, ')}") from None


def _examine(endpoint: Endpoint, full: bool) -> Diagnosis:
    from tqdm import tqdm

    from helpers.migration.target_lock import require_apart
    from helpers.stores import open_source
    from helpers.stores.diagnosis import examine

    require_apart(endpoint)
    with (
        tempfile.TemporaryDirectory(prefix="runbook-doctor-") as scratch,
        open_source(endpoint, Path(scratch)) as store,
    ):
        names = store.names()
        with tqdm(desc="Reading", unit=" chunks", leave=False, file=bare(sys.stderr), disable=None, delay=1) as bar:
            return examine(store, endpoint, names, full=full, progress=ProgressBar(bar.update))


class ProgressBar:
    """Progress on a bar."""

    def __init__(self, update: Callable[[int], object]) -> None:
        self._update = update

    def advance(self, n: int = 1) -> None:
        self._update(n)


def screen(endpoint: Endpoint, diagnosis: Diagnosis) -> str:
    """One screen: what the database is, what is wrong, what can be saved, what to do next."""
    lines = [diagnosis.headline, "", "What it is"]
    lines += [_labelled(name, text) for name, text in diagnosis.facts.items()]
    lines += ["", "What is wrong", *_problems(diagnosis), "", "What can be saved", *_collections(diagnosis)]
    if diagnosis.sampled:
        names = ", ".join(one_line(name, 40) for name in diagnosis.sampled[:3]) + (
            " and others" if len(diagnosis.sampled) > 3 else ""
        )
        lines += [f"  Not every chunk was read (a sample of {names}); --full reads all."]
    return "\n".join([*lines, "", "Next", *_next(endpoint, diagnosis)])


def _labelled(name: str, text: str) -> str:
    return textwrap.fill(one_line(text, 300), WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12)


def _problems(diagnosis: Diagnosis) -> list[str]:
    if not diagnosis.problems:
        return ["  Nothing was found."]
    lines = []
    grouped = diagnosis.grouped()
    for problem in grouped[:MOST_PROBLEMS]:
        where = f"{one_line(problem.where, 160)}: " if problem.where else ""
        end = "" if problem.what.endswith(".") or not problem.meaning else "."
        text = f"{where}{one_line(problem.what, 300)}{end} {problem.meaning}".rstrip()
        lines.append(
            textwrap.fill(text, WIDTH, initial_indent=f"  {_MARK[problem.severity]:<9}", subsequent_indent=" " * 11)
        )
    more = len(grouped) - MOST_PROBLEMS
    return lines + ([f"  and {more} more: --json lists all"] if more > 0 else [])


def _collections(diagnosis: Diagnosis) -> list[str]:
    from helpers.status import table

    rows = diagnosis.table().drop(columns=[] if diagnosis.sampled else ["read"])
    if rows.empty:
        return ["  There is no collection in it."]
    shown = rows.head(MOST_COLLECTIONS).astype(object).where(rows.head(MOST_COLLECTIONS).notna(), "?")
    cells = [
        {str(k): f"{v:,}" if isinstance(v, int) else v for k, v in row.items()} for row in shown.to_dict("records")
    ]
    lines = [f"  {line}" for line in table(cells).splitlines()]
    more = len(rows) - MOST_COLLECTIONS
    return lines + ([f"  and {count(more, 'collection')} more: --json lists all"] if more > 0 else [])


def _next(endpoint: Endpoint, diagnosis: Diagnosis) -> list[str]:
    """What to do first, then the parameters file and the commands to copy."""
    unreadable = [c.name for c in diagnosis.collections if c.unreadable]
    if diagnosis.collections and len(unreadable) == len(diagnosis.collections):
        return ["  Nothing can be read. Look for a backup: run doctor on it.", *_unchanged(endpoint)]
    if diagnosis.unexplained:
        names = _wrapped(f"Do not migrate it: step 10 would stop at {_names(diagnosis.unexplained)}.")
        return [*names, *_unchanged(endpoint), "  Look for a backup from before the damage: run doctor on it.",
                "  Then find the cause: docs/troubleshooting.md; --json lists all."]  # fmt: skip
    sound, until = diagnosis.verdict == "sound", f"{RUNBOOK} run parameters.yaml --run-id"
    run_id = "first" if sound else "save"
    return [*_first(endpoint, diagnosis), *_parameters(endpoint, diagnosis, unreadable),
            "  then look at what would arrive, with nothing written to the target:",
            f"    {until} {run_id} --until 13",
            "  then migrate it:" if sound else "  then save it:",
            f"    {RUNBOOK} resume {run_id} --until 23"]  # fmt: skip


def _first(endpoint: Endpoint, diagnosis: Diagnosis) -> list[str]:
    """What to know before the parameters file is written."""
    if diagnosis.verdict == "sound":
        return ["  Sound. To migrate it, write parameters.yaml:"]
    losing = diagnosis.unlisted or any(c.lost or c.normalised or c.unreadable for c in diagnosis.collections)
    backup = []
    if losing and diagnosis.minimum_valid < _HALF:
        backup = ["  Look for a backup first: run doctor on it, it may hold more."]
    elif losing:
        backup = ["  Is there a backup from before the damage? Run doctor on it: it may hold more."]
    sentence = "Save what can be saved: migrate it" if losing else "No chunk and no vector is lost. Migrate it"
    return [*backup, *_unchanged(endpoint), f"  {sentence} into a new database. Write parameters.yaml:"]


def _unchanged(endpoint: Endpoint) -> list[str]:
    what = "keep a file copy" + (" of its volume" if endpoint.url else "")
    return [f"  The original is unchanged and still damaged: stop the application, {what}."]


def _parameters(endpoint: Endpoint, diagnosis: Diagnosis, unreadable: list[str]) -> list[str]:
    """The parameters file, with what people have to decide as comments."""
    from helpers.stores.creation import refused_name

    refused = [c.name for c in diagnosis.collections if refused_name(c.name)]
    source: dict[str, Any] = {"url": endpoint.url} if endpoint.url else {"path": endpoint.path}
    default = type(endpoint)(path="any")
    source |= {
        key: getattr(endpoint, key) for key in ("tenant", "database") if getattr(endpoint, key) != getattr(default, key)
    }
    if endpoint.headers:
        source["headers"] = {name: str(reference) for name, reference in endpoint.headers.items()}
    lines = ["name: migration", f"source: {_yaml(source)}", "target: {path: chroma-new}", "schema: identity"]
    left_out = {*unreadable, *refused}
    if left_out:
        hint = "   # or keep them: a schema file gives them other names" if refused else ""
        lines.append(f"collections: {_yaml({'exclude': [_pattern(name) for name in sorted(left_out)]})}{hint}")
    rules: dict[str, Any] = {}
    if diagnosis.minimum_valid < _USUAL_MINIMUM:
        rules["minimum_valid"] = diagnosis.minimum_valid
    if dropped := [_pattern(c.name) for c in diagnosis.collections if c.not_local and c.name not in left_out]:
        rules["drop_indexes"] = dropped
    if rules:
        lines.append(f"migration: {_yaml(rules)}")
    where = "add {} under migration" if rules else "add a line migration: {{{}}}"
    if normalised := sum(c.normalised for c in diagnosis.collections):
        keep = f"to keep {count(normalised, 'vector')} without their length"
        lines.append(f"# decision: {where.format('normalised: migrate')} {keep}")
    if lost := sum(c.lost for c in diagnosis.collections if c.texts):
        lines.append(
            f"# decision: {where.format('reembed: own')} to make {count(lost, 'lost vector')} anew from documents"
        )
    return [f"    {line}" for line in lines]


def _names(names: list[str]) -> str:
    return ", ".join(one_line(name, 40) for name in names[:3]) + (" and others" if len(names) > 3 else "")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


_USUAL_MINIMUM = 0.95  # of migration.minimum_valid, below which step 13 stops
_HALF = 0.5


def _pattern(name: str) -> str:
    """The pattern of a collection's name, whatever characters an older Chroma took; `?` for what no pattern can hold."""
    ends = (0, len(name) - 1)
    return "".join(
        "?" if not c.isprintable() or (c == " " and i in ends) else f"[{c}]" if c in "*?[" else c
        for i, c in enumerate(name)
    )


def _yaml(value: Any) -> str:
    """A flow mapping, its texts quoted as JSON, which YAML reads too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")  # no 1e-05
    return json.dumps(value, ensure_ascii=False)


def _failure(endpoint: Endpoint, error: EnvironmentFailure) -> str:
    facts = _unusable(endpoint, error)
    lines = [f"Unusable: {facts['what'].rstrip('.')}.", "", "What it is", _labelled("place", endpoint.label), "",
            "What is wrong"]  # fmt: skip
    problem = textwrap.fill(one_line(f"{facts['where']}: {facts['what']}" if facts["where"] else facts["what"]), WIDTH,
                          initial_indent="  UNUSABLE ", subsequent_indent=" " * 11)  # fmt: skip
    next_step = facts["next"] or "Look for a backup: run doctor on it."
    return "\n".join([*lines, problem, "", "Next", *_wrapped(one_line(next_step))])


# Parameters of a run, in the words of this command's arguments.
_ASKED = {
    "source.path": "the path", "source.url": "the URL", "source.tenant": "--tenant", "source.database": "--database",
    "source.headers": "--header",
}  # fmt: skip


def _unusable(endpoint: Endpoint, error: EnvironmentFailure) -> dict[str, str]:
    return {
        "verdict": "unusable",
        "code": error.code,
        "where": _in_arguments(endpoint, re.sub(r"^source(\.\w+)? ", "", error.where)),
        "what": _in_arguments(endpoint, error.what),
        "next": _in_arguments(endpoint, error.next_step),
    }


def _in_arguments(endpoint: Endpoint, text: str) -> str:
    """The text of an error about a source, in terms of this command's arguments: the given path and the options."""
    text = re.sub(r"\S*/source-copy-[0-9a-f]{8}", lambda _: endpoint.path or "", text)
    return re.sub("|".join(map(re.escape, _ASKED)), lambda match: _ASKED[match[0]], text)
