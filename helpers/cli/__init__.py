"""The `runbook` command: its arguments. An error is one line on standard error and an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from helpers.cli import doctor, evidence, fleet, run, snapshots
from helpers.errors import RunbookError, UsageError, one_line
from helpers.formatting import lines, visible
from helpers.reason_codes import ReasonCode
from helpers.results import shortage
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunPath

if TYPE_CHECKING:
    from helpers.parameters import Parameters
    from helpers.schema import Schema

Action = Callable[[argparse.Namespace], int]

_EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 NO-GO, 4 waiting for sign-offs, 130 interrupted."


class _Parser(argparse.ArgumentParser):
    """Wrong usage as our one line instead of a screen of usage."""

    expand: Callable[[list[str]], list[str]] | None = None  # a short command line in its full form

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(self.expand(list(args)) if self.expand else args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(ReasonCode.USAGE, one_line(message), next_step=f"See: {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The command line; docs/cli.md is generated from it."""
    top = _Parser(prog="runbook", description="Take a Chroma database through a migration.", epilog=_EXIT_CODES)
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    rehearse = _command(
        commands, "rehearse", run.rehearse, "run the whole runbook on a sample source that it creates itself",
        "It kills step 22 in the middle of its import and resumes it, signs with throw-away keys, then drills the restore of its "
        "snapshot and the rollback of the run. It touches nothing outside reports/ and workspace/.",
    )  # fmt: skip
    rehearse.add_argument(
        "--chunks", type=run.positive, default=9832, metavar="N", help="chunks in the sample source, 50 or more"
    )
    rehearse.add_argument(
        "--dimension", type=run.positive, default=1536, metavar="D", help="dimension of its vectors, 24 or more"
    )
    rehearse.add_argument(
        "--servers",
        action="store_true",
        help="migrate between two real servers that it starts, with nginx and a client that keeps writing",
    )
    rehearse.add_argument("--run-id", default="", metavar="ID", help="id of the run; generated if not given")

    start = _command(
        commands, "run", run.run, "run the steps of a migration in order",
        "It stops at the first gate that fails or that waits for signatures. --from works on an existing run with its "
        "earlier results, and needs no parameters file.",
    )  # fmt: skip
    start.add_argument(
        "parameters",
        nargs="?",
        type=Path,
        metavar="PARAMETERS.yaml",
        help="the parameters file; not needed with --from",
    )
    start.add_argument("--run-id", default="", metavar="ID", help="id of the run; generated if not given")
    start.add_argument("--fleet", default="", metavar="NAME", help="the fleet whose row this is; recorded in run.json")
    start.add_argument(
        "--from", dest="first", default="", metavar="STEP", help="run again from this step (number or name)"
    )
    start.add_argument("--until", default="", metavar="STEP", help="stop after this step")
    start.add_argument(
        "--dry-run",
        action="store_true",
        help="stop after step 14; nothing is written to the target and no notice is sent",
    )
    run.settings_option(start)
    run.outside_window_option(start)

    resume = _command(
        commands, "resume", run.resume, "continue a run from the first step that has not passed",
        "Use it after a gate, a failure, an interruption or a kill. --set may change only the keys that "
        "docs/parameters.md marks as resumable: batch size, workers, time-outs, who may sign, what was attested of the "
        "target's disk, the window, contacts, notices, and what follows the cutover. Anything else needs a new run.",
    )  # fmt: skip
    resume.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    resume.add_argument(
        "--checkpoint",
        default="",
        metavar="ID",
        help="continue only if this is the run's checkpoint; notebook 30 shows its id",
    )
    resume.add_argument("--until", default="", metavar="STEP", help="stop after this step")
    resume.add_argument(
        "--retry", default="", metavar="STEP", help="undo what the run made from this step on, then run it again"
    )
    run.settings_option(resume)
    run.outside_window_option(resume)

    status = _command(
        commands, "status", _status, "show the state of all runs, or of one run",
        "For one run: what is due, the time left in the window, the last safe moment to roll back, whom to call, the "
        "write fence, and until when its snapshot is kept.",
    )  # fmt: skip
    status.set_defaults(judges=True)
    status.add_argument("run_id", nargs="?", default="", metavar="RUN_ID", help="id of the run; all runs if left out")

    evidence.declare(lambda *arguments: _command(commands, *arguments))

    fence = _command(commands, "fence", _fence, "show whether the write fence of a run is active, or lift it")
    fence.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    fence.add_argument("--lift", action="store_true", help="allow writes again and prove it, without a rollback")

    back = _command(
        commands, "rollback", _rollback, "roll back a run: source, configuration, fence, then the target",
        "It says first what it will do. It stops for a decision where the source is damaged, and where clients have "
        "written to the target. After a kill the same command continues. See docs/rollback.md.",
    )  # fmt: skip
    back.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    run.rollback_options(back)

    doctor.declare(
        _command(
            commands,
            "doctor",
            doctor.doctor,
            "examine a database of unknown health; nothing is changed",
            "It says what the database is, what is wrong, what can be saved, and the next command. The exit code is 1 if "
            "the database is damaged or cannot be used.",
        )
    )

    schema = _command(
        commands, "schema", _schema, "show the parameters, resolved and checked, without running anything",
        "The schema file is checked too. The exit code is 2 while a placeholder <…> is left. With --explain one chunk of the "
        "source is shown before and after the schema, rule by rule; nothing is changed.",
    )  # fmt: skip
    schema.add_argument("--explain", metavar="CHUNK_ID", help="show what the schema makes of this chunk of the source")
    schema.add_argument(
        "--collection", metavar="NAME", default="", help="with --explain: the collection that holds the chunk"
    )
    schema.add_argument("parameters", type=Path, metavar="PARAMETERS.yaml", help="the parameters file")
    run.settings_option(schema)
    _snapshots(commands)
    _fleets(commands)
    return top


