"""Damage done to a target after the migration is found by name of id; undone, the verdict is GO again.

One migration as it stands (identity) and one rehearsal, each taken once. Then their targets are damaged: two vectors
swapped, a float moved by 1e-3, a chunk dropped, a value changed, a field left out, a document changed, a chunk of
somebody else's, another distance space. Each falls on ids of its own, so one validation tells them all apart.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup

from helpers.rehearsal import expected_findings
from tests.browser import A4_PORTRAIT, BEYOND, END_OF_SIGNOFFS, PAGE_HEIGHT, Browser, find
from tests.commands import Runbook, only_line, tree
from tests.conftest import absent
from tests.plain_client import assert_same, held, opened

SOURCE = "open-webui-cosine-0.5"
CHUNKS = 300


@dataclass
class Night:
    """A run that ended with GO, and the damage done to its target: (difference, collection, id)."""

    runbook: Runbook
    target: Path
    damage: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def reports(self) -> Path:
        return self.runbook.reports / "one"

    def result(self, step: str) -> Any:
        return json.loads((self.reports / "results" / f"{step}.json").read_text(encoding="utf-8"))

    def check(self, step: str, name: str) -> Any:
        return next(c for c in self.result(step)["checks"] if c["name"] == name)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory, real_databases: Path) -> Night:
    home = tmp_path_factory.mktemp("identity")
    runbook = Runbook(home)
    shutil.copytree(real_databases / SOURCE, home / "source", copy_function=shutil.copyfile)
    before = tree(home / "source")
    file = runbook.write("night", "path: source", "path: target", "signoff: {required: []}\n")
    done = runbook("run", file, "--run-id", "one", "--until", "24")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert tree(home / "source") == before
    return Night(runbook, home / "target")


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Night:
    runbook = Runbook(tmp_path_factory.mktemp("rehearsal"))
    done = runbook("rehearse", "--chunks", str(CHUNKS), "--dimension", "48", "--run-id", "one", process=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Night(runbook, runbook.workspace / "one" / "target")


def put(collection: Any, rows: dict[str, Any]) -> None:
    """Delete the rows' ids and add the rows: an upsert would merge metadata."""
    collection.delete(ids=rows["ids"])
    collection.add(**{key: rows[key] for key in ("ids", "embeddings", "documents", "metadatas")})


def one(collection: Any, chunk: str) -> dict[str, Any]:
    return dict(collection.get(ids=[chunk], include=["embeddings", "documents", "metadatas"]))


def damage(night: Night, name: str, other: str) -> None:
    """Eight kinds of damage: seven to chunks of the collection `name`, and another space to the collection `other`."""
    with opened(night.target) as client:
        collection = client.get_collection(name, embedding_function=None)
        ids = sorted(i for i in collection.get(include=[])["ids"] if i.isascii() and escape(i) == i and len(i) < 60)
        first, second, moved, dropped, changed, bare, rewritten, *_ = ids
        night.damage += [("vector_differs", name, first), ("vector_differs", name, second)]
        a, b = one(collection, first), one(collection, second)
        assert not np.array_equal(a["embeddings"], b["embeddings"]), "the swap must change something"
        a["embeddings"], b["embeddings"] = b["embeddings"], a["embeddings"]
        put(collection, a)
        put(collection, b)

        row = one(collection, moved)
        row["embeddings"][0][0] += 1e-3
        put(collection, row)
        night.damage.append(("vector_differs", name, moved))

        collection.delete(ids=[dropped])
        night.damage.append(("chunk_missing", name, dropped))

        row = one(collection, changed)
        key = next(k for k, v in sorted(row["metadatas"][0].items()) if isinstance(v, str) and k != "source_collection")
        row["metadatas"][0][key] += "!"
        put(collection, row)
        night.damage.append(("metadata_differs", name, changed))

        row = one(collection, bare)
        del row["metadatas"][0][key]
        put(collection, row)
        night.damage.append(("field_missing", name, bare))

        row = one(collection, rewritten)
        row["documents"][0] += " "
        put(collection, row)
        night.damage.append(("document_differs", name, rewritten))

        row = one(collection, rewritten)
        row["ids"] = ["not-ours"]
        collection.add(**{key: row[key] for key in ("ids", "embeddings", "documents", "metadatas")})
        night.damage.append(("chunk_extra", name, "not-ours"))

        kept = client.get_collection(other, embedding_function=None)
        rows = kept.get(include=["embeddings", "documents", "metadatas"])
        client.delete_collection(other)
        straight = client.create_collection(other, configuration={"hnsw": {"space": "l2"}}, embedding_function=None)
        straight.add(**{key: rows[key] for key in ("ids", "embeddings", "documents", "metadatas")})
        night.damage.append(("space_differs", other, ""))


