"""A run that is brought to a state once, tried again and again from there, and compared chunk by chunk at the end."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers.stores.client import ClientStore
from tests.faults.command import Child, Order
from tests.plain_client import opened
from tests.servers import client_of
from tests.signers import Signers
from tests.storage import chunks, embedded, exact, fill

LOADER = (
    "cannot allocate memory for thread-local data: ABORT"  # glibc ends the process so: no word of ours, as with a kill
)
SECONDS = 300.0  # that a command may take here; 5 to 15 is usual
PARAMETERS = """\
name: trial
source: {source}
target: {target}
schema: identity
migration: {{batch_size: 15}}
snapshot: {{directory: kept}}
signoff: {{allowed_signers: keys/allowed_signers}}
contacts: {{on_call: Cy 777, dba: Bo 2, operations_lead: Ada 1, channel: "#room"}}
cutover: {{env_files: [{{path: app.env, keys: {{CHROMA_URL: after}}}}], monitor_minutes: 0}}
rollback: {{monitor_minutes: 0}}
monitoring: {{minutes: 0.02, level_seconds: 0.2, repetitions: 1}}
{more}"""
CONTENT = {"alpha": (90, 4, "l2"), "beta": (61, 6, "cosine"), "empty": (0, 3, "l2")}

HELD, REFUSED = "held", "refused in one line"
LOST, DOUBLED, ALTERED, STUCK = "LOST", "DOUBLED", "ALTERED", "STUCK"
HUNG, TRACEBACK, MISSED = "HUNG", "TRACEBACK", "NOT REACHED"
OUTCOMES = (HELD, REFUSED, LOST, DOUBLED, ALTERED, STUCK, HUNG, TRACEBACK, MISSED)
GOOD = (HELD, REFUSED)

Contents = dict[str, dict[str, tuple[Any, Any, bytes]]]


class Fault(Exception):
    """What a round found; `outcome` is one of OUTCOMES."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(f"{outcome}: {why}")
        self.outcome, self.why = outcome, why


@dataclass
class Ended:
    """How a command ended: exit code (negative: killed by a signal), and all it printed."""

    code: int
    said: str
    order: Order
    began: float

    @property
    def line(self) -> str:
        """What it said last on standard error, as its one line; "" where it said none."""
        lines = [x for x in self.said.splitlines() if x.startswith("runbook: ")]
        return lines[-1] if lines else ""


