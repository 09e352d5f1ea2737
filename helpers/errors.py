"""Every error that the toolkit raises on purpose.

The tree::

    RunbookError                 one line: what, where, what to do next
    ├── UsageError        exit 2  the command or its parameters are wrong; nothing was started
    ├── WorldError        exit 1  source, target, disk or a file cannot be used as it is
    │   ├── Transient             worth trying again unchanged: time-out, refused connection, 5xx
    │   └── Terminal              trying again gives the same answer
    ├── NoGo              exit 3  the data were judged and may not be cut over
    ├── WaitingForSignoffs exit 4 a human gate
    └── Interrupted     exit 130  Ctrl-C or SIGTERM; the batch in hand was finished

`Transient` and `Terminal` are types so that the retry policy is a type check (see `stores.limits`).
Each error carries a `ReasonCode`, which pages and notebooks link to its remedy.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from helpers.reason_codes import ReasonCode

RUNBOOK = ".venv/bin/runbook"  # the command in every message, as the documentation writes it: from the toolkit's folder


class RunbookError(Exception):
    """What went wrong, where, and what to do next, in one line.

    `code` is stable and machine-readable (`source_missing`); `what`, `where` and `next_step` are for people.
    """

    exit_code = 1

    def __init__(self, code: ReasonCode, what: str, *, where: str = "", next_step: str = "") -> None:
        self.code, self.what, self.where, self.next_step = code, what, where, next_step
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one printable line (control characters of foreign text are shown escaped)."""
        text = f"{one_line(self.where)}: {one_line(self.what)}" if self.where else one_line(self.what)
        if not self.next_step:
            return text
        return f"{text if text.endswith('?') else text.rstrip('.') + '.'} {one_line(self.next_step)}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.what, self.where, self.next_step)


def _rebuild(kind: type[RunbookError], code: ReasonCode, what: str, where: str, next_step: str) -> RunbookError:
    return kind(code, what, where=where, next_step=next_step)


class UsageError(RunbookError):
    """The command or its parameters are wrong; nothing was started."""

    exit_code = 2


class WorldError(RunbookError):
    """Source, target, disk or a file cannot be used as it is."""

    exit_code = 1


class Transient(WorldError):
    """Worth trying again unchanged: a time-out, a refused connection, an answer of 5xx."""


class Terminal(WorldError):
    """Trying again gives the same answer."""


class NoGo(RunbookError):
    """The data were judged and may not be cut over."""

    exit_code = 3


class WaitingForSignoffs(RunbookError):
    """A human gate: somebody has to sign first."""

    exit_code = 4


class Interrupted(RunbookError):
    """The operator (or the machine) asked to stop; the batch in hand was finished."""

    exit_code = 130

    @classmethod
    def by_signal(cls, run_id: str) -> Interrupted:
        return cls(ReasonCode.INTERRUPTED, "stopped on request", next_step=f"Go on with: {RUNBOOK} resume {run_id}")


_HIDDEN: dict[str, str] = {}  # how a secret may stand in a text → what is shown there
SHORTEST_SECRET = 6  # a value of fewer characters occurs in any text by chance


def hide(value: str, shown: str) -> None:
    """From now on `redacted` shows this where a text of this process holds the value of a secret."""
    shown = shown.replace("\\", "_").replace('"', "_")  # it may come to stand inside JSON
    for part in secret_parts(value):
        if len(part) >= SHORTEST_SECRET:
            whole = base64.b64encode(part.encode("utf-8")).decode("ascii")
            for text in (part, quote(part, safe=""), quote(part), html.escape(part), whole):
                for written in (text, *_in_json(text), *_in_json(*_in_json(text))):  # a server's JSON, inside ours
                    _HIDDEN.setdefault(written, shown)


def _in_json(*texts: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=way)[1:-1] for text in texts for way in (True, False)]


def secret_parts(value: str) -> list[str]:
    """What of a secret must be seen nowhere, the longest first: the value, of `Bearer TOKEN` the token, of a URL its tokens."""
    if not value.strip():
        return []
    return sorted({value, value.split()[-1], *_tokens(value)}, key=lambda part: (-len(part), part))


def _tokens(url: str) -> Iterator[str]:
    """Passwords and tokens in a URL, as written and decoded. Names of hosts, channels and people in it are no secrets.

    Services such as Slack have a token where others have the host; `_HOSTED` are the schemes with a real host.
    """
    scheme, found, rest = url.partition("://")
    if not found:
        return
    front, behind = re.split(r"(?=[/?])", rest, maxsplit=1) if re.search(r"[/?]", rest) else (rest, "")
    login, at, host = front.rpartition("@")
    pieces = re.split(r"[/?&=,;|]", behind)
    if at:
        user, _, password = login.partition(":")
        yield from {password, unquote(password)} - {""}
        pieces.append(user)
    if scheme.lower().removesuffix("s") not in _HOSTED:
        pieces += host.split(":")
    for piece in pieces:
        for text in {piece, unquote(piece)}:
            if text[:1] not in ("#", "@", "+") and _looks_secret(text.removeprefix("+").removeprefix("-")):
                yield text


