"""The archive of a finished run, forged in more than sixty ways, and an auditor who trusts neither operator nor machine.

He has the archive, the digest of the newest seal as it was announced, and his own list of who may sign. `verify --expect DIGEST
--allowed-signers FILE` names the file and the reason for each forgery; VERIFY.txt, with a shell, coreutils and OpenSSH alone,
names those that it promises to see. The operator has the folder, and no key that counts (`FOLDER`); or the runner's key, too
(`RUNNER`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers import audit, cli, evidence
from helpers.cli.evidence import archive
from helpers.evidence import signing
from helpers.evidence.statement import canonical
from helpers.run.folders import RunFolder
from tests.conftest import require_component
from tests.forgeries import FOLDER, NOT_SEEN, PROGRAMS, RUN, RUNNER, Forgery, Thief, folder, runner
from tests.signers import Signers, closed_run

# -- what would act on a terminal --------------------------------------------------------------------------------------


@folder("has a name that cannot be sealed", r"control characters in a name: \./M-bM-\^@M-\.lmth\.weiver_42")
def a_name_that_is_shown_backwards(t: Thief) -> None:
    (t.run / "\u202elmth.weiver_42").write_text("<h1>GO</h1>")


@folder("has a name that cannot be sealed", r"control characters in a name: \./results/M-BM-\^\[2J")
def a_name_with_a_control_of_one_byte_more(t: Thief) -> None:
    (t.run / "results" / "\x9b2J").write_text("{}")


@folder(r"^audit\.jsonl: line \d+: it is not an entry", r"audit\.jsonl: broken before: \^\[\[2J")
def a_line_of_the_log_that_clears_the_screen(t: Thief) -> None:
    log = t.run / audit.NAME
    log.write_bytes(log.read_bytes() + b"\x1b[2J\x1b[HEverything fits.\xc2\x9b2J\n")


@folder("has a name that cannot be sealed", r"a name that commands misread: \./results/-vf")
def a_name_that_a_command_takes_for_an_option(t: Thief) -> None:
    (t.run / "results" / "-vf").write_text("{}")


@folder("it is not a seal as this toolkit writes them", r"not a seal: seals/\[0-9\]\*\.json")
def a_seal_whose_name_is_a_pattern(t: Thief) -> None:
    seal = max((t.run / "seals").glob("*.json"))
    seal.rename(seal.with_name("[0-9]*.json"))


@runner(r"^seals/\S+: ", r"seals/\S+ is not signed with SHA256:\n")
def a_seal_that_names_the_beginning_of_every_key(t: Thief) -> None:
    seal, key = t.seals[-1], t.home.workspace.parent / "runner_key"
    said = json.loads(seal.read_bytes())
    said["predicate"]["runner"]["fingerprint"] = "SHA256:"
    seal.write_bytes(canonical(said))
    seal.with_name(f"{seal.name}.sig").write_bytes(signing.sign(seal.read_bytes(), signing.SEAL, key))
    t.named(seal)


# -- what would be opened elsewhere ----------------------------------------------------------------------------------------


def names(t: Thief, part: str, entry: dict[str, Any], name: str) -> None:
    """A seal that would have whoever verifies read a file without an end, or one of their own."""
    path = max((t.run / "seals").glob("*.json"))
    document = json.loads(path.read_bytes())
    (document["predicate"] if part == "prefixes" else document)[part].append({**entry, "name": name})
    path.write_bytes(canonical(document))


@folder("seals/.*: it is not a seal as this toolkit writes them", "names a file outside of this folder: seals/")
def a_seal_over_a_file_without_an_end(t: Thief) -> None:
    names(t, "prefixes", {"bytes": 2**60, "sha256": "0" * 64}, "/dev/zero")


@folder("seals/.*: it is not a seal as this toolkit writes them", "names a file outside of this folder: seals/")
def a_seal_over_a_file_elsewhere(t: Thief) -> None:
    names(t, "subject", {"digest": {"sha256": "0" * 64}}, "results/../../other")


# -- the auditor -------------------------------------------------------------------------------------------------------


@dataclass
class Auditor:
    """The archive as it was handed over, and what was kept elsewhere: the digest and the list of signers."""

    archive: Path
    digest: str
    allowed: Path
    workspace: Path
    others: Path
    thief: Signers
    bare: Path
    found: dict[str, list[str]] = field(default_factory=dict)

    def verify(self, run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
        capsys.readouterr()
        given = ["--expect", self.digest, "--allowed-signers", str(self.allowed), "--reports", str(run.parent)]
        code = cli.main(["verify", run.name, *given])
        return code, capsys.readouterr().out.splitlines()

    def plain(self, run: Path) -> tuple[int, str]:
        """VERIFY.txt on a machine that has a shell, coreutils and OpenSSH, and nothing else."""
        given = {"PATH": str(self.bare), "HOME": str(run.parent)}
        bash = str(self.bare / "bash")
        done = subprocess.run(
            [bash, "VERIFY.txt"], cwd=run, env=given, capture_output=True, text=True, errors="replace", check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditor]:
    place = tmp_path_factory.mktemp("forged")
    people = Signers(place / "people")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
        signoff = {"allowed_signers": str(people.allowed), "dry_run": ["dba"]}
        home, other = closed_run(RUN, people, signoff), closed_run("night-2", people, signoff)
        archive(home.reports, place / "run.zip")
        public, _ = audit.public_key(place / "workspace" / "runner_key")
        (place / "kept").write_text(people.allowed.read_text() + f'runner namespaces="runbook-seal" {public}\n')
        bare = place / "bin"
        bare.mkdir()
        for name in PROGRAMS:
            (bare / name).symlink_to(require_component(name, "a bare machine has it"))
        newest = evidence.seals(home.reports)[-1].digest
        yield Auditor(
            place / "run.zip", newest, place / "kept", place / "workspace", other.reports / "signoffs",
            Signers(place / "thief"), bare,
        )  # fmt: skip


def unpacked(auditor: Auditor, place: Path, patch: pytest.MonkeyPatch) -> Thief:
    """The archive elsewhere, and a copy of the workspace, which holds the runner's key."""
    with zipfile.ZipFile(auditor.archive) as zipped:
        zipped.extractall(place / "reports")
    shutil.copytree(auditor.workspace, place / "workspace")
    patch.setenv("RUNBOOK_REPORTS", str(place / "reports"))
    patch.setenv("RUNBOOK_WORKSPACE", str(place / "workspace"))
    home = RunFolder(RUN, place / "reports" / RUN, place / "workspace" / RUN)
    return Thief(home, auditor.thief, auditor.others, patch)


