"""Memory that is freed is there for the next slice, without the kernel clearing it again."""

import platform
import subprocess
import sys

import pytest

SLICES, ARRAYS = 50, 6

PROGRAM = f"""
import resource
import numpy as np
from osteon.pipeline.models.heap import keep_freed
{{first}}
def one_slice():
    kept = [np.ones(2**18, np.float32) for _ in range({ARRAYS})]  # 1 MiB each, then freed.
one_slice()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({SLICES}):
    one_slice()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    """Return how often the kernel had to find a page for all slices but the first."""
    command = [sys.executable, "-c", PROGRAM.format(first=first)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is not glibc's")
def test_freed_memory_is_kept_for_the_next_slice() -> None:
    assert page_faults("") > SLICES * 256  # A quarter of its pages at least, each time anew.
    assert page_faults("keep_freed()") < SLICES
