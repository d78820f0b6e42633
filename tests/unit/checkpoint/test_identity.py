"""Which files make one checkpoint another."""

import ast
import json
from pathlib import Path

import pytest
import transformers
from transformers import AutoModel

from tests.checkpoints import add_tokenizer, save_dense
from transformers_lighttoken.checkpoint.identity import checkpoint_identity, tokenizer_files
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError

INDEX = "model.safetensors.index.json"
NO_TOKENIZER = [
    "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "README.md", "LICENSE",
    "1_Pooling/vocab.json", "tokenizer_of_speech/config.json", "notes.txt", "chat_template.jinja", "modules.json",
]  # fmt: skip


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_dense(tmp_path / "single")
    add_tokenizer(tmp_path / "single")
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_dense(tmp_path / "sharded", max_shard_size="20KB")
    add_tokenizer(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) >= 2
    return tmp_path / "sharded"


def names_in_transformers() -> set[str]:
    """The values of every `vocab_files_names` in the tokenizers of the installed transformers."""
    found = set()
    for path in (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id
            if named and named.lower() == "vocab_files_names" and isinstance(node.value, ast.Dict):  # pyright: ignore
                values = node.value.values  # pyright: ignore
                found |= {str(value.value) for value in values if isinstance(value, ast.Constant)}
    return found


def test_every_file_of_transformers_tokenizers_counts():
    names = names_in_transformers()
    assert names >= {"source.spm", "target.spm", "bpe.codes", "sentencepiece.bpe.model", "vocab.txt", "dict.txt"}
    assert sorted(names - set(tokenizer_files(names))) == []


def test_files_of_earlier_versions_and_of_own_code_count():
    names = ["vocab.bpe", "encoder_vocab.json", "qwen.tiktoken", "tekken.json", "special_tokens_map.json", "spm.model"]
    assert tokenizer_files(names) == names
    assert tokenizer_files(NO_TOKENIZER) == []


@pytest.mark.parametrize("name", ["source.spm", "bpe.codes", "vocab.bpe", "sentencepiece.bpe.model"])
def test_another_tokenizer_is_another_checkpoint(single: Path, name: str):
    (single / name).write_bytes(b"one")
    before = checkpoint_identity(single)
    (single / name).write_bytes(b"two")
    assert checkpoint_identity(single) != before


def test_shards_that_the_index_does_not_name_are_not_loaded_and_do_not_count(sharded: Path):
    before = checkpoint_identity(sharded)
    (sharded / "model-00001-of-00099.safetensors").write_bytes(b"stale")
    assert AutoModel.from_pretrained(sharded) is not None
    assert checkpoint_identity(sharded) == before
    shard = next(iter(json.loads((sharded / INDEX).read_text())["weight_map"].values()))
    (sharded / shard).write_bytes((sharded / shard).read_bytes() + b" ")
    assert checkpoint_identity(sharded) != before


def test_one_file_goes_before_the_index_as_in_transformers(single: Path, sharded: Path):
    before = checkpoint_identity(single)
    for path in sharded.glob("model*"):
        (single / path.name).write_bytes(path.read_bytes())
    (single / "pytorch_model.bin").write_bytes(b"other form")
    assert checkpoint_identity(single) == before
    (single / next(sharded.glob("model-*")).name).write_bytes(b"no safetensors: whoever reads it fails")
    assert AutoModel.from_pretrained(single) is not None


def test_weights_of_pytorch_count_where_they_are_what_loads(single: Path):
    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(b"one")
    before = checkpoint_identity(single)
    (single / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    (single / "model.fp16.safetensors").write_bytes(b"a variant")
    assert checkpoint_identity(single) == before
    (single / "pytorch_model.bin").unlink()
    (single / "pytorch_model-00001-of-00001.bin").write_bytes(b"one")
    shards = checkpoint_identity(single)
    (single / "pytorch_model-00001-of-00001.bin").write_bytes(b"two")
    assert len({before, shards, checkpoint_identity(single)}) == 3


def test_damaged_index_is_named(sharded: Path):
    (sharded / INDEX).write_text("{}")
    with pytest.raises(LightTokenCheckpointError, match=f"{INDEX} is no index of shards: .* Download it again."):
        checkpoint_identity(sharded)
