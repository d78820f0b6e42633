"""Rows that lean on others, so that only what differs is coded. Beyond the paper.

A rare token's row often resembles that of a frequent one: another spelling, a plural, a word of the same field. The
first R coded rows stand alone; each further one is y + w z, with a code y of its own, z the code of one of these R rows
and w a weight of a few bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .low_rank import metric_root
from .packing import bits_of, numbers_of, pack_bits, unpack_rows
from .reduction import RowSource, gram_matrix, row_blocks, row_places, rows_at_once
from .threads import for_each
from .tier import WEIGHT_BITS

_LARGEST_WEIGHT = (1 << WEIGHT_BITS) - 1
_CPU_ROWS_AT_ONCE = 64
_CUDA_ROWS_AT_ONCE = 1024
# Share of the mean variance below which a direction counts less: coding leaves out what varies little.
_LEAST_VARIANCE = 0.3


@dataclass(frozen=True)
class Leaning:
    """What rows lean on.

    Attributes:
        slots: (n,) int64, the row on which each leans, of those that stand alone.
        weights: (n,) int64 codes of the weights, w = code / 15.
    """

    slots: Tensor
    weights: Tensor

    @classmethod
    def of_none(cls, count: int, device: torch.device) -> "Leaning":
        """That of rows with a weight of zero."""
        zeros = torch.zeros(count, dtype=torch.int64, device=device)
        return cls(zeros, zeros)

    @classmethod
    def unpack(cls, packed: Tensor, rows: Tensor, code_bits: int, num_standing: int) -> "Leaning":
        """Reads some rows (n,) of what `packed` gave."""
        numbers = numbers_of(unpack_rows(packed, rows, code_bits))  # (n,)
        return cls((numbers >> WEIGHT_BITS).clamp(max=num_standing - 1), numbers & _LARGEST_WEIGHT)

    def packed(self, code_bits: int) -> Tensor:
        """The stored bytes, `code_bits` for each row: the slot, then the weight."""
        return pack_bits(bits_of(self.slots << WEIGHT_BITS | self.weights, code_bits).bool())

    def __getitem__(self, place: slice | Tensor) -> "Leaning":
        """What some of the rows lean on."""
        return Leaning(self.slots[place], self.weights[place])

    @property
    def factors(self) -> Tensor:
        """The weights themselves, (n, 1) float32."""
        return self.weights.unsqueeze(1).float() / _LARGEST_WEIGHT


class Resemblance:
    """Finds the rows that others lean on.

    Rows are compared after a map that makes an error in the metric plain and gives directions in which rows vary much
    and little about the same say: a code spends its bits on all that vary more than its own error.

    Args:
        standing: (R, d) float32, the rows that stand alone; changed in place.
        metric: (d, d) of the error; None for the plain one.
    """

    def __init__(self, standing: Tensor, metric: Tensor | None) -> None:
        dim = standing.shape[1]
        root = torch.eye(dim, dtype=torch.float64, device=standing.device)
        if metric is not None:
            root = metric_root(metric)
        variances, directions = torch.linalg.eigh(root.t() @ gram_matrix(standing) @ root)
        variances = variances.clamp(min=0)
        least = _LEAST_VARIANCE * variances.mean()
        least = torch.where(least > 0, least, 1.0)
        self._map = (root @ (directions / (variances + least).sqrt())).float()  # (d, d)
        self._norms = torch.empty(len(standing), device=standing.device)
        for place, block in row_blocks(standing, rows_at_once(standing.device)):
            mapped = block @ self._map
            self._norms[place] = mapped.norm(dim=1)
            block.copy_(functional.normalize(mapped))
        self._standing = standing

    def find(self, rows: RowSource, first: int = 0) -> Leaning:
        """The row that each of (n, d) from `first` on leans on, with its least-squares weight."""
        slots = torch.empty(len(rows) - first, dtype=torch.int64, device=rows.device)
        weights = torch.empty_like(slots)

        def find_block(place: slice) -> None:
            mapped = rows[first + place.start : first + place.stop] @ self._map
            lengths, found = (mapped @ self._standing.t()).max(dim=1)  # along the unit vectors
            factors = lengths / self._norms[found].clamp(min=torch.finfo(torch.float32).tiny)
            slots[place] = found
            weights[place] = (factors * _LARGEST_WEIGHT).round().clamp(0, _LARGEST_WEIGHT).long()

        at_once = _CPU_ROWS_AT_ONCE if rows.device.type == "cpu" else _CUDA_ROWS_AT_ONCE
        for_each(row_places(len(slots), rows.device, at_once), find_block, rows.device)
        return Leaning(slots, weights)
