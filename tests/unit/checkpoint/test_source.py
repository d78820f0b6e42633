"""Finding a checkpoint in a folder, and telling what is wrong with it."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import write_config
from transformers_lighttoken.checkpoint.source import SourceError, refuse_quantized, resolve_source


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_a_folder(dense: Path) -> None:
    (dense / "vocab.txt").write_text("a\n")
    source = resolve_source(dense)
    assert (source.folder, source.repo_id, source.revision) == (dense, None, None)
    assert source.config == json.loads((dense / "config.json").read_text())
    assert source.carried_files() == ["vocab.txt"]


def test_a_subfolder_is_all_that_counts(dense: Path) -> None:
    (dense.parent / "outside.txt").write_text("a\n")
    (dense / "inside.txt").write_text("a\n")
    source = resolve_source(dense.parent, subfolder="dense")
    assert source.folder == dense
    assert source.carried_files() == ["inside.txt"]


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "~/no_such_folder_here", "a/b/c", "model name"])
def test_no_folder_and_no_repository(name: str) -> None:
    with pytest.raises(SourceError, match="there is no folder .* no name of a repository"):
        resolve_source(name)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "has no config.json: it holds nothing else"),
        (["notes.txt", "sub/config.json"], "has no config.json: it holds notes.txt"),
        (["adapter_config.json"], "it is an adapter. Merge it"),
        (["model_index.json"], "pipeline of several models. Name one of them as the subfolder"),
        (["config.json", "vocab.txt"], "has no model.safetensors.*it holds nothing else"),
        (["config.json", "model-q4.gguf"], "it holds model-q4.gguf.*gguf_file="),
        (["config.json", "model.fp16.safetensors"], "it holds model.fp16.safetensors.*variant="),
        (["config.json", "tf_model.h5", "flax_model.msgpack"], "it holds flax_model.msgpack, tf_model.h5"),
    ],
)
def test_what_is_missing_is_told_with_what_is_there(tmp_path: Path, names: list[str], told: str) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(SourceError, match=told):
        resolve_source(make(tmp_path / "source", *names))


def test_a_file_a_missing_subfolder_and_a_revision_of_a_folder(dense: Path) -> None:
    with pytest.raises(SourceError, match="is a file: give the folder"):
        resolve_source(dense / "model.safetensors")
    with pytest.raises(SourceError, match="no subfolder 'unet'"):
        resolve_source(dense, subfolder="unet")
    with pytest.raises(SourceError, match="revision 'main' is for repositories"):
        resolve_source(dense, revision="main")


@pytest.mark.parametrize(("text", "told"), [("{", "is no JSON"), ("[1]", "no JSON object, but list"), ("\xff", "JSON")])
def test_a_damaged_config(dense: Path, text: str, told: str) -> None:
    (dense / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=told):
        resolve_source(dense)


@pytest.mark.parametrize("field", ["quantization_config", "compression_config"])
def test_a_quantized_source_is_refused_by_name(dense: Path, field: str) -> None:
    refuse_quantized(resolve_source(dense))
    write_config(dense, **{field: {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(SourceError, match="quantized already .quant_method 'gptq'"):
        refuse_quantized(resolve_source(dense))
    write_config(dense, **{field: {"quant_method": "lighttoken"}})
    with pytest.raises(SourceError, match="compressed with LightToken already.*lighttoken decompress"):
        refuse_quantized(resolve_source(dense))
