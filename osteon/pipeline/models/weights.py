"""The files of a model folder that a network is made of: read once, their digest checked.

A folder and the digest that ``model.toml`` states enter, bytes leave; what was hashed is what is
loaded, whatever happens to the file meanwhile. Called by the loaders of all kinds and by
``osteon models init``.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from osteon.errors import ModelError
from osteon.pipeline.models.modelspec import unreadable

Files = Mapping[str, bytes]


def read_weights(path: Path, sha256: str) -> Files:
    """Read the weights and check that they are those that ``model.toml`` means.

    Parameters
    ----------
    path : Path
        A file, or a folder of which every file is read.
    sha256 : str
        Hexadecimal: of the file, or of a folder as `digest_of` says.

    Returns
    -------
    mapping of str to bytes
        Relative path → content; the only key of a file is its name.

    Raises
    ------
    ModelError
        They are not there or do not have this digest.
    StageError
        They cannot be read now.
    """
    try:
        files = read_files(path)
    except OSError as error:
        raise unreadable(f"{path}: weights cannot be read", error) from error
    found = digest_of(files, is_folder=path.is_dir())
    if found != sha256:
        raise ModelError(
            f"{path}: sha256 is {found}, model.toml says {sha256}: not loaded; put the weights "
            "back that it means or, if these are right, their sha256 into it"
        )
    return files


def read_files(path: Path) -> dict[str, bytes]:
    """Read a file, or every file of a folder; a link is refused.

    Raises
    ------
    ModelError
        A link is there: what it points to is no part of the folder.
    OSError
        Something cannot be read.
    """
    if not path.is_dir():
        return {path.name: path.read_bytes()}
    names = sorted(found.relative_to(path).as_posix() for found in path.rglob("*"))
    for name in names:
        if (path / name).is_symlink():
            raise ModelError(f"{path / name} is a link: put the file itself there")
    return {name: (path / name).read_bytes() for name in names if not (path / name).is_dir()}


def digest_of(files: Files, *, is_folder: bool) -> str:
    r"""Return the SHA-256 of weights.

    That of a folder is the digest of its list, ``sha256sum``'s lines sorted by path:
    ``find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum``.
    """
    if not is_folder:
        [content] = files.values()
        return hashlib.sha256(content).hexdigest()
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def only_file(files: Files, path: Path) -> bytes:
    """Return the content where the weights are one file.

    Raises
    ------
    ModelError
        They are a folder.
    """
    if list(files) != [path.name]:
        raise ModelError(f"{path} is a folder: this kind of model has its weights in one file")
    return files[path.name]


def read_tensors(
    content: bytes, name: str, safe: Sequence[Any] = (), wanted: str | None = None
) -> Any:
    """Unpickle tensors and plain values, and nothing that would run code.

    Parameters
    ----------
    content : bytes
        What ``torch.save`` wrote, or a safetensors file where `name` ends so.
    name : str
        For the message.
    safe : sequence
        Further types that may stand in it, as `torch.serialization.safe_globals` takes them.
    wanted : str, optional
        What else to call it in the message.

    Raises
    ------
    ModelError
        It holds something else, such as code, or is damaged.
    """
    if name.endswith(".safetensors"):
        return _read_safetensors(content, name)
    try:
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{name}: holds more than tensors and plain values, which could run code: not loaded: "
            f"{_what(error)}"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{name}: no {wanted or 'weights'} that torch.save wrote: {error}"
        ) from error


def load_state(module: torch.nn.Module, state: Any, path: Path) -> None:
    """Put a state dict into a network; prefixes of wrappers around it are dropped.

    Raises
    ------
    ModelError
        It is none, or not of this network.
    """
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: no state dict of tensors")
    named = {
        str(key).removeprefix("_orig_mod.").removeprefix("module."): value
        for key, value in state.items()
    }
    try:
        module.load_state_dict(named)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"{path}: not of this network: {' '.join(lines[:2])[:300]}") from error


def _read_safetensors(content: bytes, name: str) -> dict[str, torch.Tensor]:
    # An optional dependency: only folders with such a file need it.
    try:
        import safetensors.torch  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name} needs safetensors, which is not installed: pip install safetensors"
        ) from error
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{name}: no safetensors file: {error}") from error
    return tensors


def _what(error: Exception) -> str:
    """Return the sentence of torch's long message that names what it refused."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
