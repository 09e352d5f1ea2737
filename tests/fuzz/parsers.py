"""Every parser of the package: the real files that it reads, and how it reads them.

`test_every_parser_is_fuzzed.py` holds this list to the code: whatever decodes foreign bytes in `helpers` has to be reached
from here, or be named in `EXCUSED` with the reason.
"""

# ruff: noqa: E501  tables of inputs are read by column

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from helpers import audit, cli, notify
from helpers.errors import Terminal, without_tokens
from helpers.reason_codes import ReasonCode
from helpers.results import StepResult
from helpers.run.folders import RunFolder
from helpers.runner import group
from tests.fuzz.files import (
    COMPOSE,
    ENV,
    NGINX,
    RUN,
    STATES,
    TABLE,
    Bench,
    a_database,
    a_fence,
    a_journal,
    a_snapshot,
    directory,
    files_read,
    files_to_import,
    in_storage,
    index_files,
    manifest_again,
    old_answers,
    old_directory,
    one,
    parquet_to_import,
    reports,
    searched,
    shipped,
    signatures,
    small_files,
    staged_files,
    staged_parts,
    states,
    storage_read,
    table,
)  # fmt: skip
from tests.fuzz.inputs import Fix


@dataclass(frozen=True)
class Parser:
    """`files` makes the real files; `read` reads one of them in its place, and raises one of the toolkit's errors or gives a value.

    `kind`: json, jsonl, text, bytes (see `inputs.mutated`), parquet, sqlite, or text that is a value itself and no file ("value").
    `follows`: it is written by whoever runs the command, and may name files anywhere. `share`: of the inputs.
    """

    name: str
    kind: str
    files: Callable[[Bench], list[Path]]
    read: Callable[[Bench, Path], object]
    fix: Fix | None = None
    follows: bool = False
    share: float = 1.0
    refused: tuple[str, ...] = ()  # real files that are refused as they are


# -- reading ------------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    """`runbook …` in this process; what it printed. A refusal is its one line, raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    said = err.getvalue()
    if code not in (0, 1, 2, 3, 4) or "unexpected" in said or "Traceback" in said + out.getvalue():
        raise AssertionError(f"runbook {' '.join(arguments)} ended with {code}: {said}")
    if said:
        raise Terminal(ReasonCode.RUN_DAMAGED, said.rstrip("\n"))
    return out.getvalue()


def run_of(_: Bench) -> Any:
    return RunFolder.of(RUN).read()


def snapshot_read(bench: Bench, path: Path) -> object:
    from helpers.snapshots.retention import snapshots_in
    from helpers.snapshots.snapshot import Snapshot

    list(snapshots_in(bench.home / "kept"))
    snapshot = Snapshot.open(bench.home / "kept" / "one")
    _ = snapshot.collections(), snapshot.total, snapshot.digest
    for name in snapshot.names():
        for part in snapshot.parts(name):
            snapshot.ids(part)
            snapshot.read(part)
    return snapshot.verify()


def journal_read(bench: Bench, path: Path) -> object:
    from helpers.snapshots.export_journal import ExportJournal
    from helpers.snapshots.retention import snapshots_in

    folder = bench.home / "kept" / "two.partial"
    list(snapshots_in(folder.parent))
    ExportJournal.is_whole(folder, "s", ["notes"])
    journal = ExportJournal.read(folder)
    if journal is not None:
        _ = journal.chunks, journal.listed, journal.size
        _ = journal.sessions and journal.retain_until
        for name in journal.collections:
            journal.ids(name)
        for name, start in journal.parts:
            journal.intact(name, start)
    return journal


def state_read(bench: Bench, path: Path) -> object:
    if path.suffix == ".jsonl":
        path = path.with_suffix(".json")
    return STATES[path.parent.name].read_file(path)


def fence_read(bench: Bench, path: Path) -> object:
    """`fence --lift`, but for the lifting: what it needs is read from the fence's file alone."""
    from unittest.mock import patch

    from helpers import fence

    with patch.object(fence, "FenceControl"):
        return fence.lift(RunFolder(RUN, path.parent, path.parent).read())


def page(bench: Bench, path: Path) -> object:
    """The page of a run may be impossible, which is logged; the page of all runs may not."""
    from helpers.report.pages import index_page, render_pages

    render_pages(run_of(bench))
    return len(index_page(bench.home / "reports"))


def page_of_figure(bench: Bench, path: Path) -> object:
    from helpers.report import picture, read_run

    list(read_run(run_of(bench)).changes)
    return picture(path, "x") if path.suffix == ".svg" else None


