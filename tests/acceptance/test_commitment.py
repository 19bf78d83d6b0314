"""Storage commitment with Orthanc, both ways: each stores in the other, asks, and is told."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from osteon.config.settings import DestinationSettings
from osteon.errors import DeliveryError
from osteon.pipeline.delivery import peer_of
from osteon.pipeline.proof import COMMITTED, Prover
from osteon.results.scu import store
from tests.acceptance.parts import Orthanc
from tests.dicom_peer import CT, ct_slice, loopback_settings
from tests.integration.test_commitment import committing_node, receive_role
from tests.tools import free_port, wait_until


def ct_file(number: int) -> Dataset:
    """A CT slice that can be saved as a Part 10 file."""
    ds = ct_slice(number)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    """Orthanc, which knows the node as ``osteon`` and is known to it as a source."""
    node_port = free_port()
    with (
        Orthanc(tmp_path / "pacs") as pacs,
        receive_role(tmp_path, node_port, pacs.dicom_port, ae_title="PACS"),
    ):
        peer = {"AET": "OSTEON", "Host": "127.0.0.1", "Port": node_port}
        pacs.http.put("/modalities/osteon", json=peer).raise_for_status()
        yield pacs


def test_orthanc_is_told_what_the_node_holds(pacs: Orthanc) -> None:
    uids = [_sent_on(pacs, number) for number in (1, 2)]

    report = _commit(pacs, uids)

    assert report["Status"] == "Success", report
    assert {one["SOPInstanceUID"] for one in report["Success"]} == set(uids)
    assert report["RemoteAET"] == "OSTEON"


def test_orthanc_is_told_what_the_node_does_not_hold(pacs: Orthanc) -> None:
    held = _sent_on(pacs, 1)

    report = _commit(pacs, [held, "1.2.3.4.5"])

    assert report["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in report["Success"]] == [held]
    [failure] = report["Failures"]
    assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("1.2.3.4.5", 0x0112)


@pytest.mark.parametrize("how", ["auto", "commitment"])
def test_orthanc_keeps_what_the_node_has_sent(tmp_path: Path, how: str) -> None:
    """It answers, and reports on an association of its own to the receiver."""
    settings = loopback_settings(tmp_path / "data")
    with Orthanc(tmp_path / "pacs") as pacs:
        to = DestinationSettings(
            name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.dicom_port, proof=how
        )
        peer = {"AET": "OSTEON", "Host": "127.0.0.1", "Port": settings.scp.port}
        pacs.http.put("/modalities/osteon", json=peer).raise_for_status()
        with committing_node(settings.model_copy(update={"destination": [to]})) as node:
            path = tmp_path / "1.dcm"
            ct_file(1).save_as(path, enforce_file_format=True)
            destination = peer_of(to, "OSTEON")
            with pytest.raises(DeliveryError, match="does not keep it"):
                Prover(node.table).prove(to, destination, path)
            store(destination, [path])
            assert Prover(node.table).prove(to, destination, path) == COMMITTED


def _sent_on(pacs: Orthanc, number: int) -> str:
    """Give Orthanc an instance, let it send it to the node, and return its UID."""
    ds, buffer = ct_file(number), BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    created = pacs.http.post("/instances", content=buffer.getvalue()).raise_for_status().json()
    pacs.http.post("/modalities/osteon/store", json=[created["ID"]]).raise_for_status()
    return str(ds.SOPInstanceUID)


def _commit(pacs: Orthanc, uids: list[str]) -> dict[str, Any]:
    """Let Orthanc ask for storage commitment and return what it was told."""
    wanted = [{"SOPClassUID": CT, "SOPInstanceUID": uid} for uid in uids]
    asked = pacs.http.post("/modalities/osteon/storage-commitment", json={"DicomInstances": wanted})
    path = asked.raise_for_status().json()["Path"]
    return wait_until(lambda: _told(pacs, path))


def _told(pacs: Orthanc, path: str) -> dict[str, Any]:
    report = dict(pacs.http.get(path).raise_for_status().json())
    return report if report["Status"] != "Pending" else {}
