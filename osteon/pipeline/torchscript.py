"""Models of the kind ``torchscript``: a network saved by ``torch.jit.save``, 2D or 3D.

A `ModelSpec` and its folder enter, a `TorchScriptModel` leaves. Called by
`osteon.pipeline.model.LOADERS`. The network takes one channel scaled to 0..1, (1, 1, *patch), and
returns logits, (1, classes, *patch); with one class a logit above 0 is class 1.
"""

import hashlib
import io
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.modelspec import ModelSpec, SegmentSpec
from osteon.pipeline.volume import Volume

# Which patient axis (x to the left, y to the back, z to the head) and sign a letter stands for.
DIRECTIONS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


class TorchScriptModel:
    """A network from a model folder; it satisfies `osteon.pipeline.model.Model`.

    Raises
    ------
    ModelError
        The weights are missing, do not have the stated digest, or are no TorchScript archive.
    """

    kind = "torchscript"

    def __init__(self, spec: ModelSpec, folder: Path) -> None:
        assert spec.weights is not None
        self.spec = spec
        self.name = spec.name
        self.version = spec.version
        self.dimension: Literal["2d", "3d"] = spec.input.dimension
        self.segments: tuple[SegmentSpec, ...] = spec.output.segments
        path = folder / spec.weights
        weights = _checked(path, str(spec.sha256))
        self.digest = hashlib.sha256(weights + spec.model_dump_json().encode()).hexdigest()
        self.network = _loaded(weights, path)
        self.network.eval()

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Return the most likely class of each voxel."""
        spacing_zyx_mm = tuple(float(np.linalg.norm(affine[:3, axis])) for axis in (2, 1, 0))
        with torch.inference_mode():
            if self.dimension == "2d":
                slices = [self._classes(hu_yx, spacing_zyx_mm[1:]) for hu_yx in hu_zyx]
                return np.stack(slices)
            if self.spec.input.orientation is None:
                return self._classes(hu_zyx, spacing_zyx_mm)
            order, flips = _turn(affine, self.spec.input.orientation)
            turned = np.flip(hu_zyx.transpose(order), flips)
            classes = self._classes(turned, tuple(spacing_zyx_mm[axis] for axis in order))
            return np.flip(classes, flips).transpose(np.argsort(order)).copy()

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

    def _classes(
        self, hu: NDArray[np.number[Any]], spacing_mm: tuple[float, ...]
    ) -> NDArray[np.uint8]:
        lower, upper = self.spec.input.hu_window
        image = torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32)).to(_device())
        image = ((image - lower) / (upper - lower)).clamp(0.0, 1.0)[None, None]
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        source = tuple(image.shape[2:])
        wanted = self.spec.input.spacing_mm
        if wanted is not None:
            size = [
                max(1, round(n * mm / new))
                for n, mm, new in zip(source, spacing_mm, wanted, strict=True)
            ]
            image = torch.nn.functional.interpolate(image, size, mode=mode)
        logits = self._slide(image)
        if tuple(logits.shape[2:]) != source:
            logits = torch.nn.functional.interpolate(logits, source, mode=mode)
        classes = logits[0, 0] > 0 if logits.shape[1] == 1 else logits[0].argmax(0)
        return np.asarray(classes.to(torch.uint8).cpu().numpy())

    def _slide(self, image: torch.Tensor) -> torch.Tensor:
        """Average the logits of patches that overlap by half."""
        patch = self.spec.input.patch
        size = tuple(image.shape[2:])
        short = [max(0, p - n) for p, n in zip(patch, size, strict=True)]
        pad = [width for missing in reversed(short) for width in (0, missing)]
        padded = torch.nn.functional.pad(image, pad)
        total: torch.Tensor | None = None
        count = torch.zeros_like(padded)
        for window in _windows(tuple(padded.shape[2:]), patch):
            place = (slice(None), slice(None), *window)
            logits = self.network(padded[place])
            if not isinstance(logits, torch.Tensor) or logits.shape[2:] != tuple(patch):
                raise ModelError(f"{self.name}: the network does not return (1, classes, *patch)")
            if total is None:
                total = torch.zeros(1, logits.shape[1], *padded.shape[2:], device=logits.device)
            total[place] += logits
            count[place] += 1.0
        assert total is not None
        return (total / count)[(slice(None), slice(None), *(slice(n) for n in size))]


def _checked(path: Path, sha256: str) -> bytes:
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: weights cannot be read: {error.strerror}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise ModelError(f"{path}: sha256 is {found}, model.toml says {sha256}: not loaded")
    return weights


def _loaded(weights: bytes, path: Path) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # torch has deprecated TorchScript for new networks; folders with older ones remain.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call] # so
                io.BytesIO(weights), map_location=_device()
            )
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path}: no TorchScript archive: {error}") from error
    return network


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _windows(size: tuple[int, ...], patch: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    starts = []
    for n, p in zip(size, patch, strict=True):
        count = 1 if n <= p else 1 + -(-2 * (n - p) // p)
        starts.append([round(k * (n - p) / max(1, count - 1)) for k in range(count)])
    for corner in itertools.product(*starts):
        yield tuple(slice(s, s + p) for s, p in zip(corner, patch, strict=True))


def _turn(affine: NDArray[np.float64], orientation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How to turn a (slice, row, column) array: the order of its axes, then which to flip."""
    # Each array axis runs along the patient axis that its affine column is nearest to.
    columns = [affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (2, 1, 0)]
    patient_axis = [int(np.argmax(np.abs(column))) for column in columns]
    if sorted(patient_axis) != [0, 1, 2]:
        raise ModelError("the volume is too oblique to be turned to the model's orientation")
    order, flips = [], []
    for axis, letter in enumerate(reversed(orientation)):
        wanted, sign = DIRECTIONS[letter]
        source = patient_axis.index(wanted)
        order.append(source)
        if columns[source][wanted] * sign < 0:
            flips.append(axis)
    return tuple(order), tuple(flips)
