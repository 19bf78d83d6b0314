"""To the network's grid and back: what trilinear interpolation of the whole volume would give."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from osteon.errors import ModelError
from osteon.pipeline.models.inputgrid import InputGrid, Turn, turn_to
from osteon.pipeline.models.modelspec import InputSpec, ZScoreSpec
from osteon.pipeline.models.outputgrid import OutputGrid, best_class

CPU = torch.device("cpu")
WINDOW = {"dimension": "3d", "hu_window": (-200.0, 800.0), "patch": (16, 16, 16)}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def hu_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2000, shape).astype(np.int16)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (5.0, 0.6, 0.8), (2.0, 1.0, 0.7)])
def test_planes_are_those_of_the_whole_volume_resampled(spacing: tuple[float, ...]) -> None:
    hu, affine = hu_of((23, 30, 26)), np.diag([0.7, 1.0, 2.0, 1.0])
    grid = InputGrid(hu, affine, InputSpec(**WINDOW, spacing_mm=spacing), CPU)
    scaled = (torch.from_numpy(hu).float().clamp(-200, 800) + 200) / 1000
    whole = torch.nn.functional.interpolate(scaled[None, None], grid.shape, mode="trilinear")[0, 0]
    size = [
        round(n * mm / new) for n, mm, new in zip(hu.shape, (2.0, 1.0, 0.7), spacing, strict=True)
    ]
    assert grid.shape == tuple(size)
    # As a sliding window asks for them: each time some again and some further ones.
    for start in range(0, grid.shape[0], 3):
        stop = min(start + 7, grid.shape[0])
        assert torch.allclose(grid.planes(start, stop), whole[start:stop], atol=1e-5)


def test_planes_are_turned_as_the_orientation_says() -> None:
    hu, affine = hu_of((9, 12, 15)), np.diag([-0.7, 0.7, 2.0, 1.0])  # columns run to the right
    grid = InputGrid(hu, affine, InputSpec(**WINDOW, orientation="SAL"), CPU)
    turned = hu.transpose(2, 1, 0)[::-1, ::-1, :]  # slices to the left, rows to the front
    wanted = (np.clip(turned, -200, 800).astype(np.float32) + 200) / 1000
    assert grid.turned_shape == (15, 12, 9)
    assert np.allclose(grid.planes(0, 15).numpy(), wanted, atol=1e-6)
    assert np.allclose(grid.planes(4, 9).numpy(), wanted[4:9], atol=1e-6)


def test_grey_values_are_scaled_as_nnunet_does() -> None:
    zscore = ZScoreSpec(clip_hu=(-900.0, 1300.0), mean_hu=120.0, std_hu=400.0)
    spec = InputSpec(dimension="3d", zscore=zscore, patch=(16, 16, 16))
    hu = hu_of((4, 5, 6))
    planes = InputGrid(hu, np.eye(4), spec, CPU).planes(0, 4)
    assert np.allclose(planes.numpy(), (np.clip(hu, -900, 1300) - 120.0) / 400.0, atol=1e-5)


def test_an_array_that_may_not_be_written_to_is_read() -> None:
    hu = hu_of((4, 5, 6))
    hu.setflags(write=False)
    assert InputGrid(hu, np.eye(4), InputSpec(**WINDOW), CPU).planes(0, 4).shape == (4, 5, 6)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("shape", [(23, 30, 26), (7, 30, 26), (60, 15, 40), (1, 30, 26)])
def test_labels_are_those_of_the_whole_volume_resampled(
    shape: tuple[int, int, int], classes: int
) -> None:
    torch.manual_seed(0)
    source = (23, 30, 26)
    # Smooth, so that no two classes are so near to each other that rounding decides.
    logits = torch.nn.functional.interpolate(
        torch.randn(1, classes, 4, 4, 4), shape, mode="trilinear"
    )[0]
    whole = torch.nn.functional.interpolate(logits[None], source, mode="trilinear")[0]
    wanted = (whole[0] > 0) if classes == 1 else whole.argmax(0)
    labels = np.full(source, 255, np.uint8)
    output = OutputGrid(labels, shape)
    for start in range(0, shape[0], 5):
        planes = slice(start, min(start + 5, shape[0]))
        output.add((planes, slice(0, shape[1]), slice(0, shape[2])), logits[:, planes])
    assert np.count_nonzero(labels != wanted.numpy()) <= 2


def test_labels_are_written_where_the_volume_was_before_it_was_turned() -> None:
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    hu = hu_of((6, 8, 10))
    grid = InputGrid(hu, affine, InputSpec(**WINDOW, orientation="ASL"), CPU)
    labels = np.zeros(hu.shape, np.uint8)
    output = OutputGrid(grid.turn.view(labels), grid.shape)
    whole = tuple(slice(0, size) for size in grid.shape)
    output.add(whole, grid.planes(0, grid.shape[0])[None] - 0.5)
    assert np.array_equal(labels, hu > 300)


def test_of_equal_logits_the_first_class_wins() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0], [0.0, 2.0, 1.0]])
    assert best_class(logits).tolist() == [0, 1, 1]


def test_more_classes_than_bytes_are_refused() -> None:
    with pytest.raises(ModelError, match="300 classes; labels hold 256"):
        OutputGrid(np.zeros((4, 4, 4), np.uint8), (4, 4, 4)).add(
            (slice(0, 4), slice(0, 4), slice(0, 4)), torch.zeros(300, 4, 4, 4)
        )


def test_a_turn_is_undone_by_its_view() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(
        Turn((2, 0, 1), (0, 2)).view(array), array.transpose(2, 0, 1)[::-1, :, ::-1]
    )
    assert turn_to(np.diag([1.0, 1.0, 1.0, 1.0]), "LPS") == Turn()
