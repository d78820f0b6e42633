"""Tables that are read by rows, whether they lie in memory or in a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .reduction import row_places, rows_at_once
from .share import ALL_ROWS, RowShare


@runtime_checkable
class TableRows(Protocol):
    """A dense table that need not be in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """(num_embeddings, embedding_dim)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows, floating-point."""
        ...

    @property
    def device(self) -> torch.device:
        """Where rows are computed on."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether rows are read as fast as from a tensor: then they are read again wherever they are needed."""
        ...

    def read(self, ids: Tensor) -> Tensor:
        """Some rows, (n, d), on the device; `ids` are (n,) int64 on the CPU. Several threads may read at a time."""
        ...


@dataclass(frozen=True)
class DenseRows:
    """A table in memory.

    Attributes:
        weight: (V, d) floating-point.
    """

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(num_embeddings, embedding_dim)."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the table lies."""
        return self.weight.device

    @property
    def in_memory(self) -> bool:
        """Whether rows are read as fast as from a tensor."""
        return True

    def read(self, ids: Tensor) -> Tensor:
        """Some rows, (n, d)."""
        return self.weight.index_select(0, ids.to(self.weight.device))


def as_rows(weight: Tensor | TableRows) -> TableRows:
    """A table to be read by rows.

    Raises:
        TypeError: if it is a tensor, but not floating-point.
        ValueError: if it is a tensor, but no matrix, or is empty.
    """
    if not isinstance(weight, Tensor):
        return weight
    if not weight.is_floating_point():
        raise TypeError(f"weight must be a floating-point tensor, got {weight.dtype}.")
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be a non-empty matrix (V, d), got shape {tuple(weight.shape)}.")
    return DenseRows(weight.detach())


def read_blocks(table: TableRows, ids: Tensor, size: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Rows in float32, a block of a fixed size at a time, each with its place in `ids` (see `row_places`)."""
    for place in row_places(len(ids), table.device, size):
        yield place, table.read(ids[place]).float()


def check_finite(table: TableRows, share: RowShare = ALL_ROWS) -> None:
    """Refuses a table with values that are not finite as float32, on every process alike.

    Raises:
        ValueError: naming the first row.
    """
    ids = share.places(table.shape[0], table.device)
    first = table.shape[0]
    for place, block in read_blocks(table, ids, rows_at_once(table.device)):
        finite = torch.isfinite(block).all(dim=1)
        if not bool(finite.all()):
            first = int(ids[place][(~finite).nonzero()[0].cpu()])
            break
    first = int(-share.largest(-float(first)))
    if first < table.shape[0]:
        raise ValueError(f"weight holds NaN or infinite values, the first in row {first} (as float32).")
