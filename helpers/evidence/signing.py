"""Signatures by OpenSSH: `ssh-keygen -Y` signs and verifies, so that passphrases, agents and hardware keys work.

Each role has its own namespace: a signature as DBA is not valid for the security officer, whatever the key allows. The list
of signers has ssh-keygen's ALLOWED SIGNERS format; the file beside it with the suffix `.revoked` (public keys, or a key
revocation list) revokes keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from helpers import audit
from helpers.audit import fingerprint, make_key, program
from helpers.errors import EnvironmentFailure, RunbookError, UsageError, one_line
from helpers.reason_codes import ReasonCode
from helpers.results import contents, json_in

REHEARSAL = "REHEARSAL"  # prefix of the principals of throw-away keys
SEAL = "seal"  # the role of the runner, which signs every seal
RUNNER = "runner"  # a seal's field: the key that signed it
ALLOWED, REVOKED = audit.ALLOWED, audit.REVOKED
TOKEN = ".tsr"
_LONGEST = 2**14  # characters of a line of allowed signers; the longest key has 3,000
_SECONDS = 10.0  # time-out of a time-stamping authority
_TIME = re.compile(r"^Time stamp: (\w{3} +\d+ [\d:]+)(?:\.\d+)? (\d{4}) GMT", re.M)
_PRIVATE = b"openssh-key-v1\0"
_OPTION = re.compile(r'\s*([a-z-]+)(?:="([^"]*)")?(?:,|\s+|$)', re.I)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_KRL = b"SSHKRL\n\0"  # how a binary revocation list begins
_ANSWERS: dict[tuple[object, ...], Signer | str] = {}
AnySeal = TypeVar("AnySeal", bound="Sealed")
_GOOD = re.compile(rb'Good "[^"]*" signature (?:for .* )?with \S+ key (SHA256:\S+)')


class Refused(RunbookError):
    """A signature is not valid; `what` is the reason."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer: the principal in the list of allowed signers, and the key's fingerprint (`SHA256:…`)."""

    principal: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """One line of an allowed signers file."""

    principals: str
    namespaces: str
    valid_after: str
    valid_before: str
    fingerprint: str

    def signs_for(self, role: str) -> bool:
        patterns = self.namespaces.split(",") if self.namespaces else ["*"]
        return any(fnmatchcase(namespace(role), pattern) for pattern in patterns)

    def valid_at(self, when: datetime) -> bool:
        after, before = (_timestamp(t) for t in (self.valid_after, self.valid_before))
        return (after is None or when >= after) and (before is None or when < before)


def namespace(role: str) -> str:
    """The namespace in which a role signs."""
    return f"runbook-{role}"


def command(key: str, role: str, statement: str) -> list[str]:
    """The command that signs a statement in this role and writes the signature to `<statement>.sig`."""
    return ["ssh-keygen", "-Y", "sign", "-f", key, "-n", namespace(role), statement]


def sign(data: bytes, role: str, key: Path) -> bytes:
    """Sign these bytes with this key (a private one, or a public one whose private key an agent holds); return the signature.

    Prompts (passphrase, touch) go to the terminal. UsageError if ssh-keygen fails.
    """
    path = program()
    if not key.is_file():
        raise UsageError(
            ReasonCode.NO_KEY, f"there is no key {one_line(str(key))}", next_step="Name yours with --key FILE."
        )
    with tempfile.TemporaryDirectory(prefix="runbook-sign-") as folder:
        statement = Path(folder) / "statement.json"
        statement.write_bytes(data)
        stderr = None if sys.stderr.isatty() else subprocess.PIPE
        done = subprocess.run(
            [path, *command(str(key), role, str(statement))[1:]], stdout=subprocess.PIPE, stderr=stderr, check=False
        )
        signature = statement.with_name("statement.json.sig")
        if done.returncode == 0 and signature.is_file():
            return signature.read_bytes()
    lines = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines() or ["see above"]
    raise UsageError(
        ReasonCode.NOT_SIGNED, f"ssh-keygen did not sign with {one_line(str(key))}: {one_line(lines[-1], 200)}",
        next_step="Give a private key, or the public one of a key that your ssh-agent holds.",
    )  # fmt: skip


