"""The documentation says what the code does: every command, option, exit code, parameter and step, and none that is not.

Every example is parsed or run, every link and path leads somewhere, generated pages are those of the code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from docs.generate import GENERATED, unit
from helpers import cli, errors
from helpers.cutover.application import CutoverState
from helpers.fence import FenceState
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.shipping import Shipment
from helpers.migration.source_changes import CatchUpLedger
from helpers.parameters import RESUMABLE, ROLES, SECTIONS, Parameters
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult, Verdict
from helpers.rollback import RollbackState
from helpers.run import plan
from helpers.run.record import RunRecord
from helpers.runner.fleet import Fleet
from helpers.runner.notebook import Retry
from helpers.validation import search
from tests.conftest import ROOT
from tests.documentation import anchors, blocks, command_lines, inline, pages, prose, table
from tests.plain_english import QUAINT

EVERYWHERE = {"--reports", "--verbose", "--help"}  # documented once, for all commands
QUOTES = {"docs/runbook-map.md"}  # it repeats the runbook's own words
# VERIFY.txt of a run is compared byte for byte, also of older runs.
FIXED = ("helpers/evidence/statement.py", "helpers/evidence/verify_script.py")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reference() -> str:
    return read("docs/cli.md")


# -- commands ----------------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """`resume`, and with what stands below another command `snapshots list`, each with its parser."""
    return dict(_below(cli.parser(), ""))


def _below(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    deeper = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in deeper:
        for word, command in action.choices.items():
            yield from _below(command, f"{name} {word}".strip())
    if not deeper:
        yield name, parser


def options(command: argparse.ArgumentParser) -> set[str]:
    return {option for action in command._actions for option in action.option_strings if option.startswith("--")}


def documented(reference: str) -> dict[str, str]:
    """Command -> its usage, from its section."""
    found = re.findall(r"^## runbook ([a-z ]+)\n\n```text\n(runbook .+)\n```$", reference, re.M)
    assert len(found) == len(dict(found)) == reference.count("\n## runbook ")
    assert [name for name, usage in found if not f"{usage} ".startswith(f"runbook {name} ")] == []
    return dict(found)


def test_every_command_is_documented_and_every_documented_one_exists(reference: str) -> None:
    assert documented(reference).keys() == commands().keys()
    overview = [re.match(r"\[`([a-z ]+)`\]", cells[0]) for cells in table(reference, "command")]
    assert [match[1] for match in overview if match] == list(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_options_are_documented_as_they_are(reference: str, name: str) -> None:
    usage, command = documented(reference)[name], commands()[name]
    assert set(re.findall(r"--[a-z-]+", usage)) == options(command) - EVERYWHERE
    assert options(command) >= EVERYWHERE
    for action in command._actions:
        if not action.option_strings:
            assert str(action.metavar) in usage
        optional = re.search(rf"\[{re.escape(max(action.option_strings, key=len, default=str(action.metavar)))}", usage)
        if not EVERYWHERE & set(action.option_strings):
            needed = action.required if action.option_strings else action.nargs != "?"
            assert bool(optional) != needed, f"{action.option_strings or action.metavar} of {name}"
        if action.choices and action.option_strings:
            assert "|".join(map(str, action.choices)) in usage


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_argument_says_what_it_is_for_and_its_default(reference: str, name: str) -> None:
    section = reference.split(f"\n## runbook {name}\n", 1)[1].split("\n## ", 1)[0]
    own = [a for a in commands()[name]._actions if not EVERYWHERE & set(a.option_strings)]
    rows = {cells[0]: cells for cells in (table(section, "argument") if own else [])}
    for action in own:
        label = max(action.option_strings, key=len, default=str(action.metavar))
        row = next(cells for written, cells in rows.items() if written.startswith(f"`{label}".replace("|", r"\|")))
        assert len(row[1]) > 8, f"{name} {label} has no help"
        if isinstance(action.default, str | int) and action.default and action.nargs != 0:
            assert row[2] == f"`{action.default}`"


def test_defaults_of_the_rehearsal_are_documented(reference: str) -> None:
    section = reference.split("\n## runbook rehearse\n", 1)[1].split("\n## ", 1)[0]
    rows = {cells[0].strip("`").split()[0]: cells[2] for cells in table(section, "argument")}
    for option in ("chunks", "dimension"):
        assert rows[f"--{option}"] == f"`{commands()['rehearse'].get_default(option)}`"


def test_options_of_every_command_are_documented(reference: str) -> None:
    paragraph = reference.split("Every command takes ", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"--[a-z-]+", paragraph)) == EVERYWHERE


def test_exit_codes_agree(reference: str) -> None:
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.RunbookError)]
    codes = {0} | {kind.exit_code for kind in kinds}
    assert {int(cells[0]) for cells in table(reference, "exit code")} == codes
    assert {int(code) for code in re.findall(r"(\d+) [a-zN]", cli._EXIT_CODES)} == codes


# -- parameters and steps ----------------------------------------------------------------------------------------------


def test_every_section_and_key_of_the_parameters_is_documented() -> None:
    found: dict[str, set[str]] = {}
    for section, keys, _ in table(read("docs/parameters.md"), "section"):
        for name in re.findall(r"`(\w+)`", section):
            found[name] = set(re.findall(r"`(\w+)`", keys))
    wanted = {
        field.alias or name: set(getattr(field.annotation, "model_fields", {}))
        for name, field in Parameters.model_fields.items()
    }
    assert found == wanted


def test_every_key_says_what_it_means_and_whether_a_resume_may_change_it() -> None:
    """The tables of the sections, read back: each key with a sentence; `Resume` at those of RESUMABLE and no other."""
    text = read("docs/parameters.md")
    resumable = set()
    for heading, body in re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.S | re.M):
        sections = re.findall(r"`([\w.\[\]]+)`", heading)
        for key, kind, default, _, meaning in table(body, "key"):
            assert kind, key
            assert default, key
            assert len(meaning) > 8, key
            if "*Resume.*" in meaning:
                resumable |= {f"{section}.{key.strip('`')}" for section in sections}
    assert resumable == set(RESUMABLE)


def test_every_key_that_is_a_measure_has_its_unit() -> None:
    measures = {"Seconds": "s", "Minutes": "min", "Days": "days"}
    rows = [
        cells for part in read("docs/parameters.md").split("\n## ")[1:] for cells in _rows(part)
        if cells[4].split()[0] in measures
    ]  # fmt: skip
    assert len(rows) > 10
    assert [cells[0] for cells in rows if cells[3] != measures[cells[4].split()[0]]] == []
    assert (unit("interval_seconds"), unit("minimum_queries_per_second"), unit("kind")) == ("s", "1/s", "")


def _rows(part: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in part.splitlines() if line[:3] == "| `"
    ]


def test_the_limits_of_search_equivalence_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "steps.md").read_text(encoding="utf-8").split("## How search equivalence is judged")[1]
    falls = dict(re.findall(r"^\| ([\w -]+?) \|.*\| (0\.\d+) \|$", text.split("\n## ")[0], re.M))
    assert {name: float(fall) for name, fall in falls.items()} == {
        "self": search.SELF_MAY_FALL_BY, "reachable": search.REACH_MAY_FALL_BY, "recall": search.RECALL_MAY_FALL_BY,
        "over-query recall": search.OVER_QUERY_MAY_FALL_BY,
    }  # fmt: skip
    assert f"below {search.SOUND}" in text
    noise = [search.noise("cosine", 0, 1), search.noise("l2", 1, 0), search.noise("ip", 0, 1)]
    assert [f"{n:.0e}".replace("e-0", "e-") in text for n in noise] == [True] * 3


def test_every_step_is_documented() -> None:
    rows = [
        (cells[0], cells[1].strip("`"), not cells[2].startswith("on demand: "))
        for cells in table(read("docs/steps.md"), "step")
    ]
    assert rows == [(s.number, s.stem, s.on_line) for s in plan.Step]


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_those_of_the_code(name: str) -> None:
    assert read(name) == GENERATED[name](), f"{name} does not fit the code; write it again: make docs"


# -- examples ----------------------------------------------------------------------------------------------------------


def parsed(arguments: list[str]) -> None:
    try:
        cli.parser().parse_args(["0" * 64 if each == "SHA256" else each for each in arguments])  # a placeholder
    except (errors.UsageError, SystemExit) as error:
        pytest.fail(f"runbook {shlex.join(arguments)}: {error}")


def make_target(arguments: list[str]) -> None:
    phony = re.search(r"^\.PHONY: (.+)$", read("Makefile"), re.M)
    assert phony
    targets = [word for word in arguments if "=" not in word]
    assert targets, arguments
    assert set(targets) <= set(phony[1].split()), arguments
    named = {word.split("=")[0] for word in arguments if "=" in word}
    assert named <= set(re.findall(r"^(\w+) \?=", read("Makefile"), re.M)), arguments


def papermill(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_file(), arguments
    while rest := arguments[2:]:
        if rest[0] == "-f":
            assert (ROOT / rest[1]).is_file(), arguments
            arguments = [*arguments[:2], *rest[2:]]
        else:
            assert rest[0] == "-p", arguments
            assert rest[1] in {"run_id", "dry_run", *SECTIONS}, arguments
            arguments = [*arguments[:2], *rest[3:]]


def python(arguments: list[str]) -> None:
    assert arguments[0] == "-m"
    assert importlib.util.find_spec(arguments[1]), arguments
    for word in arguments[2:]:
        assert "/" not in word or (ROOT / word).exists(), arguments


def ssh_keygen(arguments: list[str]) -> None:
    assert arguments[:2] == ["-Y", "sign"]
    assert arguments[arguments.index("-n") + 1].removeprefix("runbook-") in ROLES


def conda(arguments: list[str]) -> None:
    name = YAML(typ="safe").load(read("environment.yml"))["name"]
    assert arguments in (["env", "create", "-f", "environment.yml"], ["activate", name])


def pip(arguments: list[str]) -> None:
    assert arguments == ["install", "--no-build-isolation", "--no-deps", "-e", "."]


def export(arguments: list[str]) -> None:
    """A variable that the code reads."""
    (name,) = [word.split("=")[0] for word in arguments]
    assert any(name in path.read_text(encoding="utf-8") for path in (ROOT / "helpers").rglob("*.py")), name


def bash(arguments: list[str]) -> None:
    assert arguments == ["VERIFY.txt"]


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    ".venv/bin/runbook": parsed, "make": make_target, ".venv/bin/papermill": papermill, ".venv/bin/python": python,
    "ssh-keygen": ssh_keygen, "conda": conda, "pip": pip, "bash": bash, "export": export,
}  # fmt: skip


def test_every_command_line_of_the_documentation_is_one() -> None:
    lines = list(command_lines(ROOT))
    assert len(lines) > 40
    for page, line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program in PROGRAMS, f"{page}: nothing checks the example {line}"
        PROGRAMS[program](arguments)


def test_every_command_named_in_a_sentence_is_one() -> None:
    known = {*commands(), *(name.split()[0] for name in commands())}
    found = 0
    for text in pages(ROOT).values():
        for code in inline(text):
            program, *arguments = code.removeprefix(".venv/bin/").split(" ", 1)
            if program == "runbook" and arguments and arguments[0] not in known and "|" not in arguments[0]:
                parsed(shlex.split(arguments[0].replace(r"\|", "|")))
                found += 1
            elif program == "make" and arguments and arguments[0].isascii():
                make_target(shlex.split(arguments[0]))
                found += 1
    assert found > 30


def test_messages_name_the_command_in_the_form_of_the_documentation() -> None:
    """What a person may copy from a message, a page or a notice runs as it stands, from the toolkit's folder."""
    names = "|".join(sorted({name.split()[0] for name in commands()}))
    bare = re.compile(rf"(?<![\w./-])runbook (?=({names})\b)")
    found = []
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [f"{path.name}:{node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Constant)
                  and id(node) not in prose and isinstance(node.value, str) and bare.search(node.value)]  # fmt: skip
    for path in sorted((ROOT / "helpers").rglob("templates/*")):
        found += [path.name for line in path.read_text(encoding="utf-8").splitlines() if bare.search(line)]
    assert found == []


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """console: above; yaml: tests/test_own_schemas_are_validated.py; python: below; bash: tests/test_evidence_custody.py; text:
    output, usage, layouts."""
    kinds = {block.language for block in blocks(ROOT)}
    assert kinds == {"console", "yaml", "python", "bash", "text"}
    for page, text in pages(ROOT).items():
        outside = re.findall(r"^ *(?:\$ |\.venv/bin/|make [a-z]|runbook [a-z]+ ).*$", prose(text), re.M)
        assert outside == [], f"{page}: put examples into a block"


