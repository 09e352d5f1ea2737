"""Rehearsals: their source, parameters, approvals and application, and the run of a notebook that was given no source."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from dotenv import dotenv_values

from helpers import audit
from helpers.errors import EnvironmentFailure, UsageError
from helpers.evidence import keep_sealed, signing
from helpers.evidence.signoffs import GO, gate_state, sign, statement
from helpers.parameters import ROLES, Parameters, parameters_from, resolve_path
from helpers.parameters.endpoint import DEFAULT_DATABASE, DEFAULT_TENANT
from helpers.parameters.model import read_yaml_mapping
from helpers.parameters.sections import Migration
from helpers.reason_codes import ReasonCode
from helpers.rehearsal import FULL, collection_counts, sample_application, write_sample
from helpers.rehearsal.sample_application import ENV, LOG, OWNER, SECONDS
from helpers.results import file_digest, utc_now, write_json, write_text
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import python_environment, run_or_fail, run_program
from helpers.run.folders import PRIVATE_FOLDER, REPOSITORY, RunFolder, RunLock, RunState, new_run_id
from helpers.stores.door import AuthorizationError, ClientAPI, server_client
from helpers.stores.wire import Session

# -- rehearsal ---------------------------------------------------------------------------------------------------------

# A rehearsal's own source, parameters and throw-away approvals. A notebook's run on a small sample is a rehearsal, too.


PARAMETERS = REPOSITORY / "parameters" / "rehearsal.yaml"
FIRST = "rehearsal"  # the id of the first rehearsal; parameters/rehearsal.yaml names its folders
QUERIES = REPOSITORY / "parameters" / "queries.example.yaml"
SAMPLE_CHUNKS, SAMPLE_DIMENSION = 300, 64
WATCH_MINUTES = 0.02
BATCHES = 20  # at least, in the import of a rehearsal: the drill kills the run between two of them

_LEAD_SECONDS = 30.0  # from the rehearsal's begin to its window
_LEAD_OF_SAMPLE = 3.0  # further seconds for each second that the sample took to be written
_COMMAND = [sys.executable, str(Path(sample_application.__file__).resolve())]
_ENV = """\
# The application of the rehearsal
export CHROMA_PATH="{source}"  # the vector database
LOG_LEVEL='info'
"""
_COMPOSE = """\
services:
  assistant:
    image: example/assistant
    environment:
      CHROMA_PATH: "{source}"  # as in .env
      LOG_LEVEL: info
  importer:
    image: example/importer
    environment: [CHROMA_PATH=/srv/import]
