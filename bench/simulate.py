"""A year's worth of load in minutes: the real table, throttler, observer and dispatcher, simulated.

    python bench/simulate.py                 every scenario, about 15 minutes
    python bench/simulate.py --series 300    a sample
    python bench/simulate.py --json FILE --picture FILE

Time is injected; the engine and the destination are simulated, all else is real. Series of many
hospitals come as a Poisson process with a day's profile, each of a size of its own. One table
leaves: how long each class waited, how fairly the slots were shared, how busy they were, and what
the node itself cost. Exit code 1 where a limit is not kept.

    fair    Jain's index of what each source got, for what was due to it (max-min fair, by weight)
    CPU     ms of the node's own processor time for each series
"""

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
from rich.console import Console
from rich.table import Table as Printed
from simulate_picture import draw_waits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from osteon.config.settings import Settings
from osteon.errors import OsteonError, StageError, WorkerLostError
from osteon.pipeline.job import Stage
from osteon.pipeline.observer import Observer
from osteon.pipeline.table import deliveries
from osteon.pipeline.table.connection import Row, Table, open_table
from osteon.pipeline.workers.request import StageReport, StageRequest
from tests.pipeline_parts import HandClock, write_stage
from tests.simulated import NEVER, Part, SimulatedEngine, SimulatedSender

