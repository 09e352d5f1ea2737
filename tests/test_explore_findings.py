"""The desk on the sample, whose defects are known: each finding by name, the chunks behind it, what leaves the house."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import audit
from helpers.chunks import ChunkBatch
from helpers.errors import UsageError
from helpers.formatting import Digested, harmless, packed_rows
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.profiling.search import file_stem
from helpers.rehearsal import expected_findings, write_sample
from helpers.results import writing
from helpers.run import folders as runs
from helpers.run import kernel
from helpers.run.record import RunRecord
from helpers.steps.explore_source import ExploreSourceStep
from helpers.stores import CollectionInfo, open_target

CHUNKS, DIMENSION = 400, 32


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder by the digest of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExploreSourceStep]:
    folder = tmp_path_factory.mktemp("desk")
    source = write_sample(folder / "source", CHUNKS, DIMENSION)
    given: dict[str, Any] = {
        "source": {"path": str(source)},
        "target": {"path": str(folder / "target")},
        "name": "look",
    }
    given |= {"schema": "if_ttt", "migration": {"id_policy": "prefix"}}
    before = digests(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(folder / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(folder / "workspace"))
        parameters = parameters_from(given)
        run = RunRecord(runs.create(parameters, "look-11"), "11", parameters)
    found = ExploreSourceStep(run)
    yield found
    assert digests(source) == before, "the source was written to"
    run.leaving.close()
    assert not list(run.workspace.glob("source-copy-*")), "the copy stays behind"


def found(desk: ExploreSourceStep) -> pd.Series:
    return desk.found().set_index("finding")["chunks"]


@pytest.mark.more
def test_every_finding_of_the_profile_has_its_name_in_the_list(desk: ExploreSourceStep) -> None:
    expected = expected_findings(CHUNKS)
    left_out = ("chunks", "uris", "colliding_ids")  # no defects of a chunk; ids count every place but the first
    names = [name for name in expected if name not in left_out and not name.startswith("target_")]
    listed = found(desk)
    assert {name: listed.get(name, 0) for name in names} == {name: expected[name] for name in names}
    assert listed["respaced_documents"] == expected["duplicate_vectors"] - expected["duplicate_documents"]
    assert (desk.found()["means"] != desk.found()["finding"]).all()


@pytest.mark.more
@pytest.mark.parametrize("finding", ["zero_vectors", "none_documents", "empty_documents", "none_metadata"])
def test_the_chunks_behind_a_finding_have_it(desk: ExploreSourceStep, finding: str) -> None:
    behind = desk.behind(finding)
    assert len(behind) == expected_findings(CHUNKS)[finding]
    for row in behind.to_dict("records"):
        batch = desk.lookup.read(row["collection"], [row["id"]], embeddings=True)
        has = {
            "zero_vectors": not batch.embeddings[0].any(),
            "none_documents": batch.documents[0] is None,
            "empty_documents": batch.documents[0] == "",
            "none_metadata": batch.metadatas[0] is None,
        }
        assert has[finding], row


def test_scores_out_of_range_stand_beside_their_chunks(desk: ExploreSourceStep) -> None:
    behind = desk.behind("out_of_range_authenticity_score")
    scores = behind["authenticity_score"]
    assert len(scores) == expected_findings(CHUNKS)["out_of_range_authenticity_score"]
    words = scores.map(lambda score: isinstance(score, str))
    assert words.any(), "a score that is no number is counted with those out of range"
    assert ((scores[~words] < 0) | (scores[~words] > 1)).all()
    assert behind["detail"][~words].astype(float).tolist() == scores[~words].astype(float).tolist()


def test_what_the_schema_would_do_is_behind_its_row_of_the_preview(desk: ExploreSourceStep) -> None:
    preview = desk.schema_preview()
    for row in preview[preview["what"] != "route"].to_dict("records"):
        name = " ".join(filter(None, [row["what"], row["field"], row["rule"]]))
        assert found(desk)[name] == row["chunks"]
        assert len(desk.behind(name, most=5)) == min(5, row["chunks"])


def test_near_twins_are_the_copied_and_the_respaced_ones_at_least(desk: ExploreSourceStep) -> None:
    twins = desk.near_duplicates()
    expected = expected_findings(CHUNKS)
    documents, vectors = twins[twins["what"] == "document"], twins[twins["what"] == "vector"]
    assert documents["identical"].sum() == expected["duplicate_documents"]
    assert (documents["similarity"] == 1).sum() == expected["duplicate_vectors"]
    assert vectors["identical"].sum() == expected["duplicate_vectors"]


def test_more_like_this_finds_the_twin_first(desk: ExploreSourceStep) -> None:
    twins = desk.near_duplicates()
    twin = twins[(twins["what"] == "vector") & twins["identical"]].iloc[0]
    hits = desk.like(twin["id"], twin["collection"], k=3)
    assert twin["collection"] == hits["collection"][0]
    everywhere = desk.like(twin["id"], k=3) if (desk.sample.frame["id"] == twin["id"]).sum() == 1 else None
    if everywhere is not None:
        assert everywhere["id"][0] == twin["like_id"]
        assert everywhere["distance"][0] == pytest.approx(0, abs=1e-5)


def test_a_text_finds_the_chunk_that_says_it(desk: ExploreSourceStep) -> None:
    frame = desk.sample.frame.dropna(subset="document")
    some = frame[frame["document"].str.len().between(100, 1_000)].to_dict("records")[7]
    hits = desk.search(some["document"], some["collection"])
    assert (hits["collection"] == some["collection"]).all()
    assert some["id"] in hits["id"][:2].tolist()
    assert (hits["remark"] == "").all()


def test_what_is_not_there_is_one_line_with_a_proposal(desk: ExploreSourceStep) -> None:
    calls: list[Callable[[], pd.DataFrame]] = [
        lambda: desk.behind("zero_vector"),
        lambda: desk.map("langage"),
        lambda: desk.search("x", "openwebui_cores"),
        lambda: desk.like("no such id", "openwebui_core"),
    ]
    for call in calls:
        with pytest.raises(UsageError) as error:
            call()
        assert error.value.next_step
    assert desk.behind("nonfinite_vectors").empty, "a finding that there is, and nothing has it"


def test_tables_are_the_reader_s_own(desk: ExploreSourceStep) -> None:
    for table in (desk.near_duplicates, desk.outliers, desk.nearest, desk.found):
        first = table()
        first.iloc[:, 0] = "changed"
        first["mine"] = 1
        assert "mine" not in table()
        assert (table().iloc[:, 0] != "changed").all()


def test_neighbours_are_those_of_brute_force(desk: ExploreSourceStep) -> None:
    [(_, rows, vectors)] = desk.sample.spaces()
    frame = desk.sample.frame.loc[rows].reset_index(drop=True)
    unit = vectors.astype(np.float64) / np.maximum(
        np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-30
    )
    table = desk.nearest()
    for row in table.sample(25, random_state=1).to_dict("records"):
        at = frame.index[(frame["collection"] == row["collection"]) & (frame["id"] == row["id"])][0]
        others = (frame["collection"] == row["neighbour_collection"]) & (frame.index != at) & unit.any(axis=1)
        assert row["distance"] == pytest.approx(float((1 - unit[others] @ unit[at]).min()), abs=1e-5)


def test_outliers_are_the_long_documents_by_their_rule(desk: ExploreSourceStep) -> None:
    far = desk.outliers()
    lengths = far[far["rule"] == "length"]
    assert set(desk.behind("long_documents")["id"]) <= set(lengths["id"])
    assert (far["times_limit"] > 1).all()


def test_an_exported_finding_is_whole_harmless_and_in_the_audit_log(desk: ExploreSourceStep) -> None:
    [row] = desk.export("none_documents").to_dict("records")
    with Path(row["file"]).open(encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == row["rows"] == row["chunks"] == expected_findings(CHUNKS)["none_documents"]
    assert Path(row["file"]).is_relative_to(desk.run.workspace)
    assert row["sha256"] == hashlib.sha256(Path(row["file"]).read_bytes()).hexdigest()
    entry = audit.entries(desk.run.folder / audit.NAME)[-1]
    assert (entry["action"], entry["facts"]["finding"]) == ("finding exported", "none_documents")
    assert entry["facts"]["sha256"] == row["sha256"]
    [nothing] = desk.export("nonfinite_vectors").to_dict("records")
    assert (nothing["rows"], nothing["file"]) == (0, "")


@pytest.mark.more
def test_a_table_that_is_cut_says_so_and_an_export_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,600 chunks without a document: 200 of them in the table, which says how many there are; every one in the export."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    number = 5_600
    with open_target(Endpoint(path=str(tmp_path / "source"))) as store:
        store.create(CollectionInfo("bare", 0, None, "l2", "l2"))
        ids, vectors = [f"c{i:05}" for i in range(number)], np.eye(number, 8, dtype=np.float32) + 1
        store.add("bare", ChunkBatch(ids, [None] * number, vectors, [{"n": i} for i in range(number)]))
    given = {"source": {"path": str(tmp_path / "source")}, "target": {"path": str(tmp_path / "target")}, "name": "look"}
    parameters = parameters_from(given)
    run = RunRecord(runs.create(parameters, "look-11"), "11", parameters)
    desk = ExploreSourceStep(run)
    shown = desk.behind("none_documents")
    assert len(shown) == 200
    assert (shown.attrs["rows_held"], shown.attrs["rows_in_all"]) == (200, number)
    said = "Not all: the first 200 of 5,600 rows. All: step.export("
    assert said in kernel.as_html(shown)
    assert "Not all" not in kernel.as_html(desk.behind("none_documents", most=number))
    [row] = desk.export("none_documents").to_dict("records")
    with Path(row["file"]).open(encoding="utf-8-sig", newline="") as file:
        assert [line["id"] for line in csv.DictReader(file)] == ids
    assert row["rows"] == row["chunks"] == number
    repeated = desk.duplicates()  # 9 different vectors: one group of nearly all, which is shown whole
    assert "rows_in_all" not in repeated.attrs
    with gzip.open(run.folder / "11_findings.csv.gz", "rt", encoding="utf-8", newline="") as file:
        kept = [row for row in csv.DictReader(file) if row["finding"] == "repeated vector"]
    same = [group for group in ([row["id"] for row in kept if row["group"] == str(n)] for n in range(1, 10)) if group]
    assert sum(len(group) - 1 for group in same) == desk.findings()["duplicate_vectors"]
    assert same == [ids[8:]], "in the order of reading, the first one too"
    run.leaving.close()


@pytest.mark.parametrize("evil", ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "  =1", "＝1", "%0", "|x"])
def test_no_cell_of_an_export_is_a_formula(evil: str) -> None:
    assert harmless(evil) == f"'{evil}"
    assert harmless(f"'{evil}") == f"''{evil}", "what an apostrophe was put before can be told from what had one"
    assert (harmless("plain"), harmless("\r=1"), harmless(None)) == ("plain", r"\r=1", "")


def test_the_name_of_an_export_leads_nowhere_else() -> None:
    assert file_stem("missing_../../etc/passwd") == "missing_.._.._etc_passwd"
    assert file_stem("/..") == "unnamed"


def test_figures_say_what_was_looked_at(desk: ExploreSourceStep) -> None:
    desk.distribution("category")
    desk.distances()
    points = desk.map("language")
    assert {"collection", "id", "language", "x", "y"} <= set(points)
    assert len(points) == (desk.sample.frame["norm"] > 0).sum()
    titles = {figure["name"]: figure["alt"] for figure in desk.run.result.figures}
    assert {"values_category", "neighbours", "map_language"} <= set(titles)
    assert all(titles.values())


def test_languages_and_lengths_count_every_chunk(desk: ExploreSourceStep) -> None:
    assert desk.languages().to_numpy().sum() == CHUNKS
    expected = expected_findings(CHUNKS)
    assert desk.languages().loc["(missing)"].sum() == expected["missing_language"]
    assert desk.lengths()["none"].sum() == expected["none_documents"]


def test_the_same_rows_give_the_same_bytes_wherever_they_are_written(tmp_path: Path) -> None:
    """A list once held the name of the temporary file that it was written as."""
    found = []
    for name in ("one", "two"):
        with writing(tmp_path / name) as temporary, temporary.open("wb") as raw, packed_rows(Digested(raw)) as line:
            line(["id", "=1"])
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    assert gzip.decompress(found[0]) == b"id,=1\n"
