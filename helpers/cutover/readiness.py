"""Whether steps 20 to 27 will find what they need (files, commands, signers), checked the day before; the edits of a cutover."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from dotenv.parser import Binding, parse_stream

from helpers.cutover.application import check_health, stands_alone
from helpers.cutover.files import (
    Change,
    ConfigFile,
    decoded,
    edit_compose,
    read_config,
    refusal,
    require_plain,
    sha256,
    unified,
)
from helpers.errors import RUNBOOK, EnvironmentFailure, RunbookError
from helpers.evidence import signing
from helpers.formatting import count, masked
from helpers.migration import catch_up
from helpers.migration.source_changes import CatchUpLedger, WrittenData, altered, settings_changed
from helpers.parameters import Endpoint, Parameters, resolve_path
from helpers.parameters.model import written
from helpers.parameters.sections import ComposeFile, EnvFile
from helpers.reason_codes import ReasonCode
from helpers.results import Verdict
from helpers.run.command import used_by
from helpers.run.record import RunRecord
from helpers.stores import Reader, open_target
from helpers.stores.wire import open_door

COLUMNS = ["what", "found", "verdict"]
Row = tuple[str, str, Verdict]
_UNITS = {"signers": "roles with a usable key", "configuration files": "files"}


class CutoverReadiness:
    """Checks what the cutover needs, one check for each group of needs, which names what is missing."""

    def __init__(self, run: RunRecord) -> None:
        self.run, self.parameters = run, run.parameters

    def table(self) -> pd.DataFrame:
        """One row for each file, command, signer, health URL and log. Nothing is written; the edits are made in memory."""
        groups: dict[str, tuple[ReasonCode, Callable[[], list[Row]]]] = {
            "configuration files": (ReasonCode.CONFIG_FILE, self._files),
            "commands of the migration": (ReasonCode.PROGRAM_MISSING, self._commands),
            "configuration of the fence": (ReasonCode.FENCE_CONFIG, self._fence),
            "signers": (ReasonCode.SIGNERS_MISSING, self._signers),
            "health URLs": (ReasonCode.NOT_HEALTHY, self._health),
            "application logs": (ReasonCode.LOG_UNREADABLE, self._logs),
        }
        rows = []
        for name, (reason, measure) in groups.items():
            group = measure()
            rows += group
            if not group:
                by_command = reason is ReasonCode.FENCE_CONFIG and self.parameters.fence.kind == "command"
                self.run.check(name, Verdict.NOT_APPLICABLE if by_command else Verdict.NOT_EXERCISED, measured=0, threshold=1,
                               relation="≥", unit=_UNITS.get(name, "named"),
                               detail="commands set the fence" if by_command else "the parameters name none")  # fmt: skip
                continue
            bad = [row for row in group if row[2] is not Verdict.PASS]
            verdict = (
                Verdict.FAIL if any(r[2] is Verdict.FAIL for r in bad) else Verdict.WARNING if bad else Verdict.PASS
            )
            self.run.check(name, verdict, measured=len(group) - len(bad), threshold=len(group), unit=_UNITS.get(name, ""),
                           reason=reason if bad else "",
                           detail="; ".join(f"{what}: {problem}" for what, problem, _ in bad[:3]))  # fmt: skip
        if warning := loopback_in_container(self.parameters):
            self.run.check(
                "address of the target in a container",
                Verdict.WARNING,
                threshold="not loopback",
                reason=ReasonCode.LOOPBACK_IN_CONTAINER,
                measured=self.parameters.target.address,
                detail=warning,
            )
            rows.append(("target seen from a container", warning, Verdict.WARNING))
        if warning := check_open_door(self.run):
            rows.append(("credentials of the target", warning, Verdict.WARNING))
        return pd.DataFrame(rows, columns=COLUMNS)

    def _files(self) -> list[Row]:
        rows, values = [], self.parameters.target.template_values()
        for named in self.parameters.cutover.config_files():
            try:
                planned = edit(named, values)
            except RunbookError as error:
                rows.append((named.path, error.what, Verdict.FAIL))
            else:
                message = (
                    f"{count(len(planned.changes), 'line')} will change"
                    if planned.changes
                    else "points to the target already"
                )
                warning = self._other_database(planned)
                rows.append((named.path, warning or message, Verdict.WARNING if warning else Verdict.PASS))
        if rows and all(row[2] is not Verdict.FAIL for row in rows):
            try:
                all_edits(self.parameters)  # two names of one file
            except RunbookError as error:
                rows.append((error.where, error.what, Verdict.FAIL))
        return rows

    def _other_database(self, planned: Edit) -> str:
        """A warning if the client of a file uses neither source nor target today, or another name of them; else ""."""
        today, nginx = "\n".join(change.before for change in planned.changes), self.parameters.fence.nginx
        # Clients reach it at the fence's port.
        fenced = nginx is not None and re.search(rf":{nginx.listen.rpartition(':')[2]}\b", today)
        if (
            not today
            or fenced
            or any(_names_place(today, place) for place in (self.parameters.source, self.parameters.target))
        ):
            return ""
        lines = ", ".join(masked(change.before.strip()) for change in planned.changes[:3])
        return f"names neither source nor target ({lines}): see whether this client uses the source"

    def _commands(self) -> list[Row]:
        fence = self.parameters.fence
        rules = self.parameters.cutover
        commands = [*rules.restart, *([rules.write_probe] if rules.write_probe else [])]
        if fence.kind == "command" and fence.command is not None:
            commands += [fence.command.lock, fence.command.unlock]
        if fence.kind == "nginx" and fence.nginx is not None and not fence.nginx.elsewhere:
            commands.append(fence.nginx.command)
        programs = dict.fromkeys(command[0] for command in commands)
        paths = {name: shutil.which(name) for name in programs}
        return [(n, path or "is not found, or cannot be executed", Verdict.PASS if path else Verdict.FAIL)
                for n, path in paths.items()]  # fmt: skip

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
        """One row for each role that a gate of this run requires: whether somebody has a key that can sign for it."""
        rules = self.parameters.signoff
        roles = dict.fromkeys([*rules.required, *rules.dry_run, *rules.closeout])
        problem = "ssh-keygen is not found" if shutil.which("ssh-keygen") is None else ""
        if rules.allowed_signers is None:
            message = "signoff.allowed_signers names nobody; resume --set may still name it"
            return [(role, message, Verdict.WARNING) for role in roles]
        path = resolve_path(rules.allowed_signers)
        if not problem and (unreadable := _unreadable(path, empty=False)):
            problem = f"{rules.allowed_signers}: {unreadable}"
        rows: list[Row] = []
        for role in roles:
            role_problem = problem or self._cannot_sign(path, role)
            rows.append((role, role_problem or "has a usable key", Verdict.FAIL if role_problem else Verdict.PASS))
        return rows

    def _cannot_sign(self, path: Path, role: str) -> str:
        """Why a role cannot sign when the window begins (now, if there is none); "" if it can."""
        when = self.parameters.window.start or datetime.now(UTC)
        try:
            return "; ".join(signing.problems(path, [role], when, rehearsal=self.run.rehearsal))
        except RunbookError as error:
            return error.what

    def _health(self) -> list[Row]:
        answers = [check_health(url) for url in self.parameters.cutover.health]
        return [(a.url, a.problem or f"{a.status} after {a.milliseconds:.0f} ms", Verdict.PASS if a.is_healthy else Verdict.FAIL)
                for a in answers]  # fmt: skip

    def _logs(self) -> list[Row]:
        rows = []
        for named in self.parameters.cutover.log_files:
            path = resolve_path(named)
            problem = _unreadable(path, empty=True)
            verdict = Verdict.WARNING if problem and not path.exists() else Verdict.FAIL if problem else Verdict.PASS
            rows.append((named, problem or "can be read", verdict))
        return rows


def check_open_door(run: RunRecord) -> str:
    """Record and return a warning if the target answers without credentials although some are in use; else ""."""
    warning = open_door(run.parameters.source, run.parameters.target)
    if warning:
        run.check("answer without credentials", Verdict.WARNING, measured="answers anybody", threshold="refused",
                  reason=ReasonCode.ANSWERS_ANYBODY, detail=warning)  # fmt: skip
    return warning


def _names_place(text: str, place: Endpoint) -> bool:
    """Whether a text of configuration names this place: its path, or its host, which may be apart from its port.

    All loopback addresses count as one host.
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
    """Why a file cannot be read, or that it is empty although it must not be; "" if neither."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a plain file"
        with path.open("rb") as file:
            return "" if file.read(1) or empty else "is empty"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


# -- edits -------------------------------------------------------------------------------------------------------------
#
# Every edit of a cutover, made in memory: what each file would hold, and the diff; nothing is touched.
#
# In a `.env` file one value is changed and every other byte kept (comments, quotes, `export`, order, CRLF, byte order mark).
# python-dotenv says what a file means, before and after; the text between is edited by position, never written anew. A key
# that occurs more than once is changed at each place, because programs differ in which of them takes effect.


_ASSIGNMENT = re.compile(
    r"""(?P<head>\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*=[^\S\r\n]*)
        (?P<value>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\r\n]*)
        (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"(?:^|\s+)\#.*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=?&~\[\]-]+")  # what means the same without quotes to every reader
