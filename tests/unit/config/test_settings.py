"""Settings: frozen, complete, and with one place for what follows from them."""

import pytest
from pydantic import BaseModel, ValidationError

from osteon.config.settings import DEFAULT_ROUTE, Condition, Settings

PACS = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}


def test_nothing_can_be_set_afterwards():
    settings = Settings(source=[{"ae_title": "A"}], destination=[PACS], route=[{"name": "r"}])
    parts = [settings, *(v for _, v in settings if isinstance(v, BaseModel))]
    parts += [settings.source[0], settings.destination[0], settings.route[0]]
    assert len(parts) >= 9
    for part in parts:
        name = next(iter(type(part).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, getattr(part, name))


def test_every_key_is_described():
    def undescribed(model, prefix=""):
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from undescribed(kind, f"{prefix}{name}.")
            elif not field.description and name not in ("source", "destination", "route"):
                yield prefix + name

    assert list(undescribed(Settings)) == []


def test_short_forms_of_conditions():
    match = {"Modality": "CT", "SeriesNumber": 4, "BodyPartExamined": ["HIP", "PELVIS"]}
    (route,) = Settings(route=[{"name": "r", "match": match}]).route
    assert route.match == {
        "Modality": Condition(equals="CT"),
        "SeriesNumber": Condition(equals=4.0),
        "BodyPartExamined": Condition(one_of=["HIP", "PELVIS"]),
    }


def test_one_source_may_call_from_several_addresses():
    several = [{"ae_title": "A", "address": f"10.0.0.{n}", "weight": 2} for n in (1, 2)]
    settings = Settings(source=[*several, {"ae_title": "B"}])
    assert [source.address for source in settings.source] == ["10.0.0.1", "10.0.0.2", None]


def test_the_default_route_has_the_configured_model():
    (route,) = Settings(pipeline={"model": "my:model"}).routes
    assert route.model == "my:model"
    assert route.match == DEFAULT_ROUTE.match
    assert [r.name for r in Settings(route=[{"name": "mine"}]).routes] == ["mine"]


def test_a_route_without_destinations_sends_to_all_that_take_results():
    archive = PACS | {"name": "archive", "deliver": False}
    routes = [
        {"name": "all"},
        {"name": "one", "destinations": ["archive"]},
        {"name": "none", "destinations": []},
    ]
    settings = Settings(destination=[PACS, archive], route=routes)
    names = [[d.name for d in settings.destinations_of(r)] for r in settings.routes]
    assert names == [["pacs"], ["archive"], []]


def test_called_ae_titles_are_those_of_node_and_routes():
    settings = Settings(route=[{"name": "a", "called_ae_title": "BONES"}, {"name": "b"}])
    assert settings.called_ae_titles == {"OSTEON", "BONES"}


def test_spaces_around_an_ae_title_mean_nothing():
    settings = Settings(scp={"ae_title": " MY NODE "}, source=[{"ae_title": "CT1  "}])
    assert settings.scp.ae_title == "MY NODE"
    assert settings.source_of("CT1") is settings.source[0]
    assert settings.source_of("CT2") is None


@pytest.mark.parametrize(
    "address", ["10.0.0.5", "10.0.0.0/24", "10.0.0.5/24", "::1", "fd00::/8", None]
)
def test_addresses_and_networks(address):
    assert Settings(source=[{"ae_title": "A", "address": address}]).source[0].address == address
