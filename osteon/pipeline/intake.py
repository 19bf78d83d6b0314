"""The one door into the pipeline: an instance is durable and on record when `Intake.store` returns.

The receiver and the HTTP upload bring the bytes of a data set; a row of the job table and a file of
the spool leave. Whoever calls may acknowledge when it returns, and must not when it raises.
"""

import hashlib
from dataclasses import dataclass

from osteon.config.settings import Settings
from osteon.errors import InvalidUIDError, MismatchError, OutOfResourcesError
from osteon.pipeline.index import check_uid, read_header
from osteon.pipeline.part10 import FileMeta, encode_header
from osteon.pipeline.spool import Spool, free_bytes
from osteon.pipeline.table import reception, views
from osteon.pipeline.table.connection import Table
from osteon.pipeline.table.reception import Origin, Received

GIGABYTE = 10**9
BACKLOG_CHECK_S = 1.0  # Counting the waiting jobs of a large table is not free.


@dataclass(frozen=True)
class Stored:
    """What became of an instance.

    Attributes
    ----------
    duplicate : bool
        The same bytes were held already; nothing was written and no work follows.
    """

    sop_instance_uid: str
    series_instance_uid: str
    path: str
    duplicate: bool


class Intake:
    """Accept instances for one process.

    Parameters
    ----------
    settings : Settings
        Quiet times, disk reserve and limits are read from it.
    table : Table
        A connection that only this intake uses.
    """

    def __init__(self, settings: Settings, table: Table) -> None:
        self._settings = settings
        self._table = table
        self._spool = Spool(table.data_dir)
        self._backlog: tuple[float, int] = (float("-inf"), 0)

    def open_association(self, calling: str, called: str, address: str) -> Origin:
        """Record an accepted association and return the origin of what comes over it."""
        association_id = reception.open_association(self._table, calling, called, address)
        return Origin(calling, called, address, association_id)

    def close_association(self, origin: Origin, outcome: str) -> None:
        """Record how an association ended: ``released``, or why it did not."""
        if origin.association_id is not None:
            reception.close_association(self._table, origin.association_id, outcome)

    def refusal(self) -> str | None:
        """Return why nothing more can be accepted now, or None.

        The reserve of free space and the limit of waiting jobs are looked at.
        """
        reserve = self._settings.pipeline.disk_reserve_gb
        free = free_bytes(self._table.data_dir) / GIGABYTE
        if free < reserve:
            return f"disk reserve reached: {free:.1f} GB are free and {reserve:g} GB are kept"
        waiting_max = self._settings.pipeline.waiting_max
        if self._waiting() >= waiting_max:
            return f"backlog limit reached: {waiting_max} jobs are waiting"
        return None

    def store(
        self,
        origin: Origin,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        dataset: bytes | memoryview,
    ) -> Stored:
        """Make an instance durable and put it on record.

        Parameters
        ----------
        origin : Origin
            Who sent it.
        sop_class_uid, sop_instance_uid : str
            As the C-STORE command or the File Meta Information names them.
        transfer_syntax_uid : str
            How the data set is encoded.
        dataset : bytes
            The data set as received; it is stored unchanged.

        Raises
        ------
        OutOfResourcesError
            Disk reserve, full disk or full table (0xA700).
        MismatchError
            The data set's SOP Class or Instance UID differs (0xA900).
        UnparseableError
            The bytes are no data set (0xC000).
        InvalidUIDError
            A UID breaks PS3.5 9.1 (0x0117).

        References
        ----------
        DICOM PS3.4 B.2.3 and Table B.2-1
        """
        check_uid(sop_instance_uid, "Affected SOP Instance UID")
        check_uid(transfer_syntax_uid, "Transfer Syntax UID")
        refusal = self.refusal()
        if refusal is not None:
            raise OutOfResourcesError(refusal)
        header = read_header(dataset, transfer_syntax_uid)
        named = (sop_class_uid, sop_instance_uid)
        if (header.sop_class_uid, header.sop_instance_uid) != named:
            raise MismatchError(
                f"the command names {sop_class_uid} {sop_instance_uid}, the data set"
                f" {header.sop_class_uid} {header.sop_instance_uid}"
            )
        sha256 = hashlib.sha256(dataset).hexdigest()
        known = reception.find_instance(self._table, header, sha256)
        if known is not None and (self._table.data_dir / known["path"]).is_file():
            return Stored(sop_instance_uid, header.series_instance_uid, known["path"], True)
        meta = FileMeta(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            origin.calling_ae_title,
            origin.called_ae_title,
        )
        path = self._spool.path_of(header.series_instance_uid, sha256)
        size = self._spool.store(path, (_encoded(meta), dataset))
        if known is None:
            received = Received(header, transfer_syntax_uid, sha256, str(path), size)
            self._record(origin, received)
        return Stored(sop_instance_uid, header.series_instance_uid, str(path), known is not None)

    def _record(self, origin: Origin, received: Received) -> None:
        source = self._settings.source_of(origin.calling_ae_title)
        quiet_s = self._settings.scp.quiet_s
        if source is not None and source.quiet_s is not None:
            quiet_s = source.quiet_s
        with self._table.write():
            # Another association, or process, may have brought the same bytes meanwhile.
            if reception.find_instance(self._table, received.header, received.sha256) is None:
                reception.add_instance(self._table, origin, received, quiet_s=quiet_s)

    def _waiting(self) -> int:
        checked, count = self._backlog
        now = self._table.clock()
        if not 0 <= now - checked <= BACKLOG_CHECK_S:  # Clocks are set back, too.
            count = views.count_waiting(self._table)
            self._backlog = (now, count)
        return count


def _encoded(meta: FileMeta) -> bytes:
    try:
        return encode_header(meta)
    except UnicodeEncodeError as error:
        raise InvalidUIDError(f"not ASCII: {error.object!r} (PS3.5 6.1)") from error