def test_the_example_of_a_check_records_what_it_says() -> None:
    (block,) = blocks(ROOT, "python")
    assert block.page == "CONTRIBUTING.md"
    namespace: dict[str, Any] = {}
    exec(compile(block.text, block.page, "exec"), namespace)
    record: Any = SimpleNamespace(result=StepResult("12", "Target readiness", "run", ""))
    record.check = partial(RunRecord.check, record)
    record.judge = partial(RunRecord.judge, record)
    record.forget = partial(RunRecord.forget, record)
    for free, verdict, reason in ((40.0, Verdict.PASS, ""), (1.0, Verdict.FAIL, ReasonCode.DISK_FULL)):
        namespace["disk"](record, free)
        (check,) = record.result.checks  # a later answer takes the place of the earlier one
        assert (check.verdict, check.measured, check.threshold, check.reason) == (verdict, free, 2, reason)


def test_the_parameters_of_the_readme_are_four_lines_that_the_command_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [block for block in blocks(ROOT, "yaml") if block.page == "README.md"]
    assert len(block.text.splitlines()) == 4
    monkeypatch.chdir(tmp_path)
    Path("parameters.yaml").write_text(block.text, encoding="utf-8")
    assert cli.main(["schema", "parameters.yaml"]) == 0
    assert "first-migration" in capsys.readouterr().out


