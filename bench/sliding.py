"""The sliding window beside MONAI's, what stands in memory, and what the node adds to a network.

`make bench-sliding` runs it: one network by both in turns, the same windows, weights and device; a
network of a hundred classes, with the memory that it took; and a model that does nothing but last
five seconds, around which all else is overhead. Needs the extra monai.
"""

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe

from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, RunSpec
from osteon.pipeline.models.network import TorchNetwork
from osteon.pipeline.models.networkmodel import NetworkModel
from osteon.pipeline.models.sliding import Batches, slide
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import read_volume

DIFFERENCE_MAX = 1e-3
OVERHEAD_MAX = 0.05
COST_S = 5.0


class UNet(torch.nn.Module):
    """A small U-Net as nnU-Net builds them: what a network costs beside moving patches about."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()

        def block(channels: int, out: int, stride: int) -> torch.nn.Module:
            return torch.nn.Sequential(
                torch.nn.Conv3d(channels, out, 3, stride=stride, padding=1),
                torch.nn.InstanceNorm3d(out, affine=True),
                torch.nn.LeakyReLU(),
            )

        self.first, self.second = block(1, width, 1), block(width, 2 * width, 2)
        self.up = torch.nn.ConvTranspose3d(2 * width, width, 2, stride=2)
        self.last = torch.nn.Sequential(
            block(2 * width, width, 1), torch.nn.Conv3d(width, classes, 1)
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        high = self.first(patches)
        return self.last(torch.cat([high, self.up(self.second(high))], 1))


class Lasting(torch.nn.Module):
    """A network of known cost: it lasts so long for each window, its threshold included."""

    def __init__(self, window_s: float, device: torch.device) -> None:
        super().__init__()
        self._window_s, self._cycles = window_s, _cycles(window_s, device)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        until = time.perf_counter() + self._window_s * len(patches)
        logits = torch.cat([0.5 - patches, patches - 0.5], 1)
        if patches.device.type == "cuda":
            torch.cuda._sleep(self._cycles * len(patches))  # noqa: SLF001 - the only such pause
        else:
            time.sleep(max(0.0, until - time.perf_counter()))
        return logits


def _cycles(seconds: float, device: torch.device) -> int:
    """Return how many clock cycles of the device last so long."""
    if device.type != "cuda":
        return 0
    torch.cuda._sleep(10**8)  # noqa: SLF001 - as above; the clock rises first
    torch.cuda.synchronize()
    started = time.perf_counter()
    torch.cuda._sleep(10**9)  # noqa: SLF001 - as above
    torch.cuda.synchronize()
    return int(seconds * 1e9 / (time.perf_counter() - started))


def beside_monai(device: torch.device, rounds: int, precision: str) -> dict[str, Any]:
    """Run one network by both, in turns, and compare logits and times."""
    from monai.inferers import sliding_window_inference  # noqa: PLC0415 - slow, needed here only

    on_gpu = device.type == "cuda"
    shape, patch = ((200, 280, 280), (96, 96, 96)) if on_gpu else ((48, 80, 80), (32, 48, 48))
    torch.manual_seed(0)
    module = UNet(8, 32 if on_gpu else 16).eval().to(device)
    image = torch.randn(shape, device=device)
    network = TorchNetwork(module, "bench", RunSpec(precision=precision), device)
    batch = 4 if on_gpu else 1

    def theirs() -> torch.Tensor:
        with torch.autocast("cuda", torch.float16, enabled=on_gpu and precision == "float16"):
            return sliding_window_inference(
                image[None, None], patch, batch, module, overlap=0.5, mode="gaussian"
            )[0]

    def ours() -> torch.Tensor:
        batches = Batches(network, batch)
        if on_gpu:
            batches.size = batch
        whole = torch.empty((8, *shape), device=device)
        for place, logits in slide(lambda a, b: image[a:b], shape, patch, batches):
            whole[:, *place] = logits
        return whole

    found = {"monai": theirs(), "osteon": ours()}  # which also warms up
    difference = float((found["monai"] - found["osteon"]).abs().max())
    found.clear()
    seconds: dict[str, list[float]] = {"monai": [], "osteon": []}
    for _ in range(rounds):
        for name, run in (("monai", theirs), ("osteon", ours)):
            seconds[name].append(_seconds(run, device))
    return {
        "device": _name(device),
        "precision": precision,
        "shape": shape,
        "patch": patch,
        "difference": difference,
        "monai_s": min(seconds["monai"]),
        "osteon_s": min(seconds["osteon"]),
    }


def hundred_classes(device: torch.device, slices: int) -> dict[str, Any]:
    """Segment a volume into a hundred classes and say what stood in memory at most."""
    shape, patch = (slices, 128, 128), (32, 64, 64)

    class Classes(torch.nn.Module):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            steps = torch.arange(100, device=patches.device).view(1, 100, 1, 1, 1)
            return patches * steps - steps * steps / 200.0

    model = _model(Classes(), device, patch, None)
    hu_zyx = np.random.default_rng(0).integers(-1000, 1000, shape, np.int16)
    before = _memory(device)
    labels_zyx = predict_of(model, hu_zyx)
    slab = 100 * patch[0] * shape[1] * shape[2] * 4  # as deep as a patch
    return {
        "device": _name(device),
        "shape": shape,
        "classes": int(labels_zyx.max()) + 1,
        "labels_mb": labels_zyx.nbytes / 1e6,
        "slab_mb": slab / 1e6,
        "whole_logits_mb": 100 * labels_zyx.nbytes * 4 / 1e6,
        "taken_mb": (_memory(device) - before) / 1e6,
    }


def overhead(device: torch.device, slices: int, rows: int) -> dict[str, Any]:
    """Read a series and segment it by a model that lasts five seconds; all else is overhead."""
    spacing, wanted = (1.0, 0.8, 0.8), (1.5, 1.5, 1.5)
    patch = (96, 160, 160)
    with tempfile.TemporaryDirectory() as folder:
        phantom = write_phantom(
            Path(folder), slices=slices, rows=rows, columns=rows, spacing_mm=spacing
        )
        paths = phantom.paths
        warm = _model(Lasting(0.0, device), device, patch, wanted)
        predict(warm, read_volume(paths))  # the libraries, and the files into the page cache
        assert warm.ran is not None
        windows = warm.ran.windows
        model = _model(Lasting(COST_S / windows, device), device, patch, wanted)
        gc.collect()
        gc.freeze()  # As a worker does when it is warm.
        started, cpu = time.perf_counter(), time.process_time()
        volume = read_volume(paths)
        loaded = time.perf_counter()
        predict(model, volume)
        ended = time.perf_counter()
    return {
        "device": _name(device),
        "series": f"{slices} x {rows}²",
        "windows": windows,
        "load_s": loaded - started,
        "predict_s": ended - loaded,
        "overhead_s": ended - started - COST_S,
        "overhead": (ended - started - COST_S) / COST_S,
        "cpu_s": time.process_time() - cpu,
    }


def predict_of(model: NetworkModel, hu_zyx: np.ndarray) -> np.ndarray:
    """Return the labels of a volume of 1 mm voxels."""
    return model.predict(hu_zyx, np.eye(4))


def _model(
    module: torch.nn.Module,
    device: torch.device,
    patch: tuple[int, ...],
    spacing_mm: tuple[float, ...] | None,
) -> NetworkModel:
    spec = ModelSpec(
        name="bench",
        version="1",
        kind="builtin",
        input=InputSpec(
            dimension="3d", hu_window=(-1000.0, 1000.0), patch=patch, spacing_mm=spacing_mm
        ),
    )
    return NetworkModel(spec, TorchNetwork(module, "bench", spec.run, device))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _memory(device: torch.device) -> int:
    """Return the most bytes that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def main() -> None:
    """Run everything and print it; ``--check`` ends with 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="40 slices of 128², one round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.slices, options.rows, options.rounds = 40, 128, 1
    device = torch.device(options.device)
    precisions = ["float32", "float16"] if device.type == "cuda" else ["float32"]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, Any] = {
            "machine": describe(Path(tempfile.gettempdir())),
            "memory": hundred_classes(
                device, 40 if options.quick else 240
            ),  # first: memory is a high-water mark
            "monai": [beside_monai(device, options.rounds, p) for p in precisions],
            "overhead": overhead(device, options.slices, options.rows),
        }
    print(json.dumps(found, indent=2) if options.json else _report(found))
    faults = _faults(found)
    for fault in faults:
        print(fault, file=sys.stderr)
    if options.check and faults:
        sys.exit(1)


def _report(found: dict[str, Any]) -> str:
    lines = [
        f"{row['device']}, {row['precision']}: MONAI {row['monai_s']:.3f} s, "
        f"Osteon {row['osteon_s']:.3f} s, largest difference {row['difference']:.1e}"
        for row in found["monai"]
    ]
    row = found["memory"]
    lines.append(
        f"100 classes of {row['shape']}: labels {row['labels_mb']:.0f} MB, slab "
        f"{row['slab_mb']:.0f} MB, taken {row['taken_mb']:.0f} MB "
        f"(whole logits: {row['whole_logits_mb']:.0f} MB)"
    )
    row = found["overhead"]
    lines.append(
        f"{row['series']} around a model of {COST_S:g} s: loaded in {row['load_s']:.2f} s, "
        f"predicted in {row['predict_s']:.2f} s, overhead {row['overhead']:.1%}"
    )
    return "\n".join(lines)


def _faults(found: dict[str, Any]) -> list[str]:
    faults = [
        f"{row['precision']}: logits differ from MONAI's by {row['difference']:.1e}"
        for row in found["monai"]
        if row["precision"] == "float32" and row["difference"] > DIFFERENCE_MAX
    ]
    faults += [
        f"{row['precision']}: {row['osteon_s']:.3f} s, slower than MONAI's {row['monai_s']:.3f} s"
        for row in found["monai"]
        if row["osteon_s"] > 1.03 * row["monai_s"]
    ]
    if found["overhead"]["overhead"] > OVERHEAD_MAX:
        faults.append(f"overhead {found['overhead']['overhead']:.1%} is over {OVERHEAD_MAX:.0%}")
    return faults


if __name__ == "__main__":
    main()
