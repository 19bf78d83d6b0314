"""What 2D models said of slices, kept on the disk: nothing is predicted twice.

The evidence of an instance enters under its content and the model's digest; the same leaves to any
worker, after a restart, or when a late slice has opened a new generation. Called by `warm.py`. It
is a cache: a file that is gone, damaged or of another form is predicted anew.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from osteon.pipeline.prediction import Evidence
from osteon.pipeline.volume import SourceFrame
from osteon.pipeline.workers.request import CacheSettings

# Keeping a slice of 512² costs up to 1.5 ms of CPU and reading it back up to 0.6, beside the disk's
# own time: it pays for networks, and builtin:bone with its 5 ms would gain nothing.
WORTH_S = 0.02
_DEFLATE = 1  # Label maps shrink to a hundredth already.
_LEFT = 0.9  # Once full, it is cleared down to this share of its limit.
_LOOK_EVERY, _LOOK_AT = 64, 1  # Of so many writes this one looks at the size of the whole.


class EvidenceCache:
    """Evidence by instance and model, in the folder of its series.

    Parameters
    ----------
    settings : CacheSettings
        Where it stands and how large it may become.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._writes = 0

    def get(self, instance: Path, digest: str, frames: Sequence[SourceFrame]) -> list[Evidence]:
        """Return what a model said of the frames of an instance; nothing where it is not known.

        Parameters
        ----------
        instance : Path
            File in the spool, named by the hash of its content.
        digest : str
            The model's.
        frames : sequence of SourceFrame
            All frames of the instance, in order.

        Returns
        -------
        list of Evidence
            One a frame, or empty.
        """
        path = self._path(instance, digest)
        try:
            raw = path.read_bytes()
            os.utime(path)  # It was of use now: the oldest go first.
        except OSError:
            return []
        try:
            return _decode(raw, len(frames))
        except (ValueError, KeyError, TypeError, zlib.error):  # Torn by a power cut, or foreign.
            with suppress(OSError):  # It is written over then.
                path.unlink(missing_ok=True)
            return []

    def put(self, instance: Path, digest: str, evidence: Sequence[Evidence]) -> None:
        """Keep what a model said of all frames of an instance, if the disk takes it."""
        path = self._path(instance, digest)
        part = path.with_name(f".{path.name}.{os.getpid():x}")
        with suppress(OSError):  # It is predicted anew then.
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(_encode(evidence))
            part.replace(path)
            self._writes += 1
            if self._writes % _LOOK_EVERY == _LOOK_AT:
                self._make_room()

    def _path(self, instance: Path, digest: str) -> Path:
        name = f"{instance.stem}-{digest[:16]}.evidence"
        return self._settings.folder / instance.parent.name / name

    def _make_room(self) -> None:
        """Remove what was of no use for longest, once there is too much."""
        files = []
        for path in self._settings.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # Another worker makes room as well.
                facts = path.stat()
                files.append((facts.st_mtime, facts.st_size, path))
        size = sum(size for _, size, _ in files)
        spare = shutil.disk_usage(self._settings.folder).free - self._settings.free_bytes_min
        limit = min(self._settings.bytes_max, size + spare)
        if size <= limit:
            return
        for _, gone, path in sorted(files):
            if size <= _LEFT * limit:
                return
            path.unlink(missing_ok=True)
            size -= gone


def _encode(evidence: Sequence[Evidence]) -> bytes:
    packed = [zlib.compress(e.bytes_yx.tobytes(), _DEFLATE) for e in evidence]
    frames = [
        {"shape": e.bytes_yx.shape, "in_plane": e.in_plane.tolist(), "size": len(one)}
        for e, one in zip(evidence, packed, strict=True)
    ]
    body = b"".join(packed)
    return json.dumps({"crc": zlib.crc32(body), "frames": frames}).encode() + b"\n" + body


def _decode(raw: bytes, count: int) -> list[Evidence]:
    line, _, body = raw.partition(b"\n")
    header: Mapping[str, Any] = json.loads(line)
    if header["crc"] != zlib.crc32(body) or len(header["frames"]) != count:
        raise ValueError("damaged")
    found, start = [], 0
    for frame in header["frames"]:
        packed, start = body[start : start + frame["size"]], start + frame["size"]
        bytes_yx = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(frame["shape"])
        found.append(Evidence(np.asarray(frame["in_plane"], np.float64), bytes_yx))
    return found
