"""A node needs no internet: the demonstration runs where there is no network but loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import require_tool

LOOPBACK_UP = """
import fcntl, socket, struct, sys
UP_AND_RUNNING, SIOCSIFFLAGS = 0x41, 0x8914
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
print("alone", flush=True)
from osteon.cli.main import main
sys.argv = ["osteon", *sys.argv[1:]]
main()
"""


def test_the_demonstration_needs_no_network_beyond_loopback(tmp_path: Path) -> None:
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    done = subprocess.run(
        [
            *(require_tool("unshare"), "--net", *user, sys.executable, "-c", LOOPBACK_UP),
            *("demo", "--slices", "20", "--out", str(tmp_path / "demo"), "--timeout", "240"),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if not done.stdout.startswith("alone"):
        pytest.skip(f"no network of one's own can be had here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "demo" / "pacs").glob("*.dcm"))) == 1
