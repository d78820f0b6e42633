"""Each fault at each step of a push becomes one line of ours, and a token never appears in it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from tests.hub_server import HubServer
from tests.integration.sample_model import contents, upload
from transformers_lighttoken.hub.errors import HubError, call_hub, require_write_permission

STATUSES = {
    401: "the Hub does not accept the token (HTTP 401). Log in with `hf auth login`",
    403: "the token may only read, it lacks the permission `write` (HTTP 403).",
    404: "there is no such repository, or the token cannot see it (HTTP 404).",
    409: "another operation changes it right now (HTTP 409). Wait a moment and repeat.",
    412: "somebody else committed to it meanwhile, so nothing was changed (HTTP 412).",
    413: "the request is too large for the Hub (HTTP 413). Save the model in smaller files",
    429: "too many requests were made (HTTP 429). Wait a minute and repeat.",
    500: "the Hub itself is in trouble (HTTP 500). Repeat in a few minutes.",
    503: "the Hub itself is in trouble (HTTP 503). Repeat in a few minutes.",
    504: "the Hub itself is in trouble (HTTP 504). Repeat in a few minutes.",
}
STORAGE = "the storage host refuses the signed address, which may have expired (HTTP {}). Repeat it"
STEPS = ("create", "validate_yaml", "preupload", "batch", "lfs_upload", "lfs_complete", "verify", "commit")


@pytest.fixture
def push(hub: HubServer, hub_api: HfApi, folder: Path) -> Callable[[], None]:
    """Creates the repository and uploads the folder, the weights in parts."""
    hub.store.upload_part_bytes = 100_000

    def run() -> None:
        call_hub("create the repository", "alice/model", lambda: hub_api.create_repo("alice/model", exist_ok=True))
        call_hub("upload the files", "alice/model", lambda: upload(hub_api, folder))

    return run


def check_line(error: HubError, hub: HubServer) -> None:
    text = str(error)
    assert text.startswith("alice/model: could not ")
    assert "\n" not in text
    assert error.__cause__ is None
    assert error.__context__ is None
    for token in (hub.write_token, hub.read_token, hub.store.signature):
        assert token not in repr(error)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", STATUSES)
def test_every_status_at_every_step(hub, push, folder, no_waiting, step: str, status: int):
    fault = hub.inject(step, status=status, times=None)
    with pytest.raises(HubError) as caught:
        push()
    assert fault.fired >= 1
    check_line(caught.value, hub)
    if (step, status) == ("create", 409):  # the client takes it for "exists already", and then misses the repository
        assert "there is no such repository" in str(caught.value)
    elif step == "validate_yaml" and status in (413, 500, 503, 504):  # the client reads the page as JSON
        assert "the answer is not the Hub's (no JSON). Repeat later" in str(caught.value)
    elif step == "lfs_upload" and status in (401, 403, 404):
        assert STORAGE.format(status) in str(caught.value)
        assert caught.value.status == status
    else:
        assert STATUSES[status] in str(caught.value)
        assert caught.value.status == status
    assert set(hub.snapshot("alice/model").files.get("main", {})) <= {".gitattributes"}
    hub.clear_faults()
    push()
    assert hub.snapshot("alice/model").files["main"].items() >= contents(folder).items()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mode", ["timeout", "drop"])
def test_every_broken_connection_at_every_step(hub, push, folder, no_waiting, step: str, mode: str):
    fault = hub.inject(step, mode=mode, times=None, seconds=0.02)
    with pytest.raises(HubError, match="the connection broke off. Repeat it.") as caught:
        push()
    assert fault.fired >= 1
    check_line(caught.value, hub)
    assert set(hub.snapshot("alice/model").files.get("main", {})) <= {".gitattributes"}
    hub.clear_faults()
    push()
    assert hub.snapshot("alice/model").files["main"].items() >= contents(folder).items()


def test_large_file_is_named(hub: HubServer, push: Callable[[], None], no_waiting: list[float]):
    hub.inject("lfs_upload", path="/storage/", times=None, mode="corrupt")
    with pytest.raises(HubError, match=r"could not upload (model\.safetensors|pictures/bytes\.png), the Hub refuses"):
        push()


def test_time_out_of_the_client(hub: HubServer, hub_api: HfApi):
    hub.inject("repo_info", mode="timeout", seconds=10)
    with pytest.raises(HubError, match="the Hub did not answer in time. Check the connection and repeat."):
        call_hub("look it up", "alice/model", lambda: hub_api.model_info("alice/model", timeout=0.2))


def test_no_server_at_all(hub: HubServer, hub_api: HfApi):
    hub.__exit__()
    with pytest.raises(HubError, match=f"there is no connection to {hub.url}. Check the network") as caught:
        call_hub("create the repository", "alice/model", lambda: hub_api.create_repo("alice/model"))
    check_line(caught.value, hub)


def test_stale_parent(hub: HubServer, hub_api: HfApi):
    hub.store.create_repo("alice/model")
    parent = hub_api.model_info("alice/model").sha
    hub.inject("commit", mode="race")
    operations = [CommitOperationAdd("a.txt", b"a")]

    def commit() -> object:
        return hub_api.create_commit("alice/model", operations, commit_message="x", parent_commit=parent)

    with pytest.raises(HubError, match="somebody else committed to it meanwhile, so nothing was changed") as caught:
        call_hub("commit", "alice/model", commit)
    assert caught.value.status == 412


@pytest.mark.parametrize(
    ("who", "line"),
    [
        ("bad_token", "the Hub does not accept the token (HTTP 401)"),
        ("read_token", "the token lacks the permission (HTTP 403). Use a token with write permission for alice"),
        ("other_token", "the token lacks the permission (HTTP 403). Use a token with write permission for alice"),
    ],
)
def test_real_refusals_of_tokens(hub: HubServer, hub_here: HubServer, who: str, line: str):
    api = HfApi(endpoint=hub.url, token=getattr(hub, who))
    with pytest.raises(HubError) as caught:
        call_hub("create the repository", "alice/model", lambda: api.create_repo("alice/model"))
    assert line in str(caught.value)
    check_line(caught.value, hub)


def test_no_token(hub_here: HubServer):
    with pytest.raises(HubError, match="there is no token. Log in with `hf auth login`"):
        call_hub("log in", "alice/model", HfApi(endpoint=hub_here.url).whoami)
    nobody = HfApi(endpoint=hub_here.url, token=False)
    with pytest.raises(HubError, match=r"the Hub asks for a token, and none was sent \(HTTP 401\)\. Log in with"):
        call_hub("create the repository", "alice/model", lambda: nobody.create_repo("alice/model"))


def test_read_only_token_is_seen_before_anything_is_sent(hub: HubServer, hub_api: HfApi):
    require_write_permission(hub_api.whoami(), "alice/model")
    with pytest.raises(HubError, match="the token may only read, its role lacks the permission `write`"):
        require_write_permission(hub_api.whoami(token=hub.read_token), "alice/model")
    with pytest.raises(HubError, match="has the role `read` in readers"):
        require_write_permission(hub_api.whoami(), "readers/model")
    token = hub.store.issue_token("alice", "fineGrained", ["repo.content.read"])
    with pytest.raises(HubError, match="lacks the permission `repo.write` for alice"):
        require_write_permission(hub_api.whoami(token=token), "alice/model")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"step": "head", "status": 503}, "the Hub itself is in trouble (HTTP 503)"),
        ({"step": "head", "status": 401}, "the Hub does not accept the token (HTTP 401)"),
        ({"step": "download", "status": 403}, STORAGE.format(403)),
        ({"step": "download", "status": 429}, "too many requests were made (HTTP 429)"),
        ({"step": "download", "mode": "truncate"}, "the connection broke off"),
        ({"step": "download", "mode": "drop"}, "the connection broke off"),
    ],
)
def test_downloads(hub, hub_api, folder, no_waiting, fault: dict, line: str):
    upload(hub_api, folder)
    hub.inject(**fault, times=None)
    with pytest.raises(HubError) as caught:
        call_hub("fetch it", "alice/model", lambda: hub_api.hf_hub_download("alice/model", "model.safetensors"))
    assert line in str(caught.value)
    check_line(caught.value, hub)
