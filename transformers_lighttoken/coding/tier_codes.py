"""Coding of what is left of frequent rows, by learnt decoders or fixed rotations. Beyond the paper."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .decode import StoredTensors, tier_scales
from .nested import encode_nested
from .packing import join_rows, pack_bits, pack_values, packed_bytes
from .plan import CodingPlan
from .quantize import quantize_scales, scale_codes
from .reduction import RowSource, row_blocks, row_places, rows_at_once
from .refine import Refiner, RefineSchedule
from .rotation import gaussian_levels, rotate
from .share import RowShare
from .threads import for_each
from .tier import TierKind
from .trellis import encode_trellis
from .whitening import whitening_map

_DESCENT_SWEEPS = 2
_SCALE_FITS = 3
_GROUP_COLUMNS = 32


def encode_tier(
    rows: RowSource,
    plan: CodingPlan,
    number: int,
    metric: Tensor | None,
    stored: dict[str, Tensor],
    schedule: RefineSchedule,
    seed: int,
    share: RowShare,
    first: int | None = None,
    later_scales: Tensor | None = None,
) -> None:
    """Codes what earlier stages left of the rows that tier `number` covers.

    Args:
        rows: (n, d) float32, the rows that the tier covers, or a part of them.
        plan: what to store of the rows of this process.
        number: of the tier, from 1.
        metric: (d, d) of the error; None for the plain one.
        stored: receives the tier's tensors.
        schedule: of the refinement of learnt tiers.
        seed: of the refinement.
        share: which rows these are.
        first: rows of this process before these, whose codes are in `stored`; None where these are the first ones.
        later_scales: (m,) about the scales of covered rows that are coded later, for a grid that suits them too.
    """
    tier = plan.tiers[number - 1]
    prefix = f"tier_{number}_"
    if tier.kind == "learnt":
        residual = torch.empty(rows.shape, device=rows.device)
        for place, block in row_blocks(rows, rows_at_once(rows.device)):
            residual[place] = block
        refiner = Refiner(residual, metric, seed + number, share)
        codes, decoder, scale = encode_nested(refiner, (tier.code_bits,), plan.decoder_dtype, schedule)
        stored |= {prefix + "codes": pack_bits(codes), prefix + "decoder": decoder, prefix + "decoder_scale": scale}
        return
    coordinates = _Coordinates.of(plan, number, metric, stored)
    if tier.row_scale_bits:
        scales = suitable_scales(rows, plan, number, metric, stored)
        _store_scales(scales, tier.row_scale_bits, prefix, stored, share, first, later_scales)
    codes = torch.empty(packed_bytes(len(rows), tier.code_bits), dtype=torch.uint8, device=rows.device)
    slots = torch.arange(first or 0, (first or 0) + len(rows), device=rows.device)

    def encode_block(place: slice) -> None:
        scale = tier_scales(plan, number, stored, slots[place])  # (n, 1)
        packed = pack_values(coordinates.encode(coordinates.values(rows[place]), scale), coordinates.bits)
        start = place.start * tier.code_bits // 8  # rows of a block before are whole bytes
        codes[start : start + len(packed)] = packed

    for_each(row_places(len(rows), rows.device, rows_at_once(rows.device)), encode_block, rows.device)
    _store_rows(codes, tier.code_bits, len(rows), prefix + "codes", stored, first)


def suitable_scales(
    rows: RowSource, plan: CodingPlan, number: int, metric: Tensor | None, stored: StoredTensors
) -> Tensor:
    """The scales that a rotated or trellis tier with scales of its own would give to rows (n, d). (n,)."""
    coordinates = _Coordinates.of(plan, number, metric, stored)
    scales = torch.empty(len(rows), device=rows.device)

    def find(place: slice) -> None:
        scales[place] = coordinates.scales(coordinates.values(rows[place]))

    for_each(row_places(len(rows), rows.device, rows_at_once(rows.device)), find, rows.device)
    return scales


def _store_rows(packed: Tensor, bits: int, count: int, name: str, stored: dict[str, Tensor], first: int | None) -> None:
    """Stores packed rows of some bits each, after those that are there where these are not the first ones."""
    stored[name] = packed if first is None else join_rows(stored.get(name, packed[:0]), packed, (first, count), bits)


def _store_scales(
    scales: Tensor,
    bits: int,
    prefix: str,
    stored: dict[str, Tensor],
    share: RowShare,
    first: int | None,
    later: Tensor | None,
) -> None:
    """Stores the scales of a tier's rows, (n,)."""
    known = None if first is None else stored[prefix + "row_scale_range"]
    codes, stored[prefix + "row_scale_range"] = _scale_codes(scales, bits, share, first or 0, later, known)
    _store_rows(pack_values(codes.unsqueeze(1), bits), bits, len(codes), prefix + "row_scale", stored, first)


