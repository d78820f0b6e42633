"""From stored tensors to rows: y = scale * (left right + sum_j b_j D_j + tiers + w z), b in {-1, +1}."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .constants import constant, values_of_bytes
from .packing import bfloat16_of_bits, unpack_row_bytes, unpack_values
from .plan import CodingPlan
from .quantize import dequantize_rows, dequantize_scales
from .references import Leaning
from .rotation import gaussian_levels, levels_of_bytes, rotate, unrotate
from .tier import TierKind
from .trellis import decode_trellis
from .whitening import unwhiten

StoredTensors = Mapping[str, Tensor]
DECODE_BLOCK_ROWS = 8192
SIGNS = (-1.0, 1.0)
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")  # asking PyTorch for them breaks the graph of torch.compile in 2.11


def decode_positions(plan: CodingPlan, stored: StoredTensors, positions: Tensor) -> Tensor:
    """Decodes rows given by where they are stored.

    Args:
        plan: what is stored.
        stored: tensors by the names of `plan.tensor_specs()`; matrices and row scales may be given as the float32
            values that they stand for, which then get gradients.
        positions: (n,) int64 storage positions, exact rows first (see `tier_index`).

    Returns:
        (n, d) float32, under autocast too.
    """
    device_type = positions.device.type
    if device_type in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device_type):
        with torch.autocast(device_type, enabled=False):
            return decode_positions(plan, stored, positions)
    if plan.num_coded == 0:
        return stored["exact_rows"].index_select(0, positions).float()
    if torch.compiler.is_compiling():  # no shapes that depend on data
        rows = decode_coded(plan, stored, (positions - plan.num_exact).clamp(min=0))
        if plan.num_exact == 0:
            return rows
        exact = stored["exact_rows"].index_select(0, positions.clamp(max=plan.num_exact - 1)).float()
        return torch.where((positions < plan.num_exact).unsqueeze(1), exact, rows)
    if bool((positions[1:] < positions[:-1]).any()):
        positions, order = positions.sort()
        return decode_positions(plan, stored, positions).index_select(0, order.argsort())
    count = num_below(plan.num_exact, positions)
    rows = decode_coded(plan, stored, (positions - plan.num_exact).clamp_(min=0))
    if count or (plan.num_exact and stored["exact_rows"].requires_grad):
        rows[:count] = stored["exact_rows"].index_select(0, positions[:count]).float()
    return rows


def decode_coded(plan: CodingPlan, stored: StoredTensors, slots: Tensor) -> Tensor:
    """Decodes coded rows given by their slot, the storage position less the exact rows. (n, d) float32.

    Slots come in rising order. Only while a graph is traced may they come in any order, here and below.
    """
    rows = decode_unscaled(plan, stored, slots)
    if not plan.row_scale_bits:
        return rows
    scales = row_scales(stored, "", slots, plan.row_scale_bits)
    rows = rows * scales if torch.is_grad_enabled() or torch.compiler.is_compiling() else rows.mul_(scales)
    return rows + (scales > 0) * stored_center(stored) if plan.centered else rows


def decode_unscaled(plan: CodingPlan, stored: StoredTensors, slots: Tensor) -> Tensor:
    """Coded rows before their row scale, slots in rising order. (n, d) float32."""
    rows = decode_own(plan, stored, slots)
    if not plan.num_leaning:
        return rows
    if torch.compiler.is_compiling():
        leaning = leaning_of(plan, stored, (slots - plan.num_standing).clamp(min=0))
        factors = leaning.factors * (slots >= plan.num_standing).unsqueeze(1)
        return rows + decode_own(plan, stored, leaning.slots) * factors
    count = num_below(plan.num_standing, slots)
    if count < slots.numel():
        leaning = leaning_of(plan, stored, slots[count:] - plan.num_standing)
        standing, places = leaning.slots.unique(return_inverse=True)
        rows[count:] += decode_own(plan, stored, standing)[places] * leaning.factors
    return rows


def leaning_of(plan: CodingPlan, stored: StoredTensors, rows: Tensor) -> Leaning:
    """What some of the rows that lean on others lean on, numbered from the first of them."""
    number, tier = plan.reference_tier or (0, None)
    if tier is None:
        return Leaning.of_none(rows.numel(), rows.device)
    return Leaning.unpack(stored[f"tier_{number}_codes"], rows, tier.code_bits, tier.coverage)


def decode_own(plan: CodingPlan, stored: StoredTensors, slots: Tensor) -> Tensor:
    """The same without what rows lean on."""
    rows = decode_base(plan, stored, slots)
    if not plan.code_tiers:
        return rows
    if torch.compiler.is_compiling():
        return rows + decode_tiers(plan, stored, slots)
    count = num_below(plan.code_tiers[0][1].coverage, slots)
    if count:
        rows[:count] += decode_tiers(plan, stored, slots[:count])
    return rows


def num_below(bound: int, rising: Tensor) -> int:
    """How many of rising integers are below a bound."""
    return int(torch.searchsorted(rising, bound))


def decode_base(plan: CodingPlan, stored: StoredTensors, slots: Tensor) -> Tensor:
    """The low-rank part and the base code of rows, before tiers and row scale. (n, d) float32."""
    if not plan.rank and not plan.code_bits:
        return torch.zeros(slots.numel(), plan.embedding_dim, device=slots.device)
    coded = decode_signs(stored["codes"], slots, stored_matrix(stored, "decoder")) if plan.code_bits else None
    if not plan.rank and coded is not None:
        return coded
    rows = low_rank_left(stored, slots) @ stored_matrix(stored, "low_rank_right")
    return rows if coded is None else rows + coded


def stored_center(stored: StoredTensors) -> Tensor:
    """The row relative to which rows are coded (see `centering`). (d,) float32."""
    return bfloat16_of_bits(stored["center"])


def low_rank_left(stored: StoredTensors, slots: Tensor) -> Tensor:
    """The left factor of some rows. (n, k) float32."""
    left = stored["low_rank_left"][:, slots]  # (k, n)
    left = left if left.dtype == torch.float32 else dequantize_rows(left, stored["low_rank_left_scale"])
    return left.t()


def stored_matrix(stored: StoredTensors, name: str) -> Tensor:
    """The float32 values of a stored matrix."""
    matrix = stored[name]
    return matrix if matrix.dtype == torch.float32 else dequantize_rows(matrix, stored[name + "_scale"])


def row_scales(stored: StoredTensors, prefix: str, slots: Tensor, bits: int) -> Tensor:
    """Row scales of some rows. (n, 1) float32."""
    if stored[prefix + "row_scale"].dtype == torch.float32:
        return stored[prefix + "row_scale"].index_select(0, slots).unsqueeze(1)
    codes = unpack_values(stored[prefix + "row_scale"], slots, 1, bits)
    return dequantize_scales(codes, stored[prefix + "row_scale_range"])


def decode_signs(codes: Tensor, slots: Tensor, decoder: Tensor) -> Tensor:
    """Sums decoder rows with the signs of the code: sum_j b_j D_j.

    The gradient of the decoder is B^T g.

    Args:
        codes: uint8, packed rows of m bits.
        slots: (n,) int64 rows.
        decoder: (m, d) float32.

    Returns:
        (n, d) float32.
    """
    if not (torch.is_grad_enabled() and decoder.requires_grad):
        return unpack_signs(codes, slots, decoder.shape[0]) @ decoder
    if torch.compiler.is_compiling():
        return unpack_signs(codes, slots, decoder.shape[0]) @ decoder
    return _SignProduct.apply(decoder, codes, slots)  # pyright: ignore[reportReturnType]


def unpack_signs(codes: Tensor, slots: Tensor, bits: int) -> Tensor:
    """(n, m) of -1 and +1, float32, looked up a byte at a time."""
    return _look_up_bytes(codes, slots, bits, constant(values_of_bytes, SIGNS, device=codes.device))[:, :bits]


def _look_up_bytes(codes: Tensor, slots: Tensor, bits_per_row: int, values: Tensor) -> Tensor:
    """The values of all codes in each byte of packed rows, (256, values a byte) being those of every byte."""
    row_bytes = unpack_row_bytes(codes, slots, bits_per_row)  # (n, ceil(bits / 8))
    return functional.embedding(row_bytes.int(), values).flatten(1)


class _SignProduct(torch.autograd.Function):
    """Signs times decoder; the backward pass unpacks the signs again, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, decoder: Tensor, codes: Tensor, slots: Tensor) -> Tensor:
        ctx.codes, ctx.slots, ctx.bits = codes, slots, decoder.shape[0]  # codes never change: no version to check
        return unpack_signs(codes, slots, decoder.shape[0]) @ decoder

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.new_zeros(ctx.bits, gradient.shape[1])
        blocks = zip(ctx.slots.split(DECODE_BLOCK_ROWS), gradient.split(DECODE_BLOCK_ROWS), strict=True)
        with torch.autocast(gradient.device.type, enabled=False):
            for slots, rows in blocks:
                total.addmm_(unpack_signs(ctx.codes, slots, ctx.bits).t(), rows)
        return total, None, None