def verify(data: bytes, signature: Path, role: str, allowed: Path, when: datetime) -> Signer:
    """Verify a signature of these bytes in this role at that time; return the signer, or raise `Refused` with the reason."""
    if not signature.is_file():
        raise _refused(f"{signature.name} is missing")
    if not allowed.is_file():
        raise _refused("there is no list of allowed signers")
    revoked = allowed.with_name(allowed.name + REVOKED)
    key = (data, role, when, *(_read(p) if p.is_file() else b"" for p in (signature, allowed, revoked)))
    if key not in _ANSWERS:  # cached: pages and gates verify the same signatures repeatedly
        _ANSWERS[key] = _verify(data, signature, role, allowed, when)
    answer = _ANSWERS[key]
    if isinstance(answer, str):
        raise _refused(answer)
    return answer


def _verify(data: bytes, signature: Path, role: str, allowed: Path, when: datetime) -> Signer | str:
    """The signer, or the reason why the signature is not valid."""
    try:
        _rows(allowed, _read(allowed))
    except UsageError as error:
        return error.what
    time = [f"-Overify-time={when.astimezone(UTC):%Y%m%d%H%M%SZ}"]
    matching = _keygen(["find-principals", *time, "-s", str(signature), "-f", str(allowed)], data)
    principals = matching.stdout.decode("utf-8", "replace").splitlines() if matching.returncode == 0 else []
    revoked = allowed.with_name(allowed.name + REVOKED)
    options = [*time, *(["-r", str(revoked)] if revoked.is_file() else [])]
    for principal in principals:
        arguments = ["-f", str(allowed), "-I", principal, "-n", namespace(role), "-s", str(signature)]
        verified = _keygen(["verify", *options, *arguments], data)
        if verified.returncode == 0 and (good := _GOOD.search(verified.stdout)):
            return Signer(principal, good[1].decode("ascii"))
    return _refusal(data, signature, role, allowed, when)


def _refusal(data: bytes, signature: Path, role: str, allowed: Path, when: datetime) -> str:
    try:
        signed_namespace, key = _parse_signature(_read(signature).decode("ascii"))
    except ValueError:
        return f"{signature.name} is not a signature"
    if signed_namespace != namespace(role):
        return f"it was signed in the namespace {one_line(signed_namespace, 80)}, not in {namespace(role)}"
    checked = _keygen(["check-novalidate", "-n", signed_namespace, "-s", str(signature)], data)
    if checked.returncode != 0:
        return "the signature does not fit the statement"
    lines = [line for line in read_allowed(allowed) if line.fingerprint == key]
    if not lines:
        return f"the key {key} is not among the allowed signers"
    if not any(line.valid_at(when) for line in lines):
        spans = ", ".join(f"{line.valid_after or '…'} to {line.valid_before or '…'}" for line in lines)
        return f"the key {key} was not valid at the time of signing (it is from {spans})"
    if not any(line.signs_for(role) for line in lines):
        return f"the key {key} may not sign as {role}"
    if allowed.with_name(allowed.name + REVOKED).is_file():
        return f"the key {key} is revoked"
    return f"ssh-keygen does not accept the key {key}"


def read_allowed(path: Path) -> list[Allowed]:
    """Read a list of allowed signers; UsageError if it cannot be read or a line is invalid."""
    try:
        data = contents(path.resolve())
        data.decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise _bad_list(path, f"cannot be read ({reason})") from error
    return [_allowed(path, n, line) for n, line in _rows(path, data)]


def _rows(path: Path, data: bytes) -> list[tuple[int, str]]:
    """(number, line) of a list's lines without comments; UsageError for control characters (line ends to others)."""
    lines = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if match := _CONTROL.search(line):
            raise _bad_list(path, f"has the control character {match[0]!a} on line {number}: take it out")
    rows = ((n, line.strip(" \t")) for n, line in enumerate(lines, 1))
    return [(n, line) for n, line in rows if line and not line.startswith("#")]


