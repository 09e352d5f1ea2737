"""A seal's file: an in-toto Statement v1 over the files of a run, in canonical JSON; and the files that it covers.

Every file in a run's folder is one of these:

- sealed: a subject of the newest seal, by the SHA-256 of all its bytes;
- growing (`*.jsonl`, `*.log`): its present length and digest are sealed, because lines are only appended;
- derived (`index.html`, `VERIFY.txt`): generated from the others; `runbook verify` generates them again and compares;
- a seal: the next seal holds its digest, VERIFY.txt that of the newest.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from base64 import b64encode
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RUNBOOK, EnvironmentFailure, Terminal, UsageError, one_line
from helpers.evidence.signing import ALLOWED, REVOKED, custody, is_narrower, ordered_digest
from helpers.formatting import size
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, contents, file_digest, json_in, write_bytes
from helpers.run.folders import RunPath, RunState, check_run_id
from helpers.run.plan import Step

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:chroma-migration-runbook:seal:v1"
KIND = "urn:chroma-migration-runbook:sign-off:v1"  # the type of a role's statement
PAYLOAD = "application/vnd.in-toto+json"
ENVELOPE = ".dsse"
SEALS = "seals"
DERIVED = frozenset({RunPath.PAGE, RunPath.VERIFY})
GROWING = (".jsonl", ".log")
CHANGING = frozenset(
    {RunPath.RUN, RunPath.PARAMETERS, ALLOWED, ALLOWED + REVOKED, "rollback.html", "rollback-notice.txt"}
)
"""Files that the toolkit may rewrite, each time with a line in the audit log."""
MAY_BE_EMPTY = (RunPath.RESULTS, RunPath.FIGURES, RunPath.SIGNOFFS, RunPath.DRILLS)
LEADS_OUT = "is a link or a special file"
LARGEST = 64 * 2**30  # most bytes of a file that is only read for its digest
_READ_WHOLE = {*("", ".dsse", ".ipynb", ".json", ".sig", ".svg", ".tsr", ".txt", ".yaml"),
               audit.NAME, RunPath.NOTICES, *DERIVED}  # fmt: skip
_SEAL = re.compile(rf"{SEALS}/[^/]+")
_MISREAD = re.compile(r"""["\\]|(^|/)[- ]| (/|$)""")  # by plain commands: in quotes, an option, cut at its end
FIRST = "none"  # the first seal's `previous`
PUSHED = "digest pushed"  # the audit log's action for a push of a seal's digest, also for a failed one
LISTS = "lists"  # a seal's field: replaced lists of signers are kept
SEALED = "sealed"  # the audit log's action for a seal that was set; a seal's field: the log has such lines
SIGNATURE = re.compile(r"(?P<gate>[a-z-]+?)-(?P<role>[a-z]+(?:_[a-z]+)*)-(?P<when>\d{8}T\d{9}Z)\.json")
BEHIND = (  # a line behind the newest seal, and nothing else: a repeated name could be read as either
    r'\{"action": "(digest pushed|sealed)", "facts": \{"digest": "[0-9a-f]{64}", "number": [0-9]+(, "reason": "[a-z_]+", "why": '
    r'"([^"\\]|\\.)*")?\}, '
    r'"host": "[^"]*", "outcome": "[a-z]+", "previous": "[0-9a-f]{64}", "process": [0-9]+, ("signature": "[^"]*", )?'
    r'"user": "[^"]*", "when": "[^"]*"\}'
)
_LONGEST = 2**16  # bytes of such a line
# The errors of step 20 or 25 at a closed gate: it changed nothing.
REFUSED = (ReasonCode.NOT_SIGNED, ReasonCode.SIGNOFFS_MISSING, ReasonCode.SIGNED_NO_GO, ReasonCode.NO_DECISION)


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal: `digest` is the SHA-256 of its file; `subjects` and `prefixes` are by path in the run's folder."""

    path: Path
    digest: str
    predicate: Mapping[str, Any]
    subjects: Mapping[str, str]
    prefixes: Mapping[str, tuple[int, str]]
    data: bytes = b""  # the file

    @property
    def name(self) -> str:
        """Its path in the run's folder."""
        return f"{SEALS}/{self.path.name}"

    @property
    def number(self) -> int:
        return int(self.predicate["number"])

    @property
    def after(self) -> str:
        """The step after which it was set, such as "24"; "" for the end of a command."""
        return str(self.predicate["after"])

    @property
    def created(self) -> str:
        """The time when it was set, UTC, ISO 8601."""
        return str(self.predicate["created"])

    @property
    def previous(self) -> str:
        """SHA-256 of the seal before it, "none" for the first."""
        return str(self.predicate["previous"])

    @property
    def previous_name(self) -> str:
        """The path of the seal before it, "none" for the first."""
        return str(self.predicate["previous_name"])


