"""``osteon phantom``: a CT series without a patient, whose bones are known."""

from pathlib import Path

import click

from osteon.cli.options import config_option, example, json_option, number_option
from osteon.cli.output import write_json, writing_to


@click.command(name="phantom", epilog=example("osteon phantom ct/ --slices 120"))
@config_option
@json_option
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@number_option("--seed", 0, 2**31 - 1, 0, "Which patient.")
@number_option("--slices", 4, 2000, 60, "How many slices.")
@number_option("--rows", 64, 1024, 256, "Rows of a slice.")
@number_option("--columns", 64, 1024, 256, "Columns of a slice.")
def command(out: Path, seed: int, slices: int, rows: int, columns: int, as_json: bool) -> None:
    """Write a digital CT phantom and the label map of its bones.

    The same options give the same bytes.
    """
    # SciPy and SimpleITK stand behind it, which the other commands need not wait for.
    from osteon.pipeline.phantoms.phantom import write_phantom  # noqa: PLC0415 - see above

    with writing_to(out):
        phantom = write_phantom(out, seed=seed, slices=slices, rows=rows, columns=columns)
    if as_json:
        write_json(
            {
                "dicom": str(phantom.dicom),
                "labels": str(phantom.labels),
                "names": str(phantom.names),
                "series_instance_uid": phantom.series_instance_uid,
                "instances": len(phantom.paths),
            }
        )
    else:
        click.echo(f"{len(phantom.paths)} CT images in {phantom.dicom}")
        click.echo(f"label map of the bones in {phantom.labels}, their names in {phantom.names}")
