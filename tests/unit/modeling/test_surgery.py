"""Finding tables and what shares them, swapping them, and marking the model."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel

from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig, LightTokenEmbedding, compress_model
from transformers_lighttoken.config import TiePolicy
from transformers_lighttoken.modeling.errors import UnsupportedEmbeddingError
from transformers_lighttoken.modeling.fitting import sites_to_compress
from transformers_lighttoken.modeling.head import LightTokenHead, LightTokenView
from transformers_lighttoken.modeling.sites import TableSite, find_sites, owners

SMALL = LightTokenConfig(rank=1, code_bits=8)


class CustomEmbedding(nn.Embedding):
    """A subclass that LightToken cannot know."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", TableSite("embeddings.word_embeddings")),
        ("bert-mlm", TableSite("bert.embeddings.word_embeddings", (), ("cls.predictions.decoder",))),
        ("bert-classification", TableSite("bert.embeddings.word_embeddings")),
        ("t5", TableSite("shared", ("encoder.embed_tokens", "decoder.embed_tokens"), ("lm_head",))),
        ("bart", TableSite("model.shared", ("model.decoder.embed_tokens", "model.encoder.embed_tokens"), ("lm_head",))),
        ("llama", TableSite("model.embed_tokens")),
        ("llama-tied", TableSite("model.embed_tokens", (), ("lm_head",))),
        ("clip", TableSite("text_model.embeddings.token_embedding")),
        ("whisper", TableSite("model.decoder.embed_tokens", (), ("proj_out",))),
    ],
)
def test_sites_with_and_without_weights(name: str, expected: TableSite) -> None:
    model = ARCHITECTURES[name].build()
    for found in (find_sites(model), find_sites(model.to("meta"))):
        assert [(site.owner, sorted(site.views), site.heads) for site in found] == [
            (expected.owner, sorted(expected.views), expected.heads)
        ]


def test_a_model_without_tokens_is_refused() -> None:
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32
        )
    )
    with pytest.raises(ValueError, match="CLIPVisionModel has no token-embedding table to compress"):
        compress_model(vision, SMALL)


def test_modules_to_not_convert_leaves_the_table_dense() -> None:
    model = ARCHITECTURES["bert-mlm"].build()
    for excluded in ("word_embeddings", "bert.embeddings", "bert.embeddings.word_embeddings"):
        assert find_sites(model, [excluded]) == []
        with pytest.raises(ValueError, match=rf"modules_to_not_convert=\['{excluded}'\]"):
            compress_model(model, LightTokenConfig(modules_to_not_convert=[excluded]))
    assert len(find_sites(model, ["decoder"])) == 1
    for misspelt in ("word", "embeddings.word", "word_embedding"):
        with pytest.raises(ValueError, match=f"names '{misspelt}', which no module of the model is called"):
            find_sites(model, [misspelt])


def test_unknown_embedding_classes_are_refused_before_anything_changes() -> None:
    model = ARCHITECTURES["bert"].build()
    model.embeddings.word_embeddings = CustomEmbedding(160, 32)
    with pytest.raises(UnsupportedEmbeddingError, match=r"'embeddings.word_embeddings' \(CustomEmbedding\)"):
        compress_model(model, SMALL)
    assert not owners(model)


