"""Small constant tensors, made once for each device."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def constant(make: Callable[..., tuple[Any, ...]], *arguments: Hashable, device: torch.device) -> Tensor:
    """A float32 tensor of constant values. While a graph is traced it becomes part of the graph.

    Args:
        make: gives the values, as (nested) tuples of floats. The tensor is kept under this function and its arguments:
            to look it up by the values themselves would take longer than most uses of it.
        *arguments: of `make`.
        device: of the tensor.
    """
    if torch.compiler.is_compiling():
        return torch.tensor(make(*arguments), dtype=torch.float32, device=device)
    return _kept(make, arguments, device)


@lru_cache(maxsize=128)
def _kept(make: Callable[..., tuple[Any, ...]], arguments: tuple[Hashable, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that training can use it too
        return torch.tensor(make(*arguments), dtype=torch.float32, device=device)


def values_of_bytes(values: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """What the codes in every byte stand for, the first one in its highest bits: (256, 8 / bits of a code).

    Args:
        values: of each code; 2, 4, 16 or 256 of them.
    """
    bits = (len(values) - 1).bit_length()
    return tuple(
        tuple(values[byte >> shift & len(values) - 1] for shift in range(8 - bits, -1, -bits)) for byte in range(256)
    )
