"""Secrets in the files that a cutover changes, and in what commands print, reach no report; folders are their owner's;
an archive takes no link."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import audit, errors, evidence, formatting
from helpers.cli.evidence import archive
from helpers.cutover.application import restart
from helpers.cutover.readiness import all_edits, diff
from helpers.errors import (
    EnvironmentFailure,
    Transient,
    UsageError,
    secret_parts,
    secrets_assigned,
    secrets_of,
    without_tokens,
)
from helpers.evidence import secret_scan
from helpers.parameters import Parameters, load_parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.reason_codes import ReasonCode
from helpers.results import is_leftover, write_json, writing
from helpers.run import folders as runs
from helpers.schema import rules
from helpers.snapshots.comparison import show
from helpers.stores import wire
from tests.signers import Signers, small_run

ENV = """\
# OLD_TOKEN=tok-of-last-year-9
CHROMADB_URL="http://old:8000?sig=AbCd1234efGH"  # rotate Zz9-key-in-a-comment
POSTGRES_PASSWORD=changeme
export STRIPE="sk_live_abcdef123456"
DSN=postgres://app:hunter22@db/app
HOOK=https://hooks.example/services/T0AAA/XyZ12aBcDeFgHiJkLmNo34
PEM="-----BEGIN KEY-----
MIIBVgIBADANBgkqhkiG9w0BAQEFAASC
-----END KEY-----"
COLLECTION=if_ttt_corpus_2024_v3
MODEL=sentence-transformers/all-MiniLM-L6-v2
AUTH_KEY=enabled
MODE=production
"""
COMPOSE = """\
services:
  app:
    image: ghcr.io/org/app-with-a-long-name:v1.2.3
    environment:
      - CHROMADB_URL=http://old:8000
      - REDIS_PASSWORD=redis-pass-77
  worker:
    environment: {JWT_SECRET: 'eyJhbGciOi.eyJzdWIiOi.abc'}
