import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.nested import encode_nested, halved_stages, num_rounds, prefix_weights
from transformers_lighttoken.coding.quantize import dequantize_rows
from transformers_lighttoken.coding.refine import Refiner, RefineSchedule

ROWS, DIM = 4000, 64
STAGES = (24, 24, 48)


def targets():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(ROWS, DIM, generator=generator) * torch.linspace(2, 0.2, DIM)
    return matrix / matrix.norm(dim=1, keepdim=True)


def error(rows, codes, decoder):
    return float((rows - (codes.float() * 2 - 1) @ decoder).square().sum() / rows.square().sum())


def encoded(stage_bits):
    refiner = Refiner(targets())
    codes, stored, scale = encode_nested(refiner, stage_bits, "int8", RefineSchedule())
    return refiner, codes, error(refiner.targets, codes, dequantize_rows(stored, scale))


def test_nesting_costs_nothing_and_prefixes_come_close_to_codes_of_their_size():
    refiner, codes, nested = encoded(STAGES)
    assert nested < encoded((96,))[2]
    for bits in (24, 48):
        prefix = error(refiner.targets, codes[:, :bits], refiner.refit(codes[:, :bits]))
        assert prefix < 1.2 * encoded((bits,))[2]


def test_the_rounds_reported_are_all_that_there_are():
    schedule, seen = RefineSchedule(rounds=2, stage_rounds=1), []
    rows = targets()[:50]
    refiner = Refiner(rows)
    encode_nested(refiner, (4, 5), "int8", schedule, on_round=lambda *told: seen.append(told))
    assert (
        [number for number, _ in seen] == list(range(num_rounds((4, 5), schedule, from_nothing=True))) == [0, 1, 2, 3]
    )
    codes, decoder, scale = encode_nested(refiner, (4, 5), "int8", schedule)
    left = rows - (codes.float() * 2 - 1) @ dequantize_rows(decoder, scale)
    assert seen[-1][1] == pytest.approx(float(left.square().sum() / rows.square().sum()), rel=0.05)
    assert seen[-1][1] < seen[0][1]


@given(st.integers(0, 5000))
def test_halved_stages_add_up_and_each_doubles_the_code(code_bits):
    stages = halved_stages(code_bits)
    assert sum(stages) == code_bits
    for number in range(1, len(stages)):
        assert abs(stages[number] - sum(stages[:number])) <= 1
    if stages:
        assert 1 <= stages[0] <= 64


def test_440_bits_can_be_cut_to_220_110_and_55():
    assert halved_stages(440) == (55, 55, 110, 220)
    weights = prefix_weights((55, 55, 110, 220))
    assert list(weights) == [55, 110, 165, 220, 275, 330, 385]
    assert weights[220] == 2 * weights[110] == 4 * weights[55]
