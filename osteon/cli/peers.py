"""Whom ``send``, ``echo`` and ``verify --pacs`` call: a destination by its name or its address."""

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from osteon.config.load import words_of
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
        The port or an AE title is none.
    """
    if calling is not None:
        calling = _ae_title(calling, "--calling-ae-title")
    for destination in settings.destination:
        if destination.name == name:
            peer = peer_of(destination, settings.scp.ae_title)
            return replace(peer, calling_ae_title=calling or peer.calling_ae_title)
    host, _, port = name.rpartition(":")[0].rpartition(":")
    if host:
        ae_title = _ae_title(name.rpartition(":")[2], f"{name!r}: AE title")
        if not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(f"{name!r}: the port is 1 to 65535, not {port!r}")
        return Destination(ae_title, host.strip("[]"), int(port), calling or settings.scp.ae_title)
    known = ", ".join(destination.name for destination in settings.destination) or "none"
    raise NotFoundError(f"no destination {name!r}: listed are {known}; or write HOST:PORT:AE_TITLE")


def _ae_title(value: str, what: str) -> str:
    try:
        return TypeAdapter(AETitle).validate_python(value)
    except ValidationError as error:
        why = words_of(error.errors()[0])
        raise ConfigError(f"{what} {value!r}: {why[0].lower()}{why[1:]}") from error