"""
SECRET = (
    "tok-of-last-year-9", "AbCd1234efGH", "changeme", "sk_live_abcdef123456", "hunter22", "XyZ12aBcDeFgHiJkLmNo34",
    "MIIBVgIBADANBgkqhkiG9w0BAQEFAASC", "redis-pass-77", "eyJhbGciOi.eyJzdWIiOi.abc",
)  # fmt: skip
HARMLESS = ("if_ttt_corpus_2024_v3", "all-MiniLM-L6-v2", "enabled", "production", "app-with-a-long-name")


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_HIDDEN", {})
    monkeypatch.setattr(runs, "_secrets_hidden", set())


def written(folder: Path) -> dict[str, Any]:
    (folder / ".env").write_text(ENV)
    (folder / "compose.yaml").write_text(COMPOSE)
    keys = {"CHROMADB_URL": "{target_url}"}
    return {
        "env_files": [{"path": str(folder / ".env"), "keys": keys}],
        "compose_files": [{"path": str(folder / "compose.yaml"), "keys": keys}],
    }


def parameters(folder: Path, **cutover: Any) -> Parameters:
    return parameters_from(
        {"source": {"path": "a"}, "target": {"url": "http://new:8000"}, "cutover": {**written(folder), **cutover}}
    )


def test_every_secret_of_an_edited_file_is_known(tmp_path: Path) -> None:
    """By the name of its key, as a token, inside a URL, in a comment, over several lines; words and names are none."""
    found = parameters(tmp_path).secrets_of_files()
    assert [value for value in SECRET if not any(value in each for each in found.values())] == []
    assert [value for value in HARMLESS if any(value in each for each in found.values())] == []
    assert all(str(tmp_path) in where for where in found)


@pytest.mark.parametrize(
    "key",
    ["PGPASSWORD", "DBPASS", "dbPassword", "accessToken", "OPENAIAPIKEY", "PASSPHRASE", "REDIS_AUTH", "COOKIE", "BEARER",
     "SECRET_KEY_BASE", "API_TOKEN_V2", "AWS_ACCESS_KEY", "MYSQL_ROOT_PASSWORD", "password2", "jwt-secret"],
)  # fmt: skip
def test_a_key_of_a_secret_is_known_however_it_is_written(key: str) -> None:
    assert secrets_of(key, "Tr0ub4dor&3x") == ["Tr0ub4dor&3x"]


@pytest.mark.parametrize(
    "key", ["COMPASS", "BYPASS", "MAX_TOKENS", "MONKEY", "AUTHOR", "DESIGN", "KEYBOARD", "PASSAGE"]
)
def test_a_key_that_only_looks_alike_is_none(key: str) -> None:
    assert secrets_of(key, "Tr0ub4dor&3x") == []


def test_a_password_inside_of_a_value_is_known() -> None:
    for value in (
        "Server=h;User=u;Password=c0rrect-horse;",
        "host=h user=u password='c0rrect-horse'",
        "AccountKey=c0rrect-horse",
    ):
        assert secrets_of("CONN", value) == ["c0rrect-horse"]
    assert secrets_of("OPTIONS", "mode=production;retries=3;sslmode=require") == []


BEGIN, END = (f"-----{word} PRIVATE KEY-----" for word in ("BEGIN", "END"))
AS_DRIVERS_READ = [
    "Tr0ub4dor#3xyz", "Tr0ub/4dor3xyz", "Tr0ub?4dor3", "Tr0ub[4dor3", "Tr0@b4dor3", "2024#Winter", "99?x!abc",
]  # fmt: skip


@pytest.mark.parametrize("password", AS_DRIVERS_READ)
def test_a_password_in_a_url_is_known_as_drivers_read_it(password: str) -> None:
    url = f"postgresql://app:{password}@db:5432/app"
    assert password in secrets_of("DATABASE_URL", url)


def test_a_new_value_that_is_a_secret_is_given_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target has another token than the source: the file gets it, and nothing that is shown or sealed does."""
    file = tmp_path / "app.env"
    file.write_text("CHROMA_URL=http://old:8000\nCHROMA_AUTH_TOKEN=0ldTokenTr0ub4dor\n")
    monkeypatch.setenv("NEW_TOKEN", "n3wTokenTr0ub4dor")
    sections: dict[str, Any] = {"name": "n", "source": {"path": "a"}, "target": {"path": "b"}}

    def given(value: str) -> Parameters:
        keys = {"CHROMA_URL": "{target_path}", "CHROMA_AUTH_TOKEN": value}
        return parameters_from({**sections, "cutover": {"env_files": [{"path": str(file), "keys": keys}]}})

    with pytest.raises(UsageError, match=r"CHROMA_AUTH_TOKEN in .* holds a token or password.*env:NAME") as refused:
        given("n3wTokenTr0ub4dor").refuse_open_secrets()
    assert "n3wTokenTr0ub4dor" not in str(refused.value)
    parameters = given("env:NEW_TOKEN").refuse_open_secrets()
    assert "n3wTokenTr0ub4dor" not in json.dumps(parameters.document())
    assert parameters.environment() == ["NEW_TOKEN"]
    [edit] = all_edits(parameters)
    assert b"\nCHROMA_AUTH_TOKEN=n3wTokenTr0ub4dor\n" in edit.new
    assert "Tr0ub4dor" not in errors.redacted(edit.diff())
    monkeypatch.delenv("NEW_TOKEN")
    with pytest.raises(UsageError, match="the environment variable 'NEW_TOKEN', which a secret refers to, is not set"):
        all_edits(parameters)


def test_the_port_of_a_url_is_no_password() -> None:
    assert secrets_of("URL", "http://chroma:8000/of?mail=a@example.org") == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DB_PASSWORD", "${DB_PASSWORD:-$}"),
        ("X", "${DB_PASSWORD:-$}"),
        ("DB_PASSWORD", "${A-${B:=$}}"),
        ("REDIS_URL", "redis://:${R:-$}@h/0"),
        ("REDIS_URL", "redis://:${R:+$}@h/0"),
        ("API_KEYS", "a-first-one,$"),
        ("PASSWORDS", "$ b-second-one"),
        ("DS", "jdbc:sqlserver://h:1433;user=u;password=$;encrypt=true"),
        ("HOOK", "https://discord.com/api/webhooks/1/aB-1_cD-2_eF-3_gH-4_iJ-5_kL-6_mN-7_oP-8$"),
    ],
)
def test_a_secret_in_a_default_a_list_or_options_is_known(key: str, value: str) -> None:
    known = secrets_of(key, value.replace("$", "Tr0ub4dor3x").replace("Tr0ub4dor3x{", "${"))
    assert "Tr0ub4dor3x" in known or any(each.endswith("oP-8Tr0ub4dor3x") for each in known)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SMTP_PASS", "20240915"),
        ("CHROMA_SERVER_AUTHN_CREDENTIALS", "admin:Tr0ub4dor3x"),
        ("encryptionKey", "Tr0ub4dor3x"),
        ("API_TOKEN", "x9${Kq!7vTz2mWp4"),
        ("DB_PASSWORD", "a${b}c9Xq"),
    ],
)
def test_digits_a_brace_and_camel_case_hide_no_secret(key: str, value: str) -> None:
    known = secrets_of(key, value)
    assert value in known
    assert value.partition(":")[2] in ("", *known)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DB_PASSWORD", "${DB_PASSWORD}"),
        ("DB_PASSWORD", "${DB_PASSWORD:?give the password}"),
        ("MODEL", "sentence-transformers_paraphrase-multilingual-MiniLM-L12-v2"),
        ("API_KEYS", "12345678"),
    ],
)
def test_a_variable_without_a_default_a_number_and_a_name_are_no_secrets(key: str, value: str) -> None:
    assert secrets_of(key, value) == []


