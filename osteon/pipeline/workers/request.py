"""What crosses the line between dispatcher and worker: plain values that can be pickled.

Requests go to a worker, reports come back. The rest is what an engine of this host and its worker
processes say to each other.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osteon.errors import OsteonError
from osteon.pipeline.job import Stage


@dataclass(frozen=True)
class CacheSettings:
    """Where what 2D models said of slices is kept, and how large that may become.

    Attributes
    ----------
    free_bytes_min : int
        Where less of the disk is free, it shrinks: it shall never be what stops reception.
    """

    folder: Path
    bytes_max: int
    free_bytes_min: int = 0


@dataclass(frozen=True)
class StageRequest:
    """One attempt of one stage of one job.

    Attributes
    ----------
    out : Path
        Folder of this attempt; the worker creates it and writes only there.
    inputs : tuple of Path
        The series' files.
    outputs : dict
        Stage → folder of its accepted output.
    input_sha256 : str
        Identity of the input set; result UIDs derive from it.
    content_at : float
        Content Date and Time of results, in seconds since 1970: when the last instance arrived.
    cache : CacheSettings, optional
        Nothing is kept where it is absent.
    """

    job_id: int
    stage: Stage
    attempt: int
    out: Path
    inputs: tuple[Path, ...]
    outputs: dict[Stage, Path]
    model: str
    models_dir: Path | None
    input_sha256: str
    content_at: float
    cache: CacheSettings | None = None


@dataclass(frozen=True)
class SliceRequest:
    """Slices of a series that is still arriving, for a worker to read and predict early.

    Attributes
    ----------
    inputs : tuple of Path
        Files of one series.
    """

    inputs: tuple[Path, ...]
    model: str
    models_dir: Path | None
    cache: CacheSettings | None = None


Request = StageRequest | SliceRequest


@dataclass(frozen=True)
class StageReport:
    """What a stage made.

    Attributes
    ----------
    why : str
        What was done, in words, for the job's record.
    seconds : float
        How long it ran.
    facts : dict
        What the dispatcher records: UIDs and segments of an encoded result.
    began : float
        When it began, in seconds since 1970.
    worker : str
        Host and process that ran it, and the GPU.
    """

    why: str
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker process is set up.

    Attributes
    ----------
    model : str
        The model that is loaded before the first job.
    models_dir : Path, optional
        Folder of model folders.
    threads : int
        Threads that its libraries may compute with.
    jobs_max : int
        After so many jobs it makes room for a fresh process.
    growth_bytes_max : int
        So does it when it holds so much more memory than after its first job.
    """

    model: str
    models_dir: Path | None = None
    threads: int = 1
    jobs_max: int = 500
    growth_bytes_max: int = 4 * 10**9


@dataclass(frozen=True)
class Join:
    """To a worker: a slot has taken it, so it loads its model.

    Attributes
    ----------
    gpu : str, optional
        The GPU of the slot, as ``CUDA_VISIBLE_DEVICES`` names it; what was inherited where absent.
    """

    gpu: str | None = None


@dataclass(frozen=True)
class Work:
    """To a worker: run these one after the other, each only if the one before went well.

    Attributes
    ----------
    number : int
        Names this work in what the worker answers.
    alone : bool
        Whether nothing else may run beside it.
    """

    number: int
    requests: tuple[Request, ...]
    alone: bool = False


@dataclass(frozen=True)
class Soon:
    """To a worker: this is likely to come next; its volume may be read meanwhile."""

    request: StageRequest


@dataclass(frozen=True)
class Ready:
    """From a worker: it has loaded its model."""


@dataclass(frozen=True)
class Done:
    """From a worker: one request of a work is over, with a report or an error."""

    number: int
    outcome: StageReport | OsteonError


@dataclass(frozen=True)
class Progressed:
    """From a worker: how far, 0 to 1, the present request of a work has come."""

    number: int
    fraction: float


@dataclass(frozen=True)
class Free:
    """From a worker: it computes nothing any more; what it still writes needs no device.

    Attributes
    ----------
    leaving : str
        Why it ends as soon as that is written; "" where it takes the next work.
    """

    leaving: str = ""


Answer = Ready | Done | Progressed | Free
