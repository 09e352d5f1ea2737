"""workspace/<run id>/fence.json: what was set, when, by whom, and how it is lifted. Written before anything is touched."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.audit import operator
from helpers.results import StepResult, read_state, utc_now, write_json

NO_WRITES = "source_takes_no_writes"  # of step 20's fact "fence": what was asked and answered, where that is proven
SETTING, UP, LIFTING, LIFTED = "setting", "up", "lifting", "lifted"


@dataclass(slots=True)
class FenceState:
    """One run's fence. `setting` and `lifting` are what a process that was killed leaves: both may be half done.

    `before` says what the configuration file was: `existed`, and `backup`, the copy in the workspace. `rules` are the
    parameters that it was set with: it is lifted with these, whatever they have been changed to since.
    """

    kind: str
    state: str
    lift: str
    since: str = ""
    by: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, str]] = field(default_factory=list)

    @staticmethod
    def path(workspace: Path) -> Path:
        return workspace / "fence.json"

    @classmethod
    def read(cls, workspace: Path) -> FenceState | None:
        """What is known of the run's fence, or None where it never set one."""
        hint = "See whether the fence is up, lift it by hand, and set this file aside."
        return read_state(cls.path(workspace), lambda raw: cls(**raw), "fence_state_damaged", hint)

    def enter(self, workspace: Path, state: str, **facts: Any) -> None:
        """Go over to this state, on disk before anything else happens."""
        for name, value in facts.items():
            setattr(self, name, value)
        self.state = state
        self.events.append({"when": utc_now(), "by": operator(), "state": state})
        write_json(self.path(workspace), asdict(self))

    @property
    def stands(self) -> bool:
        """Whether it was put up, proven, and not lifted since."""
        return self.state == UP

    @property
    def may_stand(self) -> bool:
        """Whether something of it may be in place."""
        return self.state != LIFTED

    def sentence(self) -> str:
        """For status and summary: `The write fence (nginx) is up since …; lift it with: …`; "" where it is lifted."""
        if not self.may_stand:
            return ""
        said = "is up" if self.stands else f"may be in place (a process ended while {self.state} it)"
        return f"The write fence ({self.kind}) {said} since {self.since[:19]} UTC. Lift it with: {self.lift}"


def takes_no_writes(step: StepResult | None) -> bool:
    """Whether this result of step 20 proves that nobody can write to the source, so that no fence is needed."""
    return step is not None and step.error is None and bool((step.facts.get("fence") or {}).get(NO_WRITES))
