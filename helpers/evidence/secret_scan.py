"""Before a seal: every file is what the log names, no byte holds the value of a secret, in any usual writing; what code ran."""

from __future__ import annotations

import base64
import bz2
import importlib.metadata
import lzma
import marshal
import re
import struct
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import MAGIC_NUMBER, cache_from_source
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers import audit, errors
from helpers.errors import (
    RUNBOOK,
    SHORTEST_SECRET,
    RunbookError,
    Terminal,
    UsageError,
    WorldError,
    one_line,
    secret_parts,
)
from helpers.evidence.statement import SEALED, TYPE, Measured, Seal, canonical, digest_of, foreign, sha256, trust
from helpers.formatting import count, size
from helpers.parameters import SecretRef
from helpers.reason_codes import ReasonCode
from helpers.results import is_leftover
from helpers.run import folders as runs
from helpers.run.folders import RunFolder, RunLock, RunPath, RunState

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
_TESTS = {"pass": "passedTests", "warning": "warnedTests", "marginal": "warnedTests", "fail": "failedTests"}
_UNSET = "has no value here"
OF_STEP = re.compile(r"(?:results/|figures/)?(\d\d)[_.]")
_NOTEBOOK = re.compile(r"(\d\d)_\w+\.(ipynb|html)")
_HOUSE = {audit.NAME, RunPath.LOG, RunPath.NOTICES}  # the logs of a run


# -- files -------------------------------------------------------------------------------------------------------------


def refuse_other_log(run: RunState, chain: Sequence[Seal]) -> None:
    """`Terminal` where the audit log has a line, behind the newest seal, that the toolkit did not write, or begins otherwise."""
    first = run.workspace / audit.FIRST_LINE
    sealed = chain[-1].prefixes.get(audit.NAME, (0, ""))[0] if chain else 0
    began = first.read_text(encoding="ascii").strip() if first.is_file() else ""
    if why := foreign(run.reports / audit.NAME, trust(chain, audit.own_key()), sealed, began):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: {why}, and is not sealed", where=str(run.reports),
            next_step="Find out who wrote to it, and put it back as it was: take out that line if it is the last one.",
        )  # fmt: skip
    name_seals(run, chain)
    if again := next(made_again(run.reports, chain, trust(chain, audit.own_key())), ""):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: {again}", where=str(run.reports),
            next_step="Put back the seals that were there.",
        )  # fmt: skip


def name_seals(run: RunState, chain: Sequence[Seal]) -> None:
    """Have the log name each seal that is there, once: another one of its number was made again."""
    log = audit.entries(run.reports / audit.NAME, trust(chain, audit.own_key()), (SEALED,))
    named = {str(entry["facts"].get("digest")) for entry in log}
    for each in chain:
        if SEALED in each.predicate and each.digest not in named:
            audit.append(run.reports / audit.NAME, SEALED, number=each.number, digest=each.digest)


def made_again(folder: Path, chain: Sequence[Seal], trust: audit.Trust | None) -> Iterator[str]:
    """What the log says of seals that were set, and the chain does not hold so, in words."""
    digests, named, begun, done = {seal.digest: seal for seal in chain}, set[str](), 0, set[int]()
    for entry in audit.entries(folder / audit.NAME, trust, ("seal", SEALED)):
        number, digest = entry["facts"].get("number"), one_line(str(entry["facts"].get("digest")), 64)
        if type(number) is not int:  # a log that nobody signed may say anything
            yield f"a line {entry['action']} names no seal by its number"
        elif entry["action"] == "seal":
            if number < begun:
                yield f"seal {number} was begun after seal {begun}: seals were made again"
            elif number in done:
                yield f"seal {number} was begun again after it was set"
            begun = number
        elif digest not in digests or digests[digest].number != number:
            yield f"seal {number} with the SHA-256 {digest} was set, and is not here: seals were made again"
        elif digest in named:
            yield f"seal {number} was set twice"
        if type(number) is int and entry["action"] == SEALED:
            done.add(number)
        named.add(digest)
    for seal in chain:
        if SEALED in seal.predicate and seal.digest not in named:
            more = f": {RUNBOOK} resume RUN_ID adds it where a kill was the cause" if seal is chain[-1] else ""
            yield f"it does not say that {seal.name} was set{more}"


