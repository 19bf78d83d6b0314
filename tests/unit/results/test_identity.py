"""Patient and study: carried over in their character set, cleaned where they are invalid."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from osteon.errors import StageError
from osteon.results.identity import Identity, read_identity
from tests.unit.results.series import write_series


def identity_of(folder: Path, own_texts: tuple[str, ...] = (), **attributes: Any) -> Identity:
    (frame,) = write_series(folder, slices=1, **attributes)
    return read_identity(frame.path, own_texts)


def test_what_is_missing_is_there_and_empty(tmp_path: Path) -> None:
    found = identity_of(tmp_path, PatientID=None).patient_and_study
    for keyword in (
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
    ):
        assert keyword in found
        assert found[keyword].is_empty


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "7f0c9d3e-5b1a-4f6e-8a55-0d4a7a1c2b3d"),
        ("StudyDate", "20241399"),
        ("StudyTime", "noon"),
        ("PatientSex", "female"),
        ("PatientSex", "X"),
        ("PatientAge", "forty"),
        ("TimezoneOffsetFromUTC", "CET"),
    ],
)
def test_an_invalid_value_is_dropped(tmp_path: Path, keyword: str, value: str) -> None:
    found = identity_of(tmp_path, **{keyword: value}).patient_and_study
    assert keyword not in found or found[keyword].is_empty


def test_valid_values_are_carried_over(tmp_path: Path) -> None:
    attributes = {
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "PatientAge": "055Y",
        "StudyDate": "20260102",
        "StudyTime": "030405.5",
        "AccessionNumber": "A-1",
        "IssuerOfPatientID": "Hospital",
    }
    found = identity_of(tmp_path, **attributes).patient_and_study
    assert {keyword: found[keyword].value for keyword in attributes} == attributes


def test_padding_with_nul_is_no_part_of_a_value(tmp_path: Path) -> None:
    identity = identity_of(
        tmp_path, PatientID="4711\0\0rest", StudyDate="20260102\0\0", Manufacturer="Works\0"
    )
    assert identity.patient_and_study.PatientID == "4711"
    assert identity.patient_and_study.StudyDate == "20260102"
    assert identity.equipment.Manufacturer == "Works"


def test_an_identifier_that_is_too_long_still_matches_the_source(tmp_path: Path) -> None:
    accession = "ACCESSION-NUMBER-0001"
    found = identity_of(tmp_path, AccessionNumber=accession).patient_and_study
    assert found.AccessionNumber == accession


def test_a_code_without_its_meaning_is_dropped(tmp_path: Path) -> None:
    whole, half = Dataset(), Dataset()
    whole.CodeValue, whole.CodingSchemeDesignator, whole.CodeMeaning = "1", "99X", "CT"
    half.CodeValue, half.CodingSchemeDesignator = "1", "99X"
    found = identity_of(tmp_path, ProcedureCodeSequence=[whole]).patient_and_study
    assert found.ProcedureCodeSequence[0].CodeMeaning == "CT"
    assert (
        "ProcedureCodeSequence"
        not in identity_of(tmp_path, ProcedureCodeSequence=[half]).patient_and_study
    )


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        (["ISO_IR 100"], "Müller^Jörg"),
        (["ISO_IR 144"], "Люксембург"),
        (["ISO_IR 192"], "王^小東"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (["GB18030"], "Wang^XiaoDong=王^小东"),
    ],
)
def test_a_name_survives_in_its_own_character_set(
    tmp_path: Path, character_set: list[str], name: str
) -> None:
    identity = identity_of(tmp_path, SpecificCharacterSet=character_set, PatientName=name)
    assert identity.patient_and_study.PatientName == name
    assert list(identity.character_set) == character_set


def test_latin_letters_without_a_declared_character_set(tmp_path: Path) -> None:
    identity = identity_of(tmp_path, PatientName="Müller^Jörg")
    assert identity.patient_and_study.PatientName == "Müller^Jörg"
    assert identity.character_set == ("ISO_IR 100",)


def altered(folder: Path, old: bytes, new: bytes, **attributes: Any) -> Identity:
    """The identity of an instance in whose file some bytes have been replaced."""
    (frame,) = write_series(folder, slices=1, **attributes)
    content = frame.path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    frame.path.write_bytes(content.replace(old, new))
    return read_identity(frame.path, ())


def test_a_number_that_is_none(tmp_path: Path) -> None:
    identity = altered(tmp_path, b"79.5", b"7,95", PatientWeight="79.5")
    assert "PatientWeight" not in identity.patient_and_study


def test_a_character_set_that_nobody_knows(tmp_path: Path) -> None:
    identity = altered(tmp_path, b"ISO_IR 100", b"KLINGON 42", SpecificCharacterSet="ISO_IR 100")
    assert identity.patient_and_study.PatientName == "Doe^Jane"
    assert identity.character_set == ()


def test_a_declared_character_set_that_the_bytes_are_not_in(tmp_path: Path) -> None:
    flawed = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    identity = altered(tmp_path, b"ISO_IR 100", b"ISO_IR 192", **flawed)
    assert identity.patient_and_study.PatientName == "Müller^Jörg"
    assert identity.character_set == ("ISO_IR 100",)


def test_own_texts_that_the_source_cannot_write_make_it_utf_8(tmp_path: Path) -> None:
    identity = identity_of(tmp_path, ("Schädel", "頭蓋骨"), SpecificCharacterSet="ISO_IR 100")
    assert identity.character_set == ("ISO_IR 192",)
    identity = identity_of(tmp_path, ("Schädel",), SpecificCharacterSet="ISO_IR 100")
    assert identity.character_set == ("ISO_IR 100",)
    assert identity_of(tmp_path, ("Schädel",)).character_set == ("ISO_IR 192",)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be read"):
        read_identity(tmp_path / "none.dcm", ())
