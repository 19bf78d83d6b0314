"""What the disk alone allows: instances made durable by a bare loop, without network or protocol.

A folder and a number of threads enter, a rate leaves; ``receive.py`` measures it in each round. An
instance is written into a file whose name is on the disk already, hashed and synced; then so much
as its row takes is appended to a log, which is synced now and then. A receiver that does more per
instance, or waits for its sender, cannot be as fast.
"""

import os
import threading
import time
from pathlib import Path

from blake3 import blake3
from datasets import CT

from osteon.pipeline.instances.commit import GroupCommit
from osteon.pipeline.instances.drafts import DraftPool, sync_folder

ROW_BYTES = 16 * 1024  # Pages of SQLite's log that one row takes.
CHUNK_BYTES = 128 * 1024


def measure(folder: Path, threads: int, seconds: float) -> float:
    """Return instances a second."""
    folder.mkdir()
    sync_folder(folder.parent)
    dataset = memoryview(os.urandom(2 * CT.rows * CT.rows))
    log = os.open(folder.with_name(f"{folder.name}.log"), os.O_WRONLY | os.O_CREAT)
    pool, done = DraftPool(folder, lambda: os.fdatasync(log)), [0] * threads

    def commit(batch: object) -> object:
        os.write(log, bytes(ROW_BYTES))
        return batch

    commits = GroupCommit(commit)  # type: ignore[arg-type,var-annotated] # items are results

    def work(number: int) -> None:
        while time.perf_counter() - started < seconds:
            draft = pool.take()
            for at in range(0, len(dataset), CHUNK_BYTES):
                draft.write(dataset[at : at + CHUNK_BYTES])
            blake3(dataset).digest()
            draft.sync()
            commits.run(number)
            done[number] += 1

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took_s = time.perf_counter() - started
    os.close(log)
    pool.close()
    return sum(done) / took_s
