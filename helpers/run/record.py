"""A step's access to its run: parameters, folders, checks, phases, figures, progress, results of earlier steps."""

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


PEAK_MEMORY = "peak_memory_bytes"  # a step's fact: peak memory of its process


class RunRecord:
    """One step of one run, while it runs.

    `watches_only`: another process works on the run at the same time, so this step must not change anything.
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
        self.leaving = contextlib.ExitStack()  # closed together with the run
        self.workers: Any = None  # `executor.Workers`, after their first use
        self._display: tuple[int, Any] = (-1, None)
        self._bar: RunProgress | None = None
        self._source_logged = float("-inf")
        self._figures: dict[str, Figure] = {}  # figures of this execution, by name
        self.files: dict[str, str] = {}  # files that this execution wrote into the reports, with their digests

    def forget(self, *names: str) -> None:
        """Remove these checks from the result."""
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
        """Record a check: `measured` is expected to be = ≤ ≥ < > (`relation`) `threshold`.

        Replaces an earlier check of the same name: names are unique in a step. Lists at most 20 offenders; `offenders` is
        their number. A check that passed has no reason.
        """
        listed = [dict(row) for row in ids[:20]]
        total = max(offenders, len(ids))
        reason = "" if verdict in UNREMARKABLE else reason
        check = Check(name, verdict, measured, threshold, unit, reason, detail, total, listed, parameter, relation)
        self.forget(name)
        self.result.checks.append(check)
        return check

    def judge(
        self,
        name: str,
        otherwise: Verdict = Verdict.FAIL,
        *,
        measured: Any,
        threshold: Any,
        relation: str = "=",
        **details: Any,
    ) -> Check:
        """As `check`, with the verdict by the figures: PASS if `measured` is = ≤ ≥ < > `threshold`, else `otherwise`."""
        verdict = Verdict.PASS if meets(measured, relation, threshold) else otherwise
        return self.check(name, verdict, measured=measured, threshold=threshold, relation=relation, **details)

    def lasted(self, name: str, seconds: float, expected: float, parameter: str) -> Check:
        """Record how long something was watched, in seconds: NOT EXERCISED if shorter than `expected`."""
        complete = seconds >= expected
        watched = f"{duration(seconds)} of {duration(expected)}, first look to last"
        return self.check(
            name, Verdict.PASS if complete else Verdict.NOT_EXERCISED, measured=round(seconds, 1), threshold=expected,
            relation="≥", unit="s", parameter=parameter, detail="" if complete else watched,
        )  # fmt: skip

    def fact(self, name: str, value: Any) -> None:
        """Record a JSON value that later steps and pages read by name."""
        self.result.facts[name] = value

    def sampled(self, subject: str, measured: int, total: int) -> None:
        """Record, for the page's list of samples, that `subject` was measured on a part of `total`. Nothing if on all or none."""
        rows = [row for row in self.result.facts.get("sampled", []) if row["what"] != subject]
        row = {"what": subject, "asked": measured, "of": total}
        self.fact("sampled", [*rows, row] if 0 < measured < total else rows)

    @contextlib.contextmanager
    def phase(self, name: str, chunks: int = 0) -> Iterator[Phase]:
        """Context manager: time a part of the work. A failed phase is recorded, too. `chunks` may be set on the phase inside."""
        phase = Phase(name, utc_now(), 0.0, chunks)
        start = time.monotonic()
        self.log(f"phase {name} begins")
        try:
            yield phase
        finally:
            phase.seconds = round(time.monotonic() - start, 3)
            self.result.phases.append(phase)
            self.log(f"phase {name} ended after {phase.seconds:.1f} s, {count(phase.chunks, 'chunk')}")

    def finish(self) -> None:
        """Check the figures, and write the result with the worst verdict of its checks."""
        self.judge_figures()
        self.result.verdict = worst(check.verdict for check in self.result.checks)
        self.write_result()

    def judge_figures(self) -> None:
        """Compare every figure of this execution with the result; differences become a check with a warning."""
        if not self._figures:
            return
        from helpers.plots import disagreements

        figures = self._figures.items()
        differences = [line for name, figure in figures for line in disagreements(name, figure, self.result)]
        self.log(f"{len(self._figures)} figures held against the result: {'; '.join(differences) or 'they agree'}")
        if differences:
            self.check("figures that differ from the result", Verdict.WARNING, measured=len(differences), threshold=0,
                       unit="values", reason=ReasonCode.FIGURE_DIFFERS, detail="; ".join(differences[:3]))  # fmt: skip

    def write_result(self) -> str:
        """Write results/<step>.json and return its SHA-256."""
        self.result.finished = utc_now()
        path = self.folder / RunPath.RESULTS / f"{self.step}.json"
        self.wrote(path, digest := self.result.write(path))
        return digest

    def wrote(self, path: Path, digest: str) -> None:
        """Register a file of the reports for the log, which names it when the step ends: only logged files are sealed.

        `digest`: SHA-256 of the bytes written, not of the file as it is now; "" if the file was removed.
        """
        self.files[path.relative_to(self.folder).as_posix()] = digest

    def unlocked(self) -> contextlib.AbstractContextManager[None]:
        """Context manager: release the run, so that a command that this process starts can work on it."""
        return contextlib.nullcontext()

    def progress(self, label: str, total: int, unit: str = "chunks") -> RunProgress:
        """A progress bar for the terminal and the notebook. A run that was asked to stop stops in its `advance`."""
        self._bar = RunProgress(self, label, total, unit)
        return self._bar

    def waiting(self, sentence: str) -> None:
        """Show that the work waits for the source, beside the bar until it advances, and in run.log at most every 30 s."""
        now = time.monotonic()
        if now - self._source_logged >= 30:
            self._source_logged = now
            self.log(f"source: {sentence}")
        if self._bar is not None:
            self._bar.waiting(sentence)

    def figure(self, name: str, fig: Figure, caption: str) -> Path:
        """Save the figure as figures/<step>_<name>.svg, list it in the result, show it in the notebook, close it. Its path.

        Its title states the finding: title and caption are the alternative text. The notebook holds a PNG, which Jupyter
        shows even in a notebook that it does not trust; pages use the SVG.
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
        """The result of an earlier step of this run; None if there is none."""
        return self.home.result(plan.find(step).number)

    def require(self, step: str) -> StepResult:
        """The result of an earlier step, which may be NO-GO. UsageError with the step to run if it was not finished."""
        row = plan.find(step)
        result = self.earlier(row.number)
        if result is not None and (result.error is None or result.error["code"] == ReasonCode.NO_GO):
            return result
        raise step_missing(plan.find(self.step), row, self.id)

    def log(self, message: str) -> None:
        """One dated line in run.log."""
        self.home.log(message, self.step)

    def show_progress(self, text: str) -> None:
        """Show one line in the notebook; it replaces the earlier line of the same cell."""
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
    """Base of every step's class: `checks` and `finish`. Subclasses add the methods that their notebook calls."""

    run: RunRecord

    def checks(self) -> pd.DataFrame:
        """All checks so far, in order.

        Columns: check, verdict, expected, measured, parameter, detail. `expected` is the limit with its relation; it and
        `measured` have their units. `parameter` is the key that sets the limit; "" if a rule of the runbook or the run's
        data sets it.
        """
        import pandas as pd

        rows = [
            [c.name, str(c.verdict), c.expected, c.measured_text, c.parameter, c.detail] for c in self.run.result.checks
        ]
        return pd.DataFrame(rows, columns=["check", "verdict", "expected", "measured", "parameter", "detail"])

    def finish(self) -> None:
        """Write the result of this step. In a subclass: also show it, and raise if the step failed."""
        self.run.finish()


