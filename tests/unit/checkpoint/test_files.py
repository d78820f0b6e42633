"""Which files come along with the weights."""

import pytest

from transformers_lighttoken.checkpoint.files import files_beside_weights

CARRIED = [
    "README.md",
    "LICENSE",
    ".gitattributes",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "additional_chat_templates/tool.jinja",
    "preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "adapter_model.safetensors",
    "speech_tokenizer/model.safetensors",
]
LEFT_BEHIND = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json.bin",
    "consolidated.safetensors",
    "consolidated.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-00001-of-00002.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
    "rust_model.ot",
    "model.onnx",
    "model.onnx_data",
    "model-q4.gguf",
    "openvino_model.xml",
    "training_args.bin",
    "optimizer.pt",
    "rng_state.pth",
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.xml",
    "coreml/float32_model.mlpackage/Data/weights.bin",
    "original/consolidated.00.pth",
    "checkpoint-500/model.safetensors",
    "checkpoint-500/trainer_state.json",
    ".git/config",
    ".cache/huggingface/download/config.json.metadata",
]


@pytest.mark.parametrize("name", CARRIED)
def test_comes_along(name: str) -> None:
    assert files_beside_weights([name]) == [name]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_is_left_behind(name: str) -> None:
    assert files_beside_weights([name]) == []


def test_a_module_of_sentence_transformers_keeps_its_only_weights() -> None:
    assert files_beside_weights(["2_Dense/pytorch_model.bin"]) == ["2_Dense/pytorch_model.bin"]
    both = ["2_Dense/pytorch_model.bin", "2_Dense/model.safetensors"]
    assert files_beside_weights(both) == ["2_Dense/model.safetensors"]


def test_order_is_kept() -> None:
    names = ["vocab.txt", "model.safetensors", "LICENSE", "pytorch_model.bin", "README.md"]
    assert files_beside_weights(names) == ["vocab.txt", "LICENSE", "README.md"]
