"""The address of a Chroma database (a directory or a server), and whether two addresses are the same place."""

from __future__ import annotations

import ast
import inspect
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from helpers.errors import UsageError, hide, one_line
from helpers.reason_codes import ReasonCode
from helpers.results import contents

ALL = "*"  # as a source's tenant or database: all of them

# -- secrets -----------------------------------------------------------------------------------------------------------
#
# Parameters name where a secret is: `env:NAME` (an environment variable) or `file:PATH` (the one line of a file). A reference
# is safe to print and to pass to papermill, which writes parameter values into its output twice.

_REFERENCE = re.compile(r"env:(?P<env>[A-Za-z_][A-Za-z0-9_]*)|file:(?P<file>[^\x00-\x1f]+)")
EXPECTED = "must be a reference, 'env:NAME' or 'file:PATH', never the secret itself (its value is not shown)"


class Secret(str):
    """A secret's value in memory. As text it is `<secret env:NAME>`, also in repr, format and JSON.

    Whatever prints, joins or serialises it by mistake shows the reference. Only `reveal()` gives the value.
    """

    __slots__ = ("_value",)
    _value: str

    def __new__(cls, value: str, reference: str) -> Secret:
        secret = super().__new__(cls, f"<secret {reference}>")
        secret._value = value
        return secret

    def reveal(self) -> str:
        """The value itself: for a request that needs it, and for the search for leaks."""
        return self._value

    def __repr__(self) -> str:
        return str.__str__(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled or copied; send its reference")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A reference to a secret: `kind` is "env" or "file", `name` the variable or the path (from the current folder)."""

    kind: Literal["env", "file"]
    name: str

    @classmethod
    def parse(cls, text: Any) -> SecretRef:
        """Parse `env:NAME` or `file:PATH`. ValueError otherwise; the message never repeats the text."""
        if isinstance(text, SecretRef):
            return text
        if (match := _REFERENCE.fullmatch(text) if isinstance(text, str) else None) is None:
            raise ValueError(EXPECTED)
        return cls("env", match["env"]) if match["env"] else cls("file", match["file"])

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def resolve(self) -> Secret:
        """Read the secret. UsageError if it is missing, empty or has more than one line."""
        value = os.environ.get(self.name) if self.kind == "env" else self._from_file()
        if value is None or not value.strip():
            raise self._missing("is not set" if value is None else "is empty")
        if not value.isprintable():
            raise self._missing("has more than one line or control characters")
        secret = Secret(value, str(self))
        hide(value, str(secret))
        return secret

    def _from_file(self) -> str:
        reason = ""
        try:
            value = contents(Path(self.name).resolve(), 2**20).decode("utf-8")
        except UnicodeDecodeError:  # its message would repeat the bytes
            reason = "is not UTF-8 text"
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            reason = f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
        if reason:
            raise self._missing(reason)
        return value.removesuffix("\n").removesuffix("\r")

    def _missing(self, reason: str) -> UsageError:
        where = "environment variable" if self.kind == "env" else "file"
        problem = f"the {where} '{self.name}', which a secret refers to, {reason}"
        next_step = "Export it and try again." if self.kind == "env" else "Write the secret there as one line."
        return UsageError(ReasonCode.SECRET_MISSING, problem, next_step=next_step)


SecretReference = Annotated[
    SecretRef,
    PlainValidator(SecretRef.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}),
]
"""`SecretRef` as a parameter: a reference on the way in and out, in JSON a string."""


# -- endpoint ----------------------------------------------------------------------------------------------------------

CLOUD_URL = "https://api.trychroma.com:443"
CLOUD_HEADER, CLOUD_KEY = "x-chroma-token", "env:CHROMA_API_KEY"
_CLOUD_DOMAIN = ".trychroma.com"
DEFAULT_TENANT, DEFAULT_DATABASE = "default_tenant", "default_database"
_PORTS = {"http": 80, "https": 443}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)*/?", re.ASCII)  # of a proxy before the server
_HOST = re.compile(r"[\w.:%-]+")


class Section(BaseModel):
    """Base of every section of the parameters: exact types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True,
                              validate_default=False, defer_build=True)  # fmt: skip

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON Schema, with the text below each key as its description. (Pydantic's own way slows down each import.)"""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema)["properties"]
        (body,) = ast.parse(inspect.getsource(cls)).body
        for key, text in pairwise(body.body):  # type: ignore[attr-defined]
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
                name = key.target.id  # type: ignore[union-attr]
                property_schema = properties[cls.model_fields[name].alias or name]
                property_schema["description"] = inspect.cleandoc(text.value.value)  # type: ignore[attr-defined]
        return schema


