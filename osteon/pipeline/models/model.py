"""The models of the node: one interface, one registry, and how a name becomes a loaded model.

A name such as ``builtin:bone`` or a folder under the models directory enters, a `Model` leaves.
Called by the worker, once per process, and by ``osteon models``.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from osteon.errors import ModelError, StageError, WorkerLostError
from osteon.pipeline.bones.bone import BoneModel, bone_spec
from osteon.pipeline.models.modelspec import SPEC_FILE, ModelSpec, SegmentSpec, read_spec
from osteon.pipeline.models.packaged import installed_models, load_packaged
from osteon.pipeline.volume import Volume

if TYPE_CHECKING:
    from osteon.pipeline.models.network import Network

BUILTIN = "builtin:bone"


class Model(Protocol):
    """What the two stations need of a model: evidence per voxel, and one label map out of it."""

    @property
    def name(self) -> str:
        """The name under which a route asks for it."""

    @property
    def version(self) -> str:
        """The version, as it stands in results."""

    @property
    def kind(self) -> str:
        """How it is loaded: a key of `LOADERS`, or the entry point's name."""

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of all that decides its output."""

    @property
    def dimension(self) -> Literal["2d", "3d"]:
        """``"2d"``: the prediction of a slice depends on that slice alone, so it can be cached."""

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The output classes; empty: `join` returns a mask whose components are named by size."""

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Say what each voxel is, in evidence that `join` understands.

        Parameters
        ----------
        hu_zyx : ndarray of int16 or float32, shape (slices, rows, columns)
            Hounsfield units; some slices of a series where `dimension` is ``"2d"``.
        affine : ndarray of float64, shape (4, 4)
            Voxel (column, row, slice, 1) to patient millimetres in LPS.

        Returns
        -------
        ndarray of uint8, shape (slices, rows, columns)
        """

    def join(self, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
        """Join the evidence of a whole volume into one label map.

        Parameters
        ----------
        prediction_zyx : ndarray of uint8, shape (slices, rows, columns)
            What `predict` returned for the slices of this volume.
        volume : Volume
            The volume, its slices upright.

        Returns
        -------
        ndarray of uint8, shape (slices, rows, columns)
            Values of `segments`, or 0 and 1 where there are none; 0 is background.
        """


# What runs networks, the module that loads each kind, and the extra that it needs. All are imported
# on demand: a node that runs builtin:bone alone loads no network library, torch included.
_NETWORK_MODEL = "osteon.pipeline.models.networkmodel"
LOADERS: dict[str, tuple[str, str | None]] = {
    "torchscript": ("osteon.pipeline.models.torchscript", None),
    "torch-export": ("osteon.pipeline.models.torchexport", None),
    "monai-bundle": ("osteon.pipeline.models.monaibundle", "monai"),
    "onnx": ("osteon.pipeline.models.onnxmodel", "onnx"),
    "nnunet": ("osteon.pipeline.models.nnunet", "nnunet"),
}


def load_model(name: str, models_dir: Path | None = None) -> Model:
    """Load a model by its name.

    Parameters
    ----------
    name : str
        ``"builtin:bone"``, the name of a folder under `models_dir`, or an entry point of the
        group ``osteon.models`` (an object called without arguments that returns a `Model`).
    models_dir : Path, optional
        The folder of model folders.

    Raises
    ------
    ModelError
        There is no such model, its folder or its package is wrong, its weights do not have the
        digest that ``model.toml`` states, or this version cannot load its kind.
    StageError
        A file of it cannot be read now.
    WorkerLostError
        Its weights do not fit into the GPU's memory now.
    """
    if name == BUILTIN:
        return BoneModel()
    spec = spec_of(name, models_dir)
    if models_dir is not None and spec is not None:
        network = load_network(spec, models_dir / name)
        made: Model = import_module(_NETWORK_MODEL).NetworkModel(spec, network)
        return made
    model: Model | None = load_packaged(name)
    if model is None:
        known = [spec.name for spec in list_models(models_dir)[0]]
        known += [name for name, _ in installed_models()]
        raise ModelError(
            f"no model {name!r} in {models_dir or 'this installation'}; known: {', '.join(known)}"
        )
    return model


def spec_of(name: str, models_dir: Path | None = None) -> ModelSpec | None:
    """Return what is said of ``builtin:bone`` or a model folder; None where it is neither.

    Raises
    ------
    ModelError
        The folder's ``model.toml`` is wrong.
    """
    if name == BUILTIN:
        return bone_spec()
    if models_dir is None or not _is_plain(name) or not (models_dir / name / SPEC_FILE).is_file():
        return None
    return read_spec(models_dir / name)


def list_models(models_dir: Path | None = None) -> tuple[list[ModelSpec], list[StageError]]:
    """Return what can be loaded, ``builtin:bone`` first, then the model folders by name.

    Returns
    -------
    specs : list of ModelSpec
    faults : list of StageError
        One for each folder whose ``model.toml`` is wrong or cannot be read, which it names.
    """
    specs, faults = [bone_spec()], []
    if models_dir is not None and models_dir.is_dir():
        for path in sorted(models_dir.glob(f"*/{SPEC_FILE}")):
            try:
                specs.append(read_spec(path.parent))
            except StageError as error:
                faults.append(error)
    return specs, faults


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in {"", ".", ".."}


def load_network(spec: ModelSpec, folder: Path) -> "Network":
    """Load the network that a specification describes from its folder.

    Raises
    ------
    ModelError, WorkerLostError
        As `load_model`.
    """
    if spec.kind not in LOADERS:
        kinds = ", ".join(sorted(LOADERS))
        raise ModelError(
            f"{folder / SPEC_FILE}: kind {spec.kind!r} is unknown; this version loads: {kinds}"
        )
    module, extra = LOADERS[spec.kind]
    try:
        network: Network = import_module(module).load(spec, folder)
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise ModelError(
            f"{folder / SPEC_FILE}: kind {spec.kind} needs {error.name}, which is not installed: "
            f"pip install 'osteon[{extra}]'"
        ) from error
    except RuntimeError as error:  # torch is imported by whatever raised it, and not before.
        if not isinstance(error, import_module("torch").OutOfMemoryError):
            raise
        raise WorkerLostError(
            f"{spec.name}: out of GPU memory while it was loaded: free some"
        ) from error
    return network
