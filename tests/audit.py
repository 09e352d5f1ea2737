"""`make audit`: known vulnerabilities of what is locked, bandit over helpers/, licences, and secrets in the repository.

One line of outcome each: pass, fail, or NOT EXERCISED with the reason, where a tool or the database of advisories cannot be
reached. Exit code 1 where one failed. Licences and secrets need no network; `make test` looks at them, too.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import secrets_of
from tests.conftest import ROOT

PASS, FAIL, NOT_EXERCISED = "pass", "fail", "NOT EXERCISED"
LOCKS = ("requirements.lock", "requirements-audit.lock")
ACCEPTED: dict[str, str] = {}  # advisories that do not concern us: id → why
ALLOWED = re.compile(  # licences under which a package may be used beside ours, which is MIT
    r"(?i)(0?bsd|([23]-clause )?bsd( license)?|bsd-[23]-clause|mit|mit license|mit-0|mit-cmu|apache[ -]2(\.0)?|isc"
    r"|apache (software license|license, version 2\.0)|isc license \(iscl\)|psf-2\.0|python software foundation license"
    r"|mpl-2\.0|mozilla public license 2\.0 \(mpl 2\.0\)|zlib|cc0-1\.0)"
)
INVENTED = {  # what looks like a secret and is none
    "tests of redaction, names and URLs": """hunter2 hunter22 pa55!word s3cr3tV4lue pass-word-1 abcdef12 abc-123-def
        TIiajkdnlazkcOXrIdevi7FQ AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw AbCd1234efGH AbCdEfGh1234567890XyZ sk_live_abcdef123456
        XyZ12aBcDeFgHiJkLmNo34 MIIBVgIBADANBgkqhkiG9w0BAQEFAASC pa55%21word 0ld-Passw0rd-x p4ss-w0rd
        pa55%21word@mail2.example.org?to=dba pa55!word@mail2.example.org?to=dba
        l0nger-than-the-passw0rd AbCdEf1234567890abcdefgh ghp_abcdefghijklmnop0123 hf_SuperSecretKey0123456789""",
    "keys of the stand-in for Chroma Cloud": "ck-5tandIn-0f-the-tests ck-of-somebody-else",
    "names of Python": """engine.MigrationHash.MD5 ipaddress.IPv6Address sqlite3.OperationalError sqlite3.DatabaseError
        jsonschema.Draft202012Validator sqlite3.SQLITE_LOCKED""",
}  # fmt: skip
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_DIGEST = re.compile(r"(--hash=)?(sha256:)?[0-9a-fA-F]{32,}")  # of files, commits and packages


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one look at the repository came to."""

    what: str
    outcome: str
    detail: str

    def line(self) -> str:
        return f"{self.what:<10} {self.outcome:<14} {self.detail}"


# -- advisories --------------------------------------------------------------------------------------------------------


def advisories(programs: Path) -> Outcome:
    """What pip-audit says of the locks. One package is asked for first: where that is not found, nothing else is asked."""
    locks = [ROOT / name for name in LOCKS]
    first = re.search(
        r"^([a-z0-9-]+==\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", locks[0].read_text(encoding="utf-8"), re.M
    )
    assert first is not None, "the lock names no package"
    probe = programs.parent / "probe.lock"
    try:
        probe.write_text(first[0], encoding="utf-8")
        found = judged(_pip_audit(programs, [probe]))
        return found if found.outcome == NOT_EXERCISED else judged(_pip_audit(programs, locks))
    except OSError as error:
        return Outcome("pip-audit", NOT_EXERCISED, f"it is not installed ({error.strerror}); see .audit/install.log")
    except ValueError as error:
        return Outcome("pip-audit", NOT_EXERCISED, str(error))


def judged(report: Mapping[str, Any]) -> Outcome:
    """pip-audit's report. A package of which it learned nothing was not audited, although pip-audit itself ends well."""
    packages = report["dependencies"]
    skipped = [package for package in packages if "skip_reason" in package]
    known = [
        f"{package['name']} {package['version']}: {each['id']} (mended in {', '.join(each['fix_versions']) or 'no version'})"
        for package in packages
        for each in package.get("vulns", ())
        if each["id"] not in ACCEPTED
    ]
    if known:
        return Outcome("pip-audit", FAIL, "; ".join(known))
    if skipped or not packages:
        why = skipped[0]["skip_reason"] if skipped else "no package was looked at"
        return Outcome("pip-audit", NOT_EXERCISED, f"{len(skipped)} of {len(packages)} packages: {why}")
    accepted = f"; accepted: {', '.join(sorted(ACCEPTED))}" if ACCEPTED else ""
    return Outcome("pip-audit", PASS, f"{len(packages)} packages without a known vulnerability{accepted}")


