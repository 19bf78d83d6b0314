"""A new model folder: the weights copied, and a ``model.toml`` that says what was found in them.

Weights and what the user says of them enter; a folder leaves, which `osteon.pipeline.models.model`
loads. Called by ``osteon models init``. Of an nnU-Net folder everything stands in its plans, of a
MONAI bundle most in its configuration; of other weights the user says it.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from osteon.errors import ModelError, StageError
from osteon.pipeline.models.fileformat import check_format
from osteon.pipeline.models.modelspec import NAME_PATTERN, NAMED, SPEC_FILE, read_spec
from osteon.pipeline.models.weights import Files, digest_of, read_files
from osteon.results.anatomy import structure

# Okabe and Ito's colours, for segments of which the table of structures knows none.
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
BUNDLE_FILES = ("configs/inference.json", "configs/metadata.json", "models/model.ts",
                "models/model.safetensors", "models/model.pt")  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """What a ``model.toml`` will say.

    Attributes
    ----------
    names : dict of int to str
        Value → name of each segment.
    hu_window, zscore
        How grey values are scaled; one of them. `zscore` is (lower, upper, mean, std) in HU.
    """

    dimension: str = "3d"
    patch: tuple[int, ...] = (96, 96, 96)
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    hu_window: tuple[float, float] | None = (-1000.0, 1000.0)
    zscore: tuple[float, float, float, float] | None = None
    neighbours: int = 0
    mirror: tuple[int, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)


def draft_of(kind: str, weights: Path) -> Draft:
    """Return what can be read from weights of a kind.

    Raises
    ------
    ModelError
        They are not of this kind, or of a sort that is not run here.
    """
    try:
        if kind == "nnunet":
            return _nnunet_draft(_read(weights, _is_nnunet_part), weights)
        if kind == "monai-bundle":
            return _bundle_draft(_read(weights, BUNDLE_FILES.__contains__), weights)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(f"{weights}: what it says of itself is not understood: {error}") from error
    return Draft()


def make_folder(into: Path, name: str, kind: str, weights: Path, draft: Draft) -> Path:
    """Make a model folder and return it.

    Parameters
    ----------
    into : Path
        The folder of model folders.
    name : str
        What the model is to be called, and its folder with it.
    kind : str
        A key of `osteon.pipeline.models.model.LOADERS`.
    weights : Path
        File or folder; it is copied.
    draft : Draft
        What its ``model.toml`` is to say.

    Raises
    ------
    ModelError
        The name is none that a model can have, the folder is there already, the weights cannot be
        read or are of another kind, or the draft is no valid ``model.toml``; then nothing is left
        behind.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelError(f"{name!r} is no name of a model: take {NAMED}")
    folder = into / name
    chosen = {"nnunet": _is_nnunet_part, "monai-bundle": BUNDLE_FILES.__contains__}.get(kind)
    files = _read(weights, chosen)
    if not files:
        raise ModelError(f"{weights}: no weights of the kind {kind} are there")
    if chosen is None and weights.is_dir():
        raise ModelError(f"{weights}: is a folder: weights of the kind {kind} are one file")
    if chosen is None:
        check_format(kind, weights, files[weights.name])
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ModelError(f"{folder} is there already: choose another name or remove it") from error
    except OSError as error:
        raise ModelError(f"{folder} cannot be made: {error.strerror}") from error
    try:
        place = folder / weights.name
        for inner, content in files.items():
            path = place / inner if weights.is_dir() else place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        sha256 = digest_of(files, is_folder=weights.is_dir())
        text = _toml(name, kind, weights.name, sha256, draft)
        (folder / SPEC_FILE).write_text(text, encoding="utf-8")
        read_spec(folder)
    except (OSError, StageError) as error:
        shutil.rmtree(folder)
        why = f"{folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ModelError(f"{why}; no folder was made") from error
    return folder


def _read(weights: Path, chosen: Any = None) -> Files:
    try:
        files = read_files(weights)
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read: {error.strerror}") from error
    return {name: files[name] for name in files if chosen is None or chosen(name)}