CLASSES = {"stat": 0.03, "urgent": 0.12, "routine": 0.75, "bulk": 0.10}
SHARE_OF_STAGE = {Stage.PREDICTION: 0.6, Stage.BONESEG: 0.25, Stage.ENCODE: 0.15}
SECONDS_PER_VOXEL = 60.0 / (300 * 512 * 512)  # 60 s for 300 slices of 512².
SLICES_MEDIAN, SLICES_SPREAD = 300, 0.6
DAY_S, QUIET_S, STAGE_TIMEOUT_S = 86_400.0, 5.0, 900.0
HANG_SHARE = 0.5  # How far a request has come when its worker dies.
POISON_LOSS_MAX, FAIR_MIN, SERIES_OF_A_SOURCE_MIN = 0.10, 0.95, 30
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes
    ----------
    load : float
        Work that comes, as a share of what the slots can do; above 1 the backlog grows.
    lost, hangs, poison : float
        Share of stages whose worker dies or hangs, and of series that fail whenever they run.
    full_disk_s : float
        How long the disk is full, in the middle.
    """

    name: str
    slots: int
    sources: int
    load: float
    series: int
    classes: dict[str, float] = field(default_factory=lambda: dict(CLASSES))
    lost: float = 0.0
    hangs: float = 0.0
    poison: float = 0.0
    full_disk_s: float = 0.0


@dataclass(frozen=True)
class Arrival:
    """A series that is about to come; ``size`` is in slices."""

    at: float
    number: int
    source: int
    kind: str
    size: int

    @property
    def cost(self) -> int:
        return self.size * 512 * 512


def scenarios(series: int) -> list[Scenario]:
    """Return every scenario, with so many series each."""
    routine = {"routine": 1.0}
    found = [Scenario(f"{n} slot{'s' * (n > 1)}", n, 1000, 0.9, series) for n in (1, 10, 50, 200)]
    found += [Scenario(f"{n} source{'s' * (n > 1)}", 10, n, 0.9, series) for n in (1, 30)]
    found += [
        Scenario("twice too much", 10, 30, 2.0, series, routine),
        Scenario("two sources, twice too much", 10, 2, 2.0, series, routine),
        Scenario("five times too much", 10, 1000, 5.0, series),
        Scenario("workers die", 10, 100, 0.7, series, lost=0.03),
        Scenario("workers hang", 10, 100, 0.7, series, hangs=0.003),
        Scenario("the disk fills up", 10, 100, 0.7, series, full_disk_s=3600.0),
        Scenario("no series is poison", 10, 30, 50.0, series, routine),
        Scenario("2 % are poison", 10, 30, 50.0, series, routine, poison=0.02),
    ]
    return found


class Simulation:
    """One scenario on a table of its own."""

    def __init__(self, scenario: Scenario, folder: Path, seed: int = 1) -> None:
        self.scenario = scenario
        self._dice = random.Random(seed)
        self._clock = HandClock()
        self.began = self._clock.now
        self._poison: set[int] = set()
        self._full_until = 0.0
        self._full_from = NEVER
        self._due = NEVER
        self.cpu_s = 0.0
        self.ticks = 0
        self.table: Table = open_table(folder, clock=self._clock)
        self._engine = SimulatedEngine(self._clock, scenario.slots, self._play)
        self._sender = SimulatedSender(self._clock, self._answer, 0.2)
        self._observer = Observer(self._settings(folder), self.table, self._engine, self._sender)
        self._observer.start()
        self.arrivals = list(self._arrive())
        last = self.arrivals[-1].at
        if scenario.full_disk_s:
            self._full_from = (self.began + last) / 2
            self._full_until = self._full_from + scenario.full_disk_s

    def run(self) -> dict[str, Any]:
        """Let everything come, and wait until nothing is left to do."""
        coming = [(arrival.at, arrival.number, arrival) for arrival in self.arrivals]
        heapq.heapify(coming)
        with patch("osteon.pipeline.door.free_bytes", self._free_bytes):
            while True:
                due = [coming[0][0]] if coming else []
                due += [self._engine.next_end(), self._sender.next_end(), self._due]
                if not coming and self._is_idle():
                    break
                self._clock.now = max(self._clock.now, min(due))
                while coming and coming[0][0] <= self._clock.now:
                    self._receive(heapq.heappop(coming)[2])
                self._engine.run_due()
                self._sender.run_due()
                self._tick()
        figures = self._figures()
        self.table.close()
        return figures

    def _settings(self, folder: Path) -> Settings:
        scenario = self.scenario
        return Settings(
            data_dir=folder,
            scp={"quiet_s": QUIET_S},
            source=[
                {"ae_title": f"H{n}", "weight": 3.0 if n % 3 == 0 else 1.0}
                for n in range(scenario.sources)
            ],
            route=[
                {"name": kind, "called_ae_title": kind.upper(), "priority": kind}
                for kind in scenario.classes
            ],
            destination=[{"name": "pacs", "ae_title": "PACS", "host": "simulated", "port": 104}],
            pipeline={
                "disk_reserve_gb": 1.0,
                "ahead": False,
                "memory_gb": 1e6,
                "stage_timeout_s": STAGE_TIMEOUT_S,
                "waiting_max": 10**9,
            },
        )

    def _arrive(self) -> Iterator[Arrival]:
        """Draw a Poisson process whose rate follows the day: most at noon, least at midnight."""
        scenario, dice = self.scenario, self._dice
        mean_s = SLICES_MEDIAN * math.exp(SLICES_SPREAD**2 / 2) * 512 * 512 * SECONDS_PER_VOXEL
        rate = scenario.load * scenario.slots / mean_s
        kinds, shares = list(scenario.classes), list(scenario.classes.values())
        at, number = self.began, 0
        while number < scenario.series:
            at += dice.expovariate(1.6 * rate)
            profile = 1.0 - 0.6 * math.cos(2 * math.pi * (at % DAY_S) / DAY_S)
            if dice.random() > profile / 1.6:
                continue
            size = round(dice.lognormvariate(math.log(SLICES_MEDIAN), SLICES_SPREAD))
            kind = dice.choices(kinds, shares)[0]
            yield Arrival(at, number, dice.randrange(scenario.sources), kind, max(2, size))
            number += 1

    def _receive(self, arrival: Arrival) -> None:
        """Put a whole series on record, as the receiver leaves it."""
        table, now = self.table, self._clock.now
        uid = f"1.2.3.{arrival.number}"
        frames = arrival.size // 2
        header = {"Modality": ["CT"], "Rows": ["512"], "Columns": ["512"]}
        header["NumberOfFrames"] = [str(frames)]
        with table.write():
            series_id = table.insert(
                "INSERT INTO series (series_instance_uid, generation, study_instance_uid,"
                " calling_ae_title, called_ae_title, modality, accession_number, patient_id,"
                " header, state, instances, first, last, due, waits_for)"
                " VALUES (?, 1, ?, ?, ?, 'CT', '', '', ?, 'receiving', 2, ?, ?, ?, 'quiet')",
                (
                    *(uid, uid, f"H{arrival.source}", arrival.kind.upper(), json.dumps(header)),
                    *(now - 1.0, now, now + QUIET_S),
                ),
            )
            for number in (1, 2):
                table.insert(
                    "INSERT INTO instance (sop_instance_uid, digest, sop_class_uid,"
                    " transfer_syntax_uid, series_instance_uid, generation, path, size,"
                    " instance_number, received) VALUES (?, ?, 'CT', '', ?, 1, '', ?, ?, ?)",
                    (f"{uid}.{number}", f"{series_id:064x}", uid, frames * 524_288, number, now),
                )
        if self._dice.random() < self.scenario.poison:
            self._poison.add(series_id)

    def _play(self, request: StageRequest) -> Part:
        scenario, dice = self.scenario, self._dice
        job = self.table.row("SELECT cost, series_id FROM job WHERE id = ?", (request.job_id,))
        assert job is not None
        seconds = job["cost"] * SECONDS_PER_VOXEL * SHARE_OF_STAGE[request.stage]
        if job["series_id"] in self._poison:
            return Part(seconds, lambda: WorkerLostError("the worker process died"))
        fate = dice.random()
        if fate < scenario.hangs:
            return Part(NEVER, lambda: StageError("it never ends"))
        if fate < scenario.hangs + scenario.lost:
            return Part(seconds * HANG_SHARE, lambda: WorkerLostError("the worker process died"))
        return Part(seconds, lambda: self._write(request))

    def _write(self, request: StageRequest) -> StageReport:
        if request.stage is Stage.ENCODE:
            return write_stage(request)
        return StageReport(f"{request.stage} of a simulated volume", 0.0)

    def _answer(self, _: Row) -> str | OsteonError:
        return "stored, and found there by C-FIND"

    def _free_bytes(self, _: Path) -> int:
        return 0 if self._full_from <= self._clock.now < self._full_until else 10**15

    def _tick(self) -> None:
        """Let the node do what it can; only this is its own cost."""
        started = time.process_time()
        well = self._observer.tick()
        due = self._observer.next_due()
        self.cpu_s += time.process_time() - started
        self.ticks += 1
        self._due = max(due, self._clock.now + 0.001)
        assert well, "a step of the observer failed"

    def _is_idle(self) -> bool:
        open_jobs = self.table.row(
            "SELECT 1 FROM job WHERE state IN ('waiting', 'running', 'backoff')"
            " UNION ALL SELECT 1 FROM series WHERE state = 'receiving' LIMIT 1"
        )
        return open_jobs is None and deliveries.next_due(self.table) is None

    def _figures(self) -> dict[str, Any]:
        rows = self.table.rows(
            "SELECT job.*, (SELECT min(at) FROM transition WHERE job_id = job.id"
            " AND event = 'claim') AS began FROM job"
        )
        waited = defaultdict(list)
        for row in rows:
            waited[row["route"]].append(row["began"] - row["created"])
        took = self._clock.now - self.began
        good = [row for row in rows if row["state"] == "done"]
        last = max(row["updated"] for row in good)
        sent = self.table.rows("SELECT sop_instance_uid AS uid FROM result WHERE kind = 'seg'")
        return asdict(self.scenario) | {
            "waited_s": {kind: quantiles(times) for kind, times in waited.items()},
            "fair": self._fairness(),
            "busy": self._engine.busy_s / (self.scenario.slots * took),
            "cpu_ms": 1e3 * self.cpu_s / len(rows),
            "ticks": self.ticks / len(rows),
            "done": len(good),
            "failed": sum(row["state"] == "failed" for row in rows),
            "failed_attempts": sorted({row["attempt"] for row in rows if row["state"] == "failed"}),
            "twice": len(sent) - len({row["uid"] for row in sent}),
            "good_per_hour": 3600.0 * len(good) / (last - self.began),
        }

    def _fairness(self) -> float | None:
        """Judge what was admitted while series still came, where not all could be.

        With a few series each, the last one decides: it is for sources that have many.
        """
        scenario = self.scenario
        many = scenario.series / scenario.sources >= SERIES_OF_A_SOURCE_MIN
        if not many or not 1.0 < scenario.load < 10.0:
            return None
        until = self.arrivals[-1].at
        asked: dict[str, float] = defaultdict(float)
        for arrival in self.arrivals:
            if arrival.kind == "routine":
                asked[f"H{arrival.source}"] += arrival.cost
        rows = self.table.rows(
            "SELECT calling_ae_title AS source, sum(cost) AS cost FROM job WHERE admitted <= ?"
            " AND route = 'routine' GROUP BY calling_ae_title",
            (until,),
        )
        got = {row["source"]: float(row["cost"]) for row in rows}
        weights = {s: 3.0 if int(s[1:]) % 3 == 0 else 1.0 for s in asked}
        due = fair_shares(asked, weights, sum(got.values()))
        return jain([got.get(source, 0.0) / due[source] for source in asked if due[source] > 0])


def quantiles(times: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile."""
    ordered = sorted(times)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)],
    }


