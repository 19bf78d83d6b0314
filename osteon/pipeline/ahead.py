"""Work ahead: a series that looks whole is run while its quiet time still lasts.

Receiving series of the table enter and stage requests leave to slots that no job needs. When the
series is complete, its jobs find here what was done for exactly their input, and take it over:
delivery alone has waited. What turns out to be of no use costs time of an idle slot and nothing
else; nothing of this is on record, and a restart forgets it.

Where a route takes one series of a study, it is run that would be taken of what is held by now; one
that still arrives counts as if it had no end. When another one is chosen, the guess is dropped.
"""

import itertools
import shutil
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from osteon.config.settings import Settings
from osteon.errors import NotFoundError
from osteon.pipeline.admission import candidate_of, input_digest, slice_of
from osteon.pipeline.completeness import missing_slices
from osteon.pipeline.job import WORKER_STAGES, Stage
from osteon.pipeline.routes import INSTANCES as COUNT
from osteon.pipeline.routes import decide, decide_in_study
from osteon.pipeline.table import lines, series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.workers.engine import Engine
from osteon.pipeline.workers.request import CacheSettings, SliceRequest, StageReport, StageRequest
from osteon.pipeline.worklock import WORK

AHEAD = "ahead"
RUNS_MAX = 4  # Each keeps its outputs on the disk until its job takes them over.
KEPT_S = 600.0  # How long a job may wait for the throttler before what was done is forgotten.
SLICES_MIN, SLICES_MAX = 16, 64  # At once; between them as many of a model as last
HOLD_S = (
    0.3  # so long by its last ones, so that a job hardly waits for the slot, nor it for slices.
)
EARLY_TIMEOUT_S = 120.0
NO_JOB = 0
ENDLESS = 2**31  # Instances that a series may come to have while it arrives.
Study = frozenset[tuple[int, float, bool]]


