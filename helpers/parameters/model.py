"""The parameters of a run: one typed model for the command, the notebooks and editors, checked before anything starts.

`load_parameters` reads a file, `parameters_from` takes the sections that papermill injected; both take `--set`
overrides and raise UsageError with one line for any problem. The model has all defaults, so four lines (`name`,
`source`, `target`, `schema`) are a complete file.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from helpers.errors import BROKEN_YAML, RUNBOOK, UsageError, hide, one_line, secrets_of, secrets_within
from helpers.formatting import dotted, leaves
from helpers.parameters.endpoint import Endpoint, SecretRef, Section, overlap, resolve_path
from helpers.parameters.sections import (
    Collections,
    Contacts,
    Cutover,
    Expected,
    Fence,
    Label,
    Migration,
    Monitoring,
    Notify,
    Rollback,
    SignOff,
    Validation,
    Window,
    is_placeholder,
    template_places,
)
from helpers.parameters.snapshots import SnapshotSection
from helpers.reason_codes import ReasonCode
from helpers.results import contents

PARAMETERS = Path(__file__).resolve().parents[2] / "parameters"
IDENTITY = "identity"
_OF_NOTICES = tuple(f"notify.{key}" for key in ("stakeholders", "impact", "affected", "by_hand"))
RESUMABLE = (
    *(f"migration.{key}" for key in ("batch_size", "workers", "executor", "scheduler", "staging")),
    *(f"{section}.timeout_seconds" for section in ("source", "target", "fence", "cutover")), "signoff.allowed_signers",
    "signoff.push_digest", "fence.at_closeout", *(f"expected.target_disk{key}" for key in ("", ".free_gb", ".attested_by")),
    *(f"monitoring.{key}" for key in Monitoring.model_fields), *(f"window.{key}" for key in Window.model_fields),
    *(f"contacts.{key}" for key in Contacts.model_fields), *_OF_NOTICES,
)  # fmt: skip
"""Keys that `runbook resume --set` may change; any other change would make it another migration."""
_PLACEHOLDER = re.compile(r"<[^<>]+>")
_FOR_PEOPLE = ("contacts.", "window.blackout", *_OF_NOTICES)


def schema_names() -> list[str]:
    """The names of all built-in schemas."""
    return [IDENTITY, *sorted(path.stem for path in (PARAMETERS / "schemas").glob("*.yaml"))]


def schema_file(name_or_path: str) -> Path | None:
    """The file of a schema given by name or path; None for `identity`. ValueError if there is none."""
    if name_or_path == IDENTITY:
        return None
    if name_or_path in schema_names():
        return PARAMETERS / "schemas" / f"{name_or_path}.yaml"
    try:
        if resolve_path(name_or_path).is_file():
            return resolve_path(name_or_path)
    except (OSError, ValueError):
        pass  # no valid file name
    match = nearest(name_or_path, schema_names())
    hint = f"did you mean '{match}'?" if match else f"known: {', '.join(schema_names())}, or the path of a schema file"
    raise ValueError(f"names no schema: '{one_line(name_or_path, 80)}'; {hint}")


def _known_schema(name: str, info: ValidationInfo) -> str:
    if info.context is None:
        schema_file(name)
    return name


class Parameters(Section):
    """All parameters of a run, by section: immutable, complete with defaults, without contradictions."""

    name: Label = "migration"
    """What the run is called in pages and notices."""
    source: Endpoint
    """Where the chunks are."""
    target: Endpoint
    """Where they go."""
    collections: Collections = Field(default_factory=Collections)
    expected: Expected = Field(default_factory=Expected)
    schema_name: Annotated[str, AfterValidator(_known_schema)] = Field(default=IDENTITY, alias="schema")
    """`identity`, a name in parameters/schemas, or the path of a schema file."""
    migration: Migration = Field(default_factory=Migration)
    snapshot: SnapshotSection = Field(default_factory=SnapshotSection)
    fence: Fence = Field(default_factory=Fence)
    validation: Validation = Field(default_factory=Validation)
    signoff: SignOff = Field(default_factory=SignOff)
    cutover: Cutover = Field(default_factory=Cutover)
    rollback: Rollback = Field(default_factory=Rollback)
    window: Window = Field(default_factory=Window)
    notify: Notify = Field(default_factory=Notify)
    contacts: Contacts = Field(default_factory=Contacts)
    monitoring: Monitoring = Field(default_factory=Monitoring)

    @model_validator(mode="before")
    @classmethod
    def _copy_functions_to_target(cls, given: Any) -> Any:
        """Use the source's `embedding_functions` for a target that has none."""
        source, target = (given.get(side) if isinstance(given, dict) else None for side in ("source", "target"))
        if not isinstance(source, dict) or not isinstance(target, dict) or not source.get("embedding_functions"):
            return given
        return {**given, "target": {"embedding_functions": source["embedding_functions"], **target}}

    @model_validator(mode="after")
    def _check_contradictions(self) -> Parameters:
        if contradictions := "; ".join(self._contradictions()):
            raise ValueError(contradictions)
        return self

    def _contradictions(self) -> Iterator[str]:
        if overlapping := overlap(self.source, self.target):
            yield f"'source' and 'target' {overlapping}"
        if self.source.limits or self.source.create is not None:
            yield "'source.limits' and 'source.create' mean nothing: they say what a target takes, and what is made there"
        if self.target.rename:
            yield "'target.rename' means nothing: only a source of Chroma 0.3 has two collections of one name"
        for side in ("source", "target"):
            if (path := getattr(self, side).path) is not None and not overlapping and self.snapshot.overlaps(path):
                yield f"'snapshot.directory' lies inside '{side}.path' or has a folder there, and it must hold the database only"
        if self.fence.kind == "nginx" and self.source.is_embedded:
            yield "'fence.kind' is nginx, but 'source' is a directory, before which no proxy can stand; command or none"
        if self.fence.late and self.source.is_embedded:
            yield "'fence.when' is cutover, but 'source' is a directory, which is copied while nobody writes to it; start"
        if self.fence.late and self.migration.catch_up == "block":
            yield "'fence.when' is cutover, but 'migration.catch_up' is block, which brings nothing over; apply"
        for name in self.expected.collections:
            if not self.collections.selects(name):
                yield f"'expected.collections' counts '{one_line(name, 80)}', which 'collections' leaves out"
        yield from self.migration.contradictions()
        yield from self.snapshot.contradictions(self.migration.staging)
        values = [value for file in self.cutover.config_files() for value in file.keys.values()]
        for place in sorted(set().union(*map(template_places, values)) - set(self.target.template_values())):
            kind = "a directory" if self.target.is_embedded else "a server"
            yield f"'cutover' writes {{{place}}} into a file, but 'target' is {kind}, which has none"

    def document(self) -> dict[str, Any]:
        """The parameters with every default, as JSON values; secrets as references; without unset keys.

        `parameters_from(p.document()) == p`.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def context(self) -> dict[str, Any]:
        """The values that a resume must find unchanged. Paths are absolute: they depend on the current folder."""
        dump, order = self.migration.model_dump, self.migration.reembed
        free = {"reembed": order.pace_keys()} if order and order.collections else None
        return {
            "source": _identity(self.source),
            "target": _identity(self.target),
            "schema": self.schema_name if self.schema_name in schema_names() else str(resolve_path(self.schema_name)),
            "collections": self.collections.model_dump(mode="json", exclude_none=True),
            "id_policy": self.migration.id_policy,
            **(dump(mode="json", include={"reembed", "reembed_config"}, exclude=free) if order else {}),
            **dump(mode="json", include={"normalised", "drop_indexes", "index", "method"}, exclude_defaults=True),
        }

    @property
    def source_label(self) -> str:
        """The source for people, with the shard, if only one is migrated."""
        return self.source.label + (f" (shard {self.collections.shard})" if self.collections.shard else "")

    def digest(self) -> str:
        """SHA-256 (hex) of the resolved parameters in canonical JSON."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def secrets(self) -> list[SecretRef]:
        """All secrets that the parameters refer to, sorted, and set variables of embedding functions (not if named as text)."""
        secrets = {*self.source.headers.values(), *self.target.headers.values(), *self.notify.urls, *self.snapshot.secrets(),
                   *(value for _, value in self._new_values() if isinstance(value, SecretRef))}  # fmt: skip
        named = json.dumps(self.document(), ensure_ascii=False)
        names = (n for n in self._function_variables() if (v := os.environ.get(n, "")).strip() and v not in named)
        secrets |= {SecretRef("env", name) for name in names}
        return sorted(secrets, key=str)

    def hide_secrets(self) -> None:
        """Hide the secrets of these parameters, and of the files that they change, in all later output of this process."""
        for reference in self.secrets():
            with suppress(UsageError):  # missing: reported where it is needed
                reference.resolve()
        for where, value in [*self.secrets_of_files().items(), *self._open_secrets()]:
            hide(value, f"<secret {where}>")

    def refuse_open_secrets(self, before: Parameters | None = None) -> Parameters:
        """Return these parameters. UsageError if a URL or header holds a token that `before` does not hold."""
        for where, _ in sorted({*self._open_secrets()} - {*(before._open_secrets() if before else ())})[:1]:
            problem = f"{where} holds a token or password, which every report would show"
            hint = "Name an address that answers without one; for a new value of a file name the secret: env:NAME or file:PATH."
            raise UsageError(ReasonCode.PARAMETERS_INVALID, problem, next_step=hint)
        return self

    def _open_secrets(self) -> Iterator[tuple[str, str]]:
        """Yield (place, secret) for each token or password that they hold as text: in URLs, headers, new values."""
        yield from ((key, part) for key, value in leaves(self.document()) for part in secrets_within(str(value)))
        for (path, key), value in self._new_values():
            if not isinstance(value, SecretRef):
                yield from ((f"the new value of {key} in {path}", secret) for secret in secrets_of(key, value))

    def _new_values(self) -> Iterator[tuple[tuple[str, str], SecretRef | str]]:
        """Yield ((file, key), new value) for each value that the cutover writes."""
        for file in self.cutover.config_files():
            yield from (((file.path, key), new_value(value)) for key, value in file.keys.items())

    def secrets_of_files(self) -> dict[str, str]:
        """Secrets in the files that the cutover changes or a storage's driver reads, by place; without texts named here."""
        named = json.dumps(self.document(), ensure_ascii=False)
        secrets = self.cutover.secret_values() | self.snapshot.secrets_of_files()
        return {place: value for place, value in secrets.items() if value not in named}

    def environment(self) -> list[str]:
        """All environment variables that the parameters name, sorted: a step's kernel gets only these."""
        named = {ref.name for ref in self.secrets() if ref.kind == "env"}
        return sorted(named | self.snapshot.variables() | self._function_variables())

    def _function_variables(self) -> set[str]:
        """The environment variables that embedding functions may read."""
        functions = [*self.source.embedding_functions, *self.target.embedding_functions]
        named = {name for function in functions for name in function.environment()}
        config = self.migration.embedding.config if self.migration.embedding else {}
        return named | {str(v) for k, v in config.items() if k.endswith("env_var")}

    def placeholders(self) -> list[str]:
        """Keys whose text is still a placeholder `<…>`, sorted. Values of secrets are not read."""
        return sorted(key for key, value in leaves(self.document()) if _is_placeholder(key, str(value)))

    def for_resume(self, overrides: Sequence[str]) -> Parameters:
        """These parameters with overrides for a resume. UsageError for a key that a resume may not change."""
        for override in overrides:
            key = ".".join(_parse_override(override)[0])
            if key not in RESUMABLE:
                sections = {f"{name}.*": f"{name}." for name in ("monitoring", "window", "contacts")}
                named = [k for k in RESUMABLE if not k.startswith(tuple(sections.values()))]
                next_step = f"It may change {', '.join([*named, *sections])}; for anything else start a new run."
                problem = f"a resume cannot change '{key}'"
                raise UsageError(ReasonCode.RESUME_CONTEXT, problem, where="--set", next_step=next_step)
        return parameters_from(self.document(), overrides)


