"""Where slices of the work are done: in threads of this process, or by workers of Dask (`migration.executor`).

A slice is a function of a module and its arguments. What it needs it reads from the path that all machines share, and a
server it asks itself. It writes nothing that counts: a file gets its final name, and the ledger its entry, from the process
of the run alone. So a slice may be done twice or half, and a worker that dies loses nothing: Dask gives its slice to another.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import secrets
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar

from helpers import audit, is_ours
from helpers.errors import RunbookError, Terminal, UsageError, one_line
from helpers.parameters import Endpoint, Parameters, SecretRef, resolve_path, schema_names
from helpers.reason_codes import ReasonCode

if TYPE_CHECKING:
    from helpers.run.record import RunRecord

P = ParamSpec("P")
R = TypeVar("R")
DASK, LOCAL = "dask", "local"
ANSWERS = 10.0  # seconds for a scheduler to answer
_PROBED = 120.0  # seconds for all workers to say what they are; they may be busy with slices of other runs
_ALONE = 60.0  # seconds without any worker, after which the step ends
_LOOK = 1.0  # seconds between two looks at a scheduler that a slice is waited for
_SCRATCH = ".dask-"  # how the folder of a local cluster begins
_MEMORY = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
_LIBRARIES = ("chromadb", "numpy", "pandas", "pyarrow", "distributed")  # what makes bytes and numbers, or carries them

# -- on both sides -----------------------------------------------------------------------------------------------------


@cache
def versions() -> dict[str, str]:
    """What must be the same on every worker: the toolkit with a digest of its code, Python, and the libraries above."""
    root, code = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    version = importlib.metadata.version("chroma-migration-runbook")
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"the toolkit": f"{version}, code {code.hexdigest()[:12]}", "Python": platform.python_version(), **libraries}


@dataclass(frozen=True, slots=True)
class Order:
    """What the slices of one step have in common: both ends with references in place of secrets, the schema by name or path.

    `token` names the process that gave the order: what a worker has opened for another one is closed. `workspace` is that of
    the run, whose key proves where a storage is.
    """

    token: str
    source: Endpoint
    target: Endpoint
    schema: str
    versions: Mapping[str, str]
    workspace: Path

    @classmethod
    def of(cls, parameters: Parameters) -> Order:
        """Paths are absolute: a worker may have been started in any folder."""
        name = parameters.schema_name
        schema = name if name in schema_names() else str(resolve_path(name))
        ends = (_absolute(parameters.source), _absolute(parameters.target))
        return cls(uuid.uuid4().hex, *ends, schema, versions(), audit.workspace_root())


def _absolute(endpoint: Endpoint) -> Endpoint:
    headers = {
        key: replace(ref, name=str(resolve_path(ref.name)))
        if isinstance(ref, SecretRef) and ref.kind == "file"
        else ref
        for key, ref in endpoint.headers.items()
    }
    return endpoint.model_copy(update={"headers": headers})


# -- on a worker -------------------------------------------------------------------------------------------------------

_here = threading.local()


def opened(order: Order, side: Literal["source", "target"]) -> Any:
    """The server of this side, open in this thread of a worker until an order of another process comes."""
    from helpers.stores.opening import open_server, open_target

    if getattr(_here, "token", "") != order.token:
        getattr(_here, "stack", contextlib.ExitStack()).close()
        _here.token, _here.stack, _here.stores, _here.told = order.token, contextlib.ExitStack(), {}, {}
    if side not in _here.stores:
        endpoint = order.source if side == "source" else order.target
        opening = open_server(endpoint, side) if side == "source" else open_target(endpoint)
        _here.stores[side] = _here.stack.enter_context(opening)
    return _here.stores[side]


def read_source(order: Order, read: Callable[..., R], *arguments: Any) -> tuple[R, dict[str, float]]:
    """What `read(store, *arguments)` gives for the source, and what was asked of it since this thread last said so."""
    store = opened(order, "source")
    result = read(store, *arguments)
    counts = store.usage.counts()
    told = {key: n - _here.told.get(key, 0) for key, n in counts.items()}
    _here.told = counts
    return result, told


def _slice(order: Order, call: Callable[..., R], *arguments: Any) -> R:
    """A slice, on a worker. One that joined after the others were asked is asked now."""
    if why := _unfit(order.versions):
        what, _, next_step = why.partition(". ")
        raise Terminal(ReasonCode.WORKERS_UNFIT, what, where=f"worker {platform.node()}", next_step=next_step)
    token = audit.of_the_order.set(order.workspace)  # this worker may have been started without RUNBOOK_WORKSPACE
    try:
        return call(*arguments)
    finally:
        audit.of_the_order.reset(token)


def _unfit(wanted: Mapping[str, str]) -> str:
    """What is wrong with this worker itself, and what to do, as two sentences; "" where nothing is."""
    have = versions()
    wrong = next((name for name in wanted if have.get(name) != wanted[name]), None)
    if wrong is not None:
        return f"has {wrong} {have.get(wrong, 'not at all')}, the run has {wanted[wrong]}. {_SAME}"
    if (folder := _exposed()) is not None:
        return f"imports modules from {folder}, where others can put them. {_OWN}"
    return ""


@cache
def _exposed() -> Path | None:
    """The folder of Dask that the worker of this process imports from, if anybody but its user can write there."""
    import distributed

    try:
        folder = Path(distributed.get_worker().local_directory).parent
    except ValueError:  # no worker
        return None
    closed = (place for place in folder.parents if not place.stat().st_mode & 0o077)
    return None if any(is_ours(place) for place in (folder, *closed)) else folder


def _probe(order: Order, tokens: Mapping[str, str]) -> str:
    """On a worker: why it is of no use for this order; "" where it is."""
    if why := _unfit(order.versions):
        return why
    for file, token in tokens.items():
        folder, seen = Path(file).parent, ""
        with contextlib.suppress(OSError):
            seen = Path(file).read_text(encoding="utf-8")
        if seen != token:
            return f"does not see {folder} as the run does. Mount the same folder there under the same path."
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"may not write in {folder}. Start it as the user of the run."
    from helpers.schema import load_schema
    from helpers.stores.opening import UNKNOWN
    from helpers.stores.wire import greet, request_headers

    try:
        load_schema(order.schema)
        for role, end in (("source", order.source), ("target", order.target)):
            if end.url:
                greet(end, role, request_headers(end, role))
    except RunbookError as error:
        if error.code not in UNKNOWN:  # step 20 makes the target's database
            return error.line()
    return ""


_WITHOUT = "--set migration.executor=threads --set migration.scheduler=null"
_LOST = "the scheduler of Dask was lost"
_SAME = "Start the workers from the installation that the run has."
_OWN = "Start it with --local-directory and a folder that only its user can write."

# -- in the process of the run -----------------------------------------------------------------------------------------


class Workers:
    """Workers of Dask, at work for one step. `call` gives a slice to one of them; `at_once` is how many they do at a time;
    `sentence` says so, and where Dask shows how they are getting on.

    A context manager: what was started for the step ends with it, a scheduler of others is only left.
    """

    def __init__(self, order: Order, client: Any) -> None:
        self.order, self._client, self._leaving = order, client, contextlib.ExitStack()
        self._executor: Executor = client.get_executor(pure=False)  # one slice is no other, whatever its arguments are
        about = client.scheduler_info()
        self._scheduler, self._address = about["id"], about["address"]
        self.at_once = max(1, sum(worker["nthreads"] for worker in about["workers"].values()))
        self.sentence = f"{self.at_once} of Dask, dashboard {client.dashboard_link}"  # for people
        self._seen = self._looked = time.monotonic()  # when there was a worker; when the scheduler was asked
        self._guard = threading.Lock()

    @classmethod
    def open(
        cls, parameters: Parameters, folders: Iterable[Path], kind: type[RunbookError] = Terminal, resume: str = ""
    ) -> Workers:
        """The workers that the parameters order, each of which was asked what it is and what it reaches.

        A local cluster has its files below the first of `folders`, where only this user can write.

        Raises `kind`, in one line, where there is no scheduler or no worker, or one of another version, one that does not
        see a folder of `folders` as this process does, or does not reach a server.
        """
        from helpers.stores.limits import within  # with httpx

        distributed, scheduler, folders = _distributed(), parameters.migration.scheduler or LOCAL, list(folders)
        where, cluster = f"migration.scheduler {scheduler}", None
        with contextlib.ExitStack() as undo:
            try:
                if scheduler == LOCAL:
                    cluster = undo.enter_context(
                        _local(min(parameters.migration.workers, os.cpu_count() or 1), folders[0])
                    )
                # The workers of a local cluster are reached; those of others perhaps by their scheduler alone.
                how = {"timeout": ANSWERS, "direct_to_workers": cluster is not None, "set_as_default": False}
                silent = TimeoutError("what listens there is silent")  # Dask would wait without an end
                connect = partial(distributed.Client, cluster or scheduler, name="runbook", **how)
                client = within(2 * ANSWERS, connect, silent)
                undo.callback(client.close, timeout=5)
                found = cls(Order.of(parameters), client)
            except Exception as error:  # of sockets, of TLS, of what answers there and is no scheduler
                why = one_line(f"{type(error).__name__}: {error}", 200)
                what, first = (
                    f"no scheduler of Dask answers within {ANSWERS:.0f} s ({why})",
                    "Start it: dask scheduler. Or",
                )
                if scheduler == LOCAL:
                    what, first = f"no workers of Dask can be started here ({why})", "Look at memory and processes, or"
                next_step = f"{first} go without: {_WITHOUT}. {resume}".strip()
                raise kind(ReasonCode.WORKERS_UNFIT, what, where=where, next_step=next_step) from error
            with _tokens(folders) as tokens:
                try:
                    found._require_fit(tokens, kind, where)
                except (OSError, CancelledError) as error:
                    raise kind(ReasonCode.WORKERS_UNFIT, _LOST, where=where, next_step=resume) from error
            found._leaving = undo.pop_all()
        return found

    def _require_fit(self, tokens: Mapping[str, str], kind: type[RunbookError], where: str) -> None:
        names = sorted(self._client.scheduler_info()["workers"])
        if not names:
            raise kind(ReasonCode.WORKERS_UNFIT, "the scheduler has no worker", where=where,
                       next_step=f"Start some: dask worker {self._address} --local-directory DIR.")  # fmt: skip
        asked = {
            name: self._client.submit(_probe, self.order, tokens, workers=[name], pure=False, retries=0)
            for name in names
        }
        for name, future in asked.items():
            try:
                why = future.result(timeout=_PROBED)
            except TimeoutError:
                why = f"says nothing for {_PROBED:.0f} s. Look whether it is busy with other work, or hangs."
            except (OSError, CancelledError):
                raise
            except Exception as error:  # the toolkit is not there, or has no such function
                why = f"cannot run this version of the toolkit ({one_line(f'{type(error).__name__}: {error}', 120)}). {_SAME}"
            if why:
                what, _, next_step = why.partition(". ")
                raise kind(ReasonCode.WORKERS_UNFIT, what, where=f"worker {name}", next_step=next_step)

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """What `function(*arguments)` gives on a worker; for as long the calling thread waits. From any thread.

        Raises what it raises there; `Terminal` where the scheduler is lost, no worker is left, or the slice has killed several.
        """
        try:
            future: Future[Any] = self._executor.submit(_slice, self.order, function, *arguments)
        except Exception as error:  # the client has ended
            raise self._lost(_LOST) from error
        while True:
            try:
                result: R = future.result(timeout=_LOOK)
                return result
            except CancelledError as error:
                raise self._lost(_LOST) from error
            except TimeoutError:
                if future.done():
                    raise
                self._require_scheduler()
            except RunbookError:
                raise
            except Exception as error:
                if type(error).__module__.partition(".")[0] == DASK or "distributed" in type(error).__module__:
                    raise self._lost(f"Dask gave a slice up ({one_line(str(error), 200)})") from error
                raise

    def read(self, store: Any, read: Callable[..., R], *arguments: Any) -> R:
        """As `call`, of `read(source, *arguments)`; what it asks of the source is added to the counts of `store`."""
        result: R
        result, told = self.call(read_source, self.order, read, *arguments)
        store.usage.add(**told)
        return result

    def _require_scheduler(self) -> None:
        with self._guard:  # one of the threads that wait
            try:
                if self._client.status != "running":
                    raise OSError(self._client.status)
                if time.monotonic() - self._looked < _LOOK:
                    return
                self._looked = time.monotonic()
                about = self._client.scheduler_info()
            except Exception as error:
                raise self._lost(_LOST) from error
            if about["id"] != self._scheduler:
                raise self._lost("the scheduler of Dask was started anew, and knows nothing of this run")
            if about["workers"]:
                self._seen = time.monotonic()
            elif time.monotonic() - self._seen > _ALONE:
                raise self._lost(f"the scheduler of Dask has had no worker for {_ALONE:.0f} s")

    def _lost(self, what: str) -> Terminal:
        next_step = (
            f"What was finished counts. Start scheduler and workers again, then resume; or resume without: {_WITHOUT}."
        )
        return Terminal(
            ReasonCode.WORKERS_UNFIT, what, where=f"migration.scheduler {self._address}", next_step=next_step
        )

    def close(self) -> None:
        """Leave the scheduler; slices that are not done any more are dropped. A cluster of our own ends."""
        with contextlib.suppress(Exception):  # the work is done, or was given up
            self._leaving.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def workers_of(run: RunRecord) -> Workers | None:
    """The workers of a step, started or asked on first use, until the step lets go of the run; None: threads of this process."""
    if run.parameters.migration.executor != DASK:
        return None
    found: Workers | None = run.workers
    if found is None:
        folders = [run.workspace, run.parameters.snapshot.folder.absolute()]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        resume = f"Then: {run.home.command('resume')}"
        found = run.workers = Workers.open(run.parameters, folders, resume=resume)
        run.leaving.callback(_leave, run)
        run.log(f"workers: {found.sentence}")
    return found


def _leave(run: RunRecord) -> None:
    """A cell that is executed after the end of its step begins with new ones."""
    found, run.workers = run.workers, None
    found.close()


def require_workers(parameters: Parameters) -> None:
    """UsageError where Dask is ordered and cannot do the work; nothing was started. Of `local` only that Dask is installed."""
    if parameters.migration.executor != DASK:
        return
    _distributed()
    if parameters.migration.scheduler in (None, LOCAL):
        return
    folders = {audit.workspace_root(), parameters.snapshot.folder.absolute()}
    there = {next(f for f in (folder, *folder.parents) if f.is_dir()) for folder in folders}
    with Workers.open(parameters, sorted(f for f in there if os.access(f, os.W_OK)), UsageError):
        pass


def _distributed() -> Any:
    """Dask, imported late and only where it is asked for. UsageError where it is not installed."""
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            ReasonCode.WORKERS_UNFIT, f"Dask is not installed here ({error})", where="migration.executor",
            next_step="Install what requirements.lock names, or leave migration.executor: threads.",
        ) from error  # fmt: skip
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "distributed":  # what matters is raised, in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextlib.contextmanager
def _local(processes: int, folder: Path) -> Iterator[Any]:
    """A scheduler in this process and so many worker processes, which end with it.

    Whoever reaches a scheduler can run code as its user. So it listens on loopback alone, and by TLS with a key that is made
    for this cluster and is in the memory of these processes only. Nothing of the chunks is spilled to disk.

    Dask imports modules from its own folder, and empties files there: it gets a new one of mode 700 below `folder`, which goes
    with the cluster. What a killed process left is removed here.
    """
    import dask
    import distributed

    for left in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # which follows no link
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder.absolute(), ignore_cleanup_errors=True) as scratch:
        with dask.config.set({**_MEMORY, "temporary-directory": scratch}):
            cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=processes, threads_per_worker=1, processes=True, host="127.0.0.1", security=True,
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
            )  # fmt: skip
        try:
            yield cluster
        finally:
            with contextlib.suppress(Exception):  # the work is done, or was given up
                cluster.close(timeout=10)


@contextlib.contextmanager
def _tokens(folders: Iterable[Path]) -> Iterator[dict[str, str]]:
    """A file in each folder that nobody can have by chance, with what it holds; they go again."""
    tokens: dict[str, str] = {}
    try:
        for folder in folders:
            path = folder / f".workers.{os.getpid()}-{secrets.token_hex(8)}.tmp"  # as `results.is_leftover` knows it
            tokens[str(path)] = secrets.token_hex(16)
            path.write_text(tokens[str(path)], encoding="utf-8")
        yield tokens
    finally:
        for file in tokens:
            Path(file).unlink(missing_ok=True)
