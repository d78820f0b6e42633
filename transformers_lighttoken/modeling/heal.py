"""heal_model: recovers what compression has cost, on generic text and without labels. Beyond the paper."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from ..coding.encode import Progress
from ..config import TRAINABLE_PARTS
from ..progress import progress_bars
from ..resuming import last_whole_checkpoint
from .distillation import DistillationTrainer, ProgressReporter, Windows, divergence
from .healing_text import healing_data, windows_of
from .sites import owners

SEQUENCE_TOKENS = 128
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.05, 16
_LOGITS_AT_ONCE = 2**26
_SAME_WEIGHTS = 1e-2
"""Relative difference of a weight up to which it is the same, in another dtype perhaps."""


@dataclass(frozen=True)
class HealingOptions:
    """How to heal.

    Attributes:
        steps: of the optimizer.
        batch_size: windows of text in a step.
        window: tokens in a window.
        learning_rate: of AdamW at its peak; it warms up, then falls to zero. Row scales move at a part of it.
        seed: of the order of the windows.
        save_steps: steps between checkpoints.
        parts: of the tables that move.
    """

    steps: int = 300
    batch_size: int = 8
    window: int = SEQUENCE_TOKENS
    learning_rate: float = 2e-3
    seed: int = 0
    save_steps: int = 25
    parts: tuple[str, ...] = TRAINABLE_PARTS

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "window", "save_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
        if not self.parts or not set(self.parts) <= set(TRAINABLE_PARTS):
            raise ValueError(f"parts must be some of {', '.join(TRAINABLE_PARTS)}, got {self.parts!r}.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must be between 0 and 1, got {self.learning_rate!r}.")


@dataclass(frozen=True)
class HealingResult:
    """What healing did.

    Attributes:
        divergence_before: from the dense model, on text that was not trained on (see `distillation.divergence`).
        divergence_after: the same afterwards.
        steps: of the optimizer.
        tokens: of text that were at hand to train on.
    """

    divergence_before: float
    divergence_after: float
    steps: int
    tokens: int


def heal_model(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: Any,
    text: str | Sequence[str],
    options: HealingOptions | None = None,
    *,
    run_folder: str | Path | None = None,
    progress: Progress | None = None,
) -> HealingResult:
    """Distils a dense model into its compressed form; only the compressed tables change.

    Args:
        model: compressed, in float32; changed in place.
        teacher: the dense model.
        tokenizer: of both.
        text: generic text, one string whose lines are passages, or a sequence of passages.
        options: how.
        run_folder: keeps checkpoints of the run; a run that finds some there goes on from the last, with the result of
            an uninterrupted one. None keeps none.
        progress: told of each step; a progress bar with the time left when None.

    Raises:
        ValueError: if the model is not compressed, the dense one or the tokenizer does not fit, or the text is short.
        TypeError: if the dense model does not run on token ids alone.
    """
    options = options or HealingOptions()
    _check_models(model, teacher)
    windows = windows_of(model, tokenizer, text, options.window)
    held_out = min(max(1, int(windows.shape[0] * _HELD_OUT_SHARE)), _MOST_HELD_OUT)
    training, testing = windows[held_out:], windows[:held_out]
    moving = _moving_parameters(model, options.parts)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    was_training = model.training
    try:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        teacher = teacher.to(model.device).eval()  # pyright: ignore[reportArgumentType]
        test = healing_data(model, tokenizer, testing)
        _check_runs(teacher, test)
        before = _mean_divergence(model, teacher, test)
        with progress_bars(progress) as report, tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch if run_folder is None else run_folder)
            data = healing_data(model, tokenizer, training)
            _train(model, teacher, data, options, folder, keep=run_folder is not None, progress=report)
        after = _mean_divergence(model, teacher, test)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
        model.train(was_training)
    return HealingResult(before, after, options.steps, training.numel())


def _train(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    data: Windows,
    options: HealingOptions,
    folder: Path,
    keep: bool,
    progress: Progress,
) -> None:
    size = min(options.batch_size, len(data))
    rows = max(owner.num_embeddings for owner in owners(model).values())
    micro = max(1, min(size, _LOGITS_AT_ONCE // (data.ids.shape[1] * rows)))
    while size % micro:
        micro -= 1
    arguments = TrainingArguments(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=size // micro,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, options.steps // 20),
        seed=options.seed,
        save_strategy="steps" if keep else "no",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
        use_cpu=model.device.type == "cpu",
    )
    set_seed(options.seed)
    trainer = DistillationTrainer(
        model, arguments, train_dataset=data, teacher=teacher, callbacks=[ProgressReporter(progress)]
    )
    trainer.remove_callback(PrinterCallback)
    last = last_whole_checkpoint(folder) if keep else None
    trainer.train(resume_from_checkpoint=str(last) if last else None)


def _moving_parameters(model: PreTrainedModel, parts: Sequence[str]) -> set[int]:
    """The identities of the parameters of some parts of the tables; latents are made where there are none."""
    moving: set[int] = set()
    for owner in owners(model).values():
        if owner.latents is None or not any(rounding.part in parts for rounding in owner.latents.roundings.values()):
            owner.train_parts(parts)
        if "exact_rows" in parts and owner.exact_rows.requires_grad:
            moving.add(id(owner.exact_rows))
        if (latents := owner.latents) is not None:
            chosen = [name for name, rounding in latents.roundings.items() if rounding.part in parts]
            moving |= {id(latents.get_parameter(name)) for name in chosen}
    if not moving:
        raise ValueError(f"parts {tuple(parts)} hold nothing that could move in the tables of this model.")
    return moving


def _check_models(model: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuses what is not compressed, what is, and a dense model that is not that of the compressed one."""
    held = owners(model)
    if not held:
        raise ValueError(f"model ({type(model).__name__}) has no compressed table: healing is for compressed models.")
    if owners(teacher):
        raise ValueError(f"teacher ({type(teacher).__name__}) is compressed itself: give the dense model.")
    weights = dict(teacher.named_parameters(remove_duplicate=False))
    for name, owner in held.items():
        expected = (owner.num_embeddings, owner.embedding_dim)
        found = weights.get(f"{name}.weight")
        if found is None or tuple(found.shape) != expected:
            what = "none" if found is None else f"one of {tuple(found.shape)}"
            raise ValueError(
                f"the compressed table {name!r} is {expected}, the dense model ({type(teacher).__name__}) has {what}: "
                "it is another model."
            )
    _check_same_body(model, teacher, list(held))


