"""What a person means by a name: the jobs behind an id, a series, a study or an accession number.

Called by ``osteon jobs retry`` and ``cancel`` and by the views; nothing is written.
"""

from osteon.errors import NotFoundError
from osteon.pipeline.table.connection import Row, Table


def jobs_named(table: Table, name: str) -> list[Row]:
    """Return the jobs that a name means, the oldest first.

    Parameters
    ----------
    name : str
        A job id; or a Series or Study Instance UID or an accession number, which mean the jobs of
        the newest generation of each of their series, without those that were replaced.

    Raises
    ------
    NotFoundError
        Nothing held here has this name, its series are still receiving, or a number is both the id
        of a job and the accession number of another one's study.
    """
    found = table.rows(
        "SELECT job.*, series.series_instance_uid FROM series JOIN job ON job.series_id = series.id"
        " WHERE (series.series_instance_uid = :name OR study_instance_uid = :name"
        " OR (accession_number = :name AND accession_number <> ''))"
        " AND generation = (SELECT max(generation) FROM series AS any"
        " WHERE any.series_instance_uid = series.series_instance_uid)"
        " AND job.replaced_by IS NULL ORDER BY job.id",
        {"name": name},
    )
    own = table.row("SELECT * FROM job WHERE id = ?", (as_id(name),))
    if own is None:
        if not found:
            _refuse(table, name)
        return found
    if any(job["id"] != own["id"] for job in found):
        raise NotFoundError(
            f"{name} is the id of a job and an accession number: name the Series Instance UID"
        )
    return [own]


def as_id(name: str) -> int:
    """Return the job id that a name may be; where it is none -1, which no job has."""
    return int(name[:18]) if name.isascii() and name.isdecimal() else -1


def _refuse(table: Table, name: str) -> None:
    receiving = table.row(
        "SELECT 1 FROM series WHERE series_instance_uid = :name OR study_instance_uid = :name"
        " OR (accession_number = :name AND accession_number <> '')",
        {"name": name},
    )
    if receiving is not None:
        raise NotFoundError(f"{name!r} is still receiving: it has no job yet")
    raise NotFoundError(f"{name!r} is no job, series, study or accession number held here")
