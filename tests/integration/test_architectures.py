"""Every supported architecture computes with a compressed table what it computes with the decoded one."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.helpers import compress_at_random, stored_tensors_of
from tests.tiny_models import ARCHITECTURES, Architecture
from transformers_lighttoken.modeling.head import LightTokenHead
from transformers_lighttoken.modeling.sites import owners

TOLERANCE = 1e-5
SAME_WEIGHTS = 1e-6  # products may round otherwise where weights lie elsewhere in memory


@pytest.fixture(params=ARCHITECTURES, name="architecture")
def _architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def quantization_config_in(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("tiers", [0, 3])
def test_output_is_that_of_the_dense_model_holding_the_decoded_table(architecture: Architecture, tiers: int) -> None:
    dense = architecture.build()
    compressed = copy.deepcopy(dense)
    original = architecture.run(dense)
    tables = compress_at_random(compressed, tiers=tiers)
    for name, table in tables.items():
        dense.get_submodule(name).weight.data.copy_(table.decode_all())
    expected = architecture.run(dense)
    assert relative_error(expected, original) > 100 * TOLERANCE  # the table matters
    assert relative_error(architecture.run(compressed), expected) < TOLERANCE


def test_tied_heads_share_the_table_and_nothing_dense_is_left(architecture: Architecture) -> None:
    model = architecture.build()
    table = next(iter(compress_at_random(model).values()))
    heads = [module for module in model.modules() if isinstance(module, LightTokenHead)]
    reads_weight_itself = "Deberta" in architecture.model and not architecture.fields.get("legacy", True)
    assert bool(heads) == (architecture.tied and not reads_weight_itself)
    untied_head = architecture is ARCHITECTURES["llama"]
    dense = [name for name, parameter in model.named_parameters() if tuple(parameter.shape) == table.shape]
    assert dense == (["lm_head.weight"] if untied_head else [])
    assert len(owners(model)) == 1


def test_save_and_load_are_exact_twice(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.build()
    compress_at_random(model, tiers=2)
    expected = architecture.run(model)
    model.save_pretrained(tmp_path / "first")
    loaded, info = type(model).from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not any(info.values()), info
    saved = model.state_dict()
    assert list(loaded.state_dict()) == list(saved)
    assert all(torch.equal(tensor, saved[key]) for key, tensor in loaded.state_dict().items())
    assert relative_error(architecture.run(loaded), expected) < SAME_WEIGHTS
    loaded.save_pretrained(tmp_path / "second")
    first, second = tmp_path / "first", tmp_path / "second"
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert quantization_config_in(second) == quantization_config_in(first)


def test_file_holds_the_plan_and_an_empty_sentinel_per_table(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.build()
    ((name, table),) = compress_at_random(model).items()
    dense_keys = set(architecture.build().state_dict())
    model.save_pretrained(tmp_path)
    stored = stored_tensors_of(tmp_path)
    sentinels = [key for key, tensor in stored.items() if tensor.numel() == 0 and key.endswith(".weight")]
    assert len(sentinels) == 1
    prefix = sentinels[0].removesuffix(".weight")
    ours = {key.removeprefix(f"{prefix}."): tensor for key, tensor in stored.items() if key.startswith(f"{prefix}.")}
    assert set(ours) == {*table.tensors, "weight"}
    assert all(torch.equal(ours[key], tensor) for key, tensor in table.tensors.items())
    assert sum(tensor.nbytes for tensor in ours.values()) == table.plan.stored_bytes
    others = {key for key in stored if not key.startswith(f"{prefix}.")}
    assert len(others) < len(dense_keys)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert name in model.config.quantization_config.tables


def test_dequantized_model_is_ordinary_and_computes_the_same(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.build()
    compress_at_random(model)
    expected = architecture.run(model)
    model.dequantize()
    assert relative_error(architecture.run(model), expected) < TOLERANCE
    fresh = architecture.build()
    assert {name: type(m) for name, m in model.named_modules()} == {n: type(m) for n, m in fresh.named_modules()}
    assert model.all_tied_weights_keys == fresh.all_tied_weights_keys
    assert type(model) is type(fresh)
    model.save_pretrained(tmp_path)
    fresh.save_pretrained(tmp_path / "fresh")
    shapes = {key: tensor.shape for key, tensor in stored_tensors_of(tmp_path).items()}
    assert shapes == {key: tensor.shape for key, tensor in stored_tensors_of(tmp_path / "fresh").items()}
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert relative_error(architecture.run(loaded), architecture.run(model)) < SAME_WEIGHTS