def validate(night: Night) -> Any:
    return night.runbook("run", "--run-id", "one", "--from", "23", "--until", "24")


def found_by_name(night: Night) -> None:
    """Validate the damaged target: NO-GO, and every damaged id named where people and programs look."""
    done = validate(night)
    assert "NO-GO" in only_line(done, 3)
    assert "Verdict: NO-GO" in done.stdout
    named = {
        (row["difference"], row["collection"], row["id"])
        for check in night.result("23")["checks"]
        for row in check["ids"]
        if "difference" in row
    }
    respaced = {collection for difference, collection, _ in night.damage if difference == "space_differs"}
    # Vectors read from cosine and written to l2 come back rounded once more, and may be named too.
    named = {row for row in named if row[0] != "vector_differs" or row[1] not in respaced}
    assert named == set(night.damage), "each damage by its id and kind, and nothing else"
    notebook = (night.reports / "23_validate.ipynb").read_text(encoding="utf-8")
    page = (night.reports / "index.html").read_text(encoding="utf-8")
    for difference, collection, chunk in night.damage:
        assert chunk in notebook
        assert collection in page
        assert chunk in page, f"{difference} of {chunk} is not on the page"
    for kind in ("embeddings", "counts", "metadata"):
        assert night.check("23", kind)["verdict"] == "fail"


def found_and_undone(night: Night, name: str, other: str) -> None:
    aside = night.target.with_name("undamaged")
    shutil.copytree(night.target, aside)
    damage(night, name, other)
    found_by_name(night)
    shutil.rmtree(night.target)
    aside.rename(night.target)
    done = validate(night)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "Verdict: GO\n" in done.stdout
    assert not any(check["ids"] for check in night.result("23")["checks"])


@pytest.mark.slow  # its fixture is a whole migration; one between servers is quick enough: test_end_to_end_servers
def test_a_copy_is_whole_and_its_cosine_collections_stay_cosine(identity: Night) -> None:
    shutil.copytree(identity.runbook.home / "source", identity.runbook.home / "read")  # opening it rewrites it
    with opened(identity.runbook.home / "read") as was, opened(identity.target) as now:
        expected = held(was)
        assert_same(expected, held(now))
    assert len(expected) == 8
    assert {c.space for c in expected.values()} == {"cosine"}, "their configuration says l2, their queries cosine"


@pytest.mark.slow  # the same tamperings as on the rehearsal below, under identity
def test_a_damaged_copy_is_found_by_id_and_go_again_when_undone(identity: Night) -> None:
    with opened(identity.target) as client:
        sizes = sorted((c.count(), c.name) for c in client.list_collections())
    found_and_undone(identity, name=sizes[-1][1], other=sizes[0][1])


def test_a_rehearsal_reports_exactly_what_its_source_was_made_with(rehearsal: Night) -> None:
    expected = expected_findings(CHUNKS)
    assert rehearsal.result("11")["facts"]["findings"] == expected
    for step in ("13", "22"):
        assert sum(rehearsal.result(step)["facts"]["quarantine"].values()) == expected["quarantined"]
    with opened(rehearsal.target) as client:
        counts = {f"target_{c.name}": c.count() for c in client.list_collections()}
    assert counts == {key: n for key, n in expected.items() if key.startswith("target_")}


