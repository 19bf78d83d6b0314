"""Rows of who associated, what came of it, and who was turned away.

Rejections are recorded for intake, in the receiver; what is told is read by ``osteon associations``
and by the story of a series. ``reception.py`` opens and closes what was accepted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.times import iso

REJECTIONS_MAX = 1000  # Rows; of a port scanner the oldest make way.
SERIES_MAX = 1000  # Of one association that are told of as sent again.
REASON_CHARACTERS_MAX = 256


@dataclass
class Brought:
    """What came over one association.

    Attributes
    ----------
    stored, duplicates, refused : int
        Instances acknowledged; of these, held already; not acknowledged.
    refusal : str
        Status and words of the last one refused.
    again : Counter
        Series Instance UID → instances of it that were held already.
    """

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    refusal: str = ""
    again: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` has made a dictionary of."""
        return cls(**{**values, "again": Counter(values["again"])})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can have it."""
        return {**vars(self), "again": dict(self.again)}

    def refuse(self, status: int, why: str) -> None:
        """Count an instance that was refused."""
        self.refused += 1
        self.refusal = f"0x{status:04X}: {why}"[:REASON_CHARACTERS_MAX]

    def store(self, series_instance_uid: str, *, duplicate: bool) -> None:
        """Count an instance that was acknowledged."""
        self.stored += 1
        if duplicate:
            self.duplicates += 1
            if series_instance_uid in self.again or len(self.again) < SERIES_MAX:
                self.again[series_instance_uid] += 1


@dataclass(frozen=True)
class Rejected:
    """Associations that were rejected alike; times in seconds since 1970."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    answer: str
    why: str
    first: float
    last: float
    times: int


def record_rejections(table: Table, rejections: Iterable[Rejected]) -> None:
    """Record who was turned away, in one transaction; the oldest make way for what is too many."""
    with table.write():
        for one in rejections:
            table.change(
                "INSERT INTO rejection (calling_ae_title, called_ae_title, address, answer, why,"
                " first, last, times) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " why = excluded.why, last = excluded.last, times = times + excluded.times",
                (
                    one.calling_ae_title,
                    one.called_ae_title,
                    one.address,
                    one.answer,
                    one.why[:REASON_CHARACTERS_MAX],
                    one.first,
                    one.last,
                    one.times,
                ),
            )
        table.change(
            "DELETE FROM rejection WHERE (calling_ae_title, called_ae_title, address, answer) IN"
            " (SELECT calling_ae_title, called_ae_title, address, answer FROM rejection"
            " ORDER BY last DESC LIMIT -1 OFFSET ?)",
            (REJECTIONS_MAX,),
        )


def latest(
    table: Table, *, calling: str | None = None, since: float = 0.0, limit: int = 50
) -> list[dict[str, Any]]:
    """Return associations, accepted and rejected, the newest first.

    Parameters
    ----------
    calling : str, optional
        Only those of this calling AE title.
    since : float
        Only those that opened, or were last rejected, at this time or later; seconds since 1970.
    """
    only = "" if calling is None else "calling_ae_title = :calling AND "
    asked = {"calling": calling, "since": since, "limit": limit}
    accepted = table.rows(
        f"SELECT * FROM association WHERE {only}opened >= :since"  # noqa: S608 - from above
        " ORDER BY opened DESC LIMIT :limit",
        asked,
    )
    rejected = table.rows(
        f"SELECT * FROM rejection WHERE {only}last >= :since"  # noqa: S608 - from above
        " ORDER BY last DESC LIMIT :limit",
        asked,
    )
    times = [(row["opened"], told(row)) for row in accepted]
    times += [(row["last"], _told_rejection(row)) for row in rejected]
    return [one for _, one in sorted(times, key=lambda pair: -pair[0])[:limit]]


def of_series(table: Table, series: Row) -> list[dict[str, Any]]:
    """Return the associations that brought instances of a series generation, the oldest first.

    Of each, ``instances`` counts those that it brought first, ``again`` those that it brought and
    that were held already. One that brought nothing new belongs to the generation that was the
    newest when it closed.
    """
    rows = table.rows(
        "WITH came AS MATERIALIZED (SELECT association_id AS id, count(*) AS instances"
        " FROM instance WHERE series_instance_uid = :uid AND generation = :generation"
        " GROUP BY association_id),"
        " back AS MATERIALIZED (SELECT association_id AS id, instances AS again FROM duplicate"
        " JOIN association ON association.id = association_id WHERE series_instance_uid = :uid"
        " AND (SELECT max(generation) FROM series WHERE series_instance_uid = :uid"
        " AND first <= association.closed) = :generation)"
        " SELECT association.*, coalesce(came.instances, 0) AS instances,"
        " coalesce(back.again, 0) AS again"
        " FROM (SELECT id FROM came UNION SELECT id FROM back) AS ids"
        " JOIN association ON association.id = ids.id"
        " LEFT JOIN came ON came.id = ids.id LEFT JOIN back ON back.id = ids.id"
        " ORDER BY association.opened, association.id",
        {"uid": series["series_instance_uid"], "generation": series["generation"]},
    )
    return [told(row) | {"instances": row["instances"], "again": row["again"]} for row in rows]


def uploaded(table: Table, series: Row) -> int:
    """Return how many instances of a series generation came over no association."""
    row = table.row(
        "SELECT count(*) AS n FROM instance WHERE series_instance_uid = ? AND generation = ?"
        " AND association_id IS NULL",
        (series["series_instance_uid"], series["generation"]),
    )
    return 0 if row is None else int(row["n"])


def told(row: Row) -> dict[str, Any]:
    """Return an accepted association as plain JSON values."""
    return _caller(row) | {
        "opened": iso(row["opened"]),
        "closed": iso(row["closed"]),
        "outcome": row["outcome"],
        "stored": row["stored"],
        "duplicates": row["duplicates"],
        "refused": row["refused"],
        "refusal": row["refusal"],
        "rejected": 0,
    }


def _told_rejection(row: Row) -> dict[str, Any]:
    return _caller(row) | {
        "opened": iso(row["first"]),
        "closed": iso(row["last"]),
        "outcome": f"rejected {row['answer']}: {row['why']}",
        "stored": 0,
        "duplicates": 0,
        "refused": 0,
        "refusal": "",
        "rejected": row["times"],
    }


def _caller(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("calling_ae_title", "called_ae_title", "address")}