@dataclass(frozen=True, slots=True)
class Measured:
    """The files in a run's folder: SHA-256 by path, and (bytes, SHA-256) of growing files."""

    subjects: dict[str, str]
    prefixes: dict[str, tuple[int, str]]


def canonical(value: Any) -> bytes:
    """Canonical JSON: one line, sorted keys, no blanks, UTF-8. The same value gives the same bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def statement(measured: Measured, predicate: Mapping[str, Any]) -> bytes:
    """The bytes of a seal over these files."""
    prefixes = [{"bytes": n, "name": name, "sha256": digest} for name, (n, digest) in sorted(measured.prefixes.items())]
    return canonical(
        {
            "_type": TYPE,
            "predicate": {**predicate, "prefixes": prefixes},
            "predicateType": PREDICATE,
            "subject": [{"digest": {"sha256": d}, "name": name} for name, d in sorted(measured.subjects.items())],
        }
    )


def read_seal(path: Path, data: bytes | None = None) -> Seal:
    """Parse the seal in this file. `data`: its bytes, if known. ValueError with the reason if it is not a seal."""
    data = contents(path) if data is None else data
    try:
        document = json_in(data)
        predicate = document["predicate"]
        subjects = {str(s["name"]): str(s["digest"]["sha256"]) for s in document["subject"]}
        prefixes = {str(p["name"]): (int(p["bytes"]), str(p["sha256"])) for p in predicate["prefixes"]}
        seal = Seal(path, hashlib.sha256(data).hexdigest(), predicate, subjects, prefixes, data)
        valid = document["_type"] == TYPE and document["predicateType"] == PREDICATE and seal.number > 0
        valid = valid and re.fullmatch(rf"{seal.number:04d}-[0-9TZ.]+\.json", path.name) is not None
        valid = valid and bool(seal.previous and seal.previous_name and seal.created)
        names = (*subjects, *prefixes)  # only paths in the folder
        valid = valid and not any({"", ".."} & {*name.split("/")} for name in names)
        check_run_id(str(predicate["run"]["id"]))  # VERIFY.txt, a script, contains it
        canon = canonical(document) == data
    except (ValueError, KeyError, TypeError, OverflowError, UsageError) as error:  # OverflowError: an infinite number
        raise ValueError("it is not a seal") from error
    if not (valid and canon):
        raise ValueError("it is not a seal as this toolkit writes them")
    return seal


def read_once(path: Path) -> Seal:
    """As `read_seal`, cached as long as the file's metadata are unchanged. Raises OSError, too."""
    facts = path.stat()
    return _read_version(path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(maxsize=4096)
def _read_version(path: Path, *_version: int) -> Seal:
    return read_seal(path)


def trust(chain: Iterable[Seal], own: str = "", signers: Path | None = None) -> audit.Trust | None:
    """Which lines of the audit log are proven, by the keys in valid seals (`custody`) and by this workspace's key `own`.

    Lines of an older toolkit, or of one without ssh-keygen, are proven by the seals that name no key. None if nothing is signed.
    """
    since, keys, chain = 0, {own} - {""}, list(chain)
    with suppress(EnvironmentFailure):  # without ssh-keygen no signature can be verified
        for seal, key, problem in custody(chain, lambda: own, signers):
            if problem or (signers is not None and not key):
                continue
            if name := seal.predicate.get(audit.LOG_KEY) if key else None:
                keys.add(str(name))
            elif not (own and audit.begun_here(seal.path.parent.parent)):
                since = max(since, seal.prefixes.get(audit.NAME, (0, ""))[0])
    is_signed = keys or signers is not None or any(seal.predicate.get(audit.LOG_KEY) for seal in chain)
    return audit.Trust(frozenset(keys), since) if is_signed else None


def trusted(folder: Path, signers: Path | None = None) -> audit.Trust | None:
    """As `trust`, by the seals in a run's folder. With `signers`, this workspace's key counts only if a seal names it."""
    chain = []
    for path in sorted((folder / SEALS).glob("[!.]*.json")):
        with suppress(OSError, ValueError):  # `seals` and `verify` report it
            chain.append(read_once(path))
    return trust(chain, "" if signers else audit.own_key(), signers)


def logged_changes(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """The (file, digest) of each change that these entries of the log name."""
    return {(str(e["facts"].get("file")), str(e["facts"]["sha256"])) for e in entries if "sha256" in e["facts"]}


def foreign_line(path: Path, trust: audit.Trust | None, sealed: int, first: str) -> str:
    """The first problem of a run's log that the toolkit did not cause, in words; "" if there is none.

    `sealed`: the number of bytes that a seal covers. `first`: the digest of the first line, if known. A torn line is accepted
    if a line of the toolkit closes it, or at the end of the log.
    """
    lines = audit.lines_of(path)
    if first and sha256(lines[0] if lines else b"") != first:
        return "its first line is not the one with which the run began"
    if broken := audit.check(path, torn=True):
        return f"line {broken.line}: {broken.why}"
    offset, closed = 0, audit.closed(lines)
    for number, line in enumerate(lines, start=1):
        begins, offset = offset, offset + len(line) + 1
        if trust is None or not line or number in closed or begins < max(sealed, trust.since):
            continue
        torn = number == len(lines) and not audit.is_entry(line)
        if not torn and audit.signer(path.parent.name, line) not in trust.keys:
            return f"line {number} is not signed by the toolkit's key"
    return ""


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of this payload: the bytes to sign."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def envelope(payload: bytes, signature: bytes, key: str) -> bytes:
    """A DSSE envelope; `key` is the fingerprint of the key that signed."""
    signed = {"keyid": key, "sig": b64encode(signature).decode()}
    return canonical({"payload": b64encode(payload).decode(), "payloadType": PAYLOAD, "signatures": [signed]})


def files(folder: Path) -> list[str]:
    """The paths, sorted, of the files that a seal covers. Raises `EnvironmentFailure` if a file is `unsealable`."""
    if refused := unsealable(folder):
        name, reason = next(iter(refused.items()))
        raise EnvironmentFailure(
            ReasonCode.NOT_SEALABLE, f"{one_line(name, 200)} {reason}, so the run is not sealed", where=str(folder),
            next_step="Move it out of the folder of the run.",
        )  # fmt: skip
    return covered_files(folder)


def covered_files(folder: Path) -> list[str]:
    """As `files`, without the check."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in DERIVED and not _SEAL.fullmatch(name))


def unsealable(folder: Path) -> dict[str, str]:
    """The files that may not be in a run's folder, with the reason, by path. Opens nothing: there may be links and pipes."""
    refused = {}
    for path in sorted(folder.rglob("*")):
        name, facts = path.relative_to(folder).as_posix(), path.lstat()
        if stat.S_ISDIR(facts.st_mode):
            continue
        if not stat.S_ISREG(facts.st_mode):
            refused[name] = LEADS_OUT
        elif not name.isprintable() or _MISREAD.search(name):
            refused[name] = "has a name that cannot be sealed"  # nor checked by plain commands
        elif facts.st_size > most_of(path):
            refused[name] = f"is larger than {size(most_of(path))}"
    return refused


def most_of(path: Path) -> int:
    """The most bytes that a file of this name may have; less for files that are read as a whole."""
    return MOST_READ if {path.suffix, path.name} & _READ_WHOLE else LARGEST


def measure(folder: Path, known: Mapping[str, str] | None = None) -> Measured:
    """Compute the digests of all files that a seal of this folder covers. `known`: digests that are known already."""
    names, known = files(folder), known or {}
    logs = [name for name in names if "/" not in name and name.endswith(GROWING)]
    subjects = {name: known.get(name) or digest_of(folder / name) for name in names if name not in logs}
    return Measured(subjects, log_prefixes(folder, logs))


def log_prefixes(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """The present (length in bytes, SHA-256) of these logs of a run."""
    return {n: (length := (folder / n).stat().st_size, prefix_digest(folder / n, length)) for n in names}


def digest_of(path: Path) -> str:
    """SHA-256 of the file, hexadecimal; "" if it is missing, not a regular file, or too large."""
    return file_digest(path) if _is_plain(path) else ""


def kept_copies(folder: Path, part: str) -> dict[tuple[str, str], Path]:
    """Every JSON file in this part of a run's folder, and its copies below `earlier/`, by (name, digest)."""
    paths = (*folder.glob(f"earlier/*/{part}/*.json"), *folder.glob(f"{part}/*.json"))
    return {(path.name, digest_of(path)): path for path in paths}


def signers_of(folder: Path, seal: Seal) -> Path | None:
    """The path of the list of signers (with the revoked keys beside it) that this seal covers; None if it is missing."""
    digests = [seal.subjects.get(name, "") for name in (ALLOWED, ALLOWED + REVOKED)]
    lists = (folder / ALLOWED, *sorted(folder.glob(f"earlier/*/{ALLOWED}")))
    return next((path for path in lists if [digest_of(path), digest_of(Path(f"{path}{REVOKED}"))] == digests), None)


def reviewed(folder: Path, seal: Seal) -> dict[str, Any] | None:
    """The facts of the result of step 24 that this seal covers, also below `earlier/`; None if it is missing."""
    name = f"{RunPath.RESULTS}/{Step.REVIEW}.json"
    digest = seal.subjects.get(name)
    for path in (folder / name, *sorted(folder.glob(f"earlier/*/{name}"))):
        if digest and digest_of(path) == digest:
            try:
                facts = json_in(contents(path)).get("facts")
            except (ValueError, AttributeError):
                facts = None
            return facts if isinstance(facts, dict) else {}
    return None


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= most_of(path)


def prefix_digest(path: Path, length: int) -> str:
    """SHA-256 of the first `length` bytes; "" if the file is shorter or missing."""
    return prefix_digests(path, [length]).get(length, "")


def prefix_digests(path: Path, lengths: Iterable[int]) -> dict[int, str]:
    """As `prefix_digest`, for each length up to the file's, in one pass."""
    if not _is_plain(path):
        return {}
    digest, position, digests = hashlib.sha256(), 0, dict[int, str]()
    with path.open("rb") as file:
        for length in sorted({*lengths}):
            while position < length and (data := file.read(min(length - position, 2**20))):
                digest.update(data)
                position += len(data)
            if position != length:
                break
            digests[length] = digest.hexdigest()
    return digests


def changed(folder: Path, seal: Seal, ignored: Container[str] = (), now: Mapping[str, str] | None = None) -> list[str]:
    """The sealed files that were changed or removed since this seal, sorted, without `ignored` ones.

    `now`: the present digests of all files, if known.
    """
    digests = {n: digest_of(folder / n) for n in seal.subjects if n not in ignored} if now is None else now
    names = [n for n, digest in seal.subjects.items() if n not in ignored and digests.get(n, "") != digest]
    names += [n for n, (k, d) in seal.prefixes.items() if n not in ignored and prefix_digest(folder / n, k) != d]
    return sorted(names)


def added_lines(folder: Path, seal: Seal) -> dict[str, int]:
    """The number of lines added to each log since this seal, without the audit log's lines that it was set and pushed."""
    counts, own_line = {}, re.compile(rf"{BEHIND}\n?".encode())
    for name, (length, _) in seal.prefixes.items():
        with suppress(OSError), (folder / name).open("rb") as file:
            file.seek(length)
            number, starts_line = 0, True
            while file.tell() < length + MOST_READ and (line := file.readline(_LONGEST)):  # the most of an audit log
                number += starts_line and not (name == audit.NAME and own_line.fullmatch(line))
                starts_line = line.endswith(b"\n")
            if number:
                counts[name] = number
    return counts


def stamp(when: str) -> str:
    """Format a time of `utc_now` for a file's name: 20251201T021500123Z."""
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z"


def time_of(text: str) -> datetime:
    """Parse a time that `stamp` formatted."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- who may sign ------------------------------------------------------------------------------------------------------


def copy_allowed(run: RunState, known: Sequence[Seal], step: str) -> None:
    """Copy the list of signers into the run's folder, for the verification of signatures now and years later.

    After a seal with a list, a list with other signers is only copied if a resume ordered it, which is logged with its digest.
    Otherwise (also if the list is missing), a seal for signers is refused (`Terminal`); any other keeps the present list.
    """
    now, copied = audit.signer_lists(allowed_signers(run)), audit.signer_lists(run.reports / ALLOWED)
    actions = ("parameters changed", audit.TAKEN, audit.WRITTEN, "seal")
    log = audit.entries(run.reports / audit.NAME, trust(known, audit.own_key()), actions)
    holder = next((seal.name for seal in reversed(known) if ALLOWED in seal.subjects), None)
    removed, by_order = now[ALLOWED] is None, audit.digest_of_lists(now) == ordered_digest(log)
    if holder and (removed or not (by_order or is_narrower(now, copied))):
        if step not in (Step.SCHEDULE_AND_NOTIFY, Step.REVIEW):
            return
        problem = "is not there any more"
        if not removed:
            problem = f"lets others sign than the list that {holder} holds, and nobody ordered it"
        raise Terminal(
            ReasonCode.ALLOWED_SIGNERS_BAD, problem, where=str(allowed_signers(run)),
            next_step=f"Put back what {holder} holds. If others are to sign, write them to a file of another name: "
            f"{RUNBOOK} resume {run.id} --set signoff.allowed_signers=FILE",
        )  # fmt: skip
    archive = f"{RunPath.EARLIER}/signers-{audit.digest_of_lists(copied)[:12]}/"  # needed to verify earlier signatures
    logged = {str(entry["facts"].get("file")) for entry in log if entry["action"] == audit.WRITTEN}
    cut_off = any(name.startswith(archive) and not (run.reports / name).exists() for name in logged)
    for name, text in copied.items() if now != copied or cut_off else ():
        if text is not None:
            (run.reports / archive).mkdir(parents=True, exist_ok=True)
            audit.append(run.reports / audit.NAME, audit.WRITTEN, file=archive + name, sha256=sha256(text))
            write_bytes(run.reports / archive / name, text)
    for name, text in now.items():
        if text != copied[name]:
            digest = sha256(text) if text is not None else ""
            audit.append(run.reports / audit.NAME, audit.TAKEN, file=name, sha256=digest)
            if text is None:
                (run.reports / name).unlink()
            else:
                write_bytes(run.reports / name, text)


def allowed_signers(run: RunState) -> Path | None:
    """The path in `signoff.allowed_signers`, relative to the folder in which the run began; None if it is not set."""
    given = run.parameters.signoff.allowed_signers
    return Path(run.facts["directory"]) / given if given else None
