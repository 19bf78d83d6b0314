"""The section ``[run]`` of a ``model.toml``, changed in place: all else stays as somebody wrote it.

A model folder and values enter, the file gets them. Called by ``osteon models verify --write``.
"""

import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from osteon.errors import ModelError
from osteon.pipeline.models.modelspec import SPEC_FILE, ModelSpec, read_spec

HEADER = re.compile(r"\s*\[\s*run\s*\]\s*(#.*)?")


def run_lines(values: Mapping[str, str | bool]) -> list[str]:
    """Return values of ``[run]`` as lines of TOML."""
    return [f"{key} = {_toml(value)}" for key, value in values.items()]


def write_run(folder: Path, values: Mapping[str, str | bool]) -> None:
    """Put values into the section ``[run]`` of a model folder.

    Raises
    ------
    ModelError
        The file cannot be written, or it says ``run`` in a way that is not changed here.
    """
    path = folder / SPEC_FILE
    before = read_spec(folder)
    text = with_run(path.read_text(encoding="utf-8"), values)
    wanted = before.model_copy(update={"run": before.run.model_copy(update=dict(values))})
    try:
        is_right = ModelSpec.model_validate(tomllib.loads(text)) == wanted
    except (tomllib.TOMLDecodeError, ValidationError):
        is_right = False
    if not is_right:
        raise ModelError(
            f"{path}: its run stands in no section [run] of plain lines: write there yourself: "
            f"{'; '.join(run_lines(values))}"
        )
    draft = path.with_suffix(".new")
    try:
        draft.write_text(text, encoding="utf-8")
        shutil.copymode(path, draft)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def with_run(text: str, values: Mapping[str, str | bool]) -> str:
    """Return the text of a ``model.toml`` with other values in ``[run]``; comments stay."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if HEADER.fullmatch(line)), None)
    if start is None:
        return "\n".join([*lines, "", "[run]", *run_lines(values)]) + "\n"
    after = (n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("["))
    end = next(after, len(lines))
    while not lines[end - 1].strip():
        end -= 1
    section = lines[start + 1 : end]
    for key, line in zip(values, run_lines(values), strict=True):
        place = re.compile(rf"\s*{key}\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s#]+)(\s*#.*)?\s*")
        found = [(n, match) for n, old in enumerate(section) if (match := place.fullmatch(old))]
        for number, match in found:
            section[number] = line + (match[2] or "")
        if not found:
            section.append(line)
    return "\n".join([*lines[: start + 1], *section, *lines[end:]]) + "\n"


def _toml(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'
