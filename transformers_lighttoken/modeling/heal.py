"""heal_model: recovers what compression has cost, on generic text and without labels. Beyond the paper."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..coding.encode import Progress
from ..progress import progress_bars
from ..resuming import last_whole_checkpoint
from .calibration import special_frame
from .distillation import DistillationTrainer, ProgressReporter, Windows, divergence
from .positions import longest_input
from .sites import owners
from .tokens import check_tokenizer

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
        learning_rate: of AdamW at its peak; it warms up, then falls to zero.
        seed: of the order of the windows.
        save_steps: steps between checkpoints.
    """

    steps: int = 300
    batch_size: int = 8
    window: int = SEQUENCE_TOKENS
    learning_rate: float = 1e-3
    seed: int = 0
    save_steps: int = 25

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "window", "save_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
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
    held = _checked_tables(model, teacher)
    windows = _windows(model, tokenizer, text, options)
    held_out = min(max(1, int(windows.shape[0] * _HELD_OUT_SHARE)), _MOST_HELD_OUT)
    training, testing = windows[held_out:], windows[:held_out]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    was_training = model.training
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_is_of_table(name, held) and (flags[name] or ".latents." in name))
        teacher = teacher.to(model.device).eval()  # pyright: ignore[reportArgumentType]
        test = _dataset(model, tokenizer, testing)
        _check_runs(teacher, test)
        before = _mean_divergence(model, teacher, test)
        with progress_bars(progress) as report, tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch if run_folder is None else run_folder)
            data = _dataset(model, tokenizer, training)
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


def _checked_tables(model: PreTrainedModel, teacher: PreTrainedModel) -> list[str]:
    """The names of the compressed tables."""
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
    for owner in held.values():
        if owner.latents is None:
            owner.train_parts(model.config.quantization_config.trained_parts or ("decoder", "row_scales", "exact_rows"))
    return list(held)


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


def _windows(model: PreTrainedModel, tokenizer: Any, text: str | Sequence[str], options: HealingOptions) -> Tensor:
    """(n, t) int64 token ids, each window framed as the tokenizer frames a text."""
    rows = min(owner.num_embeddings for owner in owners(model).values())
    check_tokenizer(tokenizer, rows)
    passages = [line for line in (text.splitlines() if isinstance(text, str) else text) if line.strip()]
    if not passages:
        raise ValueError("text is empty: give some pages of ordinary text.")
    ids = [
        token
        for part in tokenizer([f"{line}\n" for line in passages], add_special_tokens=False)["input_ids"]
        for token in part
    ]
    if not ids:
        raise ValueError("text holds no token that the tokenizer knows: give some pages of ordinary text.")
    if max(ids) >= rows:
        raise ValueError(
            f"the tokenizer gives the id {max(ids)}, the compressed table has {rows} rows: it is another model's."
        )
    before, after = special_frame(tokenizer)
    most = min(options.window, longest_input(model, tokenizer) or options.window)
    inner = most - len(before) - len(after)
    if inner < 1:
        raise ValueError(f"window must leave room for text, got {most} tokens with {len(before) + len(after)} special.")
    if len(ids) < 2 * inner:
        raise ValueError(
            f"text has {len(ids)} tokens, two windows of {inner} are the least (one to train on, one to measure on): "
            "give some pages of ordinary text."
        )
    windows = torch.tensor(ids[: len(ids) // inner * inner]).view(-1, inner)
    frame = [torch.tensor(part, dtype=torch.long).expand(len(windows), -1) for part in (before, after)]
    return torch.cat([frame[0], windows, frame[1]], dim=1)


def _dataset(model: PreTrainedModel, tokenizer: Any, ids: Tensor) -> Windows:
    name = getattr(model, "dense_class", type(model)).__name__
    masked = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() or name.endswith("ForPreTraining")
    mask_token_id = tokenizer.mask_token_id if masked else None
    start = None
    if model.config.is_encoder_decoder:
        start = getattr(model.config, "decoder_start_token_id", None)
        start = start if start is not None else tokenizer.pad_token_id or 0
    return Windows(ids, mask_token_id, list(tokenizer.all_special_ids), start)


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