def _check_same_body(model: PreTrainedModel, teacher: PreTrainedModel, tables: list[str]) -> None:
    """Refuses a dense model whose other weights are not those of the compressed one."""
    ours = {name: value for name, value in model.named_parameters() if not _is_of_table(name, tables)}
    for name, theirs in teacher.named_parameters():
        own = ours.get(name)
        if own is None:
            continue
        known = theirs.detach().to(own.device, own.dtype)
        if own.shape != known.shape or (own.detach() - known).norm() > _SAME_WEIGHTS * known.norm():
            raise ValueError(
                f"the dense model's {name!r} is not that of the compressed one, which was made from another model, or "
                "has been trained since: give the dense model that it was made from, and heal before fine-tuning."
            )


def _check_runs(teacher: PreTrainedModel, data: Windows) -> None:
    batch = {key: value.unsqueeze(0).to(teacher.device) for key, value in data[0].items()}
    try:
        divergence(teacher, teacher, batch)
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"teacher ({type(teacher).__name__}) does not run on token ids alone, so it can't be healed on a text: "
            f"{error}"
        ) from error


def _mean_divergence(model: PreTrainedModel, teacher: PreTrainedModel, data: Windows) -> float:
    model.eval()
    total = 0.0
    with torch.no_grad():
        for index in range(len(data)):
            batch = {key: value.unsqueeze(0).to(model.device) for key, value in data[index].items()}
            total += float(divergence(model, teacher, batch))
    return total / len(data)


def _is_of_table(name: str, tables: list[str]) -> bool:
    return any(name.startswith(f"{table}.") for table in tables)