"""


def prepare(workspace: Path, chunks: int, dimension: int, sections: Mapping[str, Any] | None = None) -> Parameters:
    """Write the rehearsal source under the workspace; return the rehearsal's parameters with its paths and counts.

    `sections` are those of a notebook without source and target; they replace those of parameters/rehearsal.yaml. Raises as
    `write_sample`, and then makes nothing.
    """
    source = write_sample(workspace / "source", chunks=chunks, dimension=dimension)
    workspace.chmod(PRIVATE_FOLDER)
    signing.throw_away_keys(_keys(workspace), ROLES)
    if sections is None:
        document = read_yaml_mapping(PARAMETERS)
        document["migration"] |= {"batch_size": max(1, min(Migration().batch_size, chunks // BATCHES))}
    else:
        # without the defaults, which are hours
        given = {name: dict(sections.get(name) or {}) for name in ("cutover", "monitoring")}
        document = parameters_from(sections).document() | given
    return parameters_from(_fitted(document, workspace, source, chunks, dimension))


def with_application(parameters: Parameters, folder: Path, sample_seconds: float = 0.0) -> Parameters:
    """The parameters with the rehearsal's application: its fence, restart, health URL, log and notices.

    `folder` is the application's. The window is four hours long. It begins when steps 10 to 14 should have ended, so that it
    is announced before; a command before step 20 waits for it. `sample_seconds`, the time to write the sample, is a measure
    of the work and the speed of this machine.
    """
    start = datetime.now(UTC) + timedelta(seconds=_LEAD_SECONDS + _LEAD_OF_SAMPLE * sample_seconds)
    port = free_port()
    write_text(folder / "notices.url", f"json://127.0.0.1:{port}/notices\n")
    command = {
        name: [*_COMMAND, name, str(folder), str(port)]
        for name in ("restart", "lock", "unlock", "probe", "silence", "page")
    }
    keep = ["sh", "-c", 'echo "$1  $2" >> "$0"', str(folder.parent / "digests"), "{digest}", "{seal}"]
    document = parameters.document()
    document["cutover"] |= {
        "restart": [command["restart"]], "health": [f"http://127.0.0.1:{port}/health"], "log_files": [str(folder / LOG)],
        "write_probe": command["probe"],
    }  # fmt: skip
    document |= {
        "fence": {"kind": "command", "command": {"lock": command["lock"], "unlock": command["unlock"]}},
        "window": {"start": start.isoformat(timespec="seconds"), "minutes": 240.0},
        "signoff": document["signoff"] | {"push_digest": keep},
        "notify": {"urls": [f"file:{folder / 'notices.url'}"], "stakeholders": ["users of the rehearsal"],
                   "before": [[*_COMMAND, "wait", str(folder), str(port), start.isoformat()], command["silence"]],
                   "after": [command["page"]], "command_seconds": 600.0},
    }  # fmt: skip
    return parameters_from(document)


@contextmanager
def application_at_work(parameters: Parameters) -> Iterator[None]:
    """Run the application of a rehearsal in the context; do nothing where the parameters name none."""
    start, stop = (_of_application(parameters, name) for name in ("start", "stop"))
    if start is None or stop is None:
        yield
        return
    with (Path(start[-2]) / OWNER).open("wb") as owner:
        fcntl.lockf(owner, fcntl.LOCK_EX)  # the application ends when a kill of this process releases it
        run_or_fail(start, SECONDS, "the application of the rehearsal")
        try:
            yield
        finally:
            run_program(stop, SECONDS, "the application of the rehearsal")


def _of_application(parameters: Parameters, command: str) -> list[str] | None:
    named = next((c for c in parameters.cutover.restart if c[: len(_COMMAND)] == _COMMAND), None)
    return [*_COMMAND, command, *named[-2:]] if named is not None else None


def write_command(parameters: Parameters) -> list[str] | None:
    """The command with which the application of a rehearsal writes a chunk that stays; None where there is no application."""
    return _of_application(parameters, "write")


def free_port() -> int:
    """A free TCP port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_id() -> str:
    """The id of a new rehearsal: `rehearsal` for the first, with the time for later ones."""
    first = RunFolder.of(FIRST)
    return new_run_id(FIRST) if first.reports.exists() or first.workspace.exists() else FIRST


def require_built(parameters: Parameters) -> None:
    """Raise UsageError where these are the rehearsal's parameters and its source has not been made."""
    source = parameters.source.path
    named = read_yaml_mapping(PARAMETERS)["source"]["path"]
    if source == named and not resolve_path(named).exists():
        raise UsageError(
            ReasonCode.REHEARSAL_NOT_BUILT, f"{source} does not exist: the source of the rehearsal has not been made",
            next_step="make rehearse makes it, and takes it through the whole runbook.",
        )  # fmt: skip


def _fitted(document: dict[str, Any], workspace: Path, source: Path, chunks: int, dimension: int) -> dict[str, Any]:
    counts = collection_counts(chunks)
    expected = dict(document.get("expected") or {})
    listed = {name: counts[name] for name in expected.get("collections") or {} if name in counts}
    if expected.get("total"):
        expected |= {"collections": listed, "unlisted": chunks - sum(listed.values()), "total": chunks}
        expected["minimum_imported"] = int(expected.get("minimum_imported") or 0) * chunks // FULL
    expected["dimensions"] = [dimension]
    cutover = {"monitor_minutes": WATCH_MINUTES} | (document.get("cutover") or {})
    return {
        **document,
        "source": {"path": str(source)},
        "target": {"path": str(workspace / "target")},
        "expected": expected,
        "cutover": cutover | _application(workspace / "application", source),
        "monitoring": _monitoring(document),
        "snapshot": {**(document.get("snapshot") or {}), "directory": str(workspace / "snapshots")},
        "signoff": {**(document.get("signoff") or {}), "allowed_signers": str(_keys(workspace) / "allowed_signers")},
    }


