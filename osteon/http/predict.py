"""The predict API: how far a series is, what came of it, and running it again.

A job id or Series Instance UID enters, the table's view of it leaves. The models say in OpenAPI
what ``pipeline/table/views.py`` gives.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from osteon.errors import StaleTransition
from osteon.http.node import OfNode, address_of
from osteon.pipeline.choices import choices_of
from osteon.pipeline.job import Stage, State, Status
from osteon.pipeline.reroute import reroute, retry
from osteon.pipeline.table import jobs, series, views
from osteon.pipeline.table.connection import Row

router = APIRouter(prefix="/api/v1/predict", tags=["Predict"])
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "No such job or series."}}
_AFTER_RECEIVING = 2**62  # Every job's id is below it: the page that follows receiving series.


class JobView(BaseModel):
    """How far a series is."""

    id: str = Field(description="Job id; the Series Instance UID while it is still receiving.")
    series_instance_uid: str
    study_instance_uid: str
    generation: int = Field(description="Grows when slices arrive after the series was complete.")
    route: str | None
    model: str | None
    shadow_of: str | None = Field(description="Job that it runs beside, of a shadow model.")
    source: str = Field(description="Calling AE title of its sender; `HTTP` for an upload.")
    accession_number: str
    modality: str
    status: Status
    stage: Stage | None = Field(description="Where on the route it is.")
    state: str = Field(description="What it is doing there.")
    progress: float = Field(ge=0, le=1)
    reason: str = Field(description="What it waits for, or why it failed, in words.")
    waiting_for: str | None = Field(description="The same where it waits; null where it does not.")
    since: str | None = Field(description="When this wait began.")
    until: str | None = Field(description="When it is over or looked at again, if that is known.")
    instances: int = Field(description="Number of instances held.")
    attempt: int = Field(description="Grows with every stage that a worker takes; no failures.")
    worker: str | None = Field(
        description="What runs it now: a slot of this host, or a worker of the cluster."
    )
    created: str = Field(description="ISO 8601, UTC.")
    updated: str


class DeliveryView(BaseModel):
    """The way of one result to one destination."""

    destination: str
    state: str
    attempts: int
    next_attempt: str | None
    reason: str
    updated: str


class DeliveredView(BaseModel):
    """A destination that has what an earlier run of the job made."""

    destination: str
    at: str = Field(description="When that was proven.")


class ResultView(BaseModel):
    """A file that came of a job."""

    kind: str = Field(description="`seg`, or `preview`, which is never sent.")
    path: str = Field(description="Its bytes are at `/api/v1/files/<path>`.")
    size: int
    sha256: str
    sop_instance_uid: str | None
    created: str
    superseded: str | None = Field(description="When a newer result took its place.")
    deliveries: list[DeliveryView] = Field(description="Of the job's present run.")
    delivered_before: list[DeliveredView] = Field(
        description="By earlier runs, perhaps by another route to other destinations."
    )


class CodeView(BaseModel):
    """A coded concept (PS3.3 8.8)."""

    value: str
    scheme: str = Field(description="`SCT` is SNOMED CT.")
    meaning: str


class BoxView(BaseModel):
    """The smallest box of whole voxels that holds a segment."""

    first_zyx: tuple[int, int, int] = Field(
        description="Slice, row and column of its first voxels on the source grid, from 0."
    )
    last_zyx: tuple[int, int, int] = Field(description="Those of its last voxels, still inside.")
    min_xyz_mm: tuple[float, float, float] = Field(
        description="Least x, y, z of its corners in the patient (LPS); voxels count in full."
    )
    max_xyz_mm: tuple[float, float, float] = Field(description="Greatest x, y, z of its corners.")


class SegmentView(BaseModel):
    """One segment that was found; null where an older version did not tell."""

    number: int | None = Field(description="Segment Number in the Segmentation.")
    label: str
    volume_ml: float
    box: BoxView | None = Field(description="Where it lies.")
    rgb: tuple[int, int, int] | None = Field(description="Its colour, sRGB, 0 to 255.")
    category: CodeView | None = Field(description="Segmented Property Category.")
    type: CodeView | None = Field(description="Segmented Property Type.")
    laterality: CodeView | None = Field(description="Its side, where it has one.")


class ShadowSegmentView(BaseModel):
    """One segment of a shadow's result or of the first's; 0 ml where one of them lacks it."""

    label: str
    dice: float = Field(ge=0, le=1)
    volume_ml: float
    first_volume_ml: float


class ShadowView(BaseModel):
    """A second model that runs beside the first and delivers nothing."""

    id: str
    model: str
    status: Status
    reason: str
    state: str = Field(description="What it is doing.")
    dice: float | None = Field(
        ge=0, le=1, description="Of all that is segmented, against the first's; null until then."
    )
    segments: list[ShadowSegmentView]


class PredictView(JobView):
    """How far a series is, and what came of it."""

    ahead: int | None = Field(description="Jobs of its source that enter before it while it waits.")
    results: list[ResultView]
    segments: list[SegmentView]
    shadow: list[ShadowView]


class RouteChoiceView(BaseModel):
    """A present route, and whether it takes the series of a job."""

    route: str
    model: str
    takes: bool
    why: str = Field(description="The condition that decided.")


class ChoicesView(BaseModel):
    """What may be done with a job that is over."""

    again: bool = Field(description="Whether it can run as it was.")
    why_not: str = Field(description="Why it cannot; empty where it can.")
    routes: list[RouteChoiceView] = Field(
        description="All present routes; none where they have no say."
    )


class JobList(BaseModel):
    """One page of jobs."""

    jobs: list[JobView]
    next: int | None = Field(description="Value of `before` for the next page.")


@router.get("", response_description="One page.")
def list_jobs(
    node: OfNode,
    status: Annotated[Status | None, Query(description="Only these.")] = None,
    state: Annotated[
        State | None, Query(description="Only these; `cancelled` ones have the status `failed`.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="Only older jobs.")] = None,
) -> JobList:
    """List series that are still receiving, then jobs, the newest first."""
    found = views.jobs(node.table, status=status, state=state, limit=limit, before=before)
    page = [JobView.model_validate(job) for job in found]
    last = page[-1].id if len(page) == limit else None
    if last is None:
        return JobList(jobs=page, next=None)
    return JobList(jobs=page, next=int(last) if last.isdecimal() else _AFTER_RECEIVING)


@router.get("/{name}", response_description="The newest there is.", responses=_UNKNOWN)
def predict(name: str, node: OfNode) -> PredictView:
    """Say how far a job is, or the newest generation of a series, and what came of it."""
    return PredictView.model_validate(views.predict(node.table, name))


@router.get(
    "/{name}/routes",
    response_description="Nothing is changed.",
    responses=_UNKNOWN | {409: {"description": "The series is still receiving."}},
)
def choices(name: str, node: OfNode) -> ChoicesView:
    """Say whether a job can run again as it was, and which present routes take its series."""
    found = choices_of(node.settings, node.table, _job_named(node, name))
    return ChoicesView(
        again=not found.why_not_again,
        why_not=found.why_not_again,
        routes=[RouteChoiceView(**vars(one)) for one in found.routes],
    )


@router.post(
    "/{name}",
    status_code=202,
    response_description="It waits for its turn again.",
    responses=_UNKNOWN
    | {409: {"description": "It has not come to its end yet, or cannot run; `retryable` says so."}},
)
def predict_again(
    name: str,
    request: Request,
    node: OfNode,
    by_present_routes: Annotated[
        bool,
        Query(alias="reroute", description="Ask the present routes, as `osteon jobs reroute`."),
    ] = False,
    route: Annotated[
        str | None,
        Query(description="A present route that takes it: what other routes give stays."),
    ] = None,
) -> PredictView:
    """Run the same input again; the result keeps its UIDs and no new generation is made.

    Of a series that no route took, the present routes are asked.
    """
    job, who = _job_named(node, name), f"http {address_of(request)}"
    if by_present_routes or route is not None:
        of = series.get(node.table, job["series_id"])
        done = reroute(node.settings, node.table, of, who, only=route)
        name = of["series_instance_uid"] if route is None else str(done[0].id)
        return PredictView.model_validate(views.predict(node.table, name))
    retry(node.settings, node.table, job, who)
    return PredictView.model_validate(views.predict(node.table, str(job["id"])))


def _job_named(node: OfNode, name: str) -> Row:
    known = views.predict(node.table, name)
    if not known["id"].isdecimal():
        raise StaleTransition(f"series {name} is still receiving: it runs when it is complete")
    return jobs.get(node.table, int(known["id"]))
