"""push_compressed against the loopback Hub, with the real client: what arrives, what is refused, what is sent again."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from tests.checkpoints import file_contents, read_json, write_config
from tests.hub_card_rules import check_card, front_matter
from tests.hub_server import HubServer
from tests.integration.conftest import BASE_CARD
from transformers_lighttoken import push_compressed
from transformers_lighttoken.checkpoint.identity import checkpoint_identity
from transformers_lighttoken.checkpoint.source import SourceError
from transformers_lighttoken.hub.errors import HubError
from transformers_lighttoken.hub.pictures import BYTES_PICTURE, COSINES_PICTURE
from transformers_lighttoken.modeling.errors import LightTokenCheckpointError

REPO = "alice/tiny-lighttoken"
SENDS = ("create", "branch", "preupload", "batch", "lfs_upload", "lfs_complete", "verify", "commit")


def evaluation_of(folder: Path, *results: dict) -> dict:
    """As `lighttoken evaluate` tells it."""
    return {"identity": checkpoint_identity(folder), "digest": "sha256:0", "results": list(results)}


def sent(hub: HubServer) -> list[str]:
    return [request.step for request in hub.log.of(*SENDS)]


class TestOneCommit:
    def test_everything_arrives_in_one_commit(self, logged_in: HubServer, tiny: Path):
        commit = push_compressed(tiny, REPO)
        there = logged_in.snapshot(REPO)
        assert there.history == {
            "main": ("Upload model compressed with transformers-lighttoken 0.1.0", "initial commit")
        }
        assert (commit.oid, commit.repo_url.repo_id) == (there.heads["main"], REPO)
        files = dict(there.files["main"])
        card = files.pop("README.md").decode()
        assert [files.pop(path)[:8] for path in (BYTES_PICTURE, COSINES_PICTURE)] == [b"\x89PNG\r\n\x1a\n"] * 2
        del files[".gitattributes"]
        own = file_contents(tiny)
        assert own.pop("README.md") == BASE_CARD.encode()
        assert files == own
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
        assert (check_card(card), ModelCard(card).content) == (([], []), card)
        assert front_matter(card) == {
            "library_name": "transformers",
            "license": "mit",
            "language": ["en", "no"],
            "pipeline_tag": "feature-extraction",
            "tags": ["lighttoken", "compressed"],
        }

    def test_nothing_changed_is_nothing_sent(self, logged_in: HubServer, tiny: Path):
        first = push_compressed(tiny, REPO)
        before = logged_in.snapshot(REPO)
        logged_in.log.clear()
        again = push_compressed(tiny, REPO)
        assert sent(logged_in) == []
        assert logged_in.snapshot(REPO) == before
        push_compressed(tiny, REPO, revision="main")
        assert logged_in.snapshot(REPO) == before
        assert (again.oid, again.commit_url) == (first.oid, first.commit_url)

    def test_only_the_changed_file_is_sent(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        (tiny / "notes.txt").write_text("new\n")
        logged_in.log.clear()
        push_compressed(tiny, REPO, commit_message="Add notes", commit_description="Some.")
        assert sent(logged_in) == ["preupload", "commit"]
        assert logged_in.log.uploaded_bytes() < 1000
        assert logged_in.snapshot(REPO).history["main"][0] == "Add notes"
        assert logged_in.snapshot(REPO).files["main"]["notes.txt"] == b"new\n"

    def test_pushing_what_was_downloaded_changes_nothing(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        results = evaluation_of(tiny, {"task": "STS-B", "metric": "spearman", "value": 0.85})
        push_compressed(tiny, REPO, base_model="org/base", evaluation=results)
        HfApi(endpoint=logged_in.url).snapshot_download(REPO, local_dir=tmp_path / "copy")
        before = logged_in.snapshot(REPO)
        push_compressed(tmp_path / "copy", REPO)
        assert logged_in.snapshot(REPO) == before

    def test_weights_in_other_shards_are_replaced(self, logged_in: HubServer, tiny: Path, tmp_path: Path):
        from transformers import AutoModel

        push_compressed(tiny, REPO)
        logged_in.commit(REPO, {"pytorch_model.bin": b"of somebody", "notes/model.safetensors": b"too"})
        sharded = tmp_path / "sharded"
        AutoModel.from_pretrained(tiny).save_pretrained(sharded, max_shard_size="20KB")
        shutil.copyfile(tiny / "README.md", sharded / "README.md")
        shards = {path.name for path in sharded.glob("*.safetensors")}
        assert len(shards) > 1
        push_compressed(sharded, REPO)
        after = set(logged_in.snapshot(REPO).files["main"])
        assert "model.safetensors" not in after
        assert {"model.safetensors.index.json", *shards} <= after
        assert {"pytorch_model.bin", "notes/model.safetensors", "tokenizer.json"} <= after
        push_compressed(tiny, REPO)
        assert not {name for name in logged_in.snapshot(REPO).files["main"] if "-of-" in name or "index" in name}

    def test_hidden_files_and_other_weights_stay_behind(self, logged_in: HubServer, tiny: Path):
        (tiny / ".cache").mkdir()
        for name in (".env", ".cache/lock", "training_args.bin", "model.fp16.safetensors", "model.onnx"):
            (tiny / name).write_bytes(b"secret")
        push_compressed(tiny, REPO)
        files = logged_in.snapshot(REPO).files["main"]
        assert b"secret" not in b"".join(files.values())
        assert not {name for name in files if name.startswith(".") and name != ".gitattributes"}


class TestWhere:
    def test_private(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, private=True)
        assert logged_in.snapshot(REPO).private
        push_compressed(tiny, REPO, private=True)

    def test_private_is_refused_for_a_public_repository(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        logged_in.log.clear()
        with pytest.raises(ValueError, match="private=True, but alice/tiny-lighttoken is there already and public"):
            push_compressed(tiny, REPO, private=True)
        assert sent(logged_in) == []

    def test_organisation_and_bare_name(self, logged_in: HubServer, tiny: Path):
        assert push_compressed(tiny, "acme/tiny").repo_url.repo_id == "acme/tiny"
        assert push_compressed(tiny, "bare").repo_url.repo_id == "alice/bare"

    def test_branches(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        main = logged_in.snapshot(REPO).heads["main"]
        (tiny / "notes.txt").write_text("only there\n")
        push_compressed(tiny, REPO, revision="v2")
        there = logged_in.snapshot(REPO)
        assert (there.heads["main"], len(there.history["v2"])) == (main, 3)
        assert 'from_pretrained("alice/tiny-lighttoken", revision="v2")' in there.files["v2"]["README.md"].decode()
        assert 'from_pretrained("alice/tiny-lighttoken")' in there.files["main"]["README.md"].decode()
        logged_in.log.clear()
        push_compressed(tiny, REPO, revision="v2")
        assert (sent(logged_in), logged_in.snapshot(REPO)) == ([], there)

    def test_branch_of_a_new_repository(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO, revision="experiments/one")
        there = logged_in.snapshot(REPO)
        assert set(there.files["main"]) == {".gitattributes"}
        assert "model.safetensors" in there.files["experiments/one"]

    def test_pull_request(self, logged_in: HubServer, tiny: Path):
        push_compressed(tiny, REPO)
        before = logged_in.snapshot(REPO)
        (tiny / "notes.txt").write_text("please\n")
        stranger = logged_in.other_token
        commit = push_compressed(tiny, REPO, create_pr=True, token=stranger)
        assert (commit.pr_num, commit.pr_revision) == (1, "refs/pr/1")
        there = logged_in.snapshot(REPO)
        assert there.files["main"] == before.files["main"]
        assert there.files["refs/pr/1"]["notes.txt"] == b"please\n"
        (tiny / "notes.txt").write_text("changed\n")
        push_compressed(tiny, REPO, revision="refs/pr/1")
        files = logged_in.snapshot(REPO).files["refs/pr/1"]
        assert files["notes.txt"] == b"changed\n"
        assert files["README.md"] == there.files["main"]["README.md"]  # it is to be merged: names no revision

    def test_what_cannot_be_committed_to(self, logged_in: HubServer, tiny: Path):
        commit = push_compressed(tiny, REPO)
        HfApi(endpoint=logged_in.url).create_tag(REPO, tag="v1.0")
        logged_in.log.clear()
        with pytest.raises(HubError, match="revision 'v1.0' is a tag. Name a branch to push to."):
            push_compressed(tiny, REPO, revision="v1.0")
        with pytest.raises(HubError, match=f"revision '{commit.oid}' is a commit"):
            push_compressed(tiny, REPO, revision=commit.oid)
        with pytest.raises(ValueError, match="revision 'v3' is no branch of alice/tiny-lighttoken"):
            push_compressed(tiny, REPO, revision="v3", create_pr=True)
        with pytest.raises(HubError, match="it has no such revision"):
            push_compressed(tiny, REPO, revision="refs/pr/9")
        assert sent(logged_in) == []


class TestRefusedBeforeAnythingIsSent:
    @pytest.fixture(autouse=True)
    def nothing_is_sent(self, logged_in: HubServer):
        yield
        assert sent(logged_in) == []
        assert logged_in.snapshot(REPO).heads == {}

    def test_pull_request_of_a_repository_that_does_not_exist(self, tiny: Path):
        with pytest.raises(ValueError, match=r"'refs/pr/3' is no branch, .* does not exist: leave the revision"):
            push_compressed(tiny, REPO, revision="refs/pr/3")

    def test_folder_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(SourceError, match="there is no folder"):
            push_compressed(tmp_path / "absent", REPO)

    def test_dense_checkpoint(self, tiny: Path):
        write_config(tiny, quantization_config=None)
        with pytest.raises(SourceError, match="is not compressed with LightToken, but dense"):
            push_compressed(tiny, REPO)

    def test_digest_that_does_not_match(self, logged_in: HubServer, tiny: Path):
        quantization = read_json(tiny / "config.json")["quantization_config"]
        write_config(tiny, quantization_config={**quantization, "digest": "sha256:" + "0" * 64})
        with pytest.raises(LightTokenCheckpointError, match="model.safetensors are not what was written"):
            push_compressed(tiny, REPO)
        del quantization["digest"]
        write_config(tiny, quantization_config=quantization)
        with pytest.raises(LightTokenCheckpointError, match="has no digest"):
            push_compressed(tiny, REPO)
        assert len(logged_in.log) == 0

    @pytest.mark.parametrize(
        "card",
        [
            None,
            "# No front matter",
            "---\nlanguage: en\n---\n",
            "---\nlicense: [\n---\n",
            "---\nlicense: {a: b}\n---\n",
        ],
    )
    def test_no_licence(self, tiny: Path, card: str | None):
        (tiny / "README.md").unlink()
        if card is not None:
            (tiny / "README.md").write_text(card)
        with pytest.raises(ValueError, match="license is not known: .* pass it: license='apache-2.0'"):
            push_compressed(tiny, REPO)

    def test_no_licence_in_the_card_on_the_hub(self, logged_in: HubServer, tiny: Path):
        (tiny / "README.md").unlink()
        logged_in.store.create_repo("bob/base")
        with pytest.raises(ValueError, match="license is not known: none was found in a card of bob/base"):
            push_compressed(tiny, REPO, base_model="bob/base")

    def test_licence_that_the_hub_does_not_know(self, tiny: Path):
        with pytest.raises(HubError, match='refuses the front matter of the card: "license" must be one of'):
            push_compressed(tiny, REPO, license="my-own")

    def test_tokens(self, logged_in: HubServer, tiny: Path, monkeypatch: pytest.MonkeyPatch):
        with pytest.raises(HubError, match="the token may only read, its role lacks the permission `write`"):
            push_compressed(tiny, REPO, token=logged_in.read_token)
        with pytest.raises(HubError, match=r"the Hub does not accept the token \(HTTP 401\). Log in with"):
            push_compressed(tiny, REPO, token=logged_in.bad_token)
        narrow = logged_in.store.issue_token("alice", "fineGrained", ["repo.content.read"])
        with pytest.raises(HubError, match="lacks the permission `repo.write` for alice"):
            push_compressed(tiny, REPO, token=narrow)
        with pytest.raises(HubError, match="alice has the role `read` in readers, and lacks the role `write`"):
            push_compressed(tiny, "readers/tiny")
        with pytest.raises(ValueError, match="token=False: a push needs a token"):
            push_compressed(tiny, REPO, token=False)
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HubError, match="there is no token. Log in with"):
            push_compressed(tiny, REPO)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            *(
                ({"revision": name}, f"revision must be the name of a branch, or refs/pr/N, got '{name}'")
                for name in ("a b", "refs/convert/parquet", "refs/heads/v2", "refs/pr/0", "a..b", "a.lock", "a/")
            ),
            ({"revision": "refs/pr/1", "create_pr": True}, "create_pr opens a new pull request: leave it out"),
            ({"base_model": "a/b/c"}, "base_model must be a repository on the Hub"),
            ({"license": "my licence"}, "license must be an identifier of the Hub such as 'apache-2.0'"),
            ({"license": "other", "license_link": "java script"}, "license_link must be an address or the name"),
            ({"language": "english!"}, "language must be short words of letters and digits, got 'english!'"),
            ({"tags": ["two words"]}, "tags must be short words of letters and digits, got 'two words'"),
            (
                {"evaluation": {"identity": "0" * 64, "results": []}},
                "is of another model, or another state of it: it names the identity 0000",
            ),
            ({"evaluation": "absent.json"}, "evaluation absent.json: there is no such file"),
        ],
    )
    def test_arguments(self, tiny: Path, wrong: dict, message: str):
        with pytest.raises(ValueError, match=message):
            push_compressed(tiny, REPO, **wrong)

    def test_repo_id(self, tiny: Path):
        with pytest.raises(ValueError, match="repo_id must be a repository on the Hub"):
            push_compressed(tiny, "a/b/c")

    @pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
    def test_missing_libraries(self, tiny: Path, monkeypatch: pytest.MonkeyPatch, library: str):
        monkeypatch.setitem(__import__("sys").modules, library, None)
        with pytest.raises(ImportError, match=rf"needs {library}.*transformers-lighttoken\[card\]"):
            push_compressed(tiny, REPO)
