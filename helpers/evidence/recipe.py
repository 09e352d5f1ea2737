"""VERIFY.txt: how to check a run years later with nothing but a shell, sha256sum and ssh-keygen.

The file is a script whose comments are the explanation. It holds the digest of the newest seal, and one command a
signature; `runbook verify` writes it again and compares.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.evidence.signing import REVOKED, namespace
from helpers.evidence.statement import Seal

NAME = "VERIFY.txt"
SIGNATURE = re.compile(r"(?P<gate>[a-z-]+?)-(?P<role>[a-z]+(?:_[a-z]+)*)-(?P<when>\d{8}T\d{9}Z)\.json")
NEWEST = re.compile(r"^newest=(?P<digest>\S+)  # (?P<name>.+)$", re.M)

_HEAD = r"""# The evidence of run {run}, to be verified without the toolkit that made it.
#
# Needed: bash, GNU coreutils, grep, sed, find, and ssh-keygen of OpenSSH 8.9 or later. In this folder: bash VERIFY.txt
# It names whatever does not fit and ends with exit code 1, or says that everything does and ends with 0.
# Before you believe it, read it: it has no secrets, and each command can be given by hand.

export LC_ALL=C
bad=0
complain() {{ echo "$*"; bad=1; }}

# 1. The seals. Each is an in-toto statement in one line of JSON and names the SHA-256 of the seal before it. The digest of
#    the newest one stands here; whoever wrote it down elsewhere on the day can compare.
newest={newest}  # {seal}
before=none
for seal in seals/*; do
  grep -qF "\"previous\":\"$before\"" "$seal" || complain "$seal does not follow the seal before it"
  before=$(sha256sum < "$seal" | cut -d' ' -f1)
done
[ "$before" = "$newest" ] || complain "$seal is not the newest seal as it was set"

# 2. Every sealed file, by its SHA-256.
sealed=$(grep -o '{{"digest":{{"sha256":"[0-9a-f]*"}},"name":"[^"]*"}}' "$seal" |
  sed -E 's/.*"sha256":"([0-9a-f]+)"\}},"name":"(.*)"\}}/\1  \2/')
echo "$sealed" | sha256sum --check --quiet --strict || bad=1

# 3. The logs grow; what was there when the seal was set is unchanged.
while read -r length name digest; do
  [ "$(head -c "$length" "$name" | sha256sum | cut -d' ' -f1)" = "$digest" ] || complain "$name: changed"
done < <(grep -o '{{"bytes":[0-9]*,"name":"[^"]*","sha256":"[0-9a-f]*"}}' "$seal" |
  sed -E 's/.*"bytes":([0-9]+),"name":"(.*)","sha256":"([0-9a-f]+)"\}}/\1 \2 \3/')

# 4. The lines of the audit log: each holds the SHA-256 of the line before it.
before=0000000000000000000000000000000000000000000000000000000000000000
while IFS= read -r line; do
  case "$line" in *"\"previous\": \"$before\""*) ;; *) complain "audit.jsonl: broken before: $line" ;; esac
  before=$(printf %s "$line" | sha256sum | cut -d' ' -f1)
done < audit.jsonl

# 5. Nothing else is here: index.html is made from these files, and this is {name}.
added=$(comm -13 <(echo "$sealed" | cut -c67- | sort) <(find . -mindepth 1 ! -type d | cut -c3- |
  grep -vxE 'seals/[^/.][^/]*\.json|index\.html|{escaped}|[^/]*\.jsonl|[^/]*\.log' | sort))
[ -z "$added" ] || complain "not sealed: $added"

# 6. The signatures: each over its statement, in the namespace of its role, by a key that allowed_signers lists and that was
#    valid when it was given; the statement names the SHA-256 of the seal that was signed.
signed() {{ # statement, namespace, time
  grep -qF "\"run\":\"{run}\"" "$1" || complain "$1 is of another run"
  grep -qF "$(sed -E 's/.*"seal":\{{"name":"[^"]*","sha256":"([0-9a-f]+)"\}}.*/\1/' "$1")" <(sha256sum seals/*) ||
    complain "$1 signs a seal that is not here"
  who=$(ssh-keygen -Y find-principals -Overify-time="$3" -f allowed_signers -s "$1.sig" 2>/dev/null | head -n 1)
  ssh-keygen -Y verify -Overify-time="$3" {revoked}-f allowed_signers -I "$who" -n "$2" -s "$1.sig" < "$1" ||
    complain "$1 is not signed by one who may"
}}
"""
_TAIL = """
# What was signed is readable in signoffs/, what was found in results/ and in the notebooks.
[ "$bad" = 0 ] && echo "Everything fits."
exit "$bad"
"""


def recipe(folder: Path, newest: Seal) -> str:
    """The text of VERIFY.txt for the folder as it is: the same files give the same text."""
    revoked = f"-r allowed_signers{REVOKED} " if (folder / f"allowed_signers{REVOKED}").is_file() else ""
    run = str(newest.predicate["run"]["id"])
    head = _HEAD.format(
        run=run, newest=newest.digest, seal=newest.name, name=NAME, escaped=re.escape(NAME), revoked=revoked
    )
    lines = [_signed(folder, path) for path in sorted((folder / "signoffs").glob("*.json"))]
    return head + "\n".join(lines or ["# nobody has signed yet"]) + "\n" + _TAIL


def _signed(folder: Path, path: Path) -> str:
    """The line for one statement. What its name says is what it must be: nothing is taken from a file that may be forged."""
    match = SIGNATURE.fullmatch(path.name)
    if match is None:
        return f"complain {shlex.quote(f'signoffs/{path.name} is no statement')}"
    when = time_of(match["when"])
    return f"signed signoffs/{path.name} {namespace(match['role'])} {when:%Y%m%d%H%M%SZ}"


def stamp(when: str) -> str:
    """A time of `utc_now` for the name of a file: 20251201T021500123Z."""
    return f"{datetime.fromisoformat(when).astimezone(UTC):%Y%m%dT%H%M%S%f}"[:-3] + "Z"


def time_of(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def statement_of(path: Path) -> dict[str, Any]:
    """What a statement says; {} where it is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
