"""The sections that decide what becomes a job: routes and the conditions of their `match`.

`settings.py` puts them together; `pipeline/routes.py` decides by them.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from osteon.config.values import AETitle, Name, Priority, Section


class Condition(Section):
    """What a header value must satisfy; every part that is given must hold."""

    equals: str | float | None = Field(None, description="Equal to this value.")
    one_of: list[str | float] | None = Field(None, description="Equal to one of these.")
    regex: str | None = Field(None, description="Matches this regular expression somewhere.")
    min: float | None = Field(None, description="A number, and not below this.")
    max: float | None = Field(None, description="A number, and not above this.")
    excludes: str | list[str] | None = Field(
        None, description="None of the values is one of these."
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("a condition needs one of equals, one_of, regex, min, max, excludes")
        if self.one_of == []:
            raise ValueError("one_of is empty: no value could be one of these")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no number is between")
        return self


def _as_condition(value: Any) -> Any:
    """Short forms: ``Modality = "CT"`` and ``Modality = ["CT", "PT"]``."""
    if isinstance(value, list):
        return {"one_of": value}
    return {"equals": value} if isinstance(value, str | int | float) else value


class RouteSettings(Section):
    """Which series becomes a job, of which model, for whom.

    Where none is listed, one route named `bone` takes every series of Modality CT with two
    instances or more whose Image Type is not LOCALIZER, to every destination with `deliver = true`.
    """

    name: Name = Field(description="Name of the route.")
    model: str = Field("builtin:bone", description="Model that the series is run through.")
    priority: Priority | None = Field(None, description="Priority; the source's own where absent.")
    destinations: list[str] | None = Field(
        None, description="Names of destinations; every one with deliver = true where absent."
    )
    called_ae_title: AETitle | None = Field(
        None, description="Only series that called this AE title; it is then accepted as well."
    )
    series: Literal["all", "thinnest", "largest"] = Field(
        "all", description="Which series of a study this route takes."
    )
    shadow: tuple[str, ...] = Field(
        (),
        description="Models that run beside the first on the same series, each as a job of its own"
        " that delivers nothing; what they find is compared with the first's. One name or a list.",
    )
    match: dict[str, Condition] = Field(
        default_factory=dict,
        description="Conditions on keywords of PS3.6 and on `instances`, of which a multi-frame one"
        " counts as its frames; all must hold.",
    )

    @field_validator("shadow", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("shadow")
    @classmethod
    def _are_others(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        model = info.data.get("model")
        if model in value:
            raise ValueError(f"{model!r} is the route's own model: it cannot be its own shadow")
        if len(set(value)) < len(value):
            raise ValueError("a model is named twice: name each once")
        return value

    @field_validator("match", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {keyword: _as_condition(condition) for keyword, condition in value.items()}
        return value


DEFAULT_ROUTE = RouteSettings(
    name="bone",
    match={
        "Modality": Condition(equals="CT"),
        "ImageType": Condition(excludes="LOCALIZER"),
        "instances": Condition(min=2),
    },
)


def keyword_faults(route: RouteSettings) -> Iterator[str]:
    """Name keywords that no header can have: the route would silently take nothing."""
    if not route.match:
        return
    # pydicom's dictionary takes longer to load than all the rest, and few commands need routes.
    from pydicom.datadict import keyword_dict  # noqa: PLC0415 - see above

    for keyword in route.match:
        if keyword != "instances" and keyword not in keyword_dict:
            close = difflib.get_close_matches(keyword, ["instances", *keyword_dict], n=1)
            cure = f"did you mean {close[0]!r}?" if close else "see PS3.6 for what there is"
            yield f"route {route.name!r} asks for {keyword!r}, which is no keyword of DICOM; {cure}"
