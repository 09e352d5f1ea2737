"""45: source or target out of reach, or too slow: each connection layer by layer, the fence, waiting, time-outs."""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import Any

import pandas as pd

from helpers.fence import FenceState
from helpers.parameters import parameters_from
from helpers.reason_codes import ReasonCode
from helpers.run import folders as runs
from helpers.stores.limits import ATTEMPTS
from helpers.troubleshooting import reach
from helpers.troubleshooting.troubleshooter import Condition, Found, Troubleshooter

ROLES = ("source", "target")


class NetworkStep(Troubleshooter):
    """Both connections, layer by layer. The resolution waits until both answer, with a longer time-out where one is given."""

    code = ReasonCode.UNREACHABLE

    def look(self) -> Found:
        layers = [layer for role in ROLES for layer in reach.layers(getattr(self.run.parameters, role), role)]
        table = pd.DataFrame(
            [(*astuple(layer)[:5], reach.remedy(layer)) for layer in layers],
            columns=["endpoint", "check", "ok", "seen", "seconds", "what to do"],
        )
        bad = [layer for layer in layers if not layer.ok]
        return Found(table, len(bad), "; ".join(f"{r.endpoint}: {r.layer}: {r.seen}" for r in bad), "failed checks")

    def fence(self) -> pd.DataFrame:
        """Whether a write fence of this run is active: behind one, writes are refused and reads pass."""
        state = FenceState.load(self.run.workspace)
        said = state.sentence() if state is not None else ""
        return pd.DataFrame([("write fence", said or "this run has no active fence")], columns=["what", "state"])

    def retries(self) -> pd.DataFrame:
        """What is tried again, how often and after how long, and the time-outs that this run works with."""
        parameters = self.run.parameters
        rows = [
            ("tries of a read, and of a write whose chunks are looked up first", str(ATTEMPTS)),
            ("pauses between them", "0.2, 0.4, 0.8, 1.6 s"),
            *((f"{role}.timeout_seconds", f"{getattr(parameters, role).timeout_seconds:g} s") for role in ROLES),
        ]
        return pd.DataFrame(rows, columns=["setting", "value"])

    def conditions(self, **options: Any) -> list[Condition]:
        return [self.nobody_at_work()]

    def plan(self, **options: Any) -> pd.DataFrame:
        settings = self._settings(**{k: v for k, v in options.items() if k != "wait_seconds"})
        now = runs.flatten(self.run.parameters.document())
        rows = [(key, str(now.get(key)), str(value)) for key, value in settings.items()]
        rows.append(("wait until both ends answer", "", f"{options.get('wait_seconds', 60):g} s at most"))
        return pd.DataFrame(rows, columns=["what", "now", "then"])

    def apply(self, **options: Any) -> pd.DataFrame:
        """Change the time-outs of this run, then check both connections until they work or the wait is over."""
        wait = float(options.pop("wait_seconds", 60))
        settings = self._settings(**options)
        before = self.run.parameters
        if settings:
            new = before.for_resume([f"{key}={value:g}" for key, value in settings.items()])
            runs.change_parameters(self.run.home, parameters_from(new.document()))
            self.run.parameters = new
            self.note("time-outs changed", **{k.replace(".", "_"): v for k, v in settings.items()})
        deadline = time.monotonic() + wait
        rows: list[tuple[Any, ...]] = []
        while True:
            bad = {role: reach.broken(reach.layers(getattr(self.run.parameters, role), role)) for role in ROLES}
            rows.append((len(rows) + 1, *(bad[role] or "answers" for role in ROLES)))
            if not any(bad.values()) or time.monotonic() >= deadline:
                return pd.DataFrame(rows, columns=["try", *ROLES])
            time.sleep(min(5.0, 0.5 * 2 ** min(len(rows), 4), max(0.0, deadline - time.monotonic())))

    def undo(self) -> str:
        """The command that sets the time-outs back."""
        changes = [c["from"] for c in self.run.home.facts()["changes"] if any("timeout" in k for k in c["from"])]
        last = changes[-1] if changes else {}
        sets = " ".join(f"--set {k}={v}" for k, v in sorted(last.items()))
        return f"{self.run.home.command('resume')} {sets}".strip() if sets else "Nothing was changed."

    def _settings(self, source_timeout: float | None = None, target_timeout: float | None = None) -> dict[str, float]:
        given = {"source.timeout_seconds": source_timeout, "target.timeout_seconds": target_timeout}
        return {key: float(value) for key, value in given.items() if value is not None}
