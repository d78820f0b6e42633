"""Which rows get how many bits: tiers of falling coverage for the least predicted loss. Beyond the paper.

The predicted loss is sum_v w_v D_v: w_v is how often a model meets row v, D_v the error left after the base code and
the tiers that cover v. The base code's error follows the Gaussian limit at a share of its bits; each trellis tier
multiplies what is left by the error of its code. For a given number of tiers the best coverages equalize the gain per
byte at their edges (reverse water-filling over rows), so one multiplier decides them all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from .budget import BudgetError, largest_fitting, plan_equal
from .plan import CodingPlan
from .predicted_leaning import PredictedLeaning
from .prediction import predicted_error
from .recut import LargerCode
from .tier import Tier, trellis_tiers
from .tier_index import encode_depths
from .tier_request import TierRequest

_MIN_COVERAGE = 16
_FULL_PATTERNS = [(1,) * whole + (2,) * halves for whole, halves in product(range(8), range(2))]
# What a plan may lose so that more rows stand alone: sum w D counts errors of rare rows for less than they cost. Chosen
# on SmolLM2-135M, see tests/benchmarks/metric_choice.py.
_LOSS_FOR_STANDING = 1.02
_BISECTIONS = 32
Plans = Sequence[tuple[float, CodingPlan]]
"""Plans with their predicted losses."""


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


def plan_tiers(request: TierRequest, weights: Tensor) -> TierPlan:
    """Chooses base bits, tiers and their coverage for the least predicted loss at the byte budget.

    Args:
        request: what for.
        weights: (V,) weights of the rows.

    Raises:
        BudgetError: if no plan fits.
    """
    equal = plan_full_tiers(request, in_part=False)
    standing = None if request.nested_in is None else request.nested_in.standing
    order = falling(weights, request.exact, standing)
    ordered = weights[order[: request.template.num_coded]].numpy()
    found = _most_standing([_tier_plans(request, ordered, leaning) for leaning in request.leaning])
    if standing is None:
        alone = _tier_plans(request, ordered, None)
        found = found if _least(found) < _least(alone) else alone
    for loss, best in sorted(found, key=lambda plan: plan[0]):
        if loss >= equal.loss and standing is None:
            break
        depths = _depths(request.template, best.tiers, order, request.exact)
        try:
            return TierPlan(_fill(best, depths, request), depths, loss)
        except BudgetError:  # the index takes more than was set aside for it, or there are fewer bits than stages
            continue
    return equal


def _tier_plans(
    request: TierRequest, ordered: np.ndarray, leaning: PredictedLeaning | None
) -> list[tuple[float, CodingPlan]]:
    """Plans that fit, with their predicted losses.

    Args:
        request: what for.
        ordered: (num_coded,) weights of the rows, falling.
        leaning: of the rows after its first ones, if they lean on these.
    """
    template, dim = request.template, request.template.embedding_dim
    largest = plan_equal(replace(template, whitening_rank=0), request.ratio).code_bits
    patterns = request.patterns()
    found: list[tuple[float, CodingPlan]] = []
    for base_bits in request.base_bits(min(largest, 2 * dim)):
        base = replace(template, stage_bits=(base_bits,))
        available = request.budget - base.stored_bytes - template.num_embeddings // 6
        weights = np.minimum.accumulate(ordered)
        if leaning is not None:
            available -= leaning.stored_bytes(template.num_coded)
            weights[leaning.num_standing :] *= leaning.gain(base_bits, template.rank)
        negative, cumulative = -weights, np.concatenate([[0.0], np.cumsum(weights)])
        spared = float(ordered.sum() - weights.sum())
        error = predicted_error(request.eigenvalues, base_bits)
        if leaning is not None and available >= 0:
            found.append((error * (1 - spared), replace(base, tiers=(leaning.tier,), whitening_rank=0)))
        for pattern, errors in patterns:
            tiers, gain = _cover(pattern, errors, negative, cumulative, available)
            if tiers:
                if leaning is not None:
                    tiers = tuple(sorted((*tiers, leaning.tier), key=lambda tier: -tier.coverage))
                found.append((error * (1 - spared - gain), replace(base, tiers=tiers)))
    return found


def _least(found: Plans) -> float:
    return min((loss for loss, _ in found), default=float("inf"))


def _most_standing(groups: Sequence[Plans]) -> Plans:
    """The plans of the most rows that stand alone, among those of about the least loss: they are closer to the rest."""
    most = _LOSS_FOR_STANDING * min(map(_least, groups), default=float("inf"))
    return next((found for found in reversed(groups) if found and _least(found) <= most), [])


def plan_full_tiers(request: TierRequest, in_part: bool = True) -> TierPlan:
    """Equal coverage: chooses base bits, and trellis tiers that cover all rows.

    A code that is cut from a larger one keeps tiers only where it keeps all base bits too: others would have to be
    coded anew from rows with errors.

    Args:
        request: what for.
        in_part: whether the last tier of a cut may cover a part of the rows, those that lose most without it. The loss
            is then a share of the energy of the table, not of rows of unit norm.

    Raises:
        BudgetError: if no plan fits.
    """
    template = request.template
    if request.nested_in is not None:
        return min(_cuts_of_full_tiers(request, request.nested_in, in_part), key=lambda planned: planned.loss)
    bytes_of_exact = _index_bytes(_full_depths(template, 0, request.exact))
    bytes_of_tier = _index_bytes(torch.ones(template.num_embeddings, dtype=torch.long))
    found: list[tuple[float, CodingPlan]] = []
    for widths in _FULL_PATTERNS:
        tiers = trellis_tiers(template.num_coded, widths, template.embedding_dim)
        try:
            found.append(_beside_full_tiers(request, tiers, bytes_of_exact + len(tiers) * bytes_of_tier))
        except BudgetError:
            if not widths:
                raise
    loss, best = min(found, key=lambda plan: plan[0])
    return TierPlan(best, _full_depths(template, len(best.tiers), request.exact), loss)


def _beside_full_tiers(request: TierRequest, tiers: tuple[Tier, ...], index_bytes: int) -> tuple[float, CodingPlan]:
    """The base code that fits beside tiers of all rows, with its predicted loss.

    Raises:
        BudgetError: if none fits.
    """
    rank = request.template.whitening_rank if tiers else 0
    plan = replace(request.template, tiers=tiers, index_bytes=index_bytes, whitening_rank=rank)
    plan = plan_equal(plan, request.ratio, None, request.split)
    return predicted_error(request.eigenvalues, plan.code_bits) * prod(request.errors(tiers)), plan


def _cuts_of_full_tiers(request: TierRequest, nested_in: LargerCode, in_part: bool) -> Iterator[TierPlan]:
    """What a cut may keep of a larger code of equal coverage, or of one that is such a cut itself."""
    template, larger = request.template, nested_in.plan
    whole = [tier.coverage == larger.num_coded for _, tier in larger.code_tiers]
    kept = nested_in.trellis_tiers[: sum(whole) + in_part]  # the last one may be a part itself
    base = replace(template, stage_bits=larger.stage_bits)
    base_error = predicted_error(request.eigenvalues, larger.code_bits)
    # What further bits would code anew, or all codes where a row changes between exact and coded.
    errors_kept = base_error * prod(request.errors(kept))
    depths = _full_depths(template, 0, request.exact)
    loss, alone = _beside_full_tiers(request, (), _index_bytes(depths))
    yield TierPlan(alone, depths, loss + (errors_kept if alone.code_bits > larger.code_bits else 0.0))
    order, shares = _by_gain(template, nested_in, request.exact)
    for count in range(1, len(kept) + 1):
        most = template.num_coded if whole[count - 1] else min(kept[count - 1].coverage, template.num_coded)
        tiers = tuple(replace(tier, coverage=template.num_coded) for tier in kept[:count])

        def cut_at(covered: int, tiers: tuple[Tier, ...] = tiers) -> tuple[CodingPlan, Tensor]:
            cut = (*tiers[:-1], replace(tiers[-1], coverage=covered))
            depths = _depths(template, cut, order, request.exact)
            return replace(base, tiers=cut, index_bytes=_index_bytes(depths)), depths

        fewest = min(_MIN_COVERAGE, most) if in_part else most
        covered = largest_fitting(fewest, most, lambda rows, at=cut_at: at(rows)[0].stored_bytes <= request.budget)
        if covered:
            errors = request.errors(tiers)
            loss = base_error * prod(errors[:-1]) * (1 - float(shares[covered - 1]) * (1 - errors[-1]))
            anew = template.num_exact != larger.num_exact
            yield TierPlan(*cut_at(covered), loss + (errors_kept if anew else 0.0))


def _by_gain(template: CodingPlan, nested_in: LargerCode, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Row ids by what tiers of a larger code add to them, falling, and the share of all that the first ones have."""
    gains, deepest = nested_in.energies, nested_in.deepest
    if gains is None or deepest is None or not float(gains.sum()):
        gains, deepest = torch.ones(template.num_embeddings), torch.zeros(template.num_embeddings)
    order = falling(gains + 2 * gains.max() * deepest, exact)
    gained = gains[order[: template.num_coded]].double().cumsum(0)
    return order, gained / gained[-1:]


