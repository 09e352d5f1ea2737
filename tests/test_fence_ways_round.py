"""Every server of an nginx that leads to the fenced upstream is found, however it is written; `nginx -T` as it prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.errors import Terminal
from helpers.fence.nginx import Nginx, servers
from helpers.parameters.sections import NginxFence

FENCE = Path("/etc/nginx/conf.d/chroma-fence.conf")
MAIN = Path("/etc/nginx/nginx.conf")
OWN = "server { listen 127.0.0.1:8001; location / { proxy_pass http://127.0.0.1:8000; } }"
HTTP = "events {}\nhttp { include conf.d/*.conf; %s }\n%s"
ROUND = {
    "one line": "server { listen 9000; location / { proxy_pass UP; } }",
    "another name of the host": "server { listen 9000; location / { proxy_pass http://localhost:8000/; } }",
    "an address of this machine": "server { listen 9000; location / { proxy_pass http://127.0.0.2:8000; } }",
    "an upstream": "upstream db { server 127.0.0.1:8000 weight=2; } server { listen 90; location /x { proxy_pass http://db/; } }",
    "named later": "server { listen 9000; location / { proxy_pass http://d; } } upstream d { server 127.0.0.1:8000; }",
    "nested": "server { listen 9000; location / { location /a { if ($x) { proxy_pass 'UP'; } } } }",
    "a comment and quotes": "server { # } {\n listen \"9000\"; location ~ \"^/{2}\" { proxy_pass UP; } }",
    "after lua": "server { listen 9000; access_by_lua_block { if x then y = {1} end } location / { proxy_pass UP; } }",
    "another case": "upstream Chroma { server 127.0.0.1:8000; } server { listen 9000; location / { proxy_pass http://chroma; } }",
    "an upstream by https": "upstream db { server 127.0.0.1:8000; } server { listen 90; location / { proxy_pass https://db; } }",
    "a query": "server { listen 9000; location / { proxy_pass http://127.0.0.1:8000?a=b; } }",
    "a snippet": "server { listen 9000; include snippets/p.conf; }",
    "an unfinished range": "server { listen 7990-8010; }",
    "the same port": "server { listen 8001; server_name other; }",
    "the same port on every address": "server { listen [::]:8001 default_server; return 204; }",
}  # fmt: skip
APART = {
    "another port": "server { listen 9000; location / { proxy_pass http://127.0.0.1:8080; } }",
    "another host": "server { listen 9000; location / { proxy_pass http://192.0.2.7:8000; } }",
    "a comment": "# server { listen 8001; }\n server { listen 9000; # proxy_pass UP;\n return 204; }",
    "a text": "server { listen 9000; return 200 'listen 8001; proxy_pass UP;'; }",
}  # fmt: skip


def checked(http: str, stream: str = "") -> Nginx:
    http = http.replace("UP", "http://127.0.0.1:8000")
    rules = NginxFence.model_validate({"listen": "127.0.0.1:8001", "upstream": "127.0.0.1:8000", "config": str(FENCE)})
    nginx = Nginx(rules, 5)
    files = {
        MAIN: HTTP % (http, stream),
        FENCE: OWN,
        MAIN.parent / "snippets/p.conf": "location / { proxy_pass http://127.0.0.1:8000; }",
    }
    nginx._refuse_bypasses(files)
    return nginx


@pytest.mark.parametrize("first", ["http", "stream"])
def test_upstreams_of_one_name_in_http_and_stream_are_both_followed(first: str) -> None:
    """They are two to nginx; whichever leads to the source, a server that names it goes round the fence."""
    at = {"http": "10.0.0.9:1", "stream": "10.0.0.9:1", first: "127.0.0.1:8000"}
    http = f"upstream db {{ server {at['http']}; }} server {{ listen 90; location / {{ proxy_pass http://db; }} }}"
    stream = f"stream {{ upstream db {{ server {at['stream']}; }} server {{ listen 9001; proxy_pass db; }} }}"
    with pytest.raises(Terminal, match="would go round the fence"):
        checked(http, stream)


@pytest.mark.parametrize("way", sorted(ROUND))
def test_a_way_round_the_fence_is_refused(way: str) -> None:
    with pytest.raises(Terminal, match=r"another server of this nginx .* would go round the fence") as refused:
        checked(ROUND[way])
    assert refused.value.where == str(MAIN)


def test_a_stream_is_a_way_round_too() -> None:
    with pytest.raises(Terminal, match=r"listen 9001\) leads to 127\.0\.0\.1:8000"):
        checked("", "stream { server { listen 9001; proxy_pass 127.0.0.1:8000; } }")


@pytest.mark.parametrize("way", sorted(APART))
def test_other_servers_are_let_alone(way: str) -> None:
    assert checked(APART[way]).unseen == []


def test_where_only_a_request_decides_is_said() -> None:
    nginx = checked("server { listen 9000; location / { proxy_pass http://$backend:8000; } }")
    assert nginx.unseen == [f"9000 in {MAIN}"]
    assert "only a request decides" in nginx.unseen_text


def test_every_server_of_a_dump_is_read() -> None:
    found = servers({MAIN: HTTP % (" ".join(ROUND.values()), ""), FENCE: OWN})
    assert len(found) == len(ROUND) + 1
    assert [each.listens for each in found if each.file == FENCE] == [["127.0.0.1:8001"]]
