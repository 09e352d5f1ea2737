"""The commands that crash points fall on: from which state, what a DBA does after the kill, what must be true in the end.

`writes` of all scenarios together are the named writes of the code, but for those of `WITHOUT`, which say why;
`tests/faults/test_every_write_has_a_crash_point.py` holds the two to the code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.bench import CONTENT, DOUBLED, STUCK, Bench, Ended, Fault, differences
from tests.signers import Signers

Command = Callable[[Bench], tuple[str, ...]]


def _same(bench: Bench) -> None:
    bench.compare()


def _nothing(bench: Bench) -> None:
    """The scenario begins with its state as it is."""


@dataclass(frozen=True)
class Scenario:
    """`over` says of a refusal that the work was done already, by the command that was killed."""

    name: str
    state: str
    command: Command
    again: Command
    writes: frozenset[str]
    codes: tuple[int, ...] = (0,)
    check: Callable[[Bench], None] = _same
    prepare: Callable[[Bench], None] = _nothing
    over: Callable[[Ended], bool] = lambda done: False
    pages: bool = False
    bench: str = "directories"


def always(*words: str) -> Command:
    return lambda bench: words


def begin_or_resume(bench: Bench) -> tuple[str, ...]:
    if (bench.home / "reports/one/run.json").is_file():
        return ("resume", "one", "--until", "22")
    return ("run", "trial.yaml", "--run-id", "one", "--until", "22")


def resume_22(bench: Bench) -> tuple[str, ...]:
    """After step 22 was asked for once more: what is left of it."""
    return ("run", "--run-id", "one", "--from", "22", "--until", "22")


def sign(bench: Bench) -> tuple[str, ...]:
    keys = Signers.of(bench.home / "keys")
    return ("sign", "one", *keys.command(keys.roles[0]))


def restore(bench: Bench) -> tuple[str, ...]:
    return ("snapshots", "restore", snapshot(bench).name, "--into", "restored")


def snapshot(bench: Bench) -> Path:
    return next(p for p in sorted((bench.home / "kept").iterdir()) if (p / "manifest.json").is_file())


def restored(bench: Bench) -> None:
    bench.compare("restored")


def signed(bench: Bench) -> None:
    """The first role has signed: the run waits for the others only."""
    done = bench.run("resume", "one")
    if done.code != 4 or f"approval of {Signers.of(bench.home / 'keys').roles[0]}" in done.line:
        raise Fault(STUCK, f"the signature does not count: exit {done.code}: {done.line}")


def rolled_back(bench: Bench) -> None:
    """The source as it was, or with what clients wrote since; nothing of ours in the target; the file as it was."""
    wanted = {n: dict(c) for n, c in bench.wanted.items()}
    source = bench.contents("source")
    wanted["alpha"] |= {i: row for i, row in source["alpha"].items() if i.startswith("client")}
    if len(wanted["alpha"]) != CONTENT["alpha"][0] + 5:
        raise Fault("LOST", "what a client wrote to the target is not in the source")
    differences(wanted, source, "the source")
    if left := [n for n in bench.contents("target") if n in CONTENT]:
        raise Fault(DOUBLED, f"rolled back, and the target still holds {left}")
    if b"CHROMA_URL=before" not in (bench.home / "app.env").read_bytes():
        raise Fault("ALTERED", "app.env was not put back")


def cut_over(bench: Bench) -> None:
    """The target has what the source has, and the application's file names it."""
    bench.compare()
    text = (bench.home / "app.env").read_text(encoding="utf-8")
    if text != "# the application\nOTHER=1\nCHROMA_URL=after  # where Chroma is\n":
        raise Fault("ALTERED", f"app.env: {text!r}")


def pruned(bench: Bench) -> None:
    """The snapshot is gone, or whole; the run's own evidence is."""
    folders = [p for p in (bench.home / "kept").iterdir() if (p / "manifest.json").is_file()]
    for folder in folders:
        if bench.run("snapshots", "verify", folder.name).code:
            raise Fault("LOST", f"half removed: {bench.log[-1]}")


def _w(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCENARIOS: list[Scenario] = [
    Scenario("begin", "new", begin_or_resume, begin_or_resume, _w("")),
    Scenario("migrate", "snapshot", always("resume", "one", "--until", "22"), always("resume", "one", "--until", "22"), _w("")),
    Scenario("catch-up", "changed", resume_22, resume_22, _w("")),
    Scenario("decide", "migrated", always("resume", "one"), always("resume", "one"), _w(""), codes=(4,), pages=True),
    Scenario("sign", "decided", sign, sign, _w(""), codes=(0, 4), check=signed, over=lambda done: "already" in done.line),
    Scenario("cutover", "signed", always("resume", "one"), always("resume", "one"), _w(""), codes=(0, 4), check=cut_over),
    Scenario("rollback", "cutover", always("rollback", "one", "--why", "trial", "--replay"),
             always("rollback", "one", "--why", "trial", "--replay"), _w(""), check=rolled_back),
    Scenario("retry", "migrated", always("resume", "one", "--retry", "21", "--until", "22"),
             always("resume", "one", "--until", "22"), _w("")),
    Scenario("restore", "snapshot", restore, restore, _w(""), check=restored),
    Scenario("prune", "migrated", always("snapshots", "prune", "--yes", "--abandoned", "one"),
             always("snapshots", "prune", "--yes", "--abandoned", "one"), _w(""), check=pruned),
    Scenario("archive", "migrated", always("archive", "one"), always("archive", "one"), _w(""), check=_nothing),
]  # fmt: skip
