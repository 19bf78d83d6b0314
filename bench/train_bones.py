"""Train a small network on labelled CT, and judge it on the series that it has not seen.

Labelled series and digital phantoms enter, by `bone_cases`. For each labelled series one network is
trained on deformed and re-imaged copies of all the others; a table of Dice per left-out series
leaves, beside what ``builtin:bone`` reaches on it. What came of it stands in
docs/decisions/0012-bones-by-rules.md.

    python bench/train_bones.py --data ../shared/data
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bone_cases import (
    BUILTIN,
    DENSITY,
    JUDGED,
    LABEL,
    LABELLED,
    LEAK,
    RAYS_MET,
    WEIGHT,
    Case,
    builtin,
    load_case,
    prepare,
    reimaged,
    sample,
    seen,
)
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from osteon.pipeline.bones.boneshape import BoneVolumeParameters
from osteon.pipeline.bones.filters import voxels

# What a network sees of a voxel: its density alone, or also what builtin:bone knows of it.
INPUTS = {"density": (DENSITY,), "refiner": (DENSITY, RAYS_MET, LEAK, BUILTIN)}
WIDTHS = (8, 16, 32, 48)
BATCH = 2
RATE = 2e-3

Pool = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Network(nn.Module):
    """A U-Net of four levels; its input is the channels and the spacing."""

    def __init__(self, channels: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        before = channels + 1
        for width in widths:
            self.down.append(_block(before, width))
            before = width
        self.up = nn.ModuleList(
            _block(deep + width, width)
            for width, deep in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.head = nn.Conv3d(widths[0], 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = []
        for index, block in enumerate(self.down):
            image = block(functional.max_pool3d(image, 2) if index else image)
            kept.append(image)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            wide = functional.interpolate(image, size=skip.shape[2:], mode="nearest")
            image = block(torch.cat([wide, skip], 1))
        logits: torch.Tensor = self.head(image)
        return logits


def _block(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
        nn.Conv3d(width, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.SiLU(),
    )


def batches(
    pool: Pool, names: list[str], rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield patches of all series in equal parts, mirrored at random."""
    while True:
        images, spacings = [], []
        for name in rng.choice(names, BATCH):
            patches, grids_mm = pool[name]
            index = int(rng.integers(len(patches)))
            images.append(patches[index].flip(-1) if rng.random() < 0.5 else patches[index])
            spacings.append(grids_mm[index])
        yield torch.stack(images), torch.stack(spacings)