def _pip_audit(programs: Path, locks: Iterable[Path]) -> dict[str, Any]:
    """Its report. Raises `OSError` where it is not here, `ValueError` with what it said where there is no report."""
    given = [part for lock in locks for part in ("-r", str(lock))]
    more = ["--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run([str(programs / "pip-audit"), *given, *more], capture_output=True, text=True, check=False)
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(said[-1][:300]) from None


# -- bandit ------------------------------------------------------------------------------------------------------------


def bandit(programs: Path) -> Outcome:
    """bandit over the package; what is excused is so on its own line, or for all of it in pyproject.toml, with the reason."""
    command = [str(programs / "bandit"), "-q", "-c", "pyproject.toml", "-r", "helpers", "-f", "json"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return findings(json.loads(done.stdout))
    except OSError as error:
        return Outcome("bandit", NOT_EXERCISED, f"it is not installed ({error.strerror}); see .audit/install.log")
    except ValueError:
        return Outcome("bandit", FAIL, (done.stderr.strip().splitlines() or ["no report"])[-1])


def findings(report: Mapping[str, Any]) -> Outcome:
    """bandit's report: every finding that no line excuses, and every file that it could not read."""
    found = [f"{r['filename']}:{r['line_number']} {r['test_id']} {r['issue_text']}" for r in report["results"]]
    found += [f"{e['filename']}: {e['reason']}" for e in report["errors"]]
    total = report["metrics"]["_totals"]
    if found or not total["loc"]:
        return Outcome("bandit", FAIL, "; ".join(found) or "no line was read")
    return Outcome("bandit", PASS, f"{total['loc']:,} lines, {total['skipped_tests'] + total['nosec']} excused by line")


_MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation "
    'files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, '
    "modify, merge, publish, distribute, sublicense, and/or sell copies of the Software"
)

# -- licences ----------------------------------------------------------------------------------------------------------


def licences() -> Outcome:
    """The licence of each locked package that is installed here, as its metadata name it."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in LOCKS[:1])
    locked = sorted(set(re.findall(r"^([a-z0-9._-]+)==", text, re.M | re.I)))
    found: dict[str, str] = {}
    for name in locked:
        try:
            package = importlib.metadata.distribution(name)
            named = (f"licenses/{file}" for file in package.metadata.get_all("License-File") or ())
            found[name] = licence_of(package.metadata, " ".join(package.read_text(file) or "" for file in named))
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
    return allowed(found, [name for name in locked if name not in found])


def licence_of(metadata: Any, files: str = "") -> str:
    """The expression; or the classifiers; or the first line of the text; or MIT where the files of the licence grant that."""
    named = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License :: ")]
    text = (metadata.get("License") or "").strip().split("\n")[0]
    granted = "MIT" if _MIT in " ".join(files.split()) else "none"
    return (
        metadata.get("License-Expression") or " AND ".join(n for n in named if n != "OSI Approved") or text or granted
    )


def allowed(found: Mapping[str, str], absent: Iterable[str] = ()) -> Outcome:
    """Every part of each licence is one of `ALLOWED`."""
    refused = [
        f"{name}: {licence[:80]}" for name, licence in found.items() if not all(map(ALLOWED.fullmatch, parts(licence)))
    ]
    if refused or not found:
        return Outcome("licences", FAIL, "; ".join(refused) or "no package was looked at")
    counts = Counter(part.upper() for licence in found.values() for part in parts(licence))
    table = ", ".join(f"{licence} {number}" for licence, number in counts.most_common())
    elsewhere = f"; not installed here: {', '.join(absent)}" if absent else ""
    return Outcome("licences", PASS, f"{len(found)} packages: {table}{elsewhere}")


def parts(licence: str) -> list[str]:
    return [
        part.strip(" ()") if part.count("(") != part.count(")") else part.strip()
        for part in re.split(r" (?:AND|OR) ", licence)
    ]


# -- secrets -----------------------------------------------------------------------------------------------------------


def secrets(folder: Path = ROOT) -> Outcome:
    """Tokens by their look, passwords in URLs and private keys, in every file that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name and (folder / name).is_file()]
    excused = {value for values in INVENTED.values() for value in values.split()}
    found, seen = [], set()
    for name in names:
        text = (folder / name).read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.split("\n"), start=1):
            if _KEY.search(line):
                found.append(f"{name}:{number} a private key")
            for value in _tokens(line):
                seen.add(value)
                if value not in excused:
                    found.append(f"{name}:{number} {value[:3]}… ({len(value)} characters)")
    stale = sorted(excused - seen) if folder == ROOT else []
    if found or stale or not names:
        said = [*found, *(f"excused and nowhere: {value}" for value in stale)]
        return Outcome("secrets", FAIL, "; ".join(said) or "git lists no file here")
    return Outcome("secrets", PASS, f"{len(names)} files; {len(excused)} invented values are excused")


def _tokens(line: str) -> Iterable[str]:
    for word in re.split(r"[\s\\'\"`,;()<>\[\]{}|]+", line):
        word = re.sub(r"^\w+=", "", word)
        if not _DIGEST.fullmatch(word):
            yield from secrets_of("", word)


def main(programs: Path) -> int:
    outcomes = [advisories(programs), bandit(programs), licences(), secrets()]
    print("\n".join(outcome.line() for outcome in outcomes))
    return int(any(outcome.outcome == FAIL for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
