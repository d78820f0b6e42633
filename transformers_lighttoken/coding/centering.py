"""Rows coded relative to a mean row. Beyond the paper.

A row scale multiplies a whole row. Where it is to undo what coding takes from a row's own direction, it must leave
alone what all rows have in common, and so that is stored once, as a center c: row = c + scale * (what the codes stand
for). Rows of zeros stay zeros, with a scale of zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .packing import bfloat16_of_bits, bits_of_bfloat16
from .reduction import add_exactly
from .rows import power_of_two_above, safe_norms
from .share import ALL_ROWS, RowShare
from .table_rows import TableRows, read_blocks

_OF_ROWS_AT_CENTER = 2.0**-10


@dataclass(frozen=True)
class CenteredRows:
    """A table less its center; rows of zeros stay as they are.

    Attributes:
        table: the rows themselves.
        center: (d,) int16, the bits of bfloat16 values, on the table's device.
    """

    table: TableRows
    center: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(num_embeddings, embedding_dim)."""
        return self.table.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the table's rows."""
        return self.table.dtype

    @property
    def device(self) -> torch.device:
        """Where rows are computed on."""
        return self.table.device

    @property
    def in_memory(self) -> bool:
        """As for the table."""
        return self.table.in_memory

    def read(self, ids: Tensor) -> Tensor:
        """Some rows less the center, (n, d) float32; one that equals it keeps a little, to tell it from zeros."""
        rows = self.table.read(ids).float()
        away = rows - bfloat16_of_bits(self.center)
        away = torch.where((away != 0).any(dim=1, keepdim=True), away, rows * _OF_ROWS_AT_CENTER)
        return torch.where((rows != 0).any(dim=1, keepdim=True), away, 0.0)


def mean_row(table: TableRows, weights: Tensor | None = None, share: RowShare = ALL_ROWS) -> Tensor:
    """The weighted mean of all rows, as it is stored.

    Args:
        table: V rows.
        weights: (V,) not negative, not all zero; equal when None.
        share: which rows this process adds up.

    Returns:
        (d,) int16, the bits of bfloat16 values.
    """
    weights = torch.ones(table.shape[0]) if weights is None else weights.cpu()
    weights = weights.double() / weights.double().sum()
    total = torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
    ids = share.places(table.shape[0], table.device)
    norms = [safe_norms(rows) for _, rows in read_blocks(table, ids) if len(rows)]
    largest = max((float(part.max()) for part in norms), default=0.0)
    unit = power_of_two_above(share.largest(largest))
    for place, rows in read_blocks(table, ids):
        part = weights[ids[place]].to(table.device).float().unsqueeze(1)  # (n, 1)
        add_exactly(total, (part * (rows / unit)).sum(dim=0))
    return bits_of_bfloat16((share.reduce(total) * unit).float())
