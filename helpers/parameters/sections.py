"""The sections of a run's parameters with their defaults; editors and docs/parameters.md show the text below each key.

Checks within one section are here; checks across sections are in `parameters.model`.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from helpers.errors import one_line, secrets_assigned, secrets_in_yaml
from helpers.parameters.endpoint import (
    FilePath,
    Glob,
    PageUrl,
    Reembed,
    ReembedOrder,
    Retrieval,
    SecretReference,
    Section,
    resolve_path,
    secret_key,
)
from helpers.results import contents

# -- value types: a check's message is what follows the key in the error line, `'window.start' has no time zone; …` ----

Role = Literal["operations_lead", "dba", "security"]
ROLES: tuple[Role, ...] = ("operations_lead", "dba", "security")
Text = Annotated[str, Field(min_length=1)]
T = TypeVar("T")
_PLACES = ("target_url", "target_host", "target_port", "target_prefix", "target_path")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def _distinct(values: list[T]) -> list[T]:
    repeated = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if repeated is not None:
        raise ValueError(f"names {one_line(str(repeated))!r} twice")
    return values


def _checked_address(text: str) -> str:
    """Require `HOST:PORT` and nothing else: the text is written into the configuration of nginx."""
    if (match := _ADDRESS.fullmatch(text)) is None or not 1 <= int(match[1]) <= 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8001")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or text.isspace():
        raise ValueError("must be one line of text without control characters")
    return text


def _checked_template(text: str) -> str:
    places = template_places(text)
    unknown = sorted(places - set(_PLACES))
    if unknown:
        raise ValueError(f"has the placeholder {{{one_line(unknown[0], 40)}}}; known: {', '.join(_PLACES)}")
    return text


def template_places(text: str) -> set[str]:
    """The placeholders in a configuration value. ValueError if its braces do not match."""
    try:
        parts = [part for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        raise ValueError("has a single brace; write '{{' or '}}' for a brace that is meant as such") from None
    return {f"{name}" + (f":{spec}" if spec else "") + (f"!{kind}" if kind else "") for _, name, spec, kind in parts}


def _checked_command(arguments: list[str]) -> list[str]:
    if not arguments[0].strip() or any("\0" in argument for argument in arguments):
        raise ValueError("must begin with the name of a program and have no NUL character")
    return arguments


def _checked_push(arguments: list[str]) -> list[str]:
    places = {place for argument in arguments for place in template_places(argument)}
    if "digest" not in places or places - {"digest", "seal", "run"}:
        raise ValueError("must have {digest} among its arguments, and besides {seal} and {run} no other placeholder")
    return arguments


def _checked_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return text


def _instant(value: Any) -> datetime:
    """Parse ISO 8601 with a time zone, and convert it to UTC."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("must be a time in ISO 8601 with its zone, such as 2025-12-01T02:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone; write 2025-12-01T02:00:00Z or 2025-12-01T03:00:00+01:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is too near the end of the calendar") from None


Label = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_one_line)]
"""A short text for titles, subjects and folder names."""
Command = Annotated[list[str], Field(min_length=1), AfterValidator(_checked_command)]
"""A program and its arguments, one list item each; never a shell line."""
Template = Annotated[str, AfterValidator(_one_line), AfterValidator(_checked_template)]
"""Text in which `{target_url}`, `{target_host}`, `{target_port}`, `{target_prefix}` or `{target_path}` is the target's own."""
EnvKey = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Address = Annotated[str, AfterValidator(_checked_address)]
Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_checked_pattern)]
Roles = Annotated[list[Role], AfterValidator(_distinct)]


# -- sections ----------------------------------------------------------------------------------------------------------


def _checked_shard(text: str) -> str:
    if not re.fullmatch("[1-9][0-9]{0,3}/[1-9][0-9]{0,3}", text) or operator.gt(*map(int, text.split("/"))):
        raise ValueError("must be NUMBER/OF, 1/4 to 4/4 for four shards")
    return text


