"""Every error that the toolkit raises on purpose.

The tree::

    RunbookError                 one line: what, where, what to do next
    ├── UsageError        exit 2  the command or its parameters are wrong; nothing was started
    ├── EnvironmentFailure        exit 1  source, target, disk or a file cannot be used as it is
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
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from html.entities import html5 as HTML_NAMES
from urllib.parse import quote, quote_plus, unquote, urlsplit

from helpers.reason_codes import ReasonCode

RUNBOOK = ".venv/bin/runbook"  # the command in every message, as the documentation writes it: from the toolkit's folder


class RunbookError(Exception):
    """An error that is shown as one line: what went wrong, where, and what to do next.

    `code` is stable and machine-readable (`source_missing`); `what`, `where` and `next_step` are for people.
    """

    exit_code = 1

    def __init__(self, code: ReasonCode, what: str, *, where: str = "", next_step: str = "") -> None:
        self.code, self.what, self.where, self.next_step = code, what, where, next_step
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one printable line; control characters of foreign text are escaped."""
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


class EnvironmentFailure(RunbookError):
    """Source, target, disk or a file cannot be used as it is."""

    exit_code = 1


class Transient(EnvironmentFailure):
    """Worth trying again unchanged: a time-out, a refused connection, an answer of 5xx."""


class Terminal(EnvironmentFailure):
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
    def by_signal(cls, command: str) -> Interrupted:
        """The error after a signal; `command` resumes the work."""
        return cls(ReasonCode.INTERRUPTED, "stopped on request", next_step=f"Go on with: {command}")


_HIDDEN: dict[str, str] = {}  # each encoded form of a secret → the text shown instead
SHORTEST_SECRET = 6  # shorter values occur in any text by chance


def hide(value: str, shown: str) -> None:
    """Make `redacted` replace the value of a secret, in each encoded form, with `shown` from now on."""
    shown = shown.replace("\\", "_").replace('"', "_")  # it may be shown inside JSON
    for part in secret_parts(value):
        if len(part) >= SHORTEST_SECRET:
            # With its last letter, which depends on what follows.
            in_base64 = base64.b64encode(part.encode("utf-8")).decode("ascii")
            for text in (in_base64, *(text for _, text in encodings(part))):
                _HIDDEN.setdefault(text, shown)


