"""The README says what the command does: every command, option, exit code, parameter and step, and none that is not."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import cli, errors
from helpers.parameters import Parameters
from helpers.run import plan

EVERYWHERE = {"--reports", "--verbose", "--help"}  # documented once, for all commands


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def table(readme: str, head: str) -> list[list[str]]:
    """The rows of the table whose head begins with this, as cells."""
    body = readme.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines()[2:]]
    assert rows, head
    return [[cell.strip() for cell in row] for row in rows]


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


def documented(readme: str) -> dict[str, str]:
    """Command -> its usage, from the table."""
    usages = [cells[0].strip("`") for cells in table(readme, "command")]
    known = commands()
    return {next(n for n in known if f"{usage} ".startswith(f"runbook {n} ")): usage for usage in usages}


def test_every_command_is_documented_and_every_documented_one_exists(readme: str) -> None:
    assert documented(readme).keys() == commands().keys()


@pytest.mark.parametrize("name", sorted(commands()))
def test_options_are_documented_as_they_are(readme: str, name: str) -> None:
    usage, command = documented(readme)[name], commands()[name]
    everywhere = EVERYWHERE | ({"--directory"} if name.startswith("snapshots") else set())
    assert set(re.findall(r"--[a-z-]+", usage)) == options(command) - everywhere
    assert options(command) >= everywhere
    for action in command._actions:
        if not action.option_strings:
            assert str(action.metavar) in usage
        optional = re.search(rf"\[{re.escape(max(action.option_strings, key=len, default=str(action.metavar)))}", usage)
        if not everywhere & set(action.option_strings):
            needed = action.required if action.option_strings else action.nargs != "?"
            assert bool(optional) != needed, f"{action.option_strings or action.metavar} of {name}"
        if action.choices and action.option_strings:
            assert r"\|".join(map(str, action.choices)) in usage


def test_defaults_of_the_rehearsal_are_documented(readme: str) -> None:
    for option in ("chunks", "dimension"):
        assert f"[--{option} {commands()['rehearse'].get_default(option)}]" in documented(readme)["rehearse"]


def test_options_of_every_command_are_documented(readme: str) -> None:
    paragraph = readme.split("Every command takes ", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"--[a-z-]+", paragraph)) == EVERYWHERE


def test_every_command_of_an_example_is_one(readme: str) -> None:
    for line in examples(readme):
        arguments = line.split()[1:]
        name = next(n for n in commands() if f"{' '.join(arguments)} ".startswith(f"{n} "))
        assert set(re.findall(r"--[a-z-]+", line)) <= options(commands()[name]), line


def examples(readme: str) -> Iterator[str]:
    found = re.findall(r"^    \.venv/bin/(runbook [^#\n]+)", readme, re.M)
    assert found
    yield from (line.strip() for line in found)


def test_exit_codes_agree(readme: str) -> None:
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.RunbookError)]
    codes = {0} | {kind.exit_code for kind in kinds}
    assert {int(cells[0]) for cells in table(readme, "exit code")} == codes
    assert {int(code) for code in re.findall(r"(\d+) [a-zN]", cli._EXIT_CODES)} == codes


def test_every_section_and_key_of_the_parameters_is_documented(readme: str) -> None:
    found: dict[str, set[str]] = {}
    for section, keys, _ in table(readme, "section"):
        for name in re.findall(r"`(\w+)`", section):
            found[name] = set(re.findall(r"`(\w+)`", keys))
    wanted = {
        field.alias or name: set(getattr(field.annotation, "model_fields", {}))
        for name, field in Parameters.model_fields.items()
    }
    assert found == wanted


def test_every_step_is_documented(readme: str) -> None:
    rows = [(cells[0], cells[1].strip("`"), "off the line" not in cells[2]) for cells in table(readme, "step")]
    assert rows == [(s.number, f"{s.number}_{s.name}", s.on_line) for s in plan.STEPS]


def test_links_lead_to_files(root: Path, readme: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).is_file()] == []
