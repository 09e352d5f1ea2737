"""The seed runbook as a list: every heading, step, criterion, failure response, trigger, checklist item and row of a table.

An id is the section and a letter with a number: C is a box to tick, F what to do when something fails, T a rollback trigger,
P a numbered step of a script, N anything else that is listed. Headings have the id of their section: 1.4, 2.6a (Step 6a),
2.3.4 (Phase 4 of Step 3), 4.2 (the second issue of Section 4), B.1 (the first tree of Appendix B).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_HEADING = re.compile(r"(#{2,4}) (.+)")
_LABEL = re.compile(r"\*\*(.+?):?\*\*")
_BOX = re.compile(r"\s*(?:- )?\[ \] (.+)$")
_ECHOED_BOX = re.compile(r'echo "\s*\[ \] (.+)"$')
_BULLET = re.compile(r"\s*(?:- |\d+\. )(.+)")
_FACT = re.compile(r"\*\*([^*]+):\*\* (\S.*)")
_ROW = re.compile(r"\|(.+)\|$")
# Inside the scripts, reports and drawings of the runbook: the numbered steps, and lines that stand for something to do.
_IN_CODE = [
    ("P", re.compile(r"\s*# (?:Option |Test )?(?:\d+|[A-C])[.:] (.+)")),
    ("N", re.compile(r"# ([A-Z][a-z ]+: ~.+)")),
    ("F", re.compile(r"(ISSUE \d: .+)")),
    ("N", re.compile(r"echo \"(Option [A-C]: .+)\"")),
    ("N", re.compile(r"(T[+-]\d+[hd]?:\s+.+)")),
    ("N", re.compile(r"- (.+)")),  # of notices and records to be filled in
]
_AFTERWARDS = re.compile(r'echo "  (?:- |\d\. )(.+)"')  # under "Next:" and "Post-Rollback Actions:"
_BRANCH = re.compile(r"\[ \] ([A-Z][A-Za-z ]+\??)")  # of a decision tree, two on a line
_FAILS = ("Failure", "Safeguard", "Common Dry-Run Issues", "Escalation")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that the runbook asks for: its id, its words as they stand there, and its line."""

    id: str
    text: str
    line: int


def items(seed: str) -> list[Item]:
    """Every item of the runbook, in its order."""
    found = [Item(name, _plain(text), line) for name, text, line in _Reader(seed).read()]
    assert len({item.id for item in found}) == len(found)
    return found


def _plain(text: str) -> str:
    """One line without markup or the padding of a table; a pipe would end a cell of the map."""
    cells = [" ".join(cell.split()) for cell in text.replace("**", "").split("|")]
    return " · ".join(cell for cell in cells if cell).replace("`", "")


class _Reader:
    def __init__(self, seed: str) -> None:
        self.lines = seed.splitlines()
        self.section, self.label = "", ""
        self.numbers: Counter[str] = Counter()

    def read(self) -> Iterator[tuple[str, str, int]]:
        in_code = after = header = False
        for number, line in enumerate(self.lines, 1):
            if line.startswith("```"):
                in_code, after = not in_code, False
            elif in_code:
                after = 'echo "Next:"' in line or "Post-Rollback Actions" in line or (after and line.startswith("echo"))
                yield from self._code(line, number, after)
            elif match := _HEADING.match(line):
                self._enter(len(match[1]), match[2])
                yield self.section, match[2], number
            elif self.section:
                yield from self._prose(line, number, header)
                header = line.startswith("|") and (header or set(line) <= set("|-: "))

    def _enter(self, depth: int, title: str) -> None:
        self.label = ""
        if depth == 2:
            match = re.match(r"Section (\d)|Appendix ([A-E])", title)
            self.section = (match[1] or match[2]) if match else "0"  # the executive summary
        elif match := re.match(r"(?:Step )?(\d\w?(?:\.\d)?)[ :]", title):
            self.section = match[1] if "." in match[1] else f"2.{match[1]}"
        elif match := re.match(r"Phase (\d)", title):
            self.section = f"2.3.{match[1]}"
        else:
            top = self.section.split(".")[0]
            self.numbers[top] += 1
            self.section = f"{top}.{self.numbers[top]}"

    def _prose(self, line: str, number: int, in_table: bool) -> Iterator[tuple[str, str, int]]:
        if match := _BOX.match(line):
            yield self._next("C"), match[1], number
        elif match := _BULLET.match(line) or (_ROW.match(line) if in_table else None):
            yield self._next(self._kind()), match[1], number
        elif self.section in ("0", "C") and (match := _FACT.match(line)):
            yield self._next("N"), f"{match[1]}: {match[2]}", number
        if match := _LABEL.match(line):
            self.label = match[1]
            self.section = re.sub(r"^(2\.3)\.\d$", r"\1", self.section)  # what follows the phases is of the step

    def _kind(self) -> str:
        if self.label.startswith("Trigger"):
            return "T"
        return "F" if any(word in self.label for word in _FAILS) else "N"

    def _code(self, line: str, number: int, after: bool) -> Iterator[tuple[str, str, int]]:
        if self.section.startswith("B"):
            for text in _BRANCH.findall(line):
                yield self._next("C"), text, number
        elif match := _BOX.match(line) or _ECHOED_BOX.match(line):
            yield self._next("C"), match[1], number
        elif after and (match := _AFTERWARDS.match(line)):
            yield self._next("N"), match[1], number
        else:
            for kind, pattern in _IN_CODE:
                if match := pattern.match(line):
                    yield self._next(kind), match[1], number
                    return

    def _next(self, kind: str) -> str:
        self.numbers[f"{self.section}-{kind}"] += 1
        return f"{self.section}-{kind}{self.numbers[f'{self.section}-{kind}']}"