def _fleets(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "run, continue, sign, verify and roll back many migrations"
    description = f"{text[0].upper()}{text[1:]}: a run for each row of a table."
    group = commands.add_parser("fleet", help=text, description=description, epilog=_EXIT_CODES)
    kinds = group.add_subparsers(metavar="WHAT", required=True, parser_class=_Parser)
    group.expand = lambda arguments: fleet.expand(arguments, kinds.choices)
    fleet.declare(lambda *arguments: _command(kinds, *arguments))


def _snapshots(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "list, inspect, verify, prune and restore snapshots"
    group = commands.add_parser(
        "snapshots", help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXIT_CODES
    )
    kinds = group.add_subparsers(metavar="WHAT", required=True, parser_class=_Parser)

    def declared(name: str, action: Action, text: str, details: str = "") -> _Parser:
        command = _command(kinds, name, action, text, details)
        command.add_argument(
            "--directory", metavar="DIR|URL", help="where the snapshots are; default: all that are known"
        )
        command.add_argument("--storage", action="append", default=[], metavar="KEY=VALUE",
                             help="of a URL: a key of snapshot.storage, such as secret=env:VAR; repeatable")  # fmt: skip
        return command

    snapshots.declare(declared)


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, action: Action, text: str, details: str = ""
) -> _Parser:
    """One command: `text` is its line in the list of commands, `details` are further sentences for its own page."""
    description = f"{text[0].upper()}{text[1:]}. {details}".strip()
    command = commands.add_parser(name, help=text, description=description, epilog=_EXIT_CODES)
    command.add_argument(
        "--reports",
        type=Path,
        metavar="DIR",
        help="folder of the runs; default: $RUNBOOK_REPORTS, else reports/ beside the package",
    )
    command.add_argument("--verbose", action="store_true", help="show tracebacks, which are otherwise only in run.log")
    command.set_defaults(action=action)
    return command


class _ResilientStream:
    """A stream that discards its output once nobody reads it: `runbook status | head -1` succeeds, and no command is aborted.

    All output of a command goes through it. Control and invisible characters are escaped, and those that the encoding of
    the terminal lacks. `bare` is the same stream for a progress bar, which moves the cursor.
    """

    def __init__(self, stream: TextIO, shown: Callable[[str], str] = visible) -> None:
        self._stream, self._shown = stream, shown

    @property
    def bare(self) -> _ResilientStream:
        return _ResilientStream(self._stream, str)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        shown = self._shown(text).encode(encoding, "backslashreplace").decode(encoding)
        self._guarded(lambda: self._stream.write(shown))
        return len(text)

    def flush(self) -> None:
        self._guarded(self._stream.flush)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError:  # its reader has closed the pipe, or the terminal is gone
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, else those of the process; the exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _ResilientStream(stream)) for stream in streams)
    try:
        return _main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def _main(arguments: Sequence[str] | None) -> int:
    chosen = argparse.Namespace(verbose=False, run_id="", judges=False)
    try:
        chosen = parser().parse_args(arguments, chosen)
        if chosen.reports is not None:
            os.environ["RUNBOOK_REPORTS"] = str(chosen.reports.absolute())
        code: int = chosen.action(chosen)
    except RunbookError as error:
        code = _fail(error.line(), error.exit_code, traceback.format_exc() if chosen.verbose else "")
    except KeyboardInterrupt:
        code = _fail("interrupted", 128 + signal.SIGINT, "")
    except Exception as error:  # the last line of defence: one line for people, the rest in a file
        environment = shortage(error, Path(tempfile.gettempdir()))
        trace = traceback.format_exc() if chosen.verbose else ""
        code = _fail(environment.line(), environment.exit_code, trace) if environment else _unexpected(error, chosen)
    return code


def _fail(line: str, code: int, trace: str) -> int:
    print(f"{lines(trace)}runbook: {line}", file=sys.stderr, flush=True)
    return code