def decode_tiers(plan: CodingPlan, stored: StoredTensors, slots: Tensor) -> Tensor:
    """What all tiers add to rows, before the row scale, slots in rising order and covered by the first tier.

    Returns:
        (n, d) float32; the fixed maps are undone once for all tiers of a kind.
    """
    sums: dict[TierKind, Tensor] = {}
    for number, tier in plan.code_tiers:
        values = _covered_values(plan, number, stored, slots)
        if tier.kind in sums:
            sums[tier.kind][: len(values)] += values
        else:
            sums[tier.kind] = functional.pad(values, (0, 0, 0, slots.numel() - len(values)))
    parts = [values if kind == "learnt" else undo_map(plan, kind, stored, values) for kind, values in sums.items()]
    return reduce(torch.add, parts)


def undo_map(plan: CodingPlan, kind: TierKind, stored: StoredTensors, values: Tensor) -> Tensor:
    """Rows (n, d) from the coordinates of a rotated or trellis tier."""
    rows = unrotate(values, plan.rotation_seed)
    if kind == "rotated" or not plan.whitening_rank:
        return rows
    return unwhiten(rows, stored_matrix(stored, "whitening"))


def map_states(plan: CodingPlan, kind: TierKind, stored: StoredTensors, states: Tensor) -> Tensor:
    """Hidden states (n, d) in the coordinates of a rotated or trellis tier, where their products with rows stay."""
    if kind == "trellis" and plan.whitening_rank:
        states = unwhiten(states, stored_matrix(stored, "whitening"))
    return rotate(states, plan.rotation_seed)


