"""The stages that workers run: prediction, boneseg, encode; each reads what the last one wrote.

A `StageRequest` enters, files in its output folder and a `StageReport` leave. Called by the worker
process, and by ``osteon run`` without any node. Models and the last volume stay in memory.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from osteon.errors import StageError, VolumeError
from osteon.pipeline.boneseg import combine
from osteon.pipeline.images.upright import stood_up
from osteon.pipeline.instances.spool import write_durably
from osteon.pipeline.job import Stage
from osteon.pipeline.prediction import predict
from osteon.pipeline.progress import part
from osteon.pipeline.volume import Volume
from osteon.pipeline.workers.devices import VISIBLE
from osteon.pipeline.workers.request import SliceRequest, StageReport, StageRequest
from osteon.pipeline.workers.warm import Warm
from osteon.results.gate import check_result
from osteon.results.preview import write_preview
from osteon.results.seg import Algorithm, encode_segmentation, write_part10
from osteon.results.segment import Code, Segment
from osteon.results.source import read_frame_headers
from osteon.results.summary import summary_of
from osteon.results.uids import derive_uid

PREDICTION, LABELS, SEGMENTS = "prediction.raw", "labels.raw", "segments.json"
SEG, PREVIEW = "seg.dcm", "preview.png"
_READING = 0.2  # The share of prediction's progress that the reading of the volume has.

log = structlog.get_logger(__name__)
_warm = Warm()


def warm(model: str, models_dir: Path | None) -> None:
    """Load a model before the first job; one that does not load fails its jobs, not the worker."""
    try:
        _warm.model(model, models_dir)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first job meets and tells it
        log.warning("model not loaded", model=model, why=str(error))


def hold_slices(request: SliceRequest) -> StageReport:
    """Read and predict slices of a series that is still arriving; the worker keeps them."""
    began, started = time.time(), time.perf_counter()
    count = _warm.hold(request)
    why = f"read {count} instances early"
    return StageReport(why, time.perf_counter() - started, began=began)


def read_ahead(request: StageRequest) -> None:
    """Read the volume of the job that is likely to come next, beside what is computed."""
    _warm.read_ahead(request)


def run_stage(request: StageRequest) -> StageReport:
    """Run one stage of one job.

    Returns
    -------
    StageReport
        Its facts are, for encode: ``sop_instance_uid``, ``sop_class_uid``,
        ``series_instance_uid``, ``segments`` and ``files`` (name → size, sha256).

    Raises
    ------
    VolumeError
        The input cannot be processed.
    StageError, ModelError, EncodingError
        The stage failed; ``retryable`` says whether another attempt may succeed.
    """
    began, started = time.time(), time.perf_counter()
    request.out.mkdir(parents=True, exist_ok=True)
    why, facts = _STAGES[request.stage](request)
    return StageReport(why, time.perf_counter() - started, facts, began, _name())


def _name() -> str:
    """Return what this worker is called in the log: host, process, and the GPU that it has."""
    gpu = os.environ.get(VISIBLE)
    return f"{socket.gethostname()}:{os.getpid()}" + (f" GPU {gpu}" if gpu else "")


def _predict(request: StageRequest) -> tuple[str, dict[str, Any]]:
    model = _warm.model(request.model, request.models_dir)
    with part(0.0, _READING):
        volume = _warm.volume(request)
    known = _warm.evidence(request, model, volume)
    started = time.perf_counter()
    with part(_READING, 1.0):
        prediction_zyx = predict(model, volume, known)
    _warm.keep(request, model, volume, prediction_zyx, known, time.perf_counter() - started)
    _save_array(request.out / PREDICTION, prediction_zyx)
    of = f"{len(volume.frames) - len(known)} of " if known else ""
    return f"{model.name} predicted {of}{len(volume.frames)} slices", {}


def _boneseg(request: StageRequest) -> tuple[str, dict[str, Any]]:
    model = _warm.model(request.model, request.models_dir)
    volume = _warm.volume(request)
    prediction_zyx = _load_array(request.outputs[Stage.PREDICTION] / PREDICTION)
    labels_zyx, segments = combine(model, prediction_zyx, volume)
    if not segments:
        raise VolumeError(f"{model.name} found nothing in {len(volume.frames)} slices")
    _save_array(request.out / LABELS, labels_zyx)
    _save_json(request.out / SEGMENTS, [asdict(segment) for segment in segments])
    return f"combined into {_count(segments)}", {}


def _encode(request: StageRequest) -> tuple[str, dict[str, Any]]:
    model = _warm.model(request.model, request.models_dir)
    volume = _warm.volume(request)
    made = request.outputs[Stage.BONESEG]
    labels_zyx = _load_array(made / LABELS)
    segments = _load_segments(made / SEGMENTS)
    identity = (request.input_sha256, model.digest)
    headers = read_frame_headers(volume.frames)
    ds = encode_segmentation(
        volume.frames,
        labels_zyx,
        segments,
        algorithm=Algorithm(model.name, model.version, model.digest),
        sop_instance_uid=derive_uid("seg-instance", *identity),
        series_instance_uid=derive_uid("seg-series", *identity),
        content_at=datetime.fromtimestamp(int(request.content_at), UTC),
        headers=headers,
    )
    # The picture is NumPy's work, which leaves Python to the Segmentation.
    with ThreadPoolExecutor(1, "preview") as beside:
        picture = beside.submit(_draw, volume, labels_zyx, segments, request.out / PREVIEW)
        write_part10(ds, request.out / SEG)
        check_result(request.out / SEG, volume.frames, labels_zyx, headers=headers)
        picture.result()
    facts = {
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "sop_class_uid": str(ds.SOPClassUID),
        "series_instance_uid": str(ds.SeriesInstanceUID),
        "segments": summary_of(segments, labels_zyx, volume.geometry.affine),
        "files": {name: _facts_of(request.out / name) for name in (SEG, PREVIEW)},
    }
    _warm.drop(request)
    return f"encoded and checked a Segmentation of {_count(segments)}", facts


def _draw(
    volume: Volume, labels_zyx: NDArray[Any], segments: Sequence[Segment], path: Path
) -> None:
    shown, shown_zyx = stood_up(volume, labels_zyx)
    spacing_mm, affine = shown.geometry.spacing_zyx_mm, shown.geometry.affine
    write_preview(shown.hu_zyx, shown_zyx, spacing_mm, segments, path, affine=affine)


_STAGES: dict[Stage, Callable[[StageRequest], tuple[str, dict[str, Any]]]] = {
    Stage.PREDICTION: _predict,
    Stage.BONESEG: _boneseg,
    Stage.ENCODE: _encode,
}


def _count(segments: Sequence[Segment]) -> str:
    return "1 segment" if len(segments) == 1 else f"{len(segments)} segments"


def _save_array(path: Path, array_zyx: NDArray[Any]) -> None:
    array_zyx = np.ascontiguousarray(array_zyx)
    header = {"dtype": array_zyx.dtype.str, "shape": array_zyx.shape}
    line = json.dumps(header).encode() + b"\n"
    write_durably(path, (line, array_zyx.reshape(-1).view(np.uint8).data), by_way_of=path.parent)


def _load_array(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            return np.fromfile(file, dtype=header["dtype"]).reshape(header["shape"])
    except (OSError, ValueError) as error:
        raise StageError(f"the last stage's output {path} cannot be read: {error}") from error


def _save_json(path: Path, value: Any) -> None:
    write_durably(path, (json.dumps(value).encode(),), by_way_of=path.parent)


def _load_segments(path: Path) -> list[Segment]:
    def code(value: dict[str, str] | None) -> Code | None:
        """Return a code as it was before it was saved."""
        return None if value is None else Code(**value)

    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StageError(f"the last stage's output {path} cannot be read: {error}") from error
    return [
        Segment(
            **row
            | {
                "category": code(row["category"]),
                "type": code(row["type"]),
                "modifier": code(row["modifier"]),
                "rgb": tuple(row["rgb"]),
            }
        )
        for row in rows
    ]


def _facts_of(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
