"""What every verb shares: where it prints, how it exits, how it refuses."""

from typing import Literal

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BAD_INPUT = 2
"""Exit code of everything that the person at the keyboard can mend."""
FAILED = 1
INTERRUPTED = 130

Device = Literal["auto", "cpu", "cuda"]


class Usage(ValueError):
    """Arguments that do not go together."""
