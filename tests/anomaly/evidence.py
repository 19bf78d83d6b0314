"""What is on the disk after a fault: the judge of every crash test.

A data directory and the ledger of its senders enter; a list of sentences leaves, one for every
broken promise, empty where all were kept.
"""

from collections import Counter
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

from osteon.errors import OsteonError
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.table.connection import open_table


def broken_promises(data_dir: Path, acknowledged: Set[tuple[str, str]]) -> list[str]:
    """Say what was lost or torn.

    Parameters
    ----------
    acknowledged : set of (str, str)
        SOP Instance UID and SHA-256 of the data set of each instance that was answered 0x0000.

    Notes
    -----
    Instances that were not acknowledged may be there, and one may be there twice.
    """
    held = dict(_spool(data_dir))
    broken = [f"torn: {name}: {why}" for name, why in held.items() if why]
    try:
        table = open_table(data_dir)
    except OsteonError as error:
        return [*broken, f"table: {error}"]
    try:
        rows = table.rows("SELECT * FROM instance")
        series = table.rows(
            "SELECT series_instance_uid, max(instances) AS n FROM series GROUP BY 1"
        )
        checked = [row[0] for row in table.rows("PRAGMA integrity_check")]
    except OsteonError as error:
        return [*broken, f"table: {error}"]
    finally:
        table.close()
    broken += [f"table: {said}" for said in checked if said != "ok"]
    found = set()
    for row in rows:
        path = data_dir / row["path"]
        if row["path"] not in held:
            broken.append(f"on record without a file: {row['sop_instance_uid']}")
        elif path.stem != row["digest"] or path.stat().st_size != row["size"]:
            broken.append(f"on record with another file: {row['sop_instance_uid']}")
        else:
            found.add((row["sop_instance_uid"], row["digest"]))
    broken += [f"lost: {uid} was acknowledged" for uid, _ in sorted(acknowledged - found)]
    counts = Counter(
        u for u, _ in {(r["series_instance_uid"], r["sop_instance_uid"]) for r in rows}
    )
    if counts != {row["series_instance_uid"]: row["n"] for row in series}:
        broken.append(f"series count their instances wrong: {dict(counts)}")
    return broken


def left_behind(data_dir: Path) -> list[Path]:
    """Files in ``incoming``: what is being received, or was forgotten there.

    Empty files are names for the next instances; one that has another name is in the spool.
    """
    left = []
    for path in (data_dir / "incoming").rglob("*"):
        with suppress(FileNotFoundError):
            found = path.stat()
            if path.is_file() and found.st_size and found.st_nlink == 1:
                left.append(path)
    return left


def _spool(data_dir: Path) -> Iterator[tuple[str, str]]:
    """Every file that is visible under spool/, and what is wrong with it."""
    for path in (data_dir / "spool").rglob("*"):
        if path.is_file():
            yield str(path.relative_to(data_dir)), _fault(path)


def _fault(path: Path) -> str:
    raw = path.read_bytes()
    try:
        _, at = decode_header(raw)
    except OsteonError as error:
        return str(error)
    return "" if digest_of(raw[at:]) == path.stem else "its content is another"
