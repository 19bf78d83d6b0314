"""What a file of weights is, by its bytes: told before a model folder is made of the wrong one.

The bytes of a file enter, a `ModelError` leaves where they are known to be of another kind. Called
by ``osteon models init``; the loaders look at much more.
"""

import io
import zipfile
from pathlib import Path, PurePosixPath

from osteon.errors import ModelError

ARCHIVES = {"torchscript": "torch.jit.save", "torch-export": "torch.export.save"}
# The first byte of ONNX's ModelProto: the tag of one of its fields (onnx.proto).
ONNX_TAGS = b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca\xd2"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def check_format(kind: str, path: Path, content: bytes) -> None:
    """Refuse a file that is of another kind than its user says.

    Raises
    ------
    ModelError
        It is of another kind, or tensors without a network, or none that is known where one has to
        be.
    """
    found = _kind_of(content)
    if found == kind:
        return
    if found == "" and kind == "onnx":
        if not content or content[0] not in ONNX_TAGS:
            raise ModelError(f"{path}: is not onnx: it does not begin as an ONNX model does")
        return
    if found == "pickle":
        raise ModelError(
            f"{path}: is what torch.save writes, tensors or an object that only your own code can "
            "read: save the network itself, by torch.export.save or torch.jit.save"
        )
    if found:
        raise ModelError(f"{path}: is of the kind {found}, not {kind}: give --kind {found}")
    raise ModelError(f"{path}: is not {kind}, nothing that {ARCHIVES[kind]} writes")


def _kind_of(content: bytes) -> str:
    """Return a kind of model, ``"pickle"`` for what is none, or "" where it is not known."""
    if content.startswith(PICKLES):
        return "pickle"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {PurePosixPath(*PurePosixPath(n).parts[1:]) for n in archive.namelist()}
    except zipfile.BadZipFile:
        return ""
    if PurePosixPath("constants.pkl") in names:
        return "torchscript"
    if PurePosixPath("models/model.json") in names:
        return "torch-export"
    return "pickle" if PurePosixPath("data.pkl") in names else ""
