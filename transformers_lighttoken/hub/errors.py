"""Errors of the Hub, and of the way to it, as one clear line that names the remedy and never a token."""

import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from .redaction import redact, redacted_logs

T = TypeVar("T")

# huggingface_hub 2 speaks through httpx2, 1 through httpx; both may be installed.
_HTTP_LIBRARIES = [import_module(name) for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
_TIMEOUTS: tuple[type[Exception], ...] = (TimeoutError, *(library.TimeoutException for library in _HTTP_LIBRARIES))
_NO_CONNECTION = tuple(
    error for lib in _HTTP_LIBRARIES for error in (lib.ConnectError, lib.ProxyError, lib.UnsupportedProtocol)
)
_BAD_ADDRESS: tuple[type[Exception], ...] = tuple(library.InvalidURL for library in _HTTP_LIBRARIES)
_TRANSPORT: tuple[type[Exception], ...] = (ConnectionError, *(library.HTTPError for library in _HTTP_LIBRARIES))

_NOT_THE_HUB = "Repeat later, and check the proxy settings and HF_ENDPOINT."
_REPEAT = "What has arrived is not sent again."
_LOG_IN = "Log in with `hf auth login`, or pass a token made at {tokens}."
_WRITE = "Use a token with write permission for {namespace} ({tokens}), or open a pull request instead."
# HTTP status -> what happened, remedy
_BY_STATUS = {
    400: ("the Hub refuses the request", "Correct what it names and repeat."),
    401: ("the Hub does not accept the token", _LOG_IN),
    403: ("the token lacks the permission", _WRITE),
    404: ("the Hub does not have it", "Check the name of the repository and of the revision."),
    408: ("the Hub gave up waiting for the request", f"Repeat it. {_REPEAT}"),
    409: ("it is there already, or another operation changes it right now", "Wait a moment and repeat."),
    412: ("somebody else committed to it meanwhile, so nothing was changed", "Repeat: it starts from the new state."),
    413: ("the request is too large for the Hub", "Save the model in smaller files (max_shard_size) and repeat."),
    429: ("too many requests were made", f"Wait {{wait}} and repeat. {_REPEAT}"),
}
_SERVER = ("the Hub itself is in trouble", f"Repeat in a few minutes. {_REPEAT}")
_STORAGE = ("the storage host refuses the signed address, which may have expired", "Repeat it: a new one is asked for.")
_UNKNOWN = ("the Hub refuses the request", "See what it says, and repeat.")
# Start of a ValueError of huggingface_hub -> what happened
_REFUSED_CONTENT = {
    "Invalid metadata in README.md.": "the Hub refuses the front matter of the card",
    "LFS batch API returned errors:": "the Hub refuses a large file",
}

_READ_ONLY = re.compile(r"\bwrite token\b|read-only", re.IGNORECASE)
_SIGNED = re.compile(r"[?&][^=&]*(?:signature|expires|sig)=", re.IGNORECASE)
_LONGEST_QUOTE = 300  # characters of what the Hub says


MALFORMED: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError)
"""What huggingface_hub raises on an answer of status 200 that is not what it expects."""


