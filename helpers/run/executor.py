"""Execution of slices of the work: in threads of this process, or by workers of Dask (`migration.executor`).

A slice is a function of a module and its arguments. It reads its input from a path that all machines share, or from a server.
Only the run's process gives a file its final name and writes the ledger. Therefore a slice may be executed twice or partly,
and nothing is lost when a worker dies: Dask gives its slice to another.
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
_PROBED = 120.0  # seconds for all workers to answer the probe; they may be busy with slices of other runs
_ALONE = 60.0  # seconds without any worker, after which the step ends
_LOOK = 1.0  # seconds between two checks of the scheduler while a slice runs
_SCRATCH = ".dask-"  # prefix of the folder of a local cluster
_MEMORY = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
_LIBRARIES = ("chromadb", "numpy", "pandas", "pyarrow", "distributed")  # their versions can change results

# -- on both sides -----------------------------------------------------------------------------------------------------


@cache
def versions() -> dict[str, str]:
    """The versions that must be equal on every worker: the toolkit with a digest of its code, Python, `_LIBRARIES`."""
    root, code = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    version = importlib.metadata.version("chroma-migration-runbook")
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"the toolkit": f"{version}, code {code.hexdigest()[:12]}", "Python": platform.python_version(), **libraries}


@dataclass(frozen=True, slots=True)
class Order:
    """The common input of a step's slices: both endpoints with references to secrets, the schema by name or path.

    `token` identifies the run's process: a worker closes the stores that it opened for another one. `workspace` is the
    run's: its key proves the place of a storage.
    """

    token: str
    source: Endpoint
    target: Endpoint
    schema: str
    versions: Mapping[str, str]
    workspace: Path

    @classmethod
    def of(cls, parameters: Parameters) -> Order:
        """The order of these parameters, with absolute paths: a worker may have been started in any folder."""
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

_thread = threading.local()


def opened(order: Order, side: Literal["source", "target"]) -> Any:
    """The open store of this side, kept in this thread of a worker until an order of another process comes."""
    from helpers.stores.opening import open_server, open_target

    if getattr(_thread, "token", "") != order.token:
        getattr(_thread, "stack", contextlib.ExitStack()).close()
        _thread.token, _thread.stack, _thread.stores, _thread.reported = order.token, contextlib.ExitStack(), {}, {}
    if side not in _thread.stores:
        endpoint = order.source if side == "source" else order.target
        opening = open_server(endpoint, side) if side == "source" else open_target(endpoint)
        _thread.stores[side] = _thread.stack.enter_context(opening)
    return _thread.stores[side]


def read_source(order: Order, read: Callable[..., R], *arguments: Any) -> tuple[R, dict[str, float]]:
    """(`read(store, *arguments)` of the source, usage counts of the store since the last report of this thread)."""
    store = opened(order, "source")
    result = read(store, *arguments)
    counts = store.usage.counts()
    used = {key: n - _thread.reported.get(key, 0) for key, n in counts.items()}
    _thread.reported = counts
    return result, used


def _slice(order: Order, call: Callable[..., R], *arguments: Any) -> R:
    """Execute a slice on a worker. Checks the worker first: it may have joined after the probe."""
    if problem := _unfit(order.versions):
        text, _, next_step = problem.partition(". ")
        raise Terminal(ReasonCode.WORKERS_UNFIT, text, where=f"worker {platform.node()}", next_step=next_step)
    token = audit.worker_workspace.set(order.workspace)  # this worker may have been started without RUNBOOK_WORKSPACE
    try:
        return call(*arguments)
    finally:
        audit.worker_workspace.reset(token)


def _unfit(expected: Mapping[str, str]) -> str:
    """The problem of this worker and the next step, as two sentences; "" if it is fit."""
    actual = versions()
    different = next((name for name in expected if actual.get(name) != expected[name]), None)
    if different is not None:
        return f"has {different} {actual.get(different, 'not at all')}, the run has {expected[different]}. {_SAME}"
    if (folder := _exposed()) is not None:
        return f"imports modules from {folder}, where others can put them. {_OWN}"
    return ""


@cache
def _exposed() -> Path | None:
    """The folder from which this process's Dask worker imports modules, if other users can write there; else None."""
    import distributed

    try:
        folder = Path(distributed.get_worker().local_directory).parent
    except ValueError:  # no worker
        return None
    closed = (place for place in folder.parents if not place.stat().st_mode & 0o077)
    return None if any(is_ours(place) for place in (folder, *closed)) else folder


