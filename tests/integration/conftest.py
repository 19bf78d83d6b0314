"""What the tests of several files in this folder need."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dicom_peer import Node, loopback_settings, running_node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A receiver on loopback with the settings that it has by default."""
    with running_node(loopback_settings(tmp_path)) as node:
        yield node
