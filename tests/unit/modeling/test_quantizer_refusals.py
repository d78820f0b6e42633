"""What is refused when compressed checkpoints are loaded, by name and before memory is taken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertModel

import transformers_lighttoken
from tests.helpers import compress_at_random, stored_tensors_of
from tests.unit.modeling.saved_bert import MLM, SMALL, TABLE, edit_config, edit_plan, edit_tensors, load
from transformers_lighttoken import LightTokenConfig, compression_report
from transformers_lighttoken.checkpoint.decompress import decompress_checkpoint
from transformers_lighttoken.coding.plan import CodingPlan
from transformers_lighttoken.coding.table import digest_of
from transformers_lighttoken.modeling.checkpoint import checkpoint_digest
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError, UnsupportedEmbeddingError
from transformers_lighttoken.modeling.sites import owners


class OtherEmbedding(torch.nn.Embedding):
    """A subclass that LightToken cannot know."""


class BertWithOtherEmbedding(BertModel):
    """Remote code may look like this."""

    def __init__(self, config: transformers.BertConfig) -> None:
        super().__init__(config)
        self.embeddings.word_embeddings = OtherEmbedding(config.vocab_size, config.hidden_size)


@pytest.mark.parametrize("name", ["codes", "decoder_scale", "exact_rows", "tier_index", "tier_2_row_scale_range"])
def test_missing_tensors_are_named(folder: Path, name: str) -> None:
    edit_tensors(folder, **{name: None})
    with pytest.raises(LightTokenCheckpointError, match=name if name != "exact_rows" else TABLE):
        load(folder)


@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}])
def test_mis_shaped_tensors_are_named(folder: Path, options: dict) -> None:
    edit_tensors(folder, codes=torch.zeros(7, dtype=torch.uint8))
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors.*codes is torch.uint8 \(7,\), expected"):
        load(folder, **options)


def test_tensors_of_another_dtype_are_named(folder: Path) -> None:
    edit_tensors(folder, decoder=stored_tensors_of(folder)[f"{TABLE}.decoder"].float())
    with pytest.raises(LightTokenCheckpointError, match=r"decoder is torch.float32"):
        load(folder)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float32}])
def test_a_truncated_file_is_refused(folder: Path, options: dict) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((LightTokenCheckpointError, Exception), match=r"model.safetensors|incomplete|not fully covered"):
        load(folder, **options)


def test_changed_bytes_are_found_by_the_digest(folder: Path) -> None:
    codes = stored_tensors_of(folder)[f"{TABLE}.codes"]
    codes[3] ^= 1
    edit_tensors(folder, codes=codes)
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors are not what was written.*sha256-plan:"):
        load(folder, dtype=torch.bfloat16)


def without(folder: Path, name: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"][name]
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("read", [load, compression_report, lambda folder: decompress_checkpoint(folder, "unused")])
@pytest.mark.parametrize("name", ["format_version", "digest"])
def test_a_checkpoint_that_lacks_what_every_one_has_is_refused(folder: Path, name: str, read: Callable) -> None:
    without(folder, name)
    with pytest.raises(LightTokenCheckpointError, match=f"config.json has .*no {name}"):
        read(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(rotation_seed=1),
        lambda plan: plan.update(stage_bits=plan["stage_bits"][::-1]),
        lambda plan: plan.update(exact_dtype="bfloat16"),
        lambda plan: plan["tiers"][0].update(kind="rotated", code_bits=32, row_scale_bits=4),
    ],
)
def test_a_changed_plan_is_refused(folder: Path, change: Callable) -> None:
    plan = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"][TABLE]
    change(plan)
    edit_plan(folder, **plan)
    message = (
        r"do not match the coding plan|in config.json and model.safetensors are not what was written.*sha256-plan:"
    )
    for read in (load, compression_report):
        with pytest.raises(LightTokenCheckpointError, match=message):
            read(folder)


def test_a_digest_of_the_tensors_alone_is_still_read(folder: Path) -> None:
    stored = {key: tensor for key, tensor in stored_tensors_of(folder).items() if key.startswith(f"{TABLE}.")}
    digest = digest_of({key: tensor for key, tensor in stored.items() if key != f"{TABLE}.weight"})
    edit_config(folder, digest=digest)
    assert compression_report(folder).digest == digest
    model = load(folder)
    model.save_pretrained(folder)
    assert str(compression_report(folder).digest).startswith("sha256-plan:")
    edit_config(folder, digest="sha256:0")
    with pytest.raises(LightTokenCheckpointError, match=r"model.safetensors are not what was written"):
        load(folder)


def test_a_model_compressed_in_memory_has_no_digest_until_it_is_saved(tmp_path: Path) -> None:
    model = MLM.build()
    compress_at_random(model)
    config = model.config.quantization_config
    assert config.digest is None
    described = transformers.BertConfig.from_dict(model.config.to_dict())
    copied = transformers.BertForMaskedLM.from_pretrained(None, config=described, state_dict=model.state_dict())
    assert torch.equal(MLM.run(copied), MLM.run(model))
    in_memory = compression_report(model).digest
    model.save_pretrained(tmp_path)
    assert compression_report(tmp_path).digest == in_memory == config.digest


def test_a_damaged_tier_index_is_refused_even_where_the_digest_is_right(folder: Path) -> None:
    index = stored_tensors_of(folder)[f"{TABLE}.tier_index"]
    index[0] = 9
    edit_tensors(folder, tier_index=index)
    tables = json.loads((folder / "config.json").read_text())["quantization_config"]["tables"]
    names = [f"{TABLE}.{name}" for name in CodingPlan.from_dict(tables[TABLE]).tensor_specs()]
    stored = stored_tensors_of(folder)
    edit_config(folder, digest=checkpoint_digest({name: stored[name] for name in names}, tables))
    with pytest.raises(LightTokenCheckpointError, match="tier_index has no valid record"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_embeddings": 10**12}, r"1000000000000 x 32.*|num_embeddings"),
        ({"embedding_dim": 64}, "."),
        ({"stage_bits": [10**11]}, "code bits must be at most 1024"),
        ({"rank": 10**9}, r"rank must be in \[0, 31\]"),
        ({"index_bytes": 10**13}, "index_bytes must be at most"),
        ({"stage_bits": None}, "is damaged"),
        ({"tiers": [{"coverage": 5}]}, "is damaged"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_absurd_plans_are_refused_before_memory_is_taken(folder: Path, fields: dict, message: str) -> None:
    edit_plan(folder, **fields)
    with pytest.raises(LightTokenCheckpointError, match=message):
        load(folder)


def test_a_table_of_another_size_than_the_model_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 170}))
    with pytest.raises(LightTokenCheckpointError, match=r"160 x 32, but the model's .* is \(170, 32\) \(vocab_size"):
        load(folder)


def test_a_newer_format_says_what_to_install(folder: Path) -> None:
    edit_config(folder, format_version=2, plugin_version="9.1.0", something_new=1)
    with pytest.raises(ValueError, match=r"format_version 2; .*pip install -U \"transformers-lighttoken>=9.1.0\""):
        load(folder)


def test_a_config_without_tables_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]["tables"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LightTokenCheckpointError, match="names no `tables`"):
        load(folder)


def test_a_table_that_no_file_holds_is_named(dense: Path, folder: Path) -> None:
    shutil.copy(dense / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(LightTokenCheckpointError, match=rf"table '{TABLE}', but model.safetensors holds none"):
        load(folder)


def test_a_state_dict_that_lacks_a_tensor_is_refused(saved: Path) -> None:
    state = load(saved).state_dict()
    del state[f"{TABLE}.decoder"]
    config = transformers.BertConfig.from_pretrained(saved)
    with pytest.raises(LightTokenCheckpointError, match=rf"\['{TABLE}.decoder'\]"):
        transformers.BertForMaskedLM.from_pretrained(None, config=config, state_dict=state)


def test_a_wish_on_a_compressed_checkpoint_yields_to_it(saved: Path) -> None:
    with pytest.warns(UserWarning, match="quantization_config"):
        model = load(saved, quantization_config=LightTokenConfig(compression_ratio=3))
    assert owners(model)[TABLE].plan == owners(load(saved))[TABLE].plan


def test_a_source_quantized_otherwise_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="LightTokenConfig"):
        load(folder, quantization_config=SMALL)


def test_a_used_config_for_a_dense_source_is_refused(saved: Path, dense: Path) -> None:
    used = load(saved).config.quantization_config
    with pytest.raises(ValueError, match="describes a compressed checkpoint"):
        load(dense, quantization_config=used)


def test_on_the_fly_refuses_before_loading(dense: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(dense, tmp_path / "dense"))
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnsupportedEmbeddingError, match=r"\(OtherEmbedding\)"):
        BertWithOtherEmbedding.from_pretrained(folder, quantization_config=SMALL, dtype=torch.float32)


def test_a_tokenizer_of_another_model_is_refused(dense: Path) -> None:
    tokenizer = transformers.BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "hello": 2})
    with pytest.raises(ValueError, match=r"the tokenizer has \d tokens, the table 160 rows"):
        transformers_lighttoken.compress_model(load(dense), SMALL, tokenizer=tokenizer)