_SECRET = re.compile(r"(?i)key|token|secret|password|credential|authorization")


def secret_key(config: Any) -> str | None:
    """The first key of a configuration, at any depth, that would hold a secret; `…env_var` keys name a variable. Else None."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if isinstance(key, str) and _SECRET.search(key) and not key.endswith("env_var"):
            return key
        if (key_inside := secret_key(value)) is not None:
            return key_inside
    return None


class StoredFunction(Section):
    """An embedding function that leaves this machine, with the configuration that collections keep of it."""

    name: Annotated[str, Field(min_length=1)]
    """Its name, such as `openai`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """All that it is built from, as the collection keeps it: model, URL, `api_key_env_var`. Another configuration is not used."""
    variables: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(default_factory=list)
    """Environment variables that it needs beside those that `config` names."""

    @model_validator(mode="after")
    def _config_without_secrets(self) -> StoredFunction:
        if (key := secret_key(self.config)) is not None:
            raise ValueError(f"has {one_line(key, 40)!r} in its config; secrets go by environment: api_key_env_var")
        return self

    def matches(self, name: str, config: Mapping[str, Any]) -> bool:
        """Whether a stored name and configuration equal these; a null value counts as absent."""
        return name == self.name and _without_nulls(config) == _without_nulls(self.config)

    def environment(self) -> list[str]:
        """The environment variables that the function may read."""
        return [*self.variables, *(str(v) for k, v in self.config.items() if k.endswith("env_var") and v)]


def _without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def resolve_path(path: str | Path) -> Path:
    """A path of the parameters, relative to the current folder, as an absolute path. Links are kept."""
    return Path.cwd() / path


def _checked_path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be a path, got an empty text or one with a NUL character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise ValueError(f"is a path that {encoding} cannot name; set LC_ALL=C.UTF-8 for this command") from None
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        name = one_line(text.split("/")[0], 40)
    raise ValueError(f"begins with '{name}', and no such home is known; write the whole path")


FilePath = Annotated[str, AfterValidator(_checked_path)]
"""A path as it is written in the file, `~` and `~user` as their homes; `resolve_path` says where that is."""

_NO_GLOB = "is not a pattern for collection names:"


def _checked_glob(pattern: str) -> str:
    """Reject patterns that can only be a mistake; fnmatch accepts every text."""
    if not pattern or not pattern.isprintable() or pattern != pattern.strip():  # older names can have blanks inside
        raise ValueError(f"{_NO_GLOB} {one_line(pattern, 60)!r} is empty or has blanks at an end")
    for group in re.finditer(r"\[(!?)(\]?[^\]]*)(\]?)", pattern):
        backwards = any(a > b for a, b in re.findall(r"(.)-(.)", group[2]))
        if not group[3] or backwards:
            problem = "has a range that runs backwards" if group[3] else "opens a '[' that nothing closes"
            raise ValueError(f"{_NO_GLOB} {one_line(pattern, 60)!r} {problem}")
    return pattern


Glob = Annotated[str, AfterValidator(_checked_glob)]


def moved_with_workspace(name: str) -> str:
    """`workspace/NAME`, or NAME below RUNBOOK_WORKSPACE if that is set."""
    moved = os.environ.get("RUNBOOK_WORKSPACE")
    return str(Path(moved).absolute() / name) if moved else f"workspace/{name}"


