"""nginx logs the ids of each write: behind the fence of a cutover these chunks are read, or all of them, and step 25 says why."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.errors import NoGo
from helpers.fence import FenceControl as FenceControl
from helpers.fence import FenceState, lift
from helpers.fence.nginx import Touched, touched
from helpers.migration.catch_up import PROBED, CatchUp
from helpers.results import Verdict
from helpers.run.record import RunRecord
from helpers.steps.monitor import MonitorStep
from helpers.stores.client import ClientStore
from tests.cutovers import step
from tests.fences import Fenced, client, wait_for
from tests.servers import client_of
from tests.storage import embedded
from tests.test_writers_until_the_cutover import agree, check, ready, run, two_collections

pytestmark = pytest.mark.servers

DATABASE = "/api/v2/tenants/t/databases/d"
ONE = "0a1b2c3d-4e5f-4a6b-8c7d-9e0fa1b2c3d4"
DEFAULT = "/api/v2/tenants/default_tenant/databases/default_database/collections"


@pytest.fixture
def fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fenced]:
    with two_collections(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def nginx(fenced: Fenced) -> Fenced:
    """It lets everything pass, and logs it."""
    folder = run(fenced)
    FenceControl(folder, folder.read().parameters).record()
    return fenced


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
        (f"DELETE {DATABASE}/collections/gone-or-elsewhere", "", {"gone-or-elsewhere": Touched(whole=True)}),
        (f"DELETE {DATABASE}/collections/gone%2For%2Felsewhere", "", None),
        (f"DELETE {DATABASE}/collections/{ONE}", "", None),
        (f"DELETE {DATABASE}/collections/{ONE.replace('-', '')}", "", None),
        (f"POST {DATABASE}/collections/{ONE.upper()}/upsert", '["a"]', {ONE: Touched({"a"})}),
        (f"POST {DATABASE}/collections/{ONE.replace('-', '').upper()}/upsert", '["a"]', {ONE: Touched({"a"})}),
        (f"POST {DATABASE}/collections/urn%3Auuid:{ONE}/upsert", '["a"]', {ONE: Touched({"a"})}),
        (f"POST {DATABASE}/collections/%7B{ONE}%7d/upsert", '["a"]', {ONE: Touched({"a"})}),
        (f"POST /api/v1/collections/{ONE.replace('-', '%2D')}/upsert", '["a"]', {ONE: Touched({"a"})}),
        (f"POST {DATABASE}/collections/{ONE}/upsert/", '["a"]', {ONE: Touched(whole=True)}),
        (f"POST {DATABASE}/collections/{ONE}/ups%65rt", '["a"]', None),
        (f"POST /api/v1/collections/{ONE}%2Fupsert", '["a"]', None),
        (f"POST {DATABASE}/collections/{ONE};x=1/upsert", '["a"]', None),
        (f"POST {DATABASE}/collections/{ONE[:-1]}0/../{ONE}/upsert", '["a"]', None),
        (f"POST {DATABASE}/Collections/{ONE}/upsert", '["a"]', None),
        (f"DELETE {DATABASE}#/collections/gone-or-elsewhere", "", None),  # servers may end the path there
        (f"POST {DATABASE}#/collections", "", None),
        (f"DELETE {DATABASE}/collections/0a1b#x", "", None),
        (f"PATCH {DATABASE}/collections/{ONE}", '["a"]', {ONE: Touched(whole=True)}),
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
    what, doubt = touched(iter([b"{}\n", logged(request_line, ids)]), 3, {"0a1b", "my notes"})
    assert (what, bool(doubt)) == (found or {}, found is None)


@pytest.mark.parametrize("status", [400, 404, 405, 422])
def test_a_request_to_a_collection_that_the_server_does_not_know_is_no_doubt(status: int) -> None:
    line = f"POST {DATABASE}/collections/no-such-one/upsert?secret=1"
    assert touched(iter([b"{}\n", logged(line, "", status)]), 3, {"0a1b"}) == ({}, "")
    for other in (200, 201, 499, 500, 0):
        found, doubt = touched(iter([b"{}\n", logged(line, "", other)]), 3, {"0a1b"})
        assert (found, doubt.partition(": ")) == (
            {},
            ("a request names a collection in a way that is not known", ": ", line.partition("?")[0]),
        )


def test_a_request_counts_from_the_mark_on_or_where_it_had_no_answer() -> None:
    line = f"POST {DATABASE}/collections/0a1b/upsert"
    early = [
        logged(line, '["a"]'),
        logged(line, '["b"]', 499),
        logged(line, '["c"]', 502),
        logged(line, '["d"]', 403, ""),
        logged(line, '["h"]', 0),
    ]
    late = [logged(line, '["e"]'), logged(line, '["f"]', 400), logged(line, '["g"]', 403, "")]
    mark = 3 + sum(map(len, early))
    assert touched(iter([b"{}\n", *early, *late]), mark, {"0a1b"}) == ({"0a1b": Touched({"b", "c", "e", "f", "h"})}, "")


def bodies(file: Path, lines: int) -> list[str]:
    """Of each logged write the ids, once there are so many: a line comes after its answer."""
    wait_for(lambda: len(file.read_bytes().splitlines()) > lines)
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
    seen = bodies(Path(f"{fenced.config}.writes"), 5)
    assert [json.loads(ids) if ids else None for ids in seen] == [odd, odd[:1], None, None, many]


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ('"ids":["b"]', False),
        ('"documents":["x"],\n "ids" \n: ["b"],"embeddings":null', False),
        (r'"\u0069ds":["b"]', False),
        (r'"i\u0064\u0073":["b"]', False),
        (
            '"metadatas":[{"n":1,"ids":"b"}]',
            False,
        ),  # no second list of ids; its collection is read in full all the same
        ('"metadatas":[{"ids":"b"}]', True),
        ('"documents":["ids","x"]', True),
        (r'"documents":["\"ids\": [1], \\u0069ds"]', True),
        (r'"ids\u0000":["b"],"Ids":["b"]', True),
    ],
)
def test_ids_that_stand_twice_in_a_body_are_not_known(nginx: Fenced, more: str, known: bool) -> None:
    body = f'{{"ids":["a"],{more}}}'
    httpx.post(f"{nginx.url}{DEFAULT}/{ONE}/update", content=body, headers={"content-type": "application/json"})
    assert bodies(Path(f"{nginx.config}.writes"), 1) == ['["a"]' if known else ""]


def test_a_body_of_millions_of_texts_has_its_ids_logged(nginx: Fenced) -> None:
    for text in ('""', r'"\"ids\""'):
        texts = ",".join([text] * (9_900_000 // (len(text) + 1)))
        body = f'{{"ids":["a"],"documents":[{texts}]}}'
        httpx.post(f"{nginx.url}{DEFAULT}/{ONE}/update", content=body, timeout=60)
    assert bodies(Path(f"{nginx.config}.writes"), 2) == ['["a"]'] * 2
    assert Path(f"{nginx.config}.writes.alerts").read_text().count("\n") == 1


ODD = """
    POST {d}/{id}/update              POST {d}/{ID}/update              POST {d}/{plain}/update
    POST {d}/urn:uuid:{id}/update     POST {d}/URN:UUID:{id}/update     POST {d}/urn%3Auuid%3A{id}/update
    POST {d}/{{{id}}}/update          POST {d}/%7B{plain}%7D/update     POST {d}/{dashes}/update
    POST {d}/{id}/update?x=/get       POST {d}/{id}/update?             POST {d}/{id}/update#/get
    POST {d}/{id}/update/             POST {d}/{id}//update             POST {d}//{id}/update
    POST /{d}/{id}/update             POST {d}/./{id}/update            POST {d}/{other}/../{id}/update
    POST {d}/{id};x/update            POST {d}/{id}/update;x            POST {d}/{id}/Update
    POST {d}/{id}/%75pdate            POST {d}/{id}%2Fupdate            POST {d}/%{first}{rest}/update
    POST {d}/{id}%20/update           POST {d}/+{id}/update             POST {d}/{id}%00/update
    POST {D}/{id}/update              POST {c}/{id}/update              POST {t}/{id}/update
    POST /api/v1/collections/{id}/update  POST /api/v1/collections/{id}%2Fupdate  POST /api/v1/collections/{ID}/update
    PUT {d}/{id}/update               PATCH {d}/{id}/update             HEAD {d}/{id}/update
    POST {h}{d}/{id}/update           POST {h}{d}/{plain}/update        POST {d}/alpha/update
    POST {d}/{id}/get/../update       POST {d}/{id}/get%2F..%2Fupdate   POST {d}/{other}/get?/../../{id}/update