def own(run: RunState, chain: Sequence[Seal], there: Measured, said: audit.LoggedFiles) -> Measured:
    """Of what is there, what is the run's own: each file is as the log has `said`, or what the newest seal holds.

    Files of a step at work are left out, until a later seal. Those that a killed step left are set aside, and the log says so.
    `Terminal` where anything else is nobody's work, is not what the log names, or is gone.
    """
    if not said.complete and not audit.is_older(run.reports, run.workspace):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: the line with which the run began is gone", where=str(run.reports),
            next_step="Put the log back as it was, from the run's archive or a backup.",
        )  # fmt: skip
    sealed: Mapping[str, str] = chain[-1].subjects if chain else {}
    files = there.subjects | {name: "" for name in there.prefixes if said.complete and name not in _HOUSE}
    loose = [name for name in said.unnamed(files) if not files[name] or sealed.get(name) != files[name]]
    unfinished = {name: locks for name in loose if (locks := _unfinished(said, name))}
    why = {
        f": {audit.NAME} names no such file": [n for n in loose if n not in unfinished and not said.newest.get(n)],
        f" is not what {audit.NAME} names": [n for n in loose if n not in unfinished and said.newest.get(n)],
        f" is gone, and {audit.NAME} names it": [name for name in said.missing(files) if name not in sealed],
    }
    if against := [f"{', '.join(names[:5])}{what}" for what, names in why.items() if names]:
        steps = [match[1] for names in why.values() for name in names if (match := OF_STEP.match(name))]
        again = f", or let the step run again: {run.command('run', '--from', min(steps))}" if steps else ""
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, "; ".join(against), where=str(run.reports),
            next_step=f"Find out who did it. Take out of the folder what is foreign, put back what was changed{again}.",
        )  # fmt: skip
    working = {
        name for name, locks in unfinished.items() if any(RunLock(run, lock).is_held_elsewhere for lock in locks)
    }
    moved = runs.set_aside(run, [run.reports / name for name in unfinished if name not in working])
    subjects = {moved.get(name, name): digest for name, digest in there.subjects.items() if name not in working}
    return Measured(subjects, there.prefixes)


def _unfinished(said: audit.LoggedFiles, name: str) -> tuple[str, ...]:
    """The locks under which this file is made, where a step, or somebody who signs, may not have finished it; else none."""
    if is_leftover(name.rpartition("/")[2]):
        return ("runner", "step", RunLock.GATE)
    if name.startswith(f"{RunPath.SIGNOFFS}/"):
        return (RunLock.GATE,)
    match = OF_STEP.match(name)
    if match and (match[1] in said.running or (match[1] in said.open_notebooks and _NOTEBOOK.fullmatch(name))):
        return ("runner", "step", f"look-{match[1]}")
    return ()


# -- the seal in other words ---------------------------------------------------------------------------------------------


def attestation(seal: Seal) -> bytes:
    """What a seal says in the words of in-toto's predicate for test results, for tools that know it; made of the seal alone.

    A test is a step; one that was not exercised, or does not apply, is in no list.
    """
    ran = {notebook.name[:2]: notebook.stem for notebook in map(Path, seal.subjects) if notebook.suffix == ".ipynb"}
    lists: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for step, about in sorted(seal.predicate["verdicts"].items()):
        if (name := _TESTS.get("fail" if about["error"] else about["verdict"])) is not None:
            lists[name].append(ran.get(step, step))
    no_go = seal.predicate["decision"] not in ("", "GO")
    result = "FAILED" if lists["failedTests"] or no_go else "WARNED" if lists["warnedTests"] else "PASSED"
    code = {"name": "helpers", "digest": {"sha256": seal.predicate["helpers"]}}
    parameters = {"name": RunPath.PARAMETERS, "digest": {"sha256": seal.subjects.get(RunPath.PARAMETERS, "")}}
    subjects = {**seal.subjects, seal.name: seal.digest}
    return canonical(
        {
            "_type": TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
            "predicateType": TEST_RESULT,
            "predicate": {"result": result, "configuration": [parameters, code], **lists},
        }
    )


