"""What ``osteon models verify --tune`` measures, decides and writes.

A model folder and the network that ``verify`` has run enter; a table or facts leave, and with
``--write`` two lines of its ``model.toml``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from osteon.cli.options import settings_in_force
from osteon.cli.output import write_table
from osteon.errors import ModelError

if TYPE_CHECKING:
    from osteon.pipeline.models.model import Model
    from osteon.pipeline.models.tuning import Listening, Measured, Tuned

FIXED = {
    "builtin": "is no network",
    "onnx": "is of the kind onnx, whose file itself says in which precision it runs",
}


def folder_of(name: str) -> Path:
    """Return the folder of a model that can be tuned.

    Raises
    ------
    ModelError
        There is no such model, or nothing in a ``model.toml`` makes it faster.
    """
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.model import load_model, spec_of  # noqa: PLC0415 - see above

    models_dir = settings_in_force().pipeline.models_dir
    spec = spec_of(name, models_dir)
    if spec is None:
        load_model(name, models_dir)  # If there is none it says so, and which there are.
    why = "comes from a package" if spec is None else FIXED.get(spec.kind)
    if why is not None or models_dir is None:
        raise ModelError(f"{name} {why}: there is nothing to tune")
    return models_dir / name


def listen(model: "Model") -> "Listening":
    """Let the network of a model keep the patches that it is shown from now on."""
    from osteon.pipeline.models.networkmodel import NetworkModel  # noqa: PLC0415 - brings torch
    from osteon.pipeline.models.tuning import Listening  # noqa: PLC0415 - brings torch

    assert isinstance(model, NetworkModel)  # It is one of a folder.
    model.network = listening = Listening(model.network)
    return listening


def tune_folder(folder: Path, listening: "Listening", batch: int, limit_s: float) -> "Tuned":
    """Measure the network of a folder on the patches that it was shown.

    Parameters
    ----------
    folder : Path
        The model folder.
    listening : Listening
        The network that was run, and what it was shown.
    batch : int
        Patches at once.
    limit_s : float
        Time for all of it.
    """
    from osteon.pipeline.models.model import load_network  # noqa: PLC0415 - brings torch
    from osteon.pipeline.models.modelspec import read_spec  # noqa: PLC0415 - brings torch
    from osteon.pipeline.models.tuning import tune  # noqa: PLC0415 - brings torch

    spec = read_spec(folder)
    return tune(
        lambda run: load_network(spec.model_copy(update={"run": run}), folder),
        spec.run,
        listening.patches,
        device=listening.device,
        batch=batch,
        limit_s=limit_s,
    )


def facts_of(tuned: "Tuned", written: bool) -> dict[str, Any]:
    """Return what was measured, for a program."""
    return {
        "batch": tuned.batch,
        "measured": [
            {
                "precision": row.precision,
                "channels_last": row.channels_last,
                "patch_ms": None if row.patch_ms is None else round(row.patch_ms, 3),
                "differ": row.differ,
                "why_not": row.why_not,
            }
            for row in tuned.rows
        ],
        "run": _values_of(tuned.best),
        "gain": None if tuned.gain is None else round(tuned.gain, 2),
        "written": written,
    }


def write_if_better(tuned: "Tuned", folder: Path) -> bool:
    """Put the best way into the ``model.toml``, unless it stands there; return whether it did."""
    from osteon.pipeline.models.runsection import write_run  # noqa: PLC0415 - brings torch

    if tuned.best.way == tuned.now.way:
        return False
    write_run(folder, _values_of(tuned.best))
    return True


def show_tuned(tuned: "Tuned", folder: Path, written: bool) -> None:
    """Print what was measured as a table, and the lines for the ``model.toml``."""
    from osteon.pipeline.models.runsection import run_lines  # noqa: PLC0415 - brings torch

    click.echo()
    columns = ("precision", "channels last", "ms a patch", "labels differ", "")
    write_table(columns, [_row_of(row, tuned) for row in tuned.rows])
    path = folder / "model.toml"
    if tuned.best.way == tuned.now.way:
        click.echo(f"\n{path} says the best of them already")
        return
    gain = "" if tuned.gain is None else f", {tuned.gain:.2f} times as fast as now"
    click.echo(f"\n{'written to' if written else 'for'} the section [run] of {path}{gain}:")
    for line in run_lines(_values_of(tuned.best)):
        click.echo(f"    {line}")
    click.echo(
        "The weights are the same, the model's digest is another: results get new UIDs. "
        f"{'Restart the node.' if written else '--write puts them there.'}"
    )


def _values_of(row: "Measured") -> dict[str, str | bool]:
    return {"precision": row.precision, "channels_last": row.channels_last}


def _row_of(row: "Measured", tuned: "Tuned") -> tuple[str, ...]:
    marks = [row.why_not] if row.why_not else []
    marks += ["best"] if row.way == tuned.best.way else []
    marks += ["in use"] if row.way == tuned.now.way else []
    return (
        row.precision,
        "yes" if row.channels_last else "no",
        "" if row.patch_ms is None else f"{row.patch_ms:.1f}",
        "" if row.differ is None else f"{100 * row.differ:.3f} %",
        ", ".join(marks),
    )
