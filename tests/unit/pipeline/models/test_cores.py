"""Whether a network leaves cores idle is counted by two clocks."""

import pytest
import torch

from osteon.pipeline.models.cores import BusyCores


@pytest.mark.parametrize(
    ("used", "leave_room"),
    [(0.0, True), (0.5, True), (0.6, True), (0.7, False), (1.0, False)],
)
def test_it_counts_what_the_process_used_of_the_cores_it_may_use(
    used: float, leave_room: bool
) -> None:
    now = {"wall_s": 10.0, "cpu_s": 3.0}
    busy = BusyCores(lambda: now["wall_s"], lambda: now["cpu_s"])
    now["wall_s"] += 2.0
    now["cpu_s"] += 2.0 * used * torch.get_num_threads()
    assert busy.count == pytest.approx(used * torch.get_num_threads())
    assert busy.leave_room == leave_room


def test_no_time_at_all_is_no_error() -> None:
    assert BusyCores(lambda: 1.0, lambda: 1.0).count == 0.0
