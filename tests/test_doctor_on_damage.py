"""`runbook doctor` on each damaged directory: what it is, what is wrong, what can be saved, on one screen; nothing is changed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers.cli import main, parser
from helpers.parameters import load_parameters, parameters_from
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.health import Health
from tests.damaged import DAMAGES, make
from tests.storage import tree

ONE_SCREEN = 40  # lines
HEADLINES = {
    "torn rows": "Damaged: 50 of 1,000 vectors are lost, 950 can be saved exactly.",
    "truncated rows": "Damaged: 400 of 1,000 vectors are lost, 600 can be saved exactly.",
    "malicious pickle, empty log": "Damaged: 999 of 1,000 vectors are lost, 1 can be saved exactly.",
    "sparse 1 TB link_lists.bin": "Damaged, but nothing is lost: all 1,000 chunks can be saved.",
    "missing header.bin": "Damaged, but nothing is lost: all 1,000 chunks can be saved.",
    "wedged replay": "Damaged, but nothing is lost: all 200 chunks can be saved.",
    "pickle ahead of SQLite": "Damaged, but nothing is lost: all 200 chunks can be saved.",
    "bookmark in the pickle alone": "Damaged, but nothing is lost: all 200 chunks can be saved.",
    "lost norms": "Damaged: Of 200 vectors, 91 can be saved exactly, 109 without their norm.",
    "database behind a link": "Sound: all 51 chunks can be read.",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_told_on_one_screen_with_a_next_command_that_is_valid(
    name: str, real_databases: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(name, real_databases, bases, tmp_path / "broken")
    before = {} if "sparse" in name else tree(made.folder)
    code = main(["doctor", str(made.folder)])
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0] == HEADLINES.get(name, "Damaged, but nothing is lost: all 51 chunks can be saved.")
    assert code == (0 if lines[0].startswith("Sound") else 1)
    assert len(lines) <= ONE_SCREEN
    assert max(map(len, lines)) <= 130
    assert made.marker is None or not made.marker.exists(), "a malicious pickle ran"
    assert before == ({} if "sparse" in name else tree(made.folder)), "a byte of the directory changed"
    assert ("LOST" in told) == bool(made.lost)
    [row] = [line for line in lines if line.split()[:1] == [made.collection] and "  " in line.strip()]
    assert row.split()[-3] == f"{len(made.lost):,}"
    file = tmp_path / "parameters.yaml"
    file.write_text("\n".join(line[4:] for line in lines if re.match(r"    [a-z]+: ", line)), encoding="utf-8")
    parameters = load_parameters(file)
    assert parameters.source.path == str(made.folder)
    assert parser().parse_args(shlex.split(lines[-1])[1:]).until == "13"
    if made.lost:
        held = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        assert parameters.migration.minimum_valid <= 1 - len(made.lost) / 1000, held


@pytest.mark.usefixtures("own_folders")
def test_step_10_says_the_same_and_does_not_pass_a_source_that_lost_its_vectors(
    real_databases: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make("truncated rows", real_databases, bases, tmp_path / "broken")
    main(["doctor", str(made.folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    for least, verdict in ((0.95, Verdict.FAIL), (0.6, Verdict.WARNING)):
        run = RunRecord(runs.create(parameters_from({
            "name": "n", "source": {"path": str(made.folder)}, "target": {"path": "new"},
            "migration": {"minimum_valid": least},
        }), f"night-{least}"), "10")  # fmt: skip
        health = Health(run)
        table = health.diagnosis()
        assert table["what"].tolist() == [p["what"] for p in found["problems"]]
        [row] = health.savable().to_dict("records")
        assert (row["collection"], row["exact vectors"], row["lost"]) == (made.collection, 600, 400)
        check: Check = next(c for c in run.result.checks if c.name == "the vectors can be read")
        assert (check.verdict, check.measured, check.offenders) == (verdict, 0.6, 400)


def test_the_examples_in_the_documentation_are_what_the_command_says(
    root: Path, real_databases: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = re.findall(r"```text\n(.*?)\n```", (root / "docs" / "doctor.md").read_text(encoding="utf-8"), re.S)
    cut = make("truncated rows", real_databases, bases, tmp_path / "cut").folder
    for folder, example in zip((real_databases / "no-documents-128-1.x", cut), shown, strict=True):
        main(["doctor", str(folder)])
        told = capsys.readouterr().out.rstrip().replace(str(folder), "/var/lib/chroma")
        size = re.compile(r"^  size .*$", re.M)  # what a file occupies is the file system's matter
        assert size.sub("", told) == size.sub("", example)
