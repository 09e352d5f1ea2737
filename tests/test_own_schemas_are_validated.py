"""Search is compared by what the snapshot knows of each id, so an own schema needs no field of ours. Real Chroma, two sides."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from helpers.chunks import ChunkBatch, Metadata
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.results import Verdict
from helpers.run.folders import SEARCHES
from helpers.schema import load_schema
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import CollectionInfo, Space, Store, open_target
from helpers.validation import Judgement
from helpers.validation.equivalence import searches
from helpers.validation.fidelity import Examination, Expectation
from helpers.validation.properties import FieldTests
from helpers.validation.search import Answers, Probes, Truth, answers_within, baseline, records
from tests.documentation import blocks

DATE = datetime.date(2025, 12, 1)
FIELD = "name: mine\nfields: [{name: lang, type: string, default: en}]\n"
MERGED = FIELD + "routing: {targets: {all: everything}, otherwise: all}\n"
APART = FIELD + "routing: {field: kind, targets: {odd: odds, even: evens}, otherwise: odd}\n"


def chunks(name: str, n: int, seed: int, metadata: Callable[[int], Metadata | None] = lambda i: {"n": i}) -> ChunkBatch:
    vectors = np.random.default_rng(seed).normal(size=(n, 12)).astype(np.float32)
    return ChunkBatch([f"{name}-{i}" for i in range(n)], [f"{i} words" for i in range(n)], vectors,
                      [metadata(i) for i in range(n)])  # fmt: skip


def judged(
    folder: Path,
    schema_text: str,
    sources: Mapping[str, ChunkBatch],
    *,
    spaces: Mapping[str, Space] | None = None,
    damage: Callable[[Store], None] = lambda store: None,
) -> Judgement:
    """Sources migrated by a schema as step 22 does it, then validated as step 23 does, with its file of searches in `folder`."""
    path = folder / "mine.yaml"
    path.write_text(schema_text, encoding="utf-8")
    given = {name: {"path": str(folder / name)} for name in ("source", "target")}
    parameters = parameters_from({**given, "schema": str(path)})
    schema, space = load_schema(str(path)), spaces or {}
    infos = {n: CollectionInfo(n, 0, None, space.get(n, "cosine"), space.get(n, "cosine")) for n in sources}
    with open_target(Endpoint(path=str(folder / "source"))) as store:
        for name, batch in sources.items():
            store.create(infos[name])
            store.add(name, batch)
        snapshot = write_snapshot(store, folder, "snap", list(sources), retention_days=7)
        before = baseline(store, snapshot, parameters)
    of = Expectation(snapshot, schema, parameters, DATE, {}, before)
    with open_target(Endpoint(path=str(folder / "target"))) as store:
        for name in schema.targets(snapshot.names()):
            kind = next(iter(infos.values())).space if name not in infos else infos[name].space
            store.create(CollectionInfo(name, 0, None, kind, kind))
        for name in snapshot.names():
            for part in snapshot.batches(name):
                moved = schema.transform(part, name, of.context())
                for target in sorted(set(moved.targets)):
                    store.add(target, moved.batch.take([i for i, t in enumerate(moved.targets) if t == target]))
        damage(store)
        with searches(folder / SEARCHES) as write:
            return Judgement(Examination(store, of, write).run(), of)


def kind(i: int) -> Metadata:
    return {"kind": "odd" if i % 2 else "even", "n": i}


@pytest.mark.parametrize("schema", [FIELD, MERGED, APART], ids=["collections kept", "merged", "routed apart"])
def test_an_own_schema_without_a_field_of_ours_passes(tmp_path: Path, schema: str) -> None:
    sources = {name: chunks(name, 40 + 30 * i, i, kind) for i, name in enumerate(("alpha", "beta", "gamma"))}
    found = judged(tmp_path, schema, sources)
    assert found.search().verdict is Verdict.PASS, found.search().detail
    assert [c.name for c in found.all() if c.verdict in (Verdict.FAIL, Verdict.WARNING)] == []
    for row in found.findings.search:
        assert row["paired"] == row["probes"] == 20
        assert row["self_after"] == row["reachable_after"] == row["recall_after"] == 1.0


@pytest.mark.parametrize("space", ["l2", "ip"])
def test_collections_of_other_spaces_merge_too(tmp_path: Path, space: Space) -> None:
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta"))}
    found = judged(tmp_path, MERGED, sources, spaces=dict.fromkeys(sources, space))
    assert found.search().verdict is Verdict.PASS, found.search().detail


def test_a_target_that_searches_worse_fails_where_collections_are_merged(tmp_path: Path) -> None:
    """The vectors of one source's chunks are others in the target: only this source's search fails."""
    sources = {name: chunks(name, 60, i) for i, name in enumerate(("alpha", "beta"))}

    def damage(store: Store) -> None:
        ids = sources["beta"].ids[:30]
        batch = store.read("everything", ids)
        batch.embeddings = np.random.default_rng(9).normal(size=batch.embeddings.shape).astype(np.float32)
        store.delete("everything", ids)
        store.add("everything", batch)

    found = judged(tmp_path, MERGED, sources, damage=damage)
    verdicts = {row["collection"]: row["verdict"] for row in found.findings.search}
    assert verdicts == {"alpha": Verdict.PASS, "beta": Verdict.FAIL}
    assert found.search().detail.startswith("beta: ")
    assert "distances of the same pairs differ" in found.search().detail


def test_chunks_that_a_merged_targets_index_does_not_find_are_named() -> None:
    """40 chunks a side, and an answer that leaves out what lies nearest: found, though half the answer is the other's."""
    ours, theirs = chunks("ours", 40, 1), chunks("theirs", 40, 2)
    probes = Probes(ours.take(range(20)))
    distances = np.square(probes.vectors[:, None] - np.concatenate([ours.embeddings, theirs.embeddings])[None]).sum(2)
    names = [*ours.ids, *theirs.ids]
    whole = [sorted(((n, float(d)) for n, d in zip(names, row, strict=True)), key=lambda p: p[1]) for row in distances]
    torn = [[pair for pair in row if pair[0] not in ours.ids[:3]] for row in whole]
    for listed, missing in ((whole, []), (torn, ours.ids[:3])):
        answers = Answers([row[:10] for row in listed], [row[:30] for row in listed])
        truth = Truth(probes.vectors, "l2", 10, answers.wanted(probes.ids, 30))
        truth.add(ours.ids, ours.embeddings)
        rows = records(probes.ids, answers_within([(answers, set(ours.ids))], 10), truth, "l2", 10)
        assert [r["id"] for r in rows if r["self"] is not True] == missing
        assert [r["id"] for r in rows if r["reachable"] is not True] == missing
        assert sum(len(r["plain"]) for r in rows) < 150  # of 200: half the answers are of the other source
        shares = [r["recall"] for r in rows]
        assert None not in shares
        assert (min(shares) == 1.0) is not bool(missing)


