"""Compressed models as a whole: copied, cast, counted, freed, and dequantized."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.helpers import compress_at_random
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.config import TiePolicy

SMALL = LightTokenConfig(rank=1, code_bits=8)


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
