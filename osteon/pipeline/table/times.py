"""How a time of the job table leaves it."""

from datetime import UTC, datetime


def iso(seconds: float | None) -> str | None:
    """Write a time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
