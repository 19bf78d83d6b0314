"""The listening socket: connections in, connections with a whole A-ASSOCIATE-RQ out.

Until a peer has sent its A-ASSOCIATE-RQ it costs one thread that sleeps, for at most
``scp.acse_timeout_s``, and one of `PENDING_MAX` places. Where none is left, the oldest one of the
address that holds most of them gives way, so that nobody can shut the others out by saying nothing,
nor cut off their handshakes. TLS is spoken in that thread too.
"""

import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from socketserver import BaseServer
from typing import Any

import structlog
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from osteon.scp.transport import HEADER_BYTES, close_socket, receive_exactly, tune, wake

PENDING_MAX = 128
# 128 contexts with 50 transfer syntaxes each are 180 KiB; decoding this much takes half a second.
REQUEST_BYTES_MAX = 256 * 1024
ACCEPT_RETRY_S = 0.05  # Where no file descriptor is left, trying at once would only burn CPU.
_A_ASSOCIATE_RQ = 1  # PS3.8 Table 9-11

Serve = Callable[["AssociationRequest", socket.socket, bytes], None]

log = structlog.get_logger(__name__)


class AssociationRequest(RequestHandler):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """One connection, in a thread of its own, from accept to close."""

    def handle(self) -> None:
        """Read the A-ASSOCIATE-RQ within its deadline and hand it over."""
        listener: Listener = self.server
        sock: socket.socket = self.request
        try:
            deadline = time.monotonic() + listener.request_timeout_s
            tune(sock)
            sock.settimeout(listener.request_timeout_s)
            if listener.tls is not None:
                sock = listener.tls.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                listener.hold(self.client_address, sock)
                sock.do_handshake()
            first_pdu = _read_request(sock, deadline)
            listener.forget(self.client_address)
            if first_pdu:
                listener.serve(self, sock, first_pdu)
        except OSError as error:
            log.info("connection dropped", address=self.client_address[0], why=str(error))
        finally:
            listener.forget(self.client_address)
            close_socket(sock)


class Listener(ThreadedAssociationServer):  # type: ignore[misc] # pynetdicom is not typed for mypy
    """An association server that bounds what silent and slow peers can take.

    Parameters
    ----------
    *args, **kwargs
        Those of `ThreadedAssociationServer`; ``AE.make_server`` gives them.
    serve : callable
        Called with each connection and its A-ASSOCIATE-RQ; returns when the association is over.
    request_timeout_s : float
        From accept to the last byte of the A-ASSOCIATE-RQ.
    tls : ssl.SSLContext or None
        Mutual TLS.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        serve: Serve,
        request_timeout_s: float,
        tls: ssl.SSLContext | None,
        **kwargs: Any,
    ) -> None:
        self.serve = serve
        self.request_timeout_s = request_timeout_s
        self.tls = tls
        self._pending: dict[Any, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection; TLS is left to its own thread."""
        try:
            sock, address = self.socket.accept()
        except OSError:
            time.sleep(ACCEPT_RETRY_S)
            raise
        return sock, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Give the connection a place; a silent one gives way if there is none."""
        self.hold(client_address, request)
        return True

    def hold(self, client_address: Any, sock: socket.socket) -> None:
        """Count a connection among those that have not said what they want."""
        with self._lock:
            self._pending[client_address] = sock
            crowded = len(self._pending) > PENDING_MAX
            silent = self._pending.pop(_least_deserving(self._pending)) if crowded else None
        if silent is not None:
            wake(silent)

    def forget(self, client_address: Any) -> None:
        """Free the place of a connection that has said what it wants, or is gone."""
        with self._lock:
            self._pending.pop(client_address, None)

    def service_actions(self) -> None:
        """Collect no garbage here, which pynetdicom does and which would stall every thread.

        The interpreter's own collection is enough: 600 associations, each with an instance, left
        the process at the same size.
        """

    def shutdown(self) -> None:
        """Stop listening and wake every connection that has not asked for an association."""
        wake(self.socket)  # It sleeps in a wait for connections; it sees that it shall stop.
        BaseServer.shutdown(self)
        self.server_close()
        with self._lock:
            pending = list(self._pending.values())
            self._pending.clear()
        for sock in pending:
            wake(sock)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its signature
        """Log what nobody foresaw; the connection is closed already."""
        log.error("a connection failed", address=client_address[0], exc_info=sys.exc_info())


def _least_deserving(pending: Collection[Any]) -> Any:
    """Return the oldest of the address that holds most places, of connections as they came."""
    held = Counter(host for host, *_ in pending)
    most = max(held.values())
    return next(peer for peer in pending if held[peer[0]] == most)


def _read_request(sock: socket.socket, deadline: float) -> bytes:
    """Return the whole A-ASSOCIATE-RQ, or nothing where the peer only looked whether we listen.

    Anything else than an A-ASSOCIATE-RQ ends the connection (PS3.8 9.2, AA-1 and AA-2).
    """
    header = receive_exactly(sock, HEADER_BYTES, deadline)
    if not header:
        return b""
    if len(header) < HEADER_BYTES:
        raise ConnectionError("it closed before its A-ASSOCIATE-RQ was complete")
    kind, length = struct.unpack(">BxI", header)
    if kind != _A_ASSOCIATE_RQ or length > REQUEST_BYTES_MAX:
        raise ConnectionError(f"it began with a PDU of type {kind:#x} and {length} bytes")
    body = receive_exactly(sock, length, deadline)
    if len(body) < length:
        raise ConnectionError("it closed before its A-ASSOCIATE-RQ was complete")
    return bytes(header + body)
