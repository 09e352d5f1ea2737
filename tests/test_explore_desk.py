"""Notebook 11 in a kernel: a person sees a list, a figure and a table; papermill sees the same as plain tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from helpers.rehearsal import collection_counts, write_sample

CHUNKS, DIMENSION = 120, 16
Message = dict[str, Any]


class Front:
    """A front end: asks for cells the way JupyterLab does (naming the cell), or the way papermill does (not)."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client

    def run(self, code: str, cell: str = "") -> list[Message]:
        """What comes back while the cell runs, ended by its reply."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else {})
        self.client.shell_channel.send(message)
        return self._until_idle(message["header"]["msg_id"])

    def choose(self, comm: str, state: dict[str, Any]) -> list[Message]:
        """What a widget's front end sends when the user changes it."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
        return self._until_idle(message["header"]["msg_id"])

    def _until_idle(self, request: str) -> list[Message]:
        found: list[Message] = []
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "error":
                pytest.fail("\n".join(message["content"]["traceback"]))
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return found
            found.append(message)


def shown(messages: list[Message]) -> list[dict[str, str]]:
    kinds = ("display_data", "execute_result")
    return [m["content"]["data"] for m in messages if m["msg_type"] in kinds]


def widgets(messages: list[Message], model: str) -> list[tuple[str, dict[str, Any]]]:
    """(comm id, state) of each widget of this model that was opened."""
    opened = [m["content"] for m in messages if m["msg_type"] == "comm_open"]
    return [
        (c["comm_id"], c["data"]["state"]) for c in opened if c["data"].get("state", {}).get("_model_name") == model
    ]


def below(messages: list[Message], output: str) -> list[dict[str, Any]]:
    """What an output widget was told last to show."""
    told = [m["content"]["data"] for m in messages if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == output]
    states = [data["state"]["outputs"] for data in told if "outputs" in data.get("state", {})]
    found: list[dict[str, Any]] = states[-1]
    return found


@pytest.fixture(scope="module")
def front(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("desk")
    write_sample(folder / "source", CHUNKS, DIMENSION)
    environment = {"RUNBOOK_REPORTS": str(folder / "reports"), "RUNBOOK_WORKSPACE": str(folder / "workspace")}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNBOOK_RUNNER_PID", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        manager, client = start_new_kernel(cwd=str(root))
    try:
        talk = Front(client)
        given: dict[str, Any] = {"source": {"path": str(folder / "source")}, "target": {"path": str(folder / "target")}}
        given |= {"name": "desk", "schema": "if_ttt", "migration": {"id_policy": "prefix"}, "run_id": "desk"}
        talk.run("\n".join(f"{key} = {value!r}" for key, value in given.items()))
        talk.run('from helpers import begin\nstep = begin(globals(), "11")\ndesk = step')
        yield talk
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


@pytest.mark.more
def test_a_person_picks_a_collection_and_sees_its_figure_and_its_table(front: Front) -> None:
    begun = front.run("desk.pick()", cell="picker")
    [(choice, state)] = widgets(begun, "DropdownModel")
    [(output, _)] = widgets(begun, "OutputModel")
    assert state["description"] == "Collection"
    assert list(state["_options_labels"]) == sorted(collection_counts(CHUNKS))
    other = front.choose(choice, {"index": 3})
    first, later = below(begun, output), below(other, output)
    for outputs in (first, later):
        kinds = [set(o["data"]) & {"image/png", "text/html"} for o in outputs]
        assert kinds == [{"text/html"}, {"image/png"}, {"text/html"}]
    assert first[1]["data"]["image/png"] != later[1]["data"]["image/png"]
    name = sorted(collection_counts(CHUNKS))[3]
    assert name in later[0]["data"]["text/html"]
    assert name in later[1]["metadata"]["image/png"]["alt"]
    assert "new ITable(" in later[2]["data"]["text/html"]


@pytest.mark.more
def test_the_table_library_comes_with_the_cell_and_asks_no_network(front: Front) -> None:
    pages = [data["text/html"] for data in shown(front.run("desk.pick()", cell="picker")) if "text/html" in data]
    assert any("injectModule(" in page for page in pages)
    again = [data["text/html"] for data in shown(front.run("desk.table(desk.facts())", cell="other"))]
    assert not any("injectModule(" in page for page in again)
    for page in (p for p in pages + again):
        assert 'src="http' not in page
        assert "import(" not in page or "createObjectURL" in page


@pytest.mark.more
def test_nobody_sees_the_same_without_widgets(front: Front) -> None:
    messages = front.run("desk.pick()")
    assert not [m for m in messages if m["msg_type"] == "comm_open"]
    data = shown(messages)
    said = json.dumps(data)
    assert all(f"Collection {name}. The first 3 of" in said for name in collection_counts(CHUNKS))
    assert sum("image/png" in d for d in data) == 2
    assert "<script" not in said
    assert "application/vnd.jupyter.widget-view+json" not in said
