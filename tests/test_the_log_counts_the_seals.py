"""Each seal that was set has a signed line of the log, and is there once: seals that were made again are named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli, evidence
from helpers.cli.evidence import verify
from helpers.errors import Terminal
from helpers.evidence.seals import entries_by_seal
from helpers.evidence.secret_scan import replaced_seals
from helpers.evidence.statement import canonical, trusted
from helpers.run.folders import RunFolder
from tests.signers import Signers, changed_toolkit, finish, plain, signed_run

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture
def home(signers: Signers) -> RunFolder:
    return signed_run(signers)


@pytest.mark.more
@pytest.mark.parametrize("left", ["the log", "the log and the last seal"])
def test_seals_that_were_made_again_below_a_log_that_stayed_are_named(
    home: RunFolder, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the toolkit itself, with its key: the log then says that seals 1, 2, 3 and again 1, 2, 3 were set."""
    finish(home)
    gone = evidence.seals(home.reports)[2 if left == "the log and the last seal" else 0 :]
    for seal in gone:
        for file in (home.reports / "seals").glob(f"{seal.path.name}*"):
            file.unlink()
    (home.workspace / "last-seal").unlink()
    with pytest.raises(
        Terminal, match=rf"seal {gone[0].number} with the SHA-256 {gone[0].digest} was set, and is not here"
    ):
        evidence.seal(home.read())
    changed_toolkit(monkeypatch)
    home.log("made again")
    finish(home)
    again = f"seal {gone[0].number} with the SHA-256 {gone[0].digest} was set, and is not here: seals were made again"
    assert f"audit.jsonl: {again}" in verify(home.reports).problems
    said = plain(home)
    assert again in said
    assert "Everything fits." not in said


