"""The configuration reference: every key with its type, limits, default, meaning and variable.

The schema of `Settings` enters, Markdown leaves; ``osteon config reference`` prints it and
``docs/configuration.md`` is its output.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from osteon.config.settings import Settings

_PREAMBLE = """\
# Configuration

One TOML file, all of it optional. In force is the first of: the file that `--config` names, the
one that `OSTEON_CONFIG` names, `osteon.toml` in the working directory, `/etc/osteon/osteon.toml`;
without any, the defaults below; one that may be in force and cannot be read is an error. The
variables of the last column win over the file; a list is given as JSON in the variable of its
section. An unknown key is an error, and so is a variable that looks like a misspelt one; others
that begin with `OSTEON_` are left alone. `osteon config show` prints what is in force, `osteon
config check` says what is wrong with it.

This page is printed by `osteon config reference` from the schema.
"""
_LIMITS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("maxLength", "≤ {} characters"),
)
_MATCH = (
    "A text or a number alone is `equals`, a list alone is `one_of`:"
    ' `match = { Modality = "CT", SliceThickness = { max = 5.0 } }`.'
)
_FORMATS = {"path": "path", "string": "text", "integer": "integer", "number": "number"}

Schema = Mapping[str, Any]


def reference() -> str:
    """Write the reference as Markdown."""
    schema = Settings.model_json_schema()
    lines = [_PREAMBLE, *_section("## Top of the file", "", schema, schema, "OSTEON_")]
    return "\n".join(lines).rstrip() + "\n"


def _section(
    title: str, about: str, section: Schema, schema: Schema, prefix: str, place: str = ""
) -> Iterator[str]:
    """Write one section with its keys, then the sections within it.

    `prefix` is what its keys' variables start with, and empty within a list, which has one
    variable as a whole.
    """
    yield f"{title}\n\n{about}\n" if about else f"{title}\n"
    inner = {key: _inner_section(prop, schema) for key, prop in section["properties"].items()}
    yield from _table(
        {k: p for k, p in section["properties"].items() if not inner[k]}, schema, prefix
    )
    for key, found in inner.items():
        if found is None:
            continue
        kind, within = found
        name, variable = f"{place}{key}", f"{prefix}{key.upper()}"
        about = within["description"]
        if kind == "list":
            about += f" One section each, or all as a JSON list in `{variable}`."
            yield from _section(f"## `[[{name}]]`", about, within, schema, "", f"{name}.")
        elif kind == "table":
            about = f"{section['properties'][key]['description']} {about} {_MATCH}"
            yield from _section(f"## `{name}`", about, within, schema, "", f"{name}.")
        else:
            yield from _section(
                f"## `[{name}]`", about, within, schema, f"{variable}__", f"{name}."
            )


def _table(properties: Schema, schema: Schema, prefix: str) -> Iterator[str]:
    variable_column = bool(prefix)
    yield "| key | type | default | meaning |" + (" variable |" if variable_column else "")
    yield "|---|---|---|---|" + ("---|" if variable_column else "")
    for key, prop in properties.items():
        meaning = prop.get("description", "")
        line = f"| `{key}` | {_type(prop, schema)} | {_default(prop)} | {meaning} |"
        yield f"{line} `{prefix}{key.upper()}` |" if variable_column else line
    yield ""


def _inner_section(prop: Schema, schema: Schema) -> tuple[str, Schema] | None:
    """Return the section that a key holds, and whether it is one, a list or a table of them."""
    table = prop.get("additionalProperties")
    options: list[tuple[str, Schema]] = [("one", one) for one in (prop, *prop.get("anyOf", ()))]
    options += [("list", prop.get("items", {})), ("table", table if table else {})]
    for kind, option in options:
        target = _resolve(option, schema)
        if "properties" in target:
            return kind, target
    return None


def _resolve(prop: Schema, schema: Schema) -> Schema:
    if "$ref" not in prop:
        return prop
    target: Schema = schema["$defs"][prop["$ref"].rsplit("/", 1)[-1]]
    return target


def _type(prop: Schema, schema: Schema) -> str:
    prop = _resolve(prop, schema)
    if "anyOf" in prop:
        kinds = [_type(one, schema) for one in prop["anyOf"] if one.get("type") != "null"]
        return " or ".join(kinds)
    if "enum" in prop or "const" in prop:
        return ", ".join(f"`{value}`" for value in prop.get("enum", [prop.get("const")]))
    if prop["type"] == "array":
        return f"list of {_type(prop['items'], schema)}"
    kind: str = prop.get("format", prop["type"])
    name = _FORMATS.get(kind, kind)
    if "exclusiveMinimum" in prop:
        prop = {key: value for key, value in prop.items() if key != "minimum"}
    limits = [text.format(f"{prop[key]:.10g}") for key, text in _LIMITS if key in prop]
    return f"{name} {', '.join(limits)}" if limits else name


def _default(prop: Schema) -> str:
    if "default" not in prop:
        return "required"
    default = prop["default"]
    return "none" if default is None else f"`{json.dumps(default)}`"