@dataclass
class _Run:
    """What was done for one input set; one without inputs says that nothing is to be done.

    Attributes
    ----------
    study : frozenset
        Of each series of its study the row, its last instance, and whether it still arrives, by
        which it was chosen; empty where no route compares.
    models : tuple of str
        Of the routes that will take it, in their order.
    """

    row: Row
    since: float
    folder: Path
    study: Study
    models: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    input_sha256: str = ""
    stages: dict[tuple[str, Stage], Future[StageReport]] = field(default_factory=dict)

    @property
    def next_step(self) -> tuple[str, Stage] | None:
        """The model and stage that can run now: one not begun, if all before it went well."""
        for model in self.models if self.inputs else ():
            for stage in WORKER_STAGES:
                future = self.stages.get((model, stage))
                if future is None:
                    return model, stage
                if not future.done() or future.exception() is not None:
                    break
        return None

    @property
    def is_running(self) -> bool:
        """Whether a stage has not come to its end."""
        return any(not future.done() for future in self.stages.values())

    def out(self, model: str, stage: Stage) -> Path:
        """Return where a stage of a model writes to."""
        return self.folder / str(self.models.index(model)) / stage


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
        self._slices: dict[Future[StageReport], tuple[str, int]] = {}
        self._slices_at_once: dict[str, int] = {}
        self._forgotten: list[_Run] = []  # of which a stage still runs, and writes
        self._numbers = itertools.count(1)
        self._compares = any(route.series != "all" for route in settings.routes)
        self._early_routes = [
            route.model_copy(update={"match": {k: v for k, v in route.match.items() if k != COUNT}})
            for route in settings.routes
        ]

    def tick(self, *, jobs_waiting: bool) -> None:
        """Forget what is out of date; begin what can begin, unless a job wants the slot."""
        now = self._table.clock()
        for future in [future for future in self._deadlines if future.done()]:
            del self._deadlines[future]
            self._learn_pace(future)
        for future, kill_at in self._deadlines.items():
            if now >= kill_at:
                self._engine.kill(future)
        self._clear_forgotten()
        for series_id, run in list(self._runs.items()):
            if self._is_outdated(run, now):
                self.forget(series_id)
        if jobs_waiting or not self._settings.pipeline.ahead:
            return
        self._plan_settled(now)
        self._hold_arriving(now)
        for run in self._runs.values():
            step = run.next_step
            if step is not None and self._engine.free:
                self._begin(run, *step, now)

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
            at_once = self._slices_at_once.get(known.model, SLICES_MIN)
            came = series.arrived_after(self._table, row, known.last_id, at_once)
            if came:
                known.last_id = came[-1]["id"]
                paths = tuple(self._table.data_dir / instance["path"] for instance in came)
                request = SliceRequest(
                    paths, known.model, self._settings.pipeline.models_dir, self._cache
                )
                future = self._engine.submit(request)
                self._deadlines[future] = now + EARLY_TIMEOUT_S
                self._slices[future] = known.model, len(came)

    def _learn_pace(self, future: Future[StageReport]) -> None:
        """Adjust how many slices a model gets at once to how long those of a request took."""
        if future not in self._slices:
            return
        model, count = self._slices.pop(future)
        self._slices_at_once[model] = SLICES_MIN
        if not future.cancelled() and future.exception() is None:
            fitting = int(HOLD_S * count / max(1e-9, future.result().seconds))
            self._slices_at_once[model] = min(max(SLICES_MIN, fitting), SLICES_MAX)

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
        if run is None or run.input_sha256 != job["input_sha256"]:
            return None
        model, stage = job["model"], Stage(job["stage"])
        future = run.stages.get((model, stage))
        if future is None or (future.done() and future.exception() is not None):
            return None
        return future, run.out(model, stage)

    def forget(self, series_id: int) -> None:
        """Remove what was done for a series; a stage that still runs ends in vain."""
        run = self._runs.pop(series_id, None)
        if run is not None:
            self._forgotten.append(run)
            self._clear_forgotten()

    def _clear_forgotten(self) -> None:
        for run in self._forgotten:
            shutil.rmtree(run.folder, ignore_errors=True)
        self._forgotten = [run for run in self._forgotten if run.is_running]

    def let_go(self, job: Row) -> None:
        """Note that a job needs no more what was done for it; other models' jobs may yet."""
        if not lines.has_unfinished(self._table, job["series_id"]):
            self.forget(job["series_id"])

    @property
    def finished(self) -> bool:
        """Whether a stage is over that the next one can follow."""
        return any(future.done() for future in self._deadlines)

    def next_due(self) -> float | None:
        """Return when the next series will have settled, in seconds since 1970."""
        return series.next_settled(self._table) if self._settings.pipeline.ahead else None

    def _is_outdated(self, run: _Run, now: float) -> bool:
        try:
            row = series.get(self._table, run.row["id"])
        except NotFoundError:  # It was purged.
            return True
        if row["last"] != run.row["last"] or now - run.since > KEPT_S:
            return True
        # It is complete, and another one was taken instead, or a person has ended its jobs.
        return row["state"] == "complete" and not lines.has_unfinished(self._table, row["id"])

    def _plan_settled(self, now: float) -> None:
        rows = series.settled(self._table)
        settled = {row["id"] for row in rows}
        for row in rows:
            known = self._runs.get(row["id"])
            if known is not None and not self._compares:
                continue
            study = self._study_of(row) if self._compares else []
            seen = frozenset((s["id"], s["last"], _arrives(s, settled)) for s in study)
            if known is not None and known.study == seen:
                continue
            models = self._models_of(row, study, settled)
            if known is not None and known.models == models:
                known.study = seen
                continue
            self.forget(row["id"])
            active = sum(bool(run.inputs) for run in self._runs.values())
            if active < RUNS_MAX and self._engine.free:
                folder = self._table.data_dir / WORK / AHEAD / f"{row['id']}-{next(self._numbers)}"
                # First: a series that cannot be judged is judged once.
                run = self._runs[row["id"]] = _Run(row, now, folder, seen, models)
                self._plan(run)

    def _study_of(self, row: Row) -> list[Row]:
        return series.of_study(self._table, row["study_instance_uid"])

    def _models_of(self, row: Row, study: list[Row], settled: set[int]) -> tuple[str, ...]:
        """Return the models of the routes that would take a settled series by what is held."""
        candidates = [
            replace(candidate_of(s), instances=ENDLESS) if _arrives(s, settled) else candidate_of(s)
            for s in study
        ]
        decisions = decide_in_study(self._settings.routes, candidate_of(row), candidates)
        return tuple(dict.fromkeys(d.route.model for d in decisions if d.taken))

    def _plan(self, run: _Run) -> None:
        """Give a run its inputs, if its series looks whole and a route will take it."""
        instances = series.input_of(self._table, run.row)
        if not run.models or missing_slices([slice_of(instance) for instance in instances]):
            return
        run.input_sha256 = input_digest(instances)
        run.inputs = tuple(self._table.data_dir / instance["path"] for instance in instances)

    def _begin(self, run: _Run, model: str, stage: Stage, now: float) -> None:
        request = StageRequest(
            job_id=NO_JOB,
            stage=stage,
            attempt=0,
            out=run.out(model, stage),
            inputs=run.inputs,
            outputs={done: run.out(of, done) for of, done in run.stages if of == model},
            model=model,
            models_dir=self._settings.pipeline.models_dir,
            input_sha256=run.input_sha256,
            content_at=run.row["last"],
            cache=self._cache,
        )
        future = self._engine.submit(request)
        run.stages[model, stage] = future
        self._deadlines[future] = now + self._settings.pipeline.stage_timeout_s


def _arrives(row: Row, settled: set[int]) -> bool:
    """Whether more of a series may well be on its way."""
    return row["state"] == "receiving" and row["id"] not in settled
