"""What the system can bear and what a job needs, in numbers for the throttler.

Settings and the host enter as `Limits`; rows of jobs enter as `Waiting`. Called by admission.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from osteon.config.settings import Settings
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.table.connection import Row
from osteon.pipeline.throttler import Limits, Needs, Waiting

# A worker takes 6.3 bytes a voxel at its peak with builtin:bone, of 150 × 512²; a margin with it.
MEMORY_PER_VOXEL_BYTES = 8
# Prediction and label map take a byte a voxel each, and the Segmentation an eighth.
DISK_PER_VOXEL_BYTES = 2.5
MEMORY_SHARE = 0.75  # Of the host's memory, for jobs; the rest is the disk cache's and the roles'.
RUNNING_PER_SLOT, RUNNING_MIN = 2, 8
_BYTES_PER_VOXEL = 2  # Where a header does not say how large its images are.


def limits_of(settings: Settings, slots: int) -> Limits:
    """Return what the system can bear.

    Parameters
    ----------
    slots : int
        How many stages run at once.
    """
    pipeline = settings.pipeline
    running = pipeline.running_max
    automatic = max(RUNNING_MIN, RUNNING_PER_SLOT * slots)
    return Limits(
        running_max=automatic if running == "auto" else running,
        models_max=pipeline.models_max,
        sources_max={s.ae_title: s.running_max for s in settings.source if s.running_max},
        weights={source.ae_title: source.weight for source in settings.source},
        memory_bytes_max=_memory_bytes_max(settings),
        free_bytes_min=int(pipeline.disk_reserve_gb * GIGABYTE),
    )


def _memory_bytes_max(settings: Settings) -> int | None:
    """Return the memory that jobs share; a cluster's hosts are not looked at."""
    if settings.pipeline.memory_gb != "auto":
        return int(settings.pipeline.memory_gb * GIGABYTE)
    return None if settings.cluster is not None else int(MEMORY_SHARE * host_memory_bytes())


def host_memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the memory of this host, or of the container if that has less."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # No container, or one without a limit ("max").
        return min(own, int(limit.read_text()))
    return own


def cost_of(header: str, instances: Sequence[Row]) -> tuple[int, int]:
    """Return the voxels and the bytes of a series.

    Parameters
    ----------
    header : str
        JSON of its first instance's values, as on record.
    instances : sequence of Row
        What is held of it.
    """
    size = sum(int(instance["size"]) for instance in instances)
    values = json.loads(header)
    try:
        rows, columns = (int(values[keyword][0]) for keyword in ("Rows", "Columns"))
        frames = int(values.get("NumberOfFrames", ["1"])[0])
    except (KeyError, IndexError, ValueError):
        return max(1, size // _BYTES_PER_VOXEL), size
    return max(1, len(instances) * frames * rows * columns), size


def at_the_door(job: Row) -> Waiting:
    """Return a job's row as the throttler sees it."""
    cost = int(job["cost"])
    needs = Needs(
        cost=cost,
        memory_bytes=cost * MEMORY_PER_VOXEL_BYTES + int(job["input_bytes"]),
        disk_bytes=int(cost * DISK_PER_VOXEL_BYTES),
    )
    return Waiting(job["id"], job["calling_ae_title"], job["priority"], job["model"], needs)
