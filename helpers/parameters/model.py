"""The parameters of a run: one typed model for the command, the notebooks and editors, checked before anything starts.

`load_parameters` reads a file, `parameters_from` takes the sections that papermill injected; both take `--set`
overrides and raise one UsageError line for whatever is wrong. Defaults live in the model, so four lines (`name`,
`source`, `target`, `schema`) are a whole file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from helpers.errors import RUNBOOK, UsageError, hide, one_line
from helpers.parameters.endpoint import Endpoint, Secret, SecretRef, Section, lies_in, overlap, resolve_path
from helpers.parameters.sections import (
    ROLES,
    Collections,
    ComposeFile,
    Contacts,
    Cutover,
    EnvFile,
    Expected,
    Fence,
    Label,
    Migration,
    Monitoring,
    NamedQuery,
    Notify,
    Role,
    Rollback,
    SignOff,
    SnapshotSection,
    Validation,
    Window,
    is_placeholder,
    template_places,
)
from helpers.parameters.yaml_errors import explain, nearest, parse_yaml, read_yaml_mapping, split_key
from helpers.reason_codes import ReasonCode

__all__ = [
    "IDENTITY", "RESUMABLE", "ROLES", "SECTIONS", "ComposeFile", "Endpoint", "EnvFile", "NamedQuery", "Parameters",
    "Role", "Secret", "SecretRef", "is_placeholder", "is_sample", "json_schema", "load_parameters", "parameters_from",
    "resolve_path", "schema_file", "schema_names",
]  # fmt: skip

PARAMETERS = Path(__file__).resolve().parents[2] / "parameters"
IDENTITY = "identity"
RESUMABLE = (
    "migration.batch_size", "migration.workers", "source.timeout_seconds", "target.timeout_seconds",
    "fence.timeout_seconds", "cutover.timeout_seconds", "signoff.allowed_signers", "fence.at_closeout",
    "expected.target_disk", "expected.target_disk.free_gb", "expected.target_disk.attested_by",
    *(f"monitoring.{key}" for key in Monitoring.model_fields), *(f"window.{key}" for key in Window.model_fields),
    *(f"contacts.{key}" for key in Contacts.model_fields), "notify.stakeholders", "notify.impact", "notify.affected",
    "notify.by_hand",
)  # fmt: skip
"""What `runbook resume --set` may change; everything else would make it another migration."""
_PLACEHOLDER = re.compile(r"<[^<>]+>")
_FOR_PEOPLE = (
    "contacts.",
    "notify.stakeholders",
    "notify.impact",
    "notify.affected",
    "notify.by_hand",
    "window.blackout",
)


def schema_names() -> list[str]:
    """The schemas that can be given by name."""
    return [IDENTITY, *sorted(path.stem for path in (PARAMETERS / "schemas").glob("*.yaml"))]


def schema_file(name_or_path: str) -> Path | None:
    """The file of a schema given by name or path; None for `identity`. ValueError where there is none."""
    if name_or_path == IDENTITY:
        return None
    if name_or_path in schema_names():
        return PARAMETERS / "schemas" / f"{name_or_path}.yaml"
    try:
        if resolve_path(name_or_path).is_file():
            return resolve_path(name_or_path)
    except (OSError, ValueError):
        pass  # a name that no file can have
    match = nearest(name_or_path, schema_names())
    hint = f"did you mean '{match}'?" if match else f"known: {', '.join(schema_names())}, or the path of a schema file"
    raise ValueError(f"names no schema: '{one_line(name_or_path, 80)}'; {hint}")


def _known_schema(name: str) -> str:
    schema_file(name)
    return name


class Parameters(Section):
    """All parameters of a run, by section. Immutable, complete with defaults, and free of contradictions."""

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
    def _functions_of_the_target(cls, given: Any) -> Any:
        """The target's collections keep the functions of the source's."""
        source, target = (given.get(side) if isinstance(given, dict) else None for side in ("source", "target"))
        if not isinstance(source, dict) or not isinstance(target, dict) or "embedding_functions" in target:
            return given
        if not source.get("embedding_functions"):
            return given
        return {**given, "target": {**target, "embedding_functions": source["embedding_functions"]}}

    @model_validator(mode="after")
    def _no_contradictions(self) -> Parameters:
        found = list(self._contradictions())
        if found:
            raise ValueError("; ".join(found))
        return self

    def _contradictions(self) -> Iterator[str]:
        same = overlap(self.source, self.target)
        if same:
            yield f"'source' and 'target' {same}"
        if self.target.rename:
            yield "'target.rename' means nothing: only a source of Chroma 0.3 has two collections of one name"
        for side in ("source", "target"):
            path = getattr(self, side).path
            if path is not None and not same and lies_in(self.snapshot.directory, path):
                yield f"'snapshot.directory' lies inside '{side}.path', which must hold the database only"
        if self.fence.kind == "nginx" and self.source.is_embedded:
            yield "'fence.kind' is nginx, but 'source' is a directory, before which no proxy can stand; command or none"
        for name in self.expected.collections:
            if not self.collections.selects(name):
                yield f"'expected.collections' counts '{one_line(name, 80)}', which 'collections' leaves out"
        values = [value for file in self.cutover.config_files() for value in file.keys.values()]
        for place in sorted(set().union(*map(template_places, values)) - set(self.target.template_values())):
            kind = "a directory" if self.target.is_embedded else "a server"
            yield f"'cutover' writes {{{place}}} into a file, but 'target' is {kind}, which has none"

    def document(self) -> dict[str, Any]:
        """The resolved parameters with every default, as JSON has them; secrets as references; unset keys left out.

        `parameters_from(p.document()) == p`.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def context(self) -> dict[str, Any]:
        """What a resume must find unchanged. Paths are absolute: the same words in another folder are another place."""
        ordered = self.migration.model_dump(mode="json", include={"reembed", "reembed_config"})
        return {
            "source": _identity(self.source),
            "target": _identity(self.target),
            "schema": str(resolve_path(self.schema_name)) if self._schema_is_path else self.schema_name,
            "collections": self.collections.model_dump(mode="json"),
            "id_policy": self.migration.id_policy,
            **(ordered if self.migration.reembed else {}),
            **({"normalised": self.migration.normalised} if self.migration.normalised != "quarantine" else {}),
            **({"drop_indexes": self.migration.drop_indexes} if self.migration.drop_indexes else {}),
        }

    @property
    def _schema_is_path(self) -> bool:
        return self.schema_name not in schema_names()

    def digest(self) -> str:
        """SHA-256 (hex) of the resolved parameters in canonical JSON."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def secrets(self) -> list[SecretRef]:
        """Every secret that the parameters refer to, once each, sorted."""
        found = {*self.source.headers.values(), *self.target.headers.values(), *self.notify.urls}
        return sorted(found, key=str)

    def hide_secrets(self) -> None:
        """From now on nothing that this process shows holds a secret of these parameters, or of the files that they change."""
        for reference in self.secrets():
            with suppress(UsageError):  # not there: whoever needs it says so
                reference.resolve()
        for where, value in self.secrets_of_files().items():
            hide(value, f"<secret {where}>")

    def secrets_of_files(self) -> dict[str, str]:
        """Secrets in the files that the cutover changes; what the parameters themselves name is none."""
        named = json.dumps(self.document(), ensure_ascii=False)
        return {where: value for where, value in self.cutover.secret_values().items() if value not in named}

    def environment(self) -> list[str]:
        """Every environment variable that the parameters name, once each, sorted: a step's kernel gets those and no others."""
        functions = [*self.source.embedding_functions, *self.target.embedding_functions]
        named = {ref.name for ref in self.secrets() if ref.kind == "env"}
        named |= {name for function in functions for name in function.environment()}
        named |= {str(v) for k, v in self.migration.reembed_config.items() if k.endswith("env_var")}
        return sorted(named)

    def placeholders(self) -> list[str]:
        """Keys whose text is still `<…>`, to be named before the migration; secrets are not looked into."""
        return sorted(key for key, value in _leaves(self.document()) if _is_open(key, str(value)))

    def for_resume(self, overrides: Sequence[str]) -> Parameters:
        """These parameters with what a resume may change changed. UsageError for any other key."""
        for override in overrides:
            key = ".".join(_parsed(override)[0])
            if key not in RESUMABLE:
                what = f"a resume cannot change '{key}'"
                whole = {f"{name}.*": f"{name}." for name in ("monitoring", "window", "contacts")}
                named = [k for k in RESUMABLE if not k.startswith(tuple(whole.values()))]
                next_step = f"It may change {', '.join([*named, *whole])}; for anything else start a new run."
                raise UsageError(ReasonCode.RESUME_CONTEXT, what, where="--set", next_step=next_step)
        return parameters_from(self.document(), overrides)


