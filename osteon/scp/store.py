"""The C-STORE handlers: an instance in, one status out.

The data set goes to intake exactly as it was received; whatever happens, the sender gets a status
that tells it whether to try again. `Reception` is called by ``messages.py`` for every C-STORE-RQ
as its fragments come, `store_instance` by pynetdicom when the whole message has come.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from pydicom.dataset import Dataset

from osteon.errors import (
    InvalidUIDError,
    MismatchError,
    OsteonError,
    OutOfResourcesError,
    UnparseableError,
)
from osteon.pipeline.intake import Arrival, Intake, Stored
from osteon.pipeline.table.reception import Origin

SUCCESS = 0x0000  # PS3.4 Table B.2-1
OUT_OF_RESOURCES = OutOfResourcesError.dimse_status
COMMENT_CHARACTERS_MAX = 64  # Error Comment is an LO, PS3.7 C.4.2
# Faults of the instance: sending it again is of no use. All other faults are the node's own, and
# are answered so that the sender keeps the instance and tries again.
_INSTANCE_FAULTS = (InvalidUIDError, MismatchError, UnparseableError)
T = TypeVar("T")

log = structlog.get_logger(__name__)


def store_instance(event: Any, origin: Origin, intake: Intake, instance_bytes_max: int) -> "Answer":
    """Store the instance of a C-STORE-RQ and return what to answer.

    A data set over the limit of length is answered 0xA700: it may well be understood, so 0xC000
    would be untrue, and it is the node's resources that are limited (PS3.4 Table B.2-1).

    Parameters
    ----------
    event : pynetdicom.events.Event
        ``EVT_C_STORE``.
    origin : Origin
        The association that it came over.
    instance_bytes_max : int
        A data set longer than this is refused.

    References
    ----------
    DICOM PS3.4 B.2.3 and PS3.7 9.3.1.2
    """
    request = event.request
    uid = str(request.AffectedSOPInstanceUID)
    try:
        dataset = request.DataSet.getbuffer()
        if len(dataset) > instance_bytes_max:
            raise too_long(instance_bytes_max)
        stored = intake.store(
            origin,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=uid,
            transfer_syntax_uid=str(event.context.transfer_syntax),
            dataset=dataset,
        )
    except Exception as error:  # noqa: BLE001 - it is logged, and answered whatever it is
        return refuse(error, origin, uid)
    return Answer(SUCCESS, stored=stored)


@dataclass(frozen=True)
class Answer:
    """Status (0000,0900), why it is no success, and what became of the instance."""

    status: int
    why: str = ""
    stored: Stored | None = None

    @property
    def comment(self) -> str:
        """Error Comment (0000,0902)."""
        return error_comment(self.why)


class Reception:
    """One C-STORE operation whose data set comes piece by piece.

    Once refused, the rest of the data set is dropped as it comes, so that the answer is sent when
    the sender waits for it.

    Parameters
    ----------
    begin : callable
        Begins the arrival at the intake.
    origin : Origin
        The association that it comes over.
    sop_instance_uid : str
        As the command names it.
    instance_bytes_max : int
        A data set longer than this is refused.
    """

    def __init__(
        self,
        begin: Callable[[], Arrival],
        origin: Origin,
        sop_instance_uid: str,
        instance_bytes_max: int,
    ) -> None:
        self._origin = origin
        self._uid = sop_instance_uid
        self._bytes_max = instance_bytes_max
        self._size = 0
        self._refusal: Answer | None = None
        self._arrival: Arrival | None = None
        self._arrival = self._attempt(begin)

    def room(self, count: int) -> memoryview | None:
        """Return where the next bytes of the data set shall be put, or None if it is refused.

        There is room for at most so many, and at least for one.
        """
        return None if self._arrival is None else self._attempt(self._arrival.room, count)

    def filled(self, part: memoryview) -> None:
        """Take the next bytes of the data set, which were put where `room` said."""
        self._size += len(part)
        if self._arrival is not None:
            self._attempt(self._take, self._arrival, part)

    def finish(self) -> Answer:
        """Take the end of the data set and return what to answer."""
        stored = None if self._arrival is None else self._attempt(self._arrival.finish)
        self.drop()
        return self._refusal or Answer(SUCCESS, stored=stored)

    def drop(self) -> None:
        """Forget what was not stored; a second call does nothing."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.drop()

    def _take(self, arrival: Arrival, part: memoryview) -> None:
        if self._size > self._bytes_max:
            raise too_long(self._bytes_max)
        arrival.filled(part)

    def _attempt(self, step: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return step(*arguments)
        except Exception as error:  # noqa: BLE001 - it is logged, and answered whatever it is
            self._refusal = refuse(error, self._origin, self._uid)
            self.drop()
            return None


def refuse(error: Exception, origin: Origin, sop_instance_uid: str) -> Answer:
    """Log why an instance was not stored and return what to answer."""
    if isinstance(error, _INSTANCE_FAULTS):
        status, why = error.dimse_status, error.message
    else:
        status, why = OUT_OF_RESOURCES, str(error)
        if not isinstance(error, OsteonError | OSError):
            log.error("an instance could not be stored", exc_info=error)
            why = f"internal error: {error!r}"
    log.warning(
        "instance refused",
        status=f"{status:#06x}",
        calling_ae_title=origin.calling_ae_title,
        address=origin.address,
        sop_instance_uid=sop_instance_uid[:80],
        why=why,
    )
    return Answer(status, why)


def too_long(instance_bytes_max: int) -> OutOfResourcesError:
    """Return what is raised on a data set that is longer than the limit."""
    return OutOfResourcesError(f"the data set is longer than {instance_bytes_max} bytes")


def status_of(status: int, comment: str = "") -> Dataset:
    """Return the elements of a C-STORE-RSP that pynetdicom's handler decides."""
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = error_comment(comment)
    return answer


def error_comment(text: str) -> str:
    """Return a text as an Error Comment: cut to what it holds, other characters replaced."""
    plain = (c if " " <= c <= "~" and c != "\\" else "?" for c in text)
    return "".join(plain)[:COMMENT_CHARACTERS_MAX].strip()
