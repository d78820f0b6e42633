"""lighttoken compress-all: many checkpoints, past those that fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.checkpoints import SMALL, file_contents, save_dense, write_config
from tests.command_line import run_command
from tests.hub_server import HubServer
from tests.integration.sample_model import upload
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.compress_all import Job, _assigned, compress_all
from transformers_lighttoken.cli.compress_all import read_jobs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "bert", tmp_path / "gpt2"]
    save_dense(folders[0])
    save_dense(folders[1], "gpt2")
    return folders


def test_a_failure_does_not_stop_the_others(
    sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.txt"
    lines = ["# comment", f"{sources[0]} '{tmp_path}/out a' 4", f"{tmp_path}/absent {tmp_path}/out-b"]
    jobs.write_text("\n".join([*lines, "", f"{sources[1]} {tmp_path}/out-c 3"]))
    result = run_command(capfd, "compress-all", jobs, "--metric", "plain", "--json")
    assert result.status == 1
    facts = result.json
    assert (facts["done"], facts["skipped"], facts["failed"]) == (2, 0, 1)
    assert [job["status"] for job in facts["jobs"]] == ["done", "failed", "done"]
    assert "there is no folder" in facts["jobs"][1]["error"]
    assert facts["jobs"][0]["ratio_float32"] >= 4
    compress_checkpoint(sources[0], tmp_path / "alone", LightTokenConfig(4.0, metric="plain"))
    assert file_contents(tmp_path / "out a") == file_contents(tmp_path / "alone")
    assert not (tmp_path / "out-b").exists()
    again = run_command(capfd, "compress-all", jobs, "--metric", "plain")
    assert again.status == 1
    assert "0 done, 2 skipped, 1 failed" in again.out
    other = run_command(capfd, "compress-all", jobs, "--metric", "plain", "--seed", 1, "--json")
    assert [job["status"] for job in other.json["jobs"]] == ["failed"] * 3
    assert "is not empty" in other.json["jobs"][0]["error"]


def test_an_output_of_another_source_is_not_taken_for_this_one(
    sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs, config = tmp_path / "jobs.txt", ["--metric", "plain", "--json"]
    jobs.write_text(f"{sources[0]} {tmp_path}/out 4\n")
    assert run_command(capfd, "compress-all", jobs, *config).json["done"] == 1
    copied = shutil.copytree(sources[0], tmp_path / "copy")
    jobs.write_text(f"{copied} {tmp_path}/out 4\n")
    assert run_command(capfd, "compress-all", jobs, *config).json["skipped"] == 1
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)  # same names, shapes and sizes
    for source in (copied, sources[1]):
        jobs.write_text(f"{source} {tmp_path}/out 4\n")
        result = run_command(capfd, "compress-all", jobs, *config)
        assert result.status == 1
        assert "the same settings, but from another source" in result.json["jobs"][0]["error"]


def test_a_new_commit_is_another_source(
    hub_here: HubServer, hub_api: HfApi, sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    upload(hub_api, sources[0])
    jobs = tmp_path / "jobs.txt"
    jobs.write_text(f"alice/model {tmp_path}/out 4\n")
    assert run_command(capfd, "compress-all", jobs, "--metric", "plain", "--json").json["done"] == 1
    hub_here.log.clear()
    assert run_command(capfd, "compress-all", jobs, "--metric", "plain", "--json").json["skipped"] == 1
    assert not list(hub_here.log.of("download"))
    write_config(sources[0], my_own_key="second")
    upload(hub_api, sources[0])
    result = run_command(capfd, "compress-all", jobs, "--metric", "plain", "--json")
    assert "from another source or from alice/model before it changed" in result.json["jobs"][0]["error"]


def test_each_checkpoint_has_a_log(sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("\n".join(f"{source} {tmp_path}/out-{source.name} 4" for source in sources))
    run_command(capfd, "compress-all", jobs, "--metric", "plain", "--log", tmp_path / "logs")
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["out-bert.log", "out-gpt2.log"]
    for path in (tmp_path / "logs").iterdir():
        lines = path.read_text().splitlines()
        assert "refinement rounds 1/" in lines[0]
        assert "writing (MiB)" in lines[-1]
    same = [Job("a", "x/out", SMALL), Job("b", "y/out", SMALL)]
    with pytest.raises(ValueError, match="the same log 'y/out'"):
        compress_all(same, log=tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_ctrl_c_sums_up_what_was_finished(sources: list[Path], tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("\n".join(f"{sources[0]} {tmp_path}/out{number} 4" for number in range(20)))
    command = [
        sys.executable,
        "-m",
        "transformers_lighttoken",
        "compress-all",
        str(jobs),
        "--metric",
        "plain",
        "--json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stderr is not None
    while "done: " not in run.stderr.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 130
    facts = json.loads(out)
    assert 1 <= facts["done"] < 20
    assert facts["failed"] == 0
    assert len(facts["jobs"]) == facts["done"]
    assert not list(tmp_path.glob("out*/*.tmp"))


def test_a_source_that_cannot_even_be_looked_for_fails_alone(
    sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.txt"
    lines = [f"~no-such-user-here/model {tmp_path}/one", f"{sources[0]} {tmp_path}/two 4"]
    jobs.write_text("\n".join([*lines, f"{sources[0]} ~no-such-user-here/out 4"]))
    result = run_command(capfd, "compress-all", jobs, "--metric", "plain", "--json")
    assert result.status == 1
    assert [job["status"] for job in result.json["jobs"]] == ["failed", "done", "failed"]
    for number in (0, 2):
        assert "home directory" in result.json["jobs"][number]["error"]


def test_all_done_is_status_0(sources: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(f"source,output,ratio\n{sources[0]},{tmp_path}/out,4\n")
    result = run_command(capfd, "compress-all", jobs, "--metric", "plain")
    assert result.status == 0
    assert "1 done, 0 skipped, 0 failed" in result.out


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("jobs.txt", "a b 3 c", "line 1 .* has 4 fields: give SOURCE OUTPUT"),
        ("jobs.txt", "# nothing", "names no checkpoint"),
        ("jobs.txt", "'a b", "line 1 .* cannot be read"),
        ("jobs.csv", "source,ratio\na,3\n", "entry 1 .* has no output"),
        ("jobs.csv", "source,output,speed\na,b,3\n", r"unknown columns \['speed'\]"),
        ("jobs.json", "{}", "no JSON list"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        read_jobs(tmp_path / name)


def test_tables_and_lines_say_the_same(tmp_path: Path) -> None:
    expected = [{"source": "a b", "output": "c", "ratio": "3"}, {"source": "d", "output": "e"}]
    (tmp_path / "jobs.txt").write_text("'a b' c 3\nd e\n")
    (tmp_path / "jobs.csv").write_text("source,output,ratio\na b,c,3\nd,e,\n")
    (tmp_path / "jobs.tsv").write_text("output\tsource\tratio\nc\ta b\t3\ne\td\t\n")
    (tmp_path / "jobs.json").write_text(json.dumps(expected))
    for name in ("jobs.txt", "jobs.csv", "jobs.tsv", "jobs.json"):
        assert read_jobs(tmp_path / name) == expected


def test_two_jobs_with_one_output_are_refused() -> None:
    with pytest.raises(ValueError, match="the same output 'x/../out'"):
        compress_all([Job("a", "out", SMALL), Job("b", "x/../out", SMALL)])


def test_the_largest_come_first_and_loads_are_even() -> None:
    assert _assigned([5, 90, 40, 45, 1], 2) == [[1, 4], [3, 2, 0]]
    assert _assigned([0, 0, 0], 2) == [[0, 2], [1]]


@pytest.mark.multiprocess
def test_processes_share_the_jobs(sources: list[Path], tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    lines = [f"{source} {tmp_path}/out-{source.name} 4" for source in sources]
    jobs.write_text("\n".join([*lines, f"{tmp_path}/absent {tmp_path}/out-b"]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = ["-m", "transformers_lighttoken", "compress-all", str(jobs), "--metric", "plain", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert [job["status"] for job in facts["jobs"]] == ["done", "done", "failed"]
    for source in sources:
        compress_checkpoint(source, tmp_path / "alone" / source.name, LightTokenConfig(4.0, metric="plain"))
        assert file_contents(tmp_path / f"out-{source.name}") == file_contents(tmp_path / "alone" / source.name)
