"""Rows of what was received: associations, instances, and the series they open.

Called by intake alone, in the receiver and in the HTTP process.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from osteon.pipeline.completeness import quiet_words
from osteon.pipeline.instances.index import Header, to_json
from osteon.pipeline.table.associations import Brought
from osteon.pipeline.table.connection import Row, Table

UPLOAD_AE_TITLE = "HTTP"  # Recorded as the source of an upload; routes and sources may name it.
_COLUMNS = (
    "sop_instance_uid, digest, sop_class_uid, transfer_syntax_uid, series_instance_uid,"
    " association_id, path, size, instance_number, position, orientation, received, generation"
)
_JOINER = ", ".join("?" * 14)
# The newest row wins: within a generation that is still open, an older one makes way.
_INSERT = f"INSERT OR REPLACE INTO instance ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"  # noqa: S608


@dataclass(frozen=True)
class Origin:
    """Who sent, by which way.

    Attributes
    ----------
    association_id : int or None
        Row of the association; None for an HTTP upload.
    """

    calling_ae_title: str
    called_ae_title: str
    address: str
    association_id: int | None = None


@dataclass(frozen=True)
class Received:
    """One durable instance that is about to be told of."""

    header: Header
    transfer_syntax_uid: str
    digest: str
    path: str
    size: int


def open_association(table: Table, calling: str, called: str, address: str) -> int:
    """Record that an association was accepted and return its id."""
    with table.write():
        return table.insert(
            "INSERT INTO association (calling_ae_title, called_ae_title, address, opened)"
            " VALUES (?, ?, ?, ?)",
            (calling, called, address, table.clock()),
        )


def close_association(
    table: Table, association_id: int, outcome: str, *, cut: bool, brought: Brought | None = None
) -> None:
    """Record how an association ended and what came over it; what was recorded first stays.

    Parameters
    ----------
    cut : bool
        Whether its sender was cut off: it was in the middle of something, and has to come again.
    brought : Brought, optional
        Unknown where absent.
    """
    counts: tuple[object, ...] = (None, None, None, "")
    if brought is not None:
        counts = (brought.stored, brought.duplicates, brought.refused, brought.refusal)
    with table.write():
        closed = table.change(
            "UPDATE association SET closed = ?, outcome = ?, cut = ?, stored = ?, duplicates = ?,"
            " refused = ?, refusal = ? WHERE id = ? AND closed IS NULL",
            (table.clock(), outcome, int(cut), *counts, association_id),
        )
        for uid, instances in brought.again.items() if closed and brought else ():
            table.change(
                "INSERT INTO duplicate (association_id, series_instance_uid, instances)"
                " VALUES (?, ?, ?)",
                (association_id, uid, instances),
            )


def find_instance(table: Table, header: Header, digest: str) -> Row | None:
    """Return the row of an instance whose present version has these bytes, or None.

    Bytes that were held before, and then replaced by others, are news when they come again.
    """
    return table.row(
        "SELECT * FROM instance WHERE digest = ?3 AND id = (SELECT max(id) FROM instance"
        " WHERE sop_instance_uid = ?1 AND series_instance_uid = ?2)",
        (header.sop_instance_uid, header.series_instance_uid, digest),
    )


def was_received(table: Table, received: Received) -> bool:
    """Return whether these bytes are on record, be it as an older version of their instance."""
    header = received.header
    return bool(
        table.rows(
            "SELECT 1 FROM instance WHERE sop_instance_uid = ? AND series_instance_uid = ?"
            " AND digest = ? LIMIT 1",
            (header.sop_instance_uid, header.series_instance_uid, received.digest),
        )
    )


def resize_instance(table: Table, path: str, size: int) -> None:
    """Record that a damaged file was written anew, perhaps with another sender's header."""
    table.change("UPDATE instance SET size = ? WHERE path = ?", (size, path))


def add_instance(table: Table, origin: Origin, received: Received, *, quiet_s: float) -> bool:
    """Record one durable instance, as `add_instances` does, and return whether it is new."""
    return add_instances(table, [(origin, received, quiet_s)])[0]


def add_instances(table: Table, batch: Sequence[tuple[Origin, Received, float]]) -> list[bool]:
    """Record durable instances with their series.

    An instance of a series that is still receiving joins its generation; one of a complete series
    opens the next generation. An instance that is on record already, with the same bytes, changes
    nothing.

    Rows of those that join, all together, are seen at once, but are on the disk after `sync_rows`
    only: until then the caller keeps the draft that they can be made from again. Whatever else
    is recorded is on the disk already.

    Parameters
    ----------
    batch : sequence of tuples
        Who sent the instance, what was received, and how long after it, in seconds, the observer
        looks at the series.

    Returns
    -------
    list of bool
        Which of them are new.
    """
    if table.attempt(
        _joining(len(batch)), [v for arrived in batch for v in _joiner(table, *arrived)]
    ):
        return [True] * len(batch)
    with table.write():
        return [_add(table, *arrived) for arrived in batch]


