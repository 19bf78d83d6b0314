"""What the node promises to keep: transactions of storage commitment, judged against the disk.

Requests of peers enter and are on record when `Commitments.accept` returns; reports leave. Called
by the receiver. Committed means: the instance is whole in the spool, synced, on record, and stays
there at least until ``osteon purge`` removes its series.
"""

import json
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path

from osteon.errors import UnparseableError
from osteon.pipeline.instances.digest import is_digest_of
from osteon.pipeline.instances.part10 import HEADER_BYTES_MAX, decode_header
from osteon.pipeline.table import commitments
from osteon.pipeline.table.commitments import Transaction
from osteon.pipeline.table.connection import Row, Table
from osteon.results.commitment import FailureReason, Reference, Report

WAITING_MAX = 1000
INSTANCES_MAX = 500_000  # About 65 MB of references.
HASHED_BYTES_MAX = 512 * 2**20  # About a second of reading; a CT of a thousand slices.


class Commitments:
    """The transactions of one node.

    Parameters
    ----------
    table : Table
        A connection that nobody else uses.
    is_supported : callable
        Whether instances of a SOP class are stored here.
    """

    def __init__(self, table: Table, is_supported: Callable[[str], bool]) -> None:
        self.table = table
        self._is_supported = is_supported

    def accept(
        self,
        transaction_uid: str,
        references: tuple[Reference, ...],
        *,
        ae_title: str,
        address: str,
        called_ae_title: str,
        due_in_s: float,
    ) -> int:
        """Record what a peer asks for, durably, and return its id.

        Parameters
        ----------
        transaction_uid : str
            As the peer chose it.
        references : tuple of Reference
            The instances.
        ae_title, address : str
            Who asks, and from where.
        called_ae_title : str
            How it calls this node.
        due_in_s : float
            When its report is due unless it was sent before.

        Raises
        ------
        OutOfResourcesError
            Too many wait already, or the disk is full.
        """
        pairs = [[one.sop_class_uid, one.sop_instance_uid] for one in references]
        asked = Transaction(
            transaction_uid, ae_title, address, called_ae_title, json.dumps(pairs), len(pairs)
        )
        return commitments.accept(
            self.table,
            asked,
            not_before=self.table.clock() + due_in_s,
            waiting_max=WAITING_MAX,
            instances_max=INSTANCES_MAX,
        )

    def judge(self, row: Row) -> Report:
        """Look at the disk and return the report of a transaction.

        Of each instance the newest content counts: its file must be there and have the size on
        record, and its data set the hash on record. Hashes are compared until `HASHED_BYTES_MAX`
        bytes have been read; behind that the size decides.
        """
        committed, failed = [], []
        left = HASHED_BYTES_MAX
        for pair in json.loads(row["refs"]):
            reference = Reference(*pair)
            if row["duplicate"]:
                failed.append((reference, int(FailureReason.DUPLICATE_TRANSACTION_UID)))
                continue
            reason, read = self._look_at(reference, left)
            left -= read
            if reason is None:
                committed.append(reference)
            else:
                failed.append((reference, int(reason)))
        return Report(row["transaction_uid"], tuple(committed), tuple(failed))

    def _look_at(self, reference: Reference, left: int) -> tuple[FailureReason | None, int]:
        """Return why an instance is not committed, and how many bytes were read to know it."""
        newest = commitments.newest_content(self.table, reference.sop_instance_uid)
        if newest is None:
            if self._is_supported(reference.sop_class_uid):
                return FailureReason.NO_SUCH_OBJECT_INSTANCE, 0
            return FailureReason.REFERENCED_SOP_CLASS_NOT_SUPPORTED, 0
        if newest["sop_class_uid"] != reference.sop_class_uid:
            return FailureReason.CLASS_INSTANCE_CONFLICT, 0
        read = int(newest["size"]) if newest["size"] <= left else 0
        try:
            whole = _is_whole(self.table.data_dir / newest["path"], newest, hashed=read > 0)
        except FileNotFoundError:
            return FailureReason.NO_SUCH_OBJECT_INSTANCE, 0
        except (OSError, UnparseableError):
            whole = False
        return None if whole else FailureReason.PROCESSING_FAILURE, read


def _is_whole(path: Path, on_record: Row, *, hashed: bool) -> bool:
    """Return whether a file is what the table says, by its size and, if asked, its hash."""
    if path.stat().st_size != on_record["size"]:
        return False
    if not hashed:
        return True
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        # The data set is hashed as it was received, without the header before it.
        start = decode_header(content[:HEADER_BYTES_MAX])[1]
        with memoryview(content) as raw, raw[start:] as dataset:
            return is_digest_of(on_record["digest"], dataset)
