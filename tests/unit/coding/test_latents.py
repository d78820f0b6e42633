"""Latents: made from stored bytes they round to the same bytes; their gradients are those of what they stand for."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import plan_of, random_table
from transformers_lighttoken.coding.decode import decode_positions, decode_signs
from transformers_lighttoken.coding.latents import OCTAVES, MatrixRounding, ScaleRounding, roundings
from transformers_lighttoken.coding.packing import bits_of_bfloat16, bits_of_float32, pack_bits, pack_values
from transformers_lighttoken.coding.quantize import quantize_rows, quantize_scales

PARTS = ("decoder", "low_rank", "row_scales")
ROWS = 6


def rounded_again(rounding: Any, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    latents, unit = rounding.latents(stored)
    assert latents.dtype == unit.dtype == torch.float32
    return rounding.round(latents, unit, stored)


def same_bytes(tensors: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> bool:
    return all(tensor.dtype == stored[k].dtype and torch.equal(tensor, stored[k]) for k, tensor in tensors.items())


@given(
    entries=st.lists(st.integers(-127, 127), min_size=ROWS * 4, max_size=ROWS * 4),
    scales=st.lists(st.floats(2.0**-100, 2.0**100, width=32), min_size=ROWS, max_size=ROWS),
)
def test_any_int8_matrix_comes_back(entries: list[int], scales: list[float]):
    stored = {
        "decoder": torch.tensor(entries, dtype=torch.int8).view(ROWS, 4),
        "decoder_scale": bits_of_bfloat16(torch.tensor(scales)),
    }
    again = rounded_again(MatrixRounding("decoder", "decoder", "int8"), stored)
    assert set(again) == set(stored)
    assert same_bytes(again, stored)


@given(entries=st.lists(st.floats(-1, 1, width=16), min_size=ROWS * 4, max_size=ROWS * 4))
def test_any_float16_matrix_comes_back(entries: list[float]):
    matrix = torch.tensor(entries, dtype=torch.float16).view(ROWS, 4).view(torch.int16)
    stored = {"decoder": matrix, "decoder_scale": bits_of_bfloat16(torch.linspace(0.01, 3, ROWS))}
    assert same_bytes(rounded_again(MatrixRounding("decoder", "decoder", "float16"), stored), stored)


@settings(deadline=None)
@given(data=st.data(), bits=st.integers(2, 8), lowest=st.floats(-30, 30, width=32), log_step=st.floats(-30, 2))
def test_any_row_scales_come_back(data: st.DataObject, bits: int, lowest: float, log_step: float):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=ROWS, max_size=ROWS))
    step = data.draw(st.sampled_from([0.0, 2.0**log_step]))
    stored = {
        "row_scale": pack_values(torch.tensor(codes).unsqueeze(1), bits),
        "row_scale_range": bits_of_float32(torch.tensor([lowest, step])),
    }
    assert same_bytes(rounded_again(ScaleRounding("row_scales", "row_scale", ROWS, bits), stored), stored)


@pytest.mark.parametrize("decoder_dtype", ["int8", "float16"])
def test_a_whole_table_comes_back_and_decodes_to_the_same_bits(decoder_dtype: str):
    table = random_table(plan_of(160, 32, tiers=3, decoder_dtype=decoder_dtype))
    rules = roundings(table.plan, PARTS)
    assert set(rules) == {
        *("low_rank_left", "low_rank_right", "decoder", "row_scale"),
        *("tier_1_decoder", "tier_2_row_scale", "tier_3_decoder"),
    }
    values = {}
    for name, rounding in rules.items():
        assert same_bytes(rounded_again(rounding, dict(table.tensors)), dict(table.tensors))
        values[name] = rounding.values(*rounding.latents(table.tensors), table.tensors)
    positions = torch.arange(160)
    expected = decode_positions(table.plan, table.tensors, positions)
    assert torch.equal(decode_positions(table.plan, {**table.tensors, **values}, positions), expected)


def test_parts_are_chosen_by_name():
    plan = plan_of(160, 32, tiers=3)
    assert set(roundings(plan, ["row_scales", "exact_rows"])) == {"row_scale", "tier_2_row_scale"}
    assert roundings(plan, []) == {}


class TestMatrix:
    ROUNDING = MatrixRounding("decoder", "decoder", "int8")

    @staticmethod
    def stored() -> dict[str, torch.Tensor]:
        matrix, scale = quantize_rows(torch.linspace(-2, 1, 12).view(3, 4), "int8")
        return {"decoder": matrix, "decoder_scale": scale}

    def test_a_step_of_half_a_level_changes_the_level(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        latents[1, 2] += 0.51 / 127
        latents[0, 3] += 0.49 / 127
        rounded = self.ROUNDING.round(latents, unit, stored)["decoder"]
        change = rounded.int() - stored["decoder"].int()
        assert change.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]

    def test_the_scale_of_a_row_grows_where_entries_leave_its_range(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        latents[2] *= 3
        rounded = self.ROUNDING.round(latents, unit, stored)
        assert torch.equal(rounded["decoder_scale"][:2], stored["decoder_scale"][:2])
        assert torch.equal(rounded["decoder"][:2], stored["decoder"][:2])
        values = self.ROUNDING.values(latents, unit, stored)
        assert torch.allclose(values[2], latents[2] * unit[2] * 127, rtol=0, atol=float(unit[2]) * 2)
        assert int(rounded["decoder"][2].abs().max()) in (126, 127)

    def test_gradient_is_that_of_the_unrounded_values(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        latents = (latents + 0.001).requires_grad_()
        weights = torch.arange(12.0).view(3, 4)
        (self.ROUNDING.values(latents, unit, stored) * weights).sum().backward()
        assert latents.grad is not None
        assert torch.allclose(latents.grad, weights * unit.unsqueeze(1) * 127)


class TestScales:
    ROUNDING = ScaleRounding("row_scales", "row_scale", 5, 8)

    @staticmethod
    def stored() -> dict[str, torch.Tensor]:
        codes, limits = quantize_scales(torch.tensor([0.5, 1.0, 0.0, 3.0, 8.0]), 8)
        return {"row_scale": pack_values(codes.unsqueeze(1), 8), "row_scale_range": limits}

    def test_a_latent_is_a_logarithm(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        before = self.ROUNDING.values(latents, unit, stored)
        latents[1] += 1 / OCTAVES
        latents[2] += 1 / OCTAVES
        after = self.ROUNDING.values(latents, unit, stored)
        assert (after / before)[[0, 3, 4]].tolist() == [1, 1, 1]
        assert after[1] / before[1] == pytest.approx(2, rel=0.02)
        assert before[2] == after[2] == 0  # a row of zeros stays one

    def test_scales_stay_inside_their_grid(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        values = self.ROUNDING.values(torch.tensor([-9.0, 9, 9, 9, 9]), unit, stored)
        assert values.tolist() == pytest.approx([0.5, 8, 0, 8, 8], rel=0.01)

    def test_gradient_is_that_of_the_exponential(self):
        stored = self.stored()
        latents, unit = self.ROUNDING.latents(stored)
        latents.requires_grad_()
        values = self.ROUNDING.values(latents, unit, stored)
        values.sum().backward()
        assert latents.grad is not None
        expected = values.detach() * OCTAVES * torch.tensor(2.0).log()
        assert torch.allclose(latents.grad, expected, rtol=1e-4)


@pytest.mark.parametrize("count", [40, 700, 20000])
def test_gradient_of_signs_times_decoder(count: int):
    noise = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (90, 13), generator=noise, dtype=torch.uint8)
    codes, decoder = pack_bits(signs), torch.randn(13, 5, generator=noise)
    slots = torch.randint(0, 90, (count,), generator=noise)
    weights = torch.randn(count, 5, generator=noise)
    ours, plain = decoder.clone().requires_grad_(), decoder.clone().requires_grad_()
    rows = decode_signs(codes, slots, ours)
    (rows * weights).sum().backward()
    (((signs[slots].float() * 2 - 1) @ plain) * weights).sum().backward()
    assert ours.grad is not None
    assert plain.grad is not None
    assert torch.equal(rows, decode_signs(codes, slots, decoder))
    assert torch.allclose(ours.grad, plain.grad, atol=1e-3)


@pytest.mark.parametrize("name", ["low_rank_left", "low_rank_right", "decoder", "row_scale", "tier_1_decoder"])
def test_gradients_of_decoded_rows(name: str):
    """Rows are linear in each stored tensor while scales of zero stay, so that finite differences are exact."""
    table, noise = random_table(plan_of(160, 32, tiers=3)), torch.Generator().manual_seed(0)
    rounding = roundings(table.plan, PARTS)[name]
    values = rounding.values(*rounding.latents(table.tensors), table.tensors).double().float().requires_grad_()
    weights, direction = torch.randn(160, 32, generator=noise), torch.randn(values.shape, generator=noise)

    def total(values: torch.Tensor) -> torch.Tensor:
        rows = decode_positions(table.plan, {**table.tensors, name: values}, torch.arange(160))
        return (rows * weights).double().sum()

    (gradient,) = torch.autograd.grad(total(values), values)
    if name == "row_scale":  # a scale of zero stands for a row of zeros
        direction = direction.abs() * (values.detach() > 0)
    change = total((values + direction).detach()) - total(values.detach())
    assert float(change) == pytest.approx(float((gradient * direction).double().sum()), rel=1e-3, abs=1e-3)
