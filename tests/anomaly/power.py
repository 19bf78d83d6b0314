"""Power cuts: a role is recorded once at work and then cut off at any moment of it.

An entry of the receiver enters, a `Recording` leaves, which yields for each cut what was
acknowledged until then and which promises the disk breaks. Used by the tests and the benchmark.
"""

import itertools
import os
import random
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.intake import Intake
from osteon.pipeline.rebuild import adopt, compare
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.reception import Origin
from tests.anomaly.disk import Cut, Disk
from tests.anomaly.evidence import broken_promises, left_behind
from tests.anomaly.role import PRODUCT, Role, RoleError
from tests.anomaly.sender import SUCCESS, Factory, Instance, Ledger, send_all
from tests.anomaly.trace import Call, data, read_calls, recorder, vectors
from tests.dicom_peer import CT, EXPLICIT, _elements

DATA = "data"
SENDERS = 3
RESTARTED = 20  # After one cut of so many the role itself is started.


@dataclass(frozen=True)
class Verdict:
    """One fault, how many instances were acknowledged until then, and what was broken."""

    fault: str
    acknowledged: int
    broken: list[str]


@dataclass(frozen=True)
class Recording:
    """What a role did, and what its senders sent.

    Attributes
    ----------
    sent : dict of int to list of Instance
        By the port of the sender: its instances in the order in which they were answered.
    """

    folder: Path
    calls: list[Call]
    sent: dict[int, list[Instance]]
    ledger: Ledger

    def model_faults(self) -> list[str]:
        """Compare the replayed disk with the real one: every write must have been seen."""
        disk = Disk(self.folder)
        for call in self.calls:
            disk.apply(call)
        replayed = {k: v for k, v in disk.files().items() if k.startswith(DATA + "/")}
        real = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in (self.folder / DATA).rglob("*")
            if path.is_file()
        }
        return [f"{p} was replayed wrong" for p in sorted(replayed.keys() | real.keys())
                if replayed.get(p) != real.get(p)]  # fmt: skip

    def cuts(self, count: int, seed: int, scratch: Path) -> Iterator[Verdict]:
        """Cut the power so many times, at moments spread over all that was done.

        After each cut the disk is opened as the role does when it starts; after some, by the role.
        """
        chance = random.Random(seed)
        chosen = _spread(self._moments(), count, chance)
        disk, answers, numbers = Disk(self.folder), _Answers(self.sent), itertools.count()
        for at, call in enumerate(self.calls):
            disk.apply(call)
            answers.apply(call)
            if at not in chosen:
                continue
            cut = chance.choices(list(Cut), (4, 5, 1))[0]
            folder = scratch / "cut"
            disk.image(folder, cut, seed=chance.randrange(2**32))
            where = f"cut after call {at} of {len(self.calls)} ({call.name}), {cut} survives"
            broken = _restarted(folder / DATA) if next(numbers) % RESTARTED == 0 else []
            broken += _judge(folder / DATA, answers.acknowledged)
            yield Verdict(where, len(answers.acknowledged), broken)
            shutil.rmtree(folder)

    def forgetful_cuts(self, count: int, seed: int, scratch: Path) -> Iterator[Verdict]:
        """Cut the power so many times, and lose the job table as well: the spool must be enough."""
        chance = random.Random(seed)
        chosen = _spread(self._moments(), count, chance)
        disk, answers = Disk(self.folder), _Answers(self.sent)
        for at, call in enumerate(self.calls):
            disk.apply(call)
            answers.apply(call)
            if at in chosen:
                folder = scratch / "forgetful"
                disk.image(folder, chance.choice(list(Cut)), seed=chance.randrange(2**32))
                lost = answers.acknowledged - _rebuilt(folder / DATA)
                where = f"cut after call {at} of {len(self.calls)}, the table is lost"
                yield Verdict(where, len(answers.acknowledged), [uid for uid, _ in sorted(lost)])
                shutil.rmtree(folder)

    def _moments(self) -> list[int]:
        """Every call that changes the disk or what a peer knows."""
        disk, answers = Disk(self.folder), _Answers(self.sent)
        return [at for at, call in enumerate(self.calls)
                if any((disk.apply(call), answers.apply(call)))]  # fmt: skip


