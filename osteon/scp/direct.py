"""One association in one thread: pynetdicom negotiates and keeps the state machine, data is ours.

A connection with its A-ASSOCIATE-RQ enters; durable instances leave through the messages. Every
PDU but P-DATA-TF goes to pynetdicom whole. Its three threads for each connection, which look every
millisecond whether there is something to do, become one that sleeps in the kernel until there is.

Relied on beyond pynetdicom's documentation, held by ``tests/unit/scp/test_direct.py``: an
association negotiates in ``run_reactor`` and goes on in ``_run_reactor``, starts no upper layer
where ``_started_dul`` is set, its upper layer turns what waits in ``to_provider_queue`` into an
event by ``_process_recv_primitive`` and a received PDU by ``_decode_pdu`` and ``_recv_pdu``, and
``state_machine.do_action`` does all that PS3.8 9.2 says.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from osteon.scp.association import MALFORMED, address_of
from osteon.scp.command import InvalidPduError
from osteon.scp.inbox import BUFFER_BYTES, Inbox
from osteon.scp.transfer import BeginTransfer, SilentError, Transfer
from osteon.scp.transport import bound_waits, wake

WAIT_S = 5.0  # How late a deadline may be noticed.
SEND_S = 30.0  # A peer that takes no answer for so long is cut off.
LINGER_S = 1.0  # How long a peer has to take the last PDU and to close the connection.
LINGER_BYTES_MAX = 64 * 2**20
_DATA_TRANSFER, _CLOSING = "Sta6", "Sta13"  # PS3.8 9.2.1
_CONNECTION_CLOSED, _INVALID_PDU = "Evt17", "Evt19"  # PS3.8 9.2.2

log = structlog.get_logger(__name__)


class DirectSocket(AssociationSocket):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """The sending side of a connection, as pynetdicom's state machine uses it."""

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a connection that does not take it is lost."""
        try:
            self.socket.sendall(bytestream)
        except (OSError, AttributeError):  # No socket is left after it was closed.
            self.event_queue.put(_CONNECTION_CLOSED)


class DirectUpperLayer(DULServiceProvider):  # type: ignore[misc] # as above
    """An upper layer without a thread: the association's own drives its state machine."""

    is_silent = False
    _owner = 0

    def idle_timer_expired(self) -> bool:
        """Return whether the peer was silent for too long."""
        return self.is_silent

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002
        """Return what waits for the association; nothing can come while it waits itself."""
        return super().receive_pdu(wait=False)

    def send_pdu(self, primitive: Any) -> None:
        """Send a PDU; another thread than the association's own only leaves it to that one."""
        super().send_pdu(primitive)
        if threading.get_ident() == self._owner:
            self.pump()
        else:
            wake(self.socket.socket, socket.SHUT_RD)

    def own(self) -> None:
        """Make the calling thread the one that drives."""
        self._owner = threading.get_ident()

    def pump(self) -> None:
        """Do all that is to be done without anything from the peer."""
        while not self._kill_thread:
            if self.event_queue.empty() and not self._process_recv_primitive():
                return
            self.state_machine.do_action(self.event_queue.get_nowait())

    def raise_event(self, event: str) -> None:
        """Let the state machine act on an event."""
        self.event_queue.put(event)
        self.pump()

    def take(self, pdu: bytes) -> None:
        """Let the state machine act on a whole PDU.

        Raises
        ------
        InvalidPduError
            It cannot be decoded.
        """
        try:
            decoded, event = self._decode_pdu(pdu)
        except MALFORMED as error:
            raise InvalidPduError(f"it cannot be decoded: {error!r}") from error
        self._recv_pdu.put(decoded)
        self.raise_event(event)


class DirectAssociation(Association):  # type: ignore[misc] # as above
    """An association acceptor that runs in the thread that calls `serve`.

    Parameters
    ----------
    ae : ApplicationEntity
        Its time-outs are taken.
    sock : socket.socket
        The connection; it is the caller's to close.
    begin_transfer : callable
        Begins to take its data, once it is accepted.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        sock: socket.socket,
        begin_transfer: BeginTransfer,
    ) -> None:
        super().__init__(ae, "acceptor")
        self.dul = DirectUpperLayer(self)
        # Setting them again hands them on to the timers of the new upper layer.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout
        self._started_dul = True
        bound_waits(sock, min(ae.network_timeout, WAIT_S), SEND_S)
        self._inbox = Inbox(sock)
        self._begin_transfer = begin_transfer
        self.set_socket(DirectSocket(self, sock))

    def serve(self, first_pdu: bytes) -> None:
        """Serve the association from its A-ASSOCIATE-RQ to its end."""
        self.dul.own()
        try:
            self.dul.pump()
            self._guard(self.dul.take, first_pdu)
            self.run_reactor()
            if self.dul.state_machine.current_state == _CLOSING:
                self._linger()
                self.dul.raise_event(_CONNECTION_CLOSED)
        except MALFORMED as error:
            log.warning("a PDU was malformed", address=address_of(self), why=repr(error)[:200])
        finally:
            self._inbox.close()

    def _run_reactor(self) -> None:
        """Take what comes until the association is no longer established."""
        dul = self.dul
        transfer = self._begin_transfer(
            self._inbox,
            self._accepted_cx,
            self.requestor.maximum_length or 0,
            dul.socket.send,
        )
        try:
            while dul.state_machine.current_state == _DATA_TRANSFER:
                self._guard(self._receive, transfer)
                # Another thread has left an A-ABORT, or a response could not be sent.
                if dul.to_provider_queue.queue or dul.event_queue.queue:
                    dul.pump()
                if dul.to_user_queue.queue:
                    self._heed()
        finally:
            transfer.close()

    def _guard(self, step: Callable[[Any], None], argument: Any) -> None:
        """Take a step; what is wrong with the peer becomes an event of the state machine."""
        try:
            step(argument)
        except InvalidPduError as error:
            log.warning("a PDU was malformed", address=address_of(self), why=str(error)[:200])
            self.dul.raise_event(_INVALID_PDU)
        except OSError:
            self.dul.pump()  # An A-ABORT of ours comes first.
            if self.dul.state_machine.current_state != _CLOSING:
                self.dul.raise_event(_CONNECTION_CLOSED)

    def _receive(self, transfer: Transfer) -> None:
        """Take what comes, up to a PDU that the state machine has to know."""
        try:
            pdu = transfer.step()
        except SilentError:
            self.dul.is_silent = True
            self.abort(block=False)
            return
        if pdu:
            self.dul.take(pdu)

    def _heed(self) -> None:
        """Act on a release or an abort that the state machine tells of, as pynetdicom does."""
        if self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            evt.trigger(self, evt.EVT_RELEASED, {})
        elif self.acse.is_aborted():
            self.dul.receive_pdu()  # It tells those who want to know.
            self.is_aborted, self.is_established = True, False
            evt.trigger(self, evt.EVT_ABORTED, {})

    def _linger(self) -> None:
        """Let the peer close first, or what was sent last might not reach it (PS3.8 9.2.3).

        A connection that is closed with something unread in it is reset, on both sides.
        """
        deadline = time.monotonic() + LINGER_S
        left = LINGER_BYTES_MAX
        with suppress(OSError):
            wake(self.dul.socket.socket, socket.SHUT_WR)
            while left > 0:
                left -= len(self._inbox.some(BUFFER_BYTES, deadline))
