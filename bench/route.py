#!/usr/bin/env python3
"""From the last acknowledgement to the Segmentation in the PACS, beside Orthanc with a script.

A digital CT phantom is sent by C-STORE to a node whose PACS is Orthanc, and to an Orthanc whose
stable series start ``route_peer.py``: the same model, the same quiet time, in turn. Printed:

    after last   s from the last acknowledgement until the PACS holds the Segmentation
    overhead     the same without the quiet time
    bare         s that the model needs on the volume in memory
    R            overhead / bare

    route.py [--slices N] [--size N] [--quiet S] [--rounds N] [--json FILE] [--check]

--check ends with 1 unless R <= 1.15 and the overhead is below bare + 0.5 s and the peer's.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import raw_scu
from receivers import HOST, ORTHANC, free_port
from rich.console import Console
from rich.table import Table

from osteon.pipeline.bone import BoneModel
from osteon.pipeline.boneseg import combine
from osteon.pipeline.phantom import write_phantom
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import read_volume

HERE = Path(__file__).resolve().parent
START_S, RESULT_S, POLL_S = 60.0, 300.0, 0.02
R_MAX, OVERHEAD_BEYOND_BARE_S = 1.15, 0.5
Found = TypeVar("Found")


def main() -> None:
    """Measure, print, and judge where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--quiet", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=HERE / "out" / "route.json")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if shutil.which(ORTHANC) is None:
        sys.exit(f"{ORTHANC} is not installed: it is the PACS and the peer")
    with tempfile.TemporaryDirectory(prefix="bench-route-") as folder:
        figures = measure(Path(folder), args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=2))
    show(figures)
    if args.check and not meets_targets(figures):
        sys.exit(1)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of both, in rounds that visit one after the other."""
    rounds: dict[str, list[float]] = {"osteon": [], "peer": [], "bare": []}
    for number in range(args.rounds):
        ct = folder / f"ct{number}"
        write_phantom(ct, seed=number, slices=args.slices, rows=args.size, columns=args.size)
        rounds["bare"].append(bare_model_s(ct / "dicom"))
        rounds["osteon"].append(osteon_s(folder / f"osteon{number}", ct / "dicom", args.quiet))
        rounds["peer"].append(peer_s(folder / f"peer{number}", ct / "dicom", args.quiet))
        shutil.rmtree(ct)
    bare = statistics.median(rounds["bare"])
    figures: dict[str, Any] = {"slices": args.slices, "size": args.size, "quiet_s": args.quiet}
    figures |= {"rounds": rounds, "bare_s": bare}
    for name in ("osteon", "peer"):
        after_last = statistics.median(rounds[name])
        overhead = after_last - args.quiet
        figures[name] = {"after_last_s": after_last, "overhead_s": overhead, "r": overhead / bare}
    return figures


def bare_model_s(folder: Path) -> float:
    """Return how long the model needs on a volume that is in memory, warm."""
    model, volume = BoneModel(), read_volume(sorted(folder.iterdir()))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        combine(model, predict(model, volume), volume)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def osteon_s(folder: Path, ct: Path, quiet_s: float) -> float:
    """Return the time from the last acknowledgement to the Segmentation in the PACS."""
    with orthanc(folder / "pacs", quiet_s) as pacs:
        config, dicom, http = folder / "osteon.toml", free_port(), free_port()
        config.write_text(
            f'data_dir = "{folder / "data"}"\n'
            f'[scp]\nhost = "{HOST}"\nport = {dicom}\nquiet_s = {quiet_s}\n'
            f"[http]\nport = {http}\n[pipeline]\ndisk_reserve_gb = 0.1\n"
            f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "{HOST}"\n'
            f"port = {pacs.dicom}\n"
        )
        command = [sys.executable, "-m", "osteon.cli.main", "serve", "--config", str(config)]
        with program(command, folder / "node.log"):
            wait_for(lambda: get(f"http://{HOST}:{http}/readyz"), START_S)
            time.sleep(3.0)  # The worker has loaded its model by then, as in a node that runs.
            sent = send(ct, dicom, "OSTEON")
            wait_for(pacs.segmentations, RESULT_S)
            return time.perf_counter() - sent


def peer_s(folder: Path, ct: Path, quiet_s: float) -> float:
    """Return the same of an Orthanc whose stable series start the script."""
    with orthanc(folder, quiet_s) as pacs:
        sent = send(ct, pacs.dicom, "PACS")
        series = wait_for(pacs.stable_series, RESULT_S)
        script = [sys.executable, str(HERE / "route_peer.py"), pacs.address, series]
        subprocess.run(script, check=True, timeout=RESULT_S)
        wait_for(pacs.segmentations, RESULT_S)
        return time.perf_counter() - sent


class Pacs:
    """An Orthanc on loopback: its ports, and what it says over REST."""

    def __init__(self, dicom: int, http: int) -> None:
        self.dicom = dicom
        self.address = f"http://{HOST}:{http}"

    def segmentations(self) -> list[str]:
        """Return the Segmentations that it holds."""
        query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
        return list(json.loads(get(f"{self.address}/tools/find", json.dumps(query).encode())))

    def stable_series(self) -> str:
        """Return the series that has become stable, or ""."""
        changes = json.loads(get(f"{self.address}/changes?limit=100000"))["Changes"]
        stable = [c["ID"] for c in changes if c["ChangeType"] == "StableSeries"]
        return stable[0] if stable else ""


@contextmanager
def orthanc(folder: Path, quiet_s: float) -> Iterator[Pacs]:
    """Run an empty Orthanc whose series are stable after the quiet time."""
    folder.mkdir(parents=True)
    pacs = Pacs(free_port(), http := free_port())
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": http,
        "DicomPort": pacs.dicom,
        "DicomAet": "PACS",
        "DicomAlwaysAllowFind": True,
        "StableAge": round(quiet_s),
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    # Nagle's algorithm would cost the peer more than all else.
    command = ["/usr/bin/env", "TCP_NODELAY=1", ORTHANC, str(folder / "orthanc.json")]
    with program(command, folder / "orthanc.log"):
        wait_for(lambda: get(f"{pacs.address}/system"), START_S)
        yield pacs


@contextmanager
def program(command: list[str], log: Path) -> Iterator[None]:
    """Run a program for a while and surely end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def send(folder: Path, port: int, called: str) -> float:
    """Send a folder on one association; return the time of the last acknowledgement."""
    report = raw_scu.send((HOST, port), called, raw_scu.load(folder))
    assert set(report.statuses) == {"0x0000"}, report.statuses
    return time.perf_counter()


def get(address: str, body: bytes | None = None) -> bytes:
    """Return what an address answers, or nothing while nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def wait_for(ask: Callable[[], Found], timeout_s: float) -> Found:
    """Ask until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        time.sleep(POLL_S)
    return found


def meets_targets(figures: dict[str, Any]) -> bool:
    """Return whether the node is as fast as it claims."""
    ours = figures["osteon"]
    return bool(
        ours["r"] <= R_MAX
        and ours["overhead_s"] <= figures["bare_s"] + OVERHEAD_BEYOND_BARE_S
        and ours["overhead_s"] < figures["peer"]["overhead_s"]
    )


def show(figures: dict[str, Any]) -> None:
    """Print one table."""
    title = f"{figures['slices']} × {figures['size']}², quiet time {figures['quiet_s']:g} s"
    table = Table(title=title, caption=f"bare model: {figures['bare_s']:.2f} s")
    for column in ("", "after last, s", "overhead, s", "R"):
        table.add_column(column, justify="right" if column else "left")
    for name, words in (("osteon", "Osteon"), ("peer", "Orthanc + script")):
        row = figures[name]
        cells = (row["after_last_s"], row["overhead_s"], row["r"])
        table.add_row(words, *(f"{cell:.2f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
