"""The distribution of row cosines that is recorded for the card."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from transformers_lighttoken.checkpoint.histogram import cosine_histogram
from transformers_lighttoken.evaluation.fidelity import block_fidelity, cosines_of


def histogram_of(original: torch.Tensor, decoded: torch.Tensor) -> dict[str, Any]:
    return cosine_histogram(cosines_of([block_fidelity(original, decoded)]))


def rows_at(cosines: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of any length with given cosines to (2, 0)."""
    angles = torch.tensor(cosines, dtype=torch.float64).arccos()
    return torch.tensor([[2.0, 0.0]]).repeat(len(cosines), 1), 3 * torch.stack([angles.cos(), angles.sin()], dim=1)


def test_counts_by_hand() -> None:
    histogram = histogram_of(*rows_at([0.75, 0.985, 0.995, 1.0, 0.705]))
    edges, counts = histogram["edges"], histogram["counts"]
    assert (edges[0], edges[-1], len(edges), len(counts)) == (0.7, 1.0, 31, 30)
    expected = np.zeros(30, dtype=int)
    for bin_number in (0, 5, 28, 29, 29):  # bins of 0.01
        expected[bin_number] += 1
    assert counts == expected.tolist()
    assert json.loads(json.dumps(histogram)) == histogram


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_row_is_counted(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    original = torch.randn(20_000, 4).to(dtype)
    original[:10] = 0
    decoded = -original.float() + torch.randn(20_000, 4)
    decoded[:5] = 0
    histogram = histogram_of(original, decoded)
    assert sum(histogram["counts"]) == 20_000
    assert histogram["edges"][0] == -1.0
    assert all(low < high for low, high in zip(histogram["edges"], histogram["edges"][1:], strict=False))
    assert histogram["counts"][-1] >= 5  # zero rows decoded to zeros


def test_exact_tables_fall_into_the_last_bin() -> None:
    table = torch.randn(50, 8)
    histogram = histogram_of(table, table)
    assert histogram["counts"] == [0] * 29 + [50]
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0.9, 1.0)
