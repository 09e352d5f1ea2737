"""A migration as an Airflow DAG: it calls the command, and understands its exit codes.

3 is NO-GO: the task fails and is not tried again. 4 waits for signatures: the sensor leaves its place and asks again later. 1 is
tried again, since a resume goes on from where it was. 2 is wrong usage: no retry helps.

Why not PapermillOperator alone: papermill writes "completed" into a notebook whose kernel died, and `sys.exit(0)` in a cell ends
it with success, so that a task is green for a step that did nothing. The command believes only a result of the step itself.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow import DAG
from airflow.exceptions import AirflowException, AirflowFailException
from airflow.operators.python import PythonOperator
from airflow.sensors.python import PythonSensor

RUNBOOK = os.environ.get("RUNBOOK_COMMAND", "/opt/runbook/.venv/bin/runbook")
PARAMETERS = os.environ.get("RUNBOOK_PARAMETERS", "/etc/runbook/first.yaml")
RUN_ID = os.environ.get("RUNBOOK_RUN_ID", "first")
REPORTS = os.environ.get("RUNBOOK_REPORTS", "/var/lib/runbook/reports")
WAITING, NO_GO, USAGE = 4, 3, 2


def runbook(*arguments: str) -> bool:
    """Whether the command is done; False where it waits for signatures. Whatever else it says fails the task."""
    done = subprocess.run([RUNBOOK, *arguments], check=False)
    if done.returncode == NO_GO:
        raise AirflowFailException(f"run {RUN_ID} is NO-GO: see {REPORTS}/{RUN_ID}/index.html")
    if done.returncode == USAGE:
        raise AirflowFailException("the command or its parameters are wrong: see the log of this task")
    if done.returncode not in (0, WAITING):
        raise AirflowException(
            f"exit code {done.returncode}: see the log of this task; the next try goes on from there"
        )
    return done.returncode == 0


def begin_or_resume(until: str) -> bool:
    """Begin the run, or go on with it where a try before this one began it."""
    if (Path(REPORTS) / RUN_ID / "run.json").exists():
        return runbook("resume", RUN_ID, "--until", until)
    return runbook("run", PARAMETERS, "--run-id", RUN_ID, "--until", until)


def signed_and_cut_over() -> bool:
    """Go on to the cutover; False while a signature is missing."""
    return runbook("resume", RUN_ID)


with DAG(
    dag_id="runbook",
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
) as dag:
    migrate = PythonOperator(task_id="migrate_and_decide", python_callable=begin_or_resume, op_args=["24"])
    cut_over = PythonSensor(
        task_id="wait_for_signatures_and_cut_over",
        python_callable=signed_and_cut_over,
        mode="reschedule",
        poke_interval=300,
        timeout=timedelta(days=2).total_seconds(),
    )
    migrate >> cut_over
