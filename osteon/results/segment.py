"""What a segment is: its number in the label map, its name, its codes, colour and volume.

Made by boneseg when it names the components of a label map, read by every result encoder.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A coded concept (PS3.3 8.8): value, coding scheme and meaning.

    Attributes
    ----------
    value : str
        Code Value (0008,0100), e.g. ``"272673000"``.
    scheme : str
        Coding Scheme Designator (0008,0102), e.g. ``"SCT"`` for SNOMED CT.
    meaning : str
        Code Meaning (0008,0104), for people.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """One segment that was found in the volume, as it will stand in the SEG.

    Attributes
    ----------
    number : int
        Segment Number (0062,0004) and the segment's value in ``labels_zyx``: 1..n without gaps.
    label : str
        Segment Label (0062,0005), e.g. ``"Bone 1"``.
    category : Code
        Segmented Property Category, e.g. SCT 123037004 "Anatomical Structure".
    type : Code
        Segmented Property Type, e.g. SCT 272673000 "Bone".
    modifier : Code or None
        Segmented Property Type Modifier: the laterality, where there is one.
    rgb : tuple of int
        Recommended display colour, sRGB, 0..255 each.
    volume_ml : float
        Volume of the segment's voxels in the source frame.

    References
    ----------
    DICOM PS3.3 C.8.20.4 (Segment Description Macro)
    """

    number: int
    label: str
    category: Code
    type: Code
    modifier: Code | None
    rgb: tuple[int, int, int]
    volume_ml: float
