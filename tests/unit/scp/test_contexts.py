"""Which presentation contexts are accepted."""

from pathlib import Path

import pytest
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
)
from pynetdicom.presentation import AllStoragePresentationContexts

from osteon.scp.contexts import carries_data_set, is_storage, preference, supported_contexts

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"


def test_every_storage_class_of_pynetdicom_is_accepted() -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]

    assert len(classes) > 150
    assert [uid for uid in classes if not is_storage(uid)] == []


@pytest.mark.parametrize(
    "uid",
    [
        "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.9",  # Standalone Curve Storage, retired
        "1.2.840.10008.5.1.1.29",  # Hardcopy Grayscale Image Storage, retired
        "1.2.840.10008.5.1.4.1.1.601.1",  # Eddy Current Image Storage, DICONDE
        "1.2.840.10008.5.1.4.1.1.2.99",  # one that the Standard may get
        "1.2.840.113619.4.30",  # private, of GE
        "1.3.12.2.1107.5.9.1",  # private, of Siemens
    ],
)
def test_retired_new_and_private_classes_are_accepted(uid: str) -> None:
    assert is_storage(uid)


@pytest.mark.parametrize(
    "uid",
    [
        VERIFICATION,
        "1.2.840.10008.1.3.10",  # Media Storage Directory
        "1.2.840.10008.1.20.1",  # Storage Commitment Push Model
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root Query/Retrieve - FIND
        "1.2.840.10008.5.1.4.1.1.201.6",  # Repository Query, below the root of storage
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol Storage: no instance of a patient
        "1.2.840.10008.5.1.1.9",  # Basic Grayscale Print Management Meta
        "1.2.840.10008.999",
        "",
        "1.2.3/../4",
        "1." + "2" * 64,
        "not a uid",
    ],
)
def test_other_services_and_what_is_no_uid_are_not(uid: str) -> None:
    assert not is_storage(uid)


def test_every_transfer_syntax_with_pixels_of_its_own_is_accepted() -> None:
    refused = {syntax.name for syntax in AllTransferSyntaxes if not carries_data_set(syntax)}

    assert refused
    assert all("JPIP" in name or "SMPTE" in name for name in refused)


def test_the_syntaxes_of_real_files_are_accepted(shared_data: Path) -> None:
    files = (shared_data / "cornerstone_ct_16ts").glob("*.dcm")
    syntaxes = [file.stem.rsplit("_", 1)[1] for file in files]

    assert len(syntaxes) == 15
    assert [uid for uid in syntaxes if not carries_data_set(uid)] == []


@pytest.mark.parametrize("uid", ["1.2.840.113619.5.2", "1.2", "", "not a uid", CT])
def test_an_unknown_transfer_syntax_is_not(uid: str) -> None:
    assert not carries_data_set(uid)


def test_uncompressed_comes_before_lossless_before_lossy() -> None:
    offered = [
        JPEGBaseline8Bit,
        JPEGLSNearLossless,
        JPEGLosslessSV1,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEG2000Lossless,
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
    ]

    ranked = sorted(offered, key=preference)

    assert ranked[:3] == [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
    assert set(ranked[3:6]) == {
        DeflatedExplicitVRLittleEndian,
        JPEGLosslessSV1,
        JPEG2000Lossless,
    }
    assert set(ranked[6:]) == {JPEGBaseline8Bit, JPEGLSNearLossless}


def test_only_what_was_proposed_is_supported_once_for_each_class() -> None:
    contexts = supported_contexts(
        [
            (CT, [JPEGLosslessSV1]),
            (CT, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
            (VERIFICATION, [ImplicitVRLittleEndian]),
            ("1.2.840.10008.1.20.1", [ImplicitVRLittleEndian]),
        ]
    )

    found = {str(c.abstract_syntax): c.transfer_syntax for c in contexts}
    assert found == {
        CT: [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1],
        VERIFICATION: [ImplicitVRLittleEndian],
    }
    assert len(contexts) == 2
