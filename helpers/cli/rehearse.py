"""`runbook rehearse --servers`: the whole window between two real Chroma servers, with nginx and a client that keeps writing.

Everything is started here, on loopback and free ports, and stopped in the end, also on Ctrl-C. The client writes through
nginx to the source and reads through the URL in its .env the whole time; what it saw is judged when all is over.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from helpers import audit
from helpers.errors import RUNBOOK, EnvironmentFailure, one_line
from helpers.fence import LIFTING, UP, FenceState
from helpers.fence.nginx import Nginx, configuration
from helpers.formatting import count, duration
from helpers.migration.checkpoint import Checkpoint
from helpers.migration.restore import restore
from helpers.notify import Event, send_notice
from helpers.parameters import Parameters, parameters_from
from helpers.parameters.endpoint import Endpoint
from helpers.parameters.sections import NginxFence
from helpers.reason_codes import ReasonCode
from helpers.rehearsal.sample_application import WRITE_SECONDS
from helpers.rehearsal.setup import KEY, free_port, prepare, write_command
from helpers.report import numbers, read_run
from helpers.report.pages import leave
from helpers.results import Verdict, json_text, utc_now, write_json, write_text
from helpers.rollback import DRILL, KILL_DRILL, Orders, at_work, postmortem
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.command import python_environment, run_or_fail
from helpers.run.folders import RunFolder, RunPath
from helpers.run.plan import Step
from helpers.runner import outcome
from helpers.runner.outcome import run_to_outcome
from helpers.status import Console, open_steps
from helpers.stores.wire import Session, heartbeat

# -- drills ------------------------------------------------------------------------------------------------------------

# What a rehearsal drills: a kill while step 22 writes; beside the steps after it the restore of the snapshot; when they have
# ended with GO, the rollback. Timed, proven.
#
# The restore goes into a scratch directory that is removed again. The rollback is the real one, of the run itself: it takes
# from the target what the run put there. Then the rehearsal is put back to its state after the cutover, so that its
# target can be looked at; every chunk of it is compared with what was there before. The decision stays what it was, GO;
# what was drilled is in run.json (`drills`, from where the page has it) and in drills/<name>.json.


PUT_BACK = "put-back"  # what follows the rollback's drill, with a result file of its own
# Kills of other steps, or between batches, are not drilled.
KILLED = "of the process of step 22, with a batch in flight"
_LOOK_SECONDS = 0.005  # between two looks at the import that is to be killed


def drill(folder: RunFolder, terminal: Console) -> list[str]:
    """Run the steps up to the cutover and the drills; a sentence for each drill. Raises the error of a drill that failed."""
    sentences = drill_kill_and_restore(folder, terminal)
    sentences.append(drill_rollback(folder, terminal, put_back=True))
    terminal.say(f"  Drill: {sentences[-1]}")
    record_drills(folder, sentences, terminal)
    return sentences


def drill_kill_and_restore(folder: RunFolder, terminal: Console) -> list[str]:
    """The steps up to the cutover with a kill of step 22; the restore of their snapshot in a process of its own beside the rest.

    A sentence for each drill. Raises what made one of them fail.
    """
    steps = [step for step in plan.LINE if not step.follows_cutover]
    kill = _kill_step_22(folder, steps, terminal)
    with _restore_beside(folder) as restored:
        sentences = [f"{_resume(folder, steps, kill, terminal)} ({_file('kill')})"]
        with _recording(folder, "restore") as record:
            record |= restored()
    lost = sum(map(len, record["without_vector"].values()))
    more = f"; {count(lost, 'chunk')} without a vector listed, as in the source" if lost else ""
    sentences.append(
        f"restore of snapshot {record['snapshot']} into {record['into']}, an empty directory, with Chroma "
        f"{record['chroma_version']}: {count(record['compared'], 'chunk')} compared with the snapshot, none differs, in "
        f"{duration(record['seconds'])} beside the steps after it; then it was removed{more} ({_file('restore')})"
    )
    terminal.say(f"  Drill: {sentences[-1]}")
    return sentences


@contextmanager
def _recording(folder: RunFolder, what: str, record: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Write `drills/<what>.json` at the end: when, by whom, what was measured and proven; if the drill failed, why."""
    began, record = utc_now(), {} if record is None else record
    record["verdict"] = Verdict.PASS
    try:
        yield record
    except BaseException as error:
        record |= {"verdict": Verdict.FAIL, "why": one_line(str(error) or type(error).__name__, 400)}
        raise
    finally:
        about = {"drill": what, "run_id": folder.id, "began": began, "ended": utc_now(), "by": audit.operator()}
        text = json_text(about | record)
        digests = {_file(what): hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()}
        outcome = {"outcome": record["verdict"], "seconds": record.get("seconds"), "digests": digests}
        audit.append(folder.reports / audit.NAME, audit.DRILL, what=what, **outcome)
        write_text(folder.reports / _file(what), text)


