"""Numbers and times as a person reads them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three digits for people, with a proper minus; a dash for what is not known.

    >>> number(0.5), number(-1234.5), number(250.0), number(None)
    ('0.500', '−1234', '250', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    whole = value == 0 or abs(value) >= 1000
    text = f"{value:.0f}" if whole else f"{value:#.3g}".removesuffix(".")
    return text.replace("-", "−")


def duration(seconds: float | None) -> str:
    """In two units at most, the larger first; a dash for what is not known.

    >>> duration(42), duration(200), duration(7500), duration(26 * 3600), duration(None)
    ('42 s', '3 min 20 s', '2 h 5 min', '26 h 0 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def age(seconds: float) -> str:
    """How long ago, in one unit.

    >>> age(59), age(3 * 60), age(47 * 3600), age(48 * 3600)
    ('59 s', '3 min', '47 h', '2 d')
    """
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(seconds, 0) // unit:.0f} {name}"
    return f"{seconds // 86400:.0f} d"
