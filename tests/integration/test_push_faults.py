"""A push that breaks at any step says so in one line, leaves the repository as it was, and can be repeated."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import file_contents
from tests.hub_card_rules import front_matter
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
    push_without_fault,
    run_command,
)
from transformers_lighttoken.hub import time_limits
from transformers_lighttoken.hub.pictures import PATHS

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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_what_is_to_be_there_is_all_of_the_model(logged_in, pushed: Repo, tiny: Path, scenario: Scenario):
    own = file_contents(tiny)
    wanted = push_without_fault(logged_in, pushed, tiny, scenario)
    assert own.keys() == {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
    }
    assert wanted.keys() == {*own, *PATHS, ".gitattributes"}
    assert {path for path in own if wanted[path] != own[path]} == {"README.md"}
    card = wanted["README.md"].decode()
    assert (front_matter(card) or {})["license"] == "mit"
    assert f'from_pretrained("{scenario.repo_id}"' in card
    assert all(wanted[path].startswith(b"\x89PNG") and path in card for path in PATHS)


@pytest.mark.parametrize("missing", ["README.md", *PATHS, "config.json", "tokenizer.json", "vocab.txt", None])
def test_a_push_that_leaves_a_file_out_is_noticed(logged_in, pushed: Repo, tiny: Path, missing: str | None):
    outcome = push_with_fault(logged_in, pushed, tiny, FIRST, "commit", "lost_answer")
    assert (outcome.is_completed, outcome.left) == (True, "commit")
    for change in ({}, {missing: b"another"}) if missing else ({"left behind": b""},):
        files = {path: data for path, data in outcome.repeated.files["main"].items() if path != missing} | change
        state = replace(outcome.repeated, files={"main": files})
        assert not replace(outcome, repeated=state).is_completed
        assert replace(outcome, after=state).left == "half a push"


def test_message_of_another_fault_is_noticed(logged_in: HubServer, pushed: Repo, tiny: Path):
    outcome = push_with_fault(logged_in, pushed, tiny, AGAIN, "commit", "503")
    assert outcome.is_told
    for fault in ("500", "403", "timeout", "drop", "corrupt", "race"):
        assert not replace(outcome, fault=fault).is_told
    for step in ("whoami", "preupload", "validate_yaml"):
        assert not replace(outcome, step=step).is_told
    assert not replace(outcome, message="error: license is not known: none was found in any card").is_told


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
