"""The pipeline as a state machine for hypothesis: promises hold whatever happens, in any order.

Table, throttler, observer, dispatcher and delivery are the real ones; the engine, the destination
and the clock are simulated. Instances come, the receiver goes and comes back or does not, workers
die, hang or fail, a PACS refuses, the disk fills up, people cancel, the clock is set back, and the
process is killed between any two looks at the clock. After every step, and when in the end
everything may run out, it is checked that:

- every acknowledged instance is on record;
- jobs move by `LEGAL` only, each from where it was;
- a series whose sender the receiver cut off is not complete before the sender could come again;
- nothing that is due is left lying, and in the end nothing waits;
- one input set has one result of one model, which was delivered under one UID.
"""

import hashlib
import shutil
import tempfile
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from osteon.config.settings import Settings
from osteon.errors import (
    DeliveryError,
    DeliveryRefusedError,
    ModelError,
    OsteonError,
    StageError,
    StaleTransition,
    VolumeError,
    WorkerLostError,
)
from osteon.pipeline import observer
from osteon.pipeline.completeness import RETURN_WAIT_S
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.index import read_header
from osteon.pipeline.job import Stage
from osteon.pipeline.observer import SWEEP_S, Observer
from osteon.pipeline.table import jobs, listening, reception
from osteon.pipeline.table.connection import FILE_NAME, Row, Table, open_table
from osteon.pipeline.table.reception import Origin, Received
from osteon.pipeline.workers.request import StageReport, StageRequest
from osteon.results.uids import derive_uid
from tests.pipeline_parts import HandClock, ct_slice
from tests.simulated import NEVER, Part, SimulatedEngine, SimulatedSender

SYNTAX = "1.2.840.10008.1.2.1"
SHM = Path("/dev/shm")
FATES = ("fails", "dies", "hangs", "is no volume", "has no model")
POISON = "1.9.3"  # A series that fails whenever it runs.
SERIES = ("1.9.1", "1.9.2", POISON)
STEPS, TICKS = 25, 5
ATTEMPTS, STAGE_TIMEOUT_S, LEASE_S, GIVE_UP_S = 3, 100.0, 60.0, 600.0
QUIET_S, GAP_WAIT_S = 5.0, 20.0
END_S = 7200.0  # Nothing may take longer, once nothing goes wrong any more.
FREE, FULL = 10**12, 0
WAITING, RUNNING, BACKOFF = "waiting", "running", "backoff"
# Written down a second time, so that a mistake in `job.TRANSITIONS` is one.
LEGAL = {
    ("admit", WAITING): WAITING,
    ("claim", WAITING): RUNNING,
    ("finish", RUNNING): WAITING,
    ("complete", WAITING): "done",
    ("retry", RUNNING): BACKOFF,
    ("resume", BACKOFF): WAITING,
    ("rescue", RUNNING): WAITING,
    ("fail", RUNNING): "failed",
    ("fail", WAITING): "failed",
    ("reject", RUNNING): "rejected",
    ("reject", WAITING): "rejected",
    ("restore", "superseded"): WAITING,
    **{("cancel", state): "cancelled" for state in (WAITING, RUNNING, BACKOFF)},
    **{("supersede", state): "superseded" for state in (WAITING, RUNNING, BACKOFF)},
    **{("rerun", state): WAITING for state in ("done", "failed", "rejected", "cancelled")},
}


class PowerCut(BaseException):
    """The process ends here."""


class MortalClock(HandClock):
    """A clock that ends the process at one of the next looks at it."""

    looks_left: int | None = None

    def __call__(self) -> float:
        if self.looks_left is not None:
            self.looks_left -= 1
            if self.looks_left < 0:
                raise PowerCut
        return self.now


@cache
def empty_table() -> bytes:
    """Return a migrated table's file: to migrate anew takes longer than a whole example."""
    with tempfile.TemporaryDirectory() as folder:
        open_table(Path(folder)).close()
        return (Path(folder) / FILE_NAME).read_bytes()


