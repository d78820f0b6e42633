"""How close a decoded table is to the original: relative error and row cosines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..coding.reduction import row_blocks


@dataclass(frozen=True)
class Fidelity:
    """Closeness of a table E' to the original E.

    Attributes:
        relative_error: |E - E'|^2 / |E|^2; 0 for equal tables, infinite where only E is zero.
        cosine_mean: mean over the rows of cos(e, e').
        cosine_p01: its first percentile, linearly interpolated.
    """

    relative_error: float
    cosine_mean: float
    cosine_p01: float


def table_fidelity(original: Tensor, approximation: Tensor) -> Fidelity:
    """Compares two tables block by block; all sums in float64.

    The cosine of two zero rows is 1, that of a zero row and another is 0.

    Args:
        original: (V, d) floating-point.
        approximation: (V, d) floating-point, on any device.

    Raises:
        ValueError: if the shapes differ or are not (V, d).
    """
    if original.dim() != 2 or 0 in original.shape or original.shape != approximation.shape:
        raise ValueError(
            "original and approximation must be non-empty matrices of one shape (V, d), got "
            f"{tuple(original.shape)} and {tuple(approximation.shape)}."
        )
    return fidelity_of(block_fidelities(original, approximation))


def block_fidelities(original: Tensor, approximation: Tensor) -> list[Tensor]:
    """What each block of rows of a table adds to its fidelity (see `block_fidelity`)."""
    blocks = row_blocks(original.detach())
    return [block_fidelity(block, approximation.detach()[place]) for place, block in blocks]


def block_fidelity(original: Tensor, approximation: Tensor) -> Tensor:
    """What a block of rows adds to the fidelity of a table.

    Args:
        original: (n, d) floating-point.
        approximation: (n, d) floating-point, on any device.

    Returns:
        (2 + n,) float64 on the CPU: |E - E'|^2, |E|^2, and the cosine of each row.
    """
    rows = original.double()  # (n, d)
    decoded = approximation.to(rows)  # (n, d)
    sums = torch.stack([(rows - decoded).square().sum(), rows.square().sum()])
    return torch.cat([sums, _row_cosines(rows, decoded)]).cpu()


def fidelity_of(blocks: Sequence[Tensor]) -> Fidelity:
    """The fidelity of a table, from what its blocks of rows add, in their order."""
    error, energy = 0.0, 0.0
    for block in blocks:
        error += float(block[0])
        energy += float(block[1])
    cosine = cosines_of(blocks)
    return Fidelity(_ratio(error, energy), float(cosine.mean()), _quantile(cosine, 0.01))


def cosines_of(blocks: Sequence[Tensor]) -> Tensor:
    """The cosines of all rows, (V,) float64, from what blocks of rows add to the fidelity."""
    return torch.cat([block[2:] for block in blocks])


def _row_cosines(rows: Tensor, decoded: Tensor) -> Tensor:
    norms = rows.norm(dim=1) * decoded.norm(dim=1)  # (n,)
    both_zero = (rows == 0).all(dim=1) & (decoded == 0).all(dim=1)
    cosines = torch.where(norms > 0, (rows * decoded).sum(dim=1) / norms, 0.0)
    return torch.where(both_zero, 1.0, cosines)


def _ratio(error: float, energy: float) -> float:
    if energy > 0:
        return error / energy
    return math.inf if error > 0 else 0.0


def _quantile(values: Tensor, share: float) -> float:
    """Linearly interpolated quantile; `torch.quantile` refuses more than 2**24 values."""
    ordered = values.sort().values
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (position - below) * (ordered[above] - ordered[below]))
