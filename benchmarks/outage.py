"""How long an application cannot write while it is migrated, as it measures that itself: both orders of the fence."""

from __future__ import annotations

import json
import time

from benchmarks.ground import Ground
from helpers.fence.nginx import Nginx, configuration
from helpers.parameters.sections import NginxFence
from tests.commands import Runbook
from tests.fences import Fenced
from tests.servers import client_of
from tests.signers import Signers
from tests.source_writer import Application


def writers_out(ground: Ground, when: str) -> float:
    """Seconds from the first write that is refused to the next that is taken, people sign at once; steps 20 to 25."""
    with ground.target() as (url, folder):
        fenced = Fenced(folder, ground.server)
        nginx = Nginx(NginxFence.model_validate(fenced.section()["nginx"]), 20.0)
        nginx.write(configuration(nginx.rules, "before", closed=False))
        nginx.enforce()
        env, runbook, people = folder / "app.env", Runbook(folder), Signers(folder / "keys")
        env.write_text(f"CHROMADB_URL={fenced.url}\n", encoding="utf-8")
        cutover = {"env_files": [{"path": str(env), "keys": {"CHROMADB_URL": "{target_url}"}}], "monitor_minutes": 0.02}
        more = (
            f"fence: {json.dumps(fenced.section(when=when))}\ncutover: {json.dumps(cutover)}\n"
            f"migration: {{delta_limit: {{share: 1.0}}}}\n{people.parameter()}"
        )
        file = runbook.write("night", f"url: '{ground.server.url}'", f"url: '{url}'", more)
        largest = max(ground.snapshot.collections(), key=lambda info: info.count)
        application = Application(env, largest.name, largest.dimension or 1)
        application.start()
        try:
            until = runbook("run", file, "--run-id", "one", "--from", "20", "--until", "25")
            for role in people.roles:
                runbook("sign", "one", *people.command(role))
            done = runbook("resume", "one", "--until", "25")
            time.sleep(2)
        finally:
            application.asked.set()
            application.join(20)
            fenced.stop()
            with client_of(ground.server.url) as source:  # as it was
                source.get_collection(largest.name, embedding_function=None).delete(ids=[f"w{n}" for n in range(60)])
        if application.moved_to != url or not application.refused:
            raise RuntimeError(f"not moved: {until.returncode} {until.stderr} {done.returncode} {done.stderr}")
        return sum(again - since for since, again in application.refused)
