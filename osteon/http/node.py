"""What every endpoint needs of the node: settings, table, intake, status, in one place.

``app.py`` builds one `Node`; endpoints take it as the parameter ``node: OfNode``.
"""

from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from osteon.config.settings import Settings
from osteon.http.status import NodeStatus
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import Table

UPLOAD_THREADS = 4  # The status page and the API keep their own, however many upload.


@dataclass(frozen=True)
class Node:
    """The parts of the node that HTTP reads and calls."""

    settings: Settings
    table: Table
    intake: Intake
    status: NodeStatus
    upload_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(UPLOAD_THREADS))


async def node_of(request: Request) -> Node:
    """Return the node that a request's application was built for."""
    node: Node = request.app.state.node
    return node


OfNode = Annotated[Node, Depends(node_of)]


def address_of(request: Request) -> str:
    """Return the peer's IP address."""
    return request.client.host if request.client is not None else "unknown"
