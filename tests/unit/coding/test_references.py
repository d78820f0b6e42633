"""Rows that lean on others: what is stored, what it decodes to, and how it is found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import random_table, reference_tier, with_index
from tests.thread_processes import in_processes
from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.coding.decode import decode_own, decode_positions, decode_unscaled
from transformers_lighttoken.coding.encode import EncodeOptions, encode
from transformers_lighttoken.coding.leaning_rows import LeaningRows, kept_leaning, row_scales_of
from transformers_lighttoken.coding.plan import CodingPlan, Tier
from transformers_lighttoken.coding.predicted_leaning import predict_leaning, suitable_standing
from transformers_lighttoken.coding.recut import LargerCode
from transformers_lighttoken.coding.references import Leaning, Resemblance
from transformers_lighttoken.coding.refine import RefineSchedule
from transformers_lighttoken.coding.resize import append_exact_rows, depths_of, keep_first_rows
from transformers_lighttoken.coding.rows import divided_rows
from transformers_lighttoken.coding.share import RowShare
from transformers_lighttoken.coding.table_rows import as_rows
from transformers_lighttoken.coding.tier_index import encode_depths, storage_order

ROWS, STANDING, DIM = 2100, 512, 24
QUICK = EncodeOptions(schedule=RefineSchedule(rounds=4))


def families(rows: int = ROWS, standing: int = STANDING, dim: int = DIM) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of which the later ones are near earlier ones, and which these are."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(standing, dim, generator=generator)
    parents = torch.randint(standing, (rows - standing,), generator=generator)
    others = first[parents] * 0.8 + 0.4 * torch.randn(rows - standing, dim, generator=generator)
    return torch.cat([first, others]), parents


def plan_with(tiers: tuple[Tier, ...], **fields) -> tuple[CodingPlan, torch.Tensor]:
    """A plan whose rows are covered in order of their ids, two of them exact, and the depths."""
    depths = torch.zeros(ROWS, dtype=torch.long)
    for number, tier in enumerate(tiers, start=1):
        depths[: tier.coverage] = number
    depths[[ROWS - 2, ROWS - 1]] = len(tiers) + 1
    index = encode_depths(depths, len(tiers) + 1).numel()
    return CodingPlan(ROWS, DIM, stage_bits=(9, 8), tiers=tiers, num_exact=2, index_bytes=index, **fields), depths


LEANING = (Tier(1000, "trellis", DIM, 8), reference_tier(STANDING), Tier(100, "trellis", DIM, 8))


def error_of(table, dense, rows=slice(None)):
    return float((table.decode_all() - dense)[rows].square().sum() / dense[rows].square().sum())


@given(st.integers(1, 3000), st.data())
def test_what_rows_lean_on_is_read_back(standing, data):
    count = data.draw(st.integers(1, 40))
    slots = torch.tensor(data.draw(st.lists(st.integers(0, standing - 1), min_size=count, max_size=count)))
    weights = torch.tensor(data.draw(st.lists(st.integers(0, 15), min_size=count, max_size=count)))
    bits = reference_tier(standing).code_bits
    packed = Leaning(slots, weights).packed(bits)
    assert packed.numel() == -(-count * bits // 8)
    rows = torch.randperm(count)
    found = Leaning.unpack(packed, rows, bits, standing)
    assert found.slots.tolist() == slots[rows].tolist()
    assert found.weights.tolist() == weights[rows].tolist()
    assert torch.equal(found.factors, weights[rows].unsqueeze(1) / 15)


def test_the_stored_bits_are_slot_then_weight():
    packed = Leaning(torch.tensor([5, 2]), torch.tensor([9, 15])).packed(7)
    assert np.unpackbits(packed.numpy())[:14].tolist() == [1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1]


def test_a_row_decodes_to_its_own_code_and_its_share_of_another():
    plan = with_index(CodingPlan(60, 8, rank=1, stage_bits=(9,), tiers=(reference_tier(20), Tier(7, "trellis", 8, 8))))
    table = random_table(plan)
    own = decode_own(plan, table.tensors, torch.arange(60))
    bits = np.unpackbits(table.tensors["tier_1_codes"].numpy())
    expected = own.clone()
    for row in range(20, 60):
        code = int("".join(map(str, bits[(row - 20) * 9 : (row - 19) * 9])), 2)
        expected[row] += own[min(code >> 4, 19)] * (code & 15) / 15  # a slot past the last one is that one
    assert torch.allclose(decode_unscaled(plan, table.tensors, torch.arange(60)), expected, atol=1e-6)
    some = torch.tensor([3, 19, 20, 41, 59])
    assert torch.allclose(decode_unscaled(plan, table.tensors, some), expected[some], atol=1e-6)


def test_decoding_compiles_to_the_same_rows():
    plan = with_index(CodingPlan(60, 8, stage_bits=(9,), tiers=(Tier(40, "trellis", 8, 8), reference_tier(20))))
    table = random_table(plan)
    slots = torch.tensor([50, 3, 20, 3, 59, 19])

    def decode(slots: torch.Tensor) -> torch.Tensor:
        return decode_unscaled(plan, table.tensors, slots)

    rising = slots.sort()
    assert torch.allclose(
        torch.compile(decode, backend="eager", fullgraph=True)(slots), decode(rising.values)[rising.indices.argsort()]
    )


def test_resemblance_is_that_of_a_slow_search():
    rows, _ = families()
    metric = torch.diag(torch.linspace(0.1, 3, DIM))
    found = Resemblance(rows[:STANDING].clone(), metric).find(rows, STANDING)
    variances, directions = np.linalg.eigh(
        np.sqrt(metric.double().numpy()) @ (rows[:STANDING].double().numpy().T @ rows[:STANDING].double().numpy())
        @ np.sqrt(metric.double().numpy())
    )  # fmt: skip
    mapped = (
        rows.double().numpy() @ np.sqrt(metric.numpy()) @ (directions / np.sqrt(variances + 0.3 * variances.mean()))
    )
    for row in range(0, ROWS - STANDING, 97):
        lengths = mapped[:STANDING] @ mapped[STANDING + row] / np.linalg.norm(mapped[:STANDING], axis=1)
        best = int(lengths.argmax())
        assert found.slots[row] == best
        weight = round(float(lengths[best] / np.linalg.norm(mapped[best])) * 15)
        assert found.weights[row] == min(max(weight, 0), 15)


def test_a_row_that_resembles_none_stands_alone():
    standing = torch.eye(4)[:1].repeat(3, 1)
    found = Resemblance(standing.clone(), None).find(-standing)
    assert found.weights.tolist() == [0, 0, 0]
    assert Resemblance(torch.zeros(3, 4), None).find(torch.ones(2, 4)).weights.tolist() == [0, 0]


def test_rows_are_taken_less_what_they_lean_on():
    rows, parents = families()
    source = divided_rows(as_rows(rows), torch.arange(ROWS))
    units = torch.nn.functional.normalize(rows)
    leaning = Leaning(parents, torch.full_like(parents, 12))
    lazy = LeaningRows(source, STANDING, leaning, lambda slots: units[slots])
    expected = units.clone()
    expected[STANDING:] -= units[parents] * 0.8
    for place in (slice(0, 100), slice(500, 600), slice(512, 2000), slice(None, 700), slice(2000, 2000)):
        assert torch.allclose(lazy[place], expected[place], atol=1e-6)


def test_leaning_rows_lose_less_at_the_same_bytes():
    rows, _ = families()
    plain = (Tier(1000, "trellis", DIM, 8), Tier(100, "trellis", DIM, 8))
    plan, depths = plan_with(LEANING)
    alone, alone_depths = plan_with(plain)
    alone = replace(alone, stage_bits=(9, 17))
    assert abs(alone.stored_bytes - plan.stored_bytes) < 10
    options = EncodeOptions(schedule=RefineSchedule(rounds=4))
    table, other = encode(rows, plan, depths, options=options), encode(rows, alone, alone_depths, options=options)
    assert error_of(table, rows, slice(STANDING, -2)) < 0.7 * error_of(other, rows, slice(STANDING, -2))
    assert torch.equal(table.decode(torch.tensor([ROWS - 1])), rows[-1:])


def test_the_errors_of_standing_rows_are_made_up_for(monkeypatch):
    rows, _ = families()
    plan, depths = plan_with(LEANING)
    closed = encode(rows, plan, depths, options=QUICK)
    monkeypatch.setattr(
        "transformers_lighttoken.coding.leaning_rows.Lean.closed", lambda self, targets, decoded: targets
    )
    assert error_of(closed, rows, slice(STANDING, -2)) < 0.8 * error_of(
        encode(rows, plan, depths, options=QUICK), rows, slice(STANDING, -2)
    )


@pytest.mark.parametrize("block", [64, 512, 2048], ids=["all stand", "one stands", "one is empty"])
@pytest.mark.parametrize("changes", [{}, {"rank": 1}, {"centered": True}], ids=["base", "low rank", "centered"])
def test_the_bytes_do_not_depend_on_the_number_of_processes(monkeypatch, changes, block):
    for module in ("share", "reduction"):
        monkeypatch.setattr(f"transformers_lighttoken.coding.{module}.block_rows", lambda device: block)
    rows, _ = families()
    plan, depths = plan_with(LEANING, **changes)
    whole = encode(rows, plan, depths, options=QUICK)

    def of_share(share: RowShare):
        return encode(rows, plan, depths, options=replace(QUICK, share=share)).digest()

    assert in_processes(3, of_share) == [whole.digest()] * 3


def test_a_smaller_code_leans_on_the_same_rows():
    rows, _ = families()
    plan, depths = plan_with(LEANING)
    larger = encode(rows, plan, depths, options=QUICK)
    standing = LargerCode.of(larger).standing
    assert standing is not None
    assert standing.nonzero().squeeze(1).tolist() == [*range(STANDING), ROWS - 2, ROWS - 1]
    fewer = (Tier(700, "trellis", DIM, 8), reference_tier(STANDING), Tier(20, "trellis", DIM, 8))
    smaller, smaller_depths = plan_with(fewer)
    coded = storage_order(smaller_depths)[smaller.num_exact :]
    kept = kept_leaning(larger, smaller, coded)
    number, tier = plan.reference_tier or pytest.fail("no rows lean")
    codes = larger.tensors[f"tier_{number}_codes"]
    found = Leaning.unpack(codes, torch.arange(ROWS - 2 - STANDING), tier.code_bits, STANDING)
    ids = larger.positions.argsort()[2:]  # of coded rows, by slot
    smaller_order = torch.cat([torch.arange(20), torch.arange(20, STANDING), torch.arange(STANDING, ROWS - 2)])
    assert smaller_order[kept.slots].tolist() == ids[found.slots][ids[STANDING:].argsort()].tolist()
    decoded = larger.decode_all()
    cut = encode(decoded, smaller, smaller_depths, options=replace(QUICK, nested_in=larger))
    assert torch.equal(kept_leaning(cut, smaller, coded).slots, kept.slots)
    assert error_of(cut, rows) < 0.9 * error_of(encode(decoded, smaller, smaller_depths, options=QUICK), rows)


def test_rows_that_lean_on_a_row_that_is_cut_off_become_exact():
    plan = with_index(
        CodingPlan(60, 8, stage_bits=(9,), tiers=(Tier(40, "trellis", 8, 8), reference_tier(20)), num_exact=3)
    )
    table = random_table(plan)
    before = table.decode_all()
    grown = append_exact_rows(table, torch.ones(2, 8))
    assert torch.equal(grown.decode_all()[:60], before)
    for count in (59, 40, 12, 1):
        cut = keep_first_rows(grown, count)
        assert torch.allclose(cut.decode_all(), before[:count], atol=1e-6)
        standing = int(((depths_of(table)[:count] >= 2) & (depths_of(table)[:count] < 3)).sum())
        tier = cut.plan.reference_tier
        assert (tier[1].coverage if tier else 0) == standing


def test_leaning_is_predicted_from_a_sample():
    rows, _ = families(6000, 1024)
    order = torch.arange(6000)
    predicted = predict_leaning(as_rows(rows), order, 1024, None)
    assert predicted.stored_bytes(6000) == -(-(6000 - 1024) * 14 // 8)
    # 0.8 z + 0.4 n leaves a fifth of a row's energy, and so do codes of any length
    assert predicted.gain(10, 0) == pytest.approx(0.2, abs=0.05)
    assert predicted.gain(60, 0) == pytest.approx(0.2, abs=0.05)
    unlike = predict_leaning(
        as_rows(torch.randn(6000, 64, generator=torch.Generator().manual_seed(1))), order, 1024, None
    )
    assert 0.7 < unlike.gain(30, 0) < 1


def test_few_rows_all_stand_alone():
    found = {rows: suitable_standing(rows) for rows in (1, 1023, 1024, 2048, 30517, 49135, 10**6)}
    assert found == {
        1: [], 1023: [], 1024: [512], 2048: [512, 1024], 30517: [4096, 8192], 49135: [8192, 16384], 10**6: [8192, 16384]
    }  # fmt: skip


def test_rows_that_others_lean_on_stay_coded_in_a_cut():
    rows, _ = families()
    frequencies = 1.0 / (torch.arange(ROWS) + 2.7)
    larger = compress_table(rows, LightTokenConfig(compression_ratio=5.0), frequencies=frequencies)
    assert larger.plan.num_leaning
    config = LightTokenConfig(compression_ratio=6.0)
    decoded = larger.decode_all()
    cut = compress_table(decoded, config, frequencies=frequencies, nested_in=larger)
    asked = compress_table(decoded, config, frequencies=frequencies, nested_in=larger, exact_ids=[0, 3, ROWS - 1])
    assert asked.plan.num_exact == 1
    assert torch.equal(asked.decode(torch.tensor([ROWS - 1])), decoded[-1:])
    assert error_of(asked, rows) < 1.1 * error_of(cut, rows)


def test_decoded_rows_over_their_row_scales_are_the_sums_of_their_codes():
    tiers = (Tier(40, "trellis", 8, 8), reference_tier(20))
    plan = with_index(CodingPlan(60, 8, stage_bits=(9,), tiers=tiers, num_exact=3))
    table = random_table(plan)
    scales = row_scales_of(table)
    found = table.decode_all()[scales > 0] / scales[scales > 0].unsqueeze(1)
    slots = table.positions[scales > 0].long() - 3
    expected = decode_unscaled(plan, table.tensors, torch.arange(57))
    assert torch.allclose(found, expected[slots], atol=1e-5)
    assert int((scales == 0).sum()) == 3 + int(
        (decode_positions(plan, table.tensors, torch.arange(3, 60)) == 0).all(1).sum()
    )


def test_decoding_compiles_where_no_row_leans_any_more():
    tiers = (Tier(20, "trellis", 8, 8), reference_tier(20))
    table = keep_first_rows(random_table(with_index(CodingPlan(60, 8, stage_bits=(9,), tiers=tiers))), 1)
    positions = table.positions.long()
    compiled = torch.compile(lambda rows: decode_positions(table.plan, table.tensors, rows), backend="eager")
    assert torch.equal(compiled(positions), table.decode_all())
