"""Numbers too small to be normal, with which a processor computes far more slowly."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LEAST_NORMAL = sys.float_info.min  # a name, so that Python does not halve it beforehand


def are_flushed() -> bool:
    """Whether they are zero already, in this thread."""
    return _LEAST_NORMAL / 2 == 0.0


@contextmanager
def flushed() -> Iterator[None]:
    """Within the block, or a function that it decorates, they are zero, in this thread and on the CPU.

    Adam's first moment of a parameter without a gradient is multiplied by beta at every update until it is
    the least denormal number, and stays there: beta times that is rounded up to it. So each dead unit, and
    each expert that is not chosen, makes every update slower. What is lost, below 1.2e-38, is nothing to the
    1e-8 that Adam adds to its denominator.
    """
    before = are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