def notebook_read(bench: Bench, path: Path) -> object:
    from helpers.report.pages import render_notebook
    from helpers.run.kernel import is_whole

    is_whole(path)
    render_notebook(RunFolder.of(RUN), path)
    return None


def verified(bench: Bench, path: Path) -> object:
    from helpers.cli.evidence import verify

    found = verify(bench.home / "reports" / RUN)
    if any("\n" in line for line in found.problems):
        raise AssertionError(f"a problem of several lines: {found.problems}")
    return len(found.problems)


def gates(bench: Bench, path: Path) -> object:
    from helpers.evidence import signoffs
    from helpers.report import read_signoffs

    run = run_of(bench)
    read_signoffs(run)
    return signoffs.statements(run), [signoffs.gate_state(run, gate) for gate in ("dry-run", "cutover")]


def results_read(bench: Bench, path: Path) -> object:
    from helpers.snapshots.retention import taken_by

    taken_by(RunFolder.of(RUN))
    return StepResult.read(path, RUN)


def progress_read(bench: Bench, path: Path) -> object:
    from unittest.mock import patch

    from helpers import status

    status._progress(path)
    import datetime as dt

    with patch.object(status, "at_work", lambda folder: {1: "host"}):
        return status.at_work_now(RunFolder.of(RUN), dt.datetime.now(dt.UTC))


def yaml_value(read: str) -> Callable[[Bench, Path], object]:
    def wanted(bench: Bench, path: Path) -> object:
        from helpers.monitoring.integration_cases import read_cases
        from helpers.parameters import load_parameters
        from helpers.schema import load_schema

        if read == "schema":
            return load_schema(str(path))
        if read == "cases":
            return read_cases(str(path))
        found = load_parameters(path)
        _ = (
            found.document(),
            found.context(),
            found.placeholders(),
            found.digest(),
            found.environment(),
            found.secrets_of_files(),
        )
        return found

    return wanted


def settings(bench: Bench, path: Path) -> object:
    """`--set a.b=VALUE`, `resume --set`, and the words of a command line."""
    from helpers.parameters import parameters_from

    text = path.read_bytes().decode("utf-8", "replace")
    words = [word for word in text.split("\n") if word][:3]
    try:
        parameters_from({}, words)
    finally:
        cli.parser().parse_args(["resume", "x", *(f"--set={word}" for word in words)])
    return command("status")


def address(bench: Bench, path: Path) -> object:
    """One text as every kind of address that there is."""
    from pydantic import ValidationError

    from helpers.errors import secret_parts, secrets_of
    from helpers.parameters import Endpoint
    from helpers.stores.wire import proxy_for

    text = path.read_bytes().decode("utf-8", "surrogateescape")[:3_000]
    without_tokens(text)
    secret_parts(text)
    secrets_of("url", text)
    with contextlib.suppress(ValidationError):
        endpoint = Endpoint(url=text)
        _ = endpoint.address, endpoint.label, endpoint.host, endpoint.port, endpoint.prefix, endpoint.tls
        proxy_for(httpx.URL(endpoint.address))
    with contextlib.suppress(ValidationError):
        Endpoint(path=text)
    return None


def secret_file(bench: Bench, path: Path) -> object:
    from helpers.parameters.endpoint import SecretRef

    return SecretRef("file", str(path)).resolve()


def env_file(bench: Bench, path: Path) -> object:
    from helpers.cutover.files import read_config
    from helpers.cutover.readiness import edit_env

    return edit_env(read_config(path).content, {"CHROMA_URL": "http://127.0.0.1:9"}, path)


def compose_file(bench: Bench, path: Path) -> object:
    from helpers.cutover.files import edit_compose, read_config

    return edit_compose(read_config(path).content, {"CHROMA_URL": "http://127.0.0.1:9"}, path)


def config_secrets(bench: Bench, path: Path) -> object:
    from helpers.parameters.sections import Cutover

    kind = "compose_files" if path.suffix == ".yaml" else "env_files"
    rules = Cutover.model_validate({kind: [{"path": str(path), "keys": {"CHROMA_URL": "after"}}]})
    return rules.secret_values()


def nginx_dump(bench: Bench, path: Path) -> object:
    from helpers.fence.nginx import _leads_here, servers

    text = path.read_bytes().decode("utf-8", "replace")
    first, _, second = text.partition("# configuration file /etc/nginx/conf.d/a.conf:\n")
    found = servers({Path("/etc/nginx/nginx.conf"): first, Path("/etc/nginx/conf.d/a.conf"): second})
    return [
        (each.urls(), each.takes(80), [_leads_here(lead) for lead in each.leads if lead.startswith(("unix:", "127."))])
        for each in found
    ]


