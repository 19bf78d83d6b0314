"""Which presentation contexts the node accepts: every storage SOP class, every transfer syntax.

What a peer proposes in its A-ASSOCIATE-RQ enters, the contexts to negotiate with leave. Nothing is
kept for all 170 storage classes: only what this peer asked for is built, for each association anew.
"""

import re
from collections.abc import Iterable

from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import NonPatientObjectStorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class

from osteon.results.commitment import PUSH_MODEL, TRANSFER_SYNTAXES

STORAGE_SERVICE_CLASS = UID("1.2.840.10008.4.2")  # PS3.4 B, PS3.6 A
_DICOM_ROOT = "1.2.840.10008."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."  # Every current storage SOP class, PS3.4 B.5
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")

# They have Storage in their name and no instance of a patient in their data set.
_NO_STORAGE = frozenset(
    {
        "1.2.840.10008.1.3.10",  # Media Storage Directory: a DICOMDIR, PS3.4 I
        PUSH_MODEL,  # Storage commitment, PS3.4 J
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model, retired
    }
)

# Their data sets have no pixels of their own (JPIP, SMPTE) or are no data sets of PS3.5.
_NO_DATA_SET = ("JPIP", "SMPTE", "MIME", "XML", "Papyrus")
_FIRST = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    UID("1.2.840.10008.1.2.1.98"),  # Encapsulated Uncompressed Explicit VR Little Endian
)


def carries_data_set(transfer_syntax_uid: str) -> bool:
    """Return whether instances in a transfer syntax are accepted: in every one of PS3.6 that can.

    Unknown ones are not: a sender then uses one that the node can also read.
    """
    if not _is_uid(transfer_syntax_uid):
        return False
    syntax = UID(transfer_syntax_uid)
    return syntax.type == "Transfer Syntax" and not any(w in syntax.name for w in _NO_DATA_SET)


def preference(transfer_syntax_uid: str) -> tuple[int, bool, bool, str]:
    """Return the sort key of a transfer syntax; the least is chosen.

    Where a peer offers several in one context, it must be able to encode each of them, so the
    choice never decides whether an instance can be sent. Uncompressed ones come first, then
    lossless, then lossy, retired ones last of their kind: so negotiation never makes a sender
    compress with loss, and Explicit VR Little Endian keeps the VR of private elements. A sender
    that wants its compressed instances kept as they are proposes their syntax in a context of its
    own (PS3.4 B.1.4), and gets it.
    """
    syntax = UID(transfer_syntax_uid)
    place = _FIRST.index(syntax) if syntax in _FIRST else len(_FIRST)
    lossless = any(word in syntax.name for word in ("Lossless", "Deflated"))
    near = "Near-Lossless" in syntax.name
    return place, near or not lossless, syntax.is_retired, syntax


def is_storage(sop_class_uid: str) -> bool:
    """Return whether instances of a SOP class are stored.

    Known storage classes are, retired ones included, and so are unknown classes under the root of
    the Standard's storage classes and private classes: their instances are composite instances of
    a patient as far as anybody can tell, and intake refuses those that are not. Non-patient
    objects (PS3.4 GG) have no series and are not stored.

    References
    ----------
    DICOM PS3.4 B.3.1 (level 2, full) and B.5
    """
    if sop_class_uid in _NO_STORAGE or not _is_uid(sop_class_uid):
        return False
    if uid_to_service_class(sop_class_uid) is NonPatientObjectStorageServiceClass:
        return False
    known = UID(sop_class_uid)
    if not known.is_private and known.type:
        return known.type == "SOP Class" and "Storage" in known.name
    return sop_class_uid.startswith(_STORAGE_ROOT) or not sop_class_uid.startswith(_DICOM_ROOT)


def supported_contexts(
    proposed: Iterable[tuple[str, Iterable[str]]],
    *,
    storage: bool = True,
    commitment: bool = False,
    reports: bool = False,
) -> list[PresentationContext]:
    """Return the contexts to negotiate with one peer.

    Parameters
    ----------
    proposed : iterable of (str, iterable of str)
        Abstract syntax and offered transfer syntaxes of each proposed context; an abstract syntax
        may come several times.
    storage : bool
        Whether storage is accepted.
    commitment, reports : bool
        Whether the peer may ask for storage commitment, and report it as SCP (PS3.7 D.3.3.4).

    Returns
    -------
    list of PresentationContext
        One for every abstract syntax that is accepted, its transfer syntaxes in order of
        preference.

    References
    ----------
    DICOM PS3.8 9.3.3.2
    """
    offered: dict[str, set[str]] = {}
    for abstract_syntax, transfer_syntaxes in proposed:
        if abstract_syntax == Verification or (storage and is_storage(abstract_syntax)):
            offered.setdefault(abstract_syntax, set()).update(transfer_syntaxes)
    known = ((a, sorted(filter(carries_data_set, s), key=preference)) for a, s in offered.items())
    # A context without a common syntax is kept, so that the peer is told this reason.
    contexts = [build_context(a, syntaxes or [ImplicitVRLittleEndian]) for a, syntaxes in known]
    if commitment or reports:
        contexts.append(build_context(PUSH_MODEL, list(TRANSFER_SYNTAXES)))
        if reports:
            contexts[-1].scu_role = contexts[-1].scp_role = True
    return contexts


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and _UID.fullmatch(text) is not None
