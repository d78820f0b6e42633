"""Every failure of the Hub becomes one line with the remedy, and never shows a token."""

import json
import pickle
from collections.abc import Callable
from typing import NoReturn

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import hf_raise_for_status
from hypothesis import given
from hypothesis import strategies as st

from tests.hub_client_library import http
from transformers_lighttoken.hub.errors import (
    HubError,
    call_hub,
    explain_hub_error,
)

TOKEN = "hf_" + "aB" * 17
ODD_TOKEN = "corporate-secret-77"
TOKENS_PAGE = f"{constants.ENDPOINT}/settings/tokens"


def raiser(error: BaseException) -> Callable[[], NoReturn]:
    def call() -> NoReturn:
        raise error

    return call


def answered(
    status: int, message: str = "", code: str | None = None, token: str = TOKEN, body: str | None = None, **headers: str
) -> errors.HfHubHTTPError:
    """The error that huggingface_hub itself makes of an answer."""
    request = http.Request(
        "POST", "https://huggingface.co/api/models/a/b", headers={"authorization": f"Bearer {token}"}
    )
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers |= {"X-Error-Message": message} if message else {}
    headers |= {"X-Error-Code": code} if code else {}
    content = json.dumps({"error": message}) if body is None else body
    with pytest.raises(errors.HfHubHTTPError) as caught:
        hf_raise_for_status(http.Response(status, headers=headers, request=request, text=content))
    return caught.value


def explained(error: BaseException) -> HubError:
    failure = explain_hub_error(error, "push", "a/b")
    assert failure is not None
    assert "\n" not in str(failure)
    return failure


@pytest.mark.parametrize(
    ("status", "what", "remedy"),
    [
        (400, "the Hub refuses the request", "Correct what it names and repeat."),
        (401, "the Hub does not accept the token", "Log in with `hf auth login`"),
        (403, "the token lacks the permission", f"Use a token with write permission for a ({TOKENS_PAGE})"),
        (404, "the Hub does not have it", "Check the name of the repository and of the revision."),
        (408, "the Hub gave up waiting for the request", "Repeat it."),
        (409, "another operation changes it right now", "Wait a moment and repeat."),
        (412, "somebody else committed to it meanwhile, so nothing was changed", "Repeat: it starts from the new"),
        (413, "the request is too large for the Hub", "max_shard_size"),
        (429, "too many requests were made", "Wait a minute and repeat."),
        (500, "the Hub itself is in trouble", "Repeat in a few minutes."),
        (503, "the Hub itself is in trouble", "Repeat in a few minutes."),
        (504, "the Hub itself is in trouble", "Repeat in a few minutes."),
        (418, "the Hub refuses the request", "See what it says"),
    ],
)
def test_each_status_has_its_line(status: int, what: str, remedy: str):
    message = "Invalid credentials in Authorization header" if status == 401 else "the server's own words"
    failure = explained(answered(status, message, X_Request_Id="Root=1-abc"))
    assert str(failure).startswith(f"a/b: could not push, {what}" if status != 409 else "a/b: could not push, it is")
    assert what in str(failure)
    assert f"(HTTP {status}). " in str(failure)
    assert remedy in str(failure)
    assert str(failure).endswith(f'The Hub says: "{message}"')
    assert (failure.status, failure.request_id) == (status, "Root=1-abc")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("RepoNotFound", "there is no such repository, or the token cannot see it (HTTP 404). Check the name. Log in"),
        ("RevisionNotFound", "it has no such revision (HTTP 404). Create the branch first"),
        ("EntryNotFound", "it has no such file (HTTP 404). Check the name of the file"),
        ("GatedRepo", f"access to it is restricted (HTTP 404). Ask its owner for access at {constants.ENDPOINT}/a/b."),
    ],
)
def test_what_is_not_found_is_told_apart(code: str, what: str):
    assert what in str(explained(answered(404, "not found", code)))


def test_private_or_missing_repo_without_a_token_is_a_401():
    line = str(explained(answered(401, "Repository not found", "RepoNotFound")))
    assert "there is no such repository, or the token cannot see it (HTTP 401)" in line


def test_disabled_repo():
    assert "it has been disabled (HTTP 403)" in str(explained(answered(403, "Access to this resource is disabled.")))


