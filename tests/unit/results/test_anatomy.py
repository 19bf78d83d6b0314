"""Names, codes and sides of the parts of the body."""

from collections import defaultdict

import pytest

from osteon.results import anatomy
from osteon.results.anatomy import structure


def test_a_name_gives_codes_and_side() -> None:
    femur = structure("Femur left")
    assert femur is not None
    assert (femur.label, femur.type.value, femur.laterality) == ("Femur left", "71341001", "left")
    assert structure("femur_of_a_horse") is None


def test_sides_of_one_structure_have_one_code() -> None:
    """A code that a structure has on one side only is the code of another structure."""
    codes = defaultdict(set)
    for name, found in anatomy._table().items():
        plain = name.replace("_left", "").replace("_right", "")
        codes[plain].add(found.type.value)
    differing = {name for name, values in codes.items() if len(values) > 1}
    # Each atrium and ventricle has a code of its own, which names the side.
    assert differing == {"heart_atrium", "heart_ventricle"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_is_that_of_the_name(side: str) -> None:
    for name, found in anatomy._table().items():
        if found.laterality == side:
            assert side in name.split("_")
