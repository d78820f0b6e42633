import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.tier_index import (
    decode_depths,
    encode_depths,
    max_encoded_bytes,
    storage_order,
    storage_positions,
)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300))
def test_depths_round_trip(values):
    depths = torch.tensor(values)
    encoded = encode_depths(depths, 4)
    assert encoded.numel() <= max_encoded_bytes(len(values), 4)
    assert torch.equal(decode_depths(encoded, len(values), 4), depths)


def test_a_run_of_ids_costs_a_few_bytes_and_scattered_ids_a_bit_each():
    depths = torch.zeros(80000, dtype=torch.long)
    depths[100:5000] = 1
    assert encode_depths(depths, 1).numel() == 1 + 4 + 8
    depths[torch.arange(0, 80000, 2)] = 1
    assert encode_depths(depths, 1).numel() == 1 + 10000


def test_positions_put_exact_rows_first_then_deeper_tiers_then_ids():
    depths = torch.tensor([0, 2, 1, 0, 2, 1])
    assert storage_order(depths).tolist() == [1, 4, 2, 5, 0, 3]
    positions = storage_positions(depths)
    np.testing.assert_array_equal(positions.numpy()[storage_order(depths).numpy()], np.arange(6))
    assert positions.dtype == torch.int32


def test_no_sets_need_no_bytes():
    assert encode_depths(torch.zeros(10, dtype=torch.long), 0).numel() == 0
    assert torch.equal(decode_depths(torch.zeros(0, dtype=torch.uint8), 10, 0), torch.zeros(10, dtype=torch.long))


@pytest.mark.parametrize("cut", [0, 1, 4, 12])
def test_damaged_bytes_are_refused(cut):
    encoded = encode_depths((torch.arange(100) < 10).long(), 1)
    with pytest.raises(ValueError, match="damaged"):
        decode_depths(encoded[:cut], 100, 1)


def test_trailing_bytes_and_rows_past_the_end_are_refused():
    encoded = encode_depths((torch.arange(100) >= 90).long(), 1)
    with pytest.raises(ValueError, match="records end at byte 13"):
        decode_depths(torch.cat([encoded, encoded[:1]]), 100, 1)
    with pytest.raises(ValueError, match="names a row past 95"):
        decode_depths(encoded, 95, 1)


def test_a_depth_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"depths must be in \[0, 1\], got 0 to 2"):
        encode_depths(torch.tensor([0, 2]), 1)
