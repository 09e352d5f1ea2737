"""Secrets: a run whose folder holds the value of one is not sealed; a server that repeats one is not repeated."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import quopri
import re
import string
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from markupsafe import escape

from helpers import audit, errors, evidence
from helpers.errors import EnvironmentFailure, RunbookError, one_line
from helpers.evidence import secret_scan
from helpers.parameters import SecretRef
from helpers.reason_codes import ReasonCode
from helpers.results import Check, StepResult, Verdict
from helpers.run.folders import RunFolder
from tests.commands import Runbook
from tests.proxies import ECHO, PASS, FaultyProxy
from tests.servers import ChromaServer
from tests.signers import Signers, small_run
from tests.storage import chunks, embedded, fill

TOKEN = 'hünter~"2"/&+\\x9'
VALUE = f"Bearer {TOKEN}"
REFERENCE = SecretRef.parse("env:CHROMA_TOKEN")


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_TOKEN", VALUE)
    monkeypatch.setattr(errors, "_HIDDEN", {})


RAW = TOKEN.encode()


def zipped(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("a.txt", data)
    return out.getvalue()


def small_window(data: bytes) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, 9)
    return made.compress(data) + made.flush()


random_letters = bytes(Random(5).choices(range(97, 123), k=3000))
WRITTEN = {
    "plain": RAW,
    "in a header": b"authorization: Bearer " + RAW,
    "UTF-16": TOKEN.encode("utf-16"),
    "hexadecimal": RAW.hex().encode(),
    "base64": base64.b64encode(VALUE.encode()),
    "base64 of a pair": base64.b64encode(b"user:" + RAW + b":more"),
    "base64 for URLs": base64.urlsafe_b64encode(b"a" + RAW),
    "URL-encoded": quote(TOKEN, safe="").encode(),
    "URL-encoded, small letters": quote(TOKEN).lower().encode(),
    "JSON": json.dumps({"a": TOKEN}).encode(),
    "JSON, not ASCII": json.dumps({"a": TOKEN}, ensure_ascii=False).encode(),
    "JSON in a notebook": json.dumps([json.dumps({"a": TOKEN})]).encode(),
    "HTML": html.escape(TOKEN).encode(),
    "UTF-16, the other way round": TOKEN.encode("utf-16-be"),
    "hexadecimal, large letters": RAW.hex().upper().encode(),
    "hexadecimal in pairs": RAW.hex(" ").encode(),
    "over two lines": RAW[:5] + b"\n    " + RAW[5:],
    "over two lines of a notebook": json.dumps([f"{VALUE[:12]}\n", VALUE[12:]], ensure_ascii=False, indent=1).encode(),
    "base64 in lines": base64.encodebytes(b"x" * 70 + RAW),
    "gzip": gzip.compress(b"before " + RAW),
    "zip": zipped(b"before " + RAW),
    "zip, by bzip2": zipped(b"before " + RAW, zipfile.ZIP_BZIP2),
    "zip, by LZMA": zipped(b"before " + RAW, zipfile.ZIP_LZMA) + b"behind" * 999,
    "gzip in base64": base64.b64encode(gzip.compress(b"before " + RAW)),
    "zlib": zlib.compress(b"before " + RAW),
    "zlib, fast": zlib.compress(b"before " + RAW, 1),
    "zlib of a small window": small_window(b"before " + RAW),
    "zlib in base64": base64.b64encode(zlib.compress(b"before " + RAW)),
    "zlib in base64, in lines of a text of JSON": json.dumps(
        base64.encodebytes(zlib.compress(random_letters + RAW)).decode()
    ).encode(),
    "bzip2": bz2.compress(b"before " + RAW),
    "xz": lzma.compress(b"before " + RAW),
    "HTML as Jinja writes it": str(escape(TOKEN)).encode(),
    "HTML as Jinja writes it, in a notebook": json.dumps([str(escape(TOKEN))]).encode(),
    "HTML, each letter": "".join(f"&#{ord(c)};" for c in TOKEN).encode(),
    "escaped, each letter": "".join(f"\\u{ord(c):04x}" for c in TOKEN).encode(),
    "escaped, each byte": "".join(f"\\x{byte:02x}" for byte in RAW).encode(),
    "URL-encoded, each byte": "".join(f"%{byte:02X}" for byte in RAW).encode(),
    "base64 of UTF-16": base64.b64encode(TOKEN.encode("utf-16-le")),
    "hexadecimal of UTF-16": TOKEN.encode("utf-16-le").hex().encode(),
    "cut by tags": RAW[:5] + b"<wbr><span class=x>" + RAW[5:],
    "cut by the end of a line that a terminal clears": RAW[:5] + b"\x1b[0m\x1b[K" + RAW[5:],
    "cut by a long tag": RAW[:5] + b'<span class="x" style="%s">' % (b"a" * 900) + RAW[5:],
    "cut by a tag with > in it": RAW[:5] + b'<span title="a > b">' + RAW[5:],
    "cut by a tag with > in it, in a notebook": json.dumps(f'{TOKEN[:6]}<span title="a > b">{TOKEN[6:]}').encode(),
    "cut by colours": RAW[:5] + b"\x1b[1;31m" + RAW[5:],
    "cut by colours in a notebook": json.dumps(f"{TOKEN[:6]}\x1b[0m{TOKEN[6:]}", ensure_ascii=False).encode(),
    "cut by a blank of no width": RAW[:5] + "\u200b".encode() + RAW[5:],
    "in two texts": json.dumps([TOKEN[:6], TOKEN[6:]], ensure_ascii=False).encode(),
    "base64 alone": base64.b64encode(RAW),
    "base64 behind two bytes": base64.b64encode(b"ab" + RAW + b"c"),
    "URL-encoded, each byte, small letters": "".join(f"%{byte:02x}" for byte in RAW).encode(),
    "HTML, each letter, hexadecimal": "".join(f"&#x{ord(c):x};" for c in TOKEN).encode(),
    "escaped, each letter, large": "".join(f"\\u{ord(c):04X}" for c in TOKEN).encode(),
    "JSON with escaped slashes": json.dumps({"a": TOKEN}).replace("/", "\\/").encode(),
    "quoted-printable": quopri.encodestring(RAW),
    "quoted-printable in lines": quopri.encodestring(b"x" * 70 + RAW),
    "UTF-32": TOKEN.encode("utf-32-be"),
    "escaped, each letter, in braces": "".join(f"\\u{{{ord(c):x}}}" for c in TOKEN).encode(),
    "escaped, each letter, by a script": "".join(f"%u{ord(c):04X}" for c in TOKEN).encode(),
    "numbers": json.dumps(list(RAW)).encode(),
    "letters of no width": "\u2060".join(TOKEN).encode(),
    "PDF": b"<< /Filter /FlateDecode >>\nstream\n" + zlib.compress(b"BT " + RAW) + b"\nendstream",
}


@pytest.mark.parametrize("how", sorted(WRITTEN))
def test_every_writing_is_found_in_the_middle_of_bytes(how: str, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"\x89PNG\0" + b"x" * 70_000 + WRITTEN[how] + b"\xff\0tail")
    (tmp_path / "clean.log").write_bytes(b"Bearer of news, hunter of 2")
    found = secret_scan.search(tmp_path, [REFERENCE]).hits
    assert {(name, reference) for name, reference, _ in found} == {("figures/a.png", "env:CHROMA_TOKEN")}
    with pytest.raises(EnvironmentFailure, match=r"figures/a\.png holds the value of env:CHROMA_TOKEN") as caught:
        secret_scan.refuse(secret_scan.search(tmp_path, [REFERENCE]), tmp_path)
    assert "nter" not in str(caught.value)


@pytest.mark.parametrize("how", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_a_value_far_behind_the_beginning_of_a_packed_file_is_found(
    tmp_path: Path, how: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once 64 MiB of a part were looked at. A value that two pieces share is found, and memory holds a few pieces only."""
    monkeypatch.setattr(secret_scan, "_PIECE", 2**16)
    monkeypatch.setattr(secret_scan, "_OVERLAP", 2**10)
    (tmp_path / "far.bin").write_bytes(how(b"x" * (2**20 - 5) + RAW + b"y" * 1000))
    assert [hit[:2] for hit in secret_scan.search(tmp_path, [REFERENCE]).hits] == [("far.bin", "env:CHROMA_TOKEN")]


