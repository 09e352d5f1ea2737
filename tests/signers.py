"""People who sign: real ed25519 keys, the list of who may sign, and a run's folder small enough to be made in a moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, evidence
from helpers.evidence import signing, signoffs
from helpers.evidence.statement import measure
from helpers.parameters import ROLES, parameters_from
from helpers.report.pages import run_page
from helpers.results import StepResult, file_digest, utc_now, write_json, write_text
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.folders import RunFolder, RunState
from helpers.run.plan import Step

Runbook = Callable[..., "subprocess.CompletedProcess[str]"]


# Whom a level of escalation calls.
CONTACTS = "contacts: {on_call: Cy 777, dba: Bo 2, operations_lead: Ada 1, channel: '#room'}\n"


def sign(run: RunState, role: str, name: str, decision: str, *words: str, key: Path, **more: Any) -> Path:
    """Make the statement and sign it."""
    return signoffs.sign(run, signoffs.statement(run, role, name, decision, *words, **more), key)


class Signers:
    """One key a role, `<folder>/<role>`, and `allowed`, the file for `signoff.allowed_signers`.

    `options` by role stand before the key, such as `valid-before="20250101Z"`; the namespace of the role is always there.
    """

    def __init__(self, folder: Path, options: dict[str, str] | None = None, roles: Sequence[str] = ROLES) -> None:
        self.folder, self.roles = folder, roles
        self.allowed = folder / "allowed_signers"
        folder.mkdir(parents=True, exist_ok=True)
        for role in roles:
            make_key(self.key(role))
        self.write(options or {})

    @classmethod
    def of(cls, folder: Path) -> Signers:
        """The signers whose keys are in this folder already."""
        found = cls.__new__(cls)
        found.folder, found.roles, found.allowed = folder, ROLES, folder / "allowed_signers"
        return found

    def key(self, role: str) -> Path:
        return self.folder / role

    def line(self, role: str, options: str = "", *, namespaces: str = "") -> str:
        kind, blob = self.key(role).with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        given = f'namespaces="{namespaces or signing.namespace(role)}"' + (f",{options}" if options else "")
        return f"{role}@example.org {given} {kind} {blob}\n"

    def write(self, options: dict[str, str]) -> None:
        self.allowed.write_text("".join(self.line(r, options.get(r, "")) for r in self.roles), encoding="ascii")

    def approve(self, folder: Path, roles: Sequence[str] = (), **words: Any) -> list[Path]:
        """Sign GO for these roles (all that have a key) on the run in this folder; the statements."""
        return [
            sign(read(folder), role, f"Name of {role}", "go", key=self.key(role), **words)
            for role in roles or self.roles
        ]

    def sign_any(self, folder: Path, role: str, decision: str = "go", **words: Any) -> Path:
        """Sign on a folder that was put together by a test: the first who signs has it sealed."""
        home = RunFolder(folder.name, folder, folder.parent / f".{folder.name}-work")
        if not (folder / "seals").is_dir():
            text = (folder / "parameters.yaml").read_text(encoding="utf-8")
            text = text.replace("signoff: {", f"{self.parameter(contacts='')[:-2]}, ")
            (folder / "parameters.yaml").write_text(text, encoding="utf-8")
            vouch(folder)
            home.note(directory=str(folder))
            evidence.seal(home.read(), "24")
        return sign(read(folder), role, words.pop("name", f"Ms {role}"), decision, key=self.key(role), **words)

    def parameter(self, text: str = "", contacts: str = CONTACTS) -> str:
        """The sections `signoff` of a parameters file, with `text` for its other keys, and `contacts`: a run that people
        sign names both."""
        return f"signoff: {{allowed_signers: {json.dumps(str(self.allowed))}{', ' + text if text else ''}}}\n{contacts}"

    def command(self, role: str) -> list[str]:
        """The options of `runbook sign` with which this role says go."""
        return ["--role", role, "--name", f"Name of {role}", "--decision", "go", "--key", str(self.key(role))]


def read(folder: Path) -> RunState:
    """The run whose reports are in this folder; one that a test put together has no other folder."""
    workspace = runs.workspace_root() / folder.name
    return RunState(folder.name, folder, workspace if workspace.is_dir() else folder)


def make_key(path: Path) -> Path:
    """A key without a passphrase."""
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(make, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return path


def small_run(run_id: str, signers: Signers, again: str = "", group: str = "", **sections: Any) -> RunFolder:
    """A run with results, executed notebooks, their HTML and a figure, not sealed; `again`: only this step, once more."""
    folder = RunFolder.of(run_id)
    if not again:
        text = {"signoff": {"allowed_signers": str(signers.allowed), "dry_run": ["dba"]}}
        parameters = parameters_from(
            {"name": "night", "source": {"path": "from"}, "target": {"path": "to"}, **text, **sections}
        )
        runs.create(parameters, run_id, group=group)
        folder.log("line begins")
    for step in ("13", "14", "23", "24"):
        if again in ("", step):
            finish_step(folder, step)
    return folder


def finish_step(folder: RunFolder, number: str) -> None:
    """A step as if it had passed: its result, its executed notebook and its page."""
    row = plan.find(number)
    begun = utc_now()
    audit.append(folder.reports / audit.NAME, audit.STEP_BEGINS, step=number)
    result = StepResult(number, row.title, folder.id, begun, utc_now(), facts={"execution": "token"})
    if number == "24":
        result.facts |= {"decision": "GO", "accept": [], "against": []}
    if number == "23":
        (folder.reports / "figures" / "23_counts.png").write_bytes(b"\x89PNG picture")
        result.figures.append({"name": "counts", "file": "23_counts.png", "caption": "All are there", "alt": "Counts"})
    path = folder.reports / "results" / f"{number}.json"
    result.write(path)
    html = f"<p>SHA-256 <code>{file_digest(path)}</code></p>"
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [html]}}
    code = {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": ["run.finish()"], "outputs": [shown]}
    title = {"cell_type": "markdown", "metadata": {}, "source": [f"# {row.title}"]}
    notebook = folder.reports / row.notebook
    write_json(notebook, {"cells": [title, code], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})
    notebook.with_suffix(".html").write_text(f"<h1>{row.title}</h1>", encoding="utf-8")
    named = (path, notebook, notebook.with_suffix(".html"), *(folder.reports / "figures").glob(f"{number}_*"))
    digests = {each.relative_to(folder.reports).as_posix(): file_digest(each) for each in named}
    about = {"step": number, "result": file_digest(path), "digests": digests}
    audit.append(folder.reports / audit.NAME, audit.STEP_ENDS, outcome=str(result.verdict), **about)


def signed_run(signers: Signers) -> RunFolder:
    found = small_run("night-1", signers)
    evidence.keep_sealed(found.read())
    signers.approve(found.reports, ["dba"], gate="dry-run")
    signers.approve(found.reports)
    finish(found)
    return found


def finish(home: RunFolder) -> None:
    evidence.at_rest(home.read())
    write_text(home.reports / "index.html", run_page(home.reports))


def vouch(folder: Path) -> None:
    """Name what a test put into the folder of a run as the toolkit names what it writes."""
    digests = measure(folder).subjects
    if not audit.logged_files(folder, None).complete:  # put together by the test
        audit.append(folder / audit.NAME, audit.BEGUN, digests={})
    loose = audit.logged_files(folder, None).unnamed(digests)
    audit.append(folder / audit.NAME, audit.NOTEBOOK_KEPT, digests={name: digests[name] for name in loose})


def changed_toolkit(patch: pytest.MonkeyPatch) -> None:
    """An operator with the runner's key whose toolkit seals whatever is there."""
    seals = sys.modules["helpers.evidence.seals"]  # the package's `seals` is the function
    patch.setattr(seals, "own_files", lambda run, chain, there, said: there)
    for refusal in ("refuse_changes", "refuse_other_log"):
        patch.setattr(seals, refusal, lambda *_: None)