def step_missing(step: plan.Step, needed: plan.Step, run_id: str) -> UsageError:
    """The error for a step whose needed step is not finished; without an id, no run was found."""
    owner = f"run {run_id}" if run_id else "no run of this source and target"
    arguments = f"-p run_id {run_id}, or {RUNBOOK} resume {run_id}" if run_id else "the same parameters"
    return UsageError(
        ReasonCode.STEP_MISSING,
        f"step {step.number} needs step {needed.number} ({needed.title}), which {owner} has {'not ' if run_id else ''}finished",
        next_step=f"Run it first: notebooks/{needed.notebook} with {arguments}.",
    )


class RunProgress:
    """Progress of a part of the work: workspace/<id>/progress.json for the terminal, a line in the notebook.

    `advance` may be called from any thread. It raises `Interrupted` after a request to stop: call it only where stopping
    is safe, which is after a batch.
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
        """Count n more units as done. Raises `Interrupted` if the run was asked to stop."""
        with self._guard:
            self.done += n
            self._waiting = ""
            self._report(final=False)
        if self._run.home.stop_file.exists():
            command = "rollback" if self._run.step == plan.Step.ROLLBACK.number else "resume"
            raise Interrupted.by_signal(self._run.home.command(command))

    def waiting(self, sentence: str) -> None:
        """Show why the work waits, until the next `advance`."""
        with self._guard:
            self._waiting = sentence
            self._report(final=False)

    def already(self, n: int) -> None:
        """Count n units as done before this work began (a resume): they do not count for its pace."""
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
            text = describe(self.label, self.done, self.total, self.unit, self.seconds, self._before)
            self._run.show_progress(f"{text}; {self._waiting}" if self._waiting else text)

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
        temporary.replace(path)  # atomic; not flushed, because it is useless after a crash


def describe(label: str, done: int, total: int, unit: str, seconds: float, before: int = 0) -> str:
    """`writing: 4,500 of 9,832 chunks (45 %), 12 s, about 15 s to go`; `before`: units done before the clock started.

    At the end `writing: 9,832 chunks in 12 s`, with the number that an earlier attempt had done.
    """
    if done >= total:
        earlier = (
            f"{before:,} of them before this attempt and {done - before:,} in it"
            if done > before
            else "all before this attempt"
        )
        return f"{label}: {done:,} {unit_of(done, unit)}{f', {earlier},' * bool(before)} in {duration(seconds)}"
    recent = done - before
    remaining = f", about {duration(seconds / recent * (total - done))} to go" if recent > 0 and seconds > 1 else ""
    return f"{label}: {done:,} of {total:,} {unit_of(total, unit)} ({100 * done / total:.0f} %), {duration(seconds)}{remaining}"


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel (not a terminal, a script or a test)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


# -- open source -------------------------------------------------------------------------------------------------------
#
# The cosine trap (chroma-facts 2): a copied configuration would search by a distance that the collection never used.


# -- source ------------------------------------------------------------------------------------------------------------

# Opening the source of a run, filtered by its parameters. The usage of the source becomes a fact of the step.


PLACE = "source_place"  # in run.json: the source as its key resolved it, if the parameters leave that open
USAGE = "source_usage"  # the step's fact: requests, rows, bytes, refusals, seconds waited


@contextlib.contextmanager
def open_chosen(run: RunRecord, keep: Path | None = None) -> Iterator[Reader]:
    """Context manager: open the selected collections of the source; others are listed but not read. `keep`: see `open_source`.

    Raises `Terminal` ("other_source") if the key opens another tenant or database than when the run began.
    """
    from helpers.stores import open_source, sharded

    parameters = run.parameters
    normalised = parameters.migration.normalised == "migrate"
    selects = parameters.collections.selects
    with open_source(parameters.source, run.workspace, selects, normalised=normalised, keep=keep) as store:
        chunks = sharded(store, parameters.collections.shard)
        if parameters.source.is_embedded:
            yield chunks
            return
        _require_same_place(run, store.label)
        store.usage.tell = run.waiting
        try:
            yield chunks
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
    """Record a warning for each risk of the connection."""
    for reason, risk in endpoint.exposed():
        name = "check of the certificate" if reason is ReasonCode.TLS_UNVERIFIED else "encryption of secrets on the way"
        run.check(f"{role}: {name}", Verdict.WARNING, measured="none", threshold="on", reason=reason, detail=risk)


def check_spaces(run: RunRecord, infos: Iterable[CollectionInfo], *, named: bool = False) -> None:
    """Record whether every collection searches in the space that it declares; `named`: name the first five that do not."""
    differing = [info for info in infos if info.space != info.declared_space]
    names = "; ".join(f"{one_line(i.name, 60)}: declared {i.declared_space}, is {i.space}" for i in differing[:5])
    detail = f"The effective space is migrated, not the declared one{f' ({names})' if named else ''}."
    run.check(
        "collections in another space than declared",
        Verdict.WARNING if differing else Verdict.PASS,
        measured=len(differing),
        threshold=0,
        unit="collections",
        reason=ReasonCode.DISTANCE_SPACE if differing else "",
        detail=detail if differing else "",
        ids=[{"collection": i.name, "effective": i.space, "declared": i.declared_space} for i in differing],
    )
