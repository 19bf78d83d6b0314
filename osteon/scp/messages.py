"""DIMSE messages of one association, put together from fragments and answered.

Fragments enter in the order in which they come; the bytes of a response leave. C-STORE and C-ECHO
are what the accepted contexts allow; any other request is answered as unrecognized. Used by
``direct.py``; the data of a C-STORE goes on as it comes, so the size of a message costs no memory.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from pydicom.uid import UID
from pynetdicom.sop_class import Verification

from osteon.scp.command import (
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND_BYTES_MAX,
    Command,
    InvalidPduError,
    decode_command,
    encode_response,
    to_pdus,
)
from osteon.scp.store import Answer, Reception

SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.5.6
UNRECOGNIZED_OPERATION = 0x0211  # PS3.7 C.5.23
DROPPED_BYTES_MAX = 64 * 2**20  # Of a data set that nobody asked for, or that is too long.
_COMMAND, _LAST = 1, 2  # Bits of the message control header, PS3.8 E.2


class Context(Protocol):
    """An accepted presentation context, as pynetdicom has it."""

    abstract_syntax: UID
    transfer_syntax: list[UID]


class Pieces(Protocol):
    """Where the bytes of a fragment come from; see `Inbox`."""

    def some(self, count: int, deadline: float) -> memoryview:
        """Return the next bytes."""

    def fill(self, room: memoryview, deadline: float) -> int:
        """Put the next bytes there and return how many."""


BeginStore = Callable[[Command, str], Reception]
CountStore = Callable[[Answer], None]


class Messages:
    """Take fragments, answer whole messages.

    Parameters
    ----------
    contexts : mapping of int to Context
        The accepted presentation contexts by their id.
    begin_store : callable
        Begins the reception of an instance: the command and its transfer syntax are given.
    count_store : callable
        Told of the answer to each C-STORE-RQ.
    pdu_bytes_max : int
        The longest PDU that the peer takes; 0 where it does not care.
    instance_bytes_max : int
        A data set that is longer is refused, and one that has no end ends the association.
    """

    def __init__(
        self,
        contexts: Mapping[int, Context],
        begin_store: BeginStore,
        count_store: CountStore,
        *,
        pdu_bytes_max: int,
        instance_bytes_max: int,
    ) -> None:
        self._contexts = contexts
        self._begin_store = begin_store
        self._count_store = count_store
        self._pdu_bytes_max = pdu_bytes_max
        self._data_bytes_max = instance_bytes_max + DROPPED_BYTES_MAX
        self._context_id: int | None = None
        self._raw_command = bytearray()
        self._command: Command | None = None
        self._reception: Reception | None = None
        self._left = 0

    def fragment(
        self, context_id: int, control: int, count: int, pieces: Pieces, deadline: float
    ) -> bytes:
        """Take a fragment and return the PDUs of a response, or nothing.

        Parameters
        ----------
        context_id, control, count : int
            Presentation context id, message control header and length of the fragment.

        Raises
        ------
        InvalidPduError
            It does not belong here, or more comes than any message may have.
        OSError
            As `Inbox.some`.

        References
        ----------
        DICOM PS3.8 E
        """
        if self._context_id is None and context_id in self._contexts:
            self._context_id = context_id
        if context_id != self._context_id:
            raise InvalidPduError(f"a fragment of context {context_id}, which is not open here")
        if bool(control & _COMMAND) != (self._command is None):
            raise InvalidPduError("a command set or data set where the other is due")
        take = self._take_command if self._command is None else self._take_data
        while count:
            count -= take(count, pieces, deadline)
        if not control & _LAST:
            return b""
        return self._end_data() if self._command is not None else self._end_command()

    def drop(self) -> None:
        """Forget a message that will not come to its end."""
        if self._reception is not None:
            self._reception.drop()
        self._context_id = self._command = self._reception = None
        self._raw_command.clear()

    def _take_command(self, count: int, pieces: Pieces, deadline: float) -> int:
        part = pieces.some(count, deadline)
        self._raw_command += part
        if len(self._raw_command) > COMMAND_BYTES_MAX:
            raise InvalidPduError(f"a command set of more than {COMMAND_BYTES_MAX} bytes")
        return len(part)

    def _take_data(self, count: int, pieces: Pieces, deadline: float) -> int:
        reception = self._reception
        room = None if reception is None else reception.room(count)
        count = len(pieces.some(count, deadline)) if room is None else pieces.fill(room, deadline)
        self._left -= count
        if self._left < 0:
            raise InvalidPduError("a data set without an end")
        if reception is not None and room is not None:
            reception.filled(room[:count])
        return count

    def _end_command(self) -> bytes:
        assert self._context_id is not None
        command = decode_command(self._raw_command)
        self._raw_command.clear()
        self._command, self._left = command, DROPPED_BYTES_MAX
        context = self._contexts[self._context_id]
        if command.field == C_STORE_RQ and context.abstract_syntax != Verification:
            self._left = self._data_bytes_max
            self._reception = self._begin_store(command, str(context.transfer_syntax[0]))
        return b"" if command.has_data_set else self._end_data()

    def _end_data(self) -> bytes:
        assert self._command is not None
        assert self._context_id is not None
        command, context_id = self._command, self._context_id
        if self._reception is not None:
            answer = self._reception.finish()
            self._count_store(answer)
        else:
            answer = Answer(self._status_of(command, self._contexts[context_id]))
        self.drop()
        if not command.is_request:
            return b""
        response = encode_response(command, answer.status, answer.comment)
        return to_pdus(context_id, response, self._pdu_bytes_max)

    def _status_of(self, command: Command, context: Context) -> int:
        """Return the status of a request that is no storing."""
        if command.field not in {C_STORE_RQ, C_ECHO_RQ}:
            return UNRECOGNIZED_OPERATION
        is_echo = command.field == C_ECHO_RQ and context.abstract_syntax == Verification
        return SUCCESS if is_echo else SOP_CLASS_NOT_SUPPORTED
