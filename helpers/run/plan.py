"""The steps of the runbook, their order and their gates, as data: a new step is a notebook and a row here."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from enum import StrEnum

from helpers.errors import UsageError
from helpers.reason_codes import ReasonCode

_BEFORE, _NIGHT, _RECOVERY = "1 Before the migration", "2 The migration", "3 Recovery"
_TROUBLE, _AFTER = "4 Troubleshooting", "5 After the migration"
_DATA = ("21", "22")  # the steps that most of Section 4 needs
_CUT_OVER = ("21", "22", "23", "24", "25")
EMBEDDINGS = "embeddings"  # a check of step 23
CONTRADICTIONS = "fields that contradict their document"  # a check of steps 11, 13 and 23
_CLOSING = ("50", "51", "52", "53")  # their results are about one cutover


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """How a step is run; each rule is an attribute of the step.

    `needs`: the steps that must be finished first; in the standard sequence all earlier steps are. `on_line`: part of the
    standard sequence; others run on demand. `outdates`: the steps whose results become invalid when this one runs again.
    `judges`: a failure means NO-GO, not just a failed step; `decides`: the step that turns such failures into a decision,
    to which the run continues. `gate`: the approvals that are due after the step. `fenced`: needs an active write fence;
    if it was lifted, step 20 runs again first. `in_window`: starts only in the maintenance window, because it changes
    something that others use.
    """

    on_line: bool = True
    judges: bool = False
    decides: str = ""
    gate: str = ""
    fenced: bool = False
    in_window: bool = False
    needs: tuple[str, ...] = ()
    outdates: tuple[str, ...] = ()


class Step(StrEnum):
    """One notebook: the member's name is that of the notebook, its value the number, as in results and on command lines."""

    title: str  # type: ignore[assignment]  # replaces the method of str
    section: str
    on_line: bool
    judges: bool
    decides: str
    gate: str
    fenced: bool
    in_window: bool
    needs: tuple[str, ...]
    outdates: tuple[str, ...]

    def __new__(cls, number: str, title: str, section: str, rules: _Rules = _Rules()) -> Step:
        self = str.__new__(cls, number)
        self._value_ = number
        self.title, self.section = title, section
        self.__dict__.update(asdict(rules))
        return self

    INDEX = "00", "Index", "0 Overview", _Rules(on_line=False)
    SOURCE_HEALTH = "10", "Source health", _BEFORE
    EXPLORE_SOURCE = "11", "Explore the source", _BEFORE
    TARGET_READINESS = "12", "Target readiness", _BEFORE
    DRY_RUN = "13", "Dry run", _BEFORE, _Rules(judges=True, outdates=("14", "23", "24", "25", *_CLOSING))
    SCHEDULE_AND_NOTIFY = "14", "Schedule and notify", _BEFORE, _Rules(gate="dry-run")
    FENCE_WRITES = "20", "Fence off writes", _NIGHT, _Rules(in_window=True)
    SNAPSHOT = "21", "Snapshot", _NIGHT, _Rules(fenced=True, outdates=("22", "23", "24", "25", *_CLOSING))
    MIGRATE = (
        "22", "Migrate", _NIGHT,
        _Rules(judges=True, fenced=True, in_window=True, needs=("21",), outdates=("23", "24", "25", *_CLOSING)),
    )  # fmt: skip
    VALIDATE = (
        "23", "Validate", _NIGHT,
        _Rules(judges=True, decides="24", needs=("21", "22"), outdates=("24", "25", *_CLOSING)),
    )  # fmt: skip
    REVIEW = (
        "24", "Review and decide", _NIGHT,
        _Rules(judges=True, gate="cutover", needs=("21", "22", "23"), outdates=("25", *_CLOSING)),
    )  # fmt: skip
    CUTOVER = (
        "25", "Cut over", _NIGHT,
        _Rules(fenced=True, in_window=True, needs=("21", "22", "23", "24"), outdates=_CLOSING),
    )  # fmt: skip
    HOLD_AND_TROUBLESHOOT = "26", "Hold and troubleshoot", _NIGHT, _Rules(on_line=False, needs=("21",))
    ROLLBACK = "27", "Rollback", _NIGHT, _Rules(on_line=False, needs=_DATA)
    CHECKPOINT_RECOVERY = "30", "Checkpoint recovery", _RECOVERY, _Rules(on_line=False, needs=_DATA)
    TROUBLESHOOTING = "40", "Troubleshooting", _TROUBLE, _Rules(on_line=False)
    STUCK_BATCH = "41", "Stuck batch", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    INVALID_SCORES = "42", "Invalid scores", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    OUT_OF_MEMORY = "43", "Out of memory", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    SEARCH_NOT_WORKING = "44", "Search not working", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    NETWORK = "45", "Network", _TROUBLE, _Rules(on_line=False)
    MISSING_METADATA = "46", "Missing metadata", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    NAN_EMBEDDINGS = "47", "NaN embeddings", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    COUNT_MISMATCH = "48", "Count mismatch", _TROUBLE, _Rules(on_line=False, needs=_DATA)
    MONITOR = "50", "Monitor", _AFTER, _Rules(needs=_CUT_OVER, outdates=("53",))
    PERFORMANCE = "51", "Performance", _AFTER, _Rules(needs=_CUT_OVER, outdates=("53",))
    INTEGRATION = "52", "Integration tests", _AFTER, _Rules(needs=_CUT_OVER, outdates=("53",))
    CLOSEOUT = "53", "Close out", _AFTER, _Rules(gate="closeout", needs=(*_CUT_OVER, "50", "51", "52"))

    @property
    def number(self) -> str:
        return self.value

    @property
    def module(self) -> str:
        """Name of the module `helpers/steps/<module>.py`."""
        return self.name.lower()

    @property
    def stem(self) -> str:
        """Stem of the notebook's files, such as 22_migrate."""
        return f"{self}_{self.module}"

    @property
    def notebook(self) -> str:
        return f"{self.stem}.ipynb"

    @property
    def class_name(self) -> str:
        """Name of the class in `helpers/steps/<module>.py` that the notebook uses."""
        return f"{self.module.title().replace('_', '')}Step"

    @property
    def troubleshoots(self) -> bool:
        """Whether the step is in Section 4: `dry_run` is the default, and it may always run if it changes nothing."""
        return self.section == _TROUBLE

    @property
    def follows_cutover(self) -> bool:
        """Whether the step is in Section 5: clients use the target by then, and stay there after a failure."""
        return self.section == _AFTER


