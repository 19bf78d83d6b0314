"""The dispatcher: claims admitted jobs for free slots and watches over what runs there.

Waiting jobs of the table enter and stage requests leave to the engine; futures that are over enter,
and ``outcomes.py`` puts them on record. The observer calls it at every tick; nothing here waits.

A job's stages go to the engine as one chain, so that a worker goes on to the next stage while the
last one is put on record. A chain may be handed over before a slot is free; its job is claimed when
it has begun, so that the table says of no job that it runs while it waits.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from osteon.config.settings import Settings
from osteon.errors import NotFoundError, StaleTransition
from osteon.pipeline.ahead import Ahead
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.job import Stage, State
from osteon.pipeline.outcomes import LONGEST_RETRY_S, Outcomes
from osteon.pipeline.table import jobs, lines, workers
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.workers.chains import requests_of
from osteon.pipeline.workers.engine import Engine
from osteon.pipeline.workers.request import CacheSettings, StageReport
from osteon.pipeline.workers.worker import failure_of
from osteon.pipeline.worklock import WORK

CACHE = "cache"
RENEWALS_PER_LEASE = 3
LOADING_MAX_S = 120.0  # For a fresh worker to load its libraries and its model.
NOTE_EVERY_S = 1.0  # How often progress is written down.
log = structlog.get_logger(__name__)


@dataclass
class _Step:
    """A stage of a chain: its future, and the folder that it writes to."""

    future: Future[StageReport]
    out: Path


@dataclass
class _Running:
    """A stage that a worker has; ``kill_at`` is its deadline in seconds since 1970."""

    job: Row
    attempt: int
    out: Path
    kill_at: float
    renew_at: float
    rest: list[_Step]  # what follows in its chain, each with the next attempt
    begun: bool  # it has not while its worker is still loading
    worker: str  # its name
    killed: str = ""
    fraction: float = 0.0  # of its progress, as it stands in the table


@dataclass
class _Offer:
    """A chain that the engine has and that has not begun; ``job`` is the row as it waits."""

    job: Row
    steps: list[_Step]


class Dispatcher:
    """Between the job table and the engine, whose only user it is.

    Parameters
    ----------
    table : Table
        Its clock decides leases and deadlines.
    """

    def __init__(self, settings: Settings, table: Table, engine: Engine) -> None:
        self._limits = settings.pipeline
        self._table = table
        self._engine = engine
        self._waiting = 0  # jobs that found no room
        self._running: dict[Future[StageReport], _Running] = {}
        self._offers: dict[int, _Offer] = {}  # by job id
        self._noted_at = 0.0
        self._told: tuple[int, str] | None = None
        self._cache = CacheSettings(
            table.data_dir / CACHE,
            int(self._limits.evidence_cache_gb * GIGABYTE),
            int(2 * self._limits.disk_reserve_gb * GIGABYTE),
        )
        self._ahead = Ahead(settings, table, engine, self._cache)
        self._outcomes = Outcomes(self._limits, table)

    def rescue_all(self) -> int:
        """Take back, at start, every job that the last dispatcher had running."""
        orphans = lines.running(self._table)
        for job in orphans:
            self._outcomes.rescue(job, "the node stopped while it ran")
        for folder in (self._table.data_dir / WORK).glob("*"):
            self._clear(folder)
        return len(orphans)

    def sweep(self) -> None:
        """Remove what jobs have left that somebody has ended while they waited."""
        held = {str(running.job["id"]) for running in self._running.values()}
        for folder in (self._table.data_dir / WORK).glob("[0-9]*"):
            if folder.name not in held:
                self._clear(folder)

    def release_all(self) -> None:
        """Give back, at a stop in good order, what runs; that attempt counts as no failure."""
        for running in self._running.values():
            with suppress(StaleTransition):
                jobs.rescue(self._table, running.job, "the node was stopped", counts=False)
        self._running.clear()

    def dispatch(self) -> None:
        """Hand waiting jobs to the engine: to free slots, and to follow what is running."""
        self._begin_offers()
        self._waiting = 0
        self._hand_out(shadows=False)

    def dispatch_shadows(self) -> None:
        """Give shadows what neither a job nor work ahead has taken."""
        if not self._waiting:
            self._hand_out(shadows=True)

    def _hand_out(self, *, shadows: bool) -> None:
        for job in lines.ready(self._table, 2 * self._engine.slots + len(self._offers)):
            if job["id"] in self._offers:
                continue
            if (job["shadow_of"] is not None) != shadows:
                if shadows:  # The place that is free now is this job's, at the next step.
                    return
                continue
            ahead = self._ahead.take(job)
            with suppress(StaleTransition):  # A person has cancelled it meanwhile.
                if ahead is not None:
                    self._begin(job, [_Step(*ahead)])
                elif self._engine.free:
                    self._begin(job)
                elif self._make_room(job):
                    self._offers[job["id"]] = _Offer(job, self._hand_over(job, job["attempt"] + 1))
                elif not shadows:
                    self._waiting += 1

    def work_ahead(self) -> None:
        """Use what slots are left over for series that are still receiving."""
        offered = any(offer.job["shadow_of"] is None for offer in self._offers.values())
        self._ahead.tick(jobs_waiting=self._waiting > 0 or offered)

    def accept_finished(self) -> None:
        """Move on the jobs whose stage is over, well or badly."""
        self._begin_offers()
        while over := [future for future in self._running if future.done()]:
            for future in over:
                running = self._running.pop(future)
                try:
                    self._settle(running, future)
                except StaleTransition as stale:
                    log.info("too late", job=running.job["id"], why=stale.message)
                    shutil.rmtree(running.out, ignore_errors=True)
                    self._stop(running.rest)
                self._clear(self._table.data_dir / WORK / str(running.job["id"]))

    def watch_running(self) -> None:
        """Renew leases; kill what ran past its deadline or is no longer wanted."""
        now = self._table.clock()
        wanted = lines.leases(self._table)
        for future, running in self._running.items():
            if running.killed:
                self._engine.kill(future)  # Again, until its future says that it is gone.
            elif (running.job["id"], running.attempt) not in wanted:
                self._kill(future, running, "it was stopped")
            elif future.running() and not running.begun:  # Its worker has loaded.
                running.begun, running.kill_at = True, now + self._limits.stage_timeout_s
            elif now >= running.kill_at:
                why = f"it ran longer than {self._limits.stage_timeout_s:g} s"
                self._kill(future, running, why)
            elif now >= running.renew_at:
                jobs.renew(self._table, running.job["id"], running.attempt, self._limits.lease_s)
                running.renew_at = now + self._limits.lease_s / RENEWALS_PER_LEASE
        self._note(now)
        held = {(running.job["id"], running.attempt) for running in self._running.values()}
        for job in lines.lapsed(self._table):
            if (job["id"], job["attempt"]) not in held:
                with suppress(StaleTransition):
                    self._outcomes.rescue(job, "its lease lapsed")

    def bring_forward(self) -> int:
        """Shorten every wait that a clock which was set back has made too long."""
        now, limits = self._table.clock(), self._limits
        self._noted_at = min(self._noted_at, now)
        for running in self._running.values():
            running.kill_at = min(running.kill_at, now + limits.stage_timeout_s)
            running.renew_at = min(running.renew_at, now)
        return jobs.bring_forward(self._table, LONGEST_RETRY_S)

    @property
    def finished(self) -> bool:
        """Whether a stage is over or begun and not yet on record, or there is room for a job."""
        over = any(future.done() for future in self._running) or self._ahead.finished
        begun = any(_has_begun(offer.steps) for offer in self._offers.values())
        return over or begun or (self._waiting > 0 and self._engine.room > 0) or self._has_news()

    def next_due(self) -> float | None:
        """Return when `watch_running` has something to do, in seconds since 1970."""
        times = [min(r.kill_at, r.renew_at) for r in self._running.values() if not r.killed]
        settled = self._ahead.next_due()
        return min(times if settled is None else [*times, settled], default=None)

    def _kill(self, future: Future[StageReport], running: _Running, why: str) -> None:
        log.warning("stage killed", job=running.job["id"], why=why)
        running.killed = why
        self._engine.kill(future)

    def _clear(self, folder: Path) -> None:
        """Remove the stages' outputs of a job that is over: another run makes its own."""
        with suppress(NotFoundError, ValueError):
            if not State(jobs.get(self._table, int(folder.name))["state"]).final:
                return
        shutil.rmtree(folder, ignore_errors=True)

    def _begin(self, job: Row, steps: list[_Step] | None = None) -> None:
        """Claim a job, and hand it over first where the engine has nothing of it yet."""
        known = "" if steps is None else self._engine.worker(steps[0].future)
        claimed = self._claim(job, known)
        steps = steps or self._hand_over(claimed, claimed["attempt"])
        worker = known or self._engine.worker(steps[0].future)
        self._start(claimed, steps, worker)
        if worker != known:  # It is under way by then: nobody waits for this to be written.
            workers.note_worker(self._table, claimed["id"], claimed["attempt"], worker)

    def _claim(self, job: Row, worker: str) -> Row:
        jobs.claim(self._table, job, worker, self._limits.lease_s)
        return jobs.get(self._table, job["id"])

    def _hand_over(self, job: Row, attempt: int) -> list[_Step]:
        """Give the engine all stages that are left of a job, as one chain."""
        requests = requests_of(self._table, job, attempt, self._limits.models_dir, self._cache)
        futures = self._engine.chain(requests, alone=job["failures"] > 0)
        return [_Step(f, r.out) for f, r in zip(futures, requests, strict=True)]

    def _make_room(self, job: Row) -> bool:
        """Return whether one more chain finds room; less urgent ones make way and come behind."""
        for offer in [o for o in self._offers.values() if o.job["priority"] > job["priority"]]:
            self._withdraw(offer)
        return self._engine.room > 0

    def _withdraw(self, offer: _Offer) -> bool:
        if not self._engine.withdraw(offer.steps[0].future):
            return False
        del self._offers[offer.job["id"]]
        return True

    def _begin_offers(self) -> None:
        """Claim the jobs whose chain has begun; take back what nobody wants any more."""
        for offer in list(self._offers.values()):
            if _has_begun(offer.steps):
                del self._offers[offer.job["id"]]
                try:
                    self._begin(offer.job, offer.steps)
                except StaleTransition as stale:
                    log.info("too late", job=offer.job["id"], why=stale.message)
                    self._stop(offer.steps)
            elif not self._still_waits(offer.job):
                self._withdraw(offer)

    def _still_waits(self, job: Row) -> bool:
        same = ("state", "stage", "attempt", "priority")
        with suppress(NotFoundError):
            now = jobs.get(self._table, job["id"])
            return all(now[name] == job[name] for name in same)
        return False

    def _stop(self, steps: list[_Step]) -> None:
        """End what still runs of a chain that is not wanted; the rest goes with it."""
        for step in steps:
            if not step.future.done():
                self._engine.kill(step.future)

    def _start(self, job: Row, steps: list[_Step], worker: str) -> None:
        """Note that the first of some steps runs, for the present attempt of a job."""
        now = self._table.clock()
        first, rest = steps[0], steps[1:]
        begun = _has_begun(steps)
        kill_at = now + self._limits.stage_timeout_s + (0.0 if begun else LOADING_MAX_S)
        renew_at = now + self._limits.lease_s / RENEWALS_PER_LEASE
        self._running[first.future] = _Running(
            job, job["attempt"], first.out, kill_at, renew_at, rest, begun, worker
        )

    def _has_news(self) -> bool:
        """Whether a stage has come further than the table says, and it may be told again."""
        if self._table.clock() < self._noted_at + NOTE_EVERY_S:
            return False
        return any(self._engine.progress(f) > r.fraction for f, r in self._running.items())

    def _note(self, now: float) -> None:
        """Write down whether there are slots, and how far the stages in them have come."""
        told = (self._engine.slots, self._engine.reason)
        if told != self._told:
            workers.note_engine(self._table, *told)
            self._told = told
        if now < self._noted_at + NOTE_EVERY_S:
            return
        news = []
        for future, running in self._running.items():
            fraction = self._engine.progress(future)
            if fraction > running.fraction:
                running.fraction = fraction
                news.append((running.job, fraction))
        if news:
            self._noted_at = now
            workers.note_progress(self._table, news)

    def _settle(self, running: _Running, future: Future[StageReport]) -> None:
        error = future.exception()
        if error is None:
            try:
                self._finish(running, future.result())
            except OSError as unpublished:
                error = failure_of(running.job["stage"], unpublished)
        if error is not None:
            self._outcomes.give_back(
                running.job, running.attempt, running.out, error, running.killed
            )

    def _finish(self, running: _Running, report: StageReport) -> None:
        job, made_in = running.job, running.out
        running.out = self._outcomes.adopt(job, running.attempt, made_in)
        finished = (job, running.attempt, running.out, report, running.worker)
        if running.rest:
            with self._table.write():  # In one go: the worker is at the next stage already.
                self._outcomes.finish(*finished, ahead=False)
                following = self._claim(jobs.get(self._table, job["id"]), running.worker)
            self._start(following, running.rest, running.worker)
            return
        self._outcomes.finish(*finished, ahead=running.out != made_in)
        if job["stage"] == Stage.ENCODE:
            self._ahead.let_go(job)


def _has_begun(steps: Sequence[_Step]) -> bool:
    """Return whether the first stage of a chain runs, or is over already."""
    return steps[0].future.running() or steps[0].future.done()
