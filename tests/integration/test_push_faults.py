"""A push that breaks at any step says so in one line, leaves the repository as it was, and can be repeated."""

import copy
from pathlib import Path

import pytest

from tests.hub_server import HubServer
from tests.hub_store import Repo
from tests.push_faults import (
    LIMIT_SECONDS,
    REPO,
    SCENARIOS,
    Scenario,
    change_weights,
    does_not_apply,
    expected,
    push_with_fault,
    run_command,
)
from transformers_lighttoken.hub import time_limits

# tests/benchmarks/push_faults.py has all
EVERYWHERE = ("lost_answer", "corrupt", "race")
CASES = [
    (scenario, step, fault)
    for scenario in SCENARIOS
    for step in scenario.steps
    for fault in EVERYWHERE + ("403", "503", "timeout", "truncate") * (scenario in SCENARIOS[:1])
    if not does_not_apply(step, fault)
]
AGAIN, _, FIRST, *_ = SCENARIOS
CASES += [(AGAIN, "whoami", "401"), (AGAIN, "repo_info", "404"), (AGAIN, "lfs_upload", "429"), (AGAIN, "commit", "412")]
CASES += [(FIRST, "create", "409"), (FIRST, "repo_info", "404")]


@pytest.fixture
def pushed(logged_in: HubServer, tiny: Path, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The repository after a first push; afterwards the folder holds another state, its weights in parts."""
    monkeypatch.setattr(time_limits, "ANSWER_SECONDS", LIMIT_SECONDS)
    logged_in.store.upload_part_bytes = 10_000
    assert run_command(["push", str(tiny), REPO])[0] == 0
    change_weights(tiny)
    return copy.deepcopy(logged_in.store.repos[REPO])


@pytest.mark.parametrize(("scenario", "step", "fault"), CASES, ids=[f"{s.name}-{at}-{fault}" for s, at, fault in CASES])
def test_fault_at_a_step(logged_in: HubServer, pushed: Repo, tiny: Path, scenario: Scenario, step: str, fault: str):
    outcome = push_with_fault(logged_in, pushed, tiny, scenario, step, fault)
    assert outcome.fired >= 1
    assert outcome.is_told or outcome.is_harmless, outcome.message
    assert logged_in.write_token not in outcome.message
    assert ("harmless" if outcome.is_harmless else outcome.left) == expected(scenario, step, fault)
    assert outcome.is_completed


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