def _file(what: str) -> str:
    """Where a drill's record is, in the folder of the run."""
    return f"{RunPath.DRILLS}/{what}.json"


def record_drills(folder: RunFolder, sentences: list[str], terminal: Console) -> None:
    """Record the drills, notify people if the rollback was undone, seal, and show it on the run's page."""
    run = folder.note(drills=sentences)
    if when := read_run(run).put_back:
        postmortem.put_back(run, when)
        send_notice(
            run,
            Event.PUT_BACK,
            key=when,
            say=terminal.say,
            drill=True,
            why=sentences[-1],
            open=str(run.reports / postmortem.PAGE),
        )
    leave(run)


@dataclass(frozen=True, slots=True)
class _Kill:
    """When step 22 was killed, with the chunks of its checkpoint: staged, written, and in flight (these may be in the target)."""

    when: str
    staged: int
    written: int
    in_flight: int


def _kill_step_22(folder: RunFolder, steps: list[Step], terminal: Console) -> _Kill | None:
    """Run `steps` until step 22 is killed in the middle of its import, as a power failure would; None where all of them ended."""
    ended, kills = threading.Event(), list[_Kill]()
    killer = threading.Thread(target=_kill_in_the_middle, args=(folder, ended, kills))
    killer.start()
    try:
        run_to_outcome(folder, steps, terminal)
    except EnvironmentFailure:
        if not kills:
            raise
    finally:
        ended.set()
        killer.join()
    return kills[0] if kills else None


def _resume(folder: RunFolder, steps: list[Step], kill: _Kill | None, terminal: Console) -> str:
    """Run what the kill left open of `steps`; what the drill showed, in a sentence."""
    with _recording(folder, "kill") as record:
        if kill is None:
            why = "step 22 had written every chunk before it could be killed in the middle"
            record |= {"verdict": Verdict.NOT_EXERCISED, "why": why}
            return f"kill: NOT EXERCISED, {why}"
        done = f"{kill.written:,} of {count(kill.staged, 'chunk')} written"
        terminal.say(f"  Drill: step 22 was killed with {done}; now it is resumed.")
        (folder.workspace / KILL_DRILL).unlink()
        run_to_outcome(folder, open_steps(folder.read(), steps[-1]), terminal)
        migrated = folder.read().result(Step.MIGRATE)
        assert migrated is not None  # every step has passed
        seconds = (dt.datetime.fromisoformat(migrated.finished) - dt.datetime.fromisoformat(kill.when)).total_seconds()
        imported = migrated.facts["import"]
        there = int(imported["to_write"]) - int(imported["chunks"])
        record |= {
            "began": kill.when, "killed": KILLED, "kills": 1, "seconds": round(seconds, 1), "staged": kill.staged,
            "written_at_kill": kill.written, "in_flight_at_kill": kill.in_flight, "written_at_resume": there,
            "written_by_resume": int(imported["chunks"]), "resumed": migrated.facts.get("resumed"),
        }  # fmt: skip
        if there != kill.written:
            record |= {"verdict": Verdict.NOT_EXERCISED, "why": f"the resume went on from {count(there, 'chunk')}"}
            return f"kill: NOT EXERCISED, step 22 was killed with {done} and went on from {there:,}"
    return (
        f"kill: step 22 was killed with {done} and {kill.in_flight:,} in flight; the resume found the {there:,} and wrote the "
        f"other {imported['chunks']:,}; it passed {duration(seconds)} after the kill; steps 22 and 23 then found each chunk "
        f"once; no other kill was drilled"
    )


