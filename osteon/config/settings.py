"""Every setting of the node, its type, its limits and its default: each stands here and only here.

TOML and environment enter (``load.py``), a frozen `Settings` leaves; every other room reads it and
none changes it. The descriptions are printed by ``osteon config reference`` as the documentation.
"""

import difflib
import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

# Default repertoire without backslash and control characters, 16 characters (PS3.5 6.2, VR AE).
# Spaces at its ends mean nothing there, and no peer says them.
AETitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$"),
]
Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Priority(StrEnum):
    """Priority classes, the most urgent first: a class runs only when none before it waits."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"
    BULK = "bulk"


class Generations(StrEnum):
    """What a slice means that arrives after its series was complete."""

    NEVER = "never"
    ALWAYS = "always"
    REPLACE = "replace"


class Proof(StrEnum):
    """What shows that a destination holds a result."""

    AUTO = "auto"
    COMMITMENT = "commitment"
    FIND = "find"
    NONE = "none"


class TlsSettings(_Section):
    """Mutual TLS (PS3.15 B.12); all three files are needed."""

    certificate: Path = Field(description="PEM file with this node's certificate chain.")
    key: Path = Field(description="PEM file with the private key of the certificate.")
    ca: Path = Field(description="PEM file with the CA that signed the peers' certificates.")


class ScpSettings(_Section):
    """The DICOM receiver."""

    ae_title: AETitle = Field("OSTEON", description="AE title that peers call.")
    host: Host = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - a DICOM node
    port: Port = Field(11112, description="TCP port to listen on.")
    quiet_s: Seconds = Field(
        5.0, description="A series is complete when no slice came for this long."
    )
    gap_wait_s: Seconds = Field(
        60.0, description="How long a series with missing slices is waited for instead."
    )
    associations_max: int = Field(64, ge=1, le=1000, description="Associations open at once.")
    pdu_bytes: int = Field(
        131072, ge=4096, le=1048576, description="Longest PDU that peers may send (PS3.8 D.1)."
    )
    instance_bytes_max: int = Field(
        4 * 2**30, ge=2**20, description="A data set longer than this is refused."
    )
    fast: bool = Field(
        True, description="Take instances straight to the disk; pynetdicom's own way if false."
    )
    acse_timeout_s: Seconds = Field(5.0, description="Deadline of association negotiation.")
    idle_timeout_s: Seconds = Field(300.0, description="A silent association is aborted after it.")
    commitment: bool = Field(
        False,
        description="Whether storage commitment is given: an instance is committed when it is whole"
        " on this node's disk and on record. It is kept until its series is purged, no longer.",
    )
    tls: TlsSettings | None = Field(None, description="Mutual TLS; plain TCP where absent.")


class SourceSettings(_Section):
    """A peer that may send. Where none is listed, any caller on loopback may."""

    ae_title: AETitle = Field(description="Calling AE title.")
    address: str | None = Field(
        None, description="IP address or network (10.0.0.0/24) it must call from; any if absent."
    )
    weight: float = Field(1.0, gt=0, le=1000, description="Its share of the workers.")
    priority: Priority = Field(Priority.ROUTINE, description="Priority of its series.")
    quiet_s: Seconds | None = Field(None, description="Its own quiet time instead of scp.quiet_s.")
    port: Port | None = Field(
        None,
        description="TCP port on which it hears reports of storage commitment, at the address from"
        " which it asked; only on its own association where absent.",
    )
    tls: TlsSettings | None = Field(
        None, description="Mutual TLS of these reports; plain TCP where absent."
    )

    @field_validator("address")
    @classmethod
    def _is_network(cls, value: str | None) -> str | None:
        if value is not None:
            ipaddress.ip_network(value, strict=False)
        return value


class DestinationSettings(_Section):
    """A peer that results are sent to by C-STORE."""

    name: Name = Field(description="Name that routes and commands use.")
    ae_title: AETitle = Field(description="Called AE title.")
    host: Host = Field(description="Host name or IP address.")
    port: Port = Field(description="TCP port.")
    deliver: bool = Field(True, description="Whether routes without destinations send here.")
    calling_ae_title: AETitle | None = Field(
        None, description="How this node calls itself there; scp.ae_title where absent."
    )
    proof: Proof = Field(
        Proof.AUTO,
        description="How it is asked whether it holds a result: by storage commitment, which it"
        " reports to this node's scp.port; by C-FIND; or not. `auto` takes what it offers.",
    )
    tls: TlsSettings | None = Field(None, description="Mutual TLS; plain TCP where absent.")


class Condition(_Section):
    """What a header value must satisfy; every part that is given must hold."""

    equals: str | float | None = Field(None, description="Equal to this value.")
    one_of: list[str | float] | None = Field(None, description="Equal to one of these.")
    regex: str | None = Field(None, description="Matches this regular expression somewhere.")
    min: float | None = Field(None, description="A number, and not below this.")
    max: float | None = Field(None, description="A number, and not above this.")
    excludes: str | list[str] | None = Field(
        None, description="None of the values is one of these."
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a condition needs one of equals, one_of, regex, min, max, excludes")
        return self


def _as_condition(value: Any) -> Any:
    """Short forms: ``Modality = "CT"`` and ``Modality = ["CT", "PT"]``."""
    if isinstance(value, list):
        return {"one_of": value}
    return {"equals": value} if isinstance(value, str | int | float) else value


class RouteSettings(_Section):
    """Which series becomes a job, of which model, for whom.

    Where none is listed, one route named `bone` takes every series of Modality CT with two
    instances or more whose Image Type is not LOCALIZER, to every destination with `deliver = true`.
    """

    name: Name = Field(description="Name of the route.")
    model: str = Field("builtin:bone", description="Model that the series is run through.")
    priority: Priority | None = Field(None, description="Priority; the source's own where absent.")
    destinations: list[str] | None = Field(
        None, description="Names of destinations; every one with deliver = true where absent."
    )
    called_ae_title: AETitle | None = Field(
        None, description="Only series that called this AE title; it is then accepted as well."
    )
    series: Literal["all", "thinnest", "largest"] = Field(
        "all", description="Which series of a study this route takes."
    )
    match: dict[str, Condition] = Field(
        default_factory=dict,
        description="Conditions on keywords of PS3.6 and on `instances`; all must hold.",
    )

    @field_validator("match", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {keyword: _as_condition(condition) for keyword, condition in value.items()}
        return value


DEFAULT_ROUTE = RouteSettings(
    name="bone",
    match={
        "Modality": Condition(equals="CT"),
        "ImageType": Condition(excludes="LOCALIZER"),
        "instances": Condition(min=2),
    },
)


class PipelineSettings(_Section):
    """Workers and the limits that keep the queue from congesting the system."""

    model: str = Field("builtin:bone", description="Model of the route that stands for none.")
    models_dir: Path | None = Field(None, description="Folder of model folders.")
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = Field(
        "auto", description="Worker processes; auto is one a GPU, else one for every two cores."
    )
    running_max: int = Field(8, ge=1, le=10_000, description="Jobs between admission and delivery.")
    waiting_max: int = Field(
        100_000, ge=1, description="Waiting jobs at which new associations are turned away."
    )
    disk_reserve_gb: float = Field(
        2.0, ge=0, description="Free space (10^9 bytes) below which nothing more is accepted."
    )
    attempts_max: int = Field(3, ge=1, le=20, description="Attempts of one stage of a job.")
    lease_s: Seconds = Field(60.0, gt=0, description="Lease of a running stage; it is renewed.")
    stage_timeout_s: Seconds = Field(
        1800.0, gt=0, description="A stage that runs longer is killed and tried again."
    )
    ahead: bool = Field(
        True, description="Run a series that looks whole while its quiet time still lasts."
    )
    generations: Generations = Field(
        Generations.REPLACE, description="What late slices of a complete series do."
    )


class ClusterSettings(_Section):
    """GPUs on several machines, by the extra `osteon[cluster]`; this host alone where absent."""

    scheduler: str = Field(
        pattern=r"^tls://(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}$",
        description="Address of the scheduler: `tls://HOST:PORT`.",
    )
    certificate: Path = Field(description="PEM file with this host's certificate.")
    key: Path = Field(description="PEM file with the private key of the certificate.")
    ca: Path = Field(description="PEM file with the CA that signed the cluster's certificates.")
    input: Literal["shared", "value"] = Field(
        "value",
        description="How workers get at a series: by a folder that they share with the node, or by"
        " value, over the network with the request.",
    )
    shared_data_dir: Path | None = Field(
        None,
        description="On a worker: where the node's data_dir is mounted; the same path if absent.",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_secured(cls, value: Any) -> Any:
        """Say why it is refused: Dask runs code for whoever may connect."""
        if not isinstance(value, dict):
            return value
        scheduler = value.get("scheduler")
        if isinstance(scheduler, str) and not scheduler.startswith("tls://"):
            raise ValueError(
                f"scheduler {scheduler!r} would be reached without encryption, and a cluster runs"
                " code for everybody who reaches it: write tls://HOST:PORT"
            )
        absent = [name for name in ("certificate", "key", "ca") if not value.get(name)]
        if absent:
            raise ValueError(
                f"{', '.join(absent)} missing: a cluster is joined by mutual TLS only; `osteon"
                " cluster ca` writes the files and the section"
            )
        return value


class DeliverySettings(_Section):
    """How often it is tried to send results, and reports of storage commitment."""

    retry_first_s: Seconds = Field(5.0, gt=0, description="Wait after the first failed attempt.")
    retry_max_s: Seconds = Field(900.0, gt=0, description="Longest wait between attempts.")
    give_up_s: Seconds = Field(
        7 * 86400.0, gt=0, description="A result that could not be sent for this long has failed."
    )


class HttpSettings(_Section):
    """The HTTP API."""

    host: Host = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="TCP port to listen on.")
    token_file: Path | None = Field(
        None, description="File whose first line is the bearer token that every call must carry."
    )
    upload_bytes_max: int = Field(
        8 * 2**30, ge=2**20, description="An upload longer than this is refused."
    )


class LogSettings(_Section):
    """What the node writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level.")
    format: Literal["console", "json"] = Field("console", description="For people or programs.")