def ordered_digest(log: Iterable[Mapping[str, Any]]) -> str:
    """The digest of the lists that a resume ordered last, by these entries; "" after they were taken and sealed."""
    order, taken = "", False
    for entry in log:
        facts = entry["facts"]
        if entry["action"] == "parameters changed":
            order, taken = facts.get("signers", order), taken and "signers" not in facts
        elif entry["action"] == audit.TAKEN:
            taken = True
        elif taken and entry["action"] == "seal":
            order = ""
    return order


def is_narrower(now: Mapping[str, bytes | None], earlier: Mapping[str, bytes | None]) -> bool:
    """Whether each key may sign at most what it could before: lines were removed, or keys revoked. `now`, `earlier`: contents
    of the lists, as `audit.signer_lists` gives them."""
    revoked, earlier_revoked = (lists[ALLOWED + REVOKED] or b"" for lists in (now, earlier))
    # A revocation list may be new, or grow at its end (it may be binary). A line of text that grows would name another key.
    separate = earlier_revoked.startswith(_KRL) or b"\n" in (earlier_revoked[-1:], revoked[len(earlier_revoked) :][:1])
    if not revoked.startswith(earlier_revoked) or not (separate or earlier_revoked in (b"", revoked)):
        return False
    current, previous = (lists[ALLOWED] or b"" for lists in (now, earlier))
    if current == previous:
        return True
    try:
        ours, theirs = _lines_by_key(current), _lines_by_key(previous)
        # ssh-keygen uses a key's first line: without it, the next one would count.
        is_prefix = all(lines == theirs.get(key, [])[: len(lines)] for key, lines in ours.items())
    except (RunbookError, ValueError):
        return False
    return is_prefix and set(current.split(b"\n")) <= {b"", *previous.split(b"\n")}


def _lines_by_key(listed: bytes) -> dict[str, list[str]]:
    by_key: dict[str, list[str]] = {}
    for number, line in _rows(Path(ALLOWED), listed):
        by_key.setdefault(_allowed(Path(ALLOWED), number, line).fingerprint, []).append(line)
    return by_key


def problems(path: Path, roles: Sequence[str], when: datetime, *, rehearsal: bool = False) -> Iterator[str]:
    """Yield what prevents these roles from signing at that time: no line for a role, no valid key."""
    lines = read_allowed(path)
    for role in roles:
        own_lines = [line for line in lines if line.signs_for(role)]
        if not own_lines:
            yield f"nobody may sign as {role} (no line has namespaces={namespace(role)!r})"
        elif not any(line.valid_at(when) for line in own_lines):
            yield f"no key of {role} is valid at {when:%Y-%m-%d %H:%M} UTC"
    if not rehearsal and any(REHEARSAL in line.principals for line in lines):
        yield "it lists the throw-away keys of a rehearsal"


def statement_of(path: Path) -> dict[str, Any]:
    """The contents of a statement's file; {} if it is not one."""
    try:
        return statement_in(contents(path))
    except (OSError, ValueError):
        return {}


def statement_in(data: bytes) -> dict[str, Any]:
    """The contents of a statement's bytes; {} if they are not one."""
    try:
        statement = json_in(data)
    except ValueError:
        return {}
    return statement if isinstance(statement, dict) else {}


def signed_by(data: bytes, signature: Path, role: str) -> str:
    """The fingerprint of the key that signed these bytes in this role's namespace; `Refused` with the reason otherwise."""
    if not signature.is_file():
        raise _refused(f"{signature.name} is missing")
    armored = _read(signature)
    if armored != _armored(armored):  # ssh-keygen ignores blanks and line ends
        raise _refused(f"{signature.name} is not as ssh-keygen writes signatures")
    done = _keygen(["check-novalidate", "-n", namespace(role), "-s", str(signature)], data)
    if done.returncode == 0 and (good := _GOOD.search(done.stdout)):
        return good[1].decode("ascii")
    raise _refused("the signature does not fit")


