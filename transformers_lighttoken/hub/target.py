"""What is in a repository before a push."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelInfo

MAIN = "main"


@dataclass(frozen=True)
class Target:
    """The state of the repository that a push starts from.

    Attributes:
        repo_id: `namespace/name`.
        revision: branch or pull request to commit to.
        exists: whether the repository is there.
        private: whether it is private.
        has_branch: whether the branch is there.
        commit: its last commit, or that of main where the branch is new; None for a repository that is not there.
        files: hash by path: SHA-256 of a large file, git's own of another.
    """

    repo_id: str
    revision: str = MAIN
    exists: bool = False
    private: bool = False
    has_branch: bool = False
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, repo_id: str, revision: str, info: ModelInfo) -> "Target":
        """The state that the Hub tells of."""
        files = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or []}
        known = {path: content_hash for path, content_hash in files.items() if content_hash}
        return cls(repo_id, revision, True, bool(info.private), True, info.sha, known)

    def has(self, path: str, content: Path | bytes) -> bool:
        """Whether a file is there with this content."""
        known = self.files.get(path, "")
        return known == (_sha256(content) if len(known) == 64 else _git_hash(content))


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash(content: Path | bytes) -> str:
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest()
