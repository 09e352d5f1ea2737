"""Where snapshots are kept: a folder, or an object storage (S3, Google Cloud, Azure) with credentials by reference."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
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
                      "AZURE_CLIENT_SECRET")}  # fmt: skip
_VARIABLES = {
    "s3fs": ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN",
             "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
             "AWS_CA_BUNDLE"),
    "gcsfs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"),
    "adlfs": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"),
}  # fmt: skip  # variables that drivers read


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
        """The secrets that its storage refers to; without any, those that its driver reads from the environment.

        Google's key file is left out: its driver opens it, and its text is not a secret to search for.
        """
        given = self.storage.references() if self.storage else []
        references = [ref for ref in given if not (ref.kind == "file" and self.driver == "gcsfs")]
        variables = [] if given else [SecretRef("env", name) for name in _SECRETS.get(self.driver, ())]
        return [*references, *(ref for ref in variables if os.environ.get(ref.name, "").strip())]

    def variables(self) -> set[str]:
        """Environment variables, other than secrets, that its driver may read."""
        return set(_VARIABLES.get(self.driver, ()))

    def file_system(self, tries: int) -> Any:
        """The fsspec file system of its storage; each request is tried `tries` times. Raises `ImportError` if the driver is
        missing, `UsageError` for a missing secret."""
        import fsspec  # only needed for a storage

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
