"""What `evaluate_checkpoint` gives is what a model card reads."""

import json
from pathlib import Path

import pytest

from tests.checkpoints import SMALL, add_tokenizer, save_dense
from tests.unit.evaluation.fine_tuning.samples import sentence, write_glue, write_rows
from transformers_lighttoken.checkpoint.compress import compress_checkpoint
from transformers_lighttoken.checkpoint.compressed import read_compressed
from transformers_lighttoken.checkpoint.source import resolve_source
from transformers_lighttoken.evaluation.evaluate import evaluate_checkpoint
from transformers_lighttoken.evaluation.fine_tuning.runs import finite
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.names import ALL_TASKS
from transformers_lighttoken.evaluation.subject import Subject
from transformers_lighttoken.hub.results import read_results

QUICK = FineTuningSettings(epochs=1, device="cpu")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A dense checkpoint with a tokenizer, and the same compressed."""
    save_dense(tmp_path / "dense")
    add_tokenizer(tmp_path / "dense")
    compress_checkpoint(tmp_path / "dense", tmp_path / "compressed", SMALL)
    return tmp_path / "dense", tmp_path / "compressed"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_glue(tmp_path / "data", "stsb")


def test_a_card_reads_it(pair: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    dense, compressed = pair
    found = evaluate_checkpoint(
        compressed, ["stsb", "stsb-zero-shot"], data=data, baseline=dense, seeds=(0, 1), settings=QUICK,
        output=tmp_path / "out",
    )  # fmt: skip
    digest = read_compressed(compressed).config.digest
    assert digest
    assert found["digest"] == digest
    assert found["identity"] == Subject("compressed", resolve_source(compressed)).identity()
    results = read_results(found, found["identity"]).results
    assert [(r.task, r.metric, r.setting, r.runs) for r in results] == [
        ("STS-B", "pearson", "fine-tuned", 2),
        ("STS-B", "spearman", "fine-tuned", 2),
        ("STS-B", "spearman", "zero-shot", None),
    ]
    assert len(found["runs"]) == 4
    ours, theirs = ([run["metrics"]["pearson"] for run in found["runs"][half]] for half in (slice(2), slice(2, 4)))
    assert results[0].value == pytest.approx(sum(ours) / 2)
    assert results[0].dense == pytest.approx(sum(theirs) / 2)
    assert results[0].standard_error == pytest.approx(abs(ours[0] - ours[1]) / 2)
    assert found["baseline_is_source"] is True
    assert all(result.dense_is_source for result in results)
    with pytest.raises(ValueError, match="is of another model"):
        read_results(found, "0" * 64)


def test_a_baseline_that_was_not_compressed_is_known(pair: tuple[Path, Path], tmp_path: Path) -> None:
    dense, compressed = (Subject(path.name, resolve_source(path)) for path in pair)
    assert compressed.was_made_from(dense)
    assert not dense.was_made_from(dense)
    save_dense(pair[0], "electra")
    assert not compressed.was_made_from(Subject("other", resolve_source(pair[0])))


def test_a_dense_checkpoint_has_no_digest(pair: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    found = evaluate_checkpoint(pair[0], "stsb", data=data, settings=QUICK, output=tmp_path / "out")
    assert found["digest"] is None
    assert "dense" not in found["results"][0]
    assert found["results"][0]["standard_error_over"] == "rows"


@pytest.mark.parametrize(
    ("architecture", "task"), [("bert-mlm", "pseudo-perplexity"), ("llama-tied", "perplexity")]
)  # fmt: skip
def test_language_models_on_a_text(tmp_path: Path, architecture: str, task: str) -> None:
    import numpy as np

    save_dense(tmp_path / "dense", architecture)
    add_tokenizer(tmp_path / "dense")
    text = tmp_path / "text.txt"
    text.write_text(sentence(np.random.default_rng(0), 120))
    found = evaluate_checkpoint(tmp_path / "dense", task, data=text, baseline=tmp_path / "dense", max_tokens=90)
    entry = found["results"][0]
    assert entry["metric"] == task.replace("-", "_")
    assert 100 < entry["value"] < 260  # a random model knows 160 tokens
    assert entry["share"] == 1
    assert entry["tie"] is True
    assert entry["n"] <= 90
    with pytest.raises(ValueError, match="is of a dense model: its digest is null"):
        read_results(found, found["identity"])
    (result,) = read_results({**found, "digest": "sha256:0"}, found["identity"]).results
    assert result.value == entry["value"]


def test_a_model_without_a_language_model_head_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("word1 word2 " * 30)
    with pytest.raises(ValueError, match="lacks weights that BertForMaskedLM needs .* they would be random"):
        evaluate_checkpoint(pair[0], "pseudo-perplexity", data=tmp_path / "text.txt")


def test_unknown_tasks_and_no_seeds_are_refused(pair: tuple[Path, Path], data: Path) -> None:
    with pytest.raises(ValueError, match=rf"task must be one of {', '.join(ALL_TASKS)}, got 'glue'"):
        evaluate_checkpoint(pair[0], ["stsb", "glue"], data=data)
    with pytest.raises(ValueError, match="tasks must be of cola.*; none was given"):
        evaluate_checkpoint(pair[0], [], data=data)
    with pytest.raises(ValueError, match="seeds must be at least one integer"):
        evaluate_checkpoint(pair[0], "stsb", data=data, seeds=())
    with pytest.raises(ValueError, match=r"seeds must be .* distinct, got \[3, 3\]"):
        evaluate_checkpoint(pair[0], "stsb", data=data, seeds=(3, 3))


@pytest.mark.parametrize("fault", ["labels", "text", "no head", "dense"])
def test_nothing_is_trained_before_all_is_known_to_fit(
    fault: str, pair: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    write_glue(data, "cola")
    tasks = ["cola", "stsb"]
    if fault == "labels":
        tasks = ["stsb", "cola"]
        write_rows(data, "cola", "train", {"sentence": ["word1"] * 4, "label": [0, 1, 2, 3]})
    elif fault == "text":
        tasks = ["cola", "pseudo-perplexity"]
    elif fault == "no head":
        tasks = ["cola", "pseudo-perplexity"]
        (data / "wikitext2").mkdir()
        (data / "wikitext2" / "validation.txt").write_text("word1 word2 " * 40)
    else:
        (pair[0] / "tokenizer.json").unlink()
        (pair[0] / "vocab.txt").unlink()
    messages = {
        "labels": "row 2 has 2", "text": "wikitext2", "no head": "lacks weights that BertForMaskedLM", "dense": "token",
    }  # fmt: skip
    with pytest.raises((ValueError, OSError), match=messages[fault]):
        evaluate_checkpoint(pair[1], tasks, data=data, baseline=pair[0], settings=QUICK, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_json_has_not_are_left_out(tmp_path: Path) -> None:
    save_dense(tmp_path / "dense", "llama-tied")
    add_tokenizer(tmp_path / "dense")
    (tmp_path / "text.txt").write_text("word1 word2 word3 word4")
    found = evaluate_checkpoint(tmp_path / "dense", "perplexity", data=tmp_path / "text.txt")
    assert "standard_error" not in found["results"][0]  # of a single window
    json.dumps(found, allow_nan=False)
    assert finite({"a": [float("nan"), (1.5, float("inf"))], "b": "nan"}) == {"a": [None, [1.5, None]], "b": "nan"}
