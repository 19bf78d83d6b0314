"""Segments out of label maps: names, numbers, volumes, colours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from osteon.errors import ModelError, StageError
from osteon.pipeline.boneseg import NAMED_MAX, PALETTE, combine
from osteon.pipeline.models.modelspec import CodeSpec, SegmentSpec
from osteon.pipeline.volume import Geometry, Volume


@dataclass
class Given:
    """A model whose label map is known."""

    joined_zyx: NDArray[Any]
    segments: tuple[SegmentSpec, ...] = ()
    name = "given"
    error: Exception | None = None

    def join(self, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[Any]:
        if self.error:
            raise self.error
        return self.joined_zyx


def volume(shape: tuple[int, ...], affine: NDArray[np.float64] | None = None) -> Volume:
    affine = np.diag([10.0, 10.0, 10.0, 1.0]) if affine is None else affine
    return Volume(np.zeros(shape, np.int16), Geometry(affine, shape, (10.0, 10.0, 10.0), "1.2"), ())


def run(model: Given, affine: NDArray[np.float64] | None = None) -> Any:
    shape = model.joined_zyx.shape
    return combine(model, np.zeros(shape, np.uint8), volume(shape, affine))


def test_components_are_named_by_falling_volume() -> None:
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[1, 1, 1:3] = 1
    mask[4, 3:6, 3:6] = 1
    labels, segments = run(Given(mask))
    assert [(s.number, s.label, s.volume_ml) for s in segments] == [
        (1, "Bone 1", pytest.approx(9.0)),
        (2, "Bone 2", pytest.approx(2.0)),
    ]
    assert labels.dtype == np.uint8
    assert np.array_equal(labels > 0, mask > 0)
    assert (labels[4, 4, 4], labels[1, 1, 1]) == (1, 2)
    assert (segments[0].category.value, segments[0].type.value) == ("123037004", "272673000")
    assert {segments[0].category.scheme, segments[0].type.scheme} == {"SCT"}
    assert segments[0].modifier is None
    assert segments[0].rgb != segments[1].rgb


def test_parts_under_a_millilitre_are_dropped() -> None:
    mask = np.zeros((3, 9, 9), np.uint8)
    mask[1, 1, 1] = 1
    smaller = np.diag([10.0, 10.0, 9.9, 1.0])
    assert len(run(Given(mask))[1]) == 1
    labels, segments = run(Given(mask), smaller)
    assert segments == ()
    assert not labels.any()


def test_volume_comes_from_the_affine_even_if_oblique() -> None:
    affine = np.eye(4)
    affine[:3, :3] = [[10.0, 0.0, 0.0], [0.0, 10.0, 3.0], [0.0, 0.0, 20.0]]
    (segment,) = run(Given(np.ones((1, 1, 3), np.uint8)), affine)[1]
    assert segment.volume_ml == pytest.approx(6.0)


def test_what_touches_at_a_corner_is_one_bone() -> None:
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    assert len(run(Given(mask))[1]) == 1


def test_many_parts_share_the_last_segment() -> None:
    mask = np.zeros((1, 3, 60), np.uint8)
    mask[0, 1, ::2] = 1
    labels, segments = run(Given(mask))
    assert len(segments) == NAMED_MAX + 1
    assert segments[-1].label == "Bone, other parts"
    assert segments[-1].volume_ml == pytest.approx(30 - NAMED_MAX)
    assert sorted(np.unique(labels)) == list(range(NAMED_MAX + 2))
    assert [labels[0, 1, 2 * k] for k in range(3)] == [1, 2, 3]  # ties: first in memory first


def test_nothing_found_is_no_segment() -> None:
    labels, segments = run(Given(np.zeros((2, 3, 4), np.uint8)))
    assert segments == ()
    assert labels.shape == (2, 3, 4)
    assert not labels.any()


def test_colours_differ() -> None:
    assert len(set(PALETTE)) == NAMED_MAX


def test_a_models_classes_are_numbered_without_gaps() -> None:
    femur = CodeSpec(value="71341001", meaning="Femur")
    specs = (
        SegmentSpec(value=9, label="R", type=femur, laterality="right", rgb=(1, 2, 3)),
        SegmentSpec(value=4, label="absent", rgb=(1, 2, 3)),
        SegmentSpec(value=2, label="L", type=femur, laterality="left", rgb=(4, 5, 6)),
    )
    joined = np.array([[[0, 2, 2, 9, 9, 9]]], np.uint8)
    labels, segments = run(Given(joined, specs))
    assert labels.tolist() == [[[0, 1, 1, 2, 2, 2]]]
    assert [(s.number, s.label, s.volume_ml) for s in segments] == [
        (1, "L", pytest.approx(2.0)),
        (2, "R", pytest.approx(3.0)),
    ]
    assert segments[1].modifier is not None
    assert segments[1].modifier.value == "24028007"
    assert segments[1].type.meaning == "Femur"


def test_a_prediction_of_another_shape_is_refused() -> None:
    model = Given(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(StageError, match="shape"):
        combine(model, np.zeros((3, 2, 2), np.uint8), volume((2, 2, 2)))


@pytest.mark.parametrize("joined", [np.zeros((2, 2, 2), np.int64), np.zeros((2, 2, 3), np.uint8)])
def test_a_model_that_joins_otherwise_is_a_model_error(joined: NDArray[Any]) -> None:
    with pytest.raises(ModelError, match="given: joined"):
        combine(Given(joined), np.zeros((2, 2, 2), np.uint8), volume((2, 2, 2)))


def test_running_out_of_memory_may_be_tried_again() -> None:
    with pytest.raises(StageError, match="given: boneseg ran out of memory") as failure:
        run(Given(np.zeros((2, 2, 2), np.uint8), error=MemoryError("no")))
    assert failure.value.retryable
