"""What binds a run (who signs, where it goes) is what its seals say; no later seal says less; a planted one begins no run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.cli.evidence import verify
from helpers.errors import RunbookError, Terminal, UsageError
from helpers.evidence import signing
from helpers.evidence import statement as statements
from helpers.evidence.seals import bound_by, unbound_parameters
from helpers.evidence.statement import added_lines, measure, stamp, statement
from helpers.parameters import parameters_from
from helpers.results import file_digest
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from tests.signers import Signers, changed_toolkit, finish, plain, signed_run, small_run

SEALS = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function


def named(home: RunFolder) -> str:
    return "\n".join(verify(home.reports).problems)


def sealed_once(signers: Signers) -> RunFolder:
    home = small_run("night-1", signers)
    evidence.keep_sealed(home.read())
    return home


def other_parameters(home: RunFolder, patch: pytest.MonkeyPatch, lie: Any, section: str, **changes: Any) -> None:
    """By the operator's own toolkit, which says in each seal what the first one said."""
    changed_toolkit(patch)
    patch.setattr(SEALS, "_refuse_other_binding", lambda *_: None)
    about = SEALS._run_facts
    patch.setattr(SEALS, "_run_facts", lambda run: {**about(run), **lie(about(run))})
    document = home.read().parameters.document()
    document[section] |= changes
    home.rewrite("parameters.yaml", runs.parameters_text(parameters_from(document)))
    home.note(parameters_sha256=file_digest(home.reports / "parameters.yaml"))
    home.log("goes on")
    finish(home)