def test_the_frame_of_a_key_in_pem_is_no_secret_and_each_of_its_lines_is() -> None:
    lines = ["MIIEvQIBADANBg" * 3, "Zx93bD1aQ0s8kq"]
    pem = "\n".join([BEGIN, *lines, END])
    for written in (pem, pem.replace("\n", "\\n")):
        assert secret_parts(written) == [written, *lines]
    for frame in (BEGIN, END, "-----BEGIN"):
        assert secret_parts(frame) == []


def test_a_value_with_escapes_is_known_as_it_is_read() -> None:
    lines = [BEGIN, "MIIEvQIBADANBg", "Zx93bD1aQ0", END]
    text = 'KEY="' + "\\n".join(lines) + '"\nTOK_TOKEN="abc\\"def1234567"\n'
    known = {part for _, _, secret in secrets_assigned(text) for part in secret_parts(secret)}
    assert {"MIIEvQIBADANBg", "Zx93bD1aQ0", 'abc"def1234567'} <= known


@pytest.mark.parametrize(("text", "known"), [
    ("PASSWORD=`Tr0ub4 dor3x # y`", "Tr0ub4 dor3x # y"),
    ("PASSWORD=\"Tr0ub4\"'dor3x'tail", "Tr0ub4dor3xtail"),
    ('PASSWORD = "Tr0ub4" + \\\n  "dor3x"', "Tr0ub4dor3x"),
    ("password=Tr0\\\n    ub4\\\n    dor3x", "Tr0ub4dor3x"),
    ('PASSWORD=${X:-Tr0}"ub4dor3x"', "Tr0ub4dor3x"),
    ("PASSWORD=${X:-Tr0ub4}dor3x9", "dor3x9"),  # with a value of X in the environment only this is in the file
])  # fmt: skip
def test_a_value_in_backticks_in_pieces_or_behind_a_default_is_known(text: str, known: str) -> None:
    assert known in {secret for *_, secret in secrets_assigned(f"{text}\nNEXT=1\n")}
    assert not [*secrets_assigned(text.replace("PASSWORD", "COLOUR").replace("password", "colour"))]  # of no secret


def test_every_value_of_a_key_that_stands_more_than_once_is_known(tmp_path: Path) -> None:
    """Two services of a compose file with a password each; an old value in a comment above the new one."""
    (tmp_path / "app.env").write_text(
        "#API_KEY=0ld-Passw0rd-x\nAPI_KEY=n3w-Passw0rd-y\nURL=https://me:p4ss-w0rd@h/?sig=l0nger-than-the-passw0rd\n"
    )
    given = {
        "source": {"path": "a"},
        "target": {"path": "b"},
        "cutover": {"env_files": [{"path": str(tmp_path / "app.env"), "keys": {"X": "y"}}]},
    }
    known = parameters_from(given).secrets_of_files()
    assert {"0ld-Passw0rd-x", "n3w-Passw0rd-y", "p4ss-w0rd", "l0nger-than-the-passw0rd"} <= set(known.values())
    assert secrets_of("REPO", "https://ghp_abcdefghijklmnop0123@github.example/x") == ["ghp_abcdefghijklmnop0123"]


