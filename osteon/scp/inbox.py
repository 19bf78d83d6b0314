"""What a peer sends, read in large pieces into one buffer that is used again and again.

A connected socket enters; views of the buffer leave. Nothing is copied but the few bytes of a
header that came in two pieces. Used by ``direct.py``.
"""

import mmap
import socket
import time
from contextlib import suppress

from osteon.scp.transport import QUICKACK

BUFFER_BYTES = 2**18  # Two PDUs of the usual length; what fits into the processor's cache is fast.


class Inbox:
    """The receiving side of a connection.

    Parameters
    ----------
    sock : socket.socket
        The connection; its time-out says how late a deadline may be noticed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
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

    def take(self, count: int, deadline: float) -> memoryview:
        """Return exactly so many bytes, at most `BUFFER_BYTES`; errors as in `some`."""
        while self._high - self._low < count:
            if self._low + count > BUFFER_BYTES:
                held = self._high - self._low
                self._view[:held] = bytes(self._view[self._low : self._high])
                self._low, self._high = 0, held
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

    def _receive(self, deadline: float) -> None:
        if self._low == self._high:
            self._low = self._high = 0
        while True:
            try:
                received = self._sock.recv_into(self._view[self._high :])
                break
            except (BlockingIOError, TimeoutError):
                if time.monotonic() > deadline:
                    raise TimeoutError("nothing came in time") from None
        if not received:
            raise ConnectionError("the peer has closed the connection")
        self._high += received
        if QUICKACK is not None:
            # Senders with Nagle's algorithm on wait for this ACK; the kernel forgets the option.
            self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        if time.monotonic() > deadline:
            raise TimeoutError("what came came too slowly")