@pytest.mark.more
def test_the_archive_fits_elsewhere_as_it_was_handed_over(
    auditor: Auditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unpacked(auditor, tmp_path, monkeypatch).run
    code, said = auditor.verify(run, capsys)
    assert (code, [line for line in said if "fits" in line]) == (0, said[-1:]), said
    code, text = auditor.plain(run)
    assert (code, text.splitlines()[-1]) == (0, "Everything fits."), text
    assert len(FOLDER) + len(RUNNER) >= 60
    assert NOT_SEEN in (run / "VERIFY.txt").read_text(encoding="utf-8").partition("export")[0]


def name_of(forgery: Forgery) -> str:
    return getattr(forgery.do, "__name__", forgery.named[1:40])  # a partial has no name of its own


# Each eighth in `make test`, all of them in `make test-attacks` and `make test-slow`.
@pytest.mark.parametrize(
    "forgery",
    [
        pytest.param(each, marks=[pytest.mark.slow] if at % 8 else [], id=name_of(each))
        for at, each in enumerate([*FOLDER, *RUNNER])
    ],
)
def test_each_forgery_is_named(
    auditor: Auditor,
    forgery: Forgery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the file and the reason, with exit code 1; also where the thief has the runner's key."""
    thief = unpacked(auditor, tmp_path, monkeypatch)
    forgery.do(thief)
    code, said = auditor.verify(thief.run, capsys)
    assert code == 1, said
    assert [line for line in said if re.search(forgery.named, line)], said
    assert all(line.isprintable() for line in said), said
    if forgery.plain:
        code, text = auditor.plain(thief.run)
        assert code == 1, text
        assert all(line.isprintable() for line in text.split("\n")), text  # nothing acts on the terminal
        assert re.search(forgery.plain, text), text
