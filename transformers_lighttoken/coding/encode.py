"""From a dense table and a CodingPlan to a CompressedTable."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .autoencoder import train_chain
from .decode import DECODE_BLOCK_ROWS, decode_base
from .low_rank import low_rank
from .nested import encode_nested, num_rounds
from .packing import pack_bits, pack_values
from .plan import EXACT_DTYPES, CodingPlan
from .quantize import dequantize_rows, quantize_rows, quantize_scales
from .reduction import Reduce, local_sum, row_blocks
from .refine import Refiner, RefineSchedule
from .rows import Normalization, fit_row_scales
from .table import CompressedTable
from .tier_codes import encode_tier
from .tier_index import encode_depths, storage_order

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many steps of it are finished, and how many there are."""


@dataclass(frozen=True)
class EncodeOptions:
    """How to train what a plan stores.

    Attributes:
        solver: "refined" (closed-form stages, then refinement) or "paper" (autoencoder alone, after Wang et al. 2023).
        warm_start: what "refined" starts from: "closed_form" stages or the trained "autoencoder".
        alpha: of the loss L_alpha of the autoencoder. The refined solver minimises the Euclidean error of rows divided
            by their norm; alpha enters it only through the autoencoder it may start from.
        seed: of everything random.
        schedule: of the refinement.
        reduce: sums over processes.
    """

    solver: str = "refined"
    warm_start: str = "closed_form"
    alpha: float = 2.0
    seed: int = 0
    schedule: RefineSchedule = RefineSchedule()
    reduce: Reduce = local_sum


def encode(
    weight: Tensor,
    plan: CodingPlan,
    depths: Tensor | None = None,
    metric: Tensor | None = None,
    options: EncodeOptions | None = None,
    progress: Progress | None = None,
) -> CompressedTable:
    """Codes a table as a plan says.

    Args:
        weight: (V, d) floating-point table, on the device to compute on.
        plan: what to store.
        depths: (V,) depth of each row (see `tier_index`); None where the plan has neither tiers nor exact rows.
        metric: (d, d) positive semi-definite M of the error (e - e')^T M (e - e'); None for the plain one.
        options: how to train.
        progress: told of each step.

    Returns:
        The coded table, on the weight's device.

    Raises:
        ValueError: if the weight has another shape than the plan, or values that are not finite.
    """
    check_weight(weight)
    if tuple(weight.shape) != (plan.num_embeddings, plan.embedding_dim):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, the plan is for {(plan.num_embeddings, plan.embedding_dim)}."
        )
    options = options or EncodeOptions()
    depths = torch.zeros(plan.num_embeddings, dtype=torch.long) if depths is None else depths.cpu()
    order = storage_order(depths).to(weight.device)
    exact, coded = order[: plan.num_exact], order[plan.num_exact :]
    stored: dict[str, Tensor] = {"exact_rows": weight[exact].to(EXACT_DTYPES[plan.exact_dtype])}
    if plan.max_depth:
        stored["tier_index"] = encode_depths(depths, plan.max_depth).to(weight.device)
    rows = weight.index_select(0, coded).float()
    normalization = Normalization.of(rows, per_row=plan.row_scale_bits > 0)
    targets = normalization.apply(rows)
    residual = _encode_low_rank(targets, plan, metric, stored, options)
    _encode_base(residual, plan, metric, stored, options, progress)
    residual = _left_over(targets, plan, stored)
    for number, tier in enumerate(plan.tiers, start=1):
        residual = residual[: tier.coverage]
        encode_tier(residual, plan, number, metric, stored, options.schedule, options.seed, options.reduce)
    normalization.restore_scales(stored)
    if plan.row_scale_bits:
        scales = fit_row_scales(rows, plan, stored, metric)
        codes, stored["row_scale_range"] = quantize_scales(scales, plan.row_scale_bits)
        stored["row_scale"] = pack_values(codes.unsqueeze(1), plan.row_scale_bits)
    return CompressedTable(plan, {name: stored[name] for name in plan.tensor_specs()})


def check_weight(weight: Tensor) -> None:
    """Refuses what is no table.

    Raises:
        TypeError: if it is not floating-point.
        ValueError: if it is not two-dimensional, is empty, or holds values that are not finite.
    """
    if not weight.is_floating_point():
        raise TypeError(f"weight must be a floating-point tensor, got {weight.dtype}.")
    if weight.dim() != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be a non-empty matrix (V, d), got shape {tuple(weight.shape)}.")
    for place, block in row_blocks(weight.detach()):
        finite = torch.isfinite(block.float()).all(dim=1)
        if not bool(finite.all()):
            row = place.start + int((~finite).nonzero()[0])
            raise ValueError(f"weight holds NaN or infinite values, the first in row {row} (as float32).")


def _encode_low_rank(
    targets: Tensor, plan: CodingPlan, metric: Tensor | None, stored: dict[str, Tensor], options: EncodeOptions
) -> Tensor:
    if not plan.rank:
        return targets
    left, right = low_rank(targets, plan.rank, metric, options.reduce)
    stored["low_rank_left"], stored["low_rank_left_scale"] = quantize_rows(left.t(), plan.decoder_dtype)
    stored["low_rank_right"], stored["low_rank_right_scale"] = quantize_rows(right, plan.decoder_dtype)
    right = dequantize_rows(stored["low_rank_right"], stored["low_rank_right_scale"])
    return targets - dequantize_rows(stored["low_rank_left"], stored["low_rank_left_scale"]).t() @ right


def _encode_base(
    residual: Tensor,
    plan: CodingPlan,
    metric: Tensor | None,
    stored: dict[str, Tensor],
    options: EncodeOptions,
    progress: Progress | None,
) -> None:
    if not plan.code_bits:
        return
    report = progress or (lambda *_: None)
    start: Tensor | None = None
    if options.solver == "paper" or options.warm_start == "autoencoder":
        start, decoder, scale = train_chain(
            residual, plan.stage_bits, options.alpha, options.seed, plan.decoder_dtype,
            on_stage=lambda number: report("autoencoder stages", number + 1, len(plan.stage_bits)),
        )  # fmt: skip
    if start is None or options.solver == "refined":
        refiner = Refiner(residual, metric, options.seed, options.reduce)
        rounds = num_rounds(plan.stage_bits, options.schedule, start is None)
        start, decoder, scale = encode_nested(
            refiner, plan.stage_bits, plan.decoder_dtype, options.schedule, start,
            on_round=lambda number: report("refinement rounds", number + 1, rounds),
        )  # fmt: skip
    stored["codes"], stored["decoder"], stored["decoder_scale"] = pack_bits(start), decoder, scale


def _left_over(targets: Tensor, plan: CodingPlan, stored: dict[str, Tensor]) -> Tensor:
    """What low-rank part and base code leave of the rows that the first tier covers."""
    covered = plan.tiers[0].coverage if plan.tiers else 0
    slots = torch.arange(covered, device=targets.device)
    return targets[:covered] - torch.cat(
        [decode_base(plan, stored, block) for block in slots.split(DECODE_BLOCK_ROWS)] or [targets[:0]]
    )
