import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.loss import direction_aware_loss

SEEDS = st.integers(0, 2**16)


def pair(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 12, generator=generator) * scale, torch.randn(8, 12, generator=generator) * scale


@given(SEEDS)
def test_alpha_one_is_the_squared_distance(seed):
    rows, reconstructed = pair(seed)
    assert torch.equal(direction_aware_loss(rows, reconstructed, 1.0), (rows - reconstructed).square().sum(dim=-1))


@given(SEEDS, st.floats(1.0, 50.0), st.sampled_from([1e-4, 1.0, 1e3]), st.floats(0.0, 1.0))
def test_any_alpha_is_an_upper_bound_of_it(seed, alpha, scale, closeness):
    rows, other = pair(seed, scale)
    reconstructed = closeness * rows + (1 - closeness) * other
    distance = (rows - reconstructed).square().sum(dim=-1)
    assert bool((direction_aware_loss(rows, reconstructed, alpha) >= distance).all())


@given(SEEDS, st.floats(1.0, 20.0))
def test_it_equals_the_formula_in_float64(seed, alpha):
    rows, reconstructed = (part.double() for part in pair(seed))
    norm_x, norm_y = rows.norm(dim=-1), reconstructed.norm(dim=-1)
    cosine = (rows * reconstructed).sum(dim=-1) / (norm_x * norm_y)
    expected = (norm_x - norm_y).square() + 2 * alpha * norm_x * norm_y * (1 - cosine)
    torch.testing.assert_close(direction_aware_loss(rows, reconstructed, alpha), expected)


def test_gradients_at_zero_are_finite():
    reconstructed = torch.zeros(2, 4, requires_grad=True)
    direction_aware_loss(torch.ones(2, 4), reconstructed, 3.0).sum().backward()
    assert reconstructed.grad is not None
    assert bool(torch.isfinite(reconstructed.grad).all())


def test_alpha_below_one_is_refused():
    with pytest.raises(ValueError, match="alpha must be at least 1, got 0.5"):
        direction_aware_loss(torch.ones(1, 2), torch.ones(1, 2), 0.5)
