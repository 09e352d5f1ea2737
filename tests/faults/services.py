"""What stands around a migration, and fails: nginx with the write fence, the scheduler, the server of notices, the clock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import ROOT, require_component
from tests.faults.bench import ALTERED, HELD, HUNG, LOST, MISSED, REFUSED, STUCK, Bench, Ended, Fault
from tests.faults.command import Order
from tests.faults.rounds import TO_22, Round, at_22, resumed, while_at_work
from tests.faults.shared import fill_server
from tests.heavy.commands import Trial, descendants, kill_all
from tests.listeners import Listener
from tests.servers import ChromaServer, free_port
from tests.signers import Signers

# -- nginx ---------------------------------------------------------------------------------------------------------------

# The operator's nginx. What the file `how` says, it does to a reload: refuses it, or takes it and goes on as before.
WRAPPER = """\
#!/bin/sh
case "$*" in
*"-s reload"*)
  case "$(cat {how})" in
  refused) echo "nginx: [emerg] the reload is refused" >&2; exit 1;;
  ignored) exit 0;;
  esac;;
esac
exec {program} "$@"
"""


class Fronted(Bench):
    """A bench whose source is a server behind an nginx, which stands as it stood in each state; its target is a directory."""

    STATES = ("new", "ready", "snapshot", "migrated", "decided")

    def __init__(self, folder: Path, stack: ExitStack, when: str = "start") -> None:
        self.server = stack.enter_context(ChromaServer(folder / "source-server"))
        self.nginx, self.how = folder / "nginx", folder / "nginx/how"
        self.nginx.mkdir(parents=True, exist_ok=True)
        program = self.nginx / "wrapper"
        program.write_text(WRAPPER.format(how=self.how, program=require_component("nginx", "it holds the write fence")))
        program.chmod(0o755)
        self.workers = set[psutil.Process]()  # of a master that was killed alone
        self.config, self.listen = self.nginx / "fence.conf", f"127.0.0.1:{free_port()}"
        self.command = [str(program), "-c", str(self.config)]
        rules = {"listen": self.listen, "upstream": f"127.0.0.1:{self.server.port}", "config": str(self.config)}
        nginx = {**rules, "command": self.command}
        fence = json.dumps({"kind": "nginx", "when": when, "nginx": nginx, "timeout_seconds": 20.0})
        super().__init__(
            folder, source=f"{{url: '{self.server.url}'}}", source_url=self.server.url, more=f"fence: {fence}\n"
        )
        stack.callback(self.kill)

    def _make_new(self) -> None:
        super()._make_new()
        self.before = f"""\
