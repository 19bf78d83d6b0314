"""The data of one association: P-DATA-TF PDUs in, responses out, until something else comes.

A connection whose association is accepted enters; instances leave through the messages. The first
PDU of another type leaves whole, for whoever keeps the state machine. Used by ``direct.py`` in the
receiver's own process, and by ``lane.py`` in another.
"""

import struct
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from osteon.scp.command import InvalidPduError
from osteon.scp.haul import Haul
from osteon.scp.inbox import Inbox
from osteon.scp.messages import Context, Messages
from osteon.scp.transport import HEADER_BYTES, PDU_BYTES_MAX, PDU_DEADLINE_S

_CONTROL_BYTES_MAX = 64 * 1024  # Release and abort have 4; nothing else may come after the accept.
_P_DATA_TF = 4  # PS3.8 Table 9-22
_PDU, _PDV = struct.Struct(">BxI"), struct.Struct(">IBB")


class SilentError(Exception):
    """The peer has sent nothing for longer than it may."""


class Transfer(Protocol):
    """The data transfer phase of an association, PS3.8 7.6."""

    def step(self) -> bytes:
        """Take one PDU or more; return the last one where it is no P-DATA-TF.

        Raises
        ------
        SilentError
            Nothing came for ``idle_s``.
        InvalidPduError
            What came breaks PS3.8, or comes too slowly.
        OSError
            The connection is lost.
        """

    def close(self) -> None:
        """Forget a message that will not come to its end."""


BeginTransfer = Callable[[Inbox, Mapping[int, Context], int, Callable[[bytes], None]], Transfer]
"""From what is received, the accepted contexts, the longest PDU that the peer takes, and what
sends a response, to the transfer."""


class OwnTransfer:
    """Takes the data in the thread that calls it.

    Parameters
    ----------
    inbox : Inbox
        What the peer sends.
    contexts : mapping of int to Context
        The accepted presentation contexts by their id.
    send : callable
        Takes the PDUs of a response.
    haul : Haul
        Takes the instances.
    pdu_bytes_max : int
        The longest PDU that the peer takes; 0 where it does not care.
    instance_bytes_max : int
        A longer data set is refused.
    idle_s : float
        How long the peer may be silent.
    """

    def __init__(
        self,
        inbox: Inbox,
        contexts: Mapping[int, Context],
        send: Callable[[bytes], None],
        haul: Haul,
        *,
        pdu_bytes_max: int,
        instance_bytes_max: int,
        idle_s: float,
    ) -> None:
        self._inbox = inbox
        self._send = send
        self._idle_s = idle_s
        self._messages = Messages(
            contexts,
            haul.begin,
            haul.count,
            pdu_bytes_max=pdu_bytes_max,
            instance_bytes_max=instance_bytes_max,
        )

    def step(self) -> bytes:
        """Take one PDU, as `Transfer` says."""
        inbox = self._inbox
        try:
            inbox.wait(time.monotonic() + self._idle_s)
        except TimeoutError as error:
            raise SilentError(f"silent for {self._idle_s:g} s") from error
        try:
            deadline = time.monotonic() + PDU_DEADLINE_S
            kind, length = _PDU.unpack(inbox.take(HEADER_BYTES, deadline))
            if kind == _P_DATA_TF:
                self._receive_data(length, deadline)
                return b""
            if length > _CONTROL_BYTES_MAX:
                raise InvalidPduError(f"it is of type {kind:#x} and has {length} bytes")
            return _PDU.pack(kind, length) + inbox.take(length, deadline)
        except TimeoutError as error:
            raise InvalidPduError(f"it did not come in {PDU_DEADLINE_S:g} s") from error

    def close(self) -> None:
        """Forget a message that will not come to its end."""
        self._messages.drop()

    def _receive_data(self, length: int, deadline: float) -> None:
        """Take the fragments of a P-DATA-TF PDU (PS3.8 9.3.5)."""
        if not _PDV.size <= length <= PDU_BYTES_MAX:
            raise InvalidPduError(f"a P-DATA-TF has {length} bytes: at most {PDU_BYTES_MAX}")
        inbox, messages = self._inbox, self._messages
        while length:
            if length < _PDV.size:
                raise InvalidPduError(f"a P-DATA-TF ends with {length} bytes that are no fragment")
            size, context_id, control = _PDV.unpack(inbox.take(_PDV.size, deadline))
            length -= size + 4
            if size < 2 or length < 0:
                raise InvalidPduError(f"a fragment has {size} bytes, its PDU does not")
            response = messages.fragment(context_id, control, size - 2, inbox, deadline)
            if response:
                self._send(response)
