"""Evidence on the disk: the same comes back, the rest is predicted anew, and it stays small."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from osteon.pipeline.prediction import Evidence
from osteon.pipeline.volume import SourceFrame
from osteon.pipeline.workers import evidencecache
from osteon.pipeline.workers.evidencecache import EvidenceCache
from osteon.pipeline.workers.request import CacheSettings

DIGEST, OTHER = "ab" * 32, "cd" * 32
IN_PLANE = np.array([[0.7, 0.0], [0.0, 0.7], [0.0, 0.1]])


def frames_of(path: Path, count: int = 1) -> list[SourceFrame]:
    return [SourceFrame(path, number, "1.2", "1.2.3") for number in range(1, count + 1)]


def evidence(seed: int, *, random: bool = False) -> Evidence:
    values = np.random.default_rng(seed).integers(0, 255 if random else 2, (32, 40), np.uint8)
    return Evidence(IN_PLANE, values)


@pytest.fixture
def cache(tmp_path: Path) -> EvidenceCache:
    return EvidenceCache(CacheSettings(tmp_path / "cache", 10**6))


def instance(tmp_path: Path, name: str = "5e") -> Path:
    return tmp_path / "spool" / "series" / f"{name}.dcm"


def test_what_was_kept_comes_back_for_its_instance_and_model_alone(cache, tmp_path):
    path = instance(tmp_path)
    said = [evidence(1), evidence(2)]
    cache.put(path, DIGEST, said)
    again = EvidenceCache(cache._settings).get(path, DIGEST, frames_of(path, 2))
    for before, after in zip(said, again, strict=True):
        assert np.array_equal(before.bytes_yx, after.bytes_yx)
        assert after.fits(np.hstack([IN_PLANE, np.zeros((3, 2))]))
    assert cache.get(path, OTHER, frames_of(path, 2)) == []
    assert cache.get(instance(tmp_path, "5f"), DIGEST, frames_of(path, 2)) == []
    assert cache.get(path, DIGEST, frames_of(path, 3)) == []


def test_a_disk_that_keeps_nothing_fails_no_stage(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache, path = (
        EvidenceCache(CacheSettings(tmp_path / "file" / "cache", 10**6)),
        instance(tmp_path),
    )
    cache.put(path, DIGEST, [evidence(1)])
    assert cache.get(path, DIGEST, frames_of(path)) == []


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"no", "flip", "cut"])
def test_what_is_damaged_is_forgotten(cache, tmp_path, damage):
    path = instance(tmp_path)
    cache.put(path, DIGEST, [evidence(1)])
    (file,) = (tmp_path / "cache").glob("*/*")
    raw = bytearray(file.read_bytes())
    if damage == "flip":
        raw[-3] ^= 1
    file.write_bytes(raw[:-9] if damage == "cut" else raw if damage == "flip" else damage)
    assert cache.get(path, DIGEST, frames_of(path)) == []
    assert not file.exists()


def test_what_was_of_no_use_for_longest_goes_first(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(evidencecache, "_LOOK_EVERY", 1)
    monkeypatch.setattr(evidencecache, "_LOOK_AT", 0)
    small = EvidenceCache(CacheSettings(tmp_path / "cache", 6000))
    paths = [instance(tmp_path, f"{n:02}") for n in range(6)]
    for age, path in enumerate(paths):
        small.put(path, DIGEST, [evidence(age, random=True)])
        if age == 3:  # Now the oldest is of use once more, the next one is the oldest.
            for at, file in enumerate(sorted((tmp_path / "cache").glob("*/*"))):
                os.utime(file, (at, at))
            assert small.get(paths[0], DIGEST, frames_of(paths[0]))
    kept = [path for path in paths if small.get(path, DIGEST, frames_of(path))]
    assert paths[0] in kept
    assert paths[1] not in kept
    assert sum(f.stat().st_size for f in (tmp_path / "cache").glob("*/*")) <= 6000


def test_it_shrinks_where_the_disk_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(evidencecache, "_LOOK_EVERY", 1)
    monkeypatch.setattr(evidencecache, "_LOOK_AT", 0)
    free = shutil.disk_usage(tmp_path).free
    short = EvidenceCache(CacheSettings(tmp_path / "cache", 10**9, free_bytes_min=2 * free))
    for number in range(3):
        short.put(instance(tmp_path, f"{number:02}"), DIGEST, [evidence(number, random=True)])
    assert list((tmp_path / "cache").glob("*/*")) == []


def test_a_disk_that_takes_nothing_costs_only_the_evidence(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    cache = EvidenceCache(CacheSettings(tmp_path / "cache", 10**6))
    path = instance(tmp_path)
    cache.put(path, DIGEST, [evidence(1)])
    assert cache.get(path, DIGEST, frames_of(path)) == []
