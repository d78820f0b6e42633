import pytest
import torch

from transformers_lighttoken import LightTokenConfig, compress_table
from transformers_lighttoken.coding.prediction import code_efficiency, predicted_error


@pytest.mark.parametrize(("exponent", "bits"), [(0.0, 24), (0.0, 77), (0.7, 19), (0.7, 38), (0.7, 96), (2.0, 38)])
def test_a_code_leaves_what_is_predicted(exponent, bits):
    deviations = torch.arange(1, 65).float() ** (-exponent / 2)
    rows = torch.randn(6000, 64, generator=torch.Generator().manual_seed(1)) * deviations
    units = torch.nn.functional.normalize(rows)
    decoded = compress_table(units, LightTokenConfig(code_bits=bits, tiers="equal", metric="plain")).decode_all()
    error = float((units - decoded).square().sum() / units.square().sum())
    eigenvalues = torch.linalg.eigvalsh(units.double().t() @ units.double())
    assert error == pytest.approx(predicted_error(eigenvalues, bits), rel=0.08)


def test_efficiency_by_hand():
    assert code_efficiency(torch.ones(64), 32) == pytest.approx(0.515 + 0.3 * 0.5)
    assert code_efficiency(torch.ones(64), 256) == 0.83
    assert code_efficiency(torch.zeros(64), 256) == 0.515
    spectrum = torch.tensor([4.0**5, 4.0, 1.0])  # rates of 5, 1 and 0
    deviation = (5 / 6 * (5 - 26 / 6) ** 2 + 1 / 6 * (1 - 26 / 6) ** 2) ** 0.5
    assert code_efficiency(spectrum, 6) == pytest.approx(0.83 - 0.18 * (deviation - 0.78))
    assert code_efficiency(torch.tensor([4.0**14, *[1.0] * 9]), 20) == 0.5


@pytest.mark.parametrize("exponent", [0.0, 0.7, 3.0, 9.0])
def test_more_bits_leave_less(exponent):
    eigenvalues = torch.arange(1, 97).double() ** -exponent
    errors = [predicted_error(eigenvalues, bits) for bits in range(0, 600, 7)]
    assert errors[0] == 1.0
    assert all(after < before for before, after in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("strong", [256.0, 4096.0])
def test_more_bits_promise_about_as_little_beside_few_strong_components(strong):
    eigenvalues = torch.ones(96)
    eigenvalues[:4] = strong
    errors = [predicted_error(eigenvalues, bits) for bits in range(0, 400, 5)]
    assert all(after < 1.1 * min(errors[:number]) for number, after in enumerate(errors) if number)