# -- secrets -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Searched:
    """What was searched for: references by what became of them; `found` are (file, reference, writing)."""

    searched: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    found: list[tuple[str, str, str]] = field(default_factory=list)


def search(folder: Path, secrets: Iterable[SecretRef], values: Mapping[str, str] | None = None) -> Searched:
    """Look for the values of these secrets in every byte of every file below the folder, and in the names of the files.

    `values` are others by what they are called: those of the files that the cutover changes. Compressed parts are unpacked, and
    a value that is wrapped over lines, or cut by quotes and commas, is found too.

    A secret whose value is not here now (another shell, another machine) cannot be searched for: it is in `unknown`.
    """
    report = Searched()
    known: dict[str, str] = {}
    needles: dict[bytes, tuple[str, str]] = {}
    for reference in secrets:
        try:
            value = reference.resolve().reveal()
        except RunbookError:
            report.unknown[str(reference)] = _UNSET
            continue
        known[str(reference)] = value
    for name, value in {**known, **(values or {})}.items():
        parts = [part for part in secret_parts(value) if len(part) >= SHORTEST_SECRET]
        if not parts:
            report.unknown[name] = f"is shorter than {SHORTEST_SECRET} characters"
            continue
        report.searched.append(name)
        for part in parts:
            for writing, needle in writings(part):
                needles.setdefault(needle, (name, writing))
    if needles:
        report.found = list(_find(folder, needles, report.unknown))
    return report


def refuse(report: Searched, folder: Path, needed: Collection[str] = ()) -> None:
    """Raises `WorldError` where a secret was found, naming files and references, never a value; and `UsageError` where one of
    the `needed` references has no value here, so that the folder cannot be searched for it.
    """
    if unset := [name for name in needed if report.unknown.get(name) == _UNSET]:
        raise UsageError(
            ReasonCode.SECRET_MISSING, f"{', '.join(unset)} has no value here, so the folder cannot be searched for it",
            where=str(folder), next_step="Give it as the steps had it, and resume.",
        )  # fmt: skip
    if not report.found:
        return
    places = [f"{one_line(name, 200)} holds the value of {ref} ({writing})" for name, ref, writing in report.found[:5]]
    more = f"; {len(report.found) - 5} more" if len(report.found) > 5 else ""
    raise WorldError(
        ReasonCode.SECRET_FOUND, f"{'; '.join(places)}{more}, so the run is not sealed", where=str(folder),
        next_step="Change that secret, take the file out of the folder, and run its step again.",
    )  # fmt: skip


def writings(value: str) -> Iterator[tuple[str, bytes]]:
    """The value as it may stand in a file: (name of the writing, bytes)."""
    for name, text in errors.encodings(value):
        yield name, text.encode("utf-8", "surrogatepass")
    for codec in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield codec[:6].upper(), value.encode(codec, "surrogatepass")