class Bench:
    """A place with a source, a target and a run `one`; `at(state)` puts it back to a state, made when wanted.

    States follow each other: new, ready (20), snapshot (21), migrated (22), changed (the source), decided, signed, cutover.
    """

    pace = 5.0  # seconds that a migration takes here and now
    STATES: tuple[str, ...] = ("new", "ready", "snapshot", "migrated", "changed", "decided", "signed", "cutover")

    def __init__(
        self, folder: Path, *, source: str = "", target: str = "", source_url: str = "", target_url: str = "",
        more: str = "", seed: int = 0,
    ) -> None:  # fmt: skip
        """`source`, `target`: the parameters, directories without them; `…_url`: where their server really is."""
        self.home, self._kept = folder / "run", folder / "states"
        self.scratch = folder / "scratch"
        self.source, self.target = source or "{path: source}", target or "{path: target}"
        self.source_place = source_url or "source"
        self.target_place = target_url or "target"
        self.more, self.known, self.seed = more, dict[str, Contents](), seed
        self.environment: dict[str, str] = {}
        self.log: list[str] = []

    # -- states ------------------------------------------------------------------------------------------------------

    def at(self, state: str) -> None:
        kept = self._kept / state
        if not kept.is_dir():
            if state != "new":
                before = {"changed": "migrated", "decided": "migrated"}.get(state)
                self.at(before or self.STATES[self.STATES.index(state) - 1])
            getattr(self, f"_make_{state}")()
            self.known[state] = self.contents(self.source_place)
            shutil.copytree(self.home, kept, symlinks=True)
        for part in self.home.iterdir():
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
        shutil.copytree(kept, self.home, symlinks=True, dirs_exist_ok=True)
        self.wanted, self.log = self.known[state], []
        self.source_digest = digest(self.home / "source")
        if self.target_place.startswith("http"):
            self.emptied(self.target_place)

    def _make_new(self) -> None:
        self.home.mkdir(parents=True)
        if self.source_place == "source":
            with embedded(self.home / "source") as store:
                fill_source(store, self.seed)
        Signers(self.home / "keys")
        (self.home / "app.env").write_text("# the application\nOTHER=1\nCHROMA_URL=before  # where Chroma is\n")
        text = PARAMETERS.format(source=self.source, target=self.target, more=self.more)
        (self.home / "trial.yaml").write_text(text, encoding="utf-8")

    def _make_ready(self) -> None:
        self.must("run", "trial.yaml", "--run-id", "one", "--until", "20")

    def _make_snapshot(self) -> None:
        self.must("resume", "one", "--until", "21")

    def _make_migrated(self) -> None:
        self.must("resume", "one", "--until", "22")

    def _make_changed(self) -> None:
        with embedded(self.home / "source") as store:
            change_source(store)

    def _make_decided(self) -> None:
        self.must("resume", "one", "--until", "24", code=4)

    def _make_signed(self) -> None:
        keys = Signers.of(self.home / "keys")
        for role in keys.roles:
            self.must("sign", "one", *keys.command(role))

    def _make_cutover(self) -> None:
        self.must("resume", "one", "--until", "25")
        with embedded(self.home / "target") as store:  # a client writes to the target
            store.add("alpha", chunks(5, 4, seed=9, prefix="client"))

    # -- commands ----------------------------------------------------------------------------------------------------

    def start(self, *arguments: str, **more: Any) -> Child:
        return Child(Order(self.home, arguments, {**self.environment, **more.pop("environment", {})}, **more))

    def ended(self, child: Child, seconds: float = SECONDS) -> Ended:
        """As it ended; a `Fault` where it hung, or said what only a traceback explains."""
        code = child.wait(seconds)
        done = Ended(code if code is not None else -9, child.said, child.order, child.began)
        words = " ".join(child.order.arguments) or "reading"
        self.log.append(f"{words}: {done.code} {done.line}")
        if code is None:
            raise Fault(HUNG, f"runbook {words} did not end in {seconds:.0f} s")
        self.judge_words(done)
        return done

    def judge_words(self, done: Ended) -> None:
        words = " ".join(done.order.arguments)
        if "Traceback (most recent call last)" in done.said or "unexpected " in done.line:
            raise Fault(TRACEBACK, f"runbook {words}: {done.line or done.said[-300:]}")
        for path in sorted((self.home / "reports").glob("*/results/*.json")):
            try:
                error = json.loads(path.read_bytes()).get("error") or {}
                changed = path.stat().st_mtime >= done.began
            except (ValueError, AttributeError, OSError):
                continue  # a file that the campaign itself damaged
            if error.get("code") == "unexpected" and changed:
                raise Fault(TRACEBACK, f"runbook {words}: step {path.stem}: {error.get('line')}")
        if done.code > 0 and done.code not in (4,) and not done.line and LOADER not in done.said:
            raise Fault(TRACEBACK, f"runbook {words}: exit {done.code} without its one line: {done.said[-300:]}")

    def run(self, *arguments: str, seconds: float = SECONDS, **more: Any) -> Ended:
        done = self.ended(self.start(*arguments, **more), seconds)
        if done.code == 0 and arguments[-1:] == ("22",):
            Bench.pace = time.time() - done.began
        return done

    def passed(self, step: str) -> bool:
        """Whether a result of the run says that this step passed."""
        try:
            found = json.loads((self.home / f"reports/one/results/{step}.json").read_bytes())
        except (OSError, ValueError):
            return False
        return found.get("error") is None and found.get("verdict") != "fail"

    def must(self, *arguments: str, code: int = 0) -> None:
        done = self.run(*arguments)
        assert done.code == code, f"runbook {' '.join(arguments)}: {done.code}\n{done.said[-3000:]}"

    # -- comparison --------------------------------------------------------------------------------------------------

    def contents(self, place: str) -> Contents:
        """Everything that a directory of the run, or the server at a URL, holds: read by Chroma's own client in a child."""
        return self.read_by(_dump, place)

    def read_by(self, dump: Callable[[Any, Path], int], place: str) -> Contents:
        """What this function, which is given a copy of the directory or the URL, writes into the file that it is given."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        out = self.scratch / "contents.pickle"
        out.unlink(missing_ok=True)
        path: Path | str = place
        if not place.startswith("http"):
            if not (self.home / place).is_dir():
                return {}
            path = self.scratch / "copy"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self.home / place, path)
        child = Child(Order(self.scratch, (), does=partial(dump, path, out)))
        code = child.wait(120)
        if code != 0 or not out.is_file():
            raise Fault(ALTERED, f"{place} cannot be read: {child.said[-300:]}")
        found: Contents = pickle.loads(out.read_bytes())
        return found

    def emptied(self, url: str) -> None:
        """Drop all that this server holds."""
        assert Child(Order(self.scratch, (), does=partial(_drop, url))).wait(120) == 0

    def compare(self, target: str = "", wanted: Contents | None = None) -> None:
        """A `Fault` where the target holds other chunks than the source, or the source's own were changed."""
        differences(wanted if wanted is not None else self.wanted, self.contents(target or self.target_place))
        if self.source_place.startswith("http") or digest(self.home / "source") != self.source_digest:
            differences(self.wanted, self.contents(self.source_place), "the source")


