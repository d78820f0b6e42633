"""resize_token_embeddings on compressed models: as on dense ones, with new tokens as exact rows."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken.modeling.head import LightTokenHead, LightTokenView
from transformers_lighttoken.modeling.sites import owners

NAMES = ["bert-mlm", "llama", "llama-tied", "t5", "bart", "bart-scaled", "gpt2", "deberta-v2-mlm", "whisper", "xlnet"]


def compressed(name: str, exact: int = 5, tiers: int = 0) -> Any:
    model = ARCHITECTURES[name].build()
    compress_at_random(model, exact=exact, tiers=tiers)
    return model


def dense_twin(model: Any) -> Any:
    return copy.deepcopy(model).dequantize()


@pytest.mark.parametrize("mean_resizing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_growing_equals_growing_the_dense_model(name: str, mean_resizing: bool, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = compressed(name, tiers=2)
    dense = dense_twin(model)
    keys = [key.split(".")[-1] for key in model.state_dict()]
    old_rows = dense.get_input_embeddings().weight.detach().clone()
    returned = model.resize_token_embeddings(171, mean_resizing=mean_resizing)
    dense.resize_token_embeddings(171, mean_resizing=mean_resizing)
    assert returned is model.get_input_embeddings()
    assert returned.weight.shape == (171, 32)
    assert model.config.get_text_config().vocab_size == 171
    rows = returned.weight[160:].detach()
    if mean_resizing:
        assert torch.allclose(rows, old_rows.mean(dim=0).expand(11, 32), atol=1e-3)
    else:
        dense_rows = dense.get_input_embeddings().weight[160:]
        assert 0.7 < (rows.std() / dense_rows.std()).item() < 1.4
        assert len(rows.unique(dim=0)) == 11
    dense.get_input_embeddings().weight.data[160:] = rows  # the draw may be another
    head, dense_head = model.get_output_embeddings(), dense.get_output_embeddings()
    if head is not None:
        dense_head.load_state_dict(head.state_dict(), strict=False)
    assert torch.allclose(architecture.run(model), architecture.run(dense), atol=1e-4)
    assert [key.split(".")[-1] for key in model.state_dict()] == keys
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(architecture.run(loaded), architecture.run(model), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_shrinking_equals_shrinking_the_dense_model(name: str, tmp_path: Path) -> None:
    model = compressed(name, tiers=2)
    dense = dense_twin(model)
    model.resize_token_embeddings(120)
    dense.resize_token_embeddings(120)
    ids = torch.arange(120)
    assert torch.allclose(model.get_input_embeddings()(ids), dense.get_input_embeddings()(ids), atol=1e-5)
    head, dense_head = model.get_output_embeddings(), dense.get_output_embeddings()
    if head is not None:
        hidden = torch.randn(2, 32)
        assert torch.allclose(head(hidden), dense_head(hidden), atol=1e-5)
    model.save_pretrained(tmp_path)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info


def test_the_plan_in_the_config_follows() -> None:
    model = compressed("llama-tied")
    model.resize_token_embeddings(163)
    plan = model.config.quantization_config.tables["model.embed_tokens"]
    assert (plan["num_embeddings"], plan["num_exact"]) == (163, 8)
    assert model.lm_head.out_features == 163


def test_a_table_without_exact_rows_grows_and_the_new_rows_train() -> None:
    model = compressed("llama-tied", exact=0)
    assert not model.model.embed_tokens.exact_rows.requires_grad
    model.resize_token_embeddings(162)
    rows = model.model.embed_tokens.exact_rows
    assert rows.shape == (2, 32)
    ids = torch.tensor([[5, 160, 7, 161]])
    before = rows.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert (rows - before).abs().min().item() > 0


def test_pad_to_multiple_of() -> None:
    model = compressed("gpt2")
    assert model.resize_token_embeddings(161, pad_to_multiple_of=64).num_embeddings == 192
    assert model.resize_token_embeddings(pad_to_multiple_of=100).num_embeddings == 200
    assert model.resize_token_embeddings().num_embeddings == 200
    assert model.resize_token_embeddings(200).num_embeddings == 200
    assert model.config.vocab_size == 200


def test_views_stay_views_and_the_table_is_stored_once() -> None:
    model = compressed("bart")
    model.resize_token_embeddings(170)
    assert isinstance(model.model.encoder.embed_tokens, LightTokenView)
    assert isinstance(model.model.decoder.embed_tokens, LightTokenView)
    assert isinstance(model.lm_head, LightTokenHead)
    assert list(owners(model)) == ["model.shared"]
    assert sum(key.endswith("exact_rows") for key in model.state_dict()) == 1
    assert model.final_logits_bias.shape == (1, 170)  # what BART's own method does beside


def test_a_padding_index_that_is_cut_off_goes() -> None:
    model = ARCHITECTURES["bert"].build(pad_token_id=159)
    compress_at_random(model)
    assert model.embeddings.word_embeddings.padding_idx == 159
    model.resize_token_embeddings(150)
    assert model.embeddings.word_embeddings.padding_idx is None


def test_the_bias_of_a_tied_head_grows_with_it() -> None:
    model = compressed("bert-mlm")
    bias = model.cls.predictions.bias.detach().clone()
    model.resize_token_embeddings(170)
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    assert model.cls.predictions.bias.shape == (170,)
    assert torch.equal(model.cls.predictions.bias[:160], bias)


def test_the_base_model_can_be_resized() -> None:
    model = compressed("llama-tied")
    model.model.resize_token_embeddings(165)
    assert model.lm_head.out_features == 165
    assert ARCHITECTURES["llama-tied"].run(model).shape[-1] == 165


@pytest.mark.parametrize("size", [0, -5, 10.0, True])
def test_impossible_sizes_are_named(size: Any) -> None:
    model = compressed("llama-tied")
    with pytest.raises(ValueError, match=rf"new_num_tokens must be a positive integer, got {size!r}"):
        model.resize_token_embeddings(size)
    assert model.model.embed_tokens.num_embeddings == 160


@pytest.mark.parametrize(
    ("trainable", "told"), [(["decoder"], True), ([], True), (["exact_rows"], False), (None, False)]
)
def test_new_tokens_that_cannot_learn_are_told_of(
    trainable: list[str] | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = compressed("llama")
    model.hf_quantizer.quantization_config.trainable = trainable
    with caplog.at_level(logging.WARNING, logger="transformers_lighttoken"):
        model.resize_token_embeddings(164)
    assert model.get_input_embeddings().exact_rows.requires_grad != told
    assert ("The 4 new tokens are exact rows, which trainable=" in caplog.text) == told
    caplog.clear()
    model.resize_token_embeddings(160)
    assert "new tokens" not in caplog.text