def _covered_values(plan: CodingPlan, number: int, stored: StoredTensors, slots: Tensor) -> Tensor:
    """What a tier adds to the rows that it covers, the first ones; while a graph is traced to all rows, 0 to others."""
    coverage = plan.tiers[number - 1].coverage
    if torch.compiler.is_compiling():
        return decode_tier(plan, number, stored, slots.clamp(max=coverage - 1)) * (slots < coverage).unsqueeze(1)
    return decode_tier(plan, number, stored, slots[: num_below(coverage, slots)])


def decode_tier(plan: CodingPlan, number: int, stored: StoredTensors, slots: Tensor) -> Tensor:
    """What one tier adds to rows that it covers, in the coordinates after its fixed maps if any. (n, d) float32."""
    tier, prefix = plan.tiers[number - 1], f"tier_{number}_"
    if tier.kind == "learnt":
        return decode_signs(stored[prefix + "codes"], slots, stored_matrix(stored, prefix + "decoder"))
    return tier_levels(plan, number, stored, slots) * tier_scales(plan, number, stored, slots)


def tier_scales(plan: CodingPlan, number: int, stored: StoredTensors, slots: Tensor) -> Tensor:
    """Scales of some rows in a rotated or trellis tier: stored with it, or from the tier before it. (n, 1) float32."""
    factor, code_tiers = 1.0, dict(plan.code_tiers)
    while not code_tiers[number].row_scale_bits:
        number = max(other for other in code_tiers if other < number)
        factor *= code_tiers[number].scale_after(plan.embedding_dim)
    return row_scales(stored, f"tier_{number}_", slots, code_tiers[number].row_scale_bits) * factor


def tier_levels(plan: CodingPlan, number: int, stored: StoredTensors, slots: Tensor) -> Tensor:
    """The levels of a rotated or trellis tier, before its row scale. (n, d) float32."""
    tier, codes, dim = plan.tiers[number - 1], stored[f"tier_{number}_codes"], plan.embedding_dim
    if tier.kind == "trellis":
        return decode_trellis(codes, slots, dim, tier.trellis_width(dim))
    return unpack_levels(codes, slots, dim, tier.code_bits // dim)


def unpack_levels(codes: Tensor, slots: Tensor, dim: int, bits_per_dim: int) -> Tensor:
    """The levels of scalar codes, (n, d) float32, looked up a byte at a time where no code straddles bytes."""
    if 8 % bits_per_dim == 0 and dim * bits_per_dim % 8 == 0:
        return _look_up_bytes(codes, slots, dim * bits_per_dim, levels_of_bytes(bits_per_dim, codes.device))
    values = unpack_values(codes, slots, dim, bits_per_dim)
    return functional.embedding(values, gaussian_levels(bits_per_dim, codes.device).unsqueeze(1)).squeeze(-1)
