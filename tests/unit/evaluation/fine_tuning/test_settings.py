"""Settings are checked where they are made, and filled in by the task."""

import pytest

from transformers_lighttoken.evaluation.fine_tuning.settings import FineTuningSettings
from transformers_lighttoken.evaluation.fine_tuning.tasks import TASKS, task_named


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", -1, "epochs must be at least 0 or None, got -1"),
        ("epochs", float("nan"), "epochs must be at least 0"),
        ("learning_rate", 0.0, "learning_rate must be positive or None, got 0.0"),
        ("batch_size", 0, "batch_size must be an integer of at least 1"),
        ("max_length", 7, "max_length must be an integer of at least 8 or None, got 7"),
        ("stride", -1, "stride must be an integer of at least 0"),
        ("train_rows", 2.5, "train_rows must be an integer of at least 1 or None, got 2.5"),
        ("table", "thawed", "table must be one of trained, frozen, got 'thawed'"),
        ("precision", "fp8", "precision must be one of fp32, bf16"),
        ("device", "tpu", "device must be one of auto, cpu"),
    ],
)
def test_wrong_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        FineTuningSettings(**{name: value})


def test_the_task_fills_in_what_is_not_said():
    filled = FineTuningSettings(epochs=1).of(TASKS["squad"])
    assert (filled.epochs, filled.learning_rate, filled.batch_size) == (1, 3e-5, 12)
    assert (filled.max_length, filled.stride) == (384, 128)
    short = FineTuningSettings().of(TASKS["squad"], longest=60)
    assert (short.max_length, short.stride) == (60, 20)
    assert FineTuningSettings().of(TASKS["mrpc"]).stride is None


def test_steps_and_warm_up():
    settings = FineTuningSettings(epochs=3, batch_size=32).of(TASKS["mrpc"])
    assert settings.steps(100) == (12, 1)
    assert settings.steps(3668) == (345, 21)


def test_every_task_of_glue_and_squad():
    assert list(TASKS) == ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "squad"]
    assert TASKS["mnli"].reported_metrics == (
        ("accuracy", "validation_matched"),
        ("accuracy_mismatched", "validation_mismatched"),
    )
    assert TASKS["qnli"].text_columns == ("question", "sentence")
    with pytest.raises(ValueError, match="task must be one of cola, sst2, .* squad, got 'ax'"):
        task_named("ax")
