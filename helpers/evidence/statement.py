"""A seal as a file: an in-toto Statement v1 over the files of a run, in canonical JSON, and what of the folder it covers.

Everything in the folder of a run is one of these:

- sealed: a subject of the newest seal, by the SHA-256 of all its bytes;
- growing (`*.jsonl`, `*.log`): sealed as a prefix, its length and digest, because lines are only ever added;
- derived (`index.html`, `VERIFY.txt`): made from the others, so `runbook verify` makes them again and compares;
- a seal itself: held by the seal after it, the newest by VERIFY.txt.
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
from helpers.errors import RUNBOOK, Terminal, UsageError, WorldError, one_line
from helpers.evidence.signing import ALLOWED, REVOKED, custody, narrower, ordered
from helpers.formatting import size
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, contents, file_digest, json_in, write_bytes
from helpers.run.folders import RunPath, RunState, check_run_id
from helpers.run.plan import Step

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:chroma-migration-runbook:seal:v1"
KIND = "urn:chroma-migration-runbook:sign-off:v1"  # of what a role signs
PAYLOAD = "application/vnd.in-toto+json"
ENVELOPE = ".dsse"
SEALS = "seals"
DERIVED = frozenset({RunPath.PAGE, RunPath.VERIFY})
GROWING = (".jsonl", ".log")
CHANGING = frozenset(
    {RunPath.RUN, RunPath.PARAMETERS, ALLOWED, ALLOWED + REVOKED, "rollback.html", "rollback-notice.txt"}
)
"""What the toolkit itself may write again, each time with a line in the audit log."""
MAY_BE_EMPTY = (RunPath.RESULTS, RunPath.FIGURES, RunPath.SIGNOFFS, RunPath.DRILLS)
LEADS_OUT = "is a link or a special file"
LARGEST = 64 * 2**30  # bytes of a file that is read for its digest only
_READ_WHOLE = {*("", ".dsse", ".ipynb", ".json", ".sig", ".svg", ".tsr", ".txt", ".yaml"),
               audit.NAME, RunPath.NOTICES, *DERIVED}  # fmt: skip
_SEAL = re.compile(rf"{SEALS}/[^/]+")
_MISREAD = re.compile(r"""["\\]|(^|/)[- ]| (/|$)""")  # by plain commands: in quotes, an option, cut at its end
FIRST = "none"  # what the first seal names in place of the digest of the one before
PUSHED = "digest pushed"  # the audit log's word for a digest that was given to a place outside, or was not taken there
LISTS = "lists"  # the part of a seal that says that a list of signers which another replaces is kept
SEALED = "sealed"  # the log's word for a seal that was set; the part of a seal that says that the log has such lines
SIGNATURE = re.compile(r"(?P<gate>[a-z-]+?)-(?P<role>[a-z]+(?:_[a-z]+)*)-(?P<when>\d{8}T\d{9}Z)\.json")
BEHIND = (  # a line behind the newest seal, and nothing else: a repeated name could be read as either
    r'\{"action": "(digest pushed|sealed)", "facts": \{"digest": "[0-9a-f]{64}", "number": [0-9]+(, "reason": "[a-z_]+", "why": '
    r'"([^"\\]|\\.)*")?\}, '
    r'"host": "[^"]*", "outcome": "[a-z]+", "previous": "[0-9a-f]{64}", "process": [0-9]+, ("signature": "[^"]*", )?'
    r'"user": "[^"]*", "when": "[^"]*"\}'
)
_LONGEST = 2**16  # bytes of such a line
# How step 20 or 25 ends whose gate is shut: it touched nothing.
REFUSED = (ReasonCode.NOT_SIGNED, ReasonCode.SIGNOFFS_MISSING, ReasonCode.SIGNED_NO_GO, ReasonCode.NO_DECISION)


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal that was read: `digest` is the SHA-256 of its file, `subjects` and `prefixes` are by path in the folder."""

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
        """The step whose end it seals, such as "24"; "" for one that was set when a command ended."""
        return str(self.predicate["after"])

    @property
    def created(self) -> str:
        """When it was set, UTC, ISO 8601."""
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
    """What is in a run's folder now: SHA-256 by path, and (bytes, SHA-256) of the files that grow."""

    subjects: dict[str, str]
    prefixes: dict[str, tuple[int, str]]