def examples(root: Path) -> Iterator[tuple[str, Any]]:
    """Every block of YAML in the documentation, with its page."""
    yield from ((block.page, YAML(typ="safe").load(block.text)) for block in blocks(root, "yaml"))


def test_every_example_of_parameters_in_the_documentation_is_accepted(root: Path) -> None:
    found = [(page, block) for page, block in examples(root) if "fields" not in block]
    assert len(found) >= 7
    base = {"source": {"url": "http://source:8000"}, "target": {"url": "http://target:8000"}}
    for page, block in found:
        assert parameters_from({**base, **block}), page


def test_the_example_schema_of_the_documentation_migrates_and_passes(tmp_path: Path, root: Path) -> None:
    """Six sources merged into two; every field of the example has something to fill, to coerce or to clamp."""
    page = (root / "docs" / "schemas.md").read_text(encoding="utf-8")
    (schema,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    sources = {
        "news-2024": chunks("a", 50, 1, lambda i: {"score": i / 10, "published": "2024-05-01"}),
        "news-2025": chunks("b", 30, 2, lambda i: {"author": "", "isbn": "9780141036144"}),
        "essays": chunks("c", 60, 3, lambda i: {"kind": "essay", "tags": "one"}),
        "letters": chunks("d", 20, 4, lambda i: {"kind": "news" if i % 2 else "no such kind", "isbn": "9780141036144"}),
    }
    for name in ("news-2024", "essays"):
        sources[name].metadatas = [{**(m or {}), "isbn": "9780141036144"} for m in sources[name].metadatas]
    found = judged(tmp_path, schema, sources)
    assert [c.name for c in found.all() if c.verdict in (Verdict.FAIL, Verdict.WARNING)] == []
    assert {row["collection"]: row["target"] for row in found.findings.targets} == {
        "articles_news": 50 + 30 + 10, "articles_essays": 60 + 10
    }  # fmt: skip


def test_the_type_and_the_dated_uri_of_a_chunk_are_those_that_the_schema_names(tmp_path: Path) -> None:
    """No name of ours is in the code: a schema with fields of its own gets the same two tests."""
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nrouting: {field: sort, targets: {a: first, b: second}, otherwise: a}\nfields:\n"
        '- {name: sort, type: string, allowed: [a, b], fixed: "{routing}"}\n'
        "- {name: ref, type: string, pattern: 'ref:(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})'}\n",
        encoding="utf-8",
    )
    tests = FieldTests(load_schema(str(path)), {"first": "a"}, {"c"})
    rows: list[Metadata | None] = [{"sort": "a", "ref": "ref:2025-02-28"}, {"sort": "b", "ref": "ref:2025-02-28"},
                                   {"sort": "a", "ref": "ref:2025-02-30"}, {"sort": "a", "ref": 7}]  # fmt: skip
    tests.add("first", ChunkBatch(list("1234"), ["x"] * 4, np.ones((4, 2), np.float32), rows))
    assert [row["id"] for row in tests.offenders["distribution"]] == ["2"]
    assert [row["id"] for row in tests.offenders["citation_uris"]] == ["3", "4"]
