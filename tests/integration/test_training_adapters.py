"""Compressed models with PEFT: adapters on the other layers, heads saved whole, adapters on the table refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_training import STEPS, compressed, same, stored, trainer_of
from tests.tiny_models import ARCHITECTURES

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
