"""From a dense table and a CodingPlan to a CompressedTable."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .autoencoder import train_chain
from .centering import CenteredRows, mean_row
from .decode import decode_own
from .journal import NO_JOURNAL, Journal
from .leaning_rows import Lean, kept_leaning, row_scales_of
from .low_rank import low_rank
from .nested import encode_nested, num_rounds
from .packing import pack_bits, pack_values
from .plan import EXACT_DTYPES, CodingPlan
from .quantize import dequantize_rows, quantize_rows, quantize_scales
from .recut import first_bits, keeps_every_code, kept_codes
from .reduction import RowSource, row_blocks, rows_at_once
from .refine import Refiner, RefineSchedule
from .rows import divided_rows, fit_row_scales, normalized_rows, restore_scales
from .share import ALL_ROWS, RowShare
from .table import CompressedTable
from .table_rows import TableRows, as_rows, check_finite
from .threads import one_thread_each
from .tier_index import encode_depths, storage_order
from .tier_passes import Decode, TierPasses
from .whitening import fit_whitening

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
        share: which rows this process codes; it gets the whole table all the same.
        journal: remembers what is finished, so that a stopped run goes on from there.
        nested_in: a larger code of the same table; the first bits of its base code are kept, and only refitted.
        on_error: told the relative error of the base code after each round of refinement, before `progress` is.
        head_covariance: (d, d) of the hidden states that meet the rows of a head (see `rows.fit_row_scales`).
        center: (d,) int16, bits of bfloat16 values, of centered plans; the mean of all rows when None.
    """

    solver: str = "refined"
    warm_start: str = "closed_form"
    alpha: float = 2.0
    seed: int = 0
    schedule: RefineSchedule = RefineSchedule()
    share: RowShare = ALL_ROWS
    journal: Journal = NO_JOURNAL
    nested_in: CompressedTable | None = None
    on_error: Callable[[float], None] | None = None
    head_covariance: Tensor | None = None
    center: Tensor | None = None

    @property
    def trains_autoencoder(self) -> bool:
        """Whether the autoencoder is trained, alone or to start refinement from."""
        return self.solver == "paper" or self.warm_start == "autoencoder"


@one_thread_each
def encode(
    weight: Tensor | TableRows,
    plan: CodingPlan,
    depths: Tensor | None = None,
    metric: Tensor | None = None,
    options: EncodeOptions | None = None,
    progress: Progress | None = None,
) -> CompressedTable:
    """Codes a table as a plan says.

    Args:
        weight: (V, d) floating-point table, on the device to compute on, or one that is read by rows.
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
    table, options = as_rows(weight), options or EncodeOptions()
    check_finite(table, options.share)
    if tuple(table.shape) != (plan.num_embeddings, plan.embedding_dim):
        raise ValueError(
            f"weight has shape {tuple(table.shape)}, the plan is for {(plan.num_embeddings, plan.embedding_dim)}."
        )
    share = options.share
    depths = torch.zeros(plan.num_embeddings, dtype=torch.long) if depths is None else depths.cpu()
    order = storage_order(depths)
    exact, coded = order[: plan.num_exact], order[plan.num_exact :]
    ids = coded[share.places(plan.num_coded, table.device)]
    local = share.local_plan(plan, table.device)
    stored: dict[str, Tensor] = {}
    rows: TableRows = table
    if plan.centered:
        center = options.center
        if center is None:
            larger = options.nested_in
            center = larger.tensors["center"] if larger and larger.plan.centered else mean_row(table, share=share)
        stored["center"] = center.to(table.device)
        rows = CenteredRows(table, stored["center"])
    if options.nested_in is not None and keeps_every_code(options.nested_in, plan, coded):
        stored |= kept_codes(options.nested_in, local, ids)
        lean, decode = None, partial(decode_own, local, stored)
    else:
        lean, decode = _fit(rows, plan, coded, metric, stored, options, progress)
    scales = None
    if plan.row_scale_bits:
        scales = fit_row_scales(rows, ids, local, decode, metric, options.head_covariance)
    stored = share.merge_stored(stored, plan)
    if lean is not None:
        stored |= lean.packed(share)
    stored["exact_rows"] = table.read(exact).to(EXACT_DTYPES[plan.exact_dtype])
    if plan.max_depth:
        stored["tier_index"] = encode_depths(depths, plan.max_depth).to(table.device)
    if scales is not None:
        codes, stored["row_scale_range"] = quantize_scales(share.merge(scales), plan.row_scale_bits)
        stored["row_scale"] = pack_values(codes.unsqueeze(1), plan.row_scale_bits)
    return CompressedTable(plan, {name: stored[name] for name in plan.tensor_specs()})


def _fit(
    rows: TableRows,
    plan: CodingPlan,
    coded: Tensor,
    metric: Tensor | None,
    stored: dict[str, Tensor],
    options: EncodeOptions,
    progress: Progress | None,
) -> tuple[Lean | None, Decode]:
    """Codes this process's rows into `stored`; how they lean on others, if they do, and what decodes them."""
    share = options.share
    ids, local = coded[share.places(plan.num_coded, rows.device)], share.local_plan(plan, rows.device)
    copied = not _can_do_without_copy(rows, plan, options)
    lean, kept_from = None, options.nested_in if plan.num_leaning else None
    divisors = None if kept_from is None else row_scales_of(kept_from)
    targets, common = normalized_rows(rows, ids, plan.row_scale_bits > 0, share, copied, divisors)
    if plan.num_leaning:
        dense = divided_rows(rows, coded[: plan.num_standing], divisors)
        leaning = None if kept_from is None else kept_leaning(kept_from, plan, coded)
        lean = Lean.choose(dense, targets, plan, metric, share, leaning)
        targets = lean.subtracted(targets)
    if isinstance(targets, Tensor):
        _encode_low_rank(targets, plan, metric, stored, options)
    kept = None if options.nested_in is None else share.take(first_bits(options.nested_in, plan, coded))
    _encode_base(targets, plan, metric, stored, options, progress, kept)
    if plan.whitening_rank:
        stored |= _whitening(plan, metric, options.nested_in, rows.device)
    report = progress or (lambda *_: None)
    passes = TierPasses(
        plan, local, metric, stored, options.schedule, options.seed, share,
        on_tier=partial(report, "tiers"),
    )  # fmt: skip
    decode = passes.encode(targets, lean)
    restore_scales(stored, common)
    return lean, decode


