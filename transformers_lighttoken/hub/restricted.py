"""Refusals of files that are only to be read: their owner gives them to some accounts alone."""

from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from .errors import HubError, failure_line, is_of_storage, quote

_REMEDY = "Ask for access at {endpoint}/{repo}, or pass license= (on the command line --license)."


class RestrictedError(HubError):
    """The base model's files may not be read with this token."""


def explain_restriction(error: BaseException, action: str, repo_id: str) -> RestrictedError | None:
    """The `RestrictedError` that an error of huggingface_hub means; None if it means something else.

    Args:
        error: what huggingface_hub raised when a file was to be read.
        action: what was attempted, as for `call_hub`.
        repo_id: the repository, `namespace/name`.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        return explain_restriction(error.__cause__, action, repo_id)
    if not isinstance(error, HfHubHTTPError):
        return None
    status = error.response.status_code
    is_forbidden = status == 403 and not isinstance(error, DisabledRepoError) and not is_of_storage(error)
    if not isinstance(error, GatedRepoError) and not is_forbidden:
        return None
    what, says = f"access to it is restricted (HTTP {status})", quote(error.server_message, error)
    line = failure_line(action, repo_id, what, _REMEDY, says=says, error=error)
    return RestrictedError(line, status=status, request_id=error.request_id)