def allowed(bench: Bench, path: Path) -> object:
    from datetime import UTC, datetime

    from helpers.evidence import signing

    now = datetime.now(UTC)
    for line in signing.read_allowed(path):
        _ = line.valid_at(now), line.signs_for("dba")
    return list(signing.problems(path, ["dba"], now))


def signature_read(bench: Bench, path: Path) -> object:
    from datetime import UTC, datetime

    from helpers.errors import RunbookError
    from helpers.evidence import signing

    folder, data = path.parent, b"text"
    every: dict[str, list[Callable[[], object]]] = {
        ".sig": [
            lambda: signing.signed_by(data, path, signing.SEAL),
            lambda: signing.verify(data, path, signing.SEAL, folder / "allowed_signers", datetime.now(UTC)),
        ],
        ".pub": [
            lambda: audit.public_key(path),
            lambda: signing.raw_signed(data, b"0" * 64, audit.public_key(path)[0]),
        ],
        ".tsr": [lambda: signing.stamped(folder / "data", path)],
        "": [lambda: signing.raw(data, folder / "runner_key"), lambda: audit.public_key(folder / "runner_key")],
    }
    readers = every[path.suffix if path.name != "allowed_signers" else ".sig"]  # fmt: skip
    refused = None
    for read in readers:
        try:
            read()
        except signing.Refused as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from error
            refused = Terminal(ReasonCode.NOT_SIGNED, str(error))
        except RunbookError as error:
            refused = error  # type: ignore[assignment]
    if refused is not None:
        raise refused
    return None


def directory_read(bench: Bench, path: Path) -> object:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores import layout, quick_names, repair
    from helpers.stores.copying import copy_directory
    from helpers.stores.rescue import rescue, stored_spaces

    quick_names(Endpoint(path=str(path.parent)), "source")
    repair.migrations(path)
    copy = bench.home / "tmp" / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    said = copy_directory(path.parent, copy)
    found = repair.mend(copy, path.parent)
    try:
        rescued, _ = rescue(copy, "default_tenant", "default_database", lambda name: True, {}, found, normalised=False)
    except sqlite3.Error as error:  # as `prepare`, which goes on to open the copy
        raise layout.damaged(error, path) from error
    layout.stored_names(copy, "default_tenant", "default_database")
    return said, found, rescued, stored_spaces(copy), layout.leftovers(path.parent)


def doctor(bench: Bench, path: Path) -> object:
    return command("doctor", str(path.parent if path.suffix == ".sqlite3" else path.parent.parent))


def index_read(bench: Bench, path: Path) -> object:
    from helpers.stores.index_files import IndexFolder, links_bloated

    folder = path.parent
    links_bloated(folder)
    assert IndexFolder(folder).health
    seen = IndexFolder(folder, dimension=6, m=16, cosine=True).health
    index = IndexFolder(folder, dimension=6, m=16, cosine=True)
    index.vectors(["c1", "late3", "nobody"])
    return seen


def old_directory_read(bench: Bench, path: Path) -> object:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores import open_source, quick_names

    endpoint = Endpoint(path=str(path.parent))
    quick_names(endpoint, "source")
    with open_source(endpoint, bench.home / "tmp" / "scratch") as store:
        return [(store.info(name), store.read(name, store.ids(name))) for name in store.names()]


def staged_read(bench: Bench, path: Path) -> object:
    from helpers.migration.delta import Delta
    from helpers.migration.staging import Quarantine
    from helpers.snapshots.remote import staged_in_use

    staged_in_use(folder := bench.home / "staging")
    staged = Delta.load(folder / "staged").add
    for target in staged.files:
        _ = list(staged.stream(target, 0, 7)), list(staged.ids(target)), staged.origins(target, 0, staged.rows(target))
    return Quarantine(folder / "quarantine").evidence(folder / "evidence.jsonl.gz")


def small_read(bench: Bench, path: Path) -> object:
    from unittest.mock import patch

    from helpers.migration import reembedding
    from helpers.monitoring import watcher
    from helpers.profiling import Places
    from helpers.rollback import replay
    from helpers.snapshots.export_journal import read_parquet
    from helpers.troubleshooting import exports, manifest_of, unfinished_targets

    match path.relative_to(bench.home).parts[0]:
        case "undo":
            found = [(e, manifest_of(e), unfinished_targets(e)) for e in exports(path.parent.parent)]
            return [
                read_parquet(e / file) for e, made, _ in found for name in made["ids"] for file in made["files"][name]
            ]
        case "rollback":
            return replay.exported([str(path.parent)]) if path.name == "index.json" else replay.saved(bench.home)
        case "vectors":
            return reembedding._read(path)
        case "monitoring":
            return watcher._unfinished(path)
        case "places":
            places = Places(path.parent)
            with patch.object(Places, "_file", lambda self, finding: path):
                return list(places.every("x"))
        case "bench":
            shutil.copy(path, RunFolder.of(RUN).workspace / "progress.json") if RunFolder.of(
                RUN
            ).workspace.is_dir() else None
            return progress_read(bench, path)
    return None


