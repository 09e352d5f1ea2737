"""What pytest runs in step 52: queries as data, the application's own from a file and those that every migration must answer;
and a plugin, which gives the target of a run as fixtures and writes the outcome of each test as one line of JSON.

An operator's own test asks for `target`, Chroma's client of the target, or for `target_collections`, the names of the
collections that the run filled. The variables RUNBOOK_TARGET_URL, RUNBOOK_TARGET_PATH, RUNBOOK_TARGET_TENANT and
RUNBOOK_TARGET_DATABASE name it to tests that open it by themselves. None holds credentials.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, PositiveInt, ValidationError, model_validator

from helpers.errors import UsageError
from helpers.formatting import masked
from helpers.migration.checkpoint import Checkpoint
from helpers.parameters import Parameters, resolve_path
from helpers.parameters.endpoint import Section
from helpers.parameters.model import PARAMETERS, explain, read_yaml_mapping
from helpers.parameters.sections import Text
from helpers.reason_codes import ReasonCode
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.folders import RunFolder, RunPath, RunState
from helpers.stores import open_target
from helpers.stores.client import ClientStore
from helpers.stores.creation import register_allowed

LOOKUPS = PARAMETERS / "lookups.yaml"  # used if the target has all of their collections
STORED = "{stored}"  # for `like`: the id of a chunk that the collection holds


class Expect(Section):
    """What a good answer is."""

    id: Text | None = None
    """A chunk that must be among the hits."""
    word: Text | None = None
    """A word that the document of a hit must contain, in any case."""
    at_least: PositiveInt = 1
    """Hits at least."""


class Case(Section):
    """One query of the application."""

    name: Text = "query"
    """What it is called in the table."""
    collection: Text
    """Target collection to ask."""
    text: Text | None = None
    """A text, where the collection's own embedding function is at hand."""
    embedding: Annotated[list[float], Field(min_length=1)] | None = None
    """A vector."""
    like: Text | None = None
    """The id of a chunk whose stored vector is searched for."""
    or_like: list[Text] = Field(default_factory=list)
    """Chunks that take its place, in this order, where it is gone: clients may delete chunks."""
    where: dict[str, Any] | None = None
    """Chroma's filter on metadata."""
    where_document: dict[str, Any] | None = None
    """Chroma's filter on documents."""
    k: PositiveInt = 10
    """Hits asked for."""
    maximum_distance: float | None = None
    """The best hit must not lie further away."""
    expect: Expect = Field(default_factory=Expect)

    @model_validator(mode="after")
    def _one_question(self) -> Case:
        given = [key for key in ("text", "embedding", "like") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"asks by {' and '.join(given) or 'nothing'}; give exactly one of text, embedding, like")
        return self


class Cases(Section):
    """A file of queries."""

    queries: Annotated[list[Case], Field(min_length=1)]


def read_cases(path: str) -> list[Case]:
    """The queries of a YAML or JSON file. `UsageError` if it is none, or if a query contradicts itself."""
    where = resolve_path(path)
    try:
        return Cases.model_validate(read_yaml_mapping(Path(where), what="file of queries")).queries
    except ValidationError as error:
        problem = explain(error, Cases)
    raise UsageError(ReasonCode.QUERIES_INVALID, problem, where=str(where),
                     next_step="parameters/queries.example.yaml shows each key.")  # fmt: skip


def standard_cases(
    parameters: Parameters, collections: Sequence[str], stored: Mapping[str, Sequence[str]]
) -> Iterator[Case]:
    """The queries that every migration must answer: each collection finds a stored chunk (`stored`: ids by collection, of which
    the first that still exists is searched for), and named queries and the lookups of parameters/lookups.yaml find something."""
    for name in collections:
        if name in stored:
            first, *others = stored[name]
            yield Case(name=f"{name} finds a stored chunk", collection=name, like=first, or_like=others, k=3,
                       expect=Expect(id=first))  # fmt: skip
    for query in parameters.validation.queries:
        names = [query.collection] if query.collection else collections
        for name in (n for n in names if n in collections):  # without a collection the word need be in one of them only
            expect = Expect(word=query.expect) if query.collection else Expect()
            yield Case(name=f"named query: {query.text}", collection=name, text=query.text, k=parameters.validation.k,
                       expect=expect)  # fmt: skip
    lookups = read_cases(str(LOOKUPS))
    if {case.collection for case in lookups} <= set(stored):
        for case in lookups:
            first, *others = stored[case.collection]
            yield case.model_copy(update={"like": first, "or_like": others}) if case.like == STORED else case


CASES = "RUNBOOK_CASES"


def _cases() -> list[Any]:
    path = os.environ.get(CASES)
    rows = json.loads(Path(path).read_text(encoding="utf-8")) if path else []
    return [pytest.param(Case.model_validate(row), id=f"{n + 1:03d}") for n, row in enumerate(rows)]


