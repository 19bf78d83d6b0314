"""``osteon models``: what can be run, what it says of itself, and whether it loads."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from osteon.cli.options import FiniteRange, config_option, example, json_option, settings_in_force
from osteon.cli.output import write_json, write_table
from osteon.cli.tune import facts_of, folder_of, listen, show_tuned, tune_folder, write_if_better
from osteon.errors import ConfigError, StageError

if TYPE_CHECKING:
    from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, SegmentSpec

KINDS = ("torchscript", "torch-export", "monai-bundle", "onnx", "nnunet")
PROBE_SHAPE = (24, 96, 96)  # slices, rows, columns of the phantom that `verify` runs a model on
PROBE_SPACING_MM = (5.0, 4.0, 4.0)
VALUES_SHOWN = 32


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them; whole ones where `kind` is int."""

    name = "N,N[,N]"

    def __init__(self, kind: type[int] | type[float] = float) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers of an option; what is none is a wrong use of the command."""
        try:
            numbers = tuple(self._kind(number) for number in str(value).split(","))
        except ValueError:
            whole = "whole " if self._kind is int else ""
            said = f"{value!r} is no list of {whole}numbers such as 64,96,96"
            return self.fail(said, param, ctx)
        if not all(map(math.isfinite, numbers)):
            return self.fail(f"{value!r} has a number without end", param, ctx)
        return numbers


@click.group(name="models", epilog=example("osteon models list"))
def command() -> None:
    """Make, list, show and verify models."""


@command.command(name="list", epilog=example("osteon models list --json"))
@config_option
@json_option
def list_all(as_json: bool) -> None:
    """List the models that can be run.

    Those built in come first, then those of pipeline.models_dir, then those of packages.
    """
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.model import list_models  # noqa: PLC0415 - see above
    from osteon.pipeline.models.packaged import installed_models  # noqa: PLC0415 - see above

    specs, faults = list_models(settings_in_force().pipeline.models_dir)
    installed = installed_models()
    if as_json:
        entries = [{"name": n, "version": v, "kind": "entry-point"} for n, v in installed]
        write_json([*(spec.model_dump(mode="json") for spec in specs), *entries])
    else:
        _write_list(specs, installed)
    for fault in faults[1:]:
        click.echo(f"osteon: {fault.message}", err=True)
    if faults:
        raise faults[0]


def _write_list(specs: Sequence["ModelSpec"], installed: Sequence[tuple[str, str]]) -> None:
    rows: list[tuple[object, ...]] = [
        (spec.name, spec.version, spec.kind, spec.input.dimension, len(spec.output.segments) or "")
        for spec in specs
    ]
    rows += [(name, version, "entry-point", "", "") for name, version in installed]
    write_table(("name", "version", "kind", "input", "segments"), rows)


@command.command(epilog=example("osteon models show builtin:bone"))
@config_option
@json_option
@click.argument("name")
def show(name: str, as_json: bool) -> None:
    """Show what a model takes and which segments it gives.

    One that a package brings is made for it, as a worker does.
    """
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.model import spec_of  # noqa: PLC0415 - see above

    spec = spec_of(name, settings_in_force().pipeline.models_dir)
    if spec is None:
        _show_packaged(name, as_json)
    elif as_json:
        write_json(spec.model_dump(mode="json"))
    else:
        _write_spec(spec)


def _write_spec(spec: "ModelSpec") -> None:
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
    _write_segments(spec.output.segments)


def _show_packaged(name: str, as_json: bool) -> None:
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.model import load_model  # noqa: PLC0415 - see above
    from osteon.pipeline.models.packaged import package_of  # noqa: PLC0415 - see above

    model = load_model(name, settings_in_force().pipeline.models_dir)
    facts = {
        "name": name,
        "version": model.version,
        "kind": "entry-point",
        "package": package_of(name),
        "digest": model.digest,
        "input": model.dimension,
    }
    if as_json:
        segments = [segment.model_dump(mode="json") for segment in model.segments]
        write_json(facts | {"segments": segments})
        return
    for key, value in facts.items():
        click.echo(f"{key:<10}{value}")
    _write_segments(model.segments)


def _write_segments(segments: Sequence["SegmentSpec"]) -> None:
    if segments:
        rows = [
            (s.value, s.label, f"{s.type.meaning} ({s.type.scheme} {s.type.value})", s.laterality)
            for s in segments
        ]
        write_table(("value", "segment", "type", "laterality"), rows)
    else:
        click.echo("segments  connected components, named by size")


@command.command(
    epilog=example(
        "osteon models init femur --kind torchscript --weights network.ts --patch 64,96,96"
    )
)
@config_option
@json_option
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the weights are.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    required=True,
    help="File or folder; it is copied.",
)
@click.option("--into", type=click.Path(path_type=Path), help="Folder of model folders.")
@click.option("--dimension", type=click.Choice(["2d", "2.5d", "3d"]), help="How it is run.")
@click.option("--patch", type=_Numbers(int), help="Slices, rows, columns; rows, columns in 2d.")
@click.option("--spacing", type=_Numbers(), help="Of the network's grid in mm, as --patch.")
@click.option("--orientation", help="Patient directions of column, row, slice, such as LPS.")
@click.option("--window", type=_Numbers(), help="HU that become 0 and 1, such as -200,800.")
@click.option(
    "--segment", "segments", multiple=True, metavar="VALUE=NAME", help="A class and its name."
)
def init(
    name: str,
    kind: str,
    weights: Path,
    into: Path | None,
    segments: tuple[str, ...],
    as_json: bool,
    **said: Any,
) -> None:
    """Make a model folder from weights.

    What the weights say of themselves is taken from them, all else from the options; the rest is
    left to be looked through in the model.toml.
    """
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.modeldraft import draft_of, make_folder  # noqa: PLC0415 - see above

    into = into or settings_in_force().pipeline.models_dir
    if into is None:
        raise ConfigError("no folder of models: set pipeline.models_dir or give --into")
    changes: dict[str, Any] = {
        "dimension": said["dimension"],
        "patch": said["patch"],
        "spacing_mm": said["spacing"],
        "orientation": said["orientation"],
        "hu_window": said["window"],
        "names": _names_of(segments) or None,
    }
    if said["dimension"] == "2.5d":
        changes["neighbours"] = 1
    given = {key: value for key, value in changes.items() if value is not None}
    folder = make_folder(into, name, kind, weights, replace(draft_of(kind, weights), **given))
    if as_json:
        write_json({"folder": str(folder), "model": name})
        return
    click.echo(f"{folder / 'model.toml'} describes it: look it through")
    click.echo(f"then: osteon models verify {name}")
    click.echo(f"and, on the machine that will run it: osteon models verify {name} --tune")


@command.command(epilog=example("osteon models verify builtin:bone"))
@config_option
@json_option
@click.argument("name")
@click.option("--tune", is_flag=True, help="Measure precisions and memory formats.")
@click.option(
    "--limit",
    "limit_s",
    type=FiniteRange(min=1.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for --tune.",
)
@click.option("--write", is_flag=True, help="Put what --tune found best into the model.toml.")
def verify(name: str, as_json: bool, tune: bool, limit_s: float, write: bool) -> None:
    """Load a model, check its digest, and run it on a phantom.

    With --tune also: how fast it is in each precision and memory format here, and whether its
    labels stay the same.
    """
    if write and not tune:
        raise click.UsageError("--write goes with --tune, which finds out what to write")
    folder = folder_of(name) if tune else None
    # Models bring torch, which takes seconds to load.
    from osteon.pipeline.models.model import load_model  # noqa: PLC0415 - see above
    from osteon.pipeline.phantoms.phantom import render_phantom  # noqa: PLC0415 - see above
    from osteon.pipeline.prediction import predict_slices  # noqa: PLC0415 - see above

    started = time.monotonic()
    model = load_model(name, settings_in_force().pipeline.models_dir)
    loaded = time.monotonic()
    listening = listen(model) if tune else None
    hu_zyx, _, _ = render_phantom(0, PROBE_SHAPE, PROBE_SPACING_MM)
    affine = np.diag([*reversed(PROBE_SPACING_MM), 1.0])
    began = time.monotonic()
    try:
        labels_zyx = predict_slices(model, hu_zyx, affine)
    except OSError as error:
        raise StageError(f"{name}: prediction failed: {error}") from error
    facts: dict[str, Any] = {
        "name": model.name,
        "version": model.version,
        "digest": model.digest,
        "load_s": round(loaded - started, 2),
        "run_s": round(time.monotonic() - began, 2),
        "memory_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "volume": hu_zyx.shape,
        "spacing_mm": PROBE_SPACING_MM,
        "values": [int(value) for value in np.unique(labels_zyx) if value],
    }
    ran = getattr(model, "ran", None)
    if ran is not None:
        facts |= asdict(ran)
    if not as_json:
        click.echo(f"{model.name} {model.version} loads and runs")
        for key, value in facts.items():
            if key not in {"name", "version"}:
                click.echo(f"{key.replace('_', ' '):<16}{_said(value)}")
    if folder is not None and listening is not None:
        tuned = tune_folder(folder, listening, facts["batch"], limit_s)
        written = write and write_if_better(tuned, folder)
        facts["tuning"] = facts_of(tuned, written)
        if not as_json:
            show_tuned(tuned, folder, written)
    if as_json:
        write_json(facts)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        if len(value) > VALUES_SHOWN:
            return f"{len(value)}, from {value[0]:g} to {value[-1]:g}"
        return ", ".join(f"{one:g}" for one in value) or "none"
    return str(value)


def _names_of(segments: tuple[str, ...]) -> dict[int, str]:
    """Return value and name of each segment that was given."""
    names: dict[int, str] = {}
    for value, name in map(_segment_of, segments):
        if value in names:
            raise click.BadParameter(f"segment {value} is both {names[value]!r} and {name!r}")
        names[value] = name
    return names


def _segment_of(text: str) -> tuple[int, str]:
    value, found, name = text.partition("=")
    if not found or not value.isdecimal() or not name:
        raise click.BadParameter(f"{text!r} is not VALUE=NAME, such as 1=femur_left")
    if not 1 <= int(value) <= 255:
        raise click.BadParameter(f"{text!r}: a class is 1 to 255; 0 is background")
    return int(value), name


def _scaling_of(input_spec: "InputSpec") -> str:
    if input_spec.zscore is not None:
        scaled = input_spec.zscore
        clip = "{:g} to {:g}".format(*scaled.clip_hu)
        return f"{clip} HU, less {scaled.mean_hu:g}, divided by {scaled.std_hu:g}"
    assert input_spec.hu_window is not None
    return "{:g} to {:g} HU".format(*input_spec.hu_window)
