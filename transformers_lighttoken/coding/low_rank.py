"""Best rank-k approximation from the d x d Gram matrix (Eckart and Young 1936), after Wang et al. 2023."""

import torch
from torch import Tensor

from .reduction import Reduce, gram_matrix, local_sum


def principal_directions(gram: Tensor, count: int) -> Tensor:
    """Leading eigenvectors of a Gram matrix.

    The sign of an eigenvector is arbitrary: its entry of largest magnitude is made positive, so that results repeat.

    Args:
        gram: (d, d) float64, symmetric.
        count: how many, at most d.

    Returns:
        (count, d) float32 orthonormal rows, by falling eigenvalue.
    """
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :count].t()  # (count, d)
    peaks = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * peaks.sign()).float().contiguous()


def low_rank(rows: Tensor, rank: int, reduce: Reduce = local_sum) -> tuple[Tensor, Tensor]:
    """Best rank-k approximation of a matrix: rows ~ left @ right.

    Args:
        rows: (n, d) float32, rows of this process.
        rank: k, from 1 to d - 1.
        reduce: sums over processes.

    Returns:
        left (n, k) and right (k, d), float32; right has orthonormal rows.

    Raises:
        ValueError: if `rank` is out of range.
    """
    dim = rows.shape[1]
    if not 1 <= rank < dim:
        raise ValueError(f"rank must be in [1, {dim - 1}] for {dim} columns, got {rank}.")
    right = principal_directions(gram_matrix(rows, reduce), rank)
    return rows @ right.t(), right