LOOPBACK = ("localhost", "::1")


def edit_env(content: bytes, keys: Mapping[str, str], path: Path) -> tuple[bytes, list[Change]]:
    """The file with the new values, and its changes. `Terminal` (`config_file`) if that cannot be done safely."""
    require_plain(keys, path)
    mark, text = decoded(content, path)
    bindings = _parsed(text)
    if "".join(b.original.string for b in bindings) != text:
        raise refusal(path, "cannot be taken apart and put together again unchanged")
    _refuse_unclear(bindings, keys, path)
    changes: list[Change] = []
    parts = []
    for binding in bindings:
        if binding.key is None or binding.key not in keys:
            parts.append(binding.original.string)
            continue
        part = _with_value(binding, keys[binding.key], path)
        parts.append(part)
        if part != binding.original.string:
            old, new = binding.original.string, part
            changes.append(Change(binding.original.line + _leading(old), binding.key, old.strip(), new.strip()))
    new_text = "".join(parts)
    _prove(text, new_text, keys, path)
    return (mark + new_text).encode("utf-8"), changes


def _parsed(text: str) -> list[Binding]:
    return list(parse_stream(io.StringIO(text, newline="")))


def _newlines(text: str) -> int:
    return len(re.findall(r"\r\n|\n|\r", text))