class Collections(Section):
    """Which collections of the source are migrated: matched by `include` and by none of `exclude`."""

    include: Annotated[list[Glob], Field(min_length=1)] = Field(default_factory=lambda: ["*"])
    """Names or patterns (`*`, `?`, `[a-z]`) to take."""
    exclude: list[Glob] = Field(default_factory=list)
    """Names or patterns to leave out, stronger than `include`."""
    shard: Annotated[str, AfterValidator(_checked_shard)] | None = None
    """Only the chunks of one shard, `NUMBER/OF`, such as 2/8: those whose id hashes to it (docs/scale.md). None: all."""

    def selects(self, name: str) -> bool:
        included, excluded = (any(fnmatchcase(name, p) for p in patterns) for patterns in (self.include, self.exclude))
        return included and not excluded


class TargetDisk(Section):
    """The free disk of a target server, attested by a person, because Chroma does not report it."""

    free_gb: PositiveFloat
    """Free disk in GB (10⁹ bytes)."""
    attested_by: Label
    """Who checked it."""


class Expected(Section):
    """What the source should hold. Listed counts + `unlisted` must be `total` where all are given."""

    collections: dict[Text, NonNegativeInt] = Field(default_factory=dict)
    """Chunks by source collection."""
    unlisted: NonNegativeInt = 0
    """Chunks in collections that are not listed."""
    total: NonNegativeInt | None = None
    """Chunks in all."""
    tolerance: NonNegativeInt = 0
    """Chunks by which the total may differ."""
    dimensions: list[PositiveInt] = Field(default_factory=list)
    """Embedding dimensions allowed; empty: each collection's own single dimension."""
    minimum_imported: NonNegativeInt = 0
    """Chunks that must reach the target, a floor beside source minus quarantined."""
    target_disk: TargetDisk | None = None
    """Free disk of a remote target as somebody saw it there: `{free_gb: 40, attested_by: A. Person}`."""

    @model_validator(mode="after")
    def _counts_sum(self) -> Expected:
        listed, total = sum(self.collections.values()), self.total
        if total is None:
            return self
        if (self.collections or self.unlisted) and listed + self.unlisted != total:
            sums = f"{listed} listed + {self.unlisted} unlisted = {listed + self.unlisted}"
            hint = f"; expected.unlisted: {unlisted} would make it so" if (unlisted := total - listed) >= 0 else ""
            raise ValueError(f"has counts that do not sum to its total: {sums}, not {total}{hint}")
        if self.minimum_imported > total:
            raise ValueError(f"wants minimum_imported {self.minimum_imported}, more than its total {total}")
        return self


class DeltaLimit(Section):
    """How much of the source may change between validation and cutover. Both limits apply."""

    chunks: NonNegativeInt = 10_000
    """Chunks and collections that were added, changed or deleted since the validated snapshot."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The same as a share of that snapshot's chunks."""

    def of(self, total: int) -> int:
        """The number of changes that are allowed since a snapshot of `total` chunks."""
        return min(self.chunks, int(self.share * total))


class IndexSettings(Section):
    """Settings of a collection's HNSW index that differ from the source's; what is left out stays as it is there."""

    space: Literal["l2", "cosine", "ip"] | None = None
    """Distance by which it searches; then the source's answers are no measure of the target's."""
    ef_construction: PositiveInt | None = None
    """Neighbours looked at when a chunk is added; more: better recall, slower import."""
    ef_search: PositiveInt | None = None
    """Neighbours looked at by a search; more: better recall, slower searches."""
    max_neighbors: Annotated[int, Field(ge=4)] | None = None
    """Links of a chunk; more: better recall, more memory and disk."""
    num_threads: PositiveInt | None = None
    """Threads of the index; only a server that has its own schema keeps them."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Chunks that the index takes in at once; until then they are searched one by one."""
    sync_threshold: Annotated[int, Field(ge=2)] | None = None
    """Chunks after which the index is written to disk."""
    resize_factor: PositiveFloat | None = None
    """By what the index grows when it is full."""


def index_order(index: Mapping[str, IndexSettings], target: str) -> dict[str, Any]:
    """The settings of `migration.index` for this target collection; {} if no pattern matches."""
    first = next((settings for pattern, settings in index.items() if fnmatchcase(target, pattern)), IndexSettings())
    return first.model_dump(exclude_none=True)


