"""A copy of an embedded directory that may be opened, made without writing to the original; also while it is in use.

A file is copied as large as it is on disk: holes stay holes. `chroma.sqlite3` and index folders may be links; what they lead
to is copied, with the write-ahead log that lies beside the real database. Of an index folder only the files that Chroma has
there are copied; one that is a link or no plain file is refused, and so is such a log. A `link_lists.bin` that is torn, which
can claim terabytes (upstream #7510), is not copied at all: no vector is in it, and `rescue` does without it.

A directory at rest is copied file by file. One that changes meanwhile is in use: then the index folders are copied first
and the database through SQLite's backup API, which waits for writers and sees one moment of it. Index folders that stayed
as they were all that time belong to that moment: Chroma rewrites them only now and then, and the log in the database holds
what came after. Where they never keep still the directory is refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from helpers import audit
from helpers.errors import Terminal, one_line
from helpers.formatting import count
from helpers.reason_codes import ReasonCode
from helpers.results import naming
from helpers.stores import damage, layout
from helpers.stores.index_files import HEADER, LENGTHS, LINKS, PICKLE, ROWS, bloat, links_bloated
from helpers.stores.layout import DATABASE, LOGS, damaged, recognise, require_plain, unreadable

FULLTEXT = "embedding_fulltext_search"
_SHADOWS = ("data", "idx", "content", "docsize", "config")
_CHECK_FULLTEXT = "INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('integrity-check')"
_DERIVED = ("index", FULLTEXT)  # words of `quick_check` about what can be made anew
_MOST_MESSAGES = 100
IN_USE = "the directory is in use"
TRIES = 3
WAIT_SECONDS = 30.0  # for a writer's lock
STEP_BYTES = 128 * 2**20  # of the database under one lock: writers wait for its end, and give up after about 5 s
_OF_AN_INDEX = (HEADER, LENGTHS, LINKS, PICKLE, ROWS)
_WITH_LOG = 2  # the version in a database's header: it has a write-ahead log while it is open
_ONLY_READ = "readonly_shm=1"  # the index of a log is not written to either, and none is made
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # a rollback journal that ends so names a super-journal before
_PIECE_BYTES = 8 * 2**20
_MOST_ENTRIES = 1_000_000  # files and folders of a target; an index has six
MOST_RESTARTS = 20  # a writer between two steps makes the backup begin again

_File = tuple[str, int, int]  # relative path, bytes, time of the last change (ns)


def rebuild(database: Path, original: Path) -> list[str]:
    """Rebuild damaged indexes of the database, in place; return a sentence for each. Other damage is left to other checks.

    Every chunk can be read without them, so damage there is no reason to refuse a source. SQLite before 3.44 does not check a
    full-text index by itself; it is asked to. Raises as `require_plain`, and "source_damaged" if that cannot read the schema.
    """
    with closing(sqlite3.connect(database)) as db:
        with _readable(original):
            require_plain(db, original)  # once more: the log of the original may have brought it
        with suppress(sqlite3.Error), db:  # nothing is changed then; `_check_database` and `repair.mend` read all of it
            return _rebuild_derived(db)
    return []


def _rebuild_derived(db: sqlite3.Connection) -> list[str]:
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    sentences: list[str] = []
    if "embedding_metadata" not in tables:
        return sentences
    if problem := _fulltext_problem(db, tables):
        _create_fulltext(db, tables)
        rebuilt = f"the full-text index was {problem}; rebuilt on the copy from the documents, none is lost"
        sentences.append(damage(rebuilt, "In the original, text search (where_document) fails or misses chunks today."))
    if _damaged_indexes(db):
        db.execute("REINDEX")
        sentences.append(damage("an index of SQLite was damaged; rebuilt on the copy, no chunk is lost"))
    return sentences


def _fulltext_problem(db: sqlite3.Connection, tables: set[str]) -> str:
    """The problem of the full-text index: "missing", "damaged", or "" for none."""
    if FULLTEXT not in tables:  # the engine's own migration will create it
        is_migrated = db.execute("SELECT 1 FROM migrations WHERE dir = 'metadb' AND version >= 3").fetchone()
        return "missing" if is_migrated else ""
    (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (FULLTEXT,)).fetchone()
    if not str(sql).startswith("CREATE VIRTUAL TABLE"):
        return "damaged"
    try:
        db.execute(_CHECK_FULLTEXT)
    except sqlite3.DatabaseError:
        return "damaged"
    return ""


def _damaged_indexes(db: sqlite3.Connection) -> bool:
    messages = [row[0] for row in db.execute(f"PRAGMA integrity_check({_MOST_MESSAGES})")]
    return messages != ["ok"] and all(any(word in line for word in _DERIVED) for line in messages)


def _create_fulltext(db: sqlite3.Connection, tables: set[str]) -> None:
    """Create the table as Chroma does, filled from the documents. Its rows have the number of the chunk's own row."""
    if FULLTEXT in tables:
        try:
            db.execute(f"DROP TABLE {FULLTEXT}")
        except sqlite3.DatabaseError:  # damaged beyond its own removal
            db.execute("PRAGMA writable_schema = ON")
            db.execute("DELETE FROM sqlite_master WHERE name = ?", (FULLTEXT,))
            db.execute("PRAGMA writable_schema = RESET")
    for shadow in _SHADOWS:
        db.execute(f"DROP TABLE IF EXISTS {FULLTEXT}_{shadow}")
    db.execute(f"CREATE VIRTUAL TABLE {FULLTEXT} USING fts5(string_value, tokenize='trigram')")
    db.execute(
        "INSERT INTO embedding_fulltext_search (rowid, string_value) SELECT id, string_value FROM embedding_metadata "
        "WHERE key = 'chroma:document' AND string_value IS NOT NULL"
    )


