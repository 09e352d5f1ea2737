"""Where snapshots are kept: a folder, or an object storage (S3, Google Cloud, Azure) with credentials by reference."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, ValidationError, model_validator

from helpers.errors import UsageError, hide, one_line
from helpers.parameters.endpoint import (
    FilePath,
    PageUrl,
    SecretRef,
    SecretReference,
    Section,
    lies_in,
    moved_with_workspace,
    resolve_path,
)
from helpers.reason_codes import ReasonCode

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "file": ""}
"""The URL schemes of storages, each with the package of its fsspec driver."""
FOLDERS = ("parts", "begun", "snapshots", "staged")  # the folders in a storage
STORED = ".stored"  # in the workspace: a folder for each storage; not a valid run id
_SECRETS = {"s3fs": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "gcsfs": (),
            "adlfs": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN",
                      "AZURE_CLIENT_SECRET", "AZURE_PASSWORD", "AZURE_CLIENT_CERTIFICATE_PASSWORD")}  # fmt: skip
_VARIABLES = {
    "s3fs": ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN",
             "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
             "AWS_CA_BUNDLE"),
    "gcsfs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"),
    "adlfs": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_USERNAME", "AZURE_AUTHORITY_HOST",
              "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"),
}  # fmt: skip  # variables that drivers read
_FILES = {
    "gcsfs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "adlfs": ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_CERTIFICATE_PATH"),
}
_OF_GOOGLE = "application_default_credentials.json"  # in which gcloud keeps its user's credentials
_MOST_BYTES = 2**20  # of a file of credentials
# keys in a connection string or SAS token
_IN_ANY = re.compile(r"(?i)(?:^|[;?&])(AccountKey|SharedAccessSignature|sig)=([^;&\s]+)")


def is_url(directory: str) -> bool:
    """Whether a directory of snapshots is a storage's URL."""
    return "://" in directory


def _checked_directory(text: str) -> str:
    if not is_url(text):
        return text
    scheme, shown = text.partition("://")[0], one_line(text.partition("?")[0].rpartition("@")[2], 80)
    if scheme not in DRIVERS:
        raise ValueError(f"must be a folder, or a URL of {', '.join(f'{name}://' for name in DRIVERS)}, got {shown!r}")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"is no URL ({error})") from None
    if parts.query or parts.fragment or "@" in parts.netloc or not text.isprintable() or any(map(str.isspace, text)):
        raise ValueError(
            "must not have a blank, a query, a fragment or credentials; credentials go into snapshot.storage"
        )
    if scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise ValueError(f"must be file:///FOLDER, got {shown!r}")
    if scheme != "file" and not parts.netloc:
        raise ValueError(f"names no bucket: {scheme}://BUCKET/PREFIX")
    if any(part in (".", "..") for part in parts.path.split("/")) or "//" in parts.path:
        raise ValueError("has an empty part, '.' or '..' in its path")
    return text.rstrip("/")


class Storage(Section):
    """How the storage of `snapshot.directory` is reached. Without credentials its driver looks for some, as those of a role."""

    endpoint_url: PageUrl | None = None
    """Address of a server that speaks S3; default: the provider's."""
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """Region of the bucket (S3)."""
    key: SecretReference | None = None
    """S3: id of the access key. Azure: name of the account."""
    secret: SecretReference | None = None
    """S3: secret access key. Azure: key of the account."""
    token: SecretReference | None = None
    """S3: token of a session. Google: `file:PATH` of the key file of a service account. Azure: SAS token."""

    patience_seconds: PositiveFloat = 180
    """How long a request is tried again where the storage does not answer, or says that it is busy."""

    def references(self) -> list[SecretRef]:
        """Every secret that it refers to."""
        return [reference for reference in (self.key, self.secret, self.token) if reference is not None]


def default_snapshots() -> str:
    """`workspace/snapshots`, or `snapshots` below RUNBOOK_WORKSPACE if that is set."""
    return moved_with_workspace("snapshots")


