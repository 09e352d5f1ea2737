"""Types are exact, ranges are kept, and the line says what was wanted and what was there."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from helpers.errors import UsageError
from helpers.parameters import Parameters, parameters_from


def load(key: str, value: Any) -> Parameters:
    section, _, name = key.partition(".")
    sections: dict[str, Any] = {"source": {"path": "old"}, "target": {"path": "new"}}
    sections[section] = (sections.get(section, {}) | {name: value}) if name else value
    return parameters_from(sections)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("migration.batch_size", True, "must be a whole number, got true"),
        ("migration.batch_size", "100", "must be a whole number, got the text '100'"),
        ("migration.batch_size", 100.0, "must be a whole number, got the number 100.0"),
        ("migration.batch_size", None, "must be a whole number, got nothing"),
        ("migration.batch_size", 0, "must be more than 0, got the number 0"),
        ("migration.workers", -1, "must be more than 0"),
        ("migration.minimum_valid", 1.01, "must be at most 1, got the number 1.01"),
        ("migration.minimum_valid", -0.1, "must be at least 0"),
        ("migration.max_minutes", 0, "must be more than 0"),
        ("migration.id_policy", "prefx", "must be 'fail' or 'prefix', got the text 'prefx'; did you mean 'prefix'?"),
        ("source.timeout_seconds", 0, "must be more than 0"),
        ("source.timeout_seconds", float("nan"), "must be a finite number"),
        ("source.timeout_seconds", float("inf"), "must be a finite number"),
        ("source.timeout_seconds", False, "must be a number, got false"),
        ("source.verify_tls", "yes", "must be true or false, got the text 'yes'"),
        ("source.verify_tls", 1, "must be true or false, got the number 1"),
        ("expected.total", -1, "must be at least 0"),
        ("expected.tolerance", -5, "must be at least 0"),
        ("expected.collections", {"a": -1}, "'expected.collections.a' must be at least 0"),
        ("expected.collections", {5: 1}, "the number 5 as a key in 'expected.collections' must be text: quote it"),
        ("expected.collections", ["a"], "must be a mapping (key: value), got a list"),
        ("expected.dimensions", [0], "'expected.dimensions[0]' must be more than 0"),
        ("snapshot.retention_days", 6, "must be at least 7"),
        ("snapshot.directory", " ", "must be a path"),
        ("name", 2025, "must be text, got the number 2025 (quote it)"),
        ("name", "a\nb", "must be one line"),
        ("name", "n" * 101, "must have at most 100 characters"),
        ("signoff.required", ["dba", "dba"], "names 'dba' twice"),
        ("signoff.dry_run", ["DBA"], "did you mean 'dba'?"),
        ("cutover.restart", ["systemctl restart app"], "'cutover.restart[0]' must be a list"),
        ("cutover.restart", [[]], "'cutover.restart[0]' must not be empty"),
        ("cutover.restart", [[""]], "must begin with the name of a program"),
        ("cutover.restart", [["a", "b\0c"]], "no NUL character"),
        ("cutover.log_pattern", "(", "is not a regular expression"),
        ("cutover.env_files", [{"path": "e", "keys": {"1A": "b"}}], "as a key in 'cutover.env_files[0].keys'"),
        ("cutover.env_files", [{"path": "e", "keys": {}}], "'cutover.env_files[0].keys' must not be empty"),
        ("cutover.env_files", [{"path": "e", "keys": {"A": "b\nC=d"}}], "must be one line"),
        ("cutover.env_files", [{"path": "e", "keys": {"A": "{target_ulr}"}}], "placeholder {target_ulr}; known"),
        ("cutover.env_files", [{"path": "e", "keys": {"A": "{target_path.x}"}}], "placeholder"),
        ("cutover.env_files", [{"path": "e", "keys": {"A": "{target_path!r}"}}], "placeholder"),
        ("cutover.env_files", [{"path": "e", "keys": {"A": "{"}}], "has a single brace"),
        ("monitoring.interval_seconds", 0, "must be more than 0"),
        ("rollback.monitor_minutes", -1, "must be at least 0"),
        ("migration", [1], "'migration' must be a mapping (key: value), got a list"),
        ("migration", "fast", "'migration' must be a mapping (key: value), got the text 'fast'"),
    ],
)
def test_wrong_value_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(key, value)
    line = str(caught.value)
    assert message in line
    assert key in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("pattern", "right"),
    [("*", True), ("openwebui_*", True), ("a-b.c", True), ("[a-z]*", True), ("[!x]*", True), ("[]]a", True),
     ("", False), ("[abc", False), ("a b", True), (" a", False), ("[z-a]", False), ("a\tb", False), ("x[", False)],
)  # fmt: skip
def test_globs(pattern: str, right: bool) -> None:
    if right:
        assert load("collections.include", [pattern]).collections.include == [pattern]
    else:
        with pytest.raises(UsageError, match=r"'collections.exclude\[0\]' is not a pattern for collection names"):
            load("collections.exclude", [pattern])


def test_nothing_included_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'collections.include' must not be empty"):
        load("collections.include", [])


def test_selection_prefers_exclude() -> None:
    sections = {"source": {"path": "a"}, "target": {"path": "b"}}
    chosen = parameters_from(sections | {"collections": {"include": ["web_*", "x"], "exclude": ["*_old"]}}).collections
    assert [name for name in ("web_core", "web_old", "x", "X", "y") if chosen.selects(name)] == ["web_core", "x"]


@pytest.mark.parametrize(
    "start",
    ["2025-12-01T02:00:00Z", "2025-12-01T03:00:00+01:00", "2025-12-01 02:00:00+00:00",
     datetime.datetime(2025, 12, 1, 2, tzinfo=datetime.UTC)],
)  # fmt: skip
def test_window_start_is_utc(start: object) -> None:
    parameters = load("window.start", start)
    assert parameters.window.start == datetime.datetime(2025, 12, 1, 2, tzinfo=datetime.UTC)
    assert parameters.document()["window"]["start"] == "2025-12-01T02:00:00Z"


@pytest.mark.parametrize(
    ("start", "message"),
    [("2025-12-01T02:00:00", "has no time zone"), ("2025-12-01", "has no time zone"), ("tonight", "must be a time"),
     (20251201, "must be a time"), (True, "must be a time"), ("0001-01-01T00:00:00+14:00", "end of the calendar")],
)  # fmt: skip
def test_window_start_needs_a_zone(start: object, message: str) -> None:
    with pytest.raises(UsageError, match=rf"'window.start' .*{message}"):
        load("window.start", start)


def test_whole_numbers_serve_as_numbers_but_not_the_reverse() -> None:
    assert load("source.timeout_seconds", 60).source.timeout_seconds == 60.0


def test_parameters_do_not_change_after_checking() -> None:
    parameters = load("name", "night")
    with pytest.raises(ValidationError):
        setattr(parameters, "name", "day")  # noqa: B010  (a type checker refuses it as well)
