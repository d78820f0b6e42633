"""compress_table: a dense table and a LightTokenConfig become a CompressedTable. Knows no model."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .coding.allocation import TierPlan, TierRequest, falling, plan_full_tiers, plan_tiers
from .coding.budget import BudgetError, StageSplit, even_stages, plan_equal
from .coding.centering import CenteredRows, mean_row
from .coding.encode import EncodeOptions, Progress, encode
from .coding.journal import NO_JOURNAL, Journal
from .coding.nested import halved_stages
from .coding.plan import CodingPlan, DecoderDtype
from .coding.predicted_leaning import PredictedLeaning, predict_leaning, suitable_standing
from .coding.prediction import choose_whitening, eigenvalues_and_norms, spectrum_left
from .coding.quantize import scale_error
from .coding.rank import choose_rank
from .coding.recut import LargerCode
from .coding.row_weights import checked_frequencies, frequency_weights
from .coding.share import ALL_ROWS, RowShare
from .coding.table import CompressedTable
from .coding.table_rows import TableRows, as_rows, check_finite
from .coding.threads import one_thread_each
from .coding.tier_index import encode_depths
from .config import LightTokenConfig

logger = logging.getLogger(__name__)

_EXACT_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_MAX_EXACT_SHARE = 0.05
# A cut keeps exact rows for longer: where one of them is coded, all codes are made anew.
_MAX_EXACT_SHARE_OF_CUTS = 0.1
_ROW_SCALE_BITS = (8, 4)


@one_thread_each
def compress_table(
    weight: Tensor | TableRows,
    config: LightTokenConfig,
    *,
    exact_ids: Sequence[int] = (),
    frequencies: Tensor | Sequence[float] | None = None,
    metric: Tensor | None = None,
    head_covariance: Tensor | None = None,
    progress: Progress | None = None,
    share: RowShare = ALL_ROWS,
    journal: Journal = NO_JOURNAL,
    nested_in: CompressedTable | None = None,
    on_error: Callable[[float], None] | None = None,
) -> CompressedTable:
    """Compresses any table of rows: a model's token embeddings, GloVe, or any matrix.

    Args:
        weight: (V, d) floating-point table, on the device to compute on, or one that is read by rows.
        config: what to aim for.
        exact_ids: rows to store as they are, most important first; those that would take more than a twentieth of the
            byte budget are coded instead.
        frequencies: (V,) counts or probabilities of the rows, for tiers; None for equal coverage. Explicit `code_bits`
            mean equal coverage too.
        metric: (d, d) positive semi-definite matrix M of the error (e - e')^T M (e - e'); None for the plain one.
        head_covariance: (d, d) covariance of the hidden states that meet the rows of an output head, up to a factor.
            Rows are coded relative to their mean then, and their scales keep each token's own logit (see
            `coding.rows.fit_row_scales`). What is nested in a larger code keeps that one's center, or goes without.
        progress: told of each step: what, how many done, how many in all.
        share: which rows this process codes where several work together (see `distributed`); each gets the whole
            result.
        journal: remembers what is finished, so that a stopped run goes on from there.
        nested_in: a larger code of the same table, where the result is to keep the first bits of its base code and what
            rows lean on. Where the budget is too small for the latter, rows are coded anew.
        on_error: told the relative error of the base code after each round of refinement.

    Returns:
        The compressed table, on the weight's device.

    Raises:
        TypeError: if the weight is not floating-point.
        ValueError: for an empty or non-finite table, or a request that no plan fits.
    """
    if not isinstance(config, LightTokenConfig):
        raise TypeError(f"config must be a LightTokenConfig, got {type(config).__name__}.")
    if not isinstance(weight, (Tensor, TableRows)):
        raise TypeError(
            f"weight must be a torch.Tensor, got {type(weight).__name__}: use torch.from_numpy, or give all members of "
            "coding.table_rows.TableRows."
        )
    table = as_rows(weight)
    check_finite(table, share)
    frequencies = checked_frequencies(frequencies, table.shape[0])
    metric = None if metric is None else _checked_metric(metric, table.shape[1])
    head_covariance = None if head_covariance is None else _checked_metric(head_covariance, table.shape[1])
    center = _center(table, config, frequencies, share, nested_in, head_covariance is not None)
    if nested_in is not None:
        config = copy.copy(config)
        config.rank = nested_in.plan.rank
    larger = None if nested_in is None else LargerCode.of(nested_in)
    standing = None if larger is None else larger.standing
    if nested_in is not None and standing is not None:  # rows that others lean on keep their codes
        coded = set((standing & (nested_in.positions.cpu() >= nested_in.plan.num_exact)).nonzero().squeeze(1).tolist())
        exact_ids = [row for row in exact_ids if int(row) not in coded]
    plan, depths = plan_table(table, config, exact_ids, frequencies, metric, share, larger, center)
    if standing is not None and plan.reference_tier is None:
        nested_in = None  # its base code alone says little of rows that lean: the decoded rows are coded anew
    options = EncodeOptions(
        solver=config.solver,
        warm_start=config.warm_start,
        alpha=config.alpha,
        seed=config.seed,
        share=share,
        journal=journal,
        nested_in=nested_in,
        on_error=on_error,
        head_covariance=None if head_covariance is None or center is None else head_covariance.to(table.device),
        center=center,
    )
    metric = None if metric is None else metric.to(table.device)
    return encode(table, plan, depths, metric, options, progress)


@one_thread_each
def plan_table(
    weight: Tensor | TableRows,
    config: LightTokenConfig,
    exact_ids: Sequence[int] = (),
    frequencies: Tensor | None = None,
    metric: Tensor | None = None,
    share: RowShare = ALL_ROWS,
    nested_in: LargerCode | None = None,
    center: Tensor | None = None,
) -> tuple[CodingPlan, Tensor]:
    """What `compress_table` would store, its bytes exact before anything is trained.

    Args:
        weight: (V, d) table.
        config: what to aim for.
        exact_ids: rows to store as they are, most important first.
        frequencies: (V,) of the rows; None for equal coverage.
        metric: (d, d) of the error; None for the plain one.
        share: which rows this process measures.
        nested_in: a larger code of the same table.
        center: (d,) int16, bits of the bfloat16 row relative to which rows are coded; None for zero.

    Returns:
        The plan and the depth of each row, (V,) int64 (see `coding.tier_index`).

    Raises:
        ValueError: for a request that no plan fits; names the nearest possible value.
    """
    table = as_rows(weight)
    exact = _affordable_exact_ids(exact_ids, table, config, nested_in)
    template, depths = _template(table, config, exact)
    if center is not None:
        template, table = replace(template, centered=True), CenteredRows(table, center.to(table.device))
    if template.row_scale_bits == 0 or config.code_bits is not None:
        return plan_equal(template, config.compression_ratio, config.code_bits, _split(config)), depths
    eigenvalues, norms = eigenvalues_and_norms(table, metric, share)
    whitening_rank, lost_bits = (0, 0.0) if metric is None else choose_whitening(metric, template.num_embeddings)
    if nested_in is not None:  # whose tiers are to be found again, after its own map
        whitening_rank, lost_bits = nested_in.plan.whitening_rank, 0.0
    template = replace(template, whitening_rank=whitening_rank)
    exact_rows = torch.tensor(exact, dtype=torch.long)
    ratio = config.compression_ratio
    request = TierRequest(template, ratio, exact_rows, eigenvalues, _split(config), lost_bits, nested_in)
    if config.rank is None:
        template = replace(template, rank=choose_rank(request))
    left = spectrum_left(eigenvalues, template.rank)
    kept = float(left.sum() / eigenvalues.sum().clamp(min=1e-30))
    weights = None if config.tiers == "equal" or frequencies is None else frequency_weights(frequencies, exact_rows)
    leaning = [] if weights is None else _leaning(table, config, exact_rows, weights, metric, nested_in)
    request = replace(request, eigenvalues=left, leaning=leaning)
    candidates: list[TierPlan] = []
    problem: BudgetError | None = None
    for bits in _ROW_SCALE_BITS:
        scaled = replace(request, template=replace(template, row_scale_bits=bits))
        try:
            planned = plan_full_tiers(scaled) if weights is None else plan_tiers(scaled, weights)
        except BudgetError as error:
            problem = error
        else:
            candidates.append(replace(planned, loss=planned.loss * kept + scale_error(norms, bits)))
    if problem is not None and not candidates:
        raise problem
    chosen = min(candidates, key=lambda candidate: candidate.loss)
    return chosen.plan, chosen.depths


def _center(
    table: TableRows,
    config: LightTokenConfig,
    frequencies: Tensor | None,
    share: RowShare,
    nested_in: CompressedTable | None,
    of_a_head: bool,
) -> Tensor | None:
    """What is coded relative to: the mean of the rows that a head predicts, or what the larger code is relative to."""
    if nested_in is not None:
        return nested_in.tensors["center"] if nested_in.plan.centered else None
    if not of_a_head or config.solver == "paper":
        return None
    return mean_row(table, None if frequencies is None else frequency_weights(frequencies), share)


def _leaning(
    table: TableRows,
    config: LightTokenConfig,
    exact: Tensor,
    weights: Tensor,
    metric: Tensor | None,
    nested_in: LargerCode | None,
) -> list[PredictedLeaning]:
    """What it would bring that rare rows lean on others; as in the larger code, if there is one."""
    standing = None if nested_in is None else nested_in.standing
    if config.solver == "paper" or (nested_in is not None and standing is None):
        return []
    order = falling(weights, exact, standing)[: len(weights) - len(exact)]
    counts = suitable_standing(len(order)) if standing is None else [int(standing[order].sum())]
    return [predict_leaning(table, order, count, metric) for count in counts if count < len(order)]


def _split(config: LightTokenConfig) -> StageSplit:
    if config.num_stages is None and config.solver == "refined":
        return halved_stages
    return partial(even_stages, num_stages=config.num_stages)


def _template(table: TableRows, config: LightTokenConfig, exact: list[int]) -> tuple[CodingPlan, Tensor]:
    rows, dim = table.shape
    if (config.rank or 0) >= dim:
        raise ValueError(f"rank must be below the embedding_dim {dim}, got {config.rank}: ask for at most {dim - 1}.")
    depths = torch.zeros(rows, dtype=torch.long)
    depths[exact] = 1
    default_dtype: DecoderDtype = "float16" if config.solver == "paper" else "int8"
    template = CodingPlan(
        num_embeddings=rows,
        embedding_dim=dim,
        rank=config.rank or 0,
        row_scale_bits=0 if config.solver == "paper" else 8,
        decoder_dtype=config.decoder_dtype or default_dtype,
        num_exact=len(exact),
        exact_dtype=_EXACT_DTYPES.get(table.dtype, "float32"),
        index_bytes=encode_depths(depths, 1).numel() if exact else 0,
        rotation_seed=config.seed,
    )
    return template, depths


def _checked_metric(metric: Tensor, dim: int) -> Tensor:
    if tuple(metric.shape) != (dim, dim):
        raise ValueError(f"metric must have shape ({dim}, {dim}), got {tuple(metric.shape)}.")
    symmetric = (metric.double() + metric.double().t()) / 2
    if not bool(torch.isfinite(symmetric).all()) or not torch.allclose(metric.double(), symmetric, rtol=1e-3):
        raise ValueError("metric must be finite and symmetric.")
    lowest, highest = torch.linalg.eigvalsh(symmetric)[[0, -1]].tolist()
    if highest <= 0 or lowest < -1e-4 * highest:
        raise ValueError(f"metric must be positive semi-definite, got eigenvalues from {lowest:g} to {highest:g}.")
    return symmetric.float()


def _affordable_exact_ids(
    exact_ids: Sequence[int], table: TableRows, config: LightTokenConfig, nested_in: LargerCode | None
) -> list[int]:
    rows, dim = table.shape
    unique = list(dict.fromkeys(int(row) for row in exact_ids))
    outside = [row for row in unique if not 0 <= row < rows]
    if outside:
        raise ValueError(f"exact_ids must be in [0, {rows - 1}], got {outside[:5]}.")
    if config.code_bits is not None:
        return unique
    row_bytes = dim * (2 if table.dtype in (torch.float16, torch.bfloat16) else 4)
    row_budget = 4 * rows * dim / config.compression_ratio / row_bytes
    most = int(row_budget * _MAX_EXACT_SHARE)
    if nested_in is not None:
        most = max(most, min(nested_in.plan.num_exact, int(row_budget * _MAX_EXACT_SHARE_OF_CUTS)))
    if len(unique) > most:
        logger.warning(
            "Only %d of %d special and added tokens are stored exactly: more would take over %d %% of the bytes that "
            "compression_ratio %g leaves. The others are coded.",
            most, len(unique), round(100 * _MAX_EXACT_SHARE), config.compression_ratio,
        )  # fmt: skip
    return unique[:most]
