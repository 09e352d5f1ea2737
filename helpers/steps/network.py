"""Notebook 45: source or target cannot be reached, or is too slow: connections layer by layer, fence, waiting, time-outs."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from helpers.errors import RunbookError, one_line
from helpers.fence import FenceState
from helpers.formatting import count, flatten
from helpers.parameters import Endpoint, parameters_from
from helpers.reason_codes import Reason, ReasonCode
from helpers.run import folders as runs
from helpers.run.advice import notebook_for
from helpers.run.plan import Step
from helpers.stores.limits import ATTEMPTS, attempt
from helpers.stores.opening import quick_names
from helpers.stores.wire import Session, greet, heartbeat, request_headers
from helpers.troubleshooting import Condition, ProbeResult, Troubleshooter

ROLES = ("source", "target")


class NetworkStep(Troubleshooter):
    """Checks both connections layer by layer. The resolution waits until both answer, with longer time-outs where given."""

    code = ReasonCode.UNREACHABLE

    def look(self) -> ProbeResult:
        checked = [layer for role in ROLES for layer in layers(getattr(self.run.parameters, role), role)]
        table = pd.DataFrame(
            [(*astuple(layer)[:5], remedy(layer)) for layer in checked],
            columns=["endpoint", "check", "ok", "seen", "seconds", "what to do"],
        )
        failed = [layer for layer in checked if not layer.ok]
        return ProbeResult(
            table, len(failed), "; ".join(f"{r.endpoint}: {r.layer}: {r.seen}" for r in failed), "failed checks"
        )

    def fence(self) -> pd.DataFrame:
        """Whether a write fence of this run is active: it refuses writes and lets reads pass."""
        state = FenceState.load(self.run.workspace)
        sentence = state.sentence() if state is not None else ""
        return pd.DataFrame([("write fence", sentence or "this run has no active fence")], columns=["what", "state"])

    def retries(self) -> pd.DataFrame:
        """Retries, their number and pauses, and the time-outs of this run."""
        parameters = self.run.parameters
        rows = [
            ("tries of a read, and of a write whose chunks are looked up first", str(ATTEMPTS)),
            ("pauses between them", "0.2, 0.4, 0.8, 1.6 s"),
            *((f"{role}.timeout_seconds", f"{getattr(parameters, role).timeout_seconds:g} s") for role in ROLES),
        ]
        return pd.DataFrame(rows, columns=["setting", "value"])

    def conditions(self, **options: Any) -> list[Condition]:
        return [self.idle_condition()]

    def plan(self, **options: Any) -> pd.DataFrame:
        settings = self._settings(**{k: v for k, v in options.items() if k != "wait_seconds"})
        now = flatten(self.run.parameters.document())
        rows = [(key, str(now.get(key)), str(value)) for key, value in settings.items()]
        rows.append(("wait until both ends answer", "", f"{options.get('wait_seconds', 60):g} s at most"))
        return pd.DataFrame(rows, columns=["what", "now", "then"])

    def apply(self, **options: Any) -> pd.DataFrame:
        """Change the time-outs of this run, then check both connections until they work or `wait_seconds` are over."""
        wait = float(options.pop("wait_seconds", 60))
        settings = self._settings(**options)
        before = self.run.parameters
        if settings:
            new = before.for_resume([f"{key}={value:g}" for key, value in settings.items()])
            runs.change_parameters(self.run.home, parameters_from(new.document()))
            self.run.home, self.run.parameters = self.run.home.read(), new
            self.note("time-outs changed", **{k.replace(".", "_"): v for k, v in settings.items()})
        deadline = time.monotonic() + wait
        rows: list[tuple[Any, ...]] = []
        while True:
            failed = {role: broken(layers(getattr(self.run.parameters, role), role)) for role in ROLES}
            rows.append((len(rows) + 1, *(failed[role] or "answers" for role in ROLES)))
            if not any(failed.values()) or time.monotonic() >= deadline:
                return pd.DataFrame(rows, columns=["try", *ROLES])
            time.sleep(min(5.0, 0.5 * 2 ** min(len(rows), 4), max(0.0, deadline - time.monotonic())))

    def undo(self) -> str:
        """The command that sets the time-outs back."""
        changes = [c["from"] for c in self.run.home.facts["changes"] if any("timeout" in k for k in c["from"])]
        last = changes[-1] if changes else {}
        sets = " ".join(f"--set {k}={v}" for k, v in sorted(last.items()))
        return f"{self.run.home.command('resume')} {sets}".strip() if sets else "Nothing was changed."

    def _settings(self, source_timeout: float | None = None, target_timeout: float | None = None) -> dict[str, float]:
        given = {"source.timeout_seconds": source_timeout, "target.timeout_seconds": target_timeout}
        return {key: float(value) for key, value in given.items() if value is not None}


BEATS = 10  # heartbeats timed


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: whether it works, what was seen, its duration in seconds, the code of its error."""

    endpoint: str
    layer: str
    ok: bool
    seen: str
    seconds: float
    code: Reason = ""


