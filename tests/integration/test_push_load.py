"""all-MiniLM-L6-v2, compressed, pushed, and loaded by its name on the Hub in fresh processes: bit for bit the same."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel, AutoTokenizer

from tests.hub_server import HubServer
from transformers_lighttoken import push_compressed

REPO = "acme/minilm-lighttoken"
SENTENCES = ["A stranger loads it.", "Zwei Sätze, café, 猫!", ""]
LOAD = """
    import transformers_lighttoken, torch
    from transformers import AutoModel, AutoTokenizer
    revision = arguments[1] if len(arguments) > 1 else "main"
    tokenizer = AutoTokenizer.from_pretrained("acme/minilm-lighttoken", revision=revision)
    model = AutoModel.from_pretrained("acme/minilm-lighttoken", revision=revision)
    with torch.inference_mode():
        batch = tokenizer(json.loads(arguments[0]), padding=True, return_tensors="pt")
        answer(model(**batch).last_hidden_state.view(torch.int32).tolist())
"""


def outputs(folder: Path) -> list[Any]:
    """The bits of the model's outputs."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.inference_mode():
        batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
        return model(**batch).last_hidden_state.view(torch.int32).tolist()


@pytest.fixture
def pushed(hub: HubServer, logged_in: HubServer, minilm: Path) -> HubServer:
    """The Hub with the compressed model in a private repository."""
    push_compressed(minilm, REPO, private=True, base_model="sentence-transformers/all-MiniLM-L6-v2")
    return logged_in


def test_by_name_by_revision_offline_and_private(pushed: HubServer, hub: HubServer, minilm: Path, hub_client):
    expected, sentences = outputs(minilm), json.dumps(SENTENCES)
    commit = pushed.snapshot(REPO).heads["main"]
    assert hub_client(LOAD, sentences, token=hub.read_token) == expected
    hub.log.clear()
    assert hub_client(LOAD, sentences, HF_HUB_OFFLINE="1") == expected
    assert len(hub.log) == 0
    hub.commit(REPO, {"config.json": b"{}"}, title="somebody breaks it")
    assert hub_client(LOAD, sentences, commit, token=hub.read_token) == expected
    stranger = """
        import transformers_lighttoken
        from transformers import AutoModel
        try:
            AutoModel.from_pretrained("acme/minilm-lighttoken")
        except OSError as error:
            answer(str(error))
    """
    said = hub_client(stranger, token=hub.other_token, home=minilm.parent / "stranger")
    assert "is not a local folder and is not a valid model identifier" in said


def test_sentence_transformers_and_pipeline(pushed: HubServer, hub: HubServer, minilm: Path, hub_client):
    pytest.importorskip("sentence_transformers", reason="of the extra `test`")
    code = """
        import transformers_lighttoken, numpy
        from sentence_transformers import SentenceTransformer
        from transformers import pipeline
        name, sentences = arguments[0], json.loads(arguments[1])
        encoded = SentenceTransformer(name, device="cpu").encode(sentences)
        features = pipeline("feature-extraction", model=name, device="cpu")(sentences[0], return_tensors=True)
        answer([encoded.view(numpy.int32).tolist(), features.numpy().view(numpy.int32).tolist()])
    """
    from_hub = hub_client(code, REPO, json.dumps(SENTENCES), token=hub.read_token)
    from_folder = hub_client(code, minilm, json.dumps(SENTENCES))
    assert from_hub == from_folder
    assert (len(from_hub[0]), len(from_hub[0][0])) == (3, 384)


def test_snapshot_download_has_the_very_files(pushed: HubServer, minilm: Path):
    folder = Path(HfApi(endpoint=pushed.url).snapshot_download(REPO))
    assert (folder / "model.safetensors").read_bytes() == (minilm / "model.safetensors").read_bytes()
    assert (folder / "pictures" / "lighttoken_cosines.png").is_file()
    card = (folder / "README.md").read_text()
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2\n" in card
    assert "library_name: transformers\nlicense: apache-2.0\npipeline_tag: sentence-similarity\n" in card
    assert 'SentenceTransformer("acme/minilm-lighttoken")' in card


def test_corrupted_download_is_noticed_on_loading(pushed: HubServer, hub: HubServer, hub_client):
    files = hub.store.repos[REPO].large_files
    sha256 = next(name for name, data in files.items() if len(data) > 1_000_000)
    files[sha256] = flip_a_bit_of(files[sha256], "embeddings.word_embeddings.codes")
    code = """
        import transformers_lighttoken
        from transformers import AutoModel
        try:
            AutoModel.from_pretrained("acme/minilm-lighttoken")
        except Exception as error:
            answer([type(error).__name__, str(error)])
    """
    name, message = hub_client(code, token=hub.read_token)
    assert name == "LightTokenCheckpointError"
    assert "the compressed tables in config.json and model.safetensors are not what was written" in message
    assert "Download the checkpoint again." in message


def flip_a_bit_of(content: bytes, tensor: str) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    start, _ = json.loads(content[8 : 8 + length])[tensor]["data_offsets"]
    damaged = bytearray(content)
    damaged[8 + length + start] ^= 1
    return bytes(damaged)
