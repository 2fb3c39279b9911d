"""Ctrl-C, once: finish the rollout, say how to go on. Twice: stop at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interrupt:
    """While entered, the first SIGINT only sets a flag; a second one interrupts as usual.

    Calling it tells whether the flag is set.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self.on_request = on_request
        self._requested = False
        self._previous: Any = None

    def __call__(self) -> bool:
        """Whether Ctrl-C has been pressed."""
        return self._requested

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        # Not what was there before: a shell starts what runs in its background with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.on_request()
