"""How close a decoded table is to the original: relative error and row cosines."""

import math
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
    error, energy, cosines = 0.0, 0.0, []
    start = 0
    for _, block in row_blocks(original.detach()):
        rows = block.double()  # (n, d)
        decoded = approximation.detach()[start : start + len(block)].to(rows)  # (n, d)
        start += len(block)
        error += float((rows - decoded).square().sum())
        energy += float(rows.square().sum())
        cosines.append(_row_cosines(rows, decoded).cpu())
    cosine = torch.cat(cosines)  # (V,)
    return Fidelity(_ratio(error, energy), float(cosine.mean()), _quantile(cosine, 0.01))


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
