"""Every Range header gives bytes of the file, the whole file, or 416."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from osteon.http.ranges import UnsatisfiableError, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=7-", (7, 10)),
        ("bytes=7-99", (7, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("BYTES=1-2", (1, 3)),
        (None, None),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=0-1", None),
        ("bytes=x-y", None),
    ],
)
def test_a_range_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_no_byte_in_the_range(header: str) -> None:
    with pytest.raises(UnsatisfiableError, match="of a file of 10 bytes"):
        parse_range(header, 10)


@given(
    header=st.one_of(
        st.text(max_size=40),
        st.from_regex(r"bytes=[0-9]{0,20}-[0-9]{0,20}", fullmatch=True),
    ),
    size=st.integers(0, 2**40),
)
@example(header="bytes=٣-٤", size=10)  # digits, but not those of HTTP
def test_what_comes_out_is_always_within_the_file(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except UnsatisfiableError:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


@given(st.integers(1, 1000), st.data())
def test_a_range_is_the_slice_it_names(size: int, data: st.DataObject) -> None:
    content = bytes(i % 251 for i in range(size))
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, 2 * size))
    found = parse_range(f"bytes={first}-{last}", size)
    assert found is not None
    assert content[slice(*found)] == content[first : last + 1]