class Pipeline(RuleBasedStateMachine):
    """See the module."""

    @initialize(slots=st.integers(1, 3), running_max=st.integers(1, 3), history=st.integers(0, 2))
    def start(self, slots: int, running_max: int, history: int) -> None:
        """A node begins, with some series of the past."""
        self.folder = Path(tempfile.mkdtemp(prefix="states-", dir=SHM if SHM.is_dir() else None))
        (self.folder / FILE_NAME).write_bytes(empty_table())
        self.settings = Settings(
            data_dir=self.folder,
            scp={"quiet_s": QUIET_S, "gap_wait_s": GAP_WAIT_S},
            source=[{"ae_title": "CT"}, {"ae_title": "ER", "priority": "stat"}],
            route=[{"name": "bone", "match": {"instances": {"min": 2}}}],
            destination=[{"name": "pacs", "ae_title": "PACS", "host": "simulated", "port": 104}],
            pipeline={
                "disk_reserve_gb": 1.0,
                "running_max": running_max,
                "memory_gb": 1e6,
                "ahead": False,
                "attempts_max": ATTEMPTS,
                "lease_s": LEASE_S,
                "stage_timeout_s": STAGE_TIMEOUT_S,
            },
            delivery={"retry_max_s": 60.0, "give_up_s": GIVE_UP_S},
        )
        self.slots = slots
        self.clock = MortalClock()
        self.person = Table(self.folder, clock=self.clock)  # And the receiver: another process.
        self.fates: deque[str] = deque()
        self.answers: deque[str] = deque()
        self.free_bytes = FREE
        self.acknowledged: set[tuple[str, str]] = set()
        self.pacs: dict[str, set[str]] = {}  # input set and model → UIDs that it was sent under
        self.seen, self.states = 0, {}
        self.listens = True
        self.completed = 0
        self.sending: set[str] = set()  # series whose association is open
        self.not_before: dict[str, float] = {}  # series → when it may be complete
        self.patches = [
            patch(f"osteon.pipeline.{where}.free_bytes", lambda _: self.free_bytes)
            for where in ("door", "outcomes")
        ]
        self.patches.append(patch.object(observer, "receiver_listens", lambda _: self.listens))
        for one in self.patches:
            one.start()
        self.open()
        for series in SERIES[:history]:
            self.receive_a_whole_series(series, "CT")
            self.work(8)

    def open(self) -> None:
        self.table = Table(self.folder, clock=self.clock)
        self.engine = SimulatedEngine(self.clock, self.slots, self.play)
        self.sender = SimulatedSender(self.clock, self.answer, 0.5)
        self.observer = Observer(self.settings, self.table, self.engine, self.sender)
        self.observer.start()

    # What may happen.

    @rule(
        series=st.sampled_from(SERIES),
        number=st.integers(1, 4),
        version=st.integers(0, 1),
        source=st.sampled_from(["CT", "ER"]),
    )
    def receive(self, series: str, number: int, version: int, source: str) -> None:
        """An instance is put on record, and acknowledged."""
        self.take(series, number, version, source)

    @rule(series=st.sampled_from(SERIES), source=st.sampled_from(["CT", "ER"]))
    def receive_a_whole_series(self, series: str, source: str) -> None:
        """Three slices come, and the quiet time passes."""
        for number in (1, 2, 3):
            self.take(series, number, 0, source)
        self.clock.advance(QUIET_S)
        self.tick()

    @rule(
        series=st.sampled_from(SERIES),
        source=st.sampled_from(["CT", "ER"]),
        seconds=st.sampled_from([0.1, 6.0, 61.0, 1000.0]),
        returns=st.booleans(),
    )
    def lose_the_receiver(self, series: str, source: str, seconds: float, returns: bool) -> None:
        """It is killed while a series is arriving; perhaps it comes back, and the sender too."""
        for number in (1, 2):
            self.take(series, number, 0, source, releases=False)
        if self.listens:
            self.listens = False
            bound = self.clock.now + RETURN_WAIT_S
            self.not_before |= dict.fromkeys(self.sending, bound)
            self.sending.clear()
        self.tick()
        self.pass_time(seconds)
        self.tick()
        if returns:
            self.return_the_receiver()
            self.tick()

    @rule()
    def return_the_receiver(self) -> None:
        """It listens again."""
        if not self.listens:
            newest = listening.newest_association(self.person)
            listening.begin_listening(self.person, self.clock.now, newest, "killed")
            self.listens = True
            bound = self.clock.now + GAP_WAIT_S
            self.not_before = {uid: min(bound, at) for uid, at in self.not_before.items()}

    @rule()
    def tick(self) -> None:
        """The observer does what can be done: it ticks again at once where a stage has ended."""
        for _ in range(TICKS):
            assert self.observer.tick(), "a step of the observer failed"
            if not self.observer._dispatcher.finished:
                break
        self.nothing_due_is_left()

    @rule(seconds=st.sampled_from([0.1, 3.0, 20.0, 61.0, 1000.0, 86_400.0, -3600.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes, or the clock is set back."""
        if seconds < 0:
            self.not_before.clear()
            self.engine.shift(seconds)
            self.sender.shift(seconds)
        self.clock.advance(seconds)
        self.engine.run_due()
        self.sender.run_due()

    @rule(times=st.integers(1, 6))
    def work(self, times: int) -> None:
        """What is next to end ends, and the observer sees it."""
        for _ in range(times):
            self.step()

    @rule(fate=st.sampled_from(FATES), times=st.integers(1, 4))
    def curse(self, fate: str, times: int) -> None:
        """The next stages come to no good."""
        self.fates.extend([fate] * times)

    @rule(answers=st.lists(st.sampled_from(["busy", "refuses", "takes it"]), max_size=4))
    def occupy_the_pacs(self, answers: list[str]) -> None:
        """The destination answers so, and then takes everything again."""
        self.answers.extend(answers)

    @rule(number=st.integers(0, 2))
    def lose_a_worker(self, number: int) -> None:
        """The kernel ends a worker."""
        self.engine.lose_worker(number)

    @rule(full=st.booleans())
    def fill_the_disk(self, full: bool) -> None:
        """The disk is full, or has room again."""
        self.free_bytes = FULL if full else FREE

    @rule(number=st.integers(0, 5), event=st.sampled_from([jobs.cancel, jobs.rerun]))
    def let_a_person_act(self, number: int, event: Any) -> None:
        """Somebody cancels a job or runs it again."""
        found = self.person.rows("SELECT * FROM job ORDER BY id")
        if found:
            with suppress(StaleTransition):
                event(self.person, found[number % len(found)], "ada")

    @rule(number=st.integers(0, 2))
    def run_again(self, number: int) -> None:
        """Somebody has what is done run again, and it gets on."""
        found = self.person.rows("SELECT * FROM job WHERE state = 'done' ORDER BY id")
        if found:
            with suppress(StaleTransition):
                jobs.rerun(self.person, found[number % len(found)], "ada")
            self.work(6)

    @rule()
    def restart_in_good_order(self) -> None:
        """The node is stopped as systemd does, and started again."""
        self.observer._dispatcher.release_all()
        self.die()

    @rule(looks=st.none() | st.integers(0, 80))
    def crash(self, looks: int | None) -> None:
        """The process is killed: now, or in the middle of the next tick or start."""
        with suppress(PowerCut):
            self.clock.looks_left = looks
            self.tick()
        self.die()

    # What must hold.

    @invariant()
    def every_acknowledged_instance_is_there(self) -> None:
        rows = self.person.rows("SELECT sop_instance_uid AS uid, digest FROM instance")
        assert self.acknowledged <= {(row["uid"], row["digest"]) for row in rows}

    @invariant()
    def jobs_move_by_the_table_only(self) -> None:
        for row in self.person.rows(
            "SELECT * FROM transition WHERE id > ? AND job_id IS NOT NULL ORDER BY id", (self.seen,)
        ):
            self.seen = row["id"]
            place = row["to_stage"], row["to_state"]
            if row["job_id"] in self.states:
                assert self.states[row["job_id"]] == (row["from_stage"], row["from_state"])
                assert LEGAL.get((row["event"], row["from_state"])) == row["to_state"], dict(row)
            else:
                assert row["event"] in {"create", "reject"}
            self.states[row["job_id"]] = place
        for job in self.person.rows("SELECT id, stage, state, failures, attempt FROM job"):
            assert self.states[job["id"]] == (job["stage"], job["state"])
            assert job["failures"] < ATTEMPTS or job["state"] == "failed", dict(job)

    @invariant()
    def nobody_who_was_cut_off_is_given_up_too_soon(self) -> None:
        for row in self.person.rows(
            "SELECT transition.id, at, series_instance_uid AS uid FROM transition JOIN series"
            " ON series.id = series_id WHERE event = 'complete' AND job_id IS NULL"
            " AND transition.id > ? ORDER BY transition.id",
            (self.completed,),
        ):
            self.completed = row["id"]
            self.sending.discard(row["uid"])
            assert row["at"] >= self.not_before.pop(row["uid"], 0.0)

    @invariant()
    def one_input_has_one_result(self) -> None:
        for row in self.person.rows(
            "SELECT count(DISTINCT sop_instance_uid) AS uids FROM result JOIN job"
            " ON job.id = job_id WHERE kind = 'seg' GROUP BY input_sha256, model"
        ):
            assert row["uids"] == 1
        assert all(len(uids) == 1 for uids in self.pacs.values()), self.pacs

    @invariant()
    def what_is_over_is_not_still_sent(self) -> None:
        left = self.person.rows(
            "SELECT job.id FROM job JOIN result ON job_id = job.id JOIN delivery ON"
            " result_id = result.id WHERE job.state = 'done' AND delivery.state <> 'delivered'"
            " OR job.state = 'failed' AND job.stage = 'deliver'"
            " AND delivery.state IN ('waiting', 'sending')"
        )
        assert not left, [dict(row) for row in left]

    @invariant()
    def limits_hold(self) -> None:
        (row,) = self.person.rows(
            "SELECT count(*) AS n FROM job WHERE priority = 0 AND state IN"
            " ('waiting', 'running', 'backoff') AND stage IN ('prediction', 'boneseg', 'encode')"
        )
        assert row["n"] <= self.settings.pipeline.running_max
        (row,) = self.person.rows("SELECT count(*) AS n FROM job WHERE state = 'running'")
        assert row["n"] <= self.slots

    def nothing_due_is_left(self) -> None:
        """Right after a tick nothing lies about that is due."""
        now = self.clock.now
        for what, asked in (
            ("series", "series WHERE state = 'receiving' AND due <= :now"),
            ("backoff", "job WHERE state = 'backoff' AND not_before <= :now"),
            ("lease", "job WHERE state = 'running' AND lease_until < :now"),
            (
                "end",
                "job WHERE stage = 'deliver' AND state = 'waiting' AND NOT EXISTS (SELECT 1 FROM"
                " delivery JOIN result ON result.id = result_id WHERE job_id = job.id"
                " AND delivery.state IN ('waiting', 'sending'))",
            ),
        ):
            left = self.table.rows(
                f"SELECT * FROM {asked}", {"now": now} if ":now" in asked else ()
            )
            assert not left, f"{what} is due and left: {[dict(row) for row in left]}"

    def teardown(self) -> None:
        """Let everything run out, and look at what came of it."""
        if not hasattr(self, "table"):
            return
        try:
            self.clock.looks_left = None
            self.fates.clear()
            self.answers.clear()
            self.free_bytes = FREE
            self.run_out()
            self.clock.advance(SWEEP_S)
            self.tick()
            self.everything_is_over()
        finally:
            for one in self.patches:
                one.stop()
            self.table.close()
            self.person.close()
            shutil.rmtree(self.folder)

    def run_out(self) -> None:
        end = self.clock.now + END_S
        while self.person.row(
            "SELECT 1 FROM series WHERE state = 'receiving' UNION ALL SELECT 1 FROM job"
            " WHERE state IN ('waiting', 'running', 'backoff') UNION ALL SELECT 1 FROM delivery"
            " WHERE state IN ('waiting', 'sending') LIMIT 1"
        ):
            self.step()
            self.jobs_move_by_the_table_only()
            assert self.clock.now < end, self.stuck()

    def everything_is_over(self) -> None:
        self.every_acknowledged_instance_is_there()
        self.one_input_has_one_result()
        for job in self.person.rows("SELECT * FROM job"):
            results = self.person.rows(
                "SELECT * FROM result WHERE job_id = ? AND kind = 'seg'", (job["id"],)
            )
            if job["state"] == "done":
                (result,) = results
                assert (self.folder / result["path"]).stat().st_size == result["size"]
                assert result["sop_instance_uid"] in self.pacs[job["input_sha256"]]
        standing = self.person.rows(
            "SELECT series.series_instance_uid AS uid, count(*) AS n FROM result JOIN job ON"
            " job.id = job_id JOIN series ON series.id = series_id WHERE kind = 'seg'"
            " AND superseded IS NULL GROUP BY series.series_instance_uid, route"
        )
        assert all(row["n"] == 1 for row in standing), [dict(row) for row in standing]
        assert not list((self.folder / "work").glob("[0-9]*"))
        for row in self.person.rows("SELECT * FROM tally WHERE name LIKE 'job %'"):
            _, stage, state = row["name"].split(" ")
            (found,) = self.person.rows(
                "SELECT count(*) AS n FROM job WHERE stage = ? AND state = ?", (stage, state)
            )
            assert found["n"] == row["n"], row["name"]

    # How it happens.

    def take(
        self, series: str, number: int, version: int, source: str, *, releases: bool = True
    ) -> None:
        if not self.listens:
            return
        header, dataset = slice_of(series, number, version)
        digest = digest_of(dataset)
        received = Received(header, SYNTAX, digest, f"spool/{digest}.dcm", len(dataset))
        association = reception.open_association(self.person, source, "OSTEON", "::1")
        origin = Origin(source, "OSTEON", "::1", association)
        new = reception.add_instance(self.person, origin, received, quiet_s=QUIET_S)
        if releases:
            reception.close_association(self.person, association, "released", cut=False)
        if new:  # Of one that brings nothing new nobody knows what it came for.
            self.not_before.pop(series, None)
            self.sending |= set() if releases else {series}
        self.acknowledged.add((header.sop_instance_uid, digest))

    def step(self) -> None:
        """Move the clock to what happens next."""
        due = (self.engine.next_end(), self.sender.next_end(), self.observer.next_due())
        self.clock.now = max(self.clock.now + 0.001, min(due))
        self.engine.run_due()
        self.sender.run_due()
        self.tick()

    def die(self) -> None:
        """Forget everything but the disk, and start again; it may die once more at that."""
        self.table.close()
        try:
            self.open()
        except PowerCut:
            self.table.close()
            self.clock.looks_left = None
            self.open()
        self.clock.looks_left = None

    def play(self, request: StageRequest) -> Part:
        job = self.person.row("SELECT series_id FROM job WHERE id = ?", (request.job_id,))
        assert job is not None
        series = self.person.row(
            "SELECT series_instance_uid AS uid FROM series WHERE id = ?", (job["series_id"],)
        )
        poison = series is not None and series["uid"] == POISON
        fate = "fails" if poison else self.fates.popleft() if self.fates else ""
        ends: dict[str, OsteonError] = {
            "fails": StageError("nothing but noise"),
            "dies": WorkerLostError("the worker process died"),
            "is no volume": VolumeError("two slices at one place"),
            "has no model": ModelError("its digest is another"),
        }
        if fate == "hangs":
            return Part(NEVER, lambda: StageError("it never ends"))
        if fate:
            return Part(2.0, lambda: ends[fate])
        return Part(10.0, lambda: write(request))

    def answer(self, delivery: Row) -> str | OsteonError:
        word = self.answers.popleft() if self.answers else "takes it"
        if word == "busy":
            return DeliveryError("out of resources")
        if word == "refuses":
            return DeliveryRefusedError("cannot understand")
        row = self.person.row("SELECT input_sha256 FROM job WHERE id = ?", (delivery["job_id"],))
        assert row is not None
        sent = (self.folder / delivery["path"]).read_text()
        assert sent == delivery["sop_instance_uid"]
        self.pacs.setdefault(row["input_sha256"], set()).add(sent)
        return "stored"

    def stuck(self) -> str:
        rows = self.person.rows("SELECT id, stage, state, reason, not_before FROM job")
        return f"stuck: {[dict(row) for row in rows]}"


@cache
def slice_of(series: str, number: int, version: int) -> Any:
    """Return a slice's header and bytes."""
    dataset = ct_slice(number, series=series, PatientID=f"P{version}")
    return read_header(dataset, SYNTAX), dataset


def write(request: StageRequest) -> StageReport:
    """Write what a stage leaves: of the encoded result its UID is all that is looked at."""
    if request.stage is not Stage.ENCODE:
        return StageReport(str(request.stage), 0.0)
    request.out.mkdir(parents=True, exist_ok=True)
    uid = derive_uid("seg-instance", request.input_sha256, request.model)
    files = {"seg.dcm": uid, "preview.png": "picture"}
    for name, text in files.items():
        (request.out / name).write_text(text)
    facts = {
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
        "series_instance_uid": derive_uid("seg-series", request.input_sha256, request.model),
        "segments": [],
        "files": {
            name: {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for name, text in files.items()
        },
    }
    return StageReport("encoded", 0.0, facts)
