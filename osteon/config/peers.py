"""The sections about whoever is at the other end of the wire: senders, destinations, HTTP callers.

`settings.py` puts them together; the rest of the package takes them from there.
"""

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from osteon.config.values import AETitle, Host, Name, Port, Priority, Seconds, Section


class Proof(StrEnum):
    """What shows that a destination holds a result."""

    AUTO = "auto"
    COMMITMENT = "commitment"
    FIND = "find"
    NONE = "none"


class TlsSettings(Section):
    """Mutual TLS (PS3.15 B.12); all three files are needed."""

    certificate: Path = Field(description="PEM file with this node's certificate chain.")
    key: Path = Field(description="PEM file with the private key of the certificate.")
    ca: Path = Field(description="PEM file with the CA that signed the peers' certificates.")


class ScpSettings(Section):
    """The DICOM receiver."""

    ae_title: AETitle = Field("OSTEON", description="AE title that peers call.")
    host: Host = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - a DICOM node
    port: Port = Field(11112, description="TCP port to listen on.")
    quiet_s: Seconds = Field(
        5.0, description="A series is complete when no slice came for this long."
    )
    gap_wait_s: Seconds = Field(
        60.0,
        description="How long a series with missing slices, or whose sender was cut off, is waited"
        " for instead.",
    )
    associations_max: int = Field(128, ge=1, le=1000, description="Associations open at once.")
    associations_per_address_max: int = Field(
        64,
        ge=1,
        le=1000,
        description="Of these, from one IP address, so that one broken sender shuts nobody out.",
    )
    pdu_bytes: int = Field(
        131072, ge=4096, le=1048576, description="Longest PDU that peers may send (PS3.8 D.1)."
    )
    instance_bytes_max: int = Field(
        4 * 2**30, ge=2**20, description="A data set longer than this is refused."
    )
    fast: bool = Field(
        True, description="Take instances straight to the disk; pynetdicom's own way if false."
    )
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "auto",
        description="Processes that take instances; auto is one a core, up to 8. With 1, with TLS"
        " and without `fast` it is the receiver itself.",
    )
    acse_timeout_s: Seconds = Field(5.0, description="Deadline of association negotiation.")
    idle_timeout_s: Seconds = Field(300.0, description="A silent association is aborted after it.")
    commitment: bool = Field(
        False,
        description="Whether storage commitment is given: an instance is committed when it is whole"
        " on this node's disk and on record. It is kept until its series is purged, no longer.",
    )
    tls: TlsSettings | None = Field(None, description="Mutual TLS; plain TCP where absent.")


class SourceSettings(Section):
    """A peer that may send. Where none is listed, any caller on loopback may.

    One that calls from several addresses is listed once for each; all else must then be the same.
    """

    ae_title: AETitle = Field(description="Calling AE title.")
    address: str | None = Field(
        None, description="IP address or network (10.0.0.0/24) it must call from; any if absent."
    )
    weight: float = Field(1.0, gt=0, le=1000, description="Its share of the workers.")
    priority: Priority = Field(Priority.ROUTINE, description="Priority of its series.")
    running_max: int | None = Field(
        None, ge=1, description="Its jobs between admission and delivery; no own limit if absent."
    )
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


class DestinationSettings(Section):
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


class DeliverySettings(Section):
    """How often it is tried to send results, and reports of storage commitment."""

    retry_first_s: Seconds = Field(5.0, gt=0, description="Wait after the first failed attempt.")
    retry_max_s: Seconds = Field(900.0, gt=0, description="Longest wait between attempts.")
    give_up_s: Seconds = Field(
        7 * 86400.0, gt=0, description="A result that could not be sent for this long has failed."
    )

    @model_validator(mode="after")
    def _waits_grow(self) -> Self:
        if self.retry_first_s > self.retry_max_s:
            raise ValueError(
                f"retry_first_s is {self.retry_first_s:g} and retry_max_s {self.retry_max_s:g}:"
                " the first wait must not be longer than the longest"
            )
        return self


class HttpSettings(Section):
    """The HTTP API."""

    host: Host = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="TCP port to listen on.")
    token_file: Path | None = Field(
        None, description="File whose first line is the bearer token that every call must carry."
    )
    upload_bytes_max: int = Field(
        8 * 2**30, ge=2**20, description="An upload longer than this is refused."
    )
