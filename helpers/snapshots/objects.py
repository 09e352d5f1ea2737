"""The objects of a storage, one request at a time, with retries, a time limit, and errors in words of our own.

Whoever runs a storage, or can write there, decides its answers. So nothing of its text is shown: it may repeat a credential
that it was sent. Only names that a snapshot uses count. In a folder (file://) only plain files are objects, and no folder of the
storage may be a link: through it, files of somebody else would be written and removed.
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from helpers import audit
from helpers.errors import RunbookError, Terminal, Transient, UsageError, one_line, redacted
from helpers.formatting import count as counted
from helpers.parameters.snapshots import FOLDERS, SnapshotSection, Storage
from helpers.reason_codes import ReasonCode
from helpers.results import MOST_READ, file_digest, is_leftover, shortage, write_bytes, writing

if TYPE_CHECKING:
    import tenacity  # on first use: `status` does not wait for it

T = TypeVar("T")
TRIES = 3  # tries of a driver before this module waits
LONGEST_PAUSE = 20  # seconds
BROKEN_OFF = timedelta(days=1)  # an upload in pieces that began earlier is taken to have ended
CHUNK = 16 * 2**20  # bytes: a file of twice this size is sent in pieces of this size
MOST_ANSWER = 16 * 2**20  # bytes of a page of a list (1,000 names of at most 1,024 bytes), or of an error
MOST_ANSWERED = 512 * 2**20  # bytes of all pages of a list: about a million names
LEAST = 15  # seconds: the shortest time limit of a request
SLOWEST = 100_000  # bytes per second: the slowest transfer for which a request gets more time
PART = re.compile(r"([0-9a-f]{64})\.parquet")
STAGED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}/[0-9a-f]{64}\.parquet")  # as `remote.folder_of`
MANIFEST = re.compile(r"(?!.*\.(?:partial|lock|jsonl?)\.json)([A-Za-z0-9_][A-Za-z0-9._-]{0,199})\.json")  # not as ours
_REFUSALS = ("Credential", "ProfileNotFound", "TokenRetrieval", "TokenLoad")  # in names of errors of drivers
_CODES = re.compile(
    "AccessDenied|AccountProblem|AllAccessDisabled|AuthorizationHeaderMalformed|BadDigest|EntityTooLarge|ExpiredToken|"
    "IncompleteBody|InternalError|InvalidAccessKeyId|InvalidArgument|InvalidBucketName|InvalidDigest|InvalidObjectState|"
    "InvalidPart|InvalidRange|InvalidRequest|InvalidSecurity|InvalidToken|KeyTooLongError|MalformedXML|MethodNotAllowed|"
    "MissingContentLength|NoSuchBucket|NoSuchKey|NoSuchUpload|NotImplemented|OperationAborted|PermanentRedirect|"
    "PreconditionFailed|QuotaExceeded|Redirect|RequestTimeTooSkewed|RequestTimeout|ServiceUnavailable|SignatureDoesNotMatch|"
    "SlowDown|TemporaryRedirect|TokenRefreshRequired|XMinioStorageFull"
)  # error codes of S3 that may be shown


class Objects:
    """The storage of `rules`, which is a URL. Every method raises `UsageError` where the storage refuses, `Transient` where it
    does not answer within `patience_seconds`, each in one line that names the storage."""

    def __init__(self, rules: SnapshotSection, folder: Path | None = None) -> None:
        self.rules, self.url, self.folder = rules, rules.directory, folder or rules.folder
        self._end = threading.Event()  # ends the waiting of requests in other threads

    @cached_property
    def _fs(self) -> Any:
        return self.rules.file_system(TRIES, _bounded_sessions)

    @property
    def _patience(self) -> float:
        return (self.rules.storage or Storage()).patience_seconds

    def _list(self, folder: str, kind: str = "file") -> dict[str, int]:
        """Return bytes by name of the files, or of each `directory` 0; {} where the folder is missing."""

        def listed(fs: Any, path: str) -> dict[str, int]:
            try:
                entries = fs.ls(path, detail=True)
            except FileNotFoundError:  # nothing has been put there
                return {}
            files = (entry for entry in entries if entry["type"] == kind and not entry.get("islink"))
            return {str(entry["name"]).rstrip("/").rpartition("/")[2]: int(entry["size"] or 0) for entry in files}

        return self._call("list", folder, listed)

    def _read(self, name: str) -> bytes:
        def read(fs: Any, path: str) -> bytes:
            if (size := int(fs.info(path)["size"])) > MOST_READ:
                raise Terminal(ReasonCode.SNAPSHOT_UNREADABLE, f"has {size:,} bytes", where=f"{self.url}/{name}")
            return read_small(MOST_READ, self.rules.driver, fs, path)

        return self._call("read", name, read)

    def _write(self, name: str, data: bytes) -> None:
        def put(fs: Any, path: str) -> object:
            return fs.pipe_file(path, data) if self.rules.driver else write_bytes(Path(path), data)

        self._call("put", name, put, moves=len(data))

    def _remove(self, name: str) -> None:
        def remove(fs: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                fs.rm_file(path)

        self._call("remove", name, remove)

    def _uploads(self, folder: str) -> list[dict[str, Any]]:
        """Return the unfinished uploads of our files to S3, those of other applications left out."""
        bucket, prefix = urlsplit(self.url).netloc, f"{urlsplit(self.url).path}/{folder}/".lstrip("/")
        answer = self._call(
            "list", folder, lambda fs, _: fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        )
        pattern = {"parts": PART, "staged": STAGED}.get(folder, MANIFEST)
        return [
            upload for upload in answer.get("Uploads", ())
            if upload["Key"].startswith(prefix) and pattern.fullmatch(upload["Key"].removeprefix(prefix))
        ]  # fmt: skip

    def _abort(self, key: str, upload: str) -> None:
        about = {"Bucket": urlsplit(self.url).netloc, "Key": key, "UploadId": upload}

        def abort(fs: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                fs.call_s3("abort_multipart_upload", **about)

        self._call("remove", key, abort)

    def _unfinished_uploads(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Return what `broken_off` gives, and a sentence where the storage refuses the request."""
        try:
            return self.broken_off(), []
        except UsageError as error:
            return [], [f"{self.url}: whether uploads were broken off is not known: {error.what}"]

    def broken_off(self) -> list[tuple[str, str]]:
        """Return (key, id) of uploads in pieces that never ended; they are no file. Google and Azure remove them."""
        since = datetime.now(UTC) - BROKEN_OFF
        if self.rules.driver == "s3fs":
            pending = [each for where in FOLDERS for each in self._uploads(where)]
            return [(each["Key"], each["UploadId"]) for each in pending if each["Initiated"] < since]
        if self.rules.driver:
            return []
        root = Path(root_of(self.url))
        folders = ["parts", *(f"staged/{name}" for name in self._list("staged", "directory"))]
        files = (path for where in folders if self._list(where) is not None for path in (root / where).glob(".*.tmp"))
        old = (path for path in files if path.lstat().st_mtime < since.timestamp())
        return [(path.relative_to(root).as_posix(), "") for path in old if is_leftover(path.name)]

    def _damaged(self, name: str, what: str) -> Terminal:
        return Terminal(ReasonCode.SNAPSHOT_DAMAGED, what, where=f"{self.url}/{name}",
                        next_step="Bring back this object from a version or a copy of it, or use another snapshot.")  # fmt: skip

    def _unusable(
        self, what: str, next_step: str = "Correct snapshot.directory or its storage, then repeat."
    ) -> UsageError:
        return UsageError(ReasonCode.STORAGE_UNUSABLE, what, where=self.url, next_step=next_step)

    def _call(
        self, action: str, name: str, request: Callable[[Any, str], T], is_part: bool = False, moves: int = 0
    ) -> T:
        """Return what `request` gives for the file system and the path of `name`; retry, with growing pauses, after `Transient`.

        `is_part`: `name` is a file of chunks, which must exist. `moves`: the bytes that are sent or brought.
        """
        import tenacity

        from helpers.stores.limits import within  # with httpx

        path = f"{root_of(self.url)}/{name}"
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE),
            stop=tenacity.stop_after_delay(self._patience) | tenacity.stop_when_event_set(self._end),
            sleep=tenacity.sleep_using_event(self._end),
            before_sleep=self._say_that_it_waits,
            reraise=True,
        ):
            with attempt:
                try:
                    if self.rules.driver:
                        seconds = max(self._patience, LEAST) + moves / SLOWEST
                        bounded = partial(_with_ceiling, request, self._fs, path)
                        return within(seconds, bounded, TimeoutError(errno.ETIMEDOUT, ""))
                    self._require_plain(name, action)
                    answer = request(self._fs, path)
                    self._require_plain(name, action)  # a folder may have become a link meanwhile
                    return answer
                except RunbookError:
                    raise
                except (
                    Exception
                ) as error:  # what drivers raise has many names; its text would be in a trace of the cause
                    raise self._meaning(error, action, name, is_part) from None
        raise AssertionError("tenacity reraises")

    def _require_plain(self, name: str, action: str) -> None:
        """Require of a storage in a folder that each folder of `name` is a folder and no link, and `name` a plain file.

        With the action "put", `name` may be anything: the new file replaces it.
        """
        top, path = Path(root_of(self.url)), Path(root_of(self.url), name)
        for place in [path, *path.parents][: len(path.parts) - len(top.parts)]:
            with suppress(FileNotFoundError):
                mode, is_last = os.lstat(place).st_mode, place == path
                if stat.S_ISDIR(mode) if not is_last or action == "list" else stat.S_ISREG(mode) or action == "put":
                    continue
                if is_last and "/" in name:
                    raise Terminal(ReasonCode.SNAPSHOT_UNREADABLE, "it is no plain file", where=f"{self.url}/{name}")
                kind = "a link" if stat.S_ISLNK(mode) else "no plain file" if is_last else "no folder"
                raise self._unusable(
                    f"{place.relative_to(top)} there is {kind}", "Find out who made it, and remove it."
                )

    def _say_that_it_waits(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and sys.stderr.isatty():
            print(f"{self.url} does not answer; it is asked again for {self._patience:g} seconds.", file=sys.stderr)

    def _meaning(self, error: Exception, action: str, name: str, is_part: bool) -> RunbookError:
        """Return the error, in one line, for what a driver raised."""
        if isinstance(error, ImportError):  # of Python, not of a storage
            package, reason = self.rules.driver or "fsspec", one_line(f"{type(error).__name__}: {error}", 240)
            return self._unusable(
                f"its driver is not installed ({reason})", f"Install it: .venv/bin/pip install {package}"
            )
        kind = _kind(error)
        if isinstance(error, Longer):
            problem = f"more than {error.most:,} bytes come of it, and it can have no more"
            unreadable = Terminal(ReasonCode.SNAPSHOT_UNREADABLE, problem, where=f"{self.url}/{name}",
                                  next_step="Nothing of it was kept. Find out who runs this storage.")  # fmt: skip
            return self._damaged(name, problem) if is_part else unreadable
        if isinstance(error, FileNotFoundError) and is_part:
            return self._damaged(name, "it is not in the storage any more")
        if isinstance(error, FileNotFoundError) and "/" in name and action != "put":
            return Terminal(ReasonCode.SNAPSHOT_UNREADABLE, "it is not in the storage", where=f"{self.url}/{name}")
        if isinstance(error, FileNotFoundError):
            return self._unusable(f"the bucket, container or folder is not there, or may not be seen ({kind})")
        if isinstance(error, PermissionError) or any(word in type(error).__name__ for word in _REFUSALS):
            where = name or "it"
            return self._unusable(f"it refuses to {action} {where} with these credentials ({kind})",
                                  "Correct what snapshot.storage refers to, or that user's rights, then repeat.")  # fmt: skip
        if (disk_full := shortage(error, self.folder)) is not None:
            return disk_full
        is_rejected = isinstance(error, OSError) and error.errno in (
            errno.EINVAL,
            errno.ENAMETOOLONG,
            errno.EPERM,
            errno.ENOSYS,
        )
        if is_rejected or isinstance(error, ValueError) or "Validation" in type(error).__name__:
            return self._unusable(f"it does not take the request to {action} {name or 'it'} ({kind})")
        return Transient(
            ReasonCode.STORAGE_UNUSABLE, f"no answer that is of use to {action} {name or 'it'} ({kind})", where=self.url,
            next_step="What was put there stays, and nothing half counts. Once it answers, repeat the command or resume.",
        )  # fmt: skip


def _kind(error: BaseException) -> str:
    """Describe an error by its class and its known number, status and code, without its text."""
    words = [type(error).__name__]
    if isinstance(error, OSError) and error.errno:
        words.append(os.strerror(error.errno))
    for source in (error, error.__cause__):
        answer = getattr(source, "response", None)
        if isinstance(answer, Mapping):
            code, status = answer.get("Error", {}).get("Code"), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            words += [f"status {status}"] if type(status) is int and 100 <= status <= 599 else []
            words += [code] if isinstance(code, str) and _CODES.fullmatch(code) else []
    return ", ".join(dict.fromkeys(words))


def matching(pattern: re.Pattern[str], names: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the pattern's first group for each name that matches, with its bytes; without names that hold a known secret."""
    return (
        (match[1], size)
        for name, size in names.items()
        if (match := pattern.fullmatch(name)) and redacted(name) == name
    )


def part_name(sha256: str) -> str:
    """Return the name of the file of chunks with this digest."""
    return f"parts/{sha256}.parquet"


def root_of(url: str) -> str:
    """Return the path of a storage for its driver; of a disk, its folder."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else url.partition("://")[2]


def send_missing(file: Path, driver: str, fs: Any, path: str) -> None:
    """Do `send`, unless the file is there with its size."""
    with suppress(FileNotFoundError):
        if int(fs.info(path)["size"]) == file.stat().st_size:
            return
    send(file, driver, fs, path)


def send(file: Path, driver: str, fs: Any, path: str) -> None:
    """Put a file there, whole or not at all."""
    if driver == "":  # a disk shows a file that is being written, a storage of objects does not
        with writing(Path(path)) as temporary:
            shutil.copyfile(file, temporary)
    elif driver == "s3fs":
        fs.put_file(str(file), path, chunksize=CHUNK, max_concurrency=1)
    else:
        fs.put_file(str(file), path)


class Longer(Exception):
    """An object gives more than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


_remaining: ContextVar[list[int]] = ContextVar(
    "remaining"
)  # bytes of whole answers that the current request may still read


def _with_ceiling(request: Callable[[Any, str], T], fs: Any, path: str) -> T:
    """Do the request and read its answers up to `MOST_ANSWERED` bytes: its driver works in a copy of this context."""
    _remaining.set([MOST_ANSWERED])
    return request(fs, path)


@cache
def _bounded_sessions() -> type:
    """Return sessions for S3's driver that end an answer read as a whole (a page of a list, an error) with `Longer`."""
    from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped]
    from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

    class Answer(AioAWSResponse):  # type: ignore[misc]
        data: bytes | None = None

        @property
        def content(self) -> Awaitable[bytes]:
            return self._whole()

        async def _whole(self) -> bytes:
            if self.data is None:
                data, remaining = bytearray(), _remaining.get([MOST_ANSWERED])
                async for piece in self.raw.content.iter_any():
                    data += piece
                    remaining[0] -= len(piece)
                    if len(data) > MOST_ANSWER or remaining[0] < 0:
                        self.raw.close()
                        raise Longer(MOST_ANSWER if len(data) > MOST_ANSWER else MOST_ANSWERED)
                self.data = bytes(data)
            return self.data

    class Sessions(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Answer:
            streamed, request.stream_output = request.stream_output, True  # read here, not by the driver
            try:
                raw = await super().send(request)
            finally:
                request.stream_output = streamed
            answer = Answer(raw.url, raw.status_code, raw.headers, raw.raw)
            if not streamed:
                await answer.content
            return answer

    return Sessions


def get(temporary: Path, most: int, driver: str, fs: Any, path: str) -> None:
    """Bring a file, in one stream that ends with `Longer` after `most` bytes, whatever size the storage gave.

    A request that took too long may still write to the former file: it is removed first.
    """
    from fsspec.callbacks import Callback  # not needed for snapshots in a folder

    def count(size: int | None, value: int, **_: Any) -> None:  # fsspec sets these names
        if value > most:
            raise Longer(most)

    temporary.unlink(missing_ok=True)
    one_stream = {"max_concurrency": 1} if driver == "s3fs" else {}  # else each piece is read whole, at any length
    fs.get_file(path, str(temporary), callback=Callback(hooks={"count": count}), **one_stream)
    if temporary.stat().st_size > most:  # a driver that does not count
        raise Longer(most)


def read_small(most: int, driver: str, fs: Any, path: str) -> bytes:
    """Return the bytes of an object. Raises `Longer` where it has more than `most`."""
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        get(file := Path(folder, "object"), most, driver, fs, path)
        return file.read_bytes()


def digest(size: int, driver: str, fs: Any, path: str) -> str:
    """Return the SHA-256 of an object of `size` bytes; for another size a sentence with both. No copy is kept."""
    if (actual_size := int(fs.info(path)["size"])) == size:
        with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
            get(file := Path(folder, "object"), size, driver, fs, path)
            return file_digest(file)
    return f"{actual_size:,} bytes, and not {size:,}"


# -- manifests ---------------------------------------------------------------------------------------------------------


def files_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield (file, SHA-256, bytes) of each part that a manifest names."""
    for collection in manifest.get("collections", ()):
        for part in collection["parts"]:
            yield part["file"], part["sha256"], part["bytes"]


def digests_of(manifest: Mapping[str, Any]) -> set[str]:
    return {sha256 for _, sha256, _ in files_of(manifest)}


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that never change, those of `Snapshot.manifest_digest`."""
    return {k: v for k, v in manifest.items() if k not in ("status", "sha256") and not k.endswith("_at")}


def same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Return whether two manifests are equal in their lasting entries."""
    return one is not None and _lasting(one) == _lasting(other)


def made_here(manifest: Mapping[str, Any]) -> bool:
    """Return whether this workspace made the manifest: its proof needs the workspace's key."""
    from helpers.snapshots.export_journal import proof_of

    proof = str(manifest.get("proof", ""))
    expected = proof_of({**_lasting(manifest), "status": "created"}, secret := audit.secret())
    return bool(secret) and hmac.compare_digest(proof.encode(errors="replace"), expected.encode())


@dataclass(frozen=True, slots=True)
class Inventory:
    """The content of a storage: bytes of each file of chunks by its digest, ids of whole snapshots, ids of begun ones."""

    parts: Mapping[str, int]
    snapshots: frozenset[str]
    begun: frozenset[str]

    def lacks(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the digests of the files that a manifest names and the storage lacks, or has in another size."""
        return sorted({sha256 for _, sha256, size in files_of(manifest) if self.parts.get(sha256) != size})

    def where(self, folder: Path, manifest: Mapping[str, Any] | None) -> str:
        """Return whether the snapshot of this folder is in the storage, and how many of its files are here."""
        name = folder.name.removesuffix(".partial")
        if manifest is None:
            return "begun in the storage" if name in self.begun else ""
        files = {folder / file for file, _, _ in files_of(manifest)}
        local = sum(file.is_file() for file in files)
        note = "all files here, too" if local == len(files) else f"{local:,} of {counted(len(files), 'file')} here"
        if name not in self.snapshots:
            return f"NOT in the storage, {note}"
        return f"in the storage, {note}" if not self.lacks(manifest) else f"in the storage, NOT whole there, {note}"
