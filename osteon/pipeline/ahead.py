"""Work ahead: a series that looks whole is run while its quiet time still lasts.

Receiving series of the table enter and stage requests leave to slots that no job needs. When the
series is complete, its job finds here what was done for exactly its input, and takes it over:
delivery alone has waited. What turns out to be of no use costs time of an idle slot and nothing
else; nothing of this is on record, and a restart forgets it.
"""

import shutil
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from osteon.config.settings import Settings
from osteon.pipeline.admission import candidate_of, input_digest, slice_of
from osteon.pipeline.completeness import missing_slices
from osteon.pipeline.job import WORKER_STAGES, Stage
from osteon.pipeline.routes import INSTANCES as COUNT
from osteon.pipeline.routes import decide
from osteon.pipeline.table import series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.workers.engine import Engine
from osteon.pipeline.workers.request import CacheSettings, SliceRequest, StageReport, StageRequest
from osteon.pipeline.worklock import WORK

AHEAD = "ahead"
RUNS_MAX = 4  # Each keeps its outputs on the disk until its job takes them over.
KEPT_S = 600.0  # How long a job may wait for the throttler before what was done is forgotten.
SLICES_MAX = 16  # At once, so that a job never waits long for the slot.
EARLY_TIMEOUT_S = 120.0
NO_JOB = 0


@dataclass
class _Run:
    """What was done for one input set; one without inputs says that nothing is to be done."""

    row: Row
    since: float
    folder: Path
    inputs: tuple[Path, ...] = ()
    input_sha256: str = ""
    model: str = ""
    stages: dict[Stage, Future[StageReport]] = field(default_factory=dict)

    @property
    def next_stage(self) -> Stage | None:
        """The stage that can run now: the first one not begun, if all before it went well."""
        if not self.inputs:
            return None
        for stage in WORKER_STAGES:
            future = self.stages.get(stage)
            if future is None:
                return stage
            if not future.done() or future.exception() is not None:
                return None
        return None


@dataclass
class _Arriving:
    """A series whose slices are read as they come: its model, and the last that was told of."""

    asked: bool = False
    model: str | None = None
    last_id: int = 0


class Ahead:
    """Run settled series in slots that nobody needs.

    Parameters
    ----------
    engine : Engine
        The dispatcher's, whose jobs come first.
    cache : CacheSettings
        Where what models said of slices is kept.
    """

    def __init__(
        self, settings: Settings, table: Table, engine: Engine, cache: CacheSettings
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._table = table
        self._engine = engine
        self._runs: dict[int, _Run] = {}
        self._deadlines: dict[Future[StageReport], float] = {}
        self._arriving: dict[int, _Arriving] = {}
        self._early_routes = [
            route.model_copy(update={"match": {k: v for k, v in route.match.items() if k != COUNT}})
            for route in settings.routes
        ]

    def tick(self, *, jobs_waiting: bool) -> None:
        """Forget what is out of date; begin what can begin, unless a job wants the slot."""
        now = self._table.clock()
        for future in [future for future in self._deadlines if future.done()]:
            del self._deadlines[future]
        for future, kill_at in self._deadlines.items():
            if now >= kill_at:
                self._engine.kill(future)
        for series_id, run in list(self._runs.items()):
            if self._is_outdated(run, now):
                self.forget(series_id)
        if jobs_waiting or not self._settings.pipeline.ahead:
            return
        self._plan_settled(now)
        self._hold_arriving(now)
        for run in self._runs.values():
            stage = run.next_stage
            if stage is not None and self._engine.free:
                self._begin(run, stage, now)

    def _hold_arriving(self, now: float) -> None:
        """Have a free slot read the slices that have come of a series that is still arriving."""
        rows = series.arriving(self._table) if self._settings.cluster is None else []
        self._arriving = {r["id"]: self._arriving.get(r["id"], _Arriving()) for r in rows}
        for row in rows:
            if not self._engine.free:
                return
            known = self._arriving[row["id"]]
            if not known.asked:
                known.asked = True  # First: a series that cannot be judged is judged once.
                known.model = self._early_model(row)
            if known.model is None:
                continue
            came = series.arrived_after(self._table, row, known.last_id, SLICES_MAX)
            if came:
                known.last_id = came[-1]["id"]
                paths = tuple(self._table.data_dir / instance["path"] for instance in came)
                request = SliceRequest(
                    paths, known.model, self._settings.pipeline.models_dir, self._cache
                )
                self._deadlines[self._engine.submit(request)] = now + EARLY_TIMEOUT_S

    def _early_model(self, row: Row) -> str | None:
        """Return the model of the route that will take a series, however long it becomes."""
        for decision in decide(self._early_routes, candidate_of(row)):
            if decision.taken:
                return decision.route.model
        return None

    def take(self, job: Row) -> tuple[Future[StageReport], Path] | None:
        """Return the stage that a job is about to begin and its output folder, if it was begun.

        A stage that failed is not handed out: the job runs it itself.
        """
        run = self._runs.get(job["series_id"])
        if run is None or (run.input_sha256, run.model) != (job["input_sha256"], job["model"]):
            return None
        stage = Stage(job["stage"])
        future = run.stages.get(stage)
        if future is None or (future.done() and future.exception() is not None):
            return None
        return future, run.folder / stage

    def forget(self, series_id: int) -> None:
        """Remove what was done for a series; a stage that still runs ends in vain."""
        run = self._runs.pop(series_id, None)
        if run is not None:
            shutil.rmtree(run.folder, ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether a stage is over that the next one can follow."""
        return any(future.done() for future in self._deadlines)

    def next_due(self) -> float | None:
        """Return when the next series will have settled, in seconds since 1970."""
        return series.next_settled(self._table) if self._settings.pipeline.ahead else None

    def _is_outdated(self, run: _Run, now: float) -> bool:
        row = series.get(self._table, run.row["id"])
        return bool(row["last"] != run.row["last"]) or now - run.since > KEPT_S

    def _plan_settled(self, now: float) -> None:
        active = sum(bool(run.inputs) for run in self._runs.values())
        for row in series.settled(self._table):
            if active >= RUNS_MAX or not self._engine.free:
                return
            if row["id"] not in self._runs:
                folder = self._table.data_dir / WORK / AHEAD / f"{row['id']}-{row['last']:.6f}"
                # First: a series that cannot be judged is judged once.
                run = self._runs[row["id"]] = _Run(row, now, folder)
                self._plan(run)
                active += bool(run.inputs)

    def _plan(self, run: _Run) -> None:
        """Give a run its inputs, if its series looks whole and a route will take it."""
        row = run.row
        taken = [
            decision.route
            for decision in decide(self._settings.routes, candidate_of(row))
            if decision.taken and decision.route.series == "all"
        ]
        instances = series.input_of(self._table, row)
        if not taken or missing_slices([slice_of(instance) for instance in instances]):
            return
        run.model, run.input_sha256 = taken[0].model, input_digest(instances)
        run.inputs = tuple(self._table.data_dir / instance["path"] for instance in instances)

    def _begin(self, run: _Run, stage: Stage, now: float) -> None:
        request = StageRequest(
            job_id=NO_JOB,
            stage=stage,
            attempt=0,
            out=run.folder / stage,
            inputs=run.inputs,
            outputs={done: run.folder / done for done in run.stages},
            model=run.model,
            models_dir=self._settings.pipeline.models_dir,
            input_sha256=run.input_sha256,
            content_at=run.row["last"],
            cache=self._cache,
        )
        future = self._engine.submit(request)
        run.stages[stage] = future
        self._deadlines[future] = now + self._settings.pipeline.stage_timeout_s
