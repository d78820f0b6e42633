"""The faults of the loopback Hub, as the real huggingface_hub client meets them."""

import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils._http import parse_ratelimit_headers

from tests.hub_client_library import http
from tests.hub_server import HubServer
from tests.integration.sample_model import WEIGHTS, contents, upload


class TestFaults:
    def test_unknown_faults_are_refused(self, hub: HubServer):
        with pytest.raises(ValueError, match="step='upload' is not one of whoami, create"):
            hub.inject("upload")
        with pytest.raises(ValueError, match="mode='slow' is not one of status, timeout"):
            hub.inject("commit", mode="slow")
        with pytest.raises(ValueError, match="mode='race' happens at step='commit' alone, not at 'batch'"):
            hub.inject("batch", mode="race")

    @pytest.mark.parametrize("step", ["preupload", "batch", "lfs_upload", "verify"])
    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_passing_fault_is_ridden_out_by_the_client(self, hub, hub_api, folder, no_waiting, step: str, status: int):
        fault = hub.inject(step, status=status, times=2)
        upload(hub_api, folder)
        assert fault.fired == 2
        assert hub.snapshot("alice/model").files["main"].items() >= contents(folder).items()
        seconds = {429: [1.0, 1.0], 500: [1, 2], 503: [1.0, 1.0]}[status]
        assert sorted(no_waiting) == seconds or step in ("lfs_upload", "verify")  # two threads, each with its own waits

    @pytest.mark.parametrize("step", ["create", "preupload", "batch", "lfs_upload", "verify", "commit"])
    @pytest.mark.parametrize("status", [401, 403, 404, 409, 412, 413, 429, 500, 503])
    def test_lasting_fault_stops_the_push_and_a_repeat_completes_it(
        self, hub, hub_api, folder, no_waiting, step: str, status: int
    ):
        upload(hub_api, folder)
        before = hub.snapshot("alice/model")
        (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
        fault = hub.inject(step, status=status, times=None)
        if (step, status) in (("create", 409), ("create", 401), ("create", 403)):
            hub.inject("preupload", status=status, times=None)  # exist_ok goes on if the repo is there already
        with pytest.raises((HfHubHTTPError, RuntimeError)) as caught:
            upload(hub_api, folder)
        error = caught.value if isinstance(caught.value, HfHubHTTPError) else caught.value.__cause__
        assert isinstance(error, HfHubHTTPError)
        assert error.response.status_code == status
        assert fault.fired >= 1
        assert hub.snapshot("alice/model") == before
        hub.clear_faults()
        upload(hub_api, folder)
        assert hub.snapshot("alice/model").files["main"].items() >= contents(folder).items()

    def test_fault_in_the_third_part_of_an_upload(self, hub: HubServer, hub_api: HfApi, folder: Path, no_waiting):
        hub.store.upload_part_bytes = 64_000
        hub.inject("lfs_upload", mode="drop", skip=2)
        upload(hub_api, folder, allow_patterns="*.safetensors")
        assert [(r.body_bytes, r.status, r.fault) for r in hub.log.of("lfs_upload")] == [
            (64_000, 200, None),
            (64_000, 200, None),
            (32_000, 0, "drop"),
            (64_000, 200, None),
            (64_000, 200, None),
        ]
        assert hub.snapshot("alice/model").files["main"]["model.safetensors"] == WEIGHTS

    def test_upload_that_arrives_corrupted_is_refused(self, hub: HubServer, hub_api: HfApi, folder: Path):
        hub.inject("lfs_upload", mode="corrupt", times=None)
        with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors'") as caught:
            upload(hub_api, folder, allow_patterns="*.safetensors")
        assert isinstance(caught.value.__cause__, BadRequestError)
        assert "BadDigest" in str(caught.value.__cause__)
        assert hub.snapshot("alice/model").files["main"].keys() == {".gitattributes"}

    def test_race_is_a_stale_parent(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        hub.inject("commit", mode="race")
        parent, operation = hub_api.model_info("alice/model").sha, CommitOperationAdd("a.txt", b"a")
        with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
            hub_api.create_commit("alice/model", [operation], commit_message="x", parent_commit=parent)
        assert hub_api.list_repo_files("alice/model") == [".gitattributes", "somebody.txt"]

    def test_lost_answer_is_a_commit_that_happened(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        hub.inject("commit", mode="lost_answer")
        operations = [CommitOperationAdd("a.txt", b"a")]
        with pytest.raises(http.RemoteProtocolError):
            hub_api.create_commit("alice/model", operations, commit_message="x")
        before = hub.snapshot("alice/model")
        assert before.history["main"] == ("x", "initial commit")
        hub_api.create_commit("alice/model", [CommitOperationAdd("a.txt", b"a")], commit_message="x")
        assert hub.snapshot("alice/model") == before

    def test_held_connection_ends_in_a_time_out_of_the_client(self, hub: HubServer, hub_api: HfApi):
        hub_api.create_repo("alice/model")
        fault = hub.inject("repo_info", mode="timeout", seconds=30)
        start = time.monotonic()
        with pytest.raises(http.ReadTimeout):
            hub_api.model_info("alice/model", timeout=0.2)
        assert fault.fired == 1
        assert time.monotonic() - start < 20
        assert hub_api.model_info("alice/model", timeout=5).id == "alice/model"

    def test_truncated_download_is_repeated(self, hub: HubServer, hub_api: HfApi, folder: Path, no_waiting):
        upload(hub_api, folder)
        fault = hub.inject("download", mode="truncate", path="model.safetensors")
        assert Path(hub_api.hf_hub_download("alice/model", "model.safetensors")).read_bytes() == WEIGHTS
        assert fault.fired == 1
        assert [(request.status, request.fault) for request in hub.log.of("download")] == [
            (200, "truncate"),
            (200, None),
        ]

    def test_download_that_never_completes_leaves_no_file(self, hub, hub_api, folder, no_waiting, tmp_path):
        upload(hub_api, folder)
        hub.inject("download", mode="drop", path="model.safetensors", times=None)
        with pytest.raises(http.RemoteProtocolError):
            hub_api.hf_hub_download("alice/model", "model.safetensors")
        assert not list((tmp_path / "hub_cache").rglob("*.incomplete"))
        assert not [p for p in (tmp_path / "hub_cache").rglob("*") if p.is_file() and p.stat().st_size > 1000]

    def test_corrupted_download_is_not_noticed_by_the_client(self, hub: HubServer, hub_api: HfApi, folder: Path):
        """The reason for our own digest: a byte changed on the way is accepted silently."""
        upload(hub_api, folder)
        hub.inject("download", mode="corrupt", path="model.safetensors")
        data = Path(hub_api.hf_hub_download("alice/model", "model.safetensors")).read_bytes()
        assert len(data) == len(WEIGHTS)
        assert sum(a != b for a, b in zip(data, WEIGHTS, strict=True)) == 1

    def test_rate_limit_has_the_headers_that_the_client_reads(self, hub: HubServer, hub_api: HfApi):
        hub.inject("whoami", status=429)
        with pytest.raises(HfHubHTTPError) as caught:
            hub_api.whoami()
        limit = parse_ratelimit_headers(caught.value.response.headers)
        assert limit is not None
        assert (limit.remaining, limit.reset_in_seconds) == (0, 0)

    def test_hub_that_is_down_is_told_apart_from_a_missing_file(self, hub, hub_api, folder, no_waiting):
        upload(hub_api, folder)
        hub.inject("head", status=503, times=None)
        with pytest.raises(LocalEntryNotFoundError) as caught:
            hub_api.hf_hub_download("alice/model", "config.json")
        assert isinstance(caught.value.__cause__, HfHubHTTPError)
        assert caught.value.__cause__.response.status_code == 503
