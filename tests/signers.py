"""People who sign: real ed25519 keys, the list of who may sign, and a run's folder small enough to be made in a moment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.decision import sign
from helpers.evidence import signing
from helpers.parameters import ROLES
from helpers.run.folders import RunFolder

Runbook = Callable[..., "subprocess.CompletedProcess[str]"]


class Signers:
    """One key a role, `<folder>/<role>`, and `allowed`, the file for `signoff.allowed_signers`.

    `options` by role stand before the key, such as `valid-before="20250101Z"`; the namespace of the role is always there.
    """

    def __init__(self, folder: Path, options: dict[str, str] | None = None, roles: Sequence[str] = ROLES) -> None:
        self.folder, self.roles = folder, roles
        self.allowed = folder / "allowed_signers"
        folder.mkdir(parents=True, exist_ok=True)
        for role in roles:
            make_key(self.key(role))
        self.write(options or {})

    def key(self, role: str) -> Path:
        return self.folder / role

    def line(self, role: str, options: str = "", *, namespaces: str = "") -> str:
        kind, blob = self.key(role).with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        given = f'namespaces="{namespaces or signing.namespace(role)}"' + (f",{options}" if options else "")
        return f"{role}@example.org {given} {kind} {blob}\n"

    def write(self, options: dict[str, str]) -> None:
        self.allowed.write_text("".join(self.line(r, options.get(r, "")) for r in self.roles), encoding="ascii")

    def approve(self, folder: Path, roles: Sequence[str] = (), **words: Any) -> list[Path]:
        """Sign GO for these roles (all that have a key) on the run in this folder; the statements."""
        return [
            sign(folder, role, f"Name of {role}", "go", key=self.key(role), **words) for role in roles or self.roles
        ]

    def parameter(self, text: str = "") -> str:
        """The section `signoff` of a parameters file; `text` are its other keys, inside the braces."""
        return f"signoff: {{allowed_signers: {json.dumps(str(self.allowed))}{', ' + text if text else ''}}}\n"

    def command(self, role: str) -> list[str]:
        """The options of `runbook sign` with which this role says go."""
        return ["--role", role, "--name", f"Name of {role}", "--decision", "go", "--key", str(self.key(role))]


def make_key(path: Path) -> Path:
    """A key without a passphrase."""
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
    subprocess.run(make, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return path


def home(folder: Path) -> RunFolder:
    """A run whose reports are in this folder, and whose workspace is beside it."""
    return RunFolder(folder.name, folder, folder.parent / f"{folder.name}-work")
