"""Proof that a destination really holds what it took: by storage commitment, or by C-FIND.

A result that was stored enters, what is known of it leaves, in words; called by delivery in its
threads. A report of storage commitment comes on the association that asked, or hours later to the
receiver, which leaves it in the table.
"""

import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid

from osteon.config.settings import DestinationSettings, Proof
from osteon.errors import DeliveryError, NotFoundError
from osteon.pipeline.table import proofs
from osteon.pipeline.table.connection import Row, Table
from osteon.results.commitment import Reference, Report, request
from osteon.results.peer import Destination
from osteon.results.scu import prove

SAME_ASSOCIATION_S = 3.0  # Many peers report on an association of their own, at once or when free.
REPORT_WAIT_S = {Proof.AUTO: 10.0, Proof.COMMITMENT: 60.0}
SILENT_S = 3600.0  # How long a destination that does not report is not asked again.
LOOK_S = 0.05
COMMITTED = "stored, and kept there by storage commitment"

log = structlog.get_logger(__name__)


class Prover:
    """Ask destinations for proof.

    Parameters
    ----------
    table : Table
        Where reports are found that came to the receiver.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._silent_until: dict[str, float] = {}

    def known(self, destination: DestinationSettings, delivery: Row) -> str | None:
        """Return what is known already: a report may have come after the last attempt ended."""
        committed = proofs.is_committed(
            self._table, destination.name, delivery["sop_instance_uid"], delivery["created"]
        )
        return COMMITTED if committed else None

    def prove(self, destination: DestinationSettings, peer: Destination, path: Path) -> str:
        """Ask whether a destination holds a file that it has taken.

        Returns
        -------
        str
            What is known now, in words.

        Raises
        ------
        DeliveryError
            The peer says that it does not hold the instance, or says nothing where it must.
        """
        if destination.proof is Proof.NONE:
            return "stored"
        if destination.proof is Proof.COMMITMENT:
            return self._by_commitment(destination, peer, path)
        now, name = self._table.clock(), destination.name
        if destination.proof is Proof.AUTO and now >= self._silent_until.get(name, 0.0):
            try:
                return self._by_commitment(destination, peer, path)
            except _NotKeptError:
                raise
            except DeliveryError as error:  # It has it all the same; C-FIND will say.
                self._silent_until[name] = now + SILENT_S
                log.info("no storage commitment", destination=name, why=error.message)
        return prove(peer, path)

    def _by_commitment(
        self, destination: DestinationSettings, peer: Destination, path: Path
    ) -> str:
        meta = read_file_meta_info(path)
        reference = Reference(
            str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
        )
        transaction_uid = str(generate_uid(prefix=None))
        proofs.ask(self._table, transaction_uid, destination.name, reference.sop_instance_uid)

        def heard() -> bool:
            """Return whether the report has come, on whichever association."""
            return proofs.heard(self._table, transaction_uid) is not None

        wait_s = REPORT_WAIT_S[destination.proof]
        deadline = time.monotonic() + wait_s
        request(
            peer,
            transaction_uid,
            reference,
            lambda report: record(self._table, report),
            lambda: _wait(heard, min(deadline, time.monotonic() + SAME_ASSOCIATION_S)),
        )
        _wait(heard, deadline)
        report = proofs.heard(self._table, transaction_uid)
        if report is None:
            raise DeliveryError(
                f"{peer} took it, and did not report storage commitment in {wait_s:g} s"
            )
        if report["failure_reason"] is not None:
            raise _NotKeptError(
                f"{peer} took it, and does not keep it: storage commitment failed with reason"
                f" 0x{report['failure_reason']:04X}"
            )
        return COMMITTED


class _NotKeptError(DeliveryError):
    """The destination says itself that it does not keep the instance."""


def record(table: Table, report: Report) -> None:
    """Record what a destination has reported.

    Raises
    ------
    NotFoundError
        Nobody has asked it for this.
    """
    uid = proofs.instance_asked_for(table, report.transaction_uid)
    if uid is None:
        raise NotFoundError(f"no transaction {report.transaction_uid} of storage commitment")
    failed = {one.sop_instance_uid: reason for one, reason in report.failed}
    if uid in failed:
        proofs.hear(table, report.transaction_uid, failed[uid])
    elif uid in {one.sop_instance_uid for one in report.committed}:
        proofs.hear(table, report.transaction_uid, None)


def _wait(done: Callable[[], bool], deadline: float) -> None:
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK_S)
