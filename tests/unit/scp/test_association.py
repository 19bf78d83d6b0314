"""What the room relies on in pynetdicom beyond its documentation.

A failure here means that a new release has moved something; see ``osteon/scp/association.py``.
"""

import socket
from collections.abc import Iterator

import pytest
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AddressInformation

from osteon.scp.association import (
    COMMAND_BYTES_MAX,
    PENDING_MAX,
    BoundedMessages,
    UpperLayer,
    build_association,
)
from tests.dicom_peer import CT, store_request

LIMIT = 1000


@pytest.fixture
def assoc() -> Iterator[Association]:
    near, far = socket.socketpair()
    with near, far:
        ae = ApplicationEntity("OSTEON")
        ae.acse_timeout, ae.network_timeout, ae.maximum_pdu_size = 7, 77, 4096
        loopback = AddressInformation("127.0.0.1", 104)
        yield build_association(
            ae, near, b"", local=loopback, remote=loopback, instance_bytes_max=LIMIT, handlers=()
        )


def fragments(*pairs: tuple[int, bytes]) -> P_DATA:
    primitive = P_DATA()
    primitive.presentation_data_value_list = [
        [1, bytes([control]) + data] for control, data in pairs
    ]
    return primitive


def test_an_association_works_with_our_upper_layer_and_messages(assoc: Association) -> None:
    assert isinstance(assoc.dul, UpperLayer)
    assert isinstance(assoc.dimse, BoundedMessages)
    assert assoc.acse.dul is assoc.dul
    assert assoc.dimse.dul is assoc.dul
    assert assoc.dul.socket.socket is not None
    assert assoc.dul.event_queue.get_nowait() == "Evt5"  # Transport connection indication


def test_time_outs_and_lengths_reach_the_association(assoc: Association) -> None:
    assert assoc.dul.artim_timer.timeout == 7
    assert assoc.acse.acse_timeout == 7
    assert assoc.network_timeout == 77
    assert assoc.dul.network_timeout == 77
    assert assoc.acceptor.maximum_length == 4096


def test_a_message_is_assembled_from_fragments(assoc: Association) -> None:
    command = store_request(CT, "1.2.3")

    assoc.dimse.receive_primitive(fragments((1, command[:50]), (3, command[50:]), (0, b"abc")))
    assoc.dimse.receive_primitive(fragments((2, b"def")))

    context_id, message = assoc.dimse.get_msg(block=False)
    assert context_id == 1
    assert message.AffectedSOPInstanceUID == "1.2.3"
    assert message.DataSet.getvalue() == b"abcdef"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 50 * LIMIT])
def test_one_byte_over_the_limit_is_held_and_no_more(assoc: Association, size: int) -> None:
    assoc.dimse.receive_primitive(fragments((3, store_request(CT, "1.2.3"))))
    for at in range(0, size, 300):
        last = 2 if at + 300 >= size else 0
        assoc.dimse.receive_primitive(fragments((last, b"x" * min(300, size - at))))

    _, message = assoc.dimse.get_msg(block=False)
    assert len(message.DataSet.getvalue()) == min(size, LIMIT + 1)


def test_the_limit_is_one_of_each_message(assoc: Association) -> None:
    for _ in range(3):
        assoc.dimse.receive_primitive(fragments((3, store_request(CT, "1.2.3")), (2, b"x" * LIMIT)))

    held = [assoc.dimse.get_msg(block=False)[1].DataSet.getvalue() for _ in range(3)]
    assert held == [b"x" * LIMIT] * 3


def test_an_endless_command_set_ends_the_association(assoc: Association) -> None:
    assoc.dul.event_queue.get_nowait()
    for _ in range(COMMAND_BYTES_MAX // 1000 + 1):
        assoc.dimse.receive_primitive(fragments((1, b"x" * 1000)))

    assert assoc.dul.event_queue.get_nowait() == "Evt19"  # Invalid PDU, PS3.8 9.2


def test_a_command_set_that_is_none_ends_the_association(assoc: Association) -> None:
    assoc.dul.event_queue.get_nowait()

    assoc.dimse.receive_primitive(fragments((3, b"garbage!")))

    assert assoc.dul.event_queue.get_nowait() == "Evt19"


def test_messages_that_nobody_waits_for_are_not_piled_up(assoc: Association) -> None:
    assoc.dul.event_queue.get_nowait()
    for _ in range(PENDING_MAX):
        assoc.dimse.receive_primitive(fragments((3, store_request(CT, "1.2.3")), (2, b"x")))
    assert assoc.dul.event_queue.empty()

    assoc.dimse.receive_primitive(fragments((3, store_request(CT, "1.2.3")), (2, b"x")))

    assert assoc.dul.event_queue.get_nowait() == "Evt19"
    assert assoc.dimse.msg_queue.qsize() == PENDING_MAX