SECTIONS: tuple[str, ...] = tuple(field.alias or name for name, field in Parameters.model_fields.items())
"""The top-level keys, in the order of the file."""


_NO_IDENTITY = {"timeout_seconds", "url", "path", "cloud", "embedding_functions"}


def _identity(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint without what a resume may change (the time-out). Runs of older toolkits have no `rename`."""
    without = _NO_IDENTITY if endpoint.rename else _NO_IDENTITY | {"rename"}
    facts = endpoint.model_dump(mode="json", exclude_none=True, exclude=without)
    place = str(resolve_path(endpoint.path)) if endpoint.path is not None else endpoint.address
    return {"place": place, **facts}


def new_value(text: str) -> SecretRef | str:
    """A new value of a configuration file: the secret that it refers to (`env:NAME`, `file:PATH`), or its text."""
    try:
        return SecretRef.parse(text)
    except ValueError:
        return text


def written(template: str, values: Mapping[str, str]) -> str:
    """The value to write: the secret, or the template with its placeholders filled in. UsageError for a missing secret."""
    value = new_value(template)
    return value.resolve().reveal() if isinstance(value, SecretRef) else value.format(**values)


def _is_placeholder(key: str, text: str) -> bool:
    """Whether a text is a placeholder, or, for a key whose text is sent to people, contains one."""
    return bool(_PLACEHOLDER.fullmatch(text.strip())) or (key.startswith(_FOR_PEOPLE) and is_placeholder(text))


def load_parameters(path: Path, overrides: Sequence[str] = ()) -> Parameters:
    """Read parameters from a YAML file, with `a.b=VALUE` overrides. UsageError with one line for any problem."""
    where = f"{path} with --set" if overrides else str(path)
    next_step = f"Correct it, then check it with: {RUNBOOK} schema {path}"
    return _validate(_apply_overrides(read_yaml_mapping(path), overrides), where, next_step).refuse_open_secrets()


def parameters_from(
    sections: Mapping[str, Any], overrides: Sequence[str] = (), *, elsewhere: bool = False
) -> Parameters:
    """Build parameters from sections, such as a notebook's variables; `{}`, None and "" mean a section's defaults.

    Without source and target, they are those of the small sample (`is_sample`), changed by the other sections.
    `elsewhere`: do not require the schema's file.
    """
    document = _apply_overrides(sections, overrides)
    document = _sample(document) if is_sample(document) else document
    return _validate(document, "", "Correct the parameters and try again.", {"elsewhere": True} if elsewhere else None)


def is_sample(sections: Mapping[str, Any]) -> bool:
    """Whether neither source nor target is given, so that the small sample is used instead."""
    return not sections.get("source") and not sections.get("target")


def _sample(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The rehearsal's parameters with the small sample's folders and without counts, overridden by the given sections."""
    base = read_yaml_mapping(PARAMETERS / "rehearsal.yaml") | {"name": "sample", "expected": {}}
    base |= {end: {"path": f"workspace/sample/{end}"} for end in ("source", "target")}
    for name, value in sections.items():
        default = base.get(name)
        if not _is_default(value):
            base[name] = default | value if isinstance(default, dict) and isinstance(value, dict) else value
    return base


def _is_default(value: Any) -> bool:
    return value in (None, {}, "")


def _validate(
    document: Mapping[str, Any], where: str, next_step: str, context: dict[str, bool] | None = None
) -> Parameters:
    given = {name: value for name, value in document.items() if name not in SECTIONS or not _is_default(value)}
    try:
        return Parameters.model_validate(given, context=context)
    except ValidationError as error:
        problem = explain(error, Parameters)
    # Raised outside of `except`: pydantic's error holds the input, which a chained traceback could show.
    raise UsageError(ReasonCode.PARAMETERS_INVALID, problem, where=where, next_step=next_step)


def _apply_overrides(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(document))
    for override in overrides:
        parts, value = _parse_override(override)
        place = changed
        for depth, part in enumerate(parts[:-1]):
            place[part] = place[part] if not _is_default(place.get(part)) else {}
            place = place[part]
            if not isinstance(place, dict):
                key = ".".join(parts[: depth + 1])
                raise _malformed(f"'{key}' is not a mapping in the file, so '{'.'.join(parts)}' cannot be set")
        place[parts[-1]] = value
    return changed


def _parse_override(override: str) -> tuple[list[str], Any]:
    """Parse `a.b=VALUE`: (parts of the key, value read as YAML). UsageError for an unknown key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        start = re.match(r"[\w.-]{0,40}", key)
        raise _malformed(f"--set wants a.b=VALUE, got '{start[0] if start else ''}…'")
    parts = split_key(key, Parameters)
    plain = text.strip()
    try:
        value = parse_yaml(text)
    except UsageError:
        value, plain = None, ""
    if plain or not text.strip():
        # In YAML '#' begins a comment; on a command line it is an ordinary character.
        commented = "#" in plain and plain[0] not in "'\"" and (value is None or isinstance(value, str))
        return parts, plain if commented else value
    raise _malformed(f"the value of --set {key}=… is not YAML")


def _malformed(problem: str) -> UsageError:
    next_step = "Write --set section.key=VALUE, with quotes around a value that has blanks or braces."
    return UsageError(ReasonCode.SET_MALFORMED, problem, next_step=next_step)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a parameters file, for editors; parameters/parameters.schema.json is a copy."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | Parameters.model_json_schema(by_alias=True)


# All errors that ruamel.yaml raises for invalid YAML.
NOT_YAML = (YAMLError, *BROKEN_YAML)
Model = type[BaseModel]
MAXIMUM_SHOWN = 4  # errors named in one line; the rest is counted
_SECRET_KEYS = frozenset({"headers", "urls", "url", "health"})


class _Constructor(SafeConstructor):
    """Keeps timestamps as text: the model parses them, and no time zone is lost."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, *, where: str = "") -> Any:
    """Parse YAML 1.2 into plain Python values. UsageError for invalid YAML, a repeated key, a second document."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except RecursionError:
        problem = "nested too deeply"
    except MarkedYAMLError as error:  # for a repeated key, the message would show both values
        problem = str(error.problem or error.context).split(" with value")[0] + _line_of(error)
    except NOT_YAML as error:
        problem = one_line(f"{type(error).__name__}: {error}", 200)
    raise UsageError(
        ReasonCode.YAML_INVALID, f"not valid YAML: {problem}", where=where, next_step="Correct it and try again."
    )


def _line_of(error: MarkedYAMLError) -> str:
    return f" on line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""


def read_yaml_mapping(path: Path, *, what: str = "parameters file") -> dict[str, Any]:
    """Read the mapping in a YAML file. UsageError if it is missing, unreadable, binary, empty or not a mapping."""
    problem = ""
    try:
        if not path.exists():
            problem = f"no such {what}"
        elif not path.is_file():
            problem = f"not a file, so no {what}"
        else:
            text = contents(path.resolve()).decode("utf-8-sig")
            problem = f"binary data instead of a {what}" if "\0" in text else ""
    except UnicodeDecodeError:
        problem = f"not UTF-8 text, so no {what}"
    except (OSError, ValueError) as error:
        problem = f"unreadable {what} ({getattr(error, 'strerror', None) or error})"
    if problem:
        raise UsageError(ReasonCode.FILE_UNREADABLE, problem, where=str(path), next_step=_other_file(path))
    value = parse_yaml(text, where=str(path))
    if not isinstance(value, dict) or not value:
        content = "an empty file" if value is None or value == {} else f"{_described(value)} at the top"
        next_step = "Write 'key: value' lines; parameters/rehearsal.yaml is an example."
        what = f"{content} instead of keys with values"
        raise UsageError(ReasonCode.FILE_NOT_MAPPING, what, where=str(path), next_step=next_step)
    return value


def _other_file(path: Path) -> str:
    try:
        neighbours = sorted(entry.name for entry in path.parent.glob("*.yaml") if entry.is_file())
    except OSError:
        neighbours = []
    match = difflib.get_close_matches(path.name, neighbours, n=1)
    return f"Did you mean {path.parent / match[0]}?" if match else "Check the path."


def fields_of(model: Model) -> dict[str, Any]:
    """The keys of a model as written in a file, each with its type."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def keys_of(model: Model, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that `--set` accepts, sections before their keys."""
    for name, annotation in fields_of(model).items():
        yield prefix + name
        inner = _unwrapped(annotation)
        if _is_model(inner):
            yield from keys_of(inner, f"{prefix}{name}.")


def split_key(key: str, model: Model) -> list[str]:
    """Split a dotted key; after the key of a mapping, the rest is one name with its dots. UsageError if unknown."""
    parts, current = key.split("."), model
    for depth, part in enumerate(parts):
        if part not in fields_of(current):
            raise _set_error(unknown_key(parts[: depth + 1], model))
        inner, rest = _unwrapped(fields_of(current)[part]), parts[depth + 1 :]
        if not rest:
            return parts
        if get_origin(inner) is dict:
            return [*parts[: depth + 1], ".".join(rest)]
        if not _is_model(inner):
            kind = "a list" if get_origin(inner) is list else "one value"
            name = ".".join(parts[: depth + 1])
            raise _set_error(f"unknown key '{key}': '{name}' holds {kind}; set it whole, --set {name}=…")
        current = inner
    return parts


def _set_error(problem: str) -> UsageError:
    return UsageError(ReasonCode.SET_UNKNOWN, problem, where="--set", next_step="Correct it and try again.")


def unknown_key(parts: Sequence[str | int], model: Model) -> str:
    """The error for an unknown key, with the nearest valid key of its section, or else of any section."""
    section, name, key = model_at(parts[:-1], model), str(parts[-1]), dotted(parts)
    names = list(fields_of(section)) if section is not None else []
    sibling = nearest(name, names)
    if sibling:
        return f"unknown key '{key}'; did you mean '{dotted([*parts[:-1], sibling])}'?"
    leaves = {full.rsplit(".", 1)[-1]: full for full in reversed(list(keys_of(model)))}
    anywhere = nearest(name, leaves)
    if anywhere:
        return f"unknown key '{key}'; did you mean '{leaves[anywhere]}'?"
    return f"unknown key '{key}'; known there: {', '.join(names)}"


def nearest(name: str, choices: Any) -> str:
    """The choice most similar to a name; "" if none is similar."""
    matches = difflib.get_close_matches(name.strip().lower().replace("-", "_"), list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def model_at(parts: Sequence[str | int], model: Model) -> Model | None:
    """The model of a place in the data; None for a value or inside a mapping of values."""
    current: Any = model
    for part in (part for part in parts if isinstance(part, str)):
        is_mapping = get_origin(current) is dict
        keys = fields_of(current) if _is_model(current) else {}
        inner = _unwrapped(get_args(current)[1] if is_mapping else keys.get(part))
        current = _unwrapped(get_args(inner)[0]) if get_origin(inner) is list else inner
    return current if _is_model(current) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrapped(annotation: Any) -> Any:
    """A type without `Annotated[…]` and `… | None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unwrapped(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return _unwrapped(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def explain(error: ValidationError, model: Model) -> str:
    """The first `MAXIMUM_SHOWN` errors of a validation, joined by '; ': key, expected value, actual value."""
    lines = [_sentence(one, model) for one in error.errors(include_url=False)]
    more = f"; and {len(lines) - MAXIMUM_SHOWN} more" if len(lines) > MAXIMUM_SHOWN else ""
    return "; ".join(lines[:MAXIMUM_SHOWN]) + more


_EXPECTED = {
    "int_type": "must be a whole number", "int_from_float": "must be a whole number", "float_type": "must be a number",
    "string_type": "must be text", "bool_type": "must be true or false", "list_type": "must be a list",
    "dict_type": "must be a mapping (key: value)", "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)", "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:g}", "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}", "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty", "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}  # fmt: skip


def _sentence(error: ErrorDetails, model: Model) -> str:
    place, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key = dotted(place)
    if place and place[-1] == "[key]":
        problem = "must be text: quote it" if kind == "string_type" else "is not a name that is allowed there"
        return f"{_described(error['input'])} as a key in '{dotted(place[:-2])}' {problem}"
    if kind == "invalid_key":
        return f"{_described(error['input'])} as a key in '{dotted(place[:-1]) or 'the file'}' must be text: quote it"
    if kind == "extra_forbidden":
        return unknown_key(place, model)
    if kind == "missing":
        return f"'{key}' is missing"
    if kind == "value_error":
        return f"'{key}' {context['error']}" if place else str(context["error"])
    value = _described(error["input"], hidden=not _SECRET_KEYS.isdisjoint(map(str, place)))
    if kind == "literal_error":
        match = nearest(str(error["input"]), re.findall(r"'([^']*)'", context["expected"]))
        return f"'{key}' must be {context['expected']}, got {value}" + (f"; did you mean '{match}'?" if match else "")
    expected = _EXPECTED.get(kind, "").format(**context) or f"is not accepted ({error['msg']})"
    quote = " (quote it)" if kind == "string_type" and isinstance(error["input"], (int, float)) else ""
    return f"'{key}' {expected}, got {value}{quote}"


def _described(value: Any, *, hidden: bool = False) -> str:
    """A value in words. A text with '@' or '://' may hold credentials and is not shown."""
    if value is None or isinstance(value, (bool, dict, list)):
        names = {type(None): "nothing", dict: "a mapping", list: "a list"}
        return names.get(type(value), str(value).lower())
    if isinstance(value, str):
        shown = not (hidden or "@" in value or "://" in value)
        return f"the text '{one_line(value, 60)}'" if shown else "text (not shown)"
    if hidden or not isinstance(value, (int, float)):
        return f"a value of type {type(value).__name__}"
    return f"the number {one_line(str(value), 60)}"
