"""How long an application cannot write while it is migrated, as it measures that itself: both orders of the fence."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, chdir
from pathlib import Path

from benchmarks.ground import Ground
from helpers.fence.nginx import Nginx, configuration
from helpers.parameters import parameters_from
from helpers.parameters.sections import NginxFence
from helpers.run import folders as runs
from helpers.run.record import RunRecord
from helpers.steps.fence_writes import FenceWritesStep
from helpers.steps.snapshot import SnapshotStep
from helpers.steps.validate import ValidateStep
from tests.cutovers import decided, keep, step
from tests.fences import Fenced
from tests.servers import client_of
from tests.signers import Signers
from tests.source_writer import Application
from tests.test_catch_up import migrate


def writers_out(ground: Ground, when: str) -> float:
    """Seconds from the first write that is refused to the next that is taken.

    The work of steps 20 to 25 alone: no notebook starts, people sign at once, nothing is restarted.
    """
    with ground.target() as (url, folder), ExitStack() as stack:
        fenced = Fenced(folder, ground.server)
        stack.callback(fenced.stop)
        nginx = Nginx(NginxFence.model_validate(fenced.section()["nginx"]), 20.0)
        nginx.write(configuration(nginx.rules, "before", closed=False))
        nginx.enforce()
        env = folder / "app.env"
        env.write_text(f"CHROMADB_URL={fenced.url}\n", encoding="utf-8")
        largest = max(ground.snapshot.collections(), key=lambda info: info.count)
        application = Application(env, largest.name, largest.dimension or 1)
        stack.callback(_as_it_was, ground.server.url, largest.name)
        stack.callback(application.join, 20)
        stack.callback(application.asked.set)
        application.start()
        stack.enter_context(chdir(folder))
        os.environ.update(RUNBOOK_REPORTS=str(folder / "reports"), RUNBOOK_WORKSPACE=str(folder / "workspace"))
        _migrate(fenced, when, url, env)
        time.sleep(2)
        if application.moved_to != url or not application.refused:
            raise RuntimeError(f"the application writes to {application.moved_to}, refused {application.refused}")
        return sum(again - since for since, again in application.refused)


def _migrate(fenced: Fenced, when: str, url: str, env: Path) -> None:
    folder = runs.create(
        parameters_from(
            {
                "name": "bench", "schema": "identity", "source": {"url": fenced.server.url}, "target": {"url": url},
                "snapshot": {"directory": "kept"}, "fence": fenced.section(when=when),
                "migration": {"delta_limit": {"share": 1.0}},
                "cutover": {"env_files": [{"path": str(env), "keys": {"CHROMADB_URL": "{target_url}"}}], "monitor_minutes": 0.0},
                "signoff": {"allowed_signers": str(Signers(fenced.folder / "keys").allowed)},
            }
        ),
        when,
    )  # fmt: skip
    record = RunRecord(folder.read(), "20")
    fence = FenceWritesStep(record)
    for cell in (fence.urls, fence.before, fence.put_up, fence.prove):
        cell()
    keep(folder, record)
    record = RunRecord(folder.read(), "21")
    SnapshotStep(record).verify()
    keep(folder, record)
    migrate(folder)
    record = RunRecord(folder.read(), "23")
    suite = ValidateStep(record)
    for look in (suite.read_target, suite.counts, suite.embeddings, suite.search, suite.recall, suite.queries):
        look()
    keep(folder, record)
    decided(folder)
    step(folder)


def _as_it_was(url: str, collection: str) -> None:
    with client_of(url) as source:
        source.get_collection(collection, embedding_function=None).delete(ids=[f"w{n}" for n in range(60)])