def test_a_rehearsal_asks_the_named_queries_and_draws_its_figures(rehearsal: Night) -> None:
    queries = rehearsal.result("23")["facts"]["queries"]
    assert [q["ok"] for q in queries] == [True] * 5
    drawn = {step: {f["name"] for f in rehearsal.result(step)["figures"]} for step in ("13", "22", "23")}
    assert drawn["13"] == {"repairs", "routing"}
    assert drawn["22"] == {"timeline", "throughput", "written"}  # the others are as in 13, and drawn once
    assert drawn["23"] == {
        "completeness", "counts", "differences", "distances_cosine", "norms", "overlap", "plane", "recall"
    }  # fmt: skip
    page = (rehearsal.reports / "index.html").read_text(encoding="utf-8")
    for figure in rehearsal.result("23")["figures"]:
        assert (rehearsal.reports / "figures" / figure["file"]).is_file()
        assert len(figure["alt"]) > len(figure["caption"]), "the title says what was found"
        assert escape(figure["alt"], quote=False)[:40] in page
    search = rehearsal.result("23")["facts"]["search"]
    assert all(f"overlap_{kind}@{k}" in row for row in search for kind in ("exact", "plain") for k in (1, 3, 5, 10))


def test_a_finished_rehearsal_is_signed_on_its_first_sheet_of_paper(rehearsal: Night, tmp_path: Path) -> None:
    """Its page as it is left, with all that a rehearsal tells: the warnings, the drills, the waits."""
    program = find() or absent("chromium", "it prints the page of a finished rehearsal")
    page = Path(shutil.copy(rehearsal.reports / "index.html", tmp_path))
    with Browser(program) as chromium:
        assert "REHEARSED" in chromium.visit(page, width=A4_PORTRAIT, unfold=False).seen["text"]
        assert chromium.on_paper(A4_PORTRAIT, END_OF_SIGNOFFS) < PAGE_HEIGHT
        assert chromium.on_paper(A4_PORTRAIT, BEYOND) == 0
        chromium.pdf(tmp_path / "page.pdf")
    assert 4 <= len(re.findall(rb"/Type\s*/Page[^s]", (tmp_path / "page.pdf").read_bytes())) <= 12


def test_the_first_screen_names_its_evidence_who_acts_and_what_was_not_judged(rehearsal: Night) -> None:
    page = BeautifulSoup((rehearsal.reports / "index.html").read_text(encoding="utf-8"), "html.parser")
    seals = sorted((rehearsal.reports / "seals").glob("*.json"))
    evidence = page.select_one("dl.ends dt:-soup-contains('Evidence') + dd")
    assert evidence is not None
    assert evidence.text.startswith(f"{len(seals)} seals, the last with SHA-256")
    assert hashlib.sha256(seals[-1].read_bytes()).hexdigest() in evidence.text
    assert "verify" in evidence.text
    remedies = {row.th.text: row.find_all("td")[-1].text for row in page.select("table.notes tbody tr") if row.th}
    (unnamed,) = (told for name, told in remedies.items() if "contacts without a name" in name)
    assert "Operations lead, was due before the cutover, else now: Tell people yourself whom to call" in unnamed
    tiles = {tile.div.text: tile for tile in page.select(".tile") if tile.div}
    judged = rehearsal.result("23")["facts"]["recall"]["pooled"]["restricted"]
    assert judged["judged"] < judged["neighbours"], "else this test shows nothing"
    assert "open" in tiles["Recall@10, each collection"]["class"], "a share of some is no pass for all"
    assert "of it in attempts that the drill killed" in tiles["Write downtime"].text, "the drill killed one"
    for signed in rehearsal.reports.glob("signoffs/*.json"):
        over = json.loads(signed.read_bytes())["seal"]
        digest = hashlib.sha256((rehearsal.reports / over["name"]).read_bytes()).hexdigest()
        assert f"over seal {Path(over['name']).name[:4]}, SHA-256 {digest[:16]}" in page.text
    announced = (rehearsal.reports / "announcement.txt").read_text(encoding="utf-8")
    assert "Impact:   Writes to the database are refused meanwhile." in announced
    assert announced.count("Writes to the database are refused") == 1
    routes = rehearsal.result("13")["facts"]["routing"]
    lines = [line for line in announced.splitlines() if line.startswith("- Instead of ")]
    for old in {row["collection"] for row in routes}:
        new = ", ".join(sorted({row["target"] for row in routes if row["collection"] == old and row["target"]}))
        assert any(old in line and line.endswith(f": {new}.") for line in lines)


@pytest.mark.more
def test_a_damaged_rehearsal_is_found_by_id_and_go_again_when_undone(rehearsal: Night) -> None:
    found_and_undone(rehearsal, name="sergio_corpus", other="sergio_rhetorical")
