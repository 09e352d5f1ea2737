"""Step 12 proves the day before what the night needs: each need is missed by name, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.cutover.readiness import CutoverReadiness
from helpers.parameters import parameters_from
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from tests.commands import tree
from tests.proxies import BUSY, FaultyProxy
from tests.servers import ChromaServer, free_port
from tests.signers import Signers

Look = Callable[..., dict[str, Check]]
FILES, COMMANDS = "configuration files", "commands of the migration"
DOOR = "answer without credentials"
HEALTH, LOGS = "health URLs", "application logs"
SIGNERS, FENCE = "signers", "configuration of the fence"


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """`look(cutover={…}, …)`: the checks of such a run by name."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)

    def looked(**sections: Any) -> dict[str, Check]:
        ends = {"source": {"url": "http://old:8000"}, "target": {"url": "http://127.0.0.1:8001"}}
        folder = runs.create(parameters_from({"name": "n", **ends, **sections}))
        record = RunRecord(folder.read(), "12")
        CutoverReadiness(record).table()
        return {check.name: check for check in record.result.checks}

    return looked


def test_without_anything_named_nothing_is_asked_for(look: Look) -> None:
    found = look()
    signers = found.pop(SIGNERS)
    assert signers.verdict is Verdict.WARNING, "somebody has to sign, and nobody is listed who may"
    assert {check.verdict for check in found.values()} == {Verdict.NOT_EXERCISED}


