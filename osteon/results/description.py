"""How highdicom is asked to describe a Segmentation: the only place that calls it.

Frame headers, segments and what is where enter; a data set with every functional group leaves,
still without its true references, matrix and Pixel Data. Called by the encoder, which puts them
in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as CodedEntry
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from osteon.errors import EncodingError
from osteon.results.segment import Code, Segment
from osteon.results.source import FrameHeader
from osteon.results.uids import derive_uid

MANUFACTURER = "Osteon"
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

_TYPE_2 = (  # highdicom asks for these; the encoder puts in their cleaned values
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


@dataclass(frozen=True)
class Algorithm:
    """Which algorithm made the segments (PS3.3 10.16).

    Attributes
    ----------
    name, version : str
        At most 64 characters each.
    digest : str
        SHA-256 of the weights or parameters, in hexadecimal.
    family : Code
        A code of CID 7162 "Surface Processing Algorithm Family".
    """

    name: str
    version: str
    digest: str
    family: Code = ARTIFICIAL_INTELLIGENCE


@dataclass(frozen=True)
class Naming:
    """How the result is called: its UIDs, number, texts and time."""

    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
    series_description: str
    content_label: str
    content_at: datetime


def describe(
    headers: Sequence[FrameHeader],
    equipment: Dataset,
    found: NDArray[np.bool_],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    naming: Naming,
) -> Dataset:
    """Describe a BINARY Segmentation, frame by frame.

    highdicom compares every slice with every segment number, which for a hundred bones takes
    longer than all else. It is given a stand-in of one row, in which voxel n of a slice says
    whether segment n is there. Each source frame is named by its slice index, so that the caller
    can tell which slice a frame shows; it replaces the index by the true reference.

    Parameters
    ----------
    headers : sequence of FrameHeader
        One per slice, in slice order.
    equipment : Dataset
        What acquired the source.
    found : ndarray of bool, shape (slices, segments)
        Which segment has voxels in which slice.
    segments : sequence of Segment
        Numbered 1..n in this order.
    algorithm : Algorithm
        What made them.
    naming : Naming
        How the result is called.

    Returns
    -------
    Dataset
        With file meta information, Explicit VR Little Endian.

    Raises
    ------
    EncodingError
        highdicom refused a value.
    """
    numbers = np.arange(1, len(segments) + 1, dtype=np.uint16)
    at = naming.content_at
    try:
        segmentation = hd.seg.Segmentation(
            source_images=_stand_ins(headers, equipment, len(segments)),
            pixel_array=(found * numbers)[:, np.newaxis, :],
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_segment_descriptions(
                segments, algorithm, naming.sop_instance_uid
            ),
            sop_instance_uid=naming.sop_instance_uid,
            series_instance_uid=naming.series_instance_uid,
            series_number=naming.series_number,
            series_description=naming.series_description,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=(version("osteon"), algorithm.version),
            device_serial_number=algorithm.digest,
            content_label=naming.content_label,
            content_description=naming.series_description,
            content_creator_name=f"{MANUFACTURER}^",
            content_date=at.date(),
            content_time=at.time(),
            contributing_equipment=[_this_equipment(algorithm, at)],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=True,
            specific_character_set=None,
        )
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise EncodingError(f"the Segmentation cannot be described: {error}") from error
    dataset = Dataset(segmentation)
    dataset.preamble = segmentation.preamble
    dataset.file_meta = FileMetaDataset(segmentation.file_meta)
    return dataset


def _stand_ins(
    headers: Sequence[FrameHeader], equipment: Dataset, segment_count: int
) -> list[Dataset]:
    """Describe the source to highdicom: one clean single-frame instance per slice."""
    gap_mm = _slice_gap_mm(headers)
    planes = []
    for index, header in enumerate(headers):
        plane = Dataset()
        plane.SOPClassUID = CTImageStorage
        plane.SOPInstanceUID = str(index)
        plane.StudyInstanceUID = header.study_instance_uid
        plane.SeriesInstanceUID = header.series_instance_uid
        plane.FrameOfReferenceUID = header.frame_of_reference_uid
        plane.Modality = "CT"
        plane.Rows, plane.Columns = 1, segment_count
        plane.ImagePositionPatient = list(header.position_mm)
        plane.ImageOrientationPatient = list(headers[0].orientation)
        plane.PixelSpacing = list(headers[0].spacing_mm)
        plane.SliceThickness = headers[0].thickness_mm or gap_mm
        plane.SpacingBetweenSlices = gap_mm
        planes.append(plane)
    for keyword in _TYPE_2:
        setattr(planes[0], keyword, None)
    planes[0].update(equipment)
    return planes


def _slice_gap_mm(headers: Sequence[FrameHeader]) -> float | None:
    """Distance between slices along their normal, where it is the same throughout."""
    normal = np.cross(headers[0].orientation[:3], headers[0].orientation[3:])
    gaps = np.abs(np.diff([np.dot(header.position_mm, normal) for header in headers]))
    if gaps.size == 0 or np.ptp(gaps) > 0.01:
        return None
    return float(np.median(gaps))


def _segment_descriptions(
    segments: Sequence[Segment], algorithm: Algorithm, sop_instance_uid: str
) -> list[Dataset]:
    """Describe each segment (PS3.3 C.8.20.4), traceable by a UID of its own."""
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=_coded(algorithm.family),
        version=algorithm.version,
        source=MANUFACTURER,
        parameters={"sha256": algorithm.digest},
    )
    descriptions = []
    for segment in segments:
        description = hd.seg.SegmentDescription(
            segment_number=segment.number,
            segment_label=segment.label[:64],
            segmented_property_category=_coded(segment.category),
            segmented_property_type=_coded(segment.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
            tracking_id=segment.label[:64],
            tracking_uid=derive_uid("tracking", sop_instance_uid, str(segment.number)),
            display_color=hd.color.CIELabColor.from_rgb(*segment.rgb),
        )
        description.SegmentDescription = f"{segment.volume_ml:.1f} ml"
        if segment.modifier is not None:
            modifier = hd.sr.CodedConcept.from_code(_coded(segment.modifier))
            segmented = description.SegmentedPropertyTypeCodeSequence[0]
            segmented.SegmentedPropertyTypeModifierCodeSequence = [modifier]
        descriptions.append(description)
    return descriptions


def _coded(code: Code) -> CodedEntry:
    """Return the code as pydicom and highdicom know it."""
    return CodedEntry(code.value, code.scheme, code.meaning)


def _this_equipment(algorithm: Algorithm, at: datetime) -> Dataset:
    """Name Osteon among the equipment that contributed (PS3.3 C.12.1.1.5)."""
    equipment: Dataset = hd.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=algorithm.name,
        software_versions=(version("osteon"), algorithm.version),
        contribution_datetime=at.replace(tzinfo=None),
        contribution_description="Segmentation of bone",
    )
    return equipment
