"""Whatever a source holds ends exact in the target, or in quarantine with a reason, or in an error of one line.

Properties over generated chunks, names, schemas and parameters, through real Chroma. RUNBOOK_EXAMPLES sets how many.
"""

# ruff: noqa: E501  tables of inputs are read by column

from __future__ import annotations

import datetime as dt
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from helpers.chunks import ChunkBatch
from helpers.errors import RunbookError, UsageError
from helpers.migration.staging import Quarantine
from helpers.parameters import Parameters, load_parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.schema import Context, load_schema
from helpers.schema.file import read_schema_file
from helpers.snapshots.snapshot import write_snapshot
from helpers.stores import open_source, open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import refused_name
from helpers.stores.opening import create_levels, missing_levels
from tests.servers import ChromaServer
from tests.storage import contents, embedded, empty_plans, importer, plan, staging
from tests.test_source_layout_0_3 import write_old

EXAMPLES = int(os.environ.get("RUNBOOK_EXAMPLES", "10"))
CONTEXT = Context(frozenset({"c"}), dt.date(2025, 12, 1), "fail")
_numbers = itertools.count()


def few(share: float = 1.0) -> settings:
    """The same examples each time; more of them where the environment says so. A smaller one is not looked for: it takes minutes."""
    return settings(max_examples=max(2, int(EXAMPLES * share)), deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientStore]:
    with embedded(tmp_path_factory.mktemp("target") / "db") as store:
        yield store


def require_one_line(error: RunbookError, foreseen: str = "yes") -> None:
    assert error.line().isprintable(), error.line()
    assert foreseen, f"not foreseen: {error.line()}"


# -- chunks -------------------------------------------------------------------------------------------------------------

# All that a Parquet file of Chroma 0.3 can hold; its metadata are JSON as Python writes it.
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(["", " ", "a\0b", "\0", "é", "e\u0301", "\u212b", "å", "\u202e", "\U0001f9ea", "x" * 3_000, "NaN", "null", "\ufeffa", "a\r\nb"]),
)  # fmt: skip
keys = st.one_of(texts, st.sampled_from(["a", "A", "#a", "$a", "chroma:document", "chroma:x", "chunk", "é", "e\u0301"]))
numbers = st.one_of(
    st.integers(), st.floats(), st.booleans(),
    st.sampled_from([2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 5e-324, 1e308, -0.0, 0.0, 1.0, math.nan, math.inf, 0.1, 1e22]),
)  # fmt: skip
surrogates = st.sampled_from(["\ud800", "a\udfff"])
scalars = st.one_of(texts, numbers, st.none(), surrogates)
values = st.one_of(
    scalars, st.lists(texts, max_size=3), st.lists(st.integers(), max_size=3), st.lists(st.floats(), max_size=3), st.lists(st.booleans(), max_size=3),
    st.lists(scalars, max_size=3), st.just({"a": 1}), st.just({"indices": [1], "values": [0.5]}),
)  # fmt: skip
metadatas = st.one_of(st.none(), st.dictionaries(keys, values, max_size=4), st.just({}))
components = st.one_of(
    st.floats(width=32),
    st.sampled_from([-0.0, 1e-45, 1.17549435e-38, 3.4028234e38, 1e39, -1e300, math.nan, math.inf]),
    st.floats(),
)
vectors = st.one_of(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), st.lists(components, min_size=3, max_size=3),
                    st.sampled_from([None, [], [1.0], [0.0, 0.0, 0.0]]))  # fmt: skip
sources = st.lists(
    st.fixed_dictionaries({"id": texts, "document": st.none() | texts, "embedding": vectors, "metadata": metadatas}),
    min_size=1, max_size=12, unique_by=lambda chunk: chunk["id"],
)  # fmt: skip


def require_as_given(chunk: dict[str, Any], document: Any, metadata: Any, vector: Any) -> None:
    """Document, metadata with types, and the vector's bits as float32. Chroma 1.x reads a tenth of all doubles in metadata as
    their neighbour, and a server -0.0 as 0.0.
    """
    assert document == chunk["document"]
    with np.errstate(over="ignore"):
        assert vector.tobytes() == np.asarray(chunk["embedding"], np.float32).tobytes()
    wanted, found = chunk["metadata"] or {}, metadata or {}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        one, other = (each if isinstance(each, list) else [each] for each in (value, found[key]))
        assert (type(found[key]), len(other)) == (type(value), len(one))
        assert all(alike(a, b) for a, b in zip(one, other, strict=True)), (value, found[key])


