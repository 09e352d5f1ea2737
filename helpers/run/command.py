"""The operator's programs, and nginx: argument lists, never a shell, always with a time limit."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from helpers.errors import Terminal, one_line
from helpers.reason_codes import ReasonCode


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended. `said` is all that it printed, standard error included."""

    code: int
    said: str

    @property
    def last_line(self) -> str:
        lines = [line for line in self.said.splitlines() if line.strip()]
        return one_line(lines[-1], 300) if lines else "it printed nothing"


LIMIT = "fence.timeout_seconds"


def run_program(arguments: Sequence[str], seconds: float, what: str, limit: str = LIMIT) -> Done:
    """Run it and wait. `Terminal` where it cannot be started or takes longer; whatever it started is then ended too.

    `limit` is the parameter that says how long it may take.

    Its output goes to a file and not a pipe: a daemon that it leaves behind would keep a pipe open for ever.
    """
    shown = shlex.join(arguments)
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise Terminal(
                ReasonCode.PROGRAM_MISSING, f"{what} cannot be started ({error.strerror}): {shown}",
                next_step=f"Install {arguments[0]}, or give its whole path in the parameters.",
            ) from error  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            out.seek(0)
            said = Done(-1, out.read().decode("utf-8", "replace")).last_line
            raise Terminal(
                ReasonCode.PROGRAM_TIMEOUT, f"{what} took longer than {seconds:g} seconds and was ended: {shown} ({said})",
                next_step=f"Raise {limit}, or see what it waits for.",
            ) from None  # fmt: skip
        out.seek(0)
        return Done(code, out.read().decode("utf-8", "replace"))


def run_or_fail(arguments: Sequence[str], seconds: float, what: str, limit: str = LIMIT) -> Done:
    """As `run_program`; `Terminal` also where its exit code is not 0."""
    done = run_program(arguments, seconds, what, limit)
    if done.code:
        raise Terminal(
            ReasonCode.PROGRAM_FAILED, f"{what} ended with exit code {done.code}: {done.last_line}",
            next_step=f"Try it by hand: {shlex.join(arguments)}",
        )  # fmt: skip
    return done