def _scale_codes(
    scales: Tensor, bits: int, share: RowShare, first: int, later: Tensor | None, grid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes of row scales, (n,) uint8, and their grid.

    Scales are rounded in one vector of all rows: where a number lies in a vector may decide how its logarithm rounds.

    Args:
        scales: (n,) of rows of this process.
        bits: of a code.
        share: which rows these are.
        first: rows of this process before these.
        later: scales of further rows that the grid is to suit.
        grid: to round to; one for these scales when None.
    """
    every = share.merge(torch.cat([scales.new_zeros(first), scales]))
    if grid is None and later is None:
        codes, grid = quantize_scales(every, bits)
        return share.take(codes), grid
    if grid is None:
        others = torch.cat(share.gather(scales.new_zeros(0) if later is None else later))
        _, grid = quantize_scales(torch.cat([every, others]).sort().values, bits)
    return share.take(scale_codes(every, grid, bits))[first:], grid


@dataclass(frozen=True)
class _Coordinates:
    """The coordinates in which a rotated or a trellis tier codes, and how.

    Attributes:
        kind: of the tier.
        bits: of a code.
        width: values that share a bit of a trellis tier.
        seed: of the rotation.
        whitening: (d, d) map before the rotation, or None.
        gram: (d, d) metric in these coordinates; None where errors count alike in all of them.
    """

    kind: TierKind
    bits: int
    width: int
    seed: int
    whitening: Tensor | None
    gram: Tensor | None

    @classmethod
    def of(cls, plan: CodingPlan, number: int, metric: Tensor | None, stored: StoredTensors) -> "_Coordinates":
        tier, dim = plan.tiers[number - 1], plan.embedding_dim
        whitening, gram = None, None
        if tier.kind == "trellis" and plan.whitening_rank:
            whitening = whitening_map(stored["whitening"], stored["whitening_scale"])
        if tier.kind == "rotated" and metric is not None:
            gram = rotate(rotate(metric, plan.rotation_seed).t(), plan.rotation_seed)
        bits = 1 if tier.kind == "trellis" else tier.code_bits // dim
        return cls(tier.kind, bits, tier.trellis_width(dim), plan.rotation_seed, whitening, gram)

    def values(self, rows: Tensor) -> Tensor:
        """Rows (n, d) in these coordinates."""
        return rotate(rows if self.whitening is None else rows @ self.whitening, self.seed)

    def scales(self, values: Tensor) -> Tensor:
        """Scale of each row, (n,): a trellis code's levels are means of what they stand for, so no fit is needed."""
        if self.kind == "trellis":
            return values.square().mean(dim=1).sqrt()
        return _fit_scales(values, gaussian_levels(self.bits, values.device))

    def encode(self, values: Tensor, scale: Tensor) -> Tensor:
        """Codes, uint8, of rows (n, d) whose scales are (n, 1)."""
        if self.kind == "trellis":
            return encode_trellis(values / torch.where(scale > 0, scale, 1.0), self.width).to(torch.uint8)
        levels = gaussian_levels(self.bits, values.device)
        chosen = _nearest(values, scale, levels)
        if self.gram is not None:
            chosen = _descend(values, scale, levels, chosen, self.gram)
        return chosen.to(torch.uint8)


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