def _monitoring(document: Mapping[str, Any]) -> dict[str, Any]:
    """Section `monitoring`: a watch and levels of seconds, and for the runbook's collections the example queries."""
    queries = {"queries": str(QUERIES)} if document.get("schema") == "if_ttt" else {}
    short = {"minutes": WATCH_MINUTES, "interval_seconds": 1.0, "level_seconds": 0.6, "repetitions": 2}
    return {**short, **queries, **(document.get("monitoring") or {})}


def _application(folder: Path, source: Path) -> dict[str, Any]:
    """Write realistic configuration files of an application that uses the source; return section `cutover` for them.

    The second service of the compose file has its own database, which the cutover must not change.
    """
    env, compose = folder / ENV, folder / "docker-compose.yml"
    for path, text in ((env, _ENV), (compose, _COMPOSE)):
        write_text(path, text.format(source=resolve_path(str(source))))
    keys = {"CHROMA_PATH": "{target_path}"}
    return {
        "env_files": [{"path": str(env), "keys": keys}],
        "compose_files": [{"path": str(compose), "keys": keys, "services": ["assistant"]}],
    }


def _keys(workspace: Path) -> Path:
    return workspace / "rehearsal_keys"


def approve(run: RunState, step: plan.Step) -> None:
    """Sign for every missing role through the real gate, with throw-away keys that no production run accepts."""
    run = keep_sealed(run)
    result = run.result(step.number)
    marginal = result.facts.get("accept", []) if result else []
    for role in gate_state(run, step.gate).missing:
        name, key = f"{signing.REHEARSAL} {role}", _keys(run.workspace) / role
        sign(run, statement(run, role, name, GO, step.gate, accept=marginal), key)


# -- setup -------------------------------------------------------------------------------------------------------------