def encodings(value: str) -> Iterator[tuple[str, str]]:
    """Yield (encoding, text) for each form in which a text may hold the whole value: to hide it and to search for it."""
    yield "plain", value
    for raw in (value.encode(codec, "surrogatepass") for codec in ("utf-8", "utf-16-le", "utf-16-be")):
        yield "hexadecimal", raw.hex()
        yield "hexadecimal", raw.hex().upper()
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            for lead in range(3):  # preceding bytes shift the letters; the first and last depend on their neighbours
                letters = encode(b"\0" * lead + raw).decode("ascii")
                start, end = -(-lead * 8 // 6), (lead + len(raw)) * 8 // 6
                if len(inner := letters[start:end]) >= SHORTEST_SECRET:
                    yield "base64", inner
    for text in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield "URL-encoded", text
        yield "URL-encoded", re.sub(r"%..", lambda m: m[0].lower(), text)
    raw = value.encode("utf-8", "surrogatepass")
    for mark in ("%", "\\x"):
        yield "escaped", "".join(f"{mark}{byte:02X}" for byte in raw)
        yield "escaped", "".join(f"{mark}{byte:02x}" for byte in raw)
    yield "escaped", "".join(f"\\u{ord(c):04x}" for c in value)
    yield "escaped", "".join(f"\\u{ord(c):04X}" for c in value)
    for mark in ("%u{:04x}", "%u{:04X}", "\\u{{{:x}}}", "\\u{{{:X}}}"):
        yield "escaped", "".join(mark.format(ord(c)) for c in value)
    for between in (",", ", ", " "):
        yield "numbers", between.join(str(byte) for byte in raw)
    yield "quoted-printable", "".join(chr(b) if 32 <= b < 127 and b != 61 else f"={b:02X}" for b in raw)
    by_jinja = html.escape(value).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    for marked in (html.escape(value), by_jinja):
        yield "HTML-escaped", marked
        for ascii_only in (True, False):
            yield "HTML-escaped", json.dumps(marked, ensure_ascii=ascii_only)[1:-1]
    yield "HTML-escaped", "".join(f"&#{ord(c)};" for c in value)
    yield "HTML-escaped", "".join(f"&#x{ord(c):x};" for c in value)
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield "JSON-escaped", once
        yield "JSON-escaped", json.dumps(once, ensure_ascii=ascii_only)[1:-1]  # a server's JSON, inside ours


# Encoders differ in the characters that they escape. Therefore secrets are also searched in the decoded text.
_NAMES = "|".join(name[:-1] for name, c in HTML_NAMES.items() if name.endswith(";") and len(c) == 1 and ord(c) < 256)
_ESCAPED = (  # begins with one of a set of bytes, which the engine finds five times as fast
    r"[&\\%](?:(?:(?<=&)|(?<=\\)\\{0,7}u0026|(?<=%)26)(?:amp;){0,2}"
    r"(?:#0{0,8}(?P<decimal>[0-9]{1,7})|#[xX]0{0,8}(?P<code>[0-9a-fA-F]{1,6})"
    rf"|(?P<name>{_NAMES}));|(?<=\\)\\{{0,7}}u(?P<unit>[0-9a-fA-F]{{4}})|(?<=\\)\\{{0,6}}(?P<itself>[/'\"\\])|"
)
_BYTE = "(?P<byte>[0-9a-fA-F]{2})"
_ESCAPES_BY_MARK = {  # bytes that the text must contain → the escapes decoded in it; bounded repetitions, none within another
    b"&\\": re.compile(rf"{_ESCAPED}(?<=\\)\\{{0,7}}x{_BYTE})".encode()),
    b"%": re.compile(rf"{_ESCAPED}(?:(?<=\\)\\{{0,7}}x|(?<=%)(?:25){{0,2}}){_BYTE})".encode()),
    b"=": (_QUOTED := re.compile(rf"={_BYTE}".encode())),  # separate: `key=c2…` may be the beginning of a value
}
_UNESCAPED = re.compile(rb"[\w.~-]+")
_HEXADECIMAL = re.compile(rb"[0-9a-f]+")


def decodings(data: bytes) -> Iterator[tuple[re.Pattern[bytes] | None, bytes]]:
    """Yield (argument for `decoded_needle`, decoded bytes) for each way to decode escapes, then (None, lower case)."""
    for marks, escape in _ESCAPES_BY_MARK.items():
        if any(mark in data for mark in marks):
            yield escape, escape.sub(_decode, data)
    yield None, data.lower()


def decoded_needle(escape: re.Pattern[bytes] | None, needle: bytes) -> bytes:
    """The needle to search for in this decoding; b"" if it has no character to escape, is not hexadecimal, or is too short."""
    if escape is None:
        return needle.lower() if _HEXADECIMAL.fullmatch(needle.lower()) else b""
    decoded = escape.sub(_decode, needle if escape is not _QUOTED else _ESCAPES_BY_MARK[b"%"].sub(_decode, needle))
    usable = len(decoded) >= SHORTEST_SECRET and (decoded != needle or not _UNESCAPED.fullmatch(needle))
    return decoded if usable else b""


def _decode(match: re.Match[bytes]) -> bytes:
    kind, text = str(match.lastgroup), match[match.lastgroup or 0]
    if kind == "itself":
        return text
    if kind == "byte":
        return bytes([int(text, 16)])
    number = ord(HTML_NAMES[text.decode() + ";"]) if kind == "name" else int(text, 10 if kind == "decimal" else 16)
    return chr(number).encode("utf-8", "surrogatepass") if number < 0x110000 else match[0]


def secret_parts(value: str) -> list[str]:
    """The parts of a secret to hide, longest first: the whole value, the tokens of a URL, the values in a header
    (`Bearer TOKEN`, `Basic …`, `a=V; b=W`), and of a login `user:password` and the password."""
    if _FRAME.search(value):  # every signature has the BEGIN and END lines of PEM; the lines between them are the key
        lines = _FRAME.sub(" ", value.replace("\\r", " ").replace("\\n", " ")).split()
        return sorted(
            {*([value] if lines else []), *(line for line in lines if len(line) >= SHORTEST_SECRET)}, key=_longest
        )
    if not value.strip():
        return []
    parts = {value, value.strip(), value.split()[-1], *_tokens(value), *secrets_of("", value)}
    if not _URL.match(value.strip()):
        parts |= {*_fields(value)}
    return sorted(parts, key=_longest)


def _longest(part: str) -> tuple[int, str]:
    return -len(part), part


_FRAME = re.compile(r"-----(?:BEGIN|END)\b[A-Z0-9 ]*(?:-----)?")
# A header's values, with or without a name. A text that ends in "=" is base64, not a name.
_FIELD = re.compile(r"""(?:([\w.-]+)\s*=\s*(?=[^\s=;,]))?("[^"]*"|'[^']*'|[^\s;,]+)""")
_OPEN_FIELDS = frozenset({
    "algorithm", "domain", "email", "expires", "lang", "nc", "path", "qop", "realm", "signedheaders", "uri", "user", "username",
})  # fmt: skip


def _fields(header: str) -> Iterator[str]:
    """The secrets in a header's value: its fields without the scheme, and a login in base64. A plain word beside other fields
    is left out: it would be found in every report."""
    scheme, rest = "", header.strip()
    if match := re.fullmatch(r"([A-Za-z]+)\s+(\S.*)", rest, re.DOTALL):
        scheme, rest = match[1].lower(), match[2]
    yield rest
    fields = _FIELD.findall(rest)
    for name, quoted in fields:
        text = quoted.strip("\"'")
        word = text.isalpha() and (text.islower() or not name)
        known = len(fields) == 1 or _KEY_OF_SECRET.search(name) or not (word or text.endswith(":"))
        if known and name.lower() not in _OPEN_FIELDS:
            yield from {text, unquote(text)} - {""}
        letters = text.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
        with suppress(ValueError):  # binascii.Error and UnicodeDecodeError are such
            raw = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True) if scheme else b""
            login = raw.decode("utf-8" if scheme != "basic" or _is_utf8(raw) else "latin-1")
            if scheme == "basic" or (":" in login and login.isprintable()):
                yield from {login, login.partition(":")[2]} - {""}


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _tokens(url: str) -> Iterator[str]:
    """Passwords and tokens in a URL, as written and decoded. Names of hosts, channels and people are not secrets.

    Services such as Slack put a token in the place of the host; `_HOSTED` are the schemes with a real host.
    """
    scheme, separator, address = url.partition("://")
    if not separator:
        return
    authority, path = re.split(r"(?=[/?])", address, maxsplit=1) if re.search(r"[/?]", address) else (address, "")
    login, at, host = authority.rpartition("@")
    pieces = re.split(r"[/?&=,;|]", path)
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
    """Whether a part of a URL is a token, not a word: it mixes cases or letters and digits, or has 20 letters or more."""
    if len(text) < 8 or not re.fullmatch(r"[\w.~%!$*:-]+", text) or "." in text[:4]:
        return False
    mixed = re.search(r"[a-z][A-Z]|[A-Z]{2}[a-z]", text) or (re.search(r"\d", text) and re.search(r"[^\W\d_]", text))
    return bool(mixed) or (text.isalpha() and len(text) >= 20)


