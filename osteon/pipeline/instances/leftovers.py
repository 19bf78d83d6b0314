"""After a crash: drafts that are whole get their names and rows back, the others go.

A data directory enters. Every role that starts calls this for the folders in ``incoming`` that
nobody lives in: intake for its own, the ``work`` role for all. A draft is whole when its data set
has the hash that its header names; one that was acknowledged always is.
"""

from mmap import ACCESS_READ, mmap
from pathlib import Path

import structlog

from osteon.config.settings import Settings
from osteon.errors import OsteonError, ReceptionError
from osteon.pipeline.instances.digest import is_digest_of
from osteon.pipeline.instances.index import read_header
from osteon.pipeline.instances.part10 import HEADER_BYTES_MAX, decode_header
from osteon.pipeline.instances.spool import INCOMING, Spool, abandoned, name_durably
from osteon.pipeline.table import listening, reception
from osteon.pipeline.table.connection import Table
from osteon.pipeline.table.reception import Origin, Received

log = structlog.get_logger(__name__)


def recover_all(settings: Settings, table: Table) -> int:
    """Recover what killed processes were writing; what a living one writes is left alone.

    Returns
    -------
    int
        How many files were put on record or removed.
    """
    incoming = table.data_dir / INCOMING
    recovered = 0
    for folder in incoming.iterdir() if incoming.is_dir() else ():
        if folder.is_dir():
            recovered += recover(settings, table, folder)
        else:  # An upload that was not finished.
            folder.unlink(missing_ok=True)
    return recovered


def recover(settings: Settings, table: Table, folder: Path) -> int:
    """Recover the drafts of one role that is not running.

    A draft that cannot be recovered now, since the disk is full or fails, is left for next time.

    Returns
    -------
    int
        How many files were put on record or removed.
    """
    recovered = 0
    with abandoned(folder) as drafts:
        for draft in drafts:
            try:
                received = _read(table, draft)
                if received is not None:
                    _put_on_record(settings, table, draft, *received)
                draft.unlink()
                recovered += 1
            except (OSError, OsteonError) as error:
                log.warning("a draft could not be recovered", draft=draft.name, why=str(error))
    if recovered:
        log.info("drafts of a killed process recovered", folder=folder.name, drafts=recovered)
    return recovered


def _read(table: Table, draft: Path) -> tuple[Origin, Received] | None:
    """Read a draft that is whole, or return None."""
    with draft.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            meta, start = decode_header(content[:HEADER_BYTES_MAX])
            with memoryview(content) as raw, raw[start:] as dataset:
                if not is_digest_of(meta.digest, dataset):
                    return None
                header = read_header(dataset, meta.transfer_syntax_uid)
        except ReceptionError:
            return None
        size = len(content)
    path = str(Spool(table.data_dir).path_of(header.series_instance_uid, meta.digest))
    titles = meta.sending_ae_title, meta.receiving_ae_title
    # Where the receiver was killed, its sender was cut off, and the series has to know.
    origin = Origin(*titles, "spool", listening.left_open(table, *titles))
    return origin, Received(header, meta.transfer_syntax_uid, meta.digest, path, size)


def _put_on_record(
    settings: Settings, table: Table, draft: Path, origin: Origin, received: Received
) -> None:
    size = name_durably(draft, table.data_dir / received.path)
    with table.write():
        # Of a content that was held before and then replaced, the row is there as well.
        if not reception.was_received(table, received):
            quiet_s = settings.quiet_s_of(origin.calling_ae_title)
            reception.add_instance(table, origin, received, quiet_s=quiet_s)
        if size != received.size:  # Two senders brought the same bytes, and the other one won.
            reception.resize_instance(table, received.path, size)
