"""Seals with tokens of a time-stamping authority: a local one, which `openssl ts` is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import cli, evidence
from helpers.cli.evidence import verify
from helpers.evidence import signing
from helpers.run.folders import RunFolder
from tests.conftest import require_component
from tests.signers import Signers, small_run

SETTINGS = """\
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
"""


class Authority:
    """An authority with a certificate of its own, `certificate`; it answers 503 while `down`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificate, self.down, self.asked = folder / "certificate.pem", False, 0
        key, settings = folder / "key.pem", folder / "settings"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Authority"]
        extension = ["-addext", "extendedKeyUsage=critical,timeStamping"]
        subprocess.run(
            [*make, *extension, "-keyout", str(key), "-out", str(self.certificate)], check=True, capture_output=True
        )
        settings.write_text(SETTINGS.format(folder=folder), encoding="ascii")
        (folder / "serial").write_text("01\n", encoding="ascii")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked += 1
                query = folder / "query"
                query.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
                signing = ["-signer", str(outer.certificate), "-inkey", str(key), "-out", str(folder / "reply")]
                reply = ["openssl", "ts", "-reply", "-config", str(settings), "-queryfile", str(query)]
                if not outer.down:
                    subprocess.run([*reply, *signing], check=True, capture_output=True)
                self.send_response(503 if outer.down else 200)
                body = b"busy" if outer.down else (folder / "reply").read_bytes()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    require_component("openssl", "it is the time-stamping authority, and checks its tokens")
    found = Authority(tmp_path_factory.mktemp("authority") / "here")
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> RunFolder:
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    authority.down = False
    signers = Signers(tmp_path / "keys")
    signoff = {"allowed_signers": str(signers.allowed), "timestamp_url": authority.url}
    found = small_run("night-1", signers, signoff=signoff)
    evidence.keep_sealed(found.read())
    return found


def about_seals(home: RunFolder, certificate: Path | None = None) -> list[str]:
    return [line for line in verify(home.reports, authority=certificate).problems if line.startswith("seals/")]


def test_every_seal_has_a_token_that_the_authority_s_certificate_proves(home: RunFolder, authority: Authority) -> None:
    evidence.at_rest(home.read())
    assert about_seals(home, authority.certificate) == []
    found = verify(home.reports, authority=authority.certificate)
    assert sum("existed at 20" in line for line in found.notes) == len(evidence.seals(home.reports))
    seal = evidence.seals(home.reports)[0].path
    checked = [
        "openssl",
        "ts",
        "-verify",
        "-in",
        f"{seal}.tsr",
        "-data",
        str(seal),
        "-CAfile",
        str(authority.certificate),
    ]
    assert subprocess.run(checked, check=False, capture_output=True).returncode == 0


def test_a_token_for_other_bytes_or_of_another_authority_is_named(
    home: RunFolder, authority: Authority, tmp_path: Path
) -> None:
    first, second = (signing.token(seal.path) for seal in evidence.seals(home.reports)[:2])
    other = Authority(tmp_path / "other")
    try:
        assert any("openssl" in line for line in about_seals(home, other.certificate))
    finally:
        other.server.shutdown()
        other.server.server_close()
    second.write_bytes(first.read_bytes())
    assert about_seals(home) == [f"seals/{second.name}: it is a token for other bytes"]
    second.write_bytes(b"no token")
    assert any(second.name in line for line in about_seals(home))
    second.unlink()
    assert any("without a time-stamp: 2" in line for line in about_seals(home, authority.certificate))


def sequence(*parts: bytes, tag: int = 0x30) -> bytes:
    """A DER value of less than 64 kB."""
    body = b"".join(parts)
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])
    return bytes([tag]) + length + body


def test_text_beside_the_token_that_nobody_signed_gives_no_time(home: RunFolder, authority: Authority) -> None:
    seal = evidence.seals(home.reports)[0].path
    file = signing.token(seal)
    alone = file.with_name("alone")
    told = ["openssl", "ts", "-reply", "-in", str(file), "-token_out", "-out", str(alone)]
    subprocess.run(told, check=True, capture_output=True)
    granted, text = b"\x02\x01\x00", b"ok\nTime stamp: Jan  1 00:00:00 2020 GMT"
    status = sequence(granted, sequence(sequence(text, tag=0x0C)))
    true = signing.stamped(seal, file, authority.certificate)
    token = alone.read_bytes()
    alone.unlink()
    file.write_bytes(sequence(status, token))
    assert signing.stamped(seal, file, authority.certificate) == true
    file.write_bytes(sequence(sequence(b"\x02\x01\x02", sequence(sequence(b"Status: Granted", tag=0x0C)))))
    with pytest.raises(signing.Refused):
        signing.stamped(seal, file)


def test_an_authority_that_is_down_stops_nothing_and_is_asked_again(home: RunFolder, authority: Authority) -> None:
    authority.down = True
    home.log("goes on")
    evidence.at_rest(home.read())
    newest = evidence.seals(home.reports)[-1]
    assert not signing.token(newest.path).exists()
    assert any(f"without a time-stamp: {newest.number}" in line for line in verify(home.reports).notes)
    authority.down = False
    evidence.at_rest(home.read())
    assert signing.token(newest.path).is_file()
    assert about_seals(home, authority.certificate) == []


def test_a_seal_that_claims_a_later_time_than_its_token_is_named(
    home: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["helpers.evidence.seals"], "utc_now", lambda: "2099-01-01T00:00:00.000+00:00")
    home.log("goes on")
    evidence.at_rest(home.read())
    assert any("is before that of the seal" in line for line in about_seals(home))


def test_a_certificate_that_is_not_there_is_one_line(
    home: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.pem"
    reports = ["--reports", str(home.reports.parent)]
    assert cli.main(["verify", home.id, "--timestamp-authority", str(missing), *reports]) == 2
    assert capsys.readouterr().err.strip().count("\n") <= 1
