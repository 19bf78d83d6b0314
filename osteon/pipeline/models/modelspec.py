"""What a model folder says about itself: ``model.toml`` as frozen, checked types.

A path enters, a `ModelSpec` leaves or a `ModelError` of one line that names file, key and cure.
Called by `osteon.pipeline.models.model`, which loads what the specification describes.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from osteon.errors import ModelError, StageError
from osteon.results.segment import Code

SPEC_FILE = "model.toml"

RESERVED = "builtin:"  # What the names of models begin with that are no folders.
NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"  # Of a folder.
NAMED = "at most 64 letters, digits, '_', '.' and '-', a letter or a digit first"
Name = Annotated[str, Field(pattern=f"^({RESERVED})?{NAME_PATTERN}$")]
# What a pattern means, in words.
PATTERNS = {
    "name": f"take {NAMED}",
    "weights": "name a file or folder beside it, of letters, digits, '_', '.' and '-'",
    "sha256": "it has to be 64 hexadecimal digits in lower case",
    "orientation": "it has to be three of the letters L R P A S I, such as LPS",
}
Byte = Annotated[int, Field(ge=0, le=255)]
# The patient axis of a direction: x to the left, y to the back, z to the head (PS3.3 C.7.6.2.1.1).
AXIS_OF = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}

_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)

Precision = Literal["float32", "float16", "bfloat16"]
Millimetres = Annotated[float, Field(gt=0, le=100)]


class _Part(BaseModel):
    """A section of ``model.toml``: what it does not know is refused, and nothing is changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CodeSpec(_Part):
    """A coded concept (PS3.3 8.8), as `osteon.results.segment.Code` with SCT as its scheme."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field("SCT", min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)

    def code(self) -> Code:
        """Return the concept as the result encoders take it."""
        return Code(self.value, self.scheme, self.meaning)


class SegmentSpec(_Part):
    """One value of the model's output: what it stands for and how it is shown."""

    value: int = Field(ge=1, le=255, description="the class index in the model's output; 0 is none")
    label: str = Field(min_length=1, max_length=64)
    category: CodeSpec = CodeSpec(value="123037004", meaning="Anatomical Structure")
    type: CodeSpec = CodeSpec(value="272673000", meaning="Bone")
    laterality: Literal["left", "right"] | None = None
    rgb: tuple[Byte, Byte, Byte]


class ZScoreSpec(_Part):
    """Grey values as nnU-Net's CTNormalization gives them: clipped, less the mean, by the std."""

    clip_hu: tuple[float, float] = Field(description="(lower, upper): what lies outside is clipped")
    mean_hu: float
    std_hu: float = Field(gt=0)

    @field_validator("clip_hu")
    @classmethod
    def _ascends(cls, clip_hu: tuple[float, float]) -> tuple[float, float]:
        if not clip_hu[0] < clip_hu[1]:
            raise ValueError("clip_hu is (lower, upper)")
        return clip_hu


class InputSpec(_Part):
    """What the network was trained on; the volume is brought to it and the answer brought back."""

    dimension: Literal["2d", "2.5d", "3d"]
    neighbours: int = Field(
        0, ge=0, le=16, description="2.5d: slices on each side, given as further channels"
    )
    hu_window: tuple[float, float] | None = Field(
        None, description="HU that become 0 and 1; clipped outside"
    )
    zscore: ZScoreSpec | None = Field(None, description="the other way to scale, as nnU-Net does")
    spacing_mm: tuple[Millimetres, ...] | None = Field(
        None, description="(row, column) or, in 3d, (slice, row, column); none: as it comes"
    )
    orientation: str | None = Field(
        None, pattern=r"^[LRAPSI]{3}$", description="patient directions of column, row, slice index"
    )
    patch: tuple[Annotated[int, Field(ge=8, le=1024)], ...] = Field(
        description="(rows, columns) or, in 3d, (slices, rows, columns)"
    )

    @model_validator(mode="after")
    def _axes_agree(self) -> Self:
        axes = 3 if self.dimension == "3d" else 2
        if len(self.patch) != axes:
            raise ValueError(
                f"patch has {len(self.patch)} numbers, a {self.dimension} model {axes}"
            )
        if self.spacing_mm is not None and len(self.spacing_mm) != axes:
            raise ValueError(f"spacing_mm has {len(self.spacing_mm)} numbers, not {axes}")
        if self.orientation and {AXIS_OF[letter] for letter in self.orientation} != {0, 1, 2}:
            raise ValueError(f"orientation {self.orientation!r} names a patient axis twice")
        if (self.dimension == "2.5d") != (self.neighbours > 0):
            raise ValueError("neighbours belongs to 2.5d models, and each of them has some")
        return self

    @model_validator(mode="after")
    def _scaled_in_one_way(self) -> Self:
        if (self.hu_window is None) == (self.zscore is None):
            raise ValueError("give hu_window or zscore, one of them")
        if self.hu_window is not None and not self.hu_window[0] < self.hu_window[1]:
            raise ValueError("hu_window is (lower, upper)")
        return self

    @property
    def channels(self) -> int:
        """How many channels the network takes."""
        return 1 + 2 * self.neighbours

    @property
    def alone(self) -> bool:
        """Whether the prediction of a slice depends on that slice alone."""
        return self.dimension == "2d" and self.orientation is None


