"""`lighttoken push`: results on standard output, one line on standard error, no token anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_card_rules import front_matter
from tests.hub_server import HubServer
from tests.push_faults import run_command
from transformers_lighttoken.checkpoint.identity import checkpoint_identity
from transformers_lighttoken.cli import main

REPO = "alice/tiny-lighttoken"


def test_in_a_process_of_its_own(hub: HubServer, tiny: Path, tmp_path: Path):
    command = [sys.executable, "-m", "transformers_lighttoken", "push", str(tiny), "acme/tiny", "--private", "--json"]
    environment = hub.environment(tmp_path / "home", hub.write_token)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = hub.snapshot("acme/tiny")
    assert there.private
    assert json.loads(done.stdout) == {
        "repo_id": "acme/tiny",
        "commit": there.heads["main"],
        "commit_url": f"{hub.url}/acme/tiny/commit/{there.heads['main']}",
        "pull_request_url": None,
    }
    assert hub.write_token not in done.stdout + done.stderr
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert hub.write_token.encode() not in kept + b"".join(there.files["main"].values())


def test_options_reach_the_card(logged_in: HubServer, tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    result = {"task": "own", "metric": "f1", "value": 0.5}
    (tmp_path / "a.json").write_text(json.dumps({"identity": checkpoint_identity(tiny), "results": [result]}))
    options = [
        "--license",
        "other",
        "--license-name",
        "my-terms",
        "--license-link",
        "https://a.b/c",
        "--message",
        "Mine",
    ]
    options += ["--base-model", "org/base", "--language", "en", "--language", "de", "--tag", "small"]
    options += ["--evaluation", str(tmp_path / "a.json"), "--revision", "v2"]
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["push", str(tiny), REPO, *options])
    assert ended.value.code == 0
    there = logged_in.snapshot(REPO)
    commit_url = f"{logged_in.url}/{REPO}/commit/{there.heads['v2']}"
    assert capfd.readouterr().out == f"{REPO} is at {commit_url}\n"
    assert there.history["v2"][0] == "Mine"
    card = there.files["v2"]["README.md"].decode()
    assert front_matter(card) == {
        "base_model": "org/base",
        "base_model_relation": "quantized",
        "language": ["en", "de"],
        "library_name": "transformers",
        "license": "other",
        "license_name": "my-terms",
        "license_link": "https://a.b/c",
        "pipeline_tag": "feature-extraction",
        "tags": ["lighttoken", "compressed", "small"],
    }
    assert "| own | f1 | 0.5000 |" in card


def test_pull_request_is_shown(logged_in: HubServer, tiny: Path, capfd: pytest.CaptureFixture[str]):
    assert run_command(["push", str(tiny), REPO])[0] == 0
    (tiny / "notes.txt").write_text("new\n")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(["push", str(tiny), REPO, "--create-pr"])
    assert capfd.readouterr().out == f"{REPO} is at {logged_in.url}/{REPO}/discussions/1\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{tiny}", "a/b/c"], 1, "error: repo_id must be a repository on the Hub (namespace/name): "),
        (["{tiny}/absent", REPO], 1, "error: there is no folder '{tiny}/absent'"),
        (["{tiny}", REPO, "--license", "x y"], 1, "error: license must be an identifier of the Hub"),
        (["{tiny}", "readers/x"], 1, "error: readers/x: could not write, alice has the role `read` in readers"),
        (["{tiny}", REPO, "--evaluation", "absent.json"], 2, "Usage: lighttoken push"),
        (["{tiny}"], 2, "Usage: lighttoken push"),
    ],
)
def test_wrong_use_and_failures(logged_in: HubServer, tiny: Path, arguments: list[str], status: int, message: str):
    got, said = run_command(["push", *(argument.format(tiny=tiny) for argument in arguments)])
    assert got == status
    assert said.startswith(message.format(tiny=tiny))
    assert len(said.splitlines()) == 1 or status == 2
    assert not logged_in.snapshot(REPO).heads
