"""A table that is an output head too trains in both roles."""

import pytest
import torch

from tests.helpers import plan_of, random_table
from transformers_lighttoken import LightTokenEmbedding
from transformers_lighttoken.config import TRAINABLE_PARTS
from transformers_lighttoken.modeling import logits as logits_module
from transformers_lighttoken.modeling.head import LightTokenHead

IDS = torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(5))
EVERY_ID = torch.arange(160)
BLOCK = 60


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "DECODE_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(logits_module, "_MOST_BLOCKS", 1)


@pytest.fixture(name="embedding")
def _embedding() -> LightTokenEmbedding:
    embedding = LightTokenEmbedding.from_table(random_table(plan_of(160, 32, tiers=3)))
    embedding.train_parts(TRAINABLE_PARTS)
    return embedding


def decoder_of(embedding: LightTokenEmbedding) -> torch.nn.Parameter:
    assert embedding.latents is not None
    return embedding.latents.get_parameter("decoder")


def test_gradients_flow_from_both_roles(embedding: LightTokenEmbedding):
    head = LightTokenHead(embedding)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    decoder = decoder_of(embedding)

    def gradient(*terms: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(sum(terms, torch.zeros(())), decoder)[0]

    as_input = gradient(embedding(IDS).square().sum())
    as_head = gradient(head(hidden).square().sum())
    both = gradient(embedding(IDS).square().sum(), head(hidden).square().sum())
    assert as_input.abs().max() > 0
    assert as_head.abs().max() > 0
    assert torch.allclose(both, as_input + as_head, rtol=1e-3, atol=1e-4)


def test_blocks_give_the_gradient_of_the_whole_table(embedding: LightTokenEmbedding):
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    parameters = [parameter for _, parameter in embedding.named_parameters()]
    blocked = torch.autograd.grad(LightTokenHead(embedding)(hidden).square().sum(), parameters)
    whole = torch.autograd.grad((hidden @ embedding(EVERY_ID).t()).square().sum(), parameters)
    for ours, expected in zip(blocked, whole, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_nothing_of_the_size_of_the_table_waits_for_the_backward_pass(embedding: LightTokenEmbedding):
    saved: list[tuple[int, ...]] = []
    hidden = torch.randn(3, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(tuple(x.shape)) or x, lambda x: x):
        LightTokenHead(embedding)(hidden)
    assert saved
    assert [shape for shape in saved if len(shape) == 2 and shape[0] >= BLOCK] == []