# What may be inside a value that is wrapped or cut; besides escaped line ends, tags, colours of a terminal, blanks of no width.
_BETWEEN = b" \t\n\r\f\v\"',\\:|>-"
_MARKS = re.compile(  # a tag with attributes of any length, or anything short like one; what begins with ESC [
    rb"""<[A-Za-z][\w:-]*+(?:\s++[\w:-]++=\\{0,3}"[^"<]{0,4000}+")++\s*+/?>|<[^<>]{1,200}>"""
    rb"|(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[A-Za-z]"
)
_NO_WIDTH = tuple(c.encode() for c in "\u200b\u200c\u200d\u2060\ufeff\xad")  # letters that nobody sees
_SHORTEST_CUT = 10  # bytes of a value without these: fewer occur by chance
_PIECE = 16 * 2**20  # bytes of a compressed part that are looked at together at most
_PATIENCE = {bz2.BZ2Decompressor: 2**21}  # bytes that may be read before a part holds anything; 2**10 of others
_MOST_BEGUN = 10_000  # what begins as a compressed part and is none, besides what occurs by chance
_OVERLAP = 2**16  # a value with all that may come between its pieces
_MOST_UNPACKED = 4 * 2**30  # bytes of a file's compressed parts; one with more is named as not searched to its end


class _Endless(Exception):
    """What a file holds whose compressed parts become too large, or that is made of their beginnings."""