LINE: tuple[Step, ...] = tuple(step for step in Step if step.on_line)
LAST_OF_DRY_RUN = Step.SCHEDULE_AND_NOTIFY
NO_TARGET = "workspace/no-target-named"  # the target of a run that only examines its source; no step writes there


def find(name: str) -> Step:
    """The step with this number (`23`), name (`validate`) or notebook (`23_validate`); UsageError if there is none."""
    wanted = name.rsplit("/", 1)[-1].removesuffix(".ipynb")
    for step in Step:
        if wanted in (step, step.module, step.stem):
            return step
    stems = [step.stem for step in Step]
    names = {**{s: s for s in stems}, **{s.module: s.stem for s in Step}}
    matches = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {names[matches[0]]}?" if matches else f"The steps are {', '.join(stems)}."
    raise UsageError(ReasonCode.UNKNOWN_STEP, f"there is no step {name!r}", next_step=hint)


def on_line(name: str) -> Step:
    """As `find`, for `--from` and `--until`: UsageError also for a step on demand."""
    step = find(name)
    if not step.on_line:
        raise UsageError(
            ReasonCode.STEP_OFF_LINE,
            f"step {step.stem} is on demand, not part of the standard sequence",
            next_step=f"Open notebooks/{step.notebook}; the sequence is {', '.join(s.number for s in LINE)}.",
        )
    return step


def between(first: Step, last: Step) -> list[Step]:
    """The steps of the standard sequence from first to last, both included; UsageError if they are reversed."""
    start, stop = LINE.index(first), LINE.index(last)
    if start > stop:
        raise UsageError(
            ReasonCode.STEPS_REVERSED, f"step {first.number} comes after step {last.number}; nothing to run"
        )
    return list(LINE[start : stop + 1])


def outdated_by(step: Step) -> list[Step]:
    """The step itself and the steps whose results become invalid when it runs again."""
    return [step, *(find(number) for number in step.outdates)]
