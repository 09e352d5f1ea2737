"""`make bench`: its arithmetic, its turns, its files and their comparison, and that it sees what a migration lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import client, peers
from benchmarks.__main__ import Bench, main, size_of
from benchmarks.child import _cells
from benchmarks.comparing import differences
from benchmarks.ground import fill
from benchmarks.memory import Watch
from benchmarks.plot import picture
from benchmarks.results import Findings, Row, compared, ratios, tables
from benchmarks.ways import Failed, Taken, _agree
from helpers.plots.style import drawn
from tests.servers import ChromaServer, client_of
from tests.storage import chunks

Server = Callable[..., ChromaServer]


def findings(*rows: Row, **more: Any) -> Findings:
    machine = {"cpus": 2, "python": "3.11", "chromadb": "1.5.9", "load": [0.5, 2.0]}
    return Findings("2026-11-29T10:00:00+00:00", "abc", {"turns": 3}, machine, list(rows), **more)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_a_ratio_is_of_two_measurements_of_one_turn_and_the_median_is_of_ratios() -> None:
    row = Row("M1", "9832x1536", ratios([20.0, 60.0, 30.0], [10.0, 20.0, 20.0]))
    assert row.values == [2.0, 3.0, 1.5]
    assert row.median == 2.0  # 30 / 20, the ratio of the medians, would mix turns
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("measure", "size", "value", "met"),
    [
        ("M1", "9832x1536", 1.2, True),
        ("M1", "9832x1536", 1.21, False),
        ("M1", "500x64", 0.5, None),  # no goal is stated for such a size
        ("M9", "", 0.79, True),
        ("M3 start", "9832x1536", 5.0, None),
        ("M4 failed", "9832x1536", 1.0, False),
    ],
)
def test_a_goal_is_met_or_not_only_at_the_sizes_it_is_stated_for(
    measure: str, size: str, value: float, met: bool | None
) -> None:
    assert Row(measure, size, [value]).met is met


def test_sizes_are_given_as_chunks_and_dimension() -> None:
    assert size_of("40000x1536") == (40_000, 1536)
    for wrong in ("40000", "x", "100x8", "400x0", "ax8"):
        with pytest.raises(Exception, match="CHUNKSxDIMENSION"):
            size_of(wrong)


# -- turns -------------------------------------------------------------------------------------------------------------


def test_each_turn_begins_with_another_and_one_that_fails_is_not_exercised(tmp_path: Path) -> None:
    order: list[str] = []

    def way(name: str) -> Callable[[], Taken]:
        def once() -> Taken:
            order.append(name)
            if name == "c":
                raise Failed("it ended with 1")
            return Taken(float(len(order)))

        return once

    found = findings()
    taken = Bench(found, tmp_path, 3, ()).in_turn("500x64", {name: way(name) for name in "abc"})
    assert order == ["a", "b", "c", "b", "a", "a", "b"]
    assert {name: len(turns) for name, turns in taken.items()} == {"a": 3, "b": 3, "c": 0}
    assert found.not_exercised == {"c at 500x64": "it ended with 1"}
    assert len(found.machine["load"]) == 2 + len(order)


def test_the_work_is_what_the_cells_of_the_notebook_do(root: Path) -> None:
    cells = _cells(root / "notebooks" / "22_migrate.ipynb")
    assert cells[0] == "step.export()"
    assert "step.catch_up()" in cells
    assert not [cell for cell in cells if "begin(" in cell or "finish" in cell]


def test_the_memory_of_a_child_of_a_child_is_seen() -> None:
    inner = "import time; held = b'x' * 150_000_000; print('held', flush=True); time.sleep(30)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with Watch(process.pid) as watch:
                assert process.stdout.readline() == "held\n"
                while watch.seen.pss < 150:  # a sample may have begun before the child held it all
                    pass
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
    assert 150 < watch.seen.pss <= watch.seen.rss < 250
    assert watch.seen.tree > watch.seen.pss


# -- what was lost -----------------------------------------------------------------------------------------------------


@pytest.mark.servers
def test_each_kind_of_loss_is_counted(chroma_server: Server) -> None:
    batch = chunks(12, 4)
    batch.metadatas = [{"n": i, "whole": True, "shares": [i / 7, -0.5]} for i in range(12)]
    batch.uris = ["s3://a/1", *[None] * 11]
    url = chroma_server().url
    fill(url, {"docs": [batch.slice(0, 7), batch.slice(7, 12)], "other": [chunks(3, 4)]})
    whole = {"docs": [batch], "other": [chunks(3, 4)]}
    assert not differences(whole, url)
    with client_of(url) as client:
        docs = client.get_collection("docs", embedding_function=None)
        docs.delete(ids=["c2"])
        docs.update(ids=["c3"], metadatas=[{"n": 3.0}])  # another type
        docs.update(ids=["c4"], documents=["other"], embeddings=np.asarray(batch.embeddings[4:5]))
        docs.update(ids=["c5"], embeddings=np.ones((1, 4), np.float32))
        docs.update(ids=["c0"], uris=["s3://a/2"])
        docs.add(ids=["new"], embeddings=np.ones((1, 4), np.float32), documents=["more"])
        client.delete_collection("other")
    found = differences(whole, url)
    assert found == {"missing": 4, "extra": 1, "document": 1, "metadata": 1, "vector": 1, "uri": 1}
    others = differences(whole, url, apart={"docs": {"c2", "c3", "c4", "c5", "c0", "new"}})
    assert others == {"missing": 3}


@pytest.mark.servers
@pytest.mark.more
def test_what_the_client_says_that_it_wrote_is_what_the_server_holds(
    chroma_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WRITES", 1000.0)
    url, batches = chroma_server().url, {"docs": [chunks(300, 4)]}
    fill(url, batches)
    env = tmp_path / "app.env"
    env.write_text(f"{client.KEY}={url}\n", encoding="utf-8")
    stopped, application = threading.Event(), client.Client(env, "docs", 4)
    thread = threading.Thread(target=application.work, args=(stopped,))
    thread.start()
    deadline = time.monotonic() + 60
    while application.writes.total() < 160 and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.set()
    thread.join()
    seen = application.record()
    assert seen["writes"][url] >= 160
    assert (seen["out"], seen["errors"], seen["failed_reads"], seen["moved_to"]) == ([], {}, {}, url)
    assert seen["collections"] == {"bench-dropped": False, "bench-made": True}
    assert {chunk[0] for chunk in seen["gone"]} == {"c", "w"}  # of the source by id, its own by filter, too
    ground: Any = SimpleNamespace(batches=batches, largest="docs")
    assert not _agree(ground, url, seen)
    with client_of(url) as chroma:
        docs = chroma.get_collection("docs", embedding_function=None)
        docs.delete(ids=[next(iter(seen["kept"])), "c299"])
        docs.add(ids=[seen["gone"][0]], embeddings=np.ones((1, 4), np.float32), documents=["back"])
        chroma.delete_collection("bench-made")
    assert _agree(ground, url, seen) == {"written": 1, "missing": 1, "deleted": 1, "collections": 1}


@pytest.mark.more
def test_a_peer_that_cannot_be_had_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "HOME", tmp_path)
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    absent = peers.Peer("absent", ("python2.0",), (), (), peers._cdp)
    with pytest.raises(peers.NoPeer, match=r"it needs python2\.0, and none is here"):
        peers.environment(absent)
    broken = peers.Peer("broken", (ours,), (), ("-c", "import no_such_module"), peers._cdp)
    with pytest.raises(peers.NoPeer, match="does not start: ModuleNotFoundError"):
        peers.environment(broken)
    refused = peers.Peer("refused", (ours,), (("--no-index", "no-such-package==1"),), ("-c", ""), peers._cdp)
    with pytest.raises(peers.NoPeer, match="was not installed: ERROR"):
        peers.environment(refused)
    assert not list(tmp_path.glob("*/ready"))  # each is tried again


# -- files -------------------------------------------------------------------------------------------------------------


def test_two_files_are_compared_measure_by_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = findings(Row("M1", "9832x1536", [2.0, 3.0, 2.5]), Row("M9", "", [1.0]), Row("M4 failed", "9832x1536", [0.0]),
                 Row("phase", "9832x1536", [12.0], "22 4 import", "s"))  # fmt: skip
    b = findings(Row("M1", "9832x1536", [1.0, 1.5, 1.25]), Row("M4 failed", "9832x1536", [0.0]),
                 Row("M1", "40000x1536", [2.0]), Row("phase", "9832x1536", [6.0], "22 4 import", "s"))  # fmt: skip
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for found, path in zip((a, b), paths, strict=True):
        found.write(path)
        assert Findings.read(path) == found
    assert main(["--compare", *map(str, paths)]) == 0
    said = capsys.readouterr().out
    assert said == compared(a, b)
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith(("| M", "| phase"))]
    assert [(row[0].lstrip("| "), row[1], *row[3:]) for row in rows] == [
        ("M1", "9832x1536", "2.50 × naive", "1.25 × naive", "0.50 |"),
        ("M9", "", "1 s", "–", "– |"),
        ("M4 failed", "9832x1536", "0 reads", "0 reads", "1.00 |"),
        ("phase", "9832x1536", "12 s", "6 s", "0.50 |"),
        ("M1", "40000x1536", "–", "2 × naive", "– |"),
    ]


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 0}', "no JSON"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["--compare", str(path), str(path)])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_tables_tell_what_was_measured_lost_and_not_exercised() -> None:
    peer = {
        "name": "copier",
        "size": "9832x1536",
        "exit_codes": [0, 1],
        "ratio": 3.2,
        "lost": {"missing": 1200},
        "said": "KeyError",
    }
    found = findings(Row("M1", "9832x1536", [1.0, 1.1, 1.3]), Row("M3", "9832x1536", [12.0]),
                     Row("seconds", "9832x1536", [20.0], "naive", "s"),
                     peers=[peer], not_exercised={"peer other": "was not installed"})  # fmt: skip
    text = tables(found)
    assert (
        "| M1 | 9832x1536 | 21 begins → 23 ends, notebooks and pages | 1.10 × naive | 1 1.10 1.30 | ≤ 1.20 × naive | yes |"
        in text
    )
    assert "| 12 s | 12 | ≤ 10 s | no |" in text
    assert "| seconds | 9832x1536 | naive | 20 s | 20 |" in text
    assert "| copier | 9832x1536 | 0, 1 | 3.2 × naive | missing 1,200; KeyError |" in text
    assert "NOT EXERCISED: peer other: was not installed" in text
    assert "load average 0.5 to 2.0" in text


def test_the_figure_shows_each_median_over_its_goal() -> None:
    figure = picture(
        findings(Row("M1", "9832x1536", [1.0, 1.8, 2.4]), Row("M9", "", [0.4]), Row("M4 failed", "9832x1536", [0.0]))
    )
    assert figure is not None
    assert sorted(value for _, value in drawn(figure)["measured"]) == pytest.approx([0.5, 1.5])
    assert figure.get_suptitle() == "2 of 3 measurements meet their goal"
    assert picture(findings(Row("seconds", "", [1.0], "x", "s"))) is None