def _refuse_unclear(bindings: list[Binding], keys: Mapping[str, str], path: Path) -> None:
    for binding in bindings:
        text = binding.original.string
        line = binding.original.line + _leading(text)
        if binding.error and any(part in text for part in ("'", '"', *keys)):
            raise refusal(path, f"line {line} is not KEY=value, or has a quote that nothing closes")
        if binding.key not in keys:
            continue
        if binding.value is None:
            raise refusal(path, f"line {line} names {binding.key} without a value, which then comes from elsewhere")
        if _newlines(text.strip()) or "\n" in binding.value or "\r" in binding.value:
            raise refusal(path, f"{binding.key} on line {line} has a value of several lines")
    missing = [key for key in keys if not any(b.key == key for b in bindings)]
    if missing:
        raise refusal(
            path, f"does not set {missing[0]}", f"Add the line {missing[0]}=… as it is today, or correct the key."
        )


def _leading(text: str) -> int:
    return _newlines(text[: len(text) - len(text.lstrip())])


def _with_value(binding: Binding, value: str, path: Path) -> str:
    """The text of a binding with another value. Quotes are kept, and added if the value needs them."""
    original = binding.original.string
    match = _ASSIGNMENT.fullmatch(original)
    assert match is not None  # the parser has read the same text as an assignment
    head, old, tail = match["head"], match["value"], match["tail"]
    quote = old[0] if old[:1] in ("'", '"') else ""
    if not quote:
        kept = _COMMENT.sub("", old).rstrip()
        if old.startswith("#") and binding.value:
            raise refusal(path, f"{binding.key} begins with '#': programs read it as a value or as a comment")
        tail = (" " if old and not kept else "") + old[len(kept) :] + tail
        old = kept
        quote = "" if _BARE.fullmatch(value) else '"'
    if binding.value == value:
        return original
    return f"{head}{quote}{value}{quote}{tail}"


