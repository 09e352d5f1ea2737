"""Tokens of a time-stamping authority (RFC 3161) for seals: a time from elsewhere. `openssl ts` does the work."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from helpers.errors import RunbookError, one_line
from helpers.evidence.signing import Refused
from helpers.reason_codes import ReasonCode

SUFFIX = ".tsr"
_SECONDS = 10.0
_TIME = re.compile(r"^Time stamp: (\w{3} +\d+ [\d:]+)(?:\.\d+)? (\d{4}) GMT", re.M)


def token(path: Path) -> Path:
    """The file of a seal's token."""
    return path.with_name(f"{path.name}{SUFFIX}")


def request(data: bytes, url: str) -> bytes:
    """The authority's answer for these bytes, checked to be a token for them; `Refused`, with the reason, otherwise."""
    import httpx  # not for every command

    from helpers.stores.wire import Session

    with tempfile.TemporaryDirectory(prefix="runbook-timestamp-") as folder:
        file = Path(folder) / "data"
        file.write_bytes(data)
        query = _openssl("-query", "-data", str(file), "-sha256", "-cert")
        try:
            with Session(timeout=_SECONDS) as session:
                reply = session.post(url, content=query, headers={"Content-Type": "application/timestamp-query"})
                reply.raise_for_status()
        except (httpx.HTTPError, RunbookError) as error:
            raise _authority_refused(
                f"the authority gave no token: {one_line(str(error) or type(error).__name__, 200)}"
            ) from error
        file.with_suffix(SUFFIX).write_bytes(reply.content)
        stamped(file, file.with_suffix(SUFFIX))
    return reply.content


def stamped(sealed: Path, reply: Path, authority: Path | None = None) -> datetime:
    """The time in a token, UTC; `Refused` where it is not for these bytes.

    `authority` is the CA certificate that the token's signature must lead to, as PEM; without it the signature is not checked.
    """
    text = _openssl("-reply", "-in", str(reply), "-text").decode("utf-8", "replace")
    found = _TIME.search(text)
    if found is None or "Status: Granted" not in text:
        raise _authority_refused("it is not a token that was granted")
    digest = hashlib.sha256(sealed.read_bytes()).hexdigest()
    dump = "".join(re.findall(r"^ +[0-9a-f]{4} - ((?:[0-9a-f]{2}[ -]){1,16})", text, re.M))
    if digest not in re.sub("[ -]", "", dump):
        raise _authority_refused("it is a token for other bytes")
    if authority is not None:
        _openssl("-verify", "-in", str(reply), "-data", str(sealed), "-CAfile", str(authority))
    return datetime.strptime(f"{found[1]} {found[2]}", "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)


def _openssl(*arguments: str) -> bytes:
    """What `openssl ts` gives; `Refused` with its words where it fails or is missing."""
    if shutil.which("openssl") is None:
        raise _authority_refused("openssl is not installed")
    done = subprocess.run(["openssl", "ts", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"]
        raise _authority_refused(f"openssl: {one_line(said[-1], 200)}")
    return done.stdout


def _authority_refused(why: str) -> Refused:
    return Refused(ReasonCode.SIGNATURE_REFUSED, why)