_PASSWORD = r"(?:secret|password|passwd|passphrase|pwd|(?<!com)(?<!by)pass)"
_KEY_OF_SECRET = re.compile(
    rf"(?i)({_PASSWORD}|token|api_?key|access_?key|account_?key|secret_?key(_?base)?|credentials?|authorization"
    r"|(^|[_.-])(key|auth|cookie|bearer|dsn|sig|signature|salt|private)|(?-i:(?<=[a-z])Key))s?([_-]?v?\d+)?$"
)
_KEY_OF_PASSWORD = re.compile(rf"(?i){_PASSWORD}s?([_-]?v?\d+)?$")
_MANY = re.compile(r"(?i)(?<!pas)s([_-]?v?\d+)?$")
_LOGIN_KEY = re.compile(r"(?i)(credentials?|auth|userpass|login)$")  # user:password
_COUNTED = re.compile(
    r"(?i)(max|min|num|total|limit|budget|prompt|input|output|completion|context|special|stop)[a-z_.-]*tokens$"
)
# ${NAME}, ${NAME:-default}, ${NAME:?what is wrong}: the innermost
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=+]([^{}]*)|:?\?[^{}]*)?\}")
# Drivers read a password up to the last @; a strict parser ends the host at #, / or ?. A port is not a password.
_LOGIN = re.compile(r"://[^:\s@/]*:(?!\d{1,5}/)(\S+)@")
# Server=db;Password=…, host=db password=…
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]++)\s*+=\s*+('[^']*'|\"[^\"]*\"|[^;,&\s]+)")
_INSIDE = 8  # levels of assignments in the value of an assignment


