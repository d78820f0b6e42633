"""Downloads and cards from the loopback Hub with the real huggingface_hub client and transformers."""

import base64
import hashlib
import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_client_library import http
from tests.hub_server import HubServer
from tests.integration.sample_model import CARD, WEIGHTS, contents, post_commit, upload


class TestDownloads:
    def test_snapshot_is_what_was_uploaded(self, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        downloaded = contents(Path(hub_api.snapshot_download("alice/model")))
        assert downloaded.pop(".gitattributes")
        assert downloaded == contents(folder)

    def test_token_does_not_reach_the_storage_host(self, hub: HubServer, hub_api: HfApi, folder: Path, tmp_path: Path):
        """Large files lie on another host (localhost), which refuses a request that carries a token."""
        upload(hub_api, folder, private=True)
        hub_api.snapshot_download("alice/model")
        httpx_options = {"headers": {"Authorization": f"Bearer {hub.write_token}"}, "follow_redirects": True}
        assert http.get(f"{hub.url}/alice/model/resolve/main/model.safetensors", **httpx_options).content == WEIGHTS
        storage = [request for request in hub.log if request.path.startswith("/storage/")]
        assert {request.step for request in storage} == {"lfs_upload", "download"}
        assert [request.token for request in storage] == [None] * len(storage)
        assert {request.host.split(":")[0] for request in storage} == {"localhost"}
        assert all(request.token for request in hub.log if request.host.startswith("127.0.0.1"))
        address = storage[-1].path + "?signature=" + hub.store.signature
        assert http.get(hub.url + address, **httpx_options).status_code == 400
        assert http.get(hub.url + storage[-1].path).status_code == 403

    def test_headers_of_head(self, hub: HubServer, hub_api: HfApi, folder: Path):
        commit = upload(hub_api, folder)
        reply = http.head(f"{hub.url}/alice/model/resolve/main/config.json")
        assert (reply.status_code, reply.headers["X-Repo-Commit"]) == (200, commit.oid)
        assert reply.headers["Content-Length"] == str((folder / "config.json").stat().st_size)
        reply = http.head(f"{hub.url}/alice/model/resolve/main/model.safetensors")
        assert (reply.status_code, reply.headers["X-Linked-Size"]) == (302, str(len(WEIGHTS)))
        assert reply.headers["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
        assert reply.headers["Location"].startswith("http://localhost:")

    def test_part_of_a_file(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        url = f"{hub.url}/alice/model/resolve/main/model.safetensors"
        reply = http.get(url, headers={"Range": "bytes=250-259"}, follow_redirects=True)
        assert (reply.status_code, reply.content) == (206, WEIGHTS[250:260])
        assert reply.headers["Content-Range"] == f"bytes 250-259/{len(WEIGHTS)}"
        past_the_end = {"Range": f"bytes={len(WEIGHTS)}-"}
        assert http.get(url, headers=past_the_end, follow_redirects=True).status_code == 416

    def test_what_is_not_there(self, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        with pytest.raises(EntryNotFoundError):
            hub_api.hf_hub_download("alice/model", "absent.json")
        with pytest.raises(RevisionNotFoundError):
            hub_api.hf_hub_download("alice/model", "config.json", revision="absent")
        with pytest.raises(RepositoryNotFoundError):
            hub_api.hf_hub_download("alice/absent", "config.json")

    @pytest.mark.parametrize("who", ["nobody", "stranger"])
    def test_private_repo_is_invisible_to_others(self, hub: HubServer, hub_api: HfApi, folder: Path, who: str):
        upload(hub_api, folder, private=True)
        token = {"nobody": False, "stranger": hub.other_token}[who]
        for call in (
            lambda: hub_api.model_info("alice/model", token=token),
            lambda: hf_hub_download("alice/model", "config.json", endpoint=hub.url, token=token),
            lambda: list(hub_api.list_repo_tree("alice/model", token=token)),
        ):
            with pytest.raises(RepositoryNotFoundError):
                call()
        assert hub_api.model_info("alice/model", token=hub.read_token).private

    def test_gated_repo_gives_its_files_to_those_with_access(self, hub: HubServer, hub_api: HfApi):
        repo = hub.store.create_repo("bob/gated", gated=True)
        hub.commit("bob/gated", {"config.json": b"{}"})
        info = hub_api.model_info("bob/gated")
        assert (info.gated, info.sha) == ("manual", hub.snapshot("bob/gated").heads["main"])
        for token, status in ((hub.write_token, 403), (False, 401)):
            with pytest.raises(GatedRepoError, match="Access to model bob/gated is restricted") as caught:
                hub_api.hf_hub_download("bob/gated", "config.json", token=token)
            assert caught.value.response.status_code == status
        assert hub_api.hf_hub_download("bob/gated", "config.json", token=hub.other_token)
        repo.readers.add("alice")
        hub_api.hf_hub_download("bob/gated", "config.json", force_download=True)

    def test_members_read_the_private_repos_of_their_organisation(self, hub: HubServer, hub_api: HfApi):
        hub.store.create_repo("readers/secret", private=True)
        assert hub_api.list_repo_files("readers/secret", token=hub.read_token) == [".gitattributes"]
        with pytest.raises(RepositoryNotFoundError):
            hub_api.list_repo_files("readers/secret", token=hub.other_token)

    def test_offline_from_the_cache_in_another_process(self, hub: HubServer, hub_api: HfApi, folder: Path, hub_client):
        upload(hub_api, folder, private=True)
        code = """
            import huggingface_hub
            try:
                answer(huggingface_hub.snapshot_download("alice/model"))
            except huggingface_hub.errors.LocalEntryNotFoundError as error:
                answer("not cached")
        """
        assert hub_client(code, HF_HUB_OFFLINE="1") == "not cached"
        online = hub_client(code, token=hub.read_token)
        hub.log.clear()
        assert hub_client(code, HF_HUB_OFFLINE="1") == online
        assert len(hub.log) == 0
        assert contents(Path(online))["model.safetensors"] == WEIGHTS


validate_follows_the_endpoint = pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2,
    reason="ModelCard.validate of huggingface_hub 1 asks huggingface.co whatever HF_ENDPOINT says",
)


class TestCards:
    @validate_follows_the_endpoint
    def test_validate_asks_the_server_without_a_token(self, hub: HubServer, hub_api: HfApi):
        ModelCard(CARD).validate()
        assert [(request.step, request.token) for request in hub.log] == [("validate_yaml", None)]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ("license: my-own", '"license" must be one of'),
            ("license: mit\nbase_model_relation: compressed", '"base_model_relation" must be one of'),
            ("license: mit\ntags: one", '"tags" must be an array'),
            ("license: mit\nlanguage: {a: b}", '"language" must be a string or an array'),
            ("license: mit\nlicense: gpl", "duplicated mapping key 'license'"),
            ("model-index:\n- results: []", r'"model-index\[0\].name" is required'),
            (
                "model-index:\n- name: m\n  results:\n  - task: {type: t}\n    dataset: {type: d, name: d}\n"
                "    metrics: [{type: f1}]",
                r"metrics\[0\].value",
            ),
        ],
    )
    def test_wrong_front_matter_is_refused_before_and_at_the_commit(
        self, hub: HubServer, hub_api: HfApi, wrong, message
    ):
        hub_api.create_repo("alice/model")
        card = f"---\n{wrong}\n---\nText\n"
        with pytest.raises(ValueError, match=message):
            hub_api.upload_file(repo_id="alice/model", path_or_fileobj=card.encode(), path_in_repo="README.md")
        assert hub.log.counts()["preupload"] == 0
        content = base64.b64encode(card.encode()).decode()
        reply = post_commit(hub, "file", {"path": "README.md", "encoding": "base64", "content": content})
        assert (reply.status_code, reply.json()["error"][:19]) == (400, "Invalid metadata in")

    @validate_follows_the_endpoint
    def test_validate_raises_with_the_answer_of_the_server(self, hub_here: HubServer):
        with pytest.raises(ValueError, match="errors") as caught:
            ModelCard("---\nlicense: my-own\n---\n").validate()
        messages = json.loads(str(caught.value))["errors"]
        assert [m["message"][:25] for m in messages] == ['"license" must be one of ']

    def test_card_without_metadata_is_a_warning(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            hub_api.upload_file(repo_id="alice/model", path_or_fileobj=b"# Bare\n", path_in_repo="README.md")
        assert "README.md" in hub_api.list_repo_files("alice/model")


class TestTransformers:
    @pytest.mark.slow  # test_push_load.py does the same with a compressed model
    def test_tiny_bert_goes_up_and_comes_back_in_a_fresh_process(self, hub, hub_api, tmp_path, hub_client):
        import torch
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        model = BertModel(config).eval()
        model.save_pretrained(tmp_path / "bert")
        upload(hub_api, tmp_path / "bert", "acme/bert", private=True)
        tokens = [[1, 2, 3, 49]]
        with torch.inference_mode():
            expected = model(torch.tensor(tokens)).last_hidden_state
        code = """
            import torch
            from transformers import AutoModel
            model = AutoModel.from_pretrained("acme/bert", revision=arguments[0])
            with torch.inference_mode():
                answer(model(torch.tensor(json.loads(arguments[1]))).last_hidden_state.tolist())
        """
        got = hub_client(code, "main", json.dumps(tokens), token=hub.read_token)
        assert torch.equal(torch.tensor(got), expected)
        offline = hub_client(code, "main", json.dumps(tokens), HF_HUB_OFFLINE="1")
        assert offline == got
