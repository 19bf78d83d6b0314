"""A network from a model folder, as the two stations see it: labels of a volume.

Hounsfield units on the source grid enter, the most likely class of each voxel leaves. Made by
`osteon.pipeline.models.model`; the input grid, the sliding window and the output grid do the work.
"""

import hashlib
import logging
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from osteon.errors import ModelError, WorkerLostError
from osteon.pipeline.models.inputgrid import InputGrid
from osteon.pipeline.models.modelspec import ModelSpec, SegmentSpec
from osteon.pipeline.models.network import Network, patches_at_once
from osteon.pipeline.models.outputgrid import OutputGrid
from osteon.pipeline.models.sliding import Batches, slide
from osteon.pipeline.progress import tell
from osteon.pipeline.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ran:
    """How a network was last run.

    Attributes
    ----------
    grid : tuple of int
        Slices, rows and columns of its own grid.
    classes : int
        Classes that it returned, background included.
    windows : int
        How many patches it saw.
    batch : int
        How many at once.
    device : str
        Where.
    """

    grid: tuple[int, ...]
    classes: int
    windows: int
    batch: int
    device: str


class NetworkModel:
    """A network with its specification; it satisfies `osteon.pipeline.models.model.Model`.

    Parameters
    ----------
    spec : ModelSpec
        What ``model.toml`` says.
    network : Network
        Loaded from the weights that the specification names.

    Attributes
    ----------
    ran : Ran, optional
        How it was last run.
    """

    def __init__(self, spec: ModelSpec, network: Network) -> None:
        self.spec = spec
        self.network = network
        self.name = spec.name
        self.version = spec.version
        self.kind = spec.kind
        self.dimension: Literal["2d", "3d"] = "2d" if spec.input.alone else "3d"
        self.segments: tuple[SegmentSpec, ...] = spec.output.segments
        # The specification holds the digest of the weights.
        self.ran: Ran | None = None
        self.digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Return the most likely class of each voxel.

        Parameters
        ----------
        hu_zyx, affine
            As `osteon.pipeline.models.model.Model.predict` says.

        Returns
        -------
        ndarray of uint8, shape (slices, rows, columns)

        Raises
        ------
        ModelError
            The network does not take the patches, or returns other classes than are named.
        WorkerLostError
            The GPU's memory does not suffice even for one window at a time.
        """
        with torch.inference_mode():
            try:
                return self._labels(self.network, hu_zyx, affine)
            except torch.OutOfMemoryError as error:
                said = _memory_said(self.network.device)
                if not self.spec.run.cpu_when_full:
                    raise WorkerLostError(
                        f"{self.name}: out of GPU memory with one patch at a time ({said}): free "
                        "some, make the patch smaller, or set run.cpu_when_full in its model.toml"
                    ) from error
            log.warning("%s: out of GPU memory (%s): taking the CPU", self.name, said)
            torch.cuda.empty_cache()
            device = self.network.device
            try:
                return self._labels(self.network.to(torch.device("cpu")), hu_zyx, affine)
            finally:
                self.network = self.network.to(device)

    def join(
        self,
        prediction_zyx: NDArray[np.uint8],
        volume: Volume,  # noqa: ARG002 - the interface; a network's classes need no second look
    ) -> NDArray[np.uint8]:
        """Return the classes that the specification names; any other value is background."""
        if not self.segments:
            return (prediction_zyx > 0).view(np.uint8)
        named = np.zeros(256, np.uint8)
        for segment in self.segments:
            named[segment.value] = segment.value
        return named[prediction_zyx]

    def _labels(
        self, network: Network, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        spec, run = self.spec.input, self.spec.run
        grid = InputGrid(hu_zyx, affine, spec, network.device)
        labels_zyx = np.empty(hu_zyx.shape, np.uint8)
        output = OutputGrid(grid.turn.view(labels_zyx), grid.shape)
        # Of single slices, `osteon.pipeline.prediction.predict` says how far it is.
        most = patches_at_once(network, (spec.channels, *spec.patch), run.batch_max)
        batches = Batches(network, most, None if spec.alone else tell)
        slabs = slide(
            grid.planes,
            grid.shape,
            spec.patch,
            batches,
            overlap=run.overlap,
            blend=run.blend,
            neighbours=spec.neighbours,
        )
        classes = 0
        with closing(slabs):
            for place, logits in slabs:
                classes = len(logits)
                self._check_classes(classes)
                output.add(place, logits)
        self.ran = Ran(grid.shape, classes, batches.expected, batches.size, str(network.device))
        return labels_zyx

    def _check_classes(self, classes: int) -> None:
        highest = max((segment.value for segment in self.segments), default=0)
        if highest >= max(2, classes):
            raise ModelError(
                f"{self.name}: the network returns {classes} classes, background included; "
                f"model.toml names a segment of value {highest}"
            )


def _memory_said(device: torch.device) -> str:
    free, total = torch.cuda.mem_get_info(device)
    return f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
