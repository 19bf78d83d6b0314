"""Storage commitment (PS3.4 J): what is asked, what is reported, and how a report is sent.

Data sets of N-ACTION and N-EVENT-REPORT enter and leave as values that can be compared. Used by the
node as SCP, which promises to keep what it holds, and as SCU, which asks that of a destination.
"""

import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.presentation import build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from osteon.errors import DeliveryError, OutOfResourcesError, UnparseableError
from osteon.results.peer import Destination, associate

PUSH_MODEL = str(StorageCommitmentPushModel)
PUSH_MODEL_INSTANCE = str(StorageCommitmentPushModelInstance)
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
REQUEST_STORAGE_COMMITMENT = 1  # Action Type ID, PS3.4 Table J.3-1
REFERENCES_MAX = 10_000  # The longest CT series are a third of this.
DATA_BYTES_MAX = 4 * 2**20  # So many references are 2 MiB.
REPORT_S = 30.0
_ITEM = b"\xfe\xff\x00\xe0"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# What pydicom raises on bytes that are no data set; it has no one exception for that.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class FailureReason(IntEnum):
    """Why an instance is not committed (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131
    RESOURCE_LIMITATION = 0x0213


@dataclass(frozen=True)
class Reference:
    """One instance that a transaction is about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Report:
    """What became of a transaction: what is committed, and what is not for which reason."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...] = ()

    @property
    def event_type(self) -> int:
        """Event Type ID: 1 where all is committed, 2 where failures exist (PS3.4 J.3.3.1)."""
        return 2 if self.failed else 1


def encode_request(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    """Return the Action Information of a request (PS3.4 Table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_item(reference) for reference in references]
    return ds


def encode_report(report: Report) -> Dataset:
    """Return the Event Information of a report (PS3.4 Table J.3-2)."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        ds.FailedSOPSequence = [_item(reference, reason) for reference, reason in report.failed]
    return ds


def decode_request(raw: bytes, transfer_syntax_uid: str) -> tuple[str, tuple[Reference, ...]]:
    """Read the Action Information of a request.

    Parameters
    ----------
    raw : bytes
        The data set as received.
    transfer_syntax_uid : str
        One of `TRANSFER_SYNTAXES`.

    Returns
    -------
    tuple of str and tuple of Reference
        Transaction UID and what commitment is asked for, each instance once.

    Raises
    ------
    OutOfResourcesError
        It has more than `REFERENCES_MAX` references.
    UnparseableError
        It is no request, or a UID in it is none.
    """
    with _mapped("request"):
        ds = _read(raw, transfer_syntax_uid)
        transaction_uid = _uid(ds, "TransactionUID")
        references = dict.fromkeys(_reference(item) for item in ds.ReferencedSOPSequence)
    if not references:
        raise UnparseableError("a request of storage commitment for no instance")
    return transaction_uid, tuple(references)


def decode_report(raw: bytes, transfer_syntax_uid: str) -> Report:
    """Read the Event Information of a report; parameters and errors as in `decode_request`."""
    with _mapped("report"):
        ds = _read(raw, transfer_syntax_uid)
        return Report(
            _uid(ds, "TransactionUID"),
            tuple(_reference(item) for item in ds.get("ReferencedSOPSequence", ())),
            tuple(
                (_reference(item), int(item.get("FailureReason") or 0))
                for item in ds.get("FailedSOPSequence", ())
            ),
        )


def send_report(requester: Destination, report: Report) -> None:
    """Report to a requester on a new association, on which this node is the SCP.

    Raises
    ------
    DeliveryError
        The requester cannot be reached, or does not take the report.

    References
    ----------
    DICOM PS3.4 J.3.3; PS3.7 D.3.3.4 (SCP/SCU Role Selection)
    """
    context = build_context(PUSH_MODEL, list(TRANSFER_SYNTAXES))
    role = build_role(PUSH_MODEL, scp_role=True)
    with associate(requester, [context], REPORT_S, negotiation=[role]) as assoc:
        try:
            answer, _ = assoc.send_n_event_report(
                encode_report(report), report.event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (RuntimeError, ValueError) as error:
            raise DeliveryError(f"{requester} was not told: {error}") from error
    status = answer.get("Status")
    if status is None:
        raise DeliveryError(f"{requester} gave no answer to a report of storage commitment")
    check_answer(str(requester), int(status))


def request(
    destination: Destination,
    transaction_uid: str,
    reference: Reference,
    on_report: Callable[[Report], None],
    stay: Callable[[], None],
) -> None:
    """Ask a destination whether it keeps an instance.

    Parameters
    ----------
    destination : Destination
        The peer.
    transaction_uid : str
        Of this request alone.
    reference : Reference
        The instance.
    on_report : callable
        Called, in another thread, with a report on the same association.
    stay : callable
        Waits on the association for as long as a report may come there.

    Raises
    ------
    NotOfferedError
        The peer gives no storage commitment.
    DeliveryError
        The peer cannot be reached, or refuses the request.

    References
    ----------
    DICOM PS3.4 J.3.2
    """

    def hear(event: Any) -> tuple[int, None]:
        """Answer the N-EVENT-REPORT that comes on this association (PS3.4 J.3.3)."""
        raw = event.request.EventInformation.getvalue()
        on_report(decode_report(raw, str(event.context.transfer_syntax)))
        return 0x0000, None

    context = build_context(PUSH_MODEL, list(TRANSFER_SYNTAXES))
    handlers = [(evt.EVT_N_EVENT_REPORT, hear)]
    with associate(destination, [context], REPORT_S, handlers=handlers) as assoc:
        try:
            answer, _ = assoc.send_n_action(
                encode_request(transaction_uid, [reference]),
                REQUEST_STORAGE_COMMITMENT,
                PUSH_MODEL,
                PUSH_MODEL_INSTANCE,
            )
        except (RuntimeError, ValueError) as error:
            raise DeliveryError(f"{destination} was not asked: {error}") from error
        status = answer.get("Status")
        if status != 0x0000:
            said = "no answer" if status is None else f"0x{status:04X}"
            raise DeliveryError(f"{destination} gave {said} to a request of storage commitment")
        stay()


def check_answer(requester: str, status: int) -> None:
    """Raise `DeliveryError` where a requester answered a report with a failure."""
    # Success, and the warnings of PS3.7 C.4 with which a report is heard nevertheless.
    if status not in {0x0000, 0x0001, 0x0107, 0x0116} and not 0xB000 <= status <= 0xBFFF:
        raise DeliveryError(f"{requester} answered a report of storage commitment 0x{status:04X}")


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    """Let pydicom read as far as it can, silently, and map what it raises."""
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except _UNREADABLE as error:
        text = f"no {what} of storage commitment: {error!r}"
        raise UnparseableError(text[:200]) from error


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _read(raw: bytes, transfer_syntax_uid: str) -> Dataset:
    # Items are counted before they are parsed, which takes ten thousand times as long.
    if len(raw) > DATA_BYTES_MAX or raw.count(_ITEM) > REFERENCES_MAX:
        raise OutOfResourcesError(f"more than {REFERENCES_MAX} references in one transaction")
    syntax = UID(transfer_syntax_uid)
    return read_dataset(BytesIO(raw), syntax.is_implicit_VR, syntax.is_little_endian)


def _reference(item: Dataset) -> Reference:
    return Reference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))


def _uid(ds: Dataset, keyword: str) -> str:
    uid = str(ds[keyword].value)
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise ValueError(f"{keyword} is no UID: {uid[:80]!r}")
    return uid
