"""JupyterLab as `make lab` starts it, on a clone of the repository, and a browser that works in it as a person does."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.browser import Browser
from tests.conftest import ROOT

_CLONED = ("helpers", "notebooks", "parameters", ".jupyter", "Makefile", "pyproject.toml", "requirements.lock")
_START, _LOAD, _RUN = 90.0, 120.0, 240.0  # seconds, on a machine with other work to do
# What a panel shows: the prompt of each code cell, errors, warnings, whether the kernel works, pictures.
_PANEL = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)')"
_STATE = f"""JSON.stringify((panel => panel && {{
  name: document.querySelector('.jp-mod-current .lm-TabBar-tabLabel')?.textContent ?? '',
  prompts: [...panel.querySelectorAll('.jp-CodeCell')].map(c => c.querySelector('.jp-InputPrompt').textContent.trim()),
  errors: [...panel.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"]')].map(e => e.textContent),
  said: [...panel.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"]')].map(e => e.textContent),
  kernel: panel.querySelector('.jp-Toolbar-kernelName')?.textContent ?? '',
  status: panel.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status ?? '',
  pictures: [...panel.querySelectorAll('.jp-OutputArea-output img')].filter(i => i.naturalWidth > 100).length,
}})({_PANEL}))"""


def clone(home: Path) -> Path:
    """The files of the repository that a DBA works with, somewhere else: JupyterLab saves what it shows."""
    copy = home / "clone"
    copy.mkdir(parents=True)
    for name in _CLONED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy2(path, copy / name)
    (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
    return copy


class Lab:
    """The Makefile's own command for `make lab` in this clone, on loopback and a free port, with settings of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        """`home`: the clone. `environment` is added to the process's."""
        self.home, self._own = home, home.parent / "jupyter"
        self._own.mkdir(parents=True, exist_ok=True)
        own = {name: str(self._own / name.lower()) for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
        )}  # fmt: skip
        self._environment = {**os.environ, **own, "PYTHONPATH": str(home), **environment}

    def __enter__(self) -> Self:
        options = "--no-browser --ServerApp.ip=127.0.0.1 --ServerApp.port=0"
        if os.geteuid() == 0:
            options += " --allow-root"
        # -n: only say it; -o: the environment is there, whatever its age
        make = ["make", "-n", "-o", ".venv/.ready", "lab", f"ARGS={options}"]
        said = subprocess.run(make, cwd=self.home, capture_output=True, text=True, check=True, env=self._environment)
        self.command = said.stdout.replace("\\\n", " ").strip().splitlines()[-1]
        self._log = (self._own / "log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", self.command], cwd=self.home, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.address = self._wait_for_address()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        return (self._own / "log").read_text(encoding="utf-8")

    def of(self, notebook: str) -> str:
        """The address of another notebook than the one that `make lab` opens."""
        return self.address.replace("00_index.ipynb", notebook)

    def code_cells(self, notebook: str) -> int:
        """How many there are, by the file."""
        cells = json.loads((self.home / "notebooks" / notebook).read_text(encoding="utf-8"))["cells"]
        return sum(cell["cell_type"] == "code" for cell in cells)

    def _wait_for_address(self) -> str:
        """Where `make lab` sends the browser: Jupyter writes it, token and all, into a page that it would open."""
        end = time.monotonic() + _START
        while time.monotonic() < end and self._process.poll() is None:
            for page in (self._own / "jupyter_runtime_dir").glob("jpserver-file-to-run-*-open.html"):
                if found := re.search(r'href="(http://[^"]+)"', page.read_text(encoding="utf-8")):
                    return found[1].replace("&amp;", "&")
            time.sleep(0.2)
        raise TimeoutError(f"JupyterLab did not start: {self.log[-3000:]}")


class LabBrowser(Browser):
    """Opens notebooks in JupyterLab, clicks, types, waits, looks."""

    _cells = 0  # code cells of the notebook in front

    def open(self, lab: Lab, notebook: str, *, width: int = 1400, height: int = 1000) -> None:
        """Open a notebook and wait until it can be worked in: its cells are there, and its kernel is idle."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        for url in ("about:blank", lab.of(notebook)):  # by way of an empty page, which nobody can take for the new one
            self._call("Page.navigate", url=url)
            self._wait("Page.loadEventFired")
        self._cells = lab.code_cells(notebook)
        self._until(f"s.name === {json.dumps(notebook)} && s.kernel.startsWith('Python')", f"{notebook} to open", _LOAD)

    def state(self) -> dict[str, Any]:
        """What the notebook in front shows: name, prompts, errors, said (standard error), status, pictures."""
        found: dict[str, Any] = json.loads(self._evaluate(_STATE))
        return found

    def run_all(self) -> dict[str, Any]:
        """Run, Run All Cells, from the menu; what the notebook shows when every cell has ended, or one has failed."""
        self.click("[...document.querySelectorAll('.lm-MenuBar-item')].find(e => e.textContent.trim() === 'Run')")
        self.click("document.querySelector('.lm-Menu-item[data-command=\"runmenu:run-all\"]')")
        every = r"s.prompts.every(p => /^\[\d+\]:$/.test(p))"
        self._until(every, "all cells to run", _RUN)
        self._listen(1.0)  # outputs are drawn after the kernel is idle
        return self.state()

    def _until(self, condition: str, what: str, seconds: float) -> None:
        """Wait for a condition on the state `s` of the notebook at rest, or for the error that a cell shows."""
        rest = f"s.prompts.length === {self._cells} && s.status === 'idle'"
        self.until(f"(s => s && (s.errors.length || ({rest} && {condition})))(JSON.parse({_STATE}))", what, seconds)

    def until(self, expression: str, what: str, seconds: float = 60.0) -> Any:
        """Wait until the expression is true in the page; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self._evaluate(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()"):
                return value
            self._listen(0.25)
        raise TimeoutError(f"waited {seconds:.0f} s for {what}; the page shows {self._evaluate(_STATE)}")

    def see(self, element: str) -> None:
        """Scroll to an element, given as an expression, so that a picture shows it."""
        self.until(f"{element} && ({element}.scrollIntoView({{block: 'start'}}), true)", element)
        self._listen(0.8)

    def choose(self, element: str, index: int) -> None:
        """Take an entry of a drop-down, given as an expression: its list belongs to the system, not to the page.

        Not by keys: where a notebook is in command mode JupyterLab takes them for itself.
        """
        events = "['input', 'change'].forEach(name => e.dispatchEvent(new Event(name, {bubbles: true})))"
        self.until(f"(e => {{ e.selectedIndex = {index}; {events}; return true }})({element})", element)

    def look(self, expression: str) -> Any:
        """The value of an expression, evaluated in the page."""
        return self._evaluate(expression)

    def click(self, element: str, *, seconds: float = 20.0) -> None:
        """Click the middle of an element, given as an expression, once it is there to be seen."""
        there = "(e => { if (!e || !e.checkVisibility()) return null; e.scrollIntoView({block: 'center'}); "
        there += f"const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})({element})"
        self.until(there, element, seconds)
        self._listen(0.2)  # where a scroll moved it
        x, y = self._evaluate(there)
        for kind, buttons in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)
        self._listen(0.2)

    def picture(self, file: Path) -> None:
        """What the window shows now."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    @property
    def heard(self) -> list[str]:
        """Console messages of the page since it was made."""
        return self._visit.said

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was made."""
        return self._visit.requests