# -- the newest state of a database, without a copy of the directory --------------------------------------------------


@contextmanager
def newest(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that also sees what a write-ahead log holds, and writes no byte beside the database. Raises as `reading`,
    "source_in_use" and "disk_full".

    Asked only to read, SQLite makes a `-shm` beside a log all the same, and a log where there may be one. So the `-shm` of
    the process that has the database open is used. What a crash left, a log without one or a journal to play back, is copied
    with the database into the workspace and read there.
    """
    file = database.resolve()
    with ExitStack() as stack:
        try:
            how = _read_mode(file)
            connection = stack.enter_context(layout.reading(file, how=how)) if how else None
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            connection = None
        if connection is None:
            root = audit.workspace_root()
            private = TemporaryDirectory(prefix="look-", dir=root if root.is_dir() else None)
            copy = _with_logs(file, Path(stack.enter_context(private)))
            connection = stack.enter_context(closing(sqlite3.connect(copy)))
            require_plain(connection, database)
        yield connection


def _read_mode(file: Path) -> str | None:
    """The URI parameters with which SQLite reads all of a database and makes no file beside it; None if there are none."""
    log, index = (_is_plain_file(file.with_name(f"{file.name}{suffix}")) for suffix in ("-wal", "-shm"))
    head = b""
    with suppress(OSError), file.open("rb") as opened:  # SQLite says what is wrong with it
        head = opened.read(20)
    if (log and index) or not (log or _WITH_LOG in head[18:]):
        return _ONLY_READ
    return None if layout.has_log(file) else "immutable=1"


def _with_logs(file: Path, folder: Path) -> Path:
    """Copy a database at rest, with its log and journal; return the copy. `Terminal` (`source_in_use`) if it keeps changing."""
    for _ in range(TRIES):
        with suppress(FileNotFoundError):  # one that came and went: somebody writes here
            named = {suffix: file.with_name(f"{file.name}{suffix}") for suffix in ("", "-wal", "-journal")}
            parts = {suffix: part for suffix, part in named.items() if _is_plain_file(part)}
            before = [(now.st_size, now.st_mtime_ns) for now in (part.stat() for part in parts.values())]
            require_room(folder, sum(size for size, _ in before))
            for suffix, part in parts.items():
                _copy_file(part, folder / f"{DATABASE}{suffix}")
            if before == [(now.st_size, now.st_mtime_ns) for now in (part.stat() for part in parts.values())]:
                _refuse_super_journal(folder / f"{DATABASE}-journal", file.parent)
                return folder / DATABASE
    raise Terminal(
        ReasonCode.SOURCE_IN_USE, f"changed while it was copied, {TRIES} times", where=str(file),
        next_step="Stop the application that writes to it, then repeat.",
    )  # fmt: skip


def stored_identifiers(path: Path) -> set[str]:
    """The uuids of a directory's collections, in every database, as a server writes them; nothing is written. Empty if it has no
    such table. Raises as `newest`, and "source_damaged" if it cannot be read: that is not to be taken for an empty set.
    """
    if not (file := path / DATABASE).exists():
        return set()
    with _readable(file), newest(file) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'collections'").fetchone():
            return set()
        return {_uuid(row[0]) or row[0] for row in db.execute("SELECT CAST(id AS TEXT) FROM collections")}


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn errors of SQLite into `Terminal` ("source_damaged")."""
    try:
        yield
    except sqlite3.Error as error:
        raise damaged(error, file) from error


def stored_metadata(path: Path, tenant: str, database: str, name: str) -> dict[str, str] | None:
    """The texts in a collection's metadata, read without writing a byte; None if there is no such collection."""
    collection = f"SELECT c.id {layout.IN_DATABASE} AND c.name = ?"
    try:
        with newest(path / DATABASE) as db:
            row = db.execute(collection, (tenant, database, name)).fetchone()
            if row is None:
                return None
            texts = "SELECT key, str_value FROM collection_metadata WHERE collection_id = ? AND str_value IS NOT NULL"
            return dict(db.execute(texts, row))
    except sqlite3.Error:  # no database of Chroma's, or one that is locked this moment: then nobody is named
        return None


# -- the files of a target -----------------------------------------------------------------------------------------------


def require_own_files(
    target: Path, source: Path | None = None, *, role: str = "target", since: os.stat_result | None = None
) -> None:
    """`Terminal` ("target_foreign_file") if writing to this folder would write elsewhere: something in it is a link, has a
    hard link, is no plain file or folder, or is also a file or folder of `source`, by a mount say. The folder may be a link.

    Chroma writes index files in place, whatever they lead to. Nothing is opened; at most `_MOST_ENTRIES` are looked at.
    `role` "source" ("source_foreign_file"): one that is written to in place, of which only what Chroma has there is asked.
    `since`: what the folder was before it was opened; another one now is refused, too.
    """
    source_files = set[tuple[int, int]]()
    for path in (*source.glob("*"), *source.glob("*/*")) if source else ():
        with suppress(OSError):
            source_files.add(((facts := path.stat()).st_dev, facts.st_ino))
    for number, (path, facts) in enumerate(_entries(target), start=1):
        if role == "source" and not _is_chromas(path.relative_to(target).parts[0]):
            continue
        if stat.S_ISLNK(facts.st_mode):
            why = "is a link: what Chroma writes there would change another place"
        elif not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
            why = "is no plain file or folder"
        elif stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
            why = f"has {facts.st_nlink} hard links: what Chroma writes there would change the same file elsewhere"
        elif (facts.st_dev, facts.st_ino) in source_files:
            why = "is also in the source, which would change"
        elif number > _MOST_ENTRIES:
            why = f"is one of more than {_MOST_ENTRIES:,} files and folders, too many to look at"
        else:
            continue
        remedy = "Name another target" if role == "target" else "Restore the snapshot into another place"
        raise Terminal(
            ReasonCode(f"{role}_foreign_file"), f"{one_line(path.name, 60)} {why}", where=one_line(str(path)),
            next_step=f"Find out who made it. {remedy}, or put a file or folder of the {role}'s own in its place.",
        )  # fmt: skip
    if since is not None and not (target.is_dir() and os.path.samestat(target.stat(), since)):
        raise Terminal(
            ReasonCode(f"{role}_foreign_file"), "was exchanged for another folder while it was open", where=str(target),
            next_step="Find out who did that. What was written since may be in either folder: compare both.",
        )  # fmt: skip


def _is_chromas(name: str) -> bool:
    """Whether Chroma uses this name for a file or folder of a directory."""
    return name in (DATABASE, *(f"{DATABASE}{suffix}" for suffix in LOGS)) or _is_uuid(name)


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file and folder below a folder, without following links; without the content of a volume's own `lost+found`."""
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for path in map(Path, entries):
                    try:
                        facts = path.lstat()
                    except FileNotFoundError:  # a journal that came and went
                        continue
                    yield path, facts
                    if stat.S_ISDIR(facts.st_mode) and path != folder / "lost+found":
                        folders.append(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unreadable(error, folder, "target") from error


# -- a copy of the directory -------------------------------------------------------------------------------------------


def copy_directory(source: Path, destination: Path) -> list[str]:
    """A consistent copy of a Chroma directory: the database with its logs, and the index folders, nothing else.

    Returns sentences: that the directory is in use, and what was damaged and rebuilt (`derived`). The database of the
    copy is checked page by page. Raises `Terminal`: "source_in_use" if no consistent copy was possible, "source_unreadable",
    "source_damaged", "disk_full", and what `recognise` finds.
    """
    recognise(source)
    try:
        in_use = _copy(source, destination)
    except OSError as error:
        raise unreadable(error, source, "source") from error
    _refuse_super_journal(destination / f"{DATABASE}-journal", source)
    _refuse_giants(destination / DATABASE, source)
    derived = rebuild(destination / DATABASE, source / DATABASE)
    _check_database(destination / DATABASE, source)
    return [*([in_use] if in_use else []), *derived, *_unlisted_collections(destination / DATABASE, source)]


def _refuse_giants(copy: Path, source: Path) -> None:
    """`Terminal` if a value is larger than any request to Chroma: reading it would take several times its size in memory.

    Only a file that is large enough to hold one is searched. `_check_database` reports damage.
    """
    if sum(file.stat().st_size for file in copy.parent.glob(f"{copy.name}*")) < layout.MOST_VALUE:
        return
    with closing(sqlite3.connect(copy)) as db, _readable(source / DATABASE):
        require_plain(db, source / DATABASE)
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        for (table,) in tables.fetchall():
            columns = [_quoted(row[0]) for row in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            longer = " OR ".join(f"length({column}) > {layout.MOST_VALUE}" for column in columns)
            try:  # a blob's length is known without reading it, a text's is not
                giant = db.execute(f"SELECT 1 FROM {_quoted(table)} WHERE {longer}").fetchone()  # noqa: S608  # nosec B608
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # no damage, but a table that cannot be asked
                    raise
                giant = isinstance(error, sqlite3.DataError)
            if giant:
                raise Terminal(
                    ReasonCode.SOURCE_FOREIGN_FILE, f"holds a value of more than {layout.MOST_VALUE / 2**20:,.0f} MB in table "
                    f"{one_line(table, 60)}, which no request to Chroma can bring", where=str(source / DATABASE),
                    next_step="Find out who wrote it. Delete it in a copy of the folder, and migrate the copy.",
                )  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unlisted_collections(copy: Path, source: Path) -> Iterator[str]:
    """A sentence on collections that no database lists. `Terminal` if two have one name: only one of them would be read."""
    with closing(sqlite3.connect(copy)) as db, _readable(source / DATABASE):
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'databases'").fetchone():  # before 0.4.15
            return
        twice = "SELECT name, count(*) FROM collections GROUP BY name, database_id HAVING count(*) > 1"
        for name, number in db.execute(twice):
            raise Terminal(
                ReasonCode.SOURCE_DAMAGED, f"{number} collections are named {one_line(name, 80)}, which no Chroma allows",
                where=str(source / DATABASE),
                next_step="Give each a name of its own in a copy of the folder (table collections), and migrate the copy.",
            )  # fmt: skip
        lost = "SELECT name FROM collections WHERE database_id NOT IN (SELECT id FROM databases) ORDER BY name"
        if names := [one_line(row[0], 80) for row in db.execute(lost)]:
            yield damage(
                f"{count(len(names), 'collection')} in no database, not read and not migrated: {', '.join(names[:5])}"
            )


def _refuse_super_journal(journal: Path, source: Path) -> None:
    """`Terminal` if a rollback journal names a file: opening the database would delete that file, wherever it is."""
    if _names_a_file(journal):
        raise Terminal(
            ReasonCode.SOURCE_FOREIGN_FILE, "its journal names another file, which SQLite would delete; no Chroma does that",
            where=str(source / journal.name), next_step="Find out who wrote it. Migrate from a backup without it.",
        )  # fmt: skip


def _names_a_file(journal: Path) -> bool:
    with suppress(FileNotFoundError), journal.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_SUPER_JOURNAL)))
        return file.read() == _SUPER_JOURNAL
    return False


