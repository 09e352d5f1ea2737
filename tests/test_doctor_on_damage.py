"""`runbook doctor` on each damaged directory: what it is, what is wrong, what can be saved, on one screen; nothing is changed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers.cli import main, parser
from helpers.cli.doctor import screen
from helpers.parameters import load_parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.source_health import SourceHealthStep
from helpers.stores import Severity
from helpers.stores.diagnosis import CollectionHealth, Diagnosis, Problem
from tests.damaged import DAMAGES, make, sound
from tests.storage import tree

ONE_SCREEN = 40  # lines
HEADLINES = {
    "torn rows": "Damaged: 50 of 1,000 vectors are lost, 950 can be saved exactly.",
    "truncated rows": "Damaged: 400 of 1,000 vectors are lost, 600 can be saved exactly.",
    "malicious pickle, empty log": "Damaged: 999 of 1,000 vectors are lost, 1 can be saved exactly.",
    "sparse 1 TB link_lists.bin": "Damaged, but no chunk and no vector is lost: all 1,000 chunks can be saved.",
    "missing header.bin": "Damaged, but no chunk and no vector is lost: all 1,000 chunks can be saved.",
    "wedged replay": "Damaged, but no chunk and no vector is lost: all 200 chunks can be saved.",
    "pickle ahead of SQLite": "Damaged, but no chunk and no vector is lost: all 200 chunks can be saved.",
    "bookmark in the pickle alone": "Damaged, but no chunk and no vector is lost: all 200 chunks can be saved.",
    "lost norms": "Damaged: 91 of 200 vectors can be saved exactly, 109 without their norm.",
    "database behind a link": "Sound: all 51 chunks can be read.",
}
SENTENCES = {
    "torn rows": ("kept in workspace/<run id>/quarantine. It has no documents, so no new vectors can be made.",),
    "malicious pickle, empty log": (
        "Next Look for a backup first: run doctor on it",
        "minimum_valid: 0.001}",
        "What is wrong ATTACK",
        "/index_metadata.pickle may be an attack. Do not open this directory with Chroma",
    ),
    "malicious pickle": ("What is wrong ATTACK", "Find out who can write to the folder."),
    "sparse 1 TB link_lists.bin": ("1.1 TB apparent (holes: ",),
    "wedged replay": ("20 of 150 ids. None of these is lost: the log holds their newest vectors.",),
    "pickle ahead of SQLite": ("its index is damaged: it was saved up to", "restored from different copies"),
    "bookmark in the pickle alone": ("on the copy. Today a current engine does not see", "replay the whole log"),
    "dropped full-text table": ("In the original, text search (where_document) fails",),
    "malformed full-text index": ("In the original, text search (where_document) fails",),
    "NaN in the log": ("3 log records held values",),
    "bookmark beyond the log": ("25 log records had never been taken in", "invisible to the application today"),
    "lost norms": (
        "Next Look for a backup first",
        "migration: {minimum_valid: 0.455}",
        "# decision: add normalised: migrate under migration to keep 109 vectors without their length",
    ),
}
NEVER = (
    " runbook run",
    "this command",
    "migration.reembed makes",
    "3 values were",
    "nothing is lost",
    "minimum_valid: 0.0}",
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.mark.more
@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_told_on_one_screen_with_a_next_command_that_is_valid(
    name: str, real_databases: Path, bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(name, real_databases, bases, tmp_path / "broken")
    before = {} if "sparse" in name else tree(made.folder)
    code = main(["doctor", str(made.folder)])
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0] == HEADLINES.get(name, "Damaged, but no chunk and no vector is lost: all 51 chunks can be saved.")
    assert code == (0 if lines[0].startswith("Sound") else 1)
    assert len(lines) <= ONE_SCREEN
    assert max(map(len, lines)) <= 130
    assert made.marker is None or not made.marker.exists(), "a malicious pickle ran"
    assert before == ({} if "sparse" in name else tree(made.folder)), "a byte of the directory changed"
    assert ("LOST" in told) == bool(made.lost)
    [row] = [line for line in lines if line.split()[:1] == [made.collection] and "  " in line.strip()]
    assert row.split()[-3] == f"{len(made.lost):,}"
    file = tmp_path / "parameters.yaml"
    file.write_text(
        "\n".join(line[4:] for line in lines if re.match(r"    ([a-z]+|# decision): ", line)), encoding="utf-8"
    )
    parameters = load_parameters(file)
    assert parameters.source.path == str(made.folder)
    look, save = (shlex.split(line) for line in lines if line.startswith("    .venv/bin/runbook "))
    assert save == shlex.split(lines[-1])
    ordered = [parser().parse_args(command[1:]) for command in (look, save)]
    assert [order.until for order in ordered] == ["13", "23"]
    assert ordered[0].run_id == ordered[1].run_id
    assert parameters.migration.normalised == "quarantine", "what people decide is not decided for them"
    flat = " ".join(told.split())
    for sentence in SENTENCES.get(name, ()):
        assert sentence in flat
    for sentence in NEVER:
        assert sentence not in flat
    assert ("still damaged: stop the application" in flat) == (code == 1)
    if "No chunk and no vector is lost" not in flat and code:
        assert flat.index("ackup") < flat.index("name: migration"), "the backup comes before the parameters file"
    if made.lost:
        held = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        share = (1000 - len(made.lost)) / 1000
        assert parameters.migration.minimum_valid == min(0.95, share), held


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
        health = SourceHealthStep(run)
        table = health.diagnosis()
        assert table["what"].tolist() == [p["what"] for p in found["problems"]]
        [row] = health.savable().to_dict("records")
        assert (row["collection"], row["exact vectors"], row["lost"]) == (made.collection, 600, 400)
        check: Check = next(c for c in run.result.checks if c.name == "chunks with a vector")
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


def test_what_is_not_explained_is_not_to_be_migrated() -> None:
    swapped = CollectionHealth("notes", 50, 50, 50, probed=20, unfound=20, contradicted=20, asked=True)
    found = Diagnosis(
        {}, [swapped], [Problem(Severity.LOST, "20 of 20 stored vectors are found under another id", "notes")]
    )
    told = screen(Endpoint(path="/data"), found)
    assert told.startswith("Damaged: it does not give what it says it holds. Do not migrate it")
    assert "Do not migrate it: step 10 would stop at notes." in told
    assert "parameters.yaml" not in told
    assert "migrate it into" not in told


def test_what_a_local_chroma_cannot_hold_is_in_the_printed_file() -> None:
    """Else step 12 stops the run. And nothing is said of a gate where nothing was read, as of a large Cloud collection."""
    held = CollectionHealth("docs", 50, not_local=["SPANN index on #embedding"])
    told = screen(Endpoint(url="https://api.trychroma.com"), Diagnosis({}, [held, CollectionHealth("plain", 5)]))
    [line] = [line.strip() for line in told.splitlines() if line.startswith("    migration:")]
    assert YAML(typ="safe").load(line) == {"migration": {"drop_indexes": ["docs"]}}


@pytest.mark.parametrize(
    ("exact", "printed"), [(0, "0"), (1, "0.000001"), (100_000, "0.1"), (333_333, "0.3333"), (900_000, "0.9")]
)
def test_the_gate_that_is_printed_is_never_above_what_can_be_saved(exact: int, printed: str) -> None:
    health = CollectionHealth("notes", 10**6, 10**6, 10**6, lost=10**6 - exact, texts=5, asked=True)
    found = Diagnosis({}, [health], [Problem(Severity.LOST, "lost", "notes")])
    told = screen(Endpoint(path="/data"), found)
    assert f"    migration: {{minimum_valid: {printed}}}\n" in told
    assert float(printed) <= exact / 10**6
    assert f"# decision: add reembed: own under migration to make {10**6 - exact:,} lost vectors anew" in told


def test_an_unusable_place_is_judged_first_in_the_words_of_the_command(
    real_databases: Path,
    bases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = sound("purged", real_databases, bases)
    monkeypatch.chdir(tmp_path)
    for asked, first, following in (
        (["nowhere"], "Unusable: no such folder.", "Check the path."),
        ([str(folder), "--database", "nope"], "Unusable: no database nope;", "Check --database."),
    ):
        assert main(["doctor", *asked]) == 1
        told = capsys.readouterr().out
        assert told.startswith(first)
        assert told.endswith(f"{following}\n")
        assert f"  UNUSABLE {tmp_path / asked[0]}: " in told, "the folder that was given, whole"
        assert "source" not in told.replace(str(folder), "")
        assert "runbook-doctor-" not in told