def test_a_seal_whose_line_was_killed_is_named_by_the_next_command(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the seal and the line that names it; and the newest may still be without one."""
    home.log("one more")
    with monkeypatch.context() as killed:
        killed.setattr(sys.modules["helpers.evidence.seals"], "name_seals", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evidence.seal(home.read())
    newest = evidence.seals(home.reports)[-1]
    evidence.at_rest(home.read())
    assert evidence.seals(home.reports)[-1] == newest
    log = audit.entries(home.reports / audit.NAME, actions=("sealed",))
    assert [entry["facts"]["digest"] for entry in log] == [seal.digest for seal in evidence.seals(home.reports)]
    finish(home)
    assert verify(home.reports).problems == []
    assert "Everything fits." in plain(home)


@pytest.mark.more
@pytest.mark.parametrize(
    "tail",
    [
        b'{"action": "seal", "fac', b"\x1b[2Jby hand", b"by hand\nand again", bytes(64), b'\x01\0\x03{"action": "\x01\x03\0',
        b'{"action": "signed", "facts": {"file": "signoffs/x',
    ],
)  # fmt: skip
def test_what_somebody_adds_without_an_end_proves_nothing_and_is_named_for_ever(home: RunFolder, tail: bytes) -> None:
    finish(home)
    log = home.reports / audit.NAME
    log.write_bytes(log.read_bytes() + tail)
    said = verify(home.reports).problems
    assert any(line.startswith(f"{audit.NAME}: ") for line in said), said
    assert "Everything fits." not in plain(home)
    if b"\n" in tail:  # a whole line, which no crash leaves: somebody has to look at it
        with pytest.raises(Terminal, match="is not signed by the toolkit's key"):
            finish(home)
        return
    finish(home)
    finish(home)
    found = verify(home.reports)
    assert found.problems == []
    number = audit.lines_of(log).index(tail) + 1
    told = f"{audit.NAME}: line {number}: cut short, or added by somebody; it proves nothing, as line {number + 1} says"
    assert told in found.notes
    shown = plain(home)
    assert "audit.jsonl: cut short, or added by somebody, and proves nothing: " in shown
    assert shown.endswith("Everything fits.\n")
    log.write_bytes(log.read_bytes().replace(tail, tail[:-1]))
    assert verify(home.reports).problems
    assert "audit.jsonl: broken before: " in plain(home)


def test_only_a_whole_digest_is_an_expected_one_for_the_plain_commands(home: RunFolder) -> None:
    """As for `verify --expect`: what would match any seal, or the beginning of one, is refused."""
    finish(home)
    newest = evidence.seals(home.reports)[-1].digest

    def fits(*expected: str) -> bool:
        done = subprocess.run(
            ["bash", "VERIFY.txt", *expected], cwd=home.reports, check=False, capture_output=True, text=True
        )
        assert done.returncode == int(not done.stdout.endswith("Everything fits.\n")), done.stdout
        return done.returncode == 0

    assert fits(newest)
    assert fits(newest.upper(), evidence.seals(home.reports)[0].digest)
    for wrong in (".*", "", newest[:63], f"{newest[:63]}.", "[0-9a-f]*", "-v", f"{newest}\n.*", "0" * 64):
        assert not fits(wrong), wrong
        assert not fits(newest, wrong), wrong


def written(folder: Path, *entries: Any) -> Path:
    """A log that nobody signed, whose chain fits."""
    previous, lines = audit.FIRST, b""
    for entry in entries:
        line = json.dumps({**entry, "previous": previous}, sort_keys=True).encode()
        previous, lines = hashlib.sha256(line).hexdigest(), lines + line + b"\n"
    (folder / audit.NAME).write_bytes(lines)
    return folder / audit.NAME


def test_forged_lines_behind_a_log_do_not_hold_verify(home: RunFolder) -> None:
    """Each signature is checked by a process of its own."""
    evidence.keep_sealed(home.read())
    log = home.reports / audit.NAME
    last = log.read_bytes().splitlines()[-1]
    forged = (last.replace(b'"done"', b'"done %d"' % number) + b"\n" for number in range(60))
    log.write_bytes(log.read_bytes() + b"".join(forged))
    verify(home.reports)
    asked = audit.signer.cache_info()
    said = verify(home.reports).problems
    assert audit.signer.cache_info().misses == asked.misses, "no line is checked twice"
    assert asked.maxsize is None
    signed = len(audit.entries(log, trusted(home.reports)))
    named = [line for line in said if "not signed by" in line]
    assert len(named) == audit.MOST_FORGED + 1
    assert "40 lines from line" in named[-1]
    assert signed == len(log.read_bytes().splitlines()) - 60
    with pytest.MonkeyPatch.context() as patch:
        checked: list[bytes] = []
        patch.setattr(audit, "signer", lambda _name, line: str(checked.append(line)))  # type: ignore[func-returns-value]
        assert len(list(audit.unsigned(log, audit.Trust(frozenset({"SHA256:none"}))))) == signed + 60
    assert len(checked) == audit.MOST_FORGED


ODD: list[Any] = [None, "1", True, 1.5, [1], {"a": 1}, float("inf"), -3, 10**30]


def test_a_log_that_nobody_signed_may_hold_any_types(tmp_path: Path) -> None:
    rows = [{"action": what, "facts": {"number": n, "digest": n}} for what in ("seal", "sealed") for n in ODD]
    log = written(tmp_path, {"action": "seal", "facts": {"number": 1}}, *rows)
    assert audit.check(log) is None
    said = list(replaced_seals(tmp_path, (), None))
    assert sum("names no seal by its number" in line for line in said) == 2 * len(ODD[:-2])
    assert "seal -3 was begun after seal 1: seals were made again" in said
    assert len(entries_by_seal(tmp_path, (), None)) == 1


@pytest.mark.parametrize(
    "odd", [{"action": "seal", "facts": [1]}, {"action": ["seal"], "facts": {}}, {"facts": {}}, {"action": "x"}]
)
def test_a_line_without_an_action_and_facts_is_no_line_of_the_log(tmp_path: Path, odd: Any) -> None:
    log = written(tmp_path, {"action": "counted", "facts": {}}, odd)
    broken = audit.check(log)
    assert broken is not None
    assert (broken.line, [entry["action"] for entry in audit.entries(log)]) == (2, ["counted"])


@pytest.mark.more
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("secrets", []),
        ("code", 7),
        ("number", float("inf")),
        ("prefixes", [{"name": "a", "bytes": float("inf"), "sha256": "b"}]),
    ],
)
def test_a_seal_with_parts_of_another_type_is_named_with_all_else(
    home: RunFolder, part: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(home)
    path = evidence.seals(home.reports)[-1].path
    document = json.loads(path.read_bytes())
    document["predicate"][part] = value
    path.write_bytes(canonical(document) if "inf" not in str(value) else json.dumps(document).encode())
    (home.reports / "run.log").write_text("", encoding="utf-8")
    assert cli.main(["verify", home.id]) == 1
    said = capsys.readouterr()
    assert "run.log" in said.out
    assert "unexpected" not in said.err
