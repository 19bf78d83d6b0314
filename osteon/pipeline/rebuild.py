"""Compare disk and table, and put spool files that have no row back on record.

A data directory and its job table enter; faults leave. ``osteon verify`` calls it. The spool alone
is enough to rebuild the table: each file names its instance and, in its File Meta Information,
who sent it; jobs and results follow, under the same UIDs.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from osteon.config.settings import Settings
from osteon.errors import ReceptionError
from osteon.pipeline.instances.digest import is_digest_of
from osteon.pipeline.instances.index import read_header
from osteon.pipeline.instances.part10 import FileMeta, decode_header
from osteon.pipeline.instances.spool import SPOOL, Spool
from osteon.pipeline.table import holdings, reception
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.reception import Origin, Received

SETTLED_S = 5.0  # A younger file without a row may be one that is just being received.


@dataclass(frozen=True)
class Fault:
    """One way in which disk and table differ.

    Attributes
    ----------
    kind : str
        ``missing``, ``size``, ``content``, or ``orphan``: a spool file that no row names.
    path : str
        Under the data directory.
    """

    kind: str
    path: str
    why: str


def compare(table: Table, *, deep: bool = False) -> Iterator[Fault]:
    """Compare every row with its file, and every spool file with its row.

    Parameters
    ----------
    deep : bool
        Read every file and compare its hash as well.
    """
    spool = Spool(table.data_dir)
    seen = set()
    for uid in holdings.series_uids(table):
        rows = holdings.instances_of(table, uid)
        folder = spool.path_of(uid, "").parent
        seen.add(folder.name)
        for row in rows:
            yield from _compare(table, "instance", row, deep)
        yield from _orphans(table, folder, {row["path"] for row in rows})
    for row in holdings.results(table):
        yield from _compare(table, "result", row, deep)
    for name in sorted(entry.name for entry in (table.data_dir / SPOOL).iterdir()):
        if name not in seen:
            yield from _orphans(table, Path(SPOOL) / name, set())


def adopt(settings: Settings, table: Table, path: str) -> None:
    """Put a spool file without a row back on record, as if it had been received now.

    Parameters
    ----------
    path : str
        Under the data directory.

    Raises
    ------
    ReceptionError
        The file is damaged: its content is not what its name says.
    """
    meta, received = _read_spooled(table, path)
    origin = Origin(meta.sending_ae_title, meta.receiving_ae_title, "spool")
    quiet_s = settings.quiet_s_of(origin.calling_ae_title)
    with table.write():
        if reception.find_instance(table, received.header, received.digest) is None:
            reception.add_instance(table, origin, received, quiet_s=quiet_s)


def _compare(table: Table, kind: str, row: Row, deep: bool) -> Iterator[Fault]:
    fault = _size_fault(table, row)
    if fault is None and deep:
        fault = _content_fault(table, kind, row)
    # The file of a series that was purged meanwhile is not missing.
    if fault is not None and holdings.is_held(table, kind, row["id"]):
        yield fault


def _size_fault(table: Table, row: Row) -> Fault | None:
    path = row["path"]
    try:
        size = (table.data_dir / path).stat().st_size
    except OSError:
        return Fault("missing", path, "the table names it and the disk does not have it")
    if size == row["size"]:
        return None
    return Fault("size", path, f"{size} bytes instead of {row['size']}")


def _content_fault(table: Table, kind: str, row: Row) -> Fault | None:
    path = row["path"]
    try:
        raw = memoryview((table.data_dir / path).read_bytes())
        # Of an instance the data set is hashed as it was received, without the header before it.
        start = decode_header(raw)[1] if kind == "instance" else 0
    except OSError as error:
        return Fault("content", path, f"cannot be read: {error.strerror}")
    except ReceptionError as error:
        return Fault("content", path, error.message)
    if is_digest_of(row["digest"], raw[start:]):
        return None
    return Fault("content", path, "its hash is not the one on record")


def _orphans(table: Table, folder: Path, named: set[str]) -> Iterator[Fault]:
    # In the order in which they came: of two contents of one instance the newer one wins.
    for came, name in sorted(_files_in(table.data_dir / folder)):
        path = str(folder / name)
        if path in named or time.time() - came < SETTLED_S:
            continue
        try:
            received = _read_spooled(table, path)[1]
        except ReceptionError as error:
            if (table.data_dir / path).exists():
                yield Fault("content", path, f"no row names it and it is damaged: {error.message}")
            continue
        if reception.find_instance(table, received.header, received.digest) is None:
            yield Fault("orphan", path, "no row names it: --rebuild puts it back on record")


def _files_in(folder: Path) -> Iterator[tuple[float, str]]:
    """Yield when each file came, and its name; a purge may remove it meanwhile, or all of them."""
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            with suppress(FileNotFoundError):
                yield file.stat().st_mtime, file.name


def _read_spooled(table: Table, path: str) -> tuple[FileMeta, Received]:
    """Read a spool file as it was received.

    Raises
    ------
    ReceptionError
        It is damaged.
    """
    try:
        raw = memoryview((table.data_dir / path).read_bytes())
    except OSError as error:
        raise ReceptionError(f"{path} cannot be read: {error.strerror}") from error
    meta, start = decode_header(raw)
    header = read_header(raw[start:], meta.transfer_syntax_uid)
    digest = Path(path).stem
    is_named = str(Spool(table.data_dir).path_of(header.series_instance_uid, digest)) == path
    if not is_named or not is_digest_of(digest, raw[start:]):
        raise ReceptionError(f"{path}: its content is not what its name says")
    return meta, Received(header, meta.transfer_syntax_uid, digest, path, len(raw))
