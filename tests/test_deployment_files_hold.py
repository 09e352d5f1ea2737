"""The image, the Kubernetes objects, the units and the DAG: parsed, and what they promise is in them; the DAG's code is run."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from helpers import cli, errors
from tests.conftest import ROOT, absent

DEPLOY = ROOT / "deploy"
OWN = "/opt/runbook/.venv/bin/runbook"


def parsed(words: str) -> argparse.Namespace:
    """The arguments of the command, as it reads them; what a shell or systemd puts in is a word."""
    plain = re.sub(r"%i|\$\w+", "first", words)
    return cli.parser().parse_args(shlex.split(plain))


# -- the image ---------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile: (instruction, the rest of its line)."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Containerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def test_the_image_is_built_from_the_lock_and_runs_without_rights() -> None:
    found = instructions()
    known = {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "VOLUME", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known
    (install,) = [rest for name, rest in found if name == "RUN" and "requirements.lock" in rest]
    assert "--require-hashes" in install
    last = found[max(n for n, (name, _) in enumerate(found) if name == "FROM") :]
    assert [rest for name, rest in last if name == "USER"] == ["10001:10001"]
    assert [rest for name, rest in last if name == "VOLUME"] == ["/data"]
    assert [name for name, _ in last].index("USER") > max(n for n, (name, _) in enumerate(last) if name == "RUN")
    (environment,) = [dict(word.split("=", 1) for word in rest.split()) for name, rest in last if name == "ENV"]
    written = {value for value in environment.values() if value.startswith("/")}
    assert written
    assert all(value.startswith(("/data/", "/tmp/")) for value in written)  # the root is read-only
    assert ast.literal_eval(dict(last)["ENTRYPOINT"]) == [OWN]
    assert parsed(shlex.join(ast.literal_eval(dict(last)["CMD"]))).run_id == ""


def test_everything_that_the_image_copies_is_there_and_all_that_the_command_needs() -> None:
    copied = {
        name for kind, rest in instructions() if kind == "COPY" and "--from" not in rest for name in rest.split()[:-1]
    }
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"helpers", "notebooks", "parameters", "pyproject.toml", "requirements.lock"} <= copied


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def objects() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(File, the Job's spec, its pod's spec)."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        assert found["apiVersion"] == "batch/v1"
        job = found["spec"]["jobTemplate"]["spec"] if found["kind"] == "CronJob" else found["spec"]
        yield path.name, job, job["template"]["spec"]


def test_pods_have_no_rights_a_read_only_root_and_one_volume() -> None:
    seen = list(objects())
    assert [name for name, _, _ in seen] == ["job.yaml", "snapshots.yaml"]
    for _, _, pod in seen:
        assert pod["restartPolicy"] == "Never"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert [n for n, v in volumes.items() if "persistentVolumeClaim" in v] == ["data"]
        mounts = {m["name"]: m for m in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        assert mounts["data"]["mountPath"] == "/data"
        assert [n for n, m in mounts.items() if not m.get("readOnly")] == ["data", "tmp"]


def test_a_job_tries_again_only_what_a_resume_can_change() -> None:
    _, job, pod = next(objects())
    (first, _) = job["podFailurePolicy"]["rules"]
    kinds = (errors.UsageError, errors.NoGo, errors.WaitingForSignoffs)
    assert first["action"] == "FailJob"
    assert first["onExitCodes"]["values"] == sorted(kind.exit_code for kind in kinds)
    (script,) = pod["containers"][0]["args"]
    assert subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=False).returncode == 0
    commands = re.findall(r'exec "\$run" ([^;\n]+)', script)
    assert [parsed(command).run_id for command in commands] == ["first", "first"]
    *_, (_, _, daily) = objects()
    parsed(shlex.join(daily["containers"][0]["args"]))


# -- systemd -----------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    """The keys of a unit; of one that is there twice the last."""
    lines = (DEPLOY / "systemd" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_units_run_commands_that_are_there_and_know_what_waiting_is() -> None:
    run = unit("runbook@.service")
    assert run["SuccessExitStatus"] == str(errors.WaitingForSignoffs.exit_code)
    assert run["Restart"] == "no"
    commands = re.findall(rf"exec {OWN} ([^;']+)", run["ExecStart"])
    assert [parsed(command).run_id for command in commands] == ["first", "first"]
    parsed(unit("runbook-snapshots.service")["ExecStart"].removeprefix(f"{OWN} "))
    for name in ("runbook@.service", "runbook-snapshots.service"):
        given = unit(name)
        assert (given["User"], given["ProtectSystem"], given["NoNewPrivileges"]) == ("runbook", "strict", "yes")
        assert given["KillSignal"] == "SIGTERM"  # the batch at work is finished
    assert unit("runbook-snapshots.timer")["Unit"] == "runbook-snapshots.service"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze") or absent("systemd-analyze", "it says whether a unit is one")
    files = []
    for path in sorted((DEPLOY / "systemd").iterdir()):
        file = tmp_path / path.name.replace("@.", "@first.")
        file.write_text(path.read_text(encoding="utf-8").replace(OWN, sys.executable), encoding="utf-8")
        files.append(str(file))
    done = subprocess.run([program, "verify", *files], capture_output=True, text=True, check=False)
    own = [line for line in done.stderr.splitlines() if "runbook" in line]
    assert own == []


# -- Airflow -----------------------------------------------------------------------------------------------------------


class Task:
    """What stands for an operator: its arguments, and what follows it."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.after: list[Task] = []

    def __rshift__(self, other: Task) -> Task:
        self.after.append(other)
        return other


