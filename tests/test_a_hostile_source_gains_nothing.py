"""A source's stored configuration names functions, URLs, variables, models and files: none is built, asked or fetched for it.

Each collection of the directory names one thing; a thief listens on loopback and must hear nothing.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, get_args

import pytest
from chromadb.api import types
from chromadb.api.types import Cmek
from chromadb.utils import embedding_functions
from jupyter_client.manager import start_new_kernel
from pydantic import BaseModel

from helpers.errors import Terminal, UsageError
from helpers.migration import target_lock
from helpers.parameters import parameters_from
from helpers.parameters.endpoint import Endpoint, StoredFunction
from helpers.run import command
from helpers.steps import integration
from helpers.stores import copying, creation, door, open_source, open_target, opening
from helpers.stores.creation import own_function, register_allowed
from helpers.stores.layout import DATABASE
from tests.commands import Runbook
from tests.conftest import ROOT
from tests.hostile import super_journal
from tests.servers import ChromaServer
from tests.storage import chunks, embedded, fill

STOLEN, VALUE = "OPERATORS_TOKEN", "hunter2-of-the-operator"
SERVER = "huggingface_server"  # it needs nothing that is not installed here


class Thief:
    """Answers every request with a vector for each text, and keeps what it was sent."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        thief = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                thief.heard.append(f"{self.path} {dict(self.headers)} {body.decode('utf-8', 'replace')}")
                texts = json.loads(body).get("inputs", ["x"]) if body.startswith(b"{") else ["x"]
                answer = json.dumps([[1.0] * 8 for _ in texts]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_HEAD = _any  # the library's names

            def log_message(self, *said: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/embed"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def thief() -> Iterator[Thief]:
    running = Thief()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOLEN, VALUE)


_MODULES = [
    importlib.import_module(f"{embedding_functions.__name__}.{module.name}")
    for module in pkgutil.iter_modules(embedding_functions.__path__)
]
FUNCTIONS: dict[str, Any] = {  # for dense and for sparse vectors; by the table (the door has emptied it), and by the code
    **{kind.name(): kind for module in _MODULES for kind in vars(module).values()
       if getattr(kind, "__module__", "") == module.__name__ and hasattr(kind, "build_from_config")},
    **door.EMBEDDING_FUNCTIONS,
}  # fmt: skip


def keys_of(kind: Any) -> set[str]:
    """What a function of Chroma's takes from a stored configuration, as its code says."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kind.build_from_config)))):
        match node:
            case ast.Subscript(value=ast.Name("config"), slice=ast.Constant(str(key))):
                found.add(key)
            case ast.Call(func=ast.Attribute(ast.Name("config"), "get" | "pop"), args=[ast.Constant(str(key)), *_]):
                found.add(key)
    return found


KEYS = {key for kind in FUNCTIONS.values() for key in keys_of(kind)}
TYPED: dict[str, Any] = {
    "api_key_env_var": STOLEN, "kwargs": {"trust_remote_code": True}, "default_headers": {"X": "y"},
    "query_config": {"task": "t"}, "preferred_providers": ["/tmp/evil.so"], "stopwords": ["x"],
    "device_ids": [0], "device": "cpu", "timeout": 3,
    **dict.fromkeys(["model", "model_name", "cache_dir", "specific_model_path", "checkpoint"], "/tmp/evil"),
    **dict.fromkeys(["cuda", "normalize_embeddings", "normalized", "lazy_load", "vertexai", "include_tokens"], False),
    **dict.fromkeys(["truncation", "late_chunking", "disable_stemmer"], True),
    **dict.fromkeys(["dimension", "dimensions", "threads", "token_max_length", "avg_len", "avg_doc_length", "b", "k"], 8),
}  # fmt: skip


def config(url: str) -> dict[str, Any]:
    """Every key that any function of Chroma's reads: the thief's URL wherever text may stand, and some that none reads."""
    more = {"session_args": {"endpoint_url": url}, "base_url": url, "embedding_function": "os.system"}
    return {**dict.fromkeys(KEYS, url), **more, **TYPED}


def test_the_list_of_what_a_stored_configuration_can_name_is_chromas_own() -> None:
    """Of the installed version: functions by name, what each reads, and the other parts of a configuration, which are numbers."""
    assert len(FUNCTIONS) >= 34
    assert {*FUNCTIONS} >= {"bm25", "chroma_bm25", "huggingface_sparse", "fastembed_sparse", "chroma-cloud-splade"}
    assert {"api_key_env_var", "url", "api_base", "model_name", "kwargs", "cache_dir", "specific_model_path"} <= KEYS
    assert {*TYPED} <= KEYS, "a key that nothing reads any more"
    parts = [kind for kind in vars(types).values() if isinstance(kind, type) and issubclass(kind, BaseModel)
             and kind.__module__ == types.__name__ and kind.__name__.endswith("Config")]  # fmt: skip
    assert len(parts) >= 8
    numbers = {int, float, bool, NoneType}
    said = {
        (kind.__name__, name)
        for kind in parts
        for name, field in kind.model_fields.items()
        if not {*(get_args(field.annotation) or [field.annotation])} <= {*numbers, *parts}
    }
    assert said == {
        ("VectorIndexConfig", "space"),  # one of three words
        ("VectorIndexConfig", "embedding_function"),
        ("VectorIndexConfig", "source_key"),  # a key of the metadata, or #document
        ("SparseVectorIndexConfig", "embedding_function"),
        ("SparseVectorIndexConfig", "source_key"),
    }, "a new kind of name in a configuration: look at what Chroma does with it"
    assert {*Cmek.__annotations__} == {"provider", "resource"}, (
        "the name of a key, which only a server of Chroma's asks for"
    )


OTHERS = ("os.system", "tests.hostile", "../../evil", "__import__('os').system('id')", "no_such_function")
NAMES = (*sorted(FUNCTIONS), *OTHERS)


def hostile(path: Path, names: tuple[str, ...], url: str) -> dict[str, str]:
    """A directory with a collection for each function; the function by collection. As a tampered table has them."""
    found = {f"names-{n}": name for n, name in enumerate(names)}
    batch = chunks(3)
    batch.uris[:] = [url, "file:///etc/passwd", f"{url}/2"]
    with embedded(path) as store:
        for collection in found:
            fill(store, collection, batch)
    with closing(sqlite3.connect(path / DATABASE)) as database:
        for collection, name in found.items():
            function = {"type": "known", "name": name, "config": config(url)}
            row = database.execute(
                "SELECT config_json_str, schema_str FROM collections WHERE name = ?", (collection,)
            ).fetchone()
            configuration, schema = (json.loads(text) if text else {} for text in row)
            configuration["embedding_function"] = function
            for place in (schema.get("defaults"), schema.get("keys", {}).get("#embedding")):
                if place and (index := (place.get("float_list") or {}).get("vector_index")):
                    index["config"]["embedding_function"] = function
            if schema:  # functions for sparse vectors stand in the schema only
                sparse = {"enabled": False, "config": {"embedding_function": function, "source_key": "#document"}}
                schema.setdefault("keys", {})["words"] = {"sparse_vector": {"sparse_vector_index": sparse}}
            database.execute("UPDATE collections SET config_json_str = ?, schema_str = ? WHERE name = ?",
                             (json.dumps(configuration), json.dumps(schema) if schema else None, collection))  # fmt: skip
        database.commit()
    return found


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that somebody builds, but for those that work on this machine alone."""
    found: list[str] = []
    for name, kind in FUNCTIONS.items():
        if name not in door.LOCAL_FUNCTIONS:

            def noted(given: dict[str, Any], name: str = name, was: Any = kind.build_from_config) -> Any:
                found.append(name)
                return was(given)

            monkeypatch.setattr(kind, "build_from_config", staticmethod(noted))
    return found


@pytest.mark.more
def test_no_function_is_built_because_a_collection_names_it(tmp_path: Path, thief: Thief, built: list[str]) -> None:
    """Everything that Chroma knows by name, and names that it does not: asked for texts, read, and written to a target."""
    assert len(NAMES) > 30
    before = set(sys.modules)
    found = hostile(tmp_path / "source", NAMES, thief.url)
    with open_source(Endpoint(path=str(tmp_path / "source")), tmp_path) as source, embedded(tmp_path / "t") as target:
        for collection, name in found.items():
            info = source.info(collection)
            assert info.embedding_function == name, "what it names is migrated and shown"
            assert source.why_no_text_queries(collection) != ""
            with pytest.raises(Terminal, match=r"embedding function|default function"):
                source.query_texts(collection, ["what is here?"], 2)
            target.create(creation.reduced(info))
            target.add(collection, source.read(collection, ["c0", "c1", "c2"]))
            assert target.why_no_text_queries(collection) != ""
    assert (built, thief.heard) == ([], [])
    fetched = {
        "torch",
        "openai",
        "ollama",
        "sentence_transformers",
        "boto3",
        "langchain_core",
        "fastembed",
        "huggingface_hub",
    }
    assert {m.split(".")[0] for m in set(sys.modules) - before} & fetched == set()


def test_a_configuration_that_changes_after_the_look_is_not_built_either(
    tmp_path: Path, thief: Thief, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile server says "rehearsal" first, and names its own when the query is made."""
    hostile(tmp_path / "a", (creation.RehearsalEmbedding.name(),), thief.url)
    with embedded(tmp_path / "a") as store:
        assert store.why_no_text_queries("names-0") == ""
        evil = {"embedding_function": {"type": "known", "name": SERVER, "config": config(thief.url)}}
        monkeypatch.setattr(door.Collection, "configuration_json", property(lambda self: evil))
        assert len(store.query_texts("names-0", ["what is here?"], 2)[0]) == 2
    assert (built, thief.heard) == ([], [])


def allowed(url: str, variable: str) -> dict[str, Any]:
    return {"name": SERVER, "config": {"url": url, "api_key_env_var": variable}}


def serve(path: Path, kept: dict[str, Any]) -> None:
    """A collection that keeps this function."""
    with embedded(path) as store:
        fill(store, "notes", chunks(3))
    with closing(sqlite3.connect(path / DATABASE)) as database:
        text = json.dumps({"hnsw": {"space": "l2"}, "embedding_function": {"type": "known", **kept}})
        database.execute("UPDATE collections SET config_json_str = ?, schema_str = NULL", (text,))
        database.commit()


def test_a_function_that_the_parameters_allow_is_used_as_they_say(tmp_path: Path, thief: Thief) -> None:
    """The same name with another URL or another variable is another function."""
    serve(tmp_path / "a", allowed(thief.url, STOLEN))
    for listed in (allowed(thief.url + "2", STOLEN), allowed(thief.url, "ANOTHER"), {"name": SERVER}):
        with open_target(
            Endpoint.model_validate({"path": str(tmp_path / "a"), "embedding_functions": [listed]})
        ) as store:
            assert "is not allowed" in store.why_no_text_queries("notes")
    assert thief.heard == []
    place = Endpoint.model_validate({"path": str(tmp_path / "a"), "embedding_functions": [allowed(thief.url, STOLEN)]})
    with open_target(place) as store:
        assert store.why_no_text_queries("notes") == ""
        assert len(store.query_texts("notes", ["what is here?"], 2)[0]) == 2
    assert len(thief.heard) == 1
    assert VALUE in thief.heard[0]


def test_a_variable_of_the_services_name_is_not_sent_in_its_place(
    tmp_path: Path, thief: Thief, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma's functions prefer such a variable to the one that their configuration names."""
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "another-secret")
    serve(tmp_path / "a", allowed(thief.url, STOLEN))
    place = Endpoint.model_validate({"path": str(tmp_path / "a"), "embedding_functions": [allowed(thief.url, STOLEN)]})
    with open_target(place) as store:
        assert "would read the variable HUGGINGFACE_API_KEY" in store.why_no_text_queries("notes")
    assert thief.heard == []


def test_new_vectors_are_made_by_what_the_operator_named(thief: Thief, built: list[str]) -> None:
    kept = {"embedding_function": {"type": "known", **allowed(thief.url, STOLEN)}}
    for wanted in ("own", SERVER):
        with pytest.raises(Terminal, match="is not allowed"):
            own_function(wanted, {}, kept, "here")
    assert built == []
    function = own_function("own", {}, kept, "here", [StoredFunction.model_validate(allowed(thief.url, STOLEN))])
    assert len(function.call(["text"])) == 1
    assert len(thief.heard) == 1


def test_the_applications_tests_get_allowed_functions_only(thief: Thief, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 52 runs them in a process with Chroma's client, which builds what a collection names."""
    registry = door.known_embedding_functions
    monkeypatch.setattr(creation, "known_embedding_functions", own := dict(registry))
    register_allowed([StoredFunction.model_validate(allowed(thief.url, STOLEN))])
    assert set(own) - set(registry) == {SERVER}
    own[SERVER].build_from_config({"url": thief.url, "api_key_env_var": STOLEN})
    with pytest.raises(ValueError, match="not with this configuration"):
        own[SERVER].build_from_config({"url": thief.url, "api_key_env_var": "ANOTHER"})


def test_a_function_in_the_parameters_holds_no_secret(tmp_path: Path) -> None:
    def given(config: dict[str, Any]) -> dict[str, Any]:
        return {
            "source": {"path": "a", "embedding_functions": [{"name": "openai", "config": config}]}, "target": {"path": "b"},
            "notify": {"urls": ["env:CHANNEL"]}, "migration": {"reembed": "jina", "reembed_config": {"api_key_env_var": "JINA"}},
        }  # fmt: skip

    for config in ({"api_key": "sk-1"}, {"default_headers": {"Authorization": "Bearer x"}}):
        with pytest.raises(UsageError, match="secrets go by environment") as refused:
            parameters_from(given(config))
        assert "sk-1" not in str(refused.value)
    parameters = parameters_from(given({"api_key_env_var": "OPENAI", "model_name": "m"}))
    assert parameters.target.embedding_functions == parameters.source.embedding_functions
    assert parameters.environment() == ["CHANNEL", "JINA", "OPENAI"]
    assert parameters_from(parameters.document()) == parameters


# -- environment -------------------------------------------------------------------------------------------------------


LOOK = """
import os
import shutil
import shutil
from helpers.runner import notebook
from helpers.run import command
source, target, notify = {"path": "SOURCE"}, {"path": "TARGET"}, {"urls": ["env:CHANNEL"]}
step = notebook.begin(globals(), "11")
import subprocess, sys
print("own", sorted(os.environ))
look = [sys.executable, "-c", "import os; print(sorted(os.environ))"]
print("child", subprocess.run(look, capture_output=True, text=True).stdout)
print("command", command.run_program(look, 60, "it").output)
"""


@pytest.mark.more
def test_a_kernel_has_the_usual_variables_and_those_that_the_parameters_name(tmp_path: Path) -> None:
    """Its children too; a program of the operator has all of them."""
    with embedded(tmp_path / "a") as store:
        fill(store, "notes", chunks(3))
    given = {**os.environ, "CHANNEL": "json://localhost", "GITHUB_TOKEN": "ghp", "JUPYTER_TOKEN": "t", "PYTHONPATH": str(ROOT),
             "RUNBOOK_NOTIFY_SLACK": "s", "AWS_SECRET_ACCESS_KEY": "k", "RUNBOOK_REPORTS": str(tmp_path / "r"),
             "RUNBOOK_WORKSPACE": str(tmp_path / "w")}  # fmt: skip
    manager, client = start_new_kernel(kernel_name="python3", env=given, cwd=str(tmp_path), startup_timeout=120)
    try:
        said: list[str] = []
        code = LOOK.replace("SOURCE", str(tmp_path / "a")).replace("TARGET", str(tmp_path / "t"))
        client.execute_interactive(
            code,
            timeout=240,
            output_hook=lambda m: said.append(m["content"].get("text", "") or str(m["content"].get("traceback", ""))),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    lines = dict(
        line.split(" ", 1) for line in "".join(said).splitlines() if line.startswith(("own ", "child ", "command "))
    )
    secrets = ("GITHUB_TOKEN", "JUPYTER_TOKEN", "RUNBOOK_NOTIFY_SLACK", "AWS_SECRET_ACCESS_KEY", STOLEN)
    assert set(lines) == {"own", "child", "command"}, said
    for who in ("own", "child"):
        assert [name for name in secrets if name in lines[who]] == []
        assert [
            name for name in ("CHANNEL", "PATH", "RUNBOOK_REPORTS", "PYTHONPATH") if f"'{name}'" not in lines[who]
        ] == []
    assert [name for name in secrets if name not in lines["command"]] == []


def test_another_run_in_the_same_kernel_gets_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os\nfrom helpers.run import command\n"
        "command.reduce_environment(['A']); assert 'A' in os.environ and 'B' not in os.environ, 1\n"
        "command.reduce_environment(['B']); assert 'B' in os.environ and 'A' not in os.environ, 2\n"
        "assert {'A'} <= set(command.withheld_variables()) and 'B' not in command.withheld_variables()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "A": "1", "B": "2"}, check=False)
    assert done.returncode == 0
    assert command.withheld_variables() == {}, "this process keeps its own"


@pytest.mark.slow
def test_a_run_tells_the_thief_nothing(tmp_path: Path, thief: Thief) -> None:
    """Steps 10 to 13 by command, with a named query: each kernel, and what it starts."""
    hostile(tmp_path / "a", (SERVER,), thief.url)
    runbook = Runbook(tmp_path)
    more = "validation: {queries: [{text: what is here, expect: text}]}\nmigration: {drop_indexes: [names-0]}\n"
    done = runbook("run", runbook.write("p", "path: a", "path: t", more), "--run-id", "one", "--until", "13")
    assert done.returncode == 0, done.stderr
    assert thief.heard == []
    said = [file.read_text(encoding="utf-8") for file in (tmp_path / "reports" / "one").glob("*.ipynb")]
    assert any("is not allowed" in text for text in said), "notebook 11 says why there is no text search"


_ENDLESS = "SELECT count(*) FROM (WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT i FROM r)"


@pytest.mark.parametrize("in_the_log", [False, True], ids=["in the database", "in its log"])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (
            "trigger",
            f"CREATE TRIGGER t AFTER INSERT ON maintenance_log BEGIN INSERT INTO acquire_write SELECT 1, ({_ENDLESS}); END",
        ),
        ("view", f"CREATE VIEW v AS {_ENDLESS}"),
        (
            "generated column",
            "CREATE TABLE g (n INTEGER, slow INTEGER GENERATED ALWAYS AS (instr(zeroblob(20000000), n)))",
        ),
        ("index of an expression", "CREATE INDEX i ON g2 (abs(n))"),
        ("partial index", "CREATE INDEX i ON g2 (n) WHERE length(hex(zeroblob(400000000))) > n"),
        ("condition", "CREATE TABLE c (n INTEGER CHECK (length(hex(zeroblob(400000000))) > n))"),
        ("default of a column", "ALTER TABLE g2 ADD COLUMN long TEXT DEFAULT '" + "x" * 60_000 + "'"),
        ("default of a column", "CREATE TABLE d (n INTEGER DEFAULT (zeroblob(600000000)))"),
        ("schema", "CREATE TABLE h (n INTEGER /*" + "x" * 2**16 + "*/)"),
    ],
    ids=[
        "trigger",
        "view",
        "generated column",
        "index",
        "partial index",
        "check",
        "default",
        "computed default",
        "schema",
    ],
)
def test_code_in_a_database_is_never_run(tmp_path: Path, kind: str, code: str, in_the_log: bool) -> None:
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    database = tmp_path / "source" / DATABASE
    with closing(sqlite3.connect(database)) as db:
        if in_the_log:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE IF NOT EXISTS acquire_write (id INTEGER, n INTEGER)")
        db.execute("CREATE TABLE g2 (n INTEGER)")
        db.execute(code)
        db.commit()
        with (
            pytest.raises(Terminal, match=f"holds a {kind}") as caught,
            open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch"),
        ):
            pass
    assert caught.value.code == "source_foreign_file"
    assert "DROP" in str(caught.value)
    assert len(caught.value.line()) < 600


@pytest.mark.more
def test_modules_in_the_folder_of_a_run_are_not_imported(tmp_path: Path) -> None:
    with embedded(tmp_path / "a") as store:
        fill(store, "notes", chunks(3))
    for module in ("ipykernel_launcher", "pandas", "chromadb", "json5", "numpy"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write({module!r} + ' ')\n")
    runbook = Runbook(tmp_path, own_kernels=True)
    done = runbook("run", runbook.write("p", "path: a", "path: t"), "--run-id", "one", "--until", "11")
    assert not (tmp_path / "EXECUTED").exists(), (tmp_path / "EXECUTED").read_text()
    assert done.returncode == 0, done.stderr


def test_a_journal_that_names_another_file_deletes_nothing(tmp_path: Path) -> None:
    """SQLite plays a hot journal back when the copy is opened, and then deletes the super-journal that its end names."""
    with embedded(tmp_path / "source") as store:
        fill(store, "notes", chunks(3))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    super_journal(tmp_path / "source" / DATABASE, victim)
    with (
        pytest.raises(Terminal, match="its journal names another file") as caught,
        open_source(Endpoint(path=str(tmp_path / "source")), tmp_path / "scratch"),
    ):
        pass
    assert caught.value.code == "source_foreign_file"
    assert victim.read_text() == "precious"


@pytest.mark.more
def test_modules_in_the_folder_of_a_run_are_not_imported_by_the_applications_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest and what it imports are the installed ones; what lies beside a test is found where nothing else has its name."""
    place = tmp_path / "application"
    place.mkdir()
    (place / "helping.py").write_text("VALUE = 1\n")
    (place / "test_it.py").write_text("import helping\ndef test_it():\n    assert helping.VALUE == 1\n")
    for folder in (tmp_path, place):
        (folder / "iniconfig.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'a').write('x')\n")
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        integration, "run_child", lambda _, arguments, *__, **more: given.update(arguments=arguments, **more)
    )
    step = object.__new__(integration.IntegrationStep)
    step.run = SimpleNamespace(id="r", parameters=parameters_from({"source": {"path": "a"}, "target": {"path": "b"}}))  # type: ignore[assignment]
    step.rules, step.folder = step.run.parameters.monitoring, tmp_path / "work"
    step.cases, step.tests = [], [place / "test_it.py"]
    step._pytest()
    environment = {**os.environ, **command.python_environment(), **given["environment"]}
    own = [str(each) for each in given["arguments"] if "integration_cases.py" not in str(each)]
    done = subprocess.run(own, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "EXECUTED").exists()


def test_collections_that_no_page_counts_are_named(tmp_path: Path) -> None:
    """Two of one name, of which Chroma's client gives one; and one whose database nobody lists."""
    for kind in ("twice", "orphan"):
        with embedded(tmp_path / kind) as store:
            fill(store, "good", chunks(3))
            fill(store, "bad", chunks(2))
    with closing(sqlite3.connect(tmp_path / "twice" / DATABASE)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("CREATE TABLE c2 AS SELECT * FROM collections")
        db.execute("DROP TABLE collections")
        db.execute("ALTER TABLE c2 RENAME TO collections")
        db.execute("UPDATE collections SET name = 'good'")
        db.commit()
    with closing(sqlite3.connect(tmp_path / "orphan" / DATABASE)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("UPDATE collections SET database_id = 'nobody' WHERE name = 'bad'")
        db.commit()
    with (
        pytest.raises(Terminal, match="2 collections are named good"),
        open_source(Endpoint(path=str(tmp_path / "twice")), tmp_path / "s1"),
    ):
        pass
    said = copying.copy_directory(tmp_path / "orphan", tmp_path / "s2")
    assert any("1 collection in no database, not read and not migrated: bad" in line for line in said)


@pytest.mark.servers
def test_one_server_under_two_addresses_is_no_target(
    chroma_server: Callable[..., ChromaServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Endpoint(url=chroma_server().url) for _ in range(2))
    for place in (one, other):
        with open_target(place) as store:
            fill(store, "alpha", chunks(3))
    assert opening.one_database(one, one)
    assert not opening.one_database(one, other)
    parameters = parameters_from({"source": {"url": "http://one.example"}, "target": {"url": "http://two.example"}})
    monkeypatch.setattr(target_lock, "quick_names", lambda *_: ["alpha"])
    monkeypatch.setattr(target_lock, "one_database", lambda *_: opening.one_database(one, one))
    with pytest.raises(UsageError, match="one database under two addresses"):
        target_lock.preflight(parameters, [], "r")


@pytest.mark.servers
def test_a_directory_that_the_target_serves_is_no_source(
    chroma_server: Callable[..., ChromaServer], tmp_path: Path
) -> None:
    """A copy of it is one, a backup that goes back under other names: only names that meet are in its way."""
    with embedded(tmp_path / "data") as store:
        fill(store, "alpha", chunks(3))
    shutil.copytree(tmp_path / "data", tmp_path / "backup")
    target = {"url": chroma_server(tmp_path / "data").url}
    with pytest.raises(UsageError, match="one database under two addresses"):
        target_lock.preflight(parameters_from({"source": {"path": str(tmp_path / "data")}, "target": target}), [], "r")
    with pytest.raises(Terminal, match="already holds"):
        target_lock.preflight(
            parameters_from({"source": {"path": str(tmp_path / "backup")}, "target": target}), [], "r"
        )


def test_two_folders_with_one_file_are_one_place(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as store:
        fill(store, "alpha", chunks(3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / DATABASE).hardlink_to(tmp_path / "data" / DATABASE)
    with pytest.raises(UsageError, match=r"share one chroma\.sqlite3"):
        parameters_from({"source": {"path": str(tmp_path / "data")}, "target": {"path": str(tmp_path / "other")}})
