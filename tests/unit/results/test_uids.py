"""UIDs from content: deterministic, valid, and different where anything differs."""

import re

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import RE_VALID_UID

from osteon.results.uids import IMPLEMENTATION_CLASS_UID, derive_uid

words = st.lists(st.text(), min_size=1, max_size=4)


@given(kind=st.text(), parts=words)
def test_a_derived_uid_is_valid_and_the_same_every_time(kind: str, parts: list[str]) -> None:
    uid = derive_uid(kind, *parts)
    assert re.fullmatch(RE_VALID_UID, uid)
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert derive_uid(kind, *parts) == uid


@given(one=words, other=words)
def test_different_content_gives_different_uids(one: list[str], other: list[str]) -> None:
    assert (derive_uid("kind", *one) == derive_uid("kind", *other)) == (one == other)


def test_the_borders_between_parts_count() -> None:
    assert derive_uid("sop-instance", "ab", "c") != derive_uid("sop-instance", "a", "bc")


def test_uids_never_change_between_releases() -> None:
    # A stored result keeps its UID for ever: this value must not change.
    assert derive_uid("sop-instance", "x") == "2.25.273756461310598822676871929990921471630"
    assert IMPLEMENTATION_CLASS_UID == "2.25.54717727766280045786657268500108317375"
