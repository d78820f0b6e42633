import pytest
import torch

from transformers_lighttoken.coding.rotation import gaussian_levels, rotate, unrotate


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 100, 300, 384, 577])
def test_it_is_orthogonal_and_undone(dim):
    identity = torch.eye(dim)
    rotated = rotate(identity, seed=3)
    torch.testing.assert_close(rotated @ rotated.t(), identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(unrotate(rotated, seed=3), identity, atol=1e-5, rtol=0)


def test_it_spreads_a_single_coordinate():
    assert float(rotate(torch.eye(384), seed=0).abs().max()) < 0.5


def test_the_signs_are_fixed_for_ever():
    """A stored table decodes only as long as these values stay as they are."""
    assert rotate(torch.arange(1.0, 6.0), seed=0).tolist() == pytest.approx(FROZEN_ROTATION)


FROZEN_ROTATION = [2.0, 0.5, -0.5, 5.5, 4.5]


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_levels_reach_the_error_of_max_1960(bits, error):
    levels = gaussian_levels(bits).double()
    grid = torch.linspace(-8, 8, 400001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2)
    nearest = levels[torch.bucketize(grid, (levels[1:] + levels[:-1]) / 2)]
    measured = float(((grid - nearest).square() * density).sum() / density.sum())
    assert measured == pytest.approx(error, rel=2e-3)
