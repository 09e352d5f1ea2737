"""The application: restarted by the operator's commands, and asked for its health."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from helpers.errors import RunbookError, WorldError, one_line
from helpers.fence.command import run_or_fail
from helpers.parameters.sections import Cutover
from helpers.run.folders import RunFolder
from helpers.stores.wire import Session

ONE_REQUEST = 5.0  # seconds for one answer; an application that needs longer is not well


@dataclass(frozen=True, slots=True)
class Answer:
    """What a health URL said. `body` is its beginning; `problem` is "" where it answered 2xx."""

    url: str
    status: int
    milliseconds: float
    body: str = ""
    problem: str = ""

    @property
    def well(self) -> bool:
        return not self.problem


def restart(rules: Cutover, folder: RunFolder, step: str = "25") -> list[str]:
    """Run the restart commands in their order; a sentence each. Output goes to run.log; `Terminal` at the first that fails."""
    said = []
    for command in rules.restart:
        shown = shlex.join(command)
        begun = time.monotonic()
        folder.log(f"restart: {shown}", step)
        done = run_or_fail(command, rules.timeout_seconds, "the restart command", "cutover.timeout_seconds")
        folder.log_block(f"restart ended with 0 after {time.monotonic() - begun:.1f} s: {shown}", done.said, step)
        said.append(f"{shown} ended with 0 after {time.monotonic() - begun:.1f} s")
    return said


def ask(url: str) -> Answer:
    """One request to a health URL; never raises. Redirects are followed."""
    begun = time.monotonic()
    try:
        with Session(timeout=ONE_REQUEST, follow_redirects=True) as session:
            answer = session.get(url)
    except (httpx.HTTPError, RunbookError) as error:
        said = one_line(str(error) or type(error).__name__, 200)
        return Answer(url, 0, (time.monotonic() - begun) * 1000, problem=f"no answer: {said}")
    problem = "" if answer.is_success else f"answered {answer.status_code}"
    return Answer(url, answer.status_code, (time.monotonic() - begun) * 1000, answer.text[:4000], problem)


def ask_all(urls: Sequence[str]) -> list[Answer]:
    return [ask(url) for url in urls]


def wait_until_well(urls: Sequence[str], seconds: float) -> list[Answer]:
    """The answers once every URL answers 2xx. `WorldError` (`not_healthy`) where one does not within so many seconds."""
    trial = Retrying(
        retry=retry_if_result(lambda answers: any(not a.well for a in answers)), stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.2, max=2.0), retry_error_callback=lambda state: state.outcome.result(),  # type: ignore[union-attr]
    )  # fmt: skip
    answers: list[Answer] = trial(ask_all, urls)
    ill = [a for a in answers if not a.well]
    if ill:
        raise WorldError("not_healthy", f"{ill[0].problem} for {seconds:g} seconds", where=ill[0].url,
                         next_step="See the application's own log.")  # fmt: skip
    return answers