@pytest.mark.parametrize(
    "text",
    [
        'services: {app: {environment: {"API_KEY": "$"}}}',
        "environment:\n  'API_KEY' : '$'\n",
        "DB_PASSWORD: >-\n  $\n",
        "DB_PASSWORD: |\n  first-line-9\n  $\n",
        "token:\n  $\n",
        "? API_KEY\n: $\n",
        "environment:\n  -\n    API_KEY=$\n",
        "x: &kept $\ny: {API_KEY: *kept}\n",
        'command: ["app", "--api-key=$"]',
        "a: {API_KEY: $\nnot YAML: [",
    ],
)
def test_a_secret_of_a_compose_file_is_known_however_yaml_writes_it(tmp_path: Path, text: str) -> None:
    where = tmp_path / "compose.yaml"
    where.write_text(text.replace("$", "Tr0ub4dor-3x"))
    cutover = {"compose_files": [{"path": str(where), "keys": {"X": "y"}}]}
    known = parameters_from({"source": {"path": "a"}, "target": {"path": "b"}, "cutover": cutover}).secrets_of_files()
    assert "Tr0ub4dor-3x" in known.values()


def test_a_folded_secret_is_known_as_it_is_meant_and_as_it_is_written() -> None:
    found = [secret for _, _, secret in errors.secrets_in_yaml("password: >-\n  one-Half-1\n  other-Half-2\n")]
    assert {"one-Half-1 other-Half-2", "one-Half-1", "other-Half-2"} <= set(found)
    assert "pa$word-12" in [s for *_, s in errors.secrets_in_yaml("PASSWORD: pa$$word-12\n")]  # `$$` is compose's `$`


@pytest.mark.parametrize("blanks", [150, 199, 5000, 10_070])
def test_the_beginning_of_a_secret_is_not_shown_where_a_text_is_cut(
    monkeypatch: pytest.MonkeyPatch, blanks: int
) -> None:
    """What a server repeats may lie at any place of what is cut."""
    secret = "Bearer eyJ-" + "s3cret" * 20
    monkeypatch.setattr(errors, "_HIDDEN", {})
    errors.hide(secret, "env:JWT")
    text = " " * blanks + secret * 100
    answer = wire._Answer(200, text=text, request=httpx.Request("GET", "http://h/"))
    with pytest.raises(Transient) as caught:
        wire.json_of(answer)
    for limit in (20, 60, 80, 200, 600):
        shown = [
            str(caught.value),
            errors.one_line(text, limit),
            formatting.text(text, limit),
            formatting.lines(text, limit),
        ]
        assert not any("s3cret" in each or "eyJ-" in each for each in [*shown, show(text), rules.show(text)])


def test_what_the_parameters_name_is_no_secret(tmp_path: Path) -> None:
    again = parameters(tmp_path, restart=[["docker", "restart", "sk_live_abcdef123456"]])
    assert "sk_live_abcdef123456" not in again.secrets_of_files().values()


def test_a_command_that_prints_its_settings_leaves_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last lines are kept, without the values of the file; a run whose folder holds one is not sealed."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    cat = [sys.executable, "-c", "print(open('.env').read()); print(open('.env').read()[-120:])"]
    home = small_run(
        "night",
        Signers(tmp_path / "keys"),
        target={"url": "http://new:8000"},
        cutover={**written(tmp_path), "restart": [cat]},
    )
    monkeypatch.chdir(tmp_path)
    restart(home.read().parameters.cutover, home)
    log = home.log_path.read_text()
    assert [value for value in SECRET if value in log] == []
    assert "lines before these are not kept" in log
    assert "MODE=production" in log
    evidence.keep_sealed(home.read())
    (home.reports / "24_review.html").write_text("<p>hunter22</p>")
    report = secret_scan.search(home.reports, [], home.read().parameters.secrets_of_files())
    assert {(name, where.split()[-1]) for name, where, _ in report.hits} == {("24_review.html", "DSN")}


