"""Every edit of a cutover, made in memory: what each file would hold, and the diff; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.cutover.changes import Change, unified
from helpers.cutover.compose_file import edit_compose
from helpers.cutover.env_file import edit_env
from helpers.cutover.files import ConfigFile, read_config, refusal, sha256
from helpers.parameters import Parameters
from helpers.parameters.sections import ComposeFile, EnvFile

LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True, slots=True)
class Edit:
    """One file with its new content; `changes` is empty where it points to the target already."""

    file: ConfigFile
    new: bytes
    changes: list[Change]

    @property
    def after(self) -> str:
        """SHA-256 of the new content."""
        return sha256(self.new)

    def diff(self) -> str:
        return unified(self.file.path, self.changes)


def edit(named: EnvFile | ComposeFile, values: Mapping[str, str], original: bytes | None = None) -> Edit:
    """The edit of one file with these placeholders; `original` is its content before, where it was changed already."""
    file = read_config(named.path)
    content = file.content if original is None else original
    keys = {key: template.format(**values) for key, template in named.keys.items()}
    if isinstance(named, EnvFile):
        new, changes = edit_env(content, keys, file.path)
    else:
        new, changes = edit_compose(content, keys, file.path, named.services)
    return Edit(file, new, changes)


def all_edits(parameters: Parameters, originals: Mapping[str, bytes] | None = None) -> list[Edit]:
    """The edits of every file, in the order of the parameters. `Terminal` (`config_file`) at the first that cannot be made.

    `originals` are contents before the cutover by real path, for files that it has changed already.
    """
    values, before = parameters.target.template_values(), originals or {}
    found: list[Edit] = []
    for named in parameters.cutover.config_files():
        real = str(read_config(named.path).real)
        twice = next((e.file.path for e in found if str(e.file.real) == real), None)
        if twice is not None:
            raise refusal(Path(named.path), f"is the same file as {twice}", "Put its keys together.")
        found.append(edit(named, values, before.get(real)))
    return found


def diff(edits: Sequence[Edit]) -> str:
    """The unified diff of all files, with the changed lines only."""
    shown = "\n".join(filter(None, (e.diff() for e in edits)))
    same = [str(e.file.path) for e in edits if not e.changes]
    return "\n".join(filter(None, [shown, *(f"{path}: no change, it points to the target already" for path in same)]))


def loopback_in_container(parameters: Parameters) -> str:
    """Why a loopback target in a compose file may be wrong; "" where it is none."""
    host = parameters.target.host
    if not parameters.cutover.compose_files or not (host in LOOPBACK or host.startswith("127.")):
        return ""
    return f"{host} inside a container is the container itself: see that the services reach {parameters.target.address} by it"
