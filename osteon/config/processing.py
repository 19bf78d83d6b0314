"""The sections about the work: limits of the pipeline, and the cluster it may run on.

`settings.py` puts them together; the `work` role and its engine go by them.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from osteon.config.values import TLS_ADDRESS, Seconds, Section


class Generations(StrEnum):
    """What a slice means that arrives after its series was complete."""

    NEVER = "never"
    ALWAYS = "always"
    REPLACE = "replace"


class PipelineSettings(Section):
    """Workers and the limits that keep the queue from congesting the system."""

    model: str = Field("builtin:bone", description="Model of the route that stands for none.")
    models_dir: Path | None = Field(None, description="Folder of model folders.")
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = Field(
        "auto",
        description="Worker processes; auto is one a GPU that CUDA_VISIBLE_DEVICES leaves, else one"
        " for every two cores. Each sees one GPU; where there are more of them, in turn."
        " GPUs beyond their number stay idle, and `osteon config check` names them.",
    )
    running_max: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        "auto",
        description="Jobs between admission and delivery, those of less urgent classes not counted;"
        " auto is two a slot and at least 8.",
    )
    models_max: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="Jobs between admission and delivery by model, as in `{ lungs = 1 }`; a model"
        " that no route uses is an error.",
    )
    memory_gb: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto",
        description="Memory (10^9 bytes) that these jobs share, by the size of their series; auto"
        " is three quarters of this host's, and no limit with a cluster.",
    )
    waiting_max: int = Field(
        100_000, ge=1, description="Waiting jobs at which new associations are turned away."
    )
    disk_reserve_gb: float = Field(
        2.0, ge=0, description="Free space (10^9 bytes) below which nothing more is accepted."
    )
    attempts_max: int = Field(3, ge=1, le=20, description="Attempts of one stage of a job.")
    lease_s: Seconds = Field(60.0, gt=0, description="Lease of a running stage; it is renewed.")
    stage_timeout_s: Seconds = Field(
        1800.0, gt=0, description="A stage that runs longer is killed and tried again."
    )
    recycle_jobs: int = Field(
        500, ge=1, description="Jobs after which a worker process makes room for a fresh one."
    )
    recycle_growth_gb: float = Field(
        4.0,
        gt=0,
        description="Memory (10^9 bytes) by which a worker process may grow after its first job"
        " before a fresh one takes its place.",
    )
    evidence_cache_gb: float = Field(
        10.0,
        ge=0,
        description="Disk space (10^9 bytes) for what slow 2D models said of slices, so that"
        " nothing is predicted twice; what was of no use for longest is removed first.",
    )
    ahead: bool = Field(
        True, description="Run a series that looks whole while its quiet time still lasts."
    )
    generations: Generations = Field(
        Generations.REPLACE, description="What late slices of a complete series do."
    )


class ClusterSettings(Section):
    """GPUs on several machines, by the extra `osteon[cluster]`; this host alone where absent."""

    scheduler: str = Field(
        pattern=TLS_ADDRESS,
        description="Address of the scheduler: `tls://HOST:PORT`.",
    )
    certificate: Path = Field(description="PEM file with this host's certificate.")
    key: Path = Field(description="PEM file with the private key of the certificate.")
    ca: Path = Field(description="PEM file with the CA that signed the cluster's certificates.")
    input: Literal["shared", "value"] = Field(
        "value",
        description="How workers get at a series: by a folder that they share with the node, or by"
        " value, over the network with the request.",
    )
    shared_data_dir: Path | None = Field(
        None,
        description="On a worker: where the node's data_dir is mounted; the same path if absent.",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_secured(cls, value: Any) -> Any:
        """Say why it is refused: Dask runs code for whoever may connect."""
        if not isinstance(value, dict):
            return value
        scheduler = value.get("scheduler")
        if isinstance(scheduler, str) and not scheduler.startswith("tls://"):
            raise ValueError(
                f"scheduler {scheduler!r} would be reached without encryption, and a cluster runs"
                " code for everybody who reaches it: write tls://HOST:PORT"
            )
        absent = [name for name in ("certificate", "key", "ca") if not value.get(name)]
        if absent:
            raise ValueError(
                f"{', '.join(absent)} missing: a cluster is joined by mutual TLS only; `osteon"
                " cluster ca` writes the files and the section"
            )
        return value