def _unexpected(error: Exception, chosen: argparse.Namespace) -> int:
    trace = traceback.format_exc()
    line = one_line(f"unexpected {type(error).__name__}: {error}")
    return _fail(f"{line}. The traceback is in {_keep_trace(trace, chosen)}", 1, trace if chosen.verbose else "")


def _keep_trace(trace: str, chosen: argparse.Namespace) -> str:
    """Write the traceback, and give its path: run.log; where that must not change, a file in the run's workspace, else a
    temporary file. Only its owner can read it, and it holds no secrets."""
    places: list[Path] = [Path(tempfile.gettempdir())]
    with suppress(RunbookError, OSError):
        folder = RunFolder.of(chosen.run_id)
        places = [place for place in (folder.workspace, *places) if place.is_dir()]
        if not chosen.judges:  # nothing is written in a folder that is judged
            folder.log_block("unexpected error", trace)
            return str(folder.log_path)
    for place in places:
        with (
            suppress(OSError),
            tempfile.NamedTemporaryFile(
                "w", dir=place, prefix="runbook-", suffix=".log", delete=False, encoding="utf-8"
            ) as file,
        ):  # of mode 600
            file.write(lines(trace))
            return file.name
    return "no file: none can be written"


def _status(chosen: argparse.Namespace) -> int:
    from helpers.runner import group
    from helpers.status import status

    if chosen.run_id and (runs_group := group.read(chosen.run_id)) is not None:
        print(group.overview(runs_group))
        return 0
    return status(chosen)


def _fence(chosen: argparse.Namespace) -> int:
    """Show the fence of a run, or lift it. Lifting does not wait: a run at work has to be stopped first."""
    from helpers.fence import lift
    from helpers.status import fence_sentence

    folder = RunFolder.of(chosen.run_id).read()
    if not (folder.workspace / RunPath.FENCE).is_file():  # the fence's own file is all that lifting it needs
        folder = runs.find(chosen.run_id)
    with suppress(RunbookError):
        folder.enter()
    if not chosen.lift:
        print(fence_sentence(folder) or f"Run {folder.id} has no active write fence.")
        return 0
    from helpers.evidence import enter
    from helpers.report.pages import leave
    from helpers.runner import notices

    with runs.RunLock(folder, "runner").acquire(1), runs.RunLock(folder, "step").acquire(1):
        print(lift(folder), flush=True)
        try:
            enter(folder)  # what else is done is what its parameters say, once they are its own
            notices.run_held(folder, print)
            leave(folder)
        except RunbookError as error:  # of a damaged run; its fence is lifted all the same
            print(f"Nothing else was done for run {folder.id}: {error}", flush=True)
    return 0


def _rollback(chosen: argparse.Namespace) -> int:
    from helpers.runner.outcome import roll_back

    return roll_back(chosen)


def _explain(parameters: Parameters, schema: Schema, chunk: str, collection: str) -> None:
    """Print the chunk, of each collection that holds it, before and after the schema. UsageError where none does."""
    import datetime as dt

    from helpers.profiling.search import explain_chunk, explanation
    from helpers.schema import Context
    from helpers.stores import open_source

    explanations = []
    with (
        tempfile.TemporaryDirectory(prefix="runbook-schema-") as scratch,
        open_source(parameters.source, Path(scratch), parameters.collections.selects) as store,
    ):
        names = [name for name in store.names() if parameters.collections.selects(name)]
        context = Context.of(names, dt.datetime.now(dt.UTC).date(), parameters.migration)
        for name in (name for name in names if collection in ("", name)):
            if len(batch := store.read(name, [chunk])):
                table = explain_chunk(schema, batch, store.info(name), context, parameters)
                explanations.append(explanation(table, schema.name))
    if not explanations:
        where = f"collection {one_line(collection, 80)}" if collection else "the source"
        raise UsageError(
            ReasonCode.NOT_FOUND, f"{where} holds no chunk with the id {one_line(chunk, 80)}", where="--explain",
            next_step="Take an id from notebook 11, which lists chunks.",
        )  # fmt: skip
    print("\n\n".join(explanations))


def _schema(chosen: argparse.Namespace) -> int:
    """Print the resolved parameters, once they and their schema file are valid. UsageError where a placeholder is left."""
    from helpers.parameters import load_parameters
    from helpers.schema import load_schema

    parameters = load_parameters(chosen.parameters, chosen.settings)
    schema = load_schema(parameters.schema_name)
    if chosen.explain is not None:
        _explain(parameters, schema, chosen.explain, chosen.collection)
        return 0
    print(runs.parameters_text(parameters), end="")
    if blank := parameters.placeholders():
        raise UsageError(
            ReasonCode.PLACEHOLDER, f"these still hold <…>, a placeholder: {', '.join(blank)}", where=str(chosen.parameters),
            next_step="Write the values, or take the keys out.",
        )  # fmt: skip
    return 0
