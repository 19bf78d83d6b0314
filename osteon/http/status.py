"""The node at a glance: counts, free space, and which roles answer.

The table, the disk and the receiver's port are asked, one `StatusView` leaves. The status page,
the metrics and the readiness probe all read it, and share what is less than a second old.
"""

import socket
import threading
import time
from importlib.metadata import version

from pydantic import BaseModel, Field

from osteon.config.settings import Settings
from osteon.pipeline.instances.spool import free_bytes
from osteon.pipeline.intake import GIGABYTE, Intake
from osteon.pipeline.table import shadow, views
from osteon.pipeline.table.connection import FILE_NAME, Table
from osteon.pipeline.table.times import iso
from osteon.pipeline.table.workers import engine_state
from osteon.pipeline.worklock import work_is_running

FRESH_S = 1.0
CONNECT_TIMEOUT_S = 1.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is read, not listened on


class Roles(BaseModel):
    """Which of the other roles answer."""

    receive: bool = Field(description="Something listens on the DICOM port.")
    work: bool = Field(description="A worker role holds the data directory.")


class Engine(BaseModel):
    """Where stages run, as the working role said last."""

    slots: int = Field(description="Stages that can run at once; 0 before its first start.")
    reason: str = Field(description="Why none can: a cluster without scheduler, for example.")
    since: str | None = Field(description="Since when that is so.")
    idle: str = Field(description="Which GPUs no slot uses, and what to set; empty for none.")


class Disk(BaseModel):
    """Room for images."""

    free_bytes: int
    reserve_bytes: int = Field(description="Below it nothing more is accepted.")
    table_bytes: int = Field(description="Size of the job table.")


class ShadowSummary(BaseModel):
    """How a shadow model compares with the one that it runs beside."""

    model: str
    first_model: str
    n: int = Field(description="Series that were compared.")
    mean_dice: float
    min_dice: float


class StatusView(BaseModel):
    """The node at a glance."""

    version: str
    ae_title: str
    accepting: bool
    refusal: str | None = Field(description="Why nothing is accepted now.")
    roles: Roles
    engine: Engine
    disk: Disk
    instances: int
    series: int
    associations: int
    jobs: dict[str, int] = Field(
        description="Status → how many; cancelled ones, whose status is `failed`, by themselves."
    )
    deliveries: dict[str, int] = Field(description="State → how many.")
    shadow: list[ShadowSummary]
    shadow_unfinished: int = Field(description="Of the jobs, shadows that are not finished.")
    shadow_failed: int = Field(description="Of the failed jobs, shadows.")


class NodeStatus:
    """Ask for the node's status, at most once a second however many read it."""

    def __init__(self, settings: Settings, table: Table, intake: Intake) -> None:
        self._settings = settings
        self._table = table
        self._intake = intake
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._view: StatusView | None = None

    def read(self) -> StatusView:
        """Return the status, not older than a second.

        Raises
        ------
        TableError
            The table cannot be read.
        """
        with self._lock:
            if self._view is None or time.monotonic() - self._asked > FRESH_S:
                self._view = self._ask()
                self._asked = time.monotonic()
            return self._view

    def _ask(self) -> StatusView:
        settings, data_dir = self._settings, self._table.data_dir
        refusal = self._intake.refusal()
        counts = views.counts(self._table)
        files = (data_dir / FILE_NAME, data_dir / f"{FILE_NAME}-wal")
        return StatusView(
            version=version("osteon"),
            ae_title=settings.scp.ae_title,
            accepting=refusal is None,
            refusal=refusal,
            roles=Roles(
                receive=listens(settings.scp.host, settings.scp.port),
                work=work_is_running(data_dir),
            ),
            engine=engine_of(self._table),
            disk=Disk(
                free_bytes=free_bytes(data_dir),
                reserve_bytes=int(settings.pipeline.disk_reserve_gb * GIGABYTE),
                table_bytes=sum(file.stat().st_size for file in files if file.is_file()),
            ),
            shadow=[ShadowSummary(**row) for row in shadow.summaries(self._table)],
            shadow_unfinished=shadow.count_open(self._table),
            shadow_failed=shadow.count_failed(self._table),
            **counts,
        )


def engine_of(table: Table) -> Engine:
    """Return what the working role said last of where its stages run."""
    found = engine_state(table)
    if found is None:
        return Engine(slots=0, reason="", since=None, idle="")
    since = iso(found.updated)
    return Engine(slots=found.slots, reason=found.reason, since=since, idle=found.idle)


def address_here(host: str) -> str:
    """Return where, on this host, something is reached that listens on an address."""
    return _ANY_ADDRESS.get(host, host)


def listens(host: str, port: int) -> bool:
    """Return whether something listens on an address of this host."""
    try:
        with socket.create_connection((address_here(host), port), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