class _Answers:
    """Who was told what, read from what the role sends."""

    def __init__(self, sent: dict[int, list[Instance]]) -> None:
        self._waiting = {port: list(instances) for port, instances in sent.items()}
        self._streams: dict[int, bytes] = {}
        self.acknowledged: set[tuple[str, str]] = set()

    def apply(self, call: Call) -> bool:
        """Take a call and return whether a peer learned something by it."""
        if not call.is_to_peer:
            return False
        peer = int(call.arguments[0].rstrip("]>").rpartition(":")[2])
        stream = self._streams.get(peer, b"")
        stream += (data if call.name == "sendto" else vectors)(call.arguments[1])
        heard = False
        while len(stream) >= 6 and len(stream) >= 6 + int.from_bytes(stream[2:6]):
            pdu, stream = (
                stream[: 6 + int.from_bytes(stream[2:6])],
                stream[6 + int.from_bytes(stream[2:6]) :],
            )
            if pdu[0] == 4 and peer in self._waiting:
                instance = self._waiting[peer].pop(0)
                if _elements(pdu[12:])[0x0900] == struct.pack("<H", SUCCESS):
                    self.acknowledged.add(instance.key)
                heard = True
        self._streams[peer] = stream
        return heard


def record(folder: Path, *, instances: int, entry: Sequence[str] = PRODUCT) -> Recording:
    """Let senders send to a role that starts on an empty disk, and record all it does.

    Parameters
    ----------
    folder : Path
        A new folder; the data directory is made in it by the role itself.
    instances : int
        How many each of `SENDERS` senders sends. One is sent twice, and one UID with other bytes.
    """
    folder.mkdir()
    factory, log = Factory("1.2.826.0.1"), folder / "calls"
    batches = [factory.series(instances) for _ in range(SENDERS)]
    series, number = batches[0][0].uid.rpartition(".")[0], instances
    batches[0] += [batches[0][0], factory.instance(series, number, salt="other")]
    with Role(folder / DATA, entry=entry) as role:
        role.start(recorder(log))
        senders = send_all(role.port, batches)
        role.terminate()
    ledger = Ledger()
    ledger.add(senders)
    sent = {s.local_port: [instance for instance, _ in s.answered] for s in senders}
    return Recording(folder, list(read_calls(log)), sent, ledger)


def _spread(moments: list[int], count: int, chance: random.Random) -> set[int]:
    """So many of them, evenly, and other ones for another seed."""
    count = min(count, len(moments))
    edges = [round(n * len(moments) / count) for n in range(count + 1)]
    return {moments[chance.randrange(a, b)] for a, b in itertools.pairwise(edges)}


def _rebuilt(data_dir: Path) -> set[tuple[str, str]]:
    """Forget the table and rebuild it as ``osteon verify --rebuild`` does; return what it names."""
    data_dir.mkdir(exist_ok=True)
    for file in data_dir.glob("osteon.sqlite*"):
        file.unlink()
    settings = Settings(data_dir=data_dir)
    table = open_table(data_dir)
    try:
        recover_all(settings, table)
        for file in (data_dir / "spool").rglob("*.dcm"):
            os.utime(file, (0, 0))  # None of them is just being received.
        for fault in list(compare(table)) if (data_dir / "spool").is_dir() else ():
            adopt(settings, table, fault.path)
        rows = table.rows("SELECT sop_instance_uid, digest FROM instance")
        return {(row["sop_instance_uid"], row["digest"]) for row in rows}
    finally:
        table.close()


def _restarted(data_dir: Path) -> list[str]:
    """Start the role on the disk, and crash it."""
    try:
        with Role(data_dir) as role:
            role.start()
    except RoleError as error:
        return [f"the role does not start again: {error}"]
    return []


def _judge(data_dir: Path, acknowledged: set[tuple[str, str]]) -> list[str]:
    """Open the disk as the role does when it starts, store one instance more, and look."""
    extra = Factory("1.2.826.0.9").series(1)[0]
    settings = Settings(data_dir=data_dir, pipeline={"disk_reserve_gb": 0.0})
    try:
        table = open_table(data_dir)
        try:
            intake = Intake(settings, table)
            intake.store(
                Origin("AFTER", "OSTEON", "127.0.0.1"),
                sop_class_uid=CT,
                sop_instance_uid=extra.uid,
                transfer_syntax_uid=EXPLICIT,
                dataset=extra.dataset,
            )
            intake.close()
        finally:
            table.close()
    except OsteonError as error:
        return [f"it does not start again: {error}"]
    left = [f"left behind: {path.name}" for path in left_behind(data_dir)]
    return left + broken_promises(data_dir, acknowledged | {extra.key})
