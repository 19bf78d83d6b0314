"""Whom ``send``, ``echo`` and ``verify --pacs`` call: a destination by its name or its address."""

from osteon.config.settings import Settings
from osteon.errors import NotFoundError
from osteon.pipeline.delivery import peer_of
from osteon.results.scu import Destination


def peer_named(settings: Settings, name: str) -> Destination:
    """Return the destination of this name.

    Parameters
    ----------
    name : str
        A ``[[destination]]`` of the configuration, or ``HOST:PORT:AE_TITLE``.

    Raises
    ------
    NotFoundError
        It is neither.
    """
    for destination in settings.destination:
        if destination.name == name:
            return peer_of(destination, settings.scp.ae_title)
    host, _, rest = name.rpartition(":")[0].rpartition(":")
    ae_title = name.rpartition(":")[2]
    if host and rest.isdecimal() and 0 < int(rest) < 2**16 and 0 < len(ae_title) <= 16:
        return Destination(ae_title, host.strip("[]"), int(rest), settings.scp.ae_title)
    known = ", ".join(destination.name for destination in settings.destination) or "none"
    raise NotFoundError(f"no destination {name!r}: listed are {known}; or write HOST:PORT:AE_TITLE")