def _check_keywords(route: RouteSettings) -> None:
    """Refuse a keyword that no header can have: the route would silently take nothing."""
    if not route.match:
        return
    # pydicom's dictionary takes longer to load than all the rest, and few commands need routes.
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - see above

    for keyword in route.match:
        if keyword != "instances" and keyword not in keyword_dict:
            close = difflib.get_close_matches(keyword, ["instances", *keyword_dict], n=1)
            cure = f"did you mean {close[0]!r}?" if close else "see PS3.6 for what there is"
            raise ValueError(
                f"route {route.name!r} asks for {keyword!r}, which is no keyword of DICOM; {cure}"
            )


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
        Path("data"), description="Local folder of the spool, the job table and the results."
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
        names = [destination.name for destination in self.destination]
        for kind, listed in (("destination", names), ("route", [r.name for r in self.route])):
            twice = {name for name in listed if listed.count(name) > 1}
            if twice:
                raise ValueError(f"{kind} {sorted(twice)[0]!r} is listed twice: rename one")
        for route in self.route:
            _check_keywords(route)
            for name in route.destinations or ():
                if name not in names:
                    raise ValueError(
                        f"route {route.name!r} sends to {name!r}, which no [[destination]] is named"
                    )
        return self

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

    def hears(self, calling_ae_title: str) -> bool:
        """Return whether a peer may report storage commitment that it was asked for."""
        return any(
            d.ae_title == calling_ae_title and d.proof in {Proof.AUTO, Proof.COMMITMENT}
            for d in self.destination
        )

    def source_of(self, calling_ae_title: str) -> SourceSettings | None:
        """Return the source that calls itself so, or None."""
        return next((s for s in self.source if s.ae_title == calling_ae_title), None)