class Migration(Section):
    """How chunks are transformed and written."""

    batch_size: PositiveInt = 500
    """Chunks per write, capped by what the target accepts."""
    workers: PositiveInt = 4
    """Threads that read and write; with `executor: dask` and `scheduler: local` processes, one a core at most."""
    executor: Literal["threads", "dask"] = "threads"
    """What does the work: threads of the run's process, or workers of Dask for what servers hold (docs/scale.md)."""
    scheduler: Text | None = None
    """With `executor: dask`: `tcp://HOST:PORT` (or `tls://`), or `local`: workers started for each step. Not given: `local`."""
    method: Literal["rows", "files"] = "rows"
    """`files`: a directory's own index files are copied to a directory, where nothing is to be changed (docs/scale.md)."""
    staging: Literal["workspace", "storage"] = "workspace"
    """Where staged Parquet files are: in the workspace, or in the storage that `snapshot.directory` names (docs/scale.md)."""
    id_policy: Literal["fail", "prefix"] = "fail"
    """Equal ids that meet in one target collection: stop, or write all ids as `<source collection>:<id>`."""
    minimum_valid: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Share of chunks that must pass validation before anything is written."""
    max_minutes: PositiveFloat = 120.0
    """Minutes after which the migration has taken too long, a rollback trigger."""
    catch_up: Literal["apply", "block"] = "apply"
    """Source changes since the snapshot: apply them to the target, or stop."""
    catch_up_rounds: PositiveInt = 5
    """Rounds of catch-up without a fence, after which the writers must stop; a resume counts again from 0."""
    delta_limit: DeltaLimit = Field(default_factory=DeltaLimit)
    """With `fence.when: cutover`: what step 25 may bring over behind the fence. Those who sign, sign it."""
    reembed: ReembedOrder | None = None
    """New vectors. A function's name, or `own`: for lost vectors only, else quarantine. A section: for whole collections."""
    reembed_config: dict[Text, bool | int | float | str] = Field(default_factory=dict)
    """Beside a name: what it is built from, such as a model's name; empty: what the collection keeps, or its defaults."""
    normalised: Literal["quarantine", "migrate"] = "quarantine"
    """Vectors of a damaged cosine index whose norm is lost: set them aside, or migrate them with the length 1."""
    drop_indexes: list[Glob] = Field(default_factory=list)
    """Collections (names or patterns) to migrate without what a local Chroma cannot hold: sparse and SPANN indexes."""
    index: dict[Glob, IndexSettings] = Field(default_factory=dict)
    """Other settings of the index, by the target collection's name or pattern; the first that fits counts."""

    @model_validator(mode="after")
    def _config_without_secrets(self) -> Migration:
        if self.reembed_config and (self.reembed is None or self.reembed.collections):
            text = "but no reembed" if self.reembed is None else "beside a section reembed; write it there, as config"
            raise ValueError(f"has reembed_config {text}")
        if (key := secret_key(self.reembed_config)) is not None:
            hint = "secrets go by environment: functions have an option such as api_key_env_var for it"
            raise ValueError(f"has reembed_config with {one_line(key, 40)!r}; {hint}")
        return self

    def contradictions(self) -> Iterator[str]:
        """Yield the contradictions between `executor` and `scheduler`."""
        if not re.fullmatch(rf"local|(tcp|tls)://{_ADDRESS.pattern}", self.scheduler or "local"):
            yield "'migration.scheduler' must be tcp://HOST:PORT, tls://HOST:PORT or local, such as tcp://10.0.0.5:8786"
        if self.scheduler is not None and self.executor != "dask":
            yield "'migration.scheduler' is given, but 'migration.executor' is threads, which has none; dask"

    @property
    def embedding(self) -> Reembed | None:
        """The order for new vectors, with its configuration; None if there is none."""
        order = self.reembed
        return order and (order.model_copy(update={"config": self.reembed_config}) if self.reembed_config else order)


