"""`migration.reembed` embeds what is written: never a text that the schema redacts, and nobody is told that vectors are old."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.migration.importing import judge_documents
from helpers.migration.reembedding import as_written, make, reembed
from helpers.migration.staging import Quarantine, stage
from helpers.parameters import Parameters, parameters_from
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.schema import load_schema
from helpers.snapshots.snapshot import Snapshot, write_snapshot
from helpers.stores.creation import RehearsalEmbedding
from helpers.validation.fidelity import Expectation
from tests.storage import chunks, embedded, fill
from tests.test_reembedding import DATE, FUNCTION

pytestmark = pytest.mark.usefixtures("own_folders")
REDACTS = """\
name: redacts
redact:
  - {name: e-mail addresses, pattern: '[a-z]+@[a-z.]+', with: "[e-mail]", document: true}
"""


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    (tmp_path / "redacts.yaml").write_text(REDACTS, encoding="utf-8")
    batch = chunks(6, 4)
    batch.documents = [f"Write to ada{'b' * n}@example.org" for n in range(6)]
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", batch)
        fill(store, "plain", chunks(3, 4))
        return write_snapshot(store, tmp_path / "snapshots", "s", ["notes", "plain"], retention_days=7)


def ordered(folder: Path, schema: str = "redacts.yaml") -> Parameters:
    anew = {"function": FUNCTION, "collections": ["notes"], "config": {"dimension": 8}, "cache": str(folder / "cache")}
    places = {"source": {"path": "source"}, "target": {"path": "target"}}
    return parameters_from({**places, "schema": schema, "migration": {"reembed": anew}})


def test_new_vectors_are_of_the_redacted_text(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = RehearsalEmbedding.vectors

    def listening(self: RehearsalEmbedding, texts: list[str]) -> Any:
        asked.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(RehearsalEmbedding, "vectors", listening)
    run = RunRecord(runs.create(ordered(tmp_path), "night"), "13")
    make(run, snapshot, tmp_path / "made")
    assert asked
    assert not [text for text in asked if "@" in text]
    written = as_written(snapshot, tmp_path / "made")
    [new] = list(written.batches("notes"))
    wanted = real(RehearsalEmbedding(8), ["Write to [e-mail]"])
    assert np.array_equal(new.embeddings, np.repeat(wanted, 6, axis=0))


def test_other_rules_for_documents_make_other_vectors(tmp_path: Path, snapshot: Snapshot) -> None:
    reembed(snapshot, ordered(tmp_path, "identity"), tmp_path / "made")
    [before] = list(as_written(snapshot, tmp_path / "made").batches("notes"))
    reembed(snapshot, ordered(tmp_path), tmp_path / "made")
    [after] = list(as_written(snapshot, tmp_path / "made").batches("notes"))
    assert not np.array_equal(before.embeddings, after.embeddings)


@pytest.mark.parametrize("anew", [True, False])
def test_only_vectors_that_stay_are_called_old(tmp_path: Path, snapshot: Snapshot, anew: bool) -> None:
    parameters = ordered(tmp_path)
    if not anew:
        parameters = parameters.model_copy(
            update={"migration": parameters.migration.model_copy(update={"reembed": None})}
        )
    schema = load_schema("redacts.yaml")
    context = Expectation(snapshot, schema, parameters, DATE, {}).context()
    staged = stage(snapshot, schema, context, tmp_path / "staged", Quarantine(tmp_path / "aside"))
    run = RunRecord(runs.create(parameters, "night"), "13")
    judge_documents(run, staged)
    assert [c.measured for c in run.result.checks] == ([] if anew else [6])