class HubError(RuntimeError):
    """A call of the Hub failed: one line, with the remedy.

    Attributes:
        status: the HTTP status, None if there was no answer.
        request_id: what the Hub's support asks for, if the Hub named one.
    """

    def __init__(self, message: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id


def call_hub(
    action: str,
    repo_id: str,
    call: Callable[[], T],
    *,
    broken: tuple[type[Exception], ...] = (),
    malformed: tuple[type[Exception], ...] = (),
) -> T:
    """Makes a call of the Hub and turns its failure into a `HubError`.

    The original error is not chained: it holds the request, and with it the token. What the client logs meanwhile is
    shown without secrets.

    Args:
        action: what is attempted, to follow "could not": "create the repository", "upload the files".
        repo_id: the repository, `namespace/name`.
        call: makes the call with huggingface_hub.
        broken: further errors that mean that the call broke off, as those of libraries that bring their own.
        malformed: further errors that mean that the answer is not one of the Hub's: `MALFORMED`, where `call` does
            nothing but ask the Hub.

    Raises:
        HubError: if the Hub, or the connection to it, fails. Any other error passes unchanged.
    """
    try:
        with redacted_logs():
            return call()
    except HubError:
        raise
    except Exception as error:
        failure = explain_hub_error(error, action, repo_id)
        if failure is None and isinstance(error, broken):
            what = f"it broke off: {quote(str(error), error)}"
            failure = HubError(failure_line(action, repo_id, what, f"Repeat it. {_REPEAT}", error=error))
        if failure is None and isinstance(error, malformed):
            what = f"the answer is not the Hub's ({type(error).__name__}: {quote(str(error), error)})"
            failure = HubError(failure_line(action, repo_id, what, _NOT_THE_HUB, error=error))
        if failure is None:
            raise
    raise failure


def explain_hub_error(error: BaseException, action: str, repo_id: str) -> HubError | None:
    """The `HubError` that tells what an error of huggingface_hub means; None if it is not one of the Hub's.

    Args:
        error: what huggingface_hub raised.
        action: what was attempted, as for `call_hub`.
        repo_id: the repository, `namespace/name`.
    """
    if isinstance(error, RuntimeError) and str(error).startswith("Error while uploading") and error.__cause__:
        file = re.search(r"'(.+)'", str(error))
        return explain_hub_error(error.__cause__, f"upload {file.group(1)}" if file else action, repo_id)
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        deeper = explain_hub_error(error.__cause__, action, repo_id)
        if deeper:
            return deeper
    if isinstance(error, HfHubHTTPError):
        return _explain_answer(error, action, repo_id)
    reason = _explain_without_answer(error)
    return HubError(failure_line(action, repo_id, *reason, error=error)) if reason else None


def require_write_permission(account: Mapping[str, Any], repo_id: str, *, create_pr: bool = False) -> None:
    """Refuses a token that is known to be unable to write, before anything is sent.

    Args:
        account: the answer of `HfApi.whoami`.
        repo_id: where to write, `namespace/name`.
        create_pr: a pull request takes a token that may write, but no right to the repository.

    Raises:
        HubError: names the permission that is missing. What `account` leaves open is left to the Hub.
    """
    namespace = repo_id.split("/")[0]
    token = account.get("auth", {}).get("accessToken", {})
    missing = None
    if token.get("role") == "read":
        missing = "the token may only read, its role lacks the permission `write`"
    elif token.get("role") == "fineGrained" and not create_pr and not _scope_allows_writing(token, repo_id):
        missing = f"the fine-grained token lacks the permission `repo.write` for {namespace}"
    roles = {_folded(org.get("name")): org.get("roleInOrg") for org in account.get("orgs", [])}
    if missing is None and not create_pr and roles.get(_folded(namespace)) == "read":
        missing = f"{account.get('name')} has the role `read` in {namespace}, and lacks the role `write`"
    if missing:
        raise HubError(failure_line("write", repo_id, missing, _WRITE))


def _scope_allows_writing(token: Mapping[str, Any], repo_id: str) -> bool:
    scopes = token.get("fineGrained", {}).get("scoped", [])
    names = (_folded(repo_id), _folded(repo_id.split("/")[0]))
    writable = [scope for scope in scopes if "repo.write" in scope.get("permissions", [])]
    return any(_folded(scope.get("entity", {}).get("name")) in names for scope in writable)


def _folded(name: Any) -> str:
    """A name as the Hub compares it: capital letters make no other namespace or repository."""
    return str(name).casefold()


def _explain_answer(error: HfHubHTTPError, action: str, repo_id: str) -> HubError:
    """For an error status that the Hub sent."""
    status, bad_token = error.response.status_code, "Invalid credentials" in (error.server_message or "")
    what, remedy = _BY_STATUS.get(status, _SERVER if status >= 500 else _UNKNOWN)
    says = quote(error.server_message, error)
    if status in (401, 403, 404, 410) and is_of_storage(error):
        what, remedy = _STORAGE
    elif isinstance(error, GatedRepoError):
        what, remedy = "access to it is restricted", "Ask its owner for access at {endpoint}/{repo}."
    elif isinstance(error, DisabledRepoError):
        what, remedy = "it has been disabled", "Use another repository."
    elif isinstance(error, RevisionNotFoundError):
        what, remedy = "it has no such revision", "Create the branch first, or name one that is there."
    elif isinstance(error, EntryNotFoundError):
        what, remedy = "it has no such file", "Check the name of the file and the revision."
    elif isinstance(error, RepositoryNotFoundError) and not bad_token:
        what, remedy = "there is no such repository, or the token cannot see it", f"Check the name. {_LOG_IN}"
    elif status == 401 and not bad_token and not _token_of(error):
        what = "the Hub asks for a token, and none was sent"
    elif status == 403 and _READ_ONLY.search(error.server_message or ""):
        what, says = "the token may only read, it lacks the permission `write`", ""
    line = failure_line(action, repo_id, f"{what} (HTTP {status})", remedy, says=says, wait=_wait(error), error=error)
    return HubError(line, status=status, request_id=error.request_id)


def is_of_storage(error: HfHubHTTPError) -> bool:
    """Whether the answer is that of the host that keeps large files, to which signed addresses lead."""
    try:
        address = str(error.response.request.url)
    except RuntimeError:  # httpx: the request was never set
        return False
    return urlsplit(address).netloc != urlsplit(constants.ENDPOINT).netloc and bool(_SIGNED.search(address))


def _explain_without_answer(error: BaseException) -> tuple[str, str] | None:
    """What happened and the remedy, for an error other than a status; None if it is not the Hub's."""
    text = str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on", "Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE."
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token", _LOG_IN
    if isinstance(error, LocalEntryNotFoundError):
        return "the files are not in the cache and could not be fetched", "Check the connection and repeat."
    if isinstance(error, _TIMEOUTS):
        return "the Hub did not answer in time", f"Check the connection and repeat. {_REPEAT}"
    if isinstance(error, _NO_CONNECTION + _BAD_ADDRESS):
        return "there is no connection to {endpoint}", "Check the network, the proxy settings and HF_ENDPOINT."
    if isinstance(error, _TRANSPORT):
        return "the connection broke off", f"Repeat it. {_REPEAT}"
    if isinstance(error, OSError) and text.startswith("Consistency check failed"):
        return "the download is incomplete", "Repeat it."
    if isinstance(error, json.JSONDecodeError):
        return "the answer is not the Hub's (no JSON)", _NOT_THE_HUB
    for start, what in _REFUSED_CONTENT.items():
        if isinstance(error, ValueError) and text.startswith(start):
            return f"{what}: {quote(text.removeprefix(start), error)}", "Correct it and repeat."
    return None


def _wait(error: HfHubHTTPError) -> str:
    """How long the Hub asks to wait, in words."""
    limit = parse_ratelimit_headers(error.response.headers)
    seconds = str(limit.reset_in_seconds) if limit else error.response.headers.get("Retry-After", "")
    return f"{seconds} seconds" if seconds.isdigit() and int(seconds) > 0 else "a minute"


def quote(server_message: str | None, error: BaseException) -> str:
    """What the Hub says, in one line of bounded length; nothing if it is a page of markup."""
    text = _without_secrets(server_message or "", error)
    if text.startswith("<"):
        return ""
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def failure_line(
    action: str,
    repo_id: str,
    what: str,
    remedy: str,
    *,
    says: str = "",
    wait: str = "",
    error: BaseException | None = None,
) -> str:
    """Puts the line together."""
    endpoint = constants.ENDPOINT
    facts = {"{endpoint}": endpoint, "{tokens}": f"{endpoint}/settings/tokens", "{wait}": wait, "{repo}": repo_id}
    facts["{namespace}"] = repo_id.split("/")[0]
    for name, value in facts.items():
        what, remedy = what.replace(name, value), remedy.replace(name, value)
    line = f"{repo_id}: could not {action}, {what}. {remedy}" + (f' The Hub says: "{says}"' if says else "")
    return _without_secrets(line, error)


def _without_secrets(text: str, error: BaseException | None) -> str:
    """The text in one printable line, without tokens, passwords and the queries of signed addresses."""
    text = redact(text, _token_of(error))
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _token_of(error: BaseException | None) -> str:
    """The token that a failed request carried, so that no answer can make us repeat it."""
    holder = getattr(error, "response", error)  # the error's own `request` is lost in HfHubHTTPError
    try:
        request = getattr(holder, "request", None)
    except RuntimeError:  # httpx: the request was never set
        return ""
    return request.headers.get("authorization", "").removeprefix("Bearer ") if request is not None else ""
