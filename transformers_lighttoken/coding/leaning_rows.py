"""The rows to code where rare ones lean on others. Beyond the paper.

Rows first lean on the others as they are, so that the base code of them all can be trained together. Once those that
stand alone are coded, the rest is coded anew relative to what these decode to, which makes up for their errors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .plan import CodingPlan
from .reduction import RowSource, row_blocks, rows_at_once
from .references import Leaning, Resemblance
from .rows import DividedRows, normalized_rows
from .share import RowShare
from .table import CompressedTable
from .table_rows import TableRows
from .tier_index import storage_order

Rows = Callable[[Tensor], Tensor]
"""Slots (n,) of rows that stand alone -> these rows, (n, d) float32."""


@dataclass(frozen=True)
class LeaningRows:
    """Rows less what they lean on, made when they are asked for.

    Attributes:
        rows: (n, d) of this process.
        first: rows before it stand alone.
        leaning: of the others.
        standing: what they lean on.
    """

    rows: DividedRows
    first: int
    leaning: Leaning
    standing: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, place: slice) -> Tensor:
        """Some of the rows, (n, d) float32."""
        start, stop, _ = place.indices(len(self))
        block = self.rows[place]
        begin = max(start, self.first)
        if begin >= stop:
            return block
        leaning = self.leaning[begin - self.first : stop - self.first]
        block[begin - start :] -= self.standing(leaning.slots) * leaning.factors  # made for this call alone
        return block


@dataclass(frozen=True)
class Lean:
    """How the rows of a process lean on others.

    Attributes:
        plan: of the rows of all processes.
        dense: all rows that stand alone, as they are.
        first: rows of this process before it stand alone.
        leaning: of its other rows.
    """

    plan: CodingPlan
    dense: DividedRows
    first: int
    leaning: Leaning

    @classmethod
    def choose(
        cls,
        table: TableRows,
        coded: Tensor,
        targets: Tensor | DividedRows,
        plan: CodingPlan,
        metric: Tensor | None,
        share: RowShare,
        kept: Leaning | None,
    ) -> "Lean":
        """Chooses what rows lean on.

        Args:
            table: holds the rows.
            coded: (num_coded,) ids of all coded rows in storage order, on the CPU.
            targets: (n, d) those of this process, divided by their norms.
            plan: of all rows.
            metric: (d, d) of the error; None for the plain one.
            share: which rows these are.
            kept: what all rows that lean do so on, where that is known.
        """
        dense, _ = normalized_rows(table, coded[: plan.num_standing], True, share, copied=False)
        if not isinstance(dense, DividedRows):
            raise TypeError("rows that are not copied are divided when they are asked for.")
        first = share.num_rows(plan.num_standing, table.device)
        if kept is not None:
            places = share.places(plan.num_coded, table.device)[first:].to(kept.slots.device) - plan.num_standing
            leaning = Leaning(kept.slots[places], kept.weights[places])
        else:
            leaning = Resemblance(dense[:], metric).find(targets, first)
        return cls(plan, dense, first, leaning)

    def subtracted(self, targets: Tensor | DividedRows) -> RowSource:
        """Rows (n, d) of this process less what they lean on; a tensor is changed in place."""
        if isinstance(targets, DividedRows):
            return LeaningRows(targets, self.first, self.leaning, self.dense.take)
        self._subtract(targets[self.first :], self.dense.take)
        return targets

    def closed(self, targets: RowSource, decoded: Tensor) -> RowSource:
        """What `subtracted` gave, relative to what the rows that stand alone decode to.

        Args:
            targets: (n, d) of this process; a tensor is changed in place.
            decoded: (R, d), all rows that stand alone.
        """
        if isinstance(targets, LeaningRows):
            return replace(targets, standing=lambda slots: decoded[slots])
        rows = targets[self.first :]
        self._subtract(rows, lambda slots: decoded[slots] - self.dense.take(slots))
        return targets

    def _subtract(self, rows: Tensor, standing: Rows) -> None:
        for place, block in row_blocks(rows, rows_at_once(rows.device)):
            leaning = self.leaning[place]
            block -= standing(leaning.slots) * leaning.factors

    def packed(self, share: RowShare) -> dict[str, Tensor]:
        """The stored tensor of the rows of all processes that lean."""
        number, tier = self.plan.reference_tier or (0, None)
        if tier is None:
            return {}
        none = Leaning.of_none(self.first, self.leaning.slots.device)
        slots, weights = (
            share.merge(torch.cat([before, here]))[self.plan.num_standing :]
            for before, here in ((none.slots, self.leaning.slots), (none.weights, self.leaning.weights))
        )
        return {f"tier_{number}_codes": Leaning(slots, weights).packed(tier.code_bits)}


def kept_leaning(table: CompressedTable, plan: CodingPlan, depths: Tensor) -> Leaning:
    """What rows lean on in a larger code, in terms of a smaller one that keeps its first bits.

    Args:
        table: the larger code.
        plan: of the smaller one, in which the same rows stand alone.
        depths: (V,) depth of each row in it (see `tier_index`).

    Returns:
        That of its rows that lean, in storage order.
    """
    number, tier = table.plan.reference_tier or (0, None)
    if tier is None:
        raise ValueError("table has no rows that lean on others.")
    ids = storage_order(depths.cpu())[plan.num_exact :]
    slots = table.positions[ids.to(table.positions.device)].long() - table.plan.num_exact  # of the larger code
    rows = slots[plan.num_standing :] - tier.coverage
    found = Leaning.unpack(table.tensors[f"tier_{number}_codes"], rows, tier.code_bits, tier.coverage)
    place = torch.zeros(tier.coverage, dtype=torch.int64, device=slots.device)
    standing = slots[: plan.num_standing]
    here = torch.arange(plan.num_standing, device=slots.device)
    place[standing[standing >= 0]] = here[standing >= 0]
    return Leaning(place[found.slots], found.weights)
