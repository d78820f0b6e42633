"""Pushes to repositories under a former name, and to pull requests in those of others."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from transformers import AutoModel

from tests.checkpoints import read_json, write_config
from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.push_faults import change_weights, run_command
from transformers_lighttoken import push_compressed
from transformers_lighttoken.hub.errors import HubError

FORMER, REPO = "alice/former", "alice/tiny-lighttoken"
MOVED = f"{FORMER} is called {REPO} on the Hub by now: what is pushed goes there. Use that name."


@pytest.fixture
def moved(logged_in: HubServer, tiny: Path) -> HubServer:
    """A Hub with a pushed model, renamed since; the folder holds another state of it."""
    push_compressed(tiny, FORMER)
    HfApi(endpoint=logged_in.url).move_repo(FORMER, REPO)
    change_weights(tiny)
    return logged_in


class TestRenamed:
    def test_push_goes_to_the_name_of_now(self, moved: HubServer, tiny: Path, caplog: pytest.LogCaptureFixture):
        commit = push_compressed(tiny, FORMER)
        assert commit.repo_url.repo_id == REPO
        assert moved.store.repos.keys() == {REPO}
        files = moved.snapshot(REPO).files["main"]
        assert files["model.safetensors"] == (tiny / "model.safetensors").read_bytes()
        card = files["README.md"].decode()
        assert f'from_pretrained("{REPO}")' in card
        assert FORMER not in card
        assert caplog.messages.count(MOVED) == 1
        before = moved.snapshot(REPO)
        push_compressed(tiny, REPO)
        assert moved.snapshot(REPO) == before
        assert caplog.messages.count(MOVED) == 1
        assert AutoModel.from_pretrained(FORMER) is not None

    def test_new_branch_and_pull_request(self, moved: HubServer, tiny: Path):
        before = moved.snapshot(REPO)
        push_compressed(tiny, FORMER, revision="small")
        assert run_command(["push", str(tiny), FORMER, "--create-pr"])[0] == 0
        after = moved.snapshot(REPO)
        assert after.files["main"] == before.files["main"]
        weights = (tiny / "model.safetensors").read_bytes()
        assert [after.files[name]["model.safetensors"] for name in ("small", "refs/pr/1")] == [weights] * 2

    def test_base_model_is_not_replaced_under_its_former_name(self, moved: HubServer, tiny: Path):
        quantization = read_json(tiny / "config.json")["quantization_config"]
        quantization["provenance"] |= {"source": REPO}
        write_config(tiny, quantization_config=quantization)
        before = moved.snapshot(REPO)
        with pytest.raises(ValueError, match=f"{REPO} is the base model itself: its dense weights and its card"):
            push_compressed(tiny, FORMER)
        assert moved.snapshot(REPO) == before

    def test_moved_to_where_the_user_may_only_read(self, moved: HubServer, tiny: Path):
        moved.store.rename_repo(REPO, "readers/model")
        before = moved.snapshot("readers/model")
        with pytest.raises(HubError, match="readers/model: could not write, alice has the role `read` in readers"):
            push_compressed(tiny, FORMER)
        assert moved.snapshot("readers/model") == before
        push_compressed(tiny, FORMER, create_pr=True)
        assert "refs/pr/1" in moved.snapshot("readers/model").heads


class TestPullRequestOfOnesOwn:
    @pytest.mark.parametrize("repo_id", ["readers/model", "bob/model"])
    def test_is_changed_by_a_further_push(self, logged_in: HubServer, tiny: Path, repo_id: str):
        logged_in.store.create_repo(repo_id)
        push_compressed(tiny, repo_id, create_pr=True)
        change_weights(tiny)
        push_compressed(tiny, repo_id, revision="refs/pr/1")
        there = logged_in.snapshot(repo_id)
        assert there.files["refs/pr/1"]["model.safetensors"] == (tiny / "model.safetensors").read_bytes()
        assert there.files["main"].keys() == {".gitattributes"}
        assert (front_matter(there.files["refs/pr/1"]["README.md"].decode()) or {})["license"] == "mit"
        authors = [commit.author for commit in logged_in.store.repos[repo_id].history("refs/pr/1")]
        assert authors == ["alice", "alice", repo_id.split("/")[0]]

    def test_that_of_another_is_refused(self, logged_in: HubServer, tiny: Path):
        logged_in.store.create_repo("bob/model")
        logged_in.store.add_user("carol")
        push_compressed(tiny, "bob/model", create_pr=True, token=logged_in.store.issue_token("carol"))
        before = logged_in.snapshot("bob/model")
        change_weights(tiny)
        with pytest.raises(HubError, match=r"could not upload the files, the token lacks the permission \(HTTP 403\)"):
            push_compressed(tiny, "bob/model", revision="refs/pr/1")
        assert logged_in.snapshot("bob/model") == before