def runner(given: Path | None, workspace: Path, required: bool, envelope: str) -> tuple[Path | None, dict[str, str]]:
    """(path of the key that signs seals, a seal's field about it). Without ssh-keygen: (None, unsigned), if no role must sign."""
    try:
        key = audit.runner_key(given, workspace)
    except EnvironmentFailure as error:
        if given or required:
            raise
        return None, {"principal": audit.operator(), "unsigned": error.what}
    public, fingerprint_ = audit.public_key(key)
    try:
        raw(b"can this key sign so?", key)
        as_dsse = {"envelope": envelope}
    except Refused as error:
        as_dsse = {"no_envelope": error.what}
    return key, {"principal": audit.operator(), "key": public, "fingerprint": fingerprint_, **as_dsse}


class Sealed(Protocol):
    """The parts of a seal (`statement.Seal`) that `custody` needs."""

    @property
    def path(self) -> Path: ...
    @property
    def data(self) -> bytes: ...
    @property
    def predicate(self) -> Mapping[str, Any]: ...
    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def created(self) -> str: ...


def custody(
    chain: Iterable[AnySeal], own: Callable[[], str] = str, signers: Path | None = None
) -> Iterator[tuple[AnySeal, str, str]]:
    """Yield (seal, fingerprint of the key that signed it or "", problem or ""). This is the only place that judges it.

    A seal is signed by the runner that it names, with the key of the last good seal or with our `own`. Seals before the first
    signed one need no signature. `signers`, a list from outside, must allow each signature; then any allowed key may follow.
    """
    key, number = "", 0
    for seal in chain:
        runner_field = seal.predicate.get(RUNNER)
        if runner_field is None or "unsigned" in runner_field:
            yield seal, "", f"{seal.name}: not signed, but seal {number} is" if number else ""
            continue
        program()
        signature, problem = seal.path.with_name(f"{seal.path.name}.sig"), ""
        try:
            key_now = _key_of_seal(seal.data, signature, signature.stat().st_mtime_ns)
            if signers is not None:
                verify(seal.data, signature, SEAL, signers, datetime.fromisoformat(seal.created))
        except FileNotFoundError:
            key_now, problem = "", f"{seal.name}.sig: {signature.name} is missing"
        except (RunbookError, OSError) as error:
            key_now, problem = "", f"{seal.name}.sig: {getattr(error, 'what', error)}"
        else:
            if key_now != runner_field.get("fingerprint"):
                problem = f"{seal.name}: signed with {key_now}, but names {one_line(str(runner_field.get('fingerprint')), 80)}"
            elif key not in ("", key_now) and signers is None and key_now != own():
                problem = f"{seal.name}: signed with the key {key_now}, not with the key of seal {number}"
        yield seal, key_now, problem
        if not problem:
            key, number = key_now, seal.number


@cache  # unbounded: each state of a run checks all of its seals
def _key_of_seal(data: bytes, signature: Path, stamp: int) -> str:
    return signed_by(data, signature, SEAL)


def raw(data: bytes, key: Path) -> bytes:
    """The plain ed25519 signature of these bytes (64 bytes, not SSHSIG), for other tools.

    `Refused` with the reason if the key is of another kind, has a passphrase, or is held by an agent or a token.
    """
    try:
        lines = contents(key.resolve()).decode("ascii").split("\n")
        blob = base64.b64decode("".join(line for line in lines if not line.startswith("-")), validate=True)
        cipher, _, _, rest = _fields(blob.removeprefix(_PRIVATE), 3)
        if not blob.startswith(_PRIVATE) or cipher != b"none":
            raise ValueError(cipher)
        _, private, _ = _fields(rest[4:], 2)  # behind the number of keys
        kind, _, secret, _ = _fields(private[8:], 3)  # behind two numbers, which are equal where a passphrase was right
    except (OSError, ValueError):
        raise _refused("the private key is not in an OpenSSH file without a passphrase") from None
    if kind != b"ssh-ed25519":
        raise _refused(f"the key is {kind.decode('ascii', 'replace')}, not ssh-ed25519")
    with tempfile.TemporaryDirectory(prefix="runbook-sign-") as folder:
        file = Path(folder) / "data"
        file.write_bytes(data)
        pkcs8 = bytes.fromhex("302e020100300506032b657004220420") + secret[:32]
        return openssl(
            "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", "/dev/stdin", "-in", str(file), stdin=pkcs8
        )


