"""`runbook verify`: whether a run's folder is what was sealed and signed, to the byte.

Nothing outside the folder is read, so a folder that was archived years ago is judged as it was on the day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from helpers import audit, signoffs
from helpers.errors import RunbookError, one_line
from helpers.evidence import recipe
from helpers.evidence.seals import CHANGING, after, seals
from helpers.evidence.statement import FIRST, SEALS, Seal, changed, digest_of, files, read_seal
from helpers.parameters import Parameters
from helpers.report import run_page
from helpers.results import StepResult, passed
from helpers.run import plan
from helpers.run.folders import RunFolder

_SIGNED_BEFORE = {signoffs.CUTOVER: "25", signoffs.DRY_RUN: "20"}  # the step that does not begin without the approvals


@dataclass(slots=True)
class Verified:
    """What was found: `problems` and `notes` are lines that begin with the file, `newest` the newest seal's digest."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    newest: str = ""
    summary: str = ""


def verify(folder: Path) -> Verified:
    """Check every file, the chain of seals, every signature, and that results agree with the notebooks that claim them."""
    found = Verified()
    chain = _chain(folder, found)
    if chain:
        newest = chain[-1]
        found.newest = newest.digest
        found.problems += _files(folder, newest)
        found.problems += _audit_log(folder)
        found.problems += _history(chain)
        found.problems += _notebooks(folder, found)
        found.problems += _signatures(folder, found)
        found.problems += _derived(folder, newest)
        statements = len(list((folder / "signoffs").glob("*.json")))
        found.summary = f"{len(newest.subjects)} files, {len(chain)} seals, {statements} signatures"
    return found


def _chain(folder: Path, found: Verified) -> list[Seal]:
    """The seals; whatever is wrong with their chain is a problem, and the newest is compared with VERIFY.txt."""
    paths = sorted((folder / SEALS).glob("*"))
    chain: list[Seal] = []
    for path in paths:
        try:
            seal = read_seal(path)
        except (OSError, ValueError) as error:
            found.problems.append(f"seals/{path.name}: {error}")
            continue
        if seal.number != len(chain) + 1 or seal.previous != (chain[-1].digest if chain else FIRST):
            found.problems.append(f"{seal.name}: it does not follow the seal before it")
            if seal.previous_name != FIRST:
                found.problems.append(f"{seal.previous_name}: missing, or not the one that {seal.name} names")
        chain.append(seal)
    if not paths:
        found.problems.append("seals/: there is no seal; the run was not sealed")
    elif chain:
        path = folder / recipe.NAME
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        said = recipe.NEWEST.search(text)
        if said is None:
            found.problems.append(f"{recipe.NAME}: it names no newest seal")
        elif (said["digest"], said["name"]) != (chain[-1].digest, chain[-1].name):
            found.problems.append(
                f"{one_line(said['name'], 100)}: missing, or not the newest seal as {recipe.NAME} names it"
            )
    return chain


def _files(folder: Path, newest: Seal) -> Iterator[str]:
    sealed = {*newest.subjects, *newest.prefixes}
    for name in changed(folder, newest):
        yield f"{name}: {'changed' if (folder / name).exists() else 'missing'} since seal {newest.number}"
    try:
        present = files(folder)
    except RunbookError as error:
        yield f"{error.what}"
        return
    for name in sorted(set(present) - sealed):
        yield f"{name}: not sealed; it was added after seal {newest.number}"


def _audit_log(folder: Path) -> Iterator[str]:
    broken = audit.check(folder / audit.NAME)
    if broken is not None:
        yield f"{audit.NAME}: line {broken.line}: {broken.why}"


def _history(chain: list[Seal]) -> Iterator[str]:
    """Between two seals a file may move into `earlier/`, or be one that the toolkit itself writes again."""
    for one, two in pairwise(chain):
        moved = {digest for name, digest in two.subjects.items() if name.startswith("earlier/")}
        for name, digest in one.subjects.items():
            if two.subjects.get(name) != digest and name not in CHANGING and digest not in moved:
                yield f"{name}: changed between seal {one.number} and seal {two.number}"


def _notebooks(folder: Path, found: Verified) -> Iterator[str]:
    """The digest of each result is what the last cell of its notebook showed when the step ended."""
    for path in sorted(folder.glob("results/*.json")):
        name = f"results/{path.name}"
        try:
            result = StepResult.read(path)
            step = plan.find(result.step)
        except (OSError, ValueError, KeyError, TypeError, RunbookError):
            yield f"{name}: it is no result"
            continue
        if result.step != path.stem or result.run_id != folder.name:
            yield f"{name}: it is the result of step {result.step} of run {result.run_id}"
        notebook = folder / step.notebook
        if not notebook.is_file():
            if result.facts.get("execution"):
                yield f"{name}: {step.notebook}, which claims it, is missing"
            else:
                found.notes.append(f"{name}: the step was run by hand; its notebook is with who ran it")
        elif passed(result) and digest_of(path) not in _shown(notebook):
            yield f"{name}: it is not the result that {step.notebook} shows"


def _shown(notebook: Path) -> str:
    """What the outputs of an executed notebook say, as HTML."""
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
        return "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _signatures(folder: Path, found: Verified) -> Iterator[str]:
    """Every statement; and that no step ran which needed approvals that are not there."""
    run = RunFolder(folder.name, folder, folder)
    try:
        refused = signoffs.refused_statements(folder)
        yield from (f"{name}: {why}" for name, why in refused.items())
        parameters: Parameters = run.parameters()
        for gate, step in _SIGNED_BEFORE.items():
            yield from _gate(folder, parameters, gate, run.result(step) is not None, found)
    except (RunbookError, OSError, ValueError, KeyError, TypeError) as error:
        yield f"signoffs/: the approvals cannot be judged: {error}"


def _gate(folder: Path, parameters: Parameters, gate: str, needed: bool, found: Verified) -> Iterator[str]:
    state = signoffs.gate_state(folder, parameters, gate)
    for role in state.missing:
        stale = f"given before {', '.join(state.stale[role])} changed" if state.stale.get(role) else ""
        why = state.refused.get(role) or stale or "nobody has signed"
        path = signoffs.newest(folder, gate, role)
        name = f"signoffs/{path.name}" if path else f"signoffs/{gate}-{role}"
        if needed or path is not None or role in state.refused:
            yield f"{name}: {role}: {why}"
        elif after(seals(folder), signoffs.GATES[gate]) is not None:
            found.notes.append(f"{name}: {role} has not signed yet")
    if needed:
        yield from (f"signoffs/: step {_SIGNED_BEFORE[gate]} ran although {line}" for line in state.blocked)


def _derived(folder: Path, newest: Seal) -> Iterator[str]:
    """What is made from the other files is made again and compared."""
    made: dict[str, Callable[[], str]] = {
        recipe.NAME: lambda: recipe.recipe(folder, newest),
        "index.html": lambda: run_page(folder),
    }
    for name, make in made.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
            continue
        try:
            same = path.read_bytes() == make().encode("utf-8", errors="backslashreplace")
        except Exception as error:  # whatever a damaged file does to a page, the other problems are told
            yield f"{name}: it cannot be made again from the files of the run ({type(error).__name__})"
            continue
        if not same:
            yield f"{name}: it is not what the files of the run give"