def test_a_file_of_deflate_without_any_mark_is_searched(tmp_path: Path) -> None:
    """As the body of an answer is, for one."""
    (tmp_path / "body").write_bytes(zlib.compress(b"before " + RAW)[2:-4])
    assert [hit[:2] for hit in secret_scan.search(tmp_path, [REFERENCE]).hits] == [("body", "env:CHROMA_TOKEN")]


def seconds(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def test_many_secrets_are_looked_for_at_once(tmp_path: Path) -> None:
    """Sixty took twenty times as long as one: each of their writings was looked for by itself."""
    drawn = Random(9)
    values = {f"{n}": "".join(drawn.choices(string.ascii_letters + string.digits, k=24 + n % 9)) for n in range(60)}
    words = ["".join(drawn.choices(string.ascii_lowercase, k=7)) for _ in range(500)]
    text = " ".join(drawn.choices(words, k=200_000)).encode()
    (tmp_path / "list.txt").write_bytes(text)
    assert secret_scan.search(tmp_path, [], values).hits == []
    one = min(seconds(lambda: secret_scan.search(tmp_path, [], {"0": values["0"]})) for _ in range(3))
    assert seconds(lambda: secret_scan.search(tmp_path, [], values)) < 6 * one
    (tmp_path / "list.txt").write_bytes(text + values["7"].encode() + text + values["59"].encode())
    assert {name for _, name, _ in secret_scan.search(tmp_path, [], values).hits} == {"7", "59"}


def test_small_compressed_parts_are_looked_at_together(tmp_path: Path) -> None:
    """Each of the ten thousand was searched by itself, and made a copy of all that was behind it."""
    data = gzip.compress(b"a few words of no importance") * 10_000 + gzip.compress(RAW)
    assert len(list(secret_scan._readings(data))) == 2
    (tmp_path / "parts").write_bytes(data)
    assert [hit[:2] for hit in secret_scan.search(tmp_path, [REFERENCE]).hits] == [("parts", "env:CHROMA_TOKEN")]
    (tmp_path / "parts").write_bytes(gzip.compress(RAW[:8]) + gzip.compress(RAW[8:]))
    assert secret_scan.search(tmp_path, [REFERENCE]).hits == []


@pytest.mark.parametrize("head", ["x^", "eNo", "H4sI"])
@pytest.mark.more
def test_a_text_of_beginnings_of_compressed_parts_does_not_hold_the_search(tmp_path: Path, head: str) -> None:
    (tmp_path / "heads").write_text(head * 30_000, encoding="ascii")
    found: list[secret_scan.Searched] = []
    assert seconds(lambda: found.append(secret_scan.search(tmp_path, [REFERENCE]))) < 15
    assert "more beginnings of compressed parts" in found[0].unknown["heads"]


@pytest.mark.more
def test_a_value_behind_a_hundred_megabytes_is_found_in_bounded_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "far.gz", "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(RAW)
    tracemalloc.start()
    found = secret_scan.search(tmp_path, [REFERENCE]).hits
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [hit[:2] for hit in found] == [("far.gz", "env:CHROMA_TOKEN")]
    assert most < 100 * 2**20


def test_a_file_that_becomes_too_large_is_named_as_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_scan, "_PIECE", 2**16)
    monkeypatch.setattr(secret_scan, "_MOST_UNPACKED", 2**20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"x" * 2**21))
    assert "not searched to its end" in secret_scan.search(tmp_path, [REFERENCE]).unknown["bomb.gz"]


