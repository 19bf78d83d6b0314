"""How fast a CT series becomes a volume, beside pydicom alone; in one run, on the same files.

Series are made (or taken from ``--data``), loaded by turns by Osteon's `read_volume` and by pydicom
with ``np.frombuffer`` (``pixel_array`` where it is compressed) into the same Hounsfield units, and
compared voxel by voxel. Seconds, CPU seconds and peak memory leave as a table. Each load is a
process of its own, so that a peak is a peak; the files are in the page cache.

    python bench/loading.py --rounds 5
    python bench/loading.py --data ../shared/data/ts_siemens_j2k/dicom
"""

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
from datasets import CT, write_instances
from machine import describe
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

RATIO_MAX = 1.5  # of native slices, as promised
COMPRESSED = (JPEGLSLossless, JPEGLosslessSV1, RLELossless, JPEG2000Lossless)
NATIVE = "Explicit VR Little Endian"


def load_osteon(paths: list[Path]) -> NDArray[Any]:
    # In a function: the other loader's process shall not hold Osteon.
    from osteon.pipeline.volume import read_volume  # noqa: PLC0415 - see above

    return read_volume(paths).hu_zyx


def load_pydicom(paths: list[Path]) -> NDArray[Any]:
    """The fastest honest way: each frame straight into the volume, in the order of the files."""
    hu_zyx = None
    for index, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        if hu_zyx is None:
            hu_zyx = np.empty((len(paths), ds.Rows, ds.Columns), np.int16)
        if ds.file_meta.TransferSyntaxUID.is_compressed:
            stored = ds.pixel_array
        else:
            kind = "i" if ds.PixelRepresentation else "u"
            stored = np.frombuffer(ds.PixelData, f"<{kind}2").reshape(ds.Rows, ds.Columns)
        np.copyto(hu_zyx[index], stored, casting="unsafe")
        if ds.RescaleSlope != 1:
            hu_zyx[index] *= np.int16(ds.RescaleSlope)
        hu_zyx[index] += np.int16(ds.RescaleIntercept)
    assert hu_zyx is not None
    return hu_zyx


LOADERS = {"osteon": load_osteon, "pydicom": load_pydicom}


def load_once(loader: str, folder: Path) -> dict[str, Any]:
    """Load a folder in this process; the libraries are loaded and memory is known before."""
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".dcm")
    load = LOADERS[loader]
    load(paths[:3])
    before_kb = _reset_peak_kb()
    started, cpu = time.perf_counter(), _cpu_s()
    hu_zyx = load(paths)
    wall_s, cpu_s = time.perf_counter() - started, _cpu_s() - cpu
    peak_kb = _memory_kb("VmHWM") - before_kb
    positions = [float(_position(path)) for path in paths]
    if loader == "pydicom":  # which takes files as they come
        hu_zyx = hu_zyx[np.argsort(positions, kind="stable")]
    return {
        "slices": len(paths),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_of_volume": 1024 * peak_kb / hu_zyx.nbytes,
        "sha256": hashlib.sha256(np.ascontiguousarray(hu_zyx)).hexdigest(),
    }


def _reset_peak_kb() -> int:
    """Let the peak begin anew, which a new process would else inherit; return what is held."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_kb("VmRSS")


def _memory_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it waited for."""
    own, theirs = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


def _position(path: Path) -> float:
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.cross(row, column) @ np.array(ds.ImagePositionPatient, float))


def compress(source: Path, folder: Path, syntax: pydicom.uid.UID) -> None:
    """Write a series again in another transfer syntax."""
    folder.mkdir()
    for path in sorted(source.iterdir()):
        reader, changer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(path))
        assert reader.Read()
        changer.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        changer.SetInput(reader.GetImage())
        assert changer.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(folder / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(changer.GetOutput())
        assert writer.Write()


def smooth(folder: Path) -> None:
    """Give the slices anatomy's smoothness: noise alone is what no compressor was made for."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x * x + 2 * y * y < 0.6, 1064 + 200 * np.sin(9 * x) * np.cos(7 * y), 24)
    for index, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        noise = random.normal(0, 12, body.shape)
        ds.PixelData = (np.roll(body, index, 0) + noise).clip(0, 4095).astype("<u2").tobytes()
        ds.save_as(path)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Load a folder by turns; return the medians, and whether the voxels are the same."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in LOADERS}
    for _ in range(rounds):
        for name, found in runs.items():
            command = [sys.executable, "-W", "ignore", __file__, "--load", name, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    figures: dict[str, Any] = {}
    for name, found in runs.items():
        figures[name] = {
            key: statistics.median(run[key] for run in found)
            for key in ("slices", "wall_s", "cpu_s", "peak_of_volume")
        }
    hashes = {run["sha256"] for found in runs.values() for run in found}
    figures["identical"] = len(hashes) == 1
    for key in ("wall_s", "cpu_s"):
        figures[f"ratio_{key}"] = figures["osteon"][key] / figures["pydicom"][key]
    return figures


def show(figures: dict[str, dict[str, Any]]) -> None:
    print(f"{'':26}{'slices':>7}{'osteon s':>10}{'pydicom s':>10}{'ratio':>7}"
          f"{'CPU ratio':>11}{'peak, x volume':>17}{'same voxels':>13}")  # fmt: skip
    for name, one in figures.items():
        osteon, other = one["osteon"], one["pydicom"]
        print(
            f"{name:26}{osteon['slices']:>7.0f}{osteon['wall_s']:>10.3f}{other['wall_s']:>10.3f}"
            f"{one['ratio_wall_s']:>7.2f}{one['ratio_cpu_s']:>11.2f}"
            f"{osteon['peak_of_volume']:>10.2f}{other['peak_of_volume']:>7.2f}"
            f"{'yes' if one['identical'] else 'NO':>13}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a folder of one CT series, loaded as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="fail where the promise is not kept")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        print(json.dumps(load_once(asked.load[0], Path(asked.load[1]))))
        return 0
    work = Path(tempfile.mkdtemp(prefix="loading-"))
    figures: dict[str, dict[str, Any]] = {}
    try:
        native = work / "native"
        write_instances(native, replace(CT, rows=asked.size, series=1), asked.slices)
        if asked.size == 512:
            smooth(native)
        figures[NATIVE] = measure(native, asked.rounds)
        for syntax in COMPRESSED:
            compress(native, work / "compressed", syntax)
            figures[syntax.name.partition(",")[0][:25]] = measure(work / "compressed", 1)
            shutil.rmtree(work / "compressed")
        if asked.data:
            figures[asked.data.parent.name] = measure(asked.data, asked.rounds)
    finally:
        shutil.rmtree(work)
    show(figures)
    if asked.json:
        machine = describe(Path(tempfile.gettempdir()))
        asked.json.write_text(json.dumps({"machine": machine, "series": figures}, indent=2))
    kept = figures[NATIVE]["ratio_cpu_s"] <= RATIO_MAX
    same = all(one["identical"] for one in figures.values())
    if not same:
        print("the voxels differ")
    if not kept:
        print(f"native slices take more than {RATIO_MAX} x pydicom and np.frombuffer")
    return int(asked.check and not (kept and same))


if __name__ == "__main__":
    sys.exit(main())
