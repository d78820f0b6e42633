"""Finding tables and what shares them, swapping them, and marking the model."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig, LightTokenEmbedding, compress_model
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
