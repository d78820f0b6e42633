"""A smaller table from a coded one, whose codes stay, or the first bits of its base code. Beyond the paper."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .decode import row_scales, tier_scales
from .packing import pack_bits, pack_values, unpack_rows, unpack_values
from .plan import CodingPlan
from .table import CompressedTable
from .tier_index import storage_order


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


def first_bits(table: CompressedTable, plan: CodingPlan, depths: Tensor) -> Tensor:
    """The first bits of a table's base code, in the order in which a smaller plan stores the rows.

    Rows that are exact in the table have no code: their bits are zero, for a sweep to set.

    Args:
        table: whose code is cut.
        plan: of the smaller table.
        depths: (V,) depth of each row in the smaller table (see `tier_index`).

    Returns:
        (plan.num_coded, m) bool on the table's device; m is the smaller of both plans' code bits.
    """
    ids = storage_order(depths.cpu())[plan.num_exact :].to(table.positions.device)
    slots = table.positions[ids].long() - table.plan.num_exact
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
    slots = table.positions[ids.to(table.positions.device)].long() - larger.num_exact
    pairs = list(zip(larger.tiers, plan.tiers, strict=False))
    return (
        len(pairs) == len(plan.tiers)
        and int(slots.min()) >= 0
        and all(replace(tier, coverage=kept.coverage) == kept for tier, kept in pairs)
        and all(int(slots[: kept.coverage].max()) < tier.coverage for tier, kept in pairs)
    )


def kept_codes(table: CompressedTable, plan: CodingPlan, ids: Tensor) -> dict[str, Tensor]:
    """The stored tensors of some rows of a larger table, but for row scales, exact rows and index.

    Args:
        table: whose tiers are cut (see `keeps_every_code`).
        plan: of these rows alone.
        ids: (n,) of the rows in the order of storage, none of which is exact in the table.
    """
    larger, stored = table.plan, table.tensors
    slots = table.positions[ids.to(table.positions.device)].long() - larger.num_exact
    names = [name for name in plan.tensor_specs() if not name.startswith(("exact_rows", "tier_index", "row_scale"))]
    kept = {name: stored[name] for name in names}
    if plan.rank:
        kept["low_rank_left"] = stored["low_rank_left"][:, slots].contiguous()
    if plan.code_bits:
        kept["codes"] = pack_bits(unpack_rows(stored["codes"], slots, plan.code_bits))
    for number, tier in enumerate(plan.tiers, start=1):
        name, covered = f"tier_{number}_codes", slots[: tier.coverage]
        kept[name] = pack_bits(unpack_rows(stored[name], covered, tier.code_bits))
        if tier.row_scale_bits:
            name, bits = f"tier_{number}_row_scale", tier.row_scale_bits
            kept[name] = pack_values(unpack_values(stored[name], covered, 1, bits), bits)
    return kept