class SnapshotSection(Section):
    """Where snapshots are kept, and for how long."""

    directory: Annotated[FilePath, AfterValidator(_checked_directory)] = Field(
        default_factory=default_snapshots, json_schema_extra={"default": "workspace/snapshots"}
    )
    """Folder of all snapshots, one sub-folder each; or s3://BUCKET/PREFIX, or a URL of gs, az or file. Where it is not given,
    RUNBOOK_WORKSPACE moves it."""
    storage: Storage | None = None
    """How a directory that is a URL is reached."""
    retention_days: Annotated[int, Field(ge=7, le=36_500)] = 7
    """Days until a snapshot may be pruned, 7 at least."""

    @model_validator(mode="after")
    def _fits_the_directory(self) -> SnapshotSection:
        storage, driver = self.storage, self.driver
        if storage is None:
            return self
        if not driver:
            raise ValueError("has a section storage, but its directory is no URL that needs one")
        if (storage.endpoint_url or storage.region) and driver != "s3fs":
            raise ValueError("has storage.endpoint_url or region, which S3 has only")
        if driver == "s3fs" and (
            (storage.key is None) != (storage.secret is None) or (storage.token and not storage.key)
        ):
            raise ValueError("has a part of a key in storage; S3 wants key and secret, and token only beside them")
        if driver == "gcsfs" and (storage.key or storage.secret or (storage.token and storage.token.kind != "file")):
            raise ValueError("has storage.key or secret, or a token that is no file; Google wants token: file:PATH")
        if driver == "adlfs" and not storage.key:
            raise ValueError("has no storage.key; Azure wants key (the account), and secret or token")
        return self

    @property
    def driver(self) -> str:
        """The package of the storage's driver; "" if none is needed."""
        return DRIVERS[self.directory.partition("://")[0]] if is_url(self.directory) else ""

    @property
    def folder(self) -> Path:
        """The folder in which snapshots are written and read, absolute; for a storage, a folder in the workspace."""
        if not is_url(self.directory):
            return resolve_path(self.directory)
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.directory)[-40:].strip("-")
        digest = hashlib.sha256(
            f"{(self.storage and self.storage.endpoint_url) or ''} {self.directory}".encode()
        ).hexdigest()[:12]
        return resolve_path(moved_with_workspace(STORED)) / f"{name}-{digest}"

    def contradictions(self, staging: str) -> Iterator[str]:
        """Yield the contradiction to `migration.staging`, if there is one."""
        if staging == "storage" and not is_url(self.directory):
            yield "'migration.staging' is storage, but 'snapshot.directory' is a folder; name a URL there, or workspace"

    def overlaps(self, path: str) -> bool:
        """Whether one of its folders lies inside `path`, or, for a file:// URL, contains it."""
        if not self.directory.startswith("file://"):
            return lies_in(str(self.folder), path)
        place = unquote(urlsplit(self.directory).path)
        folders = [f"{place}/{name}" for name in FOLDERS]
        return any(lies_in(folder, path) for folder in (str(self.folder), place, *folders)) or any(
            lies_in(path, folder) for folder in folders
        )

    def secrets(self) -> list[SecretRef]:
        """The secrets that its storage refers to, and those that its driver reads from the environment.

        Google's key file is left out: its driver opens it (see `secrets_of_files`).
        """
        given = self.storage.references() if self.storage else []
        references = [ref for ref in given if not (ref.kind == "file" and self.driver == "gcsfs")]
        # Azure's driver reads what is not given from the environment.
        names = _SECRETS.get(self.driver, ()) if not given or self.driver == "adlfs" else ()
        return [
            *references,
            *(ref for name in names if os.environ.get((ref := SecretRef("env", name)).name, "").strip()),
        ]

    def secrets_of_files(self) -> dict[str, str]:
        """The secrets in files of credentials that its driver opens, and the keys within those of `secrets`, by name.

        An unreadable file has none here: the driver reports it.
        """
        secrets = dict[str, str]()
        for ref in self.secrets() if self.driver == "adlfs" else ():
            with suppress(UsageError):
                for match in _IN_ANY.finditer(ref.resolve().reveal()):
                    secrets[f"{match[1]} of {ref}"] = unquote(match[2])
        token = self.storage and self.storage.token
        paths = [Path(text) for name in _FILES.get(self.driver, ()) if (text := os.environ.get(name, "").strip())]
        if self.driver == "gcsfs":
            paths += [Path(token.name)] if token else []
            paths.append(Path(os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud", _OF_GOOGLE))
        for path in paths:
            with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home
                if path.is_file() and path.stat().st_size <= _MOST_BYTES:
                    secrets |= _keys_of(path.name, path.read_text(encoding="utf-8"))
        return secrets

    def variables(self) -> set[str]:
        """Environment variables, other than secrets, that its driver may read."""
        return set(_VARIABLES.get(self.driver, ()))

    def file_system(self, tries: int, sessions: Callable[[], type] | None = None) -> Any:
        """The fsspec file system of its storage; each request is tried `tries` times; `sessions` gives S3's session class.

        Raises `ImportError` if the driver is missing, `UsageError` for a missing secret.
        """
        import fsspec  # only needed for a storage

        for where, value in self.secrets_of_files().items():
            hide(value, f"<{where}>")
        storage, scheme = self.storage or Storage(), self.directory.partition("://")[0]
        references = {name: ref for name in ("key", "secret", "token") if (ref := getattr(storage, name)) is not None}
        if self.driver == "gcsfs":
            return fsspec.filesystem(scheme, token=storage.token.name if storage.token else None)
        secrets = {name: ref.resolve().reveal() for name, ref in references.items()}
        if self.driver == "adlfs":
            names = {"key": "account_name", "secret": "account_key", "token": "sas_token"}
            return fsspec.filesystem(scheme, **{names[name]: text for name, text in secrets.items()})
        if self.driver != "s3fs":
            return fsspec.filesystem(scheme)
        config: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
        config |= {"retries": {"mode": "standard", "total_max_attempts": tries}}
        config |= {"http_session_cls": sessions()} if sessions else {}
        if storage.endpoint_url:  # self-hosted servers seldom have a host name for each bucket
            config |= {"s3": {"addressing_style": "path"}}
        region = {"region_name": storage.region} if storage.region else {}
        file_system = fsspec.filesystem(
            scheme, **secrets, endpoint_url=storage.endpoint_url, client_kwargs=region, config_kwargs=config,
            use_listings_cache=False,
        )  # fmt: skip
        file_system.retries = 1  # s3fs's own retries; botocore makes the `tries`
        if not secrets:
            _hide_driver_credentials(file_system)
        return file_system


def _keys_of(name: str, text: str) -> dict[str, str]:
    """The secrets in a file of credentials, by name: JSON's keys and tokens, PEM keys; of another text, all of it."""
    pairs: list[tuple[str, Any]] = []
    try:
        json.loads(text, object_pairs_hook=pairs.extend)
    except ValueError:
        pairs = [("private_key" if "-----BEGIN" in text else "token", text.strip())]
    secrets = dict[str, str]()
    for number, (key, value) in enumerate(pairs):
        if key in _SECRET_KEYS and isinstance(value, str):
            secrets[f"{key} of {one_line(name, 60)}, {number}"] = value
            for at, body in enumerate(_PEM.findall(value)):
                secrets[f"{key} of {one_line(name, 60)}, {number}.{at}"] = "".join(body.split())
    return secrets


_SECRET_KEYS = ("private_key", "client_secret", "refresh_token", "access_token", "id_token", "token")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END")


def _hide_driver_credentials(s3: Any) -> None:
    """Hide the credentials that the driver found by itself in all later output of this process."""
    from fsspec.asyn import sync

    s3.connect()
    if (credentials := sync(s3.loop, s3.session.get_credentials)) is not None:
        frozen = sync(s3.loop, credentials.get_frozen_credentials)
        for name, value in (("key", frozen.access_key), ("secret", frozen.secret_key), ("token", frozen.token)):
            if value:
                hide(value, f"<{name} of the driver>")


def rules_of(directory: str, storage: Mapping[str, str]) -> SnapshotSection:
    """The section for a command's `--directory` and `--storage`. Raises `UsageError` for invalid values."""
    try:
        return SnapshotSection.model_validate({"directory": directory, **({"storage": storage} if storage else {})})
    except ValidationError as error:  # str(error) can repeat the input; these messages do not
        details = error.errors(include_input=False, include_url=False)[0]
        where = f"--storage {one_line(str(details['loc'][-1]), 40)}" if "storage" in details["loc"] else "--directory"
        raise UsageError(ReasonCode.USAGE, f"{where} {details['msg'].removeprefix('Value error, ')}") from None