class NginxFence(Section):
    """An nginx in front of the source that refuses writes."""

    listen: Address
    """HOST:PORT that clients use."""
    upstream: Address
    """HOST:PORT of Chroma behind it, which clients must not reach."""
    config: FilePath
    """Configuration file that the toolkit writes."""
    command: Command = Field(default_factory=lambda: ["nginx"])
    """The nginx program with its leading arguments."""
    elsewhere: bool = False
    """nginx runs on another machine: the file is written for its operator, who puts it up and takes it down."""

    @model_validator(mode="after")
    def _two_addresses(self) -> NginxFence:
        if self.listen == self.upstream:
            raise ValueError("listens on its own upstream; they are two addresses")
        return self


class CommandFence(Section):
    """The operator's own way to stop and allow writes."""

    lock: Command
    """Program and arguments that stop writes to the source."""
    unlock: Command
    """Program and arguments that allow them again."""


class Fence(Section):
    """How writes to the source are stopped during the window."""

    kind: Literal["none", "nginx", "command"] = "none"
    """`none` is a warning that the decision shows."""
    when: Literal["start", "cutover"] = "start"
    """`start`: step 20 stops writes before the snapshot. `cutover`: step 25 does, and brings over what changed since."""
    nginx: NginxFence | None = None
    """Needed by kind `nginx`."""
    command: CommandFence | None = None
    """Needed by kind `command`."""
    at_closeout: Literal["lift", "keep"] = "lift"
    """What step 53 does with an active fence: lift it, unless clients are seen at it, or keep it."""
    timeout_seconds: PositiveFloat = 60.0
    """Seconds for the fence to become active: a command to end, old nginx workers to exit, counts to settle."""

    @model_validator(mode="after")
    def _has_its_kind(self) -> Fence:
        if self.kind != "none" and getattr(self, self.kind) is None:
            needs = "listen, upstream and config" if self.kind == "nginx" else "lock and unlock"
            raise ValueError(f"is of kind {self.kind} but has no '{self.kind}' with {needs}")
        if self.when == "cutover" and (self.kind == "none" or (self.nginx and self.nginx.elsewhere)):
            raise ValueError("has when: cutover; step 25 can only put up nginx on this machine, or run a command")
        return self

    @property
    def late(self) -> bool:
        """Whether writes continue until step 25."""
        return self.when == "cutover"


class NamedQuery(Section):
    """A text query that the target must answer well."""

    text: Text
    """The query."""
    collection: Text | None = None
    """Target collection to ask; none: every one whose embedding function is available."""
    expect: Text | None = None
    """Word that a hit must contain, in any case."""


class Validation(Section):
    """The tests after import; all run on every chunk, these set the search tests."""

    probes: PositiveInt = 20
    """Stored vectors per collection that are searched for on both sides."""
    k: PositiveInt = 10
    """Hits compared per probe."""
    overquery: PositiveInt = 1000
    """Hits requested, of which the best `k` are kept, so that the approximate index makes no difference."""
    queries: list[NamedQuery] = Field(default_factory=list)
    """Text queries, run where the embedding function is available."""
    maximum_distance: PositiveFloat = 0.8
    """Cosine distance within which a named query must find its best hit; not used for l2 and ip."""
    seed: NonNegativeInt = 20251201
    """Seed of the choice of probes."""
    retrieval: Retrieval | None = None
    """Queries with known answers, and neighbours that must stay: what a new embedding model is judged by."""

    @model_validator(mode="after")
    def _asks_for_more_than_it_keeps(self) -> Validation:
        if self.overquery < self.k:
            raise ValueError(f"has overquery {self.overquery} below k {self.k}; it asks for more hits than it keeps")
        return self


class SignOff(Section):
    """Who must sign before what."""

    required: Roles = Field(default_factory=lambda: list(ROLES))
    """Roles that must sign GO before the cutover."""
    dry_run: Roles = Field(default_factory=list)
    """Roles that must approve the dry run before the window; none by default."""
    closeout: Roles = Field(default_factory=list)
    """Roles that must sign the closed-out run, the last of its seals; none by default."""
    allowed_signers: FilePath | None = None
    """File in ssh-keygen's ALLOWED SIGNERS format; parameters/allowed_signers.example shows one."""
    timestamp_url: PageUrl | None = None
    """Time-stamping authority (RFC 3161) that gives a token for every seal; none by default. Needs openssl."""
    push_digest: Annotated[Command, AfterValidator(_checked_push)] | None = None
    """Program that keeps the `{digest}` of each `{seal}` of the `{run}` outside; what fails is repeated at the next seal."""
    one_key_for_roles: bool = False
    """Whether one key, or one principal, may sign in more than one role."""
    runner_key: FilePath | None = None
    """Key that signs every seal (the public key if an agent holds it); none: `runner_key` in the workspace, made when missing."""


