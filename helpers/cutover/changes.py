"""What an edit changes, line by line, in a form that can be shown: no other key's value, no credentials of this one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.cutover.files import refusal
from helpers.errors import one_line

_AMBIGUOUS = re.compile(r"""['"\\$`\x00-\x1f\x7f\x85\u2028\u2029]""")
_USER = re.compile(r"(?<=://)[^/@\s'\"]+@")
_TOKEN = re.compile(r"(?i)((?:token|key|secret|password|passwd|pwd|auth)[\w.-]*=)[^&\s'\"]+")


@dataclass(frozen=True, slots=True)
class Change:
    """One line that changes: its number from 1, what it was and what it is; `where` names the key, with its service."""

    line: int
    where: str
    before: str
    after: str


def decoded(content: bytes, path: Path) -> tuple[str, str]:
    """(byte order mark or "", text). A `Terminal` where it is not UTF-8 text."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(path, f"is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise refusal(path, "holds a NUL character: it is no text file")
    return ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)


def require_plain(values: Mapping[str, str], path: Path) -> None:
    """Readers of these files disagree about quotes, backslashes and dollars: such a value is not written."""
    for key, value in values.items():
        found = _AMBIGUOUS.search(value)
        if found:
            raise refusal(path, f"cannot take the value of {key}: programs read the character {found[0]!r} differently")
        if value != value.strip() or not value:
            raise refusal(path, f"cannot take the value of {key}: it is empty, or begins or ends with a blank")


def masked(text: str) -> str:
    """A line without the credentials that a URL may carry, control characters escaped."""
    return one_line(_TOKEN.sub(r"\1…", _USER.sub("…@", text)), 300)


def unified(path: Path, changes: Sequence[Change]) -> str:
    """The unified diff of a file without context lines: what stands beside the changed lines may be secret."""
    if not changes:
        return ""
    lines = [f"--- {one_line(str(path))}", f"+++ {one_line(str(path))}"]
    for change in changes:
        lines += [
            f"@@ -{change.line} +{change.line} @@ {change.where}",
            f"-{masked(change.before)}",
            f"+{masked(change.after)}",
        ]
    return "\n".join(lines)
