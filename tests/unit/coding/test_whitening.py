"""The map after which errors in a metric are about plain ones."""

import pytest
import torch

from transformers_lighttoken.coding.quantize import dequantize_rows
from transformers_lighttoken.coding.whitening import bits_lost, fit_whitening, unwhiten, whitening_map

DIM = 48


def metric(decay=1.5, floor=0.05):
    basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0))).Q
    return basis @ torch.diag(20 * torch.arange(1, DIM + 1).float() ** -decay + floor) @ basis.t()


@pytest.mark.parametrize("rank", [0, 1, 8, 24])
def test_the_map_is_undone(rank):
    stored, scale = fit_whitening(metric(), rank)
    assert stored.shape == (rank, DIM)
    rows = torch.randn(7, DIM, generator=torch.Generator().manual_seed(1))
    there = rows @ whitening_map(stored, scale)
    torch.testing.assert_close(unwhiten(there, dequantize_rows(stored, scale)), rows, rtol=1e-4, atol=1e-4)


def test_white_errors_after_the_map_cost_what_is_said():
    """Rows that are white in the metric get errors that are white in the map's coordinates."""
    m = metric().double()
    for rank in (0, 4, 16):
        stored, scale = fit_whitening(m, rank)
        there = whitening_map(stored, scale).double()
        back = torch.linalg.inv(there)
        variance = torch.trace(there.t() @ torch.linalg.inv(m) @ there) / DIM  # of what is coded
        error = variance * torch.trace(back @ m @ back.t()) / DIM
        assert 0.5 * float(error.log2()) == pytest.approx(bits_lost(torch.linalg.eigvalsh(m), rank), abs=0.01)


def test_more_directions_lose_fewer_bits_and_all_alike_lose_none():
    eigenvalues = torch.linalg.eigvalsh(metric())
    lost = [bits_lost(eigenvalues, rank) for rank in (0, 2, 8, 32)]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 0.4
    assert bits_lost(torch.ones(DIM), 0) == pytest.approx(0.0, abs=1e-9)


def test_a_singular_metric_still_gives_a_map():
    stored, scale = fit_whitening(torch.diag(torch.tensor([1.0] + [0.0] * (DIM - 1))), 4)
    assert bool(torch.isfinite(whitening_map(stored, scale)).all())
