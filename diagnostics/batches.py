"""Taking batches apart: how many samples, and which."""

from typing import Any

from torch import Tensor

from .errors import EmptyBatch


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch] if batch.dim() else []
    if isinstance(batch, dict):
        return [tensor for part in batch.values() for tensor in _tensors(part)]
    if isinstance(batch, tuple | list):
        return [tensor for part in batch for tensor in _tensors(part)]
    return []


def sample_count(batch: Any) -> int:
    """Length of the sample axis.

    Raises:
        EmptyBatch: there is no tensor, or none has a sample, or their lengths differ.
    """
    lengths = {len(tensor) for tensor in _tensors(batch)}
    if len(lengths) > 1:
        raise EmptyBatch(
            f"the tensors of the batch have {sorted(lengths)} samples; their first axis must agree"
        )
    if not lengths or lengths == {0}:
        raise EmptyBatch("the batch holds no sample; gather at least one")
    return lengths.pop()


def take(batch: Any, index: slice | Tensor) -> Any:
    """The batch restricted to some samples; numbers and scalars stay as they are."""
    if isinstance(batch, Tensor):
        return batch[index] if batch.dim() else batch
    if isinstance(batch, dict):
        return {name: take(part, index) for name, part in batch.items()}
    if isinstance(batch, tuple):
        parts = [take(part, index) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, list):
        return [take(part, index) for part in batch]
    return batch


def split(batch: Any, size: int) -> tuple[list[Any], list[float]]:
    """Micro-batches of at most ``size`` samples and their shares of all samples, which sum to 1."""
    total = sample_count(batch)
    parts = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    return [take(batch, part) for part in parts], [(part.stop - part.start) / total for part in parts]
