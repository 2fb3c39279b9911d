"""How arms are drawn: no two alike."""

from types import SimpleNamespace
from typing import Any

from pliant.runs.report.looks import DASHES, FRESH, looks


def comparison(*arms: str) -> Any:
    return SimpleNamespace(arms=[SimpleNamespace(label=arm, fresh=arm == "reset") for arm in arms])


def test_no_two_arms_look_alike_and_fresh_agents_like_none_of_them() -> None:
    found = looks(comparison("reset", *(f"arm-{number}" for number in range(21))))
    fresh = found.pop("reset")
    assert (fresh.colour, fresh.dash) == (FRESH, "--")
    assert len({(look.colour, look.dash) for look in found.values()}) == 21
    assert all(look.colour != FRESH and look.dash != "--" for look in found.values())
    assert {look.dash for look in found.values()} < DASHES.keys()


def test_the_arms_after_the_21st_are_drawn_as_the_first_ones_again() -> None:
    found = list(looks(comparison(*(f"arm-{number}" for number in range(22)))).values())
    assert found[21] == found[0]
