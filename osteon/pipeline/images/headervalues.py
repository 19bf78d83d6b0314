"""Values of a header as they stand in the file, read as tolerantly as archives need it.

A header, a data set or an item of one enters, texts and numbers leave; `header.py` calls it. Values
may be padded with NULs, be no number, or have another VR than the Standard's: what cannot be read
is absent. Nothing goes through pydicom's conversion of values, which would take most of the time.
"""

import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Literal

from pydicom.dataset import Dataset
from pydicom.tag import Tag

# A decimal string, PS3.5 6.2; Python's own reading takes 1_0, inf and nan too.
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
INTEGER_STRINGS = frozenset({"InstanceNumber", "NumberOfFrames"})
VALUES_KEPT = 256  # Most values of a series' headers are those of the header before.
KEPT_BYTES_MAX = 256


class HeaderValues:
    """The values of one data set.

    Parameters
    ----------
    values : mapping of int to bytes, str, Sequence or None
        By tag, as they stand in the file; of a data set that has no sequences to be asked for.
    """

    def __init__(self, values: Mapping[int, Any]) -> None:
        self._values = values
        self._ds: Dataset | None = None

    @classmethod
    def of(cls, ds: Dataset) -> "HeaderValues":
        """Return the values of a data set as pydicom read it from a file, none converted."""
        # Plain integers, since pydicom's tags compare themselves in Python.
        values = cls({int(tag): element.value for tag, element in ds.items()})
        values._ds = ds
        return values

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a character string element, without padding."""
        value = self._values.get(_tag(keyword))
        if value is None:
            return ()
        if isinstance(value, bytes) and len(value) <= KEPT_BYTES_MAX:
            return _texts_again(value)
        return _texts(value)

    def text(self, keyword: str) -> str:
        """Return a character string, several values joined; empty where there is none."""
        return "\\".join(self.texts(keyword))

    def numbers(self, keyword: str) -> tuple[float, ...] | None:
        """Return the values of a DS or IS element; None where one is no finite number."""
        texts = self.texts(keyword)
        kept = sum(map(len, texts)) <= KEPT_BYTES_MAX
        return _numbers_again(texts) if kept else _numbers(texts)

    def integer(self, keyword: str, *, signed: bool = False) -> int | None:
        """Return the first value of an IS, US or SS element; None where it is no integer."""
        value = self._values.get(_tag(keyword))
        if isinstance(value, bytes) and keyword not in INTEGER_STRINGS:
            # A writer's US for what Pixel Representation makes SS, or the reverse, is common.
            big_endian = self._ds is not None and self._ds.original_encoding == (False, False)
            order: Literal["little", "big"] = "big" if big_endian else "little"
            return int.from_bytes(value[:2], order, signed=signed) if value else None
        numbers = self.numbers(keyword)
        return int(numbers[0]) if numbers else None

    def items(self, keyword: str) -> list["HeaderValues"]:
        """Return the items of a sequence; none where it is absent."""
        if self._ds is None or _tag(keyword) not in self._values:
            return []
        return [HeaderValues.of(item) for item in self._ds[keyword].value or ()]


def _texts(value: object) -> tuple[str, ...]:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip("\0 ")
    if "\\" not in text:
        return (text,) if text else ()
    values = tuple(value.strip("\0 ") for value in text.split("\\"))
    return values if any(values) else ()


def _numbers(texts: tuple[str, ...]) -> tuple[float, ...] | None:
    if not all(map(DECIMAL.fullmatch, texts)):
        return None
    numbers = tuple(map(float, texts))
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


@lru_cache(VALUES_KEPT)
def _texts_again(value: bytes) -> tuple[str, ...]:
    return _texts(value)


@lru_cache(VALUES_KEPT)
def _numbers_again(texts: tuple[str, ...]) -> tuple[float, ...] | None:
    return _numbers(texts)


@cache
def _tag(keyword: str) -> int:
    return int(Tag(keyword))
