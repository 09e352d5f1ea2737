"""The options of `runbook rollback`, apart from what it does: reading a command line must not load Chroma's client."""

from __future__ import annotations

import argparse


def declare(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument("run_id", metavar="RUN_ID", help="id of the run")
    command.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    command.add_argument(
        "--restore-source", action="store_true", help="restore the damaged chunks of the source from the snapshot"
    )
    command.add_argument(
        "--collection",
        action="append",
        default=[],
        metavar="NAME",
        help="restore this source collection only; repeatable",
    )
    command.add_argument(
        "--accept-source", metavar="REASON", help="accept a damaged source as it is; the reason is recorded"
    )
    command.add_argument(
        "--replay", action="store_true", help="write to the source what clients wrote to the target since the cutover"
    )
    command.add_argument(
        "--replay-to",
        default="",
        metavar="COLLECTION",
        help="with --replay: the source collection for new chunks that nothing else places",
    )
    command.add_argument(
        "--discard-with-reason",
        dest="discard",
        metavar="TEXT",
        help="discard those writes; they stay exported, the reason is recorded",
    )
    command.add_argument(
        "--why",
        default="",
        metavar="TEXT",
        help="why the run is rolled back; one line for the notice and the post-mortem",
    )