def fair_shares(
    asked: dict[str, float], weights: dict[str, float], total: float
) -> dict[str, float]:
    """Return the max-min fair share of each source, by weight, and never more than it asked for."""
    due: dict[str, float] = {}
    left = dict(asked)
    while left:
        level = total / sum(weights[source] for source in left)
        satisfied = [s for s, wanted in left.items() if wanted <= level * weights[s]]
        if not satisfied:
            return due | {source: level * weights[source] for source in left}
        for source in satisfied:
            due[source] = left.pop(source)
            total -= due[source]
    return due


def jain(shares: list[float]) -> float:
    """Return Jain's index of fairness: 1 where all are equal, 1/n where one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def misses(found: list[dict[str, Any]]) -> list[str]:
    """Say which limits are not kept."""
    missed = []
    for run in found:
        name = run["name"]
        expected = round(run["series"] * run["poison"])
        if run["done"] + run["failed"] != run["series"] or run["twice"]:
            missed.append(
                f"{name}: {run['done']} done, {run['failed']} failed, {run['twice']} twice"
            )
        if run["failed"] > max(2 * expected, 0.002 * run["series"]):
            missed.append(f"{name}: {run['failed']} failed")
        if run["fair"] is not None and run["fair"] < FAIR_MIN:
            missed.append(f"{name}: Jain's index {run['fair']:.3f}")
    rates = {run["name"]: run["good_per_hour"] for run in found}
    lost = 1.0 - rates["2 % are poison"] / rates["no series is poison"]
    if lost > POISON_LOSS_MAX:
        missed.append(f"poison costs {lost:.1%} of the others' throughput")
    return missed


def show(found: list[dict[str, Any]]) -> None:
    """Print one table."""
    printed = Printed(title=f"{found[0]['series']} series each; waiting in s, median / p99")
    printed.add_column("")
    for column in (*CLASSES, "fair", "busy", "done/h", "failed", "CPU ms"):
        printed.add_column(column, justify="right")
    for run in found:
        waits = (run["waited_s"].get(kind) for kind in CLASSES)
        cells = [f"{w['p50']:.0f} / {w['p99']:.0f}" if w else "" for w in waits]
        fair = "" if run["fair"] is None else f"{run['fair']:.3f}"
        printed.add_row(
            f"{run['name']}",
            *cells,
            fair,
            f"{run['busy']:.2f}",
            f"{run['good_per_hour']:.0f}",
            f"{run['failed']}",
            f"{run['cpu_ms']:.1f}",
        )
    Console(width=130).print(printed)


def simulate(series: int, only: str = "") -> list[dict[str, Any]]:
    """Run the scenarios whose name contains some words."""
    found = []
    for scenario in scenarios(series):
        if only in scenario.name:
            # What is measured is the node's own work, so the disk's waits are left out.
            where = SHM if SHM.is_dir() else None
            with tempfile.TemporaryDirectory(prefix="simulate-", dir=where) as folder:
                found.append(Simulation(scenario, Path(folder)).run())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=3000, help="in each scenario")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="a PNG of the waiting times")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    found = simulate(args.series, args.only)
    show(found)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2))
    if args.picture is not None:
        draw_waits(args.picture, found)
    missed = [] if args.only else misses(found)
    for miss in missed:
        print(f"MISSED {miss}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
