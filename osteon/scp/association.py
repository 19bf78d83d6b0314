"""One association in pynetdicom's hands, with the limits that it lacks.

A connection with its A-ASSOCIATE-RQ enters, an `Association` that can be started leaves. This is
the way of ``scp.fast = false``; ``direct.py`` is the other, for which `introduce` is as well.

Relied on beyond pynetdicom's documentation, held by ``tests/unit/scp/test_association.py``: an
association reads its ``dul`` and ``dimse`` attributes when it starts and not before, the reactor
of the upper layer is ``run_reactor``, a message is assembled from the fragments given to
``receive_primitive`` and waits in ``msg_queue``, and ``Evt19`` aborts.
"""

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from pydicom.errors import BytesLengthException, InvalidDicomError
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation

from osteon.scp.command import COMMAND_BYTES_MAX
from osteon.scp.transport import PduSocket

PENDING_MAX = 8  # Messages that wait; one operation at a time is negotiated, PS3.7 D.3.3.3
_INVALID_PDU = "Evt19"  # Unrecognized or invalid PDU, PS3.8 9.2
# What pynetdicom and pydicom raise on PDUs and command sets that are malformed.
MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    InvalidEventError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)

Handler = Callable[[Any], Any]

log = structlog.get_logger(__name__)


class UpperLayer(DULServiceProvider):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """An upper layer whose thread ends without a traceback when a PDU is malformed."""

    def run_reactor(self) -> None:
        """Run until the association is over."""
        try:
            super().run_reactor()
        except MALFORMED as error:
            # The association sees that this thread has ended, and ends as well; the peer at once.
            self.socket.close()
            log.warning(
                "a PDU was malformed", address=address_of(self.assoc), why=repr(error)[:200]
            )


class BoundedMessages(DIMSEServiceProvider):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """DIMSE messages of bounded size and number.

    Parameters
    ----------
    assoc : Association
        The association that they come over.
    instance_bytes_max : int
        Of a longer data set this many bytes and one more are held, so that the C-STORE handler
        sees that it is too long and answers; the rest is read and dropped.
    """

    def __init__(self, assoc: Association, instance_bytes_max: int) -> None:
        super().__init__(assoc)
        self._limits = {True: COMMAND_BYTES_MAX + 1, False: instance_bytes_max + 1}
        self._held = {True: 0, False: 0}

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the next fragments of a message."""
        fragments = primitive.presentation_data_value_list
        for at, (context_id, fragment) in enumerate(fragments):
            is_command = bool(fragment[0] & 1)  # Message Control Header, PS3.8 E.2
            room = self._limits[is_command] - self._held[is_command]
            kept = fragment if len(fragment) - 1 <= room else fragment[: 1 + room]
            self._held[is_command] += len(kept) - 1
            fragments[at] = (context_id, kept)
        if self._held[True] > COMMAND_BYTES_MAX or self.msg_queue.qsize() >= PENDING_MAX:
            self.dul.event_queue.put(_INVALID_PDU)
            return
        try:
            super().receive_primitive(primitive)
        except MALFORMED as error:
            log.warning(
                "a command set was malformed", address=address_of(self.assoc), why=repr(error)[:200]
            )
            self.dul.event_queue.put(_INVALID_PDU)
        if self.message is None:
            self._held = {True: 0, False: 0}


def build_association(
    ae: ApplicationEntity,
    sock: socket.socket,
    first_pdu: bytes,
    *,
    local: AddressInformation,
    remote: AddressInformation,
    instance_bytes_max: int,
    handlers: Sequence[tuple[Any, Handler]],
) -> Association:
    """Build an association acceptor that is ready to be started.

    Parameters
    ----------
    ae : ApplicationEntity
        Its time-outs, PDU length and implementation identification are taken.
    sock : socket.socket
        The connection; it is the caller's to close.
    first_pdu : bytes
        The A-ASSOCIATE-RQ.
    handlers : sequence of (event, callable)
        Bound to the association.
    """
    assoc = Association(ae, "acceptor")
    assoc.dul = UpperLayer(assoc)
    assoc.dul.daemon = True
    # Setting them again hands them on to the timers of the new upper layer.
    assoc.acse_timeout, assoc.network_timeout = ae.acse_timeout, ae.network_timeout
    assoc.dimse = BoundedMessages(assoc, instance_bytes_max)
    assoc.set_socket(PduSocket(assoc, sock, first_pdu))
    introduce(assoc, local=local, remote=remote, handlers=handlers)
    return assoc


def introduce(
    assoc: Association,
    *,
    local: AddressInformation,
    remote: AddressInformation,
    handlers: Sequence[tuple[Any, Handler]],
) -> None:
    """Tell an association acceptor who it is, who calls, and who wants to hear of it.

    Parameters
    ----------
    handlers : sequence of (event, callable)
        Bound to the association.
    """
    ae = assoc.ae
    assoc.name = f"association {remote.address}:{remote.port}"
    assoc.requestor.address_info = remote
    assoc.acceptor.address_info = local
    assoc.acceptor.ae_title = ae.ae_title
    assoc.acceptor.maximum_length = ae.maximum_pdu_size
    assoc.acceptor.implementation_class_uid = ae.implementation_class_uid
    assoc.acceptor.implementation_version_name = ae.implementation_version_name
    for event, handler in handlers:
        assoc.bind(event, handler)


def address_of(assoc: Association) -> str:
    """Return the IP address that an association comes from."""
    return str(assoc.requestor.address_info.address)