class _Needles:
    """Values to look for all at once, by what they are of: one search for each would read the data a thousand times."""

    def __init__(self, values: Mapping[bytes, tuple[str, str]]) -> None:
        import numpy as np  # where a folder is searched; who only judges one does without

        self.values = values
        self._ways = np.zeros(2**20, bool)  # by what the first four bytes come to: whether a value begins so
        self._begins: dict[bytes, dict[int, set[bytes]]] = {}
        for value in values:
            self._ways[int.from_bytes(value[:4], "little") * _MIX % 2**32 >> 12] = True
            self._begins.setdefault(value[:4], {}).setdefault(len(value), set()).add(value)

    def within(self, data: bytes) -> list[tuple[str, str]]:
        """Of each value that is in the data, what it is of."""
        import numpy as np

        found = set[bytes]()
        for begin in range(0, len(data) - 3, 2**20):
            for at in range(begin, min(begin + 4, len(data) - 3)):
                words = np.frombuffer(data, "<u4", min(2**18, (len(data) - at) // 4), at)
                for place in (np.flatnonzero(self._ways[words * np.uint32(_MIX) >> np.uint32(12)]) * 4 + at).tolist():
                    for length, values in self._begins.get(data[place : place + 4], {}).items():
                        if (value := data[place : place + length]) in values:
                            found.add(value)
        return [what for value, what in self.values.items() if value in found] if found else []


_MIX = 2654435761  # spreads what differs in any byte over the upper ones


def _find(
    folder: Path, needles: dict[bytes, tuple[str, str]], unknown: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    """(file, reference, writing) of each value that is there; in `unknown`, files that were not searched to their end."""
    cut: dict[bytes, tuple[str, str]] = {}
    for needle, (name, writing) in needles.items():
        if len(joined := _joined(needle)) >= _SHORTEST_CUT and not writing.startswith("UTF"):
            cut.setdefault(joined, (name, f"{writing}, in pieces"))
    plain, pieces, escaped = _Needles(needles), _Needles(cut), dict[Any, _Needles]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        seen = set()
        try:
            for where, data, how in _texts(path, name):
                found = plain.within(data) or pieces.within(_joined(data)) or _meant(data, needles, escaped)
                for reference, writing in found:
                    hit = (where, reference, f"{writing}{how}")
                    if hit not in seen:
                        seen.add(hit)
                        yield hit
        except _Endless as error:
            unknown[name] = f"{error}, and was not searched to its end"


def _meant(
    data: bytes, needles: Mapping[bytes, tuple[str, str]], escaped: dict[Any, _Needles]
) -> list[tuple[str, str]]:
    """(Reference, writing) of each value that has some of its characters escaped; `escaped` keeps what is looked for."""
    found = list[tuple[str, str]]()
    for escape, read in errors.decodings(data):
        if escape not in escaped:
            what = {
                m: (n, "partly escaped")
                for needle, (n, _) in needles.items()
                if (m := errors.decoded_needle(escape, needle))
            }
            escaped[escape] = _Needles(what)
        found += escaped[escape].within(read)
    return found


def _texts(path: Path, name: str) -> Iterator[tuple[str, bytes, str]]:
    """(Name of the file, bytes, how they are packed) of all that is searched of one file."""
    yield "name of a file", name.encode("utf-8", "surrogateescape"), ""
    if path.is_file():
        yield from ((name, data, how) for data, how in _readings(path.read_bytes()))


def _joined(data: bytes) -> bytes:
    """Without what may come to stand between pieces. Each seal reads every file of the run: what is rare is asked for first."""
    if b"<" in data or b"[" in data:
        data = _MARKS.sub(b"", data)
    for mark in (
        b"=\r\n",
        b"=\n",
        b"=\\r\\n",
        b"=\\n",
        b"\\n",
        b"\\r",
        b"\\t",
        b"\\u200b",
        b"&#8203;",
        *_NO_WIDTH,
    ):
        data = data.replace(mark, b"  ")
    return data.translate(None, _BETWEEN)


def _readings(data: bytes) -> Iterator[tuple[bytes, str]]:
    """A file's bytes, and all that each compressed part of them holds, in pieces that overlap; raises `_Endless`.

    What cannot be unpacked ends its part. What begins like one and is none ends at once, mostly.
    """
    yield data, ""
    total, small, held, none = 0, dict[str, list[bytes]](), 0, 0
    for opened, packed, how in _packed(data):
        before = b""
        if none > _MOST_BEGUN + len(data) // 128:  # in base64 of noise one of a thousand bytes begins none
            raise _Endless("holds more beginnings of compressed parts than any file has")
        with suppress(zlib.error, OSError, lzma.LZMAError, EOFError):
            for piece in _unpacked(opened, packed):
                small.setdefault(how, []).append(before + piece)
                before, total, held = (before + piece)[-_OVERLAP:], total + len(piece), held + len(before + piece)
                if total > _MOST_UNPACKED:
                    raise _Endless(f"holds more than {size(_MOST_UNPACKED)} once it is unpacked")
                if held > _PIECE:
                    yield from ((_APART.join(pieces), way) for way, pieces in small.items())
                    small, held = {}, 0
        none = max(0, none - 8) if before else none + 1
    yield from ((_APART.join(pieces), way) for way, pieces in small.items())


_APART = b"\0\xff\0"  # between small parts that are looked at together: of no value, and not left out as `_BETWEEN` is


# How zlib begins: the method, a window of some size, no dictionary, and together a multiple of 31.
_ZLIB = b"|".join(
    re.escape(bytes([window, level]))
    for window in range(0x08, 0x79, 0x10) for level in range(256) if (window << 8 | level) % 31 == 0 and not level & 0x20
)  # fmt: skip
_PACKED = re.compile(rb"\x1f\x8b\x08|PK\x03\x04|BZh[1-9]1AY&SY|\xfd7zXZ\x00|" + _ZLIB)
_PACKED_LETTERS = re.compile(rb"[He](?:(?<=H)4sI|(?<=e)(?:A[E-H]|F[4-7]|J[w-z]|N[o-r]))")  # gzip and zlib in base64
_LETTERS = re.compile(rb"[\w+/\\\s-]*")


def _packed(data: bytes) -> Iterator[tuple[Any, Iterator[bytes], str]]:
    """What may be a compressed part: what unpacks it, its bytes, how it is packed. That is gzip and zlib (also in base64), bzip2,
    xz, members of a zip; deflate without any mark where a file begins with it."""
    yield zlib.decompressobj(-15), _slices(data), ", compressed"
    for match in _PACKED.finditer(data):
        start = match.start()
        opened: Any = zlib.decompressobj(31 if match[0].startswith(b"\x1f") else 15)
        if match[0].startswith(b"BZh"):
            opened = bz2.BZ2Decompressor()
        elif match[0].startswith(b"\xfd"):
            opened = lzma.LZMADecompressor()
        elif match[0].startswith(b"PK"):
            names = (int.from_bytes(data[start + at : start + at + 2], "little") for at in (26, 28))
            method, start = data[start + 8 : start + 10], start + 30 + sum(names)
            opened = zlib.decompressobj(-15)
            if method == b"\x0e\0" and (raw := _lzma(data[start + 4 : start + 9])):
                length = int.from_bytes(data[match.start() + 18 : match.start() + 22], "little") or len(data)
                yield raw, _slices(data[start + 9 : start + length]), ", compressed"
                continue
        yield opened, _slices(data, start), ", compressed"
    for match in _PACKED_LETTERS.finditer(data):
        yield (
            zlib.decompressobj(31 if match[0].startswith(b"H") else 15),
            _decoded(data, match.start()),
            ", compressed, base64",
        )


def _lzma(properties: bytes) -> lzma.LZMADecompressor | None:
    """What unpacks a member of a zip in LZMA, behind its properties; None where these are none."""
    if len(properties) < 5 or (first := properties[0]) >= 225 or first % 9 + first // 9 % 5 > 4:
        return None
    sizes = {"lc": first % 9, "lp": first // 9 % 5, "pb": first // 45}
    memory = min(max(int.from_bytes(properties[1:], "little"), 2**12), 2**26)
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": memory, **sizes}])


def _slices(data: bytes, start: int = 0) -> Iterator[bytes]:
    """The bytes from there on, few at first: most of what begins like a compressed part is none."""
    size = 2**8
    while piece := data[start : start + size]:
        yield piece
        start, size = start + size, min(4 * size, 2**20)


def _decoded(data: bytes, start: int) -> Iterator[bytes]:
    """The bytes of base64 that begins there, also of several lines, whose ends may be escaped as in JSON."""
    kept = b""
    for piece in _slices(data, start):
        there = _LETTERS.match(piece)
        text = kept + (there[0] if there else b"")
        half = text[-1:] if text.endswith(b"\\") else b""  # of an escaped end of a line
        letters = re.sub(rb"\\[nr]|[\s\\]", b"", text).translate(bytes.maketrans(b"-_", b"+/"))
        whole = len(letters) // 4 * 4
        yield base64.b64decode(letters[:whole])
        kept = letters[whole:] + half
        if there is None or len(there[0]) < len(piece):
            return


def _unpacked(opened: Any, packed: Iterable[bytes]) -> Iterator[bytes]:
    """What a compressed part holds; nothing more where its first bytes hold nothing."""
    wait = _PATIENCE.get(type(opened), 2**10)
    for data in packed:
        wait -= len(data)
        while piece := opened.decompress(data, _PIECE):
            yield piece
            wait = sys.maxsize
            if len(piece) < _PIECE:
                break
            data = getattr(opened, "unconsumed_tail", b"")
        if opened.eof or wait < 0:
            return


# -- code identity -----------------------------------------------------------------------------------------------------


@cache
def code() -> dict[str, str]:
    """What ran: the commit, whether files differ from it, the interpreter, and one SHA-256 over the list of packages.

    `commit` is "" where the toolkit is no git checkout.
    """
    commit, changed_files = audit.checkout()
    return {
        "commit": commit,
        "changed_files": changed_files,
        "interpreter": sys.version,
        "packages": sha256(_packages().encode()),
    }


@cache
def _packages() -> str:
    """The installed packages, a line each: SHA-256 of its RECORD file, name and version; then what Python runs when it starts.

    RECORD is what the installer wrote: a file of a package that was changed since is not seen. All files are too many to be
    read by each command.
    """
    named = {
        f"{sha256((package.read_text('RECORD') or '').encode())}  {package.metadata['Name']}-{package.version}\n"
        for package in importlib.metadata.distributions()
    }
    folders = sorted({Path(folder or ".") for folder in sys.path})
    at_start = [
        path for folder in folders for path in sorted(folder.glob("*.pth")) if folder.name.endswith("-packages")
    ]
    at_start += [path for folder in folders for path in sorted(folder.glob("*customize.py")) if path.stem in _AT_START]
    return "".join(sorted(named)) + "".join(
        f"{digest_of(path)}  {one_line(f'{path.parent.name}/{path.name}', 200)}\n"
        for path in at_start
        if path.is_file()
    )


_AT_START = ("sitecustomize", "usercustomize")


def list_packages(run: RunFolder) -> None:
    """Put the list whose digest seals name into the run's folder, once for each set of packages that ran."""
    name = f"packages-{code()['packages'][:16]}.txt"
    if not (run.reports / name).is_file():
        run.rewrite(name, _packages())


def other_code(before: Seal, seal: Seal) -> Iterator[str]:
    """What of the code is not as it was at the seal before, as a line that begins with the seal."""
    parts = ("helpers", "notebooks", "requirements_lock", "versions", "code")
    if moved := [part for part in parts if before.predicate.get(part) != seal.predicate.get(part)]:
        commits = [str(s.predicate.get("code", {}).get("commit", ""))[:12] for s in (before, seal)]
        which = f" (commit {commits[0]}, then {commits[1]})" if commits[0] != commits[1] else ""
        yield f"{seal.name}: the code is not that of seal {before.number}: {', '.join(moved)}{which}"


def what_ran(chain: Sequence[Seal]) -> list[str]:
    """The code that the newest seal names, in a line; then one for each seal that names another code than the one before."""
    about = chain[-1].predicate.get("code") if chain else None
    if not about:
        return []
    files = str(about["changed_files"]).splitlines()
    dirty = f"{count(len(files), 'changed file')}: {', '.join(files[:5])}" if files else "unchanged"
    commit = f"commit {about['commit']}, {dirty}" if about["commit"] else "no git checkout"
    helpers, packages = (str(digest)[:16] for digest in (chain[-1].predicate["helpers"], about["packages"]))
    interpreter = str(about["interpreter"]).split(" (")[0]
    listed = f"packages-{packages}.txt lists packages as installed (no later edit of their files)"
    first = f"{commit}; SHA-256 of helpers {helpers}…; {listed}; Python {interpreter}"
    return [first, *(line for pair in pairwise(chain) for line in other_code(*pair))]


def foreign_bytecode(package: Path) -> list[str]:
    """Cached bytecode that this interpreter would run and that its source does not give: the paths."""
    found = []
    for source in sorted(package.rglob("*.py")):
        path = Path(cache_from_source(str(source)))
        if not path.is_file():
            continue
        data, code = path.read_bytes(), source.read_bytes()
        flags, *stamp_ = struct.unpack("<3I", data[4:16])
        about = source.stat()
        if data[:4] != MAGIC_NUMBER or (flags == 0 and stamp_ != [int(about.st_mtime) & 0xFFFFFFFF, about.st_size]):
            continue  # not read: Python compiles the source anew
        try:
            same = marshal.loads(data[16:]) == compile(code, str(source), "exec", dont_inherit=True)  # noqa: S302  # nosec B302
        except (ValueError, EOFError, TypeError):
            same = False
        if not same:
            found.append(path.as_posix())
    return found


@cache
def _foreign() -> list[str]:
    """Once in a process, which loads each module once."""
    return foreign_bytecode(audit.REPOSITORY / "helpers")


def refuse_foreign_bytecode(folder: Path) -> None:
    if found := _foreign():
        raise Terminal(
            ReasonCode.BYTECODE_ALTERED, f"{found[0]} is not the bytecode of its source", where=str(folder),
            next_step="Find out who wrote it. Then remove that file, and begin a new run.",
        )  # fmt: skip


def tree(package: Path) -> str:
    """One SHA-256 over the names and digests of a package's files, in the format of `sha256sum`."""
    kept = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    names = sorted(p.relative_to(package).as_posix() for p in kept)
    return sha256("".join(f"{digest_of(package / name)}  {name}\n" for name in names).encode())
