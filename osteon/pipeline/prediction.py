"""The station prediction: what each voxel is, seen by the model, on the source grid.

A `Volume`, or the slices of it that have arrived, enters; one byte of evidence per voxel leaves.
Called by the worker. What the values mean is the model's affair: `boneseg` hands them back to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osteon.errors import ModelError, OsteonError, StageError, WorkerLostError
from osteon.pipeline.images.upright import shear_of
from osteon.pipeline.models.model import Model
from osteon.pipeline.models.packaged import ran_out_of_memory, reason_of
from osteon.pipeline.progress import tell
from osteon.pipeline.volume import SourceFrame, Volume

SLICES_AT_ONCE = 16  # So many slices are given to a 2D model at a time, then it is told how far.


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a 2D model said of one slice before its series was whole.

    Attributes
    ----------
    in_plane : ndarray of float64, shape (3, 2)
        The first two columns of the affine that it was told.
    bytes_yx : ndarray of uint8, shape (rows, columns)
        Its prediction.
    """

    in_plane: NDArray[np.float64]
    bytes_yx: NDArray[np.uint8]

    def fits(self, affine: NDArray[np.float64]) -> bool:
        """Return whether the model was told of the plane that a volume has.

        Parameters
        ----------
        affine : ndarray of float64, shape (4, 4)
            That of the volume.
        """
        return bool(np.allclose(self.in_plane, affine[:3, :2], 1e-9, 1e-9))


def predict(
    model: Model, volume: Volume, held: Mapping[SourceFrame, Evidence] | None = None
) -> NDArray[np.uint8]:
    """Run the model over a volume, but for the slices of which it has spoken before.

    Parameters
    ----------
    held : mapping of SourceFrame to Evidence, optional
        What a 2D model said of some slices; what it was told of another plane is not used.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        Evidence per voxel in the source grid.

    Raises
    ------
    StageError
        The model failed; another attempt may succeed.
    ModelError
        The model's output is not what its specification says.
    """
    if model.dimension == "3d":
        return _predict_upright(model, volume)
    affine = volume.geometry.affine
    held = held or {}
    known = {
        index: held[frame].bytes_yx
        for index, frame in enumerate(volume.frames)
        if frame in held and held[frame].fits(affine)
    }
    prediction_zyx = np.empty(volume.hu_zyx.shape, np.uint8)
    for index, bytes_yx in known.items():
        prediction_zyx[index] = bytes_yx
    missing = [index for index in range(len(volume.hu_zyx)) if index not in known]
    for first in range(0, len(missing), SLICES_AT_ONCE):
        some = missing[first : first + SLICES_AT_ONCE]
        prediction_zyx[some] = predict_slices(model, volume.hu_zyx[some], affine)
        tell(first + len(some), len(missing))
    return prediction_zyx


def _predict_upright(model: Model, volume: Volume) -> NDArray[np.uint8]:
    """Run the model over upright slices: a network of several slices has learnt such ones."""
    shear = shear_of(volume.geometry)
    if shear is None:
        return predict_slices(model, volume.hu_zyx, volume.geometry.affine)
    upright = shear.volume(volume)
    prediction_zyx = predict_slices(model, upright.hu_zyx, upright.geometry.affine)
    return shear.back(prediction_zyx, volume.hu_zyx.shape)


def predict_slices(
    model: Model, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Run the model over some slices of a volume that may still be arriving.

    For a model with ``dimension == "2d"`` the evidence of a slice is the same whichever slices
    come with it, so it can be kept by instance and never be computed twice.

    Parameters
    ----------
    hu_zyx : ndarray of int16 or float32, shape (slices, rows, columns)
        Hounsfield units.
    affine : ndarray of float64, shape (4, 4)
        Voxel (column, row, slice) to patient millimetres; a 2D model reads its first two columns.

    Raises
    ------
    StageError, ModelError
        As `predict`.
    """
    prediction_zyx = ask(model, "prediction", model.predict, hu_zyx, affine)
    return checked_bytes(model, "predicted", prediction_zyx, hu_zyx.shape)


def ask(model: Model, station: str, method: Callable[..., object], *arguments: object) -> object:
    """Call a method of a model, whose code may be anybody's, and say what a failure of it means.

    Raises
    ------
    WorkerLostError
        Memory did not suffice: another attempt, in a fresh worker, may go well.
    StageError
        Whatever else the model raised but for errors of Osteon and of the system, which pass: the
        worker tells a full disk from other failures.
    """
    try:
        return method(*arguments)
    except (OsteonError, OSError):
        raise
    except Exception as error:  # Nothing of Osteon runs in here but its own models.
        if ran_out_of_memory(error):
            raise WorkerLostError(f"{model.name}: {station} ran out of memory: {error}") from error
        said = str(error) if isinstance(error, RuntimeError) else reason_of(error)
        raise StageError(f"{model.name}: {station} failed: {said}") from error


def checked_bytes(
    model: Model, did: str, bytes_zyx: object, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Return what a model gave, one byte a voxel.

    Parameters
    ----------
    did : str
        What the model did, in a word for the message.
    bytes_zyx : object
        What it gave.
    shape : tuple of int
        Slices, rows and columns that it was asked about.

    Raises
    ------
    ModelError
        It is no array of uint8, or not of this shape.
    """
    if not isinstance(bytes_zyx, np.ndarray):
        raise ModelError(
            f"{model.name}: {did} {type(bytes_zyx).__name__}, "
            f"not an ndarray of uint8 of shape {shape}"
        )
    if bytes_zyx.shape != shape or bytes_zyx.dtype != np.uint8:
        raise ModelError(
            f"{model.name}: {did} {bytes_zyx.dtype} of shape {bytes_zyx.shape}, "
            f"not uint8 of shape {shape}"
        )
    return bytes_zyx
