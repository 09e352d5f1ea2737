"""Documents, ids, metadata and names of a source are data: nothing of them acts, or is obeyed, wherever it is shown."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import icalendar
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import cli, plots
from helpers.cutover import CutoverState
from helpers.errors import RunbookError, Terminal, one_line
from helpers.fence import FenceState
from helpers.formatting import bare, harmless
from helpers.notify import Event, render
from helpers.parameters import parameters_from
from helpers.plots.style import name
from helpers.reason_codes import ReasonCode
from helpers.report.pages import index_page, notebook_html, run_page
from helpers.results import StepResult, write_json
from helpers.run import folders as runs
from helpers.run.folders import RunFolder
from helpers.run.kernel import as_html, for_people, readable
from helpers.run.plan import find as find_step
from helpers.run.window import Hours
from helpers.status import step_line, table
from helpers.steps.schedule_and_notify import invitation
from helpers.stores.creation import refused_name
from tests import hostile
from tests.browser import Browser, Visit
from tests.browser import find as find_browser
from tests.commands import Runbook, only_line
from tests.conftest import ROOT, absent
from tests.hostile import CANARY, NAMES, SCRIPT, TEXTS, UNSEEN
from tests.storage import chunks, embedded, fill, plan
from tests.test_pages_run import hostile_run

PICTURES = ROOT / ".pictures"  # how the pages of the hostile run look, for people
GIANT = SCRIPT + "W" * 5_000_000


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_log_line_and_an_error_stay_one_line(tmp_path: Path, text: str) -> None:
    folder = RunFolder("r", tmp_path, tmp_path)
    folder.log(text, "22")
    folder.log_block("failed", f"first\n{text}", "22")
    lines = folder.log_path.read_text(encoding="utf-8").split("\n")
    assert not any(UNSEEN.search(line) or "\r" in line for line in lines)
    assert len([line for line in lines if not line.startswith("    ")]) == 3  # two entries and the end of the file
    assert not UNSEEN.search(RunbookError(ReasonCode.REFUSED, text, where=text, next_step=text).line())
    assert "\n" not in RunbookError(ReasonCode.REFUSED, text, where=text, next_step=text).line()


def test_a_terminal_table_keeps_one_line_a_row() -> None:
    shown = table([{"id": text, "n": i} for i, text in enumerate([*TEXTS, GIANT])])
    assert len(shown.split("\n")) == len(TEXTS) + 2
    assert not UNSEEN.search(shown)
    assert max(map(len, shown.split("\n"))) < 100
    assert "\n" not in step_line(find_step("22"), StepResult("22", "Migrate", "r", "2025-12-01T02:00:00+00:00"))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_nothing_that_a_command_prints_acts_on_the_terminal(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the parameters name, and what files of the workspace say, through whichever command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    text = text.replace("\0", "")  # which no path has
    sections = {
        "source": {"path": "s"},
        "target": {"path": "t"},
        "contacts": {"dba": text},
        "snapshot": {"directory": f"d{text}"},
    }
    (tmp_path / "p.yaml").write_text(json.dumps({"name": "any", **sections}), encoding="utf-8")
    run = runs.create(parameters_from({"name": "any", "source": {"path": "s"}, "target": {"path": "t"}}), "one")
    CutoverState(state=f"done{text}", target=text, events=[{"when": "", "by": text, "state": text}]).save(run.workspace)
    FenceState("nginx", f"up{text}", "lift", since="2025-12-01T02:00:00+00:00", by=text).save(run.workspace)
    for command in (["schema", "p.yaml"], ["snapshots", "check", "p.yaml"], ["status", "one"], ["fence", "one"]):
        cli.main(command)
        shown = capsys.readouterr()
        assert not UNSEEN.search(shown.out + shown.err), command
        assert "\r" not in shown.out + shown.err
        if command[0] == "status":
            heads = [line[:10].rstrip() for line in shown.out.splitlines()]
            assert (heads.count("Cutover:"), heads.count("Fence:")) == (1, 1), "a text makes no line of its own"


def test_a_progress_bar_moves_the_cursor_and_a_printed_text_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    stream: Any = cli._ResilientStream(sys.stdout)
    print("\rforged\x1b[A", file=stream)
    print("\rdrawn\x1b[A", file=bare(stream))
    print("\rdrawn\x1b[A", file=bare(sys.stdout))
    assert capsys.readouterr().out == "\\rforged\\u001b[A\n" + "\rdrawn\x1b[A\n" * 2


def test_result_files_hold_nothing_that_a_terminal_obeys_and_read_back_the_same(tmp_path: Path) -> None:
    texts = [*TEXTS, "caf\u00e9 \u4e2d\u6587 \U0001f9ea", "\udc80", "tag \U000e0041"]
    write_json(tmp_path / "r.json", {text: text for text in texts})
    written = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert not UNSEEN.search(written)
    assert "caf\u00e9 \u4e2d\u6587 \U0001f9ea" in written
    assert json.loads(written) == {text: text for text in texts}


def test_tables_of_a_notebook_show_one_printable_line_a_value() -> None:
    frame = pd.DataFrame({"document": TEXTS, TEXTS[10]: [[t] for t in TEXTS], "n": range(len(TEXTS))})
    frame = frame.set_index(pd.MultiIndex.from_product([[TEXTS[7]], TEXTS], names=[TEXTS[10], None]))
    html = as_html(frame)
    assert not UNSEEN.search(html)
    assert not UNSEEN.search(repr(readable(frame)))
    assert not UNSEEN.search(repr(readable(frame["document"])))
    assert "<script" not in html
    assert "<img" not in html
    assert "mathjax_ignore" in html
    assert frame["document"].tolist() == TEXTS  # the frame itself is what it was
    assert readable(frame)["n"].dtype == frame["n"].dtype


def test_numbers_of_a_table_are_written_for_people_and_kept_as_they_are() -> None:
    frame = pd.DataFrame({
        "chunks": [9832, 7], "share": [0.99996, 1.0], "seconds": [65.2, float("nan")], "free bytes": [70_978_527_232, 0],
        "distance": [6.8e-8, 12_345.5], "complete": [True, False],
    })  # fmt: skip
    shown = for_people(frame)
    assert shown.iloc[0].tolist() == ["9,832", "0.99996", "1 min 05 s", "71.0 GB", "6.8×10⁻⁸", True]
    assert shown.iloc[1].tolist() == ["7", "1", "–", "0 B", "12,345.5", False]
    assert "9,832" in as_html(frame)
    mixed = pd.DataFrame(
        {"before": [None, 925.9999999999998, float("nan"), "no filter"], "recall": [0.5, 0.9999999999999999, 1, 0]}
    )
    assert for_people(mixed)["before"].tolist() == ["–", "926", "–", "no filter"]
    assert for_people(mixed)["recall"].tolist() == ["0.5", "1", "1", "0"]
    assert frame["chunks"].sum() == 9839


def test_what_is_not_there_is_a_dash_and_what_adding_up_leaves_behind_is_not_shown() -> None:
    frame = pd.DataFrame({"high": [0.1 * 3 / 0.3, 947.9999999999999], "low": [0.99996, float("nan")],
                          "target": ["sergio_corpus", float("nan")], "cold": [None, 3.25], "list": [[None], "NaN"]})  # fmt: skip
    assert for_people(frame).to_numpy().tolist() == [
        ["1", "0.99996", "sergio_corpus", "–", "[None]"],
        ["948", "–", "–", "3.25", "NaN"],
    ]
    assert not re.search("<td>(NaN|None|nan)</td>", as_html(frame.drop(columns="list")))
    assert ["No row." in as_html(part) for part in (frame, frame.head(0), pd.DataFrame([]))] == [False, True, True]


def test_a_giant_value_and_a_long_table_are_shown_soon() -> None:
    frame = pd.DataFrame({"document": [GIANT, *["\u202e"] * 20_000]})
    html = as_html(frame)
    assert len(html) < 20_000
    assert "20001 rows" in html
    assert not UNSEEN.search(html)


@pytest.mark.parametrize("text", [*TEXTS, *NAMES.values(), GIANT], ids=range(len(TEXTS) + len(NAMES) + 1))
def test_labels_of_a_figure_are_names_and_not_formulas(text: str) -> None:
    shown = name(text)
    assert len(shown) <= 32
    assert not UNSEEN.search(shown)
    if text in TEXTS[::4] or text is GIANT:  # drawn: mathtext would raise, or set a formula
        rows = pd.DataFrame([{"collection": text, "source": 1, "target": 1, "quarantined": 0}])
        figure = plots.counts_by_collection(rows)
        assert plots.png(figure).startswith(b"\x89PNG")
        assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())


def test_a_collection_name_that_no_target_takes_is_one_clear_line(tmp_path: Path) -> None:
    with embedded(tmp_path / "target") as store:
        for text in NAMES.values():
            with pytest.raises(Terminal, match=r"takes no collection of this name.*collections\.exclude") as caught:
                store.create(plan(text))
            assert not UNSEEN.search(caught.value.line())
        assert store.names() == []


def test_the_builder_makes_what_it_says(tmp_path: Path) -> None:
    total = hostile.build(tmp_path / "source", giant=1000)
    with embedded(tmp_path / "source") as store:
        assert sorted(store.names()) == sorted(NAMES.values())
        assert sum(len(store.ids(collection)) for collection in store.names()) == total
        fill(store, "plain", chunks(2))
        found = [store.read(collection, sorted(store.ids(collection))) for collection in NAMES.values()]
    assert any(CANARY in str(document) for batch in found for document in batch.documents)
    assert any(UNSEEN.search(key) for batch in found for metadata in batch.metadatas for key in metadata or {})


def test_a_cell_of_an_exported_table_is_text_and_no_formula() -> None:
    """What a spreadsheet would compute begins with an apostrophe; in the list of a rollback, too."""
    for text in ["=1+1", "+1-2|x", "-2+3", "@SUM(1)", "\t=1", " =1", "＝1", "%0a=1", "|calc", "'=1", *TEXTS]:
        shown = harmless(text)
        assert not UNSEEN.search(shown)
        assert shown.startswith("'") or shown.lstrip(" \u00a0")[:1] not in set("=+-@\t\r\n|%＝＋－＠"), text
    assert "map(harmless)" in (ROOT / "helpers" / "rollback" / "return_writes.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [text for text in TEXTS if "\x00" not in text], ids=range(len(TEXTS) - 1))
def test_names_act_in_no_notice_no_calendar_and_no_header_of_a_mail(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subject is one line; an invitation has one entry, without attachments and without people who are invited."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    evil = f"{text}\r\nBcc: thief@evil.test\r\nATTACH:https://evil.test/x\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nATTENDEE:mailto:thief@evil.test"
    sections = {
        "name": "night", "source": {"path": "a"}, "target": {"path": "b"}, "notify": {"impact": evil, "affected": [evil]},
        "contacts": {"war_room": evil, "dba": evil, "channel": evil}, "window": {"start": "2030-12-01T02:00:00Z", "minutes": 90},
    }  # fmt: skip
    folder = runs.create(parameters_from(sections), "night").read()
    for event in Event:
        subject, body = render(folder, event, **({"why": evil} if event.wrong else {}))
        assert "\n" not in subject
        assert not UNSEEN.search(subject + body)
    hours = Hours.of(folder.parameters)
    assert hours is not None
    data = invitation(folder, folder.parameters, hours)
    [entry] = icalendar.Calendar.from_ical(data).walk("VEVENT")
    assert {"ATTACH", "ATTENDEE", "ORGANIZER", "URL"} & set(entry) == set()
    assert not re.search(rb"(?m)^(ATTACH|ATTENDEE|BEGIN:VEVENT.*\n.*BEGIN:VEVENT)", data.replace(b"\r\n ", b""))


# -- in a browser ------------------------------------------------------------------------------------------------------


def browser() -> Browser:
    return Browser(find_browser() or absent("chromium", "it opens the pages to see that nothing in them acts"))


def hostile_notebook(folder: Path) -> Path:
    """An executed notebook whose every output, of every kind, is hostile."""
    outputs: list[Any] = [new_output("stream", name="stdout", text=text) for text in TEXTS]  # type: ignore[no-untyped-call]
    for mime in ("text/html", "text/markdown", "text/plain", "image/svg+xml", "application/javascript", "text/latex"):
        outputs += [new_output("display_data", data={mime: text}) for text in TEXTS]  # type: ignore[no-untyped-call]
    outputs.append(new_output("error", ename=SCRIPT, evalue=SCRIPT, traceback=TEXTS))  # type: ignore[no-untyped-call]
    cells = [
        new_markdown_cell("# Explore\n\n" + "\n\n".join(text for text in TEXTS if "evil.test" not in text)),  # type: ignore[no-untyped-call]
        new_code_cell(SCRIPT, outputs=outputs, execution_count=1),  # type: ignore[no-untyped-call]
    ]
    nbformat.write(new_notebook(cells=cells), folder / "11_explore.ipynb")  # type: ignore[no-untyped-call]
    return folder / "11_explore.ipynb"


def assert_harmless(visit: Visit, page: Path) -> None:
    """Nothing ran, nothing was asked of anybody, nothing in it could be pressed, and it fits its window."""
    where = page.name
    assert visit.dialogs == [], where
    assert visit.said == [], where
    assert [r for r in visit.requests if not r.startswith("data:")] == [page.resolve().as_uri()], where
    assert CANARY not in str(visit.seen["title"]).replace(SCRIPT, ""), where
    assert visit.seen["active"] == [], where
    assert visit.seen["handlers"] == [], where
    assert not [link for link in visit.seen["links"] if "evil" in link or "script:" in link.lower()], where
    assert visit.seen["wide"] <= 0, where


def test_the_browser_sees_what_a_careless_page_does(tmp_path: Path) -> None:
    """The control: the same texts, written into a page as they are, do act."""
    page = tmp_path / "careless.html"
    page.write_text(f"<title>x</title>{''.join(TEXTS[:4])}<img src=https://evil.test/p.png>", encoding="utf-8")
    with browser() as chromium:
        visit = chromium.visit(page)
    assert CANARY in visit.dialogs
    assert visit.seen["title"] == CANARY
    assert "https://evil.test/p.png" in visit.requests
    assert visit.said
    assert visit.seen["active"]
    assert visit.seen["handlers"]
    with pytest.raises(AssertionError):
        assert_harmless(visit, page)


@pytest.mark.more
def test_nothing_hostile_acts_on_any_page(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path)
    pages = {
        folder / "index.html": run_page(folder),
        tmp_path / "index.html": index_page(tmp_path),
        folder / "11_explore.html": notebook_html(hostile_notebook(folder)),
    }
    with browser() as chromium:
        for page, html in pages.items():
            page.write_text(html, encoding="utf-8")
            for width in (1280, 390):
                visit = chromium.visit(page, width=width, picture=tmp_path / f"{page.stem}-{width}.png")
                assert_harmless(visit, page)
                assert visit.seen["text"].strip()


@pytest.mark.slow
def test_a_hostile_source_goes_through_the_whole_line(tmp_path: Path) -> None:
    """`runbook run … --until 24`: every chunk arrives, and no file, line or page of the run is obeyed by anything."""
    hostile.build(tmp_path / "source")
    runbook = Runbook(tmp_path)
    file = runbook.write("hostile", "path: source", "path: target", "migration: {id_policy: prefix}\n")
    text = (tmp_path / file).read_text(encoding="utf-8").replace("schema: identity", "schema: if_ttt")
    (tmp_path / file).write_text(text, encoding="utf-8")
    done = runbook("run", file, "--run-id", "night", "--until", "24")
    assert done.returncode == 4, done.stdout + done.stderr
    said = only_line(done, 4)
    assert "waits for the approval" in said
    assert not UNSEEN.search(done.stdout)
    assert done.stdout.count("Verdict: ") == 1
    folder = runbook.reports / "night"
    assert StepResult.read(folder / "results" / "23.json").facts["differing_chunks"] == 0
    for path in (p for p in folder.rglob("*") if p.suffix != ".png" and p.is_file()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert not UNSEEN.search(data.decode("utf-8")), path.name
    for line in (folder / "run.log").read_text(encoding="utf-8").splitlines():
        # Jupyter's own words about a kernel that was slow to end are the only ones without a date.
        assert re.match(r"20\d\d-\d\d-\d\dT[\d:.]+\+00:00 (\d\d|-) |    |\[IPKernelApp\] ", line), line
    for path in tmp_path.rglob("*"):
        assert re.fullmatch(r"[\w.,=+-]+", path.name), path
        assert not path.is_symlink()
    with browser() as chromium:
        for page in [*sorted(folder.glob("*.html")), runbook.reports / "index.html"]:
            for width in (1280, 390):
                picture = PICTURES / f"{page.parent.name}-{page.stem}-{width}.png"
                visit = chromium.visit(page, width=width, picture=picture)
                assert_harmless(visit, page)
                assert chromium.faint() == []
    print(f"pictures of the pages: {PICTURES}")


@pytest.mark.slow
def test_hostile_collection_names_stop_an_exact_copy_before_anything_is_written(tmp_path: Path) -> None:
    hostile.build(tmp_path / "source", giant=1000)
    runbook = Runbook(tmp_path)
    file = runbook.write("exact", "path: source", "path: target")
    line = only_line(runbook("run", file, "--run-id", "night", "--until", "24"), 1)
    assert line.startswith("runbook: step 10_source_health: failed: names that a current Chroma refuses ("), (
        "all, in the first step"
    )
    assert all(f"{one_line(name, 80)!r}: {refused_name(name)}" in line for name in NAMES.values())
    assert "collections.exclude" in line
    assert not UNSEEN.search(line)
    assert not (tmp_path / "target" / "chroma.sqlite3").exists()