def raw_signed(data: bytes, signature: bytes, public: str) -> bool:
    """Verify a plain ed25519 signature of these bytes. `public`: the public key as a line, as `audit.public_key` gives it."""
    with tempfile.TemporaryDirectory(prefix="runbook-verify-") as folder:
        file, sealed = Path(folder) / "data", Path(folder) / "signature"
        file.write_bytes(data)
        sealed.write_bytes(signature)
        spki = bytes.fromhex("302a300506032b6570032100") + base64.b64decode(public.split()[1])[-32:]
        options = ["-keyform", "DER", "-inkey", "/dev/stdin", "-in", str(file), "-sigfile", str(sealed)]
        try:
            openssl("pkeyutl", "-verify", "-pubin", "-rawin", *options, stdin=spki)
        except Refused:
            return False
    return True


def openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    """The output of openssl; `Refused` with its message if it fails or is missing."""
    if shutil.which("openssl") is None:
        raise _refused("openssl is not installed")
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"]
        raise _refused(f"openssl: {one_line(lines[-1], 200)}")
    return done.stdout


# -- time --------------------------------------------------------------------------------------------------------------

# Tokens of a time-stamping authority (RFC 3161) for seals: independent evidence of the time. `openssl ts` does the work.


def token(path: Path) -> Path:
    """The file of a seal's token."""
    return path.with_name(f"{path.name}{TOKEN}")


def request_timestamp(data: bytes, url: str) -> bytes:
    """Request a token for these bytes and check it; return the authority's reply. `Refused` with the reason otherwise."""
    import httpx  # slow to import

    from helpers.stores.wire import Session

    with tempfile.TemporaryDirectory(prefix="runbook-timestamp-") as folder:
        file = Path(folder) / "data"
        file.write_bytes(data)
        query = openssl("ts", "-query", "-data", str(file), "-sha256", "-cert")
        try:
            with Session(timeout=_SECONDS) as session:
                reply = session.post(url, content=query, headers={"Content-Type": "application/timestamp-query"})
                reply.raise_for_status()
        except (httpx.HTTPError, RunbookError) as error:
            raise _refused(
                f"the authority gave no token: {one_line(str(error) or type(error).__name__, 200)}"
            ) from error
        file.with_suffix(TOKEN).write_bytes(reply.content)
        stamped(file, file.with_suffix(TOKEN))
    return reply.content


def stamped(sealed: Path, reply: Path, authority: Path | None = None) -> datetime:
    """The time in a token, UTC; `Refused` if it is not for these bytes.

    `authority`: the CA certificate (PEM) of the token's signature; without it the signature is not checked.
    """
    # Extract the token: the rest of a reply is not signed, and could hold another time.
    with tempfile.TemporaryDirectory(prefix="runbook-timestamp-") as folder:
        token_file = Path(folder) / "token"
        _read(reply)
        openssl("ts", "-reply", "-in", str(reply), "-token_out", "-out", str(token_file))
        text = openssl("ts", "-reply", "-in", str(token_file), "-token_in", "-text").decode("utf-8", "replace")
        if authority is not None:
            trusted = ["-data", str(sealed), "-CAfile", str(authority)]
            openssl("ts", "-verify", "-in", str(token_file), "-token_in", *trusted)
    match = _TIME.search(text)
    if match is None:
        raise _refused("it is not a token that was granted")
    digest = hashlib.sha256(sealed.read_bytes()).hexdigest()
    dump = "".join(re.findall(r"^ +[0-9a-f]{4} - ((?:[0-9a-f]{2}[ -]){1,16})", text, re.M))
    if digest not in re.sub("[ -]", "", dump):
        raise _refused("it is a token for other bytes")
    return datetime.strptime(f"{match[1]} {match[2]}", "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)


# -- keys ---------------------------------------------------------------------------------------------------------------


def throw_away_keys(folder: Path, roles: Sequence[str]) -> Path:
    """Create keys for a rehearsal, `<folder>/<role>`, and their list of signers; return its path. Reuses existing keys."""
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    for role in roles:
        key, who = folder / role, f"{REHEARSAL}-{role}"
        if not key.with_suffix(".pub").is_file():
            key.unlink(missing_ok=True)
            make_key(key, who)
        kind, blob = key.with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        lines.append(f'{who} namespaces="{namespace(role)}" {kind} {blob}\n')
    allowed = folder / ALLOWED
    allowed.write_text("".join(lines), encoding="ascii")
    return allowed


def _keygen(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program(), "-Y", *arguments], input=data, capture_output=True, check=False)