class Dag:
    def __init__(self, **given: Any) -> None:
        self.given = given

    def __enter__(self) -> Dag:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class AirflowException(Exception):
    """Tried again."""


class AirflowFailException(AirflowException):
    """Not tried again."""


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The names of the DAG's file, with stand-ins for Airflow and a command that ends as the file `code` says."""
    given: dict[str, dict[str, Any]] = {
        "airflow": {"DAG": Dag},
        "airflow.exceptions": {"AirflowException": AirflowException, "AirflowFailException": AirflowFailException},
        "airflow.operators": {},
        "airflow.operators.python": {"PythonOperator": Task},
        "airflow.sensors": {},
        "airflow.sensors.python": {"PythonSensor": Task},
    }
    for name, members in given.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    command = tmp_path / "runbook"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\nexit $(cat {tmp_path}/code)\n')
    command.chmod(0o755)
    monkeypatch.setenv("RUNBOOK_COMMAND", str(command))
    monkeypatch.setenv("RUNBOOK_REPORTS", str(tmp_path / "reports"))
    names: dict[str, Any] = {}
    file = DEPLOY / "airflow" / "runbook_dag.py"
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    return names


@pytest.mark.parametrize(
    ("code", "means"),
    [
        (0, True),
        (4, False),
        (3, AirflowFailException),
        (2, AirflowFailException),
        (1, AirflowException),
        (130, AirflowException),
    ],
)
def test_a_task_understands_each_exit_code(code: int, means: Any, dag: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "code").write_text(str(code))
    if isinstance(means, bool):
        assert dag["signed_and_cut_over"]() is means
    else:
        with pytest.raises(AirflowException) as caught:
            dag["signed_and_cut_over"]()
        assert type(caught.value) is means


def test_the_dag_begins_a_run_once_and_waits_without_a_place(dag: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "code").write_text("0")
    assert dag["begin_or_resume"]("24") is True
    (tmp_path / "reports" / "first").mkdir(parents=True)
    (tmp_path / "reports" / "first" / "run.json").touch()
    assert dag["begin_or_resume"]("24") is True
    first, second = (tmp_path / "said").read_text().splitlines()
    assert (parsed(first).until, parsed(second).run_id) == ("24", "first")
    assert "--run-id first" in first
    assert second.startswith("resume first")
    assert dag["migrate"].after == [dag["cut_over"]]
    assert dag["cut_over"].given["mode"] == "reschedule"