class RunSpec(_Part):
    """How the network is run over the volume; none of it depends on the machine."""

    overlap: float = Field(0.5, ge=0, le=0.9, description="of neighbouring windows, as a fraction")
    blend: Literal["gaussian", "constant"] = Field(
        "gaussian", description="how windows that overlap are averaged"
    )
    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        (), description="patch axes that are mirrored; the answers of all mirrorings are averaged"
    )
    precision: Precision = Field(
        "float32", description="of the network; float16 on a GPU only: a CPU takes float32 for it"
    )
    channels_last: bool = Field(False, description="memory format of patches and weights")
    batch_max: int = Field(64, ge=1, le=1024, description="most windows at once on a GPU")
    cpu_when_full: bool = Field(
        False, description="take the CPU for a volume that does not fit into the GPU's memory"
    )


class OutputSpec(_Part):
    """The segments that the model can return; none: connected components are named by size."""

    segments: tuple[SegmentSpec, ...] = ()

    @field_validator("segments")
    @classmethod
    def _values_differ(cls, segments: tuple[SegmentSpec, ...]) -> tuple[SegmentSpec, ...]:
        if len({segment.value for segment in segments}) < len(segments):
            raise ValueError("two segments have the same value")
        return segments


class ModelSpec(_Part):
    """A model's ``model.toml``."""

    name: Name
    version: str = Field(min_length=1, max_length=64)
    kind: str
    weights: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    input: InputSpec
    run: RunSpec = RunSpec()
    output: OutputSpec = OutputSpec()

    @model_validator(mode="after")
    def _mirrored_axes_exist(self) -> Self:
        if any(axis >= len(self.input.patch) for axis in self.run.mirror):
            raise ValueError(f"run.mirror names an axis that a {self.input.dimension} patch lacks")
        return self

    @model_validator(mode="after")
    def _weights_are_pinned(self) -> Self:
        if self.kind != "builtin" and (self.weights is None or self.sha256 is None):
            raise ValueError(f"a {self.kind} model needs weights and their sha256")
        return self


def _fault_of(error: ValidationError) -> str:
    """Return the first fault that was found: which key, and what is wrong with it."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "model"
    pattern = PATTERNS.get(str(first["loc"][-1])) if first["loc"] else None
    if first["type"] == "string_pattern_mismatch" and pattern is not None:
        return f"{key}: {first['input']!r}: {pattern}"
    said = {"missing": "is missing", "extra_forbidden": "unknown key"}.get(first["type"])
    return f"{key}: {said or first['msg'].removeprefix('Value error, ')}"


def unreadable(what: str, error: OSError) -> StageError:
    """Return what it means that a file of a model cannot be read.

    One that is not there is a fault of the folder; whatever else, as of a file server that is gone
    for a moment, another attempt may do away with.
    """
    kind = ModelError if isinstance(error, _NOT_THERE) else StageError
    return kind(f"{what}: {error.strerror}")


def read_spec(folder: Path) -> ModelSpec:
    """Read the ``model.toml`` of a model folder.

    Raises
    ------
    ModelError
        The file is missing, is not TOML, a key or value is wrong, or the name is not the folder's.
    StageError
        It cannot be read now.
    """
    path = folder / SPEC_FILE
    try:
        spec = ModelSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise unreadable(f"{path}: cannot be read", error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise ModelError(f"{path}: {_fault_of(error)}") from error
    if spec.kind == "builtin" or spec.name.startswith(RESERVED):
        raise ModelError(f"{path}: the kind builtin and names with {RESERVED} are no folder's")
    if spec.name != folder.name:
        raise ModelError(f"{path}: the name is {spec.name!r}, the folder's {folder.name!r}")
    return spec