"""


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_whatever_a_server_took_is_in_the_log_or_makes_it_doubted(
    nginx: Fenced, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HTTPConnection, "_http_vsn_str", version)
    monkeypatch.setattr(HTTPConnection, "_validate_path", lambda *_: None)  # paths go out as they are
    with client(nginx.server.url) as chroma:
        one, other = (str(chroma.get_collection(name, embedding_function=None).id) for name in ("alpha", "beta"))
    spelled = {
        "d": DEFAULT, "D": DEFAULT.replace("v2", "V2"), "c": DEFAULT.replace("collections", "c%6Fllections"),
        "t": DEFAULT.replace("default_tenant", "default%5Ftenant"), "h": nginx.url, "id": one, "ID": one.upper(),
        "plain": one.replace("-", ""), "dashes": one.replace("-", "%2D"), "other": other,
        "first": f"{ord(one[0]):x}", "rest": one[1:],
    }  # fmt: skip
    tried = [found.strip().format(**spelled) for found in re.findall(r"[A-Z]+ \S+", ODD)]
    log, taken = Path(f"{nginx.config}.writes"), 0
    for n, line in enumerate(tried):
        before, said = log.stat().st_size, f"try {n}"
        body = json.dumps({"ids": [f"c{n}"], "documents": [said], "embeddings": [[float(n)] * 16]})
        connection = HTTPConnection(nginx.listen, timeout=20)
        connection.putrequest(*line.split(" "))
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.putheader("connection", "close")
        connection.endheaders(body.encode())
        connection.getresponse().read()
        connection.close()
        with client(nginx.server.url) as chroma:
            held = chroma.get_collection("alpha", embedding_function=None).get(ids=[f"c{n}"])["documents"]
        changed = held == [said]
        taken += changed
        if changed:
            wait_for(lambda: log.stat().st_size > before)  # noqa: B023  (called here)
        lines = [b"{}\n", *log.read_bytes()[before:].splitlines(keepends=True)]
        found, doubt = touched(iter(lines), 3, {one, other, "alpha", "beta"})
        known = found.get(one, Touched())
        assert not changed or doubt or known.whole or f"c{n}" in known.ids, line
    assert taken >= 10


def test_a_write_is_brought_over_however_its_client_spells_the_collection(fenced: Fenced) -> None:
    folder = run(fenced, delta_limit={"share": 1.0})
    ready(folder)
    with client(fenced.url) as chroma:
        one = str(chroma.get_collection("alpha", embedding_function=None).id)
    plain = one.replace("-", "")
    spelled = [one.upper(), plain, plain.upper(), f"urn:uuid:{one}", f"%7B{one}%7D", one.replace("-", "%2D")]
    for n, form in enumerate(spelled):
        body = {"ids": [f"c{n}"], "documents": ["the last write"], "embeddings": [[float(n)] * 16]}
        assert httpx.post(f"{fenced.url}{DEFAULT}/{form}/update", json=body).status_code == 200
    last = step(folder).facts["last_changes"]
    assert (last["by_id"], last["changed"], last["unread"]) == ({"alpha": len(spelled)}, len(spelled), ["beta", "docs"])
    agree(fenced)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("full", ["before the fence", "while the fence is put up", "never"])
def test_lines_that_nginx_lost_on_a_full_disk_make_every_collection_be_read(
    small: Path, fenced: Fenced, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log ends where a block ends, so that no half line is left of those that are lost."""
    fenced.config = small / "fence.conf"
    folder = run(fenced, delta_limit={"share": 1.0})
    ready(folder)
    log, control = Path(f"{fenced.config}.writes"), FenceControl(folder, folder.read().parameters)
    with client(fenced.url) as chroma:
        one = str(chroma.get_collection("alpha", embedding_function=None).id)

    def write(text: str, pad: int = 0, *, kept: bool = True) -> None:
        before = log.stat().st_size
        body = {"ids": ["c7"], "documents": [text], "embeddings": [[1.0] * 16]}
        assert httpx.post(f"{fenced.url}{DEFAULT}/{one}/update?{'x' * pad}", json=body).status_code == 200
        if kept:  # a line comes after its answer
            wait_for(lambda: log.stat().st_size > before)
        lengths.append(log.stat().st_size - before)

    def lose(*_: object) -> str:
        write("one")
        write("two", -(log.stat().st_size + lengths[-1]) % 4096)
        assert log.stat().st_size % 4096 == 0
        with (small / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for n in range(3):
            write(f"lost {n}", kept=False)
        assert lengths[-3:] == [0, 0, 0]
        (small / "ballast").unlink()
        return closed(control) if full.startswith("while") else ""

    lengths: list[int] = []
    closed = FenceControl._close
    if full.startswith("while"):
        monkeypatch.setattr(FenceControl, "_close", lose)
    elif full != "never":
        lose()
    result = step(folder)
    last = result.facts["last_changes"]
    said = "every collection was read: nginx failed at something while it wrote"
    assert (last["read"].startswith(said), last["unread"] == []) == (full != "never", full != "never"), last["read"]
    assert last["changed"] == (0 if full == "never" else 1)
    agree(fenced)
    lift(folder.read())
    assert sorted(path.name for path in small.glob("fence.conf.writes*")) == []


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
