"""Tied heads and views compute what dense ones do, and never hold the dense table."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import plan_of, random_table
from transformers_lighttoken import LightTokenEmbedding
from transformers_lighttoken.modeling import logits as logits_module
from transformers_lighttoken.modeling.head import LightTokenHead, LightTokenView
from transformers_lighttoken.modeling.kind import EmbeddingKind

BLOCK = 50


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "DECODE_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(logits_module, "_MOST_BLOCKS", 1)


@pytest.fixture(name="owner")
def _owner() -> LightTokenEmbedding:
    return LightTokenEmbedding.from_table(random_table(plan_of(160, 32, tiers=3)))


def dense_head(owner: LightTokenEmbedding, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(32, 160, bias=bias is not None)
    linear.weight.data.copy_(owner.table.decode_all())
    if bias is not None:
        linear.bias.data.copy_(bias)
    return linear


@pytest.mark.parametrize("length", [5, 30])  # states in all: fewer than a row has columns, and more
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_logits(owner: LightTokenEmbedding, with_bias: bool, gradients: bool, length: int) -> None:
    bias = nn.Parameter(torch.randn(160)) if with_bias else None
    head = LightTokenHead(owner, bias)
    hidden = torch.randn(2, length, 32)
    with torch.set_grad_enabled(gradients):
        logits = head(hidden)
    assert torch.allclose(logits, dense_head(owner, bias)(hidden), atol=1e-5)
    assert (head.in_features, head.out_features) == (32, 160)
    assert logits.requires_grad == gradients


@pytest.mark.parametrize("states", [4, 40])  # fewer than a row has columns, and more
def test_gradients_are_those_of_a_dense_head(owner: LightTokenEmbedding, states: int) -> None:
    bias = nn.Parameter(torch.randn(160))
    head, dense = LightTokenHead(owner, bias), dense_head(owner, bias)
    hidden = torch.randn(states, 32, requires_grad=True)
    twin = hidden.detach().clone().requires_grad_()
    head(hidden).log_softmax(-1)[:, 7].sum().backward()
    dense(twin).log_softmax(-1)[:, 7].sum().backward()
    exact_ids = (owner.positions < owner.plan.num_exact).nonzero().flatten()
    assert hidden.grad is not None
    assert owner.exact_rows.grad is not None
    assert torch.allclose(hidden.grad, twin.grad, atol=1e-5)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(owner.exact_rows.grad, dense.weight.grad[exact_ids], atol=1e-5)  # pyright: ignore[reportOptionalSubscript]
    assert torch.allclose(bias.grad, dense.bias.grad, atol=1e-5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("states", [3, 40])
def test_no_decoded_block_waits_for_the_backward_pass(owner: LightTokenEmbedding, states: int) -> None:
    saved: list[tuple[int, ...]] = []
    hidden = torch.randn(states, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(tuple(x.shape)) or x, lambda x: x):
        LightTokenHead(owner)(hidden)
    assert [shape for shape in saved if shape and shape[0] >= BLOCK and shape[-1] == 32] == []


def test_output_dtype_under_autocast_is_that_of_a_linear_layer(owner: LightTokenEmbedding) -> None:
    bias = nn.Parameter(torch.randn(160))
    hidden, dense = torch.randn(2, 32), dense_head(owner, bias)
    with torch.autocast("cpu", torch.bfloat16):
        logits, expected = LightTokenHead(owner, bias)(hidden), dense(hidden)
    assert logits.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), expected.float(), atol=0.1)
    with pytest.raises(RuntimeError):
        LightTokenHead(owner)(hidden.bfloat16())  # as nn.Linear without autocast


def test_half_precision_rounds_the_float32_product_once(owner: LightTokenEmbedding) -> None:
    owner.bfloat16()
    hidden = torch.randn(2, 32, dtype=torch.bfloat16)
    logits, exact = LightTokenHead(owner)(hidden), dense_head(owner)(hidden.float())
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=2**-8, atol=1e-5)


def test_the_table_is_stored_once(owner: LightTokenEmbedding) -> None:
    model = nn.ModuleDict(
        {"owner": owner, "view": LightTokenView(owner, EmbeddingKind()), "head": LightTokenHead(owner)}
    )
    assert all(key.startswith("owner.") for key in model.state_dict())
    assert len(list(model.parameters())) == 1


def test_calls_go_to_the_owner_so_that_its_hooks_run(owner: LightTokenEmbedding) -> None:
    modes = []
    owner.register_forward_pre_hook(lambda module, args, kwargs: modes.append(kwargs["mode"]), with_kwargs=True)
    LightTokenHead(owner)(torch.randn(1, 32))
    LightTokenView(owner, EmbeddingKind())(torch.tensor([3]))
    _ = owner.weight[3]
    assert modes == ["logits", "rows", "rows"]


def test_a_view_has_a_scale_and_padding_of_its_own(owner: LightTokenEmbedding) -> None:
    view = LightTokenView(owner, EmbeddingKind(padding_idx=4, embed_scale=3.0))
    ids = torch.tensor([[4, 9]])
    assert torch.equal(view(ids), owner(ids) * 3.0)
    assert (view.num_embeddings, view.embedding_dim, view.padding_idx, view.embed_scale) == (160, 32, 4, 3.0)
    assert view.weight.shape == (160, 32)


def test_compiled_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "DECODE_BLOCK_ROWS", 100)
    head = LightTokenHead(LightTokenEmbedding.from_table(random_table(plan_of(160, 32))))
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    hidden = torch.randn(2, 32)
    with torch.no_grad():
        assert torch.allclose(compiled(hidden), head(hidden), atol=1e-5)
    assert torch.allclose(compiled(hidden), head(hidden), atol=1e-5)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_head_copied_alone_is_dense_and_trains(owner: LightTokenEmbedding, with_bias: bool) -> None:
    bias = nn.Parameter(torch.randn(160)) if with_bias else None
    copied: Any = copy.deepcopy(LightTokenHead(owner, bias))
    assert type(copied) is nn.Linear
    assert torch.equal(copied.weight, owner.table.decode_all())
    assert (copied.bias is None) == (bias is None)
    if bias is not None and copied.bias is not None:
        assert torch.equal(copied.bias, bias)
        assert copied.bias is not bias
    assert all(parameter.requires_grad for parameter in copied.parameters())


def test_heads_and_views_copied_with_their_owner_stay_tied(owner: LightTokenEmbedding) -> None:
    parts = nn.ModuleDict({"head": LightTokenHead(owner), "view": LightTokenView(owner, EmbeddingKind()), "e": owner})
    copies = copy.deepcopy(parts)
    for name in ("head", "view", "e"):
        assert type(copies[name]) is type(parts[name])

    assert copies["head"].owner is copies["view"].owner is copies["e"] is not owner


def test_a_view_cannot_be_copied_alone(owner: LightTokenEmbedding) -> None:
    with pytest.raises(TypeError, match="LightTokenView uses the table of another module and cannot be copied"):
        copy.deepcopy(LightTokenView(owner, EmbeddingKind()))
