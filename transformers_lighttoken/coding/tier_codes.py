"""Coding of what is left of frequent rows, by learnt decoders or fixed rotations. Beyond the paper."""

import torch
from torch import Tensor

from .decode import decode_tier
from .nested import encode_nested
from .packing import pack_bits, pack_values
from .plan import CodingPlan
from .quantize import dequantize_scales, quantize_scales
from .reduction import row_blocks
from .refine import Refiner, RefineSchedule
from .rotation import gaussian_levels, rotate, unrotate
from .share import RowShare

_DESCENT_SWEEPS = 2
_SCALE_FITS = 3
_GROUP_COLUMNS = 32


def encode_tier(
    residual: Tensor,
    plan: CodingPlan,
    number: int,
    metric: Tensor | None,
    stored: dict[str, Tensor],
    schedule: RefineSchedule,
    seed: int,
    share: RowShare,
) -> None:
    """Codes what earlier stages left of the rows that tier `number` covers; subtracts the result from `residual`.

    Args:
        residual: (coverage, d) float32, changed in place.
        plan: what to store of the rows of this process.
        number: of the tier, from 1.
        metric: (d, d) of the error; None for the plain one.
        stored: receives the tier's tensors.
        schedule: of the refinement of learnt tiers.
        seed: of the refinement.
        share: which rows these are.
    """
    tier = plan.tiers[number - 1]
    prefix = f"tier_{number}_"
    if tier.kind == "learnt":
        refiner = Refiner(residual, metric, seed + number, share)
        codes, decoder, scale = encode_nested(refiner, (tier.code_bits,), plan.decoder_dtype, schedule)
        stored |= {prefix + "codes": pack_bits(codes), prefix + "decoder": decoder, prefix + "decoder_scale": scale}
        residual -= decode_tier(plan, number, stored, torch.arange(tier.coverage, device=residual.device))
        return
    bits_per_dim = tier.code_bits // plan.embedding_dim
    levels = gaussian_levels(bits_per_dim, residual.device)
    gram = None if metric is None else rotate(rotate(metric, plan.rotation_seed).t(), plan.rotation_seed)
    codes, scales = [], []
    for _, rows in row_blocks(residual):
        rotated = rotate(rows, plan.rotation_seed)
        scales.append(_fit_scales(rotated, levels))
    scale_codes, scale_range = quantize_scales(share.merge(torch.cat(scales)), tier.row_scale_bits)
    scale_codes = share.take(scale_codes)
    for block, rows in row_blocks(residual):
        rotated = rotate(rows, plan.rotation_seed)  # (n, d)
        scale = dequantize_scales(scale_codes[block], scale_range).unsqueeze(1)  # (n, 1)
        chosen = _nearest(rotated, scale, levels)
        if gram is not None:
            chosen = _descend(rotated, scale, levels, chosen, gram)
        codes.append(chosen.to(torch.uint8))
        rows -= unrotate(levels[chosen] * scale, plan.rotation_seed)
    stored[prefix + "codes"] = pack_values(torch.cat(codes), bits_per_dim)
    stored[prefix + "row_scale"] = pack_values(scale_codes.unsqueeze(1), tier.row_scale_bits)
    stored[prefix + "row_scale_range"] = scale_range


def _nearest(values: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
    """Index of the level nearest to values / scale; int64 of the shape of `values`."""
    midpoints = (levels[1:] + levels[:-1]) / 2
    safe = torch.where(scale > 0, scale, 1.0)
    return torch.bucketize((values / safe).contiguous(), midpoints)


def _fit_scales(rotated: Tensor, levels: Tensor) -> Tensor:
    """Scale of each row from its root mean square, refitted by least squares to the levels chosen. (n,)."""
    scale = rotated.square().mean(dim=1, keepdim=True).sqrt()  # (n, 1)
    for _ in range(_SCALE_FITS):
        chosen = levels[_nearest(rotated, scale, levels)]
        scale = ((rotated * chosen).sum(dim=1, keepdim=True) / chosen.square().sum(dim=1, keepdim=True)).clamp(min=0)
    return scale.squeeze(1)


def _descend(rotated: Tensor, scale: Tensor, levels: Tensor, chosen: Tensor, gram: Tensor) -> Tensor:
    """Coordinate descent on the metric's error: each level takes its best value given the others.

    Args:
        rotated: (n, d) rows to code.
        scale: (n, 1).
        levels: (2**b,) rising.
        chosen: (n, d) indices to start from.
        gram: (d, d) the metric in rotated coordinates.

    Returns:
        (n, d) indices.
    """
    energy = gram.diagonal().clamp(min=torch.finfo(torch.float32).tiny)
    chosen = chosen.t().contiguous()  # (d, n)
    scale = scale.t()  # (1, n)
    error = rotated.t() - levels[chosen] * scale  # (d, n)
    gradient = gram @ error  # (d, n)
    for _ in range(_DESCENT_SWEEPS):
        for first in range(0, chosen.shape[0], _GROUP_COLUMNS):
            group = slice(first, min(first + _GROUP_COLUMNS, chosen.shape[0]))
            before = levels[chosen[group]]
            local = gradient[group].clone()
            for row, column in enumerate(range(group.start, group.stop)):
                current = levels[chosen[column]]
                wanted = current * scale[0] + local[row] / energy[column]
                chosen[column] = _nearest(wanted.unsqueeze(1), scale.t(), levels).squeeze(1)
                change = (levels[chosen[column]] - current) * scale[0]
                if column + 1 < group.stop:
                    local[row + 1 :].addr_(gram[column + 1 : group.stop, column], change, alpha=-1)
            gradient.addmm_(gram[:, group], (levels[chosen[group]] - before) * scale, alpha=-1)
    return chosen.t().contiguous()
