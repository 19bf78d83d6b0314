"""Write the API reference as one HTML document from the OpenAPI document.

The OpenAPI document enters, HTML without script leaves; ``page.py`` serves it. It needs no network,
which a viewer that comes from elsewhere would.
"""

import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from string import Template
from typing import Any

from osteon.errors import OsteonError
from osteon.http.problem import slug_of, title_of

Schema = dict[str, Any]
_METHODS = ("get", "post", "put", "patch", "delete")


def render_reference(document: Schema) -> str:
    """Return the reference as HTML.

    Parameters
    ----------
    document : dict
        An OpenAPI 3.1 document.
    """
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in _METHODS
    ]
    tags = list(dict.fromkeys(operation["tags"][0] for _, _, operation in operations))
    groups = "".join(
        f'<section id="{escape(tag.lower())}"><h2>{escape(tag)}</h2>'
        + "".join(_operation(*o) for o in operations if o[2]["tags"][0] == tag)
        + "</section>"
        for tag in tags
    )
    names = [*tags, "Objects", "Problems"]
    schemas = document["components"]["schemas"]
    template = resources.files(__package__).joinpath("reference.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        version=escape(document["info"]["version"]),
        intro=_prose(document["info"]["description"]),
        links="".join(f'<a href="#{name.lower()}">{name}</a>' for name in names),
        groups=groups,
        objects="".join(_object(name, schemas[name]) for name in schemas),
        problems="".join(_problem(kind) for kind in _kinds(OsteonError)),
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    anchor = re.sub(r"\W+", "-", f"{method}{path}").strip("-")
    parameters = "".join(_parameter(p) for p in operation.get("parameters", ()))
    body = operation.get("requestBody", {}).get("content", {})
    sends = " or ".join(f"<code>{escape(kind)}</code>" for kind in body)
    answers = "".join(_answer(code, r) for code, r in sorted(operation["responses"].items()))
    return (
        f'<article id="{anchor}"><h3><span class="method {method}">{method.upper()}</span>'
        f'<a href="#{anchor}"><code>{escape(path)}</code></a></h3>'
        + _prose(str(operation.get("description") or operation["summary"]))
        + (f"<h4>Body</h4><p>{sends}</p>" if sends else "")
        + (f"<h4>Parameters</h4><dl>{parameters}</dl>" if parameters else "")
        + f"<h4>Answers</h4><dl>{answers}</dl></article>"
    )


def _parameter(parameter: Schema) -> str:
    schema = parameter["schema"]
    facts = [_type(schema), parameter["in"]]
    if "default" in schema and schema["default"] not in (None, ""):
        facts.append(f"default {escape(str(schema['default']))}")
    text = _inline(parameter.get("description") or schema.get("description", ""))
    name = escape(parameter["name"])
    return f"<dt><code>{name}</code> <i>{', '.join(facts)}</i></dt><dd>{text}</dd>"


def _answer(code: str, response: Schema) -> str:
    content = response.get("content", {})
    kinds = dict.fromkeys(_type(c.get("schema", {})) for c in content.values())
    gives = " or ".join(kind for kind in kinds if kind != "any")
    good = "good" if code < "400" else "bad"
    return (
        f'<dt><span class="code {good}">{escape(code)}</span> {gives}</dt>'
        f"<dd>{_inline(response.get('description', ''))}</dd>"
    )


def _object(name: str, schema: Schema) -> str:
    if "enum" in schema:
        values = ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
        rows = f"<p>One of {values}.</p>"
    else:
        fields = schema.get("properties", {})
        rows = "".join(
            f"<dt><code>{escape(field)}</code> <i>{_type(kind)}</i></dt>"
            f"<dd>{_inline(kind.get('description', ''))}</dd>"
            for field, kind in fields.items()
        )
        rows = f"<dl>{rows}</dl>"
    about = _prose(schema.get("description", ""))
    return f'<article id="{escape(name)}"><h3>{escape(name)}</h3>{about}{rows}</article>'


def _problem(kind: type[OsteonError]) -> str:
    about = (kind.__doc__ or "").strip().splitlines()[0]
    again = "The same call may succeed later." if kind.retryable else "A retry changes nothing."
    return (
        f'<article id="{slug_of(kind)}"><h3><span class="code bad">{kind.http_status}</span>'
        f"{title_of(kind)}</h3><p>{escape(about)} {again}</p></article>"
    )


def _kinds(kind: type[OsteonError]) -> Iterator[type[OsteonError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _type(schema: Schema) -> str:
    """Return a schema's type in words, with a link where it is an object of its own."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "bytes"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "any")))


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
