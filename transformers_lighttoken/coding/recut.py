"""A smaller table from a coded one, whose codes stay, or the first bits of its base code. Beyond the paper."""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from .decode import row_scales, tier_scales
from .packing import unpack_rows
from .plan import CodingPlan
from .resize import base_rows, tier_rows
from .table import CompressedTable
from .tier import Tier


@dataclass(frozen=True)
class LargerCode:
    """What a plan needs to know of the code that it is to be cut from.

    Attributes:
        plan: of that code.
        standing: (V,) bool on the CPU, the rows that lean on no other; None if none does.
        energies: (V,) float32 on the CPU, what the first tier codes of each row; None without such a tier.
        deepest: (V,) bool on the CPU, the rows that every tier covers; None where `energies` is.
    """

    plan: CodingPlan
    standing: Tensor | None = None
    energies: Tensor | None = None
    deepest: Tensor | None = None

    @property
    def trellis_tiers(self) -> tuple[Tier, ...]:
        """Its first tiers with codes, as far as they are of the kind that a cut can code again."""
        return tuple(takewhile(lambda tier: tier.kind == "trellis", (tier for _, tier in self.plan.code_tiers)))

    @classmethod
    def of(cls, table: CompressedTable) -> "LargerCode":
        """That of a table."""
        plan, positions = table.plan, table.positions.long()
        standing = (positions < plan.num_exact + plan.num_standing).cpu() if plan.num_leaning else None
        if not plan.code_tiers or plan.code_tiers[0][1].kind == "learnt":
            return cls(plan, standing)
        (number, first), (_, last) = plan.code_tiers[0], plan.code_tiers[-1]
        slots = torch.arange(first.coverage, device=positions.device)
        scales = tier_scales(plan, number, table.tensors, slots)
        if plan.row_scale_bits:
            scales = scales * row_scales(table.tensors, "", slots, plan.row_scale_bits)
        energies = scales.new_zeros(plan.num_embeddings)
        energies[: plan.num_exact] = scales.square().max()  # nothing is known of them: covered first if they are coded
        energies[plan.num_exact :][: first.coverage] = scales.squeeze(1).square()
        deepest = positions < plan.num_exact + last.coverage
        return cls(plan, standing, energies[positions].cpu(), deepest.cpu())


def first_bits(table: CompressedTable, plan: CodingPlan, ids: Tensor) -> Tensor:
    """The first bits of a table's base code, in the order in which a smaller plan stores the rows.

    Rows that are exact in the table have no code: their bits are zero, for a sweep to set.

    Args:
        table: whose code is cut.
        plan: of the smaller table.
        ids: (plan.num_coded,) of its rows that are not exact, in the order of storage.

    Returns:
        (plan.num_coded, m) bool on the table's device; m is the smaller of both plans' code bits.
    """
    slots = table.slots(ids)
    kept = min(plan.code_bits, table.plan.code_bits)
    codes = torch.zeros(plan.num_coded, kept, dtype=torch.bool, device=slots.device)
    coded = slots >= 0
    if kept and bool(coded.any()):
        codes[coded] = unpack_rows(table.tensors["codes"], slots[coded], table.plan.code_bits)[:, :kept].bool()
    return codes


def keeps_every_code(table: CompressedTable, plan: CodingPlan, ids: Tensor) -> bool:
    """Whether a smaller plan leaves a table's codes as they are, but for tiers that cover fewer rows, or are left out.

    Args:
        table: the larger one.
        plan: the smaller one.
        ids: (num_coded,) of its rows that are not exact, in the order of storage.
    """
    larger = table.plan
    others: dict[str, Any] = {"tiers": (), "index_bytes": 0}
    if larger.row_scale_bits and plan.row_scale_bits:
        others["row_scale_bits"] = plan.row_scale_bits  # they are fitted anew
    if not plan.tiers:
        others["whitening_rank"] = plan.whitening_rank
    if larger.num_leaning or replace(larger, **others) != replace(plan, **others) or not ids.numel():
        return False
    slots = table.slots(ids)
    pairs = list(zip(larger.tiers, plan.tiers, strict=False))
    return (
        len(pairs) == len(plan.tiers)
        and int(slots.min()) >= 0
        and all(replace(tier, coverage=kept.coverage) == kept for tier, kept in pairs)
        and all(int(slots[: kept.coverage].max()) < tier.coverage for tier, kept in pairs)
    )


def kept_codes(table: CompressedTable, plan: CodingPlan, ids: Tensor) -> dict[str, Tensor]:
    """The stored tensors of some rows of a larger table, but for exact rows and index, with its row scales.

    Args:
        table: whose tiers are cut (see `keeps_every_code`).
        plan: of these rows alone.
        ids: (n,) of the rows in the order of storage, none of which is exact in the table.
    """
    slots = table.slots(ids)
    names = [name for name in plan.tensor_specs() if name not in ("exact_rows", "tier_index")]
    kept = {name: table.tensors[name] for name in names} | base_rows(table, slots)
    for number, tier in enumerate(plan.tiers, start=1):
        kept |= tier_rows(table, number, slots[: tier.coverage])
    return kept
