"""The calls of the Hub that a push makes, each with a time limit and with its errors in one line."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff, validate_repo_id

from ..version import __version__
from . import time_limits
from .errors import MALFORMED, HubError, call_hub, require_write_permission
from .options import PULL_REQUEST
from .target import MAIN, Target
from .time_limits import limited_time

logger = logging.getLogger(__name__)

T = TypeVar("T")
_REFUSED_CARD = "Invalid metadata in README.md."  # as huggingface_hub says it
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_api(token: str | bool | None) -> HfApi:
    """huggingface_hub's client, which says that it is ours."""
    return HfApi(token=token, library_name="transformers-lighttoken", library_version=__version__)


@dataclass(frozen=True)
class HubClient:
    """huggingface_hub's client, for one push to one repository.

    Attributes:
        api: the client, with the user's token.
        repo_id: `namespace/name`.
    """

    api: HfApi
    repo_id: str

    @classmethod
    def log_in(cls, api: HfApi, repo_id: str, *, create_pr: bool = False) -> "HubClient":
        """Checks the token.

        Args:
            api: the client, with the user's token.
            repo_id: `namespace/name`, or a name in the user's own namespace.
            create_pr: whether a pull request is to be opened, or one changed that may be the user's own.

        Raises:
            HubError: if the token is refused or cannot write there.
        """

        def ask() -> str:
            account = api.whoami()
            own = f"{account['name']}/{repo_id.rpartition('/')[2]}"
            validate_repo_id(own)
            named = repo_id if "/" in repo_id else own
            require_write_permission(account, named, create_pr=create_pr)
            return named

        return cls(api, cls(api, repo_id)._call("ask who the token belongs to", ask))

    def follow(self, target: Target, *, create_pr: bool = False) -> "HubClient":
        """The client for the repository under the name that it has by now, if it has been renamed.

        Args:
            target: as it was looked up.
            create_pr: as for `log_in`.

        Raises:
            HubError: if the token cannot write where the repository has been moved to.
        """
        if target.repo_id == self.repo_id:
            return self
        logger.warning(
            "%s is called %s on the Hub by now: what is pushed goes there. Use that name.", self.repo_id, target.repo_id
        )
        return self.log_in(self.api, target.repo_id, create_pr=create_pr)

    def look_up(self, revision: str | None) -> Target:
        """What is in the repository now; under a former name of it, with the name that it has by now.

        Raises:
            HubError: if the Hub fails, or the revision cannot be committed to.
        """
        revision = revision or MAIN
        if _COMMIT.fullmatch(revision):
            raise HubError(f"{self.repo_id}: revision {revision!r} is a commit. Name a branch to push to.")
        main = self._call("look it up", self._main)
        if main is None:
            return Target(self.repo_id, revision)
        if revision == MAIN:
            return main
        if not PULL_REQUEST.fullmatch(revision):
            refs = self._call("list its branches", lambda: self.api.list_repo_refs(self.repo_id))
            if revision in [tag.name for tag in refs.tags]:
                raise HubError(f"{self.repo_id}: revision {revision!r} is a tag. Name a branch to push to.")
            if revision not in [branch.name for branch in refs.branches]:
                return replace(main, revision=revision, has_branch=False)
        return self._call("list its files", lambda: self._target(revision))

    def read(self, target: Target, path: str) -> bytes:
        """The content of a file, as it was when the repository was looked up.

        Raises:
            HubError: if the Hub fails, or the content is not what it tells of.
        """

        def download() -> bytes:  # without the cache, where damaged content would stay
            url = hf_hub_url(self.repo_id, path, revision=target.commit, endpoint=self.api.endpoint)
            answer = http_backoff("GET", url, headers=build_hf_headers(token=self.api.token))
            hf_raise_for_status(answer)
            return answer.content

        content = self._call(f"read {path}", download)
        if not target.has(path, content):
            raise HubError(f"{self.repo_id}: could not read {path}, what arrived is damaged. Repeat it.")
        return content

    def create(self, private: bool | None, revision: str | None) -> Target:
        """Creates the repository, and looks it up.

        Raises:
            HubError: if the Hub fails.
        """
        self._call("create the repository", lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True))
        target = self.look_up(revision)
        if not target.exists:
            raise HubError(f"{self.repo_id}: could not look it up, though it was created. Wait a moment and repeat.")
        return target

    def check_card(self, card: str) -> None:
        """Has the Hub check the front matter of a card.

        Raises:
            HubError: if it refuses it, or fails.
        """

        def check() -> None:
            body = {"content": card, "repoType": "model"}
            answer = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=body)
            if answer.status_code != 400:
                hf_raise_for_status(answer)
            errors = [str(error["message"]) for error in answer.json()["errors"]]
            if errors or answer.status_code == 400:
                raise ValueError(f"{_REFUSED_CARD} {'; '.join(errors)}")

        self._call("have the card checked", check)

    def commit(
        self,
        target: Target,
        added: Mapping[str, Path | bytes],
        deleted: Sequence[str],
        *,
        message: str,
        description: str | None,
        create_pr: bool,
    ) -> CommitInfo:
        """Uploads the files and makes one commit of them; a new branch is created last.

        Raises:
            HubError: if the Hub fails; nothing is in the repository then, unless only its answer was lost.
        """
        additions = [CommitOperationAdd(path, content) for path, content in sorted(added.items())]
        existing = target.revision if target.has_branch else MAIN
        if additions:
            self._call(
                "upload the files",
                lambda: self.api.preupload_lfs_files(
                    self.repo_id, additions=additions, revision=existing, create_pr=create_pr
                ),
                broken=(RuntimeError, PermissionError),  # of hf_xet
            )
        if not target.has_branch:
            self.create_branch(target)
        return self._call(
            "commit the files",
            lambda: self.api.create_commit(
                self.repo_id,
                [*additions, *(CommitOperationDelete(path) for path in deleted)],
                commit_message=message,
                commit_description=description,
                revision=target.revision,
                create_pr=create_pr,
                parent_commit=target.commit,
            ),
        )

    def create_branch(self, target: Target) -> None:
        """Creates the branch of a target from where main stood.

        Raises:
            HubError: if the Hub fails.
        """
        self._call(
            f"create the branch {target.revision!r}",
            lambda: self.api.create_branch(self.repo_id, branch=target.revision, revision=target.commit),
        )

    def _main(self) -> Target | None:
        try:
            return self._target(MAIN)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None

    def _target(self, revision: str) -> Target:
        limit = time_limits.ANSWER_SECONDS  # None would switch the session's limit off
        info = self.api.model_info(self.repo_id, revision=revision, files_metadata=True, timeout=limit)
        validate_repo_id(info.id)
        return Target.of(info.id, revision, info)

    def _call(self, action: str, call: Callable[[], T], broken: tuple[type[Exception], ...] = ()) -> T:
        with limited_time():
            return call_hub(action, self.repo_id, call, broken=broken, malformed=MALFORMED)
