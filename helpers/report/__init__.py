"""Pages: a run, all runs, a rollback, and executed notebooks as HTML that works offline.

Here: their data, from a run's own files only. A file may be missing or unreadable: the page then says so.
"""

from __future__ import annotations

import base64
import csv
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree  # nosec B405  (what it reads has no document type)

from markupsafe import Markup, escape

from helpers.errors import RunbookError
from helpers.evidence.seals import chain
from helpers.evidence.secret_scan import code_lines
from helpers.evidence.signing import Signer
from helpers.evidence.signoffs import CUTOVER, GATES, GateState, gate_state, newest, statements
from helpers.formatting import duration, lines, packed_lines, text, unpacked_rows
from helpers.reason_codes import ReasonCode
from helpers.results import UNREMARKABLE, Check, Phase, StepResult, Verdict, contents, json_in, kind_of, passed
from helpers.run import plan
from helpers.run.folders import CHANGED, QUARANTINED, QUARANTINED_LAST, RunPath, RunState
from helpers.run.plan import Step

# -- signed ------------------------------------------------------------------------------------------------------------

# The statements of signoffs/ as the pages show them. The gate decides whether one counts (`helpers.evidence.signoffs`).


@dataclass(frozen=True, slots=True)
class SignOffAnswer:
    """One answer of a role. `name`: the principal of the key that signed, never a name in the statement. `decision`: go or
    no-go. `seal`: number and beginning of the SHA-256 of the seal that it signs. `superseded`: the role answered again later.
    """

    role: str
    name: str = ""
    decision: str = ""
    when: str = ""
    gate: str = ""
    reason: str = ""
    accept: list[str] = field(default_factory=list)
    rehearsal: bool = False
    file: str = ""
    seal: str = ""
    superseded: bool = False


