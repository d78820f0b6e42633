"""A push that breaks at any step says so in one line, leaves the repository as it was, and can be repeated."""

import copy
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.hub_store import Repo
from tests.push_faults import LIMIT_SECONDS, REPO, STEPS, change_weights, does_not_apply, push_with_fault, run_command
from transformers_lighttoken.hub import time_limits

EVERYWHERE = ("403", "503", "timeout", "lost_answer", "corrupt", "race")  # tests/benchmarks/push_faults.py has all
CASES = [(step, fault) for step in STEPS for fault in EVERYWHERE if not does_not_apply(step, fault)]
CASES += [("whoami", "401"), ("repo_info", "404"), ("create", "409"), ("lfs_upload", "429"), ("commit", "412")]


@pytest.fixture
def pushed(logged_in: HubServer, tiny: Path, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The repository after a first push; afterwards the folder holds another state, its weights in parts."""
    monkeypatch.setattr(time_limits, "ANSWER_SECONDS", LIMIT_SECONDS)
    logged_in.store.upload_part_bytes = 10_000
    assert run_command(["push", str(tiny), REPO])[0] == 0
    change_weights(tiny)
    return copy.deepcopy(logged_in.store.repos[REPO])


@pytest.mark.parametrize(("step", "fault"), CASES)
def test_fault_at_a_step(logged_in: HubServer, pushed: Repo, tiny: Path, step: str, fault: str):
    outcome = push_with_fault(logged_in, pushed, tiny, step, fault)
    assert outcome.fired >= 1
    assert outcome.is_told, outcome.message
    assert logged_in.write_token not in outcome.message
    carried_out = {("create", "lost_answer"): "empty", ("branch", "lost_answer"): "empty"}
    carried_out |= {("commit", "lost_answer"): "commit", ("commit", "race"): "race"}
    left = carried_out.get((step, fault), "nothing")
    if left == "race":  # what is left is the commit of somebody else
        assert outcome.after.history["main"][0] == "other work"
        assert outcome.repeated.history["main"][1:] == outcome.after.history["main"]
    else:
        assert outcome.left == left
        assert outcome.is_completed
    assert outcome.repeated_status == 0


def test_fault_at_the_commit_to_a_new_branch_leaves_an_empty_branch(logged_in, pushed: Repo, tiny: Path):
    logged_in.inject("commit", status=503)
    assert run_command(["push", str(tiny), REPO, "--revision", "v2"])[0] == 1
    there = logged_in.snapshot(REPO)
    assert there.files["v2"] == there.files["main"]
    assert run_command(["push", str(tiny), REPO, "--revision", "v2"])[0] == 0
    assert len(logged_in.snapshot(REPO).history["v2"]) == 3


def test_fault_before_the_commit_to_a_new_branch_leaves_no_branch(logged_in, pushed: Repo, tiny: Path):
    before = logged_in.snapshot(REPO)
    logged_in.inject("lfs_upload", status=503, times=None)
    assert run_command(["push", str(tiny), REPO, "--revision", "v2"])[0] == 1
    assert logged_in.snapshot(REPO) == before
