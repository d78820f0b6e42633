"""Pushes that meet a fault at one of their steps: what the user is told, and what is left in the repository."""

import copy
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from transformers import AutoModel

from tests.hub_server import HubServer
from tests.hub_store import Repo, RepoSnapshot
from tests.push_messages import BASE, expected_line
from transformers_lighttoken.checkpoint.identity import checkpoint_identity
from transformers_lighttoken.cli import main
from transformers_lighttoken.hub.base_card import CARD

REPO = "alice/tiny-lighttoken"
STATUSES = (401, 403, 404, 409, 412, 413, 429, 500, 503, 504)
CARRIED_OUT = ("lost_answer", "truncate", "corrupt")  # the request is; its answer is not what was sent
MODES = ("timeout", "drop", *CARRIED_OUT, "race")
FAULTS = (*map(str, STATUSES), *MODES)
UPLOAD = ("preupload", "batch", "lfs_upload", "lfs_complete", "verify")


@dataclass(frozen=True)
class Scenario:
    """A push, and the steps that it takes.

    Attributes:
        name: for the table.
        steps: where faults are met.
        options: of the command.
        repo_id: where it goes.
        branch: where the files are to be found.
        is_new: whether the repository is created.
        needs_base_card: whether the base model's card lies on the Hub alone.
    """

    name: str
    steps: tuple[str, ...]
    options: tuple[str, ...] = ()
    repo_id: str = REPO
    branch: str = "main"
    is_new: bool = False
    needs_base_card: bool = False

    @property
    def makes(self) -> str | None:
        """The step that makes a repository or a branch, before there are files in it."""
        return "create" if self.is_new else "branch" if self.branch == "v2" else None


SCENARIOS = (
    Scenario("again", ("whoami", "repo_info", "download", "validate_yaml", *UPLOAD, "commit")),
    Scenario("new branch", ("refs", "preupload", "lfs_upload", "branch", "commit"), ("--revision", "v2"), branch="v2"),
    Scenario("first", ("whoami", "repo_info", "validate_yaml", "create", *UPLOAD, "commit"), is_new=True),
    Scenario("private", ("create", "lfs_upload", "commit"), ("--private",), is_new=True),
    Scenario("organisation", ("create", "lfs_upload", "commit"), repo_id="acme/tiny-lighttoken", is_new=True),
    Scenario("pull request", ("preupload", "lfs_upload", "commit"), ("--create-pr",), branch="refs/pr/1"),
    Scenario("base card", ("head", "download"), ("--base-model", BASE), is_new=True, needs_base_card=True),
)
# Nothing of these answers is read, so that a damaged one does no harm; "truncate": they have no body.
UNREAD = {
    "corrupt": ("lfs_complete", "verify", "branch", "head"),
    "truncate": ("lfs_upload", "head"),
}
OF_SOMEBODY_ELSE = "somebody.txt"  # what comes in between with the fault "race"
HELD_SECONDS, LIMIT_SECONDS = 0.3, 0.1  # of a connection that is held, and of the client


@dataclass(frozen=True)
class Outcome:
    """What became of a push that met a fault, and of the same push without it.

    Attributes:
        scenario: the push.
        step: where the fault was met.
        fault: an HTTP status or a mode of the server's faults.
        status: exit status of the command.
        message: its last line.
        traceback: whether it showed one.
        fired: how often the fault was met.
        before: the repository before.
        after: after the push that met the fault.
        repeated: after the repeated push.
        wanted: path -> content of all files that are to be there: those that the same push leaves that meets no fault.
        repeated_status: exit status of the repeated command.
    """

    scenario: Scenario
    step: str
    fault: str
    status: int
    message: str
    traceback: bool
    fired: int
    before: RepoSnapshot
    after: RepoSnapshot
    repeated: RepoSnapshot
    wanted: dict[str, bytes]
    repeated_status: int

    @property
    def is_told(self) -> bool:
        """Whether the user got the one line that tells of this fault."""
        of_base = self.scenario.needs_base_card and self.step in ("head", "download")
        line = expected_line(self.scenario.repo_id, self.step, self.fault, of_base)
        return self.status == 1 and not self.traceback and line.match(self.message) is not None

    @property
    def is_harmless(self) -> bool:
        """Whether the push went through all the same."""
        return self.status == 0 and self.left == "commit"

    @property
    def left(self) -> str:
        """What is left of the broken push: "nothing", an "empty" repository or branch, or the whole "commit"."""
        if self.after == self.before:
            return "nothing"
        contents = [set(files.items()) for files in self.after.files.values()]
        former = [set(files.items()) for files in self.before.files.values()] or [set()]
        if self._is_whole(self.after):
            return "commit"
        if all(set(name for name, _ in content) <= {".gitattributes"} or content in former for content in contents):
            return "empty"
        return (
            "race" if "other work" in {title for log in self.after.history.values() for title in log} else "half a push"
        )

    @property
    def is_completed(self) -> bool:
        """Whether the repeated push put everything there, in one commit, and privately if that was asked for."""
        commits = len(self.repeated.history.get(self.scenario.branch, ()))
        commits -= len(self.before.history.get("main", ("first",))) + (self.left == "race")
        as_asked = self.repeated.private == ("--private" in self.scenario.options)
        return self.repeated_status == 0 and self._is_whole(self.repeated) and commits == 1 and as_asked

    def _is_whole(self, state: RepoSnapshot) -> bool:
        files = dict(state.files.get(self.scenario.branch, {}))
        if self.fault == "race":
            files.pop(OF_SOMEBODY_ELSE, None)
        return files == self.wanted


