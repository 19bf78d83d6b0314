"""Data sets of storage commitment: what goes in comes out, and nothing else gets in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from osteon.errors import DeliveryError, OutOfResourcesError, UnparseableError
from osteon.results.commitment import (
    REFERENCES_MAX,
    FailureReason,
    Reference,
    Report,
    check_answer,
    decode_report,
    decode_request,
    encode_report,
    encode_request,
)

UIDS = st.from_regex(r"[1-9][0-9]{0,9}(\.[1-9][0-9]{0,9}){1,4}", fullmatch=True)
REFERENCES = st.lists(st.builds(Reference, UIDS, UIDS), max_size=5, unique=True)
SYNTAXES = st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian])


def raw(ds, syntax):
    return encode(ds, syntax.is_implicit_VR, syntax.is_little_endian)


@given(UIDS, REFERENCES.filter(len), SYNTAXES)
def test_a_request_goes_through(uid, references, syntax):
    sent = raw(encode_request(uid, references), syntax)
    assert decode_request(sent, syntax) == (uid, tuple(references))


@given(UIDS, REFERENCES, REFERENCES, st.sampled_from(FailureReason), SYNTAXES)
def test_a_report_goes_through(uid, committed, failed, reason, syntax):
    report = Report(uid, tuple(committed), tuple((one, int(reason)) for one in failed))
    assert decode_report(raw(encode_report(report), syntax), syntax) == report
    assert report.event_type == (2 if failed else 1)


@given(st.binary(max_size=300), SYNTAXES)
def test_noise_is_refused(noise, syntax):
    with pytest.raises(UnparseableError):
        decode_request(noise, syntax)


def test_an_instance_named_twice_is_asked_for_once():
    ds = encode_request("1.2", [Reference("1.3", "1.4")] * 3)
    assert decode_request(raw(ds, ImplicitVRLittleEndian), ImplicitVRLittleEndian) == (
        "1.2",
        (Reference("1.3", "1.4"),),
    )


def test_one_more_than_may_be_is_too_many():
    ds = encode_request("1.2", [Reference("1.3", "1.4")] * (REFERENCES_MAX + 1))
    with pytest.raises(OutOfResourcesError):
        decode_request(raw(ds, ImplicitVRLittleEndian), ImplicitVRLittleEndian)


@pytest.mark.parametrize("status", [0x0000, 0x0107, 0xB000])
def test_success_and_warnings_are_heard(status):
    check_answer("CT1", status)


@pytest.mark.parametrize("status", [0x0110, 0x0112, 0x0211, 0xA700, 0xC000])
def test_failures_are_not_heard(status):
    with pytest.raises(DeliveryError, match=f"0x{status:04X}"):
        check_answer("CT1", status)
