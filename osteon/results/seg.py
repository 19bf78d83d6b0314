"""The bones as a DICOM Segmentation: labels and their source frames in, a data set out.

Called by the encode stage, which writes the data set with ``write_part10`` and sends it through
the gate. The same arguments always give the same bytes: UIDs are
derived and the only time in the data set is ``content_at``.
"""

import contextlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from osteon.errors import EncodingError
from osteon.results.bits import LabelMap, find_frames, pack
from osteon.results.description import Algorithm, Naming, describe
from osteon.results.identity import Identity, read_identity
from osteon.results.segment import Segment
from osteon.results.source import FrameHeader, SourceFrame, check_grid, read_frame_headers
from osteon.results.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derive_uid

__all__ = ["Algorithm", "encode_segmentation", "write_part10"]

_SEGMENT = "SegmentIdentificationSequence"


def encode_segmentation(
    frames: Sequence[SourceFrame],
    labels_zyx: LabelMap,
    segments: Sequence[Segment],
    *,
    algorithm: Algorithm,
    sop_instance_uid: str,
    series_instance_uid: str,
    content_at: datetime,
    series_number: int = 900,
    series_description: str = "Osteon segmentation",
    content_label: str = "SEGMENTATION",
    headers: Sequence[FrameHeader] | None = None,
) -> Dataset:
    """Encode a label map as one BINARY Segmentation instance.

    Parameters
    ----------
    frames : sequence of SourceFrame
        The source frame of each slice, in slice order.
    labels_zyx : ndarray of uint8 or uint16, shape (slices, rows, columns)
        Label map on the source grid; 0 is background.
    segments : sequence of Segment
        The segments of the label map, numbered 1..n in this order.
    algorithm : Algorithm
        What made the label map.
    sop_instance_uid, series_instance_uid : str
        UIDs of the result; see ``derive_uid``.
    content_at : datetime
        When the result was made; also its creation and series date. With a zone it is
        converted to the zone that the source names, or else to local time.
    series_number : int
        Series Number (0020,0011).
    series_description, content_label : str
        Series Description (LO) and Content Label (CS, at most 16 characters).
    headers : sequence of FrameHeader, optional
        What `read_frame_headers` said of the frames; they are read where it is absent.

    Returns
    -------
    Dataset
        A complete instance with file meta information, Explicit VR Little Endian. Empty frames
        are left out; the others stand by segment, then by position against the slice normal.

    Raises
    ------
    EncodingError
        Labels and frames differ in shape, the segments are not 1..n, one of them has no voxel,
        or the source instances disagree on Frame of Reference, study, series or orientation.

    References
    ----------
    DICOM PS3.3 A.51 (Segmentation IOD); C.8.20.2 (Segmentation Image)
    """
    headers = read_frame_headers(frames) if headers is None else headers
    check_grid(headers, labels_zyx)
    _check_numbers(segments)
    found = find_frames(labels_zyx, len(segments))
    identity = read_identity(frames[0].path, [segment.label for segment in segments])
    at = _in_zone_of(identity, content_at)
    naming = Naming(
        sop_instance_uid, series_instance_uid, series_number, series_description, content_label, at
    )
    # The values below are valid by construction and the identity has been cleaned; pydicom's own
    # check of every value would be the greater part of the time.
    with disable_value_validation():
        dataset = describe(headers, identity.equipment, found, segments, algorithm, naming)
        _make_reproducible(dataset, at)
        _identify(dataset, identity, headers)
        order = _refer(dataset, headers)
    rows, columns = labels_zyx.shape[1:]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelData = pack(labels_zyx, order)
    return dataset


def write_part10(dataset: Dataset, path: Path) -> None:
    """Write an instance so that it is there in full or not at all, even after a power cut.

    Parameters
    ----------
    dataset : Dataset
        An instance with file meta information.
    path : Path
        Where it shall stand; its folder exists.

    Raises
    ------
    OSError
        The disk refused; the worker tells a full one from other failures.

    References
    ----------
    DICOM PS3.10 7.1 (File Meta Information)
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            with disable_value_validation():
                dataset.save_as(file, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _check_numbers(segments: Sequence[Segment]) -> None:
    """Raise unless the segments are numbered 1..n in order (PS3.3 C.8.20.2.1)."""
    numbers = [segment.number for segment in segments]
    if numbers != list(range(1, len(numbers) + 1)):
        raise EncodingError(f"the segments are numbered {numbers[:8]}, not from 1 without gaps")


def _in_zone_of(identity: Identity, content_at: datetime) -> datetime:
    """Express the time as the source expresses its own (PS3.3 C.12.1.1.8).

    That is in the zone that it names, and else in local time.
    """
    if content_at.tzinfo is None:
        return content_at
    offset = identity.patient_and_study.get("TimezoneOffsetFromUTC")
    zone = datetime.strptime(str(offset), "%z").tzinfo if offset else None
    return content_at.astimezone(zone)


def _make_reproducible(dataset: Dataset, at: datetime) -> None:
    """Replace what highdicom takes from the clock or from chance."""
    dataset.InstanceCreationDate = dataset.SeriesDate = DA(at.date())
    dataset.InstanceCreationTime = dataset.SeriesTime = TM(at.time())
    for equipment in dataset.ContributingEquipmentSequence:
        if equipment.get("ManufacturerModelName") == "highdicom":
            equipment.ContributionDateTime = DT(at.replace(tzinfo=None))
    organization_uid = derive_uid("dimension-organization", dataset.SOPInstanceUID)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization_uid
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _identify(dataset: Dataset, identity: Identity, headers: Sequence[FrameHeader]) -> None:
    """Put in patient and study, their character set, and what the source had lost."""
    dataset.update(identity.patient_and_study)
    if identity.character_set:
        dataset.SpecificCharacterSet = list(identity.character_set)
    lossy = next((header.lossy for header in headers if header.lossy is not None), None)
    dataset.LossyImageCompression = "00" if lossy is None else "01"
    if lossy is not None:
        dataset.LossyImageCompressionMethod = list(lossy.methods)
        if lossy.ratios:
            dataset.LossyImageCompressionRatio = list(lossy.ratios)


def _refer(dataset: Dataset, headers: Sequence[FrameHeader]) -> list[tuple[int, int]]:
    """Point every frame at its source and list the source (PS3.3 C.7.6.16.2.6, C.12.2).

    Returns the slice index and segment number of each frame, in frame order.
    """
    order, references = [], {}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        z = int(reference.ReferencedSOPInstanceUID)
        # highdicom moves the segment number to the shared groups when there is only one.
        segment = (groups if _SEGMENT in groups else shared)[_SEGMENT][0]
        order.append((z, int(segment.ReferencedSegmentNumber)))
        references[z] = reference  # one object, shared by all segments of the slice
    for z, reference in references.items():
        reference.ReferencedSOPClassUID = headers[z].sop_class_uid
        reference.ReferencedSOPInstanceUID = headers[z].sop_instance_uid
        if headers[z].frame_number is not None:
            reference.ReferencedFrameNumber = headers[z].frame_number
    instances = []
    for uid, class_uid in {h.sop_instance_uid: h.sop_class_uid for h in headers}.items():
        instance = Dataset()
        instance.ReferencedSOPClassUID = class_uid
        instance.ReferencedSOPInstanceUID = uid
        instances.append(instance)
    dataset.SourceImageSequence = instances
    series = Dataset()
    series.SeriesInstanceUID = headers[0].series_instance_uid
    series.ReferencedInstanceSequence = instances
    dataset.ReferencedSeriesSequence = [series]
    return order
