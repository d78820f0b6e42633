import math

import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines import direction_autoencoder
from transformers_lighttoken.evaluation.baselines.direction_autoencoder import DirectionAutoencoder, direction_loss
from transformers_lighttoken.evaluation.baselines.svd import TruncatedSvd
from transformers_lighttoken.evaluation.fidelity import table_fidelity

FP32, FP16 = DirectionAutoencoder(torch.float32), DirectionAutoencoder(torch.float16)
SIZE = {"rank": 5}


def test_the_loss_agrees_with_numpy():
    rows, decoded = small_table(seed=1)[:40], small_table(seed=2)[:40]
    a, b = rows.double().numpy(), decoded.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    expected = 0.1 * math.sqrt(((a - b) ** 2).mean()) + 0.9 * (1 - cosines).mean()
    assert float(direction_loss(rows, decoded)) == pytest.approx(expected, rel=1e-5)


def test_it_loses_less_direction_than_the_svd_it_starts_from():
    table = small_table(3000)
    learnt = table_fidelity(table, FP32.reconstruct(table, SIZE, 0))
    start = table_fidelity(table, TruncatedSvd(torch.float32).reconstruct(table, SIZE, 0))
    assert learnt.cosine_mean > start.cosine_mean + 1e-3
    assert learnt.relative_error < 1.1 * start.relative_error


def test_without_epochs_it_is_the_svd(monkeypatch):
    monkeypatch.setattr(direction_autoencoder, "EPOCHS", 0)
    table = small_table()
    svd = TruncatedSvd(torch.float32).reconstruct(table, SIZE, 0)
    torch.testing.assert_close(FP32.reconstruct(table, SIZE, 0), svd, atol=1e-5, rtol=1e-5)


def test_the_decoded_table_has_the_stored_rank():
    decoded = FP32.reconstruct(small_table(), SIZE, 0)
    values = torch.linalg.svdvals(decoded.double())
    assert values[6] < 1e-5 * values[0]  # rank 5 and the bias
    assert values[5] > 1e-3 * values[0]


@pytest.mark.parametrize("scale", [2.0**-13, 128.0])  # powers of two: rounding is the same
def test_the_scale_of_the_table_does_not_matter(scale):
    table = small_table()
    plain = FP32.reconstruct(table, SIZE, 0)
    torch.testing.assert_close(FP32.reconstruct(table * scale, SIZE, 0) / scale, plain, atol=1e-3, rtol=1e-3)


def test_the_seed_decides():
    table = small_table()
    first = FP32.reconstruct(table, SIZE, 0)
    assert torch.equal(first, FP32.reconstruct(table, SIZE, 0))
    assert not torch.equal(first, FP32.reconstruct(table, SIZE, 1))


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    FP32.reconstruct(small_table(), SIZE, 0)
    assert torch.equal(torch.rand(1), expected)


def test_it_trains_where_gradients_are_off():
    table = small_table()
    with torch.no_grad():
        decoded = FP32.reconstruct(table, SIZE, 0)
    assert torch.equal(decoded, FP32.reconstruct(table, SIZE, 0))
    assert not decoded.requires_grad


def test_zero_rows_do_no_harm():
    table = small_table()
    table[:7] = 0
    assert relative_error(table, FP32.reconstruct(table, SIZE, 0)) < 0.5
    assert not FP32.reconstruct(torch.zeros(50, 6), {"rank": 2}, 0).isnan().any()


@pytest.mark.parametrize(("method", "item"), [(FP32, 4), (FP16, 2)])
def test_bytes_and_the_largest_rank(method, item):
    assert method.stored_bytes(600, 24, {"rank": 3}) == (3 * (600 + 24) + 24) * item
    for budget, rank in (((5 * 624 + 24) * item, 5), ((5 * 624 + 24) * item - 1, 4), (10**9, 23)):
        assert method.largest(small_table(), budget) == {"rank": rank}
