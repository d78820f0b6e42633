import numpy as np
import pytest
import torch

from transformers_lighttoken.coding.low_rank import low_rank
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS, add_exactly, gram_matrix


def unit_rows(rows=300, dim=24, seed=0):
    matrix = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2, 0.1, dim)
    return matrix / matrix.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("rank", [1, 5, 23])
def test_it_is_the_truncated_svd(rank):
    rows = unit_rows()
    left, right = low_rank(rows, rank)
    u, s, vh = np.linalg.svd(rows.double().numpy(), full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    np.testing.assert_allclose((left @ right).numpy(), best, atol=2e-5)
    torch.testing.assert_close(right @ right.t(), torch.eye(rank), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [0, 24, 30])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=rf"rank must be in \[1, 23\] for 24 columns, got {rank}"):
        low_rank(unit_rows(), rank)


def test_sums_on_the_grid_do_not_depend_on_grouping():
    partials = [torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)) * 300 for seed in range(60)]
    totals = []
    for order in (range(60), reversed(range(60))):
        total = torch.zeros(8, 8, dtype=torch.float64)
        for number in order:
            add_exactly(total, partials[number])
        totals.append(total)
    assert torch.equal(*totals)
    torch.testing.assert_close(totals[0], sum(part.double() for part in partials), atol=1e-6, rtol=0)


def test_gram_over_two_shares_equals_gram_over_all():
    rows = unit_rows(3 * CPU_BLOCK_ROWS + 100)
    whole = gram_matrix(rows)
    shares = gram_matrix(rows[:CPU_BLOCK_ROWS]) + gram_matrix(rows[CPU_BLOCK_ROWS:])
    assert torch.equal(whole, shares)


def test_in_a_metric_it_is_the_truncated_svd_of_the_mapped_rows():
    rows = unit_rows()
    root = torch.linalg.cholesky(torch.diag(torch.linspace(0.1, 3, 24)) + 0.05)
    left, right = low_rank(rows, 4, metric=root @ root.t())
    mapped = (rows @ root).double().numpy()
    u, s, vh = np.linalg.svd(mapped, full_matrices=False)
    np.testing.assert_allclose((left @ right @ root).numpy(), (u[:, :4] * s[:4]) @ vh[:4], atol=1e-3)
