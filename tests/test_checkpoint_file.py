"""The checkpoint: always a whole file, true at every moment, and bound to the context in which it began."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import Terminal, UsageError
from helpers.migration.checkpoint import Checkpoint

CONTEXT = {"source": "a", "target": "b", "schema_digest": "c", "snapshot": "d"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.json"


def begun(path: Path, **rows: int) -> Checkpoint:
    checkpoint = Checkpoint.open(path, CONTEXT)
    checkpoint.stage(sum(rows.values()) + 5, 5, rows)
    return checkpoint


def test_what_is_written_is_what_is_read(path: Path) -> None:
    first = begun(path, one=100, two=50)
    first.intend("one")
    first.confirm("one", "a-uuid")
    first.begin("one", 0, 20)
    first.complete("one", 20, 2, 0.5)
    first.begin("one", 20, 40)
    first.note("one: c7: too odd")
    found = Checkpoint.read(path)
    assert found.targets == first.targets
    assert (found.processed, found.failed, found.total_chunks, found.last_batch_index) == (25, 7, 155, 0)
    assert found.errors[0].endswith("one: c7: too odd")
    assert found.owned() == ["one"]
    raw = json.loads(path.read_text())
    assert (raw["processed_chunks"], raw["successful_chunks"], raw["failed_chunks"]) == (25, 18, 7)


def test_a_resume_counts_and_keeps_what_is_completed(path: Path) -> None:
    first = begun(path, one=100)
    first.begin("one", 0, 60)
    first.complete("one", 60, 0, 1.0)
    again = Checkpoint.open(path, CONTEXT)
    assert (again.resumed, again.targets["one"].completed, again.targets["one"].inflight) == (1, 60, None)
    again.stage(105, 5, {"one": 100})
    assert again.targets["one"].completed == 60


@pytest.mark.parametrize("changed", [{"source": "x"}, {"target": "x", "snapshot": "y"}, {"new": 1}])
def test_another_context_is_refused_by_the_names_of_what_changed(path: Path, changed: dict[str, Any]) -> None:
    begun(path, one=10)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=", ".join(sorted(changed))) as caught:
        Checkpoint.open(path, {**CONTEXT, **changed})
    assert caught.value.code == "context_changed"
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="snapshot"):
        Checkpoint.open(path, {k: v for k, v in CONTEXT.items() if k != "snapshot"})


def test_another_staging_under_the_same_name_is_refused(path: Path) -> None:
    checkpoint = begun(path, one=10)
    with pytest.raises(Terminal, match="11 rows staged where the checkpoint knows 10"):
        checkpoint.stage(16, 5, {"one": 11})


def test_smaller_batches_after_a_kill_keep_the_range_in_doubt(path: Path) -> None:
    begun(path, one=1000).begin("one", 0, 500)  # killed here: 0 to 500 may be written or not
    again = Checkpoint.open(path, CONTEXT)
    seen = [again.targets["one"].inflight]
    for start in range(0, 700, 100):
        again.begin("one", start, start + 100)
        seen.append(again.targets["one"].inflight)
        assert Checkpoint.read(path).targets["one"].inflight == seen[-1]
        again.complete("one", start + 100, 0, 0.1)
    assert seen == [[0, 500], [0, 500], [100, 500], [200, 500], [300, 500], [400, 500], [500, 600], [600, 700]]
    assert Checkpoint.read(path).targets["one"].inflight is None
    # Killed again in the middle of the smaller batches: still in doubt to the end of the first.
    begun(path.with_name("two.json"), one=1000).begin("one", 0, 500)
    second = Checkpoint.open(path.with_name("two.json"), CONTEXT)
    second.begin("one", 0, 100)
    second.complete("one", 100, 0, 0.1)
    assert Checkpoint.open(path.with_name("two.json"), CONTEXT).targets["one"].inflight == [100, 500]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"context": {}}', '{"context": {}, "targets": 3}'])
def test_what_is_no_checkpoint_is_one_clear_line(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(Terminal, match="cannot be read") as caught:
        Checkpoint.read(path)
    assert caught.value.code == "checkpoint_unreadable"
    assert "\n" not in str(caught.value)
    with pytest.raises(Terminal, match="cannot be read"):
        Checkpoint.open(path, CONTEXT)


@pytest.mark.more
@pytest.mark.parametrize("others", [0, 100])
def test_the_file_is_whole_at_every_moment_under_many_writers(path: Path, others: int) -> None:
    names = [f"t{i}" for i in range(4)]
    checkpoint = begun(path, **dict.fromkeys([*names, *(f"other{n}" for n in range(others))], 1000))
    done, problems = threading.Event(), []
    seen = 0

    def write(name: str) -> None:
        for start in range(0, 200, 10):
            checkpoint.begin(name, start, start + 10)
            checkpoint.note(f"{name}: {start} – ü")
            checkpoint.complete(name, start + 10, 0, 0.01)

    def watch() -> None:
        nonlocal seen
        last = 0
        while not done.is_set():
            try:
                found = Checkpoint.read(path)
                if found.processed < last:
                    problems.append(f"{found.processed} after {last}")
                last = found.processed
                for state in found.targets.values():
                    if state.inflight and state.inflight[0] != state.completed:
                        problems.append(str(state))
            except Exception as error:
                problems.append(repr(error))
            seen += 1

    writers = [threading.Thread(target=write, args=(name,)) for name in names]
    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for thread in [*watchers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in watchers:
        thread.join()
    assert problems == []
    assert seen > 20
    assert all(Checkpoint.read(path).targets[name].completed == 200 for name in names)
    checkpoint.enter("complete")
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.json"]  # no temporary file is left


@pytest.fixture
def lines(path: Path) -> Path:
    """Where the changes of one target among many go."""
    return path.with_name("checkpoint.jsonl")


def test_a_change_among_many_targets_costs_a_line_and_loses_nothing(path: Path, lines: Path) -> None:
    names = [f"t{n:03}" for n in range(160)]
    checkpoint = begun(path, **dict.fromkeys(names, 10))
    whole, sizes, longest = path.read_bytes(), set(), 0
    for name in names:
        checkpoint.intend(name)
        checkpoint.begin(name, 0, 10)
        checkpoint.complete(name, 10, 1, 0.1)
        found = Checkpoint.read(path)
        assert (found.targets, found.processed, found.failed) == (
            checkpoint.targets,
            checkpoint.processed,
            checkpoint.failed,
        )
        if lines.exists():
            longest = max(longest, *map(len, lines.read_bytes().splitlines()))
        sizes.add(path.stat().st_mtime_ns)
    assert 15 < len(sizes) < 30  # of 480 changes; each file is good for 20 more
    assert longest < len(whole) / 20
    checkpoint.enter("complete")
    assert not lines.exists()
    assert Checkpoint.open(path, CONTEXT).targets == checkpoint.targets


def test_a_kill_between_the_lines_is_gone_on_with(path: Path, lines: Path) -> None:
    names = [f"t{n:03}" for n in range(40)]
    checkpoint = begun(path, **dict.fromkeys(names, 10))
    checkpoint.intend("t001")
    checkpoint.begin("t001", 0, 10)
    before = lines.read_bytes()
    checkpoint.complete("t001", 10, 0, 0.1)
    torn = lines.read_bytes()[:-20]
    lines.write_bytes(torn)
    again = Checkpoint.open(path, CONTEXT)
    assert (again.targets["t001"].completed, again.targets["t001"].inflight, again.owned()) == (0, [0, 10], ["t001"])
    again.complete("t001", 10, 0, 0.1)  # the whole is written first: nothing is added to a torn line
    assert not lines.exists()
    lines.write_bytes(before)  # a kill came before the lines of the earlier file were removed
    assert Checkpoint.read(path).targets["t001"].completed == 10
    again = Checkpoint.open(path, CONTEXT)
    again.begin("t002", 0, 10)
    assert Checkpoint.read(path).targets == again.targets


def test_a_damaged_line_is_no_checkpoint(path: Path, lines: Path) -> None:
    checkpoint = begun(path, **{f"t{n:03}": 10 for n in range(40)})
    for n in range(3):
        checkpoint.begin(f"t{n:03}", 0, 10)
    lines.write_bytes(lines.read_bytes().replace(b'"t001"', b'"t0', 1))
    with pytest.raises(Terminal, match="cannot be read"):
        Checkpoint.read(path)


def test_at_most_fifty_errors_are_kept(path: Path) -> None:
    checkpoint = begun(path, one=10)
    for i in range(60):
        checkpoint.note(f"error {i}")
    kept = Checkpoint.read(path).errors
    assert len(kept) == 50
    assert kept[-1].endswith("error 59")


def test_somebody_elses_collection_is_not_owned(path: Path) -> None:
    checkpoint = begun(path, one=10, two=10)
    checkpoint.intend("one")
    checkpoint.intend("two")
    checkpoint.disown("two")
    assert Checkpoint.read(path).owned() == ["one"]


def test_estimates_are_honest_about_what_they_do_not_know(path: Path) -> None:
    checkpoint = begun(path, one=100)
    unknown = {"average_batch_seconds": None, "chunks_per_second": None, "estimated_remaining_seconds": None}
    assert checkpoint.stats() == unknown
    checkpoint.begin("one", 0, 50)
    checkpoint.complete("one", 50, 0, 0.25)
    stats = checkpoint.stats()
    assert stats["average_batch_seconds"] == 0.25
    assert stats["estimated_remaining_seconds"] == pytest.approx(50 / stats["chunks_per_second"], rel=0.01, abs=0.1)
