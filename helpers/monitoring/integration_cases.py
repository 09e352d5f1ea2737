"""The queries of step 52 as data: the application's own from a file, and those that every migration must answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, ValidationError, model_validator

from helpers.errors import UsageError
from helpers.parameters import Parameters, resolve_path
from helpers.parameters.endpoint import Section
from helpers.parameters.model import PARAMETERS
from helpers.parameters.sections import Text
from helpers.parameters.yaml_errors import explain, read_yaml_mapping
from helpers.reason_codes import ReasonCode

LOOKUPS = PARAMETERS / "lookups.yaml"  # asked where the target has all of their collections
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
    """The queries of a YAML or JSON file. UsageError where it is none, or where one contradicts itself."""
    where = resolve_path(path)
    try:
        return Cases.model_validate(read_yaml_mapping(Path(where), what="file of queries")).queries
    except ValidationError as error:
        problem = explain(error, Cases)
    raise UsageError(ReasonCode.QUERIES_INVALID, problem, where=str(where),
                     next_step="parameters/queries.example.yaml shows each key.")  # fmt: skip


def generated(parameters: Parameters, collections: Sequence[str], stored: Mapping[str, str]) -> Iterator[Case]:
    """What every migration must answer: each collection finds a stored chunk (`stored`: an id by collection), the named
    queries are answered, and the lookups of parameters/lookups.yaml find something."""
    for name in collections:
        if name in stored:
            yield Case(name=f"{name} finds a stored chunk", collection=name, like=stored[name], k=3,
                       expect=Expect(id=stored[name]))  # fmt: skip
    for query in parameters.validation.queries:
        asked = [query.collection] if query.collection else collections
        for name in (n for n in asked if n in collections):  # without a collection the word need be in one of them only
            expect = Expect(word=query.expect) if query.collection else Expect()
            yield Case(name=f"named query: {query.text}", collection=name, text=query.text, k=parameters.validation.k,
                       expect=expect)  # fmt: skip
    lookups = read_cases(str(LOOKUPS))
    if {case.collection for case in lookups} <= set(stored):
        for case in lookups:
            yield case.model_copy(update={"like": stored[case.collection]}) if case.like == STORED else case
