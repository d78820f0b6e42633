"""Rows appended and cut off decode as they should; nothing else changes."""

from dataclasses import replace

import pytest
import torch

from tests.helpers import plan_of, random_table
from transformers_lighttoken.coding.resize import append_exact_rows, keep_first_rows
from transformers_lighttoken.coding.table import CompressedTable
from transformers_lighttoken.coding.tier_index import encode_depths

VARIANTS = [
    {"exact": 0, "rank": 0},
    {"exact": 0, "rank": 0, "tiers": 3},
    {"exact": 5, "rank": 2},
    {"exact": 5, "rank": 2, "tiers": 3},
    {"exact": 3, "rank": 1, "tiers": 1, "row_scale_bits": 4},
    {"exact": 3, "rank": 1, "row_scale_bits": 0, "decoder_dtype": "float16"},
]


def same(rows: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for the rounding of a matrix product, which depends on the number of rows."""
    return rows.shape == expected.shape and float((rows - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("fields", VARIANTS)
def test_appended_rows_are_stored_as_they_are(fields: dict) -> None:
    table = random_table(plan_of(160, 32, **fields))
    rows = torch.randn(9, 32)
    grown = append_exact_rows(table, rows)
    assert grown.shape == (169, 32)
    assert same(grown.decode_all()[:160], table.decode_all())
    assert torch.equal(grown.decode_all()[160:], rows)
    assert grown.plan.num_exact == table.plan.num_exact + 9
    assert grown.plan.stored_bytes == sum(tensor.nbytes for tensor in grown.tensors.values())


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("count", [160, 159, 111, 90])
def test_kept_rows_decode_as_before(fields: dict, count: int) -> None:
    table = random_table(plan_of(160, 32, **fields))
    cut = keep_first_rows(table, count)
    assert cut.shape == (count, 32)
    assert same(cut.decode_all(), table.decode_all()[:count])
    assert cut.plan.stored_bytes == sum(tensor.nbytes for tensor in cut.tensors.values())
    assert cut.plan.stored_bytes <= table.plan.stored_bytes


def test_cutting_drops_a_tier_that_covers_nothing_any_more() -> None:
    depths = torch.zeros(160, dtype=torch.int64)
    depths[:20], depths[140:153], depths[153:] = 1, 2, 3  # the plan's 40, 20 and 7 rows, the fewest at the end
    plan = plan_of(160, 32, tiers=3, exact=0)
    index = encode_depths(depths, 3)
    tensors = random_table(plan).tensors
    table = CompressedTable(replace(plan, index_bytes=index.numel()), {**tensors, "tier_index": index})
    cut = keep_first_rows(table, 145)
    assert [tier.coverage for tier in cut.plan.tiers] == [25, 5]
    assert same(cut.decode_all(), table.decode_all()[:145])


def test_growing_and_cutting_back_gives_the_same_bytes() -> None:
    table = random_table(plan_of(160, 32, tiers=2))
    assert keep_first_rows(append_exact_rows(table, torch.randn(7, 32)), 160).digest() == table.digest()


@pytest.mark.parametrize("count", [0, -3, 161])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"count must be in \[1, 160\], got {count}"):
        keep_first_rows(random_table(plan_of(160, 32)), count)


def test_so_few_rows_that_coding_does_not_pay_still_decode_as_before() -> None:
    table = random_table(plan_of(160, 32))
    kept = keep_first_rows(table, 3)
    torch.testing.assert_close(kept.decode_all(), table.decode_all()[:3])
    kept.plan.validate()
