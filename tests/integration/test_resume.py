"""A killed run goes on from its last finished stage, with the same bytes in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.checkpoints import add_tokenizer, file_contents
from tests.tiny_models import VOCAB
from transformers_lighttoken import LightTokenConfig
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.output import OutputError
from transformers_lighttoken.coding.reduction import CPU_BLOCK_ROWS

ROOT = Path(__file__).parents[2]
ROUNDS = "refinement rounds"


@pytest.fixture
def source(dense: Path) -> Path:
    add_tokenizer(dense)
    return dense


def go(source: Path, output: Path, config: dict[str, object], *moments: str, processes: int = 1) -> int:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    arguments = [str(source), str(output), json.dumps(config), *moments]
    command = [sys.executable, *launcher, "-m", "tests.integration.killed_runs", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert processes > 1 or done.returncode == 0, done.stderr[-4000:]
    return done.returncode


def steps_of(output: Path) -> list[list[object]]:
    return json.loads(output.with_name(output.name + "-steps.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith("-steps.json"))


@pytest.mark.parametrize(
    ("config", "moments", "first"),
    [
        # stages of 50 and 50 bits: rounds 1 to 3, 4 to 6, and 7 to 14 for both together
        ({"code_bits": 100}, [f"{ROUNDS}:{number}" for number in (2, 3, 4, 5, 6, 8)], [ROUNDS, 9]),
        ({"code_bits": 100}, ["writing (MiB):1"], ["writing (MiB)", 1]),
        (
            {"code_bits": 12, "num_stages": 3, "solver": "paper", "tiers": "equal"},
            ["autoencoder stages:1", "autoencoder stages:2"],
            ["autoencoder stages", 3],
        ),
    ],
)
def test_killed_runs_go_on_and_end_with_the_same_bytes(
    source: Path, output: Path, config: dict[str, object], moments: list[str], first: list[object]
) -> None:
    go(source, output, config, *moments, "end")
    assert steps_of(output)[0] == first
    compress_checkpoint(source, output.with_name("whole"), LightTokenConfig(**config))  # pyright: ignore
    assert file_contents(output) == file_contents(output.with_name("whole"))
    assert names(output.parent) == ["dense", "output", "whole"]


@pytest.mark.parametrize("settings", ["whole", "removed already"])
def test_a_run_killed_when_the_output_is_in_place_is_only_cleared_up(source: Path, output: Path, settings: str) -> None:
    go(source, output, {"code_bits": 8}, "in place")
    assert names(output.parent) == [".output.partial", "dense", "output"]
    if settings == "removed already":
        (output.parent / ".output.partial" / "state" / "settings.json").unlink()
    made = file_contents(output)
    with pytest.raises(OutputError, match="is not empty"):
        compress_checkpoint(source, output, LightTokenConfig(code_bits=8, seed=1))
    steps: list[tuple[str, int, int]] = []
    config = LightTokenConfig(code_bits=8)
    report = compress_checkpoint(source, output, config, progress=lambda *step: steps.append(step))
    assert steps == []
    assert report.tables[0].plan.code_bits == 8
    assert file_contents(output) == made
    assert names(output.parent) == ["dense", "output"]
    compress_checkpoint(source, output.with_name("whole"), config)
    assert made == file_contents(output.with_name("whole"))
    with pytest.raises(OutputError, match="is not empty"):
        compress_checkpoint(source, output, config)


def test_a_changed_source_is_refused_unless_started_afresh(source: Path, output: Path) -> None:
    go(source, output, {"code_bits": 8}, f"{ROUNDS}:2")
    before = (source / "model.safetensors").stat()
    content = bytearray((source / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (source / "model.safetensors").write_bytes(content)
    os.utime(source / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OutputError, match=r"\(the files of the source have changed\).*--restart"):
        compress_checkpoint(source, output, LightTokenConfig(code_bits=8))
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8), restart=True)
    assert names(output.parent) == ["dense", "output"]


def test_a_copied_source_is_the_same(source: Path, output: Path) -> None:
    go(source, output, {"code_bits": 8}, f"{ROUNDS}:2")
    source = source.rename(source.with_name("moved"))
    (source / "model.safetensors").touch()
    steps: list[tuple[str, int, int]] = []
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8), progress=lambda *step: steps.append(step))
    assert steps[0][:2] == (ROUNDS, 3)


def test_a_log_that_cannot_be_written_does_not_stop_the_run(
    source: Path, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").mkdir()
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8), log=tmp_path / "log")
    assert (output / "config.json").exists()
    told = [record.getMessage() for record in caplog.records if "log" in record.getMessage()]
    assert told == [f"The log {tmp_path / 'log'} cannot be written, and ends here: Is a directory."]


def test_other_settings_are_refused_unless_started_afresh(source: Path, output: Path) -> None:
    go(source, output, {"code_bits": 8}, f"{ROUNDS}:2")
    with pytest.raises(OutputError, match=r"stopped run with other settings \(seed was 0, is 1\).*--restart"):
        compress_checkpoint(source, output, LightTokenConfig(code_bits=8, seed=1))
    assert names(output.parent) == [".output.partial", "dense"]
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8, seed=1), restart=True)
    compress_checkpoint(source, output.with_name("whole"), LightTokenConfig(code_bits=8, seed=1))
    assert file_contents(output) == file_contents(output.with_name("whole"))
    assert names(output.parent) == ["dense", "output", "whole"]


def test_a_damaged_state_file_is_not_used(source: Path, output: Path) -> None:
    go(source, output, {"code_bits": 8}, f"{ROUNDS}:3")
    damaged = sorted((output.parent / ".output.partial" / "state").glob("*refinement*"))
    assert len(damaged) == 2
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    steps: list[tuple[str, int, int]] = []
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8), progress=lambda *step: steps.append(step))
    assert steps[0][:2] == (ROUNDS, 1)
    compress_checkpoint(source, output.with_name("whole"), LightTokenConfig(code_bits=8))
    assert file_contents(output) == file_contents(output.with_name("whole"))


def test_the_log_can_be_followed(source: Path, output: Path, tmp_path: Path) -> None:
    errors: list[float] = []

    def follow(what: str, done: int, total: int) -> None:
        if what == ROUNDS and done > 1:
            last = (tmp_path / "log").read_text().splitlines()[-1]
            assert f"{ROUNDS} {done - 1}/{total}, error " in last
            errors.append(float(last.split("error ")[1].split(",")[0]))

    report = compress_checkpoint(source, output, LightTokenConfig(code_bits=8), progress=follow, log=tmp_path / "log")
    assert errors[-1] == pytest.approx(report.tables[0].relative_error, rel=0.2)
    assert errors[0] > errors[-1]
    lines = (tmp_path / "log").read_text().splitlines()
    assert len([line for line in lines if "0 s left" in line and ROUNDS in line]) >= 1
    assert "writing (MiB) 1/1" in lines[-1]


def test_a_stopped_run_keeps_what_it_finished(source: Path, output: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_checkpoint(source, output, LightTokenConfig(code_bits=8), progress=stop)
    assert names(output.parent) == [".output.partial", "dense"]
    assert names(output.parent / ".output.partial") == ["lock", "state"]
    steps: list[tuple[str, int, int]] = []
    compress_checkpoint(source, output, LightTokenConfig(code_bits=8), progress=lambda *step: steps.append(step))
    assert steps[0][:2] == (ROUNDS, 5)


def test_ctrl_c_on_the_command_line(source: Path, output: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = ["--code-bits", "200", "--metric", "plain", "--log", str(tmp_path / "log")]
    command = [sys.executable, "-m", "transformers_lighttoken", "compress", str(source), str(output), *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130, told
    assert told.splitlines()[-1] == "stopped; the same command goes on from the last finished stage"
    assert not output.exists()
    assert names(output.parent / ".output.partial") == ["lock", "state"]


@pytest.mark.multiprocess
def test_two_processes_go_on_and_end_with_the_bytes_of_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=6000,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    )
    model.save_pretrained(tmp_path / "dense")
    assert VOCAB < CPU_BLOCK_ROWS < 6000  # several blocks of rows
    source, output, config = tmp_path / "dense", tmp_path / "output", {"code_bits": 100, "metric": "plain"}
    assert go(source, output, config, f"{ROUNDS}:4", processes=2) != 0  # inside the second stage
    assert names(tmp_path) == [".output.partial", "dense"]
    assert go(source, output, config, "end", processes=2) == 0
    assert steps_of(output)[0] == [ROUNDS, 5]
    compress_checkpoint(source, tmp_path / "whole", LightTokenConfig(**config))  # pyright: ignore
    assert file_contents(output) == file_contents(tmp_path / "whole")
    assert names(tmp_path) == ["dense", "output", "whole"]
