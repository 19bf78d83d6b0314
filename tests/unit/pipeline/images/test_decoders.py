"""Slices decoded by other processes: the same values, in order, and every failure named."""

import multiprocessing
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from osteon.errors import StageError, VolumeError
from osteon.pipeline import volume
from osteon.pipeline.images.decoders import cores_here, decode, processes_for
from osteon.pipeline.images.header import read_header
from osteon.pipeline.images.pixels import PixelSource, read_frames
from osteon.pipeline.volume import read_volume
from tests.tools import wait_until
from tests.unit.pipeline.ct import series, write


def sources(shared_data: Path) -> list[PixelSource]:
    paths = sorted((shared_data / "cornerstone_ct_16ts").glob("*.dcm"))
    return [read_header(path).pixels for path in paths]


def test_every_syntax_is_decoded_as_here_and_in_order(shared_data: Path) -> None:
    given = sources(shared_data)
    for source, frames in zip(given, decode(given, 2), strict=True):
        [expected] = read_frames(source)
        [found] = frames
        assert found.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, expected)
    assert not multiprocessing.active_children()


def test_a_damaged_slice_is_named_and_no_process_is_left(shared_data: Path) -> None:
    given = sources(shared_data)
    given[5] = replace(given[5], rows=100)
    with pytest.raises(VolumeError, match=r"image \d+ .*: the pixel data is damaged"):
        list(decode(given, 2))
    assert not multiprocessing.active_children()


def test_a_process_that_dies_costs_the_attempt_and_nothing_waits(shared_data: Path) -> None:
    given = sources(shared_data) * 2
    with closing(decode(given, 2)) as decoded:
        next(decoded)
        for process in multiprocessing.active_children():
            process.kill()
            process.join(10)
        with pytest.raises(StageError, match="a process that decodes pixels died") as failure:
            list(decoded)
    assert failure.value.retryable
    wait_until(lambda: not multiprocessing.active_children())


@pytest.mark.parametrize(
    ("syntax", "count", "cores", "processes"),
    [
        (JPEG2000Lossless, 300, 2, 2),
        (JPEG2000Lossless, 300, 64, 8),
        (JPEG2000Lossless, 300, 1, 0),
        (JPEG2000Lossless, 60, 2, 0),
        (JPEGLSLossless, 300, 2, 0),
        (JPEGLSLossless, 1000, 2, 2),
        (ExplicitVRLittleEndian, 5000, 8, 0),
    ],
)
def test_processes_are_started_where_they_save_more_than_they_cost(
    tmp_path: Path, syntax: str, count: int, cores: int, processes: int
) -> None:
    [path] = write(tmp_path, series(1))
    one = replace(read_header(path).pixels, transfer_syntax_uid=str(syntax), rows=512, columns=512)
    assert processes_for([one] * count, cores) == processes


def test_a_slot_has_its_share_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores_here() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores_here() >= 1


def test_a_volume_is_the_same_with_processes(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((shared_data / "ts_siemens_j2k" / "dicom").iterdir())[:6]
    here = read_volume(paths)
    asked: list[int] = []

    def always(given: list[PixelSource], cores: int) -> int:
        asked.append(len(given))
        return 2

    monkeypatch.setattr(volume, "processes_for", always)
    elsewhere = read_volume(paths[::-1])
    assert asked == [6]
    assert elsewhere.hu_zyx.dtype == here.hu_zyx.dtype
    np.testing.assert_array_equal(elsewhere.hu_zyx, here.hu_zyx)
    assert elsewhere.frames == here.frames


ABANDON = """
import multiprocessing, pathlib, sys, time
from osteon.pipeline.images.decoders import decode
from osteon.pipeline.images.header import read_header
sources = [read_header(pathlib.Path(path)).pixels for path in sys.argv[1:]]
decoded = decode(sources, 2)
next(decoded)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(60)
"""


def test_no_process_outlives_a_killed_parent(shared_data: Path) -> None:
    paths = sorted((shared_data / "ts_siemens_j2k" / "dicom").iterdir())[:8]
    command = [sys.executable, "-W", "ignore", "-c", ABANDON, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    wait_until(lambda: not any(map(_runs, children)))


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