def _probe(order: Order, tokens: Mapping[str, str]) -> str:
    """On a worker: its problem with this order and the next step; "" if it is fit."""
    if problem := _unfit(order.versions):
        return problem
    for file, token in tokens.items():
        folder, content = Path(file).parent, ""
        with contextlib.suppress(OSError):
            content = Path(file).read_text(encoding="utf-8")
        if content != token:
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
        if error.code not in UNKNOWN:  # step 20 creates the target's database
            return error.line()
    return ""


_WITHOUT = "--set migration.executor=threads --set migration.scheduler=null"
_LOST = "the scheduler of Dask was lost"
_SAME = "Start the workers from the installation that the run has."
_OWN = "Start it with --local-directory and a folder that only its user can write."

# -- in the process of the run -----------------------------------------------------------------------------------------


class Workers:
    """Workers of Dask for one step. `call` executes a slice on one of them; `at_once` is the number of concurrent slices;
    `sentence` states it, with the address of Dask's dashboard.

    A context manager: at its end it stops a local cluster, and disconnects from a scheduler of others.
    """

    def __init__(self, order: Order, client: Any) -> None:
        self.order, self._client, self._leaving = order, client, contextlib.ExitStack()
        self._executor: Executor = client.get_executor(pure=False)  # equal arguments do not mean an equal result
        info = client.scheduler_info()
        self._scheduler, self._address = info["id"], info["address"]
        self.at_once = max(1, sum(worker["nthreads"] for worker in info["workers"].values()))
        self.sentence = f"{self.at_once} of Dask, dashboard {client.dashboard_link}"  # for people
        self._seen = self._looked = time.monotonic()  # last time with a worker; last check of the scheduler
        self._guard = threading.Lock()

    @classmethod
    def open(
        cls, parameters: Parameters, folders: Iterable[Path], kind: type[RunbookError] = Terminal, resume: str = ""
    ) -> Workers:
        """Connect to the workers that the parameters order, and probe each.

        A local cluster has its files below the first of `folders`, where only this user can write.

        Raises `kind` if there is no scheduler or worker, or if a worker has other versions, does not see `folders` as this
        process does, or does not reach a server.
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
                # Workers of others may be reachable only through their scheduler.
                options = {"timeout": ANSWERS, "direct_to_workers": cluster is not None, "set_as_default": False}
                no_answer = TimeoutError("what listens there is silent")  # Dask would wait for ever
                connect = partial(distributed.Client, cluster or scheduler, name="runbook", **options)
                client = within(2 * ANSWERS, connect, no_answer)
                undo.callback(client.close, timeout=5)
                workers = cls(Order.of(parameters), client)
            except Exception as error:  # of sockets, of TLS, or of something that is not a scheduler
                cause = one_line(f"{type(error).__name__}: {error}", 200)
                problem, remedy = f"no scheduler of Dask answers within {ANSWERS:.0f} s", "Start it: dask scheduler. Or"
                if scheduler == LOCAL:
                    problem, remedy = "no workers of Dask can be started here", "Look at memory and processes, or"
                next_step = f"{remedy} go without: {_WITHOUT}. {resume}".strip()
                raise kind(
                    ReasonCode.WORKERS_UNFIT, f"{problem} ({cause})", where=where, next_step=next_step
                ) from error
            with _tokens(folders) as tokens:
                try:
                    workers._require_fit(tokens, kind, where)
                except (OSError, CancelledError) as error:
                    raise kind(ReasonCode.WORKERS_UNFIT, _LOST, where=where, next_step=resume) from error
            workers._leaving = undo.pop_all()
        return workers

    def _require_fit(self, tokens: Mapping[str, str], kind: type[RunbookError], where: str) -> None:
        names = sorted(self._client.scheduler_info()["workers"])
        if not names:
            raise kind(ReasonCode.WORKERS_UNFIT, "the scheduler has no worker", where=where,
                       next_step=f"Start some: dask worker {self._address} --local-directory DIR.")  # fmt: skip
        probes = {
            name: self._client.submit(_probe, self.order, tokens, workers=[name], pure=False, retries=0)
            for name in names
        }
        for name, future in probes.items():
            try:
                problem = future.result(timeout=_PROBED)
            except TimeoutError:
                problem = f"says nothing for {_PROBED:.0f} s. Look whether it is busy with other work, or hangs."
            except (OSError, CancelledError):
                raise
            except Exception as error:  # the toolkit is missing there, or has no such function
                problem = f"cannot run this version of the toolkit ({one_line(f'{type(error).__name__}: {error}', 120)}). {_SAME}"
            if problem:
                text, _, next_step = problem.partition(". ")
                raise kind(ReasonCode.WORKERS_UNFIT, text, where=f"worker {name}", next_step=next_step)

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Execute `function(*arguments)` on a worker, wait, and return its result. May be called from any thread.

        Raises the function's errors; `Terminal` if the scheduler is lost, no worker is left, or the slice killed several.
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
        """As `call`, for `read(source, *arguments)`; adds the source's usage counts to those of `store`."""
        result: R
        result, used = self.call(read_source, self.order, read, *arguments)
        store.usage.add(**used)
        return result

    def _require_scheduler(self) -> None:
        with self._guard:  # one waiting thread at a time
            try:
                if self._client.status != "running":
                    raise OSError(self._client.status)
                if time.monotonic() - self._looked < _LOOK:
                    return
                self._looked = time.monotonic()
                info = self._client.scheduler_info()
            except Exception as error:
                raise self._lost(_LOST) from error
            if info["id"] != self._scheduler:
                raise self._lost("the scheduler of Dask was started anew, and knows nothing of this run")
            if info["workers"]:
                self._seen = time.monotonic()
            elif time.monotonic() - self._seen > _ALONE:
                raise self._lost(f"the scheduler of Dask has had no worker for {_ALONE:.0f} s")

    def _lost(self, problem: str) -> Terminal:
        next_step = (
            f"What was finished counts. Start scheduler and workers again, then resume; or resume without: {_WITHOUT}."
        )
        return Terminal(
            ReasonCode.WORKERS_UNFIT, problem, where=f"migration.scheduler {self._address}", next_step=next_step
        )

    def close(self) -> None:
        """Disconnect from the scheduler and drop unfinished slices. Stops a local cluster."""
        with contextlib.suppress(Exception):  # the work is done, or was given up
            self._leaving.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def workers_of(run: RunRecord) -> Workers | None:
    """The workers of a step, opened on first use and closed with `run.leaving`; None: use threads of this process."""
    if run.parameters.migration.executor != DASK:
        return None
    workers: Workers | None = run.workers
    if workers is None:
        folders = [run.workspace, run.parameters.snapshot.folder.absolute()]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        resume = f"Then: {run.home.command('resume')}"
        workers = run.workers = Workers.open(run.parameters, folders, resume=resume)
        run.leaving.callback(_leave, run)
        run.log(f"workers: {workers.sentence}")
    return workers


