"""A headless Chromium over its debugging pipe: what a page really does when it is opened, and how it looks."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 60.0
A4_PORTRAIT, A4_LANDSCAPE, PAGE_HEIGHT = 703, 1047, 1047  # CSS pixels between the margins: 186 mm, 277 mm
BEYOND = "[...document.querySelectorAll('table,img,svg')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
END_OF_SIGNOFFS = "document.querySelector('#signoffs ~ .line').getBoundingClientRect().bottom + scrollY"
# Whatever runs in a page: elements, attributes and addresses that could act; the title that a script would have changed.
_LOOK = """JSON.stringify({
  title: document.title,
  active: [...document.querySelectorAll('script,iframe,object,embed,form,input,button,base,foreignObject,animate,set')]
    .map(e => e.outerHTML.slice(0, 200)),
  handlers: [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on')))
    .map(e => e.outerHTML.slice(0, 200)),
  links: [...document.querySelectorAll('[href],[src]')].map(e => e.getAttribute('href') || e.getAttribute('src'))
    .filter(a => !a.startsWith('data:')),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  height: document.documentElement.scrollHeight,
  text: document.body.innerText,
})"""
# Text whose contrast against what is really behind it is below WCAG AA: 4.5, for large text 3.
_FAINT = """JSON.stringify((() => {
  const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    if (e.localName === 'title') continue;
    const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(behind(svg ? e.ownerSVGElement : e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${e.localName}.${e.className} ${e.textContent.slice(0, 40)}`);
  }
  return found;
})())"""


def find() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page was open. `said` are console messages, errors and policy violations."""

    dialogs: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)


class Browser:
    """One process with a profile of its own; `visit` opens a file and says what it did."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="runbook-chromium-")
        in_, self._to = os.pipe()
        self._from, out = os.pipe()
        # Chromium reads commands from 3 and answers on 4. Far numbers first: dup2 onto itself would close it at exec.
        far = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50) for fd in (in_, out)]
        actions = [(os.POSIX_SPAWN_DUP2, far[0], 3), (os.POSIX_SPAWN_DUP2, far[1], 4)]
        with Path(os.devnull).open("w", encoding="utf-8") as null:
            actions += [(os.POSIX_SPAWN_DUP2, null.fileno(), 1), (os.POSIX_SPAWN_DUP2, null.fileno(), 2)]
            argv = [program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
            self._process = os.posix_spawn(program, argv, os.environ, file_actions=actions, setpgroup=0)
        for fd in (in_, out, *far):
            os.close(fd)
        self._rest, self._number, self._session = b"", 0, ""
        self._visit = Visit()

    def __enter__(self) -> Self:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to)
        os.close(self._from)
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        shutil.rmtree(self._profile, ignore_errors=True)

    def visit(self, page: Path, *, width: int = 1280, picture: Path | None = None, unfold: bool = True) -> Visit:
        """Open the file at this width, unfold what is folded, wait for it to be quiet, look at it."""
        self._visit = Visit()
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait("Page.loadEventFired")
        if unfold:
            self._evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        self._listen(0.4)
        self._visit.seen = json.loads(self._evaluate(_LOOK))
        if picture is not None:
            clip = {"x": 0, "y": 0, "width": width, "height": min(self._visit.seen["height"], 16_000), "scale": 1}
            shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(base64.b64decode(shot))
        return self._visit

    def faint(self) -> list[str]:
        """Texts of the page that is open whose contrast is below WCAG AA."""
        return list(json.loads(self._evaluate(_FAINT)))

    def shows(self, selector: str, *, paper: bool) -> bool:
        """Whether the first element of this kind can be seen, on the screen or on paper."""
        self._call("Emulation.setEmulatedMedia", media="print" if paper else "screen")
        return bool(self._evaluate(f"document.querySelector({json.dumps(selector)}).checkVisibility()"))

    def on_paper(self, width: int, expression: str) -> Any:
        """What the expression gives for the page that is open, on paper of this width (CSS pixels) between the margins."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", media="print")
        return json.loads(self._evaluate(f"JSON.stringify({expression})"))

    def pdf(self, file: Path) -> None:
        """The page that is open, printed on A4."""
        done = self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        file.write_bytes(base64.b64decode(done["data"]))

    def _evaluate(self, expression: str) -> Any:
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(_SECONDS)
            if answer is None:
                raise TimeoutError(f"Chromium did not answer {method}")
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _wait(self, event: str) -> None:
        while (message := self._next(_SECONDS)) is not None:
            if message.get("method") == event:
                return
        raise TimeoutError(f"Chromium did not send {event}")

    def _listen(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._next(left)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, noted if it is an event; None where none came in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            read = os.read(self._from, 2**16) if ready else b""
            if not read:
                return None
            self._rest += read
        raw, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Page.javascriptDialogOpening":
            self._visit.dialogs.append(facts["message"])
            self._number += 1
            leave = facts.get("type") == "beforeunload"  # the page asks whether it may be left: it may
            close = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": leave}}
            os.write(self._to, json.dumps({**close, "sessionId": self._session}).encode() + b"\0")
        elif event == "Runtime.consoleAPICalled":
            self._visit.said.append(str([argument.get("value") for argument in facts["args"]]))
        elif event == "Runtime.exceptionThrown":
            self._visit.said.append(facts["exceptionDetails"]["text"])
        elif event == "Log.entryAdded":
            self._visit.said.append(f"{facts['entry']['level']}: {facts['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            self._visit.requests.append(facts["request"]["url"][:200])
