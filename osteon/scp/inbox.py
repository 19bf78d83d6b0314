"""What a peer sends, read into a buffer that is used again and again, or where it shall stay.

A connected socket enters; views of the buffer, or filled memory of the caller's, leave. Where much
is due it goes straight to the caller's memory, and by the same system call a little of what is
behind it to the buffer. Used by ``transfer.py`` and ``direct.py``.
"""

import mmap
import socket
import ssl
import time
from contextlib import suppress

from osteon.scp.transport import QUICKACK

BUFFER_BYTES = 2**18  # Two PDUs of the usual length; what fits into the processor's cache is fast.
# A large piece is worth a system call of its own, by which so much of what is behind it is read as
# well, and copied then.
LARGE_BYTES, AHEAD_BYTES = 2**15, 2**12


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
        self._scatters = not isinstance(sock, ssl.SSLSocket)

    def close(self) -> None:
        """Give the memory back now, since the collector of garbage does not see how much it is."""
        self._view.release()
        with suppress(BufferError):  # A traceback may hold a view.
            self._buffer.close()

    def wait(self, deadline: float) -> None:
        """Wait for the first byte of what comes next; errors as in `some`."""
        if self._low == self._high:
            self._receive(deadline, AHEAD_BYTES)

    def take(self, count: int, deadline: float) -> memoryview:
        """Return exactly so many bytes, at most `BUFFER_BYTES`; errors as in `some`."""
        while self._high - self._low < count:
            if self._low + count > BUFFER_BYTES:
                held = self._high - self._low
                self._view[:held] = bytes(self._view[self._low : self._high])
                self._low, self._high = 0, held
            self._receive(deadline, max(AHEAD_BYTES, count))
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

    def fill(self, room: memoryview, deadline: float) -> int:
        """Put the next bytes into the caller's memory and return how many; errors as in `some`."""
        held = self._high - self._low
        if held:
            count = min(held, len(room))
            room[:count] = self._view[self._low : self._low + count]
            self._low += count
            return count
        ahead = AHEAD_BYTES if len(room) >= LARGE_BYTES else BUFFER_BYTES
        received = self._receive_into([room, self._view[:ahead]], deadline)
        count = min(received, len(room))
        self._low, self._high = 0, received - count
        return count

    def _receive(self, deadline: float, count_max: int = BUFFER_BYTES) -> None:
        if self._low == self._high:
            self._low = self._high = 0
        room = self._view[self._high : self._high + count_max]
        self._high += self._receive_into([room], deadline)

    def _receive_into(self, rooms: list[memoryview], deadline: float) -> int:
        while True:
            try:
                if len(rooms) == 1 or not self._scatters:
                    received = self._sock.recv_into(rooms[0])
                else:
                    received = self._sock.recvmsg_into(rooms)[0]
                break
            except (BlockingIOError, TimeoutError):
                if time.monotonic() > deadline:
                    raise TimeoutError("nothing came in time") from None
        if not received:
            raise ConnectionError("the peer has closed the connection")
        if QUICKACK is not None:
            # Senders with Nagle's algorithm on wait for this ACK; the kernel forgets the option.
            self._sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        if time.monotonic() > deadline:
            raise TimeoutError("what came came too slowly")
        return received
