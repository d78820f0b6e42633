"""Compressed models with PEFT: adapters on the other layers, heads saved whole, adapters on the table refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.integration.test_training import STEPS, compressed, same, stored, trainer_of
from tests.tiny_models import ARCHITECTURES
from transformers_lighttoken import LightTokenEmbedding

peft: Any = pytest.importorskip("peft", reason="adapters need it")


@pytest.mark.parametrize("name", ["bert-classification", "llama-tied"])
def test_adapters_train_on_other_layers_and_the_table_stays(name: str, tmp_path: Path):
    is_bert = name == "bert-classification"
    config = peft.LoraConfig(
        r=2,
        target_modules=["query"] if is_bert else ["q_proj"],
        modules_to_save=["classifier"] if is_bert else None,
        task_type="SEQ_CLS" if is_bert else "CAUSAL_LM",
    )
    model = compressed(name)
    before = stored(model)
    adapted = peft.get_peft_model(model, config)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora" in key or "classifier" in key for key in trained)
    trainer_of(adapted, tmp_path, "class" if is_bert else "tokens").train()
    assert same(stored(model), before)
    adapted.eval()
    expected = ARCHITECTURES[name].run(adapted)
    again = peft.PeftModel.from_pretrained(compressed(name), tmp_path / f"checkpoint-{STEPS}").eval()
    assert torch.equal(ARCHITECTURES[name].run(again), expected)


def test_an_adapter_on_the_table_is_refused_by_name():
    config = peft.LoraConfig(r=2, target_modules=["word_embeddings"])
    with pytest.raises(ValueError, match=r"(?s)LightTokenEmbedding\(.*\) is not supported"):
        peft.get_peft_model(compressed("bert-classification"), config)


IDS = torch.randint(6, 160, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("ensure_weight_tying", [False, True])
@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
@pytest.mark.filterwarnings("ignore:(Input and output embeddings|You have requested|Model has)")
def test_parts_of_a_tied_table_train_apart_and_come_back(saved: list[str], ensure_weight_tying: bool, tmp_path: Path):
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM",
        ensure_weight_tying=ensure_weight_tying,
    )  # fmt: skip
    model = peft.get_peft_model(compressed("llama-tied"), config)
    before = logits(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for part in saved:
        gradients = [p.grad for name, p in model.named_parameters() if part in name and p.grad is not None]
        assert any(gradient.abs().sum() > 0 for gradient in gradients)
    optimizer.step()
    adapted = logits(model.eval())
    assert not torch.equal(adapted, before)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(compressed("llama-tied"), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), adapted)

    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(loaded.get_input_embeddings()) is LightTokenEmbedding
    assert type(loaded.lm_head) is torch.nn.Linear  # untied, as it is for a dense model
    torch.testing.assert_close(logits(loaded), logits(merged), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(logits(merged), adapted, rtol=1e-6, atol=1e-5)
    dense = merged.dequantize()
    assert type(dense.lm_head) is torch.nn.Linear
    torch.testing.assert_close(logits(dense), adapted, rtol=1e-6, atol=1e-5)


def test_a_view_of_a_table_is_not_trained_apart():
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["decoder.embed_tokens"])
    with pytest.raises(TypeError, match="name the module that owns the table"):
        peft.get_peft_model(compressed("bart"), config)


def test_a_table_that_was_replaced_under_its_views_is_not_saved(tmp_path: Path):
    model = compressed("bart")
    model.model.shared = copy.deepcopy(model.model.shared)
    with pytest.raises(ValueError, match="uses a compressed table that is not in the model any more"):
        model.save_pretrained(tmp_path / "out")
