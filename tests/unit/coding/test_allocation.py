import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.coding.allocation import TierRequest, plan_full_tiers, plan_tiers
from transformers_lighttoken.coding.budget import BudgetError, even_stages, plan_equal
from transformers_lighttoken.coding.plan import CodingPlan, Tier
from transformers_lighttoken.coding.prediction import choose_whitening, code_efficiency, spectrum_left
from transformers_lighttoken.coding.rank import choose_rank
from transformers_lighttoken.coding.recut import LargerCode
from transformers_lighttoken.coding.row_weights import frequency_weights
from transformers_lighttoken.coding.tier import trellis_tiers
from transformers_lighttoken.coding.tier_index import encode_depths
from transformers_lighttoken.coding.trellis import trellis_error
from transformers_lighttoken.coding.water_filling import gaussian_distortion
from transformers_lighttoken.compression import plan_table

DIM, ROWS = 64, 20000
SPECTRUM = torch.linspace(1, 0.05, DIM) ** 2
EXACT = torch.tensor([3, 0])
TEMPLATE = CodingPlan(
    ROWS, DIM, num_exact=2, index_bytes=encode_depths(torch.tensor([1, 0, 0, 1] + [0] * (ROWS - 4)), 1).numel()
)


def zipf(rows=ROWS):
    return 1.0 / (torch.arange(rows) + 2.7)


def plan(ratio, frequencies=None, **request):
    weights = frequency_weights(zipf() if frequencies is None else frequencies, EXACT)
    planned = plan_tiers(TierRequest(TEMPLATE, ratio, EXACT, SPECTRUM, **request), weights)
    return planned.plan, planned.depths


@pytest.mark.parametrize("ratio", [5.0, 10.0, 25.0, 50.0, 100.0])
def test_it_fits_the_budget_and_fills_it(ratio):
    planned, depths = plan(ratio)
    assert ratio <= planned.ratio < 1.02 * ratio
    assert planned.index_bytes == encode_depths(depths, planned.max_depth).numel()
    for number, tier in enumerate(planned.tiers, start=1):
        assert int((depths >= number).sum()) == tier.coverage + 2
    assert depths[[0, 3]].tolist() == [planned.max_depth] * 2


def test_tiers_go_to_the_most_frequent_and_coverage_falls():
    frequencies = zipf().flip(0)
    planned, depths = plan(25.0, frequencies)
    coverage = [tier.coverage for tier in planned.tiers]
    assert coverage == sorted(coverage, reverse=True)
    assert len(coverage) >= 2
    first_uncovered = ROWS - 1 - coverage[0]
    assert bool((depths[4:first_uncovered] == 0).all())
    assert bool((depths[first_uncovered + 1 :] >= 1).all())


def test_equal_frequencies_mean_equal_coverage():
    planned, _ = plan(25.0, torch.ones(ROWS))
    assert all(tier.coverage >= ROWS - 2 for tier in planned.tiers)


def base_error(spectrum, bits):
    """The Gaussian limit at the share of its bits that a code of some bits uses."""
    return gaussian_distortion(spectrum, code_efficiency(spectrum, bits) * bits)


def predicted_loss(planned, weights):
    """The oracle: row by row."""
    base = base_error(SPECTRUM, planned.code_bits)
    rows = np.sort(weights.numpy())[::-1].copy()
    loss = np.full(len(rows), base)
    for tier in planned.tiers:
        loss[: tier.coverage] *= trellis_error(DIM, 1 if tier.code_bits == DIM else 2)
    return float((loss * rows).sum())


