"""How to push: where to, with which token, under which message."""

import re
from dataclasses import dataclass, field

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .markup import one_line
from .optional import import_for_card

PULL_REQUEST = re.compile(r"refs/pr/[1-9]\d*")
_BRANCH = re.compile(r"(?!refs/)[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_NO_BRANCH = re.compile(r"\.\.|//|/\.|\.lock(/|$)|[./]$")  # git refuses these


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    Attributes:
        private: of a repository that is created; None for the namespace's own default.
        revision: branch or pull request (`refs/pr/N`) to push to; None for main.
        create_pr: opens a pull request instead of committing.
        token: of the user; the one that is logged in when None.
        message: of the commit.
        description: of the commit.
    """

    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    token: str | bool | None = field(default=None, repr=False)
    message: str | None = None
    description: str | None = None


def check_arguments(repo_id: str, options: PushOptions) -> None:
    """Checks what can be checked without asking the Hub.

    Raises:
        ValueError: naming the argument.
        ImportError: if the libraries of the extra `card` are missing.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id must be a repository on the Hub (namespace/name): {one_line(error)}") from error
    revision = options.revision
    is_request = revision is not None and PULL_REQUEST.fullmatch(revision) is not None
    if revision is not None and not is_request and (not _BRANCH.fullmatch(revision) or _NO_BRANCH.search(revision)):
        raise ValueError(f"revision must be the name of a branch, or refs/pr/N, got {one_line(revision)!r}.")
    if options.create_pr and is_request:
        raise ValueError(f"create_pr opens a new pull request: leave it out to push to {revision!r}.")
    if options.token is False:
        raise ValueError("token=False: a push needs a token with write permission.")
    for library in ("jinja2", "matplotlib"):
        import_for_card(library)