def _prove(old: str, new: str, keys: Mapping[str, str], path: Path) -> None:
    """`Terminal` unless python-dotenv reads the new text as the old one, except for these keys and their new values."""
    before, after = _parsed(old), _parsed(new)
    same = len(before) == len(after) and all(_is_as_intended(a, b, keys) for a, b in zip(after, before, strict=False))
    if not same:
        raise refusal(path, f"would not mean what it should after the change of {', '.join(keys)}")


def _is_as_intended(new: Binding, old: Binding, keys: Mapping[str, str]) -> bool:
    if new.key is not None and new.key in keys:
        return old.key == new.key and new.value == keys[new.key]
    return new == old


@dataclass(frozen=True, slots=True)
class Edit:
    """A file with its new content; `changes` is empty if it points to the target already."""

    file: ConfigFile
    new: bytes
    changes: list[Change]

    @property
    def after(self) -> str:
        """SHA-256 of the new content."""
        return sha256(self.new)

    def diff(self) -> str:
        return unified(self.file.path, self.changes)


def edit(named: EnvFile | ComposeFile, values: Mapping[str, str], original: bytes | None = None) -> Edit:
    """The edit of one file with the values of the placeholders. `original`: its content before, if it was changed already."""
    file = read_config(named.path)
    content = file.content if original is None else original
    keys = {key: written(template, values) for key, template in named.keys.items()}
    if isinstance(named, EnvFile):
        new, changes = edit_env(content, keys, file.path)
    else:
        new, changes = edit_compose(content, keys, file.path, named.services)
    return Edit(file, new, changes)


def all_edits(parameters: Parameters, originals: Mapping[str, bytes] | None = None) -> list[Edit]:
    """The edits of all files, in the order of the parameters. `Terminal` (`config_file`) at the first that cannot be made.

    `originals`: contents before the cutover, by real path, of files that it has changed already.
    """
    values, before = parameters.target.template_values(), originals or {}
    edits: list[Edit] = []
    for named in parameters.cutover.config_files():
        real = str(read_config(named.path).real)
        other = next((e.file.path for e in edits if str(e.file.real) == real), None)
        if other is not None:
            raise refusal(Path(named.path), f"is the same file as {other}", "Put its keys together.")
        edits.append(edit(named, values, before.get(real)))
    return edits


def diff(edits: Sequence[Edit]) -> str:
    """The unified diff of all files, changed lines only, and a line for each file without a change."""
    shown = "\n".join(filter(None, (e.diff() for e in edits)))
    same = [str(e.file.path) for e in edits if not e.changes]
    return "\n".join(filter(None, [shown, *(f"{path}: no change, it points to the target already" for path in same)]))


def loopback_in_container(parameters: Parameters) -> str:
    """Why a loopback target in a compose file may be wrong; "" if there is none."""
    host = parameters.target.host
    if not parameters.cutover.compose_files or not (host in LOOPBACK or host.startswith("127.")):
        return ""
    return f"{host} inside a container is the container itself: see that the services reach {parameters.target.address} by it"


AS_VALIDATED, SETTINGS = "target as it was validated", "settings of the target as validated"  # checks of step 25


