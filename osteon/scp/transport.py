"""PDUs over TCP, with a limit on their length and a deadline on each.

A connected socket enters, whole PDUs leave; used by the listener for the A-ASSOCIATE-RQ and by the
upper layer for everything after it.
"""

import socket
import ssl
import struct
import time
from contextlib import suppress

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

HEADER_BYTES = 6  # PS3.8 9.3.1
PDU_BYTES_MAX = 2**20  # Some senders ignore the length that was negotiated, but not by this much.
PDU_DEADLINE_S = 30.0  # From the first byte of a PDU to its last, at 128 KiB: 35 kbit/s.
# A-ABORT by the service provider: invalid PDU parameter value, PS3.8 Table 9-26
_ABORT = struct.pack(">BxIxxBB", 7, 4, 2, 6)
_CLOSING = "Sta13"  # Awaiting the end of the connection, PS3.8 9.2.1: nothing else matters then.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


def tune(sock: socket.socket) -> None:
    """Let small answers leave at once instead of waiting for the peer's delayed ACK."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def bound_waits(sock: socket.socket, receive_s: float, send_s: float) -> None:
    """Bound each wait for the peer; what ends one is BlockingIOError or TimeoutError.

    The kernel does so where it can: Python's own time-out costs a second system call a read. TLS
    needs that, and has only one for both ways.
    """
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(receive_s)
        return
    sock.settimeout(None)
    for option, wait_s in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        microseconds = max(1, round(wait_s * 1_000_000))  # 0 would be for ever.
        interval = struct.pack("@ll", *divmod(microseconds, 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, option, interval)


def receive_exactly(sock: socket.socket, count: int, deadline: float) -> bytearray:
    """Read so many bytes, or fewer where the peer closes the connection.

    Parameters
    ----------
    sock : socket.socket
        Its time-out bounds each wait for more.
    deadline : float
        Value of ``time.monotonic()`` after which a trickling peer is given up.

    Raises
    ------
    TimeoutError
        The peer sends too slowly.
    OSError
        The connection is lost.
    """
    data = bytearray(count)
    held = 0
    with memoryview(data) as view:
        while held < count:
            received = sock.recv_into(view[held:])
            if not received:
                break
            held += received
            if QUICKACK is not None:
                # Senders with Nagle's algorithm on wait for this ACK; the kernel forgets the
                # option, so it is set again after each read.
                sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
            if held < count and time.monotonic() > deadline:
                raise TimeoutError(f"{held} of {count} bytes came in time")
    del data[held:]
    return data


def wake(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    """End a connection, or one way of it, that another thread may read from and will close."""
    with suppress(OSError):
        # The method of TLS sockets would pull the session from under the reading thread.
        socket.socket.shutdown(sock, how)


def close_socket(sock: socket.socket) -> None:
    """Close a connection, whatever state it is in; blocked readers of it wake up."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class PduSocket(AssociationSocket):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """The socket of one association, whose A-ASSOCIATE-RQ has been read already.

    Parameters
    ----------
    assoc : Association
        The association it serves.
    sock : socket.socket
        The connection.
    first_pdu : bytes
        The A-ASSOCIATE-RQ; the upper layer reads it first.
    """

    def __init__(self, assoc: Association, sock: socket.socket, first_pdu: bytes) -> None:
        self._ahead = bytearray(first_pdu)
        sock.settimeout(PDU_DEADLINE_S)
        super().__init__(assoc, client_socket=sock)

    @property
    def ready(self) -> bool:
        """Whether something can be read now."""
        return bool(self._ahead) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, or fewer where the connection ends.

        Raises
        ------
        OSError
            The PDU is longer than any peer may send, or did not come in time.
        """
        if self._ahead:
            data = self._ahead[:nr_bytes]
            del self._ahead[:nr_bytes]
            return data
        if self.socket is None or self.assoc.dul.state_machine.current_state == _CLOSING:
            raise ConnectionError("the association is over")
        if nr_bytes > PDU_BYTES_MAX:
            self.socket.sendall(_ABORT)
            raise ConnectionError(f"a PDU of {nr_bytes} bytes: at most {PDU_BYTES_MAX} are taken")
        return receive_exactly(self.socket, nr_bytes, time.monotonic() + PDU_DEADLINE_S)
