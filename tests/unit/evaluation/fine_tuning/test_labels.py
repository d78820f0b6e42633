"""Heads whose labels have another order than the task's are read, and trained, by the labels' names."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.unit.evaluation.fine_tuning.samples import sentence, write_rows
from transformers_lighttoken.evaluation.evaluate import evaluate_checkpoint
from transformers_lighttoken.evaluation.fine_tuning.labels import head_outputs
from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS

HEAD = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("task", "names", "outputs"),
    [
        ("mnli", ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], [2, 1, 0]),
        ("mnli", ["entailment", "neutral", "contradiction"], [0, 1, 2]),
        ("mnli", ["LABEL_0", "LABEL_1", "LABEL_2"], None),
        ("rte", ["not-entailment", "Entailment"], [1, 0]),
        ("sst2", ["POSITIVE", "NEGATIVE"], [1, 0]),
        ("mrpc", ["0", "1"], None),
    ],
)
def test_by_name(task: str, names: list[str], outputs: list[int] | None) -> None:
    config = {**HEAD, "id2label": {str(number): name for number, name in enumerate(names)}}
    assert head_outputs(config, TASKS[task]) == outputs
    assert head_outputs({**config, "architectures": ["BertModel"]}, TASKS[task]) is None


def test_unknown_names_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="transformers_lighttoken"):
        assert head_outputs({**HEAD, "id2label": {"0": "bad", "1": "good"}}, TASKS["sst2"]) is None
    assert "The labels ['bad', 'good'] of the head are not those of SST-2 (negative, positive)" in caplog.text


def test_every_task_of_classification_has_its_labels() -> None:
    for task in TASKS.values():
        assert len(task.labels) == (task.num_labels if task.kind == "classification" else 0)


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_permuted_head_gives_the_same_figures(epochs: int, model: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "validation_matched", "validation_mismatched"):
        texts = {name: [sentence(random) for _ in range(30)] for name in ("premise", "hypothesis")}
        write_rows(tmp_path / "data", "mnli", split, {**texts, "label": list(range(3)) * 10})
    names = ("entailment", "neutral", "contradiction")
    torch.manual_seed(3)
    head = AutoModelForSequenceClassification.from_pretrained(model, num_labels=3, id2label=dict(enumerate(names)))
    with torch.no_grad():
        head.classifier.weight.normal_()
    head.save_pretrained(model)
    settings = FineTuningSettings(epochs=epochs, device="cpu")

    def figures() -> list[float]:
        found = evaluate_checkpoint(model, "mnli", data=tmp_path / "data", settings=settings, output=tmp_path / "out")
        return [entry["value"] for entry in found["results"]]

    first = figures()
    order = [2, 0, 1]
    with torch.no_grad():
        head.classifier.weight.copy_(head.classifier.weight[order])
        head.classifier.bias.copy_(head.classifier.bias[order])
    head.config.id2label = {number: names[label].upper() for number, label in enumerate(order)}
    head.save_pretrained(model)
    assert figures() == pytest.approx(first)
    assert len(set(first)) > 1 or first[0] not in (0, 1)
