"""Which rows get how many bits: tiers of falling coverage for the least predicted loss. Beyond the paper.

The predicted loss is sum_v w_v D_v: w_v is how often a model meets row v, D_v the error left after the base code and
the tiers that cover v. The base code's error follows the Gaussian limit at a share of its bits; each rotated tier
multiplies what is left by the error of the Lloyd-Max quantizer. For a given pattern of tiers the best coverages
equalize the gain per byte at their edges (reverse water-filling over rows), so one multiplier decides them all.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from .budget import BudgetError, StageSplit, byte_budget, even_stages, gaussian_distortion, largest_fitting, plan_equal
from .plan import CodingPlan, Tier
from .tier_index import encode_depths

# Mean squared error of the Lloyd-Max quantizer of a unit Gaussian (Max 1960, Table I).
_QUANTIZER_ERROR = {1: 0.3634, 2: 0.1175}
_MAX_TIERS = 4
_MIN_COVERAGE = 16
# Share of its bits that a refined binary code makes use of, measured over tables and rates by
# tests/benchmarks/code_efficiency.py.
_CODE_EFFICIENCY = 0.78
# Share of a component's variance that int8 factors of a low-rank part leave: a uniform quantizer up to five standard
# deviations, 5**2 / (12 * 127**2).
_LOW_RANK_ERROR = 1.3e-4
_SHARES_OF_BASE = np.linspace(0.1, 1.0, 19)
_BISECTIONS = 40


@dataclass(frozen=True)
class TierPlan:
    """A plan with tiers.

    Attributes:
        plan: what to store.
        depths: (V,) int64 depth of each row (see `tier_index`).
        loss: predicted sum_v w_v D_v, as a share of the rows' energy in the metric.
    """

    plan: CodingPlan
    depths: Tensor
    loss: float


def frequency_weights(frequencies: Tensor, uniform_share: float = 0.2) -> Tensor:
    """Row weights of the predicted loss: the share of each row, blended with equal weights so that no row is given up.

    Args:
        frequencies: (V,) counts or probabilities, not negative, not all zero.
        uniform_share: weight of the equal part.

    Returns:
        (V,) float64 with sum 1.

    Raises:
        ValueError: if a frequency is negative or not finite, or all are zero.
    """
    values = frequencies.double().cpu()
    if (
        values.dim() != 1
        or not bool(torch.isfinite(values).all())
        or bool((values < 0).any())
        or float(values.sum()) <= 0
    ):
        raise ValueError("frequencies must be a vector of finite values >= 0 with a positive sum.")
    return (1 - uniform_share) * values / values.sum() + uniform_share / values.numel()


def predicted_error(eigenvalues: Tensor, code_bits: int) -> float:
    """Share of the energy that a refined code of `code_bits` bits is expected to leave."""
    return gaussian_distortion(eigenvalues, _CODE_EFFICIENCY * code_bits)


def spectrum_left(eigenvalues: Tensor, rank: int) -> Tensor:
    """Eigenvalues of the second moment of what a low-rank part leaves of the rows.

    Args:
        eigenvalues: (d,) of the rows.
        rank: k of the low-rank part.
    """
    left = eigenvalues.sort(descending=True).values
    left[:rank] *= _LOW_RANK_ERROR
    return left


def choose_rank(template: CodingPlan, ratio: float, eigenvalues: Tensor) -> int:
    """The rank of the least predicted error at the byte budget, with equal coverage: 0 or a power of two.

    A low-rank part spends a byte a row on each component, a code what reverse water-filling gives it; so it pays only
    where a few components outweigh all others by far.

    Args:
        template: everything but the rank and the code bits.
        ratio: least compression ratio.
        eigenvalues: (d,) of the second moment of the rows to code, in the metric of the error.
    """
    best, least = 0, float("inf")
    for rank in (0, *(2**power for power in range(template.embedding_dim.bit_length() - 1))):
        try:
            plan = plan_equal(replace(template, rank=rank), ratio)
        except BudgetError:
            break
        left = spectrum_left(eigenvalues, rank)
        error = float(left.sum()) * predicted_error(left, plan.code_bits)
        if error < least:
            best, least = rank, error
    return best


def plan_tiers(
    template: CodingPlan,
    ratio: float,
    weights: Tensor,
    exact: Tensor,
    eigenvalues: Tensor,
    split: StageSplit = even_stages,
) -> TierPlan:
    """Chooses base bits, tiers and their coverage for the least predicted loss at the byte budget.

    Args:
        template: shape, rank, scale bits, dtypes and exact rows; index bytes for the exact rows alone.
        ratio: least compression ratio.
        weights: (V,) weights of the rows.
        exact: (num_exact,) ids of the exact rows.
        eigenvalues: (d,) eigenvalues of the second moment of the rows to code, in the metric of the error.
        split: of the base code's bits over stages.

    Raises:
        BudgetError: if no plan fits.
    """
    equal = plan_equal(template, ratio, None, split)
    order = torch.argsort(_without(weights, exact), descending=True, stable=True)
    ordered = _without(weights, exact)[order].numpy()[: template.num_coded]
    best, loss = equal, predicted_error(eigenvalues, equal.code_bits)
    cumulative = np.concatenate([[0.0], np.cumsum(ordered)])
    budget = byte_budget(template.num_embeddings, template.embedding_dim, ratio)
    largest_base = min(equal.code_bits, 2 * template.embedding_dim)
    for base_bits in sorted({max(1, int(share * largest_base)) for share in _SHARES_OF_BASE}):
        base = replace(template, stage_bits=(base_bits,))
        error = predicted_error(eigenvalues, base_bits)
        available = budget - base.stored_bytes - template.num_embeddings // 6
        for pattern in _patterns():
            tiers, gain = _cover(pattern, ordered, cumulative, available, template.embedding_dim)
            if tiers and error * (1 - gain) < loss:
                best, loss = replace(base, tiers=tiers), error * (1 - gain)
    depths = _depths(template, best.tiers, order, exact)
    return TierPlan(_fill(best, depths, budget, split), depths, loss)


def _without(weights: Tensor, exact: Tensor) -> Tensor:
    """Weights with the exact rows last."""
    weights = weights.clone()
    weights[exact] = -1.0
    return weights


def _patterns() -> list[tuple[int, ...]]:
    return [bits for length in range(1, _MAX_TIERS + 1) for bits in product(_QUANTIZER_ERROR, repeat=length)]


def _cover(
    pattern: tuple[int, ...], ordered: np.ndarray, cumulative: np.ndarray, available: float, dim: int
) -> tuple[tuple[Tier, ...], float]:
    """Coverages of a pattern of tiers that fill the bytes, and the share of the loss that they take away."""
    left = np.cumprod([1.0] + [_QUANTIZER_ERROR[bits] for bits in pattern])
    drops = left[:-1] - left[1:]
    costs = np.array([(bits * dim + 8) / 8 for bits in pattern])
    low, high = 0.0, float(ordered[0] * (drops / costs).max())
    coverage = np.zeros(len(pattern), dtype=np.int64)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        tried = np.searchsorted(-ordered, -price * costs / drops, side="right")
        tried = np.minimum.accumulate(tried)
        if float(tried @ costs) <= available:
            coverage, high = tried, price
        else:
            low = price
    kept = coverage >= _MIN_COVERAGE
    tiers = tuple(
        Tier(int(rows), "rotated", bits * dim, 8)
        for rows, bits, keep in zip(coverage, pattern, kept, strict=True)
        if keep
    )
    return tiers, float((drops * cumulative[coverage])[kept].sum())


def _depths(template: CodingPlan, tiers: tuple[Tier, ...], order: Tensor, exact: Tensor) -> Tensor:
    depths = torch.zeros(template.num_embeddings, dtype=torch.long)
    for tier in tiers:
        depths[order[: tier.coverage]] += 1
    depths[exact] = len(tiers) + 1
    return depths


def _fill(plan: CodingPlan, depths: Tensor, budget: int, split: StageSplit) -> CodingPlan:
    """Gives the base code the bytes that the estimate of the index left over, now that the index is known."""
    plan = replace(plan, index_bytes=encode_depths(depths, plan.max_depth).numel() if plan.max_depth else 0)
    most = 32 * plan.embedding_dim
    code_bits = largest_fitting(1, most, lambda bits: replace(plan, stage_bits=(bits,)).stored_bytes <= budget)
    if code_bits is None:
        raise BudgetError(f"no tiers fit {budget} bytes for {plan.num_embeddings} rows: use tiers='equal'.")
    plan = replace(plan, stage_bits=split(code_bits))
    plan.validate()
    return plan
