"""Which GPU a slot gets: CUDA's own reading of its variable, one each, in turn."""

from pathlib import Path

import pytest

from osteon.pipeline.workers.devices import gpu_of, idle_words, take_gpu, visible_gpus

UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-0b1c")


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    """Device files of eight GPUs, and those beside them that are none."""
    for name in (*(f"nvidia{n}" for n in range(8)), "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("said", "gpus"),
    [
        (None, ("0", "1", "2", "3", "4", "5", "6", "7")),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("3", ("3",)),
        ("5, 2", ("5", "2")),
        ("1,-1,2", ("1",)),
        ("1,8,2", ("1",)),
        ("1,1", ()),
        ("1,01", ()),
        (UUIDS[0], (UUIDS[0],)),
        (",".join(UUIDS), UUIDS),
    ],
)
def test_what_is_visible_is_counted_as_cuda_counts_it(
    dev: Path, said: str | None, gpus: tuple[str, ...]
) -> None:
    environ = {} if said is None else {"CUDA_VISIBLE_DEVICES": said}
    assert visible_gpus(dev, environ) == gpus


def test_a_container_counts_from_0_whatever_its_device_files_are_called(tmp_path: Path) -> None:
    for name in ("nvidia2", "nvidia11"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path, {}) == ("0", "1")


def test_without_device_files_a_variable_that_was_left_over_is_no_gpu(tmp_path: Path) -> None:
    for said in ("0", UUIDS[0]):
        assert visible_gpus(tmp_path, {"CUDA_VISIBLE_DEVICES": said}) == ()


def test_slots_get_gpus_in_turn() -> None:
    assert [gpu_of(slot, ("2", "5")) for slot in range(5)] == ["2", "5", "2", "5", "2"]
    assert [gpu_of(slot, ()) for slot in range(2)] == [None, None]


def test_gpus_without_a_slot_are_named_with_what_to_set() -> None:
    assert idle_words(2, ("0", "1", "2", "3")) == (
        "GPUs 2, 3 stay idle: pipeline.slots gives 2 slots and there are 4 GPUs;"
        ' set pipeline.slots to "auto" or to 4, or leave them to others by CUDA_VISIBLE_DEVICES'
    )
    assert idle_words(1, ("2", UUIDS[0])).startswith(
        f"GPU {UUIDS[0]} stays idle: pipeline.slots gives 1 slot and there are 2 GPUs"
    )
    for slots, gpus in ((2, ("0", "1")), (3, ("0",)), (2, ())):
        assert idle_words(slots, gpus) == ""


def test_a_worker_sees_its_own_gpu_by_pci_bus() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    take_gpu("1", environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_what_was_inherited_stays_where_a_slot_has_no_gpu_or_an_order_is_said() -> None:
    for inherited in ({}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}):
        environ = dict(inherited)
        take_gpu(None, environ)
        assert environ == inherited
    environ = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    take_gpu("0", environ)
    assert environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
