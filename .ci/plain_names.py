"""Add `name==version` beside each `name[extra]==version` of requirements.lock, for pip before 24.

Such a pip holds `name` and `name[extra]` for two projects: a library that asks for plain `name` then has no hash, and the
installation stops. Run by `make lock`; a second run changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
BLOCK = re.compile(r"^([A-Za-z0-9._-]+)\[[^\]]+\](==[^\n]*\n(?:    --hash=[^\n]*\n)+)", re.M)

text = LOCK.read_text(encoding="utf-8")
for match in reversed(list(BLOCK.finditer(text))):
    plain = match[1] + match[2]
    if plain not in text:
        text = text[: match.start()] + plain + text[match.start() :]
LOCK.write_text(text, encoding="utf-8")
