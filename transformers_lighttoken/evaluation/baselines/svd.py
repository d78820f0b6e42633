"""Truncated singular value decomposition: two factors of rank k."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...coding.budget import largest_fitting
from ...coding.low_rank import low_rank
from .baseline import Baseline, Size, store


@dataclass(frozen=True)
class RankBaseline(Baseline):
    """A method whose size is a rank.

    Attributes:
        dtype: in which everything is stored.
    """

    dtype: torch.dtype

    def smallest(self, num_rows: int, dim: int) -> Size:
        """Rank 1."""
        return {"rank": 1}

    def largest(self, weight: Tensor, budget: int) -> Size:
        """The largest rank that fits, at most d - 1."""
        num_rows, dim = weight.shape
        rank = largest_fitting(1, dim - 1, lambda rank: self.stored_bytes(num_rows, dim, {"rank": rank}) <= budget)
        return {"rank": rank or 1}


@dataclass(frozen=True)
class TruncatedSvd(RankBaseline):
    """E ~ A R with A (V, k) and R (k, d), the best rank-k approximation, from the d x d Gram matrix."""

    def stored_bytes(self, num_rows: int, dim: int, size: Size) -> int:
        """Counts k (V + d) numbers."""
        return size["rank"] * (num_rows + dim) * self.dtype.itemsize

    def reconstruct(self, weight: Tensor, size: Size, seed: int) -> Tensor:
        """Rounds both factors to `dtype` and multiplies them; there is nothing random."""
        left, right = svd_factors(weight, size["rank"])
        return store(left, self.dtype) @ store(right, self.dtype)


def svd_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-k factors of a table of any scale.

    Args:
        weight: (V, d) float32.
        rank: k, from 1 to d - 1.

    Returns:
        left (V, k) and right (k, d) with orthonormal rows, float32.
    """
    scale = root_mean_square(weight) * weight.shape[1] ** 0.5  # rows of norm about 1
    left, right = low_rank(weight / scale, rank)
    return left * scale, right


def root_mean_square(weight: Tensor) -> float:
    """Root of the mean squared entry; 1 for a table of zeros."""
    return float(weight.double().square().mean().sqrt()) or 1.0