def test_what_is_between_pieces_is_left_out_and_nothing_else() -> None:
    between, random = re.compile(rb"""(?:\\[nrt]|[\s"',\\:|>-])+"""), Random(7461)
    for _ in range(20_000):
        data = bytes(random.choices(b"\\\\\\nrtab \n\t\r\f\v\"',:|>-x", k=random.randrange(12)))
        assert secret_scan._joined(data) == between.sub(b"", data), data


def test_the_name_of_a_file_is_searched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_TOKEN", "s3cret-token")
    (tmp_path / "s3cret-token.png").write_bytes(b"")
    assert secret_scan.search(tmp_path, [REFERENCE]).hits == [("name of a file", "env:CHROMA_TOKEN", "plain")]


def test_a_secret_that_is_not_here_or_too_short_is_told_as_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"test")
    monkeypatch.setenv("CHROMA_TOKEN", "test")
    report = secret_scan.search(tmp_path, [REFERENCE, SecretRef.parse("env:NOWHERE_TO_BE_FOUND")])
    assert report.unknown == {
        "env:CHROMA_TOKEN": "is shorter than 6 characters",
        "env:NOWHERE_TO_BE_FOUND": "has no value here",
    }
    assert (report.hits, report.searched) == ([], [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    headers = {"url": "http://old:8000", "headers": {"Authorization": "env:CHROMA_TOKEN"}}
    return small_run("night", Signers(tmp_path / "keys"), source=headers)


def test_a_run_that_holds_a_secret_is_not_sealed_until_it_is_gone(home: RunFolder) -> None:
    page = home.reports / "24_review.html"
    clean = page.read_bytes()
    page.write_bytes(clean + html.escape(TOKEN).encode())
    with pytest.raises(
        EnvironmentFailure, match=r"24_review\.html holds the value of env:CHROMA_TOKEN \(HTML-escaped\)"
    ):
        evidence.keep_sealed(home.read())
    assert not (home.reports / "seals").exists()
    page.write_bytes(clean)
    evidence.keep_sealed(home.read())
    seal = evidence.seals(home.reports)[-1]
    assert seal.predicate["secrets"] == {"searched": ["env:CHROMA_TOKEN"], "unknown": {}}
    assert RAW not in seal.path.read_bytes()


def test_what_a_server_repeats_is_shown_without_it(home: RunFolder) -> None:
    REFERENCE.resolve()
    said = f"401 for {VALUE} and {json.dumps(TOKEN)} and {base64.b64encode(RAW).decode()}"
    shown = one_line(said)
    assert "nter" not in shown
    assert shown.count("<secret env:CHROMA_TOKEN>") == 3
    error = RunbookError(ReasonCode.REFUSED, said, where=TOKEN)
    home.log(str(error))
    home.log_block(said, said)
    result = StepResult(
        "10", "", home.id, "2025-12-01T00:00:00+00:00", checks=[Check("a", Verdict.FAIL, TOKEN, detail=said)]
    )
    result.write(home.reports / "results" / "10.json")
    audit.append(home.reports / audit.NAME, "failed", why=said)
    assert secret_scan.search(home.reports, [REFERENCE]).hits == []
    assert StepResult.read(home.reports / "results" / "10.json").checks[0].measured == "<secret env:CHROMA_TOKEN>"
    assert audit.check(home.reports / audit.NAME) is None


@pytest.mark.parametrize(
    "value", [VALUE, "Basic " + base64.b64encode(b"admin:Tr0ub4dor-3x").decode(), "pa\"ss'wd&77<x>Q"]
)
def test_no_text_shows_any_writing_of_a_secret(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the value, of the token behind `Bearer`, and of the password inside of `Basic`."""
    monkeypatch.setenv("CHROMA_TOKEN", value)
    REFERENCE.resolve()
    parts = errors.secret_parts(value)
    assert ("Tr0ub4dor-3x" in parts) == value.startswith("Basic")
    texts = [text for part in parts for _, text in errors.encodings(part)]
    assert len(texts) > 30
    for text in texts:
        shown = errors.redacted(f"before {text} after")
        assert "<secret env:CHROMA_TOKEN>" in shown, text
        assert text not in shown


def in_base64(login: bytes) -> str:
    return base64.b64encode(login).decode()


@pytest.mark.parametrize(
    "value",
    [
        "Basic " + in_base64(b"user:Tr0ub4dor-3x").rstrip("="),
        "Basic  " + in_base64(b"user:Tr0ub4dor-3x"),
        "basic\t" + in_base64("us\u00e9r:Tr0ub4dor-3x".encode("latin-1")),
        "ApiKey " + in_base64(b"id:Tr0ub4dor-3x"),
        "session=Tr0ub4dor-3x; theme=darkmode",
        "theme=darkmode; session=Tr0ub4dor-3x",
        "CF_Authorization=Tr0ub4dor-3x",
        'Token token="Tr0ub4dor-3x", email="x@y.example"',
        'Digest username="operator", realm="production", response="Tr0ub4dor-3x", uri="/api/v2/heartbeat"',
        "Tr0ub4dor-3x,second-One-44",
        "Bearer Tr0ub4dor-3x \n",
        "json://vault.example/hook?to" + "ken=Tr0ub4dor-3x",
    ],
)
def test_each_secret_part_of_a_header_is_known(value: str) -> None:
    parts = errors.secret_parts(value)
    assert "Tr0ub4dor-3x" in parts
    words = (
        "session",
        "darkmode",
        "operator",
        "production",
        "username",
        "response",
        "/api/v2/heartbeat",
        "vault.example",
    )
    assert not {*words} & {*parts}, "a word that every report may hold"


def test_a_password_with_letters_that_are_no_utf_8_is_known() -> None:
    assert "p\u00e4ssw0rdX" in errors.secret_parts("Basic " + in_base64("user:p\u00e4ssw0rdX".encode("latin-1")))


def test_the_words_of_a_passphrase_are_none_each_for_itself() -> None:
    assert not {"correct", "horse", "battery"} & {*errors.secret_parts("correct horse battery staple")}


PARTLY = "Zq7!p(9)x*/aB+cD=eF&gH'kLm#8=="
AS_JSON, AS_HTML = json.dumps(PARTLY), PARTLY.replace("&", "&amp;")
ESCAPED = {
    "encodeURIComponent": quote(PARTLY, safe="!()*'"),
    "encodeURIComponent, small letters": quote(PARTLY, safe="!()*'").replace("%2F", "%2f"),
    "Mustache": AS_HTML.replace("'", "&#39;").replace("/", "&#x2F;").replace("=", "&#x3D;"),
    "Handlebars": AS_HTML.replace("'", "&#x27;").replace("=", "&#x3D;"),
    "PHP": AS_HTML.replace("'", "&#039;"),
    "PHP for HTML 5": AS_HTML.replace("'", "&apos;"),
    "PHP, JSON of HTML": json.dumps(AS_HTML.replace("'", "&#039;")).replace("/", "\\/"),
    "Go, HTML": AS_HTML.replace("'", "&#39;").replace("+", "&#43;"),
    "Go, JSON": AS_JSON.replace("&", "\\u0026"),
    "Go, JSON of HTML": json.dumps(AS_HTML.replace("+", "&#43;")).replace("&", "\\u0026"),
    "Gson": AS_JSON.replace("&", "\\u0026").replace("=", "\\u003d").replace("'", "\\u0027"),
    "Gson in our JSON": json.dumps(AS_JSON.replace("&", "\\u0026").replace("=", "\\u003d")),
    "ASP.NET": AS_JSON.replace("&", "\\u0026").replace("+", "\\u002B"),
    "PHP, JSON": AS_JSON.replace("/", "\\/"),
    "a shell": PARTLY.replace("'", "\\x27"),
    "hexadecimal, mixed": "".join(f"{b:02x}" if i % 2 else f"{b:02X}" for i, b in enumerate(PARTLY.encode())),
    "HTML, three digits": "".join(f"&#{ord(c):03d};" for c in PARTLY),
    "HTML, hexadecimal, large": "".join(f"&#x{ord(c):X};" for c in PARTLY),
    "HTML, names": AS_HTML.replace("=", "&equals;").replace("+", "&plus;").replace("/", "&sol;"),
    "HTML twice": PARTLY.replace("=", "&amp;#x3D;"),
    "quoted-printable, some": PARTLY.replace("=", "=3D").replace("!", "=21"),
    "base64 of UTF-16, the other way round": base64.b64encode(PARTLY.encode("utf-16-be")).decode(),
    "hexadecimal of UTF-16, the other way round": PARTLY.encode("utf-16-be").hex(),
    "base64 in JSON": base64.b64encode(PARTLY.encode()).decode().replace("/", "\\/").replace("+", "\\u002b"),
}


@pytest.mark.parametrize("how", sorted(ESCAPED))
def test_a_secret_with_some_characters_escaped_is_neither_shown_nor_kept(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_TOKEN", f"Bearer {PARTLY}")
    (tmp_path / "a.log").write_text(f"ä denied for key {ESCAPED[how]}&amp; more", encoding="utf-8")
    assert {hit[:2] for hit in secret_scan.search(tmp_path, [REFERENCE]).hits} == {("a.log", "env:CHROMA_TOKEN")}
    shown = errors.redacted(f"ä denied for key {ESCAPED[how]}&amp; more")
    assert re.fullmatch(r'ä denied for key (\\?")*<secret env:CHROMA_TOKEN>.{0,7}&amp; more', shown), shown


def test_what_stands_before_a_secret_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`=c2` is quoted-printable for one byte, and may be the beginning of a value. Other escapes stay as they are."""
    monkeypatch.setenv("CHROMA_TOKEN", "Bearer c2Vj/mV0q81Nw==")
    (tmp_path / "a.log").write_text("key=c2Vj&#x2F;mV0q81Nw&#x3D;&#x3D;")
    assert secret_scan.search(tmp_path, [REFERENCE]).hits
    shown = errors.redacted("a &#x2F; key=c2Vj&#x2F;mV0q81Nw&#x3D;&#x3D; %2F 100%c2Vj&#47;mV0q81Nw==")
    assert shown == "a &#x2F; key=<secret env:CHROMA_TOKEN> %2F 100%<secret env:CHROMA_TOKEN>"


@pytest.mark.parametrize(
    "text", [b"\\" * 10**6, b"&amp;" * 10**5, b"&#0" * 10**5, b"%25" * 10**5, b"\\u0026amp;" * 10**5]
)
def test_a_text_of_escapes_alone_is_read_in_one_pass(text: bytes) -> None:
    before = time.process_time()
    for _, read in errors.decodings(text):
        assert len(read) <= len(text)
    assert time.process_time() - before < 5, "a few tenths of a second; with repetition in repetition it has no end"


def test_a_password_inside_of_basic_is_searched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_TOKEN", "Basic " + base64.b64encode(b"admin:Tr0ub4dor-3x").decode())
    (tmp_path / "run.log").write_text("login of admin with Tr0ub4dor-3x failed")
    assert [name for name, _, _ in secret_scan.search(tmp_path, [REFERENCE]).hits] == ["run.log"]


def test_user_info_in_a_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    runbook = Runbook(tmp_path)
    done = runbook("run", runbook.write("night", "url: 'http://admin:hunter2@old:8000'", "path: target"))
    assert done.returncode == 2
    assert "must not hold a user name or password" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout


@pytest.mark.slow
def test_no_byte_holds_a_secret_that_the_server_answers_with(tmp_path: Path) -> None:
    """From step 12 on every read of chunks is answered by an error that repeats the header."""
    token = "s3cret/token+of=the night?".replace(" ", "-")
    with embedded(tmp_path / "source") as store:
        fill(store, "alpha", chunks(30, 4))
    with ChromaServer(tmp_path / "source") as server, FaultyProxy(server.url) as proxy:
        runbook = Runbook(tmp_path)
        headers = "headers: {Authorization: 'env:CHROMA_TOKEN'}"
        people = Signers(tmp_path / "keys")
        file = runbook.write("night", f"url: '{proxy.url}', {headers}", "path: target", people.parameter())
        given = {"CHROMA_TOKEN": f"Bearer {token}"}
        done = runbook("run", file, "--run-id", "one", "--until", "11", environment=given)
        assert done.returncode == 0, done.stderr
        assert any(h.get("authorization") == f"Bearer {token}" for _, _, h in proxy.requests)
        proxy.fault = lambda _method, path: ECHO if path.endswith("/get") else PASS
        failed = runbook("resume", "one", environment=given)
    assert failed.returncode == 1, failed.stdout
    said = (failed.stdout + failed.stderr + done.stdout + done.stderr).encode()
    everything = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "source" not in p.parts]
    needles = [needle for part in (token, f"Bearer {token}") for _, needle in secret_scan.byte_encodings(part)]
    assert [n for n in needles for data in [said, *everything] if n in data] == []
    assert "secret env:CHROMA_TOKEN" in (tmp_path / "reports" / "one" / "run.log").read_text(encoding="utf-8")
