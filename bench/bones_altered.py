"""How ``builtin:bone`` bears other patients and scanners: labelled CT, deformed and re-imaged.

The folder of series enters; for each labelled series, and for phantoms, the Dice of copies that
`bone_cases` turns, stretches, bends, samples anew, blurs or sharpens, brightens, fades and makes
noisy leaves: the mean, the worst, and plain thresholding beside it.

    python bench/bones_altered.py --data ../shared/data
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from bone_cases import (
    JUDGED,
    LABELLED,
    builtin,
    deformed,
    load_case,
    phantom_case,
    prepare,
    reimaged,
)


def dice(task: tuple[str, str, int]) -> tuple[float, float]:
    """Return the Dice of ``builtin:bone``, and of HU > 200, on one altered copy."""
    arrays, name, seed = task
    rng = np.random.default_rng([seed, len(name)])
    if name == "phantom":
        case = reimaged(phantom_case(rng), rng)
    else:
        case = reimaged(deformed(load_case(Path(arrays) / f"{name}.npz"), rng), rng)
    part = JUDGED.get(name, slice(None))
    bone = case.bone_zyx[part] > 0.5
    masks = (builtin(case.hu_zyx, case.spacing_zyx_mm)[part] > 0, case.hu_zyx[part] > 200)
    found, bright = (2 * (mask & bone).sum() / (mask.sum() + bone.sum()) for mask in masks)
    return float(found), float(bright)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of series")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--copies", type=int, default=24)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    arrays = given.out / "arrays"
    prepare(given.data, arrays)
    print("series    mean   worst  HU > 200")
    for name in (*LABELLED, "phantom"):
        tasks = [(str(arrays), name, seed) for seed in range(given.copies)]
        with ProcessPoolExecutor(given.processes) as executor:
            figures = np.array(list(executor.map(dice, tasks)))
        mean, worst = figures.mean(axis=0), figures.min(axis=0)
        print(f"{name:8}  {mean[0]:.3f}  {worst[0]:.3f}  {mean[1]:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