class Reembed(Section):
    """New vectors for whole collections of the source, made from their documents; the source's own vectors are left behind."""

    function: Annotated[str, Field(min_length=1)]
    """Embedding function, by its name in Chroma's registry, such as `default` or `sentence_transformer`."""
    collections: list[Glob] = Field(default_factory=list)
    """Collections of the source, by name or pattern, each vector of which is made anew."""
    config: dict[Annotated[str, Field(min_length=1)], bool | int | float | str] = Field(default_factory=dict)
    """What the function is built from, such as a model's name; empty: its own defaults, never what a source keeps."""
    dimension: Annotated[int, Field(ge=1)] | None = None
    """Numbers that a new vector must have; step 12 refuses a function that gives another number of them."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Documents in one call of the function."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """Calls of the function at once; the vectors are the same with any number."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Calls that may begin in a minute; a service that answers 429 is given the time that it asks for besides."""
    cost_per_million_tokens: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Price of a million tokens, in any currency: step 13 then says what the new vectors cost before it makes them."""
    maximum_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Cost above which no vector is made, in the same currency; what the cache holds costs nothing."""
    cache: FilePath = Field(default_factory=lambda: moved_with_workspace(".embeddings"),
                            json_schema_extra={"default": "workspace/.embeddings"})  # fmt: skip
    """Folder that keeps each new vector by digests of text and function, for every run. RUNBOOK_WORKSPACE moves the default."""

    @model_validator(mode="after")
    def _for_collections(self) -> Reembed:
        if self.collections and self.function == "own":
            raise ValueError("makes whole collections anew by 'own', which a source names; name the function here")
        if (key := secret_key(self.config)) is not None:
            raise ValueError(f"has {one_line(key, 40)!r} in its config; secrets go by environment: api_key_env_var")
        if self.maximum_cost is not None and self.cost_per_million_tokens is None:
            raise ValueError("has maximum_cost without cost_per_million_tokens, from which the cost is reckoned")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, whole: SerializerFunctionWrapHandler) -> Any:
        return whole(self) if self.collections else self.function

    @staticmethod
    def pace_keys() -> set[str]:
        """Keys that do not change vectors: a resume may change them."""
        return {"batch", "parallel", "requests_per_minute", "cost_per_million_tokens", "maximum_cost", "cache"}

    def selects(self, name: str) -> bool:
        """Whether every vector of this collection is made anew."""
        return any(fnmatchcase(name, pattern) for pattern in self.collections)


class Retrieval(Section):
    """What a new embedding model is judged by: queries whose right answers are known, and how many neighbours must stay."""

    queries: FilePath | dict[str, list[str]] = Field(default_factory=dict)
    """Each query with ids of the source, one of which must be found; or a YAML or JSON file of `query: [id, …]`."""
    k: Annotated[int, Field(ge=1)] = 10
    """Hits of a query among which an expected id must be, in the collection that holds it."""
    at_least: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the queries that must find an expected id."""
    neighbours: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the nearest chunks of before that each collection with new vectors must still answer; none: shown, not judged."""


def _named_or_section(given: Any) -> Any:
    if isinstance(given, str):
        return {"function": given}
    if isinstance(given, dict) and not given.get("collections"):
        raise ValueError("names no collections; for lost vectors only, write the function's name instead of a section")
    return given


ReembedOrder = Annotated[
    Reembed, BeforeValidator(_named_or_section, json_schema_input_type=Annotated[str, Field(min_length=1)] | Reembed)
]


def split_url(text: str) -> SplitResult:
    """Parse an http(s) URL. ValueError if it is none; the message never repeats credentials."""
    if "@" in text:
        raise ValueError("must not hold a user name or password; give credentials as headers: {NAME: env:VARIABLE}")
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("has characters that a URL cannot have")
    if "://" not in text:
        raise ValueError(f"has no scheme; write 'http://{one_line(text.split('?')[0], 80)}'")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise ValueError(f"is not a URL ({error})") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"must begin with http:// or https://, got {parts.scheme}://")
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError("has no host, or a host or port that cannot be; write 'http://HOST:PORT'")
    return parts


def _checked_server(text: str) -> str:
    parts = split_url(text)
    if not _PREFIX.fullmatch(parts.path):
        raise ValueError("has a path that cannot be a proxy's prefix; write 'http://HOST:PORT' or 'http://HOST/PREFIX'")
    if re.search(r"/api(/|$)", parts.path):
        raise ValueError("must end before /api; Chroma's own paths are added to it")
    if "?" in text or "#" in text:
        raise ValueError("must not have a query or fragment; give credentials as headers: {NAME: env:VARIABLE}")
    return text


ServerUrl = Annotated[str, AfterValidator(_checked_server)]
PageUrl = Annotated[str, AfterValidator(lambda text: split_url(text) and text)]


class TargetLimits(Section):
    """The most that a target takes, as its vendor or its administrator says; over what is known of it by itself."""

    batch: PositiveInt | None = None
    """Chunks in one write; fewer where the server says fewer."""
    request_bytes: PositiveInt | None = None
    """Bytes of one request; a server of Chroma takes 41,943,040, a proxy before it may take less."""
    collection_rows: PositiveInt | None = None
    """Chunks of one collection."""
    name_bytes: PositiveInt | None = None
    """Bytes of a collection's name."""
    dimension: PositiveInt | None = None
    """Numbers of a vector."""
    id_bytes: PositiveInt | None = None
    """Bytes of an id."""
    document_bytes: PositiveInt | None = None
    """Bytes of a document, as UTF-8."""
    uri_bytes: PositiveInt | None = None
    """Bytes of a URI."""
    metadata_bytes: PositiveInt | None = None
    """Bytes of a chunk's whole metadata, as JSON."""
    keys: PositiveInt | None = None
    """Keys of a chunk's metadata."""
    key_bytes: PositiveInt | None = None
    """Bytes of the name of a key."""
    value_bytes: PositiveInt | None = None
    """Bytes of a value of metadata; of a list, all its texts together."""


