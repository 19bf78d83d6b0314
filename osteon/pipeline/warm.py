"""What a worker process keeps between stages: models, slices that came early, the last volume.

Model names and source files enter; loaded models, volumes and the evidence of slices leave. Called
by the stages. All of it is a cache: without it the same values are read and computed again.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osteon.errors import StageError, VolumeError
from osteon.pipeline.geometry import FrameHeader
from osteon.pipeline.model import Model, load_model
from osteon.pipeline.prediction import Evidence, predict_slices
from osteon.pipeline.request import SliceRequest, StageRequest
from osteon.pipeline.volume import Slices, SourceFrame, Volume, read_slices, read_volume

HELD_BYTES_MAX = 2 * 2**30  # Two CT series of 1,000 slices; the oldest instance goes first.


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
        self._models: dict[str, Model] = {}
        self._volume: tuple[str, Volume] | None = None
        self._held: OrderedDict[Path, _Held] = OrderedDict()

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

        Raises
        ------
        VolumeError, StageError
            As `read_volume`.
        """
        if self._volume is None or self._volume[0] != request.input_sha256:
            self._volume = None  # Two volumes at once would double the worker's memory.
            held = {path: self._held[path].slices for path in request.inputs if path in self._held}
            known = {path: slices for path, slices in held.items() if slices is not None}
            self._volume = (request.input_sha256, read_volume(request.inputs, held=known))
            for path in known:
                self._held[path].slices = None
        return self._volume[1]

    def evidence(self, request: StageRequest, model: Model) -> Mapping[SourceFrame, Evidence]:
        """Return what a model said of those slices of a request that came early."""
        found: dict[SourceFrame, Evidence] = {}
        for path in request.inputs:
            if path in self._held:
                found |= self._held[path].evidence.get(model.digest, {})
        return found

    def hold(self, request: SliceRequest) -> int:
        """Read slices of a series that is still arriving, and predict them if the model can.

        Returns
        -------
        int
            How many instances were read. One that cannot be read is left to its job, which says
            why.
        """
        model = self.model(request.model, request.models_dir)
        for path in request.inputs:
            if path in self._held:
                continue
            try:
                slices = read_slices(path)
            except (VolumeError, StageError):
                continue
            held = self._held[path] = _Held(slices)
            if model.dimension == "2d":
                held.evidence[model.digest] = _evidence_of(model, slices)
        self._make_room()
        return len(request.inputs)

    def _make_room(self) -> None:
        size = sum(held.size for held in self._held.values())
        while size > HELD_BYTES_MAX:
            size -= self._held.popitem(last=False)[1].size


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
