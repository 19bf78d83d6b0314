"""Every setting of the node, its type, its limits and its default: each stands once in this folder.

TOML and environment enter (``load.py``), a frozen `Settings` leaves; every other room reads it and
none changes it. The sections stand by subject in ``peers.py``, ``routing.py`` and
``processing.py``, and are handed on from here. The descriptions are printed by ``osteon config
reference`` as the documentation.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from osteon.config.peers import (
    DeliverySettings,
    DestinationSettings,
    HttpSettings,
    Proof,
    ScpSettings,
    SourceSettings,
    TlsSettings,
)
from osteon.config.processing import ClusterSettings, Generations, PipelineSettings
from osteon.config.routing import DEFAULT_ROUTE, Condition, RouteSettings, keyword_faults
from osteon.config.values import AETitle, Priority, Section

__all__ = [
    "DEFAULT_ROUTE",
    "AETitle",
    "ClusterSettings",
    "Condition",
    "DeliverySettings",
    "DestinationSettings",
    "Generations",
    "HttpSettings",
    "LogSettings",
    "PipelineSettings",
    "Priority",
    "Proof",
    "RouteSettings",
    "ScpSettings",
    "Settings",
    "SourceSettings",
    "TlsSettings",
]


class LogSettings(Section):
    """What the node writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level.")
    format: Literal["console", "json"] = Field("console", description="For people or programs.")


class Settings(BaseSettings):
    """All settings of one node."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="OSTEON_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Field(
        Path("data"),
        description="Local folder of the spool, the job table and the results; a relative one is"
        " taken from the working directory.",
    )
    scp: ScpSettings = ScpSettings()
    source: list[SourceSettings] = Field(default_factory=list)
    destination: list[DestinationSettings] = Field(default_factory=list)
    route: list[RouteSettings] = Field(default_factory=list)
    pipeline: PipelineSettings = PipelineSettings()
    cluster: ClusterSettings | None = Field(
        None, description="A cluster of GPU hosts instead of worker processes of this host."
    )
    delivery: DeliverySettings = DeliverySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        faults = list(self._disagreements())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _disagreements(self) -> Iterator[str]:
        """Say what sections that name each other do not agree on."""
        names = [destination.name for destination in self.destination]
        for kind, listed in (("destination", names), ("route", [r.name for r in self.route])):
            for name in sorted({name for name in listed if listed.count(name) > 1}):
                yield f"{kind} {name!r} is listed twice: rename one"
        for route in self.route:
            yield from keyword_faults(route)
            unknown = [name for name in route.destinations or () if name not in names]
            for name in unknown:
                yield f"route {route.name!r} sends to {name!r}, which no [[destination]] is named"
        yield from self._source_faults()
        yield from self._limit_faults()
        everywhere = {"0.0.0.0", "::"} & {self.scp.host, self.http.host}  # noqa: S104 - compared
        if self.scp.port == self.http.port and (everywhere or self.scp.host == self.http.host):
            yield f"scp.port and http.port are both {self.scp.port}: choose another for one"

    def _source_faults(self) -> Iterator[str]:
        """Name sources of one AE title that differ: of a job only the title is known."""
        for number, source in enumerate(self.source):
            first = next(s for s in self.source if s.ae_title == source.ae_title)
            same = first.model_copy(update={"address": source.address})
            differ = [k for k, value in source if value != getattr(same, k)]
            if differ:
                yield (
                    f"source[{number}] is {source.ae_title!r} as another one is, but has another"
                    f" {', '.join(differ)}: of several with one AE title only the address may"
                    " differ; give them the same, or one another AE title"
                )

    def _limit_faults(self) -> Iterator[str]:
        """Name limits of models that no route uses: they would silently hold nothing back."""
        used = sorted({m for route in self.routes for m in (route.model, *route.shadow)})
        for name in self.pipeline.models_max:
            if name not in used:
                close = difflib.get_close_matches(name, used, n=1)
                cure = f"did you mean {close[0]!r}?" if close else f"used are {', '.join(used)}"
                yield f"pipeline.models_max names {name!r}, a model that no route uses; {cure}"

    @property
    def routes(self) -> tuple[RouteSettings, ...]:
        """The routes in force: those listed, else one for every CT volume."""
        if self.route:
            return tuple(self.route)
        return (DEFAULT_ROUTE.model_copy(update={"model": self.pipeline.model}),)

    @property
    def called_ae_titles(self) -> frozenset[str]:
        """Every AE title that this node answers to."""
        routed = {route.called_ae_title for route in self.route if route.called_ae_title}
        return frozenset({self.scp.ae_title} | routed)

    def destinations_of(self, route: RouteSettings) -> tuple[DestinationSettings, ...]:
        """Destinations that a route sends its results to."""
        if route.destinations is None:
            return tuple(d for d in self.destination if d.deliver)
        return tuple(d for d in self.destination if d.name in route.destinations)

    def priority_of(self, route: RouteSettings, calling_ae_title: str) -> Priority:
        """Priority of a route's job: the route's own, else that of the source it came from."""
        source = self.source_of(calling_ae_title)
        return route.priority or (source.priority if source is not None else Priority.ROUTINE)

    def hears(self, calling_ae_title: str) -> bool:
        """Return whether a peer may report storage commitment that it was asked for."""
        return any(
            d.ae_title == calling_ae_title and d.proof in {Proof.AUTO, Proof.COMMITMENT}
            for d in self.destination
        )

    def quiet_s_of(self, calling_ae_title: str) -> float:
        """Return the quiet time of a source's series: its own, else the node's."""
        source = self.source_of(calling_ae_title)
        own = None if source is None else source.quiet_s
        return self.scp.quiet_s if own is None else own

    def source_of(self, calling_ae_title: str) -> SourceSettings | None:
        """Return the source that calls itself so, or None."""
        return next((s for s in self.source if s.ae_title == calling_ae_title), None)
