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
import shlex
import stat
from base64 import b64encode
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers import audit
from helpers.errors import RunbookError, UsageError, WorldError, one_line
from helpers.evidence.signing import ALLOWED, REVOKED, custody, namespace
from helpers.formatting import size
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, contents, file_digest, json_in
from helpers.run.folders import RunPath, RunState, check_run_id
from helpers.run.plan import Step

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:chroma-migration-runbook:seal:v1"
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
FIRST = "none"  # what the first seal names in place of the digest of the one before
PUSHED = "digest pushed"  # the audit log's word for a digest that was given to a place outside, or was not taken there
SEALED = "sealed"  # the log's word for a seal that was set; the part of a seal that says that the log has such lines
_BEHIND = (  # a line behind the newest seal, and nothing else: a repeated name could be read as either
    r'\{"action": "(digest pushed|sealed)", "facts": \{"digest": "[0-9a-f]{64}", "number": [0-9]+(, "reason": "[a-z_]+", "why": '
    r'"([^"\\]|\\.)*")?\}, '
    r'"host": "[^"]*", "outcome": "[a-z]+", "previous": "[0-9a-f]{64}", "process": [0-9]+, ("signature": "[^"]*", )?'
    r'"user": "[^"]*", "when": "[^"]*"\}'
)
_LONGEST = 2**16  # bytes of such a line


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
        known = known and path.name.startswith(f"{seal.number:04d}-")
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
    for path in sorted((folder / SEALS).glob("*.json")):
        with suppress(OSError, ValueError):  # `seals` and `verify` name it
            chain.append(read_once(path))
    return trust(chain, "" if signers else audit.own_key(), signers)


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
        elif not name.isprintable() or '"' in name or "\\" in name:
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