def test_read_only_token_is_named_with_the_missing_permission():
    line = str(explained(answered(403, "you must use a write token to upload to a repository.")))
    assert line == (
        "a/b: could not push, the token may only read, it lacks the permission `write` (HTTP 403). "
        f"Use a token with write permission for a ({TOKENS_PAGE}), or open a pull request instead."
    )


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"RateLimit": '"api";r=0;t=55'}, "Wait 55 seconds and repeat."),
        ({"Retry_After": "120"}, "Wait 120 seconds and repeat."),
        ({"Retry_After": "0"}, "Wait a minute and repeat."),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "Wait a minute and repeat."),
        ({}, "Wait a minute and repeat."),
    ],
)
def test_rate_limit_says_how_long(headers: dict[str, str], wait: str):
    assert wait in str(explained(answered(429, **headers)))


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (http.ReadTimeout("timed out"), "the Hub did not answer in time. Check the connection and repeat."),
        (http.ConnectTimeout("timed out"), "the Hub did not answer in time."),
        (TimeoutError("timed out"), "the Hub did not answer in time."),
        (http.ConnectError("[Errno 111]"), f"there is no connection to {constants.ENDPOINT}. Check the network"),
        (http.UnsupportedProtocol("no http://"), f"there is no connection to {constants.ENDPOINT}."),
        (http.InvalidURL("bad port"), "Check the network, the proxy settings and HF_ENDPOINT."),
        (http.RemoteProtocolError("peer closed"), "the connection broke off. Repeat it."),
        (http.WriteError("broken pipe"), "the connection broke off."),
        (ConnectionResetError("reset"), "the connection broke off."),
        (errors.OfflineModeIsEnabled("offline"), "offline mode is on. Unset HF_HUB_OFFLINE"),
        (errors.LocalTokenNotFoundError("no token"), "there is no token. Log in with `hf auth login`"),
        (errors.LocalEntryNotFoundError("no file"), "the files are not in the cache and could not be fetched."),
        (OSError("Consistency check failed: file should be of size 9"), "the download is incomplete. Repeat it."),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "the answer is not the Hub's (no JSON)."),
        (
            ValueError('Invalid metadata in README.md.\n- "license" must be one of [mit]'),
            'the Hub refuses the front matter of the card: - "license" must be one of [mit]. Correct it and repeat.',
        ),
        (
            ValueError("LFS batch API returned errors:\nEncountered error for file with OID 1: `quota"),
            "the Hub refuses a large file: Encountered error for file with OID 1: `quota.",
        ),
    ],
)
def test_failures_without_an_answer(error: Exception, what: str):
    failure = explained(error)
    assert f"a/b: could not push, {what}" in str(failure) or what in str(failure)
    assert failure.status is None


def test_upload_of_a_large_file_names_the_file():
    wrapped = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    wrapped.__cause__ = answered(503)
    failure = explained(wrapped)
    assert str(failure).startswith("a/b: could not upload model.safetensors, the Hub itself is in trouble (HTTP 503).")
    assert failure.status == 503


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (answered(503), "the Hub itself is in trouble (HTTP 503)"),
        (http.ConnectError("refused"), "there is no connection"),
        (errors.OfflineModeIsEnabled("offline"), "offline mode is on"),
        (errors.FileMetadataError("no ETag"), "the files are not in the cache"),
    ],
)
def test_missing_file_tells_the_reason_behind_it(cause: Exception, what: str):
    missing = errors.LocalEntryNotFoundError("cannot find the file")
    missing.__cause__ = cause
    assert what in str(explained(missing))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("revision"),
        RuntimeError("Error while uploading"),
        KeyError(1),
    ],
)
def test_errors_that_are_not_the_hubs_pass_unchanged(error: Exception):
    assert explain_hub_error(error, "push", "a/b") is None
    with pytest.raises(type(error)) as caught:
        call_hub("push", "a/b", raiser(error))
    assert caught.value is error