@pytest.mark.servers
def test_a_target_that_lets_anybody_in_is_told_where_credentials_are_in_use(
    look: Look, chroma_server: Callable[..., ChromaServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of 1.x takes no notice of the variables that made 0.x ask for a token."""
    monkeypatch.setenv("CHROMA_SERVER_AUTHN_PROVIDER", "chromadb.auth.token_authn.TokenAuthenticationServerProvider")
    monkeypatch.setenv("CHROMA_SERVER_AUTHN_CREDENTIALS", "a-token")
    server = chroma_server()
    headers = {"headers": {"Authorization": "env:TOKEN"}}
    old = {"url": "http://old:8000"}
    assert DOOR not in look(source=old, target={"url": server.url}), "nobody uses credentials"
    for source, target in ((old | headers, {}), (old, headers)):
        check = look(source=source, target={"url": server.url, **target})[DOOR]
        assert (check.verdict, check.reason) == (Verdict.WARNING, "answers_anybody")
        assert server.url in check.detail
    with FaultyProxy(server.url) as proxy:
        proxy.fault = lambda method, path: BUSY
        assert DOOR not in look(source=old | headers, target={"url": proxy.url}), "it does not answer just anybody"


def test_all_that_is_there_passes_and_nothing_is_written(look: Look, tmp_path: Path) -> None:
    home = tmp_path / "application"
    home.mkdir()
    (home / ".env").write_text("URL=old\n")
    (home / "compose.yml").write_text("services:\n  a:\n    environment: {URL: old}\n")
    (home / "app.log").touch()
    (home / "signers").write_text("a@b ssh-ed25519 AAAA\n")
    before = tree(home)
    cutover = {
        "env_files": [{"path": "application/.env", "keys": {"URL": "{target_url}"}}],
        "compose_files": [{"path": "application/compose.yml", "keys": {"URL": "{target_url}"}}],
        "restart": [["true"]], "log_files": ["application/app.log"],
    }  # fmt: skip
    fence = {"kind": "command", "command": {"lock": ["true"], "unlock": ["false"]}}
    found = look(cutover=cutover, fence=fence)
    assert {found[name].verdict for name in (FILES, COMMANDS, LOGS)} == {Verdict.PASS}
    assert found["address of the target in a container"].verdict is Verdict.WARNING
    assert tree(home) == before


def test_each_thing_that_is_missing_is_named(look: Look, tmp_path: Path) -> None:
    (tmp_path / "read-only.env").write_text("URL=old\n")
    (tmp_path / "read-only.env").chmod(0o444)
    keys = {"URL": "{target_url}"}
    url = f"http://127.0.0.1:{free_port()}/health"
    found = look(
        cutover={
            "env_files": [{"path": "read-only.env", "keys": keys}, {"path": "gone.env", "keys": keys}],
            "restart": [["no-such-program-here", "restart"]], "health": [url], "log_files": ["gone.log", "."],
        },
        fence={"kind": "nginx", "nginx": {"listen": "127.0.0.1:1", "upstream": "127.0.0.1:2", "config": "no/such/f.conf",
                                          "command": ["no-such-nginx"]}},
        signoff={"allowed_signers": "gone.signers"},
    )  # fmt: skip
    failed = {name: check for name, check in found.items() if check.verdict is Verdict.FAIL}
    assert set(failed) == {FILES, COMMANDS, HEALTH, LOGS, SIGNERS, FENCE}
    assert "read-only.env: has no write permission" in failed[FILES].detail
    assert "gone.env: is not there" in failed[FILES].detail
    assert "no-such-program-here" in failed[COMMANDS].detail
    assert "no-such-nginx" in failed[COMMANDS].detail
    assert url in failed[HEALTH].detail
    assert "gone.log: is not there" in failed[LOGS].detail
    assert "gone.signers: is not there" in failed[SIGNERS].detail
    assert all(check.reason for check in failed.values())


def test_two_names_of_one_file_are_found(look: Look, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("URL=old\nHOST=old\n")
    (tmp_path / "link").symlink_to(".env")
    files = [{"path": ".env", "keys": {"URL": "a"}}, {"path": "link", "keys": {"HOST": "b"}}]
    found = look(cutover={"env_files": files})
    assert found[FILES].verdict is Verdict.FAIL
    assert "is the same file as" in found[FILES].detail


@pytest.mark.parametrize(
    ("line", "source", "elsewhere"),
    [
        ("URL=http://old:8000/api", {"url": "http://old:8000"}, False),
        ("URL=http://127.0.0.1:8000", {"url": "http://localhost:8000"}, False),
        ("URL=http://old:9000", {"url": "http://old:8000"}, True),
        ("URL=http://older:8000", {"url": "http://old:8000"}, True),
        ("URL='/srv/chroma-old'", {"path": "/srv/chroma"}, True),
        ("URL='/srv/chroma'  # the database", {"path": "/srv/chroma"}, False),
        ("URL=http://new:8001", {"path": "/srv/chroma"}, False),
    ],
)
def test_a_client_that_uses_neither_source_nor_target_is_named(
    look: Look, tmp_path: Path, line: str, source: dict[str, str], elsewhere: bool
) -> None:
    (tmp_path / ".env").write_text(f"{line}\n")
    found = look(cutover={"env_files": [{"path": ".env", "keys": {"URL": "{target_url}/v2"}}]}, source=source,
                 target={"url": "http://new:8001"})[FILES]  # fmt: skip
    assert found.verdict is (Verdict.WARNING if elsewhere else Verdict.PASS), found.detail
    assert (found.measured, found.threshold) == (int(not elsewhere), 1)
    assert (f".env: names neither source nor target ({line})" in found.detail) is elsewhere


def test_the_check_of_signers_counts_roles(look: Look, tmp_path: Path) -> None:
    people = Signers(tmp_path / "keys")
    lines = people.allowed.read_text().splitlines(keepends=True)
    few = tmp_path / "few"
    few.write_text("".join(line for line in lines if "dba" not in line))
    signoff = {"required": ["operations_lead", "dba", "security"], "allowed_signers": str(people.allowed)}
    whole = look(signoff=signoff)[SIGNERS]
    assert (whole.verdict, whole.measured, whole.threshold) == (Verdict.PASS, 3, 3)
    short = look(signoff={**signoff, "allowed_signers": str(few)})[SIGNERS]
    assert (short.verdict, short.measured, short.threshold) == (Verdict.FAIL, 2, 3)
    assert short.detail.startswith("dba: nobody may sign as dba")
    nobody = look(signoff={"required": ["dba"], "closeout": ["security"]})[SIGNERS]
    assert (nobody.verdict, nobody.measured, nobody.threshold) == (Verdict.WARNING, 0, 2)
