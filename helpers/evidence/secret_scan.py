"""Checks before a seal: every file has its logged digest, and no file holds a secret in any usual encoding. Code identity."""

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
    EnvironmentFailure,
    RunbookError,
    Terminal,
    UsageError,
    one_line,
    secret_parts,
)
from helpers.evidence.statement import SEALED, TYPE, Measured, Seal, canonical, digest_of, foreign_line, sha256, trust
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
_HOUSE = {audit.NAME, RunPath.LOG, RunPath.NOTICES}  # a run's logs


# -- files -------------------------------------------------------------------------------------------------------------


def refuse_other_log(run: RunState, chain: Sequence[Seal]) -> None:
    """`Terminal` if the audit log has a foreign line after the newest seal, or another first line, or names other seals."""
    first = run.workspace / audit.FIRST_LINE
    sealed = chain[-1].prefixes.get(audit.NAME, (0, ""))[0] if chain else 0
    began = first.read_text(encoding="ascii").strip() if first.is_file() else ""
    if problem := foreign_line(run.reports / audit.NAME, trust(chain, audit.own_key()), sealed, began):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: {problem}, and is not sealed", where=str(run.reports),
            next_step="Find out who wrote to it, and put it back as it was: take out that line if it is the last one.",
        )  # fmt: skip
    name_seals(run, chain)
    if replaced := next(replaced_seals(run.reports, chain, trust(chain, audit.own_key())), ""):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: {replaced}", where=str(run.reports),
            next_step="Put back the seals that were there.",
        )  # fmt: skip


def name_seals(run: RunState, chain: Sequence[Seal]) -> None:
    """Log each seal once, so that a replaced seal of the same number is detected."""
    log = audit.entries(run.reports / audit.NAME, trust(chain, audit.own_key()), (SEALED,))
    named = {str(entry["facts"].get("digest")) for entry in log}
    for seal in chain:
        if SEALED in seal.predicate and seal.digest not in named:
            audit.append(run.reports / audit.NAME, SEALED, number=seal.number, digest=seal.digest)


def replaced_seals(folder: Path, chain: Sequence[Seal], trust: audit.Trust | None) -> Iterator[str]:
    """Yield, in words, each contradiction between the log's lines about seals and the chain."""
    digests, logged, last_begun, set_numbers = {seal.digest: seal for seal in chain}, set[str](), 0, set[int]()
    for entry in audit.entries(folder / audit.NAME, trust, ("seal", SEALED)):
        number, digest = entry["facts"].get("number"), one_line(str(entry["facts"].get("digest")), 64)
        if type(number) is not int:  # an unsigned log may hold anything
            yield f"a line {entry['action']} names no seal by its number"
        elif entry["action"] == "seal":
            if number < last_begun:
                yield f"seal {number} was begun after seal {last_begun}: seals were made again"
            elif number in set_numbers:
                yield f"seal {number} was begun again after it was set"
            last_begun = number
        elif digest not in digests or digests[digest].number != number:
            yield f"seal {number} with the SHA-256 {digest} was set, and is not here: seals were made again"
        elif digest in logged:
            yield f"seal {number} was set twice"
        if type(number) is int and entry["action"] == SEALED:
            set_numbers.add(number)
        logged.add(digest)
    for seal in chain:
        if SEALED in seal.predicate and seal.digest not in logged:
            remedy = f": {RUNBOOK} resume RUN_ID adds it where a kill was the cause" if seal is chain[-1] else ""
            yield f"it does not say that {seal.name} was set{remedy}"