SECTIONS: tuple[str, ...] = tuple(field.alias or name for name, field in Parameters.model_fields.items())
"""The top-level keys, in the order of the file."""


_NO_IDENTITY = {"timeout_seconds", "url", "path", "cloud", "embedding_functions"}


def _identity(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint without what may change from try to try (the time-out). A run of an older toolkit knows no `rename`."""
    facts = endpoint.model_dump(mode="json", exclude_none=True, exclude=_NO_IDENTITY)
    if not endpoint.rename:
        del facts["rename"]
    place = str(resolve_path(endpoint.path)) if endpoint.path is not None else endpoint.address
    return {"place": place, **facts}


def _is_open(key: str, text: str) -> bool:
    """Whole texts anywhere; in what people are sent, a part of one too."""
    return bool(_PLACEHOLDER.fullmatch(text.strip())) or (key.startswith(_FOR_PEOPLE) and is_placeholder(text))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{at}]")
    else:
        yield key, value


def load_parameters(path: Path, overrides: Sequence[str] = ()) -> Parameters:
    """The parameters in a YAML file, with `a.b=VALUE` overrides. UsageError, in one line, for whatever is wrong."""
    where = f"{path} with --set" if overrides else str(path)
    next_step = f"Correct it, then check it with: {RUNBOOK} schema {path}"
    return _validated(_overridden(read_yaml_mapping(path), overrides), where, next_step)


def parameters_from(sections: Mapping[str, Any], overrides: Sequence[str] = ()) -> Parameters:
    """Parameters from sections, such as a notebook's variables; `{}`, None and "" stand for a section's defaults.

    With neither source nor target they are those of the small sample (`is_sample`), which other sections may change.
    """
    document = _overridden(sections, overrides)
    if is_sample(document):
        document = _sample(document)
    return _validated(document, "", "Correct the parameters and try again.")


def is_sample(sections: Mapping[str, Any]) -> bool:
    """Whether neither source nor target is given, so that the small sample is used instead."""
    return not sections.get("source") and not sections.get("target")


def _sample(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The rehearsal's parameters on the small sample's own folders, without counts; given sections go over them."""
    base = read_yaml_mapping(PARAMETERS / "rehearsal.yaml") | {
        "name": "sample",
        "source": {"path": "workspace/sample/source"},
        "target": {"path": "workspace/sample/target"},
        "expected": {},
    }
    for name, value in sections.items():
        below = base.get(name)
        if not _is_default(value):
            base[name] = below | value if isinstance(below, dict) and isinstance(value, dict) else value
    return base


def _is_default(value: Any) -> bool:
    return value is None or value == {} or value == ""


def _validated(document: Mapping[str, Any], where: str, next_step: str) -> Parameters:
    given = {name: value for name, value in document.items() if name not in SECTIONS or not _is_default(value)}
    try:
        return Parameters.model_validate(given)
    except ValidationError as error:
        problem = explain(error, Parameters)
    # Raised out here: pydantic's error holds the input, which a chained traceback could show.
    raise UsageError(ReasonCode.PARAMETERS_INVALID, problem, where=where, next_step=next_step)


def _overridden(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(document))
    for override in overrides:
        parts, value = _parsed(override)
        place = changed
        for at, part in enumerate(parts[:-1]):
            place[part] = place[part] if not _is_default(place.get(part)) else {}
            place = place[part]
            if not isinstance(place, dict):
                key = ".".join(parts[: at + 1])
                raise _malformed(f"'{key}' is not a mapping in the file, so '{'.'.join(parts)}' cannot be set")
        place[parts[-1]] = value
    return changed


def _parsed(override: str) -> tuple[list[str], Any]:
    """`a.b=VALUE` as the parts of a known key and the value read as YAML."""
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
        # A '#' begins a comment in YAML; on a command line it is a character like any other.
        commented = "#" in plain and plain[0] not in "'\"" and (value is None or isinstance(value, str))
        return parts, plain if commented else value
    raise _malformed(f"the value of --set {key}=… is not YAML")


def _malformed(what: str) -> UsageError:
    next_step = "Write --set section.key=VALUE, with quotes around a value that has blanks or braces."
    return UsageError(ReasonCode.SET_MALFORMED, what, next_step=next_step)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a parameters file, for editors; parameters/parameters.schema.json is a copy."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | Parameters.model_json_schema(by_alias=True)