def canonical(value: Any) -> bytes:
    """One line of JSON, keys sorted, no blanks, UTF-8: the same value gives the same bytes."""
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
    """The seal in this file, which holds or will hold `data`; ValueError, with the reason, where it is none."""
    data = contents(path) if data is None else data
    try:
        document = json_in(data)
        predicate = document["predicate"]
        subjects = {str(s["name"]): str(s["digest"]["sha256"]) for s in document["subject"]}
        prefixes = {str(p["name"]): (int(p["bytes"]), str(p["sha256"])) for p in predicate["prefixes"]}
        seal = Seal(path, hashlib.sha256(data).hexdigest(), predicate, subjects, prefixes, data)
        known = document["_type"] == TYPE and document["predicateType"] == PREDICATE and seal.number > 0
        known = known and re.fullmatch(rf"{seal.number:04d}-[0-9TZ.]+\.json", path.name) is not None
        known = known and bool(seal.previous and seal.previous_name and seal.created)
        known = known and not any({"", ".."} & {*name.split("/")} for name in (*subjects, *prefixes))  # none elsewhere
        check_run_id(str(predicate["run"]["id"]))  # VERIFY.txt, which is run, names it
        canon = canonical(document) == data
    except (ValueError, KeyError, TypeError, OverflowError, UsageError) as error:  # the last of an infinite number
        raise ValueError("it is not a seal") from error
    if not (known and canon):
        raise ValueError("it is not a seal as this toolkit writes them")
    return seal


def read_once(path: Path) -> Seal:
    """As `read_seal`; one that is as it was is not read again in this process. Raises OSError, too."""
    about = path.stat()
    return _read_version(path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=4096)
def _read_version(path: Path, *_version: int) -> Seal:
    return read_seal(path)


def trust(chain: Iterable[Seal], own: str = "", signers: Path | None = None) -> audit.Trust | None:
    """Which lines of the audit log count, by what the seals say and the key that signs here now; None where neither signs.

    A key counts that a seal names whose own signature fits (`custody`), or that `own` is. What an older toolkit wrote, or one
    without ssh-keygen, is held by the seals of before that name no key.
    """
    since, keys, chain = 0, {own} - {""}, list(chain)
    with suppress(WorldError):  # without ssh-keygen nobody can say that a signature fits
        for seal, key, wrong in custody(chain, lambda: own, signers):
            if wrong or (signers is not None and not key):
                continue
            if name := seal.predicate.get(audit.LOG_KEY) if key else None:
                keys.add(str(name))
            elif not (own and audit.begun_here(seal.path.parent.parent)):
                since = max(since, seal.prefixes.get(audit.NAME, (0, ""))[0])
    anybody = keys or signers is not None or any(seal.predicate.get(audit.LOG_KEY) for seal in chain)
    return audit.Trust(frozenset(keys), since) if anybody else None


def trusted(folder: Path, signers: Path | None = None) -> audit.Trust | None:
    """As `trust`, by what is in the folder of a run; with `signers` the key that signs here counts only where a seal names it."""
    chain = []
    for path in sorted((folder / SEALS).glob("[!.]*.json")):
        with suppress(OSError, ValueError):  # `seals` and `verify` name it
            chain.append(read_once(path))
    return trust(chain, "" if signers else audit.own_key(), signers)