def sample_run(row: plan.Step, sections: Mapping[str, Any]) -> RunState:
    """A new run for this notebook on a small sample, with the steps before it done. Raises UsageError where a run that is no
    rehearsal has its id, EnvironmentFailure where a step before it fails."""
    folder = RunFolder.of(f"sample-{row.number}")
    if folder.exists and not folder.read().facts["rehearsal"]:
        raise UsageError(
            ReasonCode.RUN_EXISTS, f"run {folder.id} is no rehearsal, and a notebook on the sample would make it anew",
            where=str(folder.reports), next_step="Move it, or set RUNBOOK_REPORTS to another folder.",
        )  # fmt: skip
    with RunLock(folder, "runner").acquire(1):
        for path in (folder.reports, *(p for p in folder.workspace.glob("*") if p.suffix != ".lock")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        chunks = int(os.environ.get("RUNBOOK_SAMPLE_CHUNKS") or SAMPLE_CHUNKS)
        parameters = prepare(folder.workspace, chunks, SAMPLE_DIMENSION, sections)
        runs.create(parameters, folder.id, rehearsal=True)
    for number in row.needs:
        needed = plan.find(number)
        _run_first(folder, needed)
        if needed.gate:
            approve(folder.read(), needed)
    return folder.read()


def _run_first(folder: RunFolder, step: plan.Step) -> None:
    """Run another notebook on the sample in a new process: a kernel cannot run one inside its own loop."""
    notebook, output = runs.NOTEBOOKS / step.notebook, folder.reports / step.notebook
    papermill = [sys.executable, "-m", "papermill", "-k", "python3"]
    command = [*papermill, "-p", "run_id", folder.id, str(notebook), str(output)]
    environment = {**os.environ, **python_environment()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"step {step.number} failed"]
        raise EnvironmentFailure(ReasonCode.SAMPLE_FAILED, lines[-1], next_step=f"See {folder.log_path}.")
    digests = {output.name: file_digest(output)}
    audit.append(folder.reports / audit.NAME, audit.NOTEBOOK_KEPT, step=step.number, digests=digests)


# -- sample client -----------------------------------------------------------------------------------------------------
#
# A client of a Chroma server for rehearsals: it writes through one URL and reads through the URL in a .env.
#
# `python -m helpers.rehearsal.setup URL ENV COLLECTION RECORD` works until its parent ends or it is asked to stop.
# RECORD is JSON, rewritten twice a second: `accepted` and `refused` writes (times, UTC), `errors` of writes and `reads`, by kind.
# Writes change metadata and add chunks. Nothing is deleted, and no vector of another chunk is changed.


KEY = "CHROMADB_URL"
WRITE_SECONDS, READ_SECONDS = 0.05, 0.1  # pauses: at most 20 writes and 10 reads a second
_ADD_EVERY = 20


class Client:
    """A client with a loop that writes and one that reads, and the record of both."""

    def __init__(self, url: str, env: Path, collection: str, record: Path) -> None:
        self.url, self.env, self.collection, self.record = url, env, collection, record
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.errors: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.failed_reads: Counter[str] = Counter()
        self.longest_gap = 0.0
        self._clients: dict[str, ClientAPI] = {}
        self._stack = ExitStack()
        self._session = self._stack.enter_context(Session(timeout=30.0))

    def work(self, stopped: threading.Event) -> None:
        """Write and read until `stopped`."""
        loops = [threading.Thread(target=loop, args=(stopped,)) for loop in (self._write, self._read)]
        for loop in loops:
            loop.start()
        while not stopped.wait(0.5):
            self.save()
        for loop in loops:
            loop.join()
        self._stack.close()
        self.save()

    def save(self) -> None:
        write_json(
            self.record,
            {
                "accepted": self.accepted, "refused": self.refused, "errors": dict(self.errors), "reads": dict(self.reads),
                "failed_reads": dict(self.failed_reads), "longest_gap_seconds": round(self.longest_gap, 3),
            },
        )  # fmt: skip

    def _write(self, stopped: threading.Event) -> None:
        collection = self._client(self.url).get_collection(self.collection, embedding_function=None)
        page: Any = collection.get(limit=200, include=["embeddings"])
        ids, dimension = list(page["ids"]), int(np.asarray(page["embeddings"]).shape[1])
        vectors = np.random.default_rng(1)
        number = 0
        while not stopped.wait(WRITE_SECONDS):
            number += 1
            if number % _ADD_EVERY:
                chunk = ids[number % len(ids)]
                change = _bound(collection.update, ids=[chunk], metadatas=[{"touched": number}])
            else:
                vector = vectors.standard_normal((1, dimension), dtype=np.float32)
                name = f"client-{number}"
                change = _bound(collection.add, ids=[name], embeddings=vector, documents=[f"Written while {name} worked."],
                                metadatas=[{"source": "the client of a rehearsal", "touched": number}])  # fmt: skip
            begun = utc_now()
            try:
                change()
                self.accepted.append(begun)
            except AuthorizationError:
                self.refused.append(begun)
            except Exception as error:
                self.errors[f"{type(error).__name__}: {str(error)[:80]}"] += 1

    def _read(self, stopped: threading.Event) -> None:
        last = time.monotonic()
        while not stopped.wait(READ_SECONDS):
            url = str(dotenv_values(self.env).get(KEY))
            try:
                client = self._client(url)
                first = min(client.list_collections(), key=lambda c: c.name)
                page = client.get_collection(first.name, embedding_function=None).get(limit=1, include=["documents"])
                assert page["ids"]
            except Exception as error:
                self.failed_reads[f"{url} {type(error).__name__}: {str(error)[:80]}"] += 1
                continue
            self.reads[url] += 1
            now = time.monotonic()
            self.longest_gap, last = max(self.longest_gap, now - last), now

    def _client(self, url: str) -> ClientAPI:
        if url not in self._clients:
            self._clients[url] = self._stack.enter_context(
                server_client(url, self._session, DEFAULT_TENANT, DEFAULT_DATABASE)
            )
        return self._clients[url]


def _bound(call: Callable[..., object], **arguments: Any) -> Callable[[], object]:
    return lambda: call(**arguments)


def main(url: str, env: str, collection: str, record: str) -> None:
    stopped, parent = threading.Event(), os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())

    def watch() -> None:
        while os.getppid() == parent and not stopped.wait(0.5):
            pass
        stopped.set()

    threading.Thread(target=watch, daemon=True).start()
    Client(url, Path(env), collection, Path(record)).work(stopped)


if __name__ == "__main__":
    main(*sys.argv[1:])
