"""Notebook 00: the state of the runs, the plan beside what was measured, whom to call, the rollback on one page."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from helpers.formatting import duration
from helpers.notify.texts import levels
from helpers.parameters import Parameters
from helpers.results import Verdict
from helpers.run import folders as runs
from helpers.run import plan
from helpers.run.advice import steps_for
from helpers.run.folders import REPOSITORY, RunFolder, RunPath, RunState
from helpers.run.kernel import show, show_figure
from helpers.run.plan import Step
from helpers.run.window import now_utc
from helpers.status import timeline
from helpers.status.overview import RUN_COLUMNS, TO_DO, next_action, rolled_back, run_rows, state
from helpers.status.status import escalation
from helpers.steps import troubleshooting
from helpers.troubleshooting.troubleshooter import symptoms_of

if TYPE_CHECKING:
    import pandas as pd


class IndexStep:
    """00. It has no run of its own and leaves no result: an overview is no evidence.

    It looks at the run of this id, else at the newest of these parameters (any, where none are given).
    """

    def __init__(self, run_id: str = "", parameters: Parameters | None = None) -> None:
        every = [runs.find(run_id)] if run_id else runs.every_run()
        if parameters is not None and not run_id:
            every = [folder for folder in every if folder.is_of(parameters)]
        self._found = every[0] if every else None
        self.parameters = self._found.parameters if self._found is not None else parameters

    @property
    def folder(self) -> RunState | None:
        """The run as it is when a cell asks: this notebook stays open while a run goes on."""
        return self._found.read() if self._found is not None else None

    def steps(self) -> pd.DataFrame:
        """Every notebook in the order of the runbook: step, title, section, state, seconds, notebook.

        `state` is "" for a notebook on demand that has not run.
        """
        import pandas as pd

        folder, rows = self.folder, []
        for step in list(plan.Step)[1:]:
            result = folder.result(step.number) if folder is not None else None
            said = state(result) if result is not None or step.on_line else ""
            rows.append([step.number, step.title, step.section, said, result.seconds if result else 0.0, step.notebook])
        return pd.DataFrame(rows, columns=["step", "title", "section", "state", "seconds", "notebook"])

    def map(self) -> None:
        """Shows them with links: in JupyterLab each opens the notebook; on a page those that ran lead to what they found."""
        body, section = "", ""
        for step, title, part, said, seconds, notebook in self.steps().itertuples(index=False):
            if part != section:
                section = part
                body += f'<tr><th colspan="4" {_LEFT}>{html.escape(section)}</th></tr>'
            cells = (step, self._link(notebook, title), _marked(said), duration(seconds) if seconds else "")
            body += "<tr>" + "".join(f"<td {_LEFT}>{cell}</td>" for cell in cells) + "</tr>"
        head = "".join(f"<th {_LEFT}>{name}</th>" for name in ("step", "notebook", "state", "took"))
        show(f"<p>{self._which()}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def _which(self) -> str:
        if self.folder is None:
            return "No run yet."
        page = self.folder.reports / RunPath.PAGE
        said = f"Run <strong>{html.escape(self.folder.id)}</strong>"
        if not page.is_file():
            return f"{said}."
        if self.folder.reports.parent == REPOSITORY / "reports":
            return f'{said}; <a class="desk" href="../reports/{html.escape(self.folder.id)}/index.html">its page</a>.'
        return f"{said}; its page: <code>{html.escape(str(page))}</code>"

    def _link(self, notebook: str, title: str) -> str:
        """Class `desk`: the link leads to nothing of this run, so a page does not show it (helpers.report.notebook)."""
        ran = self.folder is not None and (self.folder.reports / notebook).is_file()
        return f'<a {"" if ran else "class=desk "}href="{notebook}">{html.escape(title)}</a>'

    def next_action(self) -> str:
        """One sentence: what to do next."""
        return next_action(self.folder)

    def timeline(self) -> pd.DataFrame:
        """Shows the plan from T−24 h to T+7 d beside what was measured; the same as a table, times in UTC."""
        import pandas as pd

        found = timeline.plan_and_measured(self.folder, self.parameters)
        show_figure(timeline.figure(found, now_utc()))
        return pd.DataFrame(timeline.table(found), columns=timeline.COLUMNS).set_index("step")

    def escalation(self) -> pd.DataFrame:
        """Appendix C: whom to call by how long something has been failed; the level of now is marked."""
        due = escalation(folder, now_utc()) if (folder := self.folder) is not None else None
        contacts = self.parameters.contacts.named if self.parameters is not None else None
        return levels(contacts, due[2] if due is not None else 0).set_index("level")

    def war_room(self) -> str:
        """Where people meet."""
        said = self.parameters.contacts.named if self.parameters is not None else None
        named = {"channel": said.channel, "war room": said.war_room} if said is not None else {}
        lines = [f"{what}: {where}" for what, where in named.items() if where]
        return "\n".join(lines) or "contacts.channel and contacts.war_room are not named."

    def rapid_rollback(self) -> None:
        """Shows Appendix E with the commands of this run, and the times that it measured."""
        folder = self.folder or RunFolder.of("RUN_ID").read()
        said = rolled_back(folder) if folder.exists else ""
        show((f"<p><strong>{html.escape(said)}</strong></p>" if said else "") + timeline.sheet(folder))

    def go_no_go(self) -> None:
        """Shows Appendix B: go or no-go, the path of this run."""
        folder = self.folder
        results = [folder.result(number) if folder else None for number in (Step.VALIDATE, Step.REVIEW)]
        show_figure(troubleshooting.go_no_go(*results))

    def troubles(self) -> None:
        """Shows Appendix B: troubleshooting, the notebooks that look for what this run's checks name."""
        if (folder := self.folder) is None:
            show_figure(troubleshooting.troubles(None))
            return
        found = [result for step in plan.LINE if (result := folder.result(step.number)) is not None]
        rows = [row for result in found for row in symptoms_of(result)]
        named = {step.number for step in steps_for(str(row["reason"]) for row in rows)}
        failed = any(row["verdict"] in (Verdict.FAIL, "error") for row in rows)
        show_figure(troubleshooting.troubles(named, failed=failed))

    def runs(self) -> pd.DataFrame:
        """Every run, the newest first."""
        import pandas as pd

        return pd.DataFrame(run_rows(), columns=RUN_COLUMNS).set_index("run")

    def finish(self) -> None:
        """Nothing is recorded."""


_LEFT = 'style="text-align: left"'


def _marked(said: str) -> str:
    """What has not simply passed is highlighted."""
    return said if said in ("", TO_DO, "pass") else f"<strong>{html.escape(said)}</strong>"
