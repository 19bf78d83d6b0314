"""How fast is it received? Osteon beside pynetdicom, DCMTK and Orthanc, on this machine, now.

    make bench-receive                          all receivers, 5 rounds, < 15 minutes
    python bench/receive.py --quick             1 short round, < 1 minute
    python bench/receive.py --check --docs      fail where a target is missed; rewrite the docs
    python bench/receive.py --from FILE --docs  do so with the figures of an earlier run

Each round visits every receiver once (A B C A B C …): it starts with an empty store, is sent CT, MR
and multi-frame instances by `raw_scu` over 1, 4 and 16 associations and by DCMTK's own senders, is
asked how many instances it holds, and is ended. Tables and JSON leave; figures are medians.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import disk_floor
import raw_scu
import receive_report
from datasets import CT, MR, MULTI, MULTI_SMALL, RUN, DataSet, write_instances
from machine import busy_s, describe
from receivers import HOST, RECEIVERS, Receiver, running

OUT = Path(__file__).resolve().parent / "out"
SENDERS = {"storescu": "/usr/bin/storescu", "dcmsend": "/usr/bin/dcmsend"}
SLOW_PER_S = 100.0  # Receivers below it are sent fewer instances by DCMTK's senders.
WARM_UP = 8  # Instances that are sent before anything is timed.
DEADLINE_S = 60.0
ECHOES, ECHO_S = 300, 0.5
TLS_COUNTS = ((CT, 0, (1, 4)),)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    counts : tuple of (DataSet, int, tuple of int)
        Instances at most, and over how many associations.
    seconds : float
        After this long a run starts no further message.
    files : tuple of int
        Files for DCMTK's senders: for slow receivers, and so many more for the others.
    budget_s : float
        No round is started that would end later.
    """

    rounds: int
    counts: tuple[tuple[DataSet, int, tuple[int, ...]], ...]
    seconds: float
    files: tuple[int, int]
    idle_s: float
    budget_s: float


FULL = Plan(
    5, ((CT, 400, (1, 4, 16)), (MR, 800, (1, 4, 16)), (MULTI, 1, (1,))), 1.0, (40, 160), 10, 780
)
QUICK = Plan(
    1, ((CT, 48, (1, 4, 16)), (MR, 48, (1, 4, 16)), (MULTI_SMALL, 1, (1,))), 0.25, (8, 16), 2, 50
)


class _Others:
    """How much of the machine programs take that are no part of this."""

    def __init__(self) -> None:
        self._from = time.monotonic(), busy_s(), time.process_time()

    def cores(self, receiver_s: float) -> float:
        """Cores since then, without this process and so much of the receiver's."""
        started, busy_before_s, own_before_s = self._from
        own_s = time.process_time() - own_before_s
        others_s = busy_s() - busy_before_s - own_s - receiver_s
        return round(max(0.0, others_s / (time.monotonic() - started)), 2)


