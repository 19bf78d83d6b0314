"""Write settings as TOML: the standard library reads the format but does not write it.

Plain values enter (what ``model_dump(mode="json")`` gives), the text of a configuration file
leaves. Called by ``config show`` and by ``demo``, which writes the node's configuration.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+$")


def to_toml(values: Mapping[str, Any]) -> str:
    """Write a configuration: plain keys first, then sections, then lists of sections.

    Parameters
    ----------
    values : mapping
        Strings, numbers, booleans, lists and mappings; what is None is left out.
    """
    return "\n".join(_lines(values, "")).strip() + "\n"


def _lines(values: Mapping[str, Any], place: str) -> Iterator[str]:
    present = {key: value for key, value in values.items() if value is not None}
    for key, value in present.items():
        if not _is_section(key, value) and not _is_section_list(value):
            yield f"{_key(key)} = {_inline(value)}"
    for key, value in present.items():
        inner = f"{place}.{_key(key)}" if place else _key(key)
        if _is_section(key, value):
            yield f"\n[{inner}]"
            yield from _lines(value, inner)
        elif _is_section_list(value):
            for one in value:
                yield f"\n[[{inner}]]"
                yield from _lines(one, inner)


def _is_section(key: str, value: Any) -> bool:
    # Conditions read best in one line, as the documentation writes them.
    return isinstance(value, Mapping) and key != "match"


def _is_section_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_inline(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    # JSON's strings, numbers and booleans are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _inline(key)
