"""Assemble the HTTP application: routers, guard, problems, OpenAPI.

Settings, table and intake enter, a `FastAPI` leaves; ``role.py`` serves it.
"""

from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI

from osteon.config.settings import Settings
from osteon.http import files, health, page, predict
from osteon.http.auth import Guard, read_token
from osteon.http.node import Node
from osteon.http.problem import answer_problems, describe_problems
from osteon.http.queries import only_known
from osteon.http.status import NodeStatus
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import Table

_DESCRIPTION = (
    "CT series in, bones out. Upload with `POST /api/v1/files`, poll `GET /api/v1/predict/<id>`"
    " with an id that came back until `status` is `done`, and fetch the results from"
    " `GET /api/v1/files/<path>`. Every failure is a problem details document (RFC 9457)."
)


def create_app(settings: Settings, table: Table, intake: Intake) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    settings : Settings
        Limits and the token are read from it.
    table : Table
        What the API reads from; its calls share it.
    intake : Intake
        Where uploads go.

    Raises
    ------
    ConfigError
        The token file cannot be read, or is empty.
    """
    token = read_token(settings.http)
    app = FastAPI(
        title="Osteon",
        version=version("osteon"),
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.node = Node(settings, table, intake, NodeStatus(settings, table, intake))
    for room in (files, predict):
        app.include_router(room.router, dependencies=[Depends(only_known)])
    for room in (health, page):
        app.include_router(room.router)
    answer_problems(app)
    app.add_middleware(Guard, token=token)
    _describe(app, with_token=token is not None)
    return app


def _describe(app: FastAPI, *, with_token: bool) -> None:
    """Complete the OpenAPI document, once: problems, and the token where one is needed."""
    schema: dict[str, Any] = app.openapi()
    describe_problems(schema)
    if with_token:
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        schema["paths"]["/healthz"]["get"]["security"] = []
