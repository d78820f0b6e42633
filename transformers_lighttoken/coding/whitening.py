"""A linear map after which errors in a metric are about plain ones, in few bytes. Beyond the paper.

A tier with a fixed rotation leaves errors of the same size in all directions. The best errors in a metric M are those
that are white after its root: small where M is large. The map back from there, the inverse root up to a factor, is
stored as W^-1 = I - F^T F, F (r x d) from the eigenvectors of the r largest eigenvalues of M; the others are taken for
equal.
"""

from math import log2

import torch
from torch import Tensor

from .quantize import dequantize_rows, quantize_rows

_MOST_SHRUNK = 0.95


def fit_whitening(metric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The stored factor F of a metric.

    Args:
        metric: (d, d) positive semi-definite M.
        rank: r, rows of F.

    Returns:
        int8 (r, d) and the bits of its scales, (r,) int16 (see `quantize.quantize_rows`).
    """
    values, vectors = torch.linalg.eigh(metric.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shrunk = 1 - (_rest(values, rank) / values[:rank].clamp(min=1e-30)).sqrt()  # (r,)
    factor = shrunk.clamp(0, _MOST_SHRUNK).sqrt().unsqueeze(1) * vectors[:, :rank].t()
    return quantize_rows(factor.float(), "int8")


def whitening_map(stored: Tensor, scale_bits: Tensor) -> Tensor:
    """W^T, to multiply rows by from the right. (d, d) float32."""
    factor = dequantize_rows(stored, scale_bits).double()
    back = torch.eye(factor.shape[1], dtype=torch.float64, device=factor.device) - factor.t() @ factor
    return torch.linalg.inv(back).float()


def unwhiten(rows: Tensor, factor: Tensor) -> Tensor:
    """Applies W^-1, which is symmetric, to rows (n, d)."""
    return rows - (rows @ factor.t()) @ factor


def bits_lost(eigenvalues: Tensor, rank: int) -> float:
    """Bits a value that white errors cost after a map of rank r, where what is coded is white in the metric.

    Args:
        eigenvalues: (d,) of the metric.
        rank: r.
    """
    values = eigenvalues.double().clamp(min=1e-12).sort(descending=True).values
    rest, tail = _rest(values, rank), values[rank:]
    energy = rank / rest + float((1 / tail).sum())
    error = rank * rest + float(tail.sum())
    return 0.5 * log2(float(energy * error) / len(values) ** 2)


def _rest(values: Tensor, rank: int) -> Tensor:
    """What the eigenvalues after the first `rank` are taken for: the least product of `bits_lost`."""
    tail = values[rank:].clamp(min=1e-30)
    return (tail.sum() / (1 / tail).sum()).sqrt()