_TOKEN = re.compile(
    r"(sk|pk|rk|ghp|gho|ghs|glpat|xox[abprs]|hf|ck|npm|pypi)[-_]\w[\w-]{8,}|AKIA\w{12,}|eyJ[\w-]{8,}\.[\w.-]+|[0-9a-fA-F]{32,}"
)


def secrets_of(key: str, value: str, levels: int = _INSIDE) -> list[str]:
    """The secrets in an assigned value: the whole value if its key names a secret or it is a token, and the secrets of a URL.

    Long names of hosts, collections and models are not secrets, nor is a plain word under a key such as AUTH_KEY: it would be
    found in every report.
    """
    parts: list[str] = []
    if levels and "${" in value:  # the default of a variable is its value if the environment has none
        parts = [
            part for match in _VARIABLE.finditer(value) for part in secrets_of(match[1], match[2] or "", levels - 1)
        ]
        with_defaults = _VARIABLE.sub(lambda match: match[2] or "", value)
        parts += secrets_of(key, with_defaults, levels - 1) if with_defaults != value else []
        parts += _beside_variables(key, value)
    if _VARIABLE.match(value):
        return list(dict.fromkeys(parts))
    return list(dict.fromkeys([*parts, *_secrets_as_written(key, value, levels)]))


def _beside_variables(key: str, value: str) -> list[str]:
    """The parts of a secret outside of its variables: each value of a variable shows them. Words are left out."""
    texts = (
        (text.strip(" :;,@/") for text in _VARIABLE.sub("\0", value).split("\0")) if _KEY_OF_SECRET.search(key) else ()
    )
    return [text for text in texts if len(text) >= SHORTEST_SECRET and not text.isalpha() and "://" not in text]


def _secrets_as_written(key: str, value: str, levels: int) -> list[str]:
    if len(value) < SHORTEST_SECRET:
        return []
    if _KEY_OF_SECRET.search(key) and not _COUNTED.search(key):
        pieces = (
            [each for each in re.split(r"[\s,;]+", value) if len(each) >= SHORTEST_SECRET] if _MANY.search(key) else []
        )
        pieces += re.split("[:/]", value, maxsplit=1)[1:] if _LOGIN_KEY.search(key) else []
        word = value.isalpha() and value.islower() and not _KEY_OF_PASSWORD.search(key)
        return [] if word or (pieces and value.isdigit()) else list(dict.fromkeys([value, *pieces]))
    whole = [value] if _is_token(value) else []
    if "://" not in value:
        assigned = _ASSIGNED.findall(value) if levels else ()
        nested_values = (secrets_of(k, v.strip("'\""), levels - 1) for k, v in assigned)
        return [part for parts in nested_values for part in parts] or whole
    login = [part for match in _LOGIN.findall(value) for part in (match, unquote(match))]
    login += [v.strip("'\"") for k, v in _ASSIGNED.findall(value) if _KEY_OF_SECRET.search(k)]  # jdbc:…;password=…
    try:
        url = urlsplit(value)
    except ValueError:  # no URL: brackets without an address
        return [*whole, *login]
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    queried = (q.partition("=") for q in re.split(r"[&;]", f"{url.query}&{url.fragment}"))
    parts = [
        password,
        unquote(password),
        *login,
        *(v for k, _, v in queried if _KEY_OF_SECRET.search(k) or _is_token(v)),
    ]
    parts += [piece for piece in (user, *url.path.split("/")) if _is_token(piece)]
    return [part for part in dict.fromkeys(parts) if len(part) >= SHORTEST_SECRET]


