"""Whom ``send``, ``echo`` and ``verify --pacs`` call: a destination by its name or its address."""

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from osteon.config.settings import AETitle, Settings
from osteon.errors import ConfigError, NotFoundError
from osteon.pipeline.delivery import peer_of
from osteon.results.peer import Destination


def peer_named(settings: Settings, name: str, calling: str | None = None) -> Destination:
    """Return the destination of this name.

    Parameters
    ----------
    name : str
        A ``[[destination]]`` of the configuration, or ``HOST:PORT:AE_TITLE``.
    calling : str, optional
        Calling AE title instead of the configuration's.

    Raises
    ------
    NotFoundError
        It is neither.
    ConfigError
        The calling AE title is none.
    """
    if calling is not None:
        calling = _ae_title(calling)
    for destination in settings.destination:
        if destination.name == name:
            peer = peer_of(destination, settings.scp.ae_title)
            return replace(peer, calling_ae_title=calling or peer.calling_ae_title)
    host, _, rest = name.rpartition(":")[0].rpartition(":")
    ae_title = name.rpartition(":")[2]
    if host and rest.isdecimal() and 0 < int(rest) < 2**16 and 0 < len(ae_title) <= 16:
        return Destination(ae_title, host.strip("[]"), int(rest), calling or settings.scp.ae_title)
    known = ", ".join(destination.name for destination in settings.destination) or "none"
    raise NotFoundError(f"no destination {name!r}: listed are {known}; or write HOST:PORT:AE_TITLE")


def _ae_title(value: str) -> str:
    try:
        return TypeAdapter(AETitle).validate_python(value)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise ConfigError(f"--calling-ae-title {value!r}: {why[0].lower()}{why[1:]}") from error
