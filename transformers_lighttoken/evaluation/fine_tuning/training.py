"""One run: a checkpoint with a new head, trained on a task with Trainer and measured."""

import contextlib
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from ...modeling.embedding import LightTokenEmbedding
from ...modeling.head import LightTokenView
from ...resuming import last_whole_checkpoint
from ..subject import Subject
from .preparation import Measured
from .settings import FineTuningSettings
from .tasks import Task

_HEADS = {
    "classification": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "question-answering": AutoModelForQuestionAnswering,
}


def load_for_task(subject: Subject, task: Task, settings: FineTuningSettings, tokenizer: Any, seed: int) -> Any:
    """The model with a head for the task, new where the checkpoint has none; the seed decides the new one.

    Raises:
        ValueError: if the checkpoint's own head is of another size, or is missing where nothing is to be trained.
    """
    set_seed(seed)
    options: dict[str, Any] = {}
    if task.kind != "question-answering":
        _check_head(subject, task)
        kind = "regression" if task.kind == "regression" else "single_label_classification"
        options = {"num_labels": task.num_labels, "problem_type": kind}
    model = subject.model(_HEADS[task.kind], needs_head=not settings.epochs, **options)
    if model.config.get_text_config().pad_token_id is None:
        model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(model.config, "summary_type", None) == "last":  # XLNet reads its last token, which is to be no padding
        tokenizer.padding_side = "left"
    if settings.table == "frozen":
        model.get_input_embeddings().requires_grad_(False)
    return model


def train_and_measure(
    model: Any,
    tokenizer: Any,
    train: Any,
    splits: Mapping[str, Measured],
    settings: FineTuningSettings,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Trains, going on from a checkpoint of Trainer's in the folder if there is one, and measures.

    Args:
        model: with its head; trained in place.
        tokenizer: pads the batches.
        train: features to train on; None where nothing is to be trained.
        splits: to measure on, each with what it adds to the names of the metrics.
        settings: filled in for the task.
        seed: of the order of rows and of dropout.
        folder: for Trainer's checkpoints, one an epoch; removed at the end.

    Returns:
        Plain JSON values: `metrics`, `row_standard_errors` and facts on the training.
    """
    started = time.perf_counter()
    arguments = _arguments(settings, len(train or ()), seed, folder)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer)
    )
    trainer.remove_callback(PrinterCallback)
    facts: dict[str, Any] = {"train_rows": len(train or ()), "table_parameters_trained": _trained_in_table(model)}
    with contextlib.redirect_stdout(sys.stderr):  # Trainer prints its logs
        if settings.epochs:
            resumed = last_whole_checkpoint(folder)
            outcome = trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
            facts |= {"steps": outcome.global_step, "training_loss": outcome.training_loss}
        trainer.args.train_sampling_strategy = "random"  # else Trainer predicts in another order than the rows
        metrics, errors, counts = {}, {}, {}
        for suffix, split in splits.items():
            figures = split.figures(trainer.predict(split.features).predictions)
            for found, new in zip((metrics, errors), figures, strict=True):
                found.update({name + suffix: value for name, value in new.items()})
            counts[suffix] = split.rows
    facts["seconds"] = round(time.perf_counter() - started, 1)
    shutil.rmtree(folder, ignore_errors=True)
    return {"metrics": metrics, "row_standard_errors": errors, "rows": list(counts.values()), **facts}


def _arguments(settings: FineTuningSettings, rows: int, seed: int, folder: Path) -> TrainingArguments:
    _, warmup = settings.steps(rows)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=float(settings.epochs or 0),
        learning_rate=float(settings.learning_rate or 0),
        per_device_train_batch_size=int(settings.batch_size or 1),
        per_device_eval_batch_size=2 * int(settings.batch_size or 1),
        warmup_steps=warmup,
        train_sampling_strategy="group_by_length",
        seed=seed,
        data_seed=seed,
        bf16=settings.precision == "bf16",
        use_cpu=settings.device == "cpu",
        logging_strategy="no",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=not transformers_logging.is_progress_bar_enabled(),
    )


def _check_head(subject: Subject, task: Task) -> None:
    config = subject.source.config
    heads = [name for name in config.get("architectures") or () if name.endswith("ForSequenceClassification")]
    labels = len(config.get("id2label") or {}) or 2
    if heads and labels != task.num_labels:
        raise ValueError(
            f"{subject.name} is a {heads[0]} with {labels} labels, task {task.name} has {task.num_labels}: give the "
            "model that it was made from, without this head."
        )


def _trained_in_table(model: Any) -> int:
    """How many numbers of the token-embedding table are trained."""
    table: nn.Module = model.get_input_embeddings()
    owner = table.owner if isinstance(table, LightTokenView) else table
    parameters = owner.parameters() if isinstance(owner, (LightTokenEmbedding, nn.Module)) else ()
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