def own_files(run: RunState, chain: Sequence[Seal], measured: Measured, logged: audit.LoggedFiles) -> Measured:
    """The run's own files among those `measured`: each has its `logged` digest, or that of the newest seal.

    Files of a running step are left out until a later seal. Files that a killed step left are set aside, which is logged.
    `Terminal` for any other file that is not logged, differs from its logged digest, or is missing.
    """
    if not logged.complete and not audit.is_older(run.reports, run.workspace):
        raise Terminal(
            ReasonCode.SEAL_BROKEN, f"{audit.NAME}: the line with which the run began is gone", where=str(run.reports),
            next_step="Put the log back as it was, from the run's archive or a backup.",
        )  # fmt: skip
    sealed: Mapping[str, str] = chain[-1].subjects if chain else {}
    files = measured.subjects | {name: "" for name in measured.prefixes if logged.complete and name not in _HOUSE}
    unlogged = [name for name in logged.unnamed(files) if not files[name] or sealed.get(name) != files[name]]
    unfinished = {name: locks for name in unlogged if (locks := _locks_of_unfinished(logged, name))}
    problems = {
        f": {audit.NAME} names no such file": [n for n in unlogged if n not in unfinished and not logged.newest.get(n)],
        f" is not what {audit.NAME} names": [n for n in unlogged if n not in unfinished and logged.newest.get(n)],
        f" is gone, and {audit.NAME} names it": [name for name in logged.missing(files) if name not in sealed],
    }
    if texts := [f"{', '.join(names[:5])}{problem}" for problem, names in problems.items() if names]:
        steps = [match[1] for names in problems.values() for name in names if (match := OF_STEP.match(name))]
        retry = f", or let the step run again: {run.command('run', '--from', min(steps))}" if steps else ""
        raise Terminal(
            ReasonCode.SEALED_FILE_CHANGED, "; ".join(texts), where=str(run.reports),
            next_step=f"Find out who did it. Take out of the folder what is foreign, put back what was changed{retry}.",
        )  # fmt: skip
    in_work = {
        name for name, locks in unfinished.items() if any(RunLock(run, lock).is_held_elsewhere for lock in locks)
    }
    new_names = runs.set_aside(run, [run.reports / name for name in unfinished if name not in in_work])
    subjects = {new_names.get(name, name): digest for name, digest in measured.subjects.items() if name not in in_work}
    return Measured(subjects, measured.prefixes)


def _locks_of_unfinished(logged: audit.LoggedFiles, name: str) -> tuple[str, ...]:
    """The locks under which an unfinished file of a step or a signature is written; () for any other file."""
    if is_leftover(name.rpartition("/")[2]):
        return ("runner", "step", RunLock.GATE)
    if name.startswith(f"{RunPath.SIGNOFFS}/"):
        return (RunLock.GATE,)
    match = OF_STEP.match(name)
    if match and (match[1] in logged.running or (match[1] in logged.open_notebooks and _NOTEBOOK.fullmatch(name))):
        return ("runner", "step", f"look-{match[1]}")
    return ()


# -- the seal in other words ---------------------------------------------------------------------------------------------


def attestation(seal: Seal) -> bytes:
    """The seal as in-toto's predicate for test results, for other tools; derived from the seal alone.

    A test is a step. Steps that were not exercised or do not apply are in no list.
    """
    notebooks = {path.name[:2]: path.stem for path in map(Path, seal.subjects) if path.suffix == ".ipynb"}
    lists: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for step, verdict in sorted(seal.predicate["verdicts"].items()):
        if (name := _TESTS.get("fail" if verdict["error"] else verdict["verdict"])) is not None:
            lists[name].append(notebooks.get(step, step))
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
    """The outcome of a search: `searched` references, `unknown` ones with the reason, `hits` as (file, reference, encoding)."""

    searched: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    hits: list[tuple[str, str, str]] = field(default_factory=list)


def search(folder: Path, secrets: Iterable[SecretRef], values: Mapping[str, str] | None = None) -> Searched:
    """Search for the values of these secrets in every file below the folder, and in the names of files.

    `values`: further secrets by name (those of the files that the cutover changes). Unpacks compressed parts, and finds values
    that are wrapped over lines or cut by quotes and commas.

    A secret without a value now (in another shell, on another machine) is not searched for: it is in `unknown`.
    """
    report = Searched()
    resolved: dict[str, str] = {}
    needles: dict[bytes, tuple[str, str]] = {}
    for reference in secrets:
        try:
            value = reference.resolve().reveal()
        except RunbookError:
            report.unknown[str(reference)] = _UNSET
            continue
        resolved[str(reference)] = value
    for name, value in {**resolved, **(values or {})}.items():
        parts = [part for part in secret_parts(value) if len(part) >= SHORTEST_SECRET]
        if not parts:
            report.unknown[name] = f"is shorter than {SHORTEST_SECRET} characters"
            continue
        report.searched.append(name)
        for part in parts:
            for encoding, needle in byte_encodings(part):
                needles.setdefault(needle, (name, encoding))
    if needles:
        report.hits = list(_find(folder, needles, report.unknown))
    return report