def does_not_apply(step: str, fault: str) -> bool:
    """Whether a fault cannot happen at a step."""
    return fault == "race" and step != "commit"


def expected(scenario: Scenario, step: str, fault: str) -> str:
    """What a push may leave that meets a fault; "harmless" where it goes through."""
    if step in UNREAD.get(fault, ()):
        return "harmless"
    if fault == "race":
        return "race"
    if fault in CARRIED_OUT and step == "commit":
        return "commit"
    if scenario.makes is None:
        return "nothing"
    if step == scenario.makes:
        return "empty" if fault in CARRIED_OUT else "nothing"
    order = ("refs", *UPLOAD, "branch", "commit") if scenario.makes == "branch" else ("create", *UPLOAD, "commit")
    if (step, fault, scenario.makes) == ("repo_info", "404", "create"):
        return "empty"  # it is created, and cannot be seen even then
    return "empty" if step in order and order.index(step) > order.index(scenario.makes) else "nothing"


def push_with_fault(hub: HubServer, repo: Repo, folder: Path, scenario: Scenario, step: str, fault: str) -> Outcome:
    """Pushes with a lasting fault, then without it.

    Args:
        hub: the server; its repositories are replaced.
        repo: the repository as an earlier push left it.
        folder: with another state of the model; its card is that of the base model.
        scenario: the push.
        step: where the fault is met.
        fault: an HTTP status or a mode of the server's faults.
    """
    wanted = push_without_fault(hub, repo, folder, scenario)
    _start_from(hub, repo, scenario)
    command = ["push", str(folder), scenario.repo_id, *scenario.options]
    before = hub.snapshot(scenario.repo_id)
    how = {"status": int(fault)} if fault.isdigit() else {"mode": fault, "seconds": HELD_SECONDS}
    with base_card_on_the_hub(hub, folder) if scenario.needs_base_card else nullcontext():
        injected = hub.inject(step, times=1 if fault == "race" else None, **how)  # pyright: ignore[reportArgumentType]
        status, said = run_command(command)
        after = hub.snapshot(scenario.repo_id)
        hub.clear_faults()
        repeated_status, _ = run_command(command)
    lines = said.strip().splitlines() or [""]
    return Outcome(
        *(scenario, step, fault, status, lines[-1], "Traceback" in said, injected.fired, before, after),
        *(hub.snapshot(scenario.repo_id), wanted, repeated_status),
    )


_WANTED: dict[tuple[str, str], dict[str, bytes]] = {}
_ADDRESS = b"https://address-of-the-hub"  # each server has another port, and a card leads to its base model


def push_without_fault(hub: HubServer, repo: Repo, folder: Path, scenario: Scenario) -> dict[str, bytes]:
    """Path -> content of all files that a push leaves; it is made once for each state of the model."""
    key = (scenario.name, checkpoint_identity(folder))
    if key not in _WANTED:
        _start_from(hub, repo, scenario)
        with base_card_on_the_hub(hub, folder) if scenario.needs_base_card else nullcontext():
            status, said = run_command(["push", str(folder), scenario.repo_id, *scenario.options])
        if status != 0:
            raise RuntimeError(f"{scenario.name}: a push without a fault failed: {said}")
        files = hub.snapshot(scenario.repo_id).files[scenario.branch]
        _WANTED[key] = files | {CARD: files[CARD].replace(hub.url.encode(), _ADDRESS)}
    files = _WANTED[key]
    return files | {CARD: files[CARD].replace(_ADDRESS, hub.url.encode())}


def _start_from(hub: HubServer, repo: Repo, scenario: Scenario) -> None:
    hub.clear_faults()
    hub.store.repos = {} if scenario.is_new else {REPO: copy.deepcopy(repo)}
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)


@contextmanager
def base_card_on_the_hub(hub: HubServer, folder: Path) -> Iterator[None]:
    """Takes the base model's card out of the folder, and puts it on the Hub, meanwhile."""
    card = folder / "README.md"
    content = card.read_bytes()
    hub.store.create_repo(BASE)
    hub.commit(BASE, {"README.md": content})
    card.unlink()
    try:
        yield
    finally:
        card.write_bytes(content)


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