def differences(wanted: Contents, found: Contents, where: str = "the target") -> None:
    names = {n: c for n, c in wanted.items() if not n.startswith("__")}
    extra = [n for n in found if n not in names and found[n]]
    if extra:
        raise Fault(DOUBLED, f"{where} has collections that the source has not: {extra}")
    for name, held in names.items():
        if name not in found:
            raise Fault(LOST, f"{where} lacks collection {name}")
        there = found[name]
        if gone := sorted(held.keys() - there.keys()):
            raise Fault(LOST, f"{where}, {name}: {len(gone)} of {len(held)} chunks are missing: {gone[:3]}")
        if more := sorted(there.keys() - held.keys()):
            raise Fault(DOUBLED, f"{where}, {name}: {len(more)} chunks too many: {more[:3]}")
        for chunk, (text, metadata, vector) in held.items():
            other = there[chunk]
            if (text, metadata) != other[:2] or not _same(vector, other[2]):
                raise Fault(ALTERED, f"{where}, {name}: {chunk} differs")


def _same(a: bytes, b: bytes) -> bool:
    if a == b:
        return True
    one, two = np.frombuffer(a, np.float32), np.frombuffer(b, np.float32)
    return one.shape == two.shape and bool(np.allclose(one, two, rtol=1e-6, atol=1e-12))  # cosine: normalised, and back


def _dump(place: Path | str, out: Path) -> int:
    with client_of(place) if isinstance(place, str) else opened(place) as client:
        out.write_bytes(pickle.dumps(held_by(client)))
    return 0


def _drop(url: str) -> int:
    with client_of(url) as client:
        for collection in client.list_collections():
            client.delete_collection(collection.name)
    return 0


def held_by(client: Any) -> Contents:
    found: Contents = {}
    for collection in client.list_collections():
        held = collection.get(include=["documents", "metadatas", "embeddings"])
        vectors = np.asarray(held["embeddings"], dtype=np.float32)
        rows: dict[str, tuple[Any, Any, bytes]] = {}
        for i, chunk in enumerate(held["ids"]):
            if chunk in rows:
                raise AssertionError(f"{collection.name}: {chunk} twice")
            rows[chunk] = (held["documents"][i], exact(dict(held["metadatas"][i] or {})), vectors[i].tobytes())
        found[collection.name] = rows
    return found


def fill_source(store: ClientStore, seed: int = 0) -> None:
    for number, (name, (count, dimension, space)) in enumerate(CONTENT.items()):
        fill(store, name, chunks(count, dimension, seed=seed + number, prefix=name[0]), space)  # type: ignore[arg-type]


def change_source(store: ClientStore) -> None:
    """Chunks of `alpha` deleted, changed and added; `empty` filled; a collection made and one dropped."""
    rows = chunks(90, 4, prefix="a").slice(20, 50)
    for i in range(len(rows)):
        rows.metadatas[i] = {"n": i} if i % 3 else None
        rows.documents[i] = None if i % 7 == 0 else f"changed {i}"
    rows.embeddings[::2] *= np.float32(0.9)
    store.delete("alpha", [*rows.ids, *(f"a{i}" for i in range(10))])
    store.add("alpha", rows)
    store.add("alpha", chunks(30, 4, seed=4, prefix="new"))
    store.drop("beta")
    fill(store, "gamma", chunks(25, 5, prefix="g"), "cosine")


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return whole.hexdigest()
