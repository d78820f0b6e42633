import math

import numpy as np
import pytest

from transformers_lighttoken.evaluation.baselines.gaussian_prediction import vector_quantizer_loss


def test_scalars_lose_as_panter_and_dite_found():
    assert vector_quantizer_loss(1) == pytest.approx(math.sqrt(3) * math.pi / 2)


def test_it_is_close_to_the_lloyd_max_quantizer():
    """The optimal 6-bit scalar quantizer, by Lloyd's algorithm on a fine grid."""
    grid = np.linspace(-8, 8, 20_001)
    density = np.exp(-(grid**2) / 2)
    density /= density.sum()
    levels = np.linspace(-4, 4, 64)
    for _ in range(1500):
        cells = np.searchsorted((levels[1:] + levels[:-1]) / 2, grid)
        levels = np.bincount(cells, density * grid) / np.bincount(cells, density)
    error = (density * (grid - levels[cells]) ** 2).sum()
    assert vector_quantizer_loss(1) * 2.0**-12 == pytest.approx(error, rel=0.05)


def test_it_falls_to_the_limit():
    losses = [vector_quantizer_loss(width) for width in (1, 2, 4, 8, 64, 4096)]
    assert losses == sorted(losses, reverse=True)
    assert 1 < losses[-1] < 1.01
