"""What is left of rows for a tier to code. Beyond the paper."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .decode import StoredTensors, decode_own
from .plan import CodingPlan
from .reduction import RowSource


@dataclass(frozen=True)
class RowsLeft:
    """What the base code and the tiers before one leave of rows, made when they are asked for.

    Attributes:
        targets: (n, d) rows that the base code stands for.
        plan: of these rows, without the tier and those after it.
        stored: holds the codes.
        place: of the rows in question.
    """

    targets: RowSource
    plan: CodingPlan
    stored: StoredTensors
    place: slice

    @classmethod
    def before(
        cls, number: int, targets: RowSource, plan: CodingPlan, stored: StoredTensors, place: slice
    ) -> "RowsLeft":
        """Those before tier `number` of the plan."""
        return cls(targets, replace(plan, rank=0, tiers=plan.tiers[: number - 1]), stored, place)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        return len(self), self.targets.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.targets.device

    def __len__(self) -> int:
        """The number of rows."""
        return self.place.stop - self.place.start

    def __getitem__(self, place: slice) -> Tensor:
        """Some of the rows, (n, d) float32."""
        start, stop, _ = place.indices(len(self))
        slots = torch.arange(self.place.start + start, self.place.start + stop, device=self.device)
        coded = decode_own(self.plan, self.stored, slots)
        return self.targets[self.place.start + start : self.place.start + stop] - coded