def _is_plain(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= most_of(path)


def prefix_digest(path: Path, length: int) -> str:
    """SHA-256 of the first `length` bytes; "" where the file is shorter or gone."""
    if not _is_plain(path):
        return ""
    digest, left = hashlib.sha256(), length
    with path.open("rb") as file:
        while left > 0 and (data := file.read(min(left, 2**20))):
            digest.update(data)
            left -= len(data)
    return "" if left else digest.hexdigest()


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
    found, behind = {}, re.compile(rf"{_BEHIND}\n?".encode())
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


# -- recipe ------------------------------------------------------------------------------------------------------------

# VERIFY.txt: how to check a run years later with nothing but a shell, sha256sum and ssh-keygen.
#
# The file is a script whose comments are the explanation. It holds the digest of the newest seal, and one command a
# signature; `runbook verify` writes it again and compares.


NAME = RunPath.VERIFY
SIGNATURE = re.compile(r"(?P<gate>[a-z-]+?)-(?P<role>[a-z]+(?:_[a-z]+)*)-(?P<when>\d{8}T\d{9}Z)\.json")
NEWEST = re.compile(r"^newest=(?P<digest>\S+)  # (?P<name>.+)$", re.M)

_HEAD = r"""# The evidence of run {run}, to be verified without the toolkit that made it. In this folder:
#
#   bash VERIFY.txt [DIGEST ...]            DIGEST is the SHA-256 of a seal, as it was noted elsewhere
#   SIGNERS=FILE bash VERIFY.txt            FILE, from elsewhere, lists the people and the runner's key (runbook-seal);
#                                           keys in FILE.revoked, if it is there, sign nothing
#
# It names whatever does not fit and ends with exit code 1, or says that everything fits and ends with 0. It cannot see:
#
# - whether this file was changed: read it, or compare it by the toolkit's verify command, which makes it again;
# - without a digest or a list from elsewhere: whether all seals were made again, with a new log, by who has the runner's key;
# - without a digest from elsewhere: whether all that came after some seal was cut off; never: a line behind the newest;
# - index.html, which is no evidence, tokens of a time-stamping authority, and the signatures in files .dsse;
# - what somebody did who could use the key of the toolkit's workspace. A seal or digest noted elsewhere shows what was sealed
#   by then;
# - whether a file is what the newest line of audit.jsonl names, or what an older one does: the verify command compares them;
# - whether the parameters were changed in the run, but for who has to sign: the toolkit's verify command compares them;
# - whether an approval accepts each marginal criterion, and what a result means: read it.
#
# Needed: bash, GNU coreutils, grep, sed, find, and ssh-keygen of OpenSSH 8.9 or later.

export LC_ALL=C; {{ # all that is said goes through cat -v below: nothing that this folder holds acts on a terminal
bad=0; complain() {{ echo "$*"; bad=1; }}
said() {{ grep -o "\"$1\":\"[^\"]*\"" "$2" | head -n 1 | cut -d'"' -f4; }}
gone=(); [ -z "$SIGNERS" ] || [ ! -e "$SIGNERS.revoked" ] || gone=(-r "$SIGNERS.revoked")
c=$(find . \( -name '*[[:cntrl:]]*' -o -name $'*\xc2[\x80-\x9f]*' -o -name $'*\xe2\x80[\x8b-\x8f\xa8-\xae]*' -o \
  -name $'*\xe2\x81[\xa0-\xaf]*' -o -name $'*\xd8\x9c*' \) -print0 | tr '\n\0' '? ')
[ -z "$c" ] || {{ complain "control characters in a name: $c"; exit 1; }}
out=$(grep -lE '("[0-9a-f]*"\}}|"bytes":[0-9]+),"name":"(/|([^"]*/)?\.\.["/])' seals/*.json)
[ -z "$out" ] || {{ complain "names a file outside of this folder: $out"; exit 1; }}
links=$(find . -mindepth 1 ! -type d ! -type f); [ -z "$links" ] || {{ complain "not a file: $links"; exit 1; }}
instant() {{ said created "$1" | sed -E 's/[-:T]//g; s/\..*/Z/'; }}
listed() {{ # the files of a seal: SHA-256, name
  grep -o '{{"digest":{{"sha256":"[0-9a-f]*"}},"name":"[^"]*"}}' "$1" |
    sed -E 's/.*"sha256":"([0-9a-f]+)"\}},"name":"(.*)"\}}/\1  \2/' | sort
}}

# 1. The seals. Each is an in-toto statement in one line of JSON and names the SHA-256 of the seal before it. The digest of
#    the newest one stands here; whoever wrote it down elsewhere on the day can compare. Each is signed by the runner whose
#    key it names, which proves no more than that: compare its fingerprint with the one in the announcement.
newest={newest}  # {seal}
before=none created='' runner='' last='' holders=''
for seal in seals/*.json; do
  grep -qF "\"previous\":\"$before\"" "$seal" || complain "$seal does not follow the seal before it"
  before=$(sha256sum < "$seal" | cut -d' ' -f1)
  [[ ! "$(said created "$seal")" < "$created" ]] || complain "$seal is older than the seal before it"
  created=$(said created "$seal"); key=$(said fingerprint "$seal")
  if [ -z "$key" ]; then
    echo "$seal is not signed"
    [ -z "$runner$SIGNERS" ] || complain "$seal should be signed"
    continue
  fi
  ssh-keygen -Y check-novalidate -n runbook-seal -s "$seal.sig" < "$seal" | grep -F "key $key" ||
    complain "$seal is not signed with $key"
  if [ -n "$SIGNERS" ]; then
    who=$(ssh-keygen -Y find-principals -Overify-time="$(instant "$seal")" -f "$SIGNERS" -s "$seal.sig" 2>/dev/null | head -n 1)
    ssh-keygen -Y verify -Overify-time="$(instant "$seal")" "${{gone[@]}}" -f "$SIGNERS" -I "$who" -n runbook-seal \
      -s "$seal.sig" < "$seal" > /dev/null || complain "$seal is not signed by one whom $SIGNERS allows"
  elif [ "${{runner:-$key}}" != "$key" ]; then
    complain "$seal is not signed with the key of the seal before it"
  fi
  runner=$key
  if grep -qF '"envelope":".dsse"' "$seal"; then # its summary for tools that read in-toto attestations
    sed -E 's/.*"payload":"([^"]*)".*/\1/' "$seal.dsse" | base64 -d | grep -qF "$before" ||
      complain "$seal.dsse is not of its seal"
  fi
done
[ "$before" = "$newest" ] || complain "$seal is not the newest seal as it was set"
for digest in "$@"; do
  sha256sum seals/*.json | grep -qi "^$digest  " || complain "no seal has the expected SHA-256 $digest"
done
while read -r digest number; do # each seal as the log says that it was set
  sha256sum "seals/$(printf %04d "$number")"-*.json 2> /dev/null | grep -q "^$digest " ||
    complain "audit.jsonl: seal $number with the SHA-256 $digest was set, and is not here: seals were made again"
done < <(sed -nE 's#^\{{"action": "sealed", "facts": \{{"digest": "([0-9a-f]+)", "number": ([0-9]+)\}}.*#\1 \2#p' audit.jsonl)
sed -nE 's#^\{{"action": "seal", "facts": \{{[^}}]*"number": ([0-9]+)\}}.*#\1#p' audit.jsonl | sort -nc 2> /dev/null ||
  complain "audit.jsonl: an earlier seal was begun after a later one: seals were made again"
for each in seals/*.json; do
  ! grep -qF '"sealed":"named"' "$each" ||
    grep -qF "\"sealed\", \"facts\": {{\"digest\": \"$(sha256sum < "$each" | cut -d' ' -f1)\"" audit.jsonl ||
    complain "$each: audit.jsonl does not say that it was set"
done

# 2. Every sealed file, by its SHA-256; nothing that was sealed before was changed since, but for what the audit log names.
sealed=$(listed "$seal")
echo "$sealed" | sha256sum --check --quiet --strict || bad=1
parts() {{ grep -oE '"(bound|files|moves|sealed|work)":["{{]|"{log_key}":"' "$1" | sort -u; }}
approvals() {{ grep -oE '"approvals":\{{[^}}]*\}}' "$1" | head -n 1; }}
for each in seals/*.json; do
  [ -z "$last" ] || [ -z "$(comm -23 <(parts "$last") <(parts "$each"))" ] || complain "$each lacks what $last has"
  who=$([ -z "$last" ] || approvals "$last")
  [ -z "$who" ] || [ "$who" = "$(approvals "$each")" ] || complain "$each: other people sign than in $last"
  [ -n "$last" ] && grep -qF '"runner":' "$last" && while read -r digest name; do
    # A step that runs again moves what it left before; logs of older toolkits do not name that.
    listed "$each" | grep "^$digest  earlier/" | cut -d/ -f3- | grep -qxF "$name" &&
      {{ ! grep -qF '"moves":"named"' "$last" ||
        grep -qF "{{\"digest\": \"$digest\", \"file\": \"$name\", \"to\": \"earlier/" audit.jsonl; }} && continue
    now=$(listed "$each" | grep -F "  $name" | grep -x "[0-9a-f]*  $name" | cut -c-64)
    [[ " {changing} " == *" $name "* ]] && grep -qF "\"sha256\": \"$now\"" audit.jsonl && continue
    complain "$name: changed between $last and $each"
  done < <(comm -23 <(listed "$last") <(listed "$each"))
  last=$each
done

# 3. The logs grow; what was there when each seal was set is unchanged. Behind the newest only audit.jsonl says that it was set.
for each in seals/*.json; do
  while read -r length name digest; do
    [ "$(head -c "$length" "$name" | sha256sum | cut -d' ' -f1)" = "$digest" ] || complain "$name: changed since $each"
    only='x^'; [ "$name" != audit.jsonl ] || only='^{behind}$'
    [ "$each" != "$seal" ] || [ "$(tail -c "+$((length + 1))" "$name" | grep -acvE "$only")" = 0 ] ||
      complain "$name: lines added later"
  done < <(grep -o '{{"bytes":[0-9]*,"name":"[^"]*","sha256":"[0-9a-f]*"}}' "$each" |
    sed -E 's/.*"bytes":([0-9]+),"name":"(.*)","sha256":"([0-9a-f]+)"\}}/\1 \2 \3/')
done

# 4. The lines of the audit log: each holds the SHA-256 of the line before it, and is signed by the key that the seals name; what
#    an older toolkit wrote, whose seals name none, is not signed.
before=0000000000000000000000000000000000000000000000000000000000000000 keys='' old=0 at=0
for each in seals/*.json; do
  key=$(said {log_key} "$each"); keys+=" $key"
  [ -n "$key" ] || old=$(grep -o '"bytes":[0-9]*,"name":"audit.jsonl"' "$each" | tr -cd 0-9)
done
[ "$old" = 0 ] || echo "audit.jsonl: the first $old bytes are chained, not signed"
signature='^(.*), "signature": "([A-Za-z0-9+/=]+)"(, "user": "[^"]*", "when": "[^"]*"\}})$'
while IFS= read -r line || [ -n "$line" ]; do
  case "$line" in *"\"previous\": \"$before\""*) ;; *) complain "audit.jsonl: broken before: $line" ;; esac
  before=$(printf %s "$line" | sha256sum | cut -d' ' -f1)
  if [ "$at" -ge "${{old:-0}}" ] && [ -n "${{keys// /}}" ]; then
    by=''
    [[ ! $line =~ $signature ]] || by=$(ssh-keygen -Y check-novalidate -n {log_namespace} -s <(printf '%s\n' \
      '-----BEGIN SSH SIGNATURE-----' "${{BASH_REMATCH[2]}}" '-----END SSH SIGNATURE-----') \
      < <(printf %s "{run} ${{BASH_REMATCH[1]}}${{BASH_REMATCH[3]}}"))
    [[ -n $by && " $keys " == *" ${{by##* }} "* ]] || complain "audit.jsonl: not signed by the key that the seals name: $line"
  fi
  at=$((at + ${{#line}} + 1))
done < audit.jsonl

# 5. Nothing else is here: index.html is made from these files, and this is {name}.
logs=$(grep -o '"bytes":[0-9]*,"name":"[^"]*"' "$seal" | cut -d'"' -f6)
added=$(comm -13 <({{ echo "$sealed" | cut -c67-; echo "$logs"; }} | sort) <(find . -mindepth 1 ! -type d | cut -c3- |
  grep -vxE 'seals/[^/.][^/]*\.json(\.sig|\.tsr|\.dsse)?|index\.html|{escaped}' | sort))
[ -z "$added" ] || complain "not sealed: $added"
for beside in seals/*.json.*; do
  [ ! -e "$beside" ] || [ -f "${{beside%.*}}" ] || complain "$beside belongs to no seal"
done
folders=$(find seals -mindepth 1 -type d); [ -z "$folders" ] || complain "not a seal: $folders"
empty=$(find . -mindepth 1 -type d -empty ! -path './earlier/*' | grep -vxE '\./({full})')
[ -z "$empty" ] || complain "an empty folder: $empty"

# 6. The results: each passed one is the one that its notebook shows; the seal has its verdict, and the decision of step {review}.
for result in results/*.json; do
  verdict=$(sed -nE 's/^  "verdict": "([a-z ]+)",?$/\1/p' "$result")
  [ -z "$verdict" ] || grep -qF "\"result\":\"$(sha256sum < "$result" | cut -d' ' -f1)\",\"verdict\":\"$verdict\"" "$seal" ||
    complain "$result: the seal says another verdict"
  notebook=$(find . -maxdepth 1 -name "$(basename "$result" .json)_*.ipynb" | head -n 1)
  if [ -z "$notebook" ]; then
    ! grep -qF '"execution": "' "$result" || complain "$result: its notebook is missing"
  elif grep -qx '  "error": null,' "$result" && ! grep -qx '  "verdict": "fail"' "$result"; then
    grep -qF "$(sha256sum < "$result" | cut -d' ' -f1)" "$notebook" || complain "$result is not what $notebook shows"
  fi
done
if grep -qF '"files":"named"' "$seal"; then # the log names every file
  while read -r digest name; do
    grep -F ": \"$digest\"" audit.jsonl | grep -qF -e "\"$name\"" -e "\"${{name%.sig}}\"" ||
      complain "$name: audit.jsonl names no such file"
  done < <(listed "$seal")
elif grep -qF '"work":"named"' "$seal"; then # the log names each passed result, by whoever ran the step
  for result in results/*.json; do
    grep -qx '  "error": null,' "$result" && ! grep -qx '  "verdict": "fail"' "$result" || continue
    step=$(basename "$result" .json)
    grep -E '^\{{"action": "step ends"' audit.jsonl | grep -F "\"step\": \"$step\"" |
      grep -qvF '"result": ' || grep -qF "\"result\": \"$(sha256sum < "$result" | cut -d' ' -f1)\"" audit.jsonl ||
      complain "$result: audit.jsonl names no such file"
  done
  for list in allowed_signers*; do # who may sign
    [ ! -e "$list" ] || grep -qF "\"sha256\": \"$(sha256sum < "$list" | cut -d' ' -f1)\"" audit.jsonl ||
      complain "$list: audit.jsonl names no such file"
  done
fi
echo "decision: $(said decision "$seal")"
[ "$(cat results/{review}.json 2> /dev/null | sed -nE 's/^    "decision": "(.*)",?$/\1/p')" = "$(said decision "$seal")" ] ||
  complain "results/{review}.json: the seal says another decision"

# 7. The signatures: each over its statement, in the namespace of its role, by a key that allowed_signers lists, and that was
#    valid when it was given and when it was sealed; the statement names the SHA-256 of the seal that was signed.
logged() {{ # statements of a gate and role, as the log recorded them
  sed -nE 's#^\{{"action": "signed", "facts": \{{[^}}]*"file": "(signoffs/'"$1"'-[0-9][^"]*)".*#\1#p' audit.jsonl
}}
for digest in $(sed -nE 's#^\{{"action": "signed", "facts": \{{[^}}]*"statement": "([0-9a-f]+)".*#\1#p' audit.jsonl); do
  find signoffs earlier -path '*signoffs/*.json' -exec sha256sum {{}} + 2>/dev/null | grep -q "^$digest " ||
    complain "a statement that audit.jsonl records is not here: $digest"
done
again=$(logged '[a-z_-]+' | sort | uniq -d); [ -z "$again" ] || complain "recorded twice: $again"
no_go=$(find signoffs earlier -path '*signoffs/*.json' -exec grep -lF '"decision":"no-go"' {{}} + 2>/dev/null | sort)
[ -z "$no_go" ] || echo "no-go: $no_go"
signed() {{ # statement, namespace, time
  grep -qF "\"run\":\"{run}\"" "$1" || complain "$1 is of another run"
  grep -qF "$(sed -E 's/.*"seal":\{{"name":"[^"]*","sha256":"([0-9a-f]+)"\}}.*/\1/' "$1")" <(sha256sum seals/*) ||
    complain "$1 signs a seal that is not here"
  sed -E 's/.*"decision":"([a-z-]+)".*"gate":"([a-z-]+)".*"role":"([a-z_]+)".*/\2: \3 signed \1/' "$1"
  who=$(ssh-keygen -Y find-principals -Overify-time="$3" -f allowed_signers -s "$1.sig" 2>/dev/null | head -n 1)
  good=$(ssh-keygen -Y verify -Overify-time="$3" {revoked}-f allowed_signers -I "$who" -n "$2" -s "$1.sig" < "$1") ||
    complain "$1 is not signed by one who may"
  echo "$good"; holders+="${{good##* }} $2"$'\n'
  covering=$(grep -lF "\"name\":\"$1\"" seals/*.json | head -n 1)
  [ -z "$covering" ] || ssh-keygen -Y verify -Overify-time="$(instant "$covering")" {revoked}-f allowed_signers \
    -I "$who" -n "$2" -s "$1.sig" < "$1" > /dev/null || complain "$1: its key was not valid when it was sealed"
  [ -z "$SIGNERS" ] || ssh-keygen -Y verify -Overify-time="$3" "${{gone[@]}}" -f "$SIGNERS" -I "$who" -n "$2" -s "$1.sig" \
    < "$1" > /dev/null ||
    complain "$1 is not signed by one whom $SIGNERS allows"
}}
approved() {{ # gate, role, step whose seal is signed, step that does not begin before ("" for the closeout)
  acts=''
  [ "$4" != {cutover} ] || acts=$(grep -nE '^\{{"action": "cutover", .*"outcome": "begun", "previous"' audit.jsonl)
  [ -z "$4" ] || [ -n "$acts" ] || acts=$(grep -F "\"step\": \"$4\"}}" -n audit.jsonl |
    grep -E '^[0-9]+:\{{"action": "step ends", .*"outcome": "(pass|warning|marginal|not [a-z]+)", "previous"')
  for line in $(cut -d: -f1 <<< "$acts"); do # each time that it acted: what had the role signed by then?
    by=$(head -n "$line" audit.jsonl | grep -E '^\{{"action": "signed", ' | grep -F "\"gate\": \"$1\"," |
      grep -F "\"role\": \"$2\"," | tail -n 1)
    [[ "$by" == *'"decision": "go"'* ]] || complain "step $4 acted, and $2 had not signed go by then"
  done
  [ -e "results/${{4:-$3}}.json" ] || return
  statement=$(logged "$1-$2" | tail -n 1)
  if [ -z "$statement$4" ]; then echo "$1: $2 has not signed"; return; fi
  if [ -z "$statement" ]; then complain "step $4 ran, and $2 has not signed"; return; fi
  [ -z "$4" ] || grep -qF '"decision":"go"' "$statement" || complain "step $4 ran although $statement is no-go"
  for other in signoffs/"$1-$2"-*.json; do # given later, though recorded before
    [[ "$other" < "$statement" ]] || grep -qF '"decision":"go"' "$other" || complain "$other is no-go and was given later"
  done
  grep -qF "$(grep -lF "\"after\":\"$3\"" seals/*.json | tail -n 1 | xargs sha256sum | cut -d' ' -f1)" "$statement" ||
    complain "$statement was given before what it approves was sealed anew"
}}
"""
_TAIL = """
{same_key}
# What was signed is readable in signoffs/, what was found in results/ and in the notebooks.
[ "$bad" = 0 ] && echo "Everything fits." || echo "Does not fit: see FAILED above."
exit "$bad"
}} 2>&1 | cat -v; exit "${{PIPESTATUS[0]}}"
"""
_SAME_KEY = """\
twice=$(printf %s "$holders" | sort -u | cut -d' ' -f1 | uniq -d)
[ -z "$twice" ] || complain "one key signed in several roles: $twice"
"""


def recipe(state: RunState, newest: Seal) -> str:
    """The text of VERIFY.txt for the run as it is: the same files give the same text."""
    folder = state.reports
    revoked = f"-r allowed_signers{REVOKED} " if (folder / f"allowed_signers{REVOKED}").is_file() else ""
    run = str(newest.predicate["run"]["id"])
    head = _HEAD.format(
        run=run, newest=newest.digest, seal=newest.name, name=NAME, escaped=re.escape(NAME), revoked=revoked, behind=_BEHIND,
        changing=" ".join(sorted(CHANGING)), log_key=audit.LOG_KEY, log_namespace=audit.NAMESPACE, full="|".join(MAY_BE_EMPTY),
        review=Step.REVIEW, cutover=Step.CUTOVER,
    )  # fmt: skip
    lines = [_signed(path) for path in sorted((folder / RunPath.SIGNOFFS).glob("*.json"))]
    try:
        rules = state.parameters.signoff
    except (RunbookError, OSError, ValueError):  # damaged, which section 2 says
        return head + "\n".join(lines) + "\n" + _TAIL.format(same_key="")
    lines += [f"approved cutover {role} {Step.REVIEW} {Step.CUTOVER}" for role in rules.required]
    lines += [f"approved closeout {role} {Step.CLOSEOUT} ''" for role in rules.closeout]
    lines += [f"approved dry-run {role} {Step.SCHEDULE_AND_NOTIFY} {Step.FENCE_WRITES}" for role in rules.dry_run]
    return head + "\n".join(lines) + "\n" + _TAIL.format(same_key="" if rules.one_key_for_roles else _SAME_KEY)


def _signed(path: Path) -> str:
    """The line for one statement. What its name says is what it must be: nothing is taken from a file that may be forged."""
    if (match := SIGNATURE.fullmatch(path.name)) is None:
        return f"complain {shlex.quote(f'signoffs/{path.name} is no statement')}"
    when = time_of(match["when"])
    return f"signed signoffs/{path.name} {namespace(match['role'])} {when:%Y%m%d%H%M%SZ}"


def stamp(when: str) -> str:
    """A time of `utc_now` for the name of a file: 20251201T021500123Z."""
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z"


def time_of(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
