"""What the direct way relies on in pynetdicom beyond its documentation.

A failure here means that a new release has moved something; see ``osteon/scp/direct.py``.
"""

import inspect
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pynetdicom import fsm
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE
from pynetdicom.presentation import build_context
from pynetdicom.transport import AddressInformation

from osteon.pipeline.table.reception import Origin
from osteon.scp.association import introduce
from osteon.scp.direct import DirectAssociation
from osteon.scp.haul import Haul
from osteon.scp.transfer import OwnTransfer
from tests.dicom_peer import CT, EXPLICIT, associate_request
from tests.tools import wait_until

RELEASE = bytes.fromhex("05000000000400000000")
ABORT = bytes.fromhex("07000000000400000000")


class Served:
    """An association that is served in a thread, and the peer's end of it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.far = socket.create_connection(server.getsockname(), timeout=5)
            self.near, _ = server.accept()
        ae = ApplicationEntity("OSTEON")
        ae.acse_timeout, ae.network_timeout, ae.maximum_pdu_size = 7, 77, 4096
        self.assoc = DirectAssociation(
            ae,
            self.near,
            self._begin,
        )
        loopback = AddressInformation("127.0.0.1", 104)
        introduce(self.assoc, local=loopback, remote=loopback, handlers=())
        self.assoc.acceptor.supported_contexts = [build_context(CT, EXPLICIT)]
        request = associate_request([(CT, EXPLICIT)], "RAW", "OSTEON")
        self.thread = threading.Thread(target=self.assoc.serve, args=(request,))
        self.thread.start()

    def _begin(self, inbox: Any, contexts: Any, pdu_bytes_max: int, send: Any) -> OwnTransfer:
        haul = Haul(None, Origin("RAW", "OSTEON", "127.0.0.1"), 1000)  # type: ignore[arg-type] # nothing is stored
        return OwnTransfer(
            inbox,
            contexts,
            send,
            haul,
            pdu_bytes_max=pdu_bytes_max,
            instance_bytes_max=1000,
            idle_s=self.assoc.network_timeout,
        )

    def end(self) -> None:
        self.far.close()
        self.thread.join(5)
        self.near.close()
        assert not self.thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.end()


def test_it_negotiates_and_serves_without_a_thread_of_pynetdicom(served: Served) -> None:
    assert served.far.recv(1000)[:1] == b"\x02"  # A-ASSOCIATE-AC
    wait_until(lambda: served.assoc.is_established)
    assert set(served.assoc._accepted_cx) == {1}
    assert served.assoc.requestor.maximum_length == 16384
    assert served.assoc.dul.state_machine.current_state == "Sta6"
    assert not served.assoc.dul.is_alive()
    assert not served.assoc.is_alive()


def test_time_outs_reach_the_upper_layer(served: Served) -> None:
    assert served.assoc.dul.artim_timer.timeout == 7
    assert served.assoc.network_timeout == 77
    assert served.assoc.acceptor.maximum_length == 4096


def test_a_release_is_answered_and_ends_it(served: Served) -> None:
    served.far.recv(1000)
    served.far.sendall(RELEASE)

    assert served.far.recv(1000) == bytes.fromhex("06000000000400000000")
    assert served.far.recv(1) == b""
    served.far.close()
    served.thread.join(5)
    assert served.assoc.is_released
    assert served.assoc.dul.state_machine.current_state == "Sta1"


def test_an_abort_of_the_peer_ends_it(served: Served) -> None:
    served.far.recv(1000)
    served.far.sendall(ABORT)
    served.thread.join(5)

    assert served.assoc.is_aborted
    assert served.assoc.dul.state_machine.current_state == "Sta1"


def test_another_thread_aborts_it(served: Served) -> None:
    served.far.recv(1000)
    served.assoc.abort(block=False)

    assert served.far.recv(1000)[:1] == b"\x07"
    served.far.close()
    served.thread.join(5)
    assert served.assoc.is_aborted


def test_a_closed_connection_ends_it(served: Served) -> None:
    served.far.recv(1000)
    served.far.close()
    served.thread.join(5)

    assert served.assoc.is_aborted  # An A-P-ABORT, PS3.8 9.2 AA-4.


@pytest.mark.parametrize(
    ("event", "state", "action"),
    [
        ("Evt17", "Sta6", "AA-4"),
        ("Evt19", "Sta6", "AA-8"),
        ("Evt19", "Sta2", "AA-1"),
        ("Evt12", "Sta6", "AR-2"),
        ("Evt14", "Sta8", "AR-4"),
        ("Evt15", "Sta6", "AA-1"),
        ("Evt17", "Sta13", "AR-5"),
    ],
)
def test_the_state_machine_is_that_of_the_standard(event: str, state: str, action: str) -> None:
    assert fsm.TRANSITION_TABLE[event, state] == action


def test_what_is_called_and_overridden_is_there() -> None:
    assert "_started_dul" in inspect.getsource(Association.run_reactor)
    assert "self._run_reactor()" in inspect.getsource(Association.run_reactor)
    assert list(inspect.signature(DULServiceProvider.receive_pdu).parameters) == [
        "self",
        "wait",
        "timeout",
    ]
    for name in ("_process_recv_primitive", "_decode_pdu", "send_pdu", "idle_timer_expired"):
        assert callable(getattr(DULServiceProvider, name))
    for primitive in (A_RELEASE, A_ABORT, A_P_ABORT):
        assert primitive.__name__ in inspect.getsource(DULServiceProvider)
