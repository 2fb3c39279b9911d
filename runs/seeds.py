"""Seeds as people write them: ``0-4`` or ``0,3,7``."""

from __future__ import annotations

from .errors import SpecError

MOST_SEEDS = 100_000
"""More is a slip of the finger, and would fill the memory before anything else is said."""


def parse_seeds(text: str) -> list[int]:
    """The seeds that ``text`` names, in its order and each once.

    >>> parse_seeds("0-2, 7, 1")
    [0, 1, 2, 7]

    Raises:
        SpecError: it is neither numbers nor ranges, or names more than MOST_SEEDS.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(n.isascii() and n.isdecimal() and len(n) < 19 for n in numbers):
            raise SpecError(f"seeds {text!r}: expected numbers and ranges such as 0-4 or 0,3,7")
        low, high = int(first), int(last or first)
        if high < low:
            raise SpecError(f"seeds {text!r}: expected numbers and ranges such as 0-4 or 0,3,7")
        if high - low >= MOST_SEEDS:
            raise SpecError(f"seeds {text!r}: these are {high - low + 1:,}; at most {MOST_SEEDS:,} at a time")
        seeds.update(dict.fromkeys(range(low, high + 1)))
    return list(seeds)
