"""The pages for people: the status page at ``/`` and the API reference at ``/api/docs``.

Each is one self-contained document: nothing is fetched from another host, and its Content Security
Policy lets its own style and script run and nothing else.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from osteon.http.reference import render_reference

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Page:
    """A document and the policy that holds for it."""

    html: str
    policy: str

    def answer(self) -> HTMLResponse:
        """Return it as a response."""
        headers = {"Content-Security-Policy": self.policy, "Cache-Control": "no-cache"}
        return HTMLResponse(self.html, headers=headers)


def page_of(html: str) -> Page:
    """Return a page whose policy names the hashes of its inline styles and scripts.

    References
    ----------
    W3C Content Security Policy Level 3, section 2.3.1 (hash-source)
    """
    styles, scripts = (
        " ".join(_hash(text) for text in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL))
        for tag in ("style", "script")
    )
    nothing = "'none'"
    policy = (
        f"default-src 'none'; style-src {styles or nothing}; script-src {scripts or nothing};"
        " img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return Page(html, policy)


@router.get("/")
async def status_page() -> HTMLResponse:
    """Return the status page; it asks the API for everything that it shows."""
    return _status_page().answer()


@router.get("/api/docs")
async def reference(request: Request) -> HTMLResponse:
    """Return the API reference."""
    return page_of(render_reference(request.app.openapi())).answer()


@cache
def _status_page() -> Page:
    return page_of(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
