"""The one door into the pipeline: an instance that is stored is durable and on record.

The receiver and the HTTP upload bring the bytes of a data set; a row of the job table and a file of
the spool leave. Whoever calls may acknowledge when `Arrival.finish` or `Intake.store` returns, and
must not when it raises.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from osteon.config.settings import Settings
from osteon.errors import OsteonError, OutOfResourcesError
from osteon.pipeline.instances.arrival import Arrival, Sealed, Stored
from osteon.pipeline.instances.commit import GroupCommit
from osteon.pipeline.instances.index import Header, check_uid
from osteon.pipeline.instances.leftovers import recover
from osteon.pipeline.instances.part10 import FileMeta
from osteon.pipeline.instances.spool import INCOMING, Spool, free_bytes
from osteon.pipeline.table import reception, views
from osteon.pipeline.table.associations import Brought, Rejected, record_rejections
from osteon.pipeline.table.connection import Table
from osteon.pipeline.table.reception import Origin, Received

__all__ = ["Arrival", "Intake", "Stored"]
GIGABYTE = 10**9
BACKLOG_CHECK_S = 1.0  # Counting the waiting jobs of a large table is not free.
SPACE_CHECK_S = 0.25  # A thousand instances a second need not all ask for the same number.


class Intake:
    """Accept instances for one process.

    Parameters
    ----------
    settings : Settings
        Quiet times, disk reserve and limits are read from it.
    table : Table
        A connection that only this intake uses.
    role : str, optional
        The role of the process; drafts of a killed process of the same role are recovered.
    """

    def __init__(self, settings: Settings, table: Table, role: str = "receive") -> None:
        self._settings = settings
        self._table = table
        if (table.data_dir / INCOMING / role).is_dir():
            recover(settings, table, table.data_dir / INCOMING / role)
        self._spool = Spool(table.data_dir, role, lambda: reception.sync_rows(table, role))
        self._commits: GroupCommit[tuple[Origin, Received], bool] = GroupCommit(self._commit)
        self._backlog: tuple[float, int] = (float("-inf"), 0)
        self._space: tuple[float, float] = (float("-inf"), 0.0)

    def close(self) -> None:
        """Have done with all that was stored; the next start finds nothing to recover."""
        self._spool.close()

    def open_association(self, calling: str, called: str, address: str) -> Origin:
        """Record an accepted association and return the origin of what comes over it."""
        association_id = reception.open_association(self._table, calling, called, address)
        return Origin(calling, called, address, association_id)

    def close_association(
        self, origin: Origin, outcome: str, *, cut: bool = False, brought: Brought | None = None
    ) -> None:
        """Record how an association ended: ``released``, or why it did not.

        Parameters
        ----------
        cut : bool
            Whether its sender was cut off in the middle of something.
        brought : Brought, optional
            What came over it; unknown where absent.
        """
        if origin.association_id is not None:
            reception.close_association(
                self._table, origin.association_id, outcome, cut=cut, brought=brought
            )

    def record_rejections(self, rejections: Sequence[Rejected]) -> None:
        """Record associations that were rejected, and forget the oldest of very many."""
        record_rejections(self._table, rejections)

    def refusal(self) -> str | None:
        """Return why nothing more can be accepted now, or None.

        The reserve of free space and the limit of waiting jobs are looked at.
        """
        reserve = self._settings.pipeline.disk_reserve_gb
        free = self._free_gb(reserve)
        if free < reserve:
            return f"disk reserve reached: {free:.1f} GB are free and {reserve:g} GB are kept"
        waiting_max = self._settings.pipeline.waiting_max
        if self._waiting() >= waiting_max:
            return f"backlog limit reached: {waiting_max} jobs are waiting"
        return None

    def begin(
        self,
        origin: Origin,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> Arrival:
        """Begin to take an instance whose data set comes piece by piece.

        Parameters
        ----------
        origin : Origin
            Who sends it.
        sop_class_uid, sop_instance_uid : str
            As the C-STORE command or the File Meta Information names them.
        transfer_syntax_uid : str
            How the data set is encoded.

        Raises
        ------
        OutOfResourcesError
            Disk reserve, full disk or backlog (0xA700).
        InvalidUIDError
            A UID breaks PS3.5 9.1 (0x0117).
        """
        check_uid(sop_class_uid, "Affected SOP Class UID")
        check_uid(sop_instance_uid, "Affected SOP Instance UID")
        check_uid(transfer_syntax_uid, "Transfer Syntax UID")
        refusal = self.refusal()
        if refusal is not None:
            raise OutOfResourcesError(refusal)
        meta = FileMeta(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            origin.calling_ae_title,
            origin.called_ae_title,
        )
        return Arrival(
            meta,
            self._spool.draft(),
            self.refusal,
            lambda sealed: self._keep(origin, sealed),
        )

    def store(
        self,
        origin: Origin,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        dataset: bytes | memoryview,
    ) -> Stored:
        """Make a whole instance durable and put it on record.

        Parameters
        ----------
        origin, sop_class_uid, sop_instance_uid, transfer_syntax_uid
            As in `begin`.
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
        with self.begin(
            origin,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        ) as arrival:
            arrival.write(dataset)
            return arrival.finish()

    def _keep(self, origin: Origin, sealed: Sealed) -> Stored:
        """Make a sealed instance visible and put it on record, unless it is held already."""
        header, digest = sealed.header, sealed.digest
        path = self._spool.path_of(header.series_instance_uid, digest)
        size = sealed.draft.size
        is_free = self._spool.publish(sealed.draft, path)
        # Its name is its content: where no file had this name, no look at the table is needed.
        row = None if is_free else reception.find_instance(self._table, header, digest)
        if not is_free and (
            row is None or size == row["size"] or self._held_size(path) != row["size"]
        ):
            # Of a duplicate, too: whatever has befallen the file since, it is whole again.
            self._spool.replace(sealed.draft, path)
            if row is not None and size != row["size"]:
                reception.resize_instance(self._table, str(path), size)
        new = row is None and self._put_on_record(origin, sealed, path)
        if new and not is_free and self._held_size(path) is None:
            # The other sender of these bytes was refused at this moment, and has tidied up.
            self._spool.publish(sealed.draft, path)
        self._spool.settle(sealed.draft, path)
        return Stored(
            header.sop_instance_uid, header.series_instance_uid, str(path), duplicate=not new
        )

    def _put_on_record(self, origin: Origin, sealed: Sealed, path: Path) -> bool:
        """Commit the row of a published instance and return whether it is new."""
        header, digest = sealed.header, sealed.digest
        syntax, size = sealed.meta.transfer_syntax_uid, sealed.draft.size
        received = Received(header, syntax, digest, str(path), size)
        try:
            new = self._commits.run((origin, received))
        except OsteonError:
            self._withdraw(sealed, received)
            raise
        if not new:
            self._agree_on_size(path, header, digest)
        return new

    def _withdraw(self, sealed: Sealed, received: Received) -> None:
        """Take back the name of a file that could not be put on record."""
        try:
            with self._table.write():  # So that nobody puts it on record meanwhile.
                if not reception.was_received(self._table, received):
                    self._spool.withdraw(sealed.draft, Path(received.path))
        except OsteonError:
            sealed.draft.leave()  # It is put on record at the next start.

    def _agree_on_size(self, path: Path, header: Header, digest: str) -> None:
        """Where two senders brought the same bytes at once, the row follows the file that won."""
        row = reception.find_instance(self._table, header, digest)
        held = self._held_size(path)
        if row is not None and held is not None and held != row["size"]:
            reception.resize_instance(self._table, str(path), held)

    def _held_size(self, path: Path) -> int | None:
        """Return the size of a spool file, or None where it is not there."""
        try:
            return (self._table.data_dir / path).stat().st_size
        except OSError:
            return None

    def _commit(self, batch: Sequence[tuple[Origin, Received]]) -> list[bool]:
        """Put instances on record together, and return which of them are new."""
        quiet_s_of = self._settings.quiet_s_of
        return reception.add_instances(
            self._table,
            [(origin, received, quiet_s_of(origin.calling_ae_title)) for origin, received in batch],
        )

    def _free_gb(self, reserve: float) -> float:
        checked, free = self._space
        now = time.monotonic()
        if now - checked > SPACE_CHECK_S or free < reserve:  # Space that returns is seen at once.
            free = free_bytes(self._table.data_dir) / GIGABYTE
            self._space = (now, free)
        return free

    def _waiting(self) -> int:
        checked, count = self._backlog
        now = self._table.clock()
        if not 0 <= now - checked <= BACKLOG_CHECK_S:  # Clocks are set back, too.
            count = views.count_waiting(self._table)
            self._backlog = (now, count)
        return count