def alike(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12)
    return type(a) is type(b) and a == b


def migrated(store: ClientStore, chunks: list[dict[str, Any]], folder: Path) -> None:
    """A source of Chroma 0.3 with these chunks through snapshot, staging and import; then every chunk is looked up."""
    folder = folder / f"{next(_numbers)}"
    folder.mkdir()
    rows = [
        {**chunk, "metadata": None if chunk["metadata"] is None else json.dumps(chunk["metadata"])} for chunk in chunks
    ]
    try:
        write_old(folder / "old", rows)
        with open_source(Endpoint(path=str(folder / "old")), folder / "scratch") as source:
            snapshot = write_snapshot(source, folder / "kept", "one", ["notes"], retention_days=1)
        snapshot.verify()
        work = importer(store, staging(snapshot, folder), folder, batch_size=5, most_refused=len(chunks))
        work.prepare(empty_plans(snapshot))
        work.write()
        found = contents(store, "notes")
    except RunbookError as error:
        require_one_line(error)
        return
    finally:
        store.release_lock("run-1")
        if "notes" in store.names():
            store.drop("notes")
    aside = Quarantine(folder / "quarantine")
    reasons = {entry["id"]: entry["reason"] for entry in aside.entries()}
    kept = {row["source_id"]: row for table in aside.chunks() for row in table.to_pylist()}
    arrived = {
        chunk: (found.documents[i], found.metadatas[i], found.embeddings[i]) for i, chunk in enumerate(found.ids)
    }
    assert sorted([*arrived, *reasons]) == sorted(chunk["id"] for chunk in chunks), (
        "each chunk is in one of both places"
    )
    assert kept.keys() == reasons.keys()
    for chunk in chunks:
        if chunk["id"] in arrived:
            require_as_given(chunk, *arrived[chunk["id"]])
        else:
            assert reasons[chunk["id"]]
            assert kept[chunk["id"]]["document"] == chunk["document"]
    shutil.rmtree(folder)


@pytest.mark.more
@few(0.3)
@given(sources)
def test_any_chunk_of_a_directory_arrives_exact_or_is_set_aside(
    target: ClientStore, tmp_path_factory: pytest.TempPathFactory, chunks: list[dict[str, Any]]
) -> None:
    migrated(target, chunks, tmp_path_factory.getbasetemp())


@pytest.mark.slow
def test_any_chunk_arrives_exact_at_a_server_or_is_set_aside(tmp_path: Path) -> None:
    with ChromaServer(tmp_path / "server") as server, open_target(Endpoint(url=server.url)) as store:

        @few(3)
        @given(sources)
        def play(chunks: list[dict[str, Any]]) -> None:
            migrated(store, chunks, tmp_path)

        play()


# -- names --------------------------------------------------------------------------------------------------------------

alphabet = st.sampled_from("aZ09._-") | st.characters(codec="utf-8")
names = st.one_of(
    st.text(st.sampled_from("aZ09._-"), max_size=6), st.text(alphabet, max_size=6),
    st.sampled_from(["a" * 512, "a" * 513, "a..b", "1.2.3.4", "a\n", "abc\n", "é", "e\u0301abc", "٣٣٣", "a/b", "a%2Fb", "..", "con", "default"]),
)  # fmt: skip


@few(4)
@given(names)
def test_a_collection_has_the_name_that_was_given_or_is_refused_before(target: ClientStore, name: str) -> None:
    refused = refused_name(name)
    try:
        target.create(plan(name))
    except RunbookError as error:
        require_one_line(error, foreseen=refused)
        require_one_line(error)
        return
    assert not refused, f"{name!r} is taken, though: {refused}"
    assert name in target.names()
    target.drop(name)


@few(1)
@given(st.one_of(names, texts).filter(lambda name: name != "*" and "\0" not in name))
def test_a_tenant_and_database_have_the_names_that_were_given_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    try:
        there = parameters_from({"source": {"path": "x"}, "target": {
            "path": str(tmp_path_factory.getbasetemp() / "tenants"), "tenant": name, "database": name}}).target  # fmt: skip
        create_levels(there, missing_levels(there))
        with open_target(there) as store:
            assert store.names() == []
    except RunbookError as error:
        require_one_line(error)
        return
    assert missing_levels(there) == ()


