"""The rows of one process among several, and what processes exchange. Beyond the paper.

Rows are dealt out in blocks of a fixed size, block b to process b modulo the number of processes. A block is coded in
the same way wherever it lies: its noise depends on its number, its sums are added exactly (see `reduction`), and what
depends on single rows is the same by itself. So the stored bytes do not depend on the number of processes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .plan import CodingPlan
from .reduction import Reduce, block_rows, local_sum

Gather = Callable[[Tensor], list[Tensor]]
"""The tensors of all processes, in order of the processes; their first dimensions may differ."""


def local_gather(tensor: Tensor) -> list[Tensor]:
    """The `Gather` of a single process."""
    return [tensor]


@dataclass(frozen=True)
class RowShare:
    """Which rows a process holds.

    Attributes:
        index: of this process.
        count: of processes.
        reduce: sums a float64 tensor over processes.
        gather: collects a tensor from each process.
    """

    index: int = 0
    count: int = 1
    reduce: Reduce = local_sum
    gather: Gather = local_gather

    def block_number(self, number: int) -> int:
        """Number among the blocks of all processes of this process's block `number`."""
        return self.index + number * self.count

    def places(self, rows: int, device: torch.device) -> Tensor:
        """Which of `rows` rows this process holds, (n,) int64 in rising order, on the CPU."""
        if self.count == 1:
            return torch.arange(rows)
        blocks = torch.arange(rows).split(block_rows(device))
        return torch.cat([*blocks[self.index :: self.count], torch.arange(0)])

    def num_rows(self, rows: int, device: torch.device) -> int:
        """How many of `rows` rows this process holds."""
        return self.places(rows, device).numel()

    def local_plan(self, plan: CodingPlan, device: torch.device) -> CodingPlan:
        """What this process stores: the plan of its coded rows alone, from which they decode."""
        if self.count == 1:
            return replace(plan, num_embeddings=plan.num_coded, num_exact=0, index_bytes=0)
        tiers = tuple(replace(tier, coverage=self.num_rows(tier.coverage, device)) for tier in plan.tiers)
        rows = self.num_rows(plan.num_coded, device)
        return replace(plan, num_embeddings=rows, num_exact=0, index_bytes=0, tiers=tiers)

    def merge(self, local: Tensor, bits_per_row: int = 0) -> Tensor:
        """The rows of all processes in their order.

        Args:
            local: rows of this process, (n, ...); with `bits_per_row` the bytes of packed rows.
            bits_per_row: width of the packed rows.

        Returns:
            (rows, ...), or packed bytes.
        """
        if self.count == 1:
            return local
        rows = block_rows(local.device)
        length = rows * bits_per_row // 8 if bits_per_row else rows  # a block's rows are a multiple of 8
        parts = [[block for block in part.split(length) if len(block)] for part in self.gather(local)]
        blocks = [parts[number % self.count][number // self.count] for number in range(sum(map(len, parts)))]
        return torch.cat(blocks) if blocks else local

    def merge_stored(self, stored: Mapping[str, Tensor], plan: CodingPlan) -> dict[str, Tensor]:
        """The stored tensors of all processes' rows, but for those that are packed for all at once.

        Args:
            stored: tensors of this process's rows.
            plan: of the rows of all processes.
        """
        merged = dict(stored)
        if plan.rank:
            merged["low_rank_left"] = self.merge(stored["low_rank_left"].t().contiguous()).t().contiguous()
        if plan.code_bits:
            merged["codes"] = self.merge(stored["codes"], plan.code_bits)
        for number, tier in plan.code_tiers:
            prefix = f"tier_{number}_"
            merged[prefix + "codes"] = self.merge(stored[prefix + "codes"], tier.code_bits)
            if tier.row_scale_bits:
                merged[prefix + "row_scale"] = self.merge(stored[prefix + "row_scale"], tier.row_scale_bits)
        return merged

    def take(self, merged: Tensor) -> Tensor:
        """This process's rows of `merge`'s result."""
        return merged if self.count == 1 else merged[self.places(len(merged), merged.device).to(merged.device)]

    def largest(self, value: float) -> float:
        """The largest value of any process."""
        return max(float(other) for other in self.gather(torch.tensor([value], dtype=torch.float64)))


ALL_ROWS = RowShare()
