"""Sums over rows that are the same bit for bit, whatever the order and the number of processes. Beyond the paper.

Partial sums of fixed blocks of rows are rounded to a fixed-point grid. Multiples of 2**-28 below 2**25 add up exactly
in float64, so neither grouping nor order matters, and the bytes exchanged do not grow with the number of rows.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a float64 tensor over processes and returns it; the identity for one process."""

_GRID = 2.0**28
CPU_BLOCK_ROWS = 4096
CUDA_BLOCK_ROWS = 32768


def local_sum(total: Tensor) -> Tensor:
    """The `Reduce` of a single process."""
    return total


def block_rows(device: torch.device) -> int:
    """Rows of a block on a class of devices."""
    return CPU_BLOCK_ROWS if device.type == "cpu" else CUDA_BLOCK_ROWS


def row_blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of the fixed size of the device class, each with the place of its rows."""
    size = block_rows(rows.device)
    for number, block in enumerate(rows.split(size)):
        yield slice(number * size, number * size + block.shape[0]), block


def add_exactly(total: Tensor, partial: Tensor) -> None:
    """Adds a float32 partial sum to a float64 total, rounded to the grid. Rows must have norms of at most about 1."""
    total += (partial.double() * _GRID).round_() / _GRID


def gram_matrix(rows: Tensor, reduce: Reduce = local_sum) -> Tensor:
    """rows^T rows over all processes.

    Args:
        rows: (n, d) float32 rows of this process.
        reduce: sums over processes.

    Returns:
        (d, d) float64.
    """
    return gram_of_blocks(row_blocks(rows), rows.shape[1], rows.device, reduce)


def gram_of_blocks(
    blocks: Iterable[tuple[slice, Tensor]], dim: int, device: torch.device, reduce: Reduce = local_sum
) -> Tensor:
    """The same of rows that are made a block at a time.

    Args:
        blocks: of rows, (n, dim) float32, with their places (see `row_blocks`).
        dim: columns.
        device: of the blocks.
        reduce: sums over processes.

    Returns:
        (dim, dim) float64.
    """
    total = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    for _, block in blocks:
        add_exactly(total, block.t() @ block)
    return reduce(total)
