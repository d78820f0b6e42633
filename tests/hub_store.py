"""What the loopback Hub keeps: accounts, tokens, repositories with their history, and large files. No HTTP in here."""

import hashlib
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from string import ascii_letters

LARGE_FILE_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.onnx", "*.h5", "*.msgpack", "*.npz", "*.zip", "*.model")
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_FILE_PATTERNS).encode()
LARGEST_REGULAR_FILE = 10 * 1024 * 1024


class HubRefusal(Exception):
    """A request that the Hub answers with an error: HTTP status, message, `X-Error-Code`, more of the JSON body."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Token:
    """An access token: role `read`, `write` or `fineGrained`; the last one may write if it has `repo.write`."""

    user: str
    role: str
    permissions: tuple[str, ...] = ()

    @property
    def can_write(self) -> bool:
        return self.role == "write" or "repo.write" in self.permissions


@dataclass(frozen=True)
class StoredFile:
    """One version of a file; `sha256` is set for a large file (LFS) alone, `commit` is the one that wrote it."""

    data: bytes
    sha256: str | None
    commit: str

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def blob_id(self) -> str:
        content = self.data if self.sha256 is None else self.pointer
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit with the whole tree it leaves behind, path -> file."""

    id: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class RepoSnapshot:
    """The state that a reader of a repository sees; two are equal if nothing visible changed between them."""

    private: bool = False
    heads: dict[str, str] = field(default_factory=dict)  # "main", "v1", "refs/pr/1" -> commit id
    history: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the same names -> titles, newest first
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # the same names -> path -> content


@dataclass
class Repo:
    """A model repository: commits, the names that point to them, and its large files by sha256.

    A gated one shows its card's metadata and the list of its files to all who see it, but gives the files themselves to
    its owners and to `readers` alone.
    """

    id: str
    private: bool
    owner: str
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    proposals: dict[str, Commit] = field(default_factory=dict)  # pull request -> the commit that opened it
    large_files: dict[str, bytes] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        names = self.branches | self.tags | self.pull_requests
        commit_id = names.get(revision.removeprefix("refs/heads/"), revision)
        if commit_id not in self.commits:
            raise HubRefusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commit_id]

    def add_commit(
        self,
        branch: str,
        author: str,
        title: str,
        added: Mapping[str, tuple[bytes, str | None]],
        deleted: Iterable[str] = (),
        description: str = "",
        create_pr: bool = False,
    ) -> tuple[Commit, str]:
        """Adds one commit on `branch`, or on a new pull request from it; returns it and the ref that points to it."""
        refs, ref = self._where_to_commit(branch, create_pr)
        parent = self.resolve(branch).id if self.commits else None
        kept = dict(self.commits[parent].files) if parent else {}
        for path in deleted:
            del kept[path]
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, (data, _) in added.items())
        commit_id = hashlib.sha1(repr((len(self.commits), parent, title, content)).encode()).hexdigest()
        files = kept | {path: StoredFile(data, sha256, commit_id) for path, (data, sha256) in added.items()}
        commit = Commit(commit_id, parent, title, description, author, timestamp(), files)
        self.commits[commit_id] = commit
        refs[ref] = commit_id
        if create_pr:
            self.proposals[ref] = commit
        return commit, ref

    def _where_to_commit(self, branch: str, create_pr: bool) -> tuple[dict[str, str], str]:
        if create_pr:
            return self.pull_requests, f"refs/pr/{len(self.pull_requests) + 1}"
        if branch in self.pull_requests:
            return self.pull_requests, branch
        if self.branches and branch not in self.branches:
            raise HubRefusal(400, f"Cannot commit to {branch}: it is not a branch")
        return self.branches, branch

    def history(self, revision: str) -> list[Commit]:
        commits: list[Commit] = [self.resolve(revision)]
        while commits[-1].parent is not None:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def snapshot(self) -> RepoSnapshot:
        heads = self.branches | self.tags | self.pull_requests
        return RepoSnapshot(
            private=self.private,
            heads=dict(heads),
            history={name: tuple(commit.title for commit in self.history(name)) for name in heads},
            files={name: {path: file.data for path, file in self.resolve(name).files.items()} for name in heads},
        )


