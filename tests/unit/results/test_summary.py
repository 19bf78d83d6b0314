"""What is told of segments beside the Segmentation."""

import json

import numpy as np
import pytest

from osteon.errors import EncodingError
from osteon.results.summary import summary_of
from tests.unit.results.series import labels, segments

AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.75, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1.0]])


def test_every_segment_is_told_in_full() -> None:
    told = summary_of(segments(), labels(), AFFINE)
    assert json.loads(json.dumps(told)) == told
    assert [segment["number"] for segment in told] == [1, 2, 3]
    assert told[0]["laterality"] is None
    assert told[1]["laterality"] == {"value": "7771000", "scheme": "SCT", "meaning": "Left"}
    assert told[0] == {
        "number": 1,
        "label": "Bone 1",
        "volume_ml": 1.5,
        "box": {
            "first_zyx": [1, 1, 2],
            "last_zyx": [3, 3, 4],
            "min_xyz_mm": [-9.25, -19.625, 31.0],
            "max_xyz_mm": [-7.75, -17.375, 37.0],
        },
        "rgb": [200, 40, 90],
        "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "272673000", "scheme": "SCT", "meaning": "Bone"},
        "laterality": None,
    }


def test_segments_of_another_label_map() -> None:
    with pytest.raises(EncodingError, match="no voxel belongs to segment 4"):
        summary_of(segments(4), labels(), AFFINE)
