"""``docs/input.md`` tells every reason for which a series is refused."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "input.md").read_text(encoding="utf-8")
MODULES = ("images/geometry", "images/header", "images/pixels", "volume")


def reasons() -> list[tuple[str, str]]:
    """The longest unchanging part of every message that refuses a series."""
    found = []
    for module in MODULES:
        source = (ROOT / "osteon" / "pipeline" / f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if called and node.func.id in {"VolumeError", "mapped_errors"} and node.args:
                parts = getattr(node.args[0], "values", [node.args[0]])
                texts = [str(p.value) for p in parts if isinstance(p, ast.Constant)]
                longest = max(texts, key=len, default="").strip()
                if len(longest) > 4:  # Else the words come from the caller.
                    found.append((module, longest))
    return found


def test_the_messages_are_found() -> None:
    assert len(reasons()) > 20


@pytest.mark.parametrize(("module", "words"), reasons())
def test_every_refusal_is_documented(module: str, words: str) -> None:
    assert words.removeprefix(": ").rstrip(".: ") in PAGE, f"{module}.py: {words!r}"