class EnvFile(Section):
    """A `.env` file and the keys that point the application to the target."""

    path: FilePath
    """The file."""
    keys: Annotated[dict[EnvKey, Template], Field(min_length=1)]
    """Key and new value, such as `CHROMADB_URL: "{target_url}"`; a token or password as `env:NAME` or `file:PATH`."""


class ComposeFile(Section):
    """A compose file and the environment keys of its services that point to the target."""

    path: FilePath
    """The file."""
    keys: Annotated[dict[EnvKey, Template], Field(min_length=1)]
    """Environment key and new value, such as `CHROMA_SERVER_HOST: "{target_host}"`; a token as `env:NAME` or `file:PATH`."""
    services: list[Text] = Field(default_factory=list)
    """Services to change; none: all that have the key, which must then agree on its value."""


_LARGEST_CONFIG = 4 * 2**20  # bytes


class Cutover(Section):
    """How the application is pointed to the target."""

    env_files: list[EnvFile] = Field(default_factory=list)
    """Files of KEY=value lines to change."""
    compose_files: list[ComposeFile] = Field(default_factory=list)
    """Compose files to change."""
    restart: list[Command] = Field(default_factory=list)
    """Commands that restart the application, run in this order."""
    health: list[PageUrl] = Field(default_factory=list)
    """URLs of the application that must answer 2xx."""
    write_probe: Command | None = None
    """Program that has the application write a chunk and remove it: exit code 0 taken, 1 to 125 not taken, else not tried."""
    log_files: list[FilePath] = Field(default_factory=list)
    """Application logs to watch for new matches of `log_pattern`."""
    log_pattern: Pattern = "(?i)error"
    """Regular expression of a log line that means trouble."""
    timeout_seconds: PositiveFloat = 60.0
    """Seconds for a restart command, and then for target and health URLs to answer."""
    monitor_minutes: NonNegativeFloat = 5.0
    """Minutes to watch before the cutover counts as done."""

    @model_validator(mode="after")
    def _each_file_once(self) -> Cutover:
        named = [file.path for file in self.config_files()]
        real = [resolve_path(path).absolute() for path in named]
        repeated = next((path for index, path in enumerate(named) if real[index] in real[:index]), None)
        if repeated is not None:
            raise ValueError(f"names the file {one_line(repeated)!r} twice; put its keys together")
        return self

    def secret_values(self) -> dict[str, str]:
        """Secrets in the files, comments included, by `file:PATH KEY`. The key's name or the form of the value tells them.

        Further values of a repeated key, and further parts of a value, have `#2`, `#3` … at the end. An unreadable file
        has none here; the step that changes it reports it.
        """
        secrets: dict[str, str] = {}
        for file in self.config_files():
            try:
                text = contents(resolve_path(file.path).resolve())[:_LARGEST_CONFIG].decode("utf-8", "replace")
            except (OSError, ValueError, RuntimeError):
                continue
            find = secrets_in_yaml if isinstance(file, ComposeFile) else secrets_assigned
            for key, number, secret in find(text):
                name = f"file:{file.path} {key}{f' line {number}' if number > 1 else ''}"
                names = itertools.chain([name], (f"{name} #{n}" for n in itertools.count(2)))
                secrets.setdefault(next(n for n in names if secrets.get(n, secret) == secret), secret)
        return secrets

    def config_files(self) -> list[EnvFile | ComposeFile]:
        """Every file that the cutover changes, in order."""
        return [*self.env_files, *self.compose_files]