def check_as_validated(run: RunRecord, store: Reader | None, why_not: str, in_use: bool = False) -> None:
    """Check that the target is, chunk by chunk and setting by setting, what was last compared: hours may have passed since.

    FAIL if it differs, or if somebody has it open who should not (`in_use`). NOT EXERCISED if it cannot be read, if clients may
    write there already (`why_not`), or if a killed catch-up left it between two states, which `bring_ahead` finishes and checks.
    """
    run.forget(AS_VALIDATED)
    run.forget(SETTINGS)
    if store is not None and not why_not and CatchUpLedger.read(run).open_round is not None:
        why_not = "a catch-up was interrupted: it is finished first"
    if store is None or why_not:
        run.check(AS_VALIDATED, Verdict.FAIL if in_use else Verdict.NOT_EXERCISED, measured="not read", threshold="every chunk",
                  reason=ReasonCode.TARGET_IN_USE if in_use else "", detail=why_not)  # fmt: skip
        return
    data = WrittenData(run)
    total = data.require_staged().total
    next_step = "find out who writes there, and begin again from 22: this is not what was signed"
    with run.phase("compare the target once more", total), run.progress("Compare the target", total) as bar:
        changed, new = settings_changed(store, data)
        differences, examples = altered(store, data, bar)
    summary = ", ".join(f"{number:,} {kind}" for kind, number in sorted(differences.items()))
    run.check(
        AS_VALIDATED, Verdict.FAIL if differences else Verdict.PASS, measured=differences.total(), threshold=0, unit="chunks",
        reason=ReasonCode.TARGET_CHANGED if differences else "", offenders=differences.total(), ids=examples,
        detail=f"{summary} since the validation: {next_step}" if differences else "every chunk was read again",
    )  # fmt: skip
    if changed is None:
        run.check(SETTINGS, Verdict.NOT_EXERCISED, measured="not compared", threshold="as they were",
                  detail="step 23 was executed by a version that did not note them")  # fmt: skip
        return
    run.check(
        SETTINGS, Verdict.FAIL if changed else Verdict.WARNING if new else Verdict.PASS, unit="collections",
        measured=len(changed or new), threshold=0, reason=ReasonCode.TARGET_CHANGED if changed or new else "",
        offenders=len(changed or new),
        detail=f"{'; '.join(changed[:5])}: {next_step}" if changed
        else f"made there since, by somebody else: {', '.join(new[:5])}" if new
        else "distance, metadata, configuration, indexes",
    )  # fmt: skip


def count_again(run: RunRecord, before: Mapping[str, int]) -> dict[str, int]:
    """Count the chunks of this run's target collections, by collection. `EnvironmentFailure` (`target_changed`) if a number
    differs from `before`: somebody has written there. A chunk that was only changed is not noticed.
    """
    target = run.parameters.target
    if used_by(target):  # a directory, which another process has open: nobody could count it before either
        return {}
    with open_target(target) as store:
        existing = {*store.names()}
        counts = {name: store.count(name) if name in existing else 0 for name in WrittenData(run).collections}
    now = {name: counts.get(name, 0) for name in before}
    changed = [f"{name}: {count(n, 'chunk')}, now {now[name]:,}" for name, n in before.items() if now[name] != n]
    if changed:
        raise EnvironmentFailure(
            ReasonCode.TARGET_CHANGED, f"somebody writes to the target: {'; '.join(changed[:5])}", where=target.label,
            next_step=f"Nothing was switched. Find out who, then begin again: {RUNBOOK} run --run-id {run.id} --from 22",
        )  # fmt: skip
    return counts


def bring_ahead(run: RunRecord) -> None:
    """Call `catch_up.bring_ahead`; compare the target afterwards if a killed catch-up had left it between two states.

    Raises as that does, and `EnvironmentFailure` (`target_changed`) if the target is not what was validated.
    """
    was_interrupted = CatchUpLedger.read(run).open_round is not None
    catch_up.bring_ahead(run)
    if not was_interrupted:
        return
    with open_target(run.parameters.target) as store:
        check_as_validated(run, store, "")
    failed = [c for c in run.result.checks if c.name in (AS_VALIDATED, SETTINGS) and c.verdict is Verdict.FAIL]
    if failed:
        raise EnvironmentFailure(ReasonCode.TARGET_CHANGED, failed[0].detail, where=run.parameters.target.label)