def own_database(file: Path, table: str) -> sqlite3.Connection:
    """Open a database of ours with this one table, which is created if it is missing.

    Raises OSError if anybody else may have written what SQLite would run, delete or follow: a link, a folder or file that
    others own or may write, another schema, a journal that names a file.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = file.parent.resolve() / file.name
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    for part in (file.parent, file, *(file.with_name(f"{file.name}{suffix}") for suffix in LOGS)):
        if not os.path.lexists(part):
            continue
        facts = part.lstat()
        if not (stat.S_ISDIR if part == file.parent else stat.S_ISREG)(facts.st_mode):
            raise OSError(f"{part.name} is a link or no plain file")
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            raise OSError(f"{part.name} belongs to another user, or others may write it (chmod go-w)")
    if _names_a_file(file.with_name(f"{file.name}-journal")):
        raise OSError("its journal names another file, which SQLite would delete")
    db = sqlite3.connect(file, timeout=2 * WAIT_SECONDS)
    try:
        statements = [row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        if statements not in ([], [f"CREATE TABLE {table}"]):
            raise OSError("it holds more than its table, or another one")
        db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    except BaseException:
        db.close()
        raise
    return db


def _copy(source: Path, destination: Path) -> str:
    for _ in range(TRIES):
        try:
            before = fingerprint(source)
            require_room(destination, sum(bloat(file).stored for _, file in _members(source) if not _torn(file)))
            _copy_files(source, destination, with_database=True)
            if fingerprint(source) == before:
                return ""
        except FileNotFoundError:  # a journal that came and went: somebody writes here
            continue
    for attempt in range(TRIES):
        time.sleep(attempt)
        try:
            before = _index_files(source)
            _copy_files(source, destination, with_database=False)
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            if _back_up(source / DATABASE, destination / DATABASE) and _index_files(source) == before:
                return f"{IN_USE}: written to while it was copied; this is its state of {moment}"
        except FileNotFoundError:
            continue
    raise Terminal(
        ReasonCode.SOURCE_IN_USE, f"changed while it was copied, {2 * TRIES} times", where=f"source.path {source}",
        next_step="Stop the application that writes to it, or migrate from its server's URL.",
    )  # fmt: skip


def _back_up(database: Path, copy: Path) -> bool:
    """Copy one state of a database in use, read only; return False if its writers do not allow that."""
    if _read_mode(database.resolve()) != _ONLY_READ:  # its writer has just closed it: a copy at rest is next
        return False
    watch = _Patience()
    uri = f"file:{quote(str(database.resolve()))}?mode=ro&{_ONLY_READ}"
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS)) as original,
            closing(sqlite3.connect(copy)) as here,
        ):
            page = int(original.execute("PRAGMA page_size").fetchone()[0])
            original.backup(here, pages=max(1, STEP_BYTES // page), progress=watch.step, sleep=0.02)
    except (sqlite3.OperationalError, TimeoutError):  # locked all the time, or changed all the time
        return False
    except sqlite3.DatabaseError as error:
        raise damaged(error, database) from error
    return True


class _Patience:
    """Ends a backup that makes no progress: SQLite itself would wait for a lock, and begin again, for ever."""

    def __init__(self) -> None:
        self._left, self._restarts, self._changed = -1, 0, time.monotonic()

    def step(self, status: int, left: int, total: int) -> None:
        if left != self._left:
            self._restarts += self._left >= 0 and left > self._left
            self._left, self._changed = left, time.monotonic()
        if self._restarts > MOST_RESTARTS or time.monotonic() - self._changed > WAIT_SECONDS:
            raise TimeoutError


def _members(source: Path) -> Iterator[tuple[str, Path]]:
    """The files to copy: the path in the copy, and the file. Links are followed, also to another volume."""
    database = (source / DATABASE).resolve()
    for suffix in ("", *LOGS):
        file = database.with_name(database.name + suffix)
        if _is_plain_file(file):
            yield DATABASE + suffix, file
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and _is_uuid(entry.name):
            yield from ((f"{entry.name}/{name}", file) for name in _OF_AN_INDEX if _is_plain_file(file := entry / name))


def _is_plain_file(file: Path) -> bool:
    """Whether there is a plain file of this name; `Terminal` if it is anything else: a link may lead anywhere."""
    if not os.path.lexists(file):
        return False
    if stat.S_ISREG(file.lstat().st_mode):
        return True
    raise Terminal(
        ReasonCode.SOURCE_FOREIGN_FILE, f"{file.name} is a link or no plain file, and is not copied", where=str(file),
        next_step="Find out who made it. Put the file itself in its place, in a copy of the folder, and migrate the copy.",
    )  # fmt: skip


def _is_uuid(name: str) -> bool:
    return _uuid(name) == name.lower() != ""


def _uuid(text: str) -> str:
    """A uuid in the form that servers write; "" for anything else."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""


