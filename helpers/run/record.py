"""What a step sees of its run: parameters, folders, checks, phases, figures, progress, results of earlier steps."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from helpers.errors import RUNBOOK, Interrupted, Terminal, UsageError, one_line
from helpers.formatting import count, duration, unit_of
from helpers.parameters import Endpoint, Parameters
from helpers.reason_codes import Reason, ReasonCode
from helpers.results import UNREMARKABLE, Check, Phase, StepResult, Verdict, meets, naming, utc_now, worst
from helpers.run import plan
from helpers.run.folders import RunPath, RunState

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from helpers.stores import CollectionInfo, Reader


PEAK_MEMORY = "peak_memory_bytes"  # the fact of a step: the most that its process has held


class RunRecord:
    """One step of one run, while it is at work.

    `watches_only` is True where another process works on the run meanwhile: then this step changes nothing.
    """

    watches_only = False

    def __init__(
        self, home: RunState, step: str, parameters: Parameters | None = None, *, dry_run: bool = False
    ) -> None:
        facts = home.facts
        row = plan.find(step)
        self.home = home
        self.id: str = home.id
        self.parameters: Parameters = parameters if parameters is not None else home.parameters
        self.folder: Path = home.reports
        self.workspace: Path = home.workspace
        self.date = dt.date.fromisoformat(facts["date"])
        self.rehearsal: bool = facts["rehearsal"]
        self.dry_run: bool = dry_run or facts["dry_run"]
        self.step: str = row.number
        self.result = StepResult(step=row.number, title=row.title, run_id=home.id, started=utc_now())
        self.leaving = contextlib.ExitStack()  # what is to be let go of together with the run
        self.workers: Any = None  # `executor.Workers`, once a step has asked for them
        self._display: tuple[int, Any] = (-1, None)
        self._bar: Progress | None = None
        self._told = float("-inf")
        self._figures: dict[str, Figure] = {}  # those of this execution, by name
        self.files: dict[str, str] = {}  # what this execution wrote into the run's folder, with its digest then

    def forget(self, *names: str) -> None:
        """Take checks off the record, for a later answer to the same question."""
        self.result.checks[:] = [check for check in self.result.checks if check.name not in names]

    def check(
        self,
        name: str,
        verdict: Verdict,
        *,
        measured: Any = None,
        threshold: Any = None,
        unit: str = "",
        reason: Reason = "",
        detail: str = "",
        offenders: int = 0,
        ids: Sequence[Mapping[str, Any]] = (),
        parameter: str = "",
        relation: str = "=",
    ) -> Check:
        """Record one answered question: `measured` is expected to be = ≤ ≥ < > (`relation`) `threshold`.

        It takes the place of an earlier answer to the same question: names are unique in a step. At most 20 offenders are
        named; `offenders` is how many there are. A check that passed keeps no reason.
        """
        named = [dict(row) for row in ids[:20]]
        most = max(offenders, len(ids))
        reason = "" if verdict in UNREMARKABLE else reason
        found = Check(name, verdict, measured, threshold, unit, reason, detail, most, named, parameter, relation)
        self.forget(name)
        self.result.checks.append(found)
        return found

    def judge(
        self,
        name: str,
        otherwise: Verdict = Verdict.FAIL,
        *,
        measured: Any,
        threshold: Any,
        relation: str = "=",
        **more: Any,
    ) -> Check:
        """As `check`, where the figures decide: PASS if `measured` is = ≤ ≥ < > `threshold`, else `otherwise`."""
        verdict = Verdict.PASS if meets(measured, relation, threshold) else otherwise
        return self.check(name, verdict, measured=measured, threshold=threshold, relation=relation, **more)

    def lasted(self, name: str, seconds: float, expected: float, parameter: str) -> Check:
        """How long something was watched: NOT EXERCISED where the runbook asks for longer, such as 3 s of 60 min."""
        whole = seconds >= expected
        said = f"{duration(seconds)} of {duration(expected)}, first look to last"
        return self.check(
            name, Verdict.PASS if whole else Verdict.NOT_EXERCISED, measured=round(seconds, 1), threshold=expected, relation="≥",
            unit="s", parameter=parameter, detail="" if whole else said,
        )  # fmt: skip

    def fact(self, name: str, value: Any) -> None:
        """A figure that later steps and pages read by name (JSON-able)."""
        self.result.facts[name] = value

    def sampled(self, what: str, asked: int, of: int) -> None:
        """What this step judges by some of `of` chunks, for the page's only list of samples; nothing where all were asked."""
        rows = [row for row in self.result.facts.get("sampled", []) if row["what"] != what]
        self.fact("sampled", [*rows, {"what": what, "asked": asked, "of": of}] if 0 < asked < of else rows)

    @contextlib.contextmanager
    def phase(self, name: str, chunks: int = 0) -> Iterator[Phase]:
        """Time a stretch of work; the phase is recorded also when it fails. `chunks` may be set on the phase inside."""
        phase = Phase(name, utc_now(), 0.0, chunks)
        begun = time.monotonic()
        self.log(f"phase {name} begins")
        try:
            yield phase
        finally:
            phase.seconds = round(time.monotonic() - begun, 3)
            self.result.phases.append(phase)
            self.log(f"phase {name} ended after {phase.seconds:.1f} s, {count(phase.chunks, 'chunk')}")

    def finish(self) -> None:
        """Write the result; its verdict is the worst of the checks. A figure that shows something else is one of them."""
        self.judge_figures()
        self.result.verdict = worst(check.verdict for check in self.result.checks)
        self.write_result()

    def judge_figures(self) -> None:
        """Hold every figure of this execution against the result; what differs is a check with a warning."""
        if not self._figures:
            return
        from helpers.plots import disagreements

        found = [line for name, figure in self._figures.items() for line in disagreements(name, figure, self.result)]
        self.log(f"{len(self._figures)} figures held against the result: {'; '.join(found) or 'they agree'}")
        if found:
            self.check("figures that differ from the result", Verdict.WARNING, measured=len(found), threshold=0, unit="values",
                       reason=ReasonCode.FIGURE_DIFFERS, detail="; ".join(found[:3]))  # fmt: skip

    def write_result(self) -> str:
        """Write results/<step>.json as it is now; its SHA-256."""
        self.result.finished = utc_now()
        path = self.folder / RunPath.RESULTS / f"{self.step}.json"
        self.wrote(path, digest := self.result.write(path))
        return digest

    def wrote(self, path: Path, digest: str) -> None:
        """Have this file, or that it is not there (""), named by the log where the step ends: only what is named is sealed.

        `digest` is that of what was written: what lies there may be another's by now.
        """
        self.files[path.relative_to(self.folder).as_posix()] = digest

    def apart(self) -> contextlib.AbstractContextManager[None]:
        """Inside it this process lets go of the run, so that a command of its own can work on it."""
        return contextlib.nullcontext()

    def progress(self, label: str, total: int, unit: str = "chunks") -> Progress:
        """A bar for the terminal and the notebook. Its `advance` is where a run that was asked to stop stops."""
        self._bar = Progress(self, label, total, unit)
        return self._bar

    def waiting(self, sentence: str) -> None:
        """The source makes the work wait: said beside the bar until it moves on, and in run.log twice a minute at most."""
        now = time.monotonic()
        if now - self._told >= 30:
            self._told = now
            self.log(f"source: {sentence}")
        if self._bar is not None:
            self._bar.waiting(sentence)

    def figure(self, name: str, fig: Figure, caption: str) -> Path:
        """Save the figure as figures/<step>_<name>.svg, list it in the result, show it in the notebook, close it.

        Its title says what was found, so title and caption together are the text for those who cannot see it. The notebook
        holds it as PNG, which Jupyter shows also where it does not trust the notebook; pages take the SVG.
        """
        from helpers.plots import png, save

        file = f"{self.step}_{name}.svg"
        path = self.folder / RunPath.FIGURES / file
        self.wrote(path, save(fig, path))
        self.result.figures = [f for f in self.result.figures if f["file"] != file]
        alt = ". ".join(filter(None, [" ".join(fig.get_suptitle().split()), caption]))
        self.result.figures.append({"name": name, "file": file, "caption": caption, "alt": alt})
        self._figures[name] = fig
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(fig)
        if _in_notebook():
            from IPython.display import Image, display

            display(Image(data=png(fig), format="png", alt=alt, metadata={"figure": file}))  # type: ignore[no-untyped-call]
        return path

    def earlier(self, step: str) -> StepResult | None:
        """What an earlier step of this run found, or None."""
        return self.home.result(plan.find(step).number)

    def require(self, step: str) -> StepResult:
        """What an earlier step found, be it NO-GO; a UsageError with the step to run where it was not finished."""
        row = plan.find(step)
        found = self.earlier(row.number)
        if found is not None and (found.error is None or found.error["code"] == ReasonCode.NO_GO):
            return found
        raise step_missing(plan.find(self.step), row, self.id)

    def log(self, message: str) -> None:
        """One dated line in run.log."""
        self.home.log(message, self.step)

    def show_progress(self, text: str) -> None:
        """One line in the notebook that is replaced in place; a cell has only one."""
        if not _in_notebook():
            return
        from IPython import get_ipython
        from IPython.display import display

        content = {"text/plain": text}
        cell = int(get_ipython().execution_count)
        if self._display[0] == cell:
            self._display[1].update(content, raw=True)
        else:
            handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            self._display = (cell, handle)


