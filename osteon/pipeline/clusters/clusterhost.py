"""What runs in a worker process on another host: it opens parcels and runs their stages.

Parcels of the engine enter, replies leave. `run_worker` starts the process with `StageHost` in it;
the engine submits `open_parcel` to it.
"""

import asyncio
import importlib
import shutil
import socket
from importlib.metadata import version
from pathlib import Path

from distributed import Worker, WorkerPlugin, get_worker

from osteon.errors import StageError
from osteon.pipeline import progress
from osteon.pipeline.clusters.parcel import (
    Parcel,
    Reply,
    needed_by,
    read_outputs,
    rooted_at,
    work_of,
    write_inputs,
)
from osteon.pipeline.workers.request import StageRequest
from osteon.pipeline.workers.worker import now_and_then, run

SLOT = "slot"
# Only workers of the same version get stages: their results would bear the same UIDs.
RELEASE = f"osteon-{version('osteon')}"
PLUGIN = "osteon"
PROGRESS = "osteon-progress"  # The topic of a stage's {out, fraction}.


class StageHost(WorkerPlugin):  # type: ignore[misc] # untyped base
    """Runs stages in a worker process, with its own idea of where files and models are.

    Parameters
    ----------
    model : str
        The model that is loaded before the first stage.
    models_dir : Path, optional
        Folder of model folders on this host.
    shared_data_dir : Path, optional
        Where the node's data directory is mounted here.
    """

    name = PLUGIN

    def __init__(self, model: str, models_dir: Path | None, shared_data_dir: Path | None) -> None:
        self._model = model
        self._models_dir = models_dir
        self._shared = shared_data_dir

    async def setup(self, worker: Worker) -> None:
        """Load stages and model; the worker joins the cluster after it."""
        self._scratch = Path(worker.local_directory) / PLUGIN
        self._work: tuple[str, str] | None = None
        stages = await asyncio.to_thread(importlib.import_module, "osteon.pipeline.workers.stages")
        await asyncio.to_thread(stages.warm, self._model, self._models_dir)

    def open(self, parcel: Parcel) -> Reply:
        """Run the stage of a parcel.

        Raises
        ------
        OsteonError
            The stage failed, or its files are not here.
        """
        if parcel.shared_data_dir is not None:
            request = rooted_at(self._shared or parcel.shared_data_dir, parcel.request)
            for path in _absent(request):
                raise StageError(
                    f"the worker on {socket.gethostname()} does not see {path}: mount the node's"
                    " data_dir there and name it in cluster.shared_data_dir"
                )
            return Reply(run(request))
        request = rooted_at(self._scratch, parcel.request)
        self._lay_out(parcel)
        wanted = tuple(str(path.relative_to(self._scratch)) for path in _absent(request))
        if wanted:
            return Reply(wanted=wanted)
        return Reply(run(request), read_outputs(request.out))

    def _lay_out(self, parcel: Parcel) -> None:
        """Put a parcel's files into the scratch folder, which holds those of one input."""
        work = work_of(parcel.request)
        if work != self._work:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._work = work
        write_inputs(self._scratch, parcel.contents)


def _absent(request: StageRequest) -> list[Path]:
    return [path for path in needed_by(request) if not path.exists()]


def open_parcel(parcel: Parcel) -> Reply:
    """Run a stage in the worker process that this is called in; the engine submits it."""
    worker = get_worker()
    host: StageHost = worker.plugins[PLUGIN]
    out = str(parcel.request.out)

    def tell(fraction: float) -> None:
        """Tell the node how far the stage is."""
        worker.log_event(PROGRESS, {"out": out, "fraction": fraction})

    with progress.heard_by(now_and_then(tell)):
        return host.open(parcel)
