"""Every transfer syntax is kept byte for byte: a sample of ``bench/bytes.py``."""

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "bench"


def test_a_sample_of_all_syntaxes_is_kept_as_sent(shared_data: Path) -> None:
    data = shared_data / "cornerstone_ct_16ts"
    done = subprocess.run(
        [sys.executable, BENCH / "bytes.py", "--instances", "45", "--data", data],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "45 of 45 data sets are byte for byte as sent" in done.stdout
    assert len(re.findall(r"│ +3 │ +3 │", done.stdout)) == 15