# -- servers ------------------------------------------------------------------------------------------------------------


def answers(bench: Bench) -> list[Path]:
    """What a real server answers while it is read, a file for each answer."""
    from tests.servers import ChromaServer

    folder = bench.home / "answers"
    shutil.copytree(bench.once(a_database), bench.home / "served")
    with ChromaServer(bench.home / "served") as server:
        recorded: dict[str, tuple[int, bytes]] = {}
        with wire(lambda request, send: recorded.setdefault(asked(request), send(request))):
            read_server(server.url)
    bench.put("answers/url", server.url)
    for number, (key, (status, body)) in enumerate(sorted(recorded.items())):
        bench.put(f"answers/{number:03d}.key", f"{status} {key}")
        (folder / f"{number:03d}.json").write_bytes(body)
    return sorted(folder.glob("*.json"))


def asked(request: httpx.Request) -> str:
    return f"{request.method} {request.url.raw_path.decode()} {request.content.decode('utf-8', 'replace')}"


def read_server(url: str) -> object:
    from helpers.parameters.endpoint import Endpoint
    from helpers.stores import open_source, quick_names

    endpoint = Endpoint(url=url, timeout_seconds=5)
    quick_names(endpoint, "source")
    with open_source(endpoint, Path("tmp/scratch")) as store:
        infos = store.collections()
        for info in infos:
            ids = store.ids(info.name)
            store.count(info.name)
            batch = store.read(info.name, ids[:10])
            if len(batch):
                store.query(info.name, batch.embeddings[:2], 3)
        return infos


Send = Callable[[httpx.Request], tuple[int, bytes]]


@contextlib.contextmanager
def wire(answer: Callable[[httpx.Request, Send], tuple[int, bytes]]) -> Iterator[None]:
    """Inside it every request of the package's one HTTP session is answered by `answer`; `send` asks the real server."""
    from unittest.mock import patch

    from helpers.stores import wire as real

    class Transport:
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            def send(request: httpx.Request) -> tuple[int, bytes]:
                with httpx.HTTPTransport() as plain:
                    got = plain.handle_request(request)
                    return got.status_code, b"".join(got.stream)  # type: ignore[arg-type]

            request.read()
            status, body = answer(request, send)
            return httpx.Response(status, content=body, headers={"content-type": "application/json"}, request=request)

    with patch.object(real._Wire, "_pool", lambda self, url: Transport()):
        yield


def server_read(bench: Bench, path: Path) -> object:
    folder = path.parent
    known = {}
    for key in folder.glob("*.key"):
        status, _, text = key.read_text(encoding="utf-8").partition(" ")
        known[text] = (int(status), key.with_suffix(".json").read_bytes())

    def answer(request: httpx.Request, _: Send) -> tuple[int, bytes]:
        return known.get(asked(request), (404, b'{"error":"NotFoundError","message":"no such answer"}'))

    with wire(answer):
        return read_server((folder / "url").read_text())


def old_server_read(bench: Bench, path: Path) -> object:
    def answer(request: httpx.Request, _: Send) -> tuple[int, bytes]:
        parts = request.url.path.split("/")[2:]
        if parts[0] != "v1":
            return 404, b'{"detail":"Not Found"}'
        name = parts[1] if parts[1] in ("tenants", "databases") else parts[-1]
        body = (path.parent / f"{name}.json").read_bytes() if (path.parent / f"{name}.json").exists() else b"{}"
        order = json.loads(request.content) if request.content else {}
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            if name == "get" and path.name != "get.json" and "ids" in order:  # the real one gives what was asked for
                got = json.loads(body)
                rows = [got["ids"].index(i) for i in order["ids"] if i in got["ids"]]
                body = json.dumps(
                    {k: [v[r] for r in rows] if isinstance(v, list) and v else v for k, v in got.items()}
                ).encode()
        return 200, body

    with wire(answer):
        return read_server("http://127.0.0.1:9")


# -- the list -----------------------------------------------------------------------------------------------------------

