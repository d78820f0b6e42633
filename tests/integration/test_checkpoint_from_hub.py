"""A source on the Hub: only what is needed is downloaded, and every failure is one clear line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session

from tests.checkpoints import SMALL, add_tokenizer, file_contents, read_json, save_dense, write_config
from tests.hub_server import HubServer
from tests.integration.sample_model import upload
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.source import SourceError, resolve_source
from transformers_lighttoken.hub.errors import HubError

OTHER_FORMATS = ("pytorch_model.bin", "tf_model.h5", "model-q4.gguf", "onnx/model.onnx", "model.fp16.safetensors")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    folder = tmp_path / "dense"
    save_dense(folder)
    add_tokenizer(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def repository(hub_api: HfApi, dense: Path) -> str:
    """A public repository with the model, and its weights in other formats beside."""
    for name in OTHER_FORMATS:
        (dense / name).parent.mkdir(exist_ok=True)
        (dense / name).write_bytes(os.urandom(2000))
    upload(hub_api, dense)
    for name in OTHER_FORMATS:
        (dense / name).unlink()
    return "alice/model"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    yield
    close_session()


def test_same_as_from_the_folder_and_other_weights_are_not_downloaded(
    hub: HubServer, repository: str, dense: Path, tmp_path: Path
) -> None:
    hub.log.clear()
    report = compress_checkpoint(repository, tmp_path / "from_hub", SMALL)
    compress_checkpoint(dense, tmp_path / "from_folder", SMALL)
    downloaded = {request.path.rsplit("/", 1)[1] for request in hub.log.of("download")}
    assert "model.safetensors" in downloaded
    assert not downloaded & {Path(name).name for name in OTHER_FORMATS}
    from_hub, from_folder = file_contents(tmp_path / "from_hub"), file_contents(tmp_path / "from_folder")
    del from_hub[".gitattributes"]  # the Hub's own
    assert {name for name in from_hub if from_hub[name] != from_folder.get(name)} == {"config.json"}
    assert from_hub.keys() == from_folder.keys()
    assert (report.source, report.revision) == (repository, hub.snapshot(repository).heads["main"])
    provenance = read_json(tmp_path / "from_hub" / "config.json")["quantization_config"]["provenance"]
    assert (provenance["source"], provenance["revision"]) == (report.source, report.revision)


def test_a_revision(hub: HubServer, hub_api: HfApi, repository: str, dense: Path) -> None:
    first = hub.snapshot(repository).heads["main"]
    write_config(dense, my_own_key="second")
    upload(hub_api, dense)
    assert "my_own_key" not in resolve_source(repository, revision=first).config
    assert resolve_source(repository).config["my_own_key"] == "second"
    with pytest.raises(HubError, match=r"could not download the model, it has no such revision .*no-such-branch\"$"):
        resolve_source(repository, revision="no-such-branch")


def test_a_subfolder(hub: HubServer, hub_api: HfApi, dense: Path) -> None:
    hub_api.create_repo("alice/pipeline")
    hub_api.upload_folder(repo_id="alice/pipeline", folder_path=dense, path_in_repo="text_encoder")
    hub_api.upload_file(path_or_fileobj=b"{}", path_in_repo="model_index.json", repo_id="alice/pipeline")
    hub.log.clear()
    source = resolve_source("alice/pipeline", subfolder="text_encoder")
    assert source.folder.name == "text_encoder"
    assert sorted(source.carried_files()) == sorted(set(file_contents(dense)) - {"config.json", "model.safetensors"})
    assert not any("model_index" in request.path for request in hub.log.of("download", "head"))
    with pytest.raises(SourceError, match="pipeline of several models. Name one of them as the subfolder"):
        resolve_source("alice/pipeline")
    with pytest.raises(SourceError, match="alice/pipeline has no subfolder 'vae'"):
        resolve_source("alice/pipeline", subfolder="vae")


def test_pytorch_files_are_downloaded_where_there_is_nothing_else(hub_api: HfApi, dense: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    expected = compress_checkpoint(dense, tmp_path / "expected", SMALL)
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    upload(hub_api, dense)
    assert compress_checkpoint("alice/model", tmp_path / "output", SMALL).digest == expected.digest


def test_no_such_repository_and_no_such_folder(hub_api: HfApi) -> None:
    with pytest.raises(HubError, match=r"no such repository.*There is no folder 'alice/nothing' either\."):
        resolve_source("alice/nothing")


def test_a_repository_without_a_model_is_told_before_anything_is_downloaded(hub: HubServer, hub_api: HfApi) -> None:
    hub_api.create_repo("alice/model")
    hub_api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="alice/model")
    hub_api.upload_file(path_or_fileobj=b"x" * 99, path_in_repo="model-q4.gguf", repo_id="alice/model")
    hub.log.clear()
    with pytest.raises(SourceError, match=r"alice/model has no model.safetensors.*it holds .*model-q4.gguf"):
        resolve_source("alice/model")
    assert not hub.log.of("download")


@pytest.mark.usefixtures("no_waiting")
def test_a_broken_download_is_one_line_and_leaves_nothing(hub: HubServer, repository: str, tmp_path: Path) -> None:
    hub.inject("head", status=503, times=None, path="model.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(
        HubError, match="alice/model: could not download the model, the Hub itself is in trouble"
    ) as caught:
        compress_checkpoint(repository, tmp_path / "output", SMALL)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "hub_cache") == before
    hub.clear_faults()
    compress_checkpoint(repository, tmp_path / "output", SMALL)


def test_from_the_cache_without_a_network(repository: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected = compress_checkpoint(repository, tmp_path / "online", SMALL)
    request.getfixturevalue("offline")
    report = compress_checkpoint(repository, tmp_path / "offline", SMALL)
    assert report.digest == expected.digest
    with pytest.raises(HubError, match="alice/nothing: could not download the model"):
        resolve_source("alice/nothing")