class TestSecrets:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413, 418, 429, 500, 503])
    @pytest.mark.parametrize("token", [TOKEN, ODD_TOKEN, "hf_oauth_eyJhbGciOi.J9-x_y"])
    def test_token_that_the_server_echoes_is_blanked_out(self, status: int, token: str):
        failure = explained(answered(status, f"token {token} (Bearer {token}) is bad", token=token))
        assert token not in repr(failure)
        assert token not in repr(vars(failure))
        assert "***" in str(failure)

    def test_token_of_somebody_else_in_the_text_is_blanked_out(self):
        failure = explained(answered(400, f"used by {TOKEN}", token=ODD_TOKEN))
        assert str(failure).endswith('The Hub says: "used by ***"')

    @pytest.mark.parametrize("start", range(255, 305, 7))
    def test_token_at_the_end_of_a_long_text_is_not_shown_in_part(self, start: int):
        line = str(explained(answered(400, "x" * start + f" {TOKEN}")))
        assert "hf_" not in line

    def test_signed_addresses_and_passwords_are_cut(self):
        message = "Forbidden for url https://user:pass@s3.example/x?X-Amz-Signature=ab12&x=1 see docs"
        line = str(explained(answered(403, message)))
        assert line.endswith('The Hub says: "Forbidden for url https://s3.example/x see docs"')

    def test_markup_is_left_out(self):
        for body in ("<html><h1>Bad gateway</h1>", f"<?xml version='1.0'?><Error>{ODD_TOKEN}</Error>"):
            line = str(explained(answered(502, body=body, Content_Type="text/plain")))
            assert line.endswith("(HTTP 502). Repeat in a few minutes. What has arrived is not sent again.")

    def test_original_error_with_its_request_is_not_chained(self):
        with pytest.raises(HubError) as caught:
            call_hub("push", "a/b", raiser(answered(503)))
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    @given(st.text(max_size=500))
    def test_any_text_of_the_server_stays_one_bounded_printable_line(self, text: str):
        failure = explain_hub_error(ValueError("LFS batch API returned errors:" + text), "push", "a/b")
        assert failure is not None
        assert str(failure).isprintable()
        assert len(str(failure)) < 450


def test_call_hub_returns_what_the_call_returns():
    assert call_hub("push", "a/b", lambda: 42) == 42


def test_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        call_hub("push", "a/b", raiser(KeyboardInterrupt()))


def test_error_survives_pickling():
    failure = explained(answered(503, X_Request_Id="Root=1-abc"))
    copy = pickle.loads(pickle.dumps(failure))
    assert (str(copy), copy.status, copy.request_id) == (str(failure), 503, "Root=1-abc")


class TestStorageHost:
    @staticmethod
    def refused(address: str, status: int) -> errors.HfHubHTTPError:
        with pytest.raises(errors.HfHubHTTPError) as caught:
            hf_raise_for_status(http.Response(status, request=http.Request("PUT", address), text="AccessDenied"))
        return caught.value

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_signed_address_that_is_refused_is_no_missing_permission(self, status: int):
        line = str(explained(self.refused("https://s3.example/x/1?part=2&X-Amz-Signature=ab12", status)))
        assert f"the storage host refuses the signed address, which may have expired (HTTP {status}). Repeat" in line
        assert "permission" not in line
        assert "ab12" not in line

    def test_the_hub_itself_and_other_troubles_of_the_storage_host(self):
        own = self.refused(f"{constants.ENDPOINT}/api/x?signature=ab12", 403)
        assert "the token lacks the permission (HTTP 403)" in str(explained(own))
        assert "in trouble (HTTP 503)" in str(explained(self.refused("https://s3.example/x?signature=ab12", 503)))
        assert "lacks the permission" in str(explained(self.refused("https://mirror.example/api/models/a/b", 403)))


class TestBrokenOff:
    def test_errors_of_another_library_that_mean_that_the_call_broke_off(self):
        with pytest.raises(HubError, match="a/b: could not upload, it broke off: cas refused") as caught:
            call_hub("upload", "a/b", raiser(RuntimeError(f"cas refused\n{TOKEN}")), broken=(RuntimeError,))
        assert TOKEN not in str(caught.value)
        assert str(caught.value).endswith("Repeat it. What has arrived is not sent again.")

    def test_others_pass(self):
        with pytest.raises(KeyError):
            call_hub("upload", "a/b", raiser(KeyError("x")), broken=(RuntimeError,))

    def test_our_own_error_passes_unchanged(self):
        own = HubError("said already", status=403)
        with pytest.raises(HubError) as caught:
            call_hub("upload", "a/b", raiser(own), broken=(RuntimeError,))
        assert caught.value is own
