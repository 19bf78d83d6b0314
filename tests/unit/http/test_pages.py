"""The pages need nothing from another host, and the reference tells all that OpenAPI does."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from osteon.errors import InvalidUIDError, NotFoundError, StaleTransition
from osteon.http.app import create_app
from osteon.http.page import page_of
from osteon.http.problem import slug_of, title_of
from osteon.http.reference import render_reference
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from tests.http_parts import http_settings

ROOM = Path(__file__).parents[3] / "osteon" / "http"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    settings, table = http_settings(tmp_path), open_table(tmp_path)
    yield create_app(settings, table, Intake(settings, table))
    table.close()


@pytest.mark.parametrize("name", ["page.html", "reference.html"])
def test_nothing_comes_from_elsewhere(name: str) -> None:
    html = (ROOM / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[a-z]|@import|url\(", html)


def test_the_policy_names_what_is_inline_and_nothing_more() -> None:
    page = page_of("<style>a{}</style><script>1</script>")
    assert page.policy.count("sha256-") == 2
    assert "unsafe" not in page.policy
    assert page_of("<p>x</p>").policy.startswith(
        "default-src 'none'; style-src 'none'; script-src 'none';"
    )
    assert page_of("<script>2</script>").policy != page_of("<script>1</script>").policy


def test_no_attribute_carries_style_or_script() -> None:
    """The policy would stop them silently."""
    for name in ("page.html", "reference.html"):
        assert not re.findall(r"<\w+[^>]*\s(?:style|on\w+)=", (ROOM / name).read_text())


def test_the_reference_shows_every_call_and_object(app: FastAPI) -> None:
    schema = app.openapi()
    html = render_reference(schema)
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in html
    for name in schema["components"]["schemas"]:
        assert f'id="{name}"' in html
    anchors = set(re.findall(r'id="([^"]+)"', html))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= anchors
    assert slug_of(NotFoundError) in anchors
    assert "Successful Response" not in html


def test_markup_in_a_description_stays_text(app: FastAPI) -> None:
    schema = app.openapi()
    schema["info"]["description"] = "<script>alert(1)</script> `<b>`"
    html = render_reference(schema)
    assert "<script>" not in html
    assert "<code>&lt;b&gt;</code>" in html


def test_openapi_says_that_every_failure_is_a_problem(app: FastAPI) -> None:
    schema = app.openapi()
    answers = [
        response
        for operations in schema["paths"].values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if status >= "400"
    ]
    assert len(answers) > 10
    for response in answers:
        assert response["content"] == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
    assert "HTTPValidationError" not in str(schema)


@pytest.mark.parametrize(
    ("kind", "slug", "title"),
    [
        (NotFoundError, "not-found", "Not found"),
        (StaleTransition, "stale-transition", "Stale transition"),
        (InvalidUIDError, "invalid-uid", "Invalid UID"),
    ],
)
def test_names_of_problems(kind: type, slug: str, title: str) -> None:
    assert (slug_of(kind), title_of(kind)) == (slug, title)
