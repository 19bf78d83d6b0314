"""Open the job table: checks of SQLite and of the disk, migrations, and the write transaction.

A data directory enters, a `Table` leaves: one connection, to be used by one thread at a time.
Every process of the node opens its own. Foreign exceptions of SQLite are mapped here.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite3
from sqlite_utils import Database, Migrations

from osteon.errors import ConfigError, OutOfResourcesError, TableError, UnavailableError

FILE_NAME = "osteon.sqlite"
TURN_NAME = "osteon.turn"
TURN_S, TURN_LOOK_S = 0.05, 0.00005
SQLITE_MIN = (3, 51, 3)  # Older releases can corrupt a WAL database when two checkpoints meet.
BUSY_TIMEOUT_S = 30.0
# A row that INSERT OR REPLACE removes is counted as removed by recursive triggers only.
PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "recursive_triggers=ON")
SYNCED, UNSYNCED = "FULL", "NORMAL"  # PRAGMA synchronous
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "fuse.sshfs",
        "ncpfs",
    }
)

Row = Mapping[str, Any]
Parameters = Sequence[Any] | Mapping[str, Any]
migrations = Migrations("osteon")


@migrations()
def _0001_route(db: Database) -> None:
    _run(db, "0001_route.sql")


@migrations()
def _0002_commitment(db: Database) -> None:
    _run(db, "0002_commitment.sql")


@migrations()
def _0003_proof(db: Database) -> None:
    _run(db, "0003_proof.sql")


@migrations()
def _0004_fairness(db: Database) -> None:
    _run(db, "0004_fairness.sql")


@migrations()
def _0005_shadow(db: Database) -> None:
    _run(db, "0005_shadow.sql")


@migrations()
def _0006_workers(db: Database) -> None:
    _run(db, "0006_workers.sql")


@migrations()
def _0007_digest(db: Database) -> None:
    _run(db, "0007_digest.sql")


@migrations()
def _0008_listening(db: Database) -> None:
    _run(db, "0008_listening.sql")


@migrations()
def _0009_reroute(db: Database) -> None:
    _run(db, "0009_reroute.sql")


@migrations()
def _0010_associations(db: Database) -> None:
    _run(db, "0010_associations.sql")


@migrations()
def _0011_synced(db: Database) -> None:
    _run(db, "0011_synced.sql")


@migrations()
def _0012_runs(db: Database) -> None:
    _run(db, "0012_runs.sql")


def _run(db: Database, file: str) -> None:
    statement = ""
    for line in resources.files(__package__).joinpath(file).read_text().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""


class Table:
    """One connection to the job table.

    Parameters
    ----------
    data_dir : Path
        The node's data directory; it exists.
    clock : callable, optional
        Returns the time in seconds since 1970; tests inject their own.
    takes_turns : bool
        Whether it writes so often that it takes turns with others that do; see `_Turns`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        takes_turns: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.clock = clock
        self._turn = _Turns(data_dir / TURN_NAME) if takes_turns else nullcontext()
        self._lock = threading.RLock()
        self._conn = sqlite3.connect(
            str(data_dir / FILE_NAME),
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        self._conn.row_factory = sqlite3.Row
        self._synchronous = ""
        for pragma in PRAGMAS:
            self._conn.execute(f"PRAGMA {pragma}")
        self._commit_as(SYNCED)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        with self._lock:
            self._conn.close()
            if isinstance(self._turn, _Turns):
                self._turn.close()

    @property
    def version(self) -> int:
        """A number that changes when another connection commits (PRAGMA data_version)."""
        return int(self.rows("PRAGMA data_version")[0]["data_version"])

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Run one statement and return its rows."""
        with self._lock, _mapped:
            self._commit_as(SYNCED)
            return list(self._conn.execute(sql, parameters))

    def row(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """Run one statement and return its first row, or None."""
        return next(iter(self.rows(sql, parameters)), None)

    def change(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement that writes and return how many rows it changed."""
        with self._lock, _mapped:
            self._commit_as(SYNCED)
            return int(self._conn.execute(sql, parameters).rowcount)

    def insert(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one INSERT and return the new row's id."""
        with self._lock, _mapped:
            self._commit_as(SYNCED)
            return int(self._conn.execute(sql, parameters).lastrowid)

    def attempt(self, sql: str, parameters: Parameters = ()) -> bool:
        """Run one statement that writes, unless a constraint forbids it.

        Outside of a transaction it is not synced: everybody sees it at once, but a power cut may
        undo it with all that follows it, up to the next transaction of anybody that is synced.

        Returns
        -------
        bool
            Whether it was allowed; nothing is changed if not.
        """
        with self._lock, _mapped:
            self._commit_as(UNSYNCED)
            try:
                with self._turn:
                    self._conn.execute(sql, parameters)
            except sqlite3.IntegrityError:
                return False
            return True

    @contextmanager
    def write(self) -> Iterator[None]:
        """Run the block as one durable transaction; nested blocks join the outer one.

        Raises
        ------
        OutOfResourcesError
            The disk is full.
        TableError
            The table is locked for longer than 30 s, or broken.
        """
        with self._lock, _mapped:
            if self._conn.in_transaction:
                yield
                return
            self._commit_as(SYNCED)
            with self._turn:
                self._conn.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._conn.execute("COMMIT")
                finally:
                    # SQLite has rolled back by itself after some errors, such as a full disk.
                    if self._conn.in_transaction:
                        self._conn.execute("ROLLBACK")

    def _commit_as(self, synchronous: str) -> None:
        """Say how what is committed from now on is; within a transaction that is settled."""
        if self._synchronous != synchronous and not self._conn.in_transaction:
            self._conn.execute(f"PRAGMA synchronous={synchronous}")
            self._synchronous = synchronous


class _Turns:
    """A lock file that processes which write all the time queue for, before SQLite's own lock.

    SQLite would sleep for a millisecond and look again, ten times as long as such a transaction
    takes. It is a courtesy alone: whoever waited for `TURN_S` goes on to SQLite's lock.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> None:
        deadline = 0.0
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + TURN_S
                if now > deadline:
                    return
                time.sleep(TURN_LOOK_S)
            else:
                return

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock file back."""
        os.close(self._descriptor)


def open_table(
    data_dir: Path, *, clock: Callable[[], float] = time.time, takes_turns: bool = False
) -> Table:
    """Create or open the job table of a data directory and bring its schema up to date.

    Parameters
    ----------
    data_dir, clock, takes_turns
        As `Table` takes them.

    Raises
    ------
    ConfigError
        SQLite is too old, or the data directory is on a network file system.
    UnavailableError
        The data directory cannot be created or written, perhaps because it is not mounted yet.
    """
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} can corrupt a WAL database: "
            f"install pysqlite3 with {'.'.join(map(str, SQLITE_MIN))} or newer"
        )
    try:
        _make_durably(data_dir.absolute())
    except OSError as error:
        raise UnavailableError(
            f"data_dir: {data_dir} cannot be created: {error.strerror}"
        ) from error
    if not os.access(data_dir, os.W_OK):
        raise UnavailableError(
            f"data_dir: {data_dir} is not writable for this user: check its owner, or"
            " run this as the user that the node runs as"
        )
    kind = file_system_of(data_dir)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(f"data_dir: {data_dir} is on {kind}: name a folder on a local disk")
    with _mapped, held_folder(data_dir):
        table = Table(data_dir, clock=clock, takes_turns=takes_turns)
        migrations.apply(Database(table._conn))  # noqa: SLF001 - the same module
    return table


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, so that one process at a time migrates."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_durably(folder: Path) -> None:
    """Make a folder and those above it; their names survive a power cut."""
    made = [above for above in folder.parents if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # The lowest one always: a process that was killed may have made it and got no further.
    for parent in (folder.parent, *(above.parent for above in made)):
        with suppress(PermissionError):  # Then it was not made here.
            descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def file_system_of(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that holds a path, or "" where it cannot be known."""
    if not mounts.is_file():
        return ""
    resolved = path.resolve()
    best, kind = -1, ""
    for line in mounts.read_text().splitlines():
        _, mount_point, file_system, *_ = line.split(" ")
        point = Path(mount_point.replace("\\040", " "))
        if (resolved == point or point in resolved.parents) and len(point.parts) >= best:
            # Of two on one point the later covers the earlier.
            best, kind = len(point.parts), file_system
    return kind


class _Mapped:
    """Map what SQLite raises; as a class, since it stands around every statement."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, sqlite3.DatabaseError):
            return
        text = str(error)
        full = "full" in text or "disk I/O error" in text
        if full and isinstance(error, sqlite3.OperationalError):
            raise OutOfResourcesError(f"the job table cannot be written: {text}") from error
        raise TableError(f"the job table: {text}") from error


_mapped = _Mapped()
