"""Probes for machines: liveness, readiness, the status as JSON, and metrics for Prometheus."""

from collections.abc import Iterator
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel

from osteon.http.node import OfNode
from osteon.http.problem import problem
from osteon.http.status import Engine, NodeStatus, Roles, StatusView
from osteon.pipeline.table.deliveries import STATES

router = APIRouter(tags=["Health"])
_CURE = {
    "receive": "nothing answers on the DICOM port",
    "work": "no worker role runs on this data directory",
}


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


class Ready(BaseModel):
    """The node takes images and works on them."""

    status: str = "ready"
    roles: Roles
    engine: Engine


@router.get("/healthz", response_description="It is.")
async def healthz() -> Alive:
    """Say that this process is alive; nothing else is asked, and no token is needed."""
    return Alive()


@router.get(
    "/readyz",
    response_model=Ready,
    response_description="Both answer.",
    responses={503: {"description": "One is missing; the member `missing` names it."}},
)
def readyz(request: Request, node: OfNode) -> Ready | Response:
    """Say whether the receiving and the working role both answer.

    A cluster that cannot be reached makes the node no less ready: what it receives waits. The
    member `engine` says so.
    """
    view = node.status.read()
    missing = [name for name, answers in view.roles if not answers]
    if not missing:
        return Ready(roles=view.roles, engine=view.engine)
    detail = "; ".join(_CURE[name] for name in missing) + ": start it with `osteon serve`"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return problem(request.url.path, status, detail, missing=missing)


@router.get("/api/v1/status", response_description="Not older than a second.")
def status(node: OfNode) -> StatusView:
    """Return the node at a glance: roles, free space, and how many of what are where."""
    return node.status.read()


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus text format."}},
)
def metrics(node: OfNode) -> Response:
    """Return what Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(node.status))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class StatusCollector(Collector):
    """Turn the node's status into metric families, at the moment of a scrape."""

    def __init__(self, source: NodeStatus) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Return one family for every number of the status."""
        view = self._source.read()
        yield InfoMetricFamily("osteon", "The node.", {"version": view.version})
        for name, text, value in (
            ("instances", "Instances held.", view.instances),
            ("series", "Generations of series held.", view.series),
            ("associations", "Associations on record.", view.associations),
            ("accepting", "Whether new instances are accepted.", view.accepting),
            ("disk_free_bytes", "Free space of the data directory.", view.disk.free_bytes),
            ("disk_reserve_bytes", "Space that is kept free.", view.disk.reserve_bytes),
            ("table_bytes", "Size of the job table.", view.disk.table_bytes),
            ("slots", "Stages that can run at once.", view.engine.slots),
            ("shadow_unfinished", "Shadows that are not finished.", view.shadow_unfinished),
            ("shadow_failed", "Shadows among the failed jobs.", view.shadow_failed),
        ):
            yield GaugeMetricFamily(f"osteon_{name}", text, value)
        jobs = "Jobs by status, cancelled ones by themselves, and series still receiving."
        yield _labelled("jobs", jobs, "status", view.jobs)
        deliveries = dict.fromkeys(STATES, 0) | view.deliveries
        yield _labelled("deliveries", "Results on their way.", "state", deliveries)
        yield _labelled("role_up", "Whether a role answers.", "role", view.roles.model_dump())
        yield from _of_shadows(view)


def _of_shadows(view: StatusView) -> Iterator[Metric]:
    for name, text, key in (
        ("compared", "Series that a shadow model was compared on.", "n"),
        ("dice_mean", "Mean Dice of a shadow model against the first.", "mean_dice"),
        ("dice_min", "Lowest Dice of a shadow model against the first.", "min_dice"),
    ):
        family = GaugeMetricFamily(f"osteon_shadow_{name}", text, labels=["model", "beside"])
        for summary in view.shadow:
            labels = [summary.model, summary.first_model]
            family.add_metric(labels, getattr(summary, key))
        yield family


def _labelled(name: str, text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"osteon_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
