"""What is in a repository before a push."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelInfo

from ..checkpoint.identity import file_sha256

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
        files: hash by path: SHA-256 of a large file, git's own of another, empty where it is not told.
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
        """The state that the Hub tells of.

        Raises:
            ValueError: if what is told is not complete.
        """
        if not info.sha or info.siblings is None or info.private is None:
            raise ValueError("its commit, its files, or whether it is private is not told")
        files = {file.rfilename: (file.lfs.sha256 if file.lfs else file.blob_id) or "" for file in info.siblings}
        return cls(repo_id, revision, True, bool(info.private), True, info.sha, files)

    def has(self, path: str, content: Path | bytes) -> bool:
        """Whether a file is there with this content."""
        return has_hash(content, self.files.get(path, ""))


def has_hash(content: Path | bytes, known: str) -> bool:
    """Whether a content has a hash that the Hub names: SHA-256 of a large file, git's own of another."""
    return known == (sha256_of(content) if len(known) == 64 else _git_hash(content))


def sha256_of(content: Path | bytes) -> str:
    """SHA-256 of a content, in hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return file_sha256(content)


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
