"""Kill -9 while instances are stored: what was acknowledged is there, and nothing half is."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from tests.pipeline_parts import ct_slice, store_slices

ROUNDS = 20
PIXELS = b"\x7f" * 60_000

STORE = """
import os, sys
from pathlib import Path
from osteon.config.settings import Settings
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from tests.anomaly.test_crash import slice_of
from tests.pipeline_parts import SCANNER

data_dir, first = Path(sys.argv[1]), int(sys.argv[2])
settings = Settings(data_dir=data_dir, pipeline={"disk_reserve_gb": 0.0})
intake = Intake(settings, open_table(data_dir))
os.write(1, b"ready\\n")
for number in range(first, first + 100_000):
    intake.store(
        SCANNER,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.1.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        dataset=slice_of(number),
    )
    os.write(1, b"%d\\n" % number)
"""


def slice_of(number: int) -> bytes:
    """A slice of which no two are alike, long enough for a kill to meet it half written."""
    return (
        ct_slice(number, PatientID=f"P{number}")
        + b"\xe0\x7f\x10\x00OB\x00\x00"
        + len(PIXELS).to_bytes(4, "little")
        + PIXELS
    )


def store_until_killed(data_dir: Path, first: int, after: int) -> list[int]:
    """Start a receiver, kill it soon after so many acknowledgements, and return these."""
    with subprocess.Popen(
        [sys.executable, "-c", STORE, str(data_dir), str(first)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as receiver:
        assert receiver.stdout.readline() == b"ready\n"
        acknowledged = [int(receiver.stdout.readline()) for _ in range(after)]
        receiver.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in receiver.stdout if line.endswith(b"\n")]
        assert receiver.wait(10) == -signal.SIGKILL
    return acknowledged


def check(data_dir: Path, acknowledged: set[int]) -> None:
    table = open_table(data_dir)
    rows = {row["instance_number"]: row for row in table.rows("SELECT * FROM instance")}
    assert acknowledged <= set(rows)
    for number, row in rows.items():
        raw = (data_dir / row["path"]).read_bytes()
        _, at = decode_header(raw)
        assert raw[at:] == slice_of(number)
        assert len(raw) == row["size"]
    held = [row["instances"] for row in table.rows("SELECT instances FROM series")]
    assert held == ([len(rows)] if rows else [])
    for path in (data_dir / "spool").rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            _, at = decode_header(raw)
            assert path.name == digest_of(raw[at:]) + ".dcm"
    table.close()


@pytest.mark.timeout(120)
def test_what_was_acknowledged_survives_kill_9(tmp_path):
    chance = random.Random(20260101)
    data_dir = tmp_path / "data"
    acknowledged: set[int] = set()
    for round_number in range(ROUNDS):
        first = 1 + 1000 * round_number
        acknowledged |= set(store_until_killed(data_dir, first, chance.randint(0, 12)))
        table = open_table(data_dir)
        recover_all(Settings(data_dir=data_dir), table)
        table.close()
        check(data_dir, acknowledged)
        assert not [p for p in (data_dir / "incoming").rglob("*") if p.is_file()]
    assert len(acknowledged) > ROUNDS


def test_what_was_not_acknowledged_can_be_sent_again(tmp_path):
    """The file is durable and the row is not there, as after a kill between the two."""
    data_dir = tmp_path / "data"
    settings = Settings(data_dir=data_dir, pipeline={"disk_reserve_gb": 0.0})
    table = open_table(data_dir)
    (stored,) = store_slices(Intake(settings, table), [1])
    for name in ("instance", "transition", "series"):
        table.change(f"DELETE FROM {name}")
    assert (data_dir / stored.path).is_file()
    (again,) = store_slices(Intake(settings, table), [1])
    assert again == stored
    (row,) = table.rows("SELECT * FROM instance")
    assert row["path"] == stored.path
    table.close()
