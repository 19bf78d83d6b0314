"""Which GPU a slot computes on: those that this process may see, handed out one after the other.

The device files and the environment enter; values of ``CUDA_VISIBLE_DEVICES`` leave. The role
``work`` counts its slots by them; a worker takes its own before anything there touches CUDA.
"""

import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
NODES = "nvidia[0-9]*"
_NAMED = re.compile(r"(GPU|MIG)-\S+")  # By UUID, as `nvidia-smi -L` prints it.


def visible_gpus(
    devices: Path = Path("/dev"), environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the GPUs that this process may see, as ``CUDA_VISIBLE_DEVICES`` names each.

    CUDA counts from 0 what it finds, whatever the numbers of the device files: a container that
    was given ``/dev/nvidia2`` and ``/dev/nvidia3`` has the GPUs 0 and 1.

    Parameters
    ----------
    devices : Path
        Where the device files are.
    environ : mapping, optional
        The environment; that of this process where absent. A ``CUDA_VISIBLE_DEVICES`` in it is
        read as CUDA reads it: it ends at the first entry that is no GPU, so that ``""`` and
        ``"-1"`` leave none, and where one is named twice none is left.
    """
    count = len(list(devices.glob(NODES)))
    said = (os.environ if environ is None else environ).get(VISIBLE)
    if said is None:
        return tuple(str(index) for index in range(count))
    found: list[str] = []
    for entry in (entry.strip() for entry in said.split(",")) if count else ():
        if entry.isdecimal() and int(entry) < count:
            gpu = str(int(entry))
        elif _NAMED.fullmatch(entry):
            gpu = entry
        else:
            break
        if gpu in found:
            return ()
        found.append(gpu)
    return tuple(found)


def gpu_of(slot: int, gpus: Sequence[str]) -> str | None:
    """Return the GPU of a slot, counted from 0: in turn where there are more slots than GPUs."""
    return gpus[slot % len(gpus)] if gpus else None


def idle_words(slots: int, gpus: Sequence[str]) -> str:
    """Say which GPUs no slot uses, and what to set; "" where every one has a slot.

    Parameters
    ----------
    slots : int
        How many there are.
    gpus : sequence of str
        What `visible_gpus` returned.
    """
    idle = gpus[slots:]
    if not idle:
        return ""
    named = f"GPU {idle[0]} stays idle" if len(idle) == 1 else f"GPUs {', '.join(idle)} stay idle"
    have = "1 slot" if slots == 1 else f"{slots} slots"
    return (
        f"{named}: pipeline.slots gives {have} and there are {len(gpus)} GPUs;"
        f' set pipeline.slots to "auto" or to {len(gpus)}, or leave them to others by {VISIBLE}'
    )


def take_gpu(gpu: str | None, environ: MutableMapping[str, str] | None = None) -> None:
    """Let this process see one GPU and no other; without one, all stays as it was inherited.

    CUDA is told to count as ``nvidia-smi`` does, by PCI bus, unless the environment says otherwise.
    """
    environ = os.environ if environ is None else environ
    if gpu is not None:
        environ.setdefault(ORDER, "PCI_BUS_ID")
        environ[VISIBLE] = gpu
