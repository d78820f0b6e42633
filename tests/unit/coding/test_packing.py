import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding import packing

RAGGED_WIDTHS = [1, 2, 3, 5, 7, 8, 9, 13, 16, 33, 64, 100, 129]


def random_bits(rows, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (rows, width)))


@pytest.mark.parametrize("width", RAGGED_WIDTHS)
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_pack_bits_is_numpy_packbits_over_the_whole_table(rows, width):
    bits = random_bits(rows, width)
    packed = packing.pack_bits(bits)
    np.testing.assert_array_equal(packed.numpy(), np.packbits(bits.numpy().reshape(-1)))
    assert packed.numel() == packing.packed_bytes(rows, width) == -(-rows * width // 8)


@pytest.mark.parametrize("width", RAGGED_WIDTHS)
def test_unpack_rows_reads_any_rows_in_any_order(width):
    bits = random_bits(53, width)
    rows = torch.tensor([52, 0, 7, 7, 31])
    assert torch.equal(packing.unpack_rows(packing.pack_bits(bits), rows, width).long(), bits[rows])


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**16))
def test_row_bytes_hold_the_row_and_zeros_after_it(rows, width, seed):
    bits = random_bits(rows, width, seed)
    packed, expected = packing.pack_bits(bits), np.packbits(bits.numpy(), axis=1)
    np.testing.assert_array_equal(packing.unpack_row_bytes(packed, torch.arange(rows), width).numpy(), expected)
    np.testing.assert_array_equal(packing.align_rows(packed, rows, width).numpy(), expected)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**16))
def test_values_round_trip(value_bits, rows, columns, seed):
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**value_bits, (rows, columns)))
    packed = packing.pack_values(values, value_bits)
    assert packed.numel() == packing.packed_bytes(rows, columns * value_bits)
    assert torch.equal(packing.unpack_values(packed, torch.arange(rows), columns, value_bits), values)


def test_values_out_of_range_are_refused_with_the_range():
    with pytest.raises(ValueError, match=r"values must be in \[0, 7\] for 3 bits, got values from 0 to 8"):
        packing.pack_values(torch.tensor([[0, 8]]), 3)
    with pytest.raises(ValueError, match=r"value_bits must be in \[1, 8\], got 9"):
        packing.pack_values(torch.tensor([[0]]), 9)
    with pytest.raises(ValueError, match="bits must be 0 or 1, got values from 0 to 2"):
        packing.pack_bits(torch.tensor([[0, 2]]))


def test_scalars_survive_as_bits():
    values = torch.tensor([0.0, 1.0, -3.140625, 1e-30])
    assert torch.equal(packing.float32_of_bits(packing.bits_of_float32(values)), values)
    assert torch.equal(packing.bfloat16_of_bits(packing.bits_of_bfloat16(values)), values.bfloat16().float())
    assert packing.bits_of_bfloat16(values).dtype == torch.int16