class Bench:
    """One benchmark in a temporary folder; samples of all rounds gather here."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.samples: list[dict[str, Any]] = []
        self.instances: dict[str, list[raw_scu.Instance]] = {}
        self._run_numbers = itertools.count(int(RUN) + 1)

    def prepare(self) -> None:
        """Write what will be sent."""
        for kind, count, _ in self.plan.counts:
            folder = self.folder / kind.name
            write_instances(folder, kind, count)
            self.instances[kind.name] = raw_scu.load(folder)
            shutil.rmtree(folder)
        first = 100_000
        for sender in SENDERS:
            for part, count in zip(("first", "rest"), self.plan.files, strict=True):
                write_instances(self.folder / sender / part, CT, count, first=first)
                first += count

    def visit(self, name: str, round_: int) -> None:
        """Measure one receiver once."""
        self._about = {"receiver": name, "round": round_}
        try:
            with running(name, self.folder / "receiver") as receiver:
                sent = sum(self._send_all(receiver))
                if receiver.is_plain:
                    sent += sum(self._send_with_dcmtk(receiver))
                self._echo(receiver)
                if receiver.held() != sent:
                    raise OSError(f"{sent} instances acknowledged, {receiver.held()} held")
        except (OSError, subprocess.SubprocessError) as error:
            self._note("visit", error=f"{type(error).__name__}: {error}"[:500])

    def _send_all(self, receiver: Receiver) -> Iterator[int]:
        yield len(self._send(receiver, CT, 1, WARM_UP).acks_s)
        for kind, _, all_associations in self.plan.counts if receiver.is_plain else TLS_COUNTS:
            for associations in all_associations:
                os.sync()  # What others left to be written is not for this run to wait for.
                before_s, others = receiver.cpu_s(), _Others()
                report = self._send(receiver, kind, associations)
                cpu_s = receiver.cpu_s() - before_s
                self._note(
                    "raw",
                    data_set=kind.name,
                    cpu_ms=round(1000 * cpu_s / len(report.acks_s), 3),
                    others_cores=others.cores(cpu_s),
                    **report.figures(),
                )
                yield len(report.acks_s)

    def _send(
        self, receiver: Receiver, kind: DataSet, associations: int, count: int | None = None
    ) -> raw_scu.Report:
        run = str(next(self._run_numbers))
        report = raw_scu.send(
            (HOST, receiver.port(associations)),
            receiver.ae_title,
            [i.renamed(RUN, run) for i in self.instances[kind.name][:count]],
            associations=associations,
            tls=receiver.tls,
            seconds=self.plan.seconds,
            deadline_s=DEADLINE_S,
        )
        if set(report.statuses) != {"0x0000"}:
            raise OSError(f"answers {dict(report.statuses)}")
        return report

    def _send_with_dcmtk(self, receiver: Receiver) -> Iterator[int]:
        """Time DCMTK's senders from start to end, their own start included."""
        environment = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
        is_slow = self._rate_of_one() < SLOW_PER_S
        for sender, program in SENDERS.items():
            folder = self.folder / sender / ("first" if is_slow else "")
            count = sum(self.plan.files[: 1 if is_slow else 2])
            peer = (HOST, str(receiver.port(1)))
            os.sync()
            before_s, started = receiver.cpu_s(), time.perf_counter()
            done = subprocess.run(
                [program, "-aec", receiver.ae_title, *peer, "+sd", "+r", str(folder)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=DEADLINE_S,
                check=False,
            )
            seconds = time.perf_counter() - started
            if done.returncode:
                raise OSError(f"{sender}: {done.stderr[-300:]}")
            cpu_ms = 1000 * (receiver.cpu_s() - before_s) / count
            self._note(
                sender,
                data_set=CT.name,
                associations=1,
                instances=count,
                instances_per_s=round(count / seconds, 1),
                cpu_ms=round(cpu_ms, 3),
            )
            yield count

    def _rate_of_one(self) -> float:
        first = next(
            s for s in self.samples if s.items() >= (self._about | {"sender": "raw"}).items()
        )
        return float(first["instances_per_s"])

    def _echo(self, receiver: Receiver) -> None:
        address = (HOST, receiver.port(1))
        with raw_scu.associated(
            address, receiver.ae_title, raw_scu.ECHO, tls=receiver.tls
        ) as opened:
            took_s = raw_scu.echo(opened[0], ECHOES, ECHO_S)
        self._note("echo", echo_ms_p50=round(1000 * statistics.median(took_s), 4))

    def floor(self, round_: int) -> None:
        """Measure what the disk alone allows."""
        self._about = {"receiver": "floor", "round": round_}
        for threads in (1, 4):
            os.sync()
            folder = self.folder / f"floor-{round_}-{threads}"
            rate = disk_floor.measure(folder, threads, self.plan.seconds)
            self._note("floor", associations=threads, instances_per_s=round(rate, 1))

    def idle(self, names: Sequence[str]) -> None:
        """Let one association be idle at every receiver, all at the same time."""
        with ExitStack() as stack:
            receivers = {}
            for name in names:
                receiver = stack.enter_context(running(name, self.folder / name))
                address = (HOST, receiver.port(1))
                associated = raw_scu.associated(
                    address, receiver.ae_title, raw_scu.ECHO, tls=receiver.tls
                )
                stack.enter_context(associated)
                receivers[name] = receiver
            time.sleep(1.0)  # Until what the start left to do is done.
            before_s = {name: receiver.run_s() for name, receiver in receivers.items()}
            time.sleep(self.plan.idle_s)
            for name, receiver in receivers.items():
                self._about = {"receiver": name, "round": 0}
                share = (receiver.run_s() - before_s[name]) / self.plan.idle_s
                self._note("idle", idle_percent=round(100 * share, 4))

    def _note(self, sender: str, **figures: object) -> None:
        self.samples.append({**self._about, "sender": sender, **figures})


def run(plan: Plan, names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the benchmark and return everything that was measured."""
    started = time.monotonic()
    bench = Bench(plan, folder)
    bench.prepare()
    done, round_s = 0, 0.0
    while done < plan.rounds and time.monotonic() - started + round_s < plan.budget_s:
        begun = time.monotonic()
        bench.floor(done + 1)
        for name in names:
            bench.visit(name, done + 1)
            print(f"round {done + 1}: {name}", file=sys.stderr)
        done, round_s = done + 1, time.monotonic() - begun
    bench.idle(names)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(folder),
        "quick": plan is QUICK,
        "rounds": done,
        "seconds": round(time.monotonic() - started, 1),
        "receivers": {name: RECEIVERS[name].words for name in names},
        "synced": {name: RECEIVERS[name].synced for name in names},
        "data_sets": {kind.name: kind.words for kind, _, _ in plan.counts},
        "samples": bench.samples,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="instead of 5")
    parser.add_argument("--receivers", default=",".join(RECEIVERS), help="names, with commas")
    parser.add_argument("--folder", type=Path, default=OUT, help="on the disk that is measured")
    parser.add_argument("--json", type=Path, default=OUT / "receive.json", help="written there")
    parser.add_argument("--from", dest="earlier", type=Path, help="JSON of an earlier run")
    parser.add_argument("--docs", type=Path, nargs="?", const=receive_report.DOCS, help="rewrite")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    args = parser.parse_args()
    unknown = set(args.receivers.split(",")) - set(RECEIVERS)
    if unknown:
        parser.error(f"no such receiver: {sorted(unknown)}; there are {', '.join(RECEIVERS)}")
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what the arguments ask for and write its JSON."""
    plan = QUICK if args.quick else FULL
    if args.rounds:
        plan = Plan(**{**vars(plan), "rounds": args.rounds})
    names = args.receivers.split(",")
    for name in [n for n in names if not shutil.which(RECEIVERS[n].program)]:
        print(f"left out: {name}, {RECEIVERS[name].program} is not installed", file=sys.stderr)
        names.remove(name)
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(int(plan.budget_s * 1.15))
    with tempfile.TemporaryDirectory(prefix="receive-", dir=args.folder) as folder:
        report = run(plan, names, Path(folder).resolve())
    signal.alarm(0)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(f"ended by {signal.Signals(number).name}: the processes are gone")


def main() -> int:
    args = arguments()
    report = json.loads(args.earlier.read_text()) if args.earlier else measure(args)
    summary = receive_report.Summary(report)
    summary.show()
    if args.docs:
        summary.write_docs(args.docs)
    return int(args.check and not all(target.met for target in summary.targets()))


if __name__ == "__main__":
    sys.exit(main())