def refuse(report: Searched, folder: Path, needed: Collection[str] = ()) -> None:
    """Raises `EnvironmentFailure` if a secret was found, with files and references but no value; `UsageError` if one of the
    `needed` references has no value here, so that it was not searched for.
    """
    if unset := [name for name in needed if report.unknown.get(name) == _UNSET]:
        raise UsageError(
            ReasonCode.SECRET_MISSING, f"{', '.join(unset)} has no value here, so the folder cannot be searched for it",
            where=str(folder), next_step="Give it as the steps had it, and resume.",
        )  # fmt: skip
    if not report.hits:
        return
    places = [f"{one_line(name, 200)} holds the value of {ref} ({encoding})" for name, ref, encoding in report.hits[:5]]
    more = f"; {len(report.hits) - 5} more" if len(report.hits) > 5 else ""
    raise EnvironmentFailure(
        ReasonCode.SECRET_FOUND, f"{'; '.join(places)}{more}, so the run is not sealed", where=str(folder),
        next_step="Change that secret, take the file out of the folder, and run its step again.",
    )  # fmt: skip


def byte_encodings(value: str) -> Iterator[tuple[str, bytes]]:
    """Yield (encoding, bytes) for each form in which a file may hold the value."""
    for name, text in errors.encodings(value):
        yield name, text.encode("utf-8", "surrogatepass")
    for codec in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        yield codec[:6].upper(), value.encode(codec, "surrogatepass")


# Bytes that may divide a wrapped or cut value, in addition to escaped line ends, tags, terminal colours and zero-width blanks.
_BETWEEN = b" \t\n\r\f\v\"',\\:|>-"
_MARKS = re.compile(  # a tag with attributes of any length, or anything short like one; what begins with ESC [
    rb"""<[A-Za-z][\w:-]*+(?:\s++[\w:-]++=\\{0,3}"[^"<]{0,4000}+")++\s*+/?>|<[^<>]{1,200}>"""
    rb"|(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[A-Za-z]"
)
_NO_WIDTH = tuple(c.encode() for c in "\u200b\u200c\u200d\u2060\ufeff\xad")  # invisible characters
_SHORTEST_CUT = 10  # bytes of a value without the dividing bytes: shorter ones occur by chance
_PIECE = 16 * 2**20  # most bytes of unpacked parts that are searched together
_PATIENCE = {bz2.BZ2Decompressor: 2**21}  # most bytes read before a part gives output; 2**10 for others
_MOST_BEGUN = 10_000  # false starts of compressed parts that are accepted, besides those by chance
_OVERLAP = 2**16  # length of a value with all dividing bytes
_MOST_UNPACKED = 4 * 2**30  # unpacked bytes of a file; a larger one is reported as not fully searched


class _Endless(Exception):
    """A file's compressed parts unpack to too much, or it has too many false starts of them."""