# -- links, paths, folders ---------------------------------------------------------------------------------------------


def test_links_lead_to_files_and_to_headings() -> None:
    everything, seen, wrong = pages(ROOT), 0, []
    for page, text in everything.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
            if "://" in link:
                continue
            seen += 1
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            name = target.resolve().relative_to(ROOT).as_posix()
            if not target.exists() or (anchor and anchor not in anchors(everything[name])):
                wrong.append(f"{page}: {link}")
    assert seen > 60
    assert wrong == []


def test_every_page_is_reached_from_the_readme() -> None:
    everything, reached, waiting = pages(ROOT), set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", everything[page])
        for link in [link for link in links if "://" not in link]:
            name = ((ROOT / page).parent / link).resolve().relative_to(ROOT).as_posix()
            if name in everything and name not in reached:
                waiting.append(name)
    assert set(everything) - reached == set()


def test_every_path_and_name_of_the_code_exists() -> None:
    pattern = re.compile(r"(?:helpers|tests|docs|notebooks|benchmarks|parameters)/[\w./-]+(?:::\w+)?")
    seen, wrong = 0, []
    for page, text in pages(ROOT).items():
        for code in inline(text):
            if not pattern.fullmatch(code) or code == "parameters/allowed_signers":  # which its users write
                continue
            seen += 1
            path, _, name = code.partition("::")
            there = (ROOT / path).exists()
            if not there or (name and not re.search(rf"^(def|class) {name}\b", read(path), re.M)):
                wrong.append(f"{page}: {code}")
    assert seen > 80
    assert wrong == []