def layers(endpoint: Endpoint, role: str) -> list[Layer]:
    """The layers from the lowest on, up to the first that failed, or all."""
    checks = _server(endpoint, role) if endpoint.url else _directory(endpoint, role)
    layers: list[Layer] = []
    for name, check in checks:
        begun = time.monotonic()
        code: Reason = ""
        ok = True
        try:
            seen = check()
        except RunbookError as error:
            ok, seen, code = False, error.line(), error.code
        except (OSError, httpx.HTTPError, ssl.SSLError) as error:
            ok, seen, code = False, f"{type(error).__name__}: {one_line(str(error))}", ReasonCode.UNREACHABLE
        layers.append(Layer(role, name, ok, seen, round(time.monotonic() - begun, 3), code))
        if not ok:
            break
    return layers


def broken(layers: list[Layer]) -> str:
    """The failed layer and what was seen; "" where all work."""
    return next((f"{r.layer}: {r.seen}" for r in layers if not r.ok), "")


def remedy(layer: Layer) -> str:
    """What to do about a failed layer, in a sentence."""
    if layer.ok:
        return ""
    remedies = {
        "name": "The host's name is not known here: see /etc/resolv.conf, the spelling, or use the address.",
        "port": "Nothing answers on this port: is the server up (systemctl, docker ps), does a firewall let this host "
        "through (iptables -L -n, ufw status)? Where direct access is barred: ssh -L PORT:HOST:PORT GATEWAY.",
        "TLS": "The certificate is not accepted: its name, its date, its issuer; or the scheme should be http.",
        "server": "The port is open, nothing answers: a paused or overloaded server, or a proxy in between.",
        "tenant and database": "Something answers: is it Chroma, are tenant, database and headers right?",
        "pace": "The server answers slowly: raise timeout_seconds (resolve() does), or look at its load.",
    }
    step = notebook_for(layer.code)
    other = f" See {step.notebook}." if step is not None and step.number != Step.NETWORK else ""
    return remedies.get(layer.layer, layer.seen) + other


def _server(endpoint: Endpoint, role: str) -> list[tuple[str, Callable[[], str]]]:
    host, port = endpoint.host or "localhost", endpoint.port

    def name() -> str:
        addresses = sorted({str(a[4][0]) for a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        return f"{host} is {', '.join(addresses)}"

    def connect() -> str:
        with socket.create_connection((host, port), timeout=endpoint.timeout_seconds):
            return f"{host}:{port} accepts connections"

    def handshake() -> str:
        context = ssl.create_default_context()
        if not endpoint.verify_tls:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((host, port), timeout=endpoint.timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return f"{secure.version()}{'' if endpoint.verify_tls else ', certificate not verified'}"

    def beats() -> str:
        """One attempt with one time-out: `greet` tries five times, which takes minutes on a paused server."""
        with Session(verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds) as session:
            headers = request_headers(endpoint, role)
            answer = attempt(
                lambda: session.get(f"{endpoint.address}/api/v2/heartbeat", headers=headers), f"{role} {endpoint.label}"
            )
        return f"answers {answer.status_code} to a heartbeat"

    def speaks() -> str:
        return f"Chroma answers, API {greet(endpoint, role, request_headers(endpoint, role))[0]}; tenant and database are there"

    def lists() -> str:
        return count(len(quick_names(endpoint, role)), "collection")

    tls: list[tuple[str, Callable[[], str]]] = [("TLS", handshake)] if endpoint.tls else []
    return [("name", name), ("port", connect), *tls, ("server", beats), ("tenant and database", speaks), ("collections", lists),
            ("pace", lambda: pace(endpoint, role))]  # fmt: skip


def pace(endpoint: Endpoint, role: str) -> str:
    """Time ten heartbeats on one connection, in ms. Raises where one is not answered in time."""
    headers = request_headers(endpoint, role)
    base = endpoint.address
    times = []
    with Session(headers=headers, verify=endpoint.verify_tls, timeout=endpoint.timeout_seconds) as session:
        api = heartbeat(lambda path: session.get(f"{base}/api/{path}"))[0] or "v1"
        for _ in range(BEATS):
            begun = time.monotonic()
            session.get(f"{base}/api/{api}/heartbeat").raise_for_status()
            times.append(1000 * (time.monotonic() - begun))
    middle, late = np.percentile(times, [50, 95])
    return f"heartbeat p50 {middle:.1f} ms, p95 {late:.1f} ms, time-out {endpoint.timeout_seconds:g} s"


def _directory(endpoint: Endpoint, role: str) -> list[tuple[str, Callable[[], str]]]:
    path = Path(str(endpoint.path))

    def folder() -> str:
        if role == "target" and not path.exists():
            return f"{path} will be made"
        return f"{path}, {sum(1 for _ in path.iterdir())} entries"

    def lists() -> str:
        return count(len(quick_names(endpoint, role)), "collection")

    return [("folder", folder), ("collections", lists)]
