"""What a child of the campaign has loaded before it is forked, and how it executes notebooks in its own process."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import chromadb  # noqa: F401  # loaded for the children
import nbformat
import papermill
import pyarrow.parquet  # noqa: F401
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import write_ipynb

from helpers import cli, plots
from helpers.migration import importing
from helpers.results import write_bytes
from helpers.run import kernel, plan
from helpers.runner import outcome, pipeline  # noqa: F401
from helpers.stores import opening

for _step in plan.LINE:
    import_module(f"helpers.steps.{_step.module}")


import_module("helpers.evidence.seals").code()  # remembered: a second of each seal
nbformat.validate(nbformat.v4.new_notebook())  # type: ignore[no-untyped-call]  # compiles the schema


def command(arguments: Sequence[str]) -> int:
    return cli.main(arguments)


def play_notebooks_here() -> None:
    """From now on the cells of a notebook are executed in this process, as papermill's kernel would."""
    papermill.execute_notebook = _play

    opening.try_opening = lambda *ignored, **also: (
        None
    )  # a process for each opening; an engine that crashes is another story
    kernel.end_with_runner = lambda: None
    pipeline.kernel_template = lambda steps: nullcontext()  # type: ignore[assignment, return-value]


def forget_the_disk_reserve() -> None:
    """The import goes on to the last byte, where it would pause below 100 MB: the campaign wants the disk to be full."""
    importing.DISK_RESERVE = 0


def render_nothing() -> None:
    """Neither pages nor figures: they are made of what is on disk already, and take most of the time."""
    for name in ("render_pages", "render_notebook"):
        setattr(pipeline, name, lambda *ignored: None)
    plots.save = lambda figure, path: write_bytes(path, b"<svg/>")


def _play(
    source: str, output: str, *, parameters: dict[str, Any], kernel_manager_class: Any = None, **rest: Any
) -> None:
    """`papermill.execute_notebook`: the executed notebook is written in place before the first cell and after each."""
    document = nbformat.read(_plain(source), as_version=4)  # type: ignore[no-untyped-call]
    environment = kernel_manager_class().kernel_spec.env if kernel_manager_class is not None else {}
    before = dict(os.environ)
    os.environ.update({k: v.replace("$$", "$") for k, v in environment.items()})
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    try:
        write_ipynb(document, _plain(output))
        for cell in document.cells:
            if cell.cell_type != "code" or not cell.source.strip():
                continue
            count += 1
            cell.execution_count = count
            try:
                exec(compile(cell.source, f"cell {count}", "exec"), namespace)
                if "parameters" in cell.metadata.get("tags", []):
                    namespace.update(parameters)
            except BaseException as error:
                _failed(namespace, error)
                shown = {"output_type": "error", "ename": type(error).__name__, "evalue": str(error), "traceback": []}
                cell.outputs = [nbformat.from_dict(shown)]  # type: ignore[no-untyped-call]
                write_ipynb(document, _plain(output))
                raise PapermillExecutionError(
                    count, count, cell.source, type(error).__name__, str(error), []
                ) from error
            write_ipynb(document, _plain(output))
    finally:
        os.environ.clear()
        os.environ.update(before)


def _failed(namespace: dict[str, Any], error: BaseException) -> None:
    run = getattr(namespace.get("step"), "run", None)
    if run is not None:
        run._cell_failed(error)


def _plain(path: str) -> str:
    return path.replace("{{", "{").replace("}}", "}")


def wind_clock(jumps: Sequence[float]) -> None:
    """The wall clock of this process goes wrong: each quarter of a second the next of these seconds is added to it."""
    plain_time, plain_type = time.time, datetime.datetime
    began = time.monotonic()

    def offset() -> float:
        return jumps[int((time.monotonic() - began) * 4) % len(jumps)]

    class Wound(plain_type):  # type: ignore[valid-type, misc]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return plain_type.now(tz) + datetime.timedelta(seconds=offset())

    time.time = lambda: plain_time() + offset()
    for name, module in list(sys.modules.items()):
        if name.startswith("helpers"):
            for attribute, value in list(vars(module).items()):
                if value is plain_type:
                    setattr(module, attribute, Wound)
    datetime.datetime = Wound  # type: ignore[misc]
    threading.excepthook = sys.__excepthook__  # type: ignore[assignment]
