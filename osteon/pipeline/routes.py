"""Routes: which series becomes a job. Headers and routes enter; decisions with their reason leave.

Pure functions: the observer calls them when a series is complete, ``osteon routes test`` with the
headers of a folder, ``osteon routes diff`` with the series on record. Patterns are searched, never
evaluated as code.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osteon.config.settings import Condition, RouteSettings

INSTANCES = "instances"
_DECIMAL = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([Ee][+-]?[0-9]+)? *")
Values = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Candidate:
    """A series as routes see it.

    Attributes
    ----------
    values : mapping
        Keyword of PS3.6 → its values as text, of the first instance.
    instances : int
        How many are held.
    """

    series_instance_uid: str
    called_ae_title: str
    values: Values
    instances: int


@dataclass(frozen=True)
class Decision:
    """What one route says of one series, and which condition decided.

    Attributes
    ----------
    passed_over_for : str or None
        Series Instance UID of the one series of its study that the route takes instead, where all
        its conditions hold.
    """

    route: RouteSettings
    taken: bool
    why: str
    passed_over_for: str | None = None


def decide(routes: Sequence[RouteSettings], candidate: Candidate) -> list[Decision]:
    """Ask every route about a series, without a look at the rest of its study."""
    return [_ask(route, candidate) for route in routes]


def decide_in_study(
    routes: Sequence[RouteSettings], candidate: Candidate, study: Sequence[Candidate]
) -> list[Decision]:
    """Ask every route about a series; ``thinnest`` and ``largest`` look at the rest of its study.

    Parameters
    ----------
    study : sequence of Candidate
        All series of its study, itself among them.
    """
    return [_in_study(decision, candidate, study) for decision in decide(routes, candidate)]


def choose(route: RouteSettings, candidates: Sequence[Candidate]) -> Candidate:
    """Return the series of a study that a ``thinnest`` or ``largest`` route takes.

    Parameters
    ----------
    candidates : sequence of Candidate
        The series of one study that meet the route's conditions; at least one.
    """

    def thickness(candidate: Candidate) -> float:
        """Slice Thickness (0018,0050) in mm; one without it is the thickest."""
        value = _number(next(iter(candidate.values.get("SliceThickness", ())), ""))
        return float("inf") if value is None else value

    if route.series == "thinnest":
        return min(candidates, key=lambda c: (thickness(c), -c.instances, c.series_instance_uid))
    return min(candidates, key=lambda c: (-c.instances, thickness(c), c.series_instance_uid))


def _in_study(decision: Decision, candidate: Candidate, study: Sequence[Candidate]) -> Decision:
    route = decision.route
    if not decision.taken or route.series == "all":
        return decision
    chosen = choose(route, [rival for rival in study if _ask(route, rival).taken])
    uid = chosen.series_instance_uid
    if uid == candidate.series_instance_uid:
        return decision
    return Decision(route, False, f"the {route.series} series of its study is {uid}", uid)


def _ask(route: RouteSettings, candidate: Candidate) -> Decision:
    called = route.called_ae_title
    if called is not None and candidate.called_ae_title != called:
        why = f"called AE title is {candidate.called_ae_title}, not {called}"
        return Decision(route, False, why)
    for keyword, condition in route.match.items():
        values = (
            [str(_images(candidate))]
            if keyword == INSTANCES
            else list(candidate.values.get(keyword, ()))
        )
        fault = _fault(keyword, condition, values)
        if fault is not None:
            return Decision(route, False, fault)
    return Decision(route, True, "every condition holds" if route.match else "no condition")


def _images(candidate: Candidate) -> int:
    """Count the images of a series: a multi-frame instance holds as many as it has frames."""
    frames = next(iter(candidate.values.get("NumberOfFrames", ())), "")
    return candidate.instances * (int(frames) if frames.isdecimal() else 1)


def _fault(keyword: str, condition: Condition, values: list[str]) -> str | None:
    """Return why a condition does not hold, or None. With several values, one must hold."""
    shown = "\\".join(values)
    if condition.excludes is not None:
        unwanted = condition.excludes
        for value in [unwanted] if isinstance(unwanted, str) else unwanted:
            if any(_equal(value, v) for v in values):
                return f"{keyword} is {shown}, which contains {value}"
    if condition.model_fields_set <= {"excludes"}:
        return None
    if not values:
        return f"{keyword} is absent"
    if condition.regex is not None and not any(re.search(condition.regex, v) for v in values):
        return f"{keyword} is {shown}, which does not match {condition.regex}"
    return _value_fault(keyword, condition, values, shown) or _range_fault(
        keyword, condition, values, shown
    )


def _value_fault(keyword: str, condition: Condition, values: list[str], shown: str) -> str | None:
    if condition.equals is not None and not _is_one_of([condition.equals], values, shown):
        return f"{keyword} is {shown}, not {condition.equals}"
    if condition.one_of is not None and not _is_one_of(condition.one_of, values, shown):
        return f"{keyword} is {shown}, none of {', '.join(map(str, condition.one_of))}"
    return None


def _range_fault(keyword: str, condition: Condition, values: list[str], shown: str) -> str | None:
    numbers = [n for n in map(_number, values) if n is not None]
    bounded = condition.min is not None or condition.max is not None
    if bounded and not numbers:
        return f"{keyword} is {shown}, not a number"
    not_below = [n for n in numbers if condition.min is None or n >= condition.min]
    if condition.min is not None and not not_below:
        return f"{keyword} is {shown}, below {condition.min:g}"
    if condition.max is not None and not any(n <= condition.max for n in not_below):
        return f"{keyword} is {shown}, above {condition.max:g}"
    return None


def _is_one_of(wanted: Sequence[str | float], values: list[str], joined: str) -> bool:
    return any(_equal(w, v) for w in wanted for v in (*values, joined))


def _equal(wanted: str | float, value: str) -> bool:
    if isinstance(wanted, str):
        return wanted == value
    return _number(value) == wanted


def _number(value: str) -> float | None:
    """Return a Decimal or Integer String as a number (PS3.5 6.2); None for NaN and the like."""
    number = float(value) if _DECIMAL.fullmatch(value) else None
    return number if number is not None and math.isfinite(number) else None
