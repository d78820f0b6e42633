"""Coding what the base code leaves, tier by tier; rows that lean on others after these. Beyond the paper."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .decode import decode_own, decode_signs, num_below, stored_matrix
from .leaning_rows import Lean
from .packing import pack_bits, unpack_rows
from .plan import CodingPlan
from .reduction import RowSource, row_blocks, rows_at_once
from .refine import Objective, Refiner, RefineSchedule
from .share import RowShare
from .tier_codes import encode_tier, tier_scales
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
        on_tier: told the number of each tier that is done.
    """

    plan: CodingPlan
    local: CodingPlan
    metric: Tensor | None
    stored: dict[str, Tensor]
    schedule: RefineSchedule
    seed: int
    share: RowShare
    on_tier: Callable[[int], None]

    def encode(self, targets: RowSource, lean: Lean | None) -> Decode:
        """Codes the tiers.

        Args:
            targets: (n, d) rows that the base code stands for; a tensor is changed in place.
            lean: how rows lean on others, if some do; `targets` are less that.

        Returns:
            What decodes these rows.
        """
        if lean is None:
            self._encode_rows(targets, slice(0, len(targets)))
            return lambda slots: decode_own(self.local, self.stored, slots)
        first = lean.first
        self._encode_rows(targets, slice(0, first), self._later_scales(targets, first))
        standing = self._decode_standing(first, targets.device)
        closed = lean.closed(targets, standing)
        self._sweep_base_code(closed, first)
        self._encode_rows(closed, slice(first, len(targets)))

        def decode(slots: Tensor) -> Tensor:
            rows = decode_own(self.local, self.stored, slots)
            count = num_below(first, slots)
            leaning = lean.leaning[slots[count:] - first]
            rows[count:] += standing[leaning.slots] * leaning.factors
            return rows

        return decode

    def _encode_rows(self, targets: RowSource, place: slice, later: dict[int, Tensor] | None = None) -> None:
        """Codes the tiers of some rows, those before them being done.

        Args:
            targets: (n, d) rows that the base code stands for.
            place: of the rows to code.
            later: by the numbers of tiers, about the scales of rows that they cover and that are coded later.
        """
        first = place.start
        tiers = [(number, min(tier.coverage, place.stop)) for number, tier in self.local.code_tiers]
        if first:
            tiers = [(number, stop) for number, stop in tiers if self._covers_leaning(number)]
        if not tiers:
            return
        residual = targets[first : max(first, tiers[0][1])]  # changed in place: the rows are not needed any more
        for part, block in row_blocks(residual, rows_at_once(residual.device)):
            block -= self._base_code(first + part.start, len(block))
        for number, stop in tiers:
            residual = residual[: max(0, stop - first)]
            encode_tier(
                residual, self.local, number, self.metric, self.stored, self.schedule, self.seed, self.share,
                first, None if later is None else later.get(number),
            )  # fmt: skip
            self.on_tier(number)

    def _covers_leaning(self, number: int) -> bool:
        """Whether a tier covers rows that lean, on any process."""
        return self.plan.tiers[number - 1].coverage > self.plan.num_standing

    def _base_code(self, start: int, count: int) -> Tensor | float:
        """What the base code of some rows stands for, (count, d)."""
        if not self.plan.code_bits:
            return 0.0
        slots = torch.arange(start, start + count, device=self.stored["codes"].device)
        return decode_signs(self.stored["codes"], slots, stored_matrix(self.stored, "decoder"))

    def _later_scales(self, targets: RowSource, first: int) -> dict[int, Tensor]:
        """About the scales that tiers will give to rows that lean: those beside rows that are not coded yet."""
        found: dict[int, Tensor] = {}
        scales: Tensor | None = None
        for number, tier in self.local.code_tiers:
            if not self._covers_leaning(number):
                continue
            if scales is None:
                parts = [torch.empty(0, device=targets.device)]
                for start in range(first, tier.coverage, rows_at_once(targets.device)):
                    rows = targets[start : min(start + rows_at_once(targets.device), tier.coverage)]
                    left = rows - self._base_code(start, len(rows))
                    parts.append(tier_scales(left, self.local, number, self.metric, self.stored))
                scales = torch.cat(parts)
            found[number] = scales[: max(0, tier.coverage - first)]
            dim = self.plan.embedding_dim
            width = tier.trellis_width(dim) if tier.kind == "trellis" else 1
            scales = scales * trellis_error(dim, width) ** 0.5
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
        return torch.cat([decode_own(plan, stored, block) for block in slots.split(rows_at_once(device))])

    def _sweep_base_code(self, targets: RowSource, first: int) -> None:
        """Fits the base code of the rows that lean to what the others decode to."""
        if not self.plan.code_bits:
            return
        codes = self._base_signs(self.stored["codes"], slice(0, len(targets)))
        before = codes[:first].clone()
        objective = Objective.of(stored_matrix(self.stored, "decoder"), self.metric)
        refiner = Refiner(targets, self.metric, self.seed, self.share)
        refiner.sweep(codes, objective, self.schedule.sweeps, 0.0, self.schedule.rounds + 1)  # in the same blocks
        codes[:first] = before
        self.stored["codes"] = pack_bits(codes)

    def _base_signs(self, packed: Tensor, place: slice) -> Tensor:
        """The bits of the base code of some rows, (n, m) bool."""
        return unpack_rows(
            packed, torch.arange(place.start, place.stop, device=packed.device), self.plan.code_bits
        ).bool()
