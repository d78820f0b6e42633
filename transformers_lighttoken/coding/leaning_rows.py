"""The rows to code where rare ones lean on others. Beyond the paper.

Rows first lean on the others as they are, so that the base code of them all can be trained together. Once those that
stand alone are coded, the rest is coded anew relative to what these decode to, which makes up for their errors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .decode import leaning_of, row_scales
from .plan import CodingPlan
from .reduction import RowSource, row_blocks, rows_at_once
from .references import Leaning, Resemblance
from .rows import DividedRows
from .share import RowShare
from .table import CompressedTable

Rows = Callable[[Tensor], Tensor]
"""Slots (n,) of rows that stand alone -> these rows in a new tensor, (n, d) float32."""


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
        block = self.rows[place]  # made for this call alone
        begin = max(start, self.first)
        if begin < stop:
            leaning = self.leaning[begin - self.first : stop - self.first]
            _subtract(block[begin - start :], leaning, self.standing)
        return block


def _subtract(rows: Tensor, leaning: Leaning, standing: Rows) -> None:
    """Takes from rows, in place, what they lean on."""
    for place, block in row_blocks(rows, rows_at_once(rows.device)):
        some = leaning[place]
        block -= standing(some.slots).mul_(some.factors)  # made for this call alone


@dataclass(frozen=True)
class Lean:
    """How the rows of a process lean on others.

    Attributes:
        plan: of the rows of all processes.
        dense: the rows of any process that stand alone, as they are.
        first: rows of this process before it stand alone.
        leaning: of its other rows.
    """

    plan: CodingPlan
    dense: Rows
    first: int
    leaning: Leaning

    @classmethod
    def choose(
        cls,
        dense: DividedRows,
        targets: Tensor | DividedRows,
        plan: CodingPlan,
        metric: Tensor | None,
        share: RowShare,
        kept: Leaning | None,
    ) -> "Lean":
        """Chooses what rows lean on.

        Args:
            dense: (R, d) all rows that stand alone, divided like the others.
            targets: (n, d) those of this process, divided by their norms.
            plan: of all rows.
            metric: (d, d) of the error; None for the plain one.
            share: which rows these are.
            kept: what all rows that lean do so on, where that is known.
        """
        first = share.num_rows(plan.num_standing, targets.device)
        if kept is not None:
            places = share.places(plan.num_coded, targets.device)[first:].to(kept.slots.device) - plan.num_standing
            leaning = kept[places]
        else:
            leaning = Resemblance(dense[:], metric).find(targets, first)
        if dense.table.in_memory:
            return cls(plan, dense.take, first, leaning)
        read = dense[:]
        return cls(plan, lambda slots: read[slots], first, leaning)

    def subtracted(self, targets: Tensor | DividedRows) -> RowSource:
        """Rows (n, d) of this process less what they lean on; a tensor is changed in place."""
        if isinstance(targets, DividedRows):
            return LeaningRows(targets, self.first, self.leaning, self.dense)
        _subtract(targets[self.first :], self.leaning, self.dense)
        return targets

    def closed(self, targets: RowSource, decoded: Tensor) -> RowSource:
        """What `subtracted` gave, relative to what the rows that stand alone decode to.

        Args:
            targets: (n, d) of this process; a tensor is changed in place.
            decoded: (R, d), all rows that stand alone.
        """
        if isinstance(targets, LeaningRows):
            return replace(targets, standing=lambda slots: decoded[slots])
        _subtract(targets[self.first :], self.leaning, lambda slots: decoded[slots] - self.dense(slots))
        return targets

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


def row_scales_of(table: CompressedTable) -> Tensor:
    """The row scale of each row of a table, (V,) float32: 0 for those that are exact.

    Divided by them, decoded rows are the very sums of their codes and of what they lean on.
    """
    plan, positions = table.plan, table.positions.long()
    slots = positions - plan.num_exact
    scales = row_scales(table.tensors, "", slots.clamp(min=0), plan.row_scale_bits).squeeze(1)
    return torch.where(slots >= 0, scales, 0.0)


def kept_leaning(table: CompressedTable, plan: CodingPlan, ids: Tensor) -> Leaning:
    """What rows lean on in a larger code, in terms of a smaller one that keeps its first bits.

    Args:
        table: the larger code.
        plan: of the smaller one, in which the same rows stand alone, and no other row is exact that others lean on.
        ids: (num_coded,) of its rows that are not exact, in the order of storage.

    Returns:
        That of its rows that lean, in storage order.
    """
    larger = table.plan
    if larger.reference_tier is None:
        raise ValueError("table has no rows that lean on others.")
    slots = table.slots(ids)  # of the larger code
    found = leaning_of(larger, table.tensors, slots[plan.num_standing :] - larger.num_standing)
    place = torch.zeros(larger.num_standing, dtype=torch.int64, device=slots.device)
    standing = slots[: plan.num_standing]
    here = torch.arange(plan.num_standing, device=slots.device)
    place[standing[standing >= 0]] = here[standing >= 0]
    return Leaning(place[found.slots], found.weights)