class ScaledHead(nn.Linear):
    """A head whose own code reads its weight."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight) * 0.5


def test_a_tied_module_of_another_class_reads_the_compressed_weight(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["llama-tied"]
    model = architecture.build()
    model.lm_head = ScaledHead(32, 160, bias=False)
    model.tie_weights()
    compress_at_random(model)
    assert not list(model.lm_head.parameters())
    expected = architecture.run(model)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert twin.lm_head.weight.owner is twin.model.embed_tokens
    assert torch.equal(architecture.run(twin), expected)
    assert [key for key in model.state_dict() if key.startswith("lm_head")] == []
    model.dequantize()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.allclose(architecture.run(model), expected, atol=1e-5)
    model.save_pretrained(tmp_path)


def test_tie_policy_dense_leaves_the_head_as_it_is() -> None:
    architecture = ARCHITECTURES["t5"]
    model = architecture.build()
    head = model.lm_head.weight.detach().clone()
    compress_at_random(model, tie_policy="dense")
    assert isinstance(model.lm_head, nn.Linear)
    assert isinstance(model.encoder.embed_tokens, LightTokenView)
    assert torch.equal(model.lm_head.weight, head)
    model.tie_weights()
    assert torch.equal(model.lm_head.weight, head)


def test_tie_policy_dense_survives_saving_and_dequantizing(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["bert-mlm"]
    model = architecture.build()
    compress_at_random(model, tie_policy="dense")
    expected = architecture.run(model)
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert isinstance(loaded.cls.predictions.decoder, nn.Linear)
    assert torch.allclose(architecture.run(loaded), expected, atol=1e-5)
    loaded.dequantize()
    assert torch.allclose(architecture.run(loaded), expected, atol=1e-5)
    assert "cls.predictions.decoder.weight" not in loaded.all_tied_weights_keys


def test_tie_policy_error_refuses_and_names_the_head() -> None:
    model = ARCHITECTURES["llama-tied"].build()
    with pytest.raises(ValueError, match=r"'lm_head' shares the table 'model.embed_tokens'"):
        compress_model(model, LightTokenConfig(tie_policy="error"))
    assert not owners(model)
    untied = LightTokenConfig(tie_policy="error")
    assert sites_to_compress(ARCHITECTURES["llama"].build(), untied) == [TableSite("model.embed_tokens")]


def test_an_embedding_module_used_in_several_places_becomes_views() -> None:
    model = ARCHITECTURES["t5"].build()
    model.set_input_embeddings(model.shared)  # T5 then has one module in three places
    assert model.encoder.embed_tokens is model.shared
    expected = ARCHITECTURES["t5"].run(model).shape
    compress_at_random(model)
    assert isinstance(model.shared, LightTokenEmbedding)
    assert isinstance(model.encoder.embed_tokens, LightTokenView)
    assert ARCHITECTURES["t5"].run(model).shape == expected


@pytest.mark.parametrize("architecture", ["bert", "llama-tied", "t5"])
def test_a_compressed_table_is_not_replaced_by_a_dense_one(architecture: str) -> None:
    """Heads would go on using the table, and the config naming it: what is saved could not be loaded."""
    model = ARCHITECTURES[architecture].build()
    compress_at_random(model)
    table = model.get_input_embeddings()
    with pytest.raises(ValueError, match=r"compressed table, which Embedding cannot replace.*dequantize\(\)"):
        model.set_input_embeddings(nn.Embedding(7, 32))
    assert model.get_input_embeddings() is table
    model.set_input_embeddings(table)
    model.dequantize()
    replacement = nn.Embedding(7, 32)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement


def test_compress_model_fits_and_marks_the_model() -> None:
    architecture = ARCHITECTURES["bert-mlm"]
    model = architecture.build()
    weight = model.bert.embeddings.word_embeddings.weight.detach().clone()
    config = LightTokenConfig(rank=4, code_bits=40)
    assert compress_model(model, config) is model
    table = model.bert.embeddings.word_embeddings.table
    assert (table.plan.rank, table.plan.code_bits) == (4, 40)
    assert float((table.decode_all() - weight).norm() / weight.norm()) < 0.6
    assert isinstance(model.cls.predictions.decoder, LightTokenHead)
    assert model.is_quantized
    assert model.quantization_method == "lighttoken"
    assert model.config.quantization_config.tables == {"bert.embeddings.word_embeddings": table.plan.to_dict()}
    assert not config.is_compressed  # the caller's config is a wish still, good for another model


def test_compressing_twice_is_refused() -> None:
    model = ARCHITECTURES["bert"].build()
    compress_at_random(model)
    with pytest.raises(ValueError, match=r"compressed with LightToken already: call model.dequantize\(\) first"):
        compress_model(model, SMALL)


def test_a_model_quantized_by_another_method_is_refused() -> None:
    model = ARCHITECTURES["bert"].build()
    model.is_quantized = True
    with pytest.raises(ValueError, match="the model is quantized already"):
        compress_model(model, SMALL)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="model must be a transformers PreTrainedModel, got Embedding"):
        compress_model(nn.Embedding(9, 4), SMALL)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="config must be a LightTokenConfig, got dict"):
        compress_model(ARCHITECTURES["bert"].build(), {"rank": 3})  # pyright: ignore[reportArgumentType]
    used = LightTokenConfig(tables={"embeddings": {}})
    with pytest.raises(ValueError, match="describes a compressed checkpoint"):
        compress_model(ARCHITECTURES["bert"].build(), used)


def test_a_request_that_cannot_be_met_changes_nothing() -> None:
    model = ARCHITECTURES["bert-mlm"].build()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="rank"):
        compress_model(model, LightTokenConfig(rank=32, code_bits=8))
    assert list(model.state_dict()) == before
    assert not getattr(model, "is_quantized", False)
    assert getattr(model.config, "quantization_config", None) is None


@pytest.fixture(name="tied")
def _tied() -> Any:
    model = ARCHITECTURES["bart-scaled"].build()
    compress_at_random(model, tiers=2)
    return model


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_share_among_themselves_only(tied: Any, duplicate: Any, tmp_path: Path) -> None:
    architecture = ARCHITECTURES["bart-scaled"]
    twin = duplicate(tied)
    assert twin.encoder.embed_tokens.owner is twin.shared
    assert twin.shared is not tied.shared
    assert torch.equal(architecture.run(twin), architecture.run(tied))
    twin.resize_token_embeddings(170)
    assert tied.shared.num_embeddings == 160
    twin.save_pretrained(tmp_path)
    loaded = type(twin).from_pretrained(tmp_path)
    assert loaded.shared.num_embeddings == 170


def test_the_class_keeps_its_name_and_place(tied: Any) -> None:
    model_class = type(ARCHITECTURES["bart-scaled"].build())
    assert isinstance(tied, model_class)
    assert type(tied).__name__ == model_class.__name__ == "BartModel"
    assert type(tied).__module__ == model_class.__module__
    tied.dequantize()
    assert type(tied) is model_class


def test_a_dropped_model_is_freed_at_once() -> None:
    model = ARCHITECTURES["llama-tied"].build()
    compress_at_random(model)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(model.model.embed_tokens)
        del model
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float"])
def test_casting_methods_work_and_spare_the_codes(cast: str) -> None:
    model = ARCHITECTURES["gpt2"].build()
    compress_at_random(model)
    codes = model.transformer.wte.codes.clone()
    assert getattr(model, cast)() is model
    assert model.transformer.wte.exact_rows.dtype == model.dtype
    assert torch.equal(model.transformer.wte.codes, codes)
    assert ARCHITECTURES["gpt2"].run(model).isfinite().all()


def test_memory_footprint_counts_the_codes_once() -> None:
    dense = ARCHITECTURES["llama-tied"].build()
    compressed = copy.deepcopy(dense)
    (table,) = compress_at_random(compressed).values()
    compressed.model.embed_tokens.train_parts([])
    difference = dense.get_memory_footprint() - compressed.get_memory_footprint()
    assert difference == table.plan.dense_bytes - table.plan.stored_bytes - 4 * table.plan.num_embeddings


def test_dequantizing_to_another_dtype_takes_the_whole_model_along() -> None:
    model = ARCHITECTURES["bert-mlm"].build()
    compress_at_random(model)
    model.dequantize(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_bert_config_stays_usable_for_a_dense_model() -> None:
    model = ARCHITECTURES["bert"].build()
    compress_at_random(model)
    model.dequantize()
    assert isinstance(model.config, BertConfig)
    assert BertModel(model.config).embeddings.word_embeddings.weight.shape == (160, 32)


@pytest.mark.parametrize("policy", ["dense", "share"])
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "bert-mlm", "t5", "bart"])
def test_a_dequantized_model_saves_and_loads_as_it_is(name: str, policy: TiePolicy, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    compress_at_random(model, tie_policy=policy)
    model.dequantize()
    # Without a head's tie these models have none left; the others need the setting for their further ties.
    assert model.config.tie_word_embeddings == (policy == "share" or name not in ("llama-tied", "gpt2"))
    expected = architecture.run(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(architecture.run(again), expected)
    assert again.all_tied_weights_keys == model.all_tied_weights_keys
    if not model.config.tie_word_embeddings:
        again.tie_weights()
        assert torch.equal(architecture.run(again), expected)