def test_no_plan_of_a_grid_promises_a_lower_loss():
    weights = frequency_weights(zipf())
    ratio = 40.0
    best = predicted_loss(plan(ratio)[0], weights)
    budget = TEMPLATE.dense_bytes / ratio
    assert best < 0.8 * predicted_loss(plan_equal(TEMPLATE, ratio), weights)
    for first, second in itertools.product([500, 1500, 4000, 9000], [100, 300, 900]):
        if second >= first:
            continue
        tiers = (Tier(first, "trellis", DIM, 8), Tier(second, "trellis", DIM // 2, 8))
        template = CodingPlan(ROWS, DIM, num_exact=2, index_bytes=100, tiers=tiers)
        if template.stored_bytes + 3000 > budget:
            continue
        assert best <= predicted_loss(plan_equal(template, ratio), weights) * 1.025  # what it may lose to be cut later


def test_frequencies_that_are_none_are_refused():
    for wrong in (torch.zeros(4), torch.tensor([1.0, -1.0]), torch.tensor([1.0, float("nan")]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="finite values >= 0 with a positive sum"):
            frequency_weights(wrong)


def test_weights_are_shares_and_give_up_no_row():
    weights = frequency_weights(torch.tensor([8.0, 2.0, 0.0]), uniform_share=0.3)
    assert weights.tolist() == pytest.approx([0.66, 0.24, 0.1])
    weights = frequency_weights(torch.tensor([8.0, 3.0, 0.0, 1.0]), exact=torch.tensor([0]), uniform_share=0.3)
    assert weights.tolist() == pytest.approx([0.0, 0.625, 0.1, 0.275])
    of_exact_alone = frequency_weights(torch.tensor([8.0, 0.0, 0.0]), exact=torch.tensor([0]))
    assert of_exact_alone.tolist() == pytest.approx([0.0, 0.5, 0.5])


@pytest.mark.parametrize("ratio", [6.0, 12.0, 25.0])
def test_how_often_exact_rows_occur_changes_nothing(ratio):
    rare, frequent = zipf(), zipf()
    rare[EXACT], frequent[EXACT] = 0.0, 40.0
    one, other = (plan(ratio, frequencies)[0] for frequencies in (rare, frequent))
    assert one == other
    assert len({tier.coverage for tier in one.tiers}) > 1


def test_only_tiers_whose_codes_start_after_zeros_add_to_each_other_s_error():
    request = TierRequest(replace(TEMPLATE, embedding_dim=40), 12.0, EXACT, SPECTRUM[:40])
    errors = request.errors(trellis_tiers(ROWS, (1, 1, 2, 2), 40))
    assert errors == [trellis_error(40, 1)] * 2 + [trellis_error(40, 2), trellis_error(40, 2, 1)]
    assert errors[3] == pytest.approx(errors[2] + 0.055)


def test_tiers_of_all_rows_promise_the_same_however_they_are_planned():
    weights = frequency_weights(torch.ones(ROWS), EXACT)
    request = TierRequest(TEMPLATE, 12.0, EXACT, SPECTRUM)
    assert plan_tiers(request, weights).loss == pytest.approx(plan_full_tiers(request).loss, rel=0.05)


def test_a_plan_that_does_not_fit_after_all_gives_way_to_the_next():
    weights = frequency_weights(zipf(), EXACT)
    best = plan_tiers(TierRequest(TEMPLATE, 25.0, EXACT, SPECTRUM), weights)
    refused = []

    def split(bits):
        if bits == best.plan.code_bits:
            refused.append(bits)
            raise BudgetError("none of these")
        return even_stages(bits)

    planned = plan_tiers(TierRequest(TEMPLATE, 25.0, EXACT, SPECTRUM, split), weights)
    assert refused
    assert planned.plan.code_bits != best.plan.code_bits
    assert best.loss <= planned.loss < 1.1 * best.loss
    assert len({tier.coverage for tier in planned.plan.tiers}) > 1


def test_an_impossible_ratio_is_refused():
    with pytest.raises(BudgetError, match="ask for at most"):
        plan(10**6)


def test_a_low_rank_part_takes_its_components_out_of_the_spectrum():
    left = spectrum_left(SPECTRUM.flip(0), 2)
    assert left.tolist() == pytest.approx([*(SPECTRUM[:2] * 1.3e-4).tolist(), *SPECTRUM[2:].tolist()])
    assert float(SPECTRUM[0]) == 1.0


@pytest.mark.parametrize(("strong", "rank"), [(0, 0), (1, 1), (2, 2), (4, 4)])
def test_the_rank_is_that_of_the_components_that_stand_out(strong, rank):
    spectrum = torch.full((DIM,), 1e-4)
    spectrum[:strong] = 1.0
    template = replace(TEMPLATE, num_exact=0, index_bytes=0)
    none = torch.empty(0, dtype=torch.long)
    assert choose_rank(TierRequest(template, 25.0, none, spectrum)) == rank


def test_a_rank_of_little_promise_is_not_chosen():
    none, template = torch.empty(0, dtype=torch.long), replace(TEMPLATE, num_exact=0, index_bytes=0)
    for exponent, least in ((1.5, 0.9), (2.5, 0.0)):
        spectrum = torch.arange(1, DIM + 1).double() ** -exponent
        errors = {}
        for rank in (0, 1, 2, 4, 8):
            left = spectrum_left(spectrum, rank)
            request = TierRequest(replace(template, rank=rank), 10.0, none, left)
            errors[rank] = float(left.sum()) * plan_full_tiers(request).loss
        best = min(errors, key=lambda rank: errors[rank])
        assert best > 0
        assert errors[best] > least * errors[0]
        assert choose_rank(TierRequest(template, 10.0, none, spectrum)) == (0 if least else best)


def test_a_rank_that_base_codes_alone_would_want_is_not_chosen_beside_tiers():
    spectrum = torch.ones(DIM)
    spectrum[:16] = 1000.0
    template = replace(TEMPLATE, num_exact=0, index_bytes=0)
    alone = {}
    for rank in (0, 16):
        left = spectrum_left(spectrum, rank)
        bits = plan_equal(replace(template, rank=rank), 5.0).code_bits
        alone[rank] = float(left.sum()) * base_error(left, bits)
    assert alone[16] < alone[0]
    assert choose_rank(TierRequest(template, 5.0, torch.empty(0, dtype=torch.long), spectrum)) == 0


@pytest.mark.parametrize(("ratio", "bits_of_tiers"), [(8.0, 768), (18.0, 256), (60.0, 0)])
def test_equal_coverage_takes_tiers_of_all_rows_where_they_pay(ratio, bits_of_tiers):
    spectrum, template = torch.linspace(1, 0.2, 256) ** 2, replace(TEMPLATE, embedding_dim=256)
    planned = plan_full_tiers(TierRequest(template, ratio, EXACT, spectrum))
    assert ratio <= planned.plan.ratio < 1.02 * ratio
    assert all(tier.coverage == ROWS - 2 for tier in planned.plan.tiers)
    assert planned.plan.index_bytes == encode_depths(planned.depths, planned.plan.max_depth).numel()
    assert planned.depths.bincount().tolist()[len(planned.plan.tiers) :] == [ROWS - 2, 2]
    assert planned.depths[EXACT].tolist() == [planned.plan.max_depth] * 2
    assert sum(tier.code_bits for tier in planned.plan.tiers) == bits_of_tiers
    base_alone = base_error(spectrum, plan_equal(template, ratio).code_bits)
    assert planned.loss <= base_alone * (0.95 if bits_of_tiers else 1.0)


def test_a_cut_keeps_to_what_the_larger_code_has():
    weights = frequency_weights(zipf())
    larger = plan_tiers(TierRequest(TEMPLATE, 15.0, EXACT, SPECTRUM), weights).plan
    cut = plan_tiers(TierRequest(TEMPLATE, 40.0, EXACT, SPECTRUM, nested_in=LargerCode(larger)), weights).plan
    assert cut.ratio >= 40.0
    assert cut.code_bits <= larger.code_bits
    assert 0 < len(cut.tiers) <= len(larger.tiers)
    for kept, stored in zip(cut.tiers, larger.tiers, strict=False):
        assert kept.code_bits == stored.code_bits
        assert kept.coverage <= stored.coverage
    equal = plan_full_tiers(TierRequest(TEMPLATE, 40.0, EXACT, SPECTRUM, nested_in=LargerCode(larger)))
    assert equal.plan.tiers == ()


@pytest.mark.parametrize("ratio", [9.0, 12.0, 15.0, 20.0, 60.0])
def test_a_cut_of_equal_coverage_keeps_a_part_of_the_last_tier(ratio):
    dim = 256
    spectrum, template = torch.linspace(1, 0.2, dim) ** 2, replace(TEMPLATE, embedding_dim=dim)
    whole = plan_full_tiers(TierRequest(template, 8.0, EXACT, spectrum))
    larger = whole.plan
    assert len(larger.tiers) >= 3
    anew = plan_full_tiers(TierRequest(template, ratio, EXACT, spectrum))
    cut = plan_full_tiers(TierRequest(template, ratio, EXACT, spectrum, nested_in=LargerCode(larger)))
    assert ratio <= cut.plan.ratio < 1.04 * ratio
    assert cut.loss < (1.5 if ratio < 50 else 2) * anew.loss
    for kept, stored in zip(cut.plan.tiers, larger.tiers, strict=False):
        assert replace(kept, coverage=stored.coverage) == stored
    assert all(tier.coverage == ROWS - 2 for tier in cut.plan.tiers[:-1])
    error = base_error(spectrum, cut.plan.code_bits)
    left = np.full(ROWS - 2, error)
    for tier in cut.plan.tiers:
        left[: tier.coverage] *= trellis_error(dim, tier.trellis_width(dim))
    codes_errors_of_the_larger = cut.plan.code_bits > larger.code_bits
    assert not (codes_errors_of_the_larger and cut.plan.tiers)
    assert cut.loss == pytest.approx(left.mean() + codes_errors_of_the_larger * whole.loss)
    order = torch.arange(ROWS)[~torch.isin(torch.arange(ROWS), EXACT)]
    expected = sum((torch.arange(ROWS - 2) < tier.coverage).long() for tier in cut.plan.tiers) + torch.zeros(ROWS - 2)
    assert torch.equal(cut.depths[order], expected.long())


def test_equal_coverage_promises_the_least_loss_of_all_tiers():
    spectrum, template = torch.linspace(1, 0.2, 256) ** 2, replace(TEMPLATE, embedding_dim=256)
    for ratio in (6.0, 8.0, 12.0, 18.0):
        chosen = plan_full_tiers(TierRequest(template, ratio, EXACT, spectrum))
        least = float("inf")
        for whole, halves in itertools.product(range(8), range(2)):
            tiers = (Tier(ROWS - 2, "trellis", 256, 4),) * whole + (Tier(ROWS - 2, "trellis", 128, 4),) * halves
            tiers = tuple(replace(tier, row_scale_bits=0 if number else 4) for number, tier in enumerate(tiers))
            try:
                bits = plan_equal(replace(template, tiers=tiers, index_bytes=60), ratio).code_bits
            except BudgetError:
                continue
            error = base_error(spectrum, bits)
            least = min(least, error * trellis_error(256, 1) ** whole * trellis_error(256, 2) ** halves)
        assert chosen.loss == pytest.approx(least, rel=1e-3)


def test_tiny_tables_whose_index_takes_too_much_fall_back_to_equal_coverage():
    frequencies = 1 / (torch.arange(16) + 1.0)
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(6))
    planned, _ = plan_table(weight, LightTokenConfig(compression_ratio=1.5), [], frequencies)
    assert planned.ratio >= 1.5


def test_rows_of_few_values_get_no_tiers_that_code_nothing(recwarn):
    weight = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    plan_table(weight, LightTokenConfig(compression_ratio=1.1), [], torch.ones(4000) + torch.arange(4000) / 1e5)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_the_map_pays_for_its_bytes():
    even, uneven = torch.eye(DIM), torch.diag(50.0 * torch.arange(1, DIM + 1).float() ** -1.5)
    assert choose_whitening(even, ROWS) == (0, pytest.approx(0.0, abs=1e-9))
    rank, lost = choose_whitening(uneven, ROWS)
    assert rank in (16, 32)
    assert lost < 0.2
    assert choose_whitening(uneven, 300)[0] < rank