class _Needles:
    """Searches for many values in one pass: separate searches would read the data a thousand times."""

    def __init__(self, values: Mapping[bytes, tuple[str, str]]) -> None:
        import numpy as np  # only needed for a search

        self.values = values
        self._prefixes = np.zeros(2**20, bool)  # by the hash of four bytes: whether a value begins with them
        self._by_prefix: dict[bytes, dict[int, set[bytes]]] = {}
        for value in values:
            self._prefixes[int.from_bytes(value[:4], "little") * _MIX % 2**32 >> 12] = True
            self._by_prefix.setdefault(value[:4], {}).setdefault(len(value), set()).add(value)

    def within(self, data: bytes) -> list[tuple[str, str]]:
        """The (reference, encoding) of each value in the data."""
        import numpy as np

        matches = set[bytes]()
        for begin in range(0, len(data) - 3, 2**20):
            for at in range(begin, min(begin + 4, len(data) - 3)):
                words = np.frombuffer(data, "<u4", min(2**18, (len(data) - at) // 4), at)
                hashes = words * np.uint32(_MIX) >> np.uint32(12)
                for place in (np.flatnonzero(self._prefixes[hashes]) * 4 + at).tolist():
                    for length, values in self._by_prefix.get(data[place : place + 4], {}).items():
                        if (value := data[place : place + length]) in values:
                            matches.add(value)
        return [source for value, source in self.values.items() if value in matches] if matches else []


_MIX = 2654435761  # a multiplicative hash


def _find(
    folder: Path, needles: dict[bytes, tuple[str, str]], unknown: dict[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Yield (file, reference, encoding) for each hit; adds files that were not fully searched to `unknown`."""
    cut: dict[bytes, tuple[str, str]] = {}
    for needle, (name, encoding) in needles.items():
        if len(joined := _joined(needle)) >= _SHORTEST_CUT and not encoding.startswith("UTF"):
            cut.setdefault(joined, (name, f"{encoding}, in pieces"))
    plain, pieces, escaped = _Needles(needles), _Needles(cut), dict[Any, _Needles]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        reported = set()
        try:
            for where, data, packing in _texts(path, name):
                hits = plain.within(data) or pieces.within(_joined(data)) or _find_escaped(data, needles, escaped)
                for reference, encoding in hits:
                    hit = (where, reference, f"{encoding}{packing}")
                    if hit not in reported:
                        reported.add(hit)
                        yield hit
        except _Endless as error:
            unknown[name] = f"{error}, and was not searched to its end"


def _find_escaped(
    data: bytes, needles: Mapping[bytes, tuple[str, str]], escaped: dict[Any, _Needles]
) -> list[tuple[str, str]]:
    """(reference, encoding) of each value of which some characters are escaped; `escaped` caches the needles."""
    hits = list[tuple[str, str]]()
    for escape, decoded in errors.decodings(data):
        if escape not in escaped:
            decoded_needles = {
                m: (n, "partly escaped")
                for needle, (n, _) in needles.items()
                if (m := errors.decoded_needle(escape, needle))
            }
            escaped[escape] = _Needles(decoded_needles)
        hits += escaped[escape].within(decoded)
    return hits


def _texts(path: Path, name: str) -> Iterator[tuple[str, bytes, str]]:
    """Yield (name of the file, bytes, kind of packing) for everything to search in one file."""
    yield "name of a file", name.encode("utf-8", "surrogateescape"), ""
    if path.is_file():
        yield from ((name, data, packing) for data, packing in _readings(path.read_bytes()))


def _joined(data: bytes) -> bytes:
    """The data without dividing bytes. Tests for rare bytes first, because each seal reads every file of the run."""
    if b"<" in data or b"[" in data:
        data = _MARKS.sub(b"", data)
    line_ends = (b"=\r\n", b"=\n", b"=\\r\\n", b"=\\n", b"\\n", b"\\r", b"\\t")
    for mark in (*line_ends, b"\\u200b", b"&#8203;", *_NO_WIDTH):
        data = data.replace(mark, b"  ")
    return data.translate(None, _BETWEEN)


def _readings(data: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield a file's bytes, then the contents of each compressed part, in overlapping pieces. Raises `_Endless`.

    A part ends where it cannot be unpacked; a false start usually ends at once.
    """
    yield data, ""
    total, parts, size_held, false_starts = 0, dict[str, list[bytes]](), 0, 0
    for decompressor, chunks, packing in _packed(data):
        overlap = b""
        if false_starts > _MOST_BEGUN + len(data) // 128:  # in base64 of noise one of a thousand bytes begins none
            raise _Endless("holds more beginnings of compressed parts than any file has")
        with suppress(zlib.error, OSError, lzma.LZMAError, EOFError):
            for piece in _unpacked(decompressor, chunks):
                parts.setdefault(packing, []).append(part := overlap + piece)
                overlap, total, size_held = part[-_OVERLAP:], total + len(piece), size_held + len(part)
                if total > _MOST_UNPACKED:
                    raise _Endless(f"holds more than {size(_MOST_UNPACKED)} once it is unpacked")
                if size_held > _PIECE:
                    yield from ((_APART.join(pieces), packing) for packing, pieces in parts.items())
                    parts, size_held = {}, 0
        false_starts = max(0, false_starts - 8) if overlap else false_starts + 1
    yield from ((_APART.join(pieces), packing) for packing, pieces in parts.items())


_APART = b"\0\xff\0"  # separates small parts that are searched together: occurs in no value, and is not in `_BETWEEN`


# How zlib begins: the method, a window of some size, no dictionary, and together a multiple of 31.
_ZLIB = b"|".join(
    re.escape(bytes([window, level]))
    for window in range(0x08, 0x79, 0x10) for level in range(256) if (window << 8 | level) % 31 == 0 and not level & 0x20
)  # fmt: skip
_PACKED = re.compile(rb"\x1f\x8b\x08|PK\x03\x04|BZh[1-9]1AY&SY|\xfd7zXZ\x00|" + _ZLIB)
_PACKED_LETTERS = re.compile(rb"[He](?:(?<=H)4sI|(?<=e)(?:A[E-H]|F[4-7]|J[w-z]|N[o-r]))")  # gzip and zlib in base64
_LETTERS = re.compile(rb"[\w+/\\\s-]*")


def _packed(data: bytes) -> Iterator[tuple[Any, Iterator[bytes], str]]:
    """Yield (decompressor, its input, kind of packing) for each possible compressed part: gzip and zlib (also in base64), bzip2,
    xz, members of a zip; raw deflate at the begin of a file."""
    yield zlib.decompressobj(-15), _slices(data), ", compressed"
    for match in _PACKED.finditer(data):
        start = match.start()
        decompressor: Any = zlib.decompressobj(31 if match[0].startswith(b"\x1f") else 15)
        if match[0].startswith(b"BZh"):
            decompressor = bz2.BZ2Decompressor()
        elif match[0].startswith(b"\xfd"):
            decompressor = lzma.LZMADecompressor()
        elif match[0].startswith(b"PK"):
            names = (int.from_bytes(data[start + at : start + at + 2], "little") for at in (26, 28))
            method, start = data[start + 8 : start + 10], start + 30 + sum(names)
            decompressor = zlib.decompressobj(-15)
            if method == b"\x0e\0" and (lzma_decompressor := _lzma(data[start + 4 : start + 9])):
                length = int.from_bytes(data[match.start() + 18 : match.start() + 22], "little") or len(data)
                yield lzma_decompressor, _slices(data[start + 9 : start + length]), ", compressed"
                continue
        yield decompressor, _slices(data, start), ", compressed"
    for match in _PACKED_LETTERS.finditer(data):
        yield (
            zlib.decompressobj(31 if match[0].startswith(b"H") else 15),
            _decoded(data, match.start()),
            ", compressed, base64",
        )


def _lzma(properties: bytes) -> lzma.LZMADecompressor | None:
    """The decompressor for an LZMA member of a zip with these properties; None if they are invalid."""
    if len(properties) < 5 or (first := properties[0]) >= 225 or first % 9 + first // 9 % 5 > 4:
        return None
    sizes = {"lc": first % 9, "lp": first // 9 % 5, "pb": first // 45}
    memory = min(max(int.from_bytes(properties[1:], "little"), 2**12), 2**26)
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": memory, **sizes}])


def _slices(data: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the bytes from `start` in growing slices: most possible parts are false starts."""
    size = 2**8
    while piece := data[start : start + size]:
        yield piece
        start, size = start + size, min(4 * size, 2**20)


def _decoded(data: bytes, start: int) -> Iterator[bytes]:
    """Decode base64 from `start`, also over several lines with escaped line ends as in JSON."""
    rest = b""
    for piece in _slices(data, start):
        match = _LETTERS.match(piece)
        text = rest + (match[0] if match else b"")
        half = text[-1:] if text.endswith(b"\\") else b""  # of an escaped end of a line
        letters = re.sub(rb"\\[nr]|[\s\\]", b"", text).translate(bytes.maketrans(b"-_", b"+/"))
        whole = len(letters) // 4 * 4
        yield base64.b64decode(letters[:whole])
        rest = letters[whole:] + half
        if match is None or len(match[0]) < len(piece):
            return


def _unpacked(decompressor: Any, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the contents of a compressed part; give up if its first bytes give none."""
    patience = _PATIENCE.get(type(decompressor), 2**10)
    for data in chunks:
        patience -= len(data)
        while piece := decompressor.decompress(data, _PIECE):
            yield piece
            patience = sys.maxsize
            if len(piece) < _PIECE:
                break
            data = getattr(decompressor, "unconsumed_tail", b"")
        if decompressor.eof or patience < 0:
            return


# -- code identity -----------------------------------------------------------------------------------------------------


@cache
def code() -> dict[str, str]:
    """The code that runs: commit ("" outside of a git checkout), changed files, interpreter, SHA-256 of the package list."""
    commit, changed_files = audit.checkout()
    return {
        "commit": commit,
        "changed_files": changed_files,
        "interpreter": sys.version,
        "packages": sha256(_packages().encode()),
    }


@cache
def _packages() -> str:
    """The installed packages, one per line: SHA-256 of the RECORD file, name, version; then the files that Python runs at start.

    RECORD is from the installation: later changes of a package's files are not detected. Reading all files would be too slow.
    """
    packages = {
        f"{sha256((package.read_text('RECORD') or '').encode())}  {package.metadata['Name']}-{package.version}\n"
        for package in importlib.metadata.distributions()
    }
    folders = sorted({Path(folder or ".") for folder in sys.path})
    at_start = [
        path for folder in folders for path in sorted(folder.glob("*.pth")) if folder.name.endswith("-packages")
    ]
    at_start += [path for folder in folders for path in sorted(folder.glob("*customize.py")) if path.stem in _AT_START]
    return "".join(sorted(packages)) + "".join(
        f"{digest_of(path)}  {one_line(f'{path.parent.name}/{path.name}', 200)}\n"
        for path in at_start
        if path.is_file()
    )


_AT_START = ("sitecustomize", "usercustomize")


def list_packages(run: RunFolder) -> None:
    """Write the package list, whose digest seals name, into the run's folder, once for each set of packages."""
    name = f"packages-{code()['packages'][:16]}.txt"
    if not (run.reports / name).is_file():
        run.rewrite(name, _packages())


def other_code(before: Seal, seal: Seal) -> Iterator[str]:
    """Yield a line that names the differences of the code from that of the seal before, if there are any."""
    parts = ("helpers", "notebooks", "requirements_lock", "versions", "code")
    if changed := [part for part in parts if before.predicate.get(part) != seal.predicate.get(part)]:
        commits = [str(s.predicate.get("code", {}).get("commit", ""))[:12] for s in (before, seal)]
        commits_text = f" (commit {commits[0]}, then {commits[1]})" if commits[0] != commits[1] else ""
        yield f"{seal.name}: the code is not that of seal {before.number}: {', '.join(changed)}{commits_text}"


def code_lines(chain: Sequence[Seal]) -> list[str]:
    """A line with the code of the newest seal; then one for each seal with another code than the seal before."""
    code_facts = chain[-1].predicate.get("code") if chain else None
    if not code_facts:
        return []
    files = str(code_facts["changed_files"]).splitlines()
    changes = f"{count(len(files), 'changed file')}: {', '.join(files[:5])}" if files else "unchanged"
    commit = f"commit {code_facts['commit']}, {changes}" if code_facts["commit"] else "no git checkout"
    helpers, packages = (str(digest)[:16] for digest in (chain[-1].predicate["helpers"], code_facts["packages"]))
    interpreter = str(code_facts["interpreter"]).split(" (")[0]
    package_list = f"packages-{packages}.txt lists packages as installed (no later edit of their files)"
    first = f"{commit}; SHA-256 of helpers {helpers}…; {package_list}; Python {interpreter}"
    return [first, *(line for pair in pairwise(chain) for line in other_code(*pair))]


def foreign_bytecode(package: Path) -> list[str]:
    """The paths of cached bytecode that this interpreter would run and that differs from its compiled source."""
    paths = []
    for source in sorted(package.rglob("*.py")):
        path = Path(cache_from_source(str(source)))
        if not path.is_file():
            continue
        data, code = path.read_bytes(), source.read_bytes()
        flags, *stamp_ = struct.unpack("<3I", data[4:16])
        facts = source.stat()
        if data[:4] != MAGIC_NUMBER or (flags == 0 and stamp_ != [int(facts.st_mtime) & 0xFFFFFFFF, facts.st_size]):
            continue  # not read: Python compiles the source anew
        try:
            same = marshal.loads(data[16:]) == compile(code, str(source), "exec", dont_inherit=True)  # noqa: S302  # nosec B302
        except (ValueError, EOFError, TypeError):
            same = False
        if not same:
            paths.append(path.as_posix())
    return paths


@cache
def _foreign() -> list[str]:
    """Cached: a process loads each module once."""
    return foreign_bytecode(audit.REPOSITORY / "helpers")


def refuse_foreign_bytecode(folder: Path) -> None:
    if paths := _foreign():
        raise Terminal(
            ReasonCode.BYTECODE_ALTERED, f"{paths[0]} is not the bytecode of its source", where=str(folder),
            next_step="Find out who wrote it. Then remove that file, and begin a new run.",
        )  # fmt: skip


def tree(package: Path) -> str:
    """One SHA-256 over the names and digests of a package's files, as printed by `sha256sum`."""
    files = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    names = sorted(p.relative_to(package).as_posix() for p in files)
    return sha256("".join(f"{digest_of(package / name)}  {name}\n" for name in names).encode())
