"""The C-STORE handler: one event in, one status out.

The data set goes to intake exactly as it was received; whatever happens, the sender gets a status
that tells it whether to try again. Called by the receiver for every C-STORE-RQ.
"""

from typing import Any

import structlog
from pydicom.dataset import Dataset

from osteon.errors import (
    InvalidUIDError,
    MismatchError,
    OsteonError,
    OutOfResourcesError,
    UnparseableError,
)
from osteon.pipeline.intake import Intake, Stored
from osteon.pipeline.table.reception import Origin

SUCCESS = 0x0000  # PS3.4 Table B.2-1
OUT_OF_RESOURCES = OutOfResourcesError.dimse_status
COMMENT_CHARACTERS_MAX = 64  # Error Comment is an LO, PS3.7 C.4.2
# Faults of the instance: sending it again is of no use. All other faults are the node's own, and
# are answered so that the sender keeps the instance and tries again.
_INSTANCE_FAULTS = (InvalidUIDError, MismatchError, UnparseableError)

log = structlog.get_logger(__name__)


def store_instance(
    event: Any, origin: Origin, intake: Intake, instance_bytes_max: int
) -> tuple[Dataset, Stored | None]:
    """Store the instance of a C-STORE-RQ and return the status of the C-STORE-RSP.

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

    Returns
    -------
    tuple of Dataset and Stored or None
        Status (0000,0900) with Error Comment (0000,0902), and what became of the instance; None
        where it was refused.

    References
    ----------
    DICOM PS3.4 B.2.3 and PS3.7 9.3.1.2
    """
    request = event.request
    try:
        dataset = request.DataSet.getbuffer()
        if len(dataset) > instance_bytes_max:
            raise OutOfResourcesError(f"the data set is longer than {instance_bytes_max} bytes")
        stored = intake.store(
            origin,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            dataset=dataset,
        )
    except _INSTANCE_FAULTS as error:
        return _refused(event, origin, error.dimse_status, error.message), None
    except (OsteonError, OSError) as error:
        return _refused(event, origin, OUT_OF_RESOURCES, str(error)), None
    except Exception as error:
        log.exception("an instance could not be stored")
        return _refused(event, origin, OUT_OF_RESOURCES, f"internal error: {error!r}"), None
    return status_of(SUCCESS), stored


def status_of(status: int, comment: str = "") -> Dataset:
    """Return the elements of a C-STORE-RSP that the handler decides.

    Parameters
    ----------
    comment : str
        Cut to what an Error Comment holds; other characters than those of the default repertoire
        are replaced.
    """
    answer = Dataset()
    answer.Status = status
    if comment:
        plain = (c if " " <= c <= "~" and c != "\\" else "?" for c in comment)
        answer.ErrorComment = "".join(plain)[:COMMENT_CHARACTERS_MAX].strip()
    return answer


def _refused(event: Any, origin: Origin, status: int, why: str) -> Dataset:
    log.warning(
        "instance refused",
        status=f"{status:#06x}",
        calling_ae_title=origin.calling_ae_title,
        address=origin.address,
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID)[:80],
        why=why,
    )
    return status_of(status, why)
