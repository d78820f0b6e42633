import faiss
import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines.product_quantization import (
    ProductQuantization,
    _predicted_error,
    code_in_groups,
    make_quantizer,
)

FP32, FP16 = ProductQuantization(torch.float32), ProductQuantization(torch.float16)


def size(groups, bits):
    return {"sub_quantizers": groups, "code_bits": bits}


def plain_product_quantization(rows, centroids):
    """Each group of each row by the nearest of its centroids (M, 2**b, w); float64 distances."""
    decoded = np.zeros_like(rows)
    for row in range(rows.shape[0]):
        for group in range(rows.shape[1]):
            distances = ((centroids[group].astype(np.float64) - rows[row, group]) ** 2).sum(1)
            decoded[row, group] = centroids[group][distances.argmin()]
    return decoded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decoded_rows_are_the_nearest_stored_centroids(dtype):
    table = small_table(300, 24)
    rows = table.view(300, 6, 4).numpy()
    quantizer = make_quantizer(6, 4, 4, seed=5)
    quantizer.train(table.numpy())
    centroids = torch.from_numpy(faiss.vector_to_array(quantizer.centroids)).to(dtype).float().view(6, 16, 4).numpy()
    np.testing.assert_allclose(code_in_groups(rows, 4, dtype, seed=5), plain_product_quantization(rows, centroids))


def test_groups_of_unequal_width():
    """24 columns in 5 groups: four of 5 columns and one of 4, each with at most 8 distinct values."""
    table = small_table(300)
    decoded = FP32.reconstruct(table, size(5, 3), 0)
    for start, stop in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 24)):
        assert len(decoded[:, start:stop].unique(dim=0)) == 8
    assert relative_error(table, decoded) < 0.6


@pytest.mark.parametrize(("method", "item"), [(FP32, 4), (FP16, 2)])
def test_bytes(method, item):
    assert method.stored_bytes(601, 24, size(5, 3)) == (601 * 15 + 7) // 8 + 8 * 24 * item


def test_bytes_are_those_of_what_faiss_holds():
    table = small_table(600)
    quantizer = make_quantizer(6, 4, 4, seed=0)
    quantizer.train(table.numpy())
    codes = quantizer.compute_codes(table.numpy())  # 6 codes of 4 bits: 3 whole bytes a row
    assert FP32.stored_bytes(600, 24, size(6, 4)) == codes.nbytes + faiss.vector_to_array(quantizer.centroids).nbytes


@pytest.mark.parametrize(("groups", "bits"), [(16, 4), (8, 6), (5, 8)])
def test_the_predicted_error_is_that_of_a_gaussian_table(groups, bits):
    table = torch.randn(20000, 16, generator=torch.Generator().manual_seed(0))
    error = relative_error(table, FP32.reconstruct(table, size(groups, bits), 0))
    assert _predicted_error(16, size(groups, bits)) == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("budget", [1500, 4000, 9000, 40000])
def test_the_size_is_near_the_best_of_all_that_fit(budget):
    table = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    chosen = FP16.largest(table, budget)
    assert FP16.stored_bytes(3000, 16, chosen) <= budget
    larger = {"sub_quantizers": chosen["sub_quantizers"] + 1, "code_bits": chosen["code_bits"]}
    assert chosen["sub_quantizers"] == 16 or FP16.stored_bytes(3000, 16, larger) > budget
    errors = [
        relative_error(table, FP16.reconstruct(table, size(groups, bits), 0))
        for bits in range(1, 9)
        for groups in range(1, 17)
        if FP16.stored_bytes(3000, 16, size(groups, bits)) <= budget
        and (groups == 16 or FP16.stored_bytes(3000, 16, size(groups + 1, bits)) > budget)
    ]
    assert len(errors) > 1
    assert relative_error(table, FP16.reconstruct(table, chosen, 0)) < 1.1 * min(errors)


def test_there_are_no_more_centroids_than_rows():
    table = small_table(40)
    assert FP32.largest(table, 10**6)["code_bits"] == 5
    assert relative_error(table, FP32.reconstruct(table, FP32.largest(table, 10**6), 0)) < 0.01


def test_the_seed_decides():
    table = small_table(300)
    first = FP32.reconstruct(table, size(4, 5), 0)
    assert torch.equal(first, FP32.reconstruct(table, size(4, 5), 0))
    assert not torch.equal(first, FP32.reconstruct(table, size(4, 5), 1))
