"""Who may call: one bearer token for everything but liveness and the pages, which hold no data.

The settings enter, a `Guard` around the application leaves; ``app.py`` puts it there. It also
refuses calls that a foreign web page makes in a visitor's browser, and sets the security headers.
"""

import hmac
import ipaddress
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from osteon.config.settings import HttpSettings
from osteon.errors import ConfigError
from osteon.http.problem import problem

# A browser cannot put a token on a page that it opens; these are the same for everybody.
OPEN_PATHS = frozenset({"/healthz", "/", "/api/docs"})
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cache-Control": "no-store",
}
log = structlog.get_logger(__name__)


def read_token(settings: HttpSettings) -> str | None:
    """Return the token that calls must carry, or None where none is configured.

    Raises
    ------
    ConfigError
        The file cannot be read, or its first line is empty.
    """
    path = settings.token_file
    if path is None:
        if not is_loopback(settings.host):
            log.warning(
                "http without token",
                host=settings.host,
                cure="set http.token_file: anybody who reaches this address can read images",
            )
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"http.token_file: {path} cannot be read: {error}") from error
    token = lines[0].strip() if lines else ""
    if not token:
        raise ConfigError(f"http.token_file: the first line of {path} is empty: write a token")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listening address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware that lets a call through or answers 401 or 403.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    token : str or None
        The bearer token (RFC 6750 section 2.1), or None where every caller is let in.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_secured(message: MutableMapping[str, Any]) -> None:
            """Send an answer with the headers that keep a browser from doing harm with it."""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        path = scope["path"]
        if scope["method"] not in {"GET", "HEAD"} and _is_cross_site(headers):
            detail = "a page of another site made this call in a browser, which is refused"
            await problem(path, HTTPStatus.FORBIDDEN, detail)(scope, receive, send_secured)
        elif path in OPEN_PATHS or self._carries_token(headers):
            await self._app(scope, receive, send_secured)
        else:
            detail = "this call needs the header `Authorization: Bearer TOKEN` with the node's own"
            challenge = {"WWW-Authenticate": 'Bearer realm="osteon"'}
            answer = problem(path, HTTPStatus.UNAUTHORIZED, detail, headers=challenge)
            await answer(scope, receive, send_secured)

    def _carries_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token)
        return same and scheme.lower() == "bearer"


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site makes this call.

    Browsers send Sec-Fetch-Site to loopback and where TLS is spoken alone. Elsewhere the Origin of
    the page (RFC 6454) is compared with the host that was called; programs send neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"none", "same-origin"}
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")
