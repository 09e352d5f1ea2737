"""`make audit` names what it looks for where it is there, and says NOT EXERCISED where it looked at nothing."""

from __future__ import annotations

import re
import subprocess
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests import audit
from tests.audit import FAIL, NOT_EXERCISED, PASS


def package(**more: Any) -> dict[str, Any]:
    return {"name": "left-pad", "version": "1.0", "vulns": [], **more}


VULNERABLE = package(vulns=[{"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": "x"}])
SKIPPED = {"name": "other", "skip_reason": "Dependency not found and could not be audited: other (1)"}


@pytest.mark.parametrize(
    ("packages", "outcome", "said"),
    [
        ([package(), package()], PASS, "2 packages without"),
        ([package(), VULNERABLE], FAIL, r"left-pad 1\.0: PYSEC-2026-1 \(mended in 1\.1\)"),
        ([SKIPPED, VULNERABLE], FAIL, "PYSEC-2026-1"),
        ([package(), SKIPPED], NOT_EXERCISED, "1 of 2 packages: Dependency not found"),
        ([], NOT_EXERCISED, "no package was looked at"),
    ],
)
def test_a_package_of_which_nothing_is_known_does_not_pass(packages: list[Any], outcome: str, said: str) -> None:
    found = audit.judged({"dependencies": packages, "fixes": []})
    assert found.outcome == outcome
    assert re.search(said, found.detail)


def test_tools_that_are_not_here_are_not_exercised(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for found in (audit.advisories(tmp_path / "bin"), audit.bandit(tmp_path / "bin")):
        assert (found.outcome, "not installed" in found.detail) == (NOT_EXERCISED, True)


def test_a_tool_that_ends_without_a_report_says_why(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pip-audit"
    program.write_text("#!/bin/sh\necho 'ConnectionError: no route to host' >&2\nexit 1\n")
    program.chmod(0o755)
    found = audit.advisories(tmp_path / "bin")
    assert (found.outcome, found.detail) == (NOT_EXERCISED, "ConnectionError: no route to host")


def test_a_finding_of_bandit_fails() -> None:
    finding = {"filename": "a.py", "line_number": 3, "test_id": "B602", "issue_text": "shell"}
    totals = {"_totals": {"loc": 10, "nosec": 1, "skipped_tests": 2}}
    assert audit.findings({"results": [finding], "errors": [], "metrics": totals}).outcome == FAIL
    assert (
        audit.findings({"results": [], "errors": [{"filename": "a", "reason": "x"}], "metrics": totals}).outcome == FAIL
    )
    assert audit.findings({"results": [], "errors": [], "metrics": {"_totals": {"loc": 0}}}).outcome == FAIL
    assert audit.findings({"results": [], "errors": [], "metrics": totals}).outcome == PASS


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ({"License-Expression": "MIT AND (Apache-2.0 OR BSD-2-Clause)"}, PASS),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, PASS),
        ({"License": "Apache-2.0\n\nthe text of it"}, PASS),
        ({"License-Expression": "GPL-3.0-only"}, FAIL),
        ({"License-Expression": "MIT AND AGPL-3.0-or-later"}, FAIL),
        ({"License": "proprietary", "Classifier": "License :: Other/Proprietary License"}, FAIL),
        ({}, FAIL),
    ],
)
def test_a_licence_that_is_not_allowed_fails(headers: dict[str, str], outcome: str) -> None:
    metadata = Message()
    for name, value in headers.items():
        metadata[name] = value
    assert audit.allowed({"it": audit.licence_of(metadata)}).outcome == outcome


def test_a_licence_that_only_its_file_names_is_known_by_its_words() -> None:
    assert audit.licence_of(Message(), audit._MIT.replace(" ", "\n", 9) + " and more") == "MIT"
    assert audit.licence_of(Message(), "Permission is hereby granted, on Tuesdays") == "none"


def test_every_locked_package_has_an_allowed_licence() -> None:
    found = audit.licences()
    assert found.outcome == PASS, found.detail


def test_a_secret_in_a_file_is_named_and_not_repeated(tmp_path: Path) -> None:
    planted = {
        "a.yaml": "token: " + "ghp_" + "abcdefgh1234",
        "b.env": "URL=https://" + "app:corr3ct-horse@db/x",
        "c.pem": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
        "d.py": "KEY = 'AKIA" + "ABCDEFGHIJKLMNOP'",
    }
    for name, text in planted.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "digest").write_text("sha256:" + "0a" * 32)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = audit.secrets(tmp_path)
    assert found.outcome == FAIL
    assert [name for name in planted if f"{name}:1 " not in found.detail] == []
    assert "digest" not in found.detail
    assert not any(secret in found.detail for secret in ("dE5fG7", "horse", "EFGHIJ"))


@pytest.mark.more
def test_the_repository_holds_no_secret() -> None:
    found = audit.secrets()
    assert found.outcome == PASS, found.detail
