"""The peer of ``route.py``: what one writes beside an Orthanc to get bones back.

An address and a stable series enter; the series is fetched over REST, read with SimpleITK,
run through the same model, encoded with highdicom and stored back, as an instance of the same
study. A fresh process for every series, as the event of a stable series starts it. On standard
output it leaves when each step began and ended, in seconds since 1970, as JSON.

    route_peer.py http://127.0.0.1:8042 ORTHANC_SERIES_ID
"""

import io
import json
import sys
import tempfile
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - as its users call it
from pydicom.sr.codedict import codes

from osteon.pipeline.bones.bone import BoneModel
from osteon.pipeline.boneseg import combine
from osteon.pipeline.images.geometry import Geometry
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import SourceFrame, Volume

STEPS = ("fetch", "prediction", "boneseg", "encode", "deliver")


def main() -> None:
    """Segment one series."""
    address, series = sys.argv[1:]
    marks = [time.time()]
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(_json(f"{address}/series/{series}")["Instances"]):
            path = Path(folder) / f"{number:05}.dcm"
            path.write_bytes(_get(f"{address}/instances/{name}/file"))
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(folder)
        image = sitk.ReadImage(names)
        sources = [pydicom.dcmread(name) for name in names]
        volume = _volume(image, sources, names)
        marks.append(time.time())
        model = BoneModel()
        prediction = predict(model, volume)
        marks.append(time.time())
        labels, segments = combine(model, prediction, volume)
        marks.append(time.time())
        buffer = io.BytesIO()
        _encode(sources, labels, segments).save_as(buffer)
        marks.append(time.time())
    request = urllib.request.Request(f"{address}/instances", buffer.getvalue(), method="POST")
    urllib.request.urlopen(request, timeout=60).read()
    marks.append(time.time())
    print(json.dumps([(name, *span) for name, span in zip(STEPS, pairwise(marks), strict=True)]))


def _volume(image: sitk.Image, sources: list[pydicom.Dataset], names: tuple[str, ...]) -> Volume:
    hu = sitk.GetArrayFromImage(image).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    frames = tuple(
        SourceFrame(Path(name), 1, ds.SOPClassUID, ds.SOPInstanceUID)
        for name, ds in zip(names, sources, strict=True)
    )
    spacing = image.GetSpacing()[::-1]
    geometry = Geometry(affine, hu.shape, spacing, sources[0].FrameOfReferenceUID)
    return Volume(hu, geometry, frames)


def _encode(
    sources: list[pydicom.Dataset], labels: np.ndarray, segments: tuple
) -> hd.seg.Segmentation:
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=segment.number,
            segment_label=segment.label,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                "bone", codes.DCM.ArtificialIntelligence, "1"
            ),
        )
        for segment in segments
    ]
    return hd.seg.Segmentation(
        sources,
        labels,
        hd.seg.SegmentationTypeValues.BINARY,
        descriptions,
        hd.UID(),
        900,
        hd.UID(),
        1,
        "peer",
        "script",
        "1",
        "0",
    )


def _get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read()


def _json(address: str) -> dict:
    return json.loads(_get(address))


if __name__ == "__main__":
    main()
