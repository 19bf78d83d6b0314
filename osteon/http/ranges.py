"""Read a Range header: which bytes of a file are wanted.

The header and the file's size enter, one range leaves; ``files.py`` calls it.
"""

import re

_ONE_RANGE = re.compile(r"^bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*$", re.IGNORECASE)


class UnsatisfiableError(ValueError):
    """The range starts behind the end of the file (416)."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte wanted and the one behind the last.

    Parameters
    ----------
    header : str or None
        The Range header. Several ranges, other units and malformed headers mean the whole file,
        as RFC 9110 allows.
    size : int
        Size of the file in bytes.

    Returns
    -------
    tuple of int, or None
        ``(start, stop)`` with ``0 <= start < stop <= size``; None is the whole file.

    Raises
    ------
    UnsatisfiableError
        No byte of the file is in the range.

    References
    ----------
    RFC 9110 section 14.1.2 and 14.2
    """
    found = _ONE_RANGE.match(header or "")
    if found is None:
        return None
    first, last = found.groups()
    if first:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= stop:
        raise UnsatisfiableError(f"{header} of a file of {size} bytes")
    return start, stop
