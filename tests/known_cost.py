"""A model of known cost, for benchmarks and tests: what a GPU does, by a sleep of known length.

`install` makes it an entry point for the processes of a node; what it costs, and which series make
it crash, hang or run out of memory, stands in the environment. Every use of its "device" is written
down, so that it can be counted how long the device waited.

    KNOWN_COST_S            seconds for each slice (2d) or volume (3d)
    KNOWN_COST_DIMENSION    2d or 3d
    KNOWN_COST_LOG          file that gets "pid begin end slices" for each use
    KNOWN_COST_FAULTS       folder: a file HU-KIND there makes a series fail whose first voxel has
                            this HU, once for each byte of the file; KIND is kill, hang or memory
"""

import os
import signal
import time
from pathlib import Path

import numpy as np

NAME = "known-cost"
MORE_THAN_ANYBODY_HAS = 2**50


class KnownCost:
    """The model; it satisfies ``osteon.pipeline.models.model.Model``."""

    name, version, kind = NAME, "1", "entry-point"
    digest = "0c" * 32
    segments = ()

    def __init__(self) -> None:
        self.dimension = os.environ.get("KNOWN_COST_DIMENSION", "3d")
        self.cost_s = float(os.environ.get("KNOWN_COST_S", "0.1"))

    def predict(self, hu_zyx: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Sleep for as long as it costs, and call everything above 200 HU bone."""
        _fail_where_asked(int(hu_zyx[0, 0, 0]))
        began = time.time()
        # In steps, as a device is given one kernel after the other.
        for _ in range(len(hu_zyx) if self.dimension == "2d" else 1):
            time.sleep(self.cost_s)
        log = os.environ.get("KNOWN_COST_LOG")
        if log:
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()} {began:.6f} {time.time():.6f} {len(hu_zyx)}\n")
        return (hu_zyx > 200).astype(np.uint8)

    def join(self, prediction_zyx: np.ndarray, volume: object) -> np.ndarray:
        """Return the prediction: it is the mask."""
        return prediction_zyx


def _fail_where_asked(name: int) -> None:
    folder = os.environ.get("KNOWN_COST_FAULTS")
    for fault in Path(folder).glob(f"{name}-*") if folder else ():
        left = fault.read_bytes()
        if not left:
            continue
        fault.write_bytes(left[1:])
        kind = fault.name.partition("-")[2]
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "hang":
            time.sleep(3600)
        else:
            np.empty(MORE_THAN_ANYBODY_HAS, np.uint8)  # MemoryError


def install(folder: Path) -> Path:
    """Make the model an entry point for whoever has a folder in PYTHONPATH; return the folder."""
    about = folder / "known_cost-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: known-cost\nVersion: 1\n")
    entry = f"[osteon.models]\n{NAME} = known_cost_model:KnownCost\n"
    (about / "entry_points.txt").write_text(entry)
    (folder / "known_cost_model.py").write_text(Path(__file__).read_text())
    return folder