PARSERS = [
    Parser("parameters", "text", shipped("parameters/[pr][re]*.yaml"), yaml_value("parameters"), follows=True, share=0.6),
    Parser("schema", "text", shipped("parameters/schemas/*.yaml"), yaml_value("schema"), share=0.6),
    Parser("queries", "text", shipped("parameters/[ql][uo]*.yaml"), yaml_value("cases"), share=0.5),
    Parser("--set and arguments", "text", one("words", "migration.batch_size=5\nsource.path=x\ntarget={path: a}\n"), settings, follows=True, share=0.3),
    Parser("addresses", "text", one("address", "http://[::1]:8000/chroma?x=1#f"), address),
    Parser("secret in a file", "text", one("secret", "abc\n"), secret_file),
    Parser("run.json, parameters.yaml", "json", reports("run.json", "parameters.yaml"),
           lambda bench, path: (run_of(bench).facts, run_of(bench).parameters, command("status", RUN), command("status")), follows=True, share=0.3),
    Parser("results", "json", reports("results/*.json"), results_read, share=2),
    Parser("results on the page", "json", reports("results/*.json", "run.json", "drills/*.json"), page, share=0.05),
    Parser("figures, changes", "text", reports("figures/*", "22_changes.csv.gz"), page_of_figure, share=0.3),
    Parser("notebooks", "json", reports("22_migrate.ipynb"), notebook_read, share=0.15),
    Parser("audit log", "jsonl", reports("audit.jsonl"),
           lambda bench, path: (audit.check(path), audit.check(path, torn=True), audit.entries(path), command("audit", RUN))),
    Parser("notices", "jsonl", reports("notices.jsonl"), lambda bench, path: notify.read(path.parent)),
    Parser("group", "json", reports("../many/group.json"), lambda bench, path: (group.read("many"), command("status", "many")), share=0.8),
    Parser("seals, envelopes, archive", "json", reports("seals/*", "VERIFY.txt", "run.json", "22_migrate.ipynb", "allowed_signers", "audit.jsonl"), verified, share=0.1),
    Parser("sign-offs", "json", reports("signoffs/*"), gates, share=0.3),
    Parser("allowed signers", "text", reports("allowed_signers"), allowed),
    Parser("keys, signatures, time-stamps", "bytes", signatures, signature_read, share=0.4,
           refused=("allowed_signers", "data.tsr")),
    Parser("state files", "json", states, state_read, share=2),
    Parser("fence", "json", a_fence, fence_read),
    Parser("snapshot manifest", "json", lambda bench: [bench.once(a_snapshot) / "manifest.json"], snapshot_read, fix=manifest_again, share=0.8),
    Parser("snapshot parts", "parquet", lambda bench: sorted(bench.once(a_snapshot).glob("*/*.parquet")), snapshot_read, share=0.8),
    Parser("files to import", "bytes", files_to_import, files_read, share=0.4),
    Parser("a Parquet file to import", "parquet", parquet_to_import, files_read, share=0.4),
    Parser("snapshot journal", "jsonl", a_journal, journal_read, fix=manifest_again),
    Parser("snapshots in a storage", "json", in_storage, storage_read, fix=manifest_again, share=0.8),
    Parser("staging, quarantine", "json", staged_files, staged_read),
    Parser("staged parts", "parquet", staged_parts, staged_read),
    Parser("small files of steps", "json", small_files, small_read, share=2),
    Parser("directory: SQLite", "sqlite", directory, directory_read, share=0.6),
    Parser("directory: its bytes", "bytes", directory, directory_read),
    Parser("directory: index files", "bytes", index_files, index_read, share=2),
    Parser("directory: doctor", "sqlite", directory, doctor, share=0.05),
    Parser("directory of 0.3", "parquet", old_directory, old_directory_read),
    Parser("server: API v2", "json", answers, server_read, share=0.3),
    Parser("server: API v1", "json", old_answers, old_server_read, share=0.5),
    Parser("nginx -T", "text", one("nginx.txt", NGINX), nginx_dump),
    Parser(".env", "text", one("app.env", ENV), env_file),
    Parser("compose file", "text", one("compose.yaml", COMPOSE), compose_file),
    Parser("what is searched for secrets", "bytes", one("s/output.txt", b'{"b": "\\u0061-secret", "a": "' + base64.b64encode(gzip.compress(b"a-secret-value", mtime=0)) + b'"}'), searched, share=0.3),
    Parser("table of a fleet", "text", lambda bench: [bench.put("t/a.csv", TABLE), bench.put("t/b.yaml", "- {name: shop, source: x, target: y}\n")], table, follows=True),
    Parser("secrets of configuration files", "text", lambda bench: [bench.put("c/compose.yaml", COMPOSE), bench.put("c/app.env", ENV)], config_secrets),
]  # fmt: skip