def _kill_in_the_middle(folder: RunFolder, ended: threading.Event, kills: list[_Kill]) -> None:
    """End the kernel of step 22 while some chunks are written, some are not, and a batch is in flight.

    It is stopped before its checkpoint is read, so that it is killed in exactly the recorded state.
    """
    path = folder.workspace / RunPath.CHECKPOINT
    while not ended.wait(_LOOK_SECONDS):
        if not path.exists() or not any(t.inflight for t in Checkpoint.read(path).targets.values()):
            continue
        for pid in at_work(folder).keys() - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                try:
                    if _in_the_middle(path, kills):
                        (folder.workspace / KILL_DRILL).touch()  # on disk first: the notice says that it is a drill
                        os.kill(pid, signal.SIGKILL)
                        break
                finally:
                    os.kill(pid, signal.SIGCONT)
        if kills:  # the log may have been locked by what was stopped
            audit.append(folder.reports / audit.NAME, "drill: step 22 killed", process=pid, written=kills[0].written)
            return


def _in_the_middle(path: Path, kills: list[_Kill]) -> bool:
    """Whether the stopped import is partly done; if so, its state is added to `kills`."""
    targets = Checkpoint.read(path).targets.values()
    staged, written = sum(t.rows for t in targets), sum(t.completed for t in targets)
    in_flight = sum(t.inflight[1] - t.inflight[0] for t in targets if t.inflight)
    if in_flight and 0 < written < staged:
        kills.append(_Kill(utc_now(), staged, written, in_flight))
    return bool(kills)


@contextmanager
def _restore_beside(folder: RunFolder) -> Iterator[Callable[[], dict[str, Any]]]:
    """The drill of the restore, in a process of its own; yields what waits for it and gives its facts.

    That raises `EnvironmentFailure` where it failed. The end of the context ends the process and removes its directory.
    """
    log, result = folder.workspace / "drill-restore.log", folder.workspace / "drill-restore.json"
    result.unlink(missing_ok=True)
    with _process([sys.executable, "-m", "helpers.cli.rehearse", folder.id, str(result)], log) as process:

        def restored() -> dict[str, Any]:
            if process.wait():
                why = one_line(log.read_text(encoding="utf-8", errors="replace")[-400:], 400)
                raise EnvironmentFailure(ReasonCode.REHEARSAL_FAILED, f"the drill of the restore failed: {why}",
                                         where=str(folder.workspace), next_step=f"See {log}.")  # fmt: skip
            return _record(result)

        yield restored
    shutil.rmtree(_scratch(folder), ignore_errors=True)


def _scratch(folder: RunFolder) -> Path:
    return folder.workspace / "drill-restore"


def drill_restore(folder: RunFolder) -> dict[str, Any]:
    """Restore the snapshot of step 21 into a scratch directory, compare every chunk, remove it; a sentence about it."""
    snapshot, scratch = postmortem.proven_snapshot(folder), _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)  # of a drill that was killed
    began, begun = utc_now(), time.monotonic()
    done = restore(snapshot, Endpoint.model_validate({"path": str(scratch)}), without_lost=True)
    shutil.rmtree(scratch)
    seconds = time.monotonic() - begun
    proven, lost = sum(done.proven.values()), sum(map(len, done.lost.values()))
    return {
        "began": began, "ended": utc_now(), "seconds": round(seconds, 3), "beside": "steps 22 to 25", "snapshot": snapshot.id,
        "digest": snapshot.digest, "into": str(scratch), "chroma_version": done.version, "compared": proven,
        "proven": done.proven, "differences": snapshot.total - proven - lost, "without_vector": done.lost,
        "removed_afterwards": not scratch.exists(),
    }  # fmt: skip


