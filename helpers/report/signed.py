"""The files of signoffs/ as the pages show them, whichever way they were made: recorded, or signed with a key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_INSIDE = ("statement", "predicate", "payload", "approval", "key", "signature")  # where a signed form keeps its facts
_FINGERPRINTS = ("fingerprint", "key_fingerprint")


@dataclass(frozen=True, slots=True)
class SignOff:
    """One answer. `decision` is go or no-go; `fingerprint` that of the key, "" for an answer without one."""

    role: str
    name: str = ""
    decision: str = ""
    when: str = ""
    gate: str = ""
    reason: str = ""
    accept: list[str] = field(default_factory=list)
    fingerprint: str = ""
    rehearsal: bool = False
    file: str = ""


def read_signoffs(folder: Path) -> list[SignOff]:
    """Every answer in signoffs/ that names a role, by time; a file that is none is left to the gate to refuse."""
    found = []
    for path in sorted(folder.glob("signoffs/*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8", errors="backslashreplace"))
        except (OSError, ValueError):
            continue
        facts = dict(reversed(list(_facts(value)))) if isinstance(value, dict) else {}
        if "role" in facts:
            found.append(_signoff(facts, path.name))
    return sorted(found, key=lambda s: (s.when, s.role, s.gate))


def _facts(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The facts of the outermost object first, then those of the parts that hold a statement."""
    yield from ((key, item) for key, item in value.items() if not isinstance(item, dict))
    for key in _INSIDE:
        if isinstance(value.get(key), dict):
            yield from _facts(value[key])


def _signoff(facts: Mapping[str, Any], file: str) -> SignOff:
    accept = facts.get("accept", facts.get("accepted"))
    return SignOff(
        **{key: str(facts.get(key) or "") for key in ("role", "name", "when", "gate", "reason")},
        decision=str(facts.get("decision") or "").lower().replace("_", "-"),
        accept=[str(item) for item in accept] if isinstance(accept, list) else [],
        fingerprint=next((str(facts[key]) for key in _FINGERPRINTS if facts.get(key)), ""),
        rehearsal=facts.get("rehearsal") is True,
        file=file,
    )
