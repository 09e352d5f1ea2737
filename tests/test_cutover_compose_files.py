"""Compose files as they really are: one value changed and every other character kept, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cutover.files import edit_compose, unified
from helpers.errors import Terminal

FILE = Path("compose.yml")
HOST = {"HOST": "10.0.0.5"}


def edited(text: str, *services: str, **keys: str) -> str:
    return edit_compose(text.encode(), keys or HOST, FILE, services)[0].decode()


def services(text: str) -> str:
    return "services:\n" + text


LONG = """\
# the whole stack
version: '3'   # old

x-common: &common
    restart:   always
    environment: &env
        HOST:    old      # where Chroma is
        PASSWORD: "p: # w"

services:

    app:
      <<: *common
      command: ["run",   '--fast']
    worker:
      environment:
        <<: *env
        EXTRA: |
          HOST: inside
      labels: {HOST: old}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LONG, LONG.replace("HOST:    old ", "HOST:    10.0.0.5 ")),
        (LONG.replace("\n", "\r\n"), LONG.replace("HOST:    old ", "HOST:    10.0.0.5 ").replace("\n", "\r\n")),
    ],
)
def test_a_whole_file_keeps_comments_anchors_order_and_line_ends(before: str, after: str) -> None:
    assert edited(before) == after


@pytest.mark.parametrize(
    "text",
    [
        '  a:\n    environment:\n    - HOST=old\n    - "P=1"\n',
        "  a: {environment: ['HOST=old', P=1]}",
        '  a:\n    environment: {HOST: "old", P: x}\n',
        "  a:\n    environment:\n      HOST: &h old\n  b:\n    environment:\n      HOST: *h\n",
        "  a:\n    environment:\n      HOST: !!str old\n",
        "  a:\n    environment: [P=1, HOST=old]\n",
        "  a:\n    environment:\n      HOST: 10.0.0.5\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_the_value_changes(text: str, mark: str) -> None:
    before = mark + services(text)
    assert edited(before) == before.replace("old", "10.0.0.5")


def test_a_value_of_the_shell_is_replaced_as_a_whole() -> None:
    text = services('  a:\n    environment: ["HOST=${OLD:-x}"]\n')
    assert edited(text) == text.replace("${OLD:-x}", "10.0.0.5")


@pytest.mark.parametrize(
    ("value", "line"),
    [("yes", '"yes"'), ("8000", "8000"), ("0800", '"0800"'), ("http://h:1", "http://h:1"), ("a: b", '"a: b"'), ("x #y", '"x #y"'),
     ("1e3", '"1e3"'), ("22:22", '"22:22"'), ("*a", '"*a"'), ("null", '"null"'), ("/srv/a b", '"/srv/a b"')],
)  # fmt: skip
def test_a_bare_value_gets_quotes_where_yaml_could_misread_it(value: str, line: str) -> None:
    text = services("  a:\n    environment:\n      HOST: old\n")
    assert edited(text, HOST=value) == text.replace("old", line)


def test_of_services_that_disagree_those_that_are_meant_must_be_named() -> None:
    text = services("  app:\n    environment: {HOST: old}\n  chroma:\n    environment: {HOST: 0.0.0.0}\n")
    with pytest.raises(
        Terminal, match=r"the services app, chroma give HOST different values\. Say which are meant: services: \[app\]"
    ):
        edited(text)
    assert edited(text, "app") == text.replace("old", "10.0.0.5")


def test_a_value_shared_with_something_that_must_not_change_is_refused() -> None:
    with pytest.raises(Terminal, match=r"shares the value of HOST with services\.worker\.environment\.HOST"):
        edited(LONG, "app")
    other = services("  a:\n    environment:\n      HOST: &h old\n      OTHER: *h\n")
    with pytest.raises(Terminal, match=r"shares the value of HOST with services\.a\.environment\.OTHER"):
        edited(other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no mapping"),
        ("a:\n  image: x\n", "has no services"),
        (services("  a: {image: x}\n"), "no service sets HOST"),
        (services("  a:\n    environment:\n      HOST:\n"), "without a value"),
        (services("  a:\n    environment: [HOST]\n"), "without a value"),
        (services("  a:\n    environment:\n      HOST: >\n        old\n"), "several lines"),
        (services("  a:\n    environment:\n      HOST: old\n        er\n"), "other lines"),
        (services("  a:\n    environment:\n      HOST: {b: 1}\n"), "no plain value"),
        (services("  a:\n    environment: {HOST: 1, HOST: 2}\n"), "duplicate key"),
        (services("\ta: 1\n"), "not a readable compose file"),
        ("a: 1\n---\nb: 2\n", "not a readable compose file"),
        ("a: *nowhere\n", "not a readable compose file"),
        (services("  a: [\n"), "not a readable compose file"),
    ],
)  # fmt: skip
def test_what_cannot_be_changed_safely_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(Terminal, match=r"compose\.yml") as caught:
        edited(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_neighbours_in_a_flow_collection_are_not_shown() -> None:
    text = services(
        "  a:\n    environment: {SECRET: s3cret, HOST: old}\n  b:\n    environment: [HOST=old, PW=geheim]\n"
    )
    shown = unified(FILE, edit_compose(text.encode(), HOST, FILE)[1])
    assert "s3cret" not in shown
    assert "geheim" not in shown
    assert "-… HOST: old …" in shown
    assert "+… HOST=10.0.0.5 …" in shown