def check_weight(weight: Tensor) -> None:
    """Refuses what is no table.

    Raises:
        TypeError: if it is not floating-point.
        ValueError: if it is not two-dimensional, is empty, or holds values that are not finite.
    """
    check_finite(as_rows(weight))


def _can_do_without_copy(table: TableRows, plan: CodingPlan, options: EncodeOptions) -> bool:
    """Whether reading the rows is quick, and nothing but refinement goes over them."""
    return table.in_memory and not options.trains_autoencoder and not plan.rank


def _encode_low_rank(
    targets: Tensor, plan: CodingPlan, metric: Tensor | None, stored: dict[str, Tensor], options: EncodeOptions
) -> None:
    """Subtracts the low-rank part from the targets, in place."""
    if not plan.rank:
        return
    left, right = low_rank(targets, plan.rank, metric, options.share.reduce)
    peaks = left.abs().amax(dim=0) if left.numel() else left.new_zeros(plan.rank)
    peaks = torch.stack(options.share.gather(peaks)).amax(dim=0)
    stored["low_rank_left"], stored["low_rank_left_scale"] = quantize_rows(left.t(), plan.decoder_dtype, peaks)
    stored["low_rank_right"], stored["low_rank_right_scale"] = quantize_rows(right, plan.decoder_dtype)
    right = dequantize_rows(stored["low_rank_right"], stored["low_rank_right_scale"])
    left = dequantize_rows(stored["low_rank_left"], stored["low_rank_left_scale"]).t().contiguous()
    for place, block in row_blocks(targets, rows_at_once(targets.device)):
        block -= left[place] @ right


def _encode_base(
    residual: RowSource,
    plan: CodingPlan,
    metric: Tensor | None,
    stored: dict[str, Tensor],
    options: EncodeOptions,
    progress: Progress | None,
    kept: Tensor | None,
) -> None:
    if not plan.code_bits:
        return
    report = progress or (lambda *_: None)
    start, schedule = kept, options.schedule
    if kept is not None and kept.shape[1] >= plan.code_bits:  # nothing new to refine
        schedule = replace(schedule, rounds=0)
    if start is None and options.trains_autoencoder:
        if not isinstance(residual, Tensor):
            raise TypeError("an autoencoder trains on rows in a tensor: see _can_do_without_copy.")
        start, decoder, scale = train_chain(
            residual, plan.stage_bits, options.alpha, options.seed, plan.decoder_dtype,
            on_stage=lambda number: report("autoencoder stages", number + 1, len(plan.stage_bits)),
            share=options.share, journal=options.journal,
        )  # fmt: skip
    if start is None or kept is not None or options.solver == "refined":
        refiner = Refiner(residual, metric, options.seed, options.share)
        rounds = num_rounds(plan.stage_bits, schedule, start is None)

        def finish_round(number: int, error: float) -> None:
            if options.on_error is not None:
                options.on_error(error)
            report("refinement rounds", number + 1, rounds)

        start, decoder, scale = encode_nested(
            refiner, plan.stage_bits, plan.decoder_dtype, schedule, start,
            on_round=finish_round, journal=options.journal,
        )  # fmt: skip
    stored["codes"], stored["decoder"], stored["decoder_scale"] = pack_bits(start), decoder, scale


def _whitening(
    plan: CodingPlan, metric: Tensor | None, nested_in: CompressedTable | None, device: torch.device
) -> dict[str, Tensor]:
    """The map of trellis tiers: that of the larger code, whose tiers are to be found again, or one for the metric."""
    names = ("whitening", "whitening_scale")
    if nested_in is not None and nested_in.plan.whitening_rank == plan.whitening_rank:
        return {name: nested_in.tensors[name] for name in names}
    metric = torch.eye(plan.embedding_dim, device=device) if metric is None else metric
    return dict(zip(names, fit_whitening(metric, plan.whitening_rank), strict=True))