def test_a_restart_shows_no_secret_that_came_into_a_file_since_the_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback puts the old file back, whose password this process has not seen."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / ".env").write_text("CHROMA_URL=http://new:8000\nDB_PASSWORD=n3w-Passw0rd-y\n")
    keys = {"env_files": [{"path": str(tmp_path / ".env"), "keys": {"CHROMA_URL": "{target_url}"}}]}
    cat = [sys.executable, "-c", "print(open('.env').read())"]
    target, signers = {"url": "http://new:8000"}, Signers(tmp_path / "keys")
    home = small_run("night", signers, target=target, cutover={**keys, "restart": [cat]})
    monkeypatch.chdir(tmp_path)
    run = home.read()
    assert run.parameters.secrets_of_files()
    (tmp_path / ".env").write_text("CHROMA_URL=http://old:8000\nDB_PASSWORD=0ld-Passw0rd-x\n")
    restart(run.parameters.cutover, home)
    assert "0ld-Passw0rd-x" not in home.log_path.read_text()
    evidence.keep_sealed(home.read())


def test_a_diff_shows_no_token_and_no_comment(tmp_path: Path) -> None:
    shown = diff(all_edits(parameters(tmp_path)))
    assert "new:8000" in shown
    assert [value for value in (*SECRET, "key-in-a-comment") if value in shown] == []


@pytest.mark.parametrize(
    "url", ["https://u:pass-word-1@h/x", "https://h/x?sig=abcdef12&b=2", "https://h/AbCdEfGh1234567890XyZ/y"]
)
def test_urls_are_shown_without_what_they_carry(url: str) -> None:
    shown = without_tokens(f"GET {url} failed")
    assert not any(secret in shown for secret in ("pass-word-1", "abcdef12", "AbCdEfGh1234567890XyZ"))
    assert shown.startswith("GET https://")


OPEN = [
    ("cutover.health[0]", {"cutover": {"health": ["http://app/health?token=abc-123-def"]}}),
    ("cutover.health[1]", {"cutover": {"health": ["http://app/", "http://app/h?x=sk_live_abcdef123456"]}}),
    ("cutover.health[0]", {"cutover": {"health": ["http://app/h#access_token=abc-123-def"]}}),
    ("signoff.timestamp_url", {"signoff": {"timestamp_url": "https://tsa/?api_key=abc-123-def"}}),
    ("signoff.timestamp_url", {"signoff": {"timestamp_url": "https://tsa/AbCdEf1234567890abcdefgh/x"}}),
    (
        "cutover.restart[0][2]",
        {"cutover": {"restart": [["curl", "-H", "Authorization: Bearer abc-123-def", "http://app"]]}},
    ),
    *(
        ("cutover.restart[0][1]", {"cutover": {"restart": [["curl", option, "http://app"]]}})
        for option in (
            "--header=Authorization: Bearer abc-123-def",
            "-HX-Api-Key: abc-123-def",
            "--header=X-Token:abc-123-def",
            "true; curl -H 'Authorization: Bearer abc-123-def' http://app",
        )
    ),
    ("signoff.push_digest[1]", {"signoff": {"push_digest": ["curl", "https://u:abc-123-def@h/{digest}/{run}/{seal}"]}}),
]


