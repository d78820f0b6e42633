"""Sums over rows that are the same bit for bit, whatever the order and the number of processes. Beyond the paper.

Partial sums of fixed blocks of rows are rounded to a fixed-point grid. Multiples of 2**-28 below 2**25 add up exactly
in float64, so neither grouping nor order matters, and the bytes exchanged do not grow with the number of rows.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a float64 tensor over processes and returns it; the identity for one process."""


class RowSource(Protocol):
    """Rows (n, d), float32: a tensor, or what makes some of them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        ...

    def __len__(self) -> int:
        """The number of rows, n."""
        ...

    def __getitem__(self, place: slice, /) -> Tensor:
        """Some of the rows."""
        ...


_GRID = 2.0**28
CPU_BLOCK_ROWS = 2048
CUDA_BLOCK_ROWS = 32768
_CPU_ROWS_AT_ONCE = 512  # divides the blocks above; a multiple of 8, so that packed rows are whole bytes


def local_sum(total: Tensor) -> Tensor:
    """The `Reduce` of a single process."""
    return total


def block_rows(device: torch.device) -> int:
    """Rows of a block on a class of devices."""
    return CPU_BLOCK_ROWS if device.type == "cpu" else CUDA_BLOCK_ROWS


def rows_at_once(device: torch.device) -> int:
    """Rows to work on at once where none depends on another: few on a CPU, so that what is made of them stays small."""
    return _CPU_ROWS_AT_ONCE if device.type == "cpu" else CUDA_BLOCK_ROWS


def row_places(count: int, device: torch.device, size: int | None = None) -> Iterator[slice]:
    """Places of blocks of a fixed number of rows, by default that of the device class; one empty block of no rows."""
    size = size or block_rows(device)
    for start in range(0, max(count, 1), size):
        yield slice(start, min(start + size, count))


def row_blocks(rows: RowSource, size: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows, each with its place (see `row_places`)."""
    for place in row_places(len(rows), rows.device, size):
        yield place, rows[place]


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
