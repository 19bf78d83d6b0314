"""Whose images they are: what a result takes over from its source about patient and study.

The first source instance enters, a clean set of attributes and their character set leave; called
by the encoder. A value that the Standard does not allow is dropped and a Type 2 attribute left
empty, except for the identifiers a PACS matches by, which are carried over as they are.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.config import RAISE, disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

from osteon.results.source import UNREADABLE, many, read_header

PATIENT_AND_STUDY = [
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "TimezoneOffsetFromUTC",
    "PositionReferenceIndicator",
]

EQUIPMENT = [
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "AcquisitionDateTime",
]

_TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
]

_MATCHED_BY = {"PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber", "StudyID"}
_TEXT = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}  # VRs that the character set governs
_DAMAGED = "\N{REPLACEMENT CHARACTER}"
_UTF_8 = ("ISO_IR 192",)
_LATIN_1 = ("ISO_IR 100",)
_ASCII = {"", "ISO_IR 6", "ISO 2022 IR 6"}  # terms of the default repertoire
_DELIMITERS = {0x5C, 0x5E, 0x3D}  # backslash, caret and equals sign reset a code extension
_PADDING = re.compile(rb"\0[^\\]*")  # from a NUL to the end of the value


@dataclass(frozen=True)
class Identity:
    """What the source says about patient, study and equipment, in valid values.

    ``character_set`` holds the terms of Specific Character Set (0008,0005) in which every text
    can be written; empty for the default repertoire.
    """

    patient_and_study: Dataset
    equipment: Dataset
    character_set: tuple[str, ...]


def read_identity(path: Path, own_texts: Iterable[str]) -> Identity:
    """Read patient, study and equipment of a source instance.

    Parameters
    ----------
    path : Path
        The source instance, Part 10.
    own_texts : iterable of str
        The texts that the result itself adds; the character set can write them, too.

    Raises
    ------
    StageError, EncodingError
        As `osteon.results.source.read_header`.

    References
    ----------
    DICOM PS3.5 6.1.2 (character repertoires); PS3.3 C.12.1.1.2 (Specific Character Set)
    """
    instance = read_header(path, ["SpecificCharacterSet", *PATIENT_AND_STUDY, *EQUIPMENT])
    # pydicom warns about every spelling mistake in a header; here they are handled one by one.
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        character_set = _readable_character_set(instance)
        identity = _take(instance, PATIENT_AND_STUDY, character_set)
        equipment = _take(instance, EQUIPMENT, character_set)
        for keyword in _TYPE_2:
            if keyword not in identity:
                setattr(identity, keyword, None)
        if identity.PatientSex not in ("M", "F", "O"):  # PS3.3 C.7.1.1
            identity.PatientSex = None
        texts = [*own_texts, *_texts(identity), *_texts(equipment)]
        if not all(_writable(text, character_set) for text in texts):
            character_set = _UTF_8
    return Identity(identity, equipment, character_set)


def _readable_character_set(instance: Dataset) -> tuple[str, ...]:
    """Return the character set the texts are written in: the declared one where that is true."""
    declared = tuple(str(term).strip(" \0") for term in many(instance.get("SpecificCharacterSet")))
    texts = list(_raw_texts(instance))
    if all(text.isascii() and b"\x1b" not in text for text in texts):
        return declared if all(term in python_encoding for term in declared) else ()
    candidates: list[tuple[str, ...]] = [_UTF_8, _LATIN_1]
    if set(declared) - _ASCII and all(term in python_encoding for term in declared):
        candidates.insert(0, declared)
    for candidate in candidates:
        encodings = convert_encodings(list(candidate))
        if not any(_DAMAGED in decode_bytes(text, encodings, _DELIMITERS) for text in texts):
            return candidate
    return _LATIN_1


def _raw_texts(instance: Dataset) -> Iterator[bytes]:
    """Every value that the character set governs, as it stands in the file."""
    for tag in instance.keys():  # noqa: SIM118 - iterating a Dataset would convert the values
        item = _item(instance, tag)
        if isinstance(item, RawDataElement) and item.value and _vr(item) in _TEXT:
            yield item.value


def _item(instance: Dataset, tag: BaseTag | str) -> DataElement | RawDataElement | None:
    """Return an element as it is: raw as long as nobody has looked at its value."""
    return instance.get_item(tag)


def _vr(item: RawDataElement) -> str:
    """VR of a raw element, from the dictionary where the transfer syntax leaves it out."""
    return item.VR or dictionary_VR(item.tag)


def _take(instance: Dataset, keywords: Iterable[str], character_set: tuple[str, ...]) -> Dataset:
    """Copy the named attributes that have a valid value."""
    encodings = convert_encodings(list(character_set) or None)
    taken = Dataset()
    for keyword in keywords:
        item = _item(instance, keyword)
        if isinstance(item, RawDataElement):
            item = _convert(item, encodings, instance)
        if isinstance(item, DataElement) and not item.is_empty and _is_valid(item):
            taken.add(item)
    return taken


def _convert(raw: RawDataElement, encodings: list[str], instance: Dataset) -> DataElement | None:
    """Convert a raw value without its padding, or return None where that cannot be done."""
    if raw.value and _vr(raw) != "SQ":
        raw = raw._replace(value=_PADDING.sub(b"", raw.value))
    try:
        return convert_raw_data_element(raw, encoding=encodings, ds=instance)
    except UNREADABLE:
        return None


def _is_valid(element: DataElement) -> bool:
    """Whether a value follows its VR (PS3.5 6.2), or is one that a PACS matches by."""
    if element.VR == "SQ":
        return len(element.value) > 0 and all(_is_valid_item(item) for item in element.value)
    texts = [str(value) for value in many(element.value)]
    if any(_DAMAGED in text for text in texts):
        return False
    if element.keyword in _MATCHED_BY:
        return True
    if element.keyword == "TimezoneOffsetFromUTC":  # PS3.3 C.12.1.1.8
        return all(re.fullmatch(r"[+-][01]\d[0-5]\d", text) for text in texts)
    try:
        for text in texts:
            validate_value(element.VR, text, RAISE)
    except ValueError:
        return False
    return True


def _is_valid_item(item: Dataset) -> bool:
    """Whether a sequence item is valid in every value, and complete where it is a code."""
    is_code = "CodeMeaning" in item or "CodingSchemeDesignator" in item  # PS3.3 8.8
    if is_code and not (item.get("CodeMeaning") and item.get("CodeValue")):
        return False
    try:
        return len(item) > 0 and all(_is_valid(element) for element in item)
    except UNREADABLE:
        return False


def _texts(dataset: Dataset) -> Iterator[str]:
    """Every text of the attributes that the character set governs, sequences included."""
    for element in dataset.iterall():
        if element.VR in _TEXT:
            yield from (str(value) for value in many(element.value))


def _writable(text: str, character_set: tuple[str, ...]) -> bool:
    """Whether a text survives being written and read in the character set."""
    if text.isascii():
        return True
    if not set(character_set) - _ASCII:
        return False
    encodings = convert_encodings(list(character_set))
    return all(
        decode_bytes(encode_string(part, encodings), encodings, _DELIMITERS) == part
        for part in re.split(r"[\\^=]", text)
    )