def _listed(path: Path, rows: Iterator[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield these columns of the rows, long texts cut; after a read error one more row, whose last column holds the reason."""
    try:
        for row in rows:
            yield {name: str(row.get(name) or "")[:_SHOWN] for name in columns}
    except FileNotFoundError:
        return
    except (OSError, EOFError, ValueError, zlib.error, csv.Error, AttributeError) as error:
        reason = f"{path.name} cannot be read on: {text(str(error), 100)}"
        yield {**dict.fromkeys(columns, ""), columns[-1]: reason}


def read_signoffs(run: RunState) -> list[SignOffAnswer]:
    """Return every file in signoffs/ that names a role, by time."""
    signoffs = []
    known: dict[str, tuple[str, Signer | None]] = _read(run, lambda r: statements(r), {})
    for path in sorted(run.reports.glob("signoffs/*.json")):
        try:
            value = json_in(contents(path))
        except (OSError, ValueError):
            continue
        if isinstance(value, dict) and "role" in value:
            _, signer = known.get(path.name, ("", None))
            signoffs.append(_signoff(value, signer.principal if signer else "an unknown signer", path.name))
    signoffs.sort(key=lambda s: (s.when, s.role, s.gate, s.file))
    counting = {newest(run.reports, gate, role) for gate, role in {(s.gate, s.role) for s in signoffs}}
    return [replace(s, superseded=run.reports / RunPath.SIGNOFFS / s.file not in counting) for s in signoffs]


def _signoff(facts: Mapping[str, Any], name: str, file: str) -> SignOffAnswer:
    role, when, gate, reason = (str(facts.get(key) or "") for key in ("role", "when", "gate", "reason"))
    decision = str(facts.get("decision") or "").lower().replace("_", "-")
    accept = facts.get("accept")
    accepted = [str(item) for item in accept] if isinstance(accept, list) else []
    signed = facts.get("seal")
    seal = ""
    if isinstance(signed, dict) and signed:
        seal = f"{Path(str(signed.get('name'))).name[:4]}, SHA-256 {str(signed.get('sha256'))[:16]}…"
    return SignOffAnswer(role, name, decision, when, gate, reason, accepted, facts.get("rehearsal") is True, file, seal)


T = TypeVar("T")

# -- facts -------------------------------------------------------------------------------------------------------------


_GROWING = frozenset({RunPath.LOG, "audit.jsonl", RunPath.NOTICES})
_DERIVED = frozenset({RunPath.PAGE, RunPath.VERIFY})
_PHASES = 200
# Figures that a signer reads on paper; the others are printed with their notebooks.
_PRINTED = ("13_", "23_counts", "23_distances", "23_overlap", "23_recall", "23_completeness", "51_")
_SHOWN = 20_000  # characters of a text that a page cuts once secrets are hidden
_LARGEST = 2_000_000  # bytes of a figure that a page holds, and of a chunk that it lists
_NOT_RUN, _UNREADABLE = "not run", "unreadable"


@dataclass(slots=True)
class StepRow:
    """A step of the standard sequence. `verdict` is that of its result, or "not run", "unreadable", "failed", "interrupted"."""

    number: str
    title: str
    verdict: str
    page: str = ""
    notebook: str = ""
    result: StepResult | None = None
    attempt: str = ""  # "attempt 1 of 2", of a step that was executed more than once

    @property
    def name(self) -> str:
        """Number, title and attempt, as every table of times names it."""
        return f"{self.number} {self.title}{self.attempt and f', {self.attempt}'}"

    @property
    def counts(self) -> dict[str, int]:
        """The number of checks by verdict, the worst first."""
        verdicts = [c.verdict for c in self.result.checks] if self.result else []
        return {v.value: verdicts.count(v) for v in reversed(Verdict) if v in verdicts}

    @property
    def not_exercised(self) -> list[Check]:
        """The checks that the step did not run, or ran only in part."""
        return [c for c in self.result.checks if c.verdict is Verdict.NOT_EXERCISED] if self.result else []


@dataclass(slots=True)
class CheckFinding:
    """A check that warned, was marginal or failed, from the first step with it; `steps`: every step with the same finding."""

    check: Check
    steps: list[str]

    @property
    def at_decision(self) -> bool:
        """Whether it was known when the decision was signed."""
        return self.steps[0] <= Step.REVIEW

    @property
    def where(self) -> str:
        return ", ".join(self.steps)


@dataclass(slots=True)
class Outcome:
    """The banner: `kind` is go, no-go, waiting, failed, stopped, rolled-back or open; `next` are sentences or commands."""

    kind: str
    headline: str
    reasons: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RunView:
    """Everything on the page of one run.

    Facts that it reads by name, from the last step that recorded them: `matrix` (rows: criterion, measured, pass, marginal,
    fail, verdict), `decision` (GO or NO-GO), `quarantine` ({reason: chunks}), `repairs` (rows: field, rule, chunks),
    `counts` (rows: collection, source, target, quarantined), `queries`, `matrix_inputs`, `dimensions` (the checklist).
    `targets` (rows: collection, target), `mean_latency_ms`, `downtime_seconds` (the success record). `signoffs`: the
    files of signoffs/; `gates`: the state of each gate that follows from them.
    """

    folder: Path
    run: dict[str, Any]
    parameters: dict[str, Any]
    parameters_text: str
    steps: list[StepRow]
    signoffs: list[SignOffAnswer]
    gates: dict[str, GateState]
    attempts: list[StepRow] = field(default_factory=list)  # earlier executions of steps, by time; none of them counts
    outcome: Outcome = field(default_factory=lambda: Outcome("open", "Not started"))
    code: list[str] = field(default_factory=list)  # sentences on what ran, as the seals name it
    seals: list[str] = field(default_factory=list)  # their SHA-256, the oldest first
    drill: dict[str, Any] = field(default_factory=dict)
    """The record of the rollback drill, drills/rollback.json, and as `behind` drills/put-back.json; empty without a drill."""

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def gate(self) -> GateState | None:
        """The gate before the cutover; None where the parameters do not say whose approval is due."""
        return self.gates.get(CUTOVER)

    @property
    def as_signed(self) -> list[str]:
        """Names of the pages kept for signing and at the end, each followed by its PDF, if any."""
        return sorted(path.name for pattern in ("as-signed-*.*", "final-*.*") for path in self.folder.glob(pattern))

    @property
    def last_sealed(self) -> str:
        """The newest of these pages; "" where none was kept."""
        return max((name for name in self.as_signed if name.endswith(".html")), default="")

    def key_of(self, sign: SignOffAnswer) -> str:
        """Whose key signed, and its fingerprint; "" where no signature counts."""
        gate = self.gates.get(sign.gate)
        return gate.keys.get(sign.role, "") if gate else ""

    def problem_of(self, sign: SignOffAnswer) -> str:
        """Why an answer does not count; "" where it does."""
        gate = self.gates.get(sign.gate)
        if gate is None:
            return "it is for no gate of this run" if self.gates else ""
        return {**gate.refused, **void(gate)}.get(sign.role, "")

    @property
    def rehearsal(self) -> bool:
        return bool(self.run.get("rehearsal"))

    @property
    def changes(self) -> Iterator[dict[str, str]]:
        """Each value that the schema replaced: collection, id, field, old, new, rule; none where step 22 wrote no list."""
        path, columns = self.folder / CHANGED, ("collection", "id", "field", "old", "rule", "new")
        return _listed(path, unpacked_rows(path, columns, _LARGEST), columns)

    @property
    def quarantine_file(self) -> str:
        """The name of the list of all chunks in quarantine: that of step 25, else that of step 22."""
        return QUARANTINED_LAST if (self.folder / QUARANTINED_LAST).is_file() else QUARANTINED

    @property
    def quarantined(self) -> Iterator[dict[str, str]]:
        """Each chunk in quarantine: collection, id, reason, detail; none where there is no list."""
        path = self.folder / self.quarantine_file
        return _listed(path, map(json_in, packed_lines(path, _LARGEST)), ("collection", "id", "reason", "detail"))

    @property
    def drills(self) -> list[str]:
        """A sentence for each drill of a rehearsal, with its result."""
        drills = self.run.get("drills") if self.rehearsal else None
        return [text(line, 600) for line in drills if str(line).split()] if isinstance(drills, list) else []

    @property
    def put_back(self) -> str:
        """When the drill of the rollback was put back, ISO 8601; "unknown" without a time, "" where it was not."""
        mentioned = any("put back to" in line for line in self.drills)
        return str(self.drill.get("ended") or "unknown") if self.drill.get("put_back", mentioned) else ""

    @property
    def results(self) -> dict[str, StepResult]:
        """The results that can be read, by the step's number."""
        return {s.number: s.result for s in self.steps if s.result}

    def fact(self, name: str) -> Any:
        """The newest step's fact of this name; None where no step has it."""
        for step in reversed(self.steps):
            if step.result is not None and step.result.facts.get(name) not in (None, [], {}):
                return step.result.facts[name]
        return None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A fact that is a table, as rows; anything else counts as absent."""
        value = self.fact(name)
        return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

    def table(self, name: str) -> dict[str, Any]:
        """A fact that is a mapping; anything else counts as empty."""
        value = self.fact(name)
        return value if isinstance(value, dict) else {}

    def names(self, name: str) -> list[str]:
        """A fact that is a list of texts."""
        value = self.fact(name)
        return [str(item) for item in value] if isinstance(value, list) else []

    @property
    def tests(self) -> list[Check]:
        return self.checks(Step.VALIDATE)

    def checks(self, number: str) -> list[Check]:
        """What the step checked; none where it has not run."""
        row = self.step(number)
        return row.result.checks if row and row.result else []

    def step(self, number: str) -> StepRow | None:
        return next((s for s in self.steps if s.number == number), None)

    def ran(self, number: str) -> bool:
        """Whether the step left a result that is not a dry run's."""
        row = self.step(number)
        return row is not None and row.result is not None and not row.result.facts.get("dry_run")

    def passed(self, number: str) -> bool:
        """Whether it ran and the run may continue after it."""
        row = self.step(number)
        return self.ran(number) and row is not None and passed(row.result)

    @property
    def date(self) -> str:
        """The day on which the first step of the window began, else the run itself; "" where neither says."""
        starts = [s.result.started for s in self.steps if s.result and s.number >= Step.FENCE_WRITES]
        return min(starts, default=str(self.run.get("created", "")))[:10]

    @property
    def ended(self) -> str:
        """When the last step ended, ISO 8601; "" where none has."""
        return max((s.result.finished for s in self.steps if s.result), default="")

    @property
    def findings(self) -> list[CheckFinding]:
        """Every check that warned, was marginal or failed, in the order of the steps; one that later steps repeat is listed once.

        Pages and documents take their findings from here. The decision of step 24 sums them up and is not listed.
        """
        findings: dict[tuple[str, str, str, str], CheckFinding] = {}
        for step in self.steps:
            for check in step.result.checks if step.result else []:
                fine = check.verdict in (*UNREMARKABLE, Verdict.NOT_EXERCISED)
                if fine or (step.number, check.name) == (Step.REVIEW, "decision"):
                    continue
                key = (check.reason, check.name, check.verdict, text(check.measured))
                if step.number not in (same := findings.setdefault(key, CheckFinding(check, []))).steps:
                    same.steps.append(step.number)
        return list(findings.values())

    @property
    def executions(self) -> Iterator[StepRow]:
        """Every execution of each step in the order of the steps: the earlier attempts, then the one that counts."""
        for step in self.steps:
            yield from (row for row in self.attempts if row.number == step.number)
            yield step

    @property
    def tallies(self) -> list[tuple[str, str, list[tuple[str, int]]]]:
        """Quarantined chunks by reason and repairs by field, each as (title, first head, rows)."""
        tables = [("Quarantined chunks, by reason", "Reason", self._tally("quarantine", "reason"))]
        tables.append(("What the schema filled in or changed, by field", "Field", self._tally("repairs", "field")))
        return [table for table in tables if table[2]]

    def _tally(self, name: str, key: str) -> list[tuple[str, int]]:
        """A fact that maps reasons to numbers, or rows with `key`, perhaps `rule`, and `chunks`; summed, most first."""
        pairs: list[tuple[str, Any]] = [(str(k), v) for k, v in self.table(name).items()]
        for row in self.rows(name):
            kind = kind_of(rule := str(row["rule"])) if "rule" in row else ""
            suffix = f" · {kind}{f' ({rule})' if kind == 'changed' else ''}" if kind else ""
            pairs.append((f"{row.get(key, '')}{suffix}", row.get("chunks")))
        sums: Counter[str] = Counter()
        for label, n in pairs:
            sums[label] += n if isinstance(n, int) else 0
        return sorted(((k, n) for k, n in sums.items() if n), key=lambda pair: (-pair[1], pair[0]))

    @property
    def phases(self) -> list[tuple[str, Phase]]:
        """Every phase with its step's number, in order of time."""
        phases = [(step.number, phase) for step in self.steps if step.result for phase in step.result.phases]
        return sorted(phases, key=lambda pair: (str(pair[1].started), pair[0]))[:_PHASES]

    @property
    def figures(self) -> Iterator[dict[str, str]]:
        """Each figure: step, caption, alt, file, picture ("" where the file is missing or is no picture), shown."""
        for step in self.steps:
            for figure in step.result.figures if step.result else []:
                path = self.folder / RunPath.FIGURES / Path(str(figure.get("file", "none"))).name
                caption = str(figure.get("caption", ""))
                alt = str(figure.get("alt") or caption)
                yield {
                    "step": step.number,
                    "caption": caption,
                    "alt": alt,
                    "file": path.name,
                    "picture": picture(path, alt),
                    "shown": "" if path.name.startswith(_PRINTED) else "screen",
                }

    @property
    def files(self) -> Iterator[tuple[str, int | None]]:
        """Path below the folder and bytes of each file; None for what is still being appended to."""
        for path in sorted(self.folder.rglob("*")):
            place = path.relative_to(self.folder)
            if path.is_file() and not any(part.startswith(".") for part in place.parts) and str(place) not in _DERIVED:
                yield place.as_posix(), None if str(place) in _GROWING else path.stat().st_size


_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_SHAPES = {"svg", "g", "defs", "path", "rect", "circle", "clipPath", "pattern", "use", "image", "text", "tspan"}
_LOOKS = {"d", "id", "x", "y", "width", "height", "viewBox", "transform", "style", "clip-path", "patternUnits", "cx", "cy",
          "r"}  # fmt: skip


# What CSS asks a server for.
_FETCHES = re.compile(r"(?i)[\\@]|(url|image|image-set|src|expression|element|paint)\s*\(|:\s*//")


def picture(path: Path, alt: str) -> Markup:
    """Return a figure of the run as an element of a page: SVG inline, PNG (of older runs) as an image, "" for anything else.

    Others can write to the folder of the file, so only shapes and text of an SVG are kept.
    """
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return Markup("")
    data = path.read_bytes()
    if data.startswith(b"\x89PNG"):
        encoded = base64.b64encode(data).decode("ascii")
        return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(encoded, lines(alt, 1000))
    return inline_svg(data, alt, path.stem)


@lru_cache(64)  # a run's page is written after each step, and most of its figures have not changed
def inline_svg(data: bytes, alt: str, name: str) -> Markup:
    """Return an SVG as an element of a page, shapes and text only; "" where it is none. `name` makes its ids unique."""
    try:
        root = None if b"<!" in data or b"\0" in data else ElementTree.fromstring(data)  # noqa: S314  # nosec B314  (no entities)
    except ElementTree.ParseError:
        root = None
    if root is None or root.tag != f"{_SVG}svg":
        return Markup("")
    _harmless(root, f"{name}-")
    size = " ".join(f'{key}="{escape(root.get(key, ""))}"' for key in ("viewBox", "width", "height"))
    inner = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    return Markup(f'<svg {size} role="img" aria-label="{escape(lines(alt, 1000))}">{inner}</svg>')  # noqa: S704  # nosec B704  (made harmless)


def _harmless(element: ElementTree.Element, prefix: str) -> None:
    """Keep only shapes, text and references inside the figure; its ids get a prefix, since a page has many figures."""
    element.tag = element.tag.removeprefix(_SVG)
    for child in list(element):
        if child.tag.removeprefix(_SVG) in _SHAPES:
            _harmless(child, prefix)
        else:
            element.remove(child)
    link = element.attrib.get(_XLINK, "")
    attributes = {
        key: value
        for key, value in element.attrib.items()
        if key in _LOOKS and not _FETCHES.search(value.replace("url(#", ""))
    }
    element.attrib.clear()
    for key, value in attributes.items():
        element.set(key, prefix + value if key == "id" else value.replace("url(#", f"url(#{prefix}"))
    if link.startswith("#"):
        element.set("href", f"#{prefix}{link[1:]}")
    elif link.startswith("data:image/png;base64,"):
        element.set("href", link)


def read_run(run: RunState | Path) -> RunView:
    """Return the view of one run, or of the run in this folder."""
    run = run if isinstance(run, RunState) else RunState(run.name, run, run)
    folder = run.reports
    return RunView(
        folder, _read(run, lambda r: r.facts, {}), _read(run, lambda r: r.document, {}), _read(run, lambda r: r.text, ""),
        steps := list(_steps(run)), read_signoffs(run), _gates(run), list(_attempts(run, steps)),
        code=_read(run, lambda r: code_lines(chain(r)), []), seals=_read(run, lambda r: [s.digest for s in chain(r)], []),
        drill=_drill(run),
    )  # fmt: skip


def _drill(run: RunState) -> dict[str, Any]:
    def record(name: str) -> dict[str, Any]:
        return _read(run, lambda r: dict(json_in(contents(r.reports / RunPath.DRILLS / name))), {})

    back = record(RunPath.ROLLBACK)
    return back and back | {"behind": record("put-back.json")}


def _read(run: RunState, read: Callable[[RunState], T], none: T) -> T:
    """Return what `read` gives; `none` where the file is missing or damaged, or holds another type."""
    try:
        value = read(run)
    except (RunbookError, OSError, TypeError, ValueError):
        return none
    return value if isinstance(value, type(none)) else none


def void(gate: GateState) -> dict[str, str]:
    """Return by role why an approval counts no longer."""
    reasons = {}
    for role, files in gate.stale.items():
        more = f" and {len(files) - 3} more files" if len(files) > 3 else ""
        reasons[role] = f"The approval of {role} is void: {', '.join(files[:3]) or 'the results'}{more} changed since."
    return reasons


def _gates(run: RunState) -> dict[str, GateState]:
    """Return the approvals by gate; none where the parameters cannot be read."""
    try:
        return {gate: gate_state(run, gate) for gate in GATES}
    except (RunbookError, OSError, TypeError, ValueError):
        return {}


def _attempts(run: RunState, steps: list[StepRow]) -> Iterator[StepRow]:
    """Yield the earlier executions, below `earlier/`, by time; number each of them, and the execution that counts."""
    earlier = sorted(run.reports.glob(f"{RunPath.EARLIER}/*/{RunPath.RESULTS}/*.json"))
    totals = Counter(path.stem for path in earlier)
    counted: Counter[str] = Counter()
    for step in steps:
        if (n := totals[step.number]) and step.result:
            step.attempt = f"attempt {n + 1} of {n + 1}"
    for path in earlier:
        counted[path.stem] += 1
        step = next((s for s in steps if s.number == path.stem), StepRow(path.stem, "", _NOT_RUN))
        row = replace(
            step,
            attempt=f"attempt {counted[path.stem]} of {totals[path.stem] + bool(step.result)}",
            page="",
            notebook="",
        )
        row.result = _result(partial(StepResult.read, path, run.id))
        row.verdict = _verdict(row.result)
        for output in path.parents[1].glob(f"{path.stem}_*.*"):
            name = output.relative_to(run.reports).as_posix()
            row.page, row.notebook = (name, row.notebook) if output.suffix == ".html" else (row.page, name)
        yield row


def _verdict(result: StepResult | None) -> str:
    """Return what `StepRow.verdict` holds."""
    if result is None:
        return _UNREADABLE
    if result.error and result.error.get("code") != ReasonCode.NO_GO:
        return "interrupted" if result.error.get("code") == ReasonCode.INTERRUPTED else "failed"
    return result.verdict.value


def _steps(run: RunState) -> Iterator[StepRow]:
    """Yield every step of the standard sequence, and any other with a result."""
    folder = run.reports
    sequence = {step.number: step for step in plan.LINE}
    recorded = {path.stem for path in folder.glob("results/*.json")}
    for number in sorted({*sequence, *recorded}):
        step = sequence.get(number)
        row = StepRow(number, step.title if step else "", _NOT_RUN)
        notebook = next(iter(sorted(folder.glob(f"{number}_*.ipynb"))), None)
        if notebook:
            row.notebook = notebook.name
            row.page = notebook.with_suffix(".html").name if notebook.with_suffix(".html").is_file() else ""
        if number in recorded:
            row.result = _result(partial(run.result, number))
            row.verdict = _verdict(row.result)
            row.title = row.result.title if row.result else row.title
        yield row


def _result(read: Callable[[], StepResult | None]) -> StepResult | None:
    try:
        return read()
    except (RunbookError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


# -- the steps on a clock ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Timed:
    """A step, its start and end (UTC), and the phases inside it."""

    step: StepRow
    start: datetime
    end: datetime
    phases: list[tuple[datetime, datetime]] = field(default_factory=list)
    open: bool = False  # the process died before it could write when it ended


def between(first: datetime, second: datetime) -> str:
    return duration((second - first).total_seconds())


def timed(steps: Iterable[StepRow]) -> Iterator[Timed]:
    """Yield the steps that began, in their order."""
    for row in steps:
        start = instant(row.result.started) if row.result else None
        if row.result is None or start is None:
            continue
        phases = [(at, at + timedelta(seconds=p.seconds)) for p in row.result.phases if (at := instant(p.started))]
        end = instant(row.result.finished)
        last = max([start, *(stop for _, stop in phases)])
        yield Timed(row, start, end or last, phases, open=end is None)


def instant(text: Any) -> datetime | None:
    """Return an ISO 8601 time in UTC; None for anything else."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
