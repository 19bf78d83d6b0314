"""``osteon demo``: one CT series on its way through a real node, to a stand-in PACS and back.

A phantom or a folder of CT images enters; the timeline, the bones and the paths of the results
leave, and exit code 0 only where the Segmentation came back and refers to what was sent.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage
from rich.console import Console
from rich.text import Text

from osteon.cli.folder import Series, read_folder
from osteon.cli.options import FiniteRange, config_option, example, job_table, number_option
from osteon.cli.output import printable, progress, write_table, writing_to
from osteon.cli.sandbox import POLL_S, Sandbox
from osteon.cli.send import send_all
from osteon.cli.timeline import rows_of, timeline
from osteon.errors import DeliveryError, NotFoundError, OsteonError
from osteon.pipeline.job import Status
from osteon.pipeline.table import views
from osteon.results.pacs import StandInPacs
from osteon.results.peer import Destination

LINE_MAX = 76
PACS_AE_TITLE = "DEMO-PACS"
_ENDED_WITHOUT = (Status.FAILED, Status.REJECTED)

Story = dict[str, Any]


@click.command(name="demo", epilog=example("osteon demo", "osteon demo --ct ct/ --out demo/"))
@config_option
@click.option("--ct", type=click.Path(exists=True, path_type=Path), help="Send this CT instead.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Keep all files here."
)
@number_option("--slices", 8, 2000, 60, "Slices of the phantom.")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(10),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up after this long.",
)
def command(ct: Path | None, out: Path | None, slices: int, timeout_s: float) -> None:
    """Send a CT through a node of its own to a stand-in PACS.

    The bones must come back as a Segmentation that refers to what was sent.
    """
    out = (out or Path(tempfile.mkdtemp(prefix="osteon-demo-"))).absolute()
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / "node").exists():
            raise OsteonError(f"{out} holds an earlier demo: name another folder with --out")
        series = _ct_series(ct or _phantom(out, slices))
    click.echo(f"CT       {printable(series)}")
    with StandInPacs(out / "pacs", ae_title=PACS_AE_TITLE) as pacs:
        story = _through_the_node(out, pacs, series, timeout_s)
        result = _check(pacs, series)
    _write(story, result, out / "node")


def _phantom(out: Path, slices: int) -> Path:
    # SciPy and SimpleITK stand behind it, which --help need not wait for.
    from osteon.pipeline.phantoms.phantom import write_phantom  # noqa: PLC0415 - see above

    return write_phantom(out / "ct", slices=slices).dicom


def _ct_series(folder: Path) -> Series:
    """Return the largest CT series of a folder."""
    with progress("reading") as bar:
        found, _ = read_folder(folder, bar.show)
    ct = [series for series in found if series.first.modality == "CT"]
    if not ct:
        raise NotFoundError(f"{folder}: no CT series there")
    return max(ct, key=lambda series: len(series.instances))


def _through_the_node(out: Path, pacs: StandInPacs, series: Series, timeout_s: float) -> Story:
    """Send the series to a node of its own and return its story once its result is delivered."""
    destination = Destination(pacs.ae_title, "127.0.0.1", pacs.port)
    with Console(stderr=True).status("the node starts"):
        sandbox = Sandbox(out, destination)
        sandbox.start()
    try:
        click.echo(f"node     {sandbox.peer}, its log in {sandbox.log}")
        with progress("sending", len(series.paths)) as bar:
            sent = send_all(sandbox.peer, series.paths, bar)
        if sent.failed:
            raise DeliveryError(f"{len(sent.failed)} slices were not taken: {sent.failed[0][1]}")
        return _await_delivery(sandbox, series, timeout_s)
    finally:
        sandbox.stop()


def _await_delivery(sandbox: Sandbox, series: Series, timeout_s: float) -> Story:
    """Tell what happens as it happens, until the result is delivered."""
    deadline = time.monotonic() + timeout_s
    console = Console(stderr=True)
    told = 0
    with (
        job_table(sandbox.settings) as table,
        console.status("waits for the first slice") as status,
    ):
        while time.monotonic() < deadline:
            sandbox.check()
            story = views.trace(table, series.series_instance_uid)[-1]
            for event in story["events"][told:]:
                line = f"  {event['who']:<11}{event['why']}"
                console.print(Text(printable(line)), soft_wrap=True)
            told = len(story["events"])
            job = story["jobs"][0] if story["jobs"] else None
            if job is not None and job["status"] == Status.DONE:
                return story
            if job is not None and job["status"] in _ENDED_WITHOUT:
                raise OsteonError(f"the node made no result of it: {job['reason']}")
            now = f"waits for {story['waits_for']}" if job is None else job["reason"]
            status.update(Text(printable(now)[:LINE_MAX]))
            time.sleep(POLL_S)
    raise OsteonError(f"no result within {timeout_s:g} s: see {sandbox.log}")


def _check(pacs: StandInPacs, series: Series) -> Path:
    """Return the Segmentation that the PACS received, if it reads and refers to the series."""
    for path in pacs.received:
        try:
            ds = pydicom.dcmread(path)
        except (InvalidDicomError, OSError) as error:
            raise OsteonError(f"the PACS cannot read what it received: {error}") from error
        if ds.SOPClassUID != SegmentationStorage:
            continue
        referenced = [item.SeriesInstanceUID for item in ds.ReferencedSeriesSequence]
        if referenced != [series.series_instance_uid]:
            raise OsteonError(f"the Segmentation refers to {referenced}, not to what was sent")
        bits = ds.Rows * ds.Columns * ds.NumberOfFrames
        if len(ds.PixelData) < bits / 8 or not any(ds.PixelData):
            raise OsteonError("the Segmentation came back without its voxels")
        return path
    raise OsteonError("delivered, says the node, but the PACS has no Segmentation")


def _write(story: Story, seg: Path, data_dir: Path) -> None:
    job = story["jobs"][0]
    click.echo()
    write_table(("station", "at", "s", "step s"), rows_of(timeline(story)))
    click.echo()
    write_table(("bone", "ml"), _volumes(job["segments"]))
    preview = next(result for result in job["results"] if result["kind"] == "preview")
    click.echo(f"\nSEG      {seg}\npreview  {data_dir / preview['path']}")


def _volumes(segments: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(segment["label"], f"{segment['volume_ml']:.1f}") for segment in segments]