def sync_rows(table: Table, role: str) -> None:
    """Put on the disk whatever was recorded before."""
    with table.write():
        table.change(
            "INSERT INTO synced (role, at) VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET at = excluded.at",
            (role, table.clock()),
        )


@cache
def _joining(count: int) -> str:
    """Return the statement that puts so many instances on record, or none, if one does not join."""
    return f"INSERT INTO joining VALUES {', '.join([f'({_JOINER})'] * count)}"  # noqa: S608


def _joiner(table: Table, origin: Origin, received: Received, quiet_s: float) -> tuple[object, ...]:
    """Return the values of a row of ``joining``."""
    return (*_row_of(origin, received, table.clock()), quiet_s, quiet_words(quiet_s))


def _add(table: Table, origin: Origin, received: Received, quiet_s: float) -> bool:
    """Insert an instance of which anything may be true."""
    header, now = received.header, table.clock()
    if find_instance(table, header, received.digest) is not None:
        return False
    generation = _join_generation(table, header, now, quiet_s)
    if generation is None:
        generation = _open_generation(table, origin, header, quiet_s)
    table.change(_INSERT, (*_row_of(origin, received, now), generation))
    return True


def _join_generation(table: Table, header: Header, now: float, quiet_s: float) -> int | None:
    """Return the generation of a series that is still receiving, or None."""
    row = table.row(
        "UPDATE series SET last = ?1, due = ?1 + ?2, waits_for = ?5,"
        " instances = instances + NOT EXISTS"
        " (SELECT 1 FROM instance WHERE sop_instance_uid = ?3 AND series_instance_uid = ?4)"
        " WHERE id = (SELECT id FROM series WHERE series_instance_uid = ?4"
        " ORDER BY generation DESC LIMIT 1) AND state = 'receiving' RETURNING generation",
        (
            now,
            quiet_s,
            header.sop_instance_uid,
            header.series_instance_uid,
            quiet_words(quiet_s),
        ),
    )
    return None if row is None else int(row["generation"])


def _open_generation(table: Table, origin: Origin, header: Header, quiet_s: float) -> int:
    newest = table.row(
        "SELECT generation, instances FROM series WHERE series_instance_uid = ?"
        " ORDER BY generation DESC LIMIT 1",
        (header.series_instance_uid,),
    )
    known = table.row(
        "SELECT 1 FROM instance WHERE sop_instance_uid = ? AND series_instance_uid = ?",
        (header.sop_instance_uid, header.series_instance_uid),
    )
    generation = 1 if newest is None else int(newest["generation"]) + 1
    held = (0 if newest is None else int(newest["instances"])) + (known is None)
    now = table.clock()
    series_id = table.insert(
        "INSERT INTO series (series_instance_uid, generation, study_instance_uid,"
        " calling_ae_title, called_ae_title, modality, accession_number, patient_id, header,"
        " state, instances, first, last, due, waits_for)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'receiving', ?, ?, ?, ?, ?)",
        (
            header.series_instance_uid,
            generation,
            header.study_instance_uid,
            origin.calling_ae_title,
            origin.called_ae_title,
            header.modality,
            header.accession_number,
            header.patient_id,
            json.dumps(header.values),
            held,
            now,
            now,
            now + quiet_s,
            quiet_words(quiet_s),
        ),
    )
    table.insert(
        "INSERT INTO transition (at, series_id, event, to_state, who, why)"
        " VALUES (?, ?, 'open', 'receiving', 'intake', ?)",
        (now, series_id, f"generation {generation} from {_sender(origin)}"),
    )
    return generation


def _sender(origin: Origin) -> str:
    """Name a sender; an upload has no association that tells where it came from."""
    is_upload = origin.association_id is None and origin.calling_ae_title == UPLOAD_AE_TITLE
    return f"an HTTP upload by {origin.address}" if is_upload else origin.calling_ae_title


def _row_of(origin: Origin, received: Received, now: float) -> tuple[object, ...]:
    """Return the values of all columns but the last."""
    header = received.header
    return (
        header.sop_instance_uid,
        received.digest,
        header.sop_class_uid,
        received.transfer_syntax_uid,
        header.series_instance_uid,
        origin.association_id,
        received.path,
        received.size,
        header.instance_number,
        to_json(header.position_mm),
        to_json(header.orientation),
        now,
    )
