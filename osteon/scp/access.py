"""Who may call: pure functions from what a peer says of itself to an answer.

Settings and the titles and address of a caller enter; None, or the reason of an A-ASSOCIATE-RJ,
leaves. An AE title is not authentication: where that is needed, mutual TLS is (PS3.15 B.12).
"""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from osteon.config.settings import Settings, SourceSettings


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason of PS3.8 Table 9-21, and why in words."""

    result: int
    source: int
    reason: int
    why: str

    @property
    def triple(self) -> tuple[int, int, int]:
        """Result, source and reason as they stand in the PDU."""
        return self.result, self.source, self.reason


def unknown_calling(calling_ae_title: str, address: str) -> Rejection:
    """Rejected permanent, by the service user: calling AE title not recognized."""
    return Rejection(1, 1, 3, f"no [[source]] allows {calling_ae_title!r} from {address}")


def unknown_called(called_ae_title: str) -> Rejection:
    """Rejected permanent, by the service user: called AE title not recognized."""
    return Rejection(1, 1, 7, f"this node does not answer to {called_ae_title!r}")


def malformed(why: str) -> Rejection:
    """Rejected permanent, by the ACSE-related provider: no reason given (the Standard has none)."""
    return Rejection(1, 2, 1, why)


def congested(why: str) -> Rejection:
    """Rejected transient, by the presentation-related provider: temporary congestion."""
    return Rejection(2, 3, 1, why)


def too_many(settings: Settings, open_addresses: Collection[str], address: str) -> Rejection | None:
    """Rejected transient, by the presentation-related provider: local limit exceeded; or None.

    Parameters
    ----------
    open_addresses : collection of str
        Where the associations that are open come from, one entry each.
    address : str
        Where one more would come from.

    References
    ----------
    DICOM PS3.8 9.3.4
    """
    count = sum(other == address for other in open_addresses)
    if count >= settings.scp.associations_per_address_max:
        why = f"{count} associations from {address} are open (scp.associations_per_address_max)"
        return Rejection(2, 3, 2, why)
    if len(open_addresses) >= settings.scp.associations_max:
        why = f"{len(open_addresses)} associations are open (scp.associations_max)"
        return Rejection(2, 3, 2, why)
    return None


def check_titles(
    settings: Settings, calling_ae_title: str, called_ae_title: str, address: str
) -> Rejection | None:
    """Return why a caller is turned away, or None.

    Where no source is listed, any caller may, but only from a loopback address.

    Parameters
    ----------
    address : str
        The IP address it calls from, version 4 or 6.

    References
    ----------
    DICOM PS3.8 9.3.4
    """
    # A destination may report what it was asked for, and do nothing else.
    if not is_source(settings, calling_ae_title, address) and not settings.hears(calling_ae_title):
        return unknown_calling(calling_ae_title, address)
    if called_ae_title not in settings.called_ae_titles:
        return unknown_called(called_ae_title)
    return None


def is_source(settings: Settings, calling_ae_title: str, address: str) -> bool:
    """Return whether a caller may store, and ask for storage commitment."""
    if settings.source:
        return any(_is_from(s, calling_ae_title, address) for s in settings.source)
    return _parsed(address).is_loopback


def _is_from(source: SourceSettings, calling_ae_title: str, address: str) -> bool:
    # Spaces around an AE title are not significant (PS3.5 6.2).
    if source.ae_title.strip() != calling_ae_title:
        return False
    if source.address is None:
        return True
    return _parsed(address) in ipaddress.ip_network(source.address, strict=False)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; one of version 4 that a version 6 socket tells of is of version 4."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