class NotebookStep:
    """What every step gives its notebook: `checks` and `finish`, beside a method for each thing to look at."""

    run: RunRecord

    def checks(self) -> pd.DataFrame:
        """Every check so far, in the order in which they were made.

        Columns: check, verdict, expected, measured, parameter, detail. `expected` is the limit that `measured` was
        judged by, with its direction; both have their unit. `parameter` is the key that sets it, with which it can be
        changed; "" where a rule of the runbook or the run's own data sets it.
        """
        import pandas as pd

        rows = [
            [c.name, str(c.verdict), c.expected, c.measured_text, c.parameter, c.detail] for c in self.run.result.checks
        ]
        return pd.DataFrame(rows, columns=["check", "verdict", "expected", "measured", "parameter", "detail"])

    def finish(self) -> None:
        """Write the result of this step, show how it came out, and fail the notebook where the step failed."""
        self.run.finish()


def step_missing(step: plan.Step, needed: plan.Step, run_id: str) -> UsageError:
    """The error for a step that comes too early; without an id no run was found to work on."""
    whose = f"run {run_id}" if run_id else "no run of this source and target"
    same = f"-p run_id {run_id}, or {RUNBOOK} resume {run_id}" if run_id else "the same parameters"
    return UsageError(
        ReasonCode.STEP_MISSING,
        f"step {step.number} needs step {needed.number} ({needed.title}), which {whose} has {'not ' if run_id else ''}finished",
        next_step=f"Run it first: notebooks/{needed.notebook} with {same}.",
    )