class Rollback(Section):
    """Whether a rollback starts by itself, and how long the source is watched after it."""

    automatic: bool = False
    """Whether a rollback trigger starts it; otherwise a person does."""
    replay: bool = False
    """Whether what clients wrote to the target since the cutover is written to the source; otherwise a person decides."""
    monitor_minutes: NonNegativeFloat = 30.0
    """Minutes to watch the source after a rollback."""


class Window(Section):
    """The maintenance window."""

    start: Instant | None = None
    """Start in ISO 8601 with time zone, `2025-12-01T02:00:00Z`; none: no window."""
    minutes: PositiveFloat = 120.0
    """Length in minutes, without the buffers."""
    buffer_minutes: NonNegativeFloat = 30.0
    """Minutes kept free before and after."""
    blackout: str = ""
    """What nobody may do meanwhile, for the announcement."""


class Notify(Section):
    """Who is notified, and which commands run before and after the migration. A failed notice never stops a migration."""

    urls: list[SecretReference] = Field(default_factory=list)
    """Apprise URLs by reference (`env:RUNBOOK_NOTIFY_SLACK`): they hold tokens."""
    timeout_seconds: PositiveFloat = 10.0
    """Seconds that a notice may take, all channels at once; what has not answered by then is given up."""
    stakeholders: list[Text] = Field(default_factory=list)
    """People and teams to notify, for the checklist."""
    impact: str = ""
    """What users will notice, one or two sentences for the announcement."""
    affected: list[Text] = Field(default_factory=list)
    """What is affected meanwhile, one line each, for the announcement."""
    by_hand: list[Text] = Field(default_factory=list)
    """What a person has to do beside the channels, such as the status page; the checklist asks for it."""
    before: list[Command] = Field(default_factory=list)
    """Commands before step 20, such as silencing alerts; one that fails is a warning."""
    after: list[Command] = Field(default_factory=list)
    """Commands once the cutover is done, the run is rolled back, or it ends early; only if those of `before` were started."""
    command_seconds: PositiveFloat = 60.0
    """Seconds that each of these commands may take."""


def is_placeholder(text: str) -> bool:
    """Whether a text contains a placeholder such as `<name and phone>`; an address as in `Ada <ada@here>` is none."""
    return any("@" not in match for match in re.findall(r"<[^<>]+>", text))


class Contacts(Section):
    """Whom to call; `<…>` marks a value that must be filled in before the migration."""

    on_call: str = ""
    """On-call engineer, escalation level 4."""
    dba: str = ""
    """Database administrator, level 2."""
    operations_lead: str = ""
    """Operations lead, level 3."""
    channel: str = ""
    """Chat channel of the migration."""
    war_room: str = ""
    """Link of the call."""

    @property
    def named(self) -> Contacts:
        """The contacts with each text that contains a placeholder `<…>` replaced by "". Use it for everything that is sent."""
        return Contacts(**{key: "" if is_placeholder(text) else text for key, text in self})


class Monitoring(Section):
    """The watch after cutover and the performance that it asks for."""

    minutes: PositiveFloat = 60.0
    """Minutes to watch."""
    interval_seconds: PositiveFloat = 60.0
    """Seconds between two measurements."""
    maximum_latency_ms: PositiveFloat = 500.0
    """Mean query latency allowed."""
    shrink_limit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a collection's validated chunks that clients may delete at the target until the watch ends, with a warning."""
    minimum_queries_per_second: PositiveFloat = 10.0
    """Sequential queries per second required."""
    maximum_slowdown: float = Field(2.0, gt=0)
    """Mean query latency of the target allowed, as a multiple of the source's in the same run; above it 51 warns."""
    level_seconds: PositiveFloat = 30.0
    """Seconds that 51 measures each side with each number of clients, all repetitions together; below 30 it says so."""
    repetitions: int = Field(3, ge=1)
    """Repetitions into which 51 divides them, source and target in turn."""
    queries: FilePath | None = None
    """File of the application's own queries, which step 52 asks the target; parameters/queries.example.yaml shows one."""
    tests: list[FilePath] = Field(default_factory=list)
    """The application's own pytest files or folders, run by step 52 against the target."""
    test_minutes: PositiveFloat = 10.0
    """Minutes after which step 52 ends the tests."""
