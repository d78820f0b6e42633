"""Pushes that meet a fault at one of their steps: what the user is told, and what is left in the repository."""

import copy
import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoModel

from tests.hub_server import HubServer
from tests.hub_store import Repo, RepoSnapshot
from transformers_lighttoken.cli import main

REPO = "alice/tiny-lighttoken"
STEPS = (
    *("whoami", "repo_info", "refs", "validate_yaml", "create", "preupload", "batch", "lfs_upload"),
    *("lfs_complete", "verify", "branch", "commit"),
)
STATUSES = (401, 403, 404, 409, 412, 413, 429, 500, 503, 504)
MODES = ("timeout", "drop", "lost_answer", "corrupt", "race")
FAULTS = (*map(str, STATUSES), *MODES)
ONLY_AT = {"corrupt": "lfs_upload", "race": "commit"}
HELD_SECONDS, LIMIT_SECONDS = 0.3, 0.1  # of a connection that is held, and of the client


@dataclass(frozen=True)
class Outcome:
    """What became of a push that met a fault, and of the same push without it.

    Attributes:
        status: exit status of the command.
        message: its last line.
        traceback: whether it showed one.
        fired: how often the fault was met.
        before: the repository before.
        after: after the push that met the fault.
        repeated: after the repeated push.
        wanted: path -> content of the files that are to be there.
        repeated_status: exit status of the repeated command.
        branch: that was pushed to.
    """

    status: int
    message: str
    traceback: bool
    fired: int
    before: RepoSnapshot
    after: RepoSnapshot
    repeated: RepoSnapshot
    wanted: dict[str, bytes]
    repeated_status: int
    branch: str

    @property
    def is_told(self) -> bool:
        """Whether the user got one clear line."""
        return self.status == 1 and not self.traceback and self.message.startswith(f"error: {REPO}: could not ")

    @property
    def left(self) -> str:
        """What is left of the broken push: "nothing", an "empty" repository or branch, or the whole "commit"."""
        if self.after == self.before:
            return "nothing"
        contents = [set(files.items()) for files in self.after.files.values()]
        former = [set(files.items()) for files in self.before.files.values()] or [set()]
        if set(self.wanted.items()) <= set(self.after.files.get(self.branch, {}).items()):
            return "commit"
        if all(set(name for name, _ in content) <= {".gitattributes"} or content in former for content in contents):
            return "empty"
        return "half a push"

    @property
    def is_completed(self) -> bool:
        """Whether the repeated push put everything there, in one commit."""
        commits = len(self.repeated.history.get(self.branch, ())) - len(self.before.history.get("main", ("first",)))
        whole = set(self.wanted.items()) <= set(self.repeated.files.get(self.branch, {}).items())
        return self.repeated_status == 0 and whole and commits == 1


def does_not_apply(step: str, fault: str) -> bool:
    """Whether a fault cannot happen at a step."""
    return ONLY_AT.get(fault, step) != step


def push_with_fault(hub: HubServer, repo: Repo, folder: Path, step: str, fault: str) -> Outcome:
    """Pushes with a lasting fault, then without it.

    Args:
        hub: the server; its repositories are replaced.
        repo: the repository as an earlier push left it.
        folder: with another state of the model.
        step: where the fault is met: "create" in a new repository, "refs" and "branch" on a new branch.
        fault: an HTTP status or a mode of the server's faults.
    """
    hub.clear_faults()
    hub.store.repos = {} if step == "create" else {REPO: copy.deepcopy(repo)}
    branch = "v2" if step in ("refs", "branch") else "main"
    command = ["push", str(folder), REPO] + (["--revision", branch] if branch != "main" else [])
    before = hub.snapshot(REPO)
    how = {"status": int(fault)} if fault.isdigit() else {"mode": fault, "seconds": HELD_SECONDS}
    injected = hub.inject(step, times=1 if fault == "race" else None, **how)  # pyright: ignore[reportArgumentType]
    status, said = run_command(command)
    after = hub.snapshot(REPO)
    hub.clear_faults()
    repeated_status, _ = run_command(command)
    own = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del own["README.md"]
    lines = said.strip().splitlines() or [""]
    return Outcome(
        *(status, lines[-1], "Traceback" in said, injected.fired, before, after, hub.snapshot(REPO), own),
        *(repeated_status, branch),
    )


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Runs a command of `lighttoken` in this process: its exit status, and what it said on standard error."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    raise AssertionError("main returned")


def change_weights(folder: Path) -> None:
    """Changes a weight outside of the compressed table."""
    model = AutoModel.from_pretrained(folder)
    model.encoder.layer[0].output.dense.weight.data += 1
    model.save_pretrained(folder)