def drill_rollback(folder: RunFolder, terminal: Console, *, put_back: bool = False) -> str:
    """Roll back the run itself; a sentence about it. With `put_back`, a client writes first, that write is replayed, and then
    everything but that write is put back to its state after the cutover, which is proven."""
    proof: dict[str, Any] = {}
    with ExitStack() as around:
        record = around.enter_context(_recording(folder, "rollback"))
        if put_back:
            around.enter_context(_recording(folder, PUT_BACK, proof))
            around.enter_context(postmortem.undo_after_drill(folder, proof))
            record["client_write"] = _client_write(folder)  # put back with the rest: it stays in neither database
        outcome.execute(folder, Orders(why=DRILL, replay=put_back), terminal, locked=True)
        result = folder.read().result(Step.ROLLBACK)
        measured = numbers.rollback(result)
        assert measured is not None  # the command has passed
        assert result is not None
        record |= {
            "seconds": asdict(measured),
            "checks": {c.name: str(c.verdict) for c in result.checks},
            "put_back": _file(PUT_BACK) if put_back else "",
        }
    sentence = f"rollback: source proven, configuration files back, {numbers.rollback_words(measured, brief=True)}"
    if not put_back:
        return f"{sentence} ({_file('rollback')})"
    return (
        f"{sentence}; then everything was put back to its state before the drill, without the chunk that a client wrote for it: "
        f"{count(sum(proof['compared'].values()), 'chunk')} of the target compared with those before, none differs; the source "
        f"is its copy from before the drill: {count(proof['source']['compared'], 'chunk')} compared with the snapshot, none "
        f"differs; configuration files as before; {proof['application']} ({_file('rollback')}, {_file(PUT_BACK)})"
    )


def _client_write(folder: RunFolder) -> str:
    """Write to the target as a client, for the replay of the rollback; the output, "" without an application."""
    if (command := write_command(folder.read().parameters)) is None:
        return ""
    answer = run_or_fail(command, WRITE_SECONDS, "the write of the application").last_line
    audit.append(folder.reports / audit.NAME, "drill: a client's write to the target", said=answer)
    return answer


# -- rehearse ----------------------------------------------------------------------------------------------------------


COLLECTION = "openwebui_docs"  # of the sample; the client works on it
_START_SECONDS, _STOP_SECONDS = 120.0, 20.0
_LIVE = 2_000  # chunks that the client may add between two counts without the count being wrong


def rehearse_servers(folder: RunFolder, chunks: int, dimension: int) -> int:
    """The rehearsal; 0 where it passed. `EnvironmentFailure` where nginx is missing or the client met what it must not."""
    program = nginx_program()
    terminal = Console()
    with _sigterm_as_interrupt(), ExitStack() as stack:
        terminal.say(f"Creating a sample source of {count(chunks, 'chunk')}, {dimension} dimensions …")
        embedded = prepare(folder.workspace, chunks, dimension)
        terminal.say("Starting two Chroma servers, nginx before the first, and a client that writes and reads …")
        logs = folder.workspace
        source = stack.enter_context(chroma_server(Path(str(embedded.source.path)), logs / "source-server.log"))
        target = stack.enter_context(chroma_server(folder.workspace / "target-server", logs / "target-server.log"))
        fence = NginxFence(
            listen=f"127.0.0.1:{free_port()}", upstream=source.removeprefix("http://"),
            config=str(folder.workspace / "nginx.conf"),
            command=[program, "-c", str(folder.workspace / "nginx.conf")],
        )  # fmt: skip
        url = stack.enter_context(proxy(fence, folder.id))
        env = folder.workspace / "application" / ".env"
        write_text(env, f"# The application of the rehearsal\n{KEY}={url}  # the vector database\n")
        runs.create(_parameters(embedded, source, target, fence, env, chunks), folder.id, rehearsal=True)
        record = folder.workspace / "client.json"
        stack.enter_context(client(url, env, record, logs / "client.log"))
        summary = _window(folder, terminal, env, target, url)
        time.sleep(2.0)  # the client writes again
        summary |= judge(folder, _record(record), target)
    width = max(map(len, summary))
    lines = [f"  {what:<{width}}  {value}" for what, value in summary.items()]
    head = f"Run {folder.id}, between two servers:"
    terminal.say("\n".join(["", head, *lines, "Verdict: GO", f"Open:    {folder.reports / RunPath.PAGE}"]))
    return 0