def test_the_trees_of_the_architecture_are_the_folders() -> None:
    folders, package = [block.text for block in blocks(ROOT, "text") if block.page == "docs/architecture.md"]
    git = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines()
    kept = {name.split("/")[0] for name in listed if "/" in name and (ROOT / name).is_file()}
    told = re.findall(r"^([.\w]+)/ +\S", folders, re.M)
    assert len(told) == len(set(told)) == len(folders.splitlines())
    assert set(told) - {"workspace"} == kept
    inside = re.findall(r"^  (\w+(?:\.py|/)) +\S", package, re.M)
    assert len(inside) == len(package.splitlines()) - 1
    modules = {p.name for p in (ROOT / "helpers").glob("*.py")} - {"__init__.py"}
    packages = {f"{p.parent.name}/" for p in (ROOT / "helpers").glob("*/__init__.py")}
    assert sorted(inside) == sorted(modules | packages)


def test_the_state_files_have_the_keys_that_the_architecture_names(tmp_path: Path) -> None:
    written = {
        "fence.json": FenceState, "cutover.json": CutoverState, "rollback.json": RollbackState,
        "results/<step>.json": StepResult, "fleet.json": Fleet,
    }  # fmt: skip
    keys = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in written.items()}
    keys["catch-up/ledger.json"] = {field.name for field in dataclasses.fields(CatchUpLedger)} - {"folder"}
    Checkpoint(tmp_path / "checkpoint.json", {}).save()
    keys["checkpoint.json"] = set(json.loads((tmp_path / "checkpoint.json").read_text(encoding="utf-8")))
    keys["retry.json"] = {field.name for field in dataclasses.fields(Retry)}
    keys["shipping/shipping.json"] = {field.name for field in dataclasses.fields(Shipment)} - {"folder"}
    body = read("docs/architecture.md").split("Their keys, and the states in their order:", 1)[1]
    rows = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in table(body, "file")}
    assert rows == keys


