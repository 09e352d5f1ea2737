"""The objects of a storage, one request at a time: tried again, ended in time, and said of in words of our own.

Whoever runs a storage, or can write there, decides what it answers. So nothing of its text is shown: it may repeat a credential
that it was sent. Names count where they are those of a snapshot. In a folder (file://) only plain files are objects, and no
folder of the storage may be a link: what is written and removed there would be that of somebody else.
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
TRIES = 3  # of a driver, one after another, before this module waits
LONGEST_PAUSE = 20  # seconds
BROKEN_OFF = timedelta(days=1)  # a file that is sent in pieces, and was begun earlier, is no longer being sent
CHUNK = 16 * 2**20  # bytes: a file of twice as many is sent in pieces of this size
MOST_ANSWER = 16 * 2**20  # bytes of a page of a list (1,000 names of at most 1,024 bytes), or of an error
MOST_ANSWERED = 512 * 2**20  # bytes of all pages of a list: about a million names
LEAST = 15  # seconds that a request has, however short the patience
SLOWEST = 100_000  # bytes that a request moves in a second, at least: it has so much more time
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
)  # of S3: no other text of it is shown


class Objects:
    """The storage of `rules`, which is a URL. Every method raises `UsageError` where the storage refuses, `Transient` where it
    does not answer within `patience_seconds`, each in one line that names it."""

    def __init__(self, rules: SnapshotSection, folder: Path | None = None) -> None:
        self.rules, self.url, self.folder = rules, rules.directory, folder or rules.folder
        self._end = threading.Event()  # who waits for an answer in another thread gives up

    @cached_property
    def _fs(self) -> Any:
        return self.rules.file_system(TRIES, _bounded_sessions)

    @property
    def _patience(self) -> float:
        return (self.rules.storage or Storage()).patience_seconds

    def _list(self, where: str, kind: str = "file") -> dict[str, int]:
        """Bytes by name; of each `directory` there, 0."""

        def listed(fs: Any, path: str) -> dict[str, int]:
            try:
                found = fs.ls(path, detail=True)
            except FileNotFoundError:  # nothing has been put there
                return {}
            files = (each for each in found if each["type"] == kind and not each.get("islink"))
            return {str(each["name"]).rstrip("/").rpartition("/")[2]: int(each["size"] or 0) for each in files}

        return self._call("list", where, listed)

    def _read(self, name: str) -> bytes:
        def read(fs: Any, path: str) -> bytes:
            if (size := int(fs.info(path)["size"])) > MOST_READ:
                raise Terminal(ReasonCode.SNAPSHOT_UNREADABLE, f"has {size:,} bytes", where=f"{self.url}/{name}")
            return small(MOST_READ, self.rules.driver, fs, path)

        return self._call("read", name, read)

    def _write(self, name: str, data: bytes) -> None:
        def put(fs: Any, path: str) -> object:
            return fs.pipe_file(path, data) if self.rules.driver else write_bytes(Path(path), data)

        self._call("put", name, put, moves=len(data))

    def _remove(self, name: str) -> None:
        def gone(fs: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                fs.rm_file(path)

        self._call("remove", name, gone)

    def _uploads(self, where: str) -> list[dict[str, Any]]:
        """Files of ours there that are being sent to S3 in pieces, or were: another application's are none of ours."""
        bucket, prefix = urlsplit(self.url).netloc, f"{urlsplit(self.url).path}/{where}/".lstrip("/")
        found = self._call(
            "list", where, lambda fs, _: fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        )
        form = {"parts": PART, "staged": STAGED}.get(where, MANIFEST)
        return [
            each for each in found.get("Uploads", ())
            if each["Key"].startswith(prefix) and form.fullmatch(each["Key"].removeprefix(prefix))
        ]  # fmt: skip

    def _abort(self, key: str, upload: str) -> None:
        about = {"Bucket": urlsplit(self.url).netloc, "Key": key, "UploadId": upload}

        def gone(fs: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                fs.call_s3("abort_multipart_upload", **about)

        self._call("remove", key, gone)

    def _pieces(self) -> tuple[list[tuple[str, str]], list[str]]:
        """What `broken_off` gives, and a sentence where the storage does not tell: not everybody may ask."""
        try:
            return self.broken_off(), []
        except UsageError as error:
            return [], [f"{self.url}: whether uploads were broken off is not known: {error.what}"]

    def broken_off(self) -> list[tuple[str, str]]:
        """(Key, id) of files that were sent in pieces and never ended; such pieces are no file. Google and Azure drop them."""
        since = datetime.now(UTC) - BROKEN_OFF
        if self.rules.driver == "s3fs":
            found = [each for where in FOLDERS for each in self._uploads(where)]
            return [(each["Key"], each["UploadId"]) for each in found if each["Initiated"] < since]
        if self.rules.driver:
            return []
        root = Path(root_of(self.url))
        folders = ["parts", *(f"staged/{name}" for name in self._list("staged", "directory"))]
        left = (path for where in folders if self._list(where) is not None for path in (root / where).glob(".*.tmp"))
        old = (path for path in left if path.lstat().st_mtime < since.timestamp())
        return [(path.relative_to(root).as_posix(), "") for path in old if is_leftover(path.name)]

    def _damaged(self, name: str, what: str) -> Terminal:
        return Terminal(ReasonCode.SNAPSHOT_DAMAGED, what, where=f"{self.url}/{name}",
                        next_step="Bring back this object from a version or a copy of it, or use another snapshot.")  # fmt: skip

    def _unusable(
        self, what: str, next_step: str = "Correct snapshot.directory or its storage, then repeat."
    ) -> UsageError:
        return UsageError(ReasonCode.STORAGE_UNUSABLE, what, where=self.url, next_step=next_step)

    def _call(self, what: str, name: str, call: Callable[[Any, str], T], part: bool = False, moves: int = 0) -> T:
        """What the call makes of the file system and the path of `name`; again, with growing pauses, where it may yet succeed.

        `part`: it is a file of chunks, which has to be there. `moves`: the bytes that are sent or brought.
        """
        import tenacity

        from helpers.stores.limits import within  # with httpx

        path = f"{root_of(self.url)}/{name}"
        for again in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE),
            stop=tenacity.stop_after_delay(self._patience) | tenacity.stop_when_event_set(self._end),
            sleep=tenacity.sleep_using_event(self._end),
            before_sleep=self._say_that_it_waits,
            reraise=True,
        ):
            with again:
                try:
                    if self.rules.driver:
                        seconds = max(self._patience, LEAST) + moves / SLOWEST
                        asked = partial(_counted, call, self._fs, path)
                        return within(seconds, asked, TimeoutError(errno.ETIMEDOUT, ""))
                    self._require_plain(name, what)
                    made = call(self._fs, path)
                    self._require_plain(name, what)  # a folder that became a link meanwhile was followed
                    return made
                except RunbookError:
                    raise
                except (
                    Exception
                ) as error:  # what drivers raise has many names; its text would be in a trace of the cause
                    raise self._meaning(error, what, name, part) from None
        raise AssertionError("tenacity reraises")

    def _require_plain(self, name: str, what: str) -> None:
        """Of a storage in a folder: every folder on the way to `name` is one and no link, and what is there a plain file.

        What is put there takes the place of whatever had its name.
        """
        top, path = Path(root_of(self.url)), Path(root_of(self.url), name)
        for each in [path, *path.parents][: len(path.parts) - len(top.parts)]:
            with suppress(FileNotFoundError):
                mode, whole = os.lstat(each).st_mode, each == path
                if stat.S_ISDIR(mode) if not whole or what == "list" else stat.S_ISREG(mode) or what == "put":
                    continue
                if whole and "/" in name:
                    raise Terminal(ReasonCode.SNAPSHOT_UNREADABLE, "it is no plain file", where=f"{self.url}/{name}")
                what_it_is = "a link" if stat.S_ISLNK(mode) else "no plain file" if whole else "no folder"
                raise self._unusable(
                    f"{each.relative_to(top)} there is {what_it_is}", "Find out who made it, and remove it."
                )

    def _say_that_it_waits(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and sys.stderr.isatty():
            print(f"{self.url} does not answer; it is asked again for {self._patience:g} seconds.", file=sys.stderr)

    def _meaning(self, error: Exception, what: str, name: str, part: bool) -> RunbookError:
        """The one line for what a driver raised."""
        if isinstance(error, ImportError):  # of Python, not of a storage
            needs, said = self.rules.driver or "fsspec", one_line(f"{type(error).__name__}: {error}", 240)
            return self._unusable(f"its driver is not installed ({said})", f"Install it: .venv/bin/pip install {needs}")
        said = _kind(error)
        if isinstance(error, Longer):
            what_comes = f"more than {error.most:,} bytes come of it, and it can have no more"
            unreadable = Terminal(ReasonCode.SNAPSHOT_UNREADABLE, what_comes, where=f"{self.url}/{name}",
                                  next_step="Nothing of it was kept. Find out who runs this storage.")  # fmt: skip
            return self._damaged(name, what_comes) if part else unreadable
        if isinstance(error, FileNotFoundError) and part:
            return self._damaged(name, "it is not in the storage any more")
        if isinstance(error, FileNotFoundError) and "/" in name and what != "put":
            return Terminal(ReasonCode.SNAPSHOT_UNREADABLE, "it is not in the storage", where=f"{self.url}/{name}")
        if isinstance(error, FileNotFoundError):
            return self._unusable(f"the bucket, container or folder is not there, or may not be seen ({said})")
        if isinstance(error, PermissionError) or any(word in type(error).__name__ for word in _REFUSALS):
            where = name or "it"
            return self._unusable(f"it refuses to {what} {where} with these credentials ({said})",
                                  "Correct what snapshot.storage refers to, or that user's rights, then repeat.")  # fmt: skip
        if (short := shortage(error, self.folder)) is not None:
            return short
        wrong = isinstance(error, OSError) and error.errno in (
            errno.EINVAL,
            errno.ENAMETOOLONG,
            errno.EPERM,
            errno.ENOSYS,
        )
        if wrong or isinstance(error, ValueError) or "Validation" in type(error).__name__:
            return self._unusable(f"it does not take the request to {what} {name or 'it'} ({said})")
        return Transient(
            ReasonCode.STORAGE_UNUSABLE, f"no answer that is of use to {what} {name or 'it'} ({said})", where=self.url,
            next_step="What was put there stays, and nothing half counts. Once it answers, repeat the command or resume.",
        )  # fmt: skip


def _kind(error: BaseException) -> str:
    """What an error is: its class, and of its number, status and code those that are known here. Nothing of its text."""
    found = [type(error).__name__]
    if isinstance(error, OSError) and error.errno:
        found.append(os.strerror(error.errno))
    for each in (error, error.__cause__):
        answer = getattr(each, "response", None)
        if isinstance(answer, Mapping):
            code, status = answer.get("Error", {}).get("Code"), answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            found += [f"status {status}"] if type(status) is int and 100 <= status <= 599 else []
            found += [code] if isinstance(code, str) and _CODES.fullmatch(code) else []
    return ", ".join(dict.fromkeys(found))


def fitting(form: re.Pattern[str], names: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """What the form's first group is in each name that fits it, with its bytes; not of a name that holds a known secret."""
    return (
        (match[1], size) for name, size in names.items() if (match := form.fullmatch(name)) and redacted(name) == name
    )


def part_name(sha256: str) -> str:
    """Where the file of chunks of this digest is."""
    return f"parts/{sha256}.parquet"


def root_of(url: str) -> str:
    """What a driver calls the place of a storage; of a disk, its folder."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else url.partition("://")[2]


def send_missing(file: Path, driver: str, fs: Any, path: str) -> None:
    """As `send`, where the file is not there in its size."""
    with suppress(FileNotFoundError):
        if int(fs.info(path)["size"]) == file.stat().st_size:
            return
    send(file, driver, fs, path)


def send(file: Path, driver: str, fs: Any, path: str) -> None:
    """Put a file there, whole or not at all."""
    if driver == "":  # a disk has half a file while it is written, and objects have not
        with writing(Path(path)) as temporary:
            shutil.copyfile(file, temporary)
    elif driver == "s3fs":
        fs.put_file(str(file), path, chunksize=CHUNK, max_concurrency=1)
    else:
        fs.put_file(str(file), path)


class Longer(Exception):
    """More bytes come of an object than `most`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


_left: ContextVar[list[int]] = ContextVar("left")  # bytes of whole answers that the request at work may yet take


def _counted(call: Callable[[Any, str], T], fs: Any, path: str) -> T:
    """The call, whose answers are read up to `MOST_ANSWERED` bytes: its driver works in a copy of this context."""
    _left.set([MOST_ANSWERED])
    return call(fs, path)


@cache
def _bounded_sessions() -> type:
    """The sessions of S3's driver, by which an answer that is read as a whole (a page of a list, an error) ends with `Longer`."""
    from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped]
    from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

    class Answer(AioAWSResponse):  # type: ignore[misc]
        kept: bytes | None = None

        @property
        def content(self) -> Awaitable[bytes]:
            return self._whole()

        async def _whole(self) -> bytes:
            if self.kept is None:
                found, left = bytearray(), _left.get([MOST_ANSWERED])
                async for piece in self.raw.content.iter_any():
                    found += piece
                    left[0] -= len(piece)
                    if len(found) > MOST_ANSWER or left[0] < 0:
                        self.raw.close()
                        raise Longer(MOST_ANSWER if len(found) > MOST_ANSWER else MOST_ANSWERED)
                self.kept = bytes(found)
            return self.kept

    class Sessions(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Answer:
            streamed, request.stream_output = request.stream_output, True  # read here, and not by the driver
            try:
                found = await super().send(request)
            finally:
                request.stream_output = streamed
            answer = Answer(found.url, found.status_code, found.headers, found.raw)
            if not streamed:
                await answer.content
            return answer

    return Sessions


def get(temporary: Path, most: int, driver: str, fs: Any, path: str) -> None:
    """Bring a file, in one stream that ends with `Longer` after `most` bytes, whatever the storage said of it before.

    One that a request which took too long is still writing is another one.
    """
    from fsspec.callbacks import Callback  # who keeps snapshots in a folder needs none of it

    def count(size: int | None, value: int, **_: Any) -> None:  # fsspec names them
        if value > most:
            raise Longer(most)

    temporary.unlink(missing_ok=True)
    one_stream = {"max_concurrency": 1} if driver == "s3fs" else {}  # else each piece is taken whole, of any length
    fs.get_file(path, str(temporary), callback=Callback(hooks={"count": count}), **one_stream)
    if temporary.stat().st_size > most:  # a driver that does not count
        raise Longer(most)


def small(most: int, driver: str, fs: Any, path: str) -> bytes:
    """All that is there, at most so many bytes."""
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        get(file := Path(folder, "object"), most, driver, fs, path)
        return file.read_bytes()


def digest(size: int, driver: str, fs: Any, path: str) -> str:
    """The SHA-256 of what is there; of another length, which may be any, that length. Nothing is kept."""
    if (found := int(fs.info(path)["size"])) == size:
        with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
            get(file := Path(folder, "object"), size, driver, fs, path)
            return file_digest(file)
    return f"{found:,} bytes, and not {size:,}"


# -- what a manifest names ---------------------------------------------------------------------------------------------


def files_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """(File, SHA-256, bytes) of each part that a manifest names."""
    for collection in manifest.get("collections", ()):
        for part in collection["parts"]:
            yield part["file"], part["sha256"], part["bytes"]


def digests_of(manifest: Mapping[str, Any]) -> set[str]:
    return {sha256 for _, sha256, _ in files_of(manifest)}


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest never changes, as `Snapshot.manifest_digest` has it."""
    return {k: v for k, v in manifest.items() if k not in ("status", "sha256") and not k.endswith("_at")}


def same(there: Mapping[str, Any] | None, held: Mapping[str, Any]) -> bool:
    return there is not None and _lasting(there) == _lasting(held)


def made_here(manifest: Mapping[str, Any]) -> bool:
    """Whether this workspace made the manifest, as its proof says, which needs the workspace's key."""
    from helpers.snapshots.export_journal import proof_of

    proof = str(manifest.get("proof", ""))
    made = proof_of({**_lasting(manifest), "status": "created"}, secret := audit.secret())
    return bool(secret) and hmac.compare_digest(proof.encode(errors="replace"), made.encode())


@dataclass(frozen=True, slots=True)
class Look:
    """What is in a storage: bytes of each file of chunks by its digest, the ids of snapshots, and those that were begun."""

    parts: Mapping[str, int]
    snapshots: frozenset[str]
    begun: frozenset[str]

    def lacks(self, manifest: Mapping[str, Any]) -> list[str]:
        """The digests of the files that a manifest names and the storage does not have in their size."""
        return sorted({sha256 for _, sha256, size in files_of(manifest) if self.parts.get(sha256) != size})

    def where(self, folder: Path, manifest: Mapping[str, Any] | None) -> str:
        """Where the snapshot in this folder is: in the storage, and how much of it here."""
        name = folder.name.removesuffix(".partial")
        if manifest is None:
            return "begun in the storage" if name in self.begun else ""
        files = {folder / file for file, _, _ in files_of(manifest)}
        here = sum(file.is_file() for file in files)
        cached = "all files here, too" if here == len(files) else f"{here:,} of {counted(len(files), 'file')} here"
        if name not in self.snapshots:
            return f"NOT in the storage, {cached}"
        return f"in the storage, {cached}" if not self.lacks(manifest) else f"in the storage, NOT whole there, {cached}"
