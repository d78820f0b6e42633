"""`lighttoken evaluate`: its JSON, its exit status, its errors."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.checkpoints import SMALL, add_tokenizer
from tests.command_line import Result, run_command
from tests.unit.evaluation.fine_tuning.samples import write_glue, write_rows
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.hub.results import read_results


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(run_command, capfd)


@pytest.fixture
def dense(dense: Path) -> Path:
    add_tokenizer(dense)
    return dense


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_glue(tmp_path / "data", "mrpc")


def test_json_is_all_on_standard_output(run: Callable[..., Result], dense: Path, data: Path, tmp_path: Path) -> None:
    compress_checkpoint(dense, tmp_path / "compressed", SMALL)
    command = ["evaluate", tmp_path / "compressed", "--task", "mrpc", "--data", data, "--baseline", dense]
    command += ["--seed", 0, "--seed", 1, "--epochs", 1, "--batch-size", 8, "--device", "cpu", "--json"]
    first = run(*command)
    assert first.status == 0
    assert [(entry["metric"], entry["runs"]) for entry in first.json["results"]] == [("accuracy", 2), ("f1", 2)]
    assert first.json["settings"]["mrpc"]["batch_size"] == 8
    assert len(read_results(first.json, first.json["identity"]).results) == 2
    assert "MRPC, seed 1" in first.err
    second = run(*command)
    assert second.json == first.json
    assert "MRPC, seed" not in second.err  # found in ./lighttoken_evaluation
    table = run(*command[:-1])
    assert table.status == 0
    assert "MRPC," in table.out
    assert f"{first.json['results'][0]['value']:.4f}" in table.out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--task", "glue"], 2, "task must be one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, squad"),
        ([], 2, "--task"),
        (["--task", "mrpc", "--epochs", "-1"], 2, "epochs must be at least 0"),
        (["--task", "mrpc", "--data", "absent"], 2, "absent"),
        (["--task", "rte"], 1, "train.parquet does not exist"),
        (["--task", "mrpc", "--max-length", "400"], 1, "max_length must be at most 40 for this model, got 400"),
        (["--task", "perplexity"], 1, "validation.txt does not exist"),
        (["--task", "stsb"], 1, "lacks the column 'sentence2': task stsb needs sentence1, sentence2, label"),
        (["--task", "mrpc", "--baseline", "./absent"], 1, "there is no folder './absent'"),
    ],
)
def test_wrong_use_and_failures(
    run: Callable[..., Result], dense: Path, data: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    write_rows(data, "stsb", "train", {"sentence1": ["a"], "label": [1.0]})
    result = run("evaluate", dense, "--data", data, *arguments)
    assert result.status == status
    assert message in " ".join(result.err.replace("│", " ").split())
    assert not result.out
    assert not (tmp_path / "lighttoken_evaluation").exists()
    if status == 1:
        assert result.err.count("error: ") == 1


def test_without_the_hub_the_remedy_is_named(
    run: Callable[..., Result], dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("datasets.config"), "HF_HUB_OFFLINE", True)
    result = run("evaluate", dense, "--task", "wnli")
    assert result.status == 1
    assert "nyu-mll/glue (wnli, train) cannot be loaded from the Hub" in result.err
    assert "give a local folder as data" in result.err
