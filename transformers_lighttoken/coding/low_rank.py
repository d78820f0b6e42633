"""Best rank-k approximation from the d x d Gram matrix (Eckart and Young 1936), after Wang et al. 2023."""

import torch
from torch import Tensor

from .reduction import Reduce, gram_matrix, local_sum, row_blocks


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


def low_rank(
    rows: Tensor, rank: int, metric: Tensor | None = None, reduce: Reduce = local_sum
) -> tuple[Tensor, Tensor]:
    """Best rank-k approximation of a matrix in a metric: rows ~ left @ right.

    With M = L L^T, it is the plain best approximation of rows L, undone by L on the right.

    Args:
        rows: (n, d) float32, rows of this process.
        rank: k, from 1 to d - 1.
        metric: (d, d) positive definite M of the error (x - y)^T M (x - y); None for the plain one.
        reduce: sums over processes.

    Returns:
        left (n, k) and right (k, d), float32; right has orthonormal rows in the plain metric.

    Raises:
        ValueError: if `rank` is out of range.
    """
    dim = rows.shape[1]
    if not 1 <= rank < dim:
        raise ValueError(f"rank must be in [1, {dim - 1}] for {dim} columns, got {rank}.")
    gram = gram_matrix(rows, reduce)
    if metric is None:
        right = principal_directions(gram, rank)
        return _product(rows, right.t()), right
    root = metric_root(metric)  # (d, d) = L
    directions = principal_directions(root.t() @ gram @ root, rank).double()  # (k, d)
    right = torch.linalg.solve_triangular(root, directions, upper=False, left=False)  # (k, d): directions L^-1
    return _product(rows, (root @ directions.t()).float()), right.float().contiguous()


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows @ matrix, block by block."""
    return torch.cat([block @ matrix for _, block in row_blocks(rows)])


def metric_root(metric: Tensor) -> Tensor:
    """Lower triangular L with M = L L^T, in float64; a millionth of the mean eigenvalue keeps it definite."""
    double = metric.double()
    ridge = 1e-6 * double.diagonal().mean() * torch.eye(double.shape[0], dtype=torch.float64, device=metric.device)
    return torch.linalg.cholesky(double + ridge)
