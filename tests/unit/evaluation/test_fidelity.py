import numpy as np
import pytest
import torch

from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS
from transformers_lighttoken.evaluation.fidelity import table_fidelity


def tables(rows=2 * CPU_BLOCK_ROWS + 100, dim=7, noise=0.3):
    """More rows than one block holds."""
    random = torch.Generator().manual_seed(0)
    original = torch.randn(rows, dim, generator=random) * torch.rand(rows, 1, generator=random)
    return original, original + noise * torch.randn(rows, dim, generator=random)


def test_it_agrees_with_numpy():
    original, decoded = tables()
    a, b = original.double().numpy(), decoded.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    fidelity = table_fidelity(original, decoded)
    assert fidelity.relative_error == pytest.approx(((a - b) ** 2).sum() / (a**2).sum(), rel=1e-12)
    assert fidelity.cosine_mean == pytest.approx(cosines.mean(), rel=1e-12)
    assert fidelity.cosine_p01 == pytest.approx(np.percentile(cosines, 1), rel=1e-12)


def test_sums_are_in_float64():
    original = torch.full((5000, 64), 1e4)
    decoded = original.clone()
    decoded[0, 0] += 1
    assert table_fidelity(original, decoded).relative_error == pytest.approx(1 / (5000 * 64 * 1e8), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_are_compared_as_they_are(dtype):
    original, decoded = tables()
    half = table_fidelity(original.to(dtype), decoded.to(dtype))
    assert half == table_fidelity(original.to(dtype).double(), decoded.to(dtype).double())


def test_equal_tables():
    original, _ = tables()
    fidelity = table_fidelity(original, original.clone())
    assert fidelity.relative_error == 0
    assert fidelity.cosine_p01 == pytest.approx(1, abs=1e-12)


def test_zero_rows():
    original = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    decoded = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    fidelity = table_fidelity(original, decoded)
    assert fidelity.cosine_mean == (1 + 0 + 0 + 1) / 4
    assert fidelity.relative_error == (1 + 25) / 26


def test_a_table_of_zeros():
    zeros = torch.zeros(3, 2)
    assert table_fidelity(zeros, zeros).relative_error == 0
    assert table_fidelity(zeros, zeros + 1).relative_error == float("inf")


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((12,), (12,)), ((0, 4), (0, 4))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"must be non-empty matrices of one shape \(V, d\), got \("):
        table_fidelity(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
