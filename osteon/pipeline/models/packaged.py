"""Models that installed packages bring: found by their entry points, made, and looked at.

The name of an entry point of the group ``osteon.models`` enters; an object leaves that has all that
the two stations ask of a model. Called by `osteon.pipeline.models.model`. What the package does
wrong is mapped here: to a `ModelError` that names the package, the object and the reason.
"""

import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from osteon.errors import ModelError, OsteonError, WorkerLostError
from osteon.pipeline.models.modelspec import SegmentSpec

ENTRY_POINT_GROUP = "osteon.models"
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc")
TEXT_MAX = 64  # Characters of a Long String (LO, PS3.5 Table 6.2-1): both stand in results.


def installed_models() -> list[tuple[str, str]]:
    """Return name and version of the models that installed packages bring, none of them loaded."""
    found = entry_points(group=ENTRY_POINT_GROUP)
    return sorted((one.name, one.dist.version if one.dist else "") for one in found)


def package_of(name: str) -> str:
    """Return the packages that bring a model, with their versions; "" where none does."""
    return ", ".join(_package(one) for one in entry_points(group=ENTRY_POINT_GROUP, name=name))


def load_packaged(name: str) -> Any:
    """Return the model of an entry point, or None where no package brings one of this name.

    Raises
    ------
    ModelError
        Several packages bring it; it cannot be imported or made; or it lacks something.
    WorkerLostError
        There is not enough memory to make it now.
    """
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        return None
    if len(found) > 1:
        raise ModelError(
            f"model {name!r}: several packages bring it: {package_of(name)}: uninstall all but one"
        )
    [entry] = found
    place = f"model {name!r} of the package {_package(entry)}"
    factory = _theirs(entry.load, f"{place}: {entry.value} cannot be imported")
    if not callable(factory):
        raise ModelError(
            f"{place}: {entry.value} is of the type {type(factory).__name__}; name a class or a "
            "function there that is called without arguments and returns a model"
        )
    model = _theirs(factory, f"{place}: {entry.value}() fails")
    faults = list(_faults(model, place))
    if faults:
        raise ModelError(
            f"{place}: {entry.value}() returns {type(model).__name__}, which is no model: "
            f"{'; '.join(faults)}"
        )
    return model


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "without a name"


def _theirs(code: Callable[[], Any], fails: str) -> Any:
    """Run code of a package, which may raise anything, and leave as if Osteon were its own."""
    try:
        return code()
    except (Exception, SystemExit) as error:
        raise _failure(fails, error) from error


def _failure(what: str, error: BaseException) -> OsteonError:
    if isinstance(error, OsteonError):
        return error
    if ran_out_of_memory(error):
        return WorkerLostError(f"{what} for want of memory: {error}")
    return ModelError(f"{what}: {reason_of(error)}")


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of somebody else's code means that memory did not suffice.

    Torch has a class of its own for a device that is full, and a sentence for a host; ITK and ONNX
    Runtime have sentences alone.
    """
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(said in words for said in OUT_OF_MEMORY)


def reason_of(error: BaseException) -> str:
    """Return an exception of somebody else's code in a line: its class, its words, its place."""
    frames = traceback.extract_tb(error.__traceback__)
    words = " ".join(str(error).split())
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if not frames or frames[-1].filename.startswith("<") or _is_here(frames[-1].filename):
        return said
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _is_here(filename: str) -> bool:
    """Return whether a place says nothing: it is in Python's importing, or in this module."""
    return Path(filename).parent.name in {"importlib", "metadata"} or filename == __file__


def _faults(model: object, place: str) -> Iterator[str]:
    """Yield what an object lacks to be a `osteon.pipeline.models.model.Model`.

    Raises
    ------
    OsteonError
        There is not enough memory to say so now, or the package raised it.
    """
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "name": (f"a text of 1 to {TEXT_MAX} characters", _is_text),
        "version": (f"a text of 1 to {TEXT_MAX} characters", _is_text),
        "kind": ("a text", _is_text),
        "digest": ("a SHA-256 in 64 hexadecimal digits", _is_digest),
        "dimension": ('"2d" or "3d"', lambda value: value in ("2d", "3d")),
        "segments": ("a tuple of SegmentSpec whose values differ", _are_segments),
        "predict": ("called with (hu_zyx, affine)", lambda value: _takes(value, 2)),
        "join": ("called with (prediction_zyx, volume)", lambda value: _takes(value, 2)),
    }
    for name, (wanted, is_right) in checks.items():
        try:
            value = getattr(model, name)
        except AttributeError:
            yield f"it has no {name}, which is {wanted}"
            continue
        except (Exception, SystemExit) as error:  # A property is code of the package, too.
            failure = _failure(f"{place}: its {name} fails", error)
            if not isinstance(failure, ModelError):
                raise failure from error
            yield f"its {name} fails: {reason_of(error)}"
            continue
        if not is_right(value):
            shown = "" if callable(value) else f" and not {str(value)[:40]!r}"
            yield f"its {name} has to be {wanted}{shown}"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value.strip()) <= len(value) <= TEXT_MAX


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _are_segments(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and all(isinstance(one, SegmentSpec) for one in value)
        and len({one.value for one in value}) == len(value)
    )


def _takes(value: object, count: int) -> bool:
    if not callable(value):
        return False
    try:
        inspect.signature(value).bind(*(None,) * count)
    except TypeError:
        return False
    except ValueError:  # A function in C may not say what it takes.
        return True
    return True