pid {self.config}.pid;
error_log {self.config}.log;
events {{ worker_connections 64; }}
http {{ access_log off; server {{ listen {self.listen}; location / {{ proxy_pass http://127.0.0.1:{self.server.port}; }} }} }}
"""
        (self.home / "fence.conf").write_text(self.before)

    def _make_decided(self) -> None:
        """One command to the decision, so that the fence is up."""
        self.must("run", "--run-id", "one", "--from", "22", "--until", "24", code=4)
        _sign(self)

    def at(self, state: str) -> None:
        self.how.write_text("obeyed")
        fill_server(self.server.url, self.scratch)
        kept = self._kept / state
        made = kept.is_dir()
        if not made and state == "new":
            self.kill()
        super().at(state)
        if not made and state != "new":
            shutil.copy(self.config, kept / "fence.conf")
        self.kill()
        shutil.copy(kept / "fence.conf", self.config)
        self.launch()

    def launch(self) -> None:
        """As its service manager does: with the file as it is now."""
        if self.master is None:
            done = subprocess.run(self.command, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode:
                raise Fault(STUCK, f"nginx does not start with what is in its file: {done.stderr[-300:]}")

    @property
    def master(self) -> psutil.Process | None:
        with suppress(OSError, ValueError, psutil.Error):
            found = psutil.Process(int(Path(f"{self.config}.pid").read_text()))
            return found if found.name() == "nginx" and found.status() != psutil.STATUS_ZOMBIE else None
        return None

    def kill(self, *, master_alone: bool = False) -> None:
        """kill -9 of the master and its workers; its pid file stays, as such a death leaves it."""
        if (master := self.master) is not None:
            master.suspend()  # one at work on a reload would start more of them meanwhile
            self.workers |= set(master.children())
            master.kill()
            psutil.wait_procs([master], 30)
        if not master_alone:  # one that is alive would replace its workers
            for process in self.workers:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(self.workers, 30)
            self.workers.clear()

    def fence_is(self) -> str:
        with suppress(OSError, ValueError):
            return str(json.loads((self.home / "workspace/one/fence.json").read_bytes())["state"])
        return ""

    def writes(self, number: int) -> bool:
        """Whether a client's write through nginx is taken; the chunk, named by `number`, is the same each time."""
        at = f"http://{self.listen}/api/v2/tenants/default_tenant/databases/default_database/collections"
        with httpx.Client(trust_env=False, timeout=20) as client:
            alpha = next(c["id"] for c in client.get(at).json() if c["name"] == "alpha")
            row = {"ids": [f"client{number}"], "embeddings": [[0.5, 0.25, 0.0, 1.0]], "documents": ["late"]}
            return bool(client.post(f"{at}/{alpha}/upsert", json=row).is_success)


def _sign(bench: Bench, **more: Any) -> None:
    keys = Signers.of(bench.home / "keys")
    for role in keys.roles:
        if (done := bench.run("sign", "one", *keys.command(role), **more)).code not in (0, 4):
            raise Fault(STUCK, f"sign: exit {done.code}: {done.line}")


def lifted_while_waiting(turn: Round, bench: Fronted) -> None:
    """Those who sign take a day, so the fence is lifted; then all sign, and the run goes on."""
    bench.at("decided")
    bench.must("fence", "one", "--lift")
    for _ in range(2):
        done = bench.run("resume", "one", "--until", "25")
        turn.say(f"exit {done.code}: {done.line}")
        if done.code != 4:
            break
        _sign(bench)
    if done.code:
        raise Fault(STUCK, f"signed twice, and no cutover: {done.line}")
    bench.compare()


def nginx(turn: Round) -> str:
    """nginx dies, or does not do what it is told, around a write fence; its service manager starts it again."""
    bench: Fronted = turn.shared.once("fronted", lambda folder: Fronted(folder, turn.shared.stack))
    fault = turn.turn([fence_rises, fence_proven, dead_while_migrating, at_cutover, reload_refused, reload_ignored,
                       orphaned_workers, opened_by_somebody, lifted_while_waiting, at_lift])  # fmt: skip
    turn.say(fault.__name__)
    fault(turn, bench)
    bench.launch()
    resumed(bench, "resume", "one", "--until", "24", codes=(0, 4))
    if (fence := bench.fence_is()) != "lifted":  # "lifting" promises nothing: the command that failed has said so
        if fence == "up" and bench.writes(0):
            raise Fault(LOST, "the fence counts as up, and a client's write gets through")
        bench.compare()
        bench.must("fence", "one", "--lift")
    bench.launch()
    if bench.config.read_text() != bench.before:
        raise Fault(ALTERED, "nginx's file is not what it was before the fence")
    if not bench.writes(1):
        raise Fault(STUCK, "the fence is lifted, and a client's write does not get through")
    return HELD


def _killed_when(
    turn: Round, bench: Fronted, state: str, command: tuple[str, ...], reached: Callable[[], bool], later: float = 0.5
) -> Ended:
    """nginx is killed once the command has come so far, up to so many seconds later; how the command ended."""
    bench.at(state)
    child = bench.start(*command)
    while_at_work(child, reached, "the fence", 200)
    time.sleep(turn.chance.random() * later)
    if child.ended:
        raise Fault(MISSED, "the command had ended before nginx was killed")
    bench.kill()
    done = bench.ended(child)
    turn.say(f"exit {done.code}: {done.line}")
    return done


_TO_20 = ("run", "trial.yaml", "--run-id", "one", "--until", "20")


def fence_rises(turn: Round, bench: Fronted) -> None:
    _killed_when(turn, bench, "new", _TO_20, lambda: bench.fence_is() == "setting")


def fence_proven(turn: Round, bench: Fronted) -> None:
    _killed_when(turn, bench, "new", _TO_20, lambda: bench.fence_is() == "up", later=0.0)


def dead_while_migrating(turn: Round, bench: Fronted) -> None:
    _killed_when(turn, bench, "ready", TO_22, (bench.home / "workspace/one/checkpoint.json").exists)


def at_cutover(turn: Round, bench: Fronted) -> None:
    journal = bench.home / "workspace/one/progress.json"
    _killed_when(turn, bench, "decided", ("resume", "one", "--until", "25"), journal.exists)
    bench.launch()
    if bench.run("resume", "one", "--until", "25").code == 4:  # what was signed was signed with the fence up
        _sign(bench)
        resumed(bench, "resume", "one", "--until", "25")
    text = (bench.home / "app.env").read_text(encoding="utf-8")
    if "CHROMA_URL=after" not in text:
        raise Fault(ALTERED, f"app.env after the cutover: {text!r}")


def reload_refused(turn: Round, bench: Fronted) -> None:
    bench.at("new")
    bench.how.write_text("refused")
    _must_not_pass(turn, bench)


def reload_ignored(turn: Round, bench: Fronted) -> None:
    bench.at("new")
    bench.how.write_text("ignored")
    _must_not_pass(turn, bench)


def orphaned_workers(turn: Round, bench: Fronted) -> None:
    """The master was killed alone: its workers hold the port, and go on as before."""
    bench.at("new")
    bench.kill(master_alone=True)
    _must_not_pass(turn, bench)
    bench.kill()


def _must_not_pass(turn: Round, bench: Fronted) -> None:
    done = bench.run(*_TO_20)
    turn.say(f"exit {done.code}: {done.line}")
    if done.code == 0:
        raise Fault(LOST, "step 20 passed, and nginx never took the fence")
    if not bench.writes(2):
        raise Fault(STUCK, "step 20 failed, and clients cannot write any more")
    bench.how.write_text("obeyed")
    bench.wanted = bench.contents(bench.source_place)


def opened_by_somebody(turn: Round, bench: Fronted) -> None:
    """nginx dies while the fence is up, somebody starts it with its old file, a client writes: no cutover without that."""
    bench.at("decided")  # and signed: the fence is up until the cutover is done
    bench.kill()
    closed = bench.config.read_text()
    bench.config.write_text(bench.before)
    bench.launch()
    if not bench.writes(3):
        raise Fault(MISSED, "the write did not get through")
    done = bench.run("resume", "one", "--until", "25")
    turn.say(f"with the fence open: exit {done.code}: {done.line}")
    bench.wanted = bench.contents(bench.source_place)
    if done.code == 0:
        bench.compare()
    bench.kill()
    bench.config.write_text(closed)
    bench.launch()
    bench.must("run", "--run-id", "one", "--from", "22", "--until", "23")


def at_lift(turn: Round, bench: Fronted) -> None:
    _killed_when(
        turn, bench, "decided", ("fence", "one", "--lift"), lambda: bench.fence_is() in ("lifting", "lifted"), 0.0
    )
    bench.launch()
    bench.must("fence", "one", "--lift")


# -- scheduler -----------------------------------------------------------------------------------------------------------

# As cron, systemd or CI start a command: in a shell of a session of its own, without a terminal, SIGINT ignored.
_JOB = "trap '' INT; {python} -m helpers {words}; echo ended $?"


def scheduler(turn: Round) -> str:
    """What started the command dies, or ends it as schedulers do, and starts it once more."""
    bench = turn.shared.bench()
    bench.at("snapshot")
    trial, how = Trial(bench.home), turn.turn(["scheduler alone", "terminated, then killed", "hung up", "all at once"])
    first = _job(bench)
    deadline = time.monotonic() + 120
    while not (runner := _runner(first.pid)) or not (bench.home / "workspace/one/progress.json").is_file():
        if first.poll() is not None or time.monotonic() > deadline:
            raise Fault(MISSED, f"the job did not begin: {trial.output[-300:]}")
        time.sleep(0.05)
    time.sleep(turn.chance.random() * 4)
    below = descendants(first.pid)
    if not psutil.pid_exists(runner):
        raise Fault(MISSED, "the command had ended before its scheduler")
    if how == "scheduler alone":
        kill_all([first.pid])
    elif how == "all at once":
        kill_all([first.pid, *below])
    else:
        os.killpg(first.pid, signal.SIGTERM if how.startswith("term") else signal.SIGHUP)
        time.sleep(turn.chance.random() * 2)
        if how.startswith("term"):
            kill_all([first.pid, *below])
    first.wait(60)
    turn.say(how)
    again = _job(bench, "again.txt")  # beside the first, where only the scheduler died
    with suppress(subprocess.TimeoutExpired):
        again.wait(300)
    deadline = time.monotonic() + 120
    while left := [pid for pid in [again.pid, *below] if _works(pid)]:
        if time.monotonic() > deadline:
            kill_all(left)
            raise Fault(HUNG, f"after: {how}: {len(left)} processes do not end")
        time.sleep(0.1)
    for file in ("output.txt", "again.txt"):
        said = (bench.home / file).read_text(encoding="utf-8", errors="replace")
        turn.say(f"{file}: {said.splitlines()[-1:]}")
        bench.judge_words(Ended(0, said, Order(bench.home, TO_22), time.time()))
    return at_22(bench)


def _job(bench: Bench, output: str = "output.txt") -> subprocess.Popen[bytes]:
    folders = {"RUNBOOK_REPORTS": str(bench.home / "reports"), "RUNBOOK_WORKSPACE": str(bench.home / "workspace")}
    with (bench.home / output).open("wb") as out:
        return subprocess.Popen(
            # A campaign under nohup would hand on that it ignores SIGHUP.
            ["/bin/sh", "-c", _JOB.format(python=sys.executable, words=" ".join(TO_22))],
            cwd=bench.home, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            env={**os.environ, **folders, "PYTHONPATH": str(ROOT), "RUNBOOK_BROWSER": "none"},
        )  # fmt: skip


def _runner(job: int) -> int:
    for pid in descendants(job):
        with suppress(OSError):
            if b"-m\0helpers\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return 0


def _works(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


# -- notices -------------------------------------------------------------------------------------------------------------

WEB: dict[str, dict[str, Any]] = {
    "taken": {},
    "rejected": {"status": 500},
    "refused": {"status": 403},
    "busy": {"status": 429},
    "silent": {"hang": 60.0},
}
MAIL = ("taken", "no greeting", "rejects the server", "rejects the recipient", "dies in the data", "a byte a second")


def notices(turn: Round) -> str:
    """The web hook and the mail server are dead, slow or rejecting: the run goes on in time, and says what was delivered."""
    bench = turn.shared.bench(
        "notified",
        more="notify: {urls: ['env:HOOK', 'env:MAIL'], timeout_seconds: 2, stakeholders: [Web team]}\n",
    )
    bench.environment = {"HOOK": "json://127.0.0.1:9/none", "MAIL": "json://127.0.0.1:9/none"}
    bench.at("migrated")
    web = turn.turn([*WEB, "dead"])
    mail = turn.turn([*MAIL, "dead"])
    with Listener(**WEB.get(web, {})) as hook, MailServer(mail) as post:
        port = free_port()  # where nobody listens
        bench.environment = {
            "HOOK": hook.url if web != "dead" else f"json://127.0.0.1:{port}/none",
            "MAIL": f"mailto://127.0.0.1:{port if mail == 'dead' else post.port}/?to=dba@example.org&from=run@example.org"
            "&mode=insecure",
        }
        begun = time.monotonic()
        done = bench.run("resume", "one")
        took = time.monotonic() - begun
        if web != "dead" and not hook.asked:
            raise Fault(MISSED, "the web hook was not asked")
        if mail != "dead" and not post.asked:
            raise Fault(MISSED, "the mail server was not asked")
        turn.say(f"web hook {web}, mail server {mail}: exit {done.code} after {took:.0f} s: {done.line}")
    if done.code != 4:
        raise Fault(STUCK, f"exit {done.code}: {done.line}")
    said: dict[str, list[str]] = {"env:HOOK": [], "env:MAIL": []}
    for line in (bench.home / "reports/one/notices.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["when"] >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - took - 1)):
            said[entry["facts"]["channel"]].append(entry["outcome"])
    for channel, well in (("env:HOOK", web == "taken"), ("env:MAIL", mail == "taken")):
        if set(said[channel]) != {"delivered" if well else "failed"}:
            raise Fault(
                ALTERED, f"{channel} was {web if channel == 'env:HOOK' else mail}, and counts as {said[channel]}"
            )
    bench.compare()
    return HELD


class MailServer:
    """An SMTP server that does as `how` says, one of MAIL; `asked` counts connections."""

    def __init__(self, how: str) -> None:
        self.how, self.asked, self._open = how, 0, list[socket.socket]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            connection.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.asked += 1
                self._open.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            if self.how == "no greeting":
                self._over.wait()
            if self.how == "a byte a second":
                for letter in b"220 mail.example.org ready\r\n":
                    connection.sendall(bytes([letter]))
                    if self._over.wait(1):
                        return
            connection.sendall(b"554 go away\r\n" if self.how == "rejects the server" else b"220 mail\r\n")
            data = False
            for line in lines:
                word = line.strip().upper()
                if data:
                    if self.how == "dies in the data":
                        return
                    if word != b".":
                        continue
                    data = False
                if word == b"QUIT":
                    connection.sendall(b"221 bye\r\n")
                    return
                if word == b"DATA":
                    data = True
                    connection.sendall(b"354 go on\r\n")
                elif word.startswith(b"RCPT") and self.how == "rejects the recipient":
                    connection.sendall(b"550 no such user\r\n")
                else:
                    connection.sendall(b"250 mail\r\n")


# -- the clock -----------------------------------------------------------------------------------------------------------

_DAY = 86400.0
CLOCKS = (-20_000 * _DAY, -400 * _DAY, -3 * 3600.0, 3 * 3600.0, 400 * _DAY, 7000 * _DAY)


def wrong_clock(turn: Round) -> str:
    """The machine's clock is wrong from the beginning to the cutover, or is put right in the middle of the run."""
    bench = turn.shared.bench()
    offset, right_from = turn.turn(CLOCKS), turn.chance.choice(["never", "never", "22", "24"])
    bench.at("new")
    clock: tuple[float, ...] = (offset,)
    commands = [("run", "trial.yaml", "--run-id", "one", "--until", "21"), TO_22, ("resume", "one", "--until", "24")]
    for words in commands:
        if words[-1] == right_from:
            clock = ()
        done = bench.run(*words, clock=clock)
        if done.code not in (0, 4):
            turn.say(f"{offset / _DAY:+,.1f} days, right from {right_from}: {done.line}")
            return _refused_for_good(bench, done)
    bench.compare()
    _sign(bench, clock=clock)
    done = bench.run("resume", "one", "--until", "25", clock=clock)
    turn.say(f"{offset / _DAY:+,.1f} days, right from {right_from}: cutover: exit {done.code} {done.line}")
    bench.compare()
    if done.code:
        raise Fault(STUCK, f"{offset / _DAY:+,.1f} days, right from {right_from}: exit {done.code} {done.line}")
    return HELD


def _refused_for_good(bench: Bench, done: Ended) -> str:
    """The run is refused in one line because of the clock; with the right one it goes on, or a new run does."""
    for words in (("resume", "one", "--until", "22"), ("run", "trial.yaml", "--run-id", "afresh", "--until", "22")):
        if bench.run(*words).code == 0:
            bench.compare()
            return REFUSED
    raise Fault(STUCK, f"{done.line}; with the right clock: {bench.log[-1]}")
