"""`.weight` of a compressed table behaves as the dense table for code that reads it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.helpers import plan_of, random_table
from transformers_lighttoken import LightTokenEmbedding
from transformers_lighttoken.modeling import embedding as embedding_module
from transformers_lighttoken.modeling.head import LightTokenHead
from transformers_lighttoken.modeling.lazy_weight import LazyWeight


def same(actual: Tensor, expected: Tensor) -> bool:
    """Equal but for the rounding of a matrix product, which depends on the number of rows."""
    return (
        actual.shape == expected.shape
        and actual.dtype == expected.dtype
        and torch.allclose(actual, expected, atol=1e-5)
    )


@pytest.fixture(name="embedding")
def _embedding() -> LightTokenEmbedding:
    return LightTokenEmbedding.from_table(random_table(plan_of(160, 32, tiers=2)))


@pytest.fixture(name="dense")
def _dense(embedding: LightTokenEmbedding) -> Tensor:
    return embedding.table.decode_all()


@pytest.fixture(name="decoded")
def _decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that have been decoded."""
    counts: list[int] = []
    decode = embedding_module.decode_positions
    monkeypatch.setattr(
        embedding_module, "decode_positions", lambda *args: counts.append(args[2].numel()) or decode(*args)
    )
    return counts


def test_what_it_is_costs_nothing(embedding: LightTokenEmbedding, decoded: list[int]) -> None:
    weight: Any = embedding.weight
    assert weight.shape == weight.size() == torch.Size([160, 32])
    assert (weight.size(0), weight.dim(), weight.ndim, weight.numel(), len(weight)) == (160, 2, 2, 5120, 160)
    assert (weight.dtype, weight.device.type, weight.element_size()) == (torch.float32, "cpu", 4)
    assert weight.requires_grad
    assert weight._is_hf_initialized
    assert weight.data.detach().t().T.transpose(0, 1).shape == (32, 160)
    assert not hasattr(weight, "CB")
    assert not hasattr(weight, "_some_private_mark")
    assert decoded == []


@pytest.mark.parametrize(
    "index",
    [3, -1, slice(4, 9), slice(None, None, 50), torch.tensor([5, 5, 0]), torch.tensor([[1], [2]])],
    ids=str,
)
def test_indexing_decodes_only_those_rows(
    embedding: LightTokenEmbedding, dense: Tensor, decoded: list[int], index: Any
) -> None:
    expected = dense[index]
    decoded.clear()
    assert same(embedding.weight[index], expected)
    assert sum(decoded) == expected.numel() // 32


def test_further_indices_apply_to_the_rows(embedding: LightTokenEmbedding, dense: Tensor) -> None:
    weight: Any = embedding.weight
    assert same(weight[3, 5], dense[3, 5])
    assert same(weight[2:8, ::4], dense[2:8, ::4])
    assert same(weight[torch.tensor([1, 2]), :3], dense[[1, 2], :3])
    assert same(weight[None, 4:6], dense[None, 4:6])
    assert same(weight[dense[:, 0] > 0], dense[dense[:, 0] > 0])
    assert same(weight.t()[0], dense.t()[0])


def test_products_go_through_the_compressed_logits(
    embedding: LightTokenEmbedding, dense: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(weight: LazyWeight) -> Tensor:
        raise AssertionError("the dense table was made")

    monkeypatch.setattr(LazyWeight, "dense", refuse)
    weight: Any = embedding.weight
    hidden, bias = torch.randn(2, 3, 32), torch.randn(160)
    expected = hidden @ dense.t()
    for actual in (
        hidden @ weight.t(),
        torch.matmul(hidden, weight.T),
        hidden.matmul(weight.transpose(-1, -2)),
        functional.linear(hidden, weight),
        functional.linear(hidden, weight, bias) - bias,
        functional.linear(hidden, weight, bias=bias) - bias,
    ):
        assert torch.allclose(actual, expected, atol=1e-5)
    ids = torch.tensor([[4, 159]])
    assert same(functional.embedding(ids, weight), dense[ids])


def test_anything_else_works_on_a_dense_table_of_the_moment(embedding: LightTokenEmbedding, dense: Tensor) -> None:
    weight: Any = embedding.weight
    probabilities = torch.rand(2, 160)
    assert torch.allclose(probabilities @ weight, probabilities @ dense, atol=1e-5)
    assert same(torch.cat([weight, weight]), torch.cat([dense, dense]))
    assert same(torch.norm(weight, dim=1), torch.norm(dense, dim=1))
    assert same(weight * 2.0, dense * 2.0)
    assert same(2.0 - weight, 2.0 - dense)
    assert same(weight + weight.data, dense + dense)
    assert same(weight.to(torch.float64), dense.double())
    assert same(weight.mean(0), dense.mean(0))
    assert (dense == weight).shape == (dense != weight).shape == dense.shape


def test_writing_is_refused(embedding: LightTokenEmbedding) -> None:
    weight: Any = embedding.weight
    with pytest.raises(TypeError, match=r"in-place normal_\(\).*dequantize"):
        torch.nn.init.normal_(weight)
    with pytest.raises(TypeError, match=r"in-place zero_\(\)"):
        weight.data.zero_()
    with pytest.raises(TypeError, match="an assignment to rows"):
        weight[3] = 0.0
    with pytest.raises(TypeError, match="an assignment to the data"):
        weight.data = torch.zeros(3)


@pytest.mark.parametrize("value", [nn.Parameter(torch.zeros(2, 2)), torch.zeros(2, 2), None])
def test_replacing_the_weight_is_refused(embedding: LightTokenEmbedding, value: Any) -> None:
    modules: list[Any] = [embedding, LightTokenHead(embedding)]
    for module in modules:
        with pytest.raises(TypeError, match="a replacement of a compressed table's weight.*dequantize"):
            module.weight = value


def test_initialisation_while_loading_changes_nothing(embedding: LightTokenEmbedding, dense: Tensor) -> None:
    embedding.is_loading = True
    weight: Any = embedding.weight
    torch.nn.init.normal_(weight)
    weight.data.normal_(0, 1)
    weight.data[1].zero_()
    assert same(embedding.table.decode_all(), dense)
