"""Steps 10 and 11 on real sources: what is known about the sample is found, exactly; nothing is missed on real ones."""

from __future__ import annotations

import datetime
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import RunbookError
from helpers.parameters import Parameters, parameters_from
from helpers.profiling.profile import Repeats
from helpers.rehearsal import collection_counts, expected_findings, write_sample
from helpers.results import Check, Verdict
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.explore_source import ExploreSourceStep
from helpers.steps.source_health import SourceHealthStep

CHUNKS, DIMENSION = 400, 32
TABLES = ("overview", "completeness", "values", "vectors", "duplicates", "collisions", "schema_preview")
Begin = Callable[..., RunRecord]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "source", CHUNKS, DIMENSION)


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """`begin(step, source, **sections)`: a step of a new run, its folders under the test's own."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))

    def start(step: str, source: Path, **sections: Any) -> RunRecord:
        given = {"name": "look", "source": {"path": str(source)}, "target": {"path": str(tmp_path / "target")}}
        parameters: Parameters = parameters_from({**given, **sections})
        return RunRecord(runs.create(parameters, f"look-{step}"), step, parameters)

    return start


def _expected(**changes: Any) -> dict[str, Any]:
    counts = collection_counts(CHUNKS)
    return {"collections": counts, "total": CHUNKS, "dimensions": [DIMENSION], **changes}


def _check(run: RunRecord, name: str) -> Check:
    return next(check for check in run.result.checks if check.name == name)


def _health(run: RunRecord) -> SourceHealthStep:
    health = SourceHealthStep(run)
    health.reach()
    health.counts()
    health.shapes()
    return health


def test_a_healthy_source_passes(begin: Begin, sample: Path) -> None:
    run = begin("10", sample, expected=_expected())
    _health(run)
    assert {check.verdict for check in run.result.checks} == {Verdict.PASS}
    assert run.result.facts["counts"] == collection_counts(CHUNKS)
    assert run.result.facts["total"] == CHUNKS


def test_a_missing_collection_and_a_wrong_total_fail(begin: Begin, sample: Path) -> None:
    counts = collection_counts(CHUNKS) | {"openwebui_lost": 7}
    run = begin("10", sample, expected=_expected(collections=counts, total=CHUNKS + 7))
    _health(run)
    missing, total = _check(run, "listed collections"), _check(run, "chunks in all")
    assert (missing.verdict, missing.reason, missing.ids) == (
        Verdict.FAIL,
        "count_mismatch",
        [{"collection": "openwebui_lost"}],
    )
    assert (total.verdict, total.reason, total.measured) == (Verdict.FAIL, "count_mismatch", 7)


def test_a_total_within_the_tolerance_passes(begin: Begin, sample: Path) -> None:
    counts = collection_counts(CHUNKS)
    counts["openwebui_core"] += 5
    run = begin("10", sample, expected=_expected(collections=counts, total=CHUNKS + 5, tolerance=5))
    _health(run)
    assert _check(run, "chunks in all").verdict is Verdict.PASS


def test_collections_outside_the_list_are_named(begin: Begin, sample: Path) -> None:
    counts = collection_counts(CHUNKS)
    outside = counts.pop("sergio_personality_notes")
    run = begin("10", sample, expected=_expected(collections=counts, unlisted=outside))
    table = SourceHealthStep(run).counts()
    check = _check(run, "chunks outside the list")
    assert (check.verdict, check.measured) == (Verdict.WARNING, 1)
    assert "sergio_personality_notes" in check.detail
    assert table.set_index("collection").loc["sergio_personality_notes", "state"] == "not listed"


def test_collections_left_out_by_the_filter_are_shown_and_not_counted(begin: Begin, sample: Path) -> None:
    run = begin("10", sample, collections={"exclude": ["sergio_*"]})
    table = SourceHealthStep(run).counts().set_index("collection")
    assert table.loc["sergio_personality_notes", "state"] == "left out by the filter"
    assert table.loc["total", "found"] == CHUNKS - collection_counts(CHUNKS)["sergio_personality_notes"]


def test_a_dimension_that_nobody_expects_fails(begin: Begin, sample: Path) -> None:
    run = begin("10", sample, expected=_expected(dimensions=[768, 1536]))
    _health(run)
    check = _check(run, "collections of an unexpected dimension")
    assert (check.verdict, check.reason, check.offenders) == (Verdict.FAIL, "wrong_dimension", 7)


def test_a_source_that_is_not_there_is_one_line(begin: Begin, tmp_path: Path) -> None:
    run = begin("10", tmp_path / "nowhere")
    with pytest.raises(RunbookError) as error:
        SourceHealthStep(run).reach()
    assert "\n" not in error.value.line()


def test_the_cosine_trap_of_a_real_database_is_named(begin: Begin, real_databases: Path, tmp_path: Path) -> None:
    copy = tmp_path / "open-webui"
    shutil.copytree(real_databases / "open-webui-cosine-0.5", copy)
    run = begin("10", copy)
    table = SourceHealthStep(run).shapes()
    assert set(table["space"]) == {"cosine"}
    check = _check(run, "collections in another space than declared")
    assert (check.verdict, check.reason, check.offenders) == (Verdict.WARNING, "distance_space", len(table))


def test_the_profile_finds_exactly_what_was_put_in(begin: Begin, sample: Path) -> None:
    run = begin("11", sample, schema="if_ttt", migration={"id_policy": "prefix"})
    profile = ExploreSourceStep(run)
    for table in TABLES:
        assert len(getattr(profile, table)())
    assert Counter(profile.findings()) == Counter(expected_findings(CHUNKS))
    assert run.result.facts["findings"] == profile.findings()
    assert Verdict.FAIL not in {check.verdict for check in run.result.checks}
    assert [figure["name"] for figure in run.result.figures] == ["completeness", "norms"]
    assert all(check.reason for check in run.result.checks if check.verdict is Verdict.WARNING)
    run.result.write(run.folder / "results" / "11.json")


def test_ids_that_meet_are_a_warning_unless_a_prefix_keeps_them_apart(begin: Begin, sample: Path) -> None:
    run = begin("11", sample, schema="if_ttt")
    table = ExploreSourceStep(run).collisions()
    check = _check(run, "ids in common")
    assert (check.verdict, check.reason, check.measured) == (Verdict.FAIL, "id_collision", int(table["meet"].sum()))
    assert "migration.id_policy: prefix" in check.detail
    assert len(table) == expected_findings(CHUNKS)["colliding_ids"]


@pytest.mark.parametrize(("minimum", "side"), [(0.5, "at least"), (1.0, "below")])
@pytest.mark.more
def test_the_sentence_on_valid_chunks_follows_from_what_was_measured(
    begin: Begin, sample: Path, minimum: float, side: str
) -> None:
    run = begin("11", sample, schema="if_ttt", migration={"minimum_valid": minimum, "id_policy": "prefix"})
    ExploreSourceStep(run).schema_preview()
    check = _check(run, "chunks that would pass validation")
    assert 0.5 < check.measured < 1.0
    total = check.offenders / (1 - check.measured)
    said = f"{total - check.offenders:.0f} of {total:.0f} chunks is {side} the {minimum:g} (migration.minimum_valid) of steps 13"
    assert said in check.detail


OTHER = "other values of a wrong type or not allowed"


@pytest.mark.more
def test_sums_over_fields_count_values_and_contradicting_chunks_are_named(begin: Begin, sample: Path) -> None:
    run = begin("11", sample, schema="if_ttt")
    step = ExploreSourceStep(run)
    for table in ("completeness", "values", "contradictions"):
        getattr(step, table)()
    for name in (
        "missing fields of the schema",
        "values out of range or no number",
        "fields that contradict their document",
    ):
        assert _check(run, name).unit == "values"
    missing, repairs = _check(run, "missing fields of the schema"), step.scan.repairs
    core = [rule.name for rule in step.schema.fields if rule.fixed is None]
    assert f"Counted: the {len(core)} core fields that the schema does not set itself" in missing.detail
    figure = next(path for path in (run.folder / "figures").glob("11_completeness*"))
    assert f"of {len(core)} core fields incomplete" in " ".join(figure.read_text(encoding="utf-8").split())
    overwritten = sum(n for (_, rule), n in repairs.items() if rule == "default")
    said = [_check(run, f"{which}").detail for which in ("values out of range or no number", OTHER)]
    assert sum(int(n) for told in said for n in re.findall(r"(\d+) overwritten by a default", told)) == overwritten > 0
    check = _check(run, "fields that contradict their document")
    assert 1 <= check.measured == len(check.ids) <= 20
    assert all(set(row) == {"collection", "id", "field", "detail"} for row in check.ids)


def test_under_identity_collections_stay_apart_and_no_field_is_missed(begin: Begin, sample: Path) -> None:
    run = begin("11", sample)
    profile = ExploreSourceStep(run)
    for table in TABLES:
        getattr(profile, table)()
    assert not profile.collisions()["meet"].any()
    assert _check(run, "missing fields of the schema").verdict is Verdict.NOT_APPLICABLE
    assert _check(run, "chunks without a document").verdict is Verdict.NOT_APPLICABLE
    assert profile.findings()["quarantined"] == 0


@pytest.mark.more
@pytest.mark.parametrize(
    ("folder", "finding", "number", "first"),
    [
        ("chinese-zero-vector-1.5", "zero_vectors", 1, ("arona_memory", "fd43a1acce6b8394")),
        ("no-documents-128-1.x", "none_documents", 1000, ("items_128d", "items_128d_0")),
        ("turkish-768-0.5", "duplicate_documents", 0, None),
        ("open-webui-cosine-0.5", "duplicate_documents", 37, None),
        ("open-webui-cosine-0.5", "cosine_trap", 74, ("20cbacd1-4574-41e3-a4f8-9d9009ff02ff", "")),
    ],
)
def test_real_databases_show_their_traps_by_name(
    begin: Begin,
    real_databases: Path,
    tmp_path: Path,
    folder: str,
    finding: str,
    number: int,
    first: tuple[str, str] | None,
) -> None:
    copy = tmp_path / folder
    shutil.copytree(real_databases / folder, copy)
    desk = ExploreSourceStep(begin("11", copy))
    for table in TABLES:
        getattr(desk, table)()
    found = desk.found().set_index("finding")["chunks"]
    assert found.get(finding, 0) == number
    behind = desk.behind(finding, most=2_000)
    if first is not None:
        assert (behind["collection"][0], behind["id"][0]) == first
    assert len(behind) == {"cosine_trap": 8, "duplicate_documents": 2 * number}.get(finding, number)
    desk.lookup.close()


def test_twins_above_the_limit_are_sought_among_a_fixed_part() -> None:
    contents = [bytes([n % 100]) for n in range(200)]
    some, again, every = Repeats(4), Repeats(4), Repeats()
    for n, content in enumerate(contents):
        for twins in (some, again, every):
            twins.add(content, ("c", str(n)))
    assert every.surplus == 100
    assert 0 < some.surplus < 60
    assert some.groups == again.groups


def test_norms_are_those_of_the_vectors(begin: Begin, sample: Path) -> None:
    run = begin("11", sample)
    table = ExploreSourceStep(run).vectors()
    assert run.date <= datetime.datetime.now(datetime.UTC).date()
    assert (table["norms_kept"] == table["vectors"]).all()
    assert np.isfinite(table[["norm_minimum", "norm_median", "norm_maximum"]].to_numpy(dtype=float)).all()


@pytest.mark.slow
def test_the_profile_of_the_full_sample_is_exact(begin: Begin, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "full")
    run = begin("11", source, schema="if_ttt", migration={"id_policy": "prefix"})
    assert ExploreSourceStep(run).findings() == expected_findings()