# -- schemas ------------------------------------------------------------------------------------------------------------

kinds = st.sampled_from(["string", "integer", "float", "boolean", "strings", "date"])
rules = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "é", "#x", ""]) | keys, "type": kinds},
    optional={
        "default": scalars | st.sampled_from(["{word_count}", "{routing}", "{x}", "{"]), "fixed": texts, "optional": st.booleans(),
        "not_empty": st.booleans(), "allowed": st.lists(texts, max_size=2), "pattern": st.sampled_from(["[a-z]+", "(", "x*", "\\d{2}"]),
        "minimum": numbers, "maximum": numbers, "repair": st.sampled_from(["clamp", "default", "reject"]),
        "derive": st.sampled_from(["language", "includes_spanish", "word_count"]),
    },
)  # fmt: skip
schemas = st.fixed_dictionaries(
    {"name": st.just("made")},
    optional={
        "fields": st.lists(rules, max_size=3),
        "unknown": st.sampled_from(["keep", "drop"]),
        "requires_document": st.booleans(),
    },
)
loose = st.dictionaries(
    st.sampled_from(["a", "b", "é", "c"]), st.one_of(scalars, st.lists(texts, max_size=2)), max_size=4
)


@pytest.mark.more
@few(2)
@given(schemas, st.lists(loose, min_size=1, max_size=3))
def test_a_schema_is_refused_or_gives_what_the_target_holds_exactly(
    target: ClientStore,
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, Any],
    given_metadata: list[dict[str, Any]],
) -> None:
    path = tmp_path_factory.getbasetemp() / "made.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    try:
        read_schema_file(path)
    except UsageError as error:
        require_one_line(error)
        return
    schema, n = load_schema(str(path)), len(given_metadata)
    batch = ChunkBatch(
        [f"i{i}" for i in range(n)], ["one two"] * n, np.ones((n, 2), np.float32), [dict(m) for m in given_metadata]
    )
    done = schema.transform(batch, "c", CONTEXT)
    assert done.source_ids == batch.ids
    failures = schema.failures(done, CONTEXT, dimension=2, allowed_dimensions=(), space="l2")
    kept = [i for i in range(n) if batch.ids[i] not in set(failures["id"])]
    assert all(failures["reason"])
    if kept:
        name = f"schema-{next(_numbers)}"
        target.create(plan(name))
        target.add(name, done.batch.take(kept))
        found = target.read(name, [done.batch.ids[i] for i in kept])
        for row, i in enumerate(kept):
            given = {
                "document": done.batch.documents[i],
                "embedding": done.batch.embeddings[i],
                "metadata": done.batch.metadatas[i],
            }
            require_as_given(given, found.documents[row], found.metadatas[row], found.embeddings[row])
        target.drop(name)


# -- parameters ---------------------------------------------------------------------------------------------------------

WHOLE = {"name": "trial", "source": {"path": "from"}, "target": {"url": "http://127.0.0.1:8000"}, "schema": "identity"}
DOCUMENT = parameters_from(WHOLE).document()
anything = st.recursive(
    scalars.filter(lambda v: v not in ("\ud800", "a\udfff")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
changes = st.lists(st.tuples(st.sampled_from(sorted(DOCUMENT)), st.integers(0, 50), anything), max_size=3)


def laid_over(changed: list[tuple[str, int, Any]]) -> dict[str, Any]:
    """The whole document with a value here and there replaced by another."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    for section, place, value in changed:
        inner = document[section]
        if isinstance(inner, dict) and inner and place:
            inner[sorted(inner)[place % len(inner)]] = value
        else:
            document[section] = value
    return document


@few(2)
@given(changes)
def test_parameters_are_refused_in_one_line_or_mean_the_same_once_written(
    tmp_path_factory: pytest.TempPathFactory, changed: list[tuple[str, int, Any]]
) -> None:
    path, text = tmp_path_factory.getbasetemp() / "made-parameters.yaml", io.StringIO()
    YAML().dump(laid_over(changed), text)
    path.write_text(text.getvalue(), encoding="utf-8")
    try:
        found: Parameters = load_parameters(path)
    except UsageError as error:
        require_one_line(error)
        return
    again = parameters_from(found.document())
    assert again == found
    assert (again.digest(), again.context()) == (found.digest(), found.context())