def train(pool: Pool, names: list[str], inputs: tuple[int, ...], steps: int) -> Network:
    """Train one network; its weights are a moving average."""
    device = next(iter(pool.values()))[0].device
    torch.manual_seed(0)
    network = Network(len(inputs)).to(device, memory_format=torch.channels_last_3d)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    drawn = batches(pool, names, np.random.default_rng(0))
    for step, (images, spacings) in zip(range(steps), drawn, strict=False):
        rate = RATE * min(1.0, (step + 1) / 100) * (1 - step / steps) ** 0.9
        optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(network_input(images, spacings, inputs))[:, 0]
        loss = _loss(logits.float(), images[:, LABEL] / 255.0, images[:, WEIGHT] / 255.0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
    trained: Network = average.module
    return trained.eval()


def network_input(
    channels: torch.Tensor, spacings: torch.Tensor, inputs: tuple[int, ...]
) -> torch.Tensor:
    """Scale what is seen to about -1 to 1, and append the spacing."""
    image = channels[:, list(inputs)].float() / 127.5 - 1.0
    plane = (spacings / 2.0 - 1.0).view(-1, 1, 1, 1, 1).expand(-1, 1, *image.shape[2:])
    return torch.cat([image, plane], 1)


def _loss(logits: torch.Tensor, bone: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    cross = functional.binary_cross_entropy_with_logits(logits, bone, weight)
    found = logits.sigmoid() * weight
    overlap = 2 * (found * bone).sum() / (found.sum() + (bone * weight).sum() + 1)
    return 5 * cross + 1 - overlap


@torch.inference_mode()
def judge(network: Network, case: Case, inputs: tuple[int, ...], part: slice) -> dict[str, float]:
    """Compare a network, and ``builtin:bone``, with the reference of a series on its own grid."""
    device = next(network.parameters()).device
    channels, grid_mm = seen(case)
    image = torch.from_numpy(channels)[None].to(device)
    logits = network(network_input(image, torch.tensor([grid_mm], device=device), inputs))
    factors = voxels(BoneVolumeParameters().grid_mm, case.spacing_zyx_mm, at_least=1)
    size = [n * factor for n, factor in zip(channels.shape[1:], factors, strict=True)]
    fine = functional.interpolate(logits.float(), size=size, mode="trilinear")[0, 0].cpu().numpy()
    found = fine[tuple(slice(0, n) for n in case.hu_zyx.shape)] > 0
    classical = builtin(case.hu_zyx, case.spacing_zyx_mm) > 0
    bone = case.bone_zyx > 0.5
    return {
        "network": _dice(found[part], bone[part]),
        "builtin": _dice(classical[part], bone[part]),
    }


def _dice(found: NDArray[np.bool_], bone: NDArray[np.bool_]) -> float:
    return round(float(2 * (found & bone).sum() / (found.sum() + bone.sum())), 4)


def fold(arrays: Path, pool: Pool, left_out: str, kind: str, steps: int) -> dict[str, Any]:
    """Leave one series out, train on the others, and judge on it and on altered copies of it."""
    inputs = INPUTS[kind]
    case, part = load_case(arrays / f"{left_out}.npz"), JUDGED.get(left_out, slice(None))
    rng = np.random.default_rng(7)
    copies = [case, *(reimaged(case, rng) for _ in range(3))]
    network = train(pool, [name for name in pool if name != left_out], inputs, steps)
    figures = [judge(network, copy, inputs, part) for copy in copies]
    row: dict[str, Any] = {"left out": left_out, "sees": kind, **figures[0]}
    for method in ("network", "builtin"):
        row[f"{method}, altered"] = round(float(np.mean([one[method] for one in figures[1:]])), 4)
    return row


def make_pool(arrays: Path, copies: int, processes: int) -> Pool:
    """Make the patches of all series, of phantoms as many, of the unlabelled ankle a third."""
    names = (*LABELLED, "phantom")
    tasks = [(str(arrays), name, seed) for name in names for seed in range(copies)]
    tasks += [(str(arrays), "ankle", seed) for seed in range(copies // 3)]
    found: dict[str, list[tuple[NDArray[np.uint8], float]]] = {}
    with ProcessPoolExecutor(processes) as executor:
        for name, patches, grid_mm in executor.map(sample, tasks, chunksize=4):
            found.setdefault(name, []).extend((patch, grid_mm) for patch in patches)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        name: (
            torch.from_numpy(np.stack([patch for patch, _ in pairs])).to(device),
            torch.tensor([mm for _, mm in pairs], device=device),
        )
        for name, pairs in found.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of series")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--sees", choices=tuple(INPUTS), nargs="*", default=["refiner"])
    parser.add_argument("--steps", type=int, default=700, help="of training, each fold")
    parser.add_argument("--copies", type=int, default=60, help="altered copies of each series")
    parser.add_argument("--processes", type=int, default=1, help="that make them")
    given = parser.parse_args()
    started = time.monotonic()
    arrays = given.out / "arrays"
    prepare(given.data, arrays)
    pool = make_pool(arrays, given.copies, given.processes)
    print(f"copies made in {time.monotonic() - started:.0f} s", flush=True)
    rows = []
    for kind in given.sees:
        for left_out in LABELLED:
            rows.append(fold(arrays, pool, left_out, kind, given.steps))
            print(json.dumps(rows[-1]), f"{time.monotonic() - started:.0f} s", flush=True)
    (given.out / "train_bones.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
