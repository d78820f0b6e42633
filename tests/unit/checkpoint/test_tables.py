"""Finding the tables among a checkpoint's tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import SMALL, read_json, save_dense, write_config
from tests.tiny_models import ARCHITECTURES, VOCAB
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.source import SourceError
from transformers_lighttoken.checkpoint.tables import TableSource, build_skeleton, find_tables
from transformers_lighttoken.checkpoint.weights import read_weights

# Names of the table in the module tree, as each architecture's own files have them too.
OWNERS = {
    "bert": "embeddings.word_embeddings",
    "bert-mlm": "bert.embeddings.word_embeddings",
    "gpt2": "transformer.wte",
    "llama": "model.embed_tokens",
    "t5": "shared",
    "whisper": "model.decoder.embed_tokens",
    "clip": "text_model.embeddings.token_embedding",
}


def tables_in(folder: Path, config: LightTokenConfig = SMALL) -> list[TableSource]:
    return find_tables(build_skeleton(folder), read_weights(folder), config)


def rewrite(folder: Path, change: dict[str, str | torch.Tensor | None]) -> None:
    """Adds tensors, copies others (a name as value), or removes them (None)."""
    state = load_file(folder / "model.safetensors")
    for name, value in change.items():
        if value is None:
            del state[name]
        else:
            state[name] = state[value].clone() if isinstance(value, str) else value
    save_file(state, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("architecture", OWNERS)
def test_the_table_is_found_without_weights_in_memory(tmp_path: Path, architecture: str) -> None:
    model = save_dense(tmp_path, architecture)
    skeleton = build_skeleton(tmp_path)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    (table,) = tables_in(tmp_path)
    assert table.site.owner == table.prefix == OWNERS[architecture]
    assert table.keys == (f"{OWNERS[architecture]}.weight",)
    assert torch.equal(table.weight.load(), model.get_parameter(f"{OWNERS[architecture]}.weight"))
    assert table.dense_heads == {}


def test_files_of_the_base_model_have_no_prefix(tmp_path: Path) -> None:
    save_dense(tmp_path, "gpt2")
    state = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (table,) = tables_in(tmp_path)
    assert (table.site.owner, table.prefix, table.keys) == ("transformer.wte", "wte", ("wte.weight",))


def test_an_architecture_that_transformers_does_not_know_is_read_as_its_base_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_dense(tmp_path, "bert-mlm")
    write_config(tmp_path, architectures=["BertForSomethingOfMine"])
    (table,) = tables_in(tmp_path)
    assert (table.site.owner, table.prefix) == ("embeddings.word_embeddings", "bert.embeddings.word_embeddings")
    assert "['BertForSomethingOfMine'], no class of transformers: read as BertModel." in caplog.text


def test_tied_weights_that_are_stored_again_go_too(tmp_path: Path) -> None:
    save_dense(tmp_path, "t5")
    rewrite(tmp_path, {"lm_head.weight": "shared.weight", "encoder.embed_tokens.weight": "shared.weight"})
    (table,) = tables_in(tmp_path)
    assert set(table.keys) == {"shared.weight", "lm_head.weight", "encoder.embed_tokens.weight"}
    assert table.site.heads == ("lm_head",)
    (dense,) = tables_in(tmp_path, LightTokenConfig(code_bits=8, tie_policy="dense"))
    assert set(dense.keys) == {"shared.weight", "encoder.embed_tokens.weight"}
    assert [head.key for head in dense.dense_heads.values()] == ["lm_head.weight"]
    assert dense.site.heads == ()


def test_only_the_tied_head_is_stored(tmp_path: Path) -> None:
    save_dense(tmp_path, "llama-tied")
    rewrite(tmp_path, {"lm_head.weight": "model.embed_tokens.weight", "model.embed_tokens.weight": None})
    (table,) = tables_in(tmp_path)
    assert (table.prefix, table.keys) == ("model.embed_tokens", ("lm_head.weight",))
    (dense,) = tables_in(tmp_path, LightTokenConfig(code_bits=8, tie_policy="dense"))
    assert dense.keys == ()
    assert list(dense.dense_heads) == ["lm_head.weight"]


def test_a_dense_head_that_is_not_stored_is_the_table(tmp_path: Path) -> None:
    save_dense(tmp_path, "bert-mlm")
    (table,) = tables_in(tmp_path, LightTokenConfig(code_bits=8, tie_policy="dense"))
    assert table.dense_heads == {"cls.predictions.decoder.weight": table.weight}


def test_a_head_that_is_declared_tied_but_stored_differently_is_its_own(tmp_path: Path) -> None:
    save_dense(tmp_path, "llama-tied")
    rewrite(tmp_path, {"lm_head.weight": torch.randn(VOCAB, 32)})
    for policy in ("share", "dense", "error"):
        (table,) = tables_in(tmp_path, LightTokenConfig(code_bits=8, tie_policy=policy))
        assert (table.site.heads, table.dense_heads) == ((), {})
        assert table.keys == ("model.embed_tokens.weight",)


def test_an_embedding_that_is_declared_tied_but_stored_differently_is_refused(tmp_path: Path) -> None:
    save_dense(tmp_path, "t5")
    rewrite(tmp_path, {"encoder.embed_tokens.weight": torch.randn(VOCAB, 32)})
    with pytest.raises(SourceError, match=r"'encoder.embed_tokens' and 'shared' as tied.*modules_to_not_convert"):
        tables_in(tmp_path)


def test_tied_heads_are_refused_by_the_policy_error(tmp_path: Path) -> None:
    save_dense(tmp_path, "llama-tied")
    with pytest.raises(ValueError, match="'lm_head' shares the table"):
        tables_in(tmp_path, LightTokenConfig(code_bits=8, tie_policy="error"))


def test_a_table_that_config_json_makes_otherwise_is_refused(tmp_path: Path) -> None:
    save_dense(tmp_path)
    write_config(tmp_path, vocab_size=VOCAB + 1)
    with pytest.raises(SourceError, match=r"as \(160, 32\), but config.json makes it \(161, 32\)"):
        tables_in(tmp_path)


def test_a_table_of_integers_is_refused(tmp_path: Path) -> None:
    save_dense(tmp_path)
    rewrite(tmp_path, {"embeddings.word_embeddings.weight": torch.zeros(VOCAB, 32, dtype=torch.int8)})
    with pytest.raises(SourceError, match="as I8: LightToken compresses tables in float32"):
        tables_in(tmp_path)


def test_a_missing_table_and_a_left_out_one_are_named(tmp_path: Path) -> None:
    save_dense(tmp_path)
    with pytest.raises(SourceError, match=r"no token-embedding table .* modules_to_not_convert=\['word_embeddings'\]"):
        tables_in(tmp_path, LightTokenConfig(code_bits=8, modules_to_not_convert=["word_embeddings"]))
    rewrite(tmp_path, {"embeddings.word_embeddings.weight": None})
    with pytest.raises(SourceError, match=r"hold no tensor 'embeddings.word_embeddings.weight', which BertModel needs"):
        tables_in(tmp_path)


@pytest.mark.parametrize("architecture", ["gpt2", "bert-mlm", "t5"])
def test_a_tied_head_is_not_overlooked_where_no_class_is_named(tmp_path: Path, architecture: str) -> None:
    save_dense(tmp_path, architecture)
    write_config(tmp_path, architectures=None)
    with pytest.raises(SourceError, match=r'names no architecture.*head shares.*put the model\'s class.*"GPT2LMHeadMo'):
        tables_in(tmp_path)


@pytest.mark.parametrize("architecture", ["bert", "clip"])
def test_a_base_model_needs_no_class_named(tmp_path: Path, architecture: str) -> None:
    save_dense(tmp_path, architecture)
    write_config(tmp_path, architectures=None)
    assert [table.site.heads for table in tables_in(tmp_path)] == [()]


def test_a_model_that_transformers_does_not_know(tmp_path: Path) -> None:
    save_dense(tmp_path)
    write_config(tmp_path, model_type="bert_of_the_future", architectures=["FutureModel"])
    with pytest.raises(SourceError, match="cannot read config.json.*bert_of_the_future"):
        build_skeleton(tmp_path)


def test_code_in_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    save_dense(tmp_path)
    config = read_json(tmp_path / "config.json")
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    auto_map = {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}
    write_config(tmp_path, **{**config, "model_type": "mine", "auto_map": auto_map})
    with pytest.raises(SourceError):
        build_skeleton(tmp_path)


def test_every_tiny_architecture_has_one_table(tmp_path: Path) -> None:
    for name in ("bart", "gemma3", "electra-mlm", "xlnet"):
        save_dense(tmp_path / name, name)
        assert len(tables_in(tmp_path / name)) == 1, ARCHITECTURES[name]
