"""What steps 20 to 27 will need, proven the day before: a migration does not begin with a file that cannot be written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from helpers.cutover.application import ask, stands_alone
from helpers.cutover.edits import LOOPBACK, Edit, all_edits, edit, loopback_in_container
from helpers.cutover.files import masked
from helpers.errors import RunbookError
from helpers.evidence import signing
from helpers.formatting import count
from helpers.parameters import Endpoint, resolve_path
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.stores.handshake import open_door

COLUMNS = ["what", "found", "verdict"]
Row = tuple[str, str, Verdict]
_UNITS = {"signers": "roles with a usable key", "configuration files": "files"}


class CutoverReadiness:
    """One table; each group of needs adds one check, which names what is missing."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.parameters = run, run.parameters

    def table(self) -> pd.DataFrame:
        """Files, commands, signers, health and logs. Nothing is written; the edits are made in memory."""
        groups: dict[str, tuple[ReasonCode, Callable[[], list[Row]]]] = {
            "configuration files": (ReasonCode.CONFIG_FILE, self._files),
            "commands of the migration": (ReasonCode.PROGRAM_MISSING, self._commands),
            "configuration of the fence": (ReasonCode.FENCE_CONFIG, self._fence),
            "signers": (ReasonCode.SIGNERS_MISSING, self._signers),
            "health URLs": (ReasonCode.NOT_HEALTHY, self._health),
            "application logs": (ReasonCode.LOG_UNREADABLE, self._logs),
        }
        rows = []
        for name, (reason, look) in groups.items():
            found = look()
            rows += found
            if not found:
                by_command = reason is ReasonCode.FENCE_CONFIG and self.parameters.fence.kind == "command"
                self.run.check(name, Verdict.NOT_APPLICABLE if by_command else Verdict.NOT_EXERCISED,
                               detail="commands set the fence" if by_command else "the parameters name none")  # fmt: skip
                continue
            bad = [row for row in found if row[2] is not Verdict.PASS]
            verdict = (
                Verdict.FAIL if any(r[2] is Verdict.FAIL for r in bad) else Verdict.WARNING if bad else Verdict.PASS
            )
            self.run.check(name, verdict, measured=len(found) - len(bad), threshold=len(found), unit=_UNITS.get(name, ""),
                           reason=reason if bad else "",
                           detail="; ".join(f"{what}: {said}" for what, said, _ in bad[:3]))  # fmt: skip
        if said := loopback_in_container(self.parameters):
            self.run.check(
                "address of the target in a container",
                Verdict.WARNING,
                threshold="not loopback",
                reason=ReasonCode.LOOPBACK_IN_CONTAINER,
                measured=self.parameters.target.address,
                detail=said,
            )
            rows.append(("target seen from a container", said, Verdict.WARNING))
        if said := check_door(self.run):
            rows.append(("credentials of the target", said, Verdict.WARNING))
        return pd.DataFrame(rows, columns=COLUMNS)

    def _files(self) -> list[Row]:
        rows, values = [], self.parameters.target.template_values()
        for named in self.parameters.cutover.config_files():
            try:
                made = edit(named, values)
            except RunbookError as error:
                rows.append((named.path, error.what, Verdict.FAIL))
            else:
                said = (
                    f"{count(len(made.changes), 'line')} will change"
                    if made.changes
                    else "points to the target already"
                )
                elsewhere = self._elsewhere(made)
                rows.append((named.path, elsewhere or said, Verdict.WARNING if elsewhere else Verdict.PASS))
        if rows and all(row[2] is not Verdict.FAIL for row in rows):
            try:
                all_edits(self.parameters)  # two names of one file
            except RunbookError as error:
                rows.append((error.where, error.what, Verdict.FAIL))
        return rows

    def _elsewhere(self, made: Edit) -> str:
        """Where the client of a file is today, if that is neither source nor target: another database, or another name of it."""
        today, nginx = "\n".join(change.before for change in made.changes), self.parameters.fence.nginx
        fenced = nginx is not None and re.search(
            rf":{nginx.listen.rpartition(':')[2]}\b", today
        )  # clients reach it there
        if (
            not today
            or fenced
            or any(_named(today, place) for place in (self.parameters.source, self.parameters.target))
        ):
            return ""
        lines = ", ".join(masked(change.before.strip()) for change in made.changes[:3])
        return f"names neither source nor target ({lines}): see whether this client uses the source"

    def _commands(self) -> list[Row]:
        fence = self.parameters.fence
        wanted = list(self.parameters.cutover.restart)
        if fence.kind == "command" and fence.command is not None:
            wanted += [fence.command.lock, fence.command.unlock]
        if fence.kind == "nginx" and fence.nginx is not None and not fence.nginx.elsewhere:
            wanted.append(fence.nginx.command)
        programs = dict.fromkeys(command[0] for command in wanted)
        found = {name: shutil.which(name) for name in programs}
        return [(n, path or "is not found, or cannot be executed", Verdict.PASS if path else Verdict.FAIL)
                for n, path in found.items()]  # fmt: skip

    def _fence(self) -> list[Row]:
        fence = self.parameters.fence
        if fence.kind != "nginx" or fence.nginx is None:
            return []
        path = resolve_path(fence.nginx.config)
        place = path if path.exists() else path.parent
        ok = os.access(place, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
        return [
            (str(path), "can be written" if ok else f"{place} cannot be written", Verdict.PASS if ok else Verdict.FAIL)
        ]

    def _signers(self) -> list[Row]:
        """One row a role that this run requires at any of its gates: whether somebody has a key that can sign for it."""
        rules = self.parameters.signoff
        roles = dict.fromkeys([*rules.required, *rules.dry_run, *rules.closeout])
        problem = "ssh-keygen is not found" if shutil.which("ssh-keygen") is None else ""
        if rules.allowed_signers is None:
            said = "signoff.allowed_signers names nobody; resume --set may still name it"
            return [(role, said, Verdict.WARNING) for role in roles]
        path = resolve_path(rules.allowed_signers)
        if not problem and (unreadable := _unreadable(path, empty=False)):
            problem = f"{rules.allowed_signers}: {unreadable}"
        rows: list[Row] = []
        for role in roles:
            found = problem or self._cannot_sign(path, role)
            rows.append((role, found or "has a usable key", Verdict.FAIL if found else Verdict.PASS))
        return rows

    def _cannot_sign(self, path: Path, role: str) -> str:
        """What keeps a role from signing when the window begins (now, where there is none)."""
        when = self.parameters.window.start or datetime.now(UTC)
        try:
            return "; ".join(signing.problems(path, [role], when, rehearsal=self.run.rehearsal))
        except RunbookError as error:
            return error.what

    def _health(self) -> list[Row]:
        answers = [ask(url) for url in self.parameters.cutover.health]
        return [(a.url, a.problem or f"{a.status} after {a.milliseconds:.0f} ms", Verdict.PASS if a.well else Verdict.FAIL)
                for a in answers]  # fmt: skip

    def _logs(self) -> list[Row]:
        rows = []
        for named in self.parameters.cutover.log_files:
            path = resolve_path(named)
            problem = _unreadable(path, empty=True)
            verdict = Verdict.WARNING if problem and not path.exists() else Verdict.FAIL if problem else Verdict.PASS
            rows.append((named, problem or "can be read", verdict))
        return rows


def check_door(run: RunRecord) -> str:
    """A warning where the target lets in whoever comes although credentials are in use; what it says, or ""."""
    said = open_door(run.parameters.source, run.parameters.target)
    if said:
        run.check("answer without credentials", Verdict.WARNING, measured="answers anybody", threshold="refused",
                  reason=ReasonCode.ANSWERS_ANYBODY, detail=said)  # fmt: skip
    return said


def _named(text: str, place: Endpoint) -> bool:
    """Whether configuration names this place: its path, or its host, which may stand apart from its port.

    Every loopback address is one host.
    """
    if place.path is not None:
        return any(
            stands_alone(text, str(p))
            for p in {place.path, resolve_path(place.path), resolve_path(place.path).resolve()}
        )
    loopback = place.host in LOOPBACK or place.host.startswith("127.")
    hosts = [*LOOPBACK, "127.0.0.1", place.host] if loopback else [place.host]
    ports = {port for host in hosts for port in re.findall(rf"{re.escape(host)}\]?:(\d+)", text)}
    return any(stands_alone(text, host) for host in hosts) and (not ports or str(place.port) in ports)


def _unreadable(path: Path, *, empty: bool) -> str:
    """Why a file cannot be read, or holds nothing where it must hold something; "" where it is well."""
    try:
        with path.open("rb") as file:
            return "" if file.read(1) or empty else "is empty"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
