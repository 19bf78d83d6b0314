"""What a worker process keeps between stages: models, slices that came early, a few volumes.

Model names and source files enter; loaded models, volumes and the evidence of slices leave. Called
by the stages, of which one computes while the next one's volume is read and the last one's result
is encoded. All of it is a cache: without it the same values are read and computed again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osteon.errors import StageError, VolumeError
from osteon.pipeline.images.geometry import FrameHeader
from osteon.pipeline.models.heap import keep_freed
from osteon.pipeline.models.model import Model, load_model
from osteon.pipeline.prediction import Evidence, predict_slices
from osteon.pipeline.progress import tell
from osteon.pipeline.volume import Slices, SourceFrame, Volume, read_slices, read_volume
from osteon.pipeline.workers.evidencecache import WORTH_S, EvidenceCache
from osteon.pipeline.workers.request import CacheSettings, SliceRequest, StageRequest

HELD_BYTES_MAX = 2 * 2**30  # Two CT series of 1,000 slices; the oldest instance goes first.
VOLUMES_MAX = 3  # What is encoded, what is computed, what comes next.
# Files of a lossless series unpack to three times their size at most; as much again stays free.
FREE_PER_BYTE = 6


@dataclass
class _Held:
    """One instance that came early: its slices until a volume took them, and their evidence."""

    slices: Slices | None
    evidence: dict[str, dict[SourceFrame, Evidence]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        hu = 0 if self.slices is None else sum(hu_yx.nbytes for hu_yx in self.slices.hu_yx)
        return hu + sum(e.bytes_yx.nbytes for of in self.evidence.values() for e in of.values())


class Warm:
    """The caches of one worker process."""

    def __init__(self) -> None:
        keep_freed()
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._volumes: OrderedDict[str, Future[Volume]] = OrderedDict()
        self._held: OrderedDict[Path, _Held] = OrderedDict()
        self._caches: dict[CacheSettings, EvidenceCache] = {}

    def model(self, name: str, models_dir: Path | None) -> Model:
        """Return a model, loaded once.

        Raises
        ------
        ModelError
            It cannot be loaded.
        """
        if name not in self._models:
            self._models[name] = load_model(name, models_dir)
        return self._models[name]

    def volume(self, request: StageRequest) -> Volume:
        """Return the volume of a request's input; the slices that were held become part of it.

        One that is being read by another thread is waited for.

        Raises
        ------
        VolumeError, StageError
            As `read_volume`.
        """
        with self._lock:
            future = self._volumes.get(request.input_sha256)
            is_mine = future is None
            if future is None:
                self._evict()
                future = self._volumes[request.input_sha256] = Future()
        try:
            if is_mine:
                self._read(request, future)
            return future.result()
        finally:
            if future.exception() is not None:  # Another attempt may find the files whole.
                self.drop(request)

    def read_ahead(self, request: StageRequest) -> None:
        """Read the volume of what comes next, where memory allows; its job says what is wrong."""
        size = sum(path.stat().st_size for path in request.inputs if path.exists())
        if available_bytes() < FREE_PER_BYTE * size:
            return
        with suppress(VolumeError, StageError):
            self.volume(request)

    def drop(self, request: StageRequest) -> None:
        """Let go of a volume whose job is over."""
        with self._lock:
            self._volumes.pop(request.input_sha256, None)

    def _evict(self) -> None:
        """Make room for one more; what is still being read stays."""
        for name in [name for name, future in self._volumes.items() if future.done()]:
            if len(self._volumes) < VOLUMES_MAX:
                return
            del self._volumes[name]

    def _read(self, request: StageRequest, future: "Future[Volume]") -> None:
        with self._lock:
            held = {path: self._held[path].slices for path in request.inputs if path in self._held}
        known = {path: slices for path, slices in held.items() if slices is not None}
        volume: Volume | None = None
        error: Exception = StageError("another thread could not read the volume")
        try:
            volume = read_volume(request.inputs, held=known, on_frame=tell)
        except (VolumeError, StageError, MemoryError) as found:
            error = found
        finally:
            if volume is None:
                future.set_exception(error)
        if volume is None:
            return
        with self._lock:
            for path in known:
                if path in self._held:
                    self._held[path].slices = None
        future.set_result(volume)

    def evidence(
        self, request: StageRequest, model: Model, volume: Volume
    ) -> dict[SourceFrame, Evidence]:
        """Return what a 2D model has said of slices before: here, elsewhere, or long ago."""
        if model.dimension != "2d":
            return {}
        frames_of: dict[Path, list[SourceFrame]] = {}
        for frame in sorted(volume.frames, key=lambda frame: frame.frame):
            frames_of.setdefault(frame.path, []).append(frame)
        found: dict[SourceFrame, Evidence] = {}
        for path, frames in frames_of.items():
            known = self._evidence_here(path, model.digest)
            if not known and request.cache is not None:
                kept = self._cache(request.cache).get(path, model.digest, frames)
                known = dict(zip(frames, kept, strict=False))
            found |= known
        affine = volume.geometry.affine
        return {frame: evidence for frame, evidence in found.items() if evidence.fits(affine)}

    def keep(
        self,
        request: StageRequest,
        model: Model,
        volume: Volume,
        prediction_zyx: NDArray[np.uint8],
        known: Mapping[SourceFrame, Evidence],
        seconds: float,
    ) -> None:
        """Keep what a 2D model has said now, where predicting costs more than reading it back.

        Parameters
        ----------
        prediction_zyx : ndarray of uint8, shape (slices, rows, columns)
            Of the whole volume.
        known : mapping of SourceFrame to Evidence
            What was not predicted now.
        seconds : float
            How long the rest took.
        """
        new = len(volume.frames) - len(known)
        if model.dimension != "2d" or request.cache is None or seconds < WORTH_S * max(1, new):
            return
        in_plane = volume.geometry.affine[:3, :2]
        said: dict[Path, list[tuple[int, Evidence]]] = {}
        for frame, bytes_yx in zip(volume.frames, prediction_zyx, strict=True):
            if frame not in known:
                evidence = Evidence(in_plane, bytes_yx)
                said.setdefault(frame.path, []).append((frame.frame, evidence))
        for path, frames in said.items():
            ordered = [evidence for _, evidence in sorted(frames, key=lambda one: one[0])]
            self._cache(request.cache).put(path, model.digest, ordered)

    def hold(self, request: SliceRequest) -> int:
        """Read slices of a series that is still arriving, and predict them if the model can.

        Returns
        -------
        int
            How many instances were read now. One that cannot be read is left to its job, which
            says why.
        """
        model = self.model(request.model, request.models_dir)
        count = 0
        for path in request.inputs:
            if path in self._held:
                continue
            try:
                slices = read_slices(path)
            except (VolumeError, StageError):
                continue
            held = _Held(slices)
            if model.dimension == "2d":
                started = time.perf_counter()
                said = held.evidence[model.digest] = _evidence_of(model, slices)
                worth = time.perf_counter() - started > WORTH_S * len(slices.hu_yx)
                if worth and request.cache is not None and len(said) == len(slices.hu_yx):
                    self._cache(request.cache).put(path, model.digest, list(said.values()))
            with self._lock:
                self._held[path] = held
            count += 1
        self._make_room()
        return count

    def _evidence_here(self, path: Path, digest: str) -> Mapping[SourceFrame, Evidence]:
        with self._lock:
            held = self._held.get(path)
        return {} if held is None else held.evidence.get(digest, {})

    def _cache(self, settings: CacheSettings) -> EvidenceCache:
        return self._caches.setdefault(settings, EvidenceCache(settings))

    def _make_room(self) -> None:
        with self._lock:
            size = sum(held.size for held in self._held.values())
            while size > HELD_BYTES_MAX:
                size -= self._held.popitem(last=False)[1].size


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Return how much memory can be had without swapping; no limit where nobody says."""
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def _evidence_of(model: Model, slices: Slices) -> dict[SourceFrame, Evidence]:
    found = {}
    for header, hu_yx in zip(slices.instance.frames, slices.hu_yx, strict=True):
        affine = _in_plane(header)
        if affine is not None:
            bytes_yx = predict_slices(model, hu_yx[None], affine)[0]
            found[header.source] = Evidence(affine[:3, :2], bytes_yx)
    return found


def _in_plane(header: FrameHeader) -> NDArray[np.float64] | None:
    """Return the affine of one slice, or None where its header does not give it."""
    known: Sequence[Any] = (header.position_mm, header.orientation, header.pixel_spacing_mm)
    if any(value is None for value in known):
        return None
    along_row, along_column = np.asarray(header.orientation, np.float64).reshape(2, 3)
    row_spacing_mm, column_spacing_mm = header.pixel_spacing_mm or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, 0] = along_row * column_spacing_mm
    affine[:3, 1] = along_column * row_spacing_mm
    affine[:3, 2] = np.cross(along_row, along_column)
    affine[:3, 3] = header.position_mm
    return affine
