#!/usr/bin/env python3
"""Every job is done, once, whatever dies on the way: workers, memory, schedulers.

Small series wait for a node whose model makes some of them fail: it kills its worker, hangs, or
asks for more memory than there is. All must be done within three attempts, with one result each,
and what hangs must be cut within its deadline + 10 s. The same on a Dask cluster of this host,
whose scheduler is killed twice. Then one series that kills every worker that takes it: it must be
given up after three attempts, and the others lose less than a tenth of their throughput. That is
half of the jobs without it, with it, with it and without it: what the machine does meanwhile weighs
on both alike.

    robust.py [--jobs N] [--kills N] [--hangs N] [--memory N] [--cost S] [--seed N] [--quick]
              [--only local|cluster|poison] [--json FILE]

--quick is a sample. Exit code 1 where anything is not as it must be.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import raw_scu
from receivers import HOST
from rich.console import Console
from rich.table import Table
from route_parts import Node, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from osteon.pipeline.table.connection import Table as JobTable
from osteon.pipeline.table.connection import open_table
from tests import known_cost
from tests.acceptance.ct import write_series
from tests.cluster_parts import Cluster

HERE = Path(__file__).resolve().parent
ATTEMPTS_MAX, CUT_WITHIN_S, LOSS_MAX = 3, 10.0, 0.1
DEADLINE_S = 8  # Of a stage.
UNPOISONED, POISONED = "unpoisoned", "poisoned"
WAIT_S = 1800.0
QUICK = {"jobs": 8, "kills": 1, "hangs": 1, "memory": 1, "cost": 0.05}
FINAL = "('done', 'failed', 'rejected', 'cancelled', 'superseded')"


@dataclass
class Verdict:
    """What became of the jobs of one run.

    Attributes
    ----------
    attempts : int
        The most that one stage of one job had.
    cut_s : float
        The longest from the begin of a stage that hung to its end.
    """

    run: str
    jobs: int
    seconds: float = 0.0
    done: int = 0
    attempts: int = 0
    results: int = 0
    cut_s: float = 0.0
    reasons: list[str] = field(default_factory=list)

    @property
    def is_met(self) -> bool:
        """Whether all are done within their attempts, once, and nothing hung for longer."""
        once = self.done == self.jobs == self.results
        return once and self.attempts <= ATTEMPTS_MAX and self.cut_s <= DEADLINE_S + CUT_WITHIN_S


def main() -> None:
    """Run all three, print, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--hangs", type=int, default=3)
    parser.add_argument("--memory", type=int, default=3)
    parser.add_argument("--cost", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("local", "cluster", "poison"))
    parser.add_argument("--json", type=Path, default=HERE / "out" / "robust.json")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    figures: dict[str, Any] = {"jobs": args.jobs, "seed": args.seed}
    with tempfile.TemporaryDirectory(prefix="bench-robust-") as name:
        folder = Path(name)
        runs = {"local": lambda: [local(folder, args)], "cluster": lambda: [cluster(folder, args)],
                "poison": lambda: poison(folder, args)}  # fmt: skip
        verdicts = [v for name, run in runs.items() if args.only in {None, name} for v in run()]
    figures["runs"] = [asdict(v) for v in verdicts]
    met = all(v.is_met for v in verdicts if v.run != POISONED)
    sick = [v for v in verdicts if v.run == POISONED]
    if sick:
        clean = [v for v in verdicts if v.run == UNPOISONED]
        figures["loss"] = 1 - throughput(sick) / throughput(clean)
        met &= all(v.done == v.jobs - 1 and v.attempts == ATTEMPTS_MAX for v in sick)
        met &= all(len(v.reasons) == 1 for v in sick)
        met &= args.quick or figures["loss"] < LOSS_MAX
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=2))
    show(verdicts, figures.get("loss"))
    sys.exit(not met)


def local(folder: Path, args: argparse.Namespace) -> Verdict:
    """Run the jobs with all faults on worker processes of this host."""
    place = Place(folder / "local", args)
    place.plant(args)
    return place.run("worker processes", lambda _: None)