def _allowed(path: Path, number: int, line: str) -> Allowed:
    """Parse `principals [options] keytype base64 …`; options are the words before the key's type."""
    principals, _, rest = line[:_LONGEST].replace("\t", " ").partition(" ")
    options: dict[str, str] = {}
    rest = rest.strip()
    while rest and not re.match(r"(ssh|sk|ecdsa)-|sk-", rest) and (match := _OPTION.match(rest)):
        options[match[1].lower()] = match[2] or ""
        rest = rest[match.end() :].strip()
    try:
        if len(line) > _LONGEST:
            raise ValueError(line)
        blob = base64.b64decode(rest.split()[1], validate=True)
        for name in ("valid-after", "valid-before"):
            _timestamp(options.get(name, ""))
    except (IndexError, ValueError, binascii.Error) as error:
        raise _bad_list(path, f"line {number} is not an allowed signer") from error
    spans = (options.get("valid-after", ""), options.get("valid-before", ""))
    return Allowed(principals.strip('"'), options.get("namespaces", ""), *spans, fingerprint(blob))


def _timestamp(text: str) -> datetime | None:
    """Parse ssh-keygen's YYYYMMDD[HHMM[SS]][Z]; without Z it is local time. None for ""; ValueError if invalid."""
    if not text:
        return None
    digits = text.rstrip("Zz")
    format_ = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if format_ is None:
        raise ValueError(f"no time: {text}")
    time = datetime.strptime(digits, format_)  # noqa: DTZ007
    return time.replace(tzinfo=UTC) if digits != text else time.astimezone(UTC)


def _parse_signature(armored: str) -> tuple[str, str]:
    """(namespace, fingerprint of the key) of an SSH signature; ValueError if it is none."""
    lines = [line.strip() for line in armored.strip().splitlines()]
    if len(lines) < 3 or lines[0] != "-----BEGIN SSH SIGNATURE-----" or lines[-1] != "-----END SSH SIGNATURE-----":
        raise ValueError("no armor")
    blob = base64.b64decode("".join(lines[1:-1]), validate=True)
    if not blob.startswith(b"SSHSIG"):
        raise ValueError("no signature")
    key, signed_in, _ = _fields(blob[10:], 2)  # behind the magic and the version
    return signed_in.decode("utf-8"), fingerprint(key)


def _fields(blob: bytes, count: int) -> list[bytes]:
    """The first `count` strings of OpenSSH's binary format, then the remaining bytes; ValueError if it is too short."""
    fields = []
    for _ in range(count):
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError("cut short")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return [*fields, blob]


def _armored(signature: bytes) -> bytes:
    """The signature in the form that ssh-keygen writes."""
    lines = signature.split()
    body = b"".join(lines[3:-3])
    wrapped = [body[at : at + 70] for at in range(0, len(body), 70)]
    return b"\n".join([b"-----BEGIN SSH SIGNATURE-----", *wrapped, b"-----END SSH SIGNATURE-----", b""])


def _read(path: Path) -> bytes:
    """Read a file, links followed; `Refused` if it is missing, not a regular file, or too large."""
    try:
        return contents(path.resolve())
    except (OSError, ValueError) as error:
        raise _refused(f"{path.name} cannot be read: {error}") from error


def _refused(reason: str) -> Refused:
    return Refused(ReasonCode.SIGNATURE_REFUSED, reason)


def _bad_list(path: Path, problem: str) -> UsageError:
    hint = "See parameters/allowed_signers.example."
    return UsageError(
        ReasonCode.ALLOWED_SIGNERS_BAD, f"the list of allowed signers {problem}", where=str(path), next_step=hint
    )
