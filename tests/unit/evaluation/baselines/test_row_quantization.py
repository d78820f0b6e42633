import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.coding.packing import pack_values
from transformers_lighttoken.evaluation.baselines.row_quantization import RowQuantization, quantize


def plain_quantize(row, limit):
    """The clipping of least squared error, tried one after the other."""
    best = (np.inf, row, np.float32(0))
    for step in range(11):
        scale = np.float32(np.abs(row).max() * ((1 - step / 20) / limit))
        codes = np.clip(np.round(row / scale), -limit, limit)
        error = np.square(codes * scale - row).sum()
        if error < best[0] * (1 - 1e-6):
            best = (error, codes, scale)
    return best[1:]


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (4, 7)])
def test_it_agrees_with_numpy(bits, limit):
    table = small_table(80)
    codes, scales = quantize(table, bits)
    for row, row_codes, scale in zip(table.numpy(), codes, scales, strict=True):
        expected_codes, expected_scale = plain_quantize(row, limit)
        np.testing.assert_array_equal(row_codes.numpy(), expected_codes)
        assert float(scale) == pytest.approx(float(expected_scale), rel=1e-6)


@pytest.mark.parametrize("rows", [600, 601])
def test_int4_bytes_are_those_of_the_packed_codes(rows):
    table = small_table(rows, 23)
    codes, scales = quantize(table, 4)
    packed = pack_values(codes.long() + 7, 4)
    stored = RowQuantization(4).stored_bytes(rows, 23, {"bits": 4})
    assert stored == packed.numel() + scales.numel() * scales.element_size()
    assert stored == (rows * 23 + 1) // 2 + 4 * rows


def test_int8_bytes():
    assert RowQuantization(8).stored_bytes(600, 24, {"bits": 8}) == 600 * (24 + 4)


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (4, 7)])
def test_every_entry_within_the_range_is_within_half_a_step(bits, limit):
    table = small_table(2000)
    codes, scales = quantize(table, bits)
    decoded = RowQuantization(bits).reconstruct(table, {"bits": bits}, 0)
    torch.testing.assert_close(decoded, codes * scales[:, None])
    inside = codes.abs() < limit
    steps = ((decoded - table) / scales[:, None]).abs()
    assert float(steps[inside].max()) <= 0.5 + 1e-3
    assert int(codes.abs().max()) == limit


def test_clipping_beats_the_full_range_at_four_bits():
    table = small_table(2000)
    scale = table.abs().amax(1, keepdim=True) / 7
    full_range = relative_error(table, (table / scale).round() * scale)
    assert relative_error(table, RowQuantization(4).reconstruct(table, {"bits": 4}, 0)) < 0.97 * full_range


def test_zero_rows_stay_zero():
    table = small_table(10)
    table[3] = 0
    decoded = RowQuantization(8).reconstruct(table, {"bits": 8}, 0)
    assert not decoded[3].any()
    assert relative_error(table, decoded) < 1e-4
