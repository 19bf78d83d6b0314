"""What a peer sends, read in large pieces into one buffer that is used again and again.

A connected socket enters; views of the buffer leave. Nothing is copied but the few bytes of a
header that came in two pieces. Used by ``direct.py``.
"""

import mmap
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from osteon.scp.transport import QUICKACK

BUFFER_BYTES = 2**20  # A CT slice of 512 by 512 is half of it.


class Inbox:
    """The receiving side of a connection.

    Parameters
    ----------
    sock : socket.socket
        The connection; its time-out says how late a deadline may be noticed.
    before_reuse : callable
        Called before bytes are overwritten that were given away since the last `rewind`.
    while_idle : callable
        Called when nothing has come yet, before it is waited for; never where TLS is spoken.
    """

    def __init__(
        self,
        sock: socket.socket,
        before_reuse: Callable[[], None],
        while_idle: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._before_reuse = before_reuse
        self._while_idle = while_idle
        self._at_once = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_DONTWAIT
        # Anonymous memory costs nothing until it is written to: most associations need little.
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._low = self._high = 0

    def close(self) -> None:
        """Give the memory back now, since the collector of garbage does not see how much it is."""
        self._view.release()
        with suppress(BufferError):  # A traceback may hold a view.
            self._buffer.close()

    def wait(self, deadline: float) -> None:
        """Wait for the first byte of what comes next; errors as in `some`."""
        if self._low == self._high:
            self._receive(deadline)

    def rewind(self) -> None:
        """Begin at the start again, since nothing that was given away is needed any more."""
        if self._low == self._high:
            self._low = self._high = 0

    def take(self, count: int, deadline: float) -> memoryview:
        """Return exactly so many bytes, at most `BUFFER_BYTES`; errors as in `some`."""
        while self._high - self._low < count:
            if self._low + count > BUFFER_BYTES:
                self._reuse()
            self._receive(deadline)
        self._low += count
        return self._view[self._low - count : self._low]

    def some(self, count: int, deadline: float) -> memoryview:
        """Return the next bytes, at least one and at most so many.

        Parameters
        ----------
        deadline : float
            Value of ``time.monotonic()``.

        Raises
        ------
        TimeoutError
            They did not come in time.
        ConnectionError
            The peer has closed the connection.
        OSError
            The connection is lost.
        """
        if self._low == self._high:
            self._receive(deadline)
        low = self._low
        self._low = min(low + count, self._high)
        return self._view[low : self._low]

    def _reuse(self) -> None:
        self._before_reuse()
        held = self._high - self._low
        self._view[:held] = bytes(self._view[self._low : self._high])
        self._low, self._high = 0, held

    def _receive(self, deadline: float) -> None:
        if self._high == BUFFER_BYTES:
            self._reuse()
        flags = self._at_once
        while True:
            try:
                received = self._sock.recv_into(self._view[self._high :], 0, flags)
                break
            except (BlockingIOError, TimeoutError):
                if flags:
                    flags = 0
                    self._while_idle()
                elif time.monotonic() > deadline:
                    raise TimeoutError("nothing came in time") from None
        if not received:
            raise ConnectionError("the peer has closed the connection")
        self._high += received
        if QUICKACK is not None:
            # Senders with Nagle's algorithm on wait for this ACK; the kernel forgets the option.
            self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        if time.monotonic() > deadline:
            raise TimeoutError("what came came too slowly")