# -- form --------------------------------------------------------------------------------------------------------------


def test_the_readme_is_one_page_with_a_picture() -> None:
    assert len(read("README.md").encode()) <= 7000
    (picture,) = re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", read("README.md"))
    data = (ROOT / picture).read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    assert len(data) < 200_000


def test_pages_are_in_plain_english() -> None:
    wrong = [
        f"{page}: {match[0]} in: {line.strip()[:100]}"
        for page, text in pages(ROOT).items() if page not in QUOTES
        for line in text.splitlines()
        if (match := _QUAINT.search(re.sub(r"`[^`]*`|\(https?://[^)]*\)", "", line)))
    ]  # fmt: skip
    assert wrong == []


def test_messages_and_docstrings_are_in_plain_english() -> None:
    """Texts of the code, parts of f-strings too. One word alone is a key, a column or a code; so is `what is quoted`."""
    texts = [
        (f"{path.name}:{node.lineno}", node.value)
        for path in (ROOT / "helpers").rglob("*.py") if not path.as_posix().endswith(FIXED)
        for node in _texts(ast.parse(path.read_text(encoding="utf-8")))
    ]  # fmt: skip
    assert len(texts) > 4000
    assert _wrong(texts) == []


def test_templates_are_in_plain_english() -> None:
    texts = [
        (f"{path.name}:{number}", re.sub(r"\{[{%].*?[%}]\}", "", line))
        for path in (ROOT / "helpers").rglob("*.j2")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert len(texts) > 400
    assert _wrong(texts) == []


def test_a_quaint_word_is_found_in_texts_and_not_in_names() -> None:
    code = (
        'def f(n):\n    """The way back of `night`."""\n    return f"{n} rungs of the {n}", "stands", "what <a desk>"'
    )
    found = _wrong([("", node.value) for node in _texts(ast.parse(code))])
    assert sorted(found) == [": The way back in: The way back of `night`.", ": rungs in: rungs of the"]


_QUAINT = re.compile(rf"\b(?:{'|'.join(QUAINT)})\b", re.I)


def _texts(tree: ast.AST) -> Iterator[Any]:
    """The constants of more than one word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 1:
            yield node


def _wrong(texts: list[tuple[str, str]]) -> list[str]:
    return [
        f"{where}: {match[0]} in: {text.strip()[:100]}"
        for where, text in texts
        if (match := _QUAINT.search(re.sub(r"<[^>]*|`[^`]*`", "", text)))
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_issue_forms_have_what_github_asks_for(path: Path) -> None:
    form: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert {"name", "description", "body"} <= form.keys()
    ids = [element["id"] for element in form["body"] if element["type"] != "markdown"]
    assert ids
    assert len(ids) == len(set(ids))
    for element in form["body"]:
        assert element["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert element["attributes"].get("value" if element["type"] == "markdown" else "label")
        for code in re.findall(r"`(runbook [^`]+)`", str(element["attributes"])):
            parsed(shlex.split(code)[1:])
