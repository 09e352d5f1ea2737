"""The statements of signoffs/ as the pages show them. Whether one counts is the gate's to say (`helpers.signoffs`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SignOff:
    """One answer. `decision` is go or no-go; `superseded` where the role answered again at the same gate."""

    role: str
    name: str = ""
    decision: str = ""
    when: str = ""
    gate: str = ""
    reason: str = ""
    accept: list[str] = field(default_factory=list)
    rehearsal: bool = False
    file: str = ""
    superseded: bool = False


def read_signoffs(folder: Path) -> list[SignOff]:
    """Every file in signoffs/ that names a role, by time."""
    found = []
    for path in sorted(folder.glob("signoffs/*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8", errors="backslashreplace"))
        except (OSError, ValueError):
            continue
        if isinstance(value, dict) and "role" in value:
            found.append(_signoff(value, path.name))
    found.sort(key=lambda s: (s.when, s.role, s.gate, s.file))
    newest = {(s.gate, s.role): s.file for s in found}
    return [replace(s, superseded=newest[s.gate, s.role] != s.file) for s in found]


def _signoff(facts: Mapping[str, Any], file: str) -> SignOff:
    role, name, when, gate, reason = (str(facts.get(key) or "") for key in ("role", "name", "when", "gate", "reason"))
    decision = str(facts.get("decision") or "").lower().replace("_", "-")
    accept = facts.get("accept")
    accepted = [str(item) for item in accept] if isinstance(accept, list) else []
    return SignOff(role, name, decision, when, gate, reason, accepted, facts.get("rehearsal") is True, file)
