import faiss
import numpy as np
import pytest
import torch

from tests.unit.evaluation.baselines.tables import relative_error, small_table
from transformers_lighttoken.evaluation.baselines.additive_quantization import (
    LocalSearchQuantization,
    ResidualQuantization,
)

METHODS = [ResidualQuantization, LocalSearchQuantization]


def size(groups, stages, bits=4):
    return {"groups": groups, "stages": stages, "code_bits": bits}


def plain_decode(packed, codebooks, stages, bits):
    """Sums codebook entries; faiss packs codes with the lowest bit first."""
    rows = []
    for code in packed:
        number = int.from_bytes(code.tobytes(), "little")
        entries = [(number >> (stage * bits)) & (2**bits - 1) for stage in range(stages)]
        rows.append(sum(codebooks[stage][entry] for stage, entry in enumerate(entries)))
    return np.array(rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decoded_rows_are_sums_of_stored_entries(method, dtype):
    table = small_table(300, 8)
    quantizer = method(dtype).make_quantizer(300, 8, size(1, 3), seed=0)
    quantizer.train(table.numpy())
    trained = torch.from_numpy(faiss.vector_to_array(quantizer.codebooks)).to(dtype).float().numpy()
    faiss.copy_array_to_vector(trained, quantizer.codebooks)
    expected = plain_decode(quantizer.compute_codes(table.numpy()), trained.reshape(3, 16, 8), 3, 4)
    decoded = method(dtype).reconstruct(table, size(1, 3), 0)
    np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_unequal_width_are_coded_apart(method):
    table = small_table(300)
    decoded = method(torch.float32).reconstruct(table, size(5, 1, 3), 0)
    for start, stop in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 24)):
        assert 2 <= len(decoded[:, start:stop].unique(dim=0)) <= 8


@pytest.mark.parametrize("method", METHODS)
def test_more_stages_leave_less(method):
    table = small_table()
    errors = [relative_error(table, method(torch.float32).reconstruct(table, size(3, n), 0)) for n in (1, 2, 4)]
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "item"), [(torch.float32, 4), (torch.float16, 2)])
def test_bytes(method, dtype, item):
    assert method(dtype).stored_bytes(601, 24, size(5, 3)) == (601 * 60 + 7) // 8 + 3 * 16 * 24 * item


def test_bytes_are_those_of_what_faiss_holds():
    table = small_table(600, 8)
    method = ResidualQuantization(torch.float32)
    quantizer = method.make_quantizer(600, 8, size(1, 4), seed=0)
    quantizer.train(table.numpy())
    codes = quantizer.compute_codes(table.numpy())  # 4 codes of 4 bits: 2 whole bytes a row, no norms
    assert method.stored_bytes(600, 8, size(1, 4)) == codes.nbytes + faiss.vector_to_array(quantizer.codebooks).nbytes


def bits(chosen):
    return chosen["groups"] * chosen["stages"] * chosen["code_bits"]


@pytest.mark.parametrize("budget", [10000, 16000, 30000])
def test_the_size_has_the_most_bits_that_fit(budget):
    table, method = small_table(3000), ResidualQuantization(torch.float16)
    chosen = method.largest(table, budget)
    fitting = [
        size(groups, stages)
        for groups in range(1, 7)
        for stages in range(4, 9)
        if method.stored_bytes(3000, 24, size(groups, stages)) <= budget
    ]
    assert bits(chosen) == max(map(bits, fitting))
    assert chosen["stages"] == max(candidate["stages"] for candidate in fitting if bits(candidate) == bits(chosen))


def test_a_small_budget_takes_fewer_stages():
    table, method = small_table(3000), ResidualQuantization(torch.float16)
    two_stages = method.stored_bytes(3000, 24, size(1, 2))
    assert method.largest(table, two_stages) == size(1, 2)
    assert method.largest(table, two_stages - 1) == size(2, 1)
    assert method.largest(table, 450) == size(1, 1, 1)


def test_there_are_no_more_entries_than_rows():
    table, method = small_table(6, 8), ResidualQuantization(torch.float32)
    assert method.largest(table, 10**4)["code_bits"] == 2
    assert method.reconstruct(table, size(1, 4, 2), 0).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(method):
    table = small_table(300)
    first = method(torch.float32).reconstruct(table, size(2, 3), 0)
    assert torch.equal(first, method(torch.float32).reconstruct(table, size(2, 3), 0))
    assert not torch.equal(first, method(torch.float32).reconstruct(table, size(2, 3), 1))
