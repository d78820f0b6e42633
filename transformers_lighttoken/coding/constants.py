"""Small constant tensors, made once for each device."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A float32 tensor of constant values. While a graph is traced it becomes part of the graph.

    Args:
        values: (nested) tuples of floats.
        device: of the tensor.
    """
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=torch.float32, device=device)
    return _kept(values, device)


@lru_cache(maxsize=128)
def _kept(values: tuple[Any, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that training can use it too
        return torch.tensor(values, dtype=torch.float32, device=device)


@lru_cache(maxsize=1)
def signs_of_bytes() -> tuple[tuple[float, ...], ...]:
    """The eight bits of every byte as -1 and +1, most significant first: (256, 8)."""
    return tuple(tuple(1.0 if byte >> bit & 1 else -1.0 for bit in range(7, -1, -1)) for byte in range(256))