_HOSTED = frozenset({
    "json", "xml", "form", "mailto", "http", "gotify", "mmost", "ntfy", "matrix", "rocket", "apprise", "nctalk", "syslog",
    "mqtt",
})  # fmt: skip


def _looks_secret(text: str) -> bool:
    """Whether a part of a URL is a token and no word: letters with digits in between, or very long."""
    if len(text) < 8 or not re.fullmatch(r"[\w.~%!$*:-]+", text) or "." in text[:4]:
        return False
    mixed = re.search(r"[a-z][A-Z]|[A-Z]{2}[a-z]", text) or (re.search(r"\d", text) and re.search(r"[^\W\d_]", text))
    return bool(mixed) or (text.isalpha() and len(text) >= 20)


_KEY_OF_SECRET = re.compile(
    r"(?i)(^|[_.-])(api_?key|key|token|secret|password|passwd|pwd|pass|credentials?|authorization|dsn|sig|signature|salt|private)\d*$"
)
_KEY_OF_PASSWORD = re.compile(r"(?i)(secret|password|passwd|pwd|pass)\d*$")


_TOKEN = re.compile(
    r"(sk|pk|rk|ghp|gho|ghs|glpat|xox[abprs]|hf|ck|npm|pypi)[-_]\w[\w-]{8,}|AKIA\w{12,}|eyJ[\w-]{8,}\.[\w.-]+|[0-9a-fA-F]{32,}"
)


def secret_of(key: str, value: str) -> str:
    """What of an assignment's value is secret, "" where nothing is: its key says so, it is a token, or a URL that holds one.

    Names of hosts, collections and models are none, however long; nor is a plain word under a key such as AUTH_KEY, for it would
    be found in every report.
    """
    if len(value) < SHORTEST_SECRET or value.startswith("${"):
        return ""
    if _KEY_OF_SECRET.search(key):
        return "" if value.isalpha() and value.islower() and not _KEY_OF_PASSWORD.search(key) else value
    if "://" not in value:
        return value if _is_token(value) else ""
    url = urlsplit(value)
    _, _, password = url.netloc.rpartition("@")[0].partition(":")
    queried = (q.partition("=") for q in re.split(r"[&;]", url.query))
    parts = [unquote(password), *(v for k, _, v in queried if _KEY_OF_SECRET.search(k) or _is_token(v))]
    parts += [piece for piece in url.path.split("/") if _is_token(piece)]
    return max(parts, key=len) if len(max(parts, key=len)) >= SHORTEST_SECRET else ""


def _is_token(text: str) -> bool:
    if _TOKEN.fullmatch(text):
        return True
    mixed = all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return (
        len(text) >= 20 and mixed and bool(re.fullmatch(r"[\w+/=.~-]+", text)) and len(re.findall(r"[-_./]", text)) <= 2
    )


_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_QUERY = re.compile(r"(?<=[?&;])([^=&;\s'\"]*=)[^&;\s'\"#]+")


def without_tokens(text: str) -> str:
    """The text without what its URLs may carry: user and password, values of the query, tokens in the path."""

    def shown(match: re.Match[str]) -> str:
        url = re.sub(r"(?<=://)[^/@\s]+@", "…@", match[0])
        url = _QUERY.sub(r"\1…", url)
        for token in sorted(set(_tokens(url)), key=len, reverse=True):
            url = url.replace(token, "…")
        return url

    return _URL.sub(shown, text)


def redacted(text: str) -> str:
    """The text without the values of secrets that this process has used: a server may answer with what it was sent."""
    for value in _longest_first(id(_HIDDEN), len(_HIDDEN)):
        if value in text:
            text = text.replace(value, _HIDDEN[value])
    return text


@lru_cache(maxsize=1)
def _longest_first(_which: int, _number: int) -> list[str]:
    """Asked for each text that is shown, and sorted anew only when a secret was added."""
    return sorted(_HIDDEN, key=len, reverse=True)


def one_line(text: str, limit: int = 600) -> str:
    """Foreign text (a server's answer, a path, an id) as one safe line: escapes instead of control characters.

    Bidirectional overrides and line separators are control characters here too: they can forge a log line. Values of
    secrets are not shown.
    """
    if _HIDDEN:
        text = redacted(text[: limit + 10_000])
    shown = text[: limit + 1]
    if not shown.isprintable():  # asked first: most texts are, and tables hold many of them
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(text) <= limit else shown[:limit] + "…"
