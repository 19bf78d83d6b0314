"""``osteon run``: the stages of the node on a folder, without node and network."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from osteon.cli.folder import Series, check_all_read, read_folder
from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import (
    printable,
    progress,
    write_json,
    write_skipped,
    writing_to,
)
from osteon.cli.segments import write_segments
from osteon.errors import OsteonError, VolumeError
from osteon.pipeline.job import WORKER_STAGES, Stage
from osteon.pipeline.workers.request import StageRequest
from osteon.pipeline.workers.worker import run

RESULTS = ("seg.dcm", "preview.png")
SUMMARY = "summary.json"


@click.command(name="run", epilog=example("osteon run ct/ -o result/"))
@config_option
@json_option
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results.",
)
@click.option("--model", metavar="NAME", help="Model; that of the configuration where absent.")
def command(folder: Path, out: Path, model: str | None, as_json: bool) -> None:
    """Segment the bones of the CT series in a folder, without node.

    It writes seg.dcm, preview.png and summary.json.
    """
    settings = settings_in_force()
    name = model or settings.pipeline.model
    with progress("reading") as bar:
        found, skipped = read_folder(folder, bar.show)
    summary, errors = _segment_all(found, out, name, settings.pipeline.models_dir)
    files = [{"path": str(one.path), "reason": one.why} for one in skipped]
    answer = {"model": name, "series": summary, "skipped_files": files}
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / SUMMARY).write_text(
            json.dumps(answer, indent=2, ensure_ascii=False), encoding="utf-8"
        )
    if as_json:
        write_json(answer)
    else:
        _write(answer)
    if errors:
        raise errors[0]
    if not any(series["status"] == "done" for series in summary):
        raise VolumeError(f"{folder}: no CT series there")
    check_all_read(skipped)


def _segment_all(
    found: Sequence[Series], out: Path, model: str, models_dir: Path | None
) -> tuple[list[dict[str, Any]], list[OsteonError]]:
    """Segment each CT series; several get a folder each, and a failed one stops no other."""
    wanted = [series for series in found if _why_not(series) is None]
    summary: list[dict[str, Any]] = []
    errors: list[OsteonError] = []
    for series in found:
        why = _why_not(series)
        if why is not None:
            summary.append(_entry(series, "skipped", why))
            continue
        place = out if len(wanted) == 1 else out / f"series-{wanted.index(series) + 1}"
        try:
            made = _segment(series, place, model, models_dir)
        except OsteonError as error:
            errors.append(error)
            summary.append(_entry(series, "failed", error.message))
        else:
            summary.append(_entry(series, "done", "") | made)
    return summary, errors


def _why_not(series: Series) -> str | None:
    """Return why a series is no CT volume at first sight, or None."""
    if series.first.modality != "CT":
        return f"Modality is {series.first.modality or 'absent'}, not CT"
    if "LOCALIZER" in series.first.values.get("ImageType", ()):
        return "a localizer"
    return None


def _segment(series: Series, place: Path, model: str, models_dir: Path | None) -> dict[str, Any]:
    """Run every stage as a worker does and keep the results."""
    started, content_at = time.monotonic(), time.time()
    outputs: dict[Stage, Path] = {}
    with (
        writing_to(place),
        _work_folder(place) as work,
        progress(str(series), len(WORKER_STAGES)) as bar,
    ):
        for done, stage in enumerate(WORKER_STAGES):
            bar.show(done, what=f"{stage} of {printable(series)}")
            request = StageRequest(
                job_id=0,
                stage=stage,
                attempt=1,
                out=work / stage,
                inputs=series.paths,
                outputs=outputs.copy(),
                model=model,
                models_dir=models_dir,
                input_sha256=series.input_sha256,
                content_at=content_at,
            )
            report = run(request)
            outputs[stage] = request.out
        for name in RESULTS:
            (outputs[Stage.ENCODE] / name).replace(place / name)
    return {
        "seg": str(place / RESULTS[0]),
        "preview": str(place / RESULTS[1]),
        "sop_instance_uid": report.facts["sop_instance_uid"],
        "segments": report.facts["segments"],
        "seconds": round(time.monotonic() - started, 3),
    }


def _entry(series: Series, status: str, reason: str) -> dict[str, Any]:
    return {
        "series_instance_uid": series.series_instance_uid,
        "modality": series.first.modality,
        "instances": len(series.instances),
        "status": status,
        "reason": reason,
    }


@contextmanager
def _work_folder(place: Path) -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix=".work-") as work:
        yield Path(work)


def _write(answer: dict[str, Any]) -> None:
    for series in answer["series"]:
        uid, reason = series["series_instance_uid"], series["reason"]
        click.echo(printable(f"{series['status']}: {uid}" + (f": {reason}" if reason else "")))
        if series["status"] != "done":
            continue
        write_segments(series["segments"])
        click.echo(f"SEG      {series['seg']}\npreview  {series['preview']}")
        click.echo(f"took     {series['seconds']:.1f} s")
    write_skipped([(Path(file["path"]), file["reason"]) for file in answer["skipped_files"]])