def falling(weights: Tensor, exact: Tensor, standing: Tensor | None = None) -> Tensor:
    """Row ids by falling weight, (V,) int64: those that stand alone first if some are to, and the exact rows last."""
    weights = weights.clone() if standing is None else weights + 2 * weights.max() * standing
    weights[exact] = -1.0
    return torch.argsort(weights, descending=True, stable=True)


def _cover(
    pattern: Sequence[Tier],
    errors: Sequence[float],
    negative: np.ndarray,
    cumulative: np.ndarray,
    available: float,
) -> tuple[tuple[Tier, ...], float]:
    """Tiers of a pattern, with coverages that fill the bytes, and the share of the loss that they take away.

    Args:
        pattern: tiers that cover as many rows as they may.
        errors: of each, what it leaves.
        negative: (num_coded,) weights of the rows, negated, rising.
        cumulative: (num_coded + 1,) sums of the weights before each row.
        available: bytes to fill.
    """
    left = np.cumprod([1.0, *errors])
    drops = left[:-1] - left[1:]
    costs = np.array([(tier.code_bits + tier.row_scale_bits) / 8 for tier in pattern])
    most_rows = np.array([tier.coverage for tier in pattern])
    low, high = 0.0, float(-negative[0] * (drops / costs).max())
    coverage = np.zeros(len(pattern), dtype=np.int64)
    for _ in range(_BISECTIONS):
        price = (low + high) / 2
        tried = np.searchsorted(negative, -price * costs / drops, side="right")
        tried = np.minimum.accumulate(np.minimum(tried, most_rows))
        if float(tried @ costs) <= available:
            coverage, high = tried, price
        else:
            low = price
    kept = coverage >= _MIN_COVERAGE
    covered = zip(coverage.tolist(), pattern, strict=True)
    tiers = tuple(replace(tier, coverage=rows) for rows, tier in covered if rows >= _MIN_COVERAGE)
    return tiers, float((drops * cumulative[coverage])[kept].sum())


