"""Small notebooks for tests of what runs them: real files, real kernels, a step of the line with nothing to do."""

from __future__ import annotations

from pathlib import Path

import nbformat

PARAMETERS = 'name = ""\nsource = {}\ntarget = {}\nrun_id = ""\ndry_run = False'
CHECK = 'run.check("looked", "pass", measured=1)'
FINISH = "step.finish()"


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS, begins: bool = True) -> Path:
    """A notebook for the step that its file name says: parameters, begin (unless told not to), then these cells."""
    begin = [f'from helpers import begin\nstep = begin(globals(), "{path.name[:2]}")\nrun = step.run'] if begins else []
    code = [*begin, *cells]
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    )  # type: ignore[no-untyped-call]
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})  # type: ignore[no-untyped-call]
    notebook.cells = [first, *(nbformat.v4.new_code_cell(c) for c in code)]  # type: ignore[no-untyped-call]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    return path
