"""Who may call, and with which answer the others are turned away."""

import pytest

from osteon.config.settings import Settings
from osteon.scp.access import check_titles, congested, malformed, too_many

OPEN = Settings()
LISTED = Settings.model_validate(
    {
        "source": [
            {"ae_title": "CT1", "address": "10.0.0.5"},
            {"ae_title": "CT1", "address": "2001:db8::/32"},
            {"ae_title": "NET", "address": "10.1.0.0/16"},
            {"ae_title": "ANY"},
        ],
        "route": [{"name": "hand", "called_ae_title": "HANDS"}],
    }
)
UNKNOWN_CALLING, UNKNOWN_CALLED = (1, 1, 3), (1, 1, 7)  # PS3.8 Table 9-21


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.5", False),
        ("::ffff:10.0.0.5", False),
        ("2001:db8::1", False),
        ("0.0.0.0", False),
    ],
)
def test_without_sources_any_caller_on_loopback_and_nobody_else(
    address: str, allowed: bool
) -> None:
    rejection = check_titles(OPEN, "WHOEVER", "OSTEON", address)

    assert rejection is None if allowed else rejection.triple == UNKNOWN_CALLING


@pytest.mark.parametrize(
    ("calling", "address", "allowed"),
    [
        ("CT1", "10.0.0.5", True),
        ("CT1", "::ffff:10.0.0.5", True),
        ("CT1", "2001:db8::7", True),
        ("CT1", "10.0.0.6", False),
        ("CT1", "127.0.0.1", False),
        ("NET", "10.1.255.3", True),
        ("NET", "10.2.0.1", False),
        ("NET", "::1", False),
        ("ANY", "203.0.113.9", True),
        ("any", "203.0.113.9", False),
        ("CT2", "10.0.0.5", False),
        ("", "10.0.0.5", False),
    ],
)
def test_with_sources_title_and_address_both_count(
    calling: str, address: str, allowed: bool
) -> None:
    rejection = check_titles(LISTED, calling, "OSTEON", address)

    assert rejection is None if allowed else rejection.triple == UNKNOWN_CALLING


@pytest.mark.parametrize(
    ("called", "allowed"), [("OSTEON", True), ("HANDS", True), ("osteon", False), ("PACS", False)]
)
def test_every_called_title_of_a_route_is_answered(called: str, allowed: bool) -> None:
    rejection = check_titles(LISTED, "ANY", called, "10.0.0.1")

    assert rejection is None if allowed else rejection.triple == UNKNOWN_CALLED


def test_an_unknown_caller_does_not_learn_which_titles_are_answered() -> None:
    rejection = check_titles(LISTED, "NOBODY", "NOTHING", "10.0.0.1")

    assert rejection is not None
    assert rejection.triple == UNKNOWN_CALLING


def test_the_other_answers() -> None:
    assert congested("x").triple == (2, 3, 1)
    assert malformed("x").triple == (1, 2, 1)


def test_each_address_has_its_own_limit() -> None:
    settings = Settings.model_validate(
        {"scp": {"associations_max": 5, "associations_per_address_max": 3}}
    )
    crowd = ["10.0.0.5"] * 3

    assert too_many(settings, crowd[:2], "10.0.0.5") is None
    assert too_many(settings, crowd, "10.0.0.6") is None
    one = too_many(settings, crowd, "10.0.0.5")
    everyone = too_many(settings, [*crowd, "10.0.0.6", "::1"], "10.0.0.7")

    assert one is not None
    assert one.triple == (2, 3, 2)
    assert one.why == "3 associations from 10.0.0.5 are open (scp.associations_per_address_max)"
    assert everyone is not None
    assert everyone.triple == (2, 3, 2)
    assert everyone.why == "5 associations are open (scp.associations_max)"


def test_a_busy_archive_fits_beside_one_broken_sender() -> None:
    broken = ["10.0.0.5"] * Settings().scp.associations_per_address_max

    for count in range(50):
        assert too_many(Settings(), [*broken, *["10.0.0.6"] * count], "10.0.0.6") is None
