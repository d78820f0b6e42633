"""Small tables for the baselines."""

import torch
from torch import Tensor


def small_table(rows: int = 600, dim: int = 24, seed: int = 0) -> Tensor:
    """Correlated columns of falling variance, with a mean, and rows of different norms."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=random)).Q * torch.linspace(1, 0.1, dim)
    table = torch.randn(rows, dim, generator=random) @ mixing.t() + 0.2
    return table * (0.5 + torch.rand(rows, 1, generator=random))


def relative_error(table: Tensor, decoded: Tensor) -> float:
    return float((table.double() - decoded.double()).square().sum() / table.double().square().sum())
