"""What a push may replace and what it keeps: other models, the base model, results, licences, private repositories."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from transformers import AutoModel

from tests.checkpoints import read_json, write_config
from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.push_faults import change_weights
from transformers_lighttoken import push_compressed
from transformers_lighttoken.checkpoint.identity import checkpoint_identity
from transformers_lighttoken.hub.client import HubClient
from transformers_lighttoken.hub.errors import HubError

REPO = "alice/tiny-lighttoken"
DENSE = {"model.safetensors": b"dense", "config.json": b"{}", "README.md": b"---\nlicense: mit\n---\n# Dense\n"}


def evaluation_of(folder: Path) -> dict:
    result = {"task": "STS-B", "metric": "spearman", "value": 0.85}
    return {"identity": checkpoint_identity(folder), "digest": "sha256:0", "results": [result]}


def files_of(hub: HubServer, repo_id: str = REPO, revision: str = "main") -> dict[str, bytes]:
    return hub.snapshot(repo_id).files[revision]


def card_of(hub: HubServer, repo_id: str = REPO) -> tuple[dict, str]:
    card = files_of(hub, repo_id)["README.md"].decode()
    return front_matter(card) or {}, card


class TestOtherModels:
    @pytest.fixture
    def base(self, logged_in: HubServer) -> HubServer:
        """A repository that holds a dense model."""
        logged_in.store.create_repo("alice/base")
        logged_in.commit("alice/base", DENSE)
        return logged_in

    @pytest.mark.parametrize("name", ["alice/base", "Alice/Base"])
    def test_the_base_model_is_not_replaced(self, base: HubServer, tiny: Path, name: str):
        before = base.snapshot("alice/base")
        quantization = read_json(tiny / "config.json")["quantization_config"]
        quantization["provenance"] |= {"source": name}
        write_config(tiny, quantization_config=quantization)
        base.commit("alice/base", {"config.json": b'{"quantization_config": {"quant_method": "lighttoken"}}'})
        before = base.snapshot("alice/base")
        with pytest.raises(ValueError, match="alice/base is the base model itself: its dense weights and its card"):
            push_compressed(tiny, "alice/base")
        assert base.snapshot("alice/base") == before
        push_compressed(tiny, "alice/base", create_pr=True)
        push_compressed(tiny, "alice/base", revision="lighttoken")
        there = base.snapshot("alice/base")
        assert there.files["main"] == before.files["main"]
        weights = (tiny / "model.safetensors").read_bytes()
        assert (
            there.files["refs/pr/1"]["model.safetensors"] == there.files["lighttoken"]["model.safetensors"] == weights
        )

    def test_what_was_compressed_from_another_base_is_not_replaced(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, base_model="org/first")
        push_compressed(tiny, REPO, base_model="org/corrected")
        assert card_of(logged_in)[0]["base_model"] == "org/corrected"
        config = json.loads(files_of(logged_in)["config.json"])
        config["quantization_config"]["digest"] = "sha256:of another table"
        logged_in.commit(REPO, {"config.json": json.dumps(config).encode()})
        push_compressed(tiny, REPO, base_model="Org/Corrected", revision="same-base")
        before = logged_in.snapshot(REPO)
        with pytest.raises(ValueError, match="holds org/corrected compressed with LightToken on 'main', and what is"):
            push_compressed(tiny, REPO, base_model="org/second")
        assert logged_in.snapshot(REPO) == before
        push_compressed(tiny, REPO, base_model="org/second", revision="second")
        assert files_of(logged_in) == before.files["main"]

    @pytest.mark.parametrize(
        "weights",
        [
            "model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors", "best.pt", "onnx/model.onnx",
            "lora.safetensors",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("card", [DENSE["README.md"], None])
    def test_any_other_model_is_not_replaced(self, logged_in: HubServer, tiny: Path, weights: str, card: bytes | None):
        logged_in.store.create_repo("alice/other")
        logged_in.commit("alice/other", {weights: b"dense"} | ({"README.md": card} if card else {}))
        before = logged_in.snapshot("alice/other")
        with pytest.raises(ValueError, match="alice/other holds the weights of a model on 'main', and no config"):
            push_compressed(tiny, "alice/other")
        assert logged_in.snapshot("alice/other") == before
        push_compressed(tiny, "alice/other", create_pr=True)
        assert logged_in.snapshot("alice/other").heads["main"] == before.heads["main"]

    def test_a_model_of_another_type_is_not_replaced(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        write_config(tiny, model_type="roberta")
        before = logged_in.snapshot(REPO)
        with pytest.raises(ValueError, match="holds a model of type 'bert' on 'main', and what is pushed"):
            push_compressed(tiny, REPO)
        assert logged_in.snapshot(REPO) == before

    def test_files_of_the_user_stay(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        of_user = {"word2vec.model": b"1", "label_vocab.json": b"{}", "emoji.json": b"{}", "dict.txt": b"a"}
        logged_in.commit(REPO, of_user | {"spiece.model": b"former tokenizer"})
        push_compressed(tiny, REPO)
        there = files_of(logged_in)
        assert {name: there.get(name) for name in of_user} == of_user
        assert "spiece.model" not in there

    def test_new_branch_of_a_dense_model_keeps_none_of_its_weights(self, base: HubServer, tiny: Path):
        of_dense = {
            "pytorch_model.bin": b"1",
            "tf_model.h5": b"2",
            "onnx/model.onnx": b"3",
            "model.fp16.safetensors": b"4",
        }
        base.commit("alice/base", of_dense | {"LICENSE": b"MIT", "eval/figures.json": b"{}"})
        push_compressed(tiny, "alice/base", revision="lighttoken")
        there = base.snapshot("alice/base").files
        assert there["main"].keys() >= of_dense.keys()
        assert not of_dense.keys() & there["lighttoken"].keys()
        assert there["lighttoken"]["LICENSE"] == b"MIT"
        assert there["lighttoken"]["eval/figures.json"] == b"{}"
        base.commit("alice/base", {"model.gguf": b"5"}, branch="lighttoken")
        push_compressed(tiny, "alice/base", revision="lighttoken", tags=["again"])
        assert "model.gguf" in base.snapshot("alice/base").files["lighttoken"]

    def test_push_to_a_new_branch_of_a_dense_model_can_be_repeated(self, base: HubServer, tiny: Path, no_waiting):
        base.inject("commit", status=503, times=None)
        with pytest.raises(HubError, match="the Hub itself is in trouble"):
            push_compressed(tiny, "alice/base", revision="small")
        assert files_of(base, "alice/base", "small") == files_of(base, "alice/base")
        base.clear_faults()
        push_compressed(tiny, "alice/base", revision="small")
        there = files_of(base, "alice/base", "small")
        assert there["model.safetensors"] == (tiny / "model.safetensors").read_bytes()
        base.commit("alice/base", {"pytorch_model.bin": b"other", "config.json": b"{}"}, branch="small")
        with pytest.raises(ValueError, match="holds the weights of a model on 'small'"):
            push_compressed(tiny, "alice/base", revision="small")

    def test_own_model_with_a_card_of_somebody_else_is_replaced(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        logged_in.commit(REPO, {"README.md": b"# By hand\n"})
        change_weights(tiny)
        push_compressed(tiny, REPO)
        assert files_of(logged_in)["model.safetensors"] == (tiny / "model.safetensors").read_bytes()

    def test_files_of_a_tokenizer_that_are_not_of_this_one_go(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        logged_in.commit(REPO, {"added_tokens.json": b'{"x": 3}', "notes.json": b"{}"})
        push_compressed(tiny, REPO)
        assert "added_tokens.json" not in files_of(logged_in)
        assert "notes.json" in files_of(logged_in)

    def test_repository_without_weights_is_filled(self, logged_in: HubServer, tiny: Path):
        logged_in.store.create_repo("alice/empty")
        logged_in.commit("alice/empty", {"README.md": b"# To come\n", "training_args.bin": b"x"})
        push_compressed(tiny, "alice/empty")
        assert "compressed by\n[LightToken]" in card_of(logged_in, "alice/empty")[1]


def created_meanwhile(monkeypatch: pytest.MonkeyPatch, create: Callable[[], object]) -> None:
    """Has somebody else create the repository between the first look at it and our creating it."""
    own = HubClient.create

    def after_somebody(self: HubClient, private: bool | None, revision: str | None) -> object:
        create()
        return own(self, private, revision)

    monkeypatch.setattr(HubClient, "create", after_somebody)


class TestCreatedMeanwhile:
    def test_public_where_private_was_asked_for(self, logged_in: HubServer, tiny: Path, monkeypatch):
        created_meanwhile(monkeypatch, lambda: logged_in.store.create_repo(REPO))
        with pytest.raises(ValueError, match="private=True, but alice/tiny-lighttoken is there already and public"):
            push_compressed(tiny, REPO, private=True)
        assert set(files_of(logged_in)) == {".gitattributes"}

    def test_with_another_model(self, logged_in: HubServer, tiny: Path, monkeypatch):
        def create() -> None:
            logged_in.store.create_repo(REPO)
            logged_in.commit(REPO, DENSE)

        created_meanwhile(monkeypatch, create)
        with pytest.raises(ValueError, match="holds the weights of a model"):
            push_compressed(tiny, REPO)
        assert files_of(logged_in)["model.safetensors"] == b"dense"


class TestLicence:
    def test_the_users_licence_is_never_called_the_base_models(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        push_compressed(tiny, REPO, license="apache-2.0", base_model="org/base", tags=["mine"])
        HfApi(endpoint=logged_in.url).snapshot_download(REPO, local_dir=tmp_path / "copy")
        before = logged_in.snapshot(REPO)
        push_compressed(tmp_path / "copy", REPO)
        assert logged_in.snapshot(REPO) == before
        path = tmp_path / "copy" / "README.md"
        path.write_text(path.read_text().replace("- lighttoken\n", ""))  # a tag that was removed by hand
        push_compressed(tmp_path / "copy", REPO)
        assert logged_in.snapshot(REPO) == before
        data, card = card_of(logged_in)
        assert (data["license"], data["tags"]) == ("apache-2.0", ["lighttoken", "compressed", "mine"])
        assert "\nLicence: apache-2.0.\n" in card
        AutoModel.from_pretrained(REPO).push_to_hub("alice/second")
        assert "\nLicence: apache-2.0.\n" in card_of(logged_in, "alice/second")[1]

    def test_the_base_models_licence_stays_called_so(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        push_compressed(tiny, REPO)
        HfApi(endpoint=logged_in.url).snapshot_download(REPO, local_dir=tmp_path / "copy")
        push_compressed(tmp_path / "copy", "alice/second")
        assert "\nLicence: mit, that of the base model.\n" in card_of(logged_in, "alice/second")[1]

    @pytest.mark.parametrize("link", ["README.md", "LICENSE.md"])
    def test_a_link_into_the_base_model_does_not_change(self, logged_in: HubServer, tiny: Path, link: str):
        card = f"---\nlicense: other\nlicense_name: own\nlicense_link: {link}\n---\n"
        (tiny / "README.md").write_text(card)
        push_compressed(tiny, REPO, base_model="org/base")
        assert card_of(logged_in)[0]["license_link"] == f"{logged_in.url}/org/base/blob/main/{link}"
        before = logged_in.snapshot(REPO)
        push_compressed(tiny, REPO, base_model="org/base")
        assert logged_in.snapshot(REPO) == before

    def test_a_licence_of_the_hub_brings_its_own_name_and_link(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").write_text(
            "---\nlicense_name: stale\nlicense_link: https://stale.example\nlanguage: de\n---\n"
        )
        logged_in.store.create_repo("bob/base")
        logged_in.commit("bob/base", {"README.md": b"---\nlicense: mit\nlanguage: en\n---\n"})
        push_compressed(tiny, REPO, base_model="bob/base")
        data, _ = card_of(logged_in)
        assert (data["license"], data["language"]) == ("mit", "de")
        assert not {"license_name", "license_link"} & set(data)

    def test_a_card_that_arrives_damaged_is_fetched_again(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").unlink()
        logged_in.store.create_repo("bob/base")
        logged_in.commit("bob/base", {"README.md": b"---\nlicense: mit\nlanguage: en\n---\n"})
        logged_in.inject("download", mode="corrupt", times=2)
        with pytest.raises(RuntimeError, match="could not read README.md of the base model, it arrives damaged"):
            push_compressed(tiny, REPO, base_model="bob/base")
        push_compressed(tiny, REPO, base_model="bob/base")
        assert card_of(logged_in)[0]["license"] == "mit"


def test_malformed_answers_are_one_line(logged_in: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    from tests import hub_server
    from tests.hub_http import Reply
    from tests.push_faults import run_command

    assert run_command(["push", str(tiny), REPO])[0] == 0
    (tiny / "notes.txt").write_text("new\n")
    before, routes = logged_in.snapshot(REPO), list(hub_server.ROUTES)
    bodies = [[], {}, None, "text", {"name": 3, "auth": []}, {"id": REPO, "siblings": 3}, {"id": REPO, "sha": "x"}]
    for step in ("whoami", "repo_info", "preupload"):
        for body in [json.dumps(body).encode() for body in bodies] + [b"\xff{}", b""]:
            other = [
                (*route[:3], lambda *_, body=body: Reply(200, body)) if route[0] == step else route for route in routes
            ]
            monkeypatch.setattr(hub_server, "ROUTES", other)
            status, said = run_command(["push", str(tiny), REPO])
            assert (status, len(said.strip().splitlines())) == (1, 1), (step, body, said)
            assert said.startswith(f"error: {REPO}: could not "), (step, body, said)
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    assert logged_in.snapshot(REPO) == before
    assert run_command(["push", str(tiny), REPO])[0] == 0
