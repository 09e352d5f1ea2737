"""The steps of the runbook, their order and their gates, as data: a new step is a notebook and a row here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from helpers.errors import UsageError
from helpers.reason_codes import ReasonCode


@dataclass(frozen=True, slots=True)
class Step:
    """One notebook.

    `needs` are the steps that it cannot do without; in the standard sequence all earlier ones come first anyway.
    `on_line` steps run in order; the others on demand. `outdates` are the steps whose results say nothing any more once
    this one runs again. A step that `judges` data leads to NO-GO when it fails, the others to a plain failure;
    `decides` is the step that turns such failures into a decision, so the run continues to it. `gate` names the
    approvals that are due when the step has passed. A `fenced` step wants the write fence to stand while it works: where
    it was lifted since, step 20 comes first once more. A step that changes something others use starts `in_window` only.
    """

    number: str
    name: str
    title: str
    section: str
    on_line: bool = True
    judges: bool = False
    decides: str = ""
    gate: str = ""
    fenced: bool = False
    in_window: bool = False
    needs: tuple[str, ...] = ()
    outdates: tuple[str, ...] = ()

    @property
    def troubleshoots(self) -> bool:
        """Whether it is of Section 4: there `dry_run` is the default, and a step that changes nothing may always look."""
        return self.section == _TROUBLE

    @property
    def follows_cutover(self) -> bool:
        """Whether it is of Section 5: clients use the target by then, so a failure leaves them there."""
        return self.section == _AFTER

    @property
    def notebook(self) -> str:
        return f"{self.number}_{self.name}.ipynb"

    @property
    def class_name(self) -> str:
        """Of the class in `helpers/steps/<name>.py` that the notebook works with."""
        return f"{self.name.title().replace('_', '')}Step"


_BEFORE, _NIGHT, _RECOVERY = "1 Before the migration", "2 The migration", "3 Recovery"
_TROUBLE = "4 Troubleshooting"
_AFTER = "5 After the migration"

_CLOSING = ("50", "51", "52", "53")  # what these say is of a cutover, and falls with it
_CUT_OVER = ("21", "22", "23", "24", "25")

STEPS: tuple[Step, ...] = (
    Step("00", "index", "Index", "0 Overview", on_line=False),
    Step("10", "source_health", "Source health", _BEFORE),
    Step("11", "explore_source", "Explore the source", _BEFORE),
    Step("12", "target_readiness", "Target readiness", _BEFORE),
    Step("13", "dry_run", "Dry run", _BEFORE, judges=True, outdates=("14", "23", "24", "25", *_CLOSING)),
    Step("14", "schedule_and_notify", "Schedule and notify", _BEFORE, gate="dry-run"),
    Step("20", "fence_writes", "Fence off writes", _NIGHT, in_window=True),
    Step("21", "snapshot", "Snapshot", _NIGHT, fenced=True, outdates=("22", "23", "24", "25", *_CLOSING)),
    Step(
        "22",
        "migrate",
        "Migrate",
        _NIGHT,
        judges=True,
        fenced=True,
        in_window=True,
        needs=("21",),
        outdates=("23", "24", "25", *_CLOSING),
    ),
    Step(
        "23",
        "validate",
        "Validate",
        _NIGHT,
        judges=True,
        decides="24",
        needs=("21", "22"),
        outdates=("24", "25", *_CLOSING),
    ),
    Step(
        "24",
        "review",
        "Review and decide",
        _NIGHT,
        judges=True,
        gate="cutover",
        needs=("21", "22", "23"),
        outdates=("25", *_CLOSING),
    ),
    Step(
        "25",
        "cutover",
        "Cut over",
        _NIGHT,
        fenced=True,
        in_window=True,
        needs=("21", "22", "23", "24"),
        outdates=_CLOSING,
    ),
    Step("26", "hold_and_troubleshoot", "Hold and troubleshoot", _NIGHT, on_line=False, needs=("21",)),
    Step("27", "rollback", "Rollback", _NIGHT, on_line=False, needs=("21", "22")),
    Step("30", "checkpoint_recovery", "Checkpoint recovery", _RECOVERY, on_line=False, needs=("21", "22")),
    Step("40", "troubleshooting", "Troubleshooting", _TROUBLE, on_line=False),
    Step("41", "stuck_batch", "Stuck batch", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("42", ReasonCode.INVALID_SCORES, "Invalid scores", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("43", ReasonCode.OUT_OF_MEMORY, "Out of memory", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("44", "search_not_working", "Search not working", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("45", "network", "Network", _TROUBLE, on_line=False),
    Step("46", ReasonCode.MISSING_METADATA, "Missing metadata", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("47", "nan_embeddings", "NaN embeddings", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("48", ReasonCode.COUNT_MISMATCH, "Count mismatch", _TROUBLE, on_line=False, needs=("21", "22")),
    Step("50", "monitor", "Monitor", _AFTER, needs=_CUT_OVER, outdates=("53",)),
    Step("51", "performance", "Performance", _AFTER, needs=_CUT_OVER, outdates=("53",)),
    Step("52", "integration", "Integration tests", _AFTER, needs=_CUT_OVER, outdates=("53",)),
    Step("53", "closeout", "Close out", _AFTER, needs=(*_CUT_OVER, "50", "51", "52")),
)

LINE: tuple[Step, ...] = tuple(step for step in STEPS if step.on_line)
LAST_OF_DRY_RUN = "14"
FENCE, SNAPSHOT = "20", "21"
NO_TARGET = "workspace/no-target-named"  # of a run that only looks at its source; no step writes there


def find(name: str) -> Step:
    """The step of this number (`23`), name (`validate`) or notebook (`23_validate`); else a UsageError."""
    wanted = name.rsplit("/", 1)[-1].removesuffix(".ipynb")
    for step in STEPS:
        if wanted in (step.number, step.name, f"{step.number}_{step.name}"):
            return step
    stems = [f"{step.number}_{step.name}" for step in STEPS]
    names = {**{s: s for s in stems}, **{s.name: f"{s.number}_{s.name}" for s in STEPS}}
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {names[near[0]]}?" if near else f"The steps are {', '.join(stems)}."
    raise UsageError(ReasonCode.UNKNOWN_STEP, f"there is no step {name!r}", next_step=hint)


def on_line(name: str) -> Step:
    """As `find`, for a step that `--from` and `--until` can name."""
    step = find(name)
    if not step.on_line:
        raise UsageError(
            ReasonCode.STEP_OFF_LINE,
            f"step {step.number}_{step.name} is on demand, not part of the standard sequence",
            next_step=f"Open notebooks/{step.notebook}; the sequence is {', '.join(s.number for s in LINE)}.",
        )
    return step


def between(first: Step, last: Step) -> list[Step]:
    """The steps of the standard sequence from first to last, both included; a UsageError where they are the wrong way round."""
    start, stop = LINE.index(first), LINE.index(last)
    if start > stop:
        raise UsageError(
            ReasonCode.STEPS_REVERSED, f"step {first.number} comes after step {last.number}; nothing to run"
        )
    return list(LINE[start : stop + 1])


def outdated_by(step: Step) -> list[Step]:
    """The step itself and those whose results mean nothing once it runs again."""
    return [step, *(find(number) for number in step.outdates)]