def _window(folder: RunFolder, terminal: Console, env: Path, target: str, url: str) -> dict[str, str]:
    """Run all steps, closeout included, then the rollback; their durations and the URL in .env after each."""
    run_to_outcome(folder, list(plan.LINE), terminal)
    _require_url(env, target, "the cutover")
    run = folder.read()
    steps = {step.number: result for step in plan.LINE if (result := run.result(step.number)) is not None}
    window = numbers.forward(steps)
    assert window is not None  # every step has passed
    back = drill_rollback(folder, terminal)
    _require_url(env, url, "the rollback")
    record_drills(folder, [back], terminal)
    return {
        "fence to verified cutover": duration(window.wall),
        ".env after the cutover": target,
        "rollback": back.removeprefix("rollback: "),
        ".env after it": url,
    }


def _require_url(env: Path, url: str, when: str) -> None:
    if f"{KEY}={url} " not in env.read_text(encoding="utf-8").replace('"', ""):
        raise EnvironmentFailure(ReasonCode.REHEARSAL_FAILED, f"does not point to {url} after {when}", where=str(env))


def judge(folder: RunFolder, record: dict[str, Any], target: str) -> dict[str, str]:
    """The client's record in words. `EnvironmentFailure` where a write passed the active fence, or a read failed."""
    state = FenceState.load(folder.workspace)
    assert state is not None  # step 20 has passed
    up = next(e["when"] for e in state.events if e["state"] == UP)
    down = next(e["when"] for e in state.events if e["state"] == LIFTING)
    before = sum(when < up for when in record["accepted"])
    between = sum(up < when < down for when in record["accepted"])
    after = sum(when > down for when in record["accepted"])
    wrong = {
        "no write got through before the fence": not before,
        f"{between} writes got through the fence": bool(between),
        "no write was refused while it was active": not record["refused"],
        "no write got through after it was lifted": not after,
        f"writes failed in other ways: {record['errors']}": bool(record["errors"]),
        f"reads failed: {record['failed_reads']}": bool(record["failed_reads"]),
        "no read went to the target after the cutover": not record["reads"].get(target),
    }
    if failures := [what for what, is_so in wrong.items() if is_so]:
        raise EnvironmentFailure(ReasonCode.REHEARSAL_FAILED, "; ".join(failures), where=f"the client of run {folder.id}",
                         next_step=f"See {folder.workspace / 'client.json'} and {folder.log_path}.")  # fmt: skip
    reads, gap = sum(record["reads"].values()), record["longest_gap_seconds"]
    return {
        "client's writes": f"{count(before)} before the fence, {count(after)} after it",
        "refused meanwhile": f"{count(len(record['refused']))}, each as AuthorizationError",
        "client's reads": f"{count(reads)}, none failed, longest pause {duration(gap)}, "
        f"{count(record['reads'][target])} of them from the target",
    }


