"""Each seal that was set has a signed line of the log, and is there once: seals that were made again are named."""

from __future__ import annotations

import sys

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import Terminal
from helpers.run.folders import RunFolder
from tests.signers import Signers, changed_toolkit, finish, plain, signed_run

pytestmark = pytest.mark.usefixtures("folders")


@pytest.fixture
def home(signers: Signers) -> RunFolder:
    return signed_run(signers)


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
