"""Parts for tests of the pipeline: a clock by hand, CT slices, and an engine of threads.

The engine is a real one behind the interface of ``osteon.pipeline.workers.engine``: its slots
are threads and what a stage does is the test's to say. It cannot end a thread, so a killed stage is
let go.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SegmentationStorage

from osteon.config.settings import Settings
from osteon.errors import WorkerLostError
from osteon.pipeline.instances.part10 import FileMeta, encode_header
from osteon.pipeline.intake import Intake, Stored
from osteon.pipeline.job import Stage
from osteon.pipeline.observer import Observer
from osteon.pipeline.table import listening
from osteon.pipeline.table.connection import Table, open_table
from osteon.pipeline.table.reception import Origin
from osteon.pipeline.workers.request import StageReport, StageRequest
from osteon.pipeline.workers.slot import Chain
from osteon.pipeline.worklock import LISTENING, hold
from osteon.results.uids import derive_uid
from tests.tools import wait_until

SERIES = "1.2.3.1"
STUDY = "1.2.3"
SCANNER = Origin("CT1", "OSTEON", "127.0.0.1")


class HandClock:
    """Seconds since 1970, moved by the test alone."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def ct_slice(number: int = 1, *, series: str = SERIES, study: str = STUDY, **values: Any) -> bytes:
    """Encode a small CT slice, without File Meta Information, as Explicit VR Little Endian."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{series}.{number}"
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = series
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [0, 0, float(number)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return encode(ds)


def encode(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def store(intake: Intake, dataset: bytes, *, uid: str, origin: Origin = SCANNER) -> Stored:
    return intake.store(
        origin,
        sop_class_uid=CTImageStorage,
        sop_instance_uid=uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        dataset=dataset,
    )


def store_slices(
    intake: Intake,
    numbers: Any,
    *,
    series: str = SERIES,
    origin: Origin = SCANNER,
    **values: Any,
) -> list[Stored]:
    return [
        store(intake, ct_slice(n, series=series, **values), uid=f"{series}.{n}", origin=origin)
        for n in numbers
    ]


def write_stage(request: StageRequest) -> StageReport:
    """Write what each stage must leave: the encoded result is a Part 10 file with derived UIDs."""
    request.out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {}
    if request.stage is Stage.ENCODE:
        uid = derive_uid("seg-instance", request.input_sha256)
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = SegmentationStorage, uid
        ds.StudyInstanceUID = STUDY
        ds.SeriesInstanceUID = derive_uid("seg-series", request.input_sha256)
        header = encode_header(FileMeta(SegmentationStorage, uid, ExplicitVRLittleEndian))
        (request.out / "seg.dcm").write_bytes(header + encode(ds))
        (request.out / "preview.png").write_bytes(b"\x89PNG")
        facts = {
            "sop_instance_uid": uid,
            "sop_class_uid": str(SegmentationStorage),
            "series_instance_uid": str(ds.SeriesInstanceUID),
            "segments": [{"label": "Bone 1", "volume_ml": 1.0}],
            "files": {n: _facts_of(request.out / n) for n in ("seg.dcm", "preview.png")},
        }
    else:
        (request.out / f"{request.stage}.raw").write_bytes(b"output")
    return StageReport(f"{request.stage} of {len(request.inputs)} slices", 0.1, facts)


def _facts_of(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    return {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


StageFunction = Callable[[StageRequest], StageReport]


class ThreadEngine:
    """Slots that are threads; see the module."""

    def __init__(self, run: StageFunction = write_stage, slots: int = 1, depth: int = 0) -> None:
        self.run = run
        self.depth = depth  # chains that may wait here for a slot
        self._queue: list[Chain] = []
        self.slots = slots
        self.requests: list[StageRequest] = []
        self.kills = 0
        self.reason = ""
        self.fractions: dict[Future[StageReport], float] = {}
        self._busy: dict[int, Chain] = {}
        self._given: set[Future[StageReport]] = set()
        self._pool = ThreadPoolExecutor(8 * slots)

    @property
    def free(self) -> int:
        return self.slots - len(self._busy)

    @property
    def stages(self) -> list[tuple[int, Stage, int]]:
        """What was run: job, stage, attempt."""
        return [(r.job_id, r.stage, r.attempt) for r in self.requests]

    @property
    def room(self) -> int:
        return self.free + self.depth - len(self._queue)

    def submit(self, request: StageRequest) -> Future[StageReport]:
        return self.chain([request])[0]

    def chain(
        self, requests: Sequence[StageRequest], *, alone: bool = False
    ) -> tuple[Future[StageReport], ...]:
        if not self.room:
            raise RuntimeError("no slot is free")
        chain = Chain(tuple(requests), alone=alone)
        self._queue.append(chain)
        self._feed()
        return chain.futures

    def _feed(self) -> None:
        if self._queue and self.free:
            chain = self._queue.pop(0)
            self._busy[chain.number] = chain
            self._given.update(chain.futures)
            chain.begin()
            self._begin(chain)

    def _begin(self, chain: Chain) -> None:
        request = chain.requests[chain.at]
        self.requests.append(request)
        self._pool.submit(self.run, request).add_done_callback(lambda f: self._pass_on(f, chain))

    def withdraw(self, future: Future[StageReport]) -> bool:
        left = [chain for chain in self._queue if chain.futures[0] is not future]
        withdrawn, self._queue = len(left) < len(self._queue), left
        return withdrawn

    def progress(self, future: Future[StageReport]) -> float:
        return self.fractions.get(future, 0.0)

    def worker(self, future: Future[StageReport]) -> str:
        return "threads" if future in self._given else ""

    def kill(self, future: Future[StageReport]) -> None:
        for chain in list(self._busy.values()):
            if chain.present is future:
                self.kills += 1
                del self._busy[chain.number]
                chain.settle(WorkerLostError("the worker process died"))
                self._feed()

    def close(self) -> None:
        for chain in list(self._busy.values()):
            self.kill(chain.present)
        self._pool.shutdown(wait=False)

    def _pass_on(self, inner: Future[StageReport], chain: Chain) -> None:
        if chain.number not in self._busy:
            return
        chain.settle(inner.exception() or inner.result())
        if chain.present is None:
            del self._busy[chain.number]
            self._feed()
        else:
            self._begin(chain)


@dataclass
class Node:
    """Intake and observer on one data directory, with a clock by hand."""

    data_dir: Path
    settings: Settings
    engine: ThreadEngine
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        self.table: Table = open_table(self.data_dir, clock=self.clock)
        self.receiver_table: Table = open_table(self.data_dir, clock=self.clock)
        self.start_receiver()
        self.intake = Intake(self.settings, self.receiver_table)
        self.observer = Observer(self.settings, self.table, self.engine)
        self.observer.start()

    def restart(self, engine: ThreadEngine | None = None) -> None:
        """Forget the observer as kill -9 does, and start a new one on the same data."""
        self.engine = engine or ThreadEngine(self.engine.run, self.engine.slots)
        self.table = open_table(self.data_dir, clock=self.clock)
        self.observer = Observer(self.settings, self.table, self.engine)
        self.observer.start()

    def kill_receiver(self) -> None:
        """Free its lock as the kernel does; what it has open in the log stays open."""
        if self.listening is not None:
            os.close(self.listening)
        self.listening = None

    def start_receiver(self) -> None:
        """Listen again, as the role does."""
        newest = listening.newest_association(self.receiver_table)
        listening.begin_listening(self.receiver_table, self.clock(), newest, "lost: killed")
        self.listening: int | None = hold(self.data_dir, threading.Event(), LISTENING)

    def close(self) -> None:
        self.kill_receiver()
        self.observer._delivery.close()
        self.engine.close()
        self.table.close()
        self.receiver_table.close()

    def jobs(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.table.rows("SELECT * FROM job ORDER BY id")]

    def job(self, job_id: int = 1) -> dict[str, Any]:
        return self.jobs()[job_id - 1]

    def receive(self, numbers: Any, *, settle_s: float = 5.0, **keywords: Any) -> None:
        """Store slices and let the quiet time pass."""
        store_slices(self.intake, numbers, **keywords)
        self.clock.advance(settle_s)

    def tick_until(self, reached: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Tick until a condition holds; the clock stands."""

        def ticked() -> Any:
            assert self.observer.tick(), "a step of the observer failed: see the log"
            return reached()

        return wait_until(ticked, timeout_s, every_s=0.005)

    def tick_until_state(self, state: str, job_id: int = 1) -> dict[str, Any]:
        def reached() -> bool:
            return len(self.jobs()) >= job_id and self.job(job_id)["state"] == state

        self.tick_until(reached)
        return self.job(job_id)

    def events(self, job_id: int = 1) -> list[str]:
        rows = self.table.rows(
            "SELECT event FROM transition WHERE job_id = ? ORDER BY id", (job_id,)
        )
        return [row["event"] for row in rows]
