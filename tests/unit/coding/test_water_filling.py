import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transformers_lighttoken.coding.water_filling import component_rates, gaussian_distortion


def test_components_below_the_water_take_no_bits():
    rates = component_rates(torch.tensor([0.0, 0.01, 4.0, 1.0]), 3.0)
    assert rates.tolist() == pytest.approx([2.0, 1.0, 0.0, 0.0])
    assert component_rates(torch.zeros(3), 8.0).tolist() == component_rates(torch.ones(3), 0.0).tolist() == [0.0] * 3


def test_the_gaussian_limit_of_a_white_source_is_four_to_the_minus_rate():
    white = torch.ones(64)
    assert gaussian_distortion(white, 64.0) == pytest.approx(0.25)
    assert gaussian_distortion(white, 0.0) == 1.0
    assert gaussian_distortion(torch.zeros(3), 8.0) == 1.0


@given(st.integers(0, 2**16), st.floats(0.5, 200.0))
def test_the_gaussian_limit_fills_water_to_the_rate(seed, bits):
    variances = torch.rand(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4 + 1e-6
    share = gaussian_distortion(variances, bits)
    low, high = 0.0, float(variances.max())
    for _ in range(200):  # the oracle: bisection of the water level
        level = (low + high) / 2
        rate = float((0.5 * (variances / level).log2()).clamp(min=0).sum())
        low, high = (low, level) if rate < bits else (level, high)
    assert share == pytest.approx(float(variances.clamp(max=level).sum() / variances.sum()), rel=1e-6)
