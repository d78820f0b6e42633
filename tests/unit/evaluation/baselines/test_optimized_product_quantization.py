import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines.optimized_product_quantization import (
    OptimizedProductQuantization,
    principal_axes,
    spread_evenly,
)
from transformers_lighttoken.evaluation.baselines.product_quantization import ProductQuantization

FP32, FP16 = OptimizedProductQuantization(torch.float32), OptimizedProductQuantization(torch.float16)


def size(groups, bits, rotated):
    return {"sub_quantizers": groups, "code_bits": bits, "rotated_dim": rotated}


def test_principal_axes_agree_with_numpy():
    table = small_table(9000, 12)
    covariance = np.cov(table.double().numpy().T, bias=True)
    variances, axes = principal_axes(table)
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-6)
    np.testing.assert_allclose((axes @ torch.from_numpy(covariance) @ axes.t()).diagonal(), variances, rtol=1e-6)


def test_axes_are_spread_so_that_products_are_even():
    variances = np.geomspace(1, 1e-3, 24)
    groups = spread_evenly(variances, 4)
    assert sorted(axis for group in groups for axis in group) == list(range(24))
    assert [len(group) for group in groups] == [6] * 4
    products = [np.log(variances[group]).sum() for group in groups]
    assert max(products) - min(products) < 1


def test_axes_without_variance_are_spread_too():
    assert sorted(axis for group in spread_evenly(np.zeros(6), 3) for axis in group) == list(range(6))


def test_it_beats_product_quantization_where_columns_are_correlated():
    table = small_table(3000)
    plain = ProductQuantization(torch.float32).reconstruct(table, {"sub_quantizers": 6, "code_bits": 5}, 0)
    rotated = FP32.reconstruct(table, size(6, 5, 24), 0)
    assert relative_error(table, rotated) < 0.9 * relative_error(table, plain)


def test_what_is_rotated_away_is_the_least_variance():
    """With one centroid per row and dimension to spare, the error is that of the dropped axes."""
    table = small_table(200, 12)
    decoded = FP32.reconstruct(table, size(4, 7, 4), 0)
    variances, _ = principal_axes(table)
    dropped = float(variances[4:].sum()) * 200 / float(table.double().square().sum())
    assert relative_error(table, decoded) == pytest.approx(dropped, rel=0.05)
    centred = decoded - decoded.mean(0)
    assert torch.linalg.matrix_rank(centred.double(), rtol=1e-5) == 4


@pytest.mark.parametrize(("method", "item"), [(FP32, 4), (FP16, 2)])
def test_bytes(method, item):
    expected = (601 * 30 + 7) // 8 + (32 * 18 + 18 * 24 + 24) * item
    assert method.stored_bytes(601, 24, size(6, 5, 18)) == expected


def test_fp16_differs_from_fp32_by_rounding_alone():
    table = small_table()
    full, half = (method.reconstruct(table, size(6, 5, 24), 0) for method in (FP32, FP16))
    assert not torch.equal(full, half)
    assert relative_error(table, half) == pytest.approx(relative_error(table, full), rel=0.02)


@pytest.mark.parametrize("budget", [2500, 6000])
def test_the_size_is_near_the_best_of_all_that_fit(budget):
    table = small_table(2000, 12)
    chosen = FP16.largest(table, budget)
    assert FP16.stored_bytes(2000, 12, chosen) <= budget
    assert chosen["rotated_dim"] % chosen["sub_quantizers"] == 0
    errors = [
        relative_error(table, FP16.reconstruct(table, candidate, 0))
        for bits in (3, 5, 8)
        for width in (1, 2, 4)
        for groups in range(1, 12 // width + 1)
        if FP16.stored_bytes(2000, 12, candidate := size(groups, bits, groups * width)) <= budget
    ]
    assert len(errors) > 3
    assert relative_error(table, FP16.reconstruct(table, chosen, 0)) < 1.1 * min(errors)


def test_the_seed_decides():
    table = small_table(300)
    first = FP32.reconstruct(table, size(4, 5, 24), 0)
    assert torch.equal(first, FP32.reconstruct(table, size(4, 5, 24), 0))
    assert not torch.equal(first, FP32.reconstruct(table, size(4, 5, 24), 1))


def test_a_table_of_zeros():
    zeros = torch.zeros(50, 6)
    assert not FP32.reconstruct(zeros, FP32.largest(zeros, 700), 0).any()
