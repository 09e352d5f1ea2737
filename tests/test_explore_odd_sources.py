"""Notebook 11 on sources with nothing in them, with one chunk, with names and values that attack: every cell gives a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from chromadb.api import ClientAPI

from helpers.parameters import parameters_from
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.explore_source import ExploreSourceStep
from tests.storage import embedded

CELLS = (
    "overview", "pick", "facts", "found", "completeness", "values", "distribution", "lengths", "languages", "vectors",
    "duplicates", "near_duplicates", "collisions", "distances", "outliers", "map", "schema_preview", "like",
)  # fmt: skip
SCRIPT = "<script>alert(1)</script>"


def nothing(client: ClientAPI) -> None:
    """No collection at all."""


def odd(client: ClientAPI) -> None:
    """An empty collection, one of a single chunk, one of equal chunks, one whose texts attack."""
    client.create_collection("empty", embedding_function=None)
    one = client.create_collection("one", embedding_function=None)
    one.add(ids=["a"], embeddings=[[1.0]], documents=["=1+1"])  # type: ignore[arg-type]
    evil = client.create_collection("evil", embedding_function=None, metadata={"owner": SCRIPT})
    metadatas: list[Any] = [
        {"id": "=1", f"<i>{SCRIPT}": 1, "collection": "x", "l": [1, 2]},
        {"document": True, "language": 5},
        {"n": 2**60, "x": 1e300},
    ]
    evil.add(
        ids=["=cmd", SCRIPT, "\u202eevil"],
        embeddings=[[1.0, 0.0], [0.0, 0.0], [1e-30, 0.0]],  # type: ignore[arg-type]
        documents=["=cmd|'/C calc'!A0", SCRIPT, "$$x$$"],
        metadatas=metadatas,
    )
    same = client.create_collection("same", embedding_function=None)
    same.add(ids=[str(i) for i in range(30)], embeddings=[[1.0, 1.0]] * 30, documents=["all the same"] * 30,  # type: ignore[arg-type]
             metadatas=[{"n": i, "even": i % 2 == 0} for i in range(30)])  # fmt: skip


@pytest.mark.usefixtures("own_folders")
@pytest.mark.slow
@pytest.mark.parametrize("write", [nothing, odd])
def test_every_cell_gives_a_table(tmp_path: Path, write: Callable[[ClientAPI], None]) -> None:
    with embedded(tmp_path / "source") as store:
        write(store.client)
    given = {"name": "odd", "source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}}
    parameters = parameters_from({**given, "schema": "if_ttt"})
    run = RunRecord(runs.create(parameters, "odd-11"), "11", parameters)
    desk = ExploreSourceStep(run)
    tables = {cell: getattr(desk, cell)() for cell in CELLS}
    assert all(isinstance(table, pd.DataFrame) for cell, table in tables.items() if cell != "pick")
    for finding in tables["found"]["finding"]:
        assert len(desk.behind(finding)), finding
    for finding in tables["found"]["finding"][:3]:
        assert desk.export(finding)["rows"][0], finding
    twins, points = tables["near_duplicates"], tables["map"]
    assert isinstance(twins[~twins["identical"]], pd.DataFrame)
    assert isinstance(points.groupby("collection")[["x", "y"]].median(), pd.DataFrame)
    assert isinstance(
        desk.sample.frame.groupby(["collection", "target"])[["characters", "norm"]].describe(), pd.DataFrame
    )
    for column in {f"<i>{SCRIPT}", "metadata.id", "even"} & set(desk.sample.frame):
        assert len(desk.distribution(column)), column
    for name in list(desk.scan.collections)[1:3]:
        facts, picture, table = desk._drawn(name)
        assert SCRIPT not in facts["data"]["text/html"]
        assert "image/png" in picture["data"]
        assert SCRIPT not in table["data"]["text/html"]
    desk.lookup.close()
