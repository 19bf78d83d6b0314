"""Which changed series are still one volume, and which are refused with what words.

The cases of ``test_bad_series.py``: LEGAL by name, each with where it puts the bones, and ILLEGAL
by name, each with a pattern of its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.anomaly import series_changes as c

SLICES = 24
BONE, THRESHOLD = "builtin:bone", "threshold"
SYNTAXES = (
    ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
    JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, ExplicitVRLittleEndian,
)  # fmt: skip


def unchanged(series: c.Series) -> c.Series:
    return series


@dataclass(frozen=True)
class Legal:
    """A change after which the series is still one volume.

    Attributes
    ----------
    before : callable
        What is done to the unchanged series as well.
    moved : ndarray, shape (4, 4)
        Where the change puts a point of the patient.
    tolerance_mm : float
        How far the change moves single slices, beside that.
    """

    change: c.Change
    model: str = BONE
    before: c.Change = unchanged
    moved: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    tolerance_mm: float = 0.0


def hu_plus(offset: int, kind: str = "<u2") -> Callable[[int, NDArray[np.int16]], NDArray[Any]]:
    return lambda _, hu_yx: (hu_yx.astype(np.int32) + offset).astype(kind)


def ring(value: int) -> Callable[[int, NDArray[np.int16]], NDArray[np.int16]]:
    """Put a value outside the circle of reconstruction."""
    y, x = np.mgrid[-36:37, -36:37]
    return lambda _, hu_yx: np.where(x * x + y * y > 36 * 36, value, hu_yx).astype("<i2")


def twelve_bits(index: int, hu_yx: NDArray[np.int16]) -> NDArray[np.uint16]:
    """Twelve bits with an overlay, and what an old console left, in the four above."""
    above = np.random.default_rng(index).integers(0, 16, hu_yx.shape) << 12
    return ((hu_yx.astype(np.int32) + 1024).clip(0, 4095) | above).astype("<u2")


def outside_bits_stored(index: int, hu_yx: NDArray[np.int16]) -> NDArray[np.uint16]:
    """Padding that twelve bits cannot hold: without its high bits it would read 1072 HU."""
    padded = ring(-32768)(index, hu_yx) == -32768
    values = (hu_yx.astype(np.int32) + 1024).clip(0, 4095)
    return np.where(padded, 0xF830, values).astype("<u2")


UNSIGNED = {"PixelRepresentation": 0, "RescaleIntercept": "-1024"}
TWELVE_BITS = UNSIGNED | {"BitsStored": 12, "HighBit": 11}
CLIPPED = c.stored(lambda _, hu_yx: hu_yx.clip(-1024, 3071))
AIR_RING = c.stored(ring(-1024))

LEGAL = {
    "files reversed": Legal(c.reversed_files),
    "Instance Numbers reversed": Legal(c.numbered(lambda i, n: n - i)),
    "Instance Numbers missing": Legal(c.numbered(lambda i, n: None)),
    "Instance Numbers all alike": Legal(c.numbered(lambda i, n: 1)),
    "Instance Numbers with gaps": Legal(c.numbered(lambda i, n: 3 * i)),
    "a file twice": Legal(c.same_file_twice),
    "Slice Location wrong": Legal(c.every(SliceLocation="0")),
    "Slice Thickness and Spacing Between Slices wrong": Legal(
        c.every(SliceThickness="9", SpacingBetweenSlices="0.1")
    ),
    "several Acquisition Numbers": Legal(
        c.both(*(c.one(i, AcquisitionNumber=i) for i in range(9)))
    ),
    "feet first": Legal(c.moved(c.rotation(1, 180)), moved=c.rotation(1, 180)),
    "decubitus": Legal(c.moved(c.rotation(2, 90)), moved=c.rotation(2, 90)),
    "oblique": Legal(
        c.moved(c.rotation(0, 20) @ c.rotation(1, -35) @ c.rotation(2, 10)),
        moved=c.rotation(0, 20) @ c.rotation(1, -35) @ c.rotation(2, 10),
    ),
    "gantry tilt 25 degrees": Legal(c.moved(c.tilted(25)), THRESHOLD, moved=c.tilted(25)),
    "gantry tilt -12 degrees": Legal(c.moved(c.tilted(-12)), THRESHOLD, moved=c.tilted(-12)),
    "coronal slices": Legal(c.resliced(1), THRESHOLD),
    "sagittal slices": Legal(c.resliced(2), THRESHOLD),
    "rows upside down, slices descending": Legal(c.left_handed, THRESHOLD),
    "positions rounded to 0.1 mm": Legal(
        c.placed(lambda _, mm: np.round(mm, 1)), tolerance_mm=0.051
    ),
    "cosines and spacings that differ by rounding": Legal(
        c.both(
            c.one(3, ImageOrientationPatient=["1", "0", "0", "0", "1", "0.00002"]),
            c.one(4, PixelSpacing=["1.20002", "1.7"]),
        )
    ),
    "a slice 0.09 mm off": Legal(
        c.shifted(lambda i: [0, 0, 0.09 * (i == 9)]), tolerance_mm=0.091
    ),
    "decimal strings of many forms": Legal(
        c.both(
            c.one(3, PixelSpacing=b"+1.2\\17.0E-1"),
            c.one(5, ImageOrientationPatient=b" 1.0 \\-0\\0.\\.0E+00\\1e0\\0\0"),
            c.one(6, RescaleSlope=b"1.000000000000000000"),
        )
    ),
    "rescale different in every slice": Legal(
        c.stored(
            lambda i, hu_yx: (hu_yx.astype(np.int32) - 7 * i).astype("<i2"),
            RescaleIntercept=lambda i: str(7 * i),
        )
    ),
    "rescale slope 0.5 in some slices": Legal(
        c.stored(
            lambda i, hu_yx: hu_yx * 2 if i % 3 else hu_yx,
            RescaleSlope=lambda i: "0.5" if i % 3 else "1",
        )
    ),
    "rescale slope negative": Legal(c.stored(lambda _, h: -h, RescaleSlope="-1")),
    "signed and unsigned slices": Legal(
        c.stored(
            lambda i, h: (h.astype(np.int32) + 1024 * (i % 2)).astype("<u2" if i % 2 else "<i2"),
            PixelRepresentation=lambda i: 1 - i % 2,
            RescaleIntercept=lambda i: str(-1024 * (i % 2)),
        ),
        before=CLIPPED,
    ),
    "8 bits": Legal(
        c.stored(
            lambda _, h: ((h.astype(np.int32) + 1024) // 16).astype("u1"),
            BitsAllocated=8, BitsStored=8, HighBit=7, RescaleSlope="16", **UNSIGNED,
        ),
        before=c.quantised,
    ),
    "32 bits": Legal(
        c.stored(
            lambda _, h: h.astype("<i4"), BitsAllocated=32, BitsStored=32, HighBit=31
        )
    ),
    "12 bits in the low bits": Legal(
        c.stored(hu_plus(1024), **TWELVE_BITS), before=CLIPPED
    ),
    "12 bits in the high bits": Legal(
        c.stored(
            lambda _, h: ((h.astype(np.int32) + 1024) << 4).astype("<u2"),
            **TWELVE_BITS | {"HighBit": 15},
        ),
        before=CLIPPED,
    ),
    "12 bits below an overlay": Legal(c.stored(twelve_bits, **TWELVE_BITS), before=CLIPPED),
    "padding below air": Legal(
        c.stored(ring(-2000), PixelPaddingValue=-2000), before=AIR_RING
    ),
    "padding as dense as bone": Legal(
        c.stored(ring(1500), PixelPaddingValue=1500), before=AIR_RING
    ),
    "a range of padding, written downwards": Legal(
        c.stored(ring(3005), PixelPaddingValue=3010, PixelPaddingRangeLimit=3000),
        before=AIR_RING,
    ),
    "padding outside Bits Stored": Legal(
        c.stored(outside_bits_stored, **TWELVE_BITS, PixelPaddingValue=0xF830),
        before=c.both(CLIPPED, AIR_RING),
    ),
    "padding in some slices only": Legal(
        c.stored(
            lambda i, h: ring(-2000 if i % 2 else -1024)(i, h),
            PixelPaddingValue=lambda i: -2000 if i % 2 else None,
        ),
        before=AIR_RING,
    ),
    "MONOCHROME1": Legal(c.every(PhotometricInterpretation="MONOCHROME1")),
    "rows and columns differ": Legal(
        c.stored(lambda _, h: np.pad(h, ((0, 0), (0, 14)), constant_values=-1024)), THRESHOLD
    ),
    "a transfer syntax of its own for every slice": Legal(c.encoded(*SYNTAXES)),
    "Legacy Converted Enhanced CT": Legal(c.legacy_converted),
    "Enhanced CT": Legal(c.enhanced()),
    "Enhanced CT, frames shuffled": Legal(
        c.enhanced(lambda n: [int(i) for i in np.random.default_rng(3).permutation(n)])
    ),
    "Enhanced CT, all groups per frame": Legal(c.enhanced(shared=())),
    "Enhanced CT in three instances": Legal(c.enhanced(lambda n: list(range(n))[::-1], parts=3)),
    "Enhanced CT, rescale of each frame": Legal(
        c.both(
            c.stored(
                lambda i, hu_yx: (hu_yx.astype(np.int32) - 7 * i).astype("<i2"),
                RescaleIntercept=lambda i: str(7 * i),
            ),
            c.enhanced(),
        )
    ),
}  # fmt: skip

ILLEGAL = {
    "a slice missing": (c.without(9), "1 slice is missing: 3.00 mm between image 9 at"),
    "two slices missing": (c.without(9, 10), "2 slices are missing: 4.50 mm between image 9 at"),
    "slices missing in two places": (c.without(5, 14, 15), "3 slices are missing.* and 1 more"),
    "spacing three times as wide in one place": (
        c.shifted(lambda i: [0, 0, 3.0 * (i > 11)]),
        "2 slices are missing: 4.50 mm between image 12 at .* and image 13 at",
    ),
    "spacing that changes halfway": (
        c.shifted(lambda i: [0, 0, 0.4 * max(0, i - 11)]),
        "Irregular slice spacing: 1.50 mm between image 1 .* and 10 more such places",
    ),
    "a slice 0.3 mm off": (
        c.shifted(lambda i: [0, 0, 0.3 * (i == 9)]),
        "Irregular slice spacing: 1.80 mm between image 9",
    ),
    "a slice moved sideways": (
        c.shifted(lambda i: [2.0 * (i == 9), 0, 0]),
        "not on a regular grid: image 10 at .* is 2.00 mm off",
    ),
    "two images at one position": (
        c.twin(),
        r"2 images at one position .*: image 8 \(007.dcm\), image 8 \(024.dcm\)\. A repeated",
    ),
    "two phases": (
        c.both(*(c.twin(i, AcquisitionNumber=2) for i in range(SLICES))),
        "2 images at one position .* and 23 more such positions",
    ),
    "all positions the same": (
        c.placed(lambda i, mm: [0, 0, 0]), "24 images at one position"
    ),
    "one slice coronal": (
        c.one(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        "2 different orientations in one series",
    ),
    "one slice upside down": (
        c.one(ImageOrientationPatient=[1, 0, 0, 0, -1, 0]),
        "2 different orientations in one series",
    ),
    "one slice tilted by a degree": (
        c.one(ImageOrientationPatient=["1", "0", "0", "0", "0.999848", "0.017452"]),
        "2 different orientations in one series",
    ),
    "a localizer inside": (
        c.twin(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], InstanceNumber=99),
        r"Localizer \(scout\) among the images: image 99",
    ),
    "a localizer inside that does not say so": (
        c.twin(ImageOrientationPatient=[0, 1, 0, 0, 0, -1], InstanceNumber=99),
        "2 different orientations.*: image 99",
    ),
    "two frames of reference": (
        c.one(FrameOfReferenceUID="2.25.5"), "2 different frames of reference.*2.25.5: image 8"
    ),
    "no Frame of Reference": (
        c.every(FrameOfReferenceUID=None), "No Frame of Reference UID: a result could not"
    ),
    "two patients": (c.one(PatientID="OTHER"), "2 different patients.*OTHER: image 8"),
    "two studies": (c.one(StudyInstanceUID="2.25.6"), "2 different studies.*2.25.6: image 8"),
    "another size": (
        c.stored(lambda i, h: h[:, :60].copy() if i == 7 else h),
        r"2 different image sizes \(rows x columns\).*73 x 60: image 8",
    ),
    "another pixel spacing": (
        c.one(PixelSpacing=["1.5", "1.4"]), r"2 different pixel spacings \(mm\).*1.5\\1.4: image 8"
    ),
    "no Pixel Spacing": (c.every(PixelSpacing=None), "No valid Pixel Spacing in image 1,"),
    "Pixel Spacing 0": (c.every(PixelSpacing=[0, 1.5]), "Pixel Spacing 0.* is no distance of CT"),
    "no Image Position": (
        c.one(ImagePositionPatient=None), r"No valid Image Position \(Patient\) in image 8"
    ),
    "Image Position of two numbers": (
        c.one(ImagePositionPatient=b"1\\2"), r"No valid Image Position \(Patient\) in image 8"
    ),
    "Image Position not a number": (
        c.one(ImagePositionPatient=b"-30\\135\\nan"), r"No valid Image Position \(Patient\)"
    ),
    "Image Position beyond all numbers": (
        c.placed(lambda i, _: [0, 0, i * 1e306]), r"No valid Image Position \(Patient\)"
    ),
    "Image Position infinite": (
        c.one(ImagePositionPatient=b"-30\\135\\inf"), r"No valid Image Position \(Patient\)"
    ),
    "Image Position with a decimal comma": (
        c.one(ImagePositionPatient=b"-30\\135\\-92,7"), r"No valid Image Position \(Patient\)"
    ),
    "Image Position with a digit separator": (
        c.one(ImagePositionPatient=b"-3_0\\135\\-92.7"), r"No valid Image Position \(Patient\)"
    ),
    "no Image Orientation": (
        c.every(ImageOrientationPatient=None), r"No valid Image Orientation \(Patient\)"
    ),
    "axes not at a right angle": (
        c.every(ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]), "not two unit vectors"
    ),
    "Rescale Slope 0": (c.one(RescaleSlope="0"), r"image 8 .* has no valid Rescale Slope"),
    "Rescale Slope beyond all units": (c.one(RescaleSlope="1e30"), "values beyond 1,000,000 HU"),
    "Rescale Slope not a number": (c.one(RescaleSlope=b"NaN"), "no valid Rescale Slope"),
    "no Rescale Intercept": (c.one(RescaleIntercept=None), "no valid .* Rescale Intercept"),
    "rescale that is no number, on signed pixels": (
        c.one(RescaleSlope=b"one", RescaleIntercept=b"none"), "image 8 .* has no valid Rescale"
    ),
    "no rescale on unsigned pixels": (
        c.stored(hu_plus(1024), **UNSIGNED | {"RescaleIntercept": None, "RescaleSlope": None}),
        "no valid Rescale Slope and Rescale Intercept",
    ),
    "grey values that are no Hounsfield units": (
        c.every(RescaleType="MGML"), "Rescale Type is MGML, not HU"
    ),
    "colour": (
        c.one(
            SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
            BitsAllocated=8, BitsStored=8, HighBit=7,
        ),
        "Colour images have no Hounsfield units: image 8",
    ),
    "a palette": (
        c.one(PhotometricInterpretation="PALETTE COLOR"),
        "Photometric Interpretation is PALETTE COLOR",
    ),
    "bits that describe no pixel": (c.one(BitsStored=17), "Bits Stored 17.* describe no CT pixel"),
    "one slice": (c.only(0), "Too few slices: 1, but a volume needs at least 3"),
    "two slices": (c.only(0, 1), "Too few slices: 2"),
    "another object": (c.other_object, "is no CT image but: Secondary Capture Image Storage"),
    "single frames and an Enhanced CT": (
        c.mixed_with_enhanced, "2 different SOP Classes in one series"
    ),
    "no pixel data": (c.one(PixelData=None), "is a CT image without pixel data"),
    "empty pixel data": (c.one(PixelData=b""), "damaged or truncated"),
    "truncated pixel data": (c.cut(0.6), "image 8 .*: the pixel data is damaged or truncated"),
    "pixel data of a larger image": (
        c.grown(b"\1" * 146 * 10), r"image 8 .* \(12,118 bytes, where 73 x 73 .* are 10,658\)"
    ),
    "fewer rows than the pixel data has": (
        c.every(Rows=36), r"image 1 .* \(10,658 bytes, where 36 x 73 pixels of 16 bits are 5,256\)"
    ),
    "fewer rows than the RLE stream has": (
        c.both(c.encoded(RLELossless), c.every(Rows=36)), "image 1 .*: the pixel data is damaged"
    ),
    "more columns than the RLE stream has": (
        c.both(c.encoded(RLELossless), c.every(Columns=80)), "image 1 .*: the pixel data is damaged"
    ),
    "fewer rows than the JPEG-LS stream has": (
        c.both(c.encoded(JPEGLSLossless), c.every(Rows=36)),
        r"image 1 .*holds rows, columns, components \(73, 73, 1\), not \(36, 73, 1\)",
    ),
    "cosines that differ by a hundredth of a degree": (
        c.one(ImageOrientationPatient=["1", "0", "0", "0", "1", "0.00017"]),
        "2 different orientations.*: image 8",
    ),
    "pixel spacings that differ by a thousandth": (
        c.one(PixelSpacing=["1.2003", "1.7"]), "2 different pixel spacings.*: image 8"
    ),
    "a high bit above compressed pixels": (
        c.both(c.encoded(JPEGLSLossless), c.one(BitsStored=12)),
        "Bits Stored 12, High Bit 15 .* describe no CT pixel",
    ),
    "compressed pixel data in a native transfer syntax": (
        c.mislabelled, "image 8 .*: the pixel data is damaged or truncated"
    ),
    "Enhanced CT with a frame too many": (
        c.both(c.enhanced(), c.one(0, NumberOfFrames=SLICES + 1)),
        "24 Per-Frame Functional Groups for 25 frames",
    ),
    "Enhanced CT with a frame twice": (
        c.enhanced(lambda n: [*range(n), 5]), "2 images at one position"
    ),
    "Enhanced CT with a frame missing": (
        c.enhanced(lambda n: [i for i in range(n) if i != 5]), "1 slice is missing"
    ),
}  # fmt: skip