def cluster(folder: Path, args: argparse.Namespace) -> Verdict:
    """Run them on a cluster whose scheduler is killed twice, at a third and at two thirds."""
    place = Place(folder / "cluster", args, cluster=True)
    place.plant(args)
    kills = [args.jobs // 3, 2 * args.jobs // 3]

    def kill_scheduler(over: int) -> None:
        if place.cluster is not None and kills and over >= kills[0]:
            kills.pop(0)
            place.cluster.kill_scheduler()
            place.cluster.start_scheduler()

    try:
        return place.run("Dask cluster", kill_scheduler)
    finally:
        place.close()


def poison(folder: Path, args: argparse.Namespace) -> list[Verdict]:
    """Run them without any fault, and with one series that kills whatever takes it."""
    half = argparse.Namespace(**vars(args) | {"jobs": args.jobs // 2})
    verdicts = []
    for number, run in enumerate((UNPOISONED, POISONED, POISONED, UNPOISONED)):
        place = Place(folder / f"poison{number}", half)
        if run == POISONED:  # In the middle: what was before it is being encoded, and dies with it.
            (place.faults / f"{half.jobs // 2}-kill").write_bytes(b"x" * 99)
        verdicts.append(place.run(run, lambda _: None))
    return verdicts


def throughput(verdicts: list[Verdict]) -> float:
    """Return the jobs done in a second of several runs."""
    return sum(v.done for v in verdicts) / sum(v.seconds for v in verdicts)


class Place:
    """A node with a backlog, and its faults; HU n is the first voxel of series n."""

    def __init__(self, folder: Path, args: argparse.Namespace, *, cluster: bool = False) -> None:
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.environment = {
            "PYTHONPATH": str(known_cost.install(folder / "site")),
            "KNOWN_COST_S": str(args.cost),
            "KNOWN_COST_FAULTS": str(self.faults),
        }
        self.jobs, self.cluster, extra = args.jobs, None, ""
        if cluster:
            (folder / "dask").mkdir()
            self.cluster = Cluster(folder / "dask")
            extra = (self.cluster.pki / "node.toml").read_text()
        limits = {"model": known_cost.NAME, "stage_timeout_s": DEADLINE_S, "running_max": 8}
        self.node = Node(
            folder / "node",
            quiet_s=1.0,
            pipeline=limits | {"slots": 1},
            environment=self.environment,
            extra=extra,
        )
        self._fill(folder / "ct")

    def plant(self, args: argparse.Namespace) -> None:
        """Choose who fails, and how, once each."""
        chosen = random.Random(args.seed).sample(
            range(1, self.jobs + 1), args.kills + args.hangs + args.memory
        )
        kinds = ["kill"] * args.kills + ["hang"] * args.hangs + ["memory"] * args.memory
        for number, kind in zip(chosen, kinds, strict=True):
            (self.faults / f"{number}-{kind}").write_bytes(b"x")

    def run(self, name: str, meanwhile: Callable[[int], None]) -> Verdict:
        """Let the node work until every job is over, and look at what the table says."""
        if self.cluster is not None:
            self._start_cluster(self.cluster)
        with self.node.serving("work"):
            table = open_table(self.node.data_dir)
            started = time.monotonic()

            def all_over() -> bool:
                over = number(table, f"SELECT count(*) FROM job WHERE state IN {FINAL}")
                meanwhile(over)
                return over == self.jobs

            wait_for(all_over, WAIT_S)
            seconds = time.monotonic() - started
            verdict = judge(table, Verdict(name, self.jobs, seconds))
            table.close()
        return verdict

    def close(self) -> None:
        """End the cluster."""
        if self.cluster is not None:
            self.cluster.stop()

    def _start_cluster(self, cluster: Cluster) -> None:
        cluster.environment = self.environment
        cluster.start_scheduler()
        for host in ("gpu1", "gpu2"):
            cluster.start_worker(host)

    def _fill(self, folder: Path) -> None:
        for at in range(1, self.jobs + 1):
            write_series(folder / str(at), seed=f"robust{at}", slices=6, first_hu=at)
        instances = raw_scu.load(folder)
        with self.node.serving("receive"):
            wait_for(lambda: send(self.node, instances), 60.0)
        shutil.rmtree(folder)


def send(node: Node, instances: list[raw_scu.Instance]) -> bool:
    """Send everything; False while the receiver does not listen yet."""
    try:
        raw_scu.send((HOST, node.dicom), "OSTEON", instances, deadline_s=WAIT_S)
    except OSError:
        return False
    return True


def judge(table: JobTable, verdict: Verdict) -> Verdict:
    """Fill in what the table says of a run that is over."""
    verdict.done = number(table, "SELECT count(*) FROM job WHERE state = 'done'")
    verdict.attempts = number(
        table,
        "SELECT max(n) FROM (SELECT count(*) AS n FROM transition WHERE event = 'claim'"
        " GROUP BY job_id, from_stage)",
    )
    verdict.results = number(
        table,
        "SELECT count(DISTINCT sop_instance_uid) FROM result WHERE kind = 'seg' AND job_id IN"
        " (SELECT job_id FROM result WHERE kind = 'seg' GROUP BY job_id HAVING count(*) = 1)",
    )
    hung = table.row(
        "SELECT max(cut.at - began.at) AS longest FROM transition AS cut JOIN transition AS began"
        " ON began.id = (SELECT max(id) FROM transition WHERE job_id = cut.job_id AND id < cut.id"
        " AND event = 'claim') WHERE cut.event = 'retry' AND cut.why LIKE '%ran longer%'"
    )
    verdict.cut_s = float((hung and hung["longest"]) or 0.0)
    failed = table.rows("SELECT id, reason FROM job WHERE state <> 'done'")
    verdict.reasons = [f"job {row['id']}: {row['reason']}" for row in failed]
    return verdict


def number(table: JobTable, sql: str) -> int:
    """Return the one number that a query gives."""
    row = table.row(sql)
    return int(next(iter(dict(row).values())) or 0) if row is not None else 0


def show(verdicts: list[Verdict], loss: float | None) -> None:
    """Print one table, and why jobs failed."""
    caption = None if loss is None else f"throughput lost to the poisoned series: {loss:.1%}"
    table = Table(title="Every job, once", caption=caption)
    columns = ("", "jobs", "done", "results", "attempts", "hang cut, s", "jobs an hour")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for v in verdicts:
        cells = (v.jobs, v.done, v.results, v.attempts, f"{v.cut_s:.1f}")
        table.add_row(v.run, *map(str, cells), f"{3600 * v.done / v.seconds:.0f}")
    console = Console()
    console.print(table)
    for v in verdicts:
        for reason in v.reasons[:5]:
            console.print(f"{v.run}: {reason}", highlight=False)


if __name__ == "__main__":
    main()
