"""Multi-frame CT by a real sender, node and PACS: the bones of the single frames it was made of."""

import io
from copy import deepcopy
from pathlib import Path

import pydicom

from tests.acceptance.parts import Node, Orthanc, dcmsend
from tests.anomaly import series_changes as c

KINDS = {
    "single frames": lambda series: series,
    "Legacy Converted Enhanced CT": c.legacy_converted,
    "Enhanced CT": c.enhanced(lambda count: list(range(count))[::-1]),
}


def test_each_kind_gives_the_same_bones(
    node: Node, pacs: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    paths = sorted((shared_data / "tptbox_vertebra" / "dicom").iterdir())
    originals = [pydicom.dcmread(path) for path in paths]
    found = {}
    for number, (kind, change) in enumerate(KINDS.items()):
        series = deepcopy(originals)
        for ds in series:
            ds.StudyInstanceUID = f"2.25.77{number}"
        series = change(series)
        for ds in series:
            ds.SeriesInstanceUID = f"2.25.78{number}"
        folder = tmp_path / str(number)
        folder.mkdir()
        c.write(series, folder)
        dcmsend(folder, node.dicom_port)
        said = node.wait_for(f"2.25.78{number}", "done", "failed", "rejected")
        assert said["status"] == "done", (kind, said["reason"])
        [held] = pacs.find(Modality="SEG", StudyInstanceUID=f"2.25.77{number}")
        seg = pydicom.dcmread(io.BytesIO(pacs.file(held["ID"])))
        found[kind] = (
            seg.NumberOfFrames,
            bytes(seg.PixelData),
            [segment["volume_ml"] for segment in said["segments"]],
        )
    assert found["Legacy Converted Enhanced CT"] == found["single frames"]
    assert found["Enhanced CT"] == found["single frames"]
