"""The servers that other tests rely on: two at once, a kill, a restart with the data still there."""

from __future__ import annotations

from collections.abc import Callable

import chromadb
import pytest

from tests.servers import ChromaServer


def names(server: ChromaServer) -> list[str]:
    client = chromadb.HttpClient(host="127.0.0.1", port=server.port)
    return sorted(collection.name for collection in client.list_collections())


@pytest.mark.servers
@pytest.mark.slow
def test_two_servers_keep_their_own_data_through_a_kill(chroma_server: Callable[..., ChromaServer]) -> None:
    source, target = chroma_server(), chroma_server()
    chromadb.HttpClient(host="127.0.0.1", port=source.port).create_collection("kept")
    assert source.url != target.url
    assert (names(source), names(target)) == (["kept"], [])

    source.kill()
    assert not source.running
    with pytest.raises(ValueError, match="Could not connect"):
        names(source)

    assert names(source.restart()) == ["kept"]