@pytest.mark.parametrize(("key", "given"), OPEN)
def test_a_token_in_a_parameter_is_refused_unseen(
    key: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, by a notebook and by a resume alike: parameters are shown by every report."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    sections: dict[str, Any] = {"name": "n", "source": {"path": "a"}, "target": {"path": "b"}, "schema": "identity"}
    write_json(tmp_path / "given.yaml", {**sections, **given})
    home = runs.create(parameters_from(sections), "night")
    bad = parameters_from({**sections, **given})
    for enters in (
        lambda: load_parameters(tmp_path / "given.yaml"),
        lambda: runs.create(bad, "other"),
        lambda: runs.change_parameters(home, bad),
    ):
        with pytest.raises(UsageError) as refused:
            enters()
        line = refused.value.line()
        assert f"{key} holds a token or password, which every report would show" in line
        assert "bc-123" not in line.lower()
        assert "abcdef" not in line.lower()
    assert not (tmp_path / "reports" / "other").exists()
    assert home.read().parameters == parameters_from(sections)
    assert "bc-123" not in "".join(p.read_text() for p in home.reports.rglob("*") if p.is_file()).lower()


def test_a_header_whose_value_a_shell_puts_in_is_none_of_ours() -> None:
    for text in (
        'curl -H "Authorization: Bearer $TOKEN" http://app',
        "--out-format=json: short",
        "systemctl restart app",
    ):
        assert errors.secrets_within(text) == []


@pytest.mark.parametrize(("key", "given"), OPEN)
def test_a_token_in_a_parameter_of_an_older_run_is_not_shown(key: str, given: dict[str, Any]) -> None:
    """It goes on with what it has."""
    sections: dict[str, Any] = {"name": "n", "source": {"path": "a"}, "target": {"path": "b"}, **given}
    old = parameters_from(sections)
    old.hide_secrets()
    shown = errors.redacted(json.dumps(old.document())).lower()
    assert f"<secret {key}>" in shown
    assert "bc-123" not in shown
    assert "abcdef1" not in shown
    assert parameters_from({**sections, "migration": {"workers": 2}}).refuse_open_secrets(old).migration.workers == 2


def test_an_address_without_a_token_is_none() -> None:
    given = {
        "source": {"url": "http://old:8000", "headers": {"Authorization": "env:CHROMA_TOKEN"}}, "target": {"path": "b"},
        "cutover": {"health": ["http://app/health?verbose=1&format=json"]}, "notify": {"impact": "Note: reads go on."},
    }  # fmt: skip
    assert parameters_from(given).refuse_open_secrets().cutover.health


def test_a_secret_that_is_unset_at_a_steps_seal_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who signs needs none: what that command writes holds none."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("CHROMA_TOKEN", "s3cret-of-the-source")
    headers = {"url": "http://old:8000", "headers": {"Authorization": "env:CHROMA_TOKEN"}}
    home = small_run("night", Signers(tmp_path / "keys"), source=headers)
    monkeypatch.delenv("CHROMA_TOKEN")
    with pytest.raises(UsageError, match="env:CHROMA_TOKEN has no value here"):
        evidence.keep_sealed(home.read())
    assert not (home.reports / "seals").exists()
    monkeypatch.setenv("CHROMA_TOKEN", "s3cret-of-the-source")
    evidence.keep_sealed(home.read())
    monkeypatch.delenv("CHROMA_TOKEN")
    home.log("a signature")
    evidence.at_rest(home.read())
    assert evidence.seals(home.reports)[-1].predicate["secrets"]["unknown"] == {"env:CHROMA_TOKEN": "has no value here"}


def test_folders_of_a_run_are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    old = os.umask(0o022)
    try:
        home = runs.create(parameters_from({"source": {"path": "a"}, "target": {"path": "b"}}), "night")
        home.log("a line")
        audit.append(home.reports / audit.NAME, "begun")
    finally:
        os.umask(old)
    assert [stat.S_IMODE(f.stat().st_mode) for f in (home.reports, home.workspace)] == [0o700, 0o700]
    every = {p.name: stat.S_IMODE(p.stat().st_mode) for p in home.reports.iterdir() if p.is_file()}
    assert {"run.json", "parameters.yaml", "run.log", "audit.jsonl"} <= set(every)
    assert set(every.values()) == {0o600}


def test_an_archive_takes_no_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "figures").symlink_to("/etc")
    with pytest.raises(EnvironmentFailure, match="figures is a link"):
        archive(tmp_path / "run", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_a_connection_that_gives_secrets_away_is_told() -> None:
    headers = {"headers": {"Authorization": "env:T"}}
    told = {
        "http://db.example:8000": [ReasonCode.SECRET_IN_CLEAR], "https://db.example": [], "http://127.0.0.1:8000": [],
        "http://[::1]:8000": [],
    }  # fmt: skip
    for url, reasons in told.items():
        assert [code for code, _ in Endpoint.model_validate({"url": url, **headers}).exposed()] == reasons
    assert Endpoint(url="http://db.example:8000").exposed() == []
    unverified = Endpoint.model_validate({"url": "https://db.example", "verify_tls": False})
    assert [code for code, _ in unverified.exposed()] == [ReasonCode.TLS_UNVERIFIED]


def test_a_link_at_a_temporary_name_that_somebody_foresaw_is_not_followed(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out.zip"
    victim.write_text("precious")
    foreseen = tmp_path / f".out.zip.{os.getpid()}.tmp"
    foreseen.symlink_to(victim)
    names = []
    for _ in range(2):
        with writing(out) as temporary:
            assert temporary.is_file()
            assert not temporary.is_symlink()
            temporary.write_bytes(b"zip")
            names.append(temporary.name)
    assert foreseen.is_symlink(), "what is not ours is not taken away"
    assert (victim.read_text(), out.read_bytes(), out.is_symlink()) == ("precious", b"zip", False)
    assert names[0] != names[1]
    assert all(is_leftover(name, out.name) for name in names)
