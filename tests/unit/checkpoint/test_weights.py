"""One safetensors file, shards, and PyTorch's own files."""

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints import read_json, save_dense, tensor_digests
from transformers_lighttoken.checkpoint.weights import convert_weights, read_weights
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError


def save_torch(folder: Path, shards: int) -> dict[str, str]:
    """Saves a model as PyTorch's own files; returns what its tensors are as safetensors."""
    model = save_dense(folder)
    digests = tensor_digests(folder)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return digests
    names = list(state)
    parts = {f"pytorch_model-{n + 1:05}-of-{shards:05}.bin": names[n::shards] for n in range(shards)}
    for file, held in parts.items():
        torch.save({name: state[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return digests


def test_a_single_file_and_shards_hold_the_same(tmp_path: Path) -> None:
    save_dense(tmp_path / "one")
    save_dense(tmp_path / "many", max_shard_size="30KB")
    one, many = read_weights(tmp_path / "one"), read_weights(tmp_path / "many")
    assert one.index is None
    assert many.index == read_json(tmp_path / "many" / "model.safetensors.index.json")
    assert list(one.metadata) == ["model.safetensors"]
    assert len(many.metadata) > 1
    assert one.tensors.keys() == many.tensors.keys()
    assert one.num_bytes == many.num_bytes == sum(tensor.num_bytes for tensor in many.tensors.values())
    assert all(one.tensors[name].same_bytes(many.tensors[name]) for name in one.tensors)
    held = [name for file in many.metadata for name, _ in many.of_file(file)]
    assert sorted(held) == sorted(many.tensors)


@pytest.mark.parametrize("shards", [1, 3])
def test_converted_weights_are_the_same_bytes(tmp_path: Path, shards: int) -> None:
    expected = save_torch(tmp_path / "torch", shards)
    convert_weights(tmp_path / "torch", tmp_path / "converted")
    assert tensor_digests(tmp_path / "converted") == expected
    weights = read_weights(tmp_path / "converted")
    assert all(metadata == {"format": "pt"} for metadata in weights.metadata.values())
    assert len(weights.metadata) == shards


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_dense(tmp_path, max_shard_size="30KB")
    shard = sorted(tmp_path.glob("model-*"))[0]
    shard.unlink()
    with pytest.raises(LightTokenCheckpointError, match=f"names .'{shard.name}'., which are not there"):
        read_weights(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    save_dense(tmp_path / "outside")
    (tmp_path / "model").mkdir()
    index = {"weight_map": {"x": "../outside/model.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LightTokenCheckpointError, match="which are not there"):
        read_weights(tmp_path / "model")


def test_a_tensor_that_only_the_index_knows_is_named(tmp_path: Path) -> None:
    save_dense(tmp_path, max_shard_size="30KB")
    index = read_json(tmp_path / "model.safetensors.index.json")
    index["weight_map"]["ghost.weight"] = next(iter(index["weight_map"].values()))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LightTokenCheckpointError, match="ghost.weight"):
        read_weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LightTokenCheckpointError, match="is no index of shards"):
        read_weights(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("boom",)


@pytest.mark.parametrize("content", [{"x": Bomb()}, {"x": torch.ones(1), "step": 3}, b"no pickle at all"])
def test_a_file_that_is_no_state_dict_is_refused_and_not_run(
    tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(LightTokenCheckpointError, match="state dict"):
        convert_weights(tmp_path, tmp_path / "converted")
    assert "boom" not in capsys.readouterr().out