def forge(home: RunFolder, name: str) -> None:
    """Put another result in the place of a sealed one, with its notebook, and the old ones below earlier/, without any key."""
    row = plan.find(Path(name).stem)
    aside = home.reports / "earlier" / "2026-11-28T191500.000"
    for old in (name, row.notebook):
        (aside / old).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home.reports / old, aside / old)
    path, notebook = home.reports / name, home.reports / row.notebook
    digest = file_digest(path)
    path.write_text(path.read_text(encoding="utf-8").replace('"token"', '"forged"'), encoding="utf-8")
    text = notebook.read_text(encoding="utf-8").replace(digest, file_digest(path))
    notebook.write_text(text, encoding="utf-8")


def plain(home: RunFolder, signers: Path | None = None) -> str:
    """What VERIFY.txt says of the run, with the list of signers from elsewhere where one is given."""
    given = os.environ | ({"SIGNERS": str(signers)} if signers else {})
    asked = ["bash", "VERIFY.txt"]
    return subprocess.run(asked, cwd=home.reports, env=given, check=False, capture_output=True, text=True).stdout


def closed_run(run_id: str, people: Signers, signoff: dict[str, Any], *, refusal: bool = True) -> RunFolder:
    """A run as it is when all is over: announced, reviewed, refused once, approved, cut over, closed, each sealed."""
    home = small_run(run_id, people, signoff=signoff)
    evidence.keep_sealed(home.read())
    people.approve(home.reports, ["dba"], gate="dry-run")
    if refusal:
        people.sign_any(home.reports, "security", "no-go", reason="Wait for the audit.")
    people.approve(home.reports)
    for number in (Step.CUTOVER, Step.CLOSEOUT):
        finish_step(home, number)
    evidence.keep_sealed(home.read())
    home.log("line ends")
    evidence.at_rest(home.read())
    write_text(home.reports / "index.html", run_page(home.reports))
    return home
