"""The way out: C-ECHO, C-STORE and C-FIND to a destination.

Part 10 files enter, their outcomes leave; called by the delivery of results, by ``osteon send``
and by ``osteon echo``. Files go out as they are on the disk, without being decoded.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from osteon.errors import DeliveryError, DeliveryRefusedError
from osteon.results.peer import Destination, NotOfferedError, associate

ECHO_S = 5.0
FIND_S = 30.0
STORE_S = 300.0
PROOF_WAITS_S = (0.5, 2.0)
_UIDS = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
CONTEXTS_MAX = 126  # PS3.8 9.3.2.2 allows 128 presentation contexts in one association
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}  # Not the fault of the file.


@dataclass(frozen=True)
class StoreOutcome:
    """What a destination said about an instance that it took (PS3.4 Table B.2-1)."""

    path: Path
    sop_instance_uid: str
    status: int
    comment: str


@dataclass(frozen=True)
class _Outgoing:
    """A file and the presentation contexts it can travel in, the first without conversion."""

    path: Path
    sop_class_uid: UID
    sop_instance_uid: str
    transfer_syntaxes: tuple[UID, ...]

    @property
    def contexts(self) -> set[tuple[UID, UID]]:
        """Pairs of SOP class and transfer syntax."""
        return {(self.sop_class_uid, syntax) for syntax in self.transfer_syntaxes}


def echo(destination: Destination) -> float:
    """Ask a destination whether it is there.

    Parameters
    ----------
    destination : Destination
        The peer.

    Returns
    -------
    float
        Seconds from the first packet to the answer.

    Raises
    ------
    DeliveryError
        It cannot be reached, rejects the association, or does not answer in time.

    References
    ----------
    DICOM PS3.4 A (Verification Service Class)
    """
    start = time.monotonic()
    contexts = [build_context(Verification, list(_UNCOMPRESSED))]
    with associate(destination, contexts, ECHO_S) as assoc:
        _status_of(_ask(destination, assoc.send_c_echo), destination, "C-ECHO")
        return time.monotonic() - start


def store(
    destination: Destination,
    paths: Sequence[Path],
    on_instance: Callable[[StoreOutcome], None] | None = None,
    *,
    store_s: float = STORE_S,
) -> list[StoreOutcome]:
    """Send instances.

    Parameters
    ----------
    destination : Destination
        The peer.
    paths : sequence of Path
        Part 10 files.
    on_instance : callable, optional
        Called with every outcome as soon as it is known.
    store_s : float
        Deadline for the answer to one C-STORE, in seconds.

    Returns
    -------
    list of StoreOutcome
        One per file; success, warnings and duplicates are all deliveries.

    Raises
    ------
    DeliveryError
        The peer cannot be reached, is out of resources or stopped answering: the same may
        succeed later. Instances before this one have been delivered.
    DeliveryRefusedError
        The peer refused an instance for good; the message has its status and comment.

    References
    ----------
    DICOM PS3.4 B.2 (Storage Service Class); PS3.7 9.1.1 (C-STORE)
    """
    outcomes = []
    for batch in _batches([_outgoing(path) for path in paths]):
        pairs = sorted(set().union(*(outgoing.contexts for outgoing in batch)))
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
        with associate(destination, contexts, store_s) as assoc:
            accepted = {
                (UID(context.abstract_syntax), context.transfer_syntax[0])
                for context in assoc.accepted_contexts
            }
            for outgoing in batch:
                outcome = _store_one(assoc, accepted, outgoing, destination)
                outcomes.append(outcome)
                if on_instance is not None:
                    on_instance(outcome)
    return outcomes


def find_instance(
    destination: Destination,
    sop_instance_uid: str,
    *,
    study_instance_uid: str = "",
    series_instance_uid: str = "",
) -> bool | None:
    """Ask a destination whether it holds an instance: the proof that a delivery arrived.

    Parameters
    ----------
    destination : Destination
        The peer.
    sop_instance_uid : str
        The instance.
    study_instance_uid, series_instance_uid : str
        Where it stands; a peer without relational queries needs them.

    Returns
    -------
    bool or None
        Whether the peer holds it; None where the peer does not answer such questions.

    Raises
    ------
    DeliveryError
        The peer cannot be reached.

    References
    ----------
    DICOM PS3.4 C.4.1 (C-FIND), C.6.2 (Study Root)
    """
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = series_instance_uid
    query.SOPInstanceUID = sop_instance_uid
    model = StudyRootQueryRetrieveInformationModelFind
    found = False
    try:
        with associate(destination, [build_context(model)], FIND_S) as assoc:
            for response, identifier in _ask(destination, assoc.send_c_find, query, model):
                status = response.get("Status")
                if status is None:
                    raise DeliveryError(f"{destination} did not answer a C-FIND in {FIND_S:g} s")
                if status in (0xFF00, 0xFF01):  # Pending, PS3.4 Table C.4-1
                    found |= (identifier or {}).get("SOPInstanceUID") == sop_instance_uid
                elif status != 0x0000:
                    return None
    except NotOfferedError:
        return None
    return found


def prove(destination: Destination, path: Path) -> str:
    """Ask a destination whether it really holds a file that it has taken.

    Returns
    -------
    str
        What is known now, in words: it was found, or the peer does not answer such questions.

    Raises
    ------
    DeliveryError
        The peer says that it does not hold the instance.
    """
    with disable_value_validation():
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_UIDS)
    for wait_s in (*PROOF_WAITS_S, None):
        try:
            found = find_instance(
                destination,
                ds.SOPInstanceUID,
                study_instance_uid=ds.StudyInstanceUID,
                series_instance_uid=ds.SeriesInstanceUID,
            )
        except DeliveryError:
            found = None  # Who may store may not always query: some peers abort then.
        if found is None:
            return "stored; the destination answers no query that would prove it"
        if found:
            return "stored, and found there by C-FIND"
        if wait_s is not None:
            time.sleep(wait_s)  # Some archives index what they took a moment later.
    raise DeliveryError(f"{destination} took {ds.SOPInstanceUID}, but does not find it by C-FIND")


def _ask(destination: Destination, send: Callable[..., Any], *arguments: Any) -> Any:
    """Send a request; the peer may have aborted since it accepted the association."""
    try:
        return send(*arguments)
    except RuntimeError as error:
        raise DeliveryError(f"{destination} was not asked: {error}") from error


def _outgoing(path: Path) -> _Outgoing:
    """Read what a file is from its File Meta Information."""
    try:
        meta = read_file_meta_info(path)
        sop_class = UID(meta.MediaStorageSOPClassUID)
        syntax = UID(meta.TransferSyntaxUID)
        uid = str(meta.MediaStorageSOPInstanceUID)
    except OSError as error:
        if error.errno in _PASSING:
            raise DeliveryError(f"{path} cannot be read now: {error}") from error
        raise DeliveryRefusedError(f"{path} cannot be read: {error}") from error
    except (InvalidDicomError, AttributeError) as error:
        raise DeliveryRefusedError(f"{path} is not a Part 10 file: {error}") from error
    others = [other for other in _UNCOMPRESSED if other != syntax]
    convertible = syntax in _UNCOMPRESSED
    return _Outgoing(path, sop_class, uid, (syntax, *others) if convertible else (syntax,))


def _batches(outgoing: Sequence[_Outgoing]) -> Iterator[list[_Outgoing]]:
    """Split files so that no batch needs more presentation contexts than one association has."""
    batch: list[_Outgoing] = []
    contexts: set[tuple[UID, UID]] = set()
    for one in outgoing:
        if batch and len(contexts | one.contexts) > CONTEXTS_MAX:
            yield batch
            batch, contexts = [], set()
        batch.append(one)
        contexts |= one.contexts
    if batch:
        yield batch


def _store_one(
    assoc: Association,
    accepted: set[tuple[UID, UID]],
    outgoing: _Outgoing,
    destination: Destination,
) -> StoreOutcome:
    """Send one file, as it is where the peer takes its transfer syntax, else converted."""
    if not accepted & outgoing.contexts:
        raise DeliveryRefusedError(
            f"{destination} does not take {outgoing.sop_class_uid.name} "
            f"in {outgoing.transfer_syntaxes[0].name}"
        )
    as_it_is = (outgoing.sop_class_uid, outgoing.transfer_syntaxes[0]) in accepted
    try:
        response = assoc.send_c_store(outgoing.path if as_it_is else pydicom.dcmread(outgoing.path))
    except (OSError, RuntimeError) as error:
        raise DeliveryError(f"{outgoing.path} was not sent to {destination}: {error}") from error
    status = _status_of(response, destination, f"C-STORE of {outgoing.sop_instance_uid}")
    return StoreOutcome(
        outgoing.path, outgoing.sop_instance_uid, status, str(response.get("ErrorComment", ""))
    )


def _status_of(response: Dataset, destination: Destination, what: str) -> int:
    """Return the status of a response where it is a delivery, else raise what it means."""
    if "Status" not in response:
        raise DeliveryError(f"{destination} gave no answer to {what}: time-out or abort")
    status = int(response.Status)
    # 0xBxxx: Warning; 0x0111: Duplicate SOP Instance, PS3.7 Annex C.5.7: the peer has it.
    if status in (0x0000, 0x0111) or 0xB000 <= status <= 0xBFFF:
        return status
    category, meaning = STORAGE_SERVICE_CLASS_STATUS.get(status, ("Failure", "Unknown status"))
    comment = response.get("ErrorComment") or "no comment"
    message = f"{destination} answered {what} with 0x{status:04X} {category}: {meaning} ({comment})"
    if _is_final(status):
        raise DeliveryRefusedError(message)
    raise DeliveryError(message)


def _is_final(status: int) -> bool:
    """Whether the same instance would be refused again (PS3.4 Table B.2-1, PS3.7 Annex C)."""
    return (
        0xA900 <= status <= 0xA9FF  # Data Set does not match SOP Class
        or 0xC000 <= status <= 0xCFFF  # Cannot understand
        or status in (0x0117, 0x0122, 0x0124)  # Invalid instance, class not supported, forbidden
    )
