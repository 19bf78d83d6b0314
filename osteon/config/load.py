"""Find the configuration file, read it, put the environment over it, and say clearly what is wrong.

Called once by every command; a `Settings` leaves, or a `ConfigError` of one line that names file,
key and cure. ``config check`` is told all that is wrong.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from osteon.config.settings import Settings
from osteon.config.values import PATTERN_WORDS
from osteon.errors import ConfigError

SYSTEM_PATH = Path("/etc/osteon/osteon.toml")
PREFIX = str(Settings.model_config.get("env_prefix"))
Loc = tuple[int | str, ...]
_LISTED = frozenset({"source", "destination", "route"})
# How like a variable another one must be to be taken for a misspelt one.
_LIKENESS = 0.84
_TYPES = frozenset({"str", "int", "float", "constrained-int", "constrained-float"})


def find_config(path: Path | None = None) -> Path | None:
    """Return the configuration file in force, or None where the defaults are.

    Parameters
    ----------
    path : Path, optional
        The value of ``--config``; it wins over ``OSTEON_CONFIG``, ``./osteon.toml`` and
        ``/etc/osteon/osteon.toml``, in this order.
    """
    named = path or (Path(os.environ["OSTEON_CONFIG"]) if os.environ.get("OSTEON_CONFIG") else None)
    if named is not None:
        return named
    return next((p for p in (Path("osteon.toml"), SYSTEM_PATH) if _is_there(p)), None)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # What may be in force is not passed over: reading it says why it cannot be.


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings in force.

    Raises
    ------
    ConfigError
        The file cannot be read, or a key or value is wrong; of several faults the first is told.
    """
    read = _read(path)
    if isinstance(read, Settings):
        return read
    more = f" (and {len(read) - 1} more)" if len(read) > 1 else ""
    raise ConfigError(f"{read[0]}{more}")


def faults_of_file(path: Path | None = None) -> list[str]:
    """Return every fault of the settings in force, each with its place, key and cure.

    Raises
    ------
    ConfigError
        The file cannot be read, or is not TOML.
    """
    read = _read(path)
    return [] if isinstance(read, Settings) else read


def _read(path: Path | None) -> Settings | list[str]:
    """Return the settings in force, or all that is wrong with them."""
    found = find_config(path)
    values = {} if found is None else _read_toml(found)
    faults = list(_variable_faults())
    environment: dict[str, Any] = {}
    try:
        environment = EnvSettingsSource(Settings)()
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        named = f"{PREFIX}{field[1].upper()}" if field else f"environment: {error}"
        return [*faults, f"{named}: lists are written as JSON, and this is none"]
    try:
        settings = Settings.model_validate(_overlay(values, environment))
    except ValidationError as error:
        for loc, text in _cures(error):
            place = _variable_of(loc, environment)
            faults.append(f"{place or ('environment' if found is None else found)}: {text}")
        return faults
    return faults or settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file: name an existing one with --config or OSTEON_CONFIG"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}: name one that this user can read, with"
            " --config or OSTEON_CONFIG"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: cannot be read: byte {error.start} is no UTF-8: save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(lower, Mapping)
        merged[key] = _overlay(lower, value) if both else value  # type: ignore[arg-type] # both
    return merged


def _variable_faults() -> Iterator[str]:
    """Name variables that are none and look like one: pydantic would silently leave them out."""
    for variable in sorted(os.environ):
        section, nested, _ = variable.upper().removeprefix(PREFIX).partition("__")
        if not variable.upper().startswith(PREFIX):
            continue
        if not nested:
            # Other programs have such names too: an orchestrator's OSTEON_SCHEDULER_PORT is one.
            known = _variables()
            meant = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=_LIKENESS)
            if meant and variable.upper() not in known:
                yield f"{variable}: unknown variable; did you mean {meant[0]}?"
        elif section.lower() not in Settings.model_fields:
            known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
            close = difflib.get_close_matches(f"{PREFIX}{section}", known, n=1)
            cure = f"did you mean {close[0]}__…?" if close else f"known are {', '.join(known)}"
            yield f"{variable}: unknown variable; {cure}"


def _variables() -> list[str]:
    """Return every variable that is read; a whole section may be given as JSON in its own."""
    names = ["config"]
    for name, field in Settings.model_fields.items():
        section = None if name in _LISTED else _model_of(field.annotation)
        names += [name, *(f"{name}__{key}" for key in (section.model_fields if section else ()))]
    return [f"{PREFIX}{name}".upper() for name in names]


def _variable_of(loc: Sequence[int | str], environment: Mapping[str, Any]) -> str | None:
    """Return the variable that a wrong value came from, or None where it came from the file."""
    found: Any = environment
    names: list[str] = []
    for part in loc:
        if not isinstance(found, Mapping) or part not in found:
            break
        names.append(str(part))
        found = found[part]
    whole = bool(names) and not isinstance(found, Mapping)
    return PREFIX + "__".join(names).upper() if whole else None


def _key_of(loc: Sequence[int | str]) -> str:
    # Of a value that may be of several types, the last part names the type that was tried.
    parts = [p for p in loc if isinstance(p, int) or (p not in _TYPES and "[" not in p)]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts)[1:]
    return key or "settings"


def _cures(error: ValidationError) -> Iterator[tuple[Loc, str]]:
    """Yield every wrong key once: where it is, and what is wrong with it in one line."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for one in error.errors():
        by_key.setdefault(_key_of(one["loc"]), []).append(one)
    for key, errors in by_key.items():
        for text in _cure(key, errors):
            yield errors[0]["loc"], f"{key}: {text}"


def _cure(key: str, errors: Sequence[ErrorDetails]) -> list[str]:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        given = str(first["loc"][-1])
        begun = [key for key in known if key.startswith(given)]
        close = begun or difflib.get_close_matches(given, known, n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return [f"unknown key; {cure}"]
    if first["type"] == "missing":
        return ["missing; add it to the section"]
    if first["type"] == "model_type":
        return [f"write it as a section of its own, [{key}]"]
    if first["type"] == "list_type" and key in _LISTED:
        return [f"write it as [[{key}]], once for each"]
    texts = [words_of(one) for one in errors]
    if not first["loc"]:
        return texts[0].splitlines()  # What several sections do not agree on, a line each.
    text = " or ".join(t[0].lower() + t[1:] for t in texts)
    value = first["input"]
    told = not isinstance(value, str | int | float) or repr(value) in text
    return [text if told else f"{text}, not {value!r}"]


def words_of(error: ErrorDetails) -> str:
    """Return what is wrong with a value; of a pattern, what it asks for.

    Parameters
    ----------
    error : ErrorDetails
        One of the errors of a pydantic `ValidationError`.
    """
    if error["type"] == "string_pattern_mismatch":
        return PATTERN_WORDS[error["ctx"]["pattern"]]
    if error["type"] == "path_type":
        return "write a path in quotes"
    return error["msg"].removeprefix("Value error, ")


def _known_keys(parents: Iterable[int | str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in parents:
        # List positions and the keys of a free table such as route.match are no fields.
        if isinstance(part, str) and part in model.model_fields:
            model = _model_of(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_of(inner)
        if found is not None:
            return found
    return None
