"""Are the bytes kept? Instances of 15 transfer syntaxes in, and each data set compared.

    python bench/bytes.py                   1,000 instances over 4 associations
    python bench/bytes.py --instances 45    a sample

The slice of ``cornerstone_ct_16ts`` is sent in all its transfer syntaxes, each copy with its own
UID. One table leaves, and exit code 1 where a data set is missing or is another than was sent.
"""

import argparse
import itertools
import sys
import tempfile
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import raw_scu
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # The role is shared with the tests.

from osteon.pipeline.instances.digest import digest_of  # noqa: E402 - above
from osteon.pipeline.instances.part10 import decode_header  # noqa: E402
from tests.anomaly.role import Role  # noqa: E402

DATA = REPOSITORY.parent / "shared" / "data" / "cornerstone_ct_16ts"
INSTANCES, ASSOCIATIONS, DEADLINE_S = 1_000, 4, 300.0


def copies(originals: list[raw_scu.Instance], count: int) -> list[raw_scu.Instance]:
    """So many instances, of each original in turn; every one has another UID of the same length."""
    return [
        _renamed(original, f"{original.sop_instance_uid[:-5]}{10_000 + number}")
        for number, original in enumerate(itertools.islice(itertools.cycle(originals), count))
    ]


def _renamed(instance: raw_scu.Instance, uid: str) -> raw_scu.Instance:
    is_deflated = instance.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    raw = zlib.decompress(instance.dataset, -zlib.MAX_WBITS) if is_deflated else instance.dataset
    raw = raw.replace(instance.sop_instance_uid.encode(), uid.encode())
    if is_deflated:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = deflate.compress(raw) + deflate.flush()
    return replace(instance, sop_instance_uid=uid, dataset=raw)


def kept(data_dir: Path) -> Counter[tuple[str, str, str]]:
    """UID, transfer syntax and hash of each data set in the spool."""
    found: Counter[tuple[str, str, str]] = Counter()
    for file in (data_dir / "spool").rglob("*.dcm"):
        raw = file.read_bytes()
        meta, at = decode_header(raw)
        digest = digest_of(raw[at:])
        found[meta.sop_instance_uid, meta.transfer_syntax_uid, digest] += 1
    return found


def run(data: Path, count: int, folder: Path) -> dict[str, tuple[int, int]]:
    """Send and compare; of each transfer syntax, how many were sent and how many kept as sent."""
    originals = raw_scu.load(data)
    if not originals:
        raise SystemExit(f"{data}: no instances there: name a folder of them with --data")
    sent = copies(originals, count)
    with Role(folder / "data").start() as role:
        report = raw_scu.send(
            ("127.0.0.1", role.port),
            "OSTEON",
            sent,
            associations=ASSOCIATIONS,
            deadline_s=DEADLINE_S,
        )
        role.terminate()
    if dict(report.statuses) != {"0x0000": count}:
        raise SystemExit(f"answers {dict(report.statuses)}")
    held = kept(folder / "data")
    if held.total() != count:
        raise SystemExit(f"{held.total()} files of {count} instances")
    rows: dict[str, tuple[int, int]] = {}
    for instance in sent:
        digest = digest_of(instance.dataset)
        key = (instance.sop_instance_uid, instance.transfer_syntax_uid, digest)
        before = rows.get(instance.transfer_syntax_uid, (0, 0))
        rows[instance.transfer_syntax_uid] = (before[0] + 1, before[1] + (held[key] == 1))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--data", type=Path, default=DATA, help="one slice in all its syntaxes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bytes-") as folder:
        rows = run(args.data, args.instances, Path(folder).resolve())
    sent, same = (sum(column) for column in zip(*rows.values(), strict=True))
    table = Table(title=f"{same} of {sent} data sets are byte for byte as sent")
    for column in ("transfer syntax", "sent", "identical"):
        table.add_column(column, justify="left" if column[0] == "t" else "right")
    for syntax, figures in sorted(rows.items()):
        table.add_row(UID(syntax).name, *map(str, figures))
    Console(width=100).print(table)
    return int(same != sent)


if __name__ == "__main__":
    sys.exit(main())
