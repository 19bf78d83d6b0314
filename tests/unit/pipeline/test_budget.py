"""What the host can bear and what a series needs, in numbers."""

import json
from pathlib import Path

import pytest

from osteon.config.settings import ClusterSettings, Settings
from osteon.pipeline.budget import at_the_door, cost_of, host_memory_bytes, limits_of

GIGABYTE = 10**9


def test_a_series_costs_its_voxels_and_takes_its_bytes():
    header = json.dumps({"Rows": ["512"], "Columns": ["256"]})
    assert cost_of(header, [{"size": 10}, {"size": 20}]) == (2 * 512 * 256, 30)
    frames = json.dumps({"Rows": ["4"], "Columns": ["4"], "NumberOfFrames": ["100"]})
    assert cost_of(frames, [{"size": 7}]) == (1600, 7)


@pytest.mark.parametrize("header", ["{}", '{"Rows": [], "Columns": []}', '{"Rows": ["many"]}'])
def test_without_a_size_in_its_header_the_bytes_must_do(header):
    assert cost_of(header, [{"size": 1000}]) == (500, 1000)
    assert cost_of(header, []) == (1, 0)


def test_limits_are_the_settings_or_follow_from_slots_and_host():
    automatic = limits_of(Settings(), slots=2)
    assert automatic.running_max == 8
    assert limits_of(Settings(), slots=50).running_max == 100
    assert automatic.memory_bytes_max == int(0.75 * host_memory_bytes())
    assert automatic.free_bytes_min == 2 * GIGABYTE
    settings = Settings(
        source=[
            {"ae_title": "CT", "weight": 3.0, "running_max": 2},
            {"ae_title": "MR"},
        ],
        pipeline={"running_max": 3, "models_max": {"lungs": 1}, "model": "lungs", "memory_gb": 4},
    )
    limits = limits_of(settings, slots=50)
    assert (limits.running_max, limits.memory_bytes_max) == (3, 4 * GIGABYTE)
    assert limits.models_max == {"lungs": 1}
    assert limits.sources_max == {"CT": 2}
    assert limits.weights == {"CT": 3.0, "MR": 1.0}


def test_the_memory_of_a_clusters_hosts_is_not_this_ones():
    files = {name: Path("x.pem") for name in ("certificate", "key", "ca")}
    cluster = ClusterSettings(scheduler="tls://gpu:8786", **files)
    assert limits_of(Settings(cluster=cluster), slots=2).memory_bytes_max is None


def test_a_container_has_no_more_memory_than_it_is_given(tmp_path):
    limit = tmp_path / "memory.max"
    whole = host_memory_bytes(limit)
    limit.write_text("1000000\n")
    assert host_memory_bytes(limit) == 1_000_000
    limit.write_text("max\n")
    assert host_memory_bytes(limit) == whole


def test_a_job_at_the_door_brings_its_needs():
    row = {"id": 7, "calling_ae_title": "CT", "priority": 1, "model": "lungs"}
    job = at_the_door(row | {"cost": 1000, "input_bytes": 2000})
    assert (job.job_id, job.source, job.priority, job.model) == (7, "CT", 1, "lungs")
    assert job.needs.cost == 1000
    assert job.needs.memory_bytes == 8 * 1000 + 2000
    assert job.needs.disk_bytes == 2500