# The value is matched by a lookahead: it may contain further assignments (a query, braces).
_OF_FILE = re.compile(
    r"""(?sx)(?<![\w.-])[\d.-]*+(?P<key>[A-Za-z_][\w.-]*+)["']?+[ \t]*+[=:][ \t]*+
        (?=(?P<quoted>"(?:[^"\\]|\\.)*+"|'[^']*'|`[^`]{0,8192}+`)?(?P<bare>[^\r\n]{0,4096}+))"""
)
_ESCAPE, _ESCAPES = re.compile(r"(?s)\\(.)"), {"n": "\n", "r": "\n", "t": "\t"}
_COMMENT = re.compile(r"(?<![ \t])[ \t]++#")
_INNER = 500  # characters of an unquoted value within a value: a line may have thousands of them


def secrets_assigned(contents: str) -> Iterator[tuple[str, int, str]]:
    """Yield (key, line number within the value, secret) for each assignment in a configuration file, comments included.

    Takes linear time, also for a single long line.
    """
    checked_to = 0
    for match in _OF_FILE.finditer(contents):
        whole = match.start() >= checked_to  # else inside a value that was checked
        checked_to = max(checked_to, match.end("bare"))
        bare = _COMMENT.split(match["bare"][: None if whole else _INNER], 1)[0]
        value = (match["quoted"] or bare).strip().strip("'\"`")
        unescaped = _unescaped(value)  # as a program reads and may show it
        for text in dict.fromkeys((value, unescaped, *(_in_pieces(contents, match.end()) if whole else ()))):
            for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), 1):
                for secret in secrets_of(match["key"], line, _INSIDE if whole else 0):
                    yield match["key"], number, secret


# A piece of a value, quoted or not, separated by nothing, a plus sign, blanks between quotes, or a backslash at a line's end.
_PIECE = re.compile(
    r"""(?sx)(?P<apart>(?:[ \t]|\\\r?\n)*+(?P<plus>\+)?+(?:[ \t]|\\\r?\n)*+)
        (?:"(?P<double>(?:[^"\\]|\\.){0,4096}+)"|'(?P<single>[^']{0,4096}+)'|`(?P<back>[^`]{0,4096}+)`
        |(?P<plain>(?:\$\{[^{}\s]*+\}|[^\s"'`,;)}\]\\]|\\[^\r\n]){1,4096}+))"""
)


def _in_pieces(text: str, at: int) -> list[str]:
    """The joined value, and each piece, of a value in pieces (`"ab"'cd'ef`, `"ab" + "cd"`, `\\` at a line's end); else []."""
    pieces, quoted = list[str](), False
    while len(pieces) < 16 and (match := _PIECE.match(text, at)):
        blank = match["apart"] and not match["plus"] and "\\" not in match["apart"]
        if pieces and blank and (match["plain"] or not quoted):
            break
        quoted = match["plain"] is None
        pieces.append(_unescaped(match["double"] or "") or match["single"] or match["back"] or match["plain"] or "")
        at = match.end()
    return ["".join(pieces), *pieces] if len(pieces) > 1 else []


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)


