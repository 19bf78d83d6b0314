"""What crosses the line between dispatcher and worker: plain values that can be pickled."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osteon.pipeline.job import Stage


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
    """

    job_id: int
    stage: Stage
    attempt: int
    out: Path
    inputs: tuple[Path, ...]
    outputs: dict[str, Path]
    model: str
    models_dir: Path | None
    input_sha256: str
    content_at: float


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
    """

    why: str
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