def _is_nnunet_part(name: str) -> bool:
    path = PurePosixPath(name)
    in_fold = path.parent.name.startswith("fold_") and path.name == "checkpoint_final.pth"
    return name in {"plans.json", "dataset.json"} or (in_fold and len(path.parts) == 2)


def _nnunet_draft(files: Files, weights: Path) -> Draft:
    # It needs the extra nnunet, which other kinds do without.
    try:
        from osteon.pipeline.models.nnunet import read_trained  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        raise ModelError(f"nnunet needs {error.name}: pip install 'osteon[nnunet]'") from error
    trained = read_trained(files, weights)
    plans, configuration = trained.plans, trained.configuration
    if configuration["normalization_schemes"] != ["CTNormalization"]:
        raise ModelError(
            f"{weights}: normalises by {configuration['normalization_schemes']}; run is "
            "CTNormalization, which nnU-Net takes for CT"
        )
    channels = (
        plans.get("foreground_intensity_properties_per_channel")
        or plans["foreground_intensity_properties_by_modality"]
    )
    grey = channels["0"]
    bounds = (grey["percentile_00_5"], grey["percentile_99_5"])
    # nnU-Net's array is (slice, row, column) of a volume whose indices run to right, front, head.
    letters = [("S", "A", "R")[axis] for axis in plans["transpose_forward"]]
    patch, spacing = configuration["patch_size"], configuration["spacing"]
    names = {value: name for name, value in trained.labels.items() if value > 0}
    return Draft(
        dimension=f"{len(patch)}d",
        patch=tuple(int(n) for n in patch),
        spacing_mm=tuple(float(mm) for mm in spacing[-len(patch) :]),
        orientation="".join(reversed(letters)),
        hu_window=None,
        zscore=(float(bounds[0]), float(bounds[1]), float(grey["mean"]), float(grey["std"])),
        names=dict(sorted(names.items())),
    )


def _bundle_draft(files: Files, weights: Path) -> Draft:
    from osteon.pipeline.models.monaibundle import plain, read_config  # noqa: PLC0415 - brings torch

    config = read_config(files, weights)
    draft = Draft()

    def value(found: Mapping[str, Any], key: str) -> Any:
        """Return a value with its references resolved, or None where it is not there."""
        return plain(found[key], config, weights) if key in found else None

    for part in _parts(config):
        target = str(part.get("_target_", "")).rpartition(".")[2].removesuffix("d")
        if target == "SlidingWindowInferer" and (size := value(part, "roi_size")):
            patch = tuple(int(n) for n in _by_axis(size))
            draft = replace(draft, dimension=f"{len(patch)}d", patch=patch)
        elif target == "Spacing" and (pixdim := value(part, "pixdim")):
            draft = replace(draft, spacing_mm=tuple(float(mm) for mm in _by_axis(pixdim)))
        elif target == "ScaleIntensityRange":
            low, high = float(value(part, "a_min")), float(value(part, "a_max"))
            draft = replace(draft, hu_window=(low, high))
        elif target == "Orientation" and (axes := value(part, "axcodes")):
            draft = replace(draft, orientation="".join(reversed(axes)))
    names = _channels_named(files.get("configs/metadata.json", b"{}"), weights)
    return replace(draft, names=names)


def _by_axis(value: Any) -> Sequence[Any]:
    """Return a value for each axis; MONAI takes one number for all three of a volume."""
    return value if isinstance(value, list) else [value] * 3


def _channels_named(metadata: bytes, weights: Path) -> dict[int, str]:
    """Return the classes that a bundle's metadata name."""
    try:
        outputs: dict[str, Any] = json.loads(metadata).get("network_data_format", {})
        classes: dict[str, Any] = {}
        for output in outputs.get("outputs", {}).values():
            classes |= output.get("channel_def", {})
        return {int(number): str(name) for number, name in classes.items() if int(number) > 0}
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{weights / 'configs/metadata.json'}: {error}") from error