_MOST_YAML = 2**18  # characters; later ones are only read as lines
_DEEPEST_YAML = 200  # levels: the reader's time grows with their square
BROKEN_YAML = (ValueError, RecursionError, AssertionError, LookupError, AttributeError, TypeError)  # fmt: skip  # ruamel raises


@lru_cache(maxsize=8)
def secrets_in_yaml(text: str) -> list[tuple[str, int, str]]:
    """As `secrets_assigned`, for YAML: the secrets of each scalar by its key, and of the assignments in it.

    Gives both the parsed scalar and the lines of the file. Invalid YAML is read up to its error.
    """
    from ruamel.yaml import YAML, events  # slow to import, and few commands need it
    from ruamel.yaml.error import YAMLError

    secrets, anchors = list(secrets_assigned(text)), dict[str, events.ScalarEvent]()
    # For each open collection: (is it a mapping, the key of the next node; None if that node is a key).
    frames: list[tuple[bool, str | None]] = [(False, "")]
    with suppress(YAMLError, *BROKEN_YAML):
        for event in YAML(typ="safe", pure=True).parse(text[:_MOST_YAML]):
            mapping, key = frames[-1]
            if isinstance(event, events.CollectionEndEvent):
                frames.pop()
                continue
            if not isinstance(event, events.NodeEvent):  # of the stream or a document
                continue
            scalar = anchors.get(event.anchor) if isinstance(event, events.AliasEvent) else event
            if mapping:
                frames[-1] = (True, (getattr(scalar, "value", "") or "") if key is None else None)
            if len(frames) > _DEEPEST_YAML:
                break
            if isinstance(event, events.CollectionStartEvent):
                is_mapping = isinstance(event, events.MappingStartEvent)
                frames.append((is_mapping, None if is_mapping else key or ""))
            elif isinstance(scalar, events.ScalarEvent):
                if event.anchor and event is scalar:
                    anchors[event.anchor] = scalar
                if key is not None:
                    lines = text[scalar.start_mark.index : scalar.end_mark.index].splitlines()
                    secrets += _secrets_of_scalar(key, scalar.value, lines)
    return list(dict.fromkeys(secrets))


