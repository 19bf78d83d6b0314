"""What the tests of several files in this folder need."""

from collections.abc import Iterator

import pytest

from tests.acceptance.parts import Node, Orthanc


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS of its own for each file."""
    with Orthanc(tmp_path_factory.mktemp("pacs")) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Node]:
    """A whole node that delivers to it."""
    with Node(tmp_path_factory.mktemp("node"), pacs_port=pacs.dicom_port) as running:
        yield running