def fingerprint(source: Path) -> list[_File]:
    """Name, bytes and time of the last change (ns) of a directory's files. Raises OSError, and `Terminal` as a copy does."""
    files = []
    for name, file in _members(source):
        status = file.stat()
        files.append((name, status.st_size, status.st_mtime_ns))
    return files


def _index_files(source: Path) -> list[_File]:
    """The fingerprint of the index folders, which the backup API does not copy."""
    return [file for file in fingerprint(source) if not file[0].startswith(DATABASE)]


def _copy_files(source: Path, destination: Path, *, with_database: bool) -> None:
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    for name, file in _members(source):
        if not with_database and name.startswith(DATABASE):
            continue
        copy = destination / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(file, copy)
        copy.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _copy_file(file: Path, copy: Path) -> None:
    """Copy a file, up to its size, without its holes; of a torn `link_lists.bin` only the size that it claims."""
    size = bloat(file)
    if _torn(file):
        with copy.open("wb") as target, suppress(OSError):
            target.truncate(size.apparent)
        return
    with naming(copy), file.open("rb") as source, copy.open("wb") as target:
        target.truncate(size.apparent)
        for start, end in _data_ranges(source.fileno(), size.apparent):
            source.seek(start)
            target.seek(start)
            while start < end:
                piece = source.read(min(_PIECE_BYTES, end - start))
                if not piece:
                    break
                target.write(piece)
                start += len(piece)


