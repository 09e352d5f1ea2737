"""What any test may ask for: the repository's root, real databases, real servers, components of the machine."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from helpers.results import Check
from helpers.run.record import RunRecord
from tests.cloud_standin import CloudStandIn
from tests.plain_english import CLAIMS
from tests.servers import ChromaServer

if TYPE_CHECKING:
    from tests.signers import Signers

os.environ.setdefault(
    "RUNBOOK_BROWSER", "none"
)  # a PDF at each gate takes seconds; the test of it names a browser itself
ROOT = Path(__file__).resolve().parent.parent
# A rehearsal, mypy, many kernels. Begun last, one of them would keep one process busy when the others have nothing left to do.
LONGEST = ("test_negative_controls.py", "test_types_fit.py", "test_runner_distrusts_papermill.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all else in the order in which it was found."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def absent(what: str, reason: str) -> NoReturn:
    """Something that a test needs is not here: in CI (`CI` is set) a failure, on a user's machine a skip."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it: {reason}", pytrace=False)
    pytest.skip(f"{what} is missing: {reason}")


def require_component(name: str, reason: str) -> Path:
    """The program `name` on the PATH; `reason` says what the test does with it."""
    found = shutil.which(name)
    return Path(found) if found else absent(name, reason)


@pytest.fixture(autouse=True)
def verdicts_follow_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test of this process checks: the verdict agrees with its figures, and the name claims nothing."""
    plain = RunRecord.check

    def check(run: RunRecord, name: str, *arguments: Any, **more: Any) -> Check:
        found = plain(run, name, *arguments, **more)
        assert not found.contradiction, found.contradiction
        assert not CLAIMS.search(name), name
        callers = (sys._getframe(n).f_globals["__name__"] for n in (1, 2))  # `judge` and `lasted` are between
        if next(c for c in callers if c != RunRecord.__module__).startswith("helpers."):
            assert not found.missing_figures, found.missing_figures
        return found

    monkeypatch.setattr(RunRecord, "check", check)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a prompt, here and in what is started: a shell's `&`, nohup and cron have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_databases() -> Path:
    """Real Chroma directories, kept beside the repository; never write to them, copy them first."""
    folder = ROOT.parent / "shared" / "real-databases"
    return folder if folder.is_dir() else absent("../shared/real-databases", "real Chroma directories as sources")


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """Inside it runs are reported, and work, below `home`, which is the working folder too: for fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNBOOK_REPORTS", str(home / "reports"))
        patch.setenv("RUNBOOK_WORKSPACE", str(home / "workspace"))
        patch.chdir(home)
        yield


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are reported, and work, in the test's own folder, which it gives."""
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("RUNBOOK_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    """People who may sign, each with a key."""
    from tests.signers import Signers

    return Signers(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def own_folders(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `folders`; relative paths are taken from there, too."""
    monkeypatch.chdir(folders)


@pytest.fixture
def chroma_server(tmp_path: Path) -> Iterator[Callable[..., ChromaServer]]:
    """`chroma_server()` or `chroma_server(directory)` starts a real server; all are stopped after the test.

    Without a directory each call gets a new empty one. `with chroma_server() as server:` stops it earlier.
    """
    with ExitStack() as servers:
        started = 0

        def start(directory: Path | None = None) -> ChromaServer:
            nonlocal started
            started += 1
            server = ChromaServer(directory if directory is not None else tmp_path / f"chroma-{started}")
            servers.callback(server.stop)
            return server.start()

        yield start


@pytest.fixture
def cloud_standin(chroma_server: Callable[..., ChromaServer]) -> Iterator[Callable[..., CloudStandIn]]:
    """`cloud_standin()` starts a stand-in for Chroma Cloud in front of a new server, or of `server=`; see `CloudStandIn`."""
    with ExitStack() as clouds:

        def start(server: ChromaServer | None = None, **options: Any) -> CloudStandIn:
            return clouds.enter_context(CloudStandIn((server or chroma_server()).url, **options))

        yield start
