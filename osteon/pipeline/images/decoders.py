"""Compressed slices decoded by several processes, where that is worth their start.

Pixel sources enter, their stored values leave in the same order; `volume.py` calls it. The decoders
hold Python's lock, so threads gain nothing. A decoder process ends with the one that it works for,
whatever way that ends, because the other end of its pipe is gone then.
"""

import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from osteon.errors import OsteonError, StageError
from osteon.pipeline.images.pixels import PixelSource, read_frames

# Seconds to decode a million pixels, measured on 512 x 512 CT slices; native pixels need none.
MEGAPIXEL_S: dict[str, float] = {
    JPEG2000: 0.08,
    JPEG2000Lossless: 0.08,
    JPEGBaseline8Bit: 0.012,
    JPEGExtended12Bit: 0.025,
    JPEGLossless: 0.03,
    JPEGLosslessSV1: 0.03,
    JPEGLSLossless: 0.02,
    JPEGLSNearLossless: 0.02,
    RLELossless: 0.013,
}
START_S = 0.6  # of a process: Python, numpy, pydicom and the decoders
GAIN_MIN = 3.0  # what is saved, in times of that, before processes are started
PROCESSES_MAX = 8
AHEAD = 2  # Slices that a process is given before the first of them is fetched.
SLICE_S_MAX = 120.0  # A slice that takes longer will never be decoded.

Frames = list[NDArray[Any]]


def processes_for(sources: Sequence[PixelSource], cores: int) -> int:
    """Say by how many processes slices should be decoded; 0 where this one does it as well.

    Parameters
    ----------
    cores : int
        How many may be used.
    """
    count = min(cores, PROCESSES_MAX, len(sources))
    if count < 2:
        return 0
    needed_s = sum(
        MEGAPIXEL_S.get(source.transfer_syntax_uid, 0.0)
        * source.frames * source.rows * source.columns / 1e6
        for source in sources
    )  # fmt: skip
    return count if needed_s * (1 - 1 / count) > GAIN_MIN * START_S else 0


def cores_here() -> int:
    """Return how many cores this process may use: its slot's share, or all that it is given."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    return int(share) if share.isdecimal() else len(os.sched_getaffinity(0))


def decode(sources: Sequence[PixelSource], processes: int) -> Generator[Frames, None, None]:
    """Decode instances by several processes.

    Parameters
    ----------
    sources : sequence of PixelSource
        The instances, of any transfer syntax.
    processes : int
        At least 1.

    Yields
    ------
    list of ndarray of integers, shape (rows, columns)
        Stored values of the frames of each instance, as `read_frames` gives them, in the order of
        the sources.

    Raises
    ------
    VolumeError, StageError
        As `read_frames`; also StageError where a process died or takes too long.
    """
    context = multiprocessing.get_context("spawn")
    links: list[Connection] = []
    running = []
    try:
        for _ in range(processes):
            link, theirs = context.Pipe()
            links.append(link)
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            running.append(process)
        waiting: deque[Connection] = deque()
        for index, source in enumerate(sources):
            _ask(links[index % processes], source)
            waiting.append(links[index % processes])
            if len(waiting) > AHEAD * processes:
                yield _fetch(waiting.popleft())
        while waiting:
            yield _fetch(waiting.popleft())
    finally:
        for link in links:
            link.close()
        for process in running:
            process.kill()
            process.join(START_S)


def _ask(link: Connection, source: PixelSource) -> None:
    try:
        link.send(source)
    except OSError as error:
        raise StageError(f"a process that decodes pixels died: {error}") from error


def _fetch(link: Connection) -> Frames:
    try:
        if not link.poll(SLICE_S_MAX):
            raise StageError(f"a slice was not decoded within {SLICE_S_MAX:g} s")
        answer: Frames | OsteonError = link.recv()
    except (EOFError, ConnectionError) as error:
        raise StageError("a process that decodes pixels died") from error
    if isinstance(answer, OsteonError):
        raise answer
    return answer


def _serve(link: Connection) -> None:
    """Decode what is asked for, in a process of its own, until nobody is there to ask."""
    warnings.simplefilter("ignore")  # pydicom's; what matters is raised.
    while True:
        try:
            source: PixelSource = link.recv()
        except EOFError:
            return
        answer: Frames | OsteonError
        try:
            answer = [np.ascontiguousarray(frame) for frame in read_frames(source)]
        except OsteonError as error:
            answer = error
        try:
            link.send(answer)
        except OSError:  # Nobody waits for it any more.
            return
