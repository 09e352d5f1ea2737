"""nginx logs the ids of each write: behind the fence of a cutover these chunks are read, or all of them, and step 25 says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import NoGo
from helpers.fence import Control as FenceControl
from helpers.fence import FenceState
from helpers.fence.nginx import Touched, touched
from helpers.migration.catch_up import PROBED, CatchUp
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.steps.monitor import MonitorStep
from helpers.stores.client import ClientStore
from tests.cutovers import step
from tests.fences import Fenced, client
from tests.servers import client_of
from tests.storage import embedded
from tests.test_writers_until_the_cutover import agree, check, ready, run, two_collections

pytestmark = pytest.mark.servers

DATABASE = "/api/v2/tenants/t/databases/d"


@pytest.fixture
def fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    with two_collections(tmp_path, monkeypatch) as made:
        yield made


def logged(request_line: str, ids: str = "", status: int = 200, to: str = "127.0.0.1:8000") -> bytes:
    method, uri = request_line.split(" ")
    return json.dumps({"method": method, "uri": uri, "status": str(status), "to": to, "ids": ids}).encode() + b"\n"


@pytest.mark.parametrize(
    ("request_line", "ids", "found"),
    [
        (f"POST {DATABASE}/collections/0a1b/upsert", '["a", "\\u00e9"]', {"0a1b": Touched({"a", "é"})}),
        ("POST /api/v1/collections/0a1b/add?x=1", '["a"]', {"0a1b": Touched({"a"})}),
        (f"POST {DATABASE}/collections/0a1b/upsert", "", {"0a1b": Touched(whole=True)}),
        (f"POST {DATABASE}/collections/0a1b/update", "[1]", {"0a1b": Touched(whole=True)}),
        (f"POST {DATABASE}/collections/0a1b/fork", '["a"]', {"0a1b": Touched(whole=True)}),
        (f"POST {DATABASE}/collections/0a1b/delete", '["a"]', {"0a1b": Touched({"a"})}),
        (f"POST {DATABASE}/collections/0a1b/delete", "", {"0a1b": Touched(filtered=True)}),
        (f"POST {DATABASE}/collections/0a1b/delete", "[]", {"0a1b": Touched(filtered=True)}),
        (f"DELETE {DATABASE}/collections/my%20notes", "", {"my notes": Touched(whole=True)}),
        (f"DELETE {DATABASE}/collections/{'0' * 8}-0000-0000-0000-{'0' * 12}", "", None),
        ("PUT /api/v1/collections/0a1b", "", {"0a1b": Touched(whole=True)}),
        (f"POST {DATABASE}/collections?x=1", "", {}),
        ("POST /api/v2/tenants/t/databases", "", {}),
        ("POST /api/v1/reset", "", None),
        (f"DELETE {DATABASE}", "", None),
        ("POST /api/v2//tenants/t/databases/d/collections/0a1b/add", '["a"]', None),
    ],
)
def test_a_request_that_is_not_known_may_have_changed_everything(
    request_line: str, ids: str, found: dict[str, Touched] | None
) -> None:
    assert touched(iter([b"{}\n", logged(request_line, ids)]), 3) == found


def test_a_request_counts_from_the_mark_on_or_where_it_had_no_answer() -> None:
    line = f"POST {DATABASE}/collections/0a1b/upsert"
    early = [
        logged(line, '["a"]'),
        logged(line, '["b"]', 499),
        logged(line, '["c"]', 502),
        logged(line, '["d"]', 403, ""),
    ]
    late = [logged(line, '["e"]'), logged(line, '["f"]', 400), logged(line, '["g"]', 403, "")]
    mark = 3 + sum(map(len, early))
    assert touched(iter([b"{}\n", *early, *late]), mark) == {"0a1b": Touched({"b", "c", "e", "f"})}


def bodies(file: Path) -> list[str]:
    """Of each logged write the ids."""
    return [json.loads(line)["ids"] for line in file.read_bytes().splitlines()[1:]]


def test_nginx_logs_the_ids_of_a_write_whole_or_not_at_all(fenced: Fenced) -> None:
    folder = run(fenced)
    FenceControl(folder, folder.read().parameters).record()
    odd = ['q"]}\\ é \U0001f600 [b]', "ids", "a, b"]
    with client(fenced.url) as chroma:
        docs = chroma.get_collection("docs", embedding_function=None)
        docs.upsert(ids=odd, embeddings=np.ones((3, 8), np.float32), documents=['{"ids":["z"]}', "", "x"])
        docs.delete(ids=odd[:1])
        docs.delete(where_document={"$contains": "no such text"})
        docs.upsert(ids=["long"], embeddings=np.ones((1, 8), np.float32), documents=["x" * 10**7])
        many = [f"id-{n}-{'x' * 40}" for n in range(2_000)]
        docs.update(ids=many, metadatas=[{"n": n} for n in range(2_000)])
    with client_of(fenced.server.url) as source:
        assert len(source.get_collection("docs", embedding_function=None).get(ids=["long"])["documents"][0]) == 10**7  # type: ignore[index]
    seen = bodies(Path(f"{fenced.config}.writes"))
    assert [json.loads(ids) if ids else None for ids in seen] == [odd, odd[:1], None, None, many]


def test_only_the_chunks_that_the_log_names_are_read_behind_the_fence(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(fenced, delta_limit={"share": 1.0})
    ready(folder)
    with client(fenced.url) as chroma:
        alpha = chroma.get_collection("alpha", embedding_function=None)
        alpha.update(ids=["c7"], metadatas=[{"note": "new"}])
        alpha.delete(ids=["c8", "nobody"])
        alpha.upsert(ids=["w1", "c9"], embeddings=np.ones((2, 16), np.float32), documents=["one", "nine"])
        chroma.get_collection("beta", embedding_function=None).delete(where={"note": "first 3"})
    read: list[str] = []
    original, inspect = ClientStore.read, ClientStore.info
    inspecting: list[str] = []  # a few chunks tell the space of a collection

    def noted(store: ClientStore, name: str, ids: list[str], **more: Any) -> Any:
        if store.label == fenced.server.url and not inspecting:
            read.extend(ids)
        return original(store, name, ids, **more)

    def inspected(store: ClientStore, name: str) -> Any:
        inspecting.append(name)
        try:
            return inspect(store, name)
        finally:
            inspecting.pop()

    monkeypatch.setattr(ClientStore, "read", noted)
    monkeypatch.setattr(ClientStore, "info", inspected)
    last = step(folder).facts["last_changes"]
    assert last["read"].startswith("2 of 3 collections read again (2 by the ids of 6 chunks)")
    assert set(read) == {"c7", "c8", "c9", "w1", "nobody", "c3"}
    assert last["by_id"] == {"alpha": 5, "beta": 1}
    assert (last["added"], last["changed"], last["deleted"], last["unread"]) == (1, 2, 2, ["docs"])
    agree(fenced)
    record = RunRecord(folder.read(), "50")
    MonitorStep(record).source()
    assert check(record.result, "source as it was cut over").verdict is Verdict.PASS


@pytest.mark.more
def test_what_waits_is_brought_over_while_clients_write_and_the_limit_holds_for_all_of_it(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.migration.catch_up.AHEAD", 3)
    folder = run(fenced, delta_limit={"chunks": 7})
    ready(folder)

    def write(note: str, *ids: str) -> None:
        with client(fenced.url) as chroma:
            chroma.get_collection("alpha", embedding_function=None).update(
                ids=list(ids), metadatas=[{"note": note} for _ in ids]
            )

    write("first", "c1", "c2", "c3", "c4")
    original = CatchUp._finish

    def written_meanwhile(work: CatchUp) -> bool:
        if len(work.ledger.rounds) == 1:
            write("second", "c4", "c5")  # after the log was read, and before the round has ended
        return original(work)

    monkeypatch.setattr(CatchUp, "_finish", written_meanwhile)
    result = step(folder)
    last = result.facts["last_changes"]
    assert (last["by_id"], last["changed"], last["total"]) == ({"alpha": 2}, 6, 6)
    ledger = json.loads((folder.workspace / "catch-up" / "ledger.json").read_text())
    assert [(r["changed"], r["state"]) for r in ledger["rounds"]] == [(4, "applied"), (2, "applied")]
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert state.up_at > ledger["rounds"][0]["began"], "the first round was before the fence"
    assert [c.verdict for c in result.checks if c.name == PROBED] == [Verdict.PASS]
    agree(fenced)


@pytest.mark.more
def test_more_than_was_signed_is_seen_before_anybody_is_stopped(
    fenced: Fenced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.migration.catch_up.AHEAD", 3)
    folder = run(fenced, delta_limit={"chunks": 3})
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c1", "c2", "c3", "c4"])
    with pytest.raises(NoGo, match=r"4 changes since the validation, migration.delta_limit allows 3"):
        step(folder)
    state = FenceState.load(folder.workspace)
    assert state is not None
    assert "up" not in {event["state"] for event in state.events}
    with embedded(fenced.folder / "target") as store:
        assert "c1" in store.ids("alpha")


@pytest.mark.more
def test_a_count_that_the_log_does_not_explain_makes_every_collection_be_read(fenced: Fenced) -> None:
    folder = run(fenced, delta_limit={"share": 1.0})
    ready(folder)
    with client(fenced.url) as chroma:
        chroma.get_collection("alpha", embedding_function=None).delete(ids=["c8"])
    with client(fenced.server.url) as past:  # past nginx
        past.get_collection("alpha", embedding_function=None).delete(ids=["c9"])
        past.get_collection("docs", embedding_function=None).update(ids=["c3"], metadatas=[{"note": "past nginx"}])
    last = step(folder).facts["last_changes"]
    assert last["read"] == "every collection was read: collection alpha changed, and the log of writes does not say so"
    assert (last["unread"], last["by_id"], last["total"]) == ([], {}, 3)
    agree(fenced)