class HubStore:
    """Everything the Hub knows; requests hold `lock` while they work on it.

    `url` is the API's origin and `storage_url` that of the large files: another host, so that a client's token must
    not reach it. Large files above `upload_part_bytes` are uploaded in parts; `tree_page_size` rows make a page.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.url = self.storage_url = ""
        self.tree_page_size = 1000
        self.upload_part_bytes = 5 * 1024 * 1024
        self.signature = secrets.token_hex(16)  # makes storage addresses unguessable, as signed URLs are
        self.organisations: dict[str, dict[str, str]] = {}  # user -> organisation -> role in it
        self.tokens: dict[str, Token] = {}
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}  # former name of a repository -> its name now
        self.upload_parts: dict[tuple[str, str], dict[int, bytes]] = {}  # (repo, sha256) -> part number -> bytes

    def add_user(self, name: str, organisations: Mapping[str, str] | None = None) -> None:
        self.organisations[name] = dict(organisations or {})

    def issue_token(self, user: str, role: str = "write", permissions: Iterable[str] = ()) -> str:
        if user not in self.organisations or role not in ("read", "write", "fineGrained"):
            raise ValueError(f"no user {user!r} or no role {role!r}; roles are read, write and fineGrained.")
        token = "hf_" + "".join(secrets.choice(ascii_letters) for _ in range(34))
        self.tokens[token] = Token(user, role, tuple(permissions))
        return token

    def account(self, token: str | None) -> Token | None:
        if token is not None and token not in self.tokens:
            raise HubRefusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token] if token is not None else None

    def known_account(self, token: str | None) -> Token:
        account = self.account(token)
        if account is None:
            raise HubRefusal(401, "Invalid username or password.")
        return account

    def role_in(self, account: Token | None, namespace: str) -> str | None:
        if account is None:
            return None
        return "admin" if account.user == namespace else self.organisations[account.user].get(namespace)

    def readable_repo(self, repo_id: str, token: str | None) -> Repo:
        account = self.account(token)
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and self.role_in(account, repo.owner) is None):
            raise HubRefusal(404 if account else 401, "Repository not found", "RepoNotFound")
        return repo

    def readable_files(self, repo_id: str, token: str | None) -> Repo:
        """The repository, if the token may read the files in it."""
        repo, account = self.readable_repo(repo_id, token), self.account(token)
        if not repo.gated or self.role_in(account, repo.owner) or (account and account.user in repo.readers):
            return repo
        restricted = f"Access to model {repo_id} is restricted"
        if account is None:
            must = "You must have access to it and be authenticated to access it. Please log in."
            raise HubRefusal(401, f"{restricted}. {must}", "GatedRepo")
        visit = f"Visit {self.url}/{repo_id} to ask for access."
        raise HubRefusal(403, f"{restricted} and you are not in the authorized list. {visit}", "GatedRepo")

    def writable_repo(self, repo_id: str, token: str | None, create_pr: bool = False, revision: str = "") -> Repo:
        """The repository, if the token may commit to it.

        Anyone with a write token may open a pull request, and commit to those that are their own.
        """
        account = self.known_account(token)
        repo = self.readable_repo(repo_id, token)
        if not account.can_write:
            raise HubRefusal(403, "you must use a write token to upload to a repository.")
        is_own = revision in repo.proposals and repo.proposals[revision].author == account.user
        if not create_pr and not is_own and self.role_in(account, repo.owner) not in ("write", "admin"):
            raise HubRefusal(403, "pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def require_namespace(self, namespace: str, token: str | None, verb: str) -> Token:
        account = self.known_account(token)
        if not account.can_write or self.role_in(account, namespace) not in ("write", "admin"):
            message = f'You don\'t have the rights to {verb} a model under the namespace "{namespace}"'
            raise HubRefusal(403, message)
        return account

    def create_repo(self, repo_id: str, private: bool = False, gated: bool = False, author: str | None = None) -> Repo:
        namespace = repo_id.split("/")[0]
        self.renamed.pop(repo_id, None)
        repo = self.repos[repo_id] = Repo(repo_id, private, namespace, gated)
        repo.add_commit("main", author or namespace, "initial commit", {".gitattributes": (GIT_ATTRIBUTES, None)})
        return repo

    def rename_repo(self, former: str, repo_id: str) -> None:
        """Gives a repository another name; requests to the former one are redirected from then on."""
        repo = self.repos[repo_id] = self.repos.pop(former)
        repo.id, repo.owner = repo_id, repo_id.split("/")[0]
        self.renamed = {name: repo_id if now == former else now for name, now in self.renamed.items()}
        self.renamed[former] = repo_id


def is_large_file(repo_files: Mapping[str, StoredFile], path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub wants a file as LFS: by `.gitattributes`, by size, or because it is not text."""
    attributes = repo_files.get(".gitattributes")
    lines = attributes.data.decode().splitlines() if attributes else []
    patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
    name = path.rsplit("/", 1)[-1]
    return size > LARGEST_REGULAR_FILE or b"\0" in sample or any(fnmatch(name, pattern) for pattern in patterns)


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