def announced(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """(file, digest) of each change that these entries of the log name."""
    return {(str(e["facts"].get("file")), str(e["facts"]["sha256"])) for e in entries if "sha256" in e["facts"]}


def foreign(path: Path, trust: audit.Trust | None, sealed: int, first: str) -> str:
    """What of a run's log the toolkit did not write, in words; "" where nothing. Lines before byte `sealed` are held by a seal.

    `first` is the digest of its first line, where that is known. What is no entry stays, once a line of the toolkit's own says
    so; at the end of the log the next line does.
    """
    lines = audit.lines_of(path)
    if first and sha256(lines[0] if lines else b"") != first:
        return "its first line is not the one with which the run began"
    if broken := audit.check(path, torn=True):
        return f"line {broken.line}: {broken.why}"
    at, closed = 0, audit.closed(lines)
    for number, line in enumerate(lines, start=1):
        begins, at = at, at + len(line) + 1
        if trust is None or not line or number in closed or begins < max(sealed, trust.since):
            continue
        torn = number == len(lines) and not audit.is_entry(line)
        if not torn and audit.signer(path.parent.name, line) not in trust.keys:
            return f"line {number} is not signed by the toolkit's key"
    return ""


def pre_authentication(payload: bytes) -> bytes:
    """The bytes that a DSSE signature over this payload signs."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def envelope(payload: bytes, signature: bytes, key: str) -> bytes:
    """A DSSE envelope; `key` is the fingerprint of the key that signed."""
    signed = {"keyid": key, "sig": b64encode(signature).decode()}
    return canonical({"payload": b64encode(payload).decode(), "payloadType": PAYLOAD, "signatures": [signed]})


def files(folder: Path) -> list[str]:
    """Every file that a seal covers, sorted, as paths in the folder. Raises `WorldError` for what `unsealable` names."""
    if against := unsealable(folder):
        name, why = next(iter(against.items()))
        raise WorldError(
            ReasonCode.NOT_SEALABLE, f"{one_line(name, 200)} {why}, so the run is not sealed", where=str(folder),
            next_step="Move it out of the folder of the run.",
        )  # fmt: skip
    return listed(folder)


def listed(folder: Path) -> list[str]:
    """As `files`, whatever they are."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in DERIVED and not _SEAL.fullmatch(name))


def unsealable(folder: Path) -> dict[str, str]:
    """What may not be in a run's folder, by path, in words. Nothing is opened: a link may lead anywhere, a pipe has no end."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, about = path.relative_to(folder).as_posix(), path.lstat()
        if stat.S_ISDIR(about.st_mode):
            continue
        if not stat.S_ISREG(about.st_mode):
            found[name] = LEADS_OUT
        elif not name.isprintable() or _MISREAD.search(name):
            found[name] = "has a name that cannot be sealed"  # nor checked by plain commands
        elif about.st_size > most_of(path):
            found[name] = f"is larger than {size(most_of(path))}"
    return found


def most_of(path: Path) -> int:
    """The most bytes that a file of this name may have: one that is parsed is read as a whole."""
    return MOST_READ if {path.suffix, path.name} & _READ_WHOLE else LARGEST


def measure(folder: Path, known: Mapping[str, str] | None = None) -> Measured:
    """The digests of everything that a seal of this folder covers; those of `known` files are not computed again."""
    names, known = files(folder), known or {}
    logs = [name for name in names if "/" not in name and name.endswith(GROWING)]
    return Measured({n: known.get(n) or digest_of(folder / n) for n in names if n not in logs}, grown(folder, logs))


def grown(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """How long these logs of a run are now, in bytes, with their digests."""
    return {n: (length := (folder / n).stat().st_size, prefix_digest(folder / n, length)) for n in names}


def digest_of(path: Path) -> str:
    """SHA-256 of the file, hexadecimal; "" where there is none, or more than may be there."""
    return file_digest(path) if _is_plain(path) else ""


def kept(folder: Path, part: str) -> dict[tuple[str, str], Path]:
    """Every file of JSON in this part of a run's folder, or set aside from it, by (name, digest)."""
    found = (*folder.glob(f"earlier/*/{part}/*.json"), *folder.glob(f"{part}/*.json"))
    return {(path.name, digest_of(path)): path for path in found}


def signers_of(folder: Path, seal: Seal) -> Path | None:
    """Where the list of signers is that this seal covers, with that of revoked keys beside it; None where it is not here."""
    wanted = [seal.subjects.get(name, "") for name in (ALLOWED, ALLOWED + REVOKED)]
    lists = (folder / ALLOWED, *sorted(folder.glob(f"earlier/*/{ALLOWED}")))
    return next((at for at in lists if [digest_of(at), digest_of(Path(f"{at}{REVOKED}"))] == wanted), None)


def reviewed(folder: Path, seal: Seal) -> dict[str, Any] | None:
    """The facts of the result of step 24 that this seal covers, wherever it is now; None where it is not here."""
    name = f"{RunPath.RESULTS}/{Step.REVIEW}.json"
    wanted = seal.subjects.get(name)
    for path in (folder / name, *sorted(folder.glob(f"earlier/*/{name}"))):
        if wanted and digest_of(path) == wanted:
            try:
                facts = json_in(contents(path)).get("facts")
            except (ValueError, AttributeError):
                facts = None
            return facts if isinstance(facts, dict) else {}
    return None


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= most_of(path)


def prefix_digest(path: Path, length: int) -> str:
    """SHA-256 of the first `length` bytes; "" where the file is shorter or gone."""
    return prefix_digests(path, [length]).get(length, "")


def prefix_digests(path: Path, lengths: Iterable[int]) -> dict[int, str]:
    """As `prefix_digest`, of each of these lengths that the file has, in one pass over it."""
    if not _is_plain(path):
        return {}
    digest, at, found = hashlib.sha256(), 0, dict[int, str]()
    with path.open("rb") as file:
        for length in sorted({*lengths}):
            while at < length and (data := file.read(min(length - at, 2**20))):
                digest.update(data)
                at += len(data)
            if at != length:
                break
            found[length] = digest.hexdigest()
    return found


def changed(folder: Path, seal: Seal, but: Container[str] = (), now: Mapping[str, str] | None = None) -> list[str]:
    """The files of a seal that are no longer what it says, `but` these, sorted; files that came later are none of them.

    `now`: the digests of all files, where they are known.
    """
    there = {n: digest_of(folder / n) for n in seal.subjects if n not in but} if now is None else now
    found = [n for n, digest in seal.subjects.items() if n not in but and there.get(n, "") != digest]
    found += [n for n, (k, d) in seal.prefixes.items() if n not in but and prefix_digest(folder / n, k) != d]
    return sorted(found)


def added(folder: Path, seal: Seal) -> dict[str, int]:
    """How many lines each log has gained since this seal; that it was set and pushed, as the audit log says, is none."""
    found, behind = {}, re.compile(rf"{BEHIND}\n?".encode())
    for name, (length, _) in seal.prefixes.items():
        with suppress(OSError), (folder / name).open("rb") as file:
            file.seek(length)
            more, begins = 0, True
            while file.tell() < length + MOST_READ and (line := file.readline(_LONGEST)):  # an audit log is no longer
                more += begins and not (name == audit.NAME and behind.fullmatch(line))
                begins = line.endswith(b"\n")
            if more:
                found[name] = more
    return found


def stamp(when: str) -> str:
    """A time of `utc_now` for the name of a file: 20251201T021500123Z."""
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z"


def time_of(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- who may sign ------------------------------------------------------------------------------------------------------


def copy_allowed(run: RunState, known: Sequence[Seal], step: str) -> None:
    """Keep who may sign in the run's folder: a signature is checked against it, here and years later.

    After a seal with a list, one that lets others sign is taken only by a resume that names it, which the log says with its
    digest; none at all is no list. Otherwise a seal that people sign is refused (`Terminal`), and any other keeps what it has.
    """
    now, there = audit.lists(allowed_signers(run)), audit.lists(run.reports / ALLOWED)
    asked = ("parameters changed", audit.TAKEN, audit.WRITTEN, "seal")
    log = audit.entries(run.reports / audit.NAME, trust(known, audit.own_key()), asked)
    held = next((seal.name for seal in reversed(known) if ALLOWED in seal.subjects), None)
    gone, by_order = now[ALLOWED] is None, audit.digest_of_lists(now) == ordered(log)
    if held and (gone or not (by_order or narrower(now, there))):
        if step not in (Step.SCHEDULE_AND_NOTIFY, Step.REVIEW):
            return
        why = "is not there any more"
        if not gone:
            why = f"lets others sign than the list that {held} holds, and nobody ordered it"
        raise Terminal(
            ReasonCode.ALLOWED_SIGNERS_BAD, why, where=str(allowed_signers(run)),
            next_step=f"Put back what {held} holds. If others are to sign, write them to a file of another name: "
            f"{RUNBOOK} resume {run.id} --set signoff.allowed_signers=FILE",
        )  # fmt: skip
    aside = f"{RunPath.EARLIER}/signers-{audit.digest_of_lists(there)[:12]}/"  # these judge what was signed under them for ever
    named = {str(entry["facts"].get("file")) for entry in log if entry["action"] == audit.WRITTEN}
    cut_off = any(name.startswith(aside) and not (run.reports / name).exists() for name in named)
    for name, text in there.items() if now != there or cut_off else ():
        if text is not None:
            (run.reports / aside).mkdir(parents=True, exist_ok=True)
            audit.append(run.reports / audit.NAME, audit.WRITTEN, file=aside + name, sha256=sha256(text))
            write_bytes(run.reports / aside / name, text)
    for name, text in now.items():
        if text != there[name]:
            digest = sha256(text) if text is not None else ""
            audit.append(run.reports / audit.NAME, audit.TAKEN, file=name, sha256=digest)
            if text is None:
                (run.reports / name).unlink()
            else:
                write_bytes(run.reports / name, text)


def allowed_signers(run: RunState) -> Path | None:
    """The file that `signoff.allowed_signers` names, from the folder in which the run began; None where it names none."""
    given = run.parameters.signoff.allowed_signers
    return Path(run.facts["directory"]) / given if given else None
