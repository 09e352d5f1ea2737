"""A lock in the target: a marker collection, whose creation is atomic on the server.

It keeps a second run out, from this machine or another. A run that was killed finds its own marker and goes on.
"""

from __future__ import annotations

import socket
from typing import Any

from helpers.errors import RUNBOOK, Terminal
from helpers.results import utc_now
from helpers.stores.base import LOCK_COLLECTION
from helpers.stores.door import Client, NotFoundError
from helpers.stores.retry import attempt, translate

RESTORE = "restore-"  # how a restore's name in the lock begins; the rest is made of its snapshot's id


class TargetLock:
    """The locking part of a store."""

    client: Client
    label: str

    def acquire_lock(self, run_id: str) -> None:
        """Take the lock, or keep it where this run holds it already. Raises `Terminal` ("lock_held")."""
        mark = {"run_id": run_id, "host": socket.gethostname(), "time": utc_now()}
        try:
            self.client.create_collection(LOCK_COLLECTION, metadata=mark, embedding_function=None)
        except Exception as error:
            if "already exists" not in str(error):
                raise translate(error, self.label) from error
        holder = self.lock_holder() or {}
        if holder.get("run_id") != run_id:
            name = str(holder.get("run_id", "?"))
            who, again = f"run {name}", f"{RUNBOOK} resume {name} (on that host)"
            if name.startswith(RESTORE):
                who, again = name, f"the same {RUNBOOK} snapshots restore as before, which was stopped"
            raise Terminal(
                "lock_held",
                f"{who} from host {holder.get('host', '?')} holds the target since {holder.get('time', '?')}",
                where=self.label,
                next_step=f"Finish it with: {again}. If it is dead for good, delete the empty collection {LOCK_COLLECTION}.",
            )

    def release_lock(self, run_id: str) -> None:
        """Give the lock back; nothing where another run holds it."""
        if (self.lock_holder() or {}).get("run_id") == run_id:
            attempt(lambda: self.client.delete_collection(LOCK_COLLECTION), self.label)

    def lock_holder(self) -> dict[str, Any] | None:
        """Run id, host and time of the holder, or None where the target is free."""
        try:
            collection = self.client.get_collection(LOCK_COLLECTION, embedding_function=None)
        except (NotFoundError, ValueError):
            return None
        except Exception as error:
            raise translate(error, self.label) from error
        return dict(collection.metadata or {})