def test_fewer_roles_below_seals_that_say_what_the_first_one_said_are_named(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = sealed_once(signers)
    first = evidence.seals(home.reports)[0].predicate
    kept = {"bound": first["bound"], "approvals": first["approvals"], "run": first["run"]}
    other_parameters(home, monkeypatch, lambda _: kept, "signoff", required=["dba"], dry_run=[])
    for what in ("approvals: cutover, dry-run", "bound: signoff.dry_run, signoff.required", "binding"):
        assert f"{what}: not as parameters.yaml says" in named(home)


def test_another_target_below_seals_that_say_the_old_one_is_named(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = sealed_once(signers)
    target = evidence.seals(home.reports)[0].predicate["target"]
    other_parameters(home, monkeypatch, lambda _: {"target": target}, "target", path="elsewhere")
    assert "target: path: not as parameters.yaml says" in named(home)


def test_a_parameter_that_was_unset_at_the_first_seal_is_not_set_unseen(folders: Path, signers: Signers) -> None:
    first = evidence.seals(sealed_once(signers).reports)[0]
    document = RunFolder.of("night-1").read().parameters.document()
    document["signoff"]["timestamp_url"] = "http://127.0.0.1:1/"
    bound = bound_by(parameters_from(document))
    assert unbound_parameters(first, bound, []) == (["signoff.timestamp_url"], [])
    changed = {"action": "parameters changed", "facts": {"names": ["signoff.timestamp_url"]}}
    assert unbound_parameters(first, bound, [changed]) == (["signoff.timestamp_url"], [])
    assert unbound_parameters(first, first.predicate["bound"] | {"fence.kind": bound["fence.kind"]}, []) == ([], [])


@pytest.mark.more
@pytest.mark.parametrize("part", [audit.LOG_KEY, "work", "moves", "sealed", audit.FILES, "bound", "approvals"])
def test_a_later_seal_that_says_less_is_named(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    home = sealed_once(signers)
    monkeypatch.setattr(SEALS, "statement", lambda m, said: statement(m, {k: v for k, v in said.items() if k != part}))
    home.log("goes on")
    evidence.at_rest(home.read())
    assert f"it lacks what seal 2 has: {part}" in named(home)
    assert re.search(r"seals/0003-\S+( lacks what|: other people sign than in) seals/0002-", plain(home))


# -- before the first seal -----------------------------------------------------------------------------------------------


def plant(home: RunFolder, log: bytes) -> None:
    """Whoever can write in the folder of the reports alone: other parameters, and a seal of a toolkit of long ago."""
    reports = home.reports
    document = home.read().parameters.document()
    document["cutover"]["restart"] = [["touch", "mark"]]
    text = runs.parameters_text(parameters_from(document))
    (reports / "parameters.yaml").write_text(text, encoding="utf-8")
    facts = json.loads((reports / "run.json").read_bytes())
    facts["parameters_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (reports / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in ("run.json", "parameters.yaml"):
        entry = {"action": audit.WRITTEN, "facts": {"file": name, "sha256": file_digest(reports / name)}, "host": "h",
                 "outcome": "done", "previous": hashlib.sha256(log.rstrip(b"\n").split(b"\n")[-1]).hexdigest(),
                 "process": 1, "user": "u", "when": "2026-11-28T07:00:00.000+00:00"}  # fmt: skip
        log += json.dumps(entry, sort_keys=True).encode() + b"\n" if log else b""
    (reports / audit.NAME).unlink()
    if log:
        (reports / audit.NAME).write_bytes(log)
    (reports / "seals").mkdir()
    about = {name: facts.get(name) for name in ("id", "name", "group", "created", "rehearsal", "host", "user")}
    said = {"number": 1, "after": "", "created": "2025-01-01T00:00:00.000+00:00", "previous": "none", "verdicts": {},
            "previous_name": "none", "secrets": {"searched": [], "unknown": {}}, "run": {**about, "binding": ""},
            "decision": "", "helpers": "", "approvals": {}, "directory": facts["directory"]}  # fmt: skip
    path = reports / "seals" / f"0001-{stamp(str(said['created']))}.json"
    path.write_bytes(statement(measure(reports), said))


@pytest.mark.parametrize("log", ["gone", "longer", "another"])
def test_a_planted_seal_makes_no_run_one_of_an_older_toolkit(folders: Path, signers: Signers, log: str) -> None:
    home = small_run("night-1", signers)
    was = (home.reports / audit.NAME).read_bytes()
    plant(
        home,
        {"gone": b"", "longer": was, "another": was[: was.index(b"\n") + 1].replace(b"run begun", b"run begin")}[log],
    )
    with pytest.raises(RunbookError, match=r"audit\.jsonl|is not what audit\.jsonl last named"):
        evidence.enter(home.read())
    with pytest.raises(UsageError, match=r"run\.json is not what audit\.jsonl last named"):
        home.note(until="25")
    if log != "longer":
        with pytest.raises(Terminal, match="its first line is not the one with which the run began"):
            evidence.enter(home.read())


# -- who judges ------------------------------------------------------------------------------------------------------------


def test_one_giant_line_behind_the_log_does_not_hold_verify(folders: Path, signers: Signers) -> None:
    home = signed_run(signers)
    newest, log = evidence.seals(home.reports)[-1], home.reports / audit.NAME
    head = b'{"action": "digest pushed", "facts": {"digest": "' + b"0" * 64 + b'", "number": 1, "reason": "x", "why": "'
    tail = (
        b'"}, "host": "h", "outcome": "failed", "previous": "'
        + b"0" * 64
        + b'", "process": 1, "user": "u", "when": "w"}\n'
    )
    behind = log.read_bytes()
    log.write_bytes(behind + head + b"a" * 100 + tail)
    assert added_lines(home.reports, newest) == {}
    log.write_bytes(behind + head + b"a" * 2_000_000 + tail)
    asked = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); from pathlib import Path\n"
        "from helpers.evidence.statement import added_lines, read_seal\n"
        "print(added_lines(Path(sys.argv[1]), read_seal(Path(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, str(home.reports), str(newest.path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "{'audit.jsonl': 1}\n", done.stderr[-300:]


def test_one_long_line_in_a_list_of_signers_is_refused_at_once(tmp_path: Path, signers: Signers) -> None:
    path = tmp_path / "allowed_signers"
    path.write_text(signers.line("dba") + "x " + "a," * 2_000_000 + "\n", encoding="ascii")
    begun = time.monotonic()
    with pytest.raises(UsageError, match="line 2 is not an allowed signer"):
        signing.read_allowed(path)
    assert time.monotonic() - begun < 5
    key = signers.line("dba")
    path.write_text(key.replace(" namespaces", "," + "b@x," * 5000 + "c namespaces"), encoding="ascii")
    with pytest.raises(UsageError, match="line 1 is not an allowed signer"):
        signing.read_allowed(path)


@pytest.mark.parametrize("who", ["dba", "runner"])
@pytest.mark.more
def test_a_key_that_the_list_outside_revokes_signs_nothing(folders: Path, signers: Signers, who: str) -> None:
    home, kept = signed_run(signers), folders / "kept"
    runner = folders / "workspace" / "runner_key"
    line = f'runner namespaces="runbook-seal" {audit.public_key(runner)[0]}\n'
    kept.write_text(signers.allowed.read_text(encoding="ascii") + line, encoding="ascii")

    def judged() -> tuple[bool, str]:
        done = subprocess.run(
            ["bash", "VERIFY.txt"], cwd=home.reports, env={"PATH": "/usr/bin:/bin", "SIGNERS": str(kept)},
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return verify(home.reports, signers=kept).problems == [], done.stdout.splitlines()[-1]

    assert judged() == (True, "Everything fits.")
    shutil.copy((signers.key("dba") if who == "dba" else runner).with_suffix(".pub"), folders / "kept.revoked")
    assert judged() == (False, "Does not fit: see FAILED above.")


@pytest.mark.more
@pytest.mark.parametrize(("key", "value"), [
    ("rehearsal", True), ("created", "2025-01-01T00:00:00.000+00:00"), ("user", "somebody else"), ("directory", "/"),
])  # fmt: skip
def test_what_run_json_says_that_a_run_is_is_what_the_seals_say(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    """The operator's own toolkit writes it, and the log names the change; the seals go on saying what they said."""
    home = sealed_once(signers)
    finish(home)
    assert named(home) == ""
    assert "Everything fits." in plain(home)
    changed_toolkit(monkeypatch)
    monkeypatch.setattr(SEALS, "_refuse_other_binding", lambda *_: None)
    about, first = SEALS._run_facts, evidence.seals(home.reports)[0].predicate
    monkeypatch.setattr(SEALS, "_run_facts", lambda run: {**about(run), **{k: first[k] for k in ("run", "directory")}})
    home.note(**{key: value})
    finish(home)
    assert f"run.json: {key}: not as seal 1 says" in named(home)
    assert re.search(rf'^run\.json: seals/0001-\S+ says "{key}":', plain(home), re.M)


@pytest.mark.more
def test_what_verify_does_grows_with_the_number_of_seals_and_not_with_its_square(
    folders: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that are started, and passes over the logs: thousands of seals held it."""
    home = sealed_once(signers)
    counted, run, passes = list[str](), subprocess.run, statements.prefix_digests

    def ran(*arguments: Any, **more: Any) -> Any:
        counted.append("program")
        return run(*arguments, **more)

    def passed(path: Path, lengths: Iterable[int]) -> dict[int, str]:
        counted.append("pass")
        return passes(path, lengths)

    def cost(seals: int) -> dict[str, int]:
        while len(evidence.seals(home.reports)) < seals:
            evidence.seal(home.read())
        finish(home)
        signing._key_of_seal.cache_clear()
        audit.signer.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "run", ran)
            for module in (statements, sys.modules["helpers.evidence.verification"]):
                patch.setattr(module, "prefix_digests", passed)
            counted.clear()
            assert verify(home.reports).problems == []
        return {what: counted.count(what) for what in ("program", "pass")}

    few, many = cost(6), cost(30)
    assert many["program"] < few["program"] * 30 / 6
    assert many["pass"] == few["pass"]
    assert signing._key_of_seal.cache_info().maxsize is None  # else each look at a longer chain begins anew
