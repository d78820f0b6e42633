"""The loopback Hub, proved against the real huggingface_hub client: accounts, uploads, refs, listings."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import HubServer
from tests.integration.sample_model import CARD, WEIGHTS, contents, post_commit, upload


class TestAccounts:
    def test_whoami_tells_the_role_of_the_token_and_the_organisations(self, hub: HubServer, hub_api: HfApi):
        assert hub_api.whoami()["name"] == "alice"
        assert hub_api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"
        roles = {org["name"]: org["roleInOrg"] for org in hub_api.whoami()["orgs"]}
        assert roles == {"acme": "write", "readers": "read"}
        token = hub.store.issue_token("alice", "fineGrained", ["repo.content.read"])
        scopes = hub_api.whoami(token=token)["auth"]["accessToken"]["fineGrained"]["scoped"]
        assert scopes[0]["permissions"] == ["repo.content.read"]

    def test_bad_token_is_refused_everywhere(self, hub: HubServer, hub_api: HfApi):
        for call in (hub_api.whoami, lambda token: hub_api.create_repo("alice/x", token=token)):
            with pytest.raises(HfHubHTTPError) as caught:
                call(token=hub.bad_token)
            assert caught.value.response.status_code == 401
        assert hub.store.repos == {}

    @pytest.mark.parametrize("repo_id", ["bob/x", "readers/x", "nobody/x"])
    def test_no_repo_under_a_namespace_without_rights(self, hub: HubServer, hub_api: HfApi, repo_id: str):
        with pytest.raises(HfHubHTTPError, match="You don't have the rights to create a model") as caught:
            hub_api.create_repo(repo_id)
        assert caught.value.response.status_code == 403
        assert hub.store.repos == {}

    def test_read_token_creates_and_commits_nothing(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        before = hub.snapshot("alice/model")
        reader = HfApi(endpoint=hub.url, token=hub.read_token)
        with pytest.raises(HfHubHTTPError, match="rights to create a model"):
            reader.create_repo("alice/second")
        (folder / "config.json").write_text("{}")
        with pytest.raises(HfHubHTTPError, match="you must use a write token"):
            reader.upload_folder(repo_id="alice/model", folder_path=folder)
        assert hub.snapshot("alice/model") == before
        assert not hub.snapshot("alice/second").heads

    def test_create_with_exist_ok_and_without(self, hub: HubServer, hub_api: HfApi):
        url = hub_api.create_repo("acme/model", private=True)
        assert (url.repo_id, url.endpoint) == ("acme/model", hub.url)
        assert hub_api.create_repo("acme/model", exist_ok=True) == url
        with pytest.raises(HfHubHTTPError, match="You already created this model repo") as caught:
            hub_api.create_repo("acme/model")
        assert caught.value.response.status_code == 409
        snapshot = hub.snapshot("acme/model")
        assert snapshot.private
        assert snapshot.files["main"].keys() == {".gitattributes"}

    def test_delete_takes_rights_and_an_existing_repo(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        with pytest.raises(HfHubHTTPError) as caught:
            hub_api.delete_repo("alice/model", token=hub.other_token)
        assert caught.value.response.status_code == 403
        hub_api.delete_repo("alice/model")
        assert not hub.snapshot("alice/model").heads
        with pytest.raises(RepositoryNotFoundError):
            hub_api.delete_repo("alice/model")
        hub_api.delete_repo("alice/model", missing_ok=True)


class TestUploads:
    def test_folder_arrives_byte_for_byte_in_one_commit(self, hub: HubServer, hub_api: HfApi, folder: Path):
        commit = upload(hub_api, folder)
        snapshot = hub.snapshot("alice/model")
        files = dict(snapshot.files["main"])
        assert b"*.safetensors filter=lfs" in files.pop(".gitattributes")
        assert files == contents(folder)
        assert snapshot.history["main"] == ("push", "initial commit")
        assert snapshot.heads == {"main": commit.oid}
        assert hub.log.counts()["lfs_upload"] == 2  # the weights by name, the picture because it is binary

    def test_second_upload_of_the_same_files_sends_nothing(self, hub: HubServer, hub_api: HfApi, folder: Path):
        first = upload(hub_api, folder)
        before = hub.snapshot("alice/model")
        hub.log.clear()
        assert upload(hub_api, folder).oid == first.oid
        assert hub.snapshot("alice/model") == before
        counts = hub.log.counts()
        assert counts["preupload"] == 1
        assert counts["commit"] == counts["lfs_upload"] == hub.log.uploaded_bytes() == 0

    def test_only_the_changed_file_is_sent(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        hub.log.clear()
        upload(hub_api, folder)
        assert hub.log.counts()["lfs_upload"] == 0
        assert 0 < hub.log.uploaded_bytes() < 500
        snapshot = hub.snapshot("alice/model")
        assert snapshot.files["main"]["config.json"] == b'{"model_type": "gpt2"}'
        assert len(snapshot.history["main"]) == 3

    @pytest.mark.parametrize("part_bytes", [64_000, 100_000, 255_999])
    def test_large_file_in_parts(self, hub: HubServer, hub_api: HfApi, folder: Path, part_bytes: int):
        hub.store.upload_part_bytes = part_bytes
        upload(hub_api, folder, allow_patterns="*.safetensors")
        sizes = [request.body_bytes for request in hub.log.of("lfs_upload")]
        assert sizes == [part_bytes] * (len(WEIGHTS) // part_bytes) + [len(WEIGHTS) % part_bytes] * (
            len(WEIGHTS) % part_bytes > 0
        )
        assert hub.log.counts()["lfs_complete"] == hub.log.counts()["verify"] == 1
        snapshot = hub.snapshot("alice/model")
        assert snapshot.files["main"]["model.safetensors"] == WEIGHTS

    def test_stale_parent_is_refused_and_a_fresh_one_taken(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        old = hub_api.model_info("alice/model").sha
        new = hub.commit("alice/model", {"other.txt": b"other"})
        before = hub.snapshot("alice/model")
        operation = CommitOperationAdd("ours.txt", b"ours")
        with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
            hub_api.create_commit("alice/model", [operation], commit_message="ours", parent_commit=old)
        assert caught.value.response.status_code == 412
        assert hub.snapshot("alice/model") == before
        hub_api.create_commit("alice/model", [operation], commit_message="ours", parent_commit=new)
        assert hub_api.list_repo_files("alice/model") == [".gitattributes", "other.txt", "ours.txt"]

    def test_deleting_files_and_folders(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        operations = [CommitOperationDelete("config.json"), CommitOperationDelete("pictures/")]
        hub_api.create_commit("alice/model", operations, commit_message="less")
        assert set(hub_api.list_repo_files("alice/model")) == {".gitattributes", "README.md", "model.safetensors"}
        with pytest.raises(EntryNotFoundError):
            hub_api.create_commit("alice/model", [CommitOperationDelete("config.json")], commit_message="again")

    def test_commit_refuses_what_the_real_hub_refuses(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        missing = {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}
        reply = post_commit(hub, "lfsFile", missing)
        assert (reply.status_code, "does not exist" in reply.json()["error"]) == (400, True)
        assert hub_api.list_repo_files("alice/model") == [".gitattributes"]


class TestPullRequestsAndRefs:
    def test_pull_request_leaves_the_branch_alone(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        before = hub.snapshot("alice/model")
        stranger = HfApi(endpoint=hub.url, token=hub.other_token)
        operation = CommitOperationAdd("config.json", b"{}")
        with pytest.raises(HfHubHTTPError, match="create_pr=1"):
            stranger.create_commit("alice/model", [operation], commit_message="mine")
        info = stranger.create_commit("alice/model", [operation], commit_message="mine", create_pr=True)
        assert info.pr_url == f"{hub.url}/alice/model/discussions/1"
        assert info.pr_revision == "refs/pr/1"
        after = hub.snapshot("alice/model")
        assert after.files["main"] == before.files["main"]
        assert after.files["refs/pr/1"] == before.files["main"] | {"config.json": b"{}"}
        path = hub_api.hf_hub_download("alice/model", "config.json", revision="refs/pr/1")
        assert Path(path).read_bytes() == b"{}"

    def test_pull_request_is_its_authors(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("acme/model")
        assert hub.store.repos["acme/model"].history("main")[0].author == "alice"
        hub.store.add_user("carol")
        bob, carol = (HfApi(endpoint=hub.url, token=hub.store.issue_token(name)) for name in ("bob", "carol"))
        operations = [CommitOperationAdd("a.txt", b"1"), CommitOperationAdd("a.bin", b"\0\1")]
        bob.create_commit("acme/model", operations, commit_message="mine", create_pr=True)
        (opened,) = carol.get_repo_discussions("acme/model")
        assert (opened.author, opened.num, opened.title, opened.is_pull_request) == ("bob", 1, "mine", True)
        more = [CommitOperationAdd("b.bin", b"\0\2")]
        with pytest.raises(HfHubHTTPError, match="create_pr=1"):
            carol.create_commit("acme/model", more, commit_message="hers", revision="refs/pr/1")
        bob.create_commit("acme/model", more, commit_message="more", revision="refs/pr/1")
        hub_api.create_commit(
            "acme/model", [CommitOperationAdd("c.txt", b"3")], commit_message="x", revision="refs/pr/1"
        )
        authors = [commit.author for commit in hub.store.repos["acme/model"].history("refs/pr/1")]
        assert authors == ["alice", "bob", "bob", "alice"]

    def test_commit_on_an_open_pull_request(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        first, second = [CommitOperationAdd("a.txt", b"1")], [CommitOperationAdd("a.txt", b"2")]
        hub_api.create_commit("alice/model", first, commit_message="x", create_pr=True)
        hub_api.create_commit("alice/model", second, commit_message="x", revision="refs/pr/1")
        snapshot = hub.snapshot("alice/model")
        assert snapshot.files["refs/pr/1"]["a.txt"] == b"2"
        assert snapshot.history["refs/pr/1"] == ("x", "x", "initial commit")

    def test_branches_and_tags(self, hub: HubServer, hub_api: HfApi, folder: Path):
        first = upload(hub_api, folder).oid
        hub_api.create_branch("alice/model", branch="small/v2")
        hub_api.create_branch("alice/model", branch="small/v2", exist_ok=True)
        with pytest.raises(HfHubHTTPError) as caught:
            hub_api.create_branch("alice/model", branch="small/v2")
        assert caught.value.response.status_code == 409
        hub_api.create_tag("alice/model", tag="v1")
        second = hub_api.upload_file(
            repo_id="alice/model", path_or_fileobj=b"{}", path_in_repo="config.json", revision="small/v2"
        ).oid
        refs = hub_api.list_repo_refs("alice/model", include_pull_requests=True)
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "small/v2": second}
        assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1", "refs/tags/v1", first)]
        assert refs.pull_requests == []
        for revision, content in (("small/v2", b"{}"), (second, b"{}"), ("v1", b'{"model_type": "bert"}')):
            path = hub_api.hf_hub_download("alice/model", "config.json", revision=revision)
            assert Path(path).read_bytes() == content
        history = hub_api.list_repo_commits("alice/model", revision="small/v2")
        assert [commit.commit_id for commit in history][:2] == [second, first]
        hub_api.delete_branch("alice/model", branch="small/v2")
        hub_api.delete_tag("alice/model", tag="v1")
        with pytest.raises(RevisionNotFoundError):
            hub_api.model_info("alice/model", revision="v1")
        with pytest.raises(RevisionNotFoundError):
            hub_api.delete_branch("alice/model", branch="small/v2")


class TestRenamed:
    def test_every_request_is_redirected(self, hub: HubServer, hub_api: HfApi, folder: Path):
        hub_api.create_repo("alice/former")
        hub_api.move_repo("alice/former", "acme/between")
        hub_api.move_repo("acme/between", "acme/model")
        hub.log.clear()
        hub_api.upload_folder(repo_id="alice/former", folder_path=folder)
        assert hub.snapshot("acme/model").files["main"].items() >= contents(folder).items()
        assert hub.snapshot("alice/former").heads == {}
        assert hub.store.repos.keys() == {"acme/model"}
        redirected = {request.step for request in hub.log if request.status == 307}
        assert redirected >= {"preupload", "batch", "commit"}
        for name in ("alice/former", "acme/between"):
            assert hub_api.model_info(name).id == "acme/model"
            assert [row.path for row in hub_api.list_repo_tree(name, "pictures")] == ["pictures/bytes.png"]
            for file in ("config.json", "model.safetensors"):
                path = Path(hub_api.hf_hub_download(name, file))
                assert path.read_bytes() == contents(folder)[file]

    def test_former_name_is_free_and_tells_strangers_nothing(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/former", private=True)
        hub_api.move_repo("alice/former", "alice/model")
        with pytest.raises(RepositoryNotFoundError):
            hub_api.model_info("alice/former", token=hub.other_token)
        with pytest.raises(HfHubHTTPError, match="rights to move a model under the namespace"):
            hub_api.move_repo("alice/model", "bob/model")
        hub_api.create_repo("alice/former")
        assert hub_api.model_info("alice/former").id == "alice/former"


class TestListings:
    def test_tree_in_pages(self, hub: HubServer, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        hub.store.tree_page_size = 2
        rows: dict[str, Any] = {
            row.path: row for row in hub_api.list_repo_tree("alice/model", recursive=True, expand=True)
        }
        assert hub.log.counts()["tree"] == 3
        assert set(rows) == {".gitattributes", "pictures", *contents(folder)}
        weights = rows["model.safetensors"]
        assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
        assert weights.last_commit.title == "push"
        assert rows[".gitattributes"].last_commit.title == "initial commit"
        git_sha1 = hashlib.sha1(b"blob %d\0" % len(CARD) + CARD.encode()).hexdigest()
        assert (rows["README.md"].blob_id, rows["README.md"].lfs) == (git_sha1, None)

    def test_one_level_and_one_folder(self, hub_api: HfApi, folder: Path):
        upload(hub_api, folder)
        top = [row.path for row in hub_api.list_repo_tree("alice/model")]
        assert top == [".gitattributes", "README.md", "config.json", "model.safetensors", "pictures"]
        assert [row.path for row in hub_api.list_repo_tree("alice/model", "pictures")] == ["pictures/bytes.png"]
        with pytest.raises(EntryNotFoundError):
            list(hub_api.list_repo_tree("alice/model", "nowhere"))

    def test_paths_info_and_model_info(self, hub_api: HfApi, folder: Path):
        commit = upload(hub_api, folder)
        found = hub_api.get_paths_info("alice/model", ["model.safetensors", "pictures", "absent"], expand=True)
        assert [row.path for row in found] == ["model.safetensors", "pictures"]
        info: Any = hub_api.model_info("alice/model", files_metadata=True)
        assert (info.sha, info.private, info.library_name, info.tags) == (commit.oid, False, "transformers", ["small"])
        assert info.card_data.license == "mit"
        sizes = {sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in info.siblings}
        assert sizes["model.safetensors"] == (len(WEIGHTS), True)
        assert sizes["README.md"] == (len(CARD), False)
