"""``osteon models``: what can be run, what it says of itself, and whether it loads."""

import time
from typing import TYPE_CHECKING

import click
import numpy as np

from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import write_json, write_table
from osteon.errors import ModelError

if TYPE_CHECKING:
    from osteon.pipeline.modelspec import InputSpec, ModelSpec

PROBE_SHAPE = (8, 64, 64)  # slices, rows, columns of air that `verify` runs a model on


@click.group(name="models", epilog=example("osteon models list"))
def command() -> None:
    """List, show and verify models."""


@command.command(name="list", epilog=example("osteon models list --json"))
@config_option
@json_option
def list_models(as_json: bool) -> None:
    """List the models that can be run.

    Those built in come first, then those of pipeline.models_dir.
    """
    specs = _specs()
    if as_json:
        write_json([spec.model_dump(mode="json") for spec in specs])
        return
    rows = [
        (spec.name, spec.version, spec.kind, spec.input.dimension, len(spec.output.segments) or "")
        for spec in specs
    ]
    write_table(("name", "version", "kind", "input", "segments"), rows)


@command.command(epilog=example("osteon models show builtin:bone"))
@config_option
@json_option
@click.argument("name")
def show(name: str, as_json: bool) -> None:
    """Show what a model takes and which segments it gives."""
    spec = next((spec for spec in _specs() if spec.name == name), None)
    if spec is None:
        raise ModelError(f"no model {name!r}: see `osteon models list`")
    if as_json:
        write_json(spec.model_dump(mode="json"))
        return
    for key, value in (
        ("name", spec.name),
        ("version", spec.version),
        ("kind", spec.kind),
        ("weights", spec.weights or "none"),
        ("sha256", spec.sha256 or "none"),
        ("input", f"{spec.input.dimension}, {_scaling_of(spec.input)}"),
        ("spacing", spec.input.spacing_mm or "as it comes"),
        ("patch", spec.input.patch),
    ):
        click.echo(f"{key:<10}{value}")
    if spec.output.segments:
        rows = [
            (s.value, s.label, f"{s.type.meaning} ({s.type.scheme} {s.type.value})", s.laterality)
            for s in spec.output.segments
        ]
        write_table(("value", "segment", "type", "laterality"), rows)
    else:
        click.echo("segments  connected components, named by size")


@command.command(epilog=example("osteon models verify builtin:bone"))
@config_option
@json_option
@click.argument("name")
def verify(name: str, as_json: bool) -> None:
    """Load a model, check its digest, and run it on a small volume."""
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.model import load_model  # noqa: PLC0415 - see above
    from osteon.pipeline.prediction import predict_slices  # noqa: PLC0415 - see above

    started = time.monotonic()
    model = load_model(name, settings_in_force().pipeline.models_dir)
    predict_slices(model, np.full(PROBE_SHAPE, -1000, np.int16), np.eye(4))
    seconds = time.monotonic() - started
    if as_json:
        write_json({"name": model.name, "version": model.version, "digest": model.digest})
    else:
        click.echo(f"{model.name} {model.version} loads and runs ({seconds:.1f} s)")
        click.echo(f"digest {model.digest}")


def _scaling_of(input_spec: "InputSpec") -> str:
    if input_spec.zscore is not None:
        scaled = input_spec.zscore
        clip = "{:g} to {:g}".format(*scaled.clip_hu)
        return f"{clip} HU, less {scaled.mean_hu:g}, divided by {scaled.std_hu:g}"
    assert input_spec.hu_window is not None
    return "{:g} to {:g} HU".format(*input_spec.hu_window)


def _specs() -> list["ModelSpec"]:
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.model import list_models  # noqa: PLC0415 - see above

    return list_models(settings_in_force().pipeline.models_dir)