def _record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _parameters(
    embedded: Parameters, source: str, target: str, fence: NginxFence, env: Path, chunks: int
) -> Parameters:
    """Those of the embedded rehearsal, with the servers, the fence and the .env put in; counts with room for the client."""
    document = embedded.document()
    document |= {
        "source": {"url": source}, "target": {"url": target},
        "expected": {**document["expected"], "collections": {}, "unlisted": 0, "total": chunks, "tolerance": _LIVE},
        "fence": {"kind": "nginx", "nginx": fence.model_dump(mode="json")},
        "cutover": {"env_files": [{"path": str(env), "keys": {KEY: "{target_url}"}}],
                    "monitor_minutes": document["cutover"]["monitor_minutes"]},
    }  # fmt: skip
    return parameters_from(document)


# -- processes ---------------------------------------------------------------------------------------------------------


def nginx_program() -> str:
    """The nginx of this machine. `EnvironmentFailure` where there is none."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise EnvironmentFailure(ReasonCode.NO_NGINX, "nginx is not installed here; this rehearsal's fence is one",
                         next_step=f"apt-get install nginx-light; or rehearse without it: {RUNBOOK} rehearse")  # fmt: skip
    return program


@contextmanager
def chroma_server(directory: Path, log: Path) -> Iterator[str]:
    """`chroma run` over this directory on a free port of loopback; its URL. `EnvironmentFailure` where it does not answer."""
    port = free_port()
    program = Path(sys.executable).with_name("chroma")
    command = [str(program), "run", "--path", str(directory.absolute()), "--host", "127.0.0.1", "--port", str(port)]
    with _process(command, log) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _START_SECONDS
        with Session(timeout=5) as http:
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(httpx.TransportError):
                    if heartbeat(lambda path: http.get(f"{url}/api/{path}"))[0]:
                        break
                time.sleep(0.2)
            else:
                raise EnvironmentFailure(ReasonCode.SERVER_DOES_NOT_START, "a Chroma server does not start", where=url,
                                 next_step=f"See {log}.")  # fmt: skip
        yield url


@contextmanager
def proxy(rules: NginxFence, run_id: str) -> Iterator[str]:
    """nginx before the source, letting everything through as before a migration; its URL."""
    nginx = Nginx(rules, 30.0)
    nginx.write(configuration(rules, run_id, closed=False))
    try:
        nginx.enforce()
        yield f"http://{rules.listen}"
    finally:
        pid = Path(f"{nginx.path}.pid")
        with suppress(OSError, ValueError):  # there is none where it did not start
            os.kill(int(pid.read_text(encoding="utf-8")), signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while pid.exists() and time.monotonic() < deadline:
            time.sleep(0.05)


@contextmanager
def client(url: str, env: Path, record: Path, log: Path) -> Iterator[None]:
    """The client at work, in a process of its own; it has begun to write and to read."""
    command = [sys.executable, "-m", "helpers.rehearsal.setup", url, str(env), COLLECTION, str(record)]
    with _process(command, log) as process:
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError, ValueError):
                record_now = _record(record)
                if record_now["accepted"] and record_now["reads"]:
                    break
            time.sleep(0.2)
        else:
            raise EnvironmentFailure(ReasonCode.CLIENT_DOES_NOT_WORK, "the client of the rehearsal does not start", where=url,
                             next_step=f"See {log}.")  # fmt: skip
        yield
        if process.poll() is not None:
            raise EnvironmentFailure(
                ReasonCode.REHEARSAL_FAILED, "the client of the rehearsal ended by itself", next_step=f"See {log}."
            )


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, so that Ctrl-C is the runner's alone; ended at the end, or when the runner is killed."""
    environment = {**os.environ, **python_environment(), "ANONYMIZED_TELEMETRY": "False"}
    if sys.platform == "linux":
        bound = f"kernel.die_with({os.getpid()}); os.execv({command[0]!r}, {command!r})"
        command = [sys.executable, "-c", f"import os; from helpers.run import kernel; {bound}"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def ask(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), drill_restore(RunFolder.of(sys.argv[1])))
