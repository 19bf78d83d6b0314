"""What the parts of the body are called in SNOMED CT, by the names that TotalSegmentator gives.

The name of a structure enters, its codes, side and colour leave. Called where a model folder is
described. The table is that of TotalSegmentator, ``totalsegmentator_snomed_mapping.csv`` (Apache
License 2.0), of which columns were left out, one row put in, ``bone`` for all of them, and three
put right: ``gluteus_minimus`` had the code of the gluteus medius, both subclavian arteries that of
the right one. https://github.com/wasserth/TotalSegmentator
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from osteon.results.segment import Code


@dataclass(frozen=True)
class Structure:
    """A part of the body.

    Attributes
    ----------
    name : str
        Such as ``"femur_left"``.
    category, type : Code
        Segmented Property Category and Type, in SNOMED CT.
    laterality : {"left", "right"}, optional
        The side, where the name has one.
    rgb : tuple of int
        The colour that TotalSegmentator shows it in.
    """

    name: str
    category: Code
    type: Code
    laterality: Literal["left", "right"] | None
    rgb: tuple[int, int, int]

    @property
    def label(self) -> str:
        """The name for people: ``"Femur left"``."""
        words = self.name.replace("_", " ")
        return words[:1].upper() + words[1:]


def structure(name: str) -> Structure | None:
    """Return the structure of a name, or None where the table does not hold it.

    Parameters
    ----------
    name : str
        Case does not count, and spaces are as good as underscores.
    """
    return _table().get(name.strip().lower().replace(" ", "_"))


@cache
def _table() -> dict[str, Structure]:
    text = (files("osteon.results") / "anatomy.csv").read_text(encoding="utf-8")
    return {row["name"].lower(): _structure(row) for row in csv.DictReader(text.splitlines())}


def _structure(row: dict[str, str]) -> Structure:
    sides: dict[str, Literal["left", "right"]] = {"left": "left", "right": "right"}
    return Structure(
        row["name"],
        Code(row["category"], "SCT", row["category_meaning"]),
        Code(row["type"], "SCT", row["type_meaning"]),
        sides.get(row["laterality"]),
        (int(row["red"]), int(row["green"]), int(row["blue"])),
    )