def _torn(file: Path) -> bool:
    return file.name == LINKS and links_bloated(file.parent)


def _data_ranges(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, end) of a file that are no holes."""
    end = 0
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    while end < size:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # holes only from here on
                return
            raise
        end = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, end


def require_room(destination: Path, need: int) -> None:
    """`Terminal` ("disk_full") unless this many bytes and 100 MB to spare are free on the disk."""
    existing = next(p for p in (destination, *destination.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < need + 100 * 2**20:
        raise Terminal(
            ReasonCode.DISK_FULL,
            f"{free / 2**20:,.0f} MB free, a copy of the source needs {need / 2**20:,.0f} MB and 100 to spare",
            where=str(existing),
            next_step="Free disk space, or put the workspace on another disk.",
        )


def _check_database(copy: Path, source: Path) -> None:
    try:
        with closing(sqlite3.connect(copy)) as db:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        verdict, tables = str(error), set()
    if verdict != "ok":
        raise damaged(verdict, source / DATABASE)
    if not {"collections", "segments", "embeddings_queue"} <= tables:
        raise Terminal(
            ReasonCode.SOURCE_FOREIGN_FILE, "an SQLite database, but not one that Chroma wrote", where=str(source / DATABASE),
            next_step="Name the folder that Chroma persists to.",
        )  # fmt: skip