def _secrets_of_scalar(key: str, value: str, lines: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    pieces = [*value.splitlines(), value.replace("$$", "$"), *(line.strip().strip("'\"") for line in lines)]
    for piece in (piece.strip() for piece in pieces if "\n" not in piece.strip()):
        if key or not _ASSIGNED.match(piece):
            levels = _INSIDE if len(piece) <= 4096 else 0
            yield from ((key, 1, secret) for secret in secrets_of(key, piece, levels))
    yield from secrets_assigned(value)


def secrets_within(text: str) -> list[str]:
    """The secrets in a text's URLs and headers (the whole text, an option's value, or in quotes)."""
    parts = [part for url in _URL.findall(text) for part in secrets_of("url", url)]
    quoted = [header for header in _QUOTED_HEADER.findall(text) if "$" not in header[1]]  # a shell's variable
    for name, value in [*_HEADER.findall(text), *quoted]:
        parts += secrets_of(name, value)
    return list(dict.fromkeys(parts))


def _is_token(text: str) -> bool:
    if _TOKEN.fullmatch(text):
        return True
    mixed = all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    if mixed and len(text) >= 40 and re.fullmatch(r"[\w-]+", text) and not re.search(r"[a-z]{8}", text):
        return True  # URL-safe base64; a name of many words has a long lower-case word
    return (
        len(text) >= 20 and mixed and bool(re.fullmatch(r"[\w+/=.~-]+", text)) and len(re.findall(r"[-_./]", text)) <= 2
    )


_URL = re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s'\"<>]+")
# `Name: value`, `-HName: value`, `--header=Name: value`
_HEADER = re.compile(r"""(?s)\A['"\s]*+(?:--?[\w-]+=|-[A-Za-z])?['"\s]*+([A-Za-z][\w-]*+):\s*+(\S[^'"]*)""")
_QUOTED_HEADER = re.compile(r"""(?<=['"])([A-Za-z][\w-]*+):\s*+([^'"]+)""")
_QUERY = re.compile(r"(?<=[?&;])([^=&;\s'\"]*=)[^&;\s'\"#]+")


def without_tokens(text: str) -> str:
    """The text without the secrets of its URLs: user and password, values of the query, tokens in the path."""

    def shown(match: re.Match[str]) -> str:
        url = re.sub(r"(?<=://)[^/@\s]+@", "…@", match[0])
        url = _QUERY.sub(r"\1…", url)
        for token in sorted(set(_tokens(url)), key=len, reverse=True):
            url = url.replace(token, "…")
        return url

    return _URL.sub(shown, text)


def redacted(text: str) -> str:
    """The text without the secrets that this process has used: a server's answer may repeat them."""
    if not _HIDDEN:
        return text
    for value in _longest_first(id(_HIDDEN), len(_HIDDEN)):
        if value in text:
            text = text.replace(value, _HIDDEN[value])
    data = whole = text.encode("utf-8", "surrogatepass")
    for escape, decoded in decodings(whole):
        needles = _needles(escape, id(_HIDDEN), len(_HIDDEN))
        for needle in (needle for needle in needles if needle in decoded):
            data = _covered(data, escape, needle, needles[needle])
    return text if data is whole else data.decode("utf-8", "surrogatepass")


def _covered(data: bytes, escape: re.Pattern[bytes] | None, needle: bytes, shown: bytes) -> bytes:
    """Replace each occurrence of the needle in the decoded data, with all of its escapes, by `shown`."""
    text, starts, end = bytearray(), array("Q"), 0  # starts: the offset in the data of each decoded byte
    for match in escape.finditer(data) if escape else ():
        decoded = _decode(match)
        text += data[end : match.start()] + decoded
        starts.extend([*range(end, match.start()), *[match.start()] * len(decoded)])
        end = match.end()
    text += data[end:] if escape else data.lower()
    starts.extend(range(end, len(data) + 1))
    parts, end, at = list[bytes](), 0, text.find(needle)
    while at >= 0:
        parts += [data[end : starts[at]], shown]
        end = starts[at + len(needle)]
        at = text.find(needle, at + len(needle))
    return b"".join([*parts, data[end:]]) if parts else data


@lru_cache(maxsize=1)
def _longest_first(_which: int, _number: int) -> list[str]:
    """The hidden texts, longest first; sorted again only after a secret was added."""
    return sorted(_HIDDEN, key=len, reverse=True)


@lru_cache(maxsize=8)
def _needles(escape: re.Pattern[bytes] | None, which: int, number: int) -> dict[bytes, bytes]:
    """Needles of this decoding → texts shown instead, longest first."""
    hidden = ((v.encode("utf-8", "surrogatepass"), _HIDDEN[v]) for v in _longest_first(which, number))
    needles = {needle: shown.encode() for value, shown in hidden if (needle := decoded_needle(escape, value))}
    return dict(sorted(needles.items(), key=lambda item: -len(item[0])))


_AHEAD = 10_000  # characters searched beyond those shown: a secret is hidden before a text is cut


def short(value: object, limit: int) -> str:
    """`repr` of a value as `one_line` shows it; a long text is cut before its `repr` is made."""
    return one_line(repr(value[: limit + _AHEAD] if isinstance(value, str) else value), limit)


def one_line(text: str, limit: int = 600) -> str:
    """Foreign text (a server's answer, a path, an id) as one safe line: escapes instead of control characters.

    Bidirectional overrides and line separators are control characters here too: they can forge a log line. Values of
    secrets are not shown.
    """
    if _HIDDEN:
        longer = len(text) > limit + _AHEAD
        text = redacted(text[: limit + _AHEAD])
        if longer:  # the end may hold the beginning of a secret
            text = text[: -max(map(len, _HIDDEN))] + "…"
    shown = text[: limit + 1]
    if not shown.isprintable():  # fast path for the many printable texts of tables
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return shown if len(text) <= limit else shown[:limit] + "…"