@pytest.mark.parametrize("case", _cases())
def test_case(case: Case, target_store: ClientStore) -> None:
    """The answer has what the case expects."""
    collection = target_store.client.get_collection(case.collection, embedding_function=None)
    arguments: dict[str, Any] = {"n_results": case.k, "include": ["distances", "documents"]}
    arguments |= {k: v for k in ("where", "where_document") if (v := getattr(case, k)) is not None}
    if case.text is not None:
        if why := target_store.why_no_text_queries(case.collection):
            pytest.skip(f"no text queries: {why}")
        answer = collection.query(query_embeddings=target_store.text_vectors(case.collection, [case.text]), **arguments)
    else:
        vector: Any = case.embedding
        if case.like is not None:
            case, vector = _with_existing_chunk(case, case.like, target_store)
        answer = collection.query(query_embeddings=[vector], **arguments)
    ids, documents = answer["ids"][0], (answer["documents"] or [[]])[0]
    distances = (answer["distances"] or [[]])[0]
    assert len(ids) >= case.expect.at_least, f"{len(ids)} hits, at least {case.expect.at_least} are expected"
    if case.expect.id is not None:
        assert _has(case, ids, distances), f"chunk {case.expect.id} is not among the {len(ids)} hits"
    if case.expect.word is not None:
        word = case.expect.word.casefold()
        assert any(word in (d or "").casefold() for d in documents), (
            f"no document of {len(ids)} hits holds {case.expect.word!r}"
        )
    if case.maximum_distance is not None:
        assert distances[0] <= case.maximum_distance, (
            f"the best hit is at {distances[0]:.4g}, beyond {case.maximum_distance:g}"
        )


def _with_existing_chunk(case: Case, like: str, store: ClientStore) -> tuple[Case, Any]:
    """The case for the first of its chunks that the collection holds, and that chunk's vector (d,)."""
    for chunk_id in (like, *case.or_like):
        chunks = store.read(case.collection, [chunk_id])
        if len(chunks):
            expect = case.expect.model_copy(update={"id": chunk_id if case.expect.id == like else case.expect.id})
            return case.model_copy(update={"like": chunk_id, "expect": expect}), chunks.embeddings[0]
    pytest.fail(
        f"collection {case.collection} has no chunk {like}, and none of {len(case.or_like)} others", pytrace=False
    )


def _has(case: Case, ids: list[str], distances: list[float]) -> bool:
    """Whether the expected chunk is among the hits, or, if it is searched for by itself, duplicates of it take all places."""
    duplicates = case.like is not None and case.like == case.expect.id and max(distances) - min(distances) <= 1e-5
    return case.expect.id in ids or (duplicates and len(ids) == case.k)


# -- the plugin --------------------------------------------------------------------------------------------------------

RUN, OUTCOMES = "RUNBOOK_TESTED_RUN", "RUNBOOK_TEST_OUTCOMES"
_LONGEST = 400


def pytest_configure(config: pytest.Config) -> None:
    """End the tests with the step that runs them; let them import what lies beside them, behind all modules of ours."""
    kernel.end_with_runner()
    sys.path += {str(path if path.is_dir() else path.parent): None for path in map(Path, config.args)}


@pytest.fixture(scope="session")
def runbook_run() -> RunFolder:
    """The run whose target is tested."""
    return runs.find(os.environ[RUN])


@pytest.fixture(scope="session")
def target_store(runbook_run: RunState) -> Iterator[ClientStore]:
    """The target as the toolkit reads it, opened once for all tests."""
    place = runbook_run.parameters.target
    register_allowed(place.embedding_functions)
    with open_target(place) as store:
        yield store


@pytest.fixture(scope="session")
def target(target_store: ClientStore) -> Any:
    """Chroma's own client of the target; a test may do anything with it."""
    return target_store.client


@pytest.fixture(scope="session")
def target_collections(runbook_run: RunFolder) -> list[str]:
    """The target's collections that the run filled."""
    return sorted(Checkpoint.read(runbook_run.workspace / RunPath.CHECKPOINT).owned())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a line for the call of each test, and for a set-up or teardown that failed or was skipped."""
    if report.when == "call" or report.outcome != "passed":
        _write({"test": _name(report), "when": report.when, "outcome": report.outcome, "seconds": round(report.duration, 3),
                "why": _why(report)})  # fmt: skip


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write a failure for a file that cannot be read as tests."""
    if report.failed:
        _write({"test": report.nodeid or "collection", "when": "collect", "outcome": "failed", "seconds": 0.0,
                "why": _last(str(report.longrepr))})  # fmt: skip


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _write({"finished": int(exitstatus)})


def _name(report: pytest.TestReport) -> str:
    """`file.py::test`; pytest's own id has no file if that lies outside of its root."""
    file, _, test = report.location
    return f"{Path(file).name}::{test}"


def _why(report: pytest.TestReport) -> str:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return masked(str(report.longrepr[2]).removeprefix("Skipped: "), _LONGEST)
    crash = getattr(report.longrepr, "reprcrash", None)
    return masked(str(crash.message), _LONGEST) if crash is not None else _last(report.longreprtext)


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return masked(lines[-1].strip(), _LONGEST) if lines else ""


def _write(line: dict[str, Any]) -> None:
    with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
