"""The whole line with the real notebooks: rehearsal, dry run, sign-offs, GO, NO-GO, and the exit code of each."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import chromadb
import pytest

from helpers.evidence.signoffs import gate_state
from helpers.rehearsal import write_sample
from helpers.report.numbers import start_seconds
from helpers.results import StepResult, Verdict
from tests.conftest import ROOT
from tests.plain_english import CLAIMS
from tests.signers import Signers, read

pytestmark = pytest.mark.slow

Runbook = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def runbook(tmp_path: Path) -> Runbook:
    """`runbook("run", …)` in tmp_path, with folders of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        folders = {"RUNBOOK_REPORTS": str(tmp_path / "reports"), "RUNBOOK_WORKSPACE": str(tmp_path / "workspace")}
        return subprocess.run(
            [sys.executable, "-m", "helpers", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, **folders, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return run


def in_one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    return done.stderr


def tree(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def exercised_what_it_can(reports: Path) -> None:
    """Fence, restart, health, log, notices and window passed; what was shortened says so, and is no pass."""
    results = {path.stem: StepResult.read(path) for path in sorted(reports.glob("results/*.json"))}
    every = [(number, c) for number, result in results.items() for c in result.checks]
    found = {(number, c.name): c for number, c in every}
    assert len(found) == len(every), "a name stands once in a step"
    assert [(number, c.missing_figures) for number, c in every if c.missing_figures] == []
    passed = [
        ("12", "health URLs"),
        ("14", "announcement"),
        ("14", "stakeholders"),
        ("20", "writes before the fence"),
        ("20", "writes through the fence"),
        ("20", "write fence"),
        ("25", "application at the target"),
        ("25", "writes of the application at the target"),
        ("27", "replayed chunks"),
        ("27", "end of the write fence"),
    ]
    assert {key: found[key].verdict for key in passed} == dict.fromkeys(passed, Verdict.PASS)
    shortened = [
        ("14", "notice before the window"),
        ("25", "time watched"),
        ("25", "health of the application"),
        ("27", "time watched"),
        ("27", "health of the source"),
        ("50", "time watched"),
        ("50", "health of the application"),
        ("53", "end of the write fence"),
        ("53", "rollback after the closeout"),
    ]
    assert {key: found[key].verdict for key in shortened} == dict.fromkeys(shortened, Verdict.NOT_EXERCISED)
    assert re.fullmatch(r"[\d.]+ s of 1 h 00 min, first look to last", found["50", "time watched"].detail)
    assert [c.contradiction for c in found.values() if c.contradiction] == []
    assert all(0 < start_seconds(result) < 120 for result in results.values()), "notebook starts are measured"
    assert [name for _, name in found if CLAIMS.search(name)] == []


def test_a_rehearsal_signs_through_the_real_gate_and_ends_with_go(runbook: Runbook, tmp_path: Path) -> None:
    done = runbook("rehearse", "--chunks", "200", "--dimension", "24", "--run-id", "try")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    page = tmp_path / "reports" / "try" / "index.html"
    assert "Verdict: GO" in done.stdout
    assert f"Open:    {page}" in done.stdout
    assert page.is_file()
    assert len(list(page.parent.glob("*.html"))) == 21  # 16 steps, run, rollback, as signed twice, final
    assert done.stdout.count("\nDrilled: ") == 3
    kill = (
        r"^Drilled: kill: step 22 was killed with ([\d,]+) of [\d,]+ chunks written and .*; the resume found the \1 and"
    )
    assert re.search(kill, done.stdout, re.M)
    exercised_what_it_can(page.parent)
    assert "restore of snapshot try-21 into" in page.read_text(encoding="utf-8")
    signed = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((page.parent / "signoffs").glob("*.json"))]
    assert [s["role"] for s in signed] == ["operations_lead", "dba", "operations_lead", "security"], (
        "closeout, then cutover"
    )
    assert all(s["rehearsal"] is True and s["name"].startswith("REHEARSAL") for s in signed)
    assert runbook("verify", "try").stdout.splitlines()[-1].startswith("Run try fits: ")
    plain = subprocess.run(["bash", "VERIFY.txt"], cwd=page.parent, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout.splitlines()[-1]) == (0, "Everything fits."), plain.stdout + plain.stderr

    holds_what_an_auditor_asks_for(page.parent)
    facts = json.loads((page.parent / "run.json").read_text(encoding="utf-8"))
    (page.parent / "run.json").write_text(json.dumps({**facts, "rehearsal": False}), encoding="utf-8")
    state = gate_state(read(page.parent))
    assert state.missing == ["operations_lead", "dba", "security"], "a production run refuses a rehearsal's approvals"


def holds_what_an_auditor_asks_for(folder: Path) -> None:
    """The page as it was signed, in the seal that was signed; the drills; every quarantined chunk, whole, with its reason."""
    (kept,) = folder.glob("as-signed-cutover-*.html")
    seals = {path.name[:4]: json.loads(path.read_text("utf-8")) for path in folder.glob("seals/*.json")}
    sealed = {s["name"]: s["digest"]["sha256"] for s in seals[kept.stem[-4:]]["subject"]}
    assert sealed[kept.name] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert "GO, waiting for signatures: 0 of 3" in kept.read_text(encoding="utf-8")
    assert seals[kept.stem[-4:]]["predicate"]["after"] == "24"
    newest = {s["name"] for s in seals[max(seals)]["subject"]}
    drills = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("drills/*.json")}
    assert (
        {f"drills/{name}.json" for name in drills}
        == {f"drills/{n}.json" for n in ("kill", "put-back", "restore", "rollback")}
        <= newest
    )
    results = {
        n: json.loads((folder / "results" / f"{n}.json").read_text("utf-8"))["facts"] for n in ("21", "22", "23")
    }
    kill, restore, rollback = (drills[name] for name in ("kill", "restore", "rollback"))
    assert {d["verdict"] for d in drills.values()} == {"pass"}
    assert 0 < kill["written_at_kill"] == kill["written_at_resume"] < kill["staged"]
    assert kill["written_at_resume"] + kill["written_by_resume"] == kill["staged"]
    lost = sum(map(len, restore["without_vector"].values()))
    assert restore["compared"] + lost == results["21"]["snapshot"]["chunks"]
    assert restore["chroma_version"] == chromadb.__version__
    assert restore["removed_afterwards"] is True
    assert not Path(restore["into"]).exists()
    assert 0 < rollback["seconds"]["service"] <= rollback["seconds"]["clean"]
    assert rollback["seconds"]["observed"] is True
    back = drills["put-back"]
    assert rollback["put_back"] == "drills/put-back.json"
    stood = {row["collection"]: row["target"] for row in results["23"]["targets"]}
    assert back["compared"] == stood, "every chunk of the target, as validated, after it was put back"
    assert "names the target" in back["application"]
    assert (back["write_behind_the_fence"], back["write_at_the_target"]) == ("not taken", "taken")
    acts_and_notices_of_the_drills(folder)
    counted = results["23"]["quarantine"]
    assert sum(counted.values()) > 0
    assert "22_quarantine.jsonl.gz" in newest
    lines = [json.loads(x) for x in gzip.decompress((folder / "22_quarantine.jsonl.gz").read_bytes()).splitlines()]
    assert Counter(line["reason"] for line in lines) == counted
    assert {"collection", "id", "document", "metadata", "embedding"} <= lines[0].keys()


def acts_and_notices_of_the_drills(folder: Path) -> None:
    """Each act has its line, each notice says that it is a drill; the announcement is called late where it left after the
    begin of its window, which a machine under load brings about."""
    acts = [json.loads(line)["action"] for line in (folder / "audit.jsonl").read_text("utf-8").splitlines()]
    for act in ("write fence set again", "source and target as before the drill", "configuration files cut over again",
                "application restarted"):  # fmt: skip
        assert acts.count(f"drill put back: {act}") == 1
    assert acts.count("drill put back") == 2, "begun, done"
    assert acts.count("drill: step 22 killed") == acts.count("drill: a client's write to the target") == 1
    assert acts.count("clients' writes replayed") >= 2
    sent = [json.loads(line) for line in (folder / "notices.jsonl").read_text("utf-8").splitlines()]
    text = {n["action"]: n["facts"]["subject"] + "\n" + n["facts"]["text"] for n in sent}
    for event in ("stopped", "rollback begins", "rollback ends", "drill put back"):
        assert "DRILL: " in text[event].splitlines()[0]
        assert "Nobody has to act" in text[event]
        assert "Escalation" not in text[event]
        assert "Someone must" not in text[event]
    assert "Reads go on" not in text["start"]
    if "This notice is late" in text["announcement"]:
        begins = read(folder).parameters.window.start
        assert begins is not None
        assert next(n["when"] for n in sent if n["action"] == "announcement") > begins.isoformat()
    assert "drill" not in text["cutover"].lower()
    summary = (folder / "CHROMADB_MIGRATION_SUMMARY.md").read_text("utf-8")
    success = (folder / "CHROMADB_MIGRATION_SUCCESS.md").read_text("utf-8")
    assert summary.count("Shortened or not exercised: Step") >= 5
    assert success.count("Shortened or not exercised: Step") >= 5
    assert "None recorded." not in summary


def test_a_run_waits_for_its_approvals_and_a_damaged_target_is_no_go(runbook: Runbook, tmp_path: Path) -> None:
    write_sample(tmp_path / "source", chunks=120, dimension=16)
    before = tree(tmp_path / "source")
    people = Signers(tmp_path / "keys")
    text = "name: trial\nsource: {path: source}\ntarget: {path: target}\nschema: identity\n"
    text += "monitoring: {minutes: 0.02, interval_seconds: 0.5, level_seconds: 0.6, repetitions: 2}\n"
    text += people.parameter("dry_run: [dba]")
    (tmp_path / "trial.yaml").write_text(text, encoding="utf-8")

    dry = runbook("run", "trial.yaml", "--run-id", "one", "--dry-run")
    assert "--gate dry-run" in in_one_line(dry, 4), "the dry run's own approval is due first"
    assert not (tmp_path / "target").exists()
    assert "--from 20" in in_one_line(runbook("resume", "one"), 2)
    in_one_line(runbook("run", "--run-id", "one", "--from", "20"), 4)
    assert not (tmp_path / "reports" / "one" / "results" / "20.json").exists(), "a shut gate lets no step begin"
    signed = runbook("sign", "one", *people.command("dba"), "--gate", "dry-run")
    assert (signed.returncode, "Step 20" in signed.stdout) == (0, True), signed.stdout + signed.stderr

    waiting = in_one_line(runbook("run", "--run-id", "one", "--from", "20"), 4)
    assert "runbook sign one" in waiting
    assert "--role operations_lead" in waiting
    assert tree(tmp_path / "source") == before
    in_one_line(runbook("resume", "one"), 4)
    for role in ("operations_lead", "dba", "security"):
        assert runbook("sign", "one", *people.command(role)).returncode == 0
    done = runbook("resume", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Verdict: GO\n" in done.stdout
    assert "All steps have passed." in runbook("status", "one").stdout

    damaged = damage(tmp_path / "target")
    no_go = runbook("run", "--run-id", "one", "--from", "23", "--until", "24")
    assert "NO-GO" in in_one_line(no_go, 3)
    assert damaged in no_go.stdout
    assert "Verdict: NO-GO" in no_go.stdout
    refused = runbook("sign", "one", *people.command("dba"))
    assert "NO-GO" in in_one_line(refused, 2)


def damage(target: Path) -> str:
    """Drop one chunk; its id."""
    client = chromadb.PersistentClient(target)
    collection = min(client.list_collections(), key=lambda c: c.name)
    chunk = str(collection.get(limit=1)["ids"][0])
    collection.delete(ids=[chunk])
    client.close()  # type: ignore[attr-defined]
    return chunk