def _depths(template: CodingPlan, tiers: tuple[Tier, ...], order: Tensor, exact: Tensor) -> Tensor:
    depths = torch.zeros(template.num_embeddings, dtype=torch.long)
    for tier in tiers:
        depths[order[: tier.coverage]] += 1
    depths[exact] = len(tiers) + 1
    return depths


def _full_depths(template: CodingPlan, num_tiers: int, exact: Tensor) -> Tensor:
    """Depths where tiers cover all coded rows."""
    depths = torch.full((template.num_embeddings,), num_tiers)
    depths[exact] = num_tiers + 1
    return depths


def _index_bytes(depths: Tensor) -> int:
    deepest = int(depths.max())
    return encode_depths(depths, deepest).numel() if deepest else 0


def _fill(plan: CodingPlan, depths: Tensor, request: TierRequest) -> CodingPlan:
    """Gives the base code the bytes that the estimate of the index left over, now that the index is known."""
    plan = replace(plan, index_bytes=_index_bytes(depths))
    most = 32 * plan.embedding_dim if request.nested_in is None else request.nested_in.plan.code_bits
    code_bits = largest_fitting(1, most, lambda bits: replace(plan, stage_bits=(bits,)).stored_bytes <= request.budget)
    if code_bits is None:
        raise BudgetError(f"no tiers fit {request.budget} bytes for {plan.num_embeddings} rows.")
    plan = replace(plan, stage_bits=request.split(code_bits))
    plan.validate()
    return plan
