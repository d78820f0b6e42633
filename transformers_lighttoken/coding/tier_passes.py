"""Coding what the base code leaves, tier by tier; rows that lean on others after these. Beyond the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .decode import decode_own, num_below, stored_matrix
from .leaning_rows import Lean
from .packing import pack_bits, unpack_rows
from .plan import CodingPlan
from .reduction import RowSource, row_places, rows_at_once
from .refine import Objective, Refiner, RefineSchedule
from .rows_left import RowsLeft
from .share import RowShare
from .tier_codes import encode_tier, suitable_scales
from .trellis import trellis_error

Decode = Callable[[Tensor], Tensor]
"""Slots (n,) of this process's rows, rising -> the rows without their row scale, (n, d) float32."""


@dataclass(frozen=True)
class TierPasses:
    """Codes the tiers of a process's rows.

    Attributes:
        plan: of the rows of all processes.
        local: of those of this process.
        metric: (d, d) of the error; None for the plain one.
        stored: of this process's rows, with the base code and what the tiers' maps need; receives the tiers.
        schedule: of the refinement of learnt tiers, and of the base code of rows that lean.
        seed: of the refinement.
        share: which rows these are.
        on_tier: told how many of how many passes over tiers are done.
    """

    plan: CodingPlan
    local: CodingPlan
    metric: Tensor | None
    stored: dict[str, Tensor]
    schedule: RefineSchedule
    seed: int
    share: RowShare
    on_tier: Callable[[int, int], None]

    def encode(self, targets: RowSource, lean: Lean | None) -> Decode:
        """Codes the tiers.

        Args:
            targets: (n, d) rows that the base code stands for; a tensor is changed in place where rows lean on others.
            lean: how rows lean on others, if some do; `targets` are less that.

        Returns:
            What decodes these rows.
        """
        numbers = [number for number, _ in self.local.code_tiers]
        if lean is None:
            self._encode_rows(targets, slice(0, len(targets)), numbers, 0, len(numbers))
            return lambda slots: decode_own(self.local, self.stored, slots)
        first, count = lean.first, self.plan.num_standing
        wide = [number for number in numbers if self.plan.tiers[number - 1].coverage > count]  # also cover the others
        total = len(numbers) + len(wide)
        later = self._later_scales(targets, first, wide)
        self._encode_rows(targets, slice(0, first), numbers, 0, total, later)
        standing = self._decode_standing(first, targets.device)
        closed = lean.closed(targets, standing)
        self._sweep_base_code(closed, first)
        self._encode_rows(closed, slice(first, len(targets)), wide, len(numbers), total)

        def decode(slots: Tensor) -> Tensor:
            rows = decode_own(self.local, self.stored, slots)
            count = num_below(first, slots)
            leaning = lean.leaning[slots[count:] - first]
            rows[count:] += standing[leaning.slots] * leaning.factors
            return rows

        return decode

    def _encode_rows(
        self,
        targets: RowSource,
        place: slice,
        numbers: Sequence[int],
        done: int,
        total: int,
        later: dict[int, Tensor] | None = None,
    ) -> None:
        """Codes the tiers of some rows.

        Args:
            targets: (n, d) rows that the base code stands for.
            place: of the rows to code.
            numbers: of the tiers, the same on all processes.
            done: passes over tiers before this; where there are some, the rows before `place` are coded.
            total: passes over tiers in all.
            later: by the numbers of tiers, about the scales of rows that they cover and that are coded later.
        """
        first = place.start
        for number in numbers:
            stop = max(first, min(self.local.tiers[number - 1].coverage, place.stop))
            rows = RowsLeft.before(number, targets, self.local, self.stored, slice(first, stop))
            encode_tier(
                rows, self.local, number, self.metric, self.stored, self.schedule, self.seed, self.share,
                first if done else None, None if later is None else later.get(number),
            )  # fmt: skip
            self.on_tier(done + numbers.index(number) + 1, total)

    def _later_scales(self, targets: RowSource, first: int, numbers: Sequence[int]) -> dict[int, Tensor]:
        """About the scales that some tiers will give to rows that lean: those beside rows that are not coded yet."""
        found: dict[int, Tensor] = {}
        scales = torch.empty(0, device=targets.device)
        for number in numbers:
            tier = self.local.tiers[number - 1]
            if number == numbers[0]:
                place = slice(first, max(first, tier.coverage))
                rows = RowsLeft.before(number, targets, self.local, self.stored, place)
                scales = suitable_scales(rows, self.local, number, self.metric, self.stored)
            found[number] = scales[: max(0, tier.coverage - first)]
            dim = self.plan.embedding_dim
            scales = scales * (tier.scale_after(dim) if tier.kind == "trellis" else trellis_error(dim, 1) ** 0.5)
        return found

    def _decode_standing(self, first: int, device: torch.device) -> Tensor:
        """All rows that stand alone, as they decode: (R, d)."""
        count = self.plan.num_standing
        stored = dict(self.stored)
        if self.plan.rank:
            stored["low_rank_left"] = stored["low_rank_left"][:, :first].contiguous()
        if self.plan.code_bits:
            stored["codes"] = pack_bits(self._base_signs(stored["codes"], slice(0, first)))
        tiers = tuple(replace(tier, coverage=min(tier.coverage, count)) for tier in self.plan.tiers)
        plan = replace(self.plan, num_embeddings=count, num_exact=0, index_bytes=0, tiers=tiers)
        stored = self.share.merge_stored(stored, plan)
        slots = torch.arange(count, device=device)
        rows = torch.empty(count, self.plan.embedding_dim, device=device)
        for place in row_places(count, device, rows_at_once(device)):
            rows[place] = decode_own(plan, stored, slots[place])
        return rows

    def _sweep_base_code(self, targets: RowSource, first: int) -> None:
        """Fits the base code of the rows that lean to what the others decode to."""
        if not self.plan.code_bits:
            return
        codes = self._base_signs(self.stored["codes"], slice(0, len(targets)))
        before = codes[:first].clone()
        objective = Objective.of(stored_matrix(self.stored, "decoder"), self.metric)
        refiner = Refiner(targets, self.metric, self.seed, self.share)
        # All rows, so that their blocks are those of any number of processes; those that stand alone stay as they are.
        refiner.sweep(codes, objective, self.schedule.sweeps, 0.0, self.schedule.rounds + 1)
        codes[:first] = before
        self.stored["codes"] = pack_bits(codes)

    def _base_signs(self, packed: Tensor, place: slice) -> Tensor:
        """The bits of the base code of some rows, (n, m) bool."""
        return unpack_rows(
            packed, torch.arange(place.start, place.stop, device=packed.device), self.plan.code_bits
        ).bool()