class Endpoint(Section):
    """A Chroma database: a server (`url`), a directory (`path`) or Chroma Cloud (`cloud`), exactly one of them.

    `cloud` sets Cloud's url and the header with the key, unless these are given; a url beside it is another address of
    the same service.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": [
        {"required": ["url"]}, {"required": ["path"]},
        {"required": ["cloud"], "properties": {"cloud": {"const": True}}, "not": {"required": ["url"]}},
    ]})  # fmt: skip

    url: ServerUrl | None = None
    """A server, `http://HOST:PORT`, `https://…` or `http://HOST/PREFIX` behind a proxy, without query or user info."""
    path: FilePath | None = None
    """A directory that an embedded Chroma wrote, from the folder in which the command runs."""
    cloud: bool = False
    """Chroma Cloud: `url` is https://api.trychroma.com:443 and the key is `env:CHROMA_API_KEY`, unless given otherwise."""
    api: Literal["auto", "v1", "v2"] = "auto"
    """The server's API; `auto` asks the server."""
    tenant: Annotated[str, Field(min_length=1)] = DEFAULT_TENANT
    """Chroma's tenant, checked before use; `*` in a source that is a directory: every tenant, a run for each database."""
    database: Annotated[str, Field(min_length=1)] = DEFAULT_DATABASE
    """Chroma's database inside the tenant, checked like it; `*` in a source: every database, a run for each."""
    rename: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    """Names by uuid, for a source of Chroma 0.3 that has two collections of one name: `{UUID: NAME}`."""
    headers: dict[str, SecretReference] = Field(default_factory=dict)
    """HTTP headers to send, each value by reference: `Authorization: env:CHROMA_AUTHORIZATION`."""
    verify_tls: bool = True
    """Whether a server's certificate must be valid."""
    timeout_seconds: PositiveFloat = 30.0
    """Seconds until a request is given up; the client itself would wait for ever."""

    limits: TargetLimits | None = None
    """Of a target: the most that it takes, where somebody knows it; chunks over it are set aside in the dry run."""
    create: bool | None = None
    """Of a target: whether step 20 makes the tenant and database that it lacks; none: with a warning; false: refused."""
    embedding_functions: list[StoredFunction] = Field(default_factory=list)
    """Functions of collections that may leave this machine for text searches: `{name, config}`; target: those of source."""

    @model_validator(mode="before")
    @classmethod
    def _add_cloud_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("path") is not None:
            return given
        if given.get("cloud") is not True and not _in_cloud(given.get("url")):
            return given
        headers = given.get("headers") or {}
        if isinstance(headers, dict) and CLOUD_HEADER not in {str(name).lower() for name in headers}:
            headers = {**headers, CLOUD_HEADER: CLOUD_KEY}
        return {**given, "url": given.get("url") or CLOUD_URL, "headers": headers}

    @model_validator(mode="after")
    def _one_place(self) -> Endpoint:
        if (self.url is None) == (self.path is None):
            count = "both url and path" if self.url else "neither url nor path"
            hint = "; 'url: null' takes the other one away" if self.url else ""
            raise ValueError(f"has {count}; give exactly one{hint}")
        if self.path is not None and self.cloud:
            raise ValueError("has both path and cloud; give exactly one")
        if self.path is not None and (self.headers or self.api != "auto"):
            raise ValueError("is a directory (path), which has no headers and no api; these need a url")
        if self.path is None and self.rename:
            raise ValueError("is a server, which has no two collections of one name; rename needs a path")
        for name in self.headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"has a header name that HTTP does not allow: '{one_line(name, 40)}'")
        if len({name.lower() for name in self.headers}) < len(self.headers):
            raise ValueError("has one header twice, in upper and lower case")
        return self

    @property
    def is_cloud(self) -> bool:
        """Whether this is Chroma Cloud, by `cloud` or by the host's name."""
        return self.cloud or _in_cloud(self.url)

    @property
    def is_embedded(self) -> bool:
        return self.path is not None

    @property
    def address(self) -> str:
        """The canonical address: `http://host:8000`, `http://host:80/prefix`, or the path as given. Safe to print."""
        if self.url is None:
            return one_line(self.path or "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"

    @property
    def label(self) -> str:
        """The address for people, with tenant and database unless they are the defaults. Safe to print."""
        default = (self.tenant, self.database) == (DEFAULT_TENANT, DEFAULT_DATABASE)
        return self.address if default else f"{self.address} ({one_line(self.tenant)}/{one_line(self.database)})"

    @property
    def host(self) -> str:
        """The server's host in lower case; "" for a directory."""
        return (urlsplit(self.url).hostname or "").rstrip(".") if self.url else ""

    @property
    def port(self) -> int:
        """The server's port, by default that of the scheme; 0 for a directory."""
        parts = urlsplit(self.url) if self.url else None
        return 0 if parts is None else parts.port or _PORTS[parts.scheme]

    @property
    def prefix(self) -> str:
        """The path of the server behind a proxy, such as `/chroma`; "" for none."""
        return urlsplit(self.url).path.rstrip("/") if self.url else ""

    @property
    def tls(self) -> bool:
        return self.url is not None and urlsplit(self.url).scheme == "https"

    def exposed(self) -> list[tuple[ReasonCode, str]]:
        """The risks of the connection to this server, each (reason code, sentence)."""
        risks = []
        if self.tls and not self.verify_tls:
            risk = "verify_tls is false: whoever is in between can read and change everything, headers too"
            risks.append((ReasonCode.TLS_UNVERIFIED, risk))
        local = self.host in ("localhost", "::1") or self.host.startswith("127.")
        if self.headers and self.url and not self.tls and not local:
            risk = f"the headers {', '.join(sorted(self.headers))} go over plain http: anybody on the way can read them"
            risks.append((ReasonCode.SECRET_IN_CLEAR, risk))
        return risks

    def template_values(self) -> dict[str, str]:
        """The values of the placeholders `{target_…}` if this is the target."""
        if self.path is not None:
            return {"target_path": str(resolve_path(self.path))}
        return {"target_url": self.address, "target_host": self.host, "target_port": str(self.port),
                "target_prefix": self.prefix}  # fmt: skip


def _in_cloud(url: Any) -> bool:
    """Whether a value is a URL with a host of Chroma Cloud."""
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return False
    return f".{(host or '').rstrip('.')}".endswith(_CLOUD_DOMAIN)


def overlap(source: Endpoint, target: Endpoint) -> str:
    """How source and target overlap (same place, or one inside the other), in words; "" if they do not.

    Servers are compared by host, port and prefix, whatever the scheme: one port has one service. All loopback addresses
    are one host. Two databases of one server are two places; two of one directory are not, because the files of an
    embedded source must stay unchanged.
    """
    if source.path is not None and target.path is not None:
        inner, outer = lies_in(source.path, target.path), lies_in(target.path, source.path)
        both = f"({one_line(source.path)}, {one_line(target.path)})"
        if inner and outer:
            return f"are the same folder {both}"
        if _one_file(_real(source.path) / "chroma.sqlite3", _real(target.path) / "chroma.sqlite3"):
            return f"share one chroma.sqlite3 {both}"
        return f"lie inside one another {both}" if inner or outer else ""
    if source.url is None or target.url is None:
        return ""
    same = (host_key(source.host), source.port, source.prefix) == (host_key(target.host), target.port, target.prefix)
    if same and (source.tenant, source.database) == (target.tenant, target.database):
        return f"are the same server, tenant and database ({source.label})"
    return ""


def lies_in(inner: str, outer: str) -> bool:
    """Whether the path `inner` is the folder `outer` or below it; follows links and mounts."""
    a, b = _real(inner), _real(outer)
    if b in (a, *a.parents):
        return True
    try:
        return b.exists() and any(above.exists() and above.samefile(b) for above in (a, *a.parents))
    except OSError:  # compared by name only; opening it will report the error
        return False


def _one_file(a: Path, b: Path) -> bool:
    """Whether two paths are one file, links followed; False if one is missing or cannot be read."""
    with suppress(OSError):
        return a.samefile(b)
    return False


def _real(path: str) -> Path:
    with suppress(OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return resolve_path(path).resolve()
    return resolve_path(path)


def host_key(host: str) -> str:
    """A host in canonical form: short addresses such as 127.1 as the resolver expands them, all loopback as "localhost"."""
    try:
        address = ipaddress.ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, ValueError):
        return "localhost" if host.endswith(".localhost") else host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    return "localhost" if address.is_loopback or address.is_unspecified else str(address)
