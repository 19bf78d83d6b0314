"""The stand-in PACS stops without breaking an association that is about to end."""

import socket
import time
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import Verification

from osteon.results.pacs import StandInPacs
from tests.dicom_peer import associate_request

A_ASSOCIATE_RJ = 0x03


def _take_long(_: evt.Event) -> None:
    """Leave the reactor no time to close the connection before the stand-in stops."""
    time.sleep(0.2)


def test_it_waits_until_a_rejected_association_is_over(tmp_path: Path) -> None:
    """An abort of what was rejected is an error of the state machine, in the reactor's thread."""
    contexts = [(Verification, ExplicitVRLittleEndian)]
    with StandInPacs(tmp_path) as pacs:
        pacs._server.bind(evt.EVT_PDU_SENT, _take_long)
        with socket.create_connection(("127.0.0.1", pacs.port), timeout=10) as peer:
            peer.sendall(associate_request(contexts, "CT", "OTHER"))
            assert peer.recv(64)[0] == A_ASSOCIATE_RJ
