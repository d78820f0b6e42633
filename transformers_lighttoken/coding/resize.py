"""Adding rows to a compressed table and cutting rows off, without coding anything anew. Beyond the paper."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from .decode import leaning_of
from .packing import pack_bits, pack_values, unpack_rows, unpack_values
from .plan import CodingPlan
from .references import Leaning
from .table import CompressedTable
from .tier_index import decode_depths, encode_depths

logger = logging.getLogger(__name__)


def append_exact_rows(table: CompressedTable, rows: Tensor) -> CompressedTable:
    """A table with further rows at its end, stored as they are.

    Args:
        table: V rows.
        rows: (n, d) real values.

    Returns:
        A table of V + n rows; the first V decode as before.
    """
    plan, count = table.plan, rows.shape[0]
    exact_depth = len(plan.tiers) + 1
    added = torch.full((count,), exact_depth, dtype=torch.int64)
    index = encode_depths(torch.cat([depths_of(table), added]), exact_depth)
    exact_rows = torch.cat([table.tensors["exact_rows"], rows.to(table.tensors["exact_rows"])])
    grown = replace(
        plan,
        num_embeddings=plan.num_embeddings + count,
        num_exact=plan.num_exact + count,
        index_bytes=index.numel(),
    )
    index = index.to(exact_rows.device)
    return _rebuilt(grown, {**table.tensors, "exact_rows": exact_rows, "tier_index": index})


def keep_first_rows(table: CompressedTable, count: int) -> CompressedTable:
    """A table of the first rows.

    Args:
        table: V rows.
        count: rows to keep, in [1, V].

    Returns:
        A table of `count` rows that decode as before. Those that lean on a row that is cut off are stored as they
        decode, in the dtype of the exact rows.

    Raises:
        ValueError: if `count` is out of range, or so few rows that their factors are larger than the dense rows.
    """
    plan = table.plan
    if not 1 <= count <= plan.num_embeddings:
        raise ValueError(f"count must be in [1, {plan.num_embeddings}], got {count}.")
    uprooted = _leans_outside(table, count)
    if bool(uprooted.any()):
        logger.warning(
            "%d rows lean on rows that are cut off, and are stored as they decode, in %d bytes. Compressing the model "
            "anew with fewer rows takes less.",
            int(uprooted.sum()),
            int(uprooted.sum()) * plan.embedding_dim * table.tensors["exact_rows"].element_size(),
        )
    positions = table.positions[:count].long()
    exact = (positions < plan.num_exact) | uprooted
    slots = positions[~exact].sort().values - plan.num_exact  # storage order among the kept rows stays
    covered = [slots[slots < tier.coverage] for tier in plan.tiers]
    tiers = tuple(
        replace(tier, coverage=rows.numel()) for tier, rows in zip(plan.tiers, covered, strict=True) if rows.numel()
    )
    num_exact = int(exact.sum())
    max_depth = len(tiers) + (1 if num_exact else 0)
    depths = torch.where(exact.cpu(), len(tiers) + 1, depths_of(table)[:count])
    index = encode_depths(depths, max_depth) if max_depth else torch.empty(0, dtype=torch.uint8)
    tensors = dict(table.tensors)
    ids = exact.nonzero().squeeze(1)
    tensors["exact_rows"] = table.decode(ids).to(tensors["exact_rows"].dtype)
    tensors["tier_index"] = index.to(ids.device)
    tensors |= base_rows(table, slots)
    for number, (tier, rows) in enumerate(zip(plan.tiers, covered, strict=True), start=1):
        if tier.kind == "reference":
            tensors |= _leaning_rows(table, slots)
        else:
            tensors |= tier_rows(table, number, rows)
    cut = replace(plan, num_embeddings=count, num_exact=num_exact, tiers=tiers, index_bytes=index.numel())
    cut.validate()
    return _rebuilt(cut, tensors)


def depths_of(table: CompressedTable) -> Tensor:
    """Depth of each row in the tier index, (V,) int64 on the CPU: 0 for rows of the base code alone."""
    plan = table.plan
    if plan.max_depth == 0:
        return torch.zeros(plan.num_embeddings, dtype=torch.int64)
    return decode_depths(table.tensors["tier_index"], plan.num_embeddings, plan.max_depth)


def _rebuilt(plan: CodingPlan, tensors: dict[str, Tensor]) -> CompressedTable:
    return CompressedTable(plan, {name: tensors[name] for name in plan.tensor_specs()})


def base_rows(table: CompressedTable, slots: Tensor) -> dict[str, Tensor]:
    """The packed tensors of some coded rows (n,) of a table, but for those of its tiers."""
    plan = table.plan
    tensors = _scale_rows(table, "", slots, plan.row_scale_bits)
    if plan.rank:
        tensors["low_rank_left"] = table.tensors["low_rank_left"][:, slots].contiguous()
    if plan.code_bits:
        tensors["codes"] = pack_bits(unpack_rows(table.tensors["codes"], slots, plan.code_bits))
    return tensors


def tier_rows(table: CompressedTable, number: int, slots: Tensor) -> dict[str, Tensor]:
    """Those of rows (n,) that tier `number` covers, in this tier."""
    tier, prefix = table.plan.tiers[number - 1], f"tier_{number}_"
    codes = pack_bits(unpack_rows(table.tensors[prefix + "codes"], slots, tier.code_bits))
    return {prefix + "codes": codes, **_scale_rows(table, prefix, slots, tier.row_scale_bits)}


def _leans_outside(table: CompressedTable, count: int) -> Tensor:
    """Which of the first rows lean on a row that is not among them, (count,) bool."""
    plan = table.plan
    slots = table.slots(torch.arange(count))
    leaning = slots >= plan.num_standing
    kept = torch.zeros(plan.num_standing, dtype=torch.bool, device=slots.device)
    kept[slots[(slots >= 0) & ~leaning]] = True
    found = leaning_of(plan, table.tensors, slots[leaning] - plan.num_standing)
    outside = torch.zeros_like(leaning)
    outside[leaning] = ~kept[found.slots] & (found.weights > 0)
    return outside


def _leaning_rows(table: CompressedTable, slots: Tensor) -> dict[str, Tensor]:
    """What the kept rows lean on, numbered among the kept rows that stand alone."""
    number, tier = table.plan.reference_tier or (0, None)
    if tier is None:
        return {}
    standing, others = slots[slots < tier.coverage], slots[slots >= tier.coverage]
    found = leaning_of(table.plan, table.tensors, others - tier.coverage)
    places = torch.searchsorted(standing, found.slots).clamp(max=max(0, standing.numel() - 1))
    return {f"tier_{number}_codes": Leaning(places, found.weights).packed(tier.code_bits)}


def _scale_rows(table: CompressedTable, prefix: str, slots: Tensor, bits: int) -> dict[str, Tensor]:
    if not bits:
        return {}
    values = unpack_values(table.tensors[prefix + "row_scale"], slots, 1, bits)
    return {prefix + "row_scale": pack_values(values, bits)}
