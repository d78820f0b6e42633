import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines.svd import TruncatedSvd, svd_factors

FP32, FP16 = TruncatedSvd(torch.float32), TruncatedSvd(torch.float16)


@pytest.mark.parametrize("rank", [1, 5, 23])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_the_error_is_the_energy_of_the_discarded_singular_values(rank, scale):
    table = small_table() * scale
    values = np.linalg.svd(table.double().numpy(), compute_uv=False)
    error = relative_error(table, FP32.reconstruct(table, {"rank": rank}, 0))
    assert error == pytest.approx((values[rank:] ** 2).sum() / (values**2).sum(), rel=1e-4)


def test_the_right_factor_is_orthonormal():
    _, right = svd_factors(small_table() * 1e3, 4)
    torch.testing.assert_close(right @ right.t(), torch.eye(4), atol=1e-5, rtol=0)


def test_fp16_factors_are_rounded():
    table = small_table()
    left, right = svd_factors(table, 4)
    decoded = FP16.reconstruct(table, {"rank": 4}, 0)
    torch.testing.assert_close(decoded, left.half().float() @ right.half().float(), rtol=0, atol=0)
    assert not torch.equal(decoded, FP32.reconstruct(table, {"rank": 4}, 0))


def test_factors_that_overflow_are_refused():
    with pytest.raises(ValueError, match="overflows torch.float16: use the _fp32 baseline"):
        FP16.reconstruct(small_table() * 1e6, {"rank": 4}, 0)


@pytest.mark.parametrize(("svd", "item"), [(FP32, 4), (FP16, 2)])
def test_bytes_and_the_largest_rank(svd, item):
    assert svd.stored_bytes(600, 24, {"rank": 3}) == 3 * (600 + 24) * item
    table = small_table()
    for budget in (624 * item, 5 * 624 * item, 6 * 624 * item - 1):
        assert svd.largest(table, budget) == {"rank": budget // (624 * item)}
    assert svd.largest(table, 10**9) == {"rank": 23}


def test_a_table_of_zeros():
    assert not FP32.reconstruct(torch.zeros(50, 6), {"rank": 2}, 0).any()
