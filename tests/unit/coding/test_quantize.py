import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.quantize import (
    dequantize_rows,
    dequantize_scales,
    quantize_rows,
    quantize_scales,
)


@given(st.integers(0, 2**16), st.floats(-12, 6))
def test_int8_rows_are_within_half_a_step(seed, exponent):
    matrix = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    stored, scale = quantize_rows(matrix, "int8")
    assert stored.dtype == torch.int8
    assert int(stored.abs().max()) <= 127
    step = matrix.abs().amax(dim=1, keepdim=True) / 127 * (1 + 2**-6)
    assert bool(((dequantize_rows(stored, scale) - matrix).abs() <= step / 2 * (1 + 1e-5)).all())


def test_float16_rows_keep_eleven_bits_whatever_their_magnitude():
    matrix = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-6], [1.0], [1e4], [0.0]]
    )
    stored, scale = quantize_rows(matrix, "float16")
    assert stored.dtype == torch.int16
    error = (dequantize_rows(stored, scale) - matrix).abs()
    assert bool((error <= matrix.abs() * 2**-10 + matrix.abs().amax(dim=1, keepdim=True) * 2**-14).all())


def test_an_unknown_decoder_dtype_is_named():
    with pytest.raises(ValueError, match="must be 'int8' or 'float16', got 'int4'"):
        quantize_rows(torch.ones(2, 2), "int4")


@given(st.integers(0, 2**16))
def test_eight_bit_scales_of_one_octave_are_within_a_tenth_of_a_percent(seed):
    scales = 1 + torch.rand(200, generator=torch.Generator().manual_seed(seed))
    codes, scale_range = quantize_scales(scales, 8)
    relative = (dequantize_scales(codes, scale_range) - scales) / scales
    assert float(relative.square().mean().sqrt()) < 1e-3
    assert float(relative.abs().max()) < 0.01


def test_a_zero_scale_stays_zero_and_outliers_do_not_stretch_the_grid():
    scales = torch.cat([torch.zeros(1), torch.full((2,), 1e-9), 1 + torch.rand(5000)])
    codes, scale_range = quantize_scales(scales, 4)
    back = dequantize_scales(codes, scale_range)
    assert back[0] == 0.0
    assert codes[0] == 0
    assert float(((back - scales)[3:] / scales[3:]).abs().max()) < 0.05


def test_scales_that_are_all_zero_or_all_equal():
    codes, scale_range = quantize_scales(torch.zeros(3), 8)
    assert torch.equal(dequantize_scales(codes, scale_range), torch.zeros(3))
    codes, scale_range = quantize_scales(torch.full((3,), 0.25), 8)
    assert torch.equal(dequantize_scales(codes, scale_range), torch.full((3,), 0.25))
