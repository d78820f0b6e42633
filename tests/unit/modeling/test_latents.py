"""A compressed table trains through its stored rounding: what is computed is what is stored."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers import compress_at_random, plan_of, random_table
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import CompressedTable, LightTokenConfig, LightTokenEmbedding
from transformers_lighttoken.config import TRAINABLE_PARTS
from transformers_lighttoken.modeling.latents import TableLatents
from transformers_lighttoken.modeling.resize import resize_owner
from transformers_lighttoken.modeling.sites import owners

IDS = torch.randint(0, 160, (3, 7), generator=torch.Generator().manual_seed(5))
EVERY_ID = torch.arange(160)
NAMES = {
    *("low_rank_left", "low_rank_right", "decoder", "row_scale"),
    *("tier_1_decoder", "tier_2_row_scale", "tier_3_decoder"),
}


@pytest.fixture(name="table")
def _table() -> CompressedTable:
    return random_table(plan_of(160, 32, tiers=3))


@pytest.fixture(name="embedding")
def _embedding(table: CompressedTable) -> LightTokenEmbedding:
    embedding = LightTokenEmbedding.from_table(copy.deepcopy(table))
    embedding.train_parts(TRAINABLE_PARTS)
    return embedding


def latents_of(embedding: LightTokenEmbedding) -> TableLatents:
    assert embedding.latents is not None
    return embedding.latents


def step(embedding: LightTokenEmbedding, seed: int = 0, lr: float = 0.05) -> None:
    """One step of Adam that changes every stored tensor that trains."""
    optimizer = torch.optim.Adam(embedding.parameters(), lr=lr)
    target = torch.randn(160, 32, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (embedding(EVERY_ID) - target).square().sum().backward()
    optimizer.step()


def rows_of(embedding: LightTokenEmbedding) -> torch.Tensor:
    with torch.no_grad():
        return embedding(EVERY_ID)


def saved_rows(embedding: LightTokenEmbedding) -> torch.Tensor:
    """The rows of an export, loaded into a module that knows nothing of the latents."""
    state = {key: value for key, value in embedding.state_dict().items() if not key.startswith("latents.")}
    fresh = LightTokenEmbedding(embedding.plan)
    fresh.load_state_dict(state)
    return rows_of(fresh)


def test_every_part_has_parameters_in_float32(embedding: LightTokenEmbedding):
    assert {name for name, _ in embedding.named_parameters()} == {"exact_rows", *(f"latents.{name}" for name in NAMES)}
    assert {parameter.dtype for parameter in embedding.parameters()} == {torch.float32}
    assert next(embedding.parameters()) is embedding.exact_rows  # transformers takes the model's dtype from the first


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([], set()),
        (["exact_rows"], {"exact_rows"}),
        (["decoder"], {"latents.decoder", "latents.tier_1_decoder", "latents.tier_3_decoder"}),
        (["low_rank", "exact_rows"], {"latents.low_rank_left", "latents.low_rank_right", "exact_rows"}),
        (["row_scales"], {"latents.row_scale", "latents.tier_2_row_scale"}),
    ],
)
def test_only_the_chosen_parts_train(table: CompressedTable, parts: list[str], names: set[str]):
    embedding = LightTokenEmbedding.from_table(table)
    embedding.train_parts(parts)
    assert {name for name, parameter in embedding.named_parameters() if parameter.requires_grad} == names
    assert embedding(IDS).requires_grad == bool(names)


def test_nothing_changes_before_training(table: CompressedTable, embedding: LightTokenEmbedding):
    expected = rows_of(LightTokenEmbedding.from_table(table))
    assert torch.equal(embedding(EVERY_ID), expected)
    assert torch.equal(rows_of(embedding), expected)
    assert embedding.table.digest() == table.digest()


def test_each_stored_tensor_that_trains_changes_and_codes_stay(table: CompressedTable, embedding: LightTokenEmbedding):
    step(embedding)
    after = embedding.table.tensors
    changed = {name for name, tensor in table.tensors.items() if not torch.equal(tensor, after[name])}
    assert changed >= NAMES | {"exact_rows"}
    assert not changed & {"codes", "tier_1_codes", "tier_2_codes", "tier_3_codes", "tier_index", "row_scale_range"}


@pytest.mark.parametrize("count", [20, 400])
def test_training_computes_with_what_is_stored(embedding: LightTokenEmbedding, count: int):
    ids = torch.randint(0, 160, (count,), generator=torch.Generator().manual_seed(count))
    for seed in range(3):
        step(embedding, seed)
        trained = embedding(ids)
        assert trained.requires_grad
        with torch.no_grad():
            assert torch.equal(embedding(ids), trained)
        assert torch.equal(saved_rows(embedding), rows_of(embedding))


@pytest.mark.parametrize("write", ["copy_", "data", "data_in_place", "load_state_dict", "to_and_back"])
def test_rows_follow_latents_however_they_are_written(embedding: LightTokenEmbedding, write: str):
    other = copy.deepcopy(embedding)
    step(other)
    before = rows_of(embedding)
    decoder, source = (
        latents_of(embedding).get_parameter("decoder"),
        latents_of(other).get_parameter("decoder").detach(),
    )
    with torch.no_grad():
        if write == "copy_":
            decoder.copy_(source)
        elif write == "data":
            decoder.data = source.clone()
        elif write == "data_in_place":
            embedding.train()
            decoder.data.copy_(source)
            embedding.eval()
        elif write == "load_state_dict":
            embedding.load_state_dict({"latents.decoder": source}, strict=False)
        else:
            embedding.to("meta").to_empty(device="cpu").load_state_dict(other.state_dict())
            embedding.refresh_positions()
            assert torch.equal(rows_of(embedding), rows_of(other))
    assert not torch.equal(rows_of(embedding), before)
    assert torch.equal(saved_rows(embedding), rows_of(embedding))


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=["plain", "fused", "foreach"])
def test_rows_follow_each_step_of_an_optimizer_in_a_loop_of_ones_own(
    embedding: LightTokenEmbedding, options: dict[str, Any]
):
    optimizer = torch.optim.AdamW(latents_of(embedding).parameters(), 0.1, **options)
    for _ in range(2):
        before = rows_of(embedding)
        embedding(IDS).sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert not torch.equal(rows_of(embedding), before)
            assert torch.equal(rows_of(embedding), saved_rows(embedding))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casts_leave_latents_alone(embedding: LightTokenEmbedding, dtype: torch.dtype):
    step(embedding)
    before = {name: tensor.clone() for name, tensor in latents_of(embedding).state_dict().items()}
    embedding.to(dtype)
    assert embedding(IDS).dtype == dtype
    embedding(IDS).sum().backward()
    embedding.float()
    for name, tensor in latents_of(embedding).state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_train_on_their_own(embedding: LightTokenEmbedding, duplicate: Callable):
    step(embedding)
    twin, before = duplicate(embedding), rows_of(embedding)
    assert torch.equal(rows_of(twin), before)
    step(twin)
    assert torch.equal(rows_of(embedding), before)
    assert not torch.equal(rows_of(twin), before)


class TestStateDict:
    def test_latents_come_back(self, embedding: LightTokenEmbedding, table: CompressedTable):
        step(embedding)
        other = LightTokenEmbedding.from_table(copy.deepcopy(table))
        other.train_parts(TRAINABLE_PARTS)
        assert other.load_state_dict(embedding.state_dict()) == ([], [])
        for name, parameter in embedding.named_parameters():
            assert torch.equal(other.get_parameter(name), parameter), name
        step(embedding, seed=4)
        step(other, seed=4)
        assert torch.equal(rows_of(other), rows_of(embedding))

    def test_without_latents_they_are_those_of_the_stored_bytes(self, embedding: LightTokenEmbedding):
        step(embedding)
        other = random_table(embedding.plan, seed=3)
        state = LightTokenEmbedding.from_table(other).state_dict()
        assert embedding.load_state_dict(state) == ([], [])
        assert embedding.table.digest() == other.digest()
        assert torch.equal(rows_of(embedding), rows_of(LightTokenEmbedding.from_table(other)))

    def test_an_export_of_the_same_run_does_not_round_the_latents(self, embedding: LightTokenEmbedding):
        step(embedding)
        before = latents_of(embedding).get_parameter("decoder").detach().clone()
        state = {key: value for key, value in embedding.state_dict().items() if not key.startswith("latents.")}
        assert embedding.load_state_dict(state) == ([], [])
        assert torch.equal(latents_of(embedding).get_parameter("decoder"), before)

    @pytest.mark.parametrize("stored_first", [True, False])
    def test_shards_in_either_order(self, embedding: LightTokenEmbedding, stored_first: bool):
        other = copy.deepcopy(embedding)
        step(other)
        state = other.state_dict()
        shards = [{k: v for k, v in state.items() if k.startswith("latents.") is latent} for latent in (False, True)]
        for shard in shards if stored_first else reversed(shards):
            embedding.load_state_dict(shard, strict=False)
        for name, parameter in other.named_parameters():
            assert torch.equal(embedding.get_parameter(name), parameter), name

    def test_a_module_that_trains_less_leaves_out_what_it_has_no_use_for(
        self, embedding: LightTokenEmbedding, table: CompressedTable
    ):
        step(embedding)
        for parts in ([], ["row_scales"]):
            other = LightTokenEmbedding.from_table(copy.deepcopy(table))
            other.train_parts(parts)
            assert other.load_state_dict(embedding.state_dict()) == ([], [])
            assert torch.equal(rows_of(other), rows_of(embedding))


def test_added_tokens_train_and_the_rest_goes_on(embedding: LightTokenEmbedding):
    model = ARCHITECTURES["llama"].build()
    step(embedding)
    before = rows_of(embedding)
    latents_of(embedding).get_parameter("decoder").requires_grad_(False)
    resize_owner(model, embedding, 163)
    assert torch.equal(rows_of(embedding), before)
    assert embedding.exact_rows.requires_grad
    assert not latents_of(embedding).get_parameter("decoder").requires_grad
    assert latents_of(embedding).get_parameter("row_scale").requires_grad
    new = embedding(torch.tensor([161]))
    new.sum().backward()
    assert embedding.exact_rows.grad is not None
    assert embedding.exact_rows.grad.abs().sum() == 32


def test_a_model_trains_without_any_call_and_a_frozen_one_does_not():
    model = ARCHITECTURES["llama-tied"].build()
    compress_at_random(model)
    (owner,) = owners(model).values()
    assert {name for name, parameter in owner.named_parameters() if parameter.requires_grad} == {
        *("exact_rows", "latents.decoder", "latents.low_rank_left", "latents.low_rank_right", "latents.row_scale")
    }
    frozen = ARCHITECTURES["llama-tied"].build()
    frozen.model.embed_tokens.weight.requires_grad_(False)
    compress_at_random(frozen)
    assert not any(parameter.requires_grad for parameter in frozen.model.embed_tokens.parameters())


def test_compiled_training_and_evaluation_use_the_present_latents(embedding: LightTokenEmbedding):
    compiled = torch.compile(embedding, fullgraph=True, backend="eager")
    step(embedding)
    rows = compiled(EVERY_ID)
    assert torch.allclose(rows, rows_of(embedding), atol=1e-5)
    (gradient,) = torch.autograd.grad(rows.square().sum(), latents_of(embedding).get_parameter("decoder"))
    (expected,) = torch.autograd.grad(
        embedding(EVERY_ID).square().sum(), latents_of(embedding).get_parameter("decoder")
    )
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)
    step(embedding, seed=1)
    with torch.no_grad():
        assert torch.allclose(compiled(EVERY_ID), rows_of(embedding), atol=1e-5)


def test_a_wish_for_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="trainable must be a list of any of"):
        LightTokenConfig(trainable=["codes"])