class Progress:
    """How far a stretch of work is: workspace/<id>/progress.json for the terminal, a line in the notebook.

    `advance` may be called from any thread. It raises `Interrupted` once the run has been asked to stop, so callers
    call it where stopping is safe: after a batch, never inside one.
    """

    def __init__(self, run: RunRecord, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._before = 0
        self._waiting = ""
        self._run = run
        self._begun = time.monotonic()
        self._written = self._shown = float("-inf")
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        self._report(final=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._report(final=True)

    def advance(self, n: int = 1) -> None:
        """n more are done."""
        with self._guard:
            self.done += n
            self._waiting = ""
            self._report(final=False)
        if self._run.home.stop_file.exists():
            on = "rollback" if self._run.step == plan.Step.ROLLBACK.number else "resume"
            raise Interrupted.by_signal(self._run.home.command(on))

    def waiting(self, sentence: str) -> None:
        """Why nothing moves, until something does."""
        with self._guard:
            self._waiting = sentence
            self._report(final=False)

    def already(self, n: int) -> None:
        """n were done before this stretch of work began (a resume): they say nothing about its pace."""
        self._before += n
        self.advance(n)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def _report(self, *, final: bool) -> None:
        now = time.monotonic()
        if final or now - self._written >= 0.25:
            self._written = now
            self._write()
        if final or now - self._shown >= 1.0:
            self._shown = now
            said = describe(self.label, self.done, self.total, self.unit, self.seconds, self._before)
            self._run.show_progress(f"{said}; {self._waiting}" if self._waiting else said)

    def _write(self) -> None:
        state = {
            "step": self._run.step,
            "label": f"{self.label} ({self._waiting})" if self._waiting else self.label,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds": round(self.seconds, 3),
            "workers": self._run.workers.sentence if self._run.workers is not None else "",
        }
        path = self._run.workspace / RunPath.PROGRESS
        temporary = path.with_name(f".progress.{threading.get_ident()}.tmp")
        with naming(temporary):
            temporary.write_text(json.dumps(state), encoding="utf-8")
        temporary.replace(path)  # whole for the reader; not flushed to disk, it is worth nothing after a crash


def describe(label: str, done: int, total: int, unit: str, seconds: float, before: int = 0) -> str:
    """`writing: 4,500 of 9,832 chunks (45 %), 12 s, about 15 s to go`; `before` were done when the clock started.

    At the end `writing: 9,832 chunks in 12 s`, and what an earlier attempt had done is named apart.
    """
    if done >= total:
        parts = (
            f"{before:,} of them before this attempt and {done - before:,} in it"
            if done > before
            else "all before this attempt"
        )
        return f"{label}: {done:,} {unit_of(done, unit)}{f', {parts},' * bool(before)} in {duration(seconds)}"
    new = done - before
    left = f", about {duration(seconds / new * (total - done))} to go" if new > 0 and seconds > 1 else ""
    return (
        f"{label}: {done:,} of {total:,} {unit_of(total, unit)} ({100 * done / total:.0f} %), {duration(seconds)}{left}"
    )


def _in_notebook() -> bool:
    """True in a Jupyter kernel (not in a terminal, a script or a test)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


# -- open source -------------------------------------------------------------------------------------------------------
#
# The cosine trap (chroma-facts 2): a copied configuration would search by a distance that the collection never used.


# -- source ------------------------------------------------------------------------------------------------------------

# The source of a run, opened to read what its filter lets through; what was asked of it is the step's fact.


PLACE = "source_place"  # in run.json: the source as its key resolved it, where the parameters leave that open
USAGE = "source_usage"  # the step's fact: requests, rows, bytes, refusals, seconds waited


@contextlib.contextmanager
def open_chosen(run: RunRecord, keep: Path | None = None) -> Iterator[Reader]:
    """A collection that is left out may be beyond reading: it is listed and let alone. `keep`: as for `open_source`.

    Raises `Terminal` ("other_source") where the key opens another tenant or database than when the run began.
    """
    from helpers.stores import open_source, sharded

    parameters = run.parameters
    normalised = parameters.migration.normalised == "migrate"
    selects = parameters.collections.selects
    with open_source(parameters.source, run.workspace, selects, normalised=normalised, keep=keep) as store:
        part = sharded(store, parameters.collections.shard)
        if parameters.source.is_embedded:
            yield part
            return
        _require_same_place(run, store.label)
        store.usage.tell = run.waiting
        try:
            yield part
        finally:
            before = run.result.facts.get(USAGE, {})
            run.fact(USAGE, {name: round(n + before.get(name, 0), 1) for name, n in store.usage.counts().items()})


def _require_same_place(run: RunRecord, label: str) -> None:
    began = run.home.facts.get(PLACE, "")
    if began and began != label:
        raise Terminal(
            ReasonCode.OTHER_SOURCE, f"the key opens {label} now; the run began with {began}", where=f"run {run.id}",
            next_step="Use the key that the run began with, or begin a new run.",
        )  # fmt: skip
    if not began and label != run.parameters.source.label and not run.watches_only:
        run.home = run.home.note(**{PLACE: label})
        run.log(f"the key of the source opens {label}")


# -- open source -------------------------------------------------------------------------------------------------------


def check_connection(run: RunRecord, role: str, endpoint: Endpoint) -> None:
    """Put on record what the connection gives away; nothing where it gives nothing away."""
    for reason, said in endpoint.exposed():
        what = "check of the certificate" if reason is ReasonCode.TLS_UNVERIFIED else "encryption of secrets on the way"
        run.check(f"{role}: {what}", Verdict.WARNING, measured="none", threshold="on", reason=reason, detail=said)


def check_spaces(run: RunRecord, infos: Iterable[CollectionInfo], *, named: bool = False) -> None:
    """Put on record whether every collection searches by the space that it declares; `named` tells the first five."""
    trapped = [info for info in infos if info.space != info.declared_space]
    names = "; ".join(f"{one_line(i.name, 60)}: declared {i.declared_space}, is {i.space}" for i in trapped[:5])
    said = f"The effective space is migrated, not the declared one{f' ({names})' if named else ''}."
    run.check(
        "collections in another space than declared",
        Verdict.WARNING if trapped else Verdict.PASS,
        measured=len(trapped),
        threshold=0,
        unit="collections",
        reason=ReasonCode.DISTANCE_SPACE if trapped else "",
        detail=said if trapped else "",
        ids=[{"collection": i.name, "effective": i.space, "declared": i.declared_space} for i in trapped],
    )
