"""A source that goes to several targets: each run reads the chunks of its shard, and all shards together are the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.errors import UsageError
from helpers.migration.target_lock import preflight
from helpers.parameters import Parameters, parameters_from
from helpers.report import RunView
from helpers.report.outcome import ends
from helpers.rollback.replay import Plan
from helpers.rollback.return_writes import leave_other_shards
from helpers.runner import fleet_table
from helpers.stores import open_source, shard_of, sharded
from tests.commands import Runbook
from tests.storage import assert_same, chunks, contents, embedded, fill, plan

SHARDS = 3


def rules(folder: Path, shard: str | None = None, **more: object) -> Parameters:
    ends = {"source": {"path": str(folder / "source")}, "target": {"path": str(folder / "target")}}
    return parameters_from({**ends, "collections": {"shard": shard}, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(300, 8), "cosine")
        fill(store, "empty", chunks(0, 8))
    return tmp_path


def test_the_shard_of_an_id_is_the_same_for_ever() -> None:
    """Applications compute it, too."""
    assert [shard_of(chunk, 8) for chunk in ("a", "b", "ç", "")] == [2, 2, 3, 4]
    assert {shard_of(f"c{n}", 5) for n in range(100)} == {0, 1, 2, 3, 4}


def test_the_shards_are_the_source_each_chunk_once(folder: Path) -> None:
    with open_source(rules(folder).source, folder) as whole:
        every = contents(whole, "notes")
        parts = [sharded(whole, f"{n}/{SHARDS}") for n in range(1, SHARDS + 1)]
        listed = [part.ids("notes") for part in parts]
        assert sorted(chunk for ids in listed for chunk in ids) == sorted(every.ids)
        assert min(map(len, listed)) > 60
        for number, (part, ids) in enumerate(zip(parts, listed, strict=True), 1):
            assert part.count("notes") == part.info("notes").count == len(ids)
            assert [info.count for info in part.collections()] == [0, len(ids)]
            assert part.label.endswith(f"(shard {number}/{SHARDS})")
            mine = sorted(ids)
            assert_same(contents(part, "notes"), whole.read("notes", mine))
            assert part.read("notes", every.ids[:50]).ids == [i for i in every.ids[:50] if i in ids], (
                "others are not there"
            )
            assert set(part.some_ids("notes", 20)) <= set(ids)
        assert sharded(whole, None) is whole


def test_a_search_finds_the_nearest_of_the_shard(folder: Path) -> None:
    with open_source(rules(folder).source, folder) as whole:
        part = sharded(whole, "2/3")
        own = contents(part, "notes")
        unit = own.embeddings / np.linalg.norm(own.embeddings, axis=1, keepdims=True)
        for asked, hits in zip(own.embeddings[:5], part.query("notes", own.embeddings[:5], 10), strict=True):
            nearest = np.argsort(1 - unit @ (asked / np.linalg.norm(asked)), kind="stable")[:10]
            assert [chunk for chunk, _ in hits] == [own.ids[n] for n in nearest]
        [found] = part.query("notes", own.embeddings[:1], len(own) + 50)
        assert len(found) == len(own), "where there are no more, all of them"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "01/4", "1/4/2", "-1/4"])
def test_what_is_no_shard_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"collections\.shard.*1/4 to 4/4"):
        rules(folder, text)


def test_the_fence_of_a_shared_source_is_the_operators(folder: Path) -> None:
    fence = {"kind": "command", "command": {"lock": ["true"], "unlock": ["true"]}}
    with pytest.raises(UsageError, match="it must be none: the runs of all shards share the source"):
        preflight(rules(folder, "1/2", fence=fence))
    preflight(rules(folder, None, fence=fence))
    preflight(rules(folder, "1/2"))


def problems(folder: Path, shards: list[str]) -> list[str]:
    """What the check of a table says of rows that read these shards."""
    base, table = folder / "base.yaml", folder / "table.csv"
    base.write_text("schema: identity\n", encoding="utf-8")
    rows = [f"s{n},{folder / 'source'},{folder / f'target-{n}'},{shard}" for n, shard in enumerate(shards)]
    table.write_text("\n".join(["name,source,target,collections.shard", *rows, ""]), encoding="utf-8")
    found = fleet_table.read_table(table)
    fleet_table.check(found, base, [], "fleet")
    return [problem for row in found.rows for problem in row.problems]


def test_a_table_names_every_shard_once(folder: Path) -> None:
    assert problems(folder, ["1/3", "2/3", "3/3"]) == []
    [missing] = problems(folder, ["1/3", "3/3"])
    assert "no row reads 2/3; chunks would be left behind" in missing
    assert any("reads shard 1/2 of this source, too" in p for p in problems(folder, ["1/2", "1/2", "2/2"]))
    assert any("count 2 and 3 shards" in p for p in problems(folder, ["1/2", "2/2", "3/3"]))


def test_a_rollback_leaves_chunks_of_other_shards_to_a_person() -> None:
    """A client wrote them to the wrong target; the source may hold another chunk under that id."""
    batch, made = chunks(20, 4), plan("made")
    planned = Plan(put={"notes": batch, "made": chunks(3, 4)}, create={"made": made})
    leave_other_shards(planned, "2/2")
    mine = [chunk for chunk in batch.ids if shard_of(chunk, 2) == 1]
    assert planned.put["notes"].ids == mine
    assert 0 < len(mine) < 20
    assert sorted(row["id"] for row in planned.open) == sorted(set(batch.ids) - set(mine))
    assert len(planned.put["made"]) == 3, "a collection that clients made comes back whole"
    alone = Plan(put={"notes": batch.take([batch.ids.index(mine[0])])})
    leave_other_shards(alone, "1/2")
    assert (alone.put, len(alone.open)) == ({}, 1)


def test_the_shards_of_two_databases_of_one_directory_are_told_apart(folder: Path) -> None:
    def of(*databases: str) -> list[str]:
        """As `problems`, with shard 1/2 and 2/2 by turns of these databases."""
        base, table = folder / "base.yaml", folder / "table.csv"
        base.write_text("schema: identity\n", encoding="utf-8")
        rows = [
            f"s{n},{folder / 'source'},{name},{folder / f'target-{n}'},{n % 2 + 1}/2"
            for n, name in enumerate(databases)
        ]
        table.write_text(
            "\n".join(["name,source,source.database,target,collections.shard", *rows, ""]), encoding="utf-8"
        )
        found = fleet_table.read_table(table)
        fleet_table.check(found, base, [], "fleet")
        return [problem for row in found.rows for problem in row.problems if "collections.shard" in problem]

    first, second = of("db_a", "db_b")
    assert "no row reads 2/2; chunks would be left behind" in first
    assert "no row reads 1/2; chunks would be left behind" in second
    assert of("db_a", "db_a", "db_b", "db_b") == []


def test_a_backup_of_a_shard_is_found_by_its_own_check(folder: Path) -> None:
    runbook = Runbook(folder)
    for number in (1, 2):
        more = f"collections: {{shard: {number}/2}}\nsnapshot: {{directory: {folder / 'kept'}}}\n"
        runbook.write(f"s{number}", f"path: {folder / 'source'}", f"path: {folder / 'target'}", more)
    assert runbook("snapshots", "create", "s1.yaml").returncode == 0
    assert runbook("snapshots", "check", "s1.yaml", "--within", "1").returncode == 0
    assert runbook("snapshots", "check", "s2.yaml", "--within", "1").returncode != 0, "that is another shard"


@pytest.mark.more
def test_two_runs_bring_two_shards_and_each_proves_its_own(folder: Path) -> None:
    runbook, held = Runbook(folder), []
    for number in (1, 2):
        file, target = folder / f"shard-{number}.yaml", folder / f"target-{number}"
        file.write_text(
            f"source: {{path: {folder / 'source'}}}\ntarget: {{path: {target}}}\nschema: identity\n"
            f"collections: {{shard: {number}/2}}\n", encoding="utf-8",
        )  # fmt: skip
        done = runbook("run", str(file), "--run-id", f"shard-{number}", "--until", "23")
        assert done.returncode == 0, done.stdout + done.stderr
        with embedded(target) as store:
            held.append(contents(store, "notes"))
            assert store.count("empty") == 0
    with embedded(folder / "source") as store:
        every = contents(store, "notes")
    assert sorted(held[0].ids + held[1].ids) == every.ids
    assert all(shard_of(chunk, 2) == number for number in (0, 1) for chunk in held[number].ids)
    for part in held:
        wanted = every.take([every.ids.index(chunk) for chunk in part.ids])
        assert (part.documents, part.metadatas) == (wanted.documents, wanted.metadatas)
        assert np.allclose(part.embeddings, wanted.embeddings, rtol=5e-7, atol=0)  # chroma-facts 14: cosine


def test_people_are_told_that_it_is_a_shard(folder: Path) -> None:
    assert rules(folder, "2/3").source_label == f"{folder / 'source'} (shard 2/3)"
    assert rules(folder).source_label == str(folder / "source")
    source, target = ends(RunView(folder, {}, rules(folder, "2/3").document(), "", [], [], {}))
    assert "only shard 2/3 of its chunks is migrated by this run" in source[2]
    assert "shard" not in target[2]