def _leave(run: RunRecord) -> None:
    """Close the workers. A cell that is executed after the end of its step opens new ones."""
    workers, run.workers = run.workers, None
    workers.close()


def require_workers(parameters: Parameters) -> None:
    """UsageError if Dask is ordered and cannot do the work. For `local`, only checks that Dask is installed."""
    if parameters.migration.executor != DASK:
        return
    _distributed()
    if parameters.migration.scheduler in (None, LOCAL):
        return
    folders = {audit.workspace_root(), parameters.snapshot.folder.absolute()}
    existing = {next(f for f in (folder, *folder.parents) if f.is_dir()) for folder in folders}
    with Workers.open(parameters, sorted(f for f in existing if os.access(f, os.W_OK)), UsageError):
        pass


def _distributed() -> Any:
    """Import Dask, late and only where it is needed. UsageError if it is not installed."""
    try:
        import distributed
    except ImportError as error:
        raise UsageError(
            ReasonCode.WORKERS_UNFIT, f"Dask is not installed here ({error})", where="migration.executor",
            next_step="Install what requirements.lock names, or leave migration.executor: threads.",
        ) from error  # fmt: skip
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == "distributed":  # important errors are raised
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextlib.contextmanager
def _local(processes: int, folder: Path) -> Iterator[Any]:
    """Context manager: a scheduler in this process with `processes` worker processes.

    Everybody who reaches a scheduler can run code as its user. Therefore it listens on loopback only, with TLS and a key that
    exists only in the memory of these processes. No data is spilled to disk.

    Dask imports modules from its own folder. It gets a new folder of mode 700 below `folder`, which is removed with the
    cluster. Folders of killed processes are removed first.
    """
    import dask
    import distributed

    for leftover in folder.glob(f"{_SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)  # follows no links
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
    """Context manager: create a file with a random token in each folder; give {path: token}; remove the files at the end."""
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