def _parts(value: Any) -> list[dict[str, Any]]:
    """Return every object of a configuration, in its order."""
    if isinstance(value, dict):
        inner = [part for item in value.values() for part in _parts(item)]
        return [value, *inner] if "_target_" in value else inner
    if isinstance(value, list):
        return [part for item in value for part in _parts(item)]
    return []


def _toml(name: str, kind: str, weights: str, sha256: str, draft: Draft) -> str:
    lines = [
        f"name = {_string(name)}",
        'version = "1"',
        f"kind = {_string(kind)}",
        f"weights = {_string(weights)}",
        f"sha256 = {_string(sha256)}  # of these weights and no others",
        "",
        "[input]  # what the network was trained on; the answer is brought back from there",
        f"dimension = {_string(draft.dimension)}  # 2d, 2.5d or 3d",
    ]
    if draft.neighbours:
        lines.append(f"neighbours = {draft.neighbours}  # slices on each side, as channels")
    if draft.zscore is not None:
        clip, mean, std = _numbers(draft.zscore[:2]), draft.zscore[2], draft.zscore[3]
        lines.append(f"zscore = {{ clip_hu = {clip}, mean_hu = {mean!r}, std_hu = {std!r} }}")
    elif draft.hu_window is not None:
        lines.append(f"hu_window = {_numbers(draft.hu_window)}  # HU that become 0 and 1")
    patch = f"patch = {_numbers(draft.patch)}  # (slices,) rows, columns"
    spacing = _numbers(draft.spacing_mm or (1.5,) * len(draft.patch))
    lines += [patch, _optional("spacing_mm", spacing, draft.spacing_mm, "as it comes if absent")]
    orientation = _string(draft.orientation or "LPS")
    said = "patient directions of column, row, slice; as it comes if absent"
    lines += [
        _optional("orientation", orientation, draft.orientation, said),
        "",
        "[run]",
        "overlap = 0.5",
        'blend = "gaussian"',
        f"mirror = {_numbers(draft.mirror)}  # patch axes; [0, 1, 2] takes 8 times as long",
        'precision = "float32"  # or "bfloat16"; "float16" on a GPU: models verify --tune measures',
        "channels_last = false  # memory format: the same",
    ]
    for number, (value, called) in enumerate(draft.names.items()):
        lines += ["", *_segment(value, called, COLOURS[number % len(COLOURS)])]
    if not draft.names:
        lines += [
            "",
            "# Without segments every voxel that is not background is bone.",
            "# [[output.segments]]",
            *(f"# {line}" for line in _segment(1, "femur_left", COLOURS[0])[1:]),
        ]
    return "\n".join(lines) + "\n"


def _segment(value: int, name: str, colour: Sequence[int]) -> list[str]:
    known = structure(name)
    lines = ["[[output.segments]]", f"value = {value}"]
    if known is None:
        label = name.replace("_", " ").strip()
        # SNOMED CT 91723000, for a part of the body that the table does not know.
        code = 'value = "91723000", meaning = "Anatomical structure"'
        return [
            *lines,
            f"label = {_string(label[:1].upper() + label[1:])}",
            f"type = {{ {code} }}  # no code is known for this name: put it here",
            f"rgb = {_numbers(colour)}",
        ]
    lines.append(f"label = {_string(known.label)}")
    for key, code_of in (("category", known.category), ("type", known.type)):
        meaning = _string(code_of.meaning)
        lines.append(f"{key} = {{ value = {_string(code_of.value)}, meaning = {meaning} }}")
    if known.laterality is not None:
        lines.append(f"laterality = {_string(known.laterality)}")
    return [*lines, f"rgb = {_numbers(known.rgb)}"]


def _optional(key: str, text: str, value: object, said: str) -> str:
    return f"{'' if value is not None else '# '}{key} = {text}  # {said}"


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(repr(value) for value in values) + "]"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # A basic string of TOML is one of JSON.
