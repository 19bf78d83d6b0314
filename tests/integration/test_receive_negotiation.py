"""What is negotiated, C-ECHO, and the log of associations."""

import subprocess
from pathlib import Path

import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
)
from pynetdicom import AE
from structlog.testing import capture_logs

from tests.dicom_peer import (
    CT,
    EXPLICIT,
    VERIFICATION,
    Node,
    RawPeer,
    ct_slice,
    encoded,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
    running_node,
)
from tests.tools import require_tool, wait_until


def _negotiated(node: Node, proposed: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    ae = AE("SCU")
    for abstract, syntaxes in proposed:
        ae.add_requested_context(abstract, syntaxes)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEON")
    try:
        found: dict[str, list[str]] = {}
        for context in assoc.accepted_contexts:
            found.setdefault(str(context.abstract_syntax), []).extend(context.transfer_syntax)
        return found
    finally:
        assoc.release()


def test_explicit_little_endian_is_chosen_where_it_is_offered(node: Node) -> None:
    offered = [JPEGBaseline8Bit, JPEGLosslessSV1, ImplicitVRLittleEndian, ExplicitVRBigEndian]

    assert _negotiated(node, [(CT, [*offered, ExplicitVRLittleEndian])]) == {
        CT: [ExplicitVRLittleEndian]
    }
    assert _negotiated(node, [(CT, offered)]) == {CT: [ImplicitVRLittleEndian]}
    assert _negotiated(node, [(CT, offered[:2])]) == {CT: [JPEGLosslessSV1]}


def test_each_context_is_answered_by_itself(node: Node) -> None:
    commitment = "1.2.840.10008.1.20.1"
    negotiated = _negotiated(
        node,
        [
            (VERIFICATION, [ImplicitVRLittleEndian]),
            (CT, [JPEGLosslessSV1]),
            (CT, [ImplicitVRLittleEndian]),
            (commitment, [ImplicitVRLittleEndian]),
            ("1.2.840.10008.5.1.4.1.1.6", [ImplicitVRLittleEndian]),
        ],
    )

    assert negotiated == {
        VERIFICATION: [ImplicitVRLittleEndian],
        CT: [JPEGLosslessSV1, ImplicitVRLittleEndian],
        "1.2.840.10008.5.1.4.1.1.6": [ImplicitVRLittleEndian],
    }


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.2.99",  # not in the dictionary yet
        "1.2.840.113619.4.30",  # private
    ],
)
def test_instances_of_classes_that_pynetdicom_does_not_know_are_stored(
    node: Node, sop_class: str
) -> None:
    ds = ct_slice()
    ds.SOPClassUID = sop_class

    with RawPeer(node.port, [(CT, EXPLICIT), (sop_class, EXPLICIT)]) as peer:
        answer = peer.store(encoded(ds), str(ds.SOPInstanceUID), sop_class=sop_class, context_id=3)

    assert answer == (0x0000, "")
    assert node.datasets() == [encoded(ds)]


def test_the_pdu_length_of_the_settings_is_announced(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path, pdu_bytes=65536)
    with running_node(settings) as node, RawPeer(node.port) as peer:
        assert b"\x51\0\0\x04\0\x01\0\0" in peer.accepted
        assert b"2.25." in peer.accepted


def test_c_echo_is_answered(node: Node) -> None:
    ae = AE("SCU")
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEON")

    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_dcmtk_can_echo(node: Node) -> None:
    echoscu = require_tool("/usr/bin/echoscu")

    subprocess.run([echoscu, "-aec", "OSTEON", "127.0.0.1", str(node.port)], check=True, timeout=20)


def test_every_association_and_its_end_is_on_record(node: Node) -> None:
    with capture_logs() as logs:
        with RawPeer(node.port, calling="A") as peer:
            peer.send_ct(ct_slice())
            peer.release()
        wait_until(lambda: _ended(node) == 1)
        with RawPeer(node.port, calling="B") as peer:
            peer.sock.sendall(bytes.fromhex("07000000000400000000"))  # A-ABORT
            wait_until(lambda: _ended(node) == 2)
        with RawPeer(node.port, calling="C") as peer:
            peer.send_ct(ct_slice())
            peer.sock.close()
            wait_until(lambda: _ended(node) == 3)

    rows = node.table.rows("SELECT * FROM association ORDER BY id")
    assert [(row["calling_ae_title"], row["outcome"]) for row in rows] == [
        ("A", "released"),
        ("B", "aborted by the peer"),
        ("C", "connection lost"),
    ]
    assert {row["cut"] for row in rows} == {0}  # All between two instances.
    assert {(row["called_ae_title"], row["address"]) for row in rows} == {("OSTEON", "127.0.0.1")}
    ends = [line for line in logs if line["event"] == "association ended"]
    assert [(line["calling_ae_title"], line["stored"]) for line in ends] == [
        ("A", 1),
        ("B", 0),
        ("C", 1),
    ]
    assert len(logs) == 3


def _ended(node: Node) -> int:
    rows = node.table.rows("SELECT count(*) AS n FROM association WHERE closed IS NOT NULL")
    return int(rows[0]["n"])


def test_a_silent_association_is_aborted(tmp_path: Path) -> None:
    with running_node(loopback_settings(tmp_path, idle_timeout_s=0.3)) as node:
        with RawPeer(node.port) as peer:
            assert peer.receive()[0] == 7  # A-ABORT
        wait_until(lambda: _ended(node) == 1)
        (row,) = node.table.rows("SELECT outcome FROM association")
        assert row["outcome"] == "aborted: silent for 0.3 s"
